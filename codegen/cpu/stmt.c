/* Statements of a group body over a vector of lanes: the same list that ir/scalar.c evaluates. */
#include "codegen/cpu/gen.h"

#include <math.h>

static int64_t lane_stride(const Lanes *s, const Access *a) {
  return s->lanes == 1 ? 0 : a->stride[s->lane_dim];
}

Val stmt_address(Lanes *s, bool out, int k, int64_t *stride) {
  Gen *g = s->g;
  const Access *a = out ? &s->body->out[k] : &s->body->in[k];
  DType dt = out ? gen_out_dtype(s->group, k) : gen_in_dtype(s->group, k);
  Val *bases = out ? s->base_out : s->base_in;
  Val base = bases ? bases[k] : NULL;
  Val off = ll_n(g, base ? 0 : a->offset);
  for (int d = 0; d < s->body->ndim; d++)
    if (a->stride[d] && (!base || s->free[d]))
      off = ll_add(g, off, ll_mul(g, s->index[d], ll_n(g, a->stride[d])));
  if (!base)
    base = ll_arg_ptr(g, out ? k : gen_in_slot(s->group, k));
  *stride = lane_stride(s, a);
  return ll_gep(g, ll_mem(g, dt), base, off);
}

/* undecoded: memory elements as they are, for copies within one dtype. They are left in *raw, too.
 */
static Val load(Lanes *s, int k, bool undecoded, Val *raw) {
  Gen *g = s->g;
  DType dt = gen_in_dtype(s->group, k);
  int64_t stride;
  Val at = stmt_address(s, false, k, &stride);
  Ty t = ll_mem(g, dt);
  Val v = stride == 0   ? ll_load(g, t, 1, at, NULL)
          : stride == 1 ? ll_load(g, t, s->lanes, at, s->count)
                        : ll_load_strided(g, t, s->lanes, at, ll_n(g, stride), s->count);
  if (raw)
    *raw = v;
  if (undecoded)
    return v;
  return s->paired && stride ? ll_decode_pairs(g, dt, v) : ll_decode(g, dt, v);
}

/* No register has these element types. */
static bool is_raw(const Gen *g, Val v) {
  Ty t = ll_elem(v);
  return t == g->i8 || t == g->i16 || t == g->i32;
}

void stmt_store(Lanes *s, int k, Val v) {
  Gen *g = s->g;
  int64_t stride;
  Val at = stmt_address(s, true, k, &stride);
  if (!is_raw(g, v)) {
    DType dt = gen_out_dtype(s->group, k);
    v = s->paired && ll_lanes(v) > 1 ? ll_encode_pairs(g, dt, v, s->plain) : ll_encode(g, dt, v);
  }
  if (stride == 0) /* every lane writes the same place: the last valid one stays */
    ll_store(g, ll_lane(g, v, 0), at, NULL);
  else if (stride == 1)
    ll_store(g, ll_splat(g, v, s->lanes), at, s->count);
  else
    ll_store_strided(g, ll_splat(g, v, s->lanes), at, ll_n(g, stride), s->count);
}

static Val convert(Gen *g, DType to, Val v) {
  Ty e = ll_elem(v), t = ll_reg(g, to);
  if (e == t)
    return v;
  if (e == g->i1 && to == MPCC_I64)
    return ll_zext(g, v, g->i64);
  if (e == g->i1)
    return ll_sel(g, v, ll_f(ll_like(v, t), 1), ll_f(ll_like(v, t), 0));
  if (to == MPCC_I64)
    return ll_encode(g, MPCC_I64, v);
  if (to == MPCC_B1)
    return e == g->i64 ? ll_icmp(g, LLVMIntNE, v, ll_i(LLVMTypeOf(v), 0))
                       : ll_fcmp(g, LLVMRealUNE, v, ll_f(LLVMTypeOf(v), 0));
  if (e == g->i64)
    return ll_sitof(g, v, t);
  return to == MPCC_F64 ? ll_fext(g, v, t) : ll_ftrunc(g, v, t);
}

static Val compare(Gen *g, Prim p, Val a, Val b) {
  Ty e = ll_elem(a);
  if (e == g->f32 || e == g->f64) {
    LLVMRealPredicate r = p == PR_LT   ? LLVMRealOLT
                          : p == PR_LE ? LLVMRealOLE
                          : p == PR_EQ ? LLVMRealOEQ
                                       : LLVMRealUNE;
    return ll_fcmp(g, r, a, b);
  }
  LLVMIntPredicate r = p == PR_LT   ? LLVMIntSLT
                       : p == PR_LE ? LLVMIntSLE
                       : p == PR_EQ ? LLVMIntEQ
                                    : LLVMIntNE;
  return ll_icmp(g, r, a, b);
}

