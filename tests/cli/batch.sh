# loader.batch_size: auto follows the memory, and accumulation follows global_batch_tokens.
. "$(dirname "$0")/lib.sh"
auto="--set data.loader.batch_size=auto"
chosen() { sed -n 's/.*note: batch_size: auto is \([0-9]*\): .*/\1/p' err.txt; }
peak() { sed -n 's/^  peak *//p' out.txt; }

for memory in 2M 8M 64M; do
  expect 0 'batch_size: auto is' "$mpcc" explain "$here/tiny.yaml" $auto --memory $memory
  batch=$(chosen)
  room=$((${memory%M} * 1048576 * 7 / 8))
  [ "$(peak)" -le $room ] || fail "$memory: the plan of $batch does not fit"
  expect 0 '' "$mpcc" explain "$here/tiny.yaml" --set data.loader.batch_size=$((2 * batch))
  [ $((2 * $(peak))) -gt $room ] || fail "$memory: $((2 * batch)) would fit easily"
  echo "$batch" >>chosen.txt
done
[ "$(sort -n chosen.txt | uniq | wc -l)" = 3 ] || { fail "memory does not decide"; cat chosen.txt; }
expect 11 'even a batch of 1 needs' "$mpcc" explain "$here/tiny.yaml" $auto --memory 100K
expect 2 '--memory takes a size' "$mpcc" explain "$here/tiny.yaml" $auto --memory 10X
expect 3 'knows the memory of the target cpu alone' "$mpcc" explain "$here/tiny.yaml" $auto --target=cuda
expect 0 '' "$mpcc" check "$here/tiny.yaml" $auto
[ ! -s err.txt ] || fail "check plans nothing and has nothing to say"
expect 0 'batch_size: auto is' "$mpcc" run "$here/tiny.yaml" $auto --memory 4M --max-steps 2 --out run
grep -q "batch_size: $(chosen)\b" run/spec.resolved.yaml || fail "the run folder does not say which"

cat >tokens.yaml <<'EOF'
mpcc: 1
model:
  inputs: {tokens: {shape: [8], dtype: int32}}
  layers: [{Embedding: 256, embedding_dim: 8, inputs: [tokens]}, {Linear: 256}]
loss: {type: CrossEntropyLoss, inputs: {input: logits, target: next_tokens}}
data:
  train: {format: text, path: tokens.yaml, sequence_length: 8}
  loader: {batch_size: 4}
  global_batch_tokens: 96
optimizer: {type: SGD, lr: 0.1}
trainer: {max_steps: 3, accumulate_grad_batches: auto}
EOF
steps() { sed 's/,"throughput".*//' "$1/metrics.jsonl"; }
for way in auto 3; do
  expect 0 '' "$mpcc" run tokens.yaml --set trainer.accumulate_grad_batches=$way --out t$way --log-every 1
  steps t$way >t$way.txt
done
cmp tauto.txt t3.txt || fail "accumulation auto is not 3"
expect 1 '[MPC0340]' "$mpcc" check tokens.yaml --set data.loader.batch_size=5
expect 0 'batch_size: auto is 4:' "$mpcc" explain tokens.yaml $auto # 12 sequences: 4 divides, 8 does not
finish
