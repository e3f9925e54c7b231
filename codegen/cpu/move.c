/* cpu_move: each operand is a rows group that copies into its part of the result; parts between
 * them are rows groups that store zero. All share the panels over the dimensions without `axis`. */
#include "codegen/cpu/rows.h"

#include <stdlib.h>
#include <string.h>

static void axis_last(int64_t *list, int ndim, int axis) {
  int64_t v = list[axis];
  for (int d = axis; d + 1 < ndim; d++)
    list[d] = list[d + 1];
  list[ndim - 1] = v;
}

static void part_stmts(const Op *group, const MovePart *p, Stmt stmt[2]) {
  DType dt = p->operand < 0 ? gen_out_dtype(group, 0) : gen_in_dtype(group, p->operand);
  stmt[0] = (Stmt){.prim = PR_CONST,
                   .level = LV_ELEM,
                   .dt = (uint8_t)ll_reg_dtype(dt),
                   .arg = {-1, -1, -1, -1},
                   .ref = -1};
  if (p->operand >= 0) {
    stmt[0].prim = PR_LOAD;
    stmt[0].ref = p->operand;
  }
  stmt[1] = (Stmt){.prim = PR_STORE, .level = LV_ELEM, .dt = stmt[0].dt, .arg = {0, -1, -1, -1}};
}

/* The rows group of one part; arrays are the caller's. */
static Body part_body(const Op *group, const MovePart *p, int axis, Access *in, Access *out,
                      Stmt *stmt) {
  const Body *from = group->body;
  Body b = {.ndim = from->ndim,
            .ncol = 1,
            .panel_rows = from->panel_rows,
            .nin = from->nin,
            .nout = 1,
            .in = in,
            .out = out,
            .nstmt = 2,
            .stmt = stmt};
  memcpy(b.dim, from->dim, sizeof b.dim);
  b.dim[axis] = p->size;
  *out = from->out[0];
  out->offset += p->start * out->stride[axis];
  memcpy(in, from->in, (size_t)from->nin * sizeof *in);
  axis_last(b.dim, b.ndim, axis);
  axis_last(out->stride, b.ndim, axis);
  for (int k = 0; k < from->nin; k++)
    axis_last(in[k].stride, b.ndim, axis);
  part_stmts(group, p, stmt);
  return b;
}

static bool emit_parts(Gen *g, Rows *rows, int n) {
  for (int k = 0; k < n; k++)
    if (!rows_begin(&rows[k]))
      return false;
  int64_t all = rows[0].rows, panel = rows[0].panel_rows;
  g->ntiles = gen_tiles(all, panel);
  Loop tile = ll_loop(g, g->first, g->end, 1);
  Val first = ll_mul(g, tile.i, ll_n(g, panel));
  Val end = ll_umin(g, ll_add(g, first, ll_n(g, panel)), ll_n(g, all));
  bool ok = true;
  for (int k = 0; k < n && ok; k++) {
    ok = rows_panel(&rows[k], first, end, tile.i);
    if (rows[k].scratch_bytes > g->scratch_bytes)
      g->scratch_bytes = rows[k].scratch_bytes;
  }
  ll_loop_end(g, &tile);
  return ok;
}

bool cpu_move(Gen *g, const Op *group) {
  int axis = (int)op_int(group, "axis", 0), n = 0;
  const size_t most = 2 * (size_t)group->nin + 2;
  MovePart *part = calloc(most, sizeof *part);
  Rows *rows = calloc(most, sizeof *rows);
  Access *in = calloc((size_t)group->nin + 1, sizeof *in);
  bool ok = part && rows && in;
  if (!ok)
    gen_fail(g, "out of memory");
  int count = ok ? codegen_move_parts(group, part) : 0;
  if (ok && count < 0)
    ok = gen_fail(g, "a move group needs starts and sizes for each operand");
  for (int k = 0; k < count && ok; k++) {
    Access out;
    Stmt stmt[2];
    if (part[k].size <= 0)
      continue;
    Body b = part_body(group, &part[k], axis, in, &out, stmt);
    ok = rows_init(&rows[n++], g, group, &b);
  }
  if (ok && n)
    ok = emit_parts(g, rows, n);
  for (int k = 0; k < n; k++)
    rows_fini(&rows[k]);
  free(part);
  free(rows);
  free(in);
  return ok;
}
