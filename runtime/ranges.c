/* What the results of kernels need of a number format: largest magnitude, and how many elements
 * would saturate or become zero in each candidate, measured over the steps of a run.
 *
 * The 16-bit formats are taken as they are. The 8-bit ones are taken as delayed scaling would use
 * them: with the scale that puts the largest magnitude of the step before at the largest finite
 * value. Magnitudes are compared as the integers of their codes, which have the same order. */
#include "runtime/ranges.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "mpcc/num.h"
#include "runtime/fit.h"

enum { TILE = 1 << 15, BLOCK = 1 << 12, NFORMAT = MPRT__RANGE_FORMATS };

const DType mprt__range_formats[NFORMAT] = {MPCC_F16, MPCC_BF16, MPCC_E4M3, MPCC_E5M2};

/* Codes of magnitudes between which a format neither saturates nor loses: low < code <= high. */
typedef struct {
  uint64_t low[NFORMAT], high[NFORMAT];
} Bounds;

typedef struct {
  uint64_t
      largest; /* code of the largest magnitude; above every finite one when something is not */
  uint64_t nonzero, saturated[NFORMAT], lost[NFORMAT];
} Counts;

/* One result of one command. */
typedef struct {
  const MpccCommand *command;
  uint32_t output;
  DType dtype;
  int64_t elems, steps;
  double amax, last_amax;                            /* of all steps, of the step before */
  double nonzero, saturated[NFORMAT], lost[NFORMAT]; /* elements, over all steps */
} Range;

struct mprt__ranges {
  Range *range;
  size_t n;
  uint32_t *first; /* per command of the image: its first range + 1; 0: none */
};

/* ---- counting -------------------------------------------------------------------------------- */

/* Counts one block of codes. Written once for three widths; the compiler makes vector code of it.
 */
#define COUNT_BLOCK(NAME, CODE, MASK)                                                              \
  static inline __attribute__((always_inline)) void NAME(const CODE *x, int64_t n,                 \
                                                         const Bounds *b, Counts *c) {             \
    CODE largest = 0, nonzero = 0, low[NFORMAT], high[NFORMAT];                                    \
    CODE saturated[NFORMAT] = {0}, lost[NFORMAT] = {0};                                            \
    for (int f = 0; f < NFORMAT; f++) {                                                            \
      low[f] = (CODE)b->low[f];                                                                    \
      high[f] = (CODE)b->high[f];                                                                  \
    }                                                                                              \
    for (int64_t i = 0; i < n; i++) {                                                              \
      CODE u = x[i] & (CODE)(MASK);                                                                \
      largest = u > largest ? u : largest;                                                         \
      nonzero = (CODE)(nonzero + (u != 0));                                                        \
      for (int f = 0; f < NFORMAT; f++) {                                                          \
        saturated[f] = (CODE)(saturated[f] + (u > high[f]));                                       \
        lost[f] = (CODE)(lost[f] + (u <= low[f]));                                                 \
      }                                                                                            \
    }                                                                                              \
    c->largest = largest > c->largest ? largest : c->largest;                                      \
    c->nonzero += nonzero;                                                                         \
    for (int f = 0; f < NFORMAT; f++) {                                                            \
      c->saturated[f] += saturated[f];                                                             \
      c->lost[f] += lost[f];                                                                       \
    }                                                                                              \
  }
COUNT_BLOCK(block_16, uint16_t, 0x7fff)
COUNT_BLOCK(block_32, uint32_t, 0x7fffffff)
COUNT_BLOCK(block_64, uint64_t, INT64_MAX)

static inline __attribute__((always_inline)) void count(const uint8_t *data, int64_t n,
                                                        size_t bytes, const Bounds *b, Counts *c) {
  for (int64_t i = 0; i < n; i += BLOCK) { /* so short that 16-bit counters do not overflow */
    int64_t part = n - i < BLOCK ? n - i : BLOCK;
    const void *at = data + (size_t)i * bytes;
    if (bytes == 2)
      block_16(at, part, b, c);
    else if (bytes == 4)
      block_32(at, part, b, c);
    else
      block_64(at, part, b, c);
  }
}

typedef void Counter(const uint8_t *data, int64_t n, size_t bytes, const Bounds *b, Counts *c);

static void count_plain(const uint8_t *data, int64_t n, size_t bytes, const Bounds *b, Counts *c) {
  count(data, n, bytes, b, c);
}
__attribute__((target("avx2"))) static void count_avx2(const uint8_t *data, int64_t n, size_t bytes,
                                                       const Bounds *b, Counts *c) {
  count(data, n, bytes, b, c);
}

/* Shared by the threads that count one result. */
typedef struct {
  const uint8_t *data;
  int64_t n;
  size_t bytes;
  const Bounds *bounds;
  Counter *counter;
  _Atomic uint64_t largest, nonzero, saturated[NFORMAT], lost[NFORMAT];
} Job;

static void add(_Atomic uint64_t *to, uint64_t n) {
  atomic_fetch_add_explicit(to, n, memory_order_relaxed);
}

