/* See pool.h. */
#include "bench/pool.h"

#include "runtime/rt.h"

BenchPool *bench_pool_create(int threads, size_t scratch_bytes) {
  mprt__pool *pool = NULL;
  return mprt__pool_create(threads, scratch_bytes, &pool) == MPCC_OK ? pool : NULL;
}

void bench_pool_destroy(BenchPool *pool) {
  mprt__pool_destroy(pool);
}

int bench_pool_threads(const BenchPool *pool) {
  return mprt__pool_threads(pool);
}

void bench_pool_run(BenchPool *pool, MpccKernelFn fn, const MpccArg *args, int64_t ntiles) {
  mprt__pool_run(pool, fn, args, ntiles);
}
