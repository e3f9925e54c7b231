/* Speed of generated convolutions beside the multiply-add peak of the same moment: the shapes of
 * ResNet-18 (32 x 32 images, batch 32) and ResNet-50 (224 x 224, batch 4), each forward, as input
 * gradient and as weight gradient.
 *
 *   bench_conv [-d f32|bf16] [-t THREADS] [-r ROUNDS] [-l LEVEL] [-f WORDS]
 *
 * Every round measures the peak, then packing plus convolution. Printed are medians of GFLOP/s, of
 * the ratio and of the share of packing, and the ratio of all weighted by their operations and by
 * how often the net has them. -d: dtype of factors and results, but weight gradients are f32. -f:
 * only lines that contain WORDS. */
#include "codegen/cpu/micro.h"
#include "bench/bench.h"

typedef struct {
  const char *net;
  int64_t batch, size, c, o, kernel, stride;
  int count; /* layers of this shape */
} Shape;

static const Shape shapes[] = {
    {"resnet18", 32, 32, 3, 64, 3, 1, 1},    {"resnet18", 32, 32, 64, 64, 3, 1, 4},
    {"resnet18", 32, 32, 64, 128, 3, 2, 1},  {"resnet18", 32, 32, 64, 128, 1, 2, 1},
    {"resnet18", 32, 16, 128, 128, 3, 1, 3}, {"resnet18", 32, 16, 128, 256, 3, 2, 1},
    {"resnet18", 32, 8, 256, 256, 3, 1, 3},  {"resnet18", 32, 8, 256, 512, 3, 2, 1},
    {"resnet18", 32, 4, 512, 512, 3, 1, 3},  {"resnet50", 4, 224, 3, 64, 7, 2, 1},
    {"resnet50", 4, 56, 64, 64, 3, 1, 3},    {"resnet50", 4, 56, 128, 128, 3, 2, 1},
    {"resnet50", 4, 28, 128, 128, 3, 1, 3},  {"resnet50", 4, 14, 256, 256, 3, 1, 5},
    {"resnet50", 4, 7, 512, 512, 3, 1, 2},
};
enum { NSHAPE = sizeof shapes / sizeof *shapes };
typedef enum { FORWARD, DGRAD, WGRAD, PASSES } Pass;
static const char *const pass_names[PASSES] = {"forward", "dgrad", "wgrad"};

/* Two numbers as a list attribute; v outlives the group. */
static void ints(Group *t, const char *key, int n, const int64_t *v) {
  t->op.attr[t->op.nattr++] = (Attr){.key = key, .kind = AT_INTS, .u.ints = {n, v}};
}

typedef struct {
  int64_t rows, columns, k;                  /* of the product */
  int64_t pair[8][2], strides[3], factor[2]; /* factor: of dy */
} Sizes;

static Group *pack_group(const Sizes *z, Pass p, DType dt, int64_t packed) {
  Group *t = group_new("pack", 2, (int64_t[]){z->columns, z->k}, 2);
  Access by_k = {0, {z->k, 1}}, by_n = {0, {1, z->columns}};
  group_in(t, dt, z->columns * z->k, p == FORWARD ? by_k : by_n);
  group_out(t, dt, packed, (Access){0});
  group_dtype(t, "compute", dt);
  return t;
}

