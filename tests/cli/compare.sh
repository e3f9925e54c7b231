# One spec in several modes: the table, JSON and page, what diverges, and words that are no mode.
. "$(dirname "$0")/lib.sh"
spec=$here/tiny.yaml
expect 0 '' "$mpcc" compare "$spec" --precisions=32-true,16-mixed --max-steps 20 --html page.html --out runs
mv out.txt table.txt
for line in 'compile, s' 'step, ms' 'speed .* 1\.00x' 'memory, MiB' 'train loss' 'test loss'; do
  grep -q "$line" table.txt || fail "no '$line' in the table"
done
[ -e runs/32-true/metrics.jsonl ] && [ -e runs/16-mixed/metrics.jsonl ] || fail "no run folder for each mode"
expect 4 "cannot write 'none/page.html'" "$mpcc" compare "$spec" --precisions=32-true --html none/page.html --out late
[ ! -e late ] || fail "trains before it finds that the page cannot be written"
[ "$(grep -o '<path class="line s' page.html | wc -l)" = 2 ] || fail "not one line for each mode"
[ "$(grep -c '<rect' page.html)" = 4 ] || fail "not two bars for each mode"
grep -qE 'src=|href=|<script' page.html && fail "the page fetches something"
# The same numbers as a run of its own, and loss for loss in JSON.
expect 0 '' "$mpcc" compare "$spec" --precisions=32-true --max-steps 20 --json --out json
mv out.txt one.json
[ "$(grep -cE '^ +[0-9.]+,?$' one.json)" = 20 ] || fail "not a loss for each step"
want=$("$mpcc" run "$spec" --precision 32-true --max-steps 20 --quiet --out alone | sed 's/.*loss \([0-9.]*\).*/\1/')
grep -q "test loss *$want" table.txt || fail "another test loss than a run of its own: $want"
# A mode that diverges has a column that says so; the command succeeds.
expect 0 'bf16-mixed: diverged at step 4' "$mpcc" compare "$spec" --precisions=bf16-mixed \
  --set trainer.gradient_clip_val=null --set optimizer.lr=1e30 --out wild
# Nothing trains when a word is wrong.
expect 1 "--precisions:1:9: error: unknown precision 'bf17'" "$mpcc" compare "$spec" --precisions=32-true,bf17 --out never
grep -q '^      |         ^~~~ ' err.txt || fail "no caret under bf17: $(cat err.txt)"
expect 1 "--diff:1:12: error: unknown precision 'bf17'" "$mpcc" explain "$spec" --diff bf16-mixed,bf17
expect 2 'takes --precisions=A,B, not --precision' "$mpcc" compare "$spec" --precision=16-mixed
expect 2 'sensitivity tries every mode' "$mpcc" sensitivity "$spec" --precision=16-mixed
expect 2 'has the modes' "$mpcc" explain "$spec" --diff=32-true,16-mixed --precision=16-mixed
[ ! -e never ] || fail "trained before all modes were known"
expect 2 'names no mode' "$mpcc" compare "$spec" --precisions=,
expect 2 'belongs to mpcc compare' "$mpcc" run "$spec" --precisions=32-true,bf16-mixed
expect 2 "unknown option '--nonsense'" "$mpcc" compare "$spec" --precisions=32-true --nonsense
finish
