/* Groups in the reference interpreter, kind by kind as docs/groups.md describes them. Registers are
 * doubles and arithmetic is exact to their precision; stores round to storage (eval_op does it) and
 * PR_ROUND rounds where the body says so. This judges fuse (the module before beside the module
 * after) and every target's kernels. */
#include "ir/eval.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mpcc/num.h"

static int64_t product_of(const int64_t *dim, int n) {
  int64_t all = 1;
  for (int d = 0; d < n; d++)
    all *= dim[d];
  return all;
}

/* offset + sum of stride[d] * i[d] over d in [first, end) where flat runs over those dimensions. */
static int64_t flat_address(const Body *b, const int64_t *stride, int first, int end,
                            int64_t flat) {
  int64_t at = 0;
  for (int d = end; d-- > first;) {
    at += flat % b->dim[d] * stride[d];
    flat /= b->dim[d];
  }
  return at;
}

static int64_t flat_index(const Body *b, int first, int end, int64_t flat, int dim) {
  for (int d = end; d-- > first; flat /= b->dim[d])
    if (d == dim)
      return flat % b->dim[d];
  return 0;
}

/* ---- rows ------------------------------------------------------------------------------------ */

/* One panel being computed, statement by statement; v[i] holds statement i over its level. */
typedef struct {
  const Call *c;
  const Body *b;
  int nrow;                      /* row dimensions */
  int64_t cols, first, n, panel; /* rows [first, first + n) */
  double **v;
  int *last_use;
} Rows;

static bool has_rows(int level) {
  return level == LV_ROW || level == LV_ELEM;
}

static bool has_cols(int level) {
  return level == LV_COL || level == LV_ELEM;
}

static int64_t spot(const Rows *g, int level, int64_t r, int64_t col) {
  return (has_rows(level) ? r * (has_cols(level) ? g->cols : 1) : 0) + (has_cols(level) ? col : 0);
}

static double value_of(const Rows *g, int stmt, int64_t r, int64_t col) {
  return g->v[stmt][spot(g, g->b->stmt[stmt].level, r, col)];
}

/* Address of (row, column) of a level: what the level lacks counts as index 0; a result that lacks
 * rows is a partial, one per panel. */
static int64_t address(const Rows *g, const Access *a, int level, int64_t r, int64_t col) {
  int64_t at = a->offset;
  if (has_rows(level))
    at += flat_address(g->b, a->stride, 0, g->nrow, g->first + r);
  if (has_cols(level))
    at += flat_address(g->b, a->stride, g->nrow, g->b->ndim, col);
  return at;
}

static double leaf(const Rows *g, const Stmt *s, int64_t r, int64_t col) {
  const Body *b = g->b;
  switch ((Prim)s->prim) {
  case PR_LOAD:
    return g->c->in[s->ref][address(g, &b->in[s->ref], s->level, r, col)];
  case PR_INDEX:
    return (double)(s->ref < g->nrow ? flat_index(b, 0, g->nrow, g->first + r, s->ref)
                                     : flat_index(b, g->nrow, b->ndim, col, s->ref));
  case PR_PARAM:
    return (double)b->param[s->ref];
  default:
    return s->imm;
  }
}

static double pointwise(const Rows *g, const Stmt *s, int64_t r, int64_t col) {
  double arg[STMT_ARGS] = {0};
  int n = prim_args((Prim)s->prim);
  if (n == 0)
    return leaf(g, s, r, col);
  for (int k = 0; k < n; k++)
    arg[k] = value_of(g, s->arg[k], r, col);
  if (prim_rounds((Prim)s->prim) && g->c->exact)
    return arg[0];
  if (s->prim == PR_CVT && s->dt == MPCC_F32 && !g->c->exact)
    return num_round(arg[0], MPCC_F32);
  return prim_eval(s, arg);
}

static double combine(Prim p, double sum, double x) {
  switch (p) {
  case PR_RMAX:
  case PR_AMAX:
    return eval_max(sum, x);
  case PR_RMIN:
  case PR_AMIN:
    return -eval_max(-sum, -x);
  default:
    return sum + x;
  }
}

static bool is_reduction(Prim p) {
  return p >= PR_RSUM && p <= PR_AMIN;
}

/* Result at the statement's level; the argument is swept over rows and columns the level lacks, as
 * far as the argument has them. */
