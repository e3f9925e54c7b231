/* Derivatives of scalar programs, by carrying a tangent along the statements (forward mode).
 *
 * The derivative takes over the statements of the body, so what both need is computed once.
 * Conventions where the derivative does not exist are PyTorch's: |x| has 0 at 0; of two equal
 * operands of min or max each gets half; rounding passes the gradient through. */
#include "ir/ir.h"
#include "ir/scalar.h"

#include <math.h>
#include <string.h>

/* A zero tangent has no statement. */
enum { ZERO = -1 };

static bool is_const(const Maker *m, int i, double *v) {
  if (m->failed || m->stmt[i].prim != PR_CONST)
    return false;
  *v = m->stmt[i].imm;
  return true;
}

static bool is_value(const Maker *m, int i, double v) {
  double c;
  return is_const(m, i, &c) && c == v;
}

static int negate(Maker *m, int x) {
  double c;
  if (is_const(m, x, &c))
    return maker_const(m, -c);
  if (!m->failed && m->stmt[x].prim == PR_NEG)
    return m->stmt[x].arg[0];
  return maker_op(m, PR_NEG, x, -1, -1);
}

static int multiply(Maker *m, int x, int y) {
  double a, b;
  const bool ca = is_const(m, x, &a), cb = is_const(m, y, &b);
  if (ca && cb)
    return maker_const(m, a * b);
  if ((ca && a == 1) || (cb && b == 0))
    return y;
  if ((cb && b == 1) || (ca && a == 0))
    return x;
  if (ca && a == -1)
    return negate(m, y);
  if (cb && b == -1)
    return negate(m, x);
  return maker_op(m, PR_MUL, x, y, -1);
}

static int divide(Maker *m, int x, int y) {
  double a, b;
  const bool ca = is_const(m, x, &a), cb = is_const(m, y, &b);
  if ((ca && a == 0) || (cb && b == 1))
    return x;
  if (ca && cb && b != 0)
    return maker_const(m, a / b);
  return maker_op(m, PR_DIV, x, y, -1);
}

static int add(Maker *m, int x, int y) {
  double a, b;
  const bool ca = is_const(m, x, &a), cb = is_const(m, y, &b);
  if (ca && cb)
    return maker_const(m, a + b);
  if (ca && a == 0)
    return y;
  if (cb && b == 0)
    return x;
  return maker_op(m, PR_ADD, x, y, -1);
}

static int subtract(Maker *m, int x, int y) {
  double a, b;
  const bool ca = is_const(m, x, &a), cb = is_const(m, y, &b);
  if (ca && cb)
    return maker_const(m, a - b);
  if (cb && b == 0)
    return x;
  if (ca && a == 0)
    return negate(m, y);
  return maker_op(m, PR_SUB, x, y, -1);
}

static int choose(Maker *m, int cond, int x, int y) {
  return x == y ? x : maker_op(m, PR_SELECT, cond, x, y);
}

static int or_zero(Maker *m, int d) {
  return d == ZERO ? maker_const(m, 0) : d;
}

/* Tangent of a statement at index `y` of m with one operand x, whose tangent is dx. */
static int diff_unary(Maker *m, Prim prim, int y, int x, int dx) {
  switch (prim) {
  case PR_NEG:
    return negate(m, dx);
  case PR_ABS: {
    const int zero = maker_const(m, 0);
    return choose(m, maker_op(m, PR_EQ, x, zero, -1), zero,
                  choose(m, maker_op(m, PR_LT, x, zero, -1), negate(m, dx), dx));
  }
  case PR_SQRT:
    return multiply(m, dx, divide(m, maker_const(m, 0.5), y));
  case PR_EXP:
    return multiply(m, dx, y);
  case PR_LOG:
    return divide(m, dx, x);
  case PR_TANH:
    return multiply(m, dx, subtract(m, maker_const(m, 1), multiply(m, y, y)));
  case PR_ERF: /* 2 / sqrt(pi) exp(-x^2) */
    return multiply(m, dx,
                    multiply(m, maker_const(m, 1.1283791670955126),
                             maker_op(m, PR_EXP, negate(m, multiply(m, x, x)), -1, -1)));
  case PR_COS:
    return multiply(m, dx, negate(m, maker_op(m, PR_SIN, x, -1, -1)));
  case PR_SIN:
    return multiply(m, dx, maker_op(m, PR_COS, x, -1, -1));
  case PR_ROUND: /* rounding passes gradients */
  case PR_TF32:
    return dx;
  default: /* floor, comparisons, conversions of truth values: flat */
    return ZERO;
  }
}

