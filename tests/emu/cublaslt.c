/* libcublasLt.so.13: the entry points. Attributes are stored as the library stores them, with only
 * their number and size checked; rules are looked at by the heuristic and by the product. */
#include "cublaslt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct cublasLtContext {
  int unused;
};

typedef struct {
  int id;
  size_t offset, bytes;
} Attribute;

#define DESC(id, field)                                                                            \
  {                                                                                                \
    CUBLASLT_MATMUL_DESC_##id, offsetof(struct cublasLtMatmulDescOpaque, field),                   \
        sizeof(((struct cublasLtMatmulDescOpaque *)0)->field)                                      \
  }
static const Attribute desc_attributes[] = {
    DESC(COMPUTE_TYPE, compute),
    DESC(SCALE_TYPE, scale_type),
    DESC(POINTER_MODE, pointer_mode),
    DESC(TRANSA, trans_a),
    DESC(TRANSB, trans_b),
    DESC(TRANSC, trans_c),
    DESC(FILL_MODE, fill_mode),
    DESC(EPILOGUE, epilogue),
    DESC(BIAS_POINTER, bias),
    DESC(BIAS_BATCH_STRIDE, bias_stride),
    DESC(EPILOGUE_AUX_POINTER, aux),
    DESC(EPILOGUE_AUX_LD, aux_ld),
    DESC(EPILOGUE_AUX_BATCH_STRIDE, aux_stride),
    DESC(ALPHA_VECTOR_BATCH_STRIDE, alpha_stride),
    DESC(SM_COUNT_TARGET, sm_count),
    DESC(A_SCALE_POINTER, a_scale),
    DESC(B_SCALE_POINTER, b_scale),
    DESC(C_SCALE_POINTER, c_scale),
    DESC(D_SCALE_POINTER, d_scale),
    DESC(AMAX_D_POINTER, d_amax),
    DESC(EPILOGUE_AUX_DATA_TYPE, aux_type),
    DESC(EPILOGUE_AUX_SCALE_POINTER, aux_scale),
    DESC(EPILOGUE_AUX_AMAX_POINTER, aux_amax),
    DESC(FAST_ACCUM, fast_accum),
    DESC(BIAS_DATA_TYPE, bias_type),
    DESC(A_SCALE_MODE, a_mode),
    DESC(B_SCALE_MODE, b_mode),
    DESC(C_SCALE_MODE, c_mode),
    DESC(D_SCALE_MODE, d_mode),
    DESC(EPILOGUE_AUX_SCALE_MODE, aux_mode),
    DESC(D_OUT_SCALE_POINTER, d_out_scale),
    DESC(D_OUT_SCALE_MODE, d_out_mode),
};
#define LAYOUT(id, field)                                                                          \
  {                                                                                                \
    CUBLASLT_MATRIX_LAYOUT_##id, offsetof(struct cublasLtMatrixLayoutOpaque, field),               \
        sizeof(((struct cublasLtMatrixLayoutOpaque *)0)->field)                                    \
  }
static const Attribute layout_attributes[] = {
    LAYOUT(TYPE, type),
    LAYOUT(ORDER, order),
    LAYOUT(ROWS, rows),
    LAYOUT(COLS, cols),
    LAYOUT(LD, ld),
    LAYOUT(BATCH_COUNT, batch),
    LAYOUT(STRIDED_BATCH_OFFSET, stride),
    LAYOUT(PLANE_OFFSET, plane),
    LAYOUT(BATCH_MODE, batch_mode),
};
#define PREF(id, field)                                                                            \
  {                                                                                                \
    CUBLASLT_MATMUL_PREF_##id, offsetof(struct cublasLtMatmulPreferenceOpaque, field),             \
        sizeof(((struct cublasLtMatmulPreferenceOpaque *)0)->field)                                \
  }
static const Attribute pref_attributes[] = {
    PREF(SEARCH_MODE, search),
    PREF(MAX_WORKSPACE_BYTES, workspace),
    PREF(REDUCTION_SCHEME_MASK, reductions),
    PREF(MIN_ALIGNMENT_A_BYTES, align_a),
    PREF(MIN_ALIGNMENT_B_BYTES, align_b),
    PREF(MIN_ALIGNMENT_C_BYTES, align_c),
    PREF(MIN_ALIGNMENT_D_BYTES, align_d),
    PREF(MAX_WAVES_COUNT, waves),
    PREF(IMPL_MASK, implementations),
};

