/* Speed of attention and its gradient beside the multiply-add peak of the same moment.
 *
 *   bench_attention [-t THREADS] [-r ROUNDS] [-l LEVEL] [-d DTYPE] [N H T D CAUSAL]...
 *
 * Counted are the multiplications that the definition asks for: 4 T T D per head forward and 10 T T
 * D backward, half of that when causal; what is computed for padding or twice does not count. */
#include "bench/bench.h"

typedef struct {
  int64_t N, H, T, D;
  bool causal;
  DType dt;
} Case;

static Access rows_of(const Case *c, int64_t row, int64_t offset) {
  return (Access){offset, {c->T * row, c->D, row, 1}};
}

/* Operands lie as in a model: q, k, v side by side in one projection. */
/* As programs for that level have it. */
static DType compute_of(const Case *c, const char *level) {
  return c->dt == MPCC_F64 || (c->dt == MPCC_BF16 && cpu_level(level)->bf16) ? c->dt : MPCC_F32;
}

static Group *attention_group(const Case *c, const char *level, bool grad) {
  Group *t =
      group_new(grad ? "attention_grad" : "attention", 4, (int64_t[]){c->N, c->H, c->T, c->D}, 1);
  int64_t w = c->H * c->D, n = c->N * c->T * w;
  Access lse = {0, {c->H * c->T, c->T, 1, 0}};
  group_int(t, "keys", c->T);
  group_int(t, "causal", c->causal);
  group_dtype(t, "compute", compute_of(c, level));
  if (grad) {
    group_in(t, c->dt, n, rows_of(c, w, 0));
    group_in(t, c->dt, n, rows_of(c, w, 0));
    group_in(t, MPCC_F32, c->N * c->H * c->T, lse);
  }
  for (int k = 0; k < 3; k++)
    group_in(t, c->dt, 3 * n, rows_of(c, 3 * w, k * w));
  if (!grad) {
    group_out(t, c->dt, n, rows_of(c, w, 0));
    group_out(t, MPCC_F32, c->N * c->H * c->T, lse);
  }
  for (int k = 0; k < 3 && grad; k++)
    group_out(t, c->dt, n, rows_of(c, w, 0));
  return t;
}

static void measure(const Case *c, const char *level, int threads, int rounds) {
  Group *g[2] = {attention_group(c, level, false), attention_group(c, level, true)};
  Run r[2] = {run_compile(g[0], level), run_compile(g[1], level)};
  int64_t n = c->N * c->H * c->T * c->D;
  void *x = tensor(c->dt, 3 * n), *o = tensor(c->dt, n), *lse = tensor(MPCC_F32, n / c->D);
  void *dout = tensor(c->dt, n), *grad[3] = {tensor(c->dt, n), tensor(c->dt, n), tensor(c->dt, n)};
  fill(x, c->dt, 3 * n);
  fill(dout, c->dt, n);
  MpccArg fwd[] = {{o}, {lse}, {x}, {x}, {x}};
  MpccArg bwd[] = {{grad[0]}, {grad[1]}, {grad[2]}, {dout}, {o}, {lse}, {x}, {x}, {x}};
  BenchPool *pool = pool_for(threads, &r[0], &r[1]);
  double base = (double)n * (double)c->T * (c->causal ? 0.5 : 1), flop[2] = {4 * base, 10 * base};
  double rate[2][MAX_ROUNDS], ratio[2][MAX_ROUNDS], peaks[MAX_ROUNDS];
  Peak *peak = peak_of(cpu_level(level), MPCC_F32);
  for (int i = -1; i < rounds; i++) {
    double top = peak_rate(peak, pool);
    for (int k = 0; k < 2; k++) {
      int repeat = (int)(2e8 / flop[k]) + 1;
      double s = 0;
      for (int j = 0; j < repeat; j++)
        s += launch(&r[k], k ? bwd : fwd, pool);
      if (i < 0)
        continue;
      rate[k][i] = flop[k] * repeat / s;
      ratio[k][i] = rate[k][i] / top;
    }
    if (i >= 0)
      peaks[i] = top;
  }
  int mid = rounds / 2;
  qsort(peaks, (size_t)rounds, sizeof *peaks, by_value);
  for (int k = 0; k < 2; k++) {
    qsort(rate[k], (size_t)rounds, sizeof **rate, by_value);
    qsort(ratio[k], (size_t)rounds, sizeof **ratio, by_value);
    printf("%-14s N %3lld H %2lld T %4lld D %3lld %-6s %-4s: %6.1f of %6.1f GFLOP/s, %5.1f %% "
           "(quiet %5.1f), "
           "compile %5.1f ms, code %5.1f KiB, %lld tiles\n",
           k ? "attention_grad" : "attention", (long long)c->N, (long long)c->H, (long long)c->T,
           (long long)c->D, c->causal ? "causal" : "", dtype_text(c->dt), rate[k][mid] / 1e9,
           peaks[mid] / 1e9, 100 * ratio[k][mid], 100 * rate[k][rounds - 1] / peaks[rounds - 1],
           1e3 * r[k].compile_s, (double)r[k].code_bytes / 1024, (long long)r[k].ntiles);
  }
  fflush(stdout);
  for (int k = 0; k < 2; k++) {
    run_free(&r[k]);
    group_free(g[k]);
  }
  for (int k = 0; k < 3; k++)
    free(grad[k]);
  bench_pool_destroy(pool);
  free(x), free(o), free(lse), free(dout);
}

int main(int argc, char **argv) {
  int threads = 1, rounds = 9, i = 1;
  const char *level = run_levels() ? cpu_host_level() : NULL;
  DType dt = MPCC_F32;
  for (; i + 1 < argc && argv[i][0] == '-'; i += 2) {
    if (argv[i][1] == 't')
      threads = atoi(argv[i + 1]);
    else if (argv[i][1] == 'r')
      rounds = atoi(argv[i + 1]);
    else if (argv[i][1] == 'l')
      level = argv[i + 1];
    else if (argv[i][1] == 'd')
      dt = dtype_from_text(argv[i + 1]);
  }
  if (!level || !cpu_level(level) || threads < 1 || threads > MAX_THREADS || rounds < 1 ||
      rounds > MAX_ROUNDS || dt >= MPCC_DTYPE_COUNT) {
    fprintf(stderr,
            "usage: %s [-t THREADS] [-r ROUNDS] [-l LEVEL] [-d DTYPE] [N H T D CAUSAL]...\n",
            argv[0]);
    return 2;
  }
  printf("level %s, %d thread(s), median of %d rounds\n", level, threads, rounds);
  static const Case usual[] = {{32, 3, 65, 64, false, 0},   {8, 6, 256, 64, true, 0},
                               {2, 6, 1024, 64, true, 0},   {8, 6, 256, 64, false, 0},
                               {16, 12, 197, 64, false, 0}, {64, 4, 17, 16, false, 0}};
  if (i == argc)
    for (size_t k = 0; k < sizeof usual / sizeof *usual; k++) {
      Case c = usual[k];
      c.dt = dt;
      measure(&c, level, threads, rounds);
    }
  for (; i + 4 < argc; i += 5) {
    Case c = {atoll(argv[i]),     atoll(argv[i + 1]),     atoll(argv[i + 2]),
              atoll(argv[i + 3]), atoi(argv[i + 4]) != 0, dt};
    measure(&c, level, threads, rounds);
  }
  return 0;
}
