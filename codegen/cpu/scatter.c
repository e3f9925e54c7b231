/* cpu_scatter: rows added to a table at their ids. A tile owns some rows and columns of the result:
 * it clears them (or copies the base) and goes through all ids in order, so sums do not depend on
 * threads and an id outside the table touches nothing. */
#include "codegen/cpu/gen.h"

enum {
  TILES = 64,        /* about so many */
  LONG_TABLE = 4096, /* rows from which a tile has all columns: clearing goes along memory */
  COLUMNS = 64,      /* least columns of a tile of a short table, where one id may have most rows */
  COLUMN_TILES = 8
};

typedef struct {
  Gen *g;
  const Body *b;
  DType from, to;
  int64_t width, rows, stride; /* columns; rows of the result; column stride of what is added */
  int lanes;
  Val out, base; /* base NULL: 0 */
} Scatter;

/* offset + sum of stride * index over the id dimensions of position i. */
static Val position(Scatter *s, const Access *a, Val i) {
  Gen *g = s->g;
  const Body *b = s->b;
  Val at = ll_n(g, a->offset), rest = i;
  for (int d = b->ndim - 2; d >= 0; d--) {
    Val index = d ? ll_urem(g, rest, b->dim[d]) : rest;
    rest = d ? ll_udiv(g, rest, b->dim[d]) : rest;
    if (a->stride[d])
      at = ll_add(g, at, ll_mul(g, index, ll_n(g, a->stride[d])));
  }
  return at;
}

typedef void Each(Scatter *s, Val from, Val to, Val column, Val count);

/* `each` for the columns [c0, c1), vectors and a rest. */
static void columns(Scatter *s, Each *each, Val from, Val to, Val c0, Val c1) {
  Gen *g = s->g;
  Val rest = ll_and(g, ll_sub(g, c1, c0), ll_n(g, s->lanes - 1)), whole = ll_sub(g, c1, rest);
  Loop l = ll_loop(g, c0, whole, s->lanes);
  each(s, from, to, l.i, NULL);
  ll_loop_end(g, &l);
  If some = ll_if(g, ll_icmp(g, LLVMIntSGT, rest, ll_n(g, 0)));
  each(s, from, to, whole, rest);
  ll_endif(g, &some);
}

static void clear(Scatter *s, Val from, Val to, Val column, Val count) {
  Gen *g = s->g;
  Ty t = ll_mem(g, s->to);
  Val v = s->base ? ll_load(g, t, s->lanes, ll_gep(g, t, from, column), count)
                  : LLVMConstNull(ll_vec(t, s->lanes));
  ll_store(g, v, ll_gep(g, t, to, column), count);
}

static void add(Scatter *s, Val from, Val to, Val column, Val count) {
  Gen *g = s->g;
  Ty t = ll_mem(g, s->to);
  Val at = ll_gep(g, ll_mem(g, s->from), from, ll_mul(g, column, ll_n(g, s->stride)));
  Val raw = s->stride == 1
                ? ll_load(g, ll_mem(g, s->from), s->lanes, at, count)
                : ll_load_strided(g, ll_mem(g, s->from), s->lanes, at, ll_n(g, s->stride), count);
  Val v = ll_decode(g, s->from, raw);
  if (s->to == MPCC_F64 && ll_elem(v) != g->f64)
    v = ll_fext(g, v, g->f64);
  else if (s->to == MPCC_F32 && ll_elem(v) != g->f32)
    v = ll_ftrunc(g, v, g->f32);
  Val x = ll_gep(g, t, to, column);
  ll_store(g, ll_fadd(g, ll_load(g, t, s->lanes, x, count), v), x, count);
}

