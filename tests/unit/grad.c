/* grad: every gradient of an MLP and of a small vision transformer against central differences in
 * 64-true; dtypes of gradients in mixed modes; slices give a cat. */
#include "passmodels.h"
#include "tests/check_run.h"

static double loss_at(Eval *e, const Module *m) {
  const Func *f = module_func(m, "train_forward");
  ck_assert_int_eq(eval_run(e, f), MPCC_OK);
  return *eval_value(e, find_op(f, OP_cross_entropy, 0)->out[0]);
}

/* Fourth order central difference: an error of h^4 in the fifth derivative. */
static double slope(Eval *e, const Module *m, double *w) {
  const double h = 3e-5, old = *w;
  double f[4];
  for (int i = 0; i < 4; i++) {
    *w = old + h * (i < 2 ? i - 2 : i - 1);
    f[i] = loss_at(e, m);
  }
  *w = old;
  return (8 * (f[2] - f[1]) - (f[3] - f[0])) / (12 * h);
}

/* All elements of all parameters. */
static void check_gradients(Module *m, int classes) {
  Eval *e;
  ck_assert_int_eq(eval_create(m, true, &e), MPCC_OK);
  feed(e, m, 0, classes);
  run(e, m, "init");
  loss_at(e, m);
  int checked = 0;
  for (int i = 0; i < m->ntensor; i++) {
    Tensor *t = m->tensor[i];
    if (t->role != ROLE_GRAD)
      continue;
    Tensor *p = attr_find(t->attr, t->nattr, "of")->u.tensor;
    int64_t n = type_elems(t->type);
    double *w = eval_tensor(e, p);
    double *got = malloc((size_t)n * sizeof *got);
    loss_at(e, m);
    memcpy(got, eval_tensor(e, t), (size_t)n * sizeof *got);
    for (int64_t k = 0; k < n; k++) {
      double want = slope(e, m, &w[k]);
      ck_assert_msg(fabs(got[k] - want) <= 1e-7 * (1 + fabs(want)), "%s[%lld]: %.12g, want %.12g",
                    t->name, (long long)k, got[k], want);
      checked++;
    }
    free(got);
  }
  ck_assert_int_gt(checked, 30);
  eval_destroy(e);
}

START_TEST(mlp_matches_finite_differences) {
  Session s = session_open();
  Setting set[] = {{"mode", "64-true", 0}};
  Module *m = mlp(&s, set, 1, 3, 5, 7, 4);
  apply_until(&s, &m, STAGE_TRAIN);
  check_gradients(m, 4);
  module_destroy(m);
  session_close(&s);
}
END_TEST

START_TEST(vit_matches_finite_differences) {
  Session s = session_open();
  Setting set[] = {{"mode", "64-true", 0}};
  Module *m = vit(&s, set, 1);
  apply_until(&s, &m, STAGE_TRAIN);
  check_gradients(m, VIT_CLASSES);
  module_destroy(m);
  session_close(&s);
}
END_TEST

/* ---- one op at a time ------------------------------------------------------------------------ */

typedef struct {
  OpCode code;
  int variant;
  bool positive; /* operands above 0.5: for functions of half a line */
  Tensor *w, *v, *bias;
} One;

/* [4, 6] from the image, through w; above 0.5 when the op asks for it. */
static Value *operand_from(Net *n, const One *t, Value *x, Tensor *w) {
  Value *y = linear(n, x, w, NULL);
  return t->positive ? build_expr(n->b, "a * a + 0.5", y->type->dt, 1, &y) : y;
}

static Value *with_matmul(Net *n, const One *t, Value *a, Value *b) {
  Builder *u = n->b;
  bool ta = t->variant & 1, tb = t->variant & 2; /* c = a^T b or a b^T, [6, 6] or [4, 4] */
  static const int64_t swap[2] = {1, 0};
  Attr attr[2] = {attr_b(u, "ta", ta), attr_b(u, "tb", tb)};
  if (ta == tb)
    b = build_permute(u, b, swap);
  Value *c = op_with(n, OP_matmul, a, b, NULL, 2, attr);
  return build_slice(u, build_slice(u, c, 0, 0, 4), 1, 0, 3);
}

