/* Number conversions: every code of the narrow formats, edge cases, rounding against an independent
 * search for the nearest value, stochastic rounding. */
#include <math.h>
#include <stdlib.h>

#include "mpcc/num.h"
#include "tests/check_run.h"

static const DType narrow[] = {MPCC_BF16, MPCC_F16, MPCC_E4M3, MPCC_E5M2};

static uint32_t encode(double v, DType d) {
  uint32_t code = 0;
  num_store(&code, d, v);
  return code;
}

static double decode(uint32_t code, DType d) {
  return num_load(&code, d);
}

static uint32_t codes(DType d) {
  return 1u << dtype_info(d)->bits;
}

/* Value of a code by the definition of its format: IEEE 754 interchange formats, and OFP8. */
static double defined(uint32_t code, DType d) {
  const int m = dtype_info(d)->mantissa_bits, e = dtype_info(d)->exponent_bits;
  const int bias = (1 << (e - 1)) - 1;
  const int exponent = (int)(code >> m) & ((1 << e) - 1), mantissa = (int)code & ((1 << m) - 1);
  const double sign = code >> (m + e) ? -1 : 1;
  if (d == MPCC_E4M3 ? exponent == 15 && mantissa == 7 : exponent == (1 << e) - 1)
    return d == MPCC_E4M3 || mantissa ? NAN : sign * INFINITY;
  return sign * (exponent ? ldexp(1 + ldexp(mantissa, -m), exponent - bias)
                          : ldexp(mantissa, 1 - bias - m));
}

START_TEST(codes_decode_and_round_trip) {
  for (size_t i = 0; i < sizeof narrow / sizeof narrow[0]; i++) {
    const DType d = narrow[i];
    for (uint32_t c = 0; c < codes(d); c++) {
      const double v = decode(c, d), want = defined(c, d);
      if (isnan(want)) {
        ck_assert_msg(isnan(v), "%s %04x", dtype_text(d), c);
        ck_assert(isnan(decode(encode(v, d), d)));
        ck_assert(isnan(num_round(v, d)));
        continue;
      }
      ck_assert_msg(v == want && !signbit(v) == !signbit(want), "%s %04x is %g, want %g",
                    dtype_text(d), c, v, want);
      /* infinities saturate in e5m2 */
      if (isinf(v) && dtype_is_fp8(d)) {
        ck_assert_uint_eq(encode(v, d), v > 0 ? 0x7B : 0xFB);
        continue;
      }
      ck_assert_msg(encode(v, d) == c, "%s %04x gives %04x", dtype_text(d), c, encode(v, d));
      ck_assert(num_round(v, d) == v);
    }
  }
}
END_TEST

START_TEST(nan_keeps_payload_quieted) {
  for (uint32_t c = 0; c < 65536; c++) {
    if (isnan(decode(c, MPCC_BF16)))
      ck_assert_uint_eq(encode(decode(c, MPCC_BF16), MPCC_BF16), c | 0x40);
    if (isnan(decode(c, MPCC_F16)))
      ck_assert_uint_eq(encode(decode(c, MPCC_F16), MPCC_F16), c | 0x200);
    ck_assert_uint_eq(num_f32_to_bf16(num_bf16_to_f32((uint16_t)c)),
                      isnan(num_bf16_to_f32((uint16_t)c)) ? c | 0x40 : c);
  }
}
END_TEST

typedef struct {
  double value;
  uint32_t code;
} Edge;

static void check_edges(DType d, const Edge *edge, size_t n) {
  for (size_t i = 0; i < n; i++) {
    const uint32_t got = encode(edge[i].value, d);
    ck_assert_msg(got == edge[i].code, "%s of %.17g is %04x, want %04x", dtype_text(d),
                  edge[i].value, got, edge[i].code);
  }
}
#define CHECK_EDGES(d, list) check_edges(d, list, sizeof list / sizeof list[0])

