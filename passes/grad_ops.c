/* grad_<op>: gradients of each op of ops.def that has one; elementwise ops share one rule made from
 * their body. The table at the end is expanded from ops.def: an op marked G without a function here
 * does not compile. Notation: dx is the gradient of x; R rows, N out, K in features. */
#include <math.h>
#include <string.h>

#include "passes/grad.h"

static Value *fwd(Grad *g, const Op *op, int i) {
  return grad_value(g, op->in[i]);
}

static Value *result(Grad *g, const Op *op, int i) {
  return grad_value(g, op->out[i]);
}

/* [..., C] as [R, C] */
static Value *as_rows(Grad *g, Value *x) {
  const Type *t = x->type;
  int64_t cols = t->rank ? t->dim[t->rank - 1] : 1;
  const int64_t dim[2] = {cols ? type_elems(t) / cols : 0, cols};
  return build_reshape(g->b, x, 2, dim);
}

static Value *shaped_like(Grad *g, Value *x, const Type *t) {
  return build_reshape(g->b, x, t->rank, t->dim);
}

static Value *matmul(Grad *g, Value *a, Value *b, bool ta, bool tb, DType out) {
  Attr attr[3] = {attr_b(g->b, "ta", ta), attr_b(g->b, "tb", tb), attr_dt(g->b, "out", out)};
  return build_op(g->b, OP_matmul, 2, (Value *[]){a, b}, 3, attr)->out[0];
}

/* a (transposed when ta) times b, both with scales; decoded: of products with block scales. */
static Value *qmatmul(Grad *g, Codes a, Codes b, bool ta, DType out, const Attr *decoded) {
  Attr attr[5] = {attr_b(g->b, "ta", ta), attr_b(g->b, "tb", false), attr_dt(g->b, "out", out)};
  Value *in[6] = {as_rows(g, a.codes), b.codes, a.scale_inv, b.scale_inv, a.blocks, b.blocks};
  if (!a.blocks || !b.blocks || !decoded)
    return build_op(g->b, OP_qmatmul, 4, in, 3, attr)->out[0];
  const int64_t block[4] = {a.block[0], a.block[1], b.block[0], b.block[1]};
  in[1] = as_rows(g, b.codes);
  attr[3] = attr_ints(g->b, "block", 4, block);
  attr[4] = *decoded;
  return build_op(g->b, OP_qmatmul, 6, in, 5, attr)->out[0];
}

/* ---- products -------------------------------------------------------------------------------- */

/* The bias gradient of a wide head in two parts, of which the first is as long as kernels can sum
 * block by block; one sum would have a partial result per few rows, together as large as dy. */
static void give_bias(Grad *g, const Op *op, int i, Value *dy) {
  enum { WIDE = 8192, BLOCK = 256 };
  int64_t n = dy->type->dim[1], cut[3] = {0, n - n % BLOCK, n};
  if (n < WIDE || cut[1] == n || !grad_wants(g, op, i)) {
    grad_give(g, op, i, dy);
    return;
  }
  for (int k = 0; k < 2; k++) {
    int64_t length = cut[k + 1] - cut[k];
    Value *part =
        build_cast(g->b, build_slice(g->b, dy, 1, cut[k], cut[k + 1]), grad_dtype(g, op, i));
    const Type *ty = type_get(builder_types(g->b), part->type->dt, 1, &length);
    grad_give_part(g, op, i, build_sum_to(g->b, part, ty), 0, cut[k], cut[k + 1]);
  }
}

/* dx = dy w, dw = dy^T x, db = sum of dy over rows */
static void grad_linear(Grad *g, const Op *op, Value *const *dy) {
  Value *d = as_rows(g, dy[0]);
  const Value *x = op->in[0];
  if (grad_wants(g, op, 0)) {
    Value *dx = matmul(g, d, fwd(g, op, 1), false, false, grad_dtype(g, op, 0));
    grad_give(g, op, 0, shaped_like(g, dx, x->type));
  }
  if (grad_wants(g, op, 1))
    grad_give(g, op, 1, matmul(g, d, as_rows(g, fwd(g, op, 0)), true, false, grad_dtype(g, op, 1)));
  if (op->nin > 2)
    give_bias(g, op, 2, d);
}

/* C = op(A) op(B): the four cases keep both factors as they lie in memory. */
static void grad_matmul(Grad *g, const Op *op, Value *const *dy) {
  bool ta = op_int(op, "ta", 0), tb = op_int(op, "tb", 0);
  Value *a = fwd(g, op, 0), *b = fwd(g, op, 1), *dc = dy[0];
  if (grad_wants(g, op, 0)) {
    DType dt = grad_dtype(g, op, 0);
    grad_give(g, op, 0, ta ? matmul(g, b, dc, tb, true, dt) : matmul(g, dc, b, false, !tb, dt));
  }
  if (grad_wants(g, op, 1)) {
    DType dt = grad_dtype(g, op, 1);
    grad_give(g, op, 1, tb ? matmul(g, dc, a, true, ta, dt) : matmul(g, a, dc, !ta, false, dt));
  }
}

