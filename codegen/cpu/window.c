/* cpu_window: pooling, interpolation and their gradients over channels-last images. Each place of
 * the result gathers the places that its tables name; lanes run along the channels. The tables are
 * constants of the kernel: element offsets, tap numbers and weights, one per entry and axis. */
#include "codegen/cpu/gen.h"

#include <stdlib.h>

enum {
  MOST_VECTORS = 4,
  MOST_ENTRIES = 9, /* of a place, without loops */
};

typedef struct {
  Gen *g;
  const Op *group;
  const Body *body;
  WindowMode mode;
  WindowTables t;
  Val start[CONV_AXES], index[CONV_AXES], tap[CONV_AXES], weight[CONV_AXES]; /* globals */
  bool weighs; /* some weight is not 1 */
  int64_t each[CONV_AXES]; /* entries of every place, or -1: they differ */
  bool unrolled;           /* they are few, and as many everywhere */
  DType dt, reg;
  int lanes;
  /* of the place being computed */
  Val from[CONV_AXES], to[CONV_AXES]; /* entries */
  Val base[2], out[2];
} Window;

static Val global(Gen *g, Ty elem, Val *item, int64_t n, const char *name) {
  Val a = LLVMConstArray(elem, item, (unsigned)n);
  Val v = LLVMAddGlobal(g->mod, LLVMTypeOf(a), name);
  LLVMSetInitializer(v, a);
  LLVMSetGlobalConstant(v, 1);
  LLVMSetLinkage(v, LLVMInternalLinkage);
  return v;
}

/* Entries of every place of an axis, or -1. */
static int64_t entries_each(const WindowAxis *a) {
  for (int64_t k = 0; k < a->to; k++)
    if (a->start[k + 1] - a->start[k] != a->start[1])
      return -1;
  return a->start[1];
}

static bool make_tables(Window *w) {
  Gen *g = w->g;
  int64_t tap_step = 1;
  for (int i = w->t.nd - 1; i >= 0; i--) {
    const WindowAxis *a = &w->t.axis[i];
    int64_t n = a->start[a->to], most = n > a->to ? n : a->to;
    w->each[i] = entries_each(a);
    Val *item = calloc((size_t)most + 1, sizeof *item);
    if (!item)
      return gen_fail(g, "out of memory");
    for (int64_t k = 0; k <= a->to; k++)
      item[k] = ll_n(g, a->start[k]);
    w->start[i] = global(g, g->i64, item, a->to + 1, "start");
    for (int64_t k = 0; k < n; k++)
      item[k] = ll_n(g, a->index[k] * w->body->in[0].stride[1 + i]);
    w->index[i] = global(g, g->i64, item, n, "index");
    for (int64_t k = 0; k < n; k++)
      item[k] = ll_i(g->i32, a->tap[k] * tap_step);
    w->tap[i] = global(g, g->i32, item, n, "tap");
    for (int64_t k = 0; k < n; k++) {
      item[k] = ll_f(ll_reg(g, w->reg), a->weight[k]);
      w->weighs |= a->weight[k] != 1;
    }
    w->weight[i] = global(g, ll_reg(g, w->reg), item, n, "weight");
    tap_step *= w->t.kernel[i];
    free(item);
  }
  int64_t all = 1;
  for (int i = 0; i < w->t.nd; i++)
    all = w->each[i] < 0 || all > MOST_ENTRIES ? MOST_ENTRIES + 1 : all * w->each[i];
  w->unrolled = all <= MOST_ENTRIES;
  return true;
}

static Val entry(Window *w, Val table, Ty elem, Val e) {
  return ll_load(w->g, elem, 1, ll_gep(w->g, elem, table, e), NULL);
}

/* Sums of nv vectors of channels. */
typedef struct {
  int nv;
  Val channel, count;
  Val sum[MOST_VECTORS], taken[MOST_VECTORS]; /* variables */
} Block;

static Val channel_of(Window *w, const Block *b, int v) {
  return ll_add(w->g, b->channel, ll_n(w->g, (int64_t)v * w->lanes));
}

static Val load_taps(Window *w, Val at, Val count) {
  Gen *g = w->g;
  Ty mem = ll_mem(g, gen_in_dtype(w->group, 1));
  Val v = ll_load(g, mem, w->lanes, at, count);
  return mem == g->i32 ? v : ll_zext(g, v, g->i32);
}

