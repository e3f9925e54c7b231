/* Recipes: codes and scales against vectors worked from the definitions by
 * tests/data/recipes/make.py; the quantized product of each recipe against plain loops; what a
 * recipe leaves in a module. */
#include <stdio.h>

#include "mpcc/num.h"
#include "passmodels.h"
#include "tests/check_run.h"

/* ---- vectors --------------------------------------------------------------------------------- */

typedef struct {
  char name[40], to[8], scales[16];
  long rows, cols, block[2];
  unsigned tensor;
} Vector;

static void read_words(FILE *f, unsigned *word, long n) {
  for (long i = 0; i < n; i++)
    ck_assert_int_eq(fscanf(f, "%x", &word[i]), 1);
}

static void check_words(const Vector *v, const char *what, const double *got, DType dt,
                        const unsigned *want, long n) {
  for (long i = 0; i < n; i++) {
    uint64_t room = 0; /* of the widest format */
    num_store(&room, dt, got[i]);
    unsigned code = (unsigned)room;
    ck_assert_msg(code == want[i] || (dt == MPCC_F32 && isnan(got[i]) && want[i] == 0x7FC00000),
                  "%s %s %s: %s %ld is %x, want %x", v->name, v->to, v->scales, what, i, code,
                  want[i]);
  }
}

static void check_vector(FILE *f, const Vector *v) {
  Session s = session_open();
  Builder *b = builder_create(s.strings, s.diag, STAGE_FORWARD);
  TypeTable *t = builder_types(b);
  const int64_t dim[2] = {v->rows, v->cols}, block[2] = {v->block[0], v->block[1]};
  Tensor *x = build_tensor(b, "io.x", type_get(t, MPCC_F32, 2, dim), ROLE_INPUT, (Loc){0});
  build_func(b, "f");
  DType to = dtype_from_text(v->to);
  Value *in = build_read(b, x);
  Attr attr[3] = {attr_dt(b, "to", to), attr_ints(b, "block", 2, block),
                  attr_s(b, "scales", v->scales)};
  Op *q = build_op(b, OP_block_quantize, 1, &in, 3, attr);
  for (int i = 0; i < 3; i++) {
    const Type *ty = q->out[i]->type;
    char name[32];
    snprintf(name, sizeof name, "output.%d", i);
    Tensor *o =
        build_tensor(b, name, type_get(t, ty->dt, ty->rank, ty->dim), ROLE_OUTPUT, (Loc){0});
    build_write(b, o, q->out[i]);
  }
  Module *m;
  ck_assert_int_eq(builder_finish(b, &m), MPCC_OK);
  Eval *e;
  ck_assert_int_eq(eval_create(m, false, &e), MPCC_OK);
  const Tensor *scales = module_tensor(m, "output.2");
  long n = v->rows * v->cols, nscale = type_elems(scales->type);
  unsigned *word = calloc((size_t)(2 * n + nscale), sizeof *word);
  ck_assert_ptr_nonnull(word);
  read_words(f, word, 2 * n + nscale);
  double *data = data_of(e, m, "io.x");
  for (long i = 0; i < n; i++)
    data[i] = (double)num_f32_from_bits(word[i]);
  ck_assert_int_eq(eval_run(e, module_func(m, "f")), MPCC_OK);
  check_words(v, "code", data_of(e, m, "output.0"), to, word + n, n);
  check_words(v, "scale", data_of(e, m, "output.2"), scales->type->dt, word + 2 * n, nscale);
  check_words(v, "scale of the tensor", data_of(e, m, "output.1"), MPCC_F32, &v->tensor, 1);
  free(word);
  eval_destroy(e);
  module_destroy(m);
  session_close(&s);
}

START_TEST(vectors) {
  FILE *f = fopen(SOURCE_DIR "/tests/data/recipes/recipes.want", "r");
  ck_assert_ptr_nonnull(f);
  Vector v;
  int n = 0;
  while (fscanf(f, " case %39s %7s %15s %ld %ld %ld %ld %x", v.name, v.to, v.scales, &v.rows,
                &v.cols, &v.block[0], &v.block[1], &v.tensor) == 8) {
    check_vector(f, &v);
    n++;
  }
  ck_assert(feof(f) && n >= 40);
  fclose(f);
}
END_TEST

/* ---- the pass -------------------------------------------------------------------------------- */

