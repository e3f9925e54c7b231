/* Loads, stores, atomics and asynchronous copies. A warp whose 32 lanes touch neighbours, or all
 * the same bytes, is checked at once; otherwise, and to name the lane of a finding, lane by lane.
 */
#include "ptx_handlers.h"
#include "ptx_math.h"

#include <stdlib.h>
#include <string.h>

/* ---- where the bytes are ---- */

static Alloc *find_alloc(Warp *w, const Insn *in, uint64_t address, uint64_t bytes) {
  Alloc **hint = &w->launch->hints[in->index];
  if (*hint && address >= (*hint)->lo && address - (*hint)->lo <= (*hint)->bytes &&
      bytes <= (*hint)->bytes - (address - (*hint)->lo))
    return *hint;
  Alloc *a = memory_find(w->launch->memory, address, bytes);
  if (a)
    *hint = a;
  return a;
}

_Noreturn static void out_of_bounds(Warp *w, int lane, uint64_t address, uint32_t bytes) {
  const Memory *m = w->launch->memory;
  const Alloc *below = NULL;
  for (size_t i = 0; i < m->n && m->allocs[i]->lo <= address; i++)
    below = m->allocs[i];
  if (below && address - below->lo < below->bytes + (1 << 30))
    launch_fail(w, lane, FOUND_BOUNDS, "%u bytes at offset %llu of allocation %u, which has %zu",
                bytes, (unsigned long long)(address - below->lo), below->number, below->bytes);
  launch_fail(w, lane, FOUND_BOUNDS, "%u bytes at address 0x%llx", bytes,
              (unsigned long long)address);
}

static const char *const access_names[] = {"read", "read (nc)", "write", "atomic"};

/* Checks one lane's access to global memory and returns where the bytes are on the host. */
static uint8_t *global_at(Warp *w, const Insn *in, int lane, uint64_t address, uint32_t bytes,
                          Access what) {
  Alloc *a = find_alloc(w, in, address, bytes);
  if (!a)
    out_of_bounds(w, lane, address, bytes);
  if (address & (bytes - 1))
    launch_fail(w, lane, FOUND_ALIGN, "%u bytes at offset %llu of allocation %u", bytes,
                (unsigned long long)(address - a->lo), a->number);
  uint32_t other = 0;
  const Found f = memory_access(a, address - a->lo, bytes, what, w->launch->tag, &other);
  if (f == FOUND_GLOBAL_RACE && found_enabled(f))
    launch_fail(w, lane, f, "%s of %u bytes at offset %llu of allocation %u, block %u was there",
                access_names[what], bytes, (unsigned long long)(address - a->lo), a->number, other);
  if (f && found_enabled(f))
    launch_fail(w, lane, f, "%u bytes at offset %llu of allocation %u", bytes,
                (unsigned long long)(address - a->lo), a->number);
  return a->host + (address - a->lo);
}

static uint8_t *any_at(Warp *w, const Insn *in, int lane, uint64_t address, uint32_t bytes,
                       Access what) {
  if (address >> 61 == 1) /* SHARED_WINDOW */
    return shared_at(w, lane, address - SHARED_WINDOW, bytes, what);
  return global_at(w, in, lane, address, bytes, what);
}

/* Address of lane 0 when every lane of a full warp is `stride` bytes after the one before. */
static bool in_a_row(const Warp *w, const Insn *in, uint32_t stride, uint64_t *address) {
  if (w->mask != UINT32_MAX)
    return false;
  uint64_t differ = 0;
  if (in->wide_address) {
    const uint64_t *a = (const uint64_t *)(const void *)(w->regs + in->address);
    for (uint32_t i = 0; i < LANES; i++)
      differ |= a[i] ^ (a[0] + (uint64_t)i * stride);
  } else {
    const uint32_t *a = (const uint32_t *)(const void *)(w->regs + in->address);
    for (uint32_t i = 0; i < LANES; i++)
      differ |= a[i] ^ (a[0] + i * stride);
  }
  *address = lane_address(w, in, 0);
  return differ == 0;
}

