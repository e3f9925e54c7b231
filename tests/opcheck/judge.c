/* Compares what a program computed with what the interpreter computed. Every tolerance is one unit
 * in the last place of the result's dtype, plus what the registers may have rounded (opcheck.h). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mpcc/num.h"
#include "opcheck.h"

/* The interpreter's views of one instance on one set of data. */
typedef struct {
  Eval *rounded, *exact, *magnitude; /* results rounded; in f64; of the operands' magnitudes */
} Views;

typedef struct {
  const Inst *i;
  const Unit *u;
  const Options *o;
  const char *numerics;
  DataKind data;
  Views v;
  double registers; /* s u, and cut_sums */
  double cut_sums;  /* what a tensor core leaves out of sums, by the magnitude of what is summed */
  int compared;
  bool failed;
} Check;

typedef struct {
  int64_t at;
  double got, want, allowed, excess;
} Worst;

void print_rerun(const Inst *i, const Options *o, const char *numerics, int data) {
  char name[NAME_MAX_BYTES];
  inst_name(i, name);
  printf("  opcheck %s %s %s %s level=%s seed=%llu", name, dtype_text(i->dt), i->shape, numerics,
         o->level, (unsigned long long)o->seed);
  if (data >= 0)
    printf(" data=%s", data_names[data]);
  printf("\n");
}

static void report(Check *c, const Tensor *t, const Worst *w) {
  char name[NAME_MAX_BYTES];
  inst_name(c->i, name);
  printf("FAIL %s %s %s, %s, %s: %s[%lld] is %.9g, want %.9g, allowed %.3g\n", name,
         dtype_text(c->i->dt), c->i->shape, c->numerics, data_names[c->data], t->name,
         (long long)w->at, w->got, w->want, w->allowed);
  print_rerun(c->i, c->o, c->numerics, (int)c->data);
  c->failed = true;
}

/* Keeps the element that is furthest beyond what is allowed. */
static void consider(Worst *w, int64_t at, double got, double want, double allowed) {
  bool same = got == want || (got != got && want != want);
  double excess = same ? 0 : fabs(got - want) / allowed;
  if (excess != excess || (got != got) != (want != want))
    excess = INFINITY;
  if (excess > w->excess)
    *w = (Worst){at, got, want, allowed, excess};
}

static double ulp(double v, DType dt) {
  const DTypeInfo *f = dtype_info(dt);
  return dtype_is_float(dt) ? fmax(fabs(v), f->min_normal) * f->eps : 0;
}

static double largest(const double *x, int64_t n) {
  double most = 0;
  for (int64_t i = 0; i < n; i++)
    if (isfinite(x[i]))
      most = fmax(most, fabs(x[i]));
  return most;
}

/* Largest value that any op of the function makes. */
static double largest_value(const Check *c) {
  double most = 1;
  for (int i = 0; i < c->u->func->nop; i++)
    for (int k = 0; k < c->u->func->op[i]->nout; k++) {
      const Value *v = c->u->func->op[i]->out[k];
      if (dtype_is_float(v->type->dt))
        most = fmax(most, largest(eval_value(c->v.exact, v), type_elems(v->type)));
    }
  return most;
}

/* What the registers may have changed in t at the end of a chain of ops: the largest value within
 * was rounded. The loss takes that as it is; other results end in exponentials and products, which
 * make it a relative error. */
static double chain_registers(const Check *c, const Tensor *t, double top) {
  return c->registers * largest_value(c) * (t->role == ROLE_METRIC ? 1 : top);
}

static double distance(const double *a, const double *b, int64_t n) {
  double most = 0;
  for (int64_t i = 0; i < n; i++)
    if (isfinite(a[i]) && isfinite(b[i]))
      most = fmax(most, fabs(a[i] - b[i]));
  return most;
}

/* ---- elementwise bodies ---------------------------------------------------------------------- */

static const Op *scalar_op(const Func *f) {
  for (int i = f->nop; i-- > 0;)
    if (f->op[i]->scalar)
      return f->op[i];
  return NULL;
}

/* Element of operand x that meets element e of a result of type r. */
static int64_t broadcast_at(const Type *x, const Type *r, int64_t e) {
  int64_t at = 0, stride = 1;
  for (int d = r->rank, k = x->rank; k > 0;) {
    int64_t i = e % r->dim[--d];
    e /= r->dim[d];
    --k;
    at += x->dim[k] == 1 ? 0 : i * stride;
    stride *= x->dim[k];
  }
  return at;
}

static bool wide_registers(const Op *op) {
  bool wide = op->out[0]->type->dt == MPCC_F64;
  for (int k = 0; k < op->nin; k++)
    wide |= op->in[k]->type->dt == MPCC_F64 || !dtype_is_float(op->in[k]->type->dt);
  return wide;
}

