/* The host's mirror of the segments: address space alone until it is touched. Single tensors go to
 * and fro when the host asks. What the host writes goes through pinned memory, so that nobody waits
 * for it: a batch into one of two places for inputs on a stream of its own, while the step before
 * still reads the other; small tensors in front of the commands that read them. */
#include <stdlib.h>
#include <string.h>

#include "runtime/cuda/gpu.h"

enum { SMALL = 64 << 10 }; /* bytes of pinned memory for what is no input, per slot */

/* Written by the host alone: the mirror is always right. */
static bool is_host_owned(const MpccTensor *t) {
  return t->role == ROLE_INPUT || t->role == ROLE_VALID || t->role == ROLE_SEED ||
         t->role == ROLE_TABLE;
}

static bool is_input(const MpccTensor *t) {
  return t->role == ROLE_INPUT || t->role == ROLE_VALID;
}

static CUdeviceptr place_of(const mprt_program *p, const mprt__cuda *g, uint32_t tensor) {
  return g->segment[p->tensor[tensor].segment] + p->tensor[tensor].offset;
}

static uint8_t *mirror_of(const mprt_program *p, uint32_t tensor) {
  return p->segment[p->tensor[tensor].segment].data + p->tensor[tensor].offset;
}

uint64_t mprt__cuda_address(const mprt_program *p, const mprt__cuda *g, const MpccArgRef *a,
                            uint64_t t) {
  if (a->segment == MPCC_ARG_INT)
    return (uint64_t)a->offset;
  const uint64_t offset = (uint64_t)(a->offset + mpcc_arg_step(a, t));
  if (a->tensor_plus_1 && is_input(&p->tensor[a->tensor_plus_1 - 1]))
    return g->slot[g->current].inputs + (offset - g->window);
  return g->segment[a->segment] + offset;
}

/* ---- opening --------------------------------------------------------------------------------- */

static void find_window(const mprt_program *p, mprt__cuda *g) {
  uint64_t begin = UINT64_MAX, end = 0;
  for (uint32_t i = 0; i < p->ntensor; i++) {
    const MpccTensor *t = &p->tensor[i];
    if (!is_input(t))
      continue;
    begin = t->offset < begin ? t->offset : begin;
    end = t->offset + t->bytes > end ? t->offset + t->bytes : end;
  }
  g->window = end ? begin : 0;
  g->window_bytes = end ? end - begin : 0;
}

static Status open_slot(const mprt_program *p, mprt__cuda *g, int i) {
  InputSlot *s = &g->slot[i];
  void *pinned = NULL;
  s->inputs = g->segment[MPCC_SEG_IO] + g->window;
  if (i > 0 && g->window_bytes) {
    s->inputs = 0;
    CUDA_TRY(g->api.cuMemAlloc_v2(&s->inputs, g->window_bytes), "out of device memory");
    CUDA_TRY(g->api.cuMemsetD8Async(s->inputs, 0, g->window_bytes, g->stream),
             "cannot clear device memory");
  }
  CUDA_TRY(g->api.cuMemAllocHost_v2(&pinned, g->window_bytes + SMALL), "out of pinned memory");
  s->pinned = pinned;
  CUDA_TRY(g->api.cuEventCreate(&s->arrived, CU_EVENT_DISABLE_TIMING), "cannot make an event");
  CUDA_TRY(g->api.cuEventCreate(&s->done, CU_EVENT_DISABLE_TIMING), "cannot make an event");
  return MPCC_OK;
}

Status mprt__cuda_open_mirror(const mprt_program *p, mprt__cuda *g) {
  g->dirty = calloc((size_t)p->ntensor + 1, sizeof *g->dirty);
  g->fresh = calloc((size_t)p->ntensor + 1, sizeof *g->fresh);
  if (!g->dirty || !g->fresh)
    return mprt__nomem(&p->cb, "tensors");
  find_window(p, g);
  Status s = MPCC_OK;
  for (int i = 0; s == MPCC_OK && i < INPUT_SLOTS; i++)
    s = open_slot(p, g, i);
  return s;
}

void mprt__cuda_close_mirror(mprt__cuda *g) {
  for (int i = 0; i < INPUT_SLOTS; i++) {
    InputSlot *s = &g->slot[i];
    if (s->arrived)
      g->api.cuEventDestroy_v2(s->arrived);
    if (s->done)
      g->api.cuEventDestroy_v2(s->done);
    if (s->pinned)
      g->api.cuMemFreeHost(s->pinned);
    if (i > 0 && s->inputs)
      g->api.cuMemFree_v2(s->inputs);
  }
  free(g->dirty);
  free(g->fresh);
}

/* ---- to the device --------------------------------------------------------------------------- */

static bool is_dirty(const mprt__cuda *g, uint32_t i) {
  return g->dirty[i].begin < g->dirty[i].end;
}

void mprt__cuda_will_write(const mprt_program *p, mprt__cuda *g, uint32_t tensor, uint64_t offset,
                           uint64_t bytes) {
  (void)p;
  Dirty *d = &g->dirty[tensor];
  const Dirty add = {offset, offset + bytes};
  if (!is_dirty(g, tensor))
    *d = add;
  d->begin = add.begin < d->begin ? add.begin : d->begin;
  d->end = add.end > d->end ? add.end : d->end;
  g->any_dirty = true;
}

