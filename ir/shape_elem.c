/* Shape rules of pointwise ops, and of what gives functions and loops their form. */
#include "ir/shape.h"

#include <math.h>
#include <string.h>

/* ---- pointwise ------------------------------------------------------------------------------- */

/* Broadcasts all operands; wrong ones are named. */
static bool broadcast(Infer *x, int *rank, int64_t dim[MAX_RANK]) {
  Type all = {0};
  for (int i = 0; i < x->nin; i++) {
    if (type_broadcast(&all, operand(x, i), rank, dim)) {
      all.rank = *rank;
      memcpy(all.dim, dim, sizeof all.dim);
      continue;
    }
    misfit(x, CODE_SHAPE, "%s takes %s and %s", infer_subject(x), infer_shape(x, operand(x, 0)),
           infer_shape(x, operand(x, i)));
    diag_hint(x->d, "dimensions, counted from the last, must be equal or 1");
    misfit_note(x, 0, "the first");
    misfit_note(x, i, i == 1 ? "the second" : "the other");
    return false;
  }
  *rank = all.rank;
  memcpy(dim, all.dim, sizeof all.dim);
  return true;
}

/* True when the body makes numbers that integers cannot hold: fractions, infinities. */
static bool leaves_integers(const Scalar *s) {
  for (int i = 0; i < s->nstmt; i++) {
    const Prim p = (Prim)s->stmt[i].prim;
    if (p == PR_DIV || (p >= PR_SQRT && p <= PR_SIN && p != PR_FLOOR) ||
        (p == PR_CONST &&
         !(fabs(s->stmt[i].imm) < 0x1p53 && s->stmt[i].imm == floor(s->stmt[i].imm))))
      return true;
  }
  return false;
}

bool shape_expr(Infer *x) {
  int rank;
  int64_t dim[MAX_RANK] = {0};
  const Scalar *body = builder_scalar(x->b, x->code, x->nin, x->nattr, x->attr);
  if (!body || !broadcast(x, &rank, dim))
    return false;
  DType dt = infer_dtype(x, "dtype", infer_promote(x));
  if (dt == MPCC_DTYPE_COUNT)
    return misfit(x, CODE_ATTR, "%s without operands needs attribute 'dtype'",
                  op_info(x->code)->name);
  if (!infer_attr(x, "dtype", AT_DTYPE)) {
    if (dtype_is_fp8(dt))
      return misfit(x, CODE_DTYPE, "%s computes in %s, which only holds codes of products",
                    infer_subject(x), dtype_text(dt));
    if (!dtype_is_float(dt) && leaves_integers(body))
      dt = MPCC_F32;
  }
  result_as(x, dt, rank, dim);
  return true;
}

/* Rows of scalar.def. */
bool shape_elem(Infer *x) {
  const int nin = op_info(x->code)->nin;
  return want_operands(x, nin, nin) && shape_expr(x);
}

bool shape_same(Infer *x) {
  result(x, operand(x, 0));
  return true;
}

bool shape_cast(Infer *x) {
  const Attr *to = want_attr(x, "to", AT_DTYPE);
  if (!to)
    return false;
  result(x, type_with_dtype(x->types, operand(x, 0), (DType)to->u.i));
  return true;
}

/* ---- structure ------------------------------------------------------------------------------- */

bool shape_read(Infer *x) {
  const Attr *t = want_attr(x, "tensor", AT_TENSOR);
  if (!t)
    return false;
  result(x, t->u.tensor->type);
  return true;
}

bool shape_write(Infer *x) {
  const Attr *t = want_attr(x, "tensor", AT_TENSOR);
  if (!t)
    return false;
  const Type *to = t->u.tensor->type, *ty = operand(x, 0);
  if (to->dt == ty->dt && type_same_shape(to, ty))
    return true;
  misfit(x, type_same_shape(to, ty) ? CODE_DTYPE : CODE_SHAPE, "'%s' holds %s%s, written with %s%s",
         t->u.tensor->name, dtype_text(to->dt), infer_shape(x, to), dtype_text(ty->dt),
         infer_shape(x, ty));
  misfit_note(x, 0, "the value");
  return false;
}

