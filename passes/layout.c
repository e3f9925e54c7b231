/* layout: convolutions are computed channels last.
 *
 *   x [N, C, S...] --permute--> [N, S..., C] --conv_gather--> [N, S'..., O] --permute--> torch's
 * order w [O, C, K...] --permute--> [O, K..., C]
 *
 * A permute is no work by itself: fuse lays values out in the order in which they are made, and
 * pointwise ops and statistics keep the order of their operand. So images stay channels last from
 * one convolution to the next, and are copied where they enter and where a consumer needs torch's
 * order.
 *
 * A 1 x 1 convolution is a product; so is one whose windows tile an image of few channels (patch
 * embeddings), which is read as one reshape and permute. A transposed convolution is the window
 * turned round (ir/conv.c). Groups are convolutions of slices of channels. Stage typed to laid. */
#include <inttypes.h>

#include "passes/passes.h"

typedef struct {
  const Op *op;
  ConvWindow w;              /* of conv_gather */
  int64_t stride[CONV_AXES]; /* as the user wrote it */
  int64_t groups;
  bool transposed;
} Conv;

static int64_t list_attr(const Op *op, const char *key, int i, int64_t otherwise) {
  const Attr *a = op_attr(op, key);
  return a && a->kind == AT_INTS && i < a->u.ints.n ? a->u.ints.v[i] : otherwise;
}

static Conv conv_of(const Op *op) {
  const Type *w = op->in[1]->type, *y = op->out[0]->type;
  Conv c = {.op = op, .groups = op_int(op, "groups", 1)};
  c.transposed = op_int(op, "transposed", 0) != 0;
  c.w.nd = w->rank - 2;
  int sign = c.transposed ? -1 : 1;
  for (int i = 0; i < c.w.nd; i++) {
    int64_t stride = list_attr(op, "stride", i, 1);
    c.stride[i] = stride;
    c.w.size[i] = y->dim[2 + i];
    c.w.kernel[i] = w->dim[2 + i];
    c.w.stride[i] = c.transposed ? 1 : stride;
    c.w.up[i] = c.transposed ? stride : 1;
    c.w.padding[i] = sign * list_attr(op, "padding", i, 0);
    c.w.dilation[i] = sign * list_attr(op, "dilation", i, 1);
  }
  return c;
}

/* Axis `from` moved behind `to` (or in front of it), the others in order. */
static Value *move_axis(Builder *b, Value *x, int from, int to) {
  int64_t perm[MAX_RANK];
  int rank = x->type->rank;
  for (int i = 0, k = 0; i < rank; i++) {
    if (k == from)
      k++;
    perm[i] = i == to ? from : k++;
  }
  return build_permute(b, x, perm);
}

/* Windows that tile the input: kernel == stride, nothing between or around. */
static bool tiles(const Conv *c) {
  bool yes = !c->transposed;
  for (int i = 0; i < c->w.nd; i++)
    yes &= c->w.kernel[i] == c->stride[i] && c->w.padding[i] == 0 && c->w.dilation[i] == 1 &&
           list_attr(c->op, "padding_end", i, 0) == 0;
  return yes;
}

enum { FEW_CHANNELS = 4 };

static bool is_product(const Conv *c, int64_t channels) {
  return tiles(c) && (conv_taps(&c->w) == 1 || (c->w.nd == 2 && channels <= FEW_CHANNELS));
}

/* [N, C, Ho*KH, Wo*KW] to [N, Ho, Wo, C*KH*KW] */
static Value *patches(Builder *b, const Conv *c, Value *x) {
  const ConvWindow *w = &c->w;
  int64_t n = x->type->dim[0], ch = x->type->dim[1];
  x = build_slice(b, x, 2, 0, w->size[0] * w->kernel[0]);
  x = build_slice(b, x, 3, 0, w->size[1] * w->kernel[1]);
  const int64_t split[6] = {n, ch, w->size[0], w->kernel[0], w->size[1], w->kernel[1]};
  const int64_t perm[6] = {0, 2, 4, 1, 3, 5};
  const int64_t flat[4] = {n, w->size[0], w->size[1], ch * conv_taps(w)};
  return build_reshape(b, build_permute(b, build_reshape(b, x, 6, split), perm), 4, flat);
}

