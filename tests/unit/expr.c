/* $-expressions and globs. */
#include <math.h>

#include "spec_check.h"

static Session s;
static Param params[4];
static ParamScope scope;

static void setup(void) {
  s = session_open();
  Loc at = {.file = diag_file(s.diag, "p", "", 0), .line = 3, .col = 4, .len = 1};
  params[0] = (Param){str_c(s.strings, "n"), val_int(s.arena, 7, ORIGIN_FILE, at), at, false};
  params[1] = (Param){str_c(s.strings, "x"), val_float(s.arena, 0.5, ORIGIN_FILE, at), at, false};
  params[2] = (Param){str_c(s.strings, "word"),
                      val_str(s.arena, str_c(s.strings, "ab"), ORIGIN_FILE, at), at, false};
  params[3] = (Param){str_c(s.strings, "broken"), NULL, at, false};
  scope = (ParamScope){.n = 4, .param = params};
}

static void teardown(void) {
  session_close(&s);
}

static Val *eval(const char *text) {
  Yaml y = {.kind = YAML_SCALAR,
            .loc = {.line = 1, .col = 1, .len = (uint32_t)strlen(text)},
            .text = str_c(s.strings, text)};
  return expr_text(s.arena, s.strings, s.diag, &scope, &y);
}

static const struct {
  const char *text;
  int64_t want;
} ints[] = {
    {"$n", 7},
    {"$(n)", 7},
    {"$(2 + 3 * 4)", 14},
    {"$((2 + 3) * 4)", 20},
    {"$(7 // 2)", 3},
    {"$(-7 // 2)", -4},
    {"$(7 // -2)", -4},
    {"$(-7 // -2)", 3},
    {"$(7 % 3)", 1},
    {"$(-7 % 3)", 2},
    {"$(7 % -3)", -2},
    {"$(10 - 4 - 3)", 3},
    {"$(100 // 7 // 2)", 7},
    {"$(min(3, n, 5))", 3},
    {"$(max(3, n, 5))", 7},
    {"$(--3)", 3},
    {"$( n*n )", 49},
    {"$(9223372036854775807)", INT64_MAX},
    {"$(-9223372036854775807 - 1)", INT64_MIN},
};

START_TEST(integers_stay_integers) {
  Val *v = eval(ints[_i].text);
  ck_assert_msg(v && v->kind == VAL_INT, "%s", ints[_i].text);
  ck_assert_int_eq(v->i, ints[_i].want);
}
END_TEST

static const struct {
  const char *text;
  double want;
} floats[] = {
    {"$x", 0.5},          {"$(1 / 4)", 0.25},      {"$(6 / 2)", 3.0},
    {"$(sqrt(16))", 4.0}, {"$(n * x)", 3.5},       {"$(0.02 / sqrt(2 * 8))", 0.005},
    {"$(1e-3)", 1e-3},    {"$(2.5 // 1)", 2.0},    {"$(-0.5 % 2)", 1.5},
    {"$(.5 + 1)", 1.5},   {"$(max(1, 2.5))", 2.5},
};

START_TEST(the_rest_are_floats) {
  Val *v = eval(floats[_i].text);
  ck_assert_msg(v && v->kind == VAL_FLOAT, "%s", floats[_i].text);
  ck_assert_double_eq_tol(v->f, floats[_i].want, 1e-15);
}
END_TEST

static const struct {
  const char *text, *want;
} texts[] = {
    {"layer_$n.fc", "layer_7.fc"},
    {"a{0,$(n - 1)}.**", "a{0,6}.**"},
    {"$$n", "$n"},
    {"plain", "plain"},
    {"$word", "ab"},
    {"$word$n$x", "ab70.5"},
    {"$(n)$(n)", "77"},
    {"5$$", "5$"},
    {"", ""},
};

START_TEST(texts_are_filled_in) {
  Val *v = eval(texts[_i].text);
  ck_assert_ptr_nonnull(v);
  Text t = {0};
  val_text(v, &t);
  ck_assert_str_eq(t.data ? t.data : "", texts[_i].want);
  ck_assert_int_eq(v->kind, VAL_STR);
  text_fini(&t);
}
END_TEST

static const struct {
  const char *text;
  int code;
} wrong[] = {
    {"$nn", 215},
    {"$(n + m)", 215},
    {"$(1 / 0)", 211},
    {"$(1 % 0)", 211},
    {"$(1 // 0.0)", 211},
    {"$(n", 210},
    {"$(n))", 0},
    {"$()", 210},
    {"$(n n)", 210},
    {"$(2 *)", 210},
    {"$(foo(1))", 210},
    {"$(min(1))", 210},
    {"$(sqrt(1, 2))", 210},
    {"$(sqrt(-1))", 211},
    {"$", 210},
    {"$ n", 210},
    {"$($n)", 210},
    {"$(word + 1)", 211},
    {"$(1e)", 210},
    {"$(99999999999999999999)", 211},
    {"$(9223372036854775807 + 1)", 211},
    {"$(-9223372036854775807 - 2)", 211},
    {"$((-9223372036854775807 - 1) // -1)", 211},
    {"$(4611686018427387904 * 2)", 211},
    {"$(-(-9223372036854775807 - 1))", 211},
    {"$(1e308 * 10)", 211},
};

