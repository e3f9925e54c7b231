/* Shared by tests of fuse and plan: a module from text, a target, and the comparison of two modules
 * by the reference interpreter. */
#ifndef PASS_CHECK_H
#define PASS_CHECK_H

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ir/ir.h"
#include "mpcc/num.h"
#include "passes/passes.h"

static const TargetCaps test_caps = {.name = "cpu",
                                     .level = "x86-64-v3",
                                     .vector_bytes = 32,
                                     .panel_cols_f64 = 8,
                                     .panel_cols_f32 = 16,
                                     .panel_cols_bf16 = 16,
                                     .k_pair_bf16 = 1,
                                     .panel_bytes_rows = 64 << 10};

typedef struct {
  Arena *arena;
  StrTable *strings;
  Diag *diag;
} World;

static inline World world_create(void) {
  World w = {arena_create(), NULL, NULL};
  w.strings = str_table_create(w.arena);
  w.diag = diag_create(w.arena, w.strings);
  return w;
}

static inline void world_destroy(World *w) {
  arena_destroy(w->arena);
}

static inline void world_show(const World *w) {
  for (const DiagMessage *m = diag_first(w->diag); m; m = m->next) {
    Text t = {0};
    diag_render(w->diag, m, false, &t);
    fprintf(stderr, "%s\n", t.data ? t.data : "");
    text_fini(&t);
  }
}

static inline Module *world_parse(World *w, const char *text) {
  Module *m = NULL;
  uint32_t file = diag_file(w->diag, "test.mpir", text, strlen(text));
  if (module_parse(w->strings, w->diag, file, text, strlen(text), &m) != MPCC_OK) {
    world_show(w);
    ck_abort_msg("the module does not parse");
  }
  return m;
}

static inline Module *world_pass(World *w, PassFn *pass, Stage gives, const Module *in,
                                 PassOpts o) {
  Builder *b = builder_create(w->strings, w->diag, gives);
  Module *out = NULL;
  Status s = pass(in, &o, b, w->diag);
  if (s == MPCC_OK)
    s = builder_finish(b, &out);
  else
    builder_destroy(b);
  if (s != MPCC_OK) {
    world_show(w);
    ck_abort_msg("the pass failed: %d", s);
  }
  return out;
}

static inline void world_print(const World *w, const Module *m) {
  Text t = {0};
  module_print(m, w->diag, &t);
  fprintf(stderr, "%s", t.data);
  text_fini(&t);
}

static inline uint32_t test_random(uint32_t *state) {
  *state = *state * 1664525u + 1013904223u;
  return *state >> 8;
}

/* Reproducible contents; integers stay small enough to index what tests index. */
static inline void fill_tensors(const Module *m, Eval *e) {
  uint32_t seed = 12345;
  for (int i = 0; i < m->ntensor; i++) {
    const Tensor *t = m->tensor[i];
    double *x = eval_tensor(e, t);
    for (int64_t k = 0; !t->base && k < type_elems(t->type); k++) {
      double u = (double)test_random(&seed) / (1 << 24);
      if (dtype_is_float(t->type->dt))
        x[k] = num_round(t->role == ROLE_SCALE ? 0.5 + u : 2 * u - 1, t->type->dt);
      else
        x[k] = floor(u * 4);
    }
  }
}

/* Runs every function of both modules on equal contents; all tensors must agree to within tol times
 * the largest magnitude of the tensor, plus one unit of its format. */
static inline void check_equal(const Module *a, const Module *b, double tol) {
  for (int f = 0; f < a->nfunc; f++) {
    Eval *x, *y;
    ck_assert_int_eq(eval_create(a, false, &x), MPCC_OK);
    ck_assert_int_eq(eval_create(b, false, &y), MPCC_OK);
    fill_tensors(a, x);
    fill_tensors(b, y);
    ck_assert_msg(eval_run(x, a->func[f]) == MPCC_OK, "before: %s", a->func[f]->name);
    ck_assert_msg(eval_run(y, module_func(b, a->func[f]->name)) == MPCC_OK, "after: %s",
                  a->func[f]->name);
    for (int i = 0; i < a->ntensor; i++) {
      const Tensor *t = a->tensor[i], *u = module_tensor(b, t->name);
      const double *p = eval_tensor(x, t), *q = eval_tensor(y, u);
      int64_t n = type_elems(t->type);
      double top = 1e-30;
      for (int64_t k = 0; k < n; k++)
        if (isfinite(p[k]))
          top = fmax(top, fabs(p[k]));
      double eps = dtype_is_float(t->type->dt) ? dtype_info(t->type->dt)->eps : 0;
      for (int64_t k = 0; k < n; k++) {
        bool same = p[k] == q[k] || (isnan(p[k]) && isnan(q[k])) ||
                    fabs(p[k] - q[k]) <= tol * top + eps * fabs(p[k]);
        ck_assert_msg(same, "%s: @%s[%lld]: %.9g before, %.9g after", a->func[f]->name, t->name,
                      (long long)k, p[k], q[k]);
      }
    }
    eval_destroy(x);
    eval_destroy(y);
  }
}

static inline int count_groups(const Module *m, const char *kind) {
  int n = 0;
  for (int f = 0; f < m->nfunc; f++)
    for (int i = 0; i < m->func[f]->nop; i++) {
      const Op *op = m->func[f]->op[i];
      n += op->code == OP_group && (!kind || !strcmp(op_str(op, "kind", ""), kind));
    }
  return n;
}

#endif
