/* Device helpers in front of every CUDA program: number formats bit-equal to mpcc/num.h (of NaN, bf16
 * has one code), elementary functions (macros POLY_<name> of their polynomials are printed before this
 * text from codegen/coeff.h), reductions over lanes and blocks, Philox. No headers. */
typedef long long s64; /* not i64: that is an operand, of kernels that have so many */
typedef unsigned long long u64;
typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;

#define FN static __device__ __forceinline__

/* ---- arithmetic that the compiler may not contract ---- */

FN float add_(float a, float b) { return __fadd_rn(a, b); }
FN double add_(double a, double b) { return __dadd_rn(a, b); }
FN float sub_(float a, float b) { return __fsub_rn(a, b); }
FN double sub_(double a, double b) { return __dsub_rn(a, b); }
FN float mul_(float a, float b) { return __fmul_rn(a, b); }
FN double mul_(double a, double b) { return __dmul_rn(a, b); }
FN float div_(float a, float b) { return __fdiv_rn(a, b); }
FN double div_(double a, double b) { return __ddiv_rn(a, b); }
FN float fma_(float a, float b, float c) { return __fmaf_rn(a, b, c); }
FN double fma_(double a, double b, double c) { return __fma_rn(a, b, c); }
FN s64 add_(s64 a, s64 b) { return a + b; }
FN s64 sub_(s64 a, s64 b) { return a - b; }
FN s64 mul_(s64 a, s64 b) { return a * b; }
FN s64 div_(s64 a, s64 b) { return b ? a / b : 0; } /* by zero gives zero, as on the CPU */
FN float sqrt_(float a) { return __fsqrt_rn(a); }
FN double sqrt_(double a) { return __dsqrt_rn(a); }
FN float abs_(float a) { return __int_as_float(__float_as_int(a) & 0x7fffffff); }
FN double abs_(double a) { return __longlong_as_double(__double_as_longlong(a) & 0x7fffffffffffffffll); }
FN s64 abs_(s64 a) { return a < 0 ? -a : a; }
/* NaN if either is */
template <class T> FN T max_(T a, T b) { return a != a ? a : b != b ? b : a > b ? a : b; }
template <class T> FN T min_(T a, T b) { return a != a ? a : b != b ? b : a < b ? a : b; }
FN float max_(float a, float b) {
  float r;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}
FN float min_(float a, float b) {
  float r;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}
/* NaN is not finite: the comparison is false */
FN bool isfinite_(float a) { return abs_(a) < __int_as_float(0x7f800000); }
FN bool isfinite_(double a) { return abs_(a) < __longlong_as_double(0x7ff0000000000000ll); }
FN bool isfinite_(s64) { return true; }
/* within 2 units in the last place */
FN float div_full(float a, float b) {
  float r;
  asm("div.full.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}
/* By what a loop does not change, so that it has two products only: within 1.5 units. The power of two
 * keeps the reciprocal a normal number. */
FN float div_by_same(float a, float b) {
  const float near = abs_(b) > 0x1p64f ? 0x1p-64f : abs_(b) < 0x1p-64f ? 0x1p64f : 1.0f;
  return a * near * (1.0f / (b * near));
}

/* ---- number formats ---- */

FN float get_bf16(u16 v) { return __uint_as_float((u32)v << 16); }
FN float get_f16(u16 v) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v));
  return f;
}
FN float get_e5m2(u8 v) { return get_f16((u16)(v << 8)); }
FN float get_e2m1(u8 v) { return get_f16((u16)((v & 8) << 12 | (v & 7) << 9)) * 16384.0f; }
FN float get_e8m0(u8 v) { return __uint_as_float(v == 0 ? 0x400000u : v == 255 ? 0x7fc00000u : (u32)v << 23); }
/* An e4m3 code shifted into a half has the same fields but bias 15 instead of 7: times 2^8. */
FN float get_e4m3(u8 v) {
  float f = get_f16((u16)((v & 0x80) << 8 | (v & 0x7f) << 7)) * 256.0f;
  return (v & 0x7f) == 0x7f ? __uint_as_float((u32)(v & 0x80) << 24 | 0x7fc00000u) : f;
}
FN float get_f32(float v) { return v; }
FN double get_f64(double v) { return v; }
FN s64 get_i64(s64 v) { return v; }
FN s64 get_i32(int v) { return v; }
FN s64 get_u8(u8 v) { return v; }
FN bool get_b1(u8 v) { return v != 0; }

