# What layers lose in narrower formats, and a precision block that a spec takes and that keeps its bound.
. "$(dirname "$0")/lib.sh"
spec=$here/tiny.yaml
"$mpcc" sensitivity "$spec" --formats=e4m3,bf16 --bound 0.03 -o loss.txt
grep -qE '^conv_proj +falls back +[0-9.]+e-0' loss.txt || fail "a convolution does not run in FP8"
for layer in attention mlp.0 mlp.3 head; do
  grep -qE "^$layer +[0-9.]+e-0[0-9] " loss.txt || fail "no row for $layer"
done
# Eight bits lose more than sixteen in every layer that can run in FP8, by the formats' mantissas.
awk '/^(attention|mlp|head)/ && !($2 > 4 * $4) { bad = 1 } END { exit bad }' loss.txt ||
  fail "e4m3 does not lose more than bf16"
sed -n 's/.*block: \([^ ]*\) measured.*/\1/p' loss.txt | awk '!($1 <= 0.03) { exit 1 }' ||
  fail "the block does not keep its bound"
# The block is one that the spec takes.
sed -n '/^precision:/,$p' loss.txt >block.yaml
grep -q 'precision: bf16-mixed, reason' block.yaml || fail "no layer was set back"
sed '/^precision:/d' "$spec" | cat - block.yaml >chosen.yaml
"$mpcc" check chosen.yaml || fail "the block is no part of a spec"
# Nothing is narrow when nothing may be lost.
"$mpcc" sensitivity "$spec" --formats=bf16 --bound 1e-9 --json >strict.json
[ "$(grep -c '"choice": "fp32"' strict.json)" = 5 ] || fail "a layer loses less than 1e-9 in bf16"
grep -q '"gradient_error": 0.0' strict.json || fail "32-true differs from 32-true"
# Complex numbers keep their format: no modes to try in those layers, but in others.
sed 's/- {type: mean, dim: 1}/- {name: f, fft: 1}\n    - {name: size, type: abs}\n    - {type: mean, dim: 1}/' "$spec" >fft.yaml
expect 0 'mode: ' "$mpcc" sensitivity fft.yaml --formats=e4m3
grep -q '^f ' out.txt && fail "a transform is a region"
expect 2 "not 'int3'" "$mpcc" sensitivity "$spec" --formats=bf16,int3
expect 2 '--bound takes a number > 0' "$mpcc" sensitivity "$spec" --bound -1
expect 2 'belongs to mpcc sensitivity' "$mpcc" check "$spec" --formats=bf16
finish
