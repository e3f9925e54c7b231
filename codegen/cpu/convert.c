/* Conversions between storage dtypes and registers as vector integer code; bit-equal to mpcc/num.h
 * [N1, N2]. The bf16 instruction vcvtneps2bf16 takes subnormals for zero (Intel SDM), integer
 * rounding does not: the instruction is used behind a test for subnormals, where a branch is fine.
 */
#include "codegen/cpu/llvm.h"

#include <math.h>

DType ll_reg_dtype(DType storage) {
  switch (storage) {
  case MPCC_F64:
  case MPCC_B1:
    return storage;
  case MPCC_I64:
  case MPCC_I32:
  case MPCC_U8:
    return MPCC_I64;
  default:
    return MPCC_F32;
  }
}

/* An e4m3 code shifted into a half has the same fields but bias 15 instead of 7: times 2^8. Going
 * through half keeps subnormals exact without FP32 subnormal arithmetic. */
static Val decode_e4m3(Gen *g, Val raw) {
  /* sign-extended: the shift puts the sign into both upper bits */
  Val half = ll_shl(g, ll_sext(g, raw, g->i16), 7);
  half = ll_bits(g, ll_and(g, half, ll_i(LLVMTypeOf(half), 0xbfff)), g->f16);
  Val f = LLVMBuildFMul(g->b, ll_fext(g, half, g->f32), ll_f(ll_like(raw, g->f32), 256), "");
  Val bits = ll_bits(g, f, g->i32);
  Ty t = LLVMTypeOf(bits);
  Val nan = ll_or(g, ll_and(g, bits, ll_i(t, 0x80000000)), ll_i(t, 0x7fc00000));
  Val magnitude = ll_and(g, raw, ll_i(LLVMTypeOf(raw), 0x7f));
  Val is_nan = ll_icmp(g, LLVMIntEQ, magnitude, ll_i(LLVMTypeOf(raw), 0x7f));
  return ll_bits(g, ll_sel(g, is_nan, nan, bits), g->f32);
}

/* Exponent field e as a power of two: 0 is the subnormal 2^-127, 0xFF NaN. */
static Val decode_e8m0(Gen *g, Val raw) {
  Val e = ll_zext(g, raw, g->i32), bits = ll_shl(g, e, 23);
  Ty t = LLVMTypeOf(e);
  bits = ll_sel(g, ll_icmp(g, LLVMIntEQ, e, ll_i(t, 0)), ll_i(t, 0x400000), bits);
  bits = ll_sel(g, ll_icmp(g, LLVMIntEQ, e, ll_i(t, 0xff)), ll_i(t, 0x7fc00000), bits);
  return ll_bits(g, bits, g->f32);
}

/* An e2m1 code shifted into a half has bias 15 instead of 1: times 2^14. */
static Val decode_e2m1(Gen *g, Val raw) {
  Val z = ll_zext(g, raw, g->i16);
  Ty t = LLVMTypeOf(z);
  Val sign = ll_shl(g, ll_and(g, z, ll_i(t, 8)), 12);
  Val half = ll_or(g, sign, ll_shl(g, ll_and(g, z, ll_i(t, 7)), 9));
  Val f = ll_fext(g, ll_bits(g, half, g->f16), g->f32);
  return LLVMBuildFMul(g->b, f, ll_f(ll_like(raw, g->f32), 16384), "");
}

Val ll_decode(Gen *g, DType dt, Val raw) {
  switch (dt) {
  case MPCC_BF16:
    return ll_bits(g, ll_shl(g, ll_zext(g, raw, g->i32), 16), g->f32);
  case MPCC_F16:
    return ll_fext(g, ll_bits(g, raw, g->f16), g->f32);
  case MPCC_E4M3:
    return decode_e4m3(g, raw);
  case MPCC_E8M0:
    return decode_e8m0(g, raw);
  case MPCC_E2M1:
    return decode_e2m1(g, raw);
  case MPCC_E5M2:
    return ll_fext(g, ll_bits(g, ll_shl(g, ll_zext(g, raw, g->i16), 8), g->f16), g->f32);
  case MPCC_I32:
    return ll_sext(g, raw, g->i64);
  case MPCC_U8:
    return ll_zext(g, raw, g->i64);
  case MPCC_B1:
    return ll_icmp(g, LLVMIntNE, raw, ll_i(LLVMTypeOf(raw), 0));
  default:
    return raw;
  }
}

/* f64 to f32 rounded to odd: inexact results get an odd last bit, so that a second rounding to a
 * format at least two bits narrower is correct (Boldo and Melquiond 2008). */
static Val round_odd(Gen *g, Val x) {
  Val y = ll_ftrunc(g, x, g->f32);
  Val back = ll_fext(g, y, g->f64);
  Val bits = ll_bits(g, y, g->i32);
  Val over = ll_fcmp(g, LLVMRealOGT, ll_fabs(g, back), ll_fabs(g, x));
  bits = ll_sub(g, bits, ll_zext(g, over, g->i32)); /* towards zero */
  Val inexact = ll_fcmp(g, LLVMRealONE, back, x);
  return ll_bits(g, ll_or(g, bits, ll_zext(g, inexact, g->i32)), g->f32);
}

