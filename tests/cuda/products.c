/* Products by cuBLASLt beside kernels of mpcc's own: the same training within the rounding between
 * a product and what follows it; codes of 8 bits as they are and, on sm_80, decoded; the same bits
 * whatever algorithm timing takes; an offer that is refused when it is tried ends nothing while
 * another works. */
#include <unistd.h>

#include "tests/cuda/program.h"

enum { STEPS = 3 };

/* How far losses may be apart: sums in another order; below 32 bits half an eps of the format for
 * the rounding that a fused kernel leaves out. */
static const struct {
  const char *gpu, *mode;
  double loss;
} cases[] = {
    {"sm_90", "64-true", 1e-13},
    {"sm_90", "16-mixed", 0x1p-11},
    {"sm_90", "transformer-engine", 0x1p-8},
    {"sm_80", "transformer-engine", 0x1p-8},
};

static int products_of(const mprt_program *p) {
  int n = 0;
  for (uint32_t i = 0; i < p->ncommand; i++)
    n += p->command[i].op == MPCC_CMD_PRODUCT;
  return n;
}

static void train(mprt_program *p, double loss[STEPS]) {
  for (int step = 0; step < STEPS; step++) {
    feed(p, (uint64_t)step);
    mprt__schedule_fill(p, step, 100, 100);
    if (!step && mprt__function(p, "calibrate"))
      ck_assert_int_eq(mprt_run(p, "calibrate"), MPCC_OK);
    ck_assert_int_eq(mprt_run(p, "train_step"), MPCC_OK);
    loss[step] = mprt__get_scalar(p, "metric.loss_sum", NAN);
  }
}

static void same_state(mprt_program *a, mprt_program *b) {
  for (uint32_t i = 0; i < a->ntensor; i++)
    if (a->tensor[i].segment == MPCC_SEG_STATE)
      ck_assert_msg(!memcmp(mprt__tensor_look(a, i), mprt__tensor_look(b, i), a->tensor[i].bytes),
                    "%s differs", mprt__string(a, a->tensor[i].name));
}

START_TEST(library_beside_own) {
  double own_loss[STEPS], loss[STEPS], again_loss[STEPS];
  size_t bytes, own_bytes;
  const char *spec = "tests/cli/tiny.yaml", *mode = cases[_i].mode;
  void *own_image = compile_for(cases[_i].gpu, spec, mode, NULL, false, true, &own_bytes);
  void *image = compile_for(cases[_i].gpu, spec, mode, NULL, false, false, &bytes);
  mprt_program *own = open_on(own_image, own_bytes, "cuda", false);
  mprt_program *p = open_on(image, bytes, "cuda", false);
  mprt_program *again = open_on(image, bytes, "cuda", true);
  ck_assert_int_eq(products_of(own), 0);
  ck_assert_int_gt(products_of(p), 10);
  train(own, own_loss);
  train(p, loss);
  train(again, again_loss);
  for (int i = 0; i < STEPS; i++)
    ck_assert_msg(fabs(loss[i] - own_loss[i]) <= cases[_i].loss * fabs(own_loss[i]),
                  "%s %s: loss %.9g at step %d, with kernels of its own %.9g", cases[_i].gpu, mode,
                  loss[i], i + 1, own_loss[i]);
  same_state(p, again);
  mprt_close(own);
  mprt_close(p);
  mprt_close(again);
  free(own_image);
  free(image);
}
END_TEST

/* Calls of cublasLtMatmul that are refused: each offer is asked for once, then timed three times.
 */
static const struct {
  const char *refused;
  bool opens;
} refusals[] = {
    {"cublasLtMatmul:1:15", false}, /* the first */
    {"cublasLtMatmul:3:15", false},
    {"cublasLtMatmul:5:15", true}, /* the second, when it is asked for and when it is timed */
    {"cublasLtMatmul:6:13", true},
};

START_TEST(an_offer_is_refused) {
  mpcc_status s = MPCC_OK;
  size_t bytes;
  double loss[STEPS], want[STEPS];
  void *image = compile_for("sm_90", "tests/cli/tiny.yaml", "32-true", NULL, false, false, &bytes);
  setenv("EMU_FAIL", refusals[_i].refused, 1);
  mprt_options o;
  mprt_options_default(&o);
  o.device = "cuda";
  mprt_program *p = NULL, *plain;
  s = mprt_open(image, bytes, &o, NULL, &p);
  unsetenv("EMU_FAIL");
  ck_assert_int_eq(s == MPCC_OK, refusals[_i].opens);
  if (refusals[_i].opens) {
    ck_assert_int_eq(mprt_init(p), MPCC_OK);
    plain = open_on(image, bytes, "cuda", false);
    train(plain, want);
    train(p, loss);
    same_state(p, plain);
    mprt_close(plain);
  }
  mprt_close(p);
  free(image);
}
END_TEST

int main(void) {
  const int code = run_cases("products", library_beside_own, (int)(sizeof cases / sizeof *cases));
  return code ? code
              : run_cases("refusals", an_offer_is_refused,
                          (int)(sizeof refusals / sizeof *refusals));
}
