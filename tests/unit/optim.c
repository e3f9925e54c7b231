/* Every optimizer beside torch.optim's, step by step in FP64; what a step that is not applied
 * leaves; groups and formats of state. */
#include <math.h>

#include "optim_reference.h"
#include "passmodels.h"
#include "scaler_reference.h"
#include "tests/check_run.h"

/* A parameter whose gradient is an input. */
static Module *one_parameter(Session *s, const char *optimizer, const char *attrs,
                             const char *mode) {
  static const char body[] = "tensor @w : f64[3] role=param {group=0}\n"
                             "tensor @io.g : f64[3] role=input\n"
                             "tensor @grad.w : f64[3] role=grad {of=@w}\n"
                             "tensor @metric.loss_sum : f64[] role=metric\n"
                             "tensor @metric.weight_sum : f64[] role=metric\n"
                             "func @init {\n"
                             "  %0:f64[] = const {dtype=f64, value=0.5}\n"
                             "  %1:f64[3] = expand %0 {shape=[3]}\n"
                             "  write %1 {tensor=@w}\n"
                             "}\n"
                             "func @train_forward {\n"
                             "  %0:f64[3] = read {tensor=@io.g}\n"
                             "  %1:f64[] = loss_seed {capacity=1, dtype=f64}\n"
                             "  %2:f64[3] = mul %0, %1\n"
                             "  %3:f64[] = sum %0 {dims=[0], keepdim=false}\n"
                             "  write %2 {tensor=@grad.w}\n"
                             "  write %3 {tensor=@metric.loss_sum}\n"
                             "  write %1 {tensor=@metric.weight_sum}\n"
                             "}\n";
  Text t = {0};
  text_printf(&t, "mpir 1 stage=train\nattr mode=\"%s\"\nattr optimizer=\"%s\"\n%s%s", mode,
              optimizer, attrs, body);
  for (char *c = t.data; strcmp(mode, "64-true") && (c = strstr(c, "f64"));)
    memcpy(c, !strcmp(mode, "32-true") ? "f32" : "f16", 3);
  Module *m = step_module(s, &t);
  text_fini(&t);
  return m;
}

/* This step's row of the table: what the runtime fills in. beta1: the momentum where it is moved. */
static void fill_row(Eval *e, const Module *m, int taken, double lr, double beta1, double beta2) {
  const Tensor *t = module_tensor(m, "io.table");
  double *row = eval_tensor(e, t) + taken * t->type->dim[1];
  const char *column = tensor_str(t, "columns", "");
  for (int64_t i = 0; i < t->type->dim[1]; i++, column += strcspn(column, " ") + 1)
    row[i] = !strncmp(column, "lr.0", 4)    ? lr
             : !strncmp(column, "bc1.0", 5) ? 1 - pow(beta1, taken + 1)
             : !strncmp(column, "bc2.0", 5) ? sqrt(1 - pow(beta2, taken + 1))
                                            : beta1;
}

static double attr_number(const Module *m, const char *key, double otherwise) {
  return module_number(m, key, otherwise);
}

START_TEST(updates_are_torch_s) {
  Session s = session_open();
  Module *m = one_parameter(&s, updates[_i].optimizer, updates[_i].attrs, "64-true");
  Eval *e;
  ck_assert_int_eq(eval_create(m, false, &e), MPCC_OK);
  run(e, m, "init");
  memcpy(data_of(e, m, "w"), start, sizeof start);
  for (int t = 0; t < STEPS; t++) {
    double beta1 = attr_number(m, "cycle_momentum", 0) != 0 ? momenta[t]
                                                            : attr_number(m, "group.0.beta1", 0.9);
    fill_row(e, m, t, rates[t], beta1, attr_number(m, "group.0.beta2", 0.999));
    memcpy(data_of(e, m, "io.g"), slopes[t], sizeof slopes[t]);
    run(e, m, "train_step");
    for (int i = 0; i < 3; i++) {
      double got = data_of(e, m, "w")[i], want = updates[_i].want[t][i];
      ck_assert_msg(fabs(got - want) <= 2e-15 * (1 + fabs(want)) * (t + 1),
                    "%s %s: step %d, element %d: %.17g, torch %.17g", updates[_i].optimizer,
                    updates[_i].attrs, t, i, got, want);
    }
  }
  ck_assert_double_eq(*data_of(e, m, "count.taken"), STEPS);
  eval_destroy(e);
  module_destroy(m);
  session_close(&s);
}
END_TEST

