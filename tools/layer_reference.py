#!/usr/bin/env python3
"""Writes tests/unit/layer_reference.h: layers and functions of the spec beside torch.

usage: tools/layer_reference.py > tests/unit/layer_reference.h   (needs PyTorch; not part of the build)

Each case: the spec's layers, whose Parameters are the operands; the sum of the result times `image`
in training and in evaluation, and for each tensor (gradients, running statistics) its sum times
numbers of its own. All numbers come from fill(), which tests/unit/layer_values.c has too, so that a
wrong element anywhere changes a sum.
"""
import torch
from torch.nn import functional as F


class Complex(tuple):
    """Shape of a complex tensor: filled as its pairs, [..., 2]."""


def fill(shape, name):
    if isinstance(shape, Complex):
        return torch.view_as_complex(fill(tuple(shape) + (2,), name))
    n = 1
    for d in shape:
        n *= d
    k = sum(name.encode())
    v = [((i * 7919 + k * 104729) % 2003) / 1001.0 - 1 for i in range(n)]
    return torch.tensor(v, dtype=torch.float64).reshape(shape)


def param(name, shape):
    dtype = ", dtype: complex" if isinstance(shape, Complex) else ""
    return "{name: %s, type: Parameter, shape: %s%s}" % (name, list(shape), dtype)


def total(v, shape, name):
    w = fill(shape, name)
    return ((torch.view_as_real(v.resolve_conj()) * torch.view_as_real(w)) if v.is_complex() else v * w).sum()


CASES = []  # (layers text behind the Parameters, {name: shape of a tensor}, f(tensors, train) -> y, buffers)


def case(text, shapes, f, buffers=(), given=("x",)):
    CASES.append((text, shapes, f, dict(buffers), given))


IMG = (2, 6, 4, 5)
case("{name: y, GroupNorm: 3}", {"x": IMG, "y.weight": (6,), "y.bias": (6,)},
     lambda t, train: F.group_norm(t["x"], 3, t["y.weight"], t["y.bias"]))
case("{name: y, GroupNorm: 2, affine: false, eps: 0.1}", {"x": (2, 6, 7)},
     lambda t, train: F.group_norm(t["x"], 2, eps=0.1))
case("{name: y, GroupNorm: 3, bias: false}", {"x": IMG, "y.weight": (6,)}, lambda t, train: F.group_norm(t["x"], 3, t["y.weight"]))
case("{name: y, type: InstanceNorm2d, affine: true, bias: false}", {"x": IMG, "y.weight": (6,)},
     lambda t, train: F.instance_norm(t["x"], weight=t["y.weight"]))
case("{name: y, type: BatchNorm2d, bias: false}", {"x": IMG, "y.weight": (6,)},
     lambda t, train: F.batch_norm(t["x"], t["y.running_mean"], t["y.running_var"], t["y.weight"], None, train, 0.1),
     {"y.running_mean": torch.zeros(6, dtype=torch.float64), "y.running_var": torch.ones(6, dtype=torch.float64)})
case("{name: y, type: RMSNorm}", {"x": (2, 6), "y.weight": (6,)}, lambda t, train: F.rms_norm(t["x"], (6,), t["y.weight"]))
case("{name: y, GroupNorm: 2}", {"x": (2, 6), "y.weight": (6,), "y.bias": (6,)},
     lambda t, train: F.group_norm(t["x"], 2, t["y.weight"], t["y.bias"]))
case("{name: y, InstanceNorm2d: 6}", {"x": IMG}, lambda t, train: F.instance_norm(t["x"]))
case("{name: y, type: InstanceNorm2d, affine: true, track_running_stats: true, momentum: 0.3}",
     {"x": IMG, "y.weight": (6,), "y.bias": (6,)},
     lambda t, train: F.instance_norm(t["x"], t["y.running_mean"], t["y.running_var"], t["y.weight"],
                                      t["y.bias"], train, 0.3),
     {"y.running_mean": torch.zeros(6, dtype=torch.float64), "y.running_var": torch.ones(6, dtype=torch.float64)})


