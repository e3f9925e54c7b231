/* ref_<op> of views, moves, reductions, precision and random ops: one plain loop each over
 * row-major doubles, in the order of ops.def. What an op means is its doc in ops.def. */
#include "ir/eval.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "mpcc/num.h"

static void copy(double *to, const double *from, int64_t n) {
  memcpy(to, from, (size_t)n * sizeof *to);
}

static const Type *in_type(const Call *c, int k) {
  return c->op->in[k]->type;
}

static const Type *out_type(const Call *c, int k) {
  return c->op->out[k]->type;
}

/* ---- views ----------------------------------------------------------------------------------- */

Status ref_reshape(const Call *c) {
  copy(c->out[0], c->in[0], type_elems(out_type(c, 0)));
  return MPCC_OK;
}

Status ref_qgrad(const Call *c) {
  return ref_reshape(c);
}

Status ref_loss(const Call *c) {
  return ref_reshape(c);
}

/* out[i] = in[offset + sum stride[d] i[d]] over the dimensions of the result. */
static void gather(const Call *c, int64_t offset, const int64_t *stride) {
  const Type *r = out_type(c, 0);
  int64_t i[MAX_RANK] = {0}, n = type_elems(r);
  for (int64_t e = 0; e < n; e++) {
    int64_t at = offset;
    for (int d = 0; d < r->rank; d++)
      at += stride[d] * i[d];
    c->out[0][e] = c->in[0][at];
    eval_step(r->rank, r->dim, i);
  }
}

Status ref_permute(const Call *c) {
  const Attr *perm = op_attr(c->op, "perm");
  int64_t own[MAX_RANK], stride[MAX_RANK];
  eval_strides(in_type(c, 0), own);
  for (int d = 0; d < perm->u.ints.n; d++)
    stride[d] = own[perm->u.ints.v[d]];
  gather(c, 0, stride);
  return MPCC_OK;
}

Status ref_expand(const Call *c) {
  const Type *x = in_type(c, 0), *r = out_type(c, 0);
  int64_t own[MAX_RANK], stride[MAX_RANK];
  eval_strides(x, own);
  for (int d = 0; d < r->rank; d++) {
    int at = d - (r->rank - x->rank);
    stride[d] = at < 0 || x->dim[at] == 1 ? 0 : own[at];
  }
  gather(c, 0, stride);
  return MPCC_OK;
}

Status ref_slice(const Call *c) {
  int64_t stride[MAX_RANK];
  eval_strides(in_type(c, 0), stride);
  gather(c, op_int(c->op, "start", 0) * stride[op_int(c->op, "dim", 0)], stride);
  return MPCC_OK;
}

/* ---- moves ----------------------------------------------------------------------------------- */

/* Copies x into the result at `start` of axis `dim`. */
static void place(const Call *c, int k, int dim, int64_t start) {
  const Type *x = in_type(c, k), *r = out_type(c, 0);
  int64_t inner = eval_tail(x, x->rank - dim - 1), n = x->dim[dim], outer = type_elems(x);
  outer /= inner * n;
  for (int64_t o = 0; o < outer; o++)
    copy(c->out[0] + (o * r->dim[dim] + start) * inner, c->in[k] + o * n * inner, n * inner);
}

Status ref_unslice(const Call *c) {
  memset(c->out[0], 0, (size_t)type_elems(out_type(c, 0)) * sizeof(double));
  place(c, 0, (int)op_int(c->op, "dim", 0), op_int(c->op, "start", 0));
  return MPCC_OK;
}

Status ref_cat(const Call *c) {
  int dim = (int)op_int(c->op, "dim", 0);
  int64_t start = 0;
  const Attr *starts = op_attr(c->op, "starts");
  memset(c->out[0], 0, (size_t)type_elems(out_type(c, 0)) * sizeof(double));
  for (int k = 0; k < c->op->nin; k++) {
    start = starts ? starts->u.ints.v[k] : start;
    place(c, k, dim, start);
    start += in_type(c, k)->dim[dim];
  }
  return MPCC_OK;
}

/* errors  ERR_DATA for an id outside the table */
Status ref_embedding(const Call *c) {
  int64_t n = type_elems(in_type(c, 0)), rows = in_type(c, 1)->dim[0],
          width = in_type(c, 1)->dim[1];
  for (int64_t i = 0; i < n; i++) {
    double id = c->in[0][i];
    if (!(id >= 0 && id < (double)rows))
      return MPCC_ERR_DATA;
    copy(c->out[0] + i * width, c->in[1] + (int64_t)id * width, width);
  }
  return MPCC_OK;
}

Status ref_embedding_grad(const Call *c) {
  const Type *r = out_type(c, 0);
  int64_t n = type_elems(in_type(c, 0)), width = r->dim[1],
          padding = op_int(c->op, "padding_idx", -1);
  memset(c->out[0], 0, (size_t)type_elems(r) * sizeof(double));
  if (c->op->nin > 2)
    copy(c->out[0], c->in[2], type_elems(r));
  for (int64_t i = 0; i < n; i++) {
    double id = c->in[0][i];
    if (!(id >= 0 && id < (double)r->dim[0]))
      return MPCC_ERR_DATA;
    for (int64_t k = 0; k < width && id != (double)padding; k++)
      c->out[0][(int64_t)id * width + k] += c->in[1][i * width + k];
  }
  return MPCC_OK;
}

/* ---- pointwise ------------------------------------------------------------------------------- */

Status ref_expr(const Call *c) {
  return eval_scalar(c);
}

Status ref_cast(const Call *c) {
  return ref_reshape(c); /* eval_op rounds */
}

/* ---- reductions ------------------------------------------------------------------------------ */

