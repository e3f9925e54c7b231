# Metrics of two classes told apart by one logit; those of many classes are judged in unit/monitor and tools/torch_walk.
. "$(dirname "$0")/lib.sh"
# the model's logit is x; a target of -1 counts nothing where the metric says so
cat >d.csv <<'EOF'
x,y
2.0,1
0.3,1
-0.5,1
1.5,0
0.1,0
-1.0,0
-2.0,0
3.0,-1
-3.0,-1
EOF
cat >spec.yaml <<'EOF'
mpcc: 1
name: binary
model:
  inputs: {x: {shape: [1]}}
  outputs: {logits: fc}
  layers: [{name: fc, Linear: 1, init: {weight: ones, bias: zeros}}]
loss: {type: BCEWithLogitsLoss, inputs: {input: logits, target: y}}
data:
  train: {format: csv, path: d.csv}
  val: {format: csv, path: d.csv}
  loader: {batch_size: 4}
optimizer: {type: SGD, lr: 0.1}
trainer: {max_epochs: 1}
metrics:
  - {type: Accuracy, task: binary, name: all}
  - {type: Accuracy, task: binary, ignore_index: -1}
  - {type: ConfusionMatrix, task: binary, ignore_index: -1}
  - {type: Precision, task: binary, ignore_index: -1}
  - {type: Recall, task: binary, ignore_index: -1, average: macro}
  - {type: F1Score, task: binary, ignore_index: -1}
  - {type: Precision, task: binary, ignore_index: -1, threshold: 0.6, name: sure} # above 0.405
EOF
expect 0 '' "$mpcc" run spec.yaml --validate
# 7 targets: 2 of 3 ones and 2 of 4 zeros found; with the others 5 of 9, a -1 being no one
for want in 'all 0.5556' 'acc 0.5714' 'precision 0.5000' 'recall 0.6667' 'f1 0.5714' 'sure 0.5000'; do
  grep -q "$want" out.txt || { fail "no $want"; cat out.txt; }
done
expect 0 '' "$mpcc" run spec.yaml --out run --quiet --set optimizer.lr=1e-30
grep -q '"confusion":\[\[2,2\],\[1,2\]\]' run/metrics.jsonl || fail "counted otherwise"
expect 1 'top_k has no meaning for two classes' "$mpcc" check spec.yaml \
  --set 'metrics=[{type: Accuracy, task: binary, top_k: 2}]'
expect 1 'multilabel' "$mpcc" check spec.yaml --set 'metrics=[{type: Accuracy, task: multilabel}]'
finish
