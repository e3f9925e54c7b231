/* Rows groups that turn: elements alone, some read or written along the rows, others along the
 * columns. Blocks of as many rows as columns, a vector of each, are transposed in registers, so
 * that both sides move whole vectors. Values are computed with the lanes along the columns: what is
 * read along the rows is turned before, what is written along them after. Several blocks lie below
 * each other where it takes them to fill a cache line of what is written. */
#include "codegen/cpu/micro.h"
#include "codegen/cpu/rows.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum {
  MAX_LANES = 16,
  MAX_ROWS = 64,        /* of a block */
  MOST_STATEMENTS = 16, /* they are emitted for each row of a block, */
  MOST_OF_WORDS = 6,    /* of a high one */
  MOST_TURNED = 2,      /* and registers hold one block */
  AHEAD_LINES = 2,      /* cache lines fetched ahead of what is read, and below what is written */
  LINE = 64,
};

/* ---- whether --------------------------------------------------------------------------------- */

static const Access *access_of(const Rows *r, const Stmt *s) {
  return s->prim == PR_LOAD ? &r->body.in[s->ref] : &r->body.out[s->ref];
}

static DType dtype_of(const Rows *r, const Stmt *s) {
  return s->prim == PR_LOAD ? gen_in_dtype(r->op, s->ref) : gen_out_dtype(r->op, s->ref);
}

/* An access whose neighbours in memory are those of the last row dimension. */
static bool is_turned(const Rows *r, const Stmt *s) {
  const Access *a = access_of(r, s);
  return s->level == LV_ELEM && a->stride[r->nrow - 1] == 1 && a->stride[r->body.ndim - 1] > 1;
}

/* Whether values of statement i can be turned: those of one vector, or undecoded narrower ones. */
static bool can_turn(const Rows *r, int i) {
  const Stmt *s = &r->body.stmt[i];
  int lanes = gen_lanes(r->g, r->op);
  if (s->prim == PR_STORE)
    return can_turn(r, s->arg[0]);
  if (s->rd == STMT_RAW && s->prim == PR_LOAD)
    return true;
  return s->dt == MPCC_F32 || (s->dt == MPCC_F64 && lanes * 8 == r->g->level->vector_bytes);
}

bool rows_can_block(const Rows *r) {
  const Body *b = &r->body;
  int lanes = gen_lanes(r->g, r->op), turned = 0, straight = 0;
  if (r->nrow < 1 || b->ndim - r->nrow != 1 || b->dim[r->nrow - 1] < lanes ||
      b->dim[b->ndim - 1] < lanes || b->nstmt > MOST_STATEMENTS)
    return false;
  for (int i = 0; i < b->nstmt; i++) {
    const Stmt *s = &b->stmt[i];
    if (prim_is_reduction(s->prim) || s->level == LV_ROW || s->level == LV_COL ||
        (s->prim == PR_STORE && r->plan[i].sink != SINK_ELEM))
      return false;
    if ((s->prim != PR_LOAD && s->prim != PR_STORE) || s->level != LV_ELEM)
      continue;
    int64_t stride = access_of(r, s)->stride[b->ndim - 1];
    if (is_turned(r, s) && can_turn(r, i))
      turned++;
    else if (stride == 1)
      straight++;
    else if (stride != 0 || s->prim == PR_STORE)
      return false;
  }
  return turned > 0 && turned <= MOST_TURNED && straight > 0;
}

/* Blocks below each other that fill a line of every turned result. */
static int64_t blocks_of_line(const Rows *r) {
  int64_t most = 1;
  for (int i = 0; i < r->body.nstmt; i++) {
    const Stmt *s = &r->body.stmt[i];
    if (s->prim != PR_STORE || !is_turned(r, s))
      continue;
    int64_t n = LINE / (r->lanes * (int64_t)dtype_bytes(dtype_of(r, s)));
    most = n > most ? n : most;
  }
  return most;
}

/* Rows whose results stand side by side in a 32-bit word, where that is how the one turned result
 * is written: a word for each is turned, blocks are so many times as high, and lines of the result
 * are written whole. 1: none. */
