# mpcc inspect knows every kind of file that mpcc reads or writes, and refuses what is damaged.
. "$(dirname "$0")/lib.sh"
data=$here/../data/readers
says() { # FILE TEXT...
  file=$1
  shift
  expect 0 '' "$mpcc" inspect "$file"
  for text in "$@"; do grep -qF -- "$text" out.txt || { fail "$file: no '$text'"; head -5 out.txt; }; done
}
"$mpcc" "$here/tiny.yaml" -march=native -o prog
./prog --quiet --out run --max-steps 2 --export w.safetensors >/dev/null
./prog --quiet --out run --max-steps 2 >/dev/null
./prog --quiet --resume=run --predict p.npy >/dev/null
"$mpcc" run "$here/tiny.yaml" --precision 64-true --quiet --weights w.safetensors --predict p64.npy --out run64
"$mpcc" "$here/tiny.yaml" -march=native --emit=image -o prog.mpcimg
"$mpcc" "$here/tiny.yaml" --emit=ir --stop-after=step -o step.mpir
says prog 'image of tiny: precision 32-true' 'kernels' 'state'
says prog.mpcimg 'image of tiny'
says w.safetensors 'head.weight' 'F32' '[16,16]' 'tensors,'
says p.npy "'descr': '<f4'" '(50, 16)' '3200 bytes of data'
says p64.npy "'descr': '<f8'" '(50, 16)' '6400 bytes of data'
says run 'run folder' '"precision": "32-true"' 'last: step-00000002'
says run/checkpoints/last 'checkpoint' '"count.taken": 2' 'optim.head.weight.exp_avg'
says step.mpir 'IR text: mpir 1 stage=step' 'func @train_step' 'tensors'
printf '\000\000\010\003\000\000\000\002\000\000\000\001\000\000\000\002abcd' >images
says images 'idx uint8 [2,1,2]' '4 bytes of data'
printf '\001\000\002\000\377\000' >t.bin
says t.bin 'without a header' '3 tokens, uint16, largest 255' '1 2 255'
printf 'hello hello' >text.txt
"$mpcc" convert text.txt llmc.bin --header llmc >/dev/null
says llmc.bin 'token file, header llmc' '11 tokens, uint16' '104 101 108'
printf '{"weight_map": {"a.weight": "x-1.safetensors"}}' >m.index.json
says m.index.json 'a.weight' 'x-1.safetensors' '1 tensors'
for npz in "$data"/*.npz; do [ ! -e "$npz" ] || says "$npz" 'npz' 'arrays'; done
# damaged, or nothing of ours
head -c 1030 llmc.bin >cut.bin
expect 4 '11 tokens announced, 6 bytes follow' "$mpcc" inspect cut.bin
: >empty
expect 4 'empty' "$mpcc" inspect empty
expect 4 'neither a checkpoint nor a run folder' "$mpcc" inspect "$here"
expect 4 'not a checkpoint' "$mpcc" inspect text.txt
expect 4 'cannot read' "$mpcc" inspect nothing
printf '{}' >bad.index.json
expect 4 'has no weight_map' "$mpcc" inspect bad.index.json
head -c 12 p.npy >cut.npy
expect 4 'cut short' "$mpcc" inspect cut.npy
for file in prog.mpcimg w.safetensors images m.index.json; do
  for keep in 9 20 40 100; do
    head -c $keep $file >"cut.$file"
    set +e
    "$mpcc" inspect "cut.$file" >/dev/null 2>&1
    code=$?
    set -e
    [ $code = 0 ] || [ $code = 4 ] || fail "exit $code for $file cut to $keep bytes"
  done
done
finish
