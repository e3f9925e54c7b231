/* ref_<op> of products, convolution, attention, normalisation and losses: plain loops in double, in
 * the textbook form, with no eye to speed. Shapes stand in the docs of ops.def. */
#include "ir/eval.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const Type *in_type(const Call *c, int k) {
  return c->op->in[k]->type;
}

static int64_t elems(const Call *c, int k) {
  return type_elems(in_type(c, k));
}

/* ---- products -------------------------------------------------------------------------------- */

/* y[M, N] = factor * x[M, K] w[N, K]^T + b[N]; b may be NULL. */
static void linear(const Call *c, double factor, const double *b) {
  int64_t n = in_type(c, 1)->dim[0], k = in_type(c, 1)->dim[1], m = elems(c, 0) / k;
  for (int64_t i = 0; i < m; i++)
    for (int64_t j = 0; j < n; j++) {
      double sum = 0;
      for (int64_t t = 0; t < k; t++)
        sum += c->in[0][i * k + t] * c->in[1][j * k + t];
      c->out[0][i * n + j] = sum * factor + (b ? b[j] : 0);
    }
}

Status ref_linear(const Call *c) {
  linear(c, 1, c->op->nin > 2 ? c->in[2] : NULL);
  return MPCC_OK;
}

/* A product of codes: with block scales, of what they decode to. */
static Status quantized(const Call *c, void (*product)(const Call *, double)) {
  double factor = c->in[2][0] * c->in[3][0];
  if (!op_attr(c->op, "block")) {
    product(c, factor);
    return MPCC_OK;
  }
  double *a = malloc((size_t)(elems(c, 0) + 1) * sizeof *a);
  double *b = malloc((size_t)(elems(c, 1) + 1) * sizeof *b);
  if (a && b) {
    Call decoded = *c;
    decoded.in = (const double *const[]){a, b};
    eval_decoded(c, 0, 4, a);
    eval_decoded(c, 1, 5, b);
    product(&decoded, factor);
  }
  bool ok = a && b;
  free(a);
  free(b);
  return ok ? MPCC_OK : MPCC_ERR_NOMEM;
}

static void scaled_linear(const Call *c, double factor) {
  linear(c, factor, NULL);
}

Status ref_qlinear(const Call *c) {
  return quantized(c, scaled_linear);
}

/* out[M, N] = factor * op(a) op(b). */
static void matmul(const Call *c, double factor) {
  bool ta = op_int(c->op, "ta", 0), tb = op_int(c->op, "tb", 0);
  const Type *a = in_type(c, 0), *b = in_type(c, 1);
  int64_t m = a->dim[ta], k = a->dim[!ta], n = b->dim[!tb];
  for (int64_t i = 0; i < m; i++)
    for (int64_t j = 0; j < n; j++) {
      double sum = 0;
      for (int64_t t = 0; t < k; t++)
        sum += c->in[0][ta ? t * m + i : i * k + t] * c->in[1][tb ? j * k + t : t * n + j];
      c->out[0][i * n + j] = sum * factor;
    }
}

Status ref_matmul(const Call *c) {
  matmul(c, 1);
  return MPCC_OK;
}

Status ref_bmm(const Call *c) {
  const Type *a = in_type(c, 0), *b = in_type(c, 1);
  int64_t m = a->dim[a->rank - 2], k = a->dim[a->rank - 1], n = b->dim[b->rank - 1];
  for (int64_t i = 0; i < type_elems(a) / k * n; i++) {
    int64_t row = i / n, batch = row / m;
    double sum = 0;
    for (int64_t s = 0; s < k; s++)
      sum += c->in[0][row * k + s] * c->in[1][(batch * k + s) * n + i % n];
    c->out[0][i] = sum;
  }
  return MPCC_OK;
}

Status ref_qmatmul(const Call *c) {
  return quantized(c, matmul);
}

/* ---- attention ------------------------------------------------------------------------------- */

