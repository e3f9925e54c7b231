/* Weight gradients by panels: rows are (tap, channel), k runs over positions.
 *
 * For each k block a table is made of where every tap of every position lies in the input: its
 * first channel there, or zeros in scratch where the tap hangs over the edge or falls between the
 * inputs that a window spreads. A micro panel is some channels of one tap: one vector load and
 * store for each k bring it into [k][rows] in the nearest cache, where it is multiplied by all of
 * B's columns; of pairs in k, vectors of two positions are interleaved. All channels are brought
 * together where they are few. Works for any number of axes, strides and storage dtypes. */
#include "codegen/cpu/conv.h"

enum {
  LEAST_ROWS = 8,          /* of a tap: fewer make low panels */
  UNITS = 512,             /* of a k block, at most */
  TABLE_BYTES = 128 << 10, /* of places, at most */
  TAP_BYTES = 128 << 10,   /* of all channels of a tap: as small a part */
  B_BYTES = 768 << 10,     /* of a k block of B: a part of the second-level cache */
};

/* Windows of one tap read every number once: places of the next k block are known while this one is
 * multiplied, so that they can be fetched. */
static int tables(const Conv *v) {
  return conv_taps(&v->c.w) == 1 ? 2 : 1;
}

/* Positions of a k block. */
static int64_t block_places(const Conv *v) {
  return v->p.kblock * v->p.c.pair;
}

static int64_t zeros_offset(const Conv *v) {
  return round_up(tables(v) * conv_taps(&v->c.w) * block_places(v) * 8, 64);
}

/* The table of the k block that begins at k0. */
static Val table_of(Conv *v, Val k0) {
  Gen *g = v->p.g;
  if (tables(v) == 1)
    return g->scratch;
  Val odd = ll_urem(g, ll_udiv(g, k0, v->p.kblock), 2);
  return ll_gep(g, g->i64, g->scratch, ll_mul(g, odd, ll_n(g, block_places(v))));
}

static Val zeros_at(const Conv *v) {
  return ll_gepc(v->p.g, v->p.g->i8, v->p.g->scratch, zeros_offset(v));
}

/* Where tap `tap` of position s lies. */
static Val place_of(Conv *v, Val x, const Spot *s, Val tap) {
  Gen *g = v->p.g;
  const ConvWindow *w = &v->c.w;
  Val at = s->sample, inside = LLVMConstInt(g->i1, 1, 0);
  for (int i = w->nd - 1; i >= 0; i--) {
    Val k = w->kernel[i] == 1 ? ll_n(g, 0) : i == 0 ? tap : ll_urem(g, tap, w->kernel[i]);
    tap = w->kernel[i] == 1 || i == 0 ? tap : ll_udiv(g, tap, w->kernel[i]);
    Val place = ll_add(g, s->first[i], ll_mul(g, k, ll_n(g, w->dilation[i])));
    /* Negative places are huge without sign. */
    inside = ll_and(g, inside, ll_icmp(g, LLVMIntULT, place, ll_n(g, v->c.x[i] * w->up[i])));
    if (w->up[i] > 1) {
      Val rest = ll_urem(g, place, w->up[i]);
      inside = ll_and(g, inside, ll_icmp(g, LLVMIntEQ, rest, ll_n(g, 0)));
      place = ll_udiv(g, place, w->up[i]);
    }
    at = ll_add(g, at, ll_mul(g, place, ll_n(g, v->c.stride[1 + i])));
  }
  return ll_sel(g, inside, ll_gep(g, ll_mem(g, v->p.a_dtype), x, at), zeros_at(v));
}

/* Where the taps of the positions of kc units from k0 on lie. */
static void make_table(Conv *v, Val x, Val k0, Val kc) {
  Gen *g = v->p.g;
  Val table = table_of(v, k0), pair = ll_n(g, v->p.c.pair);
  Loop k = ll_loop(g, ll_n(g, 0), ll_mul(g, kc, pair), 1);
  Val row = ll_add(g, ll_mul(g, k0, pair), k.i);
  Spot s = conv_spot(v, row);
  Loop tap = ll_loop(g, ll_n(g, 0), ll_n(g, conv_taps(&v->c.w)), 1);
  Val at = ll_add(g, ll_mul(g, tap.i, ll_n(g, block_places(v))), k.i);
  Val place = place_of(v, x, &s, tap.i);
  if (v->p.K % v->p.c.pair) /* the second of the last pair is none */
    place = ll_sel(g, ll_icmp(g, LLVMIntSLT, row, ll_n(g, v->p.K)), place, zeros_at(v));
  ll_store(g, place, ll_gep(g, g->i64, table, at), NULL);
  ll_loop_end(g, &tap);
  ll_loop_end(g, &k);
}