/* Adds x over axes `dims` into the result, which is zeroed first; gives the number of terms. */
static int64_t reduce(const Call *c) {
  const Type *x = in_type(c, 0);
  const Attr *dims = op_attr(c->op, "dims");
  bool gone[MAX_RANK] = {false};
  int64_t stride[MAX_RANK], i[MAX_RANK] = {0}, kept = 1, n = type_elems(x);
  for (int d = 0; d < x->rank; d++)
    gone[d] = !dims || dims->kind != AT_INTS;
  for (int k = 0; dims && dims->kind == AT_INTS && k < dims->u.ints.n; k++)
    gone[dims->u.ints.v[k]] = true;
  for (int d = x->rank; d-- > 0;) {
    stride[d] = gone[d] ? 0 : kept;
    kept *= gone[d] ? 1 : x->dim[d];
  }
  memset(c->out[0], 0, (size_t)kept * sizeof(double));
  for (int64_t e = 0; e < n; e++) {
    int64_t at = 0;
    for (int d = 0; d < x->rank; d++)
      at += stride[d] * i[d];
    c->out[0][at] += c->in[0][e];
    eval_step(x->rank, x->dim, i);
  }
  return n / kept;
}

Status ref_sum(const Call *c) {
  reduce(c);
  return MPCC_OK;
}

Status ref_mean(const Call *c) {
  double terms = (double)reduce(c);
  int64_t n = type_elems(out_type(c, 0));
  for (int64_t i = 0; i < n; i++)
    c->out[0][i] /= terms;
  return MPCC_OK;
}

static double largest_magnitude(const double *x, int64_t n) {
  double most = 0;
  for (int64_t i = 0; i < n; i++)
    most = eval_max(most, fabs(x[i]));
  return most;
}

Status ref_amax(const Call *c) {
  c->out[0][0] = largest_magnitude(c->in[0], type_elems(in_type(c, 0)));
  return MPCC_OK;
}

/* ---- precision ------------------------------------------------------------------------------- */

/* The product with the scale is a float32 multiplication, as quantization kernels do it [N2]. */
Status ref_quantize(const Call *c) {
  const Type *x = in_type(c, 0);
  double scale = c->in[1][0];
  int64_t n = type_elems(x);
  for (int64_t i = 0; i < n; i++) {
    double scaled = c->in[0][i] * scale;
    c->out[0][i] = c->exact || x->dt == MPCC_F64 ? scaled : num_round(scaled, MPCC_F32);
  }
  c->out[1][0] = 1 / scale;
  if (c->op->nin > 2) { /* padded samples do not count [N13] */
    double real = c->in[2][0] * (double)op_int(c->op, "rows", 1);
    int64_t row = n / x->dim[0];
    n = real < (double)x->dim[0] ? (int64_t)real * row : n;
  }
  c->out[2][0] = largest_magnitude(c->in[0], n);
  return MPCC_OK;
}

/* One slot of delayed scaling: history a[0..n), row 0 is the one being recorded. Gives the new
 * scale. source  Transformer Engine's fused amax-and-scale update: zero keeps the scale and does
 * not roll; inf and NaN keep the scale; max ignores NaN rows; an infinite scale becomes FLT_MAX
 * [N8] */
static double fp8_slot(const double *a, int64_t n, double amax, double scale, double top, bool most,
                       double *rolled) {
  double last = amax != 0 ? amax : a[0], use = 0;
  copy(rolled, a, n);
  if (last != 0) {
    use = last;
    for (int64_t i = 1; most && i < n; i++)
      use = fmax(use, a[i]);
    for (int64_t i = 1; i < n - 1; i++)
      rolled[i] = a[i + 1];
    rolled[n - 1] = last;
    rolled[0] = 0;
  }
  if (!(isfinite(use) && use > 0))
    return scale;
  double s = num_round(top / use, MPCC_F32);
  return isinf(s) ? (double)FLT_MAX : s;
}

Status ref_fp8_update(const Call *c) {
  int64_t slots = in_type(c, 0)->dim[0], n = in_type(c, 0)->dim[1];
  double top = ldexp(op_float(c->op, "fp8_max", 448), (int)-op_float(c->op, "margin", 0));
  bool most = strcmp(op_str(c->op, "algo", "max"), "most_recent") != 0;
  for (int64_t s = 0; s < slots; s++)
    c->out[1][s] =
        fp8_slot(c->in[0] + s * n, n, c->in[1][s], c->in[2][s], top, most, c->out[0] + s * n);
  return MPCC_OK;
}

/* ---- random numbers -------------------------------------------------------------------------- */

Status ref_random(const Call *c) {
  int64_t n = type_elems(out_type(c, 0)), stream = op_int(c->op, "stream", 0);
  for (int64_t i = 0; i < n; i++)
    c->out[0][i] = (double)scalar_rand((int64_t)c->in[0][0], (int64_t)c->in[1][0], i, stream);
  return MPCC_OK;
}

Status ref_dropout(const Call *c) {
  int64_t n = type_elems(out_type(c, 0)), stream = op_int(c->op, "stream", 0);
  double p = op_float(c->op, "p", 0);
  for (int64_t i = 0; i < n; i++) {
    double r = (double)scalar_rand((int64_t)c->in[1][0], (int64_t)c->in[2][0], i, stream);
    c->out[0][i] = r >= p ? c->in[0][i] / (1 - p) : 0;
  }
  return MPCC_OK;
}

Status ref_iota(const Call *c) {
  const Type *ty = out_type(c, 0);
  int64_t i[MAX_RANK] = {0}, n = type_elems(ty), dim = op_int(c->op, "dim", 0);
  for (int64_t e = 0; e < n; e++) {
    c->out[0][e] = (double)i[dim];
    eval_step(ty->rank, ty->dim, i);
  }
  return MPCC_OK;
}