/* bf16 bits in the upper halves; what is below them is arbitrary. Ties by a masked addition, NaN by
 * the fixup instruction (table: response 2, quiet NaN of the source, for quiet and signalling NaN;
 * 0, unchanged, for the rest). */
static Val round_bf16_avx512(Gen *g, Val x) {
  Val b = ll_bits(g, x, g->i32);
  Ty t = LLVMTypeOf(b);
  Val odd = ll_icmp(g, LLVMIntNE, ll_and(g, b, ll_i(t, 0x10000)), ll_i(t, 0));
  Val r = ll_sel(g, odd, ll_add(g, b, ll_i(t, 0x8000)), ll_add(g, b, ll_i(t, 0x7fff)));
  Val args[] = {ll_bits(g, r, g->f32),
                x,
                ll_i(t, 0x22),
                LLVMConstInt(g->i32, 0, 0),
                LLVMConstInt(g->i16, 0xffff, 0),
                LLVMConstInt(g->i32, 4, 0)};
  return ll_bits(g, ll_call(g, "llvm.x86.avx512.mask.fixupimm.ps.512", NULL, 6, args), g->i32);
}

/* Numbers and plain NaN (ll_encode_pairs). */
static Val nearest_bf16(Gen *g, Val x) {
  Val b = ll_bits(g, x, g->i32);
  Ty t = LLVMTypeOf(b);
  Val odd = ll_and(g, ll_lshr(g, b, 16), ll_i(t, 1));
  return ll_add(g, ll_add(g, b, ll_i(t, 0x7fff)), odd);
}

static Val round_bf16(Gen *g, Val x) {
  if (g->level->avx512 && ll_lanes(x) % 16 == 0)
    return ll_by_parts(g, x, 16, round_bf16_avx512);
  Val b = ll_bits(g, x, g->i32);
  Val nan = ll_or(g, b, ll_i(LLVMTypeOf(b), 0x400000));
  return ll_sel(g, ll_fcmp(g, LLVMRealUNO, x, x), nan, nearest_bf16(g, x));
}

static Val encode_bf16_bits(Gen *g, Val x) {
  return ll_trunc(g, ll_lshr(g, round_bf16(g, x), 16), g->i16);
}

/* 16 lanes: the instruction, unless one of them is subnormal. */
static Val encode_bf16_branch(Gen *g, Val x) {
  Val args[] = {x, LLVMConstInt(g->i32, 0x20, 0)};
  Val small = ll_call(g, "llvm.x86.avx512.fpclass.ps.512", NULL, 2, args);
  Val any =
      ll_icmp(g, LLVMIntNE, LLVMBuildBitCast(g->b, small, g->i16, ""), LLVMConstInt(g->i16, 0, 0));
  Val fast = ll_call(g, "llvm.x86.avx512bf16.cvtneps2bf16.512", NULL, 1, &x);
  Val var = ll_var(g, LLVMBuildBitCast(g->b, fast, ll_vec(g->i16, 16), ""));
  If rare = ll_if_rare(g, any);
  ll_var_set(g, var, encode_bf16_bits(g, x));
  ll_endif(g, &rare);
  return ll_var_get(g, var);
}

static Val encode_bf16(Gen *g, Val x) {
  bool fast = g->level->bf16 && g->may_branch && ll_lanes(x) == 16;
  return fast ? encode_bf16_branch(g, x) : encode_bf16_bits(g, x);
}

/* |x| or `largest` where that is smaller or x is NaN. */
static Val saturated(Gen *g, Val x, double largest) {
  Val top = ll_f(LLVMTypeOf(x), largest);
  if (g->level->avx512 && ll_lanes(x) == 16) { /* vrangeps: less magnitude, sign cleared */
    Val args[] = {x,
                  top,
                  LLVMConstInt(g->i32, 0xa, 0),
                  x,
                  LLVMConstInt(g->i16, 0xffff, 0),
                  LLVMConstInt(g->i32, 4, 0)};
    return ll_call(g, "llvm.x86.avx512.mask.range.ps.512", NULL, 6, args);
  }
  Val a = ll_fabs(g, x);
  return ll_sel(g, ll_fcmp(g, LLVMRealOLT, a, top), a, top);
}

/* a where mask has bits, else b: 16 lanes of 32 bits, one instruction. */
static Val select_bits_avx512(Gen *g, Val mask, Val a, Val b) {
  Val args[] = {mask, a, b, LLVMConstInt(g->i32, 0xca, 0)};
  return ll_call(g, "llvm.x86.avx512.pternlog.d.512", NULL, 4, args);
}