static void judge_body(Check *c, const Tensor *t, const double *got) {
  const Op *op = scalar_op(c->u->func);
  const double *want = eval_tensor(c->v.rounded, t);
  enum { MOST = 8 };
  double args[MOST];
  Worst w = {.excess = 0};
  for (int64_t e = 0; e < type_elems(t->type); e++) {
    for (int k = 0; k < op->nin && k < MOST; k++)
      args[k] = eval_value(c->v.rounded, op->in[k])[broadcast_at(op->in[k]->type, t->type, e)];
    Range r = bound_scalar(op->scalar, args, wide_registers(op) ? MPCC_F64 : MPCC_F32, t->type->dt);
    bool fits = got[e] != got[e] ? r.nan : r.number && got[e] >= r.lo && got[e] <= r.hi;
    if (!fits && w.excess == 0)
      w = (Worst){e, got[e], want[e], r.number ? r.hi - r.lo : 0, INFINITY};
  }
  if (w.excess > 0)
    report(c, t, &w);
}

/* ---- sums ------------------------------------------------------------------------------------ */

static void judge_strict(Check *c, const Tensor *t, const double *got) {
  Judge judge = c->i->grad ? CHAIN : c->i->c->judge;
  if (judge == BODY) {
    judge_body(c, t, got);
    return;
  }
  const double *want = eval_tensor(c->v.rounded, t), *exact = eval_tensor(c->v.exact, t);
  const double *magnitude = eval_tensor(c->v.magnitude, t);
  int64_t n = type_elems(t->type);
  DType dt = t->type->dt;
  double top = largest(want, n), drift = judge == CHAIN ? distance(want, exact, n) : 0;
  double chained = judge == CHAIN || judge == NORM ? chain_registers(c, t, top) : 0;
  Worst w = {.excess = 1};
  for (int64_t e = 0; e < n; e++) {
    double allowed = 0;
    if (judge == LINEAR)
      allowed = ulp(want[e], dt) + c->registers * magnitude[e];
    else if (judge == NORM)
      allowed = ulp(want[e], dt) + chained;
    else if (judge == CHAIN)
      allowed = ulp(top, dt) + chained + 2 * drift;
    consider(&w, e, got[e], want[e], allowed);
  }
  if (w.excess > 1)
    report(c, t, &w);
}

/* What rounding at each op costs in t: the larger of what it cost the interpreter and the strict
 * kernels. Few numbers may be right by luck: theirs is at least half a unit per op. */
static double rounding_cost(const Check *c, const Tensor *t, const double *strict) {
  const double *exact = eval_tensor(c->v.exact, t), *want = eval_tensor(c->v.rounded, t);
  int64_t n = type_elems(t->type);
  double cost = fmax(distance(strict, exact, n), distance(want, exact, n));
  if (n >= 32)
    return cost;
  double size = t->role == ROLE_METRIC ? largest_value(c) : largest(exact, n);
  return fmax(cost, size * dtype_info(c->i->dt)->eps / 2 * c->u->func->nop);
}

/* Fused kernels skip roundings: they may not be further from the exact result than 1.5 times what
 * rounding at each op is, by the largest element. */
static void judge_fused(Check *c, const Tensor *t, const double *got, const double *strict) {
  const double *exact = eval_tensor(c->v.exact, t);
  int64_t n = type_elems(t->type);
  double top = largest(exact, n), drift = rounding_cost(c, t, strict);
  double allowed = 1.5 * drift + ulp(top, t->type->dt) + chain_registers(c, t, top);
  Worst w = {.excess = 1};
  for (int64_t e = 0; e < n; e++)
    consider(&w, e, got[e], exact[e], allowed);
  if (w.excess > 1)
    report(c, t, &w);
}

/* ---- running --------------------------------------------------------------------------------- */

static bool find(mprt_program *p, int k, const char *name, mprt_tensor *out) {
  char full[NAME_MAX_BYTES];
  snprintf(full, sizeof full, "f%d.%s", k, name);
  return mprt_find(p, full, out);
}

static double *fetch(mprt_program *p, int k, const Tensor *t) {
  int64_t n = type_elems(t->type);
  mprt_tensor m;
  double *x = calloc((size_t)n, sizeof *x);
  if (!x || !find(p, k, t->name, &m)) {
    free(x);
    return NULL;
  }
  for (int64_t e = 0; e < n; e++)
    x[e] = num_load((char *)m.data + (size_t)e * dtype_bytes(m.dtype), m.dtype);
  return x;
}

static void bind(mprt_program *p, int k, const Tensor *t, const double *x) {
  mprt_tensor m;
  if (!find(p, k, t->name, &m))
    return;
  for (int64_t e = 0; e < type_elems(t->type); e++)
    num_store((char *)m.data + (size_t)e * dtype_bytes(m.dtype), m.dtype, x[e]);
}

/* The operands' data into the interpreter and both programs. */
static bool fill_all(const Inst *i, const Unit *u, DataKind data, uint64_t seed, const Views *v) {
  for (int k = 0; k < u->whole->ntensor; k++) {
    const Tensor *t = u->whole->tensor[k];
    if (is_result(t))
      continue;
    double *x = eval_tensor(v->rounded, t), *y = eval_tensor(v->exact, t);
    double *z = eval_tensor(v->magnitude, t);
    data_fill(i, t, data, seed, x);
    for (int64_t e = 0; e < type_elems(t->type); e++) {
      y[e] = x[e];
      z[e] = fabs(x[e]);
    }
  }
  return eval_run(v->rounded, u->func) == MPCC_OK && eval_run(v->exact, u->func) == MPCC_OK &&
         (i->c->judge != LINEAR || i->grad || eval_run(v->magnitude, u->func) == MPCC_OK);
}

