/* Builder: value numbering, folding, stickiness, attributes, copying of modules. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ir/ir.h"
#include "tests/check_run.h"

static Arena *arena;
static StrTable *strings;
static Diag *diag;
static Builder *b;

static void setup(void) {
  arena = arena_create();
  strings = str_table_create(arena);
  diag = diag_create(arena, strings);
  b = builder_create(strings, diag, STAGE_FORWARD);
}

static void teardown(void) {
  arena_destroy(arena);
}

static const Type *type2(Builder *to, DType dt, int64_t rows, int64_t cols) {
  return type_get(builder_types(to), dt, 2, (int64_t[]){rows, cols});
}

static Module *finish(void) {
  Module *m;
  const Status status = builder_finish(b, &m);
  ck_assert_msg(status == MPCC_OK, "%s", diag_first(diag) ? diag_first(diag)->text : "?");
  return m;
}

START_TEST(equal_ops_are_one) {
  Tensor *x = build_tensor(b, "x", type2(b, MPCC_F32, 2, 3), ROLE_INPUT, (Loc){0});
  Tensor *y = build_tensor(b, "y", type2(b, MPCC_F32, 2, 3), ROLE_INPUT, (Loc){0});
  build_func(b, "f");
  Value *vx = build_read(b, x), *vy = build_read(b, y);
  ck_assert_ptr_eq(build_read(b, x), vx);
  ck_assert_ptr_ne(vx, vy);
  Value *sum = build2(b, OP_add, vx, vy);
  ck_assert_ptr_eq(build2(b, OP_add, vx, vy), sum);
  ck_assert_ptr_ne(build2(b, OP_add, vy, vx), sum);
  ck_assert_ptr_ne(build2(b, OP_mul, vx, vy), sum);
  ck_assert_ptr_eq(build_const(b, 1, MPCC_F32), build_const(b, 1, MPCC_F32));
  ck_assert_ptr_ne(build_const(b, 0.0, MPCC_F32), build_const(b, -0.0, MPCC_F32));
  ck_assert_ptr_ne(build_const(b, 1, MPCC_F32), build_const(b, 1, MPCC_F16));
  /* expressions that differ in blanks only */
  ck_assert_ptr_eq(build_expr(b, "a*2", MPCC_F32, 1, &vx),
                   build_expr(b, " (a) * 2.0", MPCC_F32, 1, &vx));
  ck_assert_ptr_ne(build_expr(b, "a*2", MPCC_F32, 1, &vx), build_expr(b, "a*3", MPCC_F32, 1, &vx));
  /* attributes in any order */
  const Attr keep = attr_b(b, "keepdim", true), dims = attr_ints(b, "dims", 1, (int64_t[]){1}),
             other = attr_ints(b, "dims", 1, (int64_t[]){0});
  Op *s = build_op(b, OP_sum, 1, &vx, 2, (Attr[]){keep, dims});
  ck_assert_ptr_eq(build_op(b, OP_sum, 1, &vx, 2, (Attr[]){dims, keep}), s);
  ck_assert_ptr_ne(build_op(b, OP_sum, 1, &vx, 2, (Attr[]){other, keep}), s);
  /* a recomputed op is its own */
  const Attr again = attr_b(b, "recompute", true);
  Op *r = build_op(b, OP_add, 2, (Value *[]){vx, vy}, 1, &again);
  ck_assert_ptr_ne(r->out[0], sum);
  ck_assert_ptr_ne(build_op(b, OP_add, 2, (Value *[]){vx, vy}, 1, &again), r);
  /* another function numbers for itself */
  build_func(b, "g");
  ck_assert_ptr_ne(build_read(b, x), vx);
  build_func(b, "f");
  ck_assert_ptr_eq(build_read(b, x), vx);
  module_destroy(finish());
}
END_TEST

