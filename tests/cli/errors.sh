# Wrong specs, wrong settings, wrong files: each is answered at its place, in one run, without harm.
. "$(dirname "$0")/lib.sh"

# A small right spec to make mistakes in. write_spec NAME SED-EXPRESSION...
write_spec() {
  name=$1
  shift
  cat >"$name" <<'EOF'
mpcc: 1
name: small
params: {n: 32}
model:
  inputs: {image: {shape: [1, 8, 8]}}
  layers:
    - Flatten
    - {name: fc1, Linear: $n}
    - ReLU
    - {name: fc2, Linear: 16}
  expect: {parameters: 2608}
loss: CrossEntropyLoss
data:
  train: {format: synthetic, shape: [1, 8, 8], classes: 16, samples: 64}
  loader: {batch_size: 16, shuffle: true}
optimizer: {type: SGD, lr: 0.1}
trainer: {max_epochs: 1}
precision: {mode: 32-true}
EOF
  for edit in "$@"; do sed -i "$edit" "$name"; done
}

# quick COMMAND...: within 20 s and never by a signal, whatever the input
quick() {
  timeout -k 1 20 "$@"
}

# located FILE LINE:COL CODE TEXT [HINT]: mpcc check FILE says one error there, in the house style
located() {
  expect 1 "$1:$2: error: $4" quick "$mpcc" check "$1"
  grep -qF "[MPC$3]" err.txt || { fail "$1: no code $3"; cat err.txt; }
  grep -q '^ *| *^' err.txt || { fail "$1: no caret"; cat err.txt; }
  [ $# -lt 5 ] || grep -qF "$5" err.txt || { fail "$1: no hint '$5'"; cat err.txt; }
  [ "$(grep -c ' error: ' err.txt)" = 1 ] || { fail "$1: more than one error"; cat err.txt; }
  [ ! -s out.txt ] || fail "$1: words on standard output"
}

write_spec good.yaml
expect 0 '' quick "$mpcc" check good.yaml
[ ! -s err.txt ] || { fail "words about a right spec"; cat err.txt; }

# ---- one mistake ----------------------------------------------------------------------------------
write_spec a.yaml 's/lr: 0.1/lr: 0.1, momentun: 0.9/'
located a.yaml 16:33 0102 "unknown key 'momentun'" "did you mean 'momentum'?"
write_spec a.yaml 's/^name: small/name: small\nname: other/'
located a.yaml 3:1 0101 "key 'name' is given twice"
grep -q 'a.yaml:2:1: note:' err.txt || fail "the first of two keys is not shown"
write_spec a.yaml 's/max_epochs: 1/max_epochs: many/'
located a.yaml 17:23 0201 "'max_epochs' takes an integer, not 'many'"
write_spec a.yaml 's/max_epochs: 1/max_epochs: [1]/'
located a.yaml 17:23 0201 "'max_epochs' takes an integer, not a list"
write_spec a.yaml 's/shuffle: true/shuffle: yes/'
located a.yaml 15:37 0203 "'shuffle' takes true or false, not the word 'yes'" 'write true'
write_spec a.yaml 's/lr: 0.1/<<: {lr: 0.1}/'
located a.yaml 16:24 0103 'merge keys'
write_spec a.yaml 's/lr: 0.1/lr: /'
located a.yaml 16:28 0205 "'lr' in optimizer 'SGD' is empty"
write_spec a.yaml 's/Linear: 16/Linear: $(16 \/\/ 0)/'
located a.yaml 10:32 0211 'division by zero'
write_spec a.yaml 's/Linear: 16/Linear: $m/'
located a.yaml 10:27 0215 '$m is not a parameter'
write_spec a.yaml 's/Linear: 16/Liner: 16/'
located a.yaml 10:19 0191 "unknown layer type 'Liner'" "did you mean 'Linear'?"
write_spec a.yaml 's/Linear: 16/Linear: 16, in_features: 31/'
located a.yaml 10:44 0311 "shapes do not fit: 'fc2' has in_features 31"
grep -q "a.yaml:9:7: note: the input comes from" err.txt || { fail "no second place"; cat err.txt; }
write_spec a.yaml 's/2608/2609/'
located a.yaml 11:24 0312 'the model has 2608 parameters, not 2609'
write_spec a.yaml 's/32-true}/32-true, overrides: [{match: fc3, precision: 16-mixed}]}/'
located a.yaml 18:48 0421 "override matches no layer: 'fc3'" 'nearest names'
write_spec a.yaml 's/32-true/32-ture/'
located a.yaml 18:19 0204 "unknown precision '32-ture'" "did you mean '32-true'?"
write_spec a.yaml 's/^trainer:/phases: []\ntrainer:/'
located a.yaml 17:1 0190 "'phases' in the spec is not supported yet"
write_spec a.yaml 's/SGD/Muon/'
located a.yaml 16:19 0190 "optimizer type 'Muon' is not supported yet"
write_spec a.yaml 's/params: {n: 32}/params: {n: 32, unused: 1}/'
located a.yaml 3:17 0216 "parameter 'unused'"
write_spec a.yaml 's/lr: 0.1/lr: -0.1/'
located a.yaml 16:28 0202 "'lr'"
write_spec a.yaml 's/mpcc: 1/mpcc: 2/'
located a.yaml 1:7 0202 "'mpcc'"
write_spec a.yaml 's/^trainer: .*/trainer: {max_epochs: 1/'
expect 1 '[MPC0100]' quick "$mpcc" check a.yaml

# ---- bombs, depth, garbage, size ------------------------------------------------------------------
{
  printf 'mpcc: 1\nx-a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n'
  before=a
  for i in b c d e f g h i j k; do
    echo "x-$i: &$i [*$before, *$before, *$before, *$before, *$before, *$before, *$before, *$before]"
    before=$i
  done
} >bomb.yaml
expect 1 'aliases expand to more than' quick "$mpcc" check bomb.yaml
for open in '[' '{a: '; do
  { printf 'mpcc: 1\nx-deep: ' && yes "$open" | head -10000 | tr -d '\n' && echo; } >deep.yaml
  expect 1 'nesting is deeper than' quick "$mpcc" check deep.yaml
done
{ printf 'mpcc: 1\nparams: {n: $' && yes '(' | head -100000 | tr -d '\n' && echo '}'; } >deep.yaml
expect 1 'error:' quick "$mpcc" check deep.yaml
: >empty.yaml
located empty.yaml 1:1 0107 'a spec is a map of keys, not nothing' 'mpcc: 1'
head -c 100000 "$mpcc" >garbage.yaml
located garbage.yaml 1:1 0100 'this is not YAML'
head -c 50000000 /dev/zero | tr '\0' a >long.yaml
expect 1 '[MPC0107]' quick "$mpcc" check long.yaml
[ "$(wc -c <err.txt)" -le 2000 ] || fail "a long line is printed in full: $(wc -c <err.txt) bytes"
{ printf 'mpcc: 1\nnmae: ' && cat long.yaml; } >long_value.yaml
expect 1 "did you mean 'name'?" quick "$mpcc" check long_value.yaml
[ "$(wc -c <err.txt)" -le 4000 ] || fail "a long line is printed in full: $(wc -c <err.txt) bytes"
rm long.yaml long_value.yaml

# ---- several mistakes, one run --------------------------------------------------------------------
write_spec a.yaml 's/SGD/SGD, weight_decy: 1/' 's/lr: 0.1/lr: fast/' 's/shuffle: true/shuffle: on/' \
  's/Linear: 16/Linear: 16, biass: true/' 's/max_epochs: 1/max_epoch: 1/'
expect 1 '' quick "$mpcc" check a.yaml
[ "$(grep -c '^a.yaml:[0-9]*:[0-9]*: error: ' err.txt)" -ge 5 ] ||
  { fail "not all mistakes in one run"; cat err.txt; }
expect 1 '' quick "$mpcc" check a.yaml -fmax-errors=2
[ "$(grep -c ' error: ' err.txt)" -le 3 ] || fail "-fmax-errors=2 says $(grep -c ' error: ' err.txt)"
expect 1 'a.yaml' quick "$mpcc" check good.yaml a.yaml
expect 0 '' quick "$mpcc" check good.yaml good.yaml

# ---- the command line -----------------------------------------------------------------------------
expect 1 "--precision:1:1: error: unknown precision" quick "$mpcc" check good.yaml --precision fp8
expect 1 'not supported yet' quick "$mpcc" check good.yaml --precision nf4
expect 1 '-D:1:1: error: m is not a parameter' quick "$mpcc" check good.yaml -D m=1
expect 1 'takes NAME=VALUE' quick "$mpcc" check good.yaml -D n
expect 1 "takes an integer, not 'x'" quick "$mpcc" check good.yaml -D n=x
expect 1 '--set:1:11: error: unknown key' quick "$mpcc" check good.yaml --set optimizer.rl=1
expect 1 'takes PATH=VALUE' quick "$mpcc" check good.yaml --set optimizer.lr
expect 1 '--set:2:' quick "$mpcc" check good.yaml --set seed=1 --set trainer.max_epochs=-7
expect 2 "no pass is named 'fusee'" quick "$mpcc" good.yaml --emit=ir -o - --stop-after=fusee
expect 2 "no pass is named 'fusee'" quick "$mpcc" good.yaml --emit=ir -o - --print-ir-after=fusee
expect 2 "unknown warning 'fp9-fallback'" quick "$mpcc" check good.yaml -Wno-fp9-fallback
expect 2 "unknown level 'avx1024'" quick "$mpcc" good.yaml -march=avx1024
expect 4 'cannot read' quick "$mpcc" check .

# ---- extends --------------------------------------------------------------------------------------
printf 'mpcc: 1\nextends: nowhere.yaml\n' >child.yaml
expect 4 "child.yaml:2:10: error: cannot read 'nowhere.yaml'" quick "$mpcc" check child.yaml
printf 'mpcc: 1\nextends: b.yaml\n' >a.yaml
printf 'mpcc: 1\nextends: a.yaml\n' >b.yaml
expect 1 'extends' quick "$mpcc" check a.yaml
printf 'mpcc: 1\nextends: good.yaml\ntrainer: {max_steps: x}\n' >child.yaml
expect 1 'child.yaml:3:22: error:' quick "$mpcc" check child.yaml
write_spec a.yaml 's/lr: 0.1/lr: x/'
printf 'mpcc: 1\nextends: a.yaml\n' >child.yaml
expect 1 'a.yaml:16:28: error:' quick "$mpcc" check child.yaml

# ---- FP8 fallback ---------------------------------------------------------------------------------
te='--precision transformer-engine'
expect 0 '' quick "$mpcc" check good.yaml $te
write_spec odd.yaml 's/Linear: 16/Linear: 12/' 's/classes: 16/classes: 12/' '/expect/d'
expect 0 "odd.yaml:10:7: warning: 'fc2' cannot run in FP8: 12 is not a multiple of 16; it runs in bfloat16 [-Wfp8-fallback]" \
  quick "$mpcc" check odd.yaml $te
[ "$(grep -c warning: err.txt)" = 1 ] || { fail "one layer, several warnings"; cat err.txt; }
expect 1 '[-Werror=fp8-fallback]' quick "$mpcc" check odd.yaml $te -Werror
expect 0 '' quick "$mpcc" check odd.yaml $te -Werror -Wno-fp8-fallback
[ ! -s err.txt ] || fail "a silenced warning is said"
expect 1 '[-Werror=fp8-fallback]' quick "$mpcc" odd.yaml $te -Werror -o odd
[ ! -e odd ] || fail "an output in spite of -Werror"

# ---- a good output outlives a failed run ----------------------------------------------------------
echo precious >keep
for bad in a.yaml garbage.yaml empty.yaml; do
  expect 1 '' quick "$mpcc" $bad --emit=image -o keep
done
[ "$(cat keep)" = precious ] || fail "a failed run replaced a good output"
ls | grep -q 'keep\.' && fail "temporary files stay"
if (ulimit -f 1 && ! head -c 100000 /dev/zero >probe) 2>/dev/null; then
  expect 4 'cannot write' sh -c 'trap "" XFSZ; ulimit -f 8; exec "$@"' sh \
    "$mpcc" good.yaml --emit=image --no-cache -o keep
  [ "$(cat keep)" = precious ] || fail "a full disk replaced a good output"
  ls | grep -q 'keep\.' && fail "temporary files stay after a full disk"
fi
expect 4 'cannot write' sh -c '"$1" good.yaml --emit=ir -o - >/dev/full' sh "$mpcc"

# ---- IR text --------------------------------------------------------------------------------------
"$mpcc" good.yaml --emit=ir --stop-after=step -o good.mpir
expect 0 '' quick "$mpcc" check good.mpir
: >a.mpir
expect 1 'a.mpir:1:1: error:' quick "$mpcc" check a.mpir
cp garbage.yaml a.mpir
expect 1 'a.mpir:1:1: error:' quick "$mpcc" check a.mpir
sed 's/f32/f33/' good.mpir >a.mpir
expect 1 'a.mpir:' quick "$mpcc" check a.mpir
grep -q "^a.mpir:[0-9]*:[0-9]*: error: .*\[MPC06" err.txt || { fail "IR error without place"; cat err.txt; }
sed '0,/%[0-9][0-9]*/s//%9999999/' good.mpir >a.mpir
expect 1 'a.mpir:' quick "$mpcc" check a.mpir
size=$(wc -c <good.mpir)
for part in 1 2 3 5 7 9 11 13 15 17 19; do
  { head -c $((size * part / 20)) good.mpir; printf %s '%'; } >a.mpir # the end of a function would be right
  expect 1 'a.mpir:' quick "$mpcc" check a.mpir
done

# ---- nothing crashes: the spec cut anywhere, a byte changed anywhere ------------------------------
size=$(wc -c <good.yaml)
at=0
while [ $at -lt "$size" ]; do
  head -c $at good.yaml >cut.yaml
  { cat cut.yaml && printf '%s' '*' && tail -c +$((at + 2)) good.yaml; } >flip.yaml
  set +e
  quick "$mpcc" check cut.yaml flip.yaml >/dev/null 2>err.txt
  got=$?
  set -e
  [ $got -le 1 ] || { fail "exit $got for the spec cut or changed at byte $at"; head -3 err.txt; }
  at=$((at + 7))
done

# ---- formats without hardware: known but impossible is exit 3, at the mode that asks for them ------
expect 3 "precision 'transformer-engine' needs units for DelayedScaling; cpu has none [MPC0502]" \
  quick "$mpcc" good.yaml --precision transformer-engine --set precision.on_unsupported=error -o p
grep -q -- '--precision:1:1: error' err.txt || fail "no place of the mode"
[ -e p ] && fail "a program although its format is impossible"
expect 0 '' quick "$mpcc" good.yaml --precision bf16-mixed --set precision.on_unsupported=error -o p
finish
