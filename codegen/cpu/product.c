/* Products: C[rows..., N] = sum over k of A B, then the body's statements on every element.
 *
 * A tile is a block of rows times a block of packed panels of B. Inside it k is cut into blocks
 * whose part of a panel stays in the first-level cache. Per k block the rows of A are either read
 * in place or brought into scratch once (converted to the compute dtype, or gathered from a
 * transposed operand); per panel and per 13 or 14 rows the micro-kernel runs. Sums of more than one
 * k block wait in scratch; after the last block the statements run on sums that are still in cache.
 *
 * Everything that decides sizes is computed here from shapes alone, so tiles do not depend on
 * threads, and every element is summed in the same order whichever thread computes it. */
#include "codegen/cpu/product.h"

#include <stdlib.h>

/* ---- rows ---------------------------------------------------------------------------------------
 */

static int row_dims(const Product *p) {
  return p->body->ndim - 1;
}

/* Dimensions that continue each other are taken as one. */
Val product_row(Product *p, const Access *a, Val m) {
  Gen *g = p->g;
  Val sum = ll_n(g, 0);
  int64_t inner = 1;
  for (int d = row_dims(p) - 1; d >= 0;) {
    int64_t size = p->body->dim[d], stride = a->stride[d];
    int e = d - 1;
    while (e >= 0 && (p->body->dim[e] == 1 || size == 1 || a->stride[e] == stride * size)) {
      stride = size == 1 ? a->stride[e] : stride;
      size *= p->body->dim[e--];
    }
    if (stride != 0 && size != 1) {
      Val i = inner == 1 ? m : ll_udiv(g, m, inner);
      i = e >= 0 ? ll_urem(g, i, size) : i;
      sum = ll_add(g, sum, ll_mul(g, i, ll_n(g, stride)));
    }
    inner *= size;
    d = e;
  }
  return sum;
}

int64_t product_row_stride(const Product *p, const Access *a) {
  int64_t size = 1, stride = 0;
  for (int d = row_dims(p) - 1; d >= 0; d--) {
    if (p->body->dim[d] == 1)
      continue;
    if (size == 1)
      stride = a->stride[d];
    else if (a->stride[d] != stride * size)
      return -1;
    size *= p->body->dim[d];
  }
  return stride;
}

/* ---- sizes
 * ---------------------------------------------------------------------------------------- */

enum {
  AHEAD = 12,      /* rows of k prefetched */
  TILE_ROWS = 144, /* rows of A in scratch beside the panels they meet, in the second-level cache */
  TILE_COLS = 512,
  K_ONE = 384,
  K_BLOCK = 256, /* units: 32 KiB of a panel */
};

/* Rows far apart by a multiple of half a page share few cache sets. */
static bool stride_is_bad(int64_t bytes) {
  return bytes % 2048 == 0;
}

static void choose_mode(Product *p) {
  const Access *a = &p->body->in[0];
  p->a_dtype = gen_in_dtype(p->group, 0);
  p->a_ks = p->K == 1 ? 1 : a->stride[row_dims(p)];
  p->a_rs = product_row_stride(p, a);
  if (p->a_ks != 1 && (p->a_rs == 1 || (p->M == 1)))
    p->mode = A_COLUMNS;
  else
    p->mode = A_ROWS;
  /* In place when elements are units already and no later k reads beyond a row. */
  bool units = p->a_dtype == p->c.in && p->K % p->c.pair == 0 && p->a_rs % p->c.pair == 0;
  int64_t bytes = p->a_rs * (int64_t)dtype_bytes(p->a_dtype);
  bool spread = !stride_is_bad(bytes) || p->M <= 8;
  if (units && p->a_ks == 1 && p->a_rs >= 0 && spread)
    p->mode = A_DIRECT;
}

