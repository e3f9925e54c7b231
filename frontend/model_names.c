/* Names of a model: scopes, what a name resolves to, the list of layers so far, and the settling of
 * names at the end. */
#include "frontend/model.h"

#include <stdlib.h>

void expand_fail(Expand *e, Loc loc, int code, const char *text) {
  diag_error(e->c.d, loc, code, "%s", text);
  e->failed = true;
}

void scope_add(Expand *e, Scope *s, Str name, Node *node) {
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
  if (!expand_append(e, n))
    return NULL;
  return t->part[index] = n;
}

void expand_fail_tuple(Expand *e, Loc loc, const Node *t) {
  diag_error(e->c.d, loc, 221, "'%s' (%s) has several results", t->name, t->type->key);
  diag_hint(e->c.d, "name one of them: inputs: %s.0", t->name);
  e->failed = true;
}

Node *scope_resolve(Expand *e, const Scope *scope, const Yaml *y) {
  Str name = check_str(&e->c, y, "a name in 'inputs'");
  Node *node = name ? scope_find(e, scope, name) : NULL;
  if (node && node->tuple) {
    expand_fail_tuple(e, y->loc, node);
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

bool expand_append(Expand *e, Node *n) {
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
      expand_fail(e, n->loc, 224, "the model has more than 200000 layers");
    return false;
  }
  n->index = m->nnode;
  m->node[m->nnode++] = n;
  return true;
}

void node_set_inputs(Expand *e, Node *n, int nin, Node *const *in) {
  n->in = ARENA_ARRAY(e->c.a, Node *, nin + 1);
  if (arena_failed(e->c.a))
    return;
  for (int i = 0; i < nin; i++) {
    n->in[i] = in[i];
    if (in[i] && in[i]->tuple)
      expand_fail_tuple(e, n->loc, in[i]);
  }
  n->nin = nin;
}

Str expand_name(Expand *e, const Scope *scope, const Yaml *y, int index, Str *rel,
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

void expand_settle_names(Expand *e) {
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
