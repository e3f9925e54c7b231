/* libcuda.so.1: queues of work, events, and when the work is done. */
#include "driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool eager(void) {
  const char *v = getenv("EMU_STREAMS");
  return v && strcmp(v, "eager") == 0;
}

CUstream stream_of(CUstream s) {
  return (uintptr_t)s <= 2 ? &emu_context.legacy : s;
}

bool stream_known(CUstream s) {
  s = stream_of(s);
  for (CUstream k = emu_context.streams; k; k = k->next)
    if (k == s)
      return true;
  return false;
}

static bool blocking(CUstream s) {
  return !(s->flags & CU_STREAM_NON_BLOCKING);
}

/* ---- doing work ---- */

bool event_known(CUevent e) {
  CUevent k = emu_context.events;
  while (k && k != e)
    k = k->next;
  return e && k && !e->destroyed;
}

void event_release(CUevent e) {
  if (e && --e->users == 0) {
    CUevent *p = &emu_context.events;
    while (*p != e)
      p = &(*p)->next;
    *p = e->next;
    free(e->tips);
    free(e);
  }
}

void work_free(Work *w) {
  free(w->args);
  free(w->needs);
  event_release(w->event);
  if (w->exec)
    exec_release(w->exec);
  memset(w, 0, sizeof *w);
}

static void do_launch(const Work *w) {
  struct CUctx_st *c = &emu_context;
  const CUresult injected = fault_of_launch(++c->late_launches);
  if (injected) {
    driver_fail(injected);
    return;
  }
  const uint64_t seed = c->seed ? emu_random(&c->seed) | 1 : 0;
  LaunchConfig config = {.dynamic_shared = w->dynamic_shared, .params = w->args, .seed = seed};
  memcpy(config.grid, w->grid, sizeof config.grid);
  memcpy(config.block, w->block, sizeof config.block);
  Report report;
  LaunchCounts counts;
  const bool ok = launch_run(w->kernel, &c->memory, &config, &report, &counts);
  c->launches++;
  c->thread_insns += counts.thread_insns;
  c->time_us += 2.0 + (double)counts.thread_insns * 1e-6;
  if (!ok) {
    report_print(&report);
    driver_fail(found_cuda_error(report.kind));
  }
}

void work_do(Work *w) {
  struct CUctx_st *c = &emu_context;
  if (w->kind == WORK_RECORD) { /* also when the context has failed: nobody may wait forever */
    w->event->done = w->recording;
    w->event->time_us = c->time_us;
  }
  if (c->sticky)
    return;
  switch (w->kind) {
  case WORK_LAUNCH:
    do_launch(w);
    break;
  case WORK_COPY:
    memory_copy_any(w->to, w->from, w->bytes);
    c->time_us += 1.0 + (double)w->bytes * 1e-5;
    break;
  case WORK_SET:
    memory_set(w->to, w->value, w->element, w->bytes);
    c->time_us += 1.0;
    break;
  case WORK_LIBRARY: {
    const CUresult r = w->library(w->args);
    c->time_us += w->time_us;
    if (r)
      driver_fail(r);
    break;
  }
  case WORK_GRAPH:
    graph_run(w->exec);
    break;
  case WORK_RECORD:
  case WORK_WAIT:
  case WORK_NOTHING:
    break;
  }
}

/* Does the first work of a queue; false: it waits, or there is none. */
static bool step(CUstream s) {
  if (!s->n)
    return false;
  Work *w = &s->queue[s->first];
  if (w->kind == WORK_WAIT && w->event->done < w->recording)
    return false;
  Work now = *w;
  s->first++;
  if (--s->n == 0)
    s->first = 0;
  work_do(&now);
  work_free(&now);
  return true;
}

/* One step of any stream: with a seed, of a random one. */
static bool step_any(void) {
  uint32_t n = 0;
  for (CUstream s = emu_context.streams; s; s = s->next)
    n++;
  const uint32_t skip = emu_context.seed && n ? (uint32_t)(emu_random(&emu_context.seed) % n) : 0;
  CUstream s = emu_context.streams;
  for (uint32_t i = 0; i < skip; i++)
    s = s->next;
  for (uint32_t i = 0; i < n; i++) {
    if (step(s))
      return true;
    s = s->next ? s->next : emu_context.streams;
  }
  return false;
}

