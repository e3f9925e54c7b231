/* The models of specs/ beside PyTorch: LeNet, ResNet-18, U-Net, GPT-2, MobileNetV2, ConvNeXt, T5,
 * Llama, narrowed by their params, trained ten steps. Initial weights and batches come from hashes of names; of each
 * gradient of step 1, each parameter and each running statistic after the last step the stored runs
 * (make_zoo_reference.py) have sums with random signs: the mean square of such a sum over a - b is
 * |a - b|^2, so 16 of them tell the distance |a - b| / |b| to about 20 %. */
#include "tests/train/replay.h"

enum { STEPS = 10, PROBES = 16, RECORD = PROBES + 1 };

static const struct {
  const char *name;
  const char *define[9];
  int ndefine;
  const char *set[4];
  int nset;
  /* ReLU6s that roundings switch, and shifts before a norm that takes them off again: what of these
   * is zero but for roundings has no distance, and FP32 moves the first gradients of PyTorch itself
   * by 5e-6. */
  bool delicate;
} models[] = {
    {"lenet5",
     {0},
     0,
     {"data.loader.batch_size=8", "optimizer={type: SGD, lr: 0.05, momentum: 0.9}"},
     2},
    {"resnet18",
     {"width=8"},
     1,
     {"data.loader.batch_size=16", "optimizer={type: SGD, lr: 0.0005, momentum: 0.9}"},
     2},
    {"unet",
     {"width=4", "noise=0"}, /* torch has other random numbers */
     2,
     {"data.loader.batch_size=4", "optimizer={type: SGD, lr: 0.05, momentum: 0.9}"},
     2},
    {"gpt2-nano",
     {"n_layer=2", "n_embd=32", "n_head=2", "block_size=32", "batch=4"},
     5,
     {"optimizer={type: SGD, lr: 0.1, momentum: 0.9}"},
     1},
    {"mobilenet-v2",
     {"size=32", "batch=16", "num_classes=10", "dropout=0", "r32=0", "r64=0", "r96=0", "r160=0"},
     8,
     {"optimizer={type: SGD, lr: 0.0001, momentum: 0.9}"},
     1,
     true},
    {"convnext-tiny",
     {"size=64", "batch=4", "num_classes=10", "width=8", "d1=1", "d2=0", "d3=0", "d4=1", "drop=0"},
     9,
     {"optimizer={type: SGD, lr: 0.05, momentum: 0.9}"},
     1},
    {"t5-tiny",
     {"d=32", "heads=2", "hd=16", "ff=64", "depth=1", "block_size=32", "batch=4", "hidden=100"},
     8,
     {"optimizer={type: SGD, lr: 1.0, momentum: 0.9}"},
     1},
    {"llama-tiny",
     {"depth=2", "d=32", "heads=4", "kv=2", "ff=88", "block_size=32", "batch=4"},
     7,
     {"optimizer={type: SGD, lr: 0.1, momentum: 0.9}"},
     1},
};
enum { MODELS = sizeof models / sizeof *models };

/* In the order of the stored runs. */
static const char *const modes[] = {"64-true", "32-true", "bf16-mixed"};
enum { MODES = sizeof modes / sizeof *modes };

/* ---- numbers both sides make ----------------------------------------------------------------- */

/* SplitMix64 (Steele, Lea, Flood 2014) from the FNV-1a hash of the name. */
static uint64_t key_of(const char *prefix, const char *name) {
  uint64_t key = 0xcbf29ce484222325u;
  for (const char *c = prefix; *c; c++)
    key = (key ^ (uint8_t)*c) * 0x100000001b3u;
  for (const char *c = name; *c; c++)
    key = (key ^ (uint8_t)*c) * 0x100000001b3u;
  return key;
}

