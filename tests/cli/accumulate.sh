# Four micro-batches of 4 give the training of one batch of 16 (64-true, no dropout), also with a last
# effective batch that is cut short, and across a resume.
. "$(dirname "$0")/lib.sh"
common="--precision 64-true -march=native --set trainer.max_epochs=2"
sed 's/{Dropout: 0.1}/Identity/' "$here/tiny.yaml" >spec.yaml
"$mpcc" spec.yaml $common -o big
"$mpcc" spec.yaml $common --set data.loader.batch_size=4 --set trainer.accumulate_grad_batches=4 -o small
./big --quiet --out b >b.txt
./small --quiet --out s >s.txt
cmp b.txt s.txt || fail "results differ: $(cat b.txt s.txt)"
./small --quiet --out p --max-steps 5 >/dev/null
./small --quiet --out p --resume >p.txt
cmp s.txt p.txt || fail "resume with accumulation"
cmp s/checkpoints/last/model.safetensors p/checkpoints/last/model.safetensors || fail "other bits"
[ "$(tail -n 1 b/metrics.csv | cut -d, -f1)" = "$(tail -n 1 s/metrics.csv | cut -d, -f1)" ] ||
  fail "other number of steps"
finish
