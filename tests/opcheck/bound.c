/* Interval arithmetic over elementwise bodies: where the value of each statement may lie when every
 * primitive is computed in registers of `reg` with its stated error. Bounds are computed in double
 * and widened outward, so for f32 registers they are rigorous, for f64 to the last few bits that
 * the factor below allows for. Errors of the elementary functions: the bounds tests/unit/cpu_math.c
 * measures, 3 units in the last place in f32 and 8 in f64. */
#include <math.h>
#include <string.h>

#include "mpcc/num.h"
#include "tests/opcheck/opcheck.h"

typedef enum { NEVER, ALWAYS, EITHER } Truth;

static const Range nowhere = {0, 0, true, false};

static Range hull(Range a, Range b) {
  Range r = {0, 0, a.nan || b.nan, a.number || b.number};
  if (a.number && b.number) {
    r.lo = fmin(a.lo, b.lo);
    r.hi = fmax(a.hi, b.hi);
  } else if (r.number) {
    r.lo = a.number ? a.lo : b.lo;
    r.hi = a.number ? a.hi : b.hi;
  }
  return r;
}

/* One rounding of `ulps` units: outward by that, overflow to infinity included. */
static double outward(double v, double ulps, int sign, DType reg) {
  const DTypeInfo *f = dtype_info(reg);
  if (!isfinite(v))
    return v;
  double step = fmax(fabs(v) * f->eps, f->min_normal * f->eps) * ulps;
  double w = v + sign * step;
  if (reg == MPCC_F32 && fabs(w) > f->max_finite && w * sign > 0)
    return sign * INFINITY;
  if (reg == MPCC_F32 &&
      fabs(w) > f->max_finite) /* the near side may still be the largest number */
    return w > 0 ? f->max_finite : -f->max_finite;
  return w;
}

static Range rounded(Range r, double ulps, DType reg) {
  if (r.number) {
    r.lo = outward(r.lo, ulps, -1, reg);
    r.hi = outward(r.hi, ulps, 1, reg);
  }
  return r;
}

/* A correctly rounded operation: of one number exactly one result. Double holds what f32 operations
 * give before rounding, or enough of it that rounding twice is the same (Figueroa 1995). */
static Range nearest(Range r, DType reg) {
  if (!r.number || r.lo != r.hi)
    return rounded(r, 0.5, reg);
  r.lo = r.hi = num_round(r.lo, reg);
  return r;
}

/* The range of values at the four corners; corners that are NaN make NaN possible. */
static Range corners(double a, double b, double c, double d) {
  const double v[4] = {a, b, c, d};
  Range r = {INFINITY, -INFINITY, false, false};
  for (int i = 0; i < 4; i++) {
    if (v[i] != v[i]) {
      r.nan = true;
      continue;
    }
    r.number = true;
    r.lo = fmin(r.lo, v[i]);
    r.hi = fmax(r.hi, v[i]);
  }
  return r;
}

static bool holds(Range a, double v) {
  return a.number && a.lo <= v && v <= a.hi;
}

static Range times(Range a, Range b) {
  Range r = corners(a.lo * b.lo, a.lo * b.hi, a.hi * b.lo, a.hi * b.hi);
  bool infinite = isinf(a.lo) || isinf(a.hi) || isinf(b.lo) || isinf(b.hi);
  if (infinite && (holds(a, 0) || holds(b, 0))) { /* 0 times something that may be infinite */
    r = hull(r, (Range){0, 0, false, true});
    r.nan |= (holds(a, 0) && (isinf(b.lo) || isinf(b.hi))) ||
             (holds(b, 0) && (isinf(a.lo) || isinf(a.hi)));
  }
  return r;
}

/* A product may be rounded or, when it is added to something in one step, not: that one is finite
 * where its own rounding would be infinite. f32 products are exact in double. */
static Range product(Range a, Range b, DType reg) {
  Range r = times(a, b);
  if (reg == MPCC_F32 && r.number && r.lo == r.hi)
    return hull(r, nearest(r, reg));
  r = rounded(r, 0.5, reg);
  bool finite = isfinite(a.lo) && isfinite(a.hi) && isfinite(b.lo) && isfinite(b.hi);
  if (reg == MPCC_F64 && finite && r.number) {
    r.lo = r.lo == INFINITY ? dtype_info(reg)->max_finite : r.lo;
    r.hi = r.hi == -INFINITY ? -dtype_info(reg)->max_finite : r.hi;
  }
  return r;
}

