/* Training beside PyTorch: replays the stored runs of make_reference.py through the whole compiler
 * and runtime. Compared are the loss of every step, every gradient of step 1, the loss scale, and,
 * under SGD, every parameter after 20 steps. Under AdamW parameters are not compared: where the
 * true gradient is zero (key bias of attention) Adam amplifies rounding noise to full steps.
 *
 * In 16 bits throughout PyTorch's CPU kernels round inside layer_norm_grad, attention, the loss and
 * the optimizer where the contract does not (docs/numerics.md, "Beside PyTorch"). The ViT shows it
 * most: its residual stream of 16 bits doubles what one rounding changed every few steps. So there
 * are two runs of it, PyTorch as it is and PyTorch with these four rounding as the contract says
 * (`-contract`), whose gradients of step 1 must be the same bits but for sums that end at a tie. */
#include "tests/train/replay.h"

enum { STEPS = 20 };
static const double SAME =
    0.9; /* share of gradients: sums in another order end at a tie now and then */

/* Tolerances, relative to the largest magnitude of the tensor compared. 64-true and 32-true: sums
 * of a few hundred terms in another order, a few dozen eps; parameters pile up 20 steps of it.
 * Below 64 bits the same roundings happen at other places of a sum, and training amplifies them.
 * The reference itself is some distance d from its own 64-true run (32-true, SGD, step 12 of the
 * ViT: 2.6e-6 in the loss); a run that is no less exact differs from it by at most 2 d (triangle
 * inequality). So the bound is 2 d, measured from the stored runs, and never below the numbers here
 * (16 bits: one eps of the format). */
typedef struct {
  const char *mode;
  double loss, grad, param;
  bool low;
} Tolerance;
static const Tolerance tolerances[] = {
    {"64-true", 1e-12, 1e-12, 1e-11, false},
    {"32-true", 2e-6, 1e-5, 2e-5, true},
    {"bf16-mixed", 0x1p-7, 0x1p-7, 0x1p-7, true},
    {"16-mixed", 0x1p-10, 0x1p-10, 0x1p-10, true},
};
/* The optimizer computes in FP32 and rounds once [N12], PyTorch's rounds every operation. */
static const Tolerance narrow[] = {
    {"bf16-true", 0x1p-7, 0x1p-7, 0x1p-7, true},
    {"16-true", 0x1p-10, 0x1p-10, 0x1p-10, true},
};
static const char *const models[] = {"mlp", "vit", "cnn", "fnet"};
static const char *const optimizers[] = {"sgd", "adamw"};

typedef enum {
  PLAIN,   /* one reference */
  NATIVE,  /* PyTorch as it is, where there is a CONTRACT too: as far as the worse of both is from
              64-true */
  CONTRACT /* PyTorch that rounds as the contract says */
} Reference;

/* A run of 16 bits throughout. */
typedef struct {
  const char *model, *opt;
  int tolerance; /* in narrow */
  Reference reference;
} Narrow;
static const Narrow narrow_runs[] = {
    {"mlp", "sgd", 0, PLAIN},    {"mlp", "adamw", 0, PLAIN},    {"mlp", "sgd", 1, PLAIN},
    {"cnn", "sgd", 0, PLAIN},    {"cnn", "adamw", 0, PLAIN},    {"cnn", "sgd", 1, PLAIN},
    {"vit", "sgd", 0, NATIVE},   {"vit", "adamw", 0, NATIVE},   {"vit", "sgd", 1, NATIVE},
    {"vit", "sgd", 0, CONTRACT}, {"vit", "adamw", 0, CONTRACT}, {"vit", "sgd", 1, CONTRACT},
};

/* ---- programs -------------------------------------------------------------------------------- */

static void *compile(const char *model, const char *mode, const char *opt, size_t *bytes) {
  char path[100];
  snprintf(path, sizeof path, "tests/train/%s.yaml", model);
  bool low = strstr(mode, "16") != NULL;
  const char *set[8];
  int n = 0;
  if (!strcmp(opt, "adamw"))
    set[n++] =
        "optimizer={type: AdamW, lr: 0.002, betas: [0.9, 0.99], eps: 1e-8, weight_decay: 0.05}";
  if (low)
    set[n++] = "precision.policy=cpu";
  if (!strcmp(mode, "16-mixed")) /* grows within the 20 steps */
    set[n++] = "precision.grad_scaler={init_scale: 4096, growth_interval: 5}";
  return compile_spec(path, (mpcc_options){.precision = mode, .set = set, .nset = n, .strict = low},
                      bytes);
}

/* Largest |a - b| relative to the largest |b|, both scaled: a * factor beside b. */
static double distance(mprt_tensor a, double factor, const Array *b) {
  double worst = 0, largest = 1e-300;
  ck_assert_int_eq(elems(a), b->n);
  for (int64_t i = 0; i < b->n; i++) {
    double d = fabs(at(a, i) * factor - b->v[i]);
    worst = d > worst || isnan(d) ? d : worst;
    largest = fabs(b->v[i]) > largest ? fabs(b->v[i]) : largest;
  }
  return worst / largest;
}

