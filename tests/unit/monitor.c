/* Values of metrics from their sums, worked by hand; early stopping; what is remembered over a
 * resume. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/fit.h"
#include "tests/check_run.h"

/* ---- early stopping ---- */

static mprt_program *open_program(const char *stopping) {
  mprt_program *p = calloc(1, sizeof *p);
  char *spec = mprt__format("{\"early_stopping\": %s}", stopping);
  p->spec = json_loads(spec, 0, NULL);
  ck_assert(p->spec != NULL);
  free(spec);
  return p;
}

static void close_program(mprt_program *p) {
  json_decref(p->spec);
  json_decref(p->fit_state);
  free(p);
}

static const struct {
  const char *config;
  double metric[8];
  int stops; /* index of the value that ends training; 8: none does */
  const char *why;
} stops[] = {
    {"{\"mode\": \"min\", \"patience\": 3}", {5, 4, 4, 4, 3, 3, 3, 3}, 7, "not improved"},
    {"{\"mode\": \"min\", \"patience\": 3, \"min_delta\": 0.5}",
     {5, 4.9, 4.6, 4.5, 1, 1, 1, 1},
     3,
     "not improved"},
    {"{\"mode\": \"max\", \"patience\": 2}", {0.1, 0.2, 0.3, 0.3, 0.4, 0.1, 0.4, 0}, 6, "improved"},
    {"{\"mode\": \"max\", \"patience\": 9}", {0.1, 0.2, NAN, 0, 0, 0, 0, 0}, 2, "not finite"},
    {"{\"mode\": \"max\", \"patience\": 9, \"check_finite\": false}",
     {0.1, NAN, NAN, 0, 0, 0, 0, 0},
     8,
     ""},
    {"{\"mode\": \"max\", \"patience\": 9, \"stopping_threshold\": 0.9}",
     {0.1, 0.9, 0.91, 0, 0, 0, 0, 0},
     2,
     "stopping_threshold"},
    {"{\"mode\": \"min\", \"patience\": 9, \"divergence_threshold\": 7}",
     {5, 7, 6, 7.5, 0, 0, 0, 0},
     3,
     "divergence_threshold"},
};

START_TEST(training_stops_early) {
  mprt_program *p = open_program(stops[_i].config);
  int at = 0;
  const char *why = NULL;
  while (at < 8 && !(why = mprt__early_stop(p, stops[_i].metric[at])))
    at++;
  ck_assert_int_eq(at, stops[_i].stops);
  ck_assert(!why || strstr(why, stops[_i].why));
  close_program(p);
}
END_TEST

/* A run that is interrupted after any validation goes on as if it had not been. */
START_TEST(patience_survives_a_resume) {
  mprt_program *p = open_program(stops[0].config), *q = NULL;
  for (int t = 0; t < 7; t++) {
    ck_assert_ptr_null(mprt__early_stop(p, stops[0].metric[t]));
    ck_assert_int_eq(mprt__fit_remember(p), MPCC_OK);
    q = open_program(stops[0].config);
    q->fit_state = json_deep_copy(p->fit_state);
    mprt__fit_recall(q);
    close_program(p);
    p = q;
  }
  ck_assert_ptr_nonnull(mprt__early_stop(p, stops[0].metric[7]));
  close_program(p);
}
END_TEST

/* ---- metrics ---- */

/* A program of metric tensors: [3, 3] counts, a sum and its count. */
enum { TENSORS = 9 };
static mprt_program *metrics_program(float *data) {
  static const char strings[] =
      "\0metric.confusion\0metric.p\0metric.r\0metric.f\0metric.pm\0metric.rm\0"
      "metric.fm\0metric.ppl\0metric.ppl.count";
  static const char *const attrs[TENSORS] = {
      "{\"metric\": \"matrix\"}",
      "{\"metric\": \"precision\", \"average\": \"macro\"}",
      "{\"metric\": \"recall\", \"average\": \"macro\"}",
      "{\"metric\": \"f1\", \"average\": \"macro\"}",
      "{\"metric\": \"precision\", \"average\": \"micro\"}",
      "{\"metric\": \"recall\", \"average\": \"micro\"}",
      "{\"metric\": \"f1\", \"average\": \"micro\"}",
      "{\"metric\": \"exp\", \"count\": \"metric.ppl.count\"}",
      "{}"};
  mprt_program *p = calloc(1, sizeof *p);
  MpccTensor *t = calloc(TENSORS, sizeof *t);
  p->attrs = calloc(TENSORS, sizeof *p->attrs);
  p->by_name = calloc(TENSORS, sizeof *p->by_name);
  p->flat = calloc(TENSORS, sizeof *p->flat);
  p->strings = strings;
  p->tensor = t;
  p->ntensor = TENSORS;
  p->segment[MPCC_SEG_IO].data = (uint8_t *)data;
  uint32_t name = 1;
  for (uint32_t i = 0; i < TENSORS; i++) {
    bool matrix = i < 7;
    t[i] = (MpccTensor){.name = name,
                        .dtype = MPCC_F32,
                        .segment = MPCC_SEG_IO,
                        .base = i,
                        .role = ROLE_METRIC,
                        .rank = matrix ? 2 : 0,
                        .dim = {3, 3},
                        .offset = matrix ? 0 : 36 + 4 * (i - 7),
                        .bytes = matrix ? 36 : 4};
    name += (uint32_t)strlen(strings + name) + 1;
    p->attrs[i] = json_loads(attrs[i], 0, NULL);
  }
  for (uint32_t i = 0; i < TENSORS; i++) { /* sorted by name */
    uint32_t k = i;
    for (; k > 0 && strcmp(strings + t[p->by_name[k - 1]].name, strings + t[i].name) > 0; k--)
      p->by_name[k] = p->by_name[k - 1];
    p->by_name[k] = i;
  }
  return p;
}

