/* Private to rows.c and rows_memory.c: one rows kernel in the making. */
#ifndef MPCC_CUDA_ROWS_H
#define MPCC_CUDA_ROWS_H

#include "codegen/cuda/gen.h"

typedef struct {
  CudaGen *g;
  const Op *op;
  const Body *b;
  CudaBody text;
  int nrow;
  int64_t rows, cols, panel;
  int group, parallel, per_thread; /* threads of a row, rows at a time, columns of a thread */
  int width;                       /* neighbouring columns of a thread */
  int tile_rows; /* rows that a transposed result takes at a time; 0: none has one */
  bool unrolled, split;
  int npass;
  int *ready;     /* pass before which the value can be had */
  bool *kept;     /* in an array of registers */
  bool *computed; /* elements: by an earlier pass */
  bool *needed;   /* elements: in the pass being written */
  bool *writes;   /* elements: what that pass stores */
} Rows;

/* ---- rows_memory.c --------------------------------------------------------------------------- */

/* How many neighbouring columns a thread takes at a time, so that it reads and writes up to 16
 * bytes in one access: `most` (a power of two), or a half, quarter ... of it. */
int rows_width(const Body *b, const Op *op, int64_t cols, int most);
/* For how many columns at most, `most` or a half, quarter ... of it, a thread has registers for all
 * that it reads and writes. */
int rows_held(const Body *b, const Op *op, int most);
/* The body with rows and columns exchanged when it only copies elements that lie transposed, so
 * that they are read as they lie and written through shared memory; false when it stays as it is.
 */
bool rows_exchange(const Op *op, Body *b, Access *access);
/* Whether statement i, a load or a store of elements, moves r->width of them at once. */
bool rows_is_wide(const Rows *r, int i);
/* How many neighbouring columns of a result by columns, stored by statement i, fill one access. */
int rows_line(const Rows *r, int i);
/* Whether statement i stores elements whose neighbours in memory are those of the next row; they go
 * through a tile in shared memory where memory takes 16 bytes of a column at a time. */
bool rows_is_turned(const Rows *r, int i);
/* When panels and rows are laid out: r->tile_rows and r->g->shared_bytes; not more rows at a time
 * than a tile has. */
void rows_plan_tiles(Rows *r);

/* Which operands and results are aligned; where tiles lie. */
void rows_put_places(const Rows *r);
/* Before and behind the loop over a thread's neighbouring columns, the first of which is c0. */
void rows_put_reads(const Rows *r, const bool *reads);
void rows_put_writes(const Rows *r, const bool *writes);
/* One store of an element, column c of this thread's k-th. */
void rows_put_store(const Rows *r, int i);
/* What is in the tiles to memory, whenever they are full: at the end of a turn. */
void rows_put_tiles(const Rows *r);

#endif
