# Signals finish the step and leave a checkpoint that goes on to the same bits; what a terminal and a
# pipe are shown; metrics files tell one history.
. "$(dirname "$0")/lib.sh"
# Long enough to be interrupted in the middle; every step is logged.
"$mpcc" "$here/tiny.yaml" -march=native --precision 32-true -o prog \
  --set trainer.max_epochs=150 --set trainer.log_every_n_steps=1
last=step-00001950
final() { cat "$1/checkpoints/$last/model.safetensors" "$1/checkpoints/$last/optimizer.safetensors" | sha256sum; }
steps() { sed -n 's/^{"step":\([0-9]*\),.*"lr".*/\1/p' "$1/metrics.jsonl"; }
# Rows without what the clock says.
rows() { sed 's/,"throughput".*//' "$1/metrics.jsonl"; }

./prog --quiet --threads 1 --out whole >/dev/null
want=$(final whole)

# Waits until the run in $1 has logged some steps after step $2.
wait_for_steps() {
  tries=0
  while [ $tries -lt 1000 ]; do
    now=$(tail -n 1 "$1/metrics.csv" 2>/dev/null | cut -d, -f1)
    case $now in '' | *[!0-9]*) ;; *) [ "$now" -lt $(($2 + 20)) ] || return 0 ;; esac
    tries=$((tries + 1))
    sleep 0.01
  done
  fail "the run does not get beyond step $2"
}
# stopped SIGNAL CODE FOLDER OPTIONS...: signals a run; its exit code; a checkpoint of its last step
stopped() {
  signal=$1 code=$2 folder=$3
  shift 3
  before=0
  [ ! -e "$folder/metrics.csv" ] || before=$(tail -n 1 "$folder/metrics.csv" | cut -d, -f1)
  # a background job of a script ignores SIGINT unless it says otherwise
  env --default-signal=INT ./prog --quiet --threads 1 --out "$folder" "$@" >/dev/null 2>err.txt &
  pid=$!
  wait_for_steps "$folder" "$before"
  kill -"$signal" "$pid"
  set +e
  wait "$pid"
  got=$?
  set -e
  [ "$got" = "$code" ] || { fail "SIG$signal: exit $got instead of $code"; cat err.txt; }
  at=$(tail -n 1 "$folder/metrics.csv" | cut -d, -f1)
  [ "$(readlink "$folder/checkpoints/last")" = "$(printf 'step-%08d' "$at")" ] ||
    fail "SIG$signal: last is $(readlink "$folder/checkpoints/last"), the run was at $at"
  [ -e "$folder/checkpoints/last/DONE" ] || fail "SIG$signal: the checkpoint is not complete"
}
stopped INT 130 part
stopped TERM 75 part --resume
stopped USR1 75 part --resume
./prog --quiet --threads 1 --out part --resume >/dev/null
[ "$(final part)" = "$want" ] || fail "stopping by signals changes the bits"
rows whole >a.txt
rows part >b.txt
cmp -s a.txt b.txt || { fail "metrics.jsonl of the parts differs"; diff a.txt b.txt | head -5; }
[ "$(wc -l <part/metrics.csv)" = "$(wc -l <whole/metrics.csv)" ] || fail "metrics.csv has other rows"
[ "$(grep -c '^step,' part/metrics.csv)" = 1 ] || fail "metrics.csv has several headers"

# ---- stopped right behind an epoch: its evaluation is made up for ------------------------------------------
"$mpcc" "$here/tiny.yaml" -march=native --precision 32-true -o short --set trainer.max_epochs=300 \
  --set trainer.log_every_n_steps=1 --set trainer.limit_train_batches=1
./short --quiet --threads 1 --out ends >/dev/null
timeout -s TERM 0.2 ./short --quiet --threads 1 --out ended >/dev/null 2>&1 || true
./short --quiet --threads 1 --out ended --resume >/dev/null
rows ends >c.txt
rows ended >b.txt
cmp -s c.txt b.txt || { fail "metrics.jsonl after stopping behind an epoch differs"; diff c.txt b.txt | head -5; }

# ---- stopped in an evaluation: it is dropped, and made up for; so are predictions ---------------------------
# SIGTERM to $pid as soon as a command succeeds; its exit code in $got
terminated_when() {
  tries=0
  until "$@" || [ $tries -ge 1000 ]; do
    tries=$((tries + 1))
    sleep 0.01
  done
  kill -TERM "$pid"
  set +e
  wait "$pid"
  got=$?
  set -e
}
"$mpcc" "$here/tiny.yaml" -march=native --precision 32-true -o evaluates --set trainer.max_epochs=2 \
  --set trainer.log_every_n_steps=1 --set trainer.limit_train_batches=1 --set data.val.samples=300000 \
  --set 'ema={decay: 0.5, use_for: [val, export]}'
