/* Shape rules of what makes, views and moves elements: random numbers, reshapes, slices, tables. */
#include "ir/shape.h"

#include <string.h>

/* Attribute `shape` as a list of positive lengths. */
static const Attr *want_shape(Infer *x) {
  const Attr *at = want_attr(x, "shape", AT_INTS);
  if (!at)
    return NULL;
  bool fits = at->u.ints.n <= MAX_RANK;
  int64_t elems = 1;
  for (int i = 0; fits && i < at->u.ints.n; i++)
    fits = at->u.ints.v[i] > 0 && !__builtin_mul_overflow(elems, at->u.ints.v[i], &elems) &&
           elems < INT64_MAX / 16;
  if (fits)
    return at;
  misfit(x, CODE_SHAPE, "%s makes more than %d dimensions, an empty or a too large tensor",
         infer_subject(x), MAX_RANK);
  return NULL;
}

bool shape_random(Infer *x) {
  const Attr *shape = want_shape(x);
  if (!shape || !want_scalar(x, 0, MPCC_I64) || !want_scalar(x, 1, MPCC_I64))
    return false;
  result_as(x, MPCC_F32, shape->u.ints.n, shape->u.ints.v);
  return true;
}

bool shape_iota(Infer *x) {
  const Attr *shape = want_shape(x), *axis = want_attr(x, "dim", AT_INT);
  if (!shape || !axis || !want_axis(x, axis->u.i, shape->u.ints.n))
    return false;
  result_as(x, MPCC_I64, shape->u.ints.n, shape->u.ints.v);
  return true;
}

bool shape_reshape(Infer *x) {
  const Attr *shape = want_shape(x);
  if (!shape)
    return false;
  const Type *ty = type_get(x->types, operand(x, 0)->dt, shape->u.ints.n, shape->u.ints.v);
  if (type_elems(ty) != type_elems(operand(x, 0))) {
    misfit(x, CODE_SHAPE, "%s makes %s of %s, which has %lld elements and not %lld",
           infer_subject(x), infer_shape(x, ty), infer_shape(x, operand(x, 0)),
           (long long)type_elems(operand(x, 0)), (long long)type_elems(ty));
    misfit_note(x, 0, "the input");
    return false;
  }
  result(x, ty);
  return true;
}

bool shape_permute(Infer *x) {
  const Attr *perm = want_attr(x, "perm", AT_INTS);
  if (!perm)
    return false;
  const Type *in = operand(x, 0);
  bool seen[MAX_RANK] = {false};
  int64_t dim[MAX_RANK];
  bool fits = perm->u.ints.n == in->rank;
  for (int i = 0; fits && i < in->rank; i++) {
    const int64_t p = perm->u.ints.v[i];
    fits = p >= 0 && p < in->rank && !seen[p];
    if (fits) {
      seen[p] = true;
      dim[i] = in->dim[p];
    }
  }
  if (!fits)
    return misfit(x, CODE_SHAPE, "%s permutes axes its input %s does not have, or not each once",
                  infer_subject(x), infer_shape(x, in));
  result_as(x, in->dt, in->rank, dim);
  return true;
}

bool shape_expand(Infer *x) {
  const Attr *shape = want_shape(x);
  if (!shape)
    return false;
  const Type *in = operand(x, 0);
  const Type *ty = type_get(x->types, in->dt, shape->u.ints.n, shape->u.ints.v);
  int rank;
  int64_t dim[MAX_RANK];
  if (type_broadcast(in, ty, &rank, dim) &&
      type_same_shape(ty, type_get(x->types, in->dt, rank, dim))) {
    result(x, ty);
    return true;
  }
  misfit(x, CODE_SHAPE, "%s expands %s to %s", infer_subject(x), infer_shape(x, in),
         infer_shape(x, ty));
  diag_hint(x->d, "only dimensions of length 1 expand");
  misfit_note(x, 0, "the input");
  return false;
}

bool shape_slice(Infer *x) {
  const Attr *axis = want_attr(x, "dim", AT_INT), *start = want_attr(x, "start", AT_INT),
             *end = want_attr(x, "end", AT_INT);
  const Type *in = operand(x, 0);
  if (!axis || !start || !end || !want_axis(x, axis->u.i, in->rank))
    return false;
  if (start->u.i < 0 || start->u.i >= end->u.i || end->u.i > in->dim[axis->u.i]) {
    misfit(x, CODE_SHAPE, "%s takes [%lld, %lld) of axis %lld, its input has shape %s",
           infer_subject(x), (long long)start->u.i, (long long)end->u.i, (long long)axis->u.i,
           infer_shape(x, in));
    misfit_note(x, 0, "the input");
    return false;
  }
  int64_t dim[MAX_RANK];
  memcpy(dim, in->dim, sizeof dim);
  dim[axis->u.i] = end->u.i - start->u.i;
  result_as(x, in->dt, in->rank, dim);
  return true;
}

