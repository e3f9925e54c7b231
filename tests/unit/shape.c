/* Shape rules: result types of every op, and the words for misfits. Operands are reads of tensors
 * that a small table describes; ops are built in a forward-stage module. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ir/ir.h"
#include "tests/check_run.h"

static Arena *arena;
static Diag *diag;
static Builder *b;
static int ntensor;

static void setup(void) {
  arena = arena_create();
  StrTable *strings = str_table_create(arena);
  diag = diag_create(arena, strings);
  b = builder_create(strings, diag, STAGE_FORWARD);
  build_func(b, "f");
  ntensor = 0;
}

static void teardown(void) {
  builder_destroy(b);
  arena_destroy(arena);
}

/* A value of the type written as "f32[2,3]". */
static Value *value(const char *type) {
  char name[32];
  const size_t n = strcspn(type, "[");
  memcpy(name, type, n);
  name[n] = 0;
  const DType dt = dtype_from_text(name);
  ck_assert(dt != MPCC_DTYPE_COUNT);
  int rank = 0;
  int64_t dim[MAX_RANK];
  for (const char *p = type + n + 1; *p && *p != ']'; p += *p == ',')
    dim[rank++] = strtoll(p, (char **)&p, 10);
  snprintf(name, sizeof name, "t%d", ntensor++);
  return build_read(
      b, build_tensor(b, name, type_get(builder_types(b), dt, rank, dim), ROLE_INPUT, (Loc){0}));
}

enum { MAX_IN = 8 };

/* Builds an op over operands of the types listed with blanks between them. */
static Op *op_of(OpCode code, const char *types, int nattr, const Attr *attr) {
  char text[256];
  Value *in[MAX_IN];
  int nin = 0;
  snprintf(text, sizeof text, "%s", types);
  for (char *p = strtok(text, " "); p; p = strtok(NULL, " "))
    in[nin++] = value(p);
  return build_op(b, code, nin, in, nattr, attr);
}

static void check_op(OpCode code, const char *types, int nattr, const Attr *attr,
                     const char *want) {
  const Op *op = op_of(code, types, nattr, attr);
  ck_assert_msg(!builder_failed(b), "%s: %s", op_info(code)->name,
                diag_first(diag) ? diag_first(diag)->text : "");
  Text t = {0};
  for (int i = 0; i < op->nout; i++) {
    text_puts(&t, i ? " " : "");
    type_print(op->out[i]->type, &t);
  }
  ck_assert_msg(!strcmp(t.data ? t.data : "", want), "%s of %s is %s, want %s", op_info(code)->name,
                types, t.data, want);
  text_fini(&t);
}

/* The op is an error with this text (without the prefix); the builder is renewed. */
static void check_error(OpCode code, const char *types, int nattr, const Attr *attr,
                        const char *want) {
  Op *op = op_of(code, types, nattr, attr);
  ck_assert_msg(builder_failed(b), "%s of %s is accepted", op_info(code)->name, types);
  ck_assert_ptr_nonnull(op->out[0]->type); /* a dummy */
  ck_assert_int_eq(diag_errors(diag), 1);
  ck_assert_str_eq(diag_first(diag)->text, want);
  Module *m;
  ck_assert_int_eq(builder_finish(b, &m), MPCC_ERR_INPUT);
  ck_assert_ptr_null(m);
  arena_destroy(arena);
  setup();
}

