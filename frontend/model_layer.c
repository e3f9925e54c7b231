/* One layer of the model section: its arguments, inputs, initialisers, shared weight and region. */
#include "frontend/model.h"

/* `inputs:` of a layer: a name, a list of names or a map of names. */
static void layer_inputs(Expand *e, const Scope *scope, Node *n, const Yaml *y, Node *flow) {
  if (!y) {
    node_set_inputs(e, n, 1, &flow);
    n->plain = true;
    return;
  }
  if (y->kind == YAML_SCALAR) {
    Node *one = scope_resolve(e, scope, y);
    node_set_inputs(e, n, 1, &one);
    return;
  }
  if (y->kind == YAML_NULL || !y->n) {
    expand_fail(e, y->loc, 205, "'inputs' is empty");
    return;
  }
  n->in = ARENA_ARRAY(e->c.a, Node *, y->n);
  n->in_key = y->kind == YAML_MAP ? ARENA_ARRAY(e->c.a, Str, y->n) : NULL;
  if (arena_failed(e->c.a))
    return;
  for (int i = 0; i < y->n; i++) {
    n->in[i] = scope_resolve(e, scope, y->kind == YAML_MAP ? y->u.pair[i].value : y->u.item[i]);
    if (n->in_key)
      n->in_key[i] = y->u.pair[i].key->text;
  }
  n->nin = y->n;
}

/* Whether one of the words of `tensors` is the name; # in a word stands for digits. */
static bool has_tensor(const char *tensors, const char *name) {
  for (const char *word = tensors; *word; word += strspn(word, " ")) {
    const char *p = name;
    for (; *word && *word != ' '; word++) {
      size_t n = *word == '#' ? strspn(p ? p : "", "0123456789") : p && *p == *word;
      p = n ? p + n : NULL;
    }
    if (p && !*p)
      return true;
  }
  return false;
}

/* `init:` of a layer: {tensor: initialiser}, or one initialiser for a Parameter. */
static Val *layer_init(Expand *e, const Node *n, const Yaml *y) {
  const char *tensors = layer_tensors(n->type->key);
  Val *map = val_new(e->c.a, VAL_MAP, ORIGIN_FILE, y->loc);
  if (!tensors || !*tensors) {
    diag_error(e->c.d, y->loc, 102, "%s has no tensors to initialise", n->type->key);
    e->failed = true;
    return map;
  }
  if (!strcmp(n->type->key, "Parameter")) {
    Val *one = init_check(&e->c, y, "'init'");
    e->failed |= !one;
    val_set(e->c.a, map, str_c(e->c.s, ""), one);
    return map;
  }
  if (y->kind == YAML_SCALAR && !strcmp(n->type->key, "PReLU")) { /* torch's argument, a number */
    Yaml key = {.kind = YAML_SCALAR, .loc = y->loc, .text = str_c(e->c.s, "constant")};
    YamlPair pair = {.key = &key, .value = (Yaml *)y};
    Yaml constant = {.kind = YAML_MAP, .loc = y->loc, .n = 1, .u.pair = &pair};
    Val *one = init_check(&e->c, &constant, "'init'");
    e->failed |= !one;
    val_set(e->c.a, map, str_c(e->c.s, "weight"), one);
    return map;
  }
  if (y->kind != YAML_MAP) {
    diag_error(e->c.d, y->loc, 201, "'init' takes a map of tensors, not %s", yaml_kind_text(y));
    diag_hint(e->c.d, "tensors of %s: %s", n->type->key, tensors);
    e->failed = true;
    return map;
  }
  for (int i = 0; i < y->n; i++) {
    const YamlPair *p = &y->u.pair[i];
    if (!has_tensor(tensors, p->key->text)) {
      diag_error(e->c.d, p->key->loc, 102, "unknown tensor '%s' in 'init' of layer '%s' (%s)",
                 p->key->text, n->name, n->type->key);
      diag_hint(e->c.d, "tensors of %s: %s", n->type->key, tensors);
      e->failed = true;
      continue;
    }
    Val *one = init_check(&e->c, p->value, str_fmt(e->c.s, "init of '%s'", p->key->text));
    e->failed |= !one;
    val_set(e->c.a, map, p->key->text, one);
  }
  return map;
}

static bool has_table(const Node *n) {
  return !strcmp(n->type->key, "Linear") || !strcmp(n->type->key, "Embedding");
}

void expand_default_init(Expand *e, const Yaml *y) {
  if (!y || y->kind == YAML_NULL)
    return;
  if (y->kind != YAML_MAP) {
    expand_fail(e, y->loc, 201, "'default' of 'init' takes a map {weight: ..., bias: ...}");
    return;
  }
  e->init_value = val_new(e->c.a, VAL_LIST, ORIGIN_FILE, y->loc);
  for (int i = 0; i < y->n; i++) {
    const YamlPair *p = &y->u.pair[i];
    if (strcmp(p->key->text, "weight") && strcmp(p->key->text, "bias")) {
      diag_error(e->c.d, p->key->loc, 102, "unknown tensor '%s' in 'default' of 'init'",
                 p->key->text);
      diag_hint(e->c.d, "Linear and Embedding have weight and bias");
      e->failed = true;
    }
    Val *one = init_check(&e->c, p->value, str_fmt(e->c.s, "init of '%s'", p->key->text));
    e->failed |= !one;
    val_add(e->c.a, e->init_value, one);
  }
  if (!e->failed)
    e->init = y;
}

