/* step: train_step against micro_first + update_step in every mode, accumulation against the big
 * batch, AdamW and SGD against plain loops, scaler and FP8 scales against tables worked by hand
 * from the rules, the finite predicate. update_step is also run on accumulators that the test
 * fills. */
#include "passmodels.h"
#include "tests/check_run.h"

typedef struct {
  Session s;
  Module *m;
  Eval *e;
} Run;

static Run start(Module *(*make)(Session *, const Setting *, int), const Setting *set, int n,
                 bool exact) {
  Run r = {.s = session_open()};
  r.m = make(&r.s, set, n);
  apply_until(&r.s, &r.m, STAGE_STEP);
  ck_assert_int_eq(eval_create(r.m, exact, &r.e), MPCC_OK);
  feed(r.e, r.m, 0, 16);
  fill_table(r.e, r.m, 0.01, 0.9, 0.999);
  run(r.e, r.m, "init");
  run(r.e, r.m, "refresh");
  return r;
}

static void finish(Run *r) {
  eval_destroy(r->e);
  module_destroy(r->m);
  session_close(&r->s);
}

static double scalar_of(const Run *r, const char *name) {
  return *data_of(r->e, r->m, name);
}

static void fill(const Run *r, const char *name, double v) {
  Tensor *t = module_tensor(r->m, name);
  ck_assert_msg(t != NULL, "no tensor %s", name);
  double *x = eval_tensor(r->e, t);
  for (int64_t i = 0; i < type_elems(t->type); i++)
    x[i] = v;
}

/* 16 in, 32 hidden, 16 classes, 16 samples: every product can be FP8. */
static Module *square_mlp(Session *s, const Setting *set, int n) {
  return mlp(s, set, n, 16, 16, 32, 16);
}

static Module *odd_mlp(Session *s, const Setting *set, int n) {
  return mlp(s, set, n, 4, 5, 7, 16);
}

static Module *odd_mlp_half(Session *s, const Setting *set, int n) {
  return mlp(s, set, n, 2, 5, 7, 16);
}

static const char *const modes[] = {
    "64-true", "32-true",   "16-mixed",           "bf16-mixed",
    "16-true", "bf16-true", "transformer-engine", "transformer-engine-float16"};
enum { NMODES = sizeof modes / sizeof *modes };

/* Every tensor of both evaluations that is no accumulator holds the same numbers. */
static void same_state(const Run *a, const Run *b) {
  for (int i = 0; i < a->m->ntensor; i++) {
    const Tensor *t = a->m->tensor[i];
    if (t->role == ROLE_GRAD || t->role == ROLE_SUM || t->base)
      continue;
    double *x = eval_tensor(a->e, t), *y = data_of(b->e, b->m, t->name);
    for (int64_t k = 0; k < type_elems(t->type); k++)
      ck_assert_msg(x[k] == y[k] || (isnan(x[k]) && isnan(y[k])), "%s[%lld]: %.17g and %.17g",
                    t->name, (long long)k, x[k], y[k]);
  }
}

START_TEST(train_step_is_first_and_update) {
  for (int opt = 0; opt < 2; opt++) {
    Setting set[] = {{"mode", modes[_i], 0},
                     {"optimizer", opt ? "SGD" : "AdamW", 0},
                     {"group.0.momentum", NULL, 0.9},
                     {"clip_algorithm", "norm", 0},
                     {"clip_val", NULL, 0.5},
                     {"amax_history_len", NULL, 4},
                     {"scaler", NULL, strstr(modes[_i], "16-mixed") == modes[_i]}};
    Run a = start(square_mlp, set, 7, false), b = start(square_mlp, set, 7, false);
    double before = 0, after = 0;
    for (int step = 0; step < 3; step++) {
      feed(a.e, a.m, 16 * step, 16);
      feed(b.e, b.m, 16 * step, 16);
      run(a.e, a.m, "train_step");
      run(b.e, b.m, "micro_first");
      run(b.e, b.m, "update_step");
      same_state(&a, &b);
      after = scalar_of(&a, "metric.loss_sum");
      before = step ? before : after;
      ck_assert(scalar_of(&a, "metric.finite") == 1);
    }
    ck_assert(scalar_of(&a, "count.taken") == 3 && scalar_of(&a, "count.seen") == 3);
    ck_assert(scalar_of(&a, "metric.grad_norm") > 0);
    const Tensor *norm = module_tensor(a.m, "metric.grad_norm");
    ck_assert_int_eq(norm->type->dt, strcmp(modes[_i], "64-true") ? MPCC_F32 : MPCC_F64);
    ck_assert(before != after);
    finish(&a);
    finish(&b);
  }
}
END_TEST

