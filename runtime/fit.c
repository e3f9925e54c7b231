/* The training loop of the spec: batches, steps, evaluation, checkpoints, stopping. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/fit.h"
#include "runtime/instrument.h"

/* Steps in a row that may be non-finite before the run is called diverged. With a loss scaler they
 * are ordinary while the scale comes down; without one nothing will get better. */
enum { MAX_BAD_SCALED = 16, MAX_BAD = 3 };

typedef struct {
  mprt_program *p;
  mprt__run_facts facts;
  mprt__dataset *train, *val;
  mprt__loader *loader;
  char *out_dir;
  int lock;                                  /* on out_dir; -1: none */
  int64_t step, epoch, sample;               /* steps seen; position behind the newest batch */
  bool epoch_over, stop;                     /* stop: early stopping or max_time said so */
  int bad;                                   /* non-finite steps in a row */
  int64_t skipped;                           /* steps not applied so far */
  bool told;                                 /* of the first that was not finite */
  int64_t saved_step;                        /* step of the newest checkpoint */
  mprt__trace *trace;                        /* NULL: nobody asked */
  double begun;                              /* when the first step did */
  double started, window_start, window_wait; /* moved on by what is no training */
  int64_t window_samples, first_step;
  mprt__instrument *instrument; /* NULL: none */
} Fit;

/* ---- facts ----------------------------------------------------------------------------------- */

static int64_t least(int64_t a, int64_t b) {
  return a < b ? a : b;
}

static bool drop_last(const mprt_program *p) {
  return mprt__json_bool(p->spec, "data.loader.drop_last", false);
}

static int64_t in_steps(const mprt__run_facts *r, int64_t epochs) {
  int64_t steps;
  return __builtin_mul_overflow(epochs, r->steps_per_epoch, &steps) ? INT64_MAX : steps;
}

static void settle_facts(Fit *f) {
  mprt_program *p = f->p;
  mprt__run_facts *r = &f->facts;
  const json_t *attrs = mprt__json_get(p->meta, "attrs");
  int64_t input = mprt__tensor_of_role(p, ROLE_INPUT);
  r->batch = input >= 0 && p->tensor[input].rank ? p->tensor[input].dim[0] : 1;
  r->accumulate = mprt__json_int(attrs, "accumulate", 1);
  int64_t batches = mprt__batches(f->train->nsample, r->batch, drop_last(p));
  r->batches = mprt__limited_batches(p, "train", batches);
  r->steps_per_epoch = (r->batches + r->accumulate - 1) / r->accumulate;
  int64_t spec_steps = mprt__json_int(p->spec, "trainer.max_steps", -1);
  int64_t spec_epochs = mprt__json_int(p->spec, "trainer.max_epochs", -1);
  const bool open_end = spec_steps < 0 && spec_epochs < 0;
  if (open_end)
    spec_epochs = 1000; /* Lightning's default; schedules are counted to it */
  int64_t by_epochs = spec_epochs >= 0 ? in_steps(r, spec_epochs) : INT64_MAX;
  r->spec_steps = spec_steps >= 0 ? least(spec_steps, by_epochs) : by_epochs;
  r->epochs = spec_steps >= 0 && spec_epochs < 0 ? 0 : spec_epochs;
  r->last_step = r->spec_steps;
  r->max_seconds = mprt__json_int(p->spec, "trainer.max_time", -1);
  if (open_end && r->max_seconds >= 0) {
    r->epochs = 0; /* the time alone ends it */
    r->last_step = INT64_MAX;
  }
  if (mprt__json_int(p->spec, "trainer.fast_dev_run", 0) > 0) {
    r->epochs = 1;
    r->last_step = least(r->last_step, r->steps_per_epoch);
  }
  if (p->options.max_steps >= 0 || p->options.max_epochs >= 0) {
    int64_t steps = p->options.max_steps >= 0 ? p->options.max_steps : INT64_MAX;
    int64_t epochs = p->options.max_epochs >= 0 ? in_steps(r, p->options.max_epochs) : INT64_MAX;
    r->last_step = least(steps, epochs);
    if (p->options.max_epochs >= 0)
      r->epochs = p->options.max_epochs;
  }
  int64_t min_steps = mprt__json_int(p->spec, "trainer.min_steps", 0);
  int64_t min_epochs = in_steps(r, mprt__json_int(p->spec, "trainer.min_epochs", 0));
  r->min_steps = min_steps > min_epochs ? min_steps : min_epochs;
  r->log_every = p->options.log_every > 0
                     ? p->options.log_every
                     : mprt__json_int(p->spec, "trainer.log_every_n_steps", 50);
  if (r->log_every < 1)
    r->log_every = 1;
  r->has_scaler = mprt__tensor_index(p, "scaler.scale") >= 0;
  const json_t *min_scale = json_object_get(attrs, "scaler_min_scale");
  r->min_scale = json_is_number(min_scale) ? json_number_value(min_scale) : 1.0;
  const json_t *fixed = json_object_get(attrs, "scaler_static");
  r->static_scale = json_is_number(fixed) && json_number_value(fixed) != 0;
}

