/* Elementary functions and conversions of the CPU target: measured error bounds over dense sweeps
 * (judge: libm in double, long double for f64), all codes of the narrow formats, random numbers bit
 * for bit. Prints nothing unless a bound is broken or MPCC_SHOW_BOUNDS is set. */
#include <math.h>

#include "mpcc/num.h"
#include "tests/check_run.h"
#include "tests/kernel_run.h"
#include "tests/ulp.h"

/* ck_assert logs every call, which millions of values cannot afford. */
#define EXPECT(cond, ...)                                                                          \
  do {                                                                                             \
    if (!(cond))                                                                                   \
      ck_abort_msg(__VA_ARGS__);                                                                   \
  } while (0)

enum { N = 1 << 14 };

static const char *levels[2]; /* the baseline, and this machine's when it is another */
static int nlevel;

/* Kernel out[i] = f(in[i]) over N elements with the given storage dtypes. */
static Run unary(Prim p, DType reg, DType from, DType to, const char *level) {
  Group *t = group_new("rows", 2, (int64_t[]){N / 256, 256}, 1);
  t->body.panel_rows = N / 256;
  Access a = {.stride = {256, 1}};
  group_in(t, from, N, a);
  group_out(t, to, N, a);
  int x = group_stmt(t, PR_LOAD, reg, 0, 0, -1, -1, -1, -1);
  int y = p == PR_COUNT ? x : group_stmt(t, p, reg, -1, 0, x, -1, -1, -1);
  group_stmt(t, PR_STORE, reg, 0, 0, y, -1, -1, -1);
  Run r = run_compile(t, level);
  group_free(t);
  return r;
}

static void call(const Run *r, void *out, void *in) {
  MpccArg args[] = {{.p = out}, {.p = in}};
  r->fn(args, 0, r->ntiles, r->scratch);
}

/* ---- bounds ---- */

static double error_f64(double got, long double want) {
  if (isnan(want))
    return isnan(got) ? 0 : INFINITY;
  if ((double)want == got)
    return 0;
  if (!isfinite(got) || !isfinite((double)want))
    return INFINITY;
  int e;
  frexpl(fabsl(want), &e);
  return (double)(fabsl(got - want) / ldexpl(1, e - 53 < -1074 ? -1074 : e - 53));
}

/* Largest error in ulp (absolute: in units of 1) over all f32 bit patterns `step` apart that lie in
 * [low, high], both signs. */
static double sweep_f32(Prim p, double (*f)(double), double low, double high, uint32_t step,
                        bool absolute, const char *level) {
  static float in[N], out[N];
  Run r = unary(p, MPCC_F32, MPCC_F32, MPCC_F32, level);
  double worst = 0;
  for (uint64_t base = 0; base < UINT64_C(1) << 32;) {
    int n = 0;
    while (n < N && base < UINT64_C(1) << 32) {
      float x = num_f32_from_bits((uint32_t)base);
      base += step;
      if (isnan(x) || (x >= low && x <= high))
        in[n++] = x;
    }
    for (int i = n; i < N; i++)
      in[i] = 1;
    call(&r, out, in);
    for (int i = 0; i < n; i++) {
      double want = f(in[i]);
      double e = absolute ? fabs((double)out[i] - want) : error_f32(out[i], want);
      EXPECT(isnan(want) == !!isnan(out[i]), "%s(%a) = %a, want %a", prim_name(p), (double)in[i],
             (double)out[i], want);
      if (e > worst)
        worst = e;
    }
  }
  run_free(&r);
  if (getenv("MPCC_SHOW_BOUNDS"))
    printf("%s f32 %s: %.3g\n", prim_name(p), level, worst);
  return worst;
}

static double sweep_f64(Prim p, long double (*f)(long double), double low, double high,
                        const char *level) {
  static double in[N], out[N];
  Run r = unary(p, MPCC_F64, MPCC_F64, MPCC_F64, level);
  double worst = 0;
  uint64_t state = 7;
  for (int round = 0; round < 40; round++) {
    for (int i = 0; i < N; i++) { /* uniform in value, then uniform in exponent */
      state = state * 6364136223846793005u + 1442695040888963407u;
      double u = (double)(state >> 11) * 0x1p-53;
      in[i] = low + (high - low) * u;
      if (round & 1)
        in[i] = ldexp(in[i] < 0 ? u - 1 : 1 - u, (int)(state % 60) - 50);
      if (in[i] < low || in[i] > high)
        in[i] = low;
    }
    call(&r, out, in);
    for (int i = 0; i < N; i++) {
      double e = error_f64(out[i], f(in[i]));
      if (e > worst)
        worst = e;
    }
  }
  run_free(&r);
  if (getenv("MPCC_SHOW_BOUNDS"))
    printf("%s f64 %s: %.3g\n", prim_name(p), level, worst);
  return worst;
}