START_TEST(random_streams_stay_apart) {
  build_func(b, "f");
  const Type *i64 = type_get(builder_types(b), MPCC_I64, 0, NULL);
  Value *seed = build_read(b, build_tensor(b, "io.seed", i64, ROLE_SEED, (Loc){0}));
  Value *in[] = {seed, seed};
  const Attr shape = attr_ints(b, "shape", 1, (int64_t[]){4});
  Op *r[3];
  const int64_t stream[] = {1, 2, 1};
  for (int i = 0; i < 3; i++)
    r[i] = build_op(b, OP_random, 2, in, 2, (Attr[]){shape, attr_i(b, "stream", stream[i])});
  ck_assert_ptr_ne(r[0], r[1]);
  ck_assert_ptr_eq(r[0], r[2]);
  module_destroy(finish());
}
END_TEST

START_TEST(trivial_ops_fold) {
  Tensor *x = build_tensor(b, "x", type2(b, MPCC_F32, 6, 4), ROLE_INPUT, (Loc){0});
  build_func(b, "f");
  Value *v = build_read(b, x);
  const Attr to = attr_dt(b, "to", MPCC_F32);
  const Op *cast = build_op(b, OP_cast, 1, &v, 1, &to);
  ck_assert_ptr_eq(cast->out[0], v);
  ck_assert_int_eq(cast->nout, 1);
  ck_assert_ptr_eq(build_cast(b, v, MPCC_F32), v);
  ck_assert_ptr_ne(build_cast(b, v, MPCC_BF16), v);
  ck_assert_ptr_eq(build_reshape(b, v, 2, (int64_t[]){6, 4}), v);
  Value *flat = build_reshape(b, v, 1, (int64_t[]){24});
  ck_assert_ptr_ne(flat, v);
  ck_assert_ptr_eq(build_reshape(b, flat, 2, (int64_t[]){6, 4}), v);
  Value *cube = build_reshape(b, flat, 3, (int64_t[]){2, 3, 4});
  ck_assert_ptr_eq(cube->def->in[0], v);
  ck_assert_ptr_eq(build_permute(b, v, (int64_t[]){0, 1}), v);
  ck_assert_ptr_ne(build_permute(b, v, (int64_t[]){1, 0}), v);
  ck_assert_ptr_eq(build_slice(b, v, 0, 0, 6), v);
  ck_assert_ptr_ne(build_slice(b, v, 0, 0, 5), v);
  const Attr dim = attr_i(b, "dim", 0);
  ck_assert_ptr_eq(build_op(b, OP_cat, 1, &v, 1, &dim)->out[0], v);
  /* a square's transpose has its type, and is another value */
  Value *square = build_slice(b, v, 0, 0, 4);
  ck_assert_ptr_ne(build_permute(b, square, (int64_t[]){1, 0}), square);
  const int before = build_current(b)->nop;
  build_reshape(b, v, 2, (int64_t[]){6, 4});
  ck_assert_int_eq(build_current(b)->nop, before);
  module_destroy(finish());
}
END_TEST

START_TEST(exact_building_keeps_everything) {
  Tensor *x = build_tensor(b, "x", type2(b, MPCC_F32, 6, 4), ROLE_INPUT, (Loc){0});
  builder_exact(b);
  build_func(b, "f");
  Value *v = build_read(b, x), *w = build_read(b, x);
  ck_assert_ptr_ne(v, w);
  ck_assert_ptr_ne(build_reshape(b, v, 2, (int64_t[]){6, 4}), v);
  ck_assert_int_eq(build_current(b)->nop, 3);
  module_destroy(finish());
}
END_TEST

START_TEST(sums_to_a_shape) {
  static const struct {
    int rank;
    int64_t dim[3];
  } cases[] = {{3, {2, 3, 4}}, {3, {2, 1, 4}}, {2, {3, 4}}, {2, {1, 4}}, {1, {1}}, {0, {0}}};
  build_func(b, "f");
  const Type *full = type_get(builder_types(b), MPCC_F32, 3, (int64_t[]){2, 3, 4});
  Value *v = build_read(b, build_tensor(b, "x", full, ROLE_INPUT, (Loc){0}));
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    const Type *like = type_get(builder_types(b), MPCC_BF16, cases[i].rank, cases[i].dim);
    Value *s = build_sum_to(b, v, like);
    ck_assert(type_same_shape(s->type, like));
    ck_assert_int_eq(s->type->dt, MPCC_F32);
    ck_assert_int_eq(s == v, i == 0);
  }
  module_destroy(finish());
}
END_TEST