static void reduce(const Rows *g, const Stmt *s, double *v) {
  Prim p = (Prim)s->prim;
  int from = g->b->stmt[s->arg[0]].level;
  bool max = p == PR_RMAX || p == PR_AMAX, min = p == PR_RMIN || p == PR_AMIN;
  int64_t size = (has_rows(s->level) ? g->n : 1) * (has_cols(s->level) ? g->cols : 1);
  for (int64_t i = 0; i < size; i++)
    v[i] = max ? -INFINITY : min ? INFINITY : 0;
  /* RSUM of a row value still counts every column; ASUM of a row value counts rows only. */
  bool per_panel = p == PR_ASUM || p == PR_AMAX || p == PR_AMIN;
  int64_t cols = per_panel && !has_cols(from) ? 1 : g->cols;
  for (int64_t r = 0; r < g->n; r++)
    for (int64_t col = 0; col < cols; col++) {
      double *to = &v[spot(g, s->level, r, col)];
      *to = combine(p, *to, value_of(g, s->arg[0], r, col));
    }
}

static void store(const Rows *g, const Stmt *s) {
  const Access *a = &g->b->out[s->ref];
  int level = g->b->stmt[s->arg[0]].level;
  int64_t rows = has_rows(level) ? g->n : 1, cols = has_cols(level) ? g->cols : 1;
  int64_t partial = has_rows(level) || !g->nrow ? 0 : a->stride[0] * g->panel;
  for (int64_t r = 0; r < rows; r++)
    for (int64_t col = 0; col < cols; col++)
      g->c->out[s->ref][address(g, a, level, r, col) + partial] = value_of(g, s->arg[0], r, col);
}

static Status run_stmt(Rows *g, int i) {
  const Stmt *s = &g->b->stmt[i];
  if (s->prim == PR_STORE) {
    store(g, s);
  } else {
    int64_t rows = has_rows(s->level) ? g->n : 1, cols = has_cols(s->level) ? g->cols : 1;
    g->v[i] = malloc((size_t)(rows * cols) * sizeof(double));
    if (!g->v[i])
      return MPCC_ERR_NOMEM;
    if (is_reduction((Prim)s->prim))
      reduce(g, s, g->v[i]);
    else
      for (int64_t r = 0; r < rows; r++)
        for (int64_t col = 0; col < cols; col++)
          g->v[i][spot(g, s->level, r, col)] = pointwise(g, s, r, col);
  }
  for (int k = 0; k < prim_args((Prim)s->prim); k++)
    if (g->last_use[s->arg[k]] == i) {
      free(g->v[s->arg[k]]);
      g->v[s->arg[k]] = NULL;
    }
  return MPCC_OK;
}

static Status group_rows(const Call *c) {
  const Body *b = c->op->body;
  int nrow = b->ndim - b->ncol;
  int64_t rows = product_of(b->dim, nrow), step = b->panel_rows > 0 ? b->panel_rows : rows;
  Rows g = {c, b, nrow, product_of(b->dim + nrow, b->ncol), 0, 0, 0, NULL, NULL};
  Status status = MPCC_OK;
  g.v = calloc((size_t)b->nstmt + 1, sizeof *g.v);
  g.last_use = calloc((size_t)b->nstmt + 1, sizeof *g.last_use);
  if (!g.v || !g.last_use)
    status = MPCC_ERR_NOMEM;
  for (int i = 0; !status && i < b->nstmt; i++)
    for (int k = 0; k < prim_args((Prim)b->stmt[i].prim); k++)
      g.last_use[b->stmt[i].arg[k]] = i;
  for (g.first = 0; !status && g.first < rows; g.first += step, g.panel++) {
    g.n = rows - g.first < step ? rows - g.first : step;
    for (int i = 0; !status && i < b->nstmt; i++)
      status = run_stmt(&g, i);
    for (int i = 0; i < b->nstmt; i++) {
      free(g.v[i]);
      g.v[i] = NULL;
    }
  }
  free(g.v);
  free(g.last_use);
  return status;
}

/* ---- product and pack ------------------------------------------------------------------------ */

/* Place of element (n, k) in a packed operand of shape [N/C, K/P, C, P]. */
static int64_t packed(const Type *ty, int64_t n, int64_t k) {
  int64_t c = ty->dim[2], p = ty->dim[3];
  return ((n / c * ty->dim[1] + k / p) * c + n % c) * p + k % p;
}

static DType dtype_attr(const Op *op, const char *key) {
  const Attr *a = op_attr(op, key);
  return a && a->kind == AT_DTYPE ? (DType)a->u.i : MPCC_F64;
}

static DType compute_dtype(const Op *op) {
  return dtype_attr(op, "compute");
}

