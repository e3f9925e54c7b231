/* Elementary functions as vector code: argument reduction and minimax polynomials of our own fit
 * (tools/fit_poly.py writes coeff.h). Bounds are measured by tests/unit/cpu_math.c and listed in
 * README.md. All are free of branches and of calls; NaN in, NaN out. */
#include <math.h>
#include <string.h>

#include "codegen/coeff.h"
#include "codegen/cpu/llvm.h"

#define POLY(g, x, c) poly(g, x, c, (int)(sizeof(c) / sizeof(c)[0]))

/* ln 2 in f32 and what that lacks. */
#define LN2_HIGH 0x1.62e43p-1
#define LN2_LOW (-0x1.05c610ca86c39p-29)

/* Facts of the two register formats. */
typedef struct {
  bool wide;
  Ty ty;           /* scalar or vector float type */
  Ty bits;         /* integer element of the same width */
  int mbits, bias; /* of the format */
  double magic;    /* 1.5 * 2^mbits: x + magic has round(x) in its low bits */
  int64_t magic_bits;
} Format;

static Format format_of(Gen *g, Val x) {
  bool wide = ll_elem(x) == g->f64;
  Format f = {wide,
              LLVMTypeOf(x),
              wide ? g->i64 : g->i32,
              wide ? 52 : 23,
              wide ? 1023 : 127,
              wide ? 0x1.8p52 : 0x1.8p23,
              wide ? 0x4338000000000000 : 0x4b400000};
  return f;
}

static Val poly(Gen *g, Val x, const double *c, int n) {
  Val p = ll_f(LLVMTypeOf(x), c[n - 1]);
  for (int i = n - 2; i >= 0; i--)
    p = ll_fma(g, p, x, ll_f(LLVMTypeOf(x), c[i]));
  return p;
}

/* Plain arithmetic without contraction: exactness below depends on the order. */
static Val add(Gen *g, Val a, Val b) {
  return LLVMBuildFAdd(g->b, a, b, "");
}

static Val sub(Gen *g, Val a, Val b) {
  return LLVMBuildFSub(g->b, a, b, "");
}

static Val mul(Gen *g, Val a, Val b) {
  return LLVMBuildFMul(g->b, a, b, "");
}

/* The order of the comparisons lets NaN pass. */
static Val at_most(Gen *g, Val x, double high) {
  Val h = ll_f(LLVMTypeOf(x), high);
  return ll_sel(g, ll_fcmp(g, LLVMRealOGT, x, h), h, x);
}

static Val at_least(Gen *g, Val x, double low) {
  Val l = ll_f(LLVMTypeOf(x), low);
  return ll_sel(g, ll_fcmp(g, LLVMRealOLT, x, l), l, x);
}

static Val with_sign_of(Gen *g, Val magnitude, Val x, const Format *f) {
  Val sign =
      ll_and(g, ll_bits(g, x, f->bits), ll_i(ll_like(x, f->bits), INT64_MIN >> (f->wide ? 0 : 32)));
  return ll_bits(g, ll_or(g, ll_bits(g, magnitude, f->bits), sign), f->wide ? g->f64 : g->f32);
}

/* ---- exponential ---- */

/* x = n ln 2 + r. */
typedef struct {
  Val n;     /* as float */
  Val n_int; /* as integer */
  Val r;
} Reduced;

static Reduced reduce_exp(Gen *g, Val x, const Format *f) {
  Reduced d;
  Val shifted = ll_fma(g, x, ll_f(f->ty, 1.4426950408889634), ll_f(f->ty, f->magic));
  d.n_int = ll_sub(g, ll_bits(g, shifted, f->bits), ll_i(ll_like(x, f->bits), f->magic_bits));
  d.n = sub(g, shifted, ll_f(f->ty, f->magic));
  /* ln 2 as the format's nearest number and the rest; the products are exact inside fma */
  double high = f->wide ? 0x1.62e42fefa39efp-1 : LN2_HIGH;
  double low = f->wide ? 0x1.abc9e3b39803fp-56 : LN2_LOW;
  d.r = ll_fma(g, d.n, ll_f(f->ty, -high), x);
  d.r = ll_fma(g, d.n, ll_f(f->ty, -low), d.r);
  return d;
}

/* exp(r) - 1 on the reduced range. */
static Val expm1_poly(Gen *g, Val r, const Format *f) {
  Val q = f->wide ? POLY(g, r, exp_f64) : POLY(g, r, exp_f32);
  return ll_fma(g, mul(g, r, r), q, r);
}