/* One entry of every axis: `at` elements behind the operand's place, tap number, weight. */
static void take(Window *w, Block *b, Val at, Val tap, Val weight) {
  Gen *g = w->g;
  for (int v = 0; v < b->nv; v++) {
    Val c = ll_add(g, at, channel_of(w, b, v));
    Val x = ll_get(g, w->dt, w->lanes, ll_gep(g, ll_mem(g, w->dt), w->base[0], c), b->count);
    Val sum = ll_var_get(g, b->sum[v]);
    if (w->mode == WINDOW_MAX) {
      Val better = ll_or(g, ll_fcmp(g, LLVMRealOGT, x, sum), ll_fcmp(g, LLVMRealUNO, x, x));
      Val number = ll_splat(g, tap, w->lanes);
      ll_var_set(g, b->taken[v], ll_sel(g, better, number, ll_var_get(g, b->taken[v])));
      ll_var_set(g, b->sum[v], ll_sel(g, better, x, sum));
      continue;
    }
    if (w->mode == WINDOW_MAX_GRAD) {
      Ty mem = ll_mem(g, gen_in_dtype(w->group, 1));
      Val taken = load_taps(w, ll_gep(g, mem, w->base[1], c), b->count);
      Val mine = ll_icmp(g, LLVMIntEQ, taken, ll_splat(g, tap, w->lanes));
      x = ll_sel(g, mine, x, LLVMConstNull(LLVMTypeOf(x)));
    }
    ll_var_set(g, b->sum[v],
               w->mode == WINDOW_SUM && w->weighs ? ll_fma(g, x, ll_splat(g, weight, w->lanes), sum)
                                                  : ll_fadd(g, sum, x));
  }
}

static void entries(Window *w, Block *b, int axis, Val at, Val tap, Val weight);

/* Entry e of the axis, and all of the axes inside. */
static void entry_of(Window *w, Block *b, int axis, Val e, Val at, Val tap, Val weight) {
  Gen *g = w->g;
  Val place = ll_add(g, at, entry(w, w->index[axis], g->i64, e));
  Val number = ll_add(g, tap, entry(w, w->tap[axis], g->i32, e));
  Val part = entry(w, w->weight[axis], ll_reg(g, w->reg), e);
  entries(w, b, axis + 1, place, number, axis ? ll_fmul(g, weight, part) : part);
}

static void entries(Window *w, Block *b, int axis, Val at, Val tap, Val weight) {
  Gen *g = w->g;
  if (axis == w->t.nd) {
    take(w, b, at, tap, weight);
    return;
  }
  if (w->unrolled) {
    for (int64_t i = 0; i < w->each[axis]; i++)
      entry_of(w, b, axis, ll_add(g, w->from[axis], ll_n(g, i)), at, tap, weight);
    return;
  }
  Loop e = ll_loop(g, w->from[axis], w->to[axis], 1);
  entry_of(w, b, axis, e.i, at, tap, weight);
  ll_loop_end(g, &e);
}

static void store(Window *w, const Block *b, int v) {
  Gen *g = w->g;
  DType dt = gen_out_dtype(w->group, 0);
  Val c = channel_of(w, b, v);
  ll_put(g, dt, ll_var_get(g, b->sum[v]), ll_gep(g, ll_mem(g, dt), w->out[0], c), b->count);
  if (w->mode != WINDOW_MAX || w->body->nout < 2)
    return;
  Ty mem = ll_mem(g, gen_out_dtype(w->group, 1));
  Val taken = ll_var_get(g, b->taken[v]);
  ll_store(g, mem == g->i32 ? taken : ll_trunc(g, taken, mem), ll_gep(g, mem, w->out[1], c),
           b->count);
}

static void block(Window *w, int nv, Val channel, Val count) {
  Gen *g = w->g;
  Block b = {.nv = nv, .channel = channel, .count = count};
  Ty reg = ll_vec(ll_reg(g, w->reg), w->lanes);
  Val first = ll_i(g->i32, 0);
  for (int i = 0; w->mode == WINDOW_MAX && i < w->t.nd; i++)
    first = ll_add(g, first, entry(w, w->tap[i], g->i32, w->from[i]));
  for (int v = 0; v < nv; v++) {
    b.sum[v] = ll_var(g, w->mode == WINDOW_MAX ? ll_f(reg, -__builtin_inf()) : LLVMConstNull(reg));
    if (w->mode == WINDOW_MAX)
      b.taken[v] = ll_var(g, ll_splat(g, first, w->lanes));
  }
  entries(w, &b, 0, ll_n(g, 0), ll_i(g->i32, 0), NULL);
  for (int v = 0; v < nv; v++)
    store(w, &b, v);
}

