# Exit codes and words of wrong usage, help, and machine output.
. "$(dirname "$0")/lib.sh"
expect 2 'no input file' "$mpcc"
expect 2 "unknown option '--frob'" "$mpcc" --frob
expect 2 'needs a value' "$mpcc" "$here/tiny.yaml" -o
expect 2 "unknown word 'elf'; it is one of exe, lib, " "$mpcc" "$here/tiny.yaml" --emit=elf
expect 2 'takes no value' "$mpcc" --version=1
expect 2 'one spec at a time' "$mpcc" "$here/tiny.yaml" "$here/tiny.yaml"
expect 2 "unknown command 'runn'" "$mpcc" runn "$here/tiny.yaml"
expect 2 "no help on 'nonsense'" "$mpcc" --help=nonsense
expect 2 "'tpu'" "$mpcc" "$here/tiny.yaml" --target=tpu
expect 4 'cannot read' "$mpcc" absent.yaml
expect 4 'cannot write' "$mpcc" "$here/tiny.yaml" -o no/such/folder/prog
expect 1 'fp32' "$mpcc" check "$here/tiny.yaml" --precision fp32
expect 2 'is the input' "$mpcc" "$here/tiny.yaml" --emit=ir -o "$here/tiny.yaml"
# an option where it has no meaning is not passed over
expect 2 'stop-after gives IR: say --emit=ir' "$mpcc" "$here/tiny.yaml" --stop-after=grad
expect 2 '--stop-after does not go with explain' "$mpcc" explain "$here/tiny.yaml" --stop-after=grad
expect 2 '--emit does not go with check' "$mpcc" check "$here/tiny.yaml" --emit=ir
expect 2 '--output does not go with check' "$mpcc" check "$here/tiny.yaml" -o x
expect 2 '--output does not go with run' "$mpcc" run "$here/tiny.yaml" -o x
expect 2 '--diff does not go with compiling' "$mpcc" "$here/tiny.yaml" --diff=32-true,64-true
expect 2 '--tokenizer does not go with inspect' "$mpcc" inspect "$here/tiny.yaml" --tokenizer t
expect 2 '--link goes with programs' "$mpcc" "$here/tiny.yaml" --emit=obj --link=cc -o x.o
expect 2 '--save-temps goes with programs' "$mpcc" "$here/tiny.yaml" --emit=ir --save-temps -o x.mpir
expect 2 "unknown warning 'nonsense'" "$mpcc" resolve "$here/tiny.yaml" -Wnonsense
expect 2 "no pass is named 'nonsense'" "$mpcc" explain "$here/tiny.yaml" --print-ir-after=nonsense
[ ! -e x ] && [ ! -e x.o ] && [ ! -e x.mpir ] || fail "an output in spite of wrong usage"
expect 2 "--jobs takes a whole number from 1 to 1024, not '0'" "$mpcc" "$here/tiny.yaml" -j 0
expect 0 'usage: mpcc' "$mpcc" --help
expect 0 'Linear' "$mpcc" --help=layers
expect 0 'transformer-engine' "$mpcc" --help=precisions
expect 0 'autocast' "$mpcc" --help=passes
expect 0 'x86-64-v3' "$mpcc" --help=targets
expect 0 'cuda sm_90' "$mpcc" --help=targets
expect 0 'unknown key' "$mpcc" --help=MPC0102
expect 0 'Apache License' "$mpcc" --licenses
expect 0 'carried inside: zlib' "$mpcc" --licenses
expect 0 '' "$mpcc" check "$here/tiny.yaml"

# the reference of the language is up to date
"$mpcc" --help=spec | cmp - "$here/../../docs/spec.md" || fail "docs/spec.md: run mpcc --help=spec"

# same input, same bytes; output on stdout alone
"$mpcc" "$here/tiny.yaml" --emit=ir -o - >a.mpir 2>err.txt
"$mpcc" "$here/tiny.yaml" --emit=ir -o - >b.mpir
cmp a.mpir b.mpir || fail "two compilations differ"
[ ! -s err.txt ] || fail "messages without a reason"
"$mpcc" "$here/tiny.yaml" --emit=image --no-cache -j 1 -o a.img
"$mpcc" "$here/tiny.yaml" --emit=image --no-cache -j 4 -o b.img
cmp a.img b.img || fail "images differ with the number of jobs"

# IR text goes on from where it is
"$mpcc" "$here/tiny.yaml" --emit=ir --stop-after=step -o step.mpir
"$mpcc" step.mpir --emit=ir -o c.mpir
expect 0 '' "$mpcc" check step.mpir

# what a program was made of lies beside it
"$mpcc" "$here/tiny.yaml" -march=x86-64-v3 --save-temps -o kept
for suffix in mpir ll s o; do [ -s kept.$suffix ] || fail "--save-temps: no kept.$suffix"; done
expect 0 '' "$mpcc" check kept.mpir

# the man page has every option, and what is installed works from where it is
"$mpcc" --help=man >mpcc.1
for section in 'EXIT STATUS' ENVIRONMENT FILES EXAMPLES; do
  grep -q "^\.SH $section$" mpcc.1 || fail "the man page has no $section"
done
"$mpcc" --help | sed -n 's/^  \(-[^ ]*, \)\{0,1\}--\([a-z-]*\).*/\2/p' | while read -r name; do
  grep -q -- "$(echo "--$name" | sed 's/-/\\\\-/g')" mpcc.1 || echo "$name"
done >lacking
[ ! -s lacking ] || { fail "the man page lacks:"; cat lacking; }
cmake --install "$(dirname "$mpcc")" --prefix "$work/there" >/dev/null
cmp mpcc.1 there/share/man/man1/mpcc.1 || fail "the man page that is installed is another"
expect 0 '' there/bin/mpcc check "$here/tiny.yaml"

# machine form of messages
"$mpcc" check "$here/tiny.yaml" --set trainer.max_epoch=1 --diagnostics-format=json 2>err.json && fail "accepted"
grep -q '"code"' err.json || fail "no JSON"
finish
