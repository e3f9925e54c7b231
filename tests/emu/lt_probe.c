/* What cuBLASLt offers an algorithm for: every row of types, operand order, epilogue and scales of
 * the products that mpcc makes or may make, one line each, with the library's answer.
 *
 *   lt_probe > FILE               asks the library that the loader finds
 *   lt_probe --compare FILE       asks, and says which answers differ from the file's
 *
 * On a GPU machine the file is the fixture that the rules of the stand-in are tested against
 * (heuristics.txt). Nothing is multiplied. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/cuda/syms.h"

enum { ROOM = 1 << 20, WORKSPACE = 32 << 20, MOST_LINES = 4096 };

typedef struct {
  mprt__cuda_api cu;
  mprt__lt_api lt;
  cublasLtHandle_t handle;
  CUdeviceptr room; /* what biases, scales and auxiliary buffers point to */
} Library;

typedef struct {
  int a, b, c, d, compute, scale; /* types */
} Types;

/* One row: what is asked. */
typedef struct {
  Types t;
  int ta, tb, epilogue, mode;
  int64_t m, n, k, batch;
} Row;

/* ---- names ----------------------------------------------------------------------------------- */

typedef struct {
  int value;
  const char *name;
} Word;

static const Word types[] = {{CUDA_R_64F, "f64"},      {CUDA_R_32F, "f32"},
                             {CUDA_R_16F, "f16"},      {CUDA_R_16BF, "bf16"},
                             {CUDA_R_8F_E4M3, "e4m3"}, {CUDA_R_8F_E5M2, "e5m2"}};
static const Word computes[] = {{CUBLAS_COMPUTE_64F, "64f"},
                                {CUBLAS_COMPUTE_32F, "32f"},
                                {CUBLAS_COMPUTE_32F_FAST_TF32, "tf32"}};
static const Word epilogues[] = {{CUBLASLT_EPILOGUE_DEFAULT, "default"},
                                 {CUBLASLT_EPILOGUE_BIAS, "bias"},
                                 {CUBLASLT_EPILOGUE_RELU, "relu"},
                                 {CUBLASLT_EPILOGUE_RELU_BIAS, "relu_bias"},
                                 {CUBLASLT_EPILOGUE_RELU_AUX_BIAS, "relu_aux_bias"},
                                 {CUBLASLT_EPILOGUE_DRELU, "drelu"},
                                 {CUBLASLT_EPILOGUE_DRELU_BGRAD, "drelu_bgrad"},
                                 {CUBLASLT_EPILOGUE_GELU, "gelu"},
                                 {CUBLASLT_EPILOGUE_GELU_BIAS, "gelu_bias"},
                                 {CUBLASLT_EPILOGUE_GELU_AUX_BIAS, "gelu_aux_bias"},
                                 {CUBLASLT_EPILOGUE_DGELU, "dgelu"},
                                 {CUBLASLT_EPILOGUE_DGELU_BGRAD, "dgelu_bgrad"},
                                 {CUBLASLT_EPILOGUE_BGRADA, "bgrada"},
                                 {CUBLASLT_EPILOGUE_BGRADB, "bgradb"}};
enum { EPILOGUES = sizeof epilogues / sizeof *epilogues };
static const Word modes[] = {{-1, "none"},
                             {CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F, "scalar"},
                             {CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F, "outer"},
                             {CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F, "vec128"}};
enum { MODES = sizeof modes / sizeof *modes };

static const char *name_of(const Word *w, size_t n, int value) {
  for (size_t i = 0; i < n; i++)
    if (w[i].value == value)
      return w[i].name;
  return "?";
}
#define NAME(table, value) name_of(table, sizeof(table) / sizeof *(table), value)

static void print_row(const Row *r, char *out, size_t cap) {
  snprintf(out, cap, "%s %s %s %s %s %c%c %s %s %lldx%lldx%lld batch %lld", NAME(types, r->t.a),
           NAME(types, r->t.b), NAME(types, r->t.c), NAME(types, r->t.d),
           NAME(computes, r->t.compute), r->ta ? 'T' : 'N', r->tb ? 'T' : 'N',
           NAME(epilogues, r->epilogue), NAME(modes, r->mode), (long long)r->m, (long long)r->n,
           (long long)r->k, (long long)r->batch);
}

/* ---- asking ---------------------------------------------------------------------------------- */

static bool has_aux(int e) {
  return (e & 128) != 0; /* as the header numbers them */
}
static bool has_bias(int e) {
  return (e & (4 | 16 | 256 | 512)) != 0;
}

static void set(Library *l, cublasLtMatmulDesc_t d, int attribute, const void *v, size_t bytes) {
  (void)l->lt.cublasLtMatmulDescSetAttribute(d, attribute, v,
                                             bytes); /* the heuristic refuses it then */
}

