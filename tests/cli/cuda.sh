# One mode on the stand-in for a GPU: losses beside the CPU's, the same bits whatever the order of blocks,
# after stopping and resuming; what is missing or fails has a clear error and leaves checkpoints intact.
. "$(dirname "$0")/lib.sh"
mode=$3 emu=$4 bound=$5 spec=$here/$6 recipe=$7 arch=$8 # recipe: idle where the mode has none
[ "$arch" != any ] || arch=sm_80
case $6 in */*) cp "$(dirname "$spec")"/* . ;; esac # its data
gpu() { LD_LIBRARY_PATH=$emu EMU_REPORT=$work/report.txt "$@"; }

if ! "$mpcc" "$spec" --target=cuda --gpu-arch=sm_80 --emit=ptx -o probe.ptx 2>probe.txt; then
  grep -q 'NVRTC was not found' probe.txt || { cat probe.txt; exit 1; }
  echo "not run: this machine has no NVRTC to compile kernels with"
  exit 77
fi
"$mpcc" "$spec" --target=cuda --gpu-arch=sm_90 --emit=cubin -o probe.cubin
[ "$(head -c 4 probe.cubin | tail -c 3)" = ELF ] || fail "--emit=cubin is no ELF file"
"$mpcc" "$spec" --precision "$mode" --set "precision.recipe.name=$recipe" --target=cpu,cuda \
  --gpu-arch=$arch -march=x86-64-v3 -Wno-fp8-fallback -Wno-fp8-padding -o prog

gpu "$mpcc" verify "$spec" --precision "$mode" --set "precision.recipe.name=$recipe" --target=cuda \
  --gpu-arch=$arch -Wno-fp8-fallback -Wno-fp8-padding >verify.txt 2>&1 ||
  { fail "verify: $(grep -m1 FAIL verify.txt)"; tail -3 verify.txt; }
grep -q '^[1-9][0-9]* kernels, 0 deviate' verify.txt || fail "verify: $(tail -1 verify.txt)"
gpu sh "$here/cuda_judge.sh" ./prog "$mode" "$bound" cuda || fail "$mode: not as on the CPU"
final() { cat "$1"/checkpoints/step-00000010/*.safetensors | sha256sum; }
[ ! -s report.txt ] || { fail "$mode: the interpreter found something"; head -20 report.txt; }

if [ "$mode" = 32-true ]; then
  # predictions are the CPU's, batch by batch: they lie where steps work
  for device in cuda cpu; do
    gpu ./prog --device $device --quiet --resume=gpu/checkpoints/last --out predicted --predict $device.npy >/dev/null
    tail -c +129 $device.npy | od -An -v -tf4 -w4 >$device.numbers
  done
  paste cuda.numbers cpu.numbers | awk '
    { d = $1 - $2; d = d < 0 ? -d : d; worst = d > worst ? d : worst; size += $2 * $2 }
    END { exit !(NR >= 50 && size > 0 && worst <= 1e-4 * sqrt(size / NR)) }' || fail "predictions are not the CPU's"
  # where a step's time goes: by the device's clock, kernels and products apart, the same bits
  gpu ./prog --device cuda --quiet --instrument time --out timed --max-steps 10 >/dev/null
  grep -q 'in kernels, the GPU' timed/profile.txt || fail "no profile of the GPU"
  grep -q '[0-9] x [0-9]* x [0-9]* f32  linear' timed/profile.txt || fail "no products in the profile"
  [ "$(final timed)" = "$(final gpu)" ] || fail "a run that is timed ends in other bits"
  # a trace has them by the device's clock too, one behind the other, in a row of their own
  "$mpcc" "$spec" --set 'profiler={type: chrome-trace, wait: 2, active: 2}' --target=cuda --gpu-arch=$arch -o traced
  gpu ./traced --device cuda --quiet --out trace --max-steps 10 >/dev/null
  sed -n 's/.*"cat":"kernel".*"ts":\([^,]*\),"dur":\([^,]*\),.*"tid":2,.*"step":\([45]\),.*/\1 \2/p' trace/trace.json |
    awk '$2 <= 0 || $1 + 0.1 < end { bad++ } { end = $1 + $2; n++ } END { exit bad || n < 40 }' ||
    fail "no times of the device in a trace"
  grep -q '"cat":"kernel".*"tid":1' trace/trace.json && fail "kernels by the clock of the host"
  [ "$(final trace)" = "$(final gpu)" ] || fail "a run that is traced ends in other bits"
  before=$(final part)
  LD_LIBRARY_PATH=$work/none expect 3 'no NVIDIA driver' ./prog --device cuda --max-steps 1
  LD_LIBRARY_PATH=$work/none expect 3 'no NVIDIA driver' "$mpcc" verify "$spec" --target=cuda --gpu-arch=sm_80
  expect_gpu() { export LD_LIBRARY_PATH="$emu"; expect "$@"; unset LD_LIBRARY_PATH; }
  EMU_DEVICES=0 expect_gpu 3 'sees no GPU' ./prog --device cuda --max-steps 1
  expect_gpu 3 "no device 'cuda:5'" ./prog --device cuda:5 --max-steps 1
  EMU_DRIVER_VERSION=12040 expect_gpu 3 'needs CUDA 13.0' ./prog --device cuda --max-steps 1
  mkdir none2 && : >none2/libcublasLt.so.13 # found first, and does not load
  LD_LIBRARY_PATH=$work/none2:$emu expect 3 'no cuBLASLt' ./prog --device cuda --max-steps 1
  EMU_OOM=1 expect_gpu 11 'out of device memory' ./prog --device cuda --max-steps 1
  EMU_LAUNCH_ERROR=40 expect_gpu 1 'CUDA_ERROR_LAUNCH_FAILED' ./prog --device cuda --out part --resume
  EMU_ILLEGAL_ADDRESS=30 expect_gpu 1 'CUDA_ERROR_ILLEGAL_ADDRESS' ./prog --device cuda --out part --resume
  EMU_ILLEGAL_ADDRESS=70 expect_gpu 1 'checkpoint of step 10 is whole: --resume' \
    ./prog --device cuda --out part --resume
  EMU_DEVICES=0 expect_gpu 0 '' ./prog --device auto --quiet --out auto --max-steps 1
  [ "$(final part)" = "$before" ] || fail "a failed run changed a checkpoint"
fi
finish
