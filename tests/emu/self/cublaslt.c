/* The stand-in libcublasLt.so.13 through the product's symbol table: products of every type,
 * operand order and epilogue against double precision, and a case for every rule that breaks it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mpcc/num.h"
#include "runtime/cuda/syms.h"
#include "tests/check_run.h"

static mprt__cuda_api cu;
static mprt__lt_api lt;
static CUcontext context;
static cublasLtHandle_t handle;

#define OK(call) ck_assert_int_eq(call, 0)

static void open_libraries(void) {
  char why[MPRT__CUDA_WHY];
  ck_assert_msg(mprt__cuda_open(&cu, why) == MPRT__CUDA_READY, "%s", why);
  ck_assert_msg(mprt__lt_open(&lt, why) == MPRT__CUDA_READY, "%s", why);
  OK(cu.cuDevicePrimaryCtxRetain(&context, 0));
  OK(cu.cuCtxSetCurrent(context));
  OK(lt.cublasLtCreate(&handle));
}

/* One product: what the tests vary. */
typedef struct {
  int type_a, type_b, type_c, type_d, compute, scale_type;
  bool ta, tb;
  int m, n, k, batch;
  int epilogue, algo;
  float alpha, beta;
  bool scales, row_scales, amax;
} Case;

static DType dtype_of(int type) {
  return type == CUDA_R_64F       ? MPCC_F64
         : type == CUDA_R_32F     ? MPCC_F32
         : type == CUDA_R_16F     ? MPCC_F16
         : type == CUDA_R_16BF    ? MPCC_BF16
         : type == CUDA_R_8F_E4M3 ? MPCC_E4M3
                                  : MPCC_E5M2;
}
static size_t bytes_of(int type) {
  return dtype_bytes(dtype_of(type));
}

static double random_value(uint64_t *s) {
  *s = *s * 6364136223846793005u + 1442695040888963407u;
  return (double)(int64_t)(*s >> 33) * 0x1p-30 - 1.0;
}

typedef struct {
  double *v; /* rounded to the type */
  CUdeviceptr p;
  int type;
  size_t n;
} Matrix;

static Matrix matrix(int type, size_t n, uint64_t *seed) {
  Matrix x = {malloc(n * sizeof(double)), 0, type, n};
  uint8_t *host = malloc(n * bytes_of(type));
  for (size_t i = 0; i < n; i++) {
    x.v[i] = num_round(random_value(seed), dtype_of(type));
    num_store(host + i * bytes_of(type), dtype_of(type), x.v[i]);
  }
  OK(cu.cuMemAlloc_v2(&x.p, n * bytes_of(type)));
  OK(cu.cuMemcpyHtoD_v2(x.p, host, n * bytes_of(type)));
  free(host);
  return x;
}
static void fetch(Matrix *x) {
  uint8_t *host = malloc(x->n * bytes_of(x->type));
  OK(cu.cuMemcpyDtoH_v2(host, x->p, x->n * bytes_of(x->type)));
  for (size_t i = 0; i < x->n; i++)
    x->v[i] = num_load(host + i * bytes_of(x->type), dtype_of(x->type));
  free(host);
}
static void drop(Matrix *x) {
  free(x->v);
  OK(cu.cuMemFree_v2(x->p));
}

typedef struct {
  cublasLtMatmulDesc_t desc;
  cublasLtMatrixLayout_t a, b, c, d;
  cublasLtMatmulPreference_t pref;
} Plan;

#define ATTR(plan, id, type_, value_)                                                              \
  do {                                                                                             \
    type_ attr_ = (type_)(value_);                                                                 \
    OK(lt.cublasLtMatmulDescSetAttribute((plan)->desc, CUBLASLT_MATMUL_DESC_##id, &attr_,          \
                                         sizeof attr_));                                           \
  } while (0)

static Plan plan_of(const Case *c) {
  Plan p;
  OK(lt.cublasLtMatmulDescCreate(&p.desc, c->compute, c->scale_type));
  const int ar = c->ta ? c->k : c->m, ac = c->ta ? c->m : c->k, br = c->tb ? c->n : c->k,
            bc = c->tb ? c->k : c->n;
  OK(lt.cublasLtMatrixLayoutCreate(&p.a, c->type_a, (uint64_t)ar, (uint64_t)ac, ar));
  OK(lt.cublasLtMatrixLayoutCreate(&p.b, c->type_b, (uint64_t)br, (uint64_t)bc, br));
  OK(lt.cublasLtMatrixLayoutCreate(&p.c, c->type_c, (uint64_t)c->m, (uint64_t)c->n, c->m));
  OK(lt.cublasLtMatrixLayoutCreate(&p.d, c->type_d, (uint64_t)c->m, (uint64_t)c->n, c->m));
  cublasLtMatrixLayout_t all[] = {p.a, p.b, p.c, p.d};
  const int64_t strides[] = {(int64_t)ar * ac, (int64_t)br * bc, (int64_t)c->m * c->n,
                             (int64_t)c->m * c->n};
  for (int i = 0; i < 4; i++) {
    const int32_t batch = c->batch;
    OK(lt.cublasLtMatrixLayoutSetAttribute(all[i], CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, 4));
    OK(lt.cublasLtMatrixLayoutSetAttribute(all[i], CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                           &strides[i], 8));
  }
  ATTR(&p, TRANSA, int32_t, c->ta);
  ATTR(&p, TRANSB, int32_t, c->tb);
  ATTR(&p, EPILOGUE, uint32_t, c->epilogue);
  OK(lt.cublasLtMatmulPreferenceCreate(&p.pref));
  const uint64_t workspace = 1 << 20;
  OK(lt.cublasLtMatmulPreferenceSetAttribute(p.pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                             &workspace, 8));
  return p;
}
static void plan_drop(Plan *p) {
  OK(lt.cublasLtMatmulDescDestroy(p->desc));
  OK(lt.cublasLtMatrixLayoutDestroy(p->a));
  OK(lt.cublasLtMatrixLayoutDestroy(p->b));
  OK(lt.cublasLtMatrixLayoutDestroy(p->c));
  OK(lt.cublasLtMatrixLayoutDestroy(p->d));
  OK(lt.cublasLtMatmulPreferenceDestroy(p->pref));
}

