/* The checker behind schema.def: YAML against the table of keys, every mistake with its place. */
#include "frontend/frontend.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static void later(const Check *c, Loc loc, const char *word, const char *where) {
  diag_error(c->d, loc, 190, "'%s' in %s is not supported yet", word, where);
}

/* ---- words and numbers ---- */

/* Words that a key takes beside its type's values; NULL: none. */
static const char *also_words(const SchemaRow *row) {
  if (row->type <= KT_FLOAT)
    return row->arg;
  return row->type == KT_INTS ? strchr(row->arg, ' ') : NULL;
}

/* Whether word stands in a list "a b c; d e": 1 before the semicolon, 2 behind it, 0 nowhere. */
static int word_in(const char *list, const char *word) {
  size_t len = strlen(word);
  int found = 1;
  for (const char *p = list; *p && len; p += strcspn(p, " ;")) {
    while (*p == ' ' || *p == ';')
      found = *p++ == ';' ? 2 : found;
    size_t n = strcspn(p, " ;");
    if (n == len && !strncmp(p, word, len))
      return found;
  }
  return 0;
}

/* "'none', 'tanh'": the words before the semicolon. */
static void words_text(const char *list, Text *out) {
  bool first = true;
  for (const char *p = list; *p && *p != ';';) {
    size_t n = strcspn(p, " ;");
    if (n)
      text_printf(out, "%s'%.*s'", first ? "" : ", ", (int)n, p);
    first &= !n;
    p += n;
    while (*p == ' ')
      p++;
  }
}

static bool read_int(const char *text, int64_t *out) {
  const char *p = text + (*text == '-' || *text == '+');
  if (!*p || strspn(p, "0123456789") != strlen(p))
    return false;
  errno = 0;
  *out = strtoll(text, NULL, 10);
  return !errno;
}

static bool read_float(const char *text, double *out) {
  if (!*text || strspn(text, "0123456789+-.eE") != strlen(text) || !strpbrk(text, "0123456789"))
    return false;
  char *end;
  *out = strtod(text, &end);
  return !*end && isfinite(*out);
}

/* Whether v lies in "[lo, hi)", ">= lo", "> lo" or "" (anything). */
static bool in_range(const char *range, double v) {
  if (!*range)
    return true;
  if (*range == '>')
    return range[1] == '=' ? v >= strtod(range + 2, NULL) : v > strtod(range + 1, NULL);
  char *p;
  double lo = strtod(range + 1, &p), hi = strtod(p + 1, &p);
  bool above = *range == '[' ? v >= lo : v > lo;
  bool below = strchr(p, ']') ? v <= hi : v < hi;
  return above && below;
}

static const char *kind_words(const SchemaRow *row) {
  switch (row->type) {
  case KT_BOOL:
  case KT_IDLE:
    return "true or false";
  case KT_INT:
  case KT_INTS:
    return "an integer";
  case KT_FLOAT:
  case KT_FLOATS:
  case KT_NUMBER:
    return "a number";
  case KT_STRS:
    return "a list of names";
  default:
    return "text";
  }
}

static void wrong_type(const Check *c, const SchemaRow *row, const Yaml *y, const Val *v) {
  Text found = {0};
  if (y->kind == YAML_LIST || y->kind == YAML_MAP)
    text_puts(&found, yaml_kind_text(y));
  else if (v && v->kind != VAL_STR)
    val_text(v, &found);
  else
    text_printf(&found, "%s'%s'", y->quoted ? "the text " : "", v ? v->s : y->text);
  Text also = {0};
  if (*row->arg && row->type <= KT_FLOAT)
    words_text(row->arg, &also);
  diag_error(c->d, y->loc, 201, "'%s' takes %s%s%s, not %s", row->key, kind_words(row),
             also.len ? " or " : "", also.len ? also.data : "", found.data ? found.data : "");
  if (v && v->kind == VAL_FLOAT && row->type == KT_INT && v->f == floor(v->f))
    diag_hint(c->d, "'/' gives a float; '//' divides whole numbers");
  else if (y->quoted && y->kind == YAML_SCALAR)
    diag_hint(c->d, "remove the quotes");
  text_fini(&found);
  text_fini(&also);
}

