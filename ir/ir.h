/* The intermediate representation: types and prototypes of the whole folder, grouped by file.
 *
 * A Module is a list of global tensors and a list of functions. A function is a list of ops in
 * order; an op reads values and makes new values (SSA). State is touched only by `read` (the value a
 * tensor has when the function starts) and `write` (the value it has when the function ends).
 * Modules are immutable once finished: a pass reads one and builds the next with a Builder.
 *
 * Everything a later stage needs is in the module and in its text form: print(parse(t)) == t. */
#ifndef MPCC_IR_H
#define MPCC_IR_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mpcc/base.h"
#include "ir/recipe.h"
#include "ir/target.h"

/* ---- arena.c: memory by lifetime ------------------------------------------------------------- */

/* Bump allocator. Nothing is freed singly. After the first failed allocation every later call
 * returns a pointer to a small shared scratch area and arena_failed() answers true (sticky): check
 * once, in *_finish. Not thread safe. */
typedef struct Arena Arena;
Arena *arena_create(void);        /* NULL when memory is short */
void arena_destroy(Arena *a);     /* NULL is fine */
void *arena_alloc(Arena *a, size_t bytes); /* zeroed, 16-byte aligned, never NULL */
/* n * bytes with overflow check. */
void *arena_array(Arena *a, size_t n, size_t bytes);
bool arena_failed(const Arena *a);
/* Marks the arena as failed, for memory that lies elsewhere but belongs to the same work. */
void arena_fail(Arena *a);
/* For tests: the n-th allocation from now fails (1 = next); 0 turns it off. Process-wide. Counts
 * allocations of arenas and Text, and whoever asks arena_injected_failure before a malloc. */
void arena_fail_after(long n);
bool arena_injected_failure(void);

#define ARENA_NEW(a, T) ((T *)arena_alloc(a, sizeof(T)))
#define ARENA_ARRAY(a, T, n) ((T *)arena_array(a, (size_t)(n), sizeof(T)))

/* ---- str.c: interned strings and a text buffer ----------------------------------------------- */

