/* Levels of the CPU target: what each may use, and which of them this machine runs. Features are
 * named one by one (no -mcpu name) so that `needs` is the whole truth. */
#include <cpuid.h>
#include <stdio.h>
#include <string.h>

#include "codegen/cpu/gen.h"

#define V3 "+sse4.2,+popcnt,+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+movbe"
#define V4 V3 ",+avx512f,+avx512bw,+avx512vl,+avx512dq,+avx512cd"
#define V3_NEEDS "avx2 fma f16c bmi bmi2 lzcnt movbe"
#define V4_NEEDS V3_NEEDS " avx512f avx512bw avx512vl avx512dq avx512cd"

/* The last is the host's level on AMD's cores alone (cpu_host_level), where two loads of whole
 * vectors a cycle limit products sooner than instructions do. */
static const CpuLevel levels[CPU_NLEVEL] = {
    {"x86-64-v3", V3, V3_NEEDS, 32, false, false, false},
    {"x86-64-v4", V4, V4_NEEDS, 64, true, false, true},
    {"x86-64-v4-bf16", V4 ",+avx512bf16", V4_NEEDS " avx512bf16", 64, true, true, false},
};

const char *const cpu_level_names[] = {"x86-64-v3", "x86-64-v4", "x86-64-v4-bf16"};

const CpuLevel *cpu_level(const char *name) {
  for (int i = 0; i < CPU_NLEVEL; i++)
    if (!strcmp(levels[i].name, name))
      return &levels[i];
  return NULL;
}

const char *cpu_level_needs(const char *level) {
  const CpuLevel *l = cpu_level(level);
  return l ? l->needs : NULL;
}

/* Panels of products are two vectors wide: two accumulator columns times up to 14 (5 on AVX2) rows
 * fit the registers. */
Status cpu_caps(const char *level, TargetCaps *out) {
  const CpuLevel *l = cpu_level(level);
  memset(out, 0, sizeof *out);
  if (!l)
    return MPCC_ERR_TARGET;
  snprintf(out->name, sizeof out->name, "cpu");
  snprintf(out->level, sizeof out->level, "%s", l->name);
  out->vector_bytes = l->vector_bytes;
  out->bf16_dot = l->bf16;
  out->panel_cols_f32 = 2 * l->vector_bytes / 4;
  out->panel_cols_f64 = 2 * l->vector_bytes / 8;
  out->panel_cols_bf16 = out->panel_cols_f32;
  out->k_pair_bf16 = 2;
  out->rounding_packs = true;
  out->raw_factors = true;
  out->turned_apart = true;
  out->raw_rows = l->avx512 ? 320 : 0; /* of one tile: each panel is packed once */
  out->panel_bytes_rows = 64 << 10;
  return MPCC_OK;
}

/* ---- this machine ---- */

/* Register state the system saves: bits of XCR0 (Intel SDM vol. 1, 13.3). */
static uint64_t saved_state(void) {
  uint32_t lo, hi;
  __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
  return (uint64_t)hi << 32 | lo;
}

static bool bit(unsigned reg, int n) {
  return reg >> n & 1;
}

/* Intel's cores (Sapphire and Emerald Rapids) issue vdpbf16ps at a quarter of the rate of f32
 * multiply-adds, so dot products run at half the multiplications per second (bench/product.c: 85
 * beside 175 GFLOP/s): there bf16 operands are better decoded to f32 while packing. */
static bool dot_products_are_slow(void) {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(0, &a, &b, &c, &d) && b == signature_INTEL_ebx && c == signature_INTEL_ecx &&
         d == signature_INTEL_edx;
}

/* The best level for this machine, which is not always the last it could run.
 * Intel SDM vol. 2, CPUID: leaves 1, 7.0, 7.1, 80000001h. */
const char *cpu_host_level(void) {
  unsigned a, b, c, d, b7, e;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !bit(c, 27))
    return NULL;
  bool base = bit(c, 12) && bit(c, 22) && bit(c, 23) && bit(c, 28) && bit(c, 29);
  uint64_t state = saved_state();
  if (!__get_cpuid_count(7, 0, &a, &b7, &c, &d))
    return NULL;
  if (!__get_cpuid(0x80000001, &a, &b, &e, &d))
    return NULL;
  bool v3 = base && bit(b7, 3) && bit(b7, 5) && bit(b7, 8) && bit(e, 5) && (state & 6) == 6;
  if (!v3)
    return NULL;
  bool v4 = bit(b7, 16) && bit(b7, 17) && bit(b7, 28) && bit(b7, 30) && bit(b7, 31) &&
            (state & 0xe0) == 0xe0;
  if (!v4)
    return levels[0].name;
  if (!__get_cpuid_count(7, 1, &a, &b, &c, &d))
    a = 0;
  return levels[bit(a, 5) && !dot_products_are_slow() ? 2 : 1].name;
}
