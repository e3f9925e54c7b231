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
stops epochs 14 '--set trainer.min_epochs=1'

expect 1 "needs a whole number as val_check_interval" "$mpcc" check spec.yaml --set trainer.check_val_every_n_epoch=null
expect 0 'val  step 9' run --out over --max-steps 9 --set trainer.check_val_every_n_epoch=null --set trainer.val_check_interval=9

expect 10 "step 2 is not finite" run --out nan --set trainer.gradient_clip_val=null --set scheduler=null \
  --set trainer.detect_anomaly=true --set optimizer.lr=1e30 --max-steps 40
finish
