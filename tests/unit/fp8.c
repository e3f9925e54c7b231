/* fp8: which products are quantized, slots per call site, numbers of forward and backward against
 * plain loops over rounded codes, what evaluation and the compat rule do. */
#include "passmodels.h"
#include "tests/check_run.h"
#include "tests/plain_caps.h"

#include "mpcc/num.h"

enum { ROWS = 16, IN = 32, OUT = 16 };

static double code(double x, double scale, DType dt) {
  return num_round((double)(float)(x * scale), dt);
}

/* Forward codes in e4m3, gradients in e5m2 (HYBRID) or e4m3; every number recomputed here. */
START_TEST(numbers_are_products_of_codes) {
  DType low = _i & 1 ? MPCC_F16 : MPCC_BF16, back = _i & 2 ? MPCC_E4M3 : MPCC_E5M2;
  Session s = session_open();
  Setting set[] = {{"mode", _i & 1 ? "transformer-engine-float16" : "transformer-engine", 0},
                   {"fp8_format", _i & 2 ? "E4M3" : "HYBRID", 0},
                   {"amax_history_len", NULL, 4}};
  Module *m = one_layer(&s, set, 3, ROWS, IN, OUT);
  apply_until(&s, &m, STAGE_TRAIN);
  Eval *e;
  ck_assert_int_eq(eval_create(m, false, &e), MPCC_OK);
  feed(e, m, 0, OUT);
  run(e, m, "init");
  double *scale = data_of(e, m, "fp8.forward.scale");
  scale[0] = 300; /* x saturates, w does not */
  scale[1] = 500;
  *data_of(e, m, "fp8.backward.scale") = 4096;
  double *x = data_of(e, m, "io.image"), *w = data_of(e, m, "fc.weight");
  x[3] = 5;
  run(e, m, "train_forward");
  double si[2] = {num_round(1 / scale[0], MPCC_F32), num_round(1 / scale[1], MPCC_F32)};
  double sd = 1.0 / 4096, xq[ROWS][IN], wq[OUT][IN], amax[2] = {0, 0};
  for (int r = 0; r < ROWS; r++)
    for (int k = 0; k < IN; k++) {
      double v = num_round(x[r * IN + k], low);
      xq[r][k] = code(v, scale[0], MPCC_E4M3);
      amax[0] = fmax(amax[0], fabs(v));
    }
  for (int o = 0; o < OUT; o++)
    for (int k = 0; k < IN; k++) {
      double v = num_round(w[o * IN + k], low);
      wq[o][k] = code(v, scale[1], MPCC_E4M3);
      amax[1] = fmax(amax[1], fabs(v));
    }
  const double *got_amax = data_of(e, m, "sum.fp8.forward.amax");
  ck_assert(got_amax[0] == amax[0] && got_amax[0] == 5 && got_amax[1] == amax[1]);
  const Func *f = module_func(m, "train_forward");
  const Op *product = find_op(f, OP_qlinear, 0);
  ck_assert_int_eq(product->out[0]->type->dt, low);
  const double *y = eval_value(e, product->out[0]);
  for (int r = 0; r < ROWS; r++)
    for (int o = 0; o < OUT; o++) {
      double sum = 0;
      for (int k = 0; k < IN; k++)
        sum += xq[r][k] * wq[o][k];
      double want = sum * si[0] * si[1], eps = dtype_info(low)->eps;
      ck_assert_msg(fabs(y[r * OUT + o] - want) <= eps * fabs(want) + 1e-9, "%g, want %g",
                    y[r * OUT + o], want);
    }
  const Op *quant = find_op(f, OP_quantize, 2); /* of dY; 0 and 1 are x and w */
  ck_assert_int_eq(quant->out[0]->type->dt, back);
  const double *dy = eval_value(e, quant->in[0]);
  double dmax = 0;
  for (int i = 0; i < ROWS * OUT; i++)
    dmax = fmax(dmax, fabs(dy[i]));
  ck_assert(*data_of(e, m, "sum.fp8.backward.amax") == dmax && dmax > 0);
  const double *dw = data_of(e, m, "grad.fc.weight"), *db = data_of(e, m, "grad.fc.bias");
  for (int o = 0; o < OUT; o++) {
    double bias = 0;
    for (int r = 0; r < ROWS; r++)
      bias += dy[r * OUT + o]; /* not quantized */
    ck_assert(fabs(db[o] - bias) <= 1e-6);
    for (int k = 0; k < IN; k++) {
      double sum = 0;
      for (int r = 0; r < ROWS; r++)
        sum += code(dy[r * OUT + o], 4096, back) * xq[r][k];
      double want = sum * sd * si[0];
      ck_assert_msg(fabs(dw[o * IN + k] - want) <= 1e-6 * (1 + fabs(want)), "%g, want %g",
                    dw[o * IN + k], want);
    }
  }
  eval_destroy(e);
  module_destroy(m);
  session_close(&s);
}
END_TEST

