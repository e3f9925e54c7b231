/* Private to grad*.c: reverse mode over one function. */
#ifndef MPCC_PASSES_GRAD_H
#define MPCC_PASSES_GRAD_H

#include "passes/passes.h"

/* One addend of a value's gradient: of all of it (dim < 0) or of elements [start, end) of axis dim.
 */
typedef struct Part {
  Value *g;
  int dim;
  int64_t start, end;
  struct Part *next;
} Part;

typedef struct Loop Loop;

typedef struct {
  Value *codes, *scale_inv, *blocks; /* blocks: NULL without block scales */
  int64_t block[2];                  /* rows and columns of a block */
} Codes;

typedef struct {
  Builder *b;
  Copier c;
  Diag *diag;
  Arena *scratch;
  Loop *inside; /* whose body is being differentiated: its values are asked for (grad_value) */
  Loop *loops;  /* those of train_forward */
  /* by id of the old function's values */
  bool *needs;    /* depends on a trained parameter */
  bool *of_param; /* is one, seen through casts and views */
  bool *zeros;    /* the loss depends on it, along derivatives that are 0 (floor, times 0) */
  DType *gdt;  /* dtype of its gradient: a parameter's through casts and views [N5], else its own */
  Part **part;
  Codes (*codes)[2]; /* gradient of a quantized product's result, already quantized: in blocks along
                      * rows, along columns (the same where there are no blocks) */
  int nslot;
  Value **amax; /* by backward slot */
} Grad;

/* Rule of an op. dy[k] is the gradient of result k in dtype gdt, NULL when nothing depends on it.
 */
typedef void GradFn(Grad *g, const Op *op, Value *const *dy);
GradFn *grad_rule(OpCode code); /* NULL: the op has none */
#define RULE_G(name) GradFn grad_##name;
#define RULE_B(name) GradFn grad_##name;
#define RULE_R(name) GradFn grad_##name;
#define RULE_Z(name)
#define OP(name, nin, nout, shape, cuda, cpu, grad, kind, doc) RULE_##grad(name)
#include "ir/ops.def"
#undef OP
#undef RULE_G
#undef RULE_B
#undef RULE_R
#undef RULE_Z
GradFn grad_expr; /* of elementwise ops */
/* Whether op's results depend on operand i other than through comparisons, integers or detach:
 * torch then has a gradient, be it of zeros. */
bool grad_passes(Grad *g, const Op *op, int i);

/* What a read or an arg is; NULL for other ops. */
typedef struct {
  bool needs, param;
  DType gdt;
} Leaf;
/* Arrays for values of f; their contents for the results of one op. */
void grad_arrays(Grad *g, const Func *f);
void grad_prepare(Grad *g, const Op *op, const Leaf *leaf);
/* Forward value v where the backward is built. */
Value *grad_value(Grad *g, const Value *v);
/* The whole gradient of v, NULL when nothing gave to it. */
Value *grad_gather(Grad *g, const Value *v);
/* Adds dv, of v's shape or one that v broadcasts to, to v's gradient. */
void grad_add(Grad *g, const Value *v, Value *dv);
/* What op's results have gives to its operands. */
void grad_op(Grad *g, const Op *op);

/* ---- grad_ops.c: what rules share ---- */

/* Operand i and result i of the forward op, where the backward is built. */
Value *grad_forward(Grad *g, const Op *op, int i);
Value *grad_result(Grad *g, const Op *op, int i);
/* Positions [start, end) along dim of what a depthwise convolution makes, as one that makes no
 * others; NULL: x is none. */
Value *grad_depthwise_part(Grad *g, Value *x, int dim, int64_t start, int64_t end);
Value *grad_rows(Grad *g, Value *x); /* [..., C] as [R, C] */
Value *grad_shaped(Grad *g, Value *x, const Type *t);
Value *grad_row_sum(Grad *g, Value *x); /* over the last axis, which stays as 1; f32 or wider */

/* ---- grad_scan.c ---- */

/* Copies the body of a scan of `train` (NULL: there is none), with what its backward reads as
 * further results, and makes the body of the reverse scan. */
void loop_differentiate(Grad *g, const Func *train, const Func *body);
Value *loop_value(Grad *g, const Value *v); /* grad_value inside a body */

bool grad_wants(const Grad *g, const Op *op, int i);
DType grad_dtype(const Grad *g, const Op *op, int i); /* of operand i's gradient */
/* Adds dv to the gradient of operand i; dv has its shape or one that operand broadcasts to. */
void grad_give(Grad *g, const Op *op, int i, Value *dv);
void grad_give_part(Grad *g, const Op *op, int i, Value *dv, int dim, int64_t start, int64_t end);

#endif
