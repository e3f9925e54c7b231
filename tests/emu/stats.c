/* What kernels cost, counted when EMU_STATS names a file: how long they keep each part of an H200
 * busy, the shared memory wavefronts of a warp's request beside those it would need without bank
 * conflicts, and the 32-byte sectors of device memory beside those that its bytes would fill. One
 * line a kernel, then its worst instructions.
 *
 * Shared memory has 32 banks of 4 bytes; a request is served in parts of 128 bytes: 32 lanes of 4
 * bytes, 16 of 8, 8 of 16; a part takes as many wavefronts as its busiest bank has different words.
 * Source: CUDA C++ Programming Guide, "Shared Memory", and the metrics of Nsight Compute's guide.
 */
#include "ptx_handlers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BANKS = 32, SECTOR = 32, WORST = 3 };

bool stats_wanted(void) {
  const char *file = getenv("EMU_STATS");
  return file && *file;
}

static uint32_t wavefronts(const uint64_t *at, uint32_t mask, uint32_t bytes, uint32_t *parts) {
  const uint32_t words = bytes < 4 ? 1 : bytes / 4, lanes = LANES / words;
  uint32_t all = 0;
  *parts = 0;
  for (uint32_t first = 0; first < LANES; first += lanes) {
    uint64_t seen[BANKS][LANES];
    uint32_t n[BANKS] = {0}, most = 0;
    for (uint32_t i = first; i < first + lanes; i++)
      for (uint32_t k = 0; mask >> i & 1 && k < words; k++) {
        const uint64_t word = at[i] / 4 + k;
        uint32_t q = 0, *of = &n[word % BANKS];
        while (q < *of && seen[word % BANKS][q] != word)
          q++;
        if (q == *of)
          seen[word % BANKS][(*of)++] = word;
        most = *of > most ? *of : most;
      }
    all += most;
    *parts += most > 0;
  }
  return all;
}

static int by_value(const void *a, const void *b) {
  const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return x < y ? -1 : x > y;
}

/* Sectors of the lanes' bytes, and those that as many different bytes fill. */
static uint32_t sectors(const uint64_t *at, uint32_t mask, uint32_t bytes, uint32_t *least) {
  uint64_t sorted[LANES], last = UINT64_MAX, covered = 0, end = 0;
  uint32_t n = 0, count = 0;
  for (uint32_t i = 0; i < LANES; i++)
    if (mask >> i & 1)
      sorted[n++] = at[i];
  qsort(sorted, n, sizeof *sorted, by_value);
  for (uint32_t i = 0; i < n; i++) {
    const uint64_t from = sorted[i] > end ? sorted[i] : end, to = sorted[i] + bytes;
    covered += to > from ? to - from : 0;
    end = to > end ? to : end;
    for (uint64_t s = sorted[i] / SECTOR; s <= (to - 1) / SECTOR; s++)
      if (last == UINT64_MAX || s > last) {
        count++;
        last = s;
      }
  }
  *least = (uint32_t)((covered + SECTOR - 1) / SECTOR);
  return count;
}

static void add(AccessCount *c, uint32_t units, uint32_t ideal) {
  c->requests += ideal > 0;
  c->units += units;
  c->ideal += ideal;
}

void stats_shared(Warp *w, const Insn *in, const uint64_t *at, uint32_t mask, uint32_t bytes) {
  uint32_t ideal;
  const uint32_t units = wavefronts(at, mask, bytes, &ideal);
  add(&w->launch->counts_by_insn[in->index].shared, units, ideal);
}

void stats_global(Warp *w, const Insn *in, const uint64_t *at, uint32_t mask, uint32_t bytes) {
  uint32_t ideal;
  const uint32_t units = sectors(at, mask, bytes, &ideal);
  add(&w->launch->counts_by_insn[in->index].global, units, ideal);
}