static bool epilogue_has(int id, const char *what) {
  const bool bias = id & 4, act_gelu = (id & 32) || (id & 64),
             backward =
                 (id & 8) || id == CUBLASLT_EPILOGUE_DGELU || id == CUBLASLT_EPILOGUE_DGELU_BGRAD;
  if (!strcmp(what, "bias"))
    return bias;
  if (!strcmp(what, "gelu"))
    return act_gelu;
  if (!strcmp(what, "relu"))
    return (id & 2) && !act_gelu && id != CUBLASLT_EPILOGUE_BGRADB && !backward;
  if (!strcmp(what, "aux"))
    return id & 128;
  if (!strcmp(what, "backward"))
    return backward;
  return id == CUBLASLT_EPILOGUE_DRELU_BGRAD || id == CUBLASLT_EPILOGUE_DGELU_BGRAD ||
         id == CUBLASLT_EPILOGUE_BGRADA || id == CUBLASLT_EPILOGUE_BGRADB;
}

static double gelu(double x) {
  return x / (1 + exp(-2 * 0.7978845608028654 * (x + 0.044715 * x * x * x)));
}
static double gelu_slope(double x) {
  const double h = 1e-5;
  return (gelu(x + h) - gelu(x - h)) / (2 * h);
}

static void near(double want, double got, double room, const char *what, const Case *c) {
  ck_assert_msg(fabs(want - got) <= room,
                "%s: %.9g, want %.9g (types %d %d %d, ops %d %d, epilogue %d)", what, got, want,
                c->type_a, c->type_b, c->type_d, c->ta, c->tb, c->epilogue);
}

