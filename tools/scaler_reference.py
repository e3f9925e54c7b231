#!/usr/bin/env python3
"""Writes tests/unit/scaler_reference.h: torch.amp.GradScaler's scale and growth tracker, step by step.

usage: tools/scaler_reference.py > tests/unit/scaler_reference.h   (needs PyTorch; not part of the build)

Steps with an infinite gradient are chosen by a fixed sequence of bits.
"""
import random

import torch

STEPS = 40
SETTINGS = [
    dict(init_scale=65536.0, growth_factor=2.0, backoff_factor=0.5, growth_interval=2000),
    dict(init_scale=65536.0, growth_factor=2.0, backoff_factor=0.5, growth_interval=4),
    dict(init_scale=3.0, growth_factor=1.7, backoff_factor=0.3, growth_interval=2),
    dict(init_scale=1e38, growth_factor=2.0, backoff_factor=0.5, growth_interval=1),
    dict(init_scale=1024.0, growth_factor=1.5, backoff_factor=0.75, growth_interval=3),
]

print(f"/* Made by tools/scaler_reference.py with PyTorch {torch.__version__.split('+')[0]}. */")
print(f"enum {{ TRACE = {STEPS} }};")
print("static const struct {\n  double init_scale, growth, backoff, interval;\n  int found[TRACE];\n"
      "  double scale[TRACE], tracker[TRACE];\n} traces[] = {")
for i, setting in enumerate(SETTINGS):
    rng = random.Random(i)
    found = [int(rng.random() < (0.5 if i == 0 else 0.2)) for _ in range(STEPS)]
    p = torch.nn.Parameter(torch.ones(3))
    o = torch.optim.SGD([p], lr=0.0)
    scaler = torch.amp.GradScaler("cpu", **setting)
    scales, trackers = [], []
    for bad in found:
        o.zero_grad()
        scaler.scale((p * p).sum()).backward()
        if bad:
            p.grad[1] = float("inf")
        else:
            p.grad.fill_(1.0)
        scaler.step(o)
        scaler.update()
        scales.append(scaler.get_scale())
        trackers.append(scaler._get_growth_tracker())
    print(f"    {{{setting['init_scale']!r}, {setting['growth_factor']}, {setting['backoff_factor']}, {setting['growth_interval']},")
    print(f"     {{{', '.join(map(str, found))}}},")
    print(f"     {{{', '.join(f'{v:.9g}' for v in scales)}}},")
    print(f"     {{{', '.join(map(str, trackers))}}}}},")
print("};")
