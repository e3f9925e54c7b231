/* Plan mode (tests) runs the commands of a function so that wrong plans and wrong kernels show,
 * since sanitizers do not see generated code. Results must be equal bit by bit to those of a plain
 * run:
 * - `work` is NaN when a function starts, and a byte of it is NaN again once nothing reads it
 * before it is next written; `derived` is NaN before `refresh`, `accum` before micro_first and
 * train_step;
 * - each kernel works on copies of its arguments with canaries around them, results start as NaN;
 *   afterwards the canaries, and every byte that is no result, must be as before;
 * - tiles run one by one, last first.
 * The NaN is 0xFF in every byte, which is a NaN in every float format. */
#include <stdlib.h>
#include <string.h>

#include "runtime/rt.h"

enum { CANARY = 256, POISON = 0xff, GRANULE = 4 };

typedef struct {
  uint64_t begin, end; /* bytes of work */
} Range;

typedef struct {
  uint32_t segment;
  uint64_t begin, end; /* bytes of the segment: overlapping arguments joined */
  size_t at;           /* of `begin` in the area */
} Region;

struct mprt__plan {
  size_t *base; /* per function: its first slice */
  struct {
    size_t first, end; /* into dead: what dies with one command of one function */
  } * slice;
  Range *dead;
  size_t ndead, cap;
  uint64_t iteration; /* of the loop that runs */
  uint8_t *area;      /* copies of the arguments of one command, 64-byte aligned */
  size_t area_bytes;
  Region *region; /* of one command */
  MpccArg *arg;
};

/* ---- when bytes of work die ---- */

static bool is_out(const MpccCommand *c, uint32_t i) {
  return i >= c->first_out && i < c->first_out + c->nout;
}

static bool add_dead(struct mprt__plan *plan, uint64_t begin, uint64_t end) {
  if (plan->ndead == plan->cap) {
    size_t cap = plan->cap ? plan->cap * 2 : 256;
    Range *grown = realloc(plan->dead, cap * sizeof *grown);
    if (!grown)
      return false;
    plan->dead = grown;
    plan->cap = cap;
  }
  plan->dead[plan->ndead++] = (Range){begin * GRANULE, end * GRANULE};
  return true;
}

/* Granules wholly inside [offset, offset + bytes), or touched by it. */
static Range granules(const MpccArgRef *a, bool whole) {
  uint64_t begin = (uint64_t)a->offset, end = begin + a->bytes;
  Range r = {(begin + (whole ? GRANULE - 1 : 0)) / GRANULE,
             (end + (whole ? 0 : GRANULE - 1)) / GRANULE};
  if (r.end < r.begin)
    r.end = r.begin;
  return r;
}

/* All that argument a of a command in a loop of n iterations lies in. */
static MpccArgRef all_iterations(MpccArgRef a, uint64_t n) {
  int64_t far = a.stride * (int64_t)((a.ring ? a.ring : n) - 1);
  a.offset += far < 0 ? far : 0;
  a.bytes += (uint64_t)(far < 0 ? -far : far);
  return a;
}

/* One command of a backward walk: `live` says which granules the commands after it read before they
 * write them. Records what is dead behind the command, then makes `live` true in front of it. What
 * moves with the iterations of a loop (n: how many) lives for all of it. */
static bool walk_command(mprt_program *p, const MpccCommand *c, uint64_t n, bool record,
                         uint8_t *live) {
  const MpccArgRef *a = &p->argref[c->first_arg];
  for (uint32_t i = 0; record && i < c->nargs; i++) {
    if (a[i].segment != MPCC_SEG_WORK || a[i].stride || a[i].tensor_plus_1)
      continue;
    Range r = granules(&a[i], true);
    for (uint64_t g = r.begin, run; g < r.end; g = run + 1) {
      for (run = g; run < r.end && !live[run]; run++)
        ;
      if (run > g && !add_dead(p->plan, g, run))
        return false;
    }
  }
  for (int pass = 0; pass < 2; pass++) { /* results first, so that an operand in place stays live */
    for (uint32_t i = 0; i < c->nargs; i++) {
      bool out = is_out(c, i);
      if (a[i].segment != MPCC_SEG_WORK || a[i].tensor_plus_1 || out != (pass == 0) ||
          (out && a[i].stride))
        continue;
      MpccArgRef all = all_iterations(a[i], n);
      Range r = granules(&all, out);
      memset(live + r.begin, !out, r.end - r.begin);
    }
  }
  return true;
}