static void check_case(const Case *c) {
  uint64_t seed = 11;
  const size_t mn = (size_t)c->m * (size_t)c->n, mk = (size_t)c->m * (size_t)c->k,
               nk = (size_t)c->n * (size_t)c->k, batch = (size_t)c->batch;
  Plan p = plan_of(c);
  const bool bias = epilogue_has(c->epilogue, "bias"), bgrad = epilogue_has(c->epilogue, "bgrad"),
             aux = epilogue_has(c->epilogue, "aux"), back = epilogue_has(c->epilogue, "backward"),
             gelu_act = epilogue_has(c->epilogue, "gelu");
  const bool fp8 = bytes_of(c->type_a) == 1;
  const int bias_type = bytes_of(c->type_d) == 1         ? c->type_c
                        : fp8 && c->type_d == CUDA_R_32F ? CUDA_R_16BF
                                                         : c->type_d;
  Matrix A = matrix(c->type_a, mk * batch, &seed), B = matrix(c->type_b, nk * batch, &seed),
         C = matrix(c->type_c, mn * batch, &seed), D = matrix(c->type_d, mn * batch, &seed),
         V = matrix(bias_type, (size_t)(c->m > c->n ? c->m : c->n), &seed),
         X = matrix(c->type_d, (size_t)((c->m + 7) / 8 * 8) * (size_t)c->n, &seed),
         S = matrix(CUDA_R_32F, (size_t)(c->m + c->n + 3), &seed),
         W = matrix(CUDA_R_32F, 1 << 18, &seed);
  const int64_t mask_ld = (c->m + 127) / 128 * 128, gelu_ld = (c->m + 7) / 8 * 8;
  uint8_t *mask = calloc((size_t)mask_ld / 8, (size_t)c->n);
  CUdeviceptr mask_p;
  OK(cu.cuMemAlloc_v2(&mask_p, (size_t)mask_ld / 8 * (size_t)c->n));
  for (size_t i = 0; back && i < (size_t)mask_ld / 8 * (size_t)c->n; i++)
    mask[i] = (uint8_t)(i * 37 + 11);
  OK(cu.cuMemcpyHtoD_v2(mask_p, mask, (size_t)mask_ld / 8 * (size_t)c->n));
  if (bias || bgrad)
    ATTR(&p, BIAS_POINTER, uint64_t, V.p);
  if (aux) {
    ATTR(&p, EPILOGUE_AUX_POINTER, uint64_t, gelu_act ? X.p : mask_p);
    ATTR(&p, EPILOGUE_AUX_LD, int64_t, gelu_act ? gelu_ld : mask_ld);
  }
  if (c->scales || c->row_scales) {
    ATTR(&p, A_SCALE_POINTER, uint64_t, S.p);
    ATTR(&p, B_SCALE_POINTER, uint64_t, S.p + 4 * (uint64_t)(c->row_scales ? c->m : 1));
  }
  if (c->row_scales) {
    ATTR(&p, A_SCALE_MODE, int32_t, CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
    ATTR(&p, B_SCALE_MODE, int32_t, CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
  }
  const uint64_t scale_d = (uint64_t)(c->m + c->n);
  if (c->amax) {
    ATTR(&p, D_SCALE_POINTER, uint64_t, S.p + 4 * scale_d);
    ATTR(&p, AMAX_D_POINTER, uint64_t, S.p + 4 * scale_d + 4);
  }
  cublasLtMatmulHeuristicResult_t found[4];
  int n_found = 0;
  OK(lt.cublasLtMatmulAlgoGetHeuristic(handle, p.desc, p.a, p.b, p.c, p.d, p.pref, 4, found,
                                       &n_found));
  ck_assert_int_eq(n_found, 4);
  const double alpha64 = (double)c->alpha, beta64 = (double)c->beta;
  const void *alpha = c->scale_type == CUDA_R_64F ? (const void *)&alpha64 : &c->alpha,
             *beta = c->scale_type == CUDA_R_64F ? (const void *)&beta64 : &c->beta;
  OK(lt.cublasLtMatmul(handle, p.desc, alpha, (void *)(uintptr_t)A.p, p.a, (void *)(uintptr_t)B.p,
                       p.b, beta, (void *)(uintptr_t)C.p, p.c, (void *)(uintptr_t)D.p, p.d,
                       &found[c->algo].algo, (void *)(uintptr_t)W.p, found[c->algo].workspaceSize,
                       NULL));
  OK(cu.cuCtxSynchronize());
  double *aux_in = malloc(X.n * sizeof *aux_in), *bias_in = malloc(V.n * sizeof *bias_in);
  memcpy(aux_in, X.v, X.n * sizeof *aux_in);
  memcpy(bias_in, V.v, V.n * sizeof *bias_in);
  fetch(&D), fetch(&X), fetch(&V);
  uint8_t *mask_out = malloc((size_t)mask_ld / 8 * (size_t)c->n);
  OK(cu.cuMemcpyDtoH_v2(mask_out, mask_p, (size_t)mask_ld / 8 * (size_t)c->n));
  const double *sv = S.v;
  const double eps = dtype_of(c->type_d) == MPCC_F64    ? 1e-14
                     : dtype_of(c->type_d) == MPCC_F32  ? 1e-6
                     : dtype_of(c->type_d) == MPCC_F16  ? 0x1p-11
                     : dtype_of(c->type_d) == MPCC_BF16 ? 0x1p-8
                     : dtype_of(c->type_d) == MPCC_E4M3 ? 0x1p-4
                                                        : 0x1p-3;
  const double input_eps = c->compute == CUBLAS_COMPUTE_32F_FAST_TF32 ? 0x1p-9 : 0;
  double amax = 0, *dbias = calloc((size_t)c->m, sizeof *dbias);
  for (size_t q = 0; q < batch; q++)
    for (size_t j = 0; j < (size_t)c->n; j++)
      for (size_t i = 0; i < (size_t)c->m; i++) {
        double s = 0, size = 0;
        for (size_t k = 0; k < (size_t)c->k; k++) {
          const double a = A.v[q * mk + (c->ta ? i * (size_t)c->k + k : k * (size_t)c->m + i)],
                       b = B.v[q * nk + (c->tb ? k * (size_t)c->n + j : j * (size_t)c->k + k)];
          s += a * b;
          size += fabs(a * b);
        }
        const size_t at = q * mn + j * (size_t)c->m + i, xat = j * (size_t)gelu_ld + i;
        double v = (double)c->alpha * s;
        if (c->scales)
          v *= sv[0] * sv[1];
        if (c->row_scales)
          v *= sv[i] * sv[(size_t)c->m + j];
        v += (double)c->beta * C.v[at];
        if (bias)
          v += bias_in[i];
        const double room =
            (eps + input_eps) * (fabs(v) + size + 1) + (c->type_d == CUDA_R_64F ? 0 : 1e-6 * size);
        if (aux && gelu_act && !back)
          near(v, X.v[xat], room, "aux", c);
        if (aux && !gelu_act && !back && fabs(v) > room)
          ck_assert_int_eq(mask_out[j * (size_t)mask_ld / 8 + i / 8] >> (i % 8) & 1, v > 0);
        if (gelu_act)
          v = back ? v * gelu_slope(aux_in[xat]) : gelu(v);
        else if (back)
          v = mask[j * (size_t)mask_ld / 8 + i / 8] >> (i % 8) & 1 ? v : 0;
        else if (epilogue_has(c->epilogue, "relu"))
          v = v > 0 ? v : 0;
        dbias[i] += v;
        amax = fabs(v) > amax ? fabs(v) : amax;
        if (c->amax)
          v *= sv[scale_d];
        near(v, D.v[at], room, "D", c);
      }
  if (c->amax) {
    fetch(&S);
    near(amax, S.v[scale_d + 1], 1e-5 * amax, "amax", c);
  }
  if (back && bgrad)
    for (size_t i = 0; i < (size_t)c->m; i++)
      near(dbias[i], V.v[i], (eps + 1e-5) * (fabs(dbias[i]) + c->n), "bias gradient", c);
  if (c->epilogue == CUBLASLT_EPILOGUE_BGRADA)
    for (size_t i = 0; i < (size_t)c->m; i++) {
      double s = 0;
      for (size_t k = 0; k < (size_t)c->k; k++)
        s += A.v[k * (size_t)c->m + i];
      near(s, V.v[i], eps * (fabs(s) + c->k), "BGRADA", c);
    }
  if (c->epilogue == CUBLASLT_EPILOGUE_BGRADB)
    for (size_t j = 0; j < (size_t)c->n; j++) {
      double s = 0;
      for (size_t k = 0; k < (size_t)c->k; k++)
        s += B.v[k * (size_t)c->n + j];
      near(s, V.v[j], eps * (fabs(s) + c->k), "BGRADB", c);
    }
  free(dbias), free(aux_in), free(bias_in), free(mask), free(mask_out);
  OK(cu.cuMemFree_v2(mask_p));
  drop(&A), drop(&B), drop(&C), drop(&D), drop(&V), drop(&X), drop(&S), drop(&W);
  plan_drop(&p);
}

enum {
  F64 = CUDA_R_64F,
  F32 = CUDA_R_32F,
  F16 = CUDA_R_16F,
  BF16 = CUDA_R_16BF,
  E4M3 = CUDA_R_8F_E4M3,
  E5M2 = CUDA_R_8F_E5M2
};

static Case usual(int in, int out) {
  const bool f64 = in == F64, fp8 = bytes_of(in) == 1;
  return (Case){.type_a = in,
                .type_b = in,
                .type_c = out,
                .type_d = out,
                .compute = f64 ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F,
                .scale_type = f64 ? CUDA_R_64F : CUDA_R_32F,
                .ta = fp8,
                .m = fp8 ? 48 : 37,
                .n = fp8 ? 16 : 19,
                .k = fp8 ? 64 : 43,
                .batch = 1,
                .epilogue = CUBLASLT_EPILOGUE_DEFAULT,
                .alpha = 1};
}

START_TEST(types_and_orders) {
  open_libraries();
  static const int pairs[][2] = {{F64, F64}, {F32, F32},   {F16, F16},
                                 {F16, F32}, {BF16, BF16}, {BF16, F32}};
  for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
    for (int t = 0; t < 4; t++) {
      Case c = usual(pairs[i][0], pairs[i][1]);
      c.ta = t & 1, c.tb = t & 2;
      c.algo = t % 3;
      c.batch = 1 + t % 2 * 2;
      c.alpha = 0.5f;
      c.beta = t == 3 ? 2.0f : 0.0f;
      check_case(&c);
    }
  Case c = usual(F32, F32);
  c.compute = CUBLAS_COMPUTE_32F_FAST_TF32;
  check_case(&c);
}
END_TEST

START_TEST(fp8_products) {
  open_libraries();
  static const int rows[][4] = {{E4M3, E4M3, BF16, BF16},
                                {E4M3, E5M2, F16, F16},
                                {E5M2, E4M3, F32, F32},
                                {E4M3, E4M3, BF16, E4M3},
                                {E5M2, E4M3, F16, E5M2}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    Case c = usual(E4M3, BF16);
    c.type_a = rows[i][0], c.type_b = rows[i][1], c.type_c = rows[i][2], c.type_d = rows[i][3];
    c.scales = true;
    c.amax = bytes_of(c.type_d) == 1;
    check_case(&c);
    c.epilogue = CUBLASLT_EPILOGUE_GELU_BIAS;
    check_case(&c);
    c.amax = c.scales = false;
    c.row_scales = bytes_of(c.type_d) > 1;
    c.epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    check_case(&c);
  }
}
END_TEST

START_TEST(epilogues) {
  open_libraries();
  static const int all[] = {2, 4, 6, 32, 36, 130, 134, 136, 152, 160, 164, 192, 208, 256, 512};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    for (int t = 0; t < 2; t++) {
      Case c = usual(t ? BF16 : F32, t ? BF16 : F32);
      c.epilogue = all[i];
      c.tb = all[i] == CUBLASLT_EPILOGUE_BGRADB;
      check_case(&c);
    }
}
END_TEST

/* ---- refusals: a good call, one thing of it changed ------------------------------------------ */

static Plan good_plan, *g;
static Case good;

static cublasStatus_t ask(void) {
  cublasLtMatmulHeuristicResult_t r[1];
  int n;
  return lt.cublasLtMatmulAlgoGetHeuristic(handle, g->desc, g->a, g->b, g->c, g->d, g->pref, 1, r,
                                           &n);
}
static void fresh(int in, int out) {
  good = usual(in, out);
  good_plan = plan_of(&good);
  g = &good_plan;
  ck_assert_int_eq(ask(), CUBLAS_STATUS_SUCCESS);
}
static void layout(cublasLtMatrixLayout_t l, int id, uint64_t v, size_t bytes) {
  OK(lt.cublasLtMatrixLayoutSetAttribute(l, id, &v, bytes));
}
#define REFUSED(status)                                                                            \
  do {                                                                                             \
    ck_assert_int_eq(ask(), CUBLAS_STATUS_##status);                                               \
    plan_drop(g);                                                                                  \
  } while (0)

START_TEST(attributes) {
  open_libraries();
  fresh(F32, F32);
  int32_t four = 1;
  /* the library checks number and size alone */
  ck_assert_int_eq(
      lt.cublasLtMatmulDescSetAttribute(g->desc, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &four, 4),
      CUBLAS_STATUS_INVALID_VALUE);
  ck_assert_int_eq(lt.cublasLtMatmulDescSetAttribute(g->desc, 99, &four, 4),
                   CUBLAS_STATUS_INVALID_VALUE);
  OK(lt.cublasLtMatmulDescSetAttribute(g->desc, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &four, 1));
  REFUSED(NOT_SUPPORTED);
  ck_assert_uint_eq(lt.cublasLtGetVersion(), 130100);
  ck_assert_str_eq(lt.cublasLtGetStatusString(CUBLAS_STATUS_NOT_SUPPORTED),
                   "CUBLAS_STATUS_NOT_SUPPORTED");
  OK(lt.cublasLtDestroy(handle));
}
END_TEST

START_TEST(refused_shapes_and_types) {
  open_libraries();
  fresh(F32, F32);
  layout(g->a, CUBLASLT_MATRIX_LAYOUT_ROWS, 36, 8);
  REFUSED(INVALID_VALUE);
  fresh(F32, F32);
  layout(g->b, CUBLASLT_MATRIX_LAYOUT_COLS, 18, 8);
  REFUSED(INVALID_VALUE);
  fresh(F32, F32);
  layout(g->b, CUBLASLT_MATRIX_LAYOUT_ROWS, 42, 8);
  REFUSED(INVALID_VALUE);
  fresh(F32, F32);
  layout(g->c, CUBLASLT_MATRIX_LAYOUT_COLS, 18, 8);
  REFUSED(INVALID_VALUE);
  fresh(F32, F32);
  layout(g->d, CUBLASLT_MATRIX_LAYOUT_LD, 36, 8);
  REFUSED(INVALID_VALUE);
  fresh(F32, F32);
  layout(g->b, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, 2, 4);
  REFUSED(INVALID_VALUE);
  fresh(F32, F32);
  layout(g->a, CUBLASLT_MATRIX_LAYOUT_BATCH_MODE, 1, 4);
  REFUSED(NOT_SUPPORTED);
  fresh(F32, F32);
  layout(g->d, CUBLASLT_MATRIX_LAYOUT_ORDER, 1, 4);
  REFUSED(NOT_SUPPORTED);
  fresh(F32, F32);
  layout(g->d, CUBLASLT_MATRIX_LAYOUT_TYPE, BF16, 4);
  REFUSED(NOT_SUPPORTED);
  fresh(BF16, F32);
  layout(g->a, CUBLASLT_MATRIX_LAYOUT_TYPE, F16, 4);
  REFUSED(NOT_SUPPORTED);
  fresh(F64, F64);
  ATTR(g, COMPUTE_TYPE, int32_t, CUBLAS_COMPUTE_32F);
  REFUSED(NOT_SUPPORTED);
  fresh(F32, F32);
  ATTR(g, EPILOGUE, uint32_t, 3);
  REFUSED(INVALID_VALUE);
  fresh(F32, F32);
  ATTR(g, TRANSC, int32_t, 1);
  REFUSED(NOT_SUPPORTED);
  fresh(F32, F32);
  ATTR(g, POINTER_MODE, int32_t, 4);
  REFUSED(NOT_SUPPORTED);
  fresh(F32, F32);
  layout(g->a, CUBLASLT_MATRIX_LAYOUT_COLS, 0, 8);
  layout(g->b, CUBLASLT_MATRIX_LAYOUT_ROWS, 0, 8);
  REFUSED(INVALID_VALUE);
}
END_TEST

START_TEST(refused_fp8) {
  open_libraries();
  fresh(E4M3, BF16);
  layout(g->a, CUBLASLT_MATRIX_LAYOUT_TYPE, E5M2, 4);
  layout(g->b, CUBLASLT_MATRIX_LAYOUT_TYPE, E5M2, 4);
  REFUSED(NOT_SUPPORTED);
  fresh(E4M3, BF16);
  layout(g->a, CUBLASLT_MATRIX_LAYOUT_COLS, 64, 8); /* square: both orders fit */
  layout(g->a, CUBLASLT_MATRIX_LAYOUT_ROWS, 64, 8);
  layout(g->a, CUBLASLT_MATRIX_LAYOUT_LD, 64, 8);
  layout(g->c, CUBLASLT_MATRIX_LAYOUT_ROWS, 64, 8);
  layout(g->c, CUBLASLT_MATRIX_LAYOUT_LD, 64, 8);
  layout(g->d, CUBLASLT_MATRIX_LAYOUT_ROWS, 64, 8);
  layout(g->d, CUBLASLT_MATRIX_LAYOUT_LD, 64, 8);
  ck_assert_int_eq(ask(), 0);
  ATTR(g, TRANSA, int32_t, 0);
  REFUSED(NOT_SUPPORTED);
  fresh(E4M3, BF16);
  layout(g->a, CUBLASLT_MATRIX_LAYOUT_ROWS, 56, 8);
  layout(g->b, CUBLASLT_MATRIX_LAYOUT_ROWS, 56, 8);
  REFUSED(NOT_SUPPORTED); /* k = 56 */
  fresh(E4M3, BF16);
  layout(g->a, CUBLASLT_MATRIX_LAYOUT_LD, 72, 8);
  REFUSED(NOT_SUPPORTED);
  fresh(BF16, BF16);
  ATTR(g, A_SCALE_POINTER, uint64_t, 256);
  REFUSED(INVALID_VALUE);
  fresh(E4M3, BF16);
  ATTR(g, D_SCALE_POINTER, uint64_t, 256);
  REFUSED(INVALID_VALUE);
  fresh(E4M3, BF16);
  ATTR(g, AMAX_D_POINTER, uint64_t, 256);
  REFUSED(INVALID_VALUE);
  fresh(E4M3, BF16);
  ATTR(g, C_SCALE_POINTER, uint64_t, 256);
  REFUSED(INVALID_VALUE);
  fresh(E4M3, BF16);
  ATTR(g, A_SCALE_MODE, int32_t, CUBLASLT_MATMUL_MATRIX_SCALE_VEC32_UE8M0);
  REFUSED(NOT_SUPPORTED);
  fresh(E4M3, BF16);
  ATTR(g, A_SCALE_MODE, int32_t, 3);
  REFUSED(NOT_SUPPORTED); /* B has another */
  fresh(E4M3, BF16);
  ATTR(g, A_SCALE_MODE, int32_t, 3);
  ATTR(g, B_SCALE_MODE, int32_t, 3);
  REFUSED(INVALID_VALUE); /* no vectors */
  fresh(E4M3, BF16);
  ATTR(g, D_OUT_SCALE_POINTER, uint64_t, 256);
  REFUSED(INVALID_VALUE);
  fresh(E4M3, BF16);
  ATTR(g, EPILOGUE, uint32_t, CUBLASLT_EPILOGUE_BGRADB);
  ATTR(g, BIAS_POINTER, uint64_t, 256);
  REFUSED(NOT_SUPPORTED);
}
END_TEST

START_TEST(refused_epilogues) {
  open_libraries();
  fresh(F32, F32);
  ATTR(g, EPILOGUE, uint32_t, CUBLASLT_EPILOGUE_BIAS);
  REFUSED(INVALID_VALUE);
  fresh(F32, F32);
  ATTR(g, BIAS_POINTER, uint64_t, 256);
  REFUSED(INVALID_VALUE);
  fresh(F32, F32);
  ATTR(g, EPILOGUE, uint32_t, CUBLASLT_EPILOGUE_BIAS);
  ATTR(g, BIAS_POINTER, uint64_t, 256);
  ATTR(g, BIAS_DATA_TYPE, int32_t, BF16);
  REFUSED(NOT_SUPPORTED);
  fresh(F32, F32);
  ATTR(g, EPILOGUE, uint32_t, CUBLASLT_EPILOGUE_BIAS);
  ATTR(g, BIAS_POINTER, uint64_t, 258);
  REFUSED(INVALID_VALUE);
  fresh(F32, F32);
  ATTR(g, EPILOGUE, uint32_t, CUBLASLT_EPILOGUE_BGRADA);
  ATTR(g, BIAS_POINTER, uint64_t, 256);
  ck_assert_int_eq(ask(), 0);
  layout(g->a, CUBLASLT_MATRIX_LAYOUT_ROWS, 43, 8);
  layout(g->a, CUBLASLT_MATRIX_LAYOUT_COLS, 37, 8);
  layout(g->a, CUBLASLT_MATRIX_LAYOUT_LD, 43, 8);
  ATTR(g, TRANSA, int32_t, 1);
  REFUSED(NOT_SUPPORTED);
  fresh(F32, F32);
  ATTR(g, EPILOGUE, uint32_t, CUBLASLT_EPILOGUE_BGRADB);
  ATTR(g, BIAS_POINTER, uint64_t, 256);
  REFUSED(NOT_SUPPORTED); /* B not transposed */
  fresh(F32, F32);
  ATTR(g, EPILOGUE, uint32_t, CUBLASLT_EPILOGUE_GELU_AUX);
  REFUSED(INVALID_VALUE);
  fresh(F32, F32);
  ATTR(g, EPILOGUE, uint32_t, CUBLASLT_EPILOGUE_GELU_AUX);
  ATTR(g, EPILOGUE_AUX_POINTER, uint64_t, 256);
  ATTR(g, EPILOGUE_AUX_LD, int64_t, 32);
  REFUSED(INVALID_VALUE); /* below the rows */
  fresh(F32, F32);
  ATTR(g, EPILOGUE, uint32_t, CUBLASLT_EPILOGUE_GELU_AUX);
  ATTR(g, EPILOGUE_AUX_POINTER, uint64_t, 256);
  ATTR(g, EPILOGUE_AUX_LD, int64_t, 44);
  REFUSED(INVALID_VALUE); /* not a multiple of 8 */
  fresh(F32, F32);
  ATTR(g, EPILOGUE, uint32_t, CUBLASLT_EPILOGUE_RELU_AUX);
  ATTR(g, EPILOGUE_AUX_POINTER, uint64_t, 256);
  ATTR(g, EPILOGUE_AUX_LD, int64_t, 64);
  REFUSED(INVALID_VALUE); /* not a multiple of 128 */
  fresh(F32, F32);
  ATTR(g, EPILOGUE, uint32_t, CUBLASLT_EPILOGUE_GELU_AUX);
  ATTR(g, EPILOGUE_AUX_POINTER, uint64_t, 256);
  ATTR(g, EPILOGUE_AUX_LD, int64_t, 40);
  ATTR(g, EPILOGUE_AUX_DATA_TYPE, int32_t, BF16);
  REFUSED(NOT_SUPPORTED);
  fresh(F32, F32);
  ATTR(g, EPILOGUE_AUX_SCALE_POINTER, uint64_t, 256);
  REFUSED(NOT_SUPPORTED);
  fresh(F64, F64);
  ATTR(g, EPILOGUE, uint32_t, CUBLASLT_EPILOGUE_RELU);
  REFUSED(NOT_SUPPORTED);
}
END_TEST

static cublasStatus_t multiply(uint64_t a, uint64_t b, uint64_t c, uint64_t d, float beta,
                               const cublasLtMatmulAlgo_t *algo, uint64_t workspace, size_t bytes) {
  const float alpha = 1;
#define AT(x) ((void *)(uintptr_t)(x))
  return lt.cublasLtMatmul(handle, g->desc, &alpha, AT(a), g->a, AT(b), g->b, &beta, AT(c), g->c,
                           AT(d), g->d, algo, AT(workspace), bytes, NULL);
}

START_TEST(refused_addresses) {
  open_libraries();
  setenv("EMU_REPORT", "/dev/null", 1);
  uint64_t seed = 3;
  Matrix A = matrix(F32, 4096, &seed), B = matrix(F32, 4096, &seed), D = matrix(F32, 4096, &seed);
  CUdeviceptr w, small, never;
  OK(cu.cuMemAlloc_v2(&w, 1 << 20));
  OK(cu.cuMemAlloc_v2(&never, 1 << 16));
  fresh(F32, F32);
  OK(multiply(A.p, B.p, D.p, D.p, 1, NULL, 0, 0));
  ck_assert_int_eq(multiply(0, B.p, D.p, D.p, 0, NULL, 0, 0), CUBLAS_STATUS_INVALID_VALUE);
  ck_assert_int_eq(multiply(A.p, B.p, 0, D.p, 1, NULL, 0, 0), CUBLAS_STATUS_INVALID_VALUE);
  OK(multiply(A.p, B.p, 0, D.p, 0, NULL, 0, 0));
  ck_assert_int_eq(multiply(A.p + 2, B.p, D.p, D.p, 0, NULL, 0, 0), CUBLAS_STATUS_INVALID_VALUE);
  cublasLtMatmulHeuristicResult_t r[3];
  int n;
  OK(lt.cublasLtMatmulAlgoGetHeuristic(handle, g->desc, g->a, g->b, g->c, g->d, g->pref, 3, r, &n));
  ck_assert_int_eq(n, 3);
  const size_t bytes = r[2].workspaceSize;
  OK(multiply(A.p, B.p, D.p, D.p, 0, &r[2].algo, w, bytes));
  ck_assert_int_eq(multiply(A.p, B.p, D.p, D.p, 0, &r[2].algo, w, bytes - 1),
                   CUBLAS_STATUS_INVALID_VALUE);
  ck_assert_int_eq(multiply(A.p, B.p, D.p, D.p, 0, &r[2].algo, w + 16, bytes),
                   CUBLAS_STATUS_INVALID_VALUE);
  layout(g->c, CUBLASLT_MATRIX_LAYOUT_LD, 40, 8); /* in place, another layout */
  ck_assert_int_eq(multiply(A.p, B.p, D.p, D.p, 1, NULL, 0, 0), CUBLAS_STATUS_INVALID_VALUE);
  plan_drop(g);
  fresh(F32, F32);
  ATTR(g, EPILOGUE, uint32_t, CUBLASLT_EPILOGUE_RELU); /* an algorithm of another problem */
  ck_assert_int_eq(multiply(A.p, B.p, D.p, D.p, 0, &r[0].algo, 0, 0), CUBLAS_STATUS_NOT_SUPPORTED);
  plan_drop(g);
  fresh(E4M3, BF16);
  ck_assert_int_eq(multiply(A.p + 8, B.p, D.p, D.p, 0, NULL, 0, 0), CUBLAS_STATUS_NOT_SUPPORTED);
  layout(g->d, CUBLASLT_MATRIX_LAYOUT_TYPE, E4M3, 4);
  ck_assert_int_eq(multiply(A.p, B.p, A.p, D.p, 1, NULL, 0, 0), CUBLAS_STATUS_NOT_SUPPORTED);
  OK(cu.cuCtxSynchronize());
  plan_drop(g);
  fresh(F32, F32); /* what is accepted and wrong is noticed later */
  OK(multiply(A.p, never, D.p, D.p, 0, NULL, 0, 0));
  ck_assert_int_eq(cu.cuCtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
  ck_assert_int_eq(cu.cuMemAlloc_v2(&small, 64), CUDA_ERROR_ILLEGAL_ADDRESS);
  plan_drop(g);
  free(A.v), free(B.v), free(D.v);
}
END_TEST

/* A product is one more node of a graph. */
START_TEST(captured) {
  open_libraries();
  uint64_t seed = 3;
  Matrix A = matrix(F32, 37 * 43, &seed), B = matrix(F32, 43 * 19, &seed),
         D = matrix(F32, 37 * 19, &seed);
  fresh(F32, F32);
  CUstream s;
  CUgraph graph;
  CUgraphExec exec;
  const float one = 1;
  OK(cu.cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
  OK(cu.cuMemsetD8_v2(D.p, 0, 37 * 19 * 4));
  OK(cu.cuCtxSynchronize());
  OK(cu.cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
  OK(lt.cublasLtMatmul(handle, g->desc, &one, AT(A.p), g->a, AT(B.p), g->b, &one, AT(D.p), g->c,
                       AT(D.p), g->d, NULL, NULL, 0, s));
  OK(cu.cuStreamEndCapture(s, &graph));
  OK(cu.cuGraphInstantiateWithFlags(&exec, graph, 0));
  OK(cu.cuGraphLaunch(exec, s));
  OK(cu.cuGraphLaunch(exec, s));
  OK(cu.cuStreamSynchronize(s));
  fetch(&D);
  double want = 0;
  for (int k = 0; k < 43; k++)
    want += 2 * A.v[k * 37] * B.v[k];
  near(want, D.v[0], 1e-5, "D", &good);
  OK(cu.cuGraphExecDestroy(exec));
  OK(cu.cuGraphDestroy(graph));
  drop(&A), drop(&B), drop(&D);
  plan_drop(g);
}
END_TEST

#define ACCEPTED()                                                                                 \
  do {                                                                                             \
    ck_assert_int_eq(ask(), CUBLAS_STATUS_SUCCESS);                                                \
    plan_drop(g);                                                                                  \
  } while (0)

static void shape(int m, int n, int k) { /* of FP8: A transposed */
  layout(g->a, CUBLASLT_MATRIX_LAYOUT_ROWS, (uint64_t)k, 8);
  layout(g->a, CUBLASLT_MATRIX_LAYOUT_COLS, (uint64_t)m, 8);
  layout(g->a, CUBLASLT_MATRIX_LAYOUT_LD, (uint64_t)k, 8);
  layout(g->b, CUBLASLT_MATRIX_LAYOUT_ROWS, (uint64_t)k, 8);
  layout(g->b, CUBLASLT_MATRIX_LAYOUT_COLS, (uint64_t)n, 8);
  layout(g->b, CUBLASLT_MATRIX_LAYOUT_LD, (uint64_t)k, 8);
  cublasLtMatrixLayout_t out[] = {g->c, g->d};
  for (int i = 0; i < 2; i++) {
    layout(out[i], CUBLASLT_MATRIX_LAYOUT_ROWS, (uint64_t)m, 8);
    layout(out[i], CUBLASLT_MATRIX_LAYOUT_COLS, (uint64_t)n, 8);
    layout(out[i], CUBLASLT_MATRIX_LAYOUT_LD, (uint64_t)m, 8);
  }
}

static void biased(uint32_t epilogue, int type) {
  ATTR(g, EPILOGUE, uint32_t, epilogue);
  ATTR(g, BIAS_POINTER, uint64_t, 256);
  ATTR(g, BIAS_DATA_TYPE, int32_t, type);
}

static void auxiliary(uint32_t epilogue, int64_t ld, int type) {
  ATTR(g, EPILOGUE, uint32_t, epilogue);
  ATTR(g, EPILOGUE_AUX_POINTER, uint64_t, 256);
  ATTR(g, EPILOGUE_AUX_LD, int64_t, ld);
  if (type >= 0)
    ATTR(g, EPILOGUE_AUX_DATA_TYPE, int32_t, type);
}

/* On both sides of what the rules draw: the last that is taken, the first that is not. */
START_TEST(edges_of_rules) {
  open_libraries();
  static const int shapes[][4] = {{16, 1, 16, 1},  {16, 7, 32, 1},  {8, 16, 16, 0},
                                  {24, 16, 16, 0}, {16, 16, 24, 0}, {16, 16, 8, 0}};
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    fresh(E4M3, BF16);
    shape(shapes[i][0], shapes[i][1], shapes[i][2]);
    ck_assert_int_eq(ask(), shapes[i][3] ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED);
    plan_drop(g);
  }
  /* types of A, B, C, D and whether they go together */
  static const int types[][5] = {
      {E4M3, E4M3, BF16, BF16, 1}, {E4M3, E5M2, F16, F16, 1},   {E5M2, E4M3, F32, F32, 1},
      {E4M3, E4M3, BF16, E4M3, 1}, {E4M3, E4M3, F16, E4M3, 1},  {E5M2, E4M3, BF16, E5M2, 1},
      {E5M2, E5M2, BF16, BF16, 0}, {E4M3, E4M3, BF16, E5M2, 0}, {E4M3, E4M3, E4M3, E4M3, 0},
      {E4M3, E4M3, F32, E4M3, 0},  {E4M3, E4M3, F16, BF16, 0},  {E4M3, BF16, BF16, BF16, 0},
      {E4M3, E4M3, F64, F64, 0}};
  for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
    fresh(E4M3, BF16);
    cublasLtMatrixLayout_t all[] = {g->a, g->b, g->c, g->d};
    for (int k = 0; k < 4; k++)
      layout(all[k], CUBLASLT_MATRIX_LAYOUT_TYPE, (uint64_t)types[i][k], 4);
    ck_assert_msg((ask() == CUBLAS_STATUS_SUCCESS) == (types[i][4] != 0), "types, row %zu", i);
    plan_drop(g);
  }
  /* the three other orders of FP8 operands: both layouts square, so that only the order is wrong */
  for (int t = 0; t < 4; t++) {
    fresh(E4M3, BF16);
    shape(64, 64, 64);
    ATTR(g, TRANSA, int32_t, t & 1);
    ATTR(g, TRANSB, int32_t, t >> 1);
    ck_assert_int_eq(ask(), t == 1 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED);
    plan_drop(g);
  }
  fresh(E4M3, BF16), biased(CUBLASLT_EPILOGUE_BIAS, BF16);
  ACCEPTED();
  fresh(E4M3, BF16), biased(CUBLASLT_EPILOGUE_BIAS, F32);
  REFUSED(NOT_SUPPORTED);
  fresh(E4M3, F32), biased(CUBLASLT_EPILOGUE_BIAS, BF16);
  ACCEPTED();
  fresh(E4M3, F32), biased(CUBLASLT_EPILOGUE_BIAS, F32);
  REFUSED(NOT_SUPPORTED);
  fresh(F64, F64), biased(CUBLASLT_EPILOGUE_BIAS, F64);
  ACCEPTED();
  fresh(F64, F64), biased(CUBLASLT_EPILOGUE_BGRADA, F64);
  ACCEPTED();
  fresh(BF16, BF16), biased(CUBLASLT_EPILOGUE_BGRADA, BF16);
  ACCEPTED();
  fresh(E4M3, BF16), biased(CUBLASLT_EPILOGUE_BGRADA, BF16);
  REFUSED(NOT_SUPPORTED);
  fresh(BF16, F32), biased(CUBLASLT_EPILOGUE_GELU_BIAS, F32);
  ACCEPTED();
  fresh(F32, F32), auxiliary(CUBLASLT_EPILOGUE_GELU_AUX, 40, -1);
  ACCEPTED();
  fresh(F32, F32), auxiliary(CUBLASLT_EPILOGUE_GELU_AUX, 40, F32);
  ACCEPTED();
  fresh(F32, F32), auxiliary(CUBLASLT_EPILOGUE_RELU_AUX, 128, -1);
  ACCEPTED();
  fresh(F32, F32), auxiliary(CUBLASLT_EPILOGUE_RELU_AUX, 192, -1);
  REFUSED(INVALID_VALUE);
  fresh(F32, F32), auxiliary(CUBLASLT_EPILOGUE_DGELU, 40, -1);
  ACCEPTED();
  fresh(F64, F64), auxiliary(CUBLASLT_EPILOGUE_GELU_AUX, 40, -1);
  REFUSED(NOT_SUPPORTED);
  /* scale vectors, and D that cannot have them */
  for (int to = 0; to < 2; to++) {
    fresh(E4M3, BF16);
    ATTR(g, A_SCALE_MODE, int32_t, CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
    ATTR(g, B_SCALE_MODE, int32_t, CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
    ATTR(g, A_SCALE_POINTER, uint64_t, 256);
    ATTR(g, B_SCALE_POINTER, uint64_t, 256);
    layout(g->d, CUBLASLT_MATRIX_LAYOUT_TYPE, to ? E4M3 : BF16, 4);
    ck_assert_int_eq(ask(), to ? CUBLAS_STATUS_NOT_SUPPORTED : CUBLAS_STATUS_SUCCESS);
    plan_drop(g);
  }
  fresh(E4M3, BF16);
  int8_t fast = 1;
  OK(lt.cublasLtMatmulDescSetAttribute(g->desc, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast, 1));
  ACCEPTED();
  fresh(E4M3, BF16);
  layout(g->d, CUBLASLT_MATRIX_LAYOUT_TYPE, E4M3, 4);
  ATTR(g, D_SCALE_POINTER, uint64_t, 256);
  ATTR(g, AMAX_D_POINTER, uint64_t, 256);
  ACCEPTED();
}
END_TEST

/* Every rule of the table was broken by some case above: the stand-in names it in EMU_LOG. */
static const char *rules_log(void) {
  return EMU_BINARY "/cublaslt_rules.log";
}

START_TEST(every_rule_was_broken) {
  static const char *const rules[] = {
#define RULE(status, wants, broken) "cublasLt: CUBLAS_STATUS_" #status ": wants " wants "\n",
#include "cublaslt_rules.def"
#undef RULE
  };
  FILE *f = fopen(rules_log(), "r");
  ck_assert_ptr_nonnull(f);
  char *log = calloc(1 << 20, 1);
  ck_assert(fread(log, 1, (1 << 20) - 1, f) > 0);
  fclose(f);
  const size_t n = sizeof rules / sizeof *rules;
  for (size_t i = 0; i < n; i++)
    ck_assert_msg(strstr(log, rules[i]) != NULL, "no case breaks this rule: %s", rules[i]);
  printf("emu/cublaslt: %zu rules, each broken by a case\n", n);
  free(log);
}
END_TEST

int main(void) {
  remove(rules_log());
  setenv("EMU_LOG", rules_log(), 1);
  TCase *t = tcase_create("cublaslt");
  tcase_set_timeout(t, 60);
  tcase_add_test(t, types_and_orders);
  tcase_add_test(t, fp8_products);
  tcase_add_test(t, epilogues);
  tcase_add_test(t, attributes);
  tcase_add_test(t, refused_shapes_and_types);
  tcase_add_test(t, refused_fp8);
  tcase_add_test(t, refused_epilogues);
  tcase_add_test(t, refused_addresses);
  tcase_add_test(t, captured);
  tcase_add_test(t, edges_of_rules);
  tcase_add_test(t, every_rule_was_broken);
  Suite *s = suite_create("emu/cublaslt");
  suite_add_tcase(s, t);
  return check_run(s);
}
