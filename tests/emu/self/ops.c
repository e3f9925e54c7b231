/* Every opcode that treats each lane alone, in every spelling of the table, against C: PTX is
 * written around the opcode, run by two warps (one in part, and a branch around the opcode for a
 * quarter of the lanes), and compared with an oracle that reads the opcode's name. An opcode that
 * the oracle does not know fails, so a new row needs a case here. */
#include <fenv.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mpcc/num.h"
#include "provers.h"
#include "tests/check_run.h"

typedef struct {
  char kind; /* u s b f p(redicate), h(alf) for bf16 */
  int bits;
} Type;

enum { MAX_MODS = 8, N = 1000, ACTIVE = N / 4 * 3 };

typedef struct {
  char text[1024];
  char *mod[MAX_MODS];
  int n;
} Name;

static void split(Name *p, const char *op) {
  snprintf(p->text, sizeof p->text, "%s", op);
  p->n = 0;
  for (char *s = strtok(p->text, "."); s && p->n < MAX_MODS; s = strtok(NULL, "."))
    p->mod[p->n++] = s;
}
static bool has(const Name *p, const char *mod) {
  for (int i = 1; i < p->n; i++)
    if (strcmp(p->mod[i], mod) == 0)
      return true;
  return false;
}
static Type type_named(const char *s) {
  if (strcmp(s, "pred") == 0)
    return (Type){'p', 32};
  if (strcmp(s, "bf16") == 0)
    return (Type){'h', 16};
  return (Type){s[0], atoi(s + 1)};
}

/* ---- values ---- */

static float as_f32(uint64_t bits) {
  return num_f32_from_bits((uint32_t)bits);
}
static double as_f64(uint64_t bits) {
  return num_f64_from_bits(bits);
}
static uint64_t bits_f32(float v) {
  return num_f32_bits(v);
}
static uint64_t cut(uint64_t v, int bits) {
  return bits == 64 ? v : v & ((UINT64_C(1) << bits) - 1);
}
static int64_t extend(uint64_t v, int bits) {
  return (int64_t)(v << (64 - bits)) >> (64 - bits);
}
static __int128 integer(Type t, uint64_t v) {
  return t.kind == 's' ? extend(v, t.bits) : (__int128)cut(v, t.bits);
}

static const double reals[] = {0.0,
                               -0.0,
                               1.0,
                               -1.0,
                               0.5,
                               1.5,
                               2.5,
                               -2.5,
                               1e-40,
                               -3e-39,
                               0x1p-126,
                               3e38,
                               -3e38,
                               448.0,
                               464.0,
                               480.0,
                               57344.0,
                               61440.0,
                               0x1p31,
                               -0x1p31,
                               0x1p32,
                               65504.0,
                               65520.0,
                               0x1p-24,
                               0x1p-25,
                               0x1.8p-10,
                               1e-8,
                               127.5,
                               -128.5,
                               255.49,
                               0x1p63,
                               -0x1p63,
                               1e20,
                               INFINITY,
                               -INFINITY,
                               NAN,
                               0x1p-149,
                               -0x1p-149,
                               0x1.fffffep127,
                               -0x1.fffffep127,
                               0x1.fffffcp-127,
                               0x1.000002p0,
                               0x1.8p-64,
                               -0x1.5555p-70};
static const uint64_t wholes[] = {0,
                                  1,
                                  2,
                                  3,
                                  31,
                                  32,
                                  33,
                                  63,
                                  64,
                                  65,
                                  127,
                                  128,
                                  255,
                                  256,
                                  7,
                                  32767,
                                  32768,
                                  65535,
                                  0x7FFFFFFF,
                                  0x80000000,
                                  0xFFFFFFFF,
                                  0xFFFF8000,
                                  UINT64_MAX,
                                  UINT64_C(1) << 63,
                                  (UINT64_C(1) << 63) - 1,
                                  0x5410,
                                  0xFEDCBA98,
                                  0xFFFFFFFF80000000,
                                  0x100000000};
enum { REALS = sizeof reals / sizeof *reals, WHOLES = sizeof wholes / sizeof *wholes };

static int edges_of(Type t) {
  return t.kind == 'f' && t.bits > 16 ? REALS : t.kind == 'p' ? 2 : WHOLES;
}
static uint64_t edge(Type t, int i) {
  return t.kind == 'f' && t.bits == 32   ? bits_f32((float)reals[i])
         : t.kind == 'f' && t.bits == 64 ? num_f64_bits(reals[i])
         : t.kind == 'p'                 ? (i ? UINT32_MAX : 0)
                                         : wholes[i];
}

