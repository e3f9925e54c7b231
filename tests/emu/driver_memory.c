/* libcuda.so.1: device memory, pinned host memory, copies and fills, and what library stand-ins
 * use. */
#include "driver.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool memory_is_device(uint64_t address) {
  return address >> 62 == 1;
}

static void report(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void report(const char *format, ...) {
  Report r = {FOUND_LIBRARY, ""};
  va_list args;
  va_start(args, format);
  vsnprintf(r.text, sizeof r.text, format, args);
  va_end(args);
  report_print(&r);
}

/* ---- allocations ---- */

CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t bytes) {
  ENTER(NEEDS_CONTEXT);
  CUresult r = CUDA_SUCCESS;
  if (!address || !bytes)
    return driver_leave(CUDA_ERROR_INVALID_VALUE);
  *address = 0;
  if (capture_forbids(&r))
    return driver_leave(r);
  if (!fault_of_allocation())
    *address = memory_alloc(&emu_context.memory, bytes);
  return driver_leave(*address ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY);
}

CUresult cuMemFree_v2(CUdeviceptr address) {
  ENTER(NEEDS_CONTEXT);
  CUresult r = CUDA_SUCCESS;
  if (!address)
    return driver_leave(CUDA_SUCCESS);
  if (capture_forbids(&r))
    return driver_leave(r);
  stream_finish_all();
  return driver_leave(memory_free(&emu_context.memory, address) ? emu_context.sticky
                                                                : CUDA_ERROR_INVALID_VALUE);
}

CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total_bytes) {
  ENTER(NEEDS_CONTEXT);
  const Memory *m = &emu_context.memory;
  if (!free_bytes || !total_bytes)
    return driver_leave(CUDA_ERROR_INVALID_VALUE);
  *total_bytes = m->limit;
  *free_bytes = m->limit - m->used;
  return driver_leave(CUDA_SUCCESS);
}

CUresult cuMemAllocHost_v2(void **p, size_t bytes) {
  ENTER(NEEDS_CONTEXT);
  CUresult r = CUDA_SUCCESS;
  if (!p || !bytes)
    return driver_leave(CUDA_ERROR_INVALID_VALUE);
  *p = NULL;
  if (capture_forbids(&r))
    return driver_leave(r);
  if (!fault_of_allocation())
    *p = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  if (!*p)
    return driver_leave(CUDA_ERROR_OUT_OF_MEMORY);
  memset(*p, 0x5A, bytes);
  struct CUctx_st *c = &emu_context;
  c->pinned = emu_grow(c->pinned, (c->n_pinned + 1) * sizeof *c->pinned);
  c->pinned[c->n_pinned++] = (struct Pinned){*p, bytes};
  return driver_leave(CUDA_SUCCESS);
}

CUresult cuMemFreeHost(void *p) {
  ENTER(NEEDS_CONTEXT);
  struct CUctx_st *c = &emu_context;
  for (size_t i = 0; i < c->n_pinned; i++)
    if (c->pinned[i].p == p) {
      stream_finish_all();
      free(p);
      c->pinned[i] = c->pinned[--c->n_pinned];
      return driver_leave(c->sticky);
    }
  return driver_leave(CUDA_ERROR_INVALID_VALUE);
}

bool memory_is_pinned(const void *p, size_t bytes) {
  const uint8_t *b = p;
  for (size_t i = 0; i < emu_context.n_pinned; i++) {
    const struct Pinned *q = &emu_context.pinned[i];
    if (b >= q->p && b + bytes <= q->p + q->bytes)
      return true;
  }
  return false;
}

void memory_free_pinned(void) {
  for (size_t i = 0; i < emu_context.n_pinned; i++)
    free(emu_context.pinned[i].p);
  free(emu_context.pinned);
  emu_context.pinned = NULL;
  emu_context.n_pinned = 0;
}

/* ---- copies and fills ---- */

/* An end of a copy lies in device memory, or is the host's. */
static bool range_ok(uint64_t address, uint64_t bytes, bool device) {
  return device ? memory_find(&emu_context.memory, address, bytes) != NULL
                : address && !memory_is_device(address);
}

void memory_copy_any(uint64_t to, uint64_t from, uint64_t bytes) {
  Memory *m = &emu_context.memory;
  Alloc *a = memory_is_device(to) ? memory_find(m, to, bytes) : NULL,
        *b = memory_is_device(from) ? memory_find(m, from, bytes) : NULL;
  if ((memory_is_device(to) && !a) || (memory_is_device(from) && !b)) {
    report("emu: %s: a copy of %llu bytes touches memory that was freed since\n",
           found_slug(FOUND_LIBRARY), (unsigned long long)bytes);
    driver_fail(CUDA_ERROR_ILLEGAL_ADDRESS);
  } else if (a && b) {
    memory_copy(a, to - a->lo, b, from - b->lo, bytes);
  } else if (a) {
    memcpy(a->host + (to - a->lo), (const void *)(uintptr_t)from, bytes);
    memory_host_wrote(a, to - a->lo, bytes);
  } else if (b) {
    memcpy((void *)(uintptr_t)to, b->host + (from - b->lo), bytes);
  }
}

void memory_set(uint64_t to, uint32_t value, uint32_t element, uint64_t n) {
  Alloc *a = memory_find(&emu_context.memory, to, n * element);
  if (!a) {
    driver_fail(CUDA_ERROR_ILLEGAL_ADDRESS);
    return;
  }
  uint8_t *p = a->host + (to - a->lo);
  for (uint64_t i = 0; i < n; i++)
    memcpy(p + i * element, &value, element);
  memory_host_wrote(a, to - a->lo, n * element);
}

