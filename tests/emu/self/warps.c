/* Opcodes that are more than one lane: hand-written PTX, each case a body that leaves one word a
 * thread in %r0, and what C says it must be. Two warps of one block; v(t) is the input of thread t.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "emu.h"
#include "tests/check_run.h"

enum { THREADS = 64 };

static uint32_t v(uint32_t t) {
  return t * 2654435761u >> 7;
}
static uint32_t ones(uint32_t x) {
  return (uint32_t)__builtin_popcount(x);
}
/* Lanes of t's warp whose value is odd. */
static uint32_t odd_lanes(uint32_t t) {
  uint32_t m = 0;
  for (uint32_t i = 0; i < 32; i++)
    m |= (v(t / 32 * 32 + i) & 1) << i;
  return m;
}
static uint32_t total(uint32_t from, uint32_t n) {
  uint32_t s = 0;
  for (uint32_t i = from; i < from + n; i++)
    s += v(i);
  return s;
}
static uint32_t extreme(uint32_t t, bool most, bool is_signed) {
  uint32_t r = v(t / 32 * 32) << 9;
  for (uint32_t i = t / 32 * 32; i < t / 32 * 32 + 32; i++) {
    const uint32_t x = v(i) << 9;
    const bool less = is_signed ? (int32_t)x < (int32_t)r : x < r;
    r = (most ? !less && x != r : less) ? x : r;
  }
  return r;
}

typedef struct {
  const char *body;
  uint32_t (*want)(uint32_t t);
} Case;

#define WANT(name, value)                                                                          \
  static uint32_t name(uint32_t t) {                                                               \
    (void)t;                                                                                       \
    return (value);                                                                                \
  }
WANT(w_bfly, v(t ^ 5))
WANT(w_up, t % 32 < 3 ? v(t) : v(t - 3))
WANT(w_down, t % 32 > 28 ? v(t) : v(t + 3))
WANT(w_idx, v(t / 32 * 32 + 7))
WANT(w_up_segment, t % 8 < 2 ? v(t) : v(t - 2))
WANT(w_inside, t % 32 < 3 ? 0 : 1)
WANT(w_ballot, odd_lanes(t))
WANT(w_any, 1)
WANT(w_all, 0)
WANT(w_half_ballot, odd_lanes(t) & (t % 32 < 16 ? 0xFFFF : 0xFFFF0000))
WANT(w_redux_add, total(t / 32 * 32, 32))
WANT(w_redux_max, extreme(t, true, false))
WANT(w_redux_min_s, extreme(t, false, true))
WANT(w_match, t % 2 ? 0xAAAAAAAAu : 0x55555555u)
WANT(w_active, t % 32 < 20 ? 0xFFFFFu : 0xFFF00000u)
WANT(w_or, 1)
WANT(w_and, 0)
WANT(w_popc, ones(odd_lanes(0)) + ones(odd_lanes(32)))
WANT(w_shared_sum, total(0, 64))
WANT(w_shared_max, 63)
WANT(w_cas, t % 32 == 5 ? 9 : t % 32)
WANT(w_exch, 5)
WANT(w_unpack, ((v(t) & 0xFFFF) << 8) + (v(t) >> 16))
WANT(w_pack64, v(t) + 7)
WANT(w_bytes, (v(t) & 255) + (v(t) >> 24) * 256)
WANT(w_param, t % 2 ? THREADS : 77)
WANT(w_generic, v(63 - t))
WANT(w_sub_word, ((v(t) & 255) ^ 0x80) - 0x80)
WANT(w_vector, v(t) + 2 * (v(t) + 1) + 3 * (v(t) + 2) + 4 * (v(t) + 3))
WANT(w_async, t % 2 ? 0 : (t * 4 + 2) * 3)
WANT(w_divergent, t % 4 == 0 ? 10 : t % 4 == 1 ? 21 : t % 4 == 2 ? 10 : 33)
WANT(w_loop, t *(t + 1) / 2)
WANT(w_guard, t % 2 ? v(t) : 3)
WANT(w_ldmatrix, (t % 32 / 4 * 8 + t % 4 * 2) | (t % 32 / 4 * 8 + t % 4 * 2 + 1) << 16)
WANT(w_ldmatrix_trans, (t % 32 % 4 * 16 + t % 32 / 4) | (t % 32 % 4 * 16 + 8 + t % 32 / 4) << 16)
WANT(w_mask, (1u << t % 32) - 1)

