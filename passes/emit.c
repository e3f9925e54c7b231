/* A finished node becomes a group op: columns and panels are chosen, levels found, element numbers
 * written out as index arithmetic, partial results get their number of panels. */
#include <string.h>

#include "passes/fuse.h"

enum {
  COLUMN_AIM = 4096, /* elements of one row when flat memory is cut into rows */
  COLUMN_MOST = 65536,
  TILES_AIM = 8,
  PANELS_MOST = 64,      /* where a panel leaves a partial result */
  SMALL_BYTES = 32 << 10 /* not worth more than one tile */
};

static const char *kind_text(NodeKind k) {
  static const char *const text[] = {"rows",      "product",        "conv",  "pack",
                                     "gemm",      "attention", "attention_grad", "index",
                                     "scatter",   "move",      "window"};
  return text[k];
}

/* ---- columns --------------------------------------------------------------------------------- */

static void form_insert(Access *at, int d, int64_t stride) {
  memmove(at->stride + d + 1, at->stride + d, (size_t)(MAX_DIMS - 1 - d) * sizeof *at->stride);
  at->stride[d] = stride;
}

/* A new dimension in front of d: outer part of dimension d when block > 0, else extent 1. */
static void insert_dim(Node *n, int d, int64_t block) {
  for (int i = 0; i < n->nin; i++)
    form_insert(&n->in[i].at, d, block ? n->in[i].at.stride[d] * block : 0);
  for (int i = 0; i < n->nout; i++)
    form_insert(&n->out[i].at, d, block ? n->out[i].at.stride[d] * block : 0);
  for (int i = 0; i < n->nlin; i++)
    form_insert(&n->lin[i], d, block ? n->lin[i].stride[d] * block : 0);
  memmove(n->dim + d + 1, n->dim + d, (size_t)(n->ndim - d) * sizeof *n->dim);
  n->ndim++;
  n->dim[d] = block ? n->dim[d + 1] / block : 1;
  if (block)
    n->dim[d + 1] = block;
}

/* Row length for flat memory of n elements: a divisor of n, a multiple of whole vectors if there is
 * one. Depends on n alone. */
static int64_t row_length(int64_t n) {
  if (n <= COLUMN_AIM)
    return n;
  for (int multiple = 64; multiple >= 1; multiple /= 4)
    for (int64_t d = COLUMN_AIM; d >= 256; d -= multiple)
      if (n % d == 0)
        return d;
  for (int64_t d = COLUMN_AIM; d <= COLUMN_MOST && d <= n; d++)
    if (n % d == 0)
      return d;
  return n;
}

/* Has a result, or an operand, whose neighbours in memory are elements of neighbouring rows. */
static bool turned(const Node *n, int nrow) {
  for (int i = 0; i < n->nout + n->nin; i++) {
    const Access *at = i < n->nout ? &n->out[i].at : &n->in[i - n->nout].at;
    if (nrow > 0 && at->stride[nrow - 1] == 1 && at->stride[n->ndim - 1] > 1 &&
        (i >= n->nout || !n->out[i].part))
      return true;
  }
  return false;
}

/* A row and a column dimension at least. */
static void choose_columns(Fuse *F, Node *n) {
  if (n->ndim == MAX_DIMS && n->rigid && (n->ncol == 0 || n->ncol == n->ndim)) {
    fuse_error(F, n->op, "has too many dimensions that do not lie side by side");
    return;
  }
  if (node_is_product(n)) {
    if (n->ndim == 1)
      insert_dim(n, 0, 0);
    n->ncol = 1;
    return;
  }
  if (n->rigid) {
    if (n->ncol == 0) {
      insert_dim(n, n->ndim, 0);
      n->ncol = 1;
    }
    if (n->ncol == n->ndim)
      insert_dim(n, 0, 0);
    return;
  }
  if (n->ndim == 0)
    insert_dim(n, 0, 0);
  int64_t last = n->dim[n->ndim - 1], row = row_length(last);
  /* Rows that turn stay beside the columns: blocks of both are transposed. */
  if (row < last && n->ndim < MAX_DIMS && !turned(n, n->ndim - 1))
    insert_dim(n, n->ndim - 1, row);
  else if (n->ndim == 1)
    insert_dim(n, 0, 0);
  n->ncol = 1;
}

