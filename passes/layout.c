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
 * turned round (ir/conv.c). Few groups are convolutions of slices of channels. Where every channel
 * is a group (depthwise) it is one op over a padded image, and so is, for each channel of a group,
 * a convolution of very many groups. Stage typed to laid. */
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

/* x [N, S..., C] with zeros around it: every window lies inside. */
static Value *padded(Builder *b, const Conv *c, Value *x) {
  for (int i = 0; i < c->w.nd; i++) {
    int64_t n = x->type->dim[1 + i], from = c->w.padding[i];
    int64_t size =
        (c->w.size[i] - 1) * c->w.stride[i] + (c->w.kernel[i] - 1) * c->w.dilation[i] + 1;
    if (size < from + n)
      size = from + n;
    if (size == n)
      continue;
    Attr attr[3] = {attr_i(b, "dim", 1 + i), attr_i(b, "start", from), attr_i(b, "size", size)};
    x = build_op(b, OP_unslice, 1, &x, 3, attr)->out[0];
  }
  return x;
}

/* Channel j of each group, for each of the outs filters: [N, S..., G * own] to [N, S..., outs]. */
static Value *channel_of_filters(Builder *b, Value *x, int64_t groups, int64_t outs, int64_t j) {
  int rank = x->type->rank;
  int64_t own = x->type->dim[rank - 1] / groups, dim[MAX_RANK];
  if (own == 1 && groups == outs)
    return x;
  for (int i = 0; i < rank; i++)
    dim[i] = x->type->dim[i];
  dim[rank - 1] = groups;
  dim[rank] = own;
  x = build_slice(b, build_reshape(b, x, rank + 1, dim), rank, j, j + 1);
  dim[rank] = outs / groups;
  Attr shape = attr_ints(b, "shape", rank + 1, dim);
  x = build_op(b, OP_expand, 1, &x, 1, &shape)->out[0];
  dim[rank - 1] = outs;
  return build_reshape(b, x, rank, dim);
}

/* y = sum over the channels j of a group of filters over channel j alone. */
static Value *depthwise(Builder *b, const Conv *c, Value *x, Value *w, Value *bias) {
  const ConvWindow *g = &c->w;
  const Attr *region = op_attr(c->op, "precision");
  int last = x->type->rank - 1;
  int64_t outs = w->type->dim[0], own = w->type->dim[1], none[CONV_AXES] = {0};
  /* Partial sums are not rounded to narrow formats. */
  DType dt = c->op->out[0]->type->dt, sum = own > 1 && dtype_bytes(dt) < 4 ? MPCC_F32 : dt;
  Value *y = NULL;
  x = padded(b, c, move_axis(b, x, 1, last));
  for (int64_t j = 0; j < own; j++) {
    Attr attr[8];
    int n = 0;
    if (region)
      attr[n++] = *region;
    attr[n++] = attr_ints(b, "positions", g->nd, g->size);
    attr[n++] = attr_ints(b, "kernel", g->nd, g->kernel);
    attr[n++] = attr_ints(b, "stride", g->nd, g->stride);
    attr[n++] = attr_ints(b, "padding", g->nd, none);
    attr[n++] = attr_ints(b, "dilation", g->nd, g->dilation);
    attr[n++] = attr_i(b, "groups", outs);
    if (sum != dt)
      attr[n++] = attr_dt(b, "out", sum);
    Value *wj = own == 1 ? w : build_slice(b, w, 1, j, j + 1);
    Value *in[3] = {channel_of_filters(b, x, c->groups, outs, j), move_axis(b, wj, 1, last),
                    j == 0 ? bias : NULL};
    Value *part = build_op(b, OP_conv_gather, in[2] ? 3 : 2, in, n, attr)->out[0];
    Value *both[2] = {y, part};
    y = y ? build_op(b, OP_add, 2, both, 0, NULL)->out[0] : part;
  }
  y = sum == dt ? y : build_cast(b, y, dt);
  return move_axis(b, y, last, 1);
}

/* Kernels for each group pay up to so many; groups of more channels are worth one in any case. */
enum { SOME_GROUPS = 64, MOST_OWN = 16 };

static bool is_depthwise(const Conv *c, const Value *w) {
  int64_t own = w->type->dim[1];
  for (int i = 0; i < c->w.nd; i++)
    if (c->w.padding[i] < 0)
      return false;
  return !c->transposed && c->groups > 1 &&
         (own == 1 || (c->groups > SOME_GROUPS && own <= MOST_OWN)) && w->type->rank < MAX_RANK;
}

static Value *conv(Builder *b, const Conv *c, Value *x, Value *w, Value *bias) {
  if (is_depthwise(c, w))
    return depthwise(b, c, x, w, bias);
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

Status pass_layout(const Module *in, const PassOpts *o, Builder *out, Diag *d) {
  (void)d;
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
      build_at(out, op->loc, op->layer,
               str_c(builder_strings(out), "layout: convolution, channels last"));
      c.map[op->out[0]->id] = conv(out, &cv, mapped(&c, op, 0), mapped(&c, op, 1),
                                   op->nin > 2 ? mapped(&c, op, 2) : NULL);
    }
  }
  return MPCC_OK;
}
