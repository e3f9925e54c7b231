/* The reference interpreter: runs functions, holds tensors and values as arrays of double, rounds
 * each op's results to their storage dtype. The ops themselves: eval_ops.c, eval_nn.c; groups:
 * eval_group.c. Integers and booleans are held as doubles, exact up to 2^53. */
#include "ir/eval.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mpcc/num.h"

struct Eval {
  const Module *m;
  bool exact;
  double **tensor; /* storage by Tensor.index; NULL for views */
  double **value;  /* by Value.id of the function run last */
  int nvalue;
  const Func *last;
};

/* ---- helpers of all ref_ functions ----------------------------------------------------------- */

void eval_strides(const Type *ty, int64_t stride[MAX_RANK]) {
  int64_t n = 1;
  for (int d = ty->rank; d-- > 0;) {
    stride[d] = n;
    n *= ty->dim[d];
  }
}

void eval_step(int rank, const int64_t *dim, int64_t *i) {
  for (int d = rank; d-- > 0;) {
    if (++i[d] < dim[d])
      return;
    i[d] = 0;
  }
}

int64_t eval_tail(const Type *ty, int n) {
  int64_t elems = 1;
  for (int d = ty->rank - n; d < ty->rank; d++)
    elems *= d < 0 ? 1 : ty->dim[d];
  return elems;
}

double eval_max(double a, double b) {
  return a != a || b != b ? NAN : a > b ? a : b;
}

double eval_round(double v, DType d) {
  return num_round(v, d);
}

/* Strides of operand x over the dimensions of result r; 0 where x is broadcast. */
static void broadcast_strides(const Type *x, const Type *r, int64_t stride[MAX_RANK]) {
  int64_t own[MAX_RANK];
  eval_strides(x, own);
  for (int d = 0; d < r->rank; d++) {
    int at = d - (r->rank - x->rank);
    stride[d] = at < 0 || x->dim[at] == 1 ? 0 : own[at];
  }
}

/* Elementwise rows and expr: the body over broadcast operands. */
Status eval_scalar(const Call *c) {
  const Op *op = c->op;
  const Type *r = op->out[0]->type;
  enum { MOST = 32 };
  double args[MOST];
  int64_t stride[MOST][MAX_RANK], i[MAX_RANK] = {0}, elems = type_elems(r);
  if (!op->scalar || op->nin > MOST)
    return MPCC_ERR_INTERNAL;
  for (int k = 0; k < op->nin; k++)
    broadcast_strides(op->in[k]->type, r, stride[k]);
  for (int64_t e = 0; e < elems; e++) {
    for (int k = 0; k < op->nin; k++) {
      int64_t at = 0;
      for (int d = 0; d < r->rank; d++)
        at += i[d] * stride[k][d];
      args[k] = c->in[k][at];
    }
    c->out[0][e] =
        c->exact ? scalar_eval_exact(op->scalar, args) : scalar_eval(op->scalar, args, false);
    eval_step(r->rank, r->dim, i);
  }
  return MPCC_OK;
}

static Status eval_const(const Call *c) {
  c->out[0][0] = op_float(c->op, "value", 1); /* loss_seed has none: 1 */
  return MPCC_OK;
}

/* ---- one op ---------------------------------------------------------------------------------- */

static RefFn *const ref_table[] = {
#define REF_NONE(name) NULL
#define REF_ELEM(name) ref_##name
#define REF_VIEW(name) ref_##name
#define REF_ROWS(name) ref_##name
#define REF_PRODUCT(name) ref_##name
#define REF_ATTENTION(name) ref_##name
#define REF_INDEX(name) ref_##name
#define REF_MOVE(name) ref_##name
#define REF_PACK(name) ref_##name
#define REF_WINDOW(name) ref_##name
#define OP(name, nin, nout, shape, cuda, cpu, grad, kind, doc) REF_##kind(name),
#define SCALAR(name, nin, text, deriv, cuda, cpu, doc) eval_scalar,
#include "ir/ops.def"
#include "ir/scalar.def"
#undef OP
#undef SCALAR
};
_Static_assert(sizeof ref_table / sizeof *ref_table == OP_COUNT, "one entry per op");

