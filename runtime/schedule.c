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

/* At step t of a cycle (Smith and Topin 2018) whose phases begin at value[0], [1] ... and end at the
 * next one. */
static double cycle(const json_t *s, int64_t t, int64_t total, const double value[4]) {
  double n = (double)mprt__json_int(s, "total_steps", total);
  double share = mprt__json_double(s, "pct_start", 0.3);
  bool three = mprt__json_bool(s, "three_phase", false);
  const double end[3] = {share * n - 1, three ? 2 * share * n - 2 : n - 1, n - 1};
  int phases = three ? 3 : 2;
  double begin = 0;
  for (int k = 0; k < phases; k++) {
    if ((double)t <= end[k])
      return anneal(s, value[k], value[k + 1], ((double)t - begin) / (end[k] - begin));
    begin = end[k];
  }
  return value[phases];
}

/* Up to max_lr, down again, far down; the base rate plays no part. */
static double one_cycle_lr(const json_t *s, double base, int64_t t, int64_t total) {
  (void)base;
  double top = mprt__json_double(s, "max_lr", 1), low = top / mprt__json_double(s, "div_factor", 25);
  double last = low / mprt__json_double(s, "final_div_factor", 1e4);
  bool three = mprt__json_bool(s, "three_phase", false);
  return cycle(s, t, total, (double[]){low, top, three ? low : last, last});
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

/* Where the k-th scheduler of a chain begins; total: where the last one ends. */
static int64_t mark(const json_t *s, size_t k, int64_t total) {
  const json_t *marks = json_object_get(s, "milestones");
  return k == 0                        ? 0
         : k > json_array_size(marks) ? total
                                       : json_integer_value(json_array_get(marks, k - 1));
}

/* The scheduler whose milestone was passed last, with its own time. */
static double sequential_lr(const json_t *s, double base, int64_t t, int64_t total) {
  const json_t *list = json_object_get(s, "schedulers");
  size_t k = 0;
  while (k + 1 < json_array_size(list) && t >= mark(s, k + 1, total))
    k++;
  int64_t begin = mark(s, k, total);
  return rate_at(json_array_get(list, k), base, t - begin, mark(s, k + 1, total) - begin);
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

/* The momentum against the rate: high while that is low. A cycle in a chain holds its first value
 * before it begins and its last one behind its end, as no other scheduler moves momenta. */
static double momentum_at(const json_t *s, int64_t t, int64_t total) {
  const json_t *list = json_object_get(s, "schedulers");
  for (size_t k = 0; k < json_array_size(list); k++) {
    const json_t *part = json_array_get(list, k);
    int64_t begin = mark(s, k, total), end = mark(s, k + 1, total);
    if (mprt__json_bool(part, "cycle_momentum", false))
      return momentum_at(part, t < begin ? 0 : (t < end ? t : end - 1) - begin, end - begin);
  }
  double high = mprt__json_double(s, "max_momentum", 0.95);
  return cycle(s, t, total, (double[]){high, mprt__json_double(s, "base_momentum", 0.85), high, high});
}

/* Steps or epochs since the beginning, and until the end, as the scheduler counts. An epoch has its
 * steps, whether they were taken or left out. */
static int64_t scheduler_time(const mprt_program *p, const json_t *s, int64_t taken,
                              int64_t steps_per_epoch, int64_t *total) {
  bool by_epoch = !strcmp(mprt__json_string(s, "interval", "step"), "epoch");
  int64_t t = taken;
  if (by_epoch && steps_per_epoch > 0) {
    *total = (*total + steps_per_epoch - 1) / steps_per_epoch;
    t = (taken + mprt__get_int(p, "count.skipped", 0)) / steps_per_epoch;
  }
  return t > 0 ? t : 0;
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
  int64_t t = scheduler_time(p, s, taken, steps_per_epoch, &total_steps);
  return rate_at(s, base, t, total_steps);
}

double mprt__schedule_momentum(const mprt_program *p, int64_t taken, int64_t total_steps,
                               int64_t steps_per_epoch) {
  const json_t *s = mprt__json_get(p->spec, "scheduler");
  int64_t t = scheduler_time(p, s, taken, steps_per_epoch, &total_steps);
  return momentum_at(s, t, total_steps);
}

/* A column of the step that comes after `taken`. bc1 = 1 - beta1^t, bc2 = sqrt(1 - beta2^t) (Kingma
 * and Ba 2015, Algorithm 1; torch.optim.AdamW), by this step's beta1 where a schedule moves it. */
static double column_value(const mprt_program *p, const char *column, int64_t taken,
                           int64_t total_steps, int64_t steps_per_epoch) {
  const json_t *attrs = json_object_get(p->meta, "attrs");
  const char *dot = strchr(column, '.');
  int group = dot ? atoi(dot + 1) : 0;
  if (!strncmp(column, "lr.", 3))
    return mprt__schedule_lr(p, group, taken, total_steps, steps_per_epoch);
  bool first = !strncmp(column, "bc1.", 4), second = !strncmp(column, "bc2.", 4);
  double beta;
  if (second || !mprt__json_int(attrs, "cycle_momentum", 0)) {
    char key[40];
    snprintf(key, sizeof key, "group.%d.beta%d", group, second ? 2 : 1);
    beta = json_number_value(json_object_get(attrs, key));
  } else {
    beta = mprt__schedule_momentum(p, taken, total_steps, steps_per_epoch);
  }
  double correction = 1 - pow(beta, (double)(taken + 1));
  return first ? correction : second ? sqrt(correction) : beta;
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
