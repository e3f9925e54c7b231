/* The model section: blocks with params, use and repeat, residual and parallel structures become
 * one flat list of layers with full names and resolved operands.
 *
 *   layers -> list -> layer | use -> block's list | residual -> body, shortcut -> add
 *                           | parallel -> branches -> add, mul or cat
 *
 * A list has an incoming value and an outgoing one. Names resolve in the block, then outward, then
 * among model inputs; `input` is the block's incoming value. Body, shortcut and branches belong to
 * the block they stand in: names given there have no prefix. Layers without a name are numbered as
 * in nested torch.nn.Sequentials: 2.0 in the body of item 2, 2.shortcut.0, 2.1.0 in branch 1. A
 * layer of several results (chunk, split) is a tuple, from which layers NAME.0, NAME.1, ... are
 * made as others name them. */
#include "frontend/model.h"

/* A list inside the structure y, the item at `index`; part: "" or which of its lists, "shortcut.".
 */
static Node *expand_inner(Expand *e, Scope *scope, const Yaml *y, int index, const char *part,
                          const Yaml *list, const char *what, Node *flow) {
  const Str outer = scope->path;
  const Yaml *name = yaml_get(y, "name");
  scope->path = name && name->kind == YAML_SCALAR ? str_fmt(e->c.s, "%s.%s", name->text, part)
                                                  : str_fmt(e->c.s, "%s%d.%s", outer, index, part);
  flow = expand_list(e, scope, list, what, flow);
  scope->path = outer;
  return flow;
}

/* Layer that joins the ends of branches; it takes the name of the residual or parallel item. */
static Node *join(Expand *e, Scope *scope, const Yaml *y, int index, const char *type, Val *args,
                  int nin, Node *const *in) {
  Str rel;
  bool auto_name;
  Str name = expand_name(e, scope, y, index, &rel, &auto_name);
  if (!name)
    return in[0];
  Node *n = ARENA_NEW(e->c.a, Node);
  *n = (Node){.type = schema_find(e->c.rows, "layer", type),
              .name = name,
              .auto_name = auto_name,
              .loc = y->loc};
  n->region = e->region;
  if (!expand_append(e, n))
    return in[0];
  n->args = args
                ? args
                : check_section(&e->c, str_fmt(e->c.s, "layer %s", type), NULL, NULL, y->loc, type);
  node_set_inputs(e, n, nin, in);
  scope_add(e, scope, rel, n);
  return n;
}

Node *expand_incoming(Expand *e, const Scope *scope, const Yaml *y, Node *flow) {
  const Yaml *inputs = yaml_get(y, "inputs");
  if (!inputs)
    return flow;
  if (inputs->kind == YAML_LIST && inputs->n == 1)
    inputs = inputs->u.item[0];
  Node *n = scope_resolve(e, scope, inputs);
  return n ? n : flow;
}

static Node *expand_residual(Expand *e, Scope *scope, const Yaml *y, int index, Node *flow) {
  check_section(&e->c, "residual", NULL, y, y->loc, "'residual'");
  const Yaml *body = yaml_get(y, "residual"), *shortcut = NULL;
  Node *x = expand_incoming(e, scope, y, flow);
  if (body->kind == YAML_MAP) {
    int before = diag_errors(e->c.d);
    check_section(&e->c, "residual body", NULL, body, body->loc, "'residual'");
    e->failed |= diag_errors(e->c.d) > before;
    shortcut = yaml_get(body, "shortcut");
    body = yaml_get(body, "body");
    if (!body)
      return flow;
  }
  Node *in[2] = {x, NULL};
  if (shortcut && shortcut->kind != YAML_NULL)
    in[0] = expand_inner(e, scope, y, index, "shortcut.", shortcut, "'shortcut'", x);
  in[1] = expand_inner(e, scope, y, index, "", body, "'residual'", x);
  return join(e, scope, y, index, "add", NULL, 2, in);
}

