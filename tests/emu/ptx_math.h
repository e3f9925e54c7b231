/* What one lane computes where C has no operator for it. Inline, and free of branches where it is
 * hot, so that the loops over 32 lanes become vectors.
 *
 * Approximate instructions: the values here are within 2 units of the last place of the exact one,
 * as the device's are; the bits differ from the device's (gpu.md of the design says what only a GPU
 * can show). */
#ifndef EMU_PTX_MATH_H
#define EMU_PTX_MATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "mpcc/num.h"

static inline uint32_t float_bits(float v) {
  uint32_t u;
  memcpy(&u, &v, 4);
  return u;
}
static inline float bits_float(uint32_t u) {
  float v;
  memcpy(&v, &u, 4);
  return v;
}

#define signbit_of(x) (__builtin_signbit(x) != 0)

/* Subnormal numbers become zeros of their sign (.ftz). */
static inline float flush(float v) {
  const uint32_t u = float_bits(v);
  return (u & 0x7F800000) == 0 ? bits_float(u & 0x80000000) : v;
}

/* The NaN of every f32 result: payloads are not kept, and the sign is not that of x86. PTX ISA. */
static inline float one_nan(float v) {
  return v == v ? v : bits_float(0x7FFFFFFF);
}

/* Of a number and a NaN the number; -0 is below +0. */
#define EXTREMES(type, suffix)                                                                     \
  static inline type smaller_##suffix(type a, type b) {                                            \
    return a != a ? b : b != b ? a : a < b ? a : b < a ? b : signbit_of(a) ? a : b;                \
  }                                                                                                \
  static inline type larger_##suffix(type a, type b) {                                             \
    return a != a ? b : b != b ? a : a > b ? a : b > a ? b : signbit_of(a) ? b : a;                \
  }
EXTREMES(float, f32)
EXTREMES(double, f64)
#undef EXTREMES

/* ---- directed rounding ---- */
enum { TOWARD_ZERO, DOWN, UP };

/* r + rest, |rest| below half a unit of r's last place, as f32 rounded in one direction. */
static inline float narrow_directed(double r, double rest, int way) {
  float f = (float)r;
  if (!isfinite(r))
    return f;
  /* Sign of (exact value - f). */
  const double gap = r - (double)f;
  const int side = gap > 0 ? 1 : gap < 0 ? -1 : rest > 0 ? 1 : rest < 0 ? -1 : 0;
  const bool negative = r < 0 || (r == 0 && rest < 0);
  if (isinf(f))
    return way == UP && !negative ? f : way == DOWN && negative ? f : copysignf(0x1.fffffep127f, f);
  if (side > 0 && (way == UP || (way == TOWARD_ZERO && negative)))
    return nextafterf(f, INFINITY);
  if (side < 0 && (way == DOWN || (way == TOWARD_ZERO && !negative)))
    return nextafterf(f, -INFINITY);
  return f;
}
/* Sum in double and its exact error: Knuth, TAOCP vol. 2, sec. 4.2.2, theorem B. */
static inline float sum_directed(double a, double b, int way) {
  const double s = a + b;
  if (s == 0 && way == DOWN) /* IEEE 754, sec. 6.3: a sum that cancels is -0 there */
    return __builtin_signbit(a) || __builtin_signbit(b) ? -0.0f : 0.0f;
  const double t = s - a, rest = (a - (s - t)) + (b - t);
  return narrow_directed(s, isfinite(s) ? rest : 0, way);
}
static inline float add_directed(float a, float b, int way) {
  return sum_directed((double)a, (double)b, way);
}
static inline float fma_directed(float a, float b, float c, int way) {
  return sum_directed((double)a * (double)b, (double)c, way); /* the product is exact */
}

/* To [0, 1]; NaN is +0 (PTX ISA, "fma"). */
static inline float saturated(float a) {
  return a != a || a < 0 ? 0 : a > 1 ? 1 : a;
}

/* ---- approximations ---- */

/* 2^x: Taylor series of 2^f on [-1/2, 1/2], whose rest is below 2^-27, times a power of two in two
 * steps so that subnormal results come out. */
static inline float approx_ex2(float x) {
  const float c = x < -152.0f ? -152.0f : x > 130.0f ? 130.0f : x == x ? x : 0.0f;
  const float n = rintf(c), f = c - n;
  float p = 1.5252734e-5f;
  p = __builtin_fmaf(p, f, 1.5403530e-4f);
  p = __builtin_fmaf(p, f, 1.3333558e-3f);
  p = __builtin_fmaf(p, f, 9.6181291e-3f);
  p = __builtin_fmaf(p, f, 5.5504109e-2f);
  p = __builtin_fmaf(p, f, 2.4022651e-1f);
  p = __builtin_fmaf(p, f, 6.9314718e-1f);
  p = __builtin_fmaf(p, f, 1.0f);
  const int32_t k = (int32_t)n, half = k >> 1;
  const float r =
      p * bits_float((uint32_t)(half + 127) << 23) * bits_float((uint32_t)(k - half + 127) << 23);
  return x == x ? r : x;
}

