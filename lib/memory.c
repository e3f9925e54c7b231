/* Memory of a training step by what it is for, each figure beside the formula it comes from. Of a
 * module of stage saved: before kernels are joined, so what fusing never stores counts here and the
 * plan's own bytes are the last word. */
#include <stdio.h>
#include <string.h>

#include "lib/lib.h"
#include "passes/passes.h"

/* Tensors that a person knows: storage of views is not one of them. */
static bool counts(const Module *m, const Tensor *t, Role role) {
  if (t->role != role || attr_find(t->attr, t->nattr, "flat"))
    return false;
  for (int i = t->index + 1; i < m->ntensor && !t->base; i++)
    if (m->tensor[i]->base == t)
      return false;
  return true;
}

/* Adds elements by dtype. */
typedef struct {
  int64_t elems[MPCC_DTYPE_COUNT];
} Elems;

static int64_t put_formula(const Elems *e, Text *formula) {
  int64_t bytes = 0;
  bool first = true;
  for (int dt = 0; dt < MPCC_DTYPE_COUNT; dt++) {
    int64_t size = (int64_t)dtype_bytes((DType)dt);
    if (!e->elems[dt])
      continue;
    text_printf(formula, "%s%lld x %lld (%s)", first ? "" : " + ", (long long)e->elems[dt],
                (long long)size, dtype_text((DType)dt));
    bytes += e->elems[dt] * size;
    first = false;
  }
  return bytes;
}

static void add(MemoryUse *u, const char *what, const Elems *e, const char *words) {
  MemoryRow *r = &u->row[u->n++];
  Text formula = {0};
  r->what = what;
  r->bytes = put_formula(e, &formula);
  snprintf(r->formula, sizeof r->formula, "%s%s%s", formula.data ? formula.data : "0",
           *words ? ": " : "", words);
  text_fini(&formula);
}

static Elems by_role(const Module *m, Role role) {
  Elems e = {{0}};
  for (int i = 0; i < m->ntensor; i++)
    if (counts(m, m->tensor[i], role))
      e.elems[m->tensor[i]->type->dt] += type_elems(m->tensor[i]->type);
  return e;
}

/* The value whose memory v is: views have none of their own. */
static const Value *storage(const Value *v) {
  while (op_info(v->def->code)->kind == OK_VIEW && v->def->nin)
    v = v->def->in[0];
  return v;
}

/* Forward values that backward reads. */
static Elems kept(const Module *m, Arena *a) {
  Elems e = {{0}};
  const Func *f = module_func(m, "train_step");
  bool *seen = ARENA_ARRAY(a, bool, (f ? f->nvalue : 0) + 1);
  int loss = f ? f->nop : 0;
  for (int i = 0; f && i < f->nop; i++)
    if (op_info(f->op[i]->code)->is_root)
      loss = i;
  for (int i = loss + 1; f && i < f->nop && !arena_failed(a); i++)
    for (int k = 0; k < f->op[i]->nin; k++) {
      const Value *v = storage(f->op[i]->in[k]);
      bool made = v->def->code != OP_read && v->def->code != OP_const && v->def->index <= loss &&
                  !op_int(v->def, "packed", 0);
      if (made && !seen[v->id]) {
        seen[v->id] = true;
        e.elems[v->type->dt] += type_elems(v->type);
      }
    }
  return e;
}

/* Elements of parameters that products round while they pack them, each parameter once. */
static int64_t rounded_by_packs(const Module *m, Arena *a) {
  const Func *f = module_func(m, "train_step");
  bool *seen = ARENA_ARRAY(a, bool, m->ntensor + 1);
  int64_t n = 0;
  for (int i = 0; f && i < f->nop && !arena_failed(a); i++) {
    const Op *op = f->op[i];
    if (op->code != OP_cast || !op_int(op, "packed", 0))
      continue;
    const Tensor *t = op_attr(op->in[0]->def, "tensor")->u.tensor;
    n += seen[t->index] ? 0 : type_elems(t->type);
    seen[t->index] = true;
  }
  return n;
}

Status memory_use(Compilation *c, MemoryUse *u) {
  const Module *m = c->module;
  Mode mode;
  u->n = 0;
  Status st = mode_get(m, c->diag, &mode);
  Arena *a = st == MPCC_OK ? arena_create() : NULL;
  if (st == MPCC_OK && !a)
    st = MPCC_ERR_NOMEM;
  if (st != MPCC_OK)
    return st;
  Elems params = by_role(m, ROLE_PARAM), copies = by_role(m, ROLE_WEIGHT);
  Elems moments = by_role(m, ROLE_MOMENT), grads = {{0}}, saved = kept(m, a);
  for (int i = 0; i < m->ntensor; i++) /* trained parameters are views of a group's flat tensor */
    if (m->tensor[i]->role == ROLE_PARAM && m->tensor[i]->base)
      grads.elems[mode.grad] += type_elems(m->tensor[i]->type);
  add(u, "parameters", &params, "");
  char words[96] = "";
  int64_t packed = rounded_by_packs(m, a);
  if (packed)
    snprintf(words, sizeof words, "%lld more have none: products round them as they pack",
             (long long)packed);
  add(u, "copies for compute", &copies, words);
  add(u, "optimizer", &moments, "");
  add(u, "gradients", &grads, "trained parameters");
  add(u, "activations", &saved, "forward values that backward reads");
  if (arena_failed(a))
    st = MPCC_ERR_NOMEM;
  arena_destroy(a);
  return st;
}

void memory_explain(const MemoryUse *u, Text *out) {
  int64_t sum = 0;
  text_puts(out, "\nmemory by use, bytes\n");
  for (int i = 0; i < u->n; i++) {
    sum += u->row[i].bytes;
    text_printf(out, "  %-20s %14lld = %s\n", u->row[i].what, (long long)u->row[i].bytes,
                u->row[i].formula);
  }
  text_printf(out, "  %-20s %14lld\n", "sum", (long long)sum);
}
