/* Seeded bugs: each file of tests/emu/bugs is one kernel with one mistake. Lines that begin with
 * BUG: are in the wrong one alone, lines with FIX: in its mended twin alone. The first must be
 * reported by the named check (one of several where the order of warps decides), in several orders
 * of blocks and warps: with kernel, block, warp, lane, PTX line and source line, which must be one
 * of those that end with "// found"; in the order of the grid, block, warp and lane are those of
 * the header (found=block,warp,lane; - for a lane when no single one is to blame). The second must
 * run clean in all those orders. Prints the list. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "emu.h"
#include "tests/check_run.h"

enum { BYTES = 4096, WORDS = BYTES / 4 };

/* The text of one twin: keeps the lines of `mark`, drops those of the other. Every instruction gets
 * the line of the file that it stands in. */
static char *twin(const char *name, const char *text, bool bug) {
  char *out = emu_alloc(16 * strlen(text) + 256), *to = out;
  to += sprintf(to, ".version 9.0\n.target sm_90\n.address_size 64\n");
  for (int line = 1; *text; line++) {
    const size_t n = strcspn(text, "\n");
    const bool is_bug = strncmp(text, "BUG: ", 5) == 0, is_fix = strncmp(text, "FIX: ", 5) == 0;
    if (!(is_bug && !bug) && !(is_fix && bug)) {
      const size_t skip = is_bug || is_fix ? 5 : 0;
      if (n && !strchr("./{}", text[skip]) && text[n - 1] != ':')
        to += sprintf(to, ".loc 1 %d 1\n", line);
      memcpy(to, text + skip, n - skip);
      to += n - skip;
      *to++ = '\n';
    }
    text += n + (text[n] == '\n');
  }
  sprintf(to, ".file 1 \"bugs/%s\"\n", name);
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

/* Does the report name one of the file's lines that are marked, in every way it names a place? */
static bool at_marked_line(const char *name, const char *text, const char *report) {
  for (int line = 1; *text; line++) {
    const size_t n = strcspn(text, "\n");
    const char *mark = strstr(text, "// found");
    if (mark && mark < text + n) {
      char place[320], source[256], ptx[256];
      const size_t skip = strncmp(text, "BUG: ", 5) == 0 ? 5 : 0;
      snprintf(place, sizeof place, "  at      %s:%d\n", name, line);
      snprintf(source, sizeof source, "  source  %.*s\n", (int)n, text);
      snprintf(ptx, sizeof ptx, ": %.*s\n", (int)(n - skip), text + skip);
      const char *at = strstr(report, "  ptx     line ");
      if (strstr(report, place) && strstr(report, source) && at && strstr(at, ptx))
        return true;
    }
    text += n + (text[n] == '\n');
  }
  return false;
}

static bool at_place(const char *report, const char *found) {
  char block[64], lane[64];
  int b, w, l;
  const int n = sscanf(found, "%d,%d,%d", &b, &w, &l);
  snprintf(block, sizeof block, "  block   (%d,0,0) of", b);
  snprintf(lane, sizeof lane, n == 3 ? ", warp %d, lane %d, thread (%d,0,0)\n" : ", warp %d\n", w,
           l, w * 32 + l);
  return n >= 2 && strstr(report, "  kernel  k\n") && strstr(report, block) && strstr(report, lane);
}

static void one_bug(const char *name) {
  char path[512], want[64], found[32], kind[32] = "";
  snprintf(path, sizeof path, "%s/bugs/%s", EMU_SOURCE, name);
  FILE *f = fopen(path, "rb");
  ck_assert_ptr_nonnull(f);
  char *text = emu_alloc(1 << 16);
  ck_assert(fread(text, 1, (1 << 16) - 1, f) > 0);
  fclose(f);
  ck_assert_msg(sscanf(text, "// expect=%63s found=%31s", want, found) == 2, "%s: its header",
                name);
  char *wrong = twin(name, text, true), *right = twin(name, text, false);
  for (uint64_t seed = 0; seed < 6; seed++) {
    Report r;
    run(wrong, seed, &r);
    ck_assert_msg(r.kind != FOUND_NOTHING, "%s, seed %d: nothing found", name, (int)seed);
    ck_assert_msg(strstr(want, found_slug(r.kind)) != NULL, "%s: found %s", name, r.text);
    ck_assert_msg(at_marked_line(name, text, r.text), "%s, seed %d: not the marked line: %s", name,
                  (int)seed, r.text);
    ck_assert_msg(seed || at_place(r.text, found), "%s: not at %s: %s", name, found, r.text);
    if (!seed)
      snprintf(kind, sizeof kind, "%s", found_slug(r.kind));
    run(right, seed, &r);
    ck_assert_msg(r.kind == FOUND_NOTHING, "%s mended, seed %d: %s", name, (int)seed, r.text);
  }
  const char *what = strstr(text, "\n// ") + 4;
  printf("%-28.*s %-21s %-8s%.*s\n", (int)strcspn(name, "."), name, kind, found,
         (int)strcspn(what, "\n"), what);
  free(wrong);
  free(right);
  free(text);
}

START_TEST(seeded_bugs) {
  char path[512];
  snprintf(path, sizeof path, "%s/bugs", EMU_SOURCE);
  setenv("EMU_MAX_STEPS", "100000", 1);
  setenv("EMU_SOURCES", path, 1);
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
  printf("emu/bugs: %d seeded bugs found where they are, in 6 orders; %d mended twins clean\n",
         bugs, bugs);
  ck_assert_int_ge(bugs, 60);
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

/* Every limit of a launch: at it, and one beyond. */
START_TEST(launch_limits) {
  static const struct {
    const char *directives;
    uint32_t shared, opted, grid[3], block[3], dynamic;
    const char *refused; /* NULL: runs */
  } rows[] = {
      {".maxntid 1024", 0, 0, {1, 1, 1}, {1024, 1, 1}, 0, NULL},
      {".maxntid 1024", 0, 0, {1, 1, 1}, {1025, 1, 1}, 0, "1024 threads"},
      {".maxntid 1024", 0, 0, {1, 1, 1}, {32, 32, 1}, 0, NULL},
      {".maxntid 1024", 0, 0, {1, 1, 1}, {33, 32, 1}, 0, "1024 threads"},
      {".maxntid 1024", 0, 0, {1, 1, 1}, {1, 1, 64}, 0, NULL},
      {".maxntid 1024", 0, 0, {1, 1, 1}, {1, 1, 65}, 0, "1024 threads"},
      {".maxntid 1024", 0, 0, {0, 1, 1}, {1, 1, 1}, 0, "a dimension is 0"},
      {".maxntid 1024", 0, 0, {1, 1, 1}, {1, 0, 1}, 0, "a dimension is 0"},
      {".maxntid 1024", 0, 0, {65536, 1, 1}, {1, 1, 1}, 0, NULL},
      {".maxntid 1024", 0, 0, {1, 65535, 1}, {1, 1, 1}, 0, NULL},
      {".maxntid 1024", 0, 0, {1, 65536, 1}, {1, 1, 1}, 0, "grid above"},
      {".maxntid 1024", 0, 0, {1, 1, 65535}, {1, 1, 1}, 0, NULL},
      {".maxntid 1024", 0, 0, {1, 1, 65536}, {1, 1, 1}, 0, "grid above"},
      {".maxntid 1024", 0, 0, {2147483648, 1, 1}, {1, 1, 1}, 0, "grid above"},
      {".maxntid 1024", 0, 0, {65536, 32768, 2}, {1, 1, 1}, 0, "blocks in all"},
      {".maxntid 128", 0, 0, {1, 1, 1}, {128, 1, 1}, 0, NULL},
      {".maxntid 128", 0, 0, {1, 1, 1}, {129, 1, 1}, 0, "launch bounds"},
      {".maxntid 64, 2", 0, 0, {1, 1, 1}, {128, 1, 1}, 0, NULL},
      {".reqntid 64, 2", 0, 0, {1, 1, 1}, {64, 2, 1}, 0, NULL},
      {".reqntid 64, 2", 0, 0, {1, 1, 1}, {128, 1, 1}, 0, ".reqntid"},
      {"", 0, 0, {1, 1, 1}, {257, 1, 1}, 0, NULL},
      {"", 0, 0, {1, 1, 1}, {258, 1, 1}, 0, "without launch bounds"},
      {".maxnreg 64", 0, 0, {1, 1, 1}, {1024, 1, 1}, 0, NULL},
      {".maxnreg 65", 0, 0, {1, 1, 1}, {1024, 1, 1}, 0, ".maxnreg"},
      {".maxntid 64", 49152, 0, {1, 1, 1}, {64, 1, 1}, 0, NULL},
      {".maxntid 64", 0, 0, {1, 1, 1}, {64, 1, 1}, 49152, NULL},
      {".maxntid 64", 0, 0, {1, 1, 1}, {64, 1, 1}, 49153, "only after cuFuncSetAttribute"},
      {".maxntid 64", 0, 232448, {1, 1, 1}, {64, 1, 1}, 232448, NULL},
      {".maxntid 64", 0, 232448, {1, 1, 1}, {64, 1, 1}, 232449, "only after cuFuncSetAttribute"},
      {".maxntid 64", 1024, 0, {1, 1, 1}, {64, 1, 1}, 48128, NULL},
      {".maxntid 64", 1024, 0, {1, 1, 1}, {64, 1, 1}, 48129, "only after cuFuncSetAttribute"},
      {".maxntid 64", 1024, 232448, {1, 1, 1}, {64, 1, 1}, 231424, NULL},
      {".maxntid 64", 1024, 232448, {1, 1, 1}, {64, 1, 1}, 231425, "232448 bytes"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    char text[512], why[512], array[64] = "";
    if (rows[i].shared)
      snprintf(array, sizeof array, ".shared .align 4 .b8 s[%u];", rows[i].shared);
    snprintf(
        text, sizeof text,
        ".version 9.0\n.target sm_90\n.address_size 64\n.visible .entry k()\n%s\n{\n%s\nret;\n}\n",
        rows[i].directives, array);
    Memory m = {0};
    Module *module = ptx_load(text, &m, why);
    ck_assert_msg(module != NULL, "%s", why);
    Kernel *k = ptx_kernel(module, "k");
    if (rows[i].opted)
      k->max_dynamic = rows[i].opted;
    LaunchConfig c = {{0}, {0}, rows[i].dynamic, NULL, 0};
    memcpy(c.grid, rows[i].grid, sizeof c.grid);
    memcpy(c.block, rows[i].block, sizeof c.block);
    const char *refused = launch_refused(k, &c);
    ck_assert_msg(rows[i].refused ? refused && strstr(refused, rows[i].refused) : !refused,
                  "row %zu: %s", i, refused ? refused : "not refused");
    Report r;
    ck_assert(refused || launch_run(k, &m, &c, &r, NULL));
    ptx_unload(module);
    memory_fini(&m);
  }
}
END_TEST

int main(void) {
  TCase *t = tcase_create("bugs");
  tcase_set_timeout(t, 60);
  tcase_add_test(t, seeded_bugs);
  tcase_add_test(t, launch_limits);
  tcase_add_test(t, ignored_kinds);
  tcase_add_test(t, source_lines);
  Suite *s = suite_create("emu/bugs");
  suite_add_tcase(s, t);
  return check_run(s);
}
