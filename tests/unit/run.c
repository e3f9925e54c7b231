/* run: the whole pipeline on small models in every mode, stop and resume, dumps and times, the text
 * check, failures. */
#include "passmodels.h"
#include "tests/check_run.h"
#include "tests/plain_caps.h"

typedef struct {
  int n;
  char title[64][64];
  char *text;
} Dumps;

static void on_dump(void *user, const char *title, const char *text) {
  Dumps *d = user;
  ck_assert_int_lt(d->n, 64);
  snprintf(d->title[d->n++], 64, "%s", title);
  free(d->text);
  d->text = strdup(text);
}

/* SGD: Adam turns the rounding noise of a key bias, whose gradient is zero, into full steps. */
static Module *model(Session *s, const char *mode) {
  Setting set[] = {{"mode", mode, 0},
                   {"optimizer", "SGD", 0},
                   {"group.0.momentum", NULL, 0.9},
                   {"scaler", NULL, strstr(mode, "16-mixed") == mode},
                   {"amax_history_len", NULL, 4}};
  return vit(s, set, 5);
}

static const char *const modes[] = {
    "64-true", "32-true",   "16-mixed",           "bf16-mixed",
    "16-true", "bf16-true", "transformer-engine", "transformer-engine-float16"};

/* Every pass's result verifies, prints, parses back and prints the same. */
START_TEST(whole_pipeline_in_every_mode) {
  Session s = session_open();
  PassOpts o = {.caps = &plain_caps, .opt_level = 2};
  PassRun r = {.check = true};
  Module *out;
  const char *failed;
  Status st = passes_run(model(&s, modes[_i]), &o, &r, s.diag, &out, &failed);
  if (st != MPCC_OK) {
    fprintf(stderr, "failed: %s\n", failed ? failed : "?");
    show_diagnostics(s.diag);
  }
  ck_assert_int_eq(st, MPCC_OK);
  ck_assert_int_eq(out->stage, STAGE_PLANNED);
  ck_assert_str_eq(module_str(out, "pass", ""), "plan");
  module_destroy(out);
  session_close(&s);
}
END_TEST

/* The planned module computes what the step module computes: to the bit in strict numerics with
 * every op rounded, nearly so when kernels keep more bits [N10]. */
static void compare_stages(const char *mode, bool strict) {
  Session s = session_open();
  PassOpts o = {.caps = &plain_caps, .strict = strict, .opt_level = 2};
  PassRun stop = {.stop_after = "step"};
  Module *m[2];
  Eval *e[2];
  const char *failed;
  for (int k = 0; k < 2; k++) {
    ck_assert_int_eq(passes_run(model(&s, mode), &o, k ? NULL : &stop, s.diag, &m[k], &failed),
                     MPCC_OK);
    ck_assert_int_eq(eval_create(m[k], false, &e[k]), MPCC_OK);
    feed(e[k], m[k], 0, VIT_CLASSES);
    fill_table(e[k], m[k], 0.01, 0.9, 0.999);
    run(e[k], m[k], "init");
    if (k) /* init draws in f32, where kernels round differently: the same start for both */
      memcpy(data_of(e[1], m[1], "flat.0"), data_of(e[0], m[0], "flat.0"),
             (size_t)type_elems(module_tensor(m[0], "flat.0")->type) * sizeof(double));
    run(e[k], m[k], "refresh");
  }
  double tolerance = !strcmp(mode, "64-true") ? 1e-10 : !strcmp(mode, "32-true") ? 1e-4 : 3e-2;
  for (int step = 0; step < 2; step++)
    for (int k = 0; k < 2; k++)
      run(e[k], m[k], "train_step");
  static const char *const names[] = {"metric.loss_sum", "metric.grad_norm", "flat.0",
                                      "count.taken"};
  for (int i = 0; i < 4; i++) {
    double *a = data_of(e[0], m[0], names[i]), *b = data_of(e[1], m[1], names[i]);
    for (int64_t n = 0; n < type_elems(module_tensor(m[0], names[i])->type); n++)
      ck_assert_msg(fabs(a[n] - b[n]) <= tolerance * (1 + fabs(a[n])), "%s %s[%lld]: %.9g, %.9g",
                    mode, names[i], (long long)n, a[n], b[n]);
  }
  for (int k = 0; k < 2; k++) {
    eval_destroy(e[k]);
    module_destroy(m[k]);
  }
  session_close(&s);
}

START_TEST(kernels_compute_what_ops_compute) {
  compare_stages(modes[_i / 2], _i % 2);
}
END_TEST

static char *printed(const Session *s, const Module *m) {
  Text t = {0};
  module_print(m, s->diag, &t);
  return t.data;
}

