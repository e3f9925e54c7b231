/* grad: every gradient of an MLP and of a small vision transformer against central differences in
 * 64-true; dtypes of gradients in mixed modes; slices give a cat. */
#include "passmodels.h"

static double loss_at(Eval *e, const Module *m) {
  const Func *f = module_func(m, "train_forward");
  ck_assert_int_eq(eval_run(e, f), MPCC_OK);
  return *eval_value(e, find_op(f, OP_cross_entropy, 0)->out[0]);
}

/* All elements of all parameters; h chosen for an error of about 1e-9 relative to the loss. */
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
      const double h = 1e-5, old = w[k];
      w[k] = old + h;
      double up = loss_at(e, m);
      w[k] = old - h;
      double down = loss_at(e, m);
      w[k] = old;
      double want = (up - down) / (2 * h);
      ck_assert_msg(fabs(got[k] - want) <= 1e-7 * (1 + fabs(want)), "%s[%lld]: %.12g, want %.12g",
                    t->name, (long long)k, got[k], want);
      checked++;
    }
    free(got);
  }
  ck_assert_int_gt(checked, 50);
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

int main(void) {
  Suite *suite = suite_create("grad");
  TCase *t = tcase_create("grad");
  tcase_set_timeout(t, 300);
  tcase_add_test(t, mlp_matches_finite_differences);
  tcase_add_test(t, vit_matches_finite_differences);
  suite_add_tcase(suite, t);
  SRunner *r = srunner_create(suite);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
