/* The progress line and messages on a terminal or pipe. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "report/report.h"

struct Report {
  ReportOptions o;
  bool terminal, line_open;
  bool lost; /* the newest row could not be written, which has been said */
  double last_draw;
  int64_t logged_step, logged_steps; /* newest row of metrics, steps that it is of */
  double logged_rate, logged_wait;
  size_t last_len;
  int64_t step, epoch; /* of the newest event */
  MetricsFiles files;
  FILE *tensorboard;
  char *dir; /* run folder; NULL: no run yet */
};

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

Report *report_create(const ReportOptions *o) {
  Report *r = calloc(1, sizeof *r);
  if (!r)
    return NULL;
  r->o = *o;
  r->terminal = isatty(fileno(o->out));
  return r;
}

void report_follow_spec(Report *r, const mprt_program *p) {
  const char *style = mprt_spec_text_at(p, "logging.progress", "auto");
  r->o.jsonl = mprt_spec_flag_at(p, "logging.jsonl", true);
  r->o.csv = mprt_spec_flag_at(p, "logging.csv", true);
  r->o.tensorboard = mprt_spec_flag_at(p, "logging.tensorboard", false);
  r->o.html = !strcmp(mprt_spec_text_at(p, "logging.report", "none"), "html");
  r->o.style = !strcmp(style, "line") ? 1 : !strcmp(style, "plain") ? 2 : 0;
  r->o.quiet |= !strcmp(style, "none");
  if (r->o.style)
    r->terminal = r->o.style == 1;
}

static void line_end(Report *r) {
  if (r->line_open)
    fputc('\n', r->o.out);
  r->line_open = false;
  r->last_len = 0;
}

void report_destroy(Report *r) {
  if (!r)
    return;
  line_end(r);
  fflush(r->o.out);
  metrics_files_close(&r->files);
  if (r->tensorboard)
    fclose(r->tensorboard);
  free(r->dir);
  free(r);
}

void report_log(void *report, mprt_log_level level, const char *text) {
  Report *r = report;
  static const char *const word[] = {"error: ", "warning: ", ""};
  if (level == MPRT_LOG_INFO && r->o.quiet)
    return;
  line_end(r);
  fflush(r->o.out);
  fprintf(stderr, "%s: %s%s\n", r->o.program, word[level], text);
}

/* 1234567 -> "1 234 567": groups of three, as in the documentation of the progress line. */
static void put_grouped(char *out, size_t size, int64_t v) {
  char digits[32];
  int n = snprintf(digits, sizeof digits, "%lld", (long long)v);
  size_t k = 0;
  for (int i = 0; i < n && k + 2 < size; i++) {
    if (i && (n - i) % 3 == 0)
      out[k++] = ' ';
    out[k++] = digits[i];
  }
  out[k] = 0;
}

static void put_bytes(char *out, size_t size, int64_t bytes) {
  double b = (double)bytes;
  if (b >= 0x1p30)
    snprintf(out, size, "%.1f GiB", b / 0x1p30);
  else
    snprintf(out, size, "%.1f MiB", b / 0x1p20);
}

/* Parts of the progress line that a narrow terminal does without, the least important first. */
typedef enum {
  PART_MEMORY = 1,
  PART_WAIT = 2,
  PART_SCALE = 4,
  PART_NORM = 8,
  PART_LR = 16,
  PART_RATE = 32,
  PART_EPOCH = 64,
  PART_ETA = 128,
  PART_TOTAL = 256,
  PARTS = 511
} Parts;

