/* profiler: {type: chrome-trace}: the commands of a few steps with their times, as trace.json in
 * the form that Perfetto and chrome://tracing read (Trace Event Format, complete events "X", times
 * in microseconds). wait steps are not looked at, warmup ones measured and thrown away. On a GPU
 * the times are the device's, in a row of their own: these steps run command by command, where
 * others are one graph, and a step begins when the device has nothing left to do. */
#include <stdlib.h>
#include <string.h>

#include "runtime/cuda/device.h"
#include "runtime/fit.h"

typedef struct {
  const char *name, *symbol; /* symbol: NULL for what is no kernel */
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
  return t;
}

void mprt__trace_destroy(mprt__trace *t) {
  if (t)
    free(t->event);
  free(t);
}

static void put(mprt__trace *t, const char *name, const char *symbol, double begin, double end,
                bool device) {
  if (t->n == t->cap && !t->failed) {
    size_t cap = t->cap ? 2 * t->cap : 1024;
    Event *grown = realloc(t->event, cap * sizeof *grown);
    t->failed = !grown;
    t->event = grown ? grown : t->event;
    t->cap = grown ? cap : t->cap;
  }
  if (!t->failed && t->step >= t->warm)
    t->event[t->n++] = (Event){name, symbol, t->step, begin, end, device};
}

static void put_command(mprt__trace *t, const mprt_program *p, const MpccCommand *c, double begin,
                        double end, bool device) {
  const char *symbol = c->op == MPCC_CMD_LAUNCH    ? mprt__string(p, p->kernel[c->kernel].symbol)
                       : c->op == MPCC_CMD_PRODUCT ? "cuBLASLt"
                                                   : NULL;
  put(t, mprt__string(p, c->label), symbol, begin, end, device);
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
  if (looks(t))
    put(t, name, NULL, begin, mprt__seconds(), false);
}

Status mprt__trace_run(mprt__trace *t, mprt_program *p, const MpccFunction *f) {
  if (!looks(t))
    return mprt__run(p, f, NULL, NULL);
  const mprt__clock clock = {note_device, t};
  Status st = p->cuda ? mprt__cuda_wait(p, p->cuda) : MPCC_OK;
  double begin = t->last = mprt__seconds();
  if (st == MPCC_OK)
    st = p->cuda ? mprt__cuda_run(p, p->cuda, f, NULL, NULL, &clock) : mprt__run(p, f, note, t);
  put(t, mprt__string(p, f->name), NULL, begin, mprt__seconds(), false);
  return st;
}

/* A JSON string; NULL when memory is short. */
static char *quoted(const char *s) {
  json_t *v = json_string(s);
  char *text = v ? json_dumps(v, JSON_ENCODE_ANY) : NULL;
  json_decref(v);
  return text;
}

Status mprt__trace_write(mprt__trace *t, const mprt_program *p, const char *dir) {
  if (!t || t->written || t->step + 1 < t->end)
    return MPCC_OK;
  t->written = true;
  char *path = mprt__format("%s/trace.json", dir);
  if (!path || t->failed) {
    free(path);
    return mprt__nomem(&p->cb, "trace");
  }
  mprt__writer w;
  mprt__writer_open(&w, path);
  const char *head = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n";
  mprt__writer_put(&w, head, strlen(head));
  for (size_t i = 0; i < t->n; i++) {
    const Event *e = &t->event[i];
    char *name = quoted(e->name && *e->name ? e->name : "copy or fill");
    char *symbol = quoted(e->symbol ? e->symbol : "");
    char *row =
        name && symbol
            ? mprt__format("%s{\"name\":%s,\"cat\":\"%s\",\"ph\":\"X\",\"ts\":%.3f,\"dur\":%.3f,"
                           "\"pid\":1,\"tid\":%d,\"args\":{\"step\":%lld,\"kernel\":%s}}",
                           i ? ",\n" : "", name, e->symbol ? "kernel" : "step",
                           1e6 * (e->begin - t->zero), 1e6 * (e->end - e->begin), e->device ? 2 : 1,
                           (long long)e->step + 1, symbol)
            : NULL;
    mprt__writer_put(&w, row ? row : "", row ? strlen(row) : 0);
    free(name);
    free(symbol);
    free(row);
  }
  mprt__writer_put(&w, "\n]}\n", 4);
  int error = mprt__writer_close(&w);
  Status st = error ? mprt__fail(&p->cb, MPCC_ERR_FILE, "cannot write %s: %s", path, strerror(error))
                    : MPCC_OK;
  if (!error)
    mprt__log(&p->cb, MPRT_LOG_INFO, "%s has steps %lld to %lld", path, (long long)t->warm + 1,
              (long long)t->end);
  free(path);
  return st;
}
