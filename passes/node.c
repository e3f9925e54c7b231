/* Building the bodies of groups in the making: operands, statements, results. */
#include <stdio.h>
#include <string.h>

#include "passes/fuse.h"

void fuse_error(Fuse *F, const Op *op, const char *fmt, ...) {
  char text[512];
  if (fuse_failed(F))
    return; /* what follows from it is no news */
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  diag_error(F->d, op ? op->loc : (Loc){0}, 601, "%s%s%s", op ? op_info(op->code)->name : "fuse",
             ": ", text);
  if (F->status == MPCC_OK)
    F->status = MPCC_ERR_INPUT;
}

bool fuse_failed(Fuse *F) {
  if (F->status == MPCC_OK && (arena_failed(F->a) || builder_failed(F->b)))
    F->status = MPCC_ERR_NOMEM;
  return F->status != MPCC_OK;
}

void *fuse_grow(Fuse *F, void *items, int n, int *cap, size_t item_bytes) {
  if (n < *cap)
    return items;
  int bigger = *cap ? 2 * *cap : 8;
  void *fresh = arena_array(F->a, (size_t)bigger, item_bytes);
  if (arena_failed(F->a)) {
    /* The shared scratch area is small: never write past what fits there. */
    F->status = MPCC_ERR_NOMEM;
    return items ? items : fresh;
  }
  if (n && items)
    memcpy(fresh, items, (size_t)n * item_bytes);
  *cap = bigger;
  return fresh;
}

/* What the reader is told about an op: its name, or, outside of the model's layers, what the pass
 * that made it says it is for ("optimizer: AdamW" -> "optimizer"). */
static Str label_of(Fuse *F, const Op *op) {
  if (!op)
    return "copy";
  if (op->why && !(op->layer && *op->layer)) {
    size_t n = strcspn(op->why, ":");
    if (n > 0 && n <= 36)
      return str_intern(builder_strings(F->b), op->why, n);
  }
  return op_info(op->code)->name;
}

void node_hold(Node *n, const Op *op) {
  int at = n->nheld;
  while (at > 0 && n->held[at - 1]->index >= op->index)
    if (n->held[--at] == op)
      return;
  if (n->nheld == NODE_HELD)
    return;
  memmove(n->held + at + 1, n->held + at, (size_t)(n->nheld - at) * sizeof *n->held);
  n->held[at] = op;
  n->nheld++;
}

Str node_others(Fuse *F, const Node *n) {
  Text text = {0};
  for (int i = 0; i < n->nheld; i++) {
    const Op *op = n->held[i];
    bool told = n->layer && !strcmp(op->layer, n->layer);
    for (int k = 0; k < i; k++)
      told |= n->held[k]->layer == op->layer && n->held[k]->code == op->code;
    if (told || !op->loc.file)
      continue;
    text_printf(&text, "%s%s of %s at %u:%u", text.len ? ", " : "", label_of(F, op), op->layer,
                op->loc.line, op->loc.col);
  }
  Str others = text.len ? str_intern(builder_strings(F->b), text.data, text.len) : "";
  if (text.failed)
    F->status = MPCC_ERR_NOMEM;
  text_fini(&text);
  return others;
}

Node *node_create(Fuse *F, NodeKind kind, int ndim, const int64_t *dim) {
  Node *n = ARENA_NEW(F->a, Node);
  n->kind = kind;
  n->ndim = ndim;
  for (int i = 0; i < ndim; i++)
    n->dim[i] = dim[i];
  n->op = F->op;
  n->nop = 1;
  n->layer = F->op ? F->op->layer : NULL;
  n->label = label_of(F, F->op);
  if (F->op && F->op->layer && *F->op->layer)
    node_hold(n, F->op);
  n->recompute = F->op && op_int(F->op, "recompute", 0);
  n->backward = F->op && F->op->index > F->loss;
  n->region = F->op && !n->backward ? recompute_region(F->m, F->op->layer) : 0;
  F->node = fuse_grow(F, F->node, F->nnode, &F->cnode, sizeof *F->node);
  n->seq = F->nnode;
  if (F->status == MPCC_OK)
    F->node[F->nnode++] = n;
  return n;
}

