# Code must not grow with depth: blocks share kernels, and what joins the pieces of all layers is
# done by copies. Judged by the generated IR; and the deep model trains to the same bits whatever the
# plan.
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
cat >decoder.yaml <<'Y'
mpcc: 1
name: decoder
params: {depth: 2, width: 96}
model:
  inputs: {image: {shape: [16, $width]}}
  blocks:
    block:
      layers:
        - residual:
            - {name: ln_1, type: LayerNorm}
            - {name: attn.c_attn, Linear: $(3 * width)}
            - {type: scaled_dot_product_attention, packed: qkv, num_heads: 2, is_causal: true}
            - {name: attn.c_proj, Linear: $width}
            - {Dropout: 0.1}
        - residual:
            - {name: ln_2, type: LayerNorm}
            - {name: mlp.c_fc, Linear: $(4 * width)}
            - {type: GELU, approximate: tanh}
            - {name: mlp.c_proj, Linear: $width}
            - {Dropout: 0.1}
  layers:
    - {use: block, name: h.$i, repeat: $depth}
    - {name: ln_f, type: LayerNorm}
    - {type: select, dim: 1, index: 0}
    - {name: head, Linear: 10}
loss: CrossEntropyLoss
data:
  train: {format: synthetic, shape: [16, $width], classes: 10, samples: 64}
  loader: {batch_size: 16}
optimizer: {type: AdamW, lr: 1e-3, param_groups: [{match_ndim: 1, weight_decay: 0.0}]}
trainer: {max_epochs: 1}
Y
# The kernels of 6 layers are those of 48, and so is the IR, but for the tails of loops over flat
# tensors: at most 3 % more.
same() { # MODEL MODE
  for depth in 6 48; do
    "$mpcc" "$1" -D depth=$depth --precision "$2" -march=x86-64-v3 -O0 --emit=llvm-ir -o ir$depth \
      -Wno-fp8-fallback
  done
  shallow=$(grep -c '^define void' ir6) deep=$(grep -c '^define void' ir48)
  [ "$shallow" = "$deep" ] || fail "$1 in $2: 6 layers are $shallow kernels, 48 are $deep"
  shallow=$(wc -l <ir6) deep=$(wc -l <ir48)
  [ $((deep * 100)) -le $((shallow * 103)) ] ||
    fail "$1 in $2: 6 layers are $shallow lines of IR, 48 are $deep"
}
same "$here/../../bench/vit.yaml" 32-true
same decoder.yaml bf16-mixed
same decoder.yaml transformer-engine
same deep.yaml 16-mixed

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
