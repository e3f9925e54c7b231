/* Layers over the space of an image (a line, a solid): convolutions and static windows. Shapes are
 * [N, C, S...] with one to three axes S; names, defaults and rules are torch.nn's. */
#include "frontend/layers.h"

#include <math.h>
#include <string.h>

enum { AXES = 3 };

/* Argument `key` for axis i; `otherwise` where it is null. */
static int64_t axis_arg(const Node *n, const char *key, int i, int64_t otherwise) {
  const Val *v = val_get(n->args, key);
  return v && v->kind == VAL_LIST && i < v->n && v->item[i]->kind == VAL_INT ? v->item[i]->i
                                                                             : otherwise;
}

static const char *axes_text(int nd) {
  static const char *const text[] = {"[N, C, L]", "[N, C, H, W]", "[N, C, D, H, W]"};
  return text[nd - 1];
}

bool lay_spaced(Lower *lo, const Node *n, Value *const *in) {
  const int nd = lay_space(n);
  if (in[0]->type->rank == 2 + nd)
    return true;
  lay_misfit(lo, n, n->loc, 0, in, "works on %s", axes_text(nd));
  return false;
}

/* ---- padding by what is inside ---- */

/* x [N, C, S...] with so many places before and behind each axis (negative: cropped), filled by
 * `mode`: reflect, replicate or circular; NULL after a diagnostic at loc. */
static Value *fill_space(Lower *lo, const Node *n, Loc loc, const char *mode, const int64_t *before,
                         const int64_t *behind, Value *const *in) {
  const Type *x = in[0]->type;
  int nd = x->rank - 2;
  int64_t out[AXES];
  for (int i = 0; i < nd; i++) {
    int64_t size = x->dim[2 + i], most = before[i] > behind[i] ? before[i] : behind[i];
    int64_t least = before[i] < behind[i] ? before[i] : behind[i];
    bool round = !strcmp(mode, "circular");
    int64_t limit = !strcmp(mode, "reflect") ? size - 1 : round ? size : most;
    out[i] = size + before[i] + behind[i];
    if (most > limit || out[i] < 1 || (round && size + least < 1))
      return lay_misfit(lo, n, loc, 0, in, "pads %lld by %lld (%s)", (long long)size,
                        (long long)most, mode);
  }
  Attr at[] = {attr_s(lo->b, "rule", mode), attr_ints(lo->b, "extents", nd, x->dim + 2),
               attr_ints(lo->b, "positions", nd, out), attr_ints(lo->b, "padding", nd, before)};
  return lay_emit1(lo, n, OP_resample, 1, in, 4, at);
}

/* ---- convolutions ---- */

typedef struct {
  int nd;
  int64_t kernel[AXES], stride[AXES], padding[AXES], end[AXES], dilation[AXES];
} Space;

/* What all windows have: sizes, steps (pools: their size, where none is given), dilation, padding
 * on both sides, which convolutions settle later. */
static Space window_of(const Node *n) {
  Space s = {.nd = lay_space(n)};
  for (int i = 0; i < s.nd; i++) {
    s.kernel[i] = axis_arg(n, "kernel_size", i, 1);
    s.stride[i] = axis_arg(n, "stride", i, s.kernel[i]);
    s.dilation[i] = axis_arg(n, "dilation", i, 1);
    s.padding[i] = s.end[i] = axis_arg(n, "padding", i, 0);
  }
  return s;
}

/* `padding: same` keeps the size: what an even window lacks goes behind, as in PyTorch. */
static bool padding_of(Lower *lo, const Node *n, Space *s) {
  const Val *v = val_get(n->args, "padding");
  for (int i = 0; i < s->nd; i++) {
    const char *word = v->item[i]->kind == VAL_STR ? v->item[i]->s : NULL;
    int64_t all = s->dilation[i] * (s->kernel[i] - 1);
    if (word != (v->item[0]->kind == VAL_STR ? v->item[0]->s : NULL)) {
      lay_error(lo, v->loc, 201, "'padding' takes one word or %d numbers", s->nd);
      return false;
    }
    if (word && !strcmp(word, "same") && s->stride[i] != 1) {
      lay_error(lo, v->loc, 201, "padding: same is not defined for a stride of %lld",
                (long long)s->stride[i]);
      return false;
    }
    bool same = word && !strcmp(word, "same");
    s->padding[i] = same ? all / 2 : word ? 0 : v->item[i]->i;
    s->end[i] = same ? all - all / 2 : s->padding[i];
  }
  return true;
}