static uint64_t some_value(Type t, uint64_t *seed, int i) {
  const uint64_t r = emu_random(seed);
  if (i % 3 == 0 || t.kind == 'p')
    return edge(t, (int)(r % (uint64_t)edges_of(t)));
  if (t.kind == 'f' && t.bits == 32)
    return i % 3 == 1 ? bits_f32((float)((double)(int64_t)(r >> 20) * 0x1p-43) * 20.0f)
                      : r & UINT32_MAX;
  if (t.kind == 'f' && t.bits == 64)
    return i % 3 == 1 ? num_f64_bits((double)(int64_t)r * 0x1p-50) : r;
  return i % 3 == 1 ? r % 40 : r;
}

/* A number between two neighbours of a narrow type, or as good as: where rounding decides. */
static uint64_t near_tie(Type t, DType narrow, uint64_t r) {
  const uint32_t codes = narrow == MPCC_E4M3   ? 0x7D
                         : narrow == MPCC_E5M2 ? 0x7B
                         : narrow == MPCC_F16  ? 0x7BFE
                                               : 0x7F7E,
                 c = (uint32_t)(r % codes);
  const double v = num_decode_as(c, num_format(narrow)),
               w = num_decode_as(c + 1, num_format(narrow)),
               middle = r >> 60 & 1 ? -(v + w) / 2 : (v + w) / 2;
  if (t.bits == 64)
    return num_f64_bits(middle) + (r >> 40 & 3) - 1;
  return (uint64_t)(bits_f32((float)middle) + (uint32_t)(r >> 40 & 3) - 1);
}

/* Operands of every round: of one operand all 16-bit codes, or edges and ties; of two all pairs of
 * edges; of three and four triples of edges by chance; then any numbers. */
static int rounds_of(const Type t[5], int sources) {
  const int one = t[1].bits <= 16 ? (65536 + ACTIVE - 1) / ACTIVE : 9;
  return sources == 1   ? one
         : sources == 2 ? (edges_of(t[1]) * edges_of(t[2]) + ACTIVE - 1) / ACTIVE + 3
                        : 12;
}
static uint64_t operand(const Type t[5], int sources, int k, int round, int lane, uint64_t *seed) {
  static const DType narrow[] = {MPCC_F16, MPCC_BF16, MPCC_E4M3, MPCC_E5M2};
  const int tuple = round * ACTIVE + lane - lane / 4, all = edges_of(t[1]) * edges_of(t[2]);
  const Type mine = t[1 + k];
  if (sources == 1 && mine.bits <= 16)
    return (uint64_t)tuple | emu_random(seed) << 16;
  if (sources == 2 && tuple < all)
    return edge(mine, k ? tuple / edges_of(t[1]) : tuple % edges_of(t[1]));
  if (sources > 2 && round % 3)
    return edge(mine, (int)(emu_random(seed) % (uint64_t)edges_of(mine)));
  if (mine.kind == 'f' && mine.bits > 16 && round % 3 == 1)
    return near_tie(mine, narrow[lane % 4], emu_random(seed));
  return some_value(mine, seed, lane + k + round);
}

/* ---- the oracle ---- */

static float ftz(float v) {
  return fpclassify(v) == FP_SUBNORMAL ? copysignf(0, v) : v;
}

static int round_mode(const Name *p) {
  return has(p, "rz")   ? FE_TOWARDZERO
         : has(p, "rm") ? FE_DOWNWARD
         : has(p, "rp") ? FE_UPWARD
                        : FE_TONEAREST;
}

/* Arithmetic in the type itself, in the rounding direction of the name. */
static float f32_rounded(int mode, char op, float x, float y, float z) {
  fesetround(mode);
  volatile float a = x, b = y, c = z, r = 0;
  r = op == '+' ? a + b : op == '-' ? a - b : op == '*' ? a * b : op == '/' ? a / b : fmaf(a, b, c);
  fesetround(FE_TONEAREST);
  return r;
}

static double smaller(double a, double b) {
  return isnan(a) ? b : isnan(b) ? a : a == b ? (signbit(a) ? a : b) : a < b ? a : b;
}

