/* fp8: `linear` in transformer-engine modes becomes a product of 8-bit codes.
 *
 *   y = add(qgrad(qlinear(q(x), q(w))), bias)      q(v) = quantize(v, scale of this call site)
 *
 * q is straight-through; qgrad marks where the gradient is quantized once, with its own scale.
 * Bias, activation and residual stay outside, so bias gradients sum the unquantized dY. Every call
 * site has two forward slots (input, weight) and one backward slot (grad_output); the slots'
 * largest magnitudes are written to sum.fp8.<direction>.amax, scales are read from
 * fp8.<direction>.scale. eval_forward and predict use the same scales and record nothing. A product
 * needs its in, out and product of the other dimensions to be multiples of 16 (rows become a
 * leading dimension of the weight gradient); others stay in the fallback dtype, and all do where
 * on_unsupported: fallback meets a target without units for FP8.
 *
 * Recipes other than DelayedScaling (ir/recipes.def) find scales in the tensors themselves: no
 * state; q(v) = block_quantize(v), and the slots' largest magnitudes serve the finite check alone,
 * which codes would pass that saturate [N2]. With blocks a product gets both operands twice, in
 * blocks along its own sum and, for the gradient, the other way. What is no multiple of the block
 * is padded with zeros to be quantized, and its codes are cut again. With backward_override they
 * alone may have products of backward in the low dtype: gradients are not quantized then, and have
 * no slots.
 *
 * Stage forward to forward. Rules N2, N3, N8. Data flow: Transformer Engine's Linear. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "passes/codes.h"

/* Attention projections are no module of their own in the reference, which leaves them alone. */
static bool lightning_skips(const Module *m, const Op *op) {
  const Op *read = param_read(op->in[1]);
  if (!read)
    return false;
  const char *name = op_attr(read, "tensor")->u.tensor->name;
  size_t n = strlen(name);
  static const char in_proj[] = "in_proj_weight", out_proj[] = "out_proj.weight";
  if (n >= sizeof in_proj - 1 && !strcmp(name + n - (sizeof in_proj - 1), in_proj))
    return true;
  if (n < sizeof out_proj - 1 || strcmp(name + n - (sizeof out_proj - 1), out_proj))
    return false;
  char sibling[512];
  int prefix = (int)(n - (sizeof out_proj - 1));
  snprintf(sibling, sizeof sibling, "%.*s%s", prefix, name, in_proj);
  return module_tensor(m, sibling) != NULL;
}

/* Attribute fp8=false: products of recurrent nets, which the reference leaves alone [N8]. */
static bool wants_fp8(const Fp8 *s, const Op *op) {
  bool attention = op->code == OP_attention && s->attention;
  if ((op->code != OP_linear && !attention) || !op_int(op, "fp8", 1))
    return false;
  Mode m;
  if (!mode_of_op(s->in, &s->mode, op, &m) || op->in[0]->type->dt != m.low)
    return false;
  return m.fp8 && !(m.lightning && (attention || lightning_skips(s->in, op)));
}

/* First size of the product that is no multiple of 16; 0 when all are. *what names it. */
static int64_t misfit(const Op *op, const char **what) {
  const Type *x = op->in[0]->type, *w = op->in[1]->type;
  if (op->code == OP_attention) {
    int64_t width = x->dim[2] / op_int(op, "heads", 1);
    *what = "width of a head";
    return width % FP8_MULTIPLE ? width : 0;
  }
  /* padded outputs would be zero, so nothing but their number matters */
  int64_t pad = op_int(op, "pad_to_multiple_of", 1), wide = (w->dim[0] + pad - 1) / pad * pad;
  const int64_t size[3] = {w->dim[1], wide, type_elems(x) / x->dim[x->rank - 1]};
  static const char *const name[3] = {"in_features", "out_features", "rows"};
  for (int i = 0; i < 3; i++)
    if (size[i] % FP8_MULTIPLE) {
      *what = name[i];
      return size[i];
    }
  return 0;
}