Status eval_op(const Op *op, bool exact, const double *const *in, double *const *out) {
  Call c = {op, exact, in, out};
  RefFn *ref = op->code == OP_group                               ? eval_group
               : op->code == OP_const || op->code == OP_loss_seed ? eval_const
                                                                  : ref_table[op->code];
  if (!ref)
    return MPCC_ERR_INTERNAL;
  Status status = ref(&c);
  if (status)
    return status;
  for (int k = 0; k < op->nout; k++) {
    const Type *ty = op->out[k]->type;
    int64_t n = type_elems(ty);
    if (exact && dtype_is_float(ty->dt))
      continue;
    for (int64_t i = 0; i < n; i++)
      out[k][i] = num_round(out[k][i], ty->dt);
  }
  return MPCC_OK;
}

/* ---- functions ------------------------------------------------------------------------------- */

static double *new_array(const Type *ty) {
  return calloc((size_t)type_elems(ty), sizeof(double));
}

static void free_values(double **value, int n) {
  for (int i = 0; i < n; i++) {
    free(value[i]);
    value[i] = NULL;
  }
}

static void forget_values(Eval *e) {
  if (e->value)
    free_values(e->value, e->nvalue);
  free(e->value);
  e->value = NULL;
  e->nvalue = 0;
  e->last = NULL;
}

Status eval_create(const Module *m, bool exact, Eval **out) {
  *out = NULL;
  Eval *e = calloc(1, sizeof *e);
  if (!e)
    return MPCC_ERR_NOMEM;
  e->m = m;
  e->exact = exact;
  e->tensor = calloc((size_t)m->ntensor + 1, sizeof *e->tensor);
  for (int i = 0; e->tensor && i < m->ntensor; i++)
    if (!m->tensor[i]->base && !(e->tensor[i] = new_array(m->tensor[i]->type))) {
      eval_destroy(e);
      return MPCC_ERR_NOMEM;
    }
  if (!e->tensor) {
    eval_destroy(e);
    return MPCC_ERR_NOMEM;
  }
  *out = e;
  return MPCC_OK;
}

void eval_destroy(Eval *e) {
  if (!e)
    return;
  forget_values(e);
  for (int i = 0; e->tensor && i < e->m->ntensor; i++)
    free(e->tensor[i]);
  free(e->tensor);
  free(e);
}

double *eval_tensor(Eval *e, const Tensor *t) {
  return t->base ? e->tensor[t->base->index] + t->base_elem : e->tensor[t->index];
}

const double *eval_value(const Eval *e, const Value *v) {
  return e->last && v->def->func == e->last ? e->value[v->id] : NULL;
}

/* One slice of n doubles: where arg or yield op of `scan` finds or puts it in iteration t. */
static double *slice(const Op *scan, const Op *op, double *const *out, const double *const *in,
                     int64_t n, int64_t t) {
  const int64_t length = op_int(scan, "length", 1), at = op_int(op, "index", 0);
  const int64_t item = op_int(scan, "reverse", 0) ? length - 1 - t : t;
  const bool is_arg = op->code == OP_arg;
  const Op *carrier = is_arg ? loop_carrier(op->func, at) : op;
  switch (loop_kind(op)) {
  case LOOP_CAPTURED:
    return (double *)in[at];
  case LOOP_STACKED:
    return (is_arg ? (double *)in[at] : out[at]) + item * n;
  default:
    return out[op_int(carrier, "index", 0)] +
           n * loop_slot(scan, op_int(carrier, "slots", 2), is_arg ? t : t + 1);
  }
}

static Status run_op(Eval *e, const Op *op);

