/* Counting what formats would not hold, against rounding each value. */
#include <math.h>
#include <stdlib.h>

#include "mpcc/num.h"
#include "runtime/ranges.h"
#include "tests/check_run.h"

enum { N = 100003 };

/* Values over the whole range of dt, with zeros, negative ones and the edges of each format. */
static void fill(uint8_t *data, DType dt) {
  uint64_t state = 7;
  for (int64_t i = 0; i < N; i++) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    double v = ldexp((double)(state >> 40) / 0x1p24 - 0.5, (int)(state >> 20) % 60 - 40);
    if (i % 11 == 0)
      v = 0;
    const DTypeInfo *info = dtype_info(mprt__range_formats[i % MPRT__RANGE_FORMATS]);
    if (i % 13 == 1)
      v = info->max_finite * (i % 2 ? 1 : 1 + info->eps);
    if (i % 13 == 2)
      v = info->min_normal * info->eps * (i % 2 ? 0.5 : 0.5 + info->eps);
    num_store(data + (size_t)i * dtype_bytes(dt), dt, i % 3 ? v : -v);
  }
}

static void check_counts(DType dt, double amax) {
  uint8_t *data = malloc((size_t)N * dtype_bytes(dt));
  mprt__pool *pool;
  ck_assert_int_eq(mprt__pool_create(3, 64, &pool), MPCC_OK);
  fill(data, dt);
  mprt__range_counts want = {0};
  for (int64_t i = 0; i < N; i++) {
    double v = fabs(num_load(data + (size_t)i * dtype_bytes(dt), dt));
    want.amax = fmax(want.amax, v);
    want.nonzero += v > 0;
    for (int f = 0; f < MPRT__RANGE_FORMATS; f++) {
      DType to = mprt__range_formats[f];
      double scale = dtype_bytes(to) == 1 && amax > 0 ? dtype_info(to)->max_finite / amax : 1;
      want.saturated[f] += v > dtype_info(to)->max_finite / scale;
      want.lost[f] += v > 0 && num_round(v * scale, to) == 0;
    }
  }
  mprt__range_counts got = mprt__range_count(pool, data, N, dt, amax);
  ck_assert_double_eq(got.amax, want.amax);
  ck_assert_uint_eq(got.nonzero, want.nonzero);
  for (int f = 0; f < MPRT__RANGE_FORMATS; f++) {
    ck_assert_uint_eq(got.saturated[f], want.saturated[f]);
    ck_assert_uint_eq(got.lost[f], want.lost[f]);
  }
  mprt__pool_destroy(pool);
  free(data);
}

static const DType dtypes[] = {MPCC_F64, MPCC_F32, MPCC_BF16, MPCC_F16};

START_TEST(counts_are_those_of_rounding) {
  check_counts(dtypes[_i], 0);
  check_counts(dtypes[_i], 0x1p-3); /* powers of two over 448 and 57344 divide without a trace */
  check_counts(dtypes[_i], 448);
}
END_TEST

START_TEST(what_is_not_finite_shows) {
  const double bad[] = {INFINITY, -INFINITY, NAN};
  mprt__pool *pool;
  ck_assert_int_eq(mprt__pool_create(1, 64, &pool), MPCC_OK);
  for (int k = 0; k < 3; k++) {
    uint8_t data[64 * 8] = {0};
    num_store(data + 9 * dtype_bytes(dtypes[_i]), dtypes[_i], bad[k]);
    mprt__range_counts c = mprt__range_count(pool, data, 64, dtypes[_i], 1);
    ck_assert(!isfinite(c.amax));
    ck_assert_uint_eq(c.nonzero, 1);
  }
  mprt__pool_destroy(pool);
}
END_TEST

int main(void) {
  Suite *s = suite_create("ranges");
  TCase *t = tcase_create("all");
  suite_add_tcase(s, t);
  tcase_add_loop_test(t, counts_are_those_of_rounding, 0, 4);
  tcase_add_loop_test(t, what_is_not_finite_shows, 0, 4);
  return check_run(s);
}