#define SELECT "selp.u32 %r0, 1, 0, %p2;"
#define ODD "and.b32 %r9, %r1, 1; setp.ne.u32 %p1, %r9, 0;\n"

static const Case cases[] = {
    {"shfl.sync.bfly.b32 %r0, %r1, 5, 31, -1;", w_bfly},
    {"shfl.sync.up.b32 %r0, %r1, 3, 0, -1;", w_up},
    {"shfl.sync.down.b32 %r0, %r1, 3, 31, -1;", w_down},
    {"shfl.sync.idx.b32 %r0, %r1, 7, 31, -1;", w_idx},
    {"shfl.sync.up.b32 %r0, %r1, 2, 6144, -1;", w_up_segment}, /* segments of 8 */
    {"shfl.sync.up.b32 %r0|%p2, %r1, 3, 0, -1;" SELECT, w_inside},
    {ODD "vote.sync.ballot.b32 %r0, %p1, -1;", w_ballot},
    {ODD "vote.sync.any.pred %p2, %p1, -1;" SELECT, w_any},
    {ODD "vote.sync.all.pred %p2, %p1, -1;" SELECT, w_all},
    {ODD "setp.lt.u32 %p3, %r3, 16; selp.u32 %r4, 65535, -65536, %p3;\n"
         "vote.sync.ballot.b32 %r0, %p1, %r4;",
     w_half_ballot},
    {"redux.sync.add.u32 %r0, %r1, -1;", w_redux_add},
    {"shl.b32 %r1, %r1, 9; redux.sync.max.u32 %r0, %r1, -1;", w_redux_max},
    {"shl.b32 %r1, %r1, 9; redux.sync.min.s32 %r0, %r1, -1;", w_redux_min_s},
    {"and.b32 %r4, %r2, 1; match.any.sync.b32 %r0, %r4, -1;", w_match},
    {"setp.lt.u32 %p1, %r3, 20; @%p1 bra A; activemask.b32 %r0; bra B; A: activemask.b32 %r0; B:",
     w_active},
    /* code of the others lies behind, and they come back to where the first wait */
    {"setp.ge.u32 %p1, %r3, 20; @%p1 bra FAR; NEAR: shfl.sync.bfly.b32 %r0, %r1, 5, 31, -1; bra "
     "END;\n"
     "FAR: bra NEAR; END:",
     w_bfly},
    {"setp.ge.u32 %p1, %r3, 20; @%p1 bra FAR; NEAR: bar.sync 0; mov.u32 %r0, %r1; bra END;\n"
     "FAR: bra NEAR; END: xor.b32 %r5, %r2, 5; shfl.sync.bfly.b32 %r0, %r0, 5, 31, -1;",
     w_bfly},
    {ODD "bar.red.or.pred %p2, 0, %p1;" SELECT, w_or},
    {ODD "bar.red.and.pred %p2, 0, %p1;" SELECT, w_and},
    {ODD "bar.red.popc.u32 %r0, 0, %p1;", w_popc},
    {"setp.ne.u32 %p1, %r2, 0; @%p1 bra A; st.shared.u32 [s], 0; A: bar.sync 0;\n"
     "atom.shared.add.u32 %r4, [s], %r1;\n"
     "bar.sync 0; ld.shared.u32 %r0, [s];",
     w_shared_sum},
    {"setp.ne.u32 %p1, %r2, 0; @%p1 bra A; st.shared.u32 [s], 0; A: bar.sync 0;\n"
     "red.shared.max.u32 [s], %r2; bar.sync 0; ld.shared.u32 %r0, [s];",
     w_shared_max},
    {"st.shared.u32 [%r6], %r3; atom.shared.cas.b32 %r4, [%r6], 5, 9; bar.sync 0;\n"
     "ld.shared.u32 %r0, [%r6];",
     w_cas},
    {"setp.ne.u32 %p1, %r2, 0; @%p1 bra A; st.shared.u32 [s], 5; A: bar.sync 0;\n"
     "atom.shared.exch.b32 %r0, [s], 5;",
     w_exch},
    {"mov.b32 {%h1, %h2}, %r1; cvt.u32.u16 %r4, %h1; cvt.u32.u16 %r5, %h2; shl.b32 %r4, %r4, 8;\n"
     "add.u32 %r0, %r4, %r5;",
     w_unpack},
    {"mov.b64 %a4, {%r1, %r2}; add.s64 %a4, %a4, 7; mov.b64 {%r0, %r5}, %a4;", w_pack64},
    {"mov.b32 {%h1, %h2, %h3, %h4}, %r1; mov.b32 %r4, {%h1, %h4, %h3, %h2};\n"
     "and.b32 %r0, %r4, 65535;",
     w_bytes},
    {"and.b32 %r4, %r2, 1; mul.wide.u32 %a4, %r4, 4; mov.b64 %a5, table; add.s64 %a5, %a5, %a4;\n"
     "ld.param.u32 %r0, [%a5];",
     w_param},
    {"st.shared.u32 [%r6], %r1; bar.sync 0; mov.u32 %r7, 63; sub.u32 %r7, %r7, %r2;\n"
     "shl.b32 %r7, %r7, 2; mov.u32 %r8, s; add.u32 %r7, %r7, %r8; cvt.u64.u32 %a4, %r7;\n"
     "cvta.shared.u64 %a4, %a4; ld.u32 %r0, [%a4];",
     w_generic},
    {"st.shared.u8 [%r6], %r1; ld.shared.s8 %r0, [%r6];", w_sub_word},
    {"mul.wide.u32 %a4, %r2, 16; add.s64 %a4, %a1, %a4; add.u32 %r4, %r1, 1; add.u32 %r5, %r1, 2;\n"
     "add.u32 %r7, %r1, 3; st.global.v4.u32 [%a4], {%r1, %r4, %r5, %r7};\n"
     "ld.global.v2.u32 {%r4, %r5}, [%a4]; ld.global.v2.u32 {%r7, %r8}, [%a4+8];\n"
     "mad.lo.u32 %r0, %r5, 2, %r4; mad.lo.u32 %r0, %r7, 3, %r0; mad.lo.u32 %r0, %r8, 4, %r0;",
     w_vector},
    /* every other thread reads nothing: its 16 bytes are zero */
    {"mul.wide.u32 %a4, %r2, 16; add.s64 %a4, %a2, %a4; mad.lo.u32 %r6, %r2, 16, %r6;\n"
     "shl.b32 %r7, %r2, 2; sub.u32 %r6, %r6, %r7; and.b32 %r4, %r2, 1; setp.eq.u32 %p1, %r4, 1;\n"
     "selp.u32 %r5, 0, 16, %p1; cp.async.cg.shared.global [%r6], [%a4], 16, %r5;\n"
     "cp.async.commit_group; cp.async.wait_group 0; ld.shared.u32 %r0, [%r6+8];",
     w_async},
    {"and.b32 %r4, %r2, 3; mov.u32 %r0, 10; setp.eq.u32 %p1, %r4, 1; setp.eq.u32 %p2, %r4, 3;\n"
     "@%p1 bra ONE; @%p2 bra THREE; bra JOIN; ONE: mov.u32 %r0, 21; bra JOIN; THREE: mov.u32 %r0, "
     "33;\n"
     "JOIN: bar.warp.sync -1;",
     w_divergent},
    {"mov.u32 %r0, 0; mov.u32 %r4, 0; LOOP: setp.ge.u32 %p1, %r4, %r2; @%p1 bra END;\n"
     "add.u32 %r4, %r4, 1; add.u32 %r0, %r0, %r4; bra LOOP; END:",
     w_loop},
    {"and.b32 %r4, %r2, 1; setp.eq.u32 %p1, %r4, 1; mov.u32 %r0, %r1; @!%p1 mov.u32 %r0, 3;",
     w_guard},
    /* a matrix of the numbers 0 .. 63 of each warp, and its transpose */
    {"cvt.u16.u32 %h1, %r3; mad.lo.u32 %r4, %r3, 2, s; shr.u32 %r5, %r2, 5;\n"
     "mad.lo.u32 %r4, %r5, 128, %r4; st.shared.u16 [%r4], %h1; add.u32 %r7, %r3, 32;\n"
     "cvt.u16.u32 %h1, %r7; st.shared.u16 [%r4+64], %h1; bar.sync 0; and.b32 %r7, %r3, 7;\n"
     "mad.lo.u32 %r7, %r7, 16, s; mad.lo.u32 %r7, %r5, 128, %r7;\n"
     "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r0}, [%r7];",
     w_ldmatrix},
    {"cvt.u16.u32 %h1, %r3; mad.lo.u32 %r4, %r3, 2, s; shr.u32 %r5, %r2, 5;\n"
     "mad.lo.u32 %r4, %r5, 128, %r4; st.shared.u16 [%r4], %h1; add.u32 %r7, %r3, 32;\n"
     "cvt.u16.u32 %h1, %r7; st.shared.u16 [%r4+64], %h1; bar.sync 0; and.b32 %r7, %r3, 7;\n"
     "mad.lo.u32 %r7, %r7, 16, s; mad.lo.u32 %r7, %r5, 128, %r7;\n"
     "ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%r0}, [%r7];",
     w_ldmatrix_trans},
    {"mov.u32 %r0, %lanemask_lt;", w_mask},
};