/* Bytes of a whole row of global memory when nothing is wrong with it, else NULL. */
static uint8_t *global_row(Warp *w, const Insn *in, uint64_t address, uint32_t each, uint32_t all,
                           Access what) {
  if (address & (each - 1))
    return NULL;
  Alloc *a = find_alloc(w, in, address, all);
  uint32_t other;
  if (!a || memory_access(a, address - a->lo, all, what, w->launch->tag, &other))
    return NULL;
  return a->host + (address - a->lo);
}

/* The common cases of one warp's access; NULL: go lane by lane. *same: all lanes have one address.
 */
static uint8_t *row_at(Warp *w, const Insn *in, Space space, uint32_t bytes, Access what,
                       bool *same) {
  uint64_t address;
  *same = false;
  if (in_a_row(w, in, bytes, &address)) {
    if (space == SPACE_SHARED)
      return shared_row(w, address, bytes, what >= ACCESS_WRITE);
    return address >> 62 == 1 ? global_row(w, in, address, bytes, LANES * bytes, what) : NULL;
  }
  if (what <= ACCESS_READ_NC && space != SPACE_SHARED && in_a_row(w, in, 0, &address)) {
    *same = true;
    return address >> 62 == 1 ? global_row(w, in, address, bytes, bytes, what) : NULL;
  }
  return NULL;
}

/* ---- loads and stores ---- */

#define COUNT(shared, bytes)                                                                       \
  if (__builtin_expect(w->launch->counts_by_insn != NULL, 0))                                      \
  stats_access(w, in, shared, bytes)

static inline void set_data(Warp *w, const Insn *in, int k, int lane, uint64_t v, bool wide) {
  if (wide || in->wide_data)
    reg64(w, in, k)[lane] = v;
  else
    reg32(w, in, k)[lane] = (uint32_t)v;
}

/* Lanes that can be loaded `count` elements of type T each from rows of memory. */
#define LOAD_BODY(T, AS, space, what)                                                              \
  const uint32_t bytes = sizeof(T) * in->count;                                                    \
  COUNT(space == SPACE_SHARED, bytes);                                                             \
  bool same;                                                                                       \
  const T *p = (const T *)(const void *)row_at(w, in, space, bytes, what, &same);                  \
  if (__builtin_expect(p != NULL, 1)) {                                                            \
    const uint32_t step = same ? 0 : in->count;                                                    \
    for (int k = 0; k < in->count; k++) {                                                          \
      if (sizeof(T) == 8 || in->wide_data) {                                                       \
        uint64_t *to = reg64(w, in, k);                                                            \
        for (uint32_t i = 0; i < LANES; i++)                                                       \
          to[i] = (uint64_t)(AS)p[i * step + (uint32_t)k];                                         \
      } else if (step == 1) {                                                                      \
        uint32_t *to = reg32(w, in, k);                                                            \
        for (uint32_t i = 0; i < LANES; i++)                                                       \
          to[i] = (uint32_t)(AS)p[i];                                                              \
      } else {                                                                                     \
        uint32_t *to = reg32(w, in, k);                                                            \
        for (uint32_t i = 0; i < LANES; i++)                                                       \
          to[i] = (uint32_t)(AS)p[i * step + (uint32_t)k];                                         \
      }                                                                                            \
    }                                                                                              \
    return;                                                                                        \
  }                                                                                                \
  uint64_t data[4][LANES]; /* registers only change when all lanes are checked: one may be the     \
                              address */                                                           \
  EACH_LANE(i) {                                                                                   \
    const uint64_t address = lane_address(w, in, (int)i);                                          \
    const uint8_t *from = space == SPACE_SHARED ? shared_at(w, (int)i, address, bytes, what)       \
                          : space == SPACE_GENERIC                                                 \
                              ? any_at(w, in, (int)i, address, bytes, what)                        \
                              : global_at(w, in, (int)i, address, bytes, what);                    \
    for (int k = 0; k < in->count; k++) {                                                          \
      T v;                                                                                         \
      memcpy(&v, from + sizeof(T) * (size_t)k, sizeof v);                                          \
      data[k][i] = (uint64_t)(AS)v;                                                                \
    }                                                                                              \
  }                                                                                                \
  EACH_LANE(i)                                                                                     \
  for (int k = 0; k < in->count; k++)                                                              \
    set_data(w, in, k, (int)i, data[k][i], sizeof(T) == 8);

