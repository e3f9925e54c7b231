/* Group bodies are what docs/groups.md says: shape of the iteration, levels and register types of
 * statements, use of reductions, and every access inside its operand. */
#include "ir/verify.h"

#include <string.h>

/* Smallest and largest address an access can reach; false when it overflows. */
typedef struct {
  int64_t lo, hi;
  bool ok;
} Reach;

static Reach reach_start(int64_t offset) {
  return (Reach){offset, offset, true};
}

/* Index i of stride `stride` runs over [0, n). */
static void reach_add(Reach *r, int64_t stride, int64_t n) {
  int64_t far;
  if (__builtin_mul_overflow(stride, n - 1, &far) ||
      __builtin_add_overflow(far < 0 ? r->lo : r->hi, far, far < 0 ? &r->lo : &r->hi))
    r->ok = false;
}

static void reach_check(Verify *v, Reach r, const Type *ty, const char *what, int i) {
  if (!r.ok || r.lo < 0 || r.hi >= type_elems(ty))
    verify_broken(v, "%s %d reaches elements %lld to %lld of %lld", what, i, (long long)r.lo,
                  (long long)r.hi, (long long)type_elems(ty));
}

/* Access over dims [first, end) of the body. */
static Reach reach_dims(const Body *b, const Access *a, int first, int end) {
  Reach r = reach_start(a->offset);
  for (int d = first; d < end; d++)
    reach_add(&r, a->stride[d], b->dim[d]);
  return r;
}

static void in_bounds(Verify *v, int k, int first, int end) {
  const Body *b = v->op->body;
  reach_check(v, reach_dims(b, &b->in[k], first, end), v->op->in[k]->type, "operand", k);
}

static void out_bounds(Verify *v, int k, int first, int end) {
  const Body *b = v->op->body;
  reach_check(v, reach_dims(b, &b->out[k], first, end), v->op->out[k]->type, "result", k);
}

static int64_t product_of(const int64_t *dim, int n) {
  int64_t all = 1;
  for (int d = 0; d < n; d++)
    all *= dim[d];
  return all;
}

/* ---- statements ------------------------------------------------------------------------------ */

static bool has_rows(int level) {
  return level == LV_ROW || level == LV_ELEM;
}

static bool has_cols(int level) {
  return level == LV_COL || level == LV_ELEM;
}

/* A value of level `from` can be read by a statement of level `to`. */
static bool level_fits(int from, int to) {
  return (!has_rows(from) || has_rows(to)) && (!has_cols(from) || has_cols(to));
}

static bool is_float(int dt) {
  return dt == MPCC_F32 || dt == MPCC_F64;
}

/* Register that a load of storage dtype d gives. */
static DType register_of(DType d) {
  if (d == MPCC_F64 || d == MPCC_B1)
    return d;
  return dtype_is_float(d) ? MPCC_F32 : MPCC_I64;
}

static bool partial(Prim p) {
  return p >= PR_CSUM && p <= PR_AMIN;
}

static bool strides_zero(const Body *b, const Access *a, int first, int end) {
  for (int d = first; d < end; d++)
    if (a->stride[d] && b->dim[d] > 1)
      return false;
  return true;
}

static const char *check_leaf(Verify *v, const Stmt *s, bool product) {
  const Body *b = v->op->body;
  int nrow = b->ndim - b->ncol;
  switch ((Prim)s->prim) {
  case PR_CONST:
    return s->dt == MPCC_F32 || s->dt == MPCC_F64 || s->dt == MPCC_I64 || s->dt == MPCC_B1
               ? NULL
               : "a constant is no register type";
  case PR_LOAD:
    if (s->ref < 0 || s->ref >= b->nin)
      return "load of an operand that is not there";
    if (s->dt != register_of(v->op->in[s->ref]->type->dt))
      return "load into the wrong register type";
    if (!has_rows(s->level) && !strides_zero(b, &b->in[s->ref], 0, nrow))
      return "load varies over rows, its level does not";
    if (!has_cols(s->level) && !strides_zero(b, &b->in[s->ref], nrow, b->ndim))
      return "load varies over columns, its level does not";
    if (product && s->ref < 2)
      return "load of a factor of the product";
    in_bounds(v, s->ref, 0, b->ndim);
    return NULL;
  case PR_ACC:
    return product && is_float(s->dt) ? NULL : "acc outside a product";
  case PR_INDEX:
    if (s->ref < 0 || s->ref >= b->ndim || s->dt != MPCC_I64)
      return "index of a dimension that is not there";
    return (s->ref < nrow ? has_rows(s->level) : has_cols(s->level))
               ? NULL
               : "index varies more than its level";
  case PR_PARAM:
    return s->ref >= 0 && s->ref < b->nparam && s->dt == MPCC_I64 ? NULL
                                                                  : "parameter that is not there";
  default:
    return "argument of an elementwise body";
  }
}

