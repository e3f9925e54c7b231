/* What happens when steps stay non-finite: nothing was applied [N11], so the state is the one
 * before the step. It is saved with the batch, and the batch is replayed command by command to find
 * the first output that is not finite. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/fit.h"

/* What the step begins with: the batch, parameters, moments and copies of weights may hold it
 * already. */
static void scan_before(mprt_program *p, mprt__scan *s) {
  static const uint32_t roles[] = {ROLE_INPUT, ROLE_PARAM, ROLE_MOMENT, ROLE_WEIGHT};
  for (size_t r = 0; r < sizeof roles / sizeof *roles; r++)
    for (uint32_t i = 0; i < p->ntensor && !s->found; i++) {
      const MpccTensor *t = &p->tensor[i];
      if (t->role != roles[r] || p->flat[i] || !dtype_is_float((DType)t->dtype))
        continue;
      mprt__scan_data(s, mprt__tensor_data(p, i), mprt__tensor_elems(t), (DType)t->dtype);
      s->name = mprt__string(p, t->name);
    }
}

/* Gradients that the step's micro-batches left, of which the last alone is replayed. */
static void scan_gradients(mprt_program *p, mprt__scan *s) {
  for (uint32_t i = p->ntensor; i-- > 0 && !s->found;) { /* backward begins at the last layer */
    const MpccTensor *t = &p->tensor[i];
    if (t->role != ROLE_GRAD || p->flat[i])
      continue;
    mprt__scan_data(s, mprt__tensor_data(p, i), mprt__tensor_elems(t), (DType)t->dtype);
    s->name = mprt__string(p, t->name);
    s->when = "of earlier micro-batches";
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

/* ---- what to try ----------------------------------------------------------------------------- */

/* The mode with the same parts but a wider exponent than f16. */
static const char *wider_mode(const mprt_program *p) {
  static const char *const wider[][2] = {{"16-true", "bf16-true"},
                                         {"transformer-engine-float16", "transformer-engine"}};
  const char *mode = mprt__json_string(p->meta, "attrs.mode", "");
  for (size_t i = 0; i < sizeof wider / sizeof *wider; i++)
    if (!strcmp(mode, wider[i][0]))
      return wider[i][1];
  return "bf16-mixed";
}

static bool narrow(DType dt) {
  return dtype_info(dt)->max_finite < 1e6;
}

/* An infinity in a format of few exponents, or what came of a value near its end. */
static bool overflowed(const mprt__scan *s) {
  const mprt__largest *l = &s->largest;
  return s->found &&
         ((narrow(s->dtype) && !s->is_nan) ||
          (l->command && narrow(l->dtype) && l->amax > dtype_info(l->dtype)->max_finite / 2));
}

/* precision.overrides for the layer whose output left its format. */
static void advise_range(const mprt_program *p, const mprt__scan *s, FILE *out) {
  mprt__scan of = *s;
  if (s->is_nan && s->largest.command)
    of.command = s->largest.command; /* what came before the NaN */
  size_t n;
  const char *place, *layer = mprt__scan_layer(p, &of, &n, &place);
  fprintf(out, "  overflow: try %s", wider_mode(p));
  if (of.command && n && strcmp(layer, "loss") != 0)
    fprintf(out, ", or precision.overrides: [{match: %.*s, precision: 32-true}]", (int)n, layer);
  else if (!of.command)
    fputs(" or a smaller learning rate", out);
  const char *scaler = "precision.grad_scaler", *key = NULL;
  const json_t *keys = mprt__json_get(p->spec, scaler);
  if (mprt__tensor_index(p, "scaler.scale") >= 0 && mprt__json_bool(keys, "static", false))
    key = "init_scale";
  else if (mprt__tensor_index(p, "scaler.scale") >= 0 &&
           mprt__json_double(keys, "min_scale", 1) > 1)
    key = "min_scale";
  if (key)
    fprintf(out, ", or a smaller %s.%s", scaler, key);
  fputc('\n', out);
}

/* More range where range was short, smaller steps where everything grew. */
static void advise(const mprt_program *p, const mprt__scan *s, FILE *out) {
  int64_t t = s->found && !s->command ? mprt__tensor_index(p, s->name) : -1;
  uint32_t role = t >= 0 ? p->tensor[t].role : ROLE_GRAD;
  bool given = role == ROLE_INPUT ||
               ((role == ROLE_PARAM || role == ROLE_MOMENT) && !mprt__get_int(p, "count.taken", 0));
  if (given)
    fputs("  try: start from weights and data that are finite\n", out);
  else if (overflowed(s))
    advise_range(p, s, out);
  else if (json_is_number(mprt__json_get(p->spec, "trainer.gradient_clip_val")))
    fputs("  try: a smaller learning rate or a longer warmup\n", out);
  else
    fputs("  try: a smaller learning rate, a longer warmup, or trainer.gradient_clip_val: 1.0\n",
          out);
}

/* ---- what FP8 recorded ----------------------------------------------------------------------- */

enum { STEPS_TOLD = 5 };

/* The newest entries of a slot's history, oldest first. largest: the scale is of all entries. */
static void tell_slot(const char *slot, int length, const float *row, int64_t n, bool largest,
                      FILE *out) {
  int64_t first = n;
  while (first > 1 && n - first < STEPS_TOLD && row[first - 1] != 0)
    first--;
  if (first == n)
    return;
  fprintf(out, "  amax of %.*s in the steps before:", length, slot);
  bool rising = n - first > 1, stuck = false;
  for (int64_t i = first; i < n; i++) {
    fprintf(out, "%s %.3g", i > first ? "," : "", (double)row[i]);
    rising &= i == first || row[i] > 1.01f * row[i - 1];
  }
  for (int64_t i = 1; i < n && largest; i++)
    stuck |= isinf(row[i]);
  fprintf(out, "%s%s\n", rising ? ", rising" : "",
          stuck ? "; its scale stays while that is remembered" : "");
}

/* Delayed scaling remembers the largest magnitudes of what the layer's products read: slots
 * LAYER.input and LAYER#1.grad_output. */
static void tell_histories(const mprt_program *p, const mprt__scan *s, FILE *out) {
  static const char *const names[] = {"fp8.forward.amax_history", "fp8.backward.amax_history"};
  size_t n;
  const char *place, *layer = mprt__scan_layer(p, s, &n, &place);
  bool largest = !strcmp(mprt__json_string(p->meta, "attrs.amax_compute_algo", "max"), "max");
  for (int k = 0; n && k < 2; k++) {
    int64_t t = mprt__tensor_index(p, names[k]);
    if (t < 0)
      continue;
    const float *row = mprt__tensor_data(p, t);
    const int64_t length = p->tensor[t].dim[1];
    for (const char *w = mprt__json_string(p->attrs[t], "slots", ""); *w; row += length) {
      size_t word = strcspn(w, " ");
      bool own = word > n && !strncmp(w, layer, n) && (w[n] == '.' || w[n] == '#');
      const char *dot = own ? memchr(w + n, '.', word - n) : NULL;
      own &= dot && !memchr(dot + 1, '.', (size_t)(w + word - dot - 1));
      if (own && strncmp(dot, ".weight", 7))
        tell_slot(w, (int)word, row, length, largest, out);
      w += word + (w[word] == ' ');
    }
  }
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
    if (s->found) {
      mprt__scan_describe(p, s, out);
      tell_histories(p, s, out);
    } else {
      fputs("  a replay of the batch gave finite outputs only\n", out);
    }
    advise(p, s, out);
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
  mprt__scan scan = {0}, left = {0};
  scan_before(p, &scan);
  scan_gradients(p, &left);
  if (st == MPCC_OK && f && !scan.found)
    st = mprt__run(p, f, mprt__scan_outputs, &scan);
  if (!scan.found && left.found)
    scan = left;
  char *text = st == MPCC_OK ? describe(p, &scan, step, cause, out_dir) : NULL;
  if (st == MPCC_OK)
    st = text ? report(p, dir, text, step) : mprt__nomem(&p->cb, "diverged");
  free(text);
  free(dir);
  return st == MPCC_OK ? MPCC_ERR_DIVERGED : st;
}