static Val *ranged(const Check *c, const SchemaRow *row, const Yaml *y, Val *v) {
  if (in_range(row->range, v->f))
    return v;
  Text t = {0};
  val_text(v, &t);
  bool interval = *row->range == '[' || *row->range == '(';
  double only = interval ? strtod(row->range + 1, NULL) : 0;
  if (interval && in_range(row->range, only) && strtod(strchr(row->range, ',') + 1, NULL) == only) {
    diag_error(c->d, y->loc, 202, "'%s' must be %g in this version, not %s", row->key, only,
               t.data ? t.data : "");
    text_fini(&t);
    return NULL;
  }
  diag_error(c->d, y->loc, 202, "'%s' takes %s %s%s, not %s", row->key, kind_words(row),
             interval ? "in " : "", row->range, t.data ? t.data : "");
  text_fini(&t);
  return NULL;
}

/* Scalar after substitution: VAL_STR, or what an expression gave. */
static Val *substitute(const Check *c, const Yaml *y) {
  if (expr_present(y->text))
    return expr_text(c->a, c->s, c->d, c->scope, y);
  return val_str(c->a, y->text, ORIGIN_FILE, y->loc);
}

/* Bare text as a number where one is expected; quoted text never. */
static bool as_int(const Yaml *y, const Val *v, int64_t *out) {
  if (v->kind == VAL_INT) {
    *out = v->i;
    return true;
  }
  return v->kind == VAL_STR && (!y->quoted || expr_present(y->text)) && read_int(v->s, out);
}

static bool as_float(const Yaml *y, const Val *v, double *out) {
  if (v->kind == VAL_INT || v->kind == VAL_FLOAT) {
    *out = v->f;
    return true;
  }
  return v->kind == VAL_STR && (!y->quoted || expr_present(y->text)) && read_float(v->s, out);
}

static Val *check_bool(const Check *c, const SchemaRow *row, const Yaml *y, const Val *v) {
  static const char *const vague[] = {"yes", "no", "on", "off", "y", "n"};
  if (v->kind == VAL_BOOL ||
      (v->kind == VAL_STR && !y->quoted && (!strcmp(v->s, "true") || !strcmp(v->s, "false")))) {
    Val *b = val_new(c->a, VAL_BOOL, ORIGIN_FILE, y->loc);
    b->i = v->kind == VAL_BOOL ? v->i : v->s[0] == 't';
    return b;
  }
  for (size_t i = 0; v->kind == VAL_STR && i < sizeof vague / sizeof *vague; i++)
    if (!strcasecmp(v->s, vague[i])) {
      diag_error(c->d, y->loc, 203, "'%s' takes true or false, not the word '%s'", row->key, v->s);
      diag_hint(c->d, "YAML readers disagree about yes/no/on/off; write %s",
                strchr("yYoO", v->s[0]) && strcasecmp(v->s, "off") ? "true" : "false");
      return NULL;
    }
  wrong_type(c, row, y, v);
  if (v->kind == VAL_STR && (!strcasecmp(v->s, "true") || !strcasecmp(v->s, "false")))
    diag_hint(c->d, "write %s, in lower case and without quotes",
              tolower(v->s[0]) == 't' ? "true" : "false");
  return NULL;
}

static Val *check_number(const Check *c, const SchemaRow *row, const Yaml *y, const Val *v) {
  int64_t i;
  double f;
  bool whole = row->type == KT_INT || row->type == KT_INTS;
  if ((whole || row->type == KT_NUMBER) && as_int(y, v, &i))
    return ranged(c, row, y, val_int(c->a, i, ORIGIN_FILE, y->loc));
  if (!whole && as_float(y, v, &f))
    return ranged(c, row, y, val_float(c->a, f, ORIGIN_FILE, y->loc));
  wrong_type(c, row, y, v);
  return NULL;
}