/* ---- events ---------------------------------------------------------------------------------- */

static int64_t allocated_bytes(const mprt_program *p) {
  int64_t n = 0;
  for (int i = 0; i < MPCC_SEG_COUNT; i++)
    n += mprt_segment_bytes(p, i);
  return n;
}

/* path: a path, or the text of a sample */
static void emit(Fit *f, mprt_event_kind kind, const mprt__step_result *r, const char *split,
                 const char *path) {
  mprt_program *p = f->p;
  if (!p->cb.event)
    return;
  double now = mprt__seconds(), window = now - f->window_start;
  int64_t done = f->step - f->first_step, left = f->facts.last_step - f->step;
  mprt_event e = {.kind = kind,
                  .step = f->step,
                  .total_steps = f->facts.last_step == INT64_MAX ? 0 : f->facts.last_step,
                  .epoch = f->epoch,
                  .total_epochs = f->facts.epochs,
                  .taken = mprt__get_int(p, "count.taken", 0),
                  .skipped = mprt__get_int(p, "count.skipped", 0),
                  .loss = r ? r->loss : NAN,
                  .grad_norm = r ? r->grad_norm : NAN,
                  .scale = r && f->facts.has_scaler ? r->scale : 0,
                  .nmetric = p->metrics.n,
                  .metric = p->metrics.value,
                  .samples_per_s = window > 0 ? (double)f->window_samples / window : 0,
                  .data_wait = window > 0 ? f->window_wait / window : 0,
                  .eta_s = done > 0 && f->facts.last_step < INT64_MAX
                               ? (now - f->started) / (double)done * (double)left
                               : -1,
                  .memory_bytes = allocated_bytes(p),
                  .split = split,
                  .path = kind == MPRT_EVENT_SAMPLE ? NULL : path,
                  .text = kind == MPRT_EVENT_SAMPLE ? path : NULL};
  e.lr = mprt__schedule_lr(p, 0, e.taken - 1, f->facts.spec_steps, f->facts.steps_per_epoch);
  e.logged = kind == MPRT_EVENT_STEP &&
             (f->step % f->facts.log_every == 0 || f->step == f->facts.last_step);
  p->cb.event(p->cb.user, &e);
  if (e.logged) {
    f->window_start = now;
    f->window_wait = 0;
    f->window_samples = 0;
  }
}

/* ---- one step -------------------------------------------------------------------------------- */

static Status next_batch(Fit *f, int64_t *valid) {
  double waited, before = mprt__seconds();
  Status st = mprt__loader_next(f->loader, valid, &f->epoch, &f->sample, &waited);
  if (st == MPCC_OK && !*valid)
    return mprt__fail(&f->p->cb, MPCC_ERR_DATA, "data.train ended early");
  mprt__trace_span(f->trace, "batch", before);
  f->window_wait += waited;
  f->window_samples += *valid;
  int64_t n = f->train->nsample, end = drop_last(f->p) ? n / f->facts.batch * f->facts.batch : n;
  end = least(end, f->facts.batches * f->facts.batch);
  f->epoch_over = f->sample >= end;
  return st;
}

