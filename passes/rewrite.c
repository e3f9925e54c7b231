/* Helpers of passes that copy a module with changes. */
#include "passes/passes.h"

double module_number(const Module *m, const char *key, double otherwise) {
  const Attr *a = attr_find(m->attr, m->nattr, key);
  if (!a)
    return otherwise;
  if (a->kind == AT_FLOAT)
    return a->u.f;
  return a->kind == AT_INT || a->kind == AT_BOOL ? (double)a->u.i : otherwise;
}

bool *func_live(const Func *f, Arena *a) {
  bool *live = ARENA_ARRAY(a, bool, f->nop + 1);
  if (arena_failed(a))
    return live;
  for (int i = f->nop - 1; i >= 0; i--) {
    const Op *op = f->op[i];
    live[i] |= op_is_sink(op->code) || op->code == OP_arg; /* a loop gives all */
    for (int k = 0; live[i] && k < op->nin; k++)
      live[op->in[k]->def->index] = true;
  }
  return live;
}

static Status copy_live(const Module *in, Builder *out) {
  Arena *scratch = arena_create();
  if (!scratch)
    return MPCC_ERR_NOMEM;
  Copier c;
  copier_init(&c, out, in);
  for (int i = 0; i < in->nfunc; i++) {
    const Func *f = in->func[i];
    bool *live = func_live(f, scratch);
    copier_func(&c, f, f->name);
    for (int k = 0; k < f->nop && !arena_failed(scratch) && !builder_failed(out); k++)
      if (live[k])
        copier_op(&c, f->op[k]);
  }
  Status st = arena_failed(scratch) ? MPCC_ERR_NOMEM : MPCC_OK;
  arena_destroy(scratch);
  return st;
}

Status rewrite_and_sweep(const Module *in, Stage gives, PassFn *rewrite, const PassOpts *o,
                         Builder *out, Diag *d) {
  Builder *b = builder_create(in->strings, d, gives);
  if (!b)
    return MPCC_ERR_NOMEM;
  Status st = rewrite(in, o, b, d);
  if (st != MPCC_OK) {
    builder_destroy(b);
    return st;
  }
  Module *all;
  st = builder_finish(b, &all);
  if (st == MPCC_OK)
    st = copy_live(all, out);
  module_destroy(all);
  return st;
}

static Attr map_attr(const Attr *a, Tensor *const *map) {
  Attr r = *a;
  if (a->kind == AT_TENSOR && map)
    r.u.tensor = map[a->u.tensor->index];
  return r;
}

Tensor *copy_tensor(Builder *b, const Tensor *t, const char *name, const Type *type, Tensor *base,
                    int64_t base_elem, Tensor *const *map) {
  Tensor *n = base ? build_tensor_view(b, name, type, t->role, base, base_elem, t->loc)
                   : build_tensor(b, name, type, t->role, t->loc);
  for (int i = 0; i < t->nattr; i++)
    build_tensor_attr(b, n, map_attr(&t->attr[i], map));
  return n;
}

Op *rebuild_op(Copier *c, const Op *op, Value *const *in) {
  Builder *b = c->b;
  Attr *attr = ARENA_ARRAY(builder_arena(b), Attr, op->nattr + 1);
  if (arena_failed(builder_arena(b)))
    return copier_op(c, op); /* harmless: the builder has failed as well */
  for (int i = 0; i < op->nattr; i++)
    attr[i] = map_attr(&op->attr[i], c->tensors);
  build_at(b, op->loc, op->layer, op->why);
  Op *n = build_op(b, op->code, op->nin, in, op->nattr, attr);
  for (int i = 0; i < op->nout && i < n->nout; i++)
    c->map[op->out[i]->id] = n->out[i];
  return n;
}

Value *mapped(const Copier *c, const Op *op, int i) {
  return copier_get(c, op->in[i]);
}

const Op *param_read(const Value *v) {
  for (const Op *op = v->def;; op = op->in[0]->def) {
    if (op->code == OP_read) {
      const Attr *t = op_attr(op, "tensor");
      return t && t->u.tensor->role == ROLE_PARAM ? op : NULL;
    }
    bool view = op_info(op->code)->kind == OK_VIEW && op->code != OP_qgrad;
    if (!view && op->code != OP_cast)
      return NULL;
  }
}