void stats_access(Warp *w, const Insn *in, bool shared, uint32_t bytes) {
  uint64_t at[LANES] = {0};
  uint32_t in_shared = 0;
  EACH_LANE(i) {
    at[i] = lane_address(w, in, (int)i);
    in_shared |= (uint32_t)(shared || at[i] >> 62 == 0) << i;
  }
  if (w->mask & in_shared)
    stats_shared(w, in, at, w->mask & in_shared, bytes);
  if (w->mask & ~in_shared)
    stats_global(w, in, at, w->mask & ~in_shared, bytes);
}

/* ---- how long parts of a multiprocessor are busy ---- */

/* Instructions of sm_90's own code for one of PTX, found by disassembling, and how long the unit of
 * `special` or `tensor` has to do with it. The first prefix that fits; one instruction elsewhere.
 * Special functions: four lanes a cycle and quarter, conversions of numbers sixteen (CUDA C++
 * Programming Guide, "Arithmetic Instructions"). mma.sync: 62 % of the 989 TFLOP/s that wgmma has
 * ("Dissecting the NVIDIA Hopper Architecture through Microbenchmarking", 2024). */
typedef struct {
  const char *prefix;
  uint8_t issue, special, tensor;
} Cost;

static const Cost costs[] = {
    {"ld.param", 0, 0, 0},       {"mov.", 0, 0, 0},         {"cvta.", 0, 0, 0},
    {"cvt.u64.u32", 0, 0, 0},    {"cvt.u32.u64", 0, 0, 0},  {"cvt.u16.u32", 0, 0, 0},
    {"cvt.u32.u16", 0, 0, 0},    {"cvt.s64.s32", 1, 0, 0},  {"cvt.rn.f32.u64", 9, 8, 0},
    {"cvt.rn.f32.s64", 9, 8, 0}, {"cvt.f64", 1, 8, 0},      {"cvt.rn.f32.f64", 1, 8, 0},
    {"cvt.f32.f16", 1, 0, 0},    {"cvt.", 1, 2, 0},         {"div.rn.f32", 11, 16, 0},
    {"div.full.f32", 8, 8, 0},   {"div.rn.f64", 24, 8, 0},  {"div.", 20, 8, 0},
    {"rem.", 22, 8, 0},          {"rcp.rn.f32", 8, 8, 0},   {"rcp.rn.f64", 18, 8, 0},
    {"rcp.", 1, 8, 0},           {"sqrt.rn.f32", 10, 8, 0}, {"sqrt.rn.f64", 22, 8, 0},
    {"ex2.approx.ftz", 1, 8, 0}, {"ex2.", 4, 8, 0},         {"rsqrt.", 1, 8, 0},
    {"lg2.", 1, 8, 0},           {"sin.", 1, 8, 0},         {"cos.", 1, 8, 0},
    {"mul.lo.s64", 4, 0, 0},     {"mul.lo.u64", 4, 0, 0},   {"mad.lo.s64", 4, 0, 0},
    {"add.s64", 2, 0, 0},        {"sub.s64", 2, 0, 0},      {"shl.b64", 2, 0, 0},
    {"shr.u64", 2, 0, 0},        {"shr.s64", 2, 0, 0},      {"and.b64", 2, 0, 0},
    {"or.b64", 2, 0, 0},         {"xor.b64", 2, 0, 0},      {"selp.b64", 2, 0, 0},
    {"add.f64", 2, 0, 0}, /* doubles: half as many lanes as there are of f32 */
    {"add.rn.f64", 2, 0, 0},     {"sub.f64", 2, 0, 0},      {"sub.rn.f64", 2, 0, 0},
    {"mul.f64", 2, 0, 0},        {"mul.rn.f64", 2, 0, 0},   {"fma.rn.f64", 2, 0, 0},
    {"mma.sync", 1, 0, 6},
};

static const Cost *cost_of(const Insn *in) {
  static const Cost one = {"", 1, 0, 0};
  for (size_t i = 0; i < sizeof costs / sizeof *costs; i++)
    if (!strncmp(in->opcode, costs[i].prefix, strlen(costs[i].prefix)))
      return &costs[i];
  return &one;
}