#define STORE_BODY(T, space)                                                                       \
  const uint32_t bytes = sizeof(T) * in->count;                                                    \
  const bool wide = sizeof(T) == 8 || in->wide_data;                                               \
  COUNT(space == SPACE_SHARED, bytes);                                                             \
  bool same;                                                                                       \
  T *p = (T *)(void *)row_at(w, in, space, bytes, ACCESS_WRITE, &same);                            \
  if (__builtin_expect(p != NULL, 1)) {                                                            \
    for (int k = 0; k < in->count; k++) {                                                          \
      const uint32_t step = in->count;                                                             \
      if (wide) {                                                                                  \
        const uint64_t *from = reg64(w, in, k);                                                    \
        for (uint32_t i = 0; i < LANES; i++)                                                       \
          p[i * step + (uint32_t)k] = (T)from[i];                                                  \
      } else if (step == 1) {                                                                      \
        const uint32_t *from = reg32(w, in, k);                                                    \
        for (uint32_t i = 0; i < LANES; i++)                                                       \
          p[i] = (T)from[i];                                                                       \
      } else {                                                                                     \
        const uint32_t *from = reg32(w, in, k);                                                    \
        for (uint32_t i = 0; i < LANES; i++)                                                       \
          p[i * step + (uint32_t)k] = (T)from[i];                                                  \
      }                                                                                            \
    }                                                                                              \
    return;                                                                                        \
  }                                                                                                \
  EACH_LANE(i) {                                                                                   \
    const uint64_t address = lane_address(w, in, (int)i);                                          \
    uint8_t *to = space == SPACE_SHARED ? shared_at(w, (int)i, address, bytes, ACCESS_WRITE)       \
                  : space == SPACE_GENERIC                                                         \
                      ? any_at(w, in, (int)i, address, bytes, ACCESS_WRITE)                        \
                      : global_at(w, in, (int)i, address, bytes, ACCESS_WRITE);                    \
    for (int k = 0; k < in->count; k++) {                                                          \
      const T v = (T)(wide ? reg64(w, in, k)[i] : reg32(w, in, k)[i]);                             \
      memcpy(to + sizeof(T) * (size_t)k, &v, sizeof v);                                            \
    }                                                                                              \
  }

#define LOAD(name, T, AS, space, what)                                                             \
  void name(Warp *w, const Insn *in) {                                                             \
    LOAD_BODY(T, AS, space, what)                                                                  \
  }
#define STORE(name, T, space)                                                                      \
  void name(Warp *w, const Insn *in) {                                                             \
    STORE_BODY(T, space)                                                                           \
  }

