/* layout: a convolution becomes a product over patches.
 *
 *   x [N, C, H, W] --pad, taps--> patches [N, Ho, Wo, C*KH*KW] --linear--> [N, Ho, Wo, O]
 * --permute-->
 *
 * Where kernel == stride the patches tile x and are one reshape and permute (patch embeddings);
 * else each of the KH * KW taps is a strided window of the padded x, and patches are their cat.
 * A stride s is taken by reshaping an axis to [Ho, s] and slicing its first phase, so views, cat
 * and unslice are all that is needed and gradients follow from theirs. Weight [O, C/groups, KH, KW]
 * is the linear's [O, C/groups * KH * KW] as it lies in memory. Stage typed to laid. */
#include <inttypes.h>

#include "passes/passes.h"

typedef struct {
  int64_t kernel, stride, padding, dilation, size, out; /* of one spatial axis; sizes in elements */
} Axis;

typedef struct {
  const Op *op;
  Axis h, w;
  int64_t groups;
} Conv;

static Axis axis_of(const Op *op, int which) {
  const Type *x = op->in[0]->type, *w = op->in[1]->type;
  static const char *const key[3] = {"stride", "padding", "dilation"};
  int64_t value[3] = {1, 0, 1};
  for (int i = 0; i < 3; i++) {
    const Attr *a = op_attr(op, key[i]);
    if (a && a->kind == AT_INTS && a->u.ints.n == 2)
      value[i] = a->u.ints.v[which];
    else if (a && a->kind == AT_INTS && a->u.ints.n == 1)
      value[i] = a->u.ints.v[0];
    else if (a && a->kind == AT_INT)
      value[i] = a->u.i;
  }
  return (Axis){.kernel = w->dim[2 + which],
                .stride = value[0],
                .padding = value[1],
                .dilation = value[2],
                .size = x->dim[2 + which],
                .out = op->out[0]->type->dim[2 + which]};
}

static bool tiles(const Axis *a) {
  return a->kernel == a->stride && a->padding == 0 && a->dilation == 1;
}

/* [N, C, Ho*KH, Wo*KW] to [N, Ho, Wo, C*KH*KW] */
static Value *patches_tiled(Builder *b, const Conv *cv, Value *x) {
  const Axis *h = &cv->h, *w = &cv->w;
  int64_t n = x->type->dim[0], c = x->type->dim[1];
  x = build_slice(b, x, 2, 0, h->out * h->kernel);
  x = build_slice(b, x, 3, 0, w->out * w->kernel);
  const int64_t split[6] = {n, c, h->out, h->kernel, w->out, w->kernel};
  const int64_t perm[6] = {0, 2, 4, 1, 3, 5};
  const int64_t flat[4] = {n, h->out, w->out, c * h->kernel * w->kernel};
  return build_reshape(b, build_permute(b, build_reshape(b, x, 6, split), perm), 4, flat);
}

static Value *unslice(Builder *b, Value *x, int dim, int64_t start, int64_t size) {
  if (start == 0 && size == x->type->dim[dim])
    return x;
  Attr attr[3] = {attr_i(b, "dim", dim), attr_i(b, "start", start), attr_i(b, "size", size)};
  return build_op(b, OP_unslice, 1, &x, 3, attr)->out[0];
}

/* Padded length of an axis: every tap's window of out * stride elements lies inside. */
static int64_t padded_size(const Axis *a) {
  int64_t last = (a->kernel - 1) * a->dilation + a->out * a->stride;
  int64_t all = a->size + 2 * a->padding;
  return last > all ? last : all;
}

/* Elements tap * dilation + i * stride, i < out, of axis dim. */
static Value *take(Builder *b, Value *x, int dim, const Axis *a, int64_t tap) {
  int64_t start = tap * a->dilation;
  x = build_slice(b, x, dim, start, start + a->out * a->stride);
  if (a->stride == 1)
    return x;
  int64_t shape[MAX_RANK], rank = x->type->rank;
  for (int i = 0; i < rank; i++)
    shape[i < dim ? i : i + 1] = x->type->dim[i];
  shape[dim] = a->out;
  shape[dim + 1] = a->stride;
  x = build_slice(b, build_reshape(b, x, (int)rank + 1, shape), dim + 1, 0, 1);
  for (int i = dim + 1; i < rank; i++)
    shape[i] = shape[i + 1];
  return build_reshape(b, x, (int)rank, shape);
}

