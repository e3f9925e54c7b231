/* Turns runtime callbacks into terminal lines and files. The only library that prints. */
#ifndef MPCC_REPORT_H
#define MPCC_REPORT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "mpcc/runtime.h"

/* Everything a run shows: one progress line on a terminal (redrawn at most 10 times a second), a
 * plain line per logged step on a pipe, and in the run folder that the start event names the files
 * that `logging:` asks for: metrics.jsonl, metrics.csv, events.out.tfevents.*, report.html,
 * samples.txt. */
typedef struct Report Report;

typedef struct {
  const char *program; /* prefix of messages, borrowed */
  FILE *out;           /* progress and results; messages go to stderr */
  bool quiet;          /* no progress, only warnings and errors */
  bool jsonl, csv;     /* which files to write */
  bool tensorboard, html;
  int style;           /* progress: 0 by whether out is a terminal, 1 redrawn line, 2 plain lines */
} ReportOptions;

Report *report_create(const ReportOptions *o); /* NULL: memory */
/* What the program's spec says of logging, before the run starts; `quiet` stays as it was created. */
void report_follow_spec(Report *r, const mprt_program *p);
void report_destroy(Report *r);                /* closes files; NULL is fine */

/* To be given to mprt_callbacks with user = the Report. */
void report_log(void *report, mprt_log_level level, const char *text);
void report_event(void *report, const mprt_event *e);
/* Numbers of the test split behind the end of a run, as rows of its last step; shows nothing. */
void report_test(Report *r, double loss, int nmetric, const mprt_metric *metric);

/* ---- progress.c ---- */
/* The progress line of one event, without newline, into buffer. */
void report_progress_text(const mprt_event *e, char *buffer, size_t size);
/* The same in at most so many columns: without the parts that say least, in the end cut. */
void report_progress_fit(const mprt_event *e, int columns, char *buffer, size_t size);

/* ---- metrics_files.c ---- */
typedef struct {
  FILE *jsonl, *csv;
} MetricsFiles;
/* Opens for appending in folder e->path; rows of steps later than e->step, and what the test split
 * gave where the run once ended, are cut (a resumed run); the columns are of its metrics. A file
 * that cannot be opened is left NULL and its path and reason put into error. */
bool metrics_files_open(MetricsFiles *m, bool jsonl, bool csv, const mprt_event *e, char *error,
                        size_t size);
/* false with errno: a row is missing, the file is as it was before. */
bool metrics_files_row(MetricsFiles *m, const mprt_event *e);
/* Appends what `put` writes of an event: all of it, or, where the disk is full, nothing;
 * false with errno. */
bool report_append(FILE *f, const mprt_event *e, void (*put)(FILE *, const mprt_event *));
void metrics_files_close(MetricsFiles *m);

/* ---- tfevents.c ---- */
/* A new file in folder e->path for steps after e->step; NULL with `error` filled. */
FILE *tfevents_open(const mprt_event *e, char *error, size_t size);
bool tfevents_row(FILE *f, const mprt_event *e); /* as metrics_files_row */
uint32_t tfevents_crc32c(const void *data, size_t n);

/* ---- html.c ---- */
/* report.html of a run folder, from its metrics.jsonl. false with `error` filled. */
bool report_html_write(const char *dir, char *error, size_t size);

#endif
