#!/usr/bin/env python3
"""Prints the tables of tests/unit/schedule.c: 50 learning rates of torch.optim.lr_scheduler each.

usage: tools/lr_reference.py   (needs PyTorch; not part of the build)
"""
import warnings

import torch
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, SequentialLR

STEPS, BASE = 50, 0.3

CASES = {
    "constant": lambda o: ConstantLR(o, factor=0.25, total_iters=7),
    "linear": lambda o: LinearLR(o, start_factor=0.1, end_factor=0.9, total_iters=20),
    "cosine": lambda o: CosineAnnealingLR(o, T_max=30, eta_min=0.02),
    "cosine_auto": lambda o: CosineAnnealingLR(o, T_max=STEPS),
    "sequential": lambda o: SequentialLR(
        o,
        [
            LinearLR(o, start_factor=0.01, end_factor=1.0, total_iters=10),
            ConstantLR(o, factor=0.5, total_iters=8),
            CosineAnnealingLR(o, T_max=20),
        ],
        milestones=[10, 30],
    ),
    "warmup_rates": lambda o: SequentialLR(
        o,
        [
            LinearLR(o, start_factor=1 / 9, end_factor=1.0, total_iters=9),
            CosineAnnealingLR(o, T_max=STEPS - 9),
        ],
        milestones=[9],
    ),
}


def rates(make):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=BASE)
    scheduler = make(optimizer)
    for _ in range(STEPS):
        yield optimizer.param_groups[0]["lr"]
        optimizer.step()
        scheduler.step()


warnings.simplefilter("ignore")
print(f"/* PyTorch {torch.__version__.split('+')[0]} */")
for name, make in CASES.items():
    words = [f"{float(rate):.15g}" for rate in rates(make)]
    print(f"static const double {name}[STEPS] = {{")
    for i in range(0, STEPS, 5):
        print("    " + ", ".join(words[i : i + 5]) + ("" if i + 5 == STEPS else ","))
    print("};")