static Node *expand_parallel(Expand *e, Scope *scope, const Yaml *y, int index, Node *flow) {
  enum { MAX_BRANCHES = 64 };
  int before = diag_errors(e->c.d);
  check_section(&e->c, "parallel", NULL, y, y->loc, "'parallel'");
  const Yaml *body = yaml_get(y, "parallel");
  const Val *v = check_section(&e->c, "parallel body", NULL, body, body->loc, "'parallel'");
  const Yaml *branches = yaml_get(body, "branches");
  Node *x = expand_incoming(e, scope, y, flow), *end[MAX_BRANCHES];
  if (diag_errors(e->c.d) > before || !v) {
    e->failed = true;
    return flow;
  }
  if (branches->kind != YAML_LIST || branches->n < 2 || branches->n > MAX_BRANCHES) {
    expand_fail(e, branches->loc, 201, "'branches' takes a list of 2 to 64 lists of layers");
    return flow;
  }
  for (int i = 0; i < branches->n; i++)
    end[i] = expand_inner(e, scope, y, index, str_fmt(e->c.s, "%d.", i), branches->u.item[i],
                          "a branch", x);
  Str combine = val_get_str(v, "combine", "add");
  Val *args = val_new(e->c.a, VAL_MAP, ORIGIN_IMPLIED, y->loc);
  if (!strcmp(combine, "cat"))
    val_set(e->c.a, args, str_c(e->c.s, "dim"), val_get(v, "dim"));
  else if (yaml_get(body, "dim"))
    expand_fail(e, yaml_get(body, "dim")->loc, 102, "'dim' belongs to combine: cat");
  return join(e, scope, y, index, combine, args->n ? args : NULL, branches->n, end);
}

static Node *expand_item(Expand *e, Scope *scope, const Yaml *y, int index, Node *flow) {
  static const struct {
    const char *key;
    Node *(*expand)(Expand *e, Scope *scope, const Yaml *y, int index, Node *flow);
  } structure[] = {
      {"use", expand_use}, {"residual", expand_residual}, {"parallel", expand_parallel}};
  for (size_t i = 0; i < sizeof structure / sizeof *structure && y->kind == YAML_MAP; i++) {
    if (!yaml_get(y, structure[i].key))
      continue;
    const Yaml *p = yaml_get(y, "precision"), *name = yaml_get(y, "name");
    const PrecisionRegion outer = e->region;
    if (p && p->kind == YAML_SCALAR) {
      const Val *v = check_value(&e->c, schema_find(e->c.rows, structure[i].key, "precision"), p,
                                 "'precision'");
      Str rule = name && name->kind == YAML_SCALAR
                     ? str_fmt(e->c.s, "precision of %s '%s'", structure[i].key, name->text)
                     : str_fmt(e->c.s, "precision of a %s", structure[i].key);
      e->region = expand_region(e, v, rule);
    }
    flow = structure[i].expand(e, scope, y, index, flow);
    e->region = outer;
    return flow;
  }
  return expand_layer(e, scope, y, index, flow);
}

Node *expand_list(Expand *e, Scope *scope, const Yaml *y, const char *what, Node *flow) {
  if (y->kind != YAML_LIST || !y->n) {
    diag_error(e->c.d, y->loc, 201, "%s takes a list of layers, not %s", what,
               y->kind == YAML_LIST ? "an empty one" : yaml_kind_text(y));
    e->failed = true;
    return flow;
  }
  if (e->depth + 1 >= MODEL_MAX_DEPTH) {
    expand_fail(e, y->loc, 105, "lists of layers are nested too deep");
    return flow;
  }
  e->depth++;
  e->active[e->depth] = NULL;
  for (int i = 0; i < y->n && !arena_failed(e->c.a); i++)
    flow = expand_item(e, scope, y->u.item[i], i, flow);
  e->depth--;
  return flow;
}

/* ---- what backward computes again ---- */

void expand_recompute(Expand *e, Str prefix, Str mode) {
  Region **end = &e->m->region, *r = ARENA_NEW(e->c.a, Region);
  if (!mode || !strcmp(mode, "none"))
    return;
  while (*end)
    end = &(*end)->next;
  *r = (Region){prefix, mode, NULL};
  *end = r;
}

static bool names_layers(const Model *m, const char *prefix) {
  size_t n = strlen(prefix);
  for (int i = 0; i < m->nnode; i++) {
    const char *name = m->node[i]->name;
    if (!strncmp(name, prefix, n) && (!name[n] || name[n] == '.'))
      return true;
  }
  return false;
}

