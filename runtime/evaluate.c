/* Evaluation and prediction over a whole split. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/fit.h"

static int64_t batch_of(const mprt_program *p) {
  int64_t i = mprt__tensor_of_role(p, ROLE_INPUT);
  return i >= 0 && p->tensor[i].rank ? p->tensor[i].dim[0] : 1;
}

bool mprt__overfits(const mprt_program *p) {
  const json_t *v = mprt__json_get(p->spec, "trainer.overfit_batches");
  return json_is_number(v) && json_number_value(v) > 0;
}

bool mprt_evaluates(const mprt_program *p, const char *split) {
  char key[64];
  snprintf(key, sizeof key, "trainer.limit_%s_batches", split);
  const json_t *v = mprt__json_get(p->spec, key);
  const bool off = json_is_number(v) && json_number_value(v) == 0;
  return mprt_has_split(p, split) &&
         (!off || mprt__json_int(p->spec, "trainer.fast_dev_run", 0) > 0);
}

int64_t mprt__limited_batches(const mprt_program *p, const char *split, int64_t batches) {
  char key[64];
  snprintf(key, sizeof key, "trainer.limit_%s_batches", split);
  if (mprt__overfits(p) && strcmp(split, "test"))
    snprintf(key, sizeof key, "trainer.overfit_batches");
  const json_t *v = mprt__json_get(p->spec, key);
  int64_t dev_run = mprt__json_int(p->spec, "trainer.fast_dev_run", 0);
  if (dev_run > 0 && dev_run < batches)
    return dev_run;
  int64_t of_split;
  snprintf(key, sizeof key, "data.%s.limit_batches", split);
  of_split = mprt__json_int(p->spec, key, batches);
  if (of_split < batches)
    batches = of_split;
  if (json_is_integer(v) && json_integer_value(v) < batches)
    return json_integer_value(v);
  if (json_is_real(v) && json_real_value(v) < 1) {
    int64_t n = (int64_t)((double)batches * json_real_value(v));
    return n > 0 ? n : 1;
  }
  return batches;
}

static Status split_loader(mprt_program *p, mprt__dataset *d, const char *split,
                           mprt__loader **out) {
  mprt__loader_options o = {.data = d, .split = split, .batch = batch_of(p), .prefetch = 2};
  return mprt__loader_create(p, &o, out);
}

Status mprt__asked_to_stop(mprt_program *p) {
  const int said = p->cb.stop ? p->cb.stop(p->cb.user) : 0;
  if (said > p->stop)
    p->stop = said;
  return p->stop == 0 ? MPCC_OK : p->stop == 2 ? MPCC_ERR_REQUEUE : MPCC_ERR_INTERRUPTED;
}

Status mprt__evaluate_data(mprt_program *p, mprt__dataset *d, const char *split, double *loss) {
  const MpccFunction *f = mprt__function(p, "eval_step");
  if (!f)
    return mprt__fail(&p->cb, MPCC_ERR_INPUT, "the program has no eval_step");
  mprt__loader *l;
  Status st = mprt__metrics_open(p);
  if (st == MPCC_OK)
    st = split_loader(p, d, split, &l);
  if (st != MPCC_OK)
    return st;
  st = mprt__ema_swap(p, "val");
  mprt__metrics_clear(p);
  double loss_sum = 0, weight_sum = 0, waited;
  int64_t valid = 1, epoch, sample;
  int64_t batches = mprt__batches(d->nsample, batch_of(p), false);
  batches = mprt__limited_batches(p, split, batches);
  for (int64_t i = 0; st == MPCC_OK && i < batches; i++) {
    st = mprt__loader_next(l, &valid, &epoch, &sample, &waited);
    if (st != MPCC_OK || !valid)
      break;
    st = mprt__run(p, f, NULL, NULL);
    loss_sum += mprt__get_scalar(p, "metric.loss_sum", NAN);
    weight_sum += mprt__get_scalar(p, "metric.weight_sum", NAN);
    mprt__metrics_add(p, false);
    if (st == MPCC_OK)
      st = mprt__device_status(p);
    if (st == MPCC_OK)
      st = mprt__asked_to_stop(p);
  }
  mprt__loader_destroy(l);
  if (st == MPCC_OK || p->stop) {
    const Status back = mprt__ema_swap(p, "val");
    st = st == MPCC_OK ? back : st;
  }
  *loss = loss_sum / weight_sum;
  if (isnan(*loss))
    *loss = NAN; /* the sign of a NaN says nothing and is printed */
  mprt__metrics_settle(p, false);
  return st;
}

mpcc_status mprt_evaluate(mprt_program *p, const char *split, double *loss, mprt_metric *metric) {
  mprt__dataset *d = NULL;
  double mean = NAN;
  p->stop = 0;
  if (mprt_has_split(p, split) && !mprt_evaluates(p, split))
    return mprt__fail(&p->cb, MPCC_ERR_DATA, "trainer.limit_%s_batches is 0: %s is not evaluated",
                      split, split);
  Status st = mprt__data_open(p, split, &d);
  if (st == MPCC_OK)
    st = mprt__evaluate_data(p, d, split, &mean);
  if (p->stop)
    mprt__log(&p->cb, MPRT_LOG_INFO, "stopped before all of %s was evaluated", split);
  for (int i = 0; st == MPCC_OK && metric && i < p->metrics.n; i++)
    metric[i] = p->metrics.value[i];
  mprt__data_close(d);
  if (loss)
    *loss = mean;
  return st;
}

