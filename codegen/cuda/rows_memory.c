/* How rows kernels read and write elements: several neighbours at once where they lie side by side,
 * and transposed results through tiles in shared memory, so that memory takes 16 bytes of one
 * column at a time instead of single bytes far apart. */
#include <string.h>

#include "codegen/cuda/rows.h"

enum {
  MOST_BYTES = 16, /* of one access */
  MOST_HELD = 48,  /* elements that a thread has read or will write */
  PITCH_EXTRA = 4, /* bytes between the columns of a tile: neighbours in different banks */
  LANES = 32
};

/* ---- which accesses -------------------------------------------------------------------------- */

static const Access *access_of(const Body *b, const Stmt *s) {
  return s->prim == PR_LOAD ? &b->in[s->ref] : &b->out[s->ref];
}

static DType dtype_of(const Op *op, const Stmt *s) {
  return (s->prim == PR_LOAD ? op->in[s->ref] : op->out[s->ref])->type->dt;
}

static bool of_elements(const Body *b, const Stmt *s) {
  return (s->prim == PR_LOAD && s->level == LV_ELEM) ||
         (s->prim == PR_STORE && b->stmt[s->arg[0]].level == LV_ELEM);
}

int rows_held(const Body *b, const Op *op, int most) {
  int each = 0, columns = most;
  for (int i = 0; i < b->nstmt; i++)
    if (of_elements(b, &b->stmt[i]))
      each += dtype_bytes(dtype_of(op, &b->stmt[i])) > 4 ? 2 : 1;
  while (columns > 1 && each * columns > MOST_HELD)
    columns /= 2;
  return columns;
}

int rows_width(const Body *b, const Op *op, int64_t cols, int most) {
  for (int width = most; width > 1; width /= 2) {
    int held = 0;
    bool fits = cols % width == 0;
    for (int i = 0; i < b->nstmt; i++) {
      const Stmt *s = &b->stmt[i];
      if (!of_elements(b, s) || !cuda_side_by_side(b, access_of(b, s), width))
        continue;
      held += width * (dtype_bytes(dtype_of(op, s)) > 4 ? 2 : 1);
      fits = fits && (int)dtype_bytes(dtype_of(op, s)) * width <= MOST_BYTES;
    }
    if (fits && held > 0 && held <= MOST_HELD)
      return width;
  }
  return 1;
}

bool rows_is_wide(const Rows *r, int i) {
  const Stmt *s = &r->b->stmt[i];
  return r->width > 1 && of_elements(r->b, s) &&
         cuda_side_by_side(r->b, access_of(r->b, s), r->width);
}

int rows_line(const Rows *r, int i) {
  const Stmt *s = &r->b->stmt[i];
  int line = MOST_BYTES / (int)dtype_bytes(r->op->out[s->ref]->type->dt);
  line = line < r->width ? line : r->width;
  while (line > 1 && !cuda_side_by_side(r->b, access_of(r->b, s), line))
    line /= 2;
  return line;
}

/* Neighbours in memory are elements of the next row, and whole 16 bytes of a column begin at
 * multiples of 16. */
static bool lies_turned(const Body *b, const Access *a, DType dt) {
  const int nrow = b->ndim - b->ncol;
  const int64_t whole = MOST_BYTES / (int64_t)dtype_bytes(dt);
  int64_t rows = 1;
  for (int d = nrow; d-- > 0; rows *= b->dim[d])
    if (b->dim[d] > 1 && a->stride[d] != rows)
      return false;
  for (int d = nrow; d < b->ndim; d++)
    if (b->dim[d] > 1 && (a->stride[d] % whole || !a->stride[d]))
      return false;
  return rows > 1 && rows % whole == 0 && dtype_bytes(dt) <= 4;
}

bool rows_is_turned(const Rows *r, int i) {
  const Stmt *s = &r->b->stmt[i];
  return r->tile_rows && s->prim == PR_STORE && of_elements(r->b, s) &&
         lies_turned(r->b, &r->b->out[s->ref], r->op->out[s->ref]->type->dt);
}

