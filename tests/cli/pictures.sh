# mpcc graph and --emit=dot: what is drawn; mpcc schema: JSON whose references lead somewhere.
. "$(dirname "$0")/lib.sh"
expect 0 '' "$mpcc" graph "$here/tiny.yaml" --precision transformer-engine -o g.svg
for part in '<svg ' '</svg>' 'attention' 'mlp.0' 'e4m3' 'bf16' 'io.image'; do
  grep -qF -- "$part" g.svg || fail "no $part in g.svg"
done
grep -o '<path d="[^"]*"' g.svg | grep -q 'nan\|-[0-9]' && fail "an edge leaves the picture"
expect 0 '' "$mpcc" graph "$here/tiny.yaml" --precision transformer-engine -o h.svg
cmp g.svg h.svg || fail "two pictures differ"
expect 0 'digraph "tiny"' "$mpcc" "$here/tiny.yaml" --emit=dot -o -
cp out.txt g.dot
expect 0 '' "$mpcc" graph "$here/tiny.yaml" -o h.dot
cmp g.dot h.dot || fail "graph -o FILE.dot is not --emit=dot"
[ "$(grep -c 'fillcolor="#b5d3ee"' g.dot)" -ge 10 ] || fail "32-true is not drawn in f32's colour"
"$mpcc" "$here/tiny.yaml" --emit=dot --precision bf16-mixed -o b.dot
grep -q 'linear.*bf16.*fillcolor="#f8d49b"' b.dot || fail "bf16-mixed has no bf16 product"
# each edge joins nodes that are there
grep -o 'n[0-9]* -> n[0-9]*' g.dot | tr -s ' >' '\n' | grep '^n[0-9]' | sort -u >ends.txt
while read -r node; do grep -q "^  $node \[label" g.dot || fail "no node $node"; done <ends.txt
"$mpcc" "$here/tiny.yaml" --emit=ir --stop-after=step -o step.mpir
expect 1 '[MPC0507]' "$mpcc" graph step.mpir -o g2.svg
[ ! -e g2.svg ] || fail "a picture of nothing"

expect 0 '' "$mpcc" schema
cp out.txt schema.json
expect 0 '' "$mpcc" schema -o s.json
cmp schema.json s.json || fail "schema -o"
expect 2 'takes no input' "$mpcc" schema "$here/tiny.yaml"
grep -o '"#/$defs/[^"]*"' schema.json | sed 's,"#/$defs/\(.*\)",\1,' | sort -u >refs.txt
[ "$(wc -l <refs.txt)" -ge 100 ] || fail "too few definitions"
while read -r ref; do grep -qF "\"$ref\":{" schema.json || fail "no definition $ref"; done <refs.txt
if python3 -c 'import jsonschema, yaml' 2>/dev/null; then
  python3 "$here/schema_check.py" schema.json "$here"/../../specs || fail "specs and schema disagree"
else
  echo "not checked with Python's jsonschema: it is not installed"
fi
finish
