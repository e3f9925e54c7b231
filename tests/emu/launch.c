/* A grid runs: blocks one after another, the warps of a block one after another from barrier to
 * barrier, both in an order that a seed shuffles.
 *
 * Divergence: a warp is a set of groups (pc, lanes). The group with the lowest pc that does not
 * wait runs until it meets another; groups at one pc are one group. A group waits at an instruction
 * that wants lanes which are elsewhere; when all groups wait, those lanes will never come: a
 * finding. This needs no control flow analysis, and ends because each step moves a group or joins
 * two. */
#include "emu.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void warp_set_mask(Warp *w, uint32_t mask) {
  w->mask = mask;
  for (int i = 0; i < LANES; i++)
    w->lanes[i] = -(int32_t)(mask >> i & 1);
}

const char *launch_starved(const Kernel *k, const LaunchConfig *c) {
  const uint64_t threads = (uint64_t)c->block[0] * c->block[1] * c->block[2];
  if (!k->max_threads && !k->max_registers && threads > REGISTERS / 255)
    return "more than 257 threads of a kernel without launch bounds: a thread may have 255 of the "
           "65536 registers";
  if (k->max_registers && threads * k->max_registers > REGISTERS)
    return "more registers (.maxnreg) than a block can have (65536)";
  return NULL;
}

const char *launch_refused(const Kernel *k, const LaunchConfig *c) {
  const uint32_t *g = c->grid, *b = c->block;
  const uint64_t threads = (uint64_t)b[0] * b[1] * b[2];
  if (!g[0] || !g[1] || !g[2] || !b[0] || !b[1] || !b[2])
    return "a dimension is 0";
  if (g[0] > INT32_MAX || g[1] > 65535 || g[2] > 65535)
    return "grid above 2147483647, 65535, 65535";
  if (b[0] > 1024 || b[1] > 1024 || b[2] > 64 || threads > MAX_THREADS)
    return "block above 1024, 1024, 64 or 1024 threads";
  if (k->required[0] && memcmp(k->required, b, sizeof k->required) != 0)
    return "block is not what .reqntid requires";
  if (k->max_threads && threads > k->max_threads)
    return "more threads than the kernel's launch bounds (.maxntid)";
  if (g[0] > INT32_MAX / g[1] / g[2])
    return "more than 2147483647 blocks in all, which are not emulated";
  if (launch_starved(k, c))
    return launch_starved(k, c);
  if (c->dynamic_shared > k->max_dynamic)
    return "more dynamic shared memory than allowed; above 48 KiB, static too, only after "
           "cuFuncSetAttribute";
  if (c->dynamic_shared + k->static_shared > MAX_SHARED)
    return "more shared memory than a block can have (232448 bytes)";
  return NULL;
}

/* ---- values fixed before a block runs ---- */

static void broadcast(Warp *w, const Fixed *f, uint64_t value) {
  uint8_t *r = w->regs + f->slot;
  for (int i = 0; i < LANES; i++)
    if (f->reg_bytes == 8)
      ((uint64_t *)(void *)r)[i] = value;
    else
      ((uint32_t *)(void *)r)[i] = (uint32_t)value;
}

static uint64_t param_value(const Launch *l, const Fixed *f) {
  uint64_t v = 0;
  memcpy(&v, l->params + f->value, f->size);
  const int unused = 64 - 8 * f->size;
  return f->is_signed && unused ? (uint64_t)((int64_t)(v << unused) >> unused) : v;
}