static const char *check_reduction(const Stmt *s, const Stmt *x) {
  Prim p = (Prim)s->prim;
  bool rows = p == PR_RSUM || p == PR_RMAX || p == PR_RMIN;
  int level = rows ? LV_ROW : p == PR_CSUM ? LV_COL : LV_ALL;
  if (s->level != level)
    return "reduction has the wrong level";
  if (!(x->level == LV_ELEM || (level == LV_ALL && x->level == LV_ROW)))
    return "reduction of a value that does not vary enough";
  return s->dt == x->dt && is_float(s->dt) ? NULL : "reduction changes its register type";
}

/* Register types of a pointwise statement with arguments of types t[0..n). */
static const char *check_registers(const Stmt *s, const int *t, int n) {
  switch ((Prim)s->prim) {
  case PR_SELECT:
    return t[0] == MPCC_B1 && t[1] == s->dt && t[2] == s->dt ? NULL : "select mixes register types";
  case PR_LT:
  case PR_LE:
  case PR_EQ:
  case PR_NE:
    return s->dt == MPCC_B1 && t[0] == t[1] ? NULL : "comparison mixes register types";
  case PR_ISFINITE:
    return s->dt == MPCC_B1 && is_float(t[0]) ? NULL : "isfinite of no float";
  case PR_ROUND:
    return s->rd < MPCC_DTYPE_COUNT && dtype_is_float((DType)s->rd) && is_float(s->dt) &&
                   t[0] == s->dt
               ? NULL
               : "round mixes register types";
  case PR_CVT:
    return is_float(s->dt) || s->dt == MPCC_I64 ? NULL : "conversion to no register type";
  case PR_RAND:
    for (int k = 0; k < n; k++)
      if (t[k] != MPCC_I64)
        return "random number of no integers";
    return s->dt == MPCC_F32 ? NULL : "random number is f32";
  default:
    for (int k = 0; k < n; k++)
      if (t[k] != s->dt)
        return "arguments and result have different register types";
    if (s->prim == PR_AND || s->prim == PR_OR || s->prim == PR_NOT)
      return s->dt == MPCC_B1 ? NULL : "logic on no truth values";
    return is_float(s->dt) || (s->dt == MPCC_I64 && s->prim <= PR_MAX) ? NULL
                                                                       : "no such arithmetic";
  }
}

static const char *check_store(Verify *v, const Stmt *s) {
  const Body *b = v->op->body;
  const Stmt *x = &b->stmt[s->arg[0]];
  int nrow = b->ndim - b->ncol;
  if (s->ref < 0 || s->ref >= b->nout)
    return "store to a result that is not there";
  DType to = register_of(v->op->out[s->ref]->type->dt);
  if (!(to == x->dt || (is_float(to) && is_float(x->dt))))
    return "store converts between register types";
  if (s->level != x->level || s->dt != x->dt)
    return "store differs from what it stores";
  const Access *a = &b->out[s->ref];
  Reach r = reach_start(a->offset);
  if (has_cols(x->level))
    r = reach_dims(b, a, nrow, b->ndim);
  if (has_rows(x->level))
    for (int d = 0; d < nrow; d++)
      reach_add(&r, a->stride[d], b->dim[d]);
  else if (nrow) {
    int64_t rows = product_of(b->dim, nrow), panel = b->panel_rows > 0 ? b->panel_rows : rows;
    reach_add(&r, a->stride[0], rows / panel + (rows % panel != 0));
  }
  reach_check(v, r, v->op->out[s->ref]->type, "result", s->ref);
  return NULL;
}

