/* cpu_rows: panels of rows as loops over vectors.
 *
 *   for each tile (panel of rows)
 *     column sums = 0, panel reductions = neutral
 *     for each row (or group of rows, when the lanes run along a row dimension)
 *       for each pass: statements per row; loop over the columns: element statements, sums, stores
 *       stores per row
 *     store column sums and panel reductions into the partial results
 */
#include "codegen/cpu/rows.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One row, or one vector of rows. */
typedef struct {
  Val *val; /* LV_ALL and LV_ROW values */
  Val *base_in, *base_out;
  Val index[MAX_DIMS]; /* row dimensions; columns 0 */
} Group;

/* Passes are numbered from 0; before the first row of a panel, loads that are the same in all rows
 * are decoded. */
enum { HOIST = -1 };

/* One pass over the columns of 1 (lanes along columns) or several groups. */
typedef struct {
  Rows *r;
  int pass, ngroup, q; /* q: the group at hand */
  int k;               /* the vector at hand in an unrolled loop */
  Group *group;
  Val count;           /* valid lanes of the group when the lanes are rows */
  Acc *acc;            /* variables of row reductions: [nstmt][ROWS_MAX_UNROLL] */
  Val *val, *raw;      /* scratch lists of nstmt values */
  Val *held;           /* column sums of the groups before q at this column: [nstmt] */
  Val index[MAX_DIMS]; /* column dimensions */
} Pass;

/* ---- scratch ---- */

static Val column_number(Pass *p, Val inner) {
  Rows *r = p->r;
  Val n = ll_n(r->g, 0);
  for (int d = r->nrow; d < r->body.ndim; d++) {
    bool last = !r->on_rows && r->lanes > 1 && d == r->lane_dim;
    n = ll_add(r->g, ll_mul(r->g, n, ll_n(r->g, r->body.dim[d])), last ? inner : p->index[d]);
  }
  return n;
}

static Val scratch_at(Rows *r, int i, Val element) {
  Gen *g = r->g;
  Val base = ll_gepc(g, g->i8, g->scratch, r->plan[i].scratch);
  return ll_gep(g, ll_reg(g, (DType)r->body.stmt[i].dt), base, element);
}

static Val spill_at(Pass *p, int i, Val column, int u) {
  Rows *r = p->r;
  int64_t size = (int64_t)dtype_bytes((DType)r->body.stmt[i].dt);
  int64_t row = (r->cols * size + 63) / 64 * 64 / size; /* place_scratch */
  if (!r->on_rows)
    return scratch_at(r, i, ll_add(r->g, column, ll_n(r->g, u % r->together * row)));
  Val lanes = ll_n(r->g, (int64_t)r->lanes * ROWS_MAX_UNROLL);
  Val at = ll_add(r->g, ll_mul(r->g, column, lanes), ll_n(r->g, (int64_t)u * r->lanes));
  return scratch_at(r, i, at);
}

static void column_sum(Pass *p, int i, Val v, int lanes, Val column, Val count) {
  Rows *r = p->r;
  Gen *g = r->g;
  Val at = scratch_at(r, i, column);
  Ty t = ll_reg(g, (DType)r->body.stmt[i].dt);
  if (r->on_rows) {
    v = ll_splat(g, v, r->lanes);
    if (count)
      v = ll_sel(g, ll_mask(g, r->lanes, count), v, rows_neutral(r, i, r->lanes));
    v = rows_across_lanes(r, i, v);
    count = NULL;
  } else {
    v = ll_splat(g, v, lanes);
  }
  bool first = r->on_rows || p->q == 0, last = r->on_rows || p->q == p->ngroup - 1;
  Val sum = first ? ll_load(g, t, ll_lanes(v), at, count) : p->held[i];
  p->held[i] = rows_combine(r, i, sum, v);
  if (last)
    ll_store(g, p->held[i], at, count);
}

/* ---- one vector ---- */

static Lanes lanes_of(Rows *r, Group *q, int lanes, Val count, Val *val) {
  Lanes s = {.g = r->g,
             .group = r->op,
             .body = &r->body,
             .lanes = lanes,
             .lane_dim = r->lane_dim,
             .count = count,
             .val = val,
             .base_in = q->base_in,
             .base_out = q->base_out};
  memcpy(s.index, q->index, sizeof s.index);
  for (int d = 0; d < r->body.ndim; d++)
    s.free[d] = d >= r->nrow || (r->on_rows && d == r->lane_dim);
  return s;
}