/* Few rows: a micro-kernel as wide as registers allow, to have enough sums in flight. */
static void choose_micro(Product *p) {
  Gen *g = p->g;
  int64_t panels = ceil_div(p->N, p->c.cols);
  int nv = p->N <= p->c.vl ? 1 : 2;
  p->group_panels = 1;
  if (nv == 2 && p->M < 7)
    for (int wide = 8; wide > 2; wide -= 2)
      if (micro_rows(g, wide) >= p->M && panels % (wide / 2) == 0) {
        nv = wide;
        p->group_panels = wide / 2;
        break;
      }
  p->ngroup = panels / p->group_panels;
  p->split = split_rows(p->M, micro_rows(g, nv));
  p->kblocks = p->units <= K_ONE ? 1 : ceil_div(p->units, K_BLOCK);
  p->kblock = p->kblocks == 1 ? p->units : round_up(ceil_div(p->units, p->kblocks), 2);
  p->kblocks = ceil_div(p->units, p->kblock);
  p->micro = (Micro){.c = p->c,
                     .nv = nv,
                     .bs = p->c.cols,
                     .cs = (int64_t)nv * p->c.vl,
                     .odd = p->units % 2 != 0,
                     .add = p->kblocks > 1};
  if (p->group_panels > 1)
    p->micro.bp = p->units * p->c.cols;
}

/* Cycles a tile takes, roughly: two vectors of multiplications each; A comes from afar and is
 * copied (five bytes a cycle), B streams in and is shared by consecutive tiles (ten); start. */
static double tile_cost(const Product *p, double rows, double cols) {
  double k = (double)p->units, multiply = rows * cols * k / (2 * p->c.vl);
  return multiply + (rows / 5 + cols / 10) * k * p->c.unit_bytes + 3000;
}

/* Time relative to perfect sharing, summed over numbers of threads; few threads count more. */
static double tile_score(const Product *p, int64_t panels, int64_t groups) {
  double rows = (double)(panels * p->split.hi);
  double cols = (double)(groups * p->group_panels * p->c.cols);
  int64_t tiles = ceil_div(p->split.n, panels) * ceil_div(p->ngroup, groups);
  double cost = tile_cost(p, rows, cols), score = 0, weight = 1;
  for (int64_t threads = 1; threads <= 16; threads *= 2, weight *= 0.75)
    score += weight * cost * (double)(ceil_div(tiles, threads) * threads);
  return score;
}

/* The tile that does best over 1 to 16 threads: large tiles read operands less often, small ones
 * are shared more evenly. */
static void choose_tiles(Product *p) {
  int64_t most_panels = TILE_ROWS / p->split.hi;
  int64_t most_groups = TILE_COLS / ((int64_t)p->group_panels * p->c.cols);
  double best = 0;
  for (int64_t i = 1; i <= most_panels && i <= p->split.n; i++)
    for (int64_t j = 1; j <= most_groups && j <= p->ngroup; j++) {
      double score = tile_score(p, i, j);
      if (best != 0 && score >= best)
        continue;
      best = score;
      p->row_tiles = ceil_div(p->split.n, i);
      p->col_tiles = ceil_div(p->ngroup, j);
    }
  p->tile_panels = ceil_div(p->split.n, p->row_tiles);
  p->tile_groups = ceil_div(p->ngroup, p->col_tiles);
  p->tile_rows = p->tile_panels * p->split.hi;
}

static void choose_scratch(Product *p) {
  Micro *m = &p->micro;
  int64_t units = 0, line = 64 / p->c.unit_bytes;
  if (p->mode == A_DIRECT) {
    m->rs = p->a_rs / p->c.pair;
    m->ks = 1;
  } else if (p->mode == A_ROWS || p->mode == A_GATHER) {
    /* An odd number of cache lines spreads rows over all sets. */
    m->rs = (ceil_div(round_up(p->kblock, p->c.vl), line) | 1) * line;
    m->ks = 1;
    units = p->tile_rows * m->rs;
  } else if (p->mode == A_GATHER_COLUMNS) {
    m->rs = 1;
    m->ks = (ceil_div(round_up(p->tile_rows, p->c.vl), line) | 1) * line;
    units = p->kblock * m->ks;
  } else {
    m->rs = 1;
    m->ks = round_up(p->split.hi, p->c.vl);
    p->a_panel = p->kblock * m->ks + line;
    units = p->tile_panels * p->a_panel;
  }
  p->c_offset = round_up(units * p->c.unit_bytes, 64);
  int64_t sums = m->cs * (p->kblocks == 1 ? p->split.hi : p->tile_rows * p->tile_groups);
  p->g->scratch_bytes = p->c_offset + sums * p->c.unit_bytes;
}

