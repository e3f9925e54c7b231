#!/usr/bin/env python3
"""Writes small data files and, in readers.want, what NumPy reads from them. tests/unit/formats.c opens
the same files with the runtime's readers and compares every value. Run in this folder; needs NumPy."""
import json

import numpy as np

rng = np.random.default_rng(7)
out = []


def want(fmt, config, fields):
    """fields: {name: array with samples along the first axis}, in the order readers give them."""
    out.append(f"open {fmt} {json.dumps(config)}")
    for name, a in fields.items():
        a = np.asarray(a)
        out.append(f"field {json.dumps(name)} {a.shape[0]} {','.join(map(str, a.shape[1:])) or '-'}")
        out.append(" ".join(repr(float(v)) if a.dtype.kind == "f" else str(int(v)) for v in a.ravel()))


def planes(a):
    return a.transpose(0, 3, 1, 2)


# ---- CIFAR: records of bytes
for n, name in ((1, "cifar10"), (2, "cifar100")):
    for part in "ab":
        rng.integers(0, 256, (2, n + 3072), dtype=np.uint8).tofile(f"{name}_{part}.bin")
    raw = np.concatenate([np.fromfile(f"{name}_{p}.bin", np.uint8).reshape(-1, n + 3072) for p in "ab"])
    fields = {"image": raw[:, n:].reshape(-1, 3, 32, 32)}
    fields["label"] = raw[:, n - 1]
    if n == 2:
        fields["coarse_label"] = raw[:, 0]
    want(f"{name}-bin", {"path": f"{name}_*.bin"}, fields)

# ---- .npy: every type and byte order
types = "|b1 |u1 |i1 <u2 >i2 <u4 >i4 <i8 >u8 <f2 >f4 <f8 <f4 >f8".split()
for i, t in enumerate(types):
    kind = np.dtype(t).kind
    a = rng.normal(size=(3, 2, 3)) if kind == "f" else rng.integers(0, 2 if kind == "b" else 100, (3, 2, 3))
    if kind == "i":
        a = a - 50
    np.save(f"type{i}.npy", a.astype(t))
    want("npy", {"files": {"x": f"type{i}.npy"}}, {"x": np.load(f"type{i}.npy")})
np.save("hwc.npy", rng.integers(0, 256, (2, 5, 4, 3), dtype=np.uint8))
np.save("label.npy", rng.integers(0, 9, 2))
want("npy", {"files": {"image": "hwc.npy", "label": "label.npy"}},
     {"image": planes(np.load("hwc.npy")), "label": np.load("label.npy")})
with open("version2.npy", "wb") as f:
    np.lib.format.write_array(f, np.arange(6, dtype=np.float32).reshape(3, 2), version=(2, 0))
want("npy", {"files": {"x": "version2.npy"}}, {"x": np.load("version2.npy")})

# ---- .npz: stored and deflated
arrays = {"x": rng.normal(size=(4, 3)).astype(np.float32), "y": rng.integers(0, 5, 4),
          "image": rng.integers(0, 256, (4, 1, 6, 6), dtype=np.uint8)}
np.savez("stored.npz", **arrays)
np.savez_compressed("deflated.npz", **arrays)
for name in "stored", "deflated":
    with np.load(f"{name}.npz") as z:
        want("npz", {"path": f"{name}.npz"}, {k: z[k] for k in z.files})

# ---- tables
with open("table.csv", "w", newline="") as f:
    f.write('\ufeffage,"in ""come""",label\r\n')
    for i in range(5):
        f.write(f'{rng.integers(20, 60)},"{rng.normal() * 1e4:.8g}",{i % 3}\r\n\r\n')
names = ["age", 'in "come"', "label"]
table = np.genfromtxt("table.csv", delimiter=",", skip_header=1, converters={1: lambda s: float(s.strip('"'))},
                      encoding="utf-8")
table = np.array([list(r) for r in table])
want("csv", {"path": "table.csv"}, {n: table[:, i] for i, n in enumerate(names)})
np.savetxt("bare.csv", rng.normal(size=(3, 2)), delimiter=";")
bare = np.loadtxt("bare.csv", delimiter=";")
want("csv", {"path": "bare.csv", "header": False, "delimiter": ";"}, {"c0": bare[:, 0], "c1": bare[:, 1]})


# ---- token files
def windows(parts, length):
    x, y = [], []
    for p in parts:
        for i in range((len(p) - 1) // length):
            x.append(p[i * length:(i + 1) * length])
            y.append(p[i * length + 1:(i + 1) * length + 1])
    return {"tokens": np.array(x), "next_tokens": np.array(y)}


for bits, version in ((16, 1), (32, 7)):
    for part, n in (("a", 23), ("b", 4), ("c", 13)):
        head = np.zeros(256, np.int32)
        head[:3] = 20240520, version, n
        with open(f"llmc{bits}_{part}.bin", "wb") as f:
            f.write(head.tobytes() + rng.integers(0, 50257, n).astype(f"<u{bits // 8}").tobytes())
    parts = [np.fromfile(f"llmc{bits}_{p}.bin", f"<u{bits // 8}", offset=1024) for p in "abc"]
    want("tokens-bin", {"path": f"llmc{bits}_?.bin", "dtype": f"uint{bits}", "header": "llmc",
                        "sequence_length": 4}, windows(parts, 4))
rng.integers(0, 65536, 17).astype("<u2").tofile("bare.bin")
want("tokens-bin", {"path": "bare.bin", "dtype": "uint16", "header": "none", "sequence_length": 5},
     windows([np.fromfile("bare.bin", "<u2")], 5))
with open("text.txt", "w") as f:
    f.write("Zwei Wörter, and some more: 0123456789.\n")
want("text", {"path": "text.txt", "sequence_length": 8}, windows([np.fromfile("text.txt", np.uint8)], 8))

columns = {"x": np.asfortranarray(np.arange(24, dtype=">i2").reshape(4, 3, 2)),
           "y": np.asfortranarray(np.arange(8, dtype=np.float32).reshape(4, 2)),
           "z": np.asfortranarray(np.arange(4 * 5 * 6 * 3, dtype=np.uint8).reshape(4, 5, 6, 3))}
for name in columns:
    np.save(f"fortran_{name}.npy", columns[name])
np.savez_compressed("fortran.npz", **columns)
arrays = {"x": columns["x"], "y": columns["y"], "z": planes(columns["z"])}
want("npy", {"files": {name: f"fortran_{name}.npy" for name in columns}}, arrays)
want("npz", {"path": "fortran.npz"}, arrays)

with open("readers.want", "w") as f:
    f.write("\n".join(out) + "\n")
