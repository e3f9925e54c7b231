# Data formats from the command line: image folders and their runner, transforms, what is left out,
# what does not fit.
. "$(dirname "$0")/lib.sh"
images=$here/../data/images
readers=$here/../data/readers

# ---- image folders ------------------------------------------------------------------------------------
mkdir -p all/grey all/colour
cp "$images"/j420.jpg "$images"/j444.jpg "$images"/prgb.png "$images"/palpha.png all/colour
cp "$images"/jgrey.jpeg "$images"/pgrey.png "$images"/pbits.png all/grey
cat >folder.yaml <<'EOF'
mpcc: 1
name: folder
model:
  inputs: {image: {shape: [3, 8, 8]}}
  layers: [Flatten, {Linear: 2}]
loss: CrossEntropyLoss
data:
  train: {format: image-folder, path: all}
  transforms:
    - {Resize: [12, 10]}
    - {RandomCrop: 8, padding: 1}
    - RandomHorizontalFlip
    - ToTensor
  loader: {batch_size: 3, shuffle: true}
optimizer: {type: SGD, lr: 0.1}
trainer: {max_epochs: 3, log_every_n_steps: 1}
EOF
losses() { sed -n 's/.*"loss":\([^,]*\).*/\1/p' "$1/metrics.jsonl"; }
expect 0 '' "$mpcc" run folder.yaml --quiet --out direct
losses direct >want.txt
[ "$(wc -l <want.txt)" = 9 ] || fail "not 9 steps: $(cat want.txt)"
for workers in 1 2 5; do
  expect 0 '' "$mpcc" run --set data.loader.num_workers=$workers folder.yaml --quiet --out w$workers
  losses w$workers | cmp - want.txt || fail "$workers threads give other images"
done
"$mpcc" folder.yaml -march=native -o images
expect 0 '' ./images --quiet --out built
losses built | cmp - want.txt || fail "a built program sees other images"
expect 0 '' ./images --quiet --out stopped --max-steps 4
expect 0 '' ./images --quiet --out stopped --resume
losses stopped | cmp - want.txt || fail "a resumed run sees other images"
if command -v cc >/dev/null && [ -z "${ASAN_OPTIONS:-}" ] && "$mpcc" folder.yaml -march=native --link=cc -o linked 2>err.txt; then
  expect 0 '' ./linked --quiet --out linked-run
  losses linked-run | cmp - want.txt || fail "a linked program sees other images"
elif ! grep -q asan err.txt; then
  fail "--link=cc: $(cat err.txt)"
fi
"$mpcc" "$here/tiny.yaml" -march=native -o plain
[ "$(stat -c %s plain)" -lt "$(stat -c %s images)" ] || fail "every program carries the codecs"
grep -qaF 'claims %ux%u pixels' images || fail "a program of images has no codecs"
if grep -qaF 'claims %ux%u pixels' plain; then fail "a plain program carries the codecs"; fi

# damaged images stop the run, or are left out and counted
head -c 500 "$images/j444.jpg" >all/colour/a-cut.jpg
expect 4 'all/colour/a-cut.jpg: Premature end of JPEG file' "$mpcc" run folder.yaml --quiet --out bad
expect 0 '1 corrupt samples left out in epoch 2' "$mpcc" run --set data.loader.corrupt=skip folder.yaml --quiet --out skip
grep -q 'a-cut.jpg' err.txt || fail "the damaged file is not named: $(cat err.txt)"
mkdir -p all/third && cp "$images/j420.jpg" all/third
expect 4 'label 2 of sample 8 is outside the 2 classes of the model (all/third/j420.jpg)' "$mpcc" run --set data.loader.corrupt=skip folder.yaml --quiet --out many
sed 's/{Resize.*/{Resize: 9}/; /RandomCrop/d' folder.yaml >noresize.yaml
rm -r all/third all/colour/a-cut.jpg
expect 4 'an image is 9x10 behind the transforms, the model takes 8x8; images of different sizes need Resize' "$mpcc" run noresize.yaml --quiet --out bad
sed 's/^  train: .*/&\n  val: {from: train, fraction: 0.3}/' folder.yaml >random.yaml
expect 1 "random.yaml:12:7: error: evaluation would be random too: 'RandomCrop'" "$mpcc" check random.yaml

# ---- tables, arrays, fields -----------------------------------------------------------------------------
cat >table.yaml <<'EOF'
mpcc: 1
name: table
model:
  inputs: {x: {shape: [2]}}
  layers: [{Linear: 3}]
loss: CrossEntropyLoss
data:
  train: {format: csv, path: table.csv}
  fields: {x: [age, in*]}
  loader: {batch_size: 4}
