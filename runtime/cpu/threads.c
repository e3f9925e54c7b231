/* Thread pool of the CPU device. One run processes the tiles of one kernel.
 *
 * A run is published by storing, per worker, a range word (run number << 32 | next tile) and then
 * the run number. A worker takes tiles by compare-and-swap on a range word, first its own, then the
 * others'. The run number inside the word makes a late worker harmless: it cannot take a tile of a
 * run it does not know, and until it has taken one it reads nothing that belongs to a run. So
 * nobody waits for workers that did not come: the run is over when the tiles are.
 *
 * Waiting, for work and for the end, is bounded spinning and then a futex. */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <xmmintrin.h>

#include "runtime/rt.h"

/* About 20 us of pauses, longer than the gap between two kernels of a step; then yields, some 200 us of
 * them, longer than threads end a large kernel apart: to be woken takes 30 to 60 us of the next one. Who
 * yields leaves the processor to others that want it. */
enum { PAUSES = 600, YIELDS = 400, CACHE_LINE = 64, MXCSR_DEFAULT = 0x1f80 };

typedef struct {
  _Alignas(CACHE_LINE) _Atomic uint64_t word; /* run << 32 | next tile of this share */
  uint8_t *scratch;
  mprt__pool *pool;
  pthread_t thread;
} Worker;

struct mprt__pool {
  _Alignas(CACHE_LINE) _Atomic uint32_t run; /* number of the newest run; futex of idle workers */
  _Atomic uint32_t sleepers;                 /* workers that wait or are about to */
  _Atomic bool stop;
  _Alignas(CACHE_LINE) _Atomic uint32_t remaining; /* tiles not yet finished; futex of the caller */
  _Atomic uint32_t caller_sleeps;
  /* Of run r at [r % 2]: what a worker that knows r reads is overwritten only when the range words
   * have gone on to r + 1, and then it can take nothing. */
  _Alignas(CACHE_LINE) _Atomic uint32_t ntiles[2];
  /* Written before the range words of a run, read after a tile of it was taken. */
  MpccKernelFn fn;
  const MpccArg *args;
  int nworker, nstarted;
  mprt__memory scratch;
  Worker worker[]; /* 0 is the caller */
};

