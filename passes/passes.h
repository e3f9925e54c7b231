/* Passes: pure functions from a finished module to the next. See passes.def for the pipeline. */
#ifndef MPCC_PASSES_H
#define MPCC_PASSES_H

#include "ir/ir.h"

/* ---- precision: what a mode means ------------------------------------------------------------------
 * Written by the frontend as module attributes (string or number) and read by passes through these
 * names, so that a `.mpir` file is complete:
 *   mode            canonical precision string: 64-true 32-true 16-mixed bf16-mixed 16-true bf16-true
 *                   transformer-engine transformer-engine-float16
 *   policy          cuda | cpu, or a dated list of policies.def
 *   compat          none | lightning
 *   residual        promote | low        numerics fused | strict
 *   master_weights  float32 | none; update_rounding nearest | stochastic | kahan
 *   float32_matmul float32_conv   highest | high | medium; ops carry their layer's as `float32`
 *   region_transforms region_optimizer   modes of places outside the layers; the ops of losses and
 *                   metrics carry theirs themselves
 *   weights_dtype fallback_dtype         bf16 | f16 (transformer-engine modes)
 *   fp8_format HYBRID|E4M3, amax_history_len, amax_compute_algo max|most_recent, margin, first_step
 *   scaler          0 | 1; scaler_init_scale scaler_growth_factor scaler_backoff_factor
 *                   scaler_growth_interval scaler_min_scale scaler_static
 *   recompute.<i>   "full PREFIX" or "attention PREFIX": layers whose activations backward computes
 *                   again (again.c), numbered from 0 without gaps
 *   batch           samples per micro-batch; accumulate: micro-batches per step
 *   clip_algorithm  none | norm | value; clip_val
 *   skip_loss_zscore, skip_grad_norm_zscore   steps above so many deviations are skipped; 0: none
 *   optimizer       a row of optim.c; group.<k>.<key> = hyperparameters of parameter group k
 *                   (lr, weight_decay, betas as beta1 beta2, eps, momentum ...)
 *   ema_decay       moving average of the parameters, 0: none; ema_every_n_steps
 *   name, mpcc, target.* (TargetCaps, set before fuse)
 * Parameters carry attr group=<k> and init=...; see docs/ir.md. */

typedef struct {
  const TargetCaps *caps;  /* step, save, fuse and plan read it; NULL before */
  bool strict;             /* --numerics=strict [N10] */
  bool no_reuse;           /* plan mode for tests: every buffer its own bytes */
  int opt_level;
  int64_t logits_bytes; /* above so many, chunk takes a loss in parts; 0: 1 GiB */
  bool called_only; /* step leaves out what no training loop calls: micro-batches of steps of one */
  const char *no_fp8; /* on_unsupported: fallback, and this target has no units: fp8 leaves all
                       * products in the fallback dtype; NULL: it quantizes */
} PassOpts;

typedef Status PassFn(const Module *in, const PassOpts *o, Builder *out, Diag *d);

#define PASS(name, needs, gives, doc) PassFn pass_##name;
#include "passes/passes.def"
#undef PASS

typedef struct {
  const char *name;
  Stage needs, gives;
  PassFn *run;
  const char *doc;
} PassInfo;

/* again.c: the region, from 1, to which a layer belongs by the module's recompute.<i>; 0: none. The
 * most specific one wins. */
int recompute_region(const Module *m, const char *layer);

/* ---- mode.c: what a precision string means for the passes ------------------------------------ */

