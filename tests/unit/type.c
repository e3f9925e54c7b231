/* Tensor types: interning, sizes, broadcasting. */

#include "ir/ir.h"
#include "tests/check_run.h"

static const int64_t d248[] = {2, 4, 8}, d428[] = {4, 2, 8}, big[] = {1 << 20, 1 << 20};

START_TEST(equal_types_are_one_pointer) {
  Arena *a = arena_create();
  TypeTable *t = type_table_create(a);
  const Type *x = type_get(t, MPCC_BF16, 3, d248);
  ck_assert_ptr_eq(x, type_get(t, MPCC_BF16, 3, d248));
  ck_assert_ptr_ne(x, type_get(t, MPCC_F16, 3, d248));
  ck_assert_ptr_ne(x, type_get(t, MPCC_BF16, 3, d428));
  ck_assert_ptr_ne(x, type_get(t, MPCC_BF16, 2, d248));
  ck_assert_ptr_eq(x, type_with_dtype(t, type_get(t, MPCC_F32, 3, d248), MPCC_BF16));
  ck_assert_ptr_eq(type_get(t, MPCC_F32, 0, NULL), type_get(t, MPCC_F32, 0, d248));
  static const Type *many[3000];
  for (int64_t i = 0; i < 3000; i++)
    many[i] = type_get(t, MPCC_F32, 2, (int64_t[]){i, 3000 - i});
  for (int64_t i = 0; i < 3000; i++)
    ck_assert_ptr_eq(many[i], type_get(t, MPCC_F32, 2, (int64_t[]){i, 3000 - i}));
  arena_destroy(a);
}
END_TEST

START_TEST(sizes) {
  Arena *a = arena_create();
  TypeTable *t = type_table_create(a);
  ck_assert_int_eq(type_elems(type_get(t, MPCC_F32, 0, NULL)), 1);
  ck_assert_int_eq(type_elems(type_get(t, MPCC_F32, 3, d248)), 64);
  ck_assert_int_eq(type_bytes(type_get(t, MPCC_BF16, 3, d248)), 128);
  ck_assert_int_eq(type_bytes(type_get(t, MPCC_F64, 2, big)), INT64_C(1) << 43);
  arena_destroy(a);
}
END_TEST

START_TEST(broadcasting) {
  static const struct {
    int ra, rb, rank; /* rank -1: does not fit */
    int64_t a[3], b[3], want[3];
  } cases[] = {
      {0, 0, 0, {0}, {0}, {0}},
      {2, 0, 2, {3, 4}, {0}, {3, 4}},
      {0, 2, 2, {0}, {3, 4}, {3, 4}},
      {2, 1, 2, {3, 4}, {4}, {3, 4}},
      {2, 1, 2, {3, 4}, {1}, {3, 4}},
      {2, 2, 2, {3, 1}, {1, 4}, {3, 4}},
      {1, 3, 3, {4}, {2, 1, 1}, {2, 1, 4}},
      {1, 1, -1, {3}, {4}, {0}},
      {2, 1, -1, {3, 4}, {3}, {0}},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    Type x = {.dt = MPCC_F32, .rank = cases[i].ra}, y = {.dt = MPCC_I64, .rank = cases[i].rb};
    for (int k = 0; k < 3; k++) {
      x.dim[k] = cases[i].a[k];
      y.dim[k] = cases[i].b[k];
    }
    int rank;
    int64_t dim[MAX_RANK];
    const bool fits = type_broadcast(&x, &y, &rank, dim);
    ck_assert_int_eq(fits, cases[i].rank >= 0);
    if (!fits)
      continue;
    ck_assert_int_eq(rank, cases[i].rank);
    for (int k = 0; k < rank; k++)
      ck_assert_int_eq(dim[k], cases[i].want[k]);
  }
}
END_TEST

START_TEST(printing) {
  Arena *a = arena_create();
  TypeTable *t = type_table_create(a);
  Text x = {0};
  type_print(type_get(t, MPCC_F32, 0, NULL), &x);
  text_puts(&x, " ");
  type_print(type_get(t, MPCC_E4M3, 3, d248), &x);
  ck_assert_str_eq(x.data, "f32[] e4m3[2,4,8]");
  text_fini(&x);
  arena_destroy(a);
}
END_TEST

START_TEST(failed_table_still_gives_types) {
  for (long n = 1; n < 6; n++) {
    Arena *a = arena_create();
    arena_fail_after(n);
    TypeTable *t = type_table_create(a);
    for (int64_t i = 1; i < 5; i++) {
      const Type *x = type_get(t, MPCC_F16, 1, &i);
      ck_assert(x->dt == MPCC_F16 && x->rank == 1 && x->dim[0] == i);
    }
    ck_assert(arena_failed(a));
    arena_fail_after(0);
    arena_destroy(a);
  }
}
END_TEST

int main(void) {
  Suite *s = suite_create("type");
  TCase *t = tcase_create("type");
  tcase_set_timeout(t, 60);
  tcase_add_test(t, equal_types_are_one_pointer);
  tcase_add_test(t, sizes);
  tcase_add_test(t, broadcasting);
  tcase_add_test(t, printing);
  tcase_add_test(t, failed_table_still_gives_types);
  suite_add_tcase(s, t);
  return check_run(s);
}
