/* Products: C[rows..., N] = sum over k of A B, then the body's statements on every element.
 *
 * A tile is a block of rows times a block of packed panels of B; consecutive tiles of the same rows
 * are computed together. Long k is cut into blocks. Per k block the rows of A are either read in
 * place or brought into scratch (product_a.c) so that those of one micro panel are neighbours; per
 * panel of B and per 13 or 14 rows the micro-kernel runs, and fetches what the next panel needs.
 * Sums of more than one k block wait in scratch; after the last block the statements run on sums
 * that are still in cache.
 *
 * Everything that decides sizes is computed here from shapes alone, so tiles do not depend on
 * threads, and every element is summed in the same order whichever thread computes it. */
#include "codegen/cpu/product.h"

#include <stdlib.h>
#include <string.h>

/* ---- rows ------------------------------------------------------------------------------------ */

/* Elements of access a to flat index m of dimensions [from, to). Those that continue each other are
 * taken as one. */
static Val flat_place(Product *p, const Access *a, Val m, int from, int to) {
  Gen *g = p->g;
  Val sum = ll_n(g, 0);
  int64_t inner = 1;
  for (int d = to - 1; d >= from;) {
    int64_t size = p->body->dim[d], stride = a->stride[d];
    int e = d - 1;
    while (e >= from && (p->body->dim[e] == 1 || size == 1 || a->stride[e] == stride * size)) {
      stride = size == 1 ? a->stride[e] : stride;
      size *= p->body->dim[e--];
    }
    if (stride != 0 && size != 1) {
      Val i = inner == 1 ? m : ll_udiv(g, m, inner);
      i = e >= from ? ll_urem(g, i, size) : i;
      sum = ll_add(g, sum, ll_mul(g, i, ll_n(g, stride)));
    }
    inner *= size;
    d = e;
  }
  return sum;
}

Val product_row(Product *p, const Access *a, Val m) {
  return flat_place(p, a, m, p->batch_dims, product_row_dims(p));
}

/* Elements of access a to the first row of the batch at hand. */
static Val product_batch(Product *p, const Access *a) {
  return p->batch ? flat_place(p, a, p->batch, 0, p->batch_dims) : ll_n(p->g, 0);
}

