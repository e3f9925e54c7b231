/* autocast, castopt, canon, layout: the dtype of every op in each mode and policy, overrides,
 * which casts may be cancelled, convolutions against a direct loop. */
#include "passmodels.h"
#include "frontend/frontend.h"
#include "tests/check_run.h"

#include "mpcc/num.h"

static Module *typed_vit(Session *s, const char *mode, const char *policy, const char *residual) {
  Setting set[] = {{"mode", mode, 0}, {"policy", policy, 0}, {"residual", residual, 0}};
  Module *m = vit(s, set, 3);
  apply_until(s, &m, STAGE_TYPED);
  return m;
}

static DType result_of(const Module *m, OpCode code, int nth) {
  const Op *op = find_op(module_func(m, "train_forward"), code, nth);
  ck_assert_msg(op != NULL, "no %s", op_info(code)->name);
  return op->out[0]->type->dt;
}

static DType operand_of(const Module *m, OpCode code, int nth, int i) {
  return find_op(module_func(m, "train_forward"), code, nth)->in[i]->type->dt;
}

/* Ops of the vision transformer: its convolution, attention and linears are LOW, norms F32 on CUDA
 * and unlisted on CPU, mean and gelu unlisted, the loss F32 everywhere. */
START_TEST(dtypes_follow_mode_and_policy) {
  static const struct {
    const char *mode, *policy, *residual;
    DType conv, norm, attention, add, gelu, logits, mean;
  } row[] = {
      {"64-true", "cuda", "promote", MPCC_F64, MPCC_F64, MPCC_F64, MPCC_F64, MPCC_F64, MPCC_F64,
       MPCC_F64},
      {"32-true", "cuda", "promote", MPCC_F32, MPCC_F32, MPCC_F32, MPCC_F32, MPCC_F32, MPCC_F32,
       MPCC_F32},
      {"bf16-mixed", "cuda", "promote", MPCC_BF16, MPCC_F32, MPCC_BF16, MPCC_F32, MPCC_BF16,
       MPCC_F32, MPCC_F32},
      {"16-mixed", "cuda", "promote", MPCC_F16, MPCC_F32, MPCC_F16, MPCC_F32, MPCC_F16, MPCC_F32,
       MPCC_F32},
      /* position embeddings are f32 parameters: they widen the stream, residuals keep it wide */
      {"bf16-mixed", "cpu", "promote", MPCC_BF16, MPCC_F32, MPCC_BF16, MPCC_F32, MPCC_BF16,
       MPCC_F32, MPCC_F32},
      {"bf16-mixed", "cuda", "low", MPCC_BF16, MPCC_F32, MPCC_BF16, MPCC_BF16, MPCC_BF16, MPCC_F32,
       MPCC_BF16},
      {"16-true", "cuda", "promote", MPCC_F16, MPCC_F16, MPCC_F16, MPCC_F16, MPCC_F16, MPCC_F16,
       MPCC_F16},
      {"bf16-true", "cpu", "promote", MPCC_BF16, MPCC_BF16, MPCC_BF16, MPCC_BF16, MPCC_BF16,
       MPCC_BF16, MPCC_BF16},
      /* weights are bf16: nothing widens the stream but what the policy says */
      {"transformer-engine", "cuda", "promote", MPCC_BF16, MPCC_F32, MPCC_BF16, MPCC_BF16,
       MPCC_BF16, MPCC_F32, MPCC_BF16},
      {"transformer-engine", "cpu", "promote", MPCC_BF16, MPCC_BF16, MPCC_BF16, MPCC_BF16,
       MPCC_BF16, MPCC_F32, MPCC_BF16},
  };
  Session s = session_open();
  Module *m = typed_vit(&s, row[_i].mode, row[_i].policy, row[_i].residual);
  ck_assert_int_eq(result_of(m, OP_conv, 0), row[_i].conv);
  ck_assert_int_eq(result_of(m, OP_layer_norm, 0), row[_i].norm);
  ck_assert_int_eq(result_of(m, OP_attention, 0), row[_i].attention);
  ck_assert_int_eq(result_of(m, OP_add, 1), row[_i].add); /* 0: position embedding */
  ck_assert_int_eq(result_of(m, OP_gelu, 0), row[_i].gelu);
  ck_assert_int_eq(operand_of(m, OP_cross_entropy, 0, 0), row[_i].logits);
  ck_assert_int_eq(operand_of(m, OP_mean, 0, 0), row[_i].mean);
  const Func *f = module_func(m, "train_forward");
  for (int i = 0; i < f->nop; i++) /* operands of a product agree */
    if (f->op[i]->code == OP_linear)
      for (int k = 1; k < f->op[i]->nin; k++)
        ck_assert_int_eq(f->op[i]->in[k]->type->dt, f->op[i]->in[0]->type->dt);
  module_destroy(m);
  session_close(&s);
}
END_TEST

