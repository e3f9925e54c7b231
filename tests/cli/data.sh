# Data that is missing, damaged or does not fit: exit 4, naming the file and what was expected.
. "$(dirname "$0")/lib.sh"

cat >small.yaml <<'EOF'
mpcc: 1
name: small
model:
  inputs: {image: {shape: [1, 2, 2]}}
  layers: [Flatten, {Linear: 3}]
loss: CrossEntropyLoss
data:
  train: {format: idx, images: images, labels: labels}
  val: {from: train, fraction: 0.25, seed: 1}
  loader: {batch_size: 4}
optimizer: {type: SGD, lr: 0.1}
trainer: {max_epochs: 2}
EOF
"$mpcc" small.yaml -march=native -o prog
"$mpcc" small.yaml -march=native --set data.loader.drop_last=true -o dropping

# numbers N...: as bytes; dims N...: as big-endian words of 32 bits
numbers() { for n in "$@"; do printf "\\$(printf %o "$n")"; done; }
dims() { for n in "$@"; do numbers $((n >> 24 & 255)) $((n >> 16 & 255)) $((n >> 8 & 255)) $((n & 255)); done; }
images() { # COUNT HEIGHT WIDTH
  numbers 0 0 8 3 && dims "$@"
  i=0
  while [ $i -lt $(($1 * $2 * $3)) ]; do numbers $((i * 7 % 256)) && i=$((i + 1)); done
}
labels() { # LABEL...
  numbers 0 0 8 1 && dims $# && numbers "$@"
}
good() {
  rm -rf images labels
  images 8 2 2 >images
  labels 0 1 2 0 1 2 0 1 >labels
}
run() { ./prog --quiet --threads 1 --out run "$@"; }
# bad TEXT...: a run now ends with 4 and says all of it in one line
bad() {
  rm -rf run # what an earlier run left there would be told too
  expect 4 'prog: error: ' run
  for text in "$@"; do
    grep 'error: ' err.txt | grep -qF -- "$text" || { fail "no '$text' in: $(cat err.txt)"; }
  done
  [ "$(wc -l <err.txt)" = 1 ] || { fail "not one line:"; cat err.txt; }
}

good
expect 0 '' run
[ ! -s err.txt ] || { fail "words about good data"; cat err.txt; }
gzip -k images labels
expect 0 '' run --data train.images=images.gz --data train.labels=labels.gz
mkdir folder && cp images labels folder
rm images labels
expect 0 '' run --data folder
expect 0 '' run --data train=folder

# ---- files ------------------------------------------------------------------------------------------
bad 'cannot read images' 'No such file'
good && rm labels
bad 'cannot read labels' 'No such file'
good && rm images && mkdir images
bad 'images' 'directory'
good && : >images
bad 'images: shorter than an IDX header'
good && head -c 9 images >x && mv x images
bad 'images: IDX header is cut short'
good && head -c 40 images >x && mv x images
bad 'images: truncated' 'promises 32 bytes' 'has 24'
good && head -c 15 labels >x && mv x labels
bad 'labels: truncated' 'promises 8 bytes' 'has 7'
good && head -c -1 images.gz >images
bad 'images: damaged behind its data' 'unexpected end of file'
good && head -c 20 images.gz >images
bad 'images'
good && { head -c 30 images.gz && printf 'XXXX' && tail -c +35 images.gz; } >x && mv x images
bad 'images'
good && echo 'a,b,c' >images
bad 'images: not an IDX file' '61 2c 62 2c' 'expected 00 00 08 03'
good && { numbers 0 0 13 3 && tail -c +5 images; } >x && mv x images # floats
bad 'images: not an IDX file' '00 00 0d 03'
good && cp labels images
bad 'images: has 1 dimensions, expected 3'
good && cp images labels
bad 'labels: has 3 dimensions, expected 1'
good && { numbers 0 0 8 3 && dims 4294967295 4294967295 4294967295; } >images
bad 'images: impossible sizes'
good && { images 8 2 2 && numbers 1 2 3; } >images
expect 0 'images: more data behind' run

# ---- contents ---------------------------------------------------------------------------------------
good && images 7 2 2 >images
bad 'images has 7 images' 'labels has 8 labels'
good && labels 0 1 2 0 1 3 0 1 >labels
bad 'data.train' 'label 3 of sample 5' '3 classes'
good && images 8 2 3 >images
bad 'data.train' "'image' has shape [1, 2, 3]" "[1, 2, 2]"
good && images 8 1 4 >images # as many elements, another shape
bad 'data.train' "'image' has shape [1, 1, 4]" "[1, 2, 2]"
good && images 0 2 2 >images && labels >labels
bad 'images: holds no samples'
good && images 1 2 2 >images && labels 0 >labels
bad 'data.val' 'leaves no samples of 1'
good && images 4 2 2 >images && labels 0 1 2 0 >labels
expect 0 '' run # one batch that is not full
expect 4 'data.train has 3 samples, fewer than one batch of 4' ./dropping --quiet --out run

# ---- --data -----------------------------------------------------------------------------------------
# what validation and the test will read is looked at before training, and no run folder changes before
good
"$mpcc" small.yaml -march=native --set 'data.test={format: idx, images: test_images, labels: labels}' -o tested
images 8 2 2 >test_images
expect 0 '' ./tested --quiet --out kept
cp -r kept copy
images 8 2 3 >test_images
expect 4 "data.test: 'image' has shape" ./tested --quiet --out kept
rm test_images
expect 4 'cannot read test_images' ./tested --quiet --out kept
expect 4 'cannot read nowhere/' ./tested --quiet --out kept --data nowhere
"$mpcc" small.yaml -march=native --set 'data.val={format: idx, images: val_images, labels: labels}' -o validated
images 8 2 3 >val_images
expect 4 "data.val: 'image' has shape" ./validated --quiet --out kept
diff -r kept copy || fail "a run that did not begin changed the folder"

expect 2 "the spec has no data.trian" run --data trian=x
expect 2 "data.train has no file 'lables'" run --data train.lables=labels
expect 2 'data.val is a part of data.train' run --data val=folder
expect 4 'cannot read nowhere/images' run --data nowhere

# ---- folders ----------------------------------------------------------------------------------------
echo >file
expect 4 'file' ./prog --quiet --out file
expect 4 'file' ./prog --quiet --out file/below
expect 4 'nowhere' run --resume=nowhere
expect 4 'nowhere.safetensors' run --weights nowhere.safetensors
expect 4 'small.yaml' run --weights small.yaml
expect 4 'no/such/p.npy' run --predict no/such/p.npy --split val
if [ "$(id -u)" != 0 ]; then
  mkdir closed && chmod 0 closed
  expect 4 'closed' ./prog --quiet --out closed
  expect 4 'closed' run --resume=closed
  chmod 700 closed
  chmod 0 images
  bad 'cannot read images' 'Permission denied'
fi
expect 4 'cannot write standard output' sh -c './prog --threads 1 --out run >/dev/full'
expect 4 'cannot write standard output' sh -c './prog --quiet --validate --threads 1 >/dev/full'
finish