static bool window_fits(Lower *lo, const Node *n, const Space *s, Value *const *in) {
  for (int i = 0; i < s->nd; i++) {
    int64_t window = (s->kernel[i] - 1) * s->dilation[i] + 1;
    int64_t room = in[0]->type->dim[2 + i] + s->padding[i] + s->end[i];
    if (window > room) {
      lay_misfit(lo, n, lay_loc(n, "kernel_size"), 0, in,
                 "has a window of %lld, its padded input has %lld", (long long)window,
                 (long long)room);
      return false;
    }
  }
  return true;
}

static bool groups_divide(Lower *lo, const Node *n, int64_t c, int64_t o, Value *const *in) {
  int64_t groups = lay_int(n, "groups");
  if (c % groups == 0 && o % groups == 0)
    return true;
  lay_misfit(lo, n, lay_loc(n, "groups"), 0, in,
             "has %lld groups, which do not divide %lld and %lld channels", (long long)groups,
             (long long)c, (long long)o);
  return false;
}

/* Weights of shape dim, bias, and the op; transposed convolutions have output_padding. */
static Value *convolve(Lower *lo, const Node *n, const Space *s, bool transposed,
                       const int64_t *dim, Value *const *in) {
  Builder *b = lo->b;
  double fan_in, fan_out;
  int64_t o = lay_int(n, "out_channels"), extra[AXES];
  init_fans(2 + s->nd, dim, &fan_in, &fan_out);
  Value *args[3] = {in[0], lay_param(lo, n, "weight", 2 + s->nd, dim, lay_fan_bound(fan_in)), NULL};
  bool bias = val_get_bool(n->args, "bias", true);
  if (bias)
    args[2] = lay_param(lo, n, "bias", 1, &o, lay_fan_bound(fan_in));
  Attr at[8] = {
      attr_ints(b, "stride", s->nd, s->stride), attr_ints(b, "padding", s->nd, s->padding),
      attr_ints(b, "dilation", s->nd, s->dilation), attr_i(b, "groups", lay_int(n, "groups"))};
  int nat = 4;
  if (memcmp(s->padding, s->end, (size_t)s->nd * sizeof *s->end) != 0)
    at[nat++] = attr_ints(b, "padding_end", s->nd, s->end);
  if (transposed) {
    for (int i = 0; i < s->nd; i++)
      extra[i] = axis_arg(n, "output_padding", i, 0);
    at[nat++] = attr_b(b, "transposed", true);
    at[nat++] = attr_ints(b, "output_padding", s->nd, extra);
  }
  return lay_emit1(lo, n, OP_conv, bias ? 3 : 2, args, nat, at);
}

Value *layer_Conv(Lower *lo, const Node *n, Value *const *in) {
  Space s = window_of(n);
  if (!lay_spaced(lo, n, in))
    return NULL;
  int64_t c = in[0]->type->dim[1], o = lay_int(n, "out_channels");
  if (!lay_agrees(lo, n, "in_channels", c, in) || !groups_divide(lo, n, c, o, in))
    return NULL;
  int64_t dim[2 + AXES] = {o, c / lay_int(n, "groups")};
  memcpy(dim + 2, s.kernel, sizeof s.kernel);
  if (!padding_of(lo, n, &s) || !window_fits(lo, n, &s, in))
    return NULL;
  const char *mode = val_get_str(n->args, "padding_mode", "zeros");
  if (!strcmp(mode, "zeros"))
    return convolve(lo, n, &s, false, dim, in);
  Value *x = fill_space(lo, n, lay_loc(n, "padding"), mode, s.padding, s.end, in);
  memset(s.padding, 0, sizeof s.padding);
  memset(s.end, 0, sizeof s.end);
  return x ? convolve(lo, n, &s, false, dim, &x) : NULL;
}

