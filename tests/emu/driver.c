/* libcuda.so.1: initialization, the one device and its primary context, modules, launches, errors.
 */
#include "driver.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct CUctx_st emu_context;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool initialized;
static _Thread_local bool context_is_current;

static CUresult log_call(const char *name) {
  const CUresult injected = fault_of_call(name);
  const char *log = getenv("EMU_LOG");
  if (log && *log) {
    FILE *f = fopen(log, "a");
    if (f) {
      fprintf(f, "%s%s\n", name, injected ? " (injected fault)" : "");
      fclose(f);
    }
  }
  return injected;
}

int emu_library_call(const char *name) {
  pthread_mutex_lock(&lock);
  const CUresult injected = log_call(name);
  pthread_mutex_unlock(&lock);
  return injected;
}

CUresult driver_enter(const char *name, Needs needs) {
  pthread_mutex_lock(&lock);
  const CUresult injected = log_call(name);
  if (injected)
    return injected;
  if (needs >= NEEDS_INIT && !initialized)
    return CUDA_ERROR_NOT_INITIALIZED;
  if (needs == NEEDS_CONTEXT && (!context_is_current || !emu_context.retained))
    return CUDA_ERROR_INVALID_CONTEXT;
  if (needs == NEEDS_CONTEXT && emu_context.sticky)
    return emu_context.sticky;
  return CUDA_SUCCESS;
}

CUresult driver_leave(CUresult r) {
  pthread_mutex_unlock(&lock);
  return r;
}

void driver_fail(CUresult error) {
  if (!emu_context.sticky)
    emu_context.sticky = error;
}

void emu_counts(uint64_t *launches, uint64_t *thread_insns) {
  *launches = emu_context.launches;
  *thread_insns = emu_context.thread_insns;
}

/* ---- device ---- */

static int architecture(void) { /* 90: sm_90 */
  return (int)emu_env("EMU_ARCH", 90);
}
static size_t total_memory(void) {
  return (size_t)emu_env("EMU_MEMORY", INT64_C(8) << 30);
}

CUresult cuInit(unsigned flags) {
  ENTER(NEEDS_NOTHING);
  if (flags)
    return driver_leave(CUDA_ERROR_INVALID_VALUE);
  if (emu_env("EMU_DEVICES", 1) < 1)
    return driver_leave(CUDA_ERROR_NO_DEVICE);
  initialized = true;
  return driver_leave(CUDA_SUCCESS);
}

CUresult cuDriverGetVersion(int *version) {
  ENTER(NEEDS_NOTHING);
  if (!version)
    return driver_leave(CUDA_ERROR_INVALID_VALUE);
  *version = (int)emu_env("EMU_DRIVER_VERSION", 13000);
  return driver_leave(CUDA_SUCCESS);
}

/* NVRTC asks a driver that it finds for private tables and reads their first word, their size in
 * bytes, whatever the answer. This one has nothing behind its size. */
__attribute__((visibility("default"))) CUresult cuGetExportTable(const void **table,
                                                                 const void *id);
CUresult cuGetExportTable(const void **table, const void *id) {
  static const uint64_t empty[1] = {sizeof empty};
  (void)id;
  if (!table)
    return CUDA_ERROR_INVALID_VALUE;
  *table = empty;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int *count) {
  ENTER(NEEDS_INIT);
  if (!count)
    return driver_leave(CUDA_ERROR_INVALID_VALUE);
  *count = 1;
  return driver_leave(CUDA_SUCCESS);
}

CUresult cuDeviceGet(CUdevice *device, int ordinal) {
  ENTER(NEEDS_INIT);
  if (!device)
    return driver_leave(CUDA_ERROR_INVALID_VALUE);
  *device = 0;
  return driver_leave(ordinal ? CUDA_ERROR_INVALID_DEVICE : CUDA_SUCCESS);
}

CUresult cuDeviceGetName(char *name, int bytes, CUdevice device) {
  ENTER(NEEDS_INIT);
  if (device)
    return driver_leave(CUDA_ERROR_INVALID_DEVICE);
  if (!name || bytes < 1)
    return driver_leave(CUDA_ERROR_INVALID_VALUE);
  snprintf(name, (size_t)bytes, "mpcc emulated sm_%d", architecture());
  return driver_leave(CUDA_SUCCESS);
}

CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device) {
  ENTER(NEEDS_INIT);
  if (device)
    return driver_leave(CUDA_ERROR_INVALID_DEVICE);
  if (!bytes)
    return driver_leave(CUDA_ERROR_INVALID_VALUE);
  *bytes = total_memory();
  return driver_leave(CUDA_SUCCESS);
}

CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device) {
  ENTER(NEEDS_INIT);
  static const int values[][2] = {
      {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, MAX_THREADS},
      {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, 1024},
      {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y, 1024},
      {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, 64},
      {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, INT32_MAX},
      {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, 65535},
      {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z, 65535},
      {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, DEFAULT_SHARED},
      {CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY, 65536},
      {CU_DEVICE_ATTRIBUTE_WARP_SIZE, LANES},
      {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK, 65536},
      {CU_DEVICE_ATTRIBUTE_CLOCK_RATE, 1980000},
      {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 132},
      {CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS, 1},
      {CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, 3201000},
      {CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, 6144},
      {CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 52428800},
      {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, 2048},
      {CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT, 3},
      {CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1},
      {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, 233472},
      {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, MAX_SHARED},
  };
  if (device)
    return driver_leave(CUDA_ERROR_INVALID_DEVICE);
  if (!value)
    return driver_leave(CUDA_ERROR_INVALID_VALUE);
  if (attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR) {
    *value = architecture() / 10;
    return driver_leave(CUDA_SUCCESS);
  }
  if (attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR) {
    *value = architecture() % 10;
    return driver_leave(CUDA_SUCCESS);
  }
  for (size_t i = 0; i < sizeof values / sizeof *values; i++)
    if (values[i][0] == attribute) {
      *value = values[i][1];
      return driver_leave(CUDA_SUCCESS);
    }
  return driver_leave(CUDA_ERROR_INVALID_VALUE);
}

/* ---- context ---- */

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
  ENTER(NEEDS_INIT);
  if (device || !context)
    return driver_leave(device ? CUDA_ERROR_INVALID_DEVICE : CUDA_ERROR_INVALID_VALUE);
  struct CUctx_st *c = &emu_context;
  if (c->retained++ == 0) {
    c->memory.limit = total_memory();
    c->seed = (uint64_t)emu_env("EMU_SEED", 0);
    c->streams = &c->legacy;
  }
  *context = c;
  return driver_leave(CUDA_SUCCESS);
}

static void end_context(void) {
  graph_free_all();
  stream_free_all();
  while (emu_context.modules) {
    CUmodule m = emu_context.modules;
    emu_context.modules = m->next;
    ptx_unload(m->ptx);
    free(m);
  }
  memory_fini(&emu_context.memory);
  memory_free_pinned();
  memset(&emu_context, 0, sizeof emu_context);
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  ENTER(NEEDS_INIT);
  if (device)
    return driver_leave(CUDA_ERROR_INVALID_DEVICE);
  if (!emu_context.retained)
    return driver_leave(CUDA_ERROR_INVALID_CONTEXT);
  if (--emu_context.retained == 0) {
    stream_finish_all();
    end_context();
  }
  return driver_leave(CUDA_SUCCESS);
}

CUresult cuCtxSetCurrent(CUcontext context) {
  ENTER(NEEDS_INIT);
  if (context && (context != &emu_context || !context->retained))
    return driver_leave(CUDA_ERROR_INVALID_CONTEXT);
  context_is_current = context != NULL;
  return driver_leave(CUDA_SUCCESS);
}

CUresult cuCtxGetCurrent(CUcontext *context) {
  ENTER(NEEDS_INIT);
  if (!context)
    return driver_leave(CUDA_ERROR_INVALID_VALUE);
  *context = context_is_current ? &emu_context : NULL;
  return driver_leave(CUDA_SUCCESS);
}

CUresult cuCtxSynchronize(void) {
  ENTER(NEEDS_CONTEXT);
  CUresult r = CUDA_SUCCESS;
  if (capture_forbids(&r))
    return driver_leave(r);
  stream_finish_all();
  return driver_leave(emu_context.sticky);
}

/* A program that ends without releasing its context has its modules counted too. */
__attribute__((destructor)) static void count_what_is_left(void) {
  for (CUmodule m = emu_context.modules; m; m = m->next)
    stats_report(m->ptx);
}

/* ---- modules ---- */

static void say(char *to, size_t bytes, const char *why) {
  if (to && bytes)
    snprintf(to, bytes, "%s", why);
}

/* Newest PTX a driver takes: CUDA 12.x ends at 8.x + 8, 13.0 at 9.0, 13.1 at 9.1. */
static uint32_t newest_ptx(void) {
  const int v = (int)emu_env("EMU_DRIVER_VERSION", 13000), minor = v % 1000 / 10;
  if (v < 12000)
    return 78;
  return v < 13000 ? 80 + (uint32_t)(minor > 8 ? 8 : minor) : 90 + (uint32_t)minor;
}

