/* Pointwise layers that need more than their op: arguments, random numbers, several operands. */
#include "frontend/layers.h"

Value *layer_GELU(Lower *lo, const Node *n, Value *const *in) {
  bool tanh_form = !strcmp(val_get_str(n->args, "approximate", "none"), "tanh");
  return lay_emit1(lo, n, tanh_form ? OP_gelu_tanh : OP_gelu, 1, in, 0, NULL);
}

Value *layer_Dropout(Lower *lo, const Node *n, Value *const *in) {
  double p = val_get_float(n->args, "p", 0.5);
  if (!lo->train || p == 0)
    return in[0];
  Value *args[3] = {in[0], lower_seed(lo), lower_step(lo)};
  Attr at[] = {attr_f(lo->b, "p", p), attr_i(lo->b, "stream", lower_stream(lo, n->name))};
  return lay_emit1(lo, n, OP_dropout, 3, args, 2, at);
}

/* x / (1 - p) where one random number for the first `kept` axes is not below p, else 0. */
static Value *drop_whole(Lower *lo, const Node *n, Value *const *in, double p, int kept) {
  Builder *b = lo->b;
  const Type *x = in[0]->type;
  int64_t dim[MAX_RANK];
  if (!lo->train || p == 0)
    return in[0];
  for (int i = 0; i < x->rank; i++)
    dim[i] = i < kept ? x->dim[i] : 1;
  Value *from[2] = {lower_seed(lo), lower_step(lo)};
  Attr at[] = {attr_ints(b, "shape", x->rank, dim), attr_i(b, "stream", lower_stream(lo, n->name))};
  Value *args[2] = {in[0], build_op(b, OP_random, 2, from, 2, at)->out[0]};
  Attr text =
      attr_s(b, "body", str_fmt(builder_strings(b), "b < %.17g ? 0 : a * %.17g", p, 1 / (1 - p)));
  return lay_emit1(lo, n, OP_expr, 2, args, 1, &text);
}

static Value *drop_channels(Lower *lo, const Node *n, Value *const *in) {
  if (in[0]->type->rank < 3)
    return lay_misfit(lo, n, n->loc, 0, in, "works on [N, C, S...]");
  return drop_whole(lo, n, in, val_get_float(n->args, "p", 0.5), 2);
}

Value *layer_Dropout1d(Lower *lo, const Node *n, Value *const *in) {
  return drop_channels(lo, n, in);
}

Value *layer_Dropout2d(Lower *lo, const Node *n, Value *const *in) {
  return drop_channels(lo, n, in);
}

Value *layer_Dropout3d(Lower *lo, const Node *n, Value *const *in) {
  return drop_channels(lo, n, in);
}

/* Whole samples, or the whole batch (Huang et al. 2016; torchvision.ops). */
Value *layer_StochasticDepth(Lower *lo, const Node *n, Value *const *in) {
  bool row = !strcmp(val_get_str(n->args, "mode", "row"), "row");
  return drop_whole(lo, n, in, val_get_float(n->args, "p", 0), row);
}

Value *layer_Identity(Lower *lo, const Node *n, Value *const *in) {
  (void)lo;
  (void)n;
  return in[0];
}

/* y alpha, where add and sub have one. */
static Pair scaled(Lower *lo, const Node *n, Pair y) {
  double alpha = val_get_float(n->args, "alpha", 1);
  return alpha == 1 ? y
                    : lay_join(lo, n, OP_mul, y, (Pair){build_const(lo->b, alpha, MPCC_F32), NULL});
}

/* Two or more operands joined from the left, or one and the number `other`. */
static Value *fold(Lower *lo, const Node *n, OpCode code, Value *const *in) {
  Pair v = lay_pair(lo, n, in, 0);
  const Val *other = val_get(n->args, "other");
  bool number = other && other->kind == VAL_FLOAT;
  if ((n->nin == 1) != number) {
    lay_error(lo, number ? other->loc : n->loc, 310, "'%s' (%s) takes %s", n->name, n->type->key,
              number ? "one input and 'other', not several" : "two inputs, or one and 'other'");
    diag_hint(builder_diag(lo->b), "name them: inputs: [a, b]");
    return NULL;
  }
  if (number) {
    double y = other->f * val_get_float(n->args, "alpha", 1);
    return lay_give(lo, n, lay_join(lo, n, code, v, (Pair){build_const(lo->b, y, MPCC_F32), NULL}));
  }
  for (int i = 1; i < n->nin; i++) {
    int rank;
    int64_t dim[MAX_RANK];
    if (!type_broadcast(v.re->type, in[i]->type, &rank, dim) ||
        (dim[0] != lo->batch && lo->batch_axis[n->index] == 0))
      return lay_misfit(lo, n, n->loc, i, in, "meets %s and %s", lay_shape(lo, v.re->type),
                        lay_shape(lo, in[i]->type));
    v = lay_join(lo, n, code, v, scaled(lo, n, lay_pair(lo, n, in, i)));
  }
  return lay_give(lo, n, v);
}