Value *layer_ConvTranspose(Lower *lo, const Node *n, Value *const *in) {
  Space s = window_of(n);
  if (!lay_spaced(lo, n, in))
    return NULL;
  int64_t c = in[0]->type->dim[1], o = lay_int(n, "out_channels");
  if (!lay_agrees(lo, n, "in_channels", c, in) || !groups_divide(lo, n, c, o, in))
    return NULL;
  int64_t dim[2 + AXES] = {c, o / lay_int(n, "groups")};
  memcpy(dim + 2, s.kernel, sizeof s.kernel);
  for (int i = 0; i < s.nd; i++) {
    int64_t extra = axis_arg(n, "output_padding", i, 0);
    if (extra >= s.stride[i] && extra >= s.dilation[i])
      return lay_error(lo, lay_loc(n, "output_padding"), 201,
                       "output_padding %lld must be smaller than stride %lld or dilation %lld",
                       (long long)extra, (long long)s.stride[i], (long long)s.dilation[i]);
    int64_t size = (in[0]->type->dim[2 + i] - 1) * s.stride[i] - 2 * s.padding[i] +
                   s.dilation[i] * (s.kernel[i] - 1) + extra + 1;
    if (size < 1)
      return lay_misfit(lo, n, lay_loc(n, "padding"), 0, in,
                        "has a padding of %lld, which leaves nothing", (long long)s.padding[i]);
  }
  return convolve(lo, n, &s, true, dim, in);
}

/* ---- pooling ---- */

/* Number of windows of `window` places along an axis of length `in`. With ceil_mode the last
 * one may hang over the end, but must start inside the image or the padding in front of it. */
static int64_t windows(const Node *n, int64_t in, int64_t window, int64_t stride, int64_t padding) {
  bool up = val_get_bool(n->args, "ceil_mode", false);
  int64_t room = in + 2 * padding - window + (up ? stride - 1 : 0);
  if (room < 0)
    return 0;
  int64_t out = room / stride + 1;
  return up && (out - 1) * stride >= in + padding ? out - 1 : out;
}

/* Attributes of the window of a pooling layer; 0 after a diagnostic. */
static int pool_window(Lower *lo, const Node *n, Value *const *in, Attr *at) {
  const int nd = lay_space(n);
  const Space s = window_of(n);
  const int64_t *size = in[0]->type->dim + 2;
  int64_t out[AXES];
  if (!lay_spaced(lo, n, in))
    return 0;
  for (int i = 0; i < nd; i++) {
    int64_t window = s.dilation[i] * (s.kernel[i] - 1) + 1;
    if (2 * s.padding[i] > window) {
      lay_error(lo, lay_loc(n, "padding"), 201,
                "padding %lld is more than half of the window of %lld", (long long)s.padding[i],
                (long long)window);
      return 0;
    }
    out[i] = windows(n, size[i], window, s.stride[i], s.padding[i]);
    if (out[i] < 1) {
      lay_misfit(lo, n, lay_loc(n, "kernel_size"), 0, in,
                 "has a window of %lld, its padded input has %lld", (long long)window,
                 (long long)(size[i] + 2 * s.padding[i]));
      return 0;
    }
  }
  at[0] = attr_ints(lo->b, "extents", nd, size);
  at[1] = attr_ints(lo->b, "positions", nd, out);
  at[2] = attr_ints(lo->b, "kernel", nd, s.kernel);
  at[3] = attr_ints(lo->b, "stride", nd, s.stride);
  at[4] = attr_ints(lo->b, "padding", nd, s.padding);
  at[5] = attr_ints(lo->b, "dilation", nd, s.dilation);
  return 6;
}

Value *layer_MaxPool(Lower *lo, const Node *n, Value *const *in) {
  Attr at[8];
  int k = pool_window(lo, n, in, at);
  return k ? lay_emit1(lo, n, OP_max_pool, 1, in, k, at) : NULL;
}

Value *layer_AvgPool(Lower *lo, const Node *n, Value *const *in) {
  Attr at[10];
  int k = pool_window(lo, n, in, at);
  if (!k)
    return NULL;
  at[k++] = attr_s(lo->b, "rule", "average");
  at[k++] = attr_b(lo->b, "count_pad", val_get_bool(n->args, "count_include_pad", true));
  if (lay_int(n, "divisor_override"))
    at[k++] = attr_i(lo->b, "divisor", lay_int(n, "divisor_override"));
  return lay_emit1(lo, n, OP_resample, 1, in, k, at);
}

