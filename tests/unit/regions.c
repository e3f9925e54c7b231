/* Regions of other precision beside PyTorch's autocast: on, off, nested, FP64 inside. Compared are
 * the format of every layer, its values, the loss and the gradient of every weight
 * (tools/region_reference.py). The interpreter runs the passes' module. */
#include <math.h>

#include "passes/passes.h"
#include "region_reference.h"
#include "spec_check.h"

/* Values of 16-bit layers differ where sums end up on two sides of a tie: by one last place of
 * bf16, 2^-8 of a number, in each of up to five products and what follows. FP32 throughout: by the
 * order of sums of six terms. */
enum { LAYERS = 12 };
static double bound(int i) {
  return !strcmp(regions[i].name, "whole") ? 2e-6 : 0x1p-6;
}

static const char *full_name(int i, int k, char out[32]) {
  const char *name = regions[i].layer[k].name;
  char text[40];
  snprintf(text, sizeof text, "name: %s,", name);
  snprintf(out, 32, "%s%s", strstr(regions[i].block, text) ? "in." : "", name);
  return out;
}

static int count_layers(int i) {
  int n = 0;
  while (n < LAYERS && regions[i].layer[n].name)
    n++;
  return n;
}

static Module *lowered(Session *s, int i) {
  Text t = {0};
  char name[32];
  text_puts(&t, "mpcc: 1\nname: t\nmodel:\n  inputs: {x: {shape: [6]}}\n  outputs: {");
  int n = count_layers(i);
  for (int k = 0; k < n; k++)
    text_printf(&t, "%s%s: %s", k ? ", " : "", k + 1 < n ? regions[i].layer[k].name : "logits",
                full_name(i, k, name));
  text_puts(&t, "}\n");
  if (*regions[i].block)
    text_printf(&t, "  blocks: {in: {layers: [%s]}}\n", regions[i].block);
  text_printf(&t,
              "  layers: [%s]\nloss: CrossEntropyLoss\nmetrics: []\n"
              "data:\n  train: {format: synthetic, shape: [6], classes: 6}\n"
              "  fields: {x: image}\n  loader: {batch_size: %d}\n"
              "optimizer: {type: SGD, lr: 0.1}\ntrainer: {max_epochs: 1}\n"
              "precision: {mode: bf16-mixed, policy: cpu-2026-11}\n",
              regions[i].layers, REGION_BATCH);
  Spec *spec = spec_text(s, t.data);
  Module *m = NULL;
  if (!spec || spec_lower(spec, s->strings, s->diag, &m) != MPCC_OK)
    dump(s);
  ck_assert_msg(m != NULL, "%s", t.data);
  text_fini(&t);
  return m;
}

static void run_to(Session *s, Module **m, const char *last) {
  const char *failed;
  PassOpts o = {0};
  PassRun r = {.stop_after = last};
  if (passes_run(*m, &o, &r, s->diag, m, &failed) != MPCC_OK)
    dump(s);
}

static void close_to(const char *what, const double *got, const double *want, int n, double tol) {
  double top = 0;
  for (int k = 0; k < n; k++)
    top = fmax(top, fabs(want[k]));
  for (int k = 0; k < n; k++)
    ck_assert_msg(fabs(got[k] - want[k]) <= tol * top, "%s[%d] is %.9g, torch %.9g", what, k,
                  got[k], want[k]);
}

START_TEST(formats_are_torch_s) {
  Session s = session_open();
  Module *m = lowered(&s, _i);
  run_to(&s, &m, "autocast");
  const Func *f = module_func(m, "train_forward");
  for (int k = 0; k < count_layers(_i); k++) {
    char name[32];
    full_name(_i, k, name);
    const Op *last = NULL; /* the last op of a layer makes its result */
    for (int j = 0; j < f->nop; j++)
      if (f->op[j]->layer && !strcmp(f->op[j]->layer, name) && f->op[j]->nout)
        last = f->op[j];
    ck_assert_msg(last != NULL, "no layer %s", name);
    ck_assert_msg((int)last->out[0]->type->dt == regions[_i].layer[k].dtype, "%s %s is %s",
                  regions[_i].name, name, dtype_text(last->out[0]->type->dt));
  }
  module_destroy(m);
  session_close(&s);
}
END_TEST

static double *data(Eval *e, const Module *m, const char *name) {
  Tensor *t = module_tensor(m, name);
  ck_assert_msg(t != NULL, "no tensor %s", name);
  return eval_tensor(e, t);
}

START_TEST(values_and_gradients_are_torch_s) {
  Session s = session_open();
  Module *m = lowered(&s, _i);
  run_to(&s, &m, "grad");
  Eval *e;
  ck_assert_int_eq(eval_create(m, false, &e), MPCC_OK);
  memcpy(data(e, m, "io.x"), region_x, sizeof region_x);
  memcpy(data(e, m, "io.label"), region_label, sizeof region_label);
  *data(e, m, "io.valid") = REGION_BATCH;
  int n = count_layers(_i);
  char name[64], layer[32];
  for (int k = 0; k < n; k++) {
    const char *letter = regions[_i].layer[k].name;
    if (letter[1] || *letter > 'e')
      continue;
    for (int p = 0; p < 2; p++) {
      snprintf(name, sizeof name, "%s.%s", full_name(_i, k, layer), p ? "bias" : "weight");
      size_t bytes = sizeof(double) * REGION_SIZE * (p ? 1 : REGION_SIZE);
      memcpy(data(e, m, name), region_params[*letter - 'a'][p], bytes);
    }
  }
  ck_assert_int_eq(eval_run(e, module_func(m, "predict")), MPCC_OK);
  ck_assert_int_eq(eval_run(e, module_func(m, "train_forward")), MPCC_OK);
  for (int k = 0; k < n; k++) {
    const RegionLayer *want = &regions[_i].layer[k];
    snprintf(name, sizeof name, "output.%s", k + 1 < n ? want->name : "logits");
    close_to(name, data(e, m, name), want->v, REGION_SIZE * REGION_BATCH, bound(_i));
    if (want->name[1] || *want->name > 'e')
      continue;
    snprintf(name, sizeof name, "grad.%s.weight", full_name(_i, k, layer));
    double *g = data(e, m, name), slope[REGION_SIZE * REGION_SIZE];
    for (int j = 0; j < REGION_SIZE * REGION_SIZE; j++)
      slope[j] = g[j] / REGION_BATCH;
    close_to(name, slope, regions[_i].slope[*want->name - 'a'], REGION_SIZE * REGION_SIZE,
             bound(_i));
  }
  double loss = *data(e, m, "metric.loss_sum") / REGION_BATCH;
  close_to("loss", &loss, &regions[_i].loss, 1, bound(_i));
  eval_destroy(e);
  module_destroy(m);
  session_close(&s);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("regions");
  TCase *t = tcase_create("torch");
  int n = (int)(sizeof regions / sizeof *regions);
  tcase_add_loop_test(t, formats_are_torch_s, 0, n);
  tcase_add_loop_test(t, values_and_gradients_are_torch_s, 0, n);
  suite_add_tcase(suite, t);
  return check_run(suite);
}