/* Losses fall in every mode, and agree with 64-true within the format's coarseness. */
START_TEST(every_mode_trains) {
  Setting set[] = {
      {"mode", "64-true", 0}, {"optimizer", "AdamW", 0}, {"amax_history_len", NULL, 4}};
  Run want = start(square_mlp, set, 3, false);
  set[0].text = modes[_i];
  Run got = start(square_mlp, set, 3, false);
  double first = 0, last = 0, last_want = 0;
  for (int step = 0; step < 20; step++) {
    run(want.e, want.m, "train_step");
    run(got.e, got.m, "train_step");
    last = scalar_of(&got, "metric.loss_sum") / 16;
    last_want = scalar_of(&want, "metric.loss_sum") / 16;
    first = step ? first : last;
  }
  double tolerance = _i < 2 ? 1e-5 : strstr(modes[_i], "transformer") ? 0.1 : 0.03;
  ck_assert_msg(fabs(last - last_want) < tolerance, "%s: loss %g, want %g", modes[_i], last,
                last_want);
  ck_assert_msg(last < first - 0.2, "%s: loss %g to %g", modes[_i], first, last);
  finish(&want);
  finish(&got);
}
END_TEST

START_TEST(accumulation_equals_the_big_batch) {
  Setting set[] = {{"mode", "64-true", 0}, {"optimizer", "AdamW", 0}, {"accumulate", NULL, 1}};
  Run big = start(odd_mlp, set, 3, true);
  set[2].number = 2;
  Run two = start(odd_mlp_half, set, 3, true);
  for (int step = 0; step < 3; step++) {
    feed(big.e, big.m, 4 * step, 16);
    run(big.e, big.m, "train_step");
    feed(two.e, two.m, 4 * step, 16);
    run(two.e, two.m, "micro_first");
    feed(two.e, two.m, 4 * step + 2, 16);
    run(two.e, two.m, "micro_next");
    run(two.e, two.m, "update_step");
    ck_assert(fabs(scalar_of(&big, "metric.loss_sum") - scalar_of(&two, "metric.loss_sum")) <
              1e-12);
    ck_assert(scalar_of(&two, "metric.weight_sum") == 4);
    double *x = data_of(big.e, big.m, "flat.0"), *y = data_of(two.e, two.m, "flat.0");
    int64_t n = type_elems(module_tensor(big.m, "flat.0")->type);
    for (int64_t i = 0; i < n; i++)
      ck_assert_msg(fabs(x[i] - y[i]) < 1e-10, "element %lld: %.17g and %.17g", (long long)i, x[i],
                    y[i]);
  }
  ck_assert(scalar_of(&two, "count.seen") == 6 && scalar_of(&two, "count.taken") == 3);
  finish(&big);
  finish(&two);
}
END_TEST

/* A partial batch: seeds are S / capacity, the factor brings back the mean over real targets. */
START_TEST(partial_batch_is_the_mean_of_real_samples) {
  Setting set[] = {{"mode", "64-true", 0}, {"optimizer", "SGD", 0}};
  Run half = start(odd_mlp_half, set, 2, true), part = start(odd_mlp, set, 2, true);
  *data_of(part.e, part.m, "io.valid") = 2;
  run(half.e, half.m, "train_step");
  run(part.e, part.m, "train_step");
  double *x = data_of(half.e, half.m, "flat.0"), *y = data_of(part.e, part.m, "flat.0");
  for (int64_t i = 0; i < type_elems(module_tensor(half.m, "flat.0")->type); i++)
    ck_assert(fabs(x[i] - y[i]) < 1e-12);
  ck_assert(scalar_of(&part, "metric.weight_sum") == 2);
  finish(&half);
  finish(&part);
}
END_TEST

/* ---- optimizers on given gradients ----------------------------------------------------------- */

static void set_sums(const Run *r, double loss, double weight) {
  fill(r, "sum.loss_sum", loss);
  fill(r, "sum.weight_sum", weight);
}

START_TEST(adamw_is_the_paper_in_torch_order) {
  const double lr = 0.01, b1 = 0.8, b2 = 0.95, eps = 1e-6, wd = 0.1;
  Setting set[] = {{"mode", "64-true", 0},      {"optimizer", "AdamW", 0},
                   {"group.0.beta1", NULL, b1}, {"group.0.beta2", NULL, b2},
                   {"group.0.eps", NULL, eps},  {"group.0.weight_decay", NULL, wd}};
  Run r = start(odd_mlp, set, 6, false);
  fill_table(r.e, r.m, lr, b1, b2);
  double *p = data_of(r.e, r.m, "fc0.weight"), *g = data_of(r.e, r.m, "grad.fc0.weight");
  double want[35], m[35] = {0}, v[35] = {0};
  memcpy(want, p, sizeof want);
  uint64_t state = 5;
  for (int t = 1; t <= 4; t++) {
    set_sums(&r, 3, 4);
    for (int i = 0; i < 35; i++) {
      g[i] = noise(&state);
      m[i] = b1 * m[i] + (1 - b1) * g[i];
      v[i] = b2 * v[i] + (1 - b2) * g[i] * g[i];
      want[i] -= lr * wd * want[i];
      want[i] -= lr * m[i] / (1 - pow(b1, t)) / (sqrt(v[i]) / sqrt(1 - pow(b2, t)) + eps);
    }
    run(r.e, r.m, "update_step");
    for (int i = 0; i < 35; i++)
      ck_assert_msg(fabs(p[i] - want[i]) < 1e-13, "step %d: %.17g, want %.17g", t, p[i], want[i]);
  }
  finish(&r);
}
END_TEST