START_TEST(sizes_decide) {
  static const struct {
    int rows, in, out;
    const char *warning; /* NULL: FP8 */
  } row[] = {
      {16, 16, 16, NULL},
      {16, 24, 16, "'fc' cannot run in FP8: 24 is not a multiple of 16; it runs in bfloat16"},
      {16, 16, 10, "'fc' cannot run in FP8: 10 is not a multiple of 16; it runs in bfloat16"},
      {8, 16, 16, "'fc' cannot run in FP8: 8 is not a multiple of 16; it runs in bfloat16"},
  };
  Session s = session_open();
  Setting set[] = {{"mode", "transformer-engine", 0}};
  Module *m = one_layer(&s, set, 1, row[_i].rows, row[_i].in, row[_i].out);
  apply_until(&s, &m, STAGE_TYPED);
  bool quantized = row[_i].warning == NULL;
  static const char *const names[] = {"train_forward", "eval_forward", "predict"};
  for (int k = 0; k < 3; k++) {
    const Func *f = module_func(m, names[k]);
    ck_assert_int_eq(count_op(f, OP_qlinear), quantized);
    ck_assert_int_eq(count_op(f, OP_linear), !quantized);
    /* only training marks gradients and records */
    ck_assert_int_eq(count_op(f, OP_qgrad), quantized && k == 0);
  }
  ck_assert_int_eq(diag_warnings(s.diag), !quantized);
  if (quantized) {
    const Tensor *h = module_tensor(m, "fp8.forward.amax_history");
    ck_assert(h && h->type->dim[0] == 2 && h->type->dim[1] == 1024);
    ck_assert_str_eq(tensor_str(h, "slots", ""), "fc.input fc.weight");
    ck_assert_str_eq(tensor_str(module_tensor(m, "fp8.backward.scale"), "slots", ""),
                     "fc.grad_output");
  } else {
    ck_assert_str_eq(diag_first(s.diag)->text, row[_i].warning);
    ck_assert_str_eq(diag_first(s.diag)->warning, "fp8-fallback");
    ck_assert(module_tensor(m, "fp8.forward.scale") == NULL);
  }
  module_destroy(m);
  session_close(&s);
}
END_TEST

/* One weight used twice under one layer name: two call sites, two sets of slots, one parameter. */
static Value *twice(Net *n, void *tensors, Value *x, bool train) {
  Tensor **t = tensors;
  (void)train;
  layer(n, "tied");
  return linear(n, linear(n, x, t[0], NULL), t[0], NULL);
}

START_TEST(slots_belong_to_call_sites) {
  Session s = session_open();
  Setting set[] = {{"mode", "transformer-engine", 0}, {"optimizer", "SGD", 0}};
  Net n = net_begin(&s, set, 2);
  Io io = io_tensors(&n, type_of(&n, MPCC_F32, 2, 16, 16), 16, 16);
  Tensor *t = param(&n, "w", type_of(&n, MPCC_F32, 2, 16, 16));
  Module *m = net_finish(&n, &io, twice, &t, &t, 1, 0.4);
  apply_until(&s, &m, STAGE_STEP);
  ck_assert_str_eq(tensor_str(module_tensor(m, "fp8.forward.scale"), "slots", ""),
                   "tied.input tied.weight tied#1.input tied#1.weight");
  /* evaluation finds the same sites: it reads the codes that training reads */
  const Func *train = module_func(m, "train_step"), *eval = module_func(m, "eval_step");
  for (int i = 0; i < 2; i++) {
    const Op *a = find_op(train, OP_qlinear, i)->in[1]->def;
    const Op *b = find_op(eval, OP_qlinear, i)->in[1]->def;
    ck_assert(a->code == OP_read && b->code == OP_read);
    ck_assert(op_attr(a, "tensor")->u.tensor == op_attr(b, "tensor")->u.tensor);
  }
  ck_assert(module_tensor(m, "weight.w.e4m3") && module_tensor(m, "weight.w.e4m3.2"));
  ck_assert(module_tensor(m, "grad.w") != NULL);
  module_destroy(m);
  session_close(&s);
}
END_TEST