static void fill_special(Warp *w, const Fixed *f) {
  const Launch *l = w->launch;
  for (uint32_t i = 0; i < LANES; i++) {
    const uint32_t t = w->id * LANES + i;
    uint32_t v = 0;
    switch ((Special)f->value) {
    case SPECIAL_TID_X:
      v = t % l->block[0];
      break;
    case SPECIAL_TID_Y:
      v = t / l->block[0] % l->block[1];
      break;
    case SPECIAL_TID_Z:
      v = t / l->block[0] / l->block[1];
      break;
    case SPECIAL_NTID_X:
      v = l->block[0];
      break;
    case SPECIAL_NTID_Y:
      v = l->block[1];
      break;
    case SPECIAL_NTID_Z:
      v = l->block[2];
      break;
    case SPECIAL_CTAID_X:
      v = l->ctaid[0];
      break;
    case SPECIAL_CTAID_Y:
      v = l->ctaid[1];
      break;
    case SPECIAL_CTAID_Z:
      v = l->ctaid[2];
      break;
    case SPECIAL_NCTAID_X:
      v = l->grid[0];
      break;
    case SPECIAL_NCTAID_Y:
      v = l->grid[1];
      break;
    case SPECIAL_NCTAID_Z:
      v = l->grid[2];
      break;
    case SPECIAL_LANEID:
      v = i;
      break;
    case SPECIAL_WARPID:
      v = w->id;
      break;
    case SPECIAL_MASK_EQ:
      v = 1u << i;
      break;
    case SPECIAL_MASK_LT:
      v = (1u << i) - 1;
      break;
    case SPECIAL_MASK_LE:
      v = (2u << i) - 1;
      break;
    case SPECIAL_MASK_GT:
      v = ~((2u << i) - 1);
      break;
    case SPECIAL_MASK_GE:
      v = ~((1u << i) - 1);
      break;
    case SPECIAL_COUNT:
      break;
    }
    if (f->reg_bytes == 8)
      ((uint64_t *)(void *)(w->regs + f->slot))[i] = v;
    else
      ((uint32_t *)(void *)(w->regs + f->slot))[i] = v;
  }
}

static bool of_block(const Fixed *f) {
  return f->kind == FIXED_SPECIAL && f->value >= SPECIAL_CTAID_X && f->value <= SPECIAL_CTAID_Z;
}

static void fill_launch(Launch *l, Warp *w) {
  for (uint32_t i = 0; i < l->kernel->n_fixed; i++) {
    const Fixed *f = &l->kernel->fixed[i];
    if (f->kind == FIXED_NUMBER)
      broadcast(w, f, f->value);
    else if (f->kind == FIXED_DYNAMIC)
      broadcast(w, f, f->value + l->kernel->shared_bytes);
    else if (f->kind == FIXED_PARAM)
      broadcast(w, f, param_value(l, f));
    else
      fill_special(w, f);
  }
}

/* ---- one warp ---- */

static uint32_t predicate_lanes(const Warp *w, uint32_t slot, bool negated) {
  const uint32_t *p = (const uint32_t *)(const void *)(w->regs + slot);
  uint32_t m = 0;
  for (uint32_t i = 0; i < LANES; i++)
    m |= (uint32_t)(p[i] != 0) << i;
  return negated ? ~m : m;
}

/* Adds lanes at pc, to the group there if there is one. */
static void put_group(Warp *w, uint32_t pc, uint32_t mask) {
  if (!mask)
    return;
  for (uint32_t i = 0; i < w->n_groups; i++)
    if (w->groups[i].pc == pc) {
      w->groups[i].mask |= mask;
      w->groups[i].waits = false;
      return;
    }
  w->groups[w->n_groups++] = (Group){pc, mask, false};
}

/* Lanes that the instruction wants here; 0 when every lane of the group has what it needs. */
static uint32_t missing_lanes(Warp *w, const Insn *in) {
  if (in->kind != INSN_SYNC)
    return w->alive & ~w->mask;
  const uint32_t *member = (const uint32_t *)(const void *)(w->regs + in->slot[in->member]);
  uint32_t all = 0;
  for (uint32_t i = 0; i < LANES; i++)
    if (w->mask >> i & 1) {
      if (!(member[i] >> i & 1))
        launch_fail(w, (int)i, FOUND_DIVERGENT_SYNC, "the lane is not in its own mask 0x%08x",
                    member[i]);
      all |= member[i];
    }
  return all & w->alive & ~w->mask;
}

/* Lanes have exited: who waited for them need not. */
static void lanes_exit(Warp *w, uint32_t lanes) {
  w->alive &= ~lanes;
  for (uint32_t i = 0; i < w->n_groups; i++)
    w->groups[i].waits = false;
}