/* Codes times scales of result `which` of quantization q, in [rows, cols]. */
static void decode(Eval *e, const Op *q, double *out) {
  const Type *t = q->out[0]->type, *s = q->out[2]->type;
  const double *codes = eval_value(e, q->out[0]), *scale = eval_value(e, q->out[2]);
  double tensor = op_attr(q, "block")->u.ints.v[0] ? *eval_value(e, q->out[1]) : 1;
  int64_t br = t->dim[0] / s->dim[0], bc = t->dim[1] / s->dim[1];
  for (int64_t i = 0; i < t->dim[0]; i++)
    for (int64_t j = 0; j < t->dim[1]; j++)
      out[i * t->dim[1] + j] =
          codes[i * t->dim[1] + j] * scale[i / br * s->dim[1] + j / bc] * tensor;
}

static const struct {
  const char *name;
  int rows, in, out;
} layers[] = {
    {"Float8CurrentScaling", 16, 48, 32}, {"Float8BlockScaling", 16, 144, 160},
    {"Float8BlockScaling", 144, 32, 16},  {"MXFP8BlockScaling", 16, 48, 80},
    {"MXFP8BlockScaling", 64, 64, 32},    {"NVFP4BlockScaling", 32, 48, 16},
};

/* The quantization that codes come from, cut or not. */
static const Op *made_by(const Value *codes) {
  while (codes->def->code != OP_block_quantize)
    codes = codes->def->in[0];
  return codes->def;
}

static double dot(const double *a, int64_t sa, const double *b, int64_t sb, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++)
    sum += a[i * sa] * b[i * sb];
  return sum;
}

/* y, dX (through dW and db) are the products of what the module's own quantizations decode to: of
 * blocks along each product's sum; zeros behind the tensors change nothing. */
START_TEST(products_are_of_decoded_blocks) {
  const int rows = layers[_i].rows, in = layers[_i].in, out = layers[_i].out;
  Session s = session_open();
  Setting set[] = {{"mode", "transformer-engine", 0}, {"recipe", layers[_i].name, 0}};
  Module *m = one_layer(&s, set, 2, rows, in, out);
  apply_until(&s, &m, STAGE_TRAIN);
  Eval *e;
  ck_assert_int_eq(eval_create(m, false, &e), MPCC_OK);
  feed(e, m, 0, out);
  run(e, m, "init");
  run(e, m, "train_forward");
  const Func *f = module_func(m, "train_forward");
  const Op *product = find_op(f, OP_qlinear, 0), *wgrad = find_op(f, OP_qmatmul, 0);
  const Op *q[4] = {made_by(product->in[0]), made_by(product->in[1]), made_by(wgrad->in[0]),
                    made_by(wgrad->in[1])};
  bool current = _i == 0;
  int quantized = current                               ? 3
                  : q[1]->out[2]->type->dt == MPCC_E8M0 ? 6
                                                        : 5; /* square blocks turn */
  ck_assert_int_eq(count_op(f, OP_block_quantize), quantized);
  double *v[4];
  int64_t width[4];
  for (int i = 0; i < 4; i++) {
    ck_assert_int_eq(q[i]->code, OP_block_quantize);
    v[i] = malloc((size_t)type_elems(q[i]->out[0]->type) * sizeof **v);
    width[i] = q[i]->out[0]->type->dim[1];
    decode(e, q[i], v[i]);
  }
  const double *y = eval_value(e, product->out[0]), *dw = data_of(e, m, "grad.fc.weight");
  int64_t ywidth = product->out[0]->type->dim[1], nrow = q[2]->out[0]->type->dim[0];
  for (int r = 0; r < rows; r++)
    for (int o = 0; o < out; o++) {
      double want = dot(v[0] + r * width[0], 1, v[1] + o * width[1], 1, width[0]);
      ck_assert_msg(fabs(y[r * ywidth + o] - want) <= fabs(want) * 0x1p-8 + 1e-6,
                    "y %d %d: %g, want %g", r, o, y[r * ywidth + o], want);
    }
  double most = 0;
  for (int o = 0; o < out; o++)
    for (int k = 0; k < in; k++) {
      double want = dot(v[2] + o, width[2], v[3] + k, width[3], nrow);
      most = fmax(most, fabs(want));
      ck_assert_msg(fabs(dw[o * in + k] - want) <= 1e-6 * (1 + fabs(want)), "dw %d %d: %g, want %g",
                    o, k, dw[o * in + k], want);
    }
  ck_assert(most > 0);
  /* no state; maxima for the finite check */
  ck_assert(!module_tensor(m, "fp8.forward.scale"));
  const double *seen = data_of(e, m, "sum.fp8.forward.amax"), *x = data_of(e, m, "io.image");
  double largest = 0;
  for (int i = 0; i < rows * in; i++)
    largest = fmax(largest, fabs(num_round(x[i], MPCC_BF16)));
  ck_assert(seen[0] == largest && seen[1] > 0 && *data_of(e, m, "sum.fp8.backward.amax") > 0);
  ck_assert(count_op(module_func(m, "eval_forward"), OP_qgrad) == 0);
  ck_assert_int_eq(count_op(module_func(m, "eval_forward"), OP_block_quantize), 2);
  for (int i = 0; i < 4; i++)
    free(v[i]);
  eval_destroy(e);
  module_destroy(m);
  session_close(&s);
}
END_TEST

