/* Kernels of a program on the device: an object has the same kernels as machine code (a cubin) and
 * as PTX. A cubin runs on devices of its major capability and at least its minor one; on others,
 * and where the driver does not take it, the driver compiles the PTX. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/cuda/gpu.h"

enum { PTX, CUBIN, FORMS };

typedef struct {
  const uint8_t *data;
  uint64_t bytes;
} Part;

static Status damaged(const mprt_program *p) {
  return mprt__fail(&p->cb, MPCC_ERR_INPUT, "this program's kernels are damaged");
}

/* Part i of an archive; data NULL when there is none. */
static Part part_of(const uint8_t *archive, uint64_t bytes, uint64_t i) {
  const MpccArchive *a = (const MpccArchive *)archive;
  const MpccArchiveEntry *entry = (const MpccArchiveEntry *)(a + 1);
  if (bytes < sizeof *a || (uintptr_t)archive % 8 ||
      memcmp(a->magic, MPCC_ARCHIVE_MAGIC, sizeof a->magic) ||
      (bytes - sizeof *a) / sizeof *entry < a->count || i >= a->count || entry[i].offset > bytes ||
      entry[i].bytes > bytes - entry[i].offset)
    return (Part){NULL, 0};
  return (Part){archive + entry[i].offset, entry[i].bytes};
}

/* What the driver says when it cannot take PTX: the first line of its log, if it wrote one. */
static Status load_ptx(const mprt_program *p, mprt__cuda *g, const void *ptx, CUmodule *out) {
  char log[512] = "", doing[600];
  int options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
  void *values[] = {log, (void *)(uintptr_t)sizeof log};
  const CUresult r = g->api.cuModuleLoadDataEx(out, ptx, 2, options, values);
  if (r == CUDA_SUCCESS)
    return MPCC_OK;
  log[strcspn(log, "\n")] = 0;
  snprintf(doing, sizeof doing, "cannot load the kernels%s%s", *log ? ": " : "", log);
  return mprt__cuda_failed(p, g, r, doing);
}

static Status load_object(const mprt_program *p, mprt__cuda *g, Part object, CUmodule *out) {
  const Part ptx = part_of(object.data, object.bytes, PTX);
  const Part cubin = part_of(object.data, object.bytes, CUBIN);
  const char *level = mprt__string(p, p->chosen->level);
  const int of = !strncmp(level, "sm_", 3) ? atoi(level + 3) : 0;
  if (!ptx.data || !ptx.bytes || ptx.data[ptx.bytes - 1] || !cubin.data)
    return damaged(p);
  /* A driver older than the compiler may not know the cubin's format. */
  if (cubin.bytes && of / 10 == g->capability / 10 && of <= g->capability) {
    const CUresult r = g->api.cuModuleLoadData(out, cubin.data);
    if (r != CUDA_ERROR_NO_BINARY_FOR_GPU && r != CUDA_ERROR_INVALID_IMAGE)
      return r == CUDA_SUCCESS ? MPCC_OK : mprt__cuda_failed(p, g, r, "cannot load the kernels");
  }
  return load_ptx(p, g, ptx.data, out);
}

static Status find_kernel(const mprt_program *p, mprt__cuda *g, uint32_t i) {
  const MpccKernel *k = &p->kernel[i];
  if (k->object >= g->nmodule)
    return damaged(p);
  CUDA_TRY(
      g->api.cuModuleGetFunction(&g->function[i], g->module[k->object], mprt__string(p, k->symbol)),
      "cannot find a kernel");
  if (k->scratch_bytes) /* what is allowed without asking is less by the kernel's static memory */
    CUDA_TRY(g->api.cuFuncSetAttribute(g->function[i],
                                       CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                                       (int)k->scratch_bytes),
             "not enough shared memory for a kernel");
  return MPCC_OK;
}

Status mprt__cuda_modules(const mprt_program *p, mprt__cuda *g) {
  const uint8_t *archive = p->image + p->chosen->object.offset;
  const uint64_t bytes = p->chosen->object.count;
  uint64_t count = 0;
  if (p->nkernel > 0 && !part_of(archive, bytes, 0).data)
    return damaged(p);
  if (p->nkernel > 0)
    count = ((const MpccArchive *)archive)->count;
  g->module = calloc((size_t)count + 1, sizeof *g->module);
  g->function = calloc((size_t)p->nkernel + 1, sizeof *g->function);
  if (!g->module || !g->function)
    return mprt__nomem(&p->cb, "kernels");
  Status s = MPCC_OK;
  for (uint64_t i = 0; s == MPCC_OK && i < count; i++) {
    const Part object = part_of(archive, bytes, i);
    s = object.data ? load_object(p, g, object, &g->module[i]) : damaged(p);
    g->nmodule = i + 1;
  }
  for (uint32_t i = 0; s == MPCC_OK && i < p->nkernel; i++)
    s = find_kernel(p, g, i);
  return s;
}

void mprt__cuda_unload(mprt__cuda *g) {
  for (uint64_t i = 0; g->module && i < g->nmodule; i++)
    if (g->module[i])
      g->api.cuModuleUnload(g->module[i]);
  free(g->module);
  free(g->function);
  g->module = NULL;
  g->function = NULL;
}
