# What `logging:` and `profiler:` ask for is in the run folder, and nothing else.
. "$(dirname "$0")/lib.sh"
run() { "$mpcc" run "$here/tiny.yaml" --threads 1 "$@"; }
# a bit of text for a model of bytes
cat >lm.yaml <<'END'
mpcc: 1
name: lm
model:
  inputs: {tokens: {shape: [16], dtype: int32}}
  layers: [{Embedding: 256, embedding_dim: 16, inputs: [tokens]}, {Linear: 256}]
loss: {type: CrossEntropyLoss, inputs: {input: logits, target: next_tokens}}
data:
  train: {format: text, path: text.txt, sequence_length: 16}
  loader: {batch_size: 4, shuffle: true}
optimizer: {type: AdamW, lr: 0.1}
trainer: {max_steps: 60}
logging: {sample: {every_n_steps: 30, max_new_tokens: 24, prompt: "ab", temperature: 0}}
END
i=0
while [ $i -lt 200 ]; do printf 'abcd'; i=$((i + 1)); done >text.txt

expect 0 '' run --out plain --quiet
ls plain | grep -q 'tfevents\|report.html\|trace.json\|samples' && fail "files nobody asked for"
expect 0 '' run --out none --quiet --set logging.jsonl=false --set logging.csv=false
ls none | grep -q metrics && fail "metrics files in spite of false"
expect 0 '' run --out all --quiet --set logging.tensorboard=true --set logging.report=html \
  --set 'profiler={type: chrome-trace, wait: 3, warmup: 1, active: 2}' --max-steps 20
[ "$(ls all | grep -c '^events.out.tfevents')" = 1 ] || fail "no events file"
expect 0 '' run --out all --quiet --set logging.tensorboard=true --set logging.report=html --resume
[ "$(ls all | grep -c '^events.out.tfevents')" = 2 ] || fail "a resumed run writes no second events file"
[ "$(grep -c '<svg' all/report.html)" -ge 5 ] || fail "report.html has too few curves"
grep -q 'acc: train 0[.0-9]*, val' all/report.html || fail "report.html has no evaluation"
# what the test split gave stands once, behind the end of the whole run
[ "$(grep -c '"step":39,.*"split":"test","loss":.*"acc"' all/metrics.jsonl)" = 1 ] || fail "no row of the test split"
[ "$(grep -c '"split":"test"' all/metrics.jsonl) $(grep -c ',test,' all/metrics.csv)" = "1 1" ] || fail "an earlier end's row stays"
grep -q 'acc: train 0[.0-9]*, val .*, test' all/report.html || fail "report.html has no test split"
expect 0 'a row for each target' run --out all --resume --validate --set 'metrics=[Accuracy, ConfusionMatrix]'
[ "$(grep -c '^ *[0-9]* .*[0-9]$' out.txt)" = 32 ] || fail "not two matrices of 16 rows"
# two steps were recorded, kernels of both
[ "$(grep -o '"step":[0-9]*' all/trace.json | sort -u | tr '\n' ' ')" = '"step":5 "step":6 ' ] || fail "other steps"
[ "$(grep -c '"cat":"kernel"' all/trace.json)" -ge 40 ] || fail "too few kernels"
grep -q '"name":"linear[^"]*","cat":"kernel".*"layer":"mlp.0"}' all/trace.json || fail "kernels without layers"
expect 0 '' run --out simple --max-steps 20 --set 'profiler={type: simple, wait: 3, warmup: 1, active: 2}'
grep -q 'a step: .* ms in kernels.*(simple/profile.txt)' err.txt || fail "does not say where the profile is"
grep -q '^ *[0-9.]* *[0-9.]*% *1 *[0-9.]* *product_.* mlp.0$' simple/profile.txt || fail "no line of mlp.0"
ls simple | grep -q 'trace.json' && fail "a trace nobody asked for"
cmp plain/checkpoints/last/model.safetensors all/checkpoints/last/model.safetensors ||
  fail "watching changes what is learnt"

expect 0 '' run --out p0 --set logging.progress=none
grep -q 'step' out.txt && fail "progress in spite of none"
expect 0 'step 39/39' run --out p1 --set logging.progress=plain
grep -q ': writes into p1$' err.txt || fail "does not say where it writes"
expect 0 'step 39/39' run --out p2 --set logging.progress=line
[ "$(tr -cd '\r' <out.txt | wc -c)" -ge 1 ] || fail "progress: line draws no line"

# what the model wrote: the alphabet goes round
expect 0 'sample  step 30' "$mpcc" run lm.yaml --out lm
grep -q -- '---- step 60' lm/samples.txt || fail "no second sample"
tail -n 1 lm/samples.txt | grep -q '^abcdabcdabcdabcdabcdabcdab$' || { fail "it has not learnt the alphabet"; cat lm/samples.txt; }
expect 0 '' "$mpcc" run lm.yaml --out half --max-steps 20 --quiet
expect 0 '' "$mpcc" run lm.yaml --out half --resume --threads 2 --quiet --set logging.sample.temperature=0
mkdir -p full/samples.txt # cannot be opened
expect 0 'cannot write a sample into full at step 30' "$mpcc" run lm.yaml --threads 1 --out full
cmp lm/samples.txt half/samples.txt || fail "samples depend on resuming"
expect 0 '' "$mpcc" run lm.yaml --out hot1 --quiet --set logging.sample.temperature=50 --threads 1
expect 0 '' "$mpcc" run lm.yaml --out hot2 --quiet --set logging.sample.temperature=50 --threads 2
cmp hot1/samples.txt hot2/samples.txt || fail "drawn samples differ with threads"
cmp -s hot1/samples.txt lm/samples.txt && fail "temperature has no effect"
expect 1 'a sample needs a model of one input, a sequence' "$mpcc" check "$here/tiny.yaml" \
  --set 'logging.sample={every_n_steps: 1}'
expect 1 'metrics.jsonl; leave jsonl on' "$mpcc" check "$here/tiny.yaml" --set logging.report=html --set logging.jsonl=false
expect 1 "'every_n_steps'" "$mpcc" check lm.yaml --set 'logging.sample={max_new_tokens: 1}'
finish
