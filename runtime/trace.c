/* profiler: {type: simple}: profile.txt, kernels by the time they took in a few steps.
 * profiler: {type: chrome-trace}: the commands of these steps with their times, as trace.json in
 * the form that Perfetto and chrome://tracing read (Trace Event Format, complete events "X", times
 * in microseconds). wait steps are not looked at, warmup ones measured and thrown away. On a GPU
 * the times are the device's, in a row of their own: these steps run command by command, where
 * others are one graph, and a step begins when the device has nothing left to do. */
#include <stdlib.h>
#include <string.h>

#include "runtime/cuda/device.h"
#include "runtime/fit.h"

typedef struct {
  const char *name, *symbol, *layer; /* symbol: NULL for what is no kernel */
  int64_t step;
  double begin, end;
  bool device; /* by its clock */
} Event;

struct mprt__trace {
  int64_t first, warm, end; /* steps from `warm` to `end` - 1 are recorded */
  int64_t step;
  double zero, last;
  size_t n, cap;
  Event *event;
  mprt__profile *profile; /* type: simple, which keeps no events; NULL: chrome-trace */
  bool failed, written;
};

mprt__trace *mprt__trace_create(const mprt_program *p, int64_t step) {
  const json_t *o = mprt__json_get(p->spec, "profiler");
  mprt__trace *t = json_is_object(o) ? calloc(1, sizeof *t) : NULL;
  if (!t)
    return NULL;
  t->first = step + mprt__json_int(o, "wait", 0);
  t->warm = t->first + mprt__json_int(o, "warmup", 1);
  t->end = t->warm + mprt__json_int(o, "active", 1);
  t->zero = mprt__seconds();
  if (!strcmp(mprt__json_string(o, "type", ""), "simple"))
    t->failed = !(t->profile = mprt__profile_create(p));
  return t;
}

void mprt__trace_destroy(mprt__trace *t) {
  if (!t)
    return;
  mprt__profile_destroy(t->profile);
  free(t->event);
  free(t);
}

static void put(mprt__trace *t, Event e) {
  if (t->n == t->cap && !t->failed) {
    size_t cap = t->cap ? 2 * t->cap : 1024;
    Event *grown = realloc(t->event, cap * sizeof *grown);
    t->failed = !grown;
    t->event = grown ? grown : t->event;
    t->cap = grown ? cap : t->cap;
  }
  e.step = t->step;
  if (!t->failed && t->step >= t->warm)
    t->event[t->n++] = e;
}

static void put_command(mprt__trace *t, const mprt_program *p, const MpccCommand *c, double begin,
                        double end, bool device) {
  const char *symbol = c->op == MPCC_CMD_LAUNCH    ? mprt__string(p, p->kernel[c->kernel].symbol)
                       : c->op == MPCC_CMD_PRODUCT ? "cuBLASLt"
                                                   : NULL;
  put(t, (Event){.name = mprt__string(p, c->label),
                 .symbol = symbol,
                 .layer = mprt__string(p, c->layer),
                 .begin = begin,
                 .end = end,
                 .device = device});
}

static void note_device(void *user, const mprt_program *p, const MpccCommand *c, double begin,
                        double seconds) {
  mprt__trace *t = user;
  put_command(t, p, c, t->last + begin, t->last + begin + seconds, true);
}

static bool note(void *user, mprt_program *p, const MpccCommand *c) {
  mprt__trace *t = user;
  put_command(t, p, c, t->last, mprt__seconds(), false);
  t->last = mprt__seconds();
  return true;
}

static bool looks(const mprt__trace *t) {
  return t && t->step >= t->first && t->step < t->end;
}

void mprt__trace_step(mprt__trace *t, int64_t step) {
  if (t)
    t->step = step;
}

void mprt__trace_span(mprt__trace *t, const char *name, double begin) {
  if (looks(t) && !t->profile)
    put(t, (Event){.name = name, .begin = begin, .end = mprt__seconds()});
}

Status mprt__trace_run(mprt__trace *t, mprt_program *p, const MpccFunction *f) {
  if (!looks(t))
    return mprt__run(p, f, NULL, NULL);
  if (t->profile)
    return mprt__run_timed(p, f, NULL, NULL,
                           t->step < t->warm ? NULL : mprt__profile_seconds(t->profile));
  const mprt__clock clock = {note_device, t};
  Status st = p->cuda ? mprt__cuda_wait(p, p->cuda) : MPCC_OK;
  double begin = t->last = mprt__seconds();
  if (st == MPCC_OK)
    st = p->cuda ? mprt__cuda_run(p, p->cuda, f, NULL, NULL, &clock) : mprt__run(p, f, note, t);
  put(t, (Event){.name = mprt__string(p, f->name), .begin = begin, .end = mprt__seconds()});
  return st;
}

/* NULL when memory is short. */
static char *row_of(const mprt__trace *t, const Event *e) {
  json_t *o = json_pack("{s:s, s:s, s:s, s:f, s:f, s:i, s:i, s:{s:I, s:s, s:s}}", "name",
                        e->name && *e->name ? e->name : "copy or fill", "cat",
                        e->symbol ? "kernel" : "step", "ph", "X", "ts", 1e6 * (e->begin - t->zero),
                        "dur", 1e6 * (e->end - e->begin), "pid", 1, "tid", e->device ? 2 : 1, "args",
                        "step", (json_int_t)e->step + 1, "kernel", e->symbol ? e->symbol : "",
                        "layer", e->layer ? e->layer : "");
  char *row = o ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(12)) : NULL;
  json_decref(o);
  return row;
}

static Status write_events(const mprt__trace *t, const mprt_program *p, const char *dir) {
  char *path = mprt__format("%s/trace.json", dir);
  if (!path)
    return mprt__nomem(&p->cb, "trace");
  mprt__writer w;
  mprt__writer_open(&w, path);
  const char *head = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n";
  mprt__writer_put(&w, head, strlen(head));
  bool whole = true;
  for (size_t i = 0; i < t->n && whole; i++) {
    char *row = row_of(t, &t->event[i]);
    whole = row;
    mprt__writer_put(&w, ",\n", i ? 2 : 0);
    mprt__writer_put(&w, row ? row : "", row ? strlen(row) : 0);
    free(row);
  }
  mprt__writer_put(&w, "\n]}\n", 4);
  int error = mprt__writer_close(&w);
  Status st = error ? mprt__fail(&p->cb, MPCC_ERR_FILE, "cannot write %s: %s", path, strerror(error))
            : whole ? MPCC_OK
                    : mprt__nomem(&p->cb, "trace");
  if (st == MPCC_OK)
    mprt__log(&p->cb, MPRT_LOG_INFO, "%s has steps %lld to %lld", path, (long long)t->warm + 1,
              (long long)t->end);
  free(path);
  return st;
}

Status mprt__trace_write(mprt__trace *t, const mprt_program *p, const char *dir) {
  if (!t || t->written || t->step + 1 < t->end)
    return MPCC_OK;
  t->written = true;
  if (t->failed)
    return mprt__nomem(&p->cb, "profiler");
  return t->profile ? mprt__profile_write(t->profile, p, t->end - t->warm, dir)
                    : write_events(t, p, dir);
}