LOAD(op_load_u8, uint8_t, uint8_t, SPACE_GLOBAL, ACCESS_READ)
LOAD(op_load_s8, int8_t, int64_t, SPACE_GLOBAL, ACCESS_READ)
LOAD(op_load_u16, uint16_t, uint16_t, SPACE_GLOBAL, ACCESS_READ)
LOAD(op_load_s16, int16_t, int64_t, SPACE_GLOBAL, ACCESS_READ)
LOAD(op_load_u32, uint32_t, uint32_t, SPACE_GLOBAL, ACCESS_READ)
LOAD(op_load_s32, int32_t, int64_t, SPACE_GLOBAL, ACCESS_READ)
LOAD(op_load_u64, uint64_t, uint64_t, SPACE_GLOBAL, ACCESS_READ)
LOAD(op_load_nc_u8, uint8_t, uint8_t, SPACE_GLOBAL, ACCESS_READ_NC)
LOAD(op_load_nc_s8, int8_t, int64_t, SPACE_GLOBAL, ACCESS_READ_NC)
LOAD(op_load_nc_u16, uint16_t, uint16_t, SPACE_GLOBAL, ACCESS_READ_NC)
LOAD(op_load_nc_s16, int16_t, int64_t, SPACE_GLOBAL, ACCESS_READ_NC)
LOAD(op_load_nc_u32, uint32_t, uint32_t, SPACE_GLOBAL, ACCESS_READ_NC)
LOAD(op_load_nc_s32, int32_t, int64_t, SPACE_GLOBAL, ACCESS_READ_NC)
LOAD(op_load_nc_u64, uint64_t, uint64_t, SPACE_GLOBAL, ACCESS_READ_NC)
LOAD(op_load_generic_u8, uint8_t, uint8_t, SPACE_GENERIC, ACCESS_READ)
LOAD(op_load_generic_u16, uint16_t, uint16_t, SPACE_GENERIC, ACCESS_READ)
LOAD(op_load_generic_u32, uint32_t, uint32_t, SPACE_GENERIC, ACCESS_READ)
LOAD(op_load_generic_s32, int32_t, int64_t, SPACE_GENERIC, ACCESS_READ)
LOAD(op_load_generic_u64, uint64_t, uint64_t, SPACE_GENERIC, ACCESS_READ)
LOAD(op_load_shared_u8, uint8_t, uint8_t, SPACE_SHARED, ACCESS_READ)
LOAD(op_load_shared_s8, int8_t, int64_t, SPACE_SHARED, ACCESS_READ)
LOAD(op_load_shared_u16, uint16_t, uint16_t, SPACE_SHARED, ACCESS_READ)
LOAD(op_load_shared_s16, int16_t, int64_t, SPACE_SHARED, ACCESS_READ)
LOAD(op_load_shared_u32, uint32_t, uint32_t, SPACE_SHARED, ACCESS_READ)
LOAD(op_load_shared_s32, int32_t, int64_t, SPACE_SHARED, ACCESS_READ)
LOAD(op_load_shared_u64, uint64_t, uint64_t, SPACE_SHARED, ACCESS_READ)
STORE(op_store_u8, uint8_t, SPACE_GLOBAL)
STORE(op_store_u16, uint16_t, SPACE_GLOBAL)
STORE(op_store_u32, uint32_t, SPACE_GLOBAL)
STORE(op_store_u64, uint64_t, SPACE_GLOBAL)
STORE(op_store_generic_u8, uint8_t, SPACE_GENERIC)
STORE(op_store_generic_u16, uint16_t, SPACE_GENERIC)
STORE(op_store_generic_u32, uint32_t, SPACE_GENERIC)
STORE(op_store_generic_u64, uint64_t, SPACE_GENERIC)
STORE(op_store_shared_u8, uint8_t, SPACE_SHARED)
STORE(op_store_shared_u16, uint16_t, SPACE_SHARED)
STORE(op_store_shared_u32, uint32_t, SPACE_SHARED)
STORE(op_store_shared_u64, uint64_t, SPACE_SHARED)

/* ld.param with a register: a table in the parameters, indexed while the kernel runs. */
void op_load_param(Warp *w, const Insn *in) {
  const Launch *l = w->launch;
  const uint32_t bytes = in->bytes * in->count;
  uint64_t data[4][LANES];
  EACH_LANE(i) {
    const uint64_t at = lane_address(w, in, (int)i);
    if (at > l->kernel->param_bytes || bytes > l->kernel->param_bytes - at)
      launch_fail(w, (int)i, FOUND_PARAM, "%u bytes at %lld of %u", bytes, (long long)at,
                  l->kernel->param_bytes);
    if (at & (bytes - 1))
      launch_fail(w, (int)i, FOUND_ALIGN, "%u bytes at parameter byte %llu", bytes,
                  (unsigned long long)at);
    for (uint32_t k = 0; k < in->count; k++) {
      const int unused = 64 - 8 * in->bytes;
      uint64_t v = 0;
      memcpy(&v, l->params + at + k * in->bytes, in->bytes);
      data[k][i] = in->is_signed && unused ? (uint64_t)((int64_t)(v << unused) >> unused) : v;
    }
  }
  EACH_LANE(i)
  for (int k = 0; k < in->count; k++)
    set_data(w, in, k, (int)i, data[k][i], in->bytes == 8);
}

/* ---- atomics: operand 0 the old value, 1 (and 2) what it is combined with -------------------- */

static uint8_t *atomic_at(Warp *w, const Insn *in, uint32_t lane, uint32_t bytes) {
  const uint64_t address = lane_address(w, in, (int)lane);
  if (address >> 61 == 0) /* atom.shared: an address within shared memory, not a generic one */
    return shared_at(w, (int)lane, address, bytes, ACCESS_ATOMIC);
  return any_at(w, in, (int)lane, address, bytes, ACCESS_ATOMIC);
}