/* [N, T, H*D] as (n, h, t, d). */
static Strided heads_of(const Type *ty, int64_t width, const double *data, double *write) {
  return (Strided){data, write, {0, {ty->dim[1] * ty->dim[2], width, ty->dim[2], 1}}};
}

static Strided lse_of(const AttentionSize *z, const double *data, double *write) {
  return (Strided){data, write, {0, {z->heads * z->queries, z->queries, 1}}};
}

void eval_attention_codes(const Call *c, int next, AttentionSize *z) {
  const Op *op = c->op;
  double *const scale[4] = {&z->sq, &z->sk, &z->sv, &z->sdo};
  z->codes = op_attr(op, "p_dtype") != NULL;
  z->p = c->exact ? MPCC_F64 : (DType)op_int(op, "p_dtype", MPCC_F64);
  z->ds = c->exact ? MPCC_F64 : (DType)op_int(op, "ds_dtype", MPCC_F64);
  z->p_scale = op_float(op, "p_scale", 1);
  z->ds_scale = op_float(op, "ds_scale", 1);
  for (int i = 0; i < 4; i++)
    *scale[i] = z->codes && next + i < op->nin
                    ? c->in[next + i][op->body ? op->body->in[next + i].offset : 0]
                    : 1;
}

/* Sizes from q at operand `first`, k behind it, seed and step behind v. */
static AttentionSize attention_size(const Call *c, int first, Strided *mask) {
  const Op *op = c->op;
  bool masked = op_int(op, "mask", 0);
  const Type *q = in_type(c, first), *k = in_type(c, first + 1);
  int64_t heads = op_int(op, "heads", 1), width = q->dim[2] / heads;
  AttentionSize z = {q->dim[0], heads, q->dim[1], k->dim[1], width};
  z.round =
      c->exact ? MPCC_F64 : q->dt; /* P between the two products is stored like the operands */
  z.scale = op_float(op, "scale", 1 / sqrt((double)width));
  z.dropout_p = op_float(op, "dropout_p", 0);
  z.causal = op_int(op, "causal", 0);
  z.stream = op_int(op, "stream", 0);
  z.kv_heads = op_int(op, "kv_heads", heads);
  if (masked) {
    const Type *ty = in_type(c, first + 3);
    *mask = (Strided){c->in[first + 3], NULL, {0}};
    eval_strides(ty, mask->at.stride);
    for (int d = 0; d < 4; d++)
      mask->at.stride[d] = ty->dim[d] == 1 ? 0 : mask->at.stride[d];
    z.mask = mask;
  }
  if (z.dropout_p > 0) {
    z.seed = (int64_t)c->in[first + 3 + masked][0];
    z.step = (int64_t)c->in[first + 4 + masked][0];
  }
  eval_attention_codes(c, first + 3 + masked + 2 * (z.dropout_p > 0), &z);
  return z;
}

Status ref_attention(const Call *c) {
  Strided in[3], mask;
  AttentionSize z = attention_size(c, 0, &mask);
  for (int k = 0; k < 3; k++)
    in[k] = heads_of(in_type(c, k), z.width, c->in[k], NULL);
  Strided o = heads_of(in_type(c, 0), z.width, NULL, c->out[0]);
  Strided lse = lse_of(&z, NULL, c->out[1]);
  return eval_attention(&z, &in[0], &in[1], &in[2], &o, &lse);
}

Status ref_attention_grad(const Call *c) {
  Strided from[6], grad[3], mask;
  AttentionSize z = attention_size(c, 3, &mask);
  for (int k = 0; k < 6; k++)
    from[k] =
        k == 2 ? lse_of(&z, c->in[2], NULL) : heads_of(in_type(c, k), z.width, c->in[k], NULL);
  for (int k = 0; k < 3; k++)
    grad[k] = heads_of(in_type(c, 3 + k), z.width, NULL, c->out[k]);
  return eval_attention_grad(&z, from, grad);
}