/* What reduction i takes in. */
static Val reduced(Pass *p, Lanes *s, int i) {
  Rows *r = p->r;
  if (!r->plan[i].raw)
    return s->val[r->body.stmt[i].arg[0]];
  Val x = s->raw[rows_raw_load(r, i)];
  return ll_and(r->g, x, ll_i(LLVMTypeOf(x), 0x7fff));
}

/* stmt_emit, and NaN of loads made plain where stores count on that. */
static bool emit(Rows *r, Lanes *s, int i) {
  const Stmt *st = &r->body.stmt[i];
  s->plain = st->prim == PR_STORE && r->plan[st->arg[0]].nan == NAN_PLAIN;
  bool ok = stmt_emit(s, i);
  if (ok && r->plan[i].cleaned)
    s->val[i] = ll_plain_nan(r->g, s->val[i]);
  return ok;
}

static bool finish_element(Pass *p, Lanes *s, int i, int u, Val column) {
  Rows *r = p->r;
  const Stmt *st = &r->body.stmt[i];
  if (prim_is_row_reduction(st->prim))
    rows_accumulate(r, i, *rows_acc(p->acc, i, u), reduced(p, s, i), s->lanes,
                    r->on_rows ? NULL : s->count);
  else if (st->prim == PR_CSUM)
    column_sum(p, i, s->val[st->arg[0]], s->lanes, column, s->count);
  else if (prim_is_reduction(st->prim))
    rows_accumulate(r, i, *rows_acc(r->sums, i, u), reduced(p, s, i), s->lanes, s->count);
  else if (!emit(r, s, i))
    return false;
  if (p->pass == HOIST || r->plan[i].spill == p->pass)
    ll_store(r->g, ll_splat(r->g, s->val[i], s->lanes), spill_at(p, i, column, u),
             r->on_rows ? NULL : s->count);
  return true;
}

/* Whether pass `pass` does element statement i. */
static bool does(const Rows *r, int pass, int i) {
  return pass == HOIST ? r->plan[i].hoisted : rows_needed(r, pass, i);
}

/* Prefetches the lines that one vector of s takes up at address `at` of dtype dt. */
static void fetch(Rows *r, const Lanes *s, DType dt, Val at, void (*how)(Gen *, Val)) {
  int64_t bytes = s->lanes * (int64_t)dtype_bytes(dt);
  for (int64_t b = 0; b < bytes; b += 64)
    how(r->g, ll_gepc(r->g, r->g->i8, at, b));
}

/* Single passes look a distance ahead; vectors of an unrolled loop that lie in one line fetch it
 * once. */
static void fetch_ahead(Pass *p, Lanes *s, bool out, int k) {
  Rows *r = p->r;
  int64_t next = (out ? r->body.out : r->body.in)[k].stride[r->nrow - 1], stride;
  DType dt = out ? gen_out_dtype(r->op, k) : gen_in_dtype(r->op, k);
  int64_t bytes = s->lanes * (int64_t)dtype_bytes(dt);
  if (bytes < 64 && p->k % (64 / bytes))
    return;
  Val at = stmt_address(s, out, k, &stride);
  if (stride == 1 && next)
    fetch(r, s, dt, ll_gepc(r->g, r->g->i8, at, r->ahead), out ? ll_prefetch_store : ll_prefetch);
}

/* This pass's share of the rows of the next group: some of the vectors at a column fetch a line or
 * more each. Rows that lie side by side are fetched as one run, in the order of memory: so the
 * processor's own prefetching joins in. */