Node *node_rows(Fuse *F, int ndim, const int64_t *dim) {
  return node_create(F, NODE_ROWS, ndim, dim);
}

Node *node_rigid(Fuse *F, int ndim, const int64_t *dim, int ncol) {
  Node *n = node_create(F, NODE_ROWS, ndim, dim);
  n->rigid = true;
  n->ncol = ncol;
  return n;
}

Buf *buf_create(Fuse *F, const Type *type) {
  Buf *b = ARENA_NEW(F->a, Buf);
  b->type = type;
  F->buf = fuse_grow(F, F->buf, F->nbuf, &F->cbuf, sizeof *F->buf);
  if (F->status == MPCC_OK)
    F->buf[F->nbuf++] = b;
  return b;
}

static bool access_equal(const Access *a, const Access *b, int ndim) {
  return a->offset == b->offset && !memcmp(a->stride, b->stride, (size_t)ndim * sizeof *a->stride);
}

int node_in(Fuse *F, Node *n, Buf *buf, const Access *at) {
  for (int i = node_is_product(n) ? 2 : 0; i < n->nin; i++)
    if (n->in[i].buf == buf && access_equal(&n->in[i].at, at, n->ndim))
      return i;
  n->in = fuse_grow(F, n->in, n->nin, &n->cin, sizeof *n->in);
  if (F->status != MPCC_OK)
    return 0;
  n->in[n->nin] = (NodeIn){buf, *at};
  return n->nin++;
}

int node_stmt(Fuse *F, Node *n, Stmt s) {
  n->stmt = fuse_grow(F, n->stmt, n->nstmt, &n->cstmt, sizeof *n->stmt);
  if (F->status != MPCC_OK)
    return 0;
  n->stmt[n->nstmt] = s;
  return n->nstmt++;
}

DType reg_of(DType storage) {
  if (storage == MPCC_F64)
    return MPCC_F64;
  if (dtype_is_float(storage))
    return MPCC_F32;
  return storage == MPCC_B1 ? MPCC_B1 : MPCC_I64;
}

DType reg_join(DType a, DType b) {
  return a == MPCC_F64 || b == MPCC_F64 ? MPCC_F64 : MPCC_F32;
}

static Stmt stmt_of(Prim p, DType dt, int a, int b, int c, int d) {
  return (Stmt){.prim = (uint8_t)p, .dt = (uint8_t)dt, .arg = {a, b, c, d}, .ref = -1};
}

int node_const(Fuse *F, Node *n, DType reg, double v) {
  Stmt s = stmt_of(PR_CONST, reg, -1, -1, -1, -1);
  s.imm = v;
  return node_stmt(F, n, s);
}

DType node_reg(const Node *n, int s) {
  return s >= 0 && s < n->nstmt ? (DType)n->stmt[s].dt : MPCC_F32;
}

int node_op1(Fuse *F, Node *n, Prim p, int a) {
  DType dt = p == PR_ISFINITE || p == PR_NOT ? MPCC_B1 : node_reg(n, a);
  return node_stmt(F, n, stmt_of(p, dt, a, -1, -1, -1));
}

int node_op2(Fuse *F, Node *n, Prim p, int a, int b) {
  bool boolean = p == PR_LT || p == PR_LE || p == PR_EQ || p == PR_NE || p == PR_AND || p == PR_OR;
  return node_stmt(F, n, stmt_of(p, boolean ? MPCC_B1 : node_reg(n, a), a, b, -1, -1));
}

int node_select(Fuse *F, Node *n, int c, int a, int b) {
  return node_stmt(F, n, stmt_of(PR_SELECT, node_reg(n, a), c, a, b, -1));
}

