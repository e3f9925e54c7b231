/* What measurements of kernels share: multiply-add peaks of the processor, kernels launched on
 * several threads, memory. Every figure of a bench is taken between figures of what it is compared
 * with. */
#ifndef MPCC_BENCH_H
#define MPCC_BENCH_H

#include <immintrin.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "bench/pool.h"
#include "tests/kernel_run.h"

enum { MAX_ROUNDS = 101, MAX_THREADS = 64 };

/* ---- peaks ----------------------------------------------------------------------------------- */

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

__attribute__((target("avx512f"))) static inline double peak_f32(long turns) {
  __m512 x = _mm512_set1_ps(0.9999f), y = _mm512_set1_ps(1e-3f);
  PEAK_LOOP(__m512, y, _mm512_fmadd_ps(a[i], x, y));
  return 2.0 * 16 * CHAINS * (double)turns;
}

__attribute__((target("avx512f"))) static inline double peak_f64(long turns) {
  __m512d x = _mm512_set1_pd(0.9999), y = _mm512_set1_pd(1e-3);
  PEAK_LOOP(__m512d, y, _mm512_fmadd_pd(a[i], x, y));
  return 2.0 * 8 * CHAINS * (double)turns;
}

__attribute__((target("avx512bf16"))) static inline double peak_bf16(long turns) {
  __m512 one = _mm512_set1_ps(1.0f);
  __m512bh x = (__m512bh)_mm512_set1_epi32(0x3c003c00), y = x;
  PEAK_LOOP(__m512, one, _mm512_dpbf16_ps(a[i], x, y));
  return 2.0 * 32 * CHAINS * (double)turns;
}

#undef CHAINS
#define CHAINS 12
__attribute__((target("avx2,fma"))) static inline double peak_avx2_f32(long turns) {
  __m256 x = _mm256_set1_ps(0.9999f), y = _mm256_set1_ps(1e-3f);
  PEAK_LOOP(__m256, y, _mm256_fmadd_ps(a[i], x, y));
  return 2.0 * 8 * CHAINS * (double)turns;
}

__attribute__((target("avx2,fma"))) static inline double peak_avx2_f64(long turns) {
  __m256d x = _mm256_set1_pd(0.9999), y = _mm256_set1_pd(1e-3);
  PEAK_LOOP(__m256d, y, _mm256_fmadd_pd(a[i], x, y));
  return 2.0 * 4 * CHAINS * (double)turns;
}

typedef double Peak(long turns);

static inline Peak *peak_of(const CpuLevel *level, DType compute) {
  if (compute == MPCC_BF16)
    return peak_bf16;
  if (compute == MPCC_F64)
    return level->avx512 ? peak_f64 : peak_avx2_f64;
  return level->avx512 ? peak_f32 : peak_avx2_f32;
}

/* Multiply-adds as the micro-kernel of products has them with x86-64-v4, on operands that stay in
 * the nearest cache: 14 rows of A, four of five broadcast from memory by the multiplications
 * themselves, by two vectors of B. What no product of such tiles passes where another thread shares
 * the core. Only AVX-512 has the form. */
enum { BARE_ROWS = 14, BARE_K = 96, BARE_STRIDE = 16 };
#define BARE_LOOP(vector, lanes, init, broadcast, op, fold)                                        \
  vector s[BARE_ROWS][2], b[2], x;                                                                 \
  _Pragma("GCC unroll 32") for (int i = 0; i < BARE_ROWS; i++) s[i][0] = s[i][1] = init;           \
  for (long n = 0; n < turns / 100; n++) {                                                         \
    const unit *pa = from_a, *pb = from_b;                                                         \
    for (int k = 0; k < BARE_K; k++, pa += BARE_STRIDE, pb += 2 * (lanes)) {                       \
      b[0] = *(const vector *)pb, b[1] = *(const vector *)(pb + (lanes));                          \
      _Pragma("GCC unroll 32") for (int i = 0; i < BARE_ROWS; i++) {                               \
        if (i % 5 == 4) {                                                                          \
          x = broadcast(pa[i]);                                                                    \
          __asm__("" : "+v"(x)); /* loaded once */                                                 \
          s[i][0] = op(s[i][0], x, b[0]), s[i][1] = op(s[i][1], x, b[1]);                          \
        } else {                                                                                   \
          __asm__(fold : "+v"(s[i][0]) : "m"(pa[i]), "v"(b[0]));                                   \
          __asm__(fold : "+v"(s[i][1]) : "m"(pa[i]), "v"(b[1]));                                   \
        }                                                                                          \
      }                                                                                            \
      __asm__ volatile("" : "+r"(pa), "+r"(pb));                                                   \
    }                                                                                              \
  }                                                                                                \
  _Pragma("GCC unroll 32") for (int i = 0; i < BARE_ROWS;                                          \
                                i++) __asm__ volatile("" ::"v"(s[i][0]), "v"(s[i][1]));            \
  return 2.0 * BARE_ROWS * BARE_K * 2 * (lanes) * (double)(turns / 100)

#define BARE_FMA_PS(s, x, b) _mm512_fmadd_ps(x, b, s)
#define BARE_FMA_PD(s, x, b) _mm512_fmadd_pd(x, b, s)

__attribute__((target("avx512f"))) static inline double bare_f32(long turns) {
  typedef float unit;
  static _Alignas(64) float from_a[BARE_K * BARE_STRIDE], from_b[BARE_K * 32];
  BARE_LOOP(__m512, 16, _mm512_setzero_ps(), _mm512_set1_ps, BARE_FMA_PS,
            "vfmadd231ps %1%{1to16%}, %2, %0");
}

