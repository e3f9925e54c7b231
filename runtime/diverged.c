/* What happens when steps stay non-finite: nothing was applied [N11], so the state is the one before
 * the step. It is saved with the batch, and the batch is replayed command by command to find the
 * first output that is not finite. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mpcc/num.h"
#include "runtime/fit.h"

typedef struct {
  bool found, is_nan;
  const MpccCommand *command;
  DType dtype;
  double amax; /* largest finite magnitude of the output */
} Scan;

static bool scan_outputs(void *user, mprt_program *p, const MpccCommand *c) {
  Scan *s = user;
  const char *dtypes = mprt__string(p, c->value_dtypes);
  for (uint32_t k = 0; k < c->nout && !s->found; k++) {
    uint32_t a = c->first_arg + c->first_out + k;
    DType dt = (DType)(dtypes[k] - 'a');
    if (!dtype_is_float(dt))
      continue;
    const uint8_t *data = p->arg[a].p;
    int64_t n = (int64_t)(p->argref[a].bytes / dtype_bytes(dt));
    double amax = 0;
    for (int64_t i = 0; i < n; i++) {
      double v = num_load(data + (size_t)i * dtype_bytes(dt), dt);
      if (!isfinite(v)) {
        s->found = true;
        s->is_nan |= isnan(v);
      } else if (fabs(v) > amax) {
        amax = fabs(v);
      }
    }
    s->command = c;
    s->dtype = dt;
    s->amax = amax;
  }
  return !s->found;
}

/* The batch in the io tensors as batch.safetensors. */
static Status save_batch(mprt_program *p, const char *dir) {
  mprt__st_item item[MPRT__MAX_FIELDS];
  size_t n = 0;
  for (uint32_t i = 0; i < p->ntensor && n < MPRT__MAX_FIELDS; i++) {
    const MpccTensor *t = &p->tensor[i];
    if (t->role == ROLE_INPUT)
      item[n++] = (mprt__st_item){.name = mprt__string(p, t->name),
                                  .dtype = (DType)t->dtype,
                                  .file_dtype = (DType)t->dtype,
                                  .rank = (int)t->rank,
                                  .dim = t->dim,
                                  .data = mprt__tensor_data(p, i)};
  }
  char *path = mprt__format("%s/batch.safetensors", dir);
  Status st = path ? mprt__st_write(path, item, n, NULL, &p->cb) : mprt__nomem(&p->cb, "diverged");
  free(path);
  return st;
}

static void describe(mprt_program *p, const Scan *s, int64_t step, const char *cause,
                     const char *dir, char *text, size_t size) {
  size_t k = (size_t)snprintf(text, size, "stopped at step %lld: %s [MPC0901]\n", (long long)step,
                              cause);
  if (!s->found)
    snprintf(text + k, size - k,
             "  a replay of the batch gave finite outputs only: the batch itself is in %s", dir);
  else
    snprintf(text + k, size - k,
             "  first non-finite: %s in output of %s (%s, %s), stored as %s; largest finite "
             "magnitude there %.2g of at most %.5g\n"
             "  state before the step and its batch are in %s\n"
             "  try: a smaller learning rate, precision.overrides for this layer, or mode "
             "bf16-mixed",
             s->is_nan ? "NaN" : "infinity", mprt__string(p, s->command->layer),
             mprt__string(p, s->command->label), mprt__string(p, s->command->source),
             dtype_text(s->dtype), s->amax, dtype_info(s->dtype)->max_finite, dir);
}

Status mprt__diverged(mprt_program *p, const char *out_dir, int64_t step, const char *cause) {
  char *dir = mprt__format("%s/diverged", out_dir);
  if (!dir)
    return mprt__nomem(&p->cb, "diverged");
  mprt__dir_remove(dir);
  Status st = mprt_save_checkpoint(p, dir);
  if (st == MPCC_OK)
    st = save_batch(p, dir);
  const char *name = mprt__function(p, "train_step") ? "train_step" : "micro_first";
  const MpccFunction *f = mprt__function(p, name);
  Scan scan = {0};
  if (st == MPCC_OK && f)
    st = mprt__run(p, f, scan_outputs, &scan);
  if (st == MPCC_OK) {
    char text[1600];
    describe(p, &scan, step, cause, dir, text, sizeof text);
    char *path = mprt__format("%s/report.txt", dir);
    if (path)
      mprt__file_write(path, text, strlen(text), &p->cb);
    free(path);
    mprt_event e = {.kind = MPRT_EVENT_DIVERGED, .step = step, .text = text, .path = dir};
    if (p->cb.event)
      p->cb.event(p->cb.user, &e);
    st = MPCC_ERR_DIVERGED;
  }
  free(dir);
  return st;
}