/* Padding is said once a layer, where the spec says it. */
START_TEST(padding_is_said) {
  Session s = session_open();
  Setting set[] = {{"mode", "transformer-engine", 0}, {"recipe", "MXFP8BlockScaling", 0}};
  Module *m = one_layer(&s, set, 2, 32, _i ? 64 : 48, 32);
  apply_until(&s, &m, STAGE_TYPED);
  ck_assert_int_eq(diag_warnings(s.diag), !_i);
  if (!_i) {
    ck_assert_str_eq(diag_first(s.diag)->warning, "fp8-padding");
    ck_assert_str_eq(diag_first(s.diag)->text,
                     "'fc' is padded with zeros: in_features 48 is not a multiple of 32, the block "
                     "of MXFP8BlockScaling");
  }
  ck_assert_int_eq(count_op(module_func(m, "train_forward"), OP_unslice), _i ? 0 : 2);
  module_destroy(m);
  session_close(&s);
}
END_TEST

/* Weights are quantized when they change: forward functions read codes and scales. */
START_TEST(weights_are_derived) {
  Session s = session_open();
  Setting set[] = {{"mode", "transformer-engine", 0},
                   {"recipe", "MXFP8BlockScaling", 0},
                   {"optimizer", "SGD", 0}};
  Module *m = one_layer(&s, set, 3, 32, 48, 32);
  apply_until(&s, &m, STAGE_STEP);
  ck_assert_int_eq(count_op(module_func(m, "eval_step"), OP_block_quantize), 1); /* the input */
  ck_assert_int_eq(count_op(module_func(m, "micro_next"), OP_block_quantize), 3);
  ck_assert_int_eq(count_op(module_func(m, "refresh"), OP_block_quantize), 2);
  const Tensor *t = module_tensor(m, "weight.fc.weight.e4m3");
  ck_assert(t && t->role == ROLE_WEIGHT && t->type->dt == MPCC_E4M3 && t->type->dim[1] == 64);
  t = module_tensor(m, "weight.fc.weight.e4m3.block_scale_inv");
  ck_assert(t && t->type->dt == MPCC_E8M0 && t->type->dim[0] == 32 && t->type->dim[1] == 2);
  ck_assert(!module_func(m, "calibrate"));
  module_destroy(m);
  session_close(&s);
}
END_TEST

/* Hadamard's transform changes no sum over rows, and spreads one large element. */
START_TEST(transform_is_orthogonal) {
  Session s = session_open();
  Builder *b = builder_create(s.strings, s.diag, STAGE_FORWARD);
  const int64_t dim[2] = {32, 16};
  const Type *t = type_get(builder_types(b), MPCC_F32, 2, dim);
  Tensor *x = build_tensor(b, "io.x", t, ROLE_INPUT, (Loc){0});
  Tensor *y = build_tensor(b, "output.y", t, ROLE_OUTPUT, (Loc){0});
  build_func(b, "f");
  build_write(b, y, build_hadamard(b, build_read(b, x)));
  Module *m;
  ck_assert_int_eq(builder_finish(b, &m), MPCC_OK);
  Eval *e;
  ck_assert_int_eq(eval_create(m, false, &e), MPCC_OK);
  double *in = data_of(e, m, "io.x"), *out = data_of(e, m, "output.y");
  for (int i = 0; i < 16; i++)
    in[i * 16 + i] = 1; /* the matrix itself, transposed */
  in[31 * 16 + 3] = 8;
  ck_assert_int_eq(eval_run(e, module_func(m, "f")), MPCC_OK);
  for (int i = 0; i < 16; i++)
    for (int j = 0; j < 16; j++) {
      ck_assert(fabs(out[i * 16 + j]) == 0.25);
      double sum = dot(out + i * 16, 1, out + j * 16, 1, 16);
      ck_assert_msg(sum == (i == j), "rows %d, %d: %g", i, j, sum);
    }
  for (int i = 16; i < 32; i++) {
    ck_assert(fabs(out[i * 16 + 3]) == 2 && out[i * 16 + 4] == 0);
    ck_assert((out[(i - 16) * 16] < 0) ==
              (0x9E37 >> 0 & 1)); /* no row of Sylvester's is signed there */
  }
  eval_destroy(e);
  module_destroy(m);
  session_close(&s);
}
END_TEST