void stream_finish(CUstream s) {
  while (s->n)
    if ((emu_context.seed || !step(s)) && !step_any()) {
      driver_fail(CUDA_ERROR_UNKNOWN); /* a wait for nothing: cannot be, records come first */
      return;
    }
}

void stream_finish_all(void) {
  for (CUstream s = emu_context.streams; s; s = s->next)
    stream_finish(s);
}

void stream_finish_blocking(void) {
  for (CUstream s = emu_context.streams; s; s = s->next)
    if (blocking(s))
      stream_finish(s);
}

/* ---- putting work ---- */

static void enqueue(CUstream s, const Work *w) {
  if (s->first + s->n == s->cap) {
    if (s->n)
      memmove(s->queue, s->queue + s->first, s->n * sizeof *s->queue);
    s->first = 0;
    if (s->n == s->cap) {
      s->cap = s->cap ? 2 * s->cap : 64;
      s->queue = emu_grow(s->queue, s->cap * sizeof *s->queue);
    }
  }
  s->queue[s->first + s->n++] = *w;
}

CUresult stream_put(CUstream s, Work *w) {
  if (s->capture) {
    const CUresult r = capture_put(s, w);
    if (r)
      work_free(w);
    return r;
  }
  CUresult r = CUDA_SUCCESS;
  if (s == &emu_context.legacy) {
    if (capture_forbids(&r)) {
      work_free(w);
      return r;
    }
    stream_finish_blocking(); /* it waits for the blocking streams, and they for it */
  } else if (blocking(s)) {
    stream_finish(&emu_context.legacy);
  }
  enqueue(s, w);
  if (eager())
    stream_finish(s);
  else if (emu_context.seed)
    for (uint64_t n = emu_random(&emu_context.seed) % 3; n && step_any(); n--)
      continue;
  return emu_context.sticky;
}

/* ---- streams ---- */

CUresult cuStreamCreate(CUstream *stream, unsigned flags) {
  ENTER(NEEDS_CONTEXT);
  if (!stream || flags > CU_STREAM_NON_BLOCKING)
    return driver_leave(CUDA_ERROR_INVALID_VALUE);
  CUstream s = emu_alloc(sizeof *s);
  s->flags = flags;
  s->next = emu_context.legacy.next;
  emu_context.legacy.next = s;
  *stream = s;
  return driver_leave(CUDA_SUCCESS);
}

static void free_stream(CUstream s) {
  while (s->n) {
    work_free(&s->queue[s->first++]);
    s->n--;
  }
  free(s->queue);
  free(s->tips);
}

CUresult cuStreamDestroy_v2(CUstream stream) {
  ENTER(NEEDS_CONTEXT);
  CUstream *p = &emu_context.streams;
  while (*p && (*p != stream || stream == &emu_context.legacy))
    p = &(*p)->next;
  if (!*p)
    return driver_leave(CUDA_ERROR_INVALID_HANDLE);
  if (stream->capture)
    capture_invalidate(stream->capture);
  stream_finish(stream);
  *p = stream->next;
  free_stream(stream);
  free(stream);
  return driver_leave(CUDA_SUCCESS);
}

void stream_free_all(void) {
  CUstream s = emu_context.streams;
  while (s) {
    CUstream next = s->next;
    free_stream(s);
    if (s != &emu_context.legacy)
      free(s);
    s = next;
  }
  emu_context.streams = NULL;
  while (emu_context.events) {
    emu_context.events->users = 1;
    event_release(emu_context.events);
  }
}

