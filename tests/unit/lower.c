/* The forward module: functions, tensors, attributes, and what they compute. */
#include <math.h>

#include "spec_check.h"

static Session s;

static void setup(void) {
  s = session_open();
}

static void teardown(void) {
  session_close(&s);
}

static Module *lower(const char *text) {
  Spec *spec = spec_text(&s, text);
  Module *m = NULL;
  if (!spec || spec_lower(spec, s.strings, s.diag, &m) != MPCC_OK)
    dump(&s);
  ck_assert_ptr_nonnull(m);
  return m;
}

START_TEST(tensors_and_functions_are_there) {
  Module *m = lower(SPEC_SMALL);
  static const struct {
    const char *name;
    Role role;
    DType dt;
    int rank;
  } want[] = {{"io.image", ROLE_INPUT, MPCC_F32, 4},
              {"io.label", ROLE_INPUT, MPCC_I64, 1},
              {"io.valid", ROLE_VALID, MPCC_I64, 0},
              {"io.seed", ROLE_SEED, MPCC_I64, 0},
              {"metric.loss_sum", ROLE_METRIC, MPCC_F32, 0},
              {"metric.weight_sum", ROLE_METRIC, MPCC_F32, 0},
              {"metric.acc", ROLE_METRIC, MPCC_F32, 0},
              {"count.seen", ROLE_COUNTER, MPCC_I64, 0},
              {"count.taken", ROLE_COUNTER, MPCC_I64, 0},
              {"count.skipped", ROLE_COUNTER, MPCC_I64, 0},
              {"1.weight", ROLE_PARAM, MPCC_F32, 2},
              {"1.bias", ROLE_PARAM, MPCC_F32, 1},
              {"output.logits", ROLE_OUTPUT, MPCC_F32, 2}};
  for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
    const Tensor *t = module_tensor(m, want[i].name);
    ck_assert_msg(t && t->role == want[i].role && t->type->dt == want[i].dt &&
                      t->type->rank == want[i].rank,
                  "%s", want[i].name);
  }
  ck_assert_str_eq(tensor_str(module_tensor(m, "io.image"), "field", ""), "image");
  ck_assert_str_eq(tensor_str(module_tensor(m, "io.label"), "field", ""), "label");
  ck_assert_int_eq(m->stage, STAGE_FORWARD);
  ck_assert_ptr_nonnull(module_func(m, "init"));
  ck_assert_ptr_nonnull(module_func(m, "train_forward"));
  ck_assert_ptr_nonnull(module_func(m, "eval_forward"));
  ck_assert_ptr_nonnull(module_func(m, "predict"));
  module_destroy(m);
}
END_TEST

static double number(const Module *m, const char *key) {
  const Attr *a = attr_find(m->attr, m->nattr, key);
  ck_assert_msg(a != NULL, "%s", key);
  return a->kind == AT_FLOAT ? a->u.f : (double)a->u.i;
}

