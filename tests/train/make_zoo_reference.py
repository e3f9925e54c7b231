#!/usr/bin/env python3
"""Makes data/zoo-*.safetensors: the models of specs/ trained by PyTorch; a developer runs it.

    python3 tests/train/make_zoo_reference.py [MODEL ...]       (needs torch and numpy)

Initial weights and batches are not stored: zoo.c makes the same from the same hash of names. Nor are
gradients: of a tensor g, PROBES sums of its elements with random signs and its norm stand in the file.
The mean square of a sum over (a - b) is |a - b|^2, so they tell the distance of any tensor from g
to about 20 %, and no wrong element leaves them all as they were.
Each file: "loss" [modes, steps]; "param.NAME" [modes, 2, PROBES + 1], the gradient of step 1 (before
clipping) and the value after the last step; "buffer.NAME" [modes, 1, PROBES + 1], running statistics.
"""
import os, sys
import numpy as np
import torch
import torch.nn.functional as F

import zoo_models as zoo
from make_reference import HERE, MODES, save

STEPS, PROBES = 10, 16
KINDS = ["64-true", "32-true", "bf16-mixed"]
# name: model, input shape, batch, learning rate, clip, sizes (the test's -D)
MODELS = {
    "lenet5": (zoo.lenet5, (1, 28, 28), 8, 0.05, None, {}),
    "resnet18": (zoo.resnet18, (3, 32, 32), 16, 0.0005, None, {"width": 8}),
    "unet": (zoo.unet, (1, 28, 28), 4, 0.05, None, {"width": 4}),
    "gpt2-nano": (zoo.gpt2, (32,), 4, 0.1, 1.0, {"n_layer": 2, "n_embd": 32, "n_head": 2}),
    "mobilenet-v2": (zoo.mobilenet, (3, 32, 32), 16, 0.0001, None, {"label_smoothing": 0.1}),
    "convnext-tiny": (zoo.convnext, (3, 64, 64), 4, 0.05, 1.0, {"width": 8, "label_smoothing": 0.1}),
    "t5-tiny": (zoo.t5, (32,), 4, 1.0, 1.0, {"d": 32, "heads": 2, "hd": 16, "ff": 64, "depth": 1}),
    "llama-tiny": (zoo.llama, (32,), 4, 0.1, 1.0, {"d": 32, "depth": 2, "heads": 4, "kv": 2, "ff": 88}),
}


def hashes(name, n):
    """SplitMix64 (Steele, Lea, Flood 2014) from the FNV-1a hash of the name."""
    key = 0xCBF29CE484222325
    for c in name.encode():
        key = (key ^ c) * 0x100000001B3 % 2 ** 64
    with np.errstate(over="ignore"):
        z = np.uint64(key) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def initial(name, shape):
    """Uniform: weights within a power of two near 1 / sqrt(fan in), of norms 1 +- 1/8, biases +- 1/8."""
    n = int(np.prod(shape))
    u = (hashes(name, n) >> np.uint64(40)).astype(np.float64) / 2 ** 23 - 1
    bound = 1 / 8
    while len(shape) > 1 and bound ** 2 * (n // shape[0]) > 1:
        bound /= 2
    u = u * bound + (1 if len(shape) == 1 and name.endswith("weight") else 0)
    return u.astype(np.float32).astype(np.float64).reshape(shape)


def probes(name, t):
    a = t.detach().double().numpy().ravel()
    h = hashes("sign." + name, a.size)
    sums = [np.sum(np.where(h >> np.uint64(k) & np.uint64(1), a, -a)) for k in range(PROBES)]
    return sums + [np.linalg.norm(a)]


class Parameters:
    def __init__(self, dtype):
        self.dtype, self.all, self.buffers = dtype, {}, {}

    def __call__(self, name, *shape):
        if name not in self.all:
            self.all[name] = torch.tensor(initial(name, shape), dtype=self.dtype, requires_grad=True)
        return self.all[name]

    def buffer(self, name, n, value):
        return self.buffers.setdefault(name, torch.full((n,), value, dtype=self.dtype))


def batch(name, model, step):
    _, shape, n, _, _, _ = MODELS[name]
    if len(shape) == 1:  # tokens, and the ones after them
        t = (hashes(f"tokens.{step}", n * (shape[0] + 1)) % np.uint64(256)).astype(np.int64).reshape(n, -1)
        return torch.tensor(t[:, :-1]), torch.tensor(t[:, 1:])
    x = (hashes(f"image.{step}", n * int(np.prod(shape))) >> np.uint64(56)).astype(np.float64) / 128 - 1
    y = (hashes(f"label.{step}", n) % np.uint64(10)).astype(np.int64)
    return torch.tensor(x.reshape(n, *shape)), torch.tensor(y)


def run(name, mode):
    model, shape, _, lr, clip, sizes = MODELS[name]
    dtype, low = MODES[mode]
    p = Parameters(dtype)
    optimizer, losses = None, []
    for step in range(STEPS):
        x, y = batch(name, model, step)
        x = x.to(dtype) if x.is_floating_point() else x
        with torch.autocast("cpu", dtype=low or torch.bfloat16, enabled=low is not None):
            out = model(p, x, sizes)
            if name == "unet":
                loss = F.mse_loss(out, x)
            else:
                loss = F.cross_entropy(out.flatten(0, -2), y.flatten(), label_smoothing=sizes.get("label_smoothing", 0.0))
        optimizer = optimizer or torch.optim.SGD(p.all.values(), lr=lr, momentum=0.9)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            grads = {k: probes(k, v.grad) for k, v in p.all.items()}
        if clip:
            torch.nn.utils.clip_grad_norm_(p.all.values(), clip)
        optimizer.step()
        losses.append(loss.item())
    print(f"{name} {mode}: loss {losses[0]:.4f} -> {losses[-1]:.4f}")
    out = {"param." + k: [grads[k], probes(k, v)] for k, v in p.all.items()}
    out.update({"buffer." + k: [probes(k, v)] for k, v in p.buffers.items()})
    return {"loss": losses, **out}


def main():
    torch.set_num_threads(1)
    for name in sys.argv[1:] or MODELS:
        runs = [run(name, mode) for mode in KINDS]
        save(os.path.join(HERE, f"zoo-{name}.safetensors"),
             {k: np.array([r[k] for r in runs]) for k in runs[0]})


main()