START_TEST(ops_know_where_they_come_from) {
  build_func(b, "f");
  build_at(b, (Loc){1, 2, 3, 4}, "layer.0", "because");
  Value *c = build_const(b, 2, MPCC_F32);
  ck_assert_str_eq(c->def->layer, "layer.0");
  ck_assert_str_eq(c->def->why, "because");
  ck_assert_uint_eq(c->def->loc.col, 3);
  build_at(b, (Loc){0}, NULL, NULL);
  Value *d = build1(b, OP_neg, c);
  ck_assert_str_eq(d->def->layer, "");
  build_like(b, c->def);
  Value *e = build1(b, OP_neg, d);
  ck_assert_str_eq(e->def->layer, "layer.0");
  ck_assert_ptr_null(e->def->why);
  ck_assert_int_eq(c->id, 0);
  ck_assert_int_eq(e->id, 2);
  ck_assert_int_eq(e->def->index, 2);
  ck_assert_ptr_nonnull(e->def->scalar);
  module_destroy(finish());
}
END_TEST

START_TEST(attributes) {
  build_module_attr(b, attr_s(b, "mode", "bf16-mixed"));
  build_module_attr(b, attr_i(b, "batch", 8));
  build_module_attr(b, attr_s(b, "mode", "32-true"));
  build_module_attr(b, attr_f(b, "clip_val", 0.5));
  Tensor *t = build_tensor(b, "w", type2(b, MPCC_F32, 2, 3), ROLE_PARAM, (Loc){0});
  static const char *const keys[] = {"std", "a", "z", "b", "y", "c", "x", "d", "w", "e"};
  for (int i = 0; i < 10; i++)
    build_tensor_attr(b, t, attr_i(b, keys[i], i));
  build_tensor_attr(b, t, attr_f(b, "std", 0.02));
  build_func(b, "f");
  const int64_t dims[] = {1};
  const Attr local[] = {attr_b(b, "keepdim", false), attr_ints(b, "dims", 1, dims)};
  Value *v = build_read(b, t);
  const Op *op = build_op(b, OP_sum, 1, &v, 2, local);
  Module *m = finish();
  ck_assert_int_eq(m->nattr, 3);
  ck_assert_str_eq(module_str(m, "mode", ""), "32-true");
  ck_assert_int_eq(module_int(m, "batch", 0), 8);
  ck_assert_int_eq(module_int(m, "absent", 7), 7);
  ck_assert_double_eq(module_float(m, "clip_val", 0), 0.5);
  ck_assert_double_eq(module_float(m, "batch", 0), 8);
  ck_assert_int_eq(t->nattr, 10);
  for (int i = 1; i < 10; i++)
    ck_assert_int_lt(strcmp(t->attr[i - 1].key, t->attr[i].key), 0);
  ck_assert_double_eq(tensor_float(t, "std", 0), 0.02);
  ck_assert_int_eq(tensor_int(t, "d", -1), 7);
  ck_assert_str_eq(tensor_str(t, "init", "none"), "none");
  ck_assert_str_eq(op->attr[0].key, "dims"); /* sorted, copied */
  ck_assert_ptr_ne(op->attr[0].u.ints.v, dims);
  ck_assert_int_eq(op_attr(op, "dims")->u.ints.v[0], 1);
  ck_assert_int_eq(op_int(op, "keepdim", 5), 0);
  ck_assert_ptr_null(op_attr(op, "absent"));
  ck_assert_double_eq(op_float(op, "absent", 1.5), 1.5);
  ck_assert_str_eq(op_str(op, "absent", "x"), "x");
  module_destroy(m);
}
END_TEST

