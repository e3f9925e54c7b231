/* Attention layers. */
#include "frontend/layers.h"

#include <math.h>

/* What one attention does: widths of q and k, v agree; mask NULL: none. */
typedef struct {
  Value *q, *k, *v, *mask;
  int64_t heads, kv_heads;
  double scale, dropout_p;
} Attend;

static Value *attend(Lower *lo, const Node *n, const Attend *x) {
  Builder *b = lo->b;
  Value *in[6] = {x->q, x->k, x->v};
  int nin = 3, nattr = 0;
  bool drop = lo->train && x->dropout_p > 0;
  Attr at[8];
  at[nattr++] = attr_i(b, "heads", x->heads);
  at[nattr++] = attr_b(b, "causal", val_get_bool(n->args, "is_causal", false));
  at[nattr++] = attr_f(b, "scale", x->scale);
  if (x->kv_heads != x->heads)
    at[nattr++] = attr_i(b, "kv_heads", x->kv_heads);
  if (x->mask) {
    in[nin++] = x->mask;
    at[nattr++] = attr_b(b, "mask", true);
  }
  if (drop) {
    in[nin++] = lower_seed(lo);
    in[nin++] = lower_step(lo);
    at[nattr++] = attr_f(b, "dropout_p", x->dropout_p);
    at[nattr++] = attr_i(b, "stream", lower_stream(lo, n->name));
  }
  return lay_emit1(lo, n, OP_attention, nin, in, nattr, at);
}

/* ---- operands by name ---- */

enum { QUERY, KEY, VALUE, ATTN_MASK, KEY_PADDING_MASK, ROLES };
static const char *const role_name_of[ROLES] = {"query", "key", "value", "attn_mask",
                                                "key_padding_mask"};

/* Operands by the names of the map, or in order; -1 where there is none. `known`: how many of the
 * names the layer takes. false after a diagnostic. */
static bool find_operands(Lower *lo, const Node *n, int known, int at[ROLES]) {
  for (int r = 0; r < ROLES; r++)
    at[r] = !n->in_key && r < n->nin && r < known ? r : -1;
  for (int i = 0; n->in_key && i < n->nin; i++) {
    int r = 0;
    while (r < known && strcmp(n->in_key[i], role_name_of[r]))
      r++;
    if (r == known) {
      lay_error(lo, n->loc, 310, "'%s' has no input '%s'", n->name, n->in_key[i]);
      const char *near = diag_suggest(n->in_key[i], role_name_of, (size_t)known);
      if (near)
        diag_hint(builder_diag(lo->b), "did you mean '%s'?", near);
      return false;
    }
    at[r] = i;
  }
  return true;
}

/* ---- masks ---- */

/* Whether an expression of integers chooses a constant that is no truth, as in a >= b ? 0 : -10000,
 * which was meant to be added. */
static bool chooses_number(const Value *m) {
  while (m->def->code == OP_reshape || m->def->code == OP_permute)
    m = m->def->in[0];
  const Scalar *s = m->def->scalar;
  const Stmt *last = s ? &s->stmt[s->result] : NULL;
  for (int i = 1; last && last->prim == PR_SELECT && i < 3; i++) {
    const Stmt *chosen = &s->stmt[last->arg[i]];
    if (chosen->prim == PR_NEG ||
        (chosen->prim == PR_CONST && chosen->imm != 0 && chosen->imm != 1))
      return true;
  }
  return false;
}

/* A mask as what is added to scores: numbers as they are, integers as truth (`seen`: true is what
 * is seen, else what is hidden). */
static Value *additive(Lower *lo, const Node *n, Value *m, bool seen) {
  if (dtype_is_float(m->type->dt))
    return m;
  if (chooses_number(m))
    return lay_error(lo, n->loc, 201,
                     "a mask of '%s' chooses between whole numbers, which are masks of truth: put "
                     "{to: float32} behind it to have it added to the scores",
                     n->name);
  /* log(0) is -inf */
  Attr at[] = {attr_s(lo->b, "body", seen ? "a == 0 ? log(a) : 0" : "a == 0 ? 0 : log(a - a)"),
               attr_dt(lo->b, "dtype", MPCC_F32)};
  return lay_emit1(lo, n, OP_expr, 1, &m, 2, at);
}

/* Operand i as [N, H, T, S], 1 for any: it is [T, S] (without the batch), [N, S], [N, T, S] or all
 * four. NULL after a diagnostic. */
