/* Private to codegen/cpu: the register micro-kernel that products and attention are made of. */
#ifndef MPCC_CPU_MICRO_H
#define MPCC_CPU_MICRO_H

#include "codegen/cpu/llvm.h"
#include "ir/ir.h"

/* How a compute dtype looks on a level. A unit is what one lane of a multiplication takes: a
 * double, a float, or a pair of bf16 that are consecutive in k, held as one i32. */
typedef struct {
  DType in;  /* MPCC_F64, MPCC_F32, MPCC_BF16 */
  DType acc; /* sums: MPCC_F64 or MPCC_F32 */
  Ty unit;   /* element type of a unit */
  Ty sum;    /* element type of a sum */
  int vl;    /* lanes of a vector of units and of a vector of sums */
  int pair;  /* k per unit */
  int cols;  /* columns of a packed panel: two vectors */
  int unit_bytes;
} Compute;

/* Attribute `compute` of a group; f32 when it says nothing. */
DType micro_dtype(const Op *group);
/* False with g->error when the level cannot multiply that dtype. */
bool micro_compute(Gen *g, DType compute, Compute *out);

/* A loop around the k of a micro-kernel: `turns` times what is inside, then A and B move on by that
 * many units more. The outermost loop takes its turns from the call. */
typedef struct {
  int64_t turns, a, b;
} MicroLoop;

enum { MICRO_LOOPS = 3, MICRO_WAYSIDE = 16 };

/* What a kernel does on its way for each group of its rows, every few k: a burst would stop the
 * multiplications until memory has caught up. Only without loops; run is k.
 *
 * fetch: lines of the rows after, in bytes behind `next` plus the entry of `rows` that is as many
 * groups on as the kernel has. clear: zeros as wide as a row of C, written past the caches, in
 * elements behind the group's place in C; with c_rows, places and widths whole cache lines. */
typedef struct {
  int nfetch, nclear;
  int64_t fetch[MICRO_WAYSIDE], clear[MICRO_WAYSIDE];
} MicroWayside;

/* C[i][j] (+)= sum over k < kc of A[i][k] B[k][j] for mr rows and nv vectors of columns. Strides
 * count units of A and B and elements of C.
 *
 * With loops, k is the nest of them: `run` k one after the other inside, kc turns outside.
 * With `group` > 0 only so many rows are rs apart: row i is at a + rows[i / group] bytes +
 * i % group rs. */
typedef struct {
  Compute c;
  int mr, nv;
  int64_t rs, ks; /* A: between rows, between k */
  int group;      /* rows that share a pointer; 0: all */
  Val rows;       /* with group: offsets in bytes, i64, of the rows' groups, */
  Val c_rows;     /* and of their sums; NULL: these are cs apart */
  int nloop;
  int64_t run;
  MicroLoop loop[MICRO_LOOPS]; /* innermost first */
  MicroWayside way;
  int64_t bs;     /* B: between k */
  int64_t bp;     /* B: between pairs of vectors (one packed panel and the next); 0: consecutive */
  int64_t cs;     /* C: between rows */
  bool narrow;    /* C is bf16, rounded from sums of bf16 products; nv is even, add is not */
  bool odd;       /* kc may be odd */
  bool ahead;     /* C is asked for before the first k */
  /* More than 1: instead a share of C in each of so many turns of the outermost loop: a burst stops
   * the multiplications. */
  int64_t ahead_turns;
  bool add;       /* the call says whether sums start from C; else from zero */
  Val next;       /* memory that is needed next, prefetched as the kernel goes along; NULL: none */
  int next_lines; /* cache lines of it per two k (odd: per k); 0: those of `way` */
  Val next_step;  /* NULL, or bytes instead of lines: as far it goes on, a line each turn of the
                   * innermost loop, to the second-level cache */
  /* Pointers, one for each turn of the innermost loop: what lies so many bytes behind is fetched.
   * NULL: none. */
  Val places, places_at;
} Micro;

/* Element type of C, and its bytes. */
Ty micro_result(const Gen *g, const Micro *m);
int micro_result_bytes(const Micro *m);
/* Largest mr that keeps nv vectors of sums per row in registers. */
int micro_rows(const Gen *g, int nv);
/* k of a turn of the innermost loop, and cache lines it prefetches. */
int micro_unrolled(const Micro *m);
int micro_lines(const Micro *m);
/* Whether kernels like m have k enough for so many fetches or zeros each group of rows. */
bool micro_has_way(const Micro *m, int64_t n);
/* Emits a call; add is an i1, NULL without m->add. kc is an i64 >= 1. */
void micro_call(Gen *g, const Micro *m, Val a, Val b, Val c, Val kc, Val add);

/* Rows cut into n panels. They repeat every `period` panels, of `rows` rows: the first nhi of these
 * have hi rows, the others `step` fewer. */
typedef struct {
  int64_t rows, period, n, nhi;
  int hi, step;
} Split;
/* Panels of at most max rows that differ by one row. */
Split split_rows(int64_t rows, int max);
/* As many rows `periods` times. */
Split split_periods(int64_t rows, int64_t periods, int max);
/* Panels begin with a group of so many rows, which divides rows; max is no less. */
Split split_groups(int64_t rows, int group, int max);
Val split_start(Gen *g, const Split *s, Val panel); /* first row of a panel */
/* Calls kernel m (its mr is set here) on panel `panel` of s. */
void micro_panel(Gen *g, const Split *s, Micro m, Val panel, Val a, Val b, Val c, Val kc, Val add);

/* Transposes an n x n matrix of 4- or 8-byte elements held in n vectors of n lanes, in place. */
void micro_transpose(Gen *g, Val *row, int n);

/* n elements at `at`, in the storage dtype dt, as compute dtype elements [N1]. count: of them are
 * there, or NULL; those behind are zero. */
Val micro_elements(Gen *g, const Compute *c, DType dt, int n, Val at, Val count);
/* n units of consecutive k at `at`, in the storage dtype dt, converted to units [N1]. count: valid
 * elements, or NULL; units behind are zero. */
Val micro_units(Gen *g, const Compute *c, DType dt, int n, Val at, Val count);
/* A register value as compute dtype elements in memory (f64, f32 or bf16 bits). */
Val micro_convert(Gen *g, const Compute *c, Val reg);
/* Compute dtype elements, consecutive in k, as units. */
Val micro_pairs(Gen *g, const Compute *c, Val elements);
/* lanes units whose k run over two rows of memory that are contiguous along the lanes (odd: second
 * element of a pair; NULL: zero). Without pairs `second` is not used. */
Val micro_interleave(Gen *g, const Compute *c, Val first, Val second);

/* An internal function of the module with the attributes of the kernel; the builder is moved to its
 * entry block and g->fn to it. micro_fn_end restores both. NULL when one of that name exists. */
typedef struct {
  LLVMBasicBlockRef block;
  Val fn;
} FnSave;
Val micro_fn(Gen *g, const char *name, int nparam, Ty *param, FnSave *save);
void micro_fn_end(Gen *g, FnSave *save);

static inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}
static inline int64_t round_up(int64_t a, int64_t b) {
  return ceil_div(a, b) * b;
}

#endif
