/* fp8_dpa and fp8_mha: attention multiplies codes, forward and backward [N14].
 *
 *   o = qgrad(attention(q(Q), q(K), q(V)))         P and dS become codes inside the kernels
 *
 * Q, K, V have a forward slot each and the gradient of o a backward slot. With fp8_mha an operand
 * that is a slice of a quantized projection's result is a slice of that result's codes: one scale,
 * of the projection's slot `output`. What the codes of P and dS are multiplied by are constants, so
 * nothing of the T x T scores is ever measured or stored. Part of pass fp8 (fp8.c). */
#include <math.h>
#include <string.h>

#include "passes/codes.h"

/* P is at most 1, so its scale is a constant: codes up to 256, a power of two, which adds no
 * rounding. */
enum { P_SCALE = 256 };

/* dS has a constant scale that only bounds it, which costs exponents and no bit of the mantissa
 * where the format has exponents to spare: e5m2, whatever the gradients' own format is. */
static const DType ds_format = MPCC_E5M2;

/* A power of two that keeps dS = P (dP - sum do o) below the largest of its codes, whatever do and
 * v are: in units of both scales |dP| is at most D top_do top_v / (1 - dropout), and the sum at
 * most 2.01 times that, since a code of P is at most twice P and o is rounded once. */
static double ds_scale(const Fp8 *s, const Op *op) {
  double width = (double)(op->in[0]->type->dim[2] / op_int(op, "heads", 1));
  double most = dtype_info(s->backward)->max_finite * dtype_info(s->forward)->max_finite * width /
                (1 - op_float(op, "dropout_p", 0));
  return exp2(floor(log2(dtype_info(ds_format)->max_finite / (3.25 * most))));
}

/* ---- projections ----------------------------------------------------------------------------- */

static bool looks_through(const Op *op) {
  return op->code == OP_slice || op->code == OP_reshape;
}

/* The quantized projection that x is a part of, NULL when there is none. */
static const Op *projection(const Fp8 *s, const Func *f, const Value *x) {
  while (s->projections && looks_through(x->def))
    x = x->def->in[0];
  return s->projections && x->def->code == OP_linear && fp8_site(s, f, x->def) ? x->def : NULL;
}

void fp8_attention_slots(Fp8 *s, const Func *f, const Op *op, Site *site) {
  static const char *const words[3] = {"query", "key", "value"};
  for (int i = 0; i < 3; i++) {
    const Op *from = projection(s, f, op->in[i]);
    Site *at = from ? &s->site[fp8_site(s, f, from) - s->site] : NULL;
    if (at && at->output < 0)
      at->output = fp8_slot(s, true, at, "output");
    site->slot[i] = at ? -1 : fp8_slot(s, true, site, words[i]);
  }
  site->back = fp8_slot(s, false, site, "grad_attention");
}

/* ---- the rewrite ----------------------------------------------------------------------------- */

/* Codes of x[..., C] and their inverse scale, by the recipe. */
static Value *codes_of(Fp8 *s, Value *x, int slot, Value **scale, Value **amax) {
  Builder *b = s->c.b;
  static const int64_t whole[2] = {0, 0};
  const Type *ty = x->type;
  if (!s->current) {
    Op *q = fp8_quantize(s, x, fp8_slot_scale(b, s->scale_f, slot), amax != NULL);
    *scale = q->out[1];
    if (amax)
      amax[slot] = q->out[2];
    return q->out[0];
  }
  const int64_t cols = ty->dim[ty->rank - 1], flat[2] = {type_elems(ty) / cols, cols};
  bool counted = amax && s->valid && s->batch && ty->dim[0] % s->batch == 0;
  Quantized q =
      fp8_quantize_now(s, build_reshape(b, x, 2, flat), whole,
                       counted ? build_read(b, s->valid) : NULL, counted ? flat[0] / s->batch : 0);
  *scale = q.scale_inv;
  if (amax)
    amax[slot] = q.amax;
  return build_reshape(b, q.codes, ty->rank, ty->dim);
}

/* The part of y, which stands for `whole`, that x is of `whole`. */
static Value *same_part(Fp8 *s, const Value *x, const Value *whole, Value *y) {
  if (x == whole)
    return y;
  const Op *op = x->def;
  Value *from = same_part(s, op->in[0], whole, y);
  return build_op(s->c.b, op->code, 1, &from, op->nattr, op->attr)->out[0];
}

static void operand_codes(Fp8 *s, const Func *f, const Op *op, const Site *site, int i, Value **in,
                          Value **scale, Value **amax) {
  const Op *from = site->slot[i] < 0 ? projection(s, f, op->in[i]) : NULL;
  const Value *whole = from ? from->out[0] : op->in[i];
  const Op *at = from ? from : op;
  build_at(s->c.b, at->loc, at->layer,
           str_fmt(builder_strings(s->c.b), "fp8: %s %s [recipe %s, %s]", dtype_text(s->forward),
                   from ? "result of a projection, for attention" : "operand of attention",
                   s->recipe->name, s->projections ? "fp8_mha" : "fp8_dpa"));
  int slot = from ? fp8_site(s, f, from)->output : site->slot[i];
  Value *codes = codes_of(s, copier_get(&s->c, whole), slot, scale, amax);
  *in = same_part(s, op->in[i], whole, codes);
}

void fp8_attention(Fp8 *s, const Func *f, const Op *op, const Site *site, Value **amax) {
  enum { MORE = 5 };
  Builder *b = s->c.b;
  Value **in = ARENA_ARRAY(builder_arena(b), Value *, op->nin + 3);
  Attr *attr = ARENA_ARRAY(builder_arena(b), Attr, op->nattr + MORE);
  if (arena_failed(builder_arena(b)))
    return;
  for (int i = 0; i < 3; i++)
    operand_codes(s, f, op, site, i, &in[i], &in[op->nin + i], amax);
  for (int i = 3; i < op->nin; i++)
    in[i] = mapped(&s->c, op, i);
  int n = op->nattr;
  if (n)
    memcpy(attr, op->attr, (size_t)n * sizeof *attr);
  attr[n++] = attr_dt(b, "out", op->out[0]->type->dt);
  attr[n++] = attr_dt(b, "p_dtype", s->forward);
  attr[n++] = attr_dt(b, "ds_dtype", ds_format);
  attr[n++] = attr_f(b, "p_scale", P_SCALE);
  attr[n++] = attr_f(b, "ds_scale", ds_scale(s, op));
  build_at(b, op->loc, op->layer,
           str_fmt(builder_strings(b), "fp8: P in %s, dS in %s, scales are constants [%s]",
                   dtype_text(s->forward), dtype_text(ds_format),
                   s->projections ? "fp8_mha" : "fp8_dpa"));
  Op *made = build_op(b, OP_attention, op->nin + 3, in, n, attr);
  s->c.map[op->out[0]->id] = amax ? fp8_mark(s, op, made->out[0], site->back) : made->out[0];
  s->c.map[op->out[1]->id] = made->out[1];
}
