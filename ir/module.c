/* Reading a module: functions, tensors and attributes by name, uses of values. */
#include "ir/ir.h"

#include <string.h>

void module_destroy(Module *m) {
  if (m)
    arena_destroy(m->arena);
}

Func *module_func(const Module *m, const char *name) {
  for (int i = 0; i < m->nfunc; i++)
    if (!strcmp(m->func[i]->name, name))
      return m->func[i];
  return NULL;
}

Tensor *module_tensor(const Module *m, const char *name) {
  for (int i = 0; i < m->ntensor; i++)
    if (!strcmp(m->tensor[i]->name, name))
      return m->tensor[i];
  return NULL;
}

const Attr *attr_find(const Attr *attr, int n, const char *key) {
  for (int i = 0; i < n; i++) /* most keys differ in their first byte: no call for those */
    if (*attr[i].key == *key && !strcmp(attr[i].key, key))
      return &attr[i];
  return NULL;
}

static int64_t int_of(const Attr *at, int64_t otherwise) {
  return at && (at->kind == AT_INT || at->kind == AT_BOOL || at->kind == AT_DTYPE) ? at->u.i
                                                                                   : otherwise;
}

/* An integer counts as a float: texts may write 1 for 1.0. */
static double float_of(const Attr *at, double otherwise) {
  if (at && at->kind == AT_INT)
    return (double)at->u.i;
  return at && at->kind == AT_FLOAT ? at->u.f : otherwise;
}

static const char *str_of(const Attr *at, const char *otherwise) {
  return at && at->kind == AT_STR ? at->u.s : otherwise;
}

const Attr *op_attr(const Op *op, const char *key) {
  return attr_find(op->attr, op->nattr, key);
}

bool attr_is_told(const Attr *a) {
  return !strcmp(a->key, "label") || !strcmp(a->key, "others");
}

int64_t op_int(const Op *op, const char *key, int64_t otherwise) {
  return int_of(op_attr(op, key), otherwise);
}

double op_float(const Op *op, const char *key, double otherwise) {
  return float_of(op_attr(op, key), otherwise);
}

const char *op_str(const Op *op, const char *key, const char *otherwise) {
  return str_of(op_attr(op, key), otherwise);
}

int64_t tensor_int(const Tensor *t, const char *key, int64_t otherwise) {
  return int_of(attr_find(t->attr, t->nattr, key), otherwise);
}

int64_t tensor_numel(const Tensor *t) {
  return type_elems(t->type) / (tensor_int(t, "complex", 0) ? 2 : 1);
}

double tensor_float(const Tensor *t, const char *key, double otherwise) {
  return float_of(attr_find(t->attr, t->nattr, key), otherwise);
}

const char *tensor_str(const Tensor *t, const char *key, const char *otherwise) {
  return str_of(attr_find(t->attr, t->nattr, key), otherwise);
}

int64_t module_int(const Module *m, const char *key, int64_t otherwise) {
  return int_of(attr_find(m->attr, m->nattr, key), otherwise);
}

double module_float(const Module *m, const char *key, double otherwise) {
  return float_of(attr_find(m->attr, m->nattr, key), otherwise);
}

const char *module_str(const Module *m, const char *key, const char *otherwise) {
  return str_of(attr_find(m->attr, m->nattr, key), otherwise);
}

Uses *func_uses(const Func *f, Arena *a) {
  Uses *uses = ARENA_ARRAY(a, Uses, f->nvalue);
  int total = 0;
  for (int i = 0; i < f->nop; i++)
    total += f->op[i]->nin;
  Op **all = ARENA_ARRAY(a, Op *, total);
  if (arena_failed(a))
    return uses;
  for (int i = 0; i < f->nop; i++)
    for (int k = 0; k < f->op[i]->nin; k++)
      uses[f->op[i]->in[k]->id].n++;
  for (int v = 0; v < f->nvalue; v++) {
    uses[v].op = all;
    all += uses[v].n;
    uses[v].n = 0;
  }
  for (int i = 0; i < f->nop; i++)
    for (int k = 0; k < f->op[i]->nin; k++) {
      Uses *u = &uses[f->op[i]->in[k]->id];
      u->op[u->n++] = f->op[i];
    }
  return uses;
}

bool body_same_access(const Body *b, const Access *x, const Access *y) {
  if (x->offset != y->offset)
    return false;
  for (int d = 0; d < b->ndim; d++)
    if (b->dim[d] > 1 && x->stride[d] != y->stride[d])
      return false;
  return true;
}
