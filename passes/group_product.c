/* Lowering of products: A with any strides times a packed B, then statements on each element; or,
 * where the target has one, by a library. */
#include <string.h>

#include "passes/fuse.h"

static int64_t panel_columns(const TargetCaps *c, DType compute) {
  return compute == MPCC_F64    ? c->panel_cols_f64
         : compute == MPCC_BF16 ? c->panel_cols_bf16
                                : c->panel_cols_f32;
}

Buf *product_packed(Fuse *F, const View *b, DType compute) {
  Buf *from = b->buf->master ? b->buf->master : b->buf;
  PackEntry key = {from,        NULL,      compute,         b->dt,
                   b->dim[0],   b->dim[1], b->at.stride[0], b->at.stride[1],
                   b->at.offset};
  for (int i = 0; i < F->npack; i++) {
    const PackEntry *e = &F->pack[i];
    if (e->buf == key.buf && e->compute == compute && e->dt == key.dt && e->n == key.n &&
        e->k == key.k && e->sn == key.sn && e->sk == key.sk && e->offset == key.offset)
      return e->packed;
  }
  const TargetCaps *c = F->o->caps;
  int64_t cols = panel_columns(c, compute), pair = compute == MPCC_BF16 ? c->k_pair_bf16 : 1;
  int64_t dim[4] = {(key.n + cols - 1) / cols, (key.k + pair - 1) / pair, cols, pair};
  Node *n = node_create(F, NODE_PACK, 2, b->dim);
  n->label = from == b->buf ? "pack" : "cast+pack";
  node_in(F, n, from, &b->at);
  node_attr_dt(F, n, "compute", compute);
  if (from != b->buf)
    node_attr_dt(F, n, "round", b->dt);
  const Type *ty = type_get(builder_types(F->b), compute, 4, dim);
  key.packed = node_store_at(F, n, 0, ty, &(Access){0});
  F->pack = fuse_grow(F, F->pack, F->npack, &F->cpack, sizeof *F->pack);
  if (F->status == MPCC_OK)
    F->pack[F->npack++] = key;
  return key.packed;
}

Node *product_node(Fuse *F, NodeKind kind, int ndim, const int64_t *dim, Buf *a, const Access *at,
                   Buf *b, DType compute, int64_t k, int *acc) {
  Node *n = node_create(F, kind, ndim, dim);
  n->rigid = true;
  n->ncol = 1;
  n->in = fuse_grow(F, n->in, 1, &n->cin, sizeof *n->in);
  if (F->status == MPCC_OK) {
    n->in[0] = (NodeIn){a, *at};
    n->in[1] = (NodeIn){b, {0}};
    n->nin = 2;
  }
  node_attr_i(F, n, "k", k);
  node_attr_dt(F, n, "compute", compute);
  Stmt s = {.prim = PR_ACC,
            .dt = compute == MPCC_F64 ? MPCC_F64 : MPCC_F32,
            .arg = {-1, -1, -1, -1},
            .ref = -1};
  *acc = node_stmt(F, n, s);
  return n;
}

/* Whether the function is the body of a loop, where what each turn packs is packed again. */
static bool is_body(const Fuse *F) {
  for (int i = 0; i < F->f->nop; i++)
    if (F->f->op[i]->code == OP_arg)
      return true;
  return false;
}

/* Whether a product of so many rows reads b [N, K] as it lies: a parameter too large to be packed on
 * the way, which the packed copy would bring through memory twice more. */
static bool reads_raw(const Fuse *F, const View *b, int64_t rows, DType compute) {
  enum { LEAST_ROWS = 32, LEAST_ELEMS = 1 << 16 };
  const TargetCaps *c = F->o->caps;
  const Buf *from = b->buf->master ? b->buf->master : b->buf;
  const int64_t *s = b->at.stride;
  return rows >= LEAST_ROWS && rows <= c->raw_rows && b->rank == 2 && !from->def &&
         view_elems(b) >= LEAST_ELEMS && (s[0] == 1 || s[1] == 1) && compute != MPCC_F64 &&
         (from == b->buf || b->dt == compute) &&
         (compute != MPCC_BF16 || b->dim[1] % c->k_pair_bf16 == 0 || s[0] == 1) && !is_body(F);
}