static Value *bmm(Grad *g, Value *a, Value *b, DType out) {
  Attr dt = attr_dt(g->b, "out", out);
  return build_op(g->b, OP_bmm, 2, (Value *[]){a, b}, 1, &dt)->out[0];
}

/* The last two axes exchanged. */
static Value *turned_last(Grad *g, Value *x) {
  int64_t perm[MAX_RANK];
  int rank = x->type->rank;
  for (int i = 0; i < rank; i++)
    perm[i] = i < rank - 2 ? i : i == rank - 2 ? rank - 1 : rank - 2;
  return build_permute(g->b, x, perm);
}

static void grad_bmm(Grad *g, const Op *op, Value *const *dy) {
  if (grad_wants(g, op, 0))
    grad_give(g, op, 0, bmm(g, dy[0], turned_last(g, fwd(g, op, 1)), grad_dtype(g, op, 0)));
  if (grad_wants(g, op, 1))
    grad_give(g, op, 1, bmm(g, turned_last(g, fwd(g, op, 0)), dy[0], grad_dtype(g, op, 1)));
}

/* Products of dY as it is with x and w, as they were or as their codes have them. */
static void grad_overridden(Grad *g, const Op *op, Value *dy, int x, bool decoded) {
  int from = x + (decoded ? 2 : 0);
  Value *d = as_rows(g, dy);
  if (grad_wants(g, op, x)) {
    Value *dx = matmul(g, d, fwd(g, op, from + 1), false, false, grad_dtype(g, op, x));
    grad_give(g, op, x, shaped_like(g, dx, op->in[x]->type));
  }
  if (grad_wants(g, op, x + 1)) {
    Value *rows = as_rows(g, fwd(g, op, from));
    grad_give(g, op, x + 1, matmul(g, d, rows, true, false, grad_dtype(g, op, x + 1)));
  }
}

/* Both products read the codes of dY that qgrad made, and the codes and scale_inv saved forward:
 * with block scales those whose blocks run along their own sums. */
static void grad_qlinear(Grad *g, const Op *op, Value *const *dy) {
  const Codes *d = g->codes[op->out[0]->id];
  const char *override = op_str(op, "backward", NULL);
  int first = op->nin == 12 ? 6 : 0;
  if (override) {
    grad_overridden(g, op, dy[0], op_attr(op, "block") ? 6 : 4, !strcmp(override, "dequantized"));
    return;
  }
  if (!d[0].codes || dy[0] || op->nin == 6) {
    diag_error(g->diag, op->loc, 597, "quantized product whose gradient is not quantized");
    return;
  }
  Codes x = {fwd(g, op, first), fwd(g, op, first + 2), first ? fwd(g, op, first + 4) : NULL};
  Codes w = {fwd(g, op, first + 1), fwd(g, op, first + 3), first ? fwd(g, op, first + 5) : NULL};
  const Attr *decoded = op_attr(op, "decoded"), *turned = op_attr(op, "turned");
  if (turned) {
    memcpy(x.block, turned->u.ints.v, sizeof x.block);
    memcpy(w.block, turned->u.ints.v + 2, sizeof w.block);
  }
  if (grad_wants(g, op, 0)) {
    Value *dx = qmatmul(g, d[0], w, false, grad_dtype(g, op, 0), decoded);
    grad_give(g, op, 0, shaped_like(g, dx, op->in[0]->type));
  }
  if (grad_wants(g, op, 1)) {
    x.codes = as_rows(g, x.codes);
    grad_give(g, op, 1, qmatmul(g, d[1], x, true, grad_dtype(g, op, 1), decoded));
  }
}

static void grad_conv(Grad *g, const Op *op, Value *const *dy) {
  (void)dy;
  diag_error(g->diag, op->loc, 597, "convolution reached grad: layout has not run");
}

/* Attributes of the window that goes the other way: what position p of y took from place i of x by
 * tap k, i takes back from p. `size`: the places of x. */
static int turned(Grad *g, const ConvWindow *w, const int64_t *size, Attr attr[7]) {
  int64_t padding[CONV_AXES], dilation[CONV_AXES];
  for (int i = 0; i < w->nd; i++) {
    padding[i] = -w->padding[i];
    dilation[i] = -w->dilation[i];
  }
  attr[0] = attr_ints(g->b, "positions", w->nd, size);
  attr[1] = attr_ints(g->b, "kernel", w->nd, w->kernel);
  attr[2] = attr_ints(g->b, "stride", w->nd, w->up);
  attr[3] = attr_ints(g->b, "padding", w->nd, padding);
  attr[4] = attr_ints(g->b, "dilation", w->nd, dilation);
  attr[5] = attr_ints(g->b, "up", w->nd, w->stride);
  return 6;
}