/* f64 to f32 rounded to odd: a second rounding to a format at least two bits narrower is then
 * correct (Boldo and Melquiond 2008). */
FN float odd_(double x) {
  float y = __double2float_rz(x);
  return (double)y != x ? __uint_as_float(__float_as_uint(y) | 1u) : y;
}
FN float odd_(float x) { return x; }
FN float odd_(s64 x) { return __ll2float_rn(x); }
FN float odd_(bool x) { return x ? 1.0f : 0.0f; }

template <class T> FN u16 put_bf16(T t) {
  u16 h;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(odd_(t)));
  return h;
}
template <class T> FN u16 put_f16(T t) {
  u16 h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(odd_(t)));
  return h;
}
/* Normal results round by adding half of the last place to the bits; subnormal ones by adding a
 * power of two whose last place is the format's; then saturate, then NaN [N1, N2]. */
template <int MBITS, int BIAS, u32 LARGEST> FN u8 put_fp8(float x) {
  u32 b = __float_as_uint(x), a = b & 0x7fffffffu;
  u32 normal = (a + (u32)((BIAS - 127) * (1 << 23) + (1 << (22 - MBITS)) - 1) + (a >> (23 - MBITS) & 1u)) >> (23 - MBITS);
  const u32 magic = (u32)(127 - BIAS + 23 - MBITS + 1) << 23;
  u32 subnormal = __float_as_uint(__fadd_rn(__uint_as_float(a), __uint_as_float(magic))) - magic;
  u32 code = a < (u32)(128 - BIAS) << 23 ? subnormal : normal < LARGEST ? normal : LARGEST;
  return (u8)(a > 0x7f800000u ? 0x7fu : code | (b >> 24 & 0x80u));
}
template <class T> FN u8 put_e4m3(T t) { return put_fp8<3, 7, 0x7e>(odd_(t)); }
template <class T> FN u8 put_e5m2(T t) { return put_fp8<2, 15, 0x7b>(odd_(t)); }
template <class T> FN u8 put_e2m1(T t) { /* the sign is bit 3; NaN, 0x7f there, becomes 7 */
  u8 code = put_fp8<1, 1, 7>(odd_(t));
  return (u8)((code & 7u) | (code >> 4 & 8u));
}
template <class T> FN u8 put_e8m0(T t) { /* up to a power of two */
  u32 a = __float_as_uint(odd_(t)) & 0x7fffffffu;
  u32 code = a < 0x800000u ? a > 0x400000u : (a + 0x7fffffu) >> 23;
  return (u8)(a > 0x7f800000u ? 255u : code < 254u ? code : 254u);
}
FN float put_f32(float v) { return v; }
FN float put_f32(double v) { return __double2float_rn(v); }
FN float put_f32(s64 v) { return __ll2float_rn(v); }
FN float put_f32(bool v) { return v ? 1.0f : 0.0f; }
template <class T> FN double put_f64(T v) { return (double)v; }
FN s64 put_i64(s64 v) { return v; }
FN s64 put_i64(bool v) { return v; }
FN s64 put_i64(float v) { return v != v ? 0 : __float2ll_rz(v); }
FN s64 put_i64(double v) { return v != v ? 0 : __double2ll_rz(v); }
template <class T> FN int put_i32(T t) {
  s64 v = put_i64(t);
  return (int)(v < -2147483648ll ? -2147483648ll : v > 2147483647ll ? 2147483647ll : v);
}
template <class T> FN u8 put_u8(T t) {
  s64 v = put_i64(t);
  return (u8)(v < 0 ? 0 : v > 255 ? 255 : v);
}
template <class T> FN u8 put_b1(T t) { return t != (T)0; }

