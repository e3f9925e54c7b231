/* Runs the functions of an image: command after command, each spread over the pool. */
#include <string.h>

#include "runtime/cuda/device.h"
#include "runtime/fit.h"

enum { COPY_TILE = 256 << 10 };

const MpccFunction *mprt__function(const mprt_program *p, const char *name) {
  for (uint32_t i = 0; i < p->nfunction; i++)
    if (!strcmp(mprt__string(p, p->function[i].name), name))
      return &p->function[i];
  return NULL;
}

/* ---- copy and fill, as kernels ---- */

/* args: to, from, bytes. A tile is COPY_TILE bytes. */
static void copy_kernel(const MpccArg *args, int64_t first, int64_t end, void *scratch) {
  (void)scratch;
  int64_t from = first * COPY_TILE, to = end * COPY_TILE < args[2].i ? end * COPY_TILE : args[2].i;
  memcpy((uint8_t *)args[0].p + from, (uint8_t *)args[1].p + from, (size_t)(to - from));
}

/* args: to, -, bytes */
static void fill_kernel(const MpccArg *args, int64_t first, int64_t end, void *scratch) {
  (void)scratch;
  int64_t from = first * COPY_TILE, to = end * COPY_TILE < args[2].i ? end * COPY_TILE : args[2].i;
  memset((uint8_t *)args[0].p + from, 0, (size_t)(to - from));
}

static void run_move(mprt_program *p, const MpccCommand *c) {
  const MpccArg *a = &p->arg[c->first_arg];
  bool copy = c->op == MPCC_CMD_COPY;
  MpccArg args[3] = {a[0], {.p = copy ? a[1].p : NULL}, {.i = (int64_t)c->bytes}};
  int64_t tiles = (int64_t)((c->bytes + COPY_TILE - 1) / COPY_TILE);
  mprt__pool_run(p->pool, copy ? copy_kernel : fill_kernel, args, tiles);
}

/* ---- loops ---- */

/* Points the arguments of the commands behind repeat command r at iteration t. */
static void set_iteration(mprt_program *p, const MpccCommand *r, uint64_t t) {
  for (const MpccCommand *c = r + 1; c <= r + r->kernel; c++)
    for (uint32_t i = c->first_arg; i < c->first_arg + c->nargs; i++) {
      const MpccArgRef *a = &p->argref[i];
      if (a->stride && a->segment != MPCC_ARG_INT)
        p->arg[i].p = p->segment[a->segment].data + a->offset + mpcc_arg_step(a, t);
    }
}

/* ---- running ---- */

typedef struct {
  mprt__observer observe;
  void *user;
  double *seconds; /* NULL: nobody asks */
  bool stopped;
} Watch;

/* Commands [first, end) of f, none of them a repeat. */
static Status run_commands(mprt_program *p, const MpccFunction *f, uint32_t first, uint32_t end,
                           Watch *w) {
  for (uint32_t i = first; i < end; i++) {
    const MpccCommand *c = &p->command[f->first_command + i];
    const double begin = w->seconds ? mprt__seconds() : 0;
    if (c->op != MPCC_CMD_LAUNCH) {
      run_move(p, c);
    } else if (p->plan) {
      Status s = mprt__plan_launch(p, c);
      if (s != MPCC_OK)
        return s;
    } else {
      mprt__pool_run(p->pool, p->fn[c->kernel], &p->arg[c->first_arg],
                     (int64_t)p->kernel[c->kernel].ntiles);
    }
    if (w->seconds)
      w->seconds[c - p->command] += mprt__seconds() - begin;
    w->stopped = w->observe && !w->observe(w->user, p, c);
    if (w->stopped)
      return MPCC_OK;
    if (p->plan)
      mprt__plan_bury(p, f, i);
  }
  return MPCC_OK;
}

/* The commands behind repeat command r of f. */
static Status run_loop(mprt_program *p, const MpccFunction *f, uint32_t r, Watch *w) {
  const MpccCommand *loop = &p->command[f->first_command + r];
  Status s = MPCC_OK;
  for (uint64_t t = 0; t < loop->bytes && s == MPCC_OK && !w->stopped; t++) {
    set_iteration(p, loop, t);
    if (p->plan)
      mprt__plan_iteration(p, t);
    s = run_commands(p, f, r + 1, r + 1 + loop->kernel, w);
  }
  if (p->plan)
    mprt__plan_iteration(p, 0);
  return s;
}

static void add_seconds(void *user, const mprt_program *p, const MpccCommand *c, double begin,
                        double seconds) {
  (void)begin;
  ((double *)user)[c - p->command] += seconds;
}

Status mprt__run(mprt_program *p, const MpccFunction *f, mprt__observer observe, void *user) {
  return mprt__run_timed(p, f, observe, user, NULL);
}

Status mprt__run_timed(mprt_program *p, const MpccFunction *f, mprt__observer observe, void *user,
                       double *seconds) {
  const mprt__clock clock = {add_seconds, seconds};
  if (p->cuda)
    return mprt__cuda_run(p, p->cuda, f, observe, user, seconds ? &clock : NULL);
  Watch w = {observe, user, seconds, false};
  Status s = MPCC_OK;
  if (p->plan)
    mprt__plan_begin(p, f);
  for (uint32_t i = 0, end; i < f->ncommands && s == MPCC_OK && !w.stopped; i = end) {
    const MpccCommand *c = &p->command[f->first_command];
    for (end = i; end < f->ncommands && c[end].op != MPCC_CMD_REPEAT; end++)
      ;
    s = run_commands(p, f, i, end, &w);
    if (s == MPCC_OK && !w.stopped && end < f->ncommands) {
      s = run_loop(p, f, end, &w);
      end += 1 + c[end].kernel;
    }
  }
  return s;
}

bool mprt_has_function(const mprt_program *p, const char *function) {
  return mprt__function(p, function) != NULL;
}

mpcc_status mprt_run(mprt_program *p, const char *function) {
  const MpccFunction *f = mprt__function(p, function);
  if (!f)
    return mprt__fail(&p->cb, MPCC_ERR_USAGE, "this program has no function '%s'", function);
  return mprt__run(p, f, NULL, NULL);
}

mpcc_status mprt_run_kernel(mprt_program *p, const char *symbol, const MpccArg *args,
                            const uint64_t *bytes, int n, int nout) {
  if (p->cuda && !*symbol)
    return mprt__cuda_run_kernel(p, p->cuda, p->nkernel, args, bytes, n, nout);
  for (uint32_t i = 0; i < p->nkernel; i++)
    if (!strcmp(mprt__string(p, p->kernel[i].symbol), symbol)) {
      if (p->cuda)
        return mprt__cuda_run_kernel(p, p->cuda, i, args, bytes, n, nout);
      mprt__pool_run(p->pool, p->fn[i], args, (int64_t)p->kernel[i].ntiles);
      return MPCC_OK;
    }
  return mprt__fail(&p->cb, MPCC_ERR_INPUT, "this program has no kernel '%s'", symbol);
}
