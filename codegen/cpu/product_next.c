/* What micro-kernels of products and convolutions fetch while they multiply: the panel of B after,
 * rows of the panel after, or what a later tile or k block reads. */
#include "codegen/cpu/product.h"

enum { FAR_BYTES = 768 << 10 }; /* a packed B beyond this does not stay in the second-level cache */

/* ---- what a call fetches --------------------------------------------------------------------- */

/* What group j of B is followed by, from the part on that this call fetches. */
static Next next_part(Product *p, const Tile *t, Val panel, Val j, Val b) {
  Gen *g = p->g;
  Val packed = ll_arg_ptr(g, gen_in_slot(p->group, 1));
  Val start = ll_add(g, ll_mul(g, t->group0, ll_n(g, p->b_units * p->c.cols)),
                     ll_mul(g, t->b1, ll_n(g, p->c.cols)));
  Val more = ll_icmp(g, LLVMIntSLT, ll_add(g, j, ll_n(g, 1)), t->group1);
  Val next = ll_sel(g, more, ll_gepc(g, p->c.unit, b, p->b_units * p->c.cols),
                    ll_gep(g, p->c.unit, packed, start));
  Val turns = ll_udiv(g, t->kc, micro_unrolled(&p->micro));
  Val part = ll_mul(g, turns, ll_n(g, 64 * micro_lines(&p->micro)));
  Val whole = ll_mul(g, t->kc, ll_n(g, p->c.cols * p->c.unit_bytes));
  Val call = ll_sub(g, panel, t->panel0);
  Val at = ll_umin(g, ll_mul(g, call, part), ll_sub(g, whole, part));
  at = ll_gep(g, g->i8, next, at);
  if (!p->b_calls)
    return (Next){at, NULL};
  /* Of the calls that B does not need, the last: what is fetched too early does not stay. */
  Val spare = ll_sub(g, ll_sub(g, t->panel1, t->panel0), ll_n(g, p->b_calls));
  Val left = ll_mul(g, ll_sub(g, t->group1, j), spare);
  left = ll_sub(g, left, ll_sub(g, call, ll_n(g, p->b_calls)));
  Val mine = ll_and(g, ll_icmp(g, LLVMIntSGE, call, ll_n(g, p->b_calls)),
                    ll_icmp(g, LLVMIntSLE, left, ll_n(g, product_after_calls(p))));
  Next after = product_after(p, t, ll_sub(g, left, ll_n(g, 1)));
  return (Next){ll_sel(g, mine, after.at, at), ll_sel(g, mine, after.step, ll_n(g, 64))};
}

Val product_calls(Product *p, const Tile *t) {
  Gen *g = p->g;
  return ll_mul(g, ll_sub(g, t->group1, t->group0), ll_sub(g, t->panel1, t->panel0));
}

void product_later_begin(Product *p, const Tile *t) {
  p->later = (ProductLater){.turns = ll_udiv(p->g, t->kc, micro_unrolled(&p->micro))};
}

/* A line each turn, and its neighbour, which the processor brings by itself: more than two do not
 * come anyway. */
void product_later(Product *p, Val at, Val bytes, Val calls) {
  Gen *g = p->g;
  ProductLater *l = &p->later;
  Val one = ll_n(g, 1), some = ll_sel(g, ll_icmp(g, LLVMIntSGT, calls, one), calls, one);
  Val each = LLVMBuildUDiv(g->b, bytes, ll_mul(g, some, l->turns), "");
  l->at[l->n] = at;
  l->calls[l->n] = calls;
  l->step[l->n++] = ll_umin(g, ll_add(g, each, one), ll_n(g, 128));
}

Val product_raw_after(Product *p, const Tile *t, Val *bytes) {
  Gen *g = p->g;
  DType dt = gen_in_dtype(p->group, 1);
  Ty mem = ll_mem(g, dt);
  Val k1 = ll_add(g, t->k0, t->kc), left = ll_sub(g, ll_n(g, p->units), k1);
  Val kc = ll_umin(g, ll_n(g, p->kblock), left);
  *bytes = ll_mul(g, kc, ll_n(g, p->c.pair * p->b_ks * (int64_t)dtype_bytes(dt)));
  Val first = ll_gepc(g, mem, ll_arg_ptr(g, gen_in_slot(p->group, 1)), p->body->in[1].offset);
  return ll_gep(g, mem, first, ll_mul(g, k1, ll_n(g, p->c.pair * p->b_ks)));
}

