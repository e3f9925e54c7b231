/* What attention and its gradient share: sizes, moving rows between memory and scratch, and the
 * three products, all through the micro-kernel.
 *
 * A block of up to 64 queries meets all keys it sees. Scratch holds its scores, keys x queries, so
 * memory grows with the number of keys, never with queries x keys. Operands are copied into scratch
 * rows (converted to f32 or f64, padded with zeros) once per tile, which also takes their strides
 * out of the inner loops. */
#include "codegen/cpu/attn.h"

#include <math.h>

enum { MOST_VECTORS = 6, BLOCK_COST = 4 }; /* of a block of queries; in lanes */

/* Vectors per micro-kernel call that cover n vectors evenly; where none does, n is padded. */
static int vectors(const Gen *g, int64_t *n) {
  for (int v = g->level->avx512 ? 5 : 3; v > 1; v--)
    if (*n % v == 0 && v != 4)
      return v;
  if (*n == 1)
    return 1;
  *n = round_up(*n, 2);
  return 2;
}

/* Queries of a block: as few lanes as possible are computed for padding. */
static int64_t block_queries(const Attn *a) {
  int64_t best = 0, best_cost = INT64_MAX;
  for (int64_t n = MOST_VECTORS; n >= 1; n--) {
    int64_t whole = n, queries = n * a->c.vl < a->T ? n * a->c.vl : a->T;
    int nv = vectors(a->g, &whole);
    int64_t blocks = ceil_div(a->T, queries), last = a->T - (blocks - 1) * queries;
    int64_t cost =
        (blocks - 1) * whole * a->c.vl + round_up(last, nv * a->c.vl) + blocks * BLOCK_COST;
    if (cost < best_cost)
      best_cost = cost, best = queries;
  }
  return best;
}

/* An odd number of cache lines, so that rows spread over all sets. */
static int64_t row_elems(const Attn *a, int64_t elems) {
  int64_t line = 64 / a->c.unit_bytes;
  return (ceil_div(elems, line) | 1) * line;
}

/* Whether operand k is bf16 whose pairs along D lie side by side. */
static bool has_pairs(const Attn *a, int k) {
  return gen_in_dtype(a->group, k) == MPCC_BF16 && a->body->in[k].stride[3] == 1;
}

/* Products that make scores: k rows by q columns; in the gradient (q not the first operand) v by
 * do, too. */
static bool plan_scores(Attn *a, int q) {
  a->pairs = micro_dtype(a->group) == MPCC_BF16 && !a->codes && a->D % 2 == 0 && has_pairs(a, q) &&
             has_pairs(a, q + 1) && (q == 0 || (has_pairs(a, 0) && has_pairs(a, q + 2)));
  a->sunits = a->pairs ? a->D / 2 : a->D;
  a->swidth = a->pairs ? round_up(a->sunits, a->c.vl) : a->width;
  a->ss = row_elems(a, a->swidth);
  a->sc = a->c;
  return !a->pairs || micro_compute(a->g, MPCC_BF16, &a->sc);
}

static bool plan_random(Attn *a) {
  a->dropout = a->dropout_p > 0;
  if (!a->dropout)
    return true;
  if (a->group->nin < a->seed_in + 2 || a->body->nparam < 1)
    return gen_fail(a->g, "attention with dropout has no seed, step or stream");
  a->seed_slot = gen_in_slot(a->group, a->seed_in);
  a->step_slot = gen_in_slot(a->group, a->seed_in + 1);
  return true;
}

