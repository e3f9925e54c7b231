/* pack: the second operand of a product in panels [ceil(N/C), ceil(K/P), C, P] of the compute dtype
 * (docs/groups.md). A tile is a run of k of one panel.
 *
 * Three ways to bring a block in: memory contiguous along n is copied vector by vector; memory
 * contiguous along k is transposed in registers; everything else, and the edges, is gathered along
 * n. Where the target pairs k, the pair of two rows is interleaved (first way), or comes with the
 * load (second). With attribute `round` elements are rounded to that format on their way. */
#include "codegen/cpu/gen.h"
#include "codegen/cpu/micro.h"

typedef struct {
  Gen *g;
  Compute c;
  DType dt;    /* of the operand */
  DType round; /* to this format first; MPCC_DTYPE_COUNT: as they are */
  int64_t N, K, units;
  int64_t ns, ks;                /* elements between n, between k */
  int64_t panels, chunk, chunks; /* k units per tile; tiles per panel */
  Val from, to;
} Pack;

enum {
  CHUNK_UNITS = 512, /* 64 KiB of a panel */
  AHEAD = 32,        /* k fetched ahead where they are rows apart */
  AHEAD_LINES = 4,   /* cache lines of each row fetched ahead where k are neighbours */
  STORE_AHEAD = 2048 /* bytes: what is written, which the processor would ask for when it is */
};

static Val element(Pack *p, Val n, Val k) {
  Gen *g = p->g;
  Val e = ll_add(g, ll_mul(g, n, ll_n(g, p->ns)), ll_mul(g, k, ll_n(g, p->ks)));
  return ll_gep(g, ll_mem(g, p->dt), p->from, e);
}

static Val place(Pack *p, Val panel, Val unit, int64_t col) {
  Gen *g = p->g;
  Val row = ll_add(g, ll_mul(g, panel, ll_n(g, p->units)), unit);
  Val at = ll_add(g, ll_mul(g, row, ll_n(g, p->c.cols)), ll_n(g, col));
  return ll_gep(g, p->c.unit, p->to, at);
}

static void store(Pack *p, Val v, Val to) {
  Gen *g = p->g;
  ll_prefetch_store(g, ll_gepc(g, g->i8, to, STORE_AHEAD));
  ll_store(g, v, to, NULL);
}

/* Elements as the operand has them, in the compute dtype. */
static Val converted(Pack *p, Val raw) {
  Gen *g = p->g;
  if (p->round == MPCC_DTYPE_COUNT)
    return p->dt == p->c.in ? raw : micro_convert(g, &p->c, ll_decode(g, p->dt, raw));
  Val codes = ll_encode(g, p->round, ll_decode(g, p->dt, raw));
  return p->round == p->c.in ? codes : micro_convert(g, &p->c, ll_decode(g, p->round, codes));
}

/* Compute dtype elements of vl columns from n on at one k; zero from `count` on. */
static Val columns(Pack *p, Val n, Val k, Val count) {
  Gen *g = p->g;
  Val at = element(p, n, k);
  Ty mem = ll_mem(g, p->dt);
  /* Rows of a matrix are further apart than prefetchers of the processor follow. */
  if (p->ns == 1)
    ll_prefetch_far(g, ll_gepc(g, mem, at, AHEAD * p->ks));
  Val raw = p->ns == 1 ? ll_load(g, mem, p->c.vl, at, count)
                       : ll_load_strided(g, mem, p->c.vl, at, ll_n(g, p->ns), count);
  Val v = converted(p, raw);
  if (count && p->ns != 1)
    v = ll_sel(g, ll_mask(g, p->c.vl, count), v, LLVMConstNull(LLVMTypeOf(v)));
  return v;
}

/* Both vectors of one unit of k; valid columns: all, or constant `left` in the last panel. */
static void unit_row(Pack *p, Val panel, Val unit, bool pair, int64_t left) {
  Gen *g = p->g;
  Val k = ll_mul(g, unit, ll_n(g, p->c.pair));
  for (int64_t col = 0; col < p->c.cols; col += p->c.vl) {
    int64_t valid = left - col;
    Val to = place(p, panel, unit, col);
    if (valid <= 0) {
      ll_store(g, LLVMConstNull(ll_vec(p->c.unit, p->c.vl)), to, NULL);
      continue;
    }
    Val count = valid < p->c.vl ? ll_n(g, valid) : NULL;
    Val n = ll_add(g, ll_mul(g, panel, ll_n(g, p->c.cols)), ll_n(g, col));
    Val first = columns(p, n, k, count);
    Val second = pair ? columns(p, n, ll_add(g, k, ll_n(g, 1)), count) : NULL;
    store(p, micro_interleave(g, &p->c, first, second), to);
  }
}

/* Units [u0, u1) one by one. */
static void unit_rows(Pack *p, Val panel, Val u0, Val u1, int64_t left) {
  Gen *g = p->g;
  Val whole = ll_n(g, p->K / p->c.pair);
  Val stop = p->K % p->c.pair ? ll_umin(g, u1, whole) : u1;
  Loop u = ll_loop(g, u0, stop, 1);
  unit_row(p, panel, u.i, p->c.pair == 2, left);
  ll_loop_end(g, &u);
  if (p->K % p->c.pair == 0)
    return;
  If odd = ll_if(g, ll_icmp(g, LLVMIntSLT, whole, u1));
  unit_row(p, panel, whole, false, left);
  ll_endif(g, &odd);
}