/* log2 x = e + 2/ln2 atanh((m - 1) / (m + 1)), m in [sqrt 1/2, sqrt 2]. */
static inline float approx_lg2(float x) {
  const bool tiny = x < 0x1p-126f;
  const uint32_t u = float_bits(tiny ? x * 0x1p24f : x);
  const int32_t e = (int32_t)(u - 0x3F3504F3u) >> 23;
  const float m = bits_float(u - ((uint32_t)e << 23));
  const float s = (m - 1.0f) / (m + 1.0f), z = s * s;
  float p = 0.32059889f; /* 2 / (9 ln 2) */
  p = __builtin_fmaf(p, z, 0.41219859f);
  p = __builtin_fmaf(p, z, 0.57707802f);
  p = __builtin_fmaf(p, z, 0.96179669f);
  p = __builtin_fmaf(p, z, 2.8853901f);
  const float r = __builtin_fmaf(p, s, (float)(e - (tiny ? 24 : 0)));
  return x != x || x < 0 ? NAN : x == 0 ? -INFINITY : x > 0x1.fffffep127f ? x : r;
}

/* ---- integers ---- */
static inline uint32_t bits_reverse(uint32_t a) {
  a = (a & 0x55555555) << 1 | (a >> 1 & 0x55555555);
  a = (a & 0x33333333) << 2 | (a >> 2 & 0x33333333);
  a = (a & 0x0F0F0F0F) << 4 | (a >> 4 & 0x0F0F0F0F);
  return __builtin_bswap32(a);
}
static inline uint32_t bytes_permute(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t all = (uint64_t)b << 32 | a;
  uint32_t r = 0;
  for (int k = 0; k < 4; k++) {
    const uint32_t pick = selector >> (4 * k) & 15;
    uint32_t byte = (uint32_t)(all >> (8 * (pick & 7))) & 255;
    if (pick & 8) /* the sign, copied over the byte */
      byte = byte & 128 ? 255 : 0;
    r |= byte << (8 * k);
  }
  return r;
}
static inline uint32_t bits_mask(uint32_t n) {
  return n > 31 ? UINT32_MAX : (1u << n) - 1;
}
static inline uint32_t bits_insert(uint32_t field, uint32_t into, uint32_t at, uint32_t n) {
  at &= 255, n &= 255;
  if (at > 31)
    return into;
  const uint32_t mask = bits_mask(n) << at;
  return (into & ~mask) | (field << at & mask);
}
static inline uint64_t bits_insert_wide(uint64_t field, uint64_t into, uint32_t at, uint32_t n) {
  at &= 255, n &= 255;
  if (at > 63)
    return into;
  const uint64_t mask = (n > 63 ? UINT64_MAX : (UINT64_C(1) << n) - 1) << at;
  return (into & ~mask) | (field << at & mask);
}
static inline uint32_t bits_extract(uint32_t a, uint32_t at, uint32_t n) {
  at &= 255, n &= 255;
  return at > 31 ? 0 : a >> at & bits_mask(n);
}
static inline uint32_t bits_extract_signed(uint32_t a, uint32_t at, uint32_t n) {
  at &= 255, n &= 255;
  if (!n)
    return 0;
  const uint32_t last = at + n - 1 > 31 ? 31 : at + n - 1, sign = a >> last & 1;
  const uint32_t low = bits_extract(a, at, n), have = at > 31 ? 0 : last - at + 1;
  return sign && have < 32 ? low | ~bits_mask(have) : low;
}
static inline uint32_t lop3(uint32_t a, uint32_t b, uint32_t c, uint32_t table) {
  uint32_t r = 0;
  for (uint32_t k = 0; k < 8; k++)
    if (table >> k & 1)
      r |= (k & 4 ? a : ~a) & (k & 2 ? b : ~b) & (k & 1 ? c : ~c);
  return r;
}
static inline int32_t dot4(int32_t a, int32_t b, int32_t c) {
  uint32_t r = (uint32_t)c;
  for (int k = 0; k < 4; k++)
    r += (uint32_t)((int8_t)((uint32_t)a >> (8 * k)) * (int8_t)((uint32_t)b >> (8 * k)));
  return (int32_t)r;
}

