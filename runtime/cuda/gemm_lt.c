/* Matrix products through cuBLASLt. Plans (descriptor, layouts, offers of algorithms) are made when a
 * program is opened, one per distinct product. When its state is there, what the checkpoint says is
 * taken; for the others the offers are timed, and the fastest on this device is taken among those
 * that give the same bits as the first and split no sum, so that what is taken changes no result.
 * Splitting K with atomic sums is not asked for.
 *
 * Row-major D = A B is, in the library's column order, D^T = B^T A^T: its first factor is our B. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mpcc/num.h"
#include "runtime/cuda/gpu.h"

enum {
  WORKSPACE = 32 << 20, /* what large products want on Hopper */
  ZERO_BYTES = 256,     /* behind it: a zero, where sums are multiplied by what the device knows */
  OFFERS = 8,
  ALIGNED = 256,
  REPEATS = 3,
  MOST_AT_ONCE = 8,        /* small products are timed so many at a time */
  RANDOM_BYTES = 61 << 10, /* of the operands that algorithms are tried on: repeated */
  COMPARED = 4 << 20       /* bytes of D, at most, that are compared */
};

static const float TIMED_MS = 0.2f, CLEARLY_FASTER = 0.97f;

typedef struct {
  MpccProduct m;
  uint32_t align[4]; /* of D, A, B, and the bias */
  cublasLtMatmulDesc_t desc;
  cublasLtMatrixLayout_t first, second, result;
  cublasLtMatmulHeuristicResult_t offer[OFFERS];
  int offers;
  bool chosen; /* algo is, by timing or by a checkpoint */
  cublasLtMatmulAlgo_t algo;
  size_t workspace;
} Plan;

struct mprt__products {
  mprt__lt_api api;
  cublasLtHandle_t handle;
  CUdeviceptr workspace;
  Plan *plan;
  uint32_t nplan;
  uint32_t *of_command; /* index of the plan, per command of the program */
  bool chosen;          /* every plan is */
};

typedef struct {
  CUdeviceptr operand[MPCC_PRODUCT_OPERANDS]; /* D, A, B, what `with` says */
} Operands;

#define TRY_LT(call, doing)                                                                        \
  do {                                                                                             \
    const cublasStatus_t r_ = (call);                                                              \
    if (r_ != CUBLAS_STATUS_SUCCESS)                                                               \
      return library_failed(p, g, r_, doing);                                                      \
  } while (0)

static Status library_failed(const mprt_program *p, mprt__cuda *g, cublasStatus_t r,
                             const char *doing) {
  if (g->failure != MPCC_OK)
    return g->failure;
  g->failure = r == CUBLAS_STATUS_ALLOC_FAILED ? MPCC_ERR_NOMEM : MPCC_ERR_RUN;
  return mprt__fail(&p->cb, g->failure, "%s: cuBLASLt: %s", doing,
                    g->products->api.cublasLtGetStatusString(r));
}

/* ---- what a command says --------------------------------------------------------------------- */

static MpccProduct product_of(const mprt_program *p, const MpccCommand *c) {
  MpccProduct m;
  int64_t ints[MPCC_PRODUCT_INTS];
  for (uint32_t i = 0; i < MPCC_PRODUCT_INTS; i++)
    ints[i] = p->argref[c->first_arg + c->nargs - MPCC_PRODUCT_INTS + i].offset;
  memcpy(&m, ints, sizeof m);
  return m;
}

static int cuda_type(int64_t dtype) {
  switch (dtype) {
  case MPCC_F64:
    return CUDA_R_64F;
  case MPCC_F32:
    return CUDA_R_32F;
  case MPCC_F16:
    return CUDA_R_16F;
  case MPCC_BF16:
    return CUDA_R_16BF;
  case MPCC_E4M3:
    return CUDA_R_8F_E4M3;
  case MPCC_E5M2:
    return CUDA_R_8F_E5M2;
  default:
    return -1;
  }
}

/* Largest power of two that divides the address, for which the library may then load. */
static uint32_t alignment(uint64_t address) {
  const uint64_t a = address & -address;
  return a && a < ALIGNED ? (uint32_t)a : ALIGNED;
}

/* In the slot of inputs that is aligned worst. */
static void alignments(const mprt_program *p, const mprt__cuda *g, const MpccCommand *c,
                       uint32_t align[4]) {
  const uint32_t bias = mpcc_product_bias(product_of(p, c).with);
  for (uint32_t i = 0; i < 4; i++) {
    const MpccArgRef *a = &p->argref[c->first_arg + (i == 3 && bias ? bias : i)];
    if (a->segment == MPCC_ARG_INT) {
      align[i] = ALIGNED;
      continue;
    }
    align[i] = alignment(mprt__cuda_address(p, g, a, 0));
    if (alignment((uint64_t)a->offset) < align[i])
      align[i] = alignment((uint64_t)a->offset);
    if (a->stride && alignment((uint64_t)a->stride) < align[i])
      align[i] = alignment((uint64_t)a->stride);
  }
}