static void count_tiles(const MpccArg *args, int64_t first, int64_t end, void *scratch) {
  (void)scratch;
  Job *job = args[0].p;
  int64_t from = first * TILE, to = end * TILE < job->n ? end * TILE : job->n;
  Counts c = {0};
  job->counter(job->data + (size_t)from * job->bytes, to - from, job->bytes, job->bounds, &c);
  uint64_t seen = atomic_load_explicit(&job->largest, memory_order_relaxed);
  while (c.largest > seen &&
         !atomic_compare_exchange_weak_explicit(&job->largest, &seen, c.largest,
                                                memory_order_relaxed, memory_order_relaxed))
    ;
  add(&job->nonzero, c.nonzero);
  for (int f = 0; f < NFORMAT; f++) {
    add(&job->saturated[f], c.saturated[f]);
    add(&job->lost[f], c.lost[f]);
  }
}

/* ---- bounds ---------------------------------------------------------------------------------- */

static double decode(uint64_t code, DType dt) {
  uint8_t bytes[8];
  memcpy(bytes, &code, sizeof code); /* little-endian, as every x86-64 is */
  return num_load(bytes, dt);
}

/* Largest code of dt, of a finite value, whose magnitude is at most v >= 0. */
static uint64_t code_below(double v, DType dt) {
  uint64_t code = 0;
  uint8_t bytes[8] = {0};
  double top = dtype_info(dt)->max_finite;
  num_store(bytes, dt, v < top ? v : top);
  memcpy(&code, bytes, dtype_bytes(dt));
  return code && decode(code, dt) > v ? code - 1 : code;
}

/* What a format loses: magnitudes up to half its smallest value round to zero, ties to even. What
 * saturates: magnitudes above its largest finite value. */
static void set_bounds(Bounds *b, DType dt, double amax) {
  for (int f = 0; f < NFORMAT; f++) {
    const DTypeInfo *info = dtype_info(mprt__range_formats[f]);
    bool scaled = dtype_bytes(mprt__range_formats[f]) == 1 && amax > 0 && isfinite(amax);
    double scale = scaled ? info->max_finite / amax : 1;
    b->low[f] = code_below(info->min_normal * info->eps / 2 / scale, dt);
    b->high[f] = code_below(info->max_finite / scale, dt);
  }
}

mprt__range_counts mprt__range_count(mprt__pool *pool, const void *data, int64_t n, DType dt,
                                     double amax) {
  bool known;
  Bounds bounds;
  set_bounds(&bounds, dt, amax);
  Job job = {.data = data,
             .n = n,
             .bytes = dtype_bytes(dt),
             .bounds = &bounds,
             .counter = mprt__cpu_has("avx2", 4, &known) ? count_avx2 : count_plain};
  mprt__pool_run(pool, count_tiles, &(MpccArg){.p = &job}, (n + TILE - 1) / TILE);
  mprt__range_counts c = {.amax = decode(job.largest, dt), .nonzero = job.nonzero};
  for (int f = 0; f < NFORMAT; f++) {
    c.saturated[f] = job.saturated[f];
    c.lost[f] = job.lost[f] - ((uint64_t)n - job.nonzero); /* zeros are not lost */
  }
  return c;
}

/* ---- ranges of a program --------------------------------------------------------------------- */

static bool measured(DType dt) {
  return dtype_is_float(dt) && dtype_bytes(dt) > 1; /* 8-bit codes are quantized already */
}

static const uint8_t *result(const mprt_program *p, const MpccCommand *c, uint32_t k) {
  return p->arg[c->first_arg + c->first_out + k].p;
}

static int64_t result_elems(const mprt_program *p, const MpccCommand *c, uint32_t k, DType dt) {
  return (int64_t)(p->argref[c->first_arg + c->first_out + k].bytes / dtype_bytes(dt));
}

mprt__ranges *mprt__ranges_create(const mprt_program *p) {
  mprt__ranges *r = calloc(1, sizeof *r);
  size_t most = 0;
  for (uint32_t i = 0; i < p->ncommand; i++)
    most += p->command[i].nout;
  if (r) {
    r->range = calloc(most + 1, sizeof *r->range);
    r->first = calloc((size_t)p->ncommand + 1, sizeof *r->first);
  }
  if (!r || !r->range || !r->first) {
    mprt__ranges_destroy(r);
    return NULL;
  }
  for (uint32_t i = 0; i < p->ncommand; i++) {
    const MpccCommand *c = &p->command[i];
    const char *dtypes = mprt__string(p, c->value_dtypes);
    for (uint32_t k = 0; k < c->nout; k++) {
      DType dt = (DType)(dtypes[k] - 'a');
      if (!measured(dt))
        continue;
      if (!r->first[i])
        r->first[i] = (uint32_t)r->n + 1;
      r->range[r->n++] =
          (Range){.command = c, .output = k, .dtype = dt, .elems = result_elems(p, c, k, dt)};
    }
  }
  return r;
}

void mprt__ranges_destroy(mprt__ranges *r) {
  if (!r)
    return;
  free(r->range);
  free(r->first);
  free(r);
}