START_TEST(sgd_is_torchs) {
  const double lr = 0.1, mu = 0.9, damp = _i ? 0.3 : 0, wd = 0.01;
  Setting set[] = {{"mode", "64-true", 0},          {"optimizer", "SGD", 0},
                   {"group.0.momentum", NULL, mu},  {"group.0.dampening", NULL, damp},
                   {"group.0.nesterov", NULL, !_i}, {"group.0.weight_decay", NULL, wd}};
  Run r = start(odd_mlp, set, 6, false);
  fill_table(r.e, r.m, lr, 0, 0);
  double *p = data_of(r.e, r.m, "fc0.weight"), *g = data_of(r.e, r.m, "grad.fc0.weight");
  double want[35], buf[35];
  memcpy(want, p, sizeof want);
  uint64_t state = 9;
  for (int t = 0; t < 3; t++) {
    set_sums(&r, 3, 4);
    for (int i = 0; i < 35; i++) {
      g[i] = noise(&state);
      double d = g[i] + wd * want[i];
      buf[i] = t ? mu * buf[i] + (1 - damp) * d : d;
      want[i] -= lr * (_i ? buf[i] : d + mu * buf[i]);
    }
    run(r.e, r.m, "update_step");
    for (int i = 0; i < 35; i++)
      ck_assert_msg(fabs(p[i] - want[i]) < 1e-13, "step %d: %.17g, want %.17g", t, p[i], want[i]);
  }
  finish(&r);
}
END_TEST

/* 16-bit weights without masters, 300 updates of 2e-5 that add up to 6e-3: a weight of 1/4 to 1/2
 * has neighbours 2^-9 (bf16) or 2^-12 (f16) away. To nearest it never moves in bf16, in f16 hardly
 * where half a place is more than an update; Kahan's sum follows to half a place, and with the
 * compensation to 2^-9 of that; stochastic rounding follows on average: each weight is sum of
 * independent steps, of variance at most 6e-3 * place, and the mean of 100 and more of them within
 * five sigma. */
typedef struct {
  double moved, spread, exact; /* mean movement; largest distance from -6e-3 of p, of p + rest */
  int n;
} Moved;

static Moved many_small_updates(const char *mode, const char *how, double seed, double *out) {
  enum { STEPS = 300, N = 512 };
  const double lr = 2e-5;
  Setting set[] = {{"mode", mode, 0}, {"optimizer", "SGD", 0}, {"update_rounding", how, 0}};
  Run r = start(square_mlp, set, 3, false);
  fill_table(r.e, r.m, lr, 0, 0);
  *data_of(r.e, r.m, "io.seed") = seed;
  double *p = data_of(r.e, r.m, "fc0.weight"), before[N];
  memcpy(before, p, sizeof before);
  for (int t = 0; t < STEPS; t++) {
    set_sums(&r, 3, 16);
    fill(&r, "grad.fc0.weight", 1);
    run(r.e, r.m, "update_step");
  }
  const double *rest = module_tensor(r.m, "optim.fc0.weight.compensation")
                           ? data_of(r.e, r.m, "optim.fc0.weight.compensation")
                           : NULL;
  Moved v = {0};
  for (int i = 0; i < N; i++) {
    if (fabs(before[i]) < 0.26 || fabs(before[i]) > 0.49)
      continue;
    double d = p[i] - before[i];
    v.moved += d;
    v.spread = fmax(v.spread, fabs(d + STEPS * lr));
    v.exact = fmax(v.exact, fabs(d + (rest ? rest[i] : 0) + STEPS * lr));
    v.n++;
  }
  v.moved /= v.n;
  if (out)
    memcpy(out, p, N * sizeof *out);
  finish(&r);
  return v;
}

START_TEST(rounding_of_updates) {
  const bool bf16 = _i == 0;
  const char *mode = bf16 ? "bf16-true" : "16-true";
  const double place = bf16 ? 0x1p-9 : 0x1p-12, total = 300 * 2e-5;
  Moved nearest = many_small_updates(mode, "nearest", 1, NULL);
  ck_assert_int_gt(nearest.n, 100);
  ck_assert_double_eq(nearest.moved, 0); /* 2e-5 is less than half a place in both */
  Moved kahan = many_small_updates(mode, "kahan", 1, NULL);
  ck_assert_double_le(kahan.spread, 0.5 * place + 1e-6);
  ck_assert_double_le(kahan.exact, place * 0x1p-9 * 300);
  static double a[512], b[512], c[512];
  Moved random = many_small_updates(mode, "stochastic", 1, a);
  ck_assert_msg(fabs(random.moved + total) <= 5 * sqrt(total * place / random.n), "moved %g",
                random.moved);
  many_small_updates(mode, "stochastic", 1, b);
  many_small_updates(mode, "stochastic", 2, c);
  ck_assert(!memcmp(a, b, sizeof a)); /* the seed decides */
  ck_assert(memcmp(a, c, sizeof a));
}
END_TEST