static void describe(Library *l, cublasLtMatmulDesc_t d, const Row *r) {
  const int32_t ta = r->ta ? CUBLAS_OP_T : CUBLAS_OP_N, tb = r->tb ? CUBLAS_OP_T : CUBLAS_OP_N;
  const uint32_t epilogue = (uint32_t)r->epilogue;
  const void *room = (const void *)(uintptr_t)l->room;
  set(l, d, CUBLASLT_MATMUL_DESC_TRANSA, &ta, sizeof ta);
  set(l, d, CUBLASLT_MATMUL_DESC_TRANSB, &tb, sizeof tb);
  set(l, d, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
  if (has_bias(r->epilogue))
    set(l, d, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &room, sizeof room);
  if (has_aux(r->epilogue)) {
    const int64_t ld = (r->m + 127) / 128 * 128;
    set(l, d, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &room, sizeof room);
    set(l, d, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &ld, sizeof ld);
  }
  if (r->mode >= 0) {
    const int32_t mode = r->mode;
    set(l, d, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &room, sizeof room);
    set(l, d, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &room, sizeof room);
    if (mode) {
      set(l, d, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &mode, sizeof mode);
      set(l, d, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &mode, sizeof mode);
    }
  }
}

static void layout(Library *l, cublasLtMatrixLayout_t *out, int type, int64_t rows, int64_t cols,
                   int64_t batch) {
  const int32_t count = (int32_t)batch;
  const int64_t stride = rows * cols;
  *out = NULL;
  if (l->lt.cublasLtMatrixLayoutCreate(out, type, (uint64_t)rows, (uint64_t)cols, rows) ||
      batch == 1)
    return;
  l->lt.cublasLtMatrixLayoutSetAttribute(*out, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count,
                                         sizeof count);
  l->lt.cublasLtMatrixLayoutSetAttribute(*out, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride,
                                         sizeof stride);
}

/* Whether the library offers an algorithm; *status: what it answered. */
static bool ask(Library *l, const Row *r, cublasStatus_t *status) {
  cublasLtMatmulDesc_t d = NULL;
  cublasLtMatrixLayout_t x[4] = {NULL};
  cublasLtMatmulPreference_t preference = NULL;
  cublasLtMatmulHeuristicResult_t offer[4];
  const uint64_t workspace = WORKSPACE;
  int found = 0;
  *status = l->lt.cublasLtMatmulDescCreate(&d, r->t.compute, r->t.scale);
  if (*status == CUBLAS_STATUS_SUCCESS) {
    describe(l, d, r);
    layout(l, &x[0], r->t.a, r->ta ? r->k : r->m, r->ta ? r->m : r->k, r->batch);
    layout(l, &x[1], r->t.b, r->tb ? r->n : r->k, r->tb ? r->k : r->n, r->batch);
    layout(l, &x[2], r->t.c, r->m, r->n, r->batch);
    layout(l, &x[3], r->t.d, r->m, r->n, r->batch);
    l->lt.cublasLtMatmulPreferenceCreate(&preference);
    l->lt.cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                               &workspace, sizeof workspace);
    *status = l->lt.cublasLtMatmulAlgoGetHeuristic(l->handle, d, x[0], x[1], x[2], x[3], preference,
                                                   4, offer, &found);
    l->lt.cublasLtMatmulPreferenceDestroy(preference);
    for (int i = 0; i < 4; i++)
      if (x[i])
        l->lt.cublasLtMatrixLayoutDestroy(x[i]);
    l->lt.cublasLtMatmulDescDestroy(d);
  }
  return *status == CUBLAS_STATUS_SUCCESS && found > 0;
}

/* ---- the rows -------------------------------------------------------------------------------- */

#define F8 CUDA_R_8F_E4M3
#define G8 CUDA_R_8F_E5M2
#define BF CUDA_R_16BF
#define HF CUDA_R_16F
#define SF CUDA_R_32F
#define DF CUDA_R_64F
#define C32 CUBLAS_COMPUTE_32F, CUDA_R_32F

static const Types combinations[] = {{DF, DF, DF, DF, CUBLAS_COMPUTE_64F, DF},
                                     {SF, SF, SF, SF, C32},
                                     {SF, SF, SF, SF, CUBLAS_COMPUTE_32F_FAST_TF32, SF},
                                     {HF, HF, HF, HF, C32},
                                     {HF, HF, SF, SF, C32},
                                     {BF, BF, BF, BF, C32},
                                     {BF, BF, SF, SF, C32},
                                     {BF, HF, BF, BF, C32},
                                     {BF, SF, SF, SF, C32},
                                     {F8, F8, BF, BF, C32},
                                     {F8, F8, HF, HF, C32},
                                     {F8, F8, SF, SF, C32},
                                     {F8, F8, BF, F8, C32},
                                     {F8, G8, BF, BF, C32},
                                     {G8, F8, BF, BF, C32},
                                     {G8, F8, SF, SF, C32},
                                     {G8, F8, BF, G8, C32},
                                     {F8, F8, BF, G8, C32},
                                     {G8, G8, BF, BF, C32},
                                     {G8, G8, SF, SF, C32}};