_Noreturn static void all_wait(Warp *w) {
  const Group *g = &w->groups[0];
  for (uint32_t i = 1; i < w->n_groups; i++)
    g = w->groups[i].pc < g->pc ? &w->groups[i] : g;
  w->at = &w->launch->kernel->code[g->pc];
  const Found f = w->at->kind == INSN_BARRIER ? FOUND_DIVERGENT_BARRIER : FOUND_DIVERGENT_SYNC;
  uint32_t elsewhere = 0;
  const Insn *other = w->at;
  for (uint32_t i = 0; i < w->n_groups; i++)
    if (&w->groups[i] != g) {
      elsewhere |= w->groups[i].mask;
      other = &w->launch->kernel->code[w->groups[i].pc];
    }
  launch_fail(w, __builtin_ctz(g->mask), f,
              "lanes 0x%08x are here, lanes 0x%08x wait at ptx line %u", g->mask, elsewhere,
              other->line);
}

static void too_long(Warp *w) {
  launch_fail(w, -1, FOUND_TIMEOUT, "the launch ran over EMU_MAX_STEPS");
}

/* Group g waits at pc, or goes on together with the group that waits there already: it may have
 * come by a branch back, which does not look who it passes. */
static bool wait_here(Warp *w, uint32_t g, uint32_t pc) {
  for (uint32_t i = 0; i < w->n_groups; i++)
    if (i != g && w->groups[i].pc == pc) {
      w->groups[i].mask |= w->groups[g].mask;
      w->groups[i].waits = false;
      w->groups[g].mask = 0; /* dropped by the caller */
      return false;
    }
  w->groups[g].pc = pc;
  w->groups[g].waits = true;
  return true;
}

/* Instructions from..to have run once more; returns how many they are. */
static uint64_t ran(const Warp *w, const Insn *from, const Insn *to) {
  if (__builtin_expect(w->launch->counts_by_insn != NULL, 0)) {
    w->launch->counts_by_insn[from->index].runs++;
    w->launch->counts_by_insn[to->index + 1].runs--;
  }
  return (uint64_t)(to - from) + 1;
}

/* Runs w->groups[g] from its pc until it ends, splits, waits, or comes to pc `until` where another
 * group is. Returns false when it waits. */
static bool run_group(Warp *w, uint32_t g, uint32_t until) {
  const Insn *const code = w->launch->kernel->code;
  const Insn *in = code + w->groups[g].pc, *start = in;
  const Insn *const end = code + until;
  warp_set_mask(w, w->groups[g].mask);
  const uint32_t mask = w->mask;
  uint64_t steps = 0;
  bool waits = false;
  for (;; in++) {
    w->at = in;
    if (__builtin_expect(in->guard != NO_SLOT && in->kind != INSN_BRANCH, 0)) {
      const uint32_t take = mask & predicate_lanes(w, in->guard, in->guard_not);
      if (in->kind == INSN_EXIT) {
        lanes_exit(w, take);
        w->groups[g].mask = mask & ~take;
        w->groups[g].pc = in->index + 1;
        break;
      }
      if (in->kind != INSN_PLAIN)
        launch_fail(w, -1, FOUND_DIVERGENT_SYNC, "predicated synchronization is not emulated");
      if (take) {
        warp_set_mask(w, take);
        in->run(w, in);
        warp_set_mask(w, mask);
      }
    } else if (__builtin_expect(in->kind == INSN_PLAIN, 1)) {
      in->run(w, in);
    } else if (in->kind == INSN_BRANCH) {
      const uint32_t take =
          in->guard == NO_SLOT ? mask : mask & predicate_lanes(w, in->guard, in->guard_not);
      steps += ran(w, start, in);
      start = in + 1;
      if (in->target <= in->index && steps > w->launch->steps_left)
        too_long(w);
      if (take == mask && code + in->target < end) {
        in = start = code + in->target;
        in--;
        continue;
      }
      if (!take && in + 1 < end)
        continue;
      w->groups[g] = w->groups[--w->n_groups];
      put_group(w, in->target, take);
      put_group(w, in->index + 1, mask & ~take);
      goto count;
    } else if (in->kind == INSN_EXIT) {
      lanes_exit(w, mask);
      w->groups[g].mask = 0;
      break;
    } else {
      const uint32_t missing = missing_lanes(w, in);
      if (missing || in->kind == INSN_BARRIER) {
        waits = wait_here(w, g, in->index);
        break;
      }
      if (in->kind == INSN_ALIGNED && w->mask != UINT32_MAX)
        launch_fail(w, -1, FOUND_DIVERGENT_SYNC, "lanes 0x%08x have exited or never were",
                    ~w->mask);
      in->run(w, in);
    }
    if (in + 1 == end) {
      const uint32_t here = w->groups[g].mask;
      steps += ran(w, start, in);
      w->groups[g] = w->groups[--w->n_groups];
      put_group(w, until, here);
      goto count;
    }
  }
  steps += ran(w, start, in);
  if (!w->groups[g].mask)
    w->groups[g] = w->groups[--w->n_groups];
count:
  w->launch->steps_left -= steps < w->launch->steps_left ? steps : w->launch->steps_left;
  w->launch->counts.warp_insns += steps;
  w->launch->counts.thread_insns += steps * (uint32_t)__builtin_popcount(mask);
  if (!w->launch->steps_left)
    too_long(w);
  return !waits;
}

