#!/bin/sh
# The effective spec is a spec: resolved again it is the same text, but for where each value came from, and
# it compiles to the same module. resolve.sh MPCC
. "$(dirname "$0")/lib.sh"
values() { sed -E 's/  # ([^ ]*:[0-9]+:[0-9]+|default|implied)$//' "$1"; }
module() { sed -E 's/ ![0-9]+:[0-9]+:[0-9]+(\+[0-9]+)?//; s/ \([^ ]*:[0-9]+:[0-9]+\)//g; /^file /d' "$1"; }
again() { # spec, name of the copy beside it
  "$mpcc" resolve "$1" >one.yaml 2>err.txt || { fail "resolve $1"; cat err.txt; return; }
  cp one.yaml "$2"
  "$mpcc" resolve "$2" >two.yaml 2>err.txt || { fail "resolve what $1 resolved to"; cat err.txt; return; }
  values one.yaml >one.txt
  values two.yaml >two.txt
  cmp -s one.txt two.txt || { fail "$1: other values"; diff one.txt two.txt | head -5; }
  for spec in "$1" "$2"; do
    "$mpcc" "$spec" --emit=ir --stop-after=canon -o "$(basename "$spec").ir" 2>err.txt || { fail "$spec"; cat err.txt; }
  done
  module "$(basename "$1").ir" >one.txt
  module "$(basename "$2").ir" >two.txt
  cmp -s one.txt two.txt || { fail "$1: another module"; diff one.txt two.txt | head -5; }
}

mkdir specs specs/smoke
cp "$here"/../../specs/*.yaml specs
cp "$here"/../../specs/smoke/*.yaml specs/smoke
for spec in specs/*.yaml specs/smoke/*.yaml; do
  again "$spec" "${spec%.yaml}-resolved.yaml"
done

# keys that those do not use
cat >all.yaml <<'END'
mpcc: 1
name: all
params: {c: 6}
model:
  inputs: {image: {shape: [3, 8, 8]}}
  init: {default: {weight: {trunc_normal: {std: 0.02}}, bias: zeros}}
  blocks:
    block:
      params: [width]
      layers:
        - residual:
            - {name: conv, Conv2d: $width, kernel_size: 3, padding: same, precision: 32-true}
            - {name: bn, type: BatchNorm2d, momentum: null}
            - {type: ReLU, inplace: true}
  layers:
    - {name: stem, Conv2d: $c, kernel_size: 1, padding: valid, init: {weight: orthogonal}, float32_conv: high}
    - {use: block, name: stage.$i, repeat: 2, with: {width: $c}, recompute: full}
    - {use: block, name: last, with: {width: $c}, recompute: attention}
    - parallel: {branches: [[{PReLU: 1, init: 0.1}], [{type: GELU, recompute: full}]], combine: cat}
    - parallel: {branches: [[ReLU], [Tanh]], combine: add}
    - {AdaptiveAvgPool2d: [null, 2]}
    - Flatten
    - {name: low, Linear: 12}
    - {to: bfloat16}
    - {to: float32}
    - {name: a, Linear: 12, freeze: true}
    - {name: b, Linear: 12, tie_weight: a, pad_to_multiple_of: 16}
    - {name: parts, chunk: 2, dim: 1}
    - {name: sum, type: add, inputs: [parts.0, parts.1], alpha: 2}
    - {name: head, Linear: 4}
  outputs: {logits: head, hidden: sum}
loss: [{type: CrossEntropyLoss, label_smoothing: 0.1, ignore_index: 3}, {expr: "x * x", inputs: {x: hidden}, factor: 0.1}]
metrics: [Accuracy, {type: F1Score, average: macro}, {type: MeanSquaredError, name: size, inputs: {input: hidden, target: hidden}}]
data:
  train: {format: synthetic, shape: [3, 8, 8], classes: 4, samples: 64}
  val: {from: train, fraction: 0.25, seed: 3}
  transforms:
    train: [{RandomCrop: 8, padding: 1}, RandomHorizontalFlip, ToTensor, {Normalize: , mean: [0.5], std: [0.2]}]
    eval: [ToTensor, {Normalize: , mean: [0.5], std: [0.2]}]
  loader: {batch_size: 8, shuffle: true}
optimizer:
  type: AdamW
  lr: 1e-3
  foreach: true
  param_groups: [{match: "{a,b}.bias", weight_decay: 0.0}, {match_ndim: 1, lr: 1e-4}]
scheduler: {type: OneCycleLR, max_lr: 0.1, epochs: 2, steps_per_epoch: 5, cycle_momentum: false}
trainer: {max_steps: 3, val_check_interval: 1, gradient_clip_val: 1, skip_outliers: {loss_zscore: 4}}
precision: {mode: 16-mixed, grad_scaler: {init_scale: 1024}, overrides: [{match: head, precision: 32-true, reason: small}]}
checkpoint: {monitor: val/loss}
early_stopping: {monitor: val/loss, mode: min}
ema: {decay: 0.9}
END
again all.yaml all-resolved.yaml
values one.yaml | grep -q '^    stage.1: full$' || fail "recompute is not resolved"
"$mpcc" run all.yaml --out first >out.txt 2>err.txt || { fail "run all.yaml"; tail -3 err.txt; }
"$mpcc" run all-resolved.yaml --out second >out.txt 2>err.txt || { fail "run all-resolved.yaml"; tail -3 err.txt; }
cmp -s first/checkpoints/last/model.safetensors second/checkpoints/last/model.safetensors || fail "the resolved spec trains otherwise"
finish