static Status group_pack(const Call *c) {
  const Body *b = c->op->body;
  const Type *ty = c->op->out[0]->type;
  const DType round = c->exact ? MPCC_F64 : dtype_attr(c->op, "round");
  memset(c->out[0], 0, (size_t)type_elems(ty) * sizeof(double));
  for (int64_t n = 0; n < b->dim[0]; n++)
    for (int64_t k = 0; k < b->dim[1]; k++)
      c->out[0][b->out[0].offset + packed(ty, n, k)] = num_round(
          c->in[0][b->in[0].offset + n * b->in[0].stride[0] + k * b->in[0].stride[1]], round);
  return MPCC_OK;
}

/* Row `row` of a convolution times column `col`: strides of operand 0 give the row's number. */
static double accumulate_conv(const Call *c, const ConvGroup *g, int64_t row, int64_t col) {
  const Body *b = c->op->body;
  DType compute = c->exact ? MPCC_F64 : compute_dtype(c->op);
  int64_t k = op_int(c->op, "k", 0), m = flat_address(b, b->in[0].stride, 0, b->ndim - 1, row);
  const double *x = c->in[0] + b->in[0].offset;
  double sum = 0;
  for (int64_t t = 0; t < k; t++) {
    const Access *f = &b->in[1];
    if (g->wgrad && g->depth) {
      const int64_t window = m / g->columns * k + t, tap = m % g->columns;
      sum += num_round(conv_group_at(g, x, window, tap * g->channels + col), compute) *
             num_round(c->in[1][f->offset + window * g->factor[0] + col * g->factor[1]], compute);
    } else if (g->wgrad)
      sum += num_round(conv_group_at(g, x, t, m), compute) *
             num_round(c->in[1][f->offset + t * g->factor[0] + col * g->factor[1]], compute);
    else if (g->depth)
      sum += num_round(conv_group_at(g, x, m, t * g->channels + col), compute) *
             num_round(c->in[1][f->offset + t * g->factor[0] + col * g->factor[1]], compute);
    else
      sum += num_round(conv_group_at(g, x, m, t), compute) *
             c->in[1][f->offset + packed(c->op->in[1]->type, col, t)];
  }
  return sum;
}

static double accumulate(const Call *c, int64_t row, int64_t col) {
  const Body *b = c->op->body;
  const Access *a = &b->in[0];
  DType compute = c->exact ? MPCC_F64 : compute_dtype(c->op);
  int last = b->ndim - 1;
  int64_t k = op_int(c->op, "k", 0);
  int64_t base = a->offset + flat_address(b, a->stride, 0, last, row), of_b = b->in[1].offset;
  const Attr *factor = op_attr(c->op, "factor"); /* not packed: strides of k and of columns */
  if (factor)
    of_b += flat_address(b, b->in[1].stride, 0, last, row) + col * factor->u.ints.v[1];
  double sum = 0;
  for (int64_t t = 0; t < k; t++) {
    double y = factor ? num_round(c->in[1][of_b + t * factor->u.ints.v[0]], compute)
                      : c->in[1][of_b + packed(c->op->in[1]->type, col, t)];
    sum += num_round(c->in[0][base + t * a->stride[last]], compute) * y;
  }
  return sum;
}

static Status products(const Call *c, const ConvGroup *conv) {
  const Body *b = c->op->body;
  int last = b->ndim - 1;
  int64_t rows = product_of(b->dim, last);
  double *v = calloc((size_t)b->nstmt + 1, sizeof *v);
  if (!v)
    return MPCC_ERR_NOMEM;
  Rows g = {c, b, last, b->dim[last], 0, 1, 0, NULL, NULL}; /* for leaf and address */
  for (int64_t row = 0; row < rows; row++)
    for (int64_t col = 0; col < g.cols; col++) {
      double acc = conv ? accumulate_conv(c, conv, row, col) : accumulate(c, row, col);
      g.first = row;
      for (int i = 0; i < b->nstmt; i++) {
        const Stmt *s = &b->stmt[i];
        double arg[STMT_ARGS] = {0};
        for (int k = 0; k < prim_args((Prim)s->prim); k++)
          arg[k] = v[s->arg[k]];
        if (s->prim == PR_ACC)
          v[i] = acc;
        else if (s->prim == PR_STORE)
          c->out[s->ref][address(&g, &b->out[s->ref], LV_ELEM, 0, col)] = arg[0];
        else if (prim_args((Prim)s->prim) == 0)
          v[i] = leaf(&g, s, 0, col);
        else if (prim_rounds((Prim)s->prim) && c->exact)
          v[i] = arg[0];
        else
          v[i] = prim_eval(s, arg);
      }
    }
  free(v);
  return MPCC_OK;
}

