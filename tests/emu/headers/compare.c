/* Values and sizes of runtime/cuda/api.h beside those of a toolkit's headers. */
#include <cublasLt.h>
#include <cuda.h>
#include <stdio.h>

#include "ours.h"

static int differ;

static void check(const char *name, long toolkit, long ours) {
  if (toolkit == ours)
    return;
  printf("%s: %ld in the toolkit's headers, %ld in runtime/cuda/constants.def\n", name, toolkit,
         ours);
  differ = 1;
}

int main(void) {
#define CUDA_CONST(name, value) check(#name, (long)name, value);
#define CUBLAS_CONST(name, value) check(#name, (long)name, value);
#include "runtime/cuda/constants.def"
  check("sizeof cublasLtMatmulAlgo_t", sizeof(cublasLtMatmulAlgo_t), (long)ours_algo_bytes());
  check("sizeof cublasLtMatmulHeuristicResult_t", sizeof(cublasLtMatmulHeuristicResult_t),
        (long)ours_result_bytes());
  check("offset of workspaceSize", offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize),
        (long)ours_workspace_offset());
  check("sizeof CUdeviceptr", sizeof(CUdeviceptr), (long)ours_address_bytes());
  printf("%s\n", differ ? "different" : "same values and sizes");
  return differ;
}