/* a [rows..., K] times b [N, K]: node over [rows..., N]; *acc is its sum. */
static Node *product(Fuse *F, View *a, View *b, int *acc) {
  if (!a->buf)
    a = view_materialize(F, a);
  if (!b->buf)
    b = view_materialize(F, b);
  DType compute = target_product_dtype(F->o->caps, a->dt, b->dt);
  int64_t dim[MAX_DIMS] = {1};
  *acc = 0;
  if (fuse_failed(F) || a->rank < 1)
    return node_create(F, NODE_PRODUCT, 1, dim);
  int nrow = a->rank - 1, shift = nrow == 0;
  for (int i = 0; i < nrow; i++)
    dim[i] = a->dim[i];
  dim[nrow + shift] = b->dim[0];
  Access at = a->at;
  at.stride[nrow] = 0;
  const bool raw = reads_raw(F, b, view_elems(a) / a->dim[nrow], compute);
  Buf *factor = !raw             ? product_packed(F, b, compute)
                : b->buf->master ? b->buf->master
                                 : b->buf;
  Node *n = product_node(F, NODE_PRODUCT, nrow + shift + 1, dim, a->buf, &at, factor, compute,
                         b->dim[1], acc);
  n->kstride = a->at.stride[nrow];
  if (raw && !fuse_failed(F)) {
    n->in[1].at.offset = b->at.offset;
    node_attr(F, n, attr_ints(F->b, "factor", 2, (int64_t[]){b->at.stride[1], b->at.stride[0]}));
  }
  return n;
}

/* ---- products by a library ------------------------------------------------------------------- */

/* Rows or columns are contiguous, and none overlap. */
static bool is_matrix(const View *v) {
  const int64_t *d = v->dim, *s = v->at.stride;
  return (s[1] == 1 && (d[0] == 1 || s[0] >= d[1])) || (s[0] == 1 && (d[1] == 1 || s[1] >= d[0]));
}

/* v [..., K] as a matrix that a library takes, in format dt; along_k: contiguous along K. */
static View *as_matrix(Fuse *F, View *v, DType dt, bool along_k) {
  const int64_t k = v->dim[v->rank - 1], dim[2] = {view_elems(v) / k, k};
  View *m = v;
  if (!v->buf || v->dt != dt || !view_reshaped(F, v, 2, dim, &m) || !is_matrix(m) ||
      (along_k && k > 1 && m->at.stride[1] != 1))
    view_reshaped(F, view_copied(F, v, dt), 2, dim, &m);
  return m;
}

static bool is_number(const View *v, DType dt) {
  return v->buf && v->dt == dt && view_elems(v) == 1;
}

/* Formats in which a library multiplies a and b into d. fp8: sizes that it takes codes in, as they
 * are; *decode: codes, as bf16 (exact). */
static bool library_formats(const TargetCaps *c, DType a, DType b, DType d, bool scales, bool fp8,
                            bool *decode) {
  const bool codes = dtype_is_fp8(a) && dtype_is_fp8(b), low = d == MPCC_BF16 || d == MPCC_F16;
  *decode = codes && !(c->library_fp8 && fp8);
  if (codes != scales || (codes && !low && d != MPCC_F32))
    return false;
  if (codes && !*decode)
    return a == MPCC_E4M3 || b == MPCC_E4M3;
  if (codes)
    return d != MPCC_F16;
  if (a != b)
    return false;
  return d == a ? a == MPCC_F64 || a == MPCC_F32 || low
                : d == MPCC_F32 && (a == MPCC_BF16 || a == MPCC_F16);
}

bool product_is_tf32(const Fuse *F) {
  const Op *op = F->op;
  if (!F->o->caps->tf32 || op->nin < 2)
    return false;
  for (int i = 0; i < 2; i++) {
    const Value *v = op->in[i];
    while (op_info(v->def->code)->kind == OK_VIEW)
      v = v->def->in[0];
    const Scalar *s = v->def->scalar;
    if (v->type->dt != MPCC_F32 || !s || s->stmt[s->result].prim != PR_TF32)
      return false;
  }
  return true;
}

