/* The step table: learning rates and bias corrections as functions of the steps really taken.
 * Closed forms of torch.optim.lr_scheduler (PyTorch 2.x, get_lr and _get_closed_form_lr): each is a
 * factor, or a rate between eta_min and the base rate, at t = steps (or epochs) since it began. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/fit.h"

typedef struct {
  const json_t *config;
  int64_t total; /* where `auto` lengths end, in the scheduler's own unit */
} Schedule;

static double rate_at(const json_t *s, double base, int64_t t, int64_t total);

static double constant_lr(const json_t *s, double base, int64_t t) {
  return t < mprt__json_int(s, "total_iters", 5) ? base * mprt__json_double(s, "factor", 1.0 / 3)
                                                 : base;
}

static double linear_lr(const json_t *s, double base, int64_t t) {
  double start = mprt__json_double(s, "start_factor", 1.0 / 3);
  double end = mprt__json_double(s, "end_factor", 1.0);
  int64_t n = mprt__json_int(s, "total_iters", 5);
  double x = t >= n || n <= 0 ? 1.0 : (double)t / (double)n;
  return base * (start + (end - start) * x);
}

/* Beyond T_max the rate stays at eta_min: `auto` schedules end with the spec's own end. */
static double cosine_lr(const json_t *s, double base, int64_t t, int64_t total) {
  int64_t n = mprt__json_int(s, "T_max", total); /* the word auto is no number */
  double min = mprt__json_double(s, "eta_min", 0.0);
  if (t >= n && !json_is_integer(json_object_get(s, "T_max")))
    return min;
  return min + (base - min) * (1 + cos(M_PI * (double)t / (double)(n > 0 ? n : 1))) / 2;
}

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
  const char *type = mprt__json_string(s, "type", "");
  if (!strcmp(type, "LinearLR"))
    return linear_lr(s, base, t);
  if (!strcmp(type, "CosineAnnealingLR"))
    return cosine_lr(s, base, t, total);
  if (!strcmp(type, "SequentialLR"))
    return sequential_lr(s, base, t, total);
  if (!strcmp(type, "ConstantLR"))
    return constant_lr(s, base, t);
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
  double *row = (double *)mprt__tensor_data(p, i) + taken % t->dim[0] * t->dim[1];
  const char *column = mprt__attr_string(p, i, "columns");
  for (int64_t c = 0; c < t->dim[1] && column && *column; c++) {
    row[c] = column_value(p, column, taken, total_steps, steps_per_epoch);
    column += strcspn(column, " ");
    column += strspn(column, " ");
  }
}
