/* The pool: every tile once, whatever the counts; sleepers wake; floating point mode; quotas. */
#include <pmmintrin.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#include "runtime/rt.h"
#include "tests/check_run.h"

enum { MOST = 5000 };
static _Atomic int done[MOST];
static _Atomic int calls, subnormals_kept;
static pthread_t caller;
static _Atomic bool elsewhere, shared_scratch;

static void count_kernel(const MpccArg *args, int64_t first, int64_t end, void *scratch) {
  (void)args;
  calls++;
  *(volatile int64_t *)scratch = first;
  for (int64_t t = first; t < end; t++)
    done[t]++;
  if (*(volatile int64_t *)scratch != first)
    shared_scratch = true;
  if (!pthread_equal(pthread_self(), caller))
    elsewhere = true;
}

static void check_tiles(int n, int times) {
  for (int i = 0; i < MOST; i++)
    ck_assert_msg(done[i] == (i < n ? times : 0), "%d tiles: tile %d ran %d times", n, i, done[i]);
}

START_TEST(each_tile_once) {
  static const int tiles[] = {0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 64, 100, 1000, MOST};
  mprt__pool *pool;
  ck_assert_int_eq(mprt__pool_create(_i, 64, &pool), MPCC_OK);
  ck_assert_int_eq(mprt__pool_threads(pool), _i);
  for (size_t k = 0; k < sizeof tiles / sizeof *tiles; k++) {
    for (int i = 0; i < MOST; i++)
      done[i] = 0;
    for (int repeat = 0; repeat < 50; repeat++)
      mprt__pool_run(pool, count_kernel, NULL, tiles[k]);
    check_tiles(tiles[k], 50);
  }
  ck_assert(!shared_scratch);
  mprt__pool_destroy(pool);
}
END_TEST

START_TEST(one_tile_wakes_nobody) {
  mprt__pool *pool;
  caller = pthread_self();
  elsewhere = false;
  calls = 0;
  ck_assert_int_eq(mprt__pool_create(4, 64, &pool), MPCC_OK);
  for (int i = 0; i < 1000; i++)
    mprt__pool_run(pool, count_kernel, NULL, 1);
  ck_assert_int_eq(calls, 1000);
  ck_assert(!elsewhere);
  mprt__pool_destroy(pool);
}
END_TEST

START_TEST(sleeping_workers_come) {
  mprt__pool *pool;
  ck_assert_int_eq(mprt__pool_create(3, 64, &pool), MPCC_OK);
  for (int repeat = 0; repeat < 20; repeat++) {
    for (int i = 0; i < MOST; i++)
      done[i] = 0;
    usleep(2000); /* past the spin: everyone sleeps */
    mprt__pool_run(pool, count_kernel, NULL, 100);
    check_tiles(100, 1);
  }
  mprt__pool_destroy(pool);
}
END_TEST

static _Atomic int slow_in_share, slow_tiles;

/* Tile 0 takes as long as all others need to be taken by someone else. */
static void uneven_kernel(const MpccArg *args, int64_t first, int64_t end, void *scratch) {
  (void)args;
  (void)scratch;
  for (int64_t t = first; t < end; t++) {
    if (t == 0)
      for (int i = 0; i < 2000 && slow_tiles < slow_in_share; i++)
        usleep(1000);
    else
      slow_tiles++;
  }
}

START_TEST(idle_workers_help) {
  mprt__pool *pool;
  ck_assert_int_eq(mprt__pool_create(2, 0, &pool), MPCC_OK);
  /* 64 tiles: share 0 is [0, 32), its first piece [0, 16). Tile 0 waits for the 48 outside that
   * piece: 16 of them belong to the same share and only a thief can run them. */
  slow_in_share = 48;
  slow_tiles = 0;
  struct timespec a, b;
  clock_gettime(CLOCK_MONOTONIC, &a);
  mprt__pool_run(pool, uneven_kernel, NULL, 64);
  clock_gettime(CLOCK_MONOTONIC, &b);
  ck_assert_int_eq(slow_tiles, 63);
  ck_assert_int_lt(b.tv_sec - a.tv_sec, 2); /* else tile 0 waited in vain */
  mprt__pool_destroy(pool);
}
END_TEST

