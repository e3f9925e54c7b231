/* Counted wavefronts and sectors beside what the layout says: one access each, of which the address
 * of a lane is a multiple of its number. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "emu.h"
#include "tests/check_run.h"

typedef struct {
  const char *access; /* [%r2]: shared, [%a2]: global; lane times `stride` bytes */
  uint32_t stride, lanes, units, ideal;
} Row;

static void check_row(const Row *row) {
  char text[1024], why[512];
  snprintf(text, sizeof text,
           ".version 9.0\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 p)\n{\n"
           ".reg .pred %%p1; .reg .b32 %%r<9>; .reg .b64 %%a<4>; .shared .align 16 .b8 s[16384];\n"
           "ld.param.u64 %%a1, [p]; mov.u32 %%r1, %%tid.x; setp.ge.u32 %%p1, %%r1, %u;\n"
           "@%%p1 bra DONE; mad.lo.u32 %%r2, %%r1, %u, s; mul.wide.u32 %%a2, %%r1, %u;\n"
           "add.s64 %%a2, %%a2, %%a1; %s\nDONE: ret;\n}\n",
           row->lanes, row->stride, row->stride, row->access);
  Memory m = {0};
  Module *module = ptx_load(text, &m, why);
  ck_assert_msg(module != NULL, "%s", why);
  const uint64_t p = memory_alloc(&m, 1 << 16);
  memory_host_wrote(memory_find(&m, p, 1), 0, 1 << 16);
  const LaunchConfig c = {{3, 1, 1}, {32, 1, 1}, 0, (const uint8_t *)&p, 0};
  Kernel *k = ptx_kernel(module, "k");
  Report r;
  launch_run(k, &m, &c, &r, NULL); /* blocks may write the same bytes here */
  ck_assert_ptr_nonnull(k->counts_by_insn);
  uint64_t units = 0, ideal = 0, requests = 0;
  for (uint32_t i = 0; i < k->n_code; i++) {
    const AccessCount *count[] = {&k->counts_by_insn[i].shared, &k->counts_by_insn[i].global};
    for (int s = 0; s < 2; s++)
      requests += count[s]->requests, units += count[s]->units, ideal += count[s]->ideal;
  }
  ck_assert_msg(requests == 3 && units == 3 * row->units && ideal == 3 * row->ideal,
                "%s, stride %u, %u lanes: %d requests, %d units of %d, want %u of %u", row->access,
                row->stride, row->lanes, (int)requests, (int)units, (int)ideal, 3 * row->units,
                3 * row->ideal);
  ptx_unload(module);
  memory_fini(&m);
}

START_TEST(wavefronts_and_sectors) {
  static const Row rows[] = {
      {"st.shared.u32 [%r2], 0;", 4, 32, 1, 1},
      {"st.shared.u32 [%r2], 0;", 8, 32, 2, 1},
      {"st.shared.u32 [%r2], 0;", 12, 32, 1, 1}, /* odd strides do not conflict */
      {"st.shared.u32 [%r2], 0;", 128, 32, 32, 1},
      {"st.shared.u32 [%r2], 0;", 132, 32, 1, 1}, /* a row of 33 words */
      {"st.shared.u32 [%r2], 0;", 128, 7, 7, 1},
      {"st.shared.u8 [%r2], 0;", 1, 32, 1, 1},
      {"st.shared.v2.u32 [%r2], {0, 0};", 8, 32, 2, 2},
      {"st.shared.v4.u32 [%r2], {0, 0, 0, 0};", 16, 32, 4, 4},
      {"st.shared.v4.u32 [%r2], {0, 0, 0, 0};", 32, 32, 8, 4},
      {"st.shared.v4.u32 [%r2], {0, 0, 0, 0};", 128, 32, 32, 4},
      {"st.shared.v4.u32 [%r2], {0, 0, 0, 0};", 144, 32, 4, 4}, /* rows padded by 16 bytes */
      {"ld.global.u32 %r3, [%a2];", 4, 32, 4, 4},
      {"ld.global.u32 %r3, [%a2];", 0, 32, 1, 1},
      {"ld.global.u32 %r3, [%a2];", 32, 32, 32, 4},
      {"ld.global.u32 %r3, [%a2];", 16, 32, 16, 4},
      {"ld.global.u32 %r3, [%a2+16];", 4, 32, 5, 4}, /* not aligned to a sector */
      {"ld.global.u8 %r3, [%a2];", 1, 32, 1, 1},
      {"ld.global.v4.u32 {%r3, %r4, %r5, %r6}, [%a2];", 16, 32, 16, 16},
      {"ld.global.v4.u32 {%r3, %r4, %r5, %r6}, [%a2];", 64, 32, 32, 16},
      {"ld.global.u32 %r3, [%a2];", 4, 8, 1, 1},
  };
  setenv("EMU_STATS", "/dev/null", 1);
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    check_row(&rows[i]);
  unsetenv("EMU_STATS");
}
END_TEST

/* Instructions are counted as often as each ran in a warp, by one lane of it or by all: here a loop
 * that the first half of the lanes goes through 7 times, the others 3 times, in 2 warps of 2
 * blocks. */
START_TEST(busy) {
  static const char text[] =
      ".version 9.0\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 p)\n{\n"
      ".reg .pred %p1; .reg .b32 %r<9>; .reg .f32 %f<3>;\n"
      "mov.u32 %r1, %laneid; mov.f32 %f1, 0f3F800000;\n"               /* nothing */
      "setp.lt.u32 %p1, %r1, 16; selp.b32 %r2, 7, 3, %p1;\n"           /* 2 */
      "LOOP: ex2.approx.ftz.f32 %f1, %f1; div.rn.f32 %f1, %f1, %f1;\n" /* 7 times 12 */
      "sub.s32 %r2, %r2, 1; setp.ne.s32 %p1, %r2, 0; @%p1 bra LOOP;\n" /* 7 times 3 */
      "shfl.sync.bfly.b32 %r3, %r1, 1, 31, -1; ret;\n}\n";             /* 2 */
  char why[512];
  Memory m = {0};
  Module *module = ptx_load(text, &m, why);
  ck_assert_msg(module != NULL, "%s", why);
  const uint64_t p = 0;
  const LaunchConfig c = {{2, 1, 1}, {64, 1, 1}, 0, (const uint8_t *)&p, 0};
  Kernel *k = ptx_kernel(module, "k");
  Report r;
  setenv("EMU_STATS", "/dev/null", 1);
  ck_assert(launch_run(k, &m, &c, &r, NULL));
  unsetenv("EMU_STATS");
  const Busy b = stats_busy(k);
  ck_assert_uint_eq(b.issue, 4 * (2 + 7 * (12 + 3) + 2));
  ck_assert_uint_eq(b.special, 4 * 7 * (8 + 16));
  ck_assert_uint_eq(b.shared, 4 * 4);
  ck_assert_uint_eq(b.tensor + b.memory, 0);
  ptx_unload(module);
  memory_fini(&m);
}
END_TEST

int main(void) {
  TCase *t = tcase_create("stats");
  tcase_add_test(t, busy);
  tcase_add_test(t, wavefronts_and_sectors);
  Suite *s = suite_create("emu/stats");
  suite_add_tcase(s, t);
  return check_run(s);
}
