# Steps that stay non-finite: nothing is applied, the run stops with 10 and says where it began.
. "$(dirname "$0")/lib.sh"
build() { # OUT OPTIONS...
  out=$1
  shift
  "$mpcc" "$here/tiny.yaml" -march=native -o "$out" --set trainer.gradient_clip_val=null "$@"
}
run() {
  prog=$1
  shift
  ./"$prog" --quiet --threads 1 "$@"
}
state() { # the parameters and moments of a checkpoint folder
  cat "$1/model.safetensors" | sha256sum
}
# A word of the report, which is also what the messages said.
says() { # FOLDER TEXT...
  folder=$1
  shift
  for text in "$@"; do
    grep -qF -- "$text" "$folder/diverged/report.txt" ||
      { fail "no '$text' in the report:"; cat "$folder/diverged/report.txt"; }
  done
  [ "$(tail -c 1 "$folder/diverged/report.txt" | od -An -c | tr -d ' ')" = '\n' ] || fail "report does not end its line"
}

# ---- a learning rate that is far too high ----------------------------------------------------------
build good --precision 32-true
build wild --precision 32-true --set optimizer.lr=1e30 --set checkpoint.every_n_train_steps=1
expect 10 '[MPC0901]' run wild --out wild_out
[ "$(grep -c 'is not applied: loss nan, gradient norm nan' err.txt)" = 1 ] || { fail "the first bad step is not told once"; cat err.txt; }
says wild_out 'not finite in 3 steps in a row' 'first non-finite: ' 'of the output of ' \
  'tiny.yaml:' 'stored as f32' 'a smaller learning rate' 'gradient_clip_val' 'newest checkpoint'
grep -q 'bf16-mixed' wild_out/diverged/report.txt && fail "less precision is no help here"
for file in DONE state.json model.safetensors optimizer.safetensors batch.safetensors report.txt; do
  [ -s wild_out/diverged/$file ] || fail "diverged/ lacks $file"
done
"$mpcc" inspect wild_out/diverged/batch.safetensors | grep -q 'io.image .*F32.*\[16,1,8,8\]' ||
  fail "no batch"
# nothing was applied: the state is that of the last step that was
last=$(basename "$(readlink wild_out/checkpoints/last)")
[ "$(state wild_out/diverged)" = "$(state wild_out/checkpoints/last)" ] || fail "a bad step was applied"
expect 0 'test: loss nan' run good --out replay --resume=wild_out/diverged --max-steps 5
# the report's place is a line of the spec, and what it names is a layer there
place=$(sed -n 's/.*tiny.yaml:\([0-9]*\):.*/\1/p' wild_out/diverged/report.txt)
layer=$(sed -n 's/.*of the output of \([^ ]*\) .*/\1/p' wild_out/diverged/report.txt)
sed -n "${place}p" "$here/tiny.yaml" | grep -qF "$layer" || fail "$layer is not in line $place"

# ---- what is good goes on ---------------------------------------------------------------------------
expect 0 '' run good --out good_out --max-steps 10
cp -r good_out mixed_out
# the end of an epoch comes while steps are not finite: no checkpoint is written there
build late --precision 32-true --set optimizer.lr=1e30
expect 10 '[MPC0901]' run late --out mixed_out --resume
says mixed_out 'newest checkpoint, from before: mixed_out/checkpoints/step-00000010'
expect 0 'test: loss' run good --out mixed_out --resume
expect 0 'test: loss' run good --out good_out --resume

# ---- weights and data that are not finite ----------------------------------------------------------
expect 0 '' run good --resume=good_out --export w.safetensors
size=$(wc -c <w.safetensors)
# the last four bytes are the last element of the last tensor: infinity
{ head -c $((size - 4)) w.safetensors && printf '\000\000\200\177'; } >inf.safetensors
{ head -c $((size - 4)) w.safetensors && printf '\000\000\300\177'; } >nan.safetensors
expect 10 'before the step: infinity in 1 of ' run good --out inf_out --weights inf.safetensors
says inf_out 'start from weights and data that are finite' 'stored as f32'
expect 10 'before the step: NaN in 1 of ' run good --out nan_out --weights nan.safetensors
[ ! -e nan_out/checkpoints/last ] || fail "a checkpoint without a good step"

