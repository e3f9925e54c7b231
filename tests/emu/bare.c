/* Libraries that lack almost everything: what a driver or cuBLASLt of another age looks like. Built
 * as libcuda.so.1 and as libcublasLt.so.13. */
#include "runtime/cuda/api.h"

#define EXPORT __attribute__((visibility("default")))
EXPORT CUresult cuDriverGetVersion(int *version);
EXPORT size_t cublasLtGetVersion(void);

CUresult cuDriverGetVersion(int *version) {
  *version = 13000;
  return CUDA_SUCCESS;
}
size_t cublasLtGetVersion(void) {
  return 130000;
}