/* 2^n for integers n in the normal range. */
static Val power2(Gen *g, Val n, const Format *f) {
  Val biased = ll_add(g, n, ll_i(LLVMTypeOf(n), f->bias));
  return ll_bits(g, ll_shl(g, biased, f->mbits), f->wide ? g->f64 : g->f32);
}

/* p 2^n with the AVX-512 instruction, by halves when the vector is longer than a register. */
static Val scalef(Gen *g, Val p, Val n, const Format *f) {
  int lanes = ll_lanes(p), most = f->wide ? 8 : 16;
  if (lanes > most) {
    Val a = scalef(g, ll_slice(g, p, 0, lanes / 2), ll_slice(g, n, 0, lanes / 2), f);
    return ll_join(
        g, a,
        scalef(g, ll_slice(g, p, lanes / 2, lanes / 2), ll_slice(g, n, lanes / 2, lanes / 2), f));
  }
  const char *name =
      f->wide ? "llvm.x86.avx512.mask.scalef.pd.512" : "llvm.x86.avx512.mask.scalef.ps.512";
  Val args[] = {p, n, p, LLVMConstInt(f->wide ? g->i8 : g->i16, f->wide ? 0xff : 0xffff, 0),
                LLVMConstInt(g->i32, 4, 0)};
  return ll_call(g, name, NULL, 5, args);
}

/* p 2^n, rounded once where it becomes subnormal or overflows. */
static Val scale(Gen *g, Val p, const Reduced *d, const Format *f) {
  int bytes = ll_lanes(p) * (f->wide ? 8 : 4);
  if (g->level->avx512 && bytes % 64 == 0)
    return scalef(g, p, d->n, f);
  Val half = ll_ashr(g, d->n_int, 1);
  if (f->wide) /* no 64-bit arithmetic shift before AVX-512: shift in the low halves */
    half = ll_sext(g, ll_ashr(g, ll_trunc(g, d->n_int, g->i32), 1), g->i64);
  Val rest = ll_sub(g, d->n_int, half);
  return mul(g, mul(g, p, power2(g, half, f)), power2(g, rest, f));
}

/* ---- functions in pieces: AVX-512 looks 16 or 32 numbers up with one instruction ------------- */

static bool has_pieces(Gen *g, Val x) {
  return g->level->avx512 && ll_elem(x) == g->f32 && ll_lanes(x) % 16 == 0;
}

static Val numbers(Gen *g, const float *table) {
  Val lane[16];
  for (int i = 0; i < 16; i++)
    lane[i] = LLVMConstReal(g->f32, (double)table[i]);
  return LLVMConstVector(lane, 16);
}

/* x = n ln 2 / 16 + r: exp(x) = 2^floor(n / 16) 2^(n mod 16 / 16) exp(r); x is in range. Fewer
 * instructions and a shorter chain than one polynomial of the whole octave. */
static Val exp_in_pieces(Gen *g, Val x) {
  Format f = format_of(g, x);
  double magic = 0x1.8p19; /* rounds to sixteenths, whose number is in the low bits then */
  Val shifted = ll_fma(g, x, ll_f(f.ty, 1.4426950408889634), ll_f(f.ty, magic));
  Val n = sub(g, shifted, ll_f(f.ty, magic));
  Val r = ll_fma(g, n, ll_f(f.ty, -LN2_HIGH), x);
  r = ll_fma(g, n, ll_f(f.ty, -LN2_LOW), r);
  Val root[] = {numbers(g, exp_roots), ll_bits(g, shifted, g->i32)};
  root[0] = ll_call(g, "llvm.x86.avx512.permvar.sf.512", NULL, 2, root);
  Val p = ll_fma(g, mul(g, root[0], r), POLY(g, r, exp_near_0), root[0]);
  return scalef(g, p, n, &f);
}

Val ll_exp(Gen *g, Val x) {
  /* beyond this the result is infinity, beyond that of exp_to_1 zero */
  return ll_exp_to_1(g, at_most(g, x, format_of(g, x).wide ? 710 : 89));
}

Val ll_exp_to_1(Gen *g, Val x) {
  Format f = format_of(g, x);
  x = at_least(g, x, f.wide ? -746 : -104);
  if (has_pieces(g, x))
    return ll_by_parts(g, x, 16, exp_in_pieces);
  Reduced d = reduce_exp(g, x, &f);
  return scale(g, add(g, expm1_poly(g, d.r, &f), ll_f(f.ty, 1)), &d, &f);
}