/* Calls `each` for every row; the number of rows. */
static int rows(void (*each)(void *user, const Row *r), void *user) {
  static const int64_t sizes[][4] = {
      {64, 48, 32, 1}, {256, 128, 64, 1}, {40, 24, 20, 1}, {64, 48, 32, 3}};
  int n = 0;
  for (size_t t = 0; t < sizeof combinations / sizeof *combinations; t++)
    for (int trans = 0; trans < 4; trans++)
      for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (int e = 0; e < EPILOGUES; e++)
          for (int m = 0; m < MODES; m++) {
            const bool fp8 = combinations[t].a == F8 || combinations[t].a == G8;
            const bool plain = epilogues[e].value == CUBLASLT_EPILOGUE_DEFAULT;
            if ((!fp8 && modes[m].value > 0) || ((s > 0 || m > 1) && !plain))
              continue; /* odd sizes, batches and vectors of scales: without epilogue */
            const Row r = {combinations[t],    trans & 1,      trans >> 1,
                           epilogues[e].value, modes[m].value, sizes[s][0],
                           sizes[s][1],        sizes[s][2],    sizes[s][3]};
            each(user, &r);
            n++;
          }
  return n;
}

/* ---- the file -------------------------------------------------------------------------------- */

typedef struct {
  Library l;
  char *line[MOST_LINES]; /* of the file to compare with */
  int nline, differ, missing, asked;
  bool compare;
} Run;

static void on_row(void *user, const Row *r) {
  Run *run = user;
  char text[160], line[200];
  cublasStatus_t status;
  const bool offered = ask(&run->l, r, &status);
  print_row(r, text, sizeof text);
  snprintf(line, sizeof line, "%s: %s", text, offered ? "offered" : "refused");
  run->asked++;
  if (!run->compare) {
    printf("%s%s\n", line,
           offered                                 ? ""
           : status == CUBLAS_STATUS_INVALID_VALUE ? " invalid"
                                                   : " unsupported");
    return;
  }
  const size_t len = strlen(line);
  for (int i = 0; i < run->nline; i++) {
    if (strncmp(run->line[i], text, strlen(text)) || run->line[i][strlen(text)] != ':')
      continue;
    if (strncmp(run->line[i], line, len)) {
      printf("%s here; in the file: %s\n", line, run->line[i]);
      run->differ++;
    }
    return;
  }
  run->missing++;
}

static bool read_lines(Run *run, const char *path) {
  FILE *f = fopen(path, "r");
  char line[400];
  while (f && run->nline < MOST_LINES && fgets(line, sizeof line, f)) {
    line[strcspn(line, "\n")] = 0;
    if (*line && *line != '#')
      run->line[run->nline++] = strdup(line);
  }
  if (f)
    fclose(f);
  return run->nline > 0;
}

static bool open_library(Library *l, char *device, size_t cap, char why[MPRT__CUDA_WHY]) {
  CUdevice d;
  CUcontext context;
  if (mprt__cuda_open(&l->cu, why) != MPRT__CUDA_READY ||
      mprt__lt_open(&l->lt, why) != MPRT__CUDA_READY)
    return false;
  CUresult r = l->cu.cuDeviceGet(&d, 0);
  r = r ? r : l->cu.cuDeviceGetName(device, (int)cap, d);
  r = r ? r : l->cu.cuDevicePrimaryCtxRetain(&context, d);
  r = r ? r : l->cu.cuCtxSetCurrent(context);
  r = r ? r : l->cu.cuMemAlloc_v2(&l->room, ROOM);
  if (r)
    mprt__cuda_error(&l->cu, r, "first device", why);
  else if (l->lt.cublasLtCreate(&l->handle))
    snprintf(why, MPRT__CUDA_WHY, "cuBLASLt: cublasLtCreate failed");
  return !r && l->handle;
}

int main(int argc, char **argv) {
  static Run run;
  char why[MPRT__CUDA_WHY] = "", device[128] = "";
  run.compare = argc == 3 && !strcmp(argv[1], "--compare");
  if (argc != 1 && !run.compare) {
    fprintf(stderr, "usage: lt_probe [--compare FILE]\n");
    return 2;
  }
  if (run.compare && !read_lines(&run, argv[2])) {
    fprintf(stderr, "lt_probe: nothing in %s\n", argv[2]);
    return 4;
  }
  if (!open_library(&run.l, device, sizeof device, why)) {
    fprintf(stderr, "%s\n", why);
    return 3;
  }
  if (!run.compare)
    printf("# %s, cuBLASLt %zu\n", device, run.l.lt.cublasLtGetVersion());
  rows(on_row, &run);
  if (run.compare)
    printf("%d asked, %d answered otherwise than in the file, %d not in it\n", run.asked,
           run.differ, run.missing);
  for (int i = 0; i < run.nline; i++)
    free(run.line[i]);
  return run.differ || (run.compare && run.missing) ? 1 : 0;
}
