/* `mpcc verify`: every distinct kernel of a model, and what it asks of a library, on random
 * operands beside the interpreter. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codegen/codegen.h"
#include "lib/lib.h"
#include "mpcc/num.h"

enum { MAX_VALUES = 64 };

/* One group with its operands and results, as doubles for the reference and as stored bytes. */
typedef struct {
  const Op *op;
  double *in[MAX_VALUES], *want[MAX_VALUES];
  void *in_bytes[MAX_VALUES], *got[MAX_VALUES];
  MpccArg *args;
  uint64_t *bytes; /* of the buffers behind args; 0: an integer */
  int nargs;
} Case;

static void case_fini(Case *k) {
  for (int i = 0; i < MAX_VALUES; i++) {
    free(k->in[i]);
    free(k->want[i]);
    free(k->in_bytes[i]);
    free(k->got[i]);
  }
  free(k->args);
  free(k->bytes);
}

/* A moment that sums squares. */
static bool is_square(const Value *v) {
  const Attr *t = v->def->code == OP_read ? op_attr(v->def, "tensor") : NULL;
  return t && attr_find(t->u.tensor->attr, t->u.tensor->nattr, "square");
}

/* Operands: floats in (-1, 1), scalars in [0.5, 1) as scales and rates are; sums of squares are 1
 * or more, above the squares of averages, else roots would rest on what two terms leave that
 * cancel; integers count 0..7 as labels and ids do, and scalar integers (valid samples, seeds) are
 * large enough to mask nothing.
 */
static double operand_value(const Op *op, int operand, int64_t i) {
  const Type *t = op->in[operand]->type;
  double u = scalar_rand(1, operand, i, 7);
  const char *kind = op_str(op, "kind", "");
  bool ids = t->rank || !strcmp(kind, "index") || !strcmp(kind, "scatter");
  if (!dtype_is_float(t->dt))
    return ids ? (double)(i % 8) : 65536.0;
  double x = t->rank ? 2 * u - 1 : 0.5 + u / 2;
  x = num_round(is_square(op->in[operand]) ? 1 + fabs(x) : x, t->dt);
  return operand < 2 && op_int(op, "tf32", 0) ? num_tf32(x) : x; /* what makes them rounds them */
}

/* Argument i: a buffer from one of its elements on. */
static void put_buffer(Case *k, int i, void *at, const Type *t, int64_t element) {
  const size_t skipped = (size_t)element * dtype_bytes(t->dt);
  k->args[i].p = (char *)at + skipped;
  k->bytes[i] = (uint64_t)type_bytes(t) - skipped;
}

static bool make_case(Case *k, const Op *op) {
  memset(k, 0, sizeof *k);
  k->op = op;
  if (op->nin > MAX_VALUES || op->nout > MAX_VALUES)
    return false;
  const bool is_product = codegen_is_product(op);
  k->nargs = op->nin + op->nout + (is_product ? MPCC_PRODUCT_INTS : op->body->nparam);
  k->args = calloc((size_t)k->nargs + 1, sizeof *k->args);
  k->bytes = calloc((size_t)k->nargs + 1, sizeof *k->bytes);
  if (!k->args || !k->bytes)
    return false;
  int n = 0;
  for (int i = 0; i < op->nout; i++) {
    const Type *t = op->out[i]->type;
    k->want[i] = calloc((size_t)type_elems(t) + 1, sizeof(double));
    k->got[i] = aligned_alloc(64, ((size_t)type_bytes(t) + 127) / 64 * 64);
    if (!k->want[i] || !k->got[i])
      return false;
    memset(k->got[i], 0, ((size_t)type_bytes(t) + 127) / 64 * 64);
    put_buffer(k, n++, k->got[i], t, is_product ? op->body->out[i].offset : 0);
  }
  for (int i = 0; i < op->nin; i++) {
    const Type *t = op->in[i]->type;
    int64_t elems = type_elems(t);
    k->in[i] = malloc(((size_t)elems + 1) * sizeof(double));
    k->in_bytes[i] = aligned_alloc(64, ((size_t)type_bytes(t) + 127) / 64 * 64);
    if (!k->in[i] || !k->in_bytes[i])
      return false;
    for (int64_t e = 0; e < elems; e++) {
      k->in[i][e] = operand_value(op, i, e);
      num_store((char *)k->in_bytes[i] + (size_t)e * dtype_bytes(t->dt), t->dt, k->in[i][e]);
    }
    put_buffer(k, n++, k->in_bytes[i], t, is_product ? op->body->in[i].offset : 0);
  }
  if (is_product) {
    const MpccProduct m = codegen_product(op);
    int64_t ints[MPCC_PRODUCT_INTS];
    memcpy(ints, &m, sizeof ints);
    for (int i = 0; i < MPCC_PRODUCT_INTS; i++)
      k->args[n++].i = ints[i];
  }
  for (int i = 0; i < op->body->nparam && !is_product; i++)
    k->args[n++].i = op->body->param[i];
  return true;
}

