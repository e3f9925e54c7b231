/* Metrics of a program: sums that its functions write, and the values they stand for. A metric is a
 * tensor metric.NAME with the attributes `metric` (a word of the table below) and `count` (the
 * tensor that counts what was summed). Formulas: torchmetrics' of the same names. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/fit.h"

/* sum: the metric's elements, n of them a side when it is a matrix; count: what was summed over. */
typedef double ValueFn(const mprt_program *p, const mprt__metric *m);

static double mean(const mprt_program *p, const mprt__metric *m) {
  (void)p;
  return m->sum[0] / m->count;
}

static double exponential(const mprt_program *p, const mprt__metric *m) {
  return exp(mean(p, m));
}

static double bits(const mprt_program *p, const mprt__metric *m) {
  return mean(p, m) / log(2) / mprt__json_double(p->attrs[m->tensor], "bytes", 1);
}

static double matrix(const mprt_program *p, const mprt__metric *m) {
  (void)p, (void)m;
  return NAN;
}

/* true positives over those and `a` false positives, `b` false negatives, in shares */
static double score(double tp, double fp, double fn, double a, double b) {
  double all = tp + a * fp + b * fn;
  return all > 0 ? tp / all : 0;
}

/* micro: of the sums over classes; macro: mean over the classes that occur, in target or
 * prediction; weighted: mean over the classes, each as often as it is a target; binary: of class 1. */
static double averaged(const mprt_program *p, const mprt__metric *m, double a, double b) {
  const char *average = mprt__attr_string(p, m->tensor, "average");
  const bool weighted = average && !strcmp(average, "weighted");
  if (average && !strcmp(average, "binary"))
    return score(m->sum[3], m->sum[1], m->sum[2], a, b);
  double total = 0, weights = 0, tp_all = 0, fp_all = 0, fn_all = 0;
  for (int64_t c = 0; c < m->n; c++) {
    double tp = m->sum[c * m->n + c], fp = -tp, fn = -tp;
    for (int64_t k = 0; k < m->n; k++) {
      fn += m->sum[c * m->n + k];
      fp += m->sum[k * m->n + c];
    }
    tp_all += tp;
    fp_all += fp;
    fn_all += fn;
    const double weight = weighted ? tp + fn : tp + fp + fn > 0;
    weights += weight;
    total += weight * score(tp, fp, fn, a, b);
  }
  if (average && (weighted || !strcmp(average, "macro")))
    return weights > 0 ? total / weights : 0;
  return score(tp_all, fp_all, fn_all, a, b);
}

static double precision(const mprt_program *p, const mprt__metric *m) {
  return averaged(p, m, 1, 0);
}

static double recall(const mprt_program *p, const mprt__metric *m) {
  return averaged(p, m, 0, 1);
}

static double f1(const mprt_program *p, const mprt__metric *m) {
  return averaged(p, m, 0.5, 0.5);
}