START_TEST(uses_are_listed_by_position) {
  build_func(b, "f");
  Value *c = build_const(b, 2, MPCC_F32);
  Value *d = build2(b, OP_mul, c, c), *e = build2(b, OP_add, c, d);
  const Func *f = build_current(b);
  const Uses *u = func_uses(f, arena);
  ck_assert_int_eq(u[c->id].n, 3);
  ck_assert_ptr_eq(u[c->id].op[0], d->def);
  ck_assert_ptr_eq(u[c->id].op[1], d->def);
  ck_assert_ptr_eq(u[c->id].op[2], e->def);
  ck_assert_int_eq(u[d->id].n, 1);
  ck_assert_int_eq(u[e->id].n, 0);
  module_destroy(finish());
}
END_TEST

START_TEST(errors_are_sticky) {
  Tensor *x = build_tensor(b, "x", type2(b, MPCC_F32, 6, 4), ROLE_INPUT, (Loc){0});
  build_func(b, "f");
  Value *v = build_read(b, x);
  Value *bad = build_reshape(b, v, 1, (int64_t[]){7});
  ck_assert(builder_failed(b));
  ck_assert_ptr_nonnull(bad->type);
  const int nop = build_current(b)->nop;
  Value *more = build2(b, OP_add, bad, v);
  more = build_cast(b, more, MPCC_F16);
  more = build_expr(b, "a +", MPCC_F32, 1, &more);
  more = build_sum_to(b, more, x->type);
  build_write(b, x, more);
  build_func(b, "g");
  build_read(b, x);
  ck_assert_int_eq(diag_errors(diag), 1);
  ck_assert_int_eq(build_current(b)->nop, nop);
  Module *m = (Module *)1;
  ck_assert_int_eq(builder_finish(b, &m), MPCC_ERR_INPUT);
  ck_assert_ptr_null(m);
}
END_TEST

START_TEST(tensors_are_checked) {
  build_tensor(b, "empty", type2(b, MPCC_F32, 0, 4), ROLE_INPUT, (Loc){0});
  ck_assert(builder_failed(b));
  ck_assert_str_eq(diag_first(diag)->text, "tensor 'empty' is empty or too large");
  builder_destroy(b);
}
END_TEST

START_TEST(views_of_views_are_views_of_the_base) {
  const Type *t8 = type_get(builder_types(b), MPCC_F32, 1, (int64_t[]){8}),
             *t4 = type_get(builder_types(b), MPCC_F32, 1, (int64_t[]){4});
  Tensor *base = build_tensor(b, "flat", t8, ROLE_PARAM, (Loc){0});
  Tensor *half = build_tensor_view(b, "half", t4, ROLE_PARAM, base, 4, (Loc){0});
  Tensor *part =
      build_tensor_view(b, "part", type_get(builder_types(b), MPCC_F32, 1, (int64_t[]){2}),
                        ROLE_PARAM, half, 1, (Loc){0});
  ck_assert_ptr_eq(part->base, base);
  ck_assert_int_eq(part->base_elem, 5);
  ck_assert_ptr_eq(module_tensor(builder_module(b), "half"), half);
  ck_assert_ptr_null(module_tensor(builder_module(b), "absent"));
  builder_destroy(b);
}
END_TEST