/* The same patches for any kernel: cat over taps of [N, C, 1, Ho, Wo], then C before taps. */
static Value *patches_taps(Builder *b, const Conv *cv, Value *x) {
  const Axis *h = &cv->h, *w = &cv->w;
  int64_t n = x->type->dim[0], c = x->type->dim[1], taps = h->kernel * w->kernel;
  x = unslice(b, x, 2, h->padding, padded_size(h));
  x = unslice(b, x, 3, w->padding, padded_size(w));
  Value **tap = ARENA_ARRAY(builder_arena(b), Value *, taps);
  if (builder_failed(b) || arena_failed(builder_arena(b)))
    return x;
  const int64_t one[5] = {n, c, 1, h->out, w->out};
  for (int64_t i = 0; i < taps; i++) {
    Value *v = take(b, take(b, x, 2, h, i / w->kernel), 3, w, i % w->kernel);
    tap[i] = build_reshape(b, v, 5, one);
  }
  Attr dim = attr_i(b, "dim", 2);
  Value *all = taps == 1 ? tap[0] : build_op(b, OP_cat, (int)taps, tap, 1, &dim)->out[0];
  const int64_t perm[5] = {0, 3, 4, 1, 2};
  const int64_t flat[4] = {n, h->out, w->out, c * taps};
  return build_reshape(b, build_permute(b, all, perm), 4, flat);
}

/* One group: x [N, Cg, H, W], w [Og, Cg, KH, KW] to [N, Ho, Wo, Og]. */
static Value *conv_group(Builder *b, const Conv *cv, Value *x, Value *w, Value *bias) {
  Value *p = tiles(&cv->h) && tiles(&cv->w) ? patches_tiled(b, cv, x) : patches_taps(b, cv, x);
  const int64_t flat[2] = {w->type->dim[0], type_elems(w->type) / w->type->dim[0]};
  Value *in[3] = {p, build_reshape(b, w, 2, flat), bias};
  int nattr = 0;
  const Attr *region = op_attr(cv->op, "precision");
  Attr attr[1];
  if (region)
    attr[nattr++] = *region;
  return build_op(b, OP_linear, bias ? 3 : 2, in, nattr, attr)->out[0];
}

static Value *conv(Builder *b, const Conv *cv, Value *x, Value *w, Value *bias) {
  int64_t g = cv->groups, c = x->type->dim[1] / g, o = w->type->dim[0] / g;
  Value **part = ARENA_ARRAY(builder_arena(b), Value *, g);
  if (builder_failed(b) || arena_failed(builder_arena(b)))
    return x;
  for (int64_t i = 0; i < g; i++) {
    Value *xi = g == 1 ? x : build_slice(b, x, 1, i * c, (i + 1) * c);
    Value *wi = g == 1 ? w : build_slice(b, w, 0, i * o, (i + 1) * o);
    Value *bi = g == 1 || !bias ? bias : build_slice(b, bias, 0, i * o, (i + 1) * o);
    part[i] = conv_group(b, cv, xi, wi, bi);
  }
  Attr dim = attr_i(b, "dim", 3);
  Value *y = g == 1 ? part[0] : build_op(b, OP_cat, (int)g, part, 1, &dim)->out[0];
  const int64_t perm[4] = {0, 3, 1, 2};
  return build_permute(b, y, perm);
}

enum { MAX_TAPS = 1024, MAX_CONV_GROUPS = 64 };

static bool supported(const Conv *cv, Diag *d) {
  int64_t taps = cv->h.kernel * cv->w.kernel;
  if (taps > MAX_TAPS && !(tiles(&cv->h) && tiles(&cv->w))) {
    diag_error(d, cv->op->loc, 195, "kernel of %" PRId64 " taps is not supported yet (at most %d)",
               taps, MAX_TAPS);
    return false;
  }
  if (cv->groups > MAX_CONV_GROUPS) {
    diag_error(d, cv->op->loc, 195,
               "convolution of %" PRId64 " groups is not supported yet (at most %d)", cv->groups,
               MAX_CONV_GROUPS);
    return false;
  }
  return true;
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
      if (op->code != OP_conv2d) {
        copier_op(&c, op);
        continue;
      }
      Conv cv = {op, axis_of(op, 0), axis_of(op, 1), op_int(op, "groups", 1)};
      if (!supported(&cv, d))
        return MPCC_ERR_INPUT;
      build_at(out, op->loc, op->layer,
               str_c(builder_strings(out), "layout: convolution as a product over patches"));
      c.map[op->out[0]->id] = conv(out, &cv, mapped(&c, op, 0), mapped(&c, op, 1),
                                   op->nin > 2 ? mapped(&c, op, 2) : NULL);
    }
  }
  return MPCC_OK;
}