/* between registers */
FN s64 cvt_i64(float v) { return put_i64(v); }
FN s64 cvt_i64(double v) { return put_i64(v); }
FN s64 cvt_i64(s64 v) { return v; }
FN s64 cvt_i64(bool v) { return v; }
template <class T> FN float cvt_f32(T v) { return put_f32(v); }
template <class T> FN double cvt_f64(T v) { return (double)v; }
template <class T> FN bool cvt_b1(T v) { return v != (T)0; }

/* ---- elementary functions ----
 * Of doubles as codegen/cpu/math.c has them. Of floats with the approximations of the hardware, since
 * what bounds kernels on a GPU is how many instructions they issue: 2^r within 2 units in the last
 * place, 1 / x within 1 (PTX ISA, "Floating Point Instructions"). */

struct F32 {
  typedef float T;
  typedef int I;
  enum { mbits = 23, bias = 127 };
  FN I bits(T x) { return __float_as_int(x); }
  FN T real(I x) { return __int_as_float(x); }
  FN T exp_q(T r) { return POLY_exp_f32(r); }
  FN T sin_q(T r) { return POLY_sin_f32(r); }
  FN T cos_q(T r) { return POLY_cos_f32(r); }
  FN T erf_q(T r) { return POLY_erf_f32(r); }
  FN T erfc_q(T r) { return POLY_erfc_f32(r); }
};
struct F64 {
  typedef double T;
  typedef s64 I;
  enum { mbits = 52, bias = 1023 };
  FN I bits(T x) { return __double_as_longlong(x); }
  FN T real(I x) { return __longlong_as_double(x); }
  FN T exp_q(T r) { return POLY_exp_f64(r); }
  FN T sin_q(T r) { return POLY_sin_f64(r); }
  FN T cos_q(T r) { return POLY_cos_f64(r); }
  FN T erf_q(T r) { return POLY_erf_f64(r); }
  FN T erfc_q(T r) { return POLY_erfc_f64(r); }
};
template <class T> struct Format_;
template <> struct Format_<float> { typedef F32 F; };
template <> struct Format_<double> { typedef F64 F; };
template <class T> constexpr bool wide_ = sizeof(T) == 8;

/* the order of the comparisons lets NaN pass */
template <class T> FN T at_most(T x, T h) { return x > h ? h : x; }
template <class T> FN T at_least(T x, T l) { return x < l ? l : x; }
template <class T> FN T with_sign_of(T m, T x) {
  typedef typename Format_<T>::F F;
  typedef typename F::I I;
  const I sign = (I)((I)1 << (sizeof(T) * 8 - 1));
  return F::real(F::bits(m) | (F::bits(x) & sign));
}

/* t > split ? a : b: of two long floats too without the branch that the compiler would take */
FN float above(float t, float split, float a, float b) {
  float r;
  asm("{\n.reg .pred p;\nsetp.gt.f32 p, %1, %2;\nselp.f32 %0, %3, %4, p;\n}" : "=f"(r) : "f"(t), "f"(split), "f"(a), "f"(b));
  return r;
}
FN double above(double t, double split, double a, double b) { return t > split ? a : b; }