static int rows_of_word(const Rows *r) {
  int rows = 1;
  for (int i = 0; i < r->body.nstmt; i++) {
    const Stmt *s = &r->body.stmt[i];
    if ((s->prim != PR_LOAD && s->prim != PR_STORE) || !is_turned(r, s))
      continue;
    DType dt = dtype_of(r, s);
    const Stmt *v = s->prim == PR_STORE ? &r->body.stmt[s->arg[0]] : s;
    if (s->prim == PR_LOAD || rows > 1 || v->dt != MPCC_F32 || v->rd == STMT_RAW ||
        (dt != MPCC_BF16 && dt != MPCC_F16 && dt != MPCC_E4M3 && dt != MPCC_E5M2))
      return 1;
    rows = 4 / (int)dtype_bytes(dt);
  }
  return r->body.nstmt <= MOST_OF_WORDS ? rows : 1;
}

/* ---- one block ------------------------------------------------------------------------------- */

typedef struct {
  Rows *r;
  Val index[MAX_DIMS]; /* of the block's first element */
  int columns, rows;
  Val panel, panel_rows;   /* first row and rows of the blocks that lie below each other */
  Val run;                 /* elements of these in the blocks before this one */
  Val (*turned)[MAX_ROWS]; /* [nstmt]: values of turned loads by row; of turned stores, to be */
} Block;

/* Address of what statement s accesses at an index. */
static Val place_at(Rows *r, const Stmt *s, const Val *index) {
  Gen *g = r->g;
  const Access *a = access_of(r, s);
  Val at = ll_n(g, 0);
  for (int d = 0; d < r->body.ndim; d++)
    if (a->stride[d])
      at = ll_add(g, at, ll_mul(g, index[d], ll_n(g, a->stride[d])));
  return ll_gep(g, ll_mem(g, dtype_of(r, s)), (s->prim == PR_LOAD ? r->arg_in : r->arg_out)[s->ref],
                at);
}

/* At the block's first element. */
static Val place(Block *t, const Stmt *s) {
  return place_at(t->r, s, t->index);
}

/* n vectors of n lanes; narrow ones are turned as 32-bit words. */
static void turn(Gen *g, Val *v, int n) {
  Ty elem = ll_elem(v[0]);
  bool narrow = elem == g->i8 || elem == g->i16;
  for (int i = 0; i < n && narrow; i++)
    v[i] = ll_zext(g, v[i], g->i32);
  micro_transpose(g, v, n);
  for (int i = 0; i < n && narrow; i++)
    v[i] = ll_trunc(g, v[i], elem);
}

static void load_turned(Block *t, int i) {
  Rows *r = t->r;
  Gen *g = r->g;
  const Stmt *s = &r->body.stmt[i];
  DType dt = dtype_of(r, s);
  Val at = place(t, s), *v = t->turned[i];
  int64_t stride = access_of(r, s)->stride[r->body.ndim - 1];
  for (int j = 0; j < r->lanes; j++) {
    if (j >= t->columns) {
      v[j] = LLVMConstNull(LLVMTypeOf(v[0]));
      continue;
    }
    Val from = ll_gepc(g, ll_mem(g, dt), at, j * stride);
    ll_prefetch(g, ll_gepc(g, g->i8, from, AHEAD_LINES * LINE));
    v[j] = ll_load(g, ll_mem(g, dt), r->lanes, from, NULL);
    v[j] = s->rd == STMT_RAW ? v[j] : ll_decode(g, dt, v[j]);
  }
  turn(g, v, r->lanes);
}

static void store_turned(Block *t, int i) {
  Rows *r = t->r;
  Gen *g = r->g;
  const Stmt *s = &r->body.stmt[i];
  DType dt = dtype_of(r, s);
  Val at = place(t, s), *v = t->turned[i];
  int64_t stride = access_of(r, s)->stride[r->body.ndim - 1];
  bool raw = r->body.stmt[s->arg[0]].rd == STMT_RAW;
  bool words = t->rows > r->lanes;
  turn(g, v, r->lanes);
  for (int j = 0; j < t->columns; j++) {
    Val to = ll_gepc(g, ll_mem(g, dt), at, j * stride);
    /* When the blocks below are stored, all columns later, these lines are near. */
    ll_prefetch_store(g, ll_gepc(g, g->i8, to, AHEAD_LINES * LINE));
    if (words)
      v[j] = LLVMBuildBitCast(g->b, v[j], ll_vec(ll_mem(g, dt), t->rows), "");
    ll_store(g, raw || words ? v[j] : ll_encode(g, dt, v[j]), to, NULL);
  }
}