static void fetch_share(Pass *p, Lanes *s, bool out, int k, int from, int share) {
  Rows *r = p->r;
  Gen *g = r->g;
  DType dt = out ? gen_out_dtype(r->op, k) : gen_in_dtype(r->op, k);
  int64_t next = (out ? r->body.out : r->body.in)[k].stride[r->nrow - 1], stride;
  int64_t size = (int64_t)dtype_bytes(dt), lane = r->body.dim[r->lane_dim];
  Lanes first = *s;
  first.base_in = p->group[0].base_in;
  first.base_out = p->group[0].base_out;
  bool run = next == lane && r->cols == lane;
  if (run)
    first.index[r->lane_dim] = ll_n(g, 0);
  Val at = stmt_address(&first, out, k, &stride);
  if (stride != 1 || !next || p->q >= share)
    return;
  int64_t row = r->together + from + (run ? 0 : p->q), column = run ? (int64_t)p->q * s->lanes : 0;
  at = ll_gepc(g, g->i8, at, (row * next + column) * size);
  if (run)
    at = ll_gep(g, g->i8, at, ll_mul(g, s->index[r->lane_dim], ll_n(g, share * size)));
  fetch(r, s, dt, at, ll_prefetch_far);
}

/* What memory shall do while this vector is computed. */
static void prefetch(Pass *p, Lanes *s) {
  Rows *r = p->r;
  if (p->pass == HOIST || r->on_rows || !r->nrow || r->lanes == 1)
    return;
  for (int i = 0; i < r->body.nstmt; i++) {
    const Stmt *st = &r->body.stmt[i];
    bool out = st->prim == PR_STORE;
    if (!rows_is_stream(r, i))
      continue;
    if (r->npass == 1) {
      fetch_ahead(p, s, out, st->ref);
      continue;
    }
    int from = 0;
    for (int q = 0; q < p->pass; q++)
      from += r->fetched[q * r->body.nstmt + i];
    fetch_share(p, s, out, st->ref, from, r->fetched[p->pass * r->body.nstmt + i]);
  }
}

/* Element statements of the pass for one vector: group q, accumulators u. */
static bool element(Pass *p, Group *q, int u, Val inner, Val count, bool paired) {
  Rows *r = p->r;
  int lanes = paired ? r->pair_lanes : r->lanes;
  memcpy(p->val, q->val, (size_t)r->body.nstmt * sizeof *p->val);
  Lanes s = lanes_of(r, q, lanes, count, p->val);
  s.paired = paired;
  s.raw = p->raw;
  for (int d = r->nrow; d < r->body.ndim; d++)
    s.index[d] = p->index[d];
  if (!r->on_rows && r->lanes > 1)
    s.index[r->lane_dim] = inner;
  Val column = column_number(p, inner);
  prefetch(p, &s);
  for (int i = 0; i < r->body.nstmt; i++) {
    if (!does(r, p->pass, i))
      continue;
    int spill = r->plan[i].spill;
    bool kept = (spill >= 0 && spill < p->pass) || r->plan[i].hoisted;
    if (kept && p->pass != HOIST) {
      Ty t = ll_reg(r->g, (DType)r->body.stmt[i].dt);
      Val at = r->plan[i].hoisted ? scratch_at(r, i, column) : spill_at(p, i, column, u);
      p->val[i] = ll_load(r->g, t, lanes, at, r->on_rows ? NULL : count);
    } else if (!finish_element(p, &s, i, u, column)) {
      return false;
    }
  }
  return true;
}

/* ---- one pass ---- */

/* One vector of each row; k: number of the vector in an unrolled loop. */
static bool elements(Pass *p, int k, Val inner, Val count, bool paired) {
  p->k = k;
  for (p->q = 0; p->q < p->ngroup; p->q++)
    if (!element(p, &p->group[p->q], k * p->r->together + p->q, inner, count, paired))
      return false;
  return true;
}

/* Columns [from, to) of the last dimension, which so many lanes divide: unrolled, then one by one.
 */
static bool whole_columns(Pass *p, int64_t from, int64_t to, int64_t lanes, int64_t u) {
  Gen *g = p->r->g;
  int64_t many = from + (to - from) / (u * lanes) * (u * lanes);
  bool ok = true, paired = lanes > p->r->lanes;
  if (many > from) {
    Loop l = ll_loop(g, ll_n(g, from), ll_n(g, many), u * lanes);
    for (int k = 0; k < u && ok; k++)
      ok = elements(p, k, ll_add(g, l.i, ll_n(g, k * lanes)), NULL, paired);
    ll_loop_end(g, &l);
  }
  if (ok && to > many) {
    Loop l = ll_loop(g, ll_n(g, many), ll_n(g, to), lanes);
    ok = elements(p, 0, l.i, NULL, paired);
    ll_loop_end(g, &l);
  }
  return ok;
}

