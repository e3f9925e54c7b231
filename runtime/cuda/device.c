/* A GPU as the device of a program: its segments in device memory, kernels from PTX, commands in
 * order on one stream. The host keeps a mirror of every segment, which costs address space until it
 * is touched; single tensors go to and fro when the host asks for them (mprt__tensor_data). */
#include "runtime/cuda/gpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- errors ---------------------------------------------------------------------------------- */

Status mprt__cuda_failed(const mprt_program *p, mprt__cuda *g, CUresult r, const char *doing) {
  char why[MPRT__CUDA_WHY];
  if (g->failure != MPCC_OK)
    return g->failure;
  g->failure = r == CUDA_ERROR_OUT_OF_MEMORY ? MPCC_ERR_NOMEM : MPCC_ERR_RUN;
  mprt__cuda_error(&g->api, r, doing, why);
  return mprt__fail(&p->cb, g->failure, g->last ? "%s (noticed after '%s')" : "%s%s", why,
                    g->last ? g->last : "");
}

/* ---- is there one? --------------------------------------------------------------------------- */

/* Ordinal behind "cuda" or "cuda:"; -1: no number. */
static int ordinal_of(const char *device) {
  const char *colon = strchr(device, ':');
  char *end;
  if (!colon)
    return 0;
  const long n = strtol(colon + 1, &end, 10);
  return *end || end == colon + 1 || n < 0 || n > 1023 ? -1 : (int)n;
}

static int attribute(const mprt__cuda *g, int which) {
  int v = 0;
  return g->api.cuDeviceGetAttribute(&v, which, g->device) == CUDA_SUCCESS ? v : 0;
}