def two(text, a, b, f):
    case(text, {"a": a, "b": b}, lambda t, train: f(t["a"], t["b"]), given=("a", "b"))


MATMUL = "{name: y, type: matmul, inputs: [a, b]}"
for a, b in (((2, 3, 5), (2, 5, 4)), ((2, 3, 5), (5, 4)), ((2, 1, 3, 5), (4, 5, 2)), ((3, 5), (2, 5, 4)), ((2, 4, 5), (5,)), ((5,), (2, 5, 3)), ((2, 5), (5, 3))):
    two(MATMUL, a, b, torch.matmul)
two("{name: y, type: matmul, inputs: [a, b]}, {type: softmax, dim: -1}, {name: z, type: matmul, inputs: ['1', b]}"
    .replace("'1'", "'3'"), (2, 3, 3), (2, 3, 3), lambda a, b: torch.softmax(a @ b, -1) @ b)


def one(text, shape, f):
    case(text, {"x": shape}, lambda t, train: f(t["x"]))


for mode in ("reflect", "replicate", "circular"):
    one("{name: y, pad: [2, 1, 0, 3], mode: %s}" % mode, (2, 3, 4, 5), lambda x, m=mode: F.pad(x, (2, 1, 0, 3), mode=m))
    case("{name: y, Conv2d: 2, kernel_size: [3, 2], padding: [1, 2], stride: 2, padding_mode: %s}" % mode,
         {"x": (2, 3, 4, 5), "y.weight": (2, 3, 3, 2), "y.bias": (2,)},
         lambda t, train, m=mode: F.conv2d(F.pad(t["x"], (2, 2, 1, 1), mode=m), t["y.weight"], t["y.bias"], stride=2))
case("{name: y, Conv1d: 2, kernel_size: 4, padding: same, padding_mode: reflect, bias: false}",
     {"x": (2, 3, 9), "y.weight": (2, 3, 4)}, lambda t, train: F.conv1d(F.pad(t["x"], (1, 2), mode="reflect"), t["y.weight"]))
one("{name: y, MaxPool2d: [4, 2], stride: [3, 2], ceil_mode: true}", (2, 3, 3, 5), lambda x: F.max_pool2d(x, (4, 2), (3, 2), ceil_mode=True))
one("{name: y, AvgPool2d: 4, padding: [0, 1], ceil_mode: true}", (2, 3, 2, 5), lambda x: F.avg_pool2d(x, 4, padding=(0, 1), ceil_mode=True))
one("{name: y, pad: [-1, 2], mode: circular}", (2, 3, 5), lambda x: F.pad(x, (-1, 2), mode="circular"))
one("{name: y, pad: [-1, 2], mode: reflect}", (2, 3, 5), lambda x: F.pad(x, (-1, 2), mode="reflect"))
one("{name: y, pad: [-1, 1, -1, 2], mode: replicate}", (2, 3, 1, 1), lambda x: F.pad(x, (-1, 1, -1, 2), mode="replicate"))
one("{name: y, pad: [2, -1], mode: replicate}", (2, 3, 5), lambda x: F.pad(x, (2, -1), mode="replicate"))
one("{name: y, pad: [1, 2, -1, 0, 0, 1], value: 0.5}", (2, 3, 4, 5), lambda x: F.pad(x, (1, 2, -1, 0, 0, 1), value=0.5))
one("{pad: [1, 0, -1, 2], value: -1.0e30}, {name: y, type: exp}", (2, 3, 4), lambda x: F.pad(x, (1, 0, -1, 2), value=-1e30).exp())
one("{name: y, type: Upsample, size: [7, 3], mode: bicubic}", (2, 3, 4, 5),
    lambda x: F.interpolate(x, (7, 3), mode="bicubic"))
one("{name: y, type: Upsample, scale_factor: 1.5, mode: bicubic, align_corners: true}", (2, 3, 4, 5),
    lambda x: F.interpolate(x, scale_factor=1.5, mode="bicubic", align_corners=True))