static void warn_misfit(const Op *op, Diag *d) {
  if (diag_warned(d, op->loc, "fp8-fallback"))
    return;
  const char *what = "";
  int64_t size = misfit(op, &what);
  if (op->code == OP_attention) {
    diag_warning(d, op->loc, "fp8-fallback",
                 "attention of '%s' cannot run in FP8: heads of %" PRId64
                 " elements, not of a multiple of 16; it runs in %s",
                 op->layer ? op->layer : "", size, dtype_torch(op->in[0]->type->dt));
    diag_hint(d, "width / num_heads must be a multiple of 16; an override silences this");
    return;
  }
  diag_warning(d, op->loc, "fp8-fallback",
               "'%s' cannot run in FP8: %" PRId64 " is not a multiple of 16; it runs in %s",
               op->layer ? op->layer : "", size, dtype_torch(op->in[0]->type->dt));
  if (!strcmp(what, "rows"))
    diag_hint(d, "rows of the product (batch size x sequence length) must be a multiple of 16");
  else if (!strcmp(what, "in_features"))
    diag_hint(d, "in_features; silence with an override, or make the layer before it wider");
  else
    diag_hint(d, "%s; silence with an override or pad_to_multiple_of: 16", what);
}

static void warn_target(const Op *op, const char *target, Diag *d) {
  if (diag_warned(d, op->loc, "fp8-fallback"))
    return;
  diag_warning(d, op->loc, "fp8-fallback",
               "'%s' does not run in FP8: %s has no units for it; it runs in %s",
               op->layer ? op->layer : "", target, dtype_torch(op->in[0]->type->dt));
  diag_hint(d, "on_unsupported: fallback; emulate runs it in FP8, exactly and slower");
}

/* Sizes that are no whole number of blocks: what lies behind is zero. */
static void warn_padding(const Fp8 *s, const Op *op, Diag *d) {
  if (op->code != OP_linear)
    return;
  const Type *x = op->in[0]->type, *w = op->in[1]->type;
  const int64_t size[3] = {w->dim[1], w->dim[0], type_elems(x) / x->dim[x->rank - 1]};
  static const char *const name[3] = {"in_features", "out_features", "rows"};
  int64_t block = s->recipe->input[1];
  bool said = diag_warned(d, op->loc, "fp8-padding");
  for (int i = 0; i < 3 && block && !said; i++) {
    if (size[i] % block == 0)
      continue;
    diag_warning(d, op->loc, "fp8-padding",
                 "'%s' is padded with zeros: %s %" PRId64 " is not a multiple of %" PRId64
                 ", the block of %s",
                 op->layer ? op->layer : "", name[i], size[i], block, s->recipe->name);
    said = true;
  }
}

static int ordinal_of(const Func *f, const Op *op) {
  int n = 0;
  for (int i = 0; i < op->index; i++)
    n += f->op[i]->code == op->code && f->op[i]->layer == op->layer;
  return n;
}

const Site *fp8_site(const Fp8 *s, const Func *f, const Op *op) {
  const char *what;
  if (!wants_fp8(s, op) || misfit(op, &what))
    return NULL;
  int ordinal = ordinal_of(f, op);
  for (int i = 0; i < s->nsite; i++)
    if (s->site[i].code == op->code && s->site[i].layer == op->layer &&
        s->site[i].ordinal == ordinal)
      return &s->site[i];
  return NULL;
}

int fp8_slot(Fp8 *s, bool forward, const Site *site, const char *word) {
  Text *t = forward ? &s->forward_names : &s->backward_names;
  int *n = forward ? &s->nforward : &s->nbackward;
  text_printf(t, "%s%s", *n ? " " : "", site->layer ? site->layer : "");
  if (site->ordinal)
    text_printf(t, "#%d", site->ordinal);
  text_printf(t, ".%s", word);
  return (*n)++;
}