typedef struct {
  const char *name;
  bool mixed;     /* ops follow a policy column; else every float has one dtype */
  bool off;       /* of an op: outside autocast, operands as they come */
  bool fp8;       /* products are quantized where their sizes allow */
  bool masters;   /* the forward reads copies of dtype `weight`, `param` is what is trained [N6] */
  bool lightning; /* compat: lightning */
  bool residual_low; /* residual adds compute and store in `low` [N4] */
  int policy;     /* column of ops.def: 0 cuda, 1 cpu */
  const char *policy_name;  /* as the module says it */
  const char *policy_table; /* dated: a row of policies.def */
  DType param;    /* stored parameters */
  DType weight;   /* what the forward sees as a parameter */
  DType low;      /* dtype of LOW ops; of everything when not mixed */
  DType input;    /* dtype of float inputs */
  DType grad;     /* parameter gradients [N5] */
  DType math;     /* norm, scaling, clipping, sums between micro-batches: FP32 or wider [N11] */
  DType moment;   /* the optimizer's state, by mode_get alone */
  DType optim;    /* its arithmetic: FP32 or wider [N12] */
} Mode;
/* Reads the module's attributes. errors: MPCC_ERR_INPUT for an unknown mode, diagnosed. */
Status mode_get(const Module *m, Diag *d, Mode *out);
/* The same with another precision string: a region override. false: unknown string. */
bool mode_named(const Module *m, const char *name, Mode *out);
/* The mode that op follows inside a module of mode `whole`: its attribute `precision` names one, or
 * says "off". false: unknown string. */
bool mode_of_op(const Module *m, const Mode *whole, const Op *op, Mode *out);
/* Low dtype of the mode that module attribute `key` names; `otherwise` without one. */
DType mode_region(const Module *m, const char *key, DType otherwise);
/* What the mode's list says of op. */
Policy mode_policy(const Mode *m, const Op *op);

/* ---- rewrite.c: what passes share when they copy a module ------------------------------------ */

/* Number under a module attribute, whole or not. */
double module_number(const Module *m, const char *key, double otherwise);
/* live[i]: op i of f is a write or feeds one. */
bool *func_live(const Func *f, Arena *a);
/* Runs `rewrite` into a module of its own and copies to out what is live in that: for rewrites that
 * leave operands without users behind. */
Status rewrite_and_sweep(const Module *in, Stage gives, PassFn *rewrite, const PassOpts *o,
                         Builder *out, Diag *d);
/* Copies tensor t with its attributes (tensor attributes through `map`, indexed by Tensor.index). */
Tensor *copy_tensor(Builder *b, const Tensor *t, const char *name, const Type *type, Tensor *base,
                    int64_t base_elem, Tensor *const *map);
/* Copies op with other operands; loc, layer, why and attributes kept; results enter c->map. */
Op *rebuild_op(Copier *c, const Op *op, Value *const *in);
/* Operand i of op in the new function. */
Value *mapped(const Copier *c, const Op *op, int i);
/* v comes from a read of a role param tensor through views and casts only; the read's op, or NULL. */
const Op *param_read(const Value *v);

/* ---- blocks.c ------------------------------------------------------------------------------ */

enum { HADAMARD = 16 };
/* x[R, C], R a multiple of 16: each 16 rows times an orthogonal matrix of signs / 4, in x's dtype. */
Value *build_hadamard(Builder *b, Value *x);

/* x[R, C] with zeros behind, so that blocks of so many rows and columns tile it; what is smaller than one
 * block stays. */
Value *build_padded(Builder *b, Value *x, const int64_t *block);
/* Rows and columns [0, dim) of x. */
Value *build_cut(Builder *b, Value *x, const int64_t *dim);

/* ---- run.c ----------------------------------------------------------------------------------- */
const PassInfo *pass_table(int *n);

typedef struct {
  const char *stop_after;               /* NULL: all */
  const char *print_before, *print_after; /* pass name or "all"; NULL: none */
  bool time;
  bool check;                           /* print, parse back and compare after each pass */
  /* Receives dumps and timings; never NULL when one of them is asked for. */
  void (*dump)(void *user, const char *title, const char *text);
  void *user;
} PassRun;

/* Runs the passes that lead from in's stage on. On success *out is the last module (in is destroyed).
 * On failure the module that went into the failing pass is *out and *failed names the pass: the
 * caller writes the reproducer from it. */
Status passes_run(Module *in, const PassOpts *o, const PassRun *r, Diag *d, Module **out,
                  const char **failed);

#endif