static Val *check_word(const Check *c, const SchemaRow *row, const Yaml *y, const Val *v,
                       const char *where) {
  Text t = {0};
  val_text(v, &t);
  Str word = text_take(c->a, c->s, &t);
  int found = word_in(row->arg, word);
  if (found == 1)
    return val_str(c->a, word, ORIGIN_FILE, y->loc);
  if (found == 2) {
    diag_error(c->d, y->loc, 190, "%s: '%s' in %s is not supported yet", row->key, word, where);
    return NULL;
  }
  Text words = {0};
  words_text(row->arg, &words);
  diag_error(c->d, y->loc, 204, "'%s' takes one of %s, not '%s'", row->key,
             words.data ? words.data : "", word);
  text_fini(&words);
  return NULL;
}

Str check_str(const Check *c, const Yaml *y, const char *what) {
  if (y->kind == YAML_NULL) {
    diag_error(c->d, y->loc, 205, "%s is empty", what);
    return NULL;
  }
  if (y->kind != YAML_SCALAR) {
    diag_error(c->d, y->loc, 201, "%s must be text, not %s", what, yaml_kind_text(y));
    return NULL;
  }
  const Val *v = substitute(c, y);
  if (!v)
    return NULL;
  Text t = {0};
  val_text(v, &t);
  return text_take(c->a, c->s, &t);
}

Val *check_free(const Check *c, const Yaml *y) {
  if (y->kind != YAML_SCALAR) {
    diag_error(c->d, y->loc, 201, "a parameter is a number, text, true or false, not %s",
               yaml_kind_text(y));
    return NULL;
  }
  Val *v = substitute(c, y);
  int64_t i;
  double f;
  if (!v || v->kind != VAL_STR || y->quoted)
    return v;
  if (read_int(v->s, &i))
    return val_int(c->a, i, ORIGIN_FILE, y->loc);
  if (read_float(v->s, &f))
    return val_float(c->a, f, ORIGIN_FILE, y->loc);
  if (!strcmp(v->s, "true") || !strcmp(v->s, "false")) {
    v->kind = VAL_BOOL;
    v->i = v->s[0] == 't';
  }
  return v;
}

/* ---- one value ---- */

static Val *check_scalar(const Check *c, const SchemaRow *row, const Yaml *y, const char *where) {
  if (y->kind != YAML_SCALAR) {
    wrong_type(c, row, y, NULL);
    return NULL;
  }
  const Val *v = substitute(c, y);
  if (!v)
    return NULL;
  const char *also = also_words(row);
  if (also && *also && v->kind == VAL_STR) {
    int found = word_in(also, v->s);
    if (found == 1)
      return val_str(c->a, v->s, ORIGIN_FILE, y->loc);
    if (found == 2) {
      diag_error(c->d, y->loc, 190, "%s: '%s' in %s is not supported yet", row->key, v->s, where);
      return NULL;
    }
  }
  switch (row->type) {
  case KT_BOOL:
  case KT_IDLE:
    return check_bool(c, row, y, v);
  case KT_WORD:
    return check_word(c, row, y, v, where);
  case KT_STR:
  case KT_STRS: {
    Text t = {0};
    val_text(v, &t);
    return val_str(c->a, text_take(c->a, c->s, &t), ORIGIN_FILE, y->loc);
  }
  default:
    return check_number(c, row, y, v);
  }
}