/* Subnormal numbers are zero to float sums in global memory, and to no other: PTX ISA, atom. */
static float sum_f32(const Warp *w, const Insn *in, uint32_t lane, float a, float b) {
  const uint64_t address = lane_address(w, in, (int)lane);
  return address >> 62 == 1 ? flush(flush(a) + flush(b)) : a + b;
}

#define ATOMIC(name, T, value_slot, keep, value)                                                   \
  void name(Warp *w, const Insn *in) {                                                             \
    COUNT(false, sizeof(T));                                                                       \
    EACH_LANE(i) {                                                                                 \
      uint8_t *p = atomic_at(w, in, i, sizeof(T));                                                 \
      T a, b, v;                                                                                   \
      memcpy(&a, p, sizeof a);                                                                     \
      memcpy(&b, w->regs + in->slot[value_slot] + i * sizeof(T), sizeof b);                        \
      v = (value);                                                                                 \
      memcpy(p, &v, sizeof v);                                                                     \
      if (keep)                                                                                    \
        memcpy(w->regs + in->slot[0] + i * sizeof(T), &a, sizeof a);                               \
    }                                                                                              \
  }
ATOMIC(op_atom_add_u32, uint32_t, 1, true, a + b)
ATOMIC(op_atom_add_u64, uint64_t, 1, true, a + b)
ATOMIC(op_atom_add_f32, float, 1, true, sum_f32(w, in, i, a, b))
ATOMIC(op_atom_add_f64, double, 1, true, a + b)
ATOMIC(op_atom_min_u32, uint32_t, 1, true, a < b ? a : b)
ATOMIC(op_atom_max_u32, uint32_t, 1, true, a > b ? a : b)
ATOMIC(op_atom_min_s32, int32_t, 1, true, a < b ? a : b)
ATOMIC(op_atom_max_s32, int32_t, 1, true, a > b ? a : b)
ATOMIC(op_atom_max_u64, uint64_t, 1, true, a > b ? a : b)
ATOMIC(op_atom_and_b32, uint32_t, 1, true, a &b)
ATOMIC(op_atom_or_b32, uint32_t, 1, true, a | b)
ATOMIC(op_atom_xor_b32, uint32_t, 1, true, a ^ b)
ATOMIC(op_atom_exch_b32, uint32_t, 1, true, b)
ATOMIC(op_atom_inc_u32, uint32_t, 1, true, a >= b ? 0 : a + 1)
ATOMIC(op_red_add_u32, uint32_t, 0, false, a + b)
ATOMIC(op_red_add_f32, float, 0, false, sum_f32(w, in, i, a, b))
ATOMIC(op_red_add_f64, double, 0, false, a + b)
ATOMIC(op_red_max_u32, uint32_t, 0, false, a > b ? a : b)
ATOMIC(op_red_max_s32, int32_t, 0, false, a > b ? a : b)
ATOMIC(op_red_or_b32, uint32_t, 0, false, a | b)

#define COMPARE_AND_SWAP(name, T)                                                                  \
  void name(Warp *w, const Insn *in) {                                                             \
    COUNT(false, sizeof(T));                                                                       \
    EACH_LANE(i) {                                                                                 \
      uint8_t *p = atomic_at(w, in, i, sizeof(T));                                                 \
      T a, b, c;                                                                                   \
      memcpy(&a, p, sizeof a);                                                                     \
      memcpy(&b, w->regs + in->slot[1] + i * sizeof(T), sizeof b);                                 \
      memcpy(&c, w->regs + in->slot[2] + i * sizeof(T), sizeof c);                                 \
      if (a == b)                                                                                  \
        memcpy(p, &c, sizeof c);                                                                   \
      memcpy(w->regs + in->slot[0] + i * sizeof(T), &a, sizeof a);                                 \
    }                                                                                              \
  }
COMPARE_AND_SWAP(op_atom_cas_b32, uint32_t)
COMPARE_AND_SWAP(op_atom_cas_b64, uint64_t)

/* ---- asynchronous copies ---- */

