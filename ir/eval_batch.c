/* ref_<op> of normalisation by channels: plain loops over x[N, C, S]. Sources: Ioffe and Szegedy
 * 2015, section 3, running values as torch.nn.BatchNorm2d; Wu and He 2018, section 3. */
#include <math.h>

#include "ir/eval.h"

typedef struct {
  int64_t n, c, s; /* samples, channels, places */
  int64_t valid;
} Size;

static Size size_of(const Call *c, int x, int valid) {
  const Type *ty = c->op->in[x]->type;
  Size z = {ty->dim[0], ty->dim[1], eval_tail(ty, ty->rank - 2), ty->dim[0]};
  if (valid >= 0)
    z.valid = (int64_t)c->in[valid][0];
  return z;
}

Status ref_batch_norm(const Call *c) {
  Size z = size_of(c, 0, 1);
  double eps = op_float(c->op, "eps", 1e-5), count = (double)(z.valid * z.s);
  for (int64_t ch = 0; ch < z.c; ch++) {
    double mean = 0, var = 0;
    for (int64_t n = 0; n < z.valid; n++)
      for (int64_t i = 0; i < z.s; i++)
        mean += c->in[0][(n * z.c + ch) * z.s + i];
    mean /= count;
    for (int64_t n = 0; n < z.valid; n++)
      for (int64_t i = 0; i < z.s; i++) {
        double d = c->in[0][(n * z.c + ch) * z.s + i] - mean;
        var += d * d;
      }
    var /= count;
    double scale = (c->op->nin > 2 ? c->in[2][ch] : 1) / sqrt(var + eps);
    for (int64_t n = 0; n < z.n; n++)
      for (int64_t i = 0; i < z.s; i++) {
        int64_t at = (n * z.c + ch) * z.s + i;
        c->out[0][at] = (c->in[0][at] - mean) * scale + (c->op->nin > 3 ? c->in[3][ch] : 0);
      }
    c->out[1][ch] = mean;
    c->out[2][ch] = var;
  }
  return MPCC_OK;
}

Status ref_batch_norm_grad(const Call *c) {
  Size z = size_of(c, 1, 4);
  double eps = op_float(c->op, "eps", 1e-5), count = (double)(z.valid * z.s);
  for (int64_t ch = 0; ch < z.c; ch++) {
    double mean = c->in[2][ch], rstd = 1 / sqrt(c->in[3][ch] + eps), sum = 0, dot = 0;
    double w = c->op->nin > 5 ? c->in[5][ch] : 1;
    for (int64_t n = 0; n < z.valid; n++)
      for (int64_t i = 0; i < z.s; i++) {
        int64_t at = (n * z.c + ch) * z.s + i;
        sum += c->in[0][at];
        dot += c->in[0][at] * (c->in[1][at] - mean) * rstd;
      }
    for (int64_t n = 0; n < z.n; n++)
      for (int64_t i = 0; i < z.s; i++) {
        int64_t at = (n * z.c + ch) * z.s + i;
        double xhat = (c->in[1][at] - mean) * rstd;
        c->out[0][at] =
            n < z.valid ? w * rstd * (c->in[0][at] - sum / count - xhat * dot / count) : 0;
      }
    if (c->op->nin > 5) {
      c->out[1][ch] = dot;
      c->out[2][ch] = sum;
    }
  }
  return MPCC_OK;
}

Status ref_batch_affine(const Call *c) {
  Size z = size_of(c, 0, -1);
  double eps = op_float(c->op, "eps", 1e-5);
  for (int64_t n = 0; n < z.n; n++)
    for (int64_t ch = 0; ch < z.c; ch++) {
      double scale = (c->op->nin > 3 ? c->in[3][ch] : 1) / sqrt(c->in[2][ch] + eps);
      for (int64_t i = 0; i < z.s; i++) {
        int64_t at = (n * z.c + ch) * z.s + i;
        c->out[0][at] = (c->in[0][at] - c->in[1][ch]) * scale + (c->op->nin > 4 ? c->in[4][ch] : 0);
      }
    }
  return MPCC_OK;
}

