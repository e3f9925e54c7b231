/* Opcodes that are more than one lane: hand-written PTX, each case a body that leaves one word a
 * thread in %r0, and what C says it must be. Two warps of one block; v(t) is the input of thread t.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mpcc/num.h"
#include "provers.h"
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
      MUST(launch_run(ptx_kernel(module, "k"), &m, &c, &r, NULL), "%s\n%s", r.text, cases[i].body);
      for (uint32_t t = 0; t < THREADS; t++) {
        uint32_t got;
        memcpy(&got, memory_find(&m, out, 1)->host + 4 * t, 4);
        MUST(got == cases[i].want(t), "thread %u: %x, want %x\n%s", t, got, cases[i].want(t),
             cases[i].body);
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
      {"cp.async.cg.shared.global [%r1], [%a1], 12;", "cp.async.cg.shared.global of 12 bytes"},
      {"cp.async.cg.shared.global [%r1], [%a1], 8;", "cp.async.cg.shared.global of 8 bytes"},
      {"ld.global.v4.u64 {%a1, %a1, %a1, %a1}, [%a1];", "a vector has at most 16 bytes"},
      {"bar.sync 0, 64;", "expected ';'"},
      {"barrier.sync %r1;", "expected a number"},
      {"membar.gl;", "opcode 'membar.gl' is not in the table"},
      {"fence.acq_rel.gpu;", "opcode 'fence.acq_rel.gpu' is not in the table"},
      {"ld.local.u32 %r1, [%a1];", "opcode 'ld.local.u32' is not in the table"},
      {"atom.global.cas.b16 %r1, [%a1], %r1, %r1;", "is not in the table"},
      {"cvt.pack.sat.u16.s32 %r1, %r1, %r1;", "opcode 'cvt.pack.sat.u16.s32' is not in the table"},
      {"fma.rn.bf16x2 %r1, %r1, %r1, %r1;", "opcode 'fma.rn.bf16x2' is not in the table"},
      {"mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%r1}, {%r1}, {%r1}, {%r1};",
       "is not in the table"},
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
  static const char *const modules[][2] = {
      {".visible .entry k(.param .align 4 .b8 a[32768]) { ret; }", "32768 bytes of parameters"},
      {".visible .entry k() { .shared .align 4 .b8 s[49156]; ret; }",
       "49156 bytes of static shared"},
      {".visible .entry k() .maxclusterrank 4 { ret; }", "'.maxclusterrank' is not emulated"},
      {".extern .func f();", ".extern '.func' is not emulated"},
      {".shared .align 4 .b8 s[16];", "outside a kernel"},
      {".global .align 4 .b32 p[1] = {k};", "in an initializer is not emulated"},
      {".visible .entry k() { .reg .b128 %q; ret; }", "registers of type .b128"},
  };
  for (size_t i = 0; i < sizeof modules / sizeof *modules; i++) {
    char text[256];
    snprintf(text, sizeof text, ".version 9.0\n.target sm_90\n.address_size 64\n%s\n",
             modules[i][0]);
    ck_assert_msg(ptx_load(text, &m, why) == NULL, "%s", modules[i][0]);
    ck_assert_msg(strstr(why, modules[i][1]) != NULL, "%s: %s", modules[i][0], why);
  }
  memory_fini(&m);
}
END_TEST

/* ---- every spelling of the table that is not one lane's alone ---- */

enum { IN = 16, RESULTS = 8 /* words of a thread */ };

typedef struct {
  Memory m;
  uint64_t in_at, out_at;
  uint32_t (*in)[IN], (*out)[RESULTS];
  uint32_t cases;
} Run;

static uint8_t *device(Memory *m, uint64_t *address, size_t bytes) {
  *address = memory_alloc(m, bytes);
  Alloc *a = memory_find(m, *address, bytes);
  memory_host_wrote(a, 0, bytes);
  return a->host;
}

