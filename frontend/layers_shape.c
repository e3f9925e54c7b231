/* Layers that move, join and reduce axes, and Parameter. */
#include "frontend/layers.h"

Value *layer_Flatten(Lower *lo, const Node *n, Value *const *in) {
  const Type *x = in[0]->type;
  int from = lay_axis(lo, n, "start_dim", lay_int(n, "start_dim"), in);
  int to = from < 0 ? -1 : lay_axis(lo, n, "end_dim", val_get_int(n->args, "end_dim", -1), in);
  if (to < 0)
    return NULL;
  if (lay_is_batch(lo, n, from) || to < from)
    return lay_misfit(lo, n, lay_loc(n, "start_dim"), 0, in, "cannot join axes %d to %d%s", from,
                      to, from ? "" : ": 0 is the batch");
  int64_t dim[MAX_RANK];
  int rank = 0;
  for (int i = 0; i < x->rank; i++)
    if (i > from && i <= to)
      dim[rank - 1] *= x->dim[i];
    else
      dim[rank++] = x->dim[i];
  return build_reshape(lo->b, in[0], rank, dim);
}

Value *layer_transpose(Lower *lo, const Node *n, Value *const *in) {
  int a = lay_axis(lo, n, "dim0", lay_int(n, "dim0"), in);
  int b = a < 0 ? -1 : lay_axis(lo, n, "dim1", lay_int(n, "dim1"), in);
  if (b < 0)
    return NULL;
  int batch = lay_batch_axis(lo, n, 0);
  lay_set_batch_axis(lo, n, batch == a ? b : batch == b ? a : batch);
  int64_t perm[MAX_RANK];
  for (int i = 0; i < in[0]->type->rank; i++)
    perm[i] = i == a ? b : i == b ? a : i;
  return build_permute(lo->b, in[0], perm);
}

Value *layer_select(Lower *lo, const Node *n, Value *const *in) {
  const Type *x = in[0]->type;
  int axis = lay_axis(lo, n, "dim", lay_int(n, "dim"), in);
  if (axis < 0)
    return NULL;
  int64_t index = lay_int(n, "index"), at = index < 0 ? index + x->dim[axis] : index;
  int batch = lay_batch_axis(lo, n, 0);
  if (axis == batch)
    return lay_misfit(lo, n, lay_loc(n, "dim"), 0, in, "cannot select from axis %d, the batch",
                      axis);
  lay_set_batch_axis(lo, n, batch - (axis < batch));
  if (at < 0 || at >= x->dim[axis])
    return lay_misfit(lo, n, lay_loc(n, "index"), 0, in, "has index %lld, the axis has %lld",
                      (long long)index, (long long)x->dim[axis]);
  Value *one = build_slice(lo->b, in[0], axis, at, at + 1);
  int64_t dim[MAX_RANK];
  int rank = 0;
  for (int i = 0; i < x->rank; i++)
    if (i != axis)
      dim[rank++] = x->dim[i];
  return build_reshape(lo->b, one, rank, dim);
}

static Value *reduce(Lower *lo, const Node *n, OpCode code, Value *const *in) {
  const Val *dims = val_get(n->args, "dim");
  int64_t axis[MAX_RANK];
  for (int i = 0; i < dims->n; i++) {
    int at = i < MAX_RANK ? lay_axis(lo, n, "dim", dims->item[i]->i, in) : -1;
    if (at < 0)
      return NULL;
    if (lay_is_batch(lo, n, at))
      return lay_misfit(lo, n, lay_loc(n, "dim"), 0, in, "cannot work over axis 0, the batch");
    for (int k = 0; k < i; k++)
      if (axis[k] == at)
        return lay_misfit(lo, n, lay_loc(n, "dim"), 0, in, "names axis %d twice", at);
    axis[i] = at;
  }
  Attr at[] = {attr_ints(lo->b, "dims", dims->n, axis),
               attr_b(lo->b, "keepdim", val_get_bool(n->args, "keepdim", false))};
  return lay_emit1(lo, n, code, 1, in, 2, at);
}