START_TEST(elementwise) {
  check_op(OP_add, "f32[2,3] f32[2,3]", 0, NULL, "f32[2,3]");
  check_op(OP_add, "f32[2,3] f32[3]", 0, NULL, "f32[2,3]");
  check_op(OP_mul, "f32[2,1] f32[1,3]", 0, NULL, "f32[2,3]");
  check_op(OP_add, "bf16[2] f32[2]", 0, NULL, "f32[2]");
  check_op(OP_add, "bf16[2] f16[2]", 0, NULL, "f32[2]");
  check_op(OP_add, "f64[2] f16[2]", 0, NULL, "f64[2]");
  /* a scalar does not widen a tensor of its own category, a float scalar widens integers */
  check_op(OP_mul, "bf16[2] f32[]", 0, NULL, "bf16[2]");
  check_op(OP_mul, "f32[] bf16[2]", 0, NULL, "bf16[2]");
  check_op(OP_mul, "f32[] bf16[]", 0, NULL, "f32[]");
  check_op(OP_mul, "i64[2] f32[]", 0, NULL, "f32[2]");
  check_op(OP_mul, "i64[2] f16[2]", 0, NULL, "f16[2]");
  check_op(OP_add, "i64[2] i32[2]", 0, NULL, "i64[2]");
  check_op(OP_add, "i32[2] i64[]", 0, NULL, "i32[2]");
  check_op(OP_div, "i64[2] i64[2]", 0, NULL, "f32[2]");
  check_op(OP_exp, "i64[2]", 0, NULL, "f32[2]");
  check_op(OP_gelu, "bf16[4,2]", 0, NULL, "bf16[4,2]");
  const Attr dtype = attr_dt(b, "dtype", MPCC_F32);
  check_op(OP_exp, "bf16[4]", 1, &dtype, "f32[4]");
  const Attr body = attr_s(b, "body", "a < b ? c : 0");
  check_op(OP_expr, "f32[2,1] f32[3] bf16[]", 1, &body, "f32[2,3]");
  const Attr constant[] = {attr_s(b, "body", "0.5"), attr_dt(b, "dtype", MPCC_F16)};
  check_op(OP_expr, "", 2, constant, "f16[]");
}
END_TEST

START_TEST(elementwise_errors) {
  build_at(b, (Loc){0}, "block.0", NULL);
  check_error(OP_add, "f32[2,3] f32[2]", 0, NULL,
              "shapes do not fit: 'block.0' takes [2, 3] and [2]");
  check_error(OP_add, "e4m3[2] e4m3[2]", 0, NULL,
              "dtypes do not fit: add computes in e4m3, which only holds codes of products");
  check_error(OP_add, "f32[2]", 0, NULL, "shapes do not fit: add takes 2 operands, got 1");
  const Attr body = attr_s(b, "body", "a + b");
  check_error(OP_expr, "f32[2]", 1, &body, "unknown name 'b'");
  check_error(OP_expr, "f32[2]", 0, NULL, "expr needs a body and at most 26 operands");
  const Attr constant = attr_s(b, "body", "1");
  check_error(OP_expr, "", 1, &constant, "expr without operands needs attribute 'dtype'");
}
END_TEST

START_TEST(structure) {
  const Attr at[] = {attr_f(b, "value", 2), attr_dt(b, "dtype", MPCC_F16)};
  check_op(OP_const, "", 2, at, "f16[]");
  Tensor *t = build_tensor(b, "w", type_get(builder_types(b), MPCC_F32, 1, (int64_t[]){3}),
                           ROLE_PARAM, (Loc){0});
  const Attr to = attr_t(b, "tensor", t);
  check_op(OP_read, "", 1, &to, "f32[3]");
  check_op(OP_write, "f32[3]", 1, &to, "");
  Value *v = value("f32[2]");
  build_write(b, t, v);
  ck_assert(builder_failed(b));
  ck_assert_str_eq(diag_first(diag)->text,
                   "shapes do not fit: 'w' holds f32[3], written with f32[2]");
  ck_assert_str_eq(diag_first(diag)->notes->text, "the value comes from 't1' with shape [2]");
}
END_TEST

