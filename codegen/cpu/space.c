/* Decisions of the rows emitter: simplest iteration space, where the vector lanes run, how many
 * passes over a row, what is kept between them. */
#include "codegen/cpu/rows.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Buffers of values kept between passes may take this much of a thread's cache; of values that are
 * cheap to compute again, only what stays in the nearest cache. */
enum { MAX_SPILL_BYTES = 2 << 20, MAX_CHEAP_SPILL_BYTES = 16 << 10 };

/* What is fetched for the next group of rows has to stay in the second-level cache until then. */
enum { MAX_FETCH_BYTES = 512 << 10 };
/* What a single pass keeps under way: as many bytes of each stream as memory delivers while it
 * answers, all of them in half of a nearest cache. Measured with bench_rows: 1 kB leaves quantizing
 * bf16 at 0.85 of copying, 2 and 3 kB take it to 0.95. */
enum { MAX_AHEAD_BYTES = 3072, AHEAD_BYTES_OF_ALL = 24 << 10 };

/* ---- iteration space ---- */

static bool indexed(const Body *b, int dim) {
  for (int i = 0; i < b->nstmt; i++)
    if (b->stmt[i].prim == PR_INDEX && b->stmt[i].ref == dim)
      return true;
  return false;
}

static Access *access_at(Body *b, int k) {
  return k < b->nin ? &b->in[k] : &b->out[k - b->nin];
}

/* True when a step along `outer` is dim[inner] steps along `inner` for every access. */
static bool mergeable(Body *b, int outer, int inner) {
  for (int k = 0; k < b->nin + b->nout; k++) {
    const Access *a = access_at(b, k);
    if (a->stride[outer] != a->stride[inner] * b->dim[inner])
      return false;
  }
  return !indexed(b, outer) && !indexed(b, inner);
}

static void remove_dim(Body *b, int d) {
  for (int e = d; e + 1 < b->ndim; e++)
    b->dim[e] = b->dim[e + 1];
  for (int k = 0; k < b->nin + b->nout; k++) {
    Access *a = access_at(b, k);
    for (int e = d; e + 1 < b->ndim; e++)
      a->stride[e] = a->stride[e + 1];
    a->stride[b->ndim - 1] = 0;
  }
  for (int i = 0; i < b->nstmt; i++)
    if (b->stmt[i].prim == PR_INDEX && b->stmt[i].ref > d)
      b->stmt[i].ref--;
  b->ndim--;
}

/* Drops dimensions of 1 and merges neighbours within rows and within columns. */
static void simplify(Body *b, int *nrow) {
  for (int d = b->ndim - 1; d >= 0; d--) {
    bool row = d < *nrow;
    bool first = d == 0 || d == *nrow; /* of its kind */
    if (b->dim[d] == 1 && !indexed(b, d)) {
      remove_dim(b, d);
    } else if (!first && mergeable(b, d - 1, d)) {
      int64_t n = b->dim[d];
      for (int k = 0; k < b->nin + b->nout; k++)
        access_at(b, k)->stride[d - 1] = access_at(b, k)->stride[d];
      b->dim[d - 1] *= n;
      remove_dim(b, d);
    } else {
      continue;
    }
    if (row)
      --*nrow;
    else
      b->ncol--;
  }
}

/* What a level lacks counts as index 0: such strides are cleared, which lets dimensions merge. */
static void clear_strides(Body *b, int nrow, Access *a, Level level) {
  for (int d = 0; d < b->ndim; d++)
    if (d < nrow ? level == LV_ALL || level == LV_COL : level == LV_ALL || level == LV_ROW)
      a->stride[d] = 0;
}