/* Command n of function k, outside of loops or in one of `times` iterations. */
static bool walk_one(mprt_program *p, uint32_t k, uint32_t n, uint64_t times, uint8_t *live) {
  struct mprt__plan *plan = p->plan;
  plan->slice[plan->base[k] + n].first = plan->ndead;
  bool ok = walk_command(p, &p->command[p->function[k].first_command + n], times, true, live);
  plan->slice[plan->base[k] + n].end = plan->ndead;
  return ok;
}

/* The commands behind repeat command r: what lives when the body begins lives when it ends. */
static bool walk_loop(mprt_program *p, uint32_t k, uint32_t r, size_t granule_count,
                      uint8_t *live) {
  const MpccCommand *loop = &p->command[p->function[k].first_command + r];
  uint8_t *after = malloc(granule_count);
  bool ok = after != NULL;
  if (ok)
    memcpy(after, live, granule_count);
  for (uint32_t n = loop->kernel; ok && n > 0; n--)
    walk_command(p, loop + n, loop->bytes, false, live);
  for (size_t g = 0; ok && g < granule_count; g++)
    live[g] |= after[g];
  for (uint32_t n = loop->kernel; ok && n > 0; n--)
    ok = walk_one(p, k, r + n, loop->bytes, live);
  free(after);
  return ok;
}

/* The repeat command of function f whose loop holds command n, else n. */
static uint32_t loop_of(const mprt_program *p, const MpccFunction *f, uint32_t n) {
  const MpccCommand *c = &p->command[f->first_command];
  for (uint32_t r = 0; r < n; r++)
    if (c[r].op == MPCC_CMD_REPEAT && r + c[r].kernel >= n)
      return r;
  return n;
}

static Status plan_deaths(mprt_program *p) {
  struct mprt__plan *plan = p->plan;
  size_t granule_count = p->segment[MPCC_SEG_WORK].bytes / GRANULE + 2, total = 0;
  for (uint32_t k = 0; k < p->nfunction; k++)
    total += p->function[k].ncommands;
  uint8_t *live = malloc(granule_count);
  plan->base = calloc((size_t)p->nfunction + 1, sizeof *plan->base);
  plan->slice = calloc(total + 1, sizeof *plan->slice);
  bool ok = live && plan->base && plan->slice;
  total = 0;
  for (uint32_t k = 0; k < p->nfunction && ok; k++) {
    const MpccFunction *f = &p->function[k];
    memset(live, 0, granule_count);
    plan->base[k] = total;
    total += f->ncommands;
    for (uint32_t n = f->ncommands; n-- > 0 && ok;) {
      uint32_t r = loop_of(p, f, n);
      ok = r < n ? walk_loop(p, k, r, granule_count, live) : walk_one(p, k, n, 1, live);
      n = r;
    }
  }
  free(live);
  return ok ? MPCC_OK : mprt__nomem(&p->cb, "plan mode");
}

/* ---- guarded copies of arguments ---- */

static int compare_regions(const void *a, const void *b) {
  const Region *x = a, *y = b;
  if (x->segment != y->segment)
    return x->segment < y->segment ? -1 : 1;
  return x->begin < y->begin ? -1 : x->begin > y->begin;
}

/* Argument i of c as it is now. */
static MpccArgRef ref_now(const mprt_program *p, const MpccCommand *c, uint32_t i) {
  MpccArgRef a = p->argref[c->first_arg + i];
  if (a.segment != MPCC_ARG_INT)
    a.offset += mpcc_arg_step(&a, p->plan->iteration);
  return a;
}

/* Most bytes that lay_out may ask for. */
static size_t area_bound(const mprt_program *p, const MpccCommand *c) {
  size_t bytes = CANARY;
  for (uint32_t i = 0; i < c->nargs; i++)
    bytes += p->argref[c->first_arg + i].bytes + CANARY + 2 * MPCC_ALIGN;
  return bytes;
}

