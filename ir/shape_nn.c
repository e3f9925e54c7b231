/* Shape rules of attention, normalisations, reductions and losses. */
#include "ir/shape.h"

#include <string.h>

/* q, k, v and do are codes, their scales last: as many as that. */
static bool check_codes(Infer *x, int first, int scales) {
  const Attr *ds = infer_attr(x, "ds_dtype", AT_DTYPE), *p = infer_attr(x, "p_dtype", AT_DTYPE);
  if (!want_attr(x, "out", AT_DTYPE) || !want_attr(x, "p_scale", AT_FLOAT) ||
      !want_attr(x, "ds_scale", AT_FLOAT))
    return false;
  if (!ds || !dtype_is_code((DType)ds->u.i) || !dtype_is_code((DType)p->u.i))
    return misfit(x, CODE_ATTR, "%s has codes for P and dS in no format of codes",
                  infer_subject(x));
  for (int i = 0; i < scales; i++)
    if (!want_scalar(x, x->nin - scales + i, MPCC_F32))
      return false;
  return (first == 0 || want_codes(x, 0)) && want_codes(x, first) && want_codes(x, first + 1) &&
         want_codes(x, first + 2);
}

/* q, k, v from operand `first` on, then seed and step when there is dropout. */
static bool check_attention(Infer *x, int first) {
  const Attr *p = attr_find(x->attr, x->nattr, "dropout_p");
  const bool dropout = p && p->kind == AT_FLOAT && p->u.f > 0;
  const bool mask = infer_flag(x, "mask");
  const int scales = !infer_attr(x, "p_dtype", AT_DTYPE) ? 0 : first ? 4 : 3;
  const int nin = first + 3 + mask + (dropout ? 2 : 0);
  if (!want_operands(x, nin + scales, nin + scales) || (scales && !check_codes(x, first, scales)))
    return false;
  for (int i = first; i < first + 3; i++)
    if (!want_rank(x, i, 3) || !want_float(x, i))
      return false;
  const Type *q = operand(x, first), *k = operand(x, first + 1);
  const int64_t heads = infer_int(x, "heads", 1), kv = infer_int(x, "kv_heads", heads);
  if (heads < 1 || kv < 1 || heads % kv || q->dim[2] % heads)
    return misfit(x, CODE_SHAPE, "%s has width %lld, which %lld heads do not divide",
                  infer_subject(x), (long long)q->dim[2], (long long)heads);
  if (k->dim[0] != q->dim[0] || k->dim[2] != q->dim[2] / heads * kv) {
    misfit(x, CODE_SHAPE, "%s has query %s and key %s", infer_subject(x), infer_shape(x, q),
           infer_shape(x, k));
    diag_hint(x->d, "batch and width of a head must be equal in query, key and value");
    misfit_note(x, first, "the query");
    misfit_note(x, first + 1, "the key");
    return false;
  }
  const int64_t scores[4] = {q->dim[0], heads, q->dim[1], k->dim[1]};
  if (mask && (!want_rank(x, first + 3, 4) || !want_float(x, first + 3)))
    return false;
  for (int d = 0; mask && d < 4; d++)
    if (operand(x, first + 3)->dim[d] != 1 && operand(x, first + 3)->dim[d] != scores[d])
      return misfit(x, CODE_SHAPE, "%s has scores %s and mask %s", infer_subject(x),
                    infer_shape(x, type_get(x->types, q->dt, 4, scores)),
                    infer_shape(x, operand(x, first + 3)));
  return want_same_shape(x, first + 2, k) &&
         (!dropout || (want_scalar(x, nin - 2, MPCC_I64) && want_scalar(x, nin - 1, MPCC_I64)));
}

bool shape_attention(Infer *x) {
  if (!check_attention(x, 0))
    return false;
  const Type *q = operand(x, 0);
  const int64_t lse[] = {q->dim[0], infer_int(x, "heads", 1), q->dim[1]};
  const DType out = infer_dtype(x, "out", q->dt);
  result_as(x, out, 3, q->dim);
  result_as(x, wide(out), 3, lse);
  return true;
}

