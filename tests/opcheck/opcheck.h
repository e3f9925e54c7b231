/* opcheck: every op of ir/ops.def and ir/scalar.def on the CPU and the CUDA target, judged by the
 * reference interpreter.
 *
 *   cases.def --table.c--> Inst --unit.c--> one small module each --batch.c--> a program
 *   program + interpreter + data.c --judge.c--> verdict;   grad.c: finite differences
 *
 * On a machine without the compiler (packed/) programs come out of files that pack.c wrote here.
 *
 * A case is a line of the table, an instance is a case with dtype and shape chosen. */
#ifndef OPCHECK_H
#define OPCHECK_H

#include <stdio.h>

#include "ir/ir.h"
#include "mpcc/runtime.h"

/* ---- table.c --------------------------------------------------------------------------------- */

/* How far a result may lie from the interpreter's (strict numerics), beyond one rounding to the
 * result's dtype. u = unit roundoff of the registers, n = `terms`, s = 4 sqrt(n) + 8: errors of n
 * roundings that are independent (Higham and Mary 2019). */
typedef enum {
  EXACT,  /* the same number */
  BODY,   /* interval arithmetic over the elementwise body, bound.c */
  LINEAR, /* s u times what the op gives for the magnitudes of its operands */
  NORM,   /* s u times the largest magnitude of the result, times the largest value made within (at
             least 1): 1 / sigma of a norm, an argument of exp */
  CHAIN,  /* NORM, plus what the interpreter's own roundings between the ops change */
} Judge;

typedef struct {
  const char *op, *variant; /* variant "" for the plain one */
  const char *dtypes;       /* "f64 f32": what $ stands for */
  const char *shapes;       /* "M=50,N=64 M=1,N=7": capital letters; the first is the quick one */
  const char *operands;     /* "x:$[M,N] i:i64[M]=class:N" */
  const char *program;      /* "y = linear(x, w) {...}; gelu(y)": results of the last are judged */
  Judge judge;
  const char *terms; /* "K", "MN": length of the longest sum; "" = 1 */
  const char
      *checks; /* F forward, G gradient (of the first result, in all operands without =fill) */
} Case;

enum { LETTERS = 26, NAME_MAX_BYTES = 200 };
typedef struct {
  const Case *c;
  DType dt;
  char shape[80];          /* as in the table */
  int64_t letter[LETTERS]; /* 0: not given */
  bool grad;
  bool first; /* has the first shape of its case */
} Inst;

const Case *case_table(int *n);
/* How many instances of a case, forward and gradient. */
typedef enum { ALL_OF_THEM, ONE_OF_A_DTYPE, ONE_EACH } Few;
/* Instances of the table for which name, dtype and shape agree ("" or NULL: all). malloc'ed; -1
 * when memory is short. */
int inst_list(const char *name, const char *dtype, const char *shape, Few few, Inst **out);
/* "layer_norm.affine/grad": op, variant, direction. */
void inst_name(const Inst *i, char out[NAME_MAX_BYTES]);
int64_t inst_terms(const Inst *i);

/* ---- support.c ------------------------------------------------------------------------------- */

/* docs/support.md to standard output. */
void print_support(void);

/* ---- data.c ---------------------------------------------------------------------------------- */

/* What the operands hold. SPECIAL: infinities, NaN, zeros of both signs, subnormals, the largest
 * numbers; NANS: one NaN per operand; operands with =fill hold their fill in all kinds. */
typedef enum { DATA_RANDOM, DATA_ZEROS, DATA_NANS, DATA_SPECIAL, DATA_COUNT } DataKind;
extern const char *const data_names[DATA_COUNT];
bool data_fits(const Inst *i, DataKind k);
/* Fills x for tensor t of the instance's module; its attribute `fill` says with what. The same for
 * the same arguments, whatever else runs. */
void data_fill(const Inst *i, const Tensor *t, DataKind k, uint64_t seed, double *x);

/* ---- unit.c ---------------------------------------------------------------------------------- */

typedef struct {
  Arena *arena;
  StrTable *strings;
  Diag *diag;
} World;
bool world_create(World *w);
void world_destroy(World *w);
void world_show(const World *w); /* its diagnostics, to stderr */

/* The instance as a module of one function: tensors of its operands, out.0 ... for its results,
 * with gradients metric.loss and grad.<operand>. `whole` is what the interpreter runs; `lowered`
 * what fuse takes. Either may be the other. */
typedef struct {
  Module *whole, *lowered;
  const Func *func; /* of whole */
} Unit;
Status unit_build(World *w, const Inst *i, Unit *out);
void unit_fini(Unit *u);
bool is_result(const Tensor *t); /* written by the function */

/* ---- bound.c --------------------------------------------------------------------------------- */

/* Where a value computed in registers of finite precision may lie. */
typedef struct {
  double lo, hi;
  bool nan;    /* may be NaN */
  bool number; /* may be a number, in [lo, hi] */
} Range;
/* Result of an elementwise body in registers `reg` on exact arguments, stored as `to`. */
Range bound_scalar(const Scalar *s, const double *args, DType reg, DType to);

/* ---- batch.c --------------------------------------------------------------------------------- */

enum { BATCH_MOST = 64 };
typedef struct {
  mprt_program *program; /* functions f0, f1 ...; tensors f0.<name> */
  void *image;
  size_t image_bytes;
  double flops[BATCH_MOST];     /* of each function's products */
  uint64_t kernels[BATCH_MOST]; /* hash over each function's kernels: equal is the same code */
} Batch;
/* How batches are compiled. level: of the CPU target ("x86-64-v3") or of the CUDA target ("sm_90").
 */
