# Built programs: self-contained, both levels, small, old enough glibc, other ways to link.
. "$(dirname "$0")/lib.sh"
"$mpcc" "$here/tiny.yaml" -o prog
[ "$(stat -c %s prog)" -le 2097152 ] || fail "program is larger than 2 MiB"
env -i ./prog --quiet --out full >res.txt || fail "does not run in an empty environment"
grep -q '^test: loss' res.txt || fail "no test result"
./prog --quiet --level x86-64-v3 --out v3 >/dev/null || fail "baseline level does not run"
if command -v qemu-x86_64 >/dev/null; then
  qemu-x86_64 -cpu Haswell ./prog --quiet --out q --max-steps 3 --threads 1 >/dev/null 2>q.txt ||
    { fail "does not run on an emulated Haswell"; cat q.txt; }
  expect 3 'avx2' qemu-x86_64 -cpu Nehalem ./prog --quiet --out q2
fi
highest=$(objdump -T prog 2>/dev/null | grep -o 'GLIBC_2\.[0-9]*' | sort -t. -k2 -n | tail -1)
case $highest in
GLIBC_2.3[0-4] | GLIBC_2.[0-9] | GLIBC_2.[12][0-9]) ;;
*) fail "needs $highest, more than 2.34" ;;
esac
ldd prog | grep -vqE 'linux-vdso|libc\.so|libm\.so|ld-linux|libpthread' && fail "needs: $(ldd prog)"

./prog --print-plan | grep -q 'distinct kernels' || fail "no plan"
./prog --print-spec | grep -q '^mpcc: 1' || fail "no spec"
./prog --print-spec >again.yaml
"$mpcc" again.yaml --emit=image -o again.img || fail "the printed spec does not compile"
expect 2 "unknown option '--frob'" ./prog --frob
expect 3 'no code for device cuda:0' ./prog --device cuda:0
expect 0 '--max-steps' ./prog --help
./prog --licenses | grep -q Apache || fail "no licence"

./prog --quiet --weights full/checkpoints/last/model.safetensors --validate >v.txt || fail "--validate"
sed -n 's/^test: //p' res.txt >a.txt
sed -n 's/^test: //p' v.txt >b.txt
cmp a.txt b.txt || fail "--validate gives another result than the run"
./prog --quiet --resume=full/checkpoints/last --predict p.npy || fail "--predict"
[ "$(stat -c %s p.npy)" = $((128 + 50 * 16 * 4)) ] || fail "p.npy has the wrong size"
./prog --quiet --resume=full/checkpoints/last --export w.safetensors --weights-dtype bf16 || fail "--export"
"$mpcc" inspect w.safetensors | grep -q 'head.weight .*BF16' || fail "inspect weights"
"$mpcc" inspect p.npy | grep -q '50, 16' || fail "inspect npy"
"$mpcc" inspect prog >images.txt || fail "inspect program"
[ "$(grep -c 'level x86-64-v3' images.txt)" = 1 ] || fail "the baseline is not there once"
[ "$(sort images.txt | uniq -d | grep -c '^image')" = 0 ] || fail "an image is there twice"
"$mpcc" inspect full/checkpoints/last | grep -q 'count.taken' || fail "inspect checkpoint"

cp prog cut && truncate -s -100 cut
expect 4 'carries no program' ./cut
if command -v cc >/dev/null; then
  "$mpcc" "$here/tiny.yaml" --link=cc -march=native -o linked && ./linked --quiet --out l >l.txt
  grep -q '^test: loss' l.txt || fail "linked by cc"
  cp linked before
  mkdir bin && printf '#!/bin/sh\nexit 1\n' >bin/cc && chmod +x bin/cc
  expect 1 '' env PATH="$PWD/bin:$PATH" "$mpcc" "$here/tiny.yaml" --link=cc -march=native -o linked
  cmp linked before || fail "a failing linker destroyed a good program"
fi
"$mpcc" "$here/tiny.yaml" --emit=asm -march=x86-64-v3 -o - | grep -q vfmadd || fail "--emit=asm"
"$mpcc" "$here/tiny.yaml" --emit=llvm-ir -o - | grep -q '^define' || fail "--emit=llvm-ir"
"$mpcc" verify "$here/tiny.yaml" --precision bf16-mixed | grep -q ', 0 deviate' || fail "verify"
finish
