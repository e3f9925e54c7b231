/* Private to runtime/: ranges of the results of kernels (--instrument=range). */
#ifndef MPCC_RUNTIME_RANGES_H
#define MPCC_RUNTIME_RANGES_H

#include "runtime/rt.h"

/* Candidate formats, in order: f16, bf16, e4m3, e5m2. */
enum { MPRT__RANGE_FORMATS = 4 };
extern const DType mprt__range_formats[MPRT__RANGE_FORMATS];

/* Elements of n values of dtype dt (16 to 64 bits). */
typedef struct {
  double amax; /* largest magnitude; not finite when one of them is not */
  uint64_t nonzero;
  uint64_t saturated[MPRT__RANGE_FORMATS]; /* beyond the largest finite value */
  uint64_t lost[MPRT__RANGE_FORMATS];      /* not zero, but zero when rounded to nearest even */
} mprt__range_counts;
/* 8-bit formats are taken with the scale that puts `amax` at their largest finite value; 0: with
 * scale 1. */
mprt__range_counts mprt__range_count(mprt__pool *pool, const void *data, int64_t n, DType dt,
                                     double amax);

typedef struct mprt__ranges mprt__ranges;

mprt__ranges *mprt__ranges_create(const mprt_program *p); /* NULL: memory */
void mprt__ranges_destroy(mprt__ranges *r);               /* NULL is fine */
/* The results of command c, which has just run. Allocates nothing. */
void mprt__ranges_measure(mprt__ranges *r, mprt_program *p, const MpccCommand *c);
/* out_dir/ranges.csv, a row per result, and a summary to the log. errors: ERR_FILE, ERR_NOMEM */
Status mprt__ranges_report(const mprt__ranges *r, mprt_program *p, const char *out_dir);

/* Whether the floating-point results of command c, which has just run, are finite; 8-bit ones,
 * which saturate, are not looked at. */
bool mprt__results_finite(mprt_program *p, const MpccCommand *c);

#endif