/* All channels of one place. */
static void channels(Window *w, int64_t n) {
  Gen *g = w->g;
  int64_t wide = (int64_t)w->lanes * MOST_VECTORS, many = n / wide * wide;
  int64_t whole = n / w->lanes * w->lanes;
  if (many) {
    Loop l = ll_loop(g, ll_n(g, 0), ll_n(g, many), wide);
    block(w, MOST_VECTORS, l.i, NULL);
    ll_loop_end(g, &l);
  }
  if (many < whole) {
    Loop l = ll_loop(g, ll_n(g, many), ll_n(g, whole), w->lanes);
    block(w, 1, l.i, NULL);
    ll_loop_end(g, &l);
  }
  if (whole < n)
    block(w, 1, ll_n(g, whole), ll_n(g, n - whole));
}

static bool emit(Window *w) {
  Gen *g = w->g;
  const Body *b = w->body;
  int nd = w->t.nd;
  int64_t rows = b->dim[0];
  for (int i = 0; i < nd; i++)
    rows *= b->dim[1 + i];
  g->ntiles = gen_tiles(rows, b->panel_rows);
  if (!make_tables(w))
    return false;
  Val start = ll_mul(g, g->first, ll_n(g, b->panel_rows));
  Val end = ll_umin(g, ll_mul(g, g->end, ll_n(g, b->panel_rows)), ll_n(g, rows));
  Loop l = ll_loop(g, start, end, 1);
  Val rest = l.i, out[2] = {ll_n(g, 0), ll_n(g, 0)};
  for (int i = nd - 1; i >= 0; i--) {
    Val p = ll_urem(g, rest, b->dim[1 + i]);
    rest = ll_udiv(g, rest, b->dim[1 + i]);
    w->from[i] = entry(w, w->start[i], g->i64, p);
    w->to[i] = entry(w, w->start[i], g->i64, ll_add(g, p, ll_n(g, 1)));
    for (int k = 0; k < b->nout; k++)
      out[k] = ll_add(g, out[k], ll_mul(g, p, ll_n(g, b->out[k].stride[1 + i])));
  }
  for (int k = 0; k < b->nin; k++)
    w->base[k] =
        ll_gep(g, ll_mem(g, gen_in_dtype(w->group, k)), ll_arg_ptr(g, gen_in_slot(w->group, k)),
               ll_add(g, ll_n(g, b->in[k].offset), ll_mul(g, rest, ll_n(g, b->in[k].stride[0]))));
  for (int k = 0; k < b->nout; k++)
    w->out[k] = ll_gep(g, ll_mem(g, gen_out_dtype(w->group, k)), ll_arg_ptr(g, k),
                       ll_add(g, ll_add(g, out[k], ll_n(g, b->out[k].offset)),
                              ll_mul(g, rest, ll_n(g, b->out[k].stride[0]))));
  channels(w, b->dim[nd + 1]);
  ll_loop_end(g, &l);
  return !g->error[0];
}

/* Operands must have equal strides where they share an offset. */
static bool same_places(const Body *b, int ndim) {
  for (int d = 0; d < ndim; d++)
    if (d + 1 < ndim && d > 0 && b->in[0].stride[d] != b->in[1].stride[d])
      return false;
  return true;
}

bool cpu_window(Gen *g, const Op *group) {
  const Body *b = group->body;
  Window w = {.g = g, .group = group, .body = b, .mode = window_mode(group)};
  w.dt = gen_in_dtype(group, 0);
  w.reg = ll_reg_dtype(w.dt);
  w.lanes = g->level->vector_bytes / (w.reg == MPCC_F64 ? 8 : 4);
  if (w.mode == WINDOW_MODES)
    return gen_fail(g, "windows of this mode are not emitted");
  if (w.mode == WINDOW_MAX_GRAD && !same_places(b, b->ndim))
    return gen_fail(g, "taps lie in another order than their gradient");
  if (window_tables(group, op_int(group, "turned", 0), &w.t) != MPCC_OK)
    return gen_fail(g, "a window without tables");
  bool ok = emit(&w);
  window_tables_fini(&w.t);
  return ok;
}