static double distance_of_arrays(const Array *a, const Array *b, int64_t n) {
  double worst = 0, largest = 1e-300;
  for (int64_t i = 0; i < n; i++) {
    double d = fabs(a->v[i] - b->v[i]);
    worst = d > worst ? d : worst;
    largest = fabs(b->v[i]) > largest ? fabs(b->v[i]) : largest;
  }
  return worst / largest;
}

/* Twice the largest distance of the reference's tensors `prefix`* from those of its 64-true run.
 * Tensors whose exact value is zero (gradient of the key bias) have no relative distance. */
static double allowed(const mprt__st_file *want, const mprt__st_file *exact, const char *prefix,
                      double least) {
  double worst = 0;
  for (size_t i = 0; i < want->ntensor; i++) {
    const char *name = want->tensor[i].name;
    if (strncmp(name, prefix, strlen(prefix)))
      continue;
    Array a = get(want, "", name), b = get(exact, "", name);
    double d = distance_of_arrays(&a, &b, a.n);
    worst = isfinite(d) && d > worst && d < 1 ? d : worst;
    free(a.v);
    free(b.v);
  }
  return 2 * worst > least ? 2 * worst : least;
}

/* The bound of tensors `prefix`*: the table's in 64-true, else by the less exact of the references.
 */
static double bound_of(const Tolerance *tol, const mprt__st_file *want, const mprt__st_file *twin,
                       const mprt__st_file *exact, const char *prefix, double least) {
  if (!tol->low)
    return least;
  return fmax(allowed(want, exact, prefix, least), allowed(twin, exact, prefix, least));
}

static void feed(mprt_program *p, const Array *x, const Array *y, int step) {
  mprt_tensor image = tensor(p, "io.", "image"), label = tensor(p, "io.", "label");
  int64_t batch = image.dim[0];
  put(image, x->v + step * x->n / STEPS);
  put(label, y->v + step * batch);
  set_valid(p, batch);
}

/* Running statistics as a new model has them: making gradients has moved them once already. */
static void reset_buffers(mprt_program *p, const mprt__st_file *want) {
  for (size_t i = 0; i < want->ntensor; i++) {
    const char *name = want->tensor[i].name;
    if (strncmp(name, "buffer.", 7))
      continue;
    mprt_tensor t = tensor(p, "", name + 7);
    for (int64_t k = 0; k < elems(t); k++)
      put_at(t, k, strstr(name, "_var") ? 1 : 0);
  }
}

static void check_buffers(mprt_program *p, const mprt__st_file *want, double bound) {
  for (size_t i = 0; i < want->ntensor; i++) {
    const char *name = want->tensor[i].name;
    if (strncmp(name, "buffer.", 7))
      continue;
    Array a = get(want, "", name);
    double d = distance(tensor(p, "", name + 7), 1, &a);
    ck_assert_msg(d <= bound, "%s: %s differs by %g, more than %g", want->path, name, d, bound);
    free(a.v);
  }
}

/* ---- one run --------------------------------------------------------------------------------- */

/* Gradients of the first batch, unscaled: micro_first leaves S / capacity times the sum. The key
 * bias has a true gradient of zero: its noise is compared with the whole bias vector. */
static void check_gradients(mprt_program *p, const mprt__st_file *init, const mprt__st_file *want,
                            double bound, bool scaled, double equal) {
  int64_t same = 0, all = 0;
  ck_assert_int_eq(mprt_run(p, "micro_first"), MPCC_OK);
  double scale = scaled ? scalar(p, "scaler.scale") : 1;
  for (size_t i = 0; i < init->ntensor; i++) {
    const char *name = init->tensor[i].name;
    if (strncmp(name, "init.", 5))
      continue;
    Array g = get(want, "grad.", name + 5);
    bool finite = true;
    mprt_tensor got = tensor(p, "grad.", name + 5);
    for (int64_t k = 0; k < g.n; k++) {
      finite = finite && isfinite(g.v[k]);
      same += at(got, k) == g.v[k];
    }
    all += g.n;
    double d = distance(got, 1 / scale, &g);
    if (finite)
      ck_assert_msg(d <= bound, "%s: gradient of %s differs by %g, more than %g", want->path,
                    name + 5, d, bound);
    free(g.v);
  }
  ck_assert_msg((double)same >= equal * (double)all, "%s: %lld of %lld gradients are the same bits",
                want->path, (long long)same, (long long)all);
}