/* w [O, K..., C] as [C, K..., O] and back. */
static Value *ends_swapped(Grad *g, Value *w) {
  int64_t perm[MAX_RANK];
  int rank = w->type->rank;
  for (int i = 0; i < rank; i++)
    perm[i] = i == 0 ? rank - 1 : i == rank - 1 ? 0 : i;
  return build_permute(g->b, w, perm);
}

/* dy of a depthwise convolution, one zero after another between strides and a window's span in
 * front: what place i of x took part in lies in [i, i + span]. */
static Value *spread_rows(Grad *g, const ConvWindow *w, Value *dy, const Type *x) {
  int64_t dim[MAX_RANK];
  for (int i = 0; i < w->nd; i++) {
    int axis = 1 + i, rank = dy->type->rank;
    int64_t span = (w->kernel[i] - 1) * w->dilation[i];
    for (int k = 0; k < rank; k++)
      dim[k] = dy->type->dim[k];
    if (w->stride[i] > 1) {
      int64_t open[MAX_RANK];
      for (int k = 0; k <= rank; k++)
        open[k] = k <= axis ? dim[k] : k == axis + 1 ? 1 : dim[k - 1];
      Attr attr[3] = {attr_i(g->b, "dim", axis + 1), attr_i(g->b, "start", 0),
                      attr_i(g->b, "size", w->stride[i])};
      dy = build_reshape(g->b, dy, rank + 1, open);
      dy = build_op(g->b, OP_unslice, 1, &dy, 3, attr)->out[0];
      dim[axis] *= w->stride[i];
      dy = build_reshape(g->b, dy, rank, dim);
    }
    if (dim[axis] > x->dim[axis])
      dy = build_slice(g->b, dy, axis, 0, x->dim[axis]);
    if (dy->type->dim[axis] == x->dim[axis] + span)
      continue;
    Attr attr[3] = {attr_i(g->b, "dim", axis), attr_i(g->b, "start", span),
                    attr_i(g->b, "size", x->dim[axis] + span)};
    dy = build_op(g->b, OP_unslice, 1, &dy, 3, attr)->out[0];
  }
  return dy;
}

static void grad_depthwise(Grad *g, const Op *op, const ConvWindow *w, Value *dy) {
  Value *x = fwd(g, op, 0), *d = build_cast(g->b, dy, x->type->dt);
  Attr attr[8];
  if (grad_wants(g, op, 0)) {
    int64_t padding[CONV_AXES], dilation[CONV_AXES];
    for (int i = 0; i < w->nd; i++) {
      dilation[i] = -w->dilation[i];
      padding[i] = (w->kernel[i] - 1) * dilation[i];
    }
    int n = 0;
    attr[n++] = attr_ints(g->b, "positions", w->nd, x->type->dim + 1);
    attr[n++] = attr_ints(g->b, "kernel", w->nd, w->kernel);
    attr[n++] = attr_ints(g->b, "padding", w->nd, padding);
    attr[n++] = attr_ints(g->b, "dilation", w->nd, dilation);
    attr[n++] = attr_i(g->b, "groups", op_int(op, "groups", 1));
    attr[n++] = attr_dt(g->b, "out", grad_dtype(g, op, 0));
    Value *in[2] = {spread_rows(g, w, d, x->type), fwd(g, op, 1)};
    grad_give(g, op, 0, build_op(g->b, OP_conv_gather, 2, in, n, attr)->out[0]);
  }
  if (grad_wants(g, op, 1)) {
    int n = 0;
    for (int i = 0; i < op->nattr; i++)
      if (strcmp(op->attr[i].key, "precision") && strcmp(op->attr[i].key, "out"))
        attr[n++] = op->attr[i];
    attr[n++] = attr_dt(g->b, "out", grad_dtype(g, op, 1));
    Value *in[2] = {x, d};
    grad_give(g, op, 1, build_op(g->b, OP_conv_wgrad, 2, in, n, attr)->out[0]);
  }
  if (op->nin > 2)
    grad_give(g, op, 2, as_rows(g, dy));
}

/* dx gathers dy through the turned window. dw sums x (gathered) times dy over positions; where the
 * window spreads x instead (up > 1, transposed convolutions) dy is the gathered one. */
