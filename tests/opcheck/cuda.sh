# opcheck on the stand-in for a GPU: cuda.sh OPCHECK STAND_INS CACHE ARGS...; 77 where there is no NVRTC.
set -eu
opcheck=$1 emu=$2 cache=$3
shift 3
mkdir -p "$cache"
set +e
LD_LIBRARY_PATH=$emu "$opcheck" "$@" level=sm_90 "cache=$cache" >"$cache/out.txt" 2>"$cache/err.txt"
code=$?
set -e
if grep -q 'NVRTC was not found' "$cache/out.txt" "$cache/err.txt"; then
  echo "not run: this machine has no NVRTC to compile kernels with"
  exit 77
fi
tail -n 40 "$cache/out.txt"
tail -n 20 "$cache/err.txt" >&2
exit "$code"