/* Attention projections of 16 features: FP8 here, left alone by the reference's replacement rule.
 */
static Value *projections(Net *n, void *tensors, Value *x, bool train) {
  Tensor **t = tensors;
  (void)train;
  layer(n, "attn");
  x = linear(n, x, t[0], NULL);
  layer(n, "attn.out_proj");
  x = linear(n, x, t[1], NULL);
  layer(n, "mlp");
  return linear(n, x, t[2], NULL);
}

START_TEST(lightning_leaves_attention_alone) {
  Session s = session_open();
  Setting set[] = {{"mode", "transformer-engine", 0}, {"compat", _i ? "lightning" : "none", 0}};
  Net n = net_begin(&s, set, 2);
  Io io = io_tensors(&n, type_of(&n, MPCC_F32, 2, 16, 16), 16, 16);
  Tensor *t[3] = {param(&n, "attn.in_proj_weight", type_of(&n, MPCC_F32, 2, 16, 16)),
                  param(&n, "attn.out_proj.weight", type_of(&n, MPCC_F32, 2, 16, 16)),
                  param(&n, "mlp.out_proj.weight", type_of(&n, MPCC_F32, 2, 16, 16))};
  Module *m = net_finish(&n, &io, projections, t, t, 3, 0.4);
  apply_until(&s, &m, STAGE_TYPED);
  const Func *f = module_func(m, "train_forward");
  ck_assert_int_eq(count_op(f, OP_qlinear), _i ? 1 : 3);
  ck_assert_str_eq(find_op(f, OP_qlinear, _i ? 0 : 2)->layer, "mlp");
  module_destroy(m);
  session_close(&s);
}
END_TEST

/* The gradient is quantized once: dgrad and wgrad read the same codes. */
START_TEST(gradient_is_quantized_once) {
  Session s = session_open();
  Setting set[] = {{"mode", "transformer-engine", 0}};
  Module *m = mlp(&s, set, 1, 16, 16, 32, 16);
  apply_until(&s, &m, STAGE_TRAIN);
  const Func *f = module_func(m, "train_forward");
  ck_assert_int_eq(count_op(f, OP_quantize), 6);
  ck_assert_int_eq(count_op(f, OP_qmatmul), 3); /* no gradient of the input image */
  const Op *dgrad = find_op(f, OP_qmatmul, 0), *wgrad = find_op(f, OP_qmatmul, 1);
  ck_assert(dgrad->in[0] == wgrad->in[0] && dgrad->in[2] == wgrad->in[2]);
  ck_assert_int_eq(dgrad->out[0]->type->dt, MPCC_BF16);
  ck_assert_int_eq(wgrad->out[0]->type->dt, MPCC_F32); /* N5 */
  const Op *forward = find_op(f, OP_qlinear, 1);
  ck_assert(dgrad->in[1] == forward->in[1] && wgrad->in[1] == forward->in[0]);
  module_destroy(m);
  session_close(&s);
}
END_TEST

/* N13: what padded samples hold reaches no scale, for inputs [N, C] and [N * T, C]. */
static Value *two_rows(Net *n, void *tensors, Value *x, bool train) {
  Tensor **t = tensors;
  (void)train;
  layer(n, "pairs");
  x = build_reshape(n->b, x, 2, (const int64_t[]){32, 16});
  x = linear(n, x, t[0], NULL);
  x = build_reshape(n->b, x, 2, (const int64_t[]){16, 32});
  layer(n, "head");
  return linear(n, x, t[1], NULL);
}

