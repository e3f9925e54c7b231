# Each exit code of the compiler and of programs, by the shortest way there.
. "$(dirname "$0")/lib.sh"
tiny=$here/tiny.yaml
quick="--set trainer.max_epochs=1"
"$mpcc" "$tiny" -march=native $quick -o prog

# ---- the compiler -----------------------------------------------------------------------------------
expect 0 '' "$mpcc" check "$tiny"
expect 1 '[MPC0102]' "$mpcc" check "$tiny" --set trainer.max_epoch=1
expect 2 'unknown option' "$mpcc" --frob
expect 2 "unknown word 'elf'" "$mpcc" "$tiny" --emit=elf
for form in cuda ptx cubin; do
  expect 2 "$form is a form of target cuda, which is not asked for" "$mpcc" "$tiny" --emit=$form -o none
done
for form in asm llvm-ir; do
  expect 2 "$form is a form of target cpu, which is not asked for" "$mpcc" "$tiny" --target=cuda --emit=$form -o none
  "$mpcc" "$tiny" -march=native --emit=$form -o one.txt
  "$mpcc" "$tiny" -march=native --target=cuda,cpu --emit=$form -o two.txt
  cmp -s one.txt two.txt || fail "--emit=$form is not the CPU's where the program has a GPU's kernels, too"
done
[ ! -e none ] || fail "an output of another target"
expect 3 'knows the memory of the target cpu alone' "$mpcc" "$tiny" --target=cuda --set data.loader.batch_size=auto
expect 4 'cannot read' "$mpcc" absent.yaml
# a module whose loss nobody writes: no spec gives one
"$mpcc" "$tiny" --emit=ir --stop-after=grad -o grad.mpir
sed '/write .*metric.loss_sum/d' grad.mpir >broken.mpir
expect 5 'the module before the failing pass is in' "$mpcc" broken.mpir --emit=ir -o -
[ -s broken.mpir.repro.mpir ] || fail "no report file"
expect 11 'even a batch of 1' "$mpcc" "$tiny" --set data.loader.batch_size=auto --memory 10K
[ ! -e tiny ] || fail "an output in spite of a failure"
# interrupted while it reads: the shell reports 128 + SIGINT
mkfifo pipe
set +e
env --default-signal=INT "$mpcc" check - <pipe &
pid=$!
exec 9>pipe
sleep 0.1
kill -INT $pid
wait $pid
code=$?
exec 9>&-
set -e
[ $code = 130 ] || fail "interrupted: exit $code"

# ---- programs ---------------------------------------------------------------------------------------
run() { ./prog --quiet --threads 1 --out out "$@"; }
expect 0 'test: loss' run
expect 2 "unknown option '--frob'" run --frob
expect 2 "'--precision' is built into this program" run --precision 64-true
expect 2 "'--batch-size=3' is built into this program" run --batch-size=3
expect 2 "--max-steps takes a whole number >= 0, not 'many'" run --max-steps many
expect 2 "--threads takes a whole number >= 0, not '4294967297'" run --threads 4294967297
expect 2 "--profile takes a whole number >= 1, not '0'" run --profile 0
expect 2 "--seed takes a whole number >= 0, not '-1'" run --seed=-1
expect 2 "a checkpoint to go on from is --resume=DIR" run --resume out
expect 2 'both give the weights' run --resume --weights w
expect 2 'goes with --predict' run --split val
expect 2 'goes with --export, --predict or --validate' run --weights-dtype bf16
expect 2 "unknown device 'tpu'" run --device tpu
expect 3 'error' run --device cuda:0
expect 4 'cannot read absent.safetensors' run --weights absent.safetensors
"$mpcc" "$tiny" -march=native $quick --set optimizer.lr=1e30 --set scheduler=null -o wild
expect 10 '[MPC0901]' ./wild --quiet --out wild_out
"$mpcc" "$tiny" -march=native --set data.loader.batch_size=200000000 -o huge
expect 11 'this program needs' ./huge --quiet --out huge_out
[ ! -e huge_out ] || fail "a run folder for a program that does not fit"
"$mpcc" "$tiny" -march=native --set trainer.max_epochs=100000 -o long
signalled() { # SIGNAL CODE
  env --default-signal=INT ./long --quiet --threads 1 --out "sig$1" >/dev/null 2>&1 &
  pid=$!
  tries=0
  until [ -s "sig$1/metrics.jsonl" ] || [ $tries -ge 500 ]; do
    tries=$((tries + 1))
    sleep 0.02
  done
  kill -"$1" $pid
  set +e
  wait $pid
  code=$?
  set -e
  [ $code = "$2" ] || fail "SIG$1: exit $code instead of $2"
  [ -e "sig$1/checkpoints/last/DONE" ] || fail "SIG$1: no checkpoint"
}
signalled INT 130
signalled TERM 75
signalled USR1 75

# ---- what programs answer without training ------------------------------------------------------------
expect 0 'mpcc: 1' ./prog --print-spec
cp out.txt printed.yaml
expect 0 '' "$mpcc" check printed.yaml
expect 0 'distinct kernels' ./prog --print-plan
expect 0 '' ./prog --dry-run --out never
[ ! -e never ] || fail "--dry-run leaves a folder"
expect 0 'Apache License' ./prog --licenses
expect 0 'usage:' ./prog --help
expect 0 'share  launches' ./prog --profile 2
# predictions and results with weights of another format
for dtype in bf16 f16 f64 bfloat16; do
  expect 0 '' ./prog --quiet --resume=out --predict $dtype.npy --weights-dtype $dtype
  expect 0 'val: loss' ./prog --quiet --resume=out --validate --weights-dtype $dtype
done
./prog --quiet --resume=out --predict f32.npy
cmp bf16.npy bfloat16.npy || fail "bfloat16 is not bf16"
cmp f32.npy f64.npy || fail "FP32 weights are not FP64 weights rounded"
cmp -s f32.npy bf16.npy && fail "bf16 weights predict the same"
cmp -s f16.npy bf16.npy && fail "f16 and bf16 weights predict the same"
[ "$(wc -c <f16.npy)" = "$(wc -c <f32.npy)" ] || fail "other shapes"

# ---- export -------------------------------------------------------------------------------------------
expect 0 '' "$mpcc" run "$tiny" $quick --quiet --out e \
  --set 'export=[{format: safetensors, path: half.safetensors, dtype: bfloat16}, {format: safetensors, path: w.safetensors}]'
"$mpcc" inspect e/half.safetensors | grep -q 'head.weight .*BF16' || fail "no BF16 weights"
expect 0 '' ./prog --quiet --resume=e --export again.safetensors
cmp e/w.safetensors again.safetensors || fail "export is not --export"
expect 1 "'gguf' in" "$mpcc" check "$tiny" --set 'export=[{format: gguf, path: x}]'
finish
