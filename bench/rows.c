/* Rows kernels beside copying the same bytes and beside the exponentials of the same moment.
 *
 *   bench_rows [-t THREADS] [-r ROUNDS] [-l LEVEL] [-k KILOBYTES] [-c COLUMNS] [NAME]
 *
 * Every round measures copying as many bytes as the kernel touches (each tensor once), the kernel,
 * our exponential and that of the C library's vector part on numbers in the nearest cache.
 * Kernels of few bytes run several times in a row, and so do copies: both find their bytes in the
 * nearest cache that holds these. What DRAM gives is seen where the bytes touched are more than the
 * last-level cache holds. Copies of glibc.cpu.x86_non_temporal_threshold bytes a thread and more
 * write past the caches.
 * Everything lies on huge pages, as in programs. Printed are medians: GB/s of the kernel and of the
 * copy, millions of elements a second of both exponentials, and the kernel's part of its roof: the
 * copy, and for kernels with n functions like exp an element at most 1/n of the faster exponential.
 * Exponentials read and write numbers of the kernel's dtype; the C library has them in f32 only. */
#include <cpuid.h>
#include <dlfcn.h>
#include <math.h>

#include "bench/bench.h"

enum { MAX_OPERANDS = 12, EXP_ELEMS = 4096, EXP_TURNS = 64, MIN_BYTES = 8 << 20 };

static int64_t cols = 768;

typedef struct {
  Group *t;
  int64_t rows;
  int in_place[MAX_OPERANDS]; /* result k is in place of operand in_place[k] - 1; 0: of none */
} Build;

static Access full(void) {
  return (Access){.stride = {cols, 1}};
}

static int put(Build *b, Prim p, Level level, int x, int y) {
  int i = group_stmt(b->t, p, MPCC_F32, -1, 0, x, y, -1, -1);
  b->t->body.stmt[i].level = (uint8_t)level;
  return i;
}

static int load(Build *b, DType dt, Level level) {
  Access a = full();
  int64_t n = b->rows * cols;
  if (level == LV_ROW)
    a = (Access){.stride = {1, 0}}, n = b->rows;
  if (level == LV_COL)
    a = (Access){.stride = {0, 1}}, n = cols;
  group_in(b->t, dt, n, a);
  int i = put(b, PR_LOAD, level == LV_COL ? LV_ELEM : level, -1, -1);
  b->t->body.stmt[i].ref = b->t->op.nin - 1;
  return i;
}

static void store_turned(Build *b, DType dt, int v) {
  group_out(b->t, dt, b->rows * cols, (Access){.stride = {1, b->rows}});
  int i = put(b, PR_STORE, LV_ELEM, v, -1);
  b->t->body.stmt[i].ref = b->t->op.nout - 1;
}

/* One element a panel. */
static void store_part(Build *b, int v) {
  group_out(b->t, MPCC_F32, b->rows / b->t->body.panel_rows + 1, (Access){.stride = {1}});
  int i = put(b, PR_STORE, LV_ALL, v, -1);
  b->t->body.stmt[i].ref = b->t->op.nout - 1;
}

static void store(Build *b, DType dt, Level level, int v) {
  Access a = full();
  int64_t n = b->rows * cols;
  if (level == LV_ROW)
    a = (Access){.stride = {1, 0}}, n = b->rows;
  if (level == LV_COL)
    n = (b->rows / b->t->body.panel_rows + 1) * cols;
  group_out(b->t, dt, n, a);
  int i = put(b, PR_STORE, level, v, -1);
  b->t->body.stmt[i].ref = b->t->op.nout - 1;
}

static int number(Build *b, double v) {
  int i = put(b, PR_CONST, LV_ALL, -1, -1);
  b->t->body.stmt[i].imm = v;
  return i;
}

#define E2(p, x, y) put(b, p, LV_ELEM, x, y)
#define E1(p, x) put(b, p, LV_ELEM, x, -1)
#define R2(p, x, y) put(b, p, LV_ROW, x, y)
#define R1(p, x) put(b, p, LV_ROW, x, -1)

