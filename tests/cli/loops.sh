#!/bin/sh
# Recurrent layers: kernels do not depend on the number of time steps, programs resume to the same bits,
# every kernel agrees with the interpreter, and the CUDA target says that it has no loops. loops.sh MPCC
. "$(dirname "$0")/lib.sh"
spec=$here/../../specs/smoke/lstm-text.yaml

# kernels of one net over 16 and over 512 steps
for length in 16 512; do
  "$mpcc" explain "$spec" -D length=$length >plan-$length.txt 2>err.txt || { fail "explain $length"; cat err.txt; }
  sed -n 's/^\([0-9]*\) distinct kernels$/\1/p' plan-$length.txt >kernels-$length.txt
done
cmp -s kernels-16.txt kernels-512.txt || fail "kernels depend on the number of steps"
[ "$(cat kernels-16.txt)" -gt 5 ] || fail "no kernels"

# what a step costs does: every product of this net is one of each time step
flops() { sed -n 's/^train_step: .*, \([0-9]*\) FLOPs.*/\1/p' "plan-$1.txt"; }
[ "$(flops 512)" -eq $((32 * $(flops 16))) ] || fail "FLOPs: $(flops 16) of 16 steps, $(flops 512) of 512"
grep -q ' x 512  ' plan-512.txt || fail "explain does not say how often a kernel runs"

# batch_first: false is the same net between two transposes
cat >first.yaml <<'END'
mpcc: 1
name: first
model:
  inputs: {image: {shape: [6, 16]}}
  layers:
    - {name: lstm, LSTM: 8, bidirectional: true}
    - {name: gru, GRU: 12, num_layers: 2}
    - {name: attention, MultiheadAttention: 12, num_heads: 3}
    - {name: states, GRU: 5, output: h_n, bidirectional: true}
    - Flatten
    - {name: head, Linear: 4}
loss: CrossEntropyLoss
data:
  train: {format: synthetic, shape: [6, 16], classes: 4, samples: 60}
  loader: {batch_size: 16}
optimizer: {type: AdamW, lr: 0.01}
trainer: {max_steps: 5}
END
turn='{type: transpose, dim0: 0, dim1: 1}'
sed -e "s/- {name: lstm/- $turn\n    &/; s/- Flatten/- $turn\n    &/" \
  -e 's/bidirectional: true\|num_layers: 2\|num_heads: 3/&, batch_first: false/' first.yaml >turned.yaml
for mode in 32-true transformer-engine; do
  for net in first turned; do
    "$mpcc" run $net.yaml --precision $mode --out $net-$mode >out.txt 2>err.txt || { fail "$net $mode"; tail -3 err.txt; }
  done
  cmp -s first-$mode/checkpoints/last/model.safetensors turned-$mode/checkpoints/last/model.safetensors ||
    fail "$mode: batch_first: false is another net"
done

# stopped and resumed
"$mpcc" run "$spec" --max-steps 4 --out whole >out.txt 2>err.txt || { fail "run"; tail -3 err.txt; }
"$mpcc" run "$spec" --max-steps 2 --out halves >out.txt 2>err.txt || { fail "first half"; tail -3 err.txt; }
"$mpcc" run "$spec" --max-steps 4 --resume --out halves >out.txt 2>err.txt || { fail "second half"; tail -3 err.txt; }
cmp -s whole/checkpoints/last/model.safetensors halves/checkpoints/last/model.safetensors || fail "a resumed run differs"

# threads do not matter
"$mpcc" run "$spec" --max-steps 4 --threads 1 --out one >out.txt 2>err.txt || { fail "one thread"; tail -3 err.txt; }
cmp -s whole/checkpoints/last/model.safetensors one/checkpoints/last/model.safetensors || fail "threads change the result"

"$mpcc" verify "$spec" --precision bf16-mixed >out.txt 2>err.txt || { fail "verify"; tail -3 out.txt err.txt; }

# beside PyTorch's runs: relative error of loss and gradient norm; bf16 there also rounds where a fused
# step does not
cp "$here"/recurrent/* .
for pair in 64-true=2e-7 32-true=2e-5 bf16-mixed=1e-2; do
  mode=${pair%=*}
  "$mpcc" run rnn.yaml --precision "$mode" --out "rnn-$mode" >out.txt 2>err.txt || { fail "rnn $mode"; tail -3 err.txt; }
  sed 's/.*"step":\([0-9]*\).*"loss":\([^,]*\),.*"grad_norm":\([^,]*\),.*/\1 \2 \3/' "rnn-$mode/metrics.jsonl" >got.txt
  grep "^$mode " recurrent.txt >want.txt
  awk -v most="${pair#*=}" 'NR == FNR { loss[$2] = $3; norm[$2] = $4; next }
    function off(a, b) { return (a > b ? a - b : b - a) > most * b }
    { n++; if (off($2, loss[$1]) || off($3, norm[$1])) { print "step " $1 ": " $0; wrong = 1 } }
    END { exit wrong || n != 6 }' want.txt got.txt || fail "$mode is not what PyTorch gives"
done

finish