/* no_fp8: as in PassOpts */
static void find_sites(Fp8 *s, const Func *f, const char *no_fp8, Diag *d) {
  s->site = ARENA_ARRAY(builder_arena(s->c.b), Site, f->nop + 1);
  if (arena_failed(builder_arena(s->c.b)))
    return;
  for (int i = 0; i < f->nop; i++) {
    const Op *op = f->op[i];
    const char *what;
    if (!wants_fp8(s, op))
      continue;
    if (no_fp8) {
      warn_target(op, no_fp8, d);
      s->fallback = true;
      continue;
    }
    if (misfit(op, &what)) {
      warn_misfit(op, d);
      continue;
    }
    warn_padding(s, op, d);
    Site *site = &s->site[s->nsite++];
    *site =
        (Site){.code = op->code, .layer = op->layer, .ordinal = ordinal_of(f, op), .output = -1};
    if (op->code == OP_attention) {
      fp8_attention_slots(s, f, op, site);
      continue;
    }
    site->slot[0] = fp8_slot(s, true, site, "input");
    site->slot[1] = fp8_slot(s, true, site, "weight");
    site->back = fp8_slot(s, false, site, "grad_output");
  }
}

/* This step's maxima of one direction, [slots], and, of delayed scaling, histories and scales:
 * [slots, length], [slots]. */
static void declare(Fp8 *s, bool forward, Tensor **scale, Tensor **amax) {
  Builder *b = s->c.b;
  TypeTable *tt = builder_types(b);
  const char *word = forward ? "forward" : "backward";
  int64_t slots = forward ? s->nforward : s->nbackward;
  const int64_t dim[2] = {slots, (int64_t)module_number(s->in, "amax_history_len", 1024)};
  const Type *vector = type_get(tt, MPCC_F32, 1, dim);
  const Text *words = forward ? &s->forward_names : &s->backward_names;
  Str all = str_intern(builder_strings(b), words->data ? words->data : "", words->len);
  Attr names = attr_s(b, "slots", all);
  Attr format = attr_s(b, "format", dtype_text(forward ? s->forward : s->backward));
  char name[64];
  Tensor *history = NULL;
  if (!s->current) {
    snprintf(name, sizeof name, "fp8.%s.amax_history", word);
    history = build_tensor(b, name, type_get(tt, MPCC_F32, 2, dim), ROLE_AMAX, (Loc){0});
    snprintf(name, sizeof name, "fp8.%s.scale", word);
    *scale = build_tensor(b, name, vector, ROLE_SCALE, (Loc){0});
  }
  snprintf(name, sizeof name, "sum.fp8.%s.amax", word);
  *amax = build_tensor(b, name, vector, ROLE_SUM, (Loc){0});
  if (s->current)
    return;
  build_tensor_attr(b, history, names);
  build_tensor_attr(b, *scale, names);
  build_tensor_attr(b, *scale, format);
}

Value *fp8_slot_scale(Builder *b, Tensor *scale, int slot) {
  Value *v = build_slice(b, build_read(b, scale), 0, slot, slot + 1);
  return build_reshape(b, v, 0, NULL);
}

static Op *quantize(Builder *b, Value *x, Value *scale, DType to) {
  Attr attr = attr_dt(b, "to", to);
  return build_op(b, OP_quantize, 2, (Value *[]){x, scale}, 1, &attr);
}

Op *fp8_quantize(Fp8 *s, Value *x, Value *scale, bool record) {
  Builder *b = s->c.b;
  int64_t rows = x->type->dim[0];
  if (!record || !s->valid || !s->batch || rows % s->batch)
    return quantize(b, x, scale, s->forward);
  Attr attr[2] = {attr_dt(b, "to", s->forward), attr_i(b, "rows", rows / s->batch)};
  Value *in[3] = {x, scale, build_read(b, s->valid)};
  return build_op(b, OP_quantize, 3, in, 2, attr);
}

/* Tensor with the number of real samples, and how many a batch can hold. */
static void find_batch(Fp8 *s) {
  for (int i = 0; i < s->in->ntensor; i++) {
    const Tensor *t = s->in->tensor[i];
    if (t->role == ROLE_VALID)
      s->valid = s->c.tensors[i];
    if (t->role == ROLE_SEED)
      s->seed = s->c.tensors[i];
    if (!strcmp(t->name, "count.seen"))
      s->step = s->c.tensors[i];
    if (t->role == ROLE_INPUT && t->type->rank && !s->batch)
      s->batch = t->type->dim[0];
  }
}