static void layer_norm(Build *b, DType dt) {
  int x = load(b, dt, LV_ELEM), w = load(b, MPCC_F32, LV_COL), bias = load(b, MPCC_F32, LV_COL);
  int inv = number(b, 1.0 / (double)cols), mean = R2(PR_MUL, R1(PR_RSUM, x), inv);
  int c = E2(PR_SUB, x, mean), var = R2(PR_MUL, R1(PR_RSUM, E2(PR_MUL, c, c)), inv);
  int std = R1(PR_SQRT, R2(PR_ADD, var, number(b, 1e-5))), rstd = R2(PR_DIV, number(b, 1), std);
  store(b, dt, LV_ELEM, E2(PR_ADD, E2(PR_MUL, E2(PR_MUL, c, rstd), w), bias));
  store(b, MPCC_F32, LV_ROW, mean);
  store(b, MPCC_F32, LV_ROW, rstd);
}

static void layer_norm_grad(Build *b, DType dt) {
  int dy = load(b, dt, LV_ELEM), x = load(b, dt, LV_ELEM), w = load(b, MPCC_F32, LV_COL);
  int mean = load(b, MPCC_F32, LV_ROW), rstd = load(b, MPCC_F32, LV_ROW);
  int inv = number(b, 1.0 / (double)cols), h = E2(PR_MUL, E2(PR_SUB, x, mean), rstd);
  int g = E2(PR_MUL, dy, w), m1 = R2(PR_MUL, R1(PR_RSUM, g), inv);
  int m2 = R2(PR_MUL, R1(PR_RSUM, E2(PR_MUL, g, h)), inv);
  store(b, dt, LV_ELEM, E2(PR_MUL, E2(PR_SUB, E2(PR_SUB, g, m1), E2(PR_MUL, h, m2)), rstd));
  store(b, MPCC_F32, LV_COL, put(b, PR_CSUM, LV_COL, E2(PR_MUL, dy, h), -1));
  store(b, MPCC_F32, LV_COL, put(b, PR_CSUM, LV_COL, dy, -1));
}

static void adamw(Build *b, DType dt) {
  int p = load(b, MPCC_F32, LV_ELEM), g = load(b, dt, LV_ELEM);
  int m = load(b, MPCC_F32, LV_ELEM), v = load(b, MPCC_F32, LV_ELEM);
  int m1 = E2(PR_ADD, E2(PR_MUL, m, number(b, 0.9)), E2(PR_MUL, g, number(b, 0.1)));
  int v1 =
      E2(PR_ADD, E2(PR_MUL, v, number(b, 0.999)), E2(PR_MUL, E2(PR_MUL, g, g), number(b, 0.001)));
  int den = E2(PR_ADD, E2(PR_MUL, E1(PR_SQRT, v1), number(b, 1.5)), number(b, 1e-8));
  int p1 = E2(PR_SUB, E2(PR_MUL, p, number(b, 1 - 1e-5)),
              E2(PR_MUL, E2(PR_DIV, m1, den), number(b, 1e-3)));
  store(b, MPCC_F32, LV_ELEM, m1);
  store(b, MPCC_F32, LV_ELEM, v1);
  store(b, MPCC_F32, LV_ELEM, p1);
  if (dt != MPCC_F32)
    store(b, dt, LV_ELEM, p1);
  static const int operand_of[] = {2, 3, 0}; /* moments and parameters are updated where they are */
  for (int k = 0; k < 3; k++)
    b->in_place[k] = operand_of[k] + 1;
}

static void bias_sum(Build *b, DType dt) {
  store(b, MPCC_F32, LV_COL, put(b, PR_CSUM, LV_COL, load(b, dt, LV_ELEM), -1));
}

static void copy(Build *b, DType dt) {
  store(b, dt, LV_ELEM, load(b, dt, LV_ELEM));
}