/* output_size of an adaptive pool; NULL after a diagnostic, else the sizes of the input's axes. */
static const int64_t *adaptive(Lower *lo, const Node *n, Value *const *in, int64_t *out) {
  const int nd = lay_space(n);
  if (!lay_spaced(lo, n, in))
    return NULL;
  const int64_t *size = in[0]->type->dim + 2;
  for (int i = 0; i < nd; i++)
    out[i] = axis_arg(n, "output_size", i, size[i]);
  return size;
}

Value *layer_AdaptiveAvgPool(Lower *lo, const Node *n, Value *const *in) {
  const int nd = lay_space(n);
  int64_t out[AXES];
  const int64_t *size = adaptive(lo, n, in, out);
  if (!size)
    return NULL;
  Attr at[] = {attr_s(lo->b, "rule", "adaptive"), attr_ints(lo->b, "extents", nd, size),
               attr_ints(lo->b, "positions", nd, out)};
  return lay_emit1(lo, n, OP_resample, 1, in, 3, at);
}

/* Windows side by side, of kernel[i] places along axis i. */
static Value *largest(Lower *lo, const Node *n, Value *x, const int64_t *kernel) {
  const int nd = lay_space(n);
  const int64_t *size = x->type->dim + 2;
  int64_t out[AXES];
  for (int i = 0; i < nd; i++)
    out[i] = size[i] / kernel[i];
  Attr at[] = {attr_ints(lo->b, "extents", nd, size), attr_ints(lo->b, "positions", nd, out),
               attr_ints(lo->b, "kernel", nd, kernel), attr_ints(lo->b, "stride", nd, kernel)};
  return lay_emit1(lo, n, OP_max_pool, 1, &x, 4, at);
}

enum { MOST_PARTS = 256 };

/* Axis i alone, in `parts` parts of unequal size that may overlap: each by itself. */
static Value *unequal(Lower *lo, const Node *n, Value *x, int i, int64_t parts) {
  const int64_t size = x->type->dim[2 + i];
  Value *part[MOST_PARTS];
  int64_t kernel[AXES] = {1, 1, 1};
  for (int64_t k = 0; k < parts && !builder_failed(lo->b); k++) {
    const int64_t start = k * size / parts, end = ((k + 1) * size + parts - 1) / parts;
    kernel[i] = end - start;
    part[k] = largest(lo, n, build_slice(lo->b, x, 2 + i, start, end), kernel);
  }
  const Attr dim = attr_i(lo->b, "dim", 2 + i);
  return builder_failed(lo->b) ? NULL : lay_emit1(lo, n, OP_cat, (int)parts, part, 1, &dim);
}

/* Unequal parts axis by axis, the last one first: of equal entries the first in row-major order then
 * has the gradient, as in torch. */
Value *layer_AdaptiveMaxPool(Lower *lo, const Node *n, Value *const *in) {
  const int nd = lay_space(n);
  int64_t out[AXES], kernel[AXES];
  const int64_t *size = adaptive(lo, n, in, out);
  bool equal = true;
  if (!size)
    return NULL;
  for (int i = 0; i < nd; i++) {
    kernel[i] = size[i] / out[i];
    equal &= size[i] % out[i] == 0;
    if (size[i] % out[i] && out[i] > MOST_PARTS)
      return lay_error(lo, lay_loc(n, "output_size"), 190,
                       "'%s' (%s) into more than %d unequal parts is not supported yet", n->name,
                       n->type->key, MOST_PARTS);
  }
  if (equal)
    return largest(lo, n, in[0], kernel);
  Value *x = in[0];
  for (int i = nd - 1; i >= 0 && x; i--)
    x = out[i] == x->type->dim[2 + i] ? x : unequal(lo, n, x, i, out[i]);
  return x;
}

/* ---- interpolation, padding ---- */

/* Modes of interpolate. A mode of so many axes works on no other number of them. */
static const struct {
  const char *mode, *rule;
  int axes;
  bool corners; /* align_corners has a meaning */
} interpolations[] = {
    {"nearest", "nearest", 0, false}, {"nearest-exact", "nearest_exact", 0, false},
    {"area", "adaptive", 0, false},   {"linear", "linear", 1, true},
    {"bilinear", "linear", 2, true},  {"trilinear", "linear", 3, true},
    {"bicubic", "cubic", 2, true},
};

