/* metrics.jsonl and metrics.csv: one row per logged step or evaluation. After a resume the files go
 * on; rows later than the checkpoint and those of an earlier end are cut: a file tells one
 * history. */
#include <errno.h>
#include <math.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "report/report.h"

/* Columns: the metrics of the spec stand between loss and lr; a confusion matrix has none. */
static void put_header(FILE *f, const mprt_event *e) {
  fputs("step,epoch,split,loss", f);
  for (int i = 0; i < e->nmetric; i++)
    if (!e->metric[i].classes)
      fprintf(f, ",%s", e->metric[i].name);
  fputs(",lr,grad_norm,scale,skipped,throughput,data_wait,memory\n", f);
}

/* Step number of a row of either file; -1 for the header or anything else. */
static long long row_step(const char *line, bool jsonl) {
  const char *p = jsonl ? strstr(line, "\"step\":") : line;
  if (!p)
    return -1;
  if (jsonl)
    p += strlen("\"step\":");
  char *end;
  long long v = strtoll(p, &end, 10);
  return end == p ? -1 : v;
}

/* What the end of a run measured: a run that goes on has another end. */
static bool row_of_test(const char *line, bool jsonl) {
  return strstr(line, jsonl ? "\"split\":\"test\"" : ",test,") != NULL;
}

static FILE *open_cut(const char *dir, const char *name, bool jsonl, const mprt_event *e,
                      char *error, size_t size) {
  int64_t step = e->step;
  char path[4096];
  if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path) {
    snprintf(error, size, "path too long: %s/%s", dir, name);
    return NULL;
  }
  FILE *f = fopen(path, step > 0 ? "r+" : "w");
  if (!f && step > 0 && errno == ENOENT)
    f = fopen(path, "w");
  if (!f) {
    snprintf(error, size, "cannot write %s: %s", path, strerror(errno));
    return NULL;
  }
  if (step > 0) {
    char *line = NULL;
    size_t cap = 0;
    long keep = 0;
    ssize_t n; /* a row without an end was being written when the run was killed */
    while ((n = getline(&line, &cap, f)) > 0 && line[n - 1] == '\n' &&
           row_step(line, jsonl) <= step && !row_of_test(line, jsonl))
      keep = ftell(f);
    free(line);
    fflush(f);
    if (ftruncate(fileno(f), keep) || fseek(f, keep, SEEK_SET))
      snprintf(error, size, "cannot cut %s: %s", path, strerror(errno));
  }
  if (!jsonl && ftell(f) == 0)
    put_header(f, e);
  return f;
}

bool metrics_files_open(MetricsFiles *m, bool jsonl, bool csv, const mprt_event *e, char *error,
                        size_t size) {
  metrics_files_close(m);
  error[0] = 0;
  if (jsonl)
    m->jsonl = open_cut(e->path, "metrics.jsonl", true, e, error, size);
  if (csv)
    m->csv = open_cut(e->path, "metrics.csv", false, e, error, size);
  return !error[0];
}

static void put_json(FILE *f, const char *key, double v) {
  if (isfinite(v))
    fprintf(f, ",\"%s\":%.9g", key, v);
  else /* JSON has no NaN: Python's json module reads and writes these words */
    fprintf(f, ",\"%s\":%s", key, isnan(v) ? "NaN" : v > 0 ? "Infinity" : "-Infinity");
}

/* A number, or the rows of a matrix; what was not measured is left out. */
static void put_metric(FILE *f, const mprt_metric *m) {
  if (!isnan(m->value))
    put_json(f, m->name, m->value);
  if (!m->matrix)
    return;
  fprintf(f, ",\"%s\":", m->name);
  for (int i = 0; i < m->classes; i++)
    for (int k = 0; k < m->classes; k++)
      fprintf(f, "%s%.15g%s",
              k   ? ","
              : i ? ",["
                  : "[[",
              m->matrix[(size_t)i * (size_t)m->classes + (size_t)k],
              k + 1 < m->classes   ? ""
              : i + 1 < m->classes ? "]"
                                   : "]]");
}

static void put_json_row(FILE *f, const mprt_event *e) {
  bool step = e->kind == MPRT_EVENT_STEP;
  fprintf(f, "{\"step\":%lld,\"epoch\":%lld", (long long)e->step, (long long)e->epoch);
  if (!step)
    fprintf(f, ",\"split\":\"%s\"", e->split);
  put_json(f, "loss", e->loss);
  for (int i = 0; i < e->nmetric; i++)
    if (!step || !e->metric[i].classes)
      put_metric(f, &e->metric[i]);
  if (step) {
    put_json(f, "lr", e->lr);
    put_json(f, "grad_norm", e->grad_norm);
    if (e->scale > 0)
      put_json(f, "scale", e->scale);
    fprintf(f, ",\"skipped\":%lld", (long long)e->skipped);
    put_json(f, "throughput", e->samples_per_s);
    put_json(f, "data_wait", e->data_wait);
    fprintf(f, ",\"memory\":%lld", (long long)e->memory_bytes);
  }
  fputs("}\n", f);
}

static void put_csv_row(FILE *f, const mprt_event *e) {
  bool step = e->kind == MPRT_EVENT_STEP;
  fprintf(f, "%lld,%lld,%s,%.9g", (long long)e->step, (long long)e->epoch,
          step ? "train" : e->split, e->loss);
  for (int i = 0; i < e->nmetric; i++)
    if (!e->metric[i].classes)
      fprintf(f, isnan(e->metric[i].value) ? "," : ",%.9g", e->metric[i].value);
  if (step)
    fprintf(f, ",%.9g,%.9g,%.9g,%lld,%.9g,%.9g,%lld\n", e->lr, e->grad_norm, e->scale,
            (long long)e->skipped, e->samples_per_s, e->data_wait, (long long)e->memory_bytes);
  else
    fputs(",,,,,,,\n", f);
}

bool report_append(FILE *f, const mprt_event *e, void (*put)(FILE *, const mprt_event *)) {
  char *row = NULL;
  size_t n = 0;
  FILE *memory = open_memstream(&row, &n);
  if (memory)
    put(memory, e);
  if (!memory || fclose(memory) || !row) {
    free(row);
    errno = ENOMEM;
    return false;
  }
  long at = ftell(f);
  bool whole = fwrite(row, 1, n, f) == n && !fflush(f);
  free(row);
  if (whole || at < 0)
    return whole;
  int why = errno;
  __fpurge(f);
  clearerr(f);
  if (!ftruncate(fileno(f), at) && !fseek(f, at, SEEK_SET))
    errno = why;
  return false;
}

bool metrics_files_row(MetricsFiles *m, const mprt_event *e) {
  bool json = !m->jsonl || report_append(m->jsonl, e, put_json_row);
  int why = errno;
  bool csv = !m->csv || report_append(m->csv, e, put_csv_row);
  if (!json)
    errno = why;
  return json && csv;
}

void metrics_files_close(MetricsFiles *m) {
  if (m->jsonl)
    fclose(m->jsonl);
  if (m->csv)
    fclose(m->csv);
  m->jsonl = m->csv = NULL;
}