/* Interned: equal text is the same pointer within one StrTable, so `==` compares. */
typedef const char *Str;
typedef struct StrTable StrTable;
StrTable *str_table_create(Arena *a);
Str str_intern(StrTable *t, const char *text, size_t len);
Str str_c(StrTable *t, const char *text); /* zero-terminated text */
uint64_t str_hash(Str s);                 /* of its bytes; s came from a StrTable */
Str str_fmt(StrTable *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
Str str_vfmt(StrTable *t, const char *fmt, va_list ap);
bool str_table_failed(const StrTable *t); /* its arena failed: some Str may be "" instead */

/* Growing text buffer on the heap; sticky on failure. */
typedef struct {
  char *data; /* zero-terminated, NULL while empty */
  size_t len, cap;
  bool failed;
} Text;
void text_fini(Text *t);
void text_put(Text *t, const char *s, size_t len);
void text_puts(Text *t, const char *s);
void text_printf(Text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void text_vprintf(Text *t, const char *fmt, va_list ap);
void text_int(Text *t, int64_t v); /* decimal */
/* Shortest decimal that reads back to the same double ("0.1", "1e-05", "inf", "nan"). */
void text_double(Text *t, double v);
/* JSON string literal, with quotes; bytes that are not UTF-8 become U+FFFD. */
void text_json(Text *t, const char *s);
/* Bytes of the UTF-8 sequence at s in zero-terminated text; 0 when there is none. */
size_t utf8_length(const unsigned char *s);

/* ---- diag.c: diagnostics --------------------------------------------------------------------- */

/* Place in a source text. file indexes Diag's file table, 0 = unknown; line and col from 1; col and
 * len count code points. */
typedef struct {
  uint32_t file, line, col, len;
} Loc;

typedef enum { SEV_NOTE, SEV_WARNING, SEV_ERROR } Severity;

typedef struct DiagNote {
  Loc loc;
  Str text;
  struct DiagNote *next;
} DiagNote;

typedef struct DiagMessage {
  Severity severity;
  int code;     /* 102 prints as MPC0102; 0 for warnings */
  Str warning;  /* "fp8-fallback" prints as -Wfp8-fallback; NULL for errors */
  Loc loc;
  Str text;     /* one line, lower case, with values */
  Str hint;     /* what to do; NULL when there is nothing to say */
  DiagNote *notes;
  struct DiagMessage *next;
} DiagMessage;

/* Sink of diagnostics of one session: collects messages in order, owns copies of the source texts.
 * Nothing is printed here. Not thread safe. */
typedef struct Diag Diag;
Diag *diag_create(Arena *a, StrTable *strings);
/* Registers a source text (copied); returns its file index (from 1). `name` as shown to the user. */
uint32_t diag_file(Diag *d, const char *name, const char *text, size_t len);
const char *diag_file_name(const Diag *d, uint32_t file);
void diag_error(Diag *d, Loc loc, int code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
void diag_warning(Diag *d, Loc loc, const char *warning, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* Whether that warning was given at that place: of a repeated block one layer is enough. */
bool diag_warned(const Diag *d, Loc loc, const char *warning);
/* A message that is no complaint. */
void diag_remark(Diag *d, Loc loc, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Attach to the newest message. */
void diag_hint(Diag *d, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void diag_note(Diag *d, Loc loc, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Attach a note at `loc` to every message so far that lies in `file`, once. */
void diag_note_file(Diag *d, uint32_t file, Loc loc, const char *text);
/* -Wno-NAME, -Werror, -fmax-errors=N (0: no limit). */
void diag_option_ignore(Diag *d, const char *warning, bool ignore);
void diag_option_werror(Diag *d, bool on);
void diag_option_max_errors(Diag *d, int n);
int diag_errors(const Diag *d);   /* errors so far, warnings under -Werror included */
int diag_warnings(const Diag *d);
const DiagMessage *diag_first(const Diag *d);
/* Renders one message in the house style: `name:line:col: error: text [MPC0102]`, the source line,
 * caret range with the hint, notes. colour: ANSI. */
void diag_render(const Diag *d, const DiagMessage *m, bool colour, Text *out);
/* The same as one JSON object on one line. */
void diag_render_json(const Diag *d, const DiagMessage *m, Text *out);
/* Nearest of n names within a small edit distance, else one that begins with the word, else NULL. */
const char *diag_suggest(const char *word, const char *const *names, size_t n);

/* ---- type.c: tensor types -------------------------------------------------------------------- */

enum { MAX_RANK = 8 };

/* Logical shape in torch's order; storage is row-major in that order. Interned: `==` compares. */
typedef struct {
  DType dt;
  int rank;
  int64_t dim[MAX_RANK];
} Type;

typedef struct TypeTable TypeTable;
TypeTable *type_table_create(Arena *a);
const Type *type_get(TypeTable *t, DType dt, int rank, const int64_t *dim);
const Type *type_with_dtype(TypeTable *t, const Type *ty, DType dt);
int64_t type_elems(const Type *ty); /* product of dims; 1 for rank 0 */
int64_t type_bytes(const Type *ty);
bool type_same_shape(const Type *a, const Type *b);
/* numpy broadcast of two shapes into dim; false when they do not fit. */
bool type_broadcast(const Type *a, const Type *b, int *rank, int64_t dim[MAX_RANK]);
void type_print(const Type *ty, Text *out); /* f32[128,1,28,28]; scalars f32[] */

/* ---- scalar.c: scalar programs ---------------------------------------------------------------------
 * One small closed set of primitives. A body is a list of statements in SSA: statement i may read
 * statements < i. The evaluator, the LLVM emitter and the derivative walk the same list. Elementwise
 * ops (scalar.def), `expr` ops and group bodies are all made of it. */

typedef enum {
  /* leaves */
  PR_CONST,  /* imm */
  PR_ARG,    /* operand `ref` of an elementwise body (never in a group body) */
  PR_LOAD,   /* element of group operand `ref`, through its access; register type by storage dtype */
  PR_ACC,    /* product and conv groups: the accumulated element, f32 (f64 in f64 products) */
  PR_INDEX,  /* i64: index along iteration dimension `ref` */
  PR_PARAM,  /* i64: integer kernel parameter `ref` (differs between instances of one kernel) */
  /* arithmetic; operands and result share a register type */
  PR_ADD, PR_SUB, PR_MUL, PR_DIV, PR_NEG, PR_ABS, PR_MIN, PR_MAX, /* min, max: NaN if either is */
  PR_SQRT, PR_EXP, PR_LOG, PR_TANH, PR_ERF, PR_FLOOR, PR_COS, PR_SIN,
  PR_TF32,             /* nearest number with 8 bits of exponent and 10 of mantissa [N3] */
  PR_SR_BF16, PR_SR_F16, /* x, r in [0, 1): x in bf16, f16, away from zero where what is cut off and r
                        * make a whole last place (num.h); in f32 whatever the register */
  /* comparisons give b1; logic on b1; select(c, a, b) */
  PR_LT, PR_LE, PR_EQ, PR_NE, PR_AND, PR_OR, PR_NOT, PR_SELECT,
  PR_ISFINITE, /* b1 */
  /* conversions */
  PR_ROUND, /* float register to the nearest value of dtype `rd`, kept in the register (N1, N2) */
  PR_CVT,   /* between register types f32, f64, i64 (to i64: truncate) and from b1 (0, 1) */
  /* counter-based random number, f32 uniform in [0,1): args seed, step, element (i64 registers) and
   * stream (i64); 24 bits of word 0 of Philox4x32-10 with key = seed, counter = (element lo,
   * element hi, step, stream). Salmon et al. 2011. */
  PR_RAND,
  /* reductions, in group bodies only. RSUM..: over the column dimensions, result at row level.
   * CSUM: over the rows of one panel, result at column level, to be stored as a partial
   * [outer, panels, cols]. ASUM..: over the whole panel, stored as a partial [panels]. */
  PR_RSUM, PR_RMAX, PR_RMIN, PR_CSUM, PR_ASUM, PR_AMAX, PR_AMIN,
  PR_STORE, /* write args[0] to group result `ref`, converting to its storage dtype */
  PR_COUNT
} Prim;

/* Where a statement's value lives, narrowest first. In elementwise bodies everything is LV_ELEM. */
typedef enum { LV_ALL, LV_ROW, LV_COL, LV_ELEM } Level;

enum { STMT_ARGS = 4 };
typedef struct {
  uint8_t prim;          /* Prim */
  uint8_t level;         /* Level */
  uint8_t dt;            /* register type of the result: MPCC_F32, MPCC_F64, MPCC_I64, MPCC_B1 */
  uint8_t rd;            /* PR_ROUND: target format */
  int32_t arg[STMT_ARGS]; /* earlier statements; -1 = unused */
  int32_t ref;           /* operand, result, dimension or parameter number */
  double imm;            /* PR_CONST */
} Stmt;

typedef struct {
  int nstmt, nargs, result; /* result: statement whose value an elementwise body yields */
  Stmt *stmt;
} Scalar;

const char *prim_name(Prim p); /* "add"; also the word in text forms */
Prim prim_from_name(const char *name); /* PR_COUNT when unknown */
int prim_args(Prim p);

/* Parses infix text: numbers, argument names, + - * /, comparisons, && || !, c ? a : b, and calls
 * of prims (sqrt exp log tanh erf floor cos sin abs min max isfinite), of scalar.def rows by name,
 * of float formats (bf16(x): PR_ROUND) and of cvt (truth to 0 or 1). Definitions may come first:
 * `t0 = a * b, t0 * t0`. All float registers are MPCC_F32 here; scalar_typed() makes a copy in
 * other registers. Equal statements are one; the result is the last. `loc` places errors. errors
 * MPCC_ERR_INPUT with a diagnostic; *out = NULL then. */
Status scalar_parse(Arena *a, Diag *d, Loc loc, const char *text, const char *const *args, int nargs,
                    Scalar **out);
/* Canonical infix text with the given argument names; parses back to an equal body. Statements that
 * are used twice are defined first as t0, t1, ...: no argument may have such a name. */
void scalar_print(const Scalar *s, const char *const *args, Text *out);
Scalar *scalar_typed(Arena *a, const Scalar *s, DType reg);
/* d result / d argument `wrt` as a body over the same arguments; simplified (0, 1 folded). NULL when
 * memory is short or the body too long. */
Scalar *scalar_diff(Arena *a, const Scalar *s, int wrt);
/* Value in f64 arithmetic; for float32 registers each primitive is rounded to f32 when `f32`. */
double scalar_eval(const Scalar *s, const double *args, bool f32);
/* The same in f64 with what rounds to a format left out: what the body approximates. */
double scalar_eval_exact(const Scalar *s, const double *args);
bool prim_rounds(Prim p); /* to a format; its first argument is what it rounds */
/* Value of one statement from the values of its arguments, in f64 arithmetic (i64 registers hold
 * integers: their division truncates). Not for leaves but PR_CONST, reductions and stores. */
double prim_eval(const Stmt *s, const double arg[STMT_ARGS]);
bool scalar_is_zero(const Scalar *s);
/* Philox word as uniform in [0,1): the definition that every target must meet bit for bit. */
float scalar_rand(int64_t seed, int64_t step, int64_t element, int64_t stream);

/* ---- op.c: the op tables --------------------------------------------------------------------- */

typedef enum {
#define OP(name, nin, nout, shape, cuda, cpu, grad, kind, doc) OP_##name,
#define SCALAR(name, nin, text, deriv, cuda, cpu, doc) OP_##name,
#include "ir/ops.def"
#include "ir/scalar.def"
#undef OP
#undef SCALAR
  OP_COUNT
} OpCode;

/* Autocast policy of an op: a column of ops.def for each policy of the spec. */
typedef enum { POL_LOW, POL_F32, POL_F32OUT, POL_WIDEST, POL_SAME, POL_STATE } Policy;
/* How fuse treats an op. ELEM: pointwise with broadcasting. VIEW: no kernel when the access is
 * affine. ROWS/PRODUCT/ATTENTION/INDEX/MOVE/PACK: lowered by group_<op>. NONE: read, write, group. */
typedef enum {
  OK_NONE, OK_ELEM, OK_VIEW, OK_ROWS, OK_PRODUCT, OK_ATTENTION, OK_INDEX, OK_MOVE, OK_PACK, OK_WINDOW
} OpKind;

typedef struct {
  const char *name;
  int nin, nout; /* -1: any number */
  Policy policy[2]; /* [0] cuda, [1] cpu */
  bool has_grad;
  bool is_root; /* backward begins here: its rule needs no gradient of its results */
  bool batched; /* samples along axis 0 of operand 0 and the result do not depend on each other */
  OpKind kind;
  const char *body, *deriv; /* elementwise rows: text of the body; derivatives or NULL */
  const char *doc;
} OpInfo;
const OpInfo *op_info(OpCode op);
OpCode op_from_name(const char *name); /* OP_COUNT when unknown */
static inline bool op_is_scalar(OpCode op) { return op_info(op)->body != NULL; }
/* Has no results: what a function is run for (write, yield). */
static inline bool op_is_sink(OpCode op) {
  return op_info(op)->nout == 0;
}
/* Body of an elementwise row or of an `expr` op (attr body); NULL for others. Cached in the module. */

/* ---- module.c -------------------------------------------------------------------------------- */

typedef struct Module Module;
typedef struct Func Func;
typedef struct Op Op;
typedef struct Value Value;
typedef struct Tensor Tensor;

typedef enum {
#define STAGE(id, text) STAGE_##id,
#include "ir/stages.def"
#undef STAGE
  STAGE_COUNT
} Stage;
const char *stage_name(Stage s);

/* Segments of abi.h, and the role that says what a tensor is for. */
typedef enum {
#define ROLE(id, text, segment, doc) ROLE_##id,
#include "ir/roles.def"
#undef ROLE
  ROLE_COUNT
} Role;
const char *role_name(Role r);

typedef enum { AT_INT, AT_FLOAT, AT_BOOL, AT_STR, AT_DTYPE, AT_INTS, AT_TENSOR } AttrKind;
/* Texts in it are of the session's StrTable, as attr_* make them. */
typedef struct {
  Str key;
  AttrKind kind;
  union {
    int64_t i; /* AT_INT, AT_BOOL, AT_DTYPE */
    double f;
    Str s;
    struct { int n; const int64_t *v; } ints;
    Tensor *tensor;
  } u;
} Attr;

/* A global tensor. `base` non-NULL: a view of elements [base_elem, base_elem + elems) of the flat
 * tensor `base`, which has the same dtype (parameters of one optimizer group lie in one flat tensor,
 * so the optimizer is one kernel). Only bases have storage. */
struct Tensor {
  Str name;
  const Type *type;
  Role role;
  Tensor *base;
  int64_t base_elem;
  int64_t offset; /* bytes within its segment once planned; -1 before */
  Loc loc;
  int nattr;
  Attr *attr; /* init="normal", std=0.02, lr_group=0 ... */
  int index;  /* position in the module */
};

struct Value {
  Op *def;
  int out; /* which result of def */
  const Type *type;
  int id;  /* %id, dense within the function, in order of definition */
  int64_t offset; /* planned: bytes within `work`; -1: lives in `alias` or not planned */
  Tensor *alias;  /* planned: result written in place to this tensor (then no `work` bytes) */
  int64_t alias_elem; /* element offset inside alias */
};

/* Access of one operand or result of a group: address of element (i0, i1, ...) in elements, relative
 * to the value's first element: offset + sum stride[d] * i[d]. stride 0 broadcasts. */
enum { MAX_DIMS = 8 };
typedef struct {
  int64_t offset;
  int64_t stride[MAX_DIMS];
} Access;

/* Body of a `group` op; its kind is attr "kind". Iteration space dim[0..ndim): the last ncol
 * dimensions are columns, the rest rows; consecutive rows in row-major order form panels of
 * panel_rows. Products: dims are [batch..., M, N] with ncol = 1; the body's PR_ACC is the sum. */
typedef struct {
  int ndim, ncol;
  int64_t dim[MAX_DIMS];
  int64_t panel_rows;
  int nin, nout, nparam;
  Access *in, *out;   /* one per operand, per result; partial results: see PR_CSUM, PR_ASUM */
  int64_t *param;     /* PR_PARAM values of this instance */
  int nstmt;
  Stmt *stmt;
} Body;

/* Whether x and y are the same elements in every iteration. */
bool body_same_access(const Body *b, const Access *x, const Access *y);

struct Op {
  OpCode code;
  int nin, nout, nattr;
  Value **in;
  Value **out;
  Attr *attr;   /* sorted by key */
  Body *body;   /* OP_group only */
  const Scalar *scalar; /* elementwise rows and OP_expr: parsed body */
  Loc loc;      /* YAML node it came from */
  Str layer;    /* dotted layer name, "" at top level */
  Str why;      /* why a pass made it: "autocast: linear is LOW [policy cuda]"; NULL otherwise */
  Func *func;
  int index;    /* position in the function */
};

struct Func {
  Str name;
  Module *module;
  int nop;
  Op **op;
  int nvalue;
  int64_t work_bytes; /* planned: arena this function needs */
};

struct Module {
  Arena *arena;
  StrTable *strings; /* shared with the session */
  TypeTable *types;
  Stage stage;
  int ntensor, nfunc;
  Tensor **tensor;
  Func **func;
  int nattr;
  Attr *attr;         /* module facts: name, mode, policy, numerics, target caps, batch ... */
  int64_t segment_bytes[8]; /* planned, by segment of abi.h */
};

void module_destroy(Module *m); /* frees the arena; NULL is fine */
Func *module_func(const Module *m, const char *name); /* NULL when absent */
Tensor *module_tensor(const Module *m, const char *name);
const Attr *attr_find(const Attr *attr, int n, const char *key);
/* Attribute of an op, with a default when it is absent. */
int64_t op_int(const Op *op, const char *key, int64_t otherwise);
double op_float(const Op *op, const char *key, double otherwise);
const char *op_str(const Op *op, const char *key, const char *otherwise);
const Attr *op_attr(const Op *op, const char *key);
/* Whether it only tells readers what a group holds: `label`, and with their places the `others` that
 * were fused with the layer it goes by. */
bool attr_is_told(const Attr *a);
int64_t tensor_int(const Tensor *t, const char *key, int64_t otherwise);
/* Its elements; of a complex one (attribute `complex`: the last axis holds both parts) its pairs. */
int64_t tensor_numel(const Tensor *t);
double tensor_float(const Tensor *t, const char *key, double otherwise);
const char *tensor_str(const Tensor *t, const char *key, const char *otherwise);
int64_t module_int(const Module *m, const char *key, int64_t otherwise);
double module_float(const Module *m, const char *key, double otherwise);
const char *module_str(const Module *m, const char *key, const char *otherwise);
/* Uses of each value of f: uses[v->id] lists ops (once per operand position). */
typedef struct { int n; Op **op; } Uses;
Uses *func_uses(const Func *f, Arena *a);

/* ---- loop.c: scans and their bodies (docs/ir.md) --------------------------------------------- */

typedef enum { LOOP_CAPTURED, LOOP_STACKED, LOOP_CARRIED, LOOP_KINDS } LoopKind;
LoopKind loop_kind(const Op *op); /* of an arg or yield; LOOP_KINDS: another word */
const char *loop_kind_text(LoopKind k);
bool func_is_body(const Func *f);                    /* has a yield */
const Func *loop_body(const Op *scan);               /* NULL: its module has none of that name */
const Op *loop_arg(const Func *body, int64_t index); /* NULL: none */
const Op *loop_yield(const Func *body, int64_t index);
/* The yield that carries arg `index` on; NULL: none. */
const Op *loop_carrier(const Func *body, int64_t index);
/* Slot of a carried result that holds the state after `done` iterations: a ring of 2, or, with
 * length
 * + 1 slots, all states, in the order of the stacked axis. */
int64_t loop_slot(const Op *scan, int64_t slots, int64_t done);
/* varies[v->id]: the value differs between iterations; others depend on captured args alone. */
bool *loop_varies(const Func *body, Arena *a);

/* ---- build.c: the only writer of modules ----------------------------------------------------------
 * Sticky: after an error (diagnosed) every call is harmless and builder_finish fails. Performs shape
 * inference (shape_<rule>), constant folding of trivial cases and local value numbering: an equal
 * op with equal operands in the same function, without side effects or a `recompute` attribute,
 * is returned instead of a new one. */
typedef struct Builder Builder;
Builder *builder_create(StrTable *strings, Diag *diag, Stage stage); /* owns a new Module */
/* Verifies the module (verify.c) and hands it over; the builder is gone afterwards in every case. */
Status builder_finish(Builder *b, Module **out);
void builder_destroy(Builder *b); /* abandons the module */
bool builder_failed(const Builder *b);
Diag *builder_diag(Builder *b);
StrTable *builder_strings(Builder *b);
TypeTable *builder_types(Builder *b);
Arena *builder_arena(Builder *b); /* of the module being built */
Module *builder_module(Builder *b); /* the module being built */
/* From here on no folding and no value numbering: ops come out exactly as given (parse.c). */
void builder_exact(Builder *b);

void build_module_attr(Builder *b, Attr attr); /* replaces one of the same key */
Tensor *build_tensor(Builder *b, const char *name, const Type *type, Role role, Loc loc);
Tensor *build_tensor_view(Builder *b, const char *name, const Type *type, Role role, Tensor *base,
                          int64_t base_elem, Loc loc);
void build_tensor_attr(Builder *b, Tensor *t, Attr attr);
void build_func(Builder *b, const char *name); /* following ops go there */
Func *build_current(Builder *b);
/* The same, but a new function comes before the current one: bodies stand before their scans. */
void build_func_ahead(Builder *b, const char *name);
/* An arg of the current function; a yield. slots: of a carried one, 0 for others. */
Value *build_arg(Builder *b, int64_t index, LoopKind kind, const Type *type);
void build_yield(Builder *b, int64_t index, LoopKind kind, Value *v, int64_t arg, int64_t slots);
Op *build_scan(Builder *b, const char *func, int64_t length, bool reverse, int nin,
               Value *const *in, int nattr, const Attr *attr);

/* Place, layer and reason (interned; NULL: none) given to the ops that follow, until changed. */
void build_at(Builder *b, Loc loc, Str layer, Str why);
void build_like(Builder *b, const Op *op); /* loc and layer of op, why kept NULL */

/* General op; results' types come from the shape rule. Returns its op, or a dummy op with valid
 * out[] values after a failure. attrs are copied. */
Op *build_op(Builder *b, OpCode code, int nin, Value *const *in, int nattr, const Attr *attr);
/* Op whose result types the caller knows (group, reads with dtype changes ...). */
Op *build_op_typed(Builder *b, OpCode code, int nin, Value *const *in, int nattr, const Attr *attr,
                   int nout, const Type *const *types, const Body *body);
Value *build1(Builder *b, OpCode code, Value *x);
Value *build2(Builder *b, OpCode code, Value *x, Value *y);
Value *build_read(Builder *b, Tensor *t);
void build_write(Builder *b, Tensor *t, Value *v);
Value *build_cast(Builder *b, Value *x, DType dt); /* x itself when it has dt already */
/* Pointwise expression over the operands, in infix text with argument names a, b, c, ...; result
 * dtype dt, broadcast shape. */
Value *build_expr(Builder *b, const char *text, DType dt, int nin, Value *const *in);
/* The same with one attribute more (NULL: none). */
Value *build_expr_attr(Builder *b, const char *text, DType dt, int nin, Value *const *in,
                       const Attr *attr);
Value *build_const(Builder *b, double v, DType dt); /* rank 0 */
Value *build_filled(Builder *b, const Type *t, double v);
Value *build_reshape(Builder *b, Value *x, int rank, const int64_t *dim);
Value *build_permute(Builder *b, Value *x, const int64_t *perm);
Value *build_unpermute(Builder *b, Value *y, const Op *permute); /* its operand's order again */
Value *build_slice(Builder *b, Value *x, int dim, int64_t start, int64_t end);
/* Sums x over broadcast dimensions so that it gets `like`'s shape; x itself when equal. */
Value *build_sum_to(Builder *b, Value *x, const Type *like);

Attr attr_i(Builder *b, const char *key, int64_t v);
Attr attr_f(Builder *b, const char *key, double v);
Attr attr_b(Builder *b, const char *key, bool v);
Attr attr_s(Builder *b, const char *key, const char *v);
Attr attr_dt(Builder *b, const char *key, DType v);
Attr attr_ints(Builder *b, const char *key, int n, const int64_t *v);
Attr attr_t(Builder *b, const char *key, Tensor *v);

/* Copying from another module: tensors and attributes once, then ops through a value map.
 * map[old value id] = new value of the same function; copy_op fills it. */
Tensor **build_copy_tensors(Builder *b, const Module *from); /* indexed by Tensor.index */
typedef struct {
  Builder *b;
  Tensor **tensors;
  Value **map;
} Copier;
void copier_init(Copier *c, Builder *b, const Module *from); /* copies module attrs and tensors */
void copier_func(Copier *c, const Func *f, const char *name); /* starts the function, new map */
Op *copier_op(Copier *c, const Op *op); /* same op over mapped operands, loc, layer, why, attrs */
static inline Value *copier_get(const Copier *c, const Value *v) { return c->map[v->id]; }

/* ---- conv.c: windows of convolutions --------------------------------------------------------- */

/* Tap k of position p reads x[(p stride + k dilation - padding) / up] on each of nd axes, where the
 * division leaves no rest and the place lies inside x, else zero. */
enum { CONV_AXES = 3 };
typedef struct {
  int nd;
  int64_t size[CONV_AXES], kernel[CONV_AXES]; /* positions, taps */
  int64_t stride[CONV_AXES], padding[CONV_AXES], dilation[CONV_AXES], up[CONV_AXES];
} ConvWindow;
/* From ints `positions` (size) and, with defaults, kernel (1), stride (1), padding (0), dilation (1), up (1);
 * false when they are no window. padding and dilation may be negative. */
bool conv_window(const Op *op, ConvWindow *w);
int64_t conv_taps(const ConvWindow *w);
int64_t conv_positions(const ConvWindow *w);
/* Indices that tap number `tap` of position number `position` (row-major) reads in an input of
 * extents `in`; false: zero. */
bool conv_reads(const ConvWindow *w, const int64_t *in, int64_t position, int64_t tap, int64_t *at);

/* A `conv` group (docs/groups.md): its first operand as a matrix of batch * positions rows and
 * taps * channels columns; `depth`: of as many columns as there are taps, another matrix for each
 * channel. With `wgrad` and `depth` the batch is in `parts`, whose sums are rows of their own. */
typedef struct {
  ConvWindow w;
  int64_t batch, channels;
  int64_t x[CONV_AXES];          /* extents of the input */
  int64_t stride[1 + CONV_AXES]; /* elements between samples and along each axis; channels are dense */
  int64_t rows, columns;
  bool wgrad; /* the matrix is the transposed factor: its columns are the product's rows */
  bool depth; /* column c of the product is channel c by itself: k counts taps, or positions of a
                 part */
  int64_t parts;     /* 1 but for depth and wgrad: row (part, tap) */
  int64_t factor[2]; /* wgrad, depth: of operand 1, between k, between columns */
} ConvGroup;
/* False when attributes are missing or wrong. */
bool conv_group(const Op *op, ConvGroup *g);
/* One element of the matrix of all channels; x: the operand's first element. */
double conv_group_at(const ConvGroup *g, const double *x, int64_t row, int64_t column);

/* Result k (dq, dk, dv) of an `attention_grad` group: its access, and in *value which of the
 * group's values that is of: with attribute `joined` all are parts of the first. */
Access attention_result(const Op *group, int k, int *value);

/* ---- window.c: static windows ---------------------------------------------------------------- */

/* One axis: place o of what is made reads places index[e] of what is read, e in [start[o],
 * start[o + 1]), with a weight and the number of the tap. */
typedef struct {
  int64_t from, to; /* extents of what is read and made */
  int64_t *start, *index, *tap;
  double *weight;
} WindowAxis;
typedef struct {
  int nd;
  WindowAxis axis[CONV_AXES];
  int64_t kernel[CONV_AXES]; /* tap (k0, k1) has number k0 * kernel[1] + k1 */
} WindowTables;
typedef enum { WINDOW_MAX, WINDOW_MAX_GRAD, WINDOW_SUM, WINDOW_MODES } WindowMode;
/* Axes of an op or group with ints `extents` (of the input) and `positions` (of the result); 0: it has
 * no window. */
int window_axes(const Op *op);
/* Tables from str `rule`: taps (default; ints kernel, stride, padding, dilation), average (the same,
 * count_pad, divisor), adaptive, nearest, linear (align_corners; floats scale_0 ... as given).
 * turned: from positions back to extents. errors: ERR_NOMEM, ERR_INTERNAL. On the heap, for _fini. */
Status window_tables(const Op *op, bool turned, WindowTables *t);
void window_tables_fini(WindowTables *t);
WindowMode window_mode(const Op *group); /* attribute `mode` of a `window` group */

/* ---- shape.c: shape_<rule> of ops.def -------------------------------------------------------- */

/* Result types of an op (types: room for MAX_RULE_OUT); diagnoses misfits naming both operands'
 * layers. errors  ERR_INPUT; ERR_NOMEM, then without a message */
Status shape_infer(Builder *b, OpCode code, int nin, Value *const *in, int nattr, const Attr *attr,
                   Loc loc, int *nout, const Type **types);

/* ---- print.c, parse.c: the text form (docs/ir.md) -------------------------------------------- */

void module_print(const Module *m, const Diag *files, Text *out);
/* Parses what module_print writes. The text must be registered as file `file` of diag. */
Status module_parse(StrTable *strings, Diag *diag, uint32_t file, const char *text, size_t len,
                    Module **out);

/* ---- verify.c -------------------------------------------------------------------------------- */

/* Invariants of the module's stage; MPCC_ERR_INTERNAL with diagnostics naming op and rule. */
Status module_verify(const Module *m, Diag *d);

/* ---- eval.c: reference interpreter ----------------------------------------------------------------
 * Plain loops in f64; each op's results are rounded to their dtype (strict semantics). Judge of all
 * targets. Values are held as arrays of double, element order row-major. */
typedef struct Eval Eval;
/* One buffer of doubles per tensor of m (zeroed), views share their base's. exact: do not round
 * float results (FP64 reference). */
Status eval_create(const Module *m, bool exact, Eval **out);
void eval_destroy(Eval *e);
double *eval_tensor(Eval *e, const Tensor *t);  /* type_elems(t->type) doubles, in place */
/* Runs function f; writes happen at the end. errors: MPCC_ERR_INTERNAL for ops without ref_. */
Status eval_run(Eval *e, const Func *f);
/* Evaluates one op on given operand arrays into result arrays (opcheck, verify). */
Status eval_op(const Op *op, bool exact, const double *const *in, double *const *out);
const double *eval_value(const Eval *e, const Value *v); /* of the last run; NULL if not computed */

#endif
