/* Shape rules of what slides windows over images: convolutions, pooling, resampling. */
#include "ir/shape.h"

#include <string.h>

/* Length of axis i of a convolution's result; -1 after a diagnostic. */
static int64_t conv_length(Infer *x, int i, bool transposed) {
  const Type *in = operand(x, 0), *w = operand(x, 1);
  const int nd = in->rank - 2;
  const int64_t stride = infer_list(x, "stride", i, nd, 1),
                padding = infer_list(x, "padding", i, nd, 0),
                end = infer_list(x, "padding_end", i, nd, padding),
                dilation = infer_list(x, "dilation", i, nd, 1),
                extra = infer_list(x, "output_padding", i, nd, 0);
  if (stride < 1 || dilation < 1 || padding < 0 || end < 0 || extra < 0) {
    misfit(x, CODE_ATTR, "%s needs stride and dilation from 1 and padding from 0",
           op_info(x->code)->name);
    return -1;
  }
  const int64_t window = dilation * (w->dim[2 + i] - 1) + 1;
  const int64_t room = in->dim[2 + i] + padding + end;
  const int64_t all = (in->dim[2 + i] - 1) * stride + window + extra - padding - end;
  if (transposed ? all < 1 : window > room) {
    if (transposed)
      misfit(x, CODE_SHAPE, "%s has a padding of %lld, which leaves nothing", infer_subject(x),
             (long long)padding);
    else
      misfit(x, CODE_SHAPE, "%s has a window of %lld, its padded input has %lld", infer_subject(x),
             (long long)window, (long long)room);
    misfit_note(x, 0, "the input");
    return -1;
  }
  return transposed ? all : (room - window) / stride + 1;
}

bool shape_conv(Infer *x) {
  if (!want_operands(x, 2, 3) || !want_float(x, 0) || !want_float(x, 1))
    return false;
  const Type *in = operand(x, 0), *w = operand(x, 1);
  const bool transposed = infer_flag(x, "transposed");
  const int64_t groups = infer_int(x, "groups", 1);
  if (in->rank < 3 || in->rank > 2 + CONV_AXES)
    return misfit(x, CODE_SHAPE, "%s has %d dimensions, 3 to 5 are possible", infer_subject(x),
                  in->rank);
  if (!want_rank(x, 1, in->rank))
    return false;
  const int64_t channels = transposed ? w->dim[0] : w->dim[1] * groups;
  if (groups < 1 || w->dim[0] % groups || in->dim[1] != channels) {
    misfit(x, CODE_SHAPE, "%s has in_channels %lld, its input has %lld", infer_subject(x),
           (long long)channels, (long long)in->dim[1]);
    misfit_note(x, 0, "the input");
    return false;
  }
  int64_t dim[MAX_RANK] = {in->dim[0], transposed ? w->dim[1] * groups : w->dim[0]};
  for (int i = 0; i < in->rank - 2; i++)
    if ((dim[2 + i] = conv_length(x, i, transposed)) < 0)
      return false;
  result_as(x, infer_dtype(x, "out", infer_promoted(x, 0, 1)), in->rank, dim);
  return x->nin < 3 || want_bias(x, 2, dim[1]);
}

/* The window of a channels-last convolution, whose operands have its rank; *nd its axes. */
static bool gather_window(Infer *x, ConvWindow *w) {
  const Op op = {.code = x->code, .nattr = x->nattr, .attr = (Attr *)x->attr};
  const int rank = operand(x, 0)->rank;
  if (!want_float(x, 0) || !want_float(x, 1) || !want_rank(x, 1, rank))
    return false;
  if (!conv_window(&op, w) || w->nd != rank - 2)
    return misfit(x, CODE_ATTR, "%s has no window of %d axes", infer_subject(x), rank - 2);
  return true;
}

/* Channels each by itself (`groups`): as many groups, every window inside x. */
static bool depth_fits(const Infer *x, const ConvWindow *g, bool *depth) {
  const Op op = {.code = x->code, .nattr = x->nattr, .attr = (Attr *)x->attr};
  const Type *in = operand(x, 0);
  const int64_t groups = op_int(&op, "groups", 1);
  *depth = groups != 1;
  bool fits = groups == 1 || groups == in->dim[in->rank - 1];
  for (int i = 0; *depth && i < g->nd; i++) {
    int64_t span = (g->kernel[i] - 1) * g->dilation[i];
    int64_t low = (span < 0 ? span : 0) - g->padding[i];
    int64_t high = (g->size[i] - 1) * g->stride[i] + (span > 0 ? span : 0) - g->padding[i];
    fits &= g->up[i] == 1 && low >= 0 && high < in->dim[1 + i];
  }
  return fits;
}

