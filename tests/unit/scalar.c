/* Scalar programs: text, evaluation, derivatives against central differences, random numbers. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ir/ir.h"
#include "ir/scalar.h"
#include "mpcc/philox.h"
#include "tests/check_run.h"

static const char *const abc[] = {"a", "b", "c"};
static const char *const gyabc[] = {"g", "y", "a", "b", "c"};

static Arena *arena;
static Diag *diag;

static void setup(void) {
  arena = arena_create();
  diag = diag_create(arena, str_table_create(arena));
}

static void teardown(void) {
  arena_destroy(arena);
}

static Scalar *parse_with(const char *text, const char *const *names, int n) {
  Scalar *s = NULL;
  const Status status = scalar_parse(arena, diag, (Loc){0}, text, names, n, &s);
  if (status != MPCC_OK)
    ck_abort_msg("%s: %s", text, diag_first(diag) ? diag_first(diag)->text : "?");
  return s;
}

static Scalar *parse(const char *text) {
  return parse_with(text, abc, 3);
}

static double value(const char *text, double a, double b, double c) {
  const double args[] = {a, b, c};
  return scalar_eval(parse(text), args, false);
}

static void check_equal(const Scalar *x, const Scalar *y, const char *what) {
  ck_assert_msg(x->nstmt == y->nstmt && x->result == y->result, "%s: %d and %d statements", what,
                x->nstmt, y->nstmt);
  for (int i = 0; i < x->nstmt; i++) {
    const Stmt *s = &x->stmt[i], *t = &y->stmt[i];
    ck_assert_msg(s->prim == t->prim && s->dt == t->dt && s->rd == t->rd && s->ref == t->ref &&
                      !memcmp(s->arg, t->arg, sizeof s->arg) &&
                      !memcmp(&s->imm, &t->imm, sizeof s->imm),
                  "%s: statement %d", what, i);
  }
}

START_TEST(values) {
  ck_assert_double_eq(value("1 + 2 * 3", 0, 0, 0), 7);
  ck_assert_double_eq(value("(1 + 2) * 3", 0, 0, 0), 9);
  ck_assert_double_eq(value("a - b - c", 10, 3, 2), 5);
  ck_assert_double_eq(value("a / b / c", 12, 3, 2), 2);
  ck_assert_double_eq(value("-a * b", 2, 3, 0), -6);
  ck_assert_double_eq(value("a - -1", 2, 0, 0), 3);
  ck_assert_double_eq(value("1e-2 + .5", 0, 0, 0), 0.51);
  ck_assert_double_eq(value("a < b ? 1 : 2", 1, 2, 0), 1);
  ck_assert_double_eq(value("a >= b ? 1 : a == b ? 3 : 2", 1, 2, 0), 2);
  ck_assert_double_eq(value("a < 1 && b > 1 || !(c == 0) ? 1 : 0", 0, 2, 0), 1);
  ck_assert_double_eq(value("a < 1 && b > 1 || !(c == 0) ? 1 : 0", 0, 0, 0), 0);
  ck_assert_double_eq(value("a != b ? 1 : 0", 1, 1, 0), 0);
  ck_assert_double_eq(value("max(min(a, b), c)", 5, 3, 1), 3);
  ck_assert(isnan(value("max(a, b)", NAN, 1, 0)) && isnan(value("min(a, b)", 1, NAN, 0)));
  ck_assert_double_eq(value("floor(a) + abs(b)", -1.5, -2, 0), 0);
  ck_assert_double_eq(value("isfinite(a) ? 1 : 0", INFINITY, 0, 0), 0);
  ck_assert_double_eq(value("cvt(a < b) + cvt(b < a)", 1, 2, 0), 1);
  ck_assert_double_eq(value("bf16(a)", 257, 0, 0), 256);
  ck_assert_double_eq(value("e4m3(a)", INFINITY, 0, 0), 448);
  ck_assert_double_eq(value("t = a * b, t * t", 2, 3, 0), 36);
  ck_assert_double_eq(value("x = a + 1, y = x * x, y - x", 2, 0, 0), 6);
  ck_assert(value("-inf", 0, 0, 0) == -INFINITY && isnan(value("nan", 0, 0, 0)));
  ck_assert_double_eq(value("relu(a) + relu(b)", 2, -3, 0), 2);
  ck_assert_double_eq_tol(value("gelu(a)", 1, 0, 0), 0.8413447460685429, 1e-15);
  ck_assert_double_eq_tol(value("gelu_tanh(a)", 1, 0, 0), 0.8411919906082768, 1e-15);
  ck_assert_double_eq_tol(value("silu(a)", 1, 0, 0), 0.7310585786300049, 1e-15);
}
END_TEST

START_TEST(each_step_rounds_to_f32) {
  const double args[] = {1, 0x1p-24, 0};
  ck_assert_double_eq(scalar_eval(parse("a + b - a"), args, true), 0);
  ck_assert_double_eq(scalar_eval(parse("a + b - a"), args, false), 0x1p-24);
  ck_assert_double_eq(scalar_eval(parse("0.1"), args, true), (double)0.1f);
  const Scalar *wide = scalar_typed(arena, parse("a + b - a"), MPCC_F64);
  ck_assert_double_eq(scalar_eval(wide, args, true), 0x1p-24);
  const double whole[] = {7, 2, 0};
  ck_assert_double_eq(scalar_eval(scalar_typed(arena, parse("a / b"), MPCC_I64), whole, true), 3);
}
END_TEST

static const char *const round_trips[] = {"a",
                                          "1",
                                          "-1",
                                          "-(1)",
                                          "-(-1)",
                                          "--a",
                                          "a - -1",
                                          "-a * b",
                                          "-(a * b)",
                                          "a - (b - c)",
                                          "a - b - c",
                                          "a / (b / c)",
                                          "a / b / c",
                                          "a * (b + c)",
                                          "(a + b) * c",
                                          "a + (b + c)",
                                          "a < b ? a : b < c ? b : c",
                                          "(a < b ? a : b) + 1",
                                          "a <= b ? 1 : 0",
                                          "a > b ? 1 : 0",
                                          "!(a < b) && (b < c || c < a) ? 1 : 0",
                                          "!!(a == b) ? 1 : 0",
                                          "a < b || b < c && c != a ? a : c",
                                          "exp(-a) * exp(-a)",
                                          "(a + b) * (a + b) - (a + b)",
                                          "max(min(a, b), abs(c))",
                                          "f16(a * b) + e5m2(c)",
                                          "cvt(isfinite(a)) * b",
                                          "inf - a",
                                          "-inf + nan",
                                          "0.1 + 1e-05 * 1e300",
                                          "-0 + 5e-324",
                                          "x = a * a, y = x * x, y + x * y",
                                          "gelu(a) * silu(b)",
                                          "1.0000001 * a",
                                          "tanh(erf(sqrt(log(exp(a))))) + floor(cos(sin(b)))",
                                          "0.3333333333333333 * a"};

/* The text of a body parses to the same body, and prints to the same text. */
static void check_round_trip(const Scalar *s, const char *what) {
  Text first = {0}, second = {0};
  scalar_print(s, abc, &first);
  const Scalar *again = parse(first.data);
  check_equal(s, again, what);
  scalar_print(again, abc, &second);
  ck_assert_str_eq(first.data, second.data);
  text_fini(&first);
  text_fini(&second);
}

