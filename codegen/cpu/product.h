/* Private to codegen/cpu: what products and convolutions share. Both multiply rows of A, which the
 * kind brings into scratch (or reads in place), by packed panels of B, and run the body's
 * statements on finished sums. */
#ifndef MPCC_CPU_PRODUCT_H
#define MPCC_CPU_PRODUCT_H

#include "codegen/cpu/gen.h"
#include "codegen/cpu/micro.h"

enum { PRODUCT_K_BYTES = 4096 }; /* of a row in one k block, at most */

/* How the kernel reads A. */
typedef enum {
  A_DIRECT,         /* in place */
  A_ROWS,           /* rows copied to scratch, converted, k contiguous */
  A_INTERLEAVED,    /* rows transposed into [panel][k][rows of panel] in scratch */
  A_COLUMNS,        /* contiguous along the rows in memory: [panel][k][rows of panel] in scratch */
  A_GATHER,         /* convolutions: gathered into scratch, k contiguous */
  A_GATHER_COLUMNS, /* gathered into scratch, rows contiguous: k is the position of the window */
  A_IMAGE,          /* convolutions: windows in an image, k runs over their taps */
  A_IMAGE_COLUMNS,  /* the same, k runs over positions */
  A_PANELS, /* convolutions: k runs over positions, [k][rows] of one micro panel at a time */
} AMode;

typedef struct Product Product;
typedef struct Tile Tile;

/* What a micro-kernel call fetches for a later one: memory from there on, and its `next_step` or
 * NULL. The call multiplies panel `panel` of rows and panel j of B, which is at b. */
typedef struct {
  Val at, step;
} Next;
typedef Next ProductNext(Product *p, const Tile *t, Val panel, Val j, Val b);

/* Runs of memory that the tile or k block after reads, fetched by the calls of this one: so many of
 * them share the first evenly, the rest the second. */
typedef struct {
  int n;
  Val at[2], calls[2], step[2]; /* step: bytes a turn of a micro-kernel's innermost loop */
  Val turns;                    /* of a call */
} ProductLater;

/* How A_IMAGE and A_IMAGE_COLUMNS read: the micro-kernel's strides, groups of rows and loops, and
 * where things are. */
typedef struct {
  Micro walk;          /* rs, ks, group, nloop, run, loop */
  int64_t period;      /* A_IMAGE_COLUMNS: panels do not go beyond multiples of so many rows */
  int64_t turn;        /* k of a turn of the outermost loop */
  int64_t rows_offset; /* bytes: offsets of groups of rows in scratch, */
  int64_t sums_offset; /* and of their sums in result 0 */
  /* Bytes of the image that so many rows need in scratch, in one k block. */
  int64_t (*bytes)(const Product *p, int64_t rows);
  ProductNext *next; /* a panel's rows are read once: where those after it begin, which lie side by
                      * side, or with `apart` what `micro.way` fetches is relative to */
  bool apart;
  Val (*at)(Product *p, const Tile *t, Val panel); /* what a panel's rows are relative to */
} ProductImage;

