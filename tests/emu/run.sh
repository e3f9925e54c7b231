#!/bin/sh
# tools/emu-run: an unchanged program finds the stand-ins, and is told clearly what is missing.
set -eu
probe=$1 build=$2
run="$(dirname "$0")/../../tools/emu-run"
export MPCC_BUILD="$build"
unset LD_LIBRARY_PATH EMU_SEED EMU_ARCH EMU_FAIL

expect() { # status, words, command
  want=$1 words=$2
  shift 2
  status=0
  out=$("$@" 2>&1) || status=$?
  if [ "$status" != "$want" ] || ! echo "$out" | grep -q "$words"; then
    echo "$*: status $status, expected $want and '$words'; printed: $out"
    exit 1
  fi
}
expect 0 "mpcc emulated sm_90, cuBLASLt 130100" "$run" "$probe"
expect 0 "emulated sm_80" "$run" --arch 80 "$probe"
expect 1 "no NVIDIA driver: .*libcuda.so.1" "$run" --without cuda "$probe"
expect 1 "no cuBLASLt: .*libcublasLt.so.13" "$run" --without cublasLt "$probe"
# where the libraries of CUDA 12 are all there is, they do
old=$(mktemp -d)
trap 'rm -rf "$old"' EXIT
: >"$old/libcublasLt.so.13"
ln -s "$(cd "$build" && pwd)/tests/emu/libcublasLt.so.13" "$old/libcublasLt.so.12"
expect 0 "cuBLASLt 130100" env LD_LIBRARY_PATH="$old:$build/tests/emu" "$probe"
expect 1 "the NVIDIA driver has no function cuInit; a newer one" \
  env LD_LIBRARY_PATH="$build/tests/emu/bare_cuda.so.1" "$probe"
expect 1 "libcublasLt.so.13 has no function cublasLtCreate; a newer one" \
  env LD_LIBRARY_PATH="$build/tests/emu/bare_cublasLt.so.13:$build/tests/emu" "$probe"
expect 1 "for CUDA 12.4; this program needs CUDA 13.0" "$run" EMU_DRIVER_VERSION=12040 "$probe"
expect 1 "sees no GPU" "$run" EMU_DEVICES=0 "$probe"
expect 1 "first device: CUDA_ERROR_OUT_OF_MEMORY (2)" \
  "$run" --fail cuDevicePrimaryCtxRetain:1:2 "$probe"
stats=$(mktemp)
expect 0 "emulated sm_90" "$run" --stats "$stats" "$probe"
grep -q "^kernel .*memory .*issue .*sectors" "$stats" # a table without a kernel
rm "$stats"
expect 7 "" "$run" sh -c 'exit 7'
expect 2 "emu-run \[OPTIONS\]" "$run"
expect 2 "emu-run \[OPTIONS\]" "$run" --seed
expect 4 "build first" "$run" --build /nonexistent "$probe"