/* All inputs into the other slot. */
static Status push_batch(const mprt_program *p, mprt__cuda *g) {
  const int next = (g->current + 1) % INPUT_SLOTS;
  InputSlot *s = &g->slot[next];
  if (s->used) /* two steps back: over, unless the host is that far ahead */
    CUDA_TRY(g->api.cuEventSynchronize(s->done), "the device failed");
  for (uint32_t i = 0; i < p->ntensor; i++)
    if (is_input(&p->tensor[i])) {
      memcpy(s->pinned + (p->tensor[i].offset - g->window), mirror_of(p, i), p->tensor[i].bytes);
      g->dirty[i] = (Dirty){0, 0};
    }
  if (s->used)
    CUDA_TRY(g->api.cuStreamWaitEvent(g->copies, s->done, 0), "cannot wait for the device");
  for (uint32_t i = 0; i < p->ntensor; i++) { /* one by one: others may lie between them */
    const uint64_t at = p->tensor[i].offset - g->window;
    if (is_input(&p->tensor[i]))
      CUDA_TRY(g->api.cuMemcpyHtoDAsync_v2(s->inputs + at, s->pinned + at, p->tensor[i].bytes,
                                           g->copies),
               "cannot copy to the device");
  }
  CUDA_TRY(g->api.cuEventRecord(s->arrived, g->copies), "cannot mark a copy");
  CUDA_TRY(g->api.cuStreamWaitEvent(g->stream, s->arrived, 0), "cannot wait for a copy");
  g->current = next;
  s->small = 0;
  return MPCC_OK;
}

static Status push_tensor(const mprt_program *p, mprt__cuda *g, uint32_t i, const uint8_t *from) {
  const Dirty d = g->dirty[i];
  CUDA_TRY(
      g->api.cuMemcpyHtoDAsync_v2(place_of(p, g, i) + d.begin, from, d.end - d.begin, g->stream),
      "cannot copy to the device");
  g->dirty[i] = (Dirty){0, 0};
  return MPCC_OK;
}

/* The rest: through pinned memory as far as there is room that nothing reads, else in place. */
static Status push_others(const mprt_program *p, mprt__cuda *g) {
  InputSlot *s = &g->slot[g->current];
  bool in_place = false;
  for (uint32_t i = 0; i < p->ntensor; i++) {
    if (!is_dirty(g, i))
      continue;
    const uint64_t bytes = g->dirty[i].end - g->dirty[i].begin;
    const uint8_t *from = mirror_of(p, i) + g->dirty[i].begin;
    if (bytes <= SMALL - s->small) {
      uint8_t *room = s->pinned + g->window_bytes + s->small;
      memcpy(room, from, bytes);
      from = room;
      s->small += bytes;
    } else {
      in_place = true;
    }
    Status st = push_tensor(p, g, i, from);
    if (st != MPCC_OK)
      return st;
  }
  if (in_place)
    CUDA_TRY(g->api.cuStreamSynchronize(g->stream), "the device failed");
  return MPCC_OK;
}

Status mprt__cuda_push(const mprt_program *p, mprt__cuda *g) {
  bool batch = false;
  if (!g->any_dirty)
    return MPCC_OK;
  for (uint32_t i = 0; !batch && i < p->ntensor; i++)
    batch = is_input(&p->tensor[i]) && is_dirty(g, i);
  Status s = batch ? push_batch(p, g) : MPCC_OK;
  if (s == MPCC_OK)
    s = push_others(p, g);
  g->any_dirty = s != MPCC_OK;
  return s;
}

Status mprt__cuda_pushed(const mprt_program *p, mprt__cuda *g) {
  InputSlot *s = &g->slot[g->current];
  memset(g->fresh, 0, p->ntensor * sizeof *g->fresh);
  CUDA_TRY(g->api.cuEventRecord(s->done, g->stream), "cannot mark a step");
  s->used = true;
  return MPCC_OK;
}

/* ---- from the device ------------------------------------------------------------------------- */

static Status fetch(const mprt_program *p, mprt__cuda *g, uint32_t i) {
  CUDA_TRY(g->api.cuMemcpyDtoHAsync_v2(mirror_of(p, i), place_of(p, g, i), p->tensor[i].bytes,
                                       g->stream),
           "cannot copy from the device");
  g->fresh[i] = true;
  return MPCC_OK;
}

/* Numbers that a step reports are asked for one after the other: they come together. */
static bool comes_along(const mprt_program *p, uint32_t i, uint32_t asked) {
  const MpccTensor *t = &p->tensor[i];
  const bool report = t->role == ROLE_METRIC || t->role == ROLE_COUNTER || t->role == ROLE_SCALER;
  return i == asked ||
         (report && t->bytes <= sizeof(double) && p->tensor[asked].bytes <= sizeof(double));
}

Status mprt__cuda_share(const mprt_program *p, mprt__cuda *g, uint32_t tensor, bool write) {
  const MpccTensor *t = &p->tensor[tensor];
  if (!is_host_owned(t) && !is_dirty(g, tensor) && !g->fresh[tensor]) {
    CUDA_TRY(g->api.cuCtxSetCurrent(g->context), "cannot use the device");
    Status s = mprt__cuda_push(p, g); /* what overlaps this tensor may be among it */
    for (uint32_t i = 0; s == MPCC_OK && i < p->ntensor; i++)
      if (comes_along(p, i, tensor) && !g->fresh[i])
        s = fetch(p, g, i);
    if (s != MPCC_OK)
      return s;
    CUDA_TRY(g->api.cuStreamSynchronize(g->stream), "the device failed");
  }
  if (write) {
    memset(g->fresh, 0, p->ntensor * sizeof *g->fresh); /* others may overlap it */
    mprt__cuda_will_write(p, g, tensor, 0, t->bytes);
  }
  return MPCC_OK;
}
