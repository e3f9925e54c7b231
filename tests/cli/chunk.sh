# A loss over so many classes that its logits would fill 1.2 GB is taken in parts of the batch: half the
# memory, and the training of two micro-batches that fit whole. chunk.sh MPCC FOLDER
. "$(dirname "$0")/lib.sh"
cat >many.yaml <<'Y'
mpcc: 1
name: many
params: {batch: 16}
model:
  inputs: {tokens: {shape: [64], dtype: int32}}
  outputs: {features: norm} # what predict returns would be as large
  layers:
    - {name: wte, Embedding: 300000, inputs: [tokens], embedding_dim: 8}
    - {name: norm, LayerNorm: 8}
    - {name: head, Linear: 300000}
loss: {type: CrossEntropyLoss, inputs: {input: head, target: next_tokens}}
metrics: [Accuracy]
data:
  train: {format: text, path: /usr/share/common-licenses/GPL-3, sequence_length: 64}
  val: {from: train, fraction: 0.1, seed: 1}
  loader: {batch_size: $batch, shuffle: true}
optimizer: {type: SGD, lr: 0.1, momentum: 0.9}
trainer: {max_steps: 2, log_every_n_steps: 1, limit_val_batches: 1, val_check_interval: 2, check_val_every_n_epoch: null}
Y
train() { # NAME OPTIONS...: losses of the steps, and of the evaluation
  name=$1
  shift
  "$mpcc" run many.yaml -O1 --quiet --out "$name" "$@" >out.txt 2>err.txt || { fail "$name"; cat err.txt; }
  awk -F, 'NR > 1 { print $3, $1, $4 }' "$name/metrics.csv" >"$name.txt"
}
work_bytes() { "$mpcc" explain many.yaml "$@" 2>/dev/null | sed -n 's/^ *work *\([0-9]*\)$/\1/p'; }

parts=$(work_bytes)
[ "$parts" -lt 900000000 ] && [ "$parts" -gt 600000000 ] || fail "work memory is $parts bytes"
train parts
train whole -D batch=8 --set trainer.accumulate_grad_batches=2 --set trainer.limit_val_batches=2 \
  --set trainer.val_check_interval=4
[ "$(wc -l <parts.txt)" = 3 ] || { fail "rows are missing"; cat parts.txt; }
paste -d' ' parts.txt whole.txt | awk '$1 != $4 || $2 != $5 || ($3 - $6) ^ 2 > ($6 * 2e-6) ^ 2' >apart.txt
[ ! -s apart.txt ] || { fail "apart"; cat apart.txt; }
finish
