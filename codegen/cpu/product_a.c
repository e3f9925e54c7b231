/* Products bring rows of A into scratch: copied with k contiguous (A_ROWS), transposed in registers
 * so that the rows of a micro panel are neighbours (A_INTERLEAVED), or, when they are neighbours in
 * memory already, vector by vector (A_COLUMNS). */
#include "codegen/cpu/product.h"

enum {
  AHEAD = 160,     /* vectors of A fetched ahead of their use */
  AHEAD_LINES = 4, /* cache lines of each row fetched ahead of being transposed */
};

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
  ll_prefetch(g, ll_gepc(g, ll_mem(g, p->a_dtype), at, ceil_div(AHEAD, p->tile_panels) * p->a_ks));
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

/* One block of vl units of a micro panel through registers: rows from `from` on, the last at `last`
 * (panels differ by one row: the shorter ones read another row in its place). A function of its
 * own: in the loop LLVM's strength reduction would spend long on its addresses. */
static Val interleaved_block(Product *p) {
  enum { MAX_ROWS = 32 };
  Gen *g = p->g;
  int vl = p->c.vl, hi = p->split.hi;
  Ty param[] = {g->ptr, g->ptr, g->ptr};
  FnSave save;
  Val fn = micro_fn(g, "interleaved_block", 3, param, &save);
  if (!fn)
    return LLVMGetNamedFunction(g->mod, "interleaved_block");
  Val from = LLVMGetParam(fn, 0), last = LLVMGetParam(fn, 1), to = LLVMGetParam(fn, 2);
  for (int first = 0; first < hi; first += vl) {
    Val row[MAX_ROWS];
    for (int i = 0; i < vl; i++) {
      int r = first + i;
      Val at = r == hi - 1 ? last : ll_gepc(g, ll_mem(g, p->a_dtype), from, r * p->a_rs);
      row[i] = LLVMConstNull(ll_vec(p->c.unit, vl));
      if (r >= hi)
        continue;
      ll_prefetch_far(g, ll_gepc(g, g->i8, at, AHEAD_LINES * 64));
      row[i] = micro_units(g, &p->c, p->a_dtype, vl, at, NULL);
    }
    micro_transpose(g, row, vl);
    for (int i = 0; i < vl; i++)
      ll_store(g, row[i], ll_gepc(g, p->c.unit, to, i * p->micro.ks + first), NULL);
  }
  micro_fn_end(g, &save);
  return fn;
}

static void interleave_rows(Product *p, const Tile *t) {
  Gen *g = p->g;
  Ty param[] = {g->ptr, g->ptr, g->ptr};
  Ty type = LLVMFunctionType(g->none, param, 3, 0);
  Val fn = interleaved_block(p), vl = ll_n(g, p->c.vl);
  Loop panel = ll_loop(g, t->panel0, t->panel1, 1);
  Val row0 = split_start(g, &p->split, panel.i);
  Val row1 = split_start(g, &p->split, ll_add(g, panel.i, ll_n(g, 1)));
  Val from = a_element(p, t->a, ll_mul(g, row0, ll_n(g, p->a_rs)), ll_n(g, 0));
  Val end = ll_sub(g, row1, ll_n(g, 1));
  Val last = a_element(p, t->a, ll_mul(g, end, ll_n(g, p->a_rs)), ll_n(g, 0));
  Val to = ll_mul(g, ll_sub(g, panel.i, t->panel0), ll_n(g, p->a_panel));
  Loop u = ll_loop(g, ll_n(g, 0), t->kc, p->c.vl);
  /* What is left at the end is done with what is before it once more. */
  Val at = ll_umin(g, u.i, ll_sub(g, t->kc, vl));
  Val k = ll_mul(g, ll_add(g, t->k0, at), ll_n(g, p->c.pair));
  Val arg[] = {
      a_element(p, from, ll_n(g, 0), k), a_element(p, last, ll_n(g, 0), k),
      ll_gep(g, p->c.unit, g->scratch, ll_add(g, to, ll_mul(g, at, ll_n(g, p->micro.ks))))};
  LLVMBuildCall2(g->b, type, fn, arg, 3, "");
  ll_loop_end(g, &u);
  ll_loop_end(g, &panel);
}

void product_bring(Product *p, const Tile *t) {
  if (p->mode == A_ROWS)
    copy_rows(p, t);
  else if (p->mode == A_COLUMNS)
    copy_columns(p, t);
  else if (p->mode == A_INTERLEAVED)
    interleave_rows(p, t);
}

/* k between lines that a call fetches. */
static int64_t after_step(const Product *p) {
  return (int64_t)micro_unrolled(&p->micro) * p->c.pair;
}

int64_t product_after_calls(const Product *p) {
  if (p->mode != A_COLUMNS || p->kblocks > 1 || p->batches)
    return 0;
  int64_t lines = ceil_div(p->tile_rows * (int64_t)dtype_bytes(p->a_dtype), 64) + 1;
  return lines * after_step(p);
}

/* A call has one line of every so many k, each in a turn of its innermost loop. */
Next product_after(Product *p, const Tile *t, Val call) {
  Gen *g = p->g;
  int64_t step = after_step(p), bytes = p->a_ks * (int64_t)dtype_bytes(p->a_dtype);
  Val first = a_element(p, t->a, t->row1, ll_n(g, 0));
  Val k = ll_mul(g, ll_urem(g, call, step), ll_n(g, bytes));
  Val line = ll_mul(g, ll_udiv(g, call, step), ll_n(g, 64));
  return (Next){ll_gep(g, g->i8, first, ll_add(g, k, line)), ll_n(g, step * bytes)};
}
