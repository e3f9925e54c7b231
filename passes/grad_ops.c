/* grad_<op>: gradients of ops.def's ops on norms, reductions, formats, losses and shapes; products
 * are in grad_product.c, elementwise ops share one rule in grad_expr.c. The table at the end is
 * expanded from ops.def: an op marked G without its function does not link. Notation: dx is the
 * gradient of x; R rows, N out, K in features. */
#include "passes/grad.h"

Value *grad_forward(Grad *g, const Op *op, int i) {
  return grad_value(g, op->in[i]);
}

Value *grad_result(Grad *g, const Op *op, int i) {
  return grad_value(g, op->out[i]);
}

/* [..., C] as [R, C] */
Value *grad_rows(Grad *g, Value *x) {
  const Type *t = x->type;
  int64_t cols = t->rank ? t->dim[t->rank - 1] : 1;
  const int64_t dim[2] = {cols ? type_elems(t) / cols : 0, cols};
  return build_reshape(g->b, x, 2, dim);
}

Value *grad_shaped(Grad *g, Value *x, const Type *t) {
  return build_reshape(g->b, x, t->rank, t->dim);
}

/* ---- normalisation, reductions --------------------------------------------------------------- */

/* Of a norm with results y and two statistics, by an op of dy, x, both and perhaps w. */
static void grad_norm(Grad *g, const Op *op, Value *const *dy, OpCode code) {
  if (!dy[0])
    return;
  Value *in[5] = {dy[0], grad_forward(g, op, 0), grad_result(g, op, 1), grad_result(g, op, 2)};
  int nin = 4;
  if (op->nin > 1)
    in[nin++] = grad_forward(g, op, 1);
  Op *d = build_op(g->b, code, nin, in, op->nattr, op->attr);
  for (int i = 0; i < op->nin; i++)
    grad_give(g, op, i, d->out[i]);
}

void grad_layer_norm(Grad *g, const Op *op, Value *const *dy) {
  grad_norm(g, op, dy, OP_layer_norm_grad);
}

/* The statistics are functions of x: their share is in dx. */
void grad_batch_norm(Grad *g, const Op *op, Value *const *dy) {
  if (!dy[0])
    return;
  Value *in[6] = {dy[0], grad_forward(g, op, 0), grad_result(g, op, 1), grad_result(g, op, 2),
                  grad_forward(g, op, 1)};
  int nin = 5;
  if (op->nin > 2)
    in[nin++] = grad_forward(g, op, 2);
  Op *d = build_op(g->b, OP_batch_norm_grad, nin, in, op->nattr, op->attr);
  grad_give(g, op, 0, d->out[0]);
  for (int i = 2; i < op->nin; i++)
    grad_give(g, op, i, d->out[i - 1]);
}

/* One value per channel against x[N, C, S...]. */
static Value *per_channel(Grad *g, Value *v, int rank) {
  int64_t dim[MAX_RANK] = {v->type->dim[0], 1, 1, 1, 1, 1, 1, 1};
  return rank > 2 ? build_reshape(g->b, v, rank - 1, dim) : v;
}

/* The formula over dy, x, mean, var, w, eps of each operand's gradient; all but x's are summed. */
void grad_batch_affine(Grad *g, const Op *op, Value *const *dy) {
  static const char *const text[5] = {"a * e / sqrt(d + f)", "0 - a * e / sqrt(d + f)",
                                      "(c - b) * a * e / (2 * (d + f) * sqrt(d + f))",
                                      "a * ((b - c) / sqrt(d + f))", "a"};
  if (!dy[0])
    return;
  Builder *b = g->b;
  const int rank = op->in[0]->type->rank;
  const DType dt = dy[0]->type->dt, wide = dt == MPCC_F64 ? MPCC_F64 : MPCC_F32;
  Value *in[6] = {dy[0],
                  grad_forward(g, op, 0),
                  per_channel(g, grad_forward(g, op, 1), rank),
                  per_channel(g, grad_forward(g, op, 2), rank),
                  op->nin > 3 ? per_channel(g, grad_forward(g, op, 3), rank)
                              : build_const(b, 1, wide),
                  build_const(b, op_float(op, "eps", 1e-5), wide)};
  for (int i = 0; i < op->nin; i++) {
    if (!grad_wants(g, op, i))
      continue;
    Value *each = build_expr(b, text[i], i ? wide : dt, 6, in);
    if (i) {
      const Type *like = type_with_dtype(builder_types(b), in[2]->type, wide);
      each = build_reshape(b, build_sum_to(b, each, like), 1, op->in[i]->type->dim);
    }
    grad_give(g, op, i, each);
  }
}

