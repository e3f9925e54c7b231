/* Lowering of ops whose rows depend on each other's columns: sums, norms, losses, quantization. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "passes/fuse.h"

/* Sum over the last nred of ndim dims (dims permuted so), kept dims in front. */
static View *sum_rows(Fuse *F, const View *x, int nkeep, DType dt, double divisor) {
  DType reg = reg_of(dt) == MPCC_F64 ? MPCC_F64 : reg_join(x->dt, MPCC_F32);
  Node *n = node_rigid(F, x->rank, x->dim, x->rank - nkeep);
  int s = node_op1(F, n, PR_RSUM, node_load_as(F, n, x, reg));
  if (divisor != 1)
    s = node_op2(F, n, PR_DIV, s, node_const(F, n, reg, divisor));
  return view_whole(F, node_store(F, n, s, dt, (1u << nkeep) - 1));
}

/* Rows so wide that a panel holds few of them: its partial sums would be as many as the elements
 * themselves. A block of columns and all rows are a panel then, whose sums are final. */
enum { WIDE_SUM = 8192, SUM_BLOCK = 256 };

static View *sum_blocks(Fuse *F, const View *x, DType reg, const Type *type) {
  View v = *x;
  int64_t dim[3] = {x->dim[1] / SUM_BLOCK, x->dim[0], SUM_BLOCK};
  v.rank = 3;
  memcpy(v.dim, dim, sizeof dim);
  v.at.stride[0] = SUM_BLOCK * x->at.stride[1];
  v.at.stride[1] = x->at.stride[0];
  v.at.stride[2] = x->at.stride[1];
  Node *n = node_rigid(F, 3, dim, 1);
  return view_whole(F, node_panel_sums(F, n, node_load_as(F, n, &v, reg), type, dim[1]));
}

/* Sum over dims [outer, outer + nred) where inner dims stay contiguous columns. */
static View *sum_columns(Fuse *F, const View *x, int outer, int nred, DType dt, double divisor) {
  DType reg = reg_of(dt) == MPCC_F64 ? MPCC_F64 : reg_join(x->dt, MPCC_F32);
  int inner = x->rank - outer - nred;
  int64_t dim[MAX_DIMS], rows = 1;
  int rank = 0;
  for (int i = 0; i < x->rank; i++)
    if (i < outer || i >= outer + nred)
      dim[rank++] = x->dim[i];
    else
      rows *= x->dim[i];
  DType first = divisor == 1 ? dt : reg;
  if (!outer && nred == 1 && inner == 1 && dim[0] >= WIDE_SUM && dim[0] % SUM_BLOCK == 0 &&
      divisor == 1)
    return sum_blocks(F, x, reg, type_get(builder_types(F->b), dt, 1, dim));
  Node *n = node_rigid(F, x->rank, x->dim, inner);
  int load = node_load_as(F, n, x, reg);
  const Type *ty = type_get(builder_types(F->b), first, rank, dim);
  /* One panel per outer index, so that its column sums are final. */
  Buf *sum = outer ? node_panel_sums(F, n, load, ty, rows) : node_column_sum(F, n, load, ty);
  if (divisor == 1)
    return view_whole(F, sum);
  Node *m = node_rows(F, rank, dim);
  int q =
      node_op2(F, m, PR_DIV, node_load(F, m, view_whole(F, sum)), node_const(F, m, reg, divisor));
  return view_whole(F, node_store(F, m, q, dt, ~0u));
}

static void reduce(Fuse *F, const Op *op, bool mean) {
  const Attr *dims = op_attr(op, "dims");
  View *x = operand(F, 0);
  DType dt = op->out[0]->type->dt;
  bool reduced[MAX_DIMS] = {false};
  for (int i = 0; i < x->rank; i++)
    reduced[i] = !dims;
  for (int i = 0; dims && i < dims->u.ints.n; i++)
    reduced[dims->u.ints.v[i] + (dims->u.ints.v[i] < 0 ? x->rank : 0)] = true;

  /* Order kept outer, reduced, kept inner; columns are the innermost dimensions as they lie. */
  double count = 1;
  int64_t perm[MAX_DIMS];
  int nkeep = 0, nred = 0, last = -1;
  for (int i = 0; i < x->rank; i++) {
    if (reduced[i])
      count *= (double)x->dim[i], nred++;
    else
      nkeep += x->dim[i] > 1;
    if (x->dim[i] > 1)
      last = i;
  }
  double divisor = mean ? count : 1;
  View *r;
  if (!nkeep) {
    Node *n = node_rows(F, x->rank, x->dim);
    DType reg = reg_of(dt) == MPCC_F64 ? MPCC_F64 : reg_join(x->dt, MPCC_F32);
    r = node_total(F, n, PR_ASUM, node_load_as(F, n, x, reg), dt, divisor);
  } else {
    bool rows = last < 0 || reduced[last];
    int inner = x->rank; /* first of the trailing kept dimensions */
    while (!rows && inner > 0 && !reduced[inner - 1])
      inner--;
    int k = 0;
    for (int i = 0; i < inner; i++)
      if (!reduced[i])
        perm[k++] = i;
    int nouter = k;
    for (int i = 0; i < inner; i++)
      if (reduced[i])
        perm[k++] = i;
    for (int i = inner; i < x->rank; i++)
      perm[k++] = i;
    View *p = view_permuted(F, x, perm);
    r = rows ? sum_rows(F, p, nouter, dt, divisor) : sum_columns(F, p, nouter, nred, dt, divisor);
  }
  set_result(F, 0, r);
}