/* torch.nn.functional.interpolate: `size`, or floor(size * scale_factor) with that factor's inverse
 * as the step. An axis that keeps its size is copied whatever its factor where torch's CPU kernels copy
 * it in every memory format: linear rules, and nearest on two axes. */
static Value *interpolate(Lower *lo, const Node *n, Value *const *in) {
  static const char *const factor[] = {"scale_0", "scale_1", "scale_2"};
  Builder *b = lo->b;
  int nd = in[0]->type->rank - 2;
  const Val *size = val_get(n->args, "size"), *scale = val_get(n->args, "scale_factor");
  bool has_size = size && size->kind == VAL_LIST, has_scale = scale && scale->kind == VAL_LIST;
  const char *mode = val_get_str(n->args, "mode", "nearest");
  if (nd < 1 || nd > AXES)
    return lay_misfit(lo, n, n->loc, 0, in, "works on [N, C, S...] with one to three axes S");
  if (has_size == has_scale)
    return lay_error(lo, n->loc, 201, "'%s' needs either size or scale_factor", n->name);
  const Val *given = has_size ? size : scale;
  if (given->n != 1 && given->n != nd)
    return lay_error(lo, given->loc, 201, "'%s' has %d sizes for %d axes", n->name, given->n, nd);
  bool align = val_get_bool(n->args, "align_corners", false);
  size_t how = 0;
  while (strcmp(interpolations[how].mode, mode) != 0)
    how++; /* the schema knows no other words */
  if (interpolations[how].axes && interpolations[how].axes != nd)
    return lay_error(lo, lay_loc(n, "mode"), 201, "mode '%s' does not work on %s", mode,
                     axes_text(nd));
  if (align && !interpolations[how].corners)
    return lay_error(lo, lay_loc(n, "align_corners"), 201,
                     "align_corners has no meaning for mode '%s'", mode);
  int64_t out[AXES];
  Attr at[10];
  int k = 0;
  for (int i = 0; i < nd; i++) {
    const Val *v = given->item[given->n == 1 ? 0 : i];
    int64_t in_size = in[0]->type->dim[2 + i];
    out[i] = has_size ? v->i : (int64_t)floor((double)in_size * v->f);
    if (out[i] < 1)
      return lay_misfit(lo, n, v->loc, 0, in, "makes nothing of %lld", (long long)in_size);
    bool copied = out[i] == in_size && (strcmp(interpolations[how].rule, "linear") == 0 ||
                                        (strcmp(mode, "nearest") == 0 && nd == 2));
    if (has_scale && !copied && !val_get_bool(n->args, "recompute_scale_factor", false))
      at[k++] = attr_f(b, factor[i], v->f);
  }
  at[k++] = attr_s(b, "rule", interpolations[how].rule);
  at[k++] = attr_ints(b, "extents", nd, in[0]->type->dim + 2);
  at[k++] = attr_ints(b, "positions", nd, out);
  if (align)
    at[k++] = attr_b(b, "align_corners", true);
  return lay_emit1(lo, n, OP_resample, 1, in, k, at);
}

Value *layer_Upsample(Lower *lo, const Node *n, Value *const *in) {
  return interpolate(lo, n, in);
}

Value *layer_interpolate(Lower *lo, const Node *n, Value *const *in) {
  return interpolate(lo, n, in);
}

/* x with `before` and `after` zeros (negative: cropped) along axis dim. */
static Value *pad_axis(Lower *lo, const Node *n, Value *x, int dim, int64_t before, int64_t after) {
  int64_t size = x->type->dim[dim];
  int64_t first = before < 0 ? -before : 0, last = after < 0 ? size + after : size;
  if (first || last < size)
    x = build_slice(lo->b, x, dim, first, last);
  if (before <= 0 && after <= 0)
    return x;
  before = before > 0 ? before : 0;
  after = after > 0 ? after : 0;
  Attr at[] = {attr_i(lo->b, "dim", dim), attr_i(lo->b, "start", before),
               attr_i(lo->b, "size", before + x->type->dim[dim] + after)};
  return lay_emit1(lo, n, OP_unslice, 1, &x, 3, at);
}