static void grad_conv_gather(Grad *g, const Op *op, Value *const *dy) {
  ConvWindow w;
  Attr attr[8];
  if (!conv_window(op, &w))
    return;
  if (op_int(op, "groups", 1) != 1) {
    grad_depthwise(g, op, &w, dy[0]);
    return;
  }
  Value *x = fwd(g, op, 0), *d = dy[0];
  if (grad_wants(g, op, 0)) {
    int n = turned(g, &w, x->type->dim + 1, attr);
    attr[n++] = attr_dt(g->b, "out", grad_dtype(g, op, 0));
    Value *in[2] = {d, ends_swapped(g, fwd(g, op, 1))};
    grad_give(g, op, 0, build_op(g->b, OP_conv_gather, 2, in, n, attr)->out[0]);
  }
  if (grad_wants(g, op, 1)) {
    bool spreads = false;
    for (int i = 0; i < w.nd; i++)
      spreads |= w.up[i] > 1;
    int n = 0;
    static const char *const keys[] = {"positions", "kernel",   "stride",
                                       "padding",   "dilation", "up"};
    if (spreads)
      n = turned(g, &w, x->type->dim + 1, attr);
    for (size_t i = 0; !spreads && i < sizeof keys / sizeof *keys; i++)
      if (op_attr(op, keys[i]))
        attr[n++] = *op_attr(op, keys[i]);
    attr[n++] = attr_dt(g->b, "out", grad_dtype(g, op, 1));
    Value *in[2] = {spreads ? d : x, spreads ? x : d};
    Value *dw = build_op(g->b, OP_conv_wgrad, 2, in, n, attr)->out[0];
    grad_give(g, op, 1, spreads ? ends_swapped(g, dw) : dw);
  }
  if (op->nin > 2)
    grad_give(g, op, 2, as_rows(g, d));
}

/* Each element goes back to the place its window took it from. */
static void grad_max_pool(Grad *g, const Op *op, Value *const *dy) {
  if (!dy[0])
    return;
  Value *in[2] = {dy[0], result(g, op, 1)};
  grad_give(g, op, 0, build_op(g->b, OP_max_pool_grad, 2, in, op->nattr, op->attr)->out[0]);
}

static void grad_resample(Grad *g, const Op *op, Value *const *dy) {
  Attr attr[16];
  int n = 0;
  for (int i = 0; i < op->nattr && n < 15; i++)
    if (strcmp(op->attr[i].key, "turned") != 0)
      attr[n++] = op->attr[i];
  attr[n++] = attr_b(g->b, "turned", !op_int(op, "turned", 0));
  grad_give(g, op, 0, build_op(g->b, OP_resample, 1, (Value *[]){dy[0]}, n, attr)->out[0]);
}

/* x [N, T, K D] of K heads as [N, heads, T, D], each read by heads / K others. */
static Value *by_head(Grad *g, Value *x, int64_t own, int64_t heads) {
  static const int64_t perm[4] = {0, 2, 1, 3};
  const Type *t = x->type;
  int64_t width = t->dim[2] / own, n = t->dim[0], rows = t->dim[1];
  x = build_permute(g->b, build_reshape(g->b, x, 4, (int64_t[]){n, rows, own, width}), perm);
  if (own == heads)
    return x;
  x = build_reshape(g->b, x, 5, (int64_t[]){n, own, 1, rows, width});
  Attr shape = attr_ints(g->b, "shape", 5, (int64_t[]){n, own, heads / own, rows, width});
  x = build_op(g->b, OP_expand, 1, &x, 1, &shape)->out[0];
  return build_reshape(g->b, x, 4, (int64_t[]){n, heads, rows, width});
}

static Value *row_sum(Grad *g, Value *x);

/* What codes stand for, in f32. */
static Value *decoded(Grad *g, Value *codes, Value *scale_inv) {
  Value *in[2] = {build_cast(g->b, codes, MPCC_F32), scale_inv};
  return build_expr(g->b, "a * b", MPCC_F32, 2, in);
}

/* Gradient of what is added to the scores: P (dP - sum do o) with P = exp(scores - lse), written
 * out with all scores in memory, which attention's own kernels avoid. dP passes through dropout's
 * mask. */