static Value *with_attention(Net *n, const One *t, Value *a, Value *b) {
  Builder *u = n->b;
  bool dropout = t->variant & 1;
  Attr attr[5] = {attr_i(u, "heads", 2), attr_b(u, "causal", t->variant & 2),
                  attr_f(u, "scale", 0.7), attr_f(u, "dropout_p", dropout ? 0.4 : 0),
                  attr_i(u, "stream", 3)};
  const int64_t dim[3] = {1, 4, 6};
  Value *in[5] = {build_reshape(u, a, 3, dim), build_reshape(u, b, 3, dim), NULL, n->seed,
                  build_const(u, 2, MPCC_I64)};
  in[2] = build_expr(u, "a * b", a->type->dt, 2, in);
  Value *y = build_op(u, OP_attention, dropout ? 5 : 3, in, 5, attr)->out[0];
  return build_reshape(u, y, 2, dim + 1);
}

static Value *with_shapes(Net *n, const One *t, Value *a, Value *b) {
  Builder *u = n->b;
  Attr dims = attr_ints(u, "dims", 1, (const int64_t[]){t->variant & 1});
  Attr reduce[2] = {dims, attr_b(u, "keepdim", t->variant & 2)};
  Attr wide = attr_ints(u, "shape", 2, (const int64_t[]){4, 6}), dim = attr_i(u, "dim", 0);
  Attr hole[3] = {attr_i(u, "dim", 1), attr_i(u, "start", 2), attr_i(u, "size", 6)};
  Attr gaps[3] = {dim, attr_ints(u, "starts", 2, (const int64_t[]){0, 3}), attr_i(u, "size", 4)};
  Value *x;
  switch (t->code) {
  case OP_sum:
  case OP_mean:
    x = op_with(n, t->code, a, NULL, NULL, 2, reduce);
    if (!(t->variant & 2))
      x = build_reshape(u, x, 2, (const int64_t[]){t->variant & 1 ? 4 : 1, t->variant & 1 ? 1 : 6});
    return build2(u, OP_mul, b, x);
  case OP_expand:
    x = build_slice(u, a, 0, 1, 2);
    return build2(u, OP_mul, b, op_with(n, OP_expand, x, NULL, NULL, 1, &wide));
  case OP_slice: /* parts that overlap, and a part beside the whole */
    x = build2(u, OP_mul, build_slice(u, a, 1, 0, 4), build_slice(u, a, 1, 2, 6));
    return build2(u, OP_add, b,
                  build2(u, OP_mul, a, op_with(n, OP_unslice, x, NULL, NULL, 3, hole)));
  case OP_unslice:
    x = op_with(n, OP_unslice, build_slice(u, a, 1, 1, 4), NULL, NULL, 3, hole);
    return build2(u, OP_mul, b, x);
  case OP_embedding: { /* rows 0, 1, 2, 3 of b; with every id 1, one row four times */
    Attr count[2] = {attr_ints(u, "shape", 1, (const int64_t[]){4}), attr_i(u, "dim", 0)};
    x = build_op(u, OP_iota, 0, NULL, 2, count)->out[0];
    x = t->variant ? build_expr(u, "a * 0 + 1", MPCC_I64, 1, &x) : x;
    return build2(u, OP_mul, a, op_with(n, OP_embedding, x, b, NULL, 0, NULL));
  }
  case OP_softmax:
  case OP_log_softmax:
    return build2(u, OP_mul, b, build1(u, t->code, a));
  case OP_cat:
    if (t->variant)
      return build2(u, OP_mul, b,
                    op_with(n, OP_cat, build_slice(u, a, 0, 1, 3), build_slice(u, b, 0, 0, 1), NULL,
                            3, gaps));
    return op_with(n, OP_cat, build_slice(u, b, 0, 0, 3), build_slice(u, a, 0, 3, 4), NULL, 1,
                   &dim);
  case OP_bmm: { /* (a b^T) a of two pairs of rows */
    const int64_t pairs[3] = {2, 2, 6}, swap[3] = {0, 2, 1};
    x = build_reshape(u, a, 3, pairs);
    Value *c = build2(u, OP_bmm, x, build_permute(u, build_reshape(u, b, 3, pairs), swap));
    return build_reshape(u, build2(u, OP_bmm, c, x), 2, (const int64_t[]){4, 6});
  }
  case OP_row_mask:
    return build2(u, OP_mul, b, build2(u, OP_row_mask, a, build_const(u, 3, MPCC_I64)));
  default:
    return NULL;
  }
}