void product_plan(Product *p) {
  choose_micro(p);
  choose_tiles(p);
  choose_scratch(p);
  p->g->ntiles = p->row_tiles * p->col_tiles;
}

static bool plan_product(Product *p) {
  if (!micro_compute(p->g, micro_dtype(p->group), &p->c))
    return false;
  p->M = 1;
  for (int d = 0; d < row_dims(p); d++)
    p->M *= p->body->dim[d];
  p->N = p->body->dim[row_dims(p)];
  p->K = op_int(p->group, "k", 0);
  p->units = ceil_div(p->K, p->c.pair);
  if (p->body->ncol != 1 || p->K < 1 || p->M < 1 || p->N < 1)
    return gen_fail(p->g, "product of no rows, columns or k");
  choose_mode(p);
  product_plan(p);
  return true;
}

/* ---- bringing A into scratch
 * ---------------------------------------------------------------------- */

static Val a_element(Product *p, Val base, Val row_elems, Val k) {
  Gen *g = p->g;
  Val e = ll_add(g, row_elems, ll_mul(g, k, ll_n(g, p->a_ks)));
  return ll_gep(g, ll_mem(g, p->a_dtype), base, e);
}

/* Units of one row from unit u (relative to the k block) to the scratch row; count: elements left.
 */
static void copy_units(Product *p, Val from, Val to, Val count) {
  Gen *g = p->g;
  Val v;
  if (p->a_ks == 1) {
    v = micro_units(g, &p->c, p->a_dtype, p->c.vl, from, count);
  } else {
    int lanes = p->c.vl * p->c.pair;
    Val raw = ll_load_strided(g, ll_mem(g, p->a_dtype), lanes, from, ll_n(g, p->a_ks), count);
    v = micro_convert(g, &p->c, ll_decode(g, p->a_dtype, raw));
    if (count)
      v = ll_sel(g, ll_mask(g, lanes, count), v, LLVMConstNull(LLVMTypeOf(v)));
    v = micro_pairs(g, &p->c, v);
  }
  ll_store(g, v, to, NULL);
}

static void copy_rows(Product *p, const Tile *t) {
  Gen *g = p->g;
  int64_t step = (int64_t)p->c.vl * p->c.pair;
  Val k_first = ll_mul(g, t->k0, ll_n(g, p->c.pair));
  Val k_count = ll_mul(g, t->kc, ll_n(g, p->c.pair));
  Val left = ll_sub(g, ll_n(g, p->K), k_first);
  k_count = ll_umin(g, k_count, left);
  Val k_whole = ll_and(g, k_count, ll_n(g, ~(step - 1)));
  Loop rows = ll_loop(g, t->row0, t->row1, 1);
  Val elems = product_row(p, &p->body->in[0], rows.i);
  Val from = a_element(p, t->a, elems, k_first);
  Val at = ll_mul(g, ll_sub(g, rows.i, t->row0), ll_n(g, p->micro.rs));
  Val to = ll_gep(g, p->c.unit, g->scratch, at);
  Loop k = ll_loop(g, ll_n(g, 0), k_whole, step);
  copy_units(p, a_element(p, from, ll_n(g, 0), k.i),
             ll_gep(g, p->c.unit, to, p->c.pair == 1 ? k.i : ll_lshr(g, k.i, 1)), NULL);
  ll_loop_end(g, &k);
  if (p->K % step != 0 || p->kblock * p->c.pair % step != 0) {
    If tail = ll_if(g, ll_icmp(g, LLVMIntSLT, k_whole, k_count));
    copy_units(p, a_element(p, from, ll_n(g, 0), k_whole),
               ll_gep(g, p->c.unit, to, p->c.pair == 1 ? k_whole : ll_lshr(g, k_whole, 1)),
               ll_sub(g, k_count, k_whole));
    ll_endif(g, &tail);
  }
  ll_loop_end(g, &rows);
}