bool shape_conv_gather(Infer *x) {
  ConvWindow g;
  bool depth;
  if (!want_operands(x, 2, 3) || !gather_window(x, &g))
    return false;
  const Type *in = operand(x, 0), *w = operand(x, 1);
  const int last = in->rank - 1;
  bool fits = depth_fits(x, &g, &depth);
  fits &= depth ? w->dim[last] == 1 && w->dim[0] == in->dim[last] : w->dim[last] == in->dim[last];
  for (int i = 0; i < g.nd; i++)
    fits &= w->dim[1 + i] == g.kernel[i];
  if (!fits)
    return misfit(x, CODE_SHAPE, "%s has weights %s for an input %s", infer_subject(x),
                  infer_shape(x, w), infer_shape(x, in));
  int64_t dim[MAX_RANK] = {in->dim[0]};
  for (int i = 0; i < g.nd; i++)
    dim[1 + i] = g.size[i];
  dim[last] = w->dim[0];
  result_as(x, infer_dtype(x, "out", infer_promoted(x, 0, 1)), in->rank, dim);
  return x->nin < 3 || want_bias(x, 2, w->dim[0]);
}

bool shape_conv_wgrad(Infer *x) {
  ConvWindow g;
  bool depth;
  if (!gather_window(x, &g))
    return false;
  const Type *in = operand(x, 0), *dy = operand(x, 1);
  const int last = in->rank - 1;
  bool fits = depth_fits(x, &g, &depth) && in->dim[0] == dy->dim[0];
  for (int i = 0; i < g.nd; i++)
    fits &= dy->dim[1 + i] == g.size[i];
  fits &= !depth || dy->dim[last] == in->dim[last];
  if (!fits)
    return misfit(x, CODE_SHAPE, "%s has a gradient %s for an input %s", infer_subject(x),
                  infer_shape(x, dy), infer_shape(x, in));
  int64_t dim[MAX_RANK] = {dy->dim[last]};
  for (int i = 0; i < g.nd; i++)
    dim[1 + i] = g.kernel[i];
  dim[last] = depth ? 1 : in->dim[last];
  result_as(x, infer_dtype(x, "out", infer_promoted(x, 0, 1)), in->rank, dim);
  return true;
}

/* Operand 0 is [N, C, axes...] with the extents of attribute `from`; dim becomes that of `to`. */
static bool window_dims(Infer *x, const char *from, const char *to, int64_t dim[MAX_RANK]) {
  const Op op = {.code = x->code, .nattr = x->nattr, .attr = (Attr *)x->attr};
  const Type *in = operand(x, 0);
  const int nd = window_axes(&op);
  if (!nd)
    return misfit(x, CODE_ATTR, "%s has no window", op_info(x->code)->name);
  if (!want_float(x, 0) || !want_rank(x, 0, 2 + nd))
    return false;
  memcpy(dim, in->dim, sizeof in->dim);
  for (int i = 0; i < nd; i++) {
    if (in->dim[2 + i] != infer_list(x, from, i, nd, 0))
      return misfit(x, CODE_SHAPE, "%s has a window over %lld, its input has %lld",
                    infer_subject(x), (long long)infer_list(x, from, i, nd, 0),
                    (long long)in->dim[2 + i]);
    dim[2 + i] = infer_list(x, to, i, nd, 0);
  }
  return true;
}

static DType tap_dtype(const Infer *x, int nd) {
  int64_t taps = 1;
  for (int i = 0; i < nd; i++)
    taps *= infer_list(x, "kernel", i, nd, 1);
  return taps <= 256 ? MPCC_U8 : MPCC_I32;
}

bool shape_max_pool(Infer *x) {
  int64_t dim[MAX_RANK];
  if (!window_dims(x, "extents", "positions", dim))
    return false;
  const int rank = operand(x, 0)->rank;
  result_as(x, operand(x, 0)->dt, rank, dim);
  result_as(x, tap_dtype(x, rank - 2), rank, dim);
  return true;
}

bool shape_max_pool_grad(Infer *x) {
  int64_t dim[MAX_RANK];
  const Type *dy = operand(x, 0);
  if (!window_dims(x, "positions", "extents", dim) || !want_same_shape(x, 1, dy) ||
      !want_dtype(x, 1, tap_dtype(x, dy->rank - 2)))
    return false;
  result_as(x, dy->dt, dy->rank, dim);
  return true;
}

bool shape_resample(Infer *x) {
  int64_t dim[MAX_RANK];
  const bool turned = infer_flag(x, "turned");
  if (!window_dims(x, turned ? "positions" : "extents", turned ? "extents" : "positions", dim))
    return false;
  result_as(x, operand(x, 0)->dt, operand(x, 0)->rank, dim);
  return true;
}