START_TEST(padded_samples_do_not_count) {
  Session s = session_open();
  Setting set[] = {{"mode", "transformer-engine", 0}, {"amax_history_len", NULL, 4}};
  Net n = net_begin(&s, set, 2);
  Io io = io_tensors(&n, type_of(&n, MPCC_F32, 2, 16, 32), 16, 16);
  Tensor *t[2] = {param(&n, "pairs.weight", type_of(&n, MPCC_F32, 2, 16, 16)),
                  param(&n, "head.weight", type_of(&n, MPCC_F32, 2, 16, 32))};
  Module *m = net_finish(&n, &io, two_rows, t, t, 2, 0.4);
  PassOpts o = {.caps = &plain_caps, .opt_level = 2};
  PassRun stop = {.stop_after = "step"};
  const char *failed;
  ck_assert_int_eq(passes_run(m, &o, _i ? NULL : &stop, s.diag, &m, &failed), MPCC_OK);
  Eval *e;
  ck_assert_int_eq(eval_create(m, false, &e), MPCC_OK);
  feed(e, m, 0, 16);
  run(e, m, "init");
  run(e, m, "refresh");
  double *x = data_of(e, m, "io.image"), want[4], want_back[2];
  memset(x + 11 * 32, 0, 5 * 32 * sizeof *x);
  *data_of(e, m, "io.valid") = 11;
  run(e, m, "micro_first");
  memcpy(want, data_of(e, m, "sum.fp8.forward.amax"), sizeof want);
  memcpy(want_back, data_of(e, m, "sum.fp8.backward.amax"), sizeof want_back);
  ck_assert(want[0] > 0.5 && want[2] > 0);
  for (int i = 11 * 32; i < 16 * 32; i++)
    x[i] = 100; /* whatever lies there */
  run(e, m, "micro_first");
  const double *got = data_of(e, m, "sum.fp8.forward.amax");
  for (int i = 0; i < 4; i++)
    ck_assert_msg(got[i] == want[i], "slot %d: %g, want %g", i, got[i], want[i]);
  for (int i = 0; i < 2; i++)
    ck_assert(data_of(e, m, "sum.fp8.backward.amax")[i] == want_back[i]);
  *data_of(e, m, "io.valid") = 12;
  run(e, m, "micro_first");
  ck_assert(got[0] == 100 && got[2] > want[2]);
  eval_destroy(e);
  module_destroy(m);
  session_close(&s);
}
END_TEST

/* What code and scales of v stand for in bf16, by the definitions in docs/numerics.md. */
static double stands_for(double v, double amax, const char *recipe) {
  if (!strcmp(recipe, "Float8CurrentScaling")) {
    double s = num_round(448 / amax, MPCC_F32);
    return num_round(num_round(code(v, s, MPCC_E4M3) * num_round(1 / s, MPCC_F32), MPCC_F32),
                     MPCC_BF16);
  }
  double inverse = exp2(ceil(log2(amax / 448)));
  return num_round(code(v, 1 / inverse, MPCC_E4M3) * inverse, MPCC_BF16);
}

/* data[rows, cols] in bf16, or, with a recipe, what its codes stand for: one block in each row. */
static void want_operand(double *data, int rows, int cols, const char *recipe) {
  double whole = 0;
  for (int i = 0; i < rows * cols; i++)
    whole = fmax(whole, fabs(data[i] = num_round(data[i], MPCC_BF16)));
  for (int r = 0; r < rows && recipe; r++) {
    double most = 0;
    for (int c = 0; c < cols; c++)
      most = fmax(most, fabs(data[r * cols + c]));
    for (int c = 0; c < cols; c++)
      data[r * cols + c] = stands_for(
          data[r * cols + c], strcmp(recipe, "Float8CurrentScaling") ? most : whole, recipe);
  }
}

/* backward_override: gradients are products of 16 bits, of what was quantized or of what the codes
 * stand for; forward stays in codes, no gradient is quantized, and an infinity is still seen. */