/* Those of layers, whose names are settled, and `recompute` of the model. Uses gave theirs. */
static void add_regions(Expand *e, const Yaml *y) {
  Model *m = e->m;
  for (int i = 0; i < m->nnode; i++)
    expand_recompute(e, m->node[i]->name, m->node[i]->recompute);
  if (!y || y->kind == YAML_NULL)
    return;
  if (y->kind != YAML_MAP) {
    expand_fail(e, y->loc, 201,
                "'recompute' of the model takes a map {name of a layer or use: full}");
    return;
  }
  for (int i = 0; i < y->n; i++) {
    const YamlPair *p = &y->u.pair[i];
    Val *mode =
        check_value(&e->c, schema_find(e->c.rows, "use", "recompute"), p->value, "'recompute'");
    if (mode && !names_layers(m, p->key->text)) {
      diag_error(e->c.d, p->key->loc, 221, "no layer is named '%s'", p->key->text);
      model_suggest(&e->c, m, p->key->text);
    }
    if (!mode || !names_layers(m, p->key->text))
      e->failed = true;
    else
      expand_recompute(e, p->key->text, mode->s);
  }
}

/* ---- the section ---- */

static void expand_inputs(Expand *e, const Yaml *y) {
  Model *m = e->m;
  if (y->kind != YAML_MAP || !y->n) {
    expand_fail(e, y->loc, 201, "'inputs' of the model takes a map {NAME: {shape: [...]}}");
    return;
  }
  m->input = ARENA_ARRAY(e->c.a, Node *, y->n);
  for (int i = 0; i < y->n && !arena_failed(e->c.a); i++) {
    const YamlPair *p = &y->u.pair[i];
    if (!strncmp(p->key->text, "x-", 2))
      continue;
    int before = diag_errors(e->c.d);
    Val *v = check_section(&e->c, "input", NULL, p->value, p->value->loc,
                           str_fmt(e->c.s, "input '%s'", p->key->text));
    Node *n = ARENA_NEW(e->c.a, Node);
    *n = (Node){.name = p->key->text, .loc = p->key->loc, .args = v, .index = -1 - m->ninput};
    n->shape = val_get(v, "shape");
    m->input[m->ninput++] = n;
    e->failed |= diag_errors(e->c.d) > before;
    if (n->shape && n->shape->n > MAX_RANK - 1)
      expand_fail(e, n->shape->loc, 202, "'shape' takes at most 7 dimensions besides the batch");
  }
}

Node *model_find(const Model *m, const char *name) {
  for (int i = 0; i < m->noutput; i++)
    if (!strcmp(m->output_name[i], name))
      return m->output[i];
  for (int i = m->nnode - 1; i >= 0; i--)
    if (!strcmp(m->node[i]->name, name))
      return m->node[i];
  for (int i = 0; i < m->ninput; i++)
    if (!strcmp(m->input[i]->name, name))
      return m->input[i];
  return NULL;
}

bool model_suggest(const Check *c, const Model *m, const char *name) {
  size_t n = 0;
  const char **known = ARENA_ARRAY(c->a, const char *, m->nnode + m->ninput + m->noutput + 1);
  if (arena_failed(c->a))
    return false;
  for (int i = 0; i < m->noutput; i++)
    known[n++] = m->output_name[i];
  for (int i = 0; i < m->nnode; i++)
    known[n++] = m->node[i]->name;
  for (int i = 0; i < m->ninput; i++)
    known[n++] = m->input[i]->name;
  const char *near = diag_suggest(name, known, n);
  if (near)
    diag_hint(c->d, "did you mean '%s'?", near);
  return near != NULL;
}

static void expand_outputs(Expand *e, const Val *outputs) {
  Model *m = e->m;
  int n = outputs && outputs->kind == VAL_MAP ? outputs->n : 0;
  m->output = ARENA_ARRAY(e->c.a, Node *, n + 1);
  m->output_name = ARENA_ARRAY(e->c.a, Str, n + 1);
  if (arena_failed(e->c.a) || !m->nnode)
    return;
  if (!n) {
    m->output_name[0] = str_c(e->c.s, "logits");
    m->output[0] = m->node[m->nnode - 1];
    m->noutput = 1;
  }
  for (int i = 0; i < n; i++) {
    Node *node = model_find(m, outputs->item[i]->s);
    if (!node) {
      diag_error(e->c.d, outputs->item[i]->loc, 221, "no layer is named '%s'", outputs->item[i]->s);
      model_suggest(&e->c, m, outputs->item[i]->s);
      e->failed = true;
      continue;
    }
    m->output_name[m->noutput] = outputs->key[i];
    m->output[m->noutput++] = node;
  }
}