START_TEST(attributes_follow_the_spec) {
  Module *m = lower(
      SPEC_HEAD
      "  layers: [Flatten, {Linear: 3}]\nloss: CrossEntropyLoss\n"
      "data:\n  train: {format: synthetic, shape: [1, 4, 4], classes: 3}\n"
      "  loader: {batch_size: 6}\n"
      "optimizer:\n  type: AdamW\n  lr: 0.1\n  param_groups:\n"
      "    - {match: '*.bias', weight_decay: 0, lr: 0.2, betas: [0.5, 0.75]}\n"
      "trainer: {max_epochs: 1, accumulate_grad_batches: 4, gradient_clip_val: 0.5, "
      "gradient_clip_algorithm: value}\n"
      "precision: {mode: transformer-engine-float16, weights_dtype: float16, "
      "fallback_compute_dtype: bfloat16, policy: cpu, residual: low, recipe: {fp8_format: E4M3, "
      "amax_history_len: 16, amax_compute_algo: most_recent, margin: 2}, grad_scaler: {enabled: "
      "true, init_scale: 8, growth_interval: 5}}\n");
  ck_assert_str_eq(module_str(m, "name", ""), "t");
  ck_assert_str_eq(module_str(m, "mode", ""), "transformer-engine-float16");
  ck_assert_str_eq(module_str(m, "weights_dtype", ""), "f16");
  ck_assert_str_eq(module_str(m, "fallback_dtype", ""), "bf16");
  ck_assert_str_eq(module_str(m, "policy", ""), "cpu");
  ck_assert_str_eq(module_str(m, "residual", ""), "low");
  ck_assert_str_eq(module_str(m, "fp8_format", ""), "E4M3");
  ck_assert_str_eq(module_str(m, "amax_compute_algo", ""), "most_recent");
  ck_assert_str_eq(module_str(m, "first_step", ""), "calibrate");
  ck_assert_double_eq(number(m, "amax_history_len"), 16);
  ck_assert_double_eq(number(m, "margin"), 2);
  ck_assert_double_eq(number(m, "scaler"), 1);
  ck_assert_double_eq(number(m, "scaler_init_scale"), 8);
  ck_assert_double_eq(number(m, "scaler_growth_interval"), 5);
  ck_assert_double_eq(number(m, "scaler_backoff_factor"), 0.5);
  ck_assert_double_eq(number(m, "batch"), 6);
  ck_assert_double_eq(number(m, "accumulate"), 4);
  ck_assert_str_eq(module_str(m, "clip_algorithm", ""), "value");
  ck_assert_double_eq(number(m, "clip_val"), 0.5);
  ck_assert_str_eq(module_str(m, "optimizer", ""), "AdamW");
  ck_assert_double_eq(number(m, "group.0.lr"), 0.1);
  ck_assert_double_eq(number(m, "group.0.weight_decay"), 0.01);
  ck_assert_double_eq(number(m, "group.1.lr"), 0.2);
  ck_assert_double_eq(number(m, "group.1.weight_decay"), 0);
  ck_assert_double_eq(number(m, "group.1.beta1"), 0.5);
  ck_assert_double_eq(number(m, "group.1.beta2"), 0.75);
  ck_assert_double_eq(number(m, "group.1.eps"), 1e-8);
  ck_assert_int_eq(tensor_int(module_tensor(m, "1.weight"), "group", -1), 0);
  ck_assert_int_eq(tensor_int(module_tensor(m, "1.bias"), "group", -1), 1);
  module_destroy(m);
}
END_TEST

#define DROPS                                                                                      \
  SPEC_HEAD                                                                                        \
  "  layers: [Flatten, {Dropout: 0.5}, {residual: [{name: a, Linear: 16}, Dropout]}, "             \
  "{residual: [{name: b, Linear: 16}, Dropout]}, {name: c, Linear: 3}]" SPEC_TAIL

START_TEST(dropout_is_for_training_only) {
  Module *m = lower(DROPS);
  int64_t stream[3];
  int n = 0;
  const Func *f = module_func(m, "train_forward");
  for (int i = 0; i < f->nop; i++)
    if (f->op[i]->code == OP_dropout && n < 3) {
      stream[n++] = op_int(f->op[i], "stream", -1);
      ck_assert_ptr_eq(op_attr(f->op[i]->in[1]->def, "tensor")->u.tensor,
                       module_tensor(m, "io.seed"));
      ck_assert_ptr_eq(op_attr(f->op[i]->in[2]->def, "tensor")->u.tensor,
                       module_tensor(m, "count.seen"));
    }
  ck_assert_int_eq(n, 3);
  for (int i = 0; i < 3; i++) {
    ck_assert(stream[i] >= 0 && stream[i] <= 0x7fffffff);
    ck_assert(stream[i] != stream[(i + 1) % 3]);
  }
  const char *const quiet[] = {"eval_forward", "predict", "init"};
  for (size_t k = 0; k < 3; k++) {
    f = module_func(m, quiet[k]);
    for (int i = 0; i < f->nop; i++)
      ck_assert(f->op[i]->code != OP_dropout);
  }
  module_destroy(m);
}
END_TEST

static double scalar_of(Eval *e, const Module *m, const char *name) {
  return eval_tensor(e, module_tensor(m, name))[0];
}