Next product_next_later(Product *p, const Tile *t, Val panel, Val j, Val b) {
  (void)b;
  Gen *g = p->g;
  const ProductLater *l = &p->later;
  Val column = ll_mul(g, ll_sub(g, j, t->group0), ll_sub(g, t->panel1, t->panel0));
  Val call = ll_add(g, column, ll_sub(g, panel, t->panel0)), at = l->at[0], step = l->step[0];
  if (p->mode == A_IMAGE && p->kblocks > 1)
    call = ll_add(g, call, ll_mul(g, ll_udiv(g, t->k0, p->kblock), product_calls(p, t)));
  if (l->n == 2) {
    Val second = ll_icmp(g, LLVMIntSGE, call, l->calls[0]);
    call = ll_sel(g, second, ll_sub(g, call, l->calls[0]), call);
    at = ll_sel(g, second, l->at[1], at);
    step = ll_sel(g, second, l->step[1], step);
  }
  return (Next){ll_gep(g, g->i8, at, ll_mul(g, call, ll_mul(g, step, l->turns))), step};
}

/* Panels of a raw B that lie one after the other in memory. */
static bool raw_in_a_row(const Product *p) {
  return p->once && p->kblocks == 1 && p->b_ks == 1 && p->b_ns == p->K;
}

/* The part of the raw panel after j, or of the first one of the k block after, that this call
 * fetches to the second-level cache, a line a turn: of a panel in one piece its share; of one whose
 * k are neighbours a column; else a line of each k in its turns. */
static Next next_raw(Product *p, const Tile *t, Val panel, Val j, Val b) {
  (void)b;
  Gen *g = p->g;
  const int64_t elem = (int64_t)dtype_bytes(gen_in_dtype(p->group, 1)),
                unroll = micro_unrolled(&p->micro);
  Val call = ll_sub(g, panel, t->panel0), after = ll_add(g, j, ll_n(g, 1));
  Val more = ll_icmp(g, LLVMIntSLT, after, t->group1);
  Val k = ll_sel(g, more, t->k0, ll_add(g, t->k0, t->kc));
  Val col = ll_mul(g, ll_sel(g, more, after, t->group0), ll_n(g, p->width));
  Val turns = ll_udiv(g, t->kc, unroll), skip, step;
  if (raw_in_a_row(p)) {
    step = ll_n(g, ceil_div(p->width * p->K * elem, ceil_div(p->units, unroll) * p->split.n));
    skip = ll_mul(g, call, ll_mul(g, step, turns));
  } else if (p->b_ks == 1) {
    step = ll_n(g, unroll * p->c.pair * elem);
    skip = ll_mul(g, ll_umin(g, call, ll_n(g, p->width - 1)), ll_n(g, p->b_ns * elem));
  } else {
    const int64_t lines = ceil_div(p->width * elem, 64);
    Val part = ll_umin(g, ll_udiv(g, call, lines), ll_n(g, unroll * p->c.pair - 1));
    step = ll_n(g, p->b_ks * elem);
    skip = ll_add(g, ll_mul(g, part, ll_mul(g, turns, step)),
                  ll_mul(g, ll_urem(g, call, lines), ll_n(g, 64)));
  }
  Val at = ll_add(g, ll_mul(g, k, ll_n(g, p->c.pair * p->b_ks)), ll_mul(g, col, ll_n(g, p->b_ns)));
  Val from = ll_gepc(g, ll_mem(g, gen_in_dtype(p->group, 1)),
                     ll_arg_ptr(g, gen_in_slot(p->group, 1)), p->body->in[1].offset);
  from = ll_gep(g, ll_mem(g, gen_in_dtype(p->group, 1)), from, at);
  return (Next){ll_gep(g, g->i8, from, skip), step};
}

/* Lines of the result a panel ahead, which the panel's calls share. */
static int64_t result_lines(const Product *p) {
  return ceil_div(p->split.hi * p->N * micro_result_bytes(&p->micro), 64 * p->ngroup);
}

