/* Layer kinds: what each type of schema.def's section "layer" computes, which tensors it trains,
 * and how it checks shapes. A new layer is a TYPE row there and a row of `kinds` here.
 *
 * Shapes are written with N for the batch. A layer function gets operands whose number has been
 * checked, and returns NULL after a diagnostic. */
#include "frontend/frontend.h"

#include <math.h>

typedef Value *LayerFn(Lower *lo, const Node *n, Value *const *in);

/* ---- small things ---- */

static int64_t arg_int(const Node *n, const char *key) {
  return val_get_int(n->args, key, 0);
}

static Loc arg_loc(const Node *n, const char *key) {
  const Val *v = val_get(n->args, key);
  return v && v->loc.file ? v->loc : n->loc;
}

/* "[N, 1024]" */
static Str shape_text(Lower *lo, const Type *ty) {
  Text t = {0};
  text_puts(&t, "[");
  for (int i = 0; i < ty->rank; i++) {
    text_puts(&t, i ? ", " : "");
    if (i == 0 && ty->dim[0] == lo->batch)
      text_puts(&t, "N");
    else
      text_printf(&t, "%lld", (long long)ty->dim[i]);
  }
  text_puts(&t, "]");
  Str s = str_c(builder_strings(lo->b), t.data ? t.data : "");
  text_fini(&t);
  return s;
}

/* A misfit of shapes, with a note where operand `i` comes from. */
__attribute__((format(printf, 6, 7))) static Value *misfit(Lower *lo, const Node *n, Loc loc, int i,
                                                           Value *const *in, const char *fmt, ...) {
  Diag *d = builder_diag(lo->b);
  Text t = {0};
  va_list ap;
  va_start(ap, fmt);
  text_vprintf(&t, fmt, ap);
  va_end(ap);
  diag_error(d, loc, 311, "shapes do not fit: '%s' %s", n->name, t.data ? t.data : "");
  text_fini(&t);
  if (i < n->nin)
    diag_note(d, n->in[i]->loc, "the input comes from '%s' with shape %s", n->in[i]->name,
              shape_text(lo, in[i]->type));
  lo->failed = true;
  return NULL;
}

/* An op of layer n, in the precision that the spec sets for it. */
static Op *emit(Lower *lo, const Node *n, OpCode code, int nin, Value *const *in, int nattr,
                const Attr *attr) {
  enum { MAX_ATTRS = 12 };
  Attr all[MAX_ATTRS];
  for (int i = 0; i < nattr; i++)
    all[i] = attr[i];
  if (n->precision)
    all[nattr++] = attr_s(lo->b, "precision", n->precision);
  return build_op(lo->b, code, nin, in, nattr, all);
}

static Value *emit1(Lower *lo, const Node *n, OpCode code, int nin, Value *const *in, int nattr,
                    const Attr *attr) {
  return emit(lo, n, code, nin, in, nattr, attr)->out[0];
}

/* Axis of argument `key` made non-negative, within [0, rank); -1 after a diagnostic. */
static int axis_of(Lower *lo, const Node *n, const char *key, int64_t axis, Value *const *in) {
  int rank = in[0]->type->rank;
  int64_t at = axis < 0 ? axis + rank : axis;
  if (at >= 0 && at < rank)
    return (int)at;
  misfit(lo, n, arg_loc(n, key), 0, in, "has %s %lld, its input has %d dimensions", key,
         (long long)axis, rank);
  return -1;
}

/* An optional size argument must agree with what was inferred. */
static bool agrees(Lower *lo, const Node *n, const char *key, int64_t size, Value *const *in) {
  const Val *v = val_get(n->args, key);
  if (!v || v->kind != VAL_INT || v->i == size)
    return true;
  misfit(lo, n, v->loc, 0, in, "has %s %lld, its input has %lld", key, (long long)v->i,
         (long long)size);
  return false;
}

/* Parameter with PyTorch's default, unless the layer's `init` names the tensor. */
static Value *param(Lower *lo, const Node *n, const char *tensor, int rank, const int64_t *dim,
                    Init otherwise) {
  const Val *given = NULL; /* tensor names may hold dots: no val_get */
  for (int i = 0; n->init && i < n->init->n; i++)
    if (!strcmp(n->init->key[i], tensor))
      given = n->init->item[i];
  return lower_param(lo, n, tensor, rank, dim, given ? init_from(given, rank, dim) : otherwise);
}

/* ---- products ---- */

