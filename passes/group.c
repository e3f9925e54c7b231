/* group_<op>: ops become groups in the making, one or a few nodes each. The table is expanded from
 * ops.def, so a row without its function is a link error. Here: pointwise ops, random numbers, and
 * the kinds without statements; norms and losses in group_rows.c, products in group_product.c. */
#include <math.h>
#include <string.h>

#include "passes/fuse.h"

/* Every value of `from` is one of `to`, and both are loaded into f32 registers. */
static bool is_widening(DType from, DType to) {
  const DTypeInfo *a = dtype_info(from), *b = dtype_info(to);
  return dtype_is_float(from) && dtype_is_float(to) && reg_of(from) == MPCC_F32 &&
         reg_of(to) == MPCC_F32 && a->mantissa_bits <= b->mantissa_bits &&
         a->exponent_bits <= b->exponent_bits;
}

/* Stores a pointwise result in the memory order of its first operand that has all dimensions, so
 * that a transposed operand does not make a transposing store; its view puts the order right. */
static void store_like(Fuse *F, const Op *op, Node *n, int stmt) {
  const Type *ty = op->out[0]->type;
  int64_t order[MAX_DIMS], dim[MAX_DIMS], back[MAX_DIMS];
  const View *like = NULL;
  for (int i = 0; i < op->nin && !like; i++) {
    const View *v = operand(F, i);
    bool full = v->buf && v->rank == ty->rank;
    for (int d = 0; full && d < ty->rank; d++)
      full = v->dim[d] == ty->dim[d] && (v->at.stride[d] > 0 || v->dim[d] == 1);
    like = full ? v : NULL;
  }
  for (int d = 0; d < ty->rank; d++)
    order[d] = d;
  for (int i = 1; like && i < ty->rank; i++)
    for (int j = i; j > 0; j--) {
      int64_t a = order[j - 1], b = order[j];
      if (ty->dim[a] == 1 || ty->dim[b] == 1 || like->at.stride[a] >= like->at.stride[b])
        break;
      order[j - 1] = b;
      order[j] = a;
    }
  Access at = {0};
  int64_t stride = 1;
  for (int d = ty->rank - 1; d >= 0; d--) {
    dim[d] = ty->dim[order[d]];
    back[order[d]] = d;
    at.stride[order[d]] = stride;
    stride *= dim[d];
  }
  const Type *memory = type_get(builder_types(F->b), ty->dt, ty->rank, dim);
  Buf *b = node_store_at(F, n, stmt, memory, &at);
  set_result(F, 0, view_permuted(F, view_whole(F, b), back));
}

/* Pointwise: one node over the result's shape. Integers are computed in f64, which is exact up to
 * 2^53. */
void group_elem(Fuse *F, const Op *op) {
  const Type *ty = op->out[0]->type;
  /* A widening cast is what a load does. */
  if (!op->scalar && operand(F, 0)->buf && is_widening(operand(F, 0)->dt, ty->dt)) {
    F->view[op->out[0]->id] = operand(F, 0);
    return;
  }
  if (product_takes_bias(F, op) || product_takes_sum(F, op))
    return;
  DType reg = reg_join(ty->dt, MPCC_F32);
  if (reg_of(ty->dt) == MPCC_I64)
    reg = MPCC_F64;
  for (int i = 0; i < op->nin; i++)
    if (op->in[i]->type->dt == MPCC_F64 || reg_of(op->in[i]->type->dt) == MPCC_I64)
      reg = MPCC_F64;
  Node *n = node_rows(F, ty->rank, ty->dim);
  int *arg = ARENA_ARRAY(F->a, int, op->nin + 1);
  if (arena_failed(F->a))
    return;
  int r;
  if (op->scalar) {
    for (int i = 0; i < op->nin; i++)
      arg[i] = node_load_as(F, n, operand(F, i), reg);
    r = node_scalar(F, n, op->scalar, arg, reg);
  } else {
    r = node_load(F, n, operand(F, 0)); /* the store converts */
  }
  store_like(F, op, n, r);
  View *v = F->view[op->out[0]->id];
  if (op_int(op, "packed", 0) && F->o->caps->rounding_packs && view_contiguous(v) &&
      view_contiguous(operand(F, 0)))
    v->buf->master = operand(F, 0)->buf;
}