static bool copy_body(Rows *r, const Body *from) {
  Body *b = &r->body;
  *b = *from;
  b->in = calloc((size_t)from->nin + 1, sizeof *b->in);
  b->out = calloc((size_t)from->nout + 1, sizeof *b->out);
  b->stmt = calloc((size_t)from->nstmt + 1, sizeof *b->stmt);
  r->panel_stride = calloc((size_t)from->nout + 1, sizeof *r->panel_stride);
  r->plan = calloc((size_t)from->nstmt + 1, sizeof *r->plan);
  r->arg_in = calloc((size_t)from->nin + 1, sizeof *r->arg_in);
  r->arg_out = calloc((size_t)from->nout + 1, sizeof *r->arg_out);
  r->all = calloc((size_t)from->nstmt + 1, sizeof *r->all);
  r->sums = calloc((size_t)from->nstmt * ROWS_MAX_UNROLL + 1, sizeof *r->sums);
  if (!b->in || !b->out || !b->stmt || !r->panel_stride || !r->plan || !r->arg_in || !r->arg_out ||
      !r->all || !r->sums)
    return gen_fail(r->g, "out of memory");
  memcpy(b->in, from->in, (size_t)from->nin * sizeof *b->in);
  memcpy(b->out, from->out, (size_t)from->nout * sizeof *b->out);
  memcpy(b->stmt, from->stmt, (size_t)from->nstmt * sizeof *b->stmt);
  for (int k = 0; k < from->nin + from->nout; k++) /* products keep a K stride there */
    for (int d = b->ndim; d < MAX_DIMS; d++)
      access_at(b, k)->stride[d] = 0;
  return true;
}

static bool classify(Rows *r) {
  Body *b = &r->body;
  Level *widest = calloc((size_t)b->nin + 1, sizeof *widest);
  if (!widest)
    return gen_fail(r->g, "out of memory");
  for (int i = 0; i < b->nstmt; i++) {
    const Stmt *s = &b->stmt[i];
    r->plan[i] = (StmtPlan){.spill = -1, .pass = -1, .scratch = -1};
    if (s->prim == PR_LOAD && s->level > widest[s->ref])
      widest[s->ref] = (Level)s->level;
    if (s->level == LV_COL && s->prim != PR_CSUM && s->prim != PR_STORE)
      gen_fail(r->g, "statement %d: values per column other than csum are not supported", i);
    if (s->prim != PR_STORE)
      continue;
    Level level = (Level)b->stmt[s->arg[0]].level;
    r->plan[i].sink = level == LV_ELEM ? SINK_ELEM : level == LV_ROW ? SINK_ROW : SINK_PANEL;
    if (r->plan[i].sink == SINK_PANEL)
      r->panel_stride[s->ref] = r->nrow ? b->out[s->ref].stride[0] : 0;
    clear_strides(b, r->nrow, &b->out[s->ref], level);
  }
  for (int k = 0; k < b->nin; k++)
    clear_strides(b, r->nrow, &b->in[k], widest[k]);
  free(widest);
  return !r->g->error[0];
}

/* Loads that are only stored again, to the same dtype, need no decoding. */
static void find_copies(Rows *r) {
  for (int i = 0; i < r->body.nstmt; i++) {
    Stmt *s = &r->body.stmt[i];
    DType dt = s->prim == PR_LOAD ? gen_in_dtype(r->op, s->ref) : MPCC_F32;
    bool copy = s->prim == PR_LOAD && s->level != LV_ALL && dtype_bytes(dt) <= 4 && dt != MPCC_F32;
    for (int j = i + 1; copy && j < r->body.nstmt; j++) {
      const Stmt *u = &r->body.stmt[j];
      for (int k = 0; k < prim_args((Prim)u->prim); k++)
        if (u->arg[k] == i && (u->prim != PR_STORE || gen_out_dtype(r->op, u->ref) != dt))
          copy = false;
    }
    if (s->prim == PR_LOAD)
      s->rd = copy ? STMT_RAW : 0;
  }
}

/* ---- lanes ---- */