/* x[..., K] W[N, K]^T + b[N] with the tensors' names. */
static Value *project(Lower *lo, const Node *n, Value *x, int64_t width, const char *weight,
                      const char *bias, Init weight_init, Init bias_init) {
  int64_t k = x->type->dim[x->type->rank - 1], dim[2] = {width, k};
  Value *in[3] = {x, param(lo, n, weight, 2, dim, weight_init), NULL};
  if (bias)
    in[2] = param(lo, n, bias, 1, &width, bias_init);
  return emit1(lo, n, OP_linear, bias ? 3 : 2, in, 0, NULL);
}

/* kaiming_uniform(a = sqrt(5)), torch.nn.Linear's default, is U(+-1 / sqrt(fan_in)); so is its bias
 */
static Init fan_bound(double fan_in) {
  return init_bound(1 / sqrt(fan_in));
}

static Value *layer_Linear(Lower *lo, const Node *n, Value *const *in) {
  const Type *x = in[0]->type;
  if (x->rank < 2)
    return misfit(lo, n, n->loc, 0, in, "works on [N, ..., in_features]");
  int64_t k = x->dim[x->rank - 1];
  if (!agrees(lo, n, "in_features", k, in))
    return NULL;
  return project(lo, n, in[0], arg_int(n, "out_features"), "weight",
                 val_get_bool(n->args, "bias", true) ? "bias" : NULL, fan_bound((double)k),
                 fan_bound((double)k));
}

static Attr pair_attr(Lower *lo, const Node *n, const char *key) {
  const Val *v = val_get(n->args, key);
  int64_t pair[2] = {v->item[0]->i, v->item[1]->i};
  return attr_ints(lo->b, key, 2, pair);
}

static Value *layer_Conv2d(Lower *lo, const Node *n, Value *const *in) {
  const Type *x = in[0]->type;
  if (x->rank != 4)
    return misfit(lo, n, n->loc, 0, in, "works on [N, C, H, W]");
  int64_t c = x->dim[1], groups = arg_int(n, "groups"), o = arg_int(n, "out_channels");
  if (!agrees(lo, n, "in_channels", c, in))
    return NULL;
  if (c % groups || o % groups)
    return misfit(lo, n, arg_loc(n, "groups"), 0, in,
                  "has %lld groups, which do not divide %lld and %lld channels", (long long)groups,
                  (long long)c, (long long)o);
  const Val *kernel = val_get(n->args, "kernel_size");
  int64_t dim[4] = {o, c / groups, kernel->item[0]->i, kernel->item[1]->i};
  for (int i = 0; i < 2; i++) {
    int64_t pad = val_get(n->args, "padding")->item[i]->i;
    int64_t window = (dim[2 + i] - 1) * val_get(n->args, "dilation")->item[i]->i + 1;
    if (window > x->dim[2 + i] + 2 * pad)
      return misfit(lo, n, arg_loc(n, "kernel_size"), 0, in,
                    "has a window of %lld, its padded input has %lld", (long long)window,
                    (long long)(x->dim[2 + i] + 2 * pad));
  }
  double fan_in, fan_out;
  init_fans(4, dim, &fan_in, &fan_out);
  Value *args[3] = {in[0], param(lo, n, "weight", 4, dim, fan_bound(fan_in)), NULL};
  bool bias = val_get_bool(n->args, "bias", true);
  if (bias)
    args[2] = param(lo, n, "bias", 1, &o, fan_bound(fan_in));
  Attr at[] = {pair_attr(lo, n, "stride"), pair_attr(lo, n, "padding"),
               pair_attr(lo, n, "dilation"), attr_i(lo->b, "groups", groups)};
  return emit1(lo, n, OP_conv2d, bias ? 3 : 2, args, 4, at);
}

/* ---- attention ---- */

static Value *attend(Lower *lo, const Node *n, Value *q, Value *k, Value *v, int64_t heads,
                     double scale, double dropout_p) {
  Builder *b = lo->b;
  Value *in[5] = {q, k, v, NULL, NULL};
  bool drop = lo->train && dropout_p > 0;
  if (drop) {
    in[3] = lower_seed(lo);
    in[4] = lower_step(lo);
  }
  Attr at[] = {attr_i(b, "heads", heads),
               attr_b(b, "causal", val_get_bool(n->args, "is_causal", false)),
               attr_f(b, "scale", scale), attr_f(b, "dropout_p", dropout_p),
               attr_i(b, "stream", drop ? lower_stream(lo, n->name) : 0)};
  return emit1(lo, n, OP_attention, drop ? 5 : 3, in, drop ? 5 : 3, at);
}

