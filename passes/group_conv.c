/* Lowering of channels-last convolutions: products whose first operand is gathered by the kernel,
 * so no matrix of patches ever lies in memory (docs/groups.md, kind conv). */
#include "passes/fuse.h"

void group_conv(Fuse *F, const Op *op) {
  fuse_error(F, op, "is not a product yet: the layout pass replaces it");
}

/* x [N, S..., C] with dense channels and ascending places, as the kernel takes it. */
static View *gathered(Fuse *F, View *x) {
  bool fits = x->buf && (x->at.stride[x->rank - 1] == 1 || x->dim[x->rank - 1] == 1);
  for (int i = 0; fits && i < x->rank; i++)
    fits = x->at.stride[i] > 0 || x->dim[i] == 1;
  return fits ? x : view_copied(F, x, x->dt);
}

static void window_attrs(Fuse *F, Node *n, const Op *op, const View *x, bool wgrad) {
  static const char *const keys[] = {"positions", "kernel", "stride", "padding", "dilation", "up"};
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
    const Attr *a = op_attr(op, keys[i]);
    if (a)
      node_attr(F, n, attr_ints(F->b, keys[i], a->u.ints.n, a->u.ints.v));
  }
  node_attr_i(F, n, "batch", x->dim[0]);
  node_attr_i(F, n, "channels", x->dim[x->rank - 1]);
  node_attr(F, n, attr_ints(F->b, "x", x->rank - 2, x->dim + 1));
  node_attr(F, n, attr_ints(F->b, "strides", x->rank - 1, x->at.stride));
  if (wgrad)
    node_attr_b(F, n, "wgrad", true);
}

/* v as a matrix [rows, columns], in place when strides can say it. */
static View *matrix(Fuse *F, View *v, int64_t rows, int64_t columns) {
  const int64_t dim[2] = {rows, columns};
  View *w;
  if (!v->buf || !view_reshaped(F, v, 2, dim, &w))
    view_reshaped(F, view_copied(F, v, v->dt), 2, dim, &w);
  return w;
}

/* One node over [rows of the product, columns]; `at` of operand 0 numbers the rows. */
static Node *conv_node(Fuse *F, const Op *op, View *x, View *b, DType compute, int64_t rows,
                       bool wgrad, int *acc) {
  const int64_t dim[2] = {rows, b->dim[0]};
  Access at = {.offset = x->at.offset, .stride = {1}};
  Node *n = product_node(F, NODE_CONV, 2, dim, x->buf, &at, product_packed(F, b, compute), compute,
                         b->dim[1], acc);
  window_attrs(F, n, op, x, wgrad);
  return n;
}

void group_conv_gather(Fuse *F, const Op *op) {
  const Type *y = op->out[0]->type, *wt = op->in[1]->type;
  View *x = gathered(F, operand(F, 0)), *w = operand(F, 1);
  DType compute = target_product_dtype(F->o->caps, x->dt, w->dt);
  w = matrix(F, w, wt->dim[0], type_elems(wt) / wt->dim[0]);
  int s;
  Node *n = conv_node(F, op, x, w, compute, type_elems(y) / y->dim[y->rank - 1], false, &s);
  if (op->nin > 2)
    s = node_op2(F, n, PR_ADD, s, node_load_as(F, n, operand(F, 2), node_reg(n, s)));
  set_result_buf(F, 0, node_store(F, n, s, y->dt, ~0u));
}

/* The product is made as [taps, C, O]: rows are what the gathered operand has contiguous. bf16
 * pairs would run along positions, which no operand has contiguous: operands are decoded to f32,
 * exactly. */
void group_conv_wgrad(Fuse *F, const Op *op) {
  const Type *dw = op->out[0]->type, *dt = op->in[1]->type;
  View *x = gathered(F, operand(F, 0)), *dy = operand(F, 1);
  DType compute = target_product_dtype(F->o->caps, x->dt, dy->dt);
  if (compute == DT_BF16)
    compute = DT_F32;
  int64_t outs = dw->dim[0], rows = type_elems(dw) / outs, back[MAX_DIMS], swap[2] = {1, 0};
  dy = view_permuted(F, matrix(F, dy, type_elems(dt) / outs, outs), swap);
  int s;
  Node *n = conv_node(F, op, x, dy, compute, rows, true, &s);
  View *v = view_whole(F, node_store(F, n, s, dw->dt, ~0u)), *r;
  int64_t dim[MAX_DIMS];
  for (int i = 1; i < dw->rank; i++)
    dim[i - 1] = dw->dim[i];
  dim[dw->rank - 1] = outs;
  back[0] = dw->rank - 1;
  for (int i = 1; i < dw->rank; i++)
    back[i] = i - 1;
  view_reshaped(F, v, dw->rank, dim, &r);
  set_result(F, 0, view_permuted(F, r, back));
}
