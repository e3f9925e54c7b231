/* Layers that move, join and reduce axes, and Parameter. */
#include "frontend/layers.h"

Value *layer_Flatten(Lower *lo, const Node *n, Value *const *in) {
  const Type *x = in[0]->type;
  int from = lay_axis(lo, n, "start_dim", lay_int(n, "start_dim"), in);
  int to = from < 0 ? -1 : lay_axis(lo, n, "end_dim", val_get_int(n->args, "end_dim", -1), in);
  if (to < 0)
    return NULL;
  if (from == 0 || to < from)
    return lay_misfit(lo, n, lay_loc(n, "start_dim"), 0, in, "cannot join axes %d to %d%s", from,
                      to, from ? "" : ": 0 is the batch");
  int64_t dim[MAX_RANK];
  int rank = 0;
  for (int i = 0; i < x->rank; i++)
    if (i > from && i <= to)
      dim[rank - 1] *= x->dim[i];
    else
      dim[rank++] = x->dim[i];
  return build_reshape(lo->b, in[0], rank, dim);
}

Value *layer_transpose(Lower *lo, const Node *n, Value *const *in) {
  int a = lay_axis(lo, n, "dim0", lay_int(n, "dim0"), in);
  int b = a < 0 ? -1 : lay_axis(lo, n, "dim1", lay_int(n, "dim1"), in);
  if (b < 0)
    return NULL;
  if (!a != !b)
    return lay_misfit(lo, n, n->loc, 0, in, "cannot move axis 0, the batch");
  int64_t perm[MAX_RANK];
  for (int i = 0; i < in[0]->type->rank; i++)
    perm[i] = i == a ? b : i == b ? a : i;
  return build_permute(lo->b, in[0], perm);
}

Value *layer_select(Lower *lo, const Node *n, Value *const *in) {
  const Type *x = in[0]->type;
  int axis = lay_axis(lo, n, "dim", lay_int(n, "dim"), in);
  if (axis < 0)
    return NULL;
  int64_t index = lay_int(n, "index"), at = index < 0 ? index + x->dim[axis] : index;
  if (axis == 0)
    return lay_misfit(lo, n, lay_loc(n, "dim"), 0, in, "cannot select from axis 0, the batch");
  if (at < 0 || at >= x->dim[axis])
    return lay_misfit(lo, n, lay_loc(n, "index"), 0, in, "has index %lld, the axis has %lld",
                      (long long)index, (long long)x->dim[axis]);
  Value *one = build_slice(lo->b, in[0], axis, at, at + 1);
  int64_t dim[MAX_RANK];
  int rank = 0;
  for (int i = 0; i < x->rank; i++)
    if (i != axis)
      dim[rank++] = x->dim[i];
  return build_reshape(lo->b, one, rank, dim);
}

Value *layer_mean(Lower *lo, const Node *n, Value *const *in) {
  const Val *dims = val_get(n->args, "dim");
  int64_t axis[MAX_RANK];
  for (int i = 0; i < dims->n; i++) {
    int at = i < MAX_RANK ? lay_axis(lo, n, "dim", dims->item[i]->i, in) : -1;
    if (at < 0)
      return NULL;
    if (at == 0)
      return lay_misfit(lo, n, lay_loc(n, "dim"), 0, in, "cannot average over axis 0, the batch");
    axis[i] = at;
  }
  Attr at[] = {attr_ints(lo->b, "dims", dims->n, axis),
               attr_b(lo->b, "keepdim", val_get_bool(n->args, "keepdim", false))};
  return lay_emit1(lo, n, OP_mean, 1, in, 2, at);
}

Value *layer_cat(Lower *lo, const Node *n, Value *const *in) {
  int axis = lay_axis(lo, n, "dim", val_get_int(n->args, "dim", 1), in);
  if (axis < 0)
    return NULL;
  if (axis == 0)
    return lay_misfit(lo, n, lay_loc(n, "dim"), 0, in, "cannot join along axis 0, the batch");
  for (int i = 1; i < n->nin; i++) {
    bool same = in[i]->type->rank == in[0]->type->rank;
    for (int k = 0; same && k < in[0]->type->rank; k++)
      same = k == axis || in[i]->type->dim[k] == in[0]->type->dim[k];
    if (!same)
      return lay_misfit(lo, n, n->loc, i, in, "joins %s and %s along axis %d",
                        lay_shape(lo, in[0]->type), lay_shape(lo, in[i]->type), axis);
  }
  Attr at = attr_i(lo->b, "dim", axis);
  return lay_emit1(lo, n, OP_cat, n->nin, in, 1, &at);
}

Value *layer_Parameter(Lower *lo, const Node *n, Value *const *in) {
  (void)in;
  const Val *shape = val_get(n->args, "shape");
  int64_t dim[MAX_RANK];
  if (shape->n < 1 || shape->n > MAX_RANK)
    return lay_misfit(lo, n, shape->loc, 0, in, "has %d dimensions, at most %d are possible",
                      shape->n, MAX_RANK);
  for (int i = 0; i < shape->n; i++)
    dim[i] = shape->item[i]->i;
  /* as torch.nn.Parameter(torch.zeros(...)) in most models; say `init` for anything else */
  Value *v = lay_param(lo, n, "", shape->n, dim, init_constant(0));
  if (!val_get_bool(n->args, "expand_batch", false))
    return v;
  if (dim[0] != 1)
    return lay_misfit(lo, n, shape->loc, 0, in,
                      "has expand_batch, its first dimension is %lld, not 1", (long long)dim[0]);
  dim[0] = lo->batch;
  Attr at = attr_ints(lo->b, "shape", shape->n, dim);
  return build_op(lo->b, OP_expand, 1, &v, 1, &at)->out[0];
}
