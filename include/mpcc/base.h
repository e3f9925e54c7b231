/* What every folder of mpcc starts from and no host sees: short names of the types that the installed
 * headers share, and the facts of number formats (dtype.def). */
#ifndef MPCC_BASE_H
#define MPCC_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "mpcc/dtype.h"
#include "mpcc/status.h"

typedef mpcc_status Status;
typedef mpcc_dtype DType;

typedef struct {
  const char *text;        /* "bf16" */
  const char *torch;       /* "bfloat16" */
  const char *safetensors; /* "BF16" */
  int bits, exponent_bits, mantissa_bits;
  double max_finite, min_normal, eps;
  char cls; /* 'F', 'I', 'B' */
} DTypeInfo;

static inline const DTypeInfo *dtype_info(DType d) {
  static const DTypeInfo rows[] = {
#define DTYPE(id, text, torch, st, bits, ebits, mbits, max, minn, eps, cls)                        \
  {text, torch, st, bits, ebits, mbits, max, minn, eps, #cls[0]},
#include "dtype.def"
#undef DTYPE
  };
  return &rows[d];
}

static inline const char *dtype_text(DType d) { return dtype_info(d)->text; }
/* Bytes one element takes in memory. */
static inline size_t dtype_bytes(DType d) { return (size_t)dtype_info(d)->bits / 8; }
static inline bool dtype_is_float(DType d) { return dtype_info(d)->cls == 'F'; }
static inline bool dtype_is_fp8(DType d) { return d == MPCC_E4M3 || d == MPCC_E5M2; }
/* Formats of quantized elements: they saturate. e8m0 holds powers of two and is rounded up. */
static inline bool dtype_is_code(DType d) { return dtype_is_fp8(d) || d == MPCC_E2M1; }
static inline bool dtype_is_half(DType d) { return d == MPCC_BF16 || d == MPCC_F16; }
/* Format named by text ("bf16"), or MPCC_DTYPE_COUNT. */
static inline DType dtype_from_text(const char *text) {
  for (int i = 0; i < MPCC_DTYPE_COUNT; i++)
    if (!strcmp(text, dtype_info((DType)i)->text))
      return (DType)i;
  return MPCC_DTYPE_COUNT;
}

/* PyTorch's name, as specs have it ("bfloat16"), and back; MPCC_DTYPE_COUNT: no format's. */
static inline const char *dtype_torch(DType d) { return dtype_info(d)->torch; }
static inline DType dtype_from_torch(const char *word) {
  for (int i = 0; i < MPCC_DTYPE_COUNT; i++)
    if (!strcmp(word, dtype_torch((DType)i)))
      return (DType)i;
  return MPCC_DTYPE_COUNT;
}

#endif
