/* Losses of a spec: values and gradients beside PyTorch's, partial batches and weighted sums
 * included; what is refused; the plan of a large vocabulary. */
#include <math.h>

#include "loss_reference.h"
#include "mpcc/abi.h"
#include "passes/passes.h"
#include "spec_check.h"
#include "tests/plain_caps.h"

static Session s;

static void setup(void) {
  s = session_open();
}

static void teardown(void) {
  session_close(&s);
}

/* logits = onehot W^T: with the identity as batch, the gradient of W is that of the logits,
 * transposed. */
static Module *train_module(const char *loss, const char *metrics, const char *mode) {
  char text[1200];
  snprintf(text, sizeof text,
           "mpcc: 1\nname: t\nmodel:\n  inputs: {onehot: {shape: [4]}, image: {shape: [5]}}\n"
           "  layers: [{name: fc, Linear: 5, inputs: onehot, bias: false}]\n"
           "loss: %s\nmetrics: %s\n"
           "data:\n  train: {format: synthetic, shape: [4], classes: 5}\n"
           "  fields: {onehot: image}\n  loader: {batch_size: 4}\n"
           "optimizer: {type: SGD, lr: 0.1}\ntrainer: {max_epochs: 1}\nprecision: %s\n",
           loss, metrics, mode);
  Spec *spec = spec_text(&s, text);
  Module *m = NULL;
  const char *failed;
  PassOpts o = {0};
  PassRun r = {.stop_after = "grad"};
  if (!spec || spec_lower(spec, s.strings, s.diag, &m) != MPCC_OK ||
      passes_run(m, &o, &r, s.diag, &m, &failed) != MPCC_OK)
    dump(&s);
  ck_assert_msg(m && m->stage == STAGE_TRAIN, "%s", loss);
  return m;
}

static void put(Eval *e, const Module *m, const char *name, const double *v, int n) {
  const Tensor *t = module_tensor(m, name);
  if (t)
    memcpy(eval_tensor(e, t), v, (size_t)n * sizeof *v);
}

static double scalar(Eval *e, const Module *m, const char *name) {
  return *eval_tensor(e, module_tensor(m, name));
}

static void check_case(int i, const char *mode, double tolerance) {
  Module *m = train_module(losses[i].loss, "[]", mode);
  Eval *e;
  double x[16] = {0}, w[20], n = losses[i].valid;
  for (int k = 0; k < 4; k++)
    x[5 * k] = 1;
  for (int k = 0; k < 20; k++)
    w[k] = logits[k % 4 * 5 + k / 4];
  ck_assert_int_eq(eval_create(m, !strcmp(mode, "64-true"), &e), MPCC_OK);
  put(e, m, "io.onehot", x, 16);
  put(e, m, "io.image", image, 20);
  put(e, m, "io.label", label, 4);
  put(e, m, "io.valid", &n, 1);
  put(e, m, "fc.weight", w, 20);
  ck_assert_int_eq(eval_run(e, module_func(m, "train_forward")), MPCC_OK);
  double weight = scalar(e, m, "metric.weight_sum");
  double loss = scalar(e, m, "metric.loss_sum") / weight;
  ck_assert_msg(fabs(loss - losses[i].value) <= tolerance * (1 + fabs(losses[i].value)),
                "%s: %.17g, torch %.17g", losses[i].loss, loss, losses[i].value);
  const double *g = eval_tensor(e, module_tensor(m, "grad.fc.weight"));
  for (int k = 0; k < 20; k++) {
    double got = g[k % 5 * 4 + k / 5] / weight, want = losses[i].slope[k];
    ck_assert_msg(fabs(got - want) <= tolerance * (1 + fabs(want)),
                  "%s: slope %d is %.17g, torch %.17g", losses[i].loss, k, got, want);
  }
  /* no micro-batch weighs more than the seed assumes */
  const Func *f = module_func(m, "train_forward");
  for (int k = 0; k < f->nop; k++)
    if (f->op[k]->code == OP_loss_seed)
      ck_assert_double_le(weight, (double)op_int(f->op[k], "capacity", 0));
  eval_destroy(e);
  module_destroy(m);
}

START_TEST(values_and_slopes_are_torch_s) {
  check_case(_i, "64-true", 1e-13);
}
END_TEST

START_TEST(low_formats_compute_the_loss_in_fp32) {
  check_case(_i, "bf16-mixed", 0.02);
  check_case(_i, "16-true", 0.004);
}
END_TEST

/* What a metric counts are targets, whatever the loss makes of them. */
START_TEST(metrics_count_targets) {
  static const struct {
    const char *loss;
    double count;
  } all[] = {{"{type: CrossEntropyLoss}", 4},
             {"{type: CrossEntropyLoss, weight: [1, 2, 0.5, 1, 3]}", 4},
             {"{type: CrossEntropyLoss, weight: [1, 2, 0.5, 1, 3], ignore_index: 4}", 3},
             {"{type: CrossEntropyLoss, reduction: sum}", 4}};
  double valid = 4;
  Module *m = train_module(all[_i].loss, "[Accuracy]", "64-true");
  Eval *e;
  ck_assert_int_eq(eval_create(m, true, &e), MPCC_OK);
  put(e, m, "io.label", label, 4);
  put(e, m, "io.valid", &valid, 1);
  ck_assert_int_eq(eval_run(e, module_func(m, "train_forward")), MPCC_OK);
  const char *count = tensor_str(module_tensor(m, "metric.acc"), "count", "");
  ck_assert_double_eq(scalar(e, m, count), all[_i].count);
  eval_destroy(e);
  module_destroy(m);
}
END_TEST

