/* Statements of a group body as CUDA expressions: the same list that ir/scalar.c evaluates. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "codegen/cuda/gen.h"

bool cuda_fail(CudaGen *g, const char *fmt, ...) {
  if (!g->error[0]) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(g->error, sizeof g->error, fmt, ap);
    va_end(ap);
  }
  return false;
}

const char *cuda_register(int dt) {
  return dt == MPCC_F64 ? "double" : dt == MPCC_I64 ? "s64" : dt == MPCC_B1 ? "bool" : "float";
}

const char *cuda_storage(DType dt) {
  switch (dt) {
  case MPCC_F64:
    return "double";
  case MPCC_F32:
    return "float";
  case MPCC_I64:
    return "s64";
  case MPCC_I32:
    return "int";
  case MPCC_BF16:
  case MPCC_F16:
    return "u16";
  default:
    return "u8";
  }
}

void cuda_value(const CudaBody *b, int i, Text *out) {
  text_printf(out, b->is_array && b->is_array[i] ? "v%d[k]" : "v%d", i);
}

/* ---- places ---------------------------------------------------------------------------------- */

void cuda_offset(const Body *b, const Access *a, int from, int to, Text *out) {
  const char *plus = "";
  for (int d = from; d < to; d++) {
    if (!a->stride[d] || b->dim[d] == 1)
      continue;
    text_printf(out, a->stride[d] == 1 ? "%s(s64)x%d" : "%s(s64)x%d * %lldll", plus, d,
                (long long)a->stride[d]);
    plus = " + ";
  }
  if (!*plus)
    text_puts(out, "0");
}

bool cuda_side_by_side(const Body *b, const Access *a, int width) {
  const int last = b->ndim - 1;
  if (a->stride[last] != 1 || b->dim[last] % width)
    return false;
  for (int d = 0; d < last; d++)
    if (b->dim[d] > 1 && a->stride[d] % width)
      return false;
  return true;
}

void cuda_indices(const Body *b, int from, int to, const char *flat, Text *out) {
  int64_t below = 1;
  for (int d = to; d-- > from; below *= b->dim[d]) {
    text_printf(out, "const u32 x%d = %s", d, flat);
    if (below > 1)
      text_printf(out, " / %lldu", (long long)below);
    if (d > from)
      text_printf(out, " %% %lldu", (long long)b->dim[d]);
    text_puts(out, ";\n");
  }
}

/* Blocks for which registers must leave room. A kernel that did not fit leaves less: without a
 * number its compiler may have aimed at the most threads there can be and rather spilled a few
 * words; if it was not that, it gets all registers. */
static int resident(const CudaGen *g) {
  if (!g->spilled)
    return g->resident;
  if (!g->resident)
    return g->spilled == 1 && g->threads < CUDA_RESIDENT ? CUDA_RESIDENT / g->threads : 1;
  const int fewer = g->resident * (4 - g->spilled) / 4;
  return fewer > 1 ? fewer : 1;
}

void cuda_head(CudaGen *g, const Op *group, const char *symbol) {
  const char *comma = "";
  text_printf(&g->out, "extern \"C\" __global__ void __launch_bounds__(%d", g->threads);
  if (resident(g))
    text_printf(&g->out, ", %d", resident(g));
  text_printf(&g->out, ") %s(", symbol);
  for (int k = 0; k < group->nout; k++, comma = ", ")
    text_printf(&g->out, "%s%s *o%d", comma, cuda_storage(group->out[k]->type->dt), k);
  for (int k = 0; k < group->nin; k++, comma = ", ")
    text_printf(&g->out, "%sconst %s *i%d", comma, cuda_storage(group->in[k]->type->dt), k);
  for (int k = 0; k < group->body->nparam; k++, comma = ", ")
    text_printf(&g->out, "%ss64 p%d", comma, k);
  text_puts(&g->out, ") {\n");
}

/* ---- expressions ----------------------------------------------------------------------------- */

static void constant(const Stmt *s, Text *out) {
  if (s->dt == MPCC_I64 || s->dt == MPCC_B1)
    text_printf(out, "%lldll", (long long)s->imm);
  else if (isfinite(s->imm))
    text_printf(out, s->dt == MPCC_F64 ? "(%a)" : "(%af)",
                s->dt == MPCC_F64 ? s->imm : (double)(float)s->imm);
  else if (s->dt == MPCC_F64)
    text_printf(out, "__longlong_as_double(0x%sll)",
                isnan(s->imm) ? "7ff8000000000000"
                : s->imm > 0  ? "7ff0000000000000"
                              : "fff0000000000000");
  else
    text_printf(out, "__int_as_float(0x%s)",
                isnan(s->imm) ? "7fc00000"
                : s->imm > 0  ? "7f800000"
                              : "ff800000");
}

static const char *infix(Prim p) {
  static const char *const word[PR_COUNT] = {
      [PR_ADD] = "+", [PR_SUB] = "-", [PR_MUL] = "*", [PR_DIV] = "/", [PR_LT] = "<",
      [PR_LE] = "<=", [PR_EQ] = "==", [PR_NE] = "!=", [PR_AND] = "&", [PR_OR] = "|"};
  return word[p];
}

/* name(arg, ...) */
static void call(const CudaBody *b, const Stmt *s, const char *name, Text *out) {
  text_printf(out, "%s(", name);
  for (int k = 0; k < prim_args((Prim)s->prim); k++) {
    text_puts(out, k ? ", " : "");
    cuda_value(b, s->arg[k], out);
  }
  text_puts(out, ")");
}

