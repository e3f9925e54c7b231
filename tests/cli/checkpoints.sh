# Checkpoints that are missing, damaged or of another spec are refused without harm; a full disk
# leaves the old one good; what is kept and linked.
. "$(dirname "$0")/lib.sh"
# by its bare name: plan.txt names it on every line, and how long that is may not decide what fits below
cp "$here/tiny.yaml" .
build() { # OUT OPTIONS...
  out=$1
  shift
  "$mpcc" tiny.yaml -march=native --precision 32-true -o "$out" "$@"
}
run() { ./prog --quiet --threads 1 "$@"; }
build prog
run --out full --max-steps 20 >/dev/null
good=full/checkpoints/last

# ---- none, or not complete --------------------------------------------------------------------------
expect 4 'there is no complete checkpoint in nothing' run --out nothing --resume
[ ! -e nothing ] || fail "a run folder in spite of --resume without a checkpoint"
expect 4 'nowhere' run --out o --resume=nowhere
mkdir -p empty/checkpoints
expect 4 'there is no complete checkpoint in empty' run --out o --resume=empty
cp -rL $good undone && rm undone/DONE
expect 4 'undone is not complete: it has no DONE' run --out o --resume=undone
# the newest complete one is taken, an unfinished newer one is passed over
cp -r full two && cp -r two/checkpoints/step-00000020 two/checkpoints/step-00000025
rm two/checkpoints/step-00000025/DONE
expect 0 '' run --out two --resume --max-steps 21
[ -e two/checkpoints/step-00000021/DONE ] || fail "a bare --resume did not go on from step 20"

expect 0 'nothing is left to train: the checkpoint is of step 20, the run ends at 10' \
  ./prog --threads 1 --out full --resume --max-steps 10
# what is measured then belongs to the newest step, at the end of an epoch and within one
build ended --set trainer.max_epochs=2
expect 0 '' ./ended --quiet --out ended.run
grep '"split":"test"' ended.run/metrics.jsonl >test.row
grep -q '^{"step":26,"epoch":1,' test.row || fail "the test row: $(cat test.row)"
expect 0 'nothing is left' ./ended --out ended.run --resume
grep '"split":"test"' ended.run/metrics.jsonl | tail -1 | cmp - test.row || fail "another row when nothing is left to train"
expect 0 'nothing is left' ./prog --threads 1 --out full --resume --max-steps 10
tail -1 full/metrics.jsonl | grep -q '^{"step":20,"epoch":1,"split":"test"' || fail "$(tail -1 full/metrics.jsonl)"

# ---- damaged ----------------------------------------------------------------------------------------
refused() { # WHAT: the checkpoint in ./bad is refused in one line naming it, and nothing is written
  expect 4 'bad' run --out o --resume=bad
  [ "$(wc -l <err.txt)" = 1 ] || { fail "$1: not one line"; cat err.txt; }
  [ ! -e o ] || fail "$1: a run folder was made"
}
for file in model.safetensors optimizer.safetensors state.json DONE; do
  size=$(stat -Lc %s $good/$file)
  for keep in 0 1 7 9 100 $((size / 2)) $((size - 1)); do
    [ $keep -lt "$size" ] || continue
    rm -rf bad && cp -rL $good bad
    head -c $keep $good/$file >bad/$file
    refused "$file cut to $keep bytes"
  done
  for at in 0 8 $((size / 2)) $((size - 2)); do
    rm -rf bad && cp -rL $good bad
    byte=$(od -An -tu1 -j $at -N 1 $good/$file | tr -d ' ')
    printf "\\$(printf %o $((byte ^ 16)))" | dd of=bad/$file bs=1 seek=$at conv=notrunc 2>/dev/null
    refused "$file with a bit flipped at $at"
  done
  rm -rf bad && cp -rL $good bad && rm bad/$file
  refused "without $file"
done

