/* What matrices that are quantized in blocks go through: padding, and the transform that NVFP4's
 * weight gradients are quantized behind: each 16 rows of a matrix times an orthogonal matrix, so
 * that a large element spreads over 16 codes. Both factors of a product that sums over rows get the
 * same one, so the product stays what it was. */
#include "passes/passes.h"

/* Bits 0 to 3 of a and of b: sums of products mod 2 give the signs of Sylvester's matrix; bit b of
 * SIGNS, fixed for all runs, the sign that goes in front. All numbers are exact in f32. */
#define BIT(x, half, quarter) "(floor(" #x " * " #half ") - 2 * floor(" #x " * " #quarter "))"
static const char entries[] =
    "t0 = " BIT(b, 1, 0.5) ", t1 = " BIT(b, 0.5, 0.25) ", t2 = " BIT(b, 0.25, 0.125) ", t3 = " BIT(
        b, 0.125,
        0.0625) ", t4 = 40503 / ((1 + t0) * (1 + 3 * t1) * (1 + 15 * t2) * (1 + 255 * t3))"
                ", t5 = 1 - 2 * (floor(t4) - 2 * floor(t4 * 0.5))"
                ", 0.25 * t5 * (1 - 2 * t0 * " BIT(a, 1, 0.5) ") * (1 - 2 * t1 * " BIT(
                    a, 0.5,
                    0.25) ") * (1 - 2 * t2 * " BIT(a, 0.25,
                                                   0.125) ") * (1 - 2 * t3 * " BIT(a, 0.125,
                                                                                   0.0625) ")";
#undef BIT

static Value *index_of(Builder *b, int dim) {
  const int64_t shape[2] = {HADAMARD, HADAMARD};
  Attr attr[2] = {attr_ints(b, "shape", 2, shape), attr_i(b, "dim", dim)};
  return build_cast(b, build_op(b, OP_iota, 0, NULL, 2, attr)->out[0], MPCC_F32);
}

Value *build_hadamard(Builder *b, Value *x) {
  const int64_t rows = x->type->dim[0], cols = x->type->dim[1], swap[3] = {0, 2, 1};
  const int64_t tall[3] = {rows / HADAMARD, HADAMARD, cols};
  Value *in[2] = {index_of(b, 0), index_of(b, 1)};
  Value *matrix = build_expr(b, entries, x->type->dt, 2, in);
  Value *turned = build_permute(b, build_reshape(b, x, 3, tall), swap);
  Value *y = build2(b, OP_linear, turned, matrix);
  return build_reshape(b, build_permute(b, y, swap), 2, x->type->dim);
}

Value *build_padded(Builder *b, Value *x, const int64_t *block) {
  for (int d = 0; d < 2; d++) {
    int64_t n = x->type->dim[d],
            whole = block[d] > 0 ? (n + block[d] - 1) / block[d] * block[d] : n;
    Attr attr[3] = {attr_i(b, "dim", d), attr_i(b, "start", 0), attr_i(b, "size", whole)};
    if (whole > n && n > block[d])
      x = build_op(b, OP_unslice, 1, &x, 3, attr)->out[0];
  }
  return x;
}

Value *build_cut(Builder *b, Value *x, const int64_t *dim) {
  for (int d = 0; d < 2; d++)
    if (x->type->dim[d] > dim[d])
      x = build_slice(b, x, d, 0, dim[d]);
  return x;
}