void group_sum(Fuse *F, const Op *op) {
  reduce(F, op, false);
}

void group_mean(Fuse *F, const Op *op) {
  reduce(F, op, true);
}

void group_amax(Fuse *F, const Op *op) {
  View *x = operand(F, 0);
  Node *n = node_rows(F, x->rank, x->dim);
  int s = node_op1(F, n, PR_ABS, node_load(F, n, x));
  set_result(F, 0, node_total(F, n, PR_AMAX, s, op->out[0]->type->dt, 1));
}

/* ---- normalisation --------------------------------------------------------------------------- */

/* Columns of a norm over the last `axes` axes. */
static int64_t norm_columns(const Op *op, const Type *x, int *ncol) {
  *ncol = (int)op_int(op, "axes", 1);
  int64_t c = 1;
  for (int i = x->rank - *ncol; i < x->rank; i++)
    c *= x->dim[i];
  return c;
}

static unsigned row_mask(const Node *n) {
  return (1u << (n->ndim - n->ncol)) - 1;
}

/* y = (x - mean) rstd w + b, rstd = 1 / sqrt(mean((x - mean)^2) + eps); two passes over the row, so
 * the variance does not cancel. */
void group_layer_norm(Fuse *F, const Op *op) {
  const Type *ty = op->in[0]->type;
  int ncol;
  double c = (double)norm_columns(op, ty, &ncol);
  DType reg = reg_join(ty->dt, op->out[1]->type->dt);
  Node *n = node_rigid(F, ty->rank, ty->dim, ncol);
  int x = node_load_as(F, n, operand(F, 0), reg), count = node_const(F, n, reg, c);
  int mean = node_op2(F, n, PR_DIV, node_op1(F, n, PR_RSUM, x), count);
  int d = node_op2(F, n, PR_SUB, x, mean);
  int var = node_op2(F, n, PR_DIV, node_op1(F, n, PR_RSUM, node_op2(F, n, PR_MUL, d, d)), count);
  int eps = node_const(F, n, reg, op_float(op, "eps", 1e-5));
  int std = node_op1(F, n, PR_SQRT, node_op2(F, n, PR_ADD, var, eps));
  int rstd = node_op2(F, n, PR_DIV, node_const(F, n, reg, 1), std);
  int y = node_op2(F, n, PR_MUL, d, rstd);
  if (op->nin > 1)
    y = node_op2(F, n, PR_MUL, y, node_load_as(F, n, operand(F, 1), reg));
  if (op->nin > 2)
    y = node_op2(F, n, PR_ADD, y, node_load_as(F, n, operand(F, 2), reg));
  set_result_buf(F, 0, node_store(F, n, y, op->out[0]->type->dt, ~0u));
  set_result_buf(F, 1, node_store(F, n, mean, op->out[1]->type->dt, row_mask(n)));
  set_result_buf(F, 2, node_store(F, n, rstd, op->out[2]->type->dt, row_mask(n)));
}

/* Statistics have the rows' shape: extents of 1 in place of the columns. */
static int load_stat(Fuse *F, Node *n, int i, DType reg) {
  const View *v = operand(F, i);
  int64_t dim[MAX_DIMS];
  for (int k = 0; k < n->ndim; k++)
    dim[k] = k < n->ndim - n->ncol ? n->dim[k] : 1;
  View *w;
  if (!view_reshaped(F, v, n->ndim, dim, &w))
    view_reshaped(F, view_materialize(F, v), n->ndim, dim, &w);
  return node_load_as(F, n, w, reg);
}

