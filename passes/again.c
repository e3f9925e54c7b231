/* again: what a block with `recompute` made for backward is thrown away and made once more there.
 *
 * Kernels of the forward half that belong to a region (attribute recompute.<i> of the module, set
 * on groups by fuse as `region`) are copied to where backward first reads one of their results; the
 * copy reads what the original read. `full` keeps what leaves the region in forward, so a block's
 * input; `attention` copies attention kernels alone. Copies are the same kernels over the same
 * numbers, the same random bits and FP8 scales among them: every bit of the step stays what it was.
 * What a copy gives beyond the values asked for (largest magnitudes, running statistics) nothing
 * reads. Behind fuse, because how kernels are joined decides where values are rounded [N10]. Stage
 * kernels. */
#include <stdio.h>
#include <string.h>

#include "passes/passes.h"

/* Mode and prefix of region r; false when there is none. */
static bool region_text(const Module *m, int r, bool *full, const char **prefix) {
  char key[48];
  snprintf(key, sizeof key, "recompute.%d", r - 1);
  const char *text = module_str(m, key, ""), *space = strchr(text, ' ');
  if (!space)
    return false;
  *full = !strncmp(text, "full ", 5);
  *prefix = space + 1;
  return true;
}

int recompute_region(const Module *m, const char *layer) {
  int best = 0;
  size_t longest = 0;
  bool full;
  const char *prefix;
  for (int r = 1; layer && region_text(m, r, &full, &prefix); r++) {
    size_t n = strlen(prefix);
    if (n >= longest && !strncmp(layer, prefix, n) && (!layer[n] || layer[n] == '.')) {
      best = r;
      longest = n;
    }
  }
  return best;
}

typedef struct {
  Copier c;
  const Module *m;
  Arena *a;
  bool *leaves; /* by value id: read in forward outside its region */
  Value **copy; /* by value id: made again */
} Again;

/* Region whose kernels are made again, and whether op is one of them. */
static int region_of(const Again *g, const Op *op, bool *full) {
  const char *prefix;
  int r = (int)op_int(op, "region", 0);
  if (op->code != OP_group || op_int(op, "backward", 0) || !r ||
      !region_text(g->m, r, full, &prefix))
    return 0;
  return *full || !strcmp(op_str(op, "kind", ""), "attention") ? r : 0;
}

static void find_leaving(Again *g, const Func *f) {
  bool full;
  for (int i = 0; i < f->nop; i++) {
    const Op *op = f->op[i];
    bool backward = op_int(op, "backward", 0);
    int r = region_of(g, op, &full);
    for (int k = 0; k < op->nin; k++)
      g->leaves[op->in[k]->id] |= !backward && region_of(g, op->in[k]->def, &full) != r;
  }
}

/* The region in which v is made again when backward or a copy of region r reads it, or 0. */
static int made_again(const Again *g, const Value *v) {
  bool full = false;
  int r = region_of(g, v->def, &full);
  return r && full && g->leaves[v->id] ? 0 : r;
}

/* An op without the marks of fuse, over these operands. */
static Op *plain_copy(Again *g, const Op *op, Value *const *in, bool recompute) {
  Builder *b = g->c.b;
  Attr *attr = ARENA_ARRAY(g->a, Attr, op->nattr + 1);
  const Type **types = ARENA_ARRAY(g->a, const Type *, op->nout + 1);
  int n = 0;
  if (arena_failed(g->a))
    return NULL;
  for (int i = 0; i < op->nattr; i++)
    if (strcmp(op->attr[i].key, "backward") != 0 && strcmp(op->attr[i].key, "region") != 0)
      attr[n++] = op->attr[i];
  for (int i = 0; i < op->nout; i++)
    types[i] = op->out[i]->type;
  build_at(b, op->loc, op->layer,
           recompute ? str_c(builder_strings(b), "computed again") : op->why);
  return build_op_typed(b, OP_group, op->nin, in, n, attr, op->nout, types, op->body);
}

/* v as backward reads it: made again at its first use. Regions nest no deeper than forward itself:
 * a copy takes what other regions made from where they stored it. */
static Value *reread(Again *g, const Value *v, int from) {
  int r = made_again(g, v);
  if (!r || (from && from != r))
    return copier_get(&g->c, v);
  if (g->copy[v->id])
    return g->copy[v->id];
  const Op *op = v->def;
  Value **in = ARENA_ARRAY(g->a, Value *, op->nin + 1);
  if (arena_failed(g->a))
    return copier_get(&g->c, v);
  for (int i = 0; i < op->nin; i++)
    in[i] = reread(g, op->in[i], r);
  Op *again = plain_copy(g, op, in, true);
  for (int i = 0; again && i < op->nout; i++)
    g->copy[op->out[i]->id] = again->out[i];
  return again ? g->copy[v->id] : copier_get(&g->c, v);
}

static void again_func(Again *g, const Func *f) {
  g->leaves = ARENA_ARRAY(g->a, bool, f->nvalue + 1);
  g->copy = ARENA_ARRAY(g->a, Value *, f->nvalue + 1);
  if (arena_failed(g->a))
    return;
  find_leaving(g, f);
  for (int i = 0; i < f->nop && !arena_failed(g->a) && !builder_failed(g->c.b); i++) {
    const Op *op = f->op[i];
    if (op->code != OP_group) {
      copier_op(&g->c, op);
      continue;
    }
    bool backward = op_int(op, "backward", 0);
    Value **in = ARENA_ARRAY(g->a, Value *, op->nin + 1);
    for (int k = 0; k < op->nin && !arena_failed(g->a); k++)
      in[k] = backward ? reread(g, op->in[k], 0) : copier_get(&g->c, op->in[k]);
    Op *n = arena_failed(g->a) ? NULL : plain_copy(g, op, in, false);
    for (int k = 0; n && k < op->nout; k++)
      g->c.map[op->out[k]->id] = n->out[k];
  }
}

Status pass_again(const Module *in, const PassOpts *o, Builder *out, Diag *d) {
  (void)o, (void)d;
  Again g = {.m = in};
  copier_init(&g.c, out, in);
  bool any = attr_find(in->attr, in->nattr, "recompute.0") != NULL;
  for (int i = 0; i < in->nfunc; i++) {
    const Func *f = in->func[i];
    copier_func(&g.c, f, f->name);
    g.a = arena_create();
    if (!g.a)
      return MPCC_ERR_NOMEM;
    if (any)
      again_func(&g, f);
    for (int k = 0; !any && k < f->nop && !builder_failed(out); k++)
      copier_op(&g.c, f->op[k]);
    bool failed = arena_failed(g.a);
    arena_destroy(g.a);
    if (failed)
      return MPCC_ERR_NOMEM;
  }
  return MPCC_OK;
}
