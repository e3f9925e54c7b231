/* grad_<op> of products: linear, matmul and their quantized forms, convolutions and windows,
 * attention. Notation: dx is the gradient of x; R rows, N out, K in features. */
#include <math.h>

#include "passes/grad.h"

static Value *matmul(Grad *g, Value *a, Value *b, bool ta, bool tb, DType out) {
  Attr attr[3] = {attr_b(g->b, "ta", ta), attr_b(g->b, "tb", tb), attr_dt(g->b, "out", out)};
  return build_op(g->b, OP_matmul, 2, (Value *[]){a, b}, 3, attr)->out[0];
}

/* a (transposed when ta) times b, both with scales; decoded: of products with block scales. */
static Value *qmatmul(Grad *g, Codes a, Codes b, bool ta, DType out, const Attr *decoded) {
  Attr attr[5] = {attr_b(g->b, "ta", ta), attr_b(g->b, "tb", false), attr_dt(g->b, "out", out)};
  Value *in[6] = {grad_rows(g, a.codes), b.codes, a.scale_inv, b.scale_inv, a.blocks, b.blocks};
  if (!a.blocks || !b.blocks || !decoded)
    return build_op(g->b, OP_qmatmul, 4, in, 3, attr)->out[0];
  const int64_t block[4] = {a.block[0], a.block[1], b.block[0], b.block[1]};
  in[1] = grad_rows(g, b.codes);
  attr[3] = attr_ints(g->b, "block", 4, block);
  attr[4] = *decoded;
  return build_op(g->b, OP_qmatmul, 6, in, 5, attr)->out[0];
}

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
void grad_linear(Grad *g, const Op *op, Value *const *dy) {
  Value *d = grad_rows(g, dy[0]);
  const Value *x = op->in[0];
  if (grad_wants(g, op, 0)) {
    Value *dx = matmul(g, d, grad_forward(g, op, 1), false, false, grad_dtype(g, op, 0));
    grad_give(g, op, 0, grad_shaped(g, dx, x->type));
  }
  if (grad_wants(g, op, 1))
    grad_give(
        g, op, 1,
        matmul(g, d, grad_rows(g, grad_forward(g, op, 0)), true, false, grad_dtype(g, op, 1)));
  if (op->nin > 2)
    give_bias(g, op, 2, d);
}

