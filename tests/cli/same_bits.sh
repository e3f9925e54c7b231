# One mode: the same weights to the bit with 1 and 2 threads, after stopping and resuming, after
# kill -9, and in plan mode (canaries, NaN fill), also of a plan without reuse of memory.
. "$(dirname "$0")/lib.sh"
mode=$3 recipe=${4:-DelayedScaling} spec=$here/${5:-tiny.yaml} # the recipe lies idle where the mode has none
"$mpcc" "$spec" --precision "$mode" --set "precision.recipe.name=$recipe" -march=native -Wno-fp8-fallback -Wno-fp8-padding -o prog
"$mpcc" "$spec" --precision "$mode" --set "precision.recipe.name=$recipe" -march=native --no-reuse -Wno-fp8-fallback -Wno-fp8-padding -o wide

final() { # the state after the last step of a run folder, as one hash
  cat "$1/checkpoints/step-00000039/model.safetensors" \
    "$1/checkpoints/step-00000039/optimizer.safetensors" | sha256sum
}

./prog --quiet --out one --threads 1 >/dev/null
./prog --quiet --out two --threads 2 >/dev/null
./prog --quiet --out part --max-steps 17 >/dev/null
./prog --quiet --out part --resume >/dev/null
./prog --quiet --out plan --plan-mode >/dev/null
./wide --quiet --out wide_out --plan-mode >/dev/null

# killed while it saves after every step
"$mpcc" "$spec" --precision "$mode" --set "precision.recipe.name=$recipe" -march=native -Wno-fp8-fallback -Wno-fp8-padding \
  --set checkpoint.every_n_train_steps=1 -o saver
./saver --quiet --out killed >/dev/null 2>&1 &
pid=$!
while kill -0 "$pid" 2>/dev/null && [ ! -e killed/checkpoints/step-00000007 ]; do sleep 0.01; done
kill -9 "$pid" 2>/dev/null || true
wait "$pid" 2>/dev/null || true
./saver --quiet --out killed --resume >/dev/null

want=$(final one)
for run in two part plan wide_out killed; do
  [ "$(final $run)" = "$want" ] || fail "$mode: run '$run' ends in other bits"
done
finish