static Status run_named(Fit *f, const char *name) {
  const MpccFunction *fn = mprt__function(f->p, name);
  if (!fn)
    return mprt__fail(&f->p->cb, MPCC_ERR_INPUT, "the program has no function %s", name);
  if (f->instrument) /* watches by an observer of its own */
    return mprt__instrument_run(f->instrument, f->p, fn, f->step + 1);
  return mprt__trace_run(f->trace, f->p, fn);
}

static void read_result(Fit *f, mprt__step_result *r) {
  mprt_program *p = f->p;
  double weight = mprt__get_scalar(p, "metric.weight_sum", NAN);
  r->loss = mprt__get_scalar(p, "metric.loss_sum", NAN) / weight;
  r->grad_norm = mprt__get_scalar(p, "metric.grad_norm", NAN);
  if (isnan(r->loss))
    r->loss = NAN; /* the sign of a NaN says nothing and is printed */
  if (isnan(r->grad_norm))
    r->grad_norm = NAN;
  r->scale = mprt__get_scalar(p, "metric.scale", 0);
  r->finite = mprt__get_scalar(p, "metric.finite", 1) != 0;
  mprt__metrics_clear(p);
  mprt__metrics_add(p, true);
  mprt__metrics_settle(p, true);
}

/* First step of an FP8 program: scales are calibrated on its own batch [N8]. */
static Status calibrate(Fit *f) {
  if (f->step || !mprt__function(f->p, "calibrate"))
    return MPCC_OK;
  return run_named(f, "calibrate");
}

static Status one_step(Fit *f, mprt__step_result *r) {
  mprt_program *p = f->p;
  int64_t valid;
  mprt__trace_step(f->trace, f->step);
  mprt__schedule_fill(p, mprt__get_int(p, "count.taken", 0), f->facts.spec_steps,
                      f->facts.steps_per_epoch);
  Status st = next_batch(f, &valid);
  if (st == MPCC_OK)
    st = calibrate(f);
  if (st == MPCC_OK && f->facts.accumulate == 1) {
    st = run_named(f, "train_step");
  } else if (st == MPCC_OK) {
    st = run_named(f, "micro_first");
    for (int64_t k = 1; st == MPCC_OK && k < f->facts.accumulate && !f->epoch_over; k++) {
      st = next_batch(f, &valid);
      if (st == MPCC_OK)
        st = run_named(f, "micro_next");
    }
    if (st == MPCC_OK)
      st = run_named(f, "update_step");
  }
  read_result(f, r);
  f->step++;
  return st == MPCC_OK ? mprt__device_status(f->p) : st;
}

mpcc_status mprt_train_step(mprt_program *p) {
  mprt__schedule_fill(p, mprt__get_int(p, "count.taken", 0),
                      mprt__json_int(p->spec, "trainer.max_steps", INT32_MAX), 0);
  return mprt_run(p, "train_step");
}

mpcc_status mprt_train_batch(mprt_program *p, int64_t samples, double *loss) {
  const MpccFunction *calibrate = mprt__function(p, "calibrate");
  Status st = MPCC_OK;
  if (mprt__json_int(mprt__json_get(p->meta, "attrs"), "accumulate", 1) != 1)
    return mprt__fail(
        &p->cb, MPCC_ERR_USAGE,
        "this program sums micro-batches: run micro_first, micro_next and update_step");
  mprt__set_int(p, "io.valid", samples);
  if (calibrate && !mprt__get_int(p, "count.seen", 0))
    st = mprt__run(p, calibrate, NULL, NULL);
  if (st == MPCC_OK)
    st = mprt_train_step(p);
  if (st == MPCC_OK && loss)
    *loss =
        mprt__get_scalar(p, "metric.loss_sum", NAN) / mprt__get_scalar(p, "metric.weight_sum", NAN);
  return st == MPCC_OK ? mprt__device_status(p) : st;
}

/* ---- evaluation and checkpoints -------------------------------------------------------------- */

static void set_cursor(Fit *f) {
  f->p->cursor.epoch = f->epoch_over ? f->epoch + 1 : f->epoch;
  f->p->cursor.sample = f->epoch_over ? 0 : f->sample;
}