static void to_low(Build *b, DType dt) {
  store(b, dt, LV_ELEM, load(b, MPCC_F32, LV_ELEM));
}

static void from_low(Build *b, DType dt) {
  store(b, MPCC_F32, LV_ELEM, load(b, dt, LV_ELEM));
}

static void turned(Build *b, DType dt) {
  store_turned(b, dt, load(b, MPCC_F32, LV_ELEM));
}

/* Codes, and the largest magnitude of a panel. */
static void quantize(Build *b, DType from, DType to) {
  int x = load(b, from, LV_ELEM);
  store(b, to, LV_ELEM, E2(PR_MUL, x, number(b, 8)));
  store_part(b, put(b, PR_AMAX, LV_ALL, E1(PR_ABS, x), -1));
}

static void quantize_f32(Build *b, DType dt) {
  quantize(b, MPCC_F32, dt);
}

static void quantize_bf16(Build *b, DType dt) {
  quantize(b, MPCC_BF16, dt);
}

/* x Phi(x) of x + bias. */
static void bias_gelu(Build *b, DType dt) {
  int x = E2(PR_ADD, load(b, dt, LV_ELEM), load(b, MPCC_F32, LV_COL));
  int e = E1(PR_ERF, E2(PR_MUL, x, number(b, 0.70710678)));
  store(b, dt, LV_ELEM, E2(PR_MUL, E2(PR_MUL, x, number(b, 0.5)), E2(PR_ADD, number(b, 1), e)));
}

static void bias_gelu_tanh(Build *b, DType dt) {
  int x = E2(PR_ADD, load(b, dt, LV_ELEM), load(b, MPCC_F32, LV_COL));
  int cube = E2(PR_MUL, E2(PR_MUL, x, x), x);
  int u = E2(PR_MUL, E2(PR_ADD, x, E2(PR_MUL, cube, number(b, 0.044715))), number(b, 0.797885));
  int half = E2(PR_MUL, x, number(b, 0.5));
  store(b, dt, LV_ELEM, E2(PR_MUL, half, E2(PR_ADD, number(b, 1), E1(PR_TANH, u))));
}

/* dx = dy (Phi(x) + x phi(x)) and its column sums. */
static void bias_gelu_grad(Build *b, DType dt) {
  int dy = load(b, dt, LV_ELEM), x = load(b, dt, LV_ELEM), half = number(b, 0.5);
  int e = E1(PR_ERF, E2(PR_MUL, x, number(b, 0.70710678)));
  int cdf = E2(PR_MUL, half, E2(PR_ADD, number(b, 1), e));
  int pdf = E1(PR_EXP, E2(PR_MUL, E2(PR_MUL, x, x), number(b, -0.5)));
  int slope = E2(PR_ADD, cdf, E2(PR_MUL, E2(PR_MUL, x, number(b, 0.39894228)), pdf));
  int dx = E2(PR_MUL, dy, slope);
  store(b, dt, LV_ELEM, dx);
  store(b, MPCC_F32, LV_COL, put(b, PR_CSUM, LV_COL, dx, -1));
}

static void exponential(Build *b, DType dt) {
  store(b, dt, LV_ELEM, E1(PR_EXP, load(b, dt, LV_ELEM)));
}

static void softmax(Build *b, DType dt) {
  int x = load(b, dt, LV_ELEM), e = E1(PR_EXP, E2(PR_SUB, x, R1(PR_RMAX, x)));
  store(b, dt, LV_ELEM, E2(PR_MUL, e, R2(PR_DIV, number(b, 1), R1(PR_RSUM, e))));
}