static bool float_op(const Name *p, const Type t, const uint64_t in[4], uint64_t *out,
                     double *ulps) {
  const char *op = p->mod[0];
  const bool f32 = t.bits == 32, flush = has(p, "ftz") && f32;
  double a = f32 ? (double)as_f32(in[0]) : as_f64(in[0]),
         b = f32 ? (double)as_f32(in[1]) : as_f64(in[1]),
         c = f32 ? (double)as_f32(in[2]) : as_f64(in[2]), r;
  if (flush)
    a = (double)ftz((float)a), b = (double)ftz((float)b), c = (double)ftz((float)c);
  if (f32 && !flush && (strcmp(op, "neg") == 0 || strcmp(op, "abs") == 0 || *op == 'c')) {
    /* the sign bit alone, of NaN too; of copysign b's number gets a's sign */
    const uint32_t x = (uint32_t)in[0], y = (uint32_t)in[1], sign = UINT32_C(1) << 31;
    *out = *op == 'n'   ? x ^ sign
           : *op == 'a' ? x & ~sign
           : *op != 'c' ? 0
                        : (x & sign) | (y & ~sign);
    if (strcmp(op, "cos") != 0)
      return true;
  }
  const int mode = round_mode(p);
  if (has(p, "approx"))
    *ulps = 2;
  if (strcmp(op, "add") == 0)
    r = f32 ? (double)f32_rounded(mode, '+', (float)a, (float)b, 0) : a + b;
  else if (strcmp(op, "sub") == 0)
    r = f32 ? (double)f32_rounded(mode, '-', (float)a, (float)b, 0) : a - b;
  else if (strcmp(op, "mul") == 0)
    r = f32 ? (double)f32_rounded(mode, '*', (float)a, (float)b, 0) : a * b;
  else if (strcmp(op, "div") == 0)
    r = f32 ? (double)f32_rounded(FE_TONEAREST, '/', (float)a, (float)b, 0) : a / b;
  else if (strcmp(op, "fma") == 0 || strcmp(op, "mad") == 0)
    r = f32 ? (double)f32_rounded(mode, 'f', (float)a, (float)b, (float)c) : fma(a, b, c);
  else if (strcmp(op, "min") == 0)
    r = has(p, "NaN") && (isnan(a) || isnan(b)) ? NAN : smaller(a, b);
  else if (strcmp(op, "max") == 0)
    r = has(p, "NaN") && (isnan(a) || isnan(b)) ? NAN : -smaller(-a, -b);
  else if (strcmp(op, "neg") == 0)
    r = -a;
  else if (strcmp(op, "abs") == 0)
    r = fabs(a);
  else if (strcmp(op, "copysign") == 0)
    r = copysign(b, a);
  else if (strcmp(op, "rcp") == 0)
    r = f32 ? (double)f32_rounded(FE_TONEAREST, '/', 1, (float)a, 0) : 1 / a;
  else if (strcmp(op, "sqrt") == 0)
    r = sqrt(a);
  else if (strcmp(op, "rsqrt") == 0)
    r = 1 / sqrt(a);
  else if (strcmp(op, "ex2") == 0)
    r = exp2(a);
  else if (strcmp(op, "lg2") == 0)
    r = log2(a), *ulps = fabs(a - 1) < 0.5 ? 64 : 2; /* absolute near 1: 2^-22, PTX ISA */
  else if (strcmp(op, "sin") == 0)
    r = sin(a);
  else if (strcmp(op, "cos") == 0)
    r = cos(a);
  else if (strcmp(op, "tanh") == 0)
    r = tanh(a);
  else
    return false;
  if (has(p, "sat"))
    r = isnan(r) || r < 0 ? 0 : r > 1 ? 1 : r;
  *out = f32 ? bits_f32(flush ? ftz((float)r) : (float)r) : num_f64_bits(r);
  return true;
}

