/* Seeded bugs: each file of tests/emu/bugs is one kernel with one mistake. Lines that begin with
 * BUG: are in the wrong one alone, lines with FIX: in its mended twin alone. The first must be
 * reported by the named check (one of several where the order of warps decides), with kernel, block
 * and PTX line; the second must run clean, in several orders of blocks and warps. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "emu.h"
#include "tests/check_run.h"

enum { BYTES = 4096, WORDS = BYTES / 4 };

/* The text of one twin: keeps the lines of `mark`, drops those of the other. */
static char *twin(const char *text, bool bug) {
  char *out = emu_alloc(strlen(text) + 64), *to = out;
  to += sprintf(to, ".version 9.0\n.target sm_90\n.address_size 64\n");
  while (*text) {
    const size_t n = strcspn(text, "\n");
    const bool is_bug = strncmp(text, "BUG: ", 5) == 0, is_fix = strncmp(text, "FIX: ", 5) == 0;
    if (!(is_bug && !bug) && !(is_fix && bug)) {
      const size_t skip = is_bug || is_fix ? 5 : 0;
      memcpy(to, text + skip, n - skip);
      to += n - skip;
      *to++ = '\n';
    }
    text += n + (text[n] == '\n');
  }
  *to = 0;
  return out;
}

static uint32_t setting(const char *text, const char *key) {
  uint32_t v = 0;
  for (const char *p = strstr(text, key); p; p = strstr(p + 1, key)) /* the last one wins */
    v = (uint32_t)strtoul(p + strlen(key), NULL, 10);
  return v;
}

static void run(const char *text, uint64_t seed, Report *report) {
  Memory m = {0};
  char why[512];
  Module *module = ptx_load(text, &m, why);
  ck_assert_msg(module != NULL, "%s\n%s", why, text);
  const uint64_t in = memory_alloc(&m, BYTES), fresh = memory_alloc(&m, BYTES);
  Alloc *a = memory_find(&m, in, BYTES);
  for (uint32_t i = 0; i < WORDS; i++)
    memcpy(a->host + 4 * i, &i, 4);
  memory_host_wrote(a, 0, BYTES);
  struct {
    uint64_t in, fresh;
    uint32_t n;
  } params = {in, fresh, WORDS};
  const LaunchConfig c = {{setting(text, "grid="), 1, 1},
                          {setting(text, "block="), 1, 1},
                          setting(text, "shared="),
                          (const uint8_t *)&params,
                          seed};
  Kernel *k = ptx_kernel(module, "k");
  const char *refused = launch_refused(k, &c);
  ck_assert_msg(!refused, "%s", refused);
  launch_run(k, &m, &c, report, NULL);
  ptx_unload(module);
  memory_fini(&m);
}

static void one_bug(const char *name) {
  char path[512], want[64];
  snprintf(path, sizeof path, "%s/bugs/%s", EMU_SOURCE, name);
  FILE *f = fopen(path, "rb");
  ck_assert_ptr_nonnull(f);
  char *text = emu_alloc(1 << 16);
  ck_assert(fread(text, 1, (1 << 16) - 1, f) > 0);
  fclose(f);
  ck_assert_int_eq(sscanf(text, "// expect=%63s", want), 1);
  char *wrong = twin(text, true), *right = twin(text, false);
  for (uint64_t seed = 0; seed < 4; seed++) {
    Report r;
    run(wrong, seed, &r);
    ck_assert_msg(r.kind != FOUND_NOTHING, "%s, seed %d: nothing found", name, (int)seed);
    ck_assert_msg(strstr(want, found_slug(r.kind)) != NULL, "%s: found %s", name, r.text);
    ck_assert_msg(strstr(r.text, "kernel  k") && strstr(r.text, "block   (") &&
                      strstr(r.text, "warp ") && strstr(r.text, "ptx     line "),
                  "%s: %s", name, r.text);
    run(right, seed, &r);
    ck_assert_msg(r.kind == FOUND_NOTHING, "%s mended, seed %d: %s", name, (int)seed, r.text);
  }
  free(wrong);
  free(right);
  free(text);
}

START_TEST(seeded_bugs) {
  char path[512];
  snprintf(path, sizeof path, "%s/bugs", EMU_SOURCE);
  setenv("EMU_MAX_STEPS", "100000", 1);
  struct dirent **list;
  const int n = scandir(path, &list, NULL, alphasort);
  ck_assert_int_gt(n, 0);
  int bugs = 0;
  for (int i = 0; i < n; i++) {
    if (strstr(list[i]->d_name, ".ptx")) {
      one_bug(list[i]->d_name);
      bugs++;
    }
    free(list[i]);
  }
  free(list);
  ck_assert_int_ge(bugs, 30);
}
END_TEST

/* A kind of finding can be switched off by name, and then does not stop the kernel. */
START_TEST(ignored_kinds) {
  const char *text = "// grid=2 block=64 shared=0\n"
                     ".version 9.0\n.target sm_90\n.address_size 64\n"
                     ".visible .entry k(.param .u64 in, .param .u64 fresh, .param .u32 n)\n{\n"
                     ".reg .b64 %a<3>; .reg .b32 %r<3>;\nld.param.u64 %a1, [fresh];\n"
                     "mov.u32 %r1, %ctaid.x;\nst.global.u32 [%a1], %r1;\nret;\n}\n";
  Report r;
  run(text, 0, &r);
  ck_assert_int_eq(r.kind, FOUND_GLOBAL_RACE);
  setenv("EMU_IGNORE", "timeout,global-race", 1);
  run(text, 0, &r);
  ck_assert_int_eq(r.kind, FOUND_NOTHING);
  unsetenv("EMU_IGNORE");
}
END_TEST

/* The report names the source line of .loc, and the one it was inlined into. */
START_TEST(source_lines) {
  const char *text = "// grid=1 block=32 shared=0\n"
                     ".version 9.0\n.target sm_90\n.address_size 64\n"
                     ".visible .entry k(.param .u64 in, .param .u64 fresh, .param .u32 n)\n{\n"
                     ".reg .b64 %a<3>; .reg .b32 %r<3>;\n.loc 1 20 3\nld.param.u64 %a1, [in];\n"
                     ".loc 1 7 3, function_name $L__info_string0, inlined_at 1 20 3\n"
                     "ld.global.u32 %r1, [%a1+5000];\nret;\n}\n.file 1 \"/somewhere/row.cu\"\n"
                     ".section .debug_str\n{\n$L__info_string0:\n.b8 95,0\n}\n";
  Report r;
  run(text, 0, &r);
  ck_assert_int_eq(r.kind, FOUND_BOUNDS);
  ck_assert_msg(strstr(r.text, "row.cu:7, inlined at row.cu:20\n") != NULL, "%s", r.text);
  ck_assert_msg(strstr(r.text, "ptx     line 11: ld.global.u32 %r1, [%a1+5000];") != NULL, "%s",
                r.text);
}
END_TEST

int main(void) {
  TCase *t = tcase_create("bugs");
  tcase_set_timeout(t, 60);
  tcase_add_test(t, seeded_bugs);
  tcase_add_test(t, ignored_kinds);
  tcase_add_test(t, source_lines);
  Suite *s = suite_create("emu/bugs");
  suite_add_tcase(s, t);
  return check_run(s);
}
