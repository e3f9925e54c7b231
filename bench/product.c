/* Speed of generated products beside the multiply-add peak of the same moment.
 *
 *   bench_product [-t THREADS] [-r ROUNDS] [-l LEVEL] [M N K]...
 *
 * Every round measures the peak (a loop of independent fused multiply-adds on registers, or of
 * vdpbf16ps), then packing plus product, so that both see the same clock and neighbours. Printed
 * are medians over the rounds of GFLOP/s and of their ratio, and the best ratio. Packing is timed
 * as a part of the product; `pack` is its share. */
#include "codegen/cpu/micro.h"
#include "tests/kernel_run.h"

#include <immintrin.h>
#include <pthread.h>

enum { MAX_ROUNDS = 101, MAX_THREADS = 64 };

/* ---- peaks
 * -------------------------------------------------------------------------------------------- */

#define CHAINS 24
/* Loops over the chains are unrolled so that chains are registers. */
#define EACH_CHAIN _Pragma("GCC unroll 32") for (int i = 0; i < CHAINS; i++)
#define PEAK_LOOP(vector, init, op)                                                                \
  vector a[CHAINS];                                                                                \
  EACH_CHAIN a[i] = init;                                                                          \
  EACH_CHAIN __asm__ volatile("" : "+v"(a[i])); /* not known to be equal */                        \
  for (long n = 0; n < turns; n++) {                                                               \
    EACH_CHAIN a[i] = op;                                                                          \
    __asm__ volatile("" : "+v"(a[0]));                                                             \
  }                                                                                                \
  EACH_CHAIN __asm__ volatile("" ::"v"(a[i]))

__attribute__((target("avx512f"))) static double peak_f32(long turns) {
  __m512 x = _mm512_set1_ps(0.9999f), y = _mm512_set1_ps(1e-3f);
  PEAK_LOOP(__m512, y, _mm512_fmadd_ps(a[i], x, y));
  return 2.0 * 16 * CHAINS * (double)turns;
}

__attribute__((target("avx512f"))) static double peak_f64(long turns) {
  __m512d x = _mm512_set1_pd(0.9999), y = _mm512_set1_pd(1e-3);
  PEAK_LOOP(__m512d, y, _mm512_fmadd_pd(a[i], x, y));
  return 2.0 * 8 * CHAINS * (double)turns;
}

__attribute__((target("avx512bf16"))) static double peak_bf16(long turns) {
  __m512 one = _mm512_set1_ps(1.0f);
  __m512bh x = (__m512bh)_mm512_set1_epi32(0x3c003c00), y = x;
  PEAK_LOOP(__m512, one, _mm512_dpbf16_ps(a[i], x, y));
  return 2.0 * 32 * CHAINS * (double)turns;
}

#undef CHAINS
#define CHAINS 12
__attribute__((target("avx2,fma"))) static double peak_avx2_f32(long turns) {
  __m256 x = _mm256_set1_ps(0.9999f), y = _mm256_set1_ps(1e-3f);
  PEAK_LOOP(__m256, y, _mm256_fmadd_ps(a[i], x, y));
  return 2.0 * 8 * CHAINS * (double)turns;
}

__attribute__((target("avx2,fma"))) static double peak_avx2_f64(long turns) {
  __m256d x = _mm256_set1_pd(0.9999), y = _mm256_set1_pd(1e-3);
  PEAK_LOOP(__m256d, y, _mm256_fmadd_pd(a[i], x, y));
  return 2.0 * 4 * CHAINS * (double)turns;
}

typedef double Peak(long turns);

static Peak *peak_of(const CpuLevel *level, DType compute) {
  if (compute == DT_BF16)
    return peak_bf16;
  if (compute == DT_F64)
    return level->avx512 ? peak_f64 : peak_avx2_f64;
  return level->avx512 ? peak_f32 : peak_avx2_f32;
}

/* ---- threads
 * ------------------------------------------------------------------------------------------ */

typedef struct {
  Peak *peak; /* or: */
  const Run *run;
  const MpccArg *args;
  int64_t first, end;
  void *scratch;
  double flop;
} Work;

static void *work_main(void *user) {
  Work *w = user;
  if (w->peak)
    w->flop = w->peak(100000);
  else
    w->run->fn(w->args, w->first, w->end, w->scratch);
  return NULL;
}

/* One thread: its own cpu time, so that neighbours on the same core do not count; more: wall time.
 */