typedef struct {
  const char *level;
  bool strict, plan_mode;
  const char *cache; /* folder of compiled kernels; NULL: none */
} BatchOpts;
bool is_cuda_level(const char *level);
/* Compiles the lowered modules of n units, at most BATCH_MOST, into one program.
 * errors  ERR_TARGET: the target does not have all of them */
Status batch_build(World *w, const Unit *const *units, int n, const BatchOpts *o, Batch *out);
/* The same without compiling: only flops and kernels are set. */
Status batch_plan(World *w, const Unit *const *units, int n, const BatchOpts *o, Batch *out);
/* Whether the target has all of it: kernels are written as text, not compiled. ERR_TARGET: no. */
Status batch_writes(World *w, const Unit *const *units, int n, const BatchOpts *o);

/* ---- program.c ------------------------------------------------------------------------------- */

/* Opens b->image. errors: as mprt_open; words go to stderr */
Status batch_open(Batch *b, const char *device, bool plan_mode);
void batch_fini(Batch *b);

/* ---- tally.c: results beside those of another run or target ---------------------------------- */

typedef struct {
  long elements, unequal; /* of 16- and 8-bit values */
  long off, other_off;    /* of them this run's, the other's, are not the interpreter's */
  double worst; /* of wider ones: largest distance by the largest magnitude of its tensor */
  char where[NAME_MAX_BYTES];
} Tally;
/* n elements of format dt, of `name`. */
void tally_add(Tally *t, DType dt, const double *a, const double *b, int64_t n, const char *name);
/* The same codes beside those of the interpreter, whose sums are FP64. */
void tally_truth(Tally *t, DType dt, const double *a, const double *b, const double *truth,
                 int64_t n);

/* Results written down in one run (`to`), to be compared with in another (`from`). */
typedef struct {
  FILE *to;
  char *from; /* the whole file, or NULL */
  size_t from_bytes, at;
  Tally tally;
  long missing; /* results that `from` lacks */
} Saved;
/* Either path may be NULL. false, with words on stderr. */
bool saved_open(Saved *s, const char *to, const char *from);
bool saved_close(Saved *s); /* false: not everything was written */
void saved_result(Saved *s, const Inst *i, const char *numerics, const Tensor *t, const double *x);

/* ---- judge.c --------------------------------------------------------------------------------- */

typedef struct {
  const char *level;
  uint64_t seed;
  int data; /* a DataKind, or -1: all */
  bool strict, fused;
  bool no_differences; /* gradients are not held against differences of the loss: only the
                        * interpreter is judged by that, no target */
  bool short_sums;     /* the device's tensor cores keep 14 bits of sums of 8-bit codes */
  const char *cache, *pack; /* folders: compiled kernels; where programs are written; NULL: none */
  Saved *saved;             /* NULL: none */
} Options;

/* The programs of one batch of instances. */
enum { TOGETHER = 32 };
typedef struct {
  int n;
  Unit unit[TOGETHER];
  int fused_at[TOGETHER]; /* function of the fused program; -1: its kernels are the strict ones */
  Batch strict, fused;
  Batch beside; /* of a GPU's: strict kernels of the CPU target; else without a program */
  Tally *tally; /* how far the GPU is from it */
} Together;

/* Runs instance k of t on its data; prints failures. Returns how many comparisons were made,
 * negative when one failed. */
int judge_unit(const Inst *i, const Together *t, int k, const Options *o);
/* One line that reruns the instance. */
void print_rerun(const Inst *i, const Options *o, const char *numerics, int data);

/* ---- run.c ----------------------------------------------------------------------------------- */

typedef struct {
  int passed, failed, lacking; /* lacking: the target does not have them yet */
  int packs;                   /* files of pack_write */
  long compared;
  Tally tally; /* a GPU beside the CPU target */
} Score;
/* What a crash is blamed on from now on. */
void watch_crashes(void);
void judge_together(World *w, const Together *t, const Inst *list, const Options *o, Score *score);
void together_fini(Together *t);
/* The last lines of a run, and what it exits with. json: a file for the same, or NULL. */
int print_score(const Score *score, const Saved *saved, double run_seconds, const char *json);
double seconds(void);

/* ---- made.c: programs compiled here ---------------------------------------------------------- */

/* Compiles and judges n instances, at most TOGETHER; halves of them when one does not compile. */
void run_batch(const Inst *list, int n, const Options *o, Score *score);

/* ---- bench.c --------------------------------------------------------------------------------- */

void bench(const Inst *i, const Options *o);

/* ---- pack.c: programs in files, for a machine without the compiler
 * ------------------------------- One file a batch, an MpccArchive: a text (a line per instance:
 * name, dtype, shape, fused_at), the image of the strict program, the fused one's (empty when there
 * is none). */

/* Writes t into folder, under the number `index`. errors: ERR_FILE, ERR_NOMEM */
Status pack_write(const char *folder, int index, const Together *t, const Inst *list);
/* packed/read.c: reads such a file; list has room for TOGETHER. Units are built, nothing is opened.
 * errors: ERR_FILE, ERR_INPUT, ERR_NOMEM */
Status pack_read(World *w, const char *path, Inst *list, Together *out);

/* ---- grad.c ---------------------------------------------------------------------------------- */

/* Gradients of the interpreter in f64 against its central differences. true: they agree. */
bool grad_check(World *w, const Inst *i, const Options *o);

#endif
