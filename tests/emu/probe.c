/* A program like any other: opens the CUDA libraries by the loader's search and says what it finds.
 */
#include <stdio.h>

#include "runtime/cuda/syms.h"

int main(void) {
  mprt__cuda_api cu;
  mprt__lt_api lt;
  char why[MPRT__CUDA_WHY], name[128] = "";
  CUdevice device;
  CUcontext context;
  mprt__cuda_state state = mprt__cuda_open(&cu, why);
  if (state == MPRT__CUDA_READY)
    state = mprt__lt_open(&lt, why);
  if (state != MPRT__CUDA_READY) {
    printf("%s\n", why);
    return 1;
  }
  CUresult r = cu.cuDeviceGet(&device, 0);
  r = r ? r : cu.cuDeviceGetName(name, sizeof name, device);
  r = r ? r : cu.cuDevicePrimaryCtxRetain(&context, device);
  if (r) {
    mprt__cuda_error(&cu, r, "first device", why);
    printf("%s\n", why);
    return 1;
  }
  printf("%s, cuBLASLt %zu\n", name, lt.cublasLtGetVersion());
  return 0;
}
