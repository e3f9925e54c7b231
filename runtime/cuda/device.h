/* A GPU as the device of a program: private to runtime/. */
#ifndef MPCC_RUNTIME_CUDA_DEVICE_H
#define MPCC_RUNTIME_CUDA_DEVICE_H

#include "runtime/rt.h"

/* Takes hold of device "cuda" or "cuda:N" when it can run code of `level`; quiet: no words when it
 * cannot. why: MPRT__CUDA_WHY bytes, the reason when there is a GPU that cannot. errors: ERR_TARGET
 * (no driver, no such device, too old), ERR_RUN, ERR_NOMEM; *out = NULL
 */
Status mprt__cuda_create(const mprt_program *p, const char *device, const char *level, bool quiet,
                         char *why, mprt__cuda **out);
void mprt__cuda_destroy(const mprt_program *p, mprt__cuda *g); /* NULL is fine */
/* Kernels of p->chosen, and zeroed segments. errors: ERR_INPUT, ERR_RUN, ERR_NOMEM */
Status mprt__cuda_load(const mprt_program *p, mprt__cuda *g);
/* Brings a tensor into the mirror; write: what the host then puts there goes to the device before
 * the next run. errors: ERR_RUN */
Status mprt__cuda_share(const mprt_program *p, mprt__cuda *g, uint32_t tensor, bool write);
/* Says that the host will write these bytes of a tensor in the mirror, and reads none. */
void mprt__cuda_will_write(const mprt_program *p, mprt__cuda *g, uint32_t tensor, uint64_t offset,
                           uint64_t bytes);
/* Until the device has nothing left to do. errors: ERR_RUN */
Status mprt__cuda_wait(const mprt_program *p, mprt__cuda *g);
/* Zeroes a segment on the device. */
Status mprt__cuda_clear(const mprt_program *p, mprt__cuda *g, int segment);
/* The first failure so far: the context is lost then. */
Status mprt__cuda_status(const mprt__cuda *g);
/* Which algorithms the products of the program use, as a new object for state.json; NULL: it has no
 * products, or memory is short. */
json_t *mprt__cuda_algorithms(const mprt_program *p, const mprt__cuda *g);
/* Takes those of a checkpoint where device, library and product are the same. */
void mprt__cuda_recall(const mprt_program *p, mprt__cuda *g, const json_t *algorithms);
/* Times what the library offers for every product that no checkpoint has chosen for. Not later than
 * here is known whether there is a checkpoint: before the first step, which waits for nothing. errors:
 * ERR_RUN, ERR_NOMEM */
Status mprt__cuda_choose(const mprt_program *p, mprt__cuda *g);
/* mprt__run on the device; returns before it is done. clock: hears what each command took, NULL:
 * nobody asks; with one the commands run one after the other, to the same bits, and it returns when
 * they are done. */
Status mprt__cuda_run(mprt_program *p, mprt__cuda *g, const MpccFunction *f, mprt__observer observe,
                      void *user, const mprt__clock *clock);
/* mprt_run_kernel for kernel i; nkernel: a product. errors: ERR_INPUT, ERR_RUN, ERR_NOMEM */
Status mprt__cuda_run_kernel(const mprt_program *p, mprt__cuda *g, uint32_t i, const MpccArg *args,
                             const uint64_t *bytes, int n, int nout);

#endif