/* Groups have their own hyperparameters and columns; group 0 has no parameters here. */
START_TEST(groups_are_told_apart) {
  Setting set[] = {{"mode", "64-true", 0},
                   {"optimizer", "AdamW", 0},
                   {"group.0.weight_decay", NULL, 9},
                   {"group.1.weight_decay", NULL, 0.5},
                   {"group.3.weight_decay", NULL, 0}};
  Session s = session_open();
  Net n = net_begin(&s, set, 5);
  Io io = io_tensors(&n, type_of(&n, MPCC_F32, 2, 2, 4), 2, 16);
  n.group_of_bias = 3;
  Mlp t = {param(&n, "fc0.weight", type_of(&n, MPCC_F32, 2, 5, 4)),
           param(&n, "fc0.bias", type_of(&n, MPCC_F32, 1, 5)),
           param(&n, "fc1.weight", type_of(&n, MPCC_F32, 2, 16, 5)),
           param(&n, "fc1.bias", type_of(&n, MPCC_F32, 1, 16))};
  build_tensor_attr(n.b, t.w0, attr_i(n.b, "group", 1));
  build_tensor_attr(n.b, t.w1, attr_i(n.b, "group", 1));
  Tensor *all[] = {t.w0, t.b0, t.w1, t.b1};
  Run r = {.s = s, .m = net_finish(&n, &io, mlp_forward, &t, all, 4, 0.4)};
  apply_until(&r.s, &r.m, STAGE_STEP);
  const Tensor *table = module_tensor(r.m, "io.table");
  ck_assert_str_eq(tensor_str(table, "columns", ""), "lr.1 bc1.1 bc2.1 lr.3 bc1.3 bc2.3");
  ck_assert(module_tensor(r.m, "fc0.weight")->base == module_tensor(r.m, "flat.1"));
  ck_assert(module_tensor(r.m, "fc1.bias")->base == module_tensor(r.m, "flat.3"));
  ck_assert_int_eq(eval_create(r.m, false, &r.e), MPCC_OK);
  fill_table(r.e, r.m, 0.01, 0.9, 0.999);
  double *row = data_of(r.e, r.m, "io.table");
  row[3] = 0.25; /* learning rate of group 3 at the first step */
  run(r.e, r.m, "init");
  double w = data_of(r.e, r.m, "fc0.weight")[0], b = data_of(r.e, r.m, "fc0.bias")[0];
  set_sums(&r, 1, 2);
  data_of(r.e, r.m, "grad.fc0.bias")[0] = 2; /* Adam's first step is lr * sign(g) */
  run(r.e, r.m, "update_step");
  ck_assert_double_eq_tol(data_of(r.e, r.m, "fc0.weight")[0], w * (1 - 0.01 * 0.5), 1e-12);
  ck_assert_double_eq_tol(data_of(r.e, r.m, "fc0.bias")[0], b - 0.25, 1e-7);
  finish(&r);
}
END_TEST

/* The norm over all parameters is clipped, or each element; unscaling comes first. */
START_TEST(clipping_sees_unscaled_gradients) {
  Setting set[] = {{"mode", "16-mixed", 0},
                   {"optimizer", "SGD", 0},
                   {"scaler", NULL, 1},
                   {"scaler_init_scale", NULL, 8},
                   {"clip_algorithm", _i ? "value" : "norm", 0},
                   {"clip_val", NULL, 0.5}};
  Run r = start(odd_mlp, set, 6, false);
  fill_table(r.e, r.m, 1, 0, 0);
  double *p = data_of(r.e, r.m, "fc0.weight"), before[2];
  memcpy(before, p, sizeof before);
  set_sums(&r, 3, 4); /* full batch of 4: factor is 1 / 8 */
  double *g = data_of(r.e, r.m, "grad.fc0.weight");
  g[0] = 8 * 3;
  g[1] = 8 * 4;
  run(r.e, r.m, "update_step");
  ck_assert_float_eq((float)scalar_of(&r, "metric.grad_norm"), 5.0f);
  ck_assert(scalar_of(&r, "metric.scale") == 8);
  double c = 0.5 / (5 + 1e-6);
  double want[2] = {_i ? 0.5 : 3 * c, _i ? 0.5 : 4 * c};
  for (int i = 0; i < 2; i++)
    ck_assert_msg(fabs(before[i] - p[i] - want[i]) < 1e-6, "%g", before[i] - p[i]);
  finish(&r);
}
END_TEST

/* ---- scaler ---------------------------------------------------------------------------------- */