./evaluates --quiet --threads 1 --out at_once >/dev/null
./evaluates --quiet --threads 1 --out dropped >/dev/null 2>err.txt &
pid=$!
terminated_when grep -qs '^{"step":1,' dropped/metrics.jsonl
[ "$got" = 75 ] || { fail "SIGTERM in an evaluation: exit $got instead of 75"; cat err.txt; }
[ "$(grep -c '"split":"val"' dropped/metrics.jsonl)" = 0 ] || fail "the evaluation was not dropped"
[ -e dropped/checkpoints/step-00000001/DONE ] || fail "SIGTERM in an evaluation leaves no checkpoint"
./evaluates --quiet --threads 1 --out dropped --resume >/dev/null
rows at_once >c.txt
rows dropped >b.txt
[ "$(grep -c '"split":"val"' c.txt)" = 2 ] || fail "evaluations are missing"
cmp -s c.txt b.txt || { fail "metrics.jsonl after stopping in an evaluation differs"; diff c.txt b.txt | head -5; }
for file in model optimizer; do
  cmp -s at_once/checkpoints/last/$file.safetensors dropped/checkpoints/last/$file.safetensors ||
    fail "stopping in an evaluation changes $file.safetensors"
done
./evaluates --quiet --threads 1 --out at_once --resume --split val --predict p.npy >/dev/null 2>err.txt &
pid=$!
terminated_when [ -e p.npy.part ]
[ "$got" = 75 ] && [ ! -e p.npy ] && [ ! -e p.npy.part ] || { fail "SIGTERM while predicting: exit $got"; ls p.npy*; cat err.txt; }

# ---- killed: rows behind the checkpoint are cut on resuming ---------------------------------------------
./prog --quiet --threads 1 --out killed >/dev/null 2>&1 &
pid=$!
wait_for_steps killed 13
kill -9 $pid
wait $pid 2>/dev/null || true
printf '{"step":9000,"lr' >>killed/metrics.jsonl # a torn row
./prog --quiet --threads 1 --out killed --resume >/dev/null
rows killed >b.txt
cmp -s a.txt b.txt || { fail "metrics.jsonl after a kill differs"; diff a.txt b.txt | head -5; }
[ "$(final killed)" = "$want" ] || fail "a killed run ends in other bits"

# ---- the second Ctrl-C ----------------------------------------------------------------------------------
env --default-signal=INT ./prog --quiet --threads 1 --out twice >/dev/null 2>&1 &
pid=$!
wait_for_steps twice 0
kill -STOP $pid # the first is there before the step goes on, the second comes within it
kill -INT $pid
kill -CONT $pid
kill -INT $pid 2>/dev/null || true
set +e
wait $pid
got=$?
set -e
[ "$got" = 130 ] || fail "second Ctrl-C: exit $got instead of 130"

# ---- a pipe and a terminal ------------------------------------------------------------------------------
./prog --threads 1 --out pipe --max-steps 30 --log-every 10 >pipe.txt 2>pipe_err.txt
[ "$(grep -c '^epoch [0-9]*/150  step [0-9]*/30 ' pipe.txt)" = 3 ] || { fail "not one line per 10 steps:"; cat pipe.txt; }
[ "$(cat pipe_err.txt)" = './prog: writes into pipe' ] || { fail "other words on standard error"; cat pipe_err.txt; }
tr -d '\n' <pipe.txt | grep -q "$(printf '[\r\033]')" && fail "terminal codes on a pipe"
grep -q '  loss [0-9.]*  lr [0-9.e-]*  |g| [0-9.]*  .* samples/s  .*  data [0-9]*%  ETA 0:00:0' pipe.txt ||
  { fail "another progress line:"; head -1 pipe.txt; }
if command -v script >/dev/null; then
  script -qec './prog --threads 1 --out tty --max-steps 300' /dev/null >tty.txt 2>&1 </dev/null || fail "run under script"
  tr '\r' '\n' <tty.txt >lines.txt
  grep -q 'step 300/300 (100.0%)' lines.txt || fail "the last step is not drawn"
  drawn=$(grep -c '^epoch ' lines.txt)
  [ "$drawn" -le 250 ] || fail "drawn $drawn times for 300 steps: more than 10 a second"
  # redrawn in place: each text begins after a carriage return, never after a newline
  grep -q '^epoch ' tty.txt && fail "progress is not redrawn on a terminal"
  grep -q '^writes into tty' tty.txt || fail "where the run writes is not said"
  # a line that is longer than the terminal could not be redrawn
  for columns in 40 80; do
    script -qec "stty cols $columns; ./prog --threads 1 --out tty$columns --max-steps 300" /dev/null >tty.txt 2>&1 </dev/null || fail "run under script"
    tr -d '\n' <tty.txt | tr '\r' '\n' | sed 's/^\(step\|epoch\)\(.*[^ ]\) *val .*/\1\2/' >lines.txt
    grep -q 'step [0-9]*/300' lines.txt || fail "no progress in $columns columns"
    longest=$(grep '/300' lines.txt | awk '{ if (length > n) n = length } END { print n }')
    [ "$longest" -lt $columns ] || fail "a line of $longest in $columns columns"
  done
fi
env --default-signal=INT ./prog --threads 1 --out told >/dev/null 2>err.txt &
pid=$!
wait_for_steps told 0
kill -INT $pid
wait $pid || true
grep -q 'stopped after step [0-9]*, saved in told; --resume goes on' err.txt || { fail "Ctrl-C says nothing"; cat err.txt; }
# ---- whoever reads the output goes away: training does not ------------------------------------------
(
  set +e
  ./prog --threads 1 --out headed 2>err.txt
  echo $? >code
) | head -n 1 >/dev/null
[ "$(cat code)" = 4 ] || fail "exit code $(cat code) of a run without a reader"
grep -q 'cannot write standard output' err.txt || fail "does not say that output was lost"
[ "$(final headed)" = "$want" ] || fail "a run without a reader learns something else"

finish