static Group *conv_group_of(const Shape *s, Pass p, DType dt, Sizes *z, int64_t packed,
                            int64_t image) {
  /* Rows of weight gradients are [taps, C]. Their result is turned into [O, C, taps] by another kernel, in
   * few elements it is written so (passes/group_conv.c). */
  enum { FEW = 1 << 10, LEAST = 32 };
  const int64_t taps = p == WGRAD ? z->rows / s->c : 1, o = z->columns;
  const Access forward = {0, {o, 1}}, turned = {0, {1, taps, taps * s->c}};
  const Access apart = {0, {o, taps * o, 1}}, whole = {0, {s->c * o, o, 1}};
  const Access wgrad = z->rows * o <= FEW ? turned : s->c >= LEAST ? apart : whole;
  Group *t = p == WGRAD ? group_new("conv", 3, (int64_t[]){taps, s->c, o}, 1)
                        : group_new("conv", 2, (int64_t[]){z->rows, o}, 1);
  static const char *const keys[] = {"positions", "kernel", "stride", "padding",
                                     "dilation",  "up",     "x"};
  group_in(t, dt, image, p == WGRAD ? (Access){0, {s->c, 1, 0}} : (Access){0, {1, 0}});
  group_in(t, dt, p == WGRAD ? z->columns * z->k : packed, (Access){0});
  group_out(t, p == WGRAD ? MPCC_F32 : dt, z->rows * o, p == WGRAD ? wgrad : forward);
  group_int(t, "k", z->k);
  group_dtype(t, "compute", dt);
  group_int(t, "batch", s->batch);
  group_int(t, "channels", p == DGRAD ? s->o : s->c);
  for (int i = 0; i < 7; i++)
    ints(t, keys[i], 2, z->pair[i]);
  ints(t, "strides", 3, z->strides);
  if (p == WGRAD) {
    group_int(t, "wgrad", 1);
    ints(t, "factor", 2, z->factor);
  }
  int v = group_stmt(t, PR_ACC, MPCC_F32, 0, 0, -1, -1, -1, -1);
  group_stmt(t, PR_STORE, MPCC_F32, 0, 0, v, -1, -1, -1);
  return t;
}

static Sizes sizes_of(const Shape *s, Pass p) {
  int64_t pad = s->kernel / 2, out = (s->size + 2 * pad - s->kernel) / s->stride + 1;
  int64_t taps = s->kernel * s->kernel, ch = p == DGRAD ? s->o : s->c;
  int64_t in = p == DGRAD ? out : s->size, made = p == DGRAD ? s->size : out;
  int64_t value[7] = {made,
                      s->kernel,
                      p == DGRAD ? 1 : s->stride,
                      p == DGRAD ? -pad : pad,
                      p == DGRAD ? -1 : 1,
                      p == DGRAD ? s->stride : 1,
                      in};
  Sizes z = {.rows = s->batch * made * made, .columns = p == DGRAD ? s->c : s->o, .k = taps * ch};
  if (p == WGRAD) {
    z.k = z.rows;
    z.rows = taps * ch;
  }
  for (int i = 0; i < 7; i++)
    z.pair[i][0] = z.pair[i][1] = value[i];
  z.factor[0] = z.columns;
  z.factor[1] = 1;
  z.strides[0] = in * in * ch;
  z.strides[1] = in * ch;
  z.strides[2] = ch;
  return z;
}

static const char *name_of(const Shape *s, Pass p, char *name, size_t size) {
  snprintf(name, size, "%-9s %3lld^2 %3lld -> %3lld, %lld x %lld / %lld  %-8s", s->net,
           (long long)s->size, (long long)s->c, (long long)s->o, (long long)s->kernel,
           (long long)s->kernel, (long long)s->stride, pass_names[p]);
  return name;
}

