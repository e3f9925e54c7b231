/* Private to fp8.c and fp8_attention.c: call sites that are quantized, and the slots of their
 * scales. */
#ifndef MPCC_PASSES_CODES_H
#define MPCC_PASSES_CODES_H

#include "passes/passes.h"

enum { FP8_MULTIPLE = 16 };

typedef struct {
  OpCode code; /* linear, attention */
  Str layer;
  int ordinal; /* among the ops of this code and layer name */
  int slot[3]; /* forward: input, weight; of attention query, key, value; -1: a projection's
                  `output` */
  int back;    /* backward */
  int output;  /* of a linear whose result attention takes in codes (fp8_mha); -1 */
} Site;

typedef struct {
  const Module *in;
  Copier c;
  Mode mode;
  DType forward, backward;
  const RecipeInfo *recipe;
  Scales scales;
  bool fallback;         /* a product stays in the fallback dtype for the target's sake */
  bool current;          /* scales from the tensors themselves: no state */
  bool hadamard, random; /* of what weight gradients sum over; of gradients' codes */
  const char *override;  /* backward_override; NULL: backward multiplies codes */
  const int64_t *weight; /* blocks of weights */
  Tensor *seed, *step;
  bool attention, projections; /* fp8_dpa or fp8_mha; fp8_mha */
  Site *site;                  /* call sites of train_forward that are quantized */
  int nsite, nforward, nbackward;
  Text forward_names, backward_names; /* of the slots, in order */
  Tensor *scale_f, *scale_b, *amax_f, *amax_b;
  Tensor *valid; /* i64[]: real samples of the batch */
  int64_t batch;
} Fp8;

typedef struct {
  Value *codes, *scale_inv, *blocks, *amax;
  Value *whole; /* codes of all blocks, of which `codes` may be cut */
  int64_t block[2];
} Quantized;

/* op's call site, NULL when that is not quantized. */
const Site *fp8_site(const Fp8 *s, const Func *f, const Op *op);
/* A new slot of the site; its number among those of its direction. */
int fp8_slot(Fp8 *s, bool forward, const Site *site, const char *word);
/* Scale of a slot, f32[]. */
Value *fp8_slot_scale(Builder *b, Tensor *scale, int slot);
/* Codes of x by a scale of steps past. record: its amax counts, but for padded samples [N13]; rows
 * of one sample are neighbours along axis 0. */
Op *fp8_quantize(Fp8 *s, Value *x, Value *scale, bool record);
/* Codes of x[R, C] by its own scales. valid: padded samples count nothing [N13]; rows: of one
 * sample. */
Quantized fp8_quantize_now(Fp8 *s, Value *x, const int64_t *block, Value *valid, int64_t rows);
/* Marks where the gradient of y is quantized; its largest magnitude is that of the backward slot.
 */
Value *fp8_mark(Fp8 *s, const Op *op, Value *y, int slot);

/* ---- fp8_attention.c ---- */

/* Slots of attention `op`; with fp8_mha those of the projections that make its operands too. */
void fp8_attention_slots(Fp8 *s, const Func *f, const Op *op, Site *site);
/* Attention of codes in place of op. amax: by forward slot, NULL when nothing is recorded. */
void fp8_attention(Fp8 *s, const Func *f, const Op *op, const Site *site, Value **amax);

#endif