START_TEST(bounds_f32) {
  static const struct {
    Prim p;
    double (*f)(double);
    double low, high, bound;
    bool absolute;
  } rows[] = {
      {PR_EXP, exp, -INFINITY, INFINITY, 2, false},
      {PR_LOG, log, -INFINITY, INFINITY, 2, false},
      {PR_TANH, tanh, -INFINITY, INFINITY, 3, false},
      {PR_ERF, erf, -INFINITY, INFINITY, 2.5, false},
      {PR_SIN, sin, -1e4, 1e4, 2e-7, true},
      {PR_COS, cos, -1e4, 1e4, 2e-7, true},
      {PR_SQRT, sqrt, -INFINITY, INFINITY, 0.5, false},
  };
  for (int l = 0; l < nlevel; l++)
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
      double worst = sweep_f32(rows[i].p, rows[i].f, rows[i].low, rows[i].high, 3001,
                               rows[i].absolute, levels[l]);
      EXPECT(worst <= rows[i].bound, "%s f32, %s: error %g", prim_name(rows[i].p), levels[l],
             worst);
    }
}
END_TEST

START_TEST(bounds_f64) {
  static const struct {
    Prim p;
    long double (*f)(long double);
    double low, high, bound;
  } rows[] = {
      {PR_EXP, expl, -745, 710, 4}, {PR_LOG, logl, 0x1p-1074, 1e300, 4},
      {PR_LOG, logl, 0.5, 2, 4},    {PR_TANH, tanhl, -25, 25, 8},
      {PR_ERF, erfl, -7, 7, 8},     {PR_SIN, sinl, -1e4, 1e4, 4},
      {PR_COS, cosl, -1e4, 1e4, 4},
  };
  for (int l = 0; l < nlevel; l++)
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
      double worst = sweep_f64(rows[i].p, rows[i].f, rows[i].low, rows[i].high, levels[l]);
      EXPECT(worst <= rows[i].bound, "%s f64, %s: error %g", prim_name(rows[i].p), levels[l],
             worst);
    }
}
END_TEST

/* Values that have exact answers. */
START_TEST(special_values) {
  static const struct {
    Prim p;
    double x, y;
  } rows[] = {
      {PR_EXP, INFINITY, INFINITY},
      {PR_EXP, -INFINITY, 0},
      {PR_EXP, 0, 1},
      {PR_EXP, NAN, NAN},
      {PR_EXP, 1e4, INFINITY},
      {PR_EXP, -1e4, 0},
      {PR_LOG, 0, -INFINITY},
      {PR_LOG, -0.0, -INFINITY},
      {PR_LOG, -1, NAN},
      {PR_LOG, INFINITY, INFINITY},
      {PR_LOG, 1, 0},
      {PR_LOG, NAN, NAN},
      {PR_TANH, INFINITY, 1},
      {PR_TANH, -INFINITY, -1},
      {PR_TANH, -0.0, -0.0},
      {PR_TANH, NAN, NAN},
      {PR_ERF, INFINITY, 1},
      {PR_ERF, -INFINITY, -1},
      {PR_ERF, -0.0, -0.0},
      {PR_ERF, NAN, NAN},
      {PR_SIN, INFINITY, NAN},
      {PR_SIN, -0.0, -0.0},
      {PR_SIN, NAN, NAN},
      {PR_COS, 0, 1},
      {PR_COS, -INFINITY, NAN},
      {PR_COS, NAN, NAN},
  };
  static double in[N], out[N];
  static float inf[N], outf[N];
  for (int l = 0; l < nlevel; l++)
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
      for (int k = 0; k < N; k++)
        inf[k] = (float)(in[k] = rows[i].x);
      Run a = unary(rows[i].p, MPCC_F64, MPCC_F64, MPCC_F64, levels[l]);
      Run b = unary(rows[i].p, MPCC_F32, MPCC_F32, MPCC_F32, levels[l]);
      call(&a, out, in);
      call(&b, outf, inf);
      double got[] = {out[0], outf[0]};
      for (int k = 0; k < 2; k++)
        EXPECT(isnan(rows[i].y) ? isnan(got[k])
                                : got[k] == rows[i].y && !signbit(got[k]) == !signbit(rows[i].y),
               "%s(%g) = %g, %s", prim_name(rows[i].p), rows[i].x, got[k], levels[l]);
      run_free(&a);
      run_free(&b);
    }
}
END_TEST

