# libmpcc in a host, from an installed tree: a C host and a Python one train, two models at once too;
# Python's structs are C's.
. "$(dirname "$0")/lib.sh"
source=$here/../..
cmake --install "$(dirname "$mpcc")" --prefix "$work/usr" >/dev/null || fail "cmake --install"
lib=$(dirname "$(find usr -name libmpcc.so)")
export LD_LIBRARY_PATH="$work/$lib" PYTHONPATH="$work/usr/share/mpcc/python"
nm -D --defined-only "$lib/libmpcc.so" | awk '$2 != "A" { print $3 }' | grep -Ev '^(mpcc_[a-z_]+|mprt_[a-z]+[a-z_]*)$' &&
  fail "libmpcc.so exports more than its functions"
flags() { # what pkg-config prints of a package in the tree as it was installed
  (pcfiledir=$lib/pkgconfig && eval "$(grep -E '^[a-z]+=' "$pcfiledir/$1.pc")" &&
    eval "echo $(sed -n 's/^Cflags: //p; s/^Libs: //p' "$pcfiledir/$1.pc" | tr '\n' ' ')")
}
cc -std=c17 -Wall -Wextra -Werror "$source/examples/train.c" -o host $(flags mpcc) || fail "the host does not build"
learnt() { # both examples: the last mean loss is well below the first
  awk '/mean loss/ { n++; if (n == 1) a = $NF; b = $NF } END { exit !(n == 4 && b < 0.6 * a) }' out.txt ||
    { fail "$1: not learnt"; cat out.txt; }
}
for precision in 32-true 16-mixed transformer-engine; do
  expect 0 '' ./host $precision
  learnt "train.c, $precision"
done
expect 1 "did you mean '64-true'?" ./host 64-tru
cat >runtime.c <<'C'
#include <mpcc/runtime.h>
int main(void) {
  mprt_options o;
  mprt_program *p;
  mprt_options_default(&o);
  return mprt_open("no image", 8, &o, NULL, &p) != MPCC_ERR_INPUT;
}
C
cc -std=gnu17 runtime.c -o runtime $(flags mpcc_rt) && ./runtime || fail "a host of the runtime alone"
c++ -std=c++17 -I usr/include -fsyntax-only -x c++ usr/include/mpcc/mpcc.h || fail "mpcc.h is no C++"

expect 0 '' python3 "$source/examples/train.py" bf16-mixed
learnt train.py
python3 - >layout.c <<'PY'
import mpcc
print("#include <stddef.h>\n#include <mpcc/mpcc.h>\n#include <mpcc/runtime.h>")
for s, c in [(mpcc._Message, "mpcc_message"), (mpcc._CompilerCallbacks, "mpcc_callbacks"),
             (mpcc._CompilerOptions, "mpcc_options"), (mpcc._Metric, "mprt_metric"), (mpcc._Event, "mprt_event"),
             (mpcc._RunCallbacks, "mprt_callbacks"), (mpcc._RunOptions, "mprt_options"), (mpcc._Tensor, "mprt_tensor")]:
    print("_Static_assert(sizeof(%s) == %d, \"\");" % (c, mpcc.ctypes.sizeof(s)))
    for f, *_ in s._fields_:
        print("_Static_assert(offsetof(%s, %s) == %d, \"\");" % (c, f, getattr(s, f).offset))
for i, (name, _, _, bits) in enumerate(mpcc._DTYPES):
    print("_Static_assert(MPCC_%s == %d, \"\");" % (name.upper(), i))
print("_Static_assert(MPCC_DTYPE_COUNT == %d, \"\");" % len(mpcc._DTYPES))
print("_Static_assert(MPCC_OUT_IMAGE == %d && MPCC_OUT_IR == %d && MPCC_OUT_PLAN == %d && MPCC_WARNING == %d, \"\");"
      % (mpcc._IMAGE, mpcc._IR, mpcc._PLAN, mpcc._WARNING))
PY
cc -std=gnu17 -I usr/include -fsyntax-only layout.c || fail "python/mpcc.py and the headers differ"
cat >whole.py <<'PY'
import sys
import threading

import mpcc

try:
    mpcc.compile("wrong.yaml", "mpcc: 1\nname: x\nmodell: 3\n")
except mpcc.Error as e:
    assert e.status == 1 and "did you mean 'model'?" in str(e), e
image = mpcc.compile(sys.argv[1], precision="bf16-mixed", set={"trainer.max_epochs": 1})
with mpcc.Program(image, out_dir="run", threads=1) as p:
    p.init()
    seen = []
    p.fit(lambda e: seen.append((e.step, e.loss)))
    loss, metrics = p.evaluate("val")
    head = p["head.weight"]
    assert head.shape == (16, 16) and head.dtype == "f32" and head.nbytes == 1024, head
    values = memoryview(head.buffer()).cast("B").cast("f", head.shape)
    before = values[3, 5]
    assert any(t.name == "optim.head.weight.exp_avg" for t in p)
    p.save_weights("w.safetensors")
    values[3, 5] = 9.0
    p.load_weights("w.safetensors")
    assert values[3, 5] == before
    assert head.__dlpack_device__() == (1, 0)
    capsule = head.__dlpack__()
    assert len(mpcc._lent) == 1
    del capsule
    assert not mpcc._lent
with mpcc.Program(image, out_dir="run", max_steps=5) as p:
    p.init()
    try:
        p.fit(lambda e: 1 // 0)
        raise SystemExit("an exception of a callback is lost")
    except ZeroDivisionError:
        pass
try:
    head.buffer()
    raise SystemExit("a tensor outlives its program")
except ValueError:
    pass

def train(mode, out):
    image = mpcc.compile(sys.argv[1], precision=mode, set={"trainer.max_epochs": 1})
    with mpcc.Program(image, out_dir=out) as p:
        p.init()
        p.fit()
        return p.evaluate("val")[0]

both = {}
threads = [threading.Thread(target=lambda m=m: both.setdefault(m, train(m, "two_" + m)))
           for m in ("bf16-mixed", "transformer-engine")]
[t.start() for t in threads], [t.join() for t in threads]
assert both == {"bf16-mixed": loss, "transformer-engine": train("transformer-engine", "alone")}, both
print("loss %.4f" % loss)
PY
expect 0 '' python3 whole.py "$here/tiny.yaml"
expect 0 "$(tail -n 1 out.txt)" "$mpcc" run "$here/tiny.yaml" --precision bf16-mixed --set trainer.max_epochs=1 --out same
finish