static CUresult copy_now(uint64_t to, uint64_t from, size_t bytes, bool to_device,
                         bool from_device) {
  CUresult r = CUDA_SUCCESS;
  if (!bytes)
    return CUDA_SUCCESS;
  if (!range_ok(to, bytes, to_device) || !range_ok(from, bytes, from_device))
    return CUDA_ERROR_INVALID_VALUE;
  if (capture_forbids(&r))
    return r;
  stream_finish_blocking();
  if (!emu_context.sticky)
    memory_copy_any(to, from, bytes);
  return emu_context.sticky;
}

/* Pageable host memory: a copy from it takes the bytes at once, a copy to it is waited for. */
static CUresult copy_later(uint64_t to, uint64_t from, size_t bytes, bool to_device,
                           bool from_device, CUstream s) {
  if (!stream_known(s))
    return CUDA_ERROR_INVALID_HANDLE;
  if (!bytes)
    return CUDA_SUCCESS;
  if (!range_ok(to, bytes, to_device) || !range_ok(from, bytes, from_device))
    return CUDA_ERROR_INVALID_VALUE;
  Work w = {.kind = WORK_COPY, .to = to, .from = from, .bytes = bytes};
  s = stream_of(s);
  if (!from_device && !s->capture && !memory_is_pinned((void *)(uintptr_t)from, bytes)) {
    w.args = emu_alloc(bytes);
    memcpy(w.args, (void *)(uintptr_t)from, bytes);
    w.from = (uint64_t)(uintptr_t)w.args;
  }
  const CUresult r = stream_put(s, &w);
  if (!r && !to_device && !s->capture && !memory_is_pinned((void *)(uintptr_t)to, bytes))
    stream_finish(s);
  return r ? r : emu_context.sticky;
}

#define HOST(p) ((uint64_t)(uintptr_t)(p))

CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes) {
  ENTER(NEEDS_CONTEXT);
  return driver_leave(copy_now(to, HOST(from), bytes, true, false));
}
CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t bytes) {
  ENTER(NEEDS_CONTEXT);
  return driver_leave(copy_now(HOST(to), from, bytes, false, true));
}
CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  ENTER(NEEDS_CONTEXT);
  return driver_leave(copy_now(to, from, bytes, true, true));
}
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, CUstream stream) {
  ENTER(NEEDS_CONTEXT);
  return driver_leave(copy_later(to, HOST(from), bytes, true, false, stream));
}
CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, CUstream stream) {
  ENTER(NEEDS_CONTEXT);
  return driver_leave(copy_later(HOST(to), from, bytes, false, true, stream));
}
CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  ENTER(NEEDS_CONTEXT);
  return driver_leave(copy_later(to, from, bytes, true, true, stream));
}

static CUresult set_later(uint64_t to, uint32_t value, uint32_t element, size_t n, CUstream s) {
  if (!stream_known(s))
    return CUDA_ERROR_INVALID_HANDLE;
  if (!n)
    return CUDA_SUCCESS;
  if (to % element || n > SIZE_MAX / element || !range_ok(to, n * element, true))
    return CUDA_ERROR_INVALID_VALUE;
  Work w = {.kind = WORK_SET, .to = to, .value = value, .element = element, .bytes = n};
  return stream_put(stream_of(s), &w);
}

CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t n, CUstream stream) {
  ENTER(NEEDS_CONTEXT);
  return driver_leave(set_later(to, value, 1, n, stream));
}
CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t n, CUstream stream) {
  ENTER(NEEDS_CONTEXT);
  return driver_leave(set_later(to, value, 4, n, stream));
}
CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t n) {
  ENTER(NEEDS_CONTEXT);
  return driver_leave(set_later(to, value, 1, n, NULL));
}
CUresult cuMemsetD32_v2(CUdeviceptr to, unsigned value, size_t n) {
  ENTER(NEEDS_CONTEXT);
  return driver_leave(set_later(to, value, 4, n, NULL));
}

/* ---- for library stand-ins ---- */

uint8_t *emu_library_access(const char *who, uint64_t address, uint64_t bytes, bool write) {
  Alloc *a = memory_find(&emu_context.memory, address, bytes);
  if (!a) {
    report("emu: %s: %s %s %llu bytes outside every allocation\n", found_slug(FOUND_LIBRARY), who,
           write ? "writes" : "reads", (unsigned long long)bytes);
    return NULL;
  }
  const uint64_t offset = address - a->lo;
  if (write) {
    memory_host_wrote(a, offset, bytes);
  } else if (found_enabled(FOUND_UNINIT_GLOBAL)) {
    const uint64_t at = memory_first_unwritten(a, offset, bytes);
    if (at < bytes) {
      report("emu: %s: %s reads offset %llu of allocation %u, never written\n",
             found_slug(FOUND_UNINIT_GLOBAL), who, (unsigned long long)(offset + at), a->number);
      return NULL;
    }
  }
  return a->host + offset;
}

CUresult emu_library_put(CUstream s, LibraryWork run, const void *args, size_t bytes,
                         double time_us) {
  ENTER(NEEDS_CONTEXT);
  if (!stream_known(s))
    return driver_leave(CUDA_ERROR_INVALID_HANDLE);
  Work w = {.kind = WORK_LIBRARY, .library = run, .n_args = (uint32_t)bytes, .time_us = time_us};
  w.args = emu_alloc(bytes);
  memcpy(w.args, args, bytes);
  return driver_leave(stream_put(stream_of(s), &w));
}
