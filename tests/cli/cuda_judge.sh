# A program with code for both devices: losses on the GPU beside the CPU's, the same bits whatever the order
# of blocks and after stopping and resuming. In an empty folder:
#   cuda_judge.sh PROGRAM MODE BOUND DEVICE      bound: of losses and gradient norms, relative
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
paste -d' ' cpu.txt gpu.txt | awk -v bound="$bound" '
  function far(a, b) { d = a - b; d = (d < 0 ? -d : d) / (b < 0 ? -b : b); most = d > most ? d : most; return d > bound }
  { one = far($3, $1); two = far($4, $2) }
  one || two { print "step " NR ": loss, gradient norm " $3, $4 ", on the CPU " $1, $2; bad = 1 }
  END { printf "losses and gradient norms at most %.2g from the CPU, %s allowed\n", most, bound; exit bad }' ||
  fail "further from the CPU than $bound"

EMU_SEED=7 "$prog" --device "$device" --quiet --out shuffled --max-steps 10 >/dev/null
"$prog" --device "$device" --quiet --out part --max-steps 4 >/dev/null
"$prog" --device "$device" --quiet --out part --max-steps 10 --resume >/dev/null
for run in shuffled part; do
  [ "$(final $run)" = "$(final gpu)" ] || fail "run '$run' ends in other bits"
done
grep -q '"library": "cuBLASLt ' part/checkpoints/step-00000010/state.json ||
  fail "the checkpoint does not say how products are made"
exit $failures
