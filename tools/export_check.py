#!/usr/bin/env python3
"""PyTorch reads what mpcc exports: logits of ResNet-18, a vision transformer and GPT-2 beside torch's.

usage: tools/export_check.py [MPCC] [MODEL ...]   (needs PyTorch and NumPy; not part of the build)

Each model is trained for two steps in 32-true on random samples, exported to safetensors, and asked for
its logits; torch computes them from the exported file under the names it finds there. Prints the
largest difference beside the largest logit and fails above 1e-4 of it, or when a tensor was not used.
"""
import json
import re
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

SPECS = Path(__file__).resolve().parent.parent / "specs"
TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}


class Weights(dict):
    """Tensors of a safetensors file; remembers which were asked for."""

    def __init__(self, path):
        raw = Path(path).read_bytes()
        n = struct.unpack("<Q", raw[:8])[0]
        header = json.loads(raw[8 : 8 + n])
        header.pop("__metadata__", None)
        for k, v in header.items():
            a, b = (8 + n + at for at in v["data_offsets"])
            self[k] = torch.frombuffer(bytearray(raw[a:b]), dtype=TYPES[v["dtype"]]).reshape(v["shape"])
        self.used = set()

    def __getitem__(self, name):
        self.used.add(name)
        return super().__getitem__(name)

    def linear(self, x, name):
        bias = self[name + ".bias"] if name + ".bias" in self else None
        return F.linear(x, self[name + ".weight"], bias)

    def norm(self, x, name, eps):
        return F.layer_norm(x, x.shape[-1:], self[name + ".weight"], self[name + ".bias"], eps)