/* x = n ln 2 + r: r is returned */
template <class T> FN T reduce_exp(T x, typename Format_<T>::F::I *n) {
  typedef typename Format_<T>::F F;
  const T magic = wide_<T> ? (T)0x1.8p52 : (T)0x1.8p23;
  const T high = wide_<T> ? (T)0x1.62e42fefa39efp-1 : (T)0x1.62e43p-1;
  const T low = wide_<T> ? (T)0x1.abc9e3b39803fp-56 : (T)-0x1.05c610ca86c39p-29;
  T shifted = fma_(x, (T)1.4426950408889634, magic);
  *n = F::bits(shifted) - F::bits(magic);
  T f = sub_(shifted, magic);
  return fma_(f, -low, fma_(f, -high, x));
}
template <class T> FN T expm1_poly(T r) { return fma_(mul_(r, r), Format_<T>::F::exp_q(r), r); }
template <class T> FN T power2(typename Format_<T>::F::I n) {
  typedef typename Format_<T>::F F;
  return F::real((n + F::bias) << F::mbits);
}
template <class T> FN T exp_(T x) {
  typename Format_<T>::F::I n;
  x = at_most(at_least(x, (T)-746), (T)710);
  T r = reduce_exp(x, &n), p = add_(expm1_poly(r), (T)1);
  return mul_(mul_(p, power2<T>(n >> 1)), power2<T>(n - (n >> 1)));
}
FN float exp2_approx(float x) {
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}
FN float reciprocal_approx(float x) {
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}
/* 2^n 2^r with x log2(e) = n + r, n an integer of -126 to 126: a multiply-add that saturates at 0 and 1
 * keeps it in there, so that beyond r takes what is left to zero and infinity. The low bits of the
 * second sum are n + 127. NaN is in r. */
FN float exp_(float x) {
  const float magic = 12582912.0f + 127.0f; /* 1.5 2^23: sums are rounded to integers */
  float part;
  asm("fma.rn.sat.f32 %0, %1, %2, %3;" : "=f"(part) : "f"(x), "f"(0x1.71547652b82fep0f / 252.0f), "f"(0.5f));
  const float sum = fma_(part, 252.0f, magic - 126.0f), n = sub_(sum, magic);
  const float r = fma_(x, 0x1.4ae0bf85ddf44p-26f, fma_(x, 0x1.715476p0f, -n));
  return mul_(exp2_approx(r), __int_as_float(__float_as_int(sum) << 23));
}
/* tanh|x| = u / (u + 2), u = exp(2 |x|) - 1 */
template <class T> FN T tanh_(T x) {
  typename Format_<T>::F::I n;
  T y = abs_(x);
  y = at_most(add_(y, y), (T)44);
  T r = reduce_exp(y, &n), s = power2<T>(n);
  T u = fma_(s, expm1_poly(r), sub_(s, (T)1));
  return with_sign_of(div_(u, add_(u, (T)2)), x);
}
/* 1 - 2 / (exp(2 |x|) + 1); near zero, where that cancels, a polynomial */
FN float tanh_(float x) {
  const float t = abs_(x), z = mul_(x, x);
  const float large = fma_(reciprocal_approx(add_(exp_(add_(t, t)), 1.0f)), -2.0f, 1.0f);
  return above(t, 0.5625f, with_sign_of(large, x), fma_(mul_(x, z), POLY_tanh_f32(z), x));
}
template <class T> FN T erf_(T x) {
  typedef typename Format_<T>::F F;
  const T split = (T)(wide_<T> ? 1.0 : 0.921875);
  T t = abs_(x), small = fma_(x, F::erf_q(mul_(x, x)), x);
  T e = exp_(F::erfc_q(sub_(at_most(t, (T)(wide_<T> ? 6 : 4)), split)));
  return above(t, split, with_sign_of(sub_((T)1, e), x), small);
}