Value *layer_mean(Lower *lo, const Node *n, Value *const *in) {
  return reduce(lo, n, OP_mean, in);
}

Value *layer_sum(Lower *lo, const Node *n, Value *const *in) {
  return reduce(lo, n, OP_sum, in);
}

/* Largest along one axis, values alone; the gradient goes to the first of equals, as torch.max(x,
 * dim). One window as long as the axis. */
Value *layer_max(Lower *lo, const Node *n, Value *const *in) {
  const Type *x = in[0]->type;
  int axis = lay_axis(lo, n, "dim", lay_int(n, "dim"), in), rank = x->rank;
  int64_t perm[MAX_RANK], dim[MAX_RANK], flat[3] = {0, 1, 0}, one = 1;
  if (axis < 0)
    return NULL;
  if (lay_is_batch(lo, n, axis))
    return lay_misfit(lo, n, lay_loc(n, "dim"), 0, in, "cannot work over axis 0, the batch");
  for (int i = 0, k = 0; i < rank; i++) {
    if (i != axis)
      perm[k++] = i;
    flat[1] *= i && i != axis ? x->dim[i] : 1;
    dim[i] = i == axis ? 1 : x->dim[i];
  }
  perm[rank - 1] = axis;
  flat[0] = axis ? x->dim[0] : 1;
  flat[2] = x->dim[axis];
  Value *v = axis < rank - 1 ? build_permute(lo->b, in[0], perm) : in[0];
  v = build_reshape(lo->b, v, 3, flat);
  Attr at[] = {attr_ints(lo->b, "extents", 1, &flat[2]), attr_ints(lo->b, "positions", 1, &one),
               attr_ints(lo->b, "kernel", 1, &flat[2]), attr_ints(lo->b, "stride", 1, &flat[2])};
  v = lay_emit1(lo, n, OP_max_pool, 1, &v, 4, at);
  if (!val_get_bool(n->args, "keepdim", false)) {
    for (int i = axis; i + 1 < rank; i++)
      dim[i] = dim[i + 1];
    rank--;
  }
  return build_reshape(lo->b, v, rank, dim);
}

/* [N, C r^2, H, W] as [N, C, H r, W r]: each r x r channels are the pixels of a square (Shi et al.
 * 2016). */
Value *layer_PixelShuffle(Lower *lo, const Node *n, Value *const *in) {
  static const int64_t perm[] = {0, 1, 4, 2, 5, 3};
  const int64_t r = lay_int(n, "upscale_factor"), *d = in[0]->type->dim;
  if (in[0]->type->rank != 4)
    return lay_misfit(lo, n, n->loc, 0, in, "works on [N, C, H, W]");
  if (d[1] % r || d[1] / r % r)
    return lay_misfit(lo, n, lay_loc(n, "upscale_factor"), 0, in,
                      "makes squares of %lld x %lld channels, which do not divide %lld",
                      (long long)r, (long long)r, (long long)d[1]);
  const int64_t c = d[1] / (r * r), apart[] = {d[0], c, r, r, d[2], d[3]};
  const int64_t whole[] = {d[0], c, d[2] * r, d[3] * r};
  Value *v = build_permute(lo->b, build_reshape(lo->b, in[0], 6, apart), perm);
  return build_reshape(lo->b, v, 4, whole);
}