static void count_copy(Warp *w, const Insn *in) {
  uint64_t to[LANES] = {0}, from[LANES] = {0};
  uint32_t reads = 0;
  EACH_LANE(i) {
    to[i] = lane_address(w, in, (int)i);
    from[i] = reg64(w, in, 0)[i] + (uint64_t)(int64_t)in->imm;
    reads |= (uint32_t)(in->slot[1] == NO_SLOT || reg32(w, in, 1)[i] > 0) << i;
  }
  stats_shared(w, in, to, w->mask, in->bytes);
  stats_global(w, in, from, w->mask & reads, in->bytes);
}

/* Operand 0: address in global memory (plus Insn.imm); 1: bytes to read, the rest is zeroed. */
void op_async_copy(Warp *w, const Insn *in) {
  if (w->launch->counts_by_insn)
    count_copy(w, in);
  EACH_LANE(i) {
    const uint32_t bytes = in->bytes;
    const uint32_t read = in->slot[1] == NO_SLOT ? bytes : reg32(w, in, 1)[i];
    const uint64_t from = reg64(w, in, 0)[i] + (uint64_t)(int64_t)in->imm;
    if (read > bytes)
      launch_fail(w, (int)i, FOUND_BOUNDS, "cp.async of %u bytes out of %u", read, bytes);
    if (from & (bytes - 1))
      launch_fail(w, (int)i, FOUND_ALIGN,
                  "cp.async of %u bytes from an address that is not a "
                  "multiple",
                  bytes);
    if (read && !find_alloc(w, in, from, read))
      out_of_bounds(w, (int)i, from, read);
    const uint64_t to = lane_address(w, in, (int)i);
    if (to > UINT32_MAX)
      shared_at(w, (int)i, to, bytes, ACCESS_WRITE); /* fails */
    shared_async(w, (int)i, (uint32_t)to, bytes, true);
    if (w->n_copies == w->cap_copies) {
      w->cap_copies = w->cap_copies ? 2 * w->cap_copies : 256;
      w->copies = emu_grow(w->copies, w->cap_copies * sizeof *w->copies);
    }
    w->copies[w->n_copies++] = (AsyncCopy){(uint32_t)to, bytes, read, i, from, in};
  }
}

void op_async_commit(Warp *w, const Insn *in) {
  (void)in;
  if (w->n_commits == w->cap_commits) {
    w->cap_commits = w->cap_commits ? 2 * w->cap_commits : 16;
    w->commits = emu_grow(w->commits, w->cap_commits * sizeof *w->commits);
  }
  w->commits[w->n_commits++] = w->n_copies;
}

/* Does the first n copies. */
static void do_copies(Warp *w, uint32_t n) {
  const Insn *at = w->at;
  Shared *s = &w->launch->shared;
  for (uint32_t k = 0; k < n; k++) {
    const AsyncCopy *c = &w->copies[k];
    w->at = c->in;
    if (c->source_bytes) {
      Alloc *a = find_alloc(w, c->in, c->from, c->source_bytes);
      if (!a)
        out_of_bounds(w, (int)c->lane, c->from, c->source_bytes);
      uint32_t other;
      const Found f =
          memory_access(a, c->from - a->lo, c->source_bytes, ACCESS_READ, w->launch->tag, &other);
      if (f && found_enabled(f))
        launch_fail(w, (int)c->lane, f, "cp.async of %u bytes from offset %llu of allocation %u",
                    c->source_bytes, (unsigned long long)(c->from - a->lo), a->number);
      memcpy(s->bytes + c->shared, a->host + (c->from - a->lo), c->source_bytes);
    }
    memset(s->bytes + c->shared + c->source_bytes, 0, c->bytes - c->source_bytes);
    shared_async(w, (int)c->lane, c->shared, c->bytes, false);
  }
  w->at = at;
  memmove(w->copies, w->copies + n, (w->n_copies - n) * sizeof *w->copies);
  w->n_copies -= n;
}

void op_async_wait(Warp *w, const Insn *in) {
  if (w->n_commits <= (uint32_t)in->imm)
    return;
  const uint32_t done = w->n_commits - (uint32_t)in->imm, n = w->commits[done - 1];
  do_copies(w, n);
  for (uint32_t k = done; k < w->n_commits; k++)
    w->commits[k - done] = w->commits[k] - n;
  w->n_commits -= done;
}

void op_async_wait_all(Warp *w, const Insn *in) {
  (void)in;
  do_copies(w, w->n_copies);
  w->n_commits = 0;
}