Status ref_running_stats(const Call *c) {
  double momentum = op_float(c->op, "momentum", 0.1), batches = c->in[5][0] + 1;
  double n = c->in[4][0] * (double)op_int(c->op, "places", 1);
  double part = op_int(c->op, "cumulative", 0) ? 1 / batches : momentum;
  for (int64_t i = 0; i < type_elems(c->op->in[0]->type); i++) {
    double var = c->in[1][i] * n / (n > 1 ? n - 1 : 1);
    c->out[0][i] = c->in[2][i] + part * (c->in[0][i] - c->in[2][i]);
    c->out[1][i] = c->in[3][i] + part * (var - c->in[3][i]);
  }
  c->out[2][0] = batches;
  return MPCC_OK;
}

/* The elements of group g of sample n lie together: `size` of them from *first on. */
static int64_t group_of(const Call *c, const Size *z, int64_t n, int64_t g, int64_t *first) {
  int64_t groups = op_int(c->op, "groups", 1), size = z->c / groups * z->s;
  *first = (n * groups + g) * size;
  return size;
}

Status ref_group_norm(const Call *c) {
  Size z = size_of(c, 0, -1);
  int64_t groups = op_int(c->op, "groups", 1), first;
  double eps = op_float(c->op, "eps", 1e-5);
  for (int64_t k = 0; k < z.n * groups; k++) {
    int64_t size = group_of(c, &z, k / groups, k % groups, &first);
    const double *x = c->in[0] + first;
    double mean = 0, var = 0;
    for (int64_t i = 0; i < size; i++)
      mean += x[i];
    mean /= (double)size;
    for (int64_t i = 0; i < size; i++)
      var += (x[i] - mean) * (x[i] - mean);
    var /= (double)size;
    for (int64_t i = 0; i < size; i++) {
      int64_t ch = (first + i) / z.s % z.c;
      double w = c->op->nin > 1 ? c->in[1][ch] : 1, b = c->op->nin > 2 ? c->in[2][ch] : 0;
      c->out[0][first + i] = (x[i] - mean) * (w / sqrt(var + eps)) + b;
    }
    c->out[1][k] = mean;
    c->out[2][k] = var;
  }
  return MPCC_OK;
}

/* With g = dy w: dx = rstd (g - mean(g) - xhat mean(g xhat)); dw = sum of dy xhat, db = of dy. */
Status ref_group_norm_grad(const Call *c) {
  Size z = size_of(c, 1, -1);
  int64_t groups = op_int(c->op, "groups", 1), first;
  double eps = op_float(c->op, "eps", 1e-5);
  bool affine = c->op->nin > 4;
  for (int64_t ch = 0; affine && ch < z.c; ch++)
    c->out[1][ch] = c->out[2][ch] = 0;
  for (int64_t k = 0; k < z.n * groups; k++) {
    int64_t size = group_of(c, &z, k / groups, k % groups, &first);
    const double *dy = c->in[0] + first, *x = c->in[1] + first;
    double mean = c->in[2][k], rstd = 1 / sqrt(c->in[3][k] + eps), sum = 0, dot = 0;
    for (int64_t i = 0; i < size; i++) {
      int64_t ch = (first + i) / z.s % z.c;
      double xhat = (x[i] - mean) * rstd, g = dy[i] * (affine ? c->in[4][ch] : 1);
      sum += g;
      dot += g * xhat;
      if (affine) {
        c->out[1][ch] += dy[i] * xhat;
        c->out[2][ch] += dy[i];
      }
    }
    for (int64_t i = 0; i < size; i++) {
      int64_t ch = (first + i) / z.s % z.c;
      double xhat = (x[i] - mean) * rstd, g = dy[i] * (affine ? c->in[4][ch] : 1);
      c->out[0][first + i] = rstd * (g - sum / (double)size - xhat * dot / (double)size);
    }
  }
  return MPCC_OK;
}
