/* Layers that are products: of their input with trained tensors, of two inputs. */
#include "frontend/layers.h"

#include <math.h>
#include <string.h>

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
  bool bias = val_get_bool(n->args, "bias", true);
  if (lay_is_complex(n))
    return lay_linear_complex(lo, n, lay_pair(lo, n, in, 0), lay_int(n, "out_features"), bias,
                              lay_fan_bound((double)k));
  if (lay_pair(lo, n, in, 0).im) {
    lay_error(lo, n->loc, 312,
              "dtypes do not fit: '%s' (Linear) has real weights, its input '%s' is complex",
              n->name, n->in[0]->name);
    diag_hint(builder_diag(lo->b), "`dtype: complex` makes its weights complex");
    return NULL;
  }
  return lay_project(lo, n, in[0], lay_int(n, "out_features"), "weight", bias ? "bias" : NULL,
                     lay_fan_bound((double)k), lay_fan_bound((double)k));
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

/* ---- torch.matmul ---- */

/* x with leading axes of 1 up to `rank`, then stretched over the stack dim[0..rank - 2). */
static Value *stacked(Lower *lo, Value *x, int rank, const int64_t *stack) {
  int64_t dim[MAX_RANK];
  int own = x->type->rank;
  for (int i = 0; i < rank; i++)
    dim[i] = i < rank - own ? 1 : x->type->dim[i - (rank - own)];
  x = own < rank ? build_reshape(lo->b, x, rank, dim) : x;
  for (int i = 0; i < rank - 2; i++)
    dim[i] = stack[i];
  Attr shape = attr_ints(lo->b, "shape", rank, dim);
  return build_op(lo->b, OP_expand, 1, &x, 1, &shape)->out[0];
}

/* [..., M, K] [K, N]: one product over all rows. */
static Value *rows_times(Lower *lo, const Node *n, Value *a, Value *b) {
  int64_t dim[MAX_RANK], k = b->type->dim[0];
  int rank = a->type->rank;
  memcpy(dim, a->type->dim, (size_t)rank * sizeof *dim);
  dim[rank - 1] = b->type->dim[1];
  Value *in[2] = {build_reshape(lo->b, a, 2, (int64_t[]){type_elems(a->type) / k, k}), b};
  Attr at[] = {attr_b(lo->b, "ta", false), attr_b(lo->b, "tb", false)};
  return build_reshape(lo->b, lay_emit1(lo, n, OP_matmul, 2, in, 2, at), rank, dim);
}

/* A vector is a row on the left and a column on the right; its axis is not in the result. */
static Value *multiply(Lower *lo, const Node *n, Value *const *in) {
  Value *a = in[0], *b = in[1];
  int64_t dim[MAX_RANK], stack[MAX_RANK];
  bool row = a->type->rank == 1, column = b->type->rank == 1;
  if (!a->type->rank || !b->type->rank || (row && column))
    return lay_misfit(lo, n, n->loc, 0, in, "multiplies stacks of matrices");
  if (row)
    a = build_reshape(lo->b, a, 2, (int64_t[]){1, a->type->dim[0]});
  if (column)
    b = build_reshape(lo->b, b, 2, (int64_t[]){b->type->dim[0], 1});
  int ra = a->type->rank, rb = b->type->rank, rank = ra > rb ? ra : rb, r;
  const Type *sa = type_get(builder_types(lo->b), MPCC_F32, ra - 2, a->type->dim);
  const Type *sb = type_get(builder_types(lo->b), MPCC_F32, rb - 2, b->type->dim);
  if (a->type->dim[ra - 1] != b->type->dim[rb - 2] || !type_broadcast(sa, sb, &r, stack))
    return lay_misfit(lo, n, n->loc, 1, in, "multiplies %s and %s", lay_shape(lo, a->type),
                      lay_shape(lo, b->type));
  int64_t front = rank > 2 ? stack[0] : row ? b->type->dim[1] : a->type->dim[0];
  if (lay_is_batch(lo, n, 0) && front != lo->batch)
    return lay_misfit(lo, n, n->loc, 1, in, "must keep the batch in front: %s and %s",
                      lay_shape(lo, a->type), lay_shape(lo, b->type));
  if (rank >= MAX_RANK)
    return lay_misfit(lo, n, n->loc, 0, in, "multiplies stacks of up to %d dimensions", MAX_RANK);
  Value *y;
  if (rb == 2)
    y = rows_times(lo, n, a, b);
  else
    y = lay_emit1(lo, n, OP_bmm, 2,
                  (Value *[]){stacked(lo, a, rank, stack), stacked(lo, b, rank, stack)}, 0, NULL);
  if (!row && !column)
    return y;
  memcpy(dim, y->type->dim, (size_t)rank * sizeof *dim);
  if (row)
    dim[rank - 2] = dim[rank - 1];
  return build_reshape(lo->b, y, rank - 1, dim);
}

Value *layer_matmul(Lower *lo, const Node *n, Value *const *in) {
  Pair a = lay_pair(lo, n, in, 0), b = lay_pair(lo, n, in, 1);
  return a.im || b.im ? lay_matmul_complex(lo, n, a, b, multiply) : multiply(lo, n, in);
}
