# opcheck of products of 8-bit codes on a stand-in whose sums are as short as Hopper's: short_sums.sh OPCHECK
# STAND_INS CACHE. What --short-sums allows is enough, and what is allowed without it is not; 77 where there is
# no NVRTC.
set -eu
here=$(dirname "$0")
export EMU_SHORT_SUMS=1
judge() {
  code=0
  sh "$here/cuda.sh" "$@" || code=$?
  [ "$code" -ne 77 ] || exit 77
  return "$code"
}
for op in qlinear qmatmul; do
  judge "$1" "$2" "$3" "$op" --short-sums
  if judge "$1" "$2" "$3" "$op" >"$3/short.txt"; then
    echo "$op: nothing was cut, so that nothing was shown"
    exit 1
  fi
done