START_TEST(mistakes_have_codes) {
  Val *v = eval(wrong[_i].text);
  if (!wrong[_i].code) { /* the second parenthesis is text behind the expression */
    ck_assert_str_eq(v->s, "7)");
    return;
  }
  ck_assert_ptr_null(v);
  ck_assert_msg(message(&s, wrong[_i].code) != NULL, "%s", wrong[_i].text);
  ck_assert_int_eq(diag_errors(s.diag), 1);
}
END_TEST

START_TEST(wrong_parameters_are_silent_after_their_own_error) {
  ck_assert_ptr_null(eval("$broken"));
  ck_assert_ptr_null(eval("$(broken + 1)"));
  ck_assert_int_eq(diag_errors(s.diag), 0);
}
END_TEST

START_TEST(use_is_remembered) {
  eval("$(n + 1)");
  ck_assert(params[0].used && !params[1].used);
}
END_TEST

START_TEST(the_suggestion_names_the_definition) {
  params[0].name = str_c(s.strings, "hidden_dim");
  eval("$hiden_dim");
  const DiagMessage *m = message(&s, 215);
  ck_assert_str_eq(m->hint, "did you mean $hidden_dim? (defined at p:3:4)");
}
END_TEST

START_TEST(inner_names_hide_outer_ones) {
  Param i = {str_c(s.strings, "n"), val_int(s.arena, 1, ORIGIN_FILE, (Loc){0}), {0}, false};
  ParamScope inner = {.outer = &scope, .n = 1, .param = &i};
  Yaml y = {.kind = YAML_SCALAR, .text = str_c(s.strings, "$(n + x)")};
  ck_assert_double_eq(expr_text(s.arena, s.strings, s.diag, &inner, &y)->f, 1.5);
}
END_TEST

START_TEST(depth_is_limited) {
  Text t = {0};
  text_puts(&t, "$(");
  for (int i = 0; i < 100000; i++)
    text_puts(&t, "(");
  ck_assert_ptr_null(eval(t.data));
  ck_assert_ptr_nonnull(message(&s, 210));
  text_fini(&t);
}
END_TEST

/* ---- globs ---- */

static const struct {
  const char *pattern, *name;
  bool want;
} globs[] = {
    {"a", "a", true},
    {"a", "b", false},
    {"a.b", "a.b", true},
    {"*", "a", true},
    {"*", "a.b", false},
    {"*.*", "a.b", true},
    {"a*c", "abbc", true},
    {"a*c", "ab", false},
    {"?", "a", true},
    {"?", "ab", false},
    {"**", "a", true},
    {"**", "a.b.c", true},
    {"a.**", "a", true},
    {"a.**", "a.b.c", true},
    {"a.**", "ab", false},
    {"**.c", "a.b.c", true},
    {"**.c", "c", true},
    {"**.c", "a.b", false},
    {"a.**.c", "a.c", true},
    {"a.**.c", "a.b.b.c", true},
    {"a.**.c", "a.c.d", false},
    {"**.b.**", "a.b.c", true},
    {"**.b.**", "a.c", false},
    {"*_?.fc*", "layer_1.fc2", true},
    {"a.*", "a", false},
    {"", "a", false},
    {"**.a.**.b", "a.x.a.b.c.b", true},
};

START_TEST(patterns_match_whole_parts) {
  ck_assert_msg(glob_match(globs[_i].pattern, globs[_i].name) == globs[_i].want, "%s on %s",
                globs[_i].pattern, globs[_i].name);
}
END_TEST

static const struct {
  const char *glob;
  int n;
  const char *first, *last;
} braces[] = {
    {"a", 1, "a", "a"},
    {"a{b,c}d", 2, "abd", "acd"},
    {"{a,b}{c,d}", 4, "ac", "bd"},
    {"{a,{b,c}}", 3, "a", "c"},
    {"{a}", 1, "a", "a"},
    {"{,a}", 2, "", "a"},
    {"{a", 0, NULL, NULL},
    {"a}", 0, NULL, NULL},
    {"}{", 0, NULL, NULL},
    {"{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}", 0, NULL, NULL},
};

START_TEST(braces_expand) {
  Str *v;
  int n = glob_expand(s.arena, s.strings, braces[_i].glob, &v);
  ck_assert_int_eq(n, braces[_i].n);
  if (n) {
    ck_assert_str_eq(v[0], braces[_i].first);
    ck_assert_str_eq(v[n - 1], braces[_i].last);
  }
}
END_TEST

#define LOOP(test, table) tcase_add_loop_test(c, test, 0, sizeof table / sizeof *table)

int main(void) {
  Suite *suite = suite_create("expr");
  TCase *c = tcase_create("all");
  tcase_add_checked_fixture(c, setup, teardown);
  LOOP(integers_stay_integers, ints);
  LOOP(the_rest_are_floats, floats);
  LOOP(texts_are_filled_in, texts);
  LOOP(mistakes_have_codes, wrong);
  tcase_add_test(c, wrong_parameters_are_silent_after_their_own_error);
  tcase_add_test(c, use_is_remembered);
  tcase_add_test(c, the_suggestion_names_the_definition);
  tcase_add_test(c, inner_names_hide_outer_ones);
  tcase_add_test(c, depth_is_limited);
  LOOP(patterns_match_whole_parts, globs);
  LOOP(braces_expand, braces);
  suite_add_tcase(suite, c);
  return check_run(suite);
}
