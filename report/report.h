/* Turns runtime callbacks into terminal lines and files. The only library that prints. */
#ifndef MPCC_REPORT_H
#define MPCC_REPORT_H

#include <stdbool.h>
#include <stdio.h>

#include "mpcc/runtime.h"

/* Everything a run shows: one progress line on a terminal (redrawn at most 10 times a second), a
 * plain line per logged step on a pipe, and metrics.jsonl and metrics.csv in the run folder that
 * the start event names. */
typedef struct Report Report;

typedef struct {
  const char *program; /* prefix of messages, borrowed */
  FILE *out;           /* progress and results; messages go to stderr */
  bool quiet;          /* no progress, only warnings and errors */
  bool jsonl, csv;     /* which files to write */
} ReportOptions;

Report *report_create(const ReportOptions *o); /* NULL: memory */
void report_destroy(Report *r);                /* closes files; NULL is fine */

/* To be given to mprt_callbacks with user = the Report. */
void report_log(void *report, mprt_log_level level, const char *text);
void report_event(void *report, const mprt_event *e);

/* ---- progress.c ---- */
/* The progress line of one event, without newline, into buffer. */
void report_progress_text(const mprt_event *e, char *buffer, size_t size);

/* ---- metrics_files.c ---- */
typedef struct {
  FILE *jsonl, *csv;
} MetricsFiles;
/* Opens for appending in folder e->path; rows of steps later than e->step are cut (a resumed run), the
 * columns are of its metrics. A file
 * that cannot be opened is left NULL and its path and reason put into error. */
bool metrics_files_open(MetricsFiles *m, bool jsonl, bool csv, const mprt_event *e, char *error,
                        size_t size);
void metrics_files_row(MetricsFiles *m, const mprt_event *e);
void metrics_files_close(MetricsFiles *m);

#endif