int node_cvt(Fuse *F, Node *n, int s, DType reg) {
  DType from = node_reg(n, s);
  if (from == reg)
    return s;
  if (reg == MPCC_B1)
    return node_op2(F, n, PR_NE, s, node_const(F, n, from, 0));
  if (s < n->nstmt && n->stmt[s].prim == PR_CONST)
    return node_const(F, n, reg, reg == MPCC_F32 ? (double)(float)n->stmt[s].imm : n->stmt[s].imm);
  return node_stmt(F, n, stmt_of(PR_CVT, reg, s, -1, -1, -1));
}

int node_round(Fuse *F, Node *n, int s, DType rd) {
  Stmt r = stmt_of(PR_ROUND, node_reg(n, s), s, -1, -1, -1);
  r.rd = (uint8_t)rd;
  return node_stmt(F, n, r);
}

int node_load(Fuse *F, Node *n, const View *v) {
  if (!v->buf)
    return node_const(F, n, reg_of(v->dt), v->imm);
  const View *w = view_broadcast(F, v, n->ndim, n->dim);
  Stmt s = stmt_of(PR_LOAD, reg_of(v->dt), -1, -1, -1, -1);
  s.ref = node_in(F, n, v->buf, &w->at);
  return node_stmt(F, n, s);
}

int node_load_as(Fuse *F, Node *n, const View *v, DType reg) {
  return node_cvt(F, n, node_load(F, n, v), reg);
}

int node_param(Fuse *F, Node *n, int64_t v) {
  n->param = fuse_grow(F, n->param, n->nparam, &n->cparam, sizeof *n->param);
  if (F->status != MPCC_OK)
    return 0;
  n->param[n->nparam] = v;
  Stmt s = stmt_of(PR_PARAM, MPCC_I64, -1, -1, -1, -1);
  s.ref = n->nparam++;
  return node_stmt(F, n, s);
}

int node_lin(Fuse *F, Node *n, const Access *at) {
  n->lin = fuse_grow(F, n->lin, n->nlin, &n->clin, sizeof *n->lin);
  if (F->status != MPCC_OK)
    return 0;
  n->lin[n->nlin] = *at;
  Stmt s = stmt_of(PR_INDEX, MPCC_I64, -1, -1, -1, -1);
  s.ref = n->nlin++;
  return node_stmt(F, n, s);
}

int node_index(Fuse *F, Node *n, int dim) {
  Access at = {0};
  at.stride[dim] = 1;
  return node_lin(F, n, &at);
}

static Access row_major(int ndim, const int64_t *dim, unsigned keep) {
  Access at = {0};
  int64_t stride = 1;
  for (int i = ndim - 1; i >= 0; i--)
    if (keep >> i & 1) {
      at.stride[i] = stride;
      stride *= dim[i];
    }
  return at;
}

int node_element(Fuse *F, Node *n) {
  Access at = row_major(n->ndim, n->dim, ~0u);
  return node_lin(F, n, &at);
}

int node_rand(Fuse *F, Node *n, const View *seed, const View *step, int element, int64_t stream) {
  int a = node_load(F, n, seed), b = node_load(F, n, step), s = node_param(F, n, stream);
  return node_stmt(F, n, stmt_of(PR_RAND, MPCC_F32, a, b, element, s));
}

int node_scalar(Fuse *F, Node *n, const Scalar *s, const int *arg, DType reg) {
  int *map = ARENA_ARRAY(F->a, int, s->nstmt + 1);
  if (arena_failed(F->a))
    return 0;
  for (int i = 0; i < s->nstmt; i++) {
    const Stmt *from = &s->stmt[i];
    if (from->prim == PR_ARG) {
      map[i] = arg[from->ref];
      continue;
    }
    Stmt copy = *from;
    copy.level = 0;
    if (copy.dt == MPCC_F32 || copy.dt == MPCC_F64)
      copy.dt = (uint8_t)reg;
    if (copy.prim == PR_CONST && reg == MPCC_F32 && copy.dt == MPCC_F32)
      copy.imm = (double)(float)copy.imm;
    for (int k = 0; k < STMT_ARGS; k++)
      copy.arg[k] = from->arg[k] >= 0 ? map[from->arg[k]] : -1;
    map[i] = node_stmt(F, n, copy);
  }
  return map[s->result];
}