/* s0 s1, as what a library multiplies sums by. */
static View *joint_scale(Fuse *F, View *s0, View *s1) {
  Node *n = node_rows(F, 0, NULL);
  n->label = "scale";
  const int s = node_op2(F, n, PR_MUL, node_load(F, n, s0), node_load(F, n, s1));
  return view_whole(F, node_store(F, n, s, MPCC_F32, ~0u));
}

static void add_operand(Fuse *F, Node *n, const View *v) {
  Access at = v->at;
  if (view_elems(v) == 1)
    memset(at.stride, 0, sizeof at.stride);
  node_in(F, n, v->buf, &at);
}

/* a [rows..., K] times b [N, K], plus bias [N] or times s0 s1 (NULL: without), by a library: one
 * group without statements. False: it does not take it. A library rounds once, behind the bias. */
static bool by_library(Fuse *F, View *a, View *b, View *bias, View *s0, View *s1) {
  const TargetCaps *c = F->o->caps;
  const Type *ty = F->op->out[0]->type;
  bool decode;
  if (!c->library_products || fuse_failed(F) || a->rank < 1 || b->rank != 2 || !a->buf || !b->buf ||
      !library_formats(c, a->dt, b->dt, ty->dt, s0 != NULL,
                       b->dim[0] % 16 == 0 && b->dim[1] % 16 == 0, &decode))
    return false;
  const int64_t k = b->dim[1], cols = b->dim[0], dim[2] = {view_elems(a) / k, cols};
  const bool codes = s0 && !decode;
  if ((s0 && (!is_number(s0, MPCC_F32) || !is_number(s1, MPCC_F32))) ||
      (bias && (!bias->buf || bias->dt != ty->dt || bias->rank != 1 || bias->at.stride[0] != 1)))
    return false;
  a = as_matrix(F, a, decode ? MPCC_BF16 : a->dt, codes);
  b = as_matrix(F, b, decode ? MPCC_BF16 : b->dt, codes);
  View *alpha = decode ? joint_scale(F, s0, s1) : NULL;
  Node *n = node_create(F, NODE_GEMM, 2, dim);
  n->rigid = true;
  n->ncol = 1;
  n->label = F->op->out[0] ? op_info(F->op->code)->name : "gemm";
  const Access of_b = {.offset = b->at.offset, .stride = {b->at.stride[1], b->at.stride[0]}};
  node_in(F, n, a->buf, &a->at);
  node_in(F, n, b->buf, &of_b);
  if (bias) {
    const Access of_bias = {.offset = bias->at.offset, .stride = {0, 1}};
    node_in(F, n, bias->buf, &of_bias);
  }
  if (alpha)
    add_operand(F, n, alpha);
  if (s0 && codes) {
    add_operand(F, n, s0);
    add_operand(F, n, s1);
  }
  node_attr_i(F, n, "k", k);
  if (a->dt == MPCC_F32 && product_is_tf32(F))
    node_attr_b(F, n, "tf32", true);
  node_attr(F, n, attr_s(F->b, "with", bias ? "bias" : alpha ? "alpha" : s0 ? "scales" : ""));
  const Access at = {.stride = {cols, 1}};
  set_result_buf(F, 0, node_store_at(F, n, 0, ty, &at));
  return true;
}

/* Whether v, and what it is a view of, are read once each. */
static bool read_once(const Fuse *F, const Value *v) {
  for (;; v = v->def->in[0]) {
    int n = 0;
    for (int i = 0; i < F->f->nop; i++)
      for (int k = 0; k < F->f->op[i]->nin; k++)
        n += F->f->op[i]->in[k] == v;
    if (n != 1)
      return false;
    if (op_info(v->def->code)->kind != OK_VIEW)
      return true;
  }
}