/* torch.nn.MultiheadAttention with query = key = value, batch first. */
static Value *layer_MultiheadAttention(Lower *lo, const Node *n, Value *const *in) {
  const Type *x = in[0]->type;
  if (!val_get_bool(n->args, "batch_first", true)) {
    diag_error(builder_diag(lo->b), arg_loc(n, "batch_first"), 190,
               "batch_first: false is not supported yet");
    lo->failed = true;
    return NULL;
  }
  if (x->rank != 3)
    return misfit(lo, n, n->loc, 0, in, "works on [N, T, C]");
  for (int i = 1; i < n->nin; i++)
    if (n->in[i] != n->in[0]) {
      diag_error(builder_diag(lo->b), n->loc, 190,
                 "attention between different inputs is not supported yet");
      lo->failed = true;
      return NULL;
    }
  int64_t width = x->dim[2], heads = arg_int(n, "num_heads");
  if (!agrees(lo, n, "embed_dim", width, in))
    return NULL;
  if (width % heads)
    return misfit(lo, n, arg_loc(n, "num_heads"), 0, in,
                  "has %lld heads, which do not divide width %lld", (long long)heads,
                  (long long)width);
  bool bias = val_get_bool(n->args, "bias", true);
  double c = (double)width;
  /* xavier_uniform over [3C, C]: sqrt(6 / (C + 3C)) */
  Value *qkv = project(lo, n, in[0], 3 * width, "in_proj_weight", bias ? "in_proj_bias" : NULL,
                       init_bound(sqrt(6 / (4 * c))), init_constant(0));
  Value *part[3];
  for (int i = 0; i < 3; i++)
    part[i] = build_slice(lo->b, qkv, 2, i * width, (i + 1) * width);
  Value *o = attend(lo, n, part[0], part[1], part[2], heads, 1 / sqrt((double)(width / heads)),
                    val_get_float(n->args, "dropout", 0));
  return project(lo, n, o, width, "out_proj.weight", bias ? "out_proj.bias" : NULL, fan_bound(c),
                 init_constant(0));
}

/* Operand of a layer whose operands have names, given as a map or in order. */
static int named_operand(const Node *n, const char *name, int position) {
  for (int i = 0; n->in_key && i < n->nin; i++)
    if (!strcmp(n->in_key[i], name))
      return i;
  return n->in_key ? -1 : position;
}

static Value *layer_scaled_dot_product_attention(Lower *lo, const Node *n, Value *const *in) {
  Builder *b = lo->b;
  bool packed = val_get_str(n->args, "packed", NULL) != NULL;
  int64_t heads = arg_int(n, "num_heads");
  Value *part[3];
  const char *const names[3] = {"query", "key", "value"};
  if (n->nin != (packed ? 1 : 3)) {
    diag_error(builder_diag(b), n->loc, 310, "'%s' takes %s, not %d inputs", n->name,
               packed ? "one packed input" : "query, key and value", n->nin);
    diag_hint(builder_diag(b), "inputs: {query: ..., key: ..., value: ...}, or packed: qkv");
    lo->failed = true;
    return NULL;
  }
  for (int i = 0; i < n->nin; i++)
    if (in[i]->type->rank != 3)
      return misfit(lo, n, n->loc, i, in, "works on [N, T, H*D]");
  for (int i = 0; i < 3; i++) {
    int k = packed ? 0 : named_operand(n, names[i], i);
    if (k < 0) {
      diag_error(builder_diag(b), n->loc, 310, "'%s' has no input '%s'", n->name, names[i]);
      lo->failed = true;
      return NULL;
    }
    part[i] = in[k];
  }
  int64_t width = in[0]->type->dim[2];
  if (packed && width % 3)
    return misfit(lo, n, n->loc, 0, in, "packs query, key and value, its input has width %lld",
                  (long long)width);
  if (packed) {
    width /= 3;
    for (int i = 0; i < 3; i++)
      part[i] = build_slice(b, in[0], 2, i * width, (i + 1) * width);
  }
  if (width % heads)
    return misfit(lo, n, arg_loc(n, "num_heads"), 0, in,
                  "has %lld heads, which do not divide width %lld", (long long)heads,
                  (long long)width);
  double scale = val_get_float(n->args, "scale", 1 / sqrt((double)(width / heads)));
  return attend(lo, n, part[0], part[1], part[2], heads, scale,
                val_get_float(n->args, "dropout_p", 0));
}