static cublasStatus_t set(void *object, const Attribute *rows, size_t n, int id, const void *value,
                          size_t bytes) {
  for (size_t i = 0; object && value && i < n; i++)
    if (rows[i].id == id) {
      if (bytes != rows[i].bytes)
        return CUBLAS_STATUS_INVALID_VALUE;
      memcpy((char *)object + rows[i].offset, value, bytes);
      return CUBLAS_STATUS_SUCCESS;
    }
  return CUBLAS_STATUS_INVALID_VALUE;
}
#define SET(object, rows) set(object, rows, sizeof rows / sizeof *rows, attribute, value, bytes)

/* The head of a call that may fail. */
#define ENTER()                                                                                    \
  do {                                                                                             \
    const int injected_ = emu_library_call(__func__);                                              \
    if (injected_)                                                                                 \
      return injected_;                                                                            \
  } while (0)

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle) {
  ENTER();
  if (!handle)
    return CUBLAS_STATUS_INVALID_VALUE;
  *handle = emu_alloc(sizeof **handle);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  free(handle);
  return handle ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_INITIALIZED;
}
size_t cublasLtGetVersion(void) {
  return 130100;
}
const char *cublasLtGetStatusString(cublasStatus_t status) {
  static const struct {
    int value;
    const char *name;
  } rows[] = {
#define CUDA_CONST(name, value)
#define CUBLAS_CONST(name, value) {value, #name},
#include "runtime/cuda/constants.def"
#undef CUDA_CONST
#undef CUBLAS_CONST
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    if (rows[i].value == status && strncmp(rows[i].name, "CUBLAS_STATUS_", 14) == 0)
      return rows[i].name;
  return "CUBLAS_STATUS_UNKNOWN";
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *desc, int compute_type,
                                        int scale_type) {
  ENTER();
  if (!desc)
    return CUBLAS_STATUS_INVALID_VALUE;
  cublasLtMatmulDesc_t d = *desc = emu_alloc(sizeof *d);
  d->compute = compute_type;
  d->scale_type = scale_type;
  d->epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  d->bias_type = d->aux_type = -1;
  d->fill_mode = 2; /* full */
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  free(desc);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, int attribute,
                                              const void *value, size_t bytes) {
  ENTER();
  return SET(desc, desc_attributes);
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, int type, uint64_t rows,
                                          uint64_t cols, int64_t ld) {
  ENTER();
  if (!layout)
    return CUBLAS_STATUS_INVALID_VALUE;
  cublasLtMatrixLayout_t l = *layout = emu_alloc(sizeof *l);
  l->type = (uint32_t)type;
  l->rows = rows;
  l->cols = cols;
  l->ld = ld;
  l->batch = 1;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  free(layout);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout, int attribute,
                                                const void *value, size_t bytes) {
  ENTER();
  return SET(layout, layout_attributes);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference) {
  ENTER();
  if (!preference)
    return CUBLAS_STATUS_INVALID_VALUE;
  cublasLtMatmulPreference_t p = *preference = emu_alloc(sizeof *p);
  p->reductions = CUBLASLT_REDUCTION_SCHEME_MASK;
  p->align_a = p->align_b = p->align_c = p->align_d = 256;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  free(preference);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    int attribute, const void *value,
                                                    size_t bytes) {
  ENTER();
  return SET(preference, pref_attributes);
}

static void describe(Problem *p, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                     cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d) {
  memset(p, 0, sizeof *p);
  p->desc = *desc;
  p->a = *a;
  p->b = *b;
  p->c = *c;
  p->d = *d;
  p->m = d->rows;
  p->n = d->cols;
  p->k = desc->trans_a ? a->rows : a->cols;
  p->bias_type = desc->bias_type < 0 ? lt_bias_type(p) : desc->bias_type;
  p->aux_type = desc->aux_type < 0 ? (int)d->type : desc->aux_type;
}

/* What an algorithm is bound to: another problem with it is refused. */
static uint64_t problem_key(const Problem *p) {
  uint64_t h = p->m * 31 + p->n;
  h = h * 1000003 + p->k;
  h = h * 31 + p->a.type * 961 + p->b.type * 31 + p->d.type;
  return h * 1000003 + p->desc.epilogue * 4 + (uint64_t)(p->desc.trans_a * 2 + p->desc.trans_b);
}

/* An algorithm loads as wide as the alignment that was promised when it was asked for. */
static uint64_t promise(cublasLtMatmulPreference_t p) {
  return (uint64_t)p->align_a | (uint64_t)p->align_b << 16 | (uint64_t)p->align_c << 32 |
         (uint64_t)p->align_d << 48;
}
static bool is_kept(uint64_t promised, const Problem *p) {
  const uint64_t at[4] = {p->A, p->B, p->C, p->D};
  for (int i = 0; i < 4; i++) {
    const uint64_t bytes = promised >> (16 * i) & 0xffff;
    if (bytes && at[i] % bytes)
      return false;
  }
  return true;
}

static cublasStatus_t refuse(const Problem *p) {
  const char *why;
  const cublasStatus_t s = lt_check(p, &why);
  const char *log = getenv("EMU_LOG");
  FILE *f = s && log && *log ? fopen(log, "a") : NULL;
  if (f) {
    fprintf(f, "cublasLt: %s: wants %s\n", cublasLtGetStatusString(s), why);
    fclose(f);
  }
  return s;
}

enum { MAGIC = 0x6D706363 };

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int n,
                                              cublasLtMatmulHeuristicResult_t *results,
                                              int *found) {
  ENTER();
  if (!handle)
    return CUBLAS_STATUS_NOT_INITIALIZED;
  if (!desc || !a || !b || !c || !d || !preference || !results || !found || n < 1)
    return CUBLAS_STATUS_INVALID_VALUE;
  *found = 0;
  Problem p;
  describe(&p, desc, a, b, c, d);
  const cublasStatus_t s = refuse(&p);
  if (s)
    return s;
  for (int i = 0; i < LT_ALGOS && *found < n; i++) {
    if (lt_workspace(i) > preference->workspace)
      continue;
    cublasLtMatmulHeuristicResult_t *r = &results[(*found)++];
    memset(r, 0, sizeof *r);
    r->algo.data[0] = MAGIC;
    r->algo.data[1] = (uint64_t)i;
    r->algo.data[2] = problem_key(&p);
    r->algo.data[3] = promise(preference);
    r->workspaceSize = lt_workspace(i);
    r->state = CUBLAS_STATUS_SUCCESS;
    r->wavesCount = 1.0f;
  }
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha,
                              const void *A, cublasLtMatrixLayout_t a, const void *B,
                              cublasLtMatrixLayout_t b, const void *beta, const void *C,
                              cublasLtMatrixLayout_t c, void *D, cublasLtMatrixLayout_t d,
                              const cublasLtMatmulAlgo_t *algo, void *workspace,
                              size_t workspace_bytes, CUstream stream) {
  ENTER();
  if (!handle)
    return CUBLAS_STATUS_NOT_INITIALIZED;
  if (!desc || !a || !b || !c || !d || !alpha || !beta)
    return CUBLAS_STATUS_INVALID_VALUE;
  Problem p;
  describe(&p, desc, a, b, c, d);
  p.launched = true;
  p.A = (uint64_t)(uintptr_t)A;
  p.B = (uint64_t)(uintptr_t)B;
  p.C = (uint64_t)(uintptr_t)C;
  p.D = (uint64_t)(uintptr_t)D;
  p.workspace = (uint64_t)(uintptr_t)workspace;
  p.workspace_bytes = workspace_bytes;
  if (desc->pointer_mode == CUBLASLT_POINTER_MODE_DEVICE) {
    p.alpha_at = (uint64_t)(uintptr_t)alpha;
    p.beta_at = (uint64_t)(uintptr_t)beta;
  } else if (desc->scale_type == CUDA_R_64F) {
    p.alpha = *(const double *)alpha;
    p.beta = *(const double *)beta;
  } else {
    p.alpha = (double)*(const float *)alpha;
    p.beta = (double)*(const float *)beta;
  }
  if (algo) {
    if (algo->data[0] != MAGIC || algo->data[1] >= LT_ALGOS)
      return CUBLAS_STATUS_INVALID_VALUE;
    if (algo->data[2] != problem_key(&p) || !is_kept(algo->data[3], &p))
      return CUBLAS_STATUS_NOT_SUPPORTED;
    p.algo = (int)algo->data[1];
  }
  const cublasStatus_t s = refuse(&p);
  if (s)
    return s;
  const double time_us = p.algo == emu_env("EMU_FASTEST", -1) ? 4 : 5;
  return emu_library_put(stream, lt_compute, &p, sizeof p, time_us) == CUDA_SUCCESS
             ? CUBLAS_STATUS_SUCCESS
             : CUBLAS_STATUS_EXECUTION_FAILED;
}
