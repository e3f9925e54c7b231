/* Private to ir/eval*.c: how the reference interpreter calls one op. */
#ifndef MPCC_EVAL_H
#define MPCC_EVAL_H

#include "ir/ir.h"

/* One evaluation: operand arrays in, result arrays out, all row-major doubles of the op's types.
 * Results come out unrounded; eval_op rounds them afterwards. */
typedef struct {
  const Op *op;
  bool exact; /* no rounding inside either (quantize, PR_ROUND) */
  const double *const *in;
  double *const *out;
} Call;

typedef Status RefFn(const Call *c);

/* ref_<op> of every row of ops.def that computes (kind is not NONE): a missing one does not link.
 */
#define REF_NONE(name)
#define REF_ELEM(name) RefFn ref_##name;
#define REF_VIEW(name) RefFn ref_##name;
#define REF_ROWS(name) RefFn ref_##name;
#define REF_PRODUCT(name) RefFn ref_##name;
#define REF_ATTENTION(name) RefFn ref_##name;
#define REF_INDEX(name) RefFn ref_##name;
#define REF_MOVE(name) RefFn ref_##name;
#define REF_PACK(name) RefFn ref_##name;
#define REF_WINDOW(name) RefFn ref_##name;
#define OP(name, nin, nout, shape, cuda, cpu, grad, kind, doc) REF_##kind(name)
#include "ir/ops.def"
#undef OP
#undef REF_NONE
#undef REF_ELEM
#undef REF_VIEW
#undef REF_ROWS
#undef REF_PRODUCT
#undef REF_ATTENTION
#undef REF_INDEX
#undef REF_MOVE
#undef REF_PACK
#undef REF_WINDOW

RefFn eval_scalar; /* any elementwise row, and expr */
RefFn eval_group;
RefFn eval_window; /* groups of kind window */

/* Row-major strides of ty: dimension d of the type, in elements. */
void eval_strides(const Type *ty, int64_t stride[MAX_RANK]);
/* Odometer over dim[0..rank): steps i to the next index in row-major order. */
void eval_step(int rank, const int64_t *dim, int64_t *i);
/* Product of the last n dimensions of ty. */
int64_t eval_tail(const Type *ty, int n);
/* max(a, b) that is NaN when either is. */
double eval_max(double a, double b);
/* v rounded to d; MPCC_F64 leaves it. */
double eval_round(double v, DType d);

/* Operand `codes` of a quantized product times the block scales in operand `scales`, rounded to
 * attr `decoded`; out has room for all elements. */
void eval_decoded(const Call *c, int codes, int scales, double *out);

/* Attention of one operand layout, shared by the ops and the groups: element (n, h, t, d) of an
 * operand lies at offset + strides. */
typedef struct {
  const double *data;
  double *write; /* results */
  Access at;
} Strided;
typedef struct {
  int64_t n, heads, queries, keys, width;
  double scale, dropout_p;
  bool causal;
  int64_t seed, step, stream;
  int64_t kv_heads;    /* of k and v; 0: heads */
  const Strided *mask; /* added to scaled scores, over (n, h, t, s); NULL: nothing */
  DType round;         /* P is rounded to it before P V; MPCC_F64: not at all */
  bool codes;          /* q, k, v, do are codes, and so are P and dS: of formats p and ds [N14] */
  DType p, ds;
  double p_scale, ds_scale;
  double sq, sk, sv, sdo; /* inverse scales of codes; else 1 */
} AttentionSize;
/* Formats and scales of z, which stand in attributes and in operands from `next` on. */
void eval_attention_codes(const Call *c, int next, AttentionSize *z);
/* P = softmax(scale q k^T), dropped; o = P v; lse over [n, heads, queries], natural logarithm.
 * Dropout keeps where scalar_rand >= p; element ((n H + h) T + t) S + s (docs/groups.md). */
Status eval_attention(const AttentionSize *z, const Strided *q, const Strided *k, const Strided *v,
                      const Strided *o, const Strided *lse);
/* grad = dq, dk, dv; from = do, o, lse, q, k, v. P is recomputed from lse. */
Status eval_attention_grad(const AttentionSize *z, const Strided from[6], const Strided grad[3]);

#endif