static double work_clock(int threads) {
  struct timespec t;
  clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double all_threads(Work *w, int threads) {
  pthread_t thread[MAX_THREADS];
  double start = work_clock(threads);
  for (int i = 1; i < threads; i++)
    run_check(!pthread_create(&thread[i], NULL, work_main, &w[i]), "no thread");
  work_main(&w[0]);
  for (int i = 1; i < threads; i++)
    pthread_join(thread[i], NULL);
  return work_clock(threads) - start;
}

static double launch(const Run *r, const MpccArg *args, int threads, void **scratch) {
  Work w[MAX_THREADS] = {0};
  for (int i = 0; i < threads; i++)
    w[i] = (Work){.run = r,
                  .args = args,
                  .first = r->ntiles * i / threads,
                  .end = r->ntiles * (i + 1) / threads,
                  .scratch = scratch[i]};
  return all_threads(w, threads);
}

static double peak_rate(Peak *peak, int threads) {
  Work w[MAX_THREADS] = {0};
  for (int i = 0; i < threads; i++)
    w[i].peak = peak;
  double s = all_threads(w, threads), flop = 0;
  for (int i = 0; i < threads; i++)
    flop += w[i].flop;
  return flop / s;
}

/* ---- one case
 * ------------------------------------------------------------------------------------------ */

typedef struct {
  int64_t M, N, K;
  bool ta, tb;
  DType store, compute; /* of the operands; of the multiplication */
  bool epilogue;        /* bias and gelu */
} Case;

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void fill(void *p, DType dt, int64_t n) {
  uint32_t s = 1;
  for (int64_t i = 0; i < n; i++) {
    s = s * 1664525u + 1013904223u;
    float f = (float)((int)(s >> 9) % 2001 - 1000) / 1000.0f;
    uint32_t bits;
    memcpy(&bits, &f, 4);
    if (dt == DT_F64)
      ((double *)p)[i] = f;
    else if (dt == DT_F32)
      ((float *)p)[i] = f;
    else
      ((uint16_t *)p)[i] = (uint16_t)(bits >> 16);
  }
}

static Group *pack_group(const Case *c, int64_t packed) {
  Group *t = group_new("pack", 2, (int64_t[]){c->N, c->K}, 2);
  group_in(t, c->store, c->N * c->K, (Access){0, {c->tb ? c->K : 1, c->tb ? 1 : c->N}});
  group_out(t, c->compute, packed, (Access){0});
  group_dtype(t, "compute", c->compute);
  return t;
}

static Group *product_group(const Case *c, int64_t packed) {
  Group *t = group_new("product", 2, (int64_t[]){c->M, c->N}, 1);
  DType reg = c->compute == DT_F64 ? DT_F64 : DT_F32;
  group_in(t, c->store, c->M * c->K, (Access){0, {c->ta ? 1 : c->K, c->ta ? c->M : 1}});
  group_in(t, c->compute, packed, (Access){0});
  group_out(t, c->store, c->M * c->N, (Access){0, {c->N, 1}});
  group_int(t, "k", c->K);
  group_dtype(t, "compute", c->compute);
  int v = group_stmt(t, PR_ACC, reg, 0, 0, -1, -1, -1, -1);
  if (c->epilogue) {
    group_in(t, reg, c->N, (Access){0, {0, 1}});
    int bias = group_stmt(t, PR_LOAD, reg, 2, 0, -1, -1, -1, -1);
    int x = group_stmt(t, PR_ADD, reg, 0, 0, v, bias, -1, -1);
    int k = group_stmt(t, PR_CONST, reg, 0, 0.7071067811865476, -1, -1, -1, -1);
    int y = group_stmt(t, PR_MUL, reg, 0, 0, x, k, -1, -1);
    int e = group_stmt(t, PR_ERF, reg, 0, 0, y, -1, -1, -1);
    int one = group_stmt(t, PR_CONST, reg, 0, 1, -1, -1, -1, -1);
    int half = group_stmt(t, PR_CONST, reg, 0, 0.5, -1, -1, -1, -1);
    int s = group_stmt(t, PR_ADD, reg, 0, 0, e, one, -1, -1);
    int h = group_stmt(t, PR_MUL, reg, 0, 0, x, half, -1, -1);
    v = group_stmt(t, PR_MUL, reg, 0, 0, h, s, -1, -1);
  }
  group_stmt(t, PR_STORE, reg, 0, 0, v, -1, -1, -1);
  return t;
}

static void *tensor(DType dt, int64_t elems) {
  size_t bytes = (size_t)elems * dtype_bytes(dt);
  void *p = aligned_alloc(4096, (bytes / 4096 + 2) * 4096);
  run_check(p != NULL, "no memory");
  return p;
}

static void measure(const Case *c, const char *level, int threads, int rounds) {
  const CpuLevel *l = cpu_level(level);
  int pair = c->compute == DT_BF16 ? 2 : 1;
  int64_t cols = 2 * l->vector_bytes / (c->compute == DT_F64 ? 8 : 4);
  int64_t packed = ceil_div(c->N, cols) * cols * ceil_div(c->K, pair) * pair;
  Group *pg = pack_group(c, packed), *mg = product_group(c, packed);
  Run pr = run_compile(pg, level), mr = run_compile(mg, level);
  void *a = tensor(c->store, c->M * c->K), *b = tensor(c->store, c->K * c->N);
  void *bias = tensor(DT_F64, c->N), *out = tensor(c->store, c->M * c->N);
  void *panels = tensor(c->compute, packed), *scratch[MAX_THREADS];
  size_t most = (size_t)(pr.scratch_bytes > mr.scratch_bytes ? pr.scratch_bytes : mr.scratch_bytes);
  for (int i = 0; i < threads; i++)
    scratch[i] = tensor(DT_U8, (int64_t)most);
  fill(a, c->store, c->M * c->K);
  fill(b, c->store, c->K * c->N);
  memset(bias, 0, (size_t)c->N * 8);
  MpccArg pack_args[] = {{panels}, {b}}, args[] = {{out}, {a}, {panels}, {bias}};
  double rate[MAX_ROUNDS], ratio[MAX_ROUNDS], share[MAX_ROUNDS], peaks[MAX_ROUNDS];
  double flop = 2.0 * (double)c->M * (double)c->N * (double)c->K;
  int repeat = flop > 2e8 ? 1 : (int)(2e8 / flop) + 1;
  Peak *peak = peak_of(l, c->compute);
  for (int r = -1; r < rounds; r++) {
    double top = peak_rate(peak, threads), pack = 0, multiply = 0;
    for (int i = 0; i < repeat; i++) {
      pack += launch(&pr, pack_args, threads, scratch);
      multiply += launch(&mr, args, threads, scratch);
    }
    if (r < 0)
      continue;
    peaks[r] = top;
    rate[r] = flop * repeat / (pack + multiply);
    ratio[r] = rate[r] / top;
    share[r] = pack / (pack + multiply);
  }
  qsort(rate, (size_t)rounds, sizeof *rate, by_value);
  qsort(ratio, (size_t)rounds, sizeof *ratio, by_value);
  qsort(share, (size_t)rounds, sizeof *share, by_value);
  qsort(peaks, (size_t)rounds, sizeof *peaks, by_value);
  int mid = rounds / 2;
  printf("%5lld x %5lld x %5lld %c%c %4s as %4s%s: %6.1f of %6.1f GFLOP/s, %5.1f %% (quiet %5.1f), "
         "pack "
         "%4.1f %%, compile %4.1f + %4.1f ms, %lld tiles\n",
         (long long)c->M, (long long)c->N, (long long)c->K, c->ta ? 'T' : 'N', c->tb ? 'T' : 'N',
         dtype_text(c->store), dtype_text(c->compute), c->epilogue ? " bias gelu" : "",
         rate[mid] / 1e9, peaks[mid] / 1e9, 100 * ratio[mid],
         100 * rate[rounds - 1] / peaks[rounds - 1], 100 * share[mid], 1e3 * pr.compile_s,
         1e3 * mr.compile_s, (long long)mr.ntiles);
  fflush(stdout);
  run_free(&pr);
  run_free(&mr);
  group_free(pg);
  group_free(mg);
  free(a), free(b), free(bias), free(out), free(panels);
  for (int i = 0; i < threads; i++)
    free(scratch[i]);
}

static void measure_all(int64_t M, int64_t N, int64_t K, const char *level, int threads,
                        int rounds) {
  static const DType kinds[][2] = {
      {DT_F32, DT_F32}, {DT_BF16, DT_F32}, {DT_BF16, DT_BF16}, {DT_F64, DT_F64}};
  for (int k = 0; k < 4; k++) {
    if (kinds[k][1] == DT_BF16 && !cpu_level(level)->bf16)
      continue;
    for (int t = 0; t < 3; t++) {
      Case c = {M, N, K, t == 2, t == 1, kinds[k][0], kinds[k][1], false};
      measure(&c, level, threads, rounds);
    }
    Case c = {M, N, K, false, true, kinds[k][0], kinds[k][1], true};
    measure(&c, level, threads, rounds);
  }
}

int main(int argc, char **argv) {
  int threads = 1, rounds = 15, i = 1;
  const char *level = run_levels() ? cpu_level_names[run_levels() - 1] : NULL;
  for (; i + 1 < argc && argv[i][0] == '-'; i += 2) {
    if (argv[i][1] == 't')
      threads = atoi(argv[i + 1]);
    else if (argv[i][1] == 'r')
      rounds = atoi(argv[i + 1]);
    else if (argv[i][1] == 'l')
      level = argv[i + 1];
  }
  if (!level || !cpu_level(level) || threads < 1 || threads > MAX_THREADS || rounds < 1 ||
      rounds > MAX_ROUNDS) {
    fprintf(stderr, "usage: %s [-t THREADS] [-r ROUNDS] [-l LEVEL] [M N K]...\n", argv[0]);
    return 2;
  }
  printf("level %s, %d thread(s), median of %d rounds\n", level, threads, rounds);
  if (i == argc) {
    measure_all(1024, 1024, 1024, level, threads, rounds);
    measure_all(4096, 1024, 1024, level, threads, rounds);
    return 0;
  }
  for (; i + 2 < argc; i += 3)
    measure_all(atoll(argv[i]), atoll(argv[i + 1]), atoll(argv[i + 2]), level, threads, rounds);
  return 0;
}
