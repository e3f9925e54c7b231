# Weights between PyTorch and here: logits of files that torch wrote, names and shapes that differ, what
# is refused, export and average. Data: tools/weights_reference.py.
. "$(dirname "$0")/lib.sh"
cp "$here"/weights/* .

# spec NAME INIT_FROM [LINES...]
spec() {
  name=$1 from=$2
  shift 2
  cat >"$name" <<END
mpcc: 1
name: w
model:
  inputs: {x: {shape: [6]}}
  layers: [{Linear: 8}, ReLU, {Linear: 4}]
  init_from: $from
loss: {type: CrossEntropyLoss, inputs: {target: y}}
data:
  train: {format: npy, files: {x: x.npy, y: y.npy}}
  val: {format: npy, files: {x: x.npy, y: y.npy}}
  transforms: []
  loader: {batch_size: 2}
optimizer: {type: AdamW, lr: 0.01}
trainer: {max_epochs: 2}
END
  for line; do echo "$line" >>"$name"; done
}
predict() {
  expect 0 '' "$mpcc" run "$1" --predict got.npy --split val --out out
  cmp -s got.npy logits.npy || fail "$2: other logits than torch's"
}

spec a.yaml '{path: torch.safetensors}'
predict a.yaml 'a file that torch saved'
spec b.yaml '{path: parts.safetensors.index.json, rename: {"net.layer_*": "*"}, transpose: ["*.weight"]}'
predict b.yaml 'shards under other names, transposed'
expect 0 'passed over' "$mpcc" run b.yaml --validate
expect 0 '' "$mpcc" run a.yaml --export again.safetensors --out out
spec c.yaml '{path: again.safetensors, dtype: float32}'
predict c.yaml 'a file that was exported'
for dt in bf16 f16 f64; do # the numbers are exact in all of them
  expect 0 '' "$mpcc" run a.yaml --export again.safetensors --weights-dtype $dt --out out
  spec d.yaml '{path: again.safetensors}'
  predict d.yaml "exported as $dt"
done
expect 4 'init_from says float32' "$mpcc" run c.yaml --validate

# what does not fit is named, all of it, and nothing is read
spec e.yaml '{path: torch.safetensors, rename: {"0.weight": "1.weight"}}'
expect 4 "torch.safetensors: unexpected tensor '0.weight'" "$mpcc" run e.yaml --validate
grep -q "missing tensor '0.weight'" err.txt || fail 'missing tensor not named'
spec e.yaml '{path: torch.safetensors, rename: {"0.weight": "1.weight"}, strict: false}'
expect 0 '' "$mpcc" run e.yaml --validate
spec e.yaml '{path: torch.safetensors, skip: ["2.*"]}'
expect 0 '' "$mpcc" run e.yaml --validate
spec e.yaml '{path: torch.safetensors, skip: ["3.*"]}'
expect 4 "no tensor is named '3.*'" "$mpcc" run e.yaml --validate
spec e.yaml '{path: torch.safetensors, transpose: ["0.weight"]}'
expect 4 "has shape [6, 8], this program has [8, 6]" "$mpcc" run e.yaml --validate
spec e.yaml '{path: torch.safetensors, transpose: ["0.bias"]}'
expect 4 'is to be transposed and has 1 dimensions' "$mpcc" run e.yaml --validate
spec e.yaml '{path: nowhere.safetensors}'
expect 4 'nowhere.safetensors' "$mpcc" run e.yaml --validate
spec e.yaml '{file: torch.safetensors}'
expect 1 "e.yaml:6:15: error: unknown key 'file'" "$mpcc" check e.yaml
head -c 200 torch.safetensors >cut.safetensors
spec e.yaml '{path: cut.safetensors}'
expect 4 'cut.safetensors' "$mpcc" run e.yaml --validate
sed 's/part-2/..\/part-2/' parts.safetensors.index.json >bad.index.json
spec e.yaml '{path: bad.index.json}'
expect 4 'lies in no file beside the index' "$mpcc" run e.yaml --validate

# bfloat16 weights that float16 cannot hold
spec e.yaml '{path: wide.safetensors}' 'precision: 16-true'
expect 0 '-Wrange-fp16' "$mpcc" run e.yaml --validate
spec e.yaml '{path: wide.safetensors}' 'precision: bf16-mixed'
expect 0 '' "$mpcc" run e.yaml --validate
! grep -q Wrange err.txt || fail 'warned without reason'

# half-precision inference
for mode in 16-true bf16-true; do
  expect 0 '' "$mpcc" run a.yaml --precision $mode --predict got.npy --split val --out out
  cmp -s got.npy logits.npy || fail "$mode: other logits"
done

# an average that is never due keeps the first weights: exports and predictions have them, the run trains
spec f.yaml '{path: torch.safetensors}' 'ema: {decay: 0.5, every_n_steps: 1000000}'
expect 0 '' "$mpcc" run f.yaml --out ema
expect 0 '' "$mpcc" run f.yaml --resume=ema/checkpoints/last --predict got.npy --split val --out out
cmp -s got.npy logits.npy || fail 'predictions are not those of the average'
expect 0 '' "$mpcc" run f.yaml --resume=ema/checkpoints/last --predict got.npy --split val --out out \
  --set 'ema.use_for=[val]'
! cmp -s got.npy logits.npy || fail 'the run did not train, or predicted with the average'
for mode in 16-mixed bf16-true; do # parameters come back after each evaluation
  for use in '[]' '[val]'; do
    expect 0 '' "$mpcc" run f.yaml --precision $mode --set "ema.use_for=$use" --out "ema_$use" --quiet
    expect 0 '' "$mpcc" run f.yaml --precision $mode --set 'ema.use_for=[]' --resume="ema_$use/checkpoints/last" \
      --export "$use.safetensors" --out out
  done
  cmp -s '[].safetensors' '[val].safetensors' || fail "$mode: evaluating with the average changed training"
  rm -rf 'ema_[]' 'ema_[val]'
done
finish