/* INTS FLOATS STRS: a list, or one scalar for a list of one (or `arg` equal ones). */
static Val *check_list(const Check *c, const SchemaRow *row, const Yaml *y, const char *where) {
  Val *list = val_new(c->a, VAL_LIST, ORIGIN_FILE, y->loc);
  int want = atoi(row->arg);
  bool ok = true;
  if (y->kind != YAML_LIST) {
    Val *v = check_scalar(c, row, y, where);
    for (int i = 0; v && i < (want ? want : 1); i++)
      val_add(c->a, list, v);
    return v ? list : NULL;
  }
  for (int i = 0; i < y->n; i++) {
    const Yaml *item = y->u.item[i];
    Val *v = NULL;
    if (item->kind == YAML_NULL && also_words(row) && word_in(also_words(row), "null") == 1)
      v = val_new(c->a, VAL_NULL, ORIGIN_FILE, item->loc);
    else if (item->kind == YAML_NULL)
      diag_error(c->d, item->loc, 205, "an element of '%s' is empty", row->key);
    else
      v = check_scalar(c, row, item, where);
    ok &= v != NULL;
    if (v)
      val_add(c->a, list, v);
  }
  if (ok && want && list->n != want) {
    diag_error(c->d, y->loc, 201, "'%s' takes %d elements, not %d", row->key, want, list->n);
    return NULL;
  }
  return ok ? list : NULL;
}

/* A word of a map to words, or a list of them. */
static Val *check_word_value(const Check *c, const SchemaRow *row, const YamlPair *p) {
  Str what = str_fmt(c->s, "'%s' in '%s'", p->key->text, row->key);
  if (strcmp(row->arg, "lists") || p->value->kind != YAML_LIST || !p->value->n) {
    Str s = check_str(c, p->value, what);
    return s ? val_str(c->a, s, ORIGIN_FILE, p->value->loc) : NULL;
  }
  Val *list = val_new(c->a, VAL_LIST, ORIGIN_FILE, p->value->loc);
  bool ok = true;
  for (int i = 0; i < p->value->n; i++) {
    Str s = check_str(c, p->value->u.item[i], what);
    ok &= s != NULL;
    if (s)
      val_add(c->a, list, val_str(c->a, s, ORIGIN_FILE, p->value->u.item[i]->loc));
  }
  return ok ? list : NULL;
}

static Val *check_words(const Check *c, const SchemaRow *row, const Yaml *y) {
  if (y->kind != YAML_MAP) {
    diag_error(c->d, y->loc, 201, "'%s' takes a map, not %s", row->key, yaml_kind_text(y));
    return NULL;
  }
  Val *map = val_new(c->a, VAL_MAP, ORIGIN_FILE, y->loc);
  bool ok = true;
  for (int i = 0; i < y->n; i++) {
    const YamlPair *p = &y->u.pair[i];
    if (!strncmp(p->key->text, "x-", 2))
      continue;
    Val *v = check_word_value(c, row, p);
    ok &= v != NULL;
    if (v)
      val_set(c->a, map, p->key->text, v);
  }
  return ok ? map : NULL;
}

static Val *check_items(const Check *c, const SchemaRow *row, const Yaml *y) {
  if (y->kind != YAML_LIST) {
    diag_error(c->d, y->loc, 201, "'%s' takes a list, not %s", row->key, yaml_kind_text(y));
    return NULL;
  }
  Val *list = val_new(c->a, VAL_LIST, ORIGIN_FILE, y->loc);
  for (int i = 0; i < y->n; i++) {
    const Yaml *item = y->u.item[i];
    Str where = str_fmt(c->s, "'%s'", row->key);
    Val *v = row->type == KT_VARIANTS ? check_variant(c, row->arg, "type", item, row->arg)
                                      : check_section(c, row->arg, NULL, item, item->loc, where);
    if (v)
      val_add(c->a, list, v);
  }
  return list;
}

/* Splits a row's arg "SECTION" or "SECTION key"; sections may have two words themselves. Returns
 * the key or NULL. */
static const char *split_arg(const Check *c, const char *arg, Str *section) {
  *section = str_c(c->s, arg);
  if (schema_next(c->rows, arg, NULL))
    return NULL;
  const char *space = strrchr(arg, ' ');
  if (space)
    *section = str_intern(c->s, arg, (size_t)(space - arg));
  return space ? space + 1 : NULL;
}

