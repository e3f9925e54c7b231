/* What a command moves and computes, from the image alone. */
#ifndef BENCH_TRAFFIC_H
#define BENCH_TRAFFIC_H

#include "mpcc/abi.h"

/* Every argument once, which is the least it can move when nothing is in a cache; an argument
 * counts from where it begins to the end of its value. arg: the command's first. */
static inline uint64_t command_bytes(const MpccCommand *c, const MpccArgRef *arg) {
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < c->nargs; i++)
    bytes += arg[i].segment == MPCC_ARG_INT                          ? 0
             : c->op == MPCC_CMD_LAUNCH || c->op == MPCC_CMD_PRODUCT ? arg[i].bytes
                                                                     : c->bytes;
  return bytes;
}

/* Of products by the target's library: rows, cols, k behind `with`. Of others 0. */
static inline double command_flops(const MpccCommand *c, const MpccArgRef *arg) {
  if (c->op != MPCC_CMD_PRODUCT)
    return 0;
  const MpccArgRef *ints = arg + c->nargs - MPCC_PRODUCT_INTS;
  return 2.0 * (double)ints[1].offset * (double)ints[2].offset * (double)ints[3].offset;
}

#endif