START_TEST(text_round_trips) {
  for (size_t i = 0; i < sizeof round_trips / sizeof round_trips[0]; i++) {
    Scalar *s = parse(round_trips[i]);
    check_round_trip(s, round_trips[i]);
    for (int k = 0; k < 3; k++)
      check_round_trip(scalar_diff(arena, s, k), round_trips[i]);
  }
}
END_TEST

static uint32_t pick(uint32_t *state, uint32_t n) {
  *state = *state * 1664525 + 1013904223;
  return (*state >> 8) % n;
}

/* A random expression as fully parenthesized text: a number, or a comparison when `truth`. */
static void random_text(uint32_t *state, int depth, bool truth, Text *t) {
  static const char *const leaves[] = {"a", "b", "c", "1", "-1", "0.5", "2e-07", "-inf"};
  static const char *const sums[] = {"+", "-", "*", "/"};
  static const char *const tests[] = {"<", "<=", "==", "!=", ">", ">="};
  static const char *const calls[] = {"exp", "tanh", "silu", "f16", "abs", "-", "sqrt"};
  if (!truth && (depth == 0 || pick(state, 8) == 0)) {
    text_puts(t, leaves[pick(state, 8)]);
    return;
  }
  text_puts(t, "(");
  const uint32_t form = pick(state, depth ? 6 : 3);
  if (truth && form >= 4) {
    text_puts(t, "!");
    random_text(state, depth - 1, true, t);
  } else if (truth) {
    random_text(state, depth ? depth - 1 : 0, form == 3, t);
    text_puts(t, form == 3 ? pick(state, 2) ? "&&" : "||" : tests[pick(state, 6)]);
    random_text(state, depth ? depth - 1 : 0, form == 3, t);
  } else if (form < 3) {
    random_text(state, depth - 1, false, t);
    text_puts(t, sums[pick(state, 4)]);
    random_text(state, depth - 1, false, t);
  } else if (form == 3) {
    random_text(state, depth - 1, true, t);
    text_puts(t, "?");
    random_text(state, depth - 1, false, t);
    text_puts(t, ":");
    random_text(state, depth - 1, false, t);
  } else {
    text_printf(t, "%s(", calls[pick(state, 7)]);
    random_text(state, depth - 1, false, t);
    text_puts(t, ")");
  }
  text_puts(t, ")");
}

