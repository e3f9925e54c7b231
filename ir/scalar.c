/* Scalar programs: the primitives, making bodies, evaluating them. Text is in scalar_text.c,
 * derivatives are in scalar_diff.c. */
#include "ir/ir.h"
#include "ir/scalar.h"
#include "mpcc/philox.h"
#include "mpcc/num.h"

#include <assert.h>
#include <math.h>
#include <string.h>

static const struct {
  const char *name;
  int nargs;
} prims[] = {
    [PR_CONST] = {"const", 0},
    [PR_ARG] = {"arg", 0},
    [PR_LOAD] = {"load", 0},
    [PR_ACC] = {"acc", 0},
    [PR_INDEX] = {"index", 0},
    [PR_PARAM] = {"param", 0},
    [PR_ADD] = {"add", 2},
    [PR_SUB] = {"sub", 2},
    [PR_MUL] = {"mul", 2},
    [PR_DIV] = {"div", 2},
    [PR_NEG] = {"neg", 1},
    [PR_ABS] = {"abs", 1},
    [PR_MIN] = {"min", 2},
    [PR_MAX] = {"max", 2},
    [PR_SQRT] = {"sqrt", 1},
    [PR_EXP] = {"exp", 1},
    [PR_LOG] = {"log", 1},
    [PR_TANH] = {"tanh", 1},
    [PR_ERF] = {"erf", 1},
    [PR_FLOOR] = {"floor", 1},
    [PR_COS] = {"cos", 1},
    [PR_SIN] = {"sin", 1},
    [PR_TF32] = {"tf32", 1},
    [PR_SR_BF16] = {"sr_bf16", 2},
    [PR_SR_F16] = {"sr_f16", 2},
    [PR_LT] = {"lt", 2},
    [PR_LE] = {"le", 2},
    [PR_EQ] = {"eq", 2},
    [PR_NE] = {"ne", 2},
    [PR_AND] = {"and", 2},
    [PR_OR] = {"or", 2},
    [PR_NOT] = {"not", 1},
    [PR_SELECT] = {"select", 3},
    [PR_ISFINITE] = {"isfinite", 1},
    [PR_ROUND] = {"round", 1},
    [PR_CVT] = {"cvt", 1},
    [PR_RAND] = {"rand", 4},
    [PR_RSUM] = {"rsum", 1},
    [PR_RMAX] = {"rmax", 1},
    [PR_RMIN] = {"rmin", 1},
    [PR_CSUM] = {"csum", 1},
    [PR_ASUM] = {"asum", 1},
    [PR_AMAX] = {"amax", 1},
    [PR_AMIN] = {"amin", 1},
    [PR_STORE] = {"store", 1},
};
_Static_assert(sizeof prims / sizeof prims[0] == PR_COUNT, "one row per primitive");

const char *prim_name(Prim p) {
  return prims[p].name;
}

Prim prim_from_name(const char *name) {
  for (int i = 0; i < PR_COUNT; i++)
    if (!strcmp(name, prims[i].name))
      return (Prim)i;
  return PR_COUNT;
}

int prim_args(Prim p) {
  return prims[p].nargs;
}

/* ---- making a body --------------------------------------------------------------------------- */

void maker_init(Maker *m, Arena *a, int nargs) {
  *m = (Maker){.arena = a, .nargs = nargs};
}

/* Index of a statement equal to s, or -1. Bodies are short: a linear search is fine. */
static int find(const Maker *m, const Stmt *s) {
  for (int i = 0; i < m->n; i++) {
    const Stmt *t = &m->stmt[i];
    if (t->prim == s->prim && t->dt == s->dt && t->rd == s->rd && t->ref == s->ref &&
        !memcmp(t->arg, s->arg, sizeof t->arg) && !memcmp(&t->imm, &s->imm, sizeof t->imm))
      return i;
  }
  return -1;
}