/* ---- scales of this step --------------------------------------------------------------------- */

/* Blocks of `size`, of which smaller tensors have one. */
static int64_t block_of(int64_t size, int64_t n) {
  return size < n ? size : n;
}

Quantized fp8_quantize_now(Fp8 *s, Value *x, const int64_t *block, Value *valid, int64_t rows) {
  Builder *b = s->c.b;
  Quantized q = {.block = {block[0], block[1]}};
  for (int d = 0; d < 2 && block[d]; d++)
    q.block[d] = block_of(block[d], x->type->dim[d]);
  Attr attr[4] = {attr_dt(b, "to", s->forward), attr_ints(b, "block", 2, q.block),
                  attr_s(b, "scales", scales_info(s->scales)->word), attr_i(b, "rows", rows)};
  const int64_t dim[2] = {x->type->dim[0], x->type->dim[1]};
  x = build_padded(b, x, q.block);
  Op *op =
      build_op(b, OP_block_quantize, valid ? 2 : 1, (Value *[]){x, valid}, valid ? 4 : 3, attr);
  q.whole = op->out[0];
  q.codes = build_cut(b, q.whole, dim);
  q.scale_inv = s->scales == SCALES_E4M3 || !block[0] ? op->out[1] : build_const(b, 1, MPCC_F32);
  q.blocks = op->out[2];
  q.amax = op->out[3];
  return q;
}

static int product_operands(const Quantized *x, const Quantized *w, Value **in, int64_t block[4]) {
  Value *const all[6] = {x->codes, w->codes, x->scale_inv, w->scale_inv, x->blocks, w->blocks};
  memcpy(in, all, sizeof all);
  memcpy(block, x->block, sizeof x->block);
  memcpy(block + 2, w->block, sizeof w->block);
  return x->block[0] ? 6 : 4;
}

/* What the codes of x stand for, in its dtype. */
static Value *dequantized(Fp8 *s, const Quantized *q, const Value *x) {
  Builder *b = s->c.b;
  Value *in[3] = {build_cast(b, q->whole, MPCC_F32), q->scale_inv, NULL};
  if (!s->recipe->input[1])
    return build_expr(b, "a * b", x->type->dt, 2, in);
  const int64_t *whole = q->whole->type->dim, *blocks = q->blocks->type->dim;
  const int64_t tiled[4] = {blocks[0], whole[0] / blocks[0], blocks[1], whole[1] / blocks[1]};
  in[0] = build_reshape(b, in[0], 4, tiled);
  in[1] = build_reshape(b, build_cast(b, q->blocks, MPCC_F32), 4,
                        (int64_t[]){blocks[0], 1, blocks[1], 1});
  in[2] = q->scale_inv;
  bool both = s->scales == SCALES_E4M3;
  Value *v = build_expr(b, both ? "a * b * c" : "a * b", x->type->dt, both ? 3 : 2, in);
  return build_cut(b, build_reshape(b, v, 2, whole), x->type->dim);
}

/* Operands behind the first nin by which backward_override has the gradients made; how many. */
static int override_operands(Fp8 *s, const Op *op, const Quantized q[2], Value *const from[2],
                             Value **in) {
  Builder *b = s->c.b;
  in[0] = from[0];
  in[1] = from[1];
  if (strcmp(s->override, "dequantized") != 0)
    return 2;
  build_at(b, op->loc, op->layer,
           str_fmt(builder_strings(b), "fp8: what the codes stand for [backward_override %s]",
                   s->override));
  in[2] = dequantized(s, &q[0], from[0]);
  in[3] = dequantized(s, &q[1], from[1]);
  return 4;
}

/* Two random streams of a call site's own, by its layer: FNV-1a, apart from those of the layers. */
static int64_t stream_of(const Op *op, int slot) {
  uint64_t h = 0xCBF29CE484222325u ^ (uint64_t)slot;
  for (const char *p = op->layer ? op->layer : ""; *p; p++)
    h = (h ^ (unsigned char)*p) * 0x100000001B3u;
  return (int64_t)(h >> 34) * 2 + (INT64_C(1) << 31);
}