one("{name: y, type: interpolate, scale_factor: 1.7, mode: bicubic}", (2, 3, 4, 5),
    lambda x: F.interpolate(x, scale_factor=1.7, mode="bicubic"))
# what cancels is zero: at no frequency and at half the sampling rate
one("{name: f, type: fft, dim: 1, inputs: [x]}, {name: i, type: imag}, {name: y, expr: 'a == 0 ? b : 2 * b', inputs: {a: i, b: x}}", (2, 8),
    lambda x: torch.where(torch.fft.fft(x, dim=1).imag == 0, x, 2 * x))
# an axis that keeps its size is copied, not spaced by its factor
one("{name: y, type: Upsample, scale_factor: [1.3, 1.15], mode: bilinear}", (2, 3, 4, 5),
    lambda x: F.interpolate(x, scale_factor=(1.3, 1.15), mode="bilinear"))
one("{name: y, type: Upsample, scale_factor: [1.2, 1.3], mode: nearest}", (2, 3, 4, 5),
    lambda x: F.interpolate(x, scale_factor=(1.2, 1.3), mode="nearest"))
one("{name: y, type: interpolate, size: [3, 7], mode: area}", (2, 3, 4, 5), lambda x: F.interpolate(x, (3, 7), mode="area"))
one("{name: y, type: interpolate, size: 7, mode: nearest-exact}", (2, 3, 5), lambda x: F.interpolate(x, 7, mode="nearest-exact"))
one("{name: y, type: interpolate, size: [2, 3, 9], mode: trilinear}", (2, 3, 4, 5, 4),
    lambda x: F.interpolate(x, (2, 3, 9), mode="trilinear"))

# a mask that is trained; a row of heads lies side by side as [N, T, H D]
def sdpa(t, train):
    q, k, v = (t[n].unflatten(2, (2, -1)).transpose(1, 2) for n in "qkv")
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=t["m"], scale=0.7)
    return y.transpose(1, 2).flatten(2)


case("{name: y, scaled_dot_product_attention: 2, scale: 0.7, inputs: {query: q, key: k, value: v, attn_mask: m}}",
     {"q": (2, 3, 8), "k": (2, 5, 8), "v": (2, 5, 8), "m": (2, 2, 3, 5)}, sdpa, given=("q", "k", "v", "m"))

# the rest of the vocabulary, each once
case("{name: y, type: PReLU}", {"x": (2, 3, 4), "y.weight": (1,)}, lambda t, train: F.prelu(t["x"], t["y.weight"]))
case("{name: y, PReLU: 3}", {"x": (2, 3, 4), "y.weight": (3,)}, lambda t, train: F.prelu(t["x"], t["y.weight"]))
for name, f in (("Hardswish", F.hardswish), ("SiLU", F.silu), ("Tanh", torch.tanh), ("Sigmoid", torch.sigmoid), ("GELU", F.gelu),
                ("ReLU", F.relu), ("Mish", F.mish), ("ELU", F.elu), ("Softplus", F.softplus), ("LeakyReLU", F.leaky_relu),
                ("exp", torch.exp), ("abs", torch.abs), ("Identity", lambda x: x)):
    one("{name: y, type: %s}" % name, (2, 7), f)
one("exp, {name: y, type: log}", (2, 7), lambda x: x.exp().log())
one("exp, {name: y, type: sqrt}", (2, 7), lambda x: x.exp().sqrt())
one("{name: y, Softmax: 1}", (2, 7, 3), lambda x: x.softmax(1))
one("{name: y, log_softmax: -1}", (2, 7, 3), lambda x: x.log_softmax(-1))
one("{name: y, type: view, shape: [-1, 3, 4]}", (2, 6, 2), lambda x: x.view(2, 3, 4))
one("{name: y, permute: [0, 2, 3, 1]}", (2, 3, 4, 5), lambda x: x.permute(0, 2, 3, 1))
one("{name: y, type: transpose, dim0: -1, dim1: 1}", (2, 3, 4, 5), lambda x: x.transpose(-1, 1))
one("{name: y, type: select, dim: 1, index: -1}", (2, 3, 4), lambda x: x.select(1, -1))
one("{name: c, chunk: 3, dim: 1}, {name: y, type: sub, inputs: [c.2, c.0]}", (2, 7, 2),
    lambda x: x[:, 6:7] - x[:, 0:3])