void group_random(Fuse *F, const Op *op) {
  const Type *ty = op->out[0]->type;
  Node *n = node_rows(F, ty->rank, ty->dim);
  int r =
      node_rand(F, n, operand(F, 0), operand(F, 1), node_element(F, n), op_int(op, "stream", 0));
  set_result_buf(F, 0, node_store(F, n, r, ty->dt, ~0u));
}

void group_dropout(Fuse *F, const Op *op) {
  const Type *ty = op->out[0]->type;
  double p = op_float(op, "p", 0);
  Node *n = node_rows(F, ty->rank, ty->dim);
  int r =
      node_rand(F, n, operand(F, 1), operand(F, 2), node_element(F, n), op_int(op, "stream", 0));
  int x = node_load(F, n, operand(F, 0));
  DType reg = reg_of(ty->dt);
  int kept = node_op2(F, n, PR_DIV, x, node_const(F, n, reg, 1 - p));
  int drop = node_op2(F, n, PR_LT, r, node_const(F, n, MPCC_F32, p));
  set_result_buf(
      F, 0, node_store(F, n, node_select(F, n, drop, node_const(F, n, reg, 0), kept), ty->dt, ~0u));
}

void group_iota(Fuse *F, const Op *op) {
  const Type *ty = op->out[0]->type;
  Node *n = node_rows(F, ty->rank, ty->dim);
  int i = node_index(F, n, (int)op_int(op, "dim", 0));
  set_result_buf(F, 0, node_store(F, n, i, ty->dt, ~0u));
}

/* Operand i as the op has it: kinds without statements take no constants and do not convert. */
static View *stored(Fuse *F, int i) {
  View *v = operand(F, i);
  DType dt = F->op->in[i]->type->dt;
  return v->buf && v->dt == dt ? v : view_copied(F, v, dt);
}

static bool is_returned(const Fuse *F, const Value *v) {
  bool returned = false;
  for (int i = v->def->index + 1; i < F->f->nop; i++) {
    const Op *op = F->f->op[i];
    returned |= op->code == OP_write && op->in[0] == v &&
                op_attr(op, "tensor")->u.tensor->role == ROLE_OUTPUT;
  }
  return returned;
}

/* Operand i of a concatenation. What predict returns has its bytes for as long as the function
 * runs: a piece in a wider dtype is made right behind what it widens, which is gone then. */
static View *piece(Fuse *F, int i) {
  const Buf *narrow = operand(F, i)->buf;
  View *v = stored(F, i);
  if (narrow && narrow->def && v->buf != narrow && is_returned(F, F->op->out[0]))
    v->buf->def->seq = narrow->def->seq;
  return v;
}

static void move(Fuse *F, const Op *op, int64_t axis, const int64_t *starts, bool zero) {
  const Type *ty = op->out[0]->type;
  Node *n = node_create(F, NODE_MOVE, ty->rank, ty->dim);
  int64_t *sizes = ARENA_ARRAY(F->a, int64_t, op->nin + 1);
  if (arena_failed(F->a))
    return;
  for (int i = 0; i < op->nin; i++) {
    View *v = piece(F, i);
    sizes[i] = v->dim[axis];
    n->in = fuse_grow(F, n->in, n->nin, &n->cin, sizeof *n->in);
    if (F->status != MPCC_OK)
      return;
    n->in[n->nin++] = (NodeIn){v->buf, v->at};
  }
  node_attr_i(F, n, "axis", axis);
  node_attr_b(F, n, "zero", zero);
  node_attr(F, n, attr_ints(F->b, "starts", op->nin, starts));
  node_attr(F, n, attr_ints(F->b, "sizes", op->nin, sizes));
  Access at = {0};
  int64_t stride = 1;
  for (int i = ty->rank - 1; i >= 0; stride *= ty->dim[i--])
    at.stride[i] = stride;
  set_result_buf(F, 0, node_store_at(F, n, 0, ty, &at));
}