/* ---- floating point to integers: rounded already; out of range saturates, NaN gives 0 (64-bit
 * kinds: the sign bit alone, as the ISA says) ---- */
#define TO_INT(name, type, lo, above, top, nan)                                                    \
  static inline type name(double v) {                                                              \
    return v != v ? (nan) : v <= (lo) ? (type)(lo) : v >= (above) ? (top) : (type)v;               \
  }
TO_INT(to_s8, int8_t, -128.0, 128.0, INT8_MAX, 0)
TO_INT(to_u8, uint8_t, 0.0, 256.0, UINT8_MAX, 0)
TO_INT(to_s16, int16_t, -32768.0, 32768.0, INT16_MAX, 0)
TO_INT(to_u16, uint16_t, 0.0, 65536.0, UINT16_MAX, 0)
TO_INT(to_s32, int32_t, -0x1p31, 0x1p31, INT32_MAX, 0)
TO_INT(to_u32, uint32_t, 0.0, 0x1p32, UINT32_MAX, 0)
TO_INT(to_s64, int64_t, -0x1p63, 0x1p63, INT64_MAX, INT64_MIN)
TO_INT(to_u64, uint64_t, 0.0, 0x1p64, UINT64_MAX, UINT64_C(1) << 63)
#undef TO_INT

/* ---- narrow formats: NaN becomes the one code that cvt gives --------------------------------- */
static inline uint16_t bf16_code(float v) {
  const uint32_t u = float_bits(v);
  return (u & 0x7FFFFFFF) > 0x7F800000 ? 0x7FFF : (uint16_t)((u + 0x7FFF + (u >> 16 & 1)) >> 16);
}
static inline uint16_t half_code(float v) {
  return v != v ? 0x7FFF : num_f32_to_f16(v);
}
static inline uint16_t half_code_toward_zero(float v) {
  const uint16_t c = half_code(v);
  return v == v && fabsf(num_f16_to_f32(c)) > fabsf(v) ? (uint16_t)(c - 1) : c;
}
/* f16 to f32: the exponent is rebased by a product, which also makes subnormals normal. */
static inline float half_value(uint32_t c) {
  const uint32_t magnitude = (c & 0x7FFF) << 13;
  const float v = bits_float(magnitude) * 0x1p112f;
  const uint32_t u = (c & 0x7C00) == 0x7C00 ? magnitude | 0x7F800000 : float_bits(v);
  return bits_float(u | (c & 0x8000) << 16);
}
static inline uint32_t half_pair(float high, float low) {
  return (uint32_t)half_code(high) << 16 | half_code(low);
}
/* 8-bit formats, saturating to the largest finite number. Normal: round the bits; subnormal: adding
 * 2^(23 + exponent of the smallest step) leaves the count of steps in the low bits. */
static inline uint32_t small_code(float v, int mantissa_bits, int bias, uint32_t max_code,
                                  float max) {
  const uint32_t sign = float_bits(v) >> 31 << 7;
  const float a = fabsf(v) > max ? max : fabsf(v);
  const uint32_t u = float_bits(a), cut = 23 - (uint32_t)mantissa_bits;
  const uint32_t rounded = (u + (1u << (cut - 1)) - 1 + (u >> cut & 1)) >> cut;
  const uint32_t normal = rounded - ((uint32_t)(127 - bias) << mantissa_bits);
  const float magic = bits_float((uint32_t)(127 + 23 + 1 - bias - mantissa_bits) << 23);
  const uint32_t subnormal = float_bits(a + magic) - float_bits(magic);
  const float smallest = bits_float((uint32_t)(127 + 1 - bias) << 23);
  uint32_t code = a < smallest ? subnormal : normal;
  code = code > max_code ? max_code : code;
  return v != v ? 0x7F : sign | code;
}
static inline uint32_t e4m3_code(float v) {
  return small_code(v, 3, 7, 0x7E, 448.0f);
}
static inline uint32_t e5m2_code(float v) {
  return small_code(v, 2, 15, 0x7B, 57344.0f);
}
/* tf32: f32 with 10 bits of mantissa; ties away from zero (rna), ties to even (rn). */
static inline uint32_t tf32_code(float v) {
  const uint32_t u = float_bits(v);
  return (u & 0x7F800000) == 0x7F800000 ? u : (u + 0x1000) & ~0x1FFFu;
}
static inline uint32_t tf32_code_even(float v) {
  const uint32_t u = float_bits(v);
  return (u & 0x7F800000) == 0x7F800000 ? u : (u + 0xFFF + (u >> 13 & 1)) & ~0x1FFFu;
}

#endif