Busy stats_busy(const Kernel *k) {
  /* 4.3 TB/s in cycles of 132 multiprocessors' quarters at 1.755 GHz: 6.9 a sector */
  enum { QUARTERS = 4, MEMORY_TENTHS = 69 };
  Busy b = {0};
  uint64_t runs = 0, sectors = 0;
  for (uint32_t i = 0; k->counts_by_insn && i < k->n_code; i++) {
    const InsnCounts *c = &k->counts_by_insn[i];
    const Insn *in = &k->code[i];
    const Cost *cost = cost_of(in);
    runs += (uint64_t)c->runs;
    b.issue += runs * cost->issue;
    b.special += runs * cost->special;
    b.tensor += runs * cost->tensor;
    b.shared += QUARTERS * (c->shared.units + (strncmp(in->opcode, "shfl", 4) ? 0 : runs));
    sectors += c->global.units;
  }
  b.memory = sectors * MEMORY_TENTHS / 10;
  return b;
}

/* ---- the report ---- */

static double ratio(const AccessCount *c) {
  return c->ideal ? (double)c->units / (double)c->ideal : 1;
}

/* An instruction that costs more than it must, and by how much. */
typedef struct {
  uint32_t insn;
  bool shared;
  uint64_t excess;
} Costly;

static void note(Costly worst[WORST], uint32_t insn, bool shared, const AccessCount *c) {
  Costly now = {insn, shared, c->units - c->ideal};
  for (int i = 0; i < WORST; i++)
    if (now.excess > worst[i].excess) {
      const Costly t = worst[i];
      worst[i] = now;
      now = t;
    }
}

static void report_kernel(FILE *f, const Kernel *k) {
  AccessCount shared = {0}, global = {0};
  Costly worst[WORST] = {{0}};
  for (uint32_t i = 0; i < k->n_code; i++) {
    const InsnCounts *c = &k->counts_by_insn[i];
    shared.requests += c->shared.requests, shared.units += c->shared.units,
        shared.ideal += c->shared.ideal;
    global.requests += c->global.requests, global.units += c->global.units,
        global.ideal += c->global.ideal;
    note(worst, i, true, &c->shared);
    note(worst, i, false, &c->global);
  }
  const Busy b = stats_busy(k);
  fprintf(f,
          "%s launches %llu busy %llu %llu %llu %llu %llu shared %llu %llu %llu %.2f global %llu "
          "%llu %llu %.2f",
          k->name, (unsigned long long)k->launches, (unsigned long long)b.memory,
          (unsigned long long)b.issue, (unsigned long long)b.special, (unsigned long long)b.tensor,
          (unsigned long long)b.shared, (unsigned long long)shared.requests,
          (unsigned long long)shared.units, (unsigned long long)shared.ideal, ratio(&shared),
          (unsigned long long)global.requests, (unsigned long long)global.units,
          (unsigned long long)global.ideal, ratio(&global));
  for (int i = 0; i < WORST && worst[i].excess; i++) {
    const Insn *in = &k->code[worst[i].insn];
    const InsnCounts *c = &k->counts_by_insn[worst[i].insn];
    size_t n;
    const char *line = ptx_line(k->module, in->line, &n);
    const SourceLoc *loc = &k->module->locs[in->loc];
    fprintf(f, " | %s x%.2f", worst[i].shared ? "shared" : "global",
            ratio(worst[i].shared ? &c->shared : &c->global));
    if (in->loc && loc->line)
      fprintf(f, " source line %u,", loc->line);
    fprintf(f, " line %u: %.*s", in->line, (int)(n < 72 ? n : 72), line);
  }
  fputc('\n', f);
}

void stats_report(const Module *m) {
  FILE *f = m && stats_wanted() ? fopen(getenv("EMU_STATS"), "a") : NULL;
  if (!f)
    return;
  for (uint32_t i = 0; i < m->n_kernels; i++)
    if (m->kernels[i]->counts_by_insn && m->kernels[i]->launches)
      report_kernel(f, m->kernels[i]);
  fclose(f);
}