static Val *check_subsection(const Check *c, const SchemaRow *row, const Yaml *y) {
  Str section, where = str_fmt(c->s, "'%s'", row->key);
  const char *main_key = split_arg(c, row->arg, &section);
  if (y->kind == YAML_SCALAR && main_key) {
    Yaml key = {.kind = YAML_SCALAR, .loc = y->loc, .text = str_c(c->s, main_key)};
    YamlPair pair = {.key = &key, .value = (Yaml *)y};
    Yaml map = {.kind = YAML_MAP, .loc = y->loc, .n = 1, .u.pair = &pair};
    return check_section(c, section, NULL, &map, y->loc, where);
  }
  return check_section(c, section, NULL, y, y->loc, where);
}

static Val *check_variant_row(const Check *c, const SchemaRow *row, const Yaml *y) {
  Str section;
  const char *type_key = split_arg(c, row->arg, &section);
  return check_variant(c, section, type_key ? type_key : "type", y, row->key);
}

Val *check_value(const Check *c, const SchemaRow *row, const Yaml *y, const char *where) {
  if (y->kind == YAML_NULL) {
    const char *also = also_words(row);
    if ((row->otherwise && !strcmp(row->otherwise, "null")) || (also && word_in(also, "null") == 1))
      return val_new(c->a, VAL_NULL, ORIGIN_FILE, y->loc);
    diag_error(c->d, y->loc, 205, "'%s' in %s is empty", row->key, where);
    diag_hint(c->d, "give a value or remove the key");
    return NULL;
  }
  switch (row->type) {
  case KT_INTS:
  case KT_FLOATS:
  case KT_STRS:
    return check_list(c, row, y, where);
  case KT_WORDS:
    return check_words(c, row, y);
  case KT_SECTION:
    return check_subsection(c, row, y);
  case KT_VARIANT:
    return check_variant_row(c, row, y);
  case KT_VARIANTS:
  case KT_SECTIONS:
    return check_items(c, row, y);
  case KT_RAW:
    return val_new(c->a, VAL_NULL, ORIGIN_FILE, y->loc);
  default:
    return check_scalar(c, row, y, where);
  }
}

/* ---- sections ---- */

static void mark_default(Val *v) {
  v->origin = ORIGIN_DEFAULT;
  v->loc = (Loc){0};
  if (v->kind == VAL_LIST || v->kind == VAL_MAP)
    for (int i = 0; i < v->n; i++)
      mark_default(v->item[i]);
}

/* loc: of the section without the key, where what its default lacks is told. */
static Val *default_value(const Check *c, const SchemaRow *row, Loc loc, const char *where) {
  Yaml *y = row->type != KT_RAW && row->type != KT_LATER ? schema_otherwise(c, row) : NULL;
  if (y)
    y->loc = loc;
  Val *v = y ? check_value(c, row, y, where) : NULL;
  if (!v)
    v = val_new(c->a, VAL_NULL, ORIGIN_DEFAULT, (Loc){0});
  mark_default(v);
  return v;
}

/* Whether y says what holds without a key of a later version. */
static bool says_default(const SchemaRow *row, const Yaml *y) {
  double given, otherwise;
  if (y->kind == YAML_NULL)
    return !strcmp(row->otherwise, "null");
  return y->kind == YAML_SCALAR && (!strcmp(y->text, row->otherwise) ||
                                    (read_float(y->text, &given) &&
                                     read_float(row->otherwise, &otherwise) && given == otherwise));
}

static const SchemaRow *row_of(const Check *c, const char *section, const char *shared,
                               const char *key) {
  const SchemaRow *row = schema_find(c->rows, section, key);
  return row || !shared ? row : schema_find(c->rows, shared, key);
}

