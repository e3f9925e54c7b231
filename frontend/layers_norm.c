/* Normalisation layers. */
#include "frontend/layers.h"

/* Axes of `normalized_shape`, which must agree with the last ones; 0 after a diagnostic. */
static int norm_axes(Lower *lo, const Node *n, Value *const *in) {
  const Type *x = in[0]->type;
  const Val *shape = val_get(n->args, "normalized_shape");
  int axes = shape && shape->kind == VAL_LIST ? shape->n : 1;
  if (axes < 1 || axes >= x->rank) {
    lay_misfit(lo, n, n->loc, 0, in, "normalises %d axes, its input has %d besides the batch", axes,
               x->rank - 1);
    return 0;
  }
  const int64_t *dim = x->dim + x->rank - axes;
  for (int i = 0; shape && shape->kind == VAL_LIST && i < axes; i++)
    if (shape->item[i]->i != dim[i]) {
      lay_misfit(lo, n, shape->item[i]->loc, 0, in, "has normalized_shape %lld, its input has %lld",
                 (long long)shape->item[i]->i, (long long)dim[i]);
      return 0;
    }
  return axes;
}

Value *layer_LayerNorm(Lower *lo, const Node *n, Value *const *in) {
  int axes = norm_axes(lo, n, in);
  if (!axes)
    return NULL;
  const int64_t *dim = in[0]->type->dim + in[0]->type->rank - axes;
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

/* ---- batch normalisation ---- */

/* Running statistics before a batch and after it. num_batches_tracked counts as torch's does. */
static void track(Lower *lo, const Node *n, const Op *norm, Tensor *const *state, int64_t places) {
  Builder *b = lo->b;
  Value *in[6] = {norm->out[1],
                  norm->out[2],
                  build_read(b, state[0]),
                  build_read(b, state[1]),
                  build_read(b, lo->valid_tensor),
                  build_read(b, state[2])};
  const Val *momentum = val_get(n->args, "momentum");
  bool given = momentum && momentum->kind == VAL_FLOAT;
  Attr at[] = {attr_f(b, "momentum", given ? momentum->f : 0), attr_b(b, "cumulative", !given),
               attr_i(b, "places", places)};
  Op *op = lay_emit(lo, n, OP_running_stats, 6, in, 3, at);
  for (int i = 0; i < 3; i++)
    build_write(b, state[i], op->out[i]);
}

static Value *batch_norm(Lower *lo, const Node *n, Value *const *in) {
  const Type *x = in[0]->type;
  int64_t c = x->dim[1], places = type_elems(x) / (x->dim[0] * c);
  bool tracks = val_get_bool(n->args, "track_running_stats", true);
  bool affine = val_get_bool(n->args, "affine", true);
  if (!lay_agrees(lo, n, "num_features", c, in))
    return NULL;
  if (lo->train && x->dim[0] * places < 2)
    return lay_misfit(lo, n, n->loc, 0, in, "needs more than one value per channel to train");
  Tensor *state[3] = {NULL};
  if (tracks) {
    state[0] = lower_buffer(lo, n, "running_mean", DT_F32, 1, &c, 0);
    state[1] = lower_buffer(lo, n, "running_var", DT_F32, 1, &c, 1);
    state[2] = lower_buffer(lo, n, "num_batches_tracked", DT_I64, 0, NULL, 0);
    if (!state[0] || !state[1] || !state[2])
      return NULL;
  }
  bool eval = tracks && !lo->train;
  Value *args[5] = {in[0]};
  int nin = 1;
  if (eval) {
    args[nin++] = build_read(lo->b, state[0]);
    args[nin++] = build_read(lo->b, state[1]);
  } else {
    args[nin++] = lo->valid_tensor ? build_read(lo->b, lo->valid_tensor)
                                   : build_const(lo->b, (double)x->dim[0], DT_I64);
  }
  if (affine) {
    args[nin++] = lay_param(lo, n, "weight", 1, &c, init_constant(1));
    args[nin++] = lay_param(lo, n, "bias", 1, &c, init_constant(0));
  }
  Attr eps = attr_f(lo->b, "eps", val_get_float(n->args, "eps", 1e-5));
  Op *op = lay_emit(lo, n, eval ? OP_batch_affine : OP_batch_norm, nin, args, 1, &eps);
  if (tracks && lo->train)
    track(lo, n, op, state, places);
  return op->out[0];
}

Value *layer_BatchNorm1d(Lower *lo, const Node *n, Value *const *in) {
  int rank = in[0]->type->rank;
  return rank == 2 || rank == 3 ? batch_norm(lo, n, in)
                                : lay_misfit(lo, n, n->loc, 0, in, "works on [N, C] or [N, C, L]");
}

Value *layer_BatchNorm2d(Lower *lo, const Node *n, Value *const *in) {
  return in[0]->type->rank == 4 ? batch_norm(lo, n, in)
                                : lay_misfit(lo, n, n->loc, 0, in, "works on [N, C, H, W]");
}

Value *layer_BatchNorm3d(Lower *lo, const Node *n, Value *const *in) {
  return in[0]->type->rank == 5 ? batch_norm(lo, n, in)
                                : lay_misfit(lo, n, n->loc, 0, in, "works on [N, C, D, H, W]");
}

Value *layer_RMSNorm(Lower *lo, const Node *n, Value *const *in) {
  int axes = norm_axes(lo, n, in), nin = 1;
  if (!axes)
    return NULL;
  const int64_t *dim = in[0]->type->dim + in[0]->type->rank - axes;
  Value *args[2] = {in[0], NULL};
  if (val_get_bool(n->args, "elementwise_affine", true))
    args[nin++] = lay_param(lo, n, "weight", axes, dim, init_constant(1));
  Attr at[] = {attr_f(lo->b, "eps", val_get_float(n->args, "eps", 1e-7)),
               attr_i(lo->b, "axes", axes)};
  return lay_emit1(lo, n, OP_rms_norm, nin, args, 2, at);
}
