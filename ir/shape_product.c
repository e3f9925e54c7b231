/* Shape rules of products (linear, matmul, bmm, on codes too) and of quantizations. */
#include "ir/shape.h"

#include <string.h>

/* Result [..., N] of x[..., K] (operand 0) with w[N, K] (operand 1). */
static bool linear_result(Infer *x, DType dt) {
  const Type *in = operand(x, 0), *w = operand(x, 1);
  if (!want_rank(x, 1, 2))
    return false;
  if (in->rank < 1)
    return misfit(x, CODE_SHAPE, "%s takes rows of %lld, its input is a scalar", infer_subject(x),
                  (long long)w->dim[1]);
  if (in->dim[in->rank - 1] != w->dim[1]) {
    misfit(x, CODE_SHAPE, "%s has in_features %lld, its input has %lld", infer_subject(x),
           (long long)w->dim[1], (long long)in->dim[in->rank - 1]);
    misfit_note(x, 0, "the input");
    return false;
  }
  int64_t dim[MAX_RANK];
  memcpy(dim, in->dim, sizeof dim);
  dim[in->rank - 1] = w->dim[0];
  result_as(x, dt, in->rank, dim);
  return true;
}

bool shape_linear(Infer *x) {
  return want_operands(x, 2, 3) && want_float(x, 0) && want_float(x, 1) &&
         linear_result(x, infer_dtype(x, "out", infer_promoted(x, 0, 1))) &&
         (x->nin < 3 || want_bias(x, 2, operand(x, 1)->dim[0]));
}

/* Blocks of `block` rows and columns that tile ty as a matrix (cut: the last ones may be cut off,
 * as codes of a padded matrix are); their number into dim. 0, 0: the whole. */
static bool blocks_of(Infer *x, const Type *ty, const int64_t *block, bool cut, int64_t dim[2]) {
  int64_t cols = ty->rank ? ty->dim[ty->rank - 1] : 1;
  const int64_t size[2] = {type_elems(ty) / cols, cols};
  dim[0] = dim[1] = 1;
  if (!block[0] && !block[1])
    return true;
  for (int i = 0; i < 2; i++) {
    if (block[i] < 1 || (size[i] % block[i] && !cut))
      return misfit(x, CODE_SHAPE, "%s: blocks of %lld x %lld do not tile %s", infer_subject(x),
                    (long long)block[0], (long long)block[1], infer_shape(x, ty));
    dim[i] = (size[i] + block[i] - 1) / block[i];
  }
  return true;
}

/* Operands first ... first + 5: codes of two factors, their scales, and block scales by `key`. */
static bool want_blocks(Infer *x, int first, const char *key) {
  const Attr *at = infer_attr(x, key, AT_INTS);
  if (!at || at->u.ints.n != 4 || !infer_attr(x, "decoded", AT_DTYPE))
    return misfit(x, CODE_ATTR, "%s needs four ints '%s' and dtype 'decoded'", infer_subject(x),
                  key);
  for (int i = 0; i < 2; i++) {
    int64_t dim[2];
    const Type *s = operand(x, first + 4 + i);
    if (!want_codes(x, first + i) || !want_scalar(x, first + 2 + i, MPCC_F32) ||
        !blocks_of(x, operand(x, first + i), at->u.ints.v + 2 * i, true, dim) ||
        !want_rank(x, first + 4 + i, 2) || !want_float(x, first + 4 + i))
      return false;
    if (s->dim[0] != dim[0] || s->dim[1] != dim[1])
      return misfit(x, CODE_SHAPE, "%s has block scales %s, expected [%lld, %lld]",
                    infer_subject(x), infer_shape(x, s), (long long)dim[0], (long long)dim[1]);
  }
  return true;
}

/* Codes and scales of a quantized product in n operands: 4, 6 or, where it is differentiated, 12.
 */
