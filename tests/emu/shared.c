/* Shared memory of one block and its shadow. A granule (the narrowest access of the kernel, at most
 * 16 bytes) remembers the thread that wrote and the threads that read it since the last barrier.
 *
 * Tag: barrier epoch in 12 bits, warp synchronizations of that warp so far in 8, MANY (readers: of
 * several warps; writers: atomics), SEVERAL (readers of one warp), thread in 10. Epochs of a block
 * start above those of the block before, so what an earlier block wrote counts as never written. */
#include "emu.h"

#include <stdlib.h>
#include <string.h>

enum {
  EPOCH_SHIFT = 20,
  EPOCH_END = 1 << 12,
  SYNC_SHIFT = 12,
  MANY = 1 << 11,
  SEVERAL = 1 << 10,
  THREAD = SEVERAL - 1
};

void shared_init(Shared *s, uint32_t bytes, uint32_t granule, bool async) {
  memset(s, 0, sizeof *s);
  s->size = bytes;
  s->shift = granule >= 16 ? 4 : granule == 8 ? 3 : granule == 4 ? 2 : granule == 2 ? 1 : 0;
  s->granules = (bytes + (1u << s->shift) - 1) >> s->shift;
  s->bytes = aligned_alloc(256, (bytes + 511) / 256 * 256);
  if (!s->bytes)
    s->bytes = emu_alloc(bytes);
  memset(s->bytes, 0xA5, (bytes + 511) / 256 * 256);
  s->writer = emu_alloc((s->granules + 1) * sizeof *s->writer);
  s->reader = emu_alloc((s->granules + 1) * sizeof *s->reader);
  s->pending = async ? emu_alloc(s->granules + 1) : NULL;
  s->check = true;
}

void shared_fini(Shared *s) {
  free(s->bytes);
  free(s->writer);
  free(s->reader);
  free(s->pending);
}

/* Epochs have 12 bits: before they run out, what this block wrote gets epoch 1, all else goes. */
static void next_epoch(Shared *s) {
  if (++s->epoch < EPOCH_END)
    return;
  for (uint32_t g = 0; g < s->granules; g++) {
    const bool mine = s->writer[g] >> EPOCH_SHIFT >= s->first_epoch && s->writer[g];
    s->writer[g] = mine ? 1u << EPOCH_SHIFT | (s->writer[g] & ((1u << EPOCH_SHIFT) - 1)) : 0;
    s->reader[g] = 0;
  }
  s->first_epoch = 1;
  s->epoch = 2;
}

void shared_new_block(Shared *s) {
  next_epoch(s);
  s->first_epoch = s->epoch;
  if (s->pending)
    memset(s->pending, 0, s->granules);
}

void shared_barrier(Shared *s) {
  next_epoch(s);
}

/* Of the same warp, with a warp synchronization of both in between? */
static inline bool ordered(const Warp *w, uint32_t tag, uint32_t thread) {
  const uint32_t then = tag >> SYNC_SHIFT & 255;
  return ((tag & THREAD) ^ thread) >> 5 == 0 &&
         (then < w->synced || (w->in_parts && then < w->met[thread % LANES][tag % LANES]));
}

/* Tags count up to 255: before that, all that the warp did so far becomes what is waited for. */
static void restart_syncs(Warp *w) {
  Shared *s = &w->launch->shared;
  const uint32_t mine = s->epoch << EPOCH_SHIFT | w->id * LANES;
  const uint32_t same = ~((1u << EPOCH_SHIFT) - 1) | (THREAD & ~(LANES - 1));
  for (uint32_t g = 0; g < s->granules; g++) {
    s->writer[g] &= ((s->writer[g] ^ mine) & same) ? UINT32_MAX : ~(255u << SYNC_SHIFT);
    s->reader[g] &= ((s->reader[g] ^ mine) & same) ? UINT32_MAX : ~(255u << SYNC_SHIFT);
  }
  w->syncs = w->synced = 1;
  w->in_parts = false;
}

void shared_warp_sync(Warp *w, const uint32_t *masks) {
  if (w->syncs == 255) {
    restart_syncs(w);
    return;
  }
  w->syncs++;
  bool whole = w->mask == w->alive;
  for (uint32_t i = 0; i < LANES; i++)
    whole &= !(w->mask >> i & 1) || !(w->alive & ~masks[i]);
  if (whole) {
    w->synced = w->syncs;
    return;
  }
  if (!w->in_parts)
    memset(w->met, 0, sizeof w->met);
  w->in_parts = true;
  uint8_t met[LANES][LANES];
  memcpy(met, w->met, sizeof met);
  for (uint32_t i = 0; i < LANES; i++)
    for (uint32_t k = 0; w->mask >> i & 1 && k < LANES; k++) {
      if (!((masks[i] & w->mask) >> k & 1))
        continue;
      for (uint32_t x = 0; x < LANES; x++) /* k brings along whom it has met */
        met[i][x] = w->met[k][x] > met[i][x] ? w->met[k][x] : met[i][x];
      met[i][k] = (uint8_t)w->syncs;
    }
  memcpy(w->met, met, sizeof met);
}

static Found read_granule(const Warp *w, uint32_t g, uint32_t thread, uint32_t *other) {
  Shared *s = &w->launch->shared;
  const uint32_t v = s->writer[g], r = s->reader[g];
  *other = v & THREAD;
  if (v >> EPOCH_SHIFT < s->first_epoch)
    return FOUND_UNINIT_SHARED;
  if (v >> EPOCH_SHIFT == s->epoch &&
      ((v & MANY) || ((v & THREAD) != thread && !ordered(w, v, thread))))
    return FOUND_SHARED_RACE;
  uint32_t tag = s->epoch << EPOCH_SHIFT | w->syncs << SYNC_SHIFT | thread;
  if (r >> EPOCH_SHIFT == s->epoch) {
    tag |= r & (MANY | SEVERAL);
    if ((r & THREAD) != thread)
      tag |= ((r & THREAD) ^ thread) >> 5 ? MANY : SEVERAL;
  }
  s->reader[g] = tag;
  return FOUND_NOTHING;
}

