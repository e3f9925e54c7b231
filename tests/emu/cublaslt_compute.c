/* The product of cublasLtMatmul in plain arithmetic: operands become f32 (or f64), sums are f32
 * (f64) in the order of k, the epilogue is done on the sums, the result is rounded once. Column by
 * column every element read must have been written and every one written lies within its
 * allocation. With EMU_SHORT_SUMS=1 codes of 8 bits are summed as Hopper's tensor cores do.
 *
 *   acc = sum_k op(A) op(B)
 *   v   = alpha scale_A scale_B acc + beta C
 *   v   = act(v + bias)                          forward; AUX keeps v + bias, or its signs
 *   v   = v act'(aux)                            backward; BGRAD sums v over columns
 *   D   = v scale_D, amax = max |v|              FP8 */
#include "cublaslt.h"
#include "ptx_math.h"

#include <stdlib.h>
#include <string.h>

enum { MR = 16, NR = 4 };

static const char who[] = "cublasLtMatmul";

static double element(int type, const uint8_t *p) {
  double v;
  uint32_t u = 0;
  memcpy(&u, p, lt_bytes(type) < 4 ? lt_bytes(type) : 4);
  switch (type) {
  case CUDA_R_64F:
    memcpy(&v, p, 8);
    return v;
  case CUDA_R_32F:
    return (double)bits_float(u);
  case CUDA_R_16F:
    return (double)half_value(u);
  case CUDA_R_16BF:
    return (double)bits_float(u << 16);
  case CUDA_R_8F_E4M3:
    return (double)num_e4m3_to_f32((uint8_t)u);
  default:
    return (double)half_value(u << 8);
  }
}

static void put_element(int type, uint8_t *p, double v) {
  const float f = (float)v;
  const uint32_t u = type == CUDA_R_32F       ? float_bits(f)
                     : type == CUDA_R_16F     ? num_f64_to_f16(v)
                     : type == CUDA_R_16BF    ? num_f64_to_bf16(v)
                     : type == CUDA_R_8F_E4M3 ? e4m3_code(f)
                                              : e5m2_code(f);
  if (type == CUDA_R_64F)
    memcpy(p, &v, 8);
  else
    memcpy(p, &u, lt_bytes(type));
}

typedef struct {
  const Problem *p;
  const Epilogue *e;
  double *a; /* op(A), column k at a + k m */
  double *b; /* op(B), column j at b + j k */
  double alpha, beta, amax;
  double *bgrad;
  bool failed;
} Run;

static uint8_t *device(Run *r, uint64_t address, uint64_t bytes, bool write) {
  uint8_t *p = emu_library_access(who, address, bytes, write);
  r->failed |= !p;
  return p;
}

static double device_scalar(Run *r, uint64_t address, int type, double otherwise) {
  const uint8_t *p = address ? device(r, address, lt_bytes(type), false) : NULL;
  return p ? element(type, p) : otherwise;
}

/* Elements of one stored matrix, transposed if asked, as doubles: element (i, j) of op(X) at
 * to[i + j rows]. */
static void unpack(Run *r, const struct cublasLtMatrixLayoutOpaque *l, uint64_t at, bool trans,
                   double *to) {
  const uint32_t bytes = lt_bytes((int)l->type);
  const bool tf32 = r->p->desc.compute == CUBLAS_COMPUTE_32F_FAST_TF32;
  for (uint64_t j = 0; j < l->cols && !r->failed; j++) {
    const uint8_t *p = device(r, at + j * (uint64_t)l->ld * bytes, l->rows * bytes, false);
    for (uint64_t i = 0; p && i < l->rows; i++) {
      double v = element((int)l->type, p + i * bytes);
      if (tf32)
        v = (double)bits_float(tf32_code((float)v));
      to[trans ? i * l->cols + j : j * l->rows + i] = v;
    }
  }
}

