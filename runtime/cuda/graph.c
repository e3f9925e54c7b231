/* Runs the functions of a program. The commands of one are put on the stream one after the other
 * the first time; from the second on they are one graph, captured once per function and slot of
 * inputs, since addresses of inputs differ: a step is one launch. Plan mode and observers have
 * every command put by itself: the same bits. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/cuda/gpu.h"

enum { MOST_ARGS = 160 };

Status mprt__cuda_open_graphs(const mprt_program *p, mprt__cuda *g) {
  g->graph = calloc((size_t)p->nfunction * INPUT_SLOTS + 1, sizeof *g->graph);
  g->warm = calloc((size_t)p->nfunction + 1, sizeof *g->warm);
  return g->graph && g->warm ? MPCC_OK : mprt__nomem(&p->cb, "functions");
}

void mprt__cuda_forget_graphs(const mprt_program *p, mprt__cuda *g) {
  for (uint32_t i = 0; g->graph && i < p->nfunction * INPUT_SLOTS; i++) {
    if (g->graph[i])
      g->api.cuGraphExecDestroy(g->graph[i]);
    g->graph[i] = NULL;
  }
}

void mprt__cuda_close_graphs(const mprt_program *p, mprt__cuda *g) {
  mprt__cuda_forget_graphs(p, g);
  free(g->graph);
  free(g->warm);
}

/* t: iteration of the loop that c is in, else 0. */
static Status run_command(const mprt_program *p, mprt__cuda *g, const MpccCommand *c, uint64_t t) {
  uint64_t value[MOST_ARGS];
  void *arg[MOST_ARGS];
  if (c->nargs > MOST_ARGS)
    return mprt__fail(&p->cb, MPCC_ERR_INTERNAL, "a command has %u arguments", c->nargs);
  for (uint32_t i = 0; i < c->nargs; i++) {
    value[i] = mprt__cuda_address(p, g, &p->argref[c->first_arg + i], t);
    arg[i] = &value[i];
  }
  const char *label = mprt__string(p, c->label);
  if (c->op == MPCC_CMD_PRODUCT) {
    Status s = mprt__cuda_product(p, g, c, t);
    if (s != MPCC_OK)
      return s;
  } else if (c->op == MPCC_CMD_COPY) {
    CUDA_TRY(g->api.cuMemcpyDtoDAsync_v2(value[0], value[1], c->bytes, g->stream), label);
  } else if (c->op == MPCC_CMD_FILL) {
    CUDA_TRY(g->api.cuMemsetD8Async(value[0], 0, c->bytes, g->stream), label);
  } else {
    const MpccKernel *k = &p->kernel[c->kernel];
    CUDA_TRY(g->api.cuLaunchKernel(g->function[c->kernel], (unsigned)k->ntiles, k->columns, 1,
                                   k->threads, 1, 1, (unsigned)k->scratch_bytes, g->stream, arg,
                                   NULL),
             label);
  }
  g->last = label;
  return MPCC_OK;
}

/* Results of a command to the mirror, for those who look at each. */
static Status fetch_results(const mprt_program *p, mprt__cuda *g, const MpccCommand *c,
                            uint64_t t) {
  for (uint32_t i = c->first_out; i < c->first_out + c->nout; i++) {
    const MpccArgRef *a = &p->argref[c->first_arg + i];
    uint8_t *mirror = p->segment[a->segment].data + a->offset + mpcc_arg_step(a, t);
    CUDA_TRY(
        g->api.cuMemcpyDtoHAsync_v2(mirror, mprt__cuda_address(p, g, a, t), a->bytes, g->stream),
        "cannot copy from the device");
  }
  CUDA_TRY(g->api.cuStreamSynchronize(g->stream), "the device failed");
  return MPCC_OK;
}

typedef struct {
  mprt__observer observe; /* NULL: nobody */
  void *user;
  mprt__cuda_clock *clock; /* NULL: none */
  bool stopped;
} Watch;