/* With xhat = (x - mean) rstd and g = dy w:
 * dx = rstd (g - mean(g) - xhat mean(g xhat)), dw = sum over rows of dy xhat, db = of dy. */
void group_layer_norm_grad(Fuse *F, const Op *op) {
  const Type *ty = op->in[1]->type;
  int ncol;
  double c = (double)norm_columns(op, ty, &ncol);
  DType reg = reg_join(ty->dt, op->in[2]->type->dt);
  Node *n = node_rigid(F, ty->rank, ty->dim, ncol);
  int dy = node_load_as(F, n, operand(F, 0), reg), x = node_load_as(F, n, operand(F, 1), reg);
  int mean = load_stat(F, n, 2, reg), rstd = load_stat(F, n, 3, reg);
  int xhat = node_op2(F, n, PR_MUL, node_op2(F, n, PR_SUB, x, mean), rstd);
  int g = dy, count = node_const(F, n, reg, c);
  if (op->nin > 4)
    g = node_op2(F, n, PR_MUL, dy, node_load_as(F, n, operand(F, 4), reg));
  int c1 = node_op2(F, n, PR_DIV, node_op1(F, n, PR_RSUM, g), count);
  int c2 = node_op2(F, n, PR_DIV, node_op1(F, n, PR_RSUM, node_op2(F, n, PR_MUL, g, xhat)), count);
  int centred =
      node_op2(F, n, PR_SUB, node_op2(F, n, PR_SUB, g, c1), node_op2(F, n, PR_MUL, xhat, c2));
  int dx = node_op2(F, n, PR_MUL, centred, rstd);
  set_result_buf(F, 0, node_store(F, n, dx, op->out[0]->type->dt, ~0u));
  if (op->nout > 1)
    set_result_buf(F, 1, node_column_sum(F, n, node_op2(F, n, PR_MUL, dy, xhat), op->out[1]->type));
  if (op->nout > 2)
    set_result_buf(F, 2, node_column_sum(F, n, dy, op->out[2]->type));
}

/* y = x rstd w, rstd = 1 / sqrt(mean(x^2) + eps) */
void group_rms_norm(Fuse *F, const Op *op) {
  const Type *ty = op->in[0]->type;
  int ncol;
  double c = (double)norm_columns(op, ty, &ncol);
  DType reg = reg_join(ty->dt, op->out[1]->type->dt);
  Node *n = node_rigid(F, ty->rank, ty->dim, ncol);
  int x = node_load_as(F, n, operand(F, 0), reg);
  int sum = node_op1(F, n, PR_RSUM, node_op2(F, n, PR_MUL, x, x));
  int square = node_op2(F, n, PR_DIV, sum, node_const(F, n, reg, c));
  int eps = node_const(F, n, reg, op_float(op, "eps", 0));
  int root = node_op1(F, n, PR_SQRT, node_op2(F, n, PR_ADD, square, eps));
  int rstd = node_op2(F, n, PR_DIV, node_const(F, n, reg, 1), root);
  int y = node_op2(F, n, PR_MUL, x, rstd);
  if (op->nin > 1)
    y = node_op2(F, n, PR_MUL, y, node_load_as(F, n, operand(F, 1), reg));
  set_result_buf(F, 0, node_store(F, n, y, op->out[0]->type->dt, ~0u));
  set_result_buf(F, 1, node_store(F, n, rstd, op->out[1]->type->dt, row_mask(n)));
}

/* With xhat = x rstd and g = dy w: dx = rstd (g - xhat mean(g xhat)), dw = sum over rows of dy
 * xhat. */
void group_rms_norm_grad(Fuse *F, const Op *op) {
  const Type *ty = op->in[1]->type;
  int ncol;
  double c = (double)norm_columns(op, ty, &ncol);
  DType reg = reg_join(ty->dt, op->in[2]->type->dt);
  Node *n = node_rigid(F, ty->rank, ty->dim, ncol);
  int dy = node_load_as(F, n, operand(F, 0), reg), x = node_load_as(F, n, operand(F, 1), reg);
  int rstd = load_stat(F, n, 2, reg), xhat = node_op2(F, n, PR_MUL, x, rstd), g = dy;
  if (op->nin > 3)
    g = node_op2(F, n, PR_MUL, dy, node_load_as(F, n, operand(F, 3), reg));
  int sum = node_op1(F, n, PR_RSUM, node_op2(F, n, PR_MUL, g, xhat));
  int mean = node_op2(F, n, PR_DIV, sum, node_const(F, n, reg, c));
  int d = node_op2(F, n, PR_SUB, g, node_op2(F, n, PR_MUL, xhat, mean));
  set_result_buf(F, 0,
                 node_store(F, n, node_op2(F, n, PR_MUL, d, rstd), op->out[0]->type->dt, ~0u));
  if (op->nout > 1)
    set_result_buf(F, 1, node_column_sum(F, n, node_op2(F, n, PR_MUL, dy, xhat), op->out[1]->type));
}

