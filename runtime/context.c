/* Handle of a program: options, opening and closing, words to the host. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/cuda/device.h"
#include "runtime/fit.h"

/* ---- words ---- */

static void vlog(const mprt_callbacks *cb, mprt_log_level level, const char *fmt, va_list ap) {
  char text[2048]; /* longer words are cut: logging must work when memory is short */
  if (!cb || !cb->log)
    return;
  vsnprintf(text, sizeof text, fmt, ap);
  cb->log(cb->user, level, text);
}

void mprt__log(const mprt_callbacks *cb, mprt_log_level level, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  vlog(cb, level, fmt, ap);
  va_end(ap);
}

Status mprt__fail(const mprt_callbacks *cb, Status s, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  vlog(cb, MPRT_LOG_ERROR, fmt, ap);
  va_end(ap);
  return s;
}

Status mprt__nomem(const mprt_callbacks *cb, const char *what) {
  return mprt__fail(cb, MPCC_ERR_NOMEM, "out of memory: %s", what);
}

/* ---- options ---- */

void mprt_options_default(mprt_options *o) {
  memset(o, 0, sizeof *o);
  o->max_steps = o->max_epochs = o->seed = o->log_every = -1;
}

static void list_free(const char *const *list, int n) {
  for (int i = 0; list && i < n; i++)
    free((char *)list[i]);
  free((char **)list);
}

static void options_free(mprt_options *o) {
  free((char *)o->data_dir);
  free((char *)o->out_dir);
  free((char *)o->resume);
  free((char *)o->weights);
  free((char *)o->level);
  free((char *)o->device);
  free((char *)o->instrument);
  list_free(o->data, o->ndata);
  list_free(o->reset, o->nreset);
}

/* Replaces *s by a copy; false when memory is short, *s is NULL then. */
static bool own(const char **s) {
  bool given = *s != NULL;
  if (given)
    *s = strdup(*s);
  return !given || *s;
}

static bool own_list(const char *const **to, const char *const *from, int n) {
  *to = NULL;
  if (n <= 0 || !from)
    return true;
  const char **list = calloc((size_t)n, sizeof *list);
  bool ok = list != NULL;
  *to = list;
  for (int i = 0; ok && i < n; i++) {
    list[i] = from[i];
    ok = own(&list[i]);
  }
  return ok;
}

static bool options_copy(const mprt_options *from, mprt_options *to) {
  *to = *from;
  bool ok = own(&to->data_dir);
  ok &= own(&to->out_dir);
  ok &= own(&to->resume);
  ok &= own(&to->weights);
  ok &= own(&to->level);
  ok &= own(&to->device);
  ok &= own(&to->instrument);
  ok &= own_list(&to->data, from->data, from->ndata);
  ok &= own_list(&to->reset, from->reset, from->nreset);
  return ok;
}

/* ---- open and close ---- */

static const char *const segment_names[MPCC_SEG_COUNT] = {"state", "derived", "accum", "work",
                                                          "io"};

/* Scratch of one worker: the largest any kernel asks for. */
static uint64_t scratch_bytes(const mprt_program *p) {
  uint64_t most = 0;
  for (uint32_t i = 0; i < p->nkernel && !p->cuda; i++)
    if (p->kernel[i].scratch_bytes > most)
      most = p->kernel[i].scratch_bytes;
  return most;
}

/* Refuses what cannot fit before it is mapped: the system would agree now and kill later. */
static Status check_memory(const mprt_program *p, int threads) {
  uint64_t total, limit = mprt_memory_limit();
  if (__builtin_mul_overflow(mprt__scratch_stride(scratch_bytes(p)), (uint64_t)threads, &total))
    total = UINT64_MAX;
  for (int i = 0; i < MPCC_SEG_COUNT; i++)
    if (__builtin_add_overflow(total, p->head->segment_bytes[i], &total))
      total = UINT64_MAX;
  if (total <= limit)
    return MPCC_OK;
  return mprt__fail(&p->cb, MPCC_ERR_NOMEM,
                    "this program needs %.1f MiB, this machine gives at most %.1f MiB",
                    (double)total / 0x1p20, (double)limit / 0x1p20);
}

static Status open_segments(mprt_program *p) {
  for (int i = 0; i < MPCC_SEG_COUNT; i++) {
    Status s = mprt__memory_create((size_t)p->head->segment_bytes[i], p->options.plan_mode,
                                   &p->segment[i]);
    if (s != MPCC_OK)
      return mprt__fail(&p->cb, s, "out of memory: segment %s, %llu bytes", segment_names[i],
                        (unsigned long long)p->head->segment_bytes[i]);
  }
  p->arg = calloc((size_t)p->nargref + 1, sizeof *p->arg);
  if (!p->arg)
    return mprt__nomem(&p->cb, "arguments");
  for (uint32_t i = 0; i < p->nargref; i++) {
    const MpccArgRef *a = &p->argref[i];
    if (a->segment == MPCC_ARG_INT)
      p->arg[i].i = a->offset;
    else if (p->segment[a->segment].data)
      p->arg[i].p = p->segment[a->segment].data + a->offset;
  }
  return MPCC_OK;
}

