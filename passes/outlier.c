/* trainer.skip_outliers: a step whose loss or gradient norm lies far above what they were lately is
 * not applied, like one that is not finite. All in FP64, on scalars of the state. Rule N11.
 *
 * Mean m and variance v are running: with n values seen, w = max(1 / (n + 1), 1 / WINDOW), and
 *
 *   d = x' - m;   m <- m + w d;   v <- (1 - w) (v + w d^2)
 *
 * which is the exact mean and variance of the first WINDOW values and forgets exponentially from then
 * on (West 1979, updating mean and variance with weights). Nothing is judged before WINDOW values are
 * seen; then x is an outlier when x - m > z sqrt(v). So that one outlier does not blind the next
 * judgements, yet a lasting new level is accepted soon, x' = min(x, m + z sqrt(v)) enters the sums. */
#include "passes/step.h"

enum { WINDOW = 128 };

typedef struct {
  const char *name, *limit; /* of the tensors; module attribute */
} Watched;
static const Watched watched[] = {{"loss", "skip_loss_zscore"},
                                  {"grad_norm", "skip_grad_norm_zscore"}};
enum { NWATCHED = sizeof watched / sizeof *watched };

static Tensor *statistic(Step *s, const char *name, const char *what, DType dt) {
  Str full = str_fmt(builder_strings(s->b), *what ? "outlier.%s.%s" : "outlier.%s", name, what);
  return build_tensor(s->b, full, type_get(builder_types(s->b), dt, 0, NULL), ROLE_STATISTIC,
                      (Loc){0});
}

void outlier_declare(Step *s) {
  for (int i = 0; i < NWATCHED; i++) {
    s->zscore[i] = module_number(s->in, watched[i].limit, 0);
    if (s->zscore[i] <= 0)
      continue;
    if (!s->outlier_count)
      s->outlier_count = statistic(s, "count", "", MPCC_I64);
    s->outlier_mean[i] = statistic(s, watched[i].name, "mean", MPCC_F64);
    s->outlier_var[i] = statistic(s, watched[i].name, "var", MPCC_F64);
  }
}

/* 1 when x is an outlier; its statistics take x in unless the step is not finite. */
static Value *judge(Step *s, int i, Value *x, Value *n, Value *finite) {
  Builder *b = s->b;
  StrTable *st = builder_strings(b);
  Value *mean = build_read(b, s->outlier_mean[i]), *var = build_read(b, s->outlier_var[i]);
  Value *in[5] = {mean, var, n, x, finite};
  Str text = str_fmt(st, "c >= %d && b > 0 ? a + %.17g * sqrt(b) : d", WINDOW,
                     s->zscore[i]); /* the largest that is accepted */
  Value *most = build_expr(b, text, MPCC_F64, 4, in);
  Value *both[2] = {x, most};
  Value *is = build_expr(b, "a > b ? 1 : 0", MPCC_F64, 2, both);
  Value *entry[3] = {build_expr(b, "min(a, b)", MPCC_F64, 2, both), mean, n};
  Value *d = build_expr(b, "a - b", MPCC_F64, 2, entry);
  Value *w = build_expr(b, str_fmt(st, "max(1 / (a + 1), %.17g)", 1.0 / WINDOW), MPCC_F64, 1, &n);
  Value *next[4] = {mean, d, w, finite};
  build_write(b, s->outlier_mean[i], build_expr(b, "d != 0 ? a + c * b : a", MPCC_F64, 4, next));
  next[0] = var;
  Value *spread = build_expr(b, "d != 0 ? (1 - c) * (a + c * (b * b)) : a", MPCC_F64, 4, next);
  build_write(b, s->outlier_var[i], spread);
  return is;
}

Value *outlier_accept(Step *s, const Clip *c, Value *loss_sum, Value *weight_sum) {
  Builder *b = s->b;
  if (!s->outlier_count)
    return c->finite;
  step_at(s, "outliers: loss and gradient norm beside what they were lately");
  Value *n = build_cast(b, build_read(b, s->outlier_count), MPCC_F64);
  Value *finite = build_cast(b, c->finite, MPCC_F64), *ok = finite;
  Value *sums[2] = {build_cast(b, loss_sum, MPCC_F64), build_cast(b, weight_sum, MPCC_F64)};
  for (int i = 0; i < NWATCHED; i++) {
    if (s->zscore[i] <= 0)
      continue;
    Value *x = i ? build_cast(b, c->norm, MPCC_F64) : build_expr(b, "a / b", MPCC_F64, 2, sums);
    Value *in[2] = {ok, judge(s, i, x, n, finite)};
    ok = build_expr(b, "a != 0 && b == 0 ? 1 : 0", MPCC_F64, 2, in);
  }
  Value *count[2] = {n, finite};
  build_write(b, s->outlier_count,
              build_cast(b, build_expr(b, "a + b", MPCC_F64, 2, count), MPCC_I64));
  return build_cast(b, ok, s->mode.math);
}