one("{name: c, split: [2, 3], dim: 1}, {name: y, type: cat, inputs: [c.1, c.0], dim: 1}", (2, 5, 2),
    lambda x: torch.cat(x.split([2, 3], 1)[::-1], 1))
one("{name: y, mean: [1, -1]}", (2, 3, 4, 5), lambda x: x.mean((1, -1)))
one("{name: y, sum: 2, keepdim: true}", (2, 3, 4, 5), lambda x: x.sum(2, keepdim=True))
two("{name: y, type: div, inputs: [a, b]}", (2, 3, 4), (2, 1, 4), torch.div)
two("{name: y, type: mul, inputs: [a, b]}", (2, 3, 4), (4,), torch.mul)
one("{name: y, type: Flatten, start_dim: 2}", (2, 3, 4, 5), lambda x: x.flatten(2))
one("{name: p, type: arange_like, dim: 1}, {name: y, type: mul, inputs: [x, p]}", (2, 5), lambda x: x * torch.arange(5))
for name, f in (("MaxPool2d: 2, stride: 1", lambda x: F.max_pool2d(x, 2, 1)), ("AvgPool2d: 3, padding: 1", lambda x: F.avg_pool2d(x, 3, padding=1)),
                ("AdaptiveAvgPool2d: [2, 3]", lambda x: F.adaptive_avg_pool2d(x, (2, 3)))):
    one("{name: y, %s}" % name, (2, 3, 4, 5), f)

for name, f in (("ReLU6", F.relu6), ("Hardsigmoid", lambda x: F.relu6(x + 3) / 6), # its own slope is 1 / 6 in FP32
                ("Hardtanh", F.hardtanh), ("SELU", F.selu),
                ("Softsign", F.softsign), ("LogSigmoid", F.logsigmoid)):
    one("{name: s, mul: 8.0}, {name: y, type: %s}" % name, (2, 7), lambda x, f=f: f(x * 8)) # both sides of every bend
one("{name: y, Hardtanh: , min_val: -0.25, max_val: 0.5}", (2, 7), lambda x: F.hardtanh(x, -0.25, 0.5))
one("{name: y, GLU: 1}", (2, 6, 3), lambda x: F.glu(x, 1))
one("{name: y, max: 1}", (2, 7, 3), lambda x: x.max(1)[0])
one("{name: y, max: -1, keepdim: true}", (2, 7), lambda x: x.max(-1, keepdim=True)[0])
one("{name: y, roll: [2, -1], dims: [1, -1]}", (2, 5, 3, 4), lambda x: x.roll((2, -1), (1, -1)))
one("{name: d, type: detach}, {name: y, type: mul, inputs: [d, x]}", (2, 5), lambda x: x.detach() * x)
one("{name: d, Dropout: 0.5, training: false}, {name: e, Dropout2d: 0.5, training: false}, {name: y, StochasticDepth: 0.5, training: false}",
    (2, 3, 2), lambda x: x)
one("{name: p, arange: 5}, {name: y, type: mul, inputs: [x, p]}", (2, 5), lambda x: x * torch.arange(5))
one("{name: r, reshape: [3, 4]}, {name: t, type: transpose, dim0: 0, dim1: 1}, {name: y, reshape: [2, 6]}", (2, 6),
    lambda x: x.reshape(3, 4).T.reshape(2, 6))
