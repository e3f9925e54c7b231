/* Resizing of image planes by separable filters. Bytes follow Pillow up to 12
 * (libImaging/Resample.c, Geometry.c), which torchvision uses before ToTensor; Pillow 13 takes
 * columns first for some sizes. Floats follow torch 2.15 (aten UpSampleKernel: interpolate with
 * align_corners=False), which it uses after. Both scale the filter with the step when they shrink
 * antialiased, and divide by the sum of the weights that fall inside. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/data/resample.h"

enum { FIXED_BITS = 22 }; /* 32 less 8 of a byte less 2 of headroom */

static double triangle(double x) {
  x = fabs(x);
  return x < 1 ? 1 - x : 0;
}

/* Keys 1981, with his parameter a. */
static double cubic(double x, double a) {
  x = fabs(x);
  if (x < 1)
    return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2)
    return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

static bool allocate(mprt__taps *t, int width) {
  t->width = width;
  t->first = malloc((size_t)t->out * sizeof *t->first);
  t->count = malloc((size_t)t->out * sizeof *t->count);
  t->weight = calloc((size_t)t->out * (size_t)width, sizeof *t->weight);
  t->fixed = calloc((size_t)t->out * (size_t)width, sizeof *t->fixed);
  return t->first && t->count && t->weight && t->fixed;
}

/* Pillow adds the step up, which decides where a place falls on a border of two inputs. */
static void nearest(mprt__taps *t, bool half, bool added) {
  double scale = (double)t->in / (double)t->out, place = scale * 0.5;
  for (int64_t i = 0; i < t->out; i++, place += scale) {
    int64_t at = (int64_t)(added ? place : scale * ((double)i + (half ? 0.5 : 0)));
    t->first[i] = (int32_t)(at < t->in ? at : t->in - 1);
    t->count[i] = 1;
    t->weight[i] = 1;
  }
}

/* The filter as wide as the step, cut at the borders. */
static void windows(mprt__taps *t, mprt__filter filter, double scale, double wide, double support) {
  for (int64_t i = 0; i < t->out; i++) {
    double centre = scale * ((double)i + 0.5), sum = 0;
    int64_t lo = (int64_t)(centre - support + 0.5), hi = (int64_t)(centre + support + 0.5);
    lo = lo > 0 ? lo : 0;
    hi = hi < t->in ? hi : t->in;
    double *w = t->weight + i * t->width;
    for (int64_t k = lo; k < hi; k++) {
      double x = ((double)k - centre + 0.5) * (1 / wide);
      sum += w[k - lo] = filter == MPRT__BILINEAR ? triangle(x) : cubic(x, -0.5);
    }
    for (int64_t k = lo; k < hi && sum != 0; k++)
      w[k - lo] *= 1 / sum;
    t->first[i] = (int32_t)lo;
    t->count[i] = (int32_t)(hi - lo);
  }
}

/* Two or four inputs around the place; those outside are those at the border. */
static void points(mprt__taps *t, mprt__filter filter, double scale) {
  int reach = filter == MPRT__BILINEAR ? 1 : 2;
  for (int64_t i = 0; i < t->out; i++) {
    double at = scale * ((double)i + 0.5) - 0.5;
    int64_t base = (int64_t)floor(at), lo = base - reach + 1 > 0 ? base - reach + 1 : 0;
    lo = lo < t->in ? lo : t->in - 1;
    int64_t hi = base + reach < t->in ? base + reach : t->in - 1;
    t->first[i] = (int32_t)lo;
    t->count[i] = (int32_t)((hi > lo ? hi : lo) - lo + 1);
    for (int64_t k = base - reach + 1; k <= base + reach; k++) {
      int64_t in = k < lo ? lo : k > hi ? (hi > lo ? hi : lo) : k;
      double x = at - (double)k;
      t->weight[i * t->width + in - lo] += filter == MPRT__BILINEAR ? triangle(x) : cubic(x, -0.75);
    }
  }
}

