/* report.html: one file without outside parts that shows a run as curves. It is drawn from
 * metrics.jsonl, so after a resume it shows the whole history. */
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "report/chart.h"
#include "report/report.h"

enum { MAX_SERIES = 128 };

typedef struct {
  char name[80];  /* "loss" */
  char split[40]; /* "train", "val" */
  double *x, *y;
  size_t n, cap;
} Series;

typedef struct {
  int n;
  Series item[MAX_SERIES];
  bool failed; /* memory */
} Data;

/* ---- reading ---- */

static Series *series_of(Data *d, const char *name, const char *split) {
  for (int i = 0; i < d->n; i++)
    if (!strcmp(d->item[i].name, name) && !strcmp(d->item[i].split, split))
      return &d->item[i];
  if (d->n == MAX_SERIES)
    return NULL;
  Series *s = &d->item[d->n++];
  snprintf(s->name, sizeof s->name, "%s", name);
  snprintf(s->split, sizeof s->split, "%s", split);
  return s;
}

static void add(Data *d, const char *name, const char *split, double x, double y) {
  Series *s = series_of(d, name, split);
  if (!s || d->failed)
    return;
  if (s->n == s->cap) {
    size_t cap = s->cap ? 2 * s->cap : 256;
    double *xs = realloc(s->x, cap * sizeof *xs), *ys = xs ? realloc(s->y, cap * sizeof *ys) : NULL;
    s->x = xs ? xs : s->x;
    s->y = ys ? ys : s->y;
    d->failed = !ys;
    if (d->failed)
      return;
    s->cap = cap;
  }
  s->x[s->n] = x;
  s->y[s->n++] = y;
}

/* metrics.jsonl has NaN and Infinity, words that JSON lacks: they become []. */
static void only_json(char *line) {
  static const char *const words[] = {":NaN", ":-Infinity", ":Infinity"};
  for (int i = 0; i < 3; i++)
    for (char *p = line; (p = strstr(p, words[i]));) {
      size_t n = strlen(words[i]);
      memset(p + 1, ' ', n - 1);
      memcpy(p + 1, "[]", 2);
      p += n;
    }
}

static void read_row(Data *d, char *line) {
  static const char *const no_curve[] = {"step", "split", "memory"};
  only_json(line);
  json_t *row = json_loads(line, 0, NULL), *value;
  const char *key, *split = json_string_value(json_object_get(row, "split"));
  double step = json_number_value(json_object_get(row, "step"));
  json_object_foreach(row, key, value) {
    bool curve = !json_is_array(value) || !json_array_size(value);
    for (size_t i = 0; i < sizeof no_curve / sizeof *no_curve; i++)
      curve = curve && strcmp(key, no_curve[i]);
    if (curve && (!split || strcmp(key, "epoch")))
      add(d, key, split ? split : "train", step, json_is_number(value) ? json_number_value(value) : NAN);
  }
  json_decref(row);
}

static void data_fini(Data *d) {
  for (int i = 0; i < d->n; i++) {
    free(d->item[i].x);
    free(d->item[i].y);
  }
}

/* ---- drawing ---- */

/* All series of one name in a chart, their last values in the title. */
static void draw_chart(FILE *f, const Data *d, const char *name) {
  ChartSeries series[MAX_SERIES];
  char title[400];
  int n = 0;
  size_t at = (size_t)snprintf(title, sizeof title, "%s", name);
  for (int i = 0; i < d->n; i++) {
    const Series *s = &d->item[i];
    if (strcmp(s->name, name) || !s->n)
      continue;
    series[n++] = (ChartSeries){s->split, s->x, s->y, s->n};
    if (at < sizeof title)
      at += (size_t)snprintf(title + at, sizeof title - at, "%s %s %.5g", n > 1 ? "," : ":", s->split,
                             s->y[s->n - 1]);
  }
  chart_lines(f, title, "step", series, n);
}

/* A text file of the run folder, folded away. */
static void put_file(FILE *f, const char *dir, const char *name) {
  char path[4200], chunk[4097];
  snprintf(path, sizeof path, "%s/%s", dir, name);
  FILE *in = fopen(path, "r");
  if (!in)
    return;
  fprintf(f, "<details><summary>%s</summary><pre style=\"overflow:auto;font-size:12px\">", name);
  for (size_t n; (n = fread(chunk, 1, sizeof chunk - 1, in)) > 0;) {
    chunk[n] = 0;
    chart_text(f, chunk);
  }
  fputs("</pre></details>\n", f);
  fclose(in);
}

/* The heading, and what run.json says. */
static void put_head(FILE *f, const char *dir) {
  char path[4200];
  snprintf(path, sizeof path, "%s/run.json", dir);
  json_t *run = json_load_file(path, 0, NULL), *value;
  const char *name = json_string_value(json_object_get(run, "name")), *key;
  chart_page_begin(f, name ? name : "run");
  fputs("<p>", f);
  json_object_foreach(run, key, value) {
    if (!strcmp(key, "name"))
      continue;
    fprintf(f, "%s ", key);
    if (json_is_integer(value))
      fprintf(f, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    else if (json_is_string(value))
      chart_text(f, json_string_value(value));
    fputs(" &nbsp; ", f);
  }
  fputs("</p>\n", f);
  json_decref(run);
}

/* 0: what a person looks for first, 1: metrics, 2: how the machine did, 3: not drawn. */
static int place_of(const char *name) {
  static const char *const places[3][4] = {{"loss", "lr", "grad_norm", "scale"},
                                           {NULL},
                                           {"skipped", "throughput", "data_wait"}};
  for (int k = 0; k < 3; k++)
    for (int i = 0; i < 4 && places[k][i]; i++)
      if (!strcmp(name, places[k][i]))
        return k;
  return strcmp(name, "epoch") ? 1 : 3;
}

static void draw_all(FILE *f, const Data *d) {
  for (int place = 0; place < 3; place++)
    for (int i = 0; i < d->n; i++) {
      bool shown = place_of(d->item[i].name) != place;
      for (int k = 0; k < i; k++)
        shown |= !strcmp(d->item[i].name, d->item[k].name);
      if (!shown)
        draw_chart(f, d, d->item[i].name);
    }
}

bool report_html_write(const char *dir, char *error, size_t size) {
  char path[4200], temporary[4250], *line = NULL;
  size_t cap = 0;
  snprintf(path, sizeof path, "%s/metrics.jsonl", dir);
  FILE *in = fopen(path, "r"), *f = NULL;
  Data *d = calloc(1, sizeof *d);
  while (in && d && getline(&line, &cap, in) > 0)
    read_row(d, line);
  snprintf(path, sizeof path, "%s/report.html", dir);
  snprintf(temporary, sizeof temporary, "%s.part", path);
  bool ok = in && d && !d->failed && (f = fopen(temporary, "w"));
  if (ok) {
    put_head(f, dir);
    draw_all(f, d);
    put_file(f, dir, "spec.resolved.yaml");
    put_file(f, dir, "plan.txt");
    chart_page_end(f);
  }
  ok = ok && !ferror(f);
  if (f)
    ok = !fclose(f) && ok;
  ok = ok && !rename(temporary, path);
  if (!ok)
    snprintf(error, size, "cannot write %s: %s", path, strerror(errno));
  if (in)
    fclose(in);
  if (d)
    data_fini(d);
  free(d);
  free(line);
  return ok;
}
