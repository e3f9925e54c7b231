/* The step table: learning rates and bias corrections as functions of the steps really taken.
 * Closed forms of torch.optim.lr_scheduler (PyTorch 2.x, get_lr and _get_closed_form_lr): each is a
 * factor, or a rate between eta_min and the base rate, at t = steps (or epochs) since it began. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/fit.h"

/* Rate at t; total: where `auto` lengths end, in the scheduler's own unit. */
typedef double RateFn(const json_t *s, double base, int64_t t, int64_t total);

static double constant_lr(const json_t *s, double base, int64_t t, int64_t total) {
  (void)total;
  return t < mprt__json_int(s, "total_iters", 5) ? base * mprt__json_double(s, "factor", 1.0 / 3)
                                                 : base;
}

static double linear_lr(const json_t *s, double base, int64_t t, int64_t total) {
  (void)total;
  double start = mprt__json_double(s, "start_factor", 1.0 / 3);
  double end = mprt__json_double(s, "end_factor", 1.0);
  int64_t n = mprt__json_int(s, "total_iters", 5);
  double x = t >= n || n <= 0 ? 1.0 : (double)t / (double)n;
  return base * (start + (end - start) * x);
}

static double step_lr(const json_t *s, double base, int64_t t, int64_t total) {
  (void)total;
  int64_t n = mprt__json_int(s, "step_size", 1);
  return base * pow(mprt__json_double(s, "gamma", 0.1), (double)(t / (n > 0 ? n : 1)));
}

static double multi_step_lr(const json_t *s, double base, int64_t t, int64_t total) {
  (void)total;
  const json_t *marks = json_object_get(s, "milestones");
  int passed = 0;
  for (size_t i = 0; i < json_array_size(marks); i++)
    passed += json_integer_value(json_array_get(marks, i)) <= t;
  return base * pow(mprt__json_double(s, "gamma", 0.1), passed);
}

static double exponential_lr(const json_t *s, double base, int64_t t, int64_t total) {
  (void)total;
  return base * pow(mprt__json_double(s, "gamma", 1.0), (double)t);
}

static double polynomial_lr(const json_t *s, double base, int64_t t, int64_t total) {
  int64_t n = mprt__json_int(s, "total_iters", total); /* the word auto is no number */
  double left = t >= n ? 0 : 1 - (double)t / (double)n;
  return base * pow(left, mprt__json_double(s, "power", 1.0));
}

/* Beyond T_max the rate stays at eta_min: `auto` schedules end with the spec's own end. */
static double cosine_lr(const json_t *s, double base, int64_t t, int64_t total) {
  int64_t n = mprt__json_int(s, "T_max", total);
  double min = mprt__json_double(s, "eta_min", 0.0);
  if (t >= n && !json_is_integer(json_object_get(s, "T_max")))
    return min;
  return min + (base - min) * (1 + cos(M_PI * (double)t / (double)(n > 0 ? n : 1))) / 2;
}

/* Periods of T_0, T_0 T_mult, T_0 T_mult^2 ... */
static double restarts_lr(const json_t *s, double base, int64_t t, int64_t total) {
  (void)total;
  int64_t n = mprt__json_int(s, "T_0", 1), times = mprt__json_int(s, "T_mult", 1);
  double min = mprt__json_double(s, "eta_min", 0.0);
  n = n > 0 ? n : 1;
  if (times <= 1)
    t %= n;
  for (; times > 1 && t >= n; n *= times)
    t -= n;
  return min + (base - min) * (1 + cos(M_PI * (double)t / (double)n)) / 2;
}

static double anneal(const json_t *s, double from, double to, double x) {
  if (!strcmp(mprt__json_string(s, "anneal_strategy", "cos"), "linear"))
    return from + (to - from) * x;
  return to + (from - to) / 2 * (1 + cos(M_PI * x));
}

/* Up to max_lr, down again, far down (Smith and Topin 2018); the base rate plays no part. */
static double one_cycle_lr(const json_t *s, double base, int64_t t, int64_t total) {
  (void)base;
  double top = mprt__json_double(s, "max_lr", 1), share = mprt__json_double(s, "pct_start", 0.3);
  double low = top / mprt__json_double(s, "div_factor", 25);
  double last = low / mprt__json_double(s, "final_div_factor", 1e4);
  double n = (double)mprt__json_int(s, "total_steps", total);
  bool three = mprt__json_bool(s, "three_phase", false);
  const double end[3] = {share * n - 1, three ? 2 * share * n - 2 : n - 1, n - 1};
  const double rate[4] = {low, top, three ? low : last, last};
  double begin = 0;
  for (int k = 0, phases = three ? 3 : 2; k < phases; k++) {
    if ((double)t <= end[k])
      return anneal(s, rate[k], rate[k + 1], ((double)t - begin) / (end[k] - begin));
    begin = end[k];
  }
  return last;
}

/* Warmup, stable, decay (Hu et al. 2024): up linearly, the base rate, down to min_lr_ratio of it.
 */