bool shape_const(Infer *x) {
  const Attr *dt = want_attr(x, "dtype", AT_DTYPE);
  if (!dt || !want_attr(x, "value", AT_FLOAT))
    return false;
  result_scalar(x, (DType)dt->u.i);
  return true;
}

bool shape_arg(Infer *x) {
  const Attr *shape = want_attr(x, "shape", AT_INTS), *dt = want_attr(x, "dtype", AT_DTYPE);
  if (!shape || !dt || !want_attr(x, "index", AT_INT) || !want_attr(x, "kind", AT_STR))
    return false;
  if (shape->u.ints.n > MAX_RANK)
    return misfit(x, CODE_SHAPE, "an argument of a loop has more than %d dimensions", MAX_RANK);
  result_as(x, (DType)dt->u.i, shape->u.ints.n, shape->u.ints.v);
  return true;
}

bool shape_yield(Infer *x) {
  return want_attr(x, "index", AT_INT) && want_attr(x, "kind", AT_STR);
}

/* ty with an axis of n in front; NULL after a message. */
static const Type *stacked(Infer *x, const Type *ty, int64_t n) {
  int64_t dim[MAX_RANK] = {n};
  if (ty->rank == MAX_RANK) {
    misfit(x, CODE_SHAPE, "%s stacks values of %d dimensions", infer_subject(x), MAX_RANK);
    return NULL;
  }
  memcpy(dim + 1, ty->dim, (size_t)ty->rank * sizeof *dim);
  return type_get(x->types, ty->dt, ty->rank + 1, dim);
}

/* Operand i is what arg i of the body takes. Kernels see elements, whatever their shape. */
static bool scan_operand(Infer *x, const Func *body, int i, int64_t length) {
  const Op *arg = loop_arg(body, i);
  if (!arg || loop_kind(arg) == LOOP_KINDS)
    return misfit(x, CODE_ATTR, "'%s' has no argument %d", body->name, i);
  const Type *is = operand(x, i), *want = arg->out[0]->type;
  if (loop_kind(arg) == LOOP_STACKED)
    want = stacked(x, want, length);
  if (!want || !want_dtype(x, i, want->dt))
    return false;
  if (body->module->stage >= STAGE_KERNELS)
    return type_elems(is) == type_elems(want) || want_same_shape(x, i, want);
  return want_same_shape(x, i, want);
}

static bool scan_result(Infer *x, const Func *body, const Op *y, int64_t length) {
  const Type *ty = y->in[0]->type;
  int64_t slots = op_int(y, "slots", 0);
  if (loop_kind(y) == LOOP_CARRIED) {
    const Op *arg = loop_arg(body, op_int(y, "arg", -1));
    if (!arg || loop_kind(arg) != LOOP_CARRIED || arg->out[0]->type->dt != ty->dt ||
        type_elems(arg->out[0]->type) != type_elems(ty) || (slots != 2 && slots != length + 1))
      return misfit(x, CODE_ATTR, "'%s' does not carry a state on", body->name);
  }
  const Type *r = stacked(x, ty, loop_kind(y) == LOOP_CARRIED ? slots : length);
  if (r)
    result(x, r);
  return r != NULL;
}

bool shape_scan(Infer *x) {
  const Attr *name = want_attr(x, "func", AT_STR), *length = want_attr(x, "length", AT_INT);
  if (!name || !length || !want_operands(x, 1, 1 << 16))
    return false;
  const Func *body = module_func(x->in[0]->def->func->module, name->u.s);
  if (!body || length->u.i < 1)
    return misfit(x, CODE_ATTR, "%s needs a body and a length", op_info(x->code)->name);
  for (int i = 0; i < x->nin; i++)
    if (!scan_operand(x, body, i, length->u.i))
      return false;
  if (loop_arg(body, x->nin))
    return misfit(x, CODE_ATTR, "'%s' has more arguments than its loop gives", body->name);
  for (int i = 0; loop_yield(body, i); i++)
    if (i == MAX_RULE_OUT || !scan_result(x, body, loop_yield(body, i), length->u.i))
      return i < MAX_RULE_OUT
                 ? false
                 : misfit(x, CODE_ATTR, "'%s' has more than %d results", body->name, i);
  return true;
}

bool shape_group(Infer *x) {
  return misfit(x, CODE_ATTR, "a group's result types are given, not inferred");
}