static int64_t extent(const Node *n, int first, int end) {
  int64_t all = 1;
  for (int d = first; d < end; d++)
    all *= n->dim[d];
  return all;
}

static bool varies(const Node *n, const Access *at, int first, int end) {
  for (int d = first; d < end; d++)
    if (at->stride[d] && n->dim[d] > 1)
      return true;
  return false;
}

static int64_t choose_panel(const Node *n, const TargetCaps *caps) {
  int nrow = n->ndim - n->ncol;
  int64_t rows = extent(n, 0, nrow), cols = extent(n, nrow, n->ndim), row_bytes = 0;
  bool partial = false;
  for (int i = 0; i < n->nin; i++)
    row_bytes += (int64_t)dtype_bytes(n->in[i].buf->type->dt) *
                 (varies(n, &n->in[i].at, nrow, n->ndim) ? cols : 1);
  for (int i = 0; i < n->nout; i++) {
    row_bytes += (int64_t)dtype_bytes(n->out[i].buf->type->dt) *
                 (varies(n, &n->out[i].at, nrow, n->ndim) ? cols : 1);
    partial |= n->out[i].part != PART_NONE;
  }
  if (n->fix)
    return n->fix;
  int64_t aim = caps->panel_bytes_rows > 0 ? caps->panel_bytes_rows : 64 << 10;
  int64_t panel = row_bytes > 0 ? aim / row_bytes : rows;
  if (panel < 1)
    panel = 1;
  int64_t share = (rows + TILES_AIM - 1) / TILES_AIM;
  if (rows * row_bytes >= SMALL_BYTES && panel > share)
    panel = share;
  const int most = caps->partials ? caps->partials : PANELS_MOST;
  if (partial && panel < (rows + most - 1) / most)
    panel = (rows + most - 1) / most;
  if (caps->turned_rows && turned(n, nrow))
    panel = (panel + caps->turned_rows - 1) / caps->turned_rows * caps->turned_rows;
  return panel < rows ? panel : rows;
}

/* ---- statements ------------------------------------------------------------------------------ */

typedef struct {
  Fuse *F;
  Node *n;
  int nrow;
  Stmt *stmt;
  int nstmt, cap;
  int *map;
} Emit;

/* A product's statements are all element by element. */
static bool is_flat(const Emit *e) {
  return node_is_product(e->n);
}

static int put(Emit *e, Stmt s) {
  if (is_flat(e))
    s.level = LV_ELEM;
  e->stmt = fuse_grow(e->F, e->stmt, e->nstmt, &e->cap, sizeof *e->stmt);
  if (e->F->status != MPCC_OK)
    return 0;
  e->stmt[e->nstmt] = s;
  return e->nstmt++;
}

static int put_op(Emit *e, Prim p, DType dt, int a, int b) {
  Stmt s = {.prim = (uint8_t)p, .dt = (uint8_t)dt, .arg = {a, b, -1, -1}, .ref = -1};
  s.level = e->stmt[a].level > e->stmt[b].level ? e->stmt[a].level : e->stmt[b].level;
  return put(e, s);
}

static int put_const(Emit *e, DType dt, double v) {
  for (int i = 0; i < e->nstmt; i++)
    if (e->stmt[i].prim == PR_CONST && e->stmt[i].dt == dt &&
        (e->stmt[i].level == LV_ALL || is_flat(e)) && !memcmp(&e->stmt[i].imm, &v, sizeof v))
      return i;
  return put(e, (Stmt){.prim = PR_CONST,
                       .dt = (uint8_t)dt,
                       .level = LV_ALL,
                       .arg = {-1, -1, -1, -1},
                       .ref = -1,
                       .imm = v});
}

static int put_index(Emit *e, int d) {
  int level = d < e->nrow ? LV_ROW : LV_ELEM;
  for (int i = 0; i < e->nstmt; i++)
    if (e->stmt[i].prim == PR_INDEX && e->stmt[i].ref == d)
      return i;
  return put(e, (Stmt){.prim = PR_INDEX,
                       .dt = MPCC_I64,
                       .level = (uint8_t)level,
                       .arg = {-1, -1, -1, -1},
                       .ref = d});
}