/* Largest finite number, and the exponent field of the smallest normal one as an f32. */
static double fp8_top(DType dt) {
  return dt == MPCC_E5M2 ? 57344 : 448;
}

static int fp8_least(DType dt) {
  return 128 - (dt == MPCC_E5M2 ? 15 : 7);
}

/* What codes_fp8 adds to the magnitude in register a, |x| saturated, and the exponent field's part
 * of the code with it, from a table by the low bits of that field: 16 (e5m2: 32) lanes of a
 * register have all fields there are. */
static Val fp8_magic_avx512(Gen *g, DType dt, Val a) {
  int mbits = dt == MPCC_E5M2 ? 2 : 3, least = fp8_least(dt), n = dt == MPCC_E5M2 ? 32 : 16;
  Val lane[32], half[2];
  for (int e = least; e < least + n; e++) {
    int64_t code =
        ((e - least + 1) << mbits) & 0x7f; /* of the power of two; the sum adds the rest */
    int64_t sign = (int64_t)1 << mbits;    /* the leading one, which the sum has too */
    lane[e % n] = LLVMConstInt(
        g->i32, (unsigned long long)(((int64_t)(e + 23 - mbits) << 23) + ((code - sign) & 0x7f)),
        0);
  }
  half[0] = LLVMConstVector(lane, 16);
  half[1] = LLVMConstVector(lane + n - 16, 16);
  Val low = ll_bits(g, ll_i(LLVMTypeOf(half[0]), (int64_t)least << 23), g->f32);
  Val place = ll_lshr(g, ll_bits(g, ll_fextreme(g, a, low, false), g->i32), 23);
  Val one[] = {half[0], place}, two[] = {half[0], place, half[1]};
  return n == 16 ? ll_call(g, "llvm.x86.avx512.permvar.si.512", NULL, 2, one)
                 : ll_call(g, "llvm.x86.avx512.vpermi2var.d.512", NULL, 3, two);
}

/* The code of x but for its sign, wrong for NaN, in the low 7 bits of 16 lanes; what is above them
 * is arbitrary. See codes_fp8. */
static Val fp8_magnitude_avx512(Gen *g, DType dt, Val x) {
  Val a = saturated(g, x, fp8_top(dt));
  Val sum = LLVMBuildFAdd(g->b, a, ll_bits(g, fp8_magic_avx512(g, dt, a), g->f32), "");
  return ll_bits(g, sum, g->i32);
}

/* Codes in 32-bit lanes whose upper bits are zero.
 * Adding 2^(23 - mbits) times the power of two at or below |x| (or below the smallest normal
 * number) rounds |x| to the format's last place there; the low bits of the sum then hold the
 * significand, leading one included, which the exponent field less one is added to, modulo 2^7. Its
 * constant part, which is even, is added with the power of two. Saturation comes first. */
static Val codes_fp8(Gen *g, DType dt, Val x) {
  Val b = ll_bits(g, x, g->i32), nan = ll_fcmp(g, LLVMRealUNO, x, x), sign = ll_lshr(g, b, 24);
  Ty t = LLVMTypeOf(b);
  if (g->level->avx512 && ll_lanes(x) == 16) {
    Val code = select_bits_avx512(g, ll_i(t, 0x7f), fp8_magnitude_avx512(g, dt, x), sign);
    return ll_sel(g, nan, ll_i(t, 0x7f), code);
  }
  int mbits = dt == MPCC_E5M2 ? 2 : 3, drop = 23 - mbits;
  int constant = -(fp8_least(dt) << mbits) & 0x7f;
  Val a = saturated(g, x, fp8_top(dt));
  Val e = ll_and(g, ll_bits(g, a, g->i32), ll_i(t, 0x7f800000)),
      least = ll_i(t, (int64_t)fp8_least(dt) << 23);
  e = ll_sel(g, ll_icmp(g, LLVMIntSGT, e, least), e, least);
  Val magic = ll_add(g, e, ll_i(t, ((int64_t)drop << 23) + constant));
  Val sum = LLVMBuildFAdd(g->b, a, ll_bits(g, magic, g->f32), "");
  Val code = ll_add(g, ll_bits(g, sum, g->i32), ll_lshr(g, e, drop));
  code = ll_and(g, code, ll_i(t, 0x7f));
  sign = ll_and(g, sign, ll_i(t, 0x80));
  if (g->level->avx512)
    return ll_sel(g, nan, ll_i(t, 0x7f), ll_or(g, code, sign));
  /* A select would be moved behind the narrowing, to where masks are dear. */
  nan = ll_sext(g, nan, g->i32);
  sign = ll_and(g, sign, ll_xor(g, nan, ll_i(t, -1)));
  return ll_or(g, ll_or(g, code, ll_lshr(g, nan, 25)), sign);
}

static Val codes_e4m3(Gen *g, Val x) {
  return codes_fp8(g, MPCC_E4M3, x);
}