static bool want_quantized(Infer *x, int n, int most) {
  if (n != 4 && n != 6 && (n != 12 || most < 12))
    return misfit(x, CODE_SHAPE, "%s takes 4 or 6%s operands, got %d", infer_subject(x),
                  most < 12 ? "" : " or 12", n);
  return want_codes(x, 0) && want_codes(x, 1) && want_scalar(x, 2, MPCC_F32) &&
         want_scalar(x, 3, MPCC_F32) && (n < 6 || want_blocks(x, 0, "block")) &&
         (n < 12 || (want_blocks(x, 6, "turned") && want_same_shape(x, 6, operand(x, 0)) &&
                     want_same_shape(x, 7, operand(x, 1))));
}

/* Operands behind the first n: what backward multiplies instead of codes, by attr `backward`. */
static bool want_override(Infer *x, int n) {
  for (int i = n; i < x->nin; i++)
    if (!want_float(x, i) || !want_same_shape(x, i, operand(x, (i - n) % 2)))
      return false;
  return true;
}

bool shape_qlinear(Infer *x) {
  const Attr *out = want_attr(x, "out", AT_DTYPE), *back = infer_attr(x, "backward", AT_STR);
  int n = x->nin - (!back ? 0 : !strcmp(back->u.s, "dequantized") ? 4 : 2);
  if (back && strcmp(back->u.s, "dequantized") != 0 && strcmp(back->u.s, "high_precision") != 0)
    return misfit(x, CODE_ATTR, "%s has no backward '%s'", infer_subject(x), back->u.s);
  return out && want_quantized(x, n, back ? 6 : 12) && want_override(x, n) &&
         linear_result(x, (DType)out->u.i);
}

/* op(a)[M, K] op(b)[K, N]; ta, tb: stored transposed. */
static bool matmul_result(Infer *x, DType dt) {
  if (!want_rank(x, 0, 2) || !want_rank(x, 1, 2))
    return false;
  const bool ta = infer_flag(x, "ta"), tb = infer_flag(x, "tb");
  const int64_t *a = operand(x, 0)->dim, *b = operand(x, 1)->dim;
  if (a[!ta] != b[tb]) {
    misfit(x, CODE_SHAPE, "%s multiplies %s%s by %s%s: inner dimensions %lld and %lld",
           infer_subject(x), infer_shape(x, operand(x, 0)), ta ? " transposed" : "",
           infer_shape(x, operand(x, 1)), tb ? " transposed" : "", (long long)a[!ta],
           (long long)b[tb]);
    misfit_note(x, 0, "the first");
    misfit_note(x, 1, "the second");
    return false;
  }
  result_as(x, dt, 2, (const int64_t[]){a[ta], b[!tb]});
  return true;
}

bool shape_matmul(Infer *x) {
  return want_float(x, 0) && want_float(x, 1) &&
         matmul_result(x, infer_dtype(x, "out", infer_promoted(x, 0, 1)));
}

bool shape_bmm(Infer *x) {
  const Type *a = operand(x, 0), *b = operand(x, 1);
  int64_t dim[MAX_RANK];
  if (!want_float(x, 0) || !want_float(x, 1))
    return false;
  const int r = a->rank;
  bool fits = r >= 3 && r < MAX_RANK && b->rank == r && a->dim[r - 1] == b->dim[r - 2];
  for (int i = 0; fits && i < r; i++) {
    dim[i] = i == r - 1 ? b->dim[i] : a->dim[i];
    fits = i >= r - 2 || a->dim[i] == b->dim[i];
  }
  if (!fits)
    return misfit(x, CODE_SHAPE, "%s has factors %s and %s", infer_subject(x), infer_shape(x, a),
                  infer_shape(x, b));
  result_as(x, infer_dtype(x, "out", infer_promoted(x, 0, 1)), r, dim);
  return true;
}

bool shape_qmatmul(Infer *x) {
  const Attr *out = want_attr(x, "out", AT_DTYPE);
  return out && want_quantized(x, x->nin, 6) && matmul_result(x, (DType)out->u.i);
}