/* Runs `body` around which %x0 .. hold the thread's words of `in` and %x16 .. go to its words of
 * `out`; %y and %p are free, %r1 is the thread. */
static void run_body(Run *r, const char *body, const char *what, uint64_t seed) {
  char text[8192], why[512];
  int n = snprintf(text, sizeof text,
                   ".version 9.0\n.target sm_90\n.address_size 64\n"
                   ".visible .entry k(.param .u64 in, .param .u64 out)\n{\n.reg .pred %%p<9>; "
                   ".reg .b32 %%x<24>; .reg .b32 %%r<9>; .reg .b64 %%y<16>; .reg .b64 %%a<5>;\n"
                   "ld.param.u64 %%a1, [in]; ld.param.u64 %%a2, [out]; mov.u32 %%r1, %%tid.x;\n"
                   "mul.wide.u32 %%a3, %%r1, %d; add.s64 %%a1, %%a1, %%a3;\n"
                   "mul.wide.u32 %%a3, %%r1, %d; add.s64 %%a2, %%a2, %%a3;\n",
                   4 * IN, 4 * RESULTS);
  for (int i = 0; i < IN; i++)
    n += snprintf(text + n, sizeof text - (size_t)n, "ld.global.u32 %%x%d, [%%a1+%d];\n", i, 4 * i);
  for (int i = 0; i < RESULTS; i++)
    n += snprintf(text + n, sizeof text - (size_t)n, "mov.u32 %%x%d, 0x5A5A5A5A;\n", IN + i);
  n += snprintf(text + n, sizeof text - (size_t)n, "%s\n", body);
  for (int i = 0; i < RESULTS; i++)
    n += snprintf(text + n, sizeof text - (size_t)n, "st.global.u32 [%%a2+%d], %%x%d;\n", 4 * i,
                  IN + i);
  snprintf(text + n, sizeof text - (size_t)n, "ret;\n}\n");
  Module *module = ptx_load(text, &r->m, why);
  MUST(module != NULL, "%s: %s\n%s", what, why, body);
  memset(r->out, 0x11, THREADS * sizeof *r->out);
  const uint64_t params[] = {r->in_at, r->out_at};
  const LaunchConfig c = {{1, 1, 1}, {THREADS, 1, 1}, 0, (const uint8_t *)params, seed};
  Report report;
  MUST(launch_run(ptx_kernel(module, "k"), &r->m, &c, &report, NULL), "%s: %s%s", what, report.text,
       body);
  ptx_unload(module);
  r->cases++;
}

/* Masks of lanes that go together: all; halves; every fourth; all but one and that one. */
enum { MASKS = 4 };
static uint32_t mask_of(int how, uint32_t lane) {
  return how == 0   ? UINT32_MAX
         : how == 1 ? (lane < 16 ? 0xFFFF : 0xFFFF0000)
         : how == 2 ? 0x11111111u << lane % 4
                    : (lane == 9 ? 1u << 9 : ~(1u << 9));
}

