/* What step, fuse and plan may know of a target: plain data, filled by a code generator, handed over by
 * the driver and printed in the module header as attributes `target.*`. */
#ifndef MPCC_TARGET_H
#define MPCC_TARGET_H

#include <stdbool.h>
#include <stdint.h>

#include "mpcc/base.h"

typedef struct {
  char name[24];       /* "cpu" */
  char level[24];      /* "x86-64-v3", "x86-64-v4-bf16" ... */
  int vector_bytes;    /* 32, 64 */
  bool bf16_dot;       /* pairs of bf16 accumulate into f32 */
  /* Products: columns of one packed panel of the second operand, by compute dtype (f64, f32, bf16).
   * k_pair: consecutive k kept together in a panel (2 for bf16 dot products, else 1). */
  int panel_cols_f64, panel_cols_f32, panel_cols_bf16;
  int k_pair_bf16;
  bool rounding_packs;  /* packs round FP32 to 16 bits: products need no copies of parameters */
  bool raw_factors;     /* products take a second factor as it lies, one for each batch */
  int raw_rows;         /* products of at most so many rows take a parameter as it lies, rounding to bf16 */
  bool half_tiles;      /* convolutions multiply two bf16 or two f16 factors as they are */
  bool depth_windows;   /* depthwise convolutions are kernels of kind conv */
  bool turned_apart;    /* a convolution's result whose columns are to lie apart is turned by a kernel of its own */
  bool joined_grads;    /* gradients of attention are written where their concatenation is wanted */
  bool tf32;            /* products of FP32 factors that are TF32 already say so: attr tf32 */
  int panel_bytes_rows; /* rows kernels: aim of bytes touched by one panel */
  int partials;         /* most partial results of a rows kernel, one a panel; 0: 64 */
  int turned_rows;      /* a kernel that writes a transposed result has whole panels of so many rows */
  /* Plain products are calls of a vendor's library (kind gemm), which takes matrices as they lie, and
   * codes of 8 bits when both factors are contiguous along k. */
  bool library_products, library_fp8;
} TargetCaps;

/* dtype in which a product of operands a, b is computed on this target: f64, f32 or bf16. */
static inline DType target_product_dtype(const TargetCaps *c, DType a, DType b) {
  if (a == MPCC_F64 || b == MPCC_F64)
    return MPCC_F64;
  /* e4m3 and e5m2 values are exact in bf16; f16 values are not. */
  if (c->bf16_dot && (a == MPCC_BF16 || dtype_is_fp8(a)) && (b == MPCC_BF16 || dtype_is_fp8(b)))
    return MPCC_BF16;
  return MPCC_F32;
}

#endif
