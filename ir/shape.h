/* What the files of shape rules (shape_*.c) share; nothing else includes this. */
#ifndef MPCC_IR_SHAPE_H
#define MPCC_IR_SHAPE_H

#include "ir/build.h"

enum { CODE_SHAPE = 311, CODE_DTYPE = 312, CODE_ATTR = 313 };

/* An op whose result types are looked for. */
typedef struct {
  Builder *b;
  TypeTable *types;
  Diag *d;
  Loc loc;
  OpCode code;
  int nin, nattr;
  Value *const *in;
  const Attr *attr;
  int *nout;
  const Type **out;
} Infer;

/* Appends the result types; false after a message. Every row of ops.def names its rule. */
typedef bool ShapeRule(Infer *x);

#define OP(name, nin, nout, shape, cuda, cpu, grad, kind, doc) ShapeRule shape_##shape;
#include "ir/ops.def"
#undef OP
ShapeRule shape_elem; /* rows of scalar.def */

static inline const Type *operand(const Infer *x, int i) {
  return x->in[i]->type;
}

static inline void result(Infer *x, const Type *ty) {
  x->out[(*x->nout)++] = ty;
}

static inline void result_as(Infer *x, DType dt, int rank, const int64_t *dim) {
  result(x, type_get(x->types, dt, rank, dim));
}

static inline void result_scalar(Infer *x, DType dt) {
  result_as(x, dt, 0, NULL);
}

/* f32, or f64 beside f64: the dtype of statistics and losses. */
static inline DType wide(DType d) {
  return d == MPCC_F64 ? MPCC_F64 : MPCC_F32;
}

/* Tells a misfit of kind `code`; always false, for `return misfit(...)`. */
bool misfit(Infer *x, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Says where operand i comes from, under the newest message. */
void misfit_note(Infer *x, int i, const char *what);

/* The layer in quotes ('encoder.0.mlp'), or the op's name; a shape as "[2, 3]". */
Str infer_subject(const Infer *x);
Str infer_shape(const Infer *x, const Type *ty);

/* Each asks one thing of the op, and tells it when it is not so. */
bool want_operands(Infer *x, int least, int most);
bool want_rank(Infer *x, int i, int rank);
bool want_float(Infer *x, int i);
bool want_integer(Infer *x, int i);
bool want_codes(Infer *x, int i);
bool want_dtype(Infer *x, int i, DType dt);
bool want_scalar(Infer *x, int i, DType dt);
bool want_same_shape(Infer *x, int i, const Type *ty);
bool want_axis(Infer *x, int64_t axis, int rank);
bool want_bias(Infer *x, int i, int64_t n);
const Attr *want_attr(Infer *x, const char *key, AttrKind kind);

/* Attributes that may be absent. infer_list: entry i of a list of n. */
const Attr *infer_attr(const Infer *x, const char *key, AttrKind kind);
int64_t infer_int(const Infer *x, const char *key, int64_t otherwise);
int64_t infer_list(const Infer *x, const char *key, int i, int n, int64_t otherwise);
bool infer_flag(const Infer *x, const char *key);
DType infer_dtype(const Infer *x, const char *key, DType otherwise);

/* torch.result_type of all operands (MPCC_DTYPE_COUNT for none), or of operands i and k alone. */
DType infer_promote(const Infer *x);
DType infer_promoted(const Infer *x, int i, int k);

#endif