/* One group: x [N, Cg, S...], w [Og, Cg, K...] (transposed: [Cg, Og, K...]) to [N, S'..., Og]. */
static Value *one_group(Builder *b, const Conv *c, Value *x, Value *w, Value *bias) {
  const Attr *region = op_attr(c->op, "precision");
  const ConvWindow *g = &c->w;
  Attr attr[8];
  int nattr = 0, last = x->type->rank - 1;
  if (region)
    attr[nattr++] = *region;
  if (is_product(c, x->type->dim[1])) {
    const int64_t flat[2] = {w->type->dim[0], type_elems(w->type) / w->type->dim[0]};
    Value *rows = conv_taps(g) == 1 ? move_axis(b, x, 1, last) : patches(b, c, x);
    Value *in[3] = {rows, build_reshape(b, w, 2, flat), bias};
    return build_op(b, OP_linear, bias ? 3 : 2, in, nattr, attr)->out[0];
  }
  attr[nattr++] = attr_ints(b, "positions", g->nd, g->size);
  attr[nattr++] = attr_ints(b, "kernel", g->nd, g->kernel);
  attr[nattr++] = attr_ints(b, "stride", g->nd, g->stride);
  attr[nattr++] = attr_ints(b, "padding", g->nd, g->padding);
  attr[nattr++] = attr_ints(b, "dilation", g->nd, g->dilation);
  attr[nattr++] = attr_ints(b, "up", g->nd, g->up);
  /* [O, K..., C] from either order */
  w = c->transposed ? move_axis(b, w, 0, last) : move_axis(b, w, 1, last);
  Value *in[3] = {move_axis(b, x, 1, last), w, bias};
  return build_op(b, OP_conv_gather, bias ? 3 : 2, in, nattr, attr)->out[0];
}

static Value *conv(Builder *b, const Conv *c, Value *x, Value *w, Value *bias) {
  int64_t g = c->groups, ch = x->type->dim[1] / g, o = c->op->out[0]->type->dim[1] / g;
  int64_t own = w->type->dim[0] / g;
  int last = x->type->rank - 1;
  Value **part = ARENA_ARRAY(builder_arena(b), Value *, g);
  if (builder_failed(b) || arena_failed(builder_arena(b)))
    return x;
  for (int64_t i = 0; i < g; i++) {
    Value *xi = g == 1 ? x : build_slice(b, x, 1, i * ch, (i + 1) * ch);
    Value *wi = g == 1 ? w : build_slice(b, w, 0, i * own, (i + 1) * own);
    Value *bi = g == 1 || !bias ? bias : build_slice(b, bias, 0, i * o, (i + 1) * o);
    part[i] = one_group(b, c, xi, wi, bi);
  }
  Attr dim = attr_i(b, "dim", last);
  Value *y = g == 1 ? part[0] : build_op(b, OP_cat, (int)g, part, 1, &dim)->out[0];
  return move_axis(b, y, last, 1);
}

enum { MAX_CONV_GROUPS = 64 };

static bool supported(const Conv *c, Diag *d) {
  if (c->groups <= MAX_CONV_GROUPS)
    return true;
  diag_error(d, c->op->loc, 195,
             "convolution of %" PRId64 " groups is not supported yet (at most %d)", c->groups,
             MAX_CONV_GROUPS);
  return false;
}

Status pass_layout(const Module *in, const PassOpts *o, Builder *out, Diag *d) {
  (void)o;
  Copier c;
  copier_init(&c, out, in);
  for (int i = 0; i < in->nfunc; i++) {
    const Func *f = in->func[i];
    copier_func(&c, f, f->name);
    for (int k = 0; k < f->nop && !builder_failed(out); k++) {
      const Op *op = f->op[k];
      if (op->code != OP_conv) {
        copier_op(&c, op);
        continue;
      }
      Conv cv = conv_of(op);
      if (!supported(&cv, d))
        return MPCC_ERR_INPUT;
      build_at(out, op->loc, op->layer,
               str_c(builder_strings(out), "layout: convolution, channels last"));
      c.map[op->out[0]->id] = conv(out, &cv, mapped(&c, op, 0), mapped(&c, op, 1),
                                   op->nin > 2 ? mapped(&c, op, 2) : NULL);
    }
  }
  return MPCC_OK;
}
