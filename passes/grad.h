/* Private to grad.c and grad_ops.c: reverse mode over one function. */
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

typedef struct {
  Value *codes, *scale_inv, *blocks; /* blocks: NULL without block scales */
} Codes;

typedef struct {
  Builder *b;
  Copier c;
  Diag *diag;
  Arena *scratch;
  /* by id of the old function's values */
  bool *needs; /* depends on a trained parameter */
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

bool grad_wants(const Grad *g, const Op *op, int i);
DType grad_dtype(const Grad *g, const Op *op, int i); /* of operand i's gradient */
/* Adds dv to the gradient of operand i; dv has its shape or one that operand broadcasts to. */
void grad_give(Grad *g, const Op *op, int i, Value *dv);
void grad_give_part(Grad *g, const Op *op, int i, Value *dv, int dim, int64_t start, int64_t end);

#endif
