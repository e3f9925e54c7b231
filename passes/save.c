/* save: values that the backward half of a step reads are stored or computed again.
 *
 * Backward begins behind the function's last loss. A forward value whose operands live until then
 * anyway (state, or values that backward reads for their own sake) is computed again in two cases:
 *
 * A cheap pointwise op made it (cast, mask, arithmetic; no transcendental) and backward uses it
 * pointwise only: no memory and next to no time, fuse puts it into the kernels that use it.
 *
 * Any pointwise op or a norm made it and backward multiplies it, as GELU or LayerNorm before a
 * product: one more result of the kernel that has the gradient of GELU or of the norm, or a small
 * kernel, gives back a third of what a transformer block stores. Of a norm, backward has the
 * statistics.
 *
 * What a norm copied so reads in 16 bits is marked `as_stored`: forward's kernel rounds it before
 * the norm as memory does.
 *
 * Operands may be such copies in turn, a few ops deep: the norm in FP32 before the cast. And where
 * one operand is a wider copy of a library's result in 16 bits, that is stored in place of what
 * both make: the branch of a residual add in place of the sum.
 *
 * The copy carries attr recompute, so that value numbering keeps both. Where backward reads a value
 * pointwise and, for its own sake, a copy with zeros around it (of a depthwise convolution), the
 * copy's inside is read for both. Everything else is stored. Stage step to saved. The result does
 * not change: the copy rounds as the original does. */
#include <string.h>

#include "passes/passes.h"

enum {
  CHEAP_STMTS = 12,
  MOST_STEPS = 4, /* ops between a copy and what lives */
  NEVER = 1000,
  MOST_IN = 8,
  MOST_ATTR = 15
};