/* Huge arguments of sine and cosine stay within [-1, 1]. */
START_TEST(huge_angles) {
  static float in[N], out[N];
  for (int i = 0; i < N; i++)
    in[i] = num_f32_from_bits(0x46000000u + (uint32_t)i * 59000u);
  for (int l = 0; l < nlevel; l++)
    for (int p = 0; p < 2; p++) {
      Run r = unary(p ? PR_SIN : PR_COS, MPCC_F32, MPCC_F32, MPCC_F32, levels[l]);
      call(&r, out, in);
      for (int i = 0; i < N; i++)
        EXPECT(!isfinite(in[i]) || fabsf(out[i]) <= 1, "%a gives %a", (double)in[i],
               (double)out[i]);
      run_free(&r);
    }
}
END_TEST

/* ---- conversions ---- */

/* Every code of the narrow formats to f32; a copy within the format changes no code. */
START_TEST(decode_all_codes) {
  static const DType formats[] = {MPCC_BF16, MPCC_F16, MPCC_E4M3, MPCC_E5M2, MPCC_E8M0, MPCC_E2M1};
  const uint32_t codes[] = {65536, 65536, 256, 256, 256, 16};
  static uint16_t in[N], same[N];
  static float out[N];
  for (int l = 0; l < nlevel; l++)
    for (int f = 0; f < 6; f++) {
      DType dt = formats[f];
      size_t bytes = dtype_bytes(dt);
      Run r = unary(PR_COUNT, MPCC_F32, dt, MPCC_F32, levels[l]);
      Run id = unary(PR_COUNT, MPCC_F32, dt, dt, levels[l]);
      for (uint32_t base = 0; base < codes[f]; base += N) {
        for (uint32_t i = 0; i < N; i++)
          memcpy((char *)in + i * bytes, &(uint16_t){(uint16_t)((base + i) % codes[f])}, bytes);
        call(&r, out, in);
        call(&id, same, in);
        for (uint32_t i = 0; i < N; i++) {
          double want = num_load((char *)in + i * bytes, dt);
          EXPECT(isnan(want) ? isnan(out[i]) : out[i] == want && !signbit(out[i]) == !signbit(want),
                 "%s %x: %a, want %a", dtype_text(dt), base + i, (double)out[i], want);
          double back = num_load((char *)same + i * bytes, dt);
          EXPECT(isnan(want) ? isnan(back) : back == want, "%s %x does not stay", dtype_text(dt),
                 base + i);
        }
      }
      run_free(&r);
      run_free(&id);
    }
}
END_TEST

/* f32 bit patterns `step` apart, and their neighbours of every tie, to the narrow formats: the same
 * code as num.h, NaN and subnormals included. */
START_TEST(encode_sweep) {
  static const DType formats[] = {MPCC_BF16, MPCC_F16, MPCC_E4M3, MPCC_E5M2, MPCC_E8M0, MPCC_E2M1};
  static float in[N];
  static uint16_t out[N];
  for (int l = 0; l < nlevel; l++)
    for (int f = 0; f < 6; f++) {
      DType dt = formats[f];
      size_t bytes = dtype_bytes(dt);
      Run r = unary(PR_COUNT, MPCC_F32, MPCC_F32, dt, levels[l]);
      for (uint64_t base = 0; base < UINT64_C(1) << 32;) {
        for (int i = 0; i < N; i += 4, base += 4096) { /* 2^12 apart hits all ties of f16 */
          in[i] = num_f32_from_bits((uint32_t)base);
          in[i + 1] = num_f32_from_bits((uint32_t)base + 1);
          in[i + 2] = num_f32_from_bits((uint32_t)base - 1);
          in[i + 3] = num_f32_from_bits((uint32_t)base ^ 0x2a7u);
        }
        call(&r, out, in);
        for (int i = 0; i < N; i++) {
          uint16_t got = 0;
          memcpy(&got, (char *)out + (size_t)i * bytes, bytes);
          uint32_t want = 0;
          num_store(&want, dt, (double)in[i]);
          EXPECT(got == want, "%a to %s: %x, want %x, %s", (double)in[i], dtype_text(dt),
                 (unsigned)got, want, levels[l]);
        }
      }
      run_free(&r);
    }
}
END_TEST