static Val codes_e5m2(Gen *g, Val x) {
  return codes_fp8(g, MPCC_E5M2, x);
}

static Val fp8_codes(Gen *g, DType dt, Val x) {
  return ll_by_parts(g, x, 16, dt == MPCC_E4M3 ? codes_e4m3 : codes_e5m2);
}

/* The same for e2m1, where few bits are left: units of the last place are 2^-1, 1 or 2. */
static Val encode_e2m1(Gen *g, Val x) {
  Val b = ll_bits(g, x, g->i32);
  Ty t = LLVMTypeOf(b), f = LLVMTypeOf(x);
  Val nan = ll_fcmp(g, LLVMRealUNO, x, x);
  Val a = ll_fabs(g, x), top = ll_f(f, 6);
  a = ll_sel(g, ll_fcmp(g, LLVMRealOLT, a, top), a, top);
  Val e = ll_and(g, ll_bits(g, a, g->i32), ll_i(t, 0x7f800000)), least = ll_i(t, 127 << 23);
  e = ll_sel(g, ll_icmp(g, LLVMIntSGT, e, least), e, least);
  Val magic = ll_add(g, e, ll_i(t, (int64_t)22 << 23));
  Val sum = LLVMBuildFAdd(g->b, a, ll_bits(g, magic, g->f32), "");
  Val field = ll_sub(g, ll_lshr(g, e, 22), ll_i(t, 127 << 1));
  Val code = ll_add(g, ll_sub(g, ll_bits(g, sum, g->i32), magic), field);
  Val sign = ll_and(g, ll_lshr(g, b, 28), ll_i(t, 8));
  sign = ll_sel(g, nan, ll_i(t, 0), sign);
  return ll_trunc(g, ll_or(g, code, sign), g->i8);
}

/* Up to the next power of two: a mantissa adds one to the exponent, subnormals beyond half of the
 * smallest normal number become that. */
static Val encode_e8m0(Gen *g, Val x) {
  Val b = ll_and(g, ll_bits(g, x, g->i32), ll_i(ll_like(x, g->i32), 0x7fffffff));
  Ty t = LLVMTypeOf(b);
  Val up = ll_lshr(g, ll_add(g, b, ll_i(t, 0x7fffff)), 23);
  Val small = ll_zext(g, ll_icmp(g, LLVMIntSGT, b, ll_i(t, 0x400000)), g->i32);
  Val code = ll_sel(g, ll_icmp(g, LLVMIntSLT, b, ll_i(t, 0x800000)), small, up);
  code = ll_sel(g, ll_icmp(g, LLVMIntSGT, code, ll_i(t, 254)), ll_i(t, 254), code);
  code = ll_sel(g, ll_fcmp(g, LLVMRealUNO, x, x), ll_i(t, 255), code);
  return ll_trunc(g, code, g->i8);
}

/* Floats stay; integers and booleans become f32. */
static Val as_float(Gen *g, Val v) {
  if (LLVMGetTypeKind(ll_elem(v)) != LLVMIntegerTypeKind)
    return v;
  if (ll_elem(v) == g->i1)
    v = ll_zext(g, v, g->i64);
  return ll_sitof(g, v, g->f32);
}

static Val clamp_int(Gen *g, Val v, int64_t lo, int64_t hi) {
  Ty t = LLVMTypeOf(v);
  v = ll_sel(g, ll_icmp(g, LLVMIntSLT, v, ll_i(t, lo)), ll_i(t, lo), v);
  return ll_sel(g, ll_icmp(g, LLVMIntSGT, v, ll_i(t, hi)), ll_i(t, hi), v);
}

static Val encode_int(Gen *g, DType dt, Val v) {
  Ty t = ll_mem(g, dt), e = ll_elem(v);
  if (e == g->f32 || e == g->f64) {
    Ty over[] = {ll_like(v, g->i64), LLVMTypeOf(v)};
    unsigned id = LLVMLookupIntrinsicID("llvm.fptosi.sat", 15);
    Val f = LLVMGetIntrinsicDeclaration(g->mod, id, over, 2);
    v = LLVMBuildCall2(g->b, LLVMIntrinsicGetType(g->ctx, id, over, 2), f, &v, 1, "");
  }
  if (dt == MPCC_B1)
    return ll_zext(g, ll_icmp(g, LLVMIntNE, v, ll_i(LLVMTypeOf(v), 0)), t);
  if (ll_elem(v) == g->i1)
    return ll_zext(g, v, t);
  if (dt == MPCC_I64)
    return v;
  v = dt == MPCC_U8 ? clamp_int(g, v, 0, 255) : clamp_int(g, v, INT32_MIN, INT32_MAX);
  return ll_trunc(g, v, t);
}