void conv_bring_places(Product *p, const Tile *t) {
  Conv *v = (Conv *)p;
  Gen *g = p->g;
  int64_t bytes = v->c.channels * (int64_t)dtype_bytes(p->a_dtype);
  if (p->next == product_next_later) {
    Val later, b = product_raw_after(p, t, &later);
    product_later_begin(p, t);
    product_later(p, b, later, product_calls(p, t));
  }
  Loop z = ll_loop(g, ll_n(g, 0), ll_n(g, bytes), 32);
  ll_store(g, LLVMConstNull(ll_vec(g->i8, 32)), ll_gep(g, g->i8, zeros_at(v), z.i), NULL);
  ll_loop_end(g, &z);
  if (tables(v) == 1) {
    make_table(v, t->a, t->k0, t->kc);
    return;
  }
  Val after = ll_add(g, t->k0, t->kc);
  If first = ll_if(g, ll_icmp(g, LLVMIntEQ, t->k0, ll_n(g, 0)));
  make_table(v, t->a, t->k0, t->kc);
  ll_endif(g, &first);
  make_table(v, t->a, after, ll_umin(g, ll_n(g, p->kblock), ll_sub(g, ll_n(g, p->units), after)));
}

/* Rows [i, i + vl) of a panel whose rows lie at `from`, as compute dtype elements. rows: there are
 * only so many; where none is left, the last one, which nobody uses. NULL: more follow in memory.
 */
static Val rows_at(Product *p, Val from, int64_t i, Val rows) {
  Gen *g = p->g;
  Val at = ll_n(g, i), count = NULL;
  if (rows) {
    at = ll_umin(g, at, ll_sub(g, rows, ll_n(g, 1)));
    count = ll_umin(g, ll_sub(g, rows, at), ll_n(g, p->c.vl));
  }
  at = ll_gep(g, ll_mem(g, p->a_dtype), from, at);
  return micro_elements(g, &p->c, p->a_dtype, p->c.vl, at, count);
}

/* Channels from `first` on of the places, all k of the block, to `to`. */
static void copy_rows(Product *p, const Tile *t, Val places, Val first, Val rows, Val to) {
  Gen *g = p->g;
  Loop k = ll_loop(g, ll_n(g, 0), t->kc, 1);
  Val from[2], out = ll_gep(g, p->c.unit, to, ll_mul(g, k.i, ll_n(g, p->micro.ks)));
  for (int i = 0; i < p->c.pair; i++) {
    Val at = ll_gepc(g, g->i64, places, i);
    at = ll_gep(g, g->i64, at, ll_mul(g, k.i, ll_n(g, p->c.pair)));
    from[i] = ll_gep(g, ll_mem(g, p->a_dtype), ll_load(g, g->ptr, 1, at, NULL), first);
  }
  for (int64_t i = 0; i < p->micro.ks; i += p->c.vl) {
    Val second = p->c.pair > 1 ? rows_at(p, from[1], i, rows) : NULL;
    Val units = micro_interleave(g, &p->c, rows_at(p, from[0], i, rows), second);
    ll_store(g, units, ll_gepc(g, p->c.unit, out, i), NULL);
  }
  ll_loop_end(g, &k);
}

/* Where the panel's tap lies. */
static Val places_of(Conv *v, const Tile *t, Val panel) {
  Gen *g = v->p.g;
  Val tap = ll_udiv(g, panel, v->p.split.period);
  return ll_gep(g, g->i64, table_of(v, t->k0), ll_mul(g, tap, ll_n(g, block_places(v))));
}