bool mprt__taps_init(mprt__taps *t, int64_t in, int64_t out, mprt__filter filter, bool antialias,
                     bool pillow) {
  *t = (mprt__taps){.in = in, .out = out};
  double scale = (double)in / (double)out, wide = scale > 1 ? scale : 1;
  double support = (filter == MPRT__BILINEAR ? 1 : 2) * wide;
  bool point = filter == MPRT__NEAREST || filter == MPRT__NEAREST_EXACT;
  bool plain = !point && !antialias && !pillow;
  if (!allocate(t, point ? 1 : plain ? 4 : (int)ceil(support) * 2 + 1))
    return false;
  if (point)
    nearest(t, filter == MPRT__NEAREST_EXACT, pillow);
  else if (plain)
    points(t, filter, scale);
  else
    windows(t, filter, scale, wide, support);
  for (int64_t k = 0; k < out * t->width; k++) {
    double w = t->weight[k] * (1 << FIXED_BITS);
    t->fixed[k] = (int32_t)(w < 0 ? w - 0.5 : w + 0.5);
  }
  return true;
}

void mprt__taps_fini(mprt__taps *t) {
  free(t->first);
  free(t->count);
  free(t->weight);
  free(t->fixed);
  *t = (mprt__taps){0};
}

static uint8_t clip(int64_t v) {
  v >>= FIXED_BITS;
  return v < 0 ? 0 : v > 255 ? 255 : (uint8_t)v;
}

void mprt__resize_u8(const mprt__taps *ty, const mprt__taps *tx, const uint8_t *from, uint8_t *room,
                     uint8_t *to) {
  const int64_t half = 1 << (FIXED_BITS - 1);
  if (tx->in == tx->out) { /* Pillow passes over an axis that keeps its size */
    memcpy(room, from, (size_t)(ty->in * tx->in));
  } else {
    for (int64_t y = 0; y < ty->in; y++)
      for (int64_t x = 0; x < tx->out; x++) {
        const uint8_t *p = from + y * tx->in + tx->first[x];
        const int32_t *w = tx->fixed + x * tx->width;
        int64_t sum = half;
        for (int32_t k = 0; k < tx->count[x]; k++)
          sum += (int64_t)p[k] * w[k];
        room[y * tx->out + x] = clip(sum);
      }
  }
  if (ty->in == ty->out) {
    memcpy(to, room, (size_t)(ty->in * tx->out));
    return;
  }
  for (int64_t y = 0; y < ty->out; y++) {
    const int32_t *w = ty->fixed + y * ty->width;
    for (int64_t x = 0; x < tx->out; x++) {
      const uint8_t *p = room + (int64_t)ty->first[y] * tx->out + x;
      int64_t sum = half;
      for (int32_t k = 0; k < ty->count[y]; k++)
        sum += (int64_t)p[k * tx->out] * w[k];
      to[y * tx->out + x] = clip(sum);
    }
  }
}

/* Columns first, then rows, with weights rounded to the elements' type. */
#define RESIZE(T)                                                                                  \
  for (int64_t y = 0; y < ty->in; y++)                                                             \
    for (int64_t x = 0; x < tx->out; x++) {                                                        \
      const T *p = from + y * tx->in + tx->first[x];                                               \
      const double *w = tx->weight + x * tx->width;                                                \
      T sum = 0;                                                                                   \
      for (int32_t k = 0; k < tx->count[x]; k++)                                                   \
        sum += p[k] * (T)w[k];                                                                     \
      room[y * tx->out + x] = sum;                                                                 \
    }                                                                                              \
  for (int64_t y = 0; y < ty->out; y++)                                                            \
    for (int64_t x = 0; x < tx->out; x++) {                                                        \
      const T *p = room + (int64_t)ty->first[y] * tx->out + x;                                     \
      const double *w = ty->weight + y * ty->width;                                                \
      T sum = 0;                                                                                   \
      for (int32_t k = 0; k < ty->count[y]; k++)                                                   \
        sum += p[k * tx->out] * (T)w[k];                                                           \
      to[y * tx->out + x] = sum;                                                                   \
    }

void mprt__resize_f32(const mprt__taps *ty, const mprt__taps *tx, const float *from, float *room,
                      float *to) {
  RESIZE(float)
}

void mprt__resize_f64(const mprt__taps *ty, const mprt__taps *tx, const double *from, double *room,
                      double *to) {
  RESIZE(double)
}