static void close_metrics(mprt_program *p) {
  for (int i = 0; i < TENSORS; i++)
    json_decref(p->attrs[i]);
  free(p->attrs);
  free(p->by_name);
  free(p->flat);
  free((void *)p->tensor);
  free(p);
}

/* Counts by target (row) and prediction (column), and what scikit-learn's
 * precision_recall_fscore_support and torchmetrics (to its FP32) say of them: precision, recall and
 * F1, micro, macro and weighted. */
static const struct {
  const char *what;
  float count[9];
  double value[3][3];
} averages[] = {{"all classes",
                 {5, 2, 1, 1, 7, 3, 4, 0, 9},
                 {{0.65625, 0.65625, 0.65625},
                  {0.65669515669515666, 0.65122377622377614, 0.64928774928774924},
                  {0.67361111111111116, 0.65625, 0.66076388888888893}}},
                {"a class that occurs nowhere",
                 {4, 1, 0, 2, 3, 0, 0, 0, 0},
                 {{0.7, 0.7, 0.7},
                  {0.70833333333333326, 0.7, 0.69696969696969702},
                  {0.70833333333333326, 0.7, 0.69696969696969702}}},
                {"never predicted",
                 {3, 0, 1, 2, 0, 5, 0, 0, 6},
                 {{0.52941176470588236, 0.52941176470588236, 0.52941176470588236},
                  {0.3666666666666667, 0.58333333333333337, 0.44444444444444442},
                  {0.31764705882352945, 0.52941176470588236, 0.39215686274509798}}},
                {"never a target",
                 {2, 1, 0, 0, 0, 0, 3, 4, 5},
                 {{0.46666666666666667, 0.46666666666666667, 0.46666666666666667},
                  {0.46666666666666662, 0.3611111111111111, 0.36274509803921573},
                  {0.88, 0.46666666666666667, 0.57058823529411762}}},
                {"one class", {0, 0, 0, 0, 8, 0, 0, 0, 0}, {{1, 1, 1}, {1, 1, 1}, {1, 1, 1}}},
                {"nothing right", {0, 3, 1, 2, 0, 2, 1, 1, 0}, {{0}}},
                {"no targets", {0}, {{0}}}};

START_TEST(metrics_averaged) {
  static const char *const words[] = {"micro", "macro", "weighted"};
  float batch[11] = {0};
  mprt_program *p = metrics_program(batch);
  ck_assert_int_eq(mprt__metrics_open(p), MPCC_OK);
  memcpy(batch, averages[_i].count, sizeof averages[_i].count);
  for (int w = 0; w < 3; w++) {
    for (int i = 1; i < 4; i++)
      json_object_set_new(p->attrs[i], "average", json_string(words[w]));
    mprt__metrics_clear(p);
    mprt__metrics_add(p, false);
    mprt__metrics_settle(p, false);
    for (int i = 0; i < 3; i++)
      ck_assert_msg(fabs(p->metrics.value[1 + i].value - averages[_i].value[w][i]) < 1e-15,
                    "%s, %s: %.17g", averages[_i].what, words[w], p->metrics.value[1 + i].value);
  }
  mprt__metrics_close(p);
  close_metrics(p);
}
END_TEST

START_TEST(metrics_by_hand) {
  float batch[11] = {4, 1, 0, 2, 3, 0, 0, 0, 0, 2, 4};
  mprt_program *p = metrics_program(batch);
  ck_assert_int_eq(mprt_metric_count(p), 8);
  ck_assert_int_eq(mprt__metrics_open(p), MPCC_OK);
  mprt__metrics_clear(p);
  mprt__metrics_add(p, false);
  mprt__metrics_add(p, false);
  mprt__metrics_settle(p, false);
  const mprt_metric *v = p->metrics.value;
  ck_assert_int_eq(v[0].classes, 3);
  ck_assert_double_eq(v[0].matrix[3], 4); /* twice 2 */
  ck_assert(isnan(v[0].value));
  /* class 0: tp 4 fp 2 fn 1; class 1: tp 3 fp 1 fn 2; class 2 occurs nowhere */
  ck_assert_double_eq_tol(v[1].value, (4.0 / 6 + 3.0 / 4) / 2, 1e-15);
  ck_assert_double_eq_tol(v[2].value, (4.0 / 5 + 3.0 / 5) / 2, 1e-15);
  ck_assert_double_eq_tol(v[3].value, (8.0 / 11 + 6.0 / 9) / 2, 1e-15);
  for (int i = 4; i < 7; i++)
    ck_assert_double_eq_tol(v[i].value, 0.7, 1e-15);
  ck_assert_double_eq_tol(v[7].value, exp(0.5), 1e-15);
  ck_assert_double_eq(mprt__metric_value(p, "val/ppl", 9), v[7].value);
  ck_assert_double_eq(mprt__metric_value(p, "val/loss", 9), 9);
  mprt__metrics_settle(p, true); /* training writes none of them */
  ck_assert(isnan(v[7].value));
  mprt__metrics_close(p);
  close_metrics(p);
}
END_TEST

int main(void) {
  Suite *s = suite_create("monitor");
  TCase *tc = tcase_create("monitor");
  tcase_add_loop_test(tc, training_stops_early, 0, sizeof stops / sizeof *stops);
  tcase_add_test(tc, patience_survives_a_resume);
  tcase_add_test(tc, metrics_by_hand);
  tcase_add_loop_test(tc, metrics_averaged, 0, sizeof averages / sizeof *averages);
  suite_add_tcase(s, tc);
  return check_run(s);
}
