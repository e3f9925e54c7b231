/* libcuda.so.1: capture of streams into graphs, and their replay. A node needs the nodes before it
 * in its stream and those that an event brought along; a replay does the nodes in an order that
 * keeps to that, with a seed in any such order. */
#include "driver.h"

#include <stdlib.h>
#include <string.h>

static void set_tips(uint32_t **to, uint32_t *n_to, const uint32_t *tips, uint32_t n) {
  *to = emu_grow(*to, (n ? n : 1) * sizeof **to);
  if (n)
    memcpy(*to, tips, n * sizeof *tips);
  *n_to = n;
}

void capture_invalidate(Capture *c) {
  c->invalid = true;
}

/* Calls that wait, allocate or use the legacy stream while a capture runs end the capture. */
bool capture_forbids(CUresult *r) {
  bool found = false;
  for (CUstream s = emu_context.streams; s; s = s->next)
    if (s->capture && s->capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED) {
      s->capture->invalid = true;
      found = true;
    }
  if (found)
    *r = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  return found;
}

CUresult capture_put(CUstream s, Work *w) {
  Capture *c = s->capture;
  if (c->invalid)
    return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  if (c->n == c->cap) {
    c->cap = c->cap ? 2 * c->cap : 64;
    c->nodes = emu_grow(c->nodes, c->cap * sizeof *c->nodes);
  }
  set_tips(&w->needs, &w->n_needs, s->tips, s->n_tips);
  c->nodes[c->n] = *w;
  const uint32_t me = c->n++;
  set_tips(&s->tips, &s->n_tips, &me, 1);
  return CUDA_SUCCESS;
}

CUresult capture_record(CUstream s, CUevent e) {
  if (s->capture->invalid)
    return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  e->capture = s->capture;
  set_tips(&e->tips, &e->n_tips, s->tips, s->n_tips);
  return CUDA_SUCCESS;
}

CUresult capture_wait(CUstream s, CUevent e) {
  if (!e->capture) { /* work outside the capture cannot be waited for inside */
    capture_invalidate(s->capture);
    return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
  }
  if (e->capture->invalid)
    return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  if (s == &emu_context.legacy) {
    capture_invalidate(e->capture);
    return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
  }
  if (s->capture && s->capture != e->capture) {
    capture_invalidate(s->capture);
    capture_invalidate(e->capture);
    return CUDA_ERROR_STREAM_CAPTURE_MERGE;
  }
  if (!s->capture) { /* the stream joins, and starts where the event is */
    s->capture = e->capture;
    e->capture->streams++;
    s->n_tips = 0;
  }
  const uint32_t n = s->n_tips;
  s->tips = emu_grow(s->tips, (n + e->n_tips + 1) * sizeof *s->tips);
  for (uint32_t i = 0; i < e->n_tips; i++) {
    bool have = false;
    for (uint32_t k = 0; k < s->n_tips; k++)
      have |= s->tips[k] == e->tips[i];
    if (!have)
      s->tips[s->n_tips++] = e->tips[i];
  }
  return CUDA_SUCCESS;
}

