/* metrics.jsonl and metrics.csv: rows, a full disk, and cutting on a resume. */
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "report/report.h"
#include "tests/check_run.h"

static char dir[] = "/tmp/mpcc-metrics-XXXXXX";
static char jsonl[64], csv[64];

static void setup(void) {
  strcpy(dir + sizeof dir - 7, "XXXXXX");
  ck_assert(mkdtemp(dir) != NULL);
  snprintf(jsonl, sizeof jsonl, "%s/metrics.jsonl", dir);
  snprintf(csv, sizeof csv, "%s/metrics.csv", dir);
}

static void teardown(void) {
  unlink(jsonl);
  unlink(csv);
  rmdir(dir);
}

static char *slurp(const char *path) {
  FILE *f = fopen(path, "r");
  ck_assert(f != NULL);
  char *text = calloc(1, 1 << 16);
  ck_assert(fread(text, 1, (1 << 16) - 1, f) < (1 << 16) - 1);
  fclose(f);
  return text;
}

static void check_file(const char *path, const char *want) {
  char *text = slurp(path);
  ck_assert_str_eq(text, want);
  free(text);
}

static const double counts[4] = {5, 1, 0, 7};
static const mprt_metric none[2] = {{"acc", NAN, 0, NULL}, {"confusion", NAN, 2, counts}};
static const mprt_metric half[2] = {{"acc", 0.5, 0, NULL}, {"confusion", NAN, 2, counts}};

static mprt_event step_event(int64_t step) {
  return (mprt_event){.kind = MPRT_EVENT_STEP,
                      .logged = true,
                      .step = step,
                      .epoch = 2,
                      .skipped = 1,
                      .loss = 0.5,
                      .grad_norm = 1.25,
                      .nmetric = 2,
                      .metric = none,
                      .lr = 0.001,
                      .samples_per_s = 100,
                      .data_wait = 0.25,
                      .memory_bytes = 4096};
}

static mprt_event eval_event(int64_t step) {
  return (mprt_event){.kind = MPRT_EVENT_EVAL,
                      .step = step,
                      .epoch = 2,
                      .loss = 0.75,
                      .nmetric = 2,
                      .metric = half,
                      .split = "val"};
}

static void open_files(MetricsFiles *m, int64_t step) {
  char error[200];
  mprt_event e = {
      .kind = MPRT_EVENT_START, .step = step, .path = dir, .nmetric = 2, .metric = none};
  ck_assert_msg(metrics_files_open(m, true, true, &e, error, sizeof error), "%s", error);
}

/* Steps 1 to n, an evaluation after each tenth. */
static void write_run(MetricsFiles *m, int64_t from, int64_t to) {
  for (int64_t i = from; i <= to; i++) {
    mprt_event e = step_event(i);
    metrics_files_row(m, &e);
    if (i % 10 == 0) {
      e = eval_event(i);
      metrics_files_row(m, &e);
    }
  }
}

#define CSV_HEADER                                                                                 \
  "step,epoch,split,loss,acc,lr,grad_norm,scale,skipped,throughput,data_wait,memory\n"

START_TEST(rows) {
  MetricsFiles m = {0};
  open_files(&m, 0);
  mprt_event e = step_event(7);
  metrics_files_row(&m, &e);
  e.scale = 65536;
  e.metric = half;
  e.loss = NAN;
  e.grad_norm = INFINITY;
  metrics_files_row(&m, &e);
  e = eval_event(7);
  metrics_files_row(&m, &e);
  metrics_files_close(&m);
  check_file(csv, CSV_HEADER "7,2,train,0.5,,0.001,1.25,0,1,100,0.25,4096\n"
                             "7,2,train,nan,0.5,0.001,inf,65536,1,100,0.25,4096\n"
                             "7,2,val,0.75,0.5,,,,,,,\n");
  check_file(jsonl,
             "{\"step\":7,\"epoch\":2,\"loss\":0.5,\"lr\":0.001,\"grad_norm\":1.25,\"skipped\":1,"
             "\"throughput\":100,\"data_wait\":0.25,\"memory\":4096}\n"
             "{\"step\":7,\"epoch\":2,\"loss\":NaN,\"acc\":0.5,\"lr\":0.001,"
             "\"grad_norm\":Infinity,\"scale\":65536,\"skipped\":1,\"throughput\":100,"
             "\"data_wait\":0.25,\"memory\":4096}\n"
             "{\"step\":7,\"epoch\":2,\"split\":\"val\",\"loss\":0.75,\"acc\":0.5,\"confusion\":[["
             "5,1],[0,7]]}\n");
}
END_TEST