/* Every word that the schema takes is a list that the passes know, under its own name. */
START_TEST(every_policy_has_a_list) {
  const char *word = schema_find(NULL, "precision", "policy")->arg;
  int n = 0;
  while (*word) {
    char name[64];
    int len = (int)strcspn(word, " ");
    snprintf(name, sizeof name, "%.*s", len, word);
    Session s = session_open();
    Setting set[] = {{"mode", "bf16-mixed", 0}, {"policy", name, 0}};
    Module *m = mlp(&s, set, 2, 2, 3, 4, 5);
    Mode mode;
    ck_assert_int_eq(mode_get(m, s.diag, &mode), MPCC_OK);
    ck_assert_str_eq(mode.policy_name, name);
    ck_assert(!strncmp(mode.policy_table, name, strcspn(name, "-")));
    module_destroy(m);
    session_close(&s);
    word += len + (word[len] == ' ');
    n++;
  }
  ck_assert_int_ge(n, 4);
}
END_TEST

/* One sample through in -> hidden -> GELU -> classes: results and gradients are those of products
 * by hand over operands rounded to 10 bits (7 for bf16), bit for bit. The gradient of a bias is the
 * gradient of its product's result, unrounded. [N3] */
START_TEST(products_read_fewer_bits) {
  enum { IN = 5, HIDDEN = 7, CLASSES = 3 };
  static const struct {
    const char *level, *policy;
    bool bf16, none;
  } row[] = {{"high", "cuda", false, false},
             {"medium", "cuda", false, false},
             {"medium", "cpu", true, false},
             {"highest", "cuda", false, true}};
#define CUT(v) (row[_i].none ? (v) : row[_i].bf16 ? num_round(v, MPCC_BF16) : num_tf32(v))
  Session s = session_open();
  Setting set[] = {
      {"mode", "32-true", 0}, {"policy", row[_i].policy, 0}, {"float32_matmul", row[_i].level, 0}};
  Module *m = mlp(&s, set, 3, 1, IN, HIDDEN, CLASSES);
  apply_until(&s, &m, STAGE_TRAIN);
  Eval *e;
  ck_assert_int_eq(eval_create(m, false, &e), MPCC_OK);
  feed(e, m, 3, CLASSES);
  run(e, m, "init");
  run(e, m, "predict");
  run(e, m, "train_forward");
  const double *x = data_of(e, m, "io.image"), *w0 = data_of(e, m, "fc0.weight"),
               *b0 = data_of(e, m, "fc0.bias"), *w1 = data_of(e, m, "fc1.weight"),
               *b1 = data_of(e, m, "fc1.bias"), *logits = data_of(e, m, "output.logits"),
               *dy = data_of(e, m, "grad.fc1.bias"), *dw1 = data_of(e, m, "grad.fc1.weight");
  double h[HIDDEN];
  for (int j = 0; j < HIDDEN; j++) {
    double sum = 0;
    for (int k = 0; k < IN; k++)
      sum += CUT(x[k]) * CUT(w0[j * IN + k]);
    double a =
        row[_i].none ? (double)(float)(sum + b0[j]) : (double)(float)((double)(float)sum + b0[j]);
    h[j] = (double)(float)(0.5 * a * (1 + erf(a * 0.7071067811865476)));
  }
  for (int c = 0; c < CLASSES; c++) {
    double sum = 0;
    for (int j = 0; j < HIDDEN; j++) {
      sum += CUT(h[j]) * CUT(w1[c * HIDDEN + j]);
      ck_assert_double_eq(dw1[c * HIDDEN + j], (double)(float)(CUT(dy[c]) * CUT(h[j])));
    }
    ck_assert_double_eq(logits[c], row[_i].none ? (double)(float)(sum + b1[c])
                                                : (double)(float)((double)(float)sum + b1[c]));
  }
#undef CUT
  eval_destroy(e);
  module_destroy(m);
  session_close(&s);
}
END_TEST

