# A program as a library or object: a C host trains with each of them, to the same numbers.
. "$(dirname "$0")/lib.sh"
include=$here/../../include
cp "$here/tiny.yaml" .
tiny="tiny.yaml -march=native --set trainer.max_epochs=40 --set optimizer.lr=5e-3"
for precision in 32-true transformer-engine; do
  expect 0 '' "$mpcc" $tiny --precision $precision --emit=c-header -o tiny.h
  expect 0 '' "$mpcc" $tiny --precision $precision --emit=lib -o libtiny.a
  expect 0 '' "$mpcc" $tiny --precision $precision --emit=lib -o libtiny.so
  cc -std=gnu17 -Wall -Wextra -Werror -I . -I "$include" "$here/host.c" -o static libtiny.a \
    -ljansson -lz -ldeflate -lpthread -lm || fail "the host does not link with libtiny.a"
  cc -std=gnu17 -I . -I "$include" "$here/host.c" -o shared ./libtiny.so || fail "nor with libtiny.so"
  expect 0 '' "$mpcc" $tiny --precision $precision --emit=obj -o tiny.o
  cc -std=gnu17 -I . -I "$include" "$here/host.c" -o object tiny.o "${mpcc%/*}/libmpcc_rt.a" \
    -ljansson -lz -ldeflate -lpthread -lm || fail "nor with tiny.o and libmpcc_rt"
  expect 0 '' ./static weights.safetensors
  cp out.txt static.txt
  for other in shared object; do
    expect 0 '' ./$other
    cmp out.txt static.txt || fail "static library and $other train differently"
  done
  [ "$(cut -d' ' -f3 static.txt)" -ge 12 ] || { fail "$precision: not learnt"; cat static.txt; }
done
expect 0 'test: loss' "$mpcc" run $tiny --weights weights.safetensors --validate --precision 32-true
# both in one call, under the names that the documentation has
cp "$here/tiny.yaml" two.yaml
expect 0 '' "$mpcc" two.yaml -march=native --emit=lib --emit=c-header
[ -s libtwo.a ] && [ -s two.h ] || fail "no libtwo.a or no two.h"
expect 2 '-o names one output, --emit asks for 2' "$mpcc" two.yaml --emit=lib --emit=c-header -o x
# the header is C++ too, and nothing is left behind
c++ -std=c++17 -fsyntax-only -x c++ -I . -I "$include" tiny.h || fail "the header is no C++"
mkdir 'odd "folder'
expect 0 '' env TMPDIR="$PWD/odd \"folder" "$mpcc" $tiny --emit=lib -o odd.so
expect 0 '' env TMPDIR="$PWD/odd \"folder" "$mpcc" $tiny --link=cc -o odd
[ -z "$(ls 'odd "folder')" ] || fail "temporary files stay in TMPDIR"
expect 4 'temporary folder' env TMPDIR=/nowhere "$mpcc" $tiny --emit=lib -o none.so
expect 4 'temporary folder' env TMPDIR=/nowhere "$mpcc" $tiny --link=cc -o none
ls | grep -q linking && fail "temporary files stay"
expect 2 'a library is a file' "$mpcc" $tiny --emit=lib -o -
expect 2 'an object is a file' "$mpcc" $tiny --emit=obj -o -
finish