# ---- another spec -----------------------------------------------------------------------------------
build logs --set trainer.log_every_n_steps=7
expect 0 'the spec changed since this checkpoint: trainer.log_every_n_steps: 5 -> 7' \
  ./logs --out o --resume=$good --max-steps 21
[ "$(grep -c 'the spec changed' err.txt)" = 1 ] || { fail "one change, other words"; cat err.txt; }
rm -r o
expect 0 '' ./logs --quiet --out o --resume=$good --max-steps 21
[ ! -s err.txt ] || { fail "words about a harmless key"; cat err.txt; }
rm -rf o
build rate --set optimizer.lr=1e-3 --set trainer.max_epochs=4
expect 0 'warning: the spec changed since this checkpoint: optimizer.lr: 0.002 -> 0.001' \
  ./rate --quiet --out o --resume=$good --max-steps 21
rm -rf o
build wide -D width=32
expect 4 'shape' ./wide --quiet --out o --resume=$good
grep -q 'conv_proj' err.txt || { fail "the tensor that does not fit is not named"; cat err.txt; }
grep -q '16.*32\|32.*16' err.txt || { fail "the two shapes are not told"; cat err.txt; }
[ ! -e o ] || fail "a run folder for a checkpoint that does not fit"
grep -q -- '--reset=' err.txt && fail "--quiet lets notes through"
build sgd --set 'optimizer={type: SGD, lr: 0.1}'
expect 4 'last/optimizer.safetensors has tensor' ./sgd --quiet --out o --resume=$good
expect 0 'optimizer.type: "AdamW" -> "SGD"' ./sgd --quiet --out o --resume=$good --reset=optimizer --max-steps 21
rm -rf o

# ---- a tensor that starts anew ----------------------------------------------------------------------
sed 's/name: head, Linear: 16/name: head, Linear: 20/; s/classes: 16/classes: 20/' tiny.yaml >classes.yaml
"$mpcc" classes.yaml -march=native --precision 32-true -o classes --set 'ema={decay: 0.9}'
expect 4 "last/model.safetensors" ./classes --out o --resume=$good
grep -qF -- "--reset=head" err.txt || { fail "--reset is not offered"; cat err.txt; }
expect 0 'model.layers.head.out_features: 16 -> 20' ./classes --quiet --out reset --resume=$good \
  --reset=head --reset=optim.**.ema --max-steps 21
./classes --quiet --resume=$good --reset=head --reset=optim.**.ema --export after.safetensors 2>/dev/null
run --resume=$good --export before.safetensors
for f in before after; do tail -c 4544 $f.safetensors >$f.end; done # what is sorted behind the head
cmp before.end after.end || fail "--reset=head changes what it does not name"
"$mpcc" inspect reset/checkpoints/last/model.safetensors | grep -q 'head.weight .*\[20,16\]' || fail "the head has its old shape"
expect 4 '--reset=haed names no tensor' ./classes --quiet --out o --resume=$good --reset=head --reset=haed --reset=optim.**.ema
[ ! -e o ] || fail "a run folder in spite of a wrong --reset"
expect 2 'goes with --resume' ./classes --reset=head
"$mpcc" tiny.yaml -march=native --precision 16-true -o narrow
expect 0 "is converted from f32 to f16, as are " ./narrow --quiet --out narrow_out --resume=$good --max-steps 21
expect 4 "is stored in f16 alone, and this program's weights are f32" \
  run --out o --resume=narrow_out/checkpoints/last
[ ! -e o ] || fail "a run folder for weights without masters"
"$mpcc" tiny.yaml -march=native --precision bf16-mixed -o half
expect 0 '' ./half --quiet --out half_out --resume=$good --max-steps 21

