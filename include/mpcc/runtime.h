/* libmpcc_rt: loads a program image and trains with it. Links alone: no compiler, no LLVM, no YAML.
 * Never prints, exits or installs handlers; words go to the log callback.
 *
 * Life of a program: mprt_open -> (mprt_init | mprt_resume | mprt_load_weights) -> mprt_fit,
 * or, driven by a host: mprt_feed, mprt_train_batch, mprt_run, ... -> mprt_close.
 *
 * Functions that return a status say why in the log callback. ERR_NOMEM, and on a GPU ERR_RUN, may
 * come from any of them. */
#ifndef MPCC_RUNTIME_H
#define MPCC_RUNTIME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mpcc/abi.h"
#include "mpcc/dtype.h"
#include "mpcc/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mprt_program mprt_program;

typedef enum { MPRT_LOG_ERROR, MPRT_LOG_WARNING, MPRT_LOG_INFO } mprt_log_level;

/* A metric of the spec. value: NaN when it was not measured. matrix: counts by target and prediction,
 * classes * classes of them (value is NaN then), or NULL; lives as long as the event. */
typedef struct {
  const char *name;
  double value;
  int classes;
  const double *matrix;
} mprt_metric;

/* What happened in mprt_fit. Strings live during the callback only. */
typedef enum {
  MPRT_EVENT_START,      /* before the first step; total_steps known */
  MPRT_EVENT_STEP,       /* after every step (cheap); `logged` on log_every_n_steps */
  MPRT_EVENT_EVAL,       /* after an evaluation: split, loss, metrics */
  MPRT_EVENT_CHECKPOINT, /* path written */
  MPRT_EVENT_SAMPLE,     /* text the model wrote (logging.sample) */
  MPRT_EVENT_DIVERGED,   /* text: the report, several lines */
  MPRT_EVENT_END
} mprt_event_kind;

typedef struct {
  mprt_event_kind kind;
  bool logged;
  int64_t step, total_steps;      /* optimizer steps seen, incl. skipped */
  int64_t epoch, total_epochs;    /* from 0; total 0 when max_steps rules */
  int64_t taken, skipped;
  double loss, grad_norm, scale;  /* scale 0: no loss scaler */
  int nmetric;                    /* the same ones in every event */
  const mprt_metric *metric;
  double lr;                      /* of parameter group 0 */
  double samples_per_s, data_wait; /* data_wait: share of wall time, 0..1 */
  double eta_s;                   /* seconds left; < 0: not known yet */
  int64_t memory_bytes;           /* segments allocated */
  const char *split, *path, *text;
} mprt_event;

typedef struct {
  /* Any may be NULL. Called on the thread that called mprt_fit. */
  void (*log)(void *user, mprt_log_level level, const char *text);
  void (*event)(void *user, const mprt_event *e);
  /* Polled between steps and between batches of an evaluation, which is then dropped: 0 go on, 1 finish
   * the step and checkpoint (Ctrl-C), 2 the same for SIGTERM/SIGUSR1 (requeue), 3 stop at once. */
  int (*stop)(void *user);
  void *user;
} mprt_callbacks;

/* A decoded image: bytes [3][height][width], red first. pixels: malloc'ed with `room` bytes, grown by
 * the decoder and used again; freed by the owner. message: why decoding failed. */
typedef struct {
  uint8_t *pixels;
  size_t room;
  int64_t height, width;
  char message[200];
} mprt_image;
/* Decodes a compressed image; false after filling out->message. Called on several threads at once. */
typedef bool mprt_decode_fn(const uint8_t *data, size_t bytes, mprt_image *out);
/* JPEG and PNG; in libmpcc_codec, which needs libjpeg and libpng. */
mprt_decode_fn mprt_decode_image;