static int math_cost(const Stmt *s) {
  switch ((Prim)s->prim) {
  case PR_EXP:
  case PR_LOG:
  case PR_TANH:
    return 20;
  case PR_ERF:
  case PR_SIN:
  case PR_COS:
    return 40;
  case PR_TF32:
    return 6;
  case PR_SR_BF16:
  case PR_SR_F16:
    return 12;
  case PR_RAND:
    return 100;
  case PR_DIV:
  case PR_SQRT:
    return 4;
  case PR_CONST:
  case PR_PARAM:
  case PR_INDEX:
    return 0;
  default:
    return 1;
  }
}

/* Instructions of one statement for a whole vector with lanes along dimension d. */
static int stmt_cost(const Rows *r, int i, int d, int lanes) {
  const Stmt *s = &r->body.stmt[i];
  if (s->prim != PR_LOAD && s->prim != PR_STORE)
    return math_cost(s) + (s->prim == PR_CSUM && d < r->nrow ? lanes : 0);
  const Access *a = s->prim == PR_LOAD ? &r->body.in[s->ref] : &r->body.out[s->ref];
  return a->stride[d] == 0 || a->stride[d] == 1 ? 2 : 2 * lanes;
}

/* Estimated instructions per element with lanes along d; -1: no lanes. */
static double lanes_cost(const Rows *r, int d, int lanes) {
  double elem = 0, row = 0;
  for (int i = 0; i < r->body.nstmt; i++) {
    const Stmt *s = &r->body.stmt[i];
    bool per_elem = s->prim == PR_STORE          ? r->plan[i].sink == SINK_ELEM
                    : prim_is_reduction(s->prim) ? true
                                                 : s->level == LV_ELEM;
    bool per_row = s->prim == PR_STORE ? r->plan[i].sink == SINK_ROW : s->level == LV_ROW;
    if (per_elem)
      elem += d < 0 ? math_cost(s) : stmt_cost(r, i, d, lanes);
    else if (per_row)
      row += d < 0 || d >= r->nrow ? math_cost(s) : stmt_cost(r, i, d, lanes);
  }
  double cols = (double)r->cols;
  if (d < 0)
    return elem + row / cols;
  double full = (double)r->body.dim[d] / lanes;
  double groups = (double)((r->body.dim[d] + lanes - 1) / lanes);
  double use = groups / full / lanes;
  return d >= r->nrow ? elem * use + (row + 4) / cols : (elem + (row + 4) / cols) * use;
}

static void choose_lanes(Rows *r) {
  int lanes = gen_lanes(r->g, r->op);
  double best = lanes_cost(r, -1, 1);
  r->lanes = 1;
  r->lane_dim = 0;
  int col = r->body.ndim - 1, row = r->nrow - 1;
  if (r->body.ncol > 0 && lanes_cost(r, col, lanes) < best) {
    best = lanes_cost(r, col, lanes);
    r->lanes = lanes;
    r->lane_dim = col;
  }
  if (r->nrow > 0 && lanes_cost(r, row, lanes) < best) {
    r->lanes = lanes;
    r->lane_dim = row;
    r->on_rows = true;
  }
}

/* A load of elements that is the same in all rows. */
static bool same_in_rows(const Rows *r, int i) {
  const Stmt *s = &r->body.stmt[i];
  if (s->prim != PR_LOAD || s->level != LV_ELEM)
    return false;
  for (int d = 0; d < r->nrow; d++)
    if (r->body.in[s->ref].stride[d])
      return false;
  return r->body.in[s->ref].stride[r->lane_dim] == 1;
}

/* Columns are done in pairs of vectors when that saves instructions of loads and stores: bf16
 * gains, the others are put in order by a permutation. Loads that are the same in all rows are
 * decoded once a panel then. */