/* What will be read as row q of a block below: rows side by side as one run, in the order of
 * memory, a column pass ahead, for the processor's own prefetching follows few rows at once. */
static void fetch_straight(Block *t, const Stmt *s, Val base, int q) {
  Rows *r = t->r;
  Gen *g = r->g;
  if (access_of(r, s)->stride[r->nrow - 1] != r->cols) {
    ll_prefetch(g, ll_gepc(g, g->i8, base, AHEAD_LINES * LINE));
    return;
  }
  Val index[MAX_DIMS], panel = ll_mul(g, t->panel_rows, ll_n(g, r->cols));
  memcpy(index, t->index, sizeof index);
  index[r->nrow - 1] = t->panel;
  index[r->body.ndim - 1] = ll_n(g, 0);
  Val at = ll_add(g, ll_add(g, panel, t->run), ll_n(g, (int64_t)q * r->lanes));
  ll_prefetch_far(g, ll_gep(g, ll_mem(g, dtype_of(r, s)), place_at(r, s, index), at));
}

/* The statements for row q of the block; val, base_in and base_out of s are lists to fill. */
static bool block_row(Block *t, Lanes *s, int q) {
  Rows *r = t->r;
  Gen *g = r->g;
  memcpy(s->val, r->all, (size_t)r->body.nstmt * sizeof *s->val);
  s->index[r->nrow - 1] = ll_add(g, t->index[r->nrow - 1], ll_n(g, q));
  for (int i = 0; i < r->body.nstmt; i++) {
    const Stmt *st = &r->body.stmt[i];
    bool access = st->prim == PR_LOAD || st->prim == PR_STORE;
    if (st->level == LV_ALL && st->prim != PR_STORE)
      continue;
    if (access && is_turned(r, st)) {
      if (st->prim == PR_LOAD)
        s->val[i] = t->turned[i][q];
      else
        t->turned[i][q] = ll_splat(g, s->val[st->arg[0]], r->lanes);
      continue;
    }
    if (access) {
      int64_t down = access_of(r, st)->stride[r->nrow - 1] * q;
      Val base = ll_gepc(g, ll_mem(g, dtype_of(r, st)), place(t, st), down);
      (st->prim == PR_LOAD ? s->base_in : s->base_out)[st->ref] = base;
      if (st->prim == PR_LOAD)
        fetch_straight(t, st, base, q);
    }
    if (!stmt_emit(s, i))
      return false;
  }
  return true;
}

/* Results of the rows up to q, as soon as they fill words: few registers hold them. */
static void join_words(Block *t, int q) {
  Rows *r = t->r;
  int side = t->rows / r->lanes;
  for (int i = 0; i < r->body.nstmt && side > 1 && q % side == side - 1; i++) {
    const Stmt *s = &r->body.stmt[i];
    if (s->prim == PR_STORE && is_turned(r, s))
      t->turned[i][q / side] =
          ll_encode_words(r->g, dtype_of(r, s), &t->turned[i][q / side * side]);
  }
}

/* Block `number` of `blocks` of so many rows that lie below each other from row `panel` on; the
 * first of `columns` columns is `column`. */