/* A module with every kind of attribute, a view before its base's other views, and a group. */
static Module *sample(void) {
  build_module_attr(b, attr_s(b, "name", "sample"));
  Tensor *flat = build_tensor(b, "flat", type_get(builder_types(b), MPCC_F32, 1, (int64_t[]){24}),
                              ROLE_PARAM, (Loc){0});
  Tensor *x =
      build_tensor_view(b, "x", type2(b, MPCC_F32, 6, 4), ROLE_PARAM, flat, 0, (Loc){1, 2, 3, 4});
  build_tensor_attr(b, x, attr_s(b, "init", "normal"));
  build_tensor_attr(b, x, attr_f(b, "std", 0.02));
  Tensor *y = build_tensor(b, "y", type2(b, MPCC_BF16, 4, 6), ROLE_OUTPUT, (Loc){0});
  build_func(b, "f");
  build_at(b, (Loc){1, 5, 6, 7}, "fc", "why");
  Value *v = build_read(b, x);
  v = build_expr(b, "gelu(a) * 2", MPCC_F32, 1, &v);
  v = build_permute(b, v, (int64_t[]){1, 0});
  build_write(b, y, build_cast(b, v, MPCC_BF16));
  build_func(b, "g");
  const Attr shape = attr_ints(b, "shape", 2, (int64_t[]){4, 6});
  Value *three = build_const(b, 3, MPCC_BF16);
  build_write(b, y, build_op(b, OP_expand, 1, &three, 1, &shape)->out[0]);
  return finish();
}

static char *text_of(const Module *m) {
  Text t = {0};
  module_print(m, diag, &t);
  return t.data;
}

START_TEST(copies_print_the_same) {
  Module *m = sample();
  b = builder_create(strings, diag, m->stage);
  Copier c;
  copier_init(&c, b, m);
  for (int i = 0; i < m->nfunc; i++) {
    copier_func(&c, m->func[i], m->func[i]->name);
    for (int k = 0; k < m->func[i]->nop; k++)
      copier_op(&c, m->func[i]->op[k]);
  }
  Module *copy = finish();
  char *first = text_of(m), *second = text_of(copy);
  ck_assert_str_eq(first, second);
  /* nothing is shared but strings: the old one may go */
  for (int i = 0; i < copy->ntensor; i++)
    ck_assert_ptr_ne(copy->tensor[i]->type, m->tensor[i]->type);
  module_destroy(m);
  char *third = text_of(copy);
  ck_assert_str_eq(first, third);
  free(first);
  free(second);
  free(third);
  module_destroy(copy);
}
END_TEST

/* A group with a body: copied deeply, its storage independent of the caller's. */
START_TEST(groups_copy_their_bodies) {
  Module *m;
  {
    Tensor *x = build_tensor(b, "x", type2(b, MPCC_F32, 6, 4), ROLE_INPUT, (Loc){0});
    build_func(b, "f");
    Value *v = build_read(b, x);
    Access in = {.stride = {4, 1}}, out = {.stride = {4, 1}};
    Stmt stmt[] = {{.prim = PR_LOAD, .level = LV_ELEM, .dt = MPCC_F32, .arg = {-1, -1, -1, -1}},
                   {.prim = PR_NEG, .level = LV_ELEM, .dt = MPCC_F32, .arg = {0, -1, -1, -1}},
                   {.prim = PR_STORE, .level = LV_ELEM, .dt = MPCC_F32, .arg = {1, -1, -1, -1}}};
    const Body body = {.ndim = 2,
                       .ncol = 1,
                       .dim = {6, 4},
                       .panel_rows = 2,
                       .nin = 1,
                       .nout = 1,
                       .in = &in,
                       .out = &out,
                       .nstmt = 3,
                       .stmt = stmt};
    const Attr kind = attr_s(b, "kind", "rows");
    const Type *ty = v->type;
    Op *g = build_op_typed(b, OP_group, 1, &v, 1, &kind, 1, &ty, &body);
    ck_assert(!builder_failed(b));
    ck_assert_ptr_ne(g->body->stmt, stmt);
    memset(stmt, 0, sizeof stmt);
    ck_assert_int_eq(g->body->stmt[1].prim, PR_NEG);
    ck_assert_ptr_ne(build_op_typed(b, OP_group, 1, &v, 1, &kind, 1, &ty, g->body), g);
    m = builder_module(b);
  }
  Builder *first = b;
  b = builder_create(strings, diag, STAGE_KERNELS);
  Copier c;
  copier_init(&c, b, m);
  copier_func(&c, m->func[0], "f");
  for (int k = 0; k < m->func[0]->nop; k++)
    copier_op(&c, m->func[0]->op[k]);
  ck_assert(!builder_failed(b));
  const Op *copy = build_current(b)->op[1];
  builder_destroy(first);
  ck_assert_int_eq(copy->body->nstmt, 3);
  ck_assert_int_eq(copy->body->in[0].stride[0], 4);
  builder_destroy(b);
}
END_TEST

