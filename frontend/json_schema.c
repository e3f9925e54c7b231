/* `mpcc schema`: the table of keys as JSON Schema (draft 2020-12), for editors. What the table says of a
 * key is said here: type, words, range, default; rules between keys are not. A value may always be an
 * $expression. Sections become definitions, a section with TYPE rows becomes one of its types. Keys that
 * frontend code checks itself (RAW) have their shape in the list below, or any. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/frontend.h"

typedef struct {
  Text *out;
  const SchemaRow *row;
  int n;
} Writer;

#define EXPRESSION "{\"type\":\"string\",\"pattern\":\"\\\\$\"}"
#define REF(name) "{\"$ref\":\"#/$defs/" name "\"}"
#define LIST(item) "{\"type\":\"array\",\"items\":" item "}"
#define MAP(item) "{\"type\":\"object\",\"additionalProperties\":" item "}"
#define LAYERS LIST(REF("layer_item"))
#define EITHER(a, b) "{\"anyOf\":[" a "," b "]}"

static const struct {
  const char *section, *key, *schema;
} raw[] = {
    {"", "model", REF("model")},
    {"", "loss", EITHER(REF("loss"), LIST(REF("loss")))},
    {"", "metrics", LIST(REF("metric"))},
    {"", "extends", "{\"type\":\"string\"}"},
    {"", "params", MAP("{\"type\":[\"number\",\"string\",\"boolean\"]}")},
    {"model", "inputs", MAP(REF("input"))},
    {"model", "blocks", MAP(REF("block"))},
    {"model", "layers", LAYERS},
    {"block", "layers", LAYERS},
    {"residual", "residual", EITHER(LAYERS, REF("residual_body"))},
    {"residual body", "body", LAYERS},
    {"residual body", "shortcut", LAYERS},
    {"parallel", "parallel", REF("parallel_body")},
    {"parallel body", "branches", LIST(LAYERS)},
    {"data", "val", EITHER(REF("data_split"), REF("data_source"))},
    {"data", "transforms", EITHER(REF("data_transforms"), LIST(REF("transform")))},
    {"every optimizer", "param_groups", LIST("{\"type\":\"object\"}")},
    {"trainer", "fast_dev_run", "{\"type\":[\"boolean\",\"integer\"]}"},
    {"trainer", "max_time", "{\"type\":[\"string\",\"integer\"]}"},
};

/* ---- names ---- */

/* Definitions have the sections' names, spaces as _. */
static void put_name(Writer *w, const char *section) {
  for (; *section; section++)
    text_printf(w->out, "%c", *section == ' ' ? '_' : *section);
}

static void put_ref(Writer *w, const char *section) {
  text_puts(w->out, "{\"$ref\":\"#/$defs/");
  put_name(w, section);
  text_puts(w->out, "\"}");
}

static bool has_section(const Writer *w, const char *section) {
  for (int i = 0; i < w->n; i++)
    if (!strcmp(w->row[i].section, section))
      return true;
  return false;
}

/* "SECTION key" of a row's arg: the section in buffer; the key or NULL. */
static const char *split(const Writer *w, const char *arg, char section[80]) {
  const char *space = strrchr(arg, ' ');
  bool whole = has_section(w, arg) || !space;
  snprintf(section, 80, "%.*s", whole ? 79 : (int)(space - arg), arg);
  return whole ? NULL : space + 1;
}

/* ---- values ---- */

/* Words of a list up to `;` as an enum; `true` when there were any. */
static bool put_words(Writer *w, const char *list, const char *before) {
  bool any = false;
  for (const char *p = list + strspn(list, " "); *p && *p != ';'; p += strspn(p, " ")) {
    size_t n = strcspn(p, " ;");
    const char *quote = n == 4 && !strncmp(p, "null", n) ? "" : "\"";
    text_printf(w->out, "%s%s%.*s%s", any ? "," : before, quote, (int)n, p, quote);
    p += n;
    any = true;
  }
  if (any)
    text_puts(w->out, "]}");
  return any;
}

/* "[lo, hi)", ">= lo" as bounds. */
static void put_range(Writer *w, const char *range) {
  if (!*range)
    return;
  if (*range == '>') {
    bool equal = range[1] == '=';
    text_printf(w->out, ",\"%s\":%g", equal ? "minimum" : "exclusiveMinimum",
                strtod(range + 1 + equal, NULL));
    return;
  }
  if (*range != '[' && *range != '(')
    return;
  char *p;
  double lo = strtod(range + 1, &p), hi = strtod(p + 1, &p);
  text_printf(w->out, ",\"%s\":%g,\"%s\":%g", *range == '[' ? "minimum" : "exclusiveMinimum", lo,
              strchr(p, ']') ? "maximum" : "exclusiveMaximum", hi);
}

/* A number; 1e-4 is text for YAML readers that follow YAML 1.1. */
static void put_number(Writer *w, const SchemaRow *r, bool whole) {
  text_printf(w->out, "{\"type\":\"%s\"", whole ? "integer" : "number");
  put_range(w, r->range);
  text_puts(w->out, "}," EXPRESSION);
  if (!whole)
    text_puts(w->out, ",{\"type\":\"string\",\"pattern\":\"^[-+]?[0-9.]+[eE][-+]?[0-9]+$\"}");
}