optimizer: {type: SGD, lr: 0}
trainer: {max_epochs: 1}
EOF
cp "$readers/table.csv" table.csv
expect 0 '' "$mpcc" run table.yaml --quiet --out t
expect 4 "table.csv: has no column 'height'" "$mpcc" run --set 'data.fields.x=[age, height]' table.yaml --quiet --out t
expect 4 "'age,in*,label' has shape [3], the model was built for [2]" "$mpcc" run --set 'data.fields.x=[age, in*, label]' table.yaml --quiet --out t
expect 4 'data.train has 5 samples, fewer than one batch of 8' "$mpcc" run --set data.loader.batch_size=8 --set data.loader.drop_last=true table.yaml --quiet --out t
expect 0 '' "$mpcc" run --set data.loader.batch_size=8 table.yaml --quiet --out t
printf 'age,income,label\n1,2,0\n3,x,1\n4,5\n6,7,2\n' >table.csv
expect 4 "table.csv:3: column 'income' is not a number: 'x'" "$mpcc" run table.yaml --quiet --out t
expect 0 'table.csv: 2 of 4 rows are corrupt and skipped' "$mpcc" run --set data.loader.corrupt=skip table.yaml --quiet --out t
printf 'age,income,label\n1,2,0\n3,4,1.5\n' >table.csv
expect 4 "'label' of sample 1 is 1.5, the model takes whole numbers" "$mpcc" run table.yaml --quiet --out t
cat >npz.yaml <<'EOF'
mpcc: 1
name: npz
model:
  inputs: {x: {shape: [3]}}
  layers: [{Linear: 5}]
loss: CrossEntropyLoss
data:
  train: {format: npz, path: data.npz}
  fields: {label: y}
  loader: {batch_size: 4}
optimizer: {type: SGD, lr: 0}
trainer: {max_epochs: 1}
EOF
cp "$readers/deflated.npz" data.npz
expect 0 '' "$mpcc" run npz.yaml --quiet --out n
expect 0 '' "$mpcc" run npz.yaml --quiet --out n --data train.path="$readers/stored.npz"
expect 4 "data.train has no field 'z'" "$mpcc" run --set data.fields.label=z npz.yaml --quiet --out n
expect 2 "data.train has no file 'images'; it has path" "$mpcc" run npz.yaml --quiet --out n --data train.images=x

# Bytes as they are without transforms, booleans as 0 and 1; transforms that find no image are told.
array() { # FILE DESCR BYTES: 2 samples of [2, 2]
  { printf '\223NUMPY\001\000\166\000'
    printf '%-117s\n' "{'descr': '$2', 'fortran_order': False, 'shape': (2, 2, 2), }"
    printf "$3"; } >"$1"
}
array bytes.npy '|u1' '\000\001\001\000\001\001\000\001'
array truth.npy '|b1' '\000\001\001\000\001\001\000\001'
array words.npy '<i2' '\000\000\001\000\001\000\000\000\001\000\001\000\000\000\001\000'
array real.npy '<f2' '\000\000\000\074\000\074\000\000\000\074\000\074\000\000\000\074'
cat >bytes.yaml <<'EOF'
mpcc: 1
name: bytes
params: {x: bytes}
model:
  inputs: {x: {shape: [2, 2]}}
  outputs: {same: x2}
  layers: [{name: x2, type: Identity}, {name: fc, Linear: 2}]
loss: {type: MSELoss, inputs: {input: fc, target: x}}
data:
  train: {format: npy, files: {x: $x.npy}}
  test: {format: npy, files: {x: $x.npy}}
  transforms: []
  loader: {batch_size: 2}
optimizer: {type: SGD, lr: 0.1}
trainer: {max_steps: 1}
EOF
for x in real words truth bytes; do
  expect 0 '' "$mpcc" run -D x=$x bytes.yaml --predict $x.out --quiet
  cmp -s $x.out real.out || fail "$x.npy is not read as the numbers that it holds"
done
sed 's/transforms: .*/transforms: [ToTensor, {type: Normalize, mean: 1.0, std: 2.0}]/' bytes.yaml >float.yaml
expect 4 'data.test: transform Normalize finds no image' "$mpcc" run -D x=real float.yaml --predict no.out --quiet
expect 0 '' "$mpcc" run float.yaml --predict yes.out --quiet

