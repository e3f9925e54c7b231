/* Loss scaling: the seed of backward, the factor that takes it out again, the scaler's state.
 *
 *   seed = S / capacity              gradients are S * sum / capacity, whatever the batch holds
 *   factor = capacity / (weight_sum * S)   makes them the gradient of the mean over real targets
 *
 * so that accumulation over micro-batches equals one big batch. Scaler: GradScaler's rule with a
 * floor [N7]; source: torch.amp.GradScaler, aten AmpKernels (update), PyTorch 2. */
#include "passes/step.h"

Value *lossscale_scale(Step *s) {
  return s->scaler ? build_read(s->b, s->scale) : build_const(s->b, 1, MPCC_F32);
}

Value *lossscale_seed(Step *s) {
  step_at(s, "loss scaling: seed is S / capacity");
  if (!s->scaler)
    return build_const(s->b, 1.0 / (double)s->capacity, s->mode.math);
  Str text = str_fmt(builder_strings(s->b), "a / %lld", (long long)s->capacity);
  return build_expr(s->b, text, MPCC_F32, 1, (Value *[]){lossscale_scale(s)});
}

/* In f64 and rounded once: 1 / S must be GradScaler's fp32(1 / fp64(S)) when weight_sum is full. */
Value *lossscale_factor(Step *s, Value *weight_sum) {
  step_at(s, "loss scaling: unscaling factor");
  Value *in[2] = {build_cast(s->b, weight_sum, MPCC_F64),
                  build_cast(s->b, lossscale_scale(s), MPCC_F64)};
  Str text = str_fmt(builder_strings(s->b), "%lld / (a * b)", (long long)s->capacity);
  return build_cast(s->b, build_expr(s->b, text, MPCC_F64, 2, in), s->mode.math);
}

/* 1 when any gradient element is inf or NaN, tested before unscaling, or what was quantized [N2].
 */
static Value *found_inf(Step *s, Value *const *grad, const Saturating *codes) {
  Value *found = NULL;
  for (int k = 0; k < s->ngroup; k++) {
    Value *amax = build1(s->b, OP_amax, grad[k]);
    Value *one = build_expr(s->b, "isfinite(a) ? 0 : 1", MPCC_F32, 1, &amax);
    found = found ? build2(s->b, OP_maximum, found, one) : one;
  }
  for (int i = 0; i < 2; i++) {
    Value *amax = codes->amax[i] ? build1(s->b, OP_amax, codes->amax[i]) : NULL;
    if (amax)
      found = build2(s->b, OP_maximum, found,
                     build_expr(s->b, "isfinite(a) ? 0 : 1", MPCC_F32, 1, &amax));
  }
  return found;
}

/* found: S' = max(S backoff, min), t' = 0; else t + 1 == interval: S' = S growth if finite, t' = 0;
 * else t' = t + 1 */
void lossscale_update(Step *s, Value *const *grad, const Saturating *codes) {
  Builder *b = s->b;
  const Module *m = s->in;
  if (!s->scaler || module_number(m, "scaler_static", 0) != 0)
    return; /* a static scale stays: steps that overflow are skipped all the same */
  step_at(s, "loss scaling: GradScaler's update");
  StrTable *strings = builder_strings(b);
  Value *scale = lossscale_scale(s);
  Value *in[3] = {scale, found_inf(s, grad, codes),
                  build_cast(b, build_read(b, s->tracker), MPCC_F64)};
  long long interval = (long long)module_number(m, "scaler_growth_interval", 2000);
  Value *due =
      build_expr(b, str_fmt(strings, "a + 1 == %lld ? 1 : 0", interval), MPCC_F64, 1, in + 2);
  double growth = module_number(m, "scaler_growth_factor", 2.0);
  double backoff = module_number(m, "scaler_backoff_factor", 0.5);
  double floor_scale = module_number(m, "scaler_min_scale", 1.0);
  /* a value of its own: the finite check is on the product rounded to f32 */
  Value *grown = build_expr(b, str_fmt(strings, "a * %.17g", growth), MPCC_F32, 1, &scale);
  Value *args[4] = {scale, in[1], build_cast(b, due, MPCC_F32), grown};
  Str text = str_fmt(strings, "b != 0 ? max(a * %.17g, %.17g) : (c != 0 && isfinite(d) ? d : a)",
                     backoff, floor_scale);
  build_write(b, s->scale, build_expr(b, text, MPCC_F32, 4, args));
  Value *count[3] = {in[2], build_cast(b, in[1], MPCC_F64), due};
  Value *next = build_expr(b, "b != 0 || c != 0 ? 0 : a + 1", MPCC_F64, 3, count);
  build_write(b, s->tracker, build_cast(b, next, MPCC_I64));
}