START_TEST(random_text_round_trips) {
  uint32_t state = 1;
  for (int i = 0; i < 3000; i++) {
    Text t = {0};
    random_text(&state, 1 + i % 5, false, &t);
    const Scalar *s = parse(t.data);
    check_round_trip(s, t.data);
    if (i % 5 < 3)
      check_round_trip(scalar_diff(arena, s, 0), t.data);
    text_fini(&t);
  }
}
END_TEST

START_TEST(canonical_text) {
  Text t = {0};
  scalar_print(parse("  ((a))*(b )+ -( c) "), abc, &t);
  ck_assert_str_eq(t.data, "a * b + -c");
  text_fini(&t);
  scalar_print(parse("(a*b)*(a*b)"), abc, &t);
  ck_assert_str_eq(t.data, "t0 = a * b, t0 * t0");
  text_fini(&t);
}
END_TEST

/* What is not needed leaves no statement; what is equal is there once. */
START_TEST(bodies_are_minimal) {
  ck_assert_int_eq(parse("x = exp(a), b")->nstmt, 1);
  ck_assert_int_eq(parse("exp(a) + exp(a) * exp(a)")->nstmt, 4);
}
END_TEST

START_TEST(mistakes_are_told) {
  static const struct {
    const char *text, *message;
  } cases[] = {
      {"", "expected a number, a name or '(' at the end of the expression"},
      {"a +", "expected a number, a name or '(' at the end of the expression"},
      {"a b", "expected an operator before 'b'"},
      {"(a", "expected ')' at the end of the expression"},
      {"d + 1", "unknown name 'd'"},
      {"foo(a)", "unknown function 'foo'"},
      {"linear(a)", "unknown function 'linear'"},
      {"exp(a, b)", "'exp' takes 1 argument, not 2"},
      {"max(a)", "'max' takes 2 arguments, not 1"},
      {"a < b", "needs a number, got a comparison (cvt(...) is 1 or 0) at the end of the expression"},
      {"a ? b : c", "needs a comparison, got a number before 'b'"},
      {"(a < b) + 1", "needs a number, got a comparison (cvt(...) is 1 or 0) before '1'"},
      {"a < b ? 1", "expected ':' at the end of the expression"},
      {"a * / b", "expected a number, a name or '(' before '/'"},
      {"a = b", "expected ',' at the end of the expression"},
      {"max(a, b, c, a, b)", "too many arguments before 'b)'"},
      {"a $ b", "expected an operator before '$'"},
      {"1 < 2 < 3 ? 1 : 0", "expected an operator before '<'"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    Arena *a = arena_create();
    Diag *d = diag_create(a, str_table_create(a));
    Scalar *s = (Scalar *)1;
    const Loc loc = {0, 3, 5, 1};
    ck_assert_int_eq(scalar_parse(a, d, loc, cases[i].text, abc, 3, &s), MPCC_ERR_INPUT);
    ck_assert_ptr_null(s);
    ck_assert_int_eq(diag_errors(d), 1);
    ck_assert_str_eq(diag_first(d)->text, cases[i].message);
    ck_assert_uint_eq(diag_first(d)->loc.line, 3);
    arena_destroy(a);
  }
}
END_TEST

START_TEST(hostile_text_is_bounded) {
  static const char *const units[] = {"(", "-", "!", "a?", "a<b?", "exp(", "a+", "x=1,", "a*a+"};
  for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
    Text t = {0};
    for (int k = 0; k < 100000; k++)
      text_puts(&t, units[i]);
    Scalar *s;
    ck_assert_int_eq(scalar_parse(arena, diag, (Loc){0}, t.data, abc, 3, &s), MPCC_ERR_INPUT);
    text_fini(&t);
  }
}
END_TEST