/* Ties, limits and specials; fp8 saturates also for infinity and keeps NaN. */
START_TEST(edges) {
  const Edge e4m3[] = {{0.1, 0x1D},
                       {0.3, 0x2A},
                       {1, 0x38},
                       {1.0625, 0x38},
                       {1.1875, 0x3A},
                       {3.141592653589793, 0x45},
                       {17, 0x58},
                       {18, 0x59},
                       {19, 0x5A},
                       {100, 0x6C},
                       {240, 0x77},
                       {448, 0x7E},
                       {449, 0x7E},
                       {464, 0x7E},
                       {464.01, 0x7E},
                       {480, 0x7E},
                       {1e6, 0x7E},
                       {INFINITY, 0x7E},
                       {-INFINITY, 0xFE},
                       {NAN, 0x7F},
                       {-NAN, 0x7F},
                       {0x1p-6, 0x08},
                       {0.013671875, 0x07},
                       {0x1p-9, 0x01},
                       {0x1p-10, 0x00},
                       {0x1.000002p-10, 0x01},
                       {0x1.0000000000001p-10, 0x01},
                       {0.0029296875, 0x02},
                       {0.0048828125, 0x02},
                       {-0.0, 0x80},
                       {-0x1p-10, 0x80}};
  CHECK_EDGES(MPCC_E4M3, e4m3);
  const Edge e5m2[] = {{0.1, 0x2E},     {1, 0x3C},        {1.125, 0x3C},     {1.375, 0x3E},
                       {4.5, 0x44},     {5, 0x45},        {5.5, 0x46},       {0x1p-16, 0x01},
                       {57344, 0x7B},   {61439, 0x7B},    {61440, 0x7B},     {65536, 0x7B},
                       {1e300, 0x7B},   {INFINITY, 0x7B}, {-INFINITY, 0xFB}, {NAN, 0x7F},
                       {0x1p-14, 0x04}, {0x1p-17, 0x00},  {0x1.8p-16, 0x02}, {0x1.4p-15, 0x02}};
  CHECK_EDGES(MPCC_E5M2, e5m2);
  const Edge e2m1[] = {{0.25, 0},     {0.2500001, 1}, {0.75, 2}, {1.25, 2},       {1.75, 4},
                       {2.5, 4},      {3.5, 6},       {5, 6},    {5.001, 7},      {7, 7},
                       {INFINITY, 7}, {NAN, 7},       {-NAN, 7}, {-INFINITY, 15}, {-0.0, 8},
                       {-1e300, 15},  {-0.3, 9},      {0.5, 1},  {-6, 15}};
  CHECK_EDGES(MPCC_E2M1, e2m1);
  const Edge e8m0[] = {{0, 0x00},
                       {-0.0, 0x00},
                       {0.75, 0x7F},
                       {1, 0x7F},
                       {1.5, 0x80},
                       {2, 0x80},
                       {1.0 / 448, 0x77},
                       {-2, 0x80},
                       {0x1p127, 0xFE},
                       {0x1.8p127, 0xFE},
                       {INFINITY, 0xFE},
                       {NAN, 0xFF},
                       {0x1p-127, 0x00},
                       {0x1.2p-127, 0x01},
                       {5e-324, 0x00},
                       {1e300, 0xFE},
                       {0x1.0000000000001p0, 0x80}};
  CHECK_EDGES(MPCC_E8M0, e8m0);
  for (uint32_t c = 0; c < 255; c++) {
    ck_assert(decode(c, MPCC_E8M0) == ldexp(1, (int)c - 127));
    ck_assert_uint_eq(encode(decode(c, MPCC_E8M0), MPCC_E8M0), c);
  }
  static const double e2m1_values[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  for (uint32_t c = 0; c < 16; c++) {
    double v = c & 8 ? -e2m1_values[c & 7] : e2m1_values[c & 7];
    ck_assert(decode(c, MPCC_E2M1) == v && encode(v, MPCC_E2M1) == c);
  }
  ck_assert(isnan(decode(0xFF, MPCC_E8M0)));
  const Edge f16[] = {
      {0.1, 0x2E66},    {1.0 / 3, 0x3555}, {0x1p-25, 0x0000}, {0x1.0000000000001p-25, 0x0001},
      {2049, 0x6800},   {65519, 0x7BFF},   {65520, 0x7C00},   {-65520, 0xFC00},
      {5e-324, 0x0000}, {-5e-324, 0x8000}, {1e300, 0x7C00}};
  CHECK_EDGES(MPCC_F16, f16);
  const Edge bf16[] = {{0.1, 0x3DCD},
                       {1.0 / 3, 0x3EAB},
                       {257, 0x4380},
                       {1.00390625, 0x3F80},
                       {1.01171875, 0x3F82},
                       {3.3895314e38, 0x7F7F},
                       {(double)3.3961775e38f, 0x7F80},
                       {0x1p-133, 0x0001},
                       {0x1p-134, 0x0000},
                       {INFINITY, 0x7F80},
                       {-INFINITY, 0xFF80}};
  CHECK_EDGES(MPCC_BF16, bf16);
}
END_TEST

/* A value that float would first round to a tie: one rounding goes up, two go to even. */
START_TEST(no_double_rounding) {
  ck_assert_uint_eq(encode(1 + 0x1p-8 + 0x1p-40, MPCC_BF16), 0x3F81);
  ck_assert_uint_eq(encode(1 + 0x1p-11 + 0x1p-40, MPCC_F16), 0x3C01);
  ck_assert_uint_eq(encode(1 + 0x1p-4 + 0x1p-40, MPCC_E4M3), 0x39);
  ck_assert_uint_eq(encode(1 + 0x1p-3 + 0x1p-40, MPCC_E5M2), 0x3D);
}
END_TEST

static uint64_t next_random(uint64_t *state) {
  *state ^= *state << 13;
  *state ^= *state >> 7;
  *state ^= *state << 17;
  return *state;
}

/* Between neighbouring codes: below, at and above the middle. */
START_TEST(halves_round_to_even) {
  for (size_t i = 0; i < sizeof narrow / sizeof narrow[0]; i++) {
    const DType d = narrow[i];
    for (uint32_t c = 0; c + 1 < codes(d) / 2; c++) {
      const double lo = defined(c, d), hi = defined(c + 1, d);
      if (!isfinite(lo) || !isfinite(hi))
        break;
      const double middle = (lo + hi) / 2; /* exact in double */
      ck_assert_uint_eq(encode(middle, d), c + (c & 1));
      ck_assert_uint_eq(encode(nextafter(middle, 0), d), c);
      ck_assert_uint_eq(encode(nextafter(middle, hi), d), c + 1);
      ck_assert_uint_eq(encode(-middle, d), (c + (c & 1)) | codes(d) / 2);
      ck_assert(num_round(middle, d) == defined(c + (c & 1), d));
    }
  }
}
END_TEST

/* The hardware's conversion of double to float is the judge of the f32 encoding. */
START_TEST(f32_matches_hardware) {
  uint64_t state = 88172645463325252u;
  for (int i = 0; i < 1000000; i++) {
    const uint64_t bits = next_random(&state);
    double v = num_f64_from_bits(bits);
    if (i & 1) /* most doubles are far outside of float's range */
      v = ldexp(1 + (double)(bits >> 12) * 0x1p-52, (int)(bits % 300) - 160);
    const uint32_t code = num_encode_as(v, num_format(MPCC_F32), false, 0);
    if (isnan(v))
      ck_assert(isnan(num_f32_from_bits(code)));
    else
      ck_assert_msg(code == num_f32_bits((float)v), "%a", v);
    const float f = num_f32_from_bits((uint32_t)bits);
    if (!isnan(f)) {
      ck_assert_uint_eq(num_f32_to_bf16(f), num_f64_to_bf16((double)f));
      ck_assert_uint_eq(num_f32_to_e4m3(f), num_f64_to_e4m3((double)f));
    }
  }
}
END_TEST

START_TEST(stochastic) {
  for (size_t i = 0; i < sizeof narrow / sizeof narrow[0]; i++) {
    const DType d = narrow[i];
    const NumFormat f = num_format(d);
    for (uint32_t c = 0; c + 1 < codes(d) / 2; c += d == MPCC_BF16 || d == MPCC_F16 ? 97 : 1) {
      const double lo = defined(c, d), hi = defined(c + 1, d);
      if (!isfinite(lo) || !isfinite(hi))
        break;
      /* a quarter above lo: up for the top quarter of the random words, exactly */
      const double v = lo + (hi - lo) * 0.25;
      ck_assert_uint_eq(num_encode_as(lo, f, true, 0xFFFFFFFF), c);
      ck_assert_uint_eq(num_encode_as(v, f, true, 0), c);
      ck_assert_uint_eq(num_encode_as(v, f, true, 0xBFFFFFFF), c);
      ck_assert_uint_eq(num_encode_as(v, f, true, 0xC0000000), c + 1);
      ck_assert_uint_eq(num_encode_as(-v, f, true, 0xC0000000), (c + 1) | codes(d) / 2);
    }
    /* a 2^-20th of the smallest number: up with probability 2^-20 */
    const double tiny = defined(1, d) * 0x1p-20;
    ck_assert_uint_eq(num_encode_as(tiny, f, true, 0xFFFFEFFF), 0);
    ck_assert_uint_eq(num_encode_as(tiny, f, true, 0xFFFFF000), 1);
    ck_assert_uint_eq(num_encode_as(1e-300, f, true, 0xFFFFFFFF), 0);
  }
  ck_assert_uint_eq(num_f32_to_e4m3_sr(1e9f, 0), 0x7E);
  ck_assert_uint_eq(num_f32_to_e5m2_sr(-INFINITY, 7), 0xFB);
  ck_assert_uint_eq(num_f32_to_bf16_sr(1.0f, 0xFFFFFFFF), 0x3F80);
  ck_assert_uint_eq(num_f32_to_f16_sr(65519.0f, 0xFFFFFFFF), 0x7C00);
}
END_TEST

START_TEST(integers) {
  ck_assert_double_eq(num_round(2.9, MPCC_I64), 2);
  ck_assert_double_eq(num_round(-2.9, MPCC_I32), -2);
  ck_assert_double_eq(num_round(300, MPCC_U8), 255);
  ck_assert_double_eq(num_round(-1, MPCC_U8), 0);
  ck_assert_double_eq(num_round(NAN, MPCC_I32), 0);
  ck_assert_double_eq(num_round(0.5, MPCC_B1), 1);
  ck_assert_double_eq(num_round(1e10, MPCC_I32), 2147483647);
  int64_t big = 0;
  num_store(&big, MPCC_I64, 1e30);
  ck_assert(big == INT64_MAX);
  num_store(&big, MPCC_I64, -1e30);
  ck_assert(big == INT64_MIN);
  int32_t small = 0;
  num_store(&small, MPCC_I32, -7.5);
  ck_assert_int_eq(small, -7);
  ck_assert_double_eq(num_load(&small, MPCC_I32), -7);
  double wide = 0;
  num_store(&wide, MPCC_F64, 0.1);
  ck_assert(wide == 0.1 && num_load(&wide, MPCC_F64) == 0.1);
}
END_TEST

/* The facts of dtype.def are those of the encoding. */
START_TEST(table_agrees) {
  for (size_t i = 0; i < sizeof narrow / sizeof narrow[0]; i++) {
    const DType d = narrow[i];
    const DTypeInfo *info = dtype_info(d);
    ck_assert(defined(num_format(d).max, d) == info->max_finite);
    ck_assert(defined(1u << info->mantissa_bits, d) == info->min_normal);
    ck_assert(num_round(1 + info->eps, d) == 1 + info->eps);
    ck_assert(num_round(1 + info->eps / 2, d) == 1);
  }
}
END_TEST

int main(void) {
  Suite *s = suite_create("num");
  TCase *t = tcase_create("num");
  tcase_set_timeout(t, 300);
  tcase_add_test(t, codes_decode_and_round_trip);
  tcase_add_test(t, nan_keeps_payload_quieted);
  tcase_add_test(t, edges);
  tcase_add_test(t, no_double_rounding);
  tcase_add_test(t, halves_round_to_even);
  tcase_add_test(t, f32_matches_hardware);
  tcase_add_test(t, stochastic);
  tcase_add_test(t, integers);
  tcase_add_test(t, table_agrees);
  suite_add_tcase(s, t);
  return check_run(s);
}
