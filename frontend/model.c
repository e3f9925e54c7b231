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
#include "frontend/frontend.h"

#include <stdlib.h>

enum { MODEL_MAX_NODES = 200000, MODEL_MAX_DEPTH = 64, MODEL_MAX_PARTS = 256 };

/* A name a layer can be called by inside a scope. */
typedef struct {
  Str name;
  Node *node;
} Name;

/* The model or one use of a block: prefix of full names, incoming value, names so far. */
typedef struct Scope {
  const struct Scope *outer;
  Str prefix; /* "h.0." or "" */
  Str path;   /* "2." inside item 2: before the index of layers without a name */
  Node *input;
  Name *name;
  int nname, cap;
} Scope;

typedef struct {
  Check c; /* scope of expressions changes on the way */
  Model *m;
  int node_cap;
  const Yaml *blocks;
  bool *block_used, *block_wrong; /* by index in blocks */
  const Yaml *init;               /* `default` of the model's init, and its values in order */
  Val *init_value;
  const char *active[MODEL_MAX_DEPTH]; /* blocks being expanded */
  int depth;
  PrecisionRegion region; /* of the innermost use, residual or parallel that names one */
  bool failed;
} Expand;

static void fail(Expand *e, Loc loc, int code, const char *text) {
  diag_error(e->c.d, loc, code, "%s", text);
  e->failed = true;
}

/* ---- names ---- */

static void scope_add(Expand *e, Scope *s, Str name, Node *node) {
  if (s->nname == s->cap) {
    int cap = s->cap ? 2 * s->cap : 16;
    Name *v = ARENA_ARRAY(e->c.a, Name, cap);
    if (arena_failed(e->c.a))
      return;
    if (s->nname)
      memcpy(v, s->name, (size_t)s->nname * sizeof *v);
    s->name = v;
    s->cap = cap;
  }
  s->name[s->nname++] = (Name){name, node};
}

static Node *scope_find(Expand *e, const Scope *scope, Str name) {
  if (!strcmp(name, "input") && scope->input)
    return scope->input;
  for (const Scope *s = scope; s; s = s->outer)
    for (int i = s->nname - 1; i >= 0; i--)
      if (s->name[i].name == name)
        return s->name[i].node;
  for (int i = 0; i < e->m->ninput; i++)
    if (e->m->input[i]->name == name)
      return e->m->input[i];
  return NULL;
}

static bool append_node(Expand *e, Node *n);

/* Part `h.1` of a tuple `h`, made a layer at its first use; NULL when there is no such tuple. */
static Node *find_part(Expand *e, const Scope *scope, Str name) {
  const char *dot = strrchr(name, '.');
  if (!dot || !dot[1] || strspn(dot + 1, "0123456789") != strlen(dot + 1) || strlen(dot) > 6)
    return NULL;
  Node *t = scope_find(e, scope, str_intern(e->c.s, name, (size_t)(dot - name)));
  int index = atoi(dot + 1);
  if (!t || !t->tuple || index >= MODEL_MAX_PARTS)
    return NULL;
  if (t->part[index])
    return t->part[index];
  Node *n = ARENA_NEW(e->c.a, Node);
  *n = *t;
  n->tuple = false;
  n->name = str_fmt(e->c.s, "%s.%d", t->name, index);
  n->args = val_new(e->c.a, VAL_MAP, t->args->origin, t->args->loc);
  for (int i = 0; i < t->args->n; i++)
    val_set(e->c.a, n->args, t->args->key[i], t->args->item[i]);
  val_set(e->c.a, n->args, str_c(e->c.s, "index"), val_int(e->c.a, index, ORIGIN_IMPLIED, t->loc));
  if (!append_node(e, n))
    return NULL;
  return t->part[index] = n;
}

static void fail_tuple(Expand *e, Loc loc, const Node *t) {
  diag_error(e->c.d, loc, 221, "'%s' (%s) has several results", t->name, t->type->key);
  diag_hint(e->c.d, "name one of them: inputs: %s.0", t->name);
  e->failed = true;
}