typedef struct {
  const char *data_dir;        /* base of relative data paths; NULL: current folder */
  const char *const *data;     /* "SPLIT=FOLDER" or "SPLIT.KEY=FILE" overrides */
  int ndata;
  const char *out_dir;         /* run folder; NULL: checkpoint.dirpath, else runs/NAME/STAMP */
  const char *resume;          /* NULL no; "" newest complete checkpoint; else a checkpoint folder */
  const char *const *reset;    /* names of tensors that start anew when resuming; layers or patterns */
  int nreset;
  const char *weights;         /* safetensors to start from; NULL: init */
  int64_t max_steps, max_epochs; /* -1: the spec's */
  int64_t seed;                /* -1: the spec's */
  int64_t log_every;           /* -1: the spec's */
  int threads;                 /* 0: what affinity and the cgroup quota allow */
  bool plan_mode;              /* tests: canaries around buffers, NaN fill at death */
  const char *level;           /* force a code level; NULL: best that runs here */
  const char *device;          /* "cpu", "cuda", "cuda:N"; "auto", NULL: the first that has code here */
  const char *instrument;      /* "nan,range,time": what to watch; NULL: what the image says */
  mprt_decode_fn *decode;      /* of image folders: mprt_decode_image, or NULL where there are none */
} mprt_options;
/* Sets every field to what leaves the choice to the spec and the machine. */
void mprt_options_default(mprt_options *o);

/* Bytes this process may hold: physical memory, cut by cgroup limits. */
uint64_t mprt_memory_limit(void);

/* Checks the image (all offsets, counts, version), maps code, allocates every segment, fills the
 * table and runs nothing. `image`, at a multiple of 64 bytes, may hold several images (each at the
 * next multiple of 64 behind the one before): the first whose code runs here is taken. It must stay
 * valid until mprt_close; options, with their strings, and callbacks are copied. On failure *out is
 * NULL and the words went to cb->log. A program serves one thread at a time.
 * errors  ERR_INPUT (not an image), ERR_TARGET (no code level runs here: names the feature),
 *         ERR_NOMEM */
mpcc_status mprt_open(const void *image, size_t bytes, const mprt_options *o,
                      const mprt_callbacks *cb, mprt_program **out);
void mprt_close(mprt_program *p); /* NULL is fine */

/* Initial weights: runs `init` (streams of the seed), the spec's init_from, and `refresh`. errors:
 * those of mprt_load_weights where the spec starts from a file */
mpcc_status mprt_init(mprt_program *p);
/* Parameters by name from a safetensors file, converted to master precision; strict: every
 * parameter present, no tensor left over. Then `refresh`. errors: ERR_FILE, ERR_DATA (not
 * safetensors, other names or shapes) */
mpcc_status mprt_load_weights(mprt_program *p, const char *path, bool strict);
/* The model's parameters and buffers (those of the EMA where the spec exports them) as safetensors
 * in `dtype`, logical torch shapes. errors: ERR_FILE, ERR_USAGE (no float), ERR_NOMEM */
mpcc_status mprt_save_weights(mprt_program *p, const char *path, mpcc_dtype dtype);

/* Rounds every parameter to `dtype` and back, then `refresh`: what predictions with weights of that
 * format give. Training does not go on from there. errors: ERR_USAGE (no float) */
mpcc_status mprt_round_weights(mprt_program *p, mpcc_dtype dtype);
/* Floats of a safetensors file as `dtype` in another file, under the same names; other tensors stay as
 * they are. errors: ERR_FILE, ERR_DATA, ERR_NOMEM */
mpcc_status mprt_convert_weights(const char *from, const char *to, mpcc_dtype dtype,
                                 const mprt_callbacks *cb);

/* Whole checkpoint folder: model.safetensors, optimizer.safetensors, state.json, DONE last; written
 * under another name and renamed. errors: ERR_FILE */
mpcc_status mprt_save_checkpoint(mprt_program *p, const char *dir);
/* State of a checkpoint folder, to the same bits; names what does not fit this program. dir: the
 * folder, a run folder for its newest complete checkpoint, or "" for the newest of this program's own.
 * errors: ERR_FILE, ERR_DATA */
mpcc_status mprt_resume(mprt_program *p, const char *dir);

/* The training loop of the spec: data, steps, evaluation, checkpoints, metrics files.
 * Returns OK, ERR_DIVERGED, ERR_INTERRUPTED, ERR_REQUEUE, or an error: ERR_FILE, ERR_DATA. */
mpcc_status mprt_fit(mprt_program *p);
/* Mean loss and metrics over a split of the spec's data, with the weights as they are. loss may be NULL;
 * metric: room for mprt_metric_count() of them, or NULL; matrices live until the next evaluation.
 * errors: ERR_FILE, ERR_DATA (no such split, or limited to 0 batches), ERR_INPUT (the image has no eval_step) */