bool shape_attention_grad(Infer *x) {
  if (!want_operands(x, 6, 13) || !check_attention(x, 3))
    return false;
  const DType out = infer_dtype(x, "out", operand(x, 3)->dt);
  const Type *q = operand(x, 3);
  const int64_t lse[] = {q->dim[0], infer_int(x, "heads", 1), q->dim[1]};
  if (!want_same_shape(x, 0, q) || !want_same_shape(x, 1, q) ||
      !want_same_shape(x, 2, type_get(x->types, wide(out), 3, lse)))
    return false;
  for (int i = 3; i < 6; i++)
    result_as(x, out, 3, operand(x, i)->dim);
  return true;
}

/* ---- normalisation, reductions, losses ------------------------------------------------------- */

/* Operand i has the shape of the last `axes` dimensions of ty. */
static bool want_trailing(Infer *x, int i, const Type *ty, int axes) {
  return want_same_shape(x, i, type_get(x->types, ty->dt, axes, ty->dim + ty->rank - axes));
}

static bool want_axes(Infer *x, const Type *ty, int *axes) {
  const int64_t n = infer_int(x, "axes", 1);
  *axes = (int)n;
  if (n >= 1 && n <= ty->rank)
    return true;
  return misfit(x, CODE_SHAPE, "%s works on the last %lld dimensions, its input has shape %s",
                infer_subject(x), (long long)n, infer_shape(x, ty));
}

bool shape_layer_norm(Infer *x) {
  int axes;
  if (!want_operands(x, 1, 3) || !want_float(x, 0))
    return false;
  const Type *in = operand(x, 0);
  if (!want_axes(x, in, &axes))
    return false;
  for (int i = 1; i < x->nin; i++)
    if (!want_float(x, i) || !want_trailing(x, i, in, axes))
      return false;
  result(x, in);
  result_as(x, wide(in->dt), in->rank - axes, in->dim);
  result_as(x, wide(in->dt), in->rank - axes, in->dim);
  return true;
}

bool shape_layer_norm_grad(Infer *x) {
  int axes;
  if (!want_operands(x, 4, 5))
    return false;
  const Type *in = operand(x, 1);
  if (!want_axes(x, in, &axes) || !want_same_shape(x, 0, in))
    return false;
  const Type *rows = type_get(x->types, wide(in->dt), in->rank - axes, in->dim);
  if (!want_same_shape(x, 2, rows) || !want_same_shape(x, 3, rows))
    return false;
  result(x, in);
  if (x->nin == 5) {
    if (!want_trailing(x, 4, in, axes))
      return false;
    result(x, operand(x, 4));
    result(x, operand(x, 4));
  }
  return true;
}

/* Operand i is one value per channel of x. */
static bool want_channels(Infer *x, int i, const Type *ty) {
  const int64_t c = ty->dim[1];
  return want_float(x, i) && want_same_shape(x, i, type_get(x->types, MPCC_F32, 1, &c));
}

static bool want_images(Infer *x, int i) {
  if (!want_float(x, i))
    return false;
  if (operand(x, i)->rank < 2)
    return misfit(x, CODE_SHAPE, "%s works on [N, C, ...]", infer_subject(x));
  return true;
}

bool shape_batch_norm(Infer *x) {
  if (!want_operands(x, 2, 4) || !want_images(x, 0) || !want_scalar(x, 1, MPCC_I64))
    return false;
  const Type *in = operand(x, 0);
  for (int i = 2; i < x->nin; i++)
    if (!want_channels(x, i, in))
      return false;
  result(x, in);
  result_as(x, wide(in->dt), 1, in->dim + 1);
  result_as(x, wide(in->dt), 1, in->dim + 1);
  return true;
}

bool shape_batch_norm_grad(Infer *x) {
  if (!want_operands(x, 5, 6) || !want_images(x, 1) || !want_float(x, 0))
    return false;
  const Type *in = operand(x, 1);
  if (!want_same_shape(x, 0, in) || !want_channels(x, 2, in) || !want_channels(x, 3, in) ||
      !want_scalar(x, 4, MPCC_I64) || (x->nin > 5 && !want_channels(x, 5, in)))
    return false;
  result(x, type_with_dtype(x->types, in, operand(x, 0)->dt));
  for (int i = 0; i < 2 && x->nin > 5; i++)
    result(x, operand(x, 5));
  return true;
}