static void give_mask(Grad *g, const Op *op, Value *dy) {
  Builder *b = g->b;
  int64_t heads = op_int(op, "heads", 1), kv = op_int(op, "kv_heads", heads);
  const bool codes = op_attr(op, "p_dtype") != NULL, dropout = op_float(op, "dropout_p", 0) > 0;
  Value *lse = result(g, op, 1), *part[3];
  DType wide = lse->type->dt;
  for (int i = 0; i < 3; i++) {
    part[i] = codes ? decoded(g, fwd(g, op, i), fwd(g, op, op->nin - 3 + i)) : fwd(g, op, i);
    part[i] = by_head(g, part[i], i ? kv : heads, heads);
  }
  Value *q = part[0], *k = part[1], *v = part[2];
  Value *d = by_head(g, dy, heads, heads), *o = by_head(g, result(g, op, 0), heads, heads);
  Value *in[7] = {bmm(g, q, turned_last(g, k), wide), fwd(g, op, 3)};
  int64_t stat[4] = {q->type->dim[0], heads, q->type->dim[2], 1}, keys = k->type->dim[2];
  in[2] = build_reshape(b, lse, 4, stat);
  in[3] = bmm(g, d, turned_last(g, v), wide);
  if (dropout) {
    Attr at[2] = {attr_f(b, "p", op_float(op, "dropout_p", 0)),
                  attr_i(b, "stream", op_int(op, "stream", 0))};
    Value *drop[3] = {in[3], fwd(g, op, 4), fwd(g, op, 5)};
    in[3] = build_op(b, OP_dropout, 3, drop, 2, at)->out[0];
  }
  in[4] = row_sum(g, build_expr(b, "a * b", wide, 2, (Value *[]){d, o}));
  bool causal = op_int(op, "causal", 0);
  const int64_t places[2][4] = {{1, 1, stat[2], 1}, {1, 1, 1, keys}};
  for (int i = 0; causal && i < 2; i++) {
    Attr at[2] = {attr_ints(b, "shape", 4, places[i]), attr_i(b, "dim", 2 + i)};
    in[5 + i] = build_cast(b, build_op(b, OP_iota, 0, NULL, 2, at)->out[0], wide);
  }
  double scale = op_float(op, "scale", 1 / sqrt((double)q->type->dim[3]));
  Str text = str_fmt(builder_strings(b), "t0 = %s exp(a * %.17g + b - c), t0 * (d - e)",
                     causal ? "c < -1e38 ? 0 : f < g ? 0 :" : "c < -1e38 ? 0 :", scale);
  grad_give(g, op, 3, build_expr(b, text, wide, causal ? 7 : 5, in));
}

/* Of codes, the gradient of o is codes too, which qgrad made [N14]. */
static void grad_attention(Grad *g, const Op *op, Value *const *dy) {
  const Codes *c = &g->codes[op->out[0]->id][0];
  if (!dy[0] && !c->codes)
    return;
  Value *in[13] = {c->codes ? c->codes : dy[0], result(g, op, 0), result(g, op, 1)};
  int nin = 3;
  for (int i = 0; i < op->nin && i < 9; i++)
    in[nin++] = fwd(g, op, i);
  if (c->codes)
    in[nin++] = c->scale_inv;
  if (op_int(op, "mask", 0) && grad_wants(g, op, 3))
    give_mask(g, op, c->codes ? decoded(g, c->codes, c->scale_inv) : dy[0]);
  if (!c->codes != !op_attr(op, "p_dtype")) {
    diag_error(g->diag, op->loc, 597, "attention of codes whose gradient is not quantized");
    return;
  }
  Op *d = build_op(g->b, OP_attention_grad, nin, in, op->nattr, op->attr);
  for (int i = 0; i < 3; i++)
    grad_give(g, op, i, d->out[i]);
}

/* ---- normalisation, reductions --------------------------------------------------------------- */

/* Of a norm with results y and two statistics, by an op of dy, x, both and perhaps w. */
static void grad_norm(Grad *g, const Op *op, Value *const *dy, OpCode code) {
  if (!dy[0])
    return;
  Value *in[5] = {dy[0], fwd(g, op, 0), result(g, op, 1), result(g, op, 2)};
  int nin = 4;
  if (op->nin > 1)
    in[nin++] = fwd(g, op, 1);
  Op *d = build_op(g->b, code, nin, in, op->nattr, op->attr);
  for (int i = 0; i < op->nin; i++)
    grad_give(g, op, i, d->out[i]);
}

static void grad_layer_norm(Grad *g, const Op *op, Value *const *dy) {
  grad_norm(g, op, dy, OP_layer_norm_grad);
}