static uint64_t hash(uint64_t key, int64_t i) {
  uint64_t z = key + (uint64_t)(i + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

/* Uniform: weights within a power of two near 1 / sqrt(fan in), of norms 1 +- 1/8, biases +- 1/8.
 */
static void put_initial(mprt_tensor t) {
  const uint64_t key = key_of("", t.name);
  const int64_t n = elems(t);
  const size_t len = strlen(t.name);
  const bool norm = t.rank == 1 && len > 6 && !strcmp(t.name + len - 6, "weight");
  double bound = 0.125;
  while (t.rank > 1 && bound * bound * (double)(n / t.dim[0]) > 1)
    bound /= 2;
  for (int64_t i = 0; i < n; i++)
    put_at(t, i, (float)(((double)(hash(key, i) >> 40) / 0x1p23 - 1) * bound + norm));
}

static void put_image(mprt_tensor t, uint64_t key) {
  for (int64_t i = 0; i < elems(t); i++)
    put_at(t, i, (double)(hash(key, i) >> 56) / 128 - 1);
}

static void feed(mprt_program *p, int step) {
  char number[20];
  snprintf(number, sizeof number, "%d", step);
  mprt_tensor x;
  if (mprt_find(p, "io.tokens", &x)) {
    mprt_tensor next = tensor(p, "io.", "next_tokens");
    const uint64_t key = key_of("tokens.", number);
    for (int64_t b = 0; b < x.dim[0]; b++)
      for (int64_t t = 0; t <= x.dim[1]; t++) {
        const double token = (double)(hash(key, b * (x.dim[1] + 1) + t) % 256);
        if (t < x.dim[1])
          put_at(x, b * x.dim[1] + t, token);
        if (t > 0)
          put_at(next, b * x.dim[1] + t - 1, token);
      }
  } else {
    x = tensor(p, "io.", "image");
    put_image(x, key_of("image.", number));
    mprt_tensor label;
    if (mprt_find(p, "io.label", &label))
      for (int64_t i = 0; i < elems(label); i++)
        put_at(label, i, (double)(hash(key_of("label.", number), i) % 10));
  }
  set_valid(p, x.dim[0]);
}

/* ---- distances ------------------------------------------------------------------------------- */

static void probe(mprt_tensor t, const char *name, double record[RECORD]) {
  const uint64_t key = key_of("sign.", name);
  double square = 0;
  memset(record, 0, RECORD * sizeof *record);
  for (int64_t i = 0; i < elems(t); i++) {
    const double v = at(t, i);
    const uint64_t signs = hash(key, i);
    for (int k = 0; k < PROBES; k++)
      record[k] += signs >> k & 1 ? v : -v;
    square += v * v;
  }
  record[PROBES] = sqrt(square);
}

/* About |a - b| / |b|. */
static double distance(const double *a, const double *b) {
  double square = 0;
  for (int k = 0; k < PROBES; k++)
    square += (a[k] - b[k]) * (a[k] - b[k]);
  return sqrt(square / PROBES) / b[PROBES];
}

typedef struct {
  const char *model;
  int mode;
  bool delicate;
  const mprt__st_file *want;
} Judge;

/* Distances over all tensors of a kind: from the stored run (root mean square, worst), and of the
 * stored run from the 64-true one. */
typedef struct {
  double mean, worst, own;
} Spread;

/* Largest norm in the 64-true run. */
static double largest(const mprt__st_file *want, const char *kind, int which) {
  double most = 0;
  for (size_t i = 0; i < want->ntensor; i++) {
    if (strncmp(want->tensor[i].name, kind, strlen(kind)))
      continue;
    Array a = get(want, "", want->tensor[i].name);
    most = fmax(most, a.v[which * RECORD + PROBES]);
    free(a.v);
  }
  return most;
}

/* kind: "param." or "buffer."; which: its record, gradient of step 1 or last value; prefix: of the
 * program's tensor */
static Spread spread(const Judge *j, mprt_program *p, const char *kind, int which,
                     const char *prefix) {
  Spread s = {0, 0, 0};
  const double zero = j->delicate ? 1e-12 * largest(j->want, kind, which) : 0;
  int n = 0;
  for (size_t i = 0; i < j->want->ntensor; i++) {
    const char *key = j->want->tensor[i].name, *name = key + strlen(kind);
    if (strncmp(key, kind, strlen(kind)))
      continue;
    Array a = get(j->want, "", key);
    const double *exact = a.v + which * RECORD, *want = exact + j->mode * (a.n / MODES);
    double got[RECORD];
    if (exact[PROBES] < zero) {
      free(a.v);
      continue;
    }
    probe(tensor(p, prefix, name), name, got);
    const double d = distance(got, want), own = distance(want, exact);
    s.worst = d > s.worst || isnan(d) ? d : s.worst;
    s.mean += d * d;
    s.own += own * own;
    n++;
    free(a.v);
  }
  s.mean = sqrt(s.mean / (n ? n : 1));
  s.own = sqrt(s.own / (n ? n : 1));
  return s;
}

/* The mean stays below `least`, or, where roundings to fewer bits and the ReLUs that they switch
 * move the stored run itself, below `factor` times its own distance from the 64-true run; no tensor
 * is four times as far.
 * - 64-true: sums of up to a few thousand terms in another order, through some twenty layers.
 * - 32-true: the same; no gradient of step 1 further than 1e-5 (of delicate models: or than four
 *   times the stored run's mean). A run no less exact than the stored one is within twice its
 *   distance (triangle inequality).
 * - bf16-mixed: one eps; else nearer to the stored run than that is to the exact one: the same
 *   roundings at the same places, or independent errors would add to more. */
static const struct { double least, factor; } bounds[MODES] = {{1e-12, 0}, {1e-5, 2}, {0x1p-7, 1}};

static void check(const Judge *j, const char *what, Spread s, bool first) {
  const char *mode = modes[j->mode];
  printf("%-10s %-10s %-10s mean %-8.2g worst %-8.2g own %.2g\n", j->model, mode, what, s.mean,
         s.worst, s.own);
  double bound = bounds[j->mode].factor * s.own, least = bounds[j->mode].least;
  const double sure = j->delicate ? fmax(least, 4 * s.own) : least;
  bound = bound < least ? least : bound;
  ck_assert_msg(s.mean <= bound && s.worst <= 4 * bound && (!first || s.worst <= sure),
                "%s %s: %s differ by %g (worst %g), more than %g", j->model, mode, what, s.mean,
                s.worst, first ? sure : bound);
}

static void restart(mprt_program *p, const mprt__st_file *want) {
  int nparam = 0, known = 0;
  ck_assert_int_eq(mprt_init(p), MPCC_OK);
  for (int i = 0; i < mprt_tensor_count(p); i++) {
    mprt_tensor t;
    ck_assert(mprt_tensor_at(p, i, &t));
    if (!strcmp(t.role, "param") && !strstr(t.attrs, "\"flat\"")) {
      put_initial(t);
      nparam++;
    }
  }
  for (size_t i = 0; i < want->ntensor; i++)
    known += !strncmp(want->tensor[i].name, "param.", 6);
  ck_assert_int_eq(nparam, known);
  ck_assert_int_eq(mprt_run(p, "refresh"), MPCC_OK);
}

static void *compile(int m, int mode, size_t *bytes) {
  char path[100];
  const char *set[6] = {"scheduler=null"};
  int nset = 1;
  for (int i = 0; i < models[m].nset; i++)
    set[nset++] = models[m].set[i];
  const bool low = strstr(modes[mode], "mixed") != NULL;
  if (low)
    set[nset++] = "precision.policy=cpu"; /* the stored run is of autocast on the CPU */
  snprintf(path, sizeof path, "specs/%s.yaml", models[m].name);
  return compile_spec(path,
                      (mpcc_options){.precision = modes[mode],
                                     .define = models[m].define,
                                     .ndefine = models[m].ndefine,
                                     .set = set,
                                     .nset = nset,
                                     .strict = low,
                                     .opt_set = true, /* -O0 compiles in a third of the time */
                                     .opt_level = strcmp(modes[mode], "32-true") ? 0 : 2},
                      bytes);
}

START_TEST(agrees) {
  const int m = _i / MODES;
  char name[100];
  mprt__st_file want;
  snprintf(name, sizeof name, "zoo-%s", models[m].name);
  open_file(name, &want);
  Judge j = {models[m].name, _i % MODES, models[m].delicate, &want};
  size_t bytes;
  void *image = compile(m, j.mode, &bytes);
  mprt_options o;
  mprt_options_default(&o);
  mprt_callbacks cb = {.log = on_log};
  mprt_program *p;
  ck_assert_int_eq(mprt_open(image, bytes, &o, &cb, &p), MPCC_OK);
  restart(p, &want);
  feed(p, 0);
  ck_assert_int_eq(mprt_run(p, "micro_first"), MPCC_OK);
  check(&j, "gradients", spread(&j, p, "param.", 0, "grad."), j.mode < 2);
  restart(p, &want); /* running statistics have moved */
  Array loss = get(&want, "", "loss");
  Spread losses = {0, 0, 0};
  for (int step = 0; step < STEPS; step++) {
    const double stored = loss.v[j.mode * STEPS + step];
    feed(p, step);
    ck_assert_int_eq(mprt_train_step(p), MPCC_OK);
    const double d = fabs(mean_loss(p) / stored - 1), own = stored / loss.v[step] - 1;
    losses.worst = d > losses.worst || isnan(d) ? d : losses.worst;
    losses.mean += d * d / STEPS;
    losses.own += own * own / STEPS;
  }
  losses.mean = sqrt(losses.mean);
  losses.own = sqrt(losses.own);
  check(&j, "losses", losses, false);
  check(&j, "values", spread(&j, p, "param.", 1, ""), false);
  check(&j, "statistics", spread(&j, p, "buffer.", 0, ""), false);
  free(loss.v);
  mprt_close(p);
  free(image);
  mprt__st_close(&want);
}
END_TEST

int main(void) {
  Suite *s = suite_create("models beside PyTorch");
  TCase *c = tcase_create("runs");
  tcase_set_timeout(c, 120);
  tcase_add_loop_test(c, agrees, 0, MODELS * MODES);
  suite_add_tcase(s, c);
  return check_run(s);
}