static int64_t axis_of(const Op *op) {
  int64_t axis = op_int(op, "dim", 0);
  return axis < 0 ? axis + op->out[0]->type->rank : axis;
}

/* The value of which the operands are the slices along `axis`, one behind the other: it is what
 * they are concatenated to. NULL: there is none. */
static Buf *cut_from(Fuse *F, const Op *op, int64_t axis) {
  const Type *ty = op->out[0]->type;
  Buf *b = view_of(F, op->in[0])->buf;
  if (!b || b->type != ty)
    return NULL;
  const View *whole = view_whole(F, b);
  int64_t at = 0;
  for (int i = 0; i < op->nin; at += op->in[i++]->type->dim[axis]) {
    const View *v = view_of(F, op->in[i]);
    if (v->buf != b || v->dt != ty->dt || v->rank != ty->rank ||
        v->at.offset != at * whole->at.stride[axis])
      return NULL;
    for (int d = 0; d < ty->rank; d++)
      if (v->dim[d] > 1 && v->at.stride[d] != whole->at.stride[d])
        return NULL;
  }
  return b;
}

void group_cat(Fuse *F, const Op *op) {
  int64_t axis = axis_of(op), at = 0;
  int64_t *starts = ARENA_ARRAY(F->a, int64_t, op->nin + 1);
  const Attr *given = op_attr(op, "starts");
  if (arena_failed(F->a))
    return;
  if (given) {
    move(F, op, axis, given->u.ints.v, true);
    return;
  }
  Buf *whole = cut_from(F, op, axis);
  if (whole) {
    set_result(F, 0, view_whole(F, whole));
    return;
  }
  for (int i = 0; i < op->nin; i++) {
    starts[i] = at;
    at += op->in[i]->type->dim[axis];
  }
  move(F, op, axis, starts, false);
}

void group_unslice(Fuse *F, const Op *op) {
  int64_t start = op_int(op, "start", 0);
  move(F, op, axis_of(op), &start, true);
}

void group_embedding(Fuse *F, const Op *op) {
  const Type *ty = op->out[0]->type;
  View *ids = stored(F, 0), *table = stored(F, 1);
  Node *n = node_create(F, NODE_INDEX, ty->rank, ty->dim);
  Access row = ids->at;
  row.stride[ty->rank - 1] = 0;
  node_in(F, n, ids->buf, &row);
  Access col = {.offset = table->at.offset};
  col.stride[ty->rank - 1] = table->at.stride[1];
  node_in(F, n, table->buf, &col);
  node_attr_i(F, n, "row_stride", table->at.stride[0]);
  Access at = {0};
  int64_t stride = 1;
  for (int i = ty->rank - 1; i >= 0; stride *= ty->dim[i--])
    at.stride[i] = stride;
  set_result_buf(F, 0, node_store_at(F, n, 0, ty, &at));
}

/* Sums are made in registers' precision; a narrower result, and what it adds to, are another node.
 */
void group_embedding_grad(Fuse *F, const Op *op) {
  const Type *ty = op->in[1]->type, *r = op->out[0]->type;
  DType reg = reg_of(r->dt);
  bool narrow = r->dt != reg, base = op->nin > 2;
  View *ids = stored(F, 0), *dy = stored(F, 1);
  Node *n = node_create(F, NODE_SCATTER, ty->rank, ty->dim);
  int last = ty->rank - 1;
  Access row = ids->at;
  row.stride[last] = 0;
  node_in(F, n, ids->buf, &row);
  n->in = fuse_grow(F, n->in, n->nin, &n->cin, sizeof *n->in);
  if (F->status != MPCC_OK)
    return;
  n->in[n->nin++] = (NodeIn){dy->buf, dy->at}; /* node_in would join equal operands */
  Access at = {0};
  at.stride[last] = 1;
  if (base && !narrow) {
    View *b = view_materialize(F, stored(F, 2));
    n->in = fuse_grow(F, n->in, n->nin, &n->cin, sizeof *n->in);
    if (F->status != MPCC_OK)
      return;
    n->in[n->nin++] = (NodeIn){b->buf, at};
  }
  node_attr_i(F, n, "rows", r->dim[0]);
  node_attr_i(F, n, "skip", op_int(op, "padding_idx", -1));
  Buf *sum = node_store_at(F, n, 0, type_with_dtype(builder_types(F->b), r, reg), &at);
  if (!narrow) {
    set_result_buf(F, 0, sum);
    return;
  }
  Node *m = node_rows(F, 2, r->dim);
  int s = node_load(F, m, view_whole(F, sum));
  if (base)
    s = node_op2(F, m, PR_ADD, s, node_load_as(F, m, operand(F, 2), reg));
  set_result_buf(F, 0, node_store(F, m, s, r->dt, ~0u));
}

