/* YAML text to a located tree: places, strictness, limits, and that no input crashes. */

#include "spec_check.h"

static Session s;

static void setup(void) {
  s = session_open();
}

static void teardown(void) {
  session_close(&s);
}

static Yaml *parse_n(const char *text, size_t len) {
  Yaml *y = NULL;
  Status st =
      yaml_parse(s.arena, s.strings, s.diag, diag_file(s.diag, "t", text, len), text, len, &y);
  ck_assert((st == MPCC_OK) == (y != NULL));
  ck_assert(y || diag_errors(s.diag) > 0);
  return y;
}

static Yaml *parse(const char *text) {
  return parse_n(text, strlen(text));
}

START_TEST(nodes_know_their_place) {
  Yaml *y = parse("a: 1\nb:\n  - {c: word, d: 'q'}\n  - \"two\"\n");
  ck_assert_int_eq(y->kind, YAML_MAP);
  ck_assert_int_eq(y->n, 2);
  Yaml *list = yaml_get(y, "b");
  ck_assert_int_eq(list->kind, YAML_LIST);
  Yaml *map = list->u.item[0], *c = yaml_get(map, "c"), *d = yaml_get(map, "d");
  ck_assert_uint_eq(map->loc.line, 3);
  ck_assert_uint_eq(map->loc.col, 5);
  ck_assert_uint_eq(map->loc.len, 17);
  ck_assert_uint_eq(c->loc.col, 9);
  ck_assert_uint_eq(c->loc.len, 4);
  ck_assert_str_eq(c->text, "word");
  ck_assert(!c->quoted && d->quoted && list->u.item[1]->quoted);
  ck_assert_uint_eq(map->u.pair[1].key->loc.col, 15);
}
END_TEST

START_TEST(nulls_are_bare_words_only) {
  Yaml *y = parse("- null\n- ~\n-\n- 'null'\n- ''\n");
  for (int i = 0; i < y->n; i++)
    ck_assert_int_eq(y->u.item[i]->kind, i < 3 ? YAML_NULL : YAML_SCALAR);
  ck_assert_int_eq(parse("")->kind, YAML_NULL);
  ck_assert_int_eq(parse("# only a comment\n")->kind, YAML_NULL);
}
END_TEST

START_TEST(aliases_share_nodes) {
  Yaml *y = parse("a: &x {k: [1, 2]}\nb: *x\n");
  ck_assert_ptr_eq(yaml_get(y, "a"), yaml_get(y, "b"));
  ck_assert_ptr_null(parse("a: *nowhere\n"));
  ck_assert_ptr_null(parse("a: &x [*x]\n"));
  ck_assert_ptr_nonnull(message(&s, 106));
}
END_TEST

/* {text, code of the error} */
static const struct {
  const char *text;
  int code;
} wrong[] = {
    {"<<: {a: 1}\n", 103},
    {"a: 1\n---\nb: 2\n", 104},
    {"a: !!int 1\n", 108},
    {"? [1]\n: 2\n", 108},
    {"{{a}}: 1\n", 108},
    {"a: \"open\n", 100},
    {"a:\n\tb: 1\n", 100},
    {"\xff\xfe\x41", 100},
    {"a: [1, 2\n", 100},
    {"a: \"x\\0y\"\n", 100},
    {"%YAML 9.9\n---\na: 1\n", 100},
    {"&a [&b [*a]]", 106},
    {"null: 1\n", 108},
};

START_TEST(mistakes_have_codes) {
  ck_assert_ptr_null(parse(wrong[_i].text));
  ck_assert_msg(message(&s, wrong[_i].code) != NULL, "%s: got MPC%04d", wrong[_i].text,
                diag_first(s.diag)->code);
}
END_TEST

/* The tree is there all the same, with the first values: what reads it finds the other errors. */
START_TEST(all_duplicates_are_reported) {
  Yaml *y = parse("a: 1\nb: 2\na: 3\nb: 4\nc: {d: 1, d: 2}\n");
  ck_assert_int_eq(diag_errors(s.diag), 3);
  ck_assert_int_eq(diag_first(s.diag)->code, 101);
  ck_assert_int_eq(y->n, 3);
  ck_assert_str_eq(yaml_get(y, "a")->text, "1");
  ck_assert_str_eq(yaml_get(yaml_get(y, "c"), "d")->text, "1");
}
END_TEST

