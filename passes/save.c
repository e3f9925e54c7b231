/* save: values that the backward half of a step reads are stored or computed again.
 *
 * Backward begins behind the function's last loss. A forward value whose operands live until then
 * anyway (state, or values that backward reads for their own sake) is computed again in two cases.
 *
 * A cheap pointwise op made it (cast, mask, arithmetic; no transcendental) and backward uses it
 * pointwise only: no memory and next to no time, fuse puts it into the kernels that use it.
 *
 * Any pointwise op but a cast made it and backward multiplies it, as GELU between two products: one
 * more result of the kernel that has GELU's own gradient, or a small kernel, gives back a quarter of
 * what a transformer block stores.
 *
 * The copy carries attr recompute, so that value numbering keeps both. Where backward reads a value
 * pointwise and, for its own sake, a copy with zeros around it (of a depthwise convolution), the
 * copy's inside is read for both. Everything else is stored. Stage step to saved. The result does
 * not change: the copy rounds as the original does. */
#include <string.h>

#include "passes/passes.h"

enum { CHEAP_STMTS = 12 };

typedef struct {
  const Func *f;
  const PassOpts *o;
  int loss;     /* index of the op that ends forward; nop when there is none */
  bool *wanted; /* by value id: backward reads it for its own sake */
  bool *again;  /* by value id: computed again */
  const Op **held; /* by value id: the view or unslice of it that is stored, or held in turn */
} Save;

static bool is_backward(const Save *s, const Op *op) {
  return op->index > s->loss;
}

static bool is_cheap(const Op *op) {
  if (op_info(op->code)->kind != OK_ELEM || op->nout != 1)
    return false;
  if (!op->scalar)
    return true;
  for (int i = 0; i < op->scalar->nstmt; i++) {
    int p = op->scalar->stmt[i].prim;
    if (p == PR_EXP || p == PR_LOG || p == PR_TANH || p == PR_ERF || p == PR_COS || p == PR_SIN)
      return false;
  }
  return op->scalar->nstmt <= CHEAP_STMTS;
}

static bool used_pointwise(const Save *s, const Uses *u) {
  bool any = false;
  for (int i = 0; i < u->n; i++) {
    if (!is_backward(s, u->op[i]))
      continue;
    OpKind k = op_info(u->op[i]->code)->kind;
    if (k != OK_ELEM && k != OK_ROWS)
      return false;
    any = true;
  }
  return any;
}

static bool read_by_backward(const Save *s, const Uses *u) {
  for (int i = 0; i < u->n; i++)
    if (is_backward(s, u->op[i]))
      return true;
  return false;
}

/* What the op read of v is what lies in memory: kernels that make v and read it in one go need not
 * round in between [N10], and an epilogue of our own products does not. */
static bool is_as_read(const Save *s, const Value *v) {
  return dtype_bytes(v->type->dt) >= 4 || s->o->strict ||
         (s->o->caps && s->o->caps->library_products && op_info(v->def->code)->kind == OK_PRODUCT);
}

/* Worth its own kernel in backward, for the memory of its result. */
static bool is_worth_a_kernel(const Save *s, const Op *op, const Uses *u) {
  bool same = op_info(op->code)->kind == OK_ELEM && op->code != OP_cast && op->nout == 1 &&
              read_by_backward(s, u) && !used_pointwise(s, u);
  for (int i = 0; same && i < op->nin; i++)
    same = is_as_read(s, op->in[i]);
  return same;
}

