/* Private to runtime/: the training loop and what it is made of. */
#ifndef MPCC_RUNTIME_FIT_H
#define MPCC_RUNTIME_FIT_H

#include <stdio.h>

#include "runtime/data/data.h"
#include "runtime/rt.h"

/* Facts of a run, settled before the first step. */
typedef struct {
  int64_t batch, accumulate;
  int64_t batches;         /* of an epoch, after limit_train_batches */
  int64_t steps_per_epoch; /* optimizer steps */
  int64_t check_batches;   /* batches from one validation to the next */
  int64_t check_epochs;    /* in every n-th epoch; 0: batches are counted over the ends of epochs */
  int64_t spec_steps;      /* the spec's own end: schedules are counted to it */
  int64_t last_step;       /* where this run stops: --max-steps and --max-epochs move it */
  int64_t epochs;          /* 0: max_steps rules */
  int64_t min_steps;       /* early stopping waits for them */
  int64_t max_seconds;     /* of training in this process; -1: any */
  int64_t log_every;
  bool has_scaler, static_scale;
  double min_scale;
} mprt__run_facts;

/* What one step reported; read from the io segment after it ran. */
typedef struct {
  double loss, grad_norm, scale;
  bool finite; /* loss and gradient norm */
  int64_t samples;
} mprt__step_result;

/* ---- schedule.c ---- */
/* Learning rate of parameter group `group` for the step after `taken` taken ones (-1: the first's). */
double mprt__schedule_lr(const mprt_program *p, int group, int64_t taken, int64_t total_steps,
                         int64_t steps_per_epoch);
/* Momentum (beta1) of every group in that step, where the schedule moves it (attr cycle_momentum). */
double mprt__schedule_momentum(const mprt_program *p, int64_t taken, int64_t total_steps,
                               int64_t steps_per_epoch);
/* Row taken % rows of the step table. */
void mprt__schedule_fill(mprt_program *p, int64_t taken, int64_t total_steps,
                         int64_t steps_per_epoch);

/* ---- monitor.c ---- */
/* The spec's scheduler when it is ReduceLROnPlateau, else NULL. */
const json_t *mprt__plateau(const mprt_program *p);
void mprt__plateau_step(mprt_program *p, double metric); /* after each validation */
/* A base rate after the reductions so far; one that changes less than eps is left out. */
double mprt__plateau_lr(const mprt_program *p, double rate);
/* Whether training ends for the spec's early_stopping: why, or NULL. Call once per validation. */
const char *mprt__early_stop(mprt_program *p, double metric);
/* The above into p->fit_state, and back after a resume. errors: ERR_NOMEM */
Status mprt__fit_remember(mprt_program *p);
void mprt__fit_recall(mprt_program *p);

/* ---- keep.c ---- */
/* Whether a checkpoint of this value would be the best so far; is worth one (best, or of the top
 * k). */
bool mprt__keep_is_best(const mprt_program *p, double value);
bool mprt__keep_wants(const mprt_program *p, double value, int64_t step);
/* Notes a checkpoint (value NaN: not measured); removes those that need not stay. errors: ERR_NOMEM
 */
Status mprt__keep_add(mprt_program *p, int64_t step, double value);
void mprt__keep_prune(mprt_program *p, const char *out_dir, int64_t now);
/* The list for state.json and back: of complete ones in out_dir up to step `now`. */
json_t *mprt__keep_json(const mprt_program *p);
Status mprt__keep_recall(mprt_program *p, const json_t *list, const char *out_dir, int64_t now);

/* ---- trace.c ---- */
typedef struct mprt__trace mprt__trace;
/* What the spec's profiler asks for, counted from `step`; NULL: nothing. All take NULL. */
mprt__trace *mprt__trace_create(const mprt_program *p, int64_t step);
void mprt__trace_destroy(mprt__trace *t);
void mprt__trace_step(mprt__trace *t, int64_t step); /* begins step `step`, from 0 */
/* Something that began then and ends now; name: lives as long as the trace. */
void mprt__trace_span(mprt__trace *t, const char *name, double begin);
Status mprt__trace_run(mprt__trace *t, mprt_program *p, const MpccFunction *f);
/* Writes DIR/trace.json or DIR/profile.txt when the last step was recorded, once. errors: ERR_FILE,
 * ERR_NOMEM */
Status mprt__trace_write(mprt__trace *t, const mprt_program *p, const char *dir);

/* ---- sample.c ---- */
/* Whether logging.sample asks for a text after `step` steps; the text, malloc'ed. The batch in the
 * io tensors is gone then. errors: ERR_INPUT (no language model), ERR_NOMEM */