static Val integer_div(Gen *g, Val a, Val b) {
  Val zero = ll_icmp(g, LLVMIntEQ, b, ll_i(LLVMTypeOf(b), 0));
  Val safe = ll_sel(g, zero, ll_i(LLVMTypeOf(b), 1), b);
  int n = ll_lanes(a) > ll_lanes(b) ? ll_lanes(a) : ll_lanes(b);
  Val q = LLVMBuildSDiv(g->b, ll_splat(g, a, n), ll_splat(g, safe, n), "");
  return ll_sel(g, ll_splat(g, zero, n), ll_i(LLVMTypeOf(q), 0), q);
}

/* add .. erf on i64 registers: those that make sense. */
static Val integer(Gen *g, Prim p, Val a, Val b) {
  switch (p) {
  case PR_ADD:
    return ll_add(g, a, b);
  case PR_SUB:
    return ll_sub(g, a, b);
  case PR_MUL:
    return ll_mul(g, a, b);
  case PR_DIV: /* truncates; by zero gives zero instead of a trap */
    return integer_div(g, a, b);
  case PR_NEG:
    return ll_sub(g, ll_i(LLVMTypeOf(a), 0), a);
  case PR_ABS:
    return ll_sel(g, ll_icmp(g, LLVMIntSLT, a, ll_i(LLVMTypeOf(a), 0)),
                  ll_sub(g, ll_i(LLVMTypeOf(a), 0), a), a);
  case PR_MIN:
    return ll_sel(g, ll_icmp(g, LLVMIntSLT, a, b), a, b);
  case PR_MAX:
    return ll_sel(g, ll_icmp(g, LLVMIntSGT, a, b), a, b);
  case PR_FLOOR:
    return a;
  default:
    gen_fail(g, "%s of integers is not supported", prim_name(p));
    return a;
  }
}

static Val arithmetic(Gen *g, Prim p, Val a, Val b) {
  if (ll_elem(a) == g->i64)
    return integer(g, p, a, b);
  switch (p) {
  case PR_ADD:
    return ll_fadd(g, a, b);
  case PR_SUB:
    return ll_fsub(g, a, b);
  case PR_MUL:
    return ll_fmul(g, a, b);
  case PR_DIV:
    return ll_fdiv(g, a, b);
  case PR_NEG:
    return ll_fneg(g, a);
  case PR_ABS:
    return ll_fabs(g, a);
  case PR_MIN:
    return ll_fmin(g, a, b);
  case PR_MAX:
    return ll_fmax(g, a, b);
  case PR_SQRT:
    return ll_sqrt(g, a);
  case PR_LOG:
    return ll_log(g, a);
  case PR_TANH:
    return ll_tanh(g, a);
  case PR_ERF:
    return ll_erf(g, a);
  case PR_FLOOR:
    return ll_floor(g, a);
  case PR_SIN:
    return ll_sin(g, a);
  case PR_TF32:
    return ll_tf32(g, a);
  case PR_SR_BF16:
    return ll_sr(g, MPCC_BF16, a, b);
  case PR_SR_F16:
    return ll_sr(g, MPCC_F16, a, b);
  default:
    return ll_cos(g, a);
  }
}

static Val constant(Gen *g, const Stmt *st) {
  Ty t = ll_reg(g, (DType)st->dt);
  if (st->dt == MPCC_I64)
    return ll_i(t, (int64_t)st->imm);
  return st->dt == MPCC_B1 ? ll_i(t, st->imm != 0) : ll_f(t, st->imm);
}

/* Element number of each lane, from the first. */
static Val lane_numbers(const Lanes *s, Ty elem) {
  Val n = ll_iota(elem, s->lanes);
  return s->paired ? ll_even_odd(s->g, n) : n;
}

static Val index_value(Lanes *s, int dim) {
  Val i = s->index[dim];
  if (s->lanes == 1 || dim != s->lane_dim)
    return i;
  return ll_add(s->g, ll_splat(s->g, i, s->lanes), lane_numbers(s, s->g->i64));
}

/* index == v for the index along the lanes and one number for all lanes: 64-bit lanes are dear.
 * NULL when it is something else. */
static Val is_lane(Lanes *s, const Stmt *st, Val v) {
  Gen *g = s->g;
  const Stmt *index = &s->body->stmt[st->arg[0]];
  if (index->prim != PR_INDEX || index->ref != s->lane_dim || ll_lanes(v) > 1 || s->lanes == 1)
    return NULL;
  Val lane = ll_umin(g, ll_sub(g, v, s->index[s->lane_dim]), ll_n(g, s->lanes));
  return ll_icmp(g, LLVMIntEQ, lane_numbers(s, g->i32), ll_trunc(g, lane, g->i32));
}

/* select(index == v, a, b) where is_lane and a and b are the same in all lanes, for most vectors
 * have no such lane: two instructions that none waits for. NULL when it is something else. */