/* [N, T, H*D] seen as [N, H, T, D]. */
static Access heads_access(const View *v, int64_t d) {
  return (Access){v->at.offset,
                  {v->at.stride[0], d * v->at.stride[2], v->at.stride[1], v->at.stride[2]}};
}

static Access heads_store(int64_t t, int64_t h, int64_t d) {
  return (Access){0, {t * h * d, d, h * d, 1}};
}

/* [N, H, T, S], 1 where it is the same for all */
static Access mask_access(const View *v) {
  Access at = {.offset = v->at.offset};
  for (int d = 0; d < 4; d++)
    at.stride[d] = v->dim[d] == 1 ? 0 : v->at.stride[d];
  return at;
}

/* Shared by attention and attention_grad: q, k, v are operands q0..q0 + 2; extra operands (of the
 * gradient) come first. */
static Node *attention_node(Fuse *F, const Op *op, NodeKind kind, int q0) {
  const Type *q = op->in[q0]->type, *k = op->in[q0 + 1]->type;
  int64_t heads = op_int(op, "heads", 1), d = q->dim[2] / heads;
  int64_t dim[4] = {q->dim[0], heads, q->dim[1], d};
  Node *n = node_create(F, kind, 4, dim);
  n->ncol = 1;
  double p = op_float(op, "dropout_p", 0);
  bool mask = op_int(op, "mask", 0);
  const bool codes = op_attr(op, "p_dtype") != NULL;
  for (int i = 0; i < op->nin; i++) {
    if (i >= q0 + 3 + mask && p == 0 && !codes)
      break;
    View *v = stored(F, i);
    Access at = {.offset = i >= q0 + 3 + mask ? v->at.offset : 0};
    if (i == 2 && q0 == 3) /* lse [N, H, T] */
      at = v->at;
    else if (mask && i == q0 + 3)
      at = mask_access(v);
    else if (i < q0 + 3)
      at = heads_access(v, d);
    n->in = fuse_grow(F, n->in, n->nin, &n->cin, sizeof *n->in);
    if (F->status != MPCC_OK)
      return n;
    n->in[n->nin++] = (NodeIn){v->buf, at};
  }
  node_attr_b(F, n, "causal", op_int(op, "causal", 0));
  node_attr_f(F, n, "scale", op_float(op, "scale", 1 / sqrt((double)d)));
  node_attr_f(F, n, "dropout_p", p);
  node_attr_i(F, n, "keys", k->dim[1]);
  if (op_int(op, "kv_heads", heads) != heads)
    node_attr_i(F, n, "kv_heads", op_int(op, "kv_heads", heads));
  if (mask)
    node_attr_b(F, n, "mask", true);
  DType out = (DType)op_int(op, "out", q->dt);
  node_attr_dt(F, n, "compute",
               target_product_dtype(F->o->caps, codes ? out : q->dt, codes ? out : k->dt));
  if (codes) {
    node_attr(F, n, *op_attr(op, "p_dtype"));
    node_attr(F, n, *op_attr(op, "ds_dtype"));
    node_attr(F, n, *op_attr(op, "p_scale"));
    node_attr(F, n, *op_attr(op, "ds_scale"));
  } else if (F->o->strict) {
    node_attr_dt(F, n, "round", q->dt);
  }
  node_param(F, n, op_int(op, "stream", 0));
  n->nstmt = 0; /* the parameter is the template's */
  return n;
}