static void put_line(const mprt_event *e, Parts parts, char *buffer, size_t size) {
  char text[40];
  size_t k = 0;
  buffer[0] = 0;
#define PUT(...)                                                                                   \
  do {                                                                                             \
    if (k < size)                                                                                  \
      k += (size_t)snprintf(buffer + k, size - k, __VA_ARGS__);                                    \
  } while (0)
  if ((parts & PART_EPOCH) && e->total_epochs)
    PUT("epoch %lld/%lld  ", (long long)e->epoch + 1, (long long)e->total_epochs);
  else if (parts & PART_EPOCH)
    PUT("epoch %lld  ", (long long)e->epoch + 1);
  PUT("step %lld", (long long)e->step);
  if ((parts & PART_TOTAL) && e->total_steps > 0)
    PUT("/%lld (%4.1f%%)", (long long)e->total_steps,
        100.0 * (double)e->step / (double)e->total_steps);
  PUT("  loss %.4g", e->loss);
  if (parts & PART_LR)
    PUT("  lr %.2g", e->lr);
  if (parts & PART_NORM)
    PUT("  |g| %.3g", e->grad_norm);
  if ((parts & PART_SCALE) && e->scale > 0)
    PUT("  scale %.6g", e->scale);
  if (e->skipped)
    PUT("  skipped %lld", (long long)e->skipped);
  if (parts & PART_RATE) {
    put_grouped(text, sizeof text, (int64_t)e->samples_per_s);
    PUT("  %s samples/s", text);
  }
  if (parts & PART_MEMORY) {
    put_bytes(text, sizeof text, e->memory_bytes);
    PUT("  %s", text);
  }
  if (parts & PART_WAIT)
    PUT("  data %.0f%%", 100 * e->data_wait);
  if ((parts & PART_ETA) && e->eta_s >= 0) {
    int64_t s = (int64_t)(e->eta_s + 0.5);
    PUT("  ETA %lld:%02lld:%02lld", (long long)(s / 3600), (long long)(s / 60 % 60),
        (long long)(s % 60));
  }
#undef PUT
}

void report_progress_text(const mprt_event *e, char *buffer, size_t size) {
  put_line(e, PARTS, buffer, size);
}

void report_progress_fit(const mprt_event *e, int columns, char *buffer, size_t size) {
  unsigned parts = 0;
  for (unsigned part = PART_TOTAL; part; part >>= 1) {
    put_line(e, parts | part, buffer, size);
    if (strlen(buffer) <= (size_t)columns)
      parts |= part;
  }
  put_line(e, parts, buffer, size);
  if (strlen(buffer) > (size_t)columns)
    buffer[columns] = 0;
}

/* Columns for a line that is to be redrawn: one less than there are, since some terminals go on in
 * the next line when the last one is filled. */
static int columns_of(FILE *f) {
  struct winsize w;
  if (ioctl(fileno(f), TIOCGWINSZ, &w) != 0)
    return 399; /* a pipe that is given the line of a terminal (progress: line) */
  return w.ws_col > 1 ? w.ws_col - 1 : 79;
}

/* Rate and waiting are of the steps since the newest row. Where those are few, they are shown as of
 * the steps before that row. */
static void steady(Report *r, mprt_event *e) {
  int64_t since = e->step - r->logged_step;
  if (!e->logged && since * 4 < r->logged_steps) {
    e->samples_per_s = r->logged_rate;
    e->data_wait = r->logged_wait;
  } else if (e->logged) {
    r->logged_step = e->step;
    r->logged_steps = since;
    r->logged_rate = e->samples_per_s;
    r->logged_wait = e->data_wait;
  }
}

static void draw_step(Report *r, const mprt_event *given) {
  double now = seconds();
  mprt_event e = *given;
  bool last = e.total_steps > 0 && e.step == e.total_steps;
  steady(r, &e);
  if (r->terminal ? (now - r->last_draw < 0.1 && !last) : !e.logged)
    return;
  char text[400];
  if (r->terminal) {
    int columns = columns_of(r->o.out);
    report_progress_fit(&e, columns < (int)sizeof text ? columns : (int)sizeof text - 1, text,
                        sizeof text);
    int len = (int)strlen(text), old = (int)r->last_len < columns ? (int)r->last_len : columns;
    fprintf(r->o.out, "\r%s%*s", text, len < old ? old - len : 0, "");
    r->line_open = true;
  } else {
    report_progress_text(&e, text, sizeof text);
    fprintf(r->o.out, "%s\n", text);
  }
  fflush(r->o.out);
  r->last_len = strlen(text);
  r->last_draw = now;
}

static void draw_eval(Report *r, const mprt_event *e) {
  line_end(r);
  fprintf(r->o.out, "%s  step %lld  loss %.4f", e->split, (long long)e->step, e->loss);
  for (int i = 0; i < e->nmetric; i++)
    if (!isnan(e->metric[i].value))
      fprintf(r->o.out, "  %s %.4f", e->metric[i].name, e->metric[i].value);
  fputc('\n', r->o.out);
  fflush(r->o.out);
}