START_TEST(backward_may_be_overridden) {
  const char *recipe = _i & 1 ? "MXFP8BlockScaling" : "Float8CurrentScaling";
  const char *override = _i & 2 ? "dequantized" : "high_precision";
  Session s = session_open();
  Setting set[] = {
      {"mode", "transformer-engine", 0}, {"recipe", recipe, 0}, {"backward_override", override, 0}};
  Module *m = mlp(&s, set, 3, ROWS, IN, IN, OUT);
  apply_until(&s, &m, STAGE_TRAIN);
  const Func *f = module_func(m, "train_forward");
  ck_assert_int_eq(count_op(f, OP_qlinear), 2);
  ck_assert_int_eq(count_op(f, OP_qmatmul), 0);
  ck_assert_int_eq(count_op(f, OP_matmul), 3); /* no gradient of the input image */
  ck_assert_int_eq(count_op(f, OP_block_quantize), 4);
  ck_assert(module_tensor(m, "sum.fp8.backward.amax") == NULL);
  ck_assert(module_tensor(m, "sum.fp8.forward.amax") != NULL);
  Eval *e;
  ck_assert_int_eq(eval_create(m, false, &e), MPCC_OK);
  feed(e, m, 0, OUT);
  run(e, m, "init");
  run(e, m, "train_forward");
  const Op *dgrad = find_op(f, OP_matmul, 0), *wgrad = find_op(f, OP_matmul, 1);
  const Op *product = find_op(f, OP_qlinear, 1);
  const Op *const of[2] = {dgrad, wgrad};
  for (int k = 0; k < 2; k++) {
    const Value *from = product->in[_i & 1 ? 7 - k : 5 - k]; /* w, x as they were */
    int rows = (int)from->type->dim[0], cols = (int)from->type->dim[1];
    double *want = malloc((size_t)(rows * cols) * sizeof *want);
    memcpy(want, eval_value(e, from), (size_t)(rows * cols) * sizeof *want);
    want_operand(want, rows, cols, _i & 2 ? recipe : NULL);
    const double *got = eval_value(e, of[k]->in[1]);
    for (int i = 0; i < rows * cols; i++)
      ck_assert_msg(got[i] == want[i], "operand %d: %g, want %g", k, got[i], want[i]);
    free(want);
  }
  ck_assert_int_eq(wgrad->out[0]->type->dt, MPCC_F32); /* N5 */
  ck_assert_int_eq(dgrad->in[0]->type->dt, MPCC_BF16);
  data_of(e, m, "io.image")[5] = INFINITY;
  run(e, m, "train_forward");
  ck_assert(isinf(data_of(e, m, "sum.fp8.forward.amax")[0])); /* N2 */
  eval_destroy(e);
  module_destroy(m);
  session_close(&s);
}
END_TEST

/* A projection to q, k, v and attention over 16 samples of 2 tokens, heads of 16. */
static Value *attends(Net *n, void *tensors, Value *x, bool train) {
  Tensor **t = tensors;
  Builder *b = n->b;
  (void)train;
  layer(n, "qkv");
  x = linear(n, build_reshape(b, x, 3, (const int64_t[]){16, 2, 32}), t[0], t[1]);
  layer(n, "attn");
  Value *in[3];
  for (int i = 0; i < 3; i++)
    in[i] = build_slice(b, x, 2, 32 * i, 32 * (i + 1));
  Attr attr = attr_i(b, "heads", 2);
  x = build_op(b, OP_attention, 3, in, 1, &attr)->out[0];
  layer(n, "head");
  return linear(n, build_reshape(b, x, 2, (const int64_t[]){16, 64}), t[2], NULL);
}

/* Largest magnitude among columns [from, to) of v [.., cols], of the first n rows. */
static double most_of(const double *v, int n, int cols, int from, int to) {
  double most = 0;
  for (int r = 0; r < n; r++)
    for (int c = from; c < to; c++)
      most = fmax(most, fabs(v[r * cols + c]));
  return most;
}

/* N14: slots of q, k, v, or one of the projection's result; padded samples do not count; an
 * infinity that only codes of q would hide is seen [N2]; evaluation records nothing. */