static void put_value(Writer *w, const SchemaRow *r);

/* What stands between the brackets of anyOf. */
static void put_choices(Writer *w, const SchemaRow *r) {
  char section[80];
  const char *key;
  bool ints = r->type == KT_INTS;
  switch (r->type) {
  case KT_BOOL:
  case KT_IDLE:
    text_puts(w->out, "{\"type\":\"boolean\"}," EXPRESSION);
    put_words(w, r->arg, ",{\"enum\":[");
    break;
  case KT_INT:
  case KT_FLOAT:
  case KT_NUMBER:
    put_number(w, r, r->type == KT_INT);
    put_words(w, r->arg, ",{\"enum\":[");
    break;
  case KT_WORD:
    if (put_words(w, r->arg, "{\"enum\":["))
      text_puts(w->out, ",");
    text_puts(w->out, EXPRESSION);
    break;
  case KT_INTS:
  case KT_FLOATS:
    put_number(w, r, ints);
    text_puts(w->out, ",{\"type\":\"array\",\"items\":{\"anyOf\":[");
    put_number(w, r, ints);
    text_puts(w->out, "]}}");
    if (strchr(r->arg, ' '))
      put_words(w, strchr(r->arg, ' '), ",{\"enum\":[");
    break;
  case KT_STRS:
    text_puts(w->out, "{\"type\":[\"string\",\"number\"]}," LIST("{\"type\":[\"string\",\"number\"]}"));
    break;
  case KT_WORDS:
    text_puts(w->out, MAP("{\"type\":[\"string\",\"array\"]}"));
    break;
  case KT_SECTION:
    key = split(w, r->arg, section);
    put_ref(w, section);
    if (key) {
      text_puts(w->out, ",");
      put_value(w, schema_find(NULL, section, key));
    }
    break;
  case KT_VARIANT:
    split(w, r->arg, section);
    put_ref(w, section);
    break;
  case KT_VARIANTS:
  case KT_SECTIONS:
    split(w, r->arg, section);
    text_puts(w->out, "{\"type\":\"array\",\"items\":");
    put_ref(w, section);
    text_puts(w->out, "}");
    break;
  default:
    text_puts(w->out, "{\"type\":[\"string\",\"number\",\"boolean\"]}");
  }
  if (r->otherwise && !strcmp(r->otherwise, "null"))
    text_puts(w->out, ",{\"type\":\"null\"}");
}

static void put_value(Writer *w, const SchemaRow *r) {
  const char *shape = NULL;
  text_puts(w->out, "{");
  for (size_t i = 0; r->type == KT_RAW && i < sizeof raw / sizeof *raw; i++)
    if (!strcmp(raw[i].section, r->section) && !strcmp(raw[i].key, r->key))
      shape = raw[i].schema;
  if (r->type != KT_RAW || shape) {
    text_puts(w->out, "\"anyOf\":[");
    if (shape)
      text_printf(w->out, "%s%s", shape,
                  r->otherwise && !strcmp(r->otherwise, "null") ? ",{\"type\":\"null\"}" : "");
    else
      put_choices(w, r);
    text_puts(w->out, "]");
  }
  if (*r->doc) {
    text_puts(w->out, r->type != KT_RAW || shape ? ",\"description\":" : "\"description\":");
    text_json(w->out, r->doc);
  }
  text_puts(w->out, "}");
}

/* ---- sections ---- */

/* Members of `section`, each behind a comma when `more`; whether there was one or `more`. */
static bool put_members(Writer *w, const char *section, bool more) {
  for (int i = 0; i < w->n; i++) {
    const SchemaRow *r = &w->row[i];
    if (strcmp(r->section, section) || (r->type == KT_LATER && !r->otherwise) || r->type == KT_TYPE)
      continue;
    text_puts(w->out, more ? "," : "");
    text_json(w->out, r->key);
    text_puts(w->out, ":");
    if (r->type == KT_LATER)
      text_printf(w->out, "{\"enum\":[%s]}", r->otherwise);
    else
      put_value(w, r);
    more = true;
  }
  return more;
}

/* Keys that must be given, but for `but`. */
static void put_required(Writer *w, const char *section, const char *but) {
  bool any = false;
  for (int i = 0; i < w->n; i++) {
    const SchemaRow *r = &w->row[i];
    if (strcmp(r->section, section) || r->otherwise || r->type == KT_TYPE || r->type == KT_LATER ||
        !strcmp(r->key, but))
      continue;
    text_puts(w->out, any ? "," : ",\"required\":[");
    text_json(w->out, r->key);
    any = true;
  }
  if (any)
    text_puts(w->out, "]");
}

static const char closed[] = "},\"patternProperties\":{\"^x-\":true},\"additionalProperties\":false";

