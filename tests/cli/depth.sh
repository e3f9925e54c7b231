# Code must not grow with depth: blocks share kernels, and what joins the pieces of all layers is
# done by copies. Judged by the size of the generated IR; and the deep model trains to the same bits
# whatever the plan.
. "$(dirname "$0")/lib.sh"
cat >deep.yaml <<'Y'
mpcc: 1
name: deep
params: {depth: 2}
model:
  inputs: {image: {shape: [1, 4, 4]}}
  blocks:
    block:
      layers:
        - residual: [{name: ln, type: LayerNorm}, {name: fc, Linear: 16}, GELU]
  layers: [Flatten, {use: block, name: layer$i, repeat: $depth}, {name: head, Linear: 16}]
loss: CrossEntropyLoss
data:
  train: {format: synthetic, shape: [1, 4, 4], classes: 16, samples: 64}
  loader: {batch_size: 16}
optimizer: {type: AdamW, lr: 1e-3, param_groups: [{match_ndim: 1, weight_decay: 0.0}]}
trainer: {max_epochs: 1}
Y
lines() { "$mpcc" deep.yaml -D depth="$1" -march=x86-64-v3 --emit=llvm-ir -o - | wc -l; }
shallow=$(lines 24) deep=$(lines 96)
[ $((deep * 10)) -le $((shallow * 13)) ] || fail "IR grows from $shallow to $deep lines with depth"

"$mpcc" deep.yaml -D depth=24 -march=native -o prog
"$mpcc" deep.yaml -D depth=24 -march=native --no-reuse -o wide
./prog --quiet --out a >/dev/null
./prog --quiet --out b --plan-mode >/dev/null
./wide --quiet --out c --plan-mode >/dev/null
for run in b c; do
  cmp a/checkpoints/last/model.safetensors $run/checkpoints/last/model.safetensors ||
    fail "run $run ends in other bits"
done
finish
