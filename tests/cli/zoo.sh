#!/bin/sh
# Every spec of specs/ is right, and every smoke variant trains two steps in the modes that differ most.
# zoo.sh MPCC FOLDER
. "$(dirname "$0")/lib.sh"
specs=$here/../../specs
"$mpcc" check "$specs"/*.yaml "$specs"/smoke/*.yaml >out.txt 2>err.txt || { fail "specs"; cat err.txt; }
# Data of the formats that specs read and no Debian package has: images, a table, tokens below 50257.
text=/usr/share/common-licenses/GPL-3
mkdir -p cifar tokens
for i in 0 1 2 3 4 5 6 7 8 9 8 7 6 5 4 3 2 1; do
  { printf "\\0$(printf %o $i)"; tail -c "+$((i * 100 + 1))" $text | head -c 3072; } >>cifar/data_batch_1.bin
done
cp cifar/data_batch_1.bin cifar/test_batch.bin
awk -v OFS=, 'BEGIN { print "sepal_length,sepal_width,petal_length,petal_width,label"
  for (i = 0; i < 60; i++) print 4 + i % 7 / 2, 2 + i % 5 / 4, 1 + i % 11 / 2, i % 4 / 2 "," i % 3 }' >iris.csv
for split in train val; do # llm.c's header: 256 numbers, the first three magic, version, count
  { printf '\210\330\064\001\001\000\000\000\000\020\000\000'; head -c 1012 /dev/zero; head -c 8192 $text; } >tokens/${split}_0.bin
done
for spec in "$specs"/smoke/*.yaml; do
  name=$(basename "$spec" .yaml)
  if grep -qs /usr/share/datasets "$specs/$name.yaml" && [ ! -d /usr/share/datasets/fashion-mnist ]; then
    echo "skipped: $name needs Fashion-MNIST in /usr/share/datasets"
    continue
  fi
  case $name in
  vit-*) set -- -D "data=$work/cifar" ;;
  gpt2-124m) set -- -D "data=$work/tokens" ;;
  tabular-mlp) set -- -D "csv=$work/iris.csv" ;;
  *) set -- ;;
  esac
  modes="32-true bf16-mixed 16-mixed transformer-engine"
  [ "$name" != fnet ] || modes="64-true $modes"
  [ "$name" != mobilenet-v2 ] || set -- -O0 # seventeen shapes of convolutions to compile
  for mode in $modes; do
    "$mpcc" run "$spec" "$@" --precision "$mode" --max-steps 2 --out "$name-$mode" >out.txt 2>err.txt ||
      { fail "$name $mode"; tail -3 err.txt; }
    grep -q 'loss [0-9]' out.txt err.txt || fail "$name $mode: no loss"
  done
done
finish