Val ll_encode(Gen *g, DType dt, Val v) {
  if (!dtype_is_float(dt))
    return encode_int(g, dt, v);
  v = as_float(g, v);
  bool wide = ll_elem(v) == g->f64;
  if (dt == MPCC_F64)
    return wide ? v : ll_fext(g, v, g->f64);
  if (dt == MPCC_F32)
    return wide ? ll_ftrunc(g, v, g->f32) : v;
  if (wide)
    v = round_odd(g, v);
  if (dt == MPCC_BF16)
    return encode_bf16(g, v);
  if (dt == MPCC_F16)
    return ll_bits(g, ll_ftrunc(g, v, g->f16), g->i16);
  if (dt == MPCC_E8M0)
    return encode_e8m0(g, v);
  return dt == MPCC_E2M1 ? encode_e2m1(g, v) : ll_trunc(g, fp8_codes(g, dt, v), g->i8);
}

/* A format of 8 bits as round_code needs it. */
typedef struct {
  double top;  /* largest number */
  int least;   /* exponent field, as an f32, of the smallest normal number */
  int mbits;   /* of a mantissa */
  int64_t nan; /* bits, as an f32, of what NaN becomes */
} CodeFormat;

static CodeFormat code_format(DType dt) {
  if (dt == MPCC_E2M1)
    return (CodeFormat){6, 127, 1, 0x40c00000}; /* 6: there is no NaN */
  bool wide = dt == MPCC_E5M2;
  return (CodeFormat){fp8_top(dt), fp8_least(dt), wide ? 2 : 3, wide ? 0x7fe00000 : 0x7fc00000};
}

/* x in [-top, top], wrong for NaN. */
static Val clamped(Gen *g, Val x, double top) {
  Ty t = LLVMTypeOf(x);
  if (g->level->avx512 && ll_lanes(x) == 16) { /* vrangeps: less magnitude, sign of x */
    Val args[] = {x,
                  ll_f(t, top),
                  LLVMConstInt(g->i32, 0x2, 0),
                  x,
                  LLVMConstInt(g->i16, 0xffff, 0),
                  LLVMConstInt(g->i32, 4, 0)};
    return ll_call(g, "llvm.x86.avx512.mask.range.ps.512", NULL, 6, args);
  }
  return ll_fextreme(g, ll_fextreme(g, x, ll_f(t, top), true), ll_f(t, -top), false);
}

/* decode(encode(x)) without the code: adding and taking away 1.5 * 2^(23 - mbits) times the power
 * of two at or below |x|, or below the smallest normal number, rounds to the format's last place
 * there, whatever the sign; ties go to even because that number is an even multiple of the last
 * place. */
static Val round_code(Gen *g, const CodeFormat *f, Val x) {
  Val v = clamped(g, x, f->top), b = ll_bits(g, x, g->i32);
  Ty t = LLVMTypeOf(b), of = LLVMTypeOf(x);
  Val power = ll_or(g, ll_and(g, ll_bits(g, v, g->i32), ll_i(t, 0x7f800000)), ll_i(t, 0x400000));
  Val least = ll_bits(g, ll_i(t, ((int64_t)f->least << 23) + 0x400000), g->f32);
  power = ll_fextreme(g, ll_bits(g, power, g->f32), least, false);
  double far = ldexp(1, 23 - f->mbits);
  Val sum = ll_fma(g, power, ll_f(of, far), v);
  Val r = ll_bits(g, ll_fma(g, power, ll_f(of, -far), sum), g->i32);
  r = ll_or(g, r, ll_and(g, b, ll_i(t, 0x80000000))); /* -0 */
  r = ll_sel(g, ll_fcmp(g, LLVMRealUNO, x, x), ll_i(t, f->nan), r);
  return ll_bits(g, r, g->f32);
}

#define ROUND(name, dt)                                                                            \
  static Val name(Gen *g, Val x) {                                                                 \
    CodeFormat f = code_format(dt);                                                                \
    return round_code(g, &f, x);                                                                   \
  }
ROUND(round_e4m3, MPCC_E4M3)
ROUND(round_e5m2, MPCC_E5M2)
ROUND(round_e2m1, MPCC_E2M1)
#undef ROUND

Val ll_round(Gen *g, DType dt, Val v) {
  bool wide = ll_elem(v) == g->f64;
  if (dt == MPCC_F64 || (dt == MPCC_F32 && !wide))
    return ll_fence(g, v);
  Val r;
  if (dtype_is_code(dt))
    r = ll_by_parts(g, wide ? round_odd(g, v) : v, 16,
                    dt == MPCC_E4M3   ? round_e4m3
                    : dt == MPCC_E5M2 ? round_e5m2
                                      : round_e2m1);
  else
    r = ll_decode(g, dt, ll_encode(g, dt, v));
  return wide ? ll_fext(g, r, g->f64) : r;
}

/* NaN stays, and becomes quiet as in the narrow formats. */
static Val quiet_or(Gen *g, Val x, Val bits) {
  Val b = ll_bits(g, x, g->i32);
  Val nan = ll_or(g, b, ll_i(LLVMTypeOf(b), 0x400000));
  return ll_bits(g, ll_sel(g, ll_fcmp(g, LLVMRealUNO, x, x), nan, bits), g->f32);
}