int maker_stmt(Maker *m, Stmt s) {
  for (int i = prim_args((Prim)s.prim); i < STMT_ARGS; i++)
    s.arg[i] = -1;
  s.level = LV_ELEM;
  int same = find(m, &s);
  if (same >= 0)
    return same;
  if (m->n == m->cap) {
    int cap = m->cap ? m->cap * 2 : 16;
    Stmt *stmt = ARENA_ARRAY(m->arena, Stmt, cap);
    if (m->n)
      memcpy(stmt, m->stmt, (size_t)m->n * sizeof *stmt);
    m->stmt = stmt;
    m->cap = cap;
  }
  if (m->n >= SCALAR_MAX || arena_failed(m->arena)) {
    m->failed = true;
    return 0;
  }
  m->stmt[m->n] = s;
  return m->n++;
}

int maker_const(Maker *m, double v) {
  return maker_stmt(m, (Stmt){.prim = PR_CONST, .dt = MPCC_F32, .imm = v});
}

int maker_arg(Maker *m, int ref) {
  return maker_stmt(m, (Stmt){.prim = PR_ARG, .dt = MPCC_F32, .ref = ref});
}

static bool gives_bool(Prim p) {
  return (p >= PR_LT && p <= PR_NOT) || p == PR_ISFINITE;
}

int maker_op(Maker *m, Prim p, int x, int y, int z) {
  return maker_stmt(m, (Stmt){.prim = (uint8_t)p,
                              .dt = (uint8_t)(gives_bool(p) ? MPCC_B1 : MPCC_F32),
                              .arg = {x, y, z}});
}

Scalar *maker_finish(Maker *m, int result) {
  Scalar *s = ARENA_NEW(m->arena, Scalar);
  int *where = ARENA_ARRAY(m->arena, int, m->n + 1); /* new index + 1 of each statement */
  int *stack = ARENA_ARRAY(m->arena, int, m->n *(STMT_ARGS + 1) + 1);
  s->stmt = ARENA_ARRAY(m->arena, Stmt, m->n);
  s->nargs = m->nargs;
  if (m->failed || arena_failed(m->arena))
    return NULL;
  /* Depth first, arguments from left to right, each statement behind its arguments: the order
   * depends on the expression alone, and dead statements drop out. */
  int depth = 0;
  stack[depth++] = result;
  while (depth) {
    int i = stack[depth - 1], next = -1;
    for (int k = STMT_ARGS - 1; k >= 0; k--)
      if (m->stmt[i].arg[k] >= 0 && !where[m->stmt[i].arg[k]])
        next = m->stmt[i].arg[k];
    if (next >= 0) {
      stack[depth++] = next;
      continue;
    }
    depth--;
    if (where[i])
      continue;
    Stmt t = m->stmt[i];
    for (int k = 0; k < STMT_ARGS; k++)
      if (t.arg[k] >= 0)
        t.arg[k] = where[t.arg[k]] - 1;
    s->stmt[s->nstmt] = t;
    where[i] = ++s->nstmt;
  }
  s->result = s->nstmt - 1;
  return s;
}

Scalar *scalar_typed(Arena *a, const Scalar *s, DType reg) {
  Scalar *t = ARENA_NEW(a, Scalar);
  Stmt *stmt = ARENA_ARRAY(a, Stmt, s->nstmt);
  if (arena_failed(a))
    return t; /* empty: the caller finds the arena failed */
  *t = *s;
  t->stmt = stmt;
  for (int i = 0; i < s->nstmt; i++) {
    stmt[i] = s->stmt[i];
    if (stmt[i].dt != MPCC_B1)
      stmt[i].dt = (uint8_t)reg;
  }
  return t;
}

bool scalar_is_zero(const Scalar *s) {
  const Stmt *r = &s->stmt[s->result];
  return r->prim == PR_CONST && r->imm == 0;
}

/* ---- evaluation ------------------------------------------------------------------------------ */

static double prim_max(double x, double y) {
  return x != x ? x : y != y ? y : x > y ? x : y;
}