/* Element i of a list attribute with n elements, or `otherwise`. */
/* ---- precision ------------------------------------------------------------------------------- */

/* Attribute `to`, a format of codes. */
static bool want_code_attr(Infer *x, DType *to) {
  const Attr *at = want_attr(x, "to", AT_DTYPE);
  if (!at)
    return false;
  *to = (DType)at->u.i;
  return dtype_is_code(*to) || misfit(x, CODE_ATTR, "%s quantizes to e4m3, e5m2 or e2m1, not %s",
                                      op_info(x->code)->name, dtype_text(*to));
}

bool shape_quantize(Infer *x) {
  DType to;
  if (!want_operands(x, 2, 3) || !want_code_attr(x, &to) || !want_float(x, 0) ||
      !want_scalar(x, 1, MPCC_F32) ||
      (x->nin > 2 && (!want_scalar(x, 2, MPCC_I64) || operand(x, 0)->rank == 0)))
    return false;
  result(x, type_with_dtype(x->types, operand(x, 0), to));
  result_scalar(x, MPCC_F32);
  result_scalar(x, MPCC_F32);
  return true;
}

/* Attributes `block` and `scales` of what finds its scales itself. */
static const int64_t *want_scales(Infer *x, Scales *scales) {
  const Attr *block = want_attr(x, "block", AT_INTS), *scale = want_attr(x, "scales", AT_STR);
  if (!block || !scale)
    return NULL;
  *scales = scales_from_word(scale->u.s);
  if (block->u.ints.n == 2 && *scales < SCALES_COUNT)
    return block->u.ints.v;
  misfit(x, CODE_ATTR, "%s has no scales '%s' or no two ints 'block'", op_info(x->code)->name,
         scale->u.s);
  return NULL;
}

bool shape_block_quantize(Infer *x) {
  DType to;
  Scales scales;
  int64_t dim[2];
  int valid = infer_attr(x, "rows", AT_INT) != NULL,
      random = infer_attr(x, "stream", AT_INT) != NULL;
  if (!want_operands(x, 1 + valid + 2 * random, 1 + valid + 2 * random) ||
      !want_code_attr(x, &to) || !want_float(x, 0))
    return false;
  for (int i = 1; i < x->nin; i++)
    if (!want_scalar(x, i, MPCC_I64))
      return false;
  if (random && to != MPCC_E2M1)
    return misfit(x, CODE_ATTR, "%s rounds at random to e2m1 only", infer_subject(x));
  const int64_t *block = want_scales(x, &scales);
  if (!block || !blocks_of(x, operand(x, 0), block, false, dim))
    return false;
  result(x, type_with_dtype(x->types, operand(x, 0), to));
  result_scalar(x, MPCC_F32);
  result_as(x, scales_info(scales)->dt, 2, dim);
  result_scalar(x, MPCC_F32);
  return true;
}

bool shape_qgrad(Infer *x) {
  DType to;
  Scales scales;
  result(x, operand(x, 0));
  if (!want_operands(x, 1, 3) || !want_code_attr(x, &to) || !want_float(x, 0))
    return false;
  if (x->nin == 2)
    return want_scalar(x, 1, MPCC_F32);
  return want_scales(x, &scales) &&
         (x->nin < 3 || (want_scalar(x, 1, MPCC_I64) && want_scalar(x, 2, MPCC_I64) &&
                         want_attr(x, "stream", AT_INT)));
}

bool shape_fp8_update(Infer *x) {
  for (int i = 0; i < 3; i++)
    if (!want_rank(x, i, i == 0 ? 2 : 1) || !want_dtype(x, i, MPCC_F32))
      return false;
  const Type *slots = type_get(x->types, MPCC_F32, 1, operand(x, 0)->dim);
  if (!want_same_shape(x, 1, slots) || !want_same_shape(x, 2, slots))
    return false;
  result(x, operand(x, 0));
  result(x, slots);
  return true;
}