static int64_t at(const Strided *s, int64_t n, int64_t h, int64_t t, int64_t d) {
  const int64_t *st = s->at.stride;
  return s->at.offset + n * st[0] + h * st[1] + t * st[2] + d * st[3];
}

/* Head of k and v that head h reads. */
static int64_t kv_head(const AttentionSize *z, int64_t h) {
  return z->kv_heads ? h / (z->heads / z->kv_heads) : h;
}

/* sum over d of a(n, h, t, d) b(n, g, s, d), g the head of keys that h reads */
static double dot(const AttentionSize *z, const Strided *a, int64_t t, const Strided *b, int64_t s,
                  int64_t n, int64_t h) {
  double sum = 0;
  for (int64_t d = 0; d < z->width; d++)
    sum += a->data[at(a, n, h, t, d)] * b->data[at(b, n, kv_head(z, h), s, d)];
  return sum;
}

static double score(const AttentionSize *z, const Strided *q, int64_t t, const Strided *k,
                    int64_t s, int64_t n, int64_t h) {
  return z->scale * z->sq * z->sk * dot(z, q, t, k, s, n, h) +
         (z->mask ? z->mask->data[at(z->mask, n, h, t, s)] : 0);
}

/* Factor dropout puts on P: 0 or 1 / (1 - p). */
static double keep(const AttentionSize *z, int64_t n, int64_t h, int64_t t, int64_t s) {
  if (!(z->dropout_p > 0))
    return 1;
  int64_t element = ((n * z->heads + h) * z->queries + t) * z->keys + s;
  double r = (double)scalar_rand(z->seed, z->step, element, z->stream);
  return r >= z->dropout_p ? 1 / (1 - z->dropout_p) : 0;
}

/* P as it is multiplied, and what it stands for then: codes do not hold dropout's factor. */
static double multiplied(const AttentionSize *z, double p, double kept) {
  return z->codes ? eval_round(kept > 0 ? p * z->p_scale : 0, z->p)
                  : eval_round(p * kept, z->round);
}

static double unit_of_p(const AttentionSize *z) {
  return z->codes ? 1 / (z->p_scale * (1 - z->dropout_p)) : 1;
}

static int64_t keys_seen(const AttentionSize *z, int64_t t) {
  return z->causal && t + 1 < z->keys ? t + 1 : z->keys;
}

Status eval_attention(const AttentionSize *z, const Strided *q, const Strided *k, const Strided *v,
                      const Strided *o, const Strided *lse) {
  double *p = calloc((size_t)z->keys, sizeof *p);
  if (!p)
    return MPCC_ERR_NOMEM;
  int64_t rows = z->n * z->heads * z->queries;
  for (int64_t row = 0; row < rows; row++) {
    int64_t t = row % z->queries, h = row / z->queries % z->heads, n = row / z->queries / z->heads;
    int64_t seen = keys_seen(z, t);
    double most = -INFINITY, sum = 0;
    for (int64_t s = 0; s < seen; s++) {
      p[s] = score(z, q, t, k, s, n, h);
      most = eval_max(most, p[s]);
    }
    bool blind = z->mask && most == -INFINITY; /* sees nothing: P is 0, as torch's */
    for (int64_t s = 0; s < seen; s++)
      sum += p[s] = blind ? 0 : exp(p[s] - most);
    for (int64_t s = 0; s < seen; s++)
      p[s] = blind ? 0 : multiplied(z, p[s] / sum, keep(z, n, h, t, s));
    for (int64_t d = 0; d < z->width; d++) {
      double y = 0;
      for (int64_t s = 0; s < seen; s++)
        y += p[s] * v->data[at(v, n, kv_head(z, h), s, d)];
      o->write[at(o, n, h, t, d)] = y * z->sv * unit_of_p(z);
    }
    if (lse->write)
      lse->write[at(lse, n, h, t, 0)] = blind ? -INFINITY : most + log(sum);
  }
  free(p);
  return MPCC_OK;
}