/* vl columns times vl units through registers. A function of its own: in the loop, LLVM's strength
 * reduction spends tens of milliseconds on its addresses. */
static void transposed_block(Pack *p, Val panel, Val unit, Val col) {
  enum { MAX_VL = 16 };
  Gen *g = p->g;
  int vl = p->c.vl;
  Ty param[] = {g->ptr, g->ptr}, type = LLVMFunctionType(g->none, param, 2, 0);
  FnSave save;
  Val fn = micro_fn(g, "transposed_block", 2, param, &save);
  if (fn) {
    Val row[MAX_VL], from = LLVMGetParam(fn, 0), to = LLVMGetParam(fn, 1);
    const int64_t row_bytes = vl * p->c.pair * (int64_t)dtype_bytes(p->dt);
    for (int i = 0; i < vl; i++) {
      Val at = ll_gepc(g, ll_mem(g, p->dt), from, i * p->ns);
      for (int64_t byte = 0; byte < row_bytes; byte += 64)
        ll_prefetch_far(g, ll_gepc(g, g->i8, at, AHEAD_LINES * 64 + byte));
      Val raw = ll_load(g, ll_mem(g, p->dt), vl * p->c.pair, at, NULL);
      row[i] = micro_pairs(g, &p->c, converted(p, raw));
    }
    micro_transpose(g, row, vl);
    for (int i = 0; i < vl; i++)
      store(p, row[i], ll_gepc(g, p->c.unit, to, (int64_t)i * p->c.cols));
    micro_fn_end(g, &save);
  }
  Val n = ll_add(g, ll_mul(g, panel, ll_n(g, p->c.cols)), col);
  Val from = element(p, n, ll_mul(g, unit, ll_n(g, p->c.pair)));
  Val args[] = {from, ll_gep(g, p->c.unit, place(p, panel, unit, 0), col)};
  LLVMBuildCall2(g->b, type, LLVMGetNamedFunction(g->mod, "transposed_block"), args, 2, "");
}

/* Units [u0, u1) of a full panel whose memory is contiguous along k; chunks start at multiples of
 * the vector length. */
static void transposed_rows(Pack *p, Val panel, Val u0, Val u1) {
  Gen *g = p->g;
  int64_t whole_units = p->K / p->c.pair / p->c.vl * p->c.vl;
  Val stop = ll_umin(g, u1, ll_n(g, whole_units));
  Loop u = ll_loop(g, u0, stop, p->c.vl);
  Loop col = ll_loop(g, ll_n(g, 0), ll_n(g, p->c.cols), p->c.vl);
  transposed_block(p, panel, u.i, col.i);
  ll_loop_end(g, &col);
  ll_loop_end(g, &u);
  if (whole_units == p->units)
    return;
  If rest = ll_if(g, ll_icmp(g, LLVMIntSLT, stop, u1));
  unit_rows(p, panel, stop, u1, p->c.cols);
  ll_endif(g, &rest);
}

static void full_panel(Pack *p, Val panel, Val u0, Val u1) {
  if (p->ns != 1 && p->ks == 1)
    transposed_rows(p, panel, u0, u1);
  else
    unit_rows(p, panel, u0, u1, p->c.cols);
}

bool cpu_pack(Gen *g, const Op *group) {
  const Body *b = group->body;
  const Attr *round = op_attr(group, "round");
  Pack p = {.g = g,
            .dt = gen_in_dtype(group, 0),
            .round = round ? (DType)round->u.i : MPCC_DTYPE_COUNT,
            .N = b->dim[0],
            .K = b->dim[1]};
  if (!micro_compute(g, gen_out_dtype(group, 0), &p.c))
    return false;
  if (b->ndim != 2 || p.N < 1 || p.K < 1 || !dtype_is_float(p.dt))
    return gen_fail(g, "pack of no matrix");
  p.ns = p.N == 1 ? 1 : b->in[0].stride[0];
  p.ks = b->in[0].stride[1];
  p.units = ceil_div(p.K, p.c.pair);
  p.panels = ceil_div(p.N, p.c.cols);
  p.chunks = ceil_div(p.units, CHUNK_UNITS);
  p.chunk = round_up(ceil_div(p.units, p.chunks), p.c.vl);
  p.chunks = ceil_div(p.units, p.chunk);
  g->ntiles = p.panels * p.chunks;
  p.from = ll_gepc(g, ll_mem(g, p.dt), ll_arg_ptr(g, gen_in_slot(group, 0)), b->in[0].offset);
  p.to = ll_arg_ptr(g, 0);

  Loop tile = ll_loop(g, g->first, g->end, 1);
  Val panel = ll_udiv(g, tile.i, p.chunks);
  Val u0 = ll_mul(g, ll_urem(g, tile.i, p.chunks), ll_n(g, p.chunk));
  Val u1 = ll_umin(g, ll_add(g, u0, ll_n(g, p.chunk)), ll_n(g, p.units));
  int64_t left = p.N % p.c.cols;
  if (left == 0) {
    full_panel(&p, panel, u0, u1);
  } else if (p.N < p.c.cols) {
    unit_rows(&p, panel, u0, u1, left);
  } else {
    If full = ll_if(g, ll_icmp(g, LLVMIntSLT, panel, ll_n(g, p.panels - 1)));
    full_panel(&p, panel, u0, u1);
    ll_else(g, &full);
    unit_rows(&p, panel, u0, u1, left);
    ll_endif(g, &full);
  }
  ll_loop_end(g, &tile);
  return true;
}
