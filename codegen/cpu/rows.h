/* Private to the rows emitter: space.c decides (dimensions, lanes, passes), the others emit. */
#ifndef MPCC_CPU_ROWS_H
#define MPCC_CPU_ROWS_H

#include "codegen/cpu/gen.h"

enum { ROWS_MAX_UNROLL = 4 };

/* Where a PR_STORE writes. */
typedef enum { SINK_NONE, SINK_ELEM, SINK_ROW, SINK_PANEL } Sink;

/* What NaN of a value look like: anything; nothing below the bits of bf16 set; quiet, too. */
typedef enum { NAN_ANY, NAN_SHORT, NAN_PLAIN } NanKind;

/* What is decided about one statement. */
typedef struct {
  uint8_t sink;    /* Sink, of stores */
  int ready;       /* first pass in which the value can be had; reductions: the one after */
  int pass;        /* reductions of elements and element stores: pass that does them */
  int spill;       /* pass that writes the value to scratch, -1: none; later passes read it */
  bool hoisted;    /* load that is the same in all rows: decoded into scratch once a panel */
  bool raw;        /* largest magnitude of 16-bit floats: their bits are compared as integers */
  bool cleaned;    /* load whose NaN are made plain (llvm.h), for bf16 stores that need no test */
  uint8_t nan;     /* NanKind */
  bool picked;     /* sum of what is zero but in one column: that element is computed alone */
  int64_t scratch; /* byte offset of its row buffer or column sums; -1: none */
} StmtPlan;

/* A reduction on the way. Largest and smallest numbers with AVX-512 leave NaN to `ordered`, one bit
 * a lane (two lanes of pairs) that is cleared by NaN: one instruction instead of two. */
typedef struct {
  Val sum, ordered; /* ordered: NULL where `sum` itself becomes NaN */
} Acc;

/* A rows group made ready. Passes: each row (or lane group of rows) is gone through `npass` times,
 * as a reduction over the columns must end before its result is used. */
typedef struct {
  Gen *g;
  const Op *op;
  Body body; /* dimensions of 1 dropped, neighbours merged; own arrays */
  int nrow;  /* row dimensions of body */
  int64_t rows, cols, panel_rows;
  int64_t *panel_stride; /* per result: elements per panel of partial results */
  bool on_rows;          /* lanes run along the last row dimension, else the last column one */
  int lanes, lane_dim;
  bool blocked;   /* rows_block.c: elements alone, some turned; rows of no panel in particular */
  bool paired;    /* columns below pairs_end are done in pairs of vectors (llvm.h) */
  int pair_lanes; /* of a pair; of two, which make a line of 8-bit results */
  int64_t pairs_end;
  StmtPlan *plan;
  int npass;
  bool *needed;     /* [npass][nstmt]: element statements of each pass */
  int *unroll;      /* per pass */
  int together;     /* rows gone through at once: sums across lanes of one wait less alone */
  uint8_t *fetched; /* [npass][nstmt]: rows of the next group that the pass fetches for a load or
                     * store of elements, so that memory works all the time */
  int64_t ahead;    /* bytes between what a single pass works on and what it fetches */
  int64_t scratch_bytes;
  /* filled while emitting */
  Val *arg_in, *arg_out; /* address of element `offset` of each operand and result */
  Val *all;              /* values of LV_ALL statements */
  Acc *sums;             /* variables of panel reductions: [nstmt][ROWS_MAX_UNROLL] */
} Rows;

/* space.c. g->level decides lanes. False with g->error. rows_fini in every case. */
bool rows_init(Rows *r, Gen *g, const Op *op, const Body *body);
void rows_fini(Rows *r);
static inline bool rows_needed(const Rows *r, int pass, int i) {
  return r->needed[(size_t)pass * (size_t)r->body.nstmt + (size_t)i];
}
/* A load or store of elements that goes through memory row by row. */
bool rows_is_stream(const Rows *r, int i);
/* Lanes of accumulators over the columns. */
static inline int rows_acc_lanes(const Rows *r) {
  return r->paired ? r->pair_lanes : r->lanes;
}
static inline bool prim_is_reduction(int p) {
  return p >= PR_RSUM && p <= PR_AMIN;
}
static inline bool prim_is_row_reduction(int p) {
  return p == PR_RSUM || p == PR_RMAX || p == PR_RMIN;
}

/* rows_sum.c. Reductions: i is the statement. Variables of one lie in a list
 * [nstmt][ROWS_MAX_UNROLL] by the vector of an unrolled loop (and row) that each serves. */
static inline Acc *rows_acc(Acc *list, int i, int u) {
  return &list[i * ROWS_MAX_UNROLL + u];
}
Val rows_neutral(Rows *r, int i, int lanes);
Val rows_combine(Rows *r, int i, Val a, Val b);
Val rows_across_lanes(Rows *r, int i, Val v); /* all lanes of v combined */
Acc rows_acc_start(Rows *r, int i, int lanes);
/* a = a combined with v of so many lanes, of which those past count (NULL: none) are left out. */
void rows_accumulate(Rows *r, int i, Acc a, Val v, int lanes, Val count);
/* Values of variables first, first + step ... of the list together. */
Acc rows_acc_combined(Rows *r, int i, Acc *list, int first, int step);
/* The result of what rows_acc_combined gave; lane by lane unless `across`. */
Val rows_acc_result(Rows *r, int i, Acc a, bool across);
int rows_raw_load(const Rows *r, int i); /* whose magnitudes a raw reduction compares */

/* rows.c. rows_begin emits what holds for the whole call; rows_panel emits one panel: rows
 * [first, end), number `panel`. */
bool rows_begin(Rows *r);
bool rows_panel(Rows *r, Val first, Val end, Val panel);
bool rows_by_one(Rows *r, Val first, Val end); /* lanes not along rows; no panel results */

/* rows_block.c. Whether r, simplified and with its copies found, is a group that turns; emission of
 * rows [first, end). */
bool rows_can_block(const Rows *r);
bool rows_blocks(Rows *r, Val first, Val end);

#endif