static Range quotient(Range a, Range b) {
  if (b.lo < 0 && b.hi > 0)
    return (Range){-INFINITY, INFINITY, holds(a, 0) || isinf(a.lo) || isinf(a.hi), true};
  return corners(a.lo / b.lo, a.lo / b.hi, a.hi / b.lo, a.hi / b.hi);
}

static Range monotone(double (*f)(double), Range a) {
  return (Range){f(a.lo), f(a.hi), false, true};
}

/* sin and cos change by no more than their argument does. Their error is absolute, and bounded for
 * arguments up to 1e4 only. */
static Range wave(double (*f)(double), Range a, DType reg) {
  if (a.lo == a.hi && isinf(a.lo))
    return nowhere;
  if (a.lo < -1e4 || a.hi > 1e4)
    return (Range){-1, 1, isinf(a.lo) || isinf(a.hi), true};
  double half = (a.hi - a.lo) / 2 + 4 * dtype_info(reg)->eps, middle = f(a.lo / 2 + a.hi / 2);
  return (Range){middle - half, middle + half, false, true};
}

static Range defined_from(double (*f)(double), Range a, double least) {
  if (a.hi < least)
    return nowhere;
  Range r = monotone(f, (Range){fmax(a.lo, least), a.hi, false, true});
  r.nan = a.lo < least;
  return r;
}

static Range truth(Truth t) {
  return (Range){t == ALWAYS, t != NEVER, false, true};
}

static Truth truth_of(Range a) {
  return a.lo != a.hi ? EITHER : a.lo != 0 ? ALWAYS : NEVER;
}

static Range compared(Prim p, Range a, Range b) {
  bool differ = p == PR_NE;
  if (!a.number || !b.number)
    return truth(differ ? ALWAYS : NEVER);
  Truth t;
  if (p == PR_LT)
    t = a.hi < b.lo ? ALWAYS : a.lo >= b.hi ? NEVER : EITHER;
  else if (p == PR_LE)
    t = a.hi <= b.lo ? ALWAYS : a.lo > b.hi ? NEVER : EITHER;
  else {
    bool same = a.lo == a.hi && b.lo == b.hi && a.lo == b.lo, apart = a.hi < b.lo || b.hi < a.lo;
    t = same ? ALWAYS : apart ? NEVER : EITHER;
    if (differ)
      t = t == ALWAYS ? NEVER : t == NEVER ? ALWAYS : EITHER;
  }
  if ((a.nan || b.nan) && t != (differ ? ALWAYS : NEVER))
    t = EITHER;
  return truth(t);
}

static Range logic(Prim p, Range a, Range b) {
  Truth x = truth_of(a), y = truth_of(b);
  if (p == PR_AND)
    return truth(x == NEVER || y == NEVER ? NEVER : x == ALWAYS && y == ALWAYS ? ALWAYS : EITHER);
  return truth(x == ALWAYS || y == ALWAYS ? ALWAYS : x == NEVER && y == NEVER ? NEVER : EITHER);
}

static Range absolute(Range a) {
  if (a.lo >= 0)
    return a;
  if (a.hi <= 0)
    return (Range){-a.hi, -a.lo, a.nan, true};
  return (Range){0, fmax(-a.lo, a.hi), a.nan, true};
}

static Range function(const Stmt *s, Range a, double ulps, DType reg) {
  switch ((Prim)s->prim) {
  case PR_SQRT:
    return nearest(defined_from(sqrt, a, 0), reg);
  case PR_EXP:
    return rounded(monotone(exp, a), ulps, reg);
  case PR_LOG:
    return rounded(defined_from(log, a, 0), ulps, reg);
  case PR_TANH:
    return rounded(monotone(tanh, a), ulps, reg);
  case PR_ERF:
    return rounded(monotone(erf, a), ulps, reg);
  case PR_SIN:
    return wave(sin, a, reg);
  case PR_COS:
    return wave(cos, a, reg);
  default:
    return monotone(floor, a);
  }
}

