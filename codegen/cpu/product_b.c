/* Products whose second factor lies as it lies (`raw`): a panel of it for one k block, converted into
 * scratch when it is needed. Columns that are neighbours in memory are copied vector by vector, k
 * that are transposed in registers; everything else, and the edges, is gathered along columns. */
#include "codegen/cpu/product.h"

/* Compute dtype elements of a vector of columns of a raw B at one k, of which `left` are there. */
static Val raw_columns(Product *p, Val from, int64_t left) {
  enum { AHEAD = 16 };
  Gen *g = p->g;
  DType dt = gen_in_dtype(p->group, 1);
  Ty mem = ll_mem(g, dt);
  Val count = left < p->c.vl ? ll_n(g, left) : NULL;
  if (p->b_ns == 1)
    ll_prefetch(g, ll_gepc(g, mem, from, AHEAD * p->b_ks));
  if (p->b_ns == 1 && dt == p->c.in)
    return ll_load(g, mem, p->c.vl, from, count);
  Val raw = p->b_ns == 1 ? ll_load(g, mem, p->c.vl, from, count)
                         : ll_load_strided(g, mem, p->c.vl, from, ll_n(g, p->b_ns), count);
  return micro_convert(g, &p->c, ll_decode(g, dt, raw));
}

/* Columns [col0, col1) of one unit of k at `from`, both k of it or the first alone, to scratch. */
static void pack_unit(Product *p, Val from, Val to, bool pair, int64_t col0, int64_t col1) {
  Gen *g = p->g;
  Ty mem = ll_mem(g, gen_in_dtype(p->group, 1));
  for (int64_t col = col0; col < col1; col += p->c.vl) {
    Val at = ll_gepc(g, mem, from, col * p->b_ns);
    Val first = raw_columns(p, at, col1 - col), second = NULL;
    if (pair)
      second = raw_columns(p, ll_gepc(g, mem, at, p->b_ks), col1 - col);
    ll_store(g, micro_interleave(g, &p->c, first, second), ll_gepc(g, p->c.unit, to, col), NULL);
  }
}

/* A vector of columns times as many units of k, which are neighbours in memory, through registers. */
static void turn_block(Product *p, Val from, Val to) {
  enum { MAX_VL = 16, AHEAD_LINES = 4 };
  Gen *g = p->g;
  DType dt = gen_in_dtype(p->group, 1);
  Ty param[] = {g->ptr, g->ptr}, type = LLVMFunctionType(g->none, param, 2, 0);
  FnSave save;
  Val fn = micro_fn(g, "turned_block", 2, param, &save);
  if (fn) {
    Val row[MAX_VL], x = LLVMGetParam(fn, 0), y = LLVMGetParam(fn, 1);
    const int64_t row_bytes = p->c.vl * p->c.pair * (int64_t)dtype_bytes(dt);
    for (int i = 0; i < p->c.vl; i++) {
      Val at = ll_gepc(g, ll_mem(g, dt), x, i * p->b_ns);
      for (int64_t byte = 0; p->once && byte < row_bytes; byte += 64)
        ll_prefetch_far(g, ll_gepc(g, g->i8, at, AHEAD_LINES * 64 + byte));
      row[i] = micro_units(g, &p->c, dt, p->c.vl, at, NULL);
    }
    micro_transpose(g, row, p->c.vl);
    for (int i = 0; i < p->c.vl; i++)
      ll_store(g, row[i], ll_gepc(g, p->c.unit, y, (int64_t)i * p->c.cols), NULL);
    micro_fn_end(g, &save);
  }
  Val arg[] = {from, to};
  LLVMBuildCall2(g->b, type, LLVMGetNamedFunction(g->mod, "turned_block"), arg, 2, "");
}

/* Columns [col0, col1) of a panel of a raw B for units of k in [k0, k1), to scratch. */
static void pack_rows(Product *p, Val from, Val to, Val k0, Val k1, int64_t col0, int64_t col1) {
  Gen *g = p->g;
  Ty mem = ll_mem(g, gen_in_dtype(p->group, 1));
  Loop k = ll_loop(g, k0, k1, 1);
  Val at = ll_gep(g, mem, from, ll_mul(g, k.i, ll_n(g, p->b_ks * p->c.pair)));
  Val row = ll_gep(g, p->c.unit, to, ll_mul(g, k.i, ll_n(g, p->c.cols)));
  pack_unit(p, at, row, p->c.pair == 2, col0, col1);
  ll_loop_end(g, &k);
}

/* The same of all units of the k block of t, the last of which may have one k. */
static void pack_ragged(Product *p, const Tile *t, Val from, Val to, int64_t cols) {
  Gen *g = p->g;
  Val whole = ll_umin(g, t->kc, ll_sub(g, ll_n(g, p->K / p->c.pair), t->k0));
  pack_rows(p, from, to, ll_n(g, 0), whole, 0, cols);
  If odd = ll_if(g, ll_icmp(g, LLVMIntSLT, whole, t->kc));
  Val at = ll_gep(g, ll_mem(g, gen_in_dtype(p->group, 1)), from,
                  ll_mul(g, whole, ll_n(g, p->b_ks * p->c.pair)));
  pack_unit(p, at, ll_gep(g, p->c.unit, to, ll_mul(g, whole, ll_n(g, p->c.cols))), false, 0, cols);
  ll_endif(g, &odd);
}

void product_pack(Product *p, const Tile *t, Val from, Val to, int64_t left) {
  Gen *g = p->g;
  Ty mem = ll_mem(g, gen_in_dtype(p->group, 1));
  int64_t cols = left < p->width ? left : p->width;
  int64_t turned = p->b_ks == 1 && p->b_ns != 1 ? cols / p->c.vl * p->c.vl : 0;
  Val kc = t->kc, whole = turned ? ll_and(g, kc, ll_n(g, -(int64_t)p->c.vl)) : ll_n(g, 0);
  if (p->K % p->c.pair) {
    pack_ragged(p, t, from, to, cols);
    return;
  }
  for (int64_t col = 0; col < turned; col += p->c.vl) {
    Loop k = ll_loop(g, ll_n(g, 0), whole, p->c.vl);
    Val row = ll_gep(g, p->c.unit, to, ll_mul(g, k.i, ll_n(g, p->c.cols)));
    Val first = p->c.pair == 1 ? k.i : ll_mul(g, k.i, ll_n(g, p->c.pair));
    turn_block(p, ll_gep(g, mem, ll_gepc(g, mem, from, col * p->b_ns), first),
               ll_gepc(g, p->c.unit, row, col));
    ll_loop_end(g, &k);
  }
  pack_rows(p, from, to, whole, kc, 0, cols);
  if (turned && turned < cols)
    pack_rows(p, from, to, ll_n(g, 0), whole, turned, cols);
}