/* v with its dimension `from` on seen as the node's last three, (half, pair) or (pair, half). */
static View *half_of(Fuse *F, const View *x, const int64_t dim[5], int axis, int half) {
  View *w, part;
  if (!view_reshaped(F, x, 5, dim, &w))
    view_reshaped(F, view_materialize(F, x), 5, dim, &w);
  part = *w;
  part.at.offset += half * part.at.stride[axis];
  part.dim[axis] = 1;
  View *v = ARENA_NEW(F->a, View);
  *v = part;
  return v;
}

/* Both elements of a pair are read for each: (a, b) turned is (a cos - b sin, b cos + a sin). */
void group_rotary(Fuse *F, const Op *op) {
  const Type *ty = op->out[0]->type;
  int64_t heads = op_int(op, "heads", 1), half = ty->dim[2] / heads / 2;
  bool pairs = op_int(op, "interleaved", 0);
  int axis = pairs ? 4 : 3;
  int64_t dim[5] = {ty->dim[0], ty->dim[1], heads, pairs ? half : 2, pairs ? 2 : half};
  int64_t table[5] = {1, ty->dim[1], 1, pairs ? half : 1, pairs ? 1 : half};
  DType reg = reg_of(ty->dt);
  Node *n = node_rows(F, 5, dim);
  int a = node_load_as(F, n, half_of(F, operand(F, 0), dim, axis, 0), reg);
  int b = node_load_as(F, n, half_of(F, operand(F, 0), dim, axis, 1), reg), turn[2];
  for (int i = 0; i < 2; i++) {
    View *v = operand(F, 1 + i), *w;
    if (!view_reshaped(F, v, 5, table, &w))
      view_reshaped(F, view_materialize(F, v), 5, table, &w);
    turn[i] = node_load_as(F, n, w, reg);
  }
  if (op_int(op, "inverse", 0))
    turn[1] = node_op1(F, n, PR_NEG, turn[1]);
  int first = node_op2(F, n, PR_EQ, node_index(F, n, axis), node_const(F, n, MPCC_I64, 0));
  int own = node_select(F, n, first, a, b);
  int other = node_select(F, n, first, node_op1(F, n, PR_NEG, b), a);
  int y = node_op2(F, n, PR_ADD, node_op2(F, n, PR_MUL, own, turn[0]),
                   node_op2(F, n, PR_MUL, other, turn[1]));
  set_result(F, 0, view_whole(F, node_store(F, n, y, ty->dt, ~0u)));
}

/* ---- softmax --------------------------------------------------------------------------------- */

static void softmax(Fuse *F, const Op *op, bool exponential) {
  const Type *ty = op->out[0]->type;
  DType reg = reg_of(ty->dt);
  Node *n = node_rigid(F, ty->rank, ty->dim, 1);
  int x = node_load_as(F, n, operand(F, 0), reg);
  int d = node_op2(F, n, PR_SUB, x, node_op1(F, n, PR_RMAX, x));
  int e = node_op1(F, n, PR_EXP, d), sum = node_op1(F, n, PR_RSUM, e);
  int y = exponential ? node_op2(F, n, PR_DIV, e, sum)
                      : node_op2(F, n, PR_SUB, d, node_op1(F, n, PR_LOG, sum));
  set_result_buf(F, 0, node_store(F, n, y, ty->dt, ~0u));
}

void group_softmax(Fuse *F, const Op *op) {
  softmax(F, op, true);
}

void group_log_softmax(Fuse *F, const Op *op) {
  softmax(F, op, false);
}

/* ---- losses ---------------------------------------------------------------------------------- */

/* b1: the row's sample is real and its target is not ignored. */
static int row_counts(Fuse *F, Node *n, int target, const View *valid, int64_t ignore) {
  int nrow = n->ndim - n->ncol;
  int hit = node_op2(F, n, PR_NE, target, node_const(F, n, MPCC_I64, (double)ignore));
  if (!nrow)
    return hit;
  int real = node_op2(F, n, PR_LT, node_index(F, n, 0), node_load(F, n, valid));
  return node_op2(F, n, PR_AND, hit, real);
}