for name, shape, f in (
        ("MaxPool1d: 3, stride: 2, padding: 1", (2, 3, 8), lambda x: F.max_pool1d(x, 3, 2, 1)),
        ("AvgPool1d: 3, padding: 1, ceil_mode: true", (2, 3, 7), lambda x: F.avg_pool1d(x, 3, padding=1, ceil_mode=True)),
        ("AvgPool3d: [1, 2, 3], stride: 1", (2, 3, 2, 4, 5), lambda x: F.avg_pool3d(x, (1, 2, 3), 1)),
        ("AdaptiveAvgPool1d: 3", (2, 3, 7), lambda x: F.adaptive_avg_pool1d(x, 3)),
        ("AdaptiveAvgPool3d: [1, 2, 3]", (2, 3, 2, 4, 5), lambda x: F.adaptive_avg_pool3d(x, (1, 2, 3))),
        ("AdaptiveMaxPool1d: 2", (2, 3, 6), lambda x: F.adaptive_max_pool1d(x, 2)),
        ("AdaptiveMaxPool1d: 3", (2, 3, 7), lambda x: F.adaptive_max_pool1d(x, 3)),
        ("AdaptiveMaxPool2d: [3, 4]", (2, 3, 5, 6), lambda x: F.adaptive_max_pool2d(x, (3, 4))),
        ("AdaptiveMaxPool2d: [2, 1]", (2, 3, 4, 5), lambda x: F.adaptive_max_pool2d(x, (2, 1)))):
    one("{name: y, %s}" % name, shape, f)
one("{name: y, PixelShuffle: 2}", (2, 12, 2, 3), lambda x: F.pixel_shuffle(x, 2))
one("{name: y, PixelUnshuffle: 3}", (2, 2, 6, 3), lambda x: F.pixel_unshuffle(x, 3))
one("{name: d, Dropout1d: 0.5, training: false}, {name: y, Dropout3d: 0.5, training: false}", (2, 3, 2), lambda x: x)
case("{name: y, InstanceNorm1d: 3}", {"x": (2, 3, 7)}, lambda t, train: F.instance_norm(t["x"]))
case("{name: y, type: InstanceNorm3d, affine: true, track_running_stats: true}",
     {"x": (2, 3, 2, 3, 4), "y.weight": (3,), "y.bias": (3,)},
     lambda t, train: F.instance_norm(t["x"], t["y.running_mean"], t["y.running_var"], t["y.weight"], t["y.bias"], train, 0.1),
     {"y.running_mean": torch.zeros(3, dtype=torch.float64), "y.running_var": torch.ones(3, dtype=torch.float64)})


def elman(layers, bias, f):
    """RNN of width 3, of tensors t."""
    def run(t, train):
        b = [t.get(f"y.bias_{k}_l{i}", torch.zeros(3).double()) for i in range(layers) for k in ("ih", "hh")]
        w = [v for i in range(layers) for v in (t[f"y.weight_ih_l{i}"], t[f"y.weight_hh_l{i}"], *b[2 * i:2 * i + 2])]
        return f(t["x"], torch.zeros(layers, 2, 3).double(), w, True, layers, 0.0, train, False, True)[0]
    shapes = {"x": (2, 4, 2)}
    for i in range(layers):
        shapes.update({f"y.weight_ih_l{i}": (3, 3 if i else 2), f"y.weight_hh_l{i}": (3, 3)})
        shapes.update({f"y.bias_{k}_l{i}": (3,) for k in ("ih", "hh") if bias})
    return shapes, run


case("{name: y, RNN: 3}", *elman(1, True, torch.rnn_tanh))
case("{name: y, RNN: 3, num_layers: 2, nonlinearity: relu, bias: false}", *elman(2, False, torch.rnn_relu))
# one layer used twice; statistics of evaluation while training
case("{name: l, Linear: 3}, {name: y, Linear: 3, tie: l}", {"x": (2, 3), "l.weight": (3, 3), "l.bias": (3,)},
     lambda t, train: F.linear(F.linear(t["x"], t["l.weight"], t["l.bias"]), t["l.weight"], t["l.bias"]))