bool product_takes_bias(Fuse *F, const Op *op) {
  const Type *ty = op->out[0]->type;
  for (int i = 0; i < 2 && op->code == OP_add && !F->o->strict; i++) {
    View *y = view_of(F, op->in[i]), *b = view_of(F, op->in[1 - i]);
    Node *n = y->buf ? y->buf->def : NULL;
    const Attr *with = n && n->kind == NODE_GEMM ? attr_find(n->attr, n->nattr, "with") : NULL;
    if (!with || strcmp(with->u.s, "scales") || !b->buf || b->buf->def || b->rank != 1 ||
        b->dim[0] != n->dim[1] || b->at.stride[0] != 1 || b->dt != ty->dt || y->dt != ty->dt ||
        !dtype_is_half(ty->dt) || y->rank < 1 || y->dim[y->rank - 1] != n->dim[1] ||
        !view_contiguous(y) || view_elems(y) != type_elems(y->buf->type) ||
        view_elems(y) != type_elems(ty) || !read_once(F, op->in[i]))
      continue;
    const Access at = {.offset = b->at.offset, .stride = {0, 1}};
    node_in(F, n, b->buf, &at);
    for (int k = 0; k < n->nattr; k++)
      if (&n->attr[k] == with)
        n->attr[k] = attr_s(F->b, "with", "scales_bias");
    n->label = "qlinear+bias";
    set_result(F, 0, y);
    return true;
  }
  return false;
}

bool product_takes_sum(Fuse *F, const Op *op) {
  const Type *ty = op->out[0]->type;
  for (int i = 0; i < 2 && op->code == OP_add && dtype_bytes(ty->dt) >= 4; i++) {
    const View *y = view_of(F, op->in[i]), *c = view_of(F, op->in[1 - i]);
    Node *n = y->buf ? y->buf->def : NULL;
    const Attr *with = n && n->kind == NODE_GEMM ? attr_find(n->attr, n->nattr, "with") : NULL;
    if (!with || *with->u.s || !c->buf || y->dt != ty->dt || c->dt != ty->dt ||
        !view_contiguous(y) || !view_contiguous(c) || y->at.offset ||
        view_elems(y) != type_elems(y->buf->type) || view_elems(y) != type_elems(ty) ||
        view_elems(c) != type_elems(ty) || !read_once(F, op->in[i]))
      continue;
    if (c->buf->def && c->buf->def->seq >= n->seq) /* made behind n, perhaps of what n makes */
      continue;
    const Access at = {.offset = c->at.offset, .stride = {n->dim[1], 1}};
    node_in(F, n, c->buf, &at);
    for (int k = 0; k < n->nattr; k++)
      if (&n->attr[k] == with)
        n->attr[k] = attr_s(F->b, "with", "sum");
    n->label = str_fmt(builder_strings(F->b), "%s+add", n->label);
    set_result(F, 0, (View *)y);
    return true;
  }
  return false;
}

/* ---- ops ------------------------------------------------------------------------------------- */

static void finish(Fuse *F, Node *n, int r) {
  const Type *ty = F->op->out[0]->type;
  Buf *b = node_store(F, n, r, ty->dt, ~0u);
  set_result_buf(F, 0, b);
}

void group_linear(Fuse *F, const Op *op) {
  int s;
  if (by_library(F, operand(F, 0), operand(F, 1), op->nin > 2 ? operand(F, 2) : NULL, NULL, NULL))
    return;
  Node *n = product(F, operand(F, 0), operand(F, 1), &s);
  if (op->nin > 2) {
    n->label = "linear+bias";
    s = node_op2(F, n, PR_ADD, s, node_load_as(F, n, operand(F, 2), node_reg(n, s)));
  }
  finish(F, n, s);
}

static View *transposed(Fuse *F, View *x, bool yes) {
  static const int64_t swap[2] = {1, 0};
  return yes ? view_permuted(F, x, swap) : x;
}

/* Factors of a matmul as [M, K] and [N, K]. */
static void lay_factors(Fuse *F, const Op *op, View **a, View **b) {
  *a = transposed(F, *a, op_int(op, "ta", 0));
  *b = transposed(F, *b, !op_int(op, "tb", 0));
}

void group_matmul(Fuse *F, const Op *op) {
  int s;
  View *a = operand(F, 0), *b = operand(F, 1);
  lay_factors(F, op, &a, &b);
  if (by_library(F, a, b, NULL, NULL, NULL))
    return;
  Node *n = product(F, a, b, &s);
  finish(F, n, s);
}