Val *check_section(const Check *c, const char *section, const char *shared, const Yaml *y, Loc loc,
                   const char *where) {
  if (y && y->kind != YAML_MAP) {
    diag_error(c->d, y->loc, 201, "%s takes a map, not %s", where, yaml_kind_text(y));
    if (y->kind == YAML_SCALAR && schema_find(c->rows, section, "type"))
      diag_hint(c->d, "write {type: %s}", y->text);
    return NULL;
  }
  bool unknown = false;
  for (int i = 0; y && i < y->n; i++) {
    const Yaml *key = y->u.pair[i].key;
    const SchemaRow *row = row_of(c, section, shared, key->text);
    if (!strncmp(key->text, "x-", 2))
      continue;
    unknown |= !row || row->type == KT_TYPE;
    if (!row || row->type == KT_TYPE)
      schema_unknown_key(c, section, shared, key, where);
    else if (row->type == KT_LATER && !says_default(row, y->u.pair[i].value)) {
      later(c, key->loc, key->text, where);
      if (strcmp(row->otherwise, "null") != 0)
        diag_hint(c->d, "only %s: %s", key->text, row->otherwise);
    } else if (row->type == KT_IDLE) {
      check_value(c, row, y->u.pair[i].value, where);
    }
  }
  /* the missing key may be the unknown one, misspelt: one error for one cause */
  Val *map = val_new(c->a, VAL_MAP, unknown ? ORIGIN_IMPLIED : ORIGIN_FILE, loc);
  const SchemaRow *own = schema_next(c->rows, section, NULL), *row;
  const SchemaRow *both = shared ? schema_next(c->rows, shared, NULL) : NULL;
  while ((row = own && (!both || own < both) ? own : both)) { /* in the table's order */
    if (row == own)
      own = schema_next(c->rows, section, own);
    else
      both = schema_next(c->rows, shared, both);
    if (row->type == KT_LATER || row->type == KT_TYPE || row->type == KT_IDLE)
      continue;
    const Yaml *given = yaml_get(y, row->key);
    Val *v = NULL;
    if (given) {
      v = check_value(c, row, given, where);
    } else if (row->otherwise) {
      v = default_value(c, row, loc, where);
    } else if (!unknown) {
      diag_error(c->d, loc, 109, "key '%s' is missing in %s", row->key, where);
      diag_hint(c->d, "%s: %s", row->key, row->doc);
    }
    val_set(c->a, map, str_c(c->s, row->key),
            v ? v : val_new(c->a, VAL_NULL, ORIGIN_IMPLIED, given ? given->loc : loc));
  }
  return map;
}

/* ---- types ---- */

/* Finds the key that names the type of a map: the type key itself or a TYPE row's name. */
static const YamlPair *type_pair(const Check *c, const char *kind, const char *type_key,
                                 const Yaml *y, const char *what) {
  const YamlPair *found = NULL;
  for (int i = 0; i < y->n; i++)
    if (!strcmp(y->u.pair[i].key->text, type_key))
      return &y->u.pair[i];
  for (int i = 0; i < y->n; i++) {
    const YamlPair *p = &y->u.pair[i];
    if (!schema_find(c->rows, kind, p->key->text))
      continue;
    if (found) {
      diag_error(c->d, p->key->loc, 191, "two types in one %s: '%s' and '%s'", what,
                 found->key->text, p->key->text);
      return NULL;
    }
    found = p;
  }
  if (found)
    return found;
  Str shared = str_fmt(c->s, "every %s", kind);
  for (int i = 0; i < y->n; i++) {
    const Yaml *key = y->u.pair[i].key;
    if (schema_find(c->rows, shared, key->text) || !strncmp(key->text, "x-", 2))
      continue;
    schema_unknown_type(c, kind, type_key, key->loc, key->text, what);
    return NULL;
  }
  diag_error(c->d, y->loc, 191, "%s has no %s", what, type_key);
  diag_hint(c->d, "say '%s: ...'", type_key);
  return NULL;
}