static double measure(const Shape *s, Pass p, DType dt, const char *level, int threads, int rounds,
                      double *flop) {
  const CpuLevel *l = cpu_level(level);
  Sizes z = sizes_of(s, p);
  int64_t cols = l->vector_bytes / 2, k = round_up(z.k, dt == MPCC_BF16 ? 2 : 1);
  int64_t packed = ceil_div(z.columns, cols) * cols * k;
  int64_t image = s->batch * z.strides[0];
  Group *pg = pack_group(&z, p, dt, packed), *cg = conv_group_of(s, p, dt, &z, packed, image);
  Run pr = run_compile(pg, level), cr = run_compile(cg, level);
  void *x = tensor(dt, image), *b = tensor(dt, z.columns * z.k);
  void *panels = tensor(dt, packed), *y = tensor(MPCC_F32, z.rows * z.columns);
  BenchPool *pool = pool_for(threads, &pr, &cr);
  fill(x, dt, image);
  fill(b, dt, z.columns * z.k);
  MpccArg pack_args[] = {{panels}, {b}}, args[] = {{y}, {x}, {p == WGRAD ? b : panels}};
  double rate[MAX_ROUNDS], ratio[MAX_ROUNDS], share[MAX_ROUNDS];
  Sizes f = sizes_of(s, FORWARD);
  *flop = 2.0 * (double)f.rows * (double)f.columns * (double)f.k;
  Peak *peak = peak_of(l, dt);
  for (int r = -1; r < rounds; r++) {
    double top = peak_rate(peak, pool);
    double pack = p == WGRAD ? 0 : launch(&pr, pack_args, pool),
           time = pack + launch(&cr, args, pool);
    if (r < 0)
      continue;
    rate[r] = *flop / time;
    ratio[r] = rate[r] / top;
    share[r] = pack / time;
  }
  qsort(rate, (size_t)rounds, sizeof *rate, by_value);
  qsort(ratio, (size_t)rounds, sizeof *ratio, by_value);
  qsort(share, (size_t)rounds, sizeof *share, by_value);
  char name[80];
  printf("%s %7.1f GFLOP/s, %5.1f %%, pack %4.1f %%\n", name_of(s, p, name, sizeof name),
         rate[rounds / 2] / 1e9, 100 * ratio[rounds / 2], 100 * share[rounds / 2]);
  fflush(stdout);
  run_free(&pr);
  run_free(&cr);
  group_free(pg);
  group_free(cg);
  free(x), free(b), free(panels), free(y);
  bench_pool_destroy(pool);
  return ratio[rounds / 2];
}

int main(int argc, char **argv) {
  int threads = 1, rounds = 7;
  const char *words = "";
  DType dt = MPCC_F32;
  const char *level = run_levels() ? cpu_level_names[run_levels() - 1] : NULL;
  for (int i = 1; i + 1 < argc && argv[i][0] == '-'; i += 2) {
    if (argv[i][1] == 't')
      threads = atoi(argv[i + 1]);
    else if (argv[i][1] == 'r')
      rounds = atoi(argv[i + 1]);
    else if (argv[i][1] == 'd')
      dt = dtype_from_text(argv[i + 1]);
    else if (argv[i][1] == 'l')
      level = argv[i + 1];
    else if (argv[i][1] == 'f')
      words = argv[i + 1];
  }
  if (!level || !cpu_level(level) || (dt != MPCC_F32 && dt != MPCC_BF16) ||
      (dt == MPCC_BF16 && !cpu_level(level)->bf16) || threads < 1 || threads > MAX_THREADS ||
      rounds < 1 || rounds > MAX_ROUNDS) {
    fprintf(stderr, "usage: %s [-d f32|bf16] [-t THREADS] [-r ROUNDS] [-l LEVEL] [-f WORDS]\n",
            argv[0]);
    return 2;
  }
  double all = 0, ideal = 0, worst = 1;
  printf("level %s, %s, %d thread(s), median of %d rounds\n", level, dtype_text(dt), threads,
         rounds);
  for (int i = 0; i < NSHAPE; i++)
    for (int p = 0; p < PASSES; p++) {
      if (p == DGRAD && shapes[i].c == 3)
        continue; /* images have no gradient */
      char name[80];
      if (!strstr(name_of(&shapes[i], (Pass)p, name, sizeof name), words))
        continue;
      double flop, r = measure(&shapes[i], (Pass)p, dt, level, threads, rounds, &flop);
      all += shapes[i].count * flop / r;
      ideal += shapes[i].count * flop;
      worst = r < worst ? r : worst;
    }
  printf("weighted by operations: %.1f %% of the peak, worst %.1f %%\n", 100 * ideal / all,
         100 * worst);
  return 0;
}