/* Parameters and every state keep their bits [N11]. */
START_TEST(a_step_that_is_not_finite_changes_nothing) {
  Session s = session_open();
  Module *m = one_parameter(&s, updates[_i].optimizer, updates[_i].attrs, "32-true");
  Eval *e;
  ck_assert_int_eq(eval_create(m, false, &e), MPCC_OK);
  run(e, m, "init");
  memcpy(data_of(e, m, "w"), start, sizeof start);
  for (int t = 0; t < 3; t++) {
    double before[64];
    int n = 0;
    for (int i = 0; i < m->ntensor; i++)
      if (m->tensor[i]->role == ROLE_MOMENT && m->tensor[i]->base)
        for (int k = 0; k < 3; k++)
          before[n++] = eval_tensor(e, m->tensor[i])[k];
    memcpy(before + n, data_of(e, m, "w"), sizeof start);
    fill_row(e, m, t == 2 ? 1 : t, 0.1, 0.9, 0.999);
    memcpy(data_of(e, m, "io.g"), slopes[t], sizeof slopes[t]);
    if (t == 1)
      data_of(e, m, "io.g")[1] = INFINITY;
    run(e, m, "train_step");
    n = 0;
    bool same = true;
    for (int i = 0; i < m->ntensor; i++)
      if (m->tensor[i]->role == ROLE_MOMENT && m->tensor[i]->base)
        for (int k = 0; k < 3; k++)
          same &= before[n++] == eval_tensor(e, m->tensor[i])[k];
    same &= !memcmp(before + n, data_of(e, m, "w"), sizeof start);
    ck_assert_msg(same == (t == 1), "%s: step %d", updates[_i].optimizer, t);
  }
  ck_assert_double_eq(*data_of(e, m, "count.taken"), 2);
  ck_assert_double_eq(*data_of(e, m, "count.skipped"), 1);
  eval_destroy(e);
  module_destroy(m);
  session_close(&s);
}
END_TEST

/* Scale and growth tracker beside torch.amp.GradScaler's on the same overflows [N7]; an overflow
 * leaves count.taken, and with it the schedule, where it was. */
START_TEST(loss_scales_are_torch_s) {
  Session s = session_open();
  char attrs[400];
  snprintf(attrs, sizeof attrs,
           "attr scaler=1\nattr scaler_init_scale=%.9g\nattr scaler_growth_factor=%.9g\n"
           "attr scaler_backoff_factor=%.9g\nattr scaler_growth_interval=%d\n"
           "attr scaler_min_scale=1e-30\nattr ema_decay=0.5\n",
           traces[_i].init_scale, traces[_i].growth, traces[_i].backoff, (int)traces[_i].interval);
  Module *m = one_parameter(&s, "SGD", attrs, "32-true");
  Eval *e;
  int taken = 0;
  ck_assert_int_eq(eval_create(m, false, &e), MPCC_OK);
  run(e, m, "init");
  for (int t = 0; t < TRACE; t++) {
    double before = data_of(e, m, "optim.w.ema")[0], w = data_of(e, m, "w")[0];
    for (int k = 0; k < 3; k++)
      data_of(e, m, "io.g")[k] = traces[_i].found[t] && k == 1 ? INFINITY : 1e-3;
    fill_row(e, m, taken, 0.1, 0.9, 0.999);
    run(e, m, "train_step");
    taken += !traces[_i].found[t];
    ck_assert_double_eq(*data_of(e, m, "count.taken"), taken);
    ck_assert_double_eq(*data_of(e, m, "scaler.scale"), (float)traces[_i].scale[t]);
    ck_assert_double_eq(*data_of(e, m, "scaler.growth_tracker"), traces[_i].tracker[t]);
    if (traces[_i].found[t]) {
      ck_assert_double_eq(data_of(e, m, "w")[0], w);
      ck_assert_double_eq(data_of(e, m, "optim.w.ema")[0], before);
    } else {
      double want = (float)(0.5f * (float)before + 0.5f * (float)data_of(e, m, "w")[0]);
      ck_assert_double_eq_tol(data_of(e, m, "optim.w.ema")[0], want, 1e-7);
    }
  }
  eval_destroy(e);
  module_destroy(m);
  session_close(&s);
}
END_TEST