void group_attention(Fuse *F, const Op *op) {
  Node *n = attention_node(F, op, NODE_ATTENTION, 0);
  int64_t h = n->dim[1], t = n->dim[2], d = n->dim[3];
  Access o = heads_store(t, h, d), lse = {0, {h * t, t, 1, 0}};
  set_result_buf(F, 0, node_store_at(F, n, 0, op->out[0]->type, &o));
  set_result_buf(F, 1, node_store_at(F, n, 0, op->out[1]->type, &lse));
}

/* The one op that concatenates the three results along their last dimension, or NULL. */
static const Op *joining(const Fuse *F, const Op *op) {
  for (int i = 0; i < F->f->nop; i++) {
    const Op *c = F->f->op[i];
    int part[3] = {0}, rank = op->out[0]->type->rank;
    if (c->code != OP_cat || c->nin != 3 || op_attr(c, "starts") || axis_of(c) != rank - 1)
      continue;
    for (int k = 0; k < 3; k++)
      for (int j = 0; j < 3; j++)
        part[j] += c->in[k] == op->out[j];
    if (part[0] == 1 && part[1] == 1 && part[2] == 1)
      return c;
  }
  return NULL;
}

/* Results are parts of one value [N, T, ...], which lies as `cat` wants it. */
static void joined_results(Fuse *F, const Op *op, const Op *cat, Node *n) {
  const Type *ty = cat->out[0]->type;
  const int64_t t = n->dim[2], width = ty->dim[2];
  int64_t joined[10], start[3] = {0}, at = 0;
  for (int k = 0; k < 3; k++)
    for (int j = 0; j < 3; j++)
      if (cat->in[k] == op->out[j]) {
        start[j] = at;
        at += op->out[j]->type->dim[2];
      }
  for (int k = 1; k < 3; k++) {
    const int64_t part[5] = {start[k] - start[0], t * width, n->dim[3], width, 1};
    memcpy(joined + 5 * (k - 1), part, sizeof part);
  }
  node_attr(F, n, attr_ints(F->b, "joined", 10, joined));
  const Access first = {start[0], {t * width, n->dim[3], width, 1}};
  Buf *b = node_store_at(F, n, 0, ty, &first);
  for (int k = 0; k < 3 && !fuse_failed(F); k++) {
    View *v = view_whole(F, b);
    v->dim[2] = op->out[k]->type->dim[2];
    v->at.offset = start[k];
    set_result(F, k, v);
  }
}

void group_attention_grad(Fuse *F, const Op *op) {
  Node *n = attention_node(F, op, NODE_ATTENTION_GRAD, 3);
  int64_t h = n->dim[1], t = n->dim[2], d = n->dim[3], s = op->in[4]->type->dim[1];
  const Op *cat = F->o->caps->joined_grads ? joining(F, op) : NULL;
  if (cat) {
    joined_results(F, op, cat, n);
    return;
  }
  for (int i = 0; i < 3; i++) {
    Access at = heads_store(i ? s : t, i ? op_int(op, "kv_heads", h) : h, d);
    set_result_buf(F, i, node_store_at(F, n, 0, op->out[i]->type, &at));
  }
}

/* ---- the table ------------------------------------------------------------------------------- */

#define ROW_NONE(name) NULL
#define ROW_ELEM(name) group_elem
#define ROW_VIEW(name) view_op
#define ROW_PRODUCT(name) group_##name
#define ROW_ATTENTION(name) group_##name
#define ROW_ROWS(name) group_##name
#define ROW_MOVE(name) group_##name
#define ROW_WINDOW(name) group_##name
#define ROW_INDEX(name) group_##name
#define ROW_PACK(name) group_##name

static GroupFn *const group_fn[OP_COUNT] = {
#define OP(name, nin, nout, shape, cuda, cpu, grad, kind, doc) [OP_##name] = ROW_##kind(name),
#define SCALAR(name, nin, text, deriv, cuda, cpu, doc) [OP_##name] = group_elem,
#include "ir/ops.def"
#include "ir/scalar.def"
#undef OP
#undef SCALAR
};

void group_op(Fuse *F, const Op *op) {
  F->op = op;
  if (group_fn[op->code])
    group_fn[op->code](F, op);
  else
    fuse_error(F, op, "is not legal at this stage");
}