int mprt_metric_count(const mprt_program *p);
mpcc_status mprt_evaluate(mprt_program *p, const char *split, double *loss, mprt_metric *metric);
/* Whether the spec has data for the split. */
bool mprt_has_split(const mprt_program *p, const char *split);
/* Whether training evaluates val or test: there is data, and limit_SPLIT_batches is not 0. */
bool mprt_evaluates(const mprt_program *p, const char *split);
/* Whether the split's data is there and fits the model, by its names and shapes: what would end a later
 * mprt_evaluate is known before training. errors: ERR_FILE, ERR_DATA */
mpcc_status mprt_check_data(mprt_program *p, const char *split);
/* Predictions of the split (or the file given by --data) as .npy, [samples, ...]: f64 in 64-true,
 * else f32. errors: ERR_FILE, ERR_DATA, ERR_INPUT (the image has no predict) */
mpcc_status mprt_predict(mprt_program *p, const char *split, const char *npy_path);

/* ---- driven by a host ---- */

/* A tensor of any segment. data: the program's memory, row-major in dtype, writable, valid until
 * mprt_close. On a GPU it is the host's copy: mprt_find brings the values here and tells that they may
 * be written, so ask anew before each look and each batch. */
typedef struct {
  const char *name;
  mpcc_dtype dtype;
  int rank;
  const int64_t *dim;
  void *data;
  size_t bytes;
  const char *role, *attrs; /* attrs: JSON object */
} mprt_tensor;
/* false when no tensor has the name: weights as in the spec, io.INPUT, output.NAME, optim.NAME.exp_avg. */
bool mprt_find(mprt_program *p, const char *name, mprt_tensor *out);
int mprt_tensor_count(const mprt_program *p);
bool mprt_tensor_at(mprt_program *p, int i, mprt_tensor *out);
/* The next batch of a split into the io tensors: train in the shuffled order of the seed, others as
 * they are stored; from the start again behind the end, and when the split is another one. valid: real
 * samples in it, may be NULL. errors: ERR_DATA, ERR_FILE, ERR_NOMEM */
mpcc_status mprt_feed(mprt_program *p, const char *split, int64_t *valid);
bool mprt_has_function(const mprt_program *p, const char *function);
/* Runs one function of the image on the batch in the io tensors: "predict", "eval_step", "train_step" ...;
 * "refresh" after the host has written weights. What predict returns is there until the next function
 * runs. errors: ERR_USAGE (no such function) */
mpcc_status mprt_run(mprt_program *p, const char *function);
/* Runs one kernel of the image by symbol over all its tiles, on buffers of the caller. bytes: of the
 * buffer behind each of n arguments, 0 where it is an integer; the first nout are results. On a GPU they
 * are copied there and back. symbol "": a product of the image by the vendor's library, arguments as its
 * command has them (abi.h). errors: ERR_INPUT when the image has no such kernel, ERR_RUN, ERR_NOMEM */
mpcc_status mprt_run_kernel(mprt_program *p, const char *symbol, const MpccArg *args,
                            const uint64_t *bytes, int n, int nout);
/* One optimizer step on the batches already in the io tensors when accumulation is 1; updates the
 * table row and counters. errors: ERR_USAGE (accumulation) */
mpcc_status mprt_train_step(mprt_program *p);
/* The same on a batch whose first `samples` samples are real; *loss (may be NULL): their mean loss. The
 * first step of an FP8 program calibrates its scales on the batch. errors: ERR_USAGE (accumulation) */
mpcc_status mprt_train_batch(mprt_program *p, int64_t samples, double *loss);
/* YAML of the resolved spec, and the plan in words; "" when the image carries none. */
const char *mprt_spec_text(const mprt_program *p);
/* Value of the spec at a dotted path ("logging.progress"); `otherwise` when absent or no such value. */
const char *mprt_spec_text_at(const mprt_program *p, const char *path, const char *otherwise);
bool mprt_spec_flag_at(const mprt_program *p, const char *path, bool otherwise);
const char *mprt_plan_text(const mprt_program *p);
/* Times the kernels of `steps` training steps on the batch in the io tensors; the parameters move
 * on. *text: a table, malloc'ed, NULL on failure. errors: ERR_USAGE (steps < 1), ERR_INPUT (the image
 * has no train_step) */
mpcc_status mprt_profile(mprt_program *p, int64_t steps, char **text);
const char *mprt_meta(const mprt_program *p); /* JSON text of the image */
int64_t mprt_segment_bytes(const mprt_program *p, int segment); /* MPCC_SEG_* of abi.h; else 0 */

#ifdef __cplusplus
}
#endif
#endif