/* Lanes along the last column dimension: pairs, whole vectors, the rest. */
static bool columns(Pass *p) {
  Rows *r = p->r;
  Gen *g = r->g;
  int64_t n = r->body.dim[r->lane_dim], lanes = r->lanes;
  int64_t u = p->pass == HOIST ? 1 : r->unroll[p->pass], end = n / lanes * lanes;
  bool ok = !r->paired || whole_columns(p, 0, r->pairs_end, r->pair_lanes, u);
  ok = ok && whole_columns(p, r->pairs_end, end, lanes, r->paired ? 1 : u);
  if (ok && n > end)
    ok = elements(p, 0, ll_n(g, end), ll_n(g, n - end), false);
  return ok;
}

static bool nest(Pass *p, int d) {
  Rows *r = p->r;
  if (d < r->body.ndim && !(r->lanes > 1 && d == r->lane_dim)) {
    Loop l = ll_loop(r->g, ll_n(r->g, 0), ll_n(r->g, r->body.dim[d]), 1);
    p->index[d] = l.i;
    bool ok = nest(p, d + 1);
    ll_loop_end(r->g, &l);
    return ok;
  }
  if (d < r->body.ndim)
    return columns(p);
  for (p->q = 0; p->q < p->ngroup; p->q++)
    if (!element(p, &p->group[p->q], p->q, ll_n(r->g, 0), p->count, false))
      return false;
  return true;
}

static bool run_pass(Pass *p) {
  Rows *r = p->r;
  int nacc = r->on_rows ? p->ngroup : r->unroll[p->pass] * r->together;
  memset(p->acc, 0, (size_t)r->body.nstmt * ROWS_MAX_UNROLL * sizeof *p->acc);
  for (int i = 0; i < r->body.nstmt; i++)
    if (prim_is_row_reduction(r->body.stmt[i].prim) && r->plan[i].pass == p->pass)
      for (int u = 0; u < nacc; u++)
        *rows_acc(p->acc, i, u) = rows_acc_start(r, i, rows_acc_lanes(r));
  if (!nest(p, r->nrow))
    return false;
  for (int i = 0; i < r->body.nstmt; i++) {
    if (!rows_acc(p->acc, i, 0)->sum)
      continue;
    int step = r->on_rows ? ROWS_MAX_UNROLL : r->together;
    for (int q = 0; q < p->ngroup; q++)
      p->group[q].val[i] =
          rows_acc_result(r, i, rows_acc_combined(r, i, p->acc, q, step), !r->on_rows);
  }
  return true;
}

/* ---- one row or lane group ---- */

/* Marks in p->val what statement i needs of elements. */
static void mark_elements(Pass *p, int i) {
  const Stmt *s = &p->r->body.stmt[i];
  if (s->level != LV_ELEM || p->val[i])
    return;
  p->val[i] = p->r->g->scratch; /* anything */
  for (int k = 0; k < prim_args((Prim)s->prim); k++)
    if (s->arg[k] >= 0)
      mark_elements(p, s->arg[k]);
}

/* A sum that is picked: the element of the one column, or zero when there is no such column. */
static bool pick(Pass *p, Group *q, int i) {
  Rows *r = p->r;
  Gen *g = r->g;
  const Stmt *chosen = &r->body.stmt[r->body.stmt[i].arg[0]];
  int from = chosen->arg[1], n = r->body.nstmt;
  Val column = q->val[r->body.stmt[chosen->arg[0]].arg[1]], zero = ll_n(g, 0);
  Val inside = ll_icmp(g, LLVMIntULT, column, ll_n(g, r->cols));
  memset(p->val, 0, (size_t)n * sizeof *p->val);
  mark_elements(p, from);
  Lanes s = lanes_of(r, q, 1, NULL, q->val);
  s.index[r->nrow] = ll_sel(g, inside, column, zero);
  for (int j = 0; j <= from; j++)
    if (p->val[j] && !stmt_emit(&s, j))
      return false;
  Ty t = LLVMTypeOf(q->val[from]);
  q->val[i] = ll_sel(g, inside, LLVMBuildFAdd(g->b, q->val[from], ll_f(t, 0), ""), ll_f(t, 0));
  for (int j = 0; j <= from; j++)
    if (p->val[j])
      q->val[j] = NULL;
  return true;
}

