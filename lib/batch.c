/* loader.batch_size: auto. The largest power of two whose plan fits the memory, found by planning:
 * memory grows nearly in proportion to the batch, so two small plans say where to look, and the plans
 * of the choice and of its double are what decides. */
#include <string.h>
#include <unistd.h>

#include "lib/lib.h"

enum { FIRST_GUESS = 8 };

/* What a program needs at this batch: segments, scratch of every thread, batches prepared ahead. Plans
 * quietly: the compilation that follows says what there is to say. */
static Status bytes_needed(const Compilation *c, const char *path, const char *text, size_t len,
                           int64_t batch, double *bytes) {
  Compilation t;
  mpcc_options o = *c->o;
  static const mpcc_callbacks silent = {0};
  o.print_before = o.print_after = NULL;
  o.time_passes = false;
  *bytes = 0;
  if (!compilation_begin(&t, &o, &silent))
    return MPCC_ERR_NOMEM;
  KernelTable kernels = {0};
  Status st = compilation_spec(&t, path, text, len);
  if (st == MPCC_OK)
    st = spec_set_batch(t.spec, batch);
  if (st == MPCC_OK)
    st = spec_lower(t.spec, t.strings, t.diag, &t.module);
  if (st == MPCC_OK)
    st = compilation_plan(&t, &kernels);
  int64_t scratch = 0;
  for (int i = 0; i < kernels.n; i++)
    if (kernels.kernel[i].scratch_bytes > scratch)
      scratch = kernels.kernel[i].scratch_bytes;
  if (st == MPCC_OK) {
    long threads = sysconf(_SC_NPROCESSORS_ONLN);
    *bytes = (double)scratch * (double)(threads > 0 ? threads : 1);
    for (int i = 0; i < MPCC_SEG_COUNT; i++)
      *bytes += (double)t.module->segment_bytes[i];
    *bytes += 4.0 * (double)t.module->segment_bytes[MPCC_SEG_IO];
  }
  compilation_fini(&t);
  return st;
}

/* The share of the memory that a program may fill: data files, their cache and the system need some. */
static double room(const Compilation *c) {
  double all = (double)c->o->memory_bytes;
  if (!c->o->memory_bytes)
    all = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
  return all * 7 / 8;
}

static int64_t power_below(double n, int64_t limit) {
  int64_t p = 1;
  while (p < limit && 2.0 * (double)p <= n)
    p *= 2;
  return p;
}

/* First batch to try: where the line through two plans meets the memory. */
static Status guess(const Compilation *c, const char *path, const char *text, size_t len,
                    int64_t limit, int64_t *out) {
  double one, two, rest = room(c);
  *out = 1;
  if (limit < 2 * FIRST_GUESS)
    return MPCC_OK;
  Status st = bytes_needed(c, path, text, len, FIRST_GUESS, &one);
  if (st == MPCC_OK)
    st = bytes_needed(c, path, text, len, 2 * FIRST_GUESS, &two);
  if (st != MPCC_OK)
    return st;
  double slope = (two - one) / FIRST_GUESS;
  *out = slope > 0 ? power_below(FIRST_GUESS + (rest - one) / slope, limit) : limit;
  return MPCC_OK;
}

Status batch_choose(Compilation *c, const char *path, const char *text, size_t len) {
  Loc loc = spec_batch_loc(c->spec);
  for (int i = 0; i < c->o->ntarget; i++)
    if (strcmp(c->o->target[i], "cpu")) {
      diag_error(c->diag, loc, 505, "batch_size: auto knows the memory of the target cpu alone");
      diag_hint(c->diag, "write a number for target %s", c->o->target[i]);
      return MPCC_ERR_TARGET;
    }
  int64_t limit = spec_batch_limit(c->spec), batch;
  double need = 0, fits = -1;
  Status st = guess(c, path, text, len, limit, &batch);
  while (st == MPCC_OK) {
    st = bytes_needed(c, path, text, len, batch, &need);
    if (st != MPCC_OK)
      break;
    if (need > room(c) && batch == 1) {
      diag_error(c->diag, loc, 506, "even a batch of 1 needs %.1f MiB of memory, there are %.1f",
                 need / 0x1p20, room(c) / 0x1p20);
      return MPCC_ERR_NOMEM;
    }
    if (need > room(c) && fits > 0) {
      batch /= 2;
      break;
    }
    if (need > room(c)) {
      batch /= 2;
      continue;
    }
    fits = need;
    if (batch >= limit)
      break;
    batch *= 2;
  }
  if (st == MPCC_ERR_NOMEM)
    return st;
  if (st != MPCC_OK) /* the spec has other mistakes: they are told by what follows */
    return MPCC_OK;
  diag_remark(c->diag, loc, "batch_size: auto is %lld: %.1f MiB of the %.1f MiB it may fill",
              (long long)batch, fits / 0x1p20, room(c) / 0x1p20);
  return spec_set_batch(c->spec, batch);
}