static const struct {
  const char *loss;
  int code;
  const char *text;
} refused[] = {
    {"{type: MSELoss, inputs: {input: logits, target: onehot}}", 311, "element by element"},
    {"{type: MSELoss, inputs: {input: logit}}", 221, "no output or layer is named 'logit'"},
    {"{type: MSELoss, inputs: {inputs: logits}}", 102, "inputs"},
    {"{type: CrossEntropyLoss, inputs: {target: image}}", 312, "no class numbers"},
    {"{type: BCEWithLogitsLoss, inputs: {target: image}, pos_weight: [1, 2]}", 311, "pos_weight"},
    {"{type: CrossEntropyLoss, reduction: none}", 190, "none"},
    {"{type: CrossEntropyLoss, weight: [1, 2]}", 311, "weight"},
    {"{type: NLLLoss, weight: [1, 2, 3, 4, -5]}", 202, "weight"},
    {"{type: HuberLoss, delta: 0}", 202, "delta"},
    {"{expr: a * a}", 201, "map"},
    {"{expr: a * q, inputs: {a: logits}}", 218, "q"},
    {"{expr: label * label, inputs: {label: label}}", 221, "label"},
    {"[]", 201, "list"},
    {"{type: MSELos}", 191, "MSELos"},
};

START_TEST(mistakes_are_located) {
  char text[1200];
  snprintf(text, sizeof text,
           "mpcc: 1\nname: t\nmodel:\n  inputs: {onehot: {shape: [4]}, image: {shape: [5]}}\n"
           "  layers: [{name: fc, Linear: 5, inputs: onehot, bias: false}]\n"
           "loss: %s\nmetrics: []\n"
           "data:\n  train: {format: synthetic, shape: [4], classes: 5}\n"
           "  fields: {onehot: image}\n  loader: {batch_size: 4}\n"
           "optimizer: {type: SGD, lr: 0.1}\ntrainer: {max_epochs: 1}\n",
           refused[_i].loss);
  Spec *spec = spec_text(&s, text);
  Module *m = NULL;
  ck_assert(!spec || spec_lower(spec, s.strings, s.diag, &m) == MPCC_ERR_INPUT);
  const DiagMessage *d = diag_first(s.diag);
  if (d->code != refused[_i].code || !strstr(d->text, refused[_i].text))
    dump(&s);
  ck_assert_int_eq(d->code, refused[_i].code);
  ck_assert_ptr_nonnull(strstr(d->text, refused[_i].text));
  ck_assert_int_eq(d->loc.line, 6);
}
END_TEST

/* Forward and backward of a large vocabulary are one kernel that writes the gradient over the
 * logits: in the plan of train_step nothing else has the logits' size, with a bias or without. */
START_TEST(a_large_vocabulary_has_one_buffer) {
  enum { ROWS = 8, WORDS = 50257 };
  static const char *const modes[] = {"32-true", "bf16-mixed", "16-true", "64-true"};
  char text[900];
  snprintf(
      text, sizeof text,
      "mpcc: 1\nname: t\nmodel:\n  inputs: {image: {shape: [4]}}\n"
      "  layers: [{Linear: 16}, GELU, {Linear: %d, bias: %s}]\n"
      "loss: {type: CrossEntropyLoss, ignore_index: 0, label_smoothing: 0.1}\n"
      "data:\n  train: {format: synthetic, shape: [4], classes: 5}\n  loader: {batch_size: %d}\n"
      "optimizer: {type: AdamW, lr: 0.1}\ntrainer: {max_epochs: 1}\nprecision: %s\n",
      WORDS, _i % 2 ? "true" : "false", ROWS, modes[_i / 2]);
  Spec *spec = spec_text(&s, text);
  Module *m = NULL;
  const char *failed;
  PassOpts o = {.caps = &plain_caps, .opt_level = 2};
  PassRun r = {0};
  if (!spec || spec_lower(spec, s.strings, s.diag, &m) != MPCC_OK ||
      passes_run(m, &o, &r, s.diag, &m, &failed) != MPCC_OK)
    dump(&s);
  ck_assert(m && m->stage == STAGE_PLANNED);
  const Func *f = module_func(m, "train_step");
  const Value *first = NULL;
  int found = 0;
  for (int i = 0; i < f->nop; i++)
    for (int k = 0; k < f->op[i]->nout; k++) {
      const Value *v = f->op[i]->out[k];
      if (type_elems(v->type) != (int64_t)ROWS * WORDS)
        continue;
      first = found++ ? first : v;
      ck_assert_str_eq(op_str(v->def, "kind", ""), found == 1 ? "product" : "rows");
      ck_assert_int_eq(v->type->dt, first->type->dt);
      ck_assert(v->offset >= 0 && v->offset == first->offset);
    }
  ck_assert_int_eq(found, 2);
  module_destroy(m);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("losses");
  TCase *t = tcase_create("all");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_loop_test(t, values_and_slopes_are_torch_s, 0, sizeof losses / sizeof *losses);
  tcase_add_loop_test(t, low_formats_compute_the_loss_in_fp32, 0, sizeof losses / sizeof *losses);
  tcase_add_loop_test(t, metrics_count_targets, 0, 4);
  tcase_add_loop_test(t, mistakes_are_located, 0, sizeof refused / sizeof *refused);
  tcase_add_loop_test(t, a_large_vocabulary_has_one_buffer, 0, 8);
  suite_add_tcase(suite, t);
  return check_run(suite);
}
