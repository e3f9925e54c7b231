/* Private to runtime/data/: resizing of image planes (resample.c). */
#ifndef MPCC_RUNTIME_DATA_RESAMPLE_H
#define MPCC_RUNTIME_DATA_RESAMPLE_H

#include <stdbool.h>
#include <stdint.h>

typedef enum { MPRT__NEAREST, MPRT__NEAREST_EXACT, MPRT__BILINEAR, MPRT__BICUBIC } mprt__filter;

/* Which inputs make each output of one axis, and how much. */
typedef struct {
  int64_t in, out;
  int width;      /* most inputs of an output */
  int32_t *first; /* [out] */
  int32_t *count; /* [out] */
  double *weight; /* [out][width], they sum to 1 */
  int32_t *fixed; /* the same in 22 bits behind the point */
} mprt__taps;

/* pillow: as Pillow resizes bytes (always antialiased); else as torch interpolates floats. Sizes
 * are
 * >= 1. false: out of memory. */
bool mprt__taps_init(mprt__taps *t, int64_t in, int64_t out, mprt__filter filter, bool antialias,
                     bool pillow);
void mprt__taps_fini(mprt__taps *t);
/* One plane [h, w] to [ty->out, tx->out]; room holds ty->in * tx->out elements. Bytes are computed
 * to the bit as Pillow does: rows first, each pass rounded. */
void mprt__resize_u8(const mprt__taps *ty, const mprt__taps *tx, const uint8_t *from, uint8_t *room,
                     uint8_t *to);
void mprt__resize_f32(const mprt__taps *ty, const mprt__taps *tx, const float *from, float *room,
                      float *to);
void mprt__resize_f64(const mprt__taps *ty, const mprt__taps *tx, const double *from, double *room,
                      double *to);

#endif