/* Word 0: value, 1: lane or offset, 2: clamp and segments, 3: mask. */
static void shuffle_case(Run *r, const char *spelled) {
  static const uint32_t clamps[] = {31, 0, 0x1C1F, 0x1800, 0x101F, 7, 0x1F1F, 0x0A05};
  const bool up = strstr(spelled, ".up."), down = strstr(spelled, ".down."),
             bfly = strstr(spelled, ".bfly.");
  char body[256];
  snprintf(body, sizeof body, "%s %%x16|%%p1, %%x0, %%x1, %%x2, %%x3; selp.u32 %%x17, 1, 0, %%p1;",
           spelled);
  uint64_t random = 9;
  for (int round = 0; round < 64; round++) {
    const int how = round % MASKS;
    for (uint32_t t = 0; t < THREADS; t++) {
      uint32_t *x = r->in[t];
      x[0] = (uint32_t)emu_random(&random);
      x[1] = (uint32_t)emu_random(&random) % (round % 3 ? 32 : 100);
      x[2] = clamps[round / 4 % 8];
      x[3] = mask_of(how, t % 32);
    }
    /* who would read a lane of another group reads itself */
    uint32_t from[THREADS], inside[THREADS];
    for (uint32_t t = 0; t < THREADS; t++) {
      const int lane = (int)(t % 32);
      for (;;) { /* PTX ISA, shfl.sync */
        const int b = (int)(r->in[t][1] & 31), c = (int)(r->in[t][2] & 31),
                  segment = (int)(r->in[t][2] >> 8 & 31), most = (lane & segment) | (c & ~segment);
        int j = up     ? lane - b
                : down ? lane + b
                : bfly ? lane ^ b
                       : (lane & segment) | (b & ~segment);
        inside[t] = up ? j >= most : j <= most;
        j = inside[t] ? j : lane;
        from[t] = t / 32 * 32 + (uint32_t)j;
        if (r->in[t][3] >> j & 1)
          break;
        r->in[t][1] = !up && !down && !bfly ? (uint32_t)lane : 0;
      }
    }
    run_body(r, body, spelled, (uint64_t)round % 3);
    for (uint32_t t = 0; t < THREADS; t++)
      MUST(r->out[t][0] == r->in[from[t]][0] && r->out[t][1] == inside[t],
           "%s, round %d, thread %u: %x %u, want %x %u", spelled, round, t, r->out[t][0],
           r->out[t][1], r->in[from[t]][0], inside[t]);
  }
}

/* Word 0: value, 3: mask. */
static uint32_t group_result(const Run *r, const char *spelled, uint32_t t) {
  const uint32_t first = t / 32 * 32, mask = r->in[t][3];
  const bool is_signed = strstr(spelled, ".s32") != NULL;
  uint32_t ballot = 0, match = 0, v = 0, bits_and = UINT32_MAX, bits_or = 0;
  int64_t least = INT64_MAX, most = INT64_MIN;
  for (uint32_t k = 0; k < 32; k++) {
    if (!(mask >> k & 1))
      continue;
    const uint32_t x = r->in[first + k][0];
    const int64_t wide = is_signed ? (int64_t)(int32_t)x : (int64_t)x;
    ballot |= (uint32_t)(x & 1) << k;
    match |= (uint32_t)(x == r->in[t][0]) << k;
    v += x, bits_and &= x, bits_or |= x;
    least = wide < least ? wide : least;
    most = wide > most ? wide : most;
  }
  return strstr(spelled, ".ballot")     ? ballot
         : strstr(spelled, ".any.p")    ? ballot != 0
         : strstr(spelled, ".all.p")    ? ballot == mask
         : strstr(spelled, ".uni.p")    ? ballot == mask || ballot == 0
         : strstr(spelled, "match.any") ? match
         : strstr(spelled, ".add.")     ? v
         : strstr(spelled, ".min.")     ? (uint32_t)least
         : strstr(spelled, ".max.")     ? (uint32_t)most
         : strstr(spelled, ".or.")      ? bits_or
         : strstr(spelled, ".and.")     ? bits_and
                                        : 0xBADBAD;
}

static void group_case(Run *r, const char *spelled) {
  static const uint32_t edges[] = {0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 5};
  const bool vote = strncmp(spelled, "vote", 4) == 0, pred = strstr(spelled, ".pred") != NULL;
  char body[256];
  snprintf(body, sizeof body,
           "and.b32 %%x4, %%x0, 1; setp.ne.u32 %%p1, %%x4, 0; %s %%%s, %%%s, %%x3;\n%s", spelled,
           pred ? "p2" : "x16", vote ? "p1" : "x0", pred ? "selp.u32 %x16, 1, 0, %p2;" : "");
  uint64_t random = 4;
  for (int round = 0; round < 32; round++) {
    for (uint32_t t = 0; t < THREADS; t++) {
      const uint32_t x = (uint32_t)emu_random(&random);
      r->in[t][0] = round % 8 == 0   ? 0 /* all alike */
                    : round % 8 == 1 ? 1
                    : round % 8 < 5  ? edges[x % 6]
                                     : x;
      r->in[t][3] = mask_of(round / 2 % MASKS, t % 32);
    }
    run_body(r, body, spelled, (uint64_t)round % 3);
    for (uint32_t t = 0; t < THREADS; t++)
      MUST(r->out[t][0] == group_result(r, spelled, t), "%s, round %d, thread %u: %x, want %x",
           spelled, round, t, r->out[t][0], group_result(r, spelled, t));
  }
}