static void put_section(Writer *w, const char *section) {
  put_name(w, section);
  text_puts(w->out, "\":{\"type\":\"object\",\"properties\":{");
  put_members(w, section, false);
  text_puts(w->out, closed);
  put_required(w, section, "");
  text_puts(w->out, "}");
}

/* One type of a kind: {type: T, ...} or {T: main argument, ...}. */
static void put_type(Writer *w, const SchemaRow *type) {
  char arguments[160], every[100];
  const char *kind = type->section, *type_key = strcmp(kind, "data source") ? "type" : "format";
  snprintf(arguments, sizeof arguments, "%s %s", kind, type->key);
  snprintf(every, sizeof every, "every %s", kind);
  const SchemaRow *main_row = *type->arg ? schema_find(NULL, arguments, type->arg) : NULL;
  put_name(w, arguments);
  text_printf(w->out, "\":{\"type\":\"object\",\"properties\":{\"%s\":{\"const\":\"%s\"}", type_key,
              type->key);
  if (strcmp(type->key, type_key)) {
    text_printf(w->out, ",\"%s\":", type->key);
    if (main_row) {
      text_puts(w->out, "{\"anyOf\":[");
      put_value(w, main_row);
      text_puts(w->out, ",{\"type\":\"null\"}]}");
    } else {
      text_puts(w->out, "{\"type\":\"null\"}");
    }
  }
  put_members(w, arguments, true);
  put_members(w, every, true);
  text_puts(w->out, closed);
  text_printf(w->out, ",\"anyOf\":[{\"required\":[\"%s\"]},{\"required\":[\"%s\"]}]", type_key,
              type->key);
  put_required(w, arguments, type->arg);
  text_puts(w->out, ",\"description\":");
  text_json(w->out, type->doc);
  text_puts(w->out, "}");
}

/* A kind: a bare word, or one of its types. */
static void put_kind(Writer *w, const char *kind) {
  bool any = false;
  put_name(w, kind);
  text_puts(w->out, "\":{\"anyOf\":[{\"enum\":[");
  for (int i = 0; i < w->n; i++)
    if (!strcmp(w->row[i].section, kind) && w->row[i].type == KT_TYPE) {
      text_printf(w->out, "%s\"%s\"", any ? "," : "", w->row[i].key);
      any = true;
    }
  text_puts(w->out, "]}");
  for (int i = 0; i < w->n; i++)
    if (!strcmp(w->row[i].section, kind) && w->row[i].type == KT_TYPE) {
      char name[160];
      snprintf(name, sizeof name, "%s %s", kind, w->row[i].key);
      text_puts(w->out, ",");
      put_ref(w, name);
    }
  text_puts(w->out, "]}");
  for (int i = 0; i < w->n; i++)
    if (!strcmp(w->row[i].section, kind) && w->row[i].type == KT_TYPE) {
      text_puts(w->out, ",\n\"");
      put_type(w, &w->row[i]);
    }
}

static bool is_kind(const Writer *w, const char *section) {
  for (int i = 0; i < w->n; i++)
    if (!strcmp(w->row[i].section, section) && w->row[i].type == KT_TYPE)
      return true;
  return false;
}

/* Arguments of a type, or shared ones: part of other definitions. */
static bool is_part(const Writer *w, const char *section) {
  if (!strncmp(section, "every ", 6))
    return true;
  for (int i = 0; i < w->n; i++) {
    const SchemaRow *r = &w->row[i];
    size_t n = strlen(r->section);
    if (r->type == KT_TYPE && !strncmp(section, r->section, n) && section[n] == ' ' &&
        !strcmp(section + n + 1, r->key))
      return true;
  }
  return false;
}

void frontend_json_schema(Text *out) {
  Writer w = {.out = out};
  w.row = schema_rows(&w.n);
  text_puts(out, "{\"$schema\":\"https://json-schema.org/draft/2020-12/schema\",\n"
                 "\"title\":\"mpcc spec, version 1\",\n\"type\":\"object\",\"properties\":{");
  for (int i = 0; i < w.n; i++)
    if (!*w.row[i].section)
      text_printf(out, "%s\"%s\":true", i ? "," : "", w.row[i].key);
  text_puts(out, closed);
  /* a spec that extends another has the rest from there: its keys alone can be checked */
  text_puts(out, ",\"if\":{\"not\":{\"required\":[\"extends\"]}},\"then\":{\"type\":\"object\","
                 "\"properties\":{");
  put_members(&w, "", false);
  text_puts(out, "}");
  put_required(&w, "", "");
  text_puts(out, "},\n\"$defs\":{\n\"layer_item\":{\"anyOf\":[" REF("layer") "," REF("use") "," REF(
                     "residual") "," REF("parallel") "]}");
  for (int i = 0; i < w.n; i++) {
    const char *section = w.row[i].section;
    bool first = *section && !is_part(&w, section);
    for (int k = 0; k < i && first; k++)
      first = strcmp(w.row[k].section, section) != 0;
    if (!first)
      continue;
    text_puts(out, ",\n\"");
    if (is_kind(&w, section))
      put_kind(&w, section);
    else
      put_section(&w, section);
  }
  text_puts(out, "}}\n");
}