static int64_t tile_columns(const Rows *r) {
  const int64_t mine = (int64_t)r->group * r->per_thread;
  return r->split && mine < r->cols ? mine : r->cols;
}

/* Columns lie in the order of their place among a thread's neighbours, so that the threads of a
 * warp, which write one place at a time, write to different banks. */
static int64_t pitch(const Rows *r, DType dt) {
  return r->tile_rows + PITCH_EXTRA / (int64_t)dtype_bytes(dt);
}

static int64_t tile_bytes(const Rows *r, DType dt) {
  const int64_t bytes = tile_columns(r) * pitch(r, dt) * (int64_t)dtype_bytes(dt);
  return (bytes + MOST_BYTES - 1) / MOST_BYTES * MOST_BYTES;
}

void rows_plan_tiles(Rows *r) {
  int64_t bytes = 0;
  if (r->panel % CUDA_TURNED)
    return;
  r->tile_rows = CUDA_TURNED;
  for (int i = 0; i < r->b->nstmt; i++)
    if (rows_is_turned(r, i))
      bytes += tile_bytes(r, r->op->out[r->b->stmt[i].ref]->type->dt);
  if (!bytes || bytes > CUDA_SHARED || r->group * CUDA_TURNED < LANES) {
    r->tile_rows = 0;
    return;
  }
  r->g->shared_bytes = bytes;
  if (r->parallel > CUDA_TURNED)
    r->parallel = CUDA_TURNED;
  r->g->threads = r->group * r->parallel;
}

bool rows_exchange(const Op *op, Body *b, Access *access) {
  const Body *from = op->body;
  if (from->ndim != 2 || from->ncol != 1 || from->nin != 1 || from->nout != 1)
    return false;
  for (int i = 0; i < from->nstmt; i++) {
    const Stmt *s = &from->stmt[i];
    if (s->prim == PR_INDEX || (s->level != LV_ELEM && s->level != LV_ALL) ||
        (s->prim >= PR_RSUM && s->prim <= PR_AMIN))
      return false;
  }
  *b = *from;
  b->in = access;
  b->out = access + 1;
  access[0] = from->in[0];
  access[1] = from->out[0];
  b->dim[0] = from->dim[1];
  b->dim[1] = from->dim[0];
  for (int i = 0; i < 2; i++) {
    const int64_t s = access[i].stride[0];
    access[i].stride[0] = access[i].stride[1];
    access[i].stride[1] = s;
  }
  b->panel_rows = CUDA_TURNED;
  return access[0].stride[1] == 1 && b->dim[0] % CUDA_TURNED == 0 &&
         lies_turned(b, &access[1], op->out[0]->type->dt);
}

/* ---- text ------------------------------------------------------------------------------------ */

static char letter(const Stmt *s) {
  return s->prim == PR_LOAD ? 'i' : 'o';
}

static bool first_of(const Rows *r, int i) {
  for (int k = 0; k < i; k++)
    if (r->b->stmt[k].prim == r->b->stmt[i].prim && r->b->stmt[k].ref == r->b->stmt[i].ref &&
        rows_is_wide(r, k) == rows_is_wide(r, i))
      return false;
  return true;
}

void rows_put_places(const Rows *r) {
  Text *t = &r->g->out;
  int64_t at = 0;
  for (int i = 0; i < r->b->nstmt; i++) {
    const Stmt *s = &r->b->stmt[i];
    if (rows_is_wide(r, i) && first_of(r, i))
      text_printf(t, "const bool wide_%c%d = multiple(%c%d, %d);\n", letter(s), s->ref, letter(s),
                  s->ref, (int)dtype_bytes(dtype_of(r->op, s)) * r->width);
    if (!rows_is_turned(r, i))
      continue;
    const DType dt = dtype_of(r->op, s);
    if (!at)
      text_puts(t, "extern __shared__ __align__(16) u8 tiles[];\n");
    text_printf(t, "%s *tile%d = (%s *)(tiles + %lld);\n", cuda_storage(dt), i, cuda_storage(dt),
                (long long)at);
    at += tile_bytes(r, dt);
  }
}