static bool run_program(const Unit *u, int k, const Batch *b, const Views *v) {
  char name[16];
  for (int i = 0; i < u->whole->ntensor; i++)
    if (!is_result(u->whole->tensor[i]))
      bind(b->program, k, u->whole->tensor[i], eval_tensor(v->rounded, u->whole->tensor[i]));
  snprintf(name, sizeof name, "f%d", k);
  return mprt_run(b->program, name) == MPCC_OK;
}

/* A GPU's results beside those of the CPU target, on the same numbers. */
static void compare_beside(Check *c, const Together *t, int k, const Tensor *x, const double *got) {
  double *other = fetch(t->beside.program, k, x);
  char name[NAME_MAX_BYTES];
  inst_name(c->i, name);
  if (other)
    tally_add(t->tally, x->type->dt, got, other, type_elems(x->type), name);
  if (other)
    tally_truth(t->tally, x->type->dt, got, other, eval_tensor(c->v.rounded, x),
                type_elems(x->type));
  c->failed |= !other;
  free(other);
}

static void compare(Check *c, const Together *t, int k) {
  const int fused_k = t->fused_at[k];
  const bool random = c->data == DATA_RANDOM, cut = c->cut_sums > 0; /* unlike the CPU's */
  const Batch *strict = &t->strict, *fused = random && fused_k >= 0 ? &t->fused : NULL;
  const Batch *beside = random && !cut && t->beside.program ? &t->beside : NULL;
  if (!fill_all(c->i, c->u, c->data, c->o->seed, &c->v) || !run_program(c->u, k, strict, &c->v) ||
      (beside && !run_program(c->u, k, beside, &c->v)) ||
      (fused && !run_program(c->u, fused_k, fused, &c->v))) {
    printf("FAIL %s: did not run\n", c->i->c->op);
    print_rerun(c->i, c->o, c->numerics, (int)c->data);
    c->failed = true;
    return;
  }
  for (int i = 0; i < c->u->whole->ntensor; i++) {
    const Tensor *x = c->u->whole->tensor[i];
    if (!is_result(x))
      continue;
    double *got = fetch(strict->program, k, x);
    double *other = fused ? fetch(fused->program, fused_k, x) : NULL;
    c->numerics = "strict";
    if (got && c->o->strict) {
      judge_strict(c, x, got);
      c->compared++;
    }
    if (got && beside)
      compare_beside(c, t, k, x, got);
    if (got && random && c->o->saved)
      saved_result(c->o->saved, c->i, "strict", x, got);
    c->numerics = "fused";
    if (got && other) {
      judge_fused(c, x, other, got);
      c->compared++;
    }
    if (other && c->o->saved)
      saved_result(c->o->saved, c->i, "fused", x, other);
    c->failed |= !got || (fused && !other);
    free(got);
    free(other);
  }
}

/* Whether a tensor core multiplies codes: of other sizes, or with block scales, it sees what they
 * decode to. */
static bool multiplies_codes(const Op *op) {
  if ((op->code != OP_qlinear && op->code != OP_qmatmul) || op_attr(op, "block"))
    return false;
  const int64_t *dim = op->in[1]->type->dim;
  return dim[0] % 16 == 0 && dim[1] % 16 == 0;
}

/* What short sums may be off, by the magnitude of the products: a tensor core adds 32 of them at a
 * time and keeps 13 bits behind the leading one of the largest (DeepSeek-V3 technical report,
 * section 3.3.2). */
static double cut_of_sums(const Func *f) {
  for (int i = 0; i < f->nop; i++)
    if (multiplies_codes(f->op[i]))
      return 32 * 0x1p-13;
  return 0;
}

int judge_unit(const Inst *i, const Together *t, int k, const Options *o) {
  const Unit *u = &t->unit[k];
  double u0 = dtype_info(i->dt == MPCC_F64 ? MPCC_F64 : MPCC_F32)->eps / 2;
  Check c = {.i = i, .u = u, .o = o, .numerics = "strict"};
  c.registers = (4 * sqrt((double)inst_terms(i)) + 8) * u0;
  if (o->short_sums)
    c.registers += c.cut_sums = cut_of_sums(u->func);
  Status s = eval_create(u->whole, false, &c.v.rounded);
  if (s == MPCC_OK)
    s = eval_create(u->whole, true, &c.v.exact);
  if (s == MPCC_OK)
    s = eval_create(u->whole, true, &c.v.magnitude);
  for (int d = 0; d < DATA_COUNT && s == MPCC_OK; d++) {
    c.data = (DataKind)d;
    if (data_fits(i, c.data) && (o->data < 0 || o->data == d))
      compare(&c, t, k);
  }
  eval_destroy(c.v.rounded);
  eval_destroy(c.v.exact);
  eval_destroy(c.v.magnitude);
  return c.failed || s != MPCC_OK ? -1 : c.compared;
}