static Value *scores_mask(Lower *lo, const Node *n, Value *const *in, int i, int64_t heads,
                          int64_t queries, int64_t keys) {
  const Type *ty = in[i]->type;
  bool batch = lay_batch_axis(lo, n, i) == 0 && ty->rank > 1 && ty->dim[0] == lo->batch;
  int64_t dim[4] = {1, 1, 1, 1}, want[4] = {lo->batch, heads, queries, keys};
  if (ty->rank < 1 || ty->rank > 4)
    return lay_misfit(lo, n, n->loc, i, in, "takes a mask of up to 4 dimensions");
  for (int d = 0; d < ty->rank; d++)
    dim[4 - ty->rank + d] = ty->dim[d];
  if (batch && ty->rank < 4) {
    dim[4 - ty->rank] = 1;
    dim[0] = ty->dim[0];
    for (int d = 1; d < ty->rank; d++)
      dim[4 - ty->rank + d] = ty->dim[d];
  }
  for (int d = 0; d < 4; d++)
    if (dim[d] != 1 && dim[d] != want[d])
      return lay_misfit(lo, n, n->loc, i, in, "has scores [N, %lld, %lld, %lld], a mask %s",
                        (long long)heads, (long long)queries, (long long)keys, lay_shape(lo, ty));
  return build_reshape(lo->b, in[i], 4, dim);
}

/* ---- layers ---- */

/* Projection of `x` by rows [from, from + rows) of the packed weight and bias. */
typedef struct {
  Value *weight, *bias; /* bias NULL: none */
} Packed;

static Value *project_part(Lower *lo, const Node *n, Value *x, const Packed *p, int64_t from,
                           int64_t rows) {
  Value *in[3] = {x, p->weight, p->bias};
  if (rows != p->weight->type->dim[0])
    in[1] = build_slice(lo->b, p->weight, 0, from, from + rows);
  if (p->bias && rows != p->bias->type->dim[0])
    in[2] = build_slice(lo->b, p->bias, 0, from, from + rows);
  return lay_emit1(lo, n, OP_linear, p->bias ? 3 : 2, in, 0, NULL);
}

/* q, k, v of torch.nn.MultiheadAttention from operands at[]: one product where they are one value.
 */
static bool project_qkv(Lower *lo, const Node *n, Value *const *in, const int *at, Attend *x) {
  int64_t width = in[at[QUERY]]->type->dim[2];
  Value *from[3] = {in[at[QUERY]], in[at[KEY]], in[at[VALUE]]}, *part[3];
  bool bias = val_get_bool(n->args, "bias", true), same = true;
  int64_t rows = 3 * width;
  for (int i = 1; i < 3; i++)
    same &= from[i]->type->dim[2] == width;
  /* in torch's order; xavier_uniform over [rows, columns] */
  Value *weight[3] = {NULL};
  for (int i = 0; i < 3 && !same; i++) {
    static const char *const name[3] = {"q_proj_weight", "k_proj_weight", "v_proj_weight"};
    const int64_t dim[2] = {width, from[i]->type->dim[2]};
    Init init = init_bound(sqrt(6.0 / (double)(dim[0] + dim[1])));
    weight[i] = lay_param(lo, n, name[i], 2, dim, init);
  }
  if (same) {
    const int64_t dim[2] = {rows, width};
    Init init = init_bound(sqrt(6.0 / (double)(rows + width)));
    weight[0] = lay_param(lo, n, "in_proj_weight", 2, dim, init);
  }
  Packed p = {weight[0], NULL};
  if (bias)
    p.bias = lay_param(lo, n, "in_proj_bias", 1, &rows, init_constant(0));
  for (int i = 0; i < 3 && !same; i++) {
    Packed one = {weight[i], NULL};
    if (bias)
      one.bias = build_slice(lo->b, p.bias, 0, i * width, (i + 1) * width);
    part[i] = project_part(lo, n, from[i], &one, 0, width);
  }
  for (int i = 0; i < 3 && same;) {
    int many = 1;
    while (i + many < 3 && from[i + many] == from[i])
      many++;
    Value *y = project_part(lo, n, from[i], &p, i * width, many * width);
    for (int k = 0; k < many; k++)
      part[i + k] = many == 1 ? y : build_slice(lo->b, y, 2, k * width, (k + 1) * width);
    i += many;
  }
  x->q = part[0];
  x->k = part[1];
  x->v = part[2];
  return !lo->failed;
}

/* Sum of both masks of MultiheadAttention; true in either hides. */
static bool hidden(Lower *lo, const Node *n, Value *const *in, const int *at, Attend *x) {
  int64_t queries = in[at[QUERY]]->type->dim[1], keys = in[at[KEY]]->type->dim[1];
  for (int r = ATTN_MASK; r <= KEY_PADDING_MASK; r++) {
    if (at[r] < 0)
      continue;
    const Type *ty = in[at[r]]->type;
    if (lay_batch_axis(lo, n, at[r]) > 0) {
      lay_misfit(lo, n, n->loc, at[r], in, "takes a mask with the batch in front");
      return false;
    }
    if (r == KEY_PADDING_MASK && (ty->rank != 2 || ty->dim[0] != lo->batch || ty->dim[1] != keys)) {
      lay_misfit(lo, n, n->loc, at[r], in, "takes key_padding_mask [N, %lld], not %s",
                 (long long)keys, lay_shape(lo, ty));
      return false;
    }
    Value *m = scores_mask(lo, n, in, at[r], x->heads, queries, keys);
    if (!m)
      return false;
    m = additive(lo, n, m, false);
    x->mask = x->mask ? lay_emit1(lo, n, OP_add, 2, (Value *[]){x->mask, m}, 0, NULL) : m;
  }
  return true;
}