/* The body's values are in e->value while it runs. */
static Status run_scan(Eval *e, const Op *scan, const double *const *in, double *const *out) {
  const Func *body = loop_body(scan);
  double **outer = e->value;
  Status status = MPCC_OK;
  if (!body || !(e->value = calloc((size_t)body->nvalue + 1, sizeof *e->value))) {
    e->value = outer;
    return body ? MPCC_ERR_NOMEM : MPCC_ERR_INTERNAL;
  }
  for (int i = 0; i < scan->nout; i++) {
    const Op *y = loop_yield(body, i);
    int64_t n = type_elems(y->in[0]->type), slots = op_int(y, "slots", 2);
    if (loop_kind(y) == LOOP_CARRIED)
      memcpy(out[i] + n * loop_slot(scan, slots, 0), in[op_int(y, "arg", 0)],
             (size_t)n * sizeof **out);
  }
  for (int64_t t = 0; !status && t < op_int(scan, "length", 1); t++) {
    for (int i = 0; !status && i < body->nop; i++) {
      const Op *op = body->op[i];
      if (op->code == OP_arg) {
        int64_t n = type_elems(op->out[0]->type);
        double *v = e->value[op->out[0]->id] = new_array(op->out[0]->type);
        if (v)
          memcpy(v, slice(scan, op, out, in, n, t), (size_t)n * sizeof *v);
        else
          status = MPCC_ERR_NOMEM;
      } else if (op->code != OP_yield) {
        status = run_op(e, op);
      }
    }
    for (int i = 0; !status && i < scan->nout; i++) {
      const Op *y = loop_yield(body, i);
      int64_t n = type_elems(y->in[0]->type);
      memcpy(slice(scan, y, out, in, n, t), e->value[y->in[0]->id], (size_t)n * sizeof **out);
    }
    free_values(e->value, body->nvalue);
  }
  free(e->value);
  e->value = outer;
  return status;
}

/* Runs op on the values held by e; reads and writes of tensors are the caller's. */
static Status run_op(Eval *e, const Op *op) {
  const double **in = calloc((size_t)op->nin + 1, sizeof *in);
  double **out = calloc((size_t)op->nout + 1, sizeof *out);
  Status status = in && out ? MPCC_OK : MPCC_ERR_NOMEM;
  for (int k = 0; !status && k < op->nin; k++)
    in[k] = e->value[op->in[k]->id];
  for (int k = 0; !status && k < op->nout; k++) {
    out[k] = e->value[op->out[k]->id] = new_array(op->out[k]->type);
    if (!out[k])
      status = MPCC_ERR_NOMEM;
  }
  if (!status && op->code == OP_read) {
    const Tensor *t = op_attr(op, "tensor")->u.tensor;
    memcpy(out[0], eval_tensor(e, t), (size_t)type_elems(t->type) * sizeof(double));
  } else if (!status && op->code == OP_scan) {
    status = run_scan(e, op, in, out);
  } else if (!status) {
    status = eval_op(op, e->exact, in, out);
  }
  free(in);
  free(out);
  return status;
}

Status eval_run(Eval *e, const Func *f) {
  forget_values(e);
  e->value = calloc((size_t)f->nvalue + 1, sizeof *e->value);
  if (!e->value)
    return MPCC_ERR_NOMEM;
  e->nvalue = f->nvalue;
  e->last = f;
  for (int i = 0; i < f->nop; i++) {
    Status status = f->op[i]->code == OP_write ? MPCC_OK : run_op(e, f->op[i]);
    if (status)
      return status;
  }
  /* Tensors change only now: every read above saw the state at the start. */
  for (int i = 0; i < f->nop; i++)
    if (f->op[i]->code == OP_write) {
      const Tensor *t = op_attr(f->op[i], "tensor")->u.tensor;
      memcpy(eval_tensor(e, t), e->value[f->op[i]->in[0]->id],
             (size_t)type_elems(t->type) * sizeof(double));
    }
  return MPCC_OK;
}