/* Its inverse: [N, C, H r, W r] as [N, C r^2, H, W]. */
Value *layer_PixelUnshuffle(Lower *lo, const Node *n, Value *const *in) {
  static const int64_t perm[] = {0, 1, 3, 5, 2, 4};
  const int64_t r = lay_int(n, "downscale_factor"), *d = in[0]->type->dim;
  if (in[0]->type->rank != 4)
    return lay_misfit(lo, n, n->loc, 0, in, "works on [N, C, H, W]");
  if (d[2] % r || d[3] % r)
    return lay_misfit(lo, n, lay_loc(n, "downscale_factor"), 0, in,
                      "takes squares of %lld pixels, which do not cut %lld x %lld evenly",
                      (long long)r, (long long)d[2], (long long)d[3]);
  const int64_t h = d[2] / r, w = d[3] / r, apart[] = {d[0], d[1], h, r, w, r};
  const int64_t whole[] = {d[0], d[1] * r * r, h, w};
  Value *v = build_permute(lo->b, build_reshape(lo->b, in[0], 6, apart), perm);
  return build_reshape(lo->b, v, 4, whole);
}

/* What leaves an axis at one end comes in at the other. */
Value *layer_roll(Lower *lo, const Node *n, Value *const *in) {
  const Val *shifts = val_get(n->args, "shifts"), *dims = val_get(n->args, "dims");
  Value *v = in[0];
  if (shifts->n != dims->n)
    return lay_error(lo, shifts->loc, 201, "'%s' has %d shifts for %d axes", n->name, shifts->n,
                     dims->n);
  for (int i = 0; i < dims->n; i++) {
    int axis = lay_axis(lo, n, "dims", dims->item[i]->i, in);
    if (axis < 0)
      return NULL;
    if (lay_is_batch(lo, n, axis))
      return lay_misfit(lo, n, dims->loc, 0, in, "cannot roll axis 0, the batch");
    int64_t size = v->type->dim[axis], by = (shifts->item[i]->i % size + size) % size;
    if (!by)
      continue;
    Value *part[2] = {build_slice(lo->b, v, axis, size - by, size),
                      build_slice(lo->b, v, axis, 0, size - by)};
    Attr at = attr_i(lo->b, "dim", axis);
    v = lay_emit1(lo, n, OP_cat, 2, part, 1, &at);
  }
  return v;
}

/* Part `index` of an axis that torch.chunk or torch.split cuts: [from, to). */
static bool part_of(const Node *n, int64_t size, int64_t index, int64_t *from, int64_t *to) {
  const Val *sections = val_get(n->args, "split_size_or_sections");
  int64_t length = 0;
  *from = *to = 0;
  if (sections && sections->n > 1) {
    for (int i = 0; i < sections->n; i++) {
      *from = i <= index ? length : *from;
      length += sections->item[i]->i;
      *to = i <= index ? length : *to;
    }
    return length == size && index < sections->n;
  }
  int64_t chunks = lay_int(n, "chunks");
  length = sections ? sections->item[0]->i : (size + chunks - 1) / chunks;
  *from = index * length;
  *to = *from + length < size ? *from + length : size;
  return *from < size;
}

static Value *cut(Lower *lo, const Node *n, Value *const *in) {
  const Type *x = in[0]->type;
  int axis = lay_axis(lo, n, "dim", lay_int(n, "dim"), in);
  int64_t index = lay_int(n, "index"), from, to;
  if (axis < 0)
    return NULL;
  if (lay_is_batch(lo, n, axis))
    return lay_misfit(lo, n, lay_loc(n, "dim"), 0, in, "cannot cut axis 0, the batch");
  if (!part_of(n, x->dim[axis], index, &from, &to))
    return lay_misfit(lo, n, lay_loc(n, "index"), 0, in,
                      "has no part %lld: its input has %lld along axis %d", (long long)index,
                      (long long)x->dim[axis], axis);
  return build_slice(lo->b, in[0], axis, from, to);
}

Value *layer_chunk(Lower *lo, const Node *n, Value *const *in) {
  return cut(lo, n, in);
}

Value *layer_split(Lower *lo, const Node *n, Value *const *in) {
  return cut(lo, n, in);
}

/* The batch stays axis 0: written -1, or its size; one more -1 takes what is left. What has no
 * batch takes any shape. */
