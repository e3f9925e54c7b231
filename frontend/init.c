/* Initialisers as the spec writes them. What they compute is in init_lower.c. */
#include "frontend/frontend.h"

Val *init_check(const Check *c, const Yaml *y, const char *what) {
  /* `{normal: {std: 0.02}}`: the arguments of a type are the value of its key */
  if (y->kind == YAML_MAP && y->n == 1 && y->u.pair[0].value->kind == YAML_MAP &&
      strcmp(y->u.pair[0].key->text, "type")) {
    const Yaml *name = y->u.pair[0].key, *args = y->u.pair[0].value;
    Yaml type_key = {.kind = YAML_SCALAR, .loc = name->loc, .text = str_c(c->s, "type")};
    Yaml *map = ARENA_NEW(c->a, Yaml);
    *map = (Yaml){.kind = YAML_MAP, .loc = y->loc};
    map->u.pair = ARENA_ARRAY(c->a, YamlPair, args->n + 1);
    if (arena_failed(c->a))
      return NULL;
    map->u.pair[map->n++] = (YamlPair){&type_key, (Yaml *)name};
    for (int i = 0; i < args->n; i++)
      map->u.pair[map->n++] = args->u.pair[i];
    return check_variant(c, "init", "type", map, "initialiser");
  }
  if (y->kind == YAML_LIST || y->kind == YAML_NULL) {
    diag_error(c->d, y->loc, 201, "%s takes an initialiser, not %s", what, yaml_kind_text(y));
    diag_hint(c->d, "like zeros or {normal: {std: 0.02}}");
    return NULL;
  }
  int before = diag_errors(c->d);
  Val *v = check_variant(c, "init", "type", y, "initialiser");
  return diag_errors(c->d) > before ? NULL : v;
}
