/* The runtime's thread pool for benches, whose other half includes the compiler's headers: both
 * cannot be seen in one file. */
#ifndef MPCC_BENCH_POOL_H
#define MPCC_BENCH_POOL_H

#include <stddef.h>

#include "mpcc/abi.h"

typedef struct mprt__pool BenchPool;

/* scratch_bytes: per thread. NULL without memory. */
BenchPool *bench_pool_create(int threads, size_t scratch_bytes);
void bench_pool_destroy(BenchPool *pool);
int bench_pool_threads(const BenchPool *pool);
void bench_pool_run(BenchPool *pool, MpccKernelFn fn, const MpccArg *args, int64_t ntiles);

#endif