static void choose_pairs(Rows *r) {
  int64_t n = r->body.ndim ? r->body.dim[r->lane_dim] : 0, lanes = r->lanes;
  int64_t rows = r->panel_rows < r->rows ? r->panel_rows : r->rows;
  bool hoist = rows >= 4 && r->cols * 4 <= MAX_CHEAP_SPILL_BYTES;
  int gain = 0, bytes = 0, heavy = 0; /* bytes: stores of one */
  if (r->on_rows || lanes == 1 || lanes != gen_lanes(r->g, r->op) || n < 2 * lanes)
    return;
  for (int i = 0; i < r->body.nstmt; i++) {
    const Stmt *s = &r->body.stmt[i];
    bool store = s->prim == PR_STORE;
    heavy += math_cost(s) >= 20 || s->prim == PR_CSUM;
    if (store ? r->plan[i].sink != SINK_ELEM : s->prim != PR_LOAD || s->level != LV_ELEM)
      continue;
    int64_t stride = (store ? r->body.out : r->body.in)[s->ref].stride[r->lane_dim];
    DType dt = store ? gen_out_dtype(r->op, s->ref) : gen_in_dtype(r->op, s->ref);
    bool raw = s->rd == STMT_RAW || (store && r->body.stmt[s->arg[0]].rd == STMT_RAW);
    if (!stride || raw || (!store && hoist && same_in_rows(r, i)))
      continue;
    bool fp8 = dt == MPCC_E4M3 || dt == MPCC_E5M2;
    gain += dt == MPCC_BF16 ? store ? 2 : 1 : fp8 ? 0 : -1;
    bytes += store && fp8;
  }
  if (gain <= 0)
    return;
  /* Two pairs of 8-bit codes are packed and tested for NaN together. */
  bool two = bytes == 1 && !heavy && r->body.nstmt <= 16 && r->g->level->avx512 && n >= 4 * lanes;
  r->paired = true;
  r->pair_lanes = (int)lanes * (two ? 4 : 2);
  r->pairs_end = n / r->pair_lanes * r->pair_lanes;
  for (int i = 0; i < r->body.nstmt; i++)
    r->plan[i].hoisted = hoist && r->body.stmt[i].rd != STMT_RAW && same_in_rows(r, i);
}

/* Arithmetic hands on a NaN among its operands, made quiet, or gives the quiet NaN with nothing
 * else in it. */
static NanKind nan_kind(const Rows *r, int i) {
  const Stmt *s = &r->body.stmt[i];
  NanKind least = NAN_PLAIN;
  for (int k = 0; k < prim_args((Prim)s->prim); k++) {
    NanKind kind = s->arg[k] >= 0 ? (NanKind)r->plan[s->arg[k]].nan : NAN_PLAIN;
    least = kind < least ? kind : least;
  }
  NanKind quiet = least == NAN_ANY ? NAN_ANY : NAN_PLAIN;
  if (s->dt == MPCC_I64 || s->dt == MPCC_B1)
    return NAN_PLAIN;
  switch ((Prim)s->prim) {
  case PR_CONST:
    return isnan(s->imm) ? NAN_ANY : NAN_PLAIN;
  case PR_LOAD:
    return r->plan[i].cleaned                         ? NAN_PLAIN
           : gen_in_dtype(r->op, s->ref) == MPCC_BF16 ? NAN_SHORT
                                                      : NAN_ANY;
  case PR_ADD:
  case PR_SUB:
  case PR_MUL:
  case PR_DIV:
  case PR_SQRT:
  case PR_EXP:
  case PR_LOG:
  case PR_TANH:
  case PR_ERF:
  case PR_RSUM:
    return quiet;
  case PR_NEG:
  case PR_ABS:
  case PR_MIN:
  case PR_MAX:
  case PR_SELECT:
  case PR_RMAX:
  case PR_RMIN:
    return least;
  default:
    return NAN_ANY;
  }
}

/* Few loads of f32 are left where columns are paired for bf16: one a panel or row, or decoded once.
 */
static void find_nan(Rows *r) {
  for (int i = 0; i < r->body.nstmt; i++) {
    const Stmt *s = &r->body.stmt[i];
    r->plan[i].cleaned = r->paired && s->prim == PR_LOAD && s->dt == MPCC_F32 &&
                         s->rd != STMT_RAW && (s->level != LV_ELEM || r->plan[i].hoisted);
    r->plan[i].nan = nan_kind(r, i);
  }
}