/* ---- derivatives ----------------------------------------------------------------------------- */

/* Central difference with one step of Richardson's extrapolation: error O(h^4). */
static double difference(const Scalar *s, const double *args, int wrt) {
  const double x = args[wrt], h = 1e-3 * (1 + fabs(x));
  double at[3], d[2];
  memcpy(at, args, sizeof at);
  for (int i = 0; i < 2; i++) {
    const double step = h / (i + 1);
    at[wrt] = x + step;
    const double up = scalar_eval_exact(s, at); /* rounding passes gradients */
    at[wrt] = x - step;
    d[i] = (up - scalar_eval_exact(s, at)) / (2 * step);
  }
  return (4 * d[1] - d[0]) / 3;
}

/* Points away from kinks and poles, and inside the domains of log and sqrt. */
static const double points[][3] = {
    {0.7, 1.3, 2.1}, {1.9, 0.6, 1.1}, {0.3, 2.7, 0.8}, {3.3, 1.2, 0.4}};

static void check_close(double got, double want, const char *what, int wrt) {
  ck_assert_msg(fabs(got - want) <= 1e-8 * (1 + fabs(want)), "d %s / d %s is %.15g, want %.15g",
                what, abc[wrt], got, want);
}

static void check_derivative(const char *text) {
  const Scalar *s = parse(text);
  for (int wrt = 0; wrt < 3; wrt++) {
    const Scalar *d = scalar_diff(arena, s, wrt);
    for (size_t i = 0; i < sizeof points / sizeof points[0]; i++)
      check_close(scalar_eval(d, points[i], false), difference(s, points[i], wrt), text, wrt);
  }
}

START_TEST(derivatives_of_expressions) {
  static const char *const texts[] = {"a * b * c",
                                      "a / b",
                                      "(a + b) / (b * c)",
                                      "sqrt(a * b + c)",
                                      "exp(-a * a) * b",
                                      "log(a * a + b)",
                                      "tanh(a * b) * c",
                                      "erf(a / b)",
                                      "cos(a * b) + sin(b * c)",
                                      "abs(a - 10) * b",
                                      "abs(a) * c",
                                      "max(a, 10 * b) + min(b, 9 * c)",
                                      "a < 5 ? a * b : c",
                                      "b > a + 20 ? b : a * a * a",
                                      "floor(a) * b",
                                      "gelu(a * b)",
                                      "gelu_tanh(a - b)",
                                      "silu(a) * sigmoid(b)",
                                      "x = exp(a), y = x / (1 + x), y * y + x * b",
                                      "relu(a - 0.1) * relu(1 - 10 * b)",
                                      "1 / (1 + exp(-(a * b)))",
                                      "3",
                                      "a - a",
                                      "-(a - b) * -c",
                                      "(a * b - 1) / (a * b + 1)",
                                      "1 / a",
                                      "sqrt(a) / (sqrt(b) + 0.01)",
                                      "log(exp(a) + exp(b))"};
  for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
    check_derivative(texts[i]);
}
END_TEST

START_TEST(derivatives_of_rows) {
  static const double both[][3] = {{-1.7, 0.4, 0}, {0.9, -2.2, 0}};
  for (int op = 0; op < OP_COUNT; op++) {
    const OpInfo *info = op_info((OpCode)op);
    if (!info->body)
      continue;
    const Scalar *s = parse_with(info->body, abc, info->nin);
    for (int wrt = 0; wrt < info->nin; wrt++) {
      const Scalar *d = scalar_diff(arena, s, wrt);
      for (size_t i = 0; i < sizeof points / sizeof points[0]; i++)
        check_close(scalar_eval(d, points[i], false), difference(s, points[i], wrt), info->name,
                    wrt);
      for (size_t i = 0; i < sizeof both / sizeof both[0]; i++)
        if (isfinite(scalar_eval(s, both[i], false)))
          check_close(scalar_eval(d, both[i], false), difference(s, both[i], wrt), info->name, wrt);
    }
  }
}
END_TEST

/* Derivatives given as text equal the numeric ones where those exist (powers of negative numbers have
 * none), and stay finite in f32 where inputs are large. */