/* target [...] as a row-level operand over [..., V] */
static int load_target(Fuse *F, Node *n, int i) {
  const View *v = operand(F, i);
  View *w = view_broadcast(F, v, v->rank, v->dim);
  w->dim[w->rank] = 1;
  w->at.stride[w->rank++] = 0;
  return node_load_as(F, n, w, MPCC_I64);
}

/* What the losses of a row share: statements of the logits, their target, whether the row counts. */
typedef struct {
  Node *n;
  DType reg;
  int x, target, seed, counts, zero, one, is_target;
} LossRow;

static LossRow loss_row(Fuse *F, const Op *op) {
  const Type *ty = op->in[0]->type;
  LossRow r = {.reg = reg_join(ty->dt, op->out[0]->type->dt)};
  Node *n = r.n = node_rigid(F, ty->rank, ty->dim, 1);
  r.x = node_load_as(F, n, operand(F, 0), r.reg);
  r.target = load_target(F, n, 1);
  r.seed = node_load_as(F, n, operand(F, 2), r.reg);
  r.counts = row_counts(F, n, r.target, operand(F, 3), op_int(op, "ignore_index", -100));
  r.zero = node_const(F, n, r.reg, 0);
  r.one = node_const(F, n, r.reg, 1);
  r.is_target = node_op2(F, n, PR_EQ, node_index(F, n, n->ndim - 1), r.target);
  return r;
}

/* Sum of losses, sum of weights, and the slopes of the logits, rows that do not count left out. */
static void loss_results(Fuse *F, const Op *op, const LossRow *r, int loss, int weight, int slope) {
  const int sum[] = {loss, weight};
  set_result_buf(F, 2, node_store(F, r->n, slope, op->out[2]->type->dt, ~0u));
  for (int i = 0; i < 2; i++) {
    int counted = node_select(F, r->n, r->counts, sum[i], r->zero);
    set_result(F, i, node_rows_total(F, r->n, counted, op->out[i]->type->dt));
  }
}

/* loss = (1 - e) (lse - x[t]) + e (lse - mean x), dlogits = seed (softmax - (1 - e) onehot - e / V)
 * with e = label_smoothing (Szegedy et al. 2016, section 7). */
typedef struct {
  int x, lse, p, is_target; /* statements */
  double e, classes;        /* label smoothing, their number */
} Weighted;

/* Loss of a row and its slopes with class weights w: own = (1 - e) w[target], share = e / V;
 * own (lse - x[target]) + share sum of w (lse - x), slope (own + share sum of w) p - share w - hot.
 */
static void weighted(Fuse *F, Node *n, Weighted z, int *loss, int *d, int *weight) {
  DType reg = node_reg(n, z.x);
  int w = node_load_as(F, n, operand(F, 4), reg), zero = node_const(F, n, reg, 0);
  *weight = node_op1(F, n, PR_RSUM, node_select(F, n, z.is_target, w, zero));
  int own = node_op2(F, n, PR_MUL, node_const(F, n, reg, 1 - z.e), *weight);
  *loss = node_op2(F, n, PR_MUL, own, *loss);
  int slope = own, hot = node_select(F, n, z.is_target, own, zero);
  if (z.e != 0) {
    int share = node_const(F, n, reg, z.e / z.classes);
    int over = node_op2(F, n, PR_MUL, w, node_op2(F, n, PR_SUB, z.lse, z.x));
    *loss =
        node_op2(F, n, PR_ADD, *loss, node_op2(F, n, PR_MUL, share, node_op1(F, n, PR_RSUM, over)));
    slope = node_op2(F, n, PR_ADD, own, node_op2(F, n, PR_MUL, share, node_op1(F, n, PR_RSUM, w)));
    hot = node_op2(F, n, PR_ADD, hot, node_op2(F, n, PR_MUL, share, w));
  }
  *d = node_op2(F, n, PR_SUB, node_op2(F, n, PR_MUL, slope, z.p), hot);
}