# ---- Normalize of tables ------------------------------------------------------------------------------
printf 'a,b,c,d,y\n3,2,4,-4,1\n-1,10,3.5,4,2\n1,-6,2,5,3\n' >table.csv
printf 'a,b,c,d,y\n1,0,2,-8,1\n-1,2,1,0,2\n0,-2,-2,1,3\n' >each.csv  # mean [1, 2, 3, 4], std [2, 4, 0.5, 1]
printf 'a,b,c,d,y\n1,0,2,-6,1\n-3,8,1.5,2,2\n-1,-8,0,3,3\n' >all.csv # mean 2, std 1: exact
cat >vector.yaml <<'EOF'
mpcc: 1
name: vector
params: {table: each}
model:
  inputs: {x: {shape: [4, 1, 1]}}
  outputs: {same: x2}
  layers: [{name: x2, type: Identity}, Flatten, {name: fc, Linear: 1}]
loss: {type: MSELoss, inputs: {input: fc, target: y}}
data:
  train: {format: csv, path: $table.csv}
  test: {format: csv, path: $table.csv}
  fields: {x: [a, b, c, d]}
  loader: {batch_size: 2, shuffle: false}
optimizer: {type: SGD, lr: 0.1}
trainer: {max_steps: 2, log_every_n_steps: 1}
EOF
normalized() { # normalized READY NORMALIZE OPTION...: table.csv through Normalize is READY.csv
  ready=$1 normalize=$2
  shift 2
  rm -rf want got
  expect 0 '' "$mpcc" run vector.yaml -D table=$ready --out want --quiet "$@"
  expect 0 '' "$mpcc" run vector.yaml -D table=$ready --predict want.out --quiet "$@"
  sed "s/^data:/&\n  transforms: [ToTensor, {type: Normalize, $normalize}]/" vector.yaml >scaled.yaml
  expect 0 '' "$mpcc" run scaled.yaml -D table=table --out got --quiet "$@"
  expect 0 '' "$mpcc" run scaled.yaml -D table=table --predict got.out --quiet "$@"
  cmp -s want.out got.out || fail "$normalize gives other inputs than $ready.csv"
  losses want >want.txt # of targets that nothing changes
  [ -s want.txt ] && losses got | cmp - want.txt || fail "$normalize trains otherwise than $ready.csv"
}
vector='--set model.inputs.x.shape=[4]' square='--set model.inputs.x.shape=[2,2]'
normalized each 'mean: [1, 2, 3, 4], std: [2, 4, 0.5, 1]' $vector
normalized each 'mean: [1, 2, 3, 4], std: [2, 4, 0.5, 1]' $square
normalized each 'mean: [1, 2, 3, 4], std: [2, 4, 0.5, 1]'
normalized all 'mean: 2, std: 1' $vector
normalized all 'mean: [2], std: [1]' --set model.inputs.x.shape=[1,2,2]
normalized all 'mean: [2, 2], std: [1, 1]' --set model.inputs.x.shape=[2,2,1]
sed 's/^data:/&\n  transforms: [{type: Normalize, mean: [1, 2], std: [1, 1]}]/' vector.yaml >scaled.yaml
expect 1 'scaled.yaml:10:40: error: Normalize has 2 numbers, the input has 4' "$mpcc" check scaled.yaml $vector
expect 4 'mean and std need 1 or 4 numbers' "$mpcc" run scaled.yaml $square --out no
sed 's/^data:/&\n  transforms: [{Resize: 4}, {type: Normalize, mean: 1, std: 1}]/' vector.yaml >scaled.yaml
expect 4 'transform Resize finds no image;' "$mpcc" run scaled.yaml $vector --out no

# ---- tokens -------------------------------------------------------------------------------------------
cat >tokens.yaml <<'EOF'
mpcc: 1
name: tokens
model:
  inputs: {tokens: {shape: [4], dtype: int32}}
  layers: [{Embedding: 60000, embedding_dim: 4}, {Linear: 60000}]
loss: {type: CrossEntropyLoss, inputs: {target: next_tokens}}
data:
  train: {format: tokens-bin, path: 'llmc16_*.bin', sequence_length: 4}
  loader: {batch_size: 2}
optimizer: {type: SGD, lr: 0.1}
trainer: {max_epochs: 1}
EOF
cp "$readers"/llmc16_*.bin .
expect 0 '' "$mpcc" run tokens.yaml --quiet --out k
expect 4 "'tokens' of sample 0 has" "$mpcc" run --set model.layers.0.Embedding=100 tokens.yaml --quiet --out k
grep -q 'outside the 100 of the model (llmc16_a.bin, byte 10[0-9]*)' err.txt || fail "no place: $(cat err.txt)"
expect 4 'has tokens of dtype uint16, the spec says uint32' "$mpcc" run --set data.train.dtype=uint32 tokens.yaml --quiet --out k
expect 1 'samples have 5 tokens' "$mpcc" check --set data.train.sequence_length=5 tokens.yaml
finish