/* offset + sum of stride * index, rows first so that most of it stays out of the inner loop. */
static int put_form(Emit *e, const Access *at) {
  int sum = -1;
  for (int d = 0; d < e->n->ndim; d++) {
    if (!at->stride[d] || e->n->dim[d] <= 1)
      continue;
    int term = put_index(e, d);
    if (at->stride[d] != 1)
      term = put_op(e, PR_MUL, MPCC_I64, term, put_const(e, MPCC_I64, (double)at->stride[d]));
    sum = sum < 0 ? term : put_op(e, PR_ADD, MPCC_I64, sum, term);
  }
  if (sum < 0)
    return put_const(e, MPCC_I64, (double)at->offset);
  return at->offset ? put_op(e, PR_ADD, MPCC_I64, sum, put_const(e, MPCC_I64, (double)at->offset))
                    : sum;
}

/* Statement s at a wider level: leaves are repeated there, other values pass through an identity.
 */
static int widen(Emit *e, int s, int level) {
  Stmt st = e->stmt[s];
  if (st.level >= level)
    return s;
  if (st.prim == PR_CONST || st.prim == PR_PARAM || st.prim == PR_LOAD) {
    st.level = (uint8_t)level;
    return put(e, st);
  }
  Prim p = st.dt == MPCC_B1 ? PR_OR : PR_MAX; /* max(x, x) is x for every x, NaN and -0 included */
  int other = s;
  if (st.dt == MPCC_I64) {
    p = PR_ADD;
    other = put_const(e, MPCC_I64, 0);
  }
  Stmt id = {.prim = (uint8_t)p,
             .dt = st.dt,
             .level = (uint8_t)level,
             .arg = {s, other, -1, -1},
             .ref = -1};
  return put(e, id);
}

static void put_stmt(Emit *e, int s) {
  const Node *n = e->n;
  Stmt st = n->stmt[s];
  if (st.prim == PR_INDEX) {
    e->map[s] = put_form(e, &n->lin[st.ref]);
    return;
  }
  int level = LV_ALL;
  for (int k = 0; k < STMT_ARGS; k++)
    if (st.arg[k] >= 0) {
      st.arg[k] = e->map[st.arg[k]];
      if (e->stmt[st.arg[k]].level > level)
        level = e->stmt[st.arg[k]].level;
    }
  switch ((Prim)st.prim) {
  case PR_LOAD:
    level = varies(n, &n->in[st.ref].at, e->nrow, n->ndim) ? LV_ELEM
            : varies(n, &n->in[st.ref].at, 0, e->nrow)     ? LV_ROW
                                                           : LV_ALL;
    break;
  case PR_ACC:
    level = LV_ELEM;
    break;
  case PR_RSUM:
  case PR_RMAX:
  case PR_RMIN:
    st.arg[0] = widen(e, st.arg[0], LV_ELEM);
    level = LV_ROW;
    break;
  case PR_CSUM:
    st.arg[0] = widen(e, st.arg[0], LV_ELEM);
    level = LV_COL;
    break;
  case PR_ASUM:
  case PR_AMAX:
  case PR_AMIN: {
    bool rows = false;
    for (int i = 0; i < n->nout; i++)
      rows |= n->out[i].stmt == s && n->out[i].rows;
    st.arg[0] = widen(e, st.arg[0], rows ? LV_ROW : LV_ELEM);
    level = LV_ALL;
    break;
  }
  default:
    break;
  }
  st.level = (uint8_t)(node_is_product(n) ? LV_ELEM : level);
  e->map[s] = put(e, st);
}