/* value: of checkpoint.monitor at this step, NaN when it was not measured. */
static Status save(Fit *f, double value) {
  mprt_program *p = f->p;
  if ((f->saved_step == f->step && isnan(value)) ||
      mprt__json_int(p->spec, "trainer.fast_dev_run", 0) > 0)
    return MPCC_OK;
  set_cursor(f);
  bool best = mprt__keep_is_best(p, value);
  if (best) {
    p->cursor.best_step = f->step;
    p->cursor.best_value = value;
  }
  char *dir = mprt__format("%s/checkpoints/step-%08lld", f->out_dir, (long long)f->step);
  Status st = dir ? mprt__keep_add(p, f->step, value) : mprt__nomem(&p->cb, "checkpoint");
  if (st == MPCC_OK)
    st = mprt__fit_remember(p);
  if (st == MPCC_OK)
    st = mprt_save_checkpoint(p, dir);
  if (st == MPCC_OK)
    st = mprt__checkpoint_link(dir, "last", &p->cb);
  if (st == MPCC_OK && best)
    st = mprt__checkpoint_link(dir, "best", &p->cb);
  if (st == MPCC_OK) {
    f->saved_step = f->step;
    emit(f, MPRT_EVENT_CHECKPOINT, NULL, NULL, dir);
    mprt__keep_prune(p, f->out_dir, f->step);
  }
  free(dir);
  return st;
}

/* Of a section that has `monitor`: "val/acc", "val/loss" */
static double monitored(const mprt_program *p, const json_t *section, double loss) {
  return mprt__metric_value(p, mprt__json_string(section, "monitor", "val/loss"), loss);
}

/* What began then was no training: rates and the time left do not count it. */
static void not_training(Fit *f, double begin) {
  double spent = mprt__seconds() - begin;
  f->started += spent;
  f->window_start += spent;
}

/* *value: of checkpoint.monitor; NaN: not measured. */
static Status evaluate(Fit *f, double *value) {
  mprt_program *p = f->p;
  if (!f->val && !mprt__overfits(p))
    return MPCC_OK;
  mprt__step_result r = {.grad_norm = NAN};
  double before = mprt__seconds();
  Status st = mprt__evaluate_data(p, mprt__overfits(p) ? f->train : f->val, "val", &r.loss);
  if (st != MPCC_OK)
    return st;
  not_training(f, before);
  emit(f, MPRT_EVENT_EVAL, &r, "val", NULL);
  const json_t *plateau = mprt__plateau(p), *stopping = mprt__json_get(p->spec, "early_stopping");
  if (plateau)
    mprt__plateau_step(p, monitored(p, plateau, r.loss));
  if (json_is_object(stopping)) {
    const double watched = monitored(p, stopping, r.loss);
    const char *why = mprt__early_stop(p, watched);
    f->stop = why != NULL && f->step >= f->facts.min_steps;
    if (why)
      mprt__log(&p->cb, MPRT_LOG_INFO, "early stopping %s step %lld: %s (%.6g) %s",
                f->stop ? "at" : "waits for min_steps or min_epochs at", (long long)f->step,
                mprt__json_string(stopping, "monitor", "val/loss"), watched, why);
  }
  *value = monitored(p, mprt__json_get(p->spec, "checkpoint"), r.loss);
  return MPCC_OK;
}

/* When validation is due, as in Lightning: val_check_interval is a share of the epoch's batches
 * when it is a fraction, else a number of batches of the epoch, or (check_val_every_n_epoch: null)
 * of all. errors: ERR_INPUT, an epoch has fewer batches */
