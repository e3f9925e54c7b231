# --instrument: the same training, with what was watched in the run folder.
. "$(dirname "$0")/lib.sh"
spec=$here/tiny.yaml
train() { "$mpcc" run "$spec" --quiet --max-steps 8 --precision 16-mixed "$@"; }
train --out plain
train --out watched --instrument=nan,range,time
cmp plain/checkpoints/last/model.safetensors watched/checkpoints/last/model.safetensors ||
  fail "watching changes the weights"
head -1 watched/ranges.csv | grep -q '^layer,kernel,output,place,dtype,elements,steps,amax,zero,f16_saturated' ||
  fail "ranges.csv has another header"
[ "$(grep -c ',8,' watched/ranges.csv)" -gt 40 ] || fail "not a row for each result"
grep -q '^mlp.0,.*tiny.yaml:[0-9]*:[0-9]*,f16,' watched/ranges.csv || fail "no row for mlp.0 in f16"
grep -q 'ms in kernels' watched/profile.txt || fail "no profile"
grep -q '^ *[0-9.]* *[0-9.]*% *[0-9]* *[0-9.]* *product_.* linear.* mlp.0' watched/profile.txt ||
  fail "no line of mlp.0's product"
[ ! -e plain/ranges.csv ] || fail "ranges without being asked"
# A program built to watch does so, unless told otherwise.
"$mpcc" "$spec" -march=native --instrument=range -o prog
./prog --quiet --max-steps 2 --out built
./prog --quiet --max-steps 2 --out other --instrument=time
[ -e built/ranges.csv ] && [ ! -e other/ranges.csv ] && [ -e other/profile.txt ] || fail "what is built in"
# Gradients beyond float16: the step is skipped, and where it began is told.
expect 0 'step 1 is not finite' train --out inf --instrument=nan --set precision.grad_scaler.init_scale=1e9
grep -q 'first non-finite: .*tiny.yaml:' err.txt || fail "no place of the first value not finite"
grep -q 'stored as f16' err.txt || fail "no format of it"
# A kernel that also moves what it reads is called by what it computes.
sed 's/    - {name: conv_proj.*/    - {name: turned, type: transpose, dim0: 2, dim1: 3}\n    - {name: big, type: expr, expr: "a * 1e30 * 1e30"}\n&/' "$spec" >big.yaml
expect 0 'elements of the output of big (' "$mpcc" run big.yaml --quiet --max-steps 1 --out big --instrument=nan
expect 2 "not 'speed'" train --out never --instrument=nan,speed
expect 2 "not 'tome'" train --out never --instrument=nan,tome
finish