static Status open_pool(mprt_program *p, int threads) {
  uint64_t scratch = scratch_bytes(p);
  Status s = mprt__pool_create(threads, (size_t)scratch, &p->pool);
  if (s != MPCC_OK)
    return mprt__fail(&p->cb, s, "out of memory: %d threads with %llu bytes of scratch each",
                      threads, (unsigned long long)scratch);
  return MPCC_OK;
}

/* The first of the images whose code runs here; they follow one another at multiples of 64 bytes.
 * When none does, what the last one for the device lacks is told, else what the last one lacks. */
static Status open_image(mprt_program *p, const uint8_t *image, size_t bytes) {
  const uint8_t *blamed = image;
  size_t blamed_bytes = bytes;
  for (bool more = true; more;) {
    Status s = mprt__load(p, image, bytes);
    if (s == MPCC_OK)
      s = mprt__load_code(p, p->options.level, true);
    if (s == MPCC_OK && !p->cuda && p->gpu_lacks[0])
      mprt__log(&p->cb, MPRT_LOG_WARNING, "the GPU is not used: %s", p->gpu_lacks);
    if (s != MPCC_ERR_TARGET)
      return s;
    size_t next = (p->image_bytes + MPCC_ALIGN - 1) & ~(size_t)(MPCC_ALIGN - 1);
    more = next < bytes && bytes - next >= sizeof(MpccImage);
    if (mprt__for_device(p)) {
      blamed = image;
      blamed_bytes = bytes;
    }
    mprt__unload(p);
    image += more ? next : 0;
    bytes -= more ? next : 0;
  }
  Status s = mprt__load(p, blamed, blamed_bytes);
  return s == MPCC_OK ? mprt__load_code(p, p->options.level, false) : s;
}

static Status open_all(mprt_program *p, const void *image, size_t bytes) {
  int threads = p->options.threads > 0 ? p->options.threads : mprt__cpu_count();
  Status s = open_image(p, image, bytes);
  if (s == MPCC_OK && !p->cuda)
    s = check_memory(p, threads);
  if (s == MPCC_OK)
    s = open_segments(p);
  if (s == MPCC_OK)
    s = open_pool(p, p->cuda ? 1 : threads);
  if (s == MPCC_OK && p->cuda)
    s = mprt__cuda_load(p, p->cuda);
  if (s == MPCC_OK && p->options.plan_mode && !p->cuda)
    s = mprt__plan_create(p);
  if (s != MPCC_OK)
    return s;
  p->seed = p->options.seed >= 0 ? p->options.seed : mprt__json_int(p->spec, "seed", 0);
  p->cursor.best_value = __builtin_nan("");
  return MPCC_OK;
}

mpcc_status mprt_open(const void *image, size_t bytes, const mprt_options *o,
                      const mprt_callbacks *cb, mprt_program **out) {
  mprt_options plain;
  *out = NULL;
  mprt_program *p = calloc(1, sizeof *p);
  if (!p)
    return mprt__nomem(cb, "program");
  if (cb)
    p->cb = *cb;
  if (!o) {
    mprt_options_default(&plain);
    o = &plain;
  }
  Status s = options_copy(o, &p->options) ? MPCC_OK : mprt__nomem(cb, "options");
  if (s == MPCC_OK)
    s = open_all(p, image, bytes);
  if (s != MPCC_OK) {
    mprt_close(p);
    return s;
  }
  *out = p;
  return MPCC_OK;
}

void mprt_close(mprt_program *p) {
  if (!p)
    return;
  mprt__feed_close(p);
  mprt__pool_destroy(p->pool);
  mprt__plan_destroy(p);
  for (int i = 0; i < MPCC_SEG_COUNT; i++)
    mprt__memory_destroy(&p->segment[i]);
  free(p->arg);
  free(p->run_dir);
  json_decref(p->fit_state);
  free(p->kept.item);
  mprt__metrics_close(p);
  free(p->ema_saved);
  mprt__unload(p);
  options_free(&p->options);
  free(p);
}

const char *mprt_meta(const mprt_program *p) {
  return mprt__string(p, p->head->meta);
}

int64_t mprt_segment_bytes(const mprt_program *p, int segment) {
  if (segment < 0 || segment >= MPCC_SEG_COUNT)
    return 0;
  return (int64_t)p->segment[segment].bytes;
}
