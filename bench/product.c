/* Speed of generated products beside the multiply-add peak of the same moment.
 *
 *   bench_product [-t THREADS] [-r ROUNDS] [-l LEVEL] [-d STORED_DTYPE] [M N K]...
 *   bench_product -b BATCHES [...] [M N K]...: so many products, the second factors as they lie
 *
 * Every round measures the peak (a loop of independent fused multiply-adds on registers, or of
 * vdpbf16ps) and the bare loop of a micro-kernel on operands in the nearest cache, then packing
 * plus product, so that all see the same clock and neighbours. Printed are medians over the rounds
 * of GFLOP/s and of ratios to the peak, and the best ratio. Packing is timed as a part of the
 * product; `pack` is its share. A round in which another program took a processor is done again, a
 * few times. */
#include <sys/resource.h>

#include "codegen/cpu/micro.h"
#include "bench/bench.h"

/* ---- one case -------------------------------------------------------------------------------- */

typedef struct {
  int64_t M, N, K;
  bool ta, tb;
  DType store, compute; /* of the operands; of the multiplication */
  bool epilogue;        /* bias and gelu */
  int64_t batches;      /* 0: one product, whose second factor is packed */
} Case;

static Group *pack_group(const Case *c, int64_t packed) {
  Group *t = group_new("pack", 2, (int64_t[]){c->N, c->K}, 2);
  group_in(t, c->store, c->N * c->K, (Access){0, {c->tb ? c->K : 1, c->tb ? 1 : c->N}});
  group_out(t, c->compute, packed, (Access){0});
  group_dtype(t, "compute", c->compute);
  return t;
}