/* ---- attention [N14] ------------------------------------------------------------------------- */

enum { QUERIES = 5, KEYS = 9, WIDTH = 16 };

typedef struct {
  FILE *f;
  Net n;
  Value *codes[4], *inverse[4];
  Tensor *in[4];
  double *x[4];
} Head;

/* Line "NAME SCALE NUMBERS" and what quantizes the tensor. */
static void read_operand(Head *h, int i, const char *name, int rows, DType to) {
  double scale;
  char word[16], out[16];
  Builder *b = h->n.b;
  const Type *ty = type_of(&h->n, MPCC_F32, 3, 1, rows, WIDTH);
  ck_assert_int_eq(fscanf(h->f, "%15s %lf", word, &scale), 2);
  ck_assert_str_eq(word, name);
  h->x[i] = malloc((size_t)(rows * WIDTH) * sizeof(double));
  for (int e = 0; e < rows * WIDTH; e++)
    ck_assert_int_eq(fscanf(h->f, "%lf", &h->x[i][e]), 1);
  ck_assert_int_eq(fscanf(h->f, "%15s", word), 1);
  snprintf(out, sizeof out, "io.%s", name);
  h->in[i] = tensor_of_net(&h->n, out, ty, ROLE_INPUT);
  Attr attr = attr_dt(b, "to", to);
  Value *in[2] = {build_read(b, h->in[i]), build_const(b, scale, MPCC_F32)};
  Op *q = build_op(b, OP_quantize, 2, in, 1, &attr);
  h->codes[i] = q->out[0];
  h->inverse[i] = q->out[1];
  unsigned *want = malloc((size_t)(rows * WIDTH) * sizeof *want);
  read_words(h->f, want, rows * WIDTH);
  for (int e = 0; e < rows * WIDTH; e++) {
    uint64_t room = 0;
    num_store(&room, to, num_round(h->x[i][e] * scale, MPCC_F32));
    ck_assert_msg((unsigned)room == want[e], "code %d of %s is %x, want %x", e, name,
                  (unsigned)room, want[e]);
  }
  free(want);
}

/* x is the code that the vectors have: within what f32 scales leave of it. */
static void check_code(const char *what, int row, int col, double x, DType dt, unsigned want) {
  uint64_t room = want;
  double v = num_load(&room, dt);
  ck_assert_msg(fabs(x - v) <= 1e-5 * fabs(v), "%s %d, %d is %.9g, want %.9g", what, row, col, x,
                v);
}

/* Codes of the operands, of P and of dS are those of tests/data/attention/make.py; no gradient of
 * the loss is needed to see them: o holds P, dK holds dS. */