void group_cross_entropy(Fuse *F, const Op *op) {
  const Type *ty = op->in[0]->type;
  double e = op_float(op, "label_smoothing", 0), v = (double)ty->dim[ty->rank - 1];
  LossRow r = loss_row(F, op);
  Node *n = r.n;
  int max = node_op1(F, n, PR_RMAX, r.x);
  int ex = node_op1(F, n, PR_EXP, node_op2(F, n, PR_SUB, r.x, max));
  int sum = node_op1(F, n, PR_RSUM, ex);
  int lse = node_op2(F, n, PR_ADD, max, node_op1(F, n, PR_LOG, sum));
  int xt = node_op1(F, n, PR_RSUM, node_select(F, n, r.is_target, r.x, r.zero));
  int loss = node_op2(F, n, PR_SUB, lse, xt);
  int p = node_op2(F, n, PR_DIV, ex, sum);
  int hot = node_select(F, n, r.is_target, node_const(F, n, r.reg, 1 - e), r.zero);
  int d = node_op2(F, n, PR_SUB, p, hot), weight = r.one;
  if (op->nin > 4) {
    weighted(F, n, (Weighted){r.x, lse, p, r.is_target, e, v}, &loss, &d, &weight);
  } else if (e != 0) {
    int mean = node_op2(F, n, PR_DIV, node_op1(F, n, PR_RSUM, r.x), node_const(F, n, r.reg, v));
    loss = node_op2(
        F, n, PR_ADD, node_op2(F, n, PR_MUL, node_const(F, n, r.reg, 1 - e), loss),
        node_op2(F, n, PR_MUL, node_const(F, n, r.reg, e), node_op2(F, n, PR_SUB, lse, mean)));
    d = node_op2(F, n, PR_SUB, d, node_const(F, n, r.reg, e / v));
  }
  d = node_op2(F, n, PR_MUL, r.seed, d);
  loss_results(F, op, &r, loss, weight, node_select(F, n, r.counts, d, r.zero));
}

void group_nll_loss(Fuse *F, const Op *op) {
  LossRow r = loss_row(F, op);
  Node *n = r.n;
  int own = node_select(F, n, r.is_target, r.x, r.zero), seed = r.seed;
  int loss = node_op1(F, n, PR_NEG, node_op1(F, n, PR_RSUM, own));
  int hot = node_op2(F, n, PR_AND, r.is_target, r.counts), weight = r.one;
  if (op->nin > 4) {
    int w = node_load_as(F, n, operand(F, 4), r.reg);
    weight = node_op1(F, n, PR_RSUM, node_select(F, n, r.is_target, w, r.zero));
    loss = node_op2(F, n, PR_MUL, loss, weight);
    seed = node_op2(F, n, PR_MUL, seed, weight);
  }
  int slope = node_select(F, n, hot, node_op1(F, n, PR_NEG, seed), r.zero);
  loss_results(F, op, &r, loss, weight, slope);
}

void group_row_mask(Fuse *F, const Op *op) {
  const Type *ty = op->out[0]->type;
  Node *n = node_rows(F, ty->rank, ty->dim);
  int x = node_load(F, n, operand(F, 0));
  int real = node_op2(F, n, PR_LT, node_index(F, n, 0), node_load(F, n, operand(F, 1)));
  int r = node_select(F, n, real, x, node_const(F, n, reg_of(ty->dt), 0));
  set_result_buf(F, 0, node_store(F, n, r, ty->dt, ~0u));
}

/* The lowest index among the largest logits is compared with the target; f32 holds indices below
 * 2^24 exactly. A NaN in a row makes it wrong. */
/* Row level: lowest index among the largest of x; past the end when one of them is NaN. */
static int best_index(Fuse *F, Node *n, int x, DType reg) {
  int max = node_op1(F, n, PR_RMAX, x);
  int index = node_cvt(F, n, node_index(F, n, n->ndim - 1), reg);
  int far = node_const(F, n, reg, (double)n->dim[n->ndim - 1]);
  return node_op1(F, n, PR_RMIN, node_select(F, n, node_op2(F, n, PR_EQ, x, max), index, far));
}

/* Fewer than k logits are before the target: larger, or as large with a lower index. No NaN in the
 * row: then the largest is none. */
static int among(Fuse *F, Node *n, int x, int target, DType reg, int64_t k) {
  int zero = node_const(F, n, reg, 0), one = node_const(F, n, reg, 1);
  int index = node_index(F, n, n->ndim - 1);
  int own = node_select(F, n, node_op2(F, n, PR_EQ, index, target), x, zero);
  int xt = node_op1(F, n, PR_RSUM, own);
  int tie =
      node_op2(F, n, PR_AND, node_op2(F, n, PR_EQ, x, xt), node_op2(F, n, PR_LT, index, target));
  int before = node_op2(F, n, PR_OR, node_op2(F, n, PR_LT, xt, x), tie);
  int count = node_op1(F, n, PR_RSUM, node_select(F, n, before, one, zero));
  int max = node_op1(F, n, PR_RMAX, x);
  return node_op2(F, n, PR_AND, node_op2(F, n, PR_EQ, max, max),
                  node_op2(F, n, PR_LT, count, node_const(F, n, reg, (double)k)));
}

