/* What accesses cost, counted when EMU_STATS names a file: the shared memory wavefronts of a warp's
 * request beside those it would need without bank conflicts, and the 32-byte sectors of device
 * memory beside those that its bytes would fill. One line a kernel, then its worst instructions.
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
  fprintf(f, "%s launches %llu insns %llu shared %llu %llu %llu %.2f global %llu %llu %llu %.2f",
          k->name, (unsigned long long)k->launches, (unsigned long long)k->thread_insns,
          (unsigned long long)shared.requests, (unsigned long long)shared.units,
          (unsigned long long)shared.ideal, ratio(&shared), (unsigned long long)global.requests,
          (unsigned long long)global.units, (unsigned long long)global.ideal, ratio(&global));
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