static void clear(const AttentionSize *z, const Strided *x, int64_t heads, int64_t length) {
  for (int64_t n = 0; n < z->n; n++)
    for (int64_t h = 0; h < heads; h++)
      for (int64_t t = 0; t < length; t++)
        for (int64_t d = 0; d < z->width; d++)
          x->write[at(x, n, h, t, d)] = 0;
}

/* With Pd = P * keep: dv = Pd^T do, dP = (do v^T) * keep, dS = P (dP - rowsum(do * o)),
 * dq = scale dS k, dk = scale dS^T q. Source: Dao 2023, FlashAttention-2, algorithm 2. Pd and dS
 * may be codes. */
Status eval_attention_grad(const AttentionSize *z, const Strided from[6], const Strided grad[3]) {
  const Strided *dout = &from[0], *o = &from[1], *lse = &from[2];
  const Strided *q = &from[3], *k = &from[4], *v = &from[5];
  int64_t kv = z->kv_heads ? z->kv_heads : z->heads;
  clear(z, &grad[0], z->heads, z->queries);
  clear(z, &grad[1], kv, z->keys);
  clear(z, &grad[2], kv, z->keys);
  int64_t rows = z->n * z->heads * z->queries;
  const double unit = z->sdo * z->sv / z->ds_scale; /* of the codes of dS */
  for (int64_t row = 0; row < rows; row++) {
    int64_t t = row % z->queries, h = row / z->queries % z->heads, n = row / z->queries / z->heads;
    int64_t g = kv_head(z, h);
    double shift = 0, norm = lse->data[at(lse, n, h, t, 0)];
    for (int64_t d = 0; d < z->width; d++)
      shift += dout->data[at(dout, n, h, t, d)] * o->data[at(o, n, h, t, d)];
    if (z->mask && norm == -INFINITY)
      continue;
    for (int64_t s = 0; s < keys_seen(z, t); s++) {
      double p = exp(score(z, q, t, k, s, n, h) - norm), kept = keep(z, n, h, t, s);
      double ds = p * (dot(z, dout, t, v, s, n, h) * z->sdo * z->sv * kept - shift * z->sdo);
      if (z->codes)
        ds = eval_round(ds / unit, z->ds) * unit;
      double pd = multiplied(z, p, kept) * unit_of_p(z) * z->sdo;
      ds *= z->scale;
      for (int64_t d = 0; d < z->width; d++) {
        grad[0].write[at(&grad[0], n, h, t, d)] += ds * z->sk * k->data[at(k, n, g, s, d)];
        grad[1].write[at(&grad[1], n, g, s, d)] += ds * z->sq * q->data[at(q, n, h, t, d)];
        grad[2].write[at(&grad[2], n, g, s, d)] += pd * dout->data[at(dout, n, h, t, d)];
      }
    }
  }
  return MPCC_OK;
}

/* ---- layer normalisation --------------------------------------------------------------------- */

Status ref_layer_norm(const Call *c) {
  int64_t cols = eval_tail(in_type(c, 0), (int)op_int(c->op, "axes", 1)), rows = elems(c, 0) / cols;
  double eps = op_float(c->op, "eps", 1e-5);
  for (int64_t r = 0; r < rows; r++) {
    const double *x = c->in[0] + r * cols;
    double mean = 0, var = 0;
    for (int64_t i = 0; i < cols; i++)
      mean += x[i] / (double)cols;
    for (int64_t i = 0; i < cols; i++)
      var += (x[i] - mean) * (x[i] - mean) / (double)cols;
    double rstd = 1 / sqrt(var + eps);
    for (int64_t i = 0; i < cols; i++)
      c->out[0][r * cols + i] = (x[i] - mean) * rstd * (c->op->nin > 1 ? c->in[1][i] : 1) +
                                (c->op->nin > 2 ? c->in[2][i] : 0);
    c->out[1][r] = mean;
    c->out[2][r] = rstd;
  }
  return MPCC_OK;
}