static Value *one_forward(Net *n, void *tensors, Value *x, bool train) {
  One *t = tensors;
  Builder *u = n->b;
  (void)train;
  layer(n, op_info(t->code)->name);
  Value *a = operand_from(n, t, x, t->w), *b = operand_from(n, t, x, t->v), *y;
  if (t->code == OP_matmul)
    y = with_matmul(n, t, a, b);
  else if (t->code == OP_attention)
    y = with_attention(n, t, a, b);
  else if (t->code == OP_expr)
    y = build_expr(u, "a * sigmoid(b) + (a < b ? a * a : exp(b))", a->type->dt, 2,
                   (Value *[]){a, b});
  else if (!op_is_scalar(t->code))
    y = with_shapes(n, t, a, b);
  else if (op_info(t->code)->nin == 1)
    y = build1(u, t->code, a);
  else if (op_info(t->code)->nin == 3)
    y = build_op(u, t->code, 3, (Value *[]){a, b, build_const(u, 0.7, a->type->dt)}, 0, NULL)
            ->out[0];
  else /* the second operand is broadcast */
    y = build2(u, t->code, a, t->variant ? build_slice(u, b, 0, 2, 3) : b);
  ck_assert(y != NULL);
  Value *bias = build_slice(u, build_read(u, t->bias), 0, 0, y->type->dim[1]);
  return build2(u, OP_add, y, bias);
}

static Module *one_model(Session *s, One *t) {
  Setting set[] = {{"mode", "64-true", 0}};
  Net n = net_begin(s, set, 1);
  int classes = t->code == OP_matmul ? 3 : 6;
  Io io = io_tensors(&n, type_of(&n, MPCC_F32, 2, 4, 5), 4, classes);
  t->w = param(&n, "w", type_of(&n, MPCC_F32, 2, 6, 5));
  t->v = param(&n, "v", type_of(&n, MPCC_F32, 2, 6, 5));
  t->bias = param(&n, "bias", type_of(&n, MPCC_F32, 1, 6));
  Tensor *all[3] = {t->w, t->v, t->bias};
  Module *m = net_finish(&n, &io, one_forward, t, all, 3, 0.9);
  apply_until(s, &m, STAGE_TRAIN);
  return m;
}

static bool finite_loss(Module *m, int classes) {
  Eval *e;
  ck_assert_int_eq(eval_create(m, true, &e), MPCC_OK);
  feed(e, m, 0, classes);
  run(e, m, "init");
  bool finite = isfinite(loss_at(e, m));
  eval_destroy(e);
  return finite;
}

/* Every elementwise row of the table, both operands where there are two, and the ops above. */
START_TEST(each_op_matches_finite_differences) {
  OpCode code = (OpCode)_i;
  int variants = code == OP_matmul || code == OP_attention || code == OP_sum || code == OP_mean ? 4
                 : code == OP_cat || op_info(code)->nin == 2                                    ? 2
                                                                                                : 1;
  bool alone = op_is_scalar(code) || variants > 1 || code == OP_expr || code == OP_expand ||
               code == OP_slice || code == OP_unslice || code == OP_softmax ||
               code == OP_log_softmax;
  if (!op_info(code)->has_grad || !alone || code == OP_qgrad || code == OP_quantize ||
      code == OP_detach)
    return; /* in the models above, or in fp8's test; detach gives none, whatever it does */
  for (int v = 0; v < variants; v++) {
    Session s = session_open();
    One t = {.code = code, .variant = v};
    Module *m = one_model(&s, &t);
    int classes = code == OP_matmul ? 3 : 6;
    if (!finite_loss(m, classes)) {
      module_destroy(m);
      t.positive = true;
      m = one_model(&s, &t);
    }
    check_gradients(m, classes);
    module_destroy(m);
    session_close(&s);
  }
}
END_TEST

int main(void) {
  Suite *suite = suite_create("grad");
  TCase *t = tcase_create("grad");
  tcase_set_timeout(t, 300);
  tcase_add_test(t, mlp_matches_finite_differences);
  tcase_add_test(t, vit_matches_finite_differences);
  tcase_add_loop_test(t, each_op_matches_finite_differences, 0, OP_COUNT);
  suite_add_tcase(suite, t);
  return check_run(suite);
}
