# mpcc convert: texts to token files and back into training, repacking, dtypes of weights, wrong input.
. "$(dirname "$0")/lib.sh"
tokenizer=$here/../data/tokenizer/tokenizer.json
words() { od -An -v -tu"$1" -j"$2" "$3" | tr -s ' \n' ' '; }

printf 'It is the other.\n' >a.txt
printf 'And <|endoftext|>more' >b.txt
"$mpcc" convert --tokenizer="$tokenizer" --separator='<|endoftext|>' a.txt b.txt out.bin >said.txt
grep -q '^out.bin: [0-9]* tokens of 2 files, uint16, header llmc$' said.txt || fail "said: $(cat said.txt)"
n=$(sed 's/.*: \([0-9]*\) tokens.*/\1/' said.txt)
[ "$(stat -c %s out.bin)" = $((1024 + 2 * n)) ] || fail "wrong size"
[ "$(head -c 12 out.bin | od -An -tu4 | tr -s ' ')" = " 20240520 1 $n" ] || fail "wrong header"
"$mpcc" convert --tokenizer="$tokenizer" a.txt plain.bin --header=none >/dev/null
case "$(words 2 1024 out.bin)" in " 0$(words 2 0 plain.bin | sed 's/ $//') 0 "*) ;; *) fail "not separator, text, separator" ;; esac
"$mpcc" convert out.bin wide.bin --dtype=uint32 --header=none >/dev/null
[ "$(words 4 0 wide.bin)" = "$(words 2 1024 out.bin)" ] || fail "repacking changes tokens"
"$mpcc" convert a.txt bytes.bin --header=none >/dev/null
[ "$(words 2 0 bytes.bin)" = "$(od -An -v -tu1 a.txt | tr -s ' \n' ' ')" ] || fail "bytes are not tokens"

printf 'good \377 bad' >c.txt
cp out.bin before.bin
expect 4 'c.txt: byte 5 (0xff) is not UTF-8' "$mpcc" convert --tokenizer="$tokenizer" c.txt out.bin
cmp out.bin before.bin || fail "a failing conversion replaces a good file"
[ ! -e out.bin.part ] || fail "half a file is left"
expect 4 "cannot read 'none.txt'" "$mpcc" convert none.txt out.bin
expect 4 'a.txt: line 1, column' "$mpcc" convert --tokenizer=a.txt a.txt out.bin
expect 4 'has no token for the word of --separator' "$mpcc" convert --tokenizer="$tokenizer" --separator=nope a.txt out.bin
expect 2 'is both read and written' "$mpcc" convert out.bin out.bin
expect 2 'its name says no format' "$mpcc" convert a.txt out.xyz
expect 2 'takes files to read and one to write' "$mpcc" convert a.txt
expect 2 '--dtype=uint16 or uint32' "$mpcc" convert --dtype=float32 a.txt out.bin
head -c 1058 out.bin >cut.bin
printf '\350\003' | dd of=cut.bin bs=1 seek=8 conv=notrunc 2>/dev/null
expect 4 'truncated: its header promises 1000 tokens, it has 17' "$mpcc" convert cut.bin out2.bin

expect 0 '' "$mpcc" run "$here/tiny.yaml" --quiet --out run --max-steps 1 --export w.safetensors
expect 0 '' "$mpcc" convert w.safetensors half.safetensors --dtype=bfloat16
"$mpcc" inspect half.safetensors | grep -q BF16 || fail "not bfloat16"
expect 0 '' "$mpcc" convert half.safetensors full.safetensors --dtype=float32
expect 0 '' "$mpcc" convert full.safetensors again.safetensors --dtype=bfloat16
cmp half.safetensors again.safetensors || fail "widening and rounding again changes weights"
expect 2 'weights are converted one file at a time' "$mpcc" convert w.safetensors x.safetensors
finish