/* Statements per row that are ready at `pass`; the stores when pass is past the last. */
static bool row_level(Pass *p, int pass, bool stores) {
  Rows *r = p->r;
  for (int i = 0; i < r->body.nstmt; i++) {
    const Stmt *st = &r->body.stmt[i];
    bool picked = r->plan[i].picked;
    bool panel_sum = prim_is_reduction(st->prim) && r->plan[i].pass < 0 && !picked;
    bool plain = !prim_is_reduction(st->prim) && st->prim != PR_STORE && st->level == LV_ROW;
    bool store = st->prim == PR_STORE && r->plan[i].sink == SINK_ROW;
    if (stores ? !store : !((panel_sum || plain || picked) && r->plan[i].ready == pass))
      continue;
    for (int u = 0; u < p->ngroup; u++) {
      Group *q = &p->group[u];
      Lanes s = lanes_of(r, q, r->on_rows ? r->lanes : 1, p->count, q->val);
      if (picked && !pick(p, q, i))
        return false;
      if (picked)
        continue;
      if (panel_sum)
        rows_accumulate(r, i, *rows_acc(r->sums, i, u), q->val[st->arg[0]], s.lanes, p->count);
      else if (!emit(r, &s, i))
        return false;
    }
  }
  return true;
}

/* Whether neighbouring rows of access a are equally far apart, whatever dimension they cross. */
static bool rows_even(const Rows *r, const Access *a) {
  for (int d = 0; d + 1 < r->nrow; d++)
    if (a->stride[d] != a->stride[d + 1] * r->body.dim[d + 1])
      return false;
  return true;
}

/* Address of the row for access a. LLVM is not told how it came about: that is all the loops over
 * columns need to know, and loop strength reduction would weigh every way to write it. */
static Val row_address(Rows *r, const Group *q, const Access *a, DType dt, Val arg, Val row) {
  Gen *g = r->g;
  Val at = ll_n(g, 0);
  bool even = !r->on_rows && r->nrow && rows_even(r, a);
  if (even)
    at = ll_mul(g, row, ll_n(g, a->stride[r->nrow - 1]));
  for (int d = 0; d < r->nrow && !even; d++)
    if (a->stride[d] && !(r->on_rows && d == r->lane_dim))
      at = ll_add(g, at, ll_mul(g, q->index[d], ll_n(g, a->stride[d])));
  return ll_opaque(g, ll_gep(g, ll_mem(g, dt), arg, at));
}

/* Indices of row u of a group along the row dimensions, and addresses with these counted in. */
static void place_group(Rows *r, Group *group, Val row, int u) {
  Gen *g = r->g;
  const Body *b = &r->body;
  Group *q = &group[u];
  Val here = r->on_rows ? row : ll_add(g, row, ll_n(g, u)), rest = here;
  for (int d = 0; d < b->ndim; d++)
    q->index[d] = ll_n(g, 0);
  for (int d = r->nrow - 1; d >= 0; d--) {
    q->index[d] = d ? ll_urem(g, rest, b->dim[d]) : rest;
    rest = d ? ll_udiv(g, rest, b->dim[d]) : rest;
  }
  if (r->on_rows)
    q->index[r->lane_dim] = ll_add(g, q->index[r->lane_dim], ll_n(g, (int64_t)u * r->lanes));
  for (int k = 0; k < b->nin + b->nout; k++) {
    bool in = k < b->nin;
    int n = in ? k : k - b->nin;
    const Access *a = in ? &b->in[n] : &b->out[n];
    DType dt = in ? gen_in_dtype(r->op, n) : gen_out_dtype(r->op, n);
    Val base;
    if (u && (r->on_rows || rows_even(r, a))) {
      Val before = in ? group[u - 1].base_in[n] : group[u - 1].base_out[n];
      int64_t rows = r->on_rows || !r->nrow ? 0 : a->stride[r->nrow - 1];
      base = ll_gepc(g, ll_mem(g, dt), before, rows);
    } else {
      base = row_address(r, q, a, dt, in ? r->arg_in[n] : r->arg_out[n], here);
    }
    *(in ? &q->base_in[n] : &q->base_out[n]) = base;
  }
}