/* ---- passes ---- */

static bool is_elem_sink(const Rows *r, int i) {
  const Stmt *s = &r->body.stmt[i];
  if (s->prim == PR_STORE)
    return r->plan[i].sink == SINK_ELEM;
  if (s->prim == PR_ASUM || s->prim == PR_AMAX || s->prim == PR_AMIN)
    return r->body.stmt[s->arg[0]].level == LV_ELEM;
  return prim_is_reduction(s->prim) && !r->plan[i].picked;
}

/* Largest magnitudes of a 16-bit format, in the pass that loads them: their bits have the same
 * order, and there are twice as many in a vector. */
static bool is_raw(const Rows *r, int i) {
  const Stmt *s = &r->body.stmt[i];
  if ((s->prim != PR_RMAX && s->prim != PR_AMAX) || r->on_rows || r->lanes == 1)
    return false;
  const Stmt *abs = &r->body.stmt[s->arg[0]], *load = abs;
  if (abs->prim == PR_ABS)
    load = &r->body.stmt[abs->arg[0]];
  if (abs->prim != PR_ABS || load->prim != PR_LOAD || load->level != LV_ELEM ||
      r->plan[abs->arg[0]].hoisted || r->plan[i].pass != 0)
    return false;
  DType dt = gen_in_dtype(r->op, load->ref);
  return (dt == MPCC_BF16 || dt == MPCC_F16) && r->body.in[load->ref].stride[r->lane_dim] == 1;
}

/* Sums over the columns of select(column == v, x, 0): one element of x, when nothing has to be gone
 * through before it is known. */
static bool is_picked(const Rows *r, int i) {
  const Stmt *s = &r->body.stmt[i], *list = r->body.stmt;
  if (s->prim != PR_RSUM || s->dt == MPCC_I64 || r->on_rows || r->body.ndim - r->nrow != 1)
    return false;
  const Stmt *chosen = &list[s->arg[0]];
  if (chosen->prim != PR_SELECT || chosen->level != LV_ELEM || list[chosen->arg[0]].prim != PR_EQ)
    return false;
  const Stmt *hit = &list[chosen->arg[0]], *zero = &list[chosen->arg[2]];
  const Stmt *column = &list[hit->arg[0]], *place = &list[hit->arg[1]];
  return zero->prim == PR_CONST && zero->imm == 0 && column->prim == PR_INDEX &&
         column->ref == r->nrow && column->level == LV_ELEM && place->level != LV_ELEM &&
         place->dt == MPCC_I64 && r->plan[s->arg[0]].ready == 0;
}

static void find_ready(Rows *r) {
  r->npass = 0;
  for (int i = 0; i < r->body.nstmt; i++) {
    const Stmt *s = &r->body.stmt[i];
    StmtPlan *p = &r->plan[i];
    for (int k = 0; k < prim_args((Prim)s->prim); k++)
      if (s->arg[k] >= 0 && r->plan[s->arg[k]].ready > p->ready)
        p->ready = r->plan[s->arg[k]].ready;
    p->picked = is_picked(r, i);
    if (!is_elem_sink(r, i))
      continue;
    p->pass = p->ready;
    p->raw = is_raw(r, i);
    if (p->pass + 1 > r->npass)
      r->npass = p->pass + 1;
    if (prim_is_row_reduction(s->prim))
      p->ready = p->pass + 1;
  }
}

static int64_t spill_bytes(const Rows *r, int i) {
  int64_t lanes = r->on_rows ? (int64_t)r->lanes * ROWS_MAX_UNROLL : 1;
  return r->cols * lanes * (int64_t)dtype_bytes((DType)r->body.stmt[i].dt);
}

/* Decoding takes the ports that arithmetic wants, memory has its own: loads of few bits are kept
 * decoded. */