/* Where bf16 is read or written columns are done in pairs of vectors, with code of their own for
 * narrow results: every bf16 code to 8 bits, and to bf16 whatever lies between two codes. */
START_TEST(encode_pairs) {
  enum { CODES = 1 << 16 };
  static const uint32_t below[] = {0, 1, 0x7fff, 0x8000, 0x8001, 0xffff};
  static uint16_t x[CODES], rounded[CODES];
  static float y[CODES];
  static uint8_t codes[2][CODES];
  for (int l = 0; l < nlevel; l++) {
    Group *t = group_new("rows", 2, (int64_t[]){CODES / 64, 64}, 1);
    t->body.panel_rows = 3;
    Access a = {.stride = {64, 1}};
    group_in(t, MPCC_BF16, CODES, a);
    group_in(t, MPCC_F32, CODES, a);
    const DType to[] = {MPCC_E4M3, MPCC_E5M2, MPCC_BF16};
    int from[2];
    for (int k = 0; k < 2; k++)
      from[k] = group_stmt(t, PR_LOAD, MPCC_F32, k, 0, -1, -1, -1, -1);
    for (int k = 0; k < 3; k++) {
      group_out(t, to[k], CODES, a);
      group_stmt(t, PR_STORE, MPCC_F32, k, 0, from[k / 2], -1, -1, -1);
    }
    Run r = run_compile(t, levels[l]);
    MpccArg args[] = {{.p = codes[0]}, {.p = codes[1]}, {.p = rounded}, {.p = x}, {.p = y}};
    for (size_t b = 0; b < sizeof below / sizeof *below; b++) {
      for (uint32_t i = 0; i < CODES; i++) {
        x[i] = (uint16_t)i;
        y[i] = num_f32_from_bits(i * 40503u << 16 | below[b]); /* odd: every code, in any order */
      }
      r.fn(args, 0, r.ntiles, r.scratch);
      for (int i = 0; i < CODES; i++)
        for (int k = 0; k < 3; k++) {
          uint32_t want = 0, got = k < 2 ? codes[k][i] : rounded[i];
          num_store(&want, to[k], k < 2 ? num_load(&x[i], MPCC_BF16) : (double)y[i]);
          uint32_t bits;
          memcpy(&bits, &y[i], 4);
          if (k == 2 && isnan(y[i])) /* a double keeps no signalling NaN */
            want = bits >> 16 | 0x40;
          EXPECT(got == want, "%x to %s: %x, want %x, %s", k < 2 ? x[i] : bits, dtype_text(to[k]),
                 got, want, levels[l]);
        }
    }
    run_free(&r);
    group_free(t);
  }
}
END_TEST

/* f64 to narrow formats rounds once. */
START_TEST(encode_f64) {
  static const DType formats[] = {MPCC_F32,  MPCC_BF16, MPCC_F16, MPCC_E4M3,
                                  MPCC_E5M2, MPCC_E8M0, MPCC_E2M1};
  static double in[N];
  static uint32_t out[N];
  uint64_t state = 3;
  for (int i = 0; i < N; i++) { /* next to ties of narrow formats, over all their exponents */
    state = state * 6364136223846793005u + 1442695040888963407u;
    float tie = num_f32_from_bits((uint32_t)(state >> 32) & 0xfffff000u);
    in[i] = isfinite(tie) ? (double)tie * (1 + ((int)(state >> 20 & 3) - 1) * 0x1p-50) : 1e300;
  }
  in[0] = NAN, in[1] = INFINITY, in[2] = -INFINITY, in[3] = 1e-320, in[4] = -0.0, in[5] = 1e40;
  for (int l = 0; l < nlevel; l++)
    for (int f = 0; f < 7; f++) {
      DType dt = formats[f];
      size_t bytes = dtype_bytes(dt);
      Run r = unary(PR_COUNT, MPCC_F64, MPCC_F64, dt, levels[l]);
      call(&r, out, in);
      for (int i = 0; i < N; i++) {
        double got = num_load((char *)out + (size_t)i * bytes, dt), want = num_round(in[i], dt);
        EXPECT(isnan(want) ? isnan(got) : got == want, "%a to %s: %a, want %a", in[i],
               dtype_text(dt), got, want);
      }
      run_free(&r);
    }
}
END_TEST