/* ---- norms and pointwise ---- */

static Value *layer_LayerNorm(Lower *lo, const Node *n, Value *const *in) {
  const Type *x = in[0]->type;
  const Val *shape = val_get(n->args, "normalized_shape");
  int axes = shape && shape->kind == VAL_LIST ? shape->n : 1;
  if (axes < 1 || axes >= x->rank)
    return misfit(lo, n, n->loc, 0, in, "normalises %d axes, its input has %d besides the batch",
                  axes, x->rank - 1);
  const int64_t *dim = x->dim + x->rank - axes;
  for (int i = 0; shape && shape->kind == VAL_LIST && i < axes; i++)
    if (shape->item[i]->i != dim[i])
      return misfit(lo, n, shape->item[i]->loc, 0, in,
                    "has normalized_shape %lld, its input has %lld", (long long)shape->item[i]->i,
                    (long long)dim[i]);
  Value *args[3] = {in[0], NULL, NULL};
  int nin = 1;
  if (val_get_bool(n->args, "elementwise_affine", true)) {
    args[nin++] = param(lo, n, "weight", axes, dim, init_constant(1));
    if (val_get_bool(n->args, "bias", true))
      args[nin++] = param(lo, n, "bias", axes, dim, init_constant(0));
  }
  Attr at[] = {attr_f(lo->b, "eps", val_get_float(n->args, "eps", 1e-5)),
               attr_i(lo->b, "axes", axes)};
  return emit1(lo, n, OP_layer_norm, nin, args, 2, at);
}

static Value *layer_GELU(Lower *lo, const Node *n, Value *const *in) {
  bool tanh_form = !strcmp(val_get_str(n->args, "approximate", "none"), "tanh");
  return emit1(lo, n, tanh_form ? OP_gelu_tanh : OP_gelu, 1, in, 0, NULL);
}

static Value *layer_ReLU(Lower *lo, const Node *n, Value *const *in) {
  return emit1(lo, n, OP_relu, 1, in, 0, NULL);
}

static Value *layer_Dropout(Lower *lo, const Node *n, Value *const *in) {
  double p = val_get_float(n->args, "p", 0.5);
  if (!lo->train || p == 0)
    return in[0];
  Value *args[3] = {in[0], lower_seed(lo), lower_step(lo)};
  Attr at[] = {attr_f(lo->b, "p", p), attr_i(lo->b, "stream", lower_stream(lo, n->name))};
  return emit1(lo, n, OP_dropout, 3, args, 2, at);
}

static Value *layer_Identity(Lower *lo, const Node *n, Value *const *in) {
  (void)lo;
  (void)n;
  return in[0];
}

/* Sum or product of two or more, from the left. */
static Value *fold(Lower *lo, const Node *n, OpCode code, Value *const *in) {
  Value *v = in[0];
  for (int i = 1; i < n->nin; i++) {
    int rank;
    int64_t dim[MAX_RANK];
    if (!type_broadcast(v->type, in[i]->type, &rank, dim) || dim[0] != lo->batch)
      return misfit(lo, n, n->loc, i, in, "meets %s and %s", shape_text(lo, v->type),
                    shape_text(lo, in[i]->type));
    v = emit1(lo, n, code, 2, (Value *[]){v, in[i]}, 0, NULL);
  }
  return v;
}

static Value *layer_add(Lower *lo, const Node *n, Value *const *in) {
  return fold(lo, n, OP_add, in);
}

static Value *layer_mul(Lower *lo, const Node *n, Value *const *in) {
  return fold(lo, n, OP_mul, in);
}

/* Elementwise expression: operands by the names of the map, or a, b, c in order. */
static Value *layer_expr(Lower *lo, const Node *n, Value *const *in) {
  static const char *const letters[] = {"a", "b", "c", "d", "e", "f", "g", "h"};
  const Val *text = val_get(n->args, "expr");
  Scalar *body = NULL;
  int rank = in[0]->type->rank;
  int64_t dim[MAX_RANK];
  const char *const *names = n->in_key ? n->in_key : letters;
  if (scalar_parse(builder_arena(lo->b), builder_diag(lo->b), text->loc, text->s, names, n->nin,
                   &body) != MPCC_OK) {
    lo->failed = true;
    return NULL;
  }
  const Type *ty = in[0]->type;
  for (int i = 1; i < n->nin; i++) {
    if (!type_broadcast(ty, in[i]->type, &rank, dim))
      return misfit(lo, n, n->loc, i, in, "meets %s and %s", shape_text(lo, ty),
                    shape_text(lo, in[i]->type));
    ty = type_get(builder_types(lo->b), ty->dt, rank, dim);
  }
  Text t = {0};
  scalar_print(body, letters, &t);
  Attr at = attr_s(lo->b, "body", text_take(builder_arena(lo->b), builder_strings(lo->b), &t));
  return emit1(lo, n, OP_expr, n->nin, in, 1, &at);
}