static bool block(Rows *r, int rows, Val panel, Val number, Val blocks, Val column, int columns) {
  Gen *g = r->g;
  const Body *b = &r->body;
  size_t n = (size_t)b->nstmt;
  Val above = ll_mul(g, number, ll_n(g, rows)), row = ll_add(g, panel, above);
  Block t = {.r = r,
             .columns = columns,
             .rows = rows,
             .panel_rows = ll_mul(g, blocks, ll_n(g, rows)),
             .turned = calloc(n + 1, sizeof *t.turned)};
  t.run = ll_add(g, ll_mul(g, column, t.panel_rows), ll_mul(g, above, ll_n(g, r->lanes)));
  Val *list = calloc(n + (size_t)b->nin + (size_t)b->nout + 1, sizeof *list);
  bool ok = (t.turned && list) || gen_fail(g, "out of memory");
  Val rest = row;
  for (int d = r->nrow - 1; d >= 0; d--) {
    t.index[d] = d ? ll_urem(g, rest, b->dim[d]) : rest;
    rest = d ? ll_udiv(g, rest, b->dim[d]) : rest;
  }
  t.panel = ll_sub(g, t.index[r->nrow - 1], above);
  t.index[b->ndim - 1] = column;
  Lanes s = {.g = g,
             .group = r->op,
             .body = b,
             .lanes = r->lanes,
             .lane_dim = b->ndim - 1,
             .count = columns < r->lanes ? ll_n(g, columns) : NULL,
             .val = list};
  memcpy(s.index, t.index, sizeof s.index);
  if (ok) {
    s.base_in = list + n;
    s.base_out = s.base_in + b->nin;
  }
  for (int i = 0; i < b->nstmt && ok; i++)
    if (b->stmt[i].prim == PR_LOAD && is_turned(r, &b->stmt[i]))
      load_turned(&t, i);
  for (int q = 0; q < rows && ok; q++) {
    ok = block_row(&t, &s, q);
    if (ok)
      join_words(&t, q);
  }
  for (int i = 0; i < b->nstmt && ok; i++)
    if (b->stmt[i].prim == PR_STORE && is_turned(r, &b->stmt[i]))
      store_turned(&t, i);
  free(t.turned);
  free(list);
  return ok;
}

/* ---- rows ------------------------------------------------------------------------------------ */

/* All columns of `blocks` blocks of so many rows below each other. */
static bool block_columns(Rows *r, int rows, Val row, Val blocks) {
  Gen *g = r->g;
  int64_t n = r->cols, whole = n / r->lanes * r->lanes;
  Loop c = ll_loop(g, ll_n(g, 0), ll_n(g, whole), r->lanes);
  Loop k = ll_loop(g, ll_n(g, 0), blocks, 1);
  bool ok = block(r, rows, row, k.i, blocks, c.i, r->lanes);
  ll_loop_end(g, &k);
  ll_loop_end(g, &c);
  if (whole == n || !ok)
    return ok;
  k = ll_loop(g, ll_n(g, 0), blocks, 1);
  ok = block(r, rows, row, k.i, blocks, ll_n(g, whole), (int)(n - whole));
  ll_loop_end(g, &k);
  return ok;
}

bool rows_blocks(Rows *r, Val first, Val end) {
  Gen *g = r->g;
  int64_t n = r->body.dim[r->nrow - 1];
  Val var = ll_var(g, first);
  While w = ll_while(g);
  Val row = ll_var_get(g, var);
  ll_while_body(g, &w, ll_icmp(g, LLVMIntSLT, row, end));
  Val room = ll_sub(g, end, row);
  if (r->nrow > 1)
    room = ll_umin(g, room, ll_sub(g, ll_n(g, n), ll_urem(g, row, n)));
  Val blocks = ll_umin(g, ll_udiv(g, room, r->lanes), ll_n(g, blocks_of_line(r)));
  Val step = ll_var(g, room);
  int high = r->lanes * rows_of_word(r);
  bool ok = true;
  If h = {0};
  if (high > r->lanes) {
    h = ll_if(g, ll_icmp(g, LLVMIntSGE, room, ll_n(g, high)));
    ok = block_columns(r, high, row, ll_n(g, 1));
    ll_var_set(g, step, ll_n(g, high));
    ll_else(g, &h);
  }
  If f = ll_if(g, ll_icmp(g, LLVMIntSGT, blocks, ll_n(g, 0)));
  ok = ok && block_columns(r, r->lanes, row, blocks);
  ll_var_set(g, step, ll_mul(g, blocks, ll_n(g, r->lanes)));
  ll_else(g, &f);
  ok = ok && rows_by_one(r, row, ll_add(g, row, room));
  ll_endif(g, &f);
  if (high > r->lanes)
    ll_endif(g, &h);
  ll_var_set(g, var, ll_add(g, row, ll_var_get(g, step)));
  ll_while_end(g, &w);
  return ok;
}