START_TEST(products) {
  check_op(OP_linear, "f32[5,7,4] f32[3,4]", 0, NULL, "f32[5,7,3]");
  check_op(OP_linear, "bf16[4] bf16[3,4] f32[3]", 0, NULL, "bf16[3]");
  const Attr out = attr_dt(b, "out", MPCC_F32);
  check_op(OP_linear, "bf16[2,4] bf16[3,4]", 1, &out, "f32[2,3]");
  check_op(OP_matmul, "f32[2,4] f32[4,3]", 0, NULL, "f32[2,3]");
  const Attr t[] = {attr_b(b, "ta", true), attr_b(b, "tb", true), out};
  check_op(OP_matmul, "f16[4,2] f16[3,4]", 3, t, "f32[2,3]");
  check_op(OP_qlinear, "e4m3[2,5,4] e4m3[3,4] f32[] f32[]", 1, &out, "f32[2,5,3]");
  check_op(OP_qmatmul, "e5m2[4,2] e4m3[3,4] f32[] f32[]", 3, t, "f32[2,3]");
  check_error(OP_linear, "f32[2,5] f32[3,4]", 0, NULL,
              "shapes do not fit: linear has in_features 4, its input has 5");
  check_error(OP_linear, "f32[2,4] f32[3,4] f32[4]", 0, NULL,
              "shapes do not fit: linear has 3 outputs, its bias has 4");
  check_error(OP_linear, "f32[] f32[3,4]", 0, NULL,
              "shapes do not fit: linear takes rows of 4, its input is a scalar");
  check_error(OP_linear, "i64[2,4] f32[3,4]", 0, NULL,
              "dtypes do not fit: operand 1 of linear has dtype i64, expected a float");
  check_error(OP_matmul, "f32[2,4] f32[3,4]", 0, NULL,
              "shapes do not fit: matmul multiplies [2, 4] by [3, 4]: inner dimensions 4 and 3");
  check_error(OP_matmul, "f32[2,4,1] f32[4,3]", 0, NULL,
              "shapes do not fit: operand 1 of matmul has shape [2, 4, 1], expected 2 dimensions");
  check_error(OP_qlinear, "e4m3[2,4] e4m3[3,4] f32[] f32[]", 0, NULL,
              "qlinear needs attribute 'out', a dtype");
  const Attr again = attr_dt(b, "out", MPCC_F32);
  check_error(OP_qlinear, "f16[2,4] e4m3[3,4] f32[] f32[]", 1, &again,
              "dtypes do not fit: operand 1 of qlinear has dtype f16, expected e4m3, e5m2 or e2m1");
}
END_TEST

START_TEST(misfits_name_where_operands_come_from) {
  const Loc here = {0, 63, 7, 3};
  build_at(b, (Loc){0}, "select", NULL);
  Value *x = build1(b, OP_relu, value("f32[8,1024]")), *w = value("f32[10,768]");
  build_at(b, here, "heads.head", NULL);
  build2(b, OP_linear, x, w);
  const DiagMessage *m = diag_first(diag);
  ck_assert_int_eq(m->code, 311);
  ck_assert_uint_eq(m->loc.line, 63);
  ck_assert_str_eq(m->text,
                   "shapes do not fit: 'heads.head' has in_features 768, its input has 1024");
  ck_assert_str_eq(m->notes->text, "the input comes from 'select' (relu) with shape [8, 1024]");
}
END_TEST

START_TEST(convolution) {
  check_op(OP_conv, "f32[2,3,32,30] f32[8,3,5,3]", 0, NULL, "f32[2,8,28,28]");
  const Attr at[] = {attr_ints(b, "stride", 2, (int64_t[]){2, 1}),
                     attr_ints(b, "padding", 2, (int64_t[]){1, 2}),
                     attr_ints(b, "dilation", 2, (int64_t[]){1, 2})};
  /* (32 + 2 - 3) / 2 + 1 = 16; (30 + 4 - 5) / 1 + 1 = 30 */
  check_op(OP_conv, "f32[2,3,32,30] f32[8,3,3,3] f32[8]", 3, at, "f32[2,8,16,30]");
  const Attr groups = attr_i(b, "groups", 2);
  check_op(OP_conv, "bf16[2,4,8,8] bf16[6,2,1,1]", 1, &groups, "bf16[2,6,8,8]");
  check_error(OP_conv, "f32[2,3,8,8] f32[8,4,3,3]", 0, NULL,
              "shapes do not fit: conv has in_channels 4, its input has 3");
  check_error(OP_conv, "f32[2,3,8,2] f32[8,3,3,3]", 0, NULL,
              "shapes do not fit: conv has a window of 3, its padded input has 2");
}
END_TEST