/* C = op(A) op(B): the four cases keep both factors as they lie in memory. */
void grad_matmul(Grad *g, const Op *op, Value *const *dy) {
  bool ta = op_int(op, "ta", 0), tb = op_int(op, "tb", 0);
  Value *a = grad_forward(g, op, 0), *b = grad_forward(g, op, 1), *dc = dy[0];
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

void grad_bmm(Grad *g, const Op *op, Value *const *dy) {
  if (grad_wants(g, op, 0))
    grad_give(g, op, 0,
              bmm(g, dy[0], turned_last(g, grad_forward(g, op, 1)), grad_dtype(g, op, 0)));
  if (grad_wants(g, op, 1))
    grad_give(g, op, 1,
              bmm(g, turned_last(g, grad_forward(g, op, 0)), dy[0], grad_dtype(g, op, 1)));
}

/* Products of dY as it is with x and w, as they were or as their codes have them. */
static void grad_overridden(Grad *g, const Op *op, Value *dy, int x, bool decoded) {
  int from = x + (decoded ? 2 : 0);
  Value *d = grad_rows(g, dy);
  if (grad_wants(g, op, x)) {
    Value *dx = matmul(g, d, grad_forward(g, op, from + 1), false, false, grad_dtype(g, op, x));
    grad_give(g, op, x, grad_shaped(g, dx, op->in[x]->type));
  }
  if (grad_wants(g, op, x + 1)) {
    Value *rows = grad_rows(g, grad_forward(g, op, from));
    grad_give(g, op, x + 1, matmul(g, d, rows, true, false, grad_dtype(g, op, x + 1)));
  }
}

/* Both products read the codes of dY that qgrad made, and the codes and scale_inv saved forward:
 * with block scales those whose blocks run along their own sums. */
void grad_qlinear(Grad *g, const Op *op, Value *const *dy) {
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
  Codes x = {grad_forward(g, op, first), grad_forward(g, op, first + 2),
             first ? grad_forward(g, op, first + 4) : NULL};
  Codes w = {grad_forward(g, op, first + 1), grad_forward(g, op, first + 3),
             first ? grad_forward(g, op, first + 5) : NULL};
  const Attr *decoded = op_attr(op, "decoded"), *turned = op_attr(op, "turned");
  if (turned) {
    memcpy(x.block, turned->u.ints.v, sizeof x.block);
    memcpy(w.block, turned->u.ints.v + 2, sizeof w.block);
  }
  if (grad_wants(g, op, 0)) {
    Value *dx = qmatmul(g, d[0], w, false, grad_dtype(g, op, 0), decoded);
    grad_give(g, op, 0, grad_shaped(g, dx, op->in[0]->type));
  }
  if (grad_wants(g, op, 1)) {
    x.codes = grad_rows(g, x.codes);
    grad_give(g, op, 1, qmatmul(g, d[1], x, true, grad_dtype(g, op, 1), decoded));
  }
}

void grad_conv(Grad *g, const Op *op, Value *const *dy) {
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
  Value *x = grad_forward(g, op, 0), *d = build_cast(g->b, dy, x->type->dt);
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
    Value *in[2] = {spread_rows(g, w, d, x->type), grad_forward(g, op, 1)};
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
    grad_give(g, op, 2, grad_rows(g, dy));
}

/* The gradient of an image is wanted without its padding. */
Value *grad_depthwise_part(Grad *g, Value *dx, int dim, int64_t start, int64_t end) {
  const Op *op = dx->def;
  const int axis = dim - 1;
  ConvWindow w;
  Attr attr[8];
  if (op->code != OP_conv_gather || op_int(op, "groups", 1) == 1 || !conv_window(op, &w) ||
      axis < 0 || axis >= w.nd || op->nattr > 8)
    return NULL;
  w.size[axis] = end - start;
  w.padding[axis] -= start * w.stride[axis];
  for (int i = 0; i < op->nattr; i++) {
    const char *key = op->attr[i].key;
    attr[i] = !strcmp(key, "positions") ? attr_ints(g->b, key, w.nd, w.size)
              : !strcmp(key, "padding") ? attr_ints(g->b, key, w.nd, w.padding)
                                        : op->attr[i];
  }
  return build_op(g->b, OP_conv_gather, op->nin, op->in, op->nattr, attr)->out[0];
}

/* dx gathers dy through the turned window. dw sums x (gathered) times dy over positions; where the
 * window spreads x instead (up > 1, transposed convolutions) dy is the gathered one. */
void grad_conv_gather(Grad *g, const Op *op, Value *const *dy) {
  ConvWindow w;
  Attr attr[8];
  if (!conv_window(op, &w))
    return;
  if (op_int(op, "groups", 1) != 1) {
    grad_depthwise(g, op, &w, dy[0]);
    return;
  }
  Value *x = grad_forward(g, op, 0), *d = dy[0];
  if (grad_wants(g, op, 0)) {
    int n = turned(g, &w, x->type->dim + 1, attr);
    attr[n++] = attr_dt(g->b, "out", grad_dtype(g, op, 0));
    Value *in[2] = {d, ends_swapped(g, grad_forward(g, op, 1))};
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
    grad_give(g, op, 2, grad_rows(g, d));
}

/* Each element goes back to the place its window took it from. */
void grad_max_pool(Grad *g, const Op *op, Value *const *dy) {
  if (!dy[0])
    return;
  Value *in[2] = {dy[0], grad_result(g, op, 1)};
  grad_give(g, op, 0, build_op(g->b, OP_max_pool_grad, 2, in, op->nattr, op->attr)->out[0]);
}

void grad_resample(Grad *g, const Op *op, Value *const *dy) {
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
  Value *lse = grad_result(g, op, 1), *part[3];
  DType wide = lse->type->dt;
  for (int i = 0; i < 3; i++) {
    part[i] = codes ? decoded(g, grad_forward(g, op, i), grad_forward(g, op, op->nin - 3 + i))
                    : grad_forward(g, op, i);
    part[i] = by_head(g, part[i], i ? kv : heads, heads);
  }
  Value *q = part[0], *k = part[1], *v = part[2];
  Value *d = by_head(g, dy, heads, heads), *o = by_head(g, grad_result(g, op, 0), heads, heads);
  Value *in[7] = {bmm(g, q, turned_last(g, k), wide), grad_forward(g, op, 3)};
  int64_t stat[4] = {q->type->dim[0], heads, q->type->dim[2], 1}, keys = k->type->dim[2];
  in[2] = build_reshape(b, lse, 4, stat);
  in[3] = bmm(g, d, turned_last(g, v), wide);
  if (dropout) {
    Attr at[2] = {attr_f(b, "p", op_float(op, "dropout_p", 0)),
                  attr_i(b, "stream", op_int(op, "stream", 0))};
    Value *drop[3] = {in[3], grad_forward(g, op, 4), grad_forward(g, op, 5)};
    in[3] = build_op(b, OP_dropout, 3, drop, 2, at)->out[0];
  }
  in[4] = grad_row_sum(g, build_expr(b, "a * b", wide, 2, (Value *[]){d, o}));
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
void grad_attention(Grad *g, const Op *op, Value *const *dy) {
  const Codes *c = &g->codes[op->out[0]->id][0];
  if (!dy[0] && !c->codes)
    return;
  Value *in[13] = {c->codes ? c->codes : dy[0], grad_result(g, op, 0), grad_result(g, op, 1)};
  int nin = 3;
  for (int i = 0; i < op->nin && i < 9; i++)
    in[nin++] = grad_forward(g, op, i);
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