/* PR_ROUND inside a body equals the same rounding in num.h. */
START_TEST(round_statement) {
  static const DType formats[] = {MPCC_F32,  MPCC_BF16, MPCC_F16, MPCC_E4M3,
                                  MPCC_E5M2, MPCC_E8M0, MPCC_E2M1};
  static float in[N], out[N];
  for (int i = 0; i < N; i++)
    in[i] = num_f32_from_bits((uint32_t)i * 262147u);
  for (int l = 0; l < nlevel; l++)
    for (int f = 0; f < 7; f++) {
      Group *t = group_new("rows", 1, (int64_t[]){N}, 1);
      t->body.panel_rows = 1;
      Access a = {.stride = {1}};
      group_in(t, MPCC_F32, N, a);
      group_out(t, MPCC_F32, N, a);
      int x = group_stmt(t, PR_LOAD, MPCC_F32, 0, 0, -1, -1, -1, -1);
      int y = group_stmt(t, PR_ROUND, MPCC_F32, -1, 0, x, -1, -1, -1);
      t->body.stmt[y].rd = (uint8_t)formats[f];
      group_stmt(t, PR_STORE, MPCC_F32, 0, 0, y, -1, -1, -1);
      Run r = run_compile(t, levels[l]);
      call(&r, out, in);
      for (int i = 0; i < N; i++) {
        double want = num_round((double)in[i], formats[f]);
        bool same = out[i] == want && !signbit(out[i]) == !signbit(want);
        EXPECT(isnan(want) ? isnan(out[i]) : same, "%a rounded to %s", (double)in[i],
               dtype_text(formats[f]));
      }
      run_free(&r);
      group_free(t);
    }
}
END_TEST

/* ---- random numbers ---- */

START_TEST(random_bits) {
  enum { COUNT = 1000 };
  static int64_t element[COUNT];
  static float out[COUNT];
  for (int i = 0; i < COUNT; i++)
    element[i] = (int64_t)i * i * 7919 * (i % 3 ? 1 : 1 << 20);
  int64_t seed = -81985529216486896, step = 0x1234567890, stream = 77;
  for (int l = 0; l < nlevel; l++) {
    Group *t = group_new("rows", 1, (int64_t[]){COUNT}, 1);
    t->body.panel_rows = 1;
    t->body.nparam = 1;
    Access a = {.stride = {1}}, scalar = {0};
    group_in(t, MPCC_I64, COUNT, a);
    group_in(t, MPCC_I64, 1, scalar);
    group_in(t, MPCC_I64, 1, scalar);
    group_out(t, MPCC_F32, COUNT, a);
    int s[4];
    for (int k = 0; k < 3; k++)
      s[k] = group_stmt(t, PR_LOAD, MPCC_I64, k, 0, -1, -1, -1, -1);
    s[3] = group_stmt(t, PR_PARAM, MPCC_I64, 0, 0, -1, -1, -1, -1);
    int v = group_stmt(t, PR_RAND, MPCC_F32, -1, 0, s[1], s[2], s[0], s[3]);
    group_stmt(t, PR_STORE, MPCC_F32, 0, 0, v, -1, -1, -1);
    Run r = run_compile(t, levels[l]);
    MpccArg args[] = {{.p = out}, {.p = element}, {.p = &seed}, {.p = &step}, {.i = stream}};
    r.fn(args, 0, r.ntiles, r.scratch);
    for (int i = 0; i < COUNT; i++)
      EXPECT(out[i] == scalar_rand(seed, step, element[i], stream), "element %d", i);
    run_free(&r);
    group_free(t);
  }
}
END_TEST

int main(void) {
  const char *host = cpu_host_level();
  if (host)
    levels[nlevel++] = cpu_level_names[0];
  if (host && strcmp(host, levels[0]))
    levels[nlevel++] = host;
  if (!nlevel) {
    printf("skipped: this machine runs no level of target cpu\n");
    return 0;
  }
  Suite *s = suite_create("cpu_math");
  TCase *c = tcase_create("math");
  tcase_set_timeout(c, 300);
  tcase_add_test(c, bounds_f32);
  tcase_add_test(c, bounds_f64);
  tcase_add_test(c, special_values);
  tcase_add_test(c, huge_angles);
  tcase_add_test(c, decode_all_codes);
  tcase_add_test(c, encode_sweep);
  tcase_add_test(c, encode_pairs);
  tcase_add_test(c, encode_f64);
  tcase_add_test(c, round_statement);
  tcase_add_test(c, random_bits);
  suite_add_tcase(s, c);
  return check_run(s);
}