struct Product {
  Gen *g;
  const Op *group;
  const Body *body;
  Compute c;
  int64_t M, N, K; /* rows; columns; k */
  /* With a raw B that differs along the first row dimensions: so many of them, products that makes,
   * and the one at hand. M and rows are of one product. */
  int batch_dims;
  int64_t batches;
  Val batch;
  int64_t units;   /* k in units */
  int64_t b_units; /* those of a packed panel; 0: the same */
  /* Where not every row or k of the group is computed: the flat row of the body that row m is, and
   * where k block kb begins in a packed panel (units). NULL: m, kb kblock. */
  Val (*row_at)(Product *p, Val m);
  int64_t row_step; /* with row_at: rows of the body between those of a group (ProductImage) */
  Val (*b_at)(Product *p, Val kb);
  bool
      raw; /* B is not packed: [k, N] of any strides, a panel of a k block packed when it is used */
  bool in_place; /* or not even then */
  bool once;     /* raw, and one for all rows, which are those of one tile */
  int64_t b_ks, b_ns,
      b_offset; /* raw: elements between k, between columns; bytes: panel in scratch */
  bool zero;    /* sums over no k at all */
  bool whole;   /* tiles have all rows */
  DType a_dtype;
  int64_t a_ks; /* elements between k */
  int64_t a_rs; /* elements between rows; -1: not one stride */
  AMode mode;
  ProductImage image; /* of these modes */
  Micro micro;
  ProductNext *next; /* with micro.next_lines, or product_next_later */
  int64_t b_calls; /* so many calls of a tile's panels fetch the next panel of B, the others what the
                    * row tile after copies; 0: all fetch B */
  bool comes_later;  /* the kind fetches what tiles or k blocks after read where nothing else is */
  ProductLater later;
  Split split;       /* rows into micro panels */
  int group_panels;  /* packed panels one micro-kernel call covers */
  int64_t width;     /* their columns */
  int64_t ngroup;    /* groups of packed panels */
  int64_t row_tiles, col_tiles;
  int64_t merged;          /* most tiles of the same rows computed together */
  bool all_rows;           /* tiles have all columns; those of one call are computed as one */
  int64_t kblocks, kblock; /* k blocks and units in each but the last */
  int64_t tile_panels, tile_rows, tile_groups; /* largest of merged tiles */
  int64_t a_panel;                             /* A_COLUMNS, A_INTERLEAVED: units between panels */
  int64_t a_offset; /* A_PANELS: bytes, the panel in scratch; what its copying needs is before */
  /* A_GATHER: bytes that bringing so many rows needs behind them, and where; NULL: none. */
  int64_t (*source_bytes)(const Product *p, int64_t rows);
  int64_t source_offset;
  /* What is written once beside a panel of rows, before its first columns; NULL: nothing. */
  void (*beside)(Product *p, Val panel);
  /* A_PANELS: brings a micro panel for the k block to `to`, or with it those after; where it is. */
  Val (*bring_panel)(Product *p, const Tile *t, Val panel, Val to);
  int64_t panel_ks; /* units between k there; 0: as many as a panel has rows */
  /* Where the rows of the panel after are, which nobody has fetched: pointers, one for each k, and
   * bytes behind them. NULL: they are near. */
  Val (*panel_after)(Product *p, const Tile *t, Val panel, Val *bytes);
  int64_t c_offset;      /* bytes: sums behind A in scratch */
  bool direct;           /* sums are made in result 0 itself, */
  int64_t direct_stride; /* whose rows are so far apart */
};

struct Tile {
  Val a;              /* first element of operand 0 */
  Val panel0, panel1; /* micro panels of the tile */
  Val row0, row1;     /* its rows */
  Val group0, group1; /* groups of packed panels */
  Val k0, kc;         /* k block in units */
  Val b0, b1;         /* where it and the one after begin in a packed panel */
  Val add, last;      /* i1: sums of blocks before are there; it is the last */
};

/* The one stride that steps access a from row to row, or -1. */
int64_t product_row_stride(const Product *p, const Access *a);
/* The same within each micro panel, which may not go beyond the last row dimension (image.period). */
int64_t product_panel_stride(const Product *p, const Access *a);
/* Sizes from M, N, K, units, c and mode, which the caller has set: panels, tiles, k blocks,
 * scratch. Sets g->ntiles and g->scratch_bytes. */
void product_plan(Product *p);
static inline int product_row_dims(const Product *p) {
  return p->body->ndim - 1;
}
/* Elements of access a to row m (flat, row-major over the row dimensions), without offset. */
Val product_row(Product *p, const Access *a, Val m);
/* Sets p->next and what it needs, where a call has anything to fetch: last of all choices. */
void product_choose_next(Product *p);
/* All of B stays in the nearest cache: panels of rows are gone through once. */
bool product_rows_first(const Product *p);
/* What is fetched later, where next is product_next_later: planned anew for each k block. */
ProductNext product_next_later;
Val product_calls(Product *p, const Tile *t); /* of micro-kernels in the k block */
void product_later_begin(Product *p, const Tile *t);
void product_later(Product *p, Val at, Val bytes, Val calls);
/* Rows of a raw B in the k block after: so many bytes, from there on. */
Val product_raw_after(Product *p, const Tile *t, Val *bytes);
/* Loops over tiles and k blocks; `bring` emits what brings A of one k block into scratch. */
typedef void ProductBring(Product *p, const Tile *t);
bool product_emit(Product *p, Val a, ProductBring *bring);
/* A panel of a raw B at `from`, `left` columns of it at most, for the k block of t, to scratch. */
void product_pack(Product *p, const Tile *t, Val from, Val to, int64_t left);
/* Calls that fetch the rows which the tile after copies, 0 when they cannot, and what each fetches.
 */
int64_t product_after_calls(const Product *p);
Next product_after(Product *p, const Tile *t, Val call);
ProductBring product_bring; /* A_DIRECT, A_ROWS, A_INTERLEAVED, A_COLUMNS */

#endif