/* vl rows at k (elements) from `row` on, as compute dtype elements. */
static Val column_vector(Product *p, const Tile *t, Val k, Val row, Val count) {
  Gen *g = p->g;
  Val at = a_element(p, t->a, row, k);
  /* Neither stride nor stream prefetching follows this pattern. */
  ll_prefetch(g, ll_gepc(g, ll_mem(g, p->a_dtype), at, AHEAD * p->a_ks));
  if (p->a_dtype == p->c.in)
    return ll_load(g, ll_mem(g, p->a_dtype), p->c.vl, at, count);
  return micro_convert(g, &p->c, ll_get(g, p->a_dtype, p->c.vl, at, count));
}

/* One unit of k for one micro panel: its rows, padded to whole vectors. */
static void column_panel(Product *p, const Tile *t, Val panel, Val u, bool pair, bool masked) {
  Gen *g = p->g;
  Val row = split_start(g, &p->split, panel);
  Val k = ll_mul(g, ll_add(g, t->k0, u), ll_n(g, p->c.pair));
  Val to = ll_add(g, ll_mul(g, ll_sub(g, panel, t->panel0), ll_n(g, p->a_panel)),
                  ll_mul(g, u, ll_n(g, p->micro.ks)));
  for (int64_t v = 0; v < p->micro.ks; v += p->c.vl) {
    Val at = ll_add(g, row, ll_n(g, v));
    /* The last panels end before a whole vector does. A vector may start behind the last row when
     * that panel is the shorter kind: it then reads the last row again, which nobody uses. */
    Val count = NULL;
    if (masked) {
      at = ll_umin(g, at, ll_n(g, p->M - 1));
      count = ll_umin(g, ll_sub(g, ll_n(g, p->M), at), ll_n(g, p->c.vl));
    }
    Val first = column_vector(p, t, k, at, count);
    Val second = pair ? column_vector(p, t, ll_add(g, k, ll_n(g, 1)), at, count) : NULL;
    ll_store(g, micro_interleave(g, &p->c, first, second),
             ll_gep(g, p->c.unit, g->scratch, ll_add(g, to, ll_n(g, v))), NULL);
  }
}

/* All panels of the tile for one unit of k: neighbours in memory. */
static void column_unit(Product *p, const Tile *t, Val u, bool pair) {
  Gen *g = p->g;
  /* Panels whose vectors lie inside the rows. */
  int64_t whole = p->split.n;
  while (whole > 0) {
    int64_t last = whole - 1;
    int64_t start = last * (p->split.hi - 1) + (last < p->split.nhi ? last : p->split.nhi);
    if (start + p->micro.ks <= p->M)
      break;
    whole--;
  }
  Val end = ll_n(g, whole);
  Val some = ll_sel(g, ll_icmp(g, LLVMIntSLT, t->panel1, end), t->panel1, end);
  if (whole > 0) {
    Loop a = ll_loop(g, t->panel0, some, 1);
    column_panel(p, t, a.i, u, pair, false);
    ll_loop_end(g, &a);
  }
  if (whole < p->split.n) {
    Val from = ll_sel(g, ll_icmp(g, LLVMIntSGT, t->panel0, end), t->panel0, end);
    Loop b = ll_loop(g, from, t->panel1, 1);
    column_panel(p, t, b.i, u, pair, true);
    ll_loop_end(g, &b);
  }
}