/* Longest sum in one element: what rounding errors can pile up over. */
static double sum_length(const Op *op) {
  double n = 1;
  const Body *b = op->body;
  for (int d = b->ndim - b->ncol; d < b->ndim; d++)
    n *= (double)b->dim[d];
  if (!strcmp(op_str(op, "kind", ""), "rows"))
    return n * (double)b->panel_rows;
  double keys = (double)op_int(op, "keys", 0), k = (double)op_int(op, "k", 0);
  return 1 + k + keys + (keys > 0 ? (double)b->dim[b->ndim - 1] : 0);
}

/* Unit roundoff of the group's arithmetic: that of the narrowest float register or product. */
static double register_eps(const Op *op) {
  const Attr *compute = op_attr(op, "compute");
  bool narrow = compute && compute->u.i != MPCC_F64;
  for (int i = 0; i < op->body->nstmt; i++)
    narrow |= op->body->stmt[i].dt == MPCC_F32;
  narrow |= !compute && !op->body->nstmt && op->in[0]->type->dt != MPCC_F64;
  return narrow ? 0x1p-23 : 0x1p-52;
}

/* Roundings inside a body on the way to a result: one that falls to the other side of a tie is a
 * last place of its format, whatever wider one the result is stored in. */
typedef struct {
  double eps;      /* of the coarsest of them; 0: there is none */
  double smallest; /* magnitude, as a share of the largest result, below which its places stay as
                      wide */
} Coarse;

static Coarse coarsest(const Op *op, int o) {
  const Body *b = op->body;
  Coarse c = {0, 0};
  bool *needed = calloc((size_t)b->nstmt + 1, sizeof *needed);
  for (int i = b->nstmt; needed && i-- > 0;) {
    const Stmt *s = &b->stmt[i];
    if (!needed[i] && !(s->prim == PR_STORE && s->ref == o))
      continue;
    for (int k = 0; k < STMT_ARGS; k++)
      if (s->arg[k] >= 0)
        needed[s->arg[k]] = true;
    if (s->prim == PR_TF32 && c.eps < 0x1p-10)
      c.eps = 0x1p-10;
    const DTypeInfo *d = s->prim == PR_ROUND ? dtype_info((DType)s->rd) : NULL;
    if (d && d->eps > c.eps)
      c = (Coarse){d->eps, d->min_normal / d->max_finite};
  }
  free(needed);
  return c;
}

/* The format whose rounding took what result o keeps, x - round(x); MPCC_DTYPE_COUNT: it is no such
 * rest. Next to a tie either neighbour of x is right and the rest differs by its sign alone. */
static DType remainder_of(const Op *op, int o) {
  const Body *b = op->body;
  int at = -1;
  for (int i = 0; i < b->nstmt; i++)
    if (b->stmt[i].prim == PR_STORE && b->stmt[i].ref == o)
      at = b->stmt[i].arg[0];
  while (at >= 0 && (b->stmt[at].prim == PR_SELECT || b->stmt[at].prim == PR_ROUND))
    at = b->stmt[at].arg[b->stmt[at].prim == PR_SELECT];
  if (at < 0 || b->stmt[at].prim != PR_SUB)
    return MPCC_DTYPE_COUNT;
  const Stmt *rounded = &b->stmt[b->stmt[at].arg[1]];
  bool own = rounded->prim == PR_ROUND && rounded->arg[0] == b->stmt[at].arg[0];
  return own ? (DType)rounded->rd : MPCC_DTYPE_COUNT;
}

/* Attention of codes rounds P and dS inside: one that falls to the other side is a step of its
 * format in one term of a sum, which may be the largest. */
static double inner_step(const Op *op, int result) {
  const char *key =
      !strcmp(op_str(op, "kind", ""), "attention") || result == 2 ? "p_dtype" : "ds_dtype";
  const Attr *dt = op_attr(op, key);
  return dt ? dtype_info((DType)dt->u.i)->eps : 0;
}

