/* Arena: alignment, zeroing, large and many requests, and what happens after a failure. */
#include <stdint.h>
#include <string.h>

#include "ir/ir.h"
#include "tests/check_run.h"

static bool all_zero(const unsigned char *p, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (p[i])
      return false;
  return true;
}

START_TEST(aligned_zeroed_and_apart) {
  enum { N = 2000 };
  Arena *a = arena_create();
  static unsigned char *p[N];
  for (size_t i = 0; i < N; i++) {
    const size_t n = i * 37 % 3000;
    p[i] = arena_alloc(a, n);
    ck_assert_uint_eq((uintptr_t)p[i] % 16, 0);
    ck_assert(all_zero(p[i], n));
    memset(p[i], (int)(i % 251), n);
  }
  for (size_t i = 0; i < N; i++)
    for (size_t k = 0; k < i * 37 % 3000; k++)
      ck_assert_uint_eq(p[i][k], i % 251);
  ck_assert(!arena_failed(a));
  arena_destroy(a);
}
END_TEST

START_TEST(large_requests_leave_the_chunk_in_use) {
  Arena *a = arena_create();
  char *small = arena_alloc(a, 16);
  unsigned char *large = arena_alloc(a, 10 << 20);
  ck_assert(all_zero(large, 10 << 20));
  ck_assert_ptr_eq(arena_alloc(a, 16), small + 16);
  arena_destroy(a);
}
END_TEST

START_TEST(failure_is_sticky) {
  Arena *a = arena_create();
  arena_fail_after(2);
  char *p = arena_alloc(a, 8);
  ck_assert(!arena_failed(a));
  char *q = arena_alloc(a, 8);
  ck_assert(arena_failed(a));
  ck_assert(q != p);
  /* later ones give zeroed memory of their own for a while */
  char *r = arena_alloc(a, 100), *s = arena_alloc(a, 100);
  ck_assert(r != s);
  memset(r, 1, 100);
  ck_assert(all_zero((unsigned char *)s, 100));
  for (int i = 0; i < 10000; i++) { /* around the scratch area several times */
    unsigned char *x = arena_alloc(a, 1000);
    ck_assert(all_zero(x, 1000));
    memset(x, 0xFF, 1000);
  }
  memset(arena_alloc(a, 1 << 20), 1, 1 << 20);
  ck_assert(arena_failed(a));
  arena_destroy(a);
}
END_TEST

START_TEST(sizes_are_checked) {
  Arena *a = arena_create();
  ck_assert_ptr_nonnull(arena_array(a, SIZE_MAX / 2, 4));
  ck_assert(arena_failed(a));
  arena_destroy(a);
  a = arena_create();
  ck_assert_ptr_nonnull(arena_alloc(a, SIZE_MAX - 3));
  ck_assert(arena_failed(a));
  arena_destroy(a);
  a = arena_create();
  arena_fail(a);
  ck_assert(arena_failed(a));
  arena_destroy(a);
  arena_destroy(NULL);
}
END_TEST

START_TEST(creation_can_fail) {
  arena_fail_after(1);
  ck_assert_ptr_null(arena_create());
  Arena *a = arena_create();
  ck_assert_ptr_nonnull(a);
  arena_destroy(a);
}
END_TEST

int main(void) {
  Suite *s = suite_create("arena");
  TCase *t = tcase_create("arena");
  tcase_set_timeout(t, 60);
  tcase_add_test(t, aligned_zeroed_and_apart);
  tcase_add_test(t, large_requests_leave_the_chunk_in_use);
  tcase_add_test(t, failure_is_sticky);
  tcase_add_test(t, sizes_are_checked);
  tcase_add_test(t, creation_can_fail);
  suite_add_tcase(s, t);
  return check_run(s);
}
