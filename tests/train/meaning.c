/* The whole pipeline keeps the meaning of a model. A small vision transformer (patch convolution,
 * attention, layer normalisation, dropout, label smoothing) is taken through every pass in every
 * precision mode; the interpreter, in exact arithmetic, finds the same numbers in the module before
 * and after: loss and evaluation up to `grad`, the training step from `step` to `plan`. Gradients
 * are compared with finite differences of the whole model. Every module on the way reads back from
 * its text to the same bytes. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/frontend.h"
#include "passes/passes.h"
#include "tests/check_run.h"

static const char spec[] =
    "mpcc: 1\n"
    "name: tiny\n"
    "seed: 7\n"
    "model:\n"
    "  inputs: {image: {shape: [1, 8, 8]}}\n"
    "  outputs: {logits: head}\n"
    "  layers:\n"
    "    - {name: conv, type: Conv2d, out_channels: 16, kernel_size: 4, stride: 4}\n"
    "    - {type: Flatten, start_dim: 2}\n"
    "    - {name: patches, type: transpose, dim0: 1, dim1: 2}\n"
    "    - {name: token, type: Parameter, shape: [1, 1, 16], init: {normal: {std: 1.0}},\n"
    "       expand_batch: true}\n"
    "    - {name: sequence, type: cat, inputs: [token, patches], dim: 1}\n"
    "    - residual:\n"
    "        - {name: ln_1, type: LayerNorm, eps: 1e-6}\n"
    "        - {name: attention, type: MultiheadAttention, num_heads: 2, batch_first: true}\n"
    "        - {type: Dropout, p: 0.2}\n"
    "    - residual:\n"
    "        - {name: ln_2, type: LayerNorm, eps: 1e-6}\n"
    "        - {name: mlp.0, type: Linear, out_features: 32}\n"
    "        - GELU\n"
    "        - {name: mlp.3, type: Linear, out_features: 16}\n"
    "    - {name: ln, type: LayerNorm, eps: 1e-6}\n"
    "    - {type: select, dim: 1, index: 0}\n"
    "    - {name: head, type: Linear, out_features: 5}\n"
    "loss: {type: CrossEntropyLoss, label_smoothing: 0.1}\n"
    "data:\n"
    "  train: {format: synthetic, shape: [1, 8, 8], classes: 5, samples: 80}\n"
    "  loader: {batch_size: 16, shuffle: false}\n"
    "optimizer: {type: AdamW, lr: 0.01}\n"
    "trainer: {max_steps: 20}\n";

static const char *const modes[] = {
    "64-true", "32-true",   "bf16-mixed",         "16-mixed",
    "16-true", "bf16-true", "transformer-engine", "transformer-engine-float16"};

typedef struct {
  Arena *arena;
  StrTable *strings;
  Diag *diag;
} Session;

static void show(const Session *s) {
  for (const DiagMessage *m = diag_first(s->diag); m; m = m->next) {
    Text t = {0};
    diag_render(s->diag, m, false, &t);
    fprintf(stderr, "%s\n", t.data ? t.data : "");
    text_fini(&t);
  }
}

static void must(const Session *s, Status status, const char *what) {
  if (status)
    show(s);
  ck_assert_msg(status == MPCC_OK, "%s fails", what);
}

static Session session(void) {
  Session s = {.arena = arena_create()};
  s.strings = str_table_create(s.arena);
  s.diag = diag_create(s.arena, s.strings);
  return s;
}

static Module *lower(Session *s, const char *mode) {
  SpecSource src = {.path = "tiny.yaml", .text = spec, .len = strlen(spec), .precision = mode};
  Spec *parsed;
  Module *m;
  must(s, spec_parse(s->arena, s->strings, s->diag, &src, &parsed), "spec_parse");
  must(s, spec_lower(parsed, s->strings, s->diag, &m), "spec_lower");
  return m;
}

static void check_text(Session *s, const Module *m, const char *after) {
  Text once = {0}, twice = {0};
  Module *again;
  module_print(m, s->diag, &once);
  uint32_t file = diag_file(s->diag, after, once.data, once.len);
  must(s, module_parse(s->strings, s->diag, file, once.data, once.len, &again), after);
  module_print(again, s->diag, &twice);
  ck_assert_msg(once.len == twice.len && !memcmp(once.data, twice.data, once.len),
                "text after %s reads back differently", after);
  module_destroy(again);
  text_fini(&once);
  text_fini(&twice);
}

static Module *pass(Session *s, const PassInfo *p, const PassOpts *o, const Module *in) {
  Builder *b = builder_create(s->strings, s->diag, p->gives);
  Module *out = NULL;
  Status status = p->run(in, o, b, s->diag);
  if (status)
    builder_destroy(b);
  else
    status = builder_finish(b, &out);
  must(s, status, p->name);
  check_text(s, out, p->name);
  return out;
}

/* ---- running --------------------------------------------------------------------------------- */