typedef struct {
  const Func *f;
  const PassOpts *o;
  int loss;     /* index of the op that ends forward; nop when there is none */
  bool *wanted; /* by value id: backward reads it for its own sake */
  bool *again;  /* by value id: computed again */
  bool *exact;  /* by value id: rounded before forward reads it, so that copies read the same */
  int *steps;   /* by value id: ops that give it in backward; 0: it lives, NEVER: it can not */
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

/* What an op read of v is what lies in memory: kernels that make v and read it in one go need not
 * round in between [N10], and an epilogue of our own products does not. Views and wider copies are
 * as exact as what they show. */
static bool is_as_read(const Save *s, const Value *v) {
  const Op *op = v->def;
  const OpKind kind = op_info(op->code)->kind;
  if (kind == OK_VIEW || (op->code == OP_cast && dtype_bytes(v->type->dt) >= 4))
    return is_as_read(s, op->in[0]);
  return dtype_bytes(v->type->dt) >= 4 || s->o->strict || op->code == OP_read ||
         (s->o->caps && s->o->caps->library_products && kind == OK_PRODUCT);
}

/* Its first result in terms of operands and statistics, in the steps of group_<op>; NULL: no norm.
 */
static const char *norm_formula(const Op *op) {
  static const char *const layer[] = {NULL, "(a - b) * c", "(a - b) * c * d",
                                      "(a - b) * c * d + e"};
  static const char *const rms[] = {NULL, "a * b", "a * b * c"};
  return op->code == OP_layer_norm ? layer[op->nin] : op->code == OP_rms_norm ? rms[op->nin] : NULL;
}

/* A pointwise op that can be copied. */
static bool fits(const Op *op) {
  return op_info(op->code)->kind == OK_ELEM && op->nout == 1 && op->nin <= MOST_IN &&
         op->nattr <= MOST_ATTR;
}

/* The value in 16 bits that x, the operand of a norm, shows, when kernels can be told to round it
 * first: sums of a residual stream. NULL: there is none. */
static const Value *rounded_first(const Value *x) {
  while (op_info(x->def->code)->kind == OK_VIEW)
    x = x->def->in[0];
  const bool half = dtype_is_float(x->type->dt) && dtype_bytes(x->type->dt) == 2;
  return half && fits(x->def) ? x : NULL;
}

/* Ops until backward has v to the bit, when each is computed again. */
static int count_steps(const Save *s, const Value *v) {
  const Op *op = v->def;
  bool norm = v->out == 0 && norm_formula(op);
  int n = 1;
  if (!norm && !fits(op))
    return NEVER;
  for (int i = 0; i < op->nin; i++) {
    const bool same = is_as_read(s, op->in[i]) || (norm && !i && rounded_first(op->in[i]));
    n += same ? s->steps[op->in[i]->id] : NEVER;
  }
  for (int i = 1; i < op->nout; i++)
    n += s->wanted[op->out[i]->id] ? 0 : NEVER;
  return n < NEVER ? n : NEVER;
}

/* What can live in place of v = op(x in 16 bits, what lives anyway), as the branch of a residual
 * add: x, in half the bytes. NULL: there is none. */
static const Value *narrow_part(const Save *s, const Value *v) {
  const Op *op = v->def;
  const Value *x = NULL;
  for (int i = 0; i < op->nin; i++) {
    const Value *wide = op->in[i];
    if (!s->steps[wide->id])
      continue;
    if (x || wide->def->code != OP_cast || !is_as_read(s, wide) ||
        type_bytes(wide->def->in[0]->type) >= type_bytes(v->type))
      return NULL;
    x = wide->def->in[0];
  }
  return x;
}

static void keep_instead(Save *s, const Value *v, const Value *x) {
  s->wanted[x->id] = true;
  s->steps[x->id] = 0;
  for (int i = 0; i < v->def->nin; i++)
    if (s->steps[v->def->in[i]->id])
      s->steps[v->def->in[i]->id] = 1; /* its cast */
  s->steps[v->id] = 2;
}

/* v and what it takes, as far as it does not live, or v alone of operands that do. */
static bool is_all_cheap(const Save *s, const Value *v) {
  bool cheap = is_cheap(v->def);
  for (int i = 0; cheap && i < v->def->nin; i++) {
    const Value *x = v->def->in[i];
    cheap = !s->steps[x->id] || s->again[x->id] || is_all_cheap(s, x);
  }
  return cheap;
}

static bool has_live_operands(const Save *s, const Op *op) {
  bool live = true;
  for (int i = 0; i < op->nin; i++)
    live &= !s->steps[op->in[i]->id];
  return live;
}

/* Worth its own kernel in backward, for the memory of its result. */
static bool is_worth_a_kernel(const Save *s, const Value *v, const Uses *u) {
  const Op *op = v->def;
  return read_by_backward(s, u) && !used_pointwise(s, u) &&
         !(op->code == OP_cast && op->in[0]->def->code == OP_read);
}

static void mark_again(Save *s, const Value *v) {
  if (!s->steps[v->id] || s->again[v->id])
    return;
  s->again[v->id] = true;
  if (norm_formula(v->def) && !is_as_read(s, v->def->in[0]))
    s->exact[rounded_first(v->def->in[0])->id] = true;
  for (int i = 0; i < v->def->nin; i++)
    mark_again(s, v->def->in[i]);
}

static void decide(Save *s, Arena *a) {
  const Func *f = s->f;
  Uses *uses = func_uses(f, a);
  s->wanted = ARENA_ARRAY(a, bool, f->nvalue + 1);
  s->again = ARENA_ARRAY(a, bool, f->nvalue + 1);
  s->exact = ARENA_ARRAY(a, bool, f->nvalue + 1);
  s->steps = ARENA_ARRAY(a, int, f->nvalue + 1);
  s->held = ARENA_ARRAY(a, const Op *, f->nvalue + 1);
  if (arena_failed(a))
    return;
  for (int i = 0; i < f->nop && i < s->loss; i++) {
    const Op *op = f->op[i];
    for (int o = 0; o < op->nout; o++) {
      int id = op->out[o]->id;
      s->wanted[id] = op->code == OP_read || op->code == OP_const || read_by_backward(s, &uses[id]);
    }
    for (int o = 0; o < op->nout; o++) {
      const Value *v = op->out[o];
      const Uses *u = &uses[v->id];
      s->steps[v->id] = count_steps(s, v);
      if (!s->wanted[v->id])
        continue;
      if (s->steps[v->id] >= NEVER && used_pointwise(s, u) && is_cheap(op)) {
        const Value *x = narrow_part(s, v);
        if (x)
          keep_instead(s, v, x);
      }
      const bool few = s->steps[v->id] <= MOST_STEPS;
      bool again = used_pointwise(s, u) ? (few || has_live_operands(s, op)) && is_all_cheap(s, v)
                                        : few && is_worth_a_kernel(s, v, u);
      if (again && type_elems(v->type) > 1)
        mark_again(s, v);
      else
        s->steps[v->id] = 0;
    }
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

/* y of a norm from x and its statistics, which lie in backward. */
static Value *normalize_again(Copier *c, const Op *op) {
  Builder *b = c->b;
  Value *in[5] = {copier_get(c, op->in[0])};
  const Type *x = op->in[0]->type, *y = op->out[0]->type;
  int n = 1;
  for (int i = 1; i < op->nout; i++) {
    const Type *rows = op->out[i]->type;
    int64_t dim[MAX_RANK];
    for (int k = 0; k < x->rank; k++)
      dim[k] = k < rows->rank ? rows->dim[k] : 1;
    in[n++] = build_reshape(b, copier_get(c, op->out[i]), x->rank, dim);
  }
  for (int i = 1; i < op->nin; i++)
    in[n++] = copier_get(c, op->in[i]);
  const Attr mark = attr_b(b, "recompute", true);
  return build_expr_attr(b, norm_formula(op), y->dt, n, in, &mark);
}

/* A copy of op with one attribute more; its operands are forward values. */
static Value *copy_marked(Copier *c, const Op *op, const char *mark) {
  Value *in[MOST_IN];
  Attr attr[MOST_ATTR + 1];
  for (int i = 0; i < op->nin; i++)
    in[i] = copier_get(c, op->in[i]);
  for (int i = 0; i < op->nattr; i++)
    attr[i] = op->attr[i];
  attr[op->nattr] = attr_b(c->b, mark, true);
  return build_op(c->b, op->code, op->nin, in, op->nattr + 1, attr)->out[0];
}

/* From here on c has a copy of v, and of what it takes, where they are computed again; backward
 * shares them. */
static void compute_again(Save *s, Copier *c, const Value *v) {
  if (!s->again[v->id])
    return;
  s->again[v->id] = false;
  const Op *op = v->def;
  for (int i = 0; i < op->nin; i++)
    compute_again(s, c, op->in[i]);
  build_at(c->b, op->loc, op->layer, str_c(builder_strings(c->b), "save: computed again"));
  c->map[v->id] = norm_formula(op) ? normalize_again(c, op) : copy_marked(c, op, "recompute");
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
      if (s.again[v->id])
        compute_again(&s, c, v);
      else if (s.held[v->id])
        c->map[v->id] = inside(&s, c, v);
      s.held[v->id] = NULL;
    }
    if (op->nout && s.exact[op->out[0]->id]) {
      build_at(c->b, op->loc, op->layer, op->why);
      c->map[op->out[0]->id] = copy_marked(c, op, "as_stored");
    } else {
      copier_op(c, op);
    }
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
