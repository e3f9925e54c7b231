/* What mpcc needs of the CUDA driver API and of cuBLASLt, declared here so that every machine
 * builds everything: no toolkit header is included, the libraries are loaded at run time
 * (syms.def). Names are NVIDIA's, so that the documentation of the two libraries applies;
 * constants.def has the values. Standalone; tests compare values and sizes with a toolkit's headers
 * where there is one. */
#ifndef MPCC_RUNTIME_CUDA_API_H
#define MPCC_RUNTIME_CUDA_API_H

#include <stddef.h>
#include <stdint.h>

enum {
#define CUDA_CONST(name, value) name = value,
#define CUBLAS_CONST(name, value) name = value,
#include "runtime/cuda/constants.def"
#undef CUDA_CONST
#undef CUBLAS_CONST
};

/* Enumerations of the libraries are passed as int: the same in the x86-64 calling convention. */
typedef int CUresult, CUdevice;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef struct CUgraph_st *CUgraph;
typedef struct CUgraphExec_st *CUgraphExec;

typedef int cublasStatus_t;
typedef struct cublasLtContext *cublasLtHandle_t;
typedef struct cublasLtMatmulDescOpaque *cublasLtMatmulDesc_t;
typedef struct cublasLtMatrixLayoutOpaque *cublasLtMatrixLayout_t;
typedef struct cublasLtMatmulPreferenceOpaque *cublasLtMatmulPreference_t;
typedef struct {
  uint64_t data[8];
} cublasLtMatmulAlgo_t;
typedef struct {
  cublasLtMatmulAlgo_t algo;
  size_t workspaceSize; /* bytes */
  int state;            /* cublasStatus_t */
  float wavesCount;
  int reserved[4];
} cublasLtMatmulHeuristicResult_t;

#endif