/* One row of the step table by its columns, as docs/ir.md names them. */
static void fill_table(const Tensor *t, double *v) {
  const char *columns = tensor_str(t, "columns", "");
  int64_t rows = t->type->dim[0], n = t->type->dim[1], c = 0;
  for (const char *w = columns; *w && c < n; c++) {
    for (int64_t r = 0; r < rows; r++)
      v[r * n + c] = !strncmp(w, "lr", 2)    ? 0.01
                     : !strncmp(w, "bc1", 3) ? 1 - pow(0.9, (double)r + 1)
                                             : sqrt(1 - pow(0.999, (double)r + 1));
    w += strcspn(w, " ");
    w += *w == ' ';
  }
}

static void feed(const Module *m, Eval *e) {
  for (int i = 0; i < m->ntensor; i++) {
    const Tensor *t = m->tensor[i];
    double *v = eval_tensor(e, t);
    for (int64_t k = 0; t->role == ROLE_INPUT && k < type_elems(t->type); k++)
      v[k] = t->type->dt == MPCC_I64 ? (double)((k * 7 + 3) % 5)
                                     : 2 * (double)scalar_rand(3, 0, k, 1) - 1;
    if (t->role == ROLE_VALID)
      v[0] = 14; /* two of the batch are padding */
    else if (t->role == ROLE_SEED)
      v[0] = 77;
    for (int64_t k = 0; t->role == ROLE_SCALE && k < type_elems(t->type); k++)
      v[k] = 1; /* before `step`, init does not know it */
    if (t->role == ROLE_TABLE)
      fill_table(t, v);
  }
}

static Eval *start(const Module *m) {
  Eval *e;
  ck_assert_int_eq(eval_create(m, true, &e), MPCC_OK);
  feed(m, e);
  return e;
}

static bool run(const Module *m, Eval *e, const char *name) {
  const Func *f = module_func(m, name);
  if (f)
    ck_assert_msg(eval_run(e, f) == MPCC_OK, "%s fails", name);
  return f != NULL;
}

/* Tensors of the same name differ by at most `most` of their norm. The weight copies and gradients
 * whose true value is zero (a key's bias moves no softmax) are left out through `floor`. */
static void compare(const Module *a, Eval *x, const Module *b, Eval *y, const char *after,
                    double most, double floor) {
  for (int i = 0; i < a->ntensor; i++) {
    const Tensor *t = a->tensor[i], *u = module_tensor(b, t->name);
    if (!u || type_elems(u->type) != type_elems(t->type))
      continue;
    const double *p = eval_tensor(x, t), *q = eval_tensor(y, u);
    double apart = 0, norm = 0;
    int64_t n = type_elems(t->type);
    for (int64_t k = 0; k < n; k++) {
      ck_assert_msg(isfinite(p[k]) && isfinite(q[k]), "%s: @%s is not finite", after, t->name);
      apart += (p[k] - q[k]) * (p[k] - q[k]);
      norm += p[k] * p[k];
    }
    ck_assert_msg(sqrt(apart) <= most * sqrt(norm) + floor, "after %s @%s is off by %.3g of %.3g",
                  after, t->name, sqrt(apart), sqrt(norm));
  }
}

/* Runs every function that both modules have, in order, from equal inputs. */
static void same_meaning(const Module *a, const Module *b, const char *after, double most) {
  static const char *const functions[] = {
      "init",        "train_forward", "eval_forward", "refresh",   "train_step", "train_step",
      "micro_first", "micro_next",    "update_step",  "calibrate", "eval_step",  "predict"};
  Eval *x = start(a), *y = start(b);
  int ran = 0;
  for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
    if (module_func(b, functions[i])) {
      if (!run(a, x, functions[i]))
        continue;
      run(b, y, functions[i]);
      compare(a, x, b, y, after, most, 1e-9);
      ran++;
    }
  ck_assert_int_ge(ran, 3);
  ck_assert_double_gt(*eval_tensor(x, module_tensor(a, "metric.loss_sum")), 1);
  eval_destroy(x);
  eval_destroy(y);
}