/* interval 3, growth 2, backoff 1/2, floor 4 */
START_TEST(scaler_follows_its_table) {
  static const struct {
    double grad, scale, tracker, applied;
  } row[] = {
      {1, 16, 1, 1},        {1, 16, 2, 1},       {1, 32, 0, 1}, /* third clean step: grows */
      {INFINITY, 16, 0, 0}, {1, 16, 1, 1},       {NAN, 8, 0, 0},
      {-INFINITY, 4, 0, 0}, {INFINITY, 4, 0, 0}, /* floor */
      {1, 4, 1, 1},         {1, 4, 2, 1},        {1, 8, 0, 1},
  };
  Setting set[] = {{"mode", "16-mixed", 0},
                   {"optimizer", "AdamW", 0},
                   {"scaler", NULL, 1},
                   {"scaler_init_scale", NULL, 16},
                   {"scaler_growth_interval", NULL, 3},
                   {"scaler_min_scale", NULL, 4}};
  Run r = start(odd_mlp, set, 6, false);
  double *p = data_of(r.e, r.m, "fc0.weight"), *m = data_of(r.e, r.m, "optim.fc0.weight.exp_avg");
  double taken = 0, skipped = 0;
  for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
    double used = scalar_of(&r, "scaler.scale"), old = p[0], old_m = m[0];
    set_sums(&r, 3, 4);
    fill(&r, "grad.flat.0", 0.25);
    data_of(r.e, r.m, "grad.fc1.bias")[2] = row[i].grad;
    run(r.e, r.m, "update_step");
    taken += row[i].applied;
    skipped += 1 - row[i].applied;
    ck_assert_msg(scalar_of(&r, "scaler.scale") == row[i].scale, "row %zu: scale %g", i,
                  scalar_of(&r, "scaler.scale"));
    ck_assert(scalar_of(&r, "scaler.growth_tracker") == row[i].tracker);
    ck_assert(scalar_of(&r, "metric.finite") == row[i].applied);
    ck_assert(scalar_of(&r, "metric.scale") == used);
    ck_assert(scalar_of(&r, "count.taken") == taken);
    ck_assert(scalar_of(&r, "count.skipped") == skipped);
    ck_assert((p[0] != old) == (row[i].applied == 1));
    ck_assert((m[0] != old_m) == (row[i].applied == 1));
    ck_assert(isfinite(p[0]) && isfinite(m[0]));
  }
  finish(&r);
}
END_TEST

START_TEST(scale_stops_growing_at_the_largest_float) {
  Setting set[] = {{"mode", "16-mixed", 0},
                   {"scaler", NULL, 1},
                   {"scaler_init_scale", NULL, 0x1p127},
                   {"scaler_growth_interval", NULL, 1}};
  Run r = start(odd_mlp, set, 4, false);
  set_sums(&r, 3, 4);
  fill(&r, "grad.flat.0", 0.25);
  run(r.e, r.m, "update_step");
  ck_assert(scalar_of(&r, "scaler.scale") == 0x1p127);
  ck_assert(scalar_of(&r, "scaler.growth_tracker") == 0);
  finish(&r);
}
END_TEST

/* N11: without a scaler too. */
START_TEST(nothing_not_finite_is_applied) {
  static const double loss[3] = {NAN, INFINITY, 3}, grad[3] = {0.5, 0.5, NAN};
  Setting set[] = {{"mode", modes[_i], 0}, {"optimizer", "AdamW", 0}};
  Run r = start(square_mlp, set, 2, false);
  double *p = data_of(r.e, r.m, "fc0.weight"), *m = data_of(r.e, r.m, "optim.fc0.weight.exp_avg");
  for (int i = 0; i < 3; i++) {
    double old = p[0];
    set_sums(&r, loss[i], 16);
    fill(&r, "grad.flat.0", grad[i]);
    run(r.e, r.m, "update_step");
    ck_assert(p[0] == old && m[0] == 0);
    ck_assert(scalar_of(&r, "metric.finite") == 0 && scalar_of(&r, "count.skipped") == i + 1);
    ck_assert(scalar_of(&r, "count.taken") == 0);
  }
  finish(&r);
}
END_TEST

/* ---- FP8 scales ------------------------------------------------------------------------------ */