/* Sums of an MR x NR tile over k in [from, to): panels of A hold MR rows, zero beyond m. */
#define TILE(name, T, FMA)                                                                         \
  static void name(const T *a, const T *const b[NR], uint64_t from, uint64_t to, T s[NR][MR]) {    \
    for (uint64_t k = from; k < to; k++)                                                           \
      for (int j = 0; j < NR; j++) {                                                               \
        const T bk = b[j][k];                                                                      \
        for (int i = 0; i < MR; i++)                                                               \
          s[j][i] = FMA(a[k * MR + (uint64_t)i], bk, s[j][i]);                                     \
      }                                                                                            \
  }
TILE(tile_f32, float, __builtin_fmaf)
TILE(tile_f64, double, __builtin_fma)

/* As Hopper's tensor cores add products of 8-bit codes: 32 at a time with the sum so far, each cut
 * 13 bits behind the leading one of the largest, "around 14 bits" (DeepSeek-V3 technical report,
 * section 3.3.2). */
static float add_short(const float *a, const float *b, uint64_t n, float sum) {
  double largest = fabs((double)sum), all = (double)sum;
  for (uint64_t k = 0; k < n; k++) {
    const double v = (double)a[k * MR] * (double)b[k];
    largest = fmax(largest, fabs(v));
    all += v;
  }
  if (all - all != 0 || largest == 0)
    return (float)all; /* infinities, NaN; nothing to cut */
  const double unit = ldexp(1, ilogb(largest) - 13);
  double cut = trunc((double)sum / unit);
  for (uint64_t k = 0; k < n; k++)
    cut += trunc((double)a[k * MR] * (double)b[k] / unit);
  return (float)(cut * unit);
}

static void tile_short(const float *a, const float *const b[NR], uint64_t from, uint64_t to,
                       float s[NR][MR]) {
  for (uint64_t k = from; k < to; k += 32)
    for (int j = 0; j < NR; j++)
      for (int i = 0; i < MR; i++)
        s[j][i] = add_short(a + k * MR + i, b[j] + k, to - k < 32 ? to - k : 32, s[j][i]);
}

/* The sums of all elements, as doubles at acc[i + j m]; `splits` parts of K are added in order. */
#define SUMS(name, T, tile)                                                                        \
  static void name(const Run *r, int splits, double *acc) {                                        \
    const uint64_t m = r->p->m, n = r->p->n, k = r->p->k;                                          \
    T *panel = emu_alloc(MR * k * sizeof(T)), *cols = emu_alloc((n + NR) * k * sizeof(T));         \
    for (uint64_t i = 0; i < n * k; i++)                                                           \
      cols[i] = (T)r->b[i];                                                                        \
    for (uint64_t i0 = 0; i0 < m; i0 += MR) {                                                      \
      for (uint64_t l = 0; l < k; l++)                                                             \
        for (uint64_t i = 0; i < MR; i++)                                                          \
          panel[l * MR + i] = i0 + i < m ? (T)r->a[l * m + i0 + i] : 0;                            \
      for (uint64_t j0 = 0; j0 < n; j0 += NR) {                                                    \
        const T *b[NR];                                                                            \
        T total[NR][MR] = {{0}};                                                                   \
        for (uint64_t j = 0; j < NR; j++)                                                          \
          b[j] = cols + (j0 + j) * k;                                                              \
        for (int s = 0; s < splits; s++) {                                                         \
          T part[NR][MR] = {{0}};                                                                  \
          tile(panel, b, k *(uint64_t)s / (uint64_t)splits,                                        \
               k * ((uint64_t)s + 1) / (uint64_t)splits, part);                                    \
          for (int j = 0; j < NR; j++)                                                             \
            for (int i = 0; i < MR; i++)                                                           \
              total[j][i] += part[j][i];                                                           \
        }                                                                                          \
        for (uint64_t j = 0; j < NR && j0 + j < n; j++)                                            \
          for (uint64_t i = 0; i < MR && i0 + i < m; i++)                                          \
            acc[(j0 + j) * m + i0 + i] = (double)total[j][i];                                      \
      }                                                                                            \
    }                                                                                              \
    free(panel);                                                                                   \
    free(cols);                                                                                    \
  }
