# The precision section as users meet it: FP8 without units, widths of what is no product, regions in FP8,
# keys of Transformer Engine that mean something else here.
. "$(dirname "$0")/lib.sh"
spec=$here/tiny.yaml te="--precision transformer-engine"
run() { "$mpcc" run "$spec" --quiet --max-steps 6 "$@"; }
check() { "$mpcc" check "$spec" "$@"; }

# ---- on_unsupported: fallback ----------------------------------------------------------------------
expect 0 "tiny.yaml:19:11: warning: 'mlp.0' does not run in FP8: target cpu has no units for it; it runs in bfloat16 [-Wfp8-fallback]" \
  run $te --set precision.on_unsupported=fallback --set trainer.log_every_n_steps=1 --out fallback
grep -q 'fp8_fallback' fallback/run.json || grep -q 'on_unsupported: fallback, target cpu' fallback/plan.txt ||
  fail "the run folder does not say what was chosen"
expect 0 '' "$mpcc" explain "$spec" $te --set precision.on_unsupported=fallback -Wno-fp8-fallback
grep -q 'N8  on_unsupported: fallback, target cpu has no units: FP8 layers run in bf16' out.txt || fail "explain is silent"
grep -q 'e4m3' out.txt && fail "something is quantized all the same"
expect 0 'it runs in float32' check $te --set precision.on_unsupported=fallback \
  --set precision.fallback_compute_dtype=float32
# an error is one for `check`, too
expect 3 'needs units for DelayedScaling; cpu has none [MPC0502]' check $te --set precision.on_unsupported=error
expect 0 '' check $te --set precision.on_unsupported=error --target=cuda --gpu-arch=sm_90
expect 3 'sm_90 has none [MPC0502]' check $te --set precision.on_unsupported=error --target=cuda --gpu-arch=sm_90 \
  --set precision.recipe.name=MXFP8BlockScaling -Wno-fp8-padding
# a GPU with units needs no fallback, one without takes them from all
expect 0 '' check $te --set precision.on_unsupported=fallback --target=cuda --gpu-arch=sm_90
grep -q fallback err.txt && fail "sm_90 has units for FP8"
expect 0 'sm_80 has no units' check $te --set precision.on_unsupported=fallback --target=cuda --gpu-arch=sm_90,sm_80
expect 0 'sm_90 has no units' check $te --set precision.on_unsupported=fallback --target=cuda --gpu-arch=sm_90 \
  --set precision.recipe.name=MXFP8BlockScaling -Wno-fp8-padding

# ---- float32 beside FP8 ----------------------------------------------------------------------------
for recipe in DelayedScaling Float8CurrentScaling MXFP8BlockScaling NVFP4BlockScaling; do
  expect 0 'test: loss' run $te --set precision.weights_dtype=float32 --set precision.recipe.name=$recipe \
    -Wno-fp8-padding --out wide
done
# of a level without products of bf16, as which others pack codes (exactly)
expect 0 '' "$mpcc" explain "$spec" $te --set precision.weights_dtype=float32 -march=x86-64-v3
grep -q 'e4m3' out.txt || fail "nothing is quantized"
grep -v '^  model' out.txt | grep -q 'bf16' && fail "something is bf16"
expect 0 'test: loss' run $te --set precision.fallback_compute_dtype=float32 --out mixed
# activations in float16 want the loss scaler, whatever the weights are
run $te --set precision.fallback_compute_dtype=float16 --set trainer.log_every_n_steps=1 --out half >/dev/null
grep -q '"scale":65536' half/metrics.jsonl || fail "no loss scale although gradients are f16"

# ---- FP8 in a part of a mixed model ----------------------------------------------------------------
mlp='precision.overrides=[{match: "mlp.*", precision: transformer-engine}]'
expect 0 '' "$mpcc" explain "$spec" --precision bf16-mixed --set "$mlp" --set precision.recipe.margin=1
grep -q '^  mlp.0 .*qlinear' out.txt || fail "the layer is not in FP8"
grep -q '^  head .*qlinear' out.txt && fail "another layer is in FP8"
grep -q 'N8  FP8 delayed scaling' out.txt || fail "explain does not name the recipe"
grep -q '^idle' out.txt && fail "the recipe is called idle"
expect 0 '104 kernels, 0 deviate' "$mpcc" verify "$spec" --precision bf16-mixed --set "$mlp"
expect 1 '[MPC0439]' check --precision 16-mixed --set "$mlp"
expect 1 '[MPC0190]' check --precision 32-true --set "$mlp"

