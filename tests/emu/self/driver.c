/* The stand-in libcuda.so.1 through the product's own symbol table, in a forked process per test:
 * modules, launches, streams, capture and replay, sticky errors, injected faults, what is missing.
 */
#include <dlfcn.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/cuda/syms.h"
#include "tests/check_run.h"

static mprt__cuda_api cu;
static CUcontext context;

#define OK(call) ck_assert_int_eq(cu.call, CUDA_SUCCESS)
#define IS(error, call) ck_assert_int_eq(cu.call, error)

/* y = a x + y; one thread an element. */
static const char ptx[] =
    ".version 9.0\n.target sm_80\n.address_size 64\n"
    ".global .align 4 .f32 factor = 0f40000000;\n"
    ".visible .entry axpy(.param .u64 x, .param .u64 y, .param .f32 a, .param .u32 n)\n"
    ".maxntid 256, 1, 1\n{\n.reg .pred %p<2>; .reg .b32 %r<6>; .reg .f32 %f<5>; .reg .b64 %a<6>;\n"
    "mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x; mov.u32 %r3, %tid.x;\n"
    "mad.lo.s32 %r1, %r1, %r2, %r3; ld.param.u32 %r4, [n]; setp.ge.u32 %p1, %r1, %r4;\n"
    "@%p1 bra DONE;\nld.param.u64 %a1, [x]; ld.param.u64 %a2, [y]; ld.param.f32 %f1, [a];\n"
    "mul.wide.u32 %a3, %r1, 4; add.s64 %a1, %a1, %a3; add.s64 %a2, %a2, %a3;\n"
    "ld.global.f32 %f2, [%a1]; ld.global.f32 %f3, [%a2]; fma.rn.f32 %f3, %f1, %f2, %f3;\n"
    "st.global.f32 [%a2], %f3;\nDONE: ret;\n}\n";

static void open_device(void) {
  char why[MPRT__CUDA_WHY];
  ck_assert_msg(mprt__cuda_open(&cu, why) == MPRT__CUDA_READY, "%s", why);
  OK(cuDevicePrimaryCtxRetain(&context, 0));
  OK(cuCtxSetCurrent(context));
}

static CUfunction axpy(CUmodule *m) {
  CUfunction f;
  OK(cuModuleLoadData(m, ptx));
  OK(cuModuleGetFunction(&f, *m, "axpy"));
  return f;
}

static CUdeviceptr filled(float v, int n) {
  CUdeviceptr p;
  unsigned bits;
  memcpy(&bits, &v, 4);
  OK(cuMemAlloc_v2(&p, (size_t)n * 4));
  OK(cuMemsetD32_v2(p, bits, (size_t)n));
  return p;
}

static CUresult launch(CUfunction f, CUdeviceptr x, CUdeviceptr y, float a, unsigned n,
                       CUstream s) {
  void *params[] = {&x, &y, &a, &n};
  return cu.cuLaunchKernel(f, (n + 63) / 64, 1, 1, 64, 1, 1, 0, s, params, NULL);
}

static float first(CUdeviceptr p) {
  float v = NAN;
  OK(cuMemcpyDtoH_v2(&v, p, 4));
  return v;
}

START_TEST(device) {
  open_device();
  int v;
  OK(cuDriverGetVersion(&v));
  ck_assert_int_eq(v, 13000);
  OK(cuDeviceGetCount(&v));
  ck_assert_int_eq(v, 1);
  OK(cuDeviceGetAttribute(&v, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 0));
  ck_assert_int_eq(v, 9);
  OK(cuDeviceGetAttribute(&v, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 0));
  ck_assert_int_eq(v, 232448);
  IS(CUDA_ERROR_INVALID_VALUE, cuDeviceGetAttribute(&v, 99999, 0));
  CUdevice d;
  IS(CUDA_ERROR_INVALID_DEVICE, cuDeviceGet(&d, 1));
  char name[64];
  OK(cuDeviceGetName(name, sizeof name, 0));
  ck_assert_ptr_nonnull(strstr(name, "emulated"));
  size_t total, rest;
  OK(cuDeviceTotalMem_v2(&total, 0));
  CUdeviceptr p;
  OK(cuMemAlloc_v2(&p, 1 << 20));
  size_t all;
  OK(cuMemGetInfo_v2(&rest, &all));
  ck_assert_uint_eq(all, total);
  ck_assert_uint_eq(rest, total - (1 << 20));
  IS(CUDA_ERROR_OUT_OF_MEMORY, cuMemAlloc_v2(&p, total));
  const char *text;
  OK(cuGetErrorName(CUDA_ERROR_ILLEGAL_ADDRESS, &text));
  ck_assert_str_eq(text, "CUDA_ERROR_ILLEGAL_ADDRESS");
}
END_TEST

