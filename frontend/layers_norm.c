/* Normalisation layers. */
#include "frontend/layers.h"

#include <float.h>
#include <string.h>

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

/* Tensors running_mean, running_var, num_batches_tracked of c channels; false when memory is short.
 */
static bool running_state(Lower *lo, const Node *n, int64_t c, Tensor *state[3]) {
  if (n->twin && lo->train) {
    lay_error(lo, n->loc, 190,
              "running statistics of '%s' that '%s' moves, too, are not supported yet",
              n->twin->name, n->name);
    diag_hint(builder_diag(lo->b), "say training: false, track_running_stats: false, or GroupNorm");
    return false;
  }
  state[0] = lower_buffer(lo, n, "running_mean", MPCC_F32, 1, &c, 0);
  state[1] = lower_buffer(lo, n, "running_var", MPCC_F32, 1, &c, 1);
  state[2] = lower_buffer(lo, n, "num_batches_tracked", MPCC_I64, 0, NULL, 0);
  return state[0] && state[1] && state[2];
}

/* Appends weight and bias of c channels; bias: false leaves zeros there. */
static int affine_params(Lower *lo, const Node *n, int64_t c, Value **args, int nin) {
  args[nin++] = lay_param(lo, n, "weight", 1, &c, init_constant(1));
  if (val_get_bool(n->args, "bias", true)) {
    args[nin++] = lay_param(lo, n, "bias", 1, &c, init_constant(0));
  } else {
    Value *zero = build_const(lo->b, 0, MPCC_F32);
    Attr shape = attr_ints(lo->b, "shape", 1, &c);
    args[nin++] = build_op(lo->b, OP_expand, 1, &zero, 1, &shape)->out[0];
  }
  return nin;
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
  if (tracks && !running_state(lo, n, c, state))
    return NULL;
  bool eval = tracks && !lo->train;
  Value *args[5] = {in[0]};
  int nin = 1;
  if (eval) {
    args[nin++] = build_read(lo->b, state[0]);
    args[nin++] = build_read(lo->b, state[1]);
  } else {
    args[nin++] = lo->valid_tensor ? build_read(lo->b, lo->valid_tensor)
                                   : build_const(lo->b, (double)x->dim[0], MPCC_I64);
  }
  if (affine)
    nin = affine_params(lo, n, c, args, nin);
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

/* ---- statistics of each sample ---- */

static Op *group_norm(Lower *lo, const Node *n, Value *x, int64_t groups, bool affine,
                      const char *policy) {
  Value *args[3] = {x};
  int nin = affine ? affine_params(lo, n, x->type->dim[1], args, 1) : 1;
  Attr at[] = {attr_f(lo->b, "eps", val_get_float(n->args, "eps", 1e-5)),
               attr_i(lo->b, "groups", groups), attr_s(lo->b, "policy", policy ? policy : "")};
  return lay_emit(lo, n, OP_group_norm, nin, args, policy ? 3 : 2, at);
}

Value *layer_GroupNorm(Lower *lo, const Node *n, Value *const *in) {
  const Type *x = in[0]->type;
  int64_t groups = lay_int(n, "num_groups");
  if (x->rank < 2)
    return lay_misfit(lo, n, n->loc, 0, in, "works on [N, C, ...]");
  if (!lay_agrees(lo, n, "num_channels", x->dim[1], in))
    return NULL;
  if (x->dim[1] % groups)
    return lay_misfit(lo, n, lay_loc(n, "num_groups"), 0, in,
                      "has %lld groups, which do not divide %lld channels", (long long)groups,
                      (long long)x->dim[1]);
  if (lo->train && type_elems(x) / x->dim[0] / groups < 2)
    return lay_misfit(lo, n, n->loc, 0, in, "needs more than one value per group to train");
  return group_norm(lo, n, in[0], groups, val_get_bool(n->args, "affine", true), NULL)->out[0];
}

/* Mean over the real samples of what has one value per sample and channel. */
static Value *over_samples(Lower *lo, Value *x) {
  Builder *b = lo->b;
  const int64_t axis = 0;
  Value *valid = build_read(b, lo->valid_tensor);
  Attr at[] = {attr_s(b, "policy", "F32"), attr_ints(b, "dims", 1, &axis),
               attr_b(b, "keepdim", false)};
  Value *rows = build_op(b, OP_row_mask, 2, (Value *[]){x, valid}, 1, at)->out[0];
  Value *sum = build_op(b, OP_sum, 1, &rows, 3, at)->out[0];
  return loss_formula(lo, "a / b", 2, (Value *[]){sum, build_cast(b, valid, MPCC_F32)});
}

/* torch moves the running values towards the samples' mean statistics, each variance over
 * places - 1, and leaves num_batches_tracked at 0. */
static void track_samples(Lower *lo, const Node *n, const Op *norm, Tensor *const *state,
                          int64_t places) {
  Builder *b = lo->b;
  const Val *momentum = val_get(n->args, "momentum");
  if (!momentum || momentum->kind != VAL_FLOAT)
    return;
  Value *in[6] = {over_samples(lo, norm->out[1]), over_samples(lo, norm->out[2]),
                  build_read(b, state[0]),        build_read(b, state[1]),
                  build_const(b, 1, MPCC_I64),    build_read(b, state[2])};
  Attr at[] = {attr_f(b, "momentum", momentum->f), attr_b(b, "cumulative", false),
               attr_i(b, "places", places)};
  Op *op = lay_emit(lo, n, OP_running_stats, 6, in, 3, at);
  for (int i = 0; i < 2; i++)
    build_write(b, state[i], op->out[i]);
}

/* torch.nn.functional.instance_norm is no op of autocast's lists: it stays in the input's format.
 */
Value *layer_InstanceNorm(Lower *lo, const Node *n, Value *const *in) {
  if (!lay_spaced(lo, n, in))
    return NULL;
  const Type *x = in[0]->type;
  int64_t c = x->dim[1], places = type_elems(x) / (x->dim[0] * c);
  bool tracks = val_get_bool(n->args, "track_running_stats", false);
  bool affine = val_get_bool(n->args, "affine", false);
  Tensor *state[3] = {NULL};
  if (!lay_agrees(lo, n, "num_features", c, in) || (tracks && !running_state(lo, n, c, state)))
    return NULL;
  if (lo->train && places < 2)
    return lay_misfit(lo, n, n->loc, 0, in, "needs more than one value per channel to train");
  if (tracks && !lo->train) {
    Value *args[5] = {in[0], build_read(lo->b, state[0]), build_read(lo->b, state[1])};
    Attr eps = attr_f(lo->b, "eps", val_get_float(n->args, "eps", 1e-5));
    int nin = affine ? affine_params(lo, n, c, args, 3) : 3;
    return lay_emit1(lo, n, OP_batch_affine, nin, args, 1, &eps);
  }
  Op *op = group_norm(lo, n, in[0], c, affine, "SAME");
  if (tracks && lo->train)
    track_samples(lo, n, op, state, places);
  return op->out[0];
}

/* torch's default: the epsilon of the format that rms_norm computes in. */
static double epsilon(const Lower *lo, const Node *n) {
  const char *mode = n->region.mode ? n->region.mode
                                    : val_get_str(lo->spec->root, "precision.mode", "");
  return strcmp(mode, "64-true") != 0 ? FLT_EPSILON : DBL_EPSILON;
}

Value *layer_RMSNorm(Lower *lo, const Node *n, Value *const *in) {
  int axes = norm_axes(lo, n, in), nin = 1;
  if (!axes)
    return NULL;
  const int64_t *dim = in[0]->type->dim + in[0]->type->rank - axes;
  Value *args[2] = {in[0], NULL};
  if (val_get_bool(n->args, "elementwise_affine", true))
    args[nin++] = lay_param(lo, n, "weight", axes, dim, init_constant(1));
  Attr at[] = {attr_f(lo->b, "eps", val_get_float(n->args, "eps", epsilon(lo, n))),
               attr_i(lo->b, "axes", axes)};
  return lay_emit1(lo, n, OP_rms_norm, nin, args, 2, at);
}