START_TEST(casts_say_why) {
  Session s = session_open();
  Setting set[] = {{"mode", "bf16-mixed", 0}};
  Module *m = mlp(&s, set, 1, 2, 3, 4, 5);
  apply(&s, &m, pass_autocast, STAGE_FORWARD);
  const Op *cast = find_op(module_func(m, "train_forward"), OP_cast, 0);
  ck_assert_str_eq(cast->why, "autocast: linear is LOW [policy cuda]");
  ck_assert_str_eq(cast->layer, "fc0");
  module_destroy(m);
  session_close(&s);
}
END_TEST

/* An op's own precision wins over the module's, in both directions. */
static Value *override_forward(Net *n, void *tensors, Value *x, bool train) {
  Tensor **t = tensors;
  (void)train;
  Attr at = attr_s(n->b, "precision", tensor_str(t[0], "precision", "32-true"));
  Value *in[2] = {x, build_read(n->b, t[0])};
  layer(n, "special");
  x = build_op(n->b, OP_linear, 2, in, 1, &at)->out[0];
  layer(n, "plain");
  return linear(n, x, t[1], NULL);
}

static Module *override_model(Session *s, const char *mode, const char *region) {
  Setting set[] = {{"mode", mode, 0}};
  Net n = net_begin(s, set, 1);
  Io io = io_tensors(&n, type_of(&n, MPCC_F32, 2, 16, 16), 16, 16);
  Tensor *t[2] = {param(&n, "special.weight", type_of(&n, MPCC_F32, 2, 16, 16)),
                  param(&n, "plain.weight", type_of(&n, MPCC_F32, 2, 16, 16))};
  build_tensor_attr(n.b, t[0], attr_s(n.b, "precision", region));
  return net_finish(&n, &io, override_forward, t, t, 2, 0.4);
}

START_TEST(precision_of_an_op_wins) {
  static const struct {
    const char *mode, *region;
    DType special;
    int nlinear; /* left after fp8 */
    DType plain;
  } row[] = {
      {"bf16-mixed", "32-true", MPCC_F32, 2, MPCC_BF16},
      {"32-true", "bf16-mixed", MPCC_BF16, 2, MPCC_F32},
      {"transformer-engine", "bf16-mixed", MPCC_BF16, 1, MPCC_BF16},
      {"transformer-engine", "32-true", MPCC_F32, 1, MPCC_F32},
      {"bf16-mixed", "transformer-engine", MPCC_BF16, 1, MPCC_BF16},
  };
  Session s = session_open();
  Module *m = override_model(&s, row[_i].mode, row[_i].region);
  apply_until(&s, &m, STAGE_TYPED);
  const Func *f = module_func(m, "train_forward");
  ck_assert_int_eq(count_op(f, OP_linear), row[_i].nlinear);
  if (row[_i].nlinear == 2) {
    ck_assert_int_eq(result_of(m, OP_linear, 0), row[_i].special);
    ck_assert_int_eq(result_of(m, OP_linear, 1), row[_i].plain);
  } else {
    bool inner = !strcmp(row[_i].region, "transformer-engine");
    ck_assert_str_eq(find_op(f, OP_qlinear, 0)->layer, inner ? "special" : "plain");
    ck_assert_int_eq(result_of(m, OP_linear, 0), inner ? row[_i].plain : row[_i].special);
  }
  module_destroy(m);
  session_close(&s);
}
END_TEST

