/* One group as a kernel on the stand-in for a GPU, beside the reference interpreter. Everything
 * aborts on failure: the callers cannot go on. */
#ifndef TESTS_CUDA_KERNEL_H
#define TESTS_CUDA_KERNEL_H

#include "codegen/cuda/nvrtc.h"
#include "runtime/cuda/syms.h"
#include "tests/check_run.h"
#include "tests/kernel_run.h"

enum { GPU_ARGS = 32, GPU_GUARD = 256 };

typedef struct {
  mprt__cuda_api api;
  CUcontext context;
  CUmodule module;
  CUfunction function;
  Kernel k;
  CUdeviceptr at[GPU_ARGS]; /* results, operands */
} Gpu;

#define GPU_TRY(call) run_check((call) == CUDA_SUCCESS, #call)

/* Compiles t for an architecture; a group's attributes and accesses stay the caller's. */
static inline void gpu_compile(Gpu *x, Group *t, const char *arch) {
  char why[MPRT__CUDA_WHY], error[256] = "";
  int at = 0;
  void *ptx = NULL;
  size_t bytes = 0;
  *x = (Gpu){.k = {.group = &t->op, .symbol = "kernel"}};
  const char *file = getenv("MPCC_KERNEL_CUDA");
  if (file && target_cuda.compile(arch, &x->k, 1, 2, "cuda", error, &at, &ptx, &bytes) == MPCC_OK) {
    FILE *f = fopen(file, "w");
    run_check(f != NULL, file);
    fwrite(ptx, 1, bytes, f);
    fclose(f);
    free(ptx);
  }
  run_check(target_cuda.compile(arch, &x->k, 1, 2, "ptx", error, &at, &ptx, &bytes) == MPCC_OK,
            error);
  char *text = realloc(ptx, bytes + 1);
  run_check(text != NULL, "no memory");
  text[bytes] = 0;
  run_check(mprt__cuda_open(&x->api, why) == MPRT__CUDA_READY, why);
  GPU_TRY(x->api.cuDevicePrimaryCtxRetain(&x->context, 0));
  GPU_TRY(x->api.cuCtxSetCurrent(x->context));
  GPU_TRY(x->api.cuModuleLoadData(&x->module, text));
  GPU_TRY(x->api.cuModuleGetFunction(&x->function, x->module, "kernel"));
  if (x->k.scratch_bytes > 48 << 10)
    GPU_TRY(x->api.cuFuncSetAttribute(x->function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                                      (int)x->k.scratch_bytes));
  free(text);
}

static inline size_t elems_bytes(const Elems *e) {
  return (size_t)e->n * dtype_bytes(e->dt);
}

/* Runs the kernel: results to out[].data, which is full of NaN before. */
static inline void gpu_run(Gpu *x, const Group *t, const Elems *in, Elems *out) {
  const int nin = t->op.nin, nout = t->op.nout;
  uint64_t value[GPU_ARGS];
  void *arg[GPU_ARGS];
  int n = 0;
  for (int i = 0; i < nout + nin; i++, n++) {
    const Elems *e = i < nout ? &out[i] : &in[i - nout];
    const Access *a = i < nout ? &t->body.out[i] : &t->body.in[i - nout];
    GPU_TRY(x->api.cuMemAlloc_v2(&x->at[i], elems_bytes(e)));
    GPU_TRY(x->api.cuMemcpyHtoDAsync_v2(x->at[i], e->data, elems_bytes(e), NULL));
    value[n] = x->at[i] + (uint64_t)a->offset * dtype_bytes(e->dt);
  }
  for (int i = 0; i < t->body.nparam; i++)
    value[n++] = (uint64_t)t->body.param[i];
  for (int i = 0; i < n; i++)
    arg[i] = &value[i];
  GPU_TRY(x->api.cuLaunchKernel(x->function, (unsigned)x->k.ntiles, (unsigned)x->k.columns, 1,
                                (unsigned)x->k.threads, 1, 1, (unsigned)x->k.scratch_bytes, NULL,
                                arg, NULL));
  for (int i = 0; i < nout; i++)
    GPU_TRY(x->api.cuMemcpyDtoHAsync_v2(out[i].data, x->at[i], elems_bytes(&out[i]), NULL));
  GPU_TRY(x->api.cuStreamSynchronize(NULL));
  for (int i = 0; i < nout + nin; i++)
    GPU_TRY(x->api.cuMemFree_v2(x->at[i]));
}

static inline void gpu_close(Gpu *x) {
  GPU_TRY(x->api.cuModuleUnload(x->module));
  GPU_TRY(x->api.cuDevicePrimaryCtxRelease_v2(0));
}

#endif
