#!/usr/bin/env python3
"""Writes tests/unit/loss_reference.h: losses of torch.nn and their gradients.

usage: tools/loss_reference.py > tests/unit/loss_reference.h   (needs PyTorch; not part of the build)

Each case: the spec's text, number of real samples of the batch of 4, loss, gradient of the logits
[5, 4] (classes first) and, where it is used, of the second output.
"""
import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(3)
X = (torch.randn(4, 5, dtype=torch.float64) * 1.5).mul(1024).round().div(1024)
Y = torch.rand(4, 5, dtype=torch.float64).mul(1024).round().div(1024)
T = torch.tensor([2, 0, 4, 2])
POS = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.5], dtype=torch.float64)
W = torch.tensor([0.5, 1.0, 2.0, 1.0, 0.25], dtype=torch.float64)
P = "inputs: {input: logits, target: image}"

CASES = [
    ("{type: CrossEntropyLoss, label_smoothing: 0.1}", 4, lambda x, y, t: nn.CrossEntropyLoss(label_smoothing=0.1)(x, t)),
    ("{type: CrossEntropyLoss, reduction: sum}", 4, lambda x, y, t: nn.CrossEntropyLoss(reduction="sum")(x, t)),
    ("{type: CrossEntropyLoss, ignore_index: 2}", 3, lambda x, y, t: nn.CrossEntropyLoss(ignore_index=2)(x, t)),
    ("{type: CrossEntropyLoss, weight: [0.5, 1, 2, 1, 0.25]}", 4, lambda x, y, t: nn.CrossEntropyLoss(weight=W)(x, t)),
    ("{type: CrossEntropyLoss, weight: [0.5, 1, 2, 1, 0.25], label_smoothing: 0.2, ignore_index: 2}", 3,
     lambda x, y, t: nn.CrossEntropyLoss(weight=W, label_smoothing=0.2, ignore_index=2)(x, t)),
    ("{type: CrossEntropyLoss, weight: [0.5, 1, 2, 1, 0.25], reduction: sum}", 3,
     lambda x, y, t: nn.CrossEntropyLoss(weight=W, reduction="sum")(x, t)),
    ("{type: NLLLoss, weight: [0.5, 1, 2, 1, 0.25], ignore_index: 0}", 4,
     lambda x, y, t: nn.NLLLoss(weight=W, ignore_index=0)(x, t)),
    ("[{type: CrossEntropyLoss, weight: [0.5, 1, 2, 1, 0.25], ignore_index: 0}, {type: MSELoss, %s, factor: 0.25}]" % P, 3,
     lambda x, y, t: nn.CrossEntropyLoss(weight=W, ignore_index=0)(x, t) + 0.25 * nn.MSELoss()(x, y)),
    ("{type: NLLLoss}", 4, lambda x, y, t: nn.NLLLoss()(x, t)),
    ("{type: NLLLoss, ignore_index: 0, reduction: sum}", 3, lambda x, y, t: nn.NLLLoss(ignore_index=0, reduction="sum")(x, t)),
    ("{type: MSELoss, %s}" % P, 4, lambda x, y, t: nn.MSELoss()(x, y)),
    ("{type: MSELoss, %s, reduction: sum}" % P, 3, lambda x, y, t: nn.MSELoss(reduction="sum")(x, y)),
    ("{type: L1Loss, %s}" % P, 3, lambda x, y, t: nn.L1Loss()(x, y)),
    ("{type: SmoothL1Loss, %s, beta: 0.5}" % P, 4, lambda x, y, t: nn.SmoothL1Loss(beta=0.5)(x, y)),
    ("{type: SmoothL1Loss, %s, beta: 0}" % P, 4, lambda x, y, t: nn.SmoothL1Loss(beta=0)(x, y)),
    ("{type: HuberLoss, %s, delta: 0.75}" % P, 3, lambda x, y, t: nn.HuberLoss(delta=0.75)(x, y)),
    ("{type: BCEWithLogitsLoss, %s}" % P, 4, lambda x, y, t: nn.BCEWithLogitsLoss()(x, y)),
    ("{type: BCEWithLogitsLoss, %s, pos_weight: [1, 2, 0.5, 3, 1.5], weight: [0.5, 1, 2, 1, 0.25]}" % P, 3,
     lambda x, y, t: nn.BCEWithLogitsLoss(pos_weight=POS, weight=W)(x, y)),
    ("{type: KLDivLoss, %s}" % P, 4, lambda x, y, t: nn.KLDivLoss(reduction="mean")(x, y)),
    ("{type: KLDivLoss, %s, reduction: batchmean}" % P, 3, lambda x, y, t: nn.KLDivLoss(reduction="batchmean")(x, y)),
    ("{type: KLDivLoss, %s, reduction: sum, log_target: true}" % P, 4,
     lambda x, y, t: nn.KLDivLoss(reduction="sum", log_target=True)(x, y)),
    ("{expr: (a - b) * (a - b) * sigmoid(a), inputs: {a: logits, b: image}}", 3,
     lambda x, y, t: ((x - y) ** 2 * torch.sigmoid(x)).mean()),
    ("[{type: L1Loss, %s, reduction: sum, factor: 0.5}, {type: HuberLoss, %s}, {type: NLLLoss, factor: 3, reduction: sum}]"
     % (P, P), 4,
     lambda x, y, t: 0.5 * nn.L1Loss(reduction="sum")(x, y) + nn.HuberLoss()(x, y) + 3 * nn.NLLLoss(reduction="sum")(x, t)),
]


def row(values):
    return ",\n      ".join(", ".join(f"{v:.17g}" for v in values[i : i + 4]) for i in range(0, len(values), 4))


print(f"/* Made by tools/loss_reference.py with PyTorch {torch.__version__.split('+')[0]}. */")
for name, v in (("logits", X), ("image", Y)):
    print(f"static const double {name}[20] = {{\n      {row(v.flatten().tolist())}}};")
print(f"static const double label[4] = {{{', '.join(map(str, T.tolist()))}}};")
print("static const struct {\n  const char *loss;\n  int valid;\n  double value, slope[20];\n} losses[] = {")
for text, valid, f in CASES:
    x = X.clone().requires_grad_()
    loss = f(x[:valid], Y[:valid], T[:valid])
    loss.backward()
    print(f'    {{"{text}",\n     {valid}, {loss.item():.17g}, {{\n      {row(x.grad.flatten().tolist())}}}}},')
print("};")