/* Runs a warp to the barrier (w->barrier set) or its end. */
static void run_warp(Warp *w) {
  w->barrier = NULL;
  while (w->n_groups) {
    uint32_t best = UINT32_MAX, until = w->launch->kernel->n_code;
    for (uint32_t i = 0; i < w->n_groups; i++)
      if (!w->groups[i].waits && (best == UINT32_MAX || w->groups[i].pc < w->groups[best].pc))
        best = i;
    if (best == UINT32_MAX) {
      const Insn *in = &w->launch->kernel->code[w->groups[0].pc];
      if (w->n_groups != 1 || in->kind != INSN_BARRIER)
        all_wait(w);
      w->barrier = w->at = in;
      return;
    }
    for (uint32_t i = 0; i < w->n_groups; i++)
      if (i != best && w->groups[i].pc > w->groups[best].pc && w->groups[i].pc < until)
        until = w->groups[i].pc;
    run_group(w, best, until);
  }
}

/* ---- one block ---- */

static void shuffle(uint32_t *order, uint32_t n, uint64_t *seed) {
  for (uint32_t i = 0; i < n; i++)
    order[i] = i;
  for (uint32_t i = n; *seed && i > 1; i--) {
    const uint32_t k = (uint32_t)(emu_random(seed) % i), t = order[i - 1];
    order[i - 1] = order[k];
    order[k] = t;
  }
}

/* All warps stopped: at one barrier together, or all have ended; anything else is a finding. */
static const Insn *meet(Launch *l) {
  const Warp *at = NULL;
  for (uint32_t i = 0; i < l->n_warps; i++)
    at = l->warps[i].barrier ? &l->warps[i] : at;
  for (uint32_t i = 0; at && i < l->n_warps; i++) {
    Warp *w = &l->warps[i];
    const uint32_t in_block = l->n_threads - i * LANES,
                   all = in_block >= LANES ? UINT32_MAX : (1u << in_block) - 1;
    if (!w->barrier)
      launch_fail(&l->warps[at->id], -1, FOUND_DIVERGENT_BARRIER,
                  "warp %u waits here, warp %u has exited", at->id, i);
    if (w->barrier != at->barrier)
      launch_fail(w, -1, FOUND_DIVERGENT_BARRIER, "warp %u is here, warp %u at ptx line %u", i,
                  at->id, at->barrier->line);
    if (w->alive != all)
      launch_fail(w, __builtin_ctz(all & ~w->alive), FOUND_DIVERGENT_BARRIER,
                  "lanes 0x%08x have exited", all & ~w->alive);
  }
  return at ? at->barrier : NULL;
}

static void run_block(Launch *l, uint32_t *order, uint64_t *seed) {
  shared_new_block(&l->shared);
  for (uint32_t i = 0; i < l->n_warps; i++) {
    Warp *w = &l->warps[i];
    const uint32_t lanes = l->n_threads - i * LANES;
    w->alive = lanes >= LANES ? UINT32_MAX : (1u << lanes) - 1;
    w->groups[0] = (Group){0, w->alive, false};
    w->n_groups = 1;
    w->syncs = w->synced = w->n_copies = w->n_commits = 0;
    w->in_parts = false;
    for (uint32_t f = 0; f < l->kernel->n_fixed; f++)
      if (of_block(&l->kernel->fixed[f]))
        fill_special(w, &l->kernel->fixed[f]);
  }
  for (;;) {
    shuffle(order, l->n_warps, seed);
    for (uint32_t i = 0; i < l->n_warps; i++)
      run_warp(&l->warps[order[i]]);
    const Insn *barrier = meet(l);
    if (!barrier)
      break;
    warp_set_mask(&l->warps[0], l->warps[0].alive);
    barrier->run(&l->warps[0], barrier);
    shared_barrier(&l->shared);
    for (uint32_t i = 0; i < l->n_warps; i++) {
      l->warps[i].groups[0].pc = barrier->index + 1;
      l->warps[i].groups[0].waits = false;
      l->warps[i].syncs = l->warps[i].synced = 0;
      l->warps[i].in_parts = false;
    }
  }
}