def resnet18(w, x):
    def bn(x, name):
        w.used.add(name + ".num_batches_tracked")
        return F.batch_norm(x, *(w[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")))

    x = F.relu(bn(F.conv2d(x, w["conv1.weight"], padding=1), "bn1"))
    for layer in range(1, 5):
        for i in range(2):
            name, stride = f"layer{layer}.{i}", 2 if layer > 1 and i == 0 else 1
            y = F.relu(bn(F.conv2d(x, w[name + ".conv1.weight"], stride=stride, padding=1), name + ".bn1"))
            y = bn(F.conv2d(y, w[name + ".conv2.weight"], padding=1), name + ".bn2")
            if stride == 2:
                x = bn(F.conv2d(x, w[name + ".downsample.0.weight"], stride=2), name + ".downsample.1")
            x = F.relu(x + y)
    return w.linear(x.mean((2, 3)), "fc")


def attention(q, k, v, heads, causal):
    q, k, v = (t.unflatten(2, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(2)


def vit(w, x):
    x = F.conv2d(x, w["conv_proj.weight"], w["conv_proj.bias"], stride=w["conv_proj.weight"].shape[2:]).flatten(2)
    x = torch.cat([w["class_token"].expand(len(x), -1, -1), x.transpose(1, 2)], 1) + w["encoder.pos_embedding"]
    i = 0
    while f"encoder.layers.encoder_layer_{i}.ln_1.weight" in w:
        n = f"encoder.layers.encoder_layer_{i}."
        y = w.norm(x, n + "ln_1", 1e-6)
        y = F.linear(y, w[n + "self_attention.in_proj_weight"], w[n + "self_attention.in_proj_bias"])
        y = attention(*y.chunk(3, 2), 2, False)
        x = x + w.linear(y, n + "self_attention.out_proj")
        x = x + w.linear(F.gelu(w.linear(w.norm(x, n + "ln_2", 1e-6), n + "mlp.0")), n + "mlp.3")
        i += 1
    return w.linear(w.norm(x, "encoder.ln", 1e-6)[:, 0], "heads.head")


def gpt2(w, x):
    x = w["wte.weight"][x] + w["wpe.weight"][: x.shape[1]]
    i = 0
    while f"h.{i}.ln_1.weight" in w:
        n = f"h.{i}."
        y = attention(*w.linear(w.norm(x, n + "ln_1", 1e-5), n + "attn.c_attn").chunk(3, 2), 2, True)
        x = x + w.linear(y, n + "attn.c_proj")
        y = F.gelu(w.linear(w.norm(x, n + "ln_2", 1e-5), n + "mlp.c_fc"), approximate="tanh")
        x = x + w.linear(y, n + "mlp.c_proj")
        i += 1
    return F.linear(w.norm(x, "ln_f", 1e-5), w["wte.weight"])


g = np.random.default_rng(1)
IMAGES = {"image": g.standard_normal((8, 3, 32, 32), dtype=np.float32), "label": g.integers(0, 10, 8)}
TEXT = {"tokens": g.integers(0, 256, (8, 64)), "next_tokens": g.integers(0, 256, (8, 64))}
VIT = "{depth: 2, hidden_dim: 64, heads: 2, mlp_dim: 128, batch: 4}"
GPT = "{n_layer: 2, n_embd: 64, n_head: 2, block_size: 64, batch: 4}"
MODELS = {
    "resnet18": ("resnet18", None, IMAGES, resnet18),
    "vit": ("vit-tiny", VIT, IMAGES, vit),
    "gpt2": ("gpt2-nano", GPT, TEXT, gpt2),
}


def spec_text(parent, params, fields):
    """The parent's spec with other data; every top-level section ends where the next one begins."""
    text = (SPECS / f"{parent}.yaml").read_text()
    for section in ("data", "scheduler", "trainer", "precision", "metrics", "checkpoint"):
        text = re.sub(rf"^{section}:.*\n(?:[ #].*\n|\n)*", "", text, flags=re.M)
    text = re.sub(r"^  expect:.*\n", "", text, flags=re.M)
    if params:
        given = dict(p.split(": ") for p in params.strip("{}").split(", "))
        for k, v in given.items():
            text = re.sub(rf"^  {k}: .*$", f"  {k}: {v}", text, flags=re.M)
    files = ", ".join(f"{k}: {k}.npy" for k in fields)
    for unused in ("data", "text", "batch", "epochs"):
        text = re.sub(rf"^  {unused}: .*\n", "", text, flags=re.M)
    return (text + f"\ndata:\n  train: {{format: npy, files: {{{files}}}}}\n  test: {{format: npy, files: {{{files}}}}}\n"
            "  transforms: []\n  loader: {batch_size: 4}\ntrainer: {max_steps: 2}\nprecision: 32-true\n")


def check(mpcc, name):
    parent, params, fields, model = MODELS[name]
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        for k, v in fields.items():
            np.save(at / f"{k}.npy", v)
        (at / "spec.yaml").write_text(spec_text(parent, params, fields))
        run = [mpcc, "run", str(at / "spec.yaml"), "--out", str(at / "out")]
        subprocess.run(run + ["--quiet"], check=True)
        last = "--resume=" + str(at / "out/checkpoints/last")
        subprocess.run(run + [last, "--export", str(at / "w.safetensors")], check=True)
        subprocess.run(run + [last, "--predict", str(at / "got.npy")], check=True)
        w = Weights(at / "w.safetensors")
        got = torch.from_numpy(np.load(at / "got.npy"))
        with torch.no_grad():
            want = model(w, torch.from_numpy(next(iter(fields.values()))))
    error, size = (got.reshape(want.shape) - want).abs().max().item(), want.abs().max().item()
    unused = sorted(set(w) - w.used)
    print(f"{name}: {len(w)} tensors, largest difference {error:.3g} of {size:.3g}", *unused)
    return error <= 1e-4 * size and not unused


words = sys.argv[1:]
mpcc = words.pop(0) if words and words[0] not in MODELS else "build/mpcc"
results = [check(mpcc, name) for name in (words or MODELS)]
sys.exit(not all(results))