static bool check_sequences(Lower *lo, const Node *n, Value *const *in, const int *at) {
  for (int r = 0; r < 3; r++) {
    if (at[r] < 0)
      continue;
    const Type *ty = in[at[r]]->type;
    if (ty->rank != 3) {
      lay_misfit(lo, n, n->loc, at[r], in, "works on [N, T, C]");
      return false;
    }
    if (ty->dim[0] != in[at[QUERY]]->type->dim[0] ||
        (r == VALUE && ty->dim[1] != in[at[KEY]]->type->dim[1])) {
      lay_misfit(lo, n, n->loc, at[r], in, "has %s %s beside %s %s", role_name_of[r],
                 lay_shape(lo, ty), r == VALUE ? "key" : "query",
                 lay_shape(lo, in[at[r == VALUE ? KEY : QUERY]]->type));
      return false;
    }
  }
  return true;
}

/* torch.nn.MultiheadAttention; its result is the attention output alone. */
Value *layer_MultiheadAttention(Lower *lo, const Node *n, Value *const *given) {
  int at[ROLES];
  Value *in[ROLES];
  if (!find_operands(lo, n, ROLES, at))
    return NULL;
  if (at[QUERY] < 0)
    return lay_error(lo, n->loc, 310, "'%s' has no input 'query'", n->name);
  at[KEY] = at[KEY] < 0 ? at[QUERY] : at[KEY];
  at[VALUE] = at[VALUE] < 0 ? at[KEY] : at[VALUE];
  for (int i = 0; i < n->nin; i++)
    in[i] = given[i];
  for (int r = 0; r < 3; r++)
    if (!(in[at[r]] = lay_batch_first(lo, n, given, at[r])))
      return NULL;
  if (!check_sequences(lo, n, in, at))
    return NULL;
  int64_t width = in[at[QUERY]]->type->dim[2], heads = lay_int(n, "num_heads");
  static const char *const sizes[3] = {"embed_dim", "kdim", "vdim"};
  for (int r = 0; r < 3; r++) {
    const Val *v = val_get(n->args, sizes[r]);
    int64_t have = in[at[r]]->type->dim[2];
    if (v && v->kind == VAL_INT && v->i != have)
      return lay_misfit(lo, n, v->loc, at[r], in, "has %s %lld, its input has %lld", sizes[r],
                        (long long)v->i, (long long)have);
  }
  if (width % heads)
    return lay_misfit(lo, n, lay_loc(n, "num_heads"), at[QUERY], in,
                      "has %lld heads, which do not divide width %lld", (long long)heads,
                      (long long)width);
  Attend x = {.heads = heads,
              .kv_heads = heads,
              .scale = 1 / sqrt((double)(width / heads)),
              .dropout_p = val_get_float(n->args, "dropout", 0)};
  if (!project_qkv(lo, n, in, at, &x) || !hidden(lo, n, in, at, &x))
    return NULL;
  bool bias = val_get_bool(n->args, "bias", true);
  return lay_batch_back(lo, n,
                        lay_project(lo, n, attend(lo, n, &x), width, "out_proj.weight",
                                    bias ? "out_proj.bias" : NULL, lay_fan_bound((double)width),
                                    init_constant(0)));
}

/* Slices of one projection: heads of queries, then of keys, then of values. */
static void unpack(Lower *lo, Value *packed, int64_t d, Attend *x) {
  int64_t q = x->heads * d, kv = x->kv_heads * d;
  x->q = build_slice(lo->b, packed, 2, 0, q);
  x->k = build_slice(lo->b, packed, 2, q, q + kv);
  x->v = build_slice(lo->b, packed, 2, q + kv, q + 2 * kv);
}