START_TEST(attention_makes_codes) {
  Session s = session_open();
  Head h = {.f = fopen(SOURCE_DIR "/tests/data/attention/attention.want", "r"),
            .n = {.s = &s, .b = builder_create(s.strings, s.diag, STAGE_TRAIN)}};
  h.n.tt = builder_types(h.n.b);
  ck_assert_ptr_nonnull(h.f);
  Builder *b = h.n.b;
  int size[4];
  ck_assert_int_eq(fscanf(h.f, "sizes %d %d %d %d", &size[0], &size[1], &size[2], &size[3]), 4);
  ck_assert(size[0] == QUERIES && size[1] == KEYS && size[2] == WIDTH);
  const double ds_scale = ldexp(1, size[3]);
  build_func(b, "f");
  static const char *const names[4] = {"q", "k", "v", "g"};
  for (int i = 0; i < 4; i++)
    read_operand(&h, i, names[i], i == 0 || i == 3 ? QUERIES : KEYS,
                 i == 3 ? MPCC_E5M2 : MPCC_E4M3);
  Attr attr[7] = {attr_i(b, "heads", 1),           attr_f(b, "scale", 0.25),
                  attr_dt(b, "out", MPCC_F32),       attr_dt(b, "p_dtype", MPCC_E4M3),
                  attr_dt(b, "ds_dtype", MPCC_E5M2), attr_f(b, "p_scale", 256),
                  attr_f(b, "ds_scale", ds_scale)};
  Value *in[6] = {h.codes[0], h.codes[1], h.codes[2], h.inverse[0], h.inverse[1], h.inverse[2]};
  Op *o = build_op(b, OP_attention, 6, in, 7, attr);
  Value *back[10] = {h.codes[3], o->out[0], o->out[1], in[0], in[1],
                     in[2],      in[3],     in[4],     in[5], h.inverse[3]};
  Op *grad = build_op(b, OP_attention_grad, 10, back, 7, attr);
  Tensor *out[2] = {tensor_of_net(&h.n, "output.o", o->out[0]->type, ROLE_OUTPUT),
                    tensor_of_net(&h.n, "output.dk", grad->out[1]->type, ROLE_OUTPUT)};
  build_write(b, out[0], o->out[0]);
  build_write(b, out[1], grad->out[1]);
  Module *m;
  ck_assert_int_eq(builder_finish(b, &m), MPCC_OK);
  Eval *e;
  ck_assert_int_eq(eval_create(m, false, &e), MPCC_OK);
  for (int i = 0; i < 4; i++) {
    char name[16];
    snprintf(name, sizeof name, "io.%s", names[i]);
    memcpy(data_of(e, m, name), h.x[i],
           (size_t)((i == 0 || i == 3 ? QUERIES : KEYS) * WIDTH) * sizeof(double));
  }
  ck_assert_int_eq(eval_run(e, module_func(m, "f")), MPCC_OK);
  /* units of what is shown: a query is 96 / 100, a value 288 / 300 (codes of 100 and of 300) */
  const double query = 96 * num_round(0.01, MPCC_F32), one_v = num_round(1.0 / 300, MPCC_F32);
  const double value = num_round(300, MPCC_E4M3) * one_v, one_g = num_round(1.0 / 5000, MPCC_F32);
  unsigned want[QUERIES * KEYS];
  char word[16];
  ck_assert_int_eq(fscanf(h.f, "%15s", word), 1);
  read_words(h.f, want, QUERIES * KEYS);
  for (int i = 0; i < QUERIES * KEYS; i++)
    check_code("P", i / KEYS, i % KEYS,
               data_of(e, m, "output.o")[i / KEYS * WIDTH + i % KEYS] / value * 256, MPCC_E4M3,
               want[i]);
  ck_assert_int_eq(fscanf(h.f, "%15s", word), 1);
  read_words(h.f, want, QUERIES * KEYS);
  int nonzero = 0;
  for (int i = 0; i < QUERIES * KEYS; i++) {
    double dk = data_of(e, m, "output.dk")[i % KEYS * WIDTH + i / KEYS];
    check_code("dS", i / KEYS, i % KEYS, dk / (0.25 * query) / (one_g * one_v) * ds_scale,
               MPCC_E5M2, want[i]);
    nonzero += (want[i] & 0x7F) != 0;
  }
  ck_assert_int_gt(nonzero, QUERIES * KEYS / 2);
  for (int i = 0; i < 4; i++)
    free(h.x[i]);
  fclose(h.f);
  eval_destroy(e);
  module_destroy(m);
  session_close(&s);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("recipes");
  TCase *t = tcase_create("recipes");
  tcase_set_timeout(t, 60);
  tcase_add_test(t, vectors);
  tcase_add_loop_test(t, products_are_of_decoded_blocks, 0, sizeof layers / sizeof *layers);
  tcase_add_loop_test(t, padding_is_said, 0, 2);
  tcase_add_test(t, weights_are_derived);
  tcase_add_test(t, attention_makes_codes);
  tcase_add_test(t, transform_is_orthogonal);
  suite_add_tcase(suite, t);
  return check_run(suite);
}