/* ---- shapes ---- */

static Value *layer_Flatten(Lower *lo, const Node *n, Value *const *in) {
  const Type *x = in[0]->type;
  int from = axis_of(lo, n, "start_dim", arg_int(n, "start_dim"), in);
  int to = from < 0 ? -1 : axis_of(lo, n, "end_dim", val_get_int(n->args, "end_dim", -1), in);
  if (to < 0)
    return NULL;
  if (from == 0 || to < from)
    return misfit(lo, n, arg_loc(n, "start_dim"), 0, in, "cannot join axes %d to %d%s", from, to,
                  from ? "" : ": 0 is the batch");
  int64_t dim[MAX_RANK];
  int rank = 0;
  for (int i = 0; i < x->rank; i++)
    if (i > from && i <= to)
      dim[rank - 1] *= x->dim[i];
    else
      dim[rank++] = x->dim[i];
  return build_reshape(lo->b, in[0], rank, dim);
}

static Value *layer_transpose(Lower *lo, const Node *n, Value *const *in) {
  int a = axis_of(lo, n, "dim0", arg_int(n, "dim0"), in);
  int b = a < 0 ? -1 : axis_of(lo, n, "dim1", arg_int(n, "dim1"), in);
  if (b < 0)
    return NULL;
  if (!a != !b)
    return misfit(lo, n, n->loc, 0, in, "cannot move axis 0, the batch");
  int64_t perm[MAX_RANK];
  for (int i = 0; i < in[0]->type->rank; i++)
    perm[i] = i == a ? b : i == b ? a : i;
  return build_permute(lo->b, in[0], perm);
}

static Value *layer_select(Lower *lo, const Node *n, Value *const *in) {
  const Type *x = in[0]->type;
  int axis = axis_of(lo, n, "dim", arg_int(n, "dim"), in);
  if (axis < 0)
    return NULL;
  int64_t index = arg_int(n, "index"), at = index < 0 ? index + x->dim[axis] : index;
  if (axis == 0)
    return misfit(lo, n, arg_loc(n, "dim"), 0, in, "cannot select from axis 0, the batch");
  if (at < 0 || at >= x->dim[axis])
    return misfit(lo, n, arg_loc(n, "index"), 0, in, "has index %lld, the axis has %lld",
                  (long long)index, (long long)x->dim[axis]);
  Value *one = build_slice(lo->b, in[0], axis, at, at + 1);
  int64_t dim[MAX_RANK];
  int rank = 0;
  for (int i = 0; i < x->rank; i++)
    if (i != axis)
      dim[rank++] = x->dim[i];
  return build_reshape(lo->b, one, rank, dim);
}

static Value *layer_mean(Lower *lo, const Node *n, Value *const *in) {
  const Val *dims = val_get(n->args, "dim");
  int64_t axis[MAX_RANK];
  for (int i = 0; i < dims->n; i++) {
    int at = i < MAX_RANK ? axis_of(lo, n, "dim", dims->item[i]->i, in) : -1;
    if (at < 0)
      return NULL;
    if (at == 0)
      return misfit(lo, n, arg_loc(n, "dim"), 0, in, "cannot average over axis 0, the batch");
    axis[i] = at;
  }
  Attr at[] = {attr_ints(lo->b, "dims", dims->n, axis),
               attr_b(lo->b, "keepdim", val_get_bool(n->args, "keepdim", false))};
  return emit1(lo, n, OP_mean, 1, in, 2, at);
}

static Value *layer_cat(Lower *lo, const Node *n, Value *const *in) {
  int axis = axis_of(lo, n, "dim", val_get_int(n->args, "dim", 1), in);
  if (axis < 0)
    return NULL;
  if (axis == 0)
    return misfit(lo, n, arg_loc(n, "dim"), 0, in, "cannot join along axis 0, the batch");
  for (int i = 1; i < n->nin; i++) {
    bool same = in[i]->type->rank == in[0]->type->rank;
    for (int k = 0; same && k < in[0]->type->rank; k++)
      same = k == axis || in[i]->type->dim[k] == in[0]->type->dim[k];
    if (!same)
      return misfit(lo, n, n->loc, i, in, "joins %s and %s along axis %d",
                    shape_text(lo, in[0]->type), shape_text(lo, in[i]->type), axis);
  }
  Attr at = attr_i(lo->b, "dim", axis);
  return emit1(lo, n, OP_cat, n->nin, in, 1, &at);
}