static void decide(Save *s, Arena *a) {
  const Func *f = s->f;
  Uses *uses = func_uses(f, a);
  s->wanted = ARENA_ARRAY(a, bool, f->nvalue + 1);
  s->again = ARENA_ARRAY(a, bool, f->nvalue + 1);
  s->held = ARENA_ARRAY(a, const Op *, f->nvalue + 1);
  if (arena_failed(a))
    return;
  for (int i = 0; i < f->nop && i < s->loss; i++) {
    const Op *op = f->op[i];
    for (int o = 0; o < op->nout; o++) {
      int id = op->out[o]->id;
      s->wanted[id] = op->code == OP_read || op->code == OP_const || read_by_backward(s, &uses[id]);
    }
    const Uses *u = op->nout ? &uses[op->out[0]->id] : NULL;
    if (!u || !((is_cheap(op) && used_pointwise(s, u)) || is_worth_a_kernel(s, op, u)))
      continue;
    /* Operands come first, so what is computed again itself is known: it does not live. */
    bool live = type_elems(op->out[0]->type) > 1;
    for (int k = 0; k < op->nin; k++)
      live &= s->wanted[op->in[k]->id] && !s->again[op->in[k]->id];
    s->again[op->out[0]->id] = live;
  }
  for (int i = s->loss - 1; i >= 0; i--) {
    const Op *op = f->op[i];
    if (op->code != OP_unslice && op->code != OP_permute)
      continue;
    const Value *x = op->in[0], *y = op->out[0];
    bool stored = op->code == OP_unslice && s->wanted[y->id];
    if ((stored || s->held[y->id]) && !s->again[x->id] &&
        s->wanted[x->id] == used_pointwise(s, &uses[x->id]))
      s->held[x->id] = op;
  }
}

/* The elements of v where the stored copy has them. */
static Value *inside(const Save *s, Copier *c, const Value *v) {
  const Op *op = s->held[v->id];
  if (!op)
    return copier_get(c, v);
  Value *y = inside(s, c, op->out[0]);
  build_at(c->b, op->loc, op->layer,
           str_c(builder_strings(c->b), "save: inside of the padded copy"));
  if (op->code == OP_permute)
    return build_unpermute(c->b, y, op);
  const int dim = (int)op_int(op, "dim", 0);
  const int64_t start = op_int(op, "start", 0);
  return build_slice(c->b, y, dim, start, start + v->type->dim[dim]);
}

/* A copy of op behind what has been built; its operands are forward values. */
static Value *compute_again(Copier *c, const Op *op) {
  Builder *b = c->b;
  Value *in[8];
  Attr attr[16];
  int n = 0;
  for (int i = 0; i < op->nin; i++)
    in[i] = copier_get(c, op->in[i]);
  for (; n < op->nattr; n++)
    attr[n] = op->attr[n];
  attr[n++] = attr_b(b, "recompute", true);
  build_at(b, op->loc, op->layer, str_c(builder_strings(b), "save: computed again"));
  return build_op(b, op->code, op->nin, in, n, attr)->out[0];
}

static void save_func(Copier *c, const Func *f, const PassOpts *o, Arena *a) {
  Save s = {.f = f, .o = o, .loss = f->nop};
  for (int i = 0; i < f->nop; i++)
    if (op_info(f->op[i]->code)->is_root)
      s.loss = i;
  decide(&s, a);
  copier_func(c, f, f->name);
  if (arena_failed(a) || builder_failed(c->b))
    return;
  for (int i = 0; i < f->nop; i++) {
    const Op *op = f->op[i];
    for (int k = 0; i > s.loss && k < op->nin; k++) {
      const Value *v = op->in[k];
      if (s.again[v->id] && v->def->nin <= 8 && v->def->nattr <= 14)
        c->map[v->id] = compute_again(c, v->def);
      else if (s.held[v->id])
        c->map[v->id] = inside(&s, c, v);
      s.again[v->id] = false; /* backward shares one copy */
      s.held[v->id] = NULL;
    }
    copier_op(c, op);
  }
}

Status pass_save(const Module *in, const PassOpts *o, Builder *out, Diag *d) {
  (void)d;
  Copier c;
  copier_init(&c, out, in);
  for (int i = 0; i < in->nfunc; i++) {
    Arena *a = arena_create();
    if (!a)
      return MPCC_ERR_NOMEM;
    save_func(&c, in->func[i], o, a);
    bool failed = arena_failed(a);
    arena_destroy(a);
    if (failed)
      return MPCC_ERR_NOMEM;
  }
  return MPCC_OK;
}