START_TEST(attention) {
  const Attr at[] = {attr_i(b, "heads", 4)};
  const Attr drop[] = {attr_i(b, "heads", 4), attr_f(b, "dropout_p", 0.1)};
  check_op(OP_attention, "bf16[2,5,16] bf16[2,7,16] bf16[2,7,16]", 1, at,
           "bf16[2,5,16] f32[2,4,5]");
  check_op(OP_attention, "f64[2,5,16] f64[2,7,16] f64[2,7,16]", 1, at, "f64[2,5,16] f64[2,4,5]");
  check_op(OP_attention, "f32[2,5,16] f32[2,7,16] f32[2,7,16] i64[] i64[]", 2, drop,
           "f32[2,5,16] f32[2,4,5]");
  check_op(OP_attention_grad,
           "f16[2,5,16] f16[2,5,16] f32[2,4,5] f16[2,5,16] f16[2,7,16] f16[2,7,16]", 1, at,
           "f16[2,5,16] f16[2,7,16] f16[2,7,16]");
  const Attr three = attr_i(b, "heads", 3);
  check_error(OP_attention, "f32[2,5,16] f32[2,7,16] f32[2,7,16]", 1, &three,
              "shapes do not fit: attention has width 16, which 3 heads do not divide");
  check_error(OP_attention, "f32[2,5,16] f32[2,7,12] f32[2,7,12]", 0, NULL,
              "shapes do not fit: attention has query [2, 5, 16] and key [2, 7, 12]");
  check_error(
      OP_attention, "f32[2,5,16] f32[2,7,16] f32[2,8,16]", 0, NULL,
      "shapes do not fit: operand 3 of attention has shape [2, 8, 16], expected [2, 7, 16]");
  const Attr again = attr_f(b, "dropout_p", 0.1);
  check_error(OP_attention, "f32[2,5,16] f32[2,7,16] f32[2,7,16]", 1, &again,
              "shapes do not fit: attention takes 5 operands, got 3");
}
END_TEST

START_TEST(norms_and_reductions) {
  check_op(OP_layer_norm, "bf16[2,3,4] bf16[4] bf16[4]", 0, NULL, "bf16[2,3,4] f32[2,3] f32[2,3]");
  check_op(OP_layer_norm, "f64[2,4]", 0, NULL, "f64[2,4] f64[2] f64[2]");
  const Attr axes = attr_i(b, "axes", 2);
  check_op(OP_layer_norm, "f32[2,3,4] f32[3,4]", 1, &axes, "f32[2,3,4] f32[2] f32[2]");
  check_op(OP_layer_norm_grad, "bf16[2,4] bf16[2,4] f32[2] f32[2] f32[4]", 0, NULL,
           "bf16[2,4] f32[4] f32[4]");
  check_op(OP_layer_norm_grad, "f32[2,4] f32[2,4] f32[2] f32[2]", 0, NULL, "f32[2,4]");
  const Attr dims[] = {attr_ints(b, "dims", 2, (int64_t[]){0, 2}), attr_b(b, "keepdim", true)};
  check_op(OP_sum, "f16[2,3,4]", 1, dims, "f16[3]");
  check_op(OP_sum, "f16[2,3,4]", 2, dims, "f16[1,3,1]");
  check_op(OP_mean, "f32[2,3,4]", 1, dims, "f32[3]");
  check_op(OP_amax, "bf16[2,3,4]", 0, NULL, "f32[]");
  check_error(OP_layer_norm, "f32[2,4] f32[3]", 0, NULL,
              "shapes do not fit: operand 2 of layer_norm has shape [3], expected [4]");
  const Attr bad = attr_ints(b, "dims", 1, (int64_t[]){2});
  check_error(OP_sum, "f32[2,3]", 1, &bad,
              "shapes do not fit: sum works on axis 2, its input has 2");
}
END_TEST