/* dx = rstd (g - mean(g) - xhat mean(g xhat)) with g = dy w; dw = sum dy xhat; db = sum dy.
 * source  Ba et al. 2016, Layer Normalization, differentiated */
Status ref_layer_norm_grad(const Call *c) {
  int64_t cols = eval_tail(in_type(c, 1), (int)op_int(c->op, "axes", 1)), rows = elems(c, 1) / cols;
  const double *w = c->op->nin > 4 ? c->in[4] : NULL;
  double *dw = c->op->nout > 1 ? c->out[1] : NULL, *db = c->op->nout > 2 ? c->out[2] : NULL;
  if (dw)
    memset(dw, 0, (size_t)cols * sizeof *dw);
  if (db)
    memset(db, 0, (size_t)cols * sizeof *db);
  for (int64_t r = 0; r < rows; r++) {
    const double *dy = c->in[0] + r * cols, *x = c->in[1] + r * cols;
    double mean = c->in[2][r], rstd = c->in[3][r], g_mean = 0, gx_mean = 0;
    for (int64_t i = 0; i < cols; i++) {
      double g = dy[i] * (w ? w[i] : 1), xhat = (x[i] - mean) * rstd;
      g_mean += g / (double)cols;
      gx_mean += g * xhat / (double)cols;
      if (dw)
        dw[i] += dy[i] * xhat;
      if (db)
        db[i] += dy[i];
    }
    for (int64_t i = 0; i < cols; i++) {
      double g = dy[i] * (w ? w[i] : 1), xhat = (x[i] - mean) * rstd;
      c->out[0][r * cols + i] = rstd * (g - g_mean - xhat * gx_mean);
    }
  }
  return MPCC_OK;
}

Status ref_row_mask(const Call *c) {
  int64_t n = elems(c, 0), row = n / in_type(c, 0)->dim[0];
  for (int64_t i = 0; i < n; i++)
    c->out[0][i] = (double)(i / row) < c->in[1][0] ? c->in[0][i] : 0;
  return MPCC_OK;
}

/* ---- root mean square, rotation -------------------------------------------------------------- */

Status ref_rms_norm(const Call *c) {
  int64_t cols = eval_tail(in_type(c, 0), (int)op_int(c->op, "axes", 1)), rows = elems(c, 0) / cols;
  for (int64_t r = 0; r < rows; r++) {
    const double *x = c->in[0] + r * cols;
    double square = 0;
    for (int64_t i = 0; i < cols; i++)
      square += x[i] * x[i] / (double)cols;
    double rstd = 1 / sqrt(square + op_float(c->op, "eps", 0));
    for (int64_t i = 0; i < cols; i++)
      c->out[0][r * cols + i] = x[i] * rstd * (c->op->nin > 1 ? c->in[1][i] : 1);
    c->out[1][r] = rstd;
  }
  return MPCC_OK;
}

/* dx = rstd (g - xhat mean(g xhat)) with g = dy w, xhat = x rstd; dw = sum dy xhat.
 * source  Zhang and Sennrich 2019, differentiated */
Status ref_rms_norm_grad(const Call *c) {
  int64_t cols = eval_tail(in_type(c, 1), (int)op_int(c->op, "axes", 1)), rows = elems(c, 1) / cols;
  const double *w = c->op->nin > 3 ? c->in[3] : NULL;
  if (c->op->nout > 1)
    memset(c->out[1], 0, (size_t)cols * sizeof(double));
  for (int64_t r = 0; r < rows; r++) {
    const double *dy = c->in[0] + r * cols, *x = c->in[1] + r * cols;
    double rstd = c->in[2][r], mean = 0;
    for (int64_t i = 0; i < cols; i++) {
      mean += dy[i] * (w ? w[i] : 1) * x[i] * rstd / (double)cols;
      if (c->op->nout > 1)
        c->out[1][i] += dy[i] * x[i] * rstd;
    }
    for (int64_t i = 0; i < cols; i++)
      c->out[0][r * cols + i] = rstd * (dy[i] * (w ? w[i] : 1) - x[i] * rstd * mean);
  }
  return MPCC_OK;
}