FN float log_positive(float x) {
  bool tiny = x < 0x1p-126f;
  int b = __float_as_int(tiny ? mul_(x, 0x1p25f) : x) - 0x3f3504f3;
  float e = (float)(b >> 23) - (tiny ? 25.0f : 0.0f);
  float y = sub_(__int_as_float((b & 0x7fffff) + 0x3f3504f3), 1.0f);
  float half = mul_(mul_(y, y), 0.5f);
  float tail = fma_(mul_(mul_(y, y), y), POLY_log_f32(y), mul_(e, -0x1.bd0105c610ca8p-13f));
  return fma_(e, 0.693359375f, sub_(y, sub_(half, tail)));
}
FN double log_positive(double x) {
  bool tiny = x < 0x1p-1022;
  s64 b = __double_as_longlong(tiny ? mul_(x, 0x1p54) : x) - 0x3fe6a09e667f3bcdll;
  double e = (double)(int)(b >> 52) - (tiny ? 54.0 : 0.0);
  double y = sub_(__longlong_as_double((b & 0xfffffffffffffll) + 0x3fe6a09e667f3bcdll), 1.0);
  double half = mul_(mul_(y, y), 0.5), s = div_(y, add_(y, 2.0)), z = mul_(s, s);
  double tail = fma_(s, add_(half, mul_(z, POLY_atanh_f64(z))), mul_(e, 0x1.a39ef35793c76p-33));
  return fma_(e, 0x1.62e42fee00000p-1, sub_(y, sub_(half, tail)));
}
template <class T> FN T log_(T x) {
  typedef typename Format_<T>::F F;
  const T inf = F::real(wide_<T> ? (typename F::I)0x7ff0000000000000ll : (typename F::I)0x7f800000);
  if (x > (T)0)
    return x == inf ? inf : log_positive(x);
  return x == (T)0 ? -inf : F::real(wide_<T> ? (typename F::I)0x7ff8000000000000ll : (typename F::I)0x7fc00000);
}

/* sin(x + turns pi/2), reduced in f64 */
template <class T> FN T sine(T x, int turns) {
  typedef typename Format_<T>::F F;
  typedef typename F::I I;
  double shifted = fma_((double)x, 0x1.45f306dc9c883p-1, 0x1.8p52), n = sub_(shifted, 0x1.8p52);
  double d = fma_(n, -0x1.1a62633145c07p-54, fma_(n, -0x1.921fb54442d18p0, (double)x));
  T r = (T)at_least(at_most(d, 0.8), -0.8), z = mul_(r, r);
  int q = (int)__double_as_longlong(shifted) + turns;
  T s = r == (T)0 ? r : fma_(mul_(r, z), F::sin_q(z), r);
  T half = mul_(z, (T)0.5), w = sub_((T)1, half);
  T c = add_(w, fma_(mul_(z, z), F::cos_q(z), sub_(sub_((T)1, w), half)));
  T v = q & 1 ? c : s;
  return F::real(F::bits(v) ^ ((I)(q & 2) << (sizeof(T) * 8 - 2)));
}
template <class T> FN T sin_(T x) { return sine(x, 0); }
template <class T> FN T cos_(T x) { return sine(x, 1); }
FN float floor_(float x) { float r; asm("cvt.rmi.f32.f32 %0, %1;" : "=f"(r) : "f"(x)); return r; }
FN double floor_(double x) { double r; asm("cvt.rmi.f64.f64 %0, %1;" : "=d"(r) : "d"(x)); return r; }
FN s64 floor_(s64 x) { return x; }

/* As mpcc/num.h has them: 10 bits of mantissa; stochastic rounding with r in [0, 1). */
FN float quiet_or(float x, u32 bits) {
  return x != x ? __uint_as_float(__float_as_uint(x) | 0x400000u) : __uint_as_float(bits);
}
FN float tf32_(float x) {
  u32 b = __float_as_uint(x);
  return quiet_or(x, (b + 0xfffu + (b >> 13 & 1u)) & ~0x1fffu);
}
FN double tf32_(double x) { return tf32_(odd_(x)); }
FN float sr_bits(float x, u32 sum, u32 inf) {
  u32 b = __float_as_uint(x), a = b & 0x7fffffffu;
  sum = a == 0x7f800000u || sum >= inf ? 0x7f800000u : sum;
  return quiet_or(x, sum | (b & 0x80000000u));
}
FN float sr_bf16_(float x, float r) {
  u32 a = __float_as_uint(x) & 0x7fffffffu;
  return sr_bits(x, (a + (u32)(int)mul_(r, 65536.0f)) & 0xffff0000u, 0x7f800000u);
}
FN float sr_f16_(float x, float r) {
  u32 a = __float_as_uint(x) & 0x7fffffffu;
  u32 sum = (a + (u32)(int)mul_(r, 8192.0f)) & 0xffffe000u;
  if (a < 0x38800000u) { /* below the normal numbers the last place is 2^-24 */
    float s = mul_(abs_(x), 16777216.0f), whole = floor_(s);
    bool up = sub_(s, whole) >= sub_(1.0f, r);
    sum = __float_as_uint(mul_(add_(whole, up ? 1.0f : 0.0f), 1.0f / 16777216.0f));
  }
  return sr_bits(x, sum, 0x47800000u);
}
FN double sr_bf16_(double x, double r) { return sr_bf16_((float)x, (float)r); }
FN double sr_f16_(double x, double r) { return sr_f16_((float)x, (float)r); }