/* Regions of a command in order, with their places in the area; returns the bytes of area needed */
static size_t lay_out(const mprt_program *p, const MpccCommand *c, Region *region,
                      uint32_t *count) {
  uint32_t n = 0, kept = 0;
  for (uint32_t i = 0; i < c->nargs; i++) {
    const MpccArgRef a = ref_now(p, c, i);
    if (a.segment != MPCC_ARG_INT)
      region[n++] = (Region){a.segment, (uint64_t)a.offset, (uint64_t)a.offset + a.bytes, 0};
  }
  if (n > 0)
    qsort(region, n, sizeof *region, compare_regions);
  for (uint32_t i = 0; i < n; i++) {
    Region *last = kept ? &region[kept - 1] : NULL;
    bool joins = last && last->segment == region[i].segment &&
                 (region[i].begin < last->end || region[i].begin == last->begin);
    if (!joins)
      region[kept++] = region[i];
    else if (region[i].end > last->end)
      last->end = region[i].end;
  }
  size_t at = CANARY;
  for (uint32_t i = 0; i < kept; i++) {
    /* The same place within a cache line, in case kernels look at alignment. */
    region[i].at = at + region[i].begin % MPCC_ALIGN;
    at = (region[i].at + (region[i].end - region[i].begin) + CANARY + MPCC_ALIGN - 1) &
         ~(size_t)(MPCC_ALIGN - 1);
  }
  *count = kept;
  return at;
}

static void poison_segment(mprt_program *p, int segment) {
  if (p->segment[segment].bytes > 0)
    memset(p->segment[segment].data, POISON, p->segment[segment].bytes);
}

/* The same for what tensors hold. Between the views of a flat tensor is zero and stays zero. */
static void poison_tensors(mprt_program *p, uint32_t segment) {
  for (uint32_t i = 0; i < p->ntensor; i++)
    if (p->tensor[i].segment == segment && !p->flat[i])
      memset(p->segment[segment].data + p->tensor[i].offset, POISON, p->tensor[i].bytes);
}

Status mprt__plan_create(mprt_program *p) {
  struct mprt__plan *plan = p->plan = calloc(1, sizeof *plan);
  uint32_t nargs = 0;
  for (uint32_t i = 0; i < p->ncommand; i++)
    if (p->command[i].nargs > nargs)
      nargs = p->command[i].nargs;
  if (plan) {
    plan->region = calloc((size_t)nargs + 1, sizeof *plan->region);
    plan->arg = calloc((size_t)nargs + 1, sizeof *plan->arg);
  }
  if (!plan || !plan->region || !plan->arg)
    return mprt__nomem(&p->cb, "plan mode");
  for (uint32_t i = 0; i < p->ncommand; i++) {
    size_t bytes = area_bound(p, &p->command[i]);
    if (bytes > plan->area_bytes)
      plan->area_bytes = bytes;
  }
  plan->area =
      aligned_alloc(MPCC_ALIGN, (plan->area_bytes + 2 * MPCC_ALIGN) & ~(size_t)(MPCC_ALIGN - 1));
  if (!plan->area)
    return mprt__nomem(&p->cb, "plan mode");
  poison_tensors(p, MPCC_SEG_DERIVED);
  poison_tensors(p, MPCC_SEG_ACCUM);
  return plan_deaths(p);
}

void mprt__plan_destroy(mprt_program *p) {
  if (!p->plan)
    return;
  free(p->plan->base);
  free(p->plan->slice);
  free(p->plan->dead);
  free(p->plan->area);
  free(p->plan->region);
  free(p->plan->arg);
  free(p->plan);
  p->plan = NULL;
}

static const Region *region_of(const Region *region, uint32_t n, const MpccArgRef *a) {
  for (uint32_t i = 0; i < n; i++)
    if (region[i].segment == a->segment && region[i].begin <= (uint64_t)a->offset &&
        (uint64_t)a->offset + a->bytes <= region[i].end)
      return &region[i];
  return NULL; /* cannot be: every address argument went into one */
}