/* Loss, and the gradient of the logits. */
static void cross_entropy(Build *b, DType dt) {
  int x = load(b, dt, LV_ELEM), index = put(b, PR_INDEX, LV_ELEM, -1, -1);
  int target = put(b, PR_INDEX, LV_ROW, -1, -1);
  b->t->body.stmt[index].dt = b->t->body.stmt[target].dt = MPCC_I64;
  b->t->body.stmt[index].ref = 1;
  b->t->body.stmt[target].ref = 0;
  int hit = E2(PR_EQ, index, target), zero = number(b, 0), max = R1(PR_RMAX, x);
  b->t->body.stmt[hit].dt = MPCC_B1;
  int e = E1(PR_EXP, E2(PR_SUB, x, max)), sum = R1(PR_RSUM, e);
  int picked = E2(PR_SELECT, hit, x), hot = E2(PR_SELECT, hit, number(b, 1));
  b->t->body.stmt[picked].arg[2] = b->t->body.stmt[hot].arg[2] = zero;
  int loss = R2(PR_SUB, R2(PR_ADD, max, R1(PR_LOG, sum)), R1(PR_RSUM, picked));
  store(b, dt, LV_ELEM, E2(PR_SUB, E2(PR_MUL, e, R2(PR_DIV, number(b, 1), sum)), hot));
  store_part(b, put(b, PR_ASUM, LV_ALL, loss, -1));
}

/* exps: functions of the cost of exp for each element. */
static const struct {
  const char *name;
  void (*build)(Build *, DType);
  DType dt;
  int exps;
} cases[] = {
    {"copy f32", copy, MPCC_F32, 0},
    {"layer_norm f32", layer_norm, MPCC_F32, 0},
    {"layer_norm bf16", layer_norm, MPCC_BF16, 0},
    {"layer_norm_grad f32", layer_norm_grad, MPCC_F32, 0},
    {"layer_norm_grad bf16", layer_norm_grad, MPCC_BF16, 0},
    {"adamw f32", adamw, MPCC_F32, 0},
    {"adamw bf16 copy", adamw, MPCC_BF16, 0},
    {"column sums f32", bias_sum, MPCC_F32, 0},
    {"column sums bf16", bias_sum, MPCC_BF16, 0},
    {"f32 to bf16", to_low, MPCC_BF16, 0},
    {"bf16 to f32", from_low, MPCC_BF16, 0},
    {"f32 to f16", to_low, MPCC_F16, 0},
    {"f16 to f32", from_low, MPCC_F16, 0},
    {"f32 to e4m3", to_low, MPCC_E4M3, 0},
    {"e4m3 to f32", from_low, MPCC_E4M3, 0},
    {"f32 to e5m2", to_low, MPCC_E5M2, 0},
    {"e5m2 to f32", from_low, MPCC_E5M2, 0},
    {"quantize f32 e4m3", quantize_f32, MPCC_E4M3, 0},
    {"quantize f32 e5m2", quantize_f32, MPCC_E5M2, 0},
    {"quantize bf16 e4m3", quantize_bf16, MPCC_E4M3, 0},
    {"quantize bf16 e5m2", quantize_bf16, MPCC_E5M2, 0},
    {"f32 transposed", turned, MPCC_F32, 0},
    {"f32 to bf16 transposed", turned, MPCC_BF16, 0},
    {"f32 to e4m3 transposed", turned, MPCC_E4M3, 0},
    {"exp f32", exponential, MPCC_F32, 1},
    {"bias+gelu f32", bias_gelu, MPCC_F32, 1},
    {"bias+gelu bf16", bias_gelu, MPCC_BF16, 1},
    {"bias+gelu_tanh f32", bias_gelu_tanh, MPCC_F32, 1},
    {"bias+gelu_grad f32", bias_gelu_grad, MPCC_F32, 2},
    {"bias+gelu_grad bf16", bias_gelu_grad, MPCC_BF16, 2},
    {"softmax f32", softmax, MPCC_F32, 1},
    {"cross_entropy f32", cross_entropy, MPCC_F32, 1},
    {"cross_entropy bf16", cross_entropy, MPCC_BF16, 1},
};

/* ---- what kernels are held against ----------------------------------------------------------- */

typedef struct {
  char *to, *from;
  int64_t bytes;
  int turns; /* times in a row */
} Copy;