static const char *check_stmt(Verify *v, int i, bool product) {
  const Body *b = v->op->body;
  const Stmt *s = &b->stmt[i];
  if (s->prim >= PR_COUNT || s->level > LV_ELEM || s->dt >= MPCC_DTYPE_COUNT)
    return "unknown primitive, level or register type";
  int n = prim_args((Prim)s->prim), types[STMT_ARGS] = {0};
  for (int k = 0; k < STMT_ARGS; k++) {
    if (k >= n) {
      if (s->arg[k] != -1)
        return "too many arguments";
      continue;
    }
    if (s->arg[k] < 0 || s->arg[k] >= i || b->stmt[s->arg[k]].prim == PR_STORE)
      return "argument is not a value before it";
    types[k] = b->stmt[s->arg[k]].dt;
    if (partial((Prim)b->stmt[s->arg[k]].prim) && s->prim != PR_STORE)
      return "reduction over a panel is used before it is stored";
  }
  if (product && s->level != LV_ELEM)
    return "a product's statements are element by element";
  if (s->prim == PR_STORE)
    return check_store(v, s);
  if (n == 0)
    return check_leaf(v, s, product);
  if (s->prim >= PR_RSUM && s->prim <= PR_AMIN)
    return product ? "reduction in a product" : check_reduction(s, &b->stmt[s->arg[0]]);
  for (int k = 0; k < n; k++)
    if (!level_fits(b->stmt[s->arg[k]].level, s->level))
      return "argument varies more than the statement";
  return check_registers(s, types, n);
}

static void check_stmts(Verify *v, bool product) {
  const Body *b = v->op->body;
  for (int i = 0; i < b->nstmt; i++) {
    const char *wrong = check_stmt(v, i, product);
    if (wrong) {
      verify_broken(v, "statement %d: %s", i, wrong);
      return;
    }
  }
  for (int k = 0; k < b->nout; k++) {
    bool stored = false;
    for (int i = 0; i < b->nstmt; i++)
      stored |= b->stmt[i].prim == PR_STORE && b->stmt[i].ref == k;
    if (!stored)
      verify_broken(v, "result %d is never stored", k);
  }
}

/* ---- kinds ----------------------------------------------------------------------------------- */

static void check_rows(Verify *v) {
  if (v->op->body->panel_rows < 1)
    verify_broken(v, "panel of %lld rows", (long long)v->op->body->panel_rows);
  else
    check_stmts(v, false);
}

/* Packed operand of n by k elements. */
static bool packed_fits(const Type *ty, int64_t n, int64_t k) {
  return ty->rank == 4 && ty->dim[0] == (n - 1) / ty->dim[2] + 1 &&
         ty->dim[1] == (k - 1) / ty->dim[3] + 1;
}

static void check_product(Verify *v) {
  const Body *b = v->op->body;
  int64_t k = op_int(v->op, "k", 0);
  if (b->nin < 2 || b->ndim < 1 || b->ncol != 1 || k < 1) {
    verify_broken(v, "a product has two factors, one column dimension and attribute k");
    return;
  }
  Reach r = reach_dims(b, &b->in[0], 0, b->ndim - 1);
  reach_add(&r, b->in[0].stride[b->ndim - 1], k);
  reach_check(v, r, v->op->in[0]->type, "operand", 0);
  const Attr *factor = op_attr(v->op, "factor");
  if (factor && (factor->kind != AT_INTS || factor->u.ints.n != 2)) {
    verify_broken(v, "attribute factor has the strides of k and of columns");
    return;
  }
  if (factor) {
    Reach f = reach_dims(b, &b->in[1], 0, b->ndim - 1);
    reach_add(&f, factor->u.ints.v[0], k);
    reach_add(&f, factor->u.ints.v[1], b->dim[b->ndim - 1]);
    reach_check(v, f, v->op->in[1]->type, "operand", 1);
  } else if (!packed_fits(v->op->in[1]->type, b->dim[b->ndim - 1], k) || b->in[1].offset) {
    verify_broken(v, "operand 1 is not packed for this product");
  }
  check_stmts(v, true);
}

/* Every place that taps read inside the input must be an element of operand 0, and the strides of
 * operand 0 must number the rows of the product. */
