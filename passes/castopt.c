/* castopt: fewer casts, same values.
 *   - equal casts of one value are one (the Builder's value numbering)
 *   - cast(cast(x, wider), t) = cast(x, t): widening is exact, so only the last rounding counts.
 *     A narrowing cast is never cancelled: f32 -> bf16 -> f32 loses bits and stays [N10]
 *   - cast(view(x)) = view(cast(x)): a parameter is then cast whole, once per step, whatever slices
 *     and reshapes of it the model reads; an expanded value is cast before it grows
 * Stage forward to typed. One sweep; each rule recurses towards the producer, so it ends. */
#include "passes/passes.h"

/* Every value of format a is a value of format b. */
static bool contains(DType b, DType a) {
  const DTypeInfo *x = dtype_info(a), *y = dtype_info(b);
  return x->cls == 'F' && y->cls == 'F' && y->mantissa_bits >= x->mantissa_bits &&
         y->exponent_bits >= x->exponent_bits && !dtype_is_fp8(b);
}

static bool cast_passes(const Value *view) {
  switch (view->def->code) {
  case OP_reshape:
  case OP_permute:
  case OP_expand:
    return true;
  case OP_slice: /* of an activation the rest might need no cast */
    return param_read(view) != NULL;
  default:
    return false;
  }
}

static Value *cast_early(Builder *b, Value *v, DType dt) {
  if (v->type->dt == dt)
    return v;
  const Op *def = v->def;
  if (def->code == OP_cast && contains(v->type->dt, def->in[0]->type->dt))
    return cast_early(b, def->in[0], dt);
  if (!cast_passes(v))
    return build_cast(b, v, dt);
  Value *x = cast_early(b, def->in[0], dt);
  return build_op(b, def->code, 1, &x, def->nattr, def->attr)->out[0];
}

static Status move_casts(const Module *in, const PassOpts *o, Builder *b, Diag *d) {
  (void)o, (void)d;
  Copier c;
  copier_init(&c, b, in);
  for (int i = 0; i < in->nfunc; i++) {
    const Func *f = in->func[i];
    copier_func(&c, f, f->name);
    for (int k = 0; k < f->nop && !builder_failed(b); k++) {
      const Op *op = f->op[k];
      if (op->code != OP_cast || !dtype_is_float(op->in[0]->type->dt) ||
          !dtype_is_float(op->out[0]->type->dt)) {
        copier_op(&c, op);
        continue;
      }
      build_at(b, op->loc, op->layer, op->why);
      c.map[op->out[0]->id] = cast_early(b, mapped(&c, op, 0), op->out[0]->type->dt);
    }
  }
  return MPCC_OK;
}

Status pass_castopt(const Module *in, const PassOpts *o, Builder *out, Diag *d) {
  return rewrite_and_sweep(in, STAGE_TYPED, move_casts, o, out, d);
}