/* Threads that are here: all; a part of each warp that a branch leaves apart. */
static void active_case(Run *r, const char *spelled) {
  char body[256];
  snprintf(body, sizeof body,
           "setp.lt.u32 %%p1, %%r1, 41; @%%p1 bra A; %s %%x16; bra B; A: %s %%x16; B:", spelled,
           spelled);
  run_body(r, body, spelled, 0);
  for (uint32_t t = 0; t < THREADS; t++)
    MUST(r->out[t][0] == (t < 32   ? UINT32_MAX
                          : t < 41 ? 0x1FF
                                   : ~0x1FFu),
         "%s, thread %u: %x", spelled, t, r->out[t][0]);
}

/* What a warp wrote before it is read after it by another of its lanes. */
static void warp_sync_case(Run *r, const char *spelled) {
  char body[400];
  snprintf(body, sizeof body,
           ".shared .align 16 .b8 s[256]; mad.lo.u32 %%r2, %%r1, 4, s; xor.b32 %%r3, %%r1, 7;\n"
           "mad.lo.u32 %%r3, %%r3, 4, s; st.shared.u32 [%%r2], %%x0; %s -1; ld.shared.u32 %%x16, "
           "[%%r3];",
           spelled);
  run_body(r, body, spelled, 2);
  for (uint32_t t = 0; t < THREADS; t++)
    MUST(r->out[t][0] == r->in[t ^ 7][0], "%s, thread %u", spelled, t);
}

/* ---- mma: A, B, C by the tables of the PTX ISA, "Warp-level matrix fragment" ---- */

typedef struct {
  char name[8];
  int bits;
  DType type;
} Element;

static Element element(const char *name) {
  static const struct {
    const char *name;
    int bits;
    DType type;
  } rows[] = {{"bf16", 16, MPCC_BF16}, {"f16", 16, MPCC_F16},  {"tf32", 32, MPCC_F32},
              {"e4m3", 8, MPCC_E4M3},  {"e5m2", 8, MPCC_E5M2}, {"f64", 64, MPCC_F64}};
  Element e = {"", 0, MPCC_F32};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    if (strcmp(rows[i].name, name) == 0) {
      snprintf(e.name, sizeof e.name, "%s", name);
      e.bits = rows[i].bits, e.type = rows[i].type;
    }
  return e;
}

/* Where element i of a lane's part of A lies. */
static void place_a(const Element *e, int k, int lane, int i, int *row, int *column) {
  const int g = lane >> 2, t = lane & 3;
  if (e->bits == 16) {
    *row = i % 4 < 2 ? g : g + 8;
    *column = t * 2 + (i & 1) + (k == 16 && i >= 4 ? 8 : 0);
  } else if (e->bits == 8) {
    *row = i < 4 || (i >= 8 && i < 12) ? g : g + 8;
    *column = t * 4 + (i & 3) + (i < 8 ? 0 : 16);
  } else {
    *row = i == 0 || i == 2 ? g : g + 8;
    *column = i < 2 ? t : t + 4;
  }
}
static void place_b(const Element *e, int lane, int i, int *row, int *column) {
  const int g = lane >> 2, t = lane & 3;
  *column = g;
  *row = e->bits == 16  ? t * 2 + (i & 1) + (i < 2 ? 0 : 8)
         : e->bits == 8 ? t * 4 + (i & 3) + (i < 4 ? 0 : 16)
         : i == 0       ? t
                        : t + 4;
}

