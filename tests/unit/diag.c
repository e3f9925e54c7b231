/* Diagnostics: the house style byte by byte, options, suggestions. */
#include <stdlib.h>
#include <string.h>

#include "ir/ir.h"
#include "tests/check_run.h"

static Arena *arena;
static StrTable *strings;
static Diag *diag;

static void setup(void) {
  arena = arena_create();
  strings = str_table_create(arena);
  diag = diag_create(arena, strings);
}

static void teardown(void) {
  arena_destroy(arena);
}

static uint32_t file(const char *name, const char *text) {
  return diag_file(diag, name, text, strlen(text));
}

static const DiagMessage *last(void) {
  const DiagMessage *m = diag_first(diag);
  while (m && m->next)
    m = m->next;
  return m;
}

static void check_render(const char *want) {
  Text t = {0};
  diag_render(diag, last(), false, &t);
  ck_assert_str_eq(t.data, want);
  text_fini(&t);
}

static void check_json(const char *want) {
  Text t = {0};
  diag_render_json(diag, last(), &t);
  ck_assert_str_eq(t.data, want);
  text_fini(&t);
}

START_TEST(caret_and_hint) {
  const uint32_t f = file("vit.yaml", "mpcc: 1\n  - {name: mlp.0, out_feature: 4096}\nend");
  diag_error(diag, (Loc){f, 2, 19, 11}, 102, "unknown key '%s' in layer 'mlp.0' (Linear)",
             "out_feature");
  diag_hint(diag, "did you mean '%s'?", "out_features");
  check_render("vit.yaml:2:19: error: unknown key 'out_feature' in layer 'mlp.0' (Linear) "
               "[MPC0102]\n"
               "    2 |   - {name: mlp.0, out_feature: 4096}\n"
               "      |                   ^~~~~~~~~~~ did you mean 'out_features'?\n");
  check_json(
      "{\"severity\": \"error\", \"code\": \"MPC0102\", \"file\": \"vit.yaml\", \"line\": 2, "
      "\"column\": 19, \"length\": 11, \"message\": \"unknown key 'out_feature' in layer "
      "'mlp.0' (Linear)\", \"hint\": \"did you mean 'out_features'?\"}");
}
END_TEST

/* A long line is shown around the place only, whatever its length. */
START_TEST(long_lines_are_cut) {
  enum { LEN = 100000 };
  char *line = malloc(LEN + 1);
  memset(line, 'a', LEN);
  line[LEN] = 0;
  const uint32_t f = diag_file(diag, "l", line, LEN);
  const uint32_t col[] = {1, LEN / 2, LEN};
  for (int i = 0; i < 3; i++) {
    diag_error(diag, (Loc){f, 1, col[i], LEN}, 1, "text");
    diag_hint(diag, "hint");
    Text t = {0};
    diag_render(diag, last(), false, &t);
    ck_assert_uint_lt(t.len, 600);
    const char *shown = strchr(t.data, '\n') + 1, *caret = strchr(t.data, '^');
    size_t width = strcspn(shown, "\n");
    ck_assert_uint_lt((size_t)(caret - (shown + width + 1)), width);
    ck_assert_int_eq(shown[caret - (shown + width + 1)], 'a');
    ck_assert_int_eq(!strncmp(shown + 8, "... ", 4), i > 0);
    ck_assert_int_eq(!strncmp(shown + width - 4, " ...", 4), i < 2);
    text_fini(&t);
  }
  free(line);
}
END_TEST

/* Words that quote the input are bounded and move no cursor. */
START_TEST(words_are_bounded) {
  char *word = malloc(5001);
  for (int i = 0; i < 5000; i += 2)
    memcpy(word + i, "\xc3\xa4", 2);
  word[5000] = 0;
  diag_error(diag, (Loc){0}, 1, "x%s", word);
  size_t n = strlen(last()->text);
  ck_assert_uint_lt(n, 610);
  ck_assert_str_eq(last()->text + n - 5, "\xc3\xa4...");
  diag_error(diag, (Loc){0}, 1, "a\033[31mb\nc");
  ck_assert_str_eq(last()->text, "a?[31mb?c");
  free(word);
}
END_TEST

START_TEST(warnings_are_said_once) {
  diag_warning(diag, (Loc){0, 1, 2, 3}, "w", "text %d", 1);
  diag_warning(diag, (Loc){0, 1, 2, 3}, "w", "text %d", 1);
  ck_assert_int_eq(diag_warnings(diag), 1);
  diag_warning(diag, (Loc){0, 1, 2, 4}, "w", "text %d", 1);
  diag_warning(diag, (Loc){0, 1, 2, 4}, "w", "text %d", 2);
  ck_assert_int_eq(diag_warnings(diag), 3);
}
END_TEST