static CUresult load_module(CUmodule *module, const void *image, char *log, size_t log_bytes) {
  static const uint8_t elf[] = {0x7F, 'E', 'L', 'F'}, fatbin[] = {0x50, 0xED, 0x55, 0xBA};
  if (!module || !image)
    return CUDA_ERROR_INVALID_VALUE;
  *module = NULL;
  CUresult r = CUDA_SUCCESS;
  if (capture_forbids(&r))
    return r;
  if (memcmp(image, elf, 4) == 0 || memcmp(image, fatbin, 4) == 0) {
    say(log, log_bytes, "the emulated device runs PTX only");
    return CUDA_ERROR_NO_BINARY_FOR_GPU;
  }
  char why[512];
  Module *ptx = ptx_load(image, &emu_context.memory, why);
  if (ptx && ptx->ptx_version > newest_ptx()) {
    snprintf(why, sizeof why, "PTX version %u.%u is newer than the driver's", ptx->ptx_version / 10,
             ptx->ptx_version % 10);
    r = CUDA_ERROR_UNSUPPORTED_PTX_VERSION;
  } else if (ptx && (int)ptx->target > architecture()) {
    snprintf(why, sizeof why, "target sm_%u is newer than the device", ptx->target);
    r = CUDA_ERROR_NO_BINARY_FOR_GPU;
  } else if (!ptx) {
    r = CUDA_ERROR_INVALID_PTX;
  }
  if (r) {
    Report report = {FOUND_NOTHING, ""};
    snprintf(report.text, sizeof report.text, "emu: module refused: %s\n", why);
    report_print(&report);
    say(log, log_bytes, why);
    ptx_unload(ptx);
    return r;
  }
  CUmodule m = emu_alloc(sizeof *m);
  m->ptx = ptx;
  m->next = emu_context.modules;
  emu_context.modules = m;
  *module = m;
  return CUDA_SUCCESS;
}

CUresult cuModuleLoadData(CUmodule *module, const void *image) {
  ENTER(NEEDS_CONTEXT);
  return driver_leave(load_module(module, image, NULL, 0));
}

CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned n, int *options,
                            void **values) {
  ENTER(NEEDS_CONTEXT);
  char *log = NULL;
  size_t bytes = 0;
  if (n && (!options || !values))
    return driver_leave(CUDA_ERROR_INVALID_VALUE);
  for (unsigned i = 0; i < n; i++) {
    if (options[i] == CU_JIT_ERROR_LOG_BUFFER)
      log = values[i];
    if (options[i] == CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES)
      bytes = (size_t)(uintptr_t)values[i];
  }
  return driver_leave(load_module(module, image, log, bytes));
}

static CUmodule *module_place(CUmodule module) {
  CUmodule *p = &emu_context.modules;
  while (*p && *p != module)
    p = &(*p)->next;
  return *p ? p : NULL;
}

CUresult cuModuleUnload(CUmodule module) {
  ENTER(NEEDS_CONTEXT);
  CUmodule *p = module_place(module);
  CUresult r = CUDA_SUCCESS;
  if (!p)
    return driver_leave(CUDA_ERROR_INVALID_HANDLE);
  if (capture_forbids(&r))
    return driver_leave(r);
  stream_finish_all();
  *p = module->next;
  ptx_unload(module->ptx);
  free(module);
  return driver_leave(CUDA_SUCCESS);
}

CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
  ENTER(NEEDS_CONTEXT);
  if (!function || !name)
    return driver_leave(CUDA_ERROR_INVALID_VALUE);
  *function = NULL;
  if (!module_place(module))
    return driver_leave(CUDA_ERROR_INVALID_HANDLE);
  Kernel *k = ptx_kernel(module->ptx, name);
  *function = (CUfunction)(void *)k;
  return driver_leave(k ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND);
}

CUresult cuModuleGetGlobal_v2(CUdeviceptr *address, size_t *bytes, CUmodule module,
                              const char *name) {
  ENTER(NEEDS_CONTEXT);
  if (!module_place(module) || !name)
    return driver_leave(name ? CUDA_ERROR_INVALID_HANDLE : CUDA_ERROR_INVALID_VALUE);
  for (uint32_t i = 0; i < module->ptx->n_vars; i++) {
    const Variable *v = &module->ptx->vars[i];
    if (v->is_shared || strcmp(v->name, name) != 0)
      continue;
    if (address)
      *address = v->address;
    if (bytes)
      *bytes = v->bytes;
    return driver_leave(CUDA_SUCCESS);
  }
  return driver_leave(CUDA_ERROR_NOT_FOUND);
}

static Kernel *known_kernel(CUfunction f) {
  for (CUmodule m = emu_context.modules; m; m = m->next)
    for (uint32_t i = 0; i < m->ptx->n_kernels; i++)
      if ((void *)m->ptx->kernels[i] == (void *)f)
        return m->ptx->kernels[i];
  return NULL;
}