void group_accuracy(Fuse *F, const Op *op) {
  const Type *ty = op->in[0]->type;
  DType reg = reg_of(ty->dt);
  Node *n = node_rigid(F, ty->rank, ty->dim, 1);
  int x = node_load(F, n, operand(F, 0)), target = load_target(F, n, 1);
  int counts = row_counts(F, n, target, operand(F, 2), op_int(op, "ignore_index", -100));
  int64_t k = op_int(op, "top_k", 1);
  int right = k > 1 ? among(F, n, x, target, reg, k)
                    : node_op2(F, n, PR_EQ, best_index(F, n, x, reg), node_cvt(F, n, target, reg));
  int hit = node_op2(F, n, PR_AND, counts, right);
  int one = node_select(F, n, hit, node_const(F, n, reg, 1), node_const(F, n, reg, 0));
  set_result(F, 0, node_rows_total(F, n, one, op->out[0]->type->dt));
}

void group_class_hot(Fuse *F, const Op *op) {
  const Type *ty = op->in[0]->type;
  DType reg = reg_of(ty->dt);
  Node *n = node_rigid(F, ty->rank, ty->dim, 1);
  int x = node_load(F, n, operand(F, 0)), target = load_target(F, n, 1);
  int counts = row_counts(F, n, target, operand(F, 2), op_int(op, "ignore_index", -100));
  int zero = node_const(F, n, MPCC_F32, 0), one = node_const(F, n, MPCC_F32, 1);
  int index = node_index(F, n, n->ndim - 1);
  int hot = node_op2(F, n, PR_AND, node_op2(F, n, PR_EQ, index, target), counts);
  int best = node_op2(F, n, PR_EQ, node_cvt(F, n, index, reg), best_index(F, n, x, reg));
  set_result_buf(F, 0, node_store(F, n, node_select(F, n, hot, one, zero), MPCC_F32, ~0u));
  set_result_buf(F, 1, node_store(F, n, node_select(F, n, best, one, zero), MPCC_F32, ~0u));
}

/* ---- 8-bit formats --------------------------------------------------------------------------- */

/* 1 / s in f32. A slot of a tensor of scales is a slot of one tensor of inverses, which all call
 * sites share: a kernel for each of hundreds of numbers would take longer than what they scale. */
static View *inverse_of(Fuse *F, const View *scale) {
  const Buf *buf = scale->buf;
  const bool slot = buf && !buf->def && buf->type->rank == 1 && scale->dt == MPCC_F32 &&
                    view_elems(scale) == 1 && buf->type->dt == MPCC_F32;
  for (int i = 0; slot && i < F->ninverse; i++)
    if (F->inverse[i].scales == buf) {
      View *v = ARENA_NEW(F->a, View);
      *v = *scale;
      v->buf = F->inverse[i].inverse->buf;
      return v;
    }
  const View whole = slot ? *view_whole(F, scale->buf) : *scale;
  Node *n = node_rows(F, whole.rank, whole.dim);
  const int inv =
      node_op2(F, n, PR_DIV, node_const(F, n, MPCC_F32, 1), node_load_as(F, n, &whole, MPCC_F32));
  View *all = view_whole(F, node_store(F, n, inv, MPCC_F32, ~0u));
  if (!slot)
    return all;
  F->inverse = fuse_grow(F, F->inverse, F->ninverse, &F->cinverse, sizeof *F->inverse);
  if (F->status != MPCC_OK)
    return all;
  F->inverse[F->ninverse++] = (InverseEntry){buf, all};
  return inverse_of(F, scale);
}

/* codes = sat(x scale), scale_inv = 1 / scale, amax = max |x| before the saturating cast [N2], over
 * the rows of real samples when their number is an operand [N13]. */
void group_quantize(Fuse *F, const Op *op) {
  View *x = operand(F, 0), *scale = operand(F, 1);
  DType reg = reg_join(x->dt, MPCC_F32);
  Node *n = node_rows(F, x->rank, x->dim);
  int a = node_load_as(F, n, x, reg);
  int q = node_op2(F, n, PR_MUL, a, node_load_as(F, n, scale, reg));
  set_result_buf(F, 0, node_store(F, n, q, op->out[0]->type->dt, ~0u));
  set_result(F, 1, inverse_of(F, scale));
  int magnitude = node_op1(F, n, PR_ABS, a);
  if (op->nin > 2) {
    int valid = node_load_as(F, n, operand(F, 2), MPCC_I64);
    int rows = node_const(F, n, MPCC_I64, (double)op_int(op, "rows", 1));
    int real = node_op2(F, n, PR_LT, node_index(F, n, 0), node_op2(F, n, PR_MUL, valid, rows));
    magnitude = node_select(F, n, real, magnitude, node_const(F, n, reg, 0));
  }
  set_result(F, 2, node_total(F, n, PR_AMAX, magnitude, op->out[2]->type->dt, 1));
}