static Val select_lane(Lanes *s, const Stmt *st, Val a, Val b) {
  Gen *g = s->g;
  const Stmt *eq = &s->body->stmt[st->arg[0]];
  if (!g->may_branch || eq->prim != PR_EQ || ll_lanes(a) > 1 || ll_lanes(b) > 1)
    return NULL;
  Val v = s->val[eq->arg[1]], hit = is_lane(s, eq, v);
  if (!hit)
    return NULL;
  Val lane = ll_sub(g, v, s->index[s->lane_dim]), other = ll_splat(g, b, s->lanes);
  Val var = ll_var(g, other);
  If rare = ll_if_rare(g, ll_icmp(g, LLVMIntULT, lane, ll_n(g, s->lanes)));
  ll_var_set(g, var, ll_sel(g, is_lane(s, eq, v), a, other));
  ll_endif(g, &rare);
  return ll_var_get(g, var);
}

/* x - max(x) over the row. */
static bool is_below_0(const Lanes *s, int i) {
  const Stmt *sub = &s->body->stmt[i];
  const Stmt *max = sub->prim == PR_SUB ? &s->body->stmt[sub->arg[1]] : NULL;
  return max && max->prim == PR_RMAX && max->arg[0] == sub->arg[0];
}

static Val is_finite(Gen *g, Val a) {
  Ty t = LLVMTypeOf(a);
  if (ll_elem(a) == g->i64)
    return ll_i(ll_like(a, g->i1), 1);
  /* |a| < inf is false for NaN too */
  return ll_fcmp(g, LLVMRealOLT, ll_fabs(g, a), ll_f(t, INFINITY));
}

bool stmt_emit(Lanes *s, int i) {
  Gen *g = s->g;
  const Stmt *st = &s->body->stmt[i];
  Prim p = (Prim)st->prim;
  Val a[STMT_ARGS] = {0};
  for (int k = 0; k < STMT_ARGS; k++) {
    if (st->arg[k] < 0 || k >= prim_args(p))
      continue;
    a[k] = s->val[st->arg[k]];
    if (!a[k])
      return gen_fail(g, "statement %d reads statement %d, which has no value here", i, st->arg[k]);
  }
  Val v = NULL;
  switch (p) {
  case PR_CONST:
    v = constant(g, st);
    break;
  case PR_LOAD:
    v = load(s, st->ref, st->rd == STMT_RAW, s->raw ? &s->raw[i] : NULL);
    break;
  case PR_ACC:
    v = s->acc;
    break;
  case PR_INDEX:
    v = index_value(s, st->ref);
    break;
  case PR_PARAM:
    v = ll_arg_int(g, gen_param_slot(s->group, st->ref));
    break;
  case PR_EQ:
    v = is_lane(s, st, a[1]);
    v = v ? v : compare(g, p, a[0], a[1]);
    break;
  case PR_LT:
  case PR_LE:
  case PR_NE:
    v = compare(g, p, a[0], a[1]);
    break;
  case PR_AND:
    v = ll_and(g, a[0], a[1]);
    break;
  case PR_OR:
    v = ll_or(g, a[0], a[1]);
    break;
  case PR_NOT:
    v = ll_xor(g, a[0], ll_i(LLVMTypeOf(a[0]), 1));
    break;
  case PR_SELECT:
    v = select_lane(s, st, a[1], a[2]);
    v = v ? v : ll_sel(g, a[0], a[1], a[2]);
    break;
  case PR_EXP:
    v = is_below_0(s, st->arg[0]) ? ll_exp_to_1(g, a[0]) : ll_exp(g, a[0]);
    break;
  case PR_ISFINITE:
    v = is_finite(g, a[0]);
    break;
  case PR_ROUND:
    v = ll_round(g, (DType)st->rd, a[0]);
    break;
  case PR_CVT:
    v = convert(g, (DType)st->dt, a[0]);
    break;
  case PR_RAND:
    v = ll_rand(g, a[0], a[1], a[2], a[3]);
    break;
  case PR_STORE:
    stmt_store(s, st->ref, a[0]);
    return !g->error[0];
  case PR_ARG:
  case PR_RSUM:
  case PR_RMAX:
  case PR_RMIN:
  case PR_CSUM:
  case PR_ASUM:
  case PR_AMAX:
  case PR_AMIN:
  case PR_COUNT:
    return gen_fail(g, "statement %d: '%s' cannot stand here", i, prim_name(p));
  default:
    v = arithmetic(g, p, a[0], a[1]);
  }
  if (!v)
    return gen_fail(g, "statement %d: '%s' has no value here", i, prim_name(p));
  s->val[i] = v;
  return !g->error[0];
}

bool stmt_emit_range(Lanes *s, int from, int to) {
  for (int i = from; i < to; i++)
    if (!stmt_emit(s, i))
      return false;
  return true;
}
