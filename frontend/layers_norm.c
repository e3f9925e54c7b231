/* Normalisation layers. */
#include "frontend/layers.h"

Value *layer_LayerNorm(Lower *lo, const Node *n, Value *const *in) {
  const Type *x = in[0]->type;
  const Val *shape = val_get(n->args, "normalized_shape");
  int axes = shape && shape->kind == VAL_LIST ? shape->n : 1;
  if (axes < 1 || axes >= x->rank)
    return lay_misfit(lo, n, n->loc, 0, in,
                      "normalises %d axes, its input has %d besides the batch", axes, x->rank - 1);
  const int64_t *dim = x->dim + x->rank - axes;
  for (int i = 0; shape && shape->kind == VAL_LIST && i < axes; i++)
    if (shape->item[i]->i != dim[i])
      return lay_misfit(lo, n, shape->item[i]->loc, 0, in,
                        "has normalized_shape %lld, its input has %lld",
                        (long long)shape->item[i]->i, (long long)dim[i]);
  Value *args[3] = {in[0], NULL, NULL};
  int nin = 1;
  if (val_get_bool(n->args, "elementwise_affine", true)) {
    args[nin++] = lay_param(lo, n, "weight", axes, dim, init_constant(1));
    if (val_get_bool(n->args, "bias", true))
      args[nin++] = lay_param(lo, n, "bias", axes, dim, init_constant(0));
  }
  Attr at[] = {attr_f(lo->b, "eps", val_get_float(n->args, "eps", 1e-5)),
               attr_i(lo->b, "axes", axes)};
  return lay_emit1(lo, n, OP_layer_norm, nin, args, 2, at);
}