/* history[s] without its first element, at the place one before: so that rolling is an access. */
static View *shifted_history(Fuse *F, const View *a) {
  int64_t starts[2] = {0, a->dim[1] - 1}, sizes[2] = {a->dim[1] - 1, 1};
  Node *n = node_create(F, NODE_MOVE, 2, a->dim);
  Access tail = a->at;
  tail.offset += a->at.stride[1];
  n->in = fuse_grow(F, n->in, 1, &n->cin, sizeof *n->in);
  if (F->status == MPCC_OK) {
    n->in[0] = (NodeIn){a->buf, tail};
    n->in[1] = (NodeIn){a->buf, a->at};
    n->nin = 2;
  }
  node_attr_i(F, n, "axis", 1);
  node_attr_b(F, n, "zero", false);
  node_attr(F, n, attr_ints(F->b, "starts", 2, starts));
  node_attr(F, n, attr_ints(F->b, "sizes", 2, sizes));
  return view_whole(F, node_store(F, n, 0, MPCC_F32, ~0u));
}

/* Delayed scaling, one history per row [N8]; the rule of Transformer Engine's fused update:
 * last = amax or, when that is 0, history[0]; 0 keeps history and scale; NaN rows do not count. */
void group_fp8_update(Fuse *F, const Op *op) {
  View *history = operand(F, 0);
  if (!history->buf)
    history = view_materialize(F, history);
  int64_t length = history->dim[1];
  View *shifted = length > 1 ? shifted_history(F, history) : history;
  double top = ldexp(op_float(op, "fp8_max", 448), -(int)op_float(op, "margin", 0));
  bool recent = !strcmp(op_str(op, "algo", "max"), "most_recent");
  View first = *history;
  first.dim[1] = 1;
  View *amax = operand(F, 1), *scale = operand(F, 2), *amax_rows, *scale_rows;
  int64_t rows[2] = {history->dim[0], 1};
  view_reshaped(F, amax, 2, rows, &amax_rows);
  view_reshaped(F, scale, 2, rows, &scale_rows);

  Node *n = node_rigid(F, 2, history->dim, 1);
  int zero = node_const(F, n, MPCC_F32, 0);
  int a = node_load(F, n, history), next = node_load(F, n, shifted);
  int now = node_load(F, n, amax_rows), old = node_load(F, n, scale_rows);
  int last = node_select(F, n, node_op2(F, n, PR_NE, now, zero), now, node_load(F, n, &first));
  int roll = node_op2(F, n, PR_NE, last, zero);
  int i = node_index(F, n, 1);
  int is_first = node_op2(F, n, PR_EQ, i, node_const(F, n, MPCC_I64, 0));
  int is_last = node_op2(F, n, PR_EQ, i, node_const(F, n, MPCC_I64, (double)(length - 1)));
  int rolled = node_select(F, n, is_first, zero, node_select(F, n, is_last, last, next));
  int history_out = node_select(F, n, roll, rolled, a);

  int use = node_select(F, n, node_op2(F, n, PR_EQ, last, last), last, zero);
  if (!recent) {
    int number = node_op2(F, n, PR_EQ, a, a);
    int counts = node_op2(F, n, PR_AND, number, node_op1(F, n, PR_NOT, is_first));
    use = node_op2(F, n, PR_MAX, use, node_op1(F, n, PR_RMAX, node_select(F, n, counts, a, zero)));
  }
  use = node_select(F, n, roll, use, zero);
  int good =
      node_op2(F, n, PR_AND, node_op1(F, n, PR_ISFINITE, use), node_op2(F, n, PR_LT, zero, use));
  int s = node_op2(F, n, PR_DIV, node_const(F, n, MPCC_F32, top), use);
  int most = node_const(F, n, MPCC_F32, FLT_MAX);
  s = node_select(F, n, node_op2(F, n, PR_LE, s, most), s, most);
  set_result_buf(F, 0, node_store(F, n, history_out, MPCC_F32, ~0u));
  set_result_buf(F, 1, node_store(F, n, node_select(F, n, good, s, old), MPCC_F32, 1));
}