void grad_group_norm(Grad *g, const Op *op, Value *const *dy) {
  grad_norm(g, op, dy, OP_group_norm_grad);
}

void grad_rms_norm(Grad *g, const Op *op, Value *const *dy) {
  if (!dy[0])
    return;
  Value *in[4] = {dy[0], grad_forward(g, op, 0), grad_result(g, op, 1)};
  int nin = 3;
  if (op->nin > 1)
    in[nin++] = grad_forward(g, op, 1);
  Op *d = build_op(g->b, OP_rms_norm_grad, nin, in, op->nattr, op->attr);
  for (int i = 0; i < op->nin; i++)
    grad_give(g, op, i, d->out[i]);
}

/* Turning back is the transpose; the tables are no parameters. */
void grad_rotary(Grad *g, const Op *op, Value *const *dy) {
  Value *in[3] = {dy[0], grad_forward(g, op, 1), grad_forward(g, op, 2)};
  Attr attr[3] = {attr_i(g->b, "heads", op_int(op, "heads", 1)),
                  attr_b(g->b, "interleaved", op_int(op, "interleaved", 0)),
                  attr_b(g->b, "inverse", !op_int(op, "inverse", 0))};
  grad_give(g, op, 0, build_op(g->b, OP_rotary, 3, in, 3, attr)->out[0]);
}

static bool reduced(const Op *op, int axis) {
  const Attr *dims = op_attr(op, "dims");
  if (!dims || dims->u.ints.n == 0)
    return true;
  int rank = op->in[0]->type->rank;
  for (int i = 0; i < dims->u.ints.n; i++)
    if ((dims->u.ints.v[i] + rank) % rank == axis)
      return true;
  return false;
}

/* dy stretched over the axes that were summed */
static Value *spread(Grad *g, const Op *op, Value *dy) {
  const Type *x = op->in[0]->type;
  int64_t kept[MAX_RANK];
  for (int i = 0; i < x->rank; i++)
    kept[i] = reduced(op, i) ? 1 : x->dim[i];
  Attr shape = attr_ints(g->b, "shape", x->rank, x->dim);
  Value *v = build_reshape(g->b, dy, x->rank, kept);
  return build_op(g->b, OP_expand, 1, &v, 1, &shape)->out[0];
}

void grad_sum(Grad *g, const Op *op, Value *const *dy) {
  grad_give(g, op, 0, spread(g, op, dy[0]));
}

void grad_mean(Grad *g, const Op *op, Value *const *dy) {
  int64_t n = type_elems(op->in[0]->type) / type_elems(op->out[0]->type);
  Str text = str_fmt(builder_strings(g->b), "a / %lld", (long long)n);
  Value *v = build_expr(g->b, text, dy[0]->type->dt, 1, (Value *[]){dy[0]});
  grad_give(g, op, 0, spread(g, op, v));
}

/* Sum over the last axis, kept, in the registers' precision. */
Value *grad_row_sum(Grad *g, Value *x) {
  const int64_t last = x->type->rank - 1;
  Attr attr[3] = {attr_ints(g->b, "dims", 1, &last), attr_b(g->b, "keepdim", true),
                  attr_dt(g->b, "dtype", x->type->dt == MPCC_F64 ? MPCC_F64 : MPCC_F32)};
  return build_op(g->b, OP_sum, 1, &x, 3, attr)->out[0];
}

/* dx = y (dy - sum dy y) */
void grad_softmax(Grad *g, const Op *op, Value *const *dy) {
  Value *y = grad_result(g, op, 0), *in[3] = {y, dy[0], NULL};
  DType dt = y->type->dt == MPCC_F64 ? MPCC_F64 : MPCC_F32;
  in[2] = grad_row_sum(g, build_expr(g->b, "a * b", dt, 2, in));
  grad_give(g, op, 0, build_expr(g->b, "a * (b - c)", grad_dtype(g, op, 0), 3, in));
}

