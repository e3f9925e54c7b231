/* The progress line, and what a report prints where. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "report/report.h"
#include "tests/check_run.h"

static mprt_event event(void) {
  return (mprt_event){.kind = MPRT_EVENT_STEP,
                      .logged = true,
                      .step = 1200,
                      .total_steps = 14060,
                      .epoch = 2,
                      .total_epochs = 10,
                      .loss = 0.412,
                      .grad_norm = 0.93,
                      .lr = 2.7e-5,
                      .samples_per_s = 1842.4,
                      .data_wait = 0.012,
                      .eta_s = 751,
                      .memory_bytes = (int64_t)(17.9 * 0x1p30)};
}

static void check_text(const mprt_event *e, const char *want) {
  char text[400];
  report_progress_text(e, text, sizeof text);
  ck_assert_str_eq(text, want);
}

START_TEST(whole_line) {
  mprt_event e = event();
  e.scale = 65536;
  e.skipped = 2;
  check_text(&e,
             "epoch 3/10  step 1200/14060 ( 8.5%)  loss 0.412  lr 2.7e-05  |g| 0.93  scale 65536"
             "  skipped 2  1 842 samples/s  17.9 GiB  data 1%  ETA 0:12:31");
}
END_TEST

START_TEST(parts_that_may_lack) {
  mprt_event e = event();
  e.total_steps = e.total_epochs = 0;
  e.eta_s = -1;
  e.memory_bytes = 3 << 19;
  e.samples_per_s = 1234567;
  check_text(&e,
             "epoch 3  step 1200  loss 0.412  lr 2.7e-05  |g| 0.93  1 234 567 samples/s  1.5 MiB"
             "  data 1%");
  e = event();
  e.loss = NAN;
  e.grad_norm = INFINITY;
  e.step = e.total_steps;
  e.eta_s = 100 * 3600 + 59.6;
  e.samples_per_s = 0;
  check_text(&e, "epoch 3/10  step 14060/14060 (100.0%)  loss nan  lr 2.7e-05  |g| inf  0 samples/s"
                 "  17.9 GiB  data 1%  ETA 100:01:00");
}
END_TEST

/* Any buffer: always terminated, a beginning of the whole. */
START_TEST(short_buffers) {
  mprt_event e = event();
  char whole[400], part[400];
  report_progress_text(&e, whole, sizeof whole);
  for (size_t size = 1; size < strlen(whole) + 2; size++) {
    memset(part, 'x', sizeof part);
    report_progress_text(&e, part, size);
    ck_assert_uint_lt(strlen(part), size);
    ck_assert_int_eq(strncmp(part, whole, strlen(part)), 0);
    ck_assert_int_eq(part[size], 'x');
  }
}
END_TEST

/* A narrow terminal: what says least is left out, and no line is longer than asked for. */
START_TEST(narrow) {
  static const struct {
    int columns;
    const char *want;
  } cases[] = {
      {200, "epoch 3/10  step 1200/14060 ( 8.5%)  loss 0.412  lr 2.7e-05  |g| 0.93  scale 65536"
            "  1 842 samples/s  17.9 GiB  data 1%  ETA 0:12:31"},
      {119, "epoch 3/10  step 1200/14060 ( 8.5%)  loss 0.412  lr 2.7e-05  |g| 0.93  scale 65536"
            "  1 842 samples/s  ETA 0:12:31"},
      {79, "epoch 3/10  step 1200/14060 ( 8.5%)  loss 0.412  1 842 samples/s  ETA 0:12:31"},
      {70, "epoch 3/10  step 1200/14060 ( 8.5%)  loss 0.412  |g| 0.93  ETA 0:12:31"},
      {55, "step 1200/14060 ( 8.5%)  loss 0.412  ETA 0:12:31"},
      {29, "step 1200  loss 0.412"},
      {10, "step 1200 "},
      {0, ""},
  };
  mprt_event e = event();
  e.scale = 65536;
  char text[400];
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    report_progress_fit(&e, cases[i].columns, text, sizeof text);
    ck_assert_str_eq(text, cases[i].want);
    ck_assert_int_le((int)strlen(text), cases[i].columns);
  }
}
END_TEST

/* What a report without a terminal writes for these events. */
static char *printed(bool quiet, const mprt_event *events, int n) {
  char *text = NULL;
  FILE *f = tmpfile();
  ck_assert(f != NULL);
  ReportOptions o = {.program = "prog", .out = f, .quiet = quiet};
  Report *r = report_create(&o);
  for (int i = 0; i < n; i++)
    report_event(r, &events[i]);
  report_destroy(r);
  long size = ftell(f);
  rewind(f);
  text = calloc(1, (size_t)size + 1);
  ck_assert_uint_eq(fread(text, 1, (size_t)size, f), (size_t)size);
  fclose(f);
  return text;
}

START_TEST(lines_on_a_pipe) {
  mprt_event step = event(), silent = event();
  silent.logged = false;
  mprt_metric acc = {.name = "acc", .value = 0.25};
  mprt_event eval = {.kind = MPRT_EVENT_EVAL,
                     .step = 7,
                     .split = "val",
                     .loss = 0.5,
                     .nmetric = 1,
                     .metric = &acc};
  mprt_event no_accuracy = eval;
  no_accuracy.nmetric = 0;
  const mprt_event list[] = {step, silent, eval, no_accuracy, {.kind = MPRT_EVENT_END}};
  char line[400], want[1000];
  report_progress_text(&step, line, sizeof line);
  snprintf(want, sizeof want,
           "%s\nval  step 7  loss 0.5000  acc 0.2500\nval  step 7  loss 0.5000\n", line);
  char *got = printed(false, list, 5);
  ck_assert_str_eq(got, want);
  free(got);
  got = printed(true, list, 5);
  ck_assert_str_eq(got, "");
  free(got);
}
END_TEST

int main(void) {
  Suite *s = suite_create("progress");
  TCase *tc = tcase_create("progress");
  tcase_add_test(tc, whole_line);
  tcase_add_test(tc, parts_that_may_lack);
  tcase_add_test(tc, short_buffers);
  tcase_add_test(tc, narrow);
  tcase_add_test(tc, lines_on_a_pipe);
  suite_add_tcase(s, tc);
  return check_run(s);
}