/* The rule's worked example: history of 4, amaxes 2 8 1 .5 .25 .25, then special values. */
START_TEST(fp8_scales_follow_their_table) {
  static const struct {
    double amax, next;
  } row[] = {{2, 224},   {8, 56},     {1, 56},  {0.5, 56},
             {0.25, 56}, {0.25, 448}, {0, 448}, {INFINITY, 448}};
  Setting set[] = {{"mode", "transformer-engine", 0}, {"amax_history_len", NULL, 4}};
  Run r = start(square_mlp, set, 2, false);
  double *scale = data_of(r.e, r.m, "fp8.forward.scale"),
         *grad = data_of(r.e, r.m, "fp8.backward.scale");
  double *amax = data_of(r.e, r.m, "sum.fp8.forward.amax");
  double *codes = data_of(r.e, r.m, "weight.fc0.weight.e4m3.scale_inv");
  ck_assert(scale[0] == 1 && grad[0] == 1 && codes[0] == 1);
  for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
    set_sums(&r, 3, 16);
    fill(&r, "grad.flat.0", i == 3 ? NAN : 0.1); /* a skipped step updates scales too */
    fill(&r, "sum.fp8.forward.amax", 0);
    amax[0] = row[i].amax;
    amax[1] = 4;
    fill(&r, "sum.fp8.backward.amax", 57344.0 / 16);
    run(r.e, r.m, "update_step");
    ck_assert_msg(scale[0] == row[i].next, "row %zu: %g, want %g", i, scale[0], row[i].next);
    ck_assert(scale[1] == 112 && grad[0] == 16 && scale[2] == 1);
    /* derived codes follow the new scale */
    ck_assert(codes[0] == (double)(float)(1.0 / 112));
  }
  finish(&r);
}
END_TEST

/* N2: an infinity that a cast to FP8 saturates reaches neither loss nor gradients; the step is
 * skipped and the loss scale backs off all the same. Recipes without histories record amaxes for
 * this. */
START_TEST(what_saturates_is_not_applied) {
  static const struct {
    double forward, backward, scale;
  } row[] = {{2, 2, 16}, {INFINITY, 2, 8}, {2, INFINITY, 4}, {NAN, 2, 2}, {2, NAN, 1}, {0, 0, 1}};
  static const char *const recipes[] = {"DelayedScaling", "Float8CurrentScaling",
                                        "MXFP8BlockScaling", "NVFP4BlockScaling"};
  Setting set[] = {{"mode", "transformer-engine-float16", 0},
                   {"recipe", recipes[_i], 0},
                   {"scaler", NULL, 1},
                   {"scaler_init_scale", NULL, 16}};
  Run r = start(square_mlp, set, 4, false);
  double *p = data_of(r.e, r.m, "fc0.weight");
  for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
    bool applied = isfinite(row[i].forward + row[i].backward);
    double old = p[0];
    set_sums(&r, 3, 16);
    fill(&r, "grad.flat.0", 0.25);
    fill(&r, "sum.fp8.forward.amax", 1);
    fill(&r, "sum.fp8.backward.amax", 1);
    data_of(r.e, r.m, "sum.fp8.forward.amax")[1] = row[i].forward;
    data_of(r.e, r.m, "sum.fp8.backward.amax")[0] = row[i].backward;
    run(r.e, r.m, "update_step");
    ck_assert_msg((p[0] != old) == applied, "row %zu", i);
    ck_assert(scalar_of(&r, "metric.finite") == applied);
    ck_assert_msg(scalar_of(&r, "scaler.scale") == row[i].scale, "row %zu: scale %g", i,
                  scalar_of(&r, "scaler.scale"));
  }
  finish(&r);
}
END_TEST

START_TEST(fp8_amax_is_the_largest_of_the_micro_batches) {
  Setting set[] = {
      {"mode", "transformer-engine", 0}, {"accumulate", NULL, 2}, {"amax_history_len", NULL, 4}};
  Run r = start(square_mlp, set, 3, false);
  double *x = data_of(r.e, r.m, "io.image"), *amax = data_of(r.e, r.m, "sum.fp8.forward.amax");
  double *scale = data_of(r.e, r.m, "fp8.forward.scale");
  x[5] = 3;
  run(r.e, r.m, "micro_first");
  ck_assert(amax[0] == 3);
  double weight_amax = amax[1];
  ck_assert_msg(weight_amax > 0.3 && weight_amax <= 0.402, "%g", weight_amax);
  feed(r.e, r.m, 16, 16);
  run(r.e, r.m, "micro_next");
  ck_assert(amax[0] == 3 && amax[1] == weight_amax && scale[0] == 1);
  ck_assert(data_of(r.e, r.m, "sum.fp8.backward.amax")[0] > 0);
  /* evaluation records nothing */
  x[5] = 100;
  run(r.e, r.m, "eval_step");
  run(r.e, r.m, "predict");
  ck_assert(amax[0] == 3 && scale[0] == 1);
  run(r.e, r.m, "update_step");
  ck_assert(scale[0] == (double)(448.0f / 3.0f));
  finish(&r);
}
END_TEST