static void put_stores(Emit *e) {
  const Node *n = e->n;
  for (int i = 0; i < n->nout; i++) {
    int s = e->map[n->out[i].stmt];
    if (!n->out[i].part) {
      bool columns = varies(n, &n->out[i].at, e->nrow, n->ndim);
      s = widen(e, s, columns || node_is_product(n) ? LV_ELEM : LV_ROW);
      if (!columns && e->stmt[s].level == LV_ELEM && extent(n, e->nrow, n->ndim) > 1)
        fuse_error(e->F, n->op, "column values meet in one element");
    }
    put(e, (Stmt){.prim = PR_STORE,
                  .dt = e->stmt[s].dt,
                  .level = e->stmt[s].level,
                  .arg = {s, -1, -1, -1},
                  .ref = i});
  }
}

/* Statements that were repeated at a wider level may have lost their last use. */
static void drop_unused(Emit *e) {
  bool *live = ARENA_ARRAY(e->F->a, bool, e->nstmt + 1);
  int *map = ARENA_ARRAY(e->F->a, int, e->nstmt + 1), n = 0;
  if (arena_failed(e->F->a))
    return;
  for (int s = e->nstmt - 1; s >= 0; s--) {
    live[s] |= e->stmt[s].prim == PR_STORE;
    for (int k = 0; live[s] && k < STMT_ARGS; k++)
      if (e->stmt[s].arg[k] >= 0)
        live[e->stmt[s].arg[k]] = true;
  }
  for (int s = 0; s < e->nstmt; s++) {
    if (!live[s])
      continue;
    Stmt st = e->stmt[s];
    for (int k = 0; k < STMT_ARGS; k++)
      if (st.arg[k] >= 0)
        st.arg[k] = map[st.arg[k]];
    map[s] = n;
    e->stmt[n++] = st;
  }
  e->nstmt = n;
}

/* ---- the op ---------------------------------------------------------------------------------- */

static void resolve_panels(Fuse *F, Node *n) {
  int64_t count = n->panels ? n->panels->def->npanel : 0;
  bool open = n->fix == DIM_PANELS;
  for (int d = 0; d < n->ndim; d++)
    open |= n->dim[d] == DIM_PANELS;
  if (open && count <= 0) {
    fuse_error(F, n->op, "combines partial results before they are made");
    return;
  }
  for (int d = 0; d < n->ndim; d++)
    if (n->dim[d] == DIM_PANELS)
      n->dim[d] = count;
  if (n->fix == DIM_PANELS)
    n->fix = count;
}

static const Type *result_type(Fuse *F, const Node *n, const NodeOut *o) {
  const Type *ty = o->buf->type;
  if (!o->part || o->final)
    return ty;
  int64_t dim[2] = {n->npanel, ty->rank ? ty->dim[0] : 1};
  return type_get(builder_types(F->b), ty->dt, 1 + ty->rank, dim);
}

static void fill_body(Fuse *F, Node *n, Body *body) {
  const int room = n->nstmt + n->nout + 4;
  Emit e = {.F = F, .n = n, .nrow = n->ndim - n->ncol, .cap = room};
  e.stmt = ARENA_ARRAY(F->a, Stmt, room);
  e.map = ARENA_ARRAY(F->a, int, n->nstmt + 1);
  if (arena_failed(F->a))
    return;
  if (node_has_body(n)) {
    for (int s = 0; s < n->nstmt && F->status == MPCC_OK; s++)
      put_stmt(&e, s);
    if (F->status == MPCC_OK)
      put_stores(&e);
    if (F->status == MPCC_OK)
      drop_unused(&e);
  }
  body->ndim = n->ndim;
  body->ncol = n->ncol;
  memcpy(body->dim, n->dim, sizeof body->dim);
  body->nin = n->nin;
  body->nout = n->nout;
  body->nparam = n->nparam;
  body->in = ARENA_ARRAY(F->a, Access, n->nin + 1);
  body->out = ARENA_ARRAY(F->a, Access, n->nout + 1);
  body->param = n->param;
  body->nstmt = e.nstmt;
  body->stmt = e.stmt;
  if (arena_failed(F->a))
    return;
  for (int i = 0; i < n->nin; i++)
    body->in[i] = n->in[i].at;
  for (int i = 0; i < n->nout; i++) {
    body->out[i] = n->out[i].at;
    if (n->out[i].part)
      body->out[i].stride[0] = n->out[i].pstride;
  }
  if (n->kind == NODE_PRODUCT)
    body->in[0].stride[n->ndim - 1] = n->kstride;
}