static bool is_narrow(const Rows *r, int i) {
  const Stmt *s = &r->body.stmt[i];
  return s->prim == PR_LOAD && s->level == LV_ELEM && s->rd != STMT_RAW && !r->plan[i].hoisted &&
         (r->lanes == 1 || r->body.in[s->ref].stride[r->lane_dim] == 1) &&
         dtype_bytes(gen_in_dtype(r->op, s->ref)) <= 2;
}

/* Whether what a row leaves in scratch when its narrow loads are kept, too, lies in the nearest
 * cache beside the row itself: else they come from further away than the row. */
static bool keeps_narrow(const Rows *r) {
  int64_t bytes = 0;
  for (int i = 0; i < r->body.nstmt; i++)
    if (r->plan[i].hoisted || r->body.stmt[i].prim == PR_CSUM || is_narrow(r, i))
      bytes += spill_bytes(r, i);
  return bytes <= MAX_CHEAP_SPILL_BYTES;
}

/* Values worth a round trip through scratch when a later pass wants them again. */
static bool worth_keeping(const Rows *r, int i) {
  const Stmt *s = &r->body.stmt[i];
  if (s->level != LV_ELEM || s->dt == MPCC_B1 || spill_bytes(r, i) > MAX_SPILL_BYTES)
    return false;
  if (s->prim != PR_LOAD)
    return math_cost(s) >= 20;
  if (s->rd == STMT_RAW || r->plan[i].hoisted)
    return false;
  int64_t stride = r->lanes > 1 ? r->body.in[s->ref].stride[r->lane_dim] : 1;
  return (stride != 0 && stride != 1) || (is_narrow(r, i) && keeps_narrow(r));
}

static void need(Rows *r, int pass, int i) {
  const Stmt *s = &r->body.stmt[i];
  bool *mark = &r->needed[(size_t)pass * (size_t)r->body.nstmt + (size_t)i];
  if (*mark || (s->level != LV_ELEM && !is_elem_sink(r, i)) ||
      (prim_is_reduction(s->prim) && r->plan[i].pass != pass))
    return;
  *mark = true;
  for (int q = 0; q < pass; q++)
    if (rows_needed(r, q, i) && worth_keeping(r, i)) {
      if (r->plan[i].spill < 0)
        r->plan[i].spill = q;
      return; /* read back: its arguments are not needed here */
    }
  for (int k = 0; k < prim_args((Prim)s->prim); k++)
    if (s->arg[k] >= 0)
      need(r, pass, s->arg[k]);
}

static void find_needed(Rows *r) {
  memset(r->needed, 0, (size_t)r->npass * (size_t)r->body.nstmt * sizeof *r->needed);
  for (int i = 0; i < r->body.nstmt; i++)
    r->plan[i].spill = -1;
  for (int p = 0; p < r->npass; p++)
    for (int i = 0; i < r->body.nstmt; i++)
      if (is_elem_sink(r, i) && r->plan[i].pass == p)
        need(r, p, i);
}

/* Whether result `out` may be in place of operand `in` (docs/groups.md). */
static bool may_share(const Rows *r, int out, int in) {
  const Access *a = &r->body.out[out], *b = &r->body.in[in];
  return gen_out_dtype(r->op, out) == gen_in_dtype(r->op, in) && a->offset == b->offset &&
         !memcmp(a->stride, b->stride, sizeof a->stride);
}

/* A store in place of an operand that a later pass reads again has to wait for the last pass. */
static bool delay_stores(Rows *r) {
  bool changed = false;
  for (int i = 0; i < r->body.nstmt; i++) {
    const Stmt *s = &r->body.stmt[i];
    if (s->prim != PR_STORE || r->plan[i].sink != SINK_ELEM || r->plan[i].pass == r->npass - 1)
      continue;
    for (int p = r->plan[i].pass + 1; p < r->npass; p++)
      for (int j = 0; j < r->body.nstmt; j++)
        if (r->body.stmt[j].prim == PR_LOAD && rows_needed(r, p, j) &&
            may_share(r, s->ref, r->body.stmt[j].ref)) {
          r->plan[i].pass = r->npass - 1;
          changed = true;
        }
  }
  return changed;
}