static Value *layer_Parameter(Lower *lo, const Node *n, Value *const *in) {
  (void)in;
  const Val *shape = val_get(n->args, "shape");
  int64_t dim[MAX_RANK];
  if (shape->n < 1 || shape->n > MAX_RANK)
    return misfit(lo, n, shape->loc, 0, in, "has %d dimensions, at most %d are possible", shape->n,
                  MAX_RANK);
  for (int i = 0; i < shape->n; i++)
    dim[i] = shape->item[i]->i;
  /* as torch.nn.Parameter(torch.zeros(...)) in most models; say `init` for anything else */
  Value *v = param(lo, n, "", shape->n, dim, init_constant(0));
  if (!val_get_bool(n->args, "expand_batch", false))
    return v;
  if (dim[0] != 1)
    return misfit(lo, n, shape->loc, 0, in, "has expand_batch, its first dimension is %lld, not 1",
                  (long long)dim[0]);
  dim[0] = lo->batch;
  Attr at = attr_ints(lo->b, "shape", shape->n, dim);
  return build_op(lo->b, OP_expand, 1, &v, 1, &at)->out[0];
}

/* ---- the table ---- */

static const struct {
  const char *type;
  LayerFn *build;
  const char *tensors; /* "": none; "self": one named as the layer */
  int least, most;     /* operands */
} kinds[] = {
    {"Linear", layer_Linear, "weight bias", 1, 1},
    {"Conv2d", layer_Conv2d, "weight bias", 1, 1},
    {"LayerNorm", layer_LayerNorm, "weight bias", 1, 1},
    {"MultiheadAttention", layer_MultiheadAttention,
     "in_proj_weight in_proj_bias out_proj.weight out_proj.bias", 1, 3},
    {"scaled_dot_product_attention", layer_scaled_dot_product_attention, "", 1, 3},
    {"GELU", layer_GELU, "", 1, 1},
    {"ReLU", layer_ReLU, "", 1, 1},
    {"Dropout", layer_Dropout, "", 1, 1},
    {"Flatten", layer_Flatten, "", 1, 1},
    {"Identity", layer_Identity, "", 1, 1},
    {"Parameter", layer_Parameter, "self", 0, 0},
    {"add", layer_add, "", 2, 64},
    {"mul", layer_mul, "", 2, 64},
    {"cat", layer_cat, "", 2, 64},
    {"transpose", layer_transpose, "", 1, 1},
    {"select", layer_select, "", 1, 1},
    {"mean", layer_mean, "", 1, 1},
    {"expr", layer_expr, "", 1, 8},
};

static int kind_of(const char *type) {
  for (int i = 0; i < (int)(sizeof kinds / sizeof *kinds); i++)
    if (!strcmp(kinds[i].type, type))
      return i;
  return -1;
}

const char *layer_tensors(const char *type) {
  int k = kind_of(type);
  return k < 0 ? NULL : kinds[k].tensors;
}

Value *layer_build(Lower *lo, const Node *n) {
  Diag *d = builder_diag(lo->b);
  int k = kind_of(n->type->key);
  if (k < 0) {
    diag_error(d, n->loc, 190, "layer type '%s' is not supported yet", n->type->key);
    lo->failed = true;
    return NULL;
  }
  if (n->nin < kinds[k].least || n->nin > kinds[k].most) {
    diag_error(d, n->loc, 310, "'%s' (%s) takes %s%d input%s, not %d", n->name, n->type->key,
               kinds[k].least == kinds[k].most ? "" : "at least ", kinds[k].least,
               kinds[k].least == 1 ? "" : "s", n->nin);
    if (kinds[k].least > 1)
      diag_hint(d, "name them: inputs: [a, b]");
    lo->failed = true;
    return NULL;
  }
  Value *in[64];
  for (int i = 0; i < n->nin; i++) {
    in[i] = n->in[i]->type ? lo->value[n->in[i]->index] : lo->input[-1 - n->in[i]->index];
    if (!in[i])
      return NULL;
  }
  build_at(lo->b, n->loc, n->name, NULL);
  return kinds[k].build(lo, n, in);
}
