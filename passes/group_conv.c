/* Lowering of channels-last convolutions: products whose first operand is gathered by the kernel,
 * so no matrix of patches ever lies in memory (docs/groups.md, kind conv). Depthwise ones
 * (attribute `groups`) multiply no matrices: they and their gradients are kernels of their own
 * where the target has such (`depth_windows` of its caps), else rows of statements over shifted
 * views of x. */
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

static void window_attrs(Fuse *F, Node *n, const ConvWindow *w, const View *x, bool wgrad) {
  node_attr(F, n, attr_ints(F->b, "positions", w->nd, w->size));
  node_attr(F, n, attr_ints(F->b, "kernel", w->nd, w->kernel));
  node_attr(F, n, attr_ints(F->b, "stride", w->nd, w->stride));
  node_attr(F, n, attr_ints(F->b, "padding", w->nd, w->padding));
  node_attr(F, n, attr_ints(F->b, "dilation", w->nd, w->dilation));
  node_attr(F, n, attr_ints(F->b, "up", w->nd, w->up));
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

/* Target caps say what products are made in; factors of 16 bits may stay as they are. Pairs of bf16
 * along few taps of an odd number of channels would be gathered one by one, which takes longer than
 * multiplying twice as much where windows lie: they are decoded to f32, exactly. */
static DType conv_dtype(const TargetCaps *c, DType a, DType b, const ConvWindow *w,
                        int64_t channels) {
  enum { FEW = 64 };
  if (c->half_tiles && a == b && dtype_is_half(a))
    return a;
  DType compute = target_product_dtype(c, a, b);
  bool few = conv_taps(w) * channels <= FEW && channels % 2 != 0;
  return compute == MPCC_BF16 && few ? MPCC_F32 : compute;
}

/* One node over [rows of the product, columns], the rows of weight gradients [taps, C]; `at` of operand
 * 0 numbers them. b: [N, K], which is packed; of weight gradients [K, N], as it lies. */
static Node *conv_node(Fuse *F, const ConvWindow *w, View *x, View *b, DType compute, int64_t rows,
                       bool wgrad, int *acc) {
  const int64_t inner = wgrad ? x->dim[x->rank - 1] : rows;
  const int64_t dim[3] = {rows / inner, inner, b->dim[wgrad]};
  const Access one = {.offset = x->at.offset, .stride = {1}};
  const Access two = {.offset = x->at.offset, .stride = {inner, 1}};
  Buf *factor = wgrad ? b->buf : product_packed(F, b, compute);
  Node *n = product_node(F, NODE_CONV, 2 + wgrad, dim + !wgrad, x->buf, wgrad ? &two : &one, factor,
                         compute, b->dim[!wgrad], acc);
  if (wgrad) {
    if (!fuse_failed(F))
      n->in[1].at.offset = b->at.offset;
    node_attr(F, n, attr_ints(F->b, "factor", 2, b->at.stride));
  }
  if (compute == MPCC_F32 && product_is_tf32(F))
    node_attr_b(F, n, "tf32", true);
  window_attrs(F, n, w, x, wgrad);
  return n;
}

/* ---- depthwise ------------------------------------------------------------------------------- */

/* x as every position reads it by tap number `tap`. */
static View tap_view(const View *x, const ConvWindow *w, int64_t tap) {
  View v = *x;
  for (int i = w->nd - 1; i >= 0; i--) {
    int64_t step = x->at.stride[1 + i], k = tap % w->kernel[i];
    tap /= w->kernel[i];
    v.dim[1 + i] = w->size[i];
    v.at.stride[1 + i] = step * w->stride[i];
    v.at.offset += (k * w->dilation[i] - w->padding[i]) * step;
  }
  return v;
}

/* y = sum over taps of x at the tap times its weight, one statement after the other: [N, P..., C].
 */
static void depth_gather(Fuse *F, const Op *op, const ConvWindow *w) {
  const Type *y = op->out[0]->type;
  View *x = gathered(F, operand(F, 0)), *taps;
  const int64_t swap[2] = {1, 0}, n = conv_taps(w);
  taps = matrix(F, operand(F, 1), y->dim[y->rank - 1], n);
  taps = view_copied(F, view_permuted(F, taps, swap), taps->dt); /* [taps, C] */
  if (fuse_failed(F))
    return;
  DType reg = reg_join(x->dt, taps->dt);
  Node *node = node_rows(F, y->rank, y->dim);
  int sum = -1;
  for (int64_t k = 0; k < n; k++) {
    View from = tap_view(x, w, k), weight = *taps;
    weight.rank = 1;
    weight.dim[0] = taps->dim[1];
    weight.at = (Access){.offset = taps->at.offset + k * taps->at.stride[0],
                         .stride = {taps->at.stride[1]}};
    int product = node_op2(F, node, PR_MUL, node_load_as(F, node, &from, reg),
                           node_load_as(F, node, &weight, reg));
    sum = sum < 0 ? product : node_op2(F, node, PR_ADD, sum, product);
  }
  if (op->nin > 2)
    sum = node_op2(F, node, PR_ADD, sum, node_load_as(F, node, operand(F, 2), reg));
  set_result_buf(F, 0, node_store(F, node, sum, y->dt, ~0u));
}

/* What v has with zeros between neighbours of one axis; NULL: it is no such copy. A slice of it may
 * have ended the zeros behind the last earlier. */
static const Value *unspread(const Value *v, const ConvWindow *w, int64_t *axis, int64_t *up) {
  const bool cut = v->def->code == OP_slice && op_int(v->def, "start", 0) == 0;
  const Value *whole = cut ? v->def->in[0] : v;
  const Op *join = whole->def, *open = join->code == OP_reshape ? join->in[0]->def : NULL;
  const Op *split = open && open->code == OP_unslice ? open->in[0]->def : NULL;
  if (!split || split->code != OP_reshape || op_int(open, "start", 0) != 0)
    return NULL;
  const Value *from = split->in[0];
  const Type *few = from->type, *apart = open->in[0]->type, *many = whole->type;
  const int64_t dim = op_int(open, "dim", 0) - 1;
  *axis = dim - 1;
  *up = op_int(open, "size", 1);
  if (few->rank != many->rank || apart->rank != few->rank + 1 || *axis < 0 || *axis >= w->nd ||
      apart->dim[dim + 1] != 1)
    return NULL;
  for (int i = 0; i < few->rank; i++)
    if (few->dim[i] * (i == dim ? *up : 1) != many->dim[i] ||
        apart->dim[i + (i > dim)] != few->dim[i] || (i != dim && v->type->dim[i] != many->dim[i]))
      return NULL;
  return v->type->dim[dim] > (few->dim[dim] - 1) * *up ? from : NULL;
}

/* What v is a copy of, with zeros around and between; w is then the window over that. */
static const Value *unpadded(const Value *v, ConvWindow *w) {
  for (int64_t axis, up;;) {
    const Value *few = unspread(v, w, &axis, &up);
    if (few) {
      w->up[axis] *= up;
      v = few;
      continue;
    }
    axis = op_int(v->def, "dim", 0) - 1;
    if (v->def->code != OP_unslice || axis < 0 || axis >= w->nd)
      return v;
    w->padding[axis] += op_int(v->def, "start", 0) * w->up[axis];
    v = v->def->in[0];
  }
}

/* The same as one kernel, which finds out itself what lies outside of x. */
static void depth_conv(Fuse *F, const Op *op, const ConvWindow *window) {
  const Type *y = op->out[0]->type;
  ConvWindow w = *window;
  View *x = gathered(F, view_of(F, unpadded(op->in[0], &w))), *taps;
  const int64_t swap[2] = {1, 0}, channels = y->dim[y->rank - 1], k = conv_taps(&w);
  taps = matrix(F, operand(F, 1), channels, k);
  taps = view_copied(F, view_permuted(F, taps, swap), taps->dt); /* [taps, C] */
  if (fuse_failed(F))
    return;
  const int64_t dim[2] = {type_elems(y) / channels, channels};
  const Access at = {.offset = x->at.offset, .stride = {1}};
  const DType compute = reg_join(x->dt, taps->dt) == MPCC_F64 ? MPCC_F64 : MPCC_F32;
  int s;
  Node *n = product_node(F, NODE_CONV, 2, dim, x->buf, &at, taps->buf, compute, k, &s);
  if (!fuse_failed(F))
    n->in[1].at.offset = taps->at.offset;
  node_attr_b(F, n, "depth", true);
  node_attr(F, n, attr_ints(F->b, "factor", 2, taps->at.stride));
  window_attrs(F, n, &w, x, false);
  if (op->nin > 2)
    s = node_op2(F, n, PR_ADD, s, node_load_as(F, n, operand(F, 2), node_reg(n, s)));
  set_result_buf(F, 0, node_store(F, n, s, y->dt, ~0u));
}

/* The gradient of weights [T, C] as one kernel, which makes a sum of each of so many parts of the
 * batch that its blocks keep a device busy, and one that adds those. */
static void depth_conv_wgrad(Fuse *F, const Op *op, const ConvWindow *window) {
  enum { MOST_PARTS = 64, BLOCK_SUMS = 256, BLOCK = 256 };
  const Type *dw = op->out[0]->type;
  ConvWindow w = *window;
  View *x = gathered(F, view_of(F, unpadded(op->in[0], &w))), *dy = operand(F, 1), *v, *r;
  const int64_t channels = dw->dim[0], taps = conv_taps(&w), batch = x->dim[0];
  const int64_t places = conv_positions(&w), cols = taps * channels;
  dy = matrix(F, dy, batch * places, channels);
  if (fuse_failed(F))
    return;
  int64_t parts = 1;
  for (int64_t n = 2; n <= batch && n <= MOST_PARTS; n++)
    if (batch % n == 0 && parts * cols < (int64_t)F->o->caps->partials * BLOCK_SUMS)
      parts = n;
  const DType compute = reg_join(x->dt, dy->dt) == MPCC_F64 ? MPCC_F64 : MPCC_F32;
  const int64_t dim[2] = {parts * taps, channels};
  const Access at = {.offset = x->at.offset, .stride = {1}};
  int s;
  Node *n =
      product_node(F, NODE_CONV, 2, dim, x->buf, &at, dy->buf, compute, batch / parts * places, &s);
  if (!fuse_failed(F))
    n->in[1].at.offset = dy->at.offset;
  node_attr_b(F, n, "depth", true);
  node_attr_i(F, n, "parts", parts);
  node_attr(F, n, attr_ints(F->b, "factor", 2, dy->at.stride));
  window_attrs(F, n, &w, x, true);
  v = view_whole(F, node_store(F, n, s, parts > 1 ? compute : dw->dt, ~0u));
  if (parts > 1) {
    int64_t block = BLOCK;
    while (block > 32 && cols % block)
      block--;
    block = cols % block ? cols : block;
    View part = *v;
    part.rank = 3;
    const int64_t each[3] = {cols / block, parts, block}, step[3] = {block, cols, 1};
    for (int i = 0; i < 3; i++) {
      part.dim[i] = each[i];
      part.at.stride[i] = step[i];
    }
    Node *sum = node_rigid(F, 3, each, 1);
    v = view_whole(F, node_panel_sums(F, sum, node_load_as(F, sum, &part, compute),
                                      type_get(builder_types(F->b), dw->dt, 1, &cols), parts));
  }
  if (fuse_failed(F))
    return;
  int64_t kept[MAX_DIMS], back[MAX_DIMS] = {w.nd};
  for (int i = 0; i < w.nd; i++) {
    kept[i] = w.kernel[i];
    back[1 + i] = i;
  }
  kept[w.nd] = channels;
  view_reshaped(F, v, w.nd + 1, kept, &v);
  view_reshaped(F, view_permuted(F, v, back), dw->rank, dw->dim, &r);
  set_result(F, 0, r);
}

/* Rows are positions, columns taps and channels: [K..., C] is one sum over the rows. */
static void depth_wgrad(Fuse *F, const Op *op, const ConvWindow *w) {
  const Type *dw = op->out[0]->type;
  View *x = gathered(F, operand(F, 0)), *dy = operand(F, 1), *r;
  if (fuse_failed(F) || 2 * w->nd + 2 > MAX_DIMS)
    return;
  int last = x->rank - 1, n = 2 * w->nd + 2;
  View from = tap_view(x, w, 0), to = *dy;
  from.rank = to.rank = n;
  from.dim[n - 1] = to.dim[n - 1] = x->dim[last];
  from.at.stride[n - 1] = x->at.stride[last];
  to.at.stride[n - 1] = dy->at.stride[last];
  int64_t keep[MAX_DIMS], back[MAX_DIMS] = {w->nd};
  for (int i = 0; i < w->nd; i++) {
    int d = 1 + w->nd + i;
    from.dim[d] = to.dim[d] = w->kernel[i];
    from.at.stride[d] = x->at.stride[1 + i] * w->dilation[i];
    to.at.stride[d] = 0;
    keep[i] = w->kernel[i];
    back[1 + i] = i;
  }
  keep[w->nd] = x->dim[last];
  DType reg = reg_join(x->dt, dy->dt);
  Node *node = node_rigid(F, n, from.dim, w->nd + 1);
  int s =
      node_op2(F, node, PR_MUL, node_load_as(F, node, &from, reg), node_load_as(F, node, &to, reg));
  Buf *sums = node_column_sum(F, node, s, type_get(builder_types(F->b), dw->dt, w->nd + 1, keep));
  if (fuse_failed(F))
    return;
  view_reshaped(F, view_permuted(F, view_whole(F, sums), back), dw->rank, dw->dim, &r);
  set_result(F, 0, r);
}

void group_conv_gather(Fuse *F, const Op *op) {
  ConvWindow window;
  if (!conv_window(op, &window)) {
    fuse_error(F, op, "is no window");
    return;
  }
  if (op_int(op, "groups", 1) != 1) {
    (F->o->caps->depth_windows ? depth_conv : depth_gather)(F, op, &window);
    return;
  }
  const Type *y = op->out[0]->type, *wt = op->in[1]->type;
  View *x = gathered(F, operand(F, 0)), *w = operand(F, 1);
  DType compute = conv_dtype(F->o->caps, x->dt, w->dt, &window, wt->dim[wt->rank - 1]);
  w = matrix(F, w, wt->dim[0], type_elems(wt) / wt->dim[0]);
  int s;
  Node *n = conv_node(F, &window, x, w, compute, type_elems(y) / y->dim[y->rank - 1], false, &s);
  if (op->nin > 2)
    s = node_op2(F, n, PR_ADD, s, node_load_as(F, n, operand(F, 2), node_reg(n, s)));
  set_result_buf(F, 0, node_store(F, n, s, y->dt, ~0u));
}

/* The product's rows are [taps, C], what the gathered operand has contiguous. Its result [C, taps, O] is but
 * two dimensions swapped away from [O, C, taps], which users see, where a kernel of its own turns it. */
void group_conv_wgrad(Fuse *F, const Op *op) {
  ConvWindow window;
  if (!conv_window(op, &window)) {
    fuse_error(F, op, "is no window");
    return;
  }
  if (op_int(op, "groups", 1) != 1) {
    (F->o->caps->depth_windows ? depth_conv_wgrad : depth_wgrad)(F, op, &window);
    return;
  }
  const Type *dw = op->out[0]->type, *dt = op->in[1]->type;
  View *x = gathered(F, operand(F, 0)), *dy = operand(F, 1);
  DType compute = target_product_dtype(F->o->caps, x->dt, dy->dt);
  enum { LEAST = 32 }; /* channels: fewer make low panels of rows of one tap */
  int64_t outs = dw->dim[0], rows = type_elems(dw) / outs, back[MAX_DIMS];
  dy = matrix(F, dy, type_elems(dt) / outs, outs);
  int s;
  Node *n = conv_node(F, &window, x, dy, compute, rows, true, &s);
  const int last = dw->rank - 1;
  const bool apart = F->o->caps->turned_apart && rows * outs > FUSE_SCATTERED && dw->dim[last] >= LEAST;
  const int64_t taps = rows / dw->dim[last];
  const Access at = {.stride = {apart ? outs : rows / taps * outs, apart ? taps * outs : outs, 1}};
  int64_t dim[MAX_DIMS];
  dim[apart ? 0 : last - 1] = dw->dim[last];
  dim[last] = outs;
  back[0] = last;
  back[last] = apart ? 0 : last - 1;
  for (int i = 1; i < last; i++) {
    back[i] = apart ? i : i - 1;
    dim[back[i]] = dw->dim[i];
  }
  const Type *made = type_get(builder_types(F->b), dw->dt, dw->rank, dim);
  View *v = view_whole(F, node_store_at(F, n, s, made, &at));
  set_result(F, 0, view_permuted(F, v, back));
}