/* Product by a library: strides of operand 0 are (row, k), of operand 1 (k, column). */
static Status group_gemm(const Call *c) {
  const Body *b = c->op->body;
  const int64_t k = op_int(c->op, "k", 0);
  const char *with = op_str(c->op, "with", "");
  /* which operand is added */
  const int bias = !strcmp(with, "bias") ? 2 : !strcmp(with, "scales_bias") ? 4 : 0;
  double factor = 1;
  const bool add = !strcmp(with, "sum");
  for (int i = 2; i < (bias ? bias : b->nin) && !add; i++)
    factor *= c->in[i][b->in[i].offset];
  for (int64_t row = 0; row < b->dim[0]; row++)
    for (int64_t col = 0; col < b->dim[1]; col++) {
      const double *x = c->in[0] + b->in[0].offset + row * b->in[0].stride[0];
      const double *y = c->in[1] + b->in[1].offset + col * b->in[1].stride[1];
      double sum = 0;
      for (int64_t t = 0; t < k; t++)
        sum += x[t * b->in[0].stride[1]] * y[t * b->in[1].stride[0]];
      sum *= factor;
      if (add)
        sum += c->in[2][b->in[2].offset + row * b->in[2].stride[0] + col];
      if (bias)
        sum += c->in[bias][b->in[bias].offset + col * b->in[bias].stride[1]];
      c->out[0][b->out[0].offset + row * b->out[0].stride[0] + col * b->out[0].stride[1]] = sum;
    }
  return MPCC_OK;
}

static Status group_product(const Call *c) {
  return products(c, NULL);
}

static Status group_conv(const Call *c) {
  ConvGroup g;
  return conv_group(c->op, &g) ? products(c, &g) : MPCC_ERR_INTERNAL;
}

/* ---- attention ------------------------------------------------------------------------------- */

static Strided operand(const Call *c, int k) {
  return (Strided){c->in[k], NULL, c->op->body->in[k]};
}

/* The mask, if any, is operand `next`; seed and step are behind it. */
static AttentionSize attention_size(const Call *c, int next, Strided *mask) {
  int seed = next + (op_int(c->op, "mask", 0) != 0);
  const Op *op = c->op;
  const Body *b = op->body;
  const Attr *round = op_attr(op, "round");
  AttentionSize z = {b->dim[0], b->dim[1], b->dim[2], 0, b->dim[3], .round = MPCC_F64};
  z.keys = op_int(op, "keys", z.queries);
  z.scale = op_float(op, "scale", 1 / sqrt((double)z.width));
  z.dropout_p = op_float(op, "dropout_p", 0);
  z.causal = op_int(op, "causal", 0);
  z.stream = b->nparam ? b->param[0] : 0;
  z.kv_heads = op_int(op, "kv_heads", z.heads);
  if (seed > next) {
    *mask = operand(c, next);
    z.mask = mask;
  }
  if (round && round->kind == AT_DTYPE && !c->exact)
    z.round = (DType)round->u.i;
  if (z.dropout_p > 0) {
    z.seed = (int64_t)c->in[seed][b->in[seed].offset];
    z.step = (int64_t)c->in[seed + 1][b->in[seed + 1].offset];
  }
  eval_attention_codes(c, seed + 2 * (z.dropout_p > 0), &z);
  return z;
}

Access attention_result(const Op *group, int k, int *value) {
  const Attr *joined = op_attr(group, "joined");
  Access at = {0};
  *value = joined ? 0 : k;
  if (!joined || !k)
    return k < group->nout ? group->body->out[k] : at;
  if (joined->kind != AT_INTS || joined->u.ints.n != 10)
    return at;
  const int64_t *v = joined->u.ints.v + 5 * (k - 1);
  at.offset = group->body->out[0].offset + v[0];
  memcpy(at.stride, v + 1, 4 * sizeof *v);
  return at;
}

static Strided result(const Call *c, int k) {
  return (Strided){NULL, k < c->op->nout ? c->out[k] : NULL,
                   k < c->op->nout ? c->op->body->out[k] : (Access){0}};
}

static Status group_attention(const Call *c) {
  Strided mask;
  AttentionSize z = attention_size(c, 3, &mask);
  Strided q = operand(c, 0), k = operand(c, 1), v = operand(c, 2);
  Strided o = result(c, 0), lse = result(c, 1);
  return eval_attention(&z, &q, &k, &v, &o, &lse);
}