static Node *resolve(Expand *e, const Scope *scope, const Yaml *y) {
  Str name = check_str(&e->c, y, "a name in 'inputs'");
  Node *node = name ? scope_find(e, scope, name) : NULL;
  if (node && node->tuple) {
    fail_tuple(e, y->loc, node);
    return NULL;
  }
  if (name && !node)
    node = find_part(e, scope, name);
  if (name && !node) {
    const char *known[512];
    size_t n = 0;
    for (const Scope *s = scope; s; s = s->outer)
      for (int i = s->nname - 1; i >= 0 && n < 512; i--)
        known[n++] = s->name[i].name;
    for (int i = 0; i < e->m->ninput && n < 512; i++)
      known[n++] = e->m->input[i]->name;
    diag_error(e->c.d, y->loc, 221, "no layer or input before this one is named '%s'", name);
    const char *near = diag_suggest(name, known, n);
    if (near)
      diag_hint(e->c.d, "did you mean '%s'?", near);
  }
  e->failed |= !node;
  return node;
}

/* Puts a node behind those so far; false when there are too many. */
static bool append_node(Expand *e, Node *n) {
  Model *m = e->m;
  if (m->nnode == e->node_cap) {
    int cap = e->node_cap ? 2 * e->node_cap : 64;
    Node **v = ARENA_ARRAY(e->c.a, Node *, cap);
    if (arena_failed(e->c.a))
      return false;
    if (m->nnode)
      memcpy(v, m->node, (size_t)m->nnode * sizeof *v);
    m->node = v;
    e->node_cap = cap;
  }
  if (m->nnode >= MODEL_MAX_NODES) {
    if (!e->failed)
      fail(e, n->loc, 224, "the model has more than 200000 layers");
    return false;
  }
  n->index = m->nnode;
  m->node[m->nnode++] = n;
  return true;
}

static void set_inputs(Expand *e, Node *n, int nin, Node *const *in) {
  n->in = ARENA_ARRAY(e->c.a, Node *, nin + 1);
  if (arena_failed(e->c.a))
    return;
  for (int i = 0; i < nin; i++) {
    n->in[i] = in[i];
    if (in[i] && in[i]->tuple)
      fail_tuple(e, n->loc, in[i]);
  }
  n->nin = nin;
}

/* ---- layers ---- */

