/* Gradient norm, the decision whether this step is applied, and clipping. All of it on unscaled
 * gradients in FP32 (FP64 in 64-true), over whole flat tensors. Casts to FP8 saturate, so that an
 * infinity may reach neither loss nor gradients: what was quantized is asked, too.
 * Source: torch.nn.utils.clip_grad_norm_, clip_grad_value_ (PyTorch 2). Rules N2, N11. */
#include <string.h>

#include "passes/step.h"

/* sum of (g * factor)^2 over all groups */
static Value *square_sum(Step *s, Value *const *grad, Value *factor) {
  Builder *b = s->b;
  Value *total = NULL;
  for (int k = 0; k < s->ngroup; k++) {
    Value *in[2] = {build_cast(b, grad[k], s->mode.math), factor};
    Value *sq = build_expr(b, "(a * b) * (a * b)", s->mode.math, 2, in);
    Attr attr[2] = {attr_ints(b, "dims", 1, (const int64_t[]){0}), attr_b(b, "keepdim", false)};
    Value *sum = build_op(b, OP_sum, 1, &sq, 2, attr)->out[0];
    total = total ? build2(b, OP_add, total, sum) : sum;
  }
  return total ? total : build_const(b, 0, s->mode.math);
}

Clip clip_gradients(Step *s, Value *const *grad, Value *factor, Value *loss_sum,
                    const Saturating *codes) {
  Builder *b = s->b;
  DType math = s->mode.math;
  Clip c = {.factor = factor};
  step_at(s, "clip: norm of unscaled gradients");
  c.norm = build1(b, OP_sqrt, square_sum(s, grad, factor));
  step_at(s, "step is applied when loss and gradient norm are finite");
  Value *in[2] = {build_cast(b, loss_sum, math), c.norm};
  c.finite = build_expr(b, "isfinite(a) && isfinite(b) ? 1 : 0", math, 2, in);
  step_at(s, "step is applied when what was quantized is finite");
  for (int i = 0; i < 2; i++)
    if (codes->amax[i]) {
      Value *both[2] = {c.finite, build_cast(b, build1(b, OP_amax, codes->amax[i]), math)};
      c.finite = build_expr(b, "isfinite(b) ? a : 0", math, 2, both);
    }
  c.ok = c.finite;
  const char *algorithm = module_str(s->in, "clip_algorithm", "none");
  double limit = module_number(s->in, "clip_val", 0);
  if (limit <= 0)
    return c;
  step_at(s, "clip: factor");
  if (!strcmp(algorithm, "norm"))
    c.coef = build_expr(b, str_fmt(builder_strings(b), "min(%.17g / (a + 1e-6), 1)", limit), math,
                        1, &c.norm);
  else if (!strcmp(algorithm, "value"))
    c.limit = limit;
  return c;
}

Value *clip_apply(Step *s, const Clip *c, Value *grad) {
  Builder *b = s->b;
  StrTable *strings = builder_strings(b);
  Value *in[3] = {build_cast(b, grad, s->mode.math), c->factor, c->coef};
  const char *text = c->coef ? "a * b * c" : "a * b";
  if (c->limit > 0)
    text = str_fmt(strings, "min(max(a * b, -%.17g), %.17g)", c->limit, c->limit);
  return build_expr(b, text, s->mode.math, c->coef ? 3 : 2, in);
}