/* Stopping after any pass and going on gives the same module as one run. */
START_TEST(stops_and_goes_on) {
  int n;
  const PassInfo *table = pass_table(&n);
  PassOpts o = {.caps = &plain_caps, .opt_level = 2};
  Session s = session_open();
  Module *whole, *part;
  const char *failed;
  ck_assert_int_eq(passes_run(model(&s, "bf16-mixed"), &o, NULL, s.diag, &whole, &failed), MPCC_OK);
  char *want = printed(&s, whole);
  for (int i = 0; i < n; i++) {
    PassRun stop = {.stop_after = table[i].name};
    ck_assert_int_eq(passes_run(model(&s, "bf16-mixed"), &o, &stop, s.diag, &part, &failed),
                     MPCC_OK);
    ck_assert_int_eq(part->stage, table[i].gives);
    ck_assert_str_eq(module_str(part, "pass", ""), table[i].name);
    ck_assert_int_eq(passes_run(part, &o, NULL, s.diag, &part, &failed), MPCC_OK);
    char *got = printed(&s, part);
    ck_assert_str_eq(got, want);
    free(got);
    module_destroy(part);
  }
  free(want);
  module_destroy(whole);
  session_close(&s);
}
END_TEST

START_TEST(dumps_what_was_asked_for) {
  Session s = session_open();
  PassOpts o = {.caps = &plain_caps};
  Dumps d = {0};
  PassRun r = {.stop_after = "castopt",
               .print_before = "autocast",
               .print_after = "all",
               .time = true,
               .dump = on_dump,
               .user = &d};
  Module *m;
  const char *failed;
  ck_assert_int_eq(passes_run(model(&s, "16-mixed"), &o, &r, s.diag, &m, &failed), MPCC_OK);
  static const char *const want[] = {"after canon", "before autocast", "after autocast",
                                     "after fp8",   "after castopt",   "times"};
  ck_assert_int_eq(d.n, 6);
  for (int i = 0; i < 6; i++)
    ck_assert_str_eq(d.title[i], want[i]);
  ck_assert(strstr(d.text, "castopt") && strstr(d.text, "us") && !strstr(d.text, "layout"));
  free(d.text);
  module_destroy(m);
  session_close(&s);
}
END_TEST

/* The module before the failing pass comes back, and the pass's name. */
START_TEST(failure_leaves_the_module_before) {
  Session s = session_open();
  PassOpts o = {.caps = &plain_caps};
  Setting set[] = {{"mode", "32-true", 0}, {"optimizer", "Muon", 0}};
  Module *m;
  const char *failed;
  Status st = passes_run(mlp(&s, set, 2, 2, 3, 4, 5), &o, NULL, s.diag, &m, &failed);
  ck_assert_int_eq(st, MPCC_ERR_INPUT);
  ck_assert_str_eq(failed, "step");
  ck_assert_int_eq(m->stage, STAGE_TRAIN);
  ck_assert(strstr(diag_first(s.diag)->text, "Muon") != NULL);
  module_destroy(m);
  session_close(&s);
}
END_TEST

START_TEST(unknown_pass_is_wrong_usage) {
  Session s = session_open();
  PassOpts o = {.caps = &plain_caps};
  PassRun r = {.stop_after = "turbo"};
  Module *m;
  const char *failed;
  ck_assert_int_eq(passes_run(model(&s, "32-true"), &o, &r, s.diag, &m, &failed), MPCC_ERR_USAGE);
  module_destroy(m);
  session_close(&s);
}
END_TEST

/* Short memory anywhere in the passes is reported as such and leaks nothing. */
START_TEST(short_memory_is_told) {
  PassOpts o = {.caps = &plain_caps};
  PassRun r = {.stop_after = "step"};
  Status st = MPCC_ERR_NOMEM;
  for (long n = 1; st != MPCC_OK && n < 1000000; n += 1 + n / 8) {
    Session s = session_open();
    Setting set[] = {{"mode", "transformer-engine", 0}, {"amax_history_len", NULL, 4}};
    Module *m = mlp(&s, set, 2, 16, 16, 16, 16);
    const char *failed;
    arena_fail_after(n);
    st = passes_run(m, &o, &r, s.diag, &m, &failed);
    arena_fail_after(0);
    if (st != MPCC_OK && st != MPCC_ERR_NOMEM)
      show_diagnostics(s.diag);
    ck_assert_msg(st == MPCC_OK || st == MPCC_ERR_NOMEM, "allocation %ld: status %d in %s", n, st,
                  failed ? failed : "?");
    module_destroy(m);
    session_close(&s);
  }
  ck_assert_int_eq(st, MPCC_OK);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("run");
  TCase *t = tcase_create("run");
  tcase_set_timeout(t, 300);
  tcase_add_loop_test(t, whole_pipeline_in_every_mode, 0, 8);
  tcase_add_loop_test(t, kernels_compute_what_ops_compute, 0, 16);
  tcase_add_test(t, stops_and_goes_on);
  tcase_add_test(t, dumps_what_was_asked_for);
  tcase_add_test(t, failure_leaves_the_module_before);
  tcase_add_test(t, unknown_pass_is_wrong_usage);
  tcase_add_test(t, short_memory_is_told);
  suite_add_tcase(suite, t);
  return check_run(suite);
}
