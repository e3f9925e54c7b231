/* NVRTC, found at run time: CUDA text to PTX and cubin. Only nvrtc.c sees the library. */
#ifndef MPCC_CUDA_NVRTC_H
#define MPCC_CUDA_NVRTC_H

#include <stdbool.h>
#include <stddef.h>

typedef struct Nvrtc Nvrtc;

/* Opens the library: $MPCC_NVRTC, then by its name, then below $CUDA_HOME and the toolkit's usual
 * folder. NULL when it is not there or too old, with the reason in error[256]. Never closed: it
 * cannot be unloaded safely. Thread safe. */
const Nvrtc *nvrtc_open(char *error);
/* "13.0" as one text for cache keys: borrowed. */
const char *nvrtc_version(const Nvrtc *n);
/* The options that nvrtc_compile passes beside the architecture, as one text for cache keys. */
void nvrtc_options(bool exact, char options[200]);
/* Compiles for arch "sm_90": ptx (zero-terminated) and cubin, each malloc'ed; the pointers may be NULL
 * when not wanted. exact: no contraction of a * b + c. *log: what the compiler said (registers, spills, shared memory of each kernel), also
 * on failure; malloc'ed or NULL. False on failure. Thread safe. */
bool nvrtc_compile(const Nvrtc *n, const char *text, const char *arch, bool exact, char **ptx,
                   void **cubin, size_t *cubin_bytes, char **log);

/* Registers of a thread, and bytes it keeps in memory for want of them, of kernel `symbol` by such a log.
 * False when the log does not have it. Pure. */
bool nvrtc_figures(const char *log, const char *symbol, int *registers, int *spill_bytes);

#endif