static ValueFn *value_of(const char *word) {
  static const struct {
    const char *word;
    ValueFn *value;
  } rows[] = {{"mean", mean},           {"exp", exponential}, {"bits", bits}, {"matrix", matrix},
              {"precision", precision}, {"recall", recall},   {"f1", f1}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    if (!strcmp(rows[i].word, word))
      return rows[i].value;
  return NULL;
}

/* ---- all of a program ---- */

int mprt_metric_count(const mprt_program *p) {
  int n = 0;
  for (uint32_t i = 0; i < p->ntensor; i++)
    n += mprt__attr_string(p, i, "metric") && value_of(mprt__attr_string(p, i, "metric"));
  return n;
}

static const char *short_name(const mprt_program *p, int64_t tensor) {
  const char *name = mprt__string(p, p->tensor[tensor].name), *dot = strchr(name, '.');
  return dot ? dot + 1 : name;
}

static Status metric_open(mprt_program *p, uint32_t i, mprt__metric *m, mprt_metric *value) {
  const MpccTensor *t = &p->tensor[i];
  *m = (mprt__metric){.tensor = i, .n = t->rank ? t->dim[0] : 1};
  m->elems = mprt__tensor_elems(t);
  m->training = mprt__json_bool(p->attrs[i], "training", false);
  const char *count = mprt__attr_string(p, i, "count");
  m->counter = count ? mprt__tensor_index(p, count) : -1;
  m->sum = calloc((size_t)m->elems, sizeof *m->sum);
  *value = (mprt_metric){.name = short_name(p, i), .value = NAN};
  if (t->rank == 2 && !strcmp(mprt__attr_string(p, i, "metric"), "matrix"))
    value->classes = (int)t->dim[0];
  value->matrix = value->classes ? m->sum : NULL;
  return m->sum ? MPCC_OK : mprt__nomem(&p->cb, "metrics");
}

Status mprt__metrics_open(mprt_program *p) {
  int n = mprt_metric_count(p);
  if (p->metrics.n || !n)
    return MPCC_OK;
  p->metrics.item = calloc((size_t)n, sizeof *p->metrics.item);
  p->metrics.value = calloc((size_t)n, sizeof *p->metrics.value);
  Status st = p->metrics.item && p->metrics.value ? MPCC_OK : mprt__nomem(&p->cb, "metrics");
  for (uint32_t i = 0; st == MPCC_OK && i < p->ntensor; i++) {
    const char *word = mprt__attr_string(p, i, "metric");
    if (!word || !value_of(word))
      continue;
    st = metric_open(p, i, &p->metrics.item[p->metrics.n], &p->metrics.value[p->metrics.n]);
    p->metrics.n++;
  }
  return st;
}

void mprt__metrics_close(mprt_program *p) {
  for (int i = 0; i < p->metrics.n; i++)
    free(p->metrics.item[i].sum);
  free(p->metrics.item);
  free(p->metrics.value);
  p->metrics = (mprt__metrics){0};
}

static double element(const mprt_program *p, int64_t tensor, int64_t k) {
  double v = NAN;
  DType dt = (DType)p->tensor[tensor].dtype;
  const char *at = (const char *)mprt__tensor_look(p, tensor) + (size_t)k * dtype_bytes(dt);
  if (dt == MPCC_F32) {
    float f;
    memcpy(&f, at, sizeof f);
    v = f;
  } else if (dt == MPCC_F64) {
    memcpy(&v, at, sizeof v);
  }
  return v;
}

void mprt__metrics_clear(mprt_program *p) {
  for (int i = 0; i < p->metrics.n; i++) {
    mprt__metric *m = &p->metrics.item[i];
    memset(m->sum, 0, (size_t)m->elems * sizeof *m->sum);
    m->count = 0;
    p->metrics.value[i].value = NAN;
  }
}

void mprt__metrics_add(mprt_program *p, bool training) {
  for (int i = 0; i < p->metrics.n; i++) {
    mprt__metric *m = &p->metrics.item[i];
    if (training && !m->training)
      continue;
    for (int64_t k = 0; k < m->elems; k++)
      m->sum[k] += element(p, m->tensor, k);
    m->count += m->counter >= 0 ? element(p, m->counter, 0) : 1;
  }
}

void mprt__metrics_settle(mprt_program *p, bool training) {
  for (int i = 0; i < p->metrics.n; i++) {
    const mprt__metric *m = &p->metrics.item[i];
    double v = NAN;
    if (!training || m->training)
      v = value_of(mprt__attr_string(p, m->tensor, "metric"))(p, m);
    p->metrics.value[i].value = isnan(v) ? NAN : v;
  }
}

double mprt__metric_value(const mprt_program *p, const char *name, double loss) {
  const char *slash = strchr(name, '/');
  name = slash ? slash + 1 : name;
  for (int i = 0; i < p->metrics.n; i++)
    if (!strcmp(p->metrics.value[i].name, name))
      return p->metrics.value[i].value;
  return loss;
}