/* Marks where the gradient of y[R, N] is quantized; its blocks run along N, and along R. */
static Value *mark_current(Fp8 *s, const Op *op, Value *y, int slot) {
  Builder *b = s->c.b;
  build_at(b, op->loc, op->layer,
           str_fmt(builder_strings(b), "fp8: gradient in %s [recipe %s]", dtype_text(s->backward),
                   s->recipe->name));
  int nattr = 4, nin = 1;
  Attr attr[6] = {attr_dt(b, "to", s->backward), attr_ints(b, "block", 2, s->recipe->input),
                  attr_s(b, "scales", scales_info(s->scales)->word), attr_i(b, "slot", slot)};
  Value *in[3] = {y};
  if (s->hadamard)
    attr[nattr++] = attr_b(b, "hadamard", true);
  if (s->random && s->seed && s->step) {
    attr[nattr++] = attr_i(b, "stream", stream_of(op, slot));
    in[nin++] = build_read(b, s->seed);
    in[nin++] = build_read(b, s->step);
  }
  return build_op(b, OP_qgrad, nin, in, nattr, attr)->out[0];
}

/* Marks where the gradient of y is quantized with the scale of its slot. */
static Value *mark_delayed(Fp8 *s, const Op *op, Value *y, int slot) {
  Builder *b = s->c.b;
  build_at(b, op->loc, op->layer,
           str_fmt(builder_strings(b), "fp8: gradient in %s", dtype_text(s->backward)));
  Value *scale = fp8_slot_scale(b, s->scale_b, slot);
  Attr attr[2] = {attr_i(b, "slot", slot), attr_dt(b, "to", s->backward)};
  return build_op(b, OP_qgrad, 2, (Value *[]){y, scale}, 2, attr)->out[0];
}

Value *fp8_mark(Fp8 *s, const Op *op, Value *y, int slot) {
  return s->current ? mark_current(s, op, y, slot) : mark_delayed(s, op, y, slot);
}

/* x[R, K] without what padded samples hold: the transform would spread it over real ones. */
static Value *masked(Builder *b, Value *x, Value *valid, int64_t rows) {
  const int64_t dim[2] = {x->type->dim[0] / rows, rows * x->type->dim[1]};
  Value *y = build2(b, OP_row_mask, build_reshape(b, x, 2, dim), valid);
  return build_reshape(b, y, 2, x->type->dim);
}

/* y[R, N] = q(x[R, K]) q(w[N, K])^T. amax: [2] largest magnitudes of x and w, NULL when nothing is
 * recorded. */
static Value *product_now(Fp8 *s, const Op *op, Value *x, Value *w, int64_t rows, Value **amax) {
  Builder *b = s->c.b;
  const RecipeInfo *r = s->recipe;
  const bool train = amax != NULL;
  const int64_t turned_x[2] = {r->input[1], r->input[0]},
                turned_w[2] = {s->weight[1], s->weight[0]};
  build_at(b, op->loc, op->layer,
           str_fmt(builder_strings(b), "fp8: %s operand of a product [recipe %s]",
                   dtype_text(s->forward), r->name));
  Value *valid = train && s->valid && rows ? build_read(b, s->valid) : NULL;
  Quantized q[2] = {fp8_quantize_now(s, x, r->input, valid, rows),
                    fp8_quantize_now(s, w, s->weight, NULL, 0)};
  if (amax) {
    amax[0] = q[0].amax;
    amax[1] = q[1].amax;
  }
  Value *in[12];
  int64_t block[4], turned[4];
  int nin = product_operands(&q[0], &q[1], in, block);
  Attr attr[4] = {attr_dt(b, "out", op->out[0]->type->dt)};
  int nattr = 1;
  if (nin == 6) {
    attr[nattr++] = attr_ints(b, "block", 4, block);
    attr[nattr++] = attr_dt(b, "decoded", scales_info(s->scales)->decoded);
  }
  if (train && s->override) {
    attr[nattr++] = attr_s(b, "backward", str_c(builder_strings(b), s->override));
    nin += override_operands(s, op, q, (Value *[]){x, w}, in + nin);
  } else if (nin == 6 && train) {
    Value *spread = s->hadamard ? build_hadamard(b, valid ? masked(b, x, valid, rows) : x) : x;
    Quantized tx = fp8_quantize_now(s, spread, turned_x, s->hadamard ? NULL : valid, rows);
    Quantized tw = fp8_quantize_now(s, w, turned_w, NULL, 0);
    nin += product_operands(&tx, &tw, in + 6, turned);
    attr[nattr++] = attr_ints(b, "turned", 4, turned);
  }
  build_at(b, op->loc, op->layer,
           train && s->override
               ? str_fmt(builder_strings(b), "fp8: backward in %s [backward_override %s]",
                         dtype_text(x->type->dt), s->override)
               : op->why);
  return build_op(b, OP_qlinear, nin, in, nattr, attr)->out[0];
}