START_TEST(calibrate_sets_scales_and_nothing_else) {
  Setting set[] = {{"mode", "transformer-engine", 0}, {"amax_history_len", NULL, 4}};
  Run r = start(square_mlp, set, 2, false), same = start(square_mlp, set, 2, false);
  run(r.e, r.m, "calibrate");
  ck_assert(scalar_of(&r, "fp8.forward.scale") > 100);
  ck_assert(scalar_of(&r, "fp8.backward.scale") > 100);
  ck_assert(scalar_of(&r, "weight.fc0.weight.e4m3.scale_inv") ==
            (double)(float)(1.0 / data_of(r.e, r.m, "fp8.forward.scale")[1]));
  for (int i = 0; i < r.m->ntensor; i++) {
    const Tensor *t = r.m->tensor[i];
    if (t->role == ROLE_SCALE || t->role == ROLE_WEIGHT)
      continue;
    double *x = eval_tensor(r.e, t), *y = data_of(same.e, same.m, t->name);
    for (int64_t k = 0; k < type_elems(t->type); k++)
      ck_assert_msg(x[k] == y[k], "%s changed", t->name);
  }
  /* wgrads are not needed for amaxes */
  ck_assert_int_lt(count_op(module_func(r.m, "calibrate"), OP_qmatmul),
                   count_op(module_func(r.m, "micro_first"), OP_qmatmul));
  finish(&r);
  finish(&same);
}
END_TEST

START_TEST(lightning_rolls_every_micro_batch) {
  Setting set[] = {{"mode", "transformer-engine", 0},
                   {"compat", "lightning", 0},
                   {"accumulate", NULL, 2},
                   {"amax_history_len", NULL, 4}};
  Run r = start(square_mlp, set, 4, false);
  double *scale = data_of(r.e, r.m, "fp8.forward.scale");
  ck_assert_int_eq(module_tensor(r.m, "fc0.weight")->type->dt, MPCC_BF16); /* no masters */
  data_of(r.e, r.m, "io.image")[0] = 4;
  run(r.e, r.m, "micro_first");
  ck_assert(scale[0] == 112);
  data_of(r.e, r.m, "io.image")[0] = 8;
  run(r.e, r.m, "micro_next");
  ck_assert(scale[0] == 56);
  double now = scale[1];
  run(r.e, r.m, "update_step");
  ck_assert(scale[0] == 56 && scale[1] == now);
  finish(&r);
}
END_TEST

/* ---- state ----------------------------------------------------------------------------------- */

static DType dtype_of(const Run *r, const char *name) {
  const Tensor *t = module_tensor(r->m, name);
  return t ? t->type->dt : MPCC_DTYPE_COUNT;
}

START_TEST(state_has_the_dtypes_of_the_mode) {
  static const struct {
    const char *mode, *masters, *compat;
    DType param, grad, exp_avg, exp_avg_sq, weight;
  } row[] = {
      {"64-true", "none", "none", MPCC_F64, MPCC_F64, MPCC_F64, MPCC_F64, MPCC_DTYPE_COUNT},
      {"32-true", "none", "none", MPCC_F32, MPCC_F32, MPCC_F32, MPCC_F32, MPCC_DTYPE_COUNT},
      {"16-mixed", "none", "none", MPCC_F32, MPCC_F32, MPCC_F32, MPCC_F32, MPCC_F16},
      {"bf16-mixed", "none", "none", MPCC_F32, MPCC_F32, MPCC_F32, MPCC_F32, MPCC_BF16},
      {"16-true", "none", "none", MPCC_F16, MPCC_F16, MPCC_F16, MPCC_F32, MPCC_DTYPE_COUNT},
      {"16-true", "none", "lightning", MPCC_F16, MPCC_F16, MPCC_F16, MPCC_F16, MPCC_DTYPE_COUNT},
      {"bf16-true", "none", "none", MPCC_BF16, MPCC_BF16, MPCC_BF16, MPCC_BF16, MPCC_DTYPE_COUNT},
      {"bf16-true", "float32", "none", MPCC_F32, MPCC_F32, MPCC_F32, MPCC_F32, MPCC_BF16},
      {"transformer-engine", "float32", "none", MPCC_F32, MPCC_F32, MPCC_F32, MPCC_F32, MPCC_BF16},
      {"transformer-engine-float16", "float32", "none", MPCC_F32, MPCC_F32, MPCC_F32, MPCC_F32,
       MPCC_F16},
      {"transformer-engine", "none", "lightning", MPCC_BF16, MPCC_BF16, MPCC_BF16, MPCC_BF16,
       MPCC_DTYPE_COUNT},
  };
  Setting set[] = {{"mode", row[_i].mode, 0},
                   {"optimizer", "AdamW", 0},
                   {"master_weights", row[_i].masters, 0},
                   {"compat", row[_i].compat, 0}};
  Run r = start(square_mlp, set, 4, false);
  ck_assert_int_eq(dtype_of(&r, "fc0.weight"), row[_i].param);
  ck_assert_int_eq(dtype_of(&r, "grad.fc0.weight"), row[_i].grad);
  ck_assert_int_eq(dtype_of(&r, "optim.fc0.bias.exp_avg"), row[_i].exp_avg);
  ck_assert_int_eq(dtype_of(&r, "optim.fc0.bias.exp_avg_sq"), row[_i].exp_avg_sq);
  ck_assert_int_eq(dtype_of(&r, "weight.fc0.bias"), row[_i].weight);
  ck_assert_int_eq(dtype_of(&r, "metric.loss_sum"), _i == 0 ? MPCC_F64 : MPCC_F32);
  finish(&r);
}
END_TEST

