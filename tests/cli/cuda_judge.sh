# A program with code for both devices: losses on the GPU beside the CPU's, the same bits whatever the order
# of blocks and after stopping and resuming. In an empty folder:
#   cuda_judge.sh PROGRAM MODE LOSS,NORM DEVICE      how far losses and gradient norms may be, relative
# Single roundings grow from step to step, in some runs past any bound. A run that is further in a mode of 16 or
# 8 bits is compared with the CPU beside itself: eight runs there, in each of which one weight begins one unit of
# 16 bits away. What the GPU does may be twice as far as the furthest of them, and no further.
set -eu
prog=$1 mode=$2 bound=$3 device=$4 failures=0
fail() {
  failures=1
  echo "FAIL: $mode: $*"
}
losses() { sed -n 's/.*"loss":\([^,]*\),.*"grad_norm":\([^,]*\),.*/\1 \2/p' "$1/metrics.jsonl"; }
final() { cat "$1"/checkpoints/step-00000010/*.safetensors | sha256sum; }

"$prog" --device cpu --quiet --out cpu --max-steps 10 --log-every 1 >/dev/null
"$prog" --device "$device" --quiet --out gpu --max-steps 10 --log-every 1 >/dev/null
losses cpu >cpu.txt
losses gpu >gpu.txt
[ "$(wc -l <gpu.txt)" -ge 10 ] || fail "no losses"
# How far the losses and norms of a file are from the CPU's, at most: two numbers
far() {
  paste -d' ' cpu.txt "$1" | awk '
    function apart(a, b) { d = a - b; return (d < 0 ? -d : d) / (b < 0 ? -b : b) }
    NF != 4 { exit bad = 1 }
    { l = apart($3, $1); n = apart($4, $2); loss = l > loss ? l : loss; norm = n > norm ? n : norm }
    END { if (bad || !NR) exit 1; printf "%.2g %.2g\n", loss, norm }'
}
# within LOSS NORM LOSS,NORM
within() { echo "$1 $2 $3" | awk '{ split($3, most, ","); exit !($1 <= most[1] && $2 <= most[2]) }'; }
# The CPU's run from first weights of which one, at place $1 of 9, is moved.
moved() {
  cp first.safetensors moved.safetensors
  header=$(($(od -An -tu8 -N8 moved.safetensors)))
  bytes=$(($(wc -c <moved.safetensors) - header - 8))
  at=$((8 + header + bytes * $1 / 9 / 4 * 4)) # of an f32, whose bit 16 is the last of bf16, 13 of float16
  case $mode in
  16-mixed | 16-true | *float16) at=$((at + 1)) bit=32 ;;
  *) at=$((at + 2)) bit=1 ;;
  esac
  byte=$(od -An -tu1 -j$at -N1 moved.safetensors)
  # shellcheck disable=SC2059
  printf "\\$(printf %03o $((byte ^ bit)))" | dd of=moved.safetensors bs=1 seek=$at conv=notrunc 2>/dev/null
  rm -rf moved
  "$prog" --device cpu --quiet --out moved --weights moved.safetensors --max-steps 10 --log-every 1 >/dev/null
  losses moved >moved.txt
}
# The furthest of the CPU's own runs.
beside_itself() {
  "$prog" --device cpu --quiet --max-steps 0 --export first.safetensors --weights-dtype f32 >/dev/null
  for place in 1 2 3 4 5 6 7 8; do
    moved $place && far moved.txt
  done | awk '{ l = $1 > l ? $1 : l; n = $2 > n ? $2 : n } END { print l, n }'
}
# shellcheck disable=SC2046
set -- $(far gpu.txt)
words="losses at most $1, gradient norms $2 from the CPU; $bound allowed"
if ! within "$1" "$2" "$bound"; then
  case $mode in
  64-true | 32-true) fail "$words" ;;
  *)
    far=$(beside_itself)
    words="$words; with one weight moved the CPU is ${far% *}, ${far#* } from itself"
    within "$1" "$2" "$(echo "$far" | awk '{ print 2 * $1 "," 2 * $2 }')" || fail "$words"
    ;;
  esac
fi

EMU_SEED=7 "$prog" --device "$device" --quiet --out shuffled --max-steps 10 >/dev/null
"$prog" --device "$device" --quiet --out part --max-steps 4 >/dev/null
"$prog" --device "$device" --quiet --out part --max-steps 10 --resume >/dev/null
for run in shuffled part; do
  [ "$(final $run)" = "$(final gpu)" ] || fail "run '$run' ends in other bits"
done
grep -q '"library": "cuBLASLt ' part/checkpoints/step-00000010/state.json ||
  fail "the checkpoint does not say how products are made"
[ $failures = 1 ] || echo "$words"
exit $failures