START_TEST(given_derivatives) {
  int seen = 0;
  for (int op = 0; op < OP_COUNT; op++) {
    const OpInfo *info = op_info((OpCode)op);
    if (!info->deriv || op == OP_detach) /* whose gradient is none, whatever it does */
      continue;
    seen++;
    const Scalar *s = parse_with(info->body, abc, info->nin);
    const char *part = info->deriv;
    for (int wrt = 0; wrt < info->nin; wrt++) {
      char text[256];
      const size_t n = strcspn(part, ";");
      ck_assert_msg(n > 0 && n < sizeof text, "%s: a derivative is missing", info->name);
      memcpy(text, part, n);
      text[n] = 0;
      const Scalar *d = parse_with(text, gyabc, info->nin + 2);
      int compared = 0;
      for (double x = -6.05; x < 6; x += 0.1) {
        const double args[3] = {x, 1.3, 0};
        const double up[] = {2.5, scalar_eval(s, args, false), x, 1.3, 0};
        const double want = difference(s, args, wrt);
        if (isfinite(want))
          check_close(scalar_eval(d, up, false), 2.5 * want, info->name, wrt);
        compared += isfinite(want);
      }
      ck_assert_int_gt(compared, 50);
      for (double x = -1e30; x < 1e31; x += 1e30) {
        const double args[3] = {x, 1, 1}, up[] = {1, scalar_eval(s, args, true), x, 1, 1};
        if (!isfinite(difference(s, args, wrt)))
          continue;
        ck_assert_msg(isfinite(scalar_eval(d, up, true)), "%s at %g", info->name, x);
      }
      part += n + (part[n] == ';');
    }
    ck_assert_msg(!*part, "%s: more derivatives than operands", info->name);
  }
  ck_assert_int_gt(seen, 0);
}
END_TEST

START_TEST(conventions_at_kinks) {
  const double equal[] = {2, 2, 0}, zero[] = {0, 0, 0};
  ck_assert_double_eq(scalar_eval(scalar_diff(arena, parse("max(a, b)"), 0), equal, false), 0.5);
  ck_assert_double_eq(scalar_eval(scalar_diff(arena, parse("min(a, b)"), 1), equal, false), 0.5);
  ck_assert_double_eq(scalar_eval(scalar_diff(arena, parse("abs(a)"), 0), zero, false), 0);
  ck_assert_double_eq(scalar_eval(scalar_diff(arena, parse("bf16(3 * a)"), 0), zero, false), 3);
}
END_TEST

/* torch: 0 at the bends, and the upstream gradient where the result is NaN. */
START_TEST(relu_at_its_bends) {
  static const double g = 2.5;
  static const struct {
    OpCode op;
    double a, want;
  } at[] = {{OP_relu, 0, 0},  {OP_relu, -0.0, 0}, {OP_relu, NAN, 2.5},  {OP_relu, 1e-30, 2.5},
            {OP_relu6, 0, 0}, {OP_relu6, 6, 0},   {OP_relu6, NAN, 2.5}, {OP_relu6, 5.9, 2.5}};
  for (size_t i = 0; i < sizeof at / sizeof at[0]; i++) {
    const OpInfo *info = op_info(at[i].op);
    const double y = scalar_eval(parse_with(info->body, abc, 1), &at[i].a, false),
                 up[] = {g, y, at[i].a};
    const double got = scalar_eval(parse_with(info->deriv, gyabc, 3), up, false);
    ck_assert_msg(got == at[i].want, "%s at %g: %g", info->name, at[i].a, got);
  }
}
END_TEST

