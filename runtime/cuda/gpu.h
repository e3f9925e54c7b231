/* What the files of runtime/cuda share: the device as it is held. */
#ifndef MPCC_RUNTIME_CUDA_GPU_H
#define MPCC_RUNTIME_CUDA_GPU_H

#include "runtime/cuda/device.h"
#include "runtime/cuda/syms.h"

struct mprt__cuda {
  mprt__cuda_api api;
  CUdevice device;
  int capability; /* 90: 9.0 */
  CUcontext context;
  CUstream stream;
  CUdeviceptr segment[MPCC_SEG_COUNT];
  CUmodule *module; /* per object of the archive */
  uint64_t nmodule;
  CUfunction *function; /* per kernel */
  bool *dirty;          /* per tensor: the mirror is newer */
  bool any_dirty;
  const char *last; /* label of the newest launch: an error may be noticed late */
  Status failure;   /* the first; a context that failed stays so */
};

/* ---- device.c -------------------------------------------------------------------------------- */

/* Tells the first failure, keeps it and returns its status; later ones are consequences. */
Status mprt__cuda_failed(const mprt_program *p, mprt__cuda *g, CUresult r, const char *doing);
#define CUDA_TRY(call, doing)                                                                      \
  do {                                                                                             \
    const CUresult r_ = (call);                                                                    \
    if (r_ != CUDA_SUCCESS)                                                                        \
      return mprt__cuda_failed(p, g, r_, doing);                                                   \
  } while (0)

/* ---- modules.c ------------------------------------------------------------------------------- */

/* Loads the objects of p->chosen and finds every kernel. errors: ERR_INPUT, ERR_RUN, ERR_NOMEM */
Status mprt__cuda_modules(const mprt_program *p, mprt__cuda *g);
void mprt__cuda_unload(mprt__cuda *g);

#endif