static void choose_unroll(Rows *r, int pass) {
  int ops = 0, heavy = 0, huge = 0;
  for (int i = 0; i < r->body.nstmt; i++)
    if (rows_needed(r, pass, i)) {
      ops++;
      heavy += math_cost(&r->body.stmt[i]) >= 20;
      huge += math_cost(&r->body.stmt[i]) / 40;
    }
  bool wide = r->g->level->avx512;
  int u = heavy ? (wide && ops < 40 && huge < 2 ? 2 : 1) : ops <= 24 ? 4 : ops <= 60 ? 2 : 1;
  int64_t groups = r->lanes > 1 ? r->body.dim[r->lane_dim] / r->lanes : 1;
  if (r->paired) {
    u = u * r->lanes / r->pair_lanes;
    u = u > 1 ? u : 1;
    groups = r->pairs_end / r->pair_lanes;
  }
  while (u > 1 && u > groups)
    u /= 2;
  r->unroll[pass] = r->lanes > 1 ? u : 1;
}

/* Between the passes of a short row there is little else to do while lanes are summed. Each row has
 * the same sums in the same order, alone or not. */
static void choose_together(Rows *r) {
  bool short_rows = r->npass > 1 && r->cols <= 2048 && r->body.nstmt <= 60;
  int64_t spilled = 0;
  int most = 4;
  for (int i = 0; i < r->body.nstmt; i++) {
    const Stmt *st = &r->body.stmt[i];
    if (st->level == LV_ELEM && math_cost(st) >= 20)
      most = math_cost(st) >= 40 ? 1 : most > 2 ? 2 : most; /* busy enough */
    if (st->prim == PR_CSUM && most > 2)                    /* their sums take registers */
      most = 2;
    spilled += r->plan[i].spill >= 0 ? spill_bytes(r, i) : 0;
  }
  while (most > 2 && most * spilled > MAX_CHEAP_SPILL_BYTES)
    most /= 2;
  while (most > 1 && (most > r->rows || most > r->panel_rows))
    most /= 2;
  r->together = short_rows && !r->on_rows && r->lanes > 1 ? most : 1;
  for (int p = 0; p < r->npass; p++)
    if (r->unroll[p] * r->together > ROWS_MAX_UNROLL)
      r->unroll[p] = ROWS_MAX_UNROLL / r->together;
}

bool rows_is_stream(const Rows *r, int i) {
  const Stmt *s = &r->body.stmt[i];
  if (s->prim == PR_STORE)
    return r->plan[i].sink == SINK_ELEM;
  return s->prim == PR_LOAD && s->level == LV_ELEM && rows_needed(r, 0, i) && !r->plan[i].hoisted;
}

/* Instructions of a pass, roughly. */
static int pass_cost(const Rows *r, int pass) {
  int cost = 0;
  for (int i = 0; i < r->body.nstmt; i++) {
    int spill = r->plan[i].spill;
    bool store = r->body.stmt[i].prim == PR_STORE;
    if (rows_needed(r, pass, i))
      cost += spill >= 0 && spill < pass ? 1 : store ? 4 : math_cost(&r->body.stmt[i]);
  }
  return cost;
}

/* The rows of the next group, load by load and store by store, are shared out over the passes of
 * this one by what these compute: memory that works in one pass alone waits in the others. Loads of
 * a later pass alone are left to the processor. */