/* table[place mod 32] of 16 lanes. */
static Val look_up(Gen *g, const float *table, Val place) {
  Val args[] = {numbers(g, table), place, numbers(g, table + 16)};
  return ll_call(g, "llvm.x86.avx512.vpermi2var.ps.512", NULL, 3, args);
}

enum { TANH_LAST = (127 + 3) * 4 % 32 };

/* Rows: centres, constant terms, first powers ... of pieces; y lies in piece `place`. */
static Val piece(Gen *g, const float (*table)[32], int rows, Val place, Val y) {
  Val t = sub(g, y, look_up(g, table[0], place)); /* exact */
  Val p = look_up(g, table[rows - 1], place);
  for (int i = rows - 2; i >= 1; i--)
    p = ll_fma(g, p, t, look_up(g, table[i], place));
  return p;
}
#define PIECE(g, table, place, y) piece(g, table, sizeof(table) / sizeof *(table), place, y)

/* Pieces of 1/8 around multiples of 1/8. */
static Val erf_in_pieces(Gen *g, Val x) {
  Format f = format_of(g, x);
  Val y = at_most(g, ll_fabs(g, x), (double)erf_pieces[0][31]);
  Val place = ll_bits(g, add(g, y, ll_f(f.ty, 0x1.8p20)), g->i32); /* rounds to eighths */
  return with_sign_of(g, PIECE(g, erf_pieces, place, y), x, &f);
}

/* Pieces of a quarter of an octave from 1/8 on, found by the leading bits. */
static Val tanh_in_pieces(Gen *g, Val x) {
  Format f = format_of(g, x);
  Val y = at_most(g, ll_fabs(g, x), (double)tanh_pieces[0][TANH_LAST]);
  Val place = ll_lshr(g, ll_bits(g, at_least(g, y, 0.124), g->i32), 21);
  return with_sign_of(g, PIECE(g, tanh_pieces, place, y), x, &f);
}

/* tanh|x| = u / (u + 2), u = exp(2 |x|) - 1: no cancellation, one division. */
Val ll_tanh(Gen *g, Val x) {
  if (has_pieces(g, x))
    return ll_by_parts(g, x, 16, tanh_in_pieces);
  Format f = format_of(g, x);
  Val y = ll_fabs(g, x);
  y = at_most(g, add(g, y, y), f.wide ? 44 : 20);
  Reduced d = reduce_exp(g, y, &f);
  Val s = power2(g, d.n_int, &f);
  Val u = ll_fma(g, s, expm1_poly(g, d.r, &f), sub(g, s, ll_f(f.ty, 1)));
  Val t = LLVMBuildFDiv(g->b, u, add(g, u, ll_f(f.ty, 2)), "");
  return with_sign_of(g, t, x, &f);
}

Val ll_erf(Gen *g, Val x) {
  if (has_pieces(g, x))
    return ll_by_parts(g, x, 16, erf_in_pieces);
  Format f = format_of(g, x);
  double split = f.wide ? 1.0 : 0.921875;
  Val t = ll_fabs(g, x), z = mul(g, t, t);
  Val small = ll_fma(g, t, f.wide ? POLY(g, z, erf_f64) : POLY(g, z, erf_f32), t);
  Val u = sub(g, at_most(g, t, f.wide ? 6.0 : 4.0), ll_f(f.ty, split));
  Val q = f.wide ? POLY(g, u, erfc_f64) : POLY(g, u, erfc_f32);
  /* -39 < q for small u: no care for subnormal results; far below split q is garbage, unused */
  Reduced d = reduce_exp(g, at_least(g, at_most(g, q, 0), -60), &f);
  Val e = mul(g, add(g, expm1_poly(g, d.r, &f), ll_f(f.ty, 1)), power2(g, d.n_int, &f));
  Val large = sub(g, ll_f(f.ty, 1), e);
  Val r = ll_sel(g, ll_fcmp(g, LLVMRealOGT, t, ll_f(f.ty, split)), large, small);
  return with_sign_of(g, r, x, &f);
}

/* ---- logarithm ---- */

