/* Instructions of a warp or block: shuffles, votes, reductions, barriers. launch.c has made sure
 * that the lanes of the mask are here. */
#include "ptx_handlers.h"

#include <string.h>

/* ---- shuffles: operands: value, predicate, value in, lane, clamp and segment, mask ----------- */
typedef enum { BFLY, UP, DOWN, IDX } Way;

static void shfl(Warp *w, const Insn *in, Way way) {
  uint32_t *to = reg32(w, in, 0), *inside = reg32(w, in, 1), from[LANES];
  const uint32_t *b = reg32(w, in, 3), *c = reg32(w, in, 4);
  memcpy(from, reg32(w, in, 2), sizeof from);
  EACH_LANE(i) {
    const uint32_t segment = c[i] >> 8 & 31, clamp = c[i] & 31, by = b[i] & 31;
    const uint32_t high = (i & segment) | (clamp & ~segment), low = i & segment;
    int32_t source = 0;
    bool ok = false;
    switch (way) {
    case BFLY:
      source = (int32_t)(i ^ by);
      ok = source <= (int32_t)high;
      break;
    case UP:
      source = (int32_t)i - (int32_t)by;
      ok = source >= (int32_t)high;
      break;
    case DOWN:
      source = (int32_t)(i + by);
      ok = source <= (int32_t)high;
      break;
    case IDX:
      source = (int32_t)(low | (by & ~segment));
      ok = source <= (int32_t)high;
      break;
    }
    source = ok ? source : (int32_t)i;
    if (!(w->mask >> source & 1))
      launch_fail(w, (int)i, FOUND_SHUFFLE, "lane %d", source);
    to[i] = from[source];
    inside[i] = ok ? UINT32_MAX : 0;
  }
}
void op_shfl_bfly(Warp *w, const Insn *in) {
  shfl(w, in, BFLY);
}
void op_shfl_up(Warp *w, const Insn *in) {
  shfl(w, in, UP);
}
void op_shfl_down(Warp *w, const Insn *in) {
  shfl(w, in, DOWN);
}
void op_shfl_idx(Warp *w, const Insn *in) {
  shfl(w, in, IDX);
}

/* ---- votes and reductions: operands: result, value, mask ------------------------------------- */

static uint32_t nonzero_lanes(const Warp *w, const uint32_t *v) {
  uint32_t m = 0;
  for (uint32_t i = 0; i < LANES; i++)
    m |= (uint32_t)(v[i] != 0) << i;
  return m & w->mask;
}

/* Result of each lane from the lanes of its own mask. */
#define VOTE(name, value)                                                                          \
  void name(Warp *w, const Insn *in) {                                                             \
    const uint32_t *mask = reg32(w, in, 2), set = nonzero_lanes(w, reg32(w, in, 1));               \
    uint32_t *to = reg32(w, in, 0);                                                                \
    EACH_LANE(i) {                                                                                 \
      const uint32_t all = mask[i] & w->mask, yes = set & all;                                     \
      to[i] = (value);                                                                             \
    }                                                                                              \
  }
VOTE(op_vote_ballot, (yes & all))
VOTE(op_vote_any, (yes & all) ? UINT32_MAX : 0)
VOTE(op_vote_all, yes == all ? UINT32_MAX : 0)
VOTE(op_vote_uni, yes == all || !yes ? UINT32_MAX : 0)

#define REDUX(name, T, value)                                                                      \
  void name(Warp *w, const Insn *in) {                                                             \
    const uint32_t *mask = reg32(w, in, 2);                                                        \
    uint32_t *to = reg32(w, in, 0), from[LANES];                                                   \
    memcpy(from, reg32(w, in, 1), sizeof from);                                                    \
    EACH_LANE(i) {                                                                                 \
      T a = 0;                                                                                     \
      bool first = true;                                                                           \
      for (uint32_t k = 0; k < LANES; k++)                                                         \
        if (mask[i] & w->mask & 1u << k) {                                                         \
          const T b = (T)from[k];                                                                  \
          a = first ? b : (value);                                                                 \
          first = false;                                                                           \
        }                                                                                          \
      to[i] = (uint32_t)a;                                                                         \
    }                                                                                              \
  }
REDUX(op_redux_add, uint32_t, a + b)
REDUX(op_redux_min_u32, uint32_t, a < b ? a : b)
REDUX(op_redux_max_u32, uint32_t, a > b ? a : b)
REDUX(op_redux_min_s32, int32_t, a < b ? a : b)
REDUX(op_redux_max_s32, int32_t, a > b ? a : b)
REDUX(op_redux_or, uint32_t, a | b)
REDUX(op_redux_and, uint32_t, a &b)

void op_match_any(Warp *w, const Insn *in) {
  const uint32_t *mask = reg32(w, in, 2);
  uint32_t *to = reg32(w, in, 0), from[LANES];
  memcpy(from, reg32(w, in, 1), sizeof from);
  EACH_LANE(i) {
    uint32_t m = 0;
    for (uint32_t k = 0; k < LANES; k++)
      m |= (uint32_t)((mask[i] & w->mask) >> k & (from[k] == from[i])) << k;
    to[i] = m;
  }
}

/* Orders the shared memory accesses of the lanes of a mask. */
void op_warp_sync(Warp *w, const Insn *in) {
  shared_warp_sync(w, reg32(w, in, 0));
}

void op_active_mask(Warp *w, const Insn *in) {
  uint32_t *to = reg32(w, in, 0);
  EACH_LANE(i)
  to[i] = w->mask;
}

/* ---- barriers: every warp of the block is here; w is the first ------------------------------- */
void op_barrier(Warp *w, const Insn *in) {
  (void)w;
  (void)in;
}

static uint32_t block_count(Warp *w, const Insn *in, uint32_t *threads) {
  Launch *l = w->launch;
  uint32_t n = 0;
  *threads = l->n_threads;
  for (uint32_t i = 0; i < l->n_warps; i++) {
    const uint32_t *p = reg32(&l->warps[i], in, 1);
    for (uint32_t k = 0; k < LANES; k++)
      n += l->warps[i].alive >> k & 1 && p[k];
  }
  return n;
}
static void block_result(Warp *w, const Insn *in, uint32_t v) {
  Launch *l = w->launch;
  for (uint32_t i = 0; i < l->n_warps; i++) {
    uint32_t *to = reg32(&l->warps[i], in, 0);
    for (uint32_t k = 0; k < LANES; k++)
      to[k] = v;
  }
}
void op_barrier_or(Warp *w, const Insn *in) {
  uint32_t threads;
  block_result(w, in, block_count(w, in, &threads) ? UINT32_MAX : 0);
}
void op_barrier_and(Warp *w, const Insn *in) {
  uint32_t threads;
  const uint32_t n = block_count(w, in, &threads);
  block_result(w, in, n == threads ? UINT32_MAX : 0);
}
void op_barrier_popc(Warp *w, const Insn *in) {
  uint32_t threads;
  const uint32_t n = block_count(w, in, &threads);
  block_result(w, in, n);
}