Status ref_rotary(const Call *c) {
  const Type *x = in_type(c, 0);
  int64_t heads = op_int(c->op, "heads", 1), half = x->dim[2] / heads / 2,
          rows = elems(c, 0) / half / 2;
  bool pairs = op_int(c->op, "interleaved", 0);
  double sign = op_int(c->op, "inverse", 0) ? -1 : 1;
  for (int64_t r = 0; r < rows; r++)
    for (int64_t i = 0; i < half; i++) {
      int64_t t = r / heads % x->dim[1], a = r * 2 * half + (pairs ? 2 * i : i);
      int64_t b = pairs ? a + 1 : a + half;
      double cs = c->in[1][t * half + i], sn = sign * c->in[2][t * half + i];
      c->out[0][a] = c->in[0][a] * cs - c->in[0][b] * sn;
      c->out[0][b] = c->in[0][b] * cs + c->in[0][a] * sn;
    }
  return MPCC_OK;
}

/* ---- softmax --------------------------------------------------------------------------------- */

/* y = x - log sum exp(x), or its exponential, per row */
static Status log_softmax(const Call *c, bool exponential) {
  const Type *ty = in_type(c, 0);
  int64_t cols = ty->dim[ty->rank - 1], rows = elems(c, 0) / cols;
  for (int64_t r = 0; r < rows; r++) {
    const double *x = c->in[0] + r * cols;
    double *y = c->out[0] + r * cols, most = -INFINITY, sum = 0;
    for (int64_t i = 0; i < cols; i++)
      most = eval_max(most, x[i]);
    for (int64_t i = 0; i < cols; i++)
      sum += exp(x[i] - most);
    for (int64_t i = 0; i < cols; i++)
      y[i] = exponential ? exp(x[i] - most) / sum : x[i] - most - log(sum);
  }
  return MPCC_OK;
}

Status ref_softmax(const Call *c) {
  return log_softmax(c, true);
}

Status ref_log_softmax(const Call *c) {
  return log_softmax(c, false);
}

/* ---- losses ---------------------------------------------------------------------------------- */

/* Rows that count: of a sample below `valid`, with a target that is not ignored. */
static bool row_counts(const Call *c, int64_t row, int64_t rows, double valid) {
  int64_t samples = in_type(c, 1)->rank ? in_type(c, 1)->dim[0] : 1;
  double target = c->in[1][row], ignored = (double)op_int(c->op, "ignore_index", -100);
  return (double)(row / (rows / samples)) < valid && target != ignored;
}

static double class_weight(const Call *c, int64_t k) {
  return c->op->nin > 4 ? c->in[4][k] : 1;
}

/* With label smoothing e and class weights w: (1 - e) w[target] nll + e/V sum of w -log p, as
 * torch.nn.CrossEntropyLoss.
 * errors  ERR_DATA for a target outside [0, V) */