START_TEST(derivatives_are_simplified) {
  static const struct {
    const char *text, *want;
  } cases[] = {
      {"a", "1"},
      {"b", "0"},
      {"a + b", "1"},
      {"a - b", "1"},
      {"b - a", "-1"},
      {"a * b", "b"},
      {"3 * a", "3"},
      {"a / b", "1 / b"},
      {"a * a", "a + a"},
      {"floor(a)", "0"},
      {"a < b ? a : b", "a < b ? 1 : 0"},
      {"exp(a)", "exp(a)"},
      {"2 * (a + b) - 1", "2"},
      {"a < b ? a + c : a - c", "1"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    Text t = {0};
    scalar_print(scalar_diff(arena, parse(cases[i].text), 0), abc, &t);
    ck_assert_str_eq(t.data, cases[i].want);
    text_fini(&t);
  }
  ck_assert(scalar_is_zero(scalar_diff(arena, parse("exp(b) * c"), 0)));
  ck_assert(!scalar_is_zero(scalar_diff(arena, parse("exp(b) * a"), 0)));
}
END_TEST

/* ---- random numbers -------------------------------------------------------------------------- */

/* Known answers published with the authors' library Random123 (kat_vectors, philox4x32 10). */
START_TEST(philox_known_answers) {
  static const struct {
    uint32_t counter[4], key[2], want[4];
  } cases[] = {
      {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
       {0xffffffff, 0xffffffff},
       {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
       {0xa4093822, 0x299f31d0},
       {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    uint32_t out[4];
    philox4x32(cases[i].counter, cases[i].key, out);
    ck_assert_mem_eq(out, cases[i].want, sizeof out);
  }
}
END_TEST

START_TEST(uniform_numbers) {
  ck_assert(scalar_rand(0, 0, 0, 0) == (float)(0x6627e8d5u >> 8) * 0x1p-24f);
  /* seed 0x299f31d0a4093822, element 0x85a308d3243f6a88, step, stream: the third vector */
  ck_assert(scalar_rand(0x299f31d0a4093822, 0x13198a2e, (int64_t)0x85a308d3243f6a88u, 0x03707344) ==
            (float)(0xd16cfe09u >> 8) * 0x1p-24f);
  double sum = 0, squares = 0;
  const int n = 100000;
  for (int i = 0; i < n; i++) {
    const float u = scalar_rand(42, -1, i, 3);
    ck_assert(u >= 0 && u < 1);
    sum += (double)u;
    squares += (double)u * (double)u;
  }
  /* five standard deviations of the means */
  ck_assert_double_eq_tol(sum / n, 0.5, 5 * sqrt(1.0 / 12 / n));
  ck_assert_double_eq_tol(squares / n, 1.0 / 3, 5 * sqrt(4.0 / 45 / n));
}
END_TEST

START_TEST(prims_have_names) {
  for (int p = 0; p < PR_COUNT; p++) {
    ck_assert_int_eq(prim_from_name(prim_name((Prim)p)), p);
    ck_assert_int_le(prim_args((Prim)p), STMT_ARGS);
  }
  ck_assert_int_eq(prim_from_name("nothing"), PR_COUNT);
}
END_TEST

START_TEST(survives_failed_allocations) {
  for (long n = 1;; n++) {
    Arena *a = arena_create();
    Diag *d = diag_create(a, str_table_create(a));
    Scalar *s = NULL, *ds = NULL;
    arena_fail_after(n);
    const Status status = scalar_parse(
        a, d, (Loc){0}, "t = gelu_tanh(a) * b, t * t + silu(t) * exp(t / c)", abc, 3, &s);
    if (status == MPCC_OK)
      ds = scalar_diff(a, s, 0);
    arena_fail_after(0);
    ck_assert(status == MPCC_OK || (status == MPCC_ERR_NOMEM && arena_failed(a) && !s));
    ck_assert_int_eq(diag_errors(d), 0);
    const bool done = status == MPCC_OK && ds && !arena_failed(a);
    arena_destroy(a);
    if (done) {
      ck_assert_int_gt(n, 5);
      return;
    }
  }
}
END_TEST

int main(void) {
  Suite *s = suite_create("scalar");
  TCase *t = tcase_create("scalar");
  tcase_set_timeout(t, 60);
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, values);
  tcase_add_test(t, each_step_rounds_to_f32);
  tcase_add_test(t, text_round_trips);
  tcase_add_test(t, random_text_round_trips);
  tcase_add_test(t, canonical_text);
  tcase_add_test(t, bodies_are_minimal);
  tcase_add_test(t, mistakes_are_told);
  tcase_add_test(t, hostile_text_is_bounded);
  tcase_add_test(t, derivatives_of_expressions);
  tcase_add_test(t, derivatives_of_rows);
  tcase_add_test(t, given_derivatives);
  tcase_add_test(t, conventions_at_kinks);
  tcase_add_test(t, relu_at_its_bends);
  tcase_add_test(t, derivatives_are_simplified);
  tcase_add_test(t, philox_known_answers);
  tcase_add_test(t, uniform_numbers);
  tcase_add_test(t, prims_have_names);
  tcase_add_test(t, survives_failed_allocations);
  suite_add_tcase(s, t);
  return check_run(s);
}