CUresult cuFuncGetAttribute(int *value, int attribute, CUfunction function) {
  ENTER(NEEDS_CONTEXT);
  const Kernel *k = known_kernel(function);
  if (!k || !value)
    return driver_leave(k ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_INVALID_HANDLE);
  switch (attribute) {
  case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
    *value = k->max_threads ? (int)k->max_threads : MAX_THREADS;
    break;
  case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES:
    *value = (int)k->static_shared;
    break;
  case CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES:
  case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES:
    *value = 0;
    break;
  case CU_FUNC_ATTRIBUTE_NUM_REGS: /* PTX has as many as it likes */
    *value = (int)(k->registers < 255 ? k->registers : 255);
    break;
  case CU_FUNC_ATTRIBUTE_PTX_VERSION:
    *value = (int)k->module->target;
    break;
  case CU_FUNC_ATTRIBUTE_BINARY_VERSION:
    *value = architecture();
    break;
  case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
    *value = (int)k->max_dynamic;
    break;
  default:
    return driver_leave(CUDA_ERROR_INVALID_VALUE);
  }
  return driver_leave(CUDA_SUCCESS);
}

CUresult cuFuncSetAttribute(CUfunction function, int attribute, int value) {
  ENTER(NEEDS_CONTEXT);
  Kernel *k = known_kernel(function);
  if (!k)
    return driver_leave(CUDA_ERROR_INVALID_HANDLE);
  if (attribute == CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT)
    return driver_leave(value < -1 || value > 100 ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS);
  if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES || value < 0 ||
      (uint32_t)value + k->static_shared > MAX_SHARED)
    return driver_leave(CUDA_ERROR_INVALID_VALUE);
  k->max_dynamic = (uint32_t)value;
  return driver_leave(CUDA_SUCCESS);
}

/* ---- launches ---- */

CUresult cuLaunchKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                        unsigned by, unsigned bz, unsigned shared_bytes, CUstream stream,
                        void **params, void **extra) {
  ENTER(NEEDS_CONTEXT);
  Kernel *k = known_kernel(function);
  if (!k || !stream_known(stream))
    return driver_leave(CUDA_ERROR_INVALID_HANDLE);
  if (extra || (k->n_params && !params))
    return driver_leave(CUDA_ERROR_INVALID_VALUE);
  Work w = {.kind = WORK_LAUNCH,
            .kernel = k,
            .grid = {gx, gy, gz},
            .block = {bx, by, bz},
            .dynamic_shared = shared_bytes};
  const LaunchConfig c = {{gx, gy, gz}, {bx, by, bz}, shared_bytes, NULL, 0};
  const char *refused = launch_refused(k, &c);
  if (refused) {
    Report r = {FOUND_LAUNCH, ""};
    snprintf(r.text, sizeof r.text,
             "emu: %s: %s\n  kernel  %s\n  grid    (%u,%u,%u), block (%u,%u,%u), %u bytes of "
             "dynamic shared memory\n",
             found_slug(FOUND_LAUNCH), refused, k->name, gx, gy, gz, bx, by, bz, shared_bytes);
    report_print(&r);
    return driver_leave(launch_starved(k, &c) ? CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES
                                              : CUDA_ERROR_INVALID_VALUE);
  }
  for (uint32_t i = 0; i < k->n_params; i++)
    if (!params[i])
      return driver_leave(CUDA_ERROR_INVALID_VALUE);
  w.args = emu_alloc(k->param_bytes);
  w.n_args = k->param_bytes;
  for (uint32_t i = 0; i < k->n_params; i++)
    memcpy(w.args + k->params[i].offset, params[i], k->params[i].size);
  return driver_leave(stream_put(stream_of(stream), &w));
}

/* ---- errors ---- */

static const struct {
  int value;
  const char *name, *text;
} errors[] = {
#define CUDA_CONST(name, value) {value, #name, #name},
#define CUBLAS_CONST(name, value)
#include "runtime/cuda/constants.def"
#undef CUDA_CONST
#undef CUBLAS_CONST
};

static const char *error_name(CUresult error) {
  for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
    if (errors[i].value == error && strncmp(errors[i].name, "CU_", 3) != 0)
      return errors[i].name;
  return NULL;
}

CUresult cuGetErrorName(CUresult error, const char **text) {
  if (!text)
    return CUDA_ERROR_INVALID_VALUE;
  *text = error_name(error);
  return *text ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuGetErrorString(CUresult error, const char **text) {
  if (!text)
    return CUDA_ERROR_INVALID_VALUE;
  *text = error_name(error);
  return *text ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