START_TEST(functions_compute_what_the_model_says) {
  Module *m = lower(DROPS);
  Eval *e;
  ck_assert_int_eq(eval_create(m, true, &e), MPCC_OK);
  eval_tensor(e, module_tensor(m, "count.seen"))[0] = 9;
  ck_assert_int_eq(eval_run(e, module_func(m, "init")), MPCC_OK);
  ck_assert_double_eq(scalar_of(e, m, "count.seen"), 0);
  double *image = eval_tensor(e, module_tensor(m, "io.image"));
  for (int i = 0; i < 32; i++)
    image[i] = sin(i);
  double *label = eval_tensor(e, module_tensor(m, "io.label"));
  label[0] = 1;
  label[1] = 2;
  eval_tensor(e, module_tensor(m, "io.valid"))[0] = 2;
  ck_assert_int_eq(eval_run(e, module_func(m, "predict")), MPCC_OK);
  /* by hand: h = x + a(x); h = h + b(h); c(h) */
  double logits[2][3], loss = 0;
  int correct = 0;
  for (int r = 0; r < 2; r++) {
    double h[16];
    memcpy(h, image + 16 * r, sizeof h);
    for (int k = 0; k < 2; k++) {
      const double *w = eval_tensor(e, module_tensor(m, k ? "b.weight" : "a.weight"));
      const double *b = eval_tensor(e, module_tensor(m, k ? "b.bias" : "a.bias"));
      double y[16];
      for (int i = 0; i < 16; i++) {
        y[i] = h[i] + b[i];
        for (int j = 0; j < 16; j++)
          y[i] += w[16 * i + j] * h[j];
      }
      memcpy(h, y, sizeof h);
    }
    const double *w = eval_tensor(e, module_tensor(m, "c.weight"));
    const double *b = eval_tensor(e, module_tensor(m, "c.bias"));
    double sum = 0;
    int best = 0;
    for (int i = 0; i < 3; i++) {
      logits[r][i] = b[i];
      for (int j = 0; j < 16; j++)
        logits[r][i] += w[16 * i + j] * h[j];
      sum += exp(logits[r][i]);
      best = logits[r][i] > logits[r][best] ? i : best;
    }
    loss += log(sum) - logits[r][(int)label[r]];
    correct += best == (int)label[r];
  }
  const double *out = eval_tensor(e, module_tensor(m, "output.logits"));
  for (int i = 0; i < 6; i++)
    ck_assert_double_eq_tol(out[i], logits[i / 3][i % 3], 1e-12);
  ck_assert_int_eq(eval_run(e, module_func(m, "eval_forward")), MPCC_OK);
  ck_assert_double_eq_tol(scalar_of(e, m, "metric.loss_sum"), loss, 1e-12);
  ck_assert_double_eq(scalar_of(e, m, "metric.weight_sum"), 2);
  ck_assert_double_eq(scalar_of(e, m, "metric.acc"), correct);
  ck_assert_int_eq(eval_run(e, module_func(m, "train_forward")), MPCC_OK);
  ck_assert(fabs(scalar_of(e, m, "metric.loss_sum") - loss) > 1e-3); /* dropout */
  eval_destroy(e);
  module_destroy(m);
}
END_TEST

START_TEST(ops_know_layer_place_and_precision) {
  Module *m = lower(SPEC_HEAD "  layers:\n    - Flatten\n    - {name: body.fc, Linear: 4}\n"
                              "    - {name: head, Linear: 3, precision: 32-true}" SPEC_TAIL
                              "precision: bf16-mixed\n");
  const Func *f = module_func(m, "train_forward");
  int seen = 0;
  for (int i = 0; i < f->nop; i++) {
    const Op *op = f->op[i];
    if (op->code != OP_linear)
      continue;
    bool head = !strcmp(op->layer, "head");
    ck_assert(head || !strcmp(op->layer, "body.fc"));
    ck_assert_uint_eq(op->loc.line, head ? 8 : 7);
    ck_assert_uint_eq(op->loc.col, 7);
    ck_assert_str_eq(op_str(op, "precision", "none"), head ? "32-true" : "none");
    seen++;
  }
  ck_assert_int_eq(seen, 2);
  module_destroy(m);
}
END_TEST

START_TEST(the_same_spec_gives_the_same_text) {
  Text a = {0}, b = {0};
  Module *m = lower(DROPS), *n = NULL;
  module_print(m, NULL, &a);
  Session t = session_open();
  Spec *spec = spec_text(&t, DROPS);
  ck_assert_int_eq(spec_lower(spec, t.strings, t.diag, &n), MPCC_OK);
  module_print(n, NULL, &b);
  ck_assert_str_eq(a.data, b.data);
  text_fini(&a);
  text_fini(&b);
  module_destroy(m);
  module_destroy(n);
  session_close(&t);
}
END_TEST