START_TEST(unknown_precision_is_an_error) {
  Session s = session_open();
  Module *m = override_model(&s, "32-true", "13-true"), *out;
  ck_assert_int_eq(try_pass(&s, m, pass_autocast, STAGE_FORWARD, &out), MPCC_ERR_INPUT);
  ck_assert_int_eq(diag_errors(s.diag), 1);
  ck_assert(strstr(diag_first(s.diag)->text, "13-true") != NULL);
  module_destroy(m);
  session_close(&s);
}
END_TEST

/* ---- castopt --------------------------------------------------------------------------------- */

/* io.x -> cast a -> cast b -> cast c -> written, all formats: equal values before and after, and
 * a pair goes exactly when its first cast is exact. */
START_TEST(only_exact_casts_are_cancelled) {
  static const DType all[] = {MPCC_F64, MPCC_F32, MPCC_BF16, MPCC_F16};
  for (int k = 0; k < 64; k++) {
    DType dt[3] = {all[k % 4], all[k / 4 % 4], all[k / 16]};
    Session s = session_open();
    Net n = net_begin(&s, NULL, 0);
    const int64_t dim = 512;
    const Type *ty = type_get(n.tt, dt[0], 1, &dim);
    Tensor *x = tensor_of_net(&n, "io.x", ty, ROLE_INPUT);
    Tensor *y = tensor_of_net(&n, "output.y", type_with_dtype(n.tt, ty, dt[2]), ROLE_OUTPUT);
    build_func(n.b, "predict");
    build_write(n.b, y, build_cast(n.b, build_cast(n.b, build_read(n.b, x), dt[1]), dt[2]));
    Module *m = NULL;
    ck_assert_int_eq(builder_finish(n.b, &m), MPCC_OK);
    Eval *e;
    double want[512];
    ck_assert_int_eq(eval_create(m, false, &e), MPCC_OK);
    uint64_t state = 3;
    for (int i = 0; i < 512; i++) {
      double v = noise(&state) * ldexp(1, i % 60 - 30);
      data_of(e, m, "io.x")[i] = num_round(i == 7 ? INFINITY : i == 8 ? NAN : v, dt[0]);
    }
    run(e, m, "predict");
    memcpy(want, data_of(e, m, "output.y"), sizeof want);
    double in[512];
    memcpy(in, data_of(e, m, "io.x"), sizeof in);
    eval_destroy(e);
    apply(&s, &m, pass_castopt, STAGE_TYPED);
    ck_assert_int_eq(eval_create(m, false, &e), MPCC_OK);
    memcpy(data_of(e, m, "io.x"), in, sizeof in);
    run(e, m, "predict");
    for (int i = 0; i < 512; i++) {
      double v = data_of(e, m, "output.y")[i];
      ck_assert_msg(v == want[i] || (isnan(v) && isnan(want[i])), "%s %s %s: %g, want %g",
                    dtype_text(dt[0]), dtype_text(dt[1]), dtype_text(dt[2]), v, want[i]);
    }
    const DTypeInfo *a = dtype_info(dt[0]), *b = dtype_info(dt[1]);
    bool exact = b->mantissa_bits >= a->mantissa_bits && b->exponent_bits >= a->exponent_bits;
    int ncast = 0;
    const Func *f = module_func(m, "predict");
    for (const Op *op = f->op[f->nop - 1]; op->nin; op = op->in[0]->def)
      ncast += op->code == OP_cast;
    int before = (dt[0] != dt[1]) + (dt[1] != dt[2]);
    ck_assert_int_eq(ncast, exact ? dt[0] != dt[2] : before);
    eval_destroy(e);
    module_destroy(m);
    session_close(&s);
  }
}
END_TEST