static void subnormal_kernel(const MpccArg *args, int64_t first, int64_t end, void *scratch) {
  volatile float small = 0x1p-126f, half = 0.5f;
  (void)args;
  (void)scratch;
  for (int64_t t = first; t < end; t++)
    subnormals_kept += small * half == 0x1p-127f;
}

START_TEST(subnormals_are_kept_whatever_the_host_does) {
  mprt__pool *pool;
  unsigned before = _mm_getcsr();
  _MM_SET_FLUSH_ZERO_MODE(_MM_FLUSH_ZERO_ON);
  _MM_SET_DENORMALS_ZERO_MODE(_MM_DENORMALS_ZERO_ON);
  unsigned host = _mm_getcsr();
  ck_assert_int_eq(mprt__pool_create(3, 0, &pool), MPCC_OK);
  subnormals_kept = 0;
  mprt__pool_run(pool, subnormal_kernel, NULL, 300);
  mprt__pool_run(pool, subnormal_kernel, NULL, 1);
  mprt__pool_run_tile(pool, subnormal_kernel, NULL, 0);
  ck_assert_uint_eq(_mm_getcsr() & 0xffc0, host & 0xffc0); /* the host gets its mode back */
  _mm_setcsr(before);
  ck_assert_int_eq(subnormals_kept, 302);
  mprt__pool_destroy(pool);
}
END_TEST

START_TEST(pools_come_and_go) {
  for (int i = 0; i < 200; i++) {
    mprt__pool *pool;
    ck_assert_int_eq(mprt__pool_create(1 + i % 5, 100, &pool), MPCC_OK);
    if (i % 2)
      mprt__pool_run(pool, count_kernel, NULL, 16);
    mprt__pool_destroy(pool);
  }
  mprt__pool_destroy(NULL);
}
END_TEST

START_TEST(scratch_that_cannot_be) {
  mprt__pool *pool = (mprt__pool *)&calls;
  ck_assert_int_eq(mprt__pool_create(4, SIZE_MAX / 3, &pool), MPCC_ERR_NOMEM);
  ck_assert_ptr_null(pool);
}
END_TEST

START_TEST(quotas) {
  ck_assert_int_eq(mprt__quota_cpus("max 100000\n", NULL), 0);
  ck_assert_int_eq(mprt__quota_cpus("200000 100000\n", NULL), 2);
  ck_assert_int_eq(mprt__quota_cpus("150000 100000\n", NULL), 2);
  ck_assert_int_eq(mprt__quota_cpus("50000 100000\n", NULL), 1);
  ck_assert_int_eq(mprt__quota_cpus("400000", NULL), 4);
  ck_assert_int_eq(mprt__quota_cpus("-1\n", "100000\n"), 0);
  ck_assert_int_eq(mprt__quota_cpus("300000\n", "100000\n"), 3);
  ck_assert_int_eq(mprt__quota_cpus("300000\n", "0\n"), 0);
  ck_assert_int_eq(mprt__quota_cpus("", NULL), 0);
  ck_assert_int_ge(mprt__cpu_count(), 1);
  ck_assert_int_le(mprt__cpu_count(), (int)sysconf(_SC_NPROCESSORS_CONF));
}
END_TEST

int main(void) {
  TCase *t = tcase_create("threads");
  tcase_set_timeout(t, 120);
  tcase_add_loop_test(t, each_tile_once, 1, 9);
  tcase_add_test(t, one_tile_wakes_nobody);
  tcase_add_test(t, sleeping_workers_come);
  tcase_add_test(t, idle_workers_help);
  tcase_add_test(t, subnormals_are_kept_whatever_the_host_does);
  tcase_add_test(t, pools_come_and_go);
  tcase_add_test(t, scratch_that_cannot_be);
  tcase_add_test(t, quotas);
  Suite *s = suite_create("threads");
  suite_add_tcase(s, t);
  return check_run(s);
}
