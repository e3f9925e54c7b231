/* What a command moves and computes, from the image alone. */
#ifndef BENCH_TRAFFIC_H
#define BENCH_TRAFFIC_H

#include <stdbool.h>

#include "mpcc/abi.h"

/* Bytes of argument i that an argument in front of it, read (written) like it, has touched: q, k and
 * v are views of one value, whose rows they share out. */
static inline uint64_t bytes_shared(const MpccCommand *c, const MpccArgRef *arg, uint32_t i) {
  uint64_t most = 0;
  for (uint32_t k = 0; k < i; k++) {
    const bool same = (k - c->first_out < c->nout) == (i - c->first_out < c->nout);
    const int64_t begin = arg[k].offset > arg[i].offset ? arg[k].offset : arg[i].offset;
    const int64_t end_k = arg[k].offset + (int64_t)arg[k].bytes;
    const int64_t end_i = arg[i].offset + (int64_t)arg[i].bytes, end = end_k < end_i ? end_k : end_i;
    if (same && arg[k].segment == arg[i].segment && end > begin && (uint64_t)(end - begin) > most)
      most = (uint64_t)(end - begin);
  }
  return most;
}

/* Every byte once, which is the least it can move when nothing is in a cache; an argument counts
 * from where it begins to the end of its value. arg: the command's first. */
static inline uint64_t command_bytes(const MpccCommand *c, const MpccArgRef *arg) {
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < c->nargs; i++)
    bytes += arg[i].segment == MPCC_ARG_INT ? 0
             : c->op == MPCC_CMD_LAUNCH || c->op == MPCC_CMD_PRODUCT
                 ? arg[i].bytes - bytes_shared(c, arg, i)
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