/* Both halves of a parameter are cast: one cast, of the whole. */
static Value *halves_forward(Net *n, void *tensors, Value *x, bool train) {
  Tensor **t = tensors;
  Builder *b = n->b;
  (void)train;
  Value *w = build_read(b, t[0]);
  Value *one = build_slice(b, w, 0, 0, 8), *two = build_slice(b, w, 0, 8, 16);
  x = op_with(n, OP_linear, x, one, NULL, 0, NULL);
  return op_with(n, OP_linear, x, build_permute(b, two, (const int64_t[]){1, 0}), NULL, 0, NULL);
}

START_TEST(parameters_are_cast_whole) {
  Session s = session_open();
  Setting set[] = {{"mode", "bf16-mixed", 0}};
  Net n = net_begin(&s, set, 1);
  Io io = io_tensors(&n, type_of(&n, MPCC_F32, 2, 4, 8), 4, 8);
  Tensor *t = param(&n, "w", type_of(&n, MPCC_F32, 2, 16, 8));
  Module *m = net_finish(&n, &io, halves_forward, &t, &t, 1, 0.4);
  apply_until(&s, &m, STAGE_TYPED);
  int ncast = 0;
  const Func *f = module_func(m, "train_forward");
  for (int i = 0; i < f->nop; i++)
    if (f->op[i]->code == OP_cast && f->op[i]->in[0]->def->code == OP_read) {
      const Tensor *of = op_attr(f->op[i]->in[0]->def, "tensor")->u.tensor;
      ncast += of->role == ROLE_PARAM;
    } else if (f->op[i]->code == OP_slice) {
      ck_assert_int_eq(f->op[i]->out[0]->type->dt, MPCC_BF16);
    }
  ck_assert_int_eq(ncast, 1);
  /* and its gradient is one cat of the two, in f32 */
  apply(&s, &m, pass_layout, STAGE_LAID);
  apply(&s, &m, pass_grad, STAGE_TRAIN);
  f = module_func(m, "train_forward");
  const Op *cat = find_op(f, OP_cat, 0);
  ck_assert(cat && cat->out[0]->type->dt == MPCC_F32 && count_op(f, OP_unslice) == 0);
  const Op *write = f->op[f->nop - 1];
  ck_assert(write->in[0] == cat->out[0]);
  ck_assert_int_eq(cat->in[0]->type->dt, MPCC_F32);
  module_destroy(m);
  session_close(&s);
}
END_TEST

/* N5: products write FP32 weight gradients; uses of a parameter are summed in FP32. */
static Value *tied_forward(Net *n, void *tensors, Value *x, bool train) {
  Tensor **t = tensors;
  (void)train;
  return linear(n, linear(n, x, t[0], NULL), t[0], NULL);
}

START_TEST(weight_gradients_are_made_in_f32) {
  Session s = session_open();
  Setting set[] = {{"mode", "16-mixed", 0}};
  Net n = net_begin(&s, set, 1);
  Io io = io_tensors(&n, type_of(&n, MPCC_F32, 2, 4, 8), 4, 8);
  Tensor *t = param(&n, "w", type_of(&n, MPCC_F32, 2, 8, 8));
  Module *m = net_finish(&n, &io, tied_forward, &t, &t, 1, 0.4);
  apply_until(&s, &m, STAGE_TRAIN);
  const Func *f = module_func(m, "train_forward");
  const Op *write = f->op[f->nop - 1], *add = write->in[0]->def;
  ck_assert_int_eq(add->code, OP_add);
  for (int i = 0; i < 2; i++) {
    ck_assert_int_eq(add->in[i]->def->code, OP_matmul);
    ck_assert_int_eq(add->in[i]->type->dt, MPCC_F32);
    ck_assert_int_eq(add->in[i]->def->in[0]->type->dt, MPCC_F16);
  }
  module_destroy(m);
  session_close(&s);
}
END_TEST

/* ---- canon ----------------------------------------------------------------------------------- */

