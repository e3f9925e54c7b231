/* How long commands take on the device: an event in front of each and one behind it, read when so
 * many are waiting. The stream stays full meanwhile, so that what the host takes to launch a
 * command is in none of them, unless the device waits for it. */
#include <stdlib.h>

#include "runtime/cuda/gpu.h"

enum { WAITING = 512 };

struct mprt__cuda_clock {
  mprt__clock told;
  CUevent origin; /* in front of the first command */
  bool began;
  CUevent event[2 * WAITING];
  const MpccCommand *of[WAITING];
  uint32_t n;
};

Status mprt__cuda_clock_open(const mprt_program *p, mprt__cuda *g, const mprt__clock *told,
                             mprt__cuda_clock **out) {
  mprt__cuda_clock *c = *out = calloc(1, sizeof *c);
  if (!c)
    return mprt__nomem(&p->cb, "clock");
  c->told = *told;
  CUDA_TRY(g->api.cuEventCreate(&c->origin, CU_EVENT_DEFAULT), "cannot make an event");
  for (int i = 0; i < 2 * WAITING; i++)
    CUDA_TRY(g->api.cuEventCreate(&c->event[i], CU_EVENT_DEFAULT), "cannot make an event");
  return MPCC_OK;
}

void mprt__cuda_clock_close(mprt__cuda *g, mprt__cuda_clock *c) {
  for (int i = 0; c && i < 2 * WAITING; i++)
    if (c->event[i])
      g->api.cuEventDestroy_v2(c->event[i]);
  if (c && c->origin)
    g->api.cuEventDestroy_v2(c->origin);
  free(c);
}

Status mprt__cuda_clock_begin(const mprt_program *p, mprt__cuda *g, mprt__cuda_clock *c) {
  Status s = c->n == WAITING ? mprt__cuda_clock_read(p, g, c) : MPCC_OK;
  if (s == MPCC_OK && !c->began)
    CUDA_TRY(g->api.cuEventRecord(c->origin, g->stream), "cannot time a command");
  c->began = true;
  if (s == MPCC_OK)
    CUDA_TRY(g->api.cuEventRecord(c->event[2 * c->n], g->stream), "cannot time a command");
  return s;
}

Status mprt__cuda_clock_end(const mprt_program *p, mprt__cuda *g, mprt__cuda_clock *c,
                            const MpccCommand *of) {
  c->of[c->n] = of;
  CUDA_TRY(g->api.cuEventRecord(c->event[2 * c->n + 1], g->stream), "cannot time a command");
  c->n++;
  return MPCC_OK;
}

Status mprt__cuda_clock_read(const mprt_program *p, mprt__cuda *g, mprt__cuda_clock *c) {
  CUDA_TRY(g->api.cuStreamSynchronize(g->stream), "the device failed");
  for (uint32_t i = 0; i < c->n; i++) {
    float begin = 0, ms = 0;
    CUDA_TRY(g->api.cuEventElapsedTime_v2(&begin, c->origin, c->event[2 * i]),
             "cannot time a command");
    CUDA_TRY(g->api.cuEventElapsedTime_v2(&ms, c->event[2 * i], c->event[2 * i + 1]),
             "cannot time a command");
    c->told.took(c->told.user, p, c->of[i], 1e-3 * (double)begin, 1e-3 * (double)ms);
  }
  c->n = 0;
  return MPCC_OK;
}