static bool run_groups(Rows *r, Val row, int ngroup, Val count) {
  const Body *b = &r->body;
  size_t per = (size_t)b->nstmt + (size_t)b->nin + (size_t)b->nout + 1;
  Val *list = calloc(per * ROWS_MAX_UNROLL + 3 * (size_t)b->nstmt + 1, sizeof *list);
  Acc *acc = calloc((size_t)b->nstmt * ROWS_MAX_UNROLL + 1, sizeof *acc);
  bool ok = (list && acc) || gen_fail(r->g, "out of memory");
  Group group[ROWS_MAX_UNROLL];
  for (int u = 0; ok && u < ngroup; u++) {
    Val *mine = list + per * (size_t)u;
    group[u] =
        (Group){.val = mine, .base_in = mine + b->nstmt, .base_out = mine + b->nstmt + b->nin};
    memcpy(group[u].val, r->all, (size_t)b->nstmt * sizeof *mine);
    place_group(r, group, row, u);
  }
  Pass p = {.r = r,
            .ngroup = ngroup,
            .group = group,
            .count = count,
            .acc = acc,
            .val = ok ? list + per * ROWS_MAX_UNROLL : NULL,
            .raw = ok ? list + per * ROWS_MAX_UNROLL + b->nstmt : NULL,
            .held = ok ? list + per * ROWS_MAX_UNROLL + 2 * b->nstmt : NULL};
  for (p.pass = 0; ok && p.pass <= r->npass; p.pass++)
    ok = row_level(&p, p.pass, false) && (p.pass == r->npass || run_pass(&p));
  ok = ok && row_level(&p, 0, true);
  free(list);
  free(acc);
  return ok;
}

/* ---- panel ---- */

bool rows_begin(Rows *r) {
  Gen *g = r->g;
  const Body *b = &r->body;
  for (int k = 0; k < b->nin; k++)
    r->arg_in[k] = ll_gepc(g, ll_mem(g, gen_in_dtype(r->op, k)),
                           ll_arg_ptr(g, gen_in_slot(r->op, k)), b->in[k].offset);
  for (int k = 0; k < b->nout; k++)
    r->arg_out[k] =
        ll_gepc(g, ll_mem(g, gen_out_dtype(r->op, k)), ll_arg_ptr(g, k), b->out[k].offset);
  Group q = {.val = r->all, .base_in = r->arg_in, .base_out = r->arg_out};
  for (int d = 0; d < b->ndim; d++)
    q.index[d] = ll_n(g, 0);
  Lanes s = lanes_of(r, &q, 1, NULL, r->all);
  for (int i = 0; i < b->nstmt; i++)
    if (b->stmt[i].level == LV_ALL && b->stmt[i].prim != PR_STORE &&
        !prim_is_reduction(b->stmt[i].prim) && !emit(r, &s, i))
      return false;
  return true;
}

/* Loads that are the same in all rows, into scratch. */
static bool hoist_loads(Rows *r) {
  bool any = false;
  for (int i = 0; i < r->body.nstmt; i++)
    any = any || r->plan[i].hoisted;
  if (!any)
    return true;
  Val *val = calloc(2 * (size_t)r->body.nstmt + 1, sizeof *val);
  if (!val)
    return gen_fail(r->g, "out of memory");
  Group q = {.val = r->all, .base_in = r->arg_in, .base_out = r->arg_out};
  for (int d = 0; d < r->body.ndim; d++)
    q.index[d] = ll_n(r->g, 0);
  Pass p = {.r = r, .pass = HOIST, .ngroup = 1, .group = &q, .val = val};
  bool ok = nest(&p, r->nrow);
  free(val);
  return ok;
}

static void zero_column_sums(Rows *r) {
  Gen *g = r->g;
  for (int i = 0; i < r->body.nstmt; i++) {
    if (r->body.stmt[i].prim != PR_CSUM)
      continue;
    int64_t bytes = r->cols * (int64_t)dtype_bytes((DType)r->body.stmt[i].dt);
    int step = g->level->vector_bytes; /* buffers are padded to 64 bytes */
    Loop l = ll_loop(g, ll_n(g, 0), ll_n(g, bytes), step);
    Val at = ll_gep(g, g->i8, ll_gepc(g, g->i8, g->scratch, r->plan[i].scratch), l.i);
    ll_store(g, ll_i(ll_vec(g->i32, step / 4), 0), at, NULL);
    ll_loop_end(g, &l);
  }
}