/* x = 2^e (1 + fraction), sqrt(1/2) <= 1 + fraction < sqrt(2), for positive finite x. */
static Val split_log(Gen *g, Val x, const Format *f, Val *e) {
  Ty bits = ll_like(x, f->bits);
  double smallest = f->wide ? 0x1p-1022 : 0x1p-126;
  double up = f->wide ? 0x1p54 : 0x1p25;
  Val tiny = ll_fcmp(g, LLVMRealOLT, x, ll_f(f->ty, smallest));
  x = ll_sel(g, tiny, mul(g, x, ll_f(f->ty, up)), x);
  int64_t root_half = f->wide ? 0x3fe6a09e667f3bcd : 0x3f3504f3;
  Val b = ll_sub(g, ll_bits(g, x, f->bits), ll_i(bits, root_half));
  Val n;
  if (f->wide) /* the exponent is in the high halves: 32-bit arithmetic shift */
    n = ll_sext(g, ll_ashr(g, ll_trunc(g, ll_lshr(g, b, 32), g->i32), 20), g->i64);
  else
    n = ll_ashr(g, b, 23);
  Val m = ll_add(g, ll_and(g, b, ll_i(bits, ((int64_t)1 << f->mbits) - 1)), ll_i(bits, root_half));
  Val shifted = ll_bits(g, ll_add(g, n, ll_i(bits, f->magic_bits)), f->wide ? g->f64 : g->f32);
  *e = sub(g, shifted, ll_f(f->ty, f->magic));
  *e = sub(g, *e, ll_sel(g, tiny, ll_f(f->ty, f->wide ? 54 : 25), ll_f(f->ty, 0)));
  return sub(g, ll_bits(g, m, f->wide ? g->f64 : g->f32), ll_f(f->ty, 1));
}

static Val log_finite(Gen *g, Val x, const Format *f) {
  Val e, y = split_log(g, x, f, &e), half_square = mul(g, mul(g, y, y), ll_f(f->ty, 0.5));
  /* e times the high part of ln 2 is exact: it ends in zeros */
  double high = f->wide ? 0x1.62e42fee00000p-1 : 0.693359375;
  double low = f->wide ? 0x1.a39ef35793c76p-33 : -0x1.bd0105c610ca8p-13;
  Val e_low = mul(g, e, ll_f(f->ty, low)), tail;
  if (f->wide) {
    Val s = LLVMBuildFDiv(g->b, y, add(g, y, ll_f(f->ty, 2)), ""), z = mul(g, s, s);
    Val rest = mul(g, z, POLY(g, z, atanh_f64));
    tail = ll_fma(g, s, add(g, half_square, rest), e_low);
  } else {
    Val cube = mul(g, mul(g, y, y), y);
    tail = ll_fma(g, cube, POLY(g, y, log_f32), e_low);
  }
  Val r = sub(g, y, sub(g, half_square, tail));
  return ll_fma(g, e, ll_f(f->ty, high), r);
}

Val ll_log(Gen *g, Val x) {
  Format f = format_of(g, x);
  Val r = log_finite(g, x, &f), zero = ll_f(f.ty, 0), inf = ll_f(f.ty, INFINITY);
  Val pole = ll_sel(g, ll_fcmp(g, LLVMRealOEQ, x, zero), ll_f(f.ty, -INFINITY), ll_f(f.ty, NAN));
  r = ll_sel(g, ll_fcmp(g, LLVMRealOEQ, x, inf), inf, r);
  return ll_sel(g, ll_fcmp(g, LLVMRealOGT, x, zero), r, pole);
}

/* ---- sine and cosine ---- */

/* x = n pi/2 + r in f64 (also for f32, where this makes the reduction exact enough for every
 * argument that matters); quadrant has n mod 4 in its low bits, in the integer type of x. */
static Val reduce_trig(Gen *g, Val x, const Format *f, Val *quadrant) {
  Val y = f->wide ? x : ll_fext(g, x, g->f64);
  Ty t = LLVMTypeOf(y);
  Val shifted = ll_fma(g, y, ll_f(t, 0x1.45f306dc9c883p-1), ll_f(t, 0x1.8p52));
  Val n = sub(g, shifted, ll_f(t, 0x1.8p52));
  Val r = ll_fma(g, n, ll_f(t, -0x1.921fb54442d18p0), y);
  r = ll_fma(g, n, ll_f(t, -0x1.1a62633145c07p-54), r);
  /* past 2^51 quarter turns n is no integer: keep the polynomials in their range */
  r = at_least(g, at_most(g, r, 0.8), -0.8);
  *quadrant = ll_bits(g, shifted, g->i64);
  if (f->wide)
    return r;
  *quadrant = ll_trunc(g, *quadrant, g->i32);
  return ll_ftrunc(g, r, g->f32);
}

