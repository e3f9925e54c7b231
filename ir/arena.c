/* Bump allocator: memory by lifetime (ir.h). */
#include "ir/ir.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 16, CHUNK_BYTES = 64 << 10, SCRATCH_BYTES = 256 << 10 };

typedef struct Chunk {
  struct Chunk *next;
  size_t used, size; /* of data */
  _Alignas(ALIGN) unsigned char data[];
} Chunk;

struct Arena {
  Chunk *chunk; /* newest first */
  bool failed;
  /* What is handed out after a failure. Fresh pieces in turn, so that structures made then stay
   * apart (a list of two equal nodes would be a ring) until their maker checks arena_failed. */
  size_t scratch_used;
  unsigned char *scratch;
};

/* Countdown of arena_fail_after; the process's only state here, off outside tests. */
static atomic_long fail_countdown;

void arena_fail_after(long n) {
  atomic_store(&fail_countdown, n);
}

bool arena_injected_failure(void) {
  if (atomic_load_explicit(&fail_countdown, memory_order_relaxed) <= 0)
    return false;
  return atomic_fetch_sub(&fail_countdown, 1) == 1;
}

Arena *arena_create(void) {
  if (arena_injected_failure())
    return NULL;
  Arena *a = calloc(1, sizeof *a);
  /* Untouched pages of it cost nothing. */
  unsigned char *scratch = a ? malloc(SCRATCH_BYTES) : NULL;
  if (!scratch) {
    free(a);
    return NULL;
  }
  a->scratch = scratch;
  return a;
}

void arena_destroy(Arena *a) {
  if (!a)
    return;
  for (Chunk *c = a->chunk; c;) {
    Chunk *next = c->next;
    free(c);
    c = next;
  }
  free(a->scratch);
  free(a);
}

bool arena_failed(const Arena *a) {
  return a->failed;
}

void arena_fail(Arena *a) {
  a->failed = true;
}

/* Chunk with at least `bytes` free, or NULL. Large requests get a chunk of their own behind the
 * newest one, which stays in use. */
static Chunk *chunk_for(Arena *a, size_t bytes) {
  Chunk *top = a->chunk;
  if (top && top->size - top->used >= bytes)
    return top;
  size_t size = bytes > CHUNK_BYTES / 4 ? bytes : CHUNK_BYTES;
  if (size > SIZE_MAX - sizeof(Chunk))
    return NULL;
  Chunk *c = calloc(1, sizeof(Chunk) + size);
  if (!c)
    return NULL;
  c->size = size;
  if (top && size != CHUNK_BYTES) {
    c->next = top->next;
    top->next = c;
  } else {
    c->next = top;
    a->chunk = c;
  }
  return c;
}

/* Memory after a failure. A request larger than the scratch area still gets real memory if there is
 * any; the caller that asks for more than SCRATCH_BYTES at once checks arena_failed first. */
static void *scratch_alloc(Arena *a, size_t bytes) {
  a->failed = true;
  if (bytes > SCRATCH_BYTES) {
    Chunk *c = chunk_for(a, bytes);
    if (c)
      return c->data;
    bytes = SCRATCH_BYTES;
  }
  if (a->scratch_used > SCRATCH_BYTES - bytes)
    a->scratch_used = 0;
  void *p = a->scratch + a->scratch_used;
  a->scratch_used += bytes;
  return memset(p, 0, bytes);
}

void *arena_alloc(Arena *a, size_t bytes) {
  if (bytes > SIZE_MAX - ALIGN)
    return scratch_alloc(a, 0);
  bytes = (bytes + ALIGN - 1) / ALIGN * ALIGN;
  if (a->failed || arena_injected_failure())
    return scratch_alloc(a, bytes);
  Chunk *c = chunk_for(a, bytes);
  if (!c)
    return scratch_alloc(a, bytes);
  void *p = c->data + c->used;
  c->used += bytes;
  return p;
}

void *arena_array(Arena *a, size_t n, size_t bytes) {
  size_t total;
  if (__builtin_mul_overflow(n, bytes, &total))
    return scratch_alloc(a, SCRATCH_BYTES);
  return arena_alloc(a, total);
}