/* ---- plans
 * --------------------------------------------------------------------------------------- */

/* A factor of rows x cols with strides (row, col), as the library has it: transposed when its
 * columns are contiguous. Extents of 1 have any stride. */
static Status make_layout(const mprt_program *p, mprt__cuda *g, int64_t dtype, int64_t rows,
                          int64_t cols, int64_t row, int64_t col, cublasLtMatrixLayout_t *out,
                          int32_t *trans) {
  const bool plain = row == 1 || (rows == 1 && col != 1); /* a column is contiguous */
  int64_t ld = plain ? col : row;
  const int64_t inner = plain ? rows : cols;
  *trans = plain ? CUBLAS_OP_N : CUBLAS_OP_T;
  ld = ld < inner ? inner : ld;
  TRY_LT(g->products->api.cublasLtMatrixLayoutCreate(out, cuda_type(dtype), (uint64_t)inner,
                                                     (uint64_t)(plain ? cols : rows), ld),
         "cannot describe a matrix");
  return MPCC_OK;
}

static Status set(const mprt_program *p, mprt__cuda *g, Plan *plan, int attribute,
                  const void *value, size_t bytes) {
  TRY_LT(g->products->api.cublasLtMatmulDescSetAttribute(plan->desc, attribute, value, bytes),
         "cannot describe a product");
  return MPCC_OK;
}

/* Addresses that are part of the descriptor: the library looks at their alignment, and takes them
 * when a product is put on the stream. */
static Status set_operands(const mprt_program *p, mprt__cuda *g, Plan *plan, const Operands *o) {
  const int64_t with = plan->m.with;
  const uint32_t at = mpcc_product_bias(with);
  const bool scales = with == MPCC_WITH_SCALES || with == MPCC_WITH_SCALES_BIAS;
  const void *first = (const void *)(uintptr_t)o->operand[3];
  const void *second = (const void *)(uintptr_t)o->operand[4];
  const void *bias = (const void *)(uintptr_t)o->operand[at];
  Status s = MPCC_OK;
  if (at)
    s = set(p, g, plan, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias);
  if (s == MPCC_OK && scales)
    s = set(p, g, plan, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &first, sizeof first);
  if (s == MPCC_OK && scales)
    s = set(p, g, plan, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &second, sizeof second);
  return s;
}