START_TEST(notes_come_after) {
  const uint32_t f = file("a.yaml", "in_features: 768\r\nx: y\n");
  diag_error(diag, (Loc){f, 1, 14, 3}, 311, "shapes do not fit");
  diag_note(diag, (Loc){f, 2, 1, 1}, "the input comes from '%s'", "select");
  diag_note(diag, (Loc){0}, "second");
  check_render("a.yaml:1:14: error: shapes do not fit [MPC0311]\n"
               "    1 | in_features: 768\n"
               "      |              ^~~\n"
               "a.yaml:2:1: note: the input comes from 'select'\n"
               "note: second\n");
  check_json("{\"severity\": \"error\", \"code\": \"MPC0311\", \"file\": \"a.yaml\", \"line\": 1, "
             "\"column\": 14, \"length\": 3, \"message\": \"shapes do not fit\", \"notes\": "
             "[{\"message\": \"the input comes from 'select'\", \"file\": \"a.yaml\", \"line\": 2, "
             "\"column\": 1, \"length\": 1}, {\"message\": \"second\"}]}");
}
END_TEST

START_TEST(without_a_place) {
  diag_error(diag, (Loc){0}, 502, "precision needs compute capability 8.9");
  diag_note(diag, (Loc){0}, "requested on the command line");
  diag_hint(diag, "use bf16-mixed");
  check_render("error: precision needs compute capability 8.9 [MPC0502]\n"
               "note: requested on the command line\n"
               "help: use bf16-mixed\n");
  const uint32_t f = file("x.yaml", "one line");
  diag_error(diag, (Loc){f, 9, 1, 1}, 0, "beyond the end");
  check_render("x.yaml:9:1: error: beyond the end\n");
  diag_error(diag, (Loc){f, 0, 0, 0}, 0, "whole file");
  check_render("x.yaml: error: whole file\n");
  ck_assert_ptr_null(diag_file_name(diag, 0));
  ck_assert_ptr_null(diag_file_name(diag, f + 1));
  ck_assert_str_eq(diag_file_name(diag, f), "x.yaml");
}
END_TEST

/* Tabs stay tabs, code points are columns, ranges end with the line. */
START_TEST(columns) {
  const uint32_t f = file("t.yaml", "\tk\xC3\xA9y: v\x01w\n");
  diag_error(diag, (Loc){f, 1, 2, 3}, 1, "m");
  check_render("t.yaml:1:2: error: m [MPC0001]\n"
               "    1 | \tk\xC3\xA9y: v?w\n"
               "      | \t^~~\n");
  diag_error(diag, (Loc){f, 1, 7, 100}, 1, "m");
  check_render("t.yaml:1:7: error: m [MPC0001]\n"
               "    1 | \tk\xC3\xA9y: v?w\n"
               "      | \t     ^~~\n");
  diag_error(diag, (Loc){f, 1, 100, 0}, 1, "m");
  check_render("t.yaml:1:100: error: m [MPC0001]\n"
               "    1 | \tk\xC3\xA9y: v?w\n"
               "      | \t        ^\n");
}
END_TEST

START_TEST(warnings) {
  const uint32_t f = file("v.yaml", "eps: 1e-8\n");
  const Loc loc = {f, 1, 6, 4};
  diag_warning(diag, loc, "constant-underflow", "%g becomes 0", 1e-8);
  check_render("v.yaml:1:6: warning: 1e-08 becomes 0 [-Wconstant-underflow]\n"
               "    1 | eps: 1e-8\n"
               "      |      ^~~~\n");
  check_json(
      "{\"severity\": \"warning\", \"warning\": \"constant-underflow\", \"file\": \"v.yaml\", "
      "\"line\": 1, \"column\": 6, \"length\": 4, \"message\": \"1e-08 becomes 0\"}");
  ck_assert_int_eq(diag_warnings(diag), 1);
  ck_assert_int_eq(diag_errors(diag), 0);
  diag_option_ignore(diag, "constant-underflow", true);
  diag_warning(diag, loc, "constant-underflow", "again");
  diag_hint(diag, "goes nowhere");
  diag_note(diag, loc, "goes nowhere");
  ck_assert_int_eq(diag_warnings(diag), 1);
  ck_assert_ptr_null(diag_first(diag)->next);
  ck_assert_ptr_null(diag_first(diag)->hint);
  diag_option_ignore(diag, "constant-underflow", false);
  diag_option_werror(diag, true);
  diag_warning(diag, loc, "constant-underflow", "now an error");
  check_render("v.yaml:1:6: error: now an error [-Werror=constant-underflow]\n"
               "    1 | eps: 1e-8\n"
               "      |      ^~~~\n");
  ck_assert_int_eq(diag_errors(diag), 1);
  ck_assert_int_eq(diag_warnings(diag), 1);
}
END_TEST