/* Small integers: every sum is exact, in any order; a NaN and an infinity in some rounds. */
static double some_element(uint64_t *random, int round, const Element *e) {
  const int64_t v = (int64_t)(emu_random(random) % 13) - 6;
  if (round >= 4 && emu_random(random) % 67 == 0 && e->type != MPCC_E4M3)
    return round % 2 ? INFINITY : NAN;
  return (double)v * (e->bits == 64 ? 1.25 : 1);
}

/* num_store saturates e5m2; here infinity is a value like any other. */
static void put_element(uint8_t *to, const Element *e, double v) {
  if (e->type == MPCC_E5M2 && isinf(v))
    *to = 0x7C;
  else
    num_store(to, e->type, v);
}

static void mma_round(Run *r, const char *spelled, const char *body, const Element *ea,
                      const Element *eb, int k, int round) {
  double a[2][16][32], b[2][32][8], c[2][16][8];
  uint64_t random = 3 + (uint64_t)round;
  const bool wide = ea->bits == 64;
  const int m = wide ? 8 : 16;
  for (int w = 0; w < 2; w++) {
    for (int i = 0; i < m; i++)
      for (int j = 0; j < k; j++)
        a[w][i][j] = some_element(&random, round, ea);
    for (int i = 0; i < k; i++)
      for (int j = 0; j < 8; j++)
        b[w][i][j] = some_element(&random, round, eb);
    for (int i = 0; i < m; i++)
      for (int j = 0; j < 8; j++)
        c[w][i][j] = (double)((int64_t)(emu_random(&random) % 41) - 20);
  }
  const int n_a = m * k / 32, n_b = k * 8 / 32, n_c = m * 8 / 32;
  for (int t = 0; t < THREADS; t++) {
    const int w = t / 32, lane = t % 32;
    uint8_t *to = (uint8_t *)r->in[t];
    int row, column;
    for (int i = 0; i < n_a; i++, to += ea->bits / 8) {
      place_a(ea, k, lane, i, &row, &column);
      put_element(to, ea, wide ? a[w][lane >> 2][lane & 3] : a[w][row][column]);
    }
    for (int i = 0; i < n_b; i++, to += eb->bits / 8) {
      place_b(eb, lane, i, &row, &column);
      put_element(to, eb, wide ? b[w][lane & 3][lane >> 2] : b[w][row][column]);
    }
    for (int i = 0; i < n_c; i++, to += wide ? 8 : 4)
      num_store(to, wide ? MPCC_F64 : MPCC_F32,
                c[w][(lane >> 2) + (i >= 2 ? 8 : 0)][(lane & 3) * 2 + (i & 1)]);
  }
  run_body(r, body, spelled, (uint64_t)round);
  for (int t = 0; t < THREADS; t++)
    for (int i = 0; i < n_c; i++) {
      const int w = t / 32, row = (t % 32 >> 2) + (i >= 2 ? 8 : 0), column = (t & 3) * 2 + (i & 1);
      double want = c[w][row][column];
      for (int q = 0; q < k; q++)
        want += a[w][row][q] * b[w][q][column];
      const double got =
          num_load((uint8_t *)r->out[t] + (wide ? 8 : 4) * i, wide ? MPCC_F64 : MPCC_F32);
      MUST(got == want || (isnan(got) && isnan(want)), "%s, round %d, thread %d, %d: %g, want %g",
           spelled, round, t, i, got, want);
    }
}