/* [B..., M, K] or [B..., K, N] with an axis of 1 at `gap`. */
static View *with_axis(Fuse *F, const View *x, int gap) {
  View *v = ARENA_NEW(F->a, View);
  *v = *x;
  v->rank = x->rank + 1;
  for (int i = x->rank; i > gap; i--) {
    v->dim[i] = v->dim[i - 1];
    v->at.stride[i] = v->at.stride[i - 1];
  }
  v->dim[gap] = 1;
  v->at.stride[gap] = 0;
  return v;
}

/* x with elements that are neighbours along one of its last two axes, copied if need be. */
static View *with_neighbours(Fuse *F, View *x) {
  const int64_t *s = x->at.stride + x->rank - 2;
  return x->buf && (s[0] == 1 || s[1] == 1) ? x : view_copied(F, x, x->dt);
}

/* Products of matrices large enough for tiles of registers, by a target that reads the second
 * factor as it lies. False: by sums of rows. */
static bool bmm_by_tiles(Fuse *F, const Op *op, View *a, View *b) {
  enum { LEAST = 4, LEAST_WORK = 1024 };
  const Type *ty = op->out[0]->type;
  int r = ty->rank, s;
  int64_t m = ty->dim[r - 2], n = ty->dim[r - 1], k = op->in[0]->type->dim[r - 1];
  if (!F->o->caps->raw_factors || m < LEAST || n < LEAST || m * n < (LEAST_WORK + k - 1) / k)
    return false;
  a = with_neighbours(F, a);
  b = with_neighbours(F, b);
  bool wide = a->dt == MPCC_F64 || b->dt == MPCC_F64;
  Access of_a = a->at, of_b = b->at;
  of_a.stride[r - 1] = of_b.stride[r - 2] = of_b.stride[r - 1] = 0;
  Node *node = product_node(F, NODE_PRODUCT, r, ty->dim, a->buf, &of_a, b->buf,
                            wide ? MPCC_F64 : MPCC_F32, k, &s);
  if (fuse_failed(F))
    return true;
  node->in[1].at = of_b;
  node->kstride = a->at.stride[r - 1];
  node_attr(F, node, attr_ints(F->b, "factor", 2, b->at.stride + r - 2));
  finish(F, node, s);
  return true;
}

/* Else no tile of a factor serves several products, so these are sums of rows: of [B..., M, N, K]
 * over the columns where b lies along K, else of [B..., M, K, N] over the K rows of a panel. */
void group_bmm(Fuse *F, const Op *op) {
  const Type *ty = op->out[0]->type;
  View *a = operand(F, 0), *b = operand(F, 1);
  int r = ty->rank;
  if (bmm_by_tiles(F, op, a, b))
    return;
  DType reg = reg_join(reg_join(a->dt, b->dt), MPCC_F32);
  int64_t dim[MAX_DIMS], k = op->in[0]->type->dim[r - 1], n = ty->dim[r - 1], perm[MAX_DIMS];
  bool along = b->at.stride[r - 2] == 1 && k > 1;
  if (!along && b->at.stride[r - 1] != 1 && n > 1)
    b = view_copied(F, b, b->dt);
  if (along && a->at.stride[r - 1] != 1)
    a = view_copied(F, a, a->dt);
  for (int i = 0; i <= r; i++) {
    dim[i] = i < r ? ty->dim[i] : 0;
    perm[i] = i < r - 1 ? i : i == r - 1 ? r : r - 1;
  }
  dim[r - 1] = along ? n : k;
  dim[r] = along ? k : n;
  Node *node = node_rigid(F, r + 1, dim, 1);
  a = with_axis(F, a, along ? r - 1 : r);
  b = with_axis(F, b, r - 2); /* [B..., 1, K, N] */
  if (along)
    b = view_permuted(F, b, perm);
  int s = node_op2(F, node, PR_MUL, node_load_as(F, node, a, reg), node_load_as(F, node, b, reg));
  if (along)
    set_result_buf(F, 0, node_store(F, node, node_op1(F, node, PR_RSUM, s), ty->dt, (1u << r) - 1));
  else
    set_result_buf(F, 0, node_panel_sums(F, node, s, ty, k));
}