/* As on a full disk: rows that do not fit leave no trace, those behind them are written. */
START_TEST(what_does_not_fit) {
  MetricsFiles m = {0};
  open_files(&m, 0);
  mprt_event e = step_event(1);
  ck_assert(metrics_files_row(&m, &e));
  signal(SIGXFSZ, SIG_IGN);
  const struct rlimit little = {150, RLIM_INFINITY}, all = {RLIM_INFINITY, RLIM_INFINITY};
  setrlimit(RLIMIT_FSIZE, &little);
  e = step_event(2);
  bool kept = metrics_files_row(&m, &e);
  int why = errno;
  setrlimit(RLIMIT_FSIZE, &all); /* Check writes files of its own */
  ck_assert(!kept && why == EFBIG);
  e = step_event(3);
  ck_assert(metrics_files_row(&m, &e));
  metrics_files_close(&m);
  check_file(csv, CSV_HEADER "1,2,train,0.5,,0.001,1.25,0,1,100,0.25,4096\n"
                             "3,2,train,0.5,,0.001,1.25,0,1,100,0.25,4096\n");
  check_file(jsonl, "{\"step\":1,\"epoch\":2,\"loss\":0.5,\"lr\":0.001,\"grad_norm\":1.25,"
                    "\"skipped\":1,\"throughput\":100,\"data_wait\":0.25,\"memory\":4096}\n"
                    "{\"step\":3,\"epoch\":2,\"loss\":0.5,\"lr\":0.001,\"grad_norm\":1.25,"
                    "\"skipped\":1,\"throughput\":100,\"data_wait\":0.25,\"memory\":4096}\n");
}
END_TEST

START_TEST(rows_are_json_and_columns) {
  MetricsFiles m = {0};
  open_files(&m, 0);
  write_run(&m, 1, 20);
  metrics_files_close(&m);
  char *text = slurp(jsonl);
  int n = 0;
  for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"), n++) {
    json_t *o = json_loads(line, 0, NULL);
    ck_assert_msg(json_is_object(o), "%s", line);
    ck_assert(json_is_integer(json_object_get(o, "step")));
    json_decref(o);
  }
  ck_assert_int_eq(n, 22);
  free(text);
  text = slurp(csv);
  n = 0;
  for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"), n++) {
    int commas = 0;
    for (char *p = line; *p; p++)
      commas += *p == ',';
    ck_assert_int_eq(commas, 11);
  }
  ck_assert_int_eq(n, 23);
  free(text);
}
END_TEST

/* A run that was resumed from any step leaves the files of one that was not stopped. */
START_TEST(resume_cuts) {
  MetricsFiles m = {0};
  open_files(&m, 0);
  write_run(&m, 1, 30);
  metrics_files_close(&m);
  char *want_jsonl = slurp(jsonl), *want_csv = slurp(csv);
  for (int64_t at = 1; at <= 30; at++) {
    open_files(&m, at);
    write_run(&m, at + 1, 30);
    metrics_files_close(&m);
    check_file(jsonl, want_jsonl);
    check_file(csv, want_csv);
  }
  free(want_jsonl);
  free(want_csv);
}
END_TEST

/* A row that a kill left unfinished goes, also when its step number is cut to a smaller one. */
START_TEST(torn_rows_go) {
  MetricsFiles m = {0};
  open_files(&m, 0);
  write_run(&m, 1, 15);
  metrics_files_close(&m);
  char *want_jsonl = slurp(jsonl), *want_csv = slurp(csv);
  static const char *const torn[][2] = {{"{\"step\":16,\"ep", "16,2,tra"},
                                        {"{\"step\":1", "1"},
                                        {"{", ","},
                                        {"{\"st", "2,2,train,0.5,,0."}};
  for (size_t i = 0; i < sizeof torn / sizeof *torn; i++) {
    FILE *f = fopen(jsonl, "a");
    fputs(torn[i][0], f);
    fclose(f);
    f = fopen(csv, "a");
    fputs(torn[i][1], f);
    fclose(f);
    open_files(&m, 15);
    metrics_files_close(&m);
    check_file(jsonl, want_jsonl);
    check_file(csv, want_csv);
  }
  free(want_jsonl);
  free(want_csv);
}
END_TEST

/* Without a resume the files begin anew; a resume without files makes them. */
START_TEST(begin_and_absent) {
  MetricsFiles m = {0};
  open_files(&m, 12);
  write_run(&m, 13, 13);
  metrics_files_close(&m);
  char *text = slurp(csv);
  ck_assert(strstr(text, "\n13,2,train") != NULL);
  free(text);
  open_files(&m, 0);
  metrics_files_close(&m);
  check_file(csv, CSV_HEADER);
  check_file(jsonl, "");
}
END_TEST

START_TEST(folder_absent) {
  MetricsFiles m = {0};
  char error[200];
  mprt_event start = {.kind = MPRT_EVENT_START, .path = "/nowhere/at/all"};
  ck_assert(!metrics_files_open(&m, true, true, &start, error, sizeof error));
  ck_assert(strstr(error, "/nowhere/at/all/metrics") != NULL);
  mprt_event e = step_event(1);
  metrics_files_row(&m, &e); /* nothing to write to is no harm */
  metrics_files_close(&m);
}
END_TEST

int main(void) {
  Suite *s = suite_create("metrics_files");
  TCase *tc = tcase_create("metrics_files");
  tcase_add_checked_fixture(tc, setup, teardown);
  tcase_add_test(tc, rows);
  tcase_add_test(tc, what_does_not_fit);
  tcase_add_test(tc, rows_are_json_and_columns);
  tcase_add_test(tc, resume_cuts);
  tcase_add_test(tc, torn_rows_go);
  tcase_add_test(tc, begin_and_absent);
  tcase_add_test(tc, folder_absent);
  suite_add_tcase(s, tc);
  return check_run(s);
}
