# 16-bit weights without masters and steps that are small beside them: to nearest they stall, stochastic
# rounding and Kahan's sum follow training in FP32. The same bits with 1 and 2 threads, and after stopping
# and resuming: random numbers are of seed and step, the compensation is in the checkpoint.
. "$(dirname "$0")/lib.sh"
# What rounding took is no less right when a tie fell to the other side.
for optimizer in '{type: Adam, lr: 1e-3}' '{type: RMSprop, lr: 1e-3, momentum: 0.9, centered: true}'; do
  for mode in 16-true bf16-true; do
    expect 0 ' 0 deviate' "$mpcc" verify "$here/tiny.yaml" --precision $mode --set precision.update_rounding=kahan \
      --set "optimizer=$optimizer" -Wno-constant-underflow
  done
done
loss() { # after 40 epochs of SGD at a small rate
  "$mpcc" "$here/tiny.yaml" --precision "$1" --set "precision.update_rounding=$2" --set scheduler=null \
    --set 'optimizer={type: SGD, lr: 1e-3}' --set trainer.max_epochs=40 -march=native -o "p-$2"
  "./p-$2" --quiet --out "$1-$2" >/dev/null
  sed -n 's/.*"split":"val","loss":\([0-9.]*\).*/\1/p' "$1-$2/metrics.jsonl" | tail -1
}
wide=$(loss 32-true nearest)
near=$(loss bf16-true nearest)
for how in stochastic kahan; do
  awk -v w="$wide" -v n="$near" -v x="$(loss bf16-true $how)" 'BEGIN {
    d = x > w ? x - w : w - x; exit !(w > 0 && n > w && d < 0.25 * (n - w)) }' ||
    fail "$how does not follow 32-true nearer than nearest does ($wide, $near)"
  ./p-$how --quiet --out two-$how --threads 2 >/dev/null
  ./p-$how --quiet --out one-$how --threads 1 >/dev/null
  ./p-$how --quiet --out part-$how --max-steps 117 >/dev/null
  ./p-$how --quiet --out part-$how --resume >/dev/null
  for run in two part; do
    for file in model optimizer; do
      cmp -s one-$how/checkpoints/last/$file.safetensors $run-$how/checkpoints/last/$file.safetensors ||
        fail "$how: $file of '$run' has other bits"
    done
  done
done
finish
