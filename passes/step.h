/* Private to the files that pass_step is made of:
 *   step.c       tensors in flat storage, the functions
 *   derived.c    values that depend on state only: computed once per step, not once per micro-batch
 *   accum.c      one micro-batch: forward and backward, and what becomes of its results
 *   lossscale.c  seed, unscaling factor, scaler           [N7]
 *   clip.c       gradient norm, finite check, clipping    [N11]
 *   outlier.c    steps far above the ordinary             [N11]
 *   optim.c      the table of optimizers                  [N6, N12] */
#ifndef MPCC_PASSES_STEP_H
#define MPCC_PASSES_STEP_H

#include "passes/passes.h"

enum { MAX_MOMENTS = 6, FLAT_ALIGN = 64 /* elements */ };

/* A trained parameter at elements [at, at + elems) of its group's flat tensors. */
typedef struct {
  const Tensor *param, *grad; /* of the module before */
  Tensor *view, *grad_view;
  int64_t at, elems,
      room; /* room: elems rounded up to FLAT_ALIGN; what is beyond elems stays zero */
} Member;

typedef struct {
  int index, nmember;
  Member *member;
  int64_t elems;
  Tensor *flat, *grad, *weight; /* weight: low-precision copy of flat, NULL when nothing reads it */
  Tensor *moment[MAX_MOMENTS];
} Group;

/* A state of an optimizer beside each parameter. */
typedef struct {
  const char *name, *when; /* when: only if this hyperparameter is not 0 in some group */
  bool square;             /* sum of squared gradients */
  const char *start;       /* hyperparameter it starts from; NULL: 0 */
} OptimizerState;
typedef struct {
  const char *name, *hyper, *columns; /* "name=default ...", columns of the step table */
  OptimizerState state[MAX_MOMENTS];
  const char *update;
} OptimizerRow;

/* A value of state alone that is kept in segment `derived`. */
typedef struct {
  Str key;
  const Value *v; /* one function's instance, in the module before */
  Tensor *tensor;
  bool turned;   /* the transpose of v, which are codes */
  bool by_group; /* a view of a Group's weight */
  bool of_scale; /* depends on FP8 scales */
  bool trained;  /* depends on a trained parameter */
  bool packed;   /* only packs read it, which round themselves: not kept */
} Derived;

typedef struct {
  const Module *in;
  Builder *b;
  Diag *diag;
  Arena *scratch;
  Mode mode;
  bool scaler;
  bool rounding_packs;          /* of the target */
  bool turned_codes;            /* the target's library multiplies codes along k alone */
  bool micro;                   /* with the functions of single micro-batches, and what they keep */
  int64_t accumulate, capacity; /* capacity: largest weight_sum of an optimizer step */
  DType accum;                  /* gradients between micro-batches */
  const OptimizerRow *optimizer;
  const char *columns; /* its own of the step table, and the momentum when a schedule moves it */
  int nmoment;
  const OptimizerState *moment[MAX_MOMENTS]; /* those in use */
  Tensor **tensors; /* of the new module, by index in the old; NULL: without `micro` not needed */
  int ngroup;
  Group *group;
  int nderived;
  Derived *derived;
  Tensor *table, *seen, *taken, *skipped, *scale, *tracker;
  Tensor *norm_metric, *scale_metric, *finite_metric;
  double zscore[2]; /* of loss and gradient norm; 0: not watched */
  Tensor *outlier_count, *outlier_mean[2], *outlier_var[2]; /* NULL: not watched */
  Tensor **sum; /* accumulator of an old metric tensor, by its index; NULL for others */
} Step;

/* What a micro-batch computed, by index of the old tensor it was written to. */
typedef struct {
  Value **written;
} Micro;

/* New values of state inside a function; NULL: the tensor is read. */
typedef struct {
  Value **flat; /* by group */
  Value *scale_forward, *scale_backward;
} NewState;

double step_group_number(const Step *s, int group, const char *key, double otherwise);
/* Following ops are the step's own: no layer, the reason given. */
void step_at(Step *s, const char *why);

/* ---- derived.c ---- */
void derived_collect(Step *s);
/* state[v->id] for values of f that depend on parameters and scales alone. */
bool *derived_state_only(Step *s, const Func *f);
/* Such a value inside a forward function: reads of state or derived tensors. */
Value *derived_use(Step *s, const Value *v);
/* Whether the second factor of op, a product, is kept transposed: state says which values depend on
 * state alone. */
bool derived_is_turned(const Step *s, const Op *op, const bool *state);
/* It, transposed, inside a forward function. */
Value *derived_use_turned(Step *s, const Value *v);
typedef enum { DERIVED_ALL, DERIVED_TRAINED, DERIVED_SCALED } DerivedSet;
/* Computes and writes the derived tensors of the set. */
void derived_write(Step *s, DerivedSet set, const NewState *now);

/* ---- accum.c ---- */
typedef enum { MICRO_FIRST, MICRO_NEXT, MICRO_CALIBRATE, MICRO_STEP } MicroKind;
/* Copies train_forward (only what amaxes need for MICRO_CALIBRATE) into the current function. */
Status micro_forward(Step *s, MicroKind kind, Micro *m);
/* Writes its results to the accumulators; overwrites or adds. */
void micro_store(Step *s, MicroKind kind, const Micro *m);
void step_count_seen(Step *s);
/* Copies an evaluation function. */
Status step_copy_func(Step *s, const Func *f, const char *name);

/* Largest magnitudes of what this step quantized, which the codes do not show: f32[slots] of
 * operands and of gradients; NULL without FP8. [N2] */
typedef struct {
  Value *amax[2];
} Saturating;

/* ---- lossscale.c ---- */
Value *lossscale_seed(Step *s);
Value *lossscale_scale(Step *s); /* f32[] S; 1 without scaler */
Value *lossscale_factor(Step *s, Value *weight_sum);
void lossscale_update(Step *s, Value *const *grad, const Saturating *codes);

/* ---- clip.c ---- */
typedef struct {
  Value *factor; /* unscaling */
  Value *norm;   /* of unscaled gradients */
  Value *finite; /* 1: loss and norm are finite */
  Value *ok;     /* 1: the update is applied, 0: it is not [N11] */
  Value *coef;   /* clipping factor; NULL: none */
  double limit;  /* clipping by value; 0: none */
} Clip;
Clip clip_gradients(Step *s, Value *const *grad, Value *factor, Value *loss_sum,
                    const Saturating *codes);
Value *clip_apply(Step *s, const Clip *c, Value *grad); /* unscaled and clipped, in math dtype */

/* ---- outlier.c ---- */
void outlier_declare(Step *s);
/* 1 when the step is finite and no outlier; the statistics go on. */
Value *outlier_accept(Step *s, const Clip *c, Value *loss_sum, Value *weight_sum);

/* ---- optim.c ---- */
Status optim_named(Step *s);
DType optim_moment_dtype(const Step *s, int moment);
double optim_moment_start(const Step *s, int group, int moment);
Str optim_columns(Step *s, int *n);
/* Writes parameters, moments, counters of group k; flat[k]: new parameters. */
void optim_update(Step *s, const Clip *c, Value *const *grad, Value **flat);

#endif
