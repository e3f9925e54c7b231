/* Memory that is there or the process ends (a test tool has nothing better to do), small helpers.
 */
#include "emu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void out_of_host_memory(void) {
  fputs("emu: out of host memory\n", stderr);
  abort();
}

void *emu_alloc(size_t bytes) {
  void *p = calloc(1, bytes ? bytes : 1);
  if (!p)
    out_of_host_memory();
  return p;
}

void *emu_grow(void *p, size_t bytes) {
  p = realloc(p, bytes ? bytes : 1);
  if (!p)
    out_of_host_memory();
  return p;
}

char *emu_copy_text(const char *s, size_t n) {
  char *t = emu_alloc(n + 1);
  memcpy(t, s, n);
  return t;
}

/* Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators". */
uint64_t emu_random(uint64_t *state) {
  uint64_t z = *state += 0x9E3779B97F4A7C15u;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
  z = (z ^ z >> 27) * 0x94D049BB133111EBu;
  return z ^ z >> 31;
}

int64_t emu_env(const char *name, int64_t otherwise) {
  const char *v = getenv(name);
  return v && *v ? strtoll(v, NULL, 0) : otherwise;
}