/* What `init.default` of the model says of tensors that the layer does not. */
static void default_init(Expand *e, Node *n) {
  const Yaml *y = e->init;
  for (int i = 0; y && has_table(n) && i < y->n; i++) {
    Str tensor = y->u.pair[i].key->text;
    Val *v = e->init_value->item[i];
    bool bias = !strcmp(tensor, "bias");
    if (bias && (!strcmp(n->type->key, "Embedding") || !val_get_bool(n->args, "bias", true)))
      continue;
    if (!n->init)
      n->init = val_new(e->c.a, VAL_MAP, ORIGIN_FILE, y->loc);
    if (!val_get(n->init, tensor))
      val_set(e->c.a, n->init, tensor, v);
  }
}

/* `tie_weight:` names an earlier layer of the same kind of table. */
static void layer_tie(Expand *e, const Scope *scope, Node *n, const Yaml *y) {
  n->tie = scope_resolve(e, scope, y);
  if (!n->tie)
    return;
  if (!has_table(n) || !n->tie->type || !has_table(n->tie)) {
    diag_error(e->c.d, y->loc, 103, "'%s' and '%s' cannot share a weight", n->name, n->tie->name);
    diag_hint(e->c.d, "tie_weight is for Linear and Embedding");
    e->failed = true;
  }
  while (n->tie->tie)
    n->tie = n->tie->tie;
}

/* `tie:` names an earlier layer of the same type; in a use that is tied, the layer of the other use
 * at the same place. */
static void layer_twin(Expand *e, const Scope *scope, Node *n, const Yaml *y) {
  const char *tensors = layer_tensors(n->type->key);
  if (y && y->kind != YAML_NULL) {
    n->twin = scope_resolve(e, scope, y);
    if (n->twin && (n->twin->type != n->type || !tensors || !*tensors)) {
      diag_error(e->c.d, y->loc, 103, "'%s' and '%s' cannot share their tensors", n->name,
                 n->twin->name);
      diag_hint(e->c.d, "both must be layers of one type that has tensors");
      e->failed = true;
      n->twin = NULL;
    }
  } else if (e->tie_mine && tensors && *tensors) {
    Str name = str_fmt(e->c.s, "%s%s", e->tie_theirs, n->name + strlen(e->tie_mine));
    for (int i = 0; i < e->m->nnode && !n->twin; i++)
      if (e->m->node[i]->name == name && e->m->node[i]->type == n->type)
        n->twin = e->m->node[i];
    if (!n->twin) {
      diag_error(e->c.d, n->loc, 221, "no layer '%s' (%s) is there for '%s' to be tied to", name,
                 n->type->key, n->name);
      e->failed = true;
    }
  }
  while (n->twin && n->twin->twin)
    n->twin = n->twin->twin;
}

/* What the innermost use that says so sets for all its layers. */
static void inherit(Expand *e, Node *n, const char *key, const Val *v) {
  const Val *own = val_get(n->args, key);
  if (v && n->args && (!own || own->origin == ORIGIN_DEFAULT))
    val_set(e->c.a, n->args, str_c(e->c.s, key), (Val *)v);
}

PrecisionRegion expand_region(Expand *e, const Val *v, Str rule) {
  if (!v || v->kind != VAL_STR)
    return e->region;
  PrecisionRegion r = {precision_region(&e->c, v), rule, v->loc};
  e->failed |= !r.mode;
  return r;
}

Node *expand_layer(Expand *e, Scope *scope, const Yaml *y, int index, Node *flow) {
  const SchemaRow *type;
  const Yaml *args;
  Str rel;
  bool auto_name;
  Str name = expand_name(e, scope, y, index, &rel, &auto_name);
  if (!name || !check_type(&e->c, "layer", "type", y, "layer", &type, &args)) {
    e->failed = true;
    if (name) /* others may name it */
      scope_add(e, scope, rel, flow);
    return flow;
  }
  Node *n = ARENA_NEW(e->c.a, Node);
  *n = (Node){.type = type, .name = name, .auto_name = auto_name, .loc = y->loc};
  int before = diag_errors(e->c.d);
  n->args = check_section(&e->c, str_fmt(e->c.s, "layer %s", type->key), "every layer", args,
                          y->loc, str_fmt(e->c.s, "layer '%s' (%s)", name, type->key));
  e->failed |= diag_errors(e->c.d) > before;
  if (!layer_takes_inputs(type->key) && !yaml_get(args, "inputs"))
    n->nin = 0;
  else
    layer_inputs(e, scope, n, yaml_get(args, "inputs"), flow);
  const Yaml *init = yaml_get(args, "init"), *tie = yaml_get(args, "tie_weight");
  if (init)
    n->init = layer_init(e, n, init);
  default_init(e, n);
  if (tie && tie->kind != YAML_NULL)
    layer_tie(e, scope, n, tie);
  layer_twin(e, scope, n, yaml_get(args, "tie"));
  inherit(e, n, "freeze", e->freeze);
  inherit(e, n, "training", e->training);
  n->region = expand_region(e, val_get(n->args, "precision"), str_c(e->c.s, "its own precision"));
  n->recompute = val_get_str(n->args, "recompute", "none");
  n->tuple = layer_has_parts(type->key) && val_get_int(n->args, "index", -1) < 0;
  if (n->tuple)
    n->part = ARENA_ARRAY(e->c.a, Node *, MODEL_MAX_PARTS);
  else if (!expand_append(e, n))
    return flow;
  scope_add(e, scope, rel, n);
  return n;
}