Status ref_cross_entropy(const Call *c) {
  const Type *x = in_type(c, 0);
  int64_t classes = x->dim[x->rank - 1], rows = elems(c, 1);
  double smooth = op_float(c->op, "label_smoothing", 0), seed = c->in[2][0], valid = c->in[3][0];
  memset(c->out[2], 0, (size_t)type_elems(x) * sizeof(double));
  c->out[0][0] = c->out[1][0] = 0;
  for (int64_t r = 0; r < rows; r++) {
    const double *z = c->in[0] + r * classes;
    double *dz = c->out[2] + r * classes, most = -INFINITY, sum = 0, all = 0;
    if (!row_counts(c, r, rows, valid))
      continue;
    if (!(c->in[1][r] >= 0 && c->in[1][r] < (double)classes))
      return MPCC_ERR_DATA;
    int64_t target = (int64_t)c->in[1][r];
    for (int64_t i = 0; i < classes; i++)
      most = eval_max(most, z[i]);
    for (int64_t i = 0; i < classes; i++)
      sum += exp(z[i] - most);
    double lse = most + log(sum), share = smooth / (double)classes, weights = 0;
    double own = (1 - smooth) * class_weight(c, target);
    for (int64_t i = 0; i < classes; i++) {
      all += class_weight(c, i) * (lse - z[i]);
      weights += class_weight(c, i);
    }
    for (int64_t i = 0; i < classes; i++)
      dz[i] = seed * ((own + share * weights) * exp(z[i] - lse) - share * class_weight(c, i) -
                      (i == target ? own : 0));
    c->out[0][0] += own * (lse - z[target]) + (smooth > 0 ? share * all : 0);
    c->out[1][0] += class_weight(c, target);
  }
  return MPCC_OK;
}

Status ref_nll_loss(const Call *c) {
  const Type *x = in_type(c, 0);
  int64_t classes = x->dim[x->rank - 1], rows = elems(c, 1);
  memset(c->out[2], 0, (size_t)type_elems(x) * sizeof(double));
  c->out[0][0] = c->out[1][0] = 0;
  for (int64_t r = 0; r < rows; r++) {
    if (!row_counts(c, r, rows, c->in[3][0]))
      continue;
    if (!(c->in[1][r] >= 0 && c->in[1][r] < (double)classes))
      return MPCC_ERR_DATA;
    int64_t at = r * classes + (int64_t)c->in[1][r];
    double w = class_weight(c, (int64_t)c->in[1][r]);
    c->out[0][0] -= w * c->in[0][at];
    c->out[1][0] += w;
    c->out[2][at] = -w * c->in[2][0];
  }
  return MPCC_OK;
}

/* Index of the largest of n values, the lowest on ties; -1 when one is NaN: none is the largest
 * then */
static int64_t largest(const double *z, int64_t n) {
  int64_t best = 0;
  for (int64_t i = 0; i < n; i++) {
    if (isnan(z[i]))
      return -1;
    best = z[i] > z[best] ? i : best;
  }
  return best;
}

/* Place of the target among the logits, from 0: lower indices win ties. */
static int64_t place(const double *z, int64_t n, int64_t target) {
  int64_t at = 0;
  for (int64_t i = 0; i < n; i++)
    at += z[i] > z[target] || (z[i] == z[target] && i < target);
  return at;
}

Status ref_accuracy(const Call *c) {
  const Type *x = in_type(c, 0);
  int64_t classes = x->dim[x->rank - 1], rows = elems(c, 1), right = 0;
  for (int64_t r = 0; r < rows; r++) {
    const double *z = c->in[0] + r * classes, target = c->in[1][r];
    bool known = target >= 0 && target < (double)classes && largest(z, classes) >= 0;
    right += known && row_counts(c, r, rows, c->in[2][0]) &&
             place(z, classes, (int64_t)target) < op_int(c->op, "top_k", 1);
  }
  c->out[0][0] = (double)right;
  return MPCC_OK;
}

Status ref_class_hot(const Call *c) {
  const Type *x = in_type(c, 0);
  int64_t classes = x->dim[x->rank - 1], rows = elems(c, 1);
  for (int64_t r = 0; r < rows; r++) {
    int64_t best = largest(c->in[0] + r * classes, classes);
    bool counts = row_counts(c, r, rows, c->in[2][0]);
    for (int64_t i = 0; i < classes; i++) {
      c->out[0][r * classes + i] = counts && (double)i == c->in[1][r];
      c->out[1][r * classes + i] = i == best;
    }
  }
  return MPCC_OK;
}