Value *layer_add(Lower *lo, const Node *n, Value *const *in) {
  return fold(lo, n, OP_add, in);
}

Value *layer_mul(Lower *lo, const Node *n, Value *const *in) {
  return fold(lo, n, OP_mul, in);
}

Value *layer_sub(Lower *lo, const Node *n, Value *const *in) {
  return fold(lo, n, OP_sub, in);
}

Value *layer_div(Lower *lo, const Node *n, Value *const *in) {
  return fold(lo, n, OP_div, in);
}

/* ---- pointwise with numbers ---- */

/* Body over operand a, with numbers in its text. */
__attribute__((format(printf, 4, 5))) static Value *body(Lower *lo, const Node *n, Value *const *in,
                                                         const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  Attr at = attr_s(lo->b, "body", str_vfmt(builder_strings(lo->b), fmt, ap));
  va_end(ap);
  return lay_emit1(lo, n, OP_expr, 1, in, 1, &at);
}

Value *layer_LeakyReLU(Lower *lo, const Node *n, Value *const *in) {
  return body(lo, n, in, "a > 0 ? a : %.17g * a", val_get_float(n->args, "negative_slope", 0.01));
}

Value *layer_Hardtanh(Lower *lo, const Node *n, Value *const *in) {
  double least = val_get_float(n->args, "min_val", -1), most = val_get_float(n->args, "max_val", 1);
  if (least >= most)
    return lay_error(lo, lay_loc(n, "min_val"), 201, "min_val %g must be below max_val %g", least,
                     most);
  /* Comparisons in this order let NaN pass and give 0 at the bounds, as torch. */
  return body(lo, n, in, "a <= %.17g ? %.17g : a >= %.17g ? %.17g : a", least, least, most, most);
}

Value *layer_Hardsigmoid(Lower *lo, const Node *n, Value *const *in) {
  return body(lo, n, in, "a <= -3 ? 0 : a >= 3 ? 1 : (a + 3) / 6");
}

Value *layer_Softsign(Lower *lo, const Node *n, Value *const *in) {
  return body(lo, n, in, "a / (1 + abs(a))");
}

/* Constants of Klambauer et al. 2017 */
Value *layer_SELU(Lower *lo, const Node *n, Value *const *in) {
  return body(lo, n, in,
              "1.0507009873554805 * (a > 0 ? a : 1.6732632423543772 * (exp(min(a, 0)) - 1))");
}

/* -softplus(-x); from 40 on exp(-x) is below half an eps of x in FP64, too */
Value *layer_LogSigmoid(Lower *lo, const Node *n, Value *const *in) {
  Builder *b = lo->b;
  Value *args[3] = {lay_emit1(lo, n, OP_neg, 1, in, 0, NULL), build_const(b, 1, MPCC_F32),
                    build_const(b, 40, MPCC_F32)};
  Value *y = lay_emit1(lo, n, OP_softplus, 3, args, 0, NULL);
  return lay_emit1(lo, n, OP_neg, 1, &y, 0, NULL);
}

/* First half of an axis times the sigmoid of the second. */
Value *layer_GLU(Lower *lo, const Node *n, Value *const *in) {
  int axis = lay_axis(lo, n, "dim", lay_int(n, "dim"), in);
  if (axis < 0)
    return NULL;
  int64_t size = in[0]->type->dim[axis];
  if (lay_is_batch(lo, n, axis) || size % 2)
    return lay_misfit(lo, n, lay_loc(n, "dim"), 0, in, "cannot halve axis %d%s", axis,
                      size % 2 ? "" : ", the batch");
  Value *half[2] = {build_slice(lo->b, in[0], axis, 0, size / 2),
                    build_slice(lo->b, in[0], axis, size / 2, size)};
  Attr at = attr_s(lo->b, "body", "a * sigmoid(b)");
  return lay_emit1(lo, n, OP_expr, 2, half, 1, &at);
}

/* exp of what is not selected must not overflow: its derivative would be 0 * inf */
Value *layer_ELU(Lower *lo, const Node *n, Value *const *in) {
  return body(lo, n, in, "a > 0 ? a : %.17g * (exp(min(a, 0)) - 1)",
              val_get_float(n->args, "alpha", 1));
}

Value *layer_Softplus(Lower *lo, const Node *n, Value *const *in) {
  Builder *b = lo->b;
  Value *args[3] = {in[0], build_const(b, val_get_float(n->args, "beta", 1), MPCC_F32),
                    build_const(b, val_get_float(n->args, "threshold", 20), MPCC_F32)};
  return lay_emit1(lo, n, OP_softplus, 3, args, 0, NULL);
}

Value *layer_pow(Lower *lo, const Node *n, Value *const *in) {
  Value *args[2] = {in[0], build_const(lo->b, val_get_float(n->args, "exponent", 1), MPCC_F32)};
  return lay_emit1(lo, n, OP_pow, 2, args, 0, NULL);
}

