# OneCycleLR moves the momentum: as little as a constant one when it goes from 0.9 to 0.9.
. "$(dirname "$0")/lib.sh"
cp "$here/tiny.yaml" spec.yaml
run() {
  out=$1
  shift
  expect 0 '' "$mpcc" run spec.yaml --quiet --out "$out" --max-steps 20 "$@"
}
same() {
  cmp "$1/checkpoints/last/model.safetensors" "$2/checkpoints/last/model.safetensors" >/dev/null
}
cycle='scheduler={type: OneCycleLR, max_lr: 0.01'
for optimizer in '{type: SGD, lr: 0.01, momentum: 0.9, nesterov: true}' \
  '{type: SGD, lr: 0.01, momentum: 0.9, dampening: 0.5}' '{type: AdamW, lr: 0.01, betas: [0.9, 0.99]}' \
  '{type: RMSprop, lr: 0.01, momentum: 0.9}'; do
  run constant --set "optimizer=$optimizer" --set "$cycle, cycle_momentum: false}"
  run level --set "optimizer=$optimizer" --set "$cycle, base_momentum: 0.9, max_momentum: 0.9}"
  run moved --set "optimizer=$optimizer" --set "$cycle}"
  same constant level || fail "$optimizer: other bits at a constant momentum"
  ! same constant moved || fail "$optimizer: the momentum does not move"
  run moved --set "optimizer=$optimizer" --set "$cycle}" --max-steps 9
  run moved --set "optimizer=$optimizer" --set "$cycle}" --resume
  run whole --set "optimizer=$optimizer" --set "$cycle}"
  same whole moved || fail "$optimizer: resumed to other bits"
  rm -r constant level moved whole
done
finish
