/* Interned strings and the text buffer. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ir/ir.h"
#include "mpcc/num.h"
#include "tests/check_run.h"

START_TEST(equal_text_is_one_pointer) {
  enum { N = 5000 };
  Arena *a = arena_create();
  StrTable *t = str_table_create(a);
  static Str s[N];
  for (int i = 0; i < N; i++)
    s[i] = str_fmt(t, "layer.%d", i);
  for (int i = 0; i < N; i++) {
    char text[32];
    snprintf(text, sizeof text, "layer.%d", i);
    ck_assert_str_eq(s[i], text);
    ck_assert_ptr_eq(str_c(t, text), s[i]);
    ck_assert_ptr_eq(str_intern(t, text, strlen(text)), s[i]);
    ck_assert_ptr_ne(s[i], s[(i + 1) % N]);
    ck_assert(str_hash(s[i]) != str_hash(s[(i + 1) % N]));
  }
  ck_assert_ptr_ne(str_intern(t, "ab", 1), str_intern(t, "ab", 2));
  ck_assert_str_eq(str_fmt(t, "%s", ""), "");
  ck_assert(!str_table_failed(t));
  arena_destroy(a);
}
END_TEST

START_TEST(failed_table_gives_empty_strings) {
  for (long n = 1; n < 40; n++) {
    Arena *a = arena_create();
    arena_fail_after(n);
    StrTable *t = str_table_create(a);
    for (int i = 0; i < 500; i++) {
      char text[32];
      snprintf(text, sizeof text, "%d", i);
      Str s = i % 2 ? str_c(t, text) : str_fmt(t, "%d", i);
      ck_assert(!strcmp(s, text) || (str_table_failed(t) && !*s && !str_hash(s)));
    }
    ck_assert(str_table_failed(t));
    arena_fail_after(0);
    arena_destroy(a);
  }
}
END_TEST

START_TEST(text_grows) {
  Text t = {0};
  for (int i = 0; i < 1000; i++)
    text_printf(&t, "%d,", i);
  ck_assert_uint_eq(t.len, 3890);
  ck_assert_uint_eq(strlen(t.data), t.len);
  ck_assert(!strncmp(t.data, "0,1,2,", 6));
  text_fini(&t);
  text_printf(&t, "%0500d", 7); /* longer than the first buffer */
  ck_assert_uint_eq(t.len, 500);
  ck_assert(t.data[499] == '7' && t.data[500] == 0);
  text_put(&t, "x\0y", 3);
  ck_assert_uint_eq(t.len, 503);
  text_fini(&t);
  ck_assert_ptr_null(t.data);
}
END_TEST

START_TEST(text_failure_is_sticky) {
  Text t = {0};
  text_puts(&t, "abc");
  arena_fail_after(1);
  text_printf(&t, "%0500d", 7);
  ck_assert(t.failed);
  arena_fail_after(0);
  text_puts(&t, "def");
  ck_assert_str_eq(t.data, "abc");
  text_fini(&t);
  arena_fail_after(1);
  text_puts(&t, "abc");
  ck_assert(t.failed && !t.data);
  arena_fail_after(0);
  text_fini(&t);
}
END_TEST

static void check_double(double v, const char *want) {
  Text t = {0};
  text_double(&t, v);
  ck_assert_str_eq(t.data, want);
  text_fini(&t);
}

START_TEST(doubles) {
  check_double(0.1, "0.1");
  check_double(1, "1");
  check_double(-0.0, "-0");
  check_double(1e-5, "1e-05");
  check_double(1e300, "1e+300");
  check_double(1.0 / 3, "0.3333333333333333");
  check_double(0.1 + 0.2, "0.30000000000000004");
  check_double(5e-324, "5e-324");
  check_double(65504, "65504");
  check_double(INFINITY, "inf");
  check_double(-INFINITY, "-inf");
  check_double(NAN, "nan");
  uint64_t x = 12345;
  for (int i = 0; i < 100000; i++) {
    x = x * 6364136223846793005u + 1442695040888963407u;
    const double v = num_f64_from_bits(x ^ x >> 32);
    if (!isfinite(v))
      continue;
    Text t = {0};
    text_double(&t, v);
    ck_assert(strtod(t.data, NULL) == v);
    text_fini(&t);
  }
}
END_TEST

START_TEST(integers) {
  static const struct {
    int64_t v;
    const char *text;
  } row[] = {{0, "0"},
             {7, "7"},
             {-10, "-10"},
             {1234567890123, "1234567890123"},
             {INT64_MAX, "9223372036854775807"},
             {INT64_MIN, "-9223372036854775808"}};
  for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
    Text t = {0};
    text_int(&t, row[i].v);
    ck_assert_str_eq(t.data, row[i].text);
    text_fini(&t);
  }
}
END_TEST

START_TEST(json) {
  Text t = {0};
  text_json(&t, "a\"b\\c\n\t\x01\xC3\xA9/");
  ck_assert_str_eq(t.data, "\"a\\\"b\\\\c\\n\\u0009\\u0001\xC3\xA9/\"");
  text_fini(&t);
  text_json(&t, "\xF0\x9F\x98\x80\xFFx\xC3");
  ck_assert_str_eq(t.data, "\"\xF0\x9F\x98\x80\xEF\xBF\xBDx\xEF\xBF\xBD\"");
  text_fini(&t);
  text_json(&t, "\xED\xA0\x80\xC0\x80");
  ck_assert_str_eq(t.data, "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\"");
  text_fini(&t);
}
END_TEST

int main(void) {
  Suite *s = suite_create("str");
  TCase *t = tcase_create("str");
  tcase_set_timeout(t, 60);
  tcase_add_test(t, equal_text_is_one_pointer);
  tcase_add_test(t, failed_table_gives_empty_strings);
  tcase_add_test(t, text_grows);
  tcase_add_test(t, text_failure_is_sticky);
  tcase_add_test(t, doubles);
  tcase_add_test(t, integers);
  tcase_add_test(t, json);
  suite_add_tcase(s, t);
  return check_run(s);
}