START_TEST(canon_drops_what_changes_nothing) {
  Session s = session_open();
  Net n = net_begin(&s, NULL, 0);
  Builder *b = n.b;
  Tensor *x = tensor_of_net(&n, "io.x", type_of(&n, MPCC_F32, 3, 2, 3, 4), ROLE_INPUT);
  Tensor *unused = tensor_of_net(&n, "io.unused", type_of(&n, MPCC_F32, 1, 4), ROLE_INPUT);
  Tensor *y = tensor_of_net(&n, "output.y", type_of(&n, MPCC_F32, 3, 4, 2, 3), ROLE_OUTPUT);
  build_func(b, "predict");
  Value *v = build_read(b, x);
  build1(b, OP_exp, build_read(b, unused)); /* dead */
  v = build_permute(b, v, (const int64_t[]){1, 2, 0});
  v = build_permute(b, v, (const int64_t[]){1, 2, 0});
  build_write(b, y, v);
  Module *m = NULL;
  ck_assert_int_eq(builder_finish(b, &m), MPCC_OK);
  apply(&s, &m, pass_canon, STAGE_FORWARD);
  const Func *f = module_func(m, "predict");
  ck_assert_int_eq(f->nop, 3); /* read, permute, write */
  const Attr *perm = op_attr(f->op[1], "perm");
  ck_assert(perm->u.ints.v[0] == 2 && perm->u.ints.v[1] == 0 && perm->u.ints.v[2] == 1);
  ck_assert(module_tensor(m, "io.unused") != NULL);
  module_destroy(m);
  session_close(&s);
}
END_TEST

/* ---- layout ---------------------------------------------------------------------------------- */

typedef struct {
  int kernel[2], stride[2], padding[2], dilation[2], size[2], groups;
} ConvCase;

static double conv_at(const double *x, const double *w, const ConvCase *c, const int out[2], int C,
                      int O, int n, int o, int i, int j) {
  int cg = C / c->groups, g = o / (O / c->groups);
  double sum = 0;
  (void)out;
  for (int ch = 0; ch < cg; ch++)
    for (int p = 0; p < c->kernel[0]; p++)
      for (int q = 0; q < c->kernel[1]; q++) {
        int y = i * c->stride[0] + p * c->dilation[0] - c->padding[0];
        int z = j * c->stride[1] + q * c->dilation[1] - c->padding[1];
        if (y < 0 || z < 0 || y >= c->size[0] || z >= c->size[1])
          continue;
        sum += x[((n * C + g * cg + ch) * c->size[0] + y) * c->size[1] + z] *
               w[((o * cg + ch) * c->kernel[0] + p) * c->kernel[1] + q];
      }
  return sum;
}

static Attr pair(Builder *b, const char *key, const int v[2]) {
  const int64_t wide[2] = {v[0], v[1]};
  return attr_ints(b, key, 2, wide);
}