/* The part [r0, r1) x [c0, c1) of the result. */
static void tile(Scatter *s, Val ids, Val rows, Val r0, Val r1, Val c0, Val c1, int64_t skip) {
  Gen *g = s->g;
  const Body *b = s->b;
  DType id_dtype = MPCC_I64;
  int64_t n = 1;
  for (int d = 0; d + 1 < b->ndim; d++)
    n *= b->dim[d];
  Ty t = ll_mem(g, s->to);
  Val apart = s->base ? ll_icmp(g, LLVMIntNE, s->base, s->out) : ll_i(g->i1, 1);
  If fill = ll_if(g, apart);
  Loop r = ll_loop(g, r0, r1, 1);
  Val at = ll_mul(g, r.i, ll_n(g, s->width));
  columns(s, clear, s->base ? ll_gep(g, t, s->base, at) : NULL, ll_gep(g, t, s->out, at), c0, c1);
  ll_loop_end(g, &r);
  ll_endif(g, &fill);
  Loop i = ll_loop(g, ll_n(g, 0), ll_n(g, n), 1);
  Val id_at = ll_gep(g, ll_mem(g, id_dtype), ids, position(s, &b->in[0], i.i));
  Val id = ll_get(g, id_dtype, 1, id_at, NULL);
  Val mine = ll_icmp(g, LLVMIntULT, ll_sub(g, id, r0), ll_sub(g, r1, r0));
  if (skip >= 0)
    mine = ll_and(g, mine, ll_icmp(g, LLVMIntNE, id, ll_n(g, skip)));
  If own = ll_if(g, mine);
  Val from = ll_gep(g, ll_mem(g, s->from), rows, position(s, &b->in[1], i.i));
  columns(s, add, from, ll_gep(g, t, s->out, ll_mul(g, id, ll_n(g, s->width))), c0, c1);
  ll_endif(g, &own);
  ll_loop_end(g, &i);
}

static int64_t up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

bool cpu_scatter(Gen *g, const Op *group) {
  const Body *b = group->body;
  if (b->ndim < 1 || b->nin < 2 || b->nout != 1 || gen_in_dtype(group, 0) != MPCC_I64)
    return gen_fail(g, "a scatter group needs ids, rows to add and a result");
  Scatter s = {.g = g,
               .b = b,
               .from = gen_in_dtype(group, 1),
               .to = gen_out_dtype(group, 0),
               .width = b->dim[b->ndim - 1],
               .rows = op_int(group, "rows", 1),
               .stride = b->in[1].stride[b->ndim - 1]};
  if (s.to != MPCC_F32 && s.to != MPCC_F64)
    return gen_fail(g, "a scatter group adds in f32 or f64");
  s.lanes = g->level->vector_bytes / (s.to == MPCC_F64 ? 8 : 4);
  int64_t parts = s.rows >= LONG_TABLE ? 1 : s.width / COLUMNS;
  parts = parts < 1 ? 1 : parts > COLUMN_TILES ? COLUMN_TILES : parts;
  int64_t wide = up(up(s.width, parts), s.lanes) * s.lanes, high = up(s.rows, TILES / parts);
  parts = up(s.width, wide);
  g->ntiles = up(s.rows, high) * parts;
  s.out = ll_arg_ptr(g, 0);
  Val ids = ll_arg_ptr(g, gen_in_slot(group, 0)), rows = ll_arg_ptr(g, gen_in_slot(group, 1));
  s.base = b->nin > 2 ? ll_arg_ptr(g, gen_in_slot(group, 2)) : NULL;
  Loop l = ll_loop(g, g->first, g->end, 1);
  Val r0 = ll_mul(g, ll_udiv(g, l.i, parts), ll_n(g, high));
  Val c0 = ll_mul(g, ll_urem(g, l.i, parts), ll_n(g, wide));
  Val r1 = ll_umin(g, ll_add(g, r0, ll_n(g, high)), ll_n(g, s.rows));
  Val c1 = ll_umin(g, ll_add(g, c0, ll_n(g, wide)), ll_n(g, s.width));
  tile(&s, ids, rows, r0, r1, c0, c1, op_int(group, "skip", -1));
  ll_loop_end(g, &l);
  return !g->error[0];
}