static void futex_wait(_Atomic uint32_t *word, uint32_t value) {
  syscall(SYS_futex, (uint32_t *)word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int count) {
  syscall(SYS_futex, (uint32_t *)word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

/* One turn of spinning; false when there were enough. */
static bool spin(int *turn) {
  if (*turn < PAUSES)
    _mm_pause();
  else
    sched_yield();
  return ++*turn < PAUSES + YIELDS;
}

/* End of worker w's share; its begin is the end of the share before. */
static uint32_t share_end(uint32_t ntiles, int w, int nworker) {
  return (uint32_t)((uint64_t)ntiles * (uint64_t)(w + 1) / (uint64_t)nworker);
}

/* Takes tiles from share `v` of `run`, half of what is left at a time: few calls at first,
 * single tiles at the end, where others may help; all at once where there are no others. Returns 0
 * when nothing is left. */
static uint32_t take(mprt__pool *pool, int v, uint32_t run, uint32_t *first) {
  _Atomic uint64_t *word = &pool->worker[v].word;
  uint64_t seen = atomic_load_explicit(word, memory_order_acquire);
  for (;;) {
    uint32_t next = (uint32_t)seen;
    if ((uint32_t)(seen >> 32) != run)
      return 0;
    uint32_t ntiles = atomic_load_explicit(&pool->ntiles[run % 2], memory_order_relaxed);
    uint32_t end = share_end(ntiles, v, pool->nworker);
    if (next >= end)
      return 0;
    uint32_t n = pool->nworker == 1 ? end - next : (end - next + 1) / 2;
    if (atomic_compare_exchange_weak_explicit(word, &seen, seen + n, memory_order_acq_rel,
                                              memory_order_acquire)) {
      *first = next;
      return n;
    }
  }
}

/* Works on `run` until no tile is left to take. */
static void work(mprt__pool *pool, int me, uint32_t run) {
  for (int i = 0; i < pool->nworker; i++) {
    int v = (me + i) % pool->nworker;
    uint32_t first, n;
    while ((n = take(pool, v, run, &first)) > 0) {
      pool->fn(pool->args, first, (int64_t)first + n, pool->worker[me].scratch);
      if (atomic_fetch_sub(&pool->remaining, n) == n && atomic_load(&pool->caller_sleeps))
        futex_wake(&pool->remaining, 1);
    }
  }
}

/* Waits until the newest run is not `seen`; returns its number. */
static uint32_t await_run(mprt__pool *pool, uint32_t seen) {
  uint32_t run;
  int turn = 0;
  do {
    if ((run = atomic_load_explicit(&pool->run, memory_order_acquire)) != seen)
      return run;
  } while (spin(&turn));
  /* Both sides are sequentially consistent: either the caller sees a sleeper and wakes it, or the
   * sleeper sees the new run. */
  atomic_fetch_add(&pool->sleepers, 1);
  while ((run = atomic_load(&pool->run)) == seen)
    futex_wait(&pool->run, seen);
  atomic_fetch_sub(&pool->sleepers, 1);
  return run;
}

static void *worker_main(void *p) {
  Worker *w = p;
  mprt__pool *pool = w->pool;
  int me = (int)(w - pool->worker);
  uint32_t run = 0;
  _mm_setcsr(MXCSR_DEFAULT);
  for (;;) {
    run = await_run(pool, run);
    if (atomic_load_explicit(&pool->stop, memory_order_acquire))
      return NULL;
    work(pool, me, run);
  }
}

static Status pool_start(mprt__pool *pool) {
  /* Signals of the host belong to the host's threads. */
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  int failed = 0;
  for (int i = 1; i < pool->nworker && !failed; i++) {
    Worker *w = &pool->worker[i];
    failed = pthread_create(&w->thread, NULL, worker_main, w);
    pool->nstarted += !failed;
  }
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  return failed ? MPCC_ERR_NOMEM : MPCC_OK;
}

size_t mprt__scratch_stride(size_t scratch_bytes) {
  /* Whole cache lines and one to spare, so that neighbours never share one. */
  return (scratch_bytes + 2 * CACHE_LINE - 1) & ~(size_t)(CACHE_LINE - 1);
}

Status mprt__pool_create(int threads, size_t scratch_bytes, mprt__pool **out) {
  *out = NULL;
  size_t bytes, scratch, stride = mprt__scratch_stride(scratch_bytes);
  if (stride < scratch_bytes || __builtin_mul_overflow((size_t)threads, sizeof(Worker), &bytes) ||
      __builtin_mul_overflow((size_t)threads, stride, &scratch))
    return MPCC_ERR_NOMEM;
  mprt__pool *pool = aligned_alloc(CACHE_LINE, sizeof *pool + bytes);
  if (!pool)
    return MPCC_ERR_NOMEM;
  memset(pool, 0, sizeof *pool + bytes);
  if (mprt__memory_create(scratch, false, &pool->scratch) != MPCC_OK) {
    free(pool);
    return MPCC_ERR_NOMEM;
  }
  pool->nworker = threads;
  for (int i = 0; i < threads; i++) {
    pool->worker[i].pool = pool;
    pool->worker[i].scratch = pool->scratch.data + (size_t)i * stride;
  }
  Status s = pool_start(pool);
  if (s != MPCC_OK) {
    mprt__pool_destroy(pool);
    return s;
  }
  *out = pool;
  return MPCC_OK;
}

void mprt__pool_destroy(mprt__pool *pool) {
  if (!pool)
    return;
  atomic_store(&pool->stop, true);
  atomic_fetch_add(&pool->run, 1);
  futex_wake(&pool->run, INT_MAX);
  for (int i = 1; i <= pool->nstarted; i++)
    pthread_join(pool->worker[i].thread, NULL);
  mprt__memory_destroy(&pool->scratch);
  free(pool);
}

int mprt__pool_threads(const mprt__pool *pool) {
  return pool->nworker;
}

/* Publishes a run; the caller has not begun to work on it. */
static uint32_t publish(mprt__pool *pool, uint32_t ntiles) {
  uint32_t run = atomic_load_explicit(&pool->run, memory_order_relaxed) + 1;
  atomic_store_explicit(&pool->remaining, ntiles, memory_order_relaxed);
  atomic_store_explicit(&pool->ntiles[run % 2], ntiles, memory_order_relaxed);
  uint32_t begin = 0;
  for (int i = 0; i < pool->nworker; i++) {
    atomic_store_explicit(&pool->worker[i].word, (uint64_t)run << 32 | begin, memory_order_release);
    begin = share_end(ntiles, i, pool->nworker);
  }
  atomic_store(&pool->run, run);
  if (atomic_load(&pool->sleepers) > 0)
    futex_wake(&pool->run, INT_MAX);
  return run;
}

static void await_end(mprt__pool *pool) {
  uint32_t left;
  int turn = 0;
  do {
    if (atomic_load_explicit(&pool->remaining, memory_order_acquire) == 0)
      return;
  } while (spin(&turn));
  atomic_store(&pool->caller_sleeps, 1);
  while ((left = atomic_load(&pool->remaining)) != 0)
    futex_wait(&pool->remaining, left);
  atomic_store(&pool->caller_sleeps, 0);
}

void mprt__pool_run(mprt__pool *pool, MpccKernelFn fn, const MpccArg *args, int64_t ntiles) {
  unsigned mxcsr = _mm_getcsr();
  _mm_setcsr(MXCSR_DEFAULT); /* the host may have set flush-to-zero */
  if (ntiles == 1 || pool->nworker == 1) {
    if (ntiles > 0)
      fn(args, 0, ntiles, pool->worker[0].scratch);
  } else if (ntiles > 0) {
    pool->fn = fn;
    pool->args = args;
    work(pool, 0, publish(pool, (uint32_t)ntiles));
    await_end(pool);
  }
  _mm_setcsr(mxcsr);
}

void mprt__pool_run_tile(mprt__pool *pool, MpccKernelFn fn, const MpccArg *args, int64_t tile) {
  unsigned mxcsr = _mm_getcsr();
  _mm_setcsr(MXCSR_DEFAULT);
  fn(args, tile, tile + 1, pool->worker[0].scratch);
  _mm_setcsr(mxcsr);
}

void *mprt__pool_scratch(const mprt__pool *pool) {
  return pool->worker[0].scratch;
}

/* ---- how many threads ---- */

int mprt__quota_cpus(const char *quota, const char *period) {
  long long q, p = 100000;
  int n = sscanf(quota, "%lld %lld", &q, &p); /* "max 100000": no number, no limit */
  if (n < 1 || q <= 0 || (period && sscanf(period, "%lld", &p) != 1) || p <= 0)
    return 0;
  long long cpus = (q - 1) / p + 1;
  return cpus > INT_MAX ? INT_MAX : (int)cpus;
}

static bool read_line(const char *path, char *buf, size_t cap) {
  FILE *f = fopen(path, "re");
  if (!f)
    return false;
  bool ok = fgets(buf, (int)cap, f) != NULL;
  fclose(f);
  return ok;
}

/* Smallest quota of the cgroup at root/group and those above it. v1: `controller` mount. */
static int cgroup_cpus(const char *root, char *group, bool v1) {
  int best = 0;
  for (;;) {
    char path[4096], quota[64], period[64];
    int n =
        snprintf(path, sizeof path, "%s%s/%s", root, group, v1 ? "cpu.cfs_quota_us" : "cpu.max");
    int cpus = 0;
    if (n > 0 && (size_t)n < sizeof path && read_line(path, quota, sizeof quota)) {
      if (!v1) {
        cpus = mprt__quota_cpus(quota, NULL);
      } else {
        snprintf(path, sizeof path, "%s%s/cpu.cfs_period_us", root, group);
        if (read_line(path, period, sizeof period))
          cpus = mprt__quota_cpus(quota, period);
      }
    }
    if (cpus > 0 && (best == 0 || cpus < best))
      best = cpus;
    char *slash = strrchr(group, '/');
    if (!slash)
      return best;
    *slash = 0; /* the parent; "" is the root */
  }
}

/* Lines of /proc/self/cgroup are "ID:CONTROLLERS:PATH"; no controllers: version 2. */
static int quota_cpus(void) {
  FILE *f = fopen("/proc/self/cgroup", "re");
  if (!f)
    return 0;
  int best = 0;
  char line[4096];
  while (fgets(line, sizeof line, f)) {
    line[strcspn(line, "\n")] = 0;
    char *names = strchr(line, ':');
    char *group = names ? strchr(names + 1, ':') : NULL;
    if (!group)
      continue;
    *names++ = 0;
    *group++ = 0;
    bool v2 = !*names, cpu = false;
    char *rest = names;
    for (char *word; (word = strsep(&rest, ",")) != NULL;)
      cpu |= !strcmp(word, "cpu");
    if (!v2 && !cpu)
      continue;
    int cpus = cgroup_cpus(v2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu", group, !v2);
    if (cpus > 0 && (best == 0 || cpus < best))
      best = cpus;
  }
  fclose(f);
  return best;
}

static int affinity_cpus(void) {
  /* The kernel refuses masks smaller than its own; machines of more than 1024 CPUs exist. */
  for (int cpus = 1024; cpus <= 1 << 18; cpus *= 2) {
    cpu_set_t *set = CPU_ALLOC((size_t)cpus);
    if (!set)
      return 1;
    size_t bytes = CPU_ALLOC_SIZE((size_t)cpus);
    int failed = sched_getaffinity(0, bytes, set) ? errno : 0;
    int n = failed ? 0 : CPU_COUNT_S(bytes, set);
    CPU_FREE(set);
    if (!failed)
      return n > 0 ? n : 1;
    if (failed != EINVAL)
      return 1;
  }
  return 1;
}

int mprt__cpu_count(void) {
  int n = affinity_cpus(), quota = quota_cpus();
  return quota > 0 && quota < n ? quota : n;
}
