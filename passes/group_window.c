/* Lowering of static windows: channels last, each place of the result a sum (or largest) over the
 * places its tables name. Values keep the order of their operand where that has dense channels. */
#include "passes/fuse.h"

/* x [N, C, S...] as [N, S..., C] with dense channels. */
static View *channels_last(Fuse *F, View *x) {
  View *v = view_channels_last(F, x);
  bool fits = v->buf && (v->at.stride[v->rank - 1] == 1 || v->dim[v->rank - 1] == 1);
  return fits ? v : view_copied(F, v, v->dt);
}

/* Whether two operands of a window step alike from place to place. */
static bool same_steps(const View *a, const View *b) {
  for (int d = 1; d + 1 < a->rank; d++)
    if (a->at.stride[d] != b->at.stride[d])
      return false;
  return true;
}

static void add_operand(Fuse *F, Node *n, const View *v) {
  n->in = fuse_grow(F, n->in, n->nin, &n->cin, sizeof *n->in);
  if (F->status == MPCC_OK)
    n->in[n->nin++] = (NodeIn){v->buf, v->at};
}

/* Result i of the op from result i of the node, which lies channels last. */
static void give_result(Fuse *F, Node *n, int i) {
  const Type *ty = F->op->out[i]->type;
  int64_t dim[MAX_RANK], back[MAX_RANK], stride = 1;
  Access at = {0};
  dim[0] = ty->dim[0];
  dim[ty->rank - 1] = ty->dim[1];
  back[0] = 0;
  back[1] = ty->rank - 1;
  for (int k = 2; k < ty->rank; k++) {
    dim[k - 1] = ty->dim[k];
    back[k] = k - 1;
  }
  for (int k = ty->rank - 1; k >= 0; stride *= dim[k--])
    at.stride[k] = stride;
  const Type *memory = type_get(builder_types(F->b), ty->dt, ty->rank, dim);
  Buf *b = node_store_at(F, n, 0, memory, &at);
  set_result(F, i, view_permuted(F, view_whole(F, b), back));
}

static void lower_window(Fuse *F, const Op *op, const char *mode, bool turned) {
  static const char *const keys[] = {
      "rule",   "extents", "positions", "kernel",  "stride",  "padding", "dilation",
      "turned", "divisor", "count_pad", "scale_0", "scale_1", "scale_2", "align_corners"};
  const Type *ty = op->out[0]->type;
  int64_t dim[MAX_DIMS] = {ty->dim[0]};
  for (int i = 2; i < ty->rank; i++)
    dim[i - 1] = ty->dim[i];
  dim[ty->rank - 1] = ty->dim[1];
  View *in[2] = {NULL};
  for (int i = 0; i < op->nin && i < 2; i++)
    in[i] = channels_last(F, operand(F, i));
  /* taps of a gradient are read beside it, by one table of offsets: neither may be part of more */
  for (int i = 0; i < 2 && in[1] && !same_steps(in[0], in[1]); i++)
    in[i] = view_copied(F, in[i], in[i]->dt);
  Node *n = node_create(F, NODE_WINDOW, ty->rank, dim);
  node_attr(F, n, attr_s(F->b, "mode", mode));
  for (int i = 0; i < op->nin && i < 2; i++)
    add_operand(F, n, in[i]);
  for (size_t k = 0; k < sizeof keys / sizeof *keys; k++)
    if (op_attr(op, keys[k]))
      node_attr(F, n, *op_attr(op, keys[k]));
  if (turned)
    node_attr_b(F, n, "turned", true);
  for (int i = 0; i < op->nout; i++)
    give_result(F, n, i);
}

void group_max_pool(Fuse *F, const Op *op) {
  lower_window(F, op, "max", false);
}

void group_max_pool_grad(Fuse *F, const Op *op) {
  lower_window(F, op, "max_grad", true);
}

void group_resample(Fuse *F, const Op *op) {
  lower_window(F, op, "sum", op_int(op, "turned", 0));
}