double prim_eval(const Stmt *s, const double arg[STMT_ARGS]) {
  const double x = arg[0], y = arg[1];
  switch ((Prim)s->prim) {
  case PR_CONST:
    return s->imm;
  case PR_ADD:
    return x + y;
  case PR_SUB:
    return x - y;
  case PR_MUL:
    return x * y;
  case PR_DIV:
    return s->dt == MPCC_I64 ? trunc(x / y) : x / y;
  case PR_NEG:
    return -x;
  case PR_ABS:
    return fabs(x);
  case PR_MIN:
    return -prim_max(-x, -y);
  case PR_MAX:
    return prim_max(x, y);
  case PR_SQRT:
    return sqrt(x);
  case PR_EXP:
    return exp(x);
  case PR_LOG:
    return log(x);
  case PR_TANH:
    return tanh(x);
  case PR_ERF:
    return erf(x);
  case PR_FLOOR:
    return floor(x);
  case PR_COS:
    return cos(x);
  case PR_SIN:
    return sin(x);
  case PR_TF32:
    return num_tf32(x);
  case PR_SR_BF16:
    return num_bf16_to_f32(num_f32_to_bf16_sr((float)x, (uint32_t)(y * 0x1p32)));
  case PR_SR_F16:
    return num_f16_to_f32(num_f32_to_f16_sr((float)x, (uint32_t)(y * 0x1p32)));
  case PR_LT:
    return x < y;
  case PR_LE:
    return x <= y;
  case PR_EQ:
    return x == y;
  case PR_NE:
    return x != y;
  case PR_AND:
    return x != 0 && y != 0;
  case PR_OR:
    return x != 0 || y != 0;
  case PR_NOT:
    return x == 0;
  case PR_SELECT:
    return x != 0 ? y : arg[2];
  case PR_ISFINITE:
    return isfinite(x);
  case PR_ROUND:
    return num_round(x, (DType)s->rd);
  case PR_CVT:
    return s->dt == MPCC_I64 ? trunc(x) : x;
  case PR_RAND:
    return scalar_rand((int64_t)x, (int64_t)y, (int64_t)arg[2], (int64_t)arg[3]);
  default:
    assert(!"a primitive of group bodies in an elementwise body");
    return NAN;
  }
}

bool prim_rounds(Prim p) {
  return p == PR_ROUND || p == PR_TF32 || p == PR_SR_BF16 || p == PR_SR_F16;
}

static double body_value(const Scalar *s, const double *args, bool f32, bool exact) {
  double v[SCALAR_MAX];
  assert(s->nstmt <= SCALAR_MAX);
  for (int i = 0; i < s->nstmt; i++) {
    const Stmt *t = &s->stmt[i];
    double arg[STMT_ARGS] = {0};
    for (int k = 0; k < STMT_ARGS && t->arg[k] >= 0; k++)
      arg[k] = v[t->arg[k]];
    bool skip = exact && prim_rounds((Prim)t->prim);
    v[i] = t->prim == PR_ARG ? args[t->ref] : skip ? arg[0] : prim_eval(t, arg);
    if (t->dt == MPCC_F32 && f32)
      v[i] = (double)(float)v[i];
  }
  return v[s->result];
}

double scalar_eval(const Scalar *s, const double *args, bool f32) {
  return body_value(s, args, f32, false);
}

double scalar_eval_exact(const Scalar *s, const double *args) {
  return body_value(s, args, false, true);
}

/* ---- random numbers -------------------------------------------------------------------------- */

float scalar_rand(int64_t seed, int64_t step, int64_t element, int64_t stream) {
  const uint32_t key[2] = {(uint32_t)seed, (uint32_t)((uint64_t)seed >> 32)};
  const uint32_t counter[4] = {(uint32_t)element, (uint32_t)((uint64_t)element >> 32),
                               (uint32_t)step, (uint32_t)stream};
  uint32_t word[4];
  philox4x32(counter, key, word);
  return (float)(word[0] >> 8) * 0x1p-24f;
}