# ---- the loss scale at its end ---------------------------------------------------------------------
build scaled --precision 16-mixed
expect 10 'loss-scale backoffs in a row, scale reached min_scale 1' \
  run scaled --out scaled_out --weights inf.safetensors
says scaled_out 'before the step: infinity'
build large --precision 16-mixed --set 'optimizer.lr=3e4' --set scheduler.warmup_steps=1
expect 10 'scale reached min_scale 1' run large --out large_out --max-steps 300
says large_out 'first non-finite: ' 'overflow: try bf16-mixed, or precision.overrides: [{match: conv_proj, '
# a scale that stays is no way out either, nor is one that its floor holds up
expect 10 'in 16 steps in a row at the static loss scale 1e+09' "$mpcc" run "$here/tiny.yaml" --quiet --out static_out \
  --precision 16-mixed --set precision.grad_scaler.init_scale=1e9 --set precision.grad_scaler.static=true
says static_out 'of the output of loss' 'overflow: try bf16-mixed, or a smaller precision.grad_scaler.init_scale'
# master weights are finite, in float16 they are not: products round them while they pack them
{ head -c $((size - 4)) w.safetensors && printf '\000\120\303\107'; } >wide.safetensors # 1e5
expect 10 'first non-finite: infinity in 1 of ' run scaled --out copies_out --weights wide.safetensors
says copies_out 'elements of the output of ' '(cast+pack, ' 'tiny.yaml:' 'rounded to f16, which reaches 65504' \
  'overflow: try bf16-mixed'

# ---- a kernel of several layers names them all -----------------------------------------------------
sed 's/{name: head, Linear: 16}/&\n    - {name: lg, type: log}/; s/logits: head/logits: lg/' "$here/tiny.yaml" >log.yaml
expect 10 'first non-finite: NaN' "$mpcc" run log.yaml --quiet --out log_out
says log_out 'of the output of head (linear+bias+log, log.yaml:23:7; log of lg at 24:7)'

# ---- 8-bit codes saturate, so amaxes tell of infinity [N2] -----------------------------------------
for recipe in DelayedScaling Float8BlockScaling; do
  "$mpcc" run "$here/tiny.yaml" --quiet --out "$recipe" --precision transformer-engine-float16 \
    --set precision.recipe.name=$recipe --set precision.grad_scaler.init_scale=1e9 --max-steps 20 2>err.txt ||
    { fail "$recipe"; cat err.txt; }
  grep -q '"skipped":[1-9]' "$recipe/metrics.jsonl" || fail "$recipe: no step is skipped at scale 1e9"
done
build eight --precision transformer-engine --set optimizer.lr=3e4 --set scheduler.warmup_steps=1
expect 10 'first non-finite: NaN' run eight --out eight_out
says eight_out 'largest before it: ' 'amax of attention.input in the steps before: '

# ---- the batch that is replayed is the last of the step's ------------------------------------------
awk 'BEGIN { print "x,y"; for (i = 0; i < 16; i++) print (i ? 1 : "1e39") ",1" }' >d.csv
cat >first.yaml <<'EOF'
mpcc: 1
name: first
model:
  inputs: {x: {shape: [1]}}
  outputs: {y_hat: fc}
  layers: [{name: fc, Linear: 1}]
loss: {type: L1Loss, inputs: {input: y_hat, target: y}}
data:
  train: {format: csv, path: d.csv}
  fields: {x: x, y: y}
  loader: {batch_size: 4, shuffle: false}
optimizer: {type: SGD, lr: 1e-3}
trainer: {max_epochs: 9, accumulate_grad_batches: 4}
EOF
expect 10 'of earlier micro-batches: ' "$mpcc" run first.yaml --quiet --out first_out
says first_out 'elements of grad.fc.weight (layer fc, first.yaml:6:' 'a smaller learning rate'
# a few skipped steps are no divergence: the first scales are too high
"$mpcc" "$here/tiny.yaml" -march=native -o high --precision 16-mixed \
  --set precision.grad_scaler.init_scale=1e9
expect 0 'test: loss' run high --out high_out
[ ! -e high_out/diverged ] || fail "backoffs of a scale that comes down are called divergence"
grep -q '"skipped":[1-9]' high_out/metrics.jsonl || fail "no step was skipped at scale 1e9"
finish
