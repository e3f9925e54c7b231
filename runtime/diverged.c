/* What happens when steps stay non-finite: nothing was applied [N11], so the state is the one
 * before the step. It is saved with the batch, and the batch is replayed command by command to find
 * the first output that is not finite. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/fit.h"

/* What the step begins with: the batch, parameters and moments may hold it already. */
static void scan_before(mprt_program *p, mprt__scan *s) {
  for (uint32_t i = 0; i < p->ntensor && !s->found; i++) {
    const MpccTensor *t = &p->tensor[i];
    bool before = t->role == ROLE_INPUT || t->role == ROLE_PARAM || t->role == ROLE_MOMENT;
    if (!before || p->flat[i] || !dtype_is_float((DType)t->dtype))
      continue;
    mprt__scan_data(s, mprt__tensor_data(p, i), mprt__tensor_elems(t), (DType)t->dtype);
    s->name = mprt__string(p, t->name);
  }
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

/* What to try: more range where range was short, smaller steps where everything grew. */
static const char *advice(const mprt_program *p, const mprt__scan *s) {
  if (s->found && !s->command)
    return "start from weights and data that are finite";
  if (s->found && dtype_info(s->dtype)->max_finite < 1e6 && !s->is_nan)
    return "precision.overrides 32-true for this layer, or mode bf16-mixed";
  return json_is_number(mprt__json_get(p->spec, "trainer.gradient_clip_val"))
             ? "a smaller learning rate or a longer warmup"
             : "a smaller learning rate, a longer warmup, or trainer.gradient_clip_val: 1.0";
}

/* The report, malloc'ed; NULL when memory is short. */
static char *describe(const mprt_program *p, const mprt__scan *s, int64_t step, const char *cause,
                      const char *out_dir) {
  char *text = NULL, *folder = mprt__format("%s/checkpoints", out_dir);
  char *good = folder ? mprt__checkpoint_newest(folder) : NULL;
  size_t size;
  FILE *out = folder ? open_memstream(&text, &size) : NULL;
  if (out) {
    fprintf(out, "stopped at step %lld: %s [MPC0901]\n", (long long)step, cause);
    if (s->found)
      mprt__scan_describe(p, s, out);
    else
      fputs("  a replay of the batch gave finite outputs only\n", out);
    fprintf(out, "  try: %s\n", advice(p, s));
    if (good)
      fprintf(out, "  newest checkpoint, from before: %s\n", good);
    fprintf(out, "  state before the step and its batch: %s/diverged", out_dir);
    if (fclose(out)) {
      free(text);
      text = NULL;
    }
  }
  free(folder);
  free(good);
  return text;
}

/* OUT/diverged/report.txt and the event. */
static Status report(mprt_program *p, const char *dir, const char *text, int64_t step) {
  char *path = mprt__format("%s/report.txt", dir), *lines = mprt__format("%s\n", text);
  Status st = path && lines ? mprt__file_write(path, lines, strlen(lines), &p->cb)
                            : mprt__nomem(&p->cb, "diverged");
  free(path);
  free(lines);
  mprt_event e = {.kind = MPRT_EVENT_DIVERGED, .step = step, .text = text, .path = dir};
  if (p->cb.event)
    p->cb.event(p->cb.user, &e);
  return st;
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
  mprt__scan scan = {0};
  scan_before(p, &scan);
  if (st == MPCC_OK && f && !scan.found)
    st = mprt__run(p, f, mprt__scan_outputs, &scan);
  char *text = st == MPCC_OK ? describe(p, &scan, step, cause, out_dir) : NULL;
  if (st == MPCC_OK)
    st = text ? report(p, dir, text, step) : mprt__nomem(&p->cb, "diverged");
  free(text);
  free(dir);
  return st == MPCC_OK ? MPCC_ERR_DIVERGED : st;
}