int64_t product_row_stride(const Product *p, const Access *a) {
  int64_t size = 1, stride = 0;
  for (int d = product_row_dims(p) - 1; d >= p->batch_dims; d--) {
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

int64_t product_panel_stride(const Product *p, const Access *a) {
  const int last = product_row_dims(p) - 1;
  const int64_t stride = product_row_stride(p, a);
  return stride < 0 && p->image.period == p->body->dim[last] ? a->stride[last] : stride;
}

/* ---- sizes ----------------------------------------------------------------------------------- */

enum {
  MOST_THREADS = 16,   /* for which tiles are chosen, */
  COPYING_THREADS = 4, /* and where each copies the same image */
  MOST_PANELS = 8,     /* micro panels of a tile, */
  MOST_GATHERED = 24,  /* and where runs of rows are gathered for each k, or B is packed for each */
  MOST_ONCE = 512,     /* rows of a tile, where B is packed for all */
  MOST_SEEN = 64,      /* and where they are windows of an image */
  FEW_ROWS = 8,        /* not worth interleaving */
  PAGE = 4096,
  NEAR_ROWS = 7,         /* of one set of the first-level cache, beside lines of B */
  A_BYTES = 384 << 10,   /* copy of A: a part of the second-level cache, which may be shared */
  SUM_BYTES = 320 << 10, /* sums that wait there */
  DIRECT_COLS = 512,     /* fewer columns do not pay for a copy of A (none do where AVX-512 reads
                          * each element once, not once per vector), */
  DIRECT_ROWS = 800,     /* nor do fewer rows: threads would copy the same ones */
};

/* Where few rows read a column of a raw B, it is not worth copying. */
static bool worth_no_copy(const Product *p) {
  enum { FEW = 64 };
  return p->raw && p->M <= FEW && p->b_ns == 1 && p->c.pair == 1 &&
         gen_in_dtype(p->group, 1) == p->c.in;
}

/* Rows far apart by a multiple of a page share one set of the first-level cache. */
static bool rows_share_set(const Product *p) {
  return p->a_rs * (int64_t)dtype_bytes(p->a_dtype) % PAGE == 0 && p->M > FEW_ROWS;
}

/* And those of a B in place would share it, too. */
static bool few_stay_near(const Product *p) {
  return p->g->level->avx512 && !p->g->level->folds &&
         !(worth_no_copy(p) && p->b_ks * p->c.unit_bytes % PAGE == 0);
}

/* Rows of neighbours in k become neighbours in memory: needs whole vectors of k. */
static bool can_interleave(const Product *p) {
  int64_t last = p->units - (p->kblocks - 1) * p->kblock;
  return p->a_ks == 1 && p->a_rs >= 0 && p->K % p->c.pair == 0 && last >= p->c.vl &&
         p->M > FEW_ROWS;
}

static void choose_mode(Product *p) {
  const Access *a = &p->body->in[0];
  p->a_dtype = gen_in_dtype(p->group, 0);
  p->a_ks = p->K == 1 ? 1 : a->stride[product_row_dims(p)];
  p->a_rs = product_row_stride(p, a);
  if (p->a_ks != 1 && (p->a_rs == 1 || (p->M == 1)))
    p->mode = A_COLUMNS;
  else
    p->mode = can_interleave(p) ? A_INTERLEAVED : A_ROWS;
  /* In place when elements are units already and no later k reads beyond a row. */
  bool units = p->a_dtype == p->c.in && p->K % p->c.pair == 0 && p->a_rs % p->c.pair == 0;
  bool once = p->g->level->avx512 && !p->g->level->folds;
  bool few = p->N < DIRECT_COLS || p->M < DIRECT_ROWS || once;
  if (units && p->a_ks == 1 && p->a_rs >= 0 && (few_stay_near(p) || !rows_share_set(p)) &&
      (few || p->mode == A_ROWS))
    p->mode = A_DIRECT;
}

/* k in blocks of equal length, whole vectors when there are several. All rows of a raw B's product
 * stay in the second-level cache. */
static void choose_blocks(Product *p) {
  enum { ROWS_BYTES = 768 << 10 };
  int64_t bytes = p->once ? ROWS_BYTES / p->M : PRODUCT_K_BYTES;
  int64_t most = (bytes < PRODUCT_K_BYTES ? bytes : PRODUCT_K_BYTES) / p->c.unit_bytes;
  p->kblocks = ceil_div(p->units, most);
  p->kblock = p->kblocks == 1 ? p->units : round_up(ceil_div(p->units, p->kblocks), p->c.vl);
  p->kblocks = ceil_div(p->units, p->kblock);
}

/* Rows of a micro panel: as many as registers allow, but no more than stay near where they share a
 * set. */
static int most_rows(const Product *p, int nv) {
  int rows = micro_rows(p->g, nv);
  return p->mode == A_DIRECT && rows_share_set(p) && rows > NEAR_ROWS ? NEAR_ROWS : rows;
}

/* Few rows: a micro-kernel as wide as registers allow, to have enough sums in flight. */
static void choose_micro(Product *p) {
  Gen *g = p->g;
  int64_t panels = ceil_div(p->N, p->c.cols);
  int nv = p->N <= p->c.vl ? 1 : 2;
  p->group_panels = 1;
  if (nv == 2 && p->M < 7 && !p->raw)
    for (int wide = 8; wide > 2; wide -= 2)
      if (micro_rows(g, wide) >= p->M && panels % (wide / 2) == 0) {
        nv = wide;
        p->group_panels = wide / 2;
        break;
      }
  p->ngroup = panels / p->group_panels;
  if (p->mode == A_IMAGE)
    p->split = split_groups(p->M, p->image.walk.group, micro_rows(g, nv));
  else if (p->image.period)
    p->split = split_periods(p->image.period, p->M / p->image.period, micro_rows(g, nv));
  else
    p->split = split_rows(p->M, most_rows(p, nv));
  p->width = (int64_t)nv * p->c.vl;
  p->micro = (Micro){.c = p->c,
                     .nv = nv,
                     .bs = p->c.cols,
                     .cs = p->width,
                     .odd = p->units % 2 != 0 || p->kblock % 2 != 0,
                     .add = p->kblocks > 1};
  if (p->group_panels > 1)
    p->micro.bp = p->b_units * p->c.cols;
}

/* Cycles, roughly, until the rows of a tile are there. */
static double bring_cost(const Product *p, double rows) {
  double k = (double)p->units;
  if (p->image.bytes) {
    double blocks = p->mode == A_IMAGE ? 1 : (double)p->kblocks;
    return (double)p->image.bytes(p, (int64_t)rows) * blocks / 16;
  }
  double a = p->mode == A_DIRECT ? 0.05 : p->mode == A_COLUMNS ? 0.4 : 0.2;
  double each = p->mode == A_GATHER_COLUMNS ? 60 * k : 0; /* finding the place of each k */
  return rows * a * k * p->c.unit_bytes + each;
}

/* Cycles a tile takes, roughly: two vectors of multiplications each; bytes of A come from afar or
 * are copied, which neighbouring tiles share in part; B streams in (sixteen a cycle); start. */
static double tile_cost(const Product *p, double rows, double cols) {
  double k = (double)p->units, multiply = rows * cols * k / (2 * p->c.vl);
  double bytes = p->batches ? 4 : 16; /* of B a cycle; packed first, or as it comes */
  return multiply + cols / bytes * k * p->c.unit_bytes + bring_cost(p, rows) + 2000;
}

/* Time relative to perfect sharing, summed over numbers of threads; few threads count more. */
static double tile_score(const Product *p, int64_t row_tiles, int64_t col_tiles) {
  double rows = (double)p->M / (double)row_tiles;
  double cols = (double)(p->ngroup * p->group_panels * p->c.cols) / (double)col_tiles;
  int64_t tiles = row_tiles * col_tiles * (p->batches ? p->batches : 1);
  double cost = tile_cost(p, rows, cols), score = 0, weight = 1;
  int64_t most = p->all_rows ? COPYING_THREADS : MOST_THREADS;
  for (int64_t threads = 1; threads <= most; threads *= 2, weight *= 0.75)
    score += weight * cost * (double)(ceil_div(tiles, threads) * threads);
  return score;
}

/* Micro panels whose part of A fits where it belongs. */
static int64_t most_panels(const Product *p) {
  int64_t row_bytes = p->kblock * p->c.unit_bytes, most = 2;
  if (p->once)
    return p->split.n;
  if (p->image.bytes) {
    while (most < MOST_SEEN && p->image.bytes(p, (most + 1) * p->split.hi) <= A_BYTES)
      most++;
    return most;
  }
  most = A_BYTES / (row_bytes * round_up(p->split.hi, p->c.vl));
  bool many = p->mode == A_GATHER_COLUMNS || p->batches;
  int64_t limit = many ? MOST_GATHERED : MOST_PANELS;
  return most < 2 ? 2 : most > limit ? limit : most;
}

/* How often a thread brings rows for a share of tiles, of which `together` have the same: the pool
 * hands out half of what is left at a time. */
static int64_t brings(int64_t share, int64_t together) {
  int64_t n = 0;
  for (int64_t at = 0, call; at < share; at += call) {
    call = (share - at + 1) / 2;
    n += (at + call - 1) / together - at / together + 1;
  }
  return n;
}

/* Tiles of fewer columns let threads end together: who is done first waits for another's last tile,
 * a quarter of it where shares are equal. They cost nothing but bringing rows again at the end of a
 * thread's share, because those of a call that have the same rows are computed as one. */
static void refine_columns(Product *p) {
  enum { FINEST = 16 };
  int64_t tiles = p->row_tiles * p->col_tiles * (p->batches ? p->batches : 1), best = 1;
  double rows = (double)p->M / (double)p->row_tiles, bring = bring_cost(p, rows) + 2000;
  double width = (double)(p->ngroup * p->width), least = 0;
  if (p->all_rows || (p->kblocks > 1 && !p->direct))
    return;
  for (int64_t n = 1; n <= FINEST && n * p->col_tiles <= p->ngroup; n *= 2) {
    double tile = tile_cost(p, rows, width / (double)(n * p->col_tiles)) - bring, score = 0;
    for (int64_t threads = 2; threads <= MOST_THREADS && threads <= tiles; threads *= 2) {
      double again = (double)brings(ceil_div(tiles * n, threads), p->col_tiles * n) * bring;
      score += (double)threads * (again + 0.25 * tile);
    }
    if (n == 1 || score < least) {
      least = score;
      best = n;
    }
  }
  p->col_tiles *= best;
}

/* The tiles that do best over 1 to 16 threads: large ones read operands less often, small ones are
 * shared more evenly, and so is a number of tiles that the threads divide. Consecutive tiles of the
 * same rows are computed as one. */
static void choose_tiles(Product *p) {
  int64_t most = most_panels(p);
  p->whole &= p->split.n <= most;
  p->all_rows = p->direct && (p->mode == A_IMAGE_COLUMNS || p->mode == A_PANELS);
  double best = 0;
  for (int64_t i = 1; i <= most && i <= p->split.n; i++)
    for (int64_t even = 1; even <= MOST_THREADS; even *= 2)
      for (int64_t j = 1; j <= p->ngroup; j++) {
        int64_t rows = round_up(ceil_div(p->split.n, i), even), cols = ceil_div(p->ngroup, j);
        double score = tile_score(p, rows, cols);
        if ((p->whole && rows > 1) || (p->all_rows && cols > 1) || rows > p->split.n ||
            (best != 0 && score >= best))
          continue;
        best = score;
        p->row_tiles = rows;
        p->col_tiles = cols;
      }
  refine_columns(p);
  p->tile_panels = ceil_div(p->split.n, p->row_tiles);
  p->tile_rows = p->tile_panels * p->split.hi;
  int64_t groups = ceil_div(p->ngroup, p->col_tiles);
  int64_t bytes = p->tile_rows * p->width * groups * p->c.unit_bytes;
  int64_t merged = p->kblocks == 1 || p->direct ? p->col_tiles : SUM_BYTES / bytes;
  p->merged = merged < 1 ? 1 : merged > p->col_tiles ? p->col_tiles : merged;
  p->tile_groups = p->merged == p->col_tiles ? p->ngroup : p->merged * groups;
}

/* A body that only stores the sums as they are lets the micro-kernel write them in place, where
 * columns come in whole panels and rows are a constant stride apart, or groups of them are. */
static void choose_direct(Product *p) {
  const Body *b = p->body;
  if (b->nstmt != 2 || b->stmt[0].prim != PR_ACC || b->stmt[1].prim != PR_STORE)
    return;
  if (p->row_at && !p->zero && p->mode != A_IMAGE)
    return;
  const Access *out = &b->out[b->stmt[1].ref];
  DType dt = gen_out_dtype(p->group, 0);
  int64_t stride = product_panel_stride(p, out);
  bool narrow = dt == MPCC_BF16 && p->c.in == MPCC_BF16 && p->micro.nv % 2 == 0 && p->kblocks == 1;
  p->direct = b->stmt[1].ref == 0 && (dt == p->c.acc || narrow) &&
              out->stride[product_row_dims(p)] == 1 && stride >= p->N && p->N % p->width == 0;
  if (!p->direct)
    return;
  p->micro.narrow = narrow;
  p->direct_stride = stride;
  p->micro.cs = p->row_at ? p->row_step * stride : stride;
  p->micro.ahead = !p->zero;
}

static void choose_raw(Product *p) {
  p->in_place = worth_no_copy(p) && p->N % p->width == 0;
  if (p->in_place)
    p->micro.bs = p->b_ks;
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
    if (p->source_bytes) {
      p->source_offset = units * p->c.unit_bytes;
      units += ceil_div(p->source_bytes(p, p->tile_rows), p->c.unit_bytes);
    }
  } else if (p->image.bytes) {
    const Micro *walk = &p->image.walk;
    m->rs = walk->rs;
    m->ks = walk->ks;
    m->group = walk->group;
    m->nloop = walk->nloop;
    m->run = walk->run;
    memcpy(m->loop, walk->loop, sizeof m->loop);
    m->ahead_turns = m->nloop && !m->add ? p->kblock / p->image.turn : 0;
    p->image.rows_offset = round_up(p->image.bytes(p, p->tile_rows), 64);
    int64_t offsets = walk->group ? (p->tile_rows + p->split.hi) / walk->group : 0;
    p->image.sums_offset = p->image.rows_offset + offsets * 8;
    units = (p->image.sums_offset + offsets * 8) / p->c.unit_bytes;
  } else if (p->mode == A_GATHER_COLUMNS) {
    m->rs = 1;
    m->ks = (ceil_div(round_up(p->tile_rows, p->c.vl), line) | 1) * line;
    units = p->kblock * m->ks;
  } else if (p->mode == A_PANELS) {
    m->rs = 1;
    m->ks = p->panel_ks ? p->panel_ks : round_up(p->split.hi, p->c.vl);
    units = p->a_offset / p->c.unit_bytes + p->kblock * m->ks;
  } else {
    m->rs = 1;
    m->ks = round_up(p->split.hi, p->c.vl);
    p->a_panel = p->kblock * m->ks + line;
    units = p->tile_panels * p->a_panel;
  }
  p->b_offset = round_up(units * p->c.unit_bytes, 64);
  units = p->raw && !p->in_place ? p->kblock * p->c.cols : 0;
  units *= p->mode == A_PANELS ? p->tile_groups : 1;
  p->c_offset = p->b_offset + round_up(units * p->c.unit_bytes, 64);
  int64_t rows = p->kblocks == 1 ? p->split.hi : p->tile_rows * p->tile_groups;
  int64_t sums = p->direct ? 0 : p->width * rows;
  p->g->scratch_bytes = p->c_offset + sums * p->c.unit_bytes;
}

void product_plan(Product *p) {
  if (!p->kblock)
    choose_blocks(p);
  if (!p->b_units)
    p->b_units = p->units;
  choose_micro(p);
  choose_direct(p);
  choose_tiles(p);
  choose_raw(p);
  choose_scratch(p);
  product_choose_next(p);
  p->g->ntiles = p->row_tiles * p->col_tiles;
}

/* A second factor that is not packed: a matrix for every index of the row dimensions up to the last
 * along which it moves. */
static void plan_factor(Product *p) {
  const Attr *factor = op_attr(p->group, "factor");
  if (!factor)
    return;
  p->raw = true;
  p->b_ks = factor->u.ints.v[0];
  p->b_ns = factor->u.ints.v[1];
  for (int d = 0; d < product_row_dims(p); d++)
    if (p->body->in[1].stride[d] != 0 && p->body->dim[d] > 1)
      p->batch_dims = d + 1;
  p->batches = 1;
  for (int d = 0; d < p->batch_dims; d++)
    p->batches *= p->body->dim[d];
}

static bool plan_product(Product *p) {
  if (!micro_compute(p->g, micro_dtype(p->group), &p->c))
    return false;
  plan_factor(p);
  p->M = 1;
  for (int d = p->batch_dims; d < product_row_dims(p); d++)
    p->M *= p->body->dim[d];
  p->once = p->raw && p->batch_dims == 0 && p->M <= MOST_ONCE;
  p->whole = p->once;
  p->N = p->body->dim[product_row_dims(p)];
  p->K = op_int(p->group, "k", 0);
  p->units = ceil_div(p->K, p->c.pair);
  if (p->body->ncol != 1 || p->K < 1 || p->M < 1 || p->N < 1)
    return gen_fail(p->g, "product of no rows, columns or k");
  choose_blocks(p);
  choose_mode(p);
  product_plan(p);
  return true;
}

/* ---- statements on finished sums ------------------------------------------------------------- */

static bool uses_index(const Body *b) {
  for (int i = 0; i < b->nstmt; i++)
    if (b->stmt[i].prim == PR_INDEX)
      return true;
  return false;
}

static Val access_base(Product *p, int slot, DType dt, const Access *a, Val row) {
  Gen *g = p->g;
  Val at = ll_add(g, product_row(p, a, row), ll_n(g, a->offset));
  return ll_gep(g, ll_mem(g, dt), ll_arg_ptr(g, slot), ll_add(g, at, product_batch(p, a)));
}

/* Places the row in the statement state: indices and the addresses of its first elements. */
static void at_row(Product *p, Lanes *s, Val row) {
  Gen *g = p->g;
  int64_t inner = 1;
  bool index = uses_index(p->body);
  row = p->row_at ? p->row_at(p, row) : row;
  Val flat = p->batch ? ll_add(g, ll_mul(g, p->batch, ll_n(g, p->M)), row) : row;
  for (int d = product_row_dims(p) - 1; d >= 0; d--) {
    Val i = inner == 1 ? flat : ll_udiv(g, flat, inner);
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
  s->index[product_row_dims(p)] = n;
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
  for (int d = 0; d < product_row_dims(p); d++)
    rows |= a->stride[d] != 0;
  if (!rows || a->stride[product_row_dims(p)] != 1)
    return;
  for (int64_t at = 0; at < p->width * elem; at += 64)
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
  enum { FEW_STATEMENTS = 4 }; /* without a loop */
  Gen *g = p->g;
  at_row(p, s, row);
  bool ok = true;
  if (p->N % p->width == 0 && p->body->nstmt <= FEW_STATEMENTS) {
    for (int64_t n = 0; n < p->width && ok; n += p->c.vl)
      ok = at_vector(p, s, ll_gepc(g, p->c.sum, sums, n), ll_add(g, n0, ll_n(g, n)), NULL);
    return ok;
  }
  Val end = ll_add(g, n0, ll_n(g, p->width));
  Val whole = ll_n(g, p->N / p->c.vl * p->c.vl);
  Val stop = ll_umin(g, end, whole);
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

/* Rows of one micro panel times the columns of one group of packed panels: statements on their
 * sums, or with sums NULL the prefetches for these. */
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
             .lane_dim = product_row_dims(p),
             .val = memory,
             .base_in = memory + p->body->nstmt,
             .base_out = memory + p->body->nstmt + op->nin};
  s.free[product_row_dims(p)] = true;
  Val row0 = split_start(g, &p->split, panel);
  Val row1 = split_start(g, &p->split, ll_add(g, panel, ll_n(g, 1)));
  Val n0 = ll_mul(g, group, ll_n(g, p->width));
  g->may_branch = true; /* one row's code */
  Loop r = ll_loop(g, row0, row1, 1);
  bool ok = true;
  if (sums) {
    Val at = ll_mul(g, ll_sub(g, r.i, row0), ll_n(g, p->micro.cs));
    ok = finish_row(p, &s, r.i, ll_gep(g, p->c.sum, sums, at), n0);
  } else {
    prefetch_row(p, &s, r.i, n0);
  }
  ll_loop_end(g, &r);
  g->may_branch = false;
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

/* ---- the kernel ------------------------------------------------------------------------------ */

static Val a_of_panel(Product *p, const Tile *t, Val panel) {
  Gen *g = p->g;
  if (p->image.at)
    return p->image.at(p, t, panel);
  Val row = split_start(g, &p->split, panel);
  if (p->mode == A_DIRECT) {
    Val k = ll_mul(g, t->k0, ll_n(g, p->c.pair));
    Val e = ll_add(g, ll_mul(g, row, ll_n(g, p->a_rs)), k);
    return ll_gep(g, ll_mem(g, p->a_dtype), t->a, e);
  }
  bool panels = p->mode == A_COLUMNS || p->mode == A_INTERLEAVED;
  Val at = panels ? ll_mul(g, ll_sub(g, panel, t->panel0), ll_n(g, p->a_panel))
                  : ll_mul(g, ll_sub(g, row, t->row0), ll_n(g, p->micro.rs));
  return ll_gep(g, p->c.unit, g->scratch, at);
}

/* n elements of C, whole vectors. */
static void zeros(Product *p, Val to, int64_t n) {
  Gen *g = p->g;
  int bytes = micro_result_bytes(&p->micro), lanes = p->c.vl * p->c.unit_bytes / bytes;
  Ty elem = micro_result(g, &p->micro);
  Loop i = ll_loop(g, ll_n(g, 0), ll_n(g, n), lanes);
  ll_store(g, LLVMConstNull(ll_vec(elem, lanes)), ll_gep(g, elem, to, i.i), NULL);
  ll_loop_end(g, &i);
}

/* Sums over no k at all. */
static void zero_sums(Product *p, Val panel, Val sums) {
  Gen *g = p->g;
  if (!p->direct) {
    zeros(p, sums, p->split.hi * p->micro.cs);
    return;
  }
  Val end = split_start(g, &p->split, ll_add(g, panel, ll_n(g, 1)));
  Loop m = ll_loop(g, split_start(g, &p->split, panel), end, 1);
  Val row = p->row_at ? p->row_at(p, m.i) : m.i;
  Val to = ll_gep(g, micro_result(g, &p->micro), sums, ll_mul(g, row, ll_n(g, p->direct_stride)));
  zeros(p, to, p->width);
  ll_loop_end(g, &m);
}

/* Where the sums of a panel go: in result 0, relative to row 0 where each group or row has its own
 * place; else to scratch. */
static Val sums_of_panel(Product *p, const Tile *t, Val panel, Val j) {
  Gen *g = p->g;
  Val row = split_start(g, &p->split, panel);
  if (p->direct) {
    const Access *out = &p->body->out[0];
    Val at = ll_add(g, ll_mul(g, j, ll_n(g, p->width)), ll_n(g, out->offset));
    at = ll_add(g, at, product_batch(p, out));
    if (!p->row_at && !p->zero)
      at = ll_add(g, at, product_row(p, out, row));
    return ll_gep(g, micro_result(g, &p->micro), ll_arg_ptr(g, 0), at);
  }
  Val sums = ll_gepc(g, g->i8, g->scratch, p->c_offset);
  if (p->kblocks == 1)
    return sums;
  Val stripe = ll_mul(g, ll_sub(g, j, t->group0), ll_n(g, p->tile_rows));
  Val at = ll_mul(g, ll_add(g, stripe, ll_sub(g, row, t->row0)), ll_n(g, p->micro.cs));
  return ll_gep(g, p->c.sum, sums, at);
}

/* The micro-kernel of a panel of rows and panel j of B, which is at b. */
static Micro micro_of_panel(Product *p, const Tile *t, Val panel, Val j, Val b) {
  Gen *g = p->g;
  Micro m = p->micro;
  Next next = p->next ? p->next(p, t, panel, j, b) : (Next){0};
  m.next = next.at;
  m.next_step = next.step;
  if (m.group) {
    Val row = ll_sub(g, split_start(g, &p->split, panel), t->row0);
    Val at = ll_mul(g, ll_udiv(g, row, m.group), ll_n(g, 8));
    m.rows = ll_gep(g, g->i8, ll_gepc(g, g->i8, g->scratch, p->image.rows_offset), at);
    if (p->direct && p->row_at)
      m.c_rows = ll_gep(g, g->i8, ll_gepc(g, g->i8, g->scratch, p->image.sums_offset), at);
  }
  return m;
}

/* Where panel j of a raw B is packed: beside the others of the tile, or where each is in turn. */
static Val packed_place(Product *p, const Tile *t, Val j) {
  Gen *g = p->g;
  Val to = ll_gepc(g, g->i8, g->scratch, p->b_offset);
  if (p->mode != A_PANELS)
    return to;
  Val at = ll_mul(g, ll_sub(g, j, t->group0), ll_n(g, p->kblock * p->c.cols));
  return ll_gep(g, p->c.unit, to, at);
}

/* Panel j of a raw B for the k block of t, packed into scratch or in place. */
static Val raw_panel(Product *p, const Tile *t, Val j) {
  Gen *g = p->g;
  Ty mem = ll_mem(g, gen_in_dtype(p->group, 1));
  Val to = packed_place(p, t, j);
  Val at = ll_add(g, ll_mul(g, t->k0, ll_n(g, p->b_ks * p->c.pair)),
                  ll_mul(g, j, ll_n(g, p->width * p->b_ns)));
  Val from = ll_gep(
      g, mem, ll_arg_ptr(g, gen_in_slot(p->group, 1)),
      ll_add(g, ll_add(g, at, product_batch(p, &p->body->in[1])), ll_n(g, p->body->in[1].offset)));
  if (p->in_place)
    return from;
  int64_t rest = p->N % p->width;
  If full = {0};
  if (rest)
    full = ll_if(g, ll_icmp(g, LLVMIntSLT, j, ll_n(g, p->N / p->width)));
  for (int tail = 0; tail <= (rest != 0); tail++) {
    if (tail)
      ll_else(g, &full);
    product_pack(p, t, from, to, tail ? rest : p->width);
  }
  if (rest)
    ll_endif(g, &full);
  return to;
}

/* A k block of one panel of rows at a, and of panel j of B at b. */
static bool multiply_panel(Product *p, const Tile *t, Val panel, Val j, Val a, Val b) {
  Gen *g = p->g;
  if (p->beside) {
    Val start = ll_icmp(g, LLVMIntEQ, ll_add(g, j, t->k0), ll_n(g, 0));
    If once = ll_if(g, start);
    p->beside(p, panel);
    ll_endif(g, &once);
  }
  Val turns = p->micro.nloop ? ll_udiv(g, t->kc, p->image.turn) : t->kc;
  Val sums = sums_of_panel(p, t, panel, j);
  bool ok = p->direct || at_last(p, t->last, panel, j, NULL);
  if (p->zero)
    zero_sums(p, panel, sums);
  else
    micro_panel(g, &p->split, micro_of_panel(p, t, panel, j, b), panel, a, b, sums, turns,
                p->micro.add ? t->add : NULL);
  return ok && (p->direct || at_last(p, t->last, panel, j, sums));
}

/* Panel j of B in the k block where all have been packed. */
static Val brought_panel(Product *p, const Tile *t, Val j) {
  return p->in_place ? raw_panel(p, t, j) : packed_place(p, t, j);
}

/* One panel of rows at a times all columns. The first calls fetch the panel after, a share each. */
static bool multiply_columns(Product *p, const Tile *t, Val panel, Val a) {
  Gen *g = p->g;
  int64_t unroll = micro_unrolled(&p->micro);
  Micro *m = &p->micro;
  Loop j = ll_loop(g, t->group0, t->group1, 1);
  Val b = brought_panel(p, t, j.i);
  if (!p->panel_after || !p->direct) {
    bool ok = multiply_panel(p, t, panel, j.i, a, b);
    ll_loop_end(g, &j);
    return ok;
  }
  Val call = ll_sub(g, j.i, t->group0), bytes;
  If first = ll_if(g, ll_icmp(g, LLVMIntSLT, call, ll_n(g, unroll * p->c.pair)));
  Val after = p->panel_after(p, t, panel, &bytes);
  m->places = ll_gep(g, g->ptr, after, ll_mul(g, call, ll_udiv(g, t->kc, unroll)));
  m->places_at = bytes;
  bool ok = multiply_panel(p, t, panel, j.i, a, b);
  m->places = m->places_at = NULL;
  ll_else(g, &first);
  ok = ok && multiply_panel(p, t, panel, j.i, a, b);
  ll_endif(g, &first);
  ll_loop_end(g, &j);
  return ok;
}

/* All of B for the k block is packed, if it has to be, then each panel of A is brought and
 * multiplied by it. */
static bool multiply_panels(Product *p, const Tile *t) {
  Gen *g = p->g;
  if (!p->in_place) {
    Loop pack = ll_loop(g, t->group0, t->group1, 1);
    raw_panel(p, t, pack.i);
    ll_loop_end(g, &pack);
  }
  Val to = ll_gepc(g, g->i8, g->scratch, p->a_offset);
  Loop i = ll_loop(g, t->panel0, t->panel1, 1);
  Val a = p->bring_panel(p, t, i.i, to);
  bool ok = multiply_columns(p, t, i.i, a);
  ll_loop_end(g, &i);
  return ok;
}

/* Panel j of a packed B in the k block. */
static Val packed_block(Product *p, const Tile *t, Val j) {
  Gen *g = p->g;
  int64_t group_units = p->b_units * p->c.cols * p->group_panels;
  Val at = ll_add(g, ll_mul(g, j, ll_n(g, group_units)), ll_mul(g, t->b0, ll_n(g, p->c.cols)));
  return ll_gep(g, p->c.unit, ll_arg_ptr(g, gen_in_slot(p->group, 1)), at);
}

/* All of B is in the nearest cache: rows of the image are read once, rows of the result written as
 * a whole. */
static bool multiply_rows(Product *p, const Tile *t) {
  Gen *g = p->g;
  Loop i = ll_loop(g, t->panel0, t->panel1, 1);
  Val a = a_of_panel(p, t, i.i);
  Loop j = ll_loop(g, t->group0, t->group1, 1);
  bool ok = multiply_panel(p, t, i.i, j.i, a, packed_block(p, t, j.i));
  ll_loop_end(g, &j);
  ll_loop_end(g, &i);
  return ok;
}

/* Products of one k block, and the statements after the last. */
static bool multiply_block(Product *p, const Tile *t) {
  Gen *g = p->g;
  if (p->mode == A_PANELS)
    return multiply_panels(p, t);
  if (product_rows_first(p))
    return multiply_rows(p, t);
  Loop j = ll_loop(g, t->group0, t->group1, 1);
  Val b = p->raw ? raw_panel(p, t, j.i) : packed_block(p, t, j.i);
  Loop i = ll_loop(g, t->panel0, t->panel1, 1);
  bool ok = multiply_panel(p, t, i.i, j.i, p->zero ? NULL : a_of_panel(p, t, i.i), b);
  ll_loop_end(g, &i);
  ll_loop_end(g, &j);
  return ok;
}

static Val share(Gen *g, Val i, int64_t all, int64_t parts) {
  return ll_udiv(g, ll_mul(g, i, ll_n(g, all)), parts);
}

/* Columns of [tile, end) of the rows of t. */
static bool multiply_tiles(Product *p, Tile *t, Val tile, Val end, ProductBring *bring) {
  Gen *g = p->g;
  t->group0 = share(g, tile, p->ngroup, p->col_tiles);
  t->group1 = share(g, end, p->ngroup, p->col_tiles);
  Loop kb = ll_loop(g, ll_n(g, 0), ll_n(g, p->kblocks), 1);
  t->k0 = ll_mul(g, kb.i, ll_n(g, p->kblock));
  t->kc = ll_umin(g, ll_n(g, p->kblock), ll_sub(g, ll_n(g, p->units), t->k0));
  t->add = ll_icmp(g, LLVMIntNE, kb.i, ll_n(g, 0));
  t->last = ll_icmp(g, LLVMIntEQ, kb.i, ll_n(g, p->kblocks - 1));
  Val after = ll_sel(g, t->last, ll_n(g, 0), ll_add(g, kb.i, ll_n(g, 1)));
  t->b0 = p->b_at ? p->b_at(p, kb.i) : t->k0;
  t->b1 = p->b_at ? p->b_at(p, after) : ll_mul(g, after, ll_n(g, p->kblock));
  if (!p->zero)
    bring(p, t);
  bool ok = multiply_block(p, t);
  ll_loop_end(g, &kb);
  return ok;
}

/* All row tiles of the call as one. */
static bool emit_rows(Product *p, Tile *t, ProductBring *bring) {
  Gen *g = p->g;
  If some = ll_if(g, ll_icmp(g, LLVMIntSLT, g->first, g->end));
  t->panel0 = share(g, g->first, p->split.n, p->row_tiles);
  t->panel1 = share(g, g->end, p->split.n, p->row_tiles);
  t->row0 = split_start(g, &p->split, t->panel0);
  t->row1 = split_start(g, &p->split, t->panel1);
  bool ok = multiply_tiles(p, t, ll_n(g, 0), ll_n(g, 1), bring);
  ll_endif(g, &some);
  return ok;
}

bool product_emit(Product *p, Val a, ProductBring *bring) {
  Gen *g = p->g;
  Tile t = {.a = a};
  if (p->all_rows)
    return emit_rows(p, &t, bring);
  Val one = ll_n(g, 1), tiles = ll_n(g, p->col_tiles);
  Val rows_end = ll_udiv(g, ll_add(g, g->end, ll_n(g, p->col_tiles - 1)), p->col_tiles);
  Loop row = ll_loop(g, ll_udiv(g, g->first, p->col_tiles), rows_end, 1);
  t.panel0 = share(g, row.i, p->split.n, p->row_tiles);
  t.panel1 = share(g, ll_add(g, row.i, one), p->split.n, p->row_tiles);
  t.row0 = split_start(g, &p->split, t.panel0);
  t.row1 = split_start(g, &p->split, t.panel1);
  Val before = ll_mul(g, row.i, tiles), from = ll_sub(g, g->first, before);
  from = ll_sel(g, ll_icmp(g, LLVMIntSGT, from, ll_n(g, 0)), from, ll_n(g, 0));
  Val to = ll_umin(g, ll_sub(g, g->end, before), tiles);
  Loop col = ll_loop(g, from, to, p->merged);
  Val end = ll_umin(g, ll_add(g, col.i, ll_n(g, p->merged)), to);
  bool ok = multiply_tiles(p, &t, col.i, end, bring);
  ll_loop_end(g, &col);
  ll_loop_end(g, &row);
  return ok;
}

/* One product after the other: the tiles of each are consecutive. */
static bool emit_batches(Product *p, Val a) {
  Gen *g = p->g;
  Val first = g->first, end = g->end, zero = ll_n(g, 0), tiles = ll_n(g, g->ntiles);
  Val last = ll_udiv(g, ll_add(g, end, ll_n(g, g->ntiles - 1)), g->ntiles);
  Loop batch = ll_loop(g, ll_udiv(g, first, g->ntiles), last, 1);
  p->batch = batch.i;
  Val before = ll_mul(g, batch.i, tiles), from = ll_sub(g, first, before);
  g->first = ll_sel(g, ll_icmp(g, LLVMIntSGT, from, zero), from, zero);
  g->end = ll_umin(g, ll_sub(g, end, before), tiles);
  Val at = product_batch(p, &p->body->in[0]);
  bool ok = product_emit(p, ll_gep(g, ll_mem(g, p->a_dtype), a, at), product_bring);
  ll_loop_end(g, &batch);
  p->batch = NULL;
  g->first = first;
  g->end = end;
  g->ntiles *= p->batches;
  return ok;
}

bool cpu_product(Gen *g, const Op *group) {
  Product p = {.g = g, .group = group, .body = group->body};
  if (!plan_product(&p))
    return false;
  Val a =
      ll_gepc(g, ll_mem(g, p.a_dtype), ll_arg_ptr(g, gen_in_slot(group, 0)), p.body->in[0].offset);
  return p.batch_dims ? emit_batches(&p, a) : product_emit(&p, a, product_bring);
}