# ---- weights ----------------------------------------------------------------------------------------
run --resume=$good --export w.safetensors
expect 0 '' run --out o --weights w.safetensors --max-steps 1
expect 4 'w2.safetensors' run --out o2 --weights w2.safetensors
expect 4 'conv_proj' ./wide --quiet --out o2 --weights w.safetensors
sed "s/name: head/name: haed/; s/logits: head/logits: haed/" tiny.yaml >haed.yaml
"$mpcc" haed.yaml -march=native --precision 32-true -o haed
expect 4 "haed" ./haed --quiet --out o2 --weights w.safetensors
sed '/name: ln_1/d' tiny.yaml >less.yaml
"$mpcc" less.yaml -march=native --precision 32-true -o less
expect 4 "ln_1" ./less --quiet --out o2 --weights w.safetensors
for keep in 0 7 9 200 $(($(stat -c %s w.safetensors) - 1)); do
  head -c $keep w.safetensors >cut.safetensors
  expect 4 'cut.safetensors' run --out o2 --weights cut.safetensors
done
[ ! -e o2 ] || fail "a run folder for weights that do not fit"

# ---- a full disk ------------------------------------------------------------------------------------
# SIGXFSZ ignored, writing past the limit fails as a full disk does.
limited() { # BLOCKS COMMAND...
  sh -c 'trap "" XFSZ; ulimit -f "$1"; shift; exec "$@"' sh "$@"
}
cp -r full small
blocks=$(($(stat -Lc %s $good/optimizer.safetensors) / 512)) # room for every other file
expect 4 'optimizer.safetensors: File too large' limited $blocks ./prog --quiet --threads 1 --out small --resume
[ "$(readlink small/checkpoints/last)" = step-00000020 ] || fail "last moved to a checkpoint that failed"
ls -A small/checkpoints | grep -q tmp && fail "an unfinished checkpoint stays"
expect 0 'test: loss' run --out small --resume
if [ "$(id -u)" = 0 ] && mkdir disk && mount -t tmpfs -o size=160k tmpfs disk 2>/dev/null; then
  trap 'umount "$work/disk" 2>/dev/null || true' EXIT
  expect 0 '' run --out disk --max-steps 2
  head -c 60000 /dev/zero >disk/filler 2>/dev/null || true
  before=$(readlink disk/checkpoints/last)
  expect 4 'No space left' run --out disk --resume
  [ "$(readlink disk/checkpoints/last)" = "$before" ] || fail "last moved on a full disk"
  rm disk/filler
  expect 0 '' run --out o3 --resume=disk --max-steps 4
  umount disk
fi

# ---- what is kept -----------------------------------------------------------------------------------
kept() { ls "$1/checkpoints" 2>/dev/null | grep -c '^step-' || true; }
build all --set checkpoint.save_top_k=-1 --set checkpoint.every_n_train_steps=5
./all --quiet --threads 1 --out all_out >/dev/null
[ "$(kept all_out)" = 10 ] || fail "save_top_k -1 keeps $(kept all_out) of 10"
[ "$(readlink all_out/checkpoints/last)" = step-00000039 ] || fail "last is not the newest"
lowest=$(grep '"split":"val"' all_out/metrics.jsonl | sed 's/.*"step":\([0-9]*\).*"loss":\([0-9.]*\).*/\2 \1/' |
  sort -n | head -1 | cut -d' ' -f2)
[ "$(readlink all_out/checkpoints/best)" = "$(printf 'step-%08d' "$lowest")" ] ||
  fail "best is $(readlink all_out/checkpoints/best), lowest loss at step $lowest"
build one --set checkpoint.every_n_train_steps=5
./one --quiet --threads 1 --out one_out >/dev/null
[ "$(kept one_out)" -le 2 ] || fail "save_top_k 1 keeps $(kept one_out)"
for link in last best; do
  [ -e one_out/checkpoints/$link/DONE ] || fail "$link leads nowhere"
