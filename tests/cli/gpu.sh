# tools/gpu-pack and tools/gpu-run on the stand-ins: every stage runs or says why not, results are there, what
# is broken is told.
. "$(dirname "$0")/lib.sh"
build=$3 root=$here/../..
"$mpcc" "$here/tiny.yaml" --target=cuda --gpu-arch=sm_80 --emit=ptx -o probe.ptx 2>probe.txt || {
  grep -q 'NVRTC was not found' probe.txt || { cat probe.txt; exit 1; }
  echo "not run: this machine has no NVRTC to compile kernels with"
  exit 77
}
expect 0 'KiB' "$root/tools/gpu-pack" --build "$build" --tiny --out pack.tar.gz
expect 0 '0 failures' "$root/tools/gpu-run" pack.tar.gz --stand-ins "$build/tests/emu" --out results --seconds 200
for words in 'device .* ok .*mpcc emulated' 'heuristics .* ok ' 'opcheck .* ok ' 'train .*tiny_32-true .* ok ' \
  'sanitizer .* not run' 'bench .*mlp-128-32-true .* ok .*kernels .*rows .*gemm' 'torch .* not run' 'beside the saved results: 0 of'; do
  grep -q "$words" results/gpu.txt || { fail "no '$words' in the table"; cat results/gpu.txt; }
done
python3 -c 'import json, sys; r = json.load(open("results/gpu.json")); sys.exit(not (r["stand_ins"] and len(r["results"]) >= 6))' ||
  fail "gpu.json is not what it should be"
mkdir unpacked && tar -C unpacked -xzf pack.tar.gz
for program in unpacked/mpcc-gpu/bin/*; do
  ! ldd "$program" | grep -qi 'llvm\|yaml' || fail "$program needs the compiler's libraries"
done
# a GPU that cannot be used is not passed over in silence
export EMU_ARCH=75 LD_LIBRARY_PATH="$build/tests/emu"
expect 0 'code is for compute capability 9.0; the device has 7.5' \
  unpacked/mpcc-gpu/train/tiny_32-true --quiet --out auto --max-steps 1
unset EMU_ARCH LD_LIBRARY_PATH
# without a GPU: every stage says so; a broken program is a failure
LD_LIBRARY_PATH=$work/none expect 0 '0 failures' unpacked/mpcc-gpu/gpu-run --out nogpu --seconds 20
grep -q 'opcheck .*not run .*no NVIDIA driver' nogpu/gpu.txt || { fail "the reason is not told"; cat nogpu/gpu.txt; }
head -c 3000 unpacked/mpcc-gpu/opcheck/0000.opcheck >cut && mv cut unpacked/mpcc-gpu/opcheck/0000.opcheck
expect 1 '1 failures' unpacked/mpcc-gpu/gpu-run --stand-ins "$build/tests/emu" --out broken --stages opcheck
finish