Val ll_tf32(Gen *g, Val v) {
  bool wide = ll_elem(v) == g->f64;
  Val x = wide ? round_odd(g, v) : v, b = ll_bits(g, x, g->i32);
  Ty t = LLVMTypeOf(b);
  Val odd = ll_and(g, ll_lshr(g, b, 13), ll_i(t, 1));
  Val r = ll_and(g, ll_add(g, ll_add(g, b, ll_i(t, 0xfff)), odd), ll_i(t, ~0x1fffll));
  r = quiet_or(g, x, r);
  return wide ? ll_fext(g, r, g->f64) : r;
}

/* Below f16's normal numbers its last place is 2^-24, whatever the exponent: |x| 2^24 = whole +
 * part, which is one more where part + r >= 1. All of it exact. */
static Val sr_small_f16(Gen *g, Val a, Val r) {
  Ty t = LLVMTypeOf(a);
  Val scaled = LLVMBuildFMul(g->b, a, ll_f(t, 0x1p24), "");
  Val whole = ll_floor(g, scaled);
  Val up = ll_fcmp(g, LLVMRealOGE, LLVMBuildFSub(g->b, scaled, whole, ""),
                   LLVMBuildFSub(g->b, ll_f(t, 1), r, ""));
  Val q = LLVMBuildFAdd(g->b, whole, ll_sel(g, up, ll_f(t, 1), ll_f(t, 0)), "");
  return LLVMBuildFMul(g->b, q, ll_f(t, 0x1p-24), "");
}

Val ll_sr(Gen *g, DType dt, Val v, Val random) {
  bool wide = ll_elem(v) == g->f64;
  Val x = wide ? ll_ftrunc(g, v, g->f32) : v, r = wide ? ll_ftrunc(g, random, g->f32) : random;
  int drop = dt == MPCC_BF16 ? 16 : 13;
  Val b = ll_bits(g, x, g->i32);
  Ty t = LLVMTypeOf(b), f = LLVMTypeOf(x);
  Val sign = ll_and(g, b, ll_i(t, 0x80000000ll)), magnitude = ll_and(g, b, ll_i(t, 0x7fffffff));
  Val dither = LLVMBuildFMul(g->b, r, ll_f(f, (double)(1 << drop)), "");
  dither = LLVMBuildFPToSI(g->b, dither, t, "");
  Val sum = ll_and(g, ll_add(g, magnitude, dither), ll_i(t, -(1ll << drop)));
  if (dt == MPCC_F16) {
    Val small = ll_bits(g, sr_small_f16(g, ll_fabs(g, x), r), g->i32);
    sum = ll_sel(g, ll_icmp(g, LLVMIntULT, magnitude, ll_i(t, 0x38800000)), small, sum);
    Val inf = ll_i(t, 0x7f800000); /* 65536 and up */
    sum = ll_sel(g, ll_icmp(g, LLVMIntUGE, sum, ll_i(t, 0x47800000)), inf, sum);
  }
  sum = ll_sel(g, ll_icmp(g, LLVMIntEQ, magnitude, ll_i(t, 0x7f800000)), magnitude, sum);
  sum = quiet_or(g, x, ll_or(g, sum, sign));
  return wide ? ll_fext(g, sum, g->f64) : sum;
}

/* ---- pairs ---- */

static Val reordered(Gen *g, Val v, bool to_pairs) {
  int n = ll_lanes(v), index[64];
  for (int i = 0; i < n; i++)
    index[i] = to_pairs ? 2 * i % n + 2 * i / n : i / 2 + i % 2 * (n / 2);
  return ll_shuffle(g, v, LLVMGetPoison(LLVMTypeOf(v)), index, n);
}

Val ll_even_odd(Gen *g, Val v) {
  return reordered(g, v, true);
}

Val ll_interleave(Gen *g, Val v) {
  return reordered(g, v, false);
}

/* Lanes of half as many elements twice as wide, or the other way round. */
static Val recast(Gen *g, Val v, Ty elem, int lanes) {
  return LLVMBuildBitCast(g->b, v, ll_vec(elem, lanes), "");
}

Val ll_decode_pairs(Gen *g, DType dt, Val raw) {
  if (dt != MPCC_BF16)
    return ll_decode(g, dt, ll_even_odd(g, raw));
  Val words = recast(g, raw, g->i32, ll_lanes(raw) / 2);
  Val odd = ll_and(g, words, ll_i(LLVMTypeOf(words), 0xffff0000));
  return ll_bits(g, ll_join(g, ll_shl(g, words, 16), odd), g->f32);
}

/* What is computed where an element is NaN; straight through where code must not branch. */
typedef struct {
  If open;
  Val var; /* NULL: no branch */
} Rare;