bool mprt__sample_due(const mprt_program *p, int64_t step);
Status mprt__sample(mprt_program *p, int64_t step, char **text);

/* ---- evaluate.c ---- */
/* trainer.overfit_batches: the same few training batches, in order, for training and validation. */
bool mprt__overfits(const mprt_program *p);
/* Batches of a split that are used: trainer.limit_SPLIT_batches is a count when it is an integer, a
 * share when it is a fraction, as in Lightning. */
int64_t mprt__limited_batches(const mprt_program *p, const char *split, int64_t batches);
/* Mean loss over a whole split; p->metrics holds its metrics. */
Status mprt__evaluate_data(mprt_program *p, mprt__dataset *d, const char *split, double *loss);
/* Asks cb.stop: OK to go on, else ERR_INTERRUPTED or ERR_REQUEUE; p->stop is what it said. */
Status mprt__asked_to_stop(mprt_program *p);

/* ---- metrics.c ---- */
Status mprt__metrics_open(mprt_program *p); /* nothing when open. errors: ERR_NOMEM */
void mprt__metrics_close(mprt_program *p);
/* From nothing; the sums of the function that ran; the values of all sums. training: of those alone
 * that training steps write, the others are NaN. */
void mprt__metrics_clear(mprt_program *p);
void mprt__metrics_add(mprt_program *p, bool training);
void mprt__metrics_settle(mprt_program *p, bool training);
/* Value of "val/NAME" as it was settled last, `loss` for other names. */
double mprt__metric_value(const mprt_program *p, const char *name, double loss);

/* ---- runfolder.c ---- */
/* The run folder (made if absent) and its files that do not grow: spec.resolved.yaml, plan.txt,
 * run.json. Checkpoints there of steps behind `step`, where this run begins, are set aside.
 * malloc'ed path in *out; *lock, to be closed at the end, keeps other runs out (-1: none).
 * errors: ERR_FILE (also: another run writes there), ERR_NOMEM */
Status mprt__run_folder(mprt_program *p, int64_t step, char **out, int *lock);
/* What a bare --resume takes: the newest complete checkpoint of the folder this run would write, or,
 * where none is named, of the newest run below runs/NAME that has one, which this run then goes on
 * writing. Malloc'ed path, NULL: none. */
char *mprt__resume_default(mprt_program *p);
/* Where mprt__resume_default looks; malloc'ed, NULL: out of memory. */
char *mprt__resume_folder(mprt_program *p);

/* ---- scan.c ---- */
typedef struct {
  const MpccCommand *command; /* of a layer; NULL: none yet */
  DType dtype;
  double amax;
} mprt__largest;
typedef struct {
  bool found, is_nan;
  const MpccCommand *command; /* NULL: it was there before the step */
  const char *name, *when;    /* of the tensor then; NULL: before the step */
  DType dtype;
  int64_t n, bad;        /* elements; not finite ones */
  double amax;           /* largest finite magnitude */
  mprt__largest largest; /* of the outputs before, the one nearest to the end of its format */
} mprt__scan;
/* Zeroed before its first use. */
void mprt__scan_data(mprt__scan *s, const uint8_t *data, int64_t n, DType dt);
/* An mprt__observer with an mprt__scan: stops behind the first command with an output not finite.
 */
bool mprt__scan_outputs(void *user, mprt_program *p, const MpccCommand *c);
/* Name of the layer where it was found, `length` bytes of what is returned, and its line of the
 * spec; place "": no layer of the program, the name is that of the tensor, or empty. s->found */
const char *mprt__scan_layer(const mprt_program *p, const mprt__scan *s, size_t *length,
                             const char **place);
/* Lines: what was found where, in which format, and what was largest before it. s->found */
void mprt__scan_describe(const mprt_program *p, const mprt__scan *s, FILE *out);

/* ---- profile.c ---- */
typedef struct mprt__profile mprt__profile;
mprt__profile *mprt__profile_create(const mprt_program *p); /* NULL: memory */
void mprt__profile_destroy(mprt__profile *f);               /* NULL is fine */
double *mprt__profile_seconds(mprt__profile *f);            /* for mprt__run_timed */
/* DIR/profile.txt, a table of what was taken in so many steps. errors: ERR_FILE, ERR_NOMEM */
Status mprt__profile_write(const mprt__profile *f, const mprt_program *p, int64_t steps,
                           const char *dir);

/* ---- diverged.c ---- */
/* Steps stay non-finite: writes OUT/diverged/ (state before the step, the batch), replays the batch
 * and reports the first output that is not finite. Returns ERR_DIVERGED, or what failed. */
Status mprt__diverged(mprt_program *p, const char *out_dir, int64_t step, const char *cause);

#endif
