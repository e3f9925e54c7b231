/* Sizes of runtime/cuda/api.h. */
#include "ours.h"

#include "runtime/cuda/api.h"

size_t ours_algo_bytes(void) {
  return sizeof(cublasLtMatmulAlgo_t);
}
size_t ours_result_bytes(void) {
  return sizeof(cublasLtMatmulHeuristicResult_t);
}
size_t ours_workspace_offset(void) {
  return offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize);
}
size_t ours_address_bytes(void) {
  return sizeof(CUdeviceptr);
}
