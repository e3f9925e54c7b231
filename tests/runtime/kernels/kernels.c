/* Kernels of the hand-written programs in tests/runtime: what codegen would emit, in C. Compiled
 * into an object that is loaded like generated code, so: no calls, no data outside the object. */
#include "mpcc/abi.h"

enum { ROWS_PER_TILE = 4 };

/* Constants in .rodata, reached by PC-relative relocations. */
static const float start_values[8] = {0.5f, -0.25f, 0.125f, 0.75f, -0.5f, 0.25f, -0.125f, 0.0625f};
/* A pointer in data: an absolute 64-bit relocation. */
static const float *const volatile start_pointer = start_values;

static unsigned mix(unsigned x) {
  x = (x ^ x >> 16) * 0x45d9f3bu;
  return x ^ x >> 16;
}

/* out 0: w f32[n]; in 0: seed i64[]; param 0: n */
void k_init(const MpccArg *a, int64_t first, int64_t end, void *scratch);
void k_init(const MpccArg *a, int64_t first, int64_t end, void *scratch) {
  float *w = a[0].p;
  const int64_t *seed = a[1].p;
  (void)first, (void)end, (void)scratch;
  for (int64_t i = 0; i < a[2].i; i++)
    w[i] = start_pointer[mix((unsigned)(*seed + i)) % 8];
}

/* out 0: count i64[]; param 0: value */
void k_set(const MpccArg *a, int64_t first, int64_t end, void *scratch);
void k_set(const MpccArg *a, int64_t first, int64_t end, void *scratch) {
  (void)first, (void)end, (void)scratch;
  *(int64_t *)a[0].p = a[1].i;
}

/* out 0: scale f32[]; sets 1024 */
void k_scale(const MpccArg *a, int64_t first, int64_t end, void *scratch);
void k_scale(const MpccArg *a, int64_t first, int64_t end, void *scratch) {
  (void)first, (void)end, (void)scratch;
  *(float *)a[0].p = 1024.0f;
}

/* out 0: error f32[N]; in 0: x f32[N, K]; in 1: y f32[N]; in 2: w f32[K]; in 3: b f32[]; param 0:
 * K. A tile is ROWS_PER_TILE rows; scratch: ROWS_PER_TILE floats. */
void k_error(const MpccArg *a, int64_t first, int64_t end, void *scratch);
void k_error(const MpccArg *a, int64_t first, int64_t end, void *scratch) {
  float *error = a[0].p, *sum = scratch;
  const float *x = a[1].p, *y = a[2].p, *w = a[3].p, *b = a[4].p;
  int64_t k = a[5].i;
  for (int64_t t = first; t < end; t++) {
    for (int64_t r = 0; r < ROWS_PER_TILE; r++) {
      int64_t row = t * ROWS_PER_TILE + r;
      sum[r] = *b - y[row];
      for (int64_t c = 0; c < k; c++)
        sum[r] += x[row * k + c] * w[c];
    }
    for (int64_t r = 0; r < ROWS_PER_TILE; r++)
      error[t * ROWS_PER_TILE + r] = sum[r];
  }
}

/* out 0: partial f32[tiles, K + 2]: sums over a tile's rows of error x, error, error^2 / 2;
 * in 0: error f32[N]; in 1: x f32[N, K]; param 0: K */
void k_partial(const MpccArg *a, int64_t first, int64_t end, void *scratch);
void k_partial(const MpccArg *a, int64_t first, int64_t end, void *scratch) {
  float *partial = a[0].p;
  const float *error = a[1].p, *x = a[2].p;
  int64_t k = a[3].i;
  (void)scratch;
  for (int64_t t = first; t < end; t++) {
    float *to = partial + t * (k + 2), e = error[t * ROWS_PER_TILE];
    for (int64_t c = 0; c < k; c++)
      to[c] = e * x[t * ROWS_PER_TILE * k + c];
    to[k] = e;
    to[k + 1] = e * e * 0.5f;
    for (int64_t r = t * ROWS_PER_TILE + 1; r < (t + 1) * ROWS_PER_TILE; r++) {
      e = error[r];
      for (int64_t c = 0; c < k; c++)
        to[c] += e * x[r * k + c];
      to[k] += e;
      to[k + 1] += e * e * 0.5f;
    }
  }
}

