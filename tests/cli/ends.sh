# How training ends: max_time behind a whole step, early stopping not before min_steps and min_epochs,
# detect_anomaly by name of what broke.
. "$(dirname "$0")/lib.sh"
cp "$here/tiny.yaml" spec.yaml
run() { "$mpcc" run spec.yaml --set trainer.max_epochs=100000 "$@"; }

expect 0 'max_time is over after step' run --out part --set trainer.max_time=1
steps=$(sed -n 's/.*max_time is over after step \([0-9]*\).*/\1/p' err.txt)
[ "$(readlink part/checkpoints/last)" = "$(printf 'step-%08d' "$steps")" ] || fail "no checkpoint of the last step"
expect 0 '' run --quiet --out part --resume --set trainer.max_time=00:01:00:00 --max-steps $((steps + 3))
expect 0 '' run --quiet --out whole --max-steps $((steps + 3))
cmp part/checkpoints/last/model.safetensors whole/checkpoints/last/model.safetensors || fail "other weights"
expect 0 '' "$mpcc" check spec.yaml --set trainer.max_epochs=null --set trainer.max_time=00:12:00:00
"$mpcc" resolve spec.yaml --set trainer.max_time=01:02:03:04 | grep -q 'max_time: 93784' || fail "other seconds"
# the time alone ends it, however many epochs that is; fast_dev_run is an end too
cat >open.yaml <<'EOF'
mpcc: 1
name: open
model:
  inputs: {image: {shape: [1, 8, 8]}}
  layers: [Flatten, {Linear: 4}]
loss: CrossEntropyLoss
data:
  train: {format: synthetic, shape: [1, 8, 8], classes: 4, samples: 4}
  loader: {batch_size: 4}
optimizer: {type: SGD, lr: 0.1}
trainer: {max_time: 00:00:00:02, log_every_n_steps: 1000}
checkpoint: {save_top_k: 0, save_last: false}
EOF
expect 0 'max_time is over after step' "$mpcc" run open.yaml --out open
[ "$(sed -n 's/.*max_time is over after step \([0-9]*\).*/\1/p' err.txt)" -gt 1000 ] || fail "ends with the epochs: $(tail -1 err.txt)"
grep -q ETA out.txt && fail "tells when an open run will end: $(grep ETA out.txt | head -1)"
expect 0 'epoch 1/1  step 2/2' "$mpcc" run spec.yaml --out dev-alone --set trainer.max_epochs=null --set trainer.fast_dev_run=2 \
  --set trainer.log_every_n_steps=1
expect 1 "'trainer' says no end" "$mpcc" check spec.yaml --set trainer.max_epochs=null --set trainer.fast_dev_run=false

for time in 12:00:00 00:24:00:00 00:00:60:00 1.5 -1 00:00:00:00:00 true; do
  expect 1 "'max_time' takes a text DD:HH:MM:SS, or whole seconds" "$mpcc" check spec.yaml --set "trainer.max_time=$time"
done

# limits of zero batches: nothing is evaluated, and nothing can watch it
expect 0 '' run --out blind --max-steps 9 --set trainer.limit_val_batches=0 --set trainer.limit_test_batches=0.0 \
  --set trainer.val_check_interval=4
grep -qE 'val|test' out.txt && fail "evaluates although no batch may be used"
grep -qE '"(val|test)' blind/metrics.jsonl && fail "evaluation in metrics.jsonl"
expect 0 'val  step 2' run --out dry --set trainer.fast_dev_run=2 --set trainer.limit_val_batches=0
expect 1 'trainer.limit_val_batches is 0' run --out no --set trainer.limit_val_batches=0 \
  --set 'early_stopping={monitor: val/loss, mode: min, patience: 1}'
expect 1 'number >= 0' run --out no --set trainer.limit_val_batches=-1

