# A program with code for both devices: losses on the GPU beside the CPU's, the same bits whatever the order
# of blocks and after stopping and resuming. In an empty folder:
#   cuda_judge.sh PROGRAM MODE LOSS,NORM DEVICE      how far losses and gradient norms may be, relative
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
  BEGIN { split(bound, allowed, ",") }
  function apart(a, b) { d = a - b; return (d < 0 ? -d : d) / (b < 0 ? -b : b) }
  { l = apart($3, $1); n = apart($4, $2); loss = l > loss ? l : loss; norm = n > norm ? n : norm }
  l > allowed[1] || n > allowed[2] { print "step " NR ": loss, gradient norm " $3, $4 ", on the CPU " $1, $2; bad = 1 }
  END { printf "losses at most %.2g, gradient norms %.2g from the CPU; %s allowed\n", loss, norm, bound; exit bad }' ||
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