/* One bit for each lane where one of the two is NaN. */
static Val nan_bits(Gen *g, Val even, Val odd) {
  return LLVMBuildBitCast(g->b, ll_fcmp(g, LLVMRealUNO, even, odd), g->i16, "");
}

/* word: the result where no bit is set. */
static Rare if_nan(Gen *g, Val bits, Val word) {
  Rare r = {.var = NULL};
  if (g->may_branch) {
    r.var = ll_var(g, word);
    r.open = ll_if_rare(g, ll_icmp(g, LLVMIntNE, bits, LLVMConstInt(g->i16, 0, 0)));
  }
  return r;
}

static Val end_nan(Gen *g, Rare *r, Val word) {
  if (!r->var)
    return word;
  ll_var_set(g, r->var, word);
  ll_endif(g, &r->open);
  return ll_var_get(g, r->var);
}

/* 16 even and 16 odd elements: codes by pairs in 32-bit lanes, wrong for NaN. The upper halves are
 * zero. */
static Val fp8_words_avx512(Gen *g, DType dt, Val even, Val odd) {
  Val a = ll_bits(g, even, g->i32), b = ll_bits(g, odd, g->i32);
  Ty t = LLVMTypeOf(a);
  Val code = select_bits_avx512(g, ll_i(t, 0x7f), fp8_magnitude_avx512(g, dt, even),
                                ll_shl(g, fp8_magnitude_avx512(g, dt, odd), 8));
  Val sign = select_bits_avx512(g, ll_i(t, 0x80), ll_lshr(g, a, 24), ll_lshr(g, b, 16));
  return select_bits_avx512(g, ll_i(t, 0xffff8080), sign, code);
}

/* The codes of NaN put into such words. */
static Val fp8_nan_avx512(Gen *g, Val even, Val odd, Val word) {
  Ty t = LLVMTypeOf(word);
  Val low = ll_and(g, ll_sext(g, ll_fcmp(g, LLVMRealUNO, even, even), g->i32), ll_i(t, 0xff));
  Val high = ll_and(g, ll_sext(g, ll_fcmp(g, LLVMRealUNO, odd, odd), g->i32), ll_i(t, 0xff00));
  return select_bits_avx512(g, ll_or(g, low, high), ll_i(t, 0x7f7f), word);
}

/* Words of two pairs as 64 codes in the order of memory: packed within quarters of a register, and
 * these put in order. */
static Val fp8_line_avx512(Gen *g, Val first, Val second) {
  static const int order[] = {0, 2, 4, 6, 1, 3, 5, 7};
  Val args[] = {first, second};
  Val packed = ll_call(g, "llvm.x86.avx512.packusdw.512", NULL, 2, args);
  packed = recast(g, packed, g->i64, 8);
  return recast(g, ll_shuffle(g, packed, LLVMGetPoison(LLVMTypeOf(packed)), order, 8), g->i8, 64);
}

/* fp8_words_avx512 of n (1, 2) times 16 even and 16 odd elements, right for NaN; 16 n lanes. */
static Val fp8_tested_avx512(Gen *g, DType dt, const Val *even, const Val *odd, int n) {
  Val word[2] = {0}, all = NULL;
  for (int i = 0; i < n; i++) {
    word[i] = fp8_words_avx512(g, dt, even[i], odd[i]);
    Val bits = nan_bits(g, even[i], odd[i]);
    all = all ? ll_or(g, all, bits) : bits;
  }
  Val both = n == 2 ? ll_join(g, word[0], word[1]) : word[0];
  Rare rare = if_nan(g, all, both);
  for (int i = 0; i < n; i++)
    word[i] = fp8_nan_avx512(g, even[i], odd[i], word[i]);
  return end_nan(g, &rare, n == 2 ? ll_join(g, word[0], word[1]) : word[0]);
}

/* One or two times 16 even and 16 odd elements as codes in the order of memory. */
static Val fp8_pairs_avx512(Gen *g, DType dt, Val even, Val odd) {
  int n = ll_lanes(even) / 16;
  Val a[2] = {0}, b[2] = {0};
  for (int i = 0; i < n; i++) {
    a[i] = ll_slice(g, even, 16 * i, 16);
    b[i] = ll_slice(g, odd, 16 * i, 16);
  }
  Val words = fp8_tested_avx512(g, dt, a, b, n);
  if (n == 2)
    return fp8_line_avx512(g, ll_slice(g, words, 0, 16), ll_slice(g, words, 16, 16));
  return recast(g, ll_trunc(g, words, g->i16), g->i8, 32);
}

/* bf16 bits of 16 even and 16 odd elements in the order of memory. Rounded as 32 halves: up where
 * the lower half, with the last bit of the upper one as its own to break ties, is above 0x8000. */
