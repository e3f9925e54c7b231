/* cpu_index: rows of a table chosen by ids, a panel of rows per tile. */
#include "codegen/cpu/gen.h"

/* offset + sum of stride * index over the row dimensions [0, ndim - 1). */
static Val row_offset(Gen *g, const Body *b, const Access *a, const Val *index) {
  Val at = ll_n(g, a->offset);
  for (int d = 0; d + 1 < b->ndim; d++)
    if (a->stride[d])
      at = ll_add(g, at, ll_mul(g, index[d], ll_n(g, a->stride[d])));
  return at;
}

typedef struct {
  DType from, to;
  Ty from_mem, to_mem;
  int64_t from_stride, to_stride;
} Copy;

/* lanes elements; the same dtype on both sides moves as raw bits. */
static void copy_vector(Gen *g, const Copy *c, Val src, Val dst, Val column, int lanes, Val count) {
  Val at = ll_gep(g, c->from_mem, src, ll_mul(g, column, ll_n(g, c->from_stride)));
  Val raw = c->from_stride == 1
                ? ll_load(g, c->from_mem, lanes, at, count)
                : ll_load_strided(g, c->from_mem, lanes, at, ll_n(g, c->from_stride), count);
  Val v = c->from == c->to ? raw : ll_encode(g, c->to, ll_decode(g, c->from, raw));
  Val to = ll_gep(g, c->to_mem, dst, ll_mul(g, column, ll_n(g, c->to_stride)));
  if (c->to_stride == 1)
    ll_store(g, v, to, count);
  else
    ll_store_strided(g, v, to, ll_n(g, c->to_stride), count);
}

static void copy_row(Gen *g, const Copy *c, Val src, Val dst, int64_t n, int lanes) {
  int64_t whole = n / lanes * lanes;
  if (whole) {
    Loop l = ll_loop(g, ll_n(g, 0), ll_n(g, whole), lanes);
    copy_vector(g, c, src, dst, l.i, lanes, NULL);
    ll_loop_end(g, &l);
  }
  if (whole < n)
    copy_vector(g, c, src, dst, ll_n(g, whole), lanes, ll_n(g, n - whole));
}

bool cpu_index(Gen *g, const Op *group) {
  const Body *b = group->body;
  int last = b->ndim - 1;
  if (last < 0 || b->nin < 2 || b->nout < 1)
    return gen_fail(g, "an index group needs ids, a table and a result");
  int64_t n = b->dim[last], rows = 1;
  for (int d = 0; d < last; d++)
    rows *= b->dim[d];
  int64_t panel = b->panel_rows > 0 ? b->panel_rows : rows;
  int64_t row_stride = op_int(group, "row_stride", n);
  DType id_dtype = gen_in_dtype(group, 0);
  Copy c = {.from = gen_in_dtype(group, 1), .to = gen_out_dtype(group, 0)};
  c.from_mem = ll_mem(g, c.from);
  c.to_mem = ll_mem(g, c.to);
  c.from_stride = b->in[1].stride[last];
  c.to_stride = b->out[0].stride[last];
  g->ntiles = gen_tiles(rows, panel);
  Val out = ll_arg_ptr(g, 0), ids = ll_arg_ptr(g, 1);
  Val table = ll_gepc(g, c.from_mem, ll_arg_ptr(g, 2), b->in[1].offset);
  Val start = ll_mul(g, g->first, ll_n(g, panel));
  Val end = ll_umin(g, ll_mul(g, g->end, ll_n(g, panel)), ll_n(g, rows));
  Loop l = ll_loop(g, start, end, 1);
  Val index[MAX_DIMS], rest = l.i;
  for (int d = last - 1; d >= 0; d--) {
    index[d] = d ? ll_urem(g, rest, b->dim[d]) : rest;
    rest = d ? ll_udiv(g, rest, b->dim[d]) : rest;
  }
  Val id_at = ll_gep(g, ll_mem(g, id_dtype), ids, row_offset(g, b, &b->in[0], index));
  Val id = ll_encode(g, MPCC_I64, ll_get(g, id_dtype, 1, id_at, NULL));
  Val src = ll_gep(g, c.from_mem, table, ll_mul(g, id, ll_n(g, row_stride)));
  Val dst = ll_gep(g, c.to_mem, out, row_offset(g, b, &b->out[0], index));
  copy_row(g, &c, src, dst, n, g->level->vector_bytes / 4);
  ll_loop_end(g, &l);
  return !g->error[0];
}
