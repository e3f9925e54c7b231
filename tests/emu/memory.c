/* Device memory: allocations at addresses of their own, and a shadow that knows for every granule
 * who wrote and who read it last, which answers three questions: was it written at all, by another
 * block of the same launch, read by another block of the same launch. */
#include "emu.h"

#include <stdlib.h>
#include <string.h>

enum { GAP = 1 << 16 }; /* bytes between allocations that belong to nobody */

uint64_t memory_alloc(Memory *m, size_t bytes) {
  if (m->limit && (bytes > m->limit || m->used > m->limit - bytes))
    return 0;
  if (m->n == m->cap) {
    m->cap = m->cap ? 2 * m->cap : 64;
    m->allocs = emu_grow(m->allocs, m->cap * sizeof *m->allocs);
  }
  if (!m->next)
    m->next = GLOBAL_BASE + GAP;
  Alloc *a = emu_alloc(sizeof *a);
  a->lo = m->next;
  a->bytes = bytes;
  a->number = ++m->count;
  a->host = aligned_alloc(256, (bytes + 255) / 256 * 256);
  a->pages = emu_alloc((bytes + PAGE_BYTES - 1) / PAGE_BYTES * sizeof *a->pages);
  if (!a->host) {
    free(a->pages);
    free(a);
    return 0;
  }
  memset(a->host, 0xA5, (bytes + 255) / 256 * 256);
  m->allocs[m->n++] = a; /* addresses only grow, so the order stays */
  m->next += (bytes + GAP + 255) / 256 * 256;
  m->used += bytes;
  return a->lo;
}

static void drop(Alloc *a) {
  for (size_t i = 0; i < (a->bytes + PAGE_BYTES - 1) / PAGE_BYTES; i++) {
    free(a->pages[i].writer);
    free(a->pages[i].reader);
  }
  free(a->pages);
  free(a->host);
  free(a);
}

/* Index of the last allocation that starts at or below address, or n. */
static size_t search(const Memory *m, uint64_t address) {
  size_t lo = 0, hi = m->n;
  while (lo < hi) {
    const size_t mid = (lo + hi) / 2;
    if (m->allocs[mid]->lo <= address)
      lo = mid + 1;
    else
      hi = mid;
  }
  return lo ? lo - 1 : m->n;
}

bool memory_free(Memory *m, uint64_t address) {
  const size_t i = search(m, address);
  if (i == m->n || m->allocs[i]->lo != address)
    return false;
  m->used -= m->allocs[i]->bytes;
  drop(m->allocs[i]);
  m->n--;
  memmove(m->allocs + i, m->allocs + i + 1, (m->n - i) * sizeof *m->allocs);
  return true;
}

Alloc *memory_find(const Memory *m, uint64_t address, uint64_t bytes) {
  const size_t i = search(m, address);
  if (i == m->n)
    return NULL;
  Alloc *a = m->allocs[i];
  const uint64_t offset = address - a->lo;
  return offset <= a->bytes && bytes <= a->bytes - offset ? a : NULL;
}

void memory_fini(Memory *m) {
  for (size_t i = 0; i < m->n; i++)
    drop(m->allocs[i]);
  free(m->allocs);
  memset(m, 0, sizeof *m);
}

static size_t page_granules(const ShadowPage *p) {
  return (size_t)PAGE_BYTES >> p->shift;
}

/* Launch numbers have 12 bits: before they run out, all tags become those of long ago. */
void memory_new_launch(Memory *m) {
  if (++m->epoch < 1 << (32 - TAG_EPOCH_SHIFT))
    return;
  m->epoch = 1;
  for (size_t i = 0; i < m->n; i++)
    for (size_t k = 0; k < (m->allocs[i]->bytes + PAGE_BYTES - 1) / PAGE_BYTES; k++) {
      ShadowPage *p = &m->allocs[i]->pages[k];
      for (size_t g = 0; p->writer && g < page_granules(p); g++) {
        p->writer[g] = p->writer[g] ? TAG_HOST : 0;
        p->reader[g] = 0;
      }
    }
}