static bool compare(const Name *p, const char *how, Type t, const uint64_t in[4], uint64_t *out) {
  bool less, equal, unordered = false;
  if (t.kind == 'f') {
    double a = t.bits == 32 ? (double)as_f32(in[0]) : as_f64(in[0]),
           b = t.bits == 32 ? (double)as_f32(in[1]) : as_f64(in[1]);
    if (has(p, "ftz"))
      a = (double)ftz((float)a), b = (double)ftz((float)b);
    less = a < b, equal = a == b, unordered = isnan(a) || isnan(b);
  } else {
    less = integer(t, in[0]) < integer(t, in[1]);
    equal = integer(t, in[0]) == integer(t, in[1]);
  }
  static const struct {
    const char *name;
    int less, equal, greater, unordered;
  } rows[] = {{"eq", 0, 1, 0, 0},  {"ne", 1, 0, 1, 0},  {"lt", 1, 0, 0, 0},  {"le", 1, 1, 0, 0},
              {"gt", 0, 0, 1, 0},  {"ge", 0, 1, 1, 0},  {"lo", 1, 0, 0, 0},  {"ls", 1, 1, 0, 0},
              {"hi", 0, 0, 1, 0},  {"hs", 0, 1, 1, 0},  {"equ", 0, 1, 0, 1}, {"neu", 1, 0, 1, 1},
              {"ltu", 1, 0, 0, 1}, {"leu", 1, 1, 0, 1}, {"gtu", 0, 0, 1, 1}, {"geu", 0, 1, 1, 1},
              {"nan", 0, 0, 0, 1}, {"num", 1, 1, 1, 0}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    if (strcmp(rows[i].name, how) == 0) {
      *out = (unordered ? rows[i].unordered
              : less    ? rows[i].less
              : equal   ? rows[i].equal
                        : rows[i].greater)
                 ? UINT32_MAX
                 : 0;
      return true;
    }
  return false;
}

static bool integer_op(const Name *p, Type t, const uint64_t in[4], uint64_t *out) {
  const char *op = p->mod[0];
  const __int128 a = integer(t, in[0]), b = integer(t, in[1]), c = integer(t, in[2]);
  const bool wide = has(p, "wide"), hi = has(p, "hi");
  __int128 r;
  if (strcmp(op, "add") == 0)
    r = a + b;
  else if (strcmp(op, "sub") == 0)
    r = a - b;
  else if (strcmp(op, "mul") == 0 || strcmp(op, "mad") == 0) {
    const unsigned __int128 product = (unsigned __int128)a * (unsigned __int128)b;
    r = t.kind == 's' ? a * b : (__int128)product;
    if (hi)
      r = t.kind == 's' ? r >> t.bits : (__int128)(product >> t.bits);
    if (*op == 'm' && op[1] == 'a')
      r += wide ? (__int128)in[2] : c;
  } else if (strcmp(op, "min") == 0)
    r = a < b ? a : b;
  else if (strcmp(op, "max") == 0)
    r = a > b ? a : b;
  else if (strcmp(op, "div") == 0)
    r = b ? a / b : -1;
  else if (strcmp(op, "rem") == 0)
    r = b ? a % b : a;
  else if (strcmp(op, "neg") == 0)
    r = -a;
  else if (strcmp(op, "abs") == 0)
    r = a < 0 ? -a : a;
  else if (strcmp(op, "and") == 0)
    r = a & b;
  else if (strcmp(op, "or") == 0)
    r = a | b;
  else if (strcmp(op, "xor") == 0)
    r = a ^ b;
  else if (strcmp(op, "not") == 0)
    r = ~a;
  else if (strcmp(op, "shl") == 0)
    r = (uint32_t)in[1] >= (uint32_t)t.bits ? 0 : (__int128)((unsigned __int128)a << in[1] % 64);
  else if (strcmp(op, "shr") == 0)
    r = (uint32_t)in[1] >= (uint32_t)t.bits ? (a < 0 ? -1 : 0) : a >> (uint32_t)in[1];
  else
    return false;
  *out = (uint64_t)r;
  return true;
}

static bool bit_op(const char *op, const Name *p, Type t, const uint64_t in[4], uint64_t *out) {
  const uint32_t a = (uint32_t)in[0], b = (uint32_t)in[1], c = (uint32_t)in[2], d = (uint32_t)in[3];
  uint64_t r = 0;
  if (strcmp(op, "popc") == 0) {
    for (int i = 0; i < t.bits; i++)
      r += in[0] >> i & 1;
  } else if (strcmp(op, "clz") == 0) {
    while ((int)r < t.bits && !(in[0] >> (t.bits - 1 - (int)r) & 1))
      r++;
  } else if (strcmp(op, "bfind") == 0) {
    r = UINT32_MAX;
    for (uint32_t i = 0; i < 32; i++)
      r = a >> i & 1 ? i : r;
  } else if (strcmp(op, "brev") == 0) {
    for (int i = 0; i < 32; i++)
      r |= (uint64_t)(a >> i & 1) << (31 - i);
  } else if (strcmp(op, "prmt") == 0) {
    for (int k = 0; k < 4; k++) {
      const uint32_t s = c >> (4 * k) & 15, from = s & 4 ? b : a,
                     byte = from >> (8 * (s & 3)) & 255;
      r |= (uint64_t)(s & 8 ? (byte >> 7) * 255 : byte) << (8 * k);
    }
  } else if (strcmp(op, "bfi") == 0) {
    r = t.bits == 64 ? in[1] : b;
    for (uint32_t i = 0, at = c & 255; i < (d & 255) && i + at < (uint32_t)t.bits; i++)
      r = (r & ~(UINT64_C(1) << (i + at))) | (in[0] >> i & 1) << (i + at);
  } else if (strcmp(op, "bfe") == 0) {
    const uint32_t at = b & 255, n = c & 255;
    for (uint32_t i = 0; i < 32; i++) {
      const uint32_t sign = t.kind == 's' && n ? a >> (at + n - 1 > 31 ? 31 : at + n - 1) & 1 : 0;
      r |= (uint64_t)(i < n && at + i < 32 ? a >> (at + i) & 1 : sign) << i;
    }
  } else if (strcmp(op, "shf") == 0) {
    r = has(p, "l") ? (((uint64_t)b << 32 | a) << (c & 31)) >> 32
                    : ((uint64_t)b << 32 | a) >> (c & 31);
  } else if (strcmp(op, "lop3") == 0) {
    for (int i = 0; i < 32; i++)
      r |= (uint64_t)(d >> ((a >> i & 1) * 4 + (b >> i & 1) * 2 + (c >> i & 1)) & 1) << i;
  } else if (strcmp(op, "dp4a") == 0) {
    int64_t s = (int32_t)c;
    for (int k = 0; k < 32; k += 8)
      s += extend(a >> k, 8) * extend(b >> k, 8);
    r = (uint64_t)s;
  } else if (strcmp(op, "dp2a") == 0) { /* halves of a times the two low bytes of b */
    r = c;
    for (int k = 0; k < 2; k++)
      r += (uint64_t)(a >> (16 * k) & 0xffff) * (b >> (8 * k) & 0xff);
  } else {
    return false;
  }
  *out = r;
  return true;
}

static uint32_t narrow(DType d, double v) {
  return isnan(v) ? (d == MPCC_E4M3 || d == MPCC_E5M2 ? 0x7F : 0x7FFF)
                  : num_encode_as(v, num_format(d), false, 0);
}

static uint32_t narrow_toward_zero(DType d, double v) {
  const uint32_t c = narrow(d, v);
  return !isnan(v) && fabs(num_decode_as(c, num_format(d))) > fabs(v) ? c - 1 : c;
}

static double wide_float(Type t, uint64_t v) {
  return t.kind == 'h'  ? num_decode_as((uint32_t)cut(v, 16), num_format(MPCC_BF16))
         : t.bits == 16 ? num_decode_as((uint32_t)cut(v, 16), num_format(MPCC_F16))
         : t.bits == 32 ? (double)as_f32(v)
                        : as_f64(v);
}

static bool packed_cvt(const Name *p, const uint64_t in[4], uint64_t *out) {
  const char *to = p->mod[p->n - 2], *from = p->mod[p->n - 1];
  const double a = (double)as_f32(in[0]), b = (double)as_f32(in[1]);
  const DType small = strstr(to, "e4m3") || strstr(from, "e4m3") ? MPCC_E4M3 : MPCC_E5M2;
  const double high = num_decode_as((uint32_t)in[0] >> 16, num_format(MPCC_F16)),
               low = num_decode_as((uint32_t)in[0] & 0xFFFF, num_format(MPCC_F16));
  if (strcmp(from, "f32") == 0 && strcmp(to, "f16x2") == 0)
    *out = narrow(MPCC_F16, a) << 16 | narrow(MPCC_F16, b);
  else if (strcmp(from, "f32") == 0 && strcmp(to, "bf16x2") == 0)
    *out = narrow(MPCC_BF16, a) << 16 | narrow(MPCC_BF16, b);
  else if (strcmp(from, "f32") == 0)
    *out = narrow(small, a) << 8 | narrow(small, b);
  else if (strcmp(from, "f16x2") == 0)
    *out = narrow(small, high) << 8 | narrow(small, low);
  else
    *out = narrow(MPCC_F16, num_decode_as(in[0] >> 8 & 255, num_format(small))) << 16 |
           narrow(MPCC_F16, num_decode_as(in[0] & 255, num_format(small)));
  return true;
}

static bool cvt(const Name *p, const uint64_t in[4], uint64_t *out) {
  if (strstr(p->mod[p->n - 2], "x2"))
    return packed_cvt(p, in, out);
  if (strcmp(p->mod[p->n - 2], "tf32") == 0) {
    const float a = as_f32(in[0]);
    uint64_t r = cut(in[0], 32); /* nearest multiple of 2^13 units of the last place */
    if (isfinite(a)) {
      const uint64_t rest = r & 0x1FFF;
      const bool up = rest > 0x1000 || (rest == 0x1000 && (has(p, "rna") || (r >> 13 & 1)));
      r = (r - rest) + (up ? 0x2000 : 0);
    }
    *out = r;
    return true;
  }
  const Type to = type_named(p->mod[p->n - 2]), from = type_named(p->mod[p->n - 1]);
  const bool float_from = from.kind == 'f' || from.kind == 'h',
             float_to = to.kind == 'f' || to.kind == 'h';
  if (!float_from && !float_to) {
    *out = (uint64_t)integer(from, in[0]);
  } else if (!float_from) {
    const __int128 v = integer(from, in[0]);
    *out = to.bits == 32 ? bits_f32(v < 0 ? (float)(int64_t)v : (float)(uint64_t)v)
                         : num_f64_bits(v < 0 ? (double)(int64_t)v : (double)(uint64_t)v);
  } else {
    double v = wide_float(from, in[0]);
    v = has(p, "ftz") ? (double)ftz((float)v) : v;
    if (has(p, "sat"))
      v = isnan(v) ? 0 : v < 0 ? 0 : v > 1 ? 1 : v;
    const double w = has(p, "rzi")   ? trunc(v)
                     : has(p, "rni") ? nearbyint(v)
                     : has(p, "rmi") ? floor(v)
                     : has(p, "rpi") ? ceil(v)
                                     : v;
    if (!float_to) {
      const __int128 one = 1,
                     top = to.kind == 's' ? (one << (to.bits - 1)) - 1 : (one << to.bits) - 1,
                     bottom = to.kind == 's' ? -(one << (to.bits - 1)) : 0;
      *out = isnan(w)              ? (to.bits == 64 ? UINT64_C(1) << 63 : 0)
             : w <= (double)bottom ? (uint64_t)bottom
             : w >= (double)top    ? (uint64_t)top
                                   : (uint64_t)(__int128)w;
    } else if (to.bits == 16) {
      const DType d = to.kind == 'h' ? MPCC_BF16 : MPCC_F16;
      *out = has(p, "rz") ? narrow_toward_zero(d, w) : narrow(d, w);
    } else if (to.bits == 32) {
      float f = (float)w;
      if (has(p, "rz") && fabs((double)f) > fabs(w))
        f = nextafterf(f, 0);
      *out = bits_f32(has(p, "ftz") ? ftz(f) : f);
    } else {
      *out = num_f64_bits(w);
    }
  }
  return true;
}

/* Types of the operands: result first. False: the oracle does not know the opcode. */
static bool signature(const Name *p, Type t[5]) {
  const char *op = p->mod[0];
  const Type last = type_named(p->mod[p->n - 1]), u32 = {'u', 32};
  for (int i = 0; i < 5; i++)
    t[i] = last;
  if (strcmp(op, "cvta") == 0) {
    t[0] = t[1] = (Type){'u', 64};
  } else if (strcmp(op, "cvt") == 0) {
    const char *to = p->mod[p->n - 2], *from = p->mod[p->n - 1];
    t[0] = strstr(to, "16x2") || strcmp(to, "tf32") == 0 ? u32
           : strstr(to, "x2")                            ? (Type){'u', 16}
                                                         : type_named(to);
    t[1] = t[2] = strstr(from, "16x2") ? u32 : strstr(from, "x2") ? (Type){'u', 16} : last;
  } else if (strcmp(op, "setp") == 0) {
    t[0] = (Type){'p', 32};
  } else if (strcmp(op, "selp") == 0) {
    t[3] = (Type){'p', 32};
  } else if (strcmp(op, "shl") == 0 || strcmp(op, "shr") == 0) {
    t[2] = u32;
  } else if (has(p, "wide")) {
    t[0] = t[3] = (Type){last.kind, 2 * last.bits};
  } else if (strcmp(op, "popc") == 0 || strcmp(op, "clz") == 0) {
    t[0] = u32;
  } else if (strncmp(p->mod[p->n - 1], "pack", 4) == 0) {
    const int parts = p->mod[p->n - 1][4] - '0', whole = atoi(p->mod[1] + 1);
    t[0] = (Type){'u', whole};
    for (int i = 1; i < 5; i++)
      t[i] = (Type){'u', whole / parts};
  } else if (strcmp(op, "bfe") == 0) {
    t[2] = t[3] = u32;
  }
  return true;
}

static bool oracle(const Name *p, const Type t[5], const uint64_t in[4], uint64_t *out,
                   double *ulps) {
  const char *op = p->mod[0];
  *ulps = 0;
  if (strncmp(p->mod[p->n - 1], "pack", 4) == 0) {
    *out = 0;
    for (int i = 0; i < p->mod[p->n - 1][4] - '0'; i++)
      *out |= cut(in[i], t[1].bits) << (t[1].bits * i);
    return true;
  }
  if (strcmp(op, "mov") == 0 || strcmp(op, "cvta") == 0) {
    *out = in[0];
    if (strcmp(op, "cvta") == 0 && has(p, "shared"))
      *out += has(p, "to") ? 0 - SHARED_WINDOW : SHARED_WINDOW;
    return true;
  }
  if (strcmp(op, "selp") == 0) {
    *out = in[2] ? in[0] : in[1];
    return true;
  }
  if (strcmp(op, "cvt") == 0)
    return cvt(p, in, out);
  if (strcmp(op, "setp") == 0)
    return compare(p, p->mod[1], t[1], in, out);
  if (t[1].kind == 'f')
    return float_op(p, t[1], in, out, ulps);
  return integer_op(p, t[1], in, out) || bit_op(op, p, t[1], in, out);
}

/* ---- running ---- */

/* PTX that loads the sources (8 bytes apart), executes the opcode and stores the result. */
static void write_ptx(char *to, size_t room, const char *spelled, const OpRow *row) {
  const int sources = (int)strlen(row->sig) - 1;
  int n = snprintf(to, room,
                   ".version 9.0\n.target sm_90\n.address_size 64\n"
                   ".visible .entry k(.param .u64 in, .param .u64 out, .param .u32 n)\n{\n"
                   ".reg .pred %%p<4>; .reg .b32 %%r<9>; .reg .b64 %%a<9>; .reg .b32 %%x<9>; "
                   ".reg .b64 %%y<9>;\n"
                   "ld.param.u64 %%a1, [in]; ld.param.u64 %%a2, [out]; ld.param.u32 %%r1, [n];\n"
                   "mov.u32 %%r2, %%tid.x; setp.ge.u32 %%p1, %%r2, %%r1; @%%p1 bra DONE;\n"
                   "mul.wide.u32 %%a3, %%r2, 32; add.s64 %%a1, %%a1, %%a3;\n"
                   "mul.wide.u32 %%a3, %%r2, 8; add.s64 %%a2, %%a2, %%a3;\n"
                   "mov.u32 %%x0, 0x5A5A5A5A; mov.u64 %%y0, 0x5A5A5A5A5A5A5A5A;\n");
  for (int i = 0; i < sources; i++)
    n += snprintf(to + n, room - (size_t)n,
                  row->sig[1 + i] == 'S' ? "ld.global.u64 %%y%d, [%%a1+%d];\n"
                                         : "ld.global.u32 %%x%d, [%%a1+%d];\n",
                  1 + i, 8 * i);
  n += snprintf(to + n, room - (size_t)n,
                "and.b32 %%r3, %%r2, 3; setp.eq.u32 %%p2, %%r3, 3; @%%p2 bra SKIP;\n");
  const char *pack = strstr(spelled, ".pack");
  n += snprintf(to + n, room - (size_t)n, "%.*s %%%c0%s",
                pack ? (int)(pack - spelled) : (int)strlen(spelled), spelled,
                row->sig[0] == 'D' ? 'y' : 'x', pack ? ", {" : ", ");
  for (int i = 0; i < sources; i++)
    n += snprintf(to + n, room - (size_t)n, "%s%%%c%d", i ? ", " : "",
                  row->sig[1 + i] == 'S' ? 'y' : 'x', 1 + i);
  snprintf(to + n, room - (size_t)n, "%s;\nSKIP:\nst.global.u%d [%%a2], %%%c0;\nDONE:\nret;\n}\n",
           pack ? "}" : "", row->sig[0] == 'D' ? 64 : 32, row->sig[0] == 'D' ? 'y' : 'x');
}

static bool same_value(Type t, uint64_t want, uint64_t got, double ulps) {
  if (t.kind != 'f' || t.bits == 16)
    return cut(want, t.bits) == cut(got, t.bits);
  const double w = wide_float(t, want), g = wide_float(t, got);
  if (isnan(w) || isnan(g)) /* f32: the one NaN, or one whose sign was changed */
    return isnan(w) && isnan(g) &&
           (t.bits == 64 || cut(got, 31) == 0x7FFFFFFF || cut(got, 31) == cut(want, 31));
  if (ulps == 0 || isinf(w) || isinf(g))
    return cut(want, t.bits) == cut(got, t.bits) ||
           (ulps > 0 && fabs(w) > 3.4e38 && fabs(g) > 3.4e38);
  return fabs(w - g) <= ulps * (fabs(w) * (t.bits == 32 ? 0x1p-23 : 0x1p-52) + 0x1p-149);
}

static void check_spelling(const OpRow *row, const char *spelled, Memory *m, uint64_t in,
                           uint64_t out) {
  Name p;
  Type t[5];
  split(&p, spelled);
  ck_assert_msg(signature(&p, t), "%s", spelled);
  char text[4096], why[512];
  write_ptx(text, sizeof text, spelled, row);
  Module *module = ptx_load(text, m, why);
  ck_assert_msg(module != NULL, "%s: %s\n%s", spelled, why, text);
  uint8_t *host_in = memory_find(m, in, 1)->host, *host_out = memory_find(m, out, 1)->host;
  uint64_t seed = 7;
  const int sources = (int)strlen(row->sig) - 1;
  static uint64_t values[N][4];
  const int rounds = rounds_of(t, sources);
  for (int round = 0; round < rounds; round++) {
    for (int i = 0; i < N; i++)
      for (int k = 0; k < sources; k++)
        values[i][k] = operand(t, sources, k, round, i, &seed);
    memcpy(host_in, values, sizeof values);
    memset(host_out, 0x11, 8 * N);
    struct {
      uint64_t in, out;
      uint32_t n;
    } params = {in, out, N};
    const LaunchConfig c = {{1, 1, 1}, {1024, 1, 1}, 0, (const uint8_t *)&params, 0};
    Report report;
    MUST(launch_run(ptx_kernel(module, "k"), m, &c, &report, NULL), "%s: %s", spelled, report.text);
    for (int i = 0; i < N; i++) {
      uint64_t got, want = UINT64_C(0x5A5A5A5A5A5A5A5A);
      double ulps = 0;
      memcpy(&got, host_out + 8 * i, 8);
      if (row->sig[0] == 'd')
        got &= UINT32_MAX, want &= UINT32_MAX;
      if (i % 4 == 3) {
        MUST(got == want, "%s: lane %d was not active", spelled, i);
        continue;
      }
      MUST(oracle(&p, t, values[i], &want, &ulps),
           "%s: the oracle of this test does not know the opcode", spelled);
      MUST(same_value(t[0], want, got, ulps), "%s(%llx, %llx, %llx) = %llx, want %llx", spelled,
           (unsigned long long)values[i][0], (unsigned long long)values[i][1],
           (unsigned long long)values[i][2], (unsigned long long)got, (unsigned long long)want);
    }
  }
  ptx_unload(module);
}

static uint64_t in_at, out_at;

static void check_row(const OpRow *row, const char *spelled, void *memory) {
  check_spelling(row, spelled, memory, in_at, out_at);
}

START_TEST(every_spelling) {
  Memory m = {0};
  in_at = memory_alloc(&m, 32 * N), out_at = memory_alloc(&m, 8 * N);
  memory_host_wrote(memory_find(&m, in_at, 1), 0, 32 * N);
  const size_t spellings = each_spelling(PROVER_OPS, check_row, &m);
  printf("emu/ops: %zu opcodes\n", spellings);
  ck_assert_msg(spellings > 400, "%zu spellings", spellings);
  memory_fini(&m);
}
END_TEST

int main(void) {
  TCase *t = tcase_create("ops");
  tcase_set_timeout(t, 120);
  tcase_add_test(t, every_spelling);
  Suite *s = suite_create("emu/ops");
  suite_add_tcase(s, t);
  return check_run(s);
}