START_TEST(losses) {
  check_op(OP_cross_entropy, "bf16[8,10] i64[8] f32[] i64[]", 0, NULL, "f32[] f32[] bf16[8,10]");
  check_op(OP_cross_entropy, "f64[8,5,10] i64[8,5] f32[] i64[]", 0, NULL,
           "f64[] f64[] f64[8,5,10]");
  check_op(OP_accuracy, "f32[8,10] i64[8] i64[]", 0, NULL, "f32[]");
  check_error(OP_cross_entropy, "f32[8,10] i64[8,1] f32[] i64[]", 0, NULL,
              "shapes do not fit: cross_entropy has logits [8, 10] and target [8, 1]");
  check_error(OP_accuracy, "f32[8,10] f32[8] i64[]", 0, NULL,
              "dtypes do not fit: operand 2 of accuracy has dtype f32, expected an integer");
}
END_TEST

START_TEST(precision) {
  const Attr e4m3 = attr_dt(b, "to", MPCC_E4M3), bf16 = attr_dt(b, "to", MPCC_BF16);
  check_op(OP_cast, "f32[2,3]", 1, &bf16, "bf16[2,3]");
  check_op(OP_quantize, "bf16[2,3] f32[]", 1, &e4m3, "e4m3[2,3] f32[] f32[]");
  check_op(OP_qgrad, "bf16[2,3] f32[]", 1, &e4m3, "bf16[2,3]");
  check_op(OP_fp8_update, "f32[6,16] f32[6] f32[6]", 0, NULL, "f32[6,16] f32[6]");
  check_error(OP_quantize, "bf16[2,3] f32[]", 1, &bf16,
              "quantize quantizes to e4m3, e5m2 or e2m1, not bf16");
  check_error(OP_fp8_update, "f32[6,16] f32[6] f32[5]", 0, NULL,
              "shapes do not fit: operand 3 of fp8_update has shape [5], expected [6]");
  check_error(OP_cast, "f32[2]", 0, NULL, "cast needs attribute 'to', a dtype");
}
END_TEST

START_TEST(random_numbers) {
  const Attr shape = attr_ints(b, "shape", 2, (int64_t[]){3, 4});
  check_op(OP_random, "i64[] i64[]", 1, &shape, "f32[3,4]");
  check_op(OP_dropout, "bf16[3,4] i64[] i64[]", 0, NULL, "bf16[3,4]");
  check_error(OP_random, "i32[] i64[]", 1, (Attr[]){attr_ints(b, "shape", 1, (int64_t[]){3})},
              "dtypes do not fit: operand 1 of random has dtype i32, expected i64");
}
END_TEST

START_TEST(views) {
  const Attr shape = attr_ints(b, "shape", 2, (int64_t[]){6, 4}),
             wide = attr_ints(b, "shape", 3, (int64_t[]){5, 2, 3}),
             perm = attr_ints(b, "perm", 3, (int64_t[]){2, 0, 1});
  check_op(OP_reshape, "f32[2,3,4]", 1, &shape, "f32[6,4]");
  check_op(OP_permute, "f32[2,3,4]", 1, &perm, "f32[4,2,3]");
  check_op(OP_expand, "f32[2,1]", 1, &wide, "f32[5,2,3]");
  const Attr slice[] = {attr_i(b, "dim", 1), attr_i(b, "start", 1), attr_i(b, "end", 3)};
  check_op(OP_slice, "f32[2,3,4]", 3, slice, "f32[2,2,4]");
  const Attr unslice[] = {attr_i(b, "dim", 1), attr_i(b, "start", 1), attr_i(b, "size", 9)};
  check_op(OP_unslice, "f32[2,3,4]", 3, unslice, "f32[2,9,4]");
  const Attr axis = attr_i(b, "dim", 1);
  check_op(OP_cat, "f32[2,1,4] f32[2,3,4] f32[2,5,4]", 1, &axis, "f32[2,9,4]");
  check_op(OP_cat, "bf16[2,1] f32[2,1]", 1, &axis, "f32[2,2]");
  check_op(OP_embedding, "i64[2,7] bf16[50,16]", 0, NULL, "bf16[2,7,16]");
}
END_TEST