static void rounded(const CudaBody *b, const Stmt *s, Text *out) {
  const DType to = (DType)s->rd;
  if (to == MPCC_F64 || (to == MPCC_F32 && s->dt == MPCC_F32)) {
    cuda_value(b, s->arg[0], out);
    return;
  }
  text_printf(out, "(%s)get_%s(put_%s(", cuda_register(s->dt), dtype_text(to), dtype_text(to));
  cuda_value(b, s->arg[0], out);
  text_puts(out, "))");
}

static void load(const CudaBody *b, const Stmt *s, Text *out) {
  const Body *body = b->group->body;
  const int nrow = body->ndim - body->ncol;
  const bool rows = s->level == LV_ELEM || s->level == LV_ROW;
  const bool cols = s->level == LV_ELEM || s->level == LV_COL;
  text_printf(out, "get_%s(i%d[", dtype_text(b->group->in[s->ref]->type->dt), s->ref);
  cuda_offset(body, &body->in[s->ref], rows ? 0 : nrow, cols ? body->ndim : nrow, out);
  text_puts(out, "])");
}

/* Contraction changes bits; division of integers must not trap; the rest is plain. */
static bool needs_call(const CudaBody *b, const Stmt *s) {
  const Prim p = (Prim)s->prim;
  return (p >= PR_ADD && p <= PR_DIV) && (b->g->exact || (p == PR_DIV && s->dt == MPCC_I64));
}

/* Functions that are right to a few units in the last place. */
static bool approximates(const Body *b) {
  for (int i = 0; i < b->nstmt; i++) {
    const Prim p = (Prim)b->stmt[i].prim;
    if (p == PR_EXP || p == PR_LOG || p == PR_TANH || p == PR_ERF || p == PR_SIN || p == PR_COS)
      return true;
  }
  return false;
}

/* Division that is rounded correctly is a dozen instructions and a branch: not beside such
 * functions. */
static const char *quotient(const CudaBody *b, const Stmt *s) {
  const Body *body = b->group->body;
  if (b->g->exact || s->dt != MPCC_F32 || s->level != LV_ELEM || !approximates(body))
    return NULL;
  const int of = body->stmt[s->arg[1]].level;
  return of == LV_ROW || of == LV_ALL ? "div_by_same" : "div_full";
}

bool cuda_expression(const CudaBody *b, int i, Text *out) {
  const Stmt *s = &b->group->body->stmt[i];
  const Prim p = (Prim)s->prim;
  char name[24];
  snprintf(name, sizeof name, "%s_", prim_name(p));
  if (p == PR_DIV && quotient(b, s)) {
    call(b, s, quotient(b, s), out);
    return true;
  }
  switch (p) {
  case PR_CONST:
    constant(s, out);
    return true;
  case PR_LOAD:
    load(b, s, out);
    return true;
  case PR_INDEX:
    text_printf(out, "(s64)x%d", s->ref);
    return true;
  case PR_PARAM:
    text_printf(out, "p%d", s->ref);
    return true;
  case PR_NEG:
  case PR_NOT:
    text_puts(out, p == PR_NEG ? "-" : "!");
    cuda_value(b, s->arg[0], out);
    return true;
  case PR_SELECT:
    cuda_value(b, s->arg[0], out);
    text_puts(out, " ? ");
    cuda_value(b, s->arg[1], out);
    text_puts(out, " : ");
    cuda_value(b, s->arg[2], out);
    return true;
  case PR_ROUND:
    rounded(b, s, out);
    return true;
  case PR_CVT:
    if (b->group->body->stmt[s->arg[0]].prim == PR_INDEX) { /* of 32 bits: one instruction */
      text_printf(out, "(%s)x%d", cuda_register(s->dt), b->group->body->stmt[s->arg[0]].ref);
      return true;
    }
    snprintf(name, sizeof name, "cvt_%s", dtype_text((DType)s->dt));
    call(b, s, name, out);
    return true;
  case PR_ACC:
  case PR_ARG:
  case PR_STORE:
  case PR_COUNT:
    return cuda_fail(b->g, "statement %d: '%s' cannot stand here", i, prim_name(p));
  default:
    if (p >= PR_RSUM && p <= PR_AMIN)
      return cuda_fail(b->g, "statement %d: '%s' cannot stand here", i, prim_name(p));
    if (!infix(p) || needs_call(b, s)) {
      call(b, s, name, out);
      return true;
    }
    cuda_value(b, s->arg[0], out);
    text_printf(out, " %s ", infix(p));
    cuda_value(b, s->arg[1], out);
    return true;
  }
}

int cuda_stored(const CudaBody *b, int i) {
  const Body *body = b->group->body;
  const DType to = b->group->out[body->stmt[i].ref]->type->dt;
  int v = body->stmt[i].arg[0];
  while (body->stmt[v].prim == PR_ROUND && body->stmt[v].rd == to && to != MPCC_F32 &&
         to != MPCC_F64 && body->stmt[v].level == body->stmt[body->stmt[v].arg[0]].level)
    v = body->stmt[v].arg[0];
  return v;
}

void cuda_store(const CudaBody *b, int i, int from, int to, const char *more, Text *out) {
  const Body *body = b->group->body;
  const Stmt *s = &body->stmt[i];
  text_printf(out, "o%d[", s->ref);
  cuda_offset(body, &body->out[s->ref], from, to, out);
  text_printf(out, "%s] = put_%s(", more, dtype_text(b->group->out[s->ref]->type->dt));
  cuda_value(b, cuda_stored(b, i), out);
  text_puts(out, ");\n");
}

bool cuda_is_exact(const Body *b) {
  for (int i = 0; i < b->nstmt; i++)
    if (b->stmt[i].prim == PR_ROUND && b->stmt[i].rd == b->stmt[i].dt)
      return true;
  return false;
}