Value *layer_scaled_dot_product_attention(Lower *lo, const Node *n, Value *const *in) {
  bool packed = val_get_str(n->args, "packed", NULL) != NULL;
  Attend x = {.heads = lay_int(n, "num_heads")};
  x.kv_heads = val_get_int(n->args, "num_kv_heads", x.heads);
  int at[ROLES] = {0, -1, -1, n->nin > 1 ? 1 : -1, -1};
  if (!val_get_bool(n->args, "enable_gqa", true) && x.kv_heads != x.heads)
    return lay_error(lo, lay_loc(n, "enable_gqa"), 201,
                     "%lld heads and %lld heads of keys need enable_gqa: true", (long long)x.heads,
                     (long long)x.kv_heads);
  bool right = n->nin == (packed ? 1 : 3) || (n->in_key && n->nin == 4 && !packed);
  if (!right) {
    lay_error(lo, n->loc, 310, "'%s' takes %s, not %d inputs", n->name,
              packed ? "one packed input" : "query, key, value and perhaps attn_mask", n->nin);
    diag_hint(builder_diag(lo->b), "inputs: {query: ..., key: ..., value: ...}, or packed: qkv");
    return NULL;
  }
  if (!packed && !find_operands(lo, n, ATTN_MASK + 1, at))
    return NULL;
  for (int r = 0; r < (packed ? 1 : 3); r++)
    if (at[r] < 0)
      return lay_error(lo, n->loc, 310, "'%s' has no input '%s'", n->name, role_name_of[r]);
  if (!check_sequences(lo, n, in, at))
    return NULL;
  int64_t width = in[at[QUERY]]->type->dim[2];
  int64_t parts = packed ? x.heads + 2 * x.kv_heads : x.heads;
  if (x.heads % x.kv_heads)
    return lay_misfit(lo, n, lay_loc(n, "num_kv_heads"), 0, in,
                      "has %lld heads, which %lld heads of keys do not divide", (long long)x.heads,
                      (long long)x.kv_heads);
  if (width % parts)
    return lay_misfit(lo, n, lay_loc(n, "num_heads"), at[QUERY], in,
                      "has %lld heads%s, which do not divide width %lld", (long long)parts,
                      packed ? " of query, key and value" : "", (long long)width);
  int64_t d = width / parts;
  if (packed)
    unpack(lo, in[0], d, &x);
  for (int r = KEY; r <= VALUE && !packed; r++)
    if (in[at[r]]->type->dim[2] != x.kv_heads * d)
      return lay_misfit(lo, n, n->loc, at[r], in, "has %s of width %lld, not %lld heads of %lld",
                        role_name_of[r], (long long)in[at[r]]->type->dim[2], (long long)x.kv_heads,
                        (long long)d);
  if (!packed) {
    x.q = in[at[QUERY]];
    x.k = in[at[KEY]];
    x.v = in[at[VALUE]];
  }
  if (at[ATTN_MASK] >= 0) {
    Value *m = scores_mask(lo, n, in, at[ATTN_MASK], x.heads, x.q->type->dim[1], x.k->type->dim[1]);
    if (!m)
      return NULL;
    x.mask = additive(lo, n, m, true);
  }
  x.scale = val_get_float(n->args, "scale", 1 / sqrt((double)d));
  x.dropout_p = val_get_float(n->args, "dropout_p", 0);
  return attend(lo, n, &x);
}

/* Rotary position embedding (Su et al. 2021): pairs of a head's elements turned by an angle that
 * grows with the position, slower for later pairs. Tables are f32, as Hugging Face's, and f64 in
 * 64-true alone. */
Value *layer_RotaryEmbedding(Lower *lo, const Node *n, Value *const *in) {
  const Type *x = in[0]->type;
  Builder *b = lo->b;
  int64_t heads = lay_int(n, "num_heads");
  if (x->rank != 3)
    return lay_misfit(lo, n, n->loc, 0, in, "works on [N, T, H*D]");
  if (x->dim[2] % heads || x->dim[2] / heads % 2)
    return lay_misfit(lo, n, lay_loc(n, "num_heads"), 0, in,
                      "has width %lld, which is not %lld heads of an even width",
                      (long long)x->dim[2], (long long)heads);
  int64_t d = x->dim[2] / heads;
  const int64_t rows[2] = {x->dim[1], 1}, columns[2] = {1, d / 2};
  Attr t[] = {attr_ints(b, "shape", 2, rows), attr_i(b, "dim", 0)};
  Attr i[] = {attr_ints(b, "shape", 2, columns), attr_i(b, "dim", 1)};
  Value *at[2] = {build_op(b, OP_iota, 0, NULL, 2, t)->out[0],
                  build_op(b, OP_iota, 0, NULL, 2, i)->out[0]};
  double rate = -2 * log(val_get_float(n->args, "base", 10000)) / (double)d;
  Value *args[3] = {in[0]};
  for (int k = 0; k < 2; k++)
    args[1 + k] = build_expr(
        b, str_fmt(builder_strings(b), "%s(a * exp(%.17g * b))", k ? "sin" : "cos", rate), MPCC_F32,
        2, at);
  Attr attr[] = {attr_i(b, "heads", heads),
                 attr_b(b, "interleaved", val_get_bool(n->args, "interleaved", false)),
                 attr_b(b, "inverse", false)};
  return lay_emit1(lo, n, OP_rotary, 3, args, 3, attr);
}