static void mma_case(Run *r, const char *spelled) {
  char name[80], *mod[12], body[600];
  int n = 0;
  snprintf(name, sizeof name, "%s", spelled);
  for (char *s = strtok(name, "."); s && n < 12; s = strtok(NULL, "."))
    mod[n++] = s;
  /* mma sync aligned mXnYkZ row col D A B C */
  ck_assert_int_eq(n, 10);
  const int k = atoi(strchr(mod[3], 'k') + 1);
  const Element ea = element(mod[7]), eb = element(mod[8]);
  ck_assert_msg(ea.bits && eb.bits, "%s", spelled);
  const int n_a = 16 * k * ea.bits / 1024, n_b = 8 * k * eb.bits / 1024;
  int at = 0;
  if (ea.bits == 64) {
    for (int i = 0; i < 4; i++)
      at += snprintf(body + at, sizeof body - (size_t)at, "mov.b64 %%y%d, {%%x%d, %%x%d};\n", i,
                     2 * i, 2 * i + 1);
    snprintf(
        body + at, sizeof body - (size_t)at,
        "%s {%%y4, %%y5}, {%%y0}, {%%y1}, {%%y2, %%y3};\nmov.b64 {%%x16, %%x17}, %%y4; mov.b64 "
        "{%%x18, %%x19}, %%y5;",
        spelled);
  } else {
    at = snprintf(body, sizeof body, "%s {%%x16, %%x17, %%x18, %%x19}, {", spelled);
    for (int i = 0; i < n_a + n_b + 4; i++)
      at += snprintf(body + at, sizeof body - (size_t)at, "%s%%x%d",
                     i == n_a || i == n_a + n_b ? "}, {"
                     : i                        ? ", "
                                                : "",
                     i);
    snprintf(body + at, sizeof body - (size_t)at, "};");
  }
  for (int round = 0; round < 8; round++)
    mma_round(r, spelled, body, &ea, &eb, k, round);
}

/* ---- several results, control ---- */

static void unpack_case(Run *r, const char *spelled) {
  const int whole = atoi(spelled + 5), parts = spelled[strlen(spelled) - 1] - '0',
            bits = whole / parts;
  char body[256] = "mov.b64 %y0, {%x0, %x1};\n", data[64] = "";
  for (int i = 0; i < parts; i++)
    snprintf(data + strlen(data), sizeof data - strlen(data), "%s%%x%d", i ? ", " : "", 16 + i);
  snprintf(body + strlen(body), sizeof body - strlen(body), "mov.b%d {%s}, %%%s;", whole, data,
           whole == 64 ? "y0" : "x0");
  run_body(r, body, spelled, 0);
  for (uint32_t t = 0; t < THREADS; t++)
    for (int i = 0; i < parts; i++) {
      const uint64_t all = (uint64_t)r->in[t][1] << 32 | r->in[t][0];
      const uint32_t want = (uint32_t)(all >> (bits * i) & ((UINT64_C(1) << bits) - 1));
      MUST(r->out[t][i] == want, "%s, thread %u, part %d", spelled, t, i);
    }
}

static void branch_case(Run *r, const char *spelled) {
  char body[300];
  snprintf(body, sizeof body,
           "%s L1;\nmov.u32 %%x16, 1;\nL1: setp.lt.u32 %%p1, %%r1, %d; @%%p1 %s L2;\n"
           "mov.u32 %%x17, 2;\nL2: @!%%p1 %s L3; mov.u32 %%x18, 3; L3:",
           spelled, strstr(spelled, ".uni") ? 32 : 37, spelled, spelled);
  run_body(r, body, spelled, 0);
  for (uint32_t t = 0; t < THREADS; t++) {
    const bool taken = t < (strstr(spelled, ".uni") ? 32 : 37);
    MUST(r->out[t][0] == 0x5A5A5A5A && r->out[t][1] == (taken ? 0x5A5A5A5A : 2) &&
             r->out[t][2] == (taken ? 3 : 0x5A5A5A5A),
         "%s, thread %u", spelled, t);
  }
}