/* Every allocation fails once: no crash, no leak, the right status, no message. */
START_TEST(survives_failed_allocations) {
  builder_destroy(b);
  for (long n = 1;; n++) {
    Arena *a = arena_create();
    strings = str_table_create(a);
    diag = diag_create(a, strings);
    arena_fail_after(n);
    Status status = MPCC_ERR_NOMEM;
    Module *m = NULL;
    b = builder_create(strings, diag, STAGE_FORWARD);
    if (b) {
      const Type *ty = type2(b, MPCC_F32, 6, 4);
      Tensor *x = build_tensor(b, "x", ty, ROLE_INPUT, (Loc){0});
      build_tensor_attr(b, x, attr_s(b, "field", "x"));
      build_module_attr(b, attr_i(b, "batch", 6));
      for (int f = 0; f < 2; f++) {
        build_func(b, f ? "g" : "f");
        build_at(b, (Loc){0}, "layer", "why");
        Value *v = build_read(b, x);
        for (int i = 0; i < 40; i++)
          v = build_expr(b, i % 2 ? "a * 2" : "silu(a) + b", MPCC_F32, i % 2 ? 1 : 2,
                         (Value *[]){v, v});
        v = build_sum_to(b, v, type_get(builder_types(b), MPCC_F32, 0, NULL));
      }
      Builder *source = b;
      Builder *to = builder_create(strings, diag, STAGE_FORWARD);
      if (to && !builder_failed(source)) {
        const Module *from = builder_module(source);
        Copier c;
        copier_init(&c, to, from);
        for (int i = 0; i < from->nfunc; i++) {
          copier_func(&c, from->func[i], from->func[i]->name);
          for (int k = 0; k < from->func[i]->nop; k++)
            copier_op(&c, from->func[i]->op[k]);
        }
        status = builder_finish(to, &m);
      } else {
        builder_destroy(to);
      }
      builder_destroy(source);
    }
    arena_fail_after(0);
    ck_assert_msg(status == MPCC_OK || status == MPCC_ERR_NOMEM, "allocation %ld: status %d", n,
                  (int)status);
    ck_assert_msg(diag_errors(diag) == 0, "allocation %ld: %s", n,
                  diag_first(diag) ? diag_first(diag)->text : "");
    ck_assert_int_eq(status == MPCC_OK, m != NULL);
    module_destroy(m);
    arena_destroy(a);
    if (status == MPCC_OK) {
      ck_assert_int_gt(n, 500);
      return;
    }
  }
}
END_TEST

int main(void) {
  Suite *s = suite_create("build");
  TCase *t = tcase_create("build");
  tcase_set_timeout(t, 60);
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, equal_ops_are_one);
  tcase_add_test(t, random_streams_stay_apart);
  tcase_add_test(t, trivial_ops_fold);
  tcase_add_test(t, exact_building_keeps_everything);
  tcase_add_test(t, sums_to_a_shape);
  tcase_add_test(t, ops_know_where_they_come_from);
  tcase_add_test(t, attributes);
  tcase_add_test(t, uses_are_listed_by_position);
  tcase_add_test(t, errors_are_sticky);
  tcase_add_test(t, tensors_are_checked);
  tcase_add_test(t, views_of_views_are_views_of_the_base);
  tcase_add_test(t, copies_print_the_same);
  tcase_add_test(t, groups_copy_their_bodies);
  tcase_add_test(t, survives_failed_allocations);
  suite_add_tcase(s, t);
  return check_run(s);
}
