/* canon: drops what no write needs and views or casts that change nothing; a view of a view becomes
 * one view. Tensors are all kept, io tensors too: they are the program's interface.
 * Stage forward to forward. One sweep in order: each rule looks at operands already in final form.
 */
#include "passes/passes.h"

static bool identity_perm(const Attr *perm) {
  for (int i = 0; i < perm->u.ints.n; i++)
    if (perm->u.ints.v[i] != i)
      return false;
  return true;
}

/* permute(permute(x, p), q) = permute(x, p[q[i]]) */
static Value *fold_permutes(Builder *b, Value *x, const Attr *outer) {
  const Attr *inner = op_attr(x->def, "perm");
  int64_t perm[MAX_RANK];
  bool same = true;
  for (int i = 0; i < outer->u.ints.n; i++) {
    perm[i] = inner->u.ints.v[outer->u.ints.v[i]];
    same &= perm[i] == i;
  }
  return same ? x->def->in[0] : build_permute(b, x->def->in[0], perm);
}

/* What op yields over the new operands, when that needs no op of its own or a simpler one. */
static Value *simplify(Copier *c, const Op *op) {
  if (op->nin != 1 || op->nout != 1)
    return NULL;
  Value *x = mapped(c, op, 0);
  const Type *ty = op->out[0]->type;
  switch (op->code) {
  case OP_reshape:
    if (type_same_shape(x->type, ty))
      return x;
    return x->def->code == OP_reshape ? build_reshape(c->b, x->def->in[0], ty->rank, ty->dim)
                                      : NULL;
  case OP_expand:
  case OP_slice:
    return type_same_shape(x->type, ty) ? x : NULL;
  case OP_cast:
    return x->type->dt == ty->dt && !op_int(op, "by_hand", 0) ? x : NULL;
  case OP_permute:
    if (identity_perm(op_attr(op, "perm")))
      return x;
    return x->def->code == OP_permute ? fold_permutes(c->b, x, op_attr(op, "perm")) : NULL;
  default:
    return NULL;
  }
}

static Status simplify_all(const Module *in, const PassOpts *o, Builder *out, Diag *d) {
  (void)o, (void)d;
  Copier c;
  copier_init(&c, out, in);
  for (int i = 0; i < in->nfunc; i++) {
    const Func *f = in->func[i];
    copier_func(&c, f, f->name);
    for (int k = 0; k < f->nop && !builder_failed(out); k++) {
      const Op *op = f->op[k];
      build_like(out, op);
      Value *v = simplify(&c, op);
      if (v)
        c.map[op->out[0]->id] = v;
      else
        copier_op(&c, op);
    }
  }
  return MPCC_OK;
}

Status pass_canon(const Module *in, const PassOpts *o, Builder *out, Diag *d) {
  return rewrite_and_sweep(in, STAGE_FORWARD, simplify_all, o, out, d);
}