static void check_conv(Verify *v) {
  const Body *b = v->op->body;
  ConvGroup g;
  int64_t k = op_int(v->op, "k", 0);
  if (b->nin < 2 || b->ndim < 1 || b->ncol != 1 || !conv_group(v->op, &g)) {
    verify_broken(v, "a convolution has two factors, one column dimension and a window");
    return;
  }
  int64_t rows = g.wgrad ? g.columns * g.parts : g.rows;
  if (k != (g.wgrad ? g.rows / g.parts : g.columns) || product_of(b->dim, b->ndim - 1) != rows) {
    verify_broken(v, "rows and k are not those of the window");
    return;
  }
  if (g.depth && b->dim[b->ndim - 1] != g.channels) {
    verify_broken(v, "columns of a depthwise convolution are its channels");
    return;
  }
  Access number = b->in[0];
  number.offset = 0;
  Reach m = reach_dims(b, &number, 0, b->ndim - 1);
  if (!m.ok || m.lo != 0 || m.hi != rows - 1)
    verify_broken(v, "operand 0 numbers rows %lld to %lld of %lld", (long long)m.lo,
                  (long long)m.hi, (long long)rows);
  Reach r = reach_start(b->in[0].offset);
  reach_add(&r, g.stride[0], g.batch);
  for (int i = 0; i < g.w.nd; i++)
    reach_add(&r, g.stride[1 + i], g.x[i]);
  reach_add(&r, 1, g.channels);
  reach_check(v, r, v->op->in[0]->type, "operand", 0);
  if (g.wgrad || g.depth) {
    Reach f = reach_start(b->in[1].offset);
    reach_add(&f, g.factor[0], k * g.parts);
    reach_add(&f, g.factor[1], b->dim[b->ndim - 1]);
    reach_check(v, f, v->op->in[1]->type, "operand", 1);
  } else if (!packed_fits(v->op->in[1]->type, b->dim[b->ndim - 1], k) || b->in[1].offset)
    verify_broken(v, "operand 1 is not packed for this product");
  check_stmts(v, true);
}

static void check_pack(Verify *v) {
  const Body *b = v->op->body;
  if (b->nin != 1 || b->nout != 1 || b->ndim != 2 || b->nstmt) {
    verify_broken(v, "pack has one operand, one result, dimensions n and k, no statements");
    return;
  }
  in_bounds(v, 0, 0, 2);
  if (!packed_fits(v->op->out[0]->type, b->dim[0], b->dim[1]) || b->out[0].offset)
    verify_broken(v, "result is not of the packed shape");
  const Attr *round = op_attr(v->op, "round");
  if (round && (round->kind != AT_DTYPE || !dtype_is_half((DType)round->u.i)))
    verify_broken(v, "attribute round names a 16-bit format");
}

/* Strides of operand 0 are (row, k), of operand 1 (k, column). */
static void check_gemm(Verify *v) {
  const Body *b = v->op->body;
  const int64_t k = op_int(v->op, "k", 0);
  const char *with = op_str(v->op, "with", "");
  const int nin = !strcmp(with, "")              ? 2
                  : !strcmp(with, "scales")      ? 4
                  : !strcmp(with, "scales_bias") ? 5
                                                 : 3;
  if (b->nin != nin || b->nout != 1 || b->ndim != 2 || b->nstmt || k < 1) {
    verify_broken(v,
                  "gemm has two factors and what `with` says, rows and columns, and attribute k");
    return;
  }
  for (int i = 0; i < 2; i++) {
    Reach r = reach_start(b->in[i].offset);
    reach_add(&r, b->in[i].stride[i ? 0 : 1], k);
    reach_add(&r, b->in[i].stride[i ? 1 : 0], b->dim[i]);
    reach_check(v, r, v->op->in[i]->type, "operand", i);
  }
  for (int i = 2; i < b->nin; i++)
    in_bounds(v, i, 0, 2);
  out_bounds(v, 0, 0, 2);
  if (!strcmp(with, "sum") && (b->in[2].stride[0] != b->dim[1] || b->in[2].stride[1] != 1 ||
                               v->op->in[2]->type->dt != v->op->out[0]->type->dt))
    verify_broken(v, "what gemm adds is dense and of the dtype of its result");
}

