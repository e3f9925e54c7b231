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

Value *layer_Identity(Lower *lo, const Node *n, Value *const *in) {
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
      return lay_misfit(lo, n, n->loc, i, in, "meets %s and %s", lay_shape(lo, v->type),
                        lay_shape(lo, in[i]->type));
    v = lay_emit1(lo, n, code, 2, (Value *[]){v, in[i]}, 0, NULL);
  }
  return v;
}

Value *layer_add(Lower *lo, const Node *n, Value *const *in) {
  return fold(lo, n, OP_add, in);
}

Value *layer_mul(Lower *lo, const Node *n, Value *const *in) {
  return fold(lo, n, OP_mul, in);
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
