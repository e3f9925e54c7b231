/* Elementary functions of floats on the CUDA target: their largest errors over sweeps of all
 * floats, beside libm in double. Prints nothing unless a bound is broken or MPCC_SHOW_BOUNDS is
 * set. */
#include <math.h>

#include "mpcc/num.h"
#include "tests/cuda/kernel.h"
#include "tests/ulp.h"

enum {
  COLS = 1024,
  ROWS = 128,
  N = ROWS * COLS,
  STEP = 4001 /* bit patterns from one to the next */
};

static Group *unary(Prim p) {
  Group *t = group_new("rows", 2, (int64_t[]){ROWS, COLS}, 1);
  t->body.panel_rows = 1;
  const Access a = {.stride = {COLS, 1}};
  group_in(t, MPCC_F32, N, a);
  group_out(t, MPCC_F32, N, a);
  const int x = group_stmt(t, PR_LOAD, MPCC_F32, 0, 0, -1, -1, -1, -1);
  const int y = group_stmt(t, p, MPCC_F32, -1, 0, x, -1, -1, -1);
  group_stmt(t, PR_STORE, MPCC_F32, 0, 0, y, -1, -1, -1);
  return t;
}

static const struct {
  Prim p;
  double (*f)(double);
  double most; /* magnitude of operands */
  double bound;
  bool absolute;
} functions[] = {
    {PR_EXP, exp, INFINITY, 2, false},   {PR_LOG, log, INFINITY, 2, false},
    {PR_TANH, tanh, INFINITY, 3, false}, {PR_ERF, erf, INFINITY, 3, false},
    {PR_SIN, sin, 1e4, 2e-7, true},      {PR_COS, cos, 1e4, 2e-7, true},
};

START_TEST(bounds) {
  const Prim p = functions[_i].p;
  Group *t = unary(p);
  Elems in = elems_new(MPCC_F32, N), out = elems_new(MPCC_F32, N);
  Gpu gpu;
  double worst = 0;
  gpu_compile(&gpu, t, "sm_80");
  for (uint64_t next = 0; next < UINT64_C(1) << 32;) {
    int n = 0;
    while (n < N && next < UINT64_C(1) << 32) {
      const float x = num_f32_from_bits((uint32_t)next);
      next += STEP;
      if (isnan(x) || fabs((double)x) <= functions[_i].most)
        elems_set(&in, n++, (double)x);
    }
    gpu_run(&gpu, t, &in, &out);
    for (int i = 0; i < n; i++) {
      const double x = elems_get(&in, i), got = elems_get(&out, i), want = functions[_i].f(x);
      const double e =
          functions[_i].absolute && !isnan(want) ? fabs(got - want) : error_f32((float)got, want);
      if (!(e <= functions[_i].bound))
        ck_abort_msg("%s(%a) = %a, want %a", prim_name(p), x, got, want);
      worst = fmax(worst, e);
    }
  }
  if (getenv("MPCC_SHOW_BOUNDS"))
    printf("%s: %.3g\n", prim_name(p), worst);
  gpu_close(&gpu);
  elems_free(&in);
  elems_free(&out);
  group_free(t);
}
END_TEST

int main(void) {
  char why[256];
  if (!nvrtc_open(why)) {
    printf("not run: %s\n", why);
    return 77;
  }
  Suite *s = suite_create("elementary functions");
  TCase *t = tcase_create("bounds");
  tcase_set_timeout(t, 120);
  tcase_add_loop_test(t, bounds, 0, (int)(sizeof functions / sizeof *functions));
  suite_add_tcase(s, t);
  return check_run(s);
}