# ---- kernels beside the interpreter ----------------------------------------------------------------
# a value next to a tie of e4m3 is decoded to one of two that are an eighth apart
expect 0 ' 0 deviate' "$mpcc" verify "$spec" -D width=32 $te --set precision.recipe.name=MXFP8BlockScaling -Wno-fp8-padding

# ---- words -----------------------------------------------------------------------------------------
for word in fp8=transformer-engine half=16-mixed, tf32='{mode: 32-true, float32_matmul: high}' \
  nvfp4='{mode: transformer-engine, recipe: NVFP4BlockScaling}' fp64=64-true; do
  expect 1 "write ${word#*=}" check --precision "${word%%=*}"
done
expect 1 'weights_dtype cannot be bfloat16 [MPC0432]' \
  check --set 'precision={mode: transformer-engine-float16, weights_dtype: bfloat16}'
expect 1 "convert by hand, {to: bfloat16} in front of it" \
  check $te --set 'precision.overrides=[{match: mlp.0, precision: off}]' # weights are bf16 there
sed 's/name: head,/name: head, float32_conv: high,/' "$spec" >noconv.yaml
expect 1 "'float32_conv' has no effect on 'head' (Linear), which has no such convolution [MPC0441]" "$mpcc" check noconv.yaml
sed 's/name: conv_proj,/name: conv_proj, float32_conv: high,/' "$spec" >conv.yaml
expect 0 '' "$mpcc" check conv.yaml
expect 0 'eps 1e-48 becomes 0 in float32' check --set optimizer.eps=1e-48
expect 0 'eps 1e-42 becomes 0 in bfloat16' check --precision bf16-true --set optimizer.eps=1e-42
expect 0 "'bf16' is a historical name of bf16-mixed [-Wprecision-alias]" check --precision bf16
expect 1 "not supported yet [MPC0190]" check $te --set precision.recipe.scaling_factor_compute_algo=true
for key in fp8_dpa fp8_mha; do # as Transformer Engine's defaults are
  expect 0 '' check $te --set precision.recipe.$key=false
done
expect 1 "'fp8_dpa' is a field of DelayedScaling and Float8CurrentScaling, not of MXFP8BlockScaling [MPC0434]" \
  check --set 'precision={mode: transformer-engine, recipe: {name: MXFP8BlockScaling, fp8_dpa: true}}'
expect 0 'precision.recipe.fp8_dpa' "$mpcc" explain "$spec" $te --set precision.recipe.fp8_dpa=true \
  --set precision.compat=lightning
# projections of one input share its amax; operands behind a rotary embedding keep their own slots
expect 0 'N14 attention multiplies codes that its projections hand on' \
  "$mpcc" explain "$here/../../specs/smoke/llama-tiny.yaml" $te --set precision.recipe.name=Float8CurrentScaling \
  --set precision.recipe.fp8_mha=true
override='precision={mode: transformer-engine, recipe: {name: DelayedScaling, backward_override: dequantized}}'
expect 1 "'backward_override' is a field of Float8CurrentScaling, Float8BlockScaling, MXFP8BlockScaling and" \
  check --set "$override"
expect 0 'N8  backward_override high_precision: products of backward in bf16, of operands as they were' \
  "$mpcc" explain "$spec" $te --set precision.recipe.name=Float8CurrentScaling \
  --set precision.recipe.backward_override=high_precision
expect 1 'mode 32-true has no gradient scaler for these keys [MPC0430]' \
  check --set 'precision={mode: 32-true, grad_scaler: {init_scale: 4}}'
expect 1 "'growth_interval' does not go with a static scale [MPC0440]" \
  check --set 'precision={mode: 16-mixed, grad_scaler: {static: true, growth_interval: 4}}'
expect 0 '' "$mpcc" explain "$spec" --set 'precision={mode: 32-true, on_unsupported: error, compat: lightning,
  grad_scaler: {enabled: false, init_scale: 4}}'
for key in on_unsupported compat grad_scaler; do
  grep -q "^  precision.$key " out.txt || fail "explain does not list $key as idle"
done
expect 1 'init_scale 1e+39 is out of range' check --precision 16-mixed --set precision.grad_scaler.init_scale=1e39
expect 1 'min_scale 1e-46 is out of range' check --precision 16-mixed --set precision.grad_scaler.min_scale=1e-46
expect 1 '[MPC0437]' check --precision 16-mixed --set precision.grad_scaler.init_scale=0.5
finish