/* A linear layer whose tensors have their own scales. */
static void quantize_linear_now(Fp8 *s, const Op *op, const Site *site, Value **amax) {
  Builder *b = s->c.b;
  const Type *ty = op->out[0]->type;
  Value *x = mapped(&s->c, op, 0), *w = mapped(&s->c, op, 1);
  const int64_t cols = x->type->dim[x->type->rank - 1], rows = type_elems(x->type) / cols;
  build_at(b, op->loc, op->layer,
           str_fmt(builder_strings(b), "fp8: whole blocks [recipe %s]", s->recipe->name));
  x = build_reshape(b, x, 2, (int64_t[2]){rows, cols});
  Value *most[2];
  Value *y = product_now(s, op, x, w, s->batch && rows % s->batch == 0 ? rows / s->batch : 0,
                         amax ? most : NULL);
  for (int i = 0; amax && i < 2; i++)
    amax[site->slot[i]] = most[i];
  if (amax && !s->override)
    y = fp8_mark(s, op, y, site->back);
  build_like(b, op);
  y = build_reshape(b, y, ty->rank, ty->dim);
  if (op->nin > 2)
    y = build2(b, OP_add, y, mapped(&s->c, op, 2));
  s->c.map[op->out[0]->id] = y;
}

/* ---- scales of steps past -------------------------------------------------------------------- */

/* amax: by forward slot, NULL when nothing is recorded. */
static void quantize_linear(Fp8 *s, const Op *op, const Site *site, Value **amax) {
  Builder *b = s->c.b;
  Value *x = mapped(&s->c, op, 0), *w = mapped(&s->c, op, 1);
  build_at(b, op->loc, op->layer,
           str_fmt(builder_strings(b), "fp8: %s operand of a product [mode %s]",
                   dtype_text(s->forward), s->mode.name));
  Value *scale_x = fp8_slot_scale(b, s->scale_f, site->slot[0]);
  Op *qx = fp8_quantize(s, x, scale_x, amax != NULL);
  Op *qw = quantize(b, w, fp8_slot_scale(b, s->scale_f, site->slot[1]), s->forward);
  build_like(b, op);
  Attr out = attr_dt(b, "out", op->out[0]->type->dt);
  Value *y = build_op(b, OP_qlinear, 4, (Value *[]){qx->out[0], qw->out[0], qx->out[1], qw->out[1]},
                      1, &out)
                 ->out[0];
  if (amax) {
    y = fp8_mark(s, op, y, site->back);
    amax[site->slot[0]] = qx->out[2];
    amax[site->slot[1]] = qw->out[2];
  }
  build_like(b, op);
  if (op->nin > 2)
    y = build2(b, OP_add, y, mapped(&s->c, op, 2));
  s->c.map[op->out[0]->id] = y;
}

/* ---- the pass -------------------------------------------------------------------------------- */