static Range arithmetic(const Stmt *s, Range a, Range b, double ulps, DType reg) {
  Range r;
  switch ((Prim)s->prim) {
  case PR_ADD:
    r = corners(a.lo + b.lo, a.hi + b.hi, a.lo + b.hi, a.hi + b.lo);
    return nearest(r, reg);
  case PR_SUB:
    r = corners(a.lo - b.hi, a.hi - b.lo, a.lo - b.lo, a.hi - b.hi);
    return nearest(r, reg);
  case PR_MUL:
    return product(a, b, reg);
  case PR_DIV:
    return nearest(quotient(a, b), reg);
  case PR_MIN:
    return (Range){fmin(a.lo, b.lo), fmin(a.hi, b.hi), false, true};
  case PR_MAX:
    return (Range){fmax(a.lo, b.lo), fmax(a.hi, b.hi), false, true};
  case PR_NEG:
    return (Range){-a.hi, -a.lo, false, true};
  case PR_ABS:
    return absolute(a);
  default:
    return function(s, a, ulps, reg);
  }
}

static Range step(const Stmt *s, const Range *v, DType reg) {
  double ulps = reg == MPCC_F64 ? 8 : 3;
  Range a = s->arg[0] >= 0 ? v[s->arg[0]] : (Range){0, 0, false, true};
  Range b = s->arg[1] >= 0 ? v[s->arg[1]] : (Range){0, 0, false, true};
  switch ((Prim)s->prim) {
  case PR_CONST:
    return (Range){num_round(s->imm, reg), num_round(s->imm, reg), s->imm != s->imm,
                   s->imm == s->imm};
  case PR_LT:
  case PR_LE:
  case PR_EQ:
  case PR_NE:
    return compared((Prim)s->prim, a, b);
  case PR_AND:
  case PR_OR:
    return logic((Prim)s->prim, a, b);
  case PR_NOT:
    return truth(truth_of(a) == ALWAYS ? NEVER : truth_of(a) == NEVER ? ALWAYS : EITHER);
  case PR_ISFINITE:
    if (!a.number || (a.lo == a.hi && isinf(a.lo)))
      return truth(NEVER);
    return truth(a.nan || isinf(a.lo) || isinf(a.hi) ? EITHER : ALWAYS);
  case PR_SELECT: {
    Truth t = truth_of(a);
    Range c = v[s->arg[2]];
    return t == ALWAYS ? b : t == NEVER ? c : hull(b, c);
  }
  case PR_CVT:
    return a;
  case PR_ROUND:
    if (a.number) {
      a.lo = num_round(a.lo, (DType)s->rd);
      a.hi = num_round(a.hi, (DType)s->rd);
    }
    return a;
  case PR_TF32:
    if (a.number) {
      a.lo = num_tf32(a.lo);
      a.hi = num_tf32(a.hi);
    }
    return a;
  case PR_SR_BF16:
  case PR_SR_F16: /* either neighbour of each end */
    if (a.number) {
      double end[2] = {a.lo, a.hi}, both[2][2];
      for (int i = 0; i < 2; i++)
        for (int away = 0; away < 2; away++) {
          double arg[STMT_ARGS] = {end[i], away ? 1 - 0x1p-24 : 0};
          both[i][away] = prim_eval(s, arg);
        }
      a.lo = fmin(both[0][0], both[0][1]);
      a.hi = fmax(both[1][0], both[1][1]);
    }
    return a;
  default:
    break;
  }
  bool two = prim_args((Prim)s->prim) > 1;
  if (!a.number || (two && !b.number))
    return nowhere;
  Range r = arithmetic(s, a, b, ulps, reg);
  r.nan |= a.nan || (two && b.nan);
  return r;
}

enum { MOST = 512 };

Range bound_scalar(const Scalar *s, const double *args, DType reg, DType to) {
  Range v[MOST];
  if (s->nstmt > MOST)
    return (Range){-INFINITY, INFINITY, true, true};
  for (int i = 0; i < s->nstmt; i++) {
    const Stmt *t = &s->stmt[i];
    double x = t->prim == PR_ARG ? args[t->ref] : 0;
    v[i] = t->prim == PR_ARG ? (Range){x, x, x != x, x == x} : step(t, v, reg);
  }
  Range r = v[s->result];
  if (r.number) {
    r.lo = num_round(r.lo, to);
    r.hi = num_round(r.hi, to);
  }
  return r;
}