/* Operand over [N, H, length, D]. */
static void check_heads(Verify *v, const Access *a, const Type *ty, int64_t heads, int64_t length,
                        const char *what, int i) {
  const Body *b = v->op->body;
  Reach r = reach_start(a->offset);
  for (int d = 0; d < 4; d++)
    reach_add(&r, a->stride[d], d == 1 ? heads : d == 2 ? length : b->dim[d]);
  reach_check(v, r, ty, what, i);
}

/* q: place of q among the operands. */
static void check_attention(Verify *v, int q, int nout) {
  const Op *op = v->op;
  const Body *b = op->body;
  int64_t keys = op_int(op, "keys", 0);
  int random = op_float(op, "dropout_p", 0) > 0 ? 2 : 0, mask = op_int(op, "mask", 0) != 0;
  int scales = !op_attr(op, "p_dtype") ? 0 : q ? 4 : 3;
  int64_t heads = b->ndim > 1 ? b->dim[1] : 1, kv = op_int(op, "kv_heads", heads);
  const Attr *joined = q ? op_attr(op, "joined") : NULL;
  const bool is_joined = joined && joined->kind == AT_INTS && joined->u.ints.n == 10;
  if (b->ndim != 4 || b->nin != q + 3 + mask + random + scales || kv < 1 || heads % kv ||
      (joined && !is_joined) || b->nout != (joined ? 1 : nout) || keys < 1 || b->nstmt ||
      (random && !b->nparam)) {
    verify_broken(v, "operands, results or attributes of attention are incomplete");
    return;
  }
  for (int k = 0; k < q + 3; k++) {
    if (q == 3 && k == 2) /* lse */
      in_bounds(v, k, 0, 3);
    else
      check_heads(v, &b->in[k], op->in[k]->type, k > q ? kv : heads, k > q ? keys : b->dim[2],
                  "operand", k);
  }
  if (mask) {
    Reach r = reach_dims(b, &b->in[q + 3], 0, 3);
    reach_add(&r, b->in[q + 3].stride[3], keys);
    reach_check(v, r, op->in[q + 3]->type, "operand", q + 3);
  }
  for (int k = q + 3 + mask; k < b->nin; k++)
    in_bounds(v, k, 0, 0);
  for (int k = 0; k < nout; k++) {
    if (q == 0 && k == 1)
      out_bounds(v, k, 0, 3);
    else {
      int value = k;
      const Access at = q ? attention_result(op, k, &value) : b->out[k];
      check_heads(v, &at, op->out[value]->type, k ? kv : heads, k ? keys : b->dim[2], "result", k);
    }
  }
}

static void check_attention_forward(Verify *v) {
  check_attention(v, 0, 2);
}

static void check_attention_grad(Verify *v) {
  check_attention(v, 3, 3);
}

static void check_index(Verify *v) {
  const Body *b = v->op->body;
  if (b->nin != 2 || b->nout != 1 || b->ndim < 1 || b->nstmt ||
      op_int(v->op, "row_stride", 0) < 1) {
    verify_broken(v, "index has ids, a table, one result and attribute row_stride");
    return;
  }
  in_bounds(v, 0, 0, b->ndim - 1);
  in_bounds(v, 1, b->ndim - 1, b->ndim);
  out_bounds(v, 0, 0, b->ndim);
}

static void check_scatter(Verify *v) {
  const Op *op = v->op;
  const Body *b = op->body;
  int64_t rows = op_int(op, "rows", 0);
  if (b->nin < 2 || b->nin > 3 || b->nout != 1 || b->ndim < 1 || b->nstmt || rows < 1) {
    verify_broken(v, "scatter has ids, rows to add (, a base), one result and attribute rows");
    return;
  }
  int64_t size;
  const Type *r = op->out[0]->type;
  if (__builtin_mul_overflow(rows, b->dim[b->ndim - 1], &size) || size != type_elems(r) ||
      (b->nin > 2 && (op->in[2]->type->dt != r->dt || type_elems(op->in[2]->type) != size)))
    verify_broken(v, "result or base is not rows x columns");
  in_bounds(v, 0, 0, b->ndim - 1);
  in_bounds(v, 1, 0, b->ndim);
}

