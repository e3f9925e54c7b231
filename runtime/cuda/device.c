/* A GPU as the device of a program: its segments in device memory, kernels from PTX, commands in
 * order on one stream. The host keeps a mirror of every segment, which costs address space until it
 * is touched; single tensors go to and fro when the host asks for them (mprt__tensor_data). */
#include "runtime/cuda/gpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_ARGS = 160 };

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
static Status check_level(const mprt_program *p, mprt__cuda *g, const char *level, bool quiet) {
  const int want = !strncmp(level, "sm_", 3) ? atoi(level + 3) : 0;
  g->capability = 10 * attribute(g, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR) +
                  attribute(g, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
  if (g->capability >= want)
    return MPCC_OK;
  if (quiet)
    return MPCC_ERR_TARGET;
  return mprt__fail(&p->cb, MPCC_ERR_TARGET,
                    "this program's code is for compute capability %d.%d; the device has %d.%d",
                    want / 10, want % 10, g->capability / 10, g->capability % 10);
}

Status mprt__cuda_create(const mprt_program *p, const char *device, const char *level, bool quiet,
                         mprt__cuda **out) {
  char why[MPRT__CUDA_WHY];
  const int ordinal = ordinal_of(device);
  int count = 0;
  *out = NULL;
  mprt__cuda *g = calloc(1, sizeof *g);
  if (!g)
    return mprt__nomem(&p->cb, "device");
  Status s = MPCC_OK;
  if (mprt__cuda_open(&g->api, why) != MPRT__CUDA_READY)
    s = quiet ? MPCC_ERR_TARGET : mprt__fail(&p->cb, MPCC_ERR_TARGET, "%s", why);
  if (s == MPCC_OK && g->api.cuDeviceGetCount(&count) == CUDA_SUCCESS &&
      (ordinal < 0 || ordinal >= count))
    s = quiet ? MPCC_ERR_TARGET
              : mprt__fail(&p->cb, MPCC_ERR_TARGET, "there is no device '%s'; this machine has %d",
                           device, count);
  CUresult r = s == MPCC_OK ? g->api.cuDeviceGet(&g->device, ordinal) : CUDA_SUCCESS;
  if (s == MPCC_OK && r == CUDA_SUCCESS)
    s = check_level(p, g, level, quiet);
  if (s == MPCC_OK && r == CUDA_SUCCESS)
    r = g->api.cuDevicePrimaryCtxRetain(&g->context, g->device);
  if (s == MPCC_OK && r != CUDA_SUCCESS)
    s = mprt__cuda_failed(p, g, r, "cannot use the device");
  if (s != MPCC_OK) {
    mprt__cuda_destroy(g);
    return s;
  }
  *out = g;
  return MPCC_OK;
}

void mprt__cuda_destroy(mprt__cuda *g) {
  if (!g)
    return;
  if (g->context) {
    g->api.cuCtxSetCurrent(g->context);
    if (g->stream)
      g->api.cuStreamDestroy_v2(g->stream);
    mprt__cuda_unload(g);
    for (int i = 0; i < MPCC_SEG_COUNT; i++)
      if (g->segment[i])
        g->api.cuMemFree_v2(g->segment[i]);
    g->api.cuDevicePrimaryCtxRelease_v2(g->device);
  }
  free(g->dirty);
  free(g);
}

/* ---- code and memory ----------------------------------------------------------------------------
 */

Status mprt__cuda_load(const mprt_program *p, mprt__cuda *g) {
  CUDA_TRY(g->api.cuCtxSetCurrent(g->context), "cannot use the device");
  CUDA_TRY(g->api.cuStreamCreate(&g->stream, CU_STREAM_NON_BLOCKING), "cannot make a stream");
  g->dirty = calloc((size_t)p->ntensor + 1, sizeof *g->dirty);
  if (!g->dirty)
    return mprt__nomem(&p->cb, "tensors");
  for (int i = 0; i < MPCC_SEG_COUNT; i++) {
    const size_t bytes = (size_t)p->head->segment_bytes[i];
    if (!bytes)
      continue;
    CUDA_TRY(g->api.cuMemAlloc_v2(&g->segment[i], bytes), "out of device memory");
    CUDA_TRY(g->api.cuMemsetD8Async(g->segment[i], 0, bytes, g->stream),
             "cannot clear device memory");
  }
  return mprt__cuda_modules(p, g);
}

/* ---- the mirror ------------------------------------------------------------------------------ */

static CUdeviceptr place_of(const mprt_program *p, const mprt__cuda *g, uint32_t tensor) {
  return g->segment[p->tensor[tensor].segment] + p->tensor[tensor].offset;
}

static void *mirror_of(const mprt_program *p, uint32_t tensor) {
  return p->segment[p->tensor[tensor].segment].data + p->tensor[tensor].offset;
}

/* Brings what the host wrote to the device. */
static Status push(const mprt_program *p, mprt__cuda *g) {
  for (uint32_t i = 0; g->any_dirty && i < p->ntensor; i++) {
    if (!g->dirty[i])
      continue;
    CUDA_TRY(g->api.cuMemcpyHtoDAsync_v2(place_of(p, g, i), mirror_of(p, i), p->tensor[i].bytes,
                                         g->stream),
             "cannot copy to the device");
    g->dirty[i] = false;
  }
  /* the mirror may be written again as soon as this returns */
  if (g->any_dirty)
    CUDA_TRY(g->api.cuStreamSynchronize(g->stream), "the device failed");
  g->any_dirty = false;
  return MPCC_OK;
}

Status mprt__cuda_status(const mprt__cuda *g) {
  return g->failure;
}

Status mprt__cuda_share(const mprt_program *p, mprt__cuda *g, uint32_t tensor, bool write) {
  if (!g->dirty[tensor]) {
    Status s = push(p, g); /* what overlaps this tensor may be among it */
    if (s != MPCC_OK)
      return s;
    CUDA_TRY(g->api.cuMemcpyDtoHAsync_v2(mirror_of(p, tensor), place_of(p, g, tensor),
                                         p->tensor[tensor].bytes, g->stream),
             "cannot copy from the device");
    CUDA_TRY(g->api.cuStreamSynchronize(g->stream), "the device failed");
  }
  g->dirty[tensor] |= write;
  g->any_dirty |= write;
  return MPCC_OK;
}

Status mprt__cuda_clear(const mprt_program *p, mprt__cuda *g, int segment) {
  Status s = push(p, g);
  if (s == MPCC_OK && g->segment[segment])
    CUDA_TRY(g->api.cuMemsetD8Async(g->segment[segment], 0, (size_t)p->head->segment_bytes[segment],
                                    g->stream),
             "cannot clear device memory");
  return s;
}

/* ---- running --------------------------------------------------------------------------------- */

static Status run_command(const mprt_program *p, mprt__cuda *g, const MpccCommand *c) {
  uint64_t value[MOST_ARGS];
  void *arg[MOST_ARGS];
  if (c->nargs > MOST_ARGS)
    return mprt__fail(&p->cb, MPCC_ERR_INTERNAL, "a command has %u arguments", c->nargs);
  for (uint32_t i = 0; i < c->nargs; i++) {
    const MpccArgRef *a = &p->argref[c->first_arg + i];
    value[i] = a->segment == MPCC_ARG_INT ? (uint64_t)a->offset
                                          : g->segment[a->segment] + (uint64_t)a->offset;
    arg[i] = &value[i];
  }
  const char *label = mprt__string(p, c->label);
  if (c->op == MPCC_CMD_COPY) {
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
static Status fetch_results(const mprt_program *p, mprt__cuda *g, const MpccCommand *c) {
  for (uint32_t i = c->first_out; i < c->first_out + c->nout; i++) {
    const MpccArgRef *a = &p->argref[c->first_arg + i];
    CUDA_TRY(g->api.cuMemcpyDtoHAsync_v2(p->segment[a->segment].data + a->offset,
                                         g->segment[a->segment] + (uint64_t)a->offset, a->bytes,
                                         g->stream),
             "cannot copy from the device");
  }
  CUDA_TRY(g->api.cuStreamSynchronize(g->stream), "the device failed");
  return MPCC_OK;
}

Status mprt__cuda_run(mprt_program *p, mprt__cuda *g, const MpccFunction *f, mprt__observer observe,
                      void *user) {
  CUDA_TRY(g->api.cuCtxSetCurrent(g->context), "cannot use the device");
  Status s = push(p, g);
  for (uint32_t i = 0; s == MPCC_OK && i < f->ncommands; i++) {
    const MpccCommand *c = &p->command[f->first_command + i];
    s = run_command(p, g, c);
    if (s == MPCC_OK && observe)
      s = fetch_results(p, g, c);
    if (s == MPCC_OK && observe && !observe(user, p, c))
      break;
  }
  return s;
}