START_TEST(errors_are_limited) {
  diag_option_max_errors(diag, 2);
  for (int i = 0; i < 5; i++) {
    diag_error(diag, (Loc){0}, 1, "number %d", i);
    diag_hint(diag, "hint %d", i);
  }
  int n = 0;
  for (const DiagMessage *m = diag_first(diag); m; m = m->next)
    n++;
  ck_assert_int_eq(n, 3);
  ck_assert_int_eq(diag_errors(diag), 5);
  check_render("note: more than 2 errors; the rest is not shown (-fmax-errors=0 shows all)\n");
  ck_assert_str_eq(diag_first(diag)->next->hint, "hint 1");
}
END_TEST

START_TEST(no_limit) {
  diag_option_max_errors(diag, 0);
  for (int i = 0; i < 100; i++)
    diag_error(diag, (Loc){0}, 1, "number %d", i);
  ck_assert_str_eq(last()->text, "number 99");
}
END_TEST

START_TEST(colour) {
  const uint32_t f = file("c.yaml", "key\n");
  diag_error(diag, (Loc){f, 1, 1, 3}, 1, "m");
  Text t = {0};
  diag_render(diag, last(), true, &t);
  ck_assert_str_eq(t.data, "\033[1mc.yaml:1:1: \033[0m\033[1;31merror: \033[0m\033[1mm\033[0m "
                           "[MPC0001]\n    1 | key\n      | \033[1;31m^~~\033[0m\n");
  text_fini(&t);
}
END_TEST

START_TEST(suggestions) {
  static const char *const keys[] = {"out_features", "in_features", "bias", "kernel_size", "lr"};
  const size_t n = sizeof keys / sizeof keys[0];
  ck_assert_str_eq(diag_suggest("out_feature", keys, n), "out_features");
  ck_assert_str_eq(diag_suggest("kernal_size", keys, n), "kernel_size");
  ck_assert_str_eq(diag_suggest("Bias", keys, n), "bias");
  ck_assert_str_eq(diag_suggest("bais", keys, n), "bias");
  ck_assert_str_eq(diag_suggest("l", keys, n), "lr");
  ck_assert_str_eq(diag_suggest("Kern", keys, n), "kernel_size");
  ck_assert_ptr_null(diag_suggest("dropout", keys, n));
  ck_assert_ptr_null(diag_suggest("x", keys, n));
  ck_assert_ptr_null(diag_suggest("", keys, n));
  ck_assert_ptr_null(diag_suggest("bias", keys, 0));
  char lengthy[200];
  memset(lengthy, 'x', sizeof lengthy - 1);
  lengthy[sizeof lengthy - 1] = 0;
  ck_assert_ptr_null(diag_suggest(lengthy, keys, n));
}
END_TEST

START_TEST(survives_failed_allocations) {
  for (long n = 1; n < 30; n++) {
    Arena *a = arena_create();
    arena_fail_after(n);
    Diag *d = diag_create(a, str_table_create(a));
    const uint32_t f = diag_file(d, "x", "text", 4);
    for (int i = 0; i < 3; i++) {
      diag_error(d, (Loc){f, 1, 1, 1}, 1, "error %d", i);
      diag_note(d, (Loc){f, 1, 1, 1}, "note");
      diag_hint(d, "hint");
    }
    arena_fail_after(0);
    ck_assert_int_eq(diag_errors(d), 3);
    for (const DiagMessage *m = diag_first(d); m; m = m->next) {
      Text t = {0};
      diag_render(d, m, false, &t);
      ck_assert_uint_gt(t.len, 0);
      text_fini(&t);
    }
    arena_destroy(a);
  }
}
END_TEST

int main(void) {
  Suite *s = suite_create("diag");
  TCase *t = tcase_create("diag");
  tcase_set_timeout(t, 60);
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, caret_and_hint);
  tcase_add_test(t, long_lines_are_cut);
  tcase_add_test(t, words_are_bounded);
  tcase_add_test(t, warnings_are_said_once);
  tcase_add_test(t, notes_come_after);
  tcase_add_test(t, without_a_place);
  tcase_add_test(t, columns);
  tcase_add_test(t, warnings);
  tcase_add_test(t, errors_are_limited);
  tcase_add_test(t, no_limit);
  tcase_add_test(t, colour);
  tcase_add_test(t, suggestions);
  tcase_add_test(t, survives_failed_allocations);
  suite_add_tcase(s, t);
  return check_run(s);
}