Buf *node_store_at(Fuse *F, Node *n, int stmt, const Type *type, const Access *at) {
  Buf *b = buf_create(F, type);
  n->out = fuse_grow(F, n->out, n->nout, &n->cout, sizeof *n->out);
  if (F->status != MPCC_OK)
    return b;
  b->def = n;
  b->out = n->nout;
  /* Column sums have no other use than their store, which converts too. From f64 to less than f32
   * the value is rounded before it changes registers, which alone would round twice [N1]. */
  if (node_has_body(n))
    if (stmt < n->nstmt && n->stmt[stmt].prim != PR_CSUM) {
      if (node_reg(n, stmt) == MPCC_F64 && reg_of(type->dt) == MPCC_F32 && type->dt != MPCC_F32)
        stmt = node_round(F, n, stmt, type->dt);
      stmt = node_cvt(F, n, stmt, reg_of(type->dt));
    }
  n->out[n->nout++] = (NodeOut){.buf = b, .at = *at, .stmt = stmt};
  return b;
}

Buf *node_store(Fuse *F, Node *n, int stmt, DType dt, unsigned keep) {
  int64_t dim[MAX_DIMS];
  int rank = 0;
  for (int i = 0; i < n->ndim; i++)
    if (keep >> i & 1)
      dim[rank++] = n->dim[i];
  Access at = row_major(n->ndim, n->dim, keep);
  return node_store_at(F, n, stmt, type_get(builder_types(F->b), dt, rank, dim), &at);
}

void node_attr(Fuse *F, Node *n, Attr attr) {
  n->attr = fuse_grow(F, n->attr, n->nattr, &n->cattr, sizeof *n->attr);
  if (F->status == MPCC_OK)
    n->attr[n->nattr++] = attr;
}

void node_attr_i(Fuse *F, Node *n, const char *key, int64_t v) {
  node_attr(F, n, attr_i(F->b, key, v));
}

void node_attr_f(Fuse *F, Node *n, const char *key, double v) {
  node_attr(F, n, attr_f(F->b, key, v));
}

void node_attr_b(Fuse *F, Node *n, const char *key, bool v) {
  node_attr(F, n, attr_b(F->b, key, v));
}

void node_attr_dt(Fuse *F, Node *n, const char *key, DType v) {
  node_attr(F, n, attr_dt(F->b, key, v));
}

static Prim row_form(Prim p) {
  return p == PR_ASUM ? PR_RSUM : p == PR_AMAX ? PR_RMAX : PR_RMIN;
}

View *node_total(Fuse *F, Node *n, Prim prim, int stmt, DType dt, double divisor) {
  DType reg = node_reg(n, stmt);
  int64_t extent[1] = {DIM_PANELS};
  int partial = node_stmt(F, n, stmt_of(prim, reg, stmt, -1, -1, -1));
  Buf *part =
      node_store_at(F, n, partial, type_get(builder_types(F->b), reg, 0, NULL), &(Access){0});
  if (F->status != MPCC_OK)
    return view_whole(F, part);
  n->out[part->out].part = PART_ALL;
  n->out[part->out].pstride = 1;

  Node *c = node_rigid(F, 1, extent, 1);
  c->panels = part;
  c->recompute = n->recompute;
  Stmt load = stmt_of(PR_LOAD, reg, -1, -1, -1, -1);
  load.ref = node_in(F, c, part, &(Access){.stride = {1}});
  int s = node_stmt(F, c, stmt_of(row_form(prim), reg, node_stmt(F, c, load), -1, -1, -1));
  if (divisor != 1)
    s = node_op2(F, c, PR_DIV, s, node_const(F, c, reg, divisor));
  return view_whole(F, node_store(F, c, s, dt, 0));
}