static int diff_binary(Maker *m, Prim prim, int y, int a, int b, int da, int db) {
  switch (prim) {
  case PR_ADD:
    return da == ZERO ? db : db == ZERO ? da : add(m, da, db);
  case PR_SUB:
    return db == ZERO ? da : da == ZERO ? negate(m, db) : subtract(m, da, db);
  case PR_MUL: {
    if (da == ZERO || db == ZERO)
      return da == ZERO ? multiply(m, a, db) : multiply(m, da, b);
    return add(m, multiply(m, da, b), multiply(m, a, db));
  }
  case PR_DIV: { /* (da - (a / b) db) / b */
    if (db == ZERO)
      return divide(m, da, b);
    const int part = multiply(m, y, db);
    return divide(m, da == ZERO ? negate(m, part) : subtract(m, da, part), b);
  }
  case PR_MIN:
  case PR_MAX: {
    da = or_zero(m, da);
    db = or_zero(m, db);
    const int half = multiply(m, maker_const(m, 0.5), add(m, da, db));
    const int less = maker_op(m, PR_LT, prim == PR_MAX ? a : b, prim == PR_MAX ? b : a, -1);
    return choose(m, maker_op(m, PR_EQ, a, b, -1), half, choose(m, less, db, da));
  }
  default:
    return ZERO;
  }
}

Scalar *scalar_diff(Arena *a, const Scalar *s, int wrt) {
  Maker m;
  maker_init(&m, a, s->nargs);
  int *at = ARENA_ARRAY(a, int, s->nstmt);  /* statement of m that equals statement i of s */
  int *tan = ARENA_ARRAY(a, int, s->nstmt); /* its tangent, or ZERO */
  if (arena_failed(a))
    return NULL;
  for (int i = 0; i < s->nstmt && !m.failed; i++) {
    Stmt t = s->stmt[i];
    const int *arg = s->stmt[i].arg, nargs = prim_args((Prim)t.prim);
    int x[3] = {0}, d[3] = {ZERO, ZERO, ZERO};
    for (int k = 0; k < nargs && k < 3; k++) {
      x[k] = t.arg[k] = at[arg[k]];
      d[k] = tan[arg[k]];
    }
    at[i] = maker_stmt(&m, t);
    tan[i] = ZERO;
    if (t.prim == PR_ARG && t.ref == wrt)
      tan[i] = maker_const(&m, 1);
    else if (t.prim == PR_SELECT && (d[1] != ZERO || d[2] != ZERO))
      tan[i] = choose(&m, x[0], or_zero(&m, d[1]), or_zero(&m, d[2]));
    else if (nargs == 1 && d[0] != ZERO)
      tan[i] = diff_unary(&m, (Prim)t.prim, at[i], x[0], d[0]);
    else if (nargs == 2 && (d[0] != ZERO || d[1] != ZERO))
      tan[i] = diff_binary(&m, (Prim)t.prim, at[i], x[0], x[1], d[0], d[1]);
    if (tan[i] != ZERO && is_value(&m, tan[i], 0))
      tan[i] = ZERO;
  }
  return m.failed ? NULL : maker_finish(&m, or_zero(&m, tan[s->result]));
}