START_TEST(convolutions_become_products) {
  static const ConvCase cases[] = {
      {{2, 2}, {2, 2}, {0, 0}, {1, 1}, {4, 6}, 1}, /* patches */
      {{2, 3}, {2, 3}, {0, 0}, {1, 1}, {5, 7}, 1}, /* patches with a rest */
      {{3, 3}, {1, 1}, {1, 1}, {1, 1}, {5, 4}, 1}, {{3, 2}, {2, 1}, {1, 0}, {1, 2}, {7, 6}, 1},
      {{1, 1}, {2, 2}, {0, 0}, {1, 1}, {5, 6}, 1}, {{3, 3}, {2, 2}, {1, 1}, {1, 1}, {6, 6}, 2},
      {{3, 3}, {1, 1}, {2, 2}, {2, 2}, {5, 5}, 4}, /* depthwise */
  };
  const ConvCase *c = &cases[_i];
  enum { B = 2, C = 4, O = 8 };
  Session s = session_open();
  Net n = net_begin(&s, NULL, 0);
  int out[2];
  for (int i = 0; i < 2; i++)
    out[i] =
        (c->size[i] + 2 * c->padding[i] - c->dilation[i] * (c->kernel[i] - 1) - 1) / c->stride[i] +
        1;
  Tensor *x =
      tensor_of_net(&n, "io.x", type_of(&n, MPCC_F64, 4, B, C, c->size[0], c->size[1]), ROLE_INPUT);
  Tensor *w = tensor_of_net(&n, "io.w",
                            type_of(&n, MPCC_F64, 4, O, C / c->groups, c->kernel[0], c->kernel[1]),
                            ROLE_INPUT);
  Tensor *bias = tensor_of_net(&n, "io.b", type_of(&n, MPCC_F64, 1, O), ROLE_INPUT);
  Tensor *y =
      tensor_of_net(&n, "output.y", type_of(&n, MPCC_F64, 4, B, O, out[0], out[1]), ROLE_OUTPUT);
  Attr at[4] = {pair(n.b, "stride", c->stride), pair(n.b, "padding", c->padding),
                pair(n.b, "dilation", c->dilation), attr_i(n.b, "groups", c->groups)};
  build_func(n.b, "predict");
  build_write(
      n.b, y,
      op_with(&n, OP_conv, build_read(n.b, x), build_read(n.b, w), build_read(n.b, bias), 4, at));
  Module *m = NULL;
  ck_assert_int_eq(builder_finish(n.b, &m), MPCC_OK);
  apply(&s, &m, pass_castopt, STAGE_TYPED);
  apply(&s, &m, pass_layout, STAGE_LAID);
  ck_assert_int_eq(count_op(module_func(m, "predict"), OP_conv), 0);
  bool tiles = c->kernel[0] == c->stride[0] && c->kernel[1] == c->stride[1];
  /* one product a group; depthwise filters of one channel each are one op */
  ck_assert_int_eq(count_op(module_func(m, "predict"), tiles ? OP_linear : OP_conv_gather),
                   c->groups == C ? 1 : c->groups);
  Eval *e;
  ck_assert_int_eq(eval_create(m, true, &e), MPCC_OK);
  uint64_t state = 17;
  static const char *const inputs[] = {"io.x", "io.w", "io.b"};
  for (int k = 0; k < 3; k++)
    for (int64_t i = 0; i < type_elems(module_tensor(m, inputs[k])->type); i++)
      data_of(e, m, inputs[k])[i] = noise(&state);
  run(e, m, "predict");
  const double *got = data_of(e, m, "output.y");
  for (int b = 0; b < B; b++)
    for (int o = 0; o < O; o++)
      for (int i = 0; i < out[0]; i++)
        for (int j = 0; j < out[1]; j++) {
          double want =
              data_of(e, m, "io.b")[o] +
              conv_at(data_of(e, m, "io.x"), data_of(e, m, "io.w"), c, out, C, O, b, o, i, j);
          ck_assert_msg(fabs(*got - want) < 1e-12, "[%d %d %d %d]: %g, want %g", b, o, i, j, *got,
                        want);
          got++;
        }
  eval_destroy(e);
  module_destroy(m);
  session_close(&s);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("autocast");
  TCase *t = tcase_create("autocast");
  tcase_add_loop_test(t, dtypes_follow_mode_and_policy, 0, 10);
  tcase_add_test(t, casts_say_why);
  tcase_add_loop_test(t, products_read_fewer_bits, 0, 4);
  tcase_add_test(t, every_policy_has_a_list);
  tcase_add_loop_test(t, precision_of_an_op_wins, 0, 5);
  tcase_add_test(t, unknown_precision_is_an_error);
  tcase_add_test(t, only_exact_casts_are_cancelled);
  tcase_add_test(t, parameters_are_cast_whole);
  tcase_add_test(t, weight_gradients_are_made_in_f32);
  tcase_add_test(t, canon_drops_what_changes_nothing);
  tcase_add_loop_test(t, convolutions_become_products, 0, 7);
  suite_add_tcase(suite, t);
  return check_run(suite);
}