static double wsd_lr(const json_t *s, double base, int64_t t, int64_t total) {
  int64_t warm = mprt__json_int(s, "num_warmup_steps", 0);
  int64_t decay = mprt__json_int(s, "num_decay_steps", 1);
  int64_t stable = mprt__json_int(s, "num_stable_steps", total - warm - decay);
  double x = 1, low = mprt__json_double(s, "min_lr_ratio", 0);
  if (t < warm) {
    x = (double)t / (double)warm;
  } else if (t >= warm + stable) {
    double p = fmin((double)(t - warm - stable) / (double)decay, 1);
    const char *type = mprt__json_string(s, "decay_type", "cosine");
    x = !strcmp(type, "linear")   ? 1 - p
        : !strcmp(type, "1-sqrt") ? 1 - sqrt(p)
                                  : 0.5 * (1 + cos(M_PI * p));
  } else {
    return base;
  }
  return base * (x * (1 - low) + low);
}

static double rate_at(const json_t *s, double base, int64_t t, int64_t total);

/* The scheduler whose milestone was passed last, with its own time. */
static double sequential_lr(const json_t *s, double base, int64_t t, int64_t total) {
  const json_t *list = json_object_get(s, "schedulers"), *marks = json_object_get(s, "milestones");
  size_t k = 0;
  int64_t begin = 0, end = total;
  while (k < json_array_size(marks) && t >= json_integer_value(json_array_get(marks, k)))
    begin = json_integer_value(json_array_get(marks, k++));
  if (k < json_array_size(marks))
    end = json_integer_value(json_array_get(marks, k));
  return rate_at(json_array_get(list, k), base, t - begin, end - begin);
}

static double rate_at(const json_t *s, double base, int64_t t, int64_t total) {
  static const struct {
    const char *type;
    RateFn *rate;
  } rows[] = {
      {"ConstantLR", constant_lr},
      {"LinearLR", linear_lr},
      {"StepLR", step_lr},
      {"MultiStepLR", multi_step_lr},
      {"ExponentialLR", exponential_lr},
      {"PolynomialLR", polynomial_lr},
      {"CosineAnnealingLR", cosine_lr},
      {"CosineAnnealingWarmRestarts", restarts_lr},
      {"OneCycleLR", one_cycle_lr},
      {"WSD", wsd_lr},
      {"SequentialLR", sequential_lr},
  };
  const char *type = mprt__json_string(s, "type", "");
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    if (!strcmp(type, rows[i].type))
      return rows[i].rate(s, base, t, total);
  return base;
}

double mprt__schedule_lr(const mprt_program *p, int group, int64_t taken, int64_t total_steps,
                         int64_t steps_per_epoch) {
  char key[40];
  snprintf(key, sizeof key, "group.%d.lr", group);
  const json_t *attrs = json_object_get(p->meta, "attrs");
  double base = json_number_value(json_object_get(attrs, key));
  const json_t *s = mprt__json_get(p->spec, "scheduler");
  if (!json_is_object(s))
    return base;
  if (mprt__plateau(p))
    return mprt__plateau_lr(p, base);
  bool by_epoch = !strcmp(mprt__json_string(s, "interval", "step"), "epoch");
  if (by_epoch && steps_per_epoch > 0)
    return rate_at(s, base, taken / steps_per_epoch,
                   (total_steps + steps_per_epoch - 1) / steps_per_epoch);
  return rate_at(s, base, taken, total_steps);
}

/* 1 - beta1^t and sqrt(1 - beta2^t) for the step that comes after `taken` (Kingma and Ba 2015,
 * Algorithm 1; torch.optim.AdamW). */
static double column_value(const mprt_program *p, const char *column, int64_t taken,
                           int64_t total_steps, int64_t steps_per_epoch) {
  const char *dot = strchr(column, '.');
  int group = dot ? atoi(dot + 1) : 0;
  if (!strncmp(column, "lr.", 3))
    return mprt__schedule_lr(p, group, taken, total_steps, steps_per_epoch);
  char key[40];
  snprintf(key, sizeof key, "group.%d.beta%c", group, column[2]);
  double beta = json_number_value(json_object_get(json_object_get(p->meta, "attrs"), key));
  double correction = 1 - pow(beta, (double)(taken + 1));
  return column[2] == '1' ? correction : sqrt(correction);
}

void mprt__schedule_fill(mprt_program *p, int64_t taken, int64_t total_steps,
                         int64_t steps_per_epoch) {
  int64_t i = mprt__tensor_of_role(p, ROLE_TABLE);
  if (i < 0)
    return;
  const MpccTensor *t = &p->tensor[i];
  const uint64_t row_bytes = (uint64_t)t->dim[1] * sizeof(double);
  double *row = mprt__tensor_part(p, i, (uint64_t)(taken % t->dim[0]) * row_bytes, row_bytes);
  const char *column = mprt__attr_string(p, i, "columns");
  for (int64_t c = 0; c < t->dim[1] && column && *column; c++) {
    row[c] = column_value(p, column, taken, total_steps, steps_per_epoch);
    column += strcspn(column, " ");
    column += strspn(column, " ");
  }
}