CUresult cuStreamBeginCapture_v2(CUstream stream, int mode) {
  ENTER(NEEDS_CONTEXT);
  if (!stream_known(stream) || mode < 0 || mode > CU_STREAM_CAPTURE_MODE_RELAXED)
    return driver_leave(CUDA_ERROR_INVALID_VALUE);
  CUstream s = stream_of(stream);
  if (s == &emu_context.legacy)
    return driver_leave(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  if (s->capture)
    return driver_leave(CUDA_ERROR_INVALID_VALUE);
  s->capture = emu_alloc(sizeof *s->capture);
  s->capture->origin = s;
  s->capture->mode = mode;
  s->capture->streams = 1;
  s->n_tips = 0;
  return driver_leave(CUDA_SUCCESS);
}

static void free_nodes(Work *nodes, uint32_t n) {
  for (uint32_t i = 0; i < n; i++)
    work_free(&nodes[i]);
  free(nodes);
}

/* Does the origin need every node of the capture, that is: have all streams been joined? */
static bool joined(const Capture *c, CUstream origin) {
  bool *seen = emu_alloc(c->n + 1);
  for (uint32_t i = 0; i < origin->n_tips; i++)
    seen[origin->tips[i]] = true;
  bool all = true;
  for (uint32_t i = c->n; i-- > 0;) {
    all &= seen[i];
    for (uint32_t k = 0; seen[i] && k < c->nodes[i].n_needs; k++)
      seen[c->nodes[i].needs[k]] = true;
  }
  free(seen);
  return all;
}

CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph) {
  ENTER(NEEDS_CONTEXT);
  if (!graph || !stream_known(stream))
    return driver_leave(CUDA_ERROR_INVALID_VALUE);
  *graph = NULL;
  CUstream s = stream_of(stream);
  Capture *c = s->capture;
  if (!c)
    return driver_leave(CUDA_ERROR_INVALID_VALUE);
  if (c->origin != s) {
    capture_invalidate(c);
    return driver_leave(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
  }
  CUresult r = c->invalid      ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
               : !joined(c, s) ? CUDA_ERROR_STREAM_CAPTURE_UNJOINED
                               : CUDA_SUCCESS;
  for (CUstream k = emu_context.streams; k; k = k->next)
    if (k->capture == c) {
      k->capture = NULL;
      k->n_tips = 0;
    }
  for (CUevent e = emu_context.events; e; e = e->next)
    if (e->capture == c)
      e->capture = NULL;
  if (r) {
    free_nodes(c->nodes, c->n);
  } else {
    *graph = emu_alloc(sizeof **graph);
    (*graph)->nodes = c->nodes;
    (*graph)->n = c->n;
    (*graph)->next = emu_context.graphs;
    emu_context.graphs = *graph;
  }
  free(c);
  return driver_leave(r);
}

CUresult cuStreamIsCapturing(CUstream stream, int *status) {
  ENTER(NEEDS_CONTEXT);
  if (!status || !stream_known(stream))
    return driver_leave(CUDA_ERROR_INVALID_VALUE);
  const Capture *c = stream_of(stream)->capture;
  *status = !c           ? CU_STREAM_CAPTURE_STATUS_NONE
            : c->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                         : CU_STREAM_CAPTURE_STATUS_ACTIVE;
  return driver_leave(CUDA_SUCCESS);
}

/* ---- graphs ---- */

/* Where the list of handles has this one; NULL: not a handle, or no more. */
static CUgraph *graph_place(CUgraph graph) {
  CUgraph *p = &emu_context.graphs;
  while (*p && *p != graph)
    p = &(*p)->next;
  return *p ? p : NULL;
}
static CUgraphExec *exec_place(CUgraphExec exec) {
  CUgraphExec *p = &emu_context.execs;
  while (*p && *p != exec)
    p = &(*p)->next;
  return *p ? p : NULL;
}

static Work *copy_nodes(const Work *from, uint32_t n) {
  Work *to = emu_alloc((n + 1) * sizeof *to);
  for (uint32_t i = 0; i < n; i++) {
    to[i] = from[i];
    to[i].needs = NULL;
    set_tips(&to[i].needs, &to[i].n_needs, from[i].needs, from[i].n_needs);
    if (from[i].args) {
      to[i].args = emu_alloc(from[i].n_args);
      memcpy(to[i].args, from[i].args, from[i].n_args);
    }
    if (to[i].event)
      to[i].event->users++;
    if (to[i].exec)
      to[i].exec->users++;
  }
  return to;
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec *exec, CUgraph graph, unsigned long long flags) {
  ENTER(NEEDS_CONTEXT);
  if (!exec || !graph_place(graph) || flags)
    return driver_leave(CUDA_ERROR_INVALID_VALUE);
  CUgraphExec e = emu_alloc(sizeof *e);
  e->nodes = copy_nodes(graph->nodes, graph->n);
  e->n = graph->n;
  e->users = 1;
  e->next = emu_context.execs;
  *exec = emu_context.execs = e;
  return driver_leave(CUDA_SUCCESS);
}

void graph_run(CUgraphExec exec) {
  bool *done = emu_alloc(exec->n + 1);
  for (uint32_t left = exec->n; left; left--) {
    const uint32_t from =
        emu_context.seed ? (uint32_t)(emu_random(&emu_context.seed) % exec->n) : 0;
    for (uint32_t k = 0; k < exec->n; k++) {
      const uint32_t i = (from + k) % exec->n;
      bool ready = !done[i];
      for (uint32_t d = 0; ready && d < exec->nodes[i].n_needs; d++)
        ready = done[exec->nodes[i].needs[d]];
      if (!ready)
        continue;
      done[i] = true;
      work_do(&exec->nodes[i]);
      break;
    }
  }
  free(done);
}

CUresult cuGraphLaunch(CUgraphExec exec, CUstream stream) {
  ENTER(NEEDS_CONTEXT);
  if (!exec_place(exec) || !stream_known(stream))
    return driver_leave(CUDA_ERROR_INVALID_HANDLE);
  exec->users++;
  Work w = {.kind = WORK_GRAPH, .exec = exec};
  return driver_leave(stream_put(stream_of(stream), &w));
}

void exec_release(CUgraphExec exec) {
  if (--exec->users)
    return;
  free_nodes(exec->nodes, exec->n);
  free(exec);
}

CUresult cuGraphExecDestroy(CUgraphExec exec) {
  ENTER(NEEDS_CONTEXT);
  CUgraphExec *p = exec_place(exec);
  if (!p)
    return driver_leave(CUDA_ERROR_INVALID_HANDLE);
  *p = exec->next;
  exec_release(exec);
  return driver_leave(CUDA_SUCCESS);
}

CUresult cuGraphDestroy(CUgraph graph) {
  ENTER(NEEDS_CONTEXT);
  CUgraph *p = graph_place(graph);
  if (!p)
    return driver_leave(CUDA_ERROR_INVALID_HANDLE);
  *p = graph->next;
  free_nodes(graph->nodes, graph->n);
  free(graph);
  return driver_leave(CUDA_SUCCESS);
}

void graph_free_all(void) {
  while (emu_context.execs) {
    CUgraphExec e = emu_context.execs;
    emu_context.execs = e->next;
    exec_release(e);
  }
  while (emu_context.graphs) {
    CUgraph graph = emu_context.graphs;
    emu_context.graphs = graph->next;
    free_nodes(graph->nodes, graph->n);
    free(graph);
  }
}
