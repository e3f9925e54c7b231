/* Conversions between number formats: the only ones in C, shared by compiler and runtime.
 *
 * Rounding is to nearest, ties to even, once: from double as well as from float, so there is no
 * double rounding. Overflow is decided after rounding: f32, f16 and bf16 go to infinity; e4m3 and
 * e5m2 saturate to their largest finite value, infinities included [N2]. NaN stays NaN: f16 and
 * bf16 keep sign and leading payload bits, quieted (as IEEE 754 hardware does); the 8-bit formats
 * have the one code 0x7F; e2m1 saturates too and has no NaN: it becomes 6. e8m0, a power of two,
 * rounds up instead and takes no notice of the sign: 0 becomes 2^-127, NaN 0xFF. Formats:
 * dtype.def. Source: IEEE 754-2019 sec. 4.3, OFP8 v1.0, MX v1.0; the rounding of e8m0 is that of
 * block scales in practice. */
#ifndef MPCC_NUM_H
#define MPCC_NUM_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "mpcc/base.h"

#ifdef __cplusplus
extern "C" {
#endif

static inline uint64_t num_f64_bits(double v) {
  uint64_t u;
  memcpy(&u, &v, sizeof u);
  return u;
}

static inline double num_f64_from_bits(uint64_t u) {
  double v;
  memcpy(&v, &u, sizeof v);
  return v;
}

static inline uint32_t num_f32_bits(float v) {
  uint32_t u;
  memcpy(&u, &v, sizeof u);
  return u;
}

static inline float num_f32_from_bits(uint32_t u) {
  float v;
  memcpy(&v, &u, sizeof v);
  return v;
}

/* A narrow format: `inf` is the code an overflow gives, `max` the largest finite code. */
typedef struct {
  int ebits, mbits;
  uint32_t max, inf;
} NumFormat;

/* Formats by value, so that each use folds to constants. The 8-bit ones saturate: inf == max. */
static inline NumFormat num_format(DType d) {
  const NumFormat f32 = {8, 23, 0x7F7FFFFF, 0x7F800000}, bf16 = {8, 7, 0x7F7F, 0x7F80},
                  f16 = {5, 10, 0x7BFF, 0x7C00}, e4m3 = {4, 3, 0x7E, 0x7E},
                  e5m2 = {5, 2, 0x7B, 0x7B}, e2m1 = {2, 1, 7, 7};
  return d == MPCC_F32    ? f32
         : d == MPCC_BF16 ? bf16
         : d == MPCC_F16  ? f16
         : d == MPCC_E4M3 ? e4m3
         : d == MPCC_E2M1 ? e2m1
                          : e5m2;
}

/* Code of the NaN that NaN v becomes. */
static inline uint32_t num_encode_nan(uint64_t bits, NumFormat f) {
  if (f.inf == f.max)
    return f.ebits == 2 ? f.max : 0x7F;
  uint32_t sign = (uint32_t)(bits >> 63) << (f.ebits + f.mbits);
  uint32_t payload = (uint32_t)(bits >> (52 - f.mbits)) & ((1u << f.mbits) - 1);
  return sign | f.inf | payload | 1u << (f.mbits - 1);
}

/* Code of v in a format of at most 32 bits (not f64). With `stochastic`, the bits cut off are a
 * probability: the result goes away from zero when they plus `random` (uniform 32 bits) carry;
 * representable values never move. Unbiased to 2^-32 of the last place. */
static inline uint32_t num_encode_as(double v, NumFormat f, bool stochastic, uint32_t random) {
  const uint64_t bits = num_f64_bits(v), magnitude = bits & 0x7FFFFFFFFFFFFFFFu;
  const uint32_t sign = (uint32_t)(bits >> 63) << (f.ebits + f.mbits);
  if (magnitude > 0x7FF0000000000000u)
    return num_encode_nan(bits, f);
  const int e = (int)(magnitude >> 52) - 1023, emin = 2 - (1 << (f.ebits - 1));
  if (e < -1022)
    return sign; /* zero, or a double subnormal: far below half of every format's smallest number */
  uint64_t m = (magnitude & 0xFFFFFFFFFFFFFu) | 0x10000000000000u;
  /* v = m 2^(e-52); q counts units of the last place, 2^(max(e, emin) - mbits). */
  int shift = 52 - f.mbits + (e < emin ? emin - e : 0);
  uint64_t q;
  if (stochastic) {
    if (shift > 63) { /* bits below 2^31 of the sum cannot carry: nothing is lost */
      m = shift - 63 < 64 ? m >> (shift - 63) : 0;
      shift = 63;
    }
    q = (m + (shift >= 32 ? (uint64_t)random << (shift - 32) : random >> (32 - shift))) >> shift;
  } else {
    if (shift > 54)
      return sign;
    const uint64_t rest = m & ((UINT64_C(1) << shift) - 1), half = UINT64_C(1) << (shift - 1);
    q = m >> shift;
    q += rest > half || (rest == half && (q & 1));
  }
  /* A normal q has its leading bit at mbits, which adds one to the exponent field; so does a carry.
   */
  const uint64_t code = ((uint64_t)(e < emin ? 0 : e - emin) << f.mbits) + q;
  return sign | (code > f.max ? f.inf : (uint32_t)code);
}

/* Value of a code of f16, bf16, e4m3 or e5m2; exact. */
static inline double num_decode_as(uint32_t code, NumFormat f) {
  const uint32_t magnitude = code & ((1u << (f.ebits + f.mbits)) - 1);
  const uint64_t sign = (uint64_t)(code >> (f.ebits + f.mbits) & 1) << 63;
  const int bias = (1 << (f.ebits - 1)) - 1;
  const uint32_t top = ((1u << f.ebits) - 1) << f.mbits;
  const uint64_t mantissa = magnitude & ((1u << f.mbits) - 1);
  /* e4m3 and e2m1 have no infinities; e4m3's one NaN is the code after `max`. */
  if (f.ebits == 4 || f.ebits == 2 ? magnitude > f.max : magnitude >= top)
    return num_f64_from_bits(sign | 0x7FF0000000000000u |
                             (f.ebits == 4 ? UINT64_C(1) << 51 : mantissa << (52 - f.mbits)));
  if (magnitude >> f.mbits)
    return num_f64_from_bits(sign |
                             ((uint64_t)(magnitude >> f.mbits) + 1023 - (uint64_t)bias) << 52 |
                             mantissa << (52 - f.mbits));
  const double unit = num_f64_from_bits((uint64_t)(1024 - bias - f.mbits) << 52);
  return num_f64_from_bits(num_f64_bits((double)mantissa * unit) | sign);
}

/* Code of the power of two at or above |v|, at most 2^127. */
static inline uint8_t num_f64_to_e8m0(double v) {
  const uint64_t magnitude = num_f64_bits(v) & 0x7FFFFFFFFFFFFFFFu;
  if (magnitude > 0x7FF0000000000000u)
    return 0xFF;
  const int e = (int)(magnitude >> 52) - 1023 + ((magnitude & 0xFFFFFFFFFFFFFu) != 0);
  return (uint8_t)(e < -127 ? 0 : e > 127 ? 254 : e + 127);
}
static inline double num_e8m0_to_f64(uint8_t c) {
  return num_f64_from_bits(c == 0xFF ? 0x7FF8000000000000u : (uint64_t)(c + 1023 - 127) << 52);
}

/* v with the exponent of FP32 and 10 bits of mantissa, as the operands of TF32 products have: nearest,
 * ties to even [N1, N3]. */
static inline double num_tf32(double v) {
  const NumFormat f = {8, 10, 0x3FBFF, 0x3FC00};
  return num_decode_as(num_encode_as(v, f, false, 0), f);
}

static inline uint16_t num_f32_to_bf16(float v) {
  const uint32_t u = num_f32_bits(v);
  if ((u & 0x7FFFFFFF) > 0x7F800000)
    return (uint16_t)(u >> 16 | 0x40);
  return (uint16_t)((u + 0x7FFF + (u >> 16 & 1)) >> 16);
}
static inline float num_bf16_to_f32(uint16_t c) {
  return num_f32_from_bits((uint32_t)c << 16);
}

static inline uint16_t num_f64_to_bf16(double v) {
  return (uint16_t)num_encode_as(v, num_format(MPCC_BF16), false, 0);
}
static inline uint16_t num_f64_to_f16(double v) {
  return (uint16_t)num_encode_as(v, num_format(MPCC_F16), false, 0);
}
static inline uint8_t num_f64_to_e4m3(double v) {
  return (uint8_t)num_encode_as(v, num_format(MPCC_E4M3), false, 0);
}
static inline uint8_t num_f64_to_e5m2(double v) {
  return (uint8_t)num_encode_as(v, num_format(MPCC_E5M2), false, 0);
}
static inline uint16_t num_f32_to_f16(float v) {
  return num_f64_to_f16((double)v);
}
static inline uint8_t num_f32_to_e4m3(float v) {
  return num_f64_to_e4m3((double)v);
}
static inline uint8_t num_f32_to_e5m2(float v) {
  return num_f64_to_e5m2((double)v);
}

static inline float num_f16_to_f32(uint16_t c) {
  return (float)num_decode_as(c, num_format(MPCC_F16));
}
static inline float num_e4m3_to_f32(uint8_t c) {
  return (float)num_decode_as(c, num_format(MPCC_E4M3));
}
static inline float num_e5m2_to_f32(uint8_t c) {
  return (float)num_decode_as(c, num_format(MPCC_E5M2));
}

/* Stochastic rounding with 32 uniform random bits. */
static inline uint16_t num_f32_to_bf16_sr(float v, uint32_t random) {
  return (uint16_t)num_encode_as((double)v, num_format(MPCC_BF16), true, random);
}
static inline uint16_t num_f32_to_f16_sr(float v, uint32_t random) {
  return (uint16_t)num_encode_as((double)v, num_format(MPCC_F16), true, random);
}
static inline uint8_t num_f32_to_e4m3_sr(float v, uint32_t random) {
  return (uint8_t)num_encode_as((double)v, num_format(MPCC_E4M3), true, random);
}
static inline uint8_t num_f32_to_e5m2_sr(float v, uint32_t random) {
  return (uint8_t)num_encode_as((double)v, num_format(MPCC_E5M2), true, random);
}

/* Integer part of v within [lo, hi]; NaN gives 0. hi is exact or one above the largest integer. */
static inline double num_clamp_int(double v, double lo, double hi) {
  return v != v ? 0 : v < lo ? lo : v > hi ? hi : trunc(v);
}

/* Nearest value of format d, as double. Integers: truncated and kept in range; i64 is held as a
 * double, so beyond 2^53 it is the nearest double. b1: 0 or 1. */
static inline double num_round(double v, DType d) {
  switch (d) {
  case MPCC_F32:
    return (double)(float)v;
  case MPCC_BF16:
  case MPCC_F16:
  case MPCC_E4M3:
  case MPCC_E5M2:
  case MPCC_E2M1:
    return num_decode_as(num_encode_as(v, num_format(d), false, 0), num_format(d));
  case MPCC_E8M0:
    return num_e8m0_to_f64(num_f64_to_e8m0(v));
  case MPCC_I64:
    return num_clamp_int(v, -0x1p63, 0x1p63);
  case MPCC_I32:
    return num_clamp_int(v, -2147483648.0, 2147483647.0);
  case MPCC_U8:
    return num_clamp_int(v, 0.0, 255.0);
  case MPCC_B1:
    return v != 0;
  default:
    return v;
  }
}

/* The element of format d at p, which need not be aligned. */
static inline double num_load(const void *p, DType d) {
  union {
    double f64;
    float f32;
    uint16_t u16;
    uint8_t u8;
    int64_t i64;
    int32_t i32;
  } u;
  memset(&u, 0, sizeof u);
  memcpy(&u, p, dtype_bytes(d));
  switch (d) {
  case MPCC_F64:
    return u.f64;
  case MPCC_F32:
    return (double)u.f32;
  case MPCC_BF16:
  case MPCC_F16:
    return num_decode_as(u.u16, num_format(d));
  case MPCC_E4M3:
  case MPCC_E5M2:
  case MPCC_E2M1:
    return num_decode_as(u.u8, num_format(d));
  case MPCC_E8M0:
    return num_e8m0_to_f64(u.u8);
  case MPCC_I64:
    return (double)u.i64;
  case MPCC_I32:
    return u.i32;
  default:
    return u.u8;
  }
}

/* Writes v, rounded as num_round does, to the element of format d at p. */
static inline void num_store(void *p, DType d, double v) {
  union {
    double f64;
    float f32;
    uint16_t u16;
    uint8_t u8;
    int64_t i64;
    int32_t i32;
  } u;
  switch (d) {
  case MPCC_F64:
    u.f64 = v;
    break;
  case MPCC_F32:
    u.f32 = (float)v;
    break;
  case MPCC_BF16:
  case MPCC_F16:
    u.u16 = (uint16_t)num_encode_as(v, num_format(d), false, 0);
    break;
  case MPCC_E4M3:
  case MPCC_E5M2:
  case MPCC_E2M1:
    u.u8 = (uint8_t)num_encode_as(v, num_format(d), false, 0);
    break;
  case MPCC_E8M0:
    u.u8 = num_f64_to_e8m0(v);
    break;
  case MPCC_I64: /* 2^63 itself does not fit */
    v = num_round(v, d);
    u.i64 = v >= 0x1p63 ? INT64_MAX : (int64_t)v;
    break;
  case MPCC_I32:
    u.i32 = (int32_t)num_round(v, d);
    break;
  default:
    u.u8 = (uint8_t)num_round(v, d);
    break;
  }
  memcpy(p, &u, dtype_bytes(d));
}

#ifdef __cplusplus
}
#endif
#endif