static void copy_job(void *user, int thread, int threads) {
  const Copy *c = user;
  int64_t first = c->bytes * thread / threads, end = c->bytes * (thread + 1) / threads;
  for (int i = 0; i < c->turns; i++)
    memcpy(c->to + first, c->from + first, (size_t)(end - first));
}

typedef struct {
  const Run *run; /* kernels */
  const MpccArg *args;
  void **scratch;
  void *library; /* the C library's vector exp, by vector bytes; NULL: there is none */
  int vector_bytes;
  int turns; /* times in a row */
  void *in[MAX_THREADS], *out[MAX_THREADS];
} Kernels;

static void kernel_job(void *user, int thread, int threads) {
  const Kernels *w = user;
  int64_t n = w->run->ntiles;
  for (int i = 0; i < w->turns; i++)
    w->run->fn(w->args, n * thread / threads, n * (thread + 1) / threads, w->scratch[thread]);
}

static void exp_job(void *user, int thread, int threads) {
  (void)threads;
  const Kernels *w = user;
  MpccArg args[] = {{.p = w->out[thread]}, {.p = w->in[thread]}};
  for (int i = 0; i < EXP_TURNS; i++)
    w->run->fn(args, 0, w->run->ntiles, w->scratch[thread]);
}

__attribute__((target("avx512f"))) static void library_exp_512(void *fn, float *out,
                                                               const float *in) {
  __m512 (*f)(__m512);
  memcpy(&f, &fn, sizeof f);
  for (int i = 0; i < EXP_ELEMS; i += 16)
    _mm512_storeu_ps(out + i, f(_mm512_loadu_ps(in + i)));
}

__attribute__((target("avx2"))) static void library_exp_256(void *fn, float *out, const float *in) {
  __m256 (*f)(__m256);
  memcpy(&f, &fn, sizeof f);
  for (int i = 0; i < EXP_ELEMS; i += 8)
    _mm256_storeu_ps(out + i, f(_mm256_loadu_ps(in + i)));
}

static void library_job(void *user, int thread, int threads) {
  (void)threads;
  const Kernels *w = user;
  for (int i = 0; i < EXP_TURNS; i++)
    (w->vector_bytes == 64 ? library_exp_512 : library_exp_256)(w->library, w->out[thread],
                                                                w->in[thread]);
}

/* The operand's own bytes; realistic values: small normal numbers. */
static void *operand(const Value *v, int64_t *bytes) {
  int64_t n = type_elems(v->type), size = (int64_t)dtype_bytes(v->type->dt);
  unsigned char *p = tensor(MPCC_U8, n * size);
  for (int64_t i = 0; i < n; i++) {
    float x = 0.01f + (float)(i * 2654435761u % 1000) * 1e-3f;
    uint32_t u;
    memcpy(&u, &x, 4);
    if (size == 4)
      memcpy(p + i * 4, &u, 4);
    else if (size == 2)
      p[2 * i] = (unsigned char)(u >> 16), p[2 * i + 1] = v->type->dt == MPCC_F16 ? 0x38 : 0x3e;
    else
      p[i] = 0x20 + (unsigned char)(i % 32);
  }
  *bytes += n * size;
  return p;
}

static Group *exp_group(DType dt) {
  Group *t = group_new("rows", 2, (int64_t[]){1, EXP_ELEMS}, 1);
  Build b = {t, 1};
  int64_t keep = cols;
  cols = EXP_ELEMS;
  t->body.panel_rows = 1;
  exponential(&b, dt);
  cols = keep;
  return t;
}

typedef struct {
  const char *level;
  BenchPool *pool; /* its threads bring scratch of their own */
  int threads, rounds;
  int64_t kilobytes;
  Kernels exp[2]; /* the exponentials of f32, of bf16 */
} Bench;

