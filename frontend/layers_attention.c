/* Attention layers. */
#include "frontend/layers.h"

#include <math.h>

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
  return lay_emit1(lo, n, OP_attention, drop ? 5 : 3, in, drop ? 5 : 3, at);
}

/* torch.nn.MultiheadAttention with query = key = value, batch first. */
Value *layer_MultiheadAttention(Lower *lo, const Node *n, Value *const *in) {
  const Type *x = in[0]->type;
  if (!val_get_bool(n->args, "batch_first", true))
    return lay_error(lo, lay_loc(n, "batch_first"), 190, "batch_first: false is not supported yet");
  if (x->rank != 3)
    return lay_misfit(lo, n, n->loc, 0, in, "works on [N, T, C]");
  for (int i = 1; i < n->nin; i++)
    if (n->in[i] != n->in[0])
      return lay_error(lo, n->loc, 190, "attention between different inputs is not supported yet");
  int64_t width = x->dim[2], heads = lay_int(n, "num_heads");
  if (!lay_agrees(lo, n, "embed_dim", width, in))
    return NULL;
  if (width % heads)
    return lay_misfit(lo, n, lay_loc(n, "num_heads"), 0, in,
                      "has %lld heads, which do not divide width %lld", (long long)heads,
                      (long long)width);
  bool bias = val_get_bool(n->args, "bias", true);
  double c = (double)width;
  /* xavier_uniform over [3C, C]: sqrt(6 / (C + 3C)) */
  Value *qkv = lay_project(lo, n, in[0], 3 * width, "in_proj_weight", bias ? "in_proj_bias" : NULL,
                           init_bound(sqrt(6 / (4 * c))), init_constant(0));
  Value *part[3];
  for (int i = 0; i < 3; i++)
    part[i] = build_slice(lo->b, qkv, 2, i * width, (i + 1) * width);
  Value *o = attend(lo, n, part[0], part[1], part[2], heads, 1 / sqrt((double)(width / heads)),
                    val_get_float(n->args, "dropout", 0));
  return lay_project(lo, n, o, width, "out_proj.weight", bias ? "out_proj.bias" : NULL,
                     lay_fan_bound(c), init_constant(0));
}

/* Operand of a layer whose operands have names, given as a map or in order. */
static int named_operand(const Node *n, const char *name, int position) {
  for (int i = 0; n->in_key && i < n->nin; i++)
    if (!strcmp(n->in_key[i], name))
      return i;
  return n->in_key ? -1 : position;
}

Value *layer_scaled_dot_product_attention(Lower *lo, const Node *n, Value *const *in) {
  Builder *b = lo->b;
  bool packed = val_get_str(n->args, "packed", NULL) != NULL;
  int64_t heads = lay_int(n, "num_heads");
  Value *part[3];
  const char *const names[3] = {"query", "key", "value"};
  if (n->nin != (packed ? 1 : 3)) {
    lay_error(lo, n->loc, 310, "'%s' takes %s, not %d inputs", n->name,
              packed ? "one packed input" : "query, key and value", n->nin);
    diag_hint(builder_diag(b), "inputs: {query: ..., key: ..., value: ...}, or packed: qkv");
    return NULL;
  }
  for (int i = 0; i < n->nin; i++)
    if (in[i]->type->rank != 3)
      return lay_misfit(lo, n, n->loc, i, in, "works on [N, T, H*D]");
  for (int i = 0; i < 3; i++) {
    int k = packed ? 0 : named_operand(n, names[i], i);
    if (k < 0)
      return lay_error(lo, n->loc, 310, "'%s' has no input '%s'", n->name, names[i]);
    part[i] = in[k];
  }
  int64_t width = in[0]->type->dim[2];
  if (packed && width % 3)
    return lay_misfit(lo, n, n->loc, 0, in, "packs query, key and value, its input has width %lld",
                      (long long)width);
  if (packed) {
    width /= 3;
    for (int i = 0; i < 3; i++)
      part[i] = build_slice(b, in[0], 2, i * width, (i + 1) * width);
  }
  if (width % heads)
    return lay_misfit(lo, n, lay_loc(n, "num_heads"), 0, in,
                      "has %lld heads, which do not divide width %lld", (long long)heads,
                      (long long)width);
  double scale = val_get_float(n->args, "scale", 1 / sqrt((double)(width / heads)));
  return attend(lo, n, part[0], part[1], part[2], heads, scale,
                val_get_float(n->args, "dropout_p", 0));
}