/* Can `value` stand behind the type's own name? Tells when it cannot. */
static bool main_argument(const Check *c, const char *kind, const SchemaRow *type,
                          const Yaml *value) {
  const SchemaRow *arg =
      *type->arg ? schema_find(c->rows, str_fmt(c->s, "%s %s", kind, type->key), type->arg) : NULL;
  if (value->kind == YAML_MAP && (!arg || arg->type < KT_WORDS)) {
    diag_error(c->d, value->loc, 201, "arguments of '%s' stand beside it, not under it", type->key);
    diag_hint(c->d, "write %s", schema_beside(c, type, value));
    return false;
  }
  if (arg)
    return true;
  diag_error(c->d, value->loc, 201, "'%s' takes no main argument", type->key);
  diag_hint(c->d, "write '%s:' and its arguments by name", type->key);
  return false;
}

bool check_type(const Check *c, const char *kind, const char *type_key, const Yaml *y,
                const char *what, const SchemaRow **type, const Yaml **args) {
  Yaml *map = ARENA_NEW(c->a, Yaml);
  *map = (Yaml){.kind = YAML_MAP, .loc = y->loc};
  *args = map;
  const YamlPair *pair = NULL;
  Str name = NULL;
  Loc at = y->loc;
  if (y->kind == YAML_MAP) {
    pair = type_pair(c, kind, type_key, y, what);
    if (!pair)
      return false;
    at = pair->key->loc;
    name = pair->key->text;
    if (!strcmp(pair->key->text, type_key)) {
      at = pair->value->loc;
      name = check_str(c, pair->value, str_fmt(c->s, "'%s'", type_key));
    }
  } else {
    name = check_str(c, y, what);
  }
  if (!name)
    return false;
  *type = schema_find(c->rows, kind, name);
  if (!*type) {
    schema_unknown_type(c, kind, type_key, at, name, what);
    return false;
  }
  if ((*type)->type == KT_LATER) {
    diag_error(c->d, at, 190, "%s %s '%s' is not supported yet", what, type_key, name);
    return false;
  }
  if (!pair)
    return true;
  map->u.pair = ARENA_ARRAY(c->a, YamlPair, y->n + 1);
  for (int i = 0; i < y->n && !arena_failed(c->a); i++) {
    YamlPair p = y->u.pair[i];
    if (&y->u.pair[i] == pair) {
      if (!strcmp(p.key->text, type_key) || p.value->kind == YAML_NULL)
        continue;
      if (!main_argument(c, kind, *type, p.value))
        return false;
      Yaml *key = ARENA_NEW(c->a, Yaml);
      *key = (Yaml){.kind = YAML_SCALAR, .loc = p.key->loc, .text = str_c(c->s, (*type)->arg)};
      if (p.key->text != key->text && yaml_get(y, (*type)->arg)) {
        diag_error(c->d, p.value->loc, 101, "'%s' is given twice: it is the value of '%s'",
                   (*type)->arg, name);
        return false;
      }
      p.key = key;
    }
    map->u.pair[map->n++] = p;
  }
  return true;
}

Val *check_variant(const Check *c, const char *kind, const char *type_key, const Yaml *y,
                   const char *what) {
  const SchemaRow *type;
  const Yaml *args;
  if (!check_type(c, kind, type_key, y, what, &type, &args))
    return NULL;
  Val *rest =
      check_section(c, str_fmt(c->s, "%s %s", kind, type->key), str_fmt(c->s, "every %s", kind),
                    args, y->loc, str_fmt(c->s, "%s '%s'", what, type->key));
  if (!rest)
    return NULL;
  Val *map = val_new(c->a, VAL_MAP, ORIGIN_FILE, y->loc);
  val_set(c->a, map, str_c(c->s, type_key),
          val_str(c->a, str_c(c->s, type->key), ORIGIN_FILE, y->loc));
  for (int i = 0; i < rest->n; i++)
    val_set(c->a, map, rest->key[i], rest->item[i]);
  return map;
}