/* Worst error in units of its allowance: half an ulp of the stored format plus the random walk of
 * roundings of the registers, relative to the largest result. */
static double worst_error(const Case *k) {
  double worst = 0;
  for (int o = 0; o < k->op->nout; o++) {
    const Type *t = k->op->out[o]->type;
    double largest = 0;
    int64_t n = type_elems(t);
    for (int64_t i = 0; i < n; i++)
      if (isfinite(k->want[o][i]) && fabs(k->want[o][i]) > largest)
        largest = fabs(k->want[o][i]);
    const DType rest = remainder_of(k->op, o);
    if (rest !=
        MPCC_DTYPE_COUNT) /* errors are those of x; the rest is half a last place of it at most */
      largest *= 2 / dtype_info(rest)->eps;
    double spread =
        register_eps(k->op) * (16 + 4 * sqrt(sum_length(k->op))) * (largest > 1 ? largest : 1);
    spread += inner_step(k->op, o) * largest;
    const Coarse coarse = coarsest(k->op, o);
    for (int64_t i = 0; i < n; i++) {
      double got = num_load((char *)k->got[o] + (size_t)i * dtype_bytes(t->dt), t->dt);
      double want = k->want[o][i];
      if ((isnan(got) && isnan(want)) || got == want)
        continue;
      double ulp = dtype_info(t->dt)->eps * fmax(fabs(want), dtype_info(t->dt)->min_normal);
      ulp = fmax(ulp, coarse.eps * fmax(fabs(want), coarse.smallest * largest));
      double off = fabs(got - want);
      if (rest != MPCC_DTYPE_COUNT)
        off = fmin(off, fabs(got + want));
      double e = off / (spread + (dtype_is_float(t->dt) ? ulp : 0));
      if (!(e <= worst))
        worst = isnan(e) ? INFINITY : e;
    }
  }
  return worst;
}

static Status verify_group(Compilation *c, const Op *op, const char *symbol, const mpcc_executor *x,
                           bool *all_ok) {
  Case k;
  Status st = make_case(&k, op) ? MPCC_OK : MPCC_ERR_NOMEM;
  if (st == MPCC_OK)
    st = eval_op(op, false, (const double *const *)k.in, k.want);
  if (st == MPCC_OK)
    st = x->run(x->user, symbol, k.args, k.bytes, k.nargs, op->nout);
  if (st == MPCC_OK) {
    double error = worst_error(&k);
    char place[400] = "";
    if (op->loc.file)
      snprintf(place, sizeof place, "%s:%u:%u", diag_file_name(c->diag, op->loc.file), op->loc.line,
               op->loc.col);
    mpcc_verdict v = {op_str(op, "kind", ""),
                      op_str(op, "label", ""),
                      op->layer ? op->layer : "",
                      place,
                      symbol,
                      error,
                      1.0,
                      error <= 1.0};
    *all_ok = *all_ok && v.ok;
    x->verdict(x->user, &v);
  }
  case_fini(&k);
  return st;
}

/* Whether an earlier op of the module asks the same of the library. */
static bool is_repeated(const Module *m, int func, int op) {
  const MpccProduct own = codegen_product(m->func[func]->op[op]);
  for (int f = 0; f <= func; f++)
    for (int i = 0; i < (f < func ? m->func[f]->nop : op); i++)
      if (codegen_is_product(m->func[f]->op[i])) {
        const MpccProduct other = codegen_product(m->func[f]->op[i]);
        if (!memcmp(&own, &other, sizeof own))
          return true;
      }
  return false;
}

Status verify_kernels(Compilation *c, const KernelTable *kernels, const mpcc_executor *x) {
  const Module *m = c->module;
  Status st = MPCC_OK;
  bool all_ok = true;
  for (int i = 0; i < kernels->n && st == MPCC_OK; i++)
    st = verify_group(c, kernels->kernel[i].group, kernels->kernel[i].symbol, x, &all_ok);
  for (int f = 0; f < m->nfunc; f++)
    for (int i = 0; i < m->func[f]->nop && st == MPCC_OK; i++)
      if (codegen_is_product(m->func[f]->op[i]) && !is_repeated(m, f, i))
        st = verify_group(c, m->func[f]->op[i], "", x, &all_ok);
  return st == MPCC_OK && !all_ok ? MPCC_ERR_RUN : st;
}