START_TEST(modules) {
  open_device();
  CUmodule m;
  CUfunction f;
  const char cubin[16] = "\177ELF";
  IS(CUDA_ERROR_NO_BINARY_FOR_GPU, cuModuleLoadData(&m, cubin));
  setenv("EMU_REPORT", "/dev/null", 1);
  char log[256] = "";
  int options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
  void *values[] = {log, (void *)(uintptr_t)sizeof log};
  char bad[sizeof ptx];
  snprintf(bad, sizeof bad, "%s", ptx);
  memcpy(strstr(bad, "fma.rn.f32 "), "wgmma.sync ", 11);
  IS(CUDA_ERROR_INVALID_PTX, cuModuleLoadDataEx(&m, bad, 2, options, values));
  ck_assert_msg(strstr(log, "opcode 'wgmma.sync' is not in the table") != NULL, "%s", log);
  f = axpy(&m);
  IS(CUDA_ERROR_NOT_FOUND, cuModuleGetFunction(&f, m, "nothing"));
  CUdeviceptr address;
  size_t bytes;
  OK(cuModuleGetGlobal_v2(&address, &bytes, m, "factor"));
  ck_assert_uint_eq(bytes, 4);
  ck_assert(first(address) == 2.0f);
  OK(cuModuleUnload(m));
  IS(CUDA_ERROR_INVALID_HANDLE, cuModuleGetFunction(&f, m, "axpy"));
  setenv("EMU_ARCH", "75", 1);
  IS(CUDA_ERROR_NO_BINARY_FOR_GPU, cuModuleLoadData(&m, ptx));
  setenv("EMU_ARCH", "90", 1);
  setenv("EMU_DRIVER_VERSION", "12040", 1);
  IS(CUDA_ERROR_UNSUPPORTED_PTX_VERSION, cuModuleLoadData(&m, ptx));
}
END_TEST

START_TEST(launch_limits) {
  open_device();
  setenv("EMU_REPORT", "/dev/null", 1);
  CUmodule m;
  CUfunction f = axpy(&m);
  int v;
  OK(cuFuncGetAttribute(&v, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, f));
  ck_assert_int_eq(v, 256);
  CUdeviceptr x = filled(1, 64), y = filled(1, 64);
  float a = 1;
  unsigned n = 64;
  void *params[] = {&x, &y, &a, &n};
#define LAUNCH(gx, gy, gz, bx, shared)                                                             \
  cuLaunchKernel(f, gx, gy, gz, bx, 1, 1, shared, NULL, params, NULL)
  IS(CUDA_ERROR_INVALID_VALUE, LAUNCH(1, 1, 1, 257, 0)); /* launch bounds */
  IS(CUDA_ERROR_INVALID_VALUE, LAUNCH(1, 65536, 1, 64, 0));
  IS(CUDA_ERROR_INVALID_VALUE, LAUNCH(1, 1, 65536, 64, 0));
  IS(CUDA_ERROR_INVALID_VALUE, LAUNCH(0, 1, 1, 64, 0));
  IS(CUDA_ERROR_INVALID_VALUE, LAUNCH(1, 1, 1, 64, 49153));
  OK(cuFuncSetAttribute(f, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 232448));
  OK(LAUNCH(1, 1, 1, 64, 49153));
  IS(CUDA_ERROR_INVALID_VALUE,
     cuFuncSetAttribute(f, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 232449));
  IS(CUDA_ERROR_INVALID_HANDLE,
     cuLaunchKernel((CUfunction)(void *)&v, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL));
  ck_assert(first(y) == 2.0f);
}
END_TEST

