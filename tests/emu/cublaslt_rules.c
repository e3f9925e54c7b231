/* What cuBLASLt refuses: cublaslt_rules.def, in order; and the small tables it asks. */
#include "cublaslt.h"

const Epilogue *lt_epilogue(uint32_t id) {
  static const Epilogue rows[] = {
      {CUBLASLT_EPILOGUE_DEFAULT, false, false, false, false, ACT_NONE},
      {CUBLASLT_EPILOGUE_RELU, false, false, false, false, ACT_RELU},
      {CUBLASLT_EPILOGUE_RELU_AUX, false, true, false, false, ACT_RELU},
      {CUBLASLT_EPILOGUE_BIAS, true, false, false, false, ACT_NONE},
      {CUBLASLT_EPILOGUE_RELU_BIAS, true, false, false, false, ACT_RELU},
      {CUBLASLT_EPILOGUE_RELU_AUX_BIAS, true, true, false, false, ACT_RELU},
      {CUBLASLT_EPILOGUE_DRELU, false, true, true, false, ACT_RELU},
      {CUBLASLT_EPILOGUE_DRELU_BGRAD, false, true, true, true, ACT_RELU},
      {CUBLASLT_EPILOGUE_GELU, false, false, false, false, ACT_GELU},
      {CUBLASLT_EPILOGUE_GELU_AUX, false, true, false, false, ACT_GELU},
      {CUBLASLT_EPILOGUE_GELU_BIAS, true, false, false, false, ACT_GELU},
      {CUBLASLT_EPILOGUE_GELU_AUX_BIAS, true, true, false, false, ACT_GELU},
      {CUBLASLT_EPILOGUE_DGELU, false, true, true, false, ACT_GELU},
      {CUBLASLT_EPILOGUE_DGELU_BGRAD, false, true, true, true, ACT_GELU},
      {CUBLASLT_EPILOGUE_BGRADA, false, false, false, true, ACT_NONE},
      {CUBLASLT_EPILOGUE_BGRADB, false, false, false, true, ACT_NONE},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    if (rows[i].id == id)
      return &rows[i];
  return NULL;
}

uint32_t lt_bytes(int type) {
  switch (type) {
  case CUDA_R_64F:
    return 8;
  case CUDA_R_32F:
    return 4;
  case CUDA_R_16F:
  case CUDA_R_16BF:
    return 2;
  case CUDA_R_8F_E4M3:
  case CUDA_R_8F_E5M2:
    return 1;
  default:
    return 0;
  }
}

bool lt_is_fp8(int type) {
  return type == CUDA_R_8F_E4M3 || type == CUDA_R_8F_E5M2;
}

int lt_splits(int algo) {
  static const int splits[LT_ALGOS] = {1, 1, 2, 4, 2};
  return splits[algo];
}

size_t lt_workspace(int algo) {
  return algo == 2 ? 64 << 10 : algo == 3 ? 1 << 20 : 0;
}

static bool short_ld(const struct cublasLtMatrixLayoutOpaque *l) {
  return l->ld < 0 || (uint64_t)l->ld < l->rows;
}

static bool bad_mode(int mode) {
  return mode != CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F &&
         mode != CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
}

static bool is_16(int type) {
  return type == CUDA_R_16F || type == CUDA_R_16BF;
}

static bool types_agree(const Problem *p) {
  const int a = (int)p->a.type, b = (int)p->b.type, c = (int)p->c.type, d = (int)p->d.type,
            compute = p->desc.compute, scale = p->desc.scale_type;
  if (compute == CUBLAS_COMPUTE_64F || compute == CUBLAS_COMPUTE_64F_PEDANTIC)
    return a == CUDA_R_64F && b == a && c == a && d == a && scale == a;
  if (scale != CUDA_R_32F)
    return false;
  if (compute == CUBLAS_COMPUTE_32F_FAST_TF32 || compute == CUBLAS_COMPUTE_32F_FAST_16BF ||
      compute == CUBLAS_COMPUTE_32F_FAST_16F)
    return a == CUDA_R_32F && b == a && c == a && d == a;
  if (compute != CUBLAS_COMPUTE_32F && compute != CUBLAS_COMPUTE_32F_PEDANTIC)
    return false;
  if (lt_is_fp8(a) && lt_is_fp8(b)) {
    if (a == CUDA_R_8F_E5M2 && b == CUDA_R_8F_E5M2)
      return false;
    if (d == CUDA_R_8F_E5M2 && a == CUDA_R_8F_E4M3 && b == CUDA_R_8F_E4M3)
      return false;
    return lt_is_fp8(d) ? is_16(c) : c == d && (is_16(d) || d == CUDA_R_32F);
  }
  if (a != b || c != d)
    return false;
  return (a == CUDA_R_32F && d == a) || (is_16(a) && (d == a || d == CUDA_R_32F));
}

int lt_bias_type(const Problem *p) {
  if (lt_is_fp8((int)p->d.type))
    return (int)p->c.type;
  return lt_is_fp8((int)p->a.type) && p->d.type == CUDA_R_32F ? CUDA_R_16BF : (int)p->d.type;
}

cublasStatus_t lt_check(const Problem *p, const char **why) {
  const Epilogue *e = lt_epilogue(p->desc.epilogue);
  const bool fp8 = lt_is_fp8((int)p->a.type) && lt_is_fp8((int)p->b.type);
#define RULE(status, wants, broken)                                                                \
  if (broken) {                                                                                    \
    *why = wants;                                                                                  \
    return CUBLAS_STATUS_##status;                                                                 \
  }
#include "cublaslt_rules.def"
#undef RULE
  *why = NULL;
  return CUBLAS_STATUS_SUCCESS;
}