static Value *reshape(Lower *lo, const Node *n, Value *const *in) {
  const Val *shape = val_get(n->args, "shape");
  const bool batch = lay_is_batch(lo, n, 0);
  int64_t dim[MAX_RANK], first = batch ? lo->batch : 1, known = first;
  int64_t all = type_elems(in[0]->type);
  int open = -1;
  if (shape->n < 1 || shape->n > MAX_RANK)
    return lay_misfit(lo, n, shape->loc, 0, in, "makes %d dimensions, at most %d are possible",
                      shape->n, MAX_RANK);
  if (batch && (in[0]->type->dim[0] != lo->batch ||
                (shape->item[0]->i != -1 && shape->item[0]->i != lo->batch)))
    return lay_misfit(lo, n, shape->loc, 0, in, "must keep axis 0, the batch: write -1 there");
  dim[0] = lo->batch;
  for (int i = batch; i < shape->n; i++) {
    dim[i] = shape->item[i]->i;
    if (dim[i] == 0 || dim[i] < -1 || (dim[i] == -1 && open >= 0))
      return lay_misfit(lo, n, shape->item[i]->loc, 0, in, "takes sizes from 1 and one -1%s",
                        batch ? " besides the batch" : "");
    if (dim[i] == -1)
      open = i;
    else if (__builtin_mul_overflow(known, dim[i], &known))
      return lay_misfit(lo, n, shape->loc, 0, in, "makes a too large tensor");
  }
  if (open >= 0 && known <= all) {
    dim[open] = all / known;
    known *= dim[open];
  }
  if (known != all)
    return lay_misfit(lo, n, shape->loc, 0, in, "has %lld elements%s; its input has %lld",
                      (long long)(known / first), batch ? " behind axis 0, the batch" : "",
                      (long long)(all / first));
  return build_reshape(lo->b, in[0], shape->n, dim);
}

Value *layer_reshape(Lower *lo, const Node *n, Value *const *in) {
  return reshape(lo, n, in);
}

Value *layer_view(Lower *lo, const Node *n, Value *const *in) {
  return reshape(lo, n, in);
}

Value *layer_permute(Lower *lo, const Node *n, Value *const *in) {
  const Val *dims = val_get(n->args, "dims");
  int64_t perm[MAX_RANK];
  bool seen[MAX_RANK] = {false}, fits = dims->n == in[0]->type->rank;
  for (int i = 0; fits && i < dims->n; i++) {
    int at = lay_axis(lo, n, "dims", dims->item[i]->i, in);
    if (at < 0)
      return NULL;
    fits = !seen[at];
    seen[at] = true;
    perm[i] = at;
  }
  if (!fits)
    return lay_misfit(lo, n, dims->loc, 0, in, "must name each axis of its input once");
  for (int i = 0; i < dims->n; i++)
    if (perm[i] == lay_batch_axis(lo, n, 0))
      lay_set_batch_axis(lo, n, i);
  return build_permute(lo->b, in[0], perm);
}

Value *layer_squeeze(Lower *lo, const Node *n, Value *const *in) {
  const Type *x = in[0]->type;
  int axis = lay_axis(lo, n, "dim", lay_int(n, "dim"), in), rank = 0;
  int64_t dim[MAX_RANK];
  if (axis < 0)
    return NULL;
  if (lay_is_batch(lo, n, axis))
    return lay_misfit(lo, n, lay_loc(n, "dim"), 0, in, "cannot drop axis 0, the batch");
  if (x->dim[axis] != 1) /* as torch */
    return in[0];
  for (int i = 0; i < x->rank; i++)
    if (i != axis)
      dim[rank++] = x->dim[i];
  return build_reshape(lo->b, in[0], rank, dim);
}

