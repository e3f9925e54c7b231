#!/bin/sh
# Every spec of specs/ is right, and every smoke variant trains two steps in the modes that differ most.
# zoo.sh MPCC FOLDER
. "$(dirname "$0")/lib.sh"
specs=$here/../../specs
"$mpcc" check "$specs"/*.yaml "$specs"/smoke/*.yaml >out.txt 2>err.txt || { fail "specs"; cat err.txt; }
for spec in "$specs"/smoke/*.yaml; do
  name=$(basename "$spec" .yaml)
  if grep -qs /usr/share/datasets "$specs/$name.yaml" && [ ! -d /usr/share/datasets/fashion-mnist ]; then
    echo "skipped: $name needs Fashion-MNIST in /usr/share/datasets"
    continue
  fi
  for mode in 32-true bf16-mixed 16-mixed transformer-engine; do
    "$mpcc" run "$spec" --precision "$mode" --max-steps 2 --out "$name-$mode" >out.txt 2>err.txt ||
      { fail "$name $mode"; tail -3 err.txt; }
    grep -q 'loss [0-9]' out.txt err.txt || fail "$name $mode: no loss"
  done
done
finish