SUMS(sums_f32, float, tile_f32)
SUMS(sums_f64, double, tile_f64)
SUMS(sums_short, float, tile_short)

/* GELU, tanh form: Hendrycks and Gimpel 2016, sec. 2. */
static double gelu(double x) {
  return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
}
static double gelu_slope(double x) {
  const double t = tanh(0.7978845608028654 * (x + 0.044715 * x * x * x));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * 0.7978845608028654 * (1 + 0.134145 * x * x);
}

/* The auxiliary buffer of column j: a bit or an element for each row. */
static uint8_t *aux_column(Run *r, int batch, uint64_t j, bool write) {
  const Problem *p = r->p;
  const uint64_t first =
      (uint64_t)batch * (uint64_t)p->desc.aux_stride + j * (uint64_t)p->desc.aux_ld;
  if (r->e->act == ACT_RELU)
    return device(r, p->desc.aux + first / 8, (p->m + 7) / 8, write);
  const uint32_t bytes = lt_bytes(p->aux_type);
  return device(r, p->desc.aux + first * bytes, p->m * bytes, write);
}

static double activate(const Run *r, double v, uint8_t *aux, uint64_t i) {
  const Epilogue *e = r->e;
  const uint32_t bytes = lt_bytes(r->p->aux_type);
  if (e->act == ACT_RELU) {
    if (e->backward)
      return aux[i / 8] >> (i % 8) & 1 ? v : 0;
    if (aux)
      aux[i / 8] = (uint8_t)((aux[i / 8] & ~(1 << (i % 8))) | (v > 0) << (i % 8));
    return v > 0 ? v : v != v ? v : 0;
  }
  if (e->act == ACT_GELU) {
    if (e->backward)
      return v * gelu_slope(element(r->p->aux_type, aux + i * bytes));
    if (aux)
      put_element(r->p->aux_type, aux + i * bytes, v);
    return gelu(v);
  }
  return v;
}

static void finish_column(Run *r, int batch, uint64_t j, const double *acc) {
  const Problem *p = r->p;
  const int ct = (int)p->c.type, dt = (int)p->d.type;
  const uint32_t cb = lt_bytes(ct), db = lt_bytes(dt), bb = lt_bytes(p->bias_type);
  const uint64_t c_at =
                     p->C + ((uint64_t)batch * (uint64_t)p->c.stride + j * (uint64_t)p->c.ld) * cb,
                 d_at =
                     p->D + ((uint64_t)batch * (uint64_t)p->d.stride + j * (uint64_t)p->d.ld) * db;
  const bool vectors = p->desc.a_mode != 0, narrow = dt != CUDA_R_64F;
  const uint8_t *c = r->beta != 0 ? device(r, c_at, p->m * cb, false) : NULL;
  const uint8_t *bias =
      r->e->bias ? device(r, p->desc.bias + (uint64_t)batch * (uint64_t)p->desc.bias_stride * bb,
                          p->m * bb, false)
                 : NULL;
  const uint8_t *row_scale = vectors ? device(r, p->desc.a_scale, 4 * p->m, false) : NULL;
  const double col_scale = vectors ? device_scalar(r, p->desc.b_scale + 4 * j, CUDA_R_32F, 1) : 1;
  uint8_t *aux = r->e->aux ? aux_column(r, batch, j, !r->e->backward) : NULL;
  const double d_scale = device_scalar(r, p->desc.d_scale, CUDA_R_32F, 1);
  uint8_t *d = device(r, d_at, p->m * db, true);
  for (uint64_t i = 0; !r->failed && i < p->m; i++) {
    double v = r->alpha * acc[i] * col_scale;
    v *= row_scale ? element(CUDA_R_32F, row_scale + 4 * i) : 1;
    v = narrow ? (double)(float)v : v;
    v += c ? r->beta * element(ct, c + i * cb) : 0;
    v += bias ? element(p->bias_type, bias + i * bb) : 0;
    v = activate(r, narrow ? (double)(float)v : v, aux, i);
    if (r->bgrad && r->e->backward)
      r->bgrad[i] += v;
    r->amax = fabs(v) > r->amax || v != v ? fabs(v) : r->amax;
    put_element(dt, d + i * db, v * d_scale);
  }
}