Value *layer_unsqueeze(Lower *lo, const Node *n, Value *const *in) {
  const Type *x = in[0]->type;
  int64_t at = lay_int(n, "dim"), dim[MAX_RANK + 1];
  at += at < 0 ? x->rank + 1 : 0;
  if (at < 0 || lay_is_batch(lo, n, (int)at) || at > x->rank || x->rank == MAX_RANK)
    return lay_misfit(lo, n, lay_loc(n, "dim"), 0, in, "cannot add axis %lld: %s",
                      (long long)lay_int(n, "dim"),
                      at == 0 ? "0 is the batch" : "its input has too few or too many");
  for (int i = 0; i <= x->rank; i++)
    dim[i] = i == at ? 1 : x->dim[i < at ? i : i - 1];
  return build_reshape(lo->b, in[0], x->rank + 1, dim);
}

Value *layer_cat(Lower *lo, const Node *n, Value *const *in) {
  int axis = lay_axis(lo, n, "dim", val_get_int(n->args, "dim", 1), in);
  if (axis < 0)
    return NULL;
  if (lay_is_batch(lo, n, axis))
    return lay_misfit(lo, n, lay_loc(n, "dim"), 0, in, "cannot join along axis 0, the batch");
  for (int i = 1; i < n->nin; i++) {
    bool same = in[i]->type->rank == in[0]->type->rank;
    for (int k = 0; same && k < in[0]->type->rank; k++)
      same = k == axis || in[i]->type->dim[k] == in[0]->type->dim[k];
    if (!same)
      return lay_misfit(lo, n, n->loc, i, in, "joins %s and %s along axis %d",
                        lay_shape(lo, in[0]->type), lay_shape(lo, in[i]->type), axis);
  }
  Attr at = attr_i(lo->b, "dim", axis);
  return lay_emit1(lo, n, OP_cat, n->nin, in, 1, &at);
}

/* 0, 1, ... end - 1, for tables and masks that know no batch. */
Value *layer_arange(Lower *lo, const Node *n, Value *const *in) {
  (void)in;
  int64_t end = lay_int(n, "end");
  Attr at[] = {attr_ints(lo->b, "shape", 1, &end), attr_i(lo->b, "dim", 0)};
  return lay_emit1(lo, n, OP_iota, 0, NULL, 2, at);
}

Value *layer_Parameter(Lower *lo, const Node *n, Value *const *in) {
  (void)in;
  const Val *shape = val_get(n->args, "shape");
  int64_t dim[MAX_RANK];
  if (shape->n < 1 || shape->n > MAX_RANK)
    return lay_misfit(lo, n, shape->loc, 0, in, "has %d dimensions, at most %d are possible",
                      shape->n, MAX_RANK);
  for (int i = 0; i < shape->n; i++)
    dim[i] = shape->item[i]->i;
  bool complex = lay_is_complex(n), expands = val_get_bool(n->args, "expand_batch", false);
  if (complex && shape->n == MAX_RANK)
    return lay_misfit(lo, n, shape->loc, 0, in,
                      "has %d dimensions, at most %d are possible of complex numbers", shape->n,
                      MAX_RANK - 1);
  if (complex && !lay_complex(lo, n, true))
    return NULL;
  /* as torch.nn.Parameter(torch.zeros(...)) in most models; say `init` for anything else */
  Pair v = {NULL, NULL};
  if (complex)
    v = lay_param_pair(lo, n, "", shape->n, dim, init_constant(0));
  else
    v.re = lay_param(lo, n, "", shape->n, dim, init_constant(0));
  if (!expands || lo->failed)
    return lay_give(lo, n, v);
  if (dim[0] != 1)
    return lay_misfit(lo, n, shape->loc, 0, in,
                      "has expand_batch, its first dimension is %lld, not 1", (long long)dim[0]);
  dim[0] = lo->batch;
  Attr at = attr_ints(lo->b, "shape", shape->n, dim);
  v.re = build_op(lo->b, OP_expand, 1, &v.re, 1, &at)->out[0];
  if (v.im)
    v.im = build_op(lo->b, OP_expand, 1, &v.im, 1, &at)->out[0];
  return lay_give(lo, n, v);
}