/* n levels of the opening text, then of the closing one */
static char *nested(const char *open, const char *close, int n, size_t *len) {
  char *t = malloc((size_t)n * (strlen(open) + strlen(close)) + 1);
  *t = 0;
  char *p = t;
  for (int i = 0; i < n; i++)
    p = stpcpy(p, open);
  for (int i = 0; i < n; i++)
    p = stpcpy(p, close);
  *len = (size_t)(p - t);
  return t;
}

START_TEST(deep_nesting_is_an_error) {
  static const char *const open[] = {"[", "{a: ", "- ", "[{a: ["};
  static const char *const close[] = {"]", "}", "", "]}]"};
  for (size_t i = 0; i < 4; i++)
    for (int n = 199; n <= 10000; n += 9801) {
      size_t len;
      char *t = nested(open[i], close[i], i == 2 ? n / 10 : n, &len);
      Yaml *y = parse_n(t, len);
      ck_assert(n > 199 ? y == NULL : i == 3 || y != NULL);
      free(t);
    }
  ck_assert_ptr_nonnull(message(&s, 105));
}
END_TEST

START_TEST(depth_through_aliases_counts) {
  Text t = {0};
  text_puts(&t, "- &a0 [x]\n");
  for (int i = 1; i < 300; i++)
    text_printf(&t, "- &a%d [*a%d]\n", i, i - 1);
  ck_assert_ptr_null(parse(t.data));
  ck_assert_ptr_nonnull(message(&s, 105));
  text_fini(&t);
}
END_TEST

START_TEST(alias_bombs_are_refused) {
  Text t = {0};
  text_puts(&t, "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n");
  for (int i = 1; i < 30; i++)
    text_printf(&t, "a%d: &a%d [*a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d]\n", i, i,
                i - 1, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1);
  ck_assert_ptr_null(parse(t.data));
  ck_assert_ptr_nonnull(message(&s, 106));
  text_fini(&t);
}
END_TEST

/* Every prefix, and random changes of single bytes: an error or a tree, never a crash. */
START_TEST(damaged_texts_do_not_crash) {
  static const char text[] = "mpcc: 1\nx: &a {k: [1, 'two', \"th\\u00e9\"], j: |\n  block\n  }\n"
                             "y: [*a, {z: null}]\n? - q\n: *a\n";
  for (size_t n = 0; n < sizeof text; n++)
    parse_n(text, n);
  unsigned seed = 12345;
  for (int i = 0; i < 3000; i++) {
    char copy[sizeof text];
    memcpy(copy, text, sizeof text);
    for (int k = 0; k < 3; k++) {
      seed = seed * 1103515245u + 12345u;
      copy[(seed >> 8) % (sizeof text - 1)] = (char)(seed >> 24);
    }
    parse_n(copy, sizeof text - 1);
  }
}
END_TEST

START_TEST(running_out_of_memory_is_said) {
  static const char text[] = "a: &x {k: [1, 2, 3, 4, 5, 6, 7, 8, 9]}\nb: *x\n";
  for (long n = 1;; n++) {
    Session t = session_open();
    uint32_t file = diag_file(t.diag, "t", text, sizeof text - 1);
    Yaml *y;
    arena_fail_after(n);
    Status st = yaml_parse(t.arena, t.strings, t.diag, file, text, sizeof text - 1, &y);
    bool failed = arena_failed(t.arena);
    arena_fail_after(0);
    ck_assert_int_eq(st, failed ? MPCC_ERR_NOMEM : MPCC_OK);
    session_close(&t);
    if (!failed)
      break;
  }
}
END_TEST

int main(void) {
  Suite *suite = suite_create("yaml");
  TCase *c = tcase_create("all");
  tcase_add_checked_fixture(c, setup, teardown);
  tcase_set_timeout(c, 60);
  tcase_add_test(c, nodes_know_their_place);
  tcase_add_test(c, nulls_are_bare_words_only);
  tcase_add_test(c, aliases_share_nodes);
  tcase_add_loop_test(c, mistakes_have_codes, 0, sizeof wrong / sizeof *wrong);
  tcase_add_test(c, all_duplicates_are_reported);
  tcase_add_test(c, deep_nesting_is_an_error);
  tcase_add_test(c, depth_through_aliases_counts);
  tcase_add_test(c, alias_bombs_are_refused);
  tcase_add_test(c, damaged_texts_do_not_crash);
  tcase_add_test(c, running_out_of_memory_is_said);
  suite_add_tcase(suite, c);
  return check_run(suite);
}