case("{name: y, BatchNorm1d: 3, training: false}", {"x": (2, 3), "y.weight": (3,), "y.bias": (3,)},
     lambda t, train: F.batch_norm(t["x"], torch.zeros(3).double(), torch.ones(3).double(), t["y.weight"], t["y.bias"]))


# a mask of two numbers, of which one is infinite, and a table read by computed indices
def windowed(t, train):
    q, k, v = (t[n].unflatten(2, (2, -1)).transpose(1, 2) for n in "qkv")
    i, j = torch.arange(4)[:, None], torch.arange(4)
    bias = t["e.weight"][(i - j).clamp(0, 2)].permute(2, 0, 1)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=torch.where((i >= j) & (i - j < 3), bias, float("-inf")))
    return y.transpose(1, 2).flatten(2)


WINDOW = ("{name: j, arange: 4}, {name: i, unsqueeze: 1}, {name: o, expr: 'min(max(i - j, 0), 2) / 1', inputs: {i: i, j: j}}, {to: int64}, "
          "{name: e, Embedding: 3, embedding_dim: 2}, {name: b, permute: [2, 0, 1]}, "
          "{name: m, expr: 'i >= j && i - j < 3 ? 0 : -inf', inputs: {i: i, j: j}}, {name: s, type: add, inputs: [m, b]}, "
          "{name: y, scaled_dot_product_attention: 2, inputs: {query: q, key: k, value: v, attn_mask: s}}")
case(WINDOW, {"q": (2, 4, 8), "k": (2, 4, 8), "v": (2, 4, 8), "e.weight": (3, 2)}, windowed, given=("q", "k", "v"))

# complex numbers: results and gradients are compared as pairs
C = Complex


def pairs(text, shapes, f):
    given = tuple(n for n in shapes if "." not in n)
    case(text + ", {name: pairs, type: view_as_real}", shapes,
         lambda t, train: torch.view_as_real(f(*(t[n] for n in shapes)).resolve_conj()), given=given)


for shape, dim, n, norm in (((2, 7), -1, None, "backward"), ((2, 5, 9), 1, None, "ortho"), ((2, 1, 3), 1, None, "forward"),
                            ((2, 97), 1, None, "backward"), ((2, 12, 3), 1, 7, "forward"), ((2, 3, 8), 2, 11, "backward")):
    key = "dim: %d, norm: %s%s" % (dim, norm, ", n: %d" % n if n else "")
    for name, f in (("fft", torch.fft.fft), ("ifft", torch.fft.ifft)):
        for s in (shape, C(shape)):
            pairs("{name: y, type: %s, %s}" % (name, key), {"x": s},
                  lambda x, f=f, dim=dim, n=n, norm=norm: f(x, n, dim, norm))
case("{fft: -1}, {fft: 1}, {name: y, type: real}", {"x": (2, 7, 6)}, lambda t, train: torch.fft.fft2(t["x"]).real)
for name, f in (("add", torch.add), ("sub", torch.sub), ("mul", torch.mul), ("div", torch.div)):
    for a, b in ((C((2, 3, 4)), C((2, 1, 4))), (C((2, 4)), (2, 3, 4)), ((2, 3, 4), C((2, 3, 4))), ((2, 3, 4), C((4,)))):
        if len(a) == 2:
            a = C((2, 1, 4))
        pairs("{name: y, type: %s, inputs: [a, b]}" % name, {"a": a, "b": b}, lambda a, b, f=f: f(a, b))
    pairs("{name: y, %s: 0.75}" % name, {"x": C((2, 5))}, lambda x, f=f: f(x, 0.75))
pairs("{name: y, type: mul, inputs: [a, b, c]}", {"a": C((2, 3)), "b": (3,), "c": C((2, 3))}, lambda a, b, c: a * b * c)
pairs("{name: y, type: conj}", {"x": C((2, 5))}, torch.conj)
pairs("{name: y, type: complex, inputs: [a, b]}", {"a": (2, 3, 4), "b": (2, 1, 4)}, torch.complex)
pairs("{name: y, type: view_as_complex}", {"x": (2, 3, 2)}, torch.view_as_complex)
for name, f in (("abs", torch.abs), ("real", torch.real), ("imag", torch.imag)):
    case("{name: y, type: %s}" % name, {"x": C((2, 5))}, lambda t, train, f=f: f(t["x"]))