/* Copies the arguments into the area, poisons canaries and plain results. */
static void plan_enter(mprt_program *p, const MpccCommand *c, uint32_t n, size_t bytes) {
  struct mprt__plan *plan = p->plan;
  memset(plan->area, POISON, bytes);
  for (uint32_t i = 0; i < c->nargs; i++) {
    const MpccArgRef a = ref_now(p, c, i);
    plan->arg[i] = p->arg[c->first_arg + i];
    if (a.segment == MPCC_ARG_INT)
      continue;
    const Region *r = region_of(plan->region, n, &a);
    uint8_t *copy = plan->area + r->at + ((uint64_t)a.offset - r->begin);
    if (!is_out(c, i))
      memcpy(copy, p->arg[c->first_arg + i].p, a.bytes);
    plan->arg[i].p = copy;
  }
}

static bool is_result_byte(const mprt_program *p, const MpccCommand *c, const Region *r,
                           uint64_t at) {
  for (uint32_t i = c->first_out; i < c->first_out + c->nout; i++) {
    const MpccArgRef a = ref_now(p, c, i);
    if (a.segment == r->segment && (uint64_t)a.offset <= at && at < (uint64_t)a.offset + a.bytes)
      return true;
  }
  return false;
}

static Status plan_error(const mprt_program *p, const MpccCommand *c, const char *what) {
  return mprt__fail(&p->cb, MPCC_ERR_INTERNAL, "plan mode: kernel '%s' (%s, %s) %s",
                    mprt__string(p, p->kernel[c->kernel].symbol), mprt__string(p, c->label),
                    mprt__string(p, c->source), what);
}

/* Checks what the kernel left in the area, then copies its results back. */
static Status plan_leave(mprt_program *p, const MpccCommand *c, uint32_t n, size_t bytes) {
  struct mprt__plan *plan = p->plan;
  const MpccArgRef *a = &p->argref[c->first_arg];
  size_t at = 0;
  for (uint32_t i = 0; i <= n; i++) {
    const Region *r = &plan->region[i];
    for (size_t end = i < n ? r->at : bytes; at < end; at++)
      if (plan->area[at] != POISON)
        return plan_error(p, c, "writes outside its arguments");
    if (i == n)
      break;
    const uint8_t *before = p->segment[r->segment].data + r->begin;
    for (uint64_t k = 0; k < r->end - r->begin; k++)
      if (plan->area[at + k] != before[k] && !is_result_byte(p, c, r, r->begin + k))
        return plan_error(p, c, "writes to an operand");
    at += r->end - r->begin;
  }
  for (uint32_t i = c->first_out; i < c->first_out + c->nout; i++)
    memcpy(p->arg[c->first_arg + i].p, plan->arg[i].p, a[i].bytes);
  return MPCC_OK;
}

Status mprt__plan_launch(mprt_program *p, const MpccCommand *c) {
  uint32_t n;
  const MpccKernel *k = &p->kernel[c->kernel];
  size_t bytes = lay_out(p, c, p->plan->region, &n);
  plan_enter(p, c, n, bytes);
  memset(mprt__pool_scratch(p->pool), POISON, (size_t)k->scratch_bytes);
  for (int64_t tile = (int64_t)k->ntiles; tile-- > 0;)
    mprt__pool_run_tile(p->pool, p->fn[c->kernel], p->plan->arg, tile);
  return plan_leave(p, c, n, bytes);
}

void mprt__plan_bury(mprt_program *p, const MpccFunction *f, uint32_t n) {
  const struct mprt__plan *plan = p->plan;
  size_t at = plan->base[f - p->function] + n;
  for (size_t i = plan->slice[at].first; i < plan->slice[at].end; i++)
    memset(p->segment[MPCC_SEG_WORK].data + plan->dead[i].begin, POISON,
           plan->dead[i].end - plan->dead[i].begin);
}

void mprt__plan_begin(mprt_program *p, const MpccFunction *f) {
  const char *name = mprt__string(p, f->name);
  poison_segment(p, MPCC_SEG_WORK);
  if (!strcmp(name, "refresh"))
    poison_tensors(p, MPCC_SEG_DERIVED);
  if (!strcmp(name, "micro_first") || !strcmp(name, "train_step"))
    poison_tensors(p, MPCC_SEG_ACCUM);
}

void mprt__plan_iteration(mprt_program *p, uint64_t t) {
  p->plan->iteration = t;
}
