#!/bin/sh
# The training matrix: small models in every mode and recipe end near 32-true's loss (tools/matrix has the
# bands). SEEDS=3 is the long form. matrix.sh MPCC FOLDER
. "$(dirname "$0")/lib.sh"
models="mlp lenet vit gpt"
if [ ! -d /usr/share/datasets/fashion-mnist ]; then
  echo "skipped: mlp, lenet and vit need Fashion-MNIST in /usr/share/datasets"
  models=gpt
fi
"$here/../../tools/matrix" --seeds="${SEEDS:-1}" --steps=20 --models="$models" --mpcc="$mpcc" \
  --work="$work/runs" >table.md 2>err.txt || { fail "outside of its band"; cat err.txt table.md; }
[ "$(grep -c '^| [0-9bt].* |$' table.md)" = 17 ] || { fail "rows are missing"; cat table.md; }
finish