static Status settle_checks(Fit *f) {
  mprt_program *p = f->p;
  mprt__run_facts *r = &f->facts;
  static const char key[] = "trainer.val_check_interval";
  const json_t *v = mprt__json_get(p->spec, key);
  const bool over_epochs = json_is_null(mprt__json_get(p->spec, "trainer.check_val_every_n_epoch"));
  r->check_batches = r->batches;
  r->check_epochs = 1;
  if (mprt__json_int(p->spec, "trainer.fast_dev_run", 0) > 0)
    return MPCC_OK;
  r->check_epochs = over_epochs ? 0 : mprt__json_int(p->spec, "trainer.check_val_every_n_epoch", 1);
  if (json_is_integer(v))
    r->check_batches = json_integer_value(v);
  else if (json_is_real(v))
    r->check_batches = (int64_t)(json_real_value(v) * (double)r->batches);
  if (r->check_batches < 1)
    r->check_batches = 1;
  if (over_epochs || r->check_batches <= r->batches || (!f->val && !mprt__overfits(p)) ||
      !r->batches) /* less than one batch: the loader tells why */
    return MPCC_OK;
  const char *at = json_string_value(json_object_get(json_object_get(p->meta, "places"), key));
  return mprt__fail(
      &p->cb, MPCC_ERR_INPUT,
      "%s: val_check_interval is %lld batches, an epoch has %lld: at most so many, or "
      "check_val_every_n_epoch: null, which counts over the ends of epochs",
      at ? at : key, (long long)r->check_batches, (long long)r->batches);
}

/* Whether one of the newest step's batches is one that validation follows. */
static bool check_due(const Fit *f) {
  const mprt__run_facts *r = &f->facts;
  int64_t after = f->epoch_over ? r->batches : f->sample / r->batch;
  int64_t before = after > 0 ? (after - 1) / r->accumulate * r->accumulate : 0;
  if (r->check_epochs > 0 && (f->epoch + 1) % r->check_epochs != 0)
    return false;
  const int64_t earlier = r->check_epochs > 0 ? 0 : f->epoch * r->batches;
  return (earlier + after) / r->check_batches != (earlier + before) / r->check_batches;
}

static Status write_sample(Fit *f) {
  char *text;
  double before = mprt__seconds();
  if (!mprt__sample_due(f->p, f->step))
    return MPCC_OK;
  Status st = mprt__sample(f->p, f->step, &text);
  not_training(f, before);
  if (st == MPCC_OK)
    emit(f, MPRT_EVENT_SAMPLE, NULL, NULL, text);
  free(text);
  return st;
}

/* What is due behind a step. Evaluation comes first: where cb.stop ends it, nothing was told yet, and all
 * of this is done again after resuming. */
static Status after_step(Fit *f) {
  mprt_program *p = f->p;
  int64_t save_every = mprt__json_int(p->spec, "checkpoint.every_n_train_steps", 0);
  double value = NAN;
  Status st = mprt__trace_write(f->trace, p, f->out_dir);
  if (st == MPCC_OK && check_due(f))
    st = evaluate(f, &value);
  if (st == MPCC_OK)
    st = write_sample(f);
  if (st == MPCC_OK && mprt__keep_wants(p, value, f->step))
    st = save(f, value);
  /* What non-finite steps follow may be broken already: it does not replace an older checkpoint. */
  bool doubtful = f->bad > 0 && !f->facts.has_scaler;
  bool wanted = mprt__json_int(p->spec, "checkpoint.save_top_k", 1) != 0 ||
                mprt__json_bool(p->spec, "checkpoint.save_last", true);
  if (st == MPCC_OK && wanted && !doubtful &&
      (f->epoch_over || (save_every > 0 && f->step % save_every == 0)))
    st = save(f, NAN);
  return st;
}

/* ---- the loop -------------------------------------------------------------------------------- */

/* Says which finite step was not applied (trainer.skip_outliers). Under a loss scaler steps that
 * are not finite are ordinary, elsewhere the first one is told. */
static void tell_skipped(Fit *f, const mprt__step_result *r) {
  int64_t skipped = mprt__get_int(f->p, "count.skipped", 0);
  if (skipped > f->skipped && !r->finite && !f->facts.has_scaler && !f->told) {
    mprt__log(&f->p->cb, MPRT_LOG_WARNING,
              "step %lld is not applied: loss %.4g, gradient norm %.4g; others like it are counted "
              "as skipped",
              (long long)f->step, r->loss, r->grad_norm);
    f->told = true;
  }
  if (skipped > f->skipped && r->finite)
    mprt__log(&f->p->cb, MPRT_LOG_INFO,
              "step %lld is not applied: an outlier, loss %.4g, gradient norm %.4g",
              (long long)f->step, r->loss, r->grad_norm);
  f->skipped = skipped;
}