case("{mul: 0.0}, {name: y, type: abs}", {"x": C((2, 5))}, lambda t, train: (t["x"] * 0.0).abs())
case("{name: y, type: real}", {"x": (2, 5)}, lambda t, train: torch.real(t["x"]))
pairs("{name: y, Linear: 4, dtype: complex}", {"x": C((2, 3, 5)), "y.weight": C((4, 5)), "y.bias": C((4,))}, F.linear)
pairs("{name: y, Linear: 4, dtype: complex, bias: false}", {"x": C((2, 5)), "y.weight": C((4, 5))}, F.linear)
for a, b in ((C((2, 3, 5)), C((2, 5, 4))), ((2, 3, 5), C((5, 4))), (C((2, 3, 5)), (5,))):
    pairs(MATMUL, {"a": a, "b": b}, lambda a, b: torch.matmul(a + 0j, b + 0j))
for text, f in (("reshape: [-1, 6]", lambda x: x.reshape(2, 6)), ("view: [-1, 2, 3]", lambda x: x.reshape(2, 2, 3)),
                ("Flatten: 1", lambda x: x.flatten(1)), ("permute: [0, 2, 1]", lambda x: x.permute(0, 2, 1)),
                ("type: transpose, dim0: 1, dim1: 2", lambda x: x.transpose(1, 2)), ("unsqueeze: -1", lambda x: x.unsqueeze(-1)),
                ("type: select, dim: -1, index: 1", lambda x: x.select(-1, 1)), ("mean: 1", lambda x: x.mean(1)),
                ("sum: [1, 2]", lambda x: x.sum((1, 2))), ("chunk: 2, dim: 2, index: 1", lambda x: x.chunk(2, 2)[1]),
                ("split: [1, 2], dim: 1, index: 1", lambda x: x.split([1, 2], 1)[1]), ("Dropout: 0.0", lambda x: x)):
    pairs("{name: y, %s}" % text, {"x": C((2, 3, 2))}, f)
pairs("{unsqueeze: 2}, {name: y, squeeze: 2}", {"x": C((2, 3))}, lambda x: x)
pairs("{name: y, cat: 1, inputs: [a, b]}", {"a": C((2, 3)), "b": (2, 2)}, lambda a, b: torch.cat([a, b + 0j], 1))


def run(f, shapes, buffers, train):
    t = {n: fill(s, n).requires_grad_() for n, s in shapes.items()}
    t.update({n: v.clone() for n, v in buffers.items()})
    y = f(t, train)
    loss = (y * fill(y.shape, "image")).sum()
    return t, loss


print(f"/* Made by tools/layer_reference.py with PyTorch {torch.__version__.split('+')[0]}. */")
print("static const struct {\n  const char *layers;\n  double train, eval;\n"
      "  struct {\n    const char *name;\n    double sum;\n  } tensor[8];\n} layer_cases[] = {")
for text, shapes, f, buffers, given in CASES:
    t, loss = run(f, shapes, buffers, True)
    loss.backward()
    _, after = run(f, shapes, buffers, False) if not buffers else (None, None)
    if buffers:  # evaluation with what training left
        _, after = run(f, shapes, {n: t[n].detach() for n in buffers}, False)
    layers = ", ".join([param(n, shapes[n]) for n in given] + [text])
    print(f'    {{"{layers}",\n     {loss.item():.17g}, {after.item():.17g},\n     {{')
    for n in shapes:
        if t[n].grad is not None:
            print(f'      {{"grad.{n}", {total(t[n].grad, shapes[n], "grad." + n).item():.17g}}},')
    for n in buffers:
        print(f'      {{"{n}", {(t[n] * fill(t[n].shape, n)).sum().item():.17g}}},')
    print("     }},")
print("};")
