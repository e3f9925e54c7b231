/* Gradients against central differences: the interpreter runs the module that pass_grad made,
 * without rounding; each checked element of each operand is moved by a step both ways. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "opcheck.h"

/* Elements checked per operand, spread over it; each costs two runs. Larger instances are only
 * judged by their kernels. */
enum { CHECKED = 24, LARGEST = 3000 };

static double loss_at(Eval *e, const Unit *u, double *x, double v) {
  double old = *x;
  *x = v;
  Status s = eval_run(e, u->func);
  *x = old;
  return s == MPCC_OK ? eval_tensor(e, module_tensor(u->whole, "metric.loss"))[0] : NAN;
}

static int64_t elements(const Module *m) {
  int64_t n = 0;
  for (int i = 0; i < m->ntensor; i++)
    n += type_elems(m->tensor[i]->type);
  return n;
}

/* The step h balances truncation, h^2 of the third derivative, and rounding, 2^-53 / h: both are
 * about 1e-10 of losses and derivatives near 1. The bound leaves a factor of 100. */
static bool check_operand(Eval *e, const Unit *u, const Tensor *t, const Inst *i,
                          const Options *o) {
  char name[NAME_MAX_BYTES];
  const double h = 2e-5;
  snprintf(name, sizeof name, "grad.%s", t->name);
  const Tensor *g = module_tensor(u->whole, name);
  double *x = eval_tensor(e, t), most = 0;
  const double seed = tensor_float(module_tensor(u->whole, "metric.loss"), "seed", 1);
  int64_t n = type_elems(t->type), stride = (n + CHECKED - 1) / CHECKED;
  double gradient[CHECKED] = {0};
  eval_run(e, u->func);
  for (int64_t k = 0; g && k < n; k++)
    most = fmax(most, fabs(eval_tensor(e, g)[k]));
  for (int64_t k = 0; g && k * stride < n; k++)
    gradient[k] = eval_tensor(e, g)[k * stride];
  for (int64_t k = 0; k * stride < n; k++) {
    double *at = &x[k * stride], v = *at;
    double want = (loss_at(e, u, at, v + h) - loss_at(e, u, at, v - h)) * seed / (2 * h);
    if (fabs(want - gradient[k]) <= 1e-8 * seed + 1e-6 * most)
      continue;
    inst_name(i, name);
    printf("FAIL %s %s, gradient: grad.%s[%lld] is %.12g, the difference quotient %.12g\n", name,
           i->shape, t->name, (long long)(k * stride), gradient[k], want);
    print_rerun(i, o, "strict", -1);
    return false;
  }
  return true;
}

bool grad_check(World *w, const Inst *i, const Options *o) {
  Inst wide = *i;
  wide.dt = MPCC_F64;
  Unit u;
  Eval *e = NULL;
  Status s = unit_build(w, &wide, &u);
  if (s == MPCC_OK && elements(u.whole) > LARGEST) {
    unit_fini(&u);
    return true;
  }
  if (s == MPCC_OK)
    s = eval_create(u.whole, true, &e);
  bool ok = s == MPCC_OK;
  int checked = 0;
  for (int k = 0; ok && k < u.whole->ntensor; k++)
    if (!is_result(u.whole->tensor[k]))
      data_fill(&wide, u.whole->tensor[k], DATA_RANDOM, o->seed,
                eval_tensor(e, u.whole->tensor[k]));
  for (int k = 0; ok && k < u.whole->ntensor; k++)
    if (u.whole->tensor[k]->role == ROLE_PARAM) {
      ok = check_operand(e, &u, u.whole->tensor[k], &wide, o);
      checked++;
    }
  if (s == MPCC_OK && !checked) {
    printf("FAIL %s: no operand gets a gradient\n", i->c->op);
    ok = false;
  }
  eval_destroy(e);
  if (s == MPCC_OK)
    unit_fini(&u);
  return ok;
}
