/* libcublasLt.so.13, private to its files: cublaslt.c (descriptors, entry points),
 * cublaslt_rules.def and cublaslt_rules.c (what the library refuses), cublaslt_compute.c (the
 * product, in plain arithmetic). Matrices are column-major; op(A) is m x k, op(B) k x n, C and D m
 * x n. */
#ifndef EMU_CUBLASLT_H
#define EMU_CUBLASLT_H

#include "emu.h"
#include "runtime/cuda/api.h"

struct cublasLtMatmulDescOpaque {
  int32_t compute, scale_type, pointer_mode, trans_a, trans_b, trans_c, fill_mode;
  uint32_t epilogue;
  uint64_t bias, aux;
  int64_t bias_stride, aux_ld, aux_stride, alpha_stride;
  int32_t sm_count;
  uint64_t a_scale, b_scale, c_scale, d_scale, d_amax, aux_scale, aux_amax, d_out_scale;
  int32_t aux_type, bias_type; /* -1: not set */
  int8_t fast_accum;
  int32_t a_mode, b_mode, c_mode, d_mode, aux_mode, d_out_mode;
};

struct cublasLtMatrixLayoutOpaque {
  uint32_t type;
  int32_t order;
  uint64_t rows, cols;
  int64_t ld;
  int32_t batch;
  int64_t stride, plane;
  uint32_t batch_mode;
};

struct cublasLtMatmulPreferenceOpaque {
  uint32_t search;
  uint64_t workspace;
  uint32_t reductions, align_a, align_b, align_c, align_d;
  float waves;
  uint64_t implementations;
};

/* One call, resolved. */
typedef struct {
  struct cublasLtMatmulDescOpaque desc;
  struct cublasLtMatrixLayoutOpaque a, b, c, d;
  uint64_t m, n, k;
  int bias_type, aux_type;
  /* of cublasLtMatmul alone */
  bool launched;
  uint64_t A, B, C, D, workspace, alpha_at, beta_at;
  double alpha, beta;
  int algo;
  size_t workspace_bytes;
} Problem;

/* ---- epilogues ---- */
typedef struct {
  uint32_t id;
  bool bias, aux, backward, bgrad; /* bias: reads a vector; bgrad: writes one */
  enum { ACT_NONE, ACT_RELU, ACT_GELU } act;
} Epilogue;
const Epilogue *lt_epilogue(uint32_t id); /* NULL: not one */

uint32_t lt_bytes(int type); /* of an element; 0: a type without a stand-in */
bool lt_is_fp8(int type);
int lt_bias_type(const Problem *p); /* of the bias, when the descriptor does not say */
/* The first rule that is broken: its status and words, or CUBLAS_STATUS_SUCCESS. */
cublasStatus_t lt_check(const Problem *p, const char **why);
CUresult lt_compute(const void *problem);

enum { LT_ALGOS = 5 };
/* Workspace of algorithm i, and how many parts of K it adds, in a fixed order. */
size_t lt_workspace(int algo);
int lt_splits(int algo);

#define CUDA_SYM(name, args)
#define LT_SYM(result, name, args) __attribute__((visibility("default"))) result name args;
#include "runtime/cuda/syms.def"
#undef CUDA_SYM
#undef LT_SYM

/* Of the stand-in libcuda. time_us: virtual, of the device. */
typedef CUresult (*LibraryWork)(const void *args);
uint8_t *emu_library_access(const char *who, uint64_t address, uint64_t bytes, bool write);
int emu_library_call(const char *name); /* EMU_LOG, EMU_FAIL */
CUresult emu_library_put(CUstream s, LibraryWork run, const void *args, size_t bytes,
                         double time_us);

#endif