static Status describe(const mprt_program *p, mprt__cuda *g, Plan *plan) {
  const MpccProduct *m = &plan->m;
  const bool wide = m->a_dtype == MPCC_F64;
  int32_t trans_first, trans_second;
  TRY_LT(g->products->api.cublasLtMatmulDescCreate(&plan->desc,
                                                   wide      ? CUBLAS_COMPUTE_64F
                                                   : m->tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32
                                                             : CUBLAS_COMPUTE_32F,
                                                   wide ? CUDA_R_64F : CUDA_R_32F),
         "cannot describe a product");
  /* op(first) is [cols, k], op(second) is [k, rows], result [cols, rows] */
  Status s =
      make_layout(p, g, m->b_dtype, m->cols, m->k, m->b_col, m->b_k, &plan->first, &trans_first);
  if (s == MPCC_OK)
    s = make_layout(p, g, m->a_dtype, m->k, m->rows, m->a_k, m->a_row, &plan->second,
                    &trans_second);
  int32_t plain;
  if (s == MPCC_OK)
    s = make_layout(p, g, m->d_dtype, m->cols, m->rows, 1, m->cols, &plan->result, &plain);
  if (s == MPCC_OK)
    s = set(p, g, plan, CUBLASLT_MATMUL_DESC_TRANSA, &trans_first, sizeof trans_first);
  if (s == MPCC_OK)
    s = set(p, g, plan, CUBLASLT_MATMUL_DESC_TRANSB, &trans_second, sizeof trans_second);
  if (s == MPCC_OK && mpcc_product_bias(m->with)) {
    const uint32_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    s = set(p, g, plan, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
  }
  if (s == MPCC_OK && m->with == MPCC_WITH_ALPHA) {
    const int32_t mode = CUBLASLT_POINTER_MODE_DEVICE;
    s = set(p, g, plan, CUBLASLT_MATMUL_DESC_POINTER_MODE, &mode, sizeof mode);
  }
  return s;
}

/* Asks for a product whose operands are set. */
static cublasStatus_t put_product(mprt__cuda *g, Plan *plan, const Operands *o,
                                  const cublasLtMatmulAlgo_t *algo, size_t workspace) {
  static const float one = 1, zero = 0;
  static const double one_wide = 1, zero_wide = 0;
  const bool wide = plan->m.a_dtype == MPCC_F64, device = plan->m.with == MPCC_WITH_ALPHA;
  const void *alpha = wide ? (const void *)&one_wide : &one;
  const void *beta = wide ? (const void *)&zero_wide : &zero;
  void *at[4], *room = workspace ? (void *)(uintptr_t)g->products->workspace : NULL;
  for (int i = 0; i < 4; i++)
    at[i] = (void *)(uintptr_t)o->operand[i];
  if (plan->m.with == MPCC_WITH_SUM)
    beta = alpha;
  else
    at[3] = at[0];
  if (device) {
    alpha = (const void *)(uintptr_t)o->operand[3];
    beta = (const void *)(uintptr_t)(g->products->workspace + WORKSPACE);
  }
  return g->products->api.cublasLtMatmul(g->products->handle, plan->desc, alpha, at[2], plan->first,
                                         at[1], plan->second, beta, at[3], plan->result, at[0],
                                         plan->result, algo, room, workspace, g->stream);
}

static Status multiply(const mprt_program *p, mprt__cuda *g, Plan *plan, const Operands *o,
                       const char *label) {
  const Status s = set_operands(p, g, plan, o);
  if (s != MPCC_OK)
    return s;
  TRY_LT(put_product(g, plan, o, &plan->algo, plan->workspace), label);
  return MPCC_OK;
}

/* ---- choosing an algorithm
 * ----------------------------------------------------------------------- */

/* Memory to try algorithms in, for as long as that takes. */
typedef struct {
  CUdeviceptr operand[MPCC_PRODUCT_OPERANDS];
  uint64_t bytes[MPCC_PRODUCT_OPERANDS];
  CUevent begin, end;
  uint8_t *want, *got;
} Trial;

static uint64_t span(int64_t n, int64_t step, int64_t m, int64_t other, int64_t dtype) {
  return (uint64_t)((n - 1) * step + (m - 1) * other + 1) * dtype_bytes((DType)dtype);
}

static void bytes_of(const MpccProduct *m, uint64_t bytes[MPCC_PRODUCT_OPERANDS]) {
  bytes[0] = span(m->rows, m->cols, m->cols, 1, m->d_dtype);
  bytes[1] = span(m->rows, m->a_row, m->k, m->a_k, m->a_dtype);
  bytes[2] = span(m->k, m->b_k, m->cols, m->b_col, m->b_dtype);
  for (uint32_t i = 3; i < MPCC_PRODUCT_OPERANDS; i++)
    bytes[i] = i == mpcc_product_bias(m->with) ? (uint64_t)m->cols * dtype_bytes((DType)m->d_dtype)
                                               : sizeof(float);
  if (m->with == MPCC_WITH_SUM)
    bytes[3] = bytes[0];
}

static void trial_close(mprt__cuda *g, Trial *t) {
  for (int i = 0; i < MPCC_PRODUCT_OPERANDS; i++)
    if (t->operand[i])
      g->api.cuMemFree_v2(t->operand[i]);
  if (t->begin)
    g->api.cuEventDestroy_v2(t->begin);
  if (t->end)
    g->api.cuEventDestroy_v2(t->end);
  free(t->want);
  free(t->got);
}

/* False when there is no room to try anything: the library's first offer is taken then. */
static bool trial_open(mprt__cuda *g, Trial *t) {
  *t = (Trial){.bytes = {0}};
  for (uint32_t i = 0; i < g->products->nplan; i++) {
    uint64_t bytes[MPCC_PRODUCT_OPERANDS];
    bytes_of(&g->products->plan[i].m, bytes);
    for (int k = 0; k < MPCC_PRODUCT_OPERANDS; k++)
      t->bytes[k] = bytes[k] > t->bytes[k] ? bytes[k] : t->bytes[k];
  }
  bool ok = true;
  for (int k = 0; ok && k < MPCC_PRODUCT_OPERANDS; k++)
    ok = g->api.cuMemAlloc_v2(&t->operand[k], t->bytes[k] + ALIGNED) == CUDA_SUCCESS;
  t->want = ok ? malloc(COMPARED) : NULL;
  t->got = ok ? malloc(COMPARED) : NULL;
  ok = ok && t->want && t->got &&
       g->api.cuEventCreate(&t->begin, CU_EVENT_DEFAULT) == CUDA_SUCCESS &&
       g->api.cuEventCreate(&t->end, CU_EVENT_DEFAULT) == CUDA_SUCCESS;
  if (!ok) {
    trial_close(g, t);
    *t = (Trial){.bytes = {0}};
  }
  return ok;
}

/* Random numbers of [-scale, scale). */
typedef struct {
  DType dtype;
  double scale;
  int64_t row; /* > 0: in rows of so many: half of them, the same times `sign`, and zeros */
  int64_t half;
  double sign;
} Numbers;

static double random_number(uint64_t *state) {
  *state ^= *state << 13, *state ^= *state >> 7, *state ^= *state << 17;
  return (double)(int64_t)*state * 0x1p-63;
}

/* As many as RANDOM_BYTES hold, in whole rows, one at least. *have: bytes of them */
static uint8_t *random_block(const Numbers *n, uint64_t bytes, uint64_t *have) {
  const uint64_t size = dtype_bytes(n->dtype), row = n->row ? (uint64_t)n->row * size : size;
  const uint64_t room = bytes < RANDOM_BYTES ? bytes : RANDOM_BYTES;
  uint64_t state = 88172645463325252u, row_state = state;
  *have = room < row ? row : room / row * row;
  uint8_t *block = malloc(*have);
  for (uint64_t i = 0; block && i < *have / size; i++) {
    const int64_t k = n->row ? (int64_t)i % n->row : 0;
    if (n->row && k == 0)
      row_state = state;
    if (n->row && k == n->half)
      state = row_state;
    const double v = n->row && k >= 2 * n->half ? 0 : n->scale * random_number(&state);
    num_store(block + i * size, n->dtype, n->row && k < n->half ? v : v * n->sign);
  }
  *have = *have < bytes ? *have : bytes;
  return block;
}

/* Such numbers, a block of them repeated. */
static Status fill(const mprt_program *p, mprt__cuda *g, CUdeviceptr to, uint64_t bytes,
                   const Numbers *numbers) {
  uint64_t have = 0;
  uint8_t *block = bytes ? random_block(numbers, bytes, &have) : NULL;
  if (!bytes)
    return MPCC_OK;
  if (!block)
    return mprt__nomem(&p->cb, "products");
  CUresult r = g->api.cuMemcpyHtoDAsync_v2(to, block, have, g->stream);
  for (uint64_t n; r == CUDA_SUCCESS && have < bytes; have += n) {
    n = have < bytes - have ? have : bytes - have;
    r = g->api.cuMemcpyDtoDAsync_v2(to + have, to, n, g->stream);
  }
  if (r == CUDA_SUCCESS)
    r = g->api.cuStreamSynchronize(g->stream);
  free(block);
  return r == CUDA_SUCCESS ? MPCC_OK : mprt__cuda_failed(p, g, r, "cannot try products");
}

/* A factor of a product, of rows (or columns) `step` apart and k's `k_step` apart. The second half
 * of k takes away what the first has added: what remains is what rounding makes of the order of
 * sums, which a result of 16 bits would hide behind its own. */
static Status fill_factor(const mprt_program *p, mprt__cuda *g, CUdeviceptr to, uint64_t bytes,
                          int64_t dtype, int64_t k, int64_t step, int64_t k_step, double sign) {
  const uint64_t size = dtype_bytes((DType)dtype);
  const Numbers plain = {.dtype = (DType)dtype, .scale = 1, .sign = 1};
  Numbers again = plain;
  again.sign = sign;
  if (k < 2)
    return fill(p, g, to, bytes, &plain);
  if (k_step == 1) {
    again.row = step > k ? step : k;
    again.half = k / 2;
    return fill(p, g, to, bytes, &again);
  }
  const uint64_t half = (uint64_t)(k / 2 * k_step) * size, rest = bytes - half;
  CUDA_TRY(g->api.cuMemsetD8Async(to, 0, bytes, g->stream), "cannot try products");
  const Status s = fill(p, g, to, half, &plain);
  return s == MPCC_OK ? fill(p, g, to + half, half < rest ? half : rest, &again) : s;
}

static Status fill_operands(const mprt_program *p, mprt__cuda *g, const Plan *plan,
                            const Operands *o, const uint64_t *bytes) {
  const MpccProduct *m = &plan->m;
  const int bias = (int)mpcc_product_bias(m->with), sum = m->with == MPCC_WITH_SUM ? 3 : 0;
  Status s = fill_factor(p, g, o->operand[1], bytes[1], m->a_dtype, m->k, m->a_row, m->a_k, 1);
  if (s == MPCC_OK)
    s = fill_factor(p, g, o->operand[2], bytes[2], m->b_dtype, m->k, m->b_col, m->b_k, -1);
  for (int i = 3; s == MPCC_OK && i < MPCC_PRODUCT_OPERANDS; i++) {
    const bool added = i == bias || i == sum; /* as small as what is to be seen */
    const Numbers n = {
        .dtype = added ? (DType)m->d_dtype : MPCC_F32, .scale = added ? 0x1p-20 : 1, .sign = 1};
    s = fill(p, g, o->operand[i], bytes[i], &n);
  }
  return s;
}

/* The product by one offer, and the beginning of its result. *refused: the library does not do, for
 * these operands, what it offered. */
static Status try_offer(const mprt_program *p, mprt__cuda *g, Plan *plan, const Operands *o,
                        const cublasLtMatmulHeuristicResult_t *offer, uint8_t *result,
                        uint64_t bytes, cublasStatus_t *refused) {
  *refused = put_product(g, plan, o, &offer->algo, offer->workspaceSize);
  if (*refused)
    return MPCC_OK;
  CUDA_TRY(g->api.cuMemcpyDtoHAsync_v2(result, o->operand[0], bytes, g->stream),
           "cannot read a product");
  CUDA_TRY(g->api.cuStreamSynchronize(g->stream), "cannot read a product");
  return MPCC_OK;
}

/* The product n times as a graph: how a step runs it, without the host. */
static Status record(const mprt_program *p, mprt__cuda *g, Plan *plan, const Operands *o,
                     const cublasLtMatmulHeuristicResult_t *offer, int n, CUgraphExec *out) {
  CUgraph graph = NULL;
  cublasStatus_t refused = CUBLAS_STATUS_SUCCESS;
  CUDA_TRY(g->api.cuStreamBeginCapture_v2(g->stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL),
           "cannot time a product");
  for (int i = 0; !refused && i < n; i++)
    refused = put_product(g, plan, o, &offer->algo, offer->workspaceSize);
  CUresult r = g->api.cuStreamEndCapture(g->stream, &graph);
  if (!refused && r == CUDA_SUCCESS)
    r = g->api.cuGraphInstantiateWithFlags(out, graph, 0);
  if (graph)
    g->api.cuGraphDestroy(graph);
  if (refused)
    return library_failed(p, g, refused, "cannot time a product");
  return r == CUDA_SUCCESS ? MPCC_OK : mprt__cuda_failed(p, g, r, "cannot time a product");
}

/* Milliseconds of a graph. */
static Status time_graph(const mprt_program *p, mprt__cuda *g, const Trial *t, CUgraphExec graph,
                         float *ms) {
  CUDA_TRY(g->api.cuEventRecord(t->begin, g->stream), "cannot time a product");
  CUDA_TRY(g->api.cuGraphLaunch(graph, g->stream), "cannot time a product");
  CUDA_TRY(g->api.cuEventRecord(t->end, g->stream), "cannot time a product");
  CUDA_TRY(g->api.cuEventSynchronize(t->end), "cannot time a product");
  CUDA_TRY(g->api.cuEventElapsedTime_v2(ms, t->begin, t->end), "cannot time a product");
  return MPCC_OK;
}

/* Takes the fastest of the `same`, offers that give the bits of the first, which is one of them.
 * One of the others must be clearly faster. They take turns, so that a clock that rises favours
 * none. */
static Status race(const mprt_program *p, mprt__cuda *g, Plan *plan, const Trial *t,
                   const Operands *o, const bool same[OFFERS]) {
  CUgraphExec graph[OFFERS] = {NULL};
  float best[OFFERS] = {0}, ms = 0;
  Status s = record(p, g, plan, o, &plan->offer[0], 1, &graph[0]);
  for (int i = 0; s == MPCC_OK && i < 2; i++) /* the first time it is brought to the device */
    s = time_graph(p, g, t, graph[0], &ms);
  const int n = ms * MOST_AT_ONCE > TIMED_MS ? (int)(TIMED_MS / ms) + 1 : MOST_AT_ONCE;
  if (graph[0])
    g->api.cuGraphExecDestroy(graph[0]);
  graph[0] = NULL;
  for (int i = 0; s == MPCC_OK && i < plan->offers; i++)
    if (same[i])
      s = record(p, g, plan, o, &plan->offer[i], n, &graph[i]);
  for (int r = 0; r < REPEATS; r++)
    for (int i = 0; s == MPCC_OK && i < plan->offers; i++) {
      if (!same[i])
        continue;
      s = time_graph(p, g, t, graph[i], &ms);
      best[i] = r == 0 || ms < best[i] ? ms : best[i];
    }
  for (int i = 0; i < OFFERS; i++)
    if (graph[i])
      g->api.cuGraphExecDestroy(graph[i]);
  int taken = 0;
  for (int i = 1; s == MPCC_OK && i < plan->offers; i++)
    if (same[i] && best[i] < CLEARLY_FASTER * best[0] && (!taken || best[i] < best[taken]))
      taken = i;
  plan->algo = plan->offer[taken].algo;
  plan->workspace = plan->offer[taken].workspaceSize;
  return s;
}

/* Compares and times the offers. One behind the first that the library then refuses is none; the
 * first must work, since another has other bits. */
static Status choose(const mprt_program *p, mprt__cuda *g, Plan *plan, Trial *t) {
  const cublasLtMatmulHeuristicResult_t *offer = plan->offer;
  Operands o;
  uint64_t bytes[MPCC_PRODUCT_OPERANDS];
  bool same[OFFERS] = {true}, any = false;
  cublasStatus_t refused;
  bytes_of(&plan->m, bytes);
  const int bias = (int)mpcc_product_bias(plan->m.with);
  for (int i = 0; i < MPCC_PRODUCT_OPERANDS; i++) {
    const uint32_t align = i < 3                    ? plan->align[i]
                           : i == (bias ? bias : 3) ? plan->align[3]
                                                    : ALIGNED;
    o.operand[i] = t->operand[i] + (align < ALIGNED ? align : 0);
  }
  Status s = fill_operands(p, g, plan, &o, bytes);
  if (s == MPCC_OK)
    s = set_operands(p, g, plan, &o);
  const uint64_t compared = bytes[0] < COMPARED ? bytes[0] : COMPARED;
  for (int i = 0; s == MPCC_OK && i < plan->offers; i++) {
    /* parts of k need workspace, and are another order of sums */
    if (i && (offer[0].workspaceSize || offer[i].workspaceSize || offer[i].state))
      continue;
    s = try_offer(p, g, plan, &o, &offer[i], i ? t->got : t->want, compared, &refused);
    if (!i && refused)
      return library_failed(p, g, refused, "cannot try a product");
    if (s == MPCC_OK && i)
      any |= same[i] = !refused && !memcmp(t->want, t->got, compared);
  }
  return s == MPCC_OK && any ? race(p, g, plan, t, &o, same) : s;
}

static bool is_open(const Plan *plan) {
  return !plan->chosen && plan->offers > 1;
}

Status mprt__cuda_choose(const mprt_program *p, mprt__cuda *g) {
  mprt__products *x = g->products;
  Status s = g->failure;
  Trial t;
  bool any = false;
  if (s != MPCC_OK || !x || x->chosen)
    return s;
  CUDA_TRY(g->api.cuCtxSetCurrent(g->context), "cannot use the device");
  for (uint32_t i = 0; i < x->nplan; i++)
    any |= is_open(&x->plan[i]);
  const bool room = any && trial_open(g, &t);
  for (uint32_t i = 0; s == MPCC_OK && i < x->nplan; i++) {
    if (room && is_open(&x->plan[i]))
      s = choose(p, g, &x->plan[i], &t);
    x->plan[i].chosen = s == MPCC_OK;
  }
  if (room)
    trial_close(g, &t);
  x->chosen = s == MPCC_OK;
  return s;
}

/* What the library offers for a described plan. */
static Status ask(const mprt_program *p, mprt__cuda *g, Plan *plan) {
  mprt__products *x = g->products;
  cublasLtMatmulPreference_t like = NULL;
  const uint64_t workspace = WORKSPACE;
  const uint32_t reductions =
      CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  TRY_LT(x->api.cublasLtMatmulPreferenceCreate(&like), "cannot plan a product");
  cublasStatus_t r = x->api.cublasLtMatmulPreferenceSetAttribute(
      like, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace);
  if (!r)
    r = x->api.cublasLtMatmulPreferenceSetAttribute(
        like, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions, sizeof reductions);
  static const int attribute[] = {
      CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
      CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES};
  const int added = plan->m.with == MPCC_WITH_SUM ? 3 : 0; /* what C is: else D again */
  for (int i = 0; !r && i < 4; i++)
    r = x->api.cublasLtMatmulPreferenceSetAttribute(
        like, attribute[i], &plan->align[i == 3 ? added : i], sizeof plan->align[0]);
  if (!r)
    r = x->api.cublasLtMatmulAlgoGetHeuristic(x->handle, plan->desc, plan->first, plan->second,
                                              plan->result, plan->result, like, OFFERS, plan->offer,
                                              &plan->offers);
  x->api.cublasLtMatmulPreferenceDestroy(like);
  if (r || plan->offers < 1) {
    char what[160];
    snprintf(what, sizeof what, "no way to multiply %lld x %lld by %lld x %lld (%s, %s to %s)",
             (long long)plan->m.rows, (long long)plan->m.k, (long long)plan->m.k,
             (long long)plan->m.cols, dtype_text((DType)plan->m.a_dtype),
             dtype_text((DType)plan->m.b_dtype), dtype_text((DType)plan->m.d_dtype));
    return library_failed(p, g, r ? r : CUBLAS_STATUS_NOT_SUPPORTED, what);
  }
  plan->algo = plan->offer[0].algo;
  plan->workspace = plan->offer[0].workspaceSize;
  return MPCC_OK;
}

/* ---- the program's products
 * ---------------------------------------------------------------------- */

bool mprt__cuda_has_products(const mprt_program *p) {
  for (uint32_t i = 0; i < p->ncommand; i++)
    if (p->command[i].op == MPCC_CMD_PRODUCT)
      return true;
  return false;
}

/* Plans without algorithms: one for all products that are equal but for their addresses. */
static void collect(const mprt_program *p, mprt__cuda *g) {
  mprt__products *x = g->products;
  for (uint32_t i = 0; i < p->ncommand; i++) {
    Plan plan = {.desc = NULL};
    if (p->command[i].op != MPCC_CMD_PRODUCT)
      continue;
    plan.m = product_of(p, &p->command[i]);
    alignments(p, g, &p->command[i], plan.align);
    uint32_t k = 0;
    while (k < x->nplan && (memcmp(&x->plan[k].m, &plan.m, sizeof plan.m) ||
                            memcmp(x->plan[k].align, plan.align, sizeof plan.align)))
      k++;
    if (k == x->nplan)
      x->plan[x->nplan++] = plan;
    x->of_command[i] = k;
  }
}

static Status make_plans(const mprt_program *p, mprt__cuda *g) {
  mprt__products *x = g->products;
  Status s = MPCC_OK;
  for (uint32_t i = 0; s == MPCC_OK && i < x->nplan; i++) {
    s = describe(p, g, &x->plan[i]);
    /* the alignment of addresses in the descriptor is part of the question */
    Operands o = {{0}};
    for (int k = 3; k < MPCC_PRODUCT_OPERANDS; k++)
      o.operand[k] = x->workspace;
    if (s == MPCC_OK)
      s = set_operands(p, g, &x->plan[i], &o);
    if (s == MPCC_OK)
      s = ask(p, g, &x->plan[i]);
  }
  return s;
}

Status mprt__cuda_open_products(const mprt_program *p, mprt__cuda *g) {
  char why[MPRT__CUDA_WHY];
  if (!mprt__cuda_has_products(p))
    return MPCC_OK;
  mprt__products *x = g->products = calloc(1, sizeof *x);
  if (!x)
    return mprt__nomem(&p->cb, "products");
  if (mprt__lt_open(&x->api, why) != MPRT__CUDA_READY)
    return mprt__fail(&p->cb, MPCC_ERR_TARGET, "%s", why);
  x->plan = calloc((size_t)p->ncommand + 1, sizeof *x->plan);
  x->of_command = calloc((size_t)p->ncommand + 1, sizeof *x->of_command);
  if (!x->plan || !x->of_command)
    return mprt__nomem(&p->cb, "products");
  TRY_LT(x->api.cublasLtCreate(&x->handle), "cannot use cuBLASLt");
  CUDA_TRY(g->api.cuMemAlloc_v2(&x->workspace, WORKSPACE + ZERO_BYTES), "out of device memory");
  CUDA_TRY(g->api.cuMemsetD8Async(x->workspace, 0, WORKSPACE + ZERO_BYTES, g->stream),
           "cannot clear device memory");
  collect(p, g);
  return make_plans(p, g);
}

void mprt__cuda_close_products(mprt__cuda *g) {
  mprt__products *x = g->products;
  if (!x)
    return;
  for (uint32_t i = 0; i < x->nplan; i++) {
    const Plan *plan = &x->plan[i];
    if (plan->desc)
      x->api.cublasLtMatmulDescDestroy(plan->desc);
    const cublasLtMatrixLayout_t layout[] = {plan->first, plan->second, plan->result};
    for (int k = 0; k < 3; k++)
      if (layout[k])
        x->api.cublasLtMatrixLayoutDestroy(layout[k]);
  }
  if (x->workspace)
    g->api.cuMemFree_v2(x->workspace);
  if (x->handle)
    x->api.cublasLtDestroy(x->handle);
  free(x->plan);
  free(x->of_command);
  free(x);
  g->products = NULL;
}

Status mprt__cuda_product(const mprt_program *p, mprt__cuda *g, const MpccCommand *c, uint64_t t) {
  Plan *plan = &g->products->plan[g->products->of_command[c - p->command]];
  Operands o = {{0}};
  for (uint32_t i = 0; i < mpcc_product_operands(plan->m.with); i++)
    o.operand[i] = mprt__cuda_address(p, g, &p->argref[c->first_arg + i], t);
  return multiply(p, g, plan, &o, mprt__string(p, c->label));
}

Status mprt__cuda_multiply(const mprt_program *p, mprt__cuda *g, const MpccProduct *m,
                           const CUdeviceptr *operand) {
  mprt__products *x = g->products;
  const Status s = mprt__cuda_choose(p, g);
  if (s != MPCC_OK)
    return s;
  for (uint32_t k = 0; x && k < x->nplan; k++) {
    Plan *plan = &x->plan[k];
    Operands o = {{0}};
    if (memcmp(&plan->m, m, sizeof *m))
      continue;
    memcpy(o.operand, operand, mpcc_product_operands(m->with) * sizeof *operand);
    return multiply(p, g, plan, &o, "a product");
  }
  return mprt__fail(&p->cb, MPCC_ERR_INPUT, "this program has no such product");
}

/* ---- in checkpoints
 * ------------------------------------------------------------------------------ */

/* What an algorithm is bound to, beside device and library. */
static void key_of(const Plan *plan, char key[200]) {
  const MpccProduct *m = &plan->m;
  snprintf(key, 200, "%lldx%lldx%lld %s(%lld,%lld) %s(%lld,%lld) %s%s %lld %u,%u,%u,%u",
           (long long)m->rows, (long long)m->k, (long long)m->cols, dtype_text((DType)m->a_dtype),
           (long long)m->a_row, (long long)m->a_k, dtype_text((DType)m->b_dtype), (long long)m->b_k,
           (long long)m->b_col, dtype_text((DType)m->d_dtype), m->tf32 ? " tf32" : "",
           (long long)m->with, plan->align[0], plan->align[1], plan->align[2], plan->align[3]);
}

static char *library_name(const mprt__cuda *g) {
  char device[128] = "";
  g->api.cuDeviceGetName(device, (int)sizeof device, g->device);
  return mprt__format("cuBLASLt %zu, %s", g->products->api.cublasLtGetVersion(), device);
}

json_t *mprt__cuda_algorithms(const mprt_program *p, const mprt__cuda *g) {
  const mprt__products *x = g->products;
  (void)p;
  if (!x)
    return NULL;
  char *name = library_name(g), key[200], hex[2 * sizeof(cublasLtMatmulAlgo_t) + 1];
  json_t *plans = json_object();
  for (uint32_t i = 0; i < x->nplan; i++) {
    if (!x->plan[i].chosen)
      continue;
    const uint8_t *bytes = (const uint8_t *)&x->plan[i].algo;
    for (size_t k = 0; k < sizeof x->plan[i].algo; k++)
      snprintf(hex + 2 * k, 3, "%02x", bytes[k]);
    key_of(&x->plan[i], key);
    json_object_set_new(
        plans, key,
        json_pack("{s:s, s:I}", "algorithm", hex, "workspace", (json_int_t)x->plan[i].workspace));
  }
  json_t *out = json_pack("{s:s, s:o}", "library", name ? name : "", "plans", plans);
  free(name);
  return out;
}

/* False when the text is none of an algorithm. */
static bool read_hex(const char *hex, cublasLtMatmulAlgo_t *out) {
  uint8_t bytes[sizeof *out];
  if (strlen(hex) != 2 * sizeof bytes)
    return false;
  for (size_t k = 0; k < sizeof bytes; k++) {
    unsigned v;
    if (sscanf(hex + 2 * k, "%2x", &v) != 1)
      return false;
    bytes[k] = (uint8_t)v;
  }
  memcpy(out, bytes, sizeof bytes);
  return true;
}

void mprt__cuda_recall(const mprt_program *p, mprt__cuda *g, const json_t *algorithms) {
  mprt__products *x = g->products;
  if (!x || !json_is_object(algorithms))
    return;
  char *name = library_name(g), key[200];
  const char *before = mprt__json_string(algorithms, "library", "");
  if (name && strcmp(name, before)) {
    mprt__log(
        &p->cb, MPRT_LOG_WARNING,
        "the checkpoint was written with %s, this is %s: products are timed anew, results may "
        "differ in rounding",
        before, name);
    free(name);
    return;
  }
  free(name);
  const json_t *plans = json_object_get(algorithms, "plans");
  for (uint32_t i = 0; i < x->nplan; i++) {
    key_of(&x->plan[i], key);
    const json_t *plan = json_object_get(plans, key);
    const int64_t workspace = mprt__json_int(plan, "workspace", -1);
    cublasLtMatmulAlgo_t algo;
    if (workspace < 0 || workspace > WORKSPACE ||
        !read_hex(mprt__json_string(plan, "algorithm", ""), &algo))
      continue;
    x->plan[i].algo = algo;
    x->plan[i].workspace = (size_t)workspace;
    x->plan[i].chosen = true;
  }
  if (g->api.cuCtxSetCurrent(g->context) == CUDA_SUCCESS)
    mprt__cuda_forget_graphs(p, g);
}