START_TEST(attention_records_its_operands) {
  static const char *const slots[2] = {
      "qkv.input qkv.weight attn.query attn.key attn.value head.input head.weight",
      "qkv.input qkv.weight qkv.output head.input head.weight"};
  const bool mha = _i & 1, current = _i & 2;
  Session s = session_open();
  Setting set[] = {{"mode", "transformer-engine", 0},
                   {"recipe", current ? "Float8CurrentScaling" : "DelayedScaling", 0},
                   {mha ? "fp8_mha" : "fp8_dpa", NULL, 1}};
  Net n = net_begin(&s, set, 3);
  Io io = io_tensors(&n, type_of(&n, MPCC_F32, 2, 16, 64), 16, 16);
  Tensor *t[3] = {param(&n, "qkv.weight", type_of(&n, MPCC_F32, 2, 96, 32)),
                  param(&n, "qkv.bias", type_of(&n, MPCC_F32, 1, 96)),
                  param(&n, "head.weight", type_of(&n, MPCC_F32, 2, 16, 64))};
  Module *m = net_finish(&n, &io, attends, t, t, 3, 0.4);
  apply_until(&s, &m, STAGE_TRAIN);
  const Tensor *scale = module_tensor(m, "fp8.forward.scale");
  ck_assert(current ? !scale : !strcmp(tensor_str(scale, "slots", ""), slots[mha]));
  const Func *f = module_func(m, "train_forward");
  const Op *op = find_op(f, OP_attention, 0), *back = find_op(f, OP_attention_grad, 0);
  ck_assert(op->in[0]->type->dt == MPCC_E4M3 && op->out[0]->type->dt == MPCC_BF16);
  ck_assert((op->in[3] == op->in[4]) == mha);
  ck_assert(back->in[0]->type->dt == MPCC_E5M2 && back->out[0]->type->dt == MPCC_BF16);
  ck_assert_int_eq(find_op(module_func(m, "eval_forward"), OP_attention, 0)->nin, 6);
  Eval *e;
  ck_assert_int_eq(eval_create(m, false, &e), MPCC_OK);
  feed(e, m, 0, 16);
  run(e, m, "init");
  for (int i = 0; i < (mha ? 5 : 7) && !current; i++)
    data_of(e, m, "fp8.forward.scale")[i] = 64;
  for (int i = 0; i < 3 && !current; i++)
    data_of(e, m, "fp8.backward.scale")[i] = 1024;
  data_of(e, m, "io.image")[15 * 64] = 1000; /* of a sample that is padding */
  *data_of(e, m, "io.valid") = 15;
  run(e, m, "train_forward");
  const Value *qkv = find_op(f, OP_add, 0)->out[0];
  const double *y = eval_value(e, qkv), *seen = data_of(e, m, "sum.fp8.forward.amax");
  for (int i = 0; i < 3 && !mha; i++)
    ck_assert(seen[2 + i] == most_of(y, 30, 96, 32 * i, 32 * (i + 1)) && seen[2 + i] > 0);
  if (mha)
    ck_assert(seen[2] == most_of(y, 30, 96, 0, 96) && seen[2] > 0);
  ck_assert(data_of(e, m, "sum.fp8.backward.amax")[1] > 0);
  data_of(e, m, "qkv.bias")[40] = INFINITY;
  run(e, m, "train_forward");
  ck_assert(isinf(seen[mha ? 2 : 3]) && (mha || isfinite(seen[2])));
  eval_destroy(e);
  module_destroy(m);
  session_close(&s);
}
END_TEST

START_TEST(other_modes_are_untouched) {
  Session s = session_open();
  Setting set[] = {{"mode", "bf16-mixed", 0}};
  Module *m = mlp(&s, set, 1, 16, 16, 32, 16);
  apply_until(&s, &m, STAGE_TYPED);
  ck_assert_int_eq(count_op(module_func(m, "train_forward"), OP_quantize), 0);
  module_destroy(m);
  session_close(&s);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("fp8");
  TCase *t = tcase_create("fp8");
  tcase_add_loop_test(t, numbers_are_products_of_codes, 0, 4);
  tcase_add_loop_test(t, sizes_decide, 0, 4);
  tcase_add_test(t, slots_belong_to_call_sites);
  tcase_add_loop_test(t, lightning_leaves_attention_alone, 0, 2);
  tcase_add_test(t, gradient_is_quantized_once);
  tcase_add_loop_test(t, padded_samples_do_not_count, 0, 2); /* ops, kernels */
  tcase_add_loop_test(t, backward_may_be_overridden, 0, 4);
  tcase_add_loop_test(t, attention_records_its_operands, 0, 4);
  tcase_add_test(t, other_modes_are_untouched);
  suite_add_tcase(suite, t);
  return check_run(suite);
}
