/* Number formats: MPCC_F64 ... and the number of them. */
#ifndef MPCC_DTYPE_H
#define MPCC_DTYPE_H

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
#define DTYPE(id, text, torch, st, bits, ebits, mbits, max, minn, eps, cls) MPCC_##id,
#include "dtype.def"
#undef DTYPE
  MPCC_DTYPE_COUNT
} mpcc_dtype;

#ifdef __cplusplus
}
#endif
#endif