/* sin(x + turns pi/2). */
static Val sine(Gen *g, Val x, int turns) {
  Format f = format_of(g, x);
  Val q, r = reduce_trig(g, x, &f, &q), z = mul(g, r, r);
  Ty bits = LLVMTypeOf(q);
  q = ll_add(g, q, ll_i(bits, turns));
  Val s = f.wide ? POLY(g, z, sin_f64) : POLY(g, z, sin_f32);
  s = ll_fma(g, mul(g, r, z), s, r);
  s = ll_sel(g, ll_fcmp(g, LLVMRealOEQ, r, ll_f(f.ty, 0)), r, s); /* keeps the sign of zero */
  Val c = f.wide ? POLY(g, z, cos_f64) : POLY(g, z, cos_f32);
  Val half = mul(g, z, ll_f(f.ty, 0.5)), one = ll_f(f.ty, 1), w = sub(g, one, half);
  /* (1 - w) - z/2 is what 1 - z/2 lost */
  c = add(g, w, ll_fma(g, mul(g, z, z), c, sub(g, sub(g, one, w), half)));
  Val odd = ll_icmp(g, LLVMIntNE, ll_and(g, q, ll_i(bits, 1)), ll_i(bits, 0));
  Val v = ll_sel(g, odd, c, s);
  Val sign = ll_shl(g, ll_and(g, q, ll_i(bits, 2)), f.wide ? 62 : 30);
  return ll_bits(g, ll_xor(g, ll_bits(g, v, f.bits), sign), f.wide ? g->f64 : g->f32);
}

Val ll_sin(Gen *g, Val x) {
  return sine(g, x, 0);
}

Val ll_cos(Gen *g, Val x) {
  return sine(g, x, 1);
}

/* ---- random numbers ---- */

/* Word 0 of Philox4x32-10 (Salmon et al. 2011, sec. 3.3); words are i64 with the upper half zero,
 * so that products are one instruction. A loop: ten rounds in a row take long to compile. */
Val ll_rand(Gen *g, Val seed, Val step, Val element, Val stream) {
  Val low = ll_n(g, 0xffffffff);
  Val args[] = {seed, step, element, stream}, x[4], k[2];
  int lanes = 1;
  for (int i = 0; i < 4; i++)
    lanes = ll_lanes(args[i]) > lanes ? ll_lanes(args[i]) : lanes;
  x[0] = ll_var(g, ll_splat(g, ll_and(g, element, low), lanes));
  x[1] = ll_var(g, ll_splat(g, ll_lshr(g, element, 32), lanes));
  x[2] = ll_var(g, ll_splat(g, ll_and(g, step, low), lanes));
  x[3] = ll_var(g, ll_splat(g, ll_and(g, stream, low), lanes));
  k[0] = ll_var(g, ll_and(g, seed, low));
  k[1] = ll_var(g, ll_lshr(g, seed, 32));
  Loop round = ll_loop(g, ll_n(g, 0), ll_n(g, 10), 1);
  Val k0 = ll_var_get(g, k[0]), k1 = ll_var_get(g, k[1]);
  Val p0 = ll_mul(g, ll_and(g, ll_var_get(g, x[0]), low), ll_n(g, 0xD2511F53));
  Val p1 = ll_mul(g, ll_and(g, ll_var_get(g, x[2]), low), ll_n(g, 0xCD9E8D57));
  ll_var_set(g, x[0], ll_xor(g, ll_xor(g, ll_lshr(g, p1, 32), ll_var_get(g, x[1])), k0));
  ll_var_set(g, x[1], ll_and(g, p1, low));
  ll_var_set(g, x[2], ll_xor(g, ll_xor(g, ll_lshr(g, p0, 32), ll_var_get(g, x[3])), k1));
  ll_var_set(g, x[3], ll_and(g, p0, low));
  ll_var_set(g, k[0], ll_and(g, ll_add(g, k0, ll_n(g, 0x9E3779B9)), low));
  ll_var_set(g, k[1], ll_and(g, ll_add(g, k1, ll_n(g, 0xBB67AE85)), low));
  ll_loop_end(g, &round);
  Val mantissa = ll_trunc(g, ll_lshr(g, ll_var_get(g, x[0]), 8), g->i32);
  Val u = ll_sitof(g, mantissa, g->f32);
  return mul(g, u, ll_f(LLVMTypeOf(u), 0x1p-24));
}