/* Operands behind all others: the inverse scales. */
static bool plan_codes(Attn *a) {
  Gen *g = a->g;
  const Op *op = a->group;
  const int first = a->seed_in + 2 * a->dropout, n = a->seed_in >= 6 ? 4 : 3;
  Val *const to[4] = {&a->sq, &a->sk, &a->sv, &a->sdo};
  a->codes = op_attr(op, "p_dtype") != NULL;
  if (!a->codes)
    return true;
  if (op->nin < first + n)
    return gen_fail(g, "attention of codes without their scales");
  a->p_format = (DType)op_int(op, "p_dtype", MPCC_E4M3);
  a->ds_format = (DType)op_int(op, "ds_dtype", MPCC_E5M2);
  a->p_scale = op_float(op, "p_scale", 1);
  a->ds_scale = op_float(op, "ds_scale", 1);
  for (int i = 0; i < n; i++) {
    Val at = ll_gepc(g, g->f32, ll_arg_ptr(g, gen_in_slot(op, first + i)),
                     a->body->in[first + i].offset);
    *to[i] = micro_convert(g, &a->c, ll_load(g, g->f32, 1, at, NULL));
  }
  Val unit = ll_fmul(g, ll_fmul(g, a->sq, a->sk), ll_f(a->c.sum, a->scale));
  a->score = ll_splat(g, unit, a->c.vl);
  return true;
}

bool attn_plan(Attn *a, Gen *g, const Op *group, int q) {
  const Body *b = group->body;
  int mask = op_int(group, "mask", 0) ? q + 3 : 0;
  *a = (Attn){.g = g,
              .group = group,
              .body = b,
              .mask_in = mask,
              .seed_in = q + 3 + (mask != 0),
              .round = MPCC_DTYPE_COUNT};
  if (b->ndim != 4 || group->nin < q + 3)
    return gen_fail(g, "attention over %d dimensions", b->ndim);
  /* Half precision operands are multiplied as f32, exact products, but for pairs. */
  bool wide = micro_dtype(group) == MPCC_F64;
  if (!micro_compute(g, wide ? MPCC_F64 : MPCC_F32, &a->c))
    return false;
  a->N = b->dim[0], a->H = b->dim[1], a->T = b->dim[2], a->D = b->dim[3];
  a->S = op_int(group, "keys", a->T);
  a->share = a->H / op_int(group, "kv_heads", a->H);
  if (a->N < 1 || a->H < 1 || a->T < 1 || a->D < 1 || a->S < 1)
    return gen_fail(g, "attention over nothing");
  a->scale = op_float(group, "scale", 1 / sqrt((double)a->D));
  a->dropout_p = op_float(group, "dropout_p", 0);
  a->causal = op_int(group, "causal", 0) != 0;
  if (op_attr(group, "round"))
    a->round = (DType)op_int(group, "round", MPCC_DTYPE_COUNT);
  if (a->round == MPCC_F64 || (a->round == MPCC_F32 && !wide))
    a->round = MPCC_DTYPE_COUNT;
  a->queries = block_queries(a);
  a->blocks = ceil_div(a->T, a->queries);
  int64_t nq = ceil_div(a->queries, a->c.vl), nd = ceil_div(a->D, a->c.vl);
  a->lanes_nv = vectors(g, &nq);
  a->width_nv = vectors(g, &nd);
  a->lanes = nq * a->c.vl;
  a->width = nd * a->c.vl;
  a->keys = round_up(a->S, 2);
  a->ds = row_elems(a, a->width);
  a->qs = row_elems(a, a->lanes);
  a->key_rows = split_rows(a->S, micro_rows(g, a->lanes_nv));
  a->key_wide = split_rows(a->S, micro_rows(g, a->width_nv));
  a->query_rows = split_rows(a->queries, micro_rows(g, a->width_nv));
  return plan_random(a) && plan_codes(a) && plan_scores(a, q);
}