static void copy_columns(Product *p, const Tile *t) {
  Gen *g = p->g;
  if (p->K % p->c.pair == 0) {
    Loop u = ll_loop(g, ll_n(g, 0), t->kc, 1);
    column_unit(p, t, u.i, p->c.pair == 2);
    ll_loop_end(g, &u);
    return;
  }
  /* The last unit has no second element: its k block stops one unit early. */
  Val last = ll_icmp(g, LLVMIntEQ, ll_add(g, t->k0, t->kc), ll_n(g, p->units));
  Val odd = ll_zext(g, last, g->i64), pairs = ll_sub(g, t->kc, odd);
  Loop u = ll_loop(g, ll_n(g, 0), pairs, 1);
  column_unit(p, t, u.i, true);
  ll_loop_end(g, &u);
  Loop v = ll_loop(g, pairs, t->kc, 1);
  column_unit(p, t, v.i, false);
  ll_loop_end(g, &v);
}

/* ---- statements on finished sums
 * -------------------------------------------------------------------- */

static bool uses_index(const Body *b) {
  for (int i = 0; i < b->nstmt; i++)
    if (b->stmt[i].prim == PR_INDEX)
      return true;
  return false;
}

static Val access_base(Product *p, int slot, DType dt, const Access *a, Val row) {
  Gen *g = p->g;
  Val at = ll_add(g, product_row(p, a, row), ll_n(g, a->offset));
  return ll_gep(g, ll_mem(g, dt), ll_arg_ptr(g, slot), at);
}

/* Places the row in the statement state: indices and the addresses of its first elements. */
static void at_row(Product *p, Lanes *s, Val row) {
  Gen *g = p->g;
  int64_t inner = 1;
  bool index = uses_index(p->body);
  for (int d = row_dims(p) - 1; d >= 0; d--) {
    Val i = inner == 1 ? row : ll_udiv(g, row, inner);
    s->index[d] = index ? ll_urem(g, i, p->body->dim[d]) : ll_n(g, 0);
    inner *= p->body->dim[d];
  }
  for (int k = 2; k < p->group->nin; k++)
    s->base_in[k] =
        access_base(p, gen_in_slot(p->group, k), gen_in_dtype(p->group, k), &p->body->in[k], row);
  for (int k = 0; k < p->group->nout; k++)
    s->base_out[k] = access_base(p, k, gen_out_dtype(p->group, k), &p->body->out[k], row);
}

/* All statements on the vector of sums at `sums` whose first column is n. */
static bool at_vector(Product *p, Lanes *s, Val sums, Val n, Val count) {
  s->index[row_dims(p)] = n;
  s->count = count;
  s->acc = ll_load(p->g, p->c.sum, p->c.vl, sums, NULL);
  return stmt_emit_range(s, 0, p->body->nstmt);
}

/* What the statements touch in memory, asked for before the sums are made: a few lines of each of
 * many rows, a pattern that no hardware prefetcher follows. */
static void prefetch_lines(Product *p, Val base, DType dt, const Access *a, Val n0) {
  Gen *g = p->g;
  int64_t elem = (int64_t)dtype_bytes(dt);
  bool rows = false; /* a vector for all rows is near anyway */
  for (int d = 0; d < row_dims(p); d++)
    rows |= a->stride[d] != 0;
  if (!rows || a->stride[row_dims(p)] != 1)
    return;
  for (int64_t at = 0; at < p->micro.cs * elem; at += 64)
    ll_prefetch(g, ll_gepc(g, g->i8, ll_gep(g, ll_mem(g, dt), base, n0), at));
}

static void prefetch_row(Product *p, Lanes *s, Val row, Val n0) {
  at_row(p, s, row);
  for (int k = 2; k < p->group->nin; k++)
    prefetch_lines(p, s->base_in[k], gen_in_dtype(p->group, k), &p->body->in[k], n0);
  for (int k = 0; k < p->group->nout; k++)
    prefetch_lines(p, s->base_out[k], gen_out_dtype(p->group, k), &p->body->out[k], n0);
}

