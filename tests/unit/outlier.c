/* skip_outliers beside plain arithmetic: which steps are applied, and what the statistics become.
 */
#include <math.h>

#include "passmodels.h"
#include "tests/check_run.h"

/* Loss and gradient are inputs; lr is 1, so a step that is applied moves w by its gradient. */
static Module *model(Session *s, const char *attrs) {
  static const char body[] = "attr optimizer=\"SGD\"\nattr group.0.lr=1.0\n"
                             "tensor @w : f64[1] role=param {group=0}\n"
                             "tensor @io.g : f64[1] role=input\n"
                             "tensor @io.l : f64[] role=input\n"
                             "tensor @grad.w : f64[1] role=grad {of=@w}\n"
                             "tensor @metric.loss_sum : f64[] role=metric\n"
                             "tensor @metric.weight_sum : f64[] role=metric\n"
                             "func @train_forward {\n"
                             "  %0:f64[1] = read {tensor=@io.g}\n"
                             "  %1:f64[] = loss_seed {capacity=1, dtype=f64}\n"
                             "  %2:f64[1] = mul %0, %1\n"
                             "  %3:f64[] = read {tensor=@io.l}\n"
                             "  write %2 {tensor=@grad.w}\n"
                             "  write %3 {tensor=@metric.loss_sum}\n"
                             "  write %1 {tensor=@metric.weight_sum}\n"
                             "}\n"
                             "func @init {\n"
                             "  %0:f64[] = const {dtype=f64, value=0.0}\n"
                             "  %1:f64[1] = expand %0 {shape=[1]}\n"
                             "  write %1 {tensor=@w}\n"
                             "}\n";
  Text t = {0};
  text_printf(&t, "mpir 1 stage=train\nattr mode=\"64-true\"\n%s%s", attrs, body);
  Module *m = step_module(s, &t);
  text_fini(&t);
  return m;
}

/* The rule as its comment in passes/outlier.c says it. */
typedef struct {
  int64_t n;
  double mean, var;
} Stat;

static bool judge(Stat *s, double x, double z) {
  bool judged = s->n >= 128 && s->var > 0;
  double most = judged ? s->mean + z * sqrt(s->var) : x,
         w = fmax(1.0 / (double)(s->n + 1), 1.0 / 128);
  double d = fmin(x, most) - s->mean;
  s->mean += w * d;
  s->var = (1 - w) * (s->var + w * d * d);
  s->n++;
  return x > most;
}

/* Noise around 2, a spike at 150 and 160, a NaN at 170, from 250 on a new level. */
static double loss_at(int t) {
  if (t == 170)
    return NAN;
  return t == 150 || t == 160 ? 9 : (t >= 250 ? 6 : 2) + 0.1 * sin(37.0 * t);
}

static double slope_at(int t) {
  return t == 180 ? 50 : 1 + 0.25 * sin(17.0 * t);
}

START_TEST(outliers_are_not_applied) {
  const bool of_loss = _i & 1, of_norm = _i & 2;
  char attrs[200];
  snprintf(attrs, sizeof attrs, "%s%s", of_loss ? "attr skip_loss_zscore=6.0\n" : "",
           of_norm ? "attr skip_grad_norm_zscore=6.0\n" : "");
  Session s = session_open();
  Module *m = model(&s, attrs);
  Eval *e;
  Stat loss = {0}, norm = {0};
  int skipped = 0, after_shift = 0;
  ck_assert_int_eq(eval_create(m, false, &e), MPCC_OK);
  run(e, m, "init");
  const Tensor *table = module_tensor(m, "io.table");
  for (int t = 0; t < 400; t++) {
    for (int64_t i = 0; i < type_elems(table->type); i++)
      eval_tensor(e, table)[i] = 1;
    *data_of(e, m, "io.l") = loss_at(t);
    *data_of(e, m, "io.g") = slope_at(t);
    double before = *data_of(e, m, "w");
    run(e, m, "train_step");
    bool finite = isfinite(loss_at(t)), skip = !finite;
    if (finite && of_loss)
      skip |= judge(&loss, loss_at(t), 6);
    if (finite && of_norm)
      skip |= judge(&norm, fabs(slope_at(t)), 6);
    skipped += skip;
    after_shift += skip && t >= 250;
    ck_assert_msg((*data_of(e, m, "w") == before) == skip, "step %d", t);
    ck_assert_double_eq(*data_of(e, m, "count.skipped"), skipped);
    ck_assert_double_eq(*data_of(e, m, "metric.finite"), finite);
    if (of_loss)
      ck_assert(fabs(*data_of(e, m, "outlier.loss.var") - loss.var) <= 1e-12 * (1 + loss.var));
    if (of_norm)
      ck_assert(fabs(*data_of(e, m, "outlier.grad_norm.mean") - norm.mean) <= 1e-12 * norm.mean);
    if (of_loss && (t == 150 || t == 160))
      ck_assert(skip);
    if (of_norm && t == 180)
      ck_assert(skip);
  }
  ck_assert_int_eq(skipped - after_shift, 1 + 2 * of_loss + of_norm);
  ck_assert(!of_loss || (after_shift > 0 && after_shift < 60)); /* a new level is accepted */
  ck_assert(module_tensor(m, "outlier.count") || !_i);
  eval_destroy(e);
  module_destroy(m);
  session_close(&s);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("outlier");
  TCase *t = tcase_create("outlier");
  tcase_add_loop_test(t, outliers_are_not_applied, 0, 4);
  suite_add_tcase(suite, t);
  return check_run(suite);
}