/* Work is late: pinned memory is read when the copy is done, not when it is put. */
START_TEST(streams_are_late) {
  open_device();
  CUstream s, t;
  CUevent e;
  OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
  OK(cuStreamCreate(&t, CU_STREAM_NON_BLOCKING));
  OK(cuEventCreate(&e, CU_EVENT_DISABLE_TIMING));
  float *pinned, pageable = 5;
  void *p;
  OK(cuMemAllocHost_v2(&p, 8));
  pinned = p;
  CUdeviceptr x = filled(0, 1), y = filled(0, 1);
  OK(cuCtxSynchronize());
  pinned[0] = 1;
  OK(cuMemcpyHtoDAsync_v2(x, pinned, 4, s));
  OK(cuMemcpyHtoDAsync_v2(y, &pageable, 4, s));
  pinned[0] = 2;
  pageable = 6;
  IS(CUDA_ERROR_NOT_READY, cuStreamQuery(s));
  OK(cuEventRecord(e, s));
  OK(cuStreamWaitEvent(t, e, 0)); /* t goes on when s is there */
  OK(cuMemcpyDtoHAsync_v2(pinned + 1, x, 4, t));
  OK(cuStreamSynchronize(t));
  ck_assert(pinned[1] == 2.0f);
  ck_assert(first(y) == 5.0f);
  OK(cuStreamQuery(s));
  OK(cuEventQuery(e));
  OK(cuMemFreeHost(p));
  OK(cuEventDestroy_v2(e));
  OK(cuStreamDestroy_v2(s));
  IS(CUDA_ERROR_INVALID_HANDLE, cuStreamSynchronize(s));
}
END_TEST

START_TEST(event_times) {
  open_device();
  CUmodule m;
  CUfunction f = axpy(&m);
  CUevent a, b;
  OK(cuEventCreate(&a, 0));
  OK(cuEventCreate(&b, 0));
  CUdeviceptr x = filled(1, 4096), y = filled(1, 4096);
  float ms[2];
  for (int i = 0; i < 2; i++) {
    OK(cuEventRecord(a, NULL));
    ck_assert_int_eq(launch(f, x, y, 1, 4096, NULL), CUDA_SUCCESS);
    OK(cuEventRecord(b, NULL));
    IS(CUDA_ERROR_NOT_READY, cuEventElapsedTime_v2(&ms[i], a, b));
    OK(cuEventSynchronize(b));
    OK(cuEventElapsedTime_v2(&ms[i], a, b));
  }
  ck_assert(ms[0] > 0 && fabsf(ms[0] - ms[1]) < 1e-6f); /* virtual: the same in every run */
}
END_TEST

