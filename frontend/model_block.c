/* Uses of blocks: parameters bound where the use stands, repeats, layers under the use's name. */
#include "frontend/model.h"

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
  const Yaml *tie;
} Use;

/* Full prefix of the earlier use that `tie` names, the innermost scope first; NULL behind an error.
 */
static Str tied_prefix(Expand *e, const Scope *scope, const Yaml *tie) {
  Str name = check_str(&e->c, tie, "'tie'");
  for (const Scope *s = scope; name && s; s = s->outer) {
    Str prefix = str_fmt(e->c.s, "%s%s.", s->prefix, name);
    for (int i = 0; i < e->m->nnode; i++)
      if (!strncmp(e->m->node[i]->name, prefix, strlen(prefix)))
        return prefix;
  }
  if (name)
    diag_error(e->c.d, tie->loc, 221, "no use before this one is named '%s'", name);
  e->failed = true;
  return NULL;
}

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
    expand_name(e, scope, y, index, &rel, &auto_name);
    if (rel && auto_name && u->repeat >= 0)
      rel = str_fmt(e->c.s, "%s.%lld", rel, (long long)i);
    ParamScope own = {.outer = &count};
    if (rel && bind_params(e, u->with, u->params, u->use, &own)) {
      int before = diag_errors(e->c.d);
      expand_recompute(e, str_fmt(e->c.s, "%s%s", scope->prefix, rel), u->recompute);
      const Str mine = e->tie_mine, theirs = e->tie_theirs;
      if (u->tie && u->tie->kind != YAML_NULL && (e->tie_theirs = tied_prefix(e, scope, u->tie)))
        e->tie_mine = str_fmt(e->c.s, "%s%s.", scope->prefix, rel);
      if (!e->failed)
        flow = expand_block(e, scope, u->layers, &own, rel, flow);
      e->tie_mine = mine;
      e->tie_theirs = theirs;
      unused_params(e, &own, u->block);
      *u->wrong |= diag_errors(e->c.d) > before;
    } else {
      e->failed = true;
    }
    e->c.scope = outer;
  }
  return flow;
}

/* What the use says of all its layers, else what the one around it does. */
static Val *inherited(const Val *use, const char *key, Val *outer) {
  Val *v = (Val *)val_get(use, key);
  return v && v->origin != ORIGIN_DEFAULT ? v : outer;
}

Node *expand_use(Expand *e, Scope *scope, const Yaml *y, int index, Node *flow) {
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
           .recompute = val_get_str(v, "recompute", "none"),
           .tie = yaml_get(y, "tie")};
  Val *const freeze = e->freeze, *const training = e->training;
  e->freeze = inherited(v, "freeze", freeze);
  e->training = inherited(v, "training", training);
  bool failed = e->failed;
  e->failed = false; /* one repeat with a mistake ends the repeats, earlier mistakes do not */
  e->active[e->depth] = block;
  flow = expand_incoming(e, scope, y, flow);
  flow = expand_uses(e, scope, y, index, &u, flow);
  e->active[e->depth] = NULL;
  e->freeze = freeze;
  e->training = training;
  e->failed |= failed;
  return flow;
}