static void check_move(Verify *v) {
  const Op *op = v->op;
  const Body *b = op->body;
  const Attr *starts = op_attr(op, "starts"), *sizes = op_attr(op, "sizes");
  int64_t axis = op_int(op, "axis", -1);
  if (b->nin < 1 || b->nout != 1 || b->nstmt || axis < 0 || axis >= b->ndim || !starts || !sizes ||
      starts->kind != AT_INTS || sizes->kind != AT_INTS || starts->u.ints.n != b->nin ||
      sizes->u.ints.n != b->nin) {
    verify_broken(v, "move has attributes axis, starts and sizes, one per operand");
    return;
  }
  out_bounds(v, 0, 0, b->ndim);
  for (int k = 0; k < b->nin; k++) {
    int64_t start = starts->u.ints.v[k], size = sizes->u.ints.v[k];
    if (start < 0 || size < 1 || size > b->dim[axis] || start > b->dim[axis] - size) {
      verify_broken(v, "operand %d lies outside the axis", k);
      return;
    }
    Reach r = reach_start(b->in[k].offset);
    for (int d = 0; d < b->ndim; d++)
      reach_add(&r, b->in[k].stride[d], d == axis ? size : b->dim[d]);
    reach_check(v, r, op->in[k]->type, "operand", k);
  }
}

/* dims [N, axes..., C]; operand 0 (and the taps of max_grad) over the extents that are read. */
static void check_window(Verify *v) {
  const Op *op = v->op;
  const Body *b = op->body;
  WindowMode mode = window_mode(op);
  int nd = window_axes(op);
  bool turned = op_int(op, "turned", 0);
  int nin = mode == WINDOW_MAX_GRAD ? 2 : 1;
  const Attr *from = op_attr(op, turned ? "positions" : "extents");
  const Attr *to = op_attr(op, turned ? "extents" : "positions");
  if (mode == WINDOW_MODES || !nd || b->ndim != nd + 2 || b->nin != nin || b->nstmt ||
      b->nout < 1 || b->nout > (mode == WINDOW_MAX ? 2 : 1) || b->panel_rows < 1) {
    verify_broken(v, "a window has a mode, its tables and one or two operands");
    return;
  }
  for (int i = 0; i < nd; i++)
    if (b->dim[1 + i] != to->u.ints.v[i])
      verify_broken(v, "axis %d of %lld makes %lld", i, (long long)to->u.ints.v[i],
                    (long long)b->dim[1 + i]);
  for (int k = 0; k < b->nin; k++) {
    Reach r = reach_start(b->in[k].offset);
    for (int d = 0; d < b->ndim; d++)
      reach_add(&r, b->in[k].stride[d], d == 0 || d > nd ? b->dim[d] : from->u.ints.v[d - 1]);
    reach_check(v, r, op->in[k]->type, "operand", k);
  }
  for (int k = 0; k < b->nout; k++)
    out_bounds(v, k, 0, b->ndim);
}

void verify_group(Verify *v) {
  static const struct {
    const char *kind;
    void (*check)(Verify *v);
  } kinds[] = {
      {"rows", check_rows},
      {"product", check_product},
      {"conv", check_conv},
      {"pack", check_pack},
      {"gemm", check_gemm},
      {"attention", check_attention_forward},
      {"attention_grad", check_attention_grad},
      {"index", check_index},
      {"scatter", check_scatter},
      {"move", check_move},
      {"window", check_window},
  };
  const Body *b = v->op->body;
  int64_t all = 1;
  if (b->nin != v->op->nin || b->nout != v->op->nout) {
    verify_broken(v, "body has %d operands and %d results", b->nin, b->nout);
    return;
  }
  if (b->ndim < 0 || b->ndim > MAX_DIMS || b->ncol < 0 || b->ncol > b->ndim) {
    verify_broken(v, "body has %d dimensions, %d of them columns", b->ndim, b->ncol);
    return;
  }
  for (int d = 0; d < b->ndim; d++)
    if (b->dim[d] < 1 || __builtin_mul_overflow(all, b->dim[d], &all)) {
      verify_broken(v, "dimension %d of %lld", d, (long long)b->dim[d]);
      return;
    }
  const char *kind = op_str(v->op, "kind", "");
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (!strcmp(kind, kinds[i].kind)) {
      kinds[i].check(v);
      return;
    }
  verify_broken(v, "unknown kind '%s'", kind);
}