/* `inputs:` of a layer: a name, a list of names or a map of names. */
static void layer_inputs(Expand *e, const Scope *scope, Node *n, const Yaml *y, Node *flow) {
  if (!y) {
    set_inputs(e, n, 1, &flow);
    n->plain = true;
    return;
  }
  if (y->kind == YAML_SCALAR) {
    Node *one = resolve(e, scope, y);
    set_inputs(e, n, 1, &one);
    return;
  }
  if (y->kind == YAML_NULL || !y->n) {
    fail(e, y->loc, 205, "'inputs' is empty");
    return;
  }
  n->in = ARENA_ARRAY(e->c.a, Node *, y->n);
  n->in_key = y->kind == YAML_MAP ? ARENA_ARRAY(e->c.a, Str, y->n) : NULL;
  if (arena_failed(e->c.a))
    return;
  for (int i = 0; i < y->n; i++) {
    n->in[i] = resolve(e, scope, y->kind == YAML_MAP ? y->u.pair[i].value : y->u.item[i]);
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
  n->tie = resolve(e, scope, y);
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

/* Name of the item at `index` of a list: `name:` or path and index, behind the scope's prefix. */
static Str item_name(Expand *e, const Scope *scope, const Yaml *y, int index, Str *rel,
                     bool *auto_name) {
  const Yaml *given = y->kind == YAML_MAP ? yaml_get(y, "name") : NULL;
  *auto_name = !given;
  *rel = given ? check_str(&e->c, given, "'name'") : str_fmt(e->c.s, "%s%d", scope->path, index);
  if (*rel && given) {
    const char *s = *rel;
    size_t len = strlen(s);
    if (!len || s[0] == '.' || s[len - 1] == '.' || strstr(s, "..") ||
        strcspn(s, " *?{}[]\t\n/\"'") != len) {
      diag_error(e->c.d, given->loc, 220, "'%s' cannot be a name", s);
      diag_hint(e->c.d, "names are parts joined by dots, without spaces and * ? { } [ ] /");
      *rel = NULL;
    }
  }
  e->failed |= !*rel;
  return *rel ? str_fmt(e->c.s, "%s%s", scope->prefix, *rel) : NULL;
}

/* The region inside what names `v` (NULL: nothing): the innermost rules, as nested autocasts do. */
static PrecisionRegion inner_region(Expand *e, const Val *v, Str rule) {
  if (!v || v->kind != VAL_STR)
    return e->region;
  PrecisionRegion r = {precision_region(&e->c, v), rule, v->loc};
  e->failed |= !r.mode;
  return r;
}

static Node *expand_layer(Expand *e, Scope *scope, const Yaml *y, int index, Node *flow) {
  const SchemaRow *type;
  const Yaml *args;
  Str rel;
  bool auto_name;
  Str name = item_name(e, scope, y, index, &rel, &auto_name);
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
  if (!strcmp(type->key, "Parameter") && !yaml_get(args, "inputs"))
    n->nin = 0;
  else
    layer_inputs(e, scope, n, yaml_get(args, "inputs"), flow);
  const Yaml *init = yaml_get(args, "init"), *tie = yaml_get(args, "tie_weight");
  if (init)
    n->init = layer_init(e, n, init);
  default_init(e, n);
  if (tie && tie->kind != YAML_NULL)
    layer_tie(e, scope, n, tie);
  n->region = inner_region(e, val_get(n->args, "precision"), str_c(e->c.s, "its own precision"));
  n->recompute = val_get_str(n->args, "recompute", "none");
  n->tuple = layer_has_parts(type->key) && val_get_int(n->args, "index", -1) < 0;
  if (n->tuple)
    n->part = ARENA_ARRAY(e->c.a, Node *, MODEL_MAX_PARTS);
  else if (!append_node(e, n))
    return flow;
  scope_add(e, scope, rel, n);
  return n;
}

static Node *expand_list(Expand *e, Scope *scope, const Yaml *y, const char *what, Node *flow);

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
  Str name = item_name(e, scope, y, index, &rel, &auto_name);
  if (!name)
    return in[0];
  Node *n = ARENA_NEW(e->c.a, Node);
  *n = (Node){
      .type = schema_find("layer", type), .name = name, .auto_name = auto_name, .loc = y->loc};
  n->region = e->region;
  if (!append_node(e, n))
    return in[0];
  n->args = args
                ? args
                : check_section(&e->c, str_fmt(e->c.s, "layer %s", type), NULL, NULL, y->loc, type);
  set_inputs(e, n, nin, in);
  scope_add(e, scope, rel, n);
  return n;
}

/* Incoming value of a structure: its `inputs` or the flow. */
static Node *incoming(Expand *e, const Scope *scope, const Yaml *y, Node *flow) {
  const Yaml *inputs = yaml_get(y, "inputs");
  if (!inputs)
    return flow;
  if (inputs->kind == YAML_LIST && inputs->n == 1)
    inputs = inputs->u.item[0];
  Node *n = resolve(e, scope, inputs);
  return n ? n : flow;
}

static Node *expand_residual(Expand *e, Scope *scope, const Yaml *y, int index, Node *flow) {
  check_section(&e->c, "residual", NULL, y, y->loc, "'residual'");
  const Yaml *body = yaml_get(y, "residual"), *shortcut = NULL;
  Node *x = incoming(e, scope, y, flow);
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
  Node *x = incoming(e, scope, y, flow), *end[MAX_BRANCHES];
  if (diag_errors(e->c.d) > before || !v) {
    e->failed = true;
    return flow;
  }
  if (branches->kind != YAML_LIST || branches->n < 2 || branches->n > MAX_BRANCHES) {
    fail(e, branches->loc, 201, "'branches' takes a list of 2 to 64 lists of layers");
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
    fail(e, yaml_get(body, "dim")->loc, 102, "'dim' belongs to combine: cat");
  return join(e, scope, y, index, combine, args->n ? args : NULL, branches->n, end);
}

/* ---- what backward computes again ---- */

static void add_region(Expand *e, Str prefix, Str mode) {
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

/* ---- blocks ---- */

static int find_block(Expand *e, const Yaml *name_node, Str name) {
  const Yaml *b = e->blocks;
  const char *known[128];
  size_t n = 0;
  for (int i = 0; b && i < b->n; i++) {
    if (b->u.pair[i].key->text == name)
      return i;
    if (n < 128)
      known[n++] = b->u.pair[i].key->text;
  }
  diag_error(e->c.d, name_node->loc, 222, "no block is named '%s'", name);
  const char *near = diag_suggest(name, known, n);
  if (near)
    diag_hint(e->c.d, "did you mean '%s'?", near);
  e->failed = true;
  return -1;
}

/* Values of the block's params from `with`, evaluated where the use stands. false when one is
 * wrong. */
static bool bind_params(Expand *e, const Yaml *with, const Val *names, const Yaml *use,
                        ParamScope *out) {
  bool ok = true;
  out->param = ARENA_ARRAY(e->c.a, Param, names->n + 1);
  if (arena_failed(e->c.a))
    return false;
  if (with && with->kind != YAML_MAP) {
    diag_error(e->c.d, with->loc, 201, "'with' takes a map of parameters, not %s",
               yaml_kind_text(with));
    return false;
  }
  for (int i = 0; i < names->n; i++) {
    const Yaml *y = yaml_get(with, names->item[i]->s);
    if (!y) {
      diag_error(e->c.d, use->loc, 217, "parameter '%s' of block '%s' has no value",
                 names->item[i]->s, use->text);
      diag_hint(e->c.d, "give it in 'with: {%s: ...}'", names->item[i]->s);
      ok = false;
      continue;
    }
    Val *v = check_free(&e->c, y);
    ok &= v != NULL;
    out->param[out->n++] = (Param){names->item[i]->s, v, names->item[i]->loc, false};
  }
  for (int i = 0; with && i < with->n; i++) {
    const Yaml *key = with->u.pair[i].key;
    bool found = !strncmp(key->text, "x-", 2);
    for (int k = 0; k < names->n && !found; k++)
      found = names->item[k]->s == key->text;
    if (!found)
      diag_error(e->c.d, key->loc, 215, "block '%s' has no parameter '%s'", use->text, key->text);
    ok &= found;
  }
  return ok;
}

/* One use of a block under `rel`; names of its layers become names of the outer scope. */
static Node *expand_block(Expand *e, Scope *outer, const Yaml *layers, ParamScope *params, Str rel,
                          Node *flow) {
  Scope scope = {.outer = outer,
                 .prefix = str_fmt(e->c.s, "%s%s.", outer->prefix, rel),
                 .path = "",
                 .input = flow};
  const ParamScope *saved = e->c.scope;
  e->c.scope = params;
  Node *end = expand_list(e, &scope, layers, "'layers' of a block", flow);
  e->c.scope = saved;
  for (int i = 0; i < scope.nname; i++)
    scope_add(e, outer, str_fmt(e->c.s, "%s.%s", rel, scope.name[i].name), scope.name[i].node);
  scope_add(e, outer, rel, end);
  return end;
}

/* Params of a block's own that no layer read. */
static void unused_params(Expand *e, const ParamScope *p, const char *block) {
  for (int i = 0; i < p->n && !e->failed; i++)
    if (!p->param[i].used && strcmp(p->param[i].name, "i")) {
      diag_error(e->c.d, p->param[i].loc, 216, "parameter '%s' of block '%s' is never used",
                 p->param[i].name, block);
      e->failed = true;
    }
}

typedef struct {
  const Yaml *use, *name, *layers, *with;
  Str block;
  const Val *params; /* names the block declares */
  int64_t repeat;    /* -1: not given */
  bool *wrong;       /* set when the block's own layers have mistakes */
  Str recompute;
} Use;

static Node *expand_uses(Expand *e, Scope *scope, const Yaml *y, int index, const Use *u,
                         Node *flow) {
  const ParamScope *outer = e->c.scope;
  int64_t n = u->repeat < 0 ? 1 : u->repeat;
  bool counted = !u->name || strstr(u->name->text, "$i") || strstr(u->name->text, "$(");
  if (n > 1 && !counted) {
    diag_error(e->c.d, u->name->loc, 220, "every repeat would be named '%s'", u->name->text);
    diag_hint(e->c.d, "write $i where the count belongs: '%s$i'", u->name->text);
    e->failed = true;
    return flow;
  }
  for (int64_t i = 0; i < n && !e->failed; i++) {
    Param counter = {.name = str_c(e->c.s, "i"),
                     .value = val_int(e->c.a, i, ORIGIN_IMPLIED, y->loc),
                     .loc = y->loc};
    ParamScope count = {.outer = outer, .n = u->repeat >= 0, .param = &counter};
    e->c.scope = &count;
    Str rel;
    bool auto_name;
    item_name(e, scope, y, index, &rel, &auto_name);
    if (rel && auto_name && u->repeat >= 0)
      rel = str_fmt(e->c.s, "%s.%lld", rel, (long long)i);
    ParamScope own = {.outer = &count};
    if (rel && bind_params(e, u->with, u->params, u->use, &own)) {
      int before = diag_errors(e->c.d);
      add_region(e, str_fmt(e->c.s, "%s%s", scope->prefix, rel), u->recompute);
      flow = expand_block(e, scope, u->layers, &own, rel, flow);
      unused_params(e, &own, u->block);
      *u->wrong |= diag_errors(e->c.d) > before;
    } else {
      e->failed = true;
    }
    e->c.scope = outer;
  }
  return flow;
}

static Node *expand_use(Expand *e, Scope *scope, const Yaml *y, int index, Node *flow) {
  int before = diag_errors(e->c.d);
  const Val *v = check_section(&e->c, "use", NULL, y, y->loc, "'use'");
  const Yaml *use = yaml_get(y, "use");
  Str block = val_get_str(v, "use", NULL);
  if (diag_errors(e->c.d) > before || !block) {
    e->failed = true;
    return flow;
  }
  int k = find_block(e, use, block);
  if (k < 0)
    return flow;
  e->block_used[k] = true;
  if (e->block_wrong[k]) { /* its mistakes have been reported at an earlier use */
    e->failed = true;
    return flow;
  }
  for (int i = 0; i < e->depth; i++)
    if (e->active[i] == block) {
      diag_error(e->c.d, use->loc, 223, "block '%s' uses itself", block);
      e->failed = true;
      return flow;
    }
  const Yaml *body = e->blocks->u.pair[k].value;
  Str where = str_fmt(e->c.s, "block '%s'", block);
  const Val *b = check_section(&e->c, "block", NULL, body, body->loc, where);
  if (diag_errors(e->c.d) > before || !b) {
    e->failed = e->block_wrong[k] = true;
    return flow;
  }
  Use u = {.use = use,
           .name = yaml_get(y, "name"),
           .layers = yaml_get(body, "layers"),
           .with = yaml_get(y, "with"),
           .block = block,
           .params = val_get(b, "params"),
           .repeat = val_get_int(v, "repeat", -1),
           .wrong = &e->block_wrong[k],
           .recompute = val_get_str(v, "recompute", "none")};
  bool failed = e->failed;
  e->failed = false; /* one repeat with a mistake ends the repeats, earlier mistakes do not */
  e->active[e->depth] = block;
  flow = incoming(e, scope, y, flow);
  flow = expand_uses(e, scope, y, index, &u, flow);
  e->active[e->depth] = NULL;
  e->failed |= failed;
  return flow;
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
      const Val *v =
          check_value(&e->c, schema_find(structure[i].key, "precision"), p, "'precision'");
      Str rule = name && name->kind == YAML_SCALAR
                     ? str_fmt(e->c.s, "precision of %s '%s'", structure[i].key, name->text)
                     : str_fmt(e->c.s, "precision of a %s", structure[i].key);
      e->region = inner_region(e, v, rule);
    }
    flow = structure[i].expand(e, scope, y, index, flow);
    e->region = outer;
    return flow;
  }
  return expand_layer(e, scope, y, index, flow);
}

/* Layers of a list in order; its outgoing value. */
static Node *expand_list(Expand *e, Scope *scope, const Yaml *y, const char *what, Node *flow) {
  if (y->kind != YAML_LIST || !y->n) {
    diag_error(e->c.d, y->loc, 201, "%s takes a list of layers, not %s", what,
               y->kind == YAML_LIST ? "an empty one" : yaml_kind_text(y));
    e->failed = true;
    return flow;
  }
  if (e->depth + 1 >= MODEL_MAX_DEPTH) {
    fail(e, y->loc, 105, "lists of layers are nested too deep");
    return flow;
  }
  e->depth++;
  e->active[e->depth] = NULL;
  for (int i = 0; i < y->n && !arena_failed(e->c.a); i++)
    flow = expand_item(e, scope, y->u.item[i], i, flow);
  e->depth--;
  return flow;
}

/* ---- the section ---- */

static void expand_inputs(Expand *e, const Yaml *y) {
  Model *m = e->m;
  if (y->kind != YAML_MAP || !y->n) {
    fail(e, y->loc, 201, "'inputs' of the model takes a map {NAME: {shape: [...]}}");
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
      fail(e, n->shape->loc, 202, "'shape' takes at most 7 dimensions besides the batch");
  }
}

static void check_default_init(Expand *e, const Yaml *y) {
  if (!y || y->kind == YAML_NULL)
    return;
  if (y->kind != YAML_MAP) {
    fail(e, y->loc, 201, "'default' of 'init' takes a map {weight: ..., bias: ...}");
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

void model_suggest(const Check *c, const Model *m, const char *name) {
  size_t n = 0;
  const char **known = ARENA_ARRAY(c->a, const char *, m->nnode + m->ninput + 1);
  if (arena_failed(c->a))
    return;
  for (int i = 0; i < m->nnode; i++)
    known[n++] = m->node[i]->name;
  for (int i = 0; i < m->ninput; i++)
    known[n++] = m->input[i]->name;
  const char *near = diag_suggest(name, known, n);
  if (near)
    diag_hint(c->d, "did you mean '%s'?", near);
}

/* Those of layers, whose names are settled, and `recompute` of the model. Uses gave theirs. */
static void add_regions(Expand *e, const Yaml *y) {
  Model *m = e->m;
  for (int i = 0; i < m->nnode; i++)
    add_region(e, m->node[i]->name, m->node[i]->recompute);
  if (!y || y->kind == YAML_NULL)
    return;
  if (y->kind != YAML_MAP) {
    fail(e, y->loc, 201, "'recompute' of the model takes a map {name of a layer or use: full}");
    return;
  }
  for (int i = 0; i < y->n; i++) {
    const YamlPair *p = &y->u.pair[i];
    Val *mode = check_value(&e->c, schema_find("use", "recompute"), p->value, "'recompute'");
    if (mode && !names_layers(m, p->key->text)) {
      diag_error(e->c.d, p->key->loc, 221, "no layer is named '%s'", p->key->text);
      model_suggest(&e->c, m, p->key->text);
    }
    if (!mode || !names_layers(m, p->key->text))
      e->failed = true;
    else
      add_region(e, p->key->text, mode->s);
  }
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

/* Unique names: given ones must differ; those from an index get a number behind when taken. */
static void settle_names(Expand *e) {
  Model *m = e->m;
  /* open addressing over interned pointers is not ordered output, only membership */
  size_t cap = 64;
  while (cap < 2 * (size_t)(m->nnode + m->ninput + 1))
    cap *= 2;
  Node **table = ARENA_ARRAY(e->c.a, Node *, cap);
  if (arena_failed(e->c.a))
    return;
  for (int pass = 0; pass < 2; pass++)
    for (int i = 0; i < m->nnode; i++) {
      Node *n = m->node[i];
      if (n->auto_name != (pass == 1))
        continue;
      Str base = n->name;
      for (int tries = 0;; tries++) {
        size_t at = 1469598103934665603u;
        for (const char *p = n->name; *p; p++)
          at = (at ^ (unsigned char)*p) * 1099511628211u;
        for (at &= cap - 1; table[at] && table[at]->name != n->name; at = (at + 1) & (cap - 1))
          ;
        if (!table[at]) {
          table[at] = n;
          break;
        }
        const char *tensors = layer_tensors(n->type->key);
        if (!n->auto_name || (tensors && *tensors)) {
          diag_error(e->c.d, n->loc, 220, "two layers are named '%s'", n->name);
          diag_note(e->c.d, table[at]->loc, "the other one");
          diag_hint(e->c.d, "give one of them another 'name'");
          e->failed = true;
          break;
        }
        n->name = str_fmt(e->c.s, "%s_%d", base, tries + 1);
      }
      if (e->failed)
        return;
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
    fail(&e, e.blocks->loc, 201, "'blocks' takes a map {NAME: {layers: [...]}}");
    e.blocks = NULL;
  }
  int nblock = e.blocks ? e.blocks->n : 0;
  e.block_used = ARENA_ARRAY(c->a, bool, nblock + 1);
  e.block_wrong = ARENA_ARRAY(c->a, bool, nblock + 1);
  if (arena_failed(c->a))
    return false;
  check_default_init(&e, yaml_get(yaml_get(y, "init"), "default"));
  Scope scope = {.prefix = str_c(c->s, ""), .path = "", .input = out->input[0]};
  const Node *last = expand_list(&e, &scope, layers, "'layers'", out->input[0]);
  if (last->tuple && !yaml_get(y, "outputs"))
    fail_tuple(&e, last->loc, last);
  e.failed |= diag_errors(c->d) > before;
  for (int i = 0; e.blocks && i < e.blocks->n && !e.failed && !arena_failed(c->a); i++)
    if (!e.block_used[i] && strncmp(e.blocks->u.pair[i].key->text, "x-", 2))
      diag_warning(c->d, e.blocks->u.pair[i].key->loc, "unused-block", "block '%s' is never used",
                   e.blocks->u.pair[i].key->text);
  if (!e.failed && !arena_failed(c->a))
    settle_names(&e);
  if (!e.failed)
    expand_outputs(&e, val_get(v, "outputs"));
  if (!e.failed)
    add_regions(&e, yaml_get(y, "recompute"));
  return !e.failed && !arena_failed(c->a);
}

/* ---- the effective model ---- */

static Val *inputs_value(const Check *c, const Node *n) {
  if (!n->in_key && n->nin == 1)
    return val_str(c->a, n->in[0]->name, ORIGIN_FILE, n->loc);
  Val *v = val_new(c->a, n->in_key ? VAL_MAP : VAL_LIST, ORIGIN_FILE, n->loc);
  for (int i = 0; i < n->nin; i++) {
    Val *name = val_str(c->a, n->in[i]->name, ORIGIN_FILE, n->loc);
    if (n->in_key)
      val_set(c->a, v, n->in_key[i], name);
    else
      val_add(c->a, v, name);
  }
  return v;
}

static Val *node_value(const Check *c, const Model *m, const Node *n) {
  Val *v = val_new(c->a, VAL_MAP, ORIGIN_FILE, n->loc);
  const Node *before = n->index > 0 ? m->node[n->index - 1] : m->input[0];
  val_set(c->a, v, str_c(c->s, "type"),
          val_str(c->a, str_c(c->s, n->type->key), ORIGIN_FILE, n->loc));
  val_set(c->a, v, str_c(c->s, "name"),
          val_str(c->a, n->name, n->auto_name ? ORIGIN_IMPLIED : ORIGIN_FILE, n->loc));
  if (n->nin && (n->nin > 1 || n->in_key || n->in[0] != before))
    val_set(c->a, v, str_c(c->s, "inputs"), inputs_value(c, n));
  Str section = str_fmt(c->s, "layer %s", n->type->key);
  for (int i = 0; i < n->args->n; i++) {
    Val *arg = n->args->item[i];
    bool says = arg && (arg->kind != VAL_NULL || arg->origin == ORIGIN_FILE);
    if (says && schema_find(section, n->args->key[i]))
      val_set(c->a, v, n->args->key[i], arg);
  }
  if (n->init && n->init->n)
    val_set(c->a, v, str_c(c->s, "init"), *n->init->key[0] ? n->init : n->init->item[0]);
  if (n->tie)
    val_set(c->a, v, str_c(c->s, "tie_weight"), val_str(c->a, n->tie->name, ORIGIN_FILE, n->loc));
  static const char *const set[] = {"freeze", "pad_to_multiple_of", "float32_matmul",
                                    "float32_conv"};
  for (int i = 0; i < 4; i++) {
    Val *arg = val_get(n->args, set[i]);
    if (arg && arg->origin != ORIGIN_DEFAULT && arg->kind != VAL_NULL)
      val_set(c->a, v, str_c(c->s, set[i]), arg);
  }
  if (n->region.mode)
    val_set(c->a, v, str_c(c->s, "precision"),
            val_str(c->a, n->region.mode, ORIGIN_FILE, n->region.loc));
  return v;
}

Val *model_value(const Check *c, const Model *m) {
  Val *v = val_new(c->a, VAL_MAP, ORIGIN_FILE, (Loc){0});
  Val *inputs = val_new(c->a, VAL_MAP, ORIGIN_FILE, (Loc){0});
  for (int i = 0; i < m->ninput; i++)
    val_set(c->a, inputs, m->input[i]->name, m->input[i]->args);
  val_set(c->a, v, str_c(c->s, "inputs"), inputs);
  Val *outputs = val_new(c->a, VAL_MAP, ORIGIN_FILE, (Loc){0});
  for (int i = 0; i < m->noutput; i++)
    val_set(c->a, outputs, m->output_name[i],
            val_str(c->a, m->output[i]->name, ORIGIN_FILE, m->output[i]->loc));
  val_set(c->a, v, str_c(c->s, "outputs"), outputs);
  Val *layers = val_new(c->a, VAL_LIST, ORIGIN_FILE, (Loc){0});
  for (int i = 0; i < m->nnode; i++)
    val_add(c->a, layers, node_value(c, m, m->node[i]));
  val_set(c->a, v, str_c(c->s, "layers"), layers);
  Val *again = val_new(c->a, VAL_MAP, ORIGIN_FILE, (Loc){0});
  for (const Region *r = m->region; r; r = r->next)
    val_set(c->a, again, r->prefix, val_str(c->a, r->mode, ORIGIN_FILE, (Loc){0}));
  if (again->n)
    val_set(c->a, v, str_c(c->s, "recompute"), again);
  if (m->empty_init) {
    Val *init = val_new(c->a, VAL_MAP, ORIGIN_FILE, (Loc){0}), *on;
    val_set(c->a, init, str_c(c->s, "empty_init"),
            on = val_new(c->a, VAL_BOOL, ORIGIN_FILE, (Loc){0}));
    on->i = 1;
    val_set(c->a, v, str_c(c->s, "init"), init);
  }
  if (m->init_from && m->init_from->kind == VAL_MAP)
    val_set(c->a, v, str_c(c->s, "init_from"), m->init_from);
  if (m->expect && val_get(m->expect, "parameters") &&
      val_get(m->expect, "parameters")->kind != VAL_NULL)
    val_set(c->a, v, str_c(c->s, "expect"), m->expect);
  return v;
}