/* out 0: grad f32[K + 1]; out 1: loss f32[]; in 0: partial f32[tiles, K + 2]; params: K, tiles, N*/
void k_combine(const MpccArg *a, int64_t first, int64_t end, void *scratch);
void k_combine(const MpccArg *a, int64_t first, int64_t end, void *scratch) {
  float *grad = a[0].p, *loss = a[1].p;
  const float *partial = a[2].p;
  int64_t k = a[3].i, tiles = a[4].i;
  float n = (float)a[5].i;
  (void)first, (void)end, (void)scratch;
  for (int64_t c = 0; c < k + 2; c++) {
    float sum = partial[c];
    for (int64_t t = 1; t < tiles; t++)
      sum += partial[t * (k + 2) + c];
    if (c < k + 1)
      grad[c] = sum / n;
    else
      *loss = sum / n;
  }
}

/* SGD with momentum 0.9, learning rate from the step table; results in place of operands.
 * out 0: w f32[n]; out 1: m f32[n]; out 2: taken i64[]; in 0: w; in 1: m; in 2: taken; in 3: grad
 * f32[n]; in 4: table f64[rows, 1]; params: n, rows */
void k_update(const MpccArg *a, int64_t first, int64_t end, void *scratch);
void k_update(const MpccArg *a, int64_t first, int64_t end, void *scratch) {
  float *w = a[0].p, *m = a[1].p;
  const int64_t *taken = a[5].p;
  const float *w0 = a[3].p, *m0 = a[4].p, *grad = a[6].p;
  const double *table = a[7].p;
  int64_t n = a[8].i;
  float lr = (float)table[*taken % a[9].i];
  (void)first, (void)end, (void)scratch;
  for (int64_t i = 0; i < n; i++) {
    float v = 0.9f * m0[i] + grad[i];
    m[i] = v;
    w[i] = w0[i] - lr * v;
  }
  *(int64_t *)a[2].p = *taken + 1;
}

/* Misbehaving kernels. k_overrun: out 0 f32[8], writes one more. k_scribble: out 0, in 0 (written).
 * k_short: out 0 f32[8], leaves the last one. k_sum2: out 0 = in 0 + in 1, f32[8]. */
void k_overrun(const MpccArg *a, int64_t first, int64_t end, void *scratch);
void k_overrun(const MpccArg *a, int64_t first, int64_t end, void *scratch) {
  (void)first, (void)end, (void)scratch;
  for (int i = 0; i < 9; i++)
    ((float *)a[0].p)[i] = (float)(i + 1);
}

void k_scribble(const MpccArg *a, int64_t first, int64_t end, void *scratch);
void k_scribble(const MpccArg *a, int64_t first, int64_t end, void *scratch) {
  (void)first, (void)end, (void)scratch;
  for (int i = 0; i < 8; i++)
    ((float *)a[0].p)[i] = (float)(i + 1);
  ((float *)a[1].p)[3] = 7.0f;
}

void k_short(const MpccArg *a, int64_t first, int64_t end, void *scratch);
void k_short(const MpccArg *a, int64_t first, int64_t end, void *scratch) {
  (void)first, (void)end, (void)scratch;
  for (int i = 0; i < 7; i++)
    ((float *)a[0].p)[i] = (float)(i + 1);
}

void k_fill8(const MpccArg *a, int64_t first, int64_t end, void *scratch);
void k_fill8(const MpccArg *a, int64_t first, int64_t end, void *scratch) {
  (void)first, (void)end, (void)scratch;
  for (int i = 0; i < 8; i++)
    ((float *)a[0].p)[i] = (float)(i + 1);
}

void k_sum2(const MpccArg *a, int64_t first, int64_t end, void *scratch);
void k_sum2(const MpccArg *a, int64_t first, int64_t end, void *scratch) {
  (void)first, (void)end, (void)scratch;
  for (int i = 0; i < 8; i++)
    ((float *)a[0].p)[i] = ((float *)a[1].p)[i] + ((float *)a[2].p)[i];
}