/* Modes that read the input work on all axes behind the channels. */
static Value *pad_space(Lower *lo, const Node *n, const char *mode, const Val *pad,
                        Value *const *in) {
  int nd = in[0]->type->rank - 2;
  int64_t before[AXES], behind[AXES];
  if (nd < 1 || nd > AXES || pad->n != 2 * nd)
    return lay_error(lo, pad->loc, 201,
                     "mode '%s' takes two numbers for each axis S of [N, C, S...]", mode);
  if (val_get_float(n->args, "value", 0) != 0)
    return lay_error(lo, lay_loc(n, "value"), 201, "value has no meaning for mode '%s'", mode);
  Value *x = in[0];
  for (int i = 0; i < nd; i++) {
    int axis = nd - 1 - i;
    before[axis] = pad->item[2 * i]->i;
    behind[axis] = pad->item[2 * i + 1]->i;
    /* what goes round is what is left of the axis; the other modes read what is cropped too */
    int64_t size = x->type->dim[2 + axis], first = before[axis] < 0 ? -before[axis] : 0;
    int64_t last = behind[axis] < 0 ? size + behind[axis] : size;
    if (strcmp(mode, "circular") != 0 || last <= first)
      continue;
    x = first || last < size ? build_slice(lo->b, x, 2 + axis, first, last) : x;
    before[axis] = before[axis] < 0 ? 0 : before[axis];
    behind[axis] = behind[axis] < 0 ? 0 : behind[axis];
  }
  return fill_space(lo, n, pad->loc, mode, before, behind, &x);
}

/* x, whose rim along the padded axes is zeros, with `value` there instead. What is inside is
 * chosen, not computed, so that it stays as it is beside a value like -1e9. */
static Value *fill_rim(Lower *lo, const Node *n, const Val *pad, double value, Value *x) {
  Builder *b = lo->b;
  Value *in[1 + MAX_RANK] = {x};
  int rank = x->type->rank, nin = 1;
  const char *inside = "";
  for (int i = 0; i < pad->n / 2; i++) {
    int64_t before = pad->item[2 * i]->i, after = pad->item[2 * i + 1]->i;
    int dim = rank - 1 - i;
    if (before <= 0 && after <= 0)
      continue;
    int64_t shape[MAX_RANK];
    for (int k = 0; k < rank; k++)
      shape[k] = k == dim ? x->type->dim[k] : 1;
    Attr at[] = {attr_ints(b, "shape", rank, shape), attr_i(b, "dim", dim)};
    inside = str_fmt(builder_strings(b), "%s%s%c >= %lld && %c < %lld", inside,
                     *inside ? " && " : "", 'a' + nin, (long long)(before > 0 ? before : 0),
                     'a' + nin, (long long)(shape[dim] - (after > 0 ? after : 0)));
    in[nin++] = lay_emit1(lo, n, OP_iota, 0, NULL, 2, at);
  }
  if (nin == 1)
    return x;
  Attr body = attr_s(b, "body", str_fmt(builder_strings(b), "%s ? a : %.17g", inside, value));
  return lay_emit1(lo, n, OP_expr, nin, in, 1, &body);
}

/* torch.nn.functional.pad: pairs from the last axis on. */
Value *layer_pad(Lower *lo, const Node *n, Value *const *in) {
  const Val *pad = val_get(n->args, "pad");
  double value = val_get_float(n->args, "value", 0);
  Value *x = in[0];
  int rank = x->type->rank;
  const char *mode = val_get_str(n->args, "mode", "constant");
  if (strcmp(mode, "constant") != 0)
    return pad_space(lo, n, mode, pad, in);
  if (pad->n % 2 || pad->n / 2 >= rank)
    return lay_error(lo, pad->loc, 201, "'pad' takes two numbers for each of up to %d axes",
                     rank - 1);
  for (int i = 0; i < pad->n / 2; i++) {
    int64_t before = pad->item[2 * i]->i, after = pad->item[2 * i + 1]->i;
    int64_t size = x->type->dim[rank - 1 - i];
    if (size + before + after < 1 || size + (before < 0 ? before : 0) + (after < 0 ? after : 0) < 1)
      return lay_misfit(lo, n, pad->item[2 * i]->loc, 0, in, "leaves nothing of %lld",
                        (long long)size);
    x = pad_axis(lo, n, x, rank - 1 - i, before, after);
  }
  return value != 0 ? fill_rim(lo, n, pad, value, x) : x;
}
