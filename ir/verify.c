/* Invariants of a module at its stage. A broken one is an error of ours (a pass or a hand-written
 * .mpir file), so every message names function, op and rule, and the status is ERR_INTERNAL. */
#include "ir/ir.h"

#include <stdio.h>
#include <string.h>

typedef struct {
  const Module *m;
  Diag *d;
  const Func *f; /* NULL while tensors are checked */
  const Op *op;
} Verify;

__attribute__((format(printf, 2, 3))) static void broken(Verify *v, const char *fmt, ...) {
  char text[512];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  Loc loc = v->op ? v->op->loc : (Loc){0};
  if (v->op)
    diag_error(v->d, loc, 701, "verify: @%s op %d (%s%s%s): %s", v->f->name, v->op->index,
               op_info(v->op->code)->name, v->op->layer && *v->op->layer ? ", layer " : "",
               v->op->layer ? v->op->layer : "", text);
  else
    diag_error(v->d, loc, 701, "verify: %s%s%s", v->f ? v->f->name : "", v->f ? ": " : "", text);
}

static void check_tensor(Verify *v, const Tensor *t, int i) {
  if (t->index != i)
    broken(v, "tensor '%s' has index %d at position %d", t->name, t->index, i);
  if (module_tensor(v->m, t->name) != t)
    broken(v, "two tensors are named '%s'", t->name);
  if (!t->base)
    return;
  if (t->base->base)
    broken(v, "tensor '%s' is a view of a view", t->name);
  if (t->base->type->dt != t->type->dt)
    broken(v, "tensor '%s' is %s, its base '%s' is %s", t->name, dtype_text(t->type->dt),
           t->base->name, dtype_text(t->base->type->dt));
  int64_t n = type_elems(t->type), all = type_elems(t->base->type);
  if (t->base_elem < 0 || n > all || t->base_elem > all - n)
    broken(v, "tensor '%s' at element %lld lies outside its base '%s'", t->name,
           (long long)t->base_elem, t->base->name);
}

static void check_operands(Verify *v, const Op *op, int *next_id) {
  for (int i = 0; i < op->nin; i++) {
    const Value *x = op->in[i];
    if (!x || !x->def || x->def->func != v->f || x->def->index >= op->index || x->def->index < 0 ||
        v->f->op[x->def->index] != x->def || x->out >= x->def->nout || x->def->out[x->out] != x)
      broken(v, "operand %d is not a value defined before it", i);
  }
  for (int i = 0; i < op->nout; i++) {
    const Value *x = op->out[i];
    if (!x || x->def != op || x->out != i || !x->type) {
      broken(v, "result %d is not tied to its op", i);
      continue;
    }
    if (x->id != (*next_id)++)
      broken(v, "result %d has id %d out of order", i, x->id);
  }
}

static void check_func(Verify *v) {
  const Func *f = v->f;
  int next_id = 0;
  for (int i = 0; i < f->nop; i++) {
    v->op = f->op[i];
    if (v->op->index != i || v->op->func != f) {
      broken(v, "index %d at position %d", v->op->index, i);
      return;
    }
    check_operands(v, v->op, &next_id);
  }
  v->op = NULL;
  if (next_id != f->nvalue)
    broken(v, "%d values, nvalue says %d", next_id, f->nvalue);
}

Status module_verify(const Module *m, Diag *d) {
  Verify v = {m, d, NULL, NULL};
  int before = diag_errors(d);
  for (int i = 0; i < m->ntensor; i++)
    check_tensor(&v, m->tensor[i], i);
  for (int i = 0; i < m->nfunc; i++) {
    v.f = m->func[i];
    if (module_func(m, v.f->name) != v.f)
      broken(&v, "two functions have this name");
    check_func(&v);
  }
  return diag_errors(d) == before ? MPCC_OK : MPCC_ERR_INTERNAL;
}
