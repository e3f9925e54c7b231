/* opcheck's interval arithmetic: what f32 arithmetic gives lies in the range, and the range is
 * narrow enough to tell right from wrong. */
#include <math.h>

#include "mpcc/num.h"
#include "tests/check_run.h"
#include "tests/opcheck/bound.c"

static const double edge[] = {0,   -0.0, 1,     -1,    0.5,      88,   -104,  INFINITY,
                              NAN, 3.7,  1e-30, -3e38, 0x1p-149, 2e-7, 65504, -INFINITY};
enum { EDGES = sizeof edge / sizeof *edge };

static double number(uint32_t *state, bool edges) {
  *state = *state * 1664525u + 1013904223u;
  if (edges)
    return num_round(edge[(*state >> 8) % EDGES], MPCC_F32);
  return num_round(ldexp((double)(*state >> 8) - 0x1p23, -22), MPCC_F32);
}

static bool in_range(Range r, double v) {
  return v != v ? r.nan : r.number && v >= r.lo && v <= r.hi;
}

static const Scalar *body_of(Arena *a, Diag *d, const OpInfo *o) {
  static const char *const names[] = {"a", "b", "c"};
  Scalar *s = NULL;
  ck_assert_int_eq(scalar_parse(a, d, (Loc){0}, o->body, names, o->nin, &s), MPCC_OK);
  return s;
}

/* Every row of scalar.def, plain and edge numbers, to f32 and bf16. */
START_TEST(f32_arithmetic_lies_within) {
  Arena *a = arena_create();
  Diag *d = diag_create(a, str_table_create(a));
  uint32_t state = 5;
  for (int op = 0; op < OP_COUNT; op++) {
    const OpInfo *o = op_info((OpCode)op);
    if (!o->body)
      continue;
    const Scalar *s = body_of(a, d, o);
    for (int i = 0; i < 4000; i++) {
      double args[3];
      for (int k = 0; k < 3; k++)
        args[k] = number(&state, i & 1);
      DType to = i & 2 ? MPCC_BF16 : MPCC_F32;
      double v = num_round(scalar_eval(s, args, true), to);
      Range r = bound_scalar(s, args, MPCC_F32, to);
      ck_assert_msg(in_range(r, v), "%s(%g, %g): %.9g is not in [%.9g, %.9g]%s", o->name, args[0],
                    args[1], v, r.lo, r.hi, r.nan ? " or NaN" : "");
    }
  }
  arena_destroy(a);
}
END_TEST

/* Width in units of the last place of the largest intermediate, which for these rows is about |a|.
 */
START_TEST(ranges_are_narrow) {
  Arena *a = arena_create();
  Diag *d = diag_create(a, str_table_create(a));
  uint32_t state = 9;
  for (int op = 0; op < OP_COUNT; op++) {
    const OpInfo *o = op_info((OpCode)op);
    if (!o->body)
      continue;
    const Scalar *s = body_of(a, d, o);
    for (int i = 0; i < 1000; i++) {
      double args[3];
      for (int k = 0; k < 3; k++)
        args[k] = 0.5 + fabs(number(&state, false));
      Range r = bound_scalar(s, args, MPCC_F32, MPCC_F32);
      double unit = 0x1p-23 * fmax(8, fabs(r.hi));
      ck_assert_msg(r.number && !r.nan && r.hi - r.lo <= 32 * unit, "%s(%g, %g): [%.9g, %.9g]",
                    o->name, args[0], args[1], r.lo, r.hi);
    }
  }
  arena_destroy(a);
}
END_TEST

/* One rounding of an exact sum has one result, a product that may be fused has two at most. */
START_TEST(correctly_rounded_operations_are_points) {
  Arena *a = arena_create();
  Diag *d = diag_create(a, str_table_create(a));
  uint32_t state = 11;
  const char *const rows[] = {"add", "sub", "div", "sqrt", "maximum", "abs", "neg"};
  for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
    const OpInfo *o = op_info(op_from_name(rows[k]));
    const Scalar *s = body_of(a, d, o);
    for (int i = 0; i < 1000; i++) {
      double args[2] = {fabs(number(&state, false)), 0.5 + fabs(number(&state, false))};
      Range r = bound_scalar(s, args, MPCC_F32, MPCC_F32);
      ck_assert_msg(r.number && r.lo == r.hi, "%s(%g, %g)", o->name, args[0], args[1]);
      ck_assert_double_eq(r.lo, (double)(float)scalar_eval(s, args, true));
    }
  }
  arena_destroy(a);
}
END_TEST

int main(void) {
  TCase *t = tcase_create("opcheck_bound");
  tcase_add_test(t, f32_arithmetic_lies_within);
  tcase_add_test(t, ranges_are_narrow);
  tcase_add_test(t, correctly_rounded_operations_are_points);
  Suite *s = suite_create("opcheck_bound");
  suite_add_tcase(s, t);
  return check_run(s);
}
