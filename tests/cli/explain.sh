# The plan in words is stable: whole-file comparison for two modes at the baseline level.
# GOLDEN_UPDATE=1 rewrites the expected files; read the diff.
. "$(dirname "$0")/lib.sh"
for mode in bf16-mixed transformer-engine; do
  (cd "$here/../.." && "$mpcc" explain tests/cli/tiny.yaml --precision $mode -march=x86-64-v3 \
    -Wno-fp8-fallback) >$mode.txt
  [ -z "${GOLDEN_UPDATE:-}" ] || cp $mode.txt "$here/explain/$mode.want"
  diff -u "$here/explain/$mode.want" $mode.txt || fail "explain $mode"
done
finish
