# The stand-in's rules beside what a real cuBLASLt answered: heuristics.sh LT_PROBE STAND_INS FIXTURE. The fixture is
# what tools/gpu-run wrote on a GPU; without one the comparison itself is tested, and the rest is not run.
set -eu
probe=$1 fixture=$3
export LD_LIBRARY_PATH="$2"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$probe" >"$work/here.txt"
grep -c offered "$work/here.txt" >/dev/null
"$probe" --compare "$work/here.txt"
sed '0,/: offered/s//: refused/' "$work/here.txt" >"$work/other.txt"
if "$probe" --compare "$work/other.txt" >"$work/out.txt"; then
  echo "an answer that differs was not found"
  exit 1
fi
grep -q '1 answered otherwise' "$work/out.txt"
if [ ! -e "$fixture" ]; then
  echo "not run: no answers of a GPU yet ($fixture, written by tools/gpu-run)"
  exit 77
fi
"$probe" --compare "$fixture"