void model_check_used(const Check *c, Model *m) {
  for (int i = 0; i < m->noutput; i++)
    m->output[i]->used = true;
  for (int i = m->nnode - 1; i >= 0; i--)
    for (int k = 0; m->node[i]->used && k < m->node[i]->nin; k++)
      m->node[i]->in[k]->used = true;
  for (int i = 0; i < m->nnode; i++) {
    const char *tensors = layer_tensors(m->node[i]->type->key);
    if (!m->node[i]->used && tensors && *tensors) {
      diag_error(c->d, m->node[i]->loc, 320, "no output needs layer '%s' (%s)", m->node[i]->name,
                 m->node[i]->type->key);
      diag_hint(c->d, "name it in another layer's 'inputs', or remove it");
    }
  }
}

/* Zeros that nothing replaces would be trained from: every tensor must come from a file. */
static void check_empty_init(Expand *e, const Val *v) {
  const Val *init = val_get(v, "init"), *from = val_get(v, "init_from");
  e->m->empty_init = init && val_get_bool(init, "empty_init", false);
  if (!e->m->empty_init || (from && from->kind == VAL_MAP && val_get_bool(from, "strict", true)))
    return;
  diag_error(e->c.d, val_get(init, "empty_init")->loc, 201,
             "empty_init needs init_from, which reads every tensor (strict: true)");
  e->failed = true;
}

/* Its layers need values for its params, so that only its keys can be looked at. */
static void unused_block(Expand *e, const Yaml *key, const Yaml *body) {
  int before = diag_errors(e->c.d);
  check_section(&e->c, "block", NULL, body, body->loc, str_fmt(e->c.s, "block '%s'", key->text));
  if (diag_errors(e->c.d) > before)
    e->failed = true;
  else if (!e->failed)
    diag_warning(e->c.d, key->loc, "unused-block", "block '%s' is never used", key->text);
}

bool model_expand(const Check *c, const Yaml *y, Model *out) {
  *out = (Model){0};
  Expand e = {.c = *c, .m = out};
  int before = diag_errors(c->d);
  Val *v = check_section(c, "model", NULL, y, y->loc, "'model'");
  const Yaml *inputs = yaml_get(y, "inputs"), *layers = yaml_get(y, "layers");
  if (inputs)
    expand_inputs(&e, inputs);
  if (!v || !inputs || !layers || !out->ninput)
    return false;
  out->expect = val_get(v, "expect");
  out->init_from = val_get(v, "init_from");
  check_empty_init(&e, v);
  e.blocks = yaml_get(y, "blocks");
  if (e.blocks && e.blocks->kind != YAML_MAP) {
    expand_fail(&e, e.blocks->loc, 201, "'blocks' takes a map {NAME: {layers: [...]}}");
    e.blocks = NULL;
  }
  int nblock = e.blocks ? e.blocks->n : 0;
  e.block_used = ARENA_ARRAY(c->a, bool, nblock + 1);
  e.block_wrong = ARENA_ARRAY(c->a, bool, nblock + 1);
  if (arena_failed(c->a))
    return false;
  expand_default_init(&e, yaml_get(yaml_get(y, "init"), "default"));
  Scope scope = {.prefix = str_c(c->s, ""), .path = "", .input = out->input[0]};
  const Node *last = expand_list(&e, &scope, layers, "'layers'", out->input[0]);
  if (last->tuple && !yaml_get(y, "outputs"))
    expand_fail_tuple(&e, last->loc, last);
  e.failed |= diag_errors(c->d) > before;
  for (int i = 0; i < nblock && !arena_failed(c->a); i++)
    if (!e.block_used[i] && strncmp(e.blocks->u.pair[i].key->text, "x-", 2))
      unused_block(&e, e.blocks->u.pair[i].key, e.blocks->u.pair[i].value);
  if (!e.failed && !arena_failed(c->a))
    expand_settle_names(&e);
  if (!e.failed)
    expand_outputs(&e, val_get(v, "outputs"));
  if (!e.failed)
    add_regions(&e, yaml_get(y, "recompute"));
  return !e.failed && !arena_failed(c->a);
}