static void start_panel_sums(Rows *r) {
  for (int i = 0; i < r->body.nstmt; i++) {
    int p = r->body.stmt[i].prim;
    if (p != PR_ASUM && p != PR_AMAX && p != PR_AMIN)
      continue;
    bool vector = r->on_rows || r->plan[i].pass >= 0;
    int n = r->plan[i].pass >= 0 ? r->unroll[r->plan[i].pass] : 1;
    n = r->on_rows ? r->unroll[0] : n * r->together;
    for (int u = 0; u < n; u++)
      *rows_acc(r->sums, i, u) = rows_acc_start(r, i, vector ? rows_acc_lanes(r) : 1);
  }
}

/* Column sums into their partial result, lanes along the last column dimension. */
static void store_columns(Rows *r, int store, Lanes *s, Val column, int d) {
  Gen *g = r->g;
  const Body *b = &r->body;
  const Stmt *st = &b->stmt[store];
  int lanes = gen_lanes(g, r->op);
  if (d < b->ndim) {
    bool last = d == b->ndim - 1;
    int64_t n = b->dim[d], whole = last ? n / lanes * lanes : n;
    int64_t pairs = last && r->paired ? r->pairs_end : 0;
    Val outer = ll_mul(g, column, ll_n(g, n));
    s->count = NULL;
    if (pairs) {
      Loop l = ll_loop(g, ll_n(g, 0), ll_n(g, pairs), r->pair_lanes);
      s->index[d] = l.i;
      s->lanes = r->pair_lanes;
      s->paired = true;
      store_columns(r, store, s, ll_add(g, outer, l.i), MAX_DIMS);
      s->paired = false;
      ll_loop_end(g, &l);
    }
    s->lanes = lanes;
    if (whole > pairs) {
      Loop l = ll_loop(g, ll_n(g, pairs), ll_n(g, whole), last ? lanes : 1);
      s->index[d] = l.i;
      s->lanes = lanes;
      store_columns(r, store, s, ll_add(g, outer, l.i), last ? MAX_DIMS : d + 1);
      ll_loop_end(g, &l);
    }
    if (whole < n) {
      s->index[d] = ll_n(g, whole);
      s->count = ll_n(g, n - whole);
      store_columns(r, store, s, ll_add(g, outer, s->index[d]), MAX_DIMS);
    }
    return;
  }
  int from = st->arg[0];
  Ty t = ll_reg(g, (DType)b->stmt[from].dt);
  stmt_store(s, st->ref, ll_load(g, t, s->lanes, scratch_at(r, from, column), s->count));
}

static bool store_partials(Rows *r, Val panel) {
  Gen *g = r->g;
  const Body *b = &r->body;
  Val *base = calloc((size_t)b->nout + 1, sizeof *base);
  if (!base)
    return gen_fail(g, "out of memory");
  for (int i = 0; i < b->nstmt; i++) {
    const Stmt *st = &b->stmt[i];
    if (r->plan[i].sink != SINK_PANEL)
      continue;
    int from = st->arg[0], k = st->ref;
    DType dt = gen_out_dtype(r->op, k);
    base[k] =
        ll_gep(g, ll_mem(g, dt), r->arg_out[k], ll_mul(g, panel, ll_n(g, r->panel_stride[k])));
    if (b->stmt[from].prim == PR_CSUM) {
      Group q = {.base_in = r->arg_in, .base_out = base};
      for (int d = 0; d < b->ndim; d++)
        q.index[d] = ll_n(g, 0);
      int lanes = b->ncol ? gen_lanes(g, r->op) : 1;
      Lanes s = lanes_of(r, &q, lanes, NULL, NULL);
      s.lane_dim = b->ndim ? b->ndim - 1 : 0;
      store_columns(r, i, &s, ll_n(g, 0), r->nrow);
    } else {
      Val v = r->all[from];
      if (prim_is_reduction(b->stmt[from].prim))
        v = rows_acc_result(r, from, rows_acc_combined(r, from, r->sums, 0, 1), true);
      ll_put(g, dt, v, base[k], NULL);
    }
  }
  free(base);
  return !g->error[0];
}