START_TEST(a_static_scale_stays) {
  Session s = session_open();
  Module *m = one_parameter(
      &s, "SGD", "attr scaler=1\nattr scaler_init_scale=512.0\nattr scaler_static=1\n", "32-true");
  Eval *e;
  ck_assert_int_eq(eval_create(m, false, &e), MPCC_OK);
  run(e, m, "init");
  for (int t = 0; t < 4; t++) {
    data_of(e, m, "io.g")[0] = t == 2 ? INFINITY : 1;
    run(e, m, "train_step");
    ck_assert_double_eq(*data_of(e, m, "scaler.scale"), 512);
  }
  ck_assert_double_eq(*data_of(e, m, "count.skipped"), 1);
  eval_destroy(e);
  module_destroy(m);
  session_close(&s);
}
END_TEST

/* Sums of squares are FP32 where parameters are f16; other states are as the parameters [N12]. */
START_TEST(squares_are_wide_in_16_true) {
  static const struct {
    const char *optimizer, *attrs, *state;
    DType want;
  } row[] = {
      {"Adam", "attr group.0.amsgrad=true\n", "optim.w.max_exp_avg_sq", MPCC_F32},
      {"AdamW", "", "optim.w.exp_avg", MPCC_F16},
      {"RMSprop", "attr group.0.centered=true\n", "optim.w.square_avg", MPCC_F32},
      {"RMSprop", "attr group.0.centered=true\n", "optim.w.grad_avg", MPCC_F16},
      {"Adagrad", "", "optim.w.sum", MPCC_F32},
      {"Lion", "", "optim.w.exp_avg", MPCC_F16},
  };
  for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
    Session s = session_open();
    Module *m = one_parameter(&s, row[i].optimizer, row[i].attrs, "16-true");
    const Tensor *t = module_tensor(m, row[i].state);
    ck_assert_msg(t && t->type->dt == row[i].want, "%s", row[i].state);
    module_destroy(m);
    session_close(&s);
  }
}
END_TEST

/* States that no hyperparameter asks for take no memory. */
START_TEST(states_are_kept_when_they_are_used) {
  static const struct {
    const char *optimizer, *attrs;
    int states;
  } row[] = {
      {"SGD", "", 0},  {"SGD", "attr group.0.momentum=0.9\n", 1},
      {"Adam", "", 2}, {"RMSprop", "attr group.0.momentum=0.5\nattr group.0.centered=true\n", 3},
      {"Lion", "", 1}, {"Adagrad", "", 1},
  };
  for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
    Session s = session_open();
    Module *m = one_parameter(&s, row[i].optimizer, row[i].attrs, "32-true");
    int n = 0;
    for (int k = 0; k < m->ntensor; k++)
      n += m->tensor[k]->role == ROLE_MOMENT && m->tensor[k]->base;
    ck_assert_msg(n == row[i].states, "%s: %d", row[i].optimizer, n);
    module_destroy(m);
    session_close(&s);
  }
}
END_TEST

int main(void) {
  Suite *suite = suite_create("optim");
  TCase *t = tcase_create("all");
  tcase_add_loop_test(t, updates_are_torch_s, 0, sizeof updates / sizeof *updates);
  tcase_add_loop_test(t, a_step_that_is_not_finite_changes_nothing, 0,
                      sizeof updates / sizeof *updates);
  tcase_add_loop_test(t, loss_scales_are_torch_s, 0, sizeof traces / sizeof *traces);
  tcase_add_test(t, a_static_scale_stays);
  tcase_add_test(t, squares_are_wide_in_16_true);
  tcase_add_test(t, states_are_kept_when_they_are_used);
  suite_add_tcase(suite, t);
  return check_run(suite);
}