/* Level "sm_90" runs on devices of its capability and newer: its code is there as PTX too. */
static bool has_level(mprt__cuda *g, const char *level, char why[MPRT__CUDA_WHY]) {
  const int want = !strncmp(level, "sm_", 3) ? atoi(level + 3) : 0;
  g->capability = 10 * attribute(g, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR) +
                  attribute(g, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
  if (g->capability < want)
    snprintf(why, MPRT__CUDA_WHY,
             "this program's code is for compute capability %d.%d; the device has %d.%d", want / 10,
             want % 10, g->capability / 10, g->capability % 10);
  return g->capability >= want;
}

/* Opens what the program needs of this machine. False with the reason; *absent: there is no GPU. */
static bool find_device(const mprt_program *p, mprt__cuda *g, const char *device, const char *level,
                        char why[MPRT__CUDA_WHY], bool *absent) {
  const int ordinal = ordinal_of(device);
  int count = 0;
  const mprt__cuda_state state = mprt__cuda_open(&g->api, why);
  *absent = state == MPRT__CUDA_NO_DRIVER || state == MPRT__CUDA_NO_DEVICE;
  if (state != MPRT__CUDA_READY)
    return false;
  mprt__lt_api library;
  if (mprt__cuda_has_products(p) && mprt__lt_open(&library, why) != MPRT__CUDA_READY)
    return false;
  if (g->api.cuDeviceGetCount(&count) == CUDA_SUCCESS && (ordinal < 0 || ordinal >= count)) {
    snprintf(why, MPRT__CUDA_WHY, "there is no device '%s'; this machine has %d", device, count);
    return false;
  }
  const CUresult r = g->api.cuDeviceGet(&g->device, ordinal);
  if (r != CUDA_SUCCESS) {
    mprt__cuda_error(&g->api, r, "cannot use the device", why);
    return false;
  }
  return has_level(g, level, why);
}

Status mprt__cuda_create(const mprt_program *p, const char *device, const char *level, bool quiet,
                         char *why, mprt__cuda **out) {
  bool absent = false;
  *out = NULL;
  why[0] = 0;
  mprt__cuda *g = calloc(1, sizeof *g);
  if (!g)
    return mprt__nomem(&p->cb, "device");
  if (!find_device(p, g, device, level, why, &absent)) {
    mprt__cuda_destroy(p, g);
    Status s = quiet ? MPCC_ERR_TARGET : mprt__fail(&p->cb, MPCC_ERR_TARGET, "%s", why);
    if (absent)
      why[0] = 0;
    return s;
  }
  const CUresult r = g->api.cuDevicePrimaryCtxRetain(&g->context, g->device);
  if (r != CUDA_SUCCESS) {
    const Status s = mprt__cuda_failed(p, g, r, "cannot use the device");
    mprt__cuda_destroy(p, g);
    return s;
  }
  *out = g;
  return MPCC_OK;
}

void mprt__cuda_destroy(const mprt_program *p, mprt__cuda *g) {
  if (!g)
    return;
  if (g->context) {
    g->api.cuCtxSetCurrent(g->context);
    mprt__cuda_close_graphs(p, g);
    mprt__cuda_close_products(g);
    mprt__cuda_close_mirror(g);
    if (g->copies)
      g->api.cuStreamDestroy_v2(g->copies);
    if (g->stream)
      g->api.cuStreamDestroy_v2(g->stream);
    mprt__cuda_unload(g);
    for (int i = 0; i < MPCC_SEG_COUNT; i++)
      if (g->segment[i])
        g->api.cuMemFree_v2(g->segment[i]);
    g->api.cuDevicePrimaryCtxRelease_v2(g->device);
  }
  free(g);
}

/* ---- code and memory ------------------------------------------------------------------------- */

/* A segment that does not fit: how much is missing, in numbers to choose a batch size by. */
static Status no_room(const mprt_program *p, mprt__cuda *g, CUresult r) {
  const double mib = 1 << 20;
  size_t rest = 0, all = 0;
  uint64_t more = 0;
  char doing[160] = "out of device memory";
  for (int i = 0; i < MPCC_SEG_COUNT; i++)
    more += g->segment[i] ? 0 : p->head->segment_bytes[i];
  if (g->api.cuMemGetInfo_v2(&rest, &all) == CUDA_SUCCESS)
    snprintf(doing, sizeof doing,
             "out of device memory: %.1f MiB more are needed, %.1f of %.1f MiB are free; "
             "a smaller batch needs less",
             (double)more / mib, (double)rest / mib, (double)all / mib);
  return mprt__cuda_failed(p, g, r, doing);
}

Status mprt__cuda_load(const mprt_program *p, mprt__cuda *g) {
  CUDA_TRY(g->api.cuCtxSetCurrent(g->context), "cannot use the device");
  CUDA_TRY(g->api.cuStreamCreate(&g->stream, CU_STREAM_NON_BLOCKING), "cannot make a stream");
  CUDA_TRY(g->api.cuStreamCreate(&g->copies, CU_STREAM_NON_BLOCKING), "cannot make a stream");
  for (int i = 0; i < MPCC_SEG_COUNT; i++) {
    const size_t bytes = (size_t)p->head->segment_bytes[i];
    if (!bytes)
      continue;
    const CUresult r = g->api.cuMemAlloc_v2(&g->segment[i], bytes);
    if (r != CUDA_SUCCESS)
      return no_room(p, g, r);
    CUDA_TRY(g->api.cuMemsetD8Async(g->segment[i], 0, bytes, g->stream),
             "cannot clear device memory");
  }
  Status s = mprt__cuda_open_mirror(p, g);
  if (s == MPCC_OK)
    s = mprt__cuda_open_graphs(p, g);
  if (s == MPCC_OK)
    s = mprt__cuda_open_products(p, g);
  if (s == MPCC_OK)
    s = mprt__cuda_modules(p, g);
  if (s == MPCC_OK) /* batches come on a stream of their own: not before memory is cleared */
    CUDA_TRY(g->api.cuStreamSynchronize(g->stream), "cannot clear device memory");
  return s;
}

Status mprt__cuda_status(const mprt__cuda *g) {
  return g->failure;
}

Status mprt__cuda_wait(const mprt_program *p, mprt__cuda *g) {
  if (g->failure != MPCC_OK)
    return g->failure;
  CUDA_TRY(g->api.cuCtxSetCurrent(g->context), "cannot use the device");
  CUDA_TRY(g->api.cuStreamSynchronize(g->stream), "the device failed");
  return MPCC_OK;
}

Status mprt__cuda_clear(const mprt_program *p, mprt__cuda *g, int segment) {
  CUDA_TRY(g->api.cuCtxSetCurrent(g->context), "cannot use the device");
  Status s = mprt__cuda_push(p, g);
  memset(g->fresh, 0, p->ntensor * sizeof *g->fresh);
  if (s == MPCC_OK && g->segment[segment])
    CUDA_TRY(g->api.cuMemsetD8Async(g->segment[segment], 0, (size_t)p->head->segment_bytes[segment],
                                    g->stream),
             "cannot clear device memory");
  return s;
}
