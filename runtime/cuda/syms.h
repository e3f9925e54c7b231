/* The CUDA libraries, loaded at run time: tables of their functions, and names for what is missing.
 */
#ifndef MPCC_RUNTIME_CUDA_SYMS_H
#define MPCC_RUNTIME_CUDA_SYMS_H

#include "runtime/cuda/api.h"

/* What stands between this process and a GPU, in the order it is found. */
typedef enum {
  MPRT__CUDA_READY,
  MPRT__CUDA_NO_DRIVER,   /* libcuda.so.1 is not there, or does not load */
  MPRT__CUDA_OLD_DRIVER,  /* it is older than the programs need, or lacks a function */
  MPRT__CUDA_NO_DEVICE,   /* the driver sees no GPU */
  MPRT__CUDA_FAILED,      /* the driver answers an error */
  MPRT__CUDA_NO_CUBLASLT, /* neither libcublasLt.so.13 nor .12 is there and loads */
  MPRT__CUDA_OLD_CUBLASLT /* it lacks a function */
} mprt__cuda_state;

enum {
  MPRT__CUDA_MIN_VERSION = 13000, /* of cuDriverGetVersion: PTX 9.0 needs CUDA 13.0 */
  MPRT__CUDA_WHY = 256            /* bytes of a message */
};

typedef struct {
  void *library;
#define CUDA_SYM(name, args) CUresult(*name) args;
#define LT_SYM(result, name, args)
#include "runtime/cuda/syms.def"
#undef CUDA_SYM
#undef LT_SYM
} mprt__cuda_api;

typedef struct {
  void *library;
#define CUDA_SYM(name, args)
#define LT_SYM(result, name, args) result(*name) args;
#include "runtime/cuda/syms.def"
#undef CUDA_SYM
#undef LT_SYM
} mprt__lt_api;

/* Loads libcuda.so.1, initializes it and sees that it is new enough and has a device. On failure
 * *api is all NULL and `why` says, in one line, what is missing and what to do. The libraries stay
 * loaded when closed by nobody: unloading a driver is not safe. */
mprt__cuda_state mprt__cuda_open(mprt__cuda_api *api, char why[MPRT__CUDA_WHY]);
/* The same for libcublasLt.so.13, or .12, which only programs with matrix products need. */
mprt__cuda_state mprt__lt_open(mprt__lt_api *api, char why[MPRT__CUDA_WHY]);
/* Turns a driver error into one line: what was done, the error's name and number, its text. */
void mprt__cuda_error(const mprt__cuda_api *api, CUresult error, const char *doing,
                      char why[MPRT__CUDA_WHY]);

#endif