static Status run_watched(mprt_program *p, mprt__cuda *g, const MpccCommand *c, uint64_t t,
                          Watch *w) {
  Status s = w->clock ? mprt__cuda_clock_begin(p, g, w->clock) : MPCC_OK;
  if (s == MPCC_OK)
    s = run_command(p, g, c, t);
  if (s == MPCC_OK && w->clock)
    s = mprt__cuda_clock_end(p, g, w->clock, c);
  if (s == MPCC_OK && w->observe)
    s = fetch_results(p, g, c, t);
  w->stopped = s == MPCC_OK && w->observe && !w->observe(w->user, p, c);
  return s;
}

/* A loop is its commands one iteration after the other: a graph has them all. */
static Status run_commands(mprt_program *p, mprt__cuda *g, const MpccFunction *f, Watch *w) {
  const MpccCommand *c = &p->command[f->first_command], *end = c + f->ncommands;
  Status s = MPCC_OK;
  for (uint32_t loop; s == MPCC_OK && !w->stopped && c < end; c += 1 + loop) {
    loop = c->op == MPCC_CMD_REPEAT ? c->kernel : 0;
    if (!loop)
      s = c->op == MPCC_CMD_REPEAT ? MPCC_OK : run_watched(p, g, c, 0, w);
    for (uint64_t t = 0; loop && t < c->bytes; t++)
      for (uint32_t i = 1; s == MPCC_OK && !w->stopped && i <= loop; i++)
        s = run_watched(p, g, c + i, t, w);
  }
  return s;
}

/* The commands of f as a graph for the current slot. */
static Status capture(mprt_program *p, mprt__cuda *g, const MpccFunction *f, CUgraphExec *out) {
  CUgraph graph = NULL;
  CUDA_TRY(g->api.cuStreamBeginCapture_v2(g->stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL),
           "cannot capture a graph");
  Watch nobody = {.observe = NULL};
  Status s = run_commands(p, g, f, &nobody);
  const CUresult ended = g->api.cuStreamEndCapture(g->stream, &graph);
  if (s == MPCC_OK && ended != CUDA_SUCCESS)
    s = mprt__cuda_failed(p, g, ended, "cannot capture a graph");
  const CUresult made =
      s == MPCC_OK ? g->api.cuGraphInstantiateWithFlags(out, graph, 0) : CUDA_SUCCESS;
  if (graph)
    g->api.cuGraphDestroy(graph);
  if (made == CUDA_SUCCESS)
    return s;
  *out = NULL;
  return mprt__cuda_failed(p, g, made, "cannot make a graph");
}

static Status replay(mprt_program *p, mprt__cuda *g, const MpccFunction *f) {
  CUgraphExec *exec = &g->graph[(f - p->function) * INPUT_SLOTS + g->current];
  Status s = *exec ? MPCC_OK : capture(p, g, f, exec);
  if (s != MPCC_OK)
    return s;
  const char *name = mprt__string(p, f->name);
  CUDA_TRY(g->api.cuGraphLaunch(*exec, g->stream), name);
  g->last = name;
  return MPCC_OK;
}

static Status run_clocked(mprt_program *p, mprt__cuda *g, const MpccFunction *f, Watch *w,
                          const mprt__clock *clock) {
  Status s = mprt__cuda_clock_open(p, g, clock, &w->clock);
  if (s == MPCC_OK)
    s = run_commands(p, g, f, w);
  if (s == MPCC_OK)
    s = mprt__cuda_clock_read(p, g, w->clock);
  mprt__cuda_clock_close(g, w->clock);
  return s;
}

Status mprt__cuda_run(mprt_program *p, mprt__cuda *g, const MpccFunction *f, mprt__observer observe,
                      void *user, const mprt__clock *clock) {
  const bool own = f >= p->function && f < p->function + p->nfunction && f->ncommands > 0;
  if (g->failure != MPCC_OK)
    return g->failure;
  CUDA_TRY(g->api.cuCtxSetCurrent(g->context), "cannot use the device");
  Status s = mprt__cuda_push(p, g);
  if (s != MPCC_OK)
    return s;
  Watch w = {.observe = observe, .user = user};
  if (clock)
    s = run_clocked(p, g, f, &w, clock);
  else if (own && !observe && !p->options.plan_mode && g->warm[f - p->function])
    s = replay(p, g, f);
  else
    s = run_commands(p, g, f, &w);
  if (own)
    g->warm[f - p->function] = true;
  return s == MPCC_OK ? mprt__cuda_pushed(p, g) : s;
}