static void rewrite_func(Fp8 *s, const Func *f, bool record) {
  Builder *b = s->c.b;
  copier_func(&s->c, f, f->name);
  Value **amax = ARENA_ARRAY(builder_arena(b), Value *, s->nforward + 1);
  if (arena_failed(builder_arena(b)))
    return;
  for (int i = 0; i < f->nop && !builder_failed(b); i++) {
    const Op *op = f->op[i];
    const Site *site = fp8_site(s, f, op);
    Value **most = record ? amax : NULL;
    if (!site)
      copier_op(&s->c, op);
    else if (op->code == OP_attention)
      fp8_attention(s, f, op, site, most);
    else if (s->current)
      quantize_linear_now(s, op, site, most);
    else
      quantize_linear(s, op, site, most);
  }
  if (!record || !s->nsite || builder_failed(b))
    return;
  build_at(b, (Loc){0}, str_c(builder_strings(b), ""),
           str_c(builder_strings(b), "fp8: record forward amax"));
  const int64_t one = 1;
  for (int i = 0; i < s->nforward; i++)
    amax[i] = build_reshape(b, amax[i], 1, &one);
  Attr dim = attr_i(b, "dim", 0);
  build_write(b, s->amax_f, build_op(b, OP_cat, s->nforward, amax, 1, &dim)->out[0]);
}

/* The recipe's row and what the spec changes of it. */
static void find_recipe(Fp8 *s) {
  const Module *m = s->in;
  s->recipe = recipe_named(module_str(m, "recipe", "DelayedScaling"));
  if (!s->recipe)
    s->recipe = recipe_at(0);
  const char *format = module_str(m, "fp8_format", s->recipe->format);
  bool fp4 = !strcmp(format, "E2M1");
  s->current = s->recipe != recipe_at(0);
  s->forward = fp4 ? MPCC_E2M1 : MPCC_E4M3;
  s->backward = fp4 ? MPCC_E2M1 : !strcmp(format, "HYBRID") ? MPCC_E5M2 : MPCC_E4M3;
  s->scales = s->recipe->scales;
  const bool has = recipe_has_key(s->recipe, "fp8_dpa");
  s->projections = has && module_int(m, "fp8_mha", 0);
  s->attention = s->projections || (has && module_int(m, "fp8_dpa", 0));
  bool bf16 = s->mode.low == MPCC_BF16; /* the transform is defined for bf16 alone */
  s->hadamard = fp4 && bf16 && !module_int(m, "disable_rht", 0);
  s->random = fp4 && !module_int(m, "disable_stochastic_rounding", 0);
  s->override = s->current ? module_str(m, "backward_override", NULL) : NULL;
  s->weight = module_int(m, "disable_2d_quantization", 0) ? s->recipe->input : s->recipe->weight;
  if (recipe_has_key(s->recipe, "power_2_scales"))
    s->scales = module_int(m, "power_2_scales", s->scales == SCALES_POWER_OF_2) ? SCALES_POWER_OF_2
                                                                                : SCALES_FLOAT32;
}

Status pass_fp8(const Module *in, const PassOpts *o, Builder *out, Diag *d) {
  Fp8 s = {.in = in};
  Status st = mode_get(in, d, &s.mode);
  if (st != MPCC_OK)
    return st;
  copier_init(&s.c, out, in);
  if (!builder_failed(out))
    find_batch(&s);
  find_recipe(&s);
  const Func *train = module_func(in, "train_forward");
  if (train && !builder_failed(out))
    find_sites(&s, train, o->no_fp8, d);
  if (s.fallback && !builder_failed(out))
    build_module_attr(out, attr_s(out, "fp8_fallback", str_c(builder_strings(out), o->no_fp8)));
  if (s.nsite && !builder_failed(out)) {
    declare(&s, true, &s.scale_f, &s.amax_f);
    if (!s.override)
      declare(&s, false, &s.scale_b, &s.amax_b);
  }
  for (int i = 0; i < in->nfunc && !builder_failed(out); i++)
    rewrite_func(&s, in->func[i], in->func[i] == train);
  text_fini(&s.forward_names);
  text_fini(&s.backward_names);
  return MPCC_OK;
}
