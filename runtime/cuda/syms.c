/* Loads libcuda.so.1 and libcublasLt.so.13, else .12, by the loader's normal search, function by
 * function from syms.def. Every machine builds this; only one with a driver gets past it. */
#include "runtime/cuda/syms.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

/* dlsym gives an object pointer; ISO C has no cast from it to a function, POSIX has this. */
static int load(void *library, const char *name, void *function) {
  void *p = dlsym(library, name);
  memcpy(function, &p, sizeof p);
  return p != NULL;
}

mprt__cuda_state mprt__cuda_open(mprt__cuda_api *api, char why[MPRT__CUDA_WHY]) {
  memset(api, 0, sizeof *api);
  why[0] = 0;
  mprt__cuda_api a;
  memset(&a, 0, sizeof a);
  a.library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!a.library) {
    const char *words = dlerror();
    snprintf(why, MPRT__CUDA_WHY, "no NVIDIA driver: %s", words ? words : "libcuda.so.1");
    return MPRT__CUDA_NO_DRIVER;
  }
  int version = 0;
  if (load(a.library, "cuDriverGetVersion", &a.cuDriverGetVersion) &&
      a.cuDriverGetVersion(&version) == CUDA_SUCCESS && version < MPRT__CUDA_MIN_VERSION) {
    snprintf(why, MPRT__CUDA_WHY,
             "the NVIDIA driver is for CUDA %d.%d; this program needs CUDA %d.%d or newer",
             version / 1000, version % 1000 / 10, MPRT__CUDA_MIN_VERSION / 1000,
             MPRT__CUDA_MIN_VERSION % 1000 / 10);
    return MPRT__CUDA_OLD_DRIVER;
  }
  const char *missing = NULL;
#define CUDA_SYM(name, args)                                                                       \
  if (!load(a.library, #name, &a.name) && !missing)                                                \
    missing = #name;
#define LT_SYM(result, name, args)
#include "runtime/cuda/syms.def"
#undef CUDA_SYM
#undef LT_SYM
  if (missing) {
    snprintf(why, MPRT__CUDA_WHY, "the NVIDIA driver has no function %s; a newer one is needed",
             missing);
    return MPRT__CUDA_OLD_DRIVER;
  }
  CUresult r = a.cuInit(0);
  int n = 0;
  if (r == CUDA_SUCCESS)
    r = a.cuDeviceGetCount(&n);
  if (r == CUDA_ERROR_NO_DEVICE || (r == CUDA_SUCCESS && n == 0)) {
    snprintf(why, MPRT__CUDA_WHY, "the NVIDIA driver sees no GPU");
    return MPRT__CUDA_NO_DEVICE;
  }
  if (r != CUDA_SUCCESS) {
    mprt__cuda_error(&a, r, "cuInit", why);
    return MPRT__CUDA_FAILED;
  }
  *api = a;
  return MPRT__CUDA_READY;
}

/* The newest that is there. What is used of the library (syms.def, constants.def) is the same in
 * both, and a driver for CUDA 13 runs either. NULL: `why` says what the newest lacks. */
static void *open_lt(const char **name, char why[MPRT__CUDA_WHY]) {
  static const char *const names[] = {"libcublasLt.so.13", "libcublasLt.so.12"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    void *library = dlopen(*name = names[i], RTLD_NOW | RTLD_LOCAL);
    const char *words = library ? NULL : dlerror();
    if (library)
      return library;
    if (i == 0)
      snprintf(why, MPRT__CUDA_WHY, "no cuBLASLt: %s; install the CUDA 13 run-time libraries",
               words ? words : names[i]);
  }
  return NULL;
}

mprt__cuda_state mprt__lt_open(mprt__lt_api *api, char why[MPRT__CUDA_WHY]) {
  const char *name = NULL;
  memset(api, 0, sizeof *api);
  why[0] = 0;
  mprt__lt_api a;
  memset(&a, 0, sizeof a);
  a.library = open_lt(&name, why);
  if (!a.library)
    return MPRT__CUDA_NO_CUBLASLT;
  why[0] = 0;
  const char *missing = NULL;
#define CUDA_SYM(name, args)
#define LT_SYM(result, name, args)                                                                 \
  if (!load(a.library, #name, &a.name) && !missing)                                                \
    missing = #name;
#include "runtime/cuda/syms.def"
#undef CUDA_SYM
#undef LT_SYM
  if (missing) {
    snprintf(why, MPRT__CUDA_WHY, "%s has no function %s; a newer one is needed", name, missing);
    return MPRT__CUDA_OLD_CUBLASLT;
  }
  *api = a;
  return MPRT__CUDA_READY;
}

void mprt__cuda_error(const mprt__cuda_api *api, CUresult error, const char *doing,
                      char why[MPRT__CUDA_WHY]) {
  const char *name = NULL, *text = NULL;
  if (api->cuGetErrorName && api->cuGetErrorString) {
    if (api->cuGetErrorName(error, &name) != CUDA_SUCCESS)
      name = NULL;
    if (api->cuGetErrorString(error, &text) != CUDA_SUCCESS)
      text = NULL;
  }
  snprintf(why, MPRT__CUDA_WHY, "%s: %s (%d)%s%s", doing, name ? name : "unknown CUDA error", error,
           text ? ": " : "", text ? text : "");
}
