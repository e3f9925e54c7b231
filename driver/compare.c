/* `mpcc compare`: one spec trained in several modes, side by side. */
#include "driver/compare.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "driver/exit.h"
#include "driver/link.h"
#include "driver/run.h"
#include "report/chart.h"

enum { MAX_COLUMNS = 16, MAX_RESULTS = 24, EXIT_DIVERGED = 10 };

/* A measure of an evaluation, the newest of its name. */
typedef struct {
  char name[80]; /* "val loss", "test acc" */
  double value;
} Result;

/* One mode. */
typedef struct {
  const char *mode;
  void *image;
  size_t image_bytes;
  double compile_s;
  double *step, *loss, *seconds; /* per step; seconds: NAN where other work came between */
  size_t n, cap;
  double last; /* time of the last step; 0: what is between is not one step */
  int64_t memory, skipped;
  Result result[MAX_RESULTS];
  int nresult;
  bool diverged, no_memory;
} Column;

static double now_s(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- watching a run -------------------------------------------------------------------------- */

static bool grow(Column *c) {
  if (c->n < c->cap)
    return true;
  size_t cap = c->cap ? 2 * c->cap : 256;
  double **list[] = {&c->step, &c->loss, &c->seconds};
  for (int i = 0; i < 3; i++) {
    double *p = realloc(*list[i], cap * sizeof *p);
    if (!p)
      return false;
    *list[i] = p;
  }
  c->cap = cap;
  return true;
}

static void put_result(Column *c, const char *split, const char *name, double value) {
  char full[80];
  snprintf(full, sizeof full, "%s %s", split, name);
  int i = 0;
  while (i < c->nresult && strcmp(c->result[i].name, full))
    i++;
  if (isnan(value) || i == MAX_RESULTS)
    return;
  if (i == c->nresult)
    c->nresult++;
  snprintf(c->result[i].name, sizeof c->result[i].name, "%s", full);
  c->result[i].value = value;
}

static void watch(void *user, const mprt_event *e) {
  Column *c = user;
  double now = now_s();
  if (e->kind == MPRT_EVENT_STEP) {
    if (!grow(c)) {
      c->no_memory = true;
      return;
    }
    c->step[c->n] = (double)e->step;
    c->loss[c->n] = e->loss;
    c->seconds[c->n++] = c->last > 0 ? now - c->last : NAN;
    c->memory = e->memory_bytes;
    c->skipped = e->skipped;
    c->last = now;
    return;
  }
  if (e->kind == MPRT_EVENT_EVAL) {
    put_result(c, e->split, "loss", e->loss);
    for (int i = 0; i < e->nmetric; i++)
      put_result(c, e->split, e->metric[i].name, e->metric[i].value);
  }
  c->diverged |= e->kind == MPRT_EVENT_DIVERGED;
  c->last = 0;
}

/* ---- figures --------------------------------------------------------------------------------- */

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* Median seconds of a step; NAN: no two steps followed each other. */
static double median_step(const Column *c) {
  double *s = malloc((c->n + 1) * sizeof *s), median = NAN;
  size_t n = 0;
  for (size_t i = 0; s && i < c->n; i++)
    if (!isnan(c->seconds[i]))
      s[n++] = c->seconds[i];
  if (n) {
    qsort(s, n, sizeof *s, ascending);
    median = (s[(n - 1) / 2] + s[n / 2]) / 2;
  }
  free(s);
  return median;
}

/* Mean loss of the last tenth of the steps, at least one: single batches scatter. */
static double final_loss(const Column *c) {
  size_t n = c->n >= 10 ? c->n / 10 : c->n ? 1 : 0;
  double sum = 0;
  for (size_t i = c->n - n; i < c->n; i++)
    sum += c->loss[i];
  return n ? sum / (double)n : NAN;
}

/* Figures of a table: one row per line, one value per column. */
typedef struct {
  const char *name, *format;
  double value[MAX_COLUMNS];
} Line;

enum { MAX_LINES = 6 + MAX_RESULTS };

static int lines_of(const Column *c, int n, Line *line) {
  enum { COMPILE, STEP, SPEED, MEMORY, SHARE, LOSS, FIXED };
  static const Line head[FIXED] = {[COMPILE] = {.name = "compile, s", .format = "%.2f"},
                                   [STEP] = {.name = "step, ms", .format = "%.2f"},
                                   [SPEED] = {.name = "speed", .format = "%.2fx"},
                                   [MEMORY] = {.name = "memory, MiB", .format = "%.1f"},
                                   [SHARE] = {.name = "memory ratio", .format = "%.2f"},
                                   [LOSS] = {.name = "train loss", .format = "%.4f"}};
  int count = FIXED;
  memcpy(line, head, sizeof head);
  for (int k = 0; k < n; k++) {
    line[COMPILE].value[k] = c[k].compile_s;
    line[STEP].value[k] = 1e3 * median_step(&c[k]);
    line[SPEED].value[k] = line[STEP].value[0] / line[STEP].value[k];
    line[MEMORY].value[k] = (double)c[k].memory / 0x1p20;
    line[SHARE].value[k] = (double)c[k].memory / (double)c[0].memory;
    line[LOSS].value[k] = final_loss(&c[k]);
    for (int i = 0; i < c[k].nresult; i++) {
      int at = FIXED;
      while (at < count && strcmp(line[at].name, c[k].result[i].name))
        at++;
      if (at == MAX_LINES)
        continue;
      if (at == count) {
        line[count++] = (Line){.name = c[k].result[i].name, .format = "%.4f"};
        for (int j = 0; j < n; j++)
          line[at].value[j] = NAN;
      }
      line[at].value[k] = c[k].result[i].value;
    }
  }
  return count;
}

/* What a column has to say besides figures; "" for nothing. */
static void remark(const Column *c, char *out, size_t size) {
  out[0] = 0;
  if (c->diverged)
    snprintf(out, size, "diverged at step %.0f", c->n ? c->step[c->n - 1] : 0);
  else if (c->skipped)
    snprintf(out, size, "%lld skipped", (long long)c->skipped);
}

static void cell(const Line *l, int k, char *out, size_t size) {
  if (isfinite(l->value[k]))
    snprintf(out, size, l->format, l->value[k]);
  else
    snprintf(out, size, "-");
}

/* ---- outputs --------------------------------------------------------------------------------- */

static void put_table(FILE *out, const Column *c, int n) {
  Line line[MAX_LINES];
  int count = lines_of(c, n, line);
  char text[64];
  bool remarks = false;
  fprintf(out, "%-14s", "");
  for (int k = 0; k < n; k++)
    fprintf(out, "  %*s", (int)fmax(12, (double)strlen(c[k].mode)), c[k].mode);
  for (int i = 0; i < count; i++) {
    fprintf(out, "\n%-14s", line[i].name);
    for (int k = 0; k < n; k++) {
      cell(&line[i], k, text, sizeof text);
      fprintf(out, "  %*s", (int)fmax(12, (double)strlen(c[k].mode)), text);
    }
  }
  putc('\n', out);
  for (int k = 0; k < n; k++) {
    remark(&c[k], text, sizeof text);
    if (*text)
      fprintf(out, "%s%s: %s\n", remarks ? "" : "\n", c[k].mode, text);
    remarks |= *text != 0;
  }
}

static json_t *number_or_null(double v) {
  return isfinite(v) ? json_real(v) : json_null();
}

static json_t *column_json(const Column *c) {
  json_t *o = json_object(), *results = json_object(), *loss = json_array();
  for (int i = 0; i < c->nresult; i++)
    json_object_set_new(results, c->result[i].name, number_or_null(c->result[i].value));
  for (size_t i = 0; i < c->n; i++)
    json_array_append_new(loss, number_or_null(c->loss[i]));
  json_object_set_new(o, "precision", json_string(c->mode));
  json_object_set_new(o, "compile_seconds", json_real(c->compile_s));
  json_object_set_new(o, "step_seconds", number_or_null(median_step(c)));
  json_object_set_new(o, "memory_bytes", json_integer(c->memory));
  json_object_set_new(o, "steps", json_integer((json_int_t)c->n));
  json_object_set_new(o, "skipped", json_integer(c->skipped));
  json_object_set_new(o, "diverged", json_boolean(c->diverged));
  json_object_set_new(o, "train_loss", number_or_null(final_loss(c)));
  json_object_set_new(o, "results", results);
  json_object_set_new(o, "loss", loss);
  return o;
}

static void put_json(FILE *out, const char *input, const Column *c, int n) {
  json_t *o = json_object(), *list = json_array();
  for (int k = 0; k < n; k++)
    json_array_append_new(list, column_json(&c[k]));
  json_object_set_new(o, "spec", json_string(input));
  json_object_set_new(o, "columns", list);
  char *text = json_dumps(o, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
  if (text)
    fprintf(out, "%s\n", text);
  free(text);
  json_decref(o);
}

static void put_html_table(FILE *out, const Column *c, int n) {
  Line line[MAX_LINES];
  int count = lines_of(c, n, line);
  char text[64];
  fputs("<table><tr><th></th>", out);
  for (int k = 0; k < n; k++) {
    fputs("<th>", out);
    chart_text(out, c[k].mode);
    fputs("</th>", out);
  }
  for (int i = 0; i < count; i++) {
    fputs("</tr>\n<tr><td>", out);
    chart_text(out, line[i].name);
    for (int k = 0; k < n; k++) {
      cell(&line[i], k, text, sizeof text);
      fprintf(out, "</td><td>%s", text);
    }
    fputs("</td>", out);
  }
  fputs("</tr></table>\n", out);
  for (int k = 0; k < n; k++) {
    remark(&c[k], text, sizeof text);
    if (*text)
      fprintf(out, "<p>%s: %s</p>\n", c[k].mode, text);
  }
}

/* Means of so many neighbouring steps that a chart has at most 200 points: one batch says little.
 */
static size_t smooth(const Column *c, double *x, double *y) {
  size_t width = (c->n + 199) / 200, n = 0;
  for (size_t i = 0; width && i + width <= c->n; i += width, n++) {
    double sum = 0;
    for (size_t k = 0; k < width; k++)
      sum += c->loss[i + k];
    x[n] = c->step[i + width - 1];
    y[n] = sum / (double)width;
  }
  return n;
}

static void put_html(FILE *out, const char *input, const Column *c, int n) {
  ChartSeries series[MAX_COLUMNS];
  double *points = calloc((size_t)n * 2 * 200, sizeof *points), bar[2][MAX_COLUMNS];
  const char *name[MAX_COLUMNS];
  for (int k = 0; points && k < n; k++) {
    double *x = points + k * 400, *y = x + 200;
    series[k] = (ChartSeries){c[k].mode, x, y, smooth(&c[k], x, y)};
    name[k] = c[k].mode;
    bar[0][k] = 1e3 * median_step(&c[k]);
    bar[1][k] = (double)c[k].memory / 0x1p20;
  }
  char title[300];
  const char *slash = strrchr(input, '/');
  snprintf(title, sizeof title, "%s in %d precisions", slash ? slash + 1 : input, n);
  chart_page_begin(out, title);
  fprintf(out,
          "<p>Same seed, same data, %zu steps, one mode after the other on this machine. "
          "Step: median time. Train loss: mean of the last tenth of the steps.</p>\n",
          c[0].n);
  put_html_table(out, c, n);
  if (points) {
    chart_lines(out, "Training loss", "step", series, n);
    chart_bars(out, "Time of a step", "ms", name, bar[0], n);
    chart_bars(out, "Memory", "MiB", name, bar[1], n);
  }
  chart_page_end(out);
  free(points);
}

typedef void Writer(FILE *out, const char *input, const Column *c, int n);

static void write_table(FILE *out, const char *input, const Column *c, int n) {
  (void)input;
  put_table(out, c, n);
}

static int write_with(Writer *writer, const char *path, const char *input, const Column *c, int n) {
  char *text = NULL;
  size_t size = 0;
  FILE *f = open_memstream(&text, &size);
  if (!f)
    return exit_code(MPCC_ERR_NOMEM);
  writer(f, input, c, n);
  int code = fclose(f) ? exit_code(MPCC_ERR_NOMEM) : write_file(path, text, size, 0);
  free(text);
  return code;
}

/* ---- the command ----------------------------------------------------------------------------- */

/* Words of "A,B,C" in place; 0, or an exit code after a message. */
static int take_modes(char *list, Column *c, int *n) {
  for (char *save = NULL, *word = strtok_r(list, ",", &save); word;
       word = strtok_r(NULL, ",", &save)) {
    if (*n == MAX_COLUMNS) {
      fprintf(stderr, "mpcc: error: --precisions takes at most %d modes\n", MAX_COLUMNS);
      return 2;
    }
    c[(*n)++].mode = word;
  }
  if (*n)
    return 0;
  fputs("mpcc: error: --precisions names no mode\n", stderr);
  return 2;
}

/* All modes are compiled before the first one trains: a word that is no mode shows at once. */
static int compile_all(const Args *a, const mpcc_callbacks *cb, const char *input, const char *text,
                       size_t len, Column *c, int n) {
  int code = 0;
  char *from = NULL;
  if (a->precisions && asprintf(&from, "--precisions=%s", a->precisions) < 0)
    return exit_code(MPCC_ERR_NOMEM);
  for (int k = 0; k < n && !code; k++) {
    mpcc_options o = a->options;
    o.precision = c[k].mode;
    o.precision_from = from;
    mpcc_session *s = mpcc_session_create(&o, cb);
    double start = now_s();
    code = s ? exit_code(mpcc_compile(s, input, text, len, MPCC_OUT_IMAGE, &c[k].image,
                                      &c[k].image_bytes))
             : exit_code(MPCC_ERR_NOMEM);
    c[k].compile_s = now_s() - start;
    mpcc_session_destroy(s);
  }
  free(from);
  return code;
}

/* Folder that the runs of all modes lie in: --out, which is taken out of argv, or
 * runs/compare-NAME. */
static void take_out(char **argv, int *argc, const char *input, char *out, size_t size) {
  const char *slash = strrchr(input, '/'), *base = slash ? slash + 1 : input;
  snprintf(out, size, "runs/compare-%.*s", (int)strcspn(base, "."), base);
  int kept = 1;
  for (int i = 1; i < *argc; i++)
    if (!strncmp(argv[i], "--out=", 6))
      snprintf(out, size, "%s", argv[i] + 6);
    else if (!strcmp(argv[i], "--out") && i + 1 < *argc)
      snprintf(out, size, "%s", argv[++i]);
    else
      argv[kept++] = argv[i];
  *argc = kept;
}

static int train(const Args *a, const char *input, Column *c) {
  char folder[4000], out[4096];
  char **argv = calloc((size_t)a->nrest + 3, sizeof *argv);
  if (!argv)
    return exit_code(MPCC_ERR_NOMEM);
  memcpy(argv, a->rest, (size_t)a->nrest * sizeof *argv);
  int argc = a->nrest;
  take_out(argv, &argc, input, folder, sizeof folder);
  snprintf(out, sizeof out, "--out=%s/%s", folder, c->mode);
  argv[argc++] = out;
  Program p = {.image = c->image,
               .image_bytes = c->image_bytes,
               .out = stderr,
               .watch = watch,
               .watch_user = c};
  fprintf(stderr, "%s: %s\n", input, c->mode);
  int code = run_image(p, input, argc, argv);
  free(argv);
  if (code == EXIT_DIVERGED)
    c->diverged = true;
  else if (code)
    return code;
  return c->no_memory ? exit_code(MPCC_ERR_NOMEM) : 0;
}

static void column_free(Column *c) {
  free(c->image);
  free(c->step);
  free(c->loss);
  free(c->seconds);
}

int compare_spec(const Args *a, const mpcc_callbacks *cb, const char *input, const char *text,
                 size_t len) {
  Column column[MAX_COLUMNS] = {{0}};
  char *list =
      strdup(a->precisions ? a->precisions : "32-true,bf16-mixed,16-mixed,transformer-engine");
  int n = 0, code = list ? take_modes(list, column, &n) : exit_code(MPCC_ERR_NOMEM);
  if (!code)
    code = check_writable(a->output);
  if (!code)
    code = check_writable(a->html);
  if (!code)
    code = compile_all(a, cb, input, text, len, column, n);
  for (int k = 0; k < n && !code; k++)
    code = train(a, input, &column[k]);
  if (!code)
    code = write_with(a->json_result ? put_json : write_table, a->output ? a->output : "-", input,
                      column, n);
  if (!code && a->html)
    code = write_with(put_html, a->html, input, column, n);
  for (int k = 0; k < n; k++)
    column_free(&column[k]);
  free(list);
  return code;
}