static Status group_attention_grad(const Call *c) {
  Strided from[6], grad[3], mask;
  AttentionSize z = attention_size(c, 6, &mask);
  for (int k = 0; k < 6; k++)
    from[k] = operand(c, k);
  for (int k = 0; k < 3; k++) {
    int value;
    const Access at = attention_result(c->op, k, &value);
    grad[k] = (Strided){NULL, value < c->op->nout ? c->out[value] : NULL, at};
  }
  return eval_attention_grad(&z, from, grad);
}

/* ---- index and move -------------------------------------------------------------------------- */

/* errors  ERR_DATA for a row before the table or past its last element */
static Status group_index(const Call *c) {
  const Body *b = c->op->body;
  const Access *ids = &b->in[0], *table = &b->in[1], *to = &b->out[0];
  int last = b->ndim - 1;
  int64_t rows = product_of(b->dim, last), row_stride = op_int(c->op, "row_stride", b->dim[last]);
  int64_t size = type_elems(c->op->in[1]->type);
  for (int64_t r = 0; r < rows; r++) {
    double id = c->in[0][ids->offset + flat_address(b, ids->stride, 0, last, r)];
    for (int64_t col = 0; col < b->dim[last]; col++) {
      double at =
          (double)table->offset + id * (double)row_stride + (double)(col * table->stride[last]);
      if (!(id >= 0 && at >= 0 && at < (double)size))
        return MPCC_ERR_DATA;
      c->out[0][to->offset + flat_address(b, to->stride, 0, last, r) + col * to->stride[last]] =
          c->in[1][(int64_t)at];
    }
  }
  return MPCC_OK;
}

/* errors  ERR_DATA for an id outside the result */
static Status group_scatter(const Call *c) {
  const Body *b = c->op->body;
  const Access *ids = &b->in[0], *from = &b->in[1];
  int last = b->ndim - 1;
  int64_t width = b->dim[last], n = product_of(b->dim, last), rows = op_int(c->op, "rows", 0);
  int64_t skip = op_int(c->op, "skip", -1);
  for (int64_t i = 0; i < rows * width; i++)
    c->out[0][i] = b->nin > 2 ? c->in[2][i] : 0;
  for (int64_t r = 0; r < n; r++) {
    double id = c->in[0][ids->offset + flat_address(b, ids->stride, 0, last, r)];
    int64_t at = from->offset + flat_address(b, from->stride, 0, last, r);
    if (!(id >= 0 && id < (double)rows))
      return MPCC_ERR_DATA;
    for (int64_t col = 0; col < width && id != (double)skip; col++)
      c->out[0][(int64_t)id * width + col] += c->in[1][at + col * from->stride[last]];
  }
  return MPCC_OK;
}

static Status group_move(const Call *c) {
  const Body *b = c->op->body;
  const Attr *starts = op_attr(c->op, "starts"), *sizes = op_attr(c->op, "sizes");
  int axis = (int)op_int(c->op, "axis", 0);
  if (op_int(c->op, "zero", 0))
    memset(c->out[0], 0, (size_t)type_elems(c->op->out[0]->type) * sizeof(double));
  for (int k = 0; k < c->op->nin; k++) {
    int64_t dim[MAX_DIMS], i[MAX_DIMS] = {0};
    memcpy(dim, b->dim, sizeof dim);
    dim[axis] = sizes->u.ints.v[k];
    int64_t n = product_of(dim, b->ndim);
    for (int64_t e = 0; e < n; e++) {
      int64_t from = b->in[k].offset;
      int64_t to = b->out[0].offset + starts->u.ints.v[k] * b->out[0].stride[axis];
      for (int d = 0; d < b->ndim; d++) {
        from += i[d] * b->in[k].stride[d];
        to += i[d] * b->out[0].stride[d];
      }
      c->out[0][to] = c->in[k][from];
      eval_step(b->ndim, dim, i);
    }
  }
  return MPCC_OK;
}

Status eval_group(const Call *c) {
  static const struct {
    const char *kind;
    RefFn *run;
  } kinds[] = {
      {"rows", group_rows},
      {"product", group_product},
      {"conv", group_conv},
      {"pack", group_pack},
      {"gemm", group_gemm},
      {"attention", group_attention},
      {"attention_grad", group_attention_grad},
      {"index", group_index},
      {"scatter", group_scatter},
      {"move", group_move},
      {"window", eval_window},
  };
  const char *kind = op_str(c->op, "kind", "");
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (!strcmp(kind, kinds[i].kind))
      return kinds[i].run(c);
  return MPCC_ERR_INTERNAL;
}
