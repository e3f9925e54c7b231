/* Windows of convolutions: where each tap of each position reads. One description serves forward,
 * input gradients and transposed convolutions:
 *
 *   position p, tap k  reads  x[(p * stride + k * dilation - padding) / up]
 *
 * where the division leaves no rest and the place lies inside x, else zero. An input gradient is
 * the convolution of dy with stride and up exchanged and the signs of dilation and padding turned.
 */
#include "ir/ir.h"

static bool ints_of(const Op *op, const char *key, int nd, int64_t otherwise, int64_t *v) {
  const Attr *a = op_attr(op, key);
  if (a && (a->kind != AT_INTS || a->u.ints.n != nd))
    return false;
  for (int i = 0; i < nd; i++)
    v[i] = a ? a->u.ints.v[i] : otherwise;
  return true;
}

bool conv_window(const Op *op, ConvWindow *w) {
  const Attr *size = op_attr(op, "positions");
  *w = (ConvWindow){0};
  if (!size || size->kind != AT_INTS || size->u.ints.n < 1 || size->u.ints.n > CONV_AXES)
    return false;
  w->nd = size->u.ints.n;
  if (!ints_of(op, "positions", w->nd, 1, w->size) || !ints_of(op, "stride", w->nd, 1, w->stride) ||
      !ints_of(op, "padding", w->nd, 0, w->padding) ||
      !ints_of(op, "dilation", w->nd, 1, w->dilation) || !ints_of(op, "up", w->nd, 1, w->up) ||
      !ints_of(op, "kernel", w->nd, 1, w->kernel))
    return false;
  for (int i = 0; i < w->nd; i++)
    if (w->size[i] < 1 || w->stride[i] < 1 || w->up[i] < 1 || w->kernel[i] < 1 ||
        w->dilation[i] == 0)
      return false;
  return true;
}

int64_t conv_taps(const ConvWindow *w) {
  int64_t n = 1;
  for (int i = 0; i < w->nd; i++)
    n *= w->kernel[i];
  return n;
}

int64_t conv_positions(const ConvWindow *w) {
  int64_t n = 1;
  for (int i = 0; i < w->nd; i++)
    n *= w->size[i];
  return n;
}

bool conv_reads(const ConvWindow *w, const int64_t *in, int64_t position, int64_t tap,
                int64_t *at) {
  bool inside = true;
  for (int i = w->nd - 1; i >= 0; i--) {
    int64_t p = position % w->size[i], k = tap % w->kernel[i];
    int64_t place = p * w->stride[i] + k * w->dilation[i] - w->padding[i];
    position /= w->size[i];
    tap /= w->kernel[i];
    at[i] = place / w->up[i];
    inside &= place >= 0 && place % w->up[i] == 0 && at[i] < in[i];
  }
  return inside;
}

/* ---- the group kind (docs/groups.md) --------------------------------------------------------- */

bool conv_group(const Op *op, ConvGroup *g) {
  const Attr *x = op_attr(op, "x"), *strides = op_attr(op, "strides");
  *g = (ConvGroup){.batch = op_int(op, "batch", 0),
                   .channels = op_int(op, "channels", 0),
                   .wgrad = op_int(op, "wgrad", 0) != 0,
                   .depth = op_int(op, "depth", 0) != 0,
                   .parts = op_int(op, "parts", 1)};
  if (!conv_window(op, &g->w) || g->batch < 1 || g->channels < 1 || !x || x->kind != AT_INTS ||
      x->u.ints.n != g->w.nd || !strides || strides->kind != AT_INTS ||
      strides->u.ints.n != g->w.nd + 1)
    return false;
  const Attr *factor = op_attr(op, "factor");
  const bool lies = g->wgrad || g->depth;
  if (g->parts < 1 || g->batch % g->parts || (g->parts > 1 && !(g->wgrad && g->depth)) ||
      (lies && (!factor || factor->kind != AT_INTS || factor->u.ints.n != 2)))
    return false;
  for (int i = 0; i < 2 && lies; i++)
    g->factor[i] = factor->u.ints.v[i];
  for (int i = 0; i < g->w.nd; i++)
    g->x[i] = x->u.ints.v[i];
  for (int i = 0; i <= g->w.nd; i++)
    g->stride[i] = strides->u.ints.v[i];
  g->rows = g->batch * conv_positions(&g->w);
  g->columns = conv_taps(&g->w) * (g->depth ? 1 : g->channels);
  return true;
}

double conv_group_at(const ConvGroup *g, const double *x, int64_t row, int64_t column) {
  int64_t pos = conv_positions(&g->w), at[CONV_AXES];
  if (!conv_reads(&g->w, g->x, row % pos, column / g->channels, at))
    return 0;
  int64_t e = row / pos * g->stride[0] + column % g->channels;
  for (int i = 0; i < g->w.nd; i++)
    e += at[i] * g->stride[1 + i];
  return x[e];
}