static void open_files(Report *r, const mprt_event *e) {
  char error[400];
  if (!e->path)
    return;
  free(r->dir);
  r->dir = strdup(e->path);
  if (!metrics_files_open(&r->files, r->o.jsonl, r->o.csv, e, error, sizeof error))
    report_log(r, MPRT_LOG_WARNING, error);
  if (r->o.tensorboard && !r->tensorboard) {
    r->tensorboard = tfevents_open(e, error, sizeof error);
    if (!r->tensorboard)
      report_log(r, MPRT_LOG_WARNING, error);
  }
}

/* Says, once until it works again, that `what` could not be kept. */
static void told_lost(Report *r, bool kept, const char *what, int64_t step) {
  if (!kept && !r->lost) {
    char text[4200];
    snprintf(text, sizeof text, "cannot write %s into %s at step %lld: %s; training goes on", what,
             r->dir ? r->dir : ".", (long long)step, strerror(errno));
    report_log(r, MPRT_LOG_WARNING, text);
  }
  r->lost = !kept;
}

static void put_row(Report *r, const mprt_event *e) {
  bool kept = metrics_files_row(&r->files, e);
  if (r->tensorboard && kept)
    kept = tfevents_row(r->tensorboard, e);
  told_lost(r, kept, "metrics", e->step);
}

static void put_page(Report *r) {
  char error[400];
  if (r->o.html && r->dir && !report_html_write(r->dir, error, sizeof error))
    report_log(r, MPRT_LOG_WARNING, error);
}

/* A text that the model wrote: shown, and kept in samples.txt. */
static void put_sample(Report *r, const mprt_event *e) {
  char path[4200];
  if (!r->o.quiet) {
    line_end(r);
    fprintf(r->o.out, "sample  step %lld\n%s\n", (long long)e->step, e->text);
    fflush(r->o.out);
  }
  snprintf(path, sizeof path, "%s/samples.txt", r->dir ? r->dir : ".");
  FILE *f = fopen(path, "a");
  bool kept = f && fprintf(f, "---- step %lld\n%s\n", (long long)e->step, e->text) >= 0;
  kept &= f && !fclose(f);
  told_lost(r, kept, "a sample", e->step);
}

void report_test(Report *r, double loss, int nmetric, const mprt_metric *metric) {
  if (!r->dir)
    return;
  put_row(r, &(mprt_event){.kind = MPRT_EVENT_EVAL,
                           .split = "test",
                           .step = r->step,
                           .epoch = r->epoch,
                           .loss = loss,
                           .nmetric = nmetric,
                           .metric = metric});
  put_page(r);
}

void report_event(void *report, const mprt_event *e) {
  Report *r = report;
  r->step = e->step;
  r->epoch = e->epoch;
  switch (e->kind) {
  case MPRT_EVENT_START:
    r->logged_step = e->step;
    open_files(r, e);
    if (e->path && r->terminal && !r->o.quiet) {
      fprintf(r->o.out, "writes into %s\n", e->path);
    } else if (e->path) {
      char text[4200];
      snprintf(text, sizeof text, "writes into %s", e->path);
      report_log(r, MPRT_LOG_INFO, text);
    }
    break;
  case MPRT_EVENT_STEP:
    if (!r->o.quiet)
      draw_step(r, e);
    if (e->logged)
      put_row(r, e);
    break;
  case MPRT_EVENT_EVAL:
    if (!r->o.quiet)
      draw_eval(r, e);
    put_row(r, e);
    break;
  case MPRT_EVENT_SAMPLE:
    put_sample(r, e);
    break;
  case MPRT_EVENT_CHECKPOINT:
    put_page(r); /* so that a run that is killed has one */
    break;
  case MPRT_EVENT_DIVERGED:
    line_end(r);
    fflush(r->o.out);
    fprintf(stderr, "%s: %s\n", r->o.program, e->text);
    break;
  case MPRT_EVENT_END:
    line_end(r);
    fflush(r->o.out);
    put_page(r);
    break;
  }
}
