# Shared by the scripts of this folder: $1 = mpcc, $2 = a folder that is emptied first.
set -eu
mpcc=$1 work=$2 here=$(cd "$(dirname "$0")" && pwd) failures=0
rm -rf "$work"
mkdir -p "$work"
cd "$work"

fail() {
  echo "FAIL: $*"
  failures=$((failures + 1))
}

# expect CODE PATTERN COMMAND...: exit code, and a fixed string that its messages must hold ('' none)
expect() {
  code=$1 pattern=$2
  shift 2
  set +e
  "$@" >out.txt 2>err.txt
  got=$?
  set -e
  [ "$got" = "$code" ] || { fail "exit $got instead of $code: $*"; head -5 err.txt; }
  [ -z "$pattern" ] || grep -qF -- "$pattern" err.txt out.txt ||
    { fail "no '$pattern' from: $*"; head -5 err.txt; }
}

finish() {
  [ "$failures" = 0 ] || { echo "$failures failures"; exit 1; }
}