START_TEST(derived_follows_state) {
  Setting set[] = {{"mode", "bf16-mixed", 0}, {"optimizer", "AdamW", 0}};
  Run r = start(odd_mlp, set, 2, false);
  const Func *f = module_func(r.m, "train_step");
  /* no cast of a parameter inside the forward pass */
  for (int i = 0; i < f->nop; i++)
    if (f->op[i]->code == OP_linear)
      ck_assert_int_eq(f->op[i]->in[1]->def->code, OP_read);
  for (int step = 0; step < 2; step++) {
    run(r.e, r.m, "train_step");
    Tensor *w = module_tensor(r.m, "weight.fc0.weight"), *p = module_tensor(r.m, "fc0.weight");
    ck_assert(w->base_elem == p->base_elem && w->base && p->base_elem % 64 == 0);
    double *x = eval_tensor(r.e, w), *y = eval_tensor(r.e, p), same = 0;
    for (int i = 0; i < 35; i++) {
      ck_assert(fabs(x[i] - y[i]) <= fabs(y[i]) * 0x1p-8);
      same += x[i] == y[i];
    }
    ck_assert(same < 35);
  }
  double before = data_of(r.e, r.m, "weight.fc0.weight")[0];
  fill(&r, "weight.flat.0", 0);
  run(r.e, r.m, "refresh");
  ck_assert(data_of(r.e, r.m, "weight.fc0.weight")[0] == before);
  finish(&r);
}
END_TEST

/* In FP8 only biases are read in 16 bits: no copy of everything. */
START_TEST(copies_hold_what_is_read) {
  Setting set[] = {{"mode", _i ? "bf16-mixed" : "transformer-engine", 0}};
  Run r = start(square_mlp, set, 1, false);
  ck_assert((module_tensor(r.m, "weight.flat.0") != NULL) == (_i == 1));
  const Tensor *t = module_tensor(r.m, "weight.fc0.bias");
  ck_assert(t && (t->base != NULL) == (_i == 1) && t->type->dt == MPCC_BF16);
  ck_assert((module_tensor(r.m, "weight.fc0.weight") != NULL) == (_i == 1));
  for (int i = 0; i < 2; i++) {
    double *p = data_of(r.e, r.m, "fc0.bias"), *w = data_of(r.e, r.m, "weight.fc0.bias");
    for (int k = 0; k < 32; k++)
      ck_assert(fabs(w[k] - p[k]) <= fabs(p[k]) * 0x1p-8 && (w[k] != 0) == (p[k] != 0));
    run(r.e, r.m, "train_step");
  }
  finish(&r);
}
END_TEST

START_TEST(padding_stays_zero) {
  Setting set[] = {{"mode", "32-true", 0}, {"optimizer", "AdamW", 0}};
  Run r = start(odd_mlp, set, 2, false);
  for (int i = 0; i < 3; i++)
    run(r.e, r.m, "train_step");
  double *p = data_of(r.e, r.m, "flat.0");
  for (int i = 35; i < 64; i++)
    ck_assert(p[i] == 0);
  finish(&r);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("step");
  TCase *t = tcase_create("step");
  tcase_set_timeout(t, 300);
  tcase_add_loop_test(t, train_step_is_first_and_update, 0, NMODES);
  tcase_add_loop_test(t, every_mode_trains, 0, NMODES);
  tcase_add_test(t, accumulation_equals_the_big_batch);
  tcase_add_test(t, partial_batch_is_the_mean_of_real_samples);
  tcase_add_test(t, adamw_is_the_paper_in_torch_order);
  tcase_add_loop_test(t, sgd_is_torchs, 0, 2);
  tcase_add_loop_test(t, rounding_of_updates, 0, 2);
  tcase_add_test(t, groups_are_told_apart);
  tcase_add_loop_test(t, clipping_sees_unscaled_gradients, 0, 2);
  tcase_add_test(t, scaler_follows_its_table);
  tcase_add_test(t, scale_stops_growing_at_the_largest_float);
  tcase_add_loop_test(t, nothing_not_finite_is_applied, 0, NMODES);
  tcase_add_test(t, fp8_scales_follow_their_table);
  tcase_add_loop_test(t, what_saturates_is_not_applied, 0, 4);
  tcase_add_test(t, fp8_amax_is_the_largest_of_the_micro_batches);
  tcase_add_test(t, calibrate_sets_scales_and_nothing_else);
  tcase_add_test(t, lightning_rolls_every_micro_batch);
  tcase_add_loop_test(t, state_has_the_dtypes_of_the_mode, 0, 11);
  tcase_add_test(t, derived_follows_state);
  tcase_add_loop_test(t, copies_hold_what_is_read, 0, 2);
  tcase_add_test(t, padding_stays_zero);
  suite_add_tcase(suite, t);
  return check_run(suite);
}