/* Moves of r->width elements between v<i>_ and memory, at column c0. */
static void put_moves(const Rows *r, const bool *which, Prim prim) {
  Text *t = &r->g->out;
  bool any = false;
  for (int i = 0; i < r->b->nstmt; i++) {
    const Stmt *s = &r->b->stmt[i];
    if (s->prim != prim || !which[i] || !rows_is_wide(r, i))
      continue;
    if (prim == PR_LOAD)
      text_printf(t, "%s w%d[%d];\n", cuda_storage(dtype_of(r->op, s)), i, r->width);
    any = true;
  }
  if (!any)
    return;
  text_puts(t, "{\n");
  cuda_indices(r->b, r->nrow, r->b->ndim, "c0", t);
  for (int i = 0; i < r->b->nstmt; i++) {
    const Stmt *s = &r->b->stmt[i];
    if (s->prim != prim || !which[i] || !rows_is_wide(r, i))
      continue;
    text_printf(t, "%s<%d>(w%d, %c%d + (", prim == PR_LOAD ? "get_line" : "put_line", r->width, i,
                letter(s), s->ref);
    cuda_offset(r->b, access_of(r->b, s), 0, r->b->ndim, t);
    text_printf(t, "), wide_%c%d);\n", letter(s), s->ref);
  }
  text_puts(t, "}\n");
}

void rows_put_reads(const Rows *r, const bool *reads) {
  put_moves(r, reads, PR_LOAD);
}

void rows_put_writes(const Rows *r, const bool *writes) {
  put_moves(r, writes, PR_STORE);
}

void rows_put_store(const Rows *r, int i) {
  const Stmt *s = &r->b->stmt[i];
  Text *t = &r->g->out;
  const DType dt = dtype_of(r->op, s);
  if (rows_is_wide(r, i))
    text_printf(t, "w%d[j] = put_%s(", i, dtype_text(dt));
  else if (rows_is_turned(r, i))
    text_printf(t,
                "tile%d[(j * %lldu + (c0 - first_col) / %d) * %lldu + in_panel %% %du] = put_%s(",
                i, (long long)(tile_columns(r) / r->width), r->width, (long long)pitch(r, dt),
                r->tile_rows, dtype_text(dt));
  else {
    cuda_store(&r->text, i, 0, r->b->ndim, "", t);
    return;
  }
  cuda_value(&r->text, cuda_stored(&r->text, i), t);
  text_puts(t, ");\n");
}

void rows_put_tiles(const Rows *r) {
  Text *t = &r->g->out;
  if (!r->tile_rows)
    return;
  const int turns = r->tile_rows / r->parallel;
  text_printf(t, "if (turn %% %du == %du) {\n__syncthreads();\n", turns, turns - 1);
  text_printf(t, "const u32 row0 = first_row + (turn - %du) * %du;\n", turns - 1, r->parallel);
  text_printf(t, "if (row0 < %lldu)\nfor (u32 e = threadIdx.x; e < %lldu; e += %du) {\n",
              (long long)r->rows, (long long)tile_columns(r), r->g->threads);
  const long long lines = (long long)(tile_columns(r) / r->width);
  text_printf(t, "const u32 c = first_col + e %% %lldu * %d + e / %lldu;\n", lines, r->width,
              lines);
  if (r->split)
    text_printf(t, "if (c < %lldu)\n", (long long)r->cols);
  text_puts(t, "{\n");
  cuda_indices(r->b, r->nrow, r->b->ndim, "c", t);
  for (int i = 0; i < r->b->nstmt; i++) {
    if (!rows_is_turned(r, i))
      continue;
    const Stmt *s = &r->b->stmt[i];
    const DType dt = dtype_of(r->op, s);
    const int whole = MOST_BYTES / (int)dtype_bytes(dt);
    text_printf(t, "put_column<%d>(o%d + (", r->tile_rows / whole, s->ref);
    cuda_offset(r->b, &r->b->out[s->ref], r->nrow, r->b->ndim, t);
    text_printf(t, ") + row0, tile%d + e * %lldu, %lldu - row0);\n", i, (long long)pitch(r, dt),
                (long long)r->rows);
  }
  text_puts(t, "}\n}\n__syncthreads();\n}\n");
}