static Found write_granule(const Warp *w, uint32_t g, uint32_t thread, bool atomic,
                           uint32_t *other) {
  Shared *s = &w->launch->shared;
  const uint32_t v = s->writer[g], r = s->reader[g];
  *other = v & THREAD;
  if (atomic && v >> EPOCH_SHIFT < s->first_epoch)
    return FOUND_UNINIT_SHARED;
  if (v >> EPOCH_SHIFT == s->epoch && !(atomic && (v & MANY)) &&
      ((v & MANY) || ((v & THREAD) != thread && !ordered(w, v, thread))))
    return FOUND_SHARED_RACE;
  *other = r & THREAD;
  if (r >> EPOCH_SHIFT == s->epoch &&
      ((r & MANY) || (((r & THREAD) != thread || (r & SEVERAL)) && !ordered(w, r, thread))))
    return FOUND_SHARED_RACE;
  s->writer[g] = s->epoch << EPOCH_SHIFT | w->syncs << SYNC_SHIFT | thread | (atomic ? MANY : 0);
  return FOUND_NOTHING;
}

_Noreturn static void blame(Warp *w, int lane, Found f, uint32_t address, uint32_t bytes,
                            bool write, uint32_t other) {
  if (f == FOUND_UNINIT_SHARED)
    launch_fail(w, lane, f, "%u bytes at shared+%u", bytes, address);
  launch_fail(w, lane, f, "%s of %u bytes at shared+%u, thread %u was there since the last barrier",
              write ? "write" : "read", bytes, address, other);
}

uint8_t *shared_at(Warp *w, int lane, uint64_t address, uint32_t bytes, Access what) {
  const bool write = what >= ACCESS_WRITE;
  Shared *s = &w->launch->shared;
  if (address > s->size || bytes > s->size - address)
    launch_fail(w, lane, FOUND_SHARED_BOUNDS, "%u bytes at shared+%lld, the block has %u", bytes,
                (long long)address, s->size);
  if (address & (bytes - 1))
    launch_fail(w, lane, FOUND_ALIGN, "%u bytes at shared+%u", bytes, (uint32_t)address);
  if (!s->check)
    return s->bytes + address;
  const uint32_t thread = w->id * LANES + (uint32_t)lane;
  const uint32_t first = (uint32_t)address >> s->shift,
                 n = bytes >> s->shift ? bytes >> s->shift : 1;
  for (uint32_t g = first; g < first + n; g++) {
    uint32_t other;
    if (s->pending && s->pending[g])
      launch_fail(w, lane, FOUND_ASYNC, "%u bytes at shared+%u", bytes, (uint32_t)address);
    const Found f = write ? write_granule(w, g, thread, what == ACCESS_ATOMIC, &other)
                          : read_granule(w, g, thread, &other);
    if (f && found_enabled(f))
      blame(w, lane, f, (uint32_t)address, bytes, write, other);
  }
  return s->bytes + address;
}

/* Lane i has the granules of bytes [address + i bytes, + bytes): checks 32 lanes at once when each
 * has one granule. */
uint8_t *shared_row(Warp *w, uint64_t address, uint32_t bytes, bool write) {
  Shared *s = &w->launch->shared;
  if (bytes != 1u << s->shift || address > s->size || LANES * bytes > s->size - address ||
      (address & (bytes - 1)))
    return NULL;
  if (s->pending && memchr(s->pending + (address >> s->shift), 1, LANES))
    return NULL;
  if (!s->check)
    return s->bytes + address;
  uint32_t *writer = s->writer + (address >> s->shift), *reader = s->reader + (address >> s->shift);
  const uint32_t now = s->epoch, tag = now << EPOCH_SHIFT | w->syncs << SYNC_SHIFT | w->id * LANES;
  uint32_t bad = 0;
  for (uint32_t i = 0; i < LANES; i++) {
    const uint32_t v = writer[i], r = reader[i], thread = w->id * LANES + i;
    bad |= (v >> EPOCH_SHIFT == now) & (((v & THREAD) != thread) | ((v & MANY) != 0));
    if (write)
      bad |= (r >> EPOCH_SHIFT == now) & (((r & THREAD) != thread) | ((r & (MANY | SEVERAL)) != 0));
    else
      bad |= (v >> EPOCH_SHIFT < s->first_epoch) |
             ((r >> EPOCH_SHIFT == now) & ((r & (THREAD | MANY | SEVERAL)) != thread));
  }
  if (bad)
    return NULL;
  uint32_t *to = write ? writer : reader;
  for (uint32_t i = 0; i < LANES; i++)
    to[i] = tag + i;
  return s->bytes + address;
}

void shared_async(Warp *w, int lane, uint32_t address, uint32_t bytes, bool pending) {
  Shared *s = &w->launch->shared;
  const uint32_t first = address >> s->shift, n = bytes >> s->shift ? bytes >> s->shift : 1;
  if (!pending) /* done: the bytes are the thread's again, written now */
    memset(s->pending + first, 0, n);
  shared_at(w, lane, address, bytes, ACCESS_WRITE);
  if (pending)
    memset(s->pending + first, 1, n);
}