/* The padded matrix of dim[0] x dim[1] that codes were cut from. */
static View *uncut(Fuse *F, View *x, const int64_t *dim) {
  View *v = ARENA_NEW(F->a, View);
  *v = *x;
  bool there = x->buf && x->rank == 2 && !x->at.offset && x->at.stride[0] == dim[1] &&
               x->at.stride[1] == 1 && type_elems(x->buf->type) == dim[0] * dim[1];
  if (!there)
    fuse_error(F, F->op, "codes of blocks that are cut off must lie in the whole matrix");
  v->dim[0] = dim[0];
  v->dim[1] = dim[1];
  return v;
}

/* Operand `codes` times the block scales in operand `scales`. Merged with the quantization where
 * that is near, so that the codes need no memory. */
static View *decoded(Fuse *F, const Op *op, int codes, int scales) {
  const Type *ty = op->in[codes]->type, *blocks = op->in[scales]->type;
  const int64_t *block = op_attr(op, "block")->u.ints.v + 2 * codes;
  int64_t cols = ty->dim[ty->rank - 1], rows = type_elems(ty) / cols;
  int64_t across = blocks->dim[1], down = blocks->dim[0];
  const int64_t dim[4] = {down, block[0], across, block[1]}, of[4] = {down, 1, across, 1};
  const int64_t whole[2] = {down * block[0], across * block[1]};
  bool cut = whole[0] != rows || whole[1] != cols;
  View *x = cut ? uncut(F, operand(F, codes), whole) : operand(F, codes), *tiled, *s, *out;
  if (!view_reshaped(F, x, 4, dim, &tiled))
    view_reshaped(F, view_materialize(F, x), 4, dim, &tiled);
  if (!view_reshaped(F, operand(F, scales), 4, of, &s))
    view_reshaped(F, view_materialize(F, operand(F, scales)), 4, of, &s);
  Node *n = node_rows(F, 4, dim);
  n->label = "decode";
  int v =
      node_op2(F, n, PR_MUL, node_load_as(F, n, tiled, MPCC_F32), node_load_as(F, n, s, MPCC_F32));
  DType dt = (DType)op_int(op, "decoded", MPCC_F32);
  View *all = view_whole(F, node_store(F, n, v, dt, ~0u));
  view_reshaped(F, all, cut ? 2 : ty->rank, cut ? whole : ty->dim, &out);
  if (cut) {
    out->dim[0] = rows;
    out->dim[1] = cols;
  }
  return out;
}

/* A factor of a quantized product: codes, or what they decode to when they have block scales. */
static View *factor(Fuse *F, const Op *op, int i) {
  return op_attr(op, "block") ? decoded(F, op, i, 4 + i) : operand(F, i);
}

static bool is_one(const View *v) {
  return !v->buf && v->imm == 1;
}

/* Products of codes are multiplied by both inverse scales. */
static int unscaled(Fuse *F, Node *n, int s) {
  if (is_one(operand(F, 2)) && is_one(operand(F, 3)))
    return s;
  DType reg = node_reg(n, s);
  int scale = node_op2(F, n, PR_MUL, node_load_as(F, n, operand(F, 2), reg),
                       node_load_as(F, n, operand(F, 3), reg));
  return node_op2(F, n, PR_MUL, s, scale);
}

static bool scaled_by_library(Fuse *F, View *a, View *b) {
  View *s0 = operand(F, 2), *s1 = operand(F, 3);
  const bool none = is_one(s0) && is_one(s1);
  return by_library(F, a, b, NULL, none ? NULL : s0, none ? NULL : s1);
}

void group_qmatmul(Fuse *F, const Op *op) {
  int s;
  View *a = factor(F, op, 0), *b = factor(F, op, 1);
  lay_factors(F, op, &a, &b);
  if (scaled_by_library(F, a, b))
    return;
  Node *n = product(F, a, b, &s);
  finish(F, n, unscaled(F, n, s));
}

void group_qlinear(Fuse *F, const Op *op) {
  int s;
  View *a = factor(F, op, 0), *b = factor(F, op, 1);
  if (scaled_by_library(F, a, b))
    return;
  Node *n = product(F, a, b, &s);
  finish(F, n, unscaled(F, n, s));
}