Val attn_scratch(Attn *a, int64_t elems) {
  int64_t at = a->g->scratch_bytes;
  a->g->scratch_bytes = round_up(at + elems * a->c.unit_bytes, 64);
  return ll_gepc(a->g, a->g->i8, a->g->scratch, at);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static Heads heads(Attn *a, Val base, DType dt, const Access *x, Val n, Val h) {
  Gen *g = a->g;
  Val at = ll_add(g, ll_mul(g, n, ll_n(g, x->stride[0])), ll_mul(g, h, ll_n(g, x->stride[1])));
  at = ll_add(g, at, ll_n(g, x->offset));
  return (Heads){dt, ll_gep(g, ll_mem(g, dt), base, at), x->stride[2], x->stride[3]};
}

/* Several heads of queries may read one of keys and values. */
Heads attn_in(Attn *a, int k, Val n, Val h) {
  int first_key = (a->mask_in ? a->mask_in : a->seed_in) - 2;
  if (a->share > 1 && (k == first_key || k == first_key + 1))
    h = ll_udiv(a->g, h, a->share);
  return heads(a, ll_arg_ptr(a->g, gen_in_slot(a->group, k)), gen_in_dtype(a->group, k),
               &a->body->in[k], n, h);
}

Heads attn_out(Attn *a, int k, Val n, Val h) {
  return heads(a, ll_arg_ptr(a->g, k), gen_out_dtype(a->group, k), &a->body->out[k], n, h);
}

static Val row_address(Attn *a, const Heads *x, Val row) {
  Gen *g = a->g;
  return ll_gep(g, ll_mem(g, x->dt), x->base, ll_mul(g, row, ll_n(g, x->row)));
}

/* Columns [d, d + valid) of a row, up to a vector, as sums dtype; zero behind. */
static Val get_vector(Attn *a, const Heads *x, Val row, Val d, int64_t valid) {
  Gen *g = a->g;
  int vl = a->c.vl;
  Val count = valid < vl ? ll_n(g, valid) : NULL, v;
  Val at = ll_gep(g, ll_mem(g, x->dt), row, ll_mul(g, d, ll_n(g, x->col)));
  if (x->col == 1) {
    v = ll_get(g, x->dt, vl, at, count);
  } else {
    v = ll_load_strided(g, ll_mem(g, x->dt), vl, at, ll_n(g, x->col), count);
    v = ll_decode(g, x->dt, v);
  }
  v = micro_convert(g, &a->c, v);
  if (count)
    v = ll_sel(g, ll_mask(g, vl, count), v, LLVMConstNull(LLVMTypeOf(v)));
  return v;
}

static void read_vector(Attn *a, const Heads *x, Val row, Val d, int64_t valid, Val to) {
  ll_store(a->g, get_vector(a, x, row, d, valid), ll_gep(a->g, a->c.sum, to, d), NULL);
}

Val attn_dot(Attn *a, const Heads *x, Val row, Val with) {
  Gen *g = a->g;
  Val from = row_address(a, x, row), sum = NULL;
  for (int64_t d = 0; d < a->D; d += a->c.vl) {
    Val v = get_vector(a, x, from, ll_n(g, d), a->D - d);
    Val y = ll_load(g, a->c.sum, a->c.vl, ll_gepc(g, a->c.sum, with, d), NULL);
    sum = sum ? ll_fma(g, v, y, sum) : ll_fmul(g, v, y);
  }
  return ll_hsum(g, sum);
}

/* Lines of one row. */
static void prefetch_row(Attn *a, const Heads *x, Val row) {
  Gen *g = a->g;
  Val at = row_address(a, x, row);
  for (int64_t b = 0; x->col == 1 && b < a->D * (int64_t)dtype_bytes(x->dt); b += 64)
    ll_prefetch(g, ll_gepc(g, g->i8, at, b));
}

/* Row `number` of x, about to be read: one some way ahead, and the same of `later`, are fetched. */
static Val next_row(Attn *a, const Heads *x, const Heads *later, Val number) {
  enum { ROWS_AHEAD = 8 };
  Val row = row_address(a, x, number);
  prefetch_row(a, x, ll_add(a->g, number, ll_n(a->g, ROWS_AHEAD)));
  if (later)
    prefetch_row(a, later, number);
  return row;
}

void attn_read(Attn *a, const Heads *x, const Heads *later, Val from, Val count, Val padded,
               Val to) {
  Gen *g = a->g;
  int64_t whole = a->D / a->c.vl * a->c.vl;
  Val zero = LLVMConstNull(ll_vec(a->c.sum, a->c.vl));
  Loop r = ll_loop(g, ll_n(g, 0), count, 1);
  Val row = next_row(a, x, later, ll_add(g, from, r.i));
  Val out = ll_gep(g, a->c.sum, to, ll_mul(g, r.i, ll_n(g, a->ds)));
  if (whole) {
    Loop d = ll_loop(g, ll_n(g, 0), ll_n(g, whole), a->c.vl);
    read_vector(a, x, row, d.i, a->c.vl, out);
    ll_loop_end(g, &d);
  }
  if (whole < a->D)
    read_vector(a, x, row, ll_n(g, whole), a->D - whole, out);
  for (int64_t d = round_up(a->D, a->c.vl); d < a->width; d += a->c.vl)
    ll_store(g, zero, ll_gepc(g, a->c.sum, out, d), NULL);
  ll_loop_end(g, &r);
  Loop p = ll_loop(g, count, padded, 1);
  Val rest = ll_gep(g, a->c.sum, to, ll_mul(g, p.i, ll_n(g, a->ds)));
  Loop d = ll_loop(g, ll_n(g, 0), ll_n(g, a->width), a->c.vl);
  ll_store(g, zero, ll_gep(g, a->c.sum, rest, d.i), NULL);
  ll_loop_end(g, &d);
  ll_loop_end(g, &p);
}

/* Units [u, u + valid) of a row of pairs, up to a vector; zero behind. */
static void copy_pairs(Attn *a, Val row, Val to, Val u, int64_t valid) {
  Gen *g = a->g;
  Val count = valid < a->sc.vl ? ll_n(g, valid) : NULL;
  Val v = ll_load(g, a->sc.unit, a->sc.vl, ll_gep(g, a->sc.unit, row, u), count);
  if (count)
    v = ll_sel(g, ll_mask(g, a->sc.vl, count), v, LLVMConstNull(LLVMTypeOf(v)));
  ll_store(g, v, ll_gep(g, a->sc.unit, to, u), NULL);
}

void attn_read_units(Attn *a, const Heads *x, const Heads *later, Val from, Val count, Val padded,
                     Val to) {
  Gen *g = a->g;
  if (!a->pairs) {
    attn_read(a, x, later, from, count, padded, to);
    return;
  }
  Loop r = ll_loop(g, ll_n(g, 0), count, 1);
  Val row = next_row(a, x, later, ll_add(g, from, r.i));
  Val out = ll_gep(g, a->sc.unit, to, ll_mul(g, r.i, ll_n(g, a->ss)));
  for (int64_t u = 0; u < a->swidth; u += a->sc.vl)
    copy_pairs(a, row, out, ll_n(g, u), a->sunits - u);
  ll_loop_end(g, &r);
  Loop p = ll_loop(g, count, padded, 1);
  Val rest = ll_gep(g, a->sc.unit, to, ll_mul(g, p.i, ll_n(g, a->ss)));
  for (int64_t u = 0; u < a->swidth; u += a->sc.vl)
    ll_store(g, LLVMConstNull(ll_vec(a->sc.unit, a->sc.vl)), ll_gepc(g, a->sc.unit, rest, u), NULL);
  ll_loop_end(g, &p);
}

static void write_vector(Attn *a, const Heads *x, Val row, Val d, int64_t valid, Val v) {
  Gen *g = a->g;
  Val count = valid < a->c.vl ? ll_n(g, valid) : NULL;
  Val at = ll_gep(g, ll_mem(g, x->dt), row, ll_mul(g, d, ll_n(g, x->col)));
  if (x->col == 1)
    ll_put(g, x->dt, v, at, count);
  else
    ll_store_strided(g, ll_encode(g, x->dt, v), at, ll_n(g, x->col), count);
}

void attn_write(Attn *a, const Heads *x, Val first, Val count, Val from, Val row_scale,
                Val factor) {
  Gen *g = a->g;
  int64_t whole = a->D / a->c.vl * a->c.vl;
  Loop r = ll_loop(g, ll_n(g, 0), count, 1);
  Val row = row_address(a, x, ll_add(g, first, r.i));
  Val in = ll_gep(g, a->c.sum, from, ll_mul(g, r.i, ll_n(g, a->ds)));
  Val times = factor;
  if (row_scale)
    times = ll_load(g, a->c.sum, 1, ll_gep(g, a->c.sum, row_scale, r.i), NULL);
  if (whole) {
    Loop d = ll_loop(g, ll_n(g, 0), ll_n(g, whole), a->c.vl);
    Val v = ll_load(g, a->c.sum, a->c.vl, ll_gep(g, a->c.sum, in, d.i), NULL);
    write_vector(a, x, row, d.i, a->c.vl, times ? ll_fmul(g, v, times) : v);
    ll_loop_end(g, &d);
  }
  if (whole < a->D) {
    Val v = ll_load(g, a->c.sum, a->c.vl, ll_gepc(g, a->c.sum, in, whole), NULL);
    write_vector(a, x, row, ll_n(g, whole), a->D - whole, times ? ll_fmul(g, v, times) : v);
  }
  ll_loop_end(g, &r);
}

/* One vl x vl block, as a function: see pack.c. */
static void transpose_block(Attn *a, Val from, Val to) {
  enum { MAX_VL = 16 };
  Gen *g = a->g;
  int vl = a->c.vl;
  Ty param[] = {g->ptr, g->ptr}, type = LLVMFunctionType(g->none, param, 2, 0);
  FnSave save;
  Val fn = micro_fn(g, "transpose_block", 2, param, &save);
  if (fn) {
    Val row[MAX_VL], src = LLVMGetParam(fn, 0), dst = LLVMGetParam(fn, 1);
    for (int i = 0; i < vl; i++)
      row[i] = ll_load(g, a->c.sum, vl, ll_gepc(g, a->c.sum, src, i * a->ss), NULL);
    micro_transpose(g, row, vl);
    for (int i = 0; i < vl; i++)
      ll_store(g, row[i], ll_gepc(g, a->c.sum, dst, i * a->qs), NULL);
    micro_fn_end(g, &save);
  }
  Val args[] = {from, to};
  LLVMBuildCall2(g->b, type, LLVMGetNamedFunction(g->mod, "transpose_block"), args, 2, "");
}

void attn_transpose(Attn *a, Val from, Val lanes, Val to) {
  Gen *g = a->g;
  Loop q = ll_loop(g, ll_n(g, 0), lanes, a->c.vl);
  Loop d = ll_loop(g, ll_n(g, 0), ll_n(g, a->swidth), a->c.vl);
  Val at = ll_add(g, ll_mul(g, q.i, ll_n(g, a->ss)), d.i);
  Val out = ll_add(g, ll_mul(g, d.i, ll_n(g, a->qs)), q.i);
  transpose_block(a, ll_gep(g, a->c.sum, from, at), ll_gep(g, a->c.sum, to, out));
  ll_loop_end(g, &d);
  ll_loop_end(g, &q);
}

/* ---- products -------------------------------------------------------------------------------- */

/* Panels of s that hold rows below limit (at least 1). */
static Val panels_below(Attn *a, const Split *s, Val limit) {
  Gen *g = a->g;
  Val up = ll_add(g, limit, ll_n(g, s->hi - 1));
  Val n = ll_udiv(g, up, s->hi);
  if (s->nhi == s->n)
    return n;
  int64_t high = s->nhi * s->hi, low = s->hi - 1;
  Val past = ll_sub(g, ll_add(g, limit, ll_n(g, low - 1)), ll_n(g, high));
  Val m = ll_add(g, ll_udiv(g, past, low), ll_n(g, s->nhi));
  return ll_sel(g, ll_icmp(g, LLVMIntSGT, limit, ll_n(g, high)), m, n);
}

/* What a product leaves out because no query sees a key behind it: rows of keys behind the queries
 * of a group of lanes; the sum's keys behind a panel of queries; its queries in front of a panel of
 * keys.
 */
typedef enum { CUT_KEY_ROWS, CUT_KEYS, CUT_QUERIES } Cut;

typedef struct {
  const Split *rows;
  Micro m;
  Val cols; /* of B and C */
  Val a, b, c, kc, add;
  Val limit; /* rows wanted */
  Cut cut;
  Val q0; /* of the block, when causal */
} Product;

static Val below(Gen *g, Val limit, Val end) {
  return ll_sel(g, ll_icmp(g, LLVMIntSLT, end, limit), end, limit);
}

static void multiply(Attn *a, const Product *p) {
  Gen *g = a->g;
  Ty t = a->c.sum;
  int64_t width = (int64_t)p->m.nv * a->c.vl;
  Loop j = ll_loop(g, ll_n(g, 0), p->cols, width);
  Val limit = p->limit, kc = p->kc;
  if (a->causal && p->cut == CUT_KEY_ROWS)
    limit = below(g, limit, ll_add(g, ll_add(g, p->q0, j.i), ll_n(g, width)));
  Loop i = ll_loop(g, ll_n(g, 0), panels_below(a, p->rows, limit), 1);
  Val row = split_start(g, p->rows, i.i);
  Val from = ll_gep(g, t, p->a, ll_mul(g, row, ll_n(g, p->m.rs)));
  Val b = ll_gep(g, t, p->b, j.i);
  Val to = ll_gep(g, t, p->c, ll_add(g, ll_mul(g, row, ll_n(g, p->m.cs)), j.i));
  if (a->causal && p->cut == CUT_KEYS) {
    Val end = ll_add(g, ll_add(g, p->q0, row), ll_n(g, p->rows->hi));
    kc = below(g, kc, attn_round_up(a, end, 2));
  } else if (a->causal && p->cut == CUT_QUERIES) {
    Val skip = ll_and(g, ll_sub(g, row, p->q0), ll_n(g, ~(int64_t)1));
    skip = ll_sel(g, ll_icmp(g, LLVMIntSGT, skip, ll_n(g, 0)), skip, ll_n(g, 0));
    from = ll_gep(g, t, from, ll_mul(g, skip, ll_n(g, p->m.ks)));
    b = ll_gep(g, t, b, ll_mul(g, skip, ll_n(g, p->m.bs)));
    kc = ll_sub(g, kc, skip);
  }
  micro_panel(g, p->rows, p->m, i.i, from, b, to, kc, p->add);
  ll_loop_end(g, &i);
  ll_loop_end(g, &j);
}

void attn_scores(Attn *a, Val rows, Val packed, Val out, Val lanes, Val limit, Val q0) {
  Micro m = {.c = a->sc,
             .nv = a->lanes_nv,
             .rs = a->ss,
             .ks = 1,
             .bs = a->qs,
             .cs = a->qs,
             .odd = a->sunits % 2 != 0};
  Val kc = ll_n(a->g, a->sunits);
  Product p = {&a->key_rows, m, lanes, rows, packed, out, kc, NULL, limit, CUT_KEY_ROWS, q0};
  multiply(a, &p);
}

void attn_by_query(Attn *a, Val p, Val rows, Val out, Val count, Val limit, Val q0) {
  Micro m = {.c = a->c, .nv = a->width_nv, .rs = 1, .ks = a->qs, .bs = a->ds, .cs = a->ds};
  Val cols = ll_n(a->g, a->width);
  Product q = {&a->query_rows, m, cols, p, rows, out, limit, NULL, count, CUT_KEYS, q0};
  multiply(a, &q);
}

Val attn_round_up(Attn *a, Val n, int64_t m) {
  return ll_and(a->g, ll_add(a->g, n, ll_n(a->g, m - 1)), ll_n(a->g, ~(m - 1)));
}

Val attn_lanes(Attn *a, Val count) {
  Gen *g = a->g;
  int64_t step = (int64_t)a->lanes_nv * a->c.vl;
  return ll_mul(g, ll_udiv(g, ll_add(g, count, ll_n(g, step - 1)), step), ll_n(g, step));
}

Val attn_padded(Attn *a, Val limit) {
  Gen *g = a->g;
  Val even = attn_round_up(a, limit, 2);
  Val end = split_start(g, &a->key_wide, panels_below(a, &a->key_wide, limit));
  return ll_sel(g, ll_icmp(g, LLVMIntSGT, end, even), end, even);
}

bool attn_summed(const Attn *a) {
  return a->causal || a->share > 1;
}

void attn_by_key(Attn *a, Val p, Val rows, Val out, Val count, Val limit, Val q0) {
  Gen *g = a->g;
  Micro m = {.c = a->c,
             .nv = a->width_nv,
             .rs = a->qs,
             .ks = 1,
             .bs = a->ds,
             .cs = a->ds,
             .add = a->blocks > 1 || a->share > 1};
  Val add = attn_summed(a) ? ll_i(g->i1, 1) : ll_icmp(g, LLVMIntSGT, q0, ll_n(g, 0));
  Val kc = attn_round_up(a, count, 2), cols = ll_n(g, a->width);
  Product q = {&a->key_wide, m, cols, p, rows, out, kc, add, limit, CUT_QUERIES, q0};
  multiply(a, &q);
}

/* ---- masks ---- */

/* What a product of codes or of numbers is multiplied by to be a score. */
static Val score_unit(Attn *a) {
  return a->codes ? a->score : ll_f(ll_vec(a->c.sum, a->c.vl), a->scale);
}

Val attn_logits(Attn *a, Val score) {
  return a->mask_in ? score : ll_fmul(a->g, score, score_unit(a));
}

/* Mask of `lanes` queries at one key. */
static Val mask_lanes(Attn *a, const Heads *m, Val query, Val key, Val valid) {
  Gen *g = a->g;
  int vl = a->c.vl;
  Ty t = ll_mem(g, m->dt);
  Val at = ll_add(g, ll_mul(g, query, ll_n(g, m->row)), ll_mul(g, key, ll_n(g, m->col)));
  at = ll_gep(g, t, m->base, at);
  if (m->row == 0) {
    Val one = ll_decode(g, m->dt, ll_load(g, t, 1, at, NULL));
    return ll_splat(g, micro_convert(g, &a->c, one), vl);
  }
  Val raw = m->row == 1 ? ll_load(g, t, vl, at, valid)
                        : ll_load_strided(g, t, vl, at, ll_n(g, m->row), valid);
  return micro_convert(g, &a->c, ll_decode(g, m->dt, raw));
}

void attn_mask(Attn *a, Val scores, Val n, Val h, Val q0, Val count, Val limit) {
  Gen *g = a->g;
  if (!a->mask_in)
    return;
  Heads m = attn_in(a, a->mask_in, n, h);
  Loop v = ll_loop(g, ll_n(g, 0), count, a->c.vl);
  Val valid = ll_umin(g, ll_sub(g, count, v.i), ll_n(g, a->c.vl));
  Loop s = ll_loop(g, ll_n(g, 0), limit, 1);
  Val at = ll_add(g, ll_mul(g, s.i, ll_n(g, a->qs)), v.i);
  at = ll_gep(g, a->c.sum, scores, at);
  Val x = ll_fmul(g, ll_load(g, a->c.sum, a->c.vl, at, NULL), score_unit(a));
  ll_store(g, ll_fadd(g, x, mask_lanes(a, &m, ll_add(g, q0, v.i), s.i, valid)), at, NULL);
  ll_loop_end(g, &s);
  ll_loop_end(g, &v);
}

/* ---- softmax --------------------------------------------------------------------------------- */

Val attn_query_lanes(Attn *a, Val q0, Val v) {
  Gen *g = a->g;
  Val first = ll_add(g, q0, v);
  return ll_add(g, ll_splat(g, first, a->c.vl), ll_iota(g->i64, a->c.vl));
}

Dropout attn_dropout(Attn *a, Val nh) {
  Gen *g = a->g;
  if (!a->dropout)
    return (Dropout){0};
  const Access *in = a->body->in;
  Val seed = ll_gepc(g, g->i64, ll_arg_ptr(g, a->seed_slot), in[a->seed_in].offset);
  Val step = ll_gepc(g, g->i64, ll_arg_ptr(g, a->step_slot), in[a->seed_in + 1].offset);
  return (Dropout){ll_load(g, g->i64, 1, seed, NULL), ll_load(g, g->i64, 1, step, NULL),
                   ll_arg_int(g, gen_param_slot(a->group, 0)), nh};
}

/* Lanes that dropout keeps. */
static Val kept(Attn *a, const Dropout *d, Val queries, Val key) {
  Gen *g = a->g;
  Val row = ll_add(g, ll_mul(g, d->nh, ll_n(g, a->T)), queries);
  Val element = ll_add(g, ll_mul(g, row, ll_n(g, a->S)), key);
  Val r = ll_rand(g, d->seed, d->step, element, d->stream);
  /* Compared in f64, as the definition does. */
  return ll_fcmp(g, LLVMRealOGE, ll_fext(g, r, g->f64),
                 ll_f(ll_vec(g->f64, a->c.vl), a->dropout_p));
}

Val attn_keep(Attn *a, const Dropout *d, Val queries, Val key) {
  Ty t = ll_vec(a->c.sum, a->c.vl);
  return ll_sel(a->g, kept(a, d, queries, key), ll_f(t, 1 / (1 - a->dropout_p)), ll_f(t, 0));
}

Val attn_rounded(Attn *a, Val p, const Dropout *d, Val queries, Val key) {
  Gen *g = a->g;
  Ty t = ll_vec(a->c.sum, a->c.vl);
  if (a->codes) {
    Val code = ll_round(g, a->p_format, ll_fmul(g, p, ll_f(t, a->p_scale)));
    return a->dropout ? ll_sel(g, kept(a, d, queries, key), code, ll_f(t, 0)) : code;
  }
  if (a->dropout)
    p = ll_fmul(g, p, attn_keep(a, d, queries, key));
  return a->round == MPCC_DTYPE_COUNT ? p : ll_round(g, a->round, p);
}

double attn_p_unit(const Attn *a) {
  return 1 / (a->p_scale * (1 - a->dropout_p));
}

Val attn_limit(Attn *a, Val q0, Val count) {
  if (!a->causal)
    return ll_n(a->g, a->S);
  return ll_umin(a->g, ll_add(a->g, q0, count), ll_n(a->g, a->S));
}

Val attn_vector_limit(Attn *a, Val q0, Val v, Val limit) {
  Gen *g = a->g;
  return a->causal ? below(g, limit, ll_add(g, ll_add(g, q0, v), ll_n(g, a->c.vl))) : limit;
}

Val attn_seen(Attn *a, Val queries, Val key) {
  Gen *g = a->g;
  if (!a->causal)
    return NULL;
  Val q = ll_trunc(g, queries, g->i32), k = ll_trunc(g, key, g->i32);
  return ll_icmp(g, LLVMIntSGE, q, ll_splat(g, k, a->c.vl));
}

void attn_normalizer(Attn *a, Val scores, Val queries, Val limit, Val *most) {
  Gen *g = a->g;
  Ty t = ll_vec(a->c.sum, a->c.vl);
  Val best = ll_var(g, ll_f(t, -INFINITY));
  Loop s = ll_loop(g, ll_n(g, 0), limit, 1);
  Val at = ll_gep(g, a->c.sum, scores, ll_mul(g, s.i, ll_n(g, a->qs)));
  Val x = attn_logits(a, ll_load(g, a->c.sum, a->c.vl, at, NULL));
  Val old = ll_var_get(g, best), seen = attn_seen(a, queries, s.i);
  Val more = ll_fcmp(g, LLVMRealOGT, x, old);
  more = seen ? ll_and(g, more, seen) : more;
  ll_var_set(g, best, ll_sel(g, more, x, old));
  ll_loop_end(g, &s);
  *most = ll_var_get(g, best);
  if (a->mask_in) { /* a query that sees nothing */
    Val blind = ll_fcmp(g, LLVMRealOEQ, *most, ll_f(t, -INFINITY));
    *most = ll_sel(g, blind, ll_f(t, 0), *most);
  }
}