bool shape_unslice(Infer *x) {
  const Attr *axis = want_attr(x, "dim", AT_INT), *start = want_attr(x, "start", AT_INT),
             *size = want_attr(x, "size", AT_INT);
  const Type *in = operand(x, 0);
  if (!axis || !start || !size || !want_axis(x, axis->u.i, in->rank))
    return false;
  if (start->u.i < 0 || start->u.i > size->u.i || size->u.i - start->u.i < in->dim[axis->u.i])
    return misfit(x, CODE_SHAPE, "%s puts %s at %lld of axis %lld of length %lld", infer_subject(x),
                  infer_shape(x, in), (long long)start->u.i, (long long)axis->u.i,
                  (long long)size->u.i);
  int64_t dim[MAX_RANK];
  memcpy(dim, in->dim, sizeof dim);
  dim[axis->u.i] = size->u.i;
  result_as(x, in->dt, in->rank, dim);
  return true;
}

/* Operands of a cat with given places neither overlap nor stick out; *size is the axis. */
static bool cat_starts(Infer *x, const Attr *starts, int64_t axis, int64_t *size) {
  const Attr *all = want_attr(x, "size", AT_INT);
  int64_t at = 0;
  bool fits = all && starts->u.ints.n == x->nin;
  for (int i = 0; fits && i < x->nin; i++) {
    fits = starts->u.ints.v[i] >= at && starts->u.ints.v[i] <= all->u.i;
    at = starts->u.ints.v[i] + operand(x, i)->dim[axis];
  }
  if (!fits || at > all->u.i)
    return misfit(x, CODE_ATTR, "%s has starts that do not fit its operands",
                  op_info(x->code)->name);
  *size = all->u.i;
  return true;
}

bool shape_cat(Infer *x) {
  const Attr *axis = want_attr(x, "dim", AT_INT);
  if (!axis || !want_operands(x, 1, 1 << 16) || !want_axis(x, axis->u.i, operand(x, 0)->rank))
    return false;
  Type all = *operand(x, 0);
  const int64_t d = axis->u.i;
  for (int i = 1; i < x->nin; i++) {
    Type other = *operand(x, i);
    const int64_t length = other.dim[d];
    if (other.rank == all.rank)
      other.dim[d] = all.dim[d];
    if (!type_same_shape(&all, &other)) {
      misfit(x, CODE_SHAPE, "%s joins %s and %s along axis %lld", infer_subject(x),
             infer_shape(x, operand(x, 0)), infer_shape(x, operand(x, i)), (long long)d);
      diag_hint(x->d, "all other dimensions must be equal");
      misfit_note(x, 0, "the first");
      misfit_note(x, i, "the other");
      return false;
    }
    if (__builtin_add_overflow(all.dim[d], length, &all.dim[d]))
      return misfit(x, CODE_SHAPE, "%s makes a too large tensor", infer_subject(x));
  }
  const Attr *starts = infer_attr(x, "starts", AT_INTS);
  if (starts && !cat_starts(x, starts, d, &all.dim[d]))
    return false;
  result_as(x, infer_promote(x), all.rank, all.dim);
  return true;
}

bool shape_embedding(Infer *x) {
  const Type *ids = operand(x, 0), *table = operand(x, 1);
  if (!want_integer(x, 0) || !want_rank(x, 1, 2))
    return false;
  if (ids->rank == MAX_RANK)
    return misfit(x, CODE_SHAPE, "%s makes more than %d dimensions", infer_subject(x), MAX_RANK);
  int64_t dim[MAX_RANK];
  memcpy(dim, ids->dim, sizeof dim);
  dim[ids->rank] = table->dim[1];
  result_as(x, table->dt, ids->rank + 1, dim);
  return true;
}

bool shape_embedding_grad(Infer *x) {
  const Attr *rows = want_attr(x, "rows", AT_INT), *out = want_attr(x, "out", AT_DTYPE);
  if (!rows || !out || !want_operands(x, 2, 3) || !want_integer(x, 0) || !want_float(x, 1))
    return false;
  const Type *ids = operand(x, 0), *dy = operand(x, 1);
  if (dy->rank != ids->rank + 1 || memcmp(dy->dim, ids->dim, (size_t)ids->rank * sizeof *dy->dim))
    return misfit(x, CODE_SHAPE, "%s has ids %s and gradient %s", infer_subject(x),
                  infer_shape(x, ids), infer_shape(x, dy));
  const int64_t dim[2] = {rows->u.i, dy->dim[ids->rank]};
  result_as(x, (DType)out->u.i, 2, dim);
  return x->nin < 3 || (want_dtype(x, 2, (DType)out->u.i) && want_same_shape(x, 2, x->out[0]));
}
