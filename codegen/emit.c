/* All kernels of a program: compiled by several threads, through the cache, into one archive
 * (abi.h) or one text. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codegen/codegen.h"

/* Kernels compiled together. */
typedef struct {
  int first, n;
  void *bytes;
  size_t len;
  Status status;
  int at; /* the one at fault */
  char error[256];
} Piece;

typedef struct {
  const EmitOpts *o;
  bool is_object;
  Kernel *kernel;
  Piece *piece;
  int n; /* pieces */
  atomic_int next;
} Job;

static void compile_piece(Job *job, Piece *p) {
  const EmitOpts *o = job->o;
  Kernel *k = &job->kernel[p->first];
  Text key = {0};
  bool cached = o->cache_dir && job->is_object;
  if (cached)
    cache_key(k, p->n, o->target, o->level, o->opt_level, &key);
  cached = cached && !key.failed;
  if (!cached || !cache_get(o->cache_dir, &key, k, p->n, &p->bytes, &p->len)) {
    p->status = o->target->compile(o->level, k, p->n, o->opt_level, o->form, p->error, &p->at,
                                   &p->bytes, &p->len);
    if (cached && p->status == MPCC_OK)
      cache_put(o->cache_dir, &key, k, p->n, p->bytes, p->len);
  }
  text_fini(&key);
}

static void *worker(void *user) {
  Job *job = user;
  for (int i; (i = atomic_fetch_add(&job->next, 1)) < job->n;)
    compile_piece(job, &job->piece[i]);
  return NULL;
}

static void run_jobs(Job *job) {
  enum { MAX_JOBS = 64 };
  pthread_t thread[MAX_JOBS];
  int started = 0;
  const int jobs = job->o->jobs < job->n ? job->o->jobs : job->n;
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

bool codegen_archive(const void *const *part, const size_t *part_bytes, int n, void **bytes,
                     size_t *len) {
  size_t head = sizeof(MpccArchive) + (size_t)n * sizeof(MpccArchiveEntry), total = aligned(head);
  for (int i = 0; i < n; i++)
    total += aligned(part_bytes[i]);
  char *out = calloc(1, total + 1);
  if (!out)
    return false;
  MpccArchive a = {.magic = MPCC_ARCHIVE_MAGIC, .count = (uint64_t)n};
  memcpy(out, &a, sizeof a);
  size_t at = aligned(head);
  for (int i = 0; i < n; i++) {
    MpccArchiveEntry e = {at, part_bytes[i]};
    memcpy(out + sizeof a + (size_t)i * sizeof e, &e, sizeof e);
    if (part_bytes[i])
      memcpy(out + at, part[i], part_bytes[i]);
    at += aligned(part_bytes[i]);
  }
  *bytes = out;
  *len = total;
  return true;
}

/* Archive of the objects in their order. */
static bool archive(const Piece *piece, int n, void **bytes, size_t *len) {
  const void **part = calloc((size_t)n + 1, sizeof *part);
  size_t *part_bytes = calloc((size_t)n + 1, sizeof *part_bytes);
  bool ok = part && part_bytes;
  for (int i = 0; ok && i < n; i++) {
    part[i] = piece[i].bytes;
    part_bytes[i] = piece[i].len;
  }
  ok = ok && codegen_archive(part, part_bytes, n, bytes, len);
  free(part);
  free(part_bytes);
  return ok;
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
    const Kernel *k = &job->kernel[job->piece[i].first + job->piece[i].at];
    const Op *op = k->group;
    const char *label = op_str(op, "label", "no label");
    if (s == MPCC_ERR_TARGET)
      diag_error(d, op->loc, 504, "%s: %s", label, job->piece[i].error);
    else
      diag_error(d, op->loc, 900, "kernel %s (%s): %s", k->symbol, label, job->piece[i].error);
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

Status codegen_emit(const EmitOpts *o, Kernel *kernels, int n, Diag *d, void **bytes, size_t *len) {
  const Target *t = o->target;
  *bytes = NULL;
  *len = 0;
  if (!has_level(t, o->level)) {
    diag_error(d, (Loc){0}, 901, "target %s has no level '%s'", t->name, o->level);
    return MPCC_ERR_TARGET;
  }
  /* pieces do not depend on jobs: the same bytes on any machine */
  Job job = {.o = o, .is_object = !strcmp(o->form, "object"), .kernel = kernels};
  job.piece = calloc((size_t)n + 1, sizeof *job.piece);
  if (!job.piece)
    return MPCC_ERR_NOMEM;
  for (int first = 0; first < n; job.n++) {
    Piece *p = &job.piece[job.n];
    p->first = first;
    p->n = t->together ? t->together(&kernels[first], n - first, o->form) : 1;
    for (int i = 0; i < p->n; i++)
      kernels[first + i].object = job.n;
    first += p->n;
  }
  run_jobs(&job);
  Status s = collect(&job, d, bytes, len);
  for (int i = 0; i < job.n; i++)
    free(job.piece[i].bytes);
  free(job.piece);
  return s;
}
