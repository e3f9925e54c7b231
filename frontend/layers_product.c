/* Layers that are products of their input with trained tensors. */
#include "frontend/layers.h"

#include <math.h>

Value *lay_project(Lower *lo, const Node *n, Value *x, int64_t width, const char *weight,
                   const char *bias, Init weight_init, Init bias_init) {
  int64_t k = x->type->dim[x->type->rank - 1], dim[2] = {width, k};
  Value *in[3] = {x, lay_param(lo, n, weight, 2, dim, weight_init), NULL};
  if (lo->failed)
    return NULL;
  if (bias)
    in[2] = lay_param(lo, n, bias, 1, &width, bias_init);
  Attr pad = attr_i(lo->b, "pad_to_multiple_of", val_get_int(n->args, "pad_to_multiple_of", 1));
  return lay_emit1(lo, n, OP_linear, bias ? 3 : 2, in, pad.u.i > 1, &pad);
}

Init lay_fan_bound(double fan_in) {
  return init_bound(1 / sqrt(fan_in));
}

Value *layer_Linear(Lower *lo, const Node *n, Value *const *in) {
  const Type *x = in[0]->type;
  if (x->rank < 2)
    return lay_misfit(lo, n, n->loc, 0, in, "works on [N, ..., in_features]");
  int64_t k = x->dim[x->rank - 1];
  if (!lay_agrees(lo, n, "in_features", k, in))
    return NULL;
  return lay_project(lo, n, in[0], lay_int(n, "out_features"), "weight",
                     val_get_bool(n->args, "bias", true) ? "bias" : NULL, lay_fan_bound((double)k),
                     lay_fan_bound((double)k));
}

/* Ids must be below `rows`: known for positions; for a model input the reader of data is told. */
static bool ids_fit(Lower *lo, const Node *n, Value *const *in, int64_t rows) {
  const Op *def = in[0]->def;
  if (def->code == OP_iota) {
    int64_t most = in[0]->type->dim[op_int(def, "dim", 0)];
    if (most > rows)
      lay_misfit(lo, n, lay_loc(n, "num_embeddings"), 0, in, "has %lld rows for %lld positions",
                 (long long)rows, (long long)most);
    return most <= rows;
  }
  Tensor *t = def->code == OP_read ? op_attr(def, "tensor")->u.tensor : NULL;
  if (t && rows < tensor_int(t, "classes", INT64_MAX))
    build_tensor_attr(lo->b, t, attr_i(lo->b, "classes", rows));
  return true;
}

/* torch.nn.Embedding: N(0, 1). Numbers of a model input are checked where data is read, those of
 * other layers cannot be. */
Value *layer_Embedding(Lower *lo, const Node *n, Value *const *in) {
  const int64_t dim[2] = {lay_int(n, "num_embeddings"), lay_int(n, "embedding_dim")};
  int64_t padding = val_get_int(n->args, "padding_idx", INT64_MIN);
  Init init = {.kind = INIT_NORMAL, .std = 1};
  if (dtype_info(in[0]->type->dt)->cls != 'I') {
    lay_misfit(lo, n, n->loc, 0, in, "takes integers, its input is %s",
               dtype_text(in[0]->type->dt));
    diag_hint(builder_diag(lo->b), "a model input: {shape: [...], dtype: int64}");
    return NULL;
  }
  if (in[0]->type->rank == MAX_RANK)
    return lay_misfit(lo, n, n->loc, 0, in, "makes more than %d dimensions", MAX_RANK);
  if (padding != INT64_MIN) {
    if (padding < -dim[0] || padding >= dim[0])
      return lay_misfit(lo, n, lay_loc(n, "padding_idx"), 0, in,
                        "has padding_idx %lld and %lld rows", (long long)padding,
                        (long long)dim[0]);
    padding += padding < 0 ? dim[0] : 0;
    init.zero_row = padding + 1;
  }
  if (!ids_fit(lo, n, in, dim[0]))
    return NULL;
  Value *args[2] = {in[0], lay_param(lo, n, "weight", 2, dim, init)};
  Attr at = attr_i(lo->b, "padding_idx", padding);
  return lo->failed ? NULL : lay_emit1(lo, n, OP_embedding, 2, args, padding >= 0, &at);
}