static void page_open(ShadowPage *p) {
  if (p->writer)
    return;
  p->shift = 2;
  p->writer = emu_alloc(PAGE_BYTES / 4 * sizeof *p->writer);
  p->reader = emu_alloc(PAGE_BYTES / 4 * sizeof *p->reader);
}

static void page_refine(ShadowPage *p, uint8_t shift) {
  const uint32_t times = 1u << (p->shift - shift);
  const size_t n = page_granules(p);
  uint32_t *writer = emu_alloc(n * times * sizeof *writer),
           *reader = emu_alloc(n * times * sizeof *reader);
  for (size_t g = 0; g < n * times; g++) {
    writer[g] = p->writer[g / times];
    reader[g] = p->reader[g / times];
  }
  free(p->writer);
  free(p->reader);
  p->writer = writer;
  p->reader = reader;
  p->shift = shift;
}

/* Granules that hold bytes [offset, offset + bytes) of one page, and nothing else. */
static ShadowPage *granules(Alloc *a, uint64_t offset, uint64_t bytes, uint32_t *first,
                            uint32_t *n) {
  ShadowPage *p = &a->pages[offset >> PAGE_BITS];
  page_open(p);
  const uint32_t at = (uint32_t)offset & (PAGE_BYTES - 1), end = at + (uint32_t)bytes;
  const uint32_t misfit = (at | end) & ((1u << p->shift) - 1);
  if (__builtin_expect(misfit != 0, 0))
    page_refine(p, misfit & 1 ? 0 : 1);
  *first = at >> p->shift;
  *n = (uint32_t)bytes >> p->shift;
  return p;
}

static uint64_t page_rest(uint64_t offset, uint64_t bytes) {
  const uint64_t rest = PAGE_BYTES - (offset & (PAGE_BYTES - 1));
  return bytes < rest ? bytes : rest;
}

void memory_host_wrote(Alloc *a, uint64_t offset, uint64_t bytes) {
  while (bytes) {
    const uint64_t part = page_rest(offset, bytes);
    uint32_t first, n;
    ShadowPage *p = granules(a, offset, part, &first, &n);
    for (uint32_t g = first; g < first + n; g++) {
      p->writer[g] = TAG_HOST;
      p->reader[g] = 0;
    }
    offset += part;
    bytes -= part;
  }
}

uint64_t memory_first_unwritten(const Alloc *a, uint64_t offset, uint64_t bytes) {
  for (uint64_t i = 0; i < bytes;) {
    const ShadowPage *p = &a->pages[(offset + i) >> PAGE_BITS];
    if (!p->writer)
      return i;
    const uint32_t at = (uint32_t)(offset + i) & (PAGE_BYTES - 1);
    if (!p->writer[at >> p->shift])
      return i;
    i += (1u << p->shift) - (at & ((1u << p->shift) - 1));
  }
  return bytes;
}

void memory_copy(Alloc *to, uint64_t to_offset, Alloc *from, uint64_t from_offset, uint64_t bytes) {
  memmove(to->host + to_offset, from->host + from_offset, bytes);
  if (memory_first_unwritten(from, from_offset, bytes) == bytes) {
    memory_host_wrote(to, to_offset, bytes);
    return;
  }
  /* What was not written stays so; a copy within one allocation errs on the side of written. */
  for (uint64_t i = 0; i < bytes; i++)
    if (memory_first_unwritten(from, from_offset + i, 1))
      memory_host_wrote(to, to_offset + i, 1);
}

/* True when a tag is of another block in the same launch. */
static inline bool other(uint32_t tag, uint32_t me) {
  return (tag ^ me) >> TAG_EPOCH_SHIFT == 0 && ((tag ^ me) & TAG_BLOCK) != 0;
}