bool mprt__results_finite(mprt_program *p, const MpccCommand *c) {
  const char *dtypes = mprt__string(p, c->value_dtypes);
  for (uint32_t k = 0; k < c->nout; k++) {
    DType dt = (DType)(dtypes[k] - 'a');
    if (measured(dt) &&
        !isfinite(
            mprt__range_count(p->pool, result(p, c, k), result_elems(p, c, k, dt), dt, 0).amax))
      return false;
  }
  return true;
}

static void measure(mprt_program *p, Range *r) {
  const uint8_t *data = result(p, r->command, r->output);
  if (!r->steps) /* no step before: its own magnitude, by a pass of its own */
    r->last_amax = mprt__range_count(p->pool, data, r->elems, r->dtype, 0).amax;
  mprt__range_counts c = mprt__range_count(p->pool, data, r->elems, r->dtype, r->last_amax);
  if (isfinite(c.amax)) /* a scale is never made of what is not finite */
    r->last_amax = c.amax;
  r->amax = !(c.amax <= r->amax) ? c.amax : r->amax;
  r->steps++;
  r->nonzero += (double)c.nonzero;
  for (int f = 0; f < NFORMAT; f++) {
    r->saturated[f] += (double)c.saturated[f];
    r->lost[f] += (double)c.lost[f];
  }
}

void mprt__ranges_measure(mprt__ranges *r, mprt_program *p, const MpccCommand *c) {
  size_t i = r->first[c - p->command];
  for (; i && i <= r->n && r->range[i - 1].command == c; i++)
    measure(p, &r->range[i - 1]);
}

/* ---- what is told ---------------------------------------------------------------------------- */

static double share(double n, const Range *r) {
  return n / ((double)r->elems * (double)r->steps);
}

/* Labels and layers hold no quotes, but a label may have commas. */
static void write_rows(const mprt__ranges *r, const mprt_program *p, FILE *out) {
  fputs("layer,kernel,output,place,dtype,elements,steps,amax,zero", out);
  for (int f = 0; f < NFORMAT; f++)
    fprintf(out, ",%s_saturated,%s_lost", dtype_text(mprt__range_formats[f]),
            dtype_text(mprt__range_formats[f]));
  for (size_t i = 0; i < r->n; i++) {
    const Range *x = &r->range[i];
    if (!x->steps)
      continue;
    fprintf(out, "\n%s,\"%s\",%u,%s,%s,%lld,%lld,%.6g,%.6g", mprt__string(p, x->command->layer),
            mprt__string(p, x->command->label), x->output, mprt__string(p, x->command->source),
            dtype_text(x->dtype), (long long)x->elems, (long long)x->steps, x->amax,
            1 - share(x->nonzero, x));
    for (int f = 0; f < NFORMAT; f++)
      fprintf(out, ",%.6g,%.6g", share(x->saturated[f], x), share(x->lost[f], x));
  }
  fputc('\n', out);
}

/* One line for a format: how many results it would not hold, and the worst of them. */
static void tell_format(const mprt__ranges *r, const mprt_program *p, int f, FILE *out) {
  size_t over = 0, under = 0;
  const Range *worst = NULL;
  double most = 0.01;
  for (size_t i = 0; i < r->n; i++) {
    const Range *x = &r->range[i];
    double s = x->steps ? share(x->saturated[f], x) : 0, l = x->steps ? share(x->lost[f], x) : 0;
    if (!*mprt__string(p, x->command->source))
      continue; /* the optimizer's own, in no layer */
    over += s > 0.001;
    under += l > 0.01;
    if (fmax(s, l) > most) {
      most = fmax(s, l);
      worst = x;
    }
  }
  fprintf(out, "\n  %-5s%-7s %4zu saturate in more than 0.1 %%, %4zu lose more than 1 %%",
          dtype_text(mprt__range_formats[f]),
          dtype_bytes(mprt__range_formats[f]) == 1 ? "scaled" : "", over, under);
  if (worst)
    fprintf(out, "; worst: %s (%s, %s) %.0f %%", mprt__string(p, worst->command->layer),
            mprt__string(p, worst->command->label), mprt__string(p, worst->command->source),
            100 * most);
}

Status mprt__ranges_report(const mprt__ranges *r, mprt_program *p, const char *out_dir) {
  char *path = mprt__format("%s/ranges.csv", out_dir), *rows = NULL, *text = NULL;
  size_t bytes = 0, size = 0, seen = 0;
  FILE *f = path ? open_memstream(&rows, &bytes) : NULL;
  if (f)
    write_rows(r, p, f);
  Status st = f && !fclose(f) ? mprt__file_write(path, rows, bytes, &p->cb)
                              : mprt__nomem(&p->cb, "ranges.csv");
  for (size_t i = 0; i < r->n; i++)
    seen += r->range[i].steps > 0;
  f = st == MPCC_OK ? open_memstream(&text, &size) : NULL;
  if (f) {
    fprintf(f, "ranges of %zu results, each with its place in %s:", seen, path);
    for (int k = 0; k < NFORMAT; k++)
      tell_format(r, p, k, f);
    if (!fclose(f))
      mprt__log(&p->cb, MPRT_LOG_INFO, "%s", text);
  }
  free(path);
  free(rows);
  free(text);
  return st;
}