bool shape_batch_affine(Infer *x) {
  if (!want_operands(x, 3, 5) || !want_images(x, 0))
    return false;
  for (int i = 1; i < x->nin; i++)
    if (!want_channels(x, i, operand(x, 0)))
      return false;
  result(x, operand(x, 0));
  return true;
}

/* [N, groups] of an image in `groups` groups of channels */
static bool want_groups(Infer *x, const Type *in, int64_t dim[2]) {
  dim[0] = in->dim[0];
  dim[1] = infer_int(x, "groups", 1);
  if (dim[1] >= 1 && in->dim[1] % dim[1] == 0)
    return true;
  return misfit(x, CODE_SHAPE, "%s has %lld channels, which are not %lld groups", infer_subject(x),
                (long long)in->dim[1], (long long)dim[1]);
}

bool shape_group_norm(Infer *x) {
  int64_t stat[2];
  if (!want_operands(x, 1, 3) || !want_images(x, 0) || !want_groups(x, operand(x, 0), stat))
    return false;
  const Type *in = operand(x, 0);
  for (int i = 1; i < x->nin; i++)
    if (!want_channels(x, i, in))
      return false;
  result(x, in);
  result_as(x, wide(in->dt), 2, stat);
  result_as(x, wide(in->dt), 2, stat);
  return true;
}

bool shape_group_norm_grad(Infer *x) {
  int64_t stat[2];
  if (!want_operands(x, 4, 5) || !want_images(x, 1) || !want_float(x, 0))
    return false;
  const Type *in = operand(x, 1);
  if (!want_same_shape(x, 0, in) || !want_groups(x, in, stat))
    return false;
  const Type *ty = type_get(x->types, wide(in->dt), 2, stat);
  if (!want_same_shape(x, 2, ty) || !want_same_shape(x, 3, ty) ||
      (x->nin > 4 && !want_channels(x, 4, in)))
    return false;
  result(x, type_with_dtype(x->types, in, operand(x, 0)->dt));
  for (int i = 0; i < 2 && x->nin > 4; i++)
    result(x, operand(x, 4));
  return true;
}

bool shape_running_stats(Infer *x) {
  for (int i = 0; i < 4; i++)
    if (!want_float(x, i) || !want_same_shape(x, i, operand(x, 0)))
      return false;
  if (!want_scalar(x, 4, MPCC_I64) || !want_scalar(x, 5, MPCC_I64))
    return false;
  result(x, operand(x, 2));
  result(x, operand(x, 3));
  result_scalar(x, MPCC_I64);
  return true;
}

bool shape_rms_norm(Infer *x) {
  int axes;
  if (!want_operands(x, 1, 2) || !want_float(x, 0))
    return false;
  const Type *in = operand(x, 0);
  if (!want_axes(x, in, &axes) ||
      (x->nin > 1 && (!want_float(x, 1) || !want_trailing(x, 1, in, axes))))
    return false;
  result(x, in);
  result_as(x, wide(in->dt), in->rank - axes, in->dim);
  return true;
}

bool shape_rms_norm_grad(Infer *x) {
  int axes;
  if (!want_operands(x, 3, 4))
    return false;
  const Type *in = operand(x, 1);
  if (!want_axes(x, in, &axes) || !want_same_shape(x, 0, in) ||
      !want_same_shape(x, 2, type_get(x->types, wide(in->dt), in->rank - axes, in->dim)))
    return false;
  result(x, in);
  if (x->nin == 4) {
    if (!want_trailing(x, 3, in, axes))
      return false;
    result(x, operand(x, 3));
  }
  return true;
}

bool shape_rotary(Infer *x) {
  const Type *in = operand(x, 0);
  const int64_t heads = infer_int(x, "heads", 1);
  if (!want_float(x, 0) || !want_rank(x, 0, 3))
    return false;
  if (heads < 1 || in->dim[2] % (2 * heads))
    return misfit(x, CODE_SHAPE, "%s has width %lld, which is not %lld heads of an even width",
                  infer_subject(x), (long long)in->dim[2], (long long)heads);
  const int64_t dim[2] = {in->dim[1], in->dim[2] / heads / 2};
  result(x, in);
  return want_float(x, 1) && want_float(x, 2) &&
         want_same_shape(x, 1, type_get(x->types, in->dt, 2, dim)) &&
         want_same_shape(x, 2, type_get(x->types, in->dt, 2, dim));
}