done
# the three best, and the two newest; the best are what the rows of the evaluations say
for keep in 'save_top_k=3' 'keep_last=2' 'save_top_k=-1 --set checkpoint.keep_last=2'; do
  build keeps --set checkpoint.$keep --set trainer.val_check_interval=2 --set checkpoint.every_n_train_steps=3
  rm -rf keep_out
  ./keeps --quiet --threads 1 --out keep_out --max-steps 20 >/dev/null
  ./keeps --quiet --threads 1 --out keep_out --resume >/dev/null
  ls keep_out/checkpoints | sed -n 's/^step-0*//p' | sort -n >have.txt
  grep '"split":"val"' keep_out/metrics.jsonl | sed 's/.*"step":\([0-9]*\).*"loss":\([0-9.]*\).*/\2 \1/' |
    sort -n | cut -d' ' -f2 >ranked.txt
  case $keep in
  save_top_k=3) { head -3 ranked.txt && echo 39; } ;;
  *) { head -1 ranked.txt && echo 39 && newest=$(sort -n have.txt | tail -2 | head -1) && echo "$newest"; } ;;
  esac | sort -nu >want.txt
  cmp -s have.txt want.txt || { fail "$keep keeps $(tr '\n' ' ' <have.txt), not $(tr '\n' ' ' <want.txt)"; }
  [ "$(wc -l <have.txt)" -ge 2 ] || fail "$keep keeps too little"
done
build accuracy --set checkpoint.monitor=val/acc --set checkpoint.mode=max --set checkpoint.save_top_k=-1
./accuracy --quiet --threads 1 --out acc_out >/dev/null
highest=$(grep '"split":"val"' acc_out/metrics.jsonl | sed 's/.*"step":\([0-9]*\).*"acc":\([0-9.]*\).*/\2 \1/' |
  sort -k1,1nr -k2,2n | head -1 | cut -d' ' -f2)
[ "$(readlink acc_out/checkpoints/best)" = "$(printf 'step-%08d' "$highest")" ] || fail "best by accuracy"
build never --set checkpoint.save_top_k=0 --set checkpoint.save_last=false
./never --quiet --threads 1 --out never_out >/dev/null
[ "$(kept never_out)" = 0 ] || fail "save_top_k 0, save_last false keeps $(kept never_out)"

# ---- whose folder it is -----------------------------------------------------------------------------
expect 0 '' run --out shared --max-steps 20
cp shared/metrics.jsonl first.jsonl
expect 4 'another run is writing into shared' flock shared ./prog --quiet --threads 1 --out shared --max-steps 5
cmp shared/metrics.jsonl first.jsonl || fail "a run that is refused changes files"
# a run that begins anew leaves the earlier one's files, and is itself what --resume finds
expect 0 'up to step 20: they are in shared/earlier-1 now' run --out shared --max-steps 5
cmp shared/earlier-1/metrics.jsonl first.jsonl || fail "the metrics of an earlier run are lost"
cmp shared/earlier-1/checkpoints/step-00000020/model.safetensors $good/model.safetensors || fail "an earlier run's weights"
[ "$(ls shared/checkpoints | tr '\n' ' ')" = "last step-00000005 " ] || fail "left behind: $(ls shared/checkpoints)"
cp -r shared/checkpoints/step-00000005 fifth
expect 0 'goes on from shared/checkpoints/step-00000005' ./prog --threads 1 --out shared --resume --max-steps 20
cmp shared/checkpoints/last/model.safetensors $good/model.safetensors || fail "resumed beside an earlier run"
[ ! -e shared/earlier-2 ] || fail "a resumed run sets its own checkpoints aside"
expect 0 'shared/earlier-2' run --out shared --resume=fifth --max-steps 6
# without a name a resumed run goes on in the folder where its checkpoint is
expect 0 '' run --max-steps 5
expect 0 '' run --resume --max-steps 6
[ "$(ls runs/tiny | wc -l)" = 1 ] && [ -e runs/tiny/*/checkpoints/step-00000006 ] || fail "a bare --resume begins another folder"
[ "$(sed -n '$s/"step":\([0-9]*\),.*/\1/p' runs/tiny/*/metrics.jsonl)" = '{6' ] || fail "its metrics do not go on"
finish