/* dx = dy - exp(y) sum dy */
void grad_log_softmax(Grad *g, const Op *op, Value *const *dy) {
  Value *in[3] = {grad_result(g, op, 0), dy[0], grad_row_sum(g, dy[0])};
  grad_give(g, op, 0, build_expr(g->b, "b - exp(a) * c", grad_dtype(g, op, 0), 3, in));
}

/* ---- precision ------------------------------------------------------------------------------- */

/* The backward of a cast is the cast back; grad_give does it. */
void grad_cast(Grad *g, const Op *op, Value *const *dy) {
  grad_give(g, op, 0, dy[0]);
}

/* straight-through */
void grad_quantize(Grad *g, const Op *op, Value *const *dy) {
  if (dy[0])
    grad_give(g, op, 0, dy[0]);
}

void grad_block_quantize(Grad *g, const Op *op, Value *const *dy) {
  grad_quantize(g, op, dy);
}

/* dY in blocks of so many rows and columns, or fewer where it has fewer, by its own scales.
 * record: its amax is this site's. */
static Codes quantized_now(Grad *g, const Op *op, Value *dy, int64_t rows, int64_t cols,
                           bool turned, bool record) {
  int64_t slot = record ? op_int(op, "slot", -1) : -1;
  const int64_t width = dy->type->dim[dy->type->rank - 1], height = type_elems(dy->type) / width;
  const int64_t block[2] = {rows < height ? rows : height, cols < width ? cols : width};
  bool random = op->nin > 2;
  const Type *whole = dy->type;
  Attr attr[4] = {*op_attr(op, "to"), attr_ints(g->b, "block", 2, block), *op_attr(op, "scales"),
                  attr_i(g->b, "stream", op_int(op, "stream", 0) + turned)};
  if (turned && op_int(op, "hadamard", 0))
    dy = build_hadamard(g->b, dy);
  dy = rows || cols ? build_padded(g->b, grad_rows(g, dy), block) : dy;
  Value *in[3] = {dy, random ? grad_forward(g, op, 1) : NULL,
                  random ? grad_forward(g, op, 2) : NULL};
  Op *q = build_op(g->b, OP_block_quantize, random ? 3 : 1, in, random ? 4 : 3, attr);
  if (slot >= 0 && slot < g->nslot)
    g->amax[slot] = q->out[3];
  Value *codes = rows || cols ? build_cut(g->b, q->out[0], (int64_t[2]){height, width}) : q->out[0];
  return (Codes){grad_shaped(g, codes, whole),
                 q->out[1],
                 rows || cols ? q->out[2] : NULL,
                 {block[0], block[1]}};
}

/* Quantizes dY once, with this call site's scale, recording amax; or by its own scales, once for
 * each direction in which it is summed over. */
void grad_qgrad(Grad *g, const Op *op, Value *const *dy) {
  Codes *c = g->codes[op->in[0]->id];
  if (op->nin != 2) {
    const int64_t *block = op_attr(op, "block")->u.ints.v;
    bool first = grad_wants(g, op->in[0]->def, 0); /* else nothing multiplies the first copy */
    c[0] = quantized_now(g, op, dy[0], block[0], block[1], false, first);
    c[1] = quantized_now(g, op, dy[0], block[1], block[0], block[0] != block[1], !first);
    return;
  }
  Attr to = attr_dt(g->b, "to", (DType)op_int(op, "to", MPCC_E5M2));
  Op *q = build_op(g->b, OP_quantize, 2, (Value *[]){dy[0], grad_forward(g, op, 1)}, 1, &to);
  c[0] = c[1] = (Codes){q->out[0], q->out[1], NULL};
  int64_t slot = op_int(op, "slot", -1);
  if (slot >= 0 && slot < g->nslot)
    g->amax[slot] = q->out[2];
}

/* ---- random numbers -------------------------------------------------------------------------- */