static void exit_case(Run *r, const char *spelled) {
  char body[300];
  snprintf(
      body, sizeof body,
      "setp.lt.u32 %%p1, %%r1, 20; @%%p1 %s; setp.ge.u32 %%p1, %%r1, 50; @!%%p1 bra GO; %s; GO:",
      spelled, spelled);
  run_body(r, body, spelled, 1);
  for (uint32_t t = 0; t < THREADS; t++)
    MUST(r->out[t][0] == (t < 20 || t >= 50 ? 0x11111111 : 0x5A5A5A5A), "%s, thread %u: %x",
         spelled, t, r->out[t][0]);
}

static void barrier_case(Run *r, const char *spelled) {
  const bool red = strstr(spelled, ".red."), popc = strstr(spelled, ".popc."),
             or = strstr(spelled, ".or.");
  char body[600];
  snprintf(body, sizeof body,
           ".shared .align 16 .b8 s[256]; mad.lo.u32 %%r2, %%r1, 4, s; xor.b32 %%r3, %%r1, 63;\n"
           "mad.lo.u32 %%r3, %%r3, 4, s; st.shared.u32 [%%r2], %%x0; setp.ne.u32 %%p1, %%x1, 0;\n"
           "%s %s0%s;\nld.shared.u32 %%x16, [%%r3];%s",
           spelled,
           !red   ? ""
           : popc ? "%x17, "
                  : "%p2, ",
           red ? ", %p1" : "", red && !popc ? "selp.u32 %x17, 1, 0, %p2;" : "");
  for (int round = 0; round < 6; round++) {
    uint32_t set = 0;
    for (uint32_t t = 0; t < THREADS; t++) {
      r->in[t][1] = round == 0   ? 0
                    : round == 1 ? 1
                    : round == 2 ? t == 40
                    : round == 3 ? t != 3
                                 : v(t) & 1;
      set += r->in[t][1];
    }
    run_body(r, body, spelled, (uint64_t)round);
    const uint32_t want = !red ? 0x5A5A5A5A : popc ? set : or ? set != 0 : set == THREADS;
    for (uint32_t t = 0; t < THREADS; t++)
      MUST(r->out[t][0] == r->in[t ^ 63][0] && r->out[t][1] == want, "%s, round %d, thread %u: %x",
           spelled, round, t, r->out[t][1]);
  }
}

static void check_spelling(const OpRow *row, const char *spelled, void *data) {
  static const struct {
    const char *begins;
    void (*prove)(Run *r, const char *spelled);
  } kinds[] = {
      {"shfl.", shuffle_case},   {"vote.", group_case},        {"match.any.", group_case},
      {"redux.", group_case},    {"activemask.", active_case}, {"bar.warp.sync", warp_sync_case},
      {"mma.", mma_case},        {"mov.", unpack_case},        {"bra", branch_case},
      {"ret", exit_case},        {"exit", exit_case},          {"bar.", barrier_case},
      {"barrier.", barrier_case}};
  Run *r = data;
  (void)row;
  uint64_t random = 1;
  for (uint32_t t = 0; t < THREADS; t++)
    for (int i = 0; i < IN; i++)
      r->in[t][i] = (uint32_t)emu_random(&random);
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (strncmp(spelled, kinds[i].begins, strlen(kinds[i].begins)) == 0) {
      kinds[i].prove(r, spelled);
      return;
    }
  ck_abort_msg("%s: this test has no case for the opcode", spelled);
}

START_TEST(every_spelling) {
  Run r = {.cases = 0};
  r.in = (void *)device(&r.m, &r.in_at, THREADS * sizeof *r.in);
  r.out = (void *)device(&r.m, &r.out_at, THREADS * sizeof *r.out);
  const size_t spellings = each_spelling(PROVER_WARPS, check_spelling, &r);
  printf("emu/warps: %zu opcodes, %u launches\n", spellings, r.cases);
  ck_assert_uint_gt(spellings, 40);
  memory_fini(&r.m);
}
END_TEST