static void exp_create(Kernels *e, DType dt, const CpuLevel *level, int threads, Run *r,
                       void **scratch) {
  Group *t = exp_group(dt);
  *r = run_compile(t, level->name);
  group_free(t);
  void *lib = dt == MPCC_F32 ? dlopen("libmvec.so.1", RTLD_NOW) : NULL;
  const char *name = level->vector_bytes == 64 ? "_ZGVeN16v_expf" : "_ZGVdN8v_expf";
  *e = (Kernels){.run = r,
                 .scratch = scratch,
                 .vector_bytes = level->vector_bytes,
                 .library = lib ? dlsym(lib, name) : NULL};
  for (int i = 0; i < threads; i++) {
    scratch[i] = tensor(MPCC_U8, r->scratch_bytes);
    e->in[i] = tensor(dt, EXP_ELEMS);
    e->out[i] = tensor(dt, EXP_ELEMS);
    for (int k = 0; k < EXP_ELEMS; k++)
      num_store((char *)e->in[i] + (size_t)k * dtype_bytes(dt), dt, (k % 1000) * -0.01);
  }
}

static void exp_free(Kernels *e, Run *r, int threads) {
  for (int i = 0; i < threads; i++) {
    free(e->scratch[i]);
    free(e->in[i]);
    free(e->out[i]);
  }
  run_free(r);
}

static double median(double *v, int n) {
  qsort(v, (size_t)n, sizeof *v, by_value);
  return v[n / 2];
}

static void measure(Bench *m, size_t c) {
  Build b = {.rows = m->kilobytes * 1024 / cols / 8};
  b.t = group_new("rows", 2, (int64_t[]){b.rows, cols}, 1);
  b.t->body.panel_rows = 16;
  cases[c].build(&b, cases[c].dt);
  Run r = run_compile(b.t, m->level);
  MpccArg args[2 * MAX_OPERANDS];
  int n = 0;
  int64_t bytes = 0;
  void *memory[2 * MAX_OPERANDS] = {0};
  for (int k = 0; k < b.t->op.nout; k++)
    memory[k] = operand(b.t->op.out[k], &bytes);
  for (int k = 0; k < b.t->op.nin; k++)
    memory[b.t->op.nout + k] = operand(b.t->op.in[k], &bytes);
  for (; n < b.t->op.nout + b.t->op.nin; n++)
    args[n].p =
        n < b.t->op.nout && b.in_place[n] ? memory[b.t->op.nout + b.in_place[n] - 1] : memory[n];
  Copy copy = {tensor(MPCC_U8, bytes / 2), tensor(MPCC_U8, bytes / 2), bytes / 2, 1};
  memset(copy.from, 1, (size_t)copy.bytes);
  memset(copy.to, 1, (size_t)copy.bytes);
  void *scratch[MAX_THREADS];
  for (int i = 0; i < m->threads; i++)
    scratch[i] = tensor(MPCC_U8, r.scratch_bytes);
  Kernels w = {.run = &r, .args = args, .scratch = scratch};
  double rate[MAX_ROUNDS], roof[MAX_ROUNDS], own[MAX_ROUNDS], lib[MAX_ROUNDS], part[MAX_ROUNDS];
  const Kernels *exp = &m->exp[cases[c].dt == MPCC_BF16];
  copy.turns = w.turns = bytes < MIN_BYTES ? (int)(MIN_BYTES / bytes) : 1;
  double elems = (double)b.rows * (double)cols, exps = (double)EXP_ELEMS * EXP_TURNS * m->threads;
  for (int i = -1; i < m->rounds; i++) {
    double copied = job_seconds(m->pool, copy_job, &copy) / copy.turns;
    double ran = job_seconds(m->pool, kernel_job, &w) / w.turns;
    double ours = job_seconds(m->pool, exp_job, (void *)exp);
    double theirs = exp->library ? job_seconds(m->pool, library_job, (void *)exp) : INFINITY;
    if (i < 0)
      continue;
    rate[i] = (double)bytes / ran;
    roof[i] = (double)bytes / copied;
    own[i] = exps / ours;
    lib[i] = exps / theirs;
    double fastest = own[i] > lib[i] ? own[i] : lib[i], least = copied;
    double computed = elems * cases[c].exps / fastest;
    part[i] = (least > computed ? least : computed) / ran;
  }
  printf("%-24s %5lld %7.1f %7.1f %7.0f %7.0f  %5.2f\n", cases[c].name, (long long)bytes >> 20,
         median(rate, m->rounds) / 1e9, median(roof, m->rounds) / 1e9, median(own, m->rounds) / 1e6,
         median(lib, m->rounds) / 1e6, median(part, m->rounds));
  fflush(stdout);
  for (int i = 0; i < m->threads; i++)
    free(scratch[i]);
  free(copy.from);
  free(copy.to);
  while (n > 0)
    free(memory[--n]);
  run_free(&r);
  group_free(b.t);
}

