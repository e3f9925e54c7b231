/* Quantization that finds its scales itself, and the way back, in the reference interpreter. Every
 * step is rounded to f32, as kernels compute it: codes and scales are the same bits everywhere.
 * Definitions: docs/numerics.md, recipes. */
#include "ir/eval.h"

#include <float.h>
#include <math.h>

#include "mpcc/num.h"

static double f32(double v) {
  return num_round(v, MPCC_F32);
}

static double overflow(double v, double most) {
  return isinf(v) ? most : v;
}

/* x * mult becomes the code; codes * inverse * the tensor's scale_inv is x again. */
typedef struct {
  double mult, inverse;
} BlockScale;

/* Scale of one block by its own amax a. tensor: scale of the whole tensor, for E4M3; most: the
 * largest scale where top / a overflows. */
static BlockScale scale_of(Scales s, double a, double top, double tensor, double most) {
  BlockScale r;
  if (s == SCALES_E8M0) {
    r.inverse = num_round(f32(a * f32(1 / top)), MPCC_E8M0);
    r.mult = f32(1 / r.inverse);
  } else if (s == SCALES_E4M3) {
    r.inverse = num_round(f32(a * f32(tensor / top)), MPCC_E4M3);
    r.mult = fmin(f32(1 / f32(r.inverse * f32(1 / tensor))), (double)FLT_MAX);
  } else {
    r.mult = a > 0 && isfinite(a) ? overflow(f32(top / a), most) : 1;
    if (s == SCALES_POWER_OF_2) {
      double up = num_round(r.mult, MPCC_E8M0);
      r.mult = up <= r.mult ? up : up * 0.5;
    }
    r.inverse = f32(1 / r.mult);
  }
  return r;
}

/* Scale of a whole tensor under E4M3 block scales: its amax becomes the largest code times the
 * largest scale. fmin as in the definition: NaN gives the largest number. */
static double tensor_scale(double a, double top) {
  if (a == 0 || isinf(a))
    return 1;
  return fmin(f32(f32(448 * top) / a), (double)FLT_MAX);
}

/* e2m1 rounded away from zero with the probability of what is cut off, u uniform in [0, 1). */
static double at_random(double v, double u) {
  double a = fabs(v) <= 6 ? fabs(v) : 6, unit = a < 2 ? 0.5 : a < 4 ? 1 : 2;
  double low = floor(a / unit), up = u < a / unit - low ? 1 : 0;
  return v < 0 ? -(low + up) * unit : (low + up) * unit;
}

typedef struct {
  const double *x;
  int64_t cols, valid; /* rows from `valid` on count as zero */
  bool exact;          /* as it is, else in f32 */
} Matrix;

static double entry(const Matrix *m, int64_t r, int64_t col) {
  double v = r < m->valid ? m->x[r * m->cols + col] : 0;
  return m->exact ? v : f32(v);
}

static double block_amax(const Matrix *m, int64_t r, int64_t rows, int64_t col, int64_t cols) {
  double most = 0;
  for (int64_t i = r; i < r + rows; i++)
    for (int64_t j = col; j < col + cols; j++)
      most = eval_max(most, fabs(entry(m, i, j)));
  return most;
}

Status ref_block_quantize(const Call *c) {
  const Type *ty = c->op->in[0]->type, *blocks = c->op->out[2]->type;
  int64_t cols = ty->rank ? ty->dim[ty->rank - 1] : 1, rows = type_elems(ty) / cols;
  int64_t br = rows / blocks->dim[0], bc = cols / blocks->dim[1];
  Matrix m = {c->in[0], cols, rows, c->exact};
  const Attr *stream = op_attr(c->op, "stream");
  const double *const *seed = c->in + c->op->nin - 2;
  if (op_attr(c->op, "rows"))
    m.valid = (int64_t)c->in[1][0] * op_int(c->op, "rows", 1);
  /* exact: codes times scales shall be x again, whatever the rounding of scales is */
  Scales s = c->exact ? SCALES_FLOAT32 : scales_from_word(op_str(c->op, "scales", "float32"));
  double top = dtype_info((DType)op_int(c->op, "to", MPCC_E4M3))->max_finite, tensor = 1;
  const int64_t *block = op_attr(c->op, "block")->u.ints.v;
  bool whole = !block[0] && !block[1];
  double most = dtype_info(ty->dt == MPCC_BF16 && !whole ? MPCC_BF16 : MPCC_F32)->max_finite;
  double amax = block_amax(&m, 0, rows, 0, cols);
  if (s == SCALES_E4M3)
    tensor = tensor_scale(amax, top);
  c->out[1][0] = f32(1 / tensor);
  c->out[3][0] = amax;
  for (int64_t r = 0; r < rows; r += br)
    for (int64_t col = 0; col < cols; col += bc) {
      BlockScale b = scale_of(s, block_amax(&m, r, br, col, bc), top, tensor, most);
      if (c->exact)
        b.inverse = 1 / b.mult;
      c->out[2][r / br * blocks->dim[1] + col / bc] = b.inverse;
      for (int64_t i = r; i < r + br; i++)
        for (int64_t j = col; j < col + bc; j++) {
          double v = entry(&m, i, j) * b.mult;
          c->out[0][i * cols + j] = c->exact ? v : f32(v);
          if (stream && !c->exact)
            c->out[0][i * cols + j] =
                at_random(f32(v), (double)scalar_rand((int64_t)*seed[0], (int64_t)*seed[1],
                                                      i * cols + j, stream->u.i));
        }
    }
  if (whole)
    c->out[1][0] = c->out[2][0];
  return MPCC_OK;
}

void eval_decoded(const Call *c, int codes, int scales, double *out) {
  const Type *ty = c->op->in[codes]->type, *blocks = c->op->in[scales]->type;
  DType dt = c->exact ? MPCC_F64 : (DType)op_int(c->op, "decoded", MPCC_F32);
  int64_t cols = ty->dim[ty->rank - 1], rows = type_elems(ty) / cols;
  const int64_t *block = op_attr(c->op, "block")->u.ints.v + 2 * codes;
  int64_t br = block[0], bc = block[1];
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < cols; j++)
      out[i * cols + j] = num_round(
          c->in[codes][i * cols + j] * c->in[scales][i / br * blocks->dim[1] + j / bc], dt);
}
