/* All kernels of a program: compiled by several threads, through the cache, into one archive
 * (abi.h) or one text. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codegen/codegen.h"

typedef struct {
  void *bytes;
  size_t len;
  Status status;
  char error[256];
} Piece;

typedef struct {
  const Target *target;
  const char *level, *form, *cache_dir;
  bool is_object;
  Kernel *kernel;
  Piece *piece;
  int n, opt_level;
  atomic_int next;
} Job;

static void compile_one(Job *job, int i) {
  Kernel *k = &job->kernel[i];
  Piece *p = &job->piece[i];
  Text key = {0};
  bool cached = job->cache_dir && job->is_object;
  if (cached)
    cache_key(k, job->target, job->level, job->opt_level, &key);
  cached = cached && !key.failed;
  if (!cached || !cache_get(job->cache_dir, &key, k, &p->bytes, &p->len)) {
    p->status = job->target->compile(job->level, k, job->opt_level, job->form, p->error, &p->bytes,
                                     &p->len);
    if (cached && p->status == MPCC_OK)
      cache_put(job->cache_dir, &key, k, p->bytes, p->len);
  }
  text_fini(&key);
}

static void *worker(void *user) {
  Job *job = user;
  for (int i; (i = atomic_fetch_add(&job->next, 1)) < job->n;)
    compile_one(job, i);
  return NULL;
}

static void run_jobs(Job *job, int jobs) {
  enum { MAX_JOBS = 64 };
  pthread_t thread[MAX_JOBS];
  int started = 0;
  jobs = jobs < job->n ? jobs : job->n;
  while (started < jobs - 1 && started < MAX_JOBS &&
         !pthread_create(&thread[started], NULL, worker, job))
    started++;
  worker(job);
  for (int i = 0; i < started; i++)
    pthread_join(thread[i], NULL);
}

static size_t aligned(size_t n) {
  return (n + 63) & ~(size_t)63;
}

/* MpccArchive of the objects in kernel order. */
static bool archive(const Piece *piece, int n, void **bytes, size_t *len) {
  size_t head = sizeof(MpccArchive) + (size_t)n * sizeof(MpccArchiveEntry), total = aligned(head);
  for (int i = 0; i < n; i++)
    total += aligned(piece[i].len);
  char *out = calloc(1, total + 1);
  if (!out)
    return false;
  MpccArchive a = {.magic = MPCC_ARCHIVE_MAGIC, .count = (uint64_t)n};
  memcpy(out, &a, sizeof a);
  size_t at = aligned(head);
  for (int i = 0; i < n; i++) {
    MpccArchiveEntry e = {at, piece[i].len};
    memcpy(out + sizeof a + (size_t)i * sizeof e, &e, sizeof e);
    memcpy(out + at, piece[i].bytes, piece[i].len);
    at += aligned(piece[i].len);
  }
  *bytes = out;
  *len = total;
  return true;
}

static bool concatenate(const Piece *piece, int n, void **bytes, size_t *len) {
  Text t = {0};
  text_puts(&t, "");
  for (int i = 0; i < n; i++)
    text_put(&t, piece[i].bytes, piece[i].len);
  *bytes = t.data;
  *len = t.len;
  return !t.failed && t.data;
}

static Status collect(const Job *job, Diag *d, void **bytes, size_t *len) {
  for (int i = 0; i < job->n; i++) {
    const Status s = job->piece[i].status;
    if (s == MPCC_OK)
      continue;
    const Op *op = job->kernel[i].group;
    const char *label = op_str(op, "label", "no label");
    if (s == MPCC_ERR_TARGET)
      diag_error(d, op->loc, 504, "%s: %s", label, job->piece[i].error);
    else
      diag_error(d, op->loc, 900, "kernel %s (%s): %s", job->kernel[i].symbol, label,
                 job->piece[i].error);
    return s;
  }
  bool ok = job->is_object ? archive(job->piece, job->n, bytes, len)
                           : concatenate(job->piece, job->n, bytes, len);
  return ok ? MPCC_OK : MPCC_ERR_NOMEM;
}

static bool has_level(const Target *t, const char *level) {
  for (int i = 0; i < t->nlevel; i++)
    if (!strcmp(t->level[i], level))
      return true;
  return false;
}

Status codegen_emit(const Target *t, const char *level, Kernel *kernels, int n, int opt_level,
                    int jobs, const char *cache_dir, const char *form, Diag *d, void **bytes,
                    size_t *len) {
  *bytes = NULL;
  *len = 0;
  if (!has_level(t, level)) {
    diag_error(d, (Loc){0}, 901, "target %s has no level '%s'", t->name, level);
    return MPCC_ERR_TARGET;
  }
  Job job = {.target = t,
             .level = level,
             .form = form,
             .is_object = !strcmp(form, "object"),
             .kernel = kernels,
             .n = n,
             .opt_level = opt_level,
             .cache_dir = cache_dir};
  job.piece = calloc((size_t)n + 1, sizeof *job.piece);
  if (!job.piece)
    return MPCC_ERR_NOMEM;
  run_jobs(&job, jobs);
  Status s = collect(&job, d, bytes, len);
  for (int i = 0; i < n; i++)
    free(job.piece[i].bytes);
  free(job.piece);
  return s;
}