/* All channels of the panel's tap, with the first panel of it in the tile. */
static Val bring_tap(Product *p, const Tile *t, Val panel, Val to) {
  Conv *v = (Conv *)p;
  Gen *g = p->g;
  Val in = ll_urem(g, panel, p->split.period);
  Val first =
      ll_or(g, ll_icmp(g, LLVMIntEQ, in, ll_n(g, 0)), ll_icmp(g, LLVMIntEQ, panel, t->panel0));
  If once = ll_if(g, first);
  copy_rows(p, t, places_of(v, t, panel), ll_n(g, 0), NULL, to);
  ll_endif(g, &once);
  return ll_gep(g, p->c.unit, to, split_start(g, &p->split, in));
}

static Val bring_panel(Product *p, const Tile *t, Val panel, Val to) {
  Conv *v = (Conv *)p;
  Gen *g = p->g;
  Val places = places_of(v, t, panel), in = ll_urem(g, panel, p->split.period);
  Val first = split_start(g, &p->split, in),
      end = split_start(g, &p->split, ll_add(g, in, ll_n(g, 1)));
  /* Whole vectors, where more channels follow: storage dtypes that a level cannot mask are slow. */
  Val whole = ll_add(g, first, ll_n(g, p->micro.ks));
  If more = ll_if(g, ll_icmp(g, LLVMIntSLE, whole, ll_n(g, v->c.channels)));
  copy_rows(p, t, places, first, NULL, to);
  ll_else(g, &more);
  copy_rows(p, t, places, first, ll_sub(g, end, first), to);
  ll_endif(g, &more);
  return to;
}

/* The panel after: of the same tap, of the next, or for windows of one tap the first in the k block
 * after; where taps are brought whole, these channels of the next. */
static Val panel_after(Product *p, const Tile *t, Val panel, Val *bytes) {
  Conv *v = (Conv *)p;
  Gen *g = p->g;
  Val after = ll_add(g, panel, ll_n(g, p->panel_ks ? p->split.period : 1));
  Val more = ll_icmp(g, LLVMIntSLT, after, t->panel1);
  after = ll_sel(g, more, after, p->panel_ks ? ll_urem(g, panel, p->split.period) : t->panel0);
  Val tap = ll_udiv(g, after, p->split.period), in = ll_urem(g, after, p->split.period);
  Val end = split_start(g, &p->split, ll_add(g, in, ll_n(g, 1)));
  int64_t size = (int64_t)dtype_bytes(p->a_dtype);
  *bytes = ll_sub(g, ll_mul(g, end, ll_n(g, size)), ll_n(g, 1)); /* of its last channel */
  Val table = table_of(v, t->k0);
  if (tables(v) == 2)
    table = ll_sel(g, ll_or(g, more, t->last), table, table_of(v, ll_add(g, t->k0, t->kc)));
  return ll_gep(g, g->i64, table, ll_mul(g, tap, ll_n(g, block_places(v))));
}

bool conv_plan_panels(Conv *v) {
  Product *p = &v->p;
  int64_t taps = conv_taps(&v->c.w), ch = v->c.channels;
  if (ch < LEAST_ROWS)
    return false;
  int64_t most = TABLE_BYTES / 8 / taps / p->c.pair,
          b = B_BYTES / (round_up(p->N, p->c.cols) * p->c.unit_bytes);
  most = most < b ? most : b;
  most = most < UNITS ? most : UNITS;
  if (most < LEAST_ROWS * 8)
    return false;
  p->image.period = ch;
  p->kblocks = ceil_div(p->units, most);
  p->kblock = round_up(ceil_div(p->units, p->kblocks), 2);
  p->kblocks = ceil_div(p->units, p->kblock);
  p->a_offset = round_up(zeros_offset(v) + ch * (int64_t)dtype_bytes(p->a_dtype) + 64, 64);
  p->bring_panel = bring_panel;
  if (ch % p->c.vl == 0 && ch * p->kblock * p->c.unit_bytes <= TAP_BYTES) {
    p->panel_ks = ch;
    p->bring_panel = bring_tap;
  }
  p->panel_after = panel_after;
  /* More sums than that push out what is fetched before it is used. */
  p->comes_later = p->kblocks > 1 && p->M * p->N * p->c.unit_bytes <= B_BYTES;
  return true;
}