static void run_agrees(const char *model, const Tolerance *tol, const char *opt,
                       Reference reference) {
  char name[200], other[250];
  mprt__st_file init, want, exact, twin;
  open_file(model, &init);
  snprintf(name, sizeof name, "%s-64-true-%s", model, opt);
  open_file(name, &exact);
  snprintf(name, sizeof name, "%s-%s-%s%s", model, tol->mode, opt,
           reference == CONTRACT ? "-contract" : "");
  open_file(name, &want);
  snprintf(other, sizeof other, "%s%s", name, reference == NATIVE ? "-contract" : "");
  open_file(other, &twin);
  size_t bytes;
  void *image = compile(model, tol->mode, opt, &bytes);
  mprt_options o;
  mprt_options_default(&o);
  mprt_callbacks cb = {.log = on_log};
  mprt_program *p;
  ck_assert_int_eq(mprt_open(image, bytes, &o, &cb, &p), MPCC_OK);
  ck_assert_int_eq(mprt_init(p), MPCC_OK);
  for (size_t i = 0; i < init.ntensor; i++)
    if (!strncmp(init.tensor[i].name, "init.", 5)) {
      Array a = get(&init, "", init.tensor[i].name);
      put(tensor(p, "", init.tensor[i].name + 5), a.v);
      free(a.v);
    }
  ck_assert_int_eq(mprt_run(p, "refresh"), MPCC_OK);
  bool scaled = !strcmp(tol->mode, "16-mixed");
  Array x = get(&init, "", "x"), y = get(&init, "", "y");
  Array loss = get(&want, "", "loss"), scale = get(&want, "", "scale");
  Array exact_loss = get(&exact, "", "loss"), twin_loss = get(&twin, "", "loss");
  double worst_loss = 0, own = 0; /* own: twice the distance of the references so far */
  double grad_bound = bound_of(tol, &want, &twin, &exact, "grad.", tol->grad);
  double param_bound = bound_of(tol, &want, &twin, &exact, "final.", tol->param);
  for (int step = 0; step < STEPS; step++) {
    feed(p, &x, &y, step);
    if (step == 0)
      check_gradients(p, &init, &want, grad_bound, scaled, reference == CONTRACT ? SAME : 0);
    if (step == 0)
      reset_buffers(p, &want);
    if (scaled)
      ck_assert_double_eq(scalar(p, "scaler.scale"), scale.v[step]);
    ck_assert_int_eq(mprt_train_step(p), MPCC_OK);
    double got = mean_loss(p);
    double d = fabs(got - loss.v[step]), size = fabs(loss.v[step]);
    own = tol->low ? fmax(own, 2 * fmax(fabs(loss.v[step] - exact_loss.v[step]),
                                        fabs(twin_loss.v[step] - exact_loss.v[step])))
                   : 0;
    ck_assert_msg(d <= fmax(own, tol->loss * size), "%s: loss of step %d is %.15g, not %.15g (%g)",
                  name, step, got, loss.v[step], d / size);
    d /= size;
    worst_loss = d > worst_loss ? d : worst_loss;
  }
  double buffer_bound = bound_of(tol, &want, &twin, &exact, "buffer.", tol->param);
  if (!strcmp(opt, "sgd"))
    check_buffers(p, &want, buffer_bound);
  for (size_t i = 0; i < init.ntensor && !strcmp(opt, "sgd"); i++)
    if (!strncmp(init.tensor[i].name, "init.", 5)) {
      Array a = get(&want, "final.", init.tensor[i].name + 5);
      double d = distance(tensor(p, "", init.tensor[i].name + 5), 1, &a);
      ck_assert_msg(d <= param_bound, "%s: %s differs by %g after %d steps", name,
                    init.tensor[i].name + 5, d, STEPS);
      free(a.v);
    }
  printf("%-24s worst relative loss difference %.2g\n", name, worst_loss);
  free(x.v);
  free(y.v);
  free(loss.v);
  free(scale.v);
  free(exact_loss.v);
  free(twin_loss.v);
  mprt_close(p);
  free(image);
  mprt__st_close(&init);
  mprt__st_close(&want);
  mprt__st_close(&exact);
  mprt__st_close(&twin);
}

START_TEST(parity) {
  int i = _i;
  run_agrees(models[i / 8], &tolerances[i / 2 % 4], optimizers[i % 2], PLAIN);
}
END_TEST

/* AdamW in float16 is not comparable: its eps is 0 there. */
START_TEST(parity_of_16_bits) {
  const Narrow *r = &narrow_runs[_i];
  run_agrees(r->model, &narrow[r->tolerance], r->opt, r->reference);
}
END_TEST

int main(void) {
  Suite *s = suite_create("parity with PyTorch");
  TCase *c = tcase_create("runs");
  tcase_set_timeout(c, 120);
  tcase_add_loop_test(c, parity, 0, 8 * (int)(sizeof models / sizeof *models));
  tcase_add_loop_test(c, parity_of_16_bits, 0, (int)(sizeof narrow_runs / sizeof *narrow_runs));
  suite_add_tcase(s, c);
  return check_run(s);
}