static Group *product_group(const Case *c, int64_t packed) {
  Group *t = group_new("product", 2, (int64_t[]){c->M, c->N}, 1);
  DType reg = c->compute == MPCC_F64 ? MPCC_F64 : MPCC_F32;
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

/* Products of matrices that lie one after the other. */
static Group *batch_group(const Case *c) {
  Group *t = group_new("product", 3, (int64_t[]){c->batches, c->M, c->N}, 1);
  DType reg = c->compute == MPCC_F64 ? MPCC_F64 : MPCC_F32;
  int64_t ak = c->ta ? c->M : 1, am = c->ta ? 1 : c->K, all = c->batches;
  group_in(t, c->store, all * c->M * c->K, (Access){0, {c->M * c->K, am, ak}});
  group_in(t, c->store, all * c->K * c->N, (Access){0, {c->K * c->N, 0, 0}});
  group_out(t, c->store, all * c->M * c->N, (Access){0, {c->M * c->N, c->N, 1}});
  group_int(t, "k", c->K);
  group_dtype(t, "compute", c->compute);
  int64_t factor[] = {c->tb ? 1 : c->N, c->tb ? c->K : 1};
  group_ints(t, "factor", 2, factor);
  int v = group_stmt(t, PR_ACC, reg, 0, 0, -1, -1, -1, -1);
  group_stmt(t, PR_STORE, reg, 0, 0, v, -1, -1, -1);
  return t;
}

/* How often others took a processor from this program. */
static long preemptions(void) {
  struct rusage u;
  getrusage(RUSAGE_SELF, &u);
  return u.ru_nivcsw;
}

typedef struct {
  double top, bare, pack, multiply; /* rates; seconds */
} Round;

static Round one_round(const Case *c, const CpuLevel *l, const Run *pack, const Run *multiply,
                       MpccArg *pack_args, MpccArg *args, BenchPool *pool, int repeat) {
  enum { TRIES = 5 };
  Peak *bare = bare_of(l, c->compute);
  Round r;
  for (int i = 0; i < TRIES; i++) {
    long before = preemptions();
    r = (Round){peak_rate(peak_of(l, c->compute), pool), bare ? peak_rate(bare, pool) : 0};
    for (int k = 0; k < repeat; k++) {
      r.pack += c->batches ? 0 : launch(pack, pack_args, pool);
      r.multiply += launch(multiply, args, pool);
    }
    if (preemptions() == before)
      break;
  }
  return r;
}

static double median(double *v, int n) {
  qsort(v, (size_t)n, sizeof *v, by_value);
  return v[n / 2];
}

static void print_case(const Case *c) {
  if (c->batches)
    printf("%4lld of ", (long long)c->batches);
  printf("%5lld x %5lld x %5lld %c%c %4s as %4s%s: ", (long long)c->M, (long long)c->N,
         (long long)c->K, c->ta ? 'T' : 'N', c->tb ? 'T' : 'N', dtype_text(c->store),
         dtype_text(c->compute), c->epilogue ? " bias gelu" : "");
}

static void measure(const Case *c, const char *level, int threads, int rounds) {
  const CpuLevel *l = cpu_level(level);
  int pair = c->compute == MPCC_BF16 ? 2 : 1;
  int64_t cols = 2 * l->vector_bytes / (c->compute == MPCC_F64 ? 8 : 4);
  int64_t packed = ceil_div(c->N, cols) * cols * ceil_div(c->K, pair) * pair;
  int64_t all = c->batches ? c->batches : 1;
  Group *pg = pack_group(c, packed), *mg = c->batches ? batch_group(c) : product_group(c, packed);
  Run pr = run_compile(pg, level), mr = run_compile(mg, level);
  void *a = tensor(c->store, all * c->M * c->K), *b = tensor(c->store, all * c->K * c->N);
  void *bias = tensor(MPCC_F64, c->N), *out = tensor(c->store, all * c->M * c->N);
  void *panels = tensor(c->compute, packed);
  BenchPool *pool = pool_for(threads, &pr, &mr);
  fill(a, c->store, all * c->M * c->K);
  fill(b, c->store, all * c->K * c->N);
  memset(bias, 0, (size_t)c->N * 8);
  MpccArg pack_args[] = {{panels}, {b}}, args[] = {{out}, {a}, {c->batches ? b : panels}, {bias}};
  double rate[MAX_ROUNDS], ratio[MAX_ROUNDS], share[MAX_ROUNDS], peaks[MAX_ROUNDS],
      bare[MAX_ROUNDS];
  double flop = 2.0 * (double)(all * c->M) * (double)c->N * (double)c->K;
  int repeat = flop > 2e8 ? 1 : (int)(2e8 / flop) + 1;
  for (int i = -1; i < rounds; i++) {
    Round r = one_round(c, l, &pr, &mr, pack_args, args, pool, repeat);
    int at = i < 0 ? 0 : i; /* the first is measured again */
    peaks[at] = r.top;
    bare[at] = r.bare / r.top;
    rate[at] = flop * repeat / (r.pack + r.multiply);
    ratio[at] = rate[at] / r.top;
    share[at] = r.pack / (r.pack + r.multiply);
  }
  double top = median(peaks, rounds);
  print_case(c);
  printf("%6.1f of %6.1f GFLOP/s, %5.1f %% ", median(rate, rounds) / 1e9, top / 1e9,
         100 * median(ratio, rounds));
  printf("(quiet %5.1f", 100 * rate[rounds - 1] / top);
  if (bare_of(l, c->compute))
    printf(", bare loop %5.1f", 100 * median(bare, rounds));
  printf("), pack %4.1f %%, compile %4.1f + %4.1f ms, %lld tiles\n", 100 * median(share, rounds),
         1e3 * pr.compile_s, 1e3 * mr.compile_s, (long long)mr.ntiles);
  fflush(stdout);
  run_free(&pr);
  run_free(&mr);
  group_free(pg);
  group_free(mg);
  free(a), free(b), free(bias), free(out), free(panels);
  bench_pool_destroy(pool);
}

static void measure_all(int64_t batches, int64_t M, int64_t N, int64_t K, const char *level,
                        DType only, int threads, int rounds) {
  static const DType kinds[][2] = {
      {MPCC_F32, MPCC_F32}, {MPCC_BF16, MPCC_F32}, {MPCC_BF16, MPCC_BF16}, {MPCC_F64, MPCC_F64}};
  for (int k = 0; k < 4; k++) {
    if (kinds[k][1] == MPCC_BF16 && (batches || !cpu_level(level)->bf16))
      continue;
    if (only != MPCC_DTYPE_COUNT && kinds[k][0] != only)
      continue;
    for (int t = 0; t < 3; t++) {
      Case c = {M, N, K, t == 2, t == 1, kinds[k][0], kinds[k][1], false, batches};
      measure(&c, level, threads, rounds);
    }
    Case c = {M, N, K, false, true, kinds[k][0], kinds[k][1], true, 0};
    if (!batches)
      measure(&c, level, threads, rounds);
  }
}

int main(int argc, char **argv) {
  int threads = 1, rounds = 15, i = 1;
  DType only = MPCC_DTYPE_COUNT;
  int64_t batches = 0;
  const char *level = run_levels() ? cpu_level_names[run_levels() - 1] : NULL;
  for (; i + 1 < argc && argv[i][0] == '-'; i += 2) {
    if (argv[i][1] == 't')
      threads = atoi(argv[i + 1]);
    else if (argv[i][1] == 'r')
      rounds = atoi(argv[i + 1]);
    else if (argv[i][1] == 'l')
      level = argv[i + 1];
    else if (argv[i][1] == 'b')
      batches = atoll(argv[i + 1]);
    else if (argv[i][1] == 'd')
      only = dtype_from_text(argv[i + 1]);
  }
  if (!level || !cpu_level(level) || threads < 1 || threads > MAX_THREADS || rounds < 1 ||
      rounds > MAX_ROUNDS) {
    fprintf(stderr,
            "usage: %s [-t THREADS] [-r ROUNDS] [-l LEVEL] [-d STORED_DTYPE] [-b BATCHES] "
            "[M N K]...\n",
            argv[0]);
    return 2;
  }
  printf("level %s, %d thread(s), median of %d rounds\n", level, threads, rounds);
  if (i == argc) {
    measure_all(0, 1024, 1024, 1024, level, only, threads, rounds);
    measure_all(0, 4096, 1024, 1024, level, only, threads, rounds);
    measure_all(8, 512, 512, 512, level, only, threads, rounds);
    measure_all(48, 197, 197, 64, level, only, threads, rounds); /* scores of attention, */
    measure_all(48, 197, 64, 197, level, only, threads, rounds); /* and what they weigh */
    return 0;
  }
  for (; i + 2 < argc; i += 3)
    measure_all(batches, atoll(argv[i]), atoll(argv[i + 1]), atoll(argv[i + 2]), level, only,
                threads, rounds);
  return 0;
}