/* Sums that the BGRAD epilogues leave in the bias vector: of D over columns, or of A, B over k. */
static void finish_bgrad(Run *r, int batch) {
  const Problem *p = r->p;
  const bool of_b = r->e->id == CUBLASLT_EPILOGUE_BGRADB;
  const uint64_t n = of_b ? p->n : p->m;
  const uint32_t bytes = lt_bytes(p->bias_type);
  uint8_t *to = device(r, p->desc.bias + (uint64_t)batch * (uint64_t)p->desc.bias_stride * bytes,
                       n * bytes, true);
  for (uint64_t i = 0; to && i < n; i++) {
    double s = r->e->backward ? r->bgrad[i] : 0;
    for (uint64_t k = 0; !r->e->backward && k < p->k; k++)
      s += of_b ? r->b[i * p->k + k] : r->a[k * p->m + i];
    put_element(p->bias_type, to + i * bytes, s);
  }
}

static void one_batch(Run *r, int batch, double *acc) {
  const Problem *p = r->p;
  const struct cublasLtMatrixLayoutOpaque *a = &p->a, *b = &p->b;
  unpack(r, a, p->A + (uint64_t)batch * (uint64_t)a->stride * lt_bytes((int)a->type),
         p->desc.trans_a != 0, r->a);
  unpack(r, b, p->B + (uint64_t)batch * (uint64_t)b->stride * lt_bytes((int)b->type),
         p->desc.trans_b != 0, r->b);
  if (r->failed)
    return;
  const int splits = lt_splits(p->algo);
  const bool cut = lt_is_fp8((int)a->type) && emu_env("EMU_SHORT_SUMS", 0);
  (a->type == CUDA_R_64F ? sums_f64 : cut ? sums_short : sums_f32)(r, splits, acc);
  if (r->bgrad)
    memset(r->bgrad, 0, (p->m + 1) * sizeof *r->bgrad);
  for (uint64_t j = 0; j < p->n && !r->failed; j++)
    finish_column(r, batch, j, acc + j * p->m);
  if (r->e->bgrad && !r->failed)
    finish_bgrad(r, batch);
}

CUresult lt_compute(const void *problem) {
  const Problem *p = problem;
  Run r = {.p = p, .e = lt_epilogue(p->desc.epilogue), .alpha = p->alpha, .beta = p->beta};
  if (p->alpha_at) {
    r.alpha = device_scalar(&r, p->alpha_at, p->desc.scale_type, 0);
    r.beta = device_scalar(&r, p->beta_at, p->desc.scale_type, 0);
  }
  if (!p->desc.a_mode)
    r.alpha *= device_scalar(&r, p->desc.a_scale, CUDA_R_32F, 1) *
               device_scalar(&r, p->desc.b_scale, CUDA_R_32F, 1);
  r.a = emu_alloc(p->m * p->k * sizeof *r.a);
  r.b = emu_alloc(p->n * p->k * sizeof *r.b);
  r.bgrad = r.e->bgrad ? emu_alloc((p->m + 1) * sizeof *r.bgrad) : NULL;
  double *acc = emu_alloc(p->m * p->n * sizeof *acc);
  if (lt_workspace(p->algo))
    device(&r, p->workspace, lt_workspace(p->algo), true);
  for (int batch = 0; batch < p->d.batch && !r.failed; batch++)
    one_batch(&r, batch, acc);
  if (p->desc.d_amax && !r.failed) {
    uint8_t *to = device(&r, p->desc.d_amax, 4, true);
    if (to)
      put_element(CUDA_R_32F, to, r.amax);
  }
  free(r.a);
  free(r.b);
  free(r.bgrad);
  free(acc);
  return r.failed ? CUDA_ERROR_ILLEGAL_ADDRESS : CUDA_SUCCESS;
}
