/* One kernel or product by itself, on buffers of the host: what judges a kernel brings its own
 * operands. */
#include <stdlib.h>
#include <string.h>

#include "runtime/cuda/gpu.h"

/* Values of the arguments: addresses of copies on the device, or the integers they are. */
static Status copy_in(const mprt_program *p, mprt__cuda *g, const MpccArg *args,
                      const uint64_t *bytes, int n, uint64_t *value) {
  for (int i = 0; i < n; i++) {
    value[i] = bytes[i] ? 0 : (uint64_t)args[i].i;
    if (!bytes[i])
      continue;
    CUdeviceptr at = 0;
    CUDA_TRY(g->api.cuMemAlloc_v2(&at, bytes[i]), "out of device memory");
    value[i] = at;
    CUDA_TRY(g->api.cuMemcpyHtoDAsync_v2(at, args[i].p, bytes[i], g->stream),
             "cannot copy to the device");
  }
  return MPCC_OK;
}

/* The last arguments say which, those in front of them are its operands. */
static Status product(const mprt_program *p, mprt__cuda *g, const uint64_t *value, int n) {
  MpccProduct m;
  CUdeviceptr operand[MPCC_PRODUCT_OPERANDS] = {0};
  int64_t ints[MPCC_PRODUCT_INTS];
  const int operands = n - MPCC_PRODUCT_INTS;
  if (operands < 3 || operands > MPCC_PRODUCT_OPERANDS)
    return mprt__fail(&p->cb, MPCC_ERR_INPUT, "a product has 3 to %d operands",
                      MPCC_PRODUCT_OPERANDS);
  for (int i = 0; i < MPCC_PRODUCT_INTS; i++)
    ints[i] = (int64_t)value[operands + i];
  memcpy(&m, ints, sizeof m);
  for (int i = 0; i < operands; i++)
    operand[i] = value[i];
  if (mpcc_product_operands(m.with) != (uint32_t)operands)
    return mprt__fail(&p->cb, MPCC_ERR_INPUT, "a product has not %d operands", operands);
  return mprt__cuda_multiply(p, g, &m, operand);
}

static Status launch(const mprt_program *p, mprt__cuda *g, uint32_t i, uint64_t *value, int n) {
  const MpccKernel *k = &p->kernel[i];
  const char *symbol = mprt__string(p, k->symbol);
  void **arg = calloc((size_t)n + 1, sizeof *arg);
  if (!arg)
    return mprt__nomem(&p->cb, "arguments");
  for (int a = 0; a < n; a++)
    arg[a] = &value[a];
  const CUresult r =
      g->api.cuLaunchKernel(g->function[i], (unsigned)k->ntiles, k->columns, 1, k->threads, 1, 1,
                            (unsigned)k->scratch_bytes, g->stream, arg, NULL);
  free(arg);
  g->last = symbol;
  return r == CUDA_SUCCESS ? MPCC_OK : mprt__cuda_failed(p, g, r, symbol);
}

static Status copy_out(const mprt_program *p, mprt__cuda *g, const MpccArg *args,
                       const uint64_t *bytes, int nout, const uint64_t *value) {
  for (int i = 0; i < nout; i++)
    CUDA_TRY(g->api.cuMemcpyDtoHAsync_v2(args[i].p, value[i], bytes[i], g->stream),
             "cannot copy from the device");
  CUDA_TRY(g->api.cuStreamSynchronize(g->stream), "the device failed");
  return MPCC_OK;
}

Status mprt__cuda_run_kernel(const mprt_program *p, mprt__cuda *g, uint32_t i, const MpccArg *args,
                             const uint64_t *bytes, int n, int nout) {
  if (g->failure != MPCC_OK)
    return g->failure;
  uint64_t *value = calloc((size_t)n + 1, sizeof *value);
  if (!value)
    return mprt__nomem(&p->cb, "arguments");
  const CUresult r = g->api.cuCtxSetCurrent(g->context);
  Status s = r == CUDA_SUCCESS ? MPCC_OK : mprt__cuda_failed(p, g, r, "cannot use the device");
  if (s == MPCC_OK)
    s = copy_in(p, g, args, bytes, n, value);
  if (s == MPCC_OK)
    s = i < p->nkernel ? launch(p, g, i, value, n) : product(p, g, value, n);
  if (s == MPCC_OK)
    s = copy_out(p, g, args, bytes, nout, value);
  for (int a = 0; a < n; a++)
    if (bytes[a] && value[a])
      g->api.cuMemFree_v2(value[a]);
  free(value);
  return s;
}