/* y = 1; three replays of two launches in two streams joined by events. */
START_TEST(capture_and_replay) {
  open_device();
  CUmodule m;
  CUfunction f = axpy(&m);
  CUdeviceptr x = filled(1, 100), y = filled(1, 100), z = filled(0, 100);
  CUstream s, t;
  CUevent fork, join;
  OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
  OK(cuStreamCreate(&t, CU_STREAM_NON_BLOCKING));
  OK(cuEventCreate(&fork, CU_EVENT_DISABLE_TIMING));
  OK(cuEventCreate(&join, CU_EVENT_DISABLE_TIMING));
  OK(cuCtxSynchronize());
  OK(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
  int status;
  OK(cuStreamIsCapturing(s, &status));
  ck_assert_int_eq(status, CU_STREAM_CAPTURE_STATUS_ACTIVE);
  ck_assert_int_eq(launch(f, x, y, 2, 100, s), CUDA_SUCCESS);
  OK(cuEventRecord(fork, s));
  OK(cuStreamWaitEvent(t, fork, 0));
  ck_assert_int_eq(launch(f, y, z, 1, 100, t), CUDA_SUCCESS);
  OK(cuEventRecord(join, t));
  OK(cuStreamWaitEvent(s, join, 0));
  OK(cuMemsetD8Async(x + 4, 0, 4, s));
  CUgraph g;
  CUgraphExec e;
  OK(cuStreamEndCapture(s, &g));
  OK(cuGraphInstantiateWithFlags(&e, g, 0));
  OK(cuGraphDestroy(g));
  ck_assert(first(y) == 1.0f); /* nothing has run yet */
  for (int i = 0; i < 3; i++)
    OK(cuGraphLaunch(e, s));
  OK(cuStreamSynchronize(s));
  ck_assert(first(y) == 7.0f);
  ck_assert(first(z) == 3.0f + 5.0f + 7.0f);
  ck_assert(first(y + 4) == 3.0f); /* x[1] is 0 after the first replay */
  OK(cuGraphExecDestroy(e));
}
END_TEST

START_TEST(capture_refusals) {
  open_device();
  CUstream s, t;
  CUevent e;
  CUgraph g;
  CUdeviceptr p;
  OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
  OK(cuStreamCreate(&t, CU_STREAM_NON_BLOCKING));
  OK(cuEventCreate(&e, 0));
  OK(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
  IS(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuMemAlloc_v2(&p, 16)); /* allocates in a capture */
  IS(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(s, &g));
  ck_assert_ptr_null(g);
  OK(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
  IS(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuStreamSynchronize(s)); /* waits in a capture */
  IS(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(s, &g));
  p = filled(0, 4);
  OK(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
  OK(cuEventRecord(e, s));
  OK(cuStreamWaitEvent(t, e, 0));
  OK(cuMemsetD8Async(p, 1, 4, t)); /* never joined */
  IS(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, cuStreamEndCapture(s, &g));
  OK(cuEventRecord(e, t));
  OK(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
  IS(CUDA_ERROR_STREAM_CAPTURE_ISOLATION, cuStreamWaitEvent(s, e, 0)); /* from outside */
  IS(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(s, &g));
  IS(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
     cuStreamBeginCapture_v2(NULL, CU_STREAM_CAPTURE_MODE_GLOBAL));
}
END_TEST

/* A fault is noticed by a later call, then by every call, until the context ends. */
START_TEST(sticky_errors) {
  open_device();
  setenv("EMU_REPORT", "emu_driver_report.txt", 1);
  unlink("emu_driver_report.txt");
  CUmodule m;
  CUfunction f = axpy(&m);
  CUstream s;
  OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
  CUdeviceptr x = filled(1, 64), y = filled(1, 64), p;
  OK(cuCtxSynchronize());
  ck_assert_int_eq(launch(f, x, y, 1, 65, s), CUDA_SUCCESS); /* one too many */
  IS(CUDA_ERROR_ILLEGAL_ADDRESS, cuStreamSynchronize(s));
  IS(CUDA_ERROR_ILLEGAL_ADDRESS, cuMemAlloc_v2(&p, 16));
  float v;
  IS(CUDA_ERROR_ILLEGAL_ADDRESS, cuMemcpyDtoH_v2(&v, y, 4));
  FILE *r = fopen("emu_driver_report.txt", "r");
  ck_assert_ptr_nonnull(r);
  char text[1024] = "";
  ck_assert(fread(text, 1, sizeof text - 1, r) > 0);
  fclose(r);
  unlink("emu_driver_report.txt");
  ck_assert_msg(strstr(text, "emu: out-of-bounds:") && strstr(text, "kernel  axpy") &&
                    strstr(text, "which has 256"),
                "%s", text);
  OK(cuDevicePrimaryCtxRelease_v2(0));
  OK(cuDevicePrimaryCtxRetain(&context, 0));
  OK(cuCtxSetCurrent(context));
  OK(cuMemAlloc_v2(&p, 16)); /* a new context is sound again */
}
END_TEST

START_TEST(injected_faults) {
  setenv("EMU_FAIL", "cuMemAlloc_v2:2:2,cuStreamCreate:1,*:9:719", 1);
  open_device();
  CUdeviceptr p;
  CUstream s;
  OK(cuMemAlloc_v2(&p, 16));
  IS(CUDA_ERROR_OUT_OF_MEMORY, cuMemAlloc_v2(&p, 16));
  IS(CUDA_ERROR_UNKNOWN, cuStreamCreate(&s, 0));
  IS(CUDA_ERROR_LAUNCH_FAILED, cuCtxSynchronize()); /* the ninth call of any */
  OK(cuCtxSynchronize());
  unsetenv("EMU_FAIL");
  setenv("EMU_OOM", "3", 1);
  void *h;
  OK(cuMemAlloc_v2(&p, 16)); /* the second that reaches the allocator: the injected one did not */
  IS(CUDA_ERROR_OUT_OF_MEMORY, cuMemAllocHost_v2(&h, 16));
  setenv("EMU_LAUNCH_ERROR", "2", 1);
  CUmodule m;
  CUfunction f = axpy(&m);
  CUdeviceptr x = filled(1, 64), y = filled(1, 64);
  ck_assert_int_eq(launch(f, x, y, 1, 64, NULL), CUDA_SUCCESS);
  ck_assert(first(y) == 2.0f);
  ck_assert_int_eq(launch(f, x, y, 1, 64, NULL), CUDA_SUCCESS);
  IS(CUDA_ERROR_LAUNCH_FAILED, cuCtxSynchronize());
}
END_TEST

START_TEST(missing_pieces) {
  char why[MPRT__CUDA_WHY];
  setenv("EMU_DRIVER_VERSION", "12040", 1);
  ck_assert_int_eq(mprt__cuda_open(&cu, why), MPRT__CUDA_OLD_DRIVER);
  ck_assert_msg(strstr(why, "CUDA 12.4") && strstr(why, "13.0"), "%s", why);
  ck_assert_ptr_null(cu.cuInit);
  unsetenv("EMU_DRIVER_VERSION");
  setenv("EMU_DEVICES", "0", 1);
  ck_assert_int_eq(mprt__cuda_open(&cu, why), MPRT__CUDA_NO_DEVICE);
  unsetenv("EMU_DEVICES");
  setenv("EMU_FAIL", "cuInit:2:803", 1);
  ck_assert_int_eq(mprt__cuda_open(&cu, why), MPRT__CUDA_FAILED);
  ck_assert_msg(strstr(why, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)") != NULL, "%s", why);
}
END_TEST

START_TEST(before_init) {
  open_device();
  CUdeviceptr p;
  OK(cuCtxSetCurrent(NULL));
  IS(CUDA_ERROR_INVALID_CONTEXT, cuMemAlloc_v2(&p, 16));
  OK(cuCtxSetCurrent(context));
  IS(CUDA_ERROR_INVALID_VALUE, cuMemAlloc_v2(&p, 0));
  IS(CUDA_ERROR_INVALID_VALUE, cuMemFree_v2(12345));
  float v = 1;
  CUdeviceptr x = filled(0, 4);
  IS(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoD_v2(x + 13, &v, 4)); /* ends past the end */
}
END_TEST

/* ---- misuse: every call without its arguments, without a context, after a fault ---- */

typedef CUresult (*Any)(uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t,
                        uintptr_t, uintptr_t, uintptr_t, uintptr_t);

static CUresult call_with_zeros(const char *name) {
  void *library = dlopen("libcuda.so.1", RTLD_NOW), *found = library ? dlsym(library, name) : NULL;
  ck_assert_msg(found != NULL, "%s", name);
  Any f;
  memcpy(&f, &found, sizeof f);
  return f(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
}

static const char *const names[] = {
#define CUDA_SYM(name, arguments) #name,
#define LT_SYM(result, name, arguments)
#include "runtime/cuda/syms.def"
#undef CUDA_SYM
#undef LT_SYM
};
enum { NAMES = sizeof names / sizeof *names };

static bool is_one(const char *name, const char *list) {
  const size_t n = strlen(name);
  for (const char *at = strstr(list, name); at; at = strstr(at + 1, name))
    if ((at == list || at[-1] == ' ') && (at[n] == ' ' || !at[n]))
      return true;
  return false;
}

/* Calls that answer before cuInit, and those that need no context. */
static const char before_all[] = "cuInit cuDriverGetVersion cuGetErrorName cuGetErrorString";
static const char no_context[] =
    "cuInit cuDriverGetVersion cuGetErrorName cuGetErrorString cuDeviceGetCount cuDeviceGet "
    "cuDeviceGetName cuDeviceGetAttribute cuDeviceTotalMem_v2 cuDevicePrimaryCtxRetain "
    "cuDevicePrimaryCtxRelease_v2 cuCtxSetCurrent cuCtxGetCurrent";

START_TEST(every_call_before_init) {
  int n = 0;
  for (int i = 0; i < NAMES; i++)
    if (!is_one(names[i], before_all)) {
      ck_assert_msg(call_with_zeros(names[i]) == CUDA_ERROR_NOT_INITIALIZED, "%s", names[i]);
      n++;
    }
  ck_assert_int_ge(n, 51);
}
END_TEST

START_TEST(every_call_without_context) {
  char why[MPRT__CUDA_WHY];
  ck_assert_msg(mprt__cuda_open(&cu, why) == MPRT__CUDA_READY, "%s", why);
  for (int i = 0; i < NAMES; i++)
    if (!is_one(names[i], no_context))
      ck_assert_msg(call_with_zeros(names[i]) == CUDA_ERROR_INVALID_CONTEXT, "%s", names[i]);
  IS(CUDA_ERROR_INVALID_CONTEXT, cuDevicePrimaryCtxRelease_v2(0));
  IS(CUDA_ERROR_INVALID_CONTEXT, cuCtxSetCurrent((CUcontext)(void *)&cu));
}
END_TEST

/* Nothing is not a crash: what means something without arguments does it, all else is refused. */
START_TEST(every_call_with_nothing) {
  static const char sound[] =
      "cuInit cuCtxSetCurrent cuCtxSynchronize cuMemFree_v2 cuMemcpyHtoD_v2 cuMemcpyDtoH_v2 "
      "cuMemcpyDtoD_v2 cuMemcpyHtoDAsync_v2 cuMemcpyDtoHAsync_v2 cuMemcpyDtoDAsync_v2 "
      "cuMemsetD8_v2 cuMemsetD32_v2 cuMemsetD8Async cuMemsetD32Async cuStreamSynchronize "
      "cuStreamQuery cuDevicePrimaryCtxRelease_v2";
  open_device();
  for (int i = 0; i < NAMES; i++) {
    OK(cuDevicePrimaryCtxRetain(&context, 0));
    OK(cuCtxSetCurrent(context));
    const CUresult r = call_with_zeros(names[i]);
    const bool capture = strcmp(names[i], "cuStreamBeginCapture_v2") == 0;
    ck_assert_msg(is_one(names[i], sound) ? r == CUDA_SUCCESS
                  : capture               ? r == CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
                            : r == CUDA_ERROR_INVALID_VALUE || r == CUDA_ERROR_INVALID_HANDLE,
                  "%s: %d", names[i], r);
  }
  printf(
      "emu/driver: %d calls, each without arguments, before cuInit, without a context and after a "
      "fault\n",
      NAMES);
}
END_TEST

/* A kernel touches freed memory: from then on every call says so, until the context ends. */
START_TEST(every_call_after_a_fault) {
  open_device();
  setenv("EMU_REPORT", "/dev/null", 1);
  CUmodule m;
  CUfunction f = axpy(&m);
  CUdeviceptr x = filled(1, 64), y = filled(1, 64);
  OK(cuMemFree_v2(x));
  ck_assert_int_eq(launch(f, x, y, 1, 64, NULL), CUDA_SUCCESS);
  IS(CUDA_ERROR_ILLEGAL_ADDRESS, cuCtxSynchronize());
  for (int i = 0; i < NAMES; i++)
    if (!is_one(names[i], no_context))
      ck_assert_msg(call_with_zeros(names[i]) == CUDA_ERROR_ILLEGAL_ADDRESS, "%s", names[i]);
  OK(cuDevicePrimaryCtxRelease_v2(0));
  OK(cuDevicePrimaryCtxRetain(&context, 0));
  OK(cuCtxSetCurrent(context));
  OK(cuCtxSynchronize());
}
END_TEST

START_TEST(memory_misuse) {
  open_device();
  setenv("EMU_REPORT", "/dev/null", 1);
  CUdeviceptr x = filled(1, 64), y;
  float v = 0;
  void *h;
  CUstream s;
  OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
  OK(cuCtxSynchronize());
  IS(CUDA_ERROR_INVALID_VALUE, cuMemFree_v2(x + 4)); /* not where it begins */
  OK(cuMemFree_v2(x));
  IS(CUDA_ERROR_INVALID_VALUE, cuMemFree_v2(x)); /* twice */
  IS(CUDA_ERROR_INVALID_VALUE, cuMemcpyDtoH_v2(&v, x, 4));
  IS(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoDAsync_v2(x, &v, 4, s));
  IS(CUDA_ERROR_INVALID_VALUE, cuMemcpyDtoDAsync_v2(x, x, 4, s));
  IS(CUDA_ERROR_INVALID_VALUE, cuMemsetD8Async(x, 0, 4, s));
  OK(cuMemAlloc_v2(&y, 256));
  ck_assert_uint_ne(x, y); /* an address is not given twice */
  IS(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoD_v2(y, NULL, 4));
  IS(CUDA_ERROR_INVALID_VALUE,
     cuMemcpyHtoD_v2((CUdeviceptr)(uintptr_t)&v, &v, 4));                    /* a host address */
  IS(CUDA_ERROR_INVALID_VALUE, cuMemcpyDtoH_v2((void *)(uintptr_t)y, y, 4)); /* a device's */
  IS(CUDA_ERROR_INVALID_VALUE, cuMemsetD32Async(y + 2, 0, 4, s));            /* not aligned */
  IS(CUDA_ERROR_INVALID_VALUE, cuMemsetD32Async(y, 0, 65, s));
  IS(CUDA_ERROR_INVALID_VALUE, cuMemsetD32Async(y, 0, SIZE_MAX / 2, s));
  OK(cuMemAllocHost_v2(&h, 64));
  OK(cuMemFreeHost(h));
  IS(CUDA_ERROR_INVALID_VALUE, cuMemFreeHost(h));
  IS(CUDA_ERROR_INVALID_VALUE, cuMemFreeHost(&v));
  IS(CUDA_ERROR_INVALID_VALUE, cuMemAllocHost_v2(&h, 0));
}
END_TEST

START_TEST(handle_misuse) {
  open_device();
  setenv("EMU_REPORT", "/dev/null", 1);
  CUmodule m;
  CUfunction f = axpy(&m);
  CUdeviceptr x = filled(1, 64), y = filled(1, 64);
  CUstream s;
  CUevent a, b;
  float ms, scale = 1;
  unsigned n = 64;
  int v;
  OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
  OK(cuEventCreate(&a, 0));
  OK(cuEventCreate(&b, CU_EVENT_DISABLE_TIMING));
  IS(CUDA_ERROR_INVALID_HANDLE, cuEventElapsedTime_v2(&ms, a, a)); /* never recorded */
  OK(cuEventQuery(a));
  OK(cuEventSynchronize(a));
  OK(cuEventRecord(a, s));
  OK(cuEventRecord(b, s));
  OK(cuStreamSynchronize(s));
  IS(CUDA_ERROR_INVALID_HANDLE, cuEventElapsedTime_v2(&ms, a, b)); /* without times */
  OK(cuEventElapsedTime_v2(&ms, a, a));
  OK(cuEventRecord(b, s)); /* still queued when its handle goes */
  OK(cuEventDestroy_v2(b));
  IS(CUDA_ERROR_INVALID_HANDLE, cuEventDestroy_v2(b));
  IS(CUDA_ERROR_INVALID_HANDLE, cuEventRecord(b, s));
  IS(CUDA_ERROR_INVALID_HANDLE, cuStreamWaitEvent(s, b, 0));
  OK(cuStreamSynchronize(s));
  IS(CUDA_ERROR_INVALID_VALUE, cuStreamWaitEvent(s, a, 1));
  IS(CUDA_ERROR_INVALID_VALUE, cuStreamCreate(&s, 2));
  IS(CUDA_ERROR_INVALID_VALUE, cuEventCreate(&b, 99));
  void *holes[] = {&x, &y, NULL, &n}, *params[] = {&x, &y, &scale, &n};
  IS(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(f, 1, 1, 1, 64, 1, 1, 0, s, NULL, NULL));
  IS(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(f, 1, 1, 1, 64, 1, 1, 0, s, holes, NULL));
  IS(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(f, 1, 1, 1, 64, 1, 1, 0, s, params, params));
  IS(CUDA_ERROR_INVALID_VALUE, cuFuncGetAttribute(&v, 12345, f));
  IS(CUDA_ERROR_INVALID_VALUE, cuFuncSetAttribute(f, CU_FUNC_ATTRIBUTE_NUM_REGS, 1));
  OK(cuStreamDestroy_v2(s));
  IS(CUDA_ERROR_INVALID_HANDLE, cuStreamDestroy_v2(s));
  IS(CUDA_ERROR_INVALID_HANDLE, cuStreamQuery(s));
  IS(CUDA_ERROR_INVALID_HANDLE, cuEventRecord(a, s));
  IS(CUDA_ERROR_INVALID_HANDLE, cuLaunchKernel(f, 1, 1, 1, 64, 1, 1, 0, s, params, NULL));
  IS(CUDA_ERROR_INVALID_HANDLE, cuMemsetD8Async(x, 0, 4, s));
  OK(cuModuleUnload(m));
  IS(CUDA_ERROR_INVALID_HANDLE, cuModuleUnload(m));
  IS(CUDA_ERROR_INVALID_HANDLE, cuLaunchKernel(f, 1, 1, 1, 64, 1, 1, 0, NULL, params, NULL));
  IS(CUDA_ERROR_INVALID_HANDLE, cuFuncGetAttribute(&v, CU_FUNC_ATTRIBUTE_NUM_REGS, f));
  const char wide[] =
      ".version 9.0\n.target sm_80\n.address_size 64\n.visible .entry k() { ret; }\n";
  OK(cuModuleLoadData(&m, wide));
  OK(cuModuleGetFunction(&f, m, "k"));
  OK(cuLaunchKernel(f, 1, 1, 1, 257, 1, 1, 0, NULL, NULL, NULL));
  IS(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES,
     cuLaunchKernel(f, 1, 1, 1, 1024, 1, 1, 0, NULL, NULL, NULL));
}
END_TEST

START_TEST(capture_misuse) {
  open_device();
  CUmodule m;
  CUfunction f = axpy(&m);
  CUdeviceptr x = filled(1, 64), y = filled(1, 64);
  CUstream s, t;
  CUevent e;
  CUgraph g, other;
  CUgraphExec exec;
  OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
  OK(cuStreamCreate(&t, CU_STREAM_NON_BLOCKING));
  OK(cuEventCreate(&e, 0));
  OK(cuCtxSynchronize());
  IS(CUDA_ERROR_INVALID_VALUE, cuStreamEndCapture(s, &g)); /* not begun */
  IS(CUDA_ERROR_INVALID_VALUE, cuStreamBeginCapture_v2(s, 3));
#define BEGIN OK(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL))
#define ENDS(error) IS(error, cuStreamEndCapture(s, &g))
  BEGIN;
  IS(CUDA_ERROR_INVALID_VALUE, cuStreamBeginCapture_v2(s, 0)); /* twice */
  OK(cuEventRecord(e, s));
  OK(cuStreamWaitEvent(t, e, 0));
  IS(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, cuStreamEndCapture(t, &g)); /* begun in s */
  ENDS(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
  BEGIN;
  OK(cuEventRecord(e, s));
  IS(CUDA_ERROR_CAPTURED_EVENT, cuEventSynchronize(e));
  ENDS(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
  BEGIN;
  OK(cuEventRecord(e, s));
  IS(CUDA_ERROR_CAPTURED_EVENT, cuEventQuery(e));
  ENDS(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
  BEGIN;
  IS(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuStreamQuery(s));
  IS(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuMemsetD8Async(x, 0, 4, s)); /* and what follows */
  ENDS(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
  BEGIN;
  ck_assert_int_eq(launch(f, x, y, 1, 64, NULL), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  ENDS(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
  BEGIN;
  IS(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuCtxSynchronize());
  ENDS(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
  BEGIN;
  IS(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuMemFree_v2(x));
  ENDS(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
  BEGIN;
  OK(cuStreamBeginCapture_v2(t, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
  OK(cuEventRecord(e, s));
  IS(CUDA_ERROR_STREAM_CAPTURE_MERGE, cuStreamWaitEvent(t, e, 0)); /* two captures */
  ENDS(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
  IS(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(t, &g));
  BEGIN;
  OK(cuEventRecord(e, s));
  IS(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, cuStreamWaitEvent(NULL, e, 0)); /* the legacy stream */
  ENDS(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
  ck_assert(first(y) == 1.0f); /* nothing of all that has run */
  BEGIN;
  ck_assert_int_eq(launch(f, x, y, 1, 64, s), CUDA_SUCCESS);
  ENDS(CUDA_SUCCESS);
  other = g;
  IS(CUDA_ERROR_INVALID_VALUE, cuGraphInstantiateWithFlags(&exec, g, 7));
  OK(cuGraphInstantiateWithFlags(&exec, g, 0));
  OK(cuGraphDestroy(g));
  IS(CUDA_ERROR_INVALID_HANDLE, cuGraphDestroy(other));
  CUgraphExec second;
  IS(CUDA_ERROR_INVALID_VALUE, cuGraphInstantiateWithFlags(&second, other, 0));
  OK(cuGraphLaunch(exec, s));
  OK(cuGraphExecDestroy(exec)); /* what is queued goes on */
  IS(CUDA_ERROR_INVALID_HANDLE, cuGraphLaunch(exec, s));
  IS(CUDA_ERROR_INVALID_HANDLE, cuGraphExecDestroy(exec));
  OK(cuStreamSynchronize(s));
  ck_assert(first(y) == 2.0f);
}
END_TEST

int main(void) {
  TCase *t = tcase_create("driver");
  tcase_set_timeout(t, 60);
  tcase_add_test(t, device);
  tcase_add_test(t, modules);
  tcase_add_test(t, launch_limits);
  tcase_add_test(t, streams_are_late);
  tcase_add_test(t, event_times);
  tcase_add_test(t, capture_and_replay);
  tcase_add_test(t, capture_refusals);
  tcase_add_test(t, sticky_errors);
  tcase_add_test(t, injected_faults);
  tcase_add_test(t, missing_pieces);
  tcase_add_test(t, before_init);
  tcase_add_test(t, every_call_before_init);
  tcase_add_test(t, every_call_without_context);
  tcase_add_test(t, every_call_with_nothing);
  tcase_add_test(t, every_call_after_a_fault);
  tcase_add_test(t, memory_misuse);
  tcase_add_test(t, handle_misuse);
  tcase_add_test(t, capture_misuse);
  Suite *s = suite_create("emu/driver");
  suite_add_tcase(s, t);
  return check_run(s);
}