START_TEST(view_errors) {
  check_error(OP_reshape, "f32[2,3]", 1, (Attr[]){attr_ints(b, "shape", 1, (int64_t[]){5})},
              "shapes do not fit: reshape makes [5] of [2, 3], which has 6 elements and not 5");
  check_error(OP_reshape, "f32[2,3]", 1, (Attr[]){attr_ints(b, "shape", 2, (int64_t[]){-1, 6})},
              "shapes do not fit: reshape makes more than 8 dimensions, an empty or a too large "
              "tensor");
  check_error(OP_permute, "f32[2,3]", 1, (Attr[]){attr_ints(b, "perm", 2, (int64_t[]){0, 0})},
              "shapes do not fit: permute permutes axes its input [2, 3] does not have, or not "
              "each once");
  check_error(OP_expand, "f32[2,3]", 1, (Attr[]){attr_ints(b, "shape", 2, (int64_t[]){2, 1})},
              "shapes do not fit: expand expands [2, 3] to [2, 1]");
  check_error(OP_slice, "f32[2,3]", 3,
              (Attr[]){attr_i(b, "dim", 1), attr_i(b, "start", 2), attr_i(b, "end", 4)},
              "shapes do not fit: slice takes [2, 4) of axis 1, its input has shape [2, 3]");
  check_error(OP_unslice, "f32[2,3]", 3,
              (Attr[]){attr_i(b, "dim", 1), attr_i(b, "start", 2), attr_i(b, "size", 4)},
              "shapes do not fit: unslice puts [2, 3] at 2 of axis 1 of length 4");
  check_error(OP_cat, "f32[2,3] f32[3,3]", 1, (Attr[]){attr_i(b, "dim", 1)},
              "shapes do not fit: cat joins [2, 3] and [3, 3] along axis 1");
  check_error(OP_cat, "f32[2,3] f32[2]", 1, (Attr[]){attr_i(b, "dim", 1)},
              "shapes do not fit: cat joins [2, 3] and [2] along axis 1");
  check_error(OP_cat, "f32[2,3] f32[2,3]", 1, (Attr[]){attr_i(b, "dim", -1)},
              "shapes do not fit: cat works on axis -1, its input has 2");
  check_error(OP_embedding, "f32[2] f32[5,4]", 0, NULL,
              "dtypes do not fit: operand 1 of embedding has dtype f32, expected an integer");
}
END_TEST

/* Results that no memory holds are errors, not overflows. */
START_TEST(sizes_are_bounded) {
  check_error(OP_add, "f32[1,2000000,1] f32[2000,1,2000000]", 0, NULL,
              "result 1 of add is empty or too large");
  check_error(OP_expand, "f32[1]", 1,
              (Attr[]){attr_ints(b, "shape", 2, (int64_t[]){INT64_MAX / 2, INT64_MAX / 2})},
              "shapes do not fit: expand makes more than 8 dimensions, an empty or a too large "
              "tensor");
}
END_TEST

int main(void) {
  Suite *s = suite_create("shape");
  TCase *t = tcase_create("shape");
  tcase_set_timeout(t, 60);
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, elementwise);
  tcase_add_test(t, elementwise_errors);
  tcase_add_test(t, structure);
  tcase_add_test(t, products);
  tcase_add_test(t, misfits_name_where_operands_come_from);
  tcase_add_test(t, convolution);
  tcase_add_test(t, attention);
  tcase_add_test(t, norms_and_reductions);
  tcase_add_test(t, losses);
  tcase_add_test(t, precision);
  tcase_add_test(t, random_numbers);
  tcase_add_test(t, views);
  tcase_add_test(t, view_errors);
  tcase_add_test(t, sizes_are_bounded);
  suite_add_tcase(s, t);
  return check_run(s);
}