/* Extents of 1 have no stride, so that equal kernels compare equal. Attention has axes of keys behind
 * those of one query or of one element of a head: there only samples and heads are the same of all. */
static void clear_unit_strides(Node *n) {
  bool attention = n->kind == NODE_ATTENTION || n->kind == NODE_ATTENTION_GRAD;
  for (int d = 0; d < (attention ? 2 : n->ndim); d++)
    if (n->dim[d] == 1) {
      for (int i = 0; i < n->nin && n->kind != NODE_WINDOW && n->kind != NODE_GEMM; i++)
        n->in[i].at.stride[d] = 0; /* those two read more places than they make */
      for (int i = 0; i < n->nout; i++)
        n->out[i].at.stride[d] = 0;
    }
}

static Value *buf_value(Fuse *F, Buf *b, const Node *n) {
  if (!b->value)
    fuse_error(F, n->op, "reads a value that is not made yet");
  return b->value;
}

static void emit_scan(Fuse *F, Node *n) {
  Value **in = ARENA_ARRAY(F->a, Value *, n->nin + 1);
  if (arena_failed(F->a))
    return;
  for (int i = 0; i < n->nin; i++)
    if (!(in[i] = buf_value(F, n->in[i].buf, n)))
      return;
  node_attr(F, n, attr_i(F->b, "frame", -1)); /* plan knows it */
  build_at(F->b, n->op ? n->op->loc : (Loc){0}, n->layer, NULL);
  Op *op = build_op(F->b, OP_scan, n->nin, in, n->nattr, n->attr);
  for (int i = 0; i < n->nout; i++)
    n->out[i].buf->value = op->out[i];
}

void emit_node(Fuse *F, Node *n) {
  if (n->kind == NODE_SCAN) {
    emit_scan(F, n);
    return;
  }
  resolve_panels(F, n);
  if (F->status != MPCC_OK)
    return;
  Body body = {0};
  if (node_has_body(n))
    choose_columns(F, n);
  if (n->kind == NODE_INDEX || n->kind == NODE_SCATTER || n->kind == NODE_MOVE ||
      n->kind == NODE_WINDOW || n->kind == NODE_GEMM)
    n->ncol = 1;
  if (n->kind == NODE_ROWS || n->kind == NODE_INDEX || n->kind == NODE_MOVE ||
      n->kind == NODE_WINDOW) {
    body.panel_rows = choose_panel(n, F->o->caps);
    int64_t rows = extent(n, 0, n->ndim - n->ncol);
    n->npanel = body.panel_rows > 0 ? (rows + body.panel_rows - 1) / body.panel_rows : 0;
  }
  clear_unit_strides(n);
  fill_body(F, n, &body);
  Value **in = ARENA_ARRAY(F->a, Value *, n->nin + 1);
  const Type **types = ARENA_ARRAY(F->a, const Type *, n->nout + 1);
  if (F->status != MPCC_OK || arena_failed(F->a))
    return;
  for (int i = 0; i < n->nin; i++) {
    in[i] = buf_value(F, n->in[i].buf, n);
    if (!in[i])
      return;
  }
  for (int i = 0; i < n->nout; i++)
    types[i] = result_type(F, n, &n->out[i]);
  if (attr_find(F->m->attr, F->m->nattr, "recompute.0")) { /* for `again` */
    if (n->backward)
      node_attr_b(F, n, "backward", true);
    if (n->region)
      node_attr_i(F, n, "region", n->region);
  }
  node_attr(F, n, attr_s(F->b, "kind", kind_text(n->kind)));
  node_attr(F, n, attr_s(F->b, "label", n->label));
  Str others = node_others(F, n);
  if (*others)
    node_attr(F, n, attr_s(F->b, "others", others));
  build_at(F->b, n->op ? n->op->loc : (Loc){0}, n->layer, NULL);
  Op *op = build_op_typed(F->b, OP_group, n->nin, in, n->nattr, n->attr, n->nout, types, &body);
  for (int i = 0; i < n->nout; i++)
    n->out[i].buf->value = op->out[i];
}