static Status check_finite(Fit *f, const mprt__step_result *r) {
  f->bad = r->finite ? 0 : f->bad + 1;
  char cause[200];
  if (f->facts.has_scaler) {
    double scale = mprt__get_scalar(f->p, "scaler.scale", 0);
    if (f->bad < MAX_BAD_SCALED || (!f->facts.static_scale && scale > f->facts.min_scale))
      return MPCC_OK;
    if (f->facts.static_scale)
      snprintf(cause, sizeof cause,
               "loss or gradients not finite in %d steps in a row at the static loss scale %g",
               f->bad, scale);
    else
      snprintf(cause, sizeof cause, "%d loss-scale backoffs in a row, scale reached min_scale %g",
               f->bad, f->facts.min_scale);
  } else {
    if (f->bad < MAX_BAD)
      return MPCC_OK;
    snprintf(cause, sizeof cause, "loss or gradient norm not finite in %d steps in a row", f->bad);
  }
  return mprt__diverged(f->p, f->out_dir, f->step, cause);
}

/* A run that was stopped behind a step: what comes after that step is made up for, so that the
 * parts tell the history of one run. */
static Status make_up(Fit *f) {
  int64_t epoch = f->epoch;
  if (!f->p->cursor.due)
    return MPCC_OK;
  f->p->cursor.due = false;
  f->epoch_over = f->sample == 0;
  f->epoch -= f->epoch_over;
  f->saved_step = -1; /* the checkpoint is written again: nothing is due in it any more */
  Status st = after_step(f);
  f->epoch = epoch;
  f->epoch_over = false;
  return st;
}

/* Ended by cb.stop, behind a step or in what follows it: a checkpoint from which that is made up for. */
static Status stopped(Fit *f, Status st) {
  mprt_program *p = f->p;
  if (p->stop == 3)
    return st;
  p->cursor.due = true;
  f->saved_step = -1; /* one of this step may be there, but says that nothing is due */
  const Status saved = save(f, NAN);
  if (saved == MPCC_OK)
    mprt__log(&p->cb, MPRT_LOG_INFO, "stopped after step %lld, saved in %s; --resume goes on",
              (long long)f->step, f->out_dir);
  return saved == MPCC_OK ? st : saved;
}

static Status loop(Fit *f) {
  mprt_program *p = f->p;
  Status st = make_up(f);
  if (st == MPCC_OK && f->step && f->step >= f->facts.last_step)
    mprt__log(&p->cb, MPRT_LOG_INFO,
              "nothing is left to train: the checkpoint is of step %lld, the run ends at %lld",
              (long long)f->step, (long long)f->facts.last_step);
  while (st == MPCC_OK && f->step < f->facts.last_step && !f->stop) {
    mprt__step_result r;
    st = one_step(f, &r);
    if (st != MPCC_OK)
      return st;
    emit(f, MPRT_EVENT_STEP, &r, NULL, NULL);
    tell_skipped(f, &r);
    st = check_finite(f, &r);
    if (st != MPCC_OK)
      return st;
    st = mprt__asked_to_stop(p);
    if (st == MPCC_OK)
      st = after_step(f);
    if (st == MPCC_OK && f->facts.max_seconds >= 0 &&
        mprt__seconds() - f->begun >= (double)f->facts.max_seconds) {
      mprt__log(&p->cb, MPRT_LOG_INFO, "max_time is over after step %lld", (long long)f->step);
      f->stop = true;
    }
  }
  if (p->stop)
    return stopped(f, st);
  if (st == MPCC_OK && mprt__json_bool(p->spec, "checkpoint.save_last", true))
    st = save(f, NAN);
  return st;
}

