/* Private to package.c and commands*.c: an image while it is written. */
#ifndef MPCC_CODEGEN_PACKAGE_H
#define MPCC_CODEGEN_PACKAGE_H

#include "codegen/codegen.h"
#include "mpcc/abi.h"

/* Tables of the image under construction. `failed`: memory is short; `status`: anything else. */
typedef struct {
  const Module *m;
  const KernelTable *kernels;
  const Diag *files;
  Text strings, tensors, functions, commands, args, kernel_rows, codes, objects;
  /* Offsets of strings by content: open addressing over indices into `strings`. */
  uint32_t *slot;
  size_t nslot, nstring;
  const Op *scan; /* whose body is being written; NULL outside */
  bool failed;
  Status status;
} Package;

/* ---- package.c ---- */

uint32_t package_string(Package *p, const char *s); /* offset of s; "" and NULL are at 0 */
uint32_t package_segment(Role r);

/* ---- commands.c ---- */

/* The commands and arguments of a function that is no body, and its row. */
void commands_function(Package *p, const Func *f);
/* Those of one group: a launch, a fill, copies, a product, or nothing. */
void commands_group(Package *p, const Op *op);
/* A command with what diagnostics and profiles say of it; types: of its nresult results. */
void commands_put(Package *p, const Op *op, MpccCommand c, const char *label, int nresult,
                  const Type *const *types);
/* `to` gets the bytes of `from`, a value of this type. */
void commands_copy(Package *p, const Op *op, MpccArgRef to, MpccArgRef from, const char *label,
                   const Type *type);
/* Where a value lies; those of a loop's body, in this iteration. */
MpccArgRef commands_place(Package *p, const Value *v);

/* ---- commands_loop.c ---- */

/* Value v of a body where it lies in the values of the scan that is being written: an arg, or one
 * that is yielded and has no place of its own. False for others. */
bool loop_holds(Package *p, const Value *v, MpccArgRef *out);
/* A scan: the states before the first iteration, what the iterations share, and the loop itself. */
void commands_scan(Package *p, const Op *scan);

#endif
