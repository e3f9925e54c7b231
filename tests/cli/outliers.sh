# trainer.skip_outliers: a loss that jumps is not learnt from, the run goes on, resuming keeps its bits.
. "$(dirname "$0")/lib.sh"
# 200 batches of one sample, in order; one of them, behind the 128 steps that are not judged, is far off
awk 'BEGIN { print "x,y"; for (i = 0; i < 200; i++) { x = (i * 7 % 24) / 24; printf "%.6f,%.6f\n", x, i == 150 ? 4000 : 2 * x + 0.3 * ((i * 5) % 3) } }' >d.csv
cat >spec.yaml <<'EOF'
mpcc: 1
name: outliers
model:
  inputs: {x: {shape: [1]}}
  outputs: {y_hat: fc}
  layers: [{name: fc, Linear: 1}]
loss: {type: L1Loss, inputs: {input: y_hat, target: y}}
data:
  train: {format: csv, path: d.csv}
  fields: {x: x, y: y}
  loader: {batch_size: 1}
optimizer: {type: SGD, lr: 1e-3}
trainer: {max_epochs: 2, skip_outliers: {loss_zscore: 6.0}, log_every_n_steps: 1}
EOF
run() { "$mpcc" run spec.yaml --quiet "$@"; }
expect 0 '' run --out plain --set trainer.skip_outliers=null
grep -q '"skipped":[1-9]' plain/metrics.jsonl && fail "steps are skipped without being asked"
expect 0 'is not applied: an outlier, loss' "$mpcc" run spec.yaml --out whole
[ "$(grep -c 'an outlier' err.txt)" = 2 ] || { fail "one outlier an epoch"; cat err.txt; }
grep -q 'step 151 .*an outlier' err.txt || fail "another step than 151"
tail -n 1 whole/metrics.jsonl | grep -q '"skipped":2' || fail "counted otherwise"
expect 0 '' run --out part --max-steps 150
expect 0 '' run --out part --resume
cmp whole/checkpoints/last/model.safetensors part/checkpoints/last/model.safetensors || fail "other weights"
cmp whole/checkpoints/last/optimizer.safetensors part/checkpoints/last/optimizer.safetensors ||
  fail "other statistics"
# an epoch ends where it ends, whatever was taken of it
run --out stairs --set 'scheduler={type: StepLR, step_size: 1, gamma: 0.5, interval: epoch}' 2>err.txt ||
  fail "does not train under a scheduler of epochs"
grep -q '"step":200,.*"lr":0.001,' stairs/metrics.jsonl && grep -q '"step":201,.*"lr":0.0005,' stairs/metrics.jsonl ||
  fail "the rate falls elsewhere than at the end of the epoch"
expect 0 "has no 'outlier.count': it starts anew" "$mpcc" run spec.yaml --out plain2 \
  --resume=plain/checkpoints/last --max-steps 390 --log-every 1
expect 1 'neither loss_zscore nor grad_norm_zscore' "$mpcc" check spec.yaml --set 'trainer.skip_outliers={}'
expect 1 "'loss_zscore'" "$mpcc" check spec.yaml --set 'trainer.skip_outliers.loss_zscore=-1'
finish