__attribute__((target("avx512f"))) static inline double bare_f64(long turns) {
  typedef double unit;
  static _Alignas(64) double from_a[BARE_K * BARE_STRIDE], from_b[BARE_K * 16];
  BARE_LOOP(__m512d, 8, _mm512_setzero_pd(), _mm512_set1_pd, BARE_FMA_PD,
            "vfmadd231pd %1%{1to8%}, %2, %0");
}
/* NULL: none of that kind. */
static inline Peak *bare_of(const CpuLevel *level, DType compute) {
  if (!level->avx512 || compute == MPCC_BF16)
    return NULL;
  return compute == MPCC_F64 ? bare_f64 : bare_f32;
}

/* ---- threads --------------------------------------------------------------------------------- */

/* One thread: its own cpu time, so that neighbours on the same core do not count; more: wall time.
 */
static inline double work_clock(int threads) {
  struct timespec t;
  clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Seconds of one launch on the runtime's own pool, which shares tiles as programs do. */
static inline double launch(const Run *r, const MpccArg *args, BenchPool *pool) {
  int threads = bench_pool_threads(pool);
  double start = work_clock(threads);
  bench_pool_run(pool, r->fn, args, r->ntiles);
  return work_clock(threads) - start;
}

static inline BenchPool *pool_for(int threads, const Run *a, const Run *b) {
  int64_t bytes = a->scratch_bytes > b->scratch_bytes ? a->scratch_bytes : b->scratch_bytes;
  BenchPool *pool = bench_pool_create(threads, (size_t)bytes);
  run_check(pool != NULL, "no pool");
  return pool;
}

/* Wall seconds (one thread: its own) from when all threads of the pool stand ready until the last
 * has done job(user, thread, threads). What is compared runs on the threads of one pool, each on a
 * processor of its own from its first job on: kernels let new threads, and woken ones, share one
 * for milliseconds or longer. */
typedef void Job(void *user, int thread, int threads);
typedef struct {
  Job *job;
  void *user;
  int threads;
  cpu_set_t cpus;    /* that this program may use */
  _Atomic int ready; /* threads that are */
  double start[MAX_THREADS], end[MAX_THREADS];
} JobWork;

/* The thread stays on the processor of its number among those there are. */
static inline void job_pin(const JobWork *w, int thread) {
  int cpu = 0, left = thread % CPU_COUNT(&w->cpus);
  while (!CPU_ISSET(cpu, &w->cpus) || left-- > 0)
    cpu++;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(cpu, &one);
  sched_setaffinity(0, sizeof one, &one);
}

/* A tile a thread: nobody is done with one before all have one. */
static inline void job_tile(const MpccArg *args, int64_t thread, int64_t end, void *scratch) {
  (void)end, (void)scratch;
  JobWork *w = args[0].p;
  if (w->threads > 1)
    job_pin(w, (int)thread);
  w->ready++;
  while (w->ready < w->threads)
    ;
  w->start[thread] = work_clock(w->threads);
  w->job(w->user, (int)thread, w->threads);
  w->end[thread] = work_clock(w->threads);
}

static inline double job_seconds(BenchPool *pool, Job *job, void *user) {
  static cpu_set_t cpus; /* before any thread was pinned */
  JobWork w = {.job = job, .user = user, .threads = bench_pool_threads(pool)};
  if (!CPU_COUNT(&cpus))
    run_check(!sched_getaffinity(0, sizeof cpus, &cpus), "no processors");
  w.cpus = cpus;
  bench_pool_run(pool, job_tile, &(MpccArg){.p = &w}, w.threads);
  double start = w.start[0], end = w.end[0];
  for (int i = 1; i < w.threads; i++) {
    start = w.start[i] < start ? w.start[i] : start;
    end = w.end[i] > end ? w.end[i] : end;
  }
  return end - start;
}

typedef struct {
  Peak *peak;
  double flop[MAX_THREADS];
} PeakJob;

static inline void peak_job(void *user, int thread, int threads) {
  (void)threads;
  PeakJob *p = user;
  p->flop[thread] = p->peak(500000);
}

/* Operations a second of all threads together. */
static inline double peak_rate(Peak *peak, BenchPool *pool) {
  PeakJob p = {.peak = peak};
  double s = job_seconds(pool, peak_job, &p), flop = 0;
  for (int i = 0; i < bench_pool_threads(pool); i++)
    flop += p.flop[i];
  return flop / s;
}

/* ---- numbers and memory ---------------------------------------------------------------------- */

static inline int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* On huge pages, where there are any, like the runtime's segments: with small ones a product misses
 * the translation buffer often enough to lose a tenth. */
static inline void *tensor(DType dt, int64_t elems) {
  size_t huge = 2 << 20, bytes = ((size_t)elems * dtype_bytes(dt) / huge + 1) * huge;
  void *p = aligned_alloc(huge, bytes);
  run_check(p != NULL, "no memory");
  (void)madvise(p, bytes, MADV_HUGEPAGE);
  return p;
}

/* Numbers in [-1, 1]; dt: f64, f32, bf16. */
static inline void fill(void *p, DType dt, int64_t n) {
  uint32_t s = 1;
  for (int64_t i = 0; i < n; i++) {
    s = s * 1664525u + 1013904223u;
    float f = (float)((int)(s >> 9) % 2001 - 1000) / 1000.0f;
    uint32_t bits;
    memcpy(&bits, &f, 4);
    if (dt == MPCC_F64)
      ((double *)p)[i] = f;
    else if (dt == MPCC_F32)
      ((float *)p)[i] = f;
    else
      ((uint16_t *)p)[i] = (uint16_t)(bits >> 16);
  }
}

#endif