static const char head[] =
    ".version 9.0\n.target sm_90\n.address_size 64\n"
    ".visible .entry k(.param .u64 scratch, .param .u64 in, .param .u64 out, .param .align 4 .b8 "
    "table[8])\n{\n.reg .pred %p<5>; .reg .b16 %h<6>; .reg .b32 %r<12>; .reg .b64 %a<8>;\n"
    ".shared .align 16 .b8 s[2048];\n"
    "ld.param.u64 %a1, [scratch]; ld.param.u64 %a2, [in]; ld.param.u64 %a3, [out];\n"
    "mov.u32 %r2, %tid.x; mov.u32 %r3, %laneid; mul.lo.u32 %r1, %r2, 2654435761; shr.u32 %r1, %r1, "
    "7;\n"
    "mad.lo.u32 %r6, %r2, 4, s; mov.u32 %r0, 0;\n";
static const char tail[] = "\nmul.wide.u32 %a4, %r2, 4; add.s64 %a3, %a3, %a4;\n"
                           "st.global.u32 [%a3], %r0; ret;\n}\n";

START_TEST(every_case) {
  Memory m = {0};
  const uint64_t scratch = memory_alloc(&m, 4096), in = memory_alloc(&m, 4096),
                 out = memory_alloc(&m, 4 * THREADS);
  Alloc *a = memory_find(&m, in, 4096);
  for (uint32_t i = 0; i < 1024; i++) {
    const uint32_t x = 3 * i;
    memcpy(a->host + 4 * i, &x, 4);
  }
  memory_host_wrote(a, 0, 4096);
  struct {
    uint64_t scratch, in, out;
    uint32_t table[2];
  } params = {scratch, in, out, {77, THREADS}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    for (uint64_t seed = 0; seed < 3; seed++) {
      char text[4096], why[512];
      snprintf(text, sizeof text, "%s%s%s", head, cases[i].body, tail);
      Module *module = ptx_load(text, &m, why);
      ck_assert_msg(module != NULL, "%s\n%s", why, cases[i].body);
      const LaunchConfig c = {{1, 1, 1}, {THREADS, 1, 1}, 0, (const uint8_t *)&params, seed};
      Report r;
      ck_assert_msg(launch_run(ptx_kernel(module, "k"), &m, &c, &r, NULL), "%s\n%s", r.text,
                    cases[i].body);
      for (uint32_t t = 0; t < THREADS; t++) {
        uint32_t got;
        memcpy(&got, memory_find(&m, out, 1)->host + 4 * t, 4);
        ck_assert_msg(got == cases[i].want(t), "thread %u: %x, want %x\n%s", t, got,
                      cases[i].want(t), cases[i].body);
      }
      ptx_unload(module);
    }
  memory_fini(&m);
}
END_TEST

/* Global atomics of all blocks, in any order. */
START_TEST(global_atomics) {
  const char *text =
      ".version 9.0\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 p)\n{\n"
      ".reg .b32 %r<4>; .reg .b64 %a<4>; .reg .f32 %f<4>; .reg .f64 %d<4>;\n"
      "ld.param.u64 %a1, [p]; mov.u32 %r1, %ctaid.x; cvt.rn.f32.u32 %f1, %r1; cvt.rn.f64.u32 %d1, "
      "%r1;\n"
      "atom.global.add.u32 %r2, [%a1], 1; red.global.add.f32 [%a1+4], %f1;\n"
      "atom.global.add.f64 %d2, [%a1+8], %d1; atom.global.max.s32 %r2, [%a1+16], %r1;\n"
      "atom.global.min.u32 %r2, [%a1+20], %r1; atom.global.or.b32 %r2, [%a1+24], %r1;\n"
      "atom.global.xor.b32 %r2, [%a1+28], %r1; atom.global.inc.u32 %r2, [%a1+32], 10;\n"
      "cvt.u64.u32 %a2, %r1; atom.global.add.u64 %a3, [%a1+40], %a2; ret;\n}\n";
  for (uint64_t seed = 0; seed < 3; seed++) {
    Memory m = {0};
    char why[512];
    Module *module = ptx_load(text, &m, why);
    ck_assert_msg(module != NULL, "%s", why);
    const uint64_t p = memory_alloc(&m, 48);
    Alloc *a = memory_find(&m, p, 48);
    memset(a->host, 0, 48);
    memset(a->host + 20, 255, 4);
    memory_host_wrote(a, 0, 48);
    const LaunchConfig c = {{50, 1, 1}, {32, 1, 1}, 0, (const uint8_t *)&p, seed};
    Report r;
    ck_assert_msg(launch_run(ptx_kernel(module, "k"), &m, &c, &r, NULL), "%s", r.text);
    struct {
      uint32_t add;
      float addf;
      double addd;
      uint32_t max, min, any, flip, inc, unused;
      uint64_t add64;
    } got;
    memcpy(&got, a->host, sizeof got);
    ck_assert_uint_eq(got.add, 50 * 32);
    ck_assert(got.addf == 32.0f * 49 * 25 && got.addd == 32.0 * 49 * 25);
    ck_assert_uint_eq(got.max, 49);
    ck_assert_uint_eq(got.min, 0);
    ck_assert_uint_eq(got.any, 63);
    ck_assert_uint_eq(got.flip, 0);
    ck_assert_uint_eq(got.inc, 1600 % 11);
    ck_assert_uint_eq(got.add64, 32 * 49 * 25);
    ptx_unload(module);
    memory_fini(&m);
  }
}
END_TEST

/* What a module may not hold is refused at load, with its line and name. */
START_TEST(refused_at_load) {
  static const char *const bodies[][2] = {
      {"wgmma.fence.sync.aligned;", "opcode 'wgmma.fence.sync.aligned' is not in the table"},
      {"bar.sync 1;", "only barrier 0"},
      {".local .align 4 .b8 x[64];", "'.local'"},
      {"add.f32 %f1, %f1, 0d3FF0000000000000;", "not a 4-byte number"},
      {"add.s64 %a1, %a1, %r1;", "register %r1 has 4 bytes, not 8"},
      {"mov.u32 %r1, %clock;", "'%clock' is neither a register"},
      {"add.s32 %r1, %r9, 1;", "'%r9' is neither a register"},
      {"bra NOWHERE;", "label 'NOWHERE' is nowhere"},
      {"ld.param.u64 %a1, [p+4];", "parameter p has 8 bytes"},
      {"cp.async.cg.shared.global [%r1], [%a1], 12;", "cp.async of 12 bytes"},
      {"add.s32 %r1, %r1 1;", "expected ','"},
      {"X: X:", "label 'X' twice"},
  };
  for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
    char text[1024], why[512];
    snprintf(text, sizeof text,
             ".version 9.0\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 p)\n{\n"
             ".reg .b32 %%r<4>; .reg .b64 %%a<4>; .reg .f32 %%f<4>;\n%s\nret;\n}\n",
             bodies[i][0]);
    Memory m = {0};
    ck_assert_msg(ptx_load(text, &m, why) == NULL, "%s", bodies[i][0]);
    ck_assert_msg(strncmp(why, "line ", 5) == 0 && strstr(why, bodies[i][1]), "%s: %s",
                  bodies[i][0], why);
    memory_fini(&m);
  }
  char why[512];
  Memory m = {0};
  ck_assert_ptr_null(ptx_load(".version 9.0\n.target sm_90\n.func f() { ret; }", &m, why));
  ck_assert_msg(strstr(why, "every device function must be inlined") != NULL, "%s", why);
  ck_assert_ptr_null(ptx_load("", &m, why));
  memory_fini(&m);
}
END_TEST

int main(void) {
  TCase *t = tcase_create("warps");
  tcase_set_timeout(t, 60);
  tcase_add_test(t, every_case);
  tcase_add_test(t, global_atomics);
  tcase_add_test(t, refused_at_load);
  Suite *s = suite_create("emu/warps");
  suite_add_tcase(s, t);
  return check_run(s);
}