/* Columns [n0, n0 + width) of one row. */
static bool finish_row(Product *p, Lanes *s, Val row, Val sums, Val n0) {
  Gen *g = p->g;
  at_row(p, s, row);
  Val end = ll_add(g, n0, ll_n(g, p->micro.cs));
  Val whole = ll_n(g, p->N / p->c.vl * p->c.vl);
  Val stop = ll_umin(g, end, whole);
  bool ok = true;
  if (p->N >= p->c.vl) {
    Loop n = ll_loop(g, n0, stop, p->c.vl);
    ok = at_vector(p, s, ll_gep(g, p->c.sum, sums, ll_sub(g, n.i, n0)), n.i, NULL);
    ll_loop_end(g, &n);
  }
  if (p->N % p->c.vl != 0) {
    If tail = ll_if(g, ll_icmp(g, LLVMIntSLT, whole, end));
    ok = ok && at_vector(p, s, ll_gep(g, p->c.sum, sums, ll_sub(g, whole, n0)), whole,
                         ll_n(g, p->N % p->c.vl));
    ll_endif(g, &tail);
  }
  return ok;
}

/* Rows of one micro panel times the columns of one group of packed panels: statements on their sums,
 * or with sums NULL the prefetches for these. */
static bool finish_panel(Product *p, Val panel, Val group, Val sums) {
  Gen *g = p->g;
  const Op *op = p->group;
  size_t slots = (size_t)(p->body->nstmt + op->nin + op->nout);
  Val *memory = calloc(slots, sizeof *memory);
  if (!memory)
    return gen_fail(g, "out of memory");
  Lanes s = {.g = g,
             .group = op,
             .body = p->body,
             .lanes = p->c.vl,
             .lane_dim = row_dims(p),
             .val = memory,
             .base_in = memory + p->body->nstmt,
             .base_out = memory + p->body->nstmt + op->nin};
  s.free[row_dims(p)] = true;
  Val row0 = split_start(g, &p->split, panel);
  Val row1 = split_start(g, &p->split, ll_add(g, panel, ll_n(g, 1)));
  Val n0 = ll_mul(g, group, ll_n(g, p->micro.cs));
  Loop r = ll_loop(g, row0, row1, 1);
  bool ok = true;
  if (sums) {
    Val at = ll_mul(g, ll_sub(g, r.i, row0), ll_n(g, p->micro.cs));
    ok = finish_row(p, &s, r.i, ll_gep(g, p->c.sum, sums, at), n0);
  } else {
    prefetch_row(p, &s, r.i, n0);
  }
  ll_loop_end(g, &r);
  free(memory);
  return ok;
}

/* finish_panel in the last k block only. */
static bool at_last(Product *p, Val last, Val panel, Val group, Val sums) {
  if (p->kblocks == 1)
    return finish_panel(p, panel, group, sums);
  If end = ll_if(p->g, last);
  bool ok = finish_panel(p, panel, group, sums);
  ll_endif(p->g, &end);
  return ok;
}

/* ---- the kernel
 * --------------------------------------------------------------------------------------- */

static Val a_of_panel(Product *p, const Tile *t, Val panel) {
  Gen *g = p->g;
  Val row = split_start(g, &p->split, panel);
  if (p->mode == A_DIRECT) {
    Val k = ll_mul(g, t->k0, ll_n(g, p->c.pair));
    return a_element(p, t->a, ll_mul(g, row, ll_n(g, p->a_rs)), k);
  }
  Val at = p->mode == A_COLUMNS ? ll_mul(g, ll_sub(g, panel, t->panel0), ll_n(g, p->a_panel))
                                : ll_mul(g, ll_sub(g, row, t->row0), ll_n(g, p->micro.rs));
  return ll_gep(g, p->c.unit, g->scratch, at);
}