/* The part of the result's rows in the panel after that this call fetches. */
static Next next_result(Product *p, const Tile *t, Val panel, Val j, Val b) {
  (void)b;
  Gen *g = p->g;
  Val row = split_start(g, &p->split, ll_add(g, panel, ll_n(g, 1)));
  Val at = ll_add(g, ll_mul(g, row, ll_n(g, p->direct_stride)), ll_n(g, p->body->out[0].offset));
  Val from = ll_gep(g, micro_result(g, &p->micro), ll_arg_ptr(g, 0), at);
  Val call = ll_sub(g, j, t->group0);
  return (Next){ll_gep(g, g->i8, from, ll_mul(g, call, ll_n(g, 64 * result_lines(p)))), NULL};
}

/* ---- which calls fetch what ------------------------------------------------------------------ */

static int64_t group_bytes(const Product *p, int64_t k) {
  return p->group_panels * p->c.cols * p->c.unit_bytes * k;
}

/* A panel of B that is not in the second-level cache is fetched while the one before is used. Where
 * B is near, the rows after are when nothing else would. */
static void choose_prefetch(Product *p) {
  int64_t bytes = p->ngroup * group_bytes(p, p->units);
  int lines = (int)ceil_div(4, p->tile_panels);
  if (p->raw) {
    p->next = p->once && !p->in_place && (p->b_ks == 1 || p->b_ns == 1) ? next_raw : NULL;
    lines = 0;
  } else if (p->group_panels == 1 && p->image.next && !p->image.apart && bytes <= FAR_BYTES) {
    int64_t rows = p->split.hi * p->image.walk.rs * p->c.unit_bytes;
    p->next = p->image.next;
    lines = (int)ceil_div(2 * rows, 64 * p->units);
  } else if (p->group_panels == 1 && (bytes > FAR_BYTES || p->row_tiles <= 4)) {
    p->next = next_part;
  }
  p->micro.next_lines = p->next ? lines : 0;
  int64_t calls = ceil_div(p->c.cols * p->c.unit_bytes * micro_unrolled(&p->micro), 64);
  if (p->next == next_part && lines == 1 && calls < p->tile_panels && product_after_calls(p) > 0)
    p->b_calls = calls;
}

/* All of B stays in the nearest cache: panels of rows are gone through once. */
bool product_rows_first(const Product *p) {
  enum { NEAR_BYTES = 32 << 10 };
  return p->mode == A_IMAGE && p->kblocks == 1 &&
         p->ngroup * group_bytes(p, p->units) <= NEAR_BYTES;
}

/* Lines of a row that each call fetches of the panel after: its share of them. */
static int64_t lines_each(const Product *p) {
  return ceil_div(ceil_div(p->units * p->c.unit_bytes, 64), p->ngroup);
}

/* Rows of windows that lie apart are fetched group by group. */
static void choose_wayside(Product *p) {
  Micro *m = &p->micro;
  int64_t lines = lines_each(p);
  if (p->next || !p->image.next || !product_rows_first(p) || !micro_has_way(m, m->group * lines))
    return;
  p->next = p->image.next;
  for (int i = 0; i < m->group; i++)
    for (int64_t l = 0; l < lines; l++)
      m->way.fetch[m->way.nfetch++] = i * m->rs * p->c.unit_bytes + l * 64;
}

/* Where k is short and rows of the result are written as a whole, memory keeps up when the lines of
 * the panel after are asked for all the time: those of a call's own would come too late. */
static void choose_result(Product *p) {
  Micro *m = &p->micro;
  int64_t unroll = micro_unrolled(m), turn = ceil_div(result_lines(p) * unroll, p->units);
  if (p->next || !p->direct || p->row_at || p->direct_stride != p->N || !product_rows_first(p) ||
      p->units < unroll || turn > 2 * unroll)
    return;
  p->next = next_result;
  m->next_lines = (int)(unroll > 2 ? ceil_div(2 * turn, unroll) : turn);
  m->ahead = false;
}

void product_choose_next(Product *p) {
  choose_prefetch(p);
  choose_wayside(p);
  choose_result(p);
  if (!p->next && p->comes_later)
    p->next = product_next_later;
}