/* Rows [first, end) with lanes along the last row dimension: groups never cross its end. */
static bool lane_rows(Rows *r, Val first, Val end) {
  Gen *g = r->g;
  int64_t n = r->body.dim[r->lane_dim], lanes = r->lanes, u = r->unroll[0];
  Val var = ll_var(g, first);
  While w = ll_while(g);
  Val row = ll_var_get(g, var);
  ll_while_body(g, &w, ll_icmp(g, LLVMIntSLT, row, end));
  Val room = ll_sub(g, end, row);
  if (r->nrow > 1)
    room = ll_umin(g, room, ll_sub(g, ll_n(g, n), ll_urem(g, row, n)));
  Val step = ll_var(g, room);
  bool ok = true;
  /* AVX-512 masks cost little: long bodies are written once, masked */
  bool once = g->level->avx512 && u == 1 && r->body.nstmt > 40;
  bool many = u > 1 && n >= u * lanes, one = n >= lanes && !once;
  If f = {0}, h = {0};
  if (many) {
    f = ll_if(g, ll_icmp(g, LLVMIntSGE, room, ll_n(g, u * lanes)));
    ok = run_groups(r, row, (int)u, NULL);
    ll_var_set(g, step, ll_n(g, u * lanes));
    ll_else(g, &f);
  }
  if (one && ok) {
    h = ll_if(g, ll_icmp(g, LLVMIntSGE, room, ll_n(g, lanes)));
    ok = run_groups(r, row, 1, NULL);
    ll_var_set(g, step, ll_n(g, lanes));
    ll_else(g, &h);
  }
  if (once) {
    room = ll_umin(g, room, ll_n(g, lanes));
    ll_var_set(g, step, room);
  }
  ok = ok && run_groups(r, row, 1, room);
  if (!ok)
    return false;
  if (one)
    ll_endif(g, &h);
  if (many)
    ll_endif(g, &f);
  ll_var_set(g, var, ll_add(g, row, ll_var_get(g, step)));
  ll_while_end(g, &w);
  return true;
}

bool rows_by_one(Rows *r, Val first, Val end) {
  Gen *g = r->g;
  bool ok = true;
  if (r->together > 1) {
    Val rest = ll_and(g, ll_sub(g, end, first), ll_n(g, r->together - 1));
    Val whole_end = ll_sub(g, end, rest);
    Loop l = ll_loop(g, first, whole_end, r->together);
    ok = run_groups(r, l.i, r->together, NULL);
    ll_loop_end(g, &l);
    first = whole_end;
  }
  Loop l = ll_loop(g, first, end, 1);
  ok = ok && run_groups(r, l.i, 1, NULL);
  ll_loop_end(g, &l);
  return ok;
}

bool rows_panel(Rows *r, Val first, Val end, Val panel) {
  zero_column_sums(r);
  start_panel_sums(r);
  bool ok = hoist_loads(r);
  if (!ok)
    return false;
  if (r->blocked) {
    ok = rows_blocks(r, first, end);
  } else if (r->on_rows) {
    ok = lane_rows(r, first, end);
  } else {
    ok = rows_by_one(r, first, end);
  }
  return ok && store_partials(r, panel);
}

bool cpu_rows(Gen *g, const Op *group) {
  Rows r;
  g->may_branch = true;
  bool ok = rows_init(&r, g, group, group->body);
  if (ok) {
    g->ntiles = gen_tiles(r.rows, r.panel_rows);
    g->scratch_bytes = r.scratch_bytes;
    ok = rows_begin(&r);
  }
  if (ok && r.blocked) { /* panels have no results: their rows are one run */
    Val end = ll_mul(g, g->end, ll_n(g, r.panel_rows));
    ok = rows_blocks(&r, ll_mul(g, g->first, ll_n(g, r.panel_rows)),
                     ll_umin(g, end, ll_n(g, r.rows)));
  } else if (ok) {
    Loop tile = ll_loop(g, g->first, g->end, 1);
    Val first = ll_mul(g, tile.i, ll_n(g, r.panel_rows));
    Val end = ll_umin(g, ll_add(g, first, ll_n(g, r.panel_rows)), ll_n(g, r.rows));
    ok = rows_panel(&r, first, end, tile.i);
    ll_loop_end(g, &tile);
  }
  rows_fini(&r);
  return ok;
}