bool shape_reduce(Infer *x) {
  const Attr *dims = want_attr(x, "dims", AT_INTS);
  if (!dims)
    return false;
  const Type *in = operand(x, 0);
  bool reduced[MAX_RANK] = {false};
  for (int i = 0; i < dims->u.ints.n; i++) {
    const int64_t d = dims->u.ints.v[i];
    if (!want_axis(x, d, in->rank))
      return false;
    if (reduced[d])
      return misfit(x, CODE_ATTR, "%s names axis %lld twice", op_info(x->code)->name, (long long)d);
    reduced[d] = true;
  }
  int rank = 0;
  int64_t dim[MAX_RANK];
  for (int d = 0; d < in->rank; d++)
    if (!reduced[d])
      dim[rank++] = in->dim[d];
    else if (infer_flag(x, "keepdim"))
      dim[rank++] = 1;
  result_as(x, infer_dtype(x, "dtype", in->dt), rank, dim);
  return true;
}

bool shape_softmax(Infer *x) {
  const Type *in = operand(x, 0);
  result(x, in);
  return want_float(x, 0) && want_axis(x, in->rank - 1, in->rank);
}

bool shape_reduce_all(Infer *x) {
  result_scalar(x, MPCC_F32);
  return want_float(x, 0);
}

/* logits[..., V] and target[...] as operands 0 and 1. */
static bool check_logits(Infer *x) {
  const Type *logits = operand(x, 0), *target = operand(x, 1);
  if (!want_float(x, 0) || !want_integer(x, 1))
    return false;
  if (logits->rank == target->rank + 1 &&
      !memcmp(logits->dim, target->dim, (size_t)target->rank * sizeof target->dim[0]))
    return true;
  misfit(x, CODE_SHAPE, "%s has logits %s and target %s", infer_subject(x), infer_shape(x, logits),
         infer_shape(x, target));
  diag_hint(x->d, "the target has one class number for each row of logits");
  misfit_note(x, 0, "logits");
  misfit_note(x, 1, "target");
  return false;
}

bool shape_cross_entropy(Infer *x) {
  const Type *logits = operand(x, 0);
  if (!want_operands(x, 4, 5) || !check_logits(x) || !want_rank(x, 2, 0) || !want_float(x, 2) ||
      !want_scalar(x, 3, MPCC_I64))
    return false;
  if (x->nin > 4 && (!want_float(x, 4) || !want_trailing(x, 4, logits, 1)))
    return false;
  result_scalar(x, wide(logits->dt));
  result_scalar(x, wide(logits->dt));
  result(x, logits);
  return true;
}

bool shape_loss_seed(Infer *x) {
  const Attr *dt = want_attr(x, "dtype", AT_DTYPE);
  if (!dt || !want_attr(x, "capacity", AT_INT))
    return false;
  result_scalar(x, (DType)dt->u.i);
  return true;
}

bool shape_loss(Infer *x) {
  result(x, operand(x, 0));
  return want_rank(x, 0, 0) && want_float(x, 0) && want_rank(x, 1, 0) && want_float(x, 1);
}

bool shape_row_mask(Infer *x) {
  result(x, operand(x, 0));
  if (!want_float(x, 0) || !want_scalar(x, 1, MPCC_I64))
    return false;
  return operand(x, 0)->rank > 0 ||
         misfit(x, CODE_SHAPE, "%s has no rows to mask", infer_subject(x));
}

bool shape_class_hot(Infer *x) {
  if (!check_logits(x) || !want_scalar(x, 2, MPCC_I64))
    return false;
  result(x, type_with_dtype(x->types, operand(x, 0), MPCC_F32));
  result(x, type_with_dtype(x->types, operand(x, 0), MPCC_F32));
  return true;
}

bool shape_accuracy(Infer *x) {
  result_scalar(x, MPCC_F32);
  return check_logits(x) && want_scalar(x, 2, MPCC_I64);
}