static void run_grid(Launch *l, uint64_t seed, uint32_t *order) {
  const uint32_t n = l->grid[0] * l->grid[1] * l->grid[2];
  uint32_t *blocks = order + l->n_warps;
  shuffle(blocks, n, &seed);
  for (uint32_t i = 0; i < n; i++) {
    const uint32_t b = blocks[i];
    l->block_index = b;
    l->tag = l->memory->epoch << TAG_EPOCH_SHIFT | (b & TAG_BLOCK);
    l->ctaid[0] = b % l->grid[0];
    l->ctaid[1] = b / l->grid[0] % l->grid[1];
    l->ctaid[2] = b / l->grid[0] / l->grid[1];
    run_block(l, order, &seed);
  }
}

static void start(Launch *l, Kernel *k, const LaunchConfig *c) {
  l->n_threads = c->block[0] * c->block[1] * c->block[2];
  l->n_warps = (l->n_threads + LANES - 1) / LANES;
  const int64_t steps = emu_env("EMU_MAX_STEPS", INT64_C(1) << 36);
  l->steps_left = steps > 0 ? (uint64_t)steps : 1;
  shared_init(&l->shared,
              c->dynamic_shared ? k->shared_bytes + c->dynamic_shared : k->static_shared,
              k->shared_granule ? k->shared_granule : 16, k->has_async);
  l->hints = emu_alloc(k->n_code * sizeof(Alloc *));
  l->warps = aligned_alloc(64, l->n_warps * sizeof(Warp));
  memset(l->warps, 0, l->n_warps * sizeof(Warp));
  const size_t bytes = (k->reg_bytes + 255) / 256 * 256;
  uint8_t *regs = aligned_alloc(256, bytes * l->n_warps + 256);
  memset(regs, 0, bytes * l->n_warps + 256);
  for (uint32_t i = 0; i < l->n_warps; i++) {
    l->warps[i].regs = regs + i * bytes;
    l->warps[i].launch = l;
    l->warps[i].id = i;
    fill_launch(l, &l->warps[i]);
  }
}

static void finish(Launch *l) {
  for (uint32_t i = 0; i < l->n_warps; i++) {
    free(l->warps[i].copies);
    free(l->warps[i].commits);
  }
  free(l->warps[0].regs);
  free(l->warps);
  free(l->hints);
  shared_fini(&l->shared);
  free(l);
}

bool launch_run(Kernel *k, Memory *memory, const LaunchConfig *c, Report *report,
                LaunchCounts *counts) {
  Launch *l = emu_alloc(sizeof *l);
  l->kernel = k;
  l->memory = memory;
  memcpy(l->grid, c->grid, sizeof l->grid);
  memcpy(l->block, c->block, sizeof l->block);
  l->params = c->params;
  l->report = report;
  if (!k->counts_by_insn && stats_wanted())
    k->counts_by_insn = emu_alloc((k->n_code + 1) * sizeof *k->counts_by_insn);
  l->counts_by_insn = k->counts_by_insn;
  report->kind = FOUND_NOTHING;
  start(l, k, c);
  memory_new_launch(memory);
  uint32_t *order =
      emu_alloc((l->n_warps + (size_t)l->grid[0] * l->grid[1] * l->grid[2]) * sizeof *order);
  const bool ok = !setjmp(l->failed);
  if (ok)
    run_grid(l, c->seed, order);
  k->launches++;
  if (counts)
    *counts = l->counts;
  free(order);
  finish(l);
  return report->kind == FOUND_NOTHING;
}