static Found read_granules(ShadowPage *p, uint32_t first, uint32_t n, uint32_t tag, bool nc,
                           uint32_t *other_block) {
  uint32_t *writer = p->writer + first, *reader = p->reader + first;
  const uint32_t epoch = tag >> TAG_EPOCH_SHIFT, block = tag & TAG_BLOCK, other_path = nc;
  uint32_t bad = 0;
  for (uint32_t g = 0; g < n; g++) { /* plain integers, so that it becomes vectors */
    const uint32_t v = writer[g], now = v >> TAG_EPOCH_SHIFT == epoch,
                   foreign = (v & TAG_BLOCK) != block, never = v == 0;
    bad |= never | (now & (other_path | foreign));
  }
  if (__builtin_expect(bad, 0))
    for (uint32_t g = 0; g < n; g++) {
      if (!writer[g])
        return FOUND_UNINIT_GLOBAL;
      *other_block = writer[g] & TAG_BLOCK;
      if (other(writer[g], tag))
        return FOUND_GLOBAL_RACE;
      if (nc && writer[g] >> TAG_EPOCH_SHIFT == epoch)
        return FOUND_NC_WRITTEN;
    }
  for (uint32_t g = 0; g < n; g++) {
    const uint32_t v = reader[g], now = 0 - (uint32_t)(v >> TAG_EPOCH_SHIFT == epoch),
                   foreign = 0 - (uint32_t)((v & TAG_BLOCK) != block);
    reader[g] = tag | (now & TAG_FLAG & (v | foreign));
  }
  return FOUND_NOTHING;
}

static Found write_granules(ShadowPage *p, uint32_t first, uint32_t n, uint32_t tag, bool atomic,
                            uint32_t *other_block) {
  uint32_t *writer = p->writer + first, *reader = p->reader + first;
  const uint32_t epoch = tag >> TAG_EPOCH_SHIFT, block = tag & TAG_BLOCK, must_be = atomic;
  uint32_t bad = 0;
  for (uint32_t g = 0; g < n; g++) {
    const uint32_t v = writer[g], r = reader[g], v_now = v >> TAG_EPOCH_SHIFT == epoch,
                   v_foreign = (v & TAG_BLOCK) != block, r_now = r >> TAG_EPOCH_SHIFT == epoch,
                   r_foreign = (r & (TAG_BLOCK | TAG_FLAG)) != block, never = v == 0;
    bad |= (v_now & v_foreign) | (r_now & r_foreign) | (must_be & never);
  }
  if (__builtin_expect(bad, 0))
    for (uint32_t g = 0; g < n; g++) {
      const uint32_t v = writer[g], r = reader[g];
      *other_block = v & TAG_BLOCK;
      if (atomic && !v)
        return FOUND_UNINIT_GLOBAL;
      if (other(v, tag) && !(atomic && (v & TAG_FLAG)))
        return FOUND_GLOBAL_RACE;
      *other_block = r & TAG_BLOCK;
      if (r >> TAG_EPOCH_SHIFT == epoch && (other(r, tag) || (r & TAG_FLAG)))
        return FOUND_GLOBAL_RACE;
    }
  const uint32_t mine = tag | (atomic ? TAG_FLAG : 0);
  for (uint32_t g = 0; g < n; g++)
    writer[g] = mine;
  return FOUND_NOTHING;
}

Found memory_access(Alloc *a, uint64_t offset, uint64_t bytes, Access what, uint32_t tag,
                    uint32_t *other_block) {
  while (bytes) {
    const uint64_t part = page_rest(offset, bytes);
    uint32_t first, n;
    ShadowPage *p = granules(a, offset, part, &first, &n);
    const Found f = what <= ACCESS_READ_NC
                        ? read_granules(p, first, n, tag, what == ACCESS_READ_NC, other_block)
                        : write_granules(p, first, n, tag, what == ACCESS_ATOMIC, other_block);
    if (__builtin_expect(f != FOUND_NOTHING, 0))
      return f;
    offset += part;
    bytes -= part;
  }
  return FOUND_NOTHING;
}