/* One slope, or one for each index of axis 1. */
Value *layer_PReLU(Lower *lo, const Node *n, Value *const *in) {
  const Type *x = in[0]->type;
  int64_t slopes = val_get_int(n->args, "num_parameters", 1), dim[MAX_RANK];
  if (slopes != 1 && (x->rank < 2 || x->dim[1] != slopes))
    return lay_misfit(lo, n, lay_loc(n, "num_parameters"), 0, in,
                      "has num_parameters %lld, not the %lld of axis 1", (long long)slopes,
                      (long long)(x->rank < 2 ? 1 : x->dim[1]));
  Value *w = lay_param(lo, n, "weight", 1, &slopes, init_constant(0.25));
  for (int i = 0; i < x->rank - 1; i++)
    dim[i] = i ? 1 : slopes;
  Value *args[2] = {in[0], x->rank > 2 ? build_reshape(lo->b, w, x->rank - 1, dim) : w};
  return lay_emit1(lo, n, OP_prelu, 2, args, 0, NULL);
}

/* ---- along an axis ---- */

Value *lay_axis_last(Builder *b, Value *x, int at) {
  int64_t perm[MAX_RANK];
  int last = x->type->rank - 1;
  for (int i = 0; i <= last; i++)
    perm[i] = i == at ? last : i == last ? at : i;
  return at == last ? x : build_permute(b, x, perm);
}

static Value *along(Lower *lo, const Node *n, OpCode code, Value *const *in) {
  int axis = lay_axis(lo, n, "dim", lay_int(n, "dim"), in);
  if (axis < 0)
    return NULL;
  if (lay_is_batch(lo, n, axis))
    return lay_misfit(lo, n, lay_loc(n, "dim"), 0, in, "cannot work along axis 0, the batch");
  Value *x = lay_axis_last(lo->b, in[0], axis);
  return lay_axis_last(lo->b, lay_emit1(lo, n, code, 1, &x, 0, NULL), axis);
}

Value *layer_Softmax(Lower *lo, const Node *n, Value *const *in) {
  return along(lo, n, OP_softmax, in);
}

Value *layer_softmax(Lower *lo, const Node *n, Value *const *in) {
  return along(lo, n, OP_softmax, in);
}

Value *layer_log_softmax(Lower *lo, const Node *n, Value *const *in) {
  return along(lo, n, OP_log_softmax, in);
}

/* ---- made from nothing but a shape ---- */

Value *layer_to(Lower *lo, const Node *n, Value *const *in) {
  DType dt = dtype_from_torch(val_get_str(n->args, "dtype", "float32"));
  if (dt == MPCC_I32)
    dt = MPCC_I64; /* all integers are i64 */
  /* `by_hand`: autocast keeps it, although all values are f32 so far */
  Attr attr[2] = {attr_b(lo->b, "by_hand", true), attr_dt(lo->b, "to", dt)};
  return lay_emit1(lo, n, OP_cast, 1, in, 2, attr);
}

/* Noise of the seed and the steps seen: evaluation has its own, the same in every batch. */
Value *layer_randn_like(Lower *lo, const Node *n, Value *const *in) {
  Init normal = {.kind = INIT_NORMAL, .std = 1};
  const Type *ty = type_with_dtype(builder_types(lo->b), in[0]->type, MPCC_F32);
  return init_build(lo->b, &normal, ty, lower_seed(lo), lower_step(lo), lower_stream(lo, n->name));
}

/* 0, 1, ... along one axis, extents of 1 elsewhere: broadcasts against the input. */
Value *layer_arange_like(Lower *lo, const Node *n, Value *const *in) {
  const Type *x = in[0]->type;
  int axis = lay_axis(lo, n, "dim", lay_int(n, "dim"), in);
  int64_t dim[MAX_RANK];
  if (axis < 0)
    return NULL;
  if (axis == 0 && lay_batch_axis(lo, n, 0) == 0)
    return lay_misfit(lo, n, lay_loc(n, "dim"), 0, in, "cannot count along axis 0, the batch");
  for (int i = 0; i < x->rank; i++)
    dim[i] = i == axis ? x->dim[i] : 1;
  lay_set_batch_axis(lo, n, -1); /* the same for all samples */
  Attr at[] = {attr_ints(lo->b, "shape", x->rank, dim), attr_i(lo->b, "dim", axis)};
  return lay_emit1(lo, n, OP_iota, 0, NULL, 2, at);
}

/* Elementwise expression: operands by the names of the map, or a, b, c in order. */
Value *layer_expr(Lower *lo, const Node *n, Value *const *in) {
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
      return lay_misfit(lo, n, n->loc, i, in, "meets %s and %s", lay_shape(lo, ty),
                        lay_shape(lo, in[i]->type));
    ty = type_get(builder_types(lo->b), ty->dt, rank, dim);
  }
  Text t = {0};
  scalar_print(body, letters, &t);
  Attr at = attr_s(lo->b, "body", text_take(builder_arena(lo->b), builder_strings(lo->b), &t));
  return lay_emit1(lo, n, OP_expr, n->nin, in, 1, &at);
}