/* Products of one k block, and the statements after the last. */
static bool multiply_block(Product *p, const Tile *t, Val first, Val last) {
  Gen *g = p->g;
  Val packed = ll_arg_ptr(g, gen_in_slot(p->group, 1));
  int64_t group_units = p->units * p->c.cols * p->group_panels;
  Val sums0 = ll_gepc(g, g->i8, g->scratch, p->c_offset);
  Loop j = ll_loop(g, t->group0, t->group1, 1);
  Val b = ll_add(g, ll_mul(g, j.i, ll_n(g, group_units)), ll_mul(g, t->k0, ll_n(g, p->c.cols)));
  b = ll_gep(g, p->c.unit, packed, b);
  Val stripe = ll_mul(g, ll_sub(g, j.i, t->group0), ll_n(g, p->tile_rows));
  Loop i = ll_loop(g, t->panel0, t->panel1, 1);
  Val sums = sums0;
  if (p->kblocks > 1) {
    Val row = ll_sub(g, split_start(g, &p->split, i.i), t->row0);
    Val at = ll_mul(g, ll_add(g, stripe, row), ll_n(g, p->micro.cs));
    sums = ll_gep(g, p->c.sum, sums0, at);
  }
  Val add = p->micro.add ? ll_xor(g, first, ll_i(g->i1, 1)) : NULL;
  bool ok = at_last(p, last, i.i, j.i, NULL);
  micro_panel(g, &p->split, p->micro, i.i, a_of_panel(p, t, i.i), b, sums, t->kc, add);
  ok = ok && at_last(p, last, i.i, j.i, sums);
  ll_loop_end(g, &i);
  ll_loop_end(g, &j);
  return ok;
}

static Val share(Gen *g, Val i, int64_t all, int64_t parts) {
  return ll_udiv(g, ll_mul(g, i, ll_n(g, all)), parts);
}

static void bring_rows(Product *p, const Tile *t) {
  if (p->mode == A_ROWS)
    copy_rows(p, t);
  else if (p->mode == A_COLUMNS)
    copy_columns(p, t);
}

bool product_emit(Product *p, Val a, ProductBring *bring) {
  Gen *g = p->g;
  Tile t = {.a = a};
  Loop tile = ll_loop(g, g->first, g->end, 1);
  Val row_tile = ll_urem(g, tile.i, p->row_tiles), col_tile = ll_udiv(g, tile.i, p->row_tiles);
  Val one = ll_n(g, 1);
  t.panel0 = share(g, row_tile, p->split.n, p->row_tiles);
  t.panel1 = share(g, ll_add(g, row_tile, one), p->split.n, p->row_tiles);
  t.row0 = split_start(g, &p->split, t.panel0);
  t.row1 = split_start(g, &p->split, t.panel1);
  t.group0 = share(g, col_tile, p->ngroup, p->col_tiles);
  t.group1 = share(g, ll_add(g, col_tile, one), p->ngroup, p->col_tiles);
  Loop kb = ll_loop(g, ll_n(g, 0), ll_n(g, p->kblocks), 1);
  t.k0 = ll_mul(g, kb.i, ll_n(g, p->kblock));
  t.kc = ll_umin(g, ll_n(g, p->kblock), ll_sub(g, ll_n(g, p->units), t.k0));
  Val first = ll_icmp(g, LLVMIntEQ, kb.i, ll_n(g, 0));
  Val last = ll_icmp(g, LLVMIntEQ, kb.i, ll_n(g, p->kblocks - 1));
  bring(p, &t);
  bool ok = multiply_block(p, &t, first, last);
  ll_loop_end(g, &kb);
  ll_loop_end(g, &tile);
  return ok;
}

bool cpu_product(Gen *g, const Op *group) {
  Product p = {.g = g, .group = group, .body = group->body};
  if (!plan_product(&p))
    return false;
  Val a =
      ll_gepc(g, ll_mem(g, p.a_dtype), ll_arg_ptr(g, gen_in_slot(group, 0)), p.body->in[0].offset);
  return product_emit(&p, a, bring_rows);
}