/* Every special register in a grid and a block of three dimensions. */
START_TEST(special_registers) {
  static const char *const names[] = {
#define SPECIAL_REGISTER(id, name) name,
#include "special.def"
#undef SPECIAL_REGISTER
  };
  const uint32_t grid[3] = {3, 2, 4}, block[3] = {5, 3, 4};
  Memory m = {0};
  uint64_t out_at;
  uint32_t *out = (void *)device(&m, &out_at, 24 * 60 * 4);
  for (size_t i = 0; i < SPECIAL_COUNT; i++) {
    char text[1024], why[512];
    snprintf(
        text, sizeof text,
        ".version 9.0\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 out)\n{\n"
        ".reg .b32 %%r<9>; .reg .b64 %%a<4>;\nmov.u32 %%r1, %%ctaid.z; mad.lo.u32 %%r1, %%r1, 2, "
        "%%ctaid.y; mad.lo.u32 %%r1, %%r1, 3, %%ctaid.x;\nmov.u32 %%r2, %%tid.z; mad.lo.u32 "
        "%%r2, %%r2, 3, %%tid.y; mad.lo.u32 %%r2, %%r2, 5, %%tid.x;\nmad.lo.u32 %%r1, %%r1, 60, "
        "%%r2; mul.wide.u32 %%a1, %%r1, 4; ld.param.u64 %%a2, [out]; add.s64 %%a2, %%a2, "
        "%%a1;\nmov.u32 %%r3, %s; st.global.u32 [%%a2], %%r3; ret;\n}\n",
        names[i]);
    Module *module = ptx_load(text, &m, why);
    ck_assert_msg(module != NULL, "%s: %s", names[i], why);
    const LaunchConfig c = {{grid[0], grid[1], grid[2]},
                            {block[0], block[1], block[2]},
                            0,
                            (const uint8_t *)&out_at,
                            i};
    Report r;
    ck_assert_msg(launch_run(ptx_kernel(module, "k"), &m, &c, &r, NULL), "%s", r.text);
    for (uint32_t n = 0; n < 24 * 60; n++) {
      const uint32_t b = n / 60, t = n % 60, lane = t % 32;
      const uint32_t want[SPECIAL_COUNT] = {
          [SPECIAL_TID_X] = t % 5,
          [SPECIAL_TID_Y] = t / 5 % 3,
          [SPECIAL_TID_Z] = t / 15,
          [SPECIAL_NTID_X] = 5,
          [SPECIAL_NTID_Y] = 3,
          [SPECIAL_NTID_Z] = 4,
          [SPECIAL_CTAID_X] = b % 3,
          [SPECIAL_CTAID_Y] = b / 3 % 2,
          [SPECIAL_CTAID_Z] = b / 6,
          [SPECIAL_NCTAID_X] = 3,
          [SPECIAL_NCTAID_Y] = 2,
          [SPECIAL_NCTAID_Z] = 4,
          [SPECIAL_LANEID] = lane,
          [SPECIAL_WARPID] = t / 32,
          [SPECIAL_MASK_EQ] = 1u << lane,
          [SPECIAL_MASK_LT] = (1u << lane) - 1,
          [SPECIAL_MASK_LE] = lane == 31 ? UINT32_MAX : (1u << (lane + 1)) - 1,
          [SPECIAL_MASK_GT] = lane == 31 ? 0 : ~((1u << (lane + 1)) - 1),
          [SPECIAL_MASK_GE] = ~((1u << lane) - 1)};
      MUST(out[n] == want[i], "%s, block %u, thread %u: %x, want %x", names[i], b, t, out[n],
           want[i]);
    }
    ptx_unload(module);
  }
  memory_fini(&m);
}
END_TEST

int main(void) {
  TCase *t = tcase_create("warps");
  tcase_set_timeout(t, 60);
  tcase_add_test(t, every_case);
  tcase_add_test(t, every_spelling);
  tcase_add_test(t, special_registers);
  tcase_add_test(t, global_atomics);
  tcase_add_test(t, refused_at_load);
  Suite *s = suite_create("emu/warps");
  suite_add_tcase(s, t);
  return check_run(s);
}