/* The statistics are functions of x: their share is in dx. */
static void grad_batch_norm(Grad *g, const Op *op, Value *const *dy) {
  if (!dy[0])
    return;
  Value *in[6] = {dy[0], fwd(g, op, 0), result(g, op, 1), result(g, op, 2), fwd(g, op, 1)};
  int nin = 5;
  if (op->nin > 2)
    in[nin++] = fwd(g, op, 2);
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
static void grad_batch_affine(Grad *g, const Op *op, Value *const *dy) {
  static const char *const text[5] = {"a * e / sqrt(d + f)", "0 - a * e / sqrt(d + f)",
                                      "(c - b) * a * e / (2 * (d + f) * sqrt(d + f))",
                                      "a * ((b - c) / sqrt(d + f))", "a"};
  if (!dy[0])
    return;
  Builder *b = g->b;
  const int rank = op->in[0]->type->rank;
  const DType dt = dy[0]->type->dt, wide = dt == MPCC_F64 ? MPCC_F64 : MPCC_F32;
  Value *in[6] = {dy[0],
                  fwd(g, op, 0),
                  per_channel(g, fwd(g, op, 1), rank),
                  per_channel(g, fwd(g, op, 2), rank),
                  op->nin > 3 ? per_channel(g, fwd(g, op, 3), rank) : build_const(b, 1, wide),
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

static void grad_group_norm(Grad *g, const Op *op, Value *const *dy) {
  grad_norm(g, op, dy, OP_group_norm_grad);
}

static void grad_rms_norm(Grad *g, const Op *op, Value *const *dy) {
  if (!dy[0])
    return;
  Value *in[4] = {dy[0], fwd(g, op, 0), result(g, op, 1)};
  int nin = 3;
  if (op->nin > 1)
    in[nin++] = fwd(g, op, 1);
  Op *d = build_op(g->b, OP_rms_norm_grad, nin, in, op->nattr, op->attr);
  for (int i = 0; i < op->nin; i++)
    grad_give(g, op, i, d->out[i]);
}

/* Turning back is the transpose; the tables are no parameters. */
static void grad_rotary(Grad *g, const Op *op, Value *const *dy) {
  Value *in[3] = {dy[0], fwd(g, op, 1), fwd(g, op, 2)};
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

static void grad_sum(Grad *g, const Op *op, Value *const *dy) {
  grad_give(g, op, 0, spread(g, op, dy[0]));
}

static void grad_mean(Grad *g, const Op *op, Value *const *dy) {
  int64_t n = type_elems(op->in[0]->type) / type_elems(op->out[0]->type);
  Str text = str_fmt(builder_strings(g->b), "a / %lld", (long long)n);
  Value *v = build_expr(g->b, text, dy[0]->type->dt, 1, (Value *[]){dy[0]});
  grad_give(g, op, 0, spread(g, op, v));
}

/* Sum over the last axis, kept, in the registers' precision. */
static Value *row_sum(Grad *g, Value *x) {
  const int64_t last = x->type->rank - 1;
  Attr attr[3] = {attr_ints(g->b, "dims", 1, &last), attr_b(g->b, "keepdim", true),
                  attr_dt(g->b, "dtype", x->type->dt == MPCC_F64 ? MPCC_F64 : MPCC_F32)};
  return build_op(g->b, OP_sum, 1, &x, 3, attr)->out[0];
}

/* dx = y (dy - sum dy y) */
static void grad_softmax(Grad *g, const Op *op, Value *const *dy) {
  Value *y = result(g, op, 0), *in[3] = {y, dy[0], NULL};
  DType dt = y->type->dt == MPCC_F64 ? MPCC_F64 : MPCC_F32;
  in[2] = row_sum(g, build_expr(g->b, "a * b", dt, 2, in));
  grad_give(g, op, 0, build_expr(g->b, "a * (b - c)", grad_dtype(g, op, 0), 3, in));
}

/* dx = dy - exp(y) sum dy */
static void grad_log_softmax(Grad *g, const Op *op, Value *const *dy) {
  Value *in[3] = {result(g, op, 0), dy[0], row_sum(g, dy[0])};
  grad_give(g, op, 0, build_expr(g->b, "b - exp(a) * c", grad_dtype(g, op, 0), 3, in));
}

/* ---- precision ------------------------------------------------------------------------------- */

/* The backward of a cast is the cast back; grad_give does it. */
static void grad_cast(Grad *g, const Op *op, Value *const *dy) {
  grad_give(g, op, 0, dy[0]);
}

/* straight-through */
static void grad_quantize(Grad *g, const Op *op, Value *const *dy) {
  if (dy[0])
    grad_give(g, op, 0, dy[0]);
}

static void grad_block_quantize(Grad *g, const Op *op, Value *const *dy) {
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
  dy = rows || cols ? build_padded(g->b, as_rows(g, dy), block) : dy;
  Value *in[3] = {dy, random ? fwd(g, op, 1) : NULL, random ? fwd(g, op, 2) : NULL};
  Op *q = build_op(g->b, OP_block_quantize, random ? 3 : 1, in, random ? 4 : 3, attr);
  if (slot >= 0 && slot < g->nslot)
    g->amax[slot] = q->out[3];
  Value *codes = rows || cols ? build_cut(g->b, q->out[0], (int64_t[2]){height, width}) : q->out[0];
  return (Codes){shaped_like(g, codes, whole),
                 q->out[1],
                 rows || cols ? q->out[2] : NULL,
                 {block[0], block[1]}};
}

/* Quantizes dY once, with this call site's scale, recording amax; or by its own scales, once for
 * each direction in which it is summed over. */
static void grad_qgrad(Grad *g, const Op *op, Value *const *dy) {
  Codes *c = g->codes[op->in[0]->id];
  if (op->nin != 2) {
    const int64_t *block = op_attr(op, "block")->u.ints.v;
    bool first = grad_wants(g, op->in[0]->def, 0); /* else nothing multiplies the first copy */
    c[0] = quantized_now(g, op, dy[0], block[0], block[1], false, first);
    c[1] = quantized_now(g, op, dy[0], block[1], block[0], block[0] != block[1], !first);
    return;
  }
  Attr to = attr_dt(g->b, "to", (DType)op_int(op, "to", MPCC_E5M2));
  Op *q = build_op(g->b, OP_quantize, 2, (Value *[]){dy[0], fwd(g, op, 1)}, 1, &to);
  c[0] = c[1] = (Codes){q->out[0], q->out[1], NULL};
  int64_t slot = op_int(op, "slot", -1);
  if (slot >= 0 && slot < g->nslot)
    g->amax[slot] = q->out[2];
}

/* ---- random numbers -------------------------------------------------------------------------- */

static void grad_row_mask(Grad *g, const Op *op, Value *const *dy) {
  grad_give(g, op, 0, build2(g->b, OP_row_mask, dy[0], fwd(g, op, 1)));
}

/* ---- losses: roots, without dy --------------------------------------------------------------- */

static void grad_loss(Grad *g, const Op *op, Value *const *dy) {
  (void)dy;
  grad_give(g, op, 0, fwd(g, op, 1));
}

/* Forward made the gradient together with the loss. */
static void grad_cross_entropy(Grad *g, const Op *op, Value *const *dy) {
  (void)dy;
  grad_give(g, op, 0, result(g, op, 2));
}

static void grad_nll_loss(Grad *g, const Op *op, Value *const *dy) {
  grad_cross_entropy(g, op, dy);
}

/* The same mask and factor on dy. */
static void grad_dropout(Grad *g, const Op *op, Value *const *dy) {
  Value *in[3] = {dy[0], fwd(g, op, 1), fwd(g, op, 2)};
  grad_give(g, op, 0, build_op(g->b, OP_dropout, 3, in, op->nattr, op->attr)->out[0]);
}

/* ---- shapes ---------------------------------------------------------------------------------- */

static void grad_reshape(Grad *g, const Op *op, Value *const *dy) {
  grad_give(g, op, 0, shaped_like(g, dy[0], op->in[0]->type));
}

static void grad_permute(Grad *g, const Op *op, Value *const *dy) {
  const Attr *perm = op_attr(op, "perm");
  int64_t inverse[MAX_RANK];
  for (int i = 0; i < perm->u.ints.n; i++)
    inverse[perm->u.ints.v[i]] = i;
  grad_give(g, op, 0, build_permute(g->b, dy[0], inverse));
}

/* grad_give sums over what was broadcast */
static void grad_expand(Grad *g, const Op *op, Value *const *dy) {
  grad_give(g, op, 0, dy[0]);
}

static void grad_slice(Grad *g, const Op *op, Value *const *dy) {
  int dim = (int)op_int(op, "dim", 0);
  int64_t start = op_int(op, "start", 0);
  grad_give_part(g, op, 0, dy[0], dim, start, start + op->out[0]->type->dim[dim]);
}

static void grad_unslice(Grad *g, const Op *op, Value *const *dy) {
  int dim = (int)op_int(op, "dim", 0);
  int64_t start = op_int(op, "start", 0);
  grad_give(g, op, 0, build_slice(g->b, dy[0], dim, start, start + op->in[0]->type->dim[dim]));
}

static void grad_cat(Grad *g, const Op *op, Value *const *dy) {
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

static void grad_embedding(Grad *g, const Op *op, Value *const *dy) {
  Attr attr[3] = {attr_i(g->b, "rows", op->in[1]->type->dim[0]),
                  attr_dt(g->b, "out", grad_dtype(g, op, 1)),
                  attr_i(g->b, "padding_idx", op_int(op, "padding_idx", -1))};
  Value *in[2] = {fwd(g, op, 0), dy[0]};
  if (grad_wants(g, op, 1))
    grad_give(g, op, 1, build_op(g->b, OP_embedding_grad, 2, in, 3, attr)->out[0]);
}

/* ---- elementwise ----------------------------------------------------------------------------- */

enum { MAX_ARGS = 16 };
static const char *const letters[MAX_ARGS + 1] = {"a", "b", "c", "d", "e", "f", "g", "h", "i",
                                                  "j", "k", "l", "m", "n", "o", "p", "q"};

/* Derivative with respect to operand i as a body over (operands..., upstream last). */
static Scalar *derivative(Grad *g, const Op *op, int i, bool *times) {
  const char *given = op_info(op->code)->deriv;
  *times = !given;
  if (!given)
    return scalar_diff(g->scratch, op->scalar, i);
  const char *text = given;
  for (int k = 0; k < i && text; k++) {
    text = strchr(text, ';');
    text = text ? text + 1 : NULL;
  }
  if (!text)
    return NULL;
  size_t len = strcspn(text, ";");
  char *part = ARENA_ARRAY(g->scratch, char, len + 1);
  const char *names[MAX_ARGS + 1];
  if (arena_failed(g->scratch))
    return NULL;
  memcpy(part, text, len);
  for (int k = 0; k < op->nin; k++)
    names[k] = letters[k];
  names[op->nin] = "g";
  Scalar *s = NULL;
  scalar_parse(g->scratch, g->diag, op->loc, part, names, op->nin + 1, &s);
  return s;
}

/* used[r]: argument r is read by what the result needs. */
static void used_args(Grad *g, const Scalar *s, bool used[MAX_ARGS + 1]) {
  bool *live = ARENA_ARRAY(g->scratch, bool, s->nstmt + 1);
  if (arena_failed(g->scratch))
    return;
  live[s->result] = true;
  for (int i = s->nstmt - 1; i >= 0; i--) {
    if (!live[i])
      continue;
    const Stmt *st = &s->stmt[i];
    if (st->prim == PR_ARG)
      used[st->ref] = true;
    for (int k = 0; k < prim_args((Prim)st->prim); k++)
      if (st->arg[k] >= 0)
        live[st->arg[k]] = true;
  }
}

/* upstream * body, upstream being one more argument */
static Scalar *times_upstream(Grad *g, const Scalar *s, int upstream) {
  Scalar *r = ARENA_NEW(g->scratch, Scalar);
  Stmt *stmt = ARENA_ARRAY(g->scratch, Stmt, s->nstmt + 2);
  if (arena_failed(g->scratch))
    return NULL;
  memcpy(stmt, s->stmt, (size_t)s->nstmt * sizeof *stmt);
  const Stmt base = {.level = LV_ELEM, .dt = MPCC_F32, .arg = {-1, -1, -1, -1}, .ref = -1};
  Stmt *arg = &stmt[s->nstmt], *mul = arg + 1;
  *arg = *mul = base;
  arg->prim = PR_ARG;
  arg->ref = upstream;
  mul->prim = PR_MUL;
  mul->arg[0] = s->nstmt;
  mul->arg[1] = s->result;
  *r = (Scalar){s->nstmt + 2, upstream + 1, s->nstmt + 1, stmt};
  return r;
}

/* The body over (operands..., upstream) as an expr over only those that it reads, so that no other
 * value is kept alive until the backward pass. */
static Value *chain(Grad *g, const Op *op, const Scalar *s, Value *dy, DType dt) {
  bool used[MAX_ARGS + 1] = {0};
  const char *names[MAX_ARGS + 1] = {0};
  Value *in[MAX_ARGS + 1];
  int n = 0;
  used_args(g, s, used);
  for (int i = 0; i <= op->nin; i++) {
    names[i] = letters[n];
    if (used[i])
      in[n++] = i < op->nin ? fwd(g, op, i) : dy;
  }
  Text t = {0};
  scalar_print(s, names, &t);
  Value *v = t.failed ? dy : build_expr(g->b, t.data, dt, n, in);
  text_fini(&t);
  return v;
}

/* Argument i of s is read other than by comparisons. */
static bool depends(Grad *g, const Scalar *s, int i) {
  bool *on = ARENA_ARRAY(g->scratch, bool, s->nstmt + 1);
  if (arena_failed(g->scratch))
    return false;
  for (int k = 0; k < s->nstmt; k++) {
    const Stmt *st = &s->stmt[k];
    const Prim prim = (Prim)st->prim;
    on[k] = prim == PR_ARG && st->ref == i;
    if ((prim >= PR_LT && prim <= PR_NOT) || prim == PR_ISFINITE)
      continue;
    for (int n = prim == PR_SELECT; n < prim_args(prim); n++)
      on[k] |= st->arg[n] >= 0 && on[st->arg[n]];
  }
  return on[s->result];
}

bool grad_passes(Grad *g, const Op *op, int i) {
  const OpInfo *info = op_info(op->code);
  if (info->kind != OK_ELEM || op->code == OP_cast)
    return grad_rule(op->code) != NULL;
  if (!info->deriv)
    return depends(g, op->scalar, i);
  bool times;
  const Scalar *s = derivative(g, op, i, &times);
  return s && !scalar_is_zero(s);
}

static void grad_expr(Grad *g, const Op *op, Value *const *dy) {
  if (op->nin > MAX_ARGS) {
    diag_error(g->diag, op->loc, 196, "expression of more than %d operands is not supported yet",
               MAX_ARGS);
    return;
  }
  for (int i = 0; i < op->nin; i++) {
    if (!grad_wants(g, op, i))
      continue;
    bool times;
    Scalar *s = derivative(g, op, i, &times);
    if (!s || scalar_is_zero(s)) {
      g->zeros[op->in[i]->id] |= grad_passes(g, op, i);
      continue;
    }
    const Stmt *last = &s->stmt[s->result];
    if (times && last->prim == PR_CONST && last->imm == 1) {
      grad_give(g, op, i, dy[0]);
      continue;
    }
    if (times)
      s = times_upstream(g, s, op->nin);
    if (s)
      grad_give(g, op, i, chain(g, op, s, dy[0], grad_dtype(g, op, i)));
  }
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