static Status begin(Fit *f) {
  mprt_program *p = f->p;
  Status st = mprt__data_open(p, "train", &f->train);
  if (st == MPCC_OK && mprt_evaluates(p, "val"))
    st = mprt__data_open(p, "val", &f->val);
  if (st != MPCC_OK)
    return st;
  settle_facts(f);
  st = settle_checks(f);
  f->step = mprt__get_int(p, "count.taken", 0) + mprt__get_int(p, "count.skipped", 0);
  f->first_step = f->step;
  f->skipped = mprt__get_int(p, "count.skipped", 0);
  f->saved_step = f->step > 0 ? f->step : -1;
  f->epoch = p->cursor.epoch;
  f->sample = p->cursor.sample;
  mprt__fit_recall(p);
  if (st == MPCC_OK)
    st = mprt__metrics_open(p);
  if (st == MPCC_OK)
    st = mprt__instrument_create(p, &f->instrument);
  mprt__loader_options o = {
      .data = f->train,
      .split = "train",
      .shuffle = mprt__json_bool(p->spec, "data.loader.shuffle", true) && !mprt__overfits(p),
      .drop_last = drop_last(p),
      .batch = f->facts.batch,
      .seed = p->seed,
      .epoch = f->epoch,
      .sample = f->sample,
      .endless = true,
      .limit = f->facts.batches,
      .prefetch = (int)mprt__json_int(p->spec, "data.loader.prefetch_factor", 2)};
  if (st == MPCC_OK)
    st = mprt__loader_create(p, &o, &f->loader);
  if (st == MPCC_OK && f->val)
    st = mprt_check_data(p, "val");
  if (st == MPCC_OK) /* nothing in the folder changes for a run that cannot begin */
    st = mprt__run_folder(p, f->step, &f->out_dir, &f->lock);
  if (st == MPCC_OK)
    st = mprt__keep_recall(p, json_object_get(p->fit_state, "checkpoints"), f->out_dir, f->step);
  return st;
}

/* `export:` of the spec, when training has come to its end. */
static Status export_all(Fit *f) {
  const json_t *list = mprt__json_get(f->p->spec, "export");
  Status st = MPCC_OK;
  for (size_t i = 0; st == MPCC_OK && i < json_array_size(list); i++) {
    const json_t *e = json_array_get(list, i);
    const char *name = mprt__json_string(e, "path", "");
    DType dtype = dtype_from_torch(mprt__json_string(e, "dtype", "float32"));
    char *path = *name == '/' ? mprt__format("%s", name) : mprt__format("%s/%s", f->out_dir, name);
    st = path ? mprt_save_weights(f->p, path, dtype) : mprt__nomem(&f->p->cb, "export");
    if (st == MPCC_OK)
      mprt__log(&f->p->cb, MPRT_LOG_INFO, "%s has the weights in %s", path, dtype_text(dtype));
    free(path);
  }
  return st;
}

mpcc_status mprt_fit(mprt_program *p) {
  Fit f = {.p = p, .lock = -1};
  p->stop = 0;
  Status st = begin(&f);
  if (st == MPCC_OK) {
    f.begun = f.started = f.window_start = mprt__seconds();
    f.trace = mprt__trace_create(p, f.step);
    emit(&f, MPRT_EVENT_START, NULL, NULL, f.out_dir);
    st = loop(&f);
    if (mprt__device_status(p) != MPCC_OK && f.saved_step > 0)
      mprt__log(&p->cb, MPRT_LOG_WARNING,
                "the checkpoint of step %lld is whole: --resume goes on from it",
                (long long)f.saved_step);
    if (st == MPCC_OK && mprt__json_int(p->spec, "trainer.fast_dev_run", 0) == 0)
      st = export_all(&f);
    Status told = mprt__instrument_report(f.instrument, p, f.out_dir);
    st = st == MPCC_OK ? told : st;
    if (f.step == f.first_step && f.sample == 0 && f.epoch > 0)
      f.epoch--; /* nothing was left to train: the newest step is of the epoch before */
    emit(&f, MPRT_EVENT_END, NULL, NULL, f.out_dir);
  }
  mprt__instrument_destroy(f.instrument);
  mprt__trace_destroy(f.trace);
  mprt__loader_destroy(f.loader);
  mprt__data_close(f.train);
  mprt__data_close(f.val);
  if (f.lock >= 0)
    close(f.lock);
  free(f.out_dir);
  return st;
}