static Val bf16_pairs_avx512(Gen *g, Val even, Val odd, bool plain) {
  Val a = ll_bits(g, even, g->i32), b = ll_bits(g, odd, g->i32);
  Ty t = LLVMTypeOf(a), halves = ll_vec(g->i16, 32);
  Val upper = ll_i(t, 0xffff0000);
  Val high = select_bits_avx512(g, upper, b, ll_lshr(g, a, 16));
  Val low = select_bits_avx512(g, upper, ll_shl(g, b, 16), a);
  Val odd_args[] = {low, high, ll_i(t, 0x10001), LLVMConstInt(g->i32, 0xf8, 0)};
  low = ll_call(g, "llvm.x86.avx512.pternlog.d.512", NULL, 4, odd_args); /* low | (high & 1) */
  low = LLVMBuildBitCast(g->b, low, halves, "");
  Val up = ll_icmp(g, LLVMIntUGT, low, ll_i(halves, 0x8000));
  Val word = LLVMBuildBitCast(g->b, high, halves, "");
  /* one that LLVM does not know: else it makes numbers of the mask, one instruction more */
  Val one = ll_fence(g, ll_bits(g, ll_i(t, 0x10001), g->f32));
  word = ll_sel(g, up, ll_add(g, word, LLVMBuildBitCast(g->b, one, halves, "")), word);
  if (plain)
    return word;
  Rare rare = if_nan(g, nan_bits(g, even, odd), word);
  Val nan_a = ll_and(g, ll_sext(g, ll_fcmp(g, LLVMRealUNO, even, even), g->i32), ll_i(t, 0xffff));
  Val nan_b = ll_and(g, ll_sext(g, ll_fcmp(g, LLVMRealUNO, odd, odd), g->i32), upper);
  Val quiet = ll_or(g, high, ll_i(t, 0x400040));
  Val bits = LLVMBuildBitCast(g->b, word, LLVMTypeOf(high), "");
  bits = select_bits_avx512(g, ll_or(g, nan_a, nan_b), quiet, bits);
  word = LLVMBuildBitCast(g->b, bits, halves, "");
  return end_nan(g, &rare, word);
}

Val ll_plain_nan(Gen *g, Val v) {
  return ll_sel(g, ll_fcmp(g, LLVMRealUNO, v, v), ll_f(LLVMTypeOf(v), NAN), v);
}

Val ll_encode_pairs(Gen *g, DType dt, Val v, bool plain) {
  bool fp8 = dt == MPCC_E4M3 || dt == MPCC_E5M2;
  if ((dt != MPCC_BF16 && !fp8) || ll_elem(v) != g->f32)
    return ll_interleave(g, ll_encode(g, dt, v));
  int n = ll_lanes(v), half = n / 2;
  if (g->level->avx512 && (half == 16 || (half == 32 && fp8))) {
    Val a = ll_slice(g, v, 0, half), b = ll_slice(g, v, half, half);
    return fp8 ? fp8_pairs_avx512(g, dt, a, b) : bf16_pairs_avx512(g, a, b, plain);
  }
  Val r = fp8 ? fp8_codes(g, dt, v) : plain ? nearest_bf16(g, v) : round_bf16(g, v);
  Val even = ll_slice(g, r, 0, half), odd = ll_slice(g, r, half, half);
  Ty t = LLVMTypeOf(even);
  if (fp8)
    return recast(g, ll_trunc(g, ll_or(g, even, ll_shl(g, odd, 8)), g->i16), g->i8, n);
  Val words = ll_or(g, ll_lshr(g, even, 16), ll_and(g, odd, ll_i(t, 0xffff0000)));
  return recast(g, words, g->i16, n);
}

Val ll_encode_words(Gen *g, DType dt, const Val *v) {
  int bits = 8 * (int)dtype_bytes(dt);
  bool wide = g->level->avx512 && ll_lanes(v[0]) == 16;
  if (wide && dt == MPCC_BF16)
    return recast(g, bf16_pairs_avx512(g, v[0], v[1], false), g->i32, 16);
  if (wide && (dt == MPCC_E4M3 || dt == MPCC_E5M2)) {
    Val even[] = {v[0], v[2]}, odd[] = {v[1], v[3]};
    Val words = fp8_tested_avx512(g, dt, even, odd, 2);
    return ll_or(g, ll_slice(g, words, 0, 16), ll_shl(g, ll_slice(g, words, 16, 16), 16));
  }
  Val word = NULL;
  for (int k = 0; k * bits < 32; k++) {
    Val part = ll_shl(g, ll_zext(g, ll_encode(g, dt, v[k]), g->i32), k * bits);
    word = word ? ll_or(g, word, part) : part;
  }
  return word;
}

Val ll_get(Gen *g, DType dt, int lanes, Val at, Val count) {
  return ll_decode(g, dt, ll_load(g, ll_mem(g, dt), lanes, at, count));
}

void ll_put(Gen *g, DType dt, Val v, Val at, Val count) {
  ll_store(g, ll_encode(g, dt, v), at, count);
}