CUresult cuStreamSynchronize(CUstream stream) {
  ENTER(NEEDS_CONTEXT);
  if (!stream_known(stream))
    return driver_leave(CUDA_ERROR_INVALID_HANDLE);
  CUstream s = stream_of(stream);
  if (s->capture) {
    capture_invalidate(s->capture);
    return driver_leave(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  }
  if (s == &emu_context.legacy)
    stream_finish_blocking();
  stream_finish(s);
  return driver_leave(emu_context.sticky);
}

/* A question helps the work along, so that a loop of questions ends. */
CUresult cuStreamQuery(CUstream stream) {
  ENTER(NEEDS_CONTEXT);
  if (!stream_known(stream))
    return driver_leave(CUDA_ERROR_INVALID_HANDLE);
  CUstream s = stream_of(stream);
  if (s->capture) {
    capture_invalidate(s->capture);
    return driver_leave(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  }
  if (!s->n)
    return driver_leave(emu_context.sticky);
  step_any();
  return driver_leave(emu_context.sticky ? emu_context.sticky : CUDA_ERROR_NOT_READY);
}

CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned flags) {
  ENTER(NEEDS_CONTEXT);
  if (!stream_known(stream) || !event_known(event))
    return driver_leave(CUDA_ERROR_INVALID_HANDLE);
  if (flags)
    return driver_leave(CUDA_ERROR_INVALID_VALUE);
  CUstream s = stream_of(stream);
  if (event->capture || s->capture)
    return driver_leave(capture_wait(s, event));
  if (event->done == event->recorded)
    return driver_leave(CUDA_SUCCESS);
  event->users++;
  Work w = {.kind = WORK_WAIT, .event = event, .recording = event->recorded};
  return driver_leave(stream_put(s, &w));
}

/* ---- events ---- */

CUresult cuEventCreate(CUevent *event, unsigned flags) {
  ENTER(NEEDS_CONTEXT);
  if (!event || flags > 3)
    return driver_leave(CUDA_ERROR_INVALID_VALUE);
  *event = emu_alloc(sizeof **event);
  (*event)->flags = flags;
  (*event)->users = 1;
  (*event)->next = emu_context.events;
  emu_context.events = *event;
  return driver_leave(CUDA_SUCCESS);
}

CUresult cuEventDestroy_v2(CUevent event) {
  ENTER(NEEDS_CONTEXT);
  if (!event_known(event))
    return driver_leave(CUDA_ERROR_INVALID_HANDLE);
  event->destroyed = true;
  event_release(event);
  return driver_leave(CUDA_SUCCESS);
}

CUresult cuEventRecord(CUevent event, CUstream stream) {
  ENTER(NEEDS_CONTEXT);
  if (!event_known(event) || !stream_known(stream))
    return driver_leave(CUDA_ERROR_INVALID_HANDLE);
  CUstream s = stream_of(stream);
  if (s->capture)
    return driver_leave(capture_record(s, event));
  event->capture = NULL;
  event->users++;
  Work w = {.kind = WORK_RECORD, .event = event, .recording = ++event->recorded};
  return driver_leave(stream_put(s, &w));
}

static CUresult wait_for(CUevent e) {
  if (e->capture) {
    capture_invalidate(e->capture);
    return CUDA_ERROR_CAPTURED_EVENT;
  }
  while (e->done < e->recorded)
    if (!step_any())
      return CUDA_ERROR_UNKNOWN;
  return emu_context.sticky;
}

CUresult cuEventSynchronize(CUevent event) {
  ENTER(NEEDS_CONTEXT);
  return driver_leave(event_known(event) ? wait_for(event) : CUDA_ERROR_INVALID_HANDLE);
}

CUresult cuEventQuery(CUevent event) {
  ENTER(NEEDS_CONTEXT);
  if (!event_known(event))
    return driver_leave(CUDA_ERROR_INVALID_HANDLE);
  if (event->capture)
    return driver_leave(wait_for(event));
  if (event->done == event->recorded)
    return driver_leave(CUDA_SUCCESS);
  step_any();
  return driver_leave(emu_context.sticky ? emu_context.sticky : CUDA_ERROR_NOT_READY);
}

/* Virtual time, the same in every run: 1 us for 10^6 instructions of a thread, 10^5 bytes copied.
 */
CUresult cuEventElapsedTime_v2(float *milliseconds, CUevent start, CUevent end) {
  ENTER(NEEDS_CONTEXT);
  if (!event_known(start) || !event_known(end) || !milliseconds || !start->recorded ||
      !end->recorded || ((start->flags | end->flags) & CU_EVENT_DISABLE_TIMING))
    return driver_leave(CUDA_ERROR_INVALID_HANDLE);
  if (start->done < start->recorded || end->done < end->recorded)
    return driver_leave(CUDA_ERROR_NOT_READY);
  *milliseconds = (float)((end->time_us - start->time_us) * 1e-3);
  return driver_leave(CUDA_SUCCESS);
}