static void share_fetches(Rows *r) {
  int units = 0, unit = 0, total = 0, pass = 0, done = 0, streams = 0;
  int64_t bytes = 0;
  for (int i = 0; i < r->body.nstmt; i++) {
    const Stmt *s = &r->body.stmt[i];
    if (!rows_is_stream(r, i))
      continue;
    DType dt = s->prim == PR_STORE ? gen_out_dtype(r->op, s->ref) : gen_in_dtype(r->op, s->ref);
    bytes += r->cols * r->together * (int64_t)dtype_bytes(dt);
    units += r->together;
    streams++;
  }
  r->ahead = streams ? AHEAD_BYTES_OF_ALL / streams / 64 * 64 : 0;
  if (r->ahead > MAX_AHEAD_BYTES)
    r->ahead = MAX_AHEAD_BYTES;
  for (int p = 0; p < r->npass; p++)
    total += pass_cost(r, p);
  if (r->npass < 2 || bytes > MAX_FETCH_BYTES)
    return;
  done = pass_cost(r, 0);
  for (int i = 0; i < r->body.nstmt; i++)
    for (int q = 0; rows_is_stream(r, i) && q < r->together; q++, unit++) {
      while (pass < r->npass - 1 && (2 * unit + 1) * total > 2 * units * done)
        done += pass_cost(r, ++pass);
      r->fetched[pass * r->body.nstmt + i]++;
    }
}

static void place_scratch(Rows *r) {
  for (int i = 0; i < r->body.nstmt; i++) {
    int64_t bytes = 0;
    if (r->body.stmt[i].prim == PR_CSUM)
      bytes = r->cols * (int64_t)dtype_bytes((DType)r->body.stmt[i].dt);
    else if (r->plan[i].hoisted)
      bytes = spill_bytes(r, i);
    else if (r->plan[i].spill >= 0)
      bytes = (spill_bytes(r, i) + 63) / 64 * 64 * r->together;
    if (!bytes)
      continue;
    r->plan[i].scratch = r->scratch_bytes;
    r->scratch_bytes += (bytes + 63) / 64 * 64;
  }
}

bool rows_init(Rows *r, Gen *g, const Op *op, const Body *body) {
  *r = (Rows){.g = g, .op = op, .nrow = body->ndim - body->ncol};
  if (!copy_body(r, body) || !classify(r))
    return false;
  find_copies(r);
  r->rows = r->cols = 1;
  for (int d = 0; d < body->ndim; d++)
    *(d < r->nrow ? &r->rows : &r->cols) *= body->dim[d];
  r->panel_rows = body->panel_rows > 0 ? body->panel_rows : r->rows;
  if (r->rows <= 0 || r->cols <= 0)
    return gen_fail(g, "group without elements");
  simplify(&r->body, &r->nrow);
  choose_lanes(r);
  r->blocked = rows_can_block(r);
  if (r->blocked) { /* so run the lanes of rows that fill no block */
    r->lanes = gen_lanes(g, op);
    r->lane_dim = r->body.ndim - 1;
    r->on_rows = false;
  } else {
    choose_pairs(r);
  }
  find_nan(r);
  find_ready(r);
  r->needed = calloc((size_t)(r->npass + 1) * ((size_t)r->body.nstmt + 1), sizeof *r->needed);
  r->unroll = calloc((size_t)r->npass + 1, sizeof *r->unroll);
  r->fetched = calloc((size_t)(r->npass + 1) * ((size_t)r->body.nstmt + 1), sizeof *r->fetched);
  if (!r->needed || !r->unroll || !r->fetched)
    return gen_fail(g, "out of memory");
  find_needed(r);
  while (delay_stores(r))
    find_needed(r);
  for (int p = 0; p < r->npass; p++)
    choose_unroll(r, p);
  choose_together(r);
  share_fetches(r);
  if (r->on_rows) { /* one unrolling for all: a row group goes through every pass */
    int u = r->npass ? ROWS_MAX_UNROLL : 1;
    for (int p = 0; p < r->npass; p++)
      u = r->unroll[p] < u ? r->unroll[p] : u;
    for (int p = 0; p <= r->npass; p++)
      r->unroll[p] = u;
  }
  place_scratch(r);
  return true;
}

void rows_fini(Rows *r) {
  free(r->body.in);
  free(r->body.out);
  free(r->body.stmt);
  free(r->panel_stride);
  free(r->plan);
  free(r->arg_in);
  free(r->arg_out);
  free(r->all);
  free(r->sums);
  free(r->needed);
  free(r->unroll);
  free(r->fetched);
  *r = (Rows){0};
}