void grad_row_mask(Grad *g, const Op *op, Value *const *dy) {
  grad_give(g, op, 0, build2(g->b, OP_row_mask, dy[0], grad_forward(g, op, 1)));
}

/* ---- losses: roots, without dy --------------------------------------------------------------- */

void grad_loss(Grad *g, const Op *op, Value *const *dy) {
  (void)dy;
  grad_give(g, op, 0, grad_forward(g, op, 1));
}

/* Forward made the gradient together with the loss. */
void grad_cross_entropy(Grad *g, const Op *op, Value *const *dy) {
  (void)dy;
  grad_give(g, op, 0, grad_result(g, op, 2));
}

void grad_nll_loss(Grad *g, const Op *op, Value *const *dy) {
  grad_cross_entropy(g, op, dy);
}

/* The same mask and factor on dy. */
void grad_dropout(Grad *g, const Op *op, Value *const *dy) {
  Value *in[3] = {dy[0], grad_forward(g, op, 1), grad_forward(g, op, 2)};
  grad_give(g, op, 0, build_op(g->b, OP_dropout, 3, in, op->nattr, op->attr)->out[0]);
}

/* ---- shapes ---------------------------------------------------------------------------------- */

void grad_reshape(Grad *g, const Op *op, Value *const *dy) {
  grad_give(g, op, 0, grad_shaped(g, dy[0], op->in[0]->type));
}

void grad_permute(Grad *g, const Op *op, Value *const *dy) {
  grad_give(g, op, 0, build_unpermute(g->b, dy[0], op));
}

/* grad_give sums over what was broadcast */
void grad_expand(Grad *g, const Op *op, Value *const *dy) {
  grad_give(g, op, 0, dy[0]);
}

void grad_slice(Grad *g, const Op *op, Value *const *dy) {
  int dim = (int)op_int(op, "dim", 0);
  int64_t start = op_int(op, "start", 0);
  grad_give_part(g, op, 0, dy[0], dim, start, start + op->out[0]->type->dim[dim]);
}

void grad_unslice(Grad *g, const Op *op, Value *const *dy) {
  int dim = (int)op_int(op, "dim", 0);
  int64_t start = op_int(op, "start", 0), end = start + op->in[0]->type->dim[dim];
  Value *part = grad_depthwise_part(g, dy[0], dim, start, end);
  grad_give(g, op, 0, part ? part : build_slice(g->b, dy[0], dim, start, end));
}

void grad_cat(Grad *g, const Op *op, Value *const *dy) {
  int dim = (int)op_int(op, "dim", 0);
  int64_t start = 0;
  const Attr *starts = op_attr(op, "starts");
  for (int i = 0; i < op->nin; i++) {
    start = starts ? starts->u.ints.v[i] : start;
    int64_t end = start + op->in[i]->type->dim[dim];
    if (grad_wants(g, op, i))
      grad_give(g, op, i, build_slice(g->b, dy[0], dim, start, end));
    start = end;
  }
}

void grad_embedding(Grad *g, const Op *op, Value *const *dy) {
  Attr attr[3] = {attr_i(g->b, "rows", op->in[1]->type->dim[0]),
                  attr_dt(g->b, "out", grad_dtype(g, op, 1)),
                  attr_i(g->b, "padding_idx", op_int(op, "padding_idx", -1))};
  Value *in[2] = {grad_forward(g, op, 0), dy[0]};
  if (grad_wants(g, op, 1))
    grad_give(g, op, 1, build_op(g->b, OP_embedding_grad, 2, in, 3, attr)->out[0]);
}

/* ---- table ----------------------------------------------------------------------------------- */

#define RULE_G(name) grad_##name
#define RULE_B(name) grad_##name
#define RULE_R(name) grad_##name
#define RULE_Z(name) NULL

GradFn *grad_rule(OpCode code) {
  static GradFn *const rules[] = {
#define OP(name, nin, nout, shape, cuda, cpu, grad, kind, doc) [OP_##name] = RULE_##grad(name),
#define SCALAR(name, nin, text, deriv, cuda, cpu, doc) [OP_##name] = grad_expr,
#include "ir/ops.def"
#include "ir/scalar.def"
#undef OP
#undef SCALAR
  };
  return rules[code];
}