mpcc_status mprt_check_data(mprt_program *p, const char *split) {
  mprt__binding binding[MPRT__MAX_FIELDS];
  mprt__dataset *d = NULL;
  int n = 0;
  Status st = mprt__data_open(p, split, &d);
  if (st == MPCC_OK)
    st = mprt__bind(p, d, split, batch_of(p), binding, &n);
  mprt__unbind(binding, n);
  mprt__data_close(d);
  return st;
}

/* ---- predictions ----------------------------------------------------------------------------- */

/* Of predictions in a file: FP32 holds those of 16 bits exactly, and NumPy has no bf16. */
static DType npy_dtype(const MpccTensor *t) {
  return t->dtype == MPCC_F64 ? MPCC_F64 : MPCC_F32;
}

/* Header of a .npy file, version 1.0, padded to 64 bytes (NumPy Enhancement Proposal 1). */
static void npy_header(mprt__writer *w, int64_t samples, const MpccTensor *t) {
  char shape[200], header[300];
  int n = snprintf(shape, sizeof shape, "(%lld,", (long long)samples);
  for (uint32_t d = 1; d < t->rank; d++)
    n += snprintf(shape + n, sizeof shape - (size_t)n, " %lld,", (long long)t->dim[d]);
  snprintf(shape + n - (t->rank > 1), sizeof shape - (size_t)n, ")");
  int len = snprintf(header, sizeof header,
                     "{'descr': '<f%d', 'fortran_order': False, 'shape': %s, }",
                     (int)dtype_bytes(npy_dtype(t)), shape);
  int total = (10 + len + 1 + 63) / 64 * 64 - 10;
  uint8_t head[10] = {
      0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (uint8_t)(total & 255), (uint8_t)(total >> 8)};
  mprt__writer_put(w, head, sizeof head);
  mprt__writer_put(w, header, (size_t)len);
  for (int i = len; i < total - 1; i++)
    mprt__writer_put(w, " ", 1);
  mprt__writer_put(w, "\n", 1);
}

static Status predict_all(mprt_program *p, mprt__loader *l, int64_t output, mprt__writer *w) {
  const MpccFunction *f = mprt__function(p, "predict");
  const MpccTensor *t = &p->tensor[output];
  int64_t valid = 1, epoch, sample, row = mprt__tensor_elems(t) / t->dim[0];
  double waited;
  const DType dt = npy_dtype(t);
  void *values = malloc((size_t)mprt__tensor_elems(t) * dtype_bytes(dt));
  Status st = values ? mprt__ema_swap(p, "export") : mprt__nomem(&p->cb, "predictions");
  while (st == MPCC_OK) {
    st = mprt__loader_next(l, &valid, &epoch, &sample, &waited);
    if (st != MPCC_OK || !valid)
      break;
    st = mprt__run(p, f, NULL, NULL);
    mprt__convert(mprt__tensor_look(p, output), (DType)t->dtype, values, dt, valid * row);
    if (st == MPCC_OK)
      st = mprt__device_status(p);
    mprt__writer_put(w, values, (size_t)(valid * row) * dtype_bytes(dt));
    if (st == MPCC_OK)
      st = mprt__asked_to_stop(p);
  }
  free(values);
  if (st == MPCC_OK || p->stop) {
    const Status back = mprt__ema_swap(p, "export");
    st = st == MPCC_OK ? back : st;
  }
  return st;
}

mpcc_status mprt_predict(mprt_program *p, const char *split, const char *npy_path) {
  int64_t output = mprt__tensor_of_role(p, ROLE_OUTPUT);
  if (output < 0 || !mprt__function(p, "predict"))
    return mprt__fail(&p->cb, MPCC_ERR_INPUT, "the program has no predict function");
  mprt__dataset *d;
  Status st = mprt__data_open(p, split, &d);
  p->stop = 0;
  if (st != MPCC_OK)
    return st;
  mprt__loader *l = NULL;
  st = split_loader(p, d, split, &l);
  if (st == MPCC_OK) {
    char *temporary = mprt__format("%s.part", npy_path);
    mprt__writer w;
    mprt__writer_open(&w, temporary ? temporary : "");
    npy_header(&w, d->nsample, &p->tensor[output]);
    st = predict_all(p, l, output, &w);
    if (p->stop)
      mprt__log(&p->cb, MPRT_LOG_INFO, "stopped: %s is not written", npy_path);
    int error = mprt__writer_close(&w);
    if (st == MPCC_OK && (error || rename(temporary, npy_path)))
      st = mprt__fail(&p->cb, MPCC_ERR_FILE, "cannot write %s: %s", npy_path,
                      error ? strerror(error) : "rename failed");
    if (st != MPCC_OK && temporary)
      remove(temporary);
    free(temporary);
  }
  mprt__loader_destroy(l);
  mprt__data_close(d);
  return st;
}