/* Word 0 of Philox4x32-10 as uniform in [0, 1) (Salmon et al. 2011, sec. 3.3). */
FN float rand_(s64 seed, s64 step, s64 element, s64 stream) {
  u32 x0 = (u32)element, x1 = (u32)((u64)element >> 32), x2 = (u32)step, x3 = (u32)stream;
  u32 k0 = (u32)seed, k1 = (u32)((u64)seed >> 32);
#pragma unroll
  for (int i = 0; i < 10; i++) {
    u32 h0 = __umulhi(0xD2511F53u, x0), l0 = 0xD2511F53u * x0;
    u32 h1 = __umulhi(0xCD9E8D57u, x2), l1 = 0xCD9E8D57u * x2;
    x0 = h1 ^ x1 ^ k0;
    x1 = l1;
    x2 = h0 ^ x3 ^ k1;
    x3 = l0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return (float)(x0 >> 8) * 0x1p-24f;
}

/* ---- reductions, in a fixed order ---- */

struct Sum { template <class T> FN T of(T a, T b) { return a + b; } };
struct Max { template <class T> FN T of(T a, T b) { return max_(a, b); } };
struct Min { template <class T> FN T of(T a, T b) { return min_(a, b); } };

FN float shuffle(float v, int o) { return __shfl_xor_sync(0xffffffffu, v, o); }
FN double shuffle(double v, int o) {
  s64 b = __double_as_longlong(v);
  u32 lo = __shfl_xor_sync(0xffffffffu, (u32)b, o), hi = __shfl_xor_sync(0xffffffffu, (u32)((u64)b >> 32), o);
  return __longlong_as_double((s64)((u64)hi << 32 | lo));
}
FN s64 shuffle(s64 v, int o) {
  u32 lo = __shfl_xor_sync(0xffffffffu, (u32)v, o), hi = __shfl_xor_sync(0xffffffffu, (u32)((u64)v >> 32), o);
  return (s64)((u64)hi << 32 | lo);
}
FN float from_lane(float v, int lane) { return __shfl_sync(0xffffffffu, v, lane); }
FN double from_lane(double v, int lane) {
  s64 b = __double_as_longlong(v);
  u32 lo = __shfl_sync(0xffffffffu, (u32)b, lane), hi = __shfl_sync(0xffffffffu, (u32)((u64)b >> 32), lane);
  return __longlong_as_double((s64)((u64)hi << 32 | lo));
}
/* Over WIDTH consecutive lanes (a power of two up to 32); every one of them gets the result. */
template <class Op, int WIDTH, class T> FN T over_lanes(T v) {
#pragma unroll
  for (int o = WIDTH / 2; o; o /= 2)
    v = Op::of(v, shuffle(v, o));
  return v;
}
/* ---- elements side by side in memory ---- */

FN bool multiple(const void *p, u32 bytes) { return ((u64)p & (bytes - 1)) == 0; }
template <class E> FN E of_bits(u64 v, E) { return (E)v; }
FN float of_bits(u64 v, float) { return __uint_as_float((u32)v); }
FN double of_bits(u64 v, double) { return __longlong_as_double((s64)v); }
template <class E> FN u64 to_bits(E v) { return (u64)v; }
FN u64 to_bits(int v) { return (u32)v; }
FN u64 to_bits(float v) { return __float_as_uint(v); }
FN u64 to_bits(double v) { return (u64)__double_as_longlong(v); }
/* BYTES (2, 4, 8 or 16) at a multiple of BYTES. */
template <int BYTES> FN void get_words(u32 *w, const void *p) {
  if (BYTES == 16) {
    const uint4 v = *(const uint4 *)p;
    w[0] = v.x, w[1] = v.y, w[2] = v.z, w[3] = v.w;
  } else if (BYTES == 8) {
    const uint2 v = *(const uint2 *)p;
    w[0] = v.x, w[1] = v.y;
  } else {
    w[0] = BYTES == 4 ? *(const u32 *)p : *(const u16 *)p;
  }
}
template <int BYTES> FN void put_words(void *p, const u32 *w) {
  if (BYTES == 16)
    *(uint4 *)p = make_uint4(w[0], w[1], w[2], w[3]);
  else if (BYTES == 8)
    *(uint2 *)p = make_uint2(w[0], w[1]);
  else if (BYTES == 4)
    *(u32 *)p = w[0];
  else
    *(u16 *)p = (u16)w[0];
}
/* N neighbours: in one access when `wide`. */
template <int N, class E> FN void get_line(E *v, const E *p, bool wide) {
  if (!wide) {
#pragma unroll
    for (int i = 0; i < N; i++)
      v[i] = p[i];
    return;
  }
  u32 w[4] = {};
  get_words<N * sizeof(E)>(w, p);
  enum { A_WORD = sizeof(E) < 4 ? 4 / sizeof(E) : 1, BITS = 8 * sizeof(E) };
#pragma unroll
  for (int i = 0; i < N; i++)
    v[i] = sizeof(E) == 8 ? of_bits(w[2 * i % 4] | (u64)w[(2 * i + 1) % 4] << 32, E())
                          : of_bits(w[i / A_WORD % 4] >> i % A_WORD * BITS % 32, E());
}
template <int N, class E> FN void put_line(const E *v, E *p, bool wide) {
  if (!wide) {
#pragma unroll
    for (int i = 0; i < N; i++)
      p[i] = v[i];
    return;
  }
  u32 w[4] = {};
  enum { A_WORD = sizeof(E) < 4 ? 4 / sizeof(E) : 1, BITS = 8 * sizeof(E) };
#pragma unroll
  for (int i = 0; i < N; i++)
    if (sizeof(E) == 8)
      w[2 * i % 4] = (u32)to_bits(v[i]), w[(2 * i + 1) % 4] = (u32)(to_bits(v[i]) >> 32);
    else
      w[i / A_WORD % 4] |= (u32)to_bits(v[i]) << i % A_WORD * BITS % 32;
  put_words<N * sizeof(E)>(p, w);
}
/* CHUNKS of 16 bytes of a column in shared memory, those of the first `rows` elements. */
template <int CHUNKS, class E> FN void put_column(E *to, const E *from, u32 rows) {
  const u32 *w = (const u32 *)from;
#pragma unroll
  for (int i = 0; i < CHUNKS; i++) {
    if (i * (16 / sizeof(E)) >= rows)
      return;
    if (multiple(to, 16)) {
      put_words<16>(to + i * (16 / sizeof(E)), w + 4 * i);
      continue;
    }
#pragma unroll
    for (int k = 0; k < 16 / sizeof(E); k++)
      to[i * (16 / sizeof(E)) + k] = from[i * (16 / sizeof(E)) + k];
  }
}

/* Over GROUP consecutive threads; all threads of the block call it. room: 32 values of shared memory. */
template <class Op, int GROUP, class T> FN T over_group(T v, T *room) {
  if (GROUP <= 32)
    return over_lanes<Op, GROUP>(v);
  v = over_lanes<Op, 32>(v);
  const int lane = threadIdx.x % 32, first = threadIdx.x / GROUP * (GROUP / 32);
  __syncthreads();
  if (lane == 0)
    room[threadIdx.x / 32] = v;
  __syncthreads();
  return over_lanes<Op, GROUP / 32>(room[first + lane % (GROUP / 32)]);
}