/* ---- gradients ------------------------------------------------------------------------------- */

static double loss(const Module *m, Eval *e) {
  run(m, e, "train_forward");
  return *eval_tensor(e, module_tensor(m, "metric.loss_sum"));
}

/* A few elements of every parameter: d loss_sum by central differences. */
static void check_gradients(const Module *m) {
  Eval *e = start(m);
  run(m, e, "init");
  for (int i = 0; i < m->ntensor; i++) {
    const Tensor *t = m->tensor[i];
    if (t->role != ROLE_PARAM)
      continue;
    char name[200];
    snprintf(name, sizeof name, "grad.%s", t->name);
    const Tensor *g = module_tensor(m, name);
    ck_assert_msg(g != NULL, "no %s", name);
    double *v = eval_tensor(e, t);
    for (int64_t k = 0; k < 2; k++) {
      const int64_t at = (k * 7919 + 5) % type_elems(t->type);
      const double h = 1e-4, keep = v[at];
      loss(m, e);
      double slope = eval_tensor(e, g)[at];
      v[at] = keep + h;
      double up = loss(m, e);
      v[at] = keep - h;
      double down = loss(m, e);
      v[at] = keep;
      ck_assert_msg(fabs((up - down) / (2 * h) - slope) <= 1e-6 + 1e-5 * fabs(slope),
                    "%s[%lld] is %.9g, differences give %.9g", name, (long long)at, slope,
                    (up - down) / (2 * h));
    }
  }
  eval_destroy(e);
}

/* Test i: mode i / 2, in fused (even) or strict (odd) numerics. */
START_TEST(every_pass) {
  /* fuse turns constants of float32 registers into float32 numbers: 2^-24 each. */
  const double until_fuse = 1e-10, from_fuse = 2e-5;
  TargetCaps caps = {.name = "cpu",
                     .level = "x86-64-v4",
                     .vector_bytes = 64,
                     .bf16_dot = _i % 4 > 1,
                     .panel_cols_f64 = 16,
                     .panel_cols_f32 = 32,
                     .panel_cols_bf16 = 32,
                     .k_pair_bf16 = 2,
                     .panel_bytes_rows = 32768};
  PassOpts o = {.caps = &caps, .strict = _i % 2, .no_reuse = _i % 2, .opt_level = 2};
  Session s = session();
  Module *m = lower(&s, modes[_i / 2]), *before = m;
  const bool all = _i / 2 == 1 || _i / 2 == 6; /* 32-true, transformer-engine */
  int n;
  const PassInfo *table = pass_table(&n);
  for (int i = 0; i < n; i++) {
    Module *next = pass(&s, &table[i], &o, m);
    if (m != before)
      module_destroy(m);
    m = next;
    /* Strict runs differ from fuse on; modes of one family by what autocast and fp8 do. */
    bool skip = o.strict ? m->stage < STAGE_KERNELS : !all && m->stage < STAGE_LAID;
    if (skip && m->stage != STAGE_STEP) {
      continue;
    } else if (m->stage < STAGE_STEP) {
      same_meaning(before, m, table[i].name, until_fuse);
    } else if (m->stage == STAGE_STEP) { /* new functions: the reference from here on */
      module_destroy(before);
      before = m;
    } else {
      same_meaning(before, m, table[i].name, m->stage < STAGE_KERNELS ? until_fuse : from_fuse);
    }
    if (m->stage == STAGE_TRAIN && all)
      check_gradients(m);
  }
  ck_assert_int_eq(m->stage, STAGE_PLANNED);
  module_destroy(m);
  module_destroy(before);
  arena_destroy(s.arena);
}
END_TEST

int main(void) {
  Suite *s = suite_create("meaning");
  TCase *t = tcase_create("passes");
  tcase_set_timeout(t, 300);
  tcase_add_loop_test(t, every_pass, 0, 2 * (int)(sizeof modes / sizeof *modes));
  suite_add_tcase(s, t);
  return check_run(s);
}
