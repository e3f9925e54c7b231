/* Reductions of the rows emitter: sums, largest and smallest numbers of the columns of a row, of
 * the rows at a column and of a panel, in an order that is fixed. */
#include "codegen/cpu/rows.h"

#include <math.h>

/* No sign bit is set in the f32 value of statement i: as integers such numbers have the same order,
 * and NaN comes last. */
static bool is_magnitude(const Rows *r, int i) {
  const Stmt *s = &r->body.stmt[i];
  if (s->dt != MPCC_F32)
    return false;
  if (s->prim == PR_CONST)
    return s->imm >= 0 && !signbit(s->imm);
  if (s->prim == PR_SELECT)
    return is_magnitude(r, s->arg[1]) && is_magnitude(r, s->arg[2]);
  return s->prim == PR_ABS;
}

static bool is_max_of_magnitudes(const Rows *r, int i) {
  const Stmt *s = &r->body.stmt[i];
  return (s->prim == PR_RMAX || s->prim == PR_AMAX) && is_magnitude(r, s->arg[0]);
}

int rows_raw_load(const Rows *r, int i) {
  return r->body.stmt[r->body.stmt[i].arg[0]].arg[0];
}

Val rows_neutral(Rows *r, int i, int lanes) {
  const Stmt *s = &r->body.stmt[i];
  if (r->plan[i].raw)
    return ll_i(ll_vec(r->g->i16, lanes), 0);
  Ty t = ll_vec(ll_reg(r->g, (DType)s->dt), lanes);
  bool max = s->prim == PR_RMAX || s->prim == PR_AMAX;
  bool min = s->prim == PR_RMIN || s->prim == PR_AMIN;
  if (is_max_of_magnitudes(r, i))
    return ll_f(t, 0);
  if (s->dt == MPCC_I64)
    return ll_i(t, max ? INT64_MIN : min ? INT64_MAX : 0);
  return ll_f(t, max ? -INFINITY : min ? INFINITY : 0);
}

Val rows_combine(Rows *r, int i, Val a, Val b) {
  Gen *g = r->g;
  const Stmt *s = &r->body.stmt[i];
  bool max = s->prim == PR_RMAX || s->prim == PR_AMAX;
  bool min = s->prim == PR_RMIN || s->prim == PR_AMIN;
  if (r->plan[i].raw)
    return ll_sel(g, ll_icmp(g, LLVMIntUGT, a, b), a, b);
  if (is_max_of_magnitudes(r, i)) {
    Val x = ll_bits(g, a, g->i32), y = ll_bits(g, b, g->i32);
    return ll_bits(g, ll_sel(g, ll_icmp(g, LLVMIntSGT, x, y), x, y), g->f32);
  }
  if (s->dt == MPCC_I64 && (max || min))
    return ll_sel(g, ll_icmp(g, max ? LLVMIntSGT : LLVMIntSLT, a, b), a, b);
  if (s->dt == MPCC_I64)
    return ll_add(g, a, b);
  return max ? ll_fmax(g, a, b) : min ? ll_fmin(g, a, b) : ll_fadd(g, a, b);
}

/* Reductions that keep NaN apart (Acc). */
static bool is_float_extreme(const Rows *r, int i) {
  const Stmt *s = &r->body.stmt[i];
  return s->prim != PR_RSUM && s->prim != PR_ASUM && s->prim != PR_CSUM && s->dt != MPCC_I64 &&
         r->g->level->avx512 && !is_max_of_magnitudes(r, i);
}

static Val combine_ordered(Rows *r, int i, Val a, Val b) {
  const Stmt *s = &r->body.stmt[i];
  return ll_fextreme(r->g, a, b, s->prim == PR_RMIN || s->prim == PR_AMIN);
}

Acc rows_acc_start(Rows *r, int i, int lanes) {
  Gen *g = r->g;
  Acc a = {.sum = ll_var(g, rows_neutral(r, i, lanes))};
  bool pairs = lanes > r->lanes && r->lanes > 1;
  if (is_float_extreme(r, i))
    a.ordered = ll_var(g, ll_i(ll_vec(g->i1, pairs ? lanes / 2 : lanes), -1));
  return a;
}

Val rows_across_lanes(Rows *r, int i, Val v) {
  bool apart = is_float_extreme(r, i);
  for (int n = ll_lanes(v) / 2; n >= 1; n /= 2)
    v = (apart ? combine_ordered : rows_combine)(r, i, ll_slice(r->g, v, 0, n),
                                                 ll_slice(r->g, v, n, n));
  return v;
}

Val rows_acc_result(Rows *r, int i, Acc a, bool across) {
  Gen *g = r->g;
  Val v = across ? rows_across_lanes(r, i, a.sum) : a.sum, ordered = a.ordered;
  if (r->plan[i].raw)
    return ll_decode(g, gen_in_dtype(r->op, r->body.stmt[rows_raw_load(r, i)].ref), v);
  if (!ordered)
    return v;
  int bits = ll_lanes(ordered);
  if (across && bits > 1) {
    Ty t = LLVMIntTypeInContext(g->ctx, (unsigned)bits);
    ordered = ll_icmp(g, LLVMIntEQ, LLVMBuildBitCast(g->b, ordered, t, ""), ll_i(t, -1));
  }
  return ll_sel(g, ordered, v, ll_f(LLVMTypeOf(v), NAN));
}

void rows_accumulate(Rows *r, int i, Acc a, Val v, int lanes, Val count) {
  Gen *g = r->g;
  Val sum = ll_var_get(g, a.sum);
  v = ll_splat(g, v, lanes);
  if (count && lanes > 1)
    v = ll_sel(g, ll_mask(g, lanes, count), v, rows_neutral(r, i, lanes));
  for (; lanes < ll_lanes(sum); lanes *= 2) /* rest of a row that is gone through in pairs */
    v = ll_join(g, v, rows_neutral(r, i, lanes));
  ll_var_set(g, a.sum, a.ordered ? combine_ordered(r, i, v, sum) : rows_combine(r, i, sum, v));
  if (!a.ordered)
    return;
  Val before = ll_var_get(g, a.ordered);
  int n = ll_lanes(before);
  bool pairs = n < ll_lanes(v);
  Val low = pairs ? ll_slice(g, v, 0, n) : v, high = pairs ? ll_slice(g, v, n, n) : v;
  ll_var_set(g, a.ordered, ll_and(g, before, ll_fcmp(g, LLVMRealORD, low, high)));
}

Acc rows_acc_combined(Rows *r, int i, Acc *vars, int first, int step) {
  Gen *g = r->g;
  Acc v = {0};
  for (int u = first; u < ROWS_MAX_UNROLL; u += step) {
    const Acc *a = rows_acc(vars, i, u);
    if (!a->sum)
      continue;
    Val x = ll_var_get(g, a->sum), ordered = a->ordered ? ll_var_get(g, a->ordered) : NULL;
    bool first_one = !v.sum;
    v.sum = first_one ? x
            : ordered ? combine_ordered(r, i, v.sum, x)
                      : rows_combine(r, i, v.sum, x);
    v.ordered = first_one || !ordered ? ordered : ll_and(g, v.ordered, ordered);
  }
  return v;
}