# a rate of zero learns nothing: stopped at the first evaluation that is no better, unless told to wait
stops() {
  expect 0 'early stopping at step' run --out "$1" --set optimizer.lr=0 --set scheduler=null \
    --set 'early_stopping={monitor: val/loss, mode: min, patience: 1}' --set trainer.val_check_interval=2 $3
  grep -q "early stopping at step $2:" err.txt || { fail "$1: another step than $2"; cat err.txt; }
}
stops plain 4 ''
stops steps 8 '--set trainer.min_steps=7'
grep -q 'early stopping waits for min_steps or min_epochs at step 4:' err.txt || fail "does not say that it waits"
stops epochs 15 '--set trainer.min_epochs=1'

# validation within epochs of 13 batches: an integer counts batches of the epoch, not optimizer steps; over
# its end where check_val_every_n_epoch is null; with accumulation behind the step that has the batch
checks() { # checks OUT STEPS OPTION...: the steps that a validation follows
  out=$1 steps=$2
  shift 2
  expect 0 '' "$mpcc" run spec.yaml --quiet --out "$out" --set trainer.max_epochs=2 "$@"
  found=$(sed -n 's/.*"step":\([0-9]*\),.*"split":"val".*/\1/p' "$out/metrics.jsonl" | tr '\n' ' ')
  [ "$found" = "$steps${steps:+ }" ] || fail "$out: validates behind steps $found, not $steps"
}
checks within '5 10 18 23' --set trainer.val_check_interval=5
checks all '13 26' --set trainer.val_check_interval=13
checks share '6 12 19 25' --set trainer.val_check_interval=0.5
checks second '18 23' --set trainer.val_check_interval=5 --set trainer.check_val_every_n_epoch=2
checks over '9 18' --set trainer.val_check_interval=9 --set trainer.check_val_every_n_epoch=null
checks longer '20' --set trainer.val_check_interval=20 --set trainer.check_val_every_n_epoch=null
checks summed '2 3 6 7' --set trainer.val_check_interval=5 --set trainer.accumulate_grad_batches=4
checks summed-over '2 3 5 6 7' --set trainer.val_check_interval=5 --set trainer.accumulate_grad_batches=4 \
  --set trainer.check_val_every_n_epoch=null --set trainer.max_epochs=3 --max-steps 8
checks dev '5' --set trainer.val_check_interval=20 --set trainer.fast_dev_run=5
checks blind-too '' --set trainer.val_check_interval=20 --set trainer.limit_val_batches=0
echo 'trainer: {max_epochs: 2, val_check_interval: 14}' >part.yaml
sed '/^trainer:/d' spec.yaml >long.yaml
cat part.yaml >>long.yaml
at=$(grep -n '^trainer' long.yaml | cut -d: -f1)
expect 1 "long.yaml:$at:46: val_check_interval is 14 batches, an epoch has 13" "$mpcc" run long.yaml --out no
expect 1 "long.yaml:$at:46: val_check_interval is 14 batches, an epoch has 6" "$mpcc" run long.yaml --out no \
  --set trainer.limit_train_batches=6
expect 0 '' "$mpcc" run long.yaml --out fits --set data.val=null
expect 1 "needs a whole number as val_check_interval" "$mpcc" check spec.yaml --set trainer.check_val_every_n_epoch=null

# in two parts, ended within an epoch, between two validations: the same rows
for every in '5 1' '9 null'; do
  set -- --set trainer.val_check_interval="${every% *}" --set trainer.check_val_every_n_epoch="${every#* }" \
    --set trainer.accumulate_grad_batches=2 --set trainer.max_epochs=3
  rm -rf one two
  expect 0 '' "$mpcc" run spec.yaml --quiet --out one "$@"
  expect 0 '' "$mpcc" run spec.yaml --quiet --out two "$@" --max-steps 10
  expect 0 '' "$mpcc" run spec.yaml --quiet --out two "$@" --resume
  for run in one two; do
    grep '"split":"val"' $run/metrics.jsonl >$run.rows
  done
  [ -s one.rows ] || fail "no validation"
  cmp one.rows two.rows || fail "other validations in two parts"
done

expect 10 "step 2 is not finite" run --out nan --set trainer.gradient_clip_val=null --set scheduler=null \
  --set trainer.detect_anomaly=true --set optimizer.lr=1e30 --max-steps 40
finish
