/* Ops that passes build so often that each has a function: their attributes, put together. */
#include "ir/build.h"

#include <assert.h>

Value *build1(Builder *b, OpCode code, Value *x) {
  return build_op(b, code, 1, &x, 0, NULL)->out[0];
}

Value *build2(Builder *b, OpCode code, Value *x, Value *y) {
  Value *in[] = {x, y};
  return build_op(b, code, 2, in, 0, NULL)->out[0];
}

Value *build_read(Builder *b, Tensor *t) {
  const Attr at = attr_t(b, "tensor", t);
  return build_op(b, OP_read, 0, NULL, 1, &at)->out[0];
}

void build_write(Builder *b, Tensor *t, Value *v) {
  const Attr at = attr_t(b, "tensor", t);
  build_op(b, OP_write, 1, &v, 1, &at);
}

Value *build_cast(Builder *b, Value *x, DType dt) {
  if (x->type->dt == dt)
    return x;
  const Attr at = attr_dt(b, "to", dt);
  return build_op(b, OP_cast, 1, &x, 1, &at)->out[0];
}

Value *build_const(Builder *b, double v, DType dt) {
  const Attr at[] = {attr_f(b, "value", v), attr_dt(b, "dtype", dt)};
  return build_op(b, OP_const, 0, NULL, 2, at)->out[0];
}

Value *build_filled(Builder *b, const Type *t, double v) {
  Value *x = build_const(b, v, t->dt);
  const Attr shape = attr_ints(b, "shape", t->rank, t->dim);
  return t->rank ? build_op(b, OP_expand, 1, &x, 1, &shape)->out[0] : x;
}

Value *build_reshape(Builder *b, Value *x, int rank, const int64_t *dim) {
  const Attr at = attr_ints(b, "shape", rank, dim);
  return build_op(b, OP_reshape, 1, &x, 1, &at)->out[0];
}

Value *build_arg(Builder *b, int64_t index, LoopKind kind, const Type *type) {
  const Attr at[] = {attr_i(b, "index", index), attr_s(b, "kind", loop_kind_text(kind)),
                     attr_ints(b, "shape", type->rank, type->dim), attr_dt(b, "dtype", type->dt)};
  return build_op(b, OP_arg, 0, NULL, 4, at)->out[0];
}

void build_yield(Builder *b, int64_t index, LoopKind kind, Value *v, int64_t arg, int64_t slots) {
  const Attr at[] = {attr_i(b, "index", index), attr_s(b, "kind", loop_kind_text(kind)),
                     attr_i(b, "arg", arg), attr_i(b, "slots", slots)};
  build_op(b, OP_yield, 1, &v, kind == LOOP_CARRIED ? 4 : 2, at);
}

Op *build_scan(Builder *b, const char *func, int64_t length, bool reverse, int nin,
               Value *const *in, int nattr, const Attr *attr) {
  enum { OWN = 3, MOST = 16 };
  Attr at[MOST] = {attr_s(b, "func", func), attr_i(b, "length", length),
                   attr_b(b, "reverse", reverse)};
  assert(nattr <= MOST - OWN);
  for (int i = 0; i < nattr; i++)
    at[OWN + i] = attr[i];
  return build_op(b, OP_scan, nin, in, OWN + nattr, at);
}

Value *build_permute(Builder *b, Value *x, const int64_t *perm) {
  const Attr at = attr_ints(b, "perm", x->type->rank, perm);
  return build_op(b, OP_permute, 1, &x, 1, &at)->out[0];
}

Value *build_unpermute(Builder *b, Value *y, const Op *permute) {
  const Attr *perm = op_attr(permute, "perm");
  int64_t inverse[MAX_RANK];
  for (int i = 0; i < perm->u.ints.n; i++)
    inverse[perm->u.ints.v[i]] = i;
  return build_permute(b, y, inverse);
}

Value *build_slice(Builder *b, Value *x, int dim, int64_t start, int64_t end) {
  const Attr at[] = {attr_i(b, "dim", dim), attr_i(b, "start", start), attr_i(b, "end", end)};
  return build_op(b, OP_slice, 1, &x, 3, at)->out[0];
}

Value *build_sum_to(Builder *b, Value *x, const Type *like) {
  if (builder_failed(b) || type_same_shape(x->type, like))
    return x;
  int64_t dims[MAX_RANK];
  int n = 0;
  const int extra = x->type->rank - like->rank;
  for (int i = 0; i < x->type->rank; i++)
    if (i < extra || like->dim[i - extra] != x->type->dim[i])
      dims[n++] = i;
  if (n) {
    const Attr at[] = {attr_ints(b, "dims", n, dims), attr_b(b, "keepdim", false)};
    x = build_op(b, OP_sum, 1, &x, 2, at)->out[0];
  }
  return build_reshape(b, x, like->rank, like->dim);
}
