/* Private to runtime/: the training loop and what it is made of. */
#ifndef MPCC_RUNTIME_FIT_H
#define MPCC_RUNTIME_FIT_H

#include "runtime/data/data.h"
#include "runtime/rt.h"

/* Facts of a run, settled before the first step. */
typedef struct {
  int64_t batch, accumulate;
  int64_t batches;         /* of an epoch, after limit_train_batches */
  int64_t steps_per_epoch; /* optimizer steps */
  int64_t spec_steps;      /* the spec's own end: schedules are counted to it */
  int64_t last_step;       /* where this run stops: --max-steps and --max-epochs move it */
  int64_t epochs;          /* 0: max_steps rules */
  int64_t log_every;
  bool has_scaler;
  double min_scale;
} mprt__run_facts;

/* What one step reported; read from the io segment after it ran. */
typedef struct {
  double loss, grad_norm, scale, accuracy;
  bool applied;
  int64_t samples;
} mprt__step_result;

/* ---- schedule.c ---- */
/* Learning rate of parameter group `group` for the step after `taken` taken ones. */
double mprt__schedule_lr(const mprt_program *p, int group, int64_t taken, int64_t total_steps,
                         int64_t steps_per_epoch);
/* Row taken % rows of the step table. */
void mprt__schedule_fill(mprt_program *p, int64_t taken, int64_t total_steps,
                         int64_t steps_per_epoch);

/* ---- evaluate.c ---- */
/* Batches of a split that are used: trainer.limit_SPLIT_batches is a count when it is an integer, a
 * share when it is a fraction, as in Lightning. */
int64_t mprt__limited_batches(const mprt_program *p, const char *split, int64_t batches);
/* Sum over a whole split: mean loss, accuracy (NaN when the program does not count it). */
Status mprt__evaluate_data(mprt_program *p, mprt__dataset *d, const char *split, double *loss,
                           double *accuracy);

/* ---- runfolder.c ---- */
/* The run folder (made if absent) and its files that do not grow: spec.resolved.yaml, plan.txt,
 * run.json. malloc'ed path in *out. errors: ERR_FILE, ERR_NOMEM */
Status mprt__run_folder(mprt_program *p, char **out);
/* Folder that a bare --resume looks into: the one this run would write, else the newest below
 * runs/NAME; malloc'ed path of the newest complete checkpoint, NULL: none. */
char *mprt__resume_default(mprt_program *p);

/* ---- diverged.c ---- */
/* Steps stay non-finite: writes OUT/diverged/ (state before the step, the batch), replays the batch
 * and reports the first output that is not finite. Returns ERR_DIVERGED, or what failed. */
Status mprt__diverged(mprt_program *p, const char *out_dir, int64_t step, const char *cause);

#endif