/* Bytes of the third-level cache that a core shares with its neighbours; 0: unknown. The processor is
 * asked (leaf 4 of Intel, 8000001Dh of AMD), because the C library adds up those of a whole package,
 * of which a core reaches one alone. */
static int64_t last_level_cache(void) {
  unsigned leaf = __get_cpuid_max(0x80000000, NULL) >= 0x8000001d ? 0x8000001d : 4, a, b, c, d;
  for (unsigned i = 0; __get_cpuid_count(leaf, i, &a, &b, &c, &d) && a & 31; i++)
    if ((a >> 5 & 7) == 3)
      return (int64_t)((b >> 22) + 1) * ((b >> 12 & 1023) + 1) * ((b & 4095) + 1) * (c + 1ll);
  return 0;
}

static void usage(const char *name) {
  fprintf(stderr,
          "usage: %s [-t THREADS] [-r ROUNDS] [-l LEVEL] [-k KILOBYTES] [-c COLUMNS] [NAME]\n",
          name);
  exit(2);
}

int main(int argc, char **argv) {
  Bench m = {.level = run_levels() ? cpu_host_level() : "",
             .threads = 1,
             .rounds = 15,
             .kilobytes = 16384};
  int a = 1;
  for (; a + 1 < argc && argv[a][0] == '-'; a += 2) {
    int64_t v = atoll(argv[a + 1]);
    switch (argv[a][1]) {
    case 't':
      m.threads = (int)v;
      break;
    case 'r':
      m.rounds = (int)v;
      break;
    case 'l':
      m.level = argv[a + 1];
      break;
    case 'k':
      m.kilobytes = v;
      break;
    case 'c':
      cols = v;
      break;
    default:
      usage(*argv);
    }
  }
  const CpuLevel *level = cpu_level(m.level);
  if (!level || m.threads < 1 || m.threads > MAX_THREADS || m.rounds < 1 || m.rounds > MAX_ROUNDS ||
      cols < 1 || m.kilobytes * 1024 / cols / 8 < 1)
    usage(*argv);
  m.pool = bench_pool_create(m.threads, 0);
  run_check(m.pool != NULL, "no pool");
  Run r[2];
  void *scratch[2][MAX_THREADS];
  for (int i = 0; i < 2; i++)
    exp_create(&m.exp[i], i ? MPCC_BF16 : MPCC_F32, level, m.threads, &r[i], scratch[i]);
  printf("%s, %d thread(s), %lld columns, %lld kB a tensor of 8 bytes an element, median of %d\n",
         m.level, m.threads, (long long)cols, (long long)m.kilobytes, m.rounds);
  printf("last-level cache %lld MB\n", (long long)last_level_cache() >> 20);
  printf("%-24s %5s %7s %7s %7s %7s  %5s\n", "kernel", "MB", "GB/s", "copy", "exp M/s", "C lib",
         "roof");
  for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
    if (a >= argc || strstr(cases[c].name, argv[a]))
      measure(&m, c);
  for (int i = 0; i < 2; i++)
    exp_free(&m.exp[i], &r[i], m.threads);
  bench_pool_destroy(m.pool);
  return 0;
}