/* A deep model stays fast and correct: names, streams and groups of 2000 layers. */
/* What init_from reads is not drawn; what it passes over is. */
START_TEST(empty_init_draws_nothing_that_is_read) {
  static const char text[] =
      SPEC_HEAD "  init: {empty_init: true, on_device: true}\n"
                "  init_from: {path: w.safetensors, skip: ['b.*']}\n"
                "  layers: [Flatten, {name: a, Linear: 4}, {name: b, Linear: 3}]" SPEC_TAIL;
  Module *m = lower(text);
  const Tensor *a = module_tensor(m, "a.weight"), *b = module_tensor(m, "b.weight");
  ck_assert_str_eq(attr_find(a->attr, a->nattr, "init")->u.s, "zeros");
  ck_assert_str_eq(attr_find(b->attr, b->nattr, "init")->u.s, "uniform");
  module_destroy(m);
  ck_assert_ptr_null(spec_text(&s, SPEC_HEAD "  init: {empty_init: true}\n"
                                             "  layers: [Flatten, {Linear: 3}]" SPEC_TAIL));
  ck_assert_ptr_nonnull(message(&s, 201));
}
END_TEST

START_TEST(depth_is_no_problem) {
  Module *m =
      lower(SPEC_HEAD
            "  layers: [Flatten, {use: b, name: h.$i, repeat: 1000}, {Linear: 3}]\n"
            "  blocks: {b: {layers: [{residual: [{name: fc, Linear: 16}, Dropout]}]}}" SPEC_TAIL);
  ck_assert_ptr_nonnull(module_tensor(m, "h.999.fc.weight"));
  module_destroy(m);
}
END_TEST

/* Each tensor once; a frozen teacher works as in evaluation. */
START_TEST(uses_share_freeze_and_evaluate) {
  static const char text[] = SPEC_HEAD
      "  blocks: {net: {layers: [Flatten, {name: fc, Linear: 4}, {name: bn, type: BatchNorm1d},"
      " {Dropout: 0.5}, {use: tail, name: tail}]}, tail: {layers: [{Linear: 2}]}}\n"
      "  layers: [{use: net, name: teacher, freeze: true, training: false}, {name: t, type: "
      "Identity},"
      " {use: tail, name: a}, {name: r, type: ReLU, inputs: t}, {use: tail, name: b, tie: a},"
      " {type: cat, inputs: [a, b], dim: 1}, {Linear: 3}]" SPEC_TAIL;
  Module *m = lower(text);
  ck_assert_int_eq(tensor_int(module_tensor(m, "teacher.fc.weight"), "group", 0), -1);
  ck_assert_int_eq(tensor_int(module_tensor(m, "teacher.tail.0.weight"), "group", 0), -1);
  ck_assert_int_eq(tensor_int(module_tensor(m, "a.0.weight"), "group", -1), 0);
  ck_assert_ptr_null(module_tensor(m, "b.0.weight"));
  const Func *f = module_func(m, "train_forward");
  int products = 0;
  for (int i = 0; i < f->nop; i++) {
    ck_assert(f->op[i]->code != OP_batch_norm && f->op[i]->code != OP_dropout);
    products += f->op[i]->code == OP_linear;
  }
  ck_assert_int_eq(products, 5);
  module_destroy(m);
  ck_assert_ptr_null(spec_text(&s,
                               SPEC_HEAD "  blocks: {b: {layers: [{Linear: 3}]}}\n"
                                         "  layers: [Flatten, {use: b, tie: nothing}]" SPEC_TAIL));
  ck_assert_ptr_nonnull(message(&s, 221));
}
END_TEST

int main(void) {
  Suite *suite = suite_create("lower");
  TCase *c = tcase_create("all");
  tcase_add_checked_fixture(c, setup, teardown);
  tcase_set_timeout(c, 120);
  tcase_add_test(c, tensors_and_functions_are_there);
  tcase_add_test(c, attributes_follow_the_spec);
  tcase_add_test(c, dropout_is_for_training_only);
  tcase_add_test(c, functions_compute_what_the_model_says);
  tcase_add_test(c, ops_know_layer_place_and_precision);
  tcase_add_test(c, the_same_spec_gives_the_same_text);
  tcase_add_test(c, empty_init_draws_nothing_that_is_read);
  tcase_add_test(c, depth_is_no_problem);
  tcase_add_test(c, uses_share_freeze_and_evaluate);
  suite_add_tcase(suite, c);
  return check_run(suite);
}
