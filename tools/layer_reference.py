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


def fill(shape, name):
    n = 1
    for d in shape:
        n *= d
    k = sum(name.encode())
    v = [((i * 7919 + k * 104729) % 2003) / 1001.0 - 1 for i in range(n)]
    return torch.tensor(v, dtype=torch.float64).reshape(shape)


def param(name, shape):
    return "{name: %s, type: Parameter, shape: %s}" % (name, list(shape))


CASES = []  # (layers text behind the Parameters, {name: shape of a tensor}, f(tensors, train) -> y, buffers)


def case(text, shapes, f, buffers=(), given=("x",)):
    CASES.append((text, shapes, f, dict(buffers), given))


IMG = (2, 6, 4, 5)
case("{name: y, GroupNorm: 3}", {"x": IMG, "y.weight": (6,), "y.bias": (6,)},
     lambda t, train: F.group_norm(t["x"], 3, t["y.weight"], t["y.bias"]))
case("{name: y, GroupNorm: 2, affine: false, eps: 0.1}", {"x": (2, 6, 7)},
     lambda t, train: F.group_norm(t["x"], 2, eps=0.1))
case("{name: y, GroupNorm: 2}", {"x": (2, 6), "y.weight": (6,), "y.bias": (6,)},
     lambda t, train: F.group_norm(t["x"], 2, t["y.weight"], t["y.bias"]))
case("{name: y, InstanceNorm2d: 6}", {"x": IMG}, lambda t, train: F.instance_norm(t["x"]))
case("{name: y, type: InstanceNorm2d, affine: true, track_running_stats: true, momentum: 0.3}",
     {"x": IMG, "y.weight": (6,), "y.bias": (6,)},
     lambda t, train: F.instance_norm(t["x"], t["y.running_mean"], t["y.running_var"], t["y.weight"],
                                      t["y.bias"], train, 0.3),
     {"y.running_mean": torch.zeros(6, dtype=torch.float64), "y.running_var": torch.ones(6, dtype=torch.float64)})

#CASES_END


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
            print(f'      {{"grad.{n}", {(t[n].grad * fill(shapes[n], "grad." + n)).sum().item():.17g}}},')
    for n in buffers:
        print(f'      {{"{n}", {(t[n] * fill(t[n].shape, n)).sum().item():.17g}}},')
    print("     }},")
print("};")
