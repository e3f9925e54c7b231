# `recompute` changes no bit of a run, in any mode, with dropout and FP8 scales, and lowers the peak.
. "$(dirname "$0")/lib.sh"
cat >none.yaml <<'END'
mpcc: 1
name: r
seed: 5
model:
  inputs: {image: {shape: [16, 32]}}
  blocks:
    block:
      layers:
        - residual:
            - LayerNorm
            - {MultiheadAttention: 32, num_heads: 2, dropout: 0.1}
            - {Dropout: 0.1}
        - residual: [{name: ln, type: LayerNorm}, {name: fc, Linear: 64}, GELU, {name: drop, Dropout: 0.2}, {name: proj, Linear: 32}]
  layers:
    - {use: block, name: h.$i, repeat: 2}
    - {use: block, name: last}
    - {mean: 1}
    - {Linear: 4}
loss: CrossEntropyLoss
data:
  train: {format: synthetic, shape: [16, 32], classes: 4, samples: 60}
  loader: {batch_size: 16}
optimizer: {type: AdamW, lr: 0.01}
trainer: {max_steps: 4}
END
sed -e 's/name: h.$i, repeat: 2/&, recompute: full/' -e 's/name: last/&, recompute: attention/' none.yaml >some.yaml
cmp -s none.yaml some.yaml && fail "the spec is the same"
for mode in 64-true 32-true 16-mixed bf16-mixed 16-true bf16-true transformer-engine transformer-engine-float16; do
  for spec in none some; do
    "$mpcc" run $spec.yaml --precision $mode --out $spec-$mode >out.txt 2>&1 ||
      { fail "$spec $mode"; tail -3 out.txt; }
  done
  for file in model optimizer; do
    cmp none-$mode/checkpoints/last/$file.safetensors some-$mode/checkpoints/last/$file.safetensors ||
      fail "$mode: other bits in $file"
  done
done

# running statistics stay those of one pass
cat >none.yaml <<'END'
mpcc: 1
name: r
model:
  inputs: {image: {shape: [3, 8, 8]}}
  blocks:
    block:
      layers:
        - residual: [{name: conv, Conv2d: 6, kernel_size: 3, padding: same}, {name: bn, type: BatchNorm2d}, ReLU]
  layers:
    - {name: stem, Conv2d: 6, kernel_size: 1}
    - {use: block, name: stage.$i, repeat: 2}
    - {name: body, Conv2d: 8, kernel_size: 3}
    - Flatten
    - {name: head, Linear: 4}
loss: CrossEntropyLoss
data:
  train: {format: synthetic, shape: [3, 8, 8], classes: 4, samples: 60}
  loader: {batch_size: 16}
optimizer: {type: AdamW, lr: 0.01}
trainer: {max_steps: 4}
END
sed -e 's/repeat: 2/&, recompute: full/' -e 's/Conv2d: 8, kernel_size: 3/&, recompute: full/' none.yaml >some.yaml
for mode in 32-true bf16-mixed; do
  for spec in none some; do
    "$mpcc" run $spec.yaml --precision $mode --out bn-$spec-$mode >out.txt 2>&1 ||
      { fail "batch norm: $spec $mode"; tail -3 out.txt; }
  done
  cmp bn-none-$mode/checkpoints/last/model.safetensors bn-some-$mode/checkpoints/last/model.safetensors ||
    fail "batch norm: $mode: other bits"
done

# gpt2-nano: what a step needs besides its state is less than half
spec=$here/../../specs/gpt2-nano.yaml
use='- {use: transformer_block, name: h.$i, repeat: $n_layer'
for kind in none attention full; do
  sed "s|$use|&, recompute: $kind|" "$spec" >nano-$kind.yaml
  grep -q "recompute: $kind" nano-$kind.yaml || fail "specs/gpt2-nano.yaml has no such use"
  "$mpcc" explain nano-$kind.yaml --precision bf16-mixed >$kind.txt
done
work() { awk '$1 == "work" { print $2 }' "$1.txt"; }
[ "$(work full)" -lt $(($(work none) / 2)) ] || fail "full: $(work full) of $(work none)"
[ "$(work attention)" -lt "$(work none)" ] || fail "attention: $(work attention) of $(work none)"
grep -q 'of them computed again' full.txt || fail "explain says nothing of what is computed again"
sed 's/recompute: full/recompute: most/' some.yaml >bad.yaml
expect 1 "full" "$mpcc" check bad.yaml
finish
