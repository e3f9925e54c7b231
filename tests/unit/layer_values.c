/* Layers and functions of the spec in training and evaluation beside torch's: results, gradients of
 * every operand, running statistics. */
#include <math.h>

#include "layer_reference.h"
#include "passes/passes.h"
#include "spec_check.h"

static Session s;

static void setup(void) {
  s = session_open();
}

static void teardown(void) {
  session_close(&s);
}

static Module *module_of(const char *layers, const char *mode, const char *stage) {
  Text t = {0};
  text_printf(&t,
              "mpcc: 1\nname: t\nmodel:\n  inputs: {unused: {shape: [1]}}\n  layers: [%s]\n"
              "loss: {expr: a * b, inputs: {a: logits, b: image}, reduction: sum}\nmetrics: []\n"
              "data:\n  train: {format: synthetic, shape: [1], classes: 2}\n"
              "  fields: {unused: image}\n  loader: {batch_size: 2}\n"
              "optimizer: {type: SGD, lr: 0.1}\ntrainer: {max_epochs: 1}\nprecision: %s\n",
              layers, mode);
  Spec *spec = spec_text(&s, t.data);
  Module *m = NULL;
  const char *failed;
  PassOpts o = {0};
  PassRun r = {.stop_after = stage};
  if (!spec || spec_lower(spec, s.strings, s.diag, &m) != MPCC_OK ||
      passes_run(m, &o, &r, s.diag, &m, &failed) != MPCC_OK)
    dump(&s);
  ck_assert_msg(m && m->stage == STAGE_TRAIN, "%s", layers);
  text_fini(&t);
  return m;
}

/* The same numbers as fill() of tools/layer_reference.py. */
static double number(int64_t i, const char *name) {
  int64_t k = 0;
  for (const char *c = name; *c; c++)
    k += (unsigned char)*c;
  return (double)((i * 7919 + k * 104729) % 2003) / 1001.0 - 1;
}

static void fill(Eval *e, const Tensor *t, const char *name) {
  double *v = eval_tensor(e, t);
  for (int64_t i = 0; i < type_elems(t->type); i++)
    v[i] = number(i, name);
}

static double total(Eval *e, const Module *m, const char *name) {
  const Tensor *t = module_tensor(m, name);
  ck_assert_msg(t != NULL, "no tensor %s", name);
  const double *v = eval_tensor(e, t);
  double sum = 0;
  for (int64_t i = 0; i < type_elems(t->type); i++)
    sum += v[i] * number(i, name);
  return sum;
}

static void near(const char *layers, const char *what, double got, double want, double tolerance) {
  ck_assert_msg(fabs(got - want) <= tolerance * (1 + fabs(want)), "%s: %s is %.17g, torch %.17g",
                layers, what, got, want);
}

static void check_case(int i, const char *mode, double tolerance) {
  const char *layers = layer_cases[i].layers;
  Module *m = module_of(layers, mode, "grad");
  Eval *e;
  double two = 2;
  ck_assert_int_eq(eval_create(m, !strcmp(mode, "64-true"), &e), MPCC_OK);
  ck_assert_int_eq(eval_run(e, module_func(m, "init")), MPCC_OK);
  for (int k = 0; k < m->ntensor; k++)
    if (m->tensor[k]->role == ROLE_PARAM)
      fill(e, m->tensor[k], m->tensor[k]->name);
  fill(e, module_tensor(m, "io.image"), "image");
  memcpy(eval_tensor(e, module_tensor(m, "io.valid")), &two, sizeof two);
  ck_assert_int_eq(eval_run(e, module_func(m, "train_forward")), MPCC_OK);
  near(layers, "training", *eval_tensor(e, module_tensor(m, "metric.loss_sum")),
       layer_cases[i].train, tolerance);
  for (int k = 0; k < 8 && layer_cases[i].tensor[k].name; k++)
    near(layers, layer_cases[i].tensor[k].name, total(e, m, layer_cases[i].tensor[k].name),
         layer_cases[i].tensor[k].sum, tolerance);
  ck_assert_int_eq(eval_run(e, module_func(m, "eval_forward")), MPCC_OK);
  near(layers, "evaluation", *eval_tensor(e, module_tensor(m, "metric.loss_sum")),
       layer_cases[i].eval, tolerance);
  eval_destroy(e);
  module_destroy(m);
}

START_TEST(values_and_slopes_are_torch_s) {
  check_case(_i, "64-true", 1e-12);
}
END_TEST

START_TEST(fp32_is_near) {
  check_case(_i, "32-true", 1e-4);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("layer_values");
  TCase *t = tcase_create("all");
  tcase_add_checked_fixture(t, setup, teardown);
  int n = (int)(sizeof layer_cases / sizeof *layer_cases);
  tcase_add_loop_test(t, values_and_slopes_are_torch_s, 0, n);
  tcase_add_loop_test(t, fp32_is_near, 0, n);
  suite_add_tcase(suite, t);
  return check_run(suite);
}
