/* Number formats: enumerators DT_F64 ... and the facts of dtype.def. */
#ifndef MPCC_DTYPE_H
#define MPCC_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
#define DTYPE(id, text, st, bits, ebits, mbits, max, minn, eps, cls) DT_##id,
#include "dtype.def"
#undef DTYPE
  DT_COUNT
} DType;

typedef struct {
  const char *text;        /* "bf16" */
  const char *safetensors; /* "BF16" */
  int bits, exponent_bits, mantissa_bits;
  double max_finite, min_normal, eps;
  char cls; /* 'F', 'I', 'B' */
} DTypeInfo;

static inline const DTypeInfo *dtype_info(DType d) {
  static const DTypeInfo rows[] = {
#define DTYPE(id, text, st, bits, ebits, mbits, max, minn, eps, cls)                               \
  {text, st, bits, ebits, mbits, max, minn, eps, #cls[0]},
#include "dtype.def"
#undef DTYPE
  };
  return &rows[d];
}

static inline const char *dtype_text(DType d) { return dtype_info(d)->text; }
/* Bytes one element takes in memory. */
static inline size_t dtype_bytes(DType d) { return (size_t)dtype_info(d)->bits / 8; }
static inline bool dtype_is_float(DType d) { return dtype_info(d)->cls == 'F'; }
static inline bool dtype_is_fp8(DType d) { return d == DT_E4M3 || d == DT_E5M2; }
/* Formats of quantized elements: they saturate. e8m0 holds powers of two and is rounded up. */
static inline bool dtype_is_code(DType d) { return dtype_is_fp8(d) || d == DT_E2M1; }
static inline bool dtype_is_half(DType d) { return d == DT_BF16 || d == DT_F16; }
/* Format named by text ("bf16"), or DT_COUNT. */
static inline DType dtype_from_text(const char *text) {
  for (int i = 0; i < DT_COUNT; i++)
    if (!strcmp(text, dtype_info((DType)i)->text))
      return (DType)i;
  return DT_COUNT;
}

#ifdef __cplusplus
}
#endif
#endif
