/* What is said to keys, types and arguments that the schema does not have where they stand. */
#include "frontend/frontend.h"

enum { FEW_KEYS = 6, FEW_TYPES = 12 }; /* so many are named when none is near */

/* Keys of one or two sections that are supported, for suggestions. Returns their number. */
static size_t keys_of(const char *section, const char *shared, const char **out, size_t max) {
  int nrow;
  const SchemaRow *rows = schema_rows(&nrow);
  size_t n = 0;
  for (int i = 0; i < nrow && n < max; i++)
    if (rows[i].type != KT_LATER &&
        (!strcmp(rows[i].section, section) || (shared && !strcmp(rows[i].section, shared))))
      out[n++] = rows[i].key;
  return n;
}

/* The only section with such a key; NULL when there are none or several. */
static const char *section_with(const char *key) {
  int nrow;
  const SchemaRow *rows = schema_rows(&nrow);
  const char *found = NULL;
  for (int i = 0; i < nrow; i++) {
    if (strcmp(rows[i].key, key) || rows[i].type == KT_TYPE)
      continue;
    if (found)
      return NULL;
    found = rows[i].section;
  }
  return found;
}

const char *schema_elsewhere(const char *section, const char *key) {
  static const struct {
    const char *section, *key, *instead;
  } table[] = {
#define ELSEWHERE(section, key, instead) {section, key, instead},
#include "frontend/elsewhere.def"
#undef ELSEWHERE
  };
  for (size_t i = 0; i < sizeof table / sizeof *table; i++)
    if (!strcmp(table[i].section, section) && !strcmp(table[i].key, key))
      return table[i].instead;
  return NULL;
}

/* "a, b and c". */
static Str listed(const Check *c, const char *const *names, size_t n) {
  Str text = n ? names[0] : "";
  for (size_t i = 1; i < n; i++)
    text = str_fmt(c->s, "%s%s%s", text, i + 1 < n ? ", " : " and ", names[i]);
  return text;
}

void schema_unknown_key(const Check *c, const char *section, const char *shared, const Yaml *key,
                        const char *where) {
  const char *known[160];
  size_t n = keys_of(section, shared, known, 160);
  diag_error(c->d, key->loc, 102, "unknown key '%s' in %s", key->text, where);
  const char *near = diag_suggest(key->text, known, n), *other = section_with(key->text);
  const char *instead = schema_elsewhere(section, key->text);
  if (instead)
    diag_hint(c->d, "%s", instead);
  else if (strchr(key->text, ')'))
    diag_hint(c->d, "put quotes around an expression with a comma");
  else if (near)
    diag_hint(c->d, "did you mean '%s'?", near);
  else if (other)
    diag_hint(c->d, *other ? "it is a key of '%s'" : "it is a key of the whole spec", other);
  else if (!strcmp(section, "use"))
    diag_hint(c->d, "parameters of the block stand under 'with'");
  else if ((n = keys_of(section, NULL, known, 160)) <= FEW_KEYS && n)
    diag_hint(c->d, "its keys are %s", listed(c, known, n));
}

void schema_unknown_type(const Check *c, const char *kind, const char *type_key, Loc loc, Str name,
                         const char *what) {
  const char *known[160];
  size_t n = keys_of(kind, NULL, known, 160);
  diag_error(c->d, loc, 191, "unknown %s %s '%s'", what, type_key, name);
  const char *near = diag_suggest(name, known, n), *instead = schema_elsewhere(kind, name);
  if (instead)
    diag_hint(c->d, "%s", instead);
  else if (near)
    diag_hint(c->d, "did you mean '%s'?", near);
  else if (n <= FEW_TYPES && n)
    diag_hint(c->d, "there are %s", listed(c, known, n));
}

Str schema_beside(const Check *c, const SchemaRow *type, const Yaml *args) {
  const Yaml *first = *type->arg ? yaml_get(args, type->arg) : NULL;
  const bool plain = first && first->kind == YAML_SCALAR;
  Str text = plain ? str_fmt(c->s, "{%s: %s", type->key, first->text)
                   : str_fmt(c->s, "{type: %s", type->key);
  for (int i = 0; i < args->n; i++) {
    const YamlPair *p = &args->u.pair[i];
    if (!plain || p->value != first)
      text = str_fmt(c->s, "%s, %s: %s", text, p->key->text,
                     p->value->kind == YAML_SCALAR ? p->value->text : "...");
  }
  return str_fmt(c->s, "%s}", text);
}
