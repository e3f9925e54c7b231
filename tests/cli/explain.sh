# The plan in words is stable: whole-file comparison for two modes at the baseline level.
# GOLDEN_UPDATE=1 rewrites the expected files; read the diff.
. "$(dirname "$0")/lib.sh"
for mode in bf16-mixed transformer-engine; do
  (cd "$here/../.." && "$mpcc" explain tests/cli/tiny.yaml --precision $mode -march=x86-64-v3 \
    -Wno-fp8-fallback) >$mode.txt
  [ -z "${GOLDEN_UPDATE:-}" ] || cp $mode.txt "$here/explain/$mode.want"
  diff -u "$here/explain/$mode.want" $mode.txt || fail "explain $mode"
done
# What two modes differ in, with what bounds each layer; 32-true beside a mixed mode, and FP8.
for modes in 32-true,bf16-mixed bf16-mixed,transformer-engine; do
  (cd "$here/../.." && "$mpcc" explain tests/cli/tiny.yaml --diff=$modes -march=x86-64-v3 \
    -Wno-fp8-fallback) >diff-$modes.txt
  [ -z "${GOLDEN_UPDATE:-}" ] || cp diff-$modes.txt "$here/explain/diff-$modes.want"
  diff -u "$here/explain/diff-$modes.want" diff-$modes.txt || fail "explain --diff=$modes"
done
# A mode beside itself differs in nothing.
"$mpcc" explain "$here/tiny.yaml" --diff=32-true,32-true -march=x86-64-v3 >none.txt
grep -q '^[-+] ' none.txt && fail "32-true differs from itself"
grep -q 'about as fast' none.txt || fail "32-true is not as fast as itself"
# Choices that change numbers are named with their rule, and so is the list of a date.
"$mpcc" explain "$here/tiny.yaml" --precision bf16-true --set precision.update_rounding=kahan \
  --set precision.float32_matmul=high --set precision.policy=cuda-2025-12 >choices.txt
for text in 'policy cuda-2025-12' 'N3  float32_matmul: high' 'N12 update_rounding: kahan'; do
  grep -qF "$text" choices.txt || fail "explain does not say '$text'"
done
"$mpcc" explain "$here/tiny.yaml" --precision 64-true --set precision.float32_matmul=high >idle.txt
grep -q 'float32_matmul: high (idle: no product here is FP32)' idle.txt || fail "a rule that takes nothing is called in force"
# Every cast has its reason, also where the spec casts by hand and the logged sums have 64 bits.
sed 's/{name: head, Linear: 16}/&\n    - {type: to, dtype: float64}/; s/logits: head/logits: wide/
  s/{type: to,/{name: wide, type: to,/' "$here/tiny.yaml" >wide.yaml
for mode in 64-true 16-mixed 16-true transformer-engine; do
  "$mpcc" explain wide.yaml --precision $mode --set precision.regions.loss=64-true \
    -Wno-fp8-fallback >wide.txt || fail "explain wide.yaml in $mode"
  grep -q ' -> *f64 .*wide.yaml:24' wide.txt || [ $mode = 64-true ] || fail "no \`to\` in $mode"
  awk 'cast && !/^ *because/ { print; bad = 1 } { cast = $2 == "cast" && $4 == "->" } END { exit bad }' wide.txt ||
    fail "casts without a reason in $mode"
done
expect 2 'takes two modes' "$mpcc" explain "$here/tiny.yaml" --diff=32-true
expect 2 'belongs to mpcc explain' "$mpcc" "$here/tiny.yaml" --diff=32-true,64-true
expect 1 "bf17" "$mpcc" explain "$here/tiny.yaml" --diff=32-true,bf17
finish
