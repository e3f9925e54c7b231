/* Learning rates beside torch.optim.lr_scheduler, step by step; rates of parameter groups.
 * The numbers come from tools/lr_reference.py. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/fit.h"
#include "schedule_reference.h"
#include "tests/check_run.h"

/* A program that is nothing but a spec and the attributes of its optimizer. */
static mprt_program *open_program(const char *scheduler) {
  mprt_program *p = calloc(1, sizeof *p);
  char *spec = mprt__format("{\"scheduler\": %s}", scheduler);
  p->spec = json_loads(spec, 0, NULL);
  p->meta = json_loads("{\"attrs\": {\"group.0.lr\": 0.3, \"group.1.lr\": 0.03}}", 0, NULL);
  ck_assert(p->spec && p->meta);
  free(spec);
  return p;
}

static void close_program(mprt_program *p) {
  json_decref(p->spec);
  json_decref(p->meta);
  free(p);
}

/* PyTorch's recurrences round at every step, closed forms once: some units in the last place. */
START_TEST(rates_are_torch_s) {
  const char *scheduler = schedules[_i].scheduler;
  mprt_program *p = open_program(scheduler);
  for (int64_t t = 0; t < STEPS; t++) {
    double want = schedules[_i].want[t], got = mprt__schedule_lr(p, 0, t, STEPS, 10);
    ck_assert_msg(fabs(got - want) <= 2e-14, "%s: step %d: %.17g, torch %.17g", scheduler, (int)t,
                  got, want);
    /* the second group has a tenth of the rate, where nothing absolute is in it */
    if (!strstr(scheduler, "0.02") && !strstr(scheduler, "OneCycle"))
      ck_assert_double_eq_tol(mprt__schedule_lr(p, 1, t, STEPS, 10), want / 10, 1e-14);
  }
  close_program(p);
}
END_TEST

START_TEST(momenta_are_torch_s) {
  mprt_program *p = open_program(momenta[_i].scheduler);
  for (int64_t t = 0; t < STEPS; t++)
    ck_assert_double_eq_tol(mprt__schedule_momentum(p, t, STEPS, 10), momenta[_i].want[t], 1e-15);
  close_program(p);
}
END_TEST

/* In a chain a cycle holds its first momentum until it begins, and its last one behind its end. */
START_TEST(momenta_in_a_chain) {
  mprt_program *p = open_program(
      "{\"type\": \"SequentialLR\", \"milestones\": [10, 30], \"schedulers\": ["
      "{\"type\": \"ConstantLR\"}, {\"type\": \"OneCycleLR\", \"max_lr\": 1, \"total_steps\": \"auto\", "
      "\"anneal_strategy\": \"linear\", \"pct_start\": 0.5, \"cycle_momentum\": true}, "
      "{\"type\": \"ConstantLR\"}]}");
  static const struct {
    int64_t t;
    double want;
  } at[] = {{0, 0.95}, {10, 0.95}, {19, 0.85}, {24, 0.9}, {29, 0.95}, {30, 0.95}, {199, 0.95}};
  for (size_t i = 0; i < sizeof at / sizeof *at; i++)
    ck_assert_double_eq_tol(mprt__schedule_momentum(p, at[i].t, STEPS, 10), at[i].want, 1e-15);
  close_program(p);
}
END_TEST

START_TEST(plateaus_are_torch_s) {
  mprt_program *p = open_program(plateaus[_i].scheduler);
  ck_assert_double_eq(mprt__schedule_lr(p, 0, 0, STEPS, 10), 0.3);
  for (int t = 0; t < CHECKS; t++) {
    mprt__plateau_step(p, metric[t]);
    ck_assert_double_eq_tol(mprt__schedule_lr(p, 0, t, STEPS, 10), plateaus[_i].want[t], 1e-15);
  }
  close_program(p);
}
END_TEST

/* Beyond the spec's own end an automatic schedule holds its last value. */
START_TEST(beyond_the_end) {
  mprt_program *p = open_program("{\"type\": \"CosineAnnealingLR\", \"T_max\": \"auto\", "
                                 "\"eta_min\": 0.125}");
  for (int64_t t = STEPS; t < 3 * STEPS; t++)
    ck_assert_double_eq(mprt__schedule_lr(p, 0, t, STEPS, 10), 0.125);
  close_program(p);
}
END_TEST

/* Counted in epochs the rate changes between epochs alone. */
START_TEST(by_epoch) {
  mprt_program *p =
      open_program("{\"type\": \"LinearLR\", \"interval\": \"epoch\", "
                   "\"start_factor\": 0.1, \"end_factor\": 0.9, \"total_iters\": 20}");
  for (int64_t t = 0; t < 7 * 30; t++)
    ck_assert_double_eq_tol(mprt__schedule_lr(p, 0, t, 7 * STEPS, 7), schedules[1].want[t / 7],
                            1e-14);
  for (int64_t epoch = 1; epoch < 4; epoch++) /* no step is taken yet: the first's */
    ck_assert_double_eq_tol(mprt__schedule_lr(p, 0, -1, STEPS, epoch), schedules[1].want[0], 1e-14);
  close_program(p);
}
END_TEST

START_TEST(without_a_scheduler) {
  mprt_program *p = open_program("null");
  for (int64_t t = 0; t < STEPS; t++) {
    ck_assert_double_eq(mprt__schedule_lr(p, 0, t, STEPS, 10), 0.3);
    ck_assert_double_eq(mprt__schedule_lr(p, 1, t, STEPS, 10), 0.03);
  }
  close_program(p);
}
END_TEST

int main(void) {
  Suite *s = suite_create("schedule");
  TCase *tc = tcase_create("schedule");
  tcase_add_loop_test(tc, rates_are_torch_s, 0, sizeof schedules / sizeof *schedules);
  tcase_add_loop_test(tc, momenta_are_torch_s, 0, sizeof momenta / sizeof *momenta);
  tcase_add_test(tc, momenta_in_a_chain);
  tcase_add_loop_test(tc, plateaus_are_torch_s, 0, sizeof plateaus / sizeof *plateaus);
  tcase_add_test(tc, beyond_the_end);
  tcase_add_test(tc, by_epoch);
  tcase_add_test(tc, without_a_scheduler);
  suite_add_tcase(s, tc);
  return check_run(s);
}