View *node_rows_total(Fuse *F, Node *n, int stmt, DType dt) {
  int part = n->nout;
  View *v = node_total(F, n, PR_ASUM, stmt, dt, 1);
  if (F->status == MPCC_OK)
    n->out[part].rows = true;
  return v;
}

/* Largest divisor of n up to limit that is a multiple of 16, else n. */
static int64_t column_block(int64_t n, int64_t limit) {
  for (int64_t d = limit - limit % 16; d >= 64; d -= 16)
    if (n % d == 0)
      return d;
  return n;
}

/* Below this much work one panel takes all rows and no combining node is needed. */
enum { ONE_PANEL_ELEMS = 1 << 14 };

Buf *node_panel_sums(Fuse *F, Node *n, int stmt, const Type *type, int64_t rows) {
  int64_t cols = 1;
  unsigned keep = 0;
  for (int i = n->ndim - n->ncol; i < n->ndim; i++)
    cols *= n->dim[i], keep |= 1u << i;
  Access at = row_major(n->ndim, n->dim, keep);
  int sum = node_stmt(F, n, stmt_of(PR_CSUM, node_reg(n, stmt), stmt, -1, -1, -1));
  Buf *b = node_store_at(F, n, sum, type, &at);
  if (F->status != MPCC_OK)
    return b;
  n->fix = rows;
  n->out[b->out].part = PART_COL;
  n->out[b->out].final = true;
  n->out[b->out].pstride = cols;
  return b;
}

Buf *node_column_sum(Fuse *F, Node *n, int stmt, const Type *type) {
  DType reg = node_reg(n, stmt);
  int64_t rows = 1, cols = 1;
  int nrow = n->ndim - n->ncol;
  unsigned keep = 0;
  for (int i = 0; i < n->ndim; i++)
    if (i < nrow)
      rows *= n->dim[i];
    else
      cols *= n->dim[i], keep |= 1u << i;
  int partial = node_stmt(F, n, stmt_of(PR_CSUM, reg, stmt, -1, -1, -1));
  Access at = row_major(n->ndim, n->dim, keep);
  bool whole = n->fix == rows || (!n->fix && rows * cols <= ONE_PANEL_ELEMS);
  if (whole) {
    Buf *b = node_store_at(F, n, partial, type, &at);
    if (F->status != MPCC_OK)
      return b;
    n->fix = rows;
    n->out[b->out].part = PART_COL;
    n->out[b->out].final = true;
    return b;
  }
  Buf *part = node_store_at(F, n, partial, type_get(builder_types(F->b), reg, 1, &cols), &at);
  if (F->status != MPCC_OK)
    return part;
  n->out[part->out].part = PART_COL;
  n->out[part->out].pstride = cols;

  int64_t block = column_block(cols, 256);
  int64_t dim[3] = {cols / block, DIM_PANELS, block};
  Node *c = node_rigid(F, 3, dim, 1);
  c->panels = part;
  c->fix = DIM_PANELS;
  c->recompute = n->recompute;
  Stmt load = stmt_of(PR_LOAD, reg, -1, -1, -1, -1);
  load.ref = node_in(F, c, part, &(Access){.stride = {block, cols, 1}});
  int s = node_stmt(F, c, stmt_of(PR_CSUM, reg, node_stmt(F, c, load), -1, -1, -1));
  Buf *b = node_store_at(F, c, s, type, &(Access){.stride = {0, 0, 1}});
  if (F->status != MPCC_OK)
    return b;
  c->out[b->out].part = PART_COL;
  c->out[b->out].final = true;
  c->out[b->out].pstride = block;
  return b;
}
