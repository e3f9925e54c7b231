#!/usr/bin/env python3
"""Writes tests/unit/schedule_reference.h: 200 learning rates of torch.optim.lr_scheduler each.

usage: tools/lr_reference.py > tests/unit/schedule_reference.h   (needs PyTorch; not part of the build)

WSD is not in torch: its definition (docs/spec.md) runs as LambdaLR's lambda.
"""
import json
import math
import warnings

import torch
from torch.optim import lr_scheduler as S

STEPS, BASE = 200, 0.3


def wsd(warm, stable, decay, kind, ratio):
    def factor(t):
        if t < warm:
            x = t / warm
        elif t < warm + stable:
            return 1.0
        else:
            p = min((t - warm - stable) / decay, 1.0)
            x = {"cosine": 0.5 * (1 + math.cos(math.pi * p)), "linear": 1 - p, "1-sqrt": 1 - math.sqrt(p)}[kind]
        return x * (1 - ratio) + ratio

    return factor


def sequential(o):
    return S.SequentialLR(
        o,
        [S.LinearLR(o, 0.01, 1.0, 10), S.ConstantLR(o, 0.5, 8), S.CosineAnnealingLR(o, 20)],
        milestones=[10, 30],
    )


def chain(o):
    parts = [S.PolynomialLR(o, 60, 2.0), S.StepLR(o, 7, 0.5), S.ExponentialLR(o, 0.97)]
    return S.SequentialLR(o, parts, milestones=[50, 120])


CASES = [
    ({"type": "ConstantLR", "factor": 0.25, "total_iters": 7}, lambda o: S.ConstantLR(o, 0.25, 7)),
    ({"type": "LinearLR", "start_factor": 0.1, "end_factor": 0.9, "total_iters": 20}, lambda o: S.LinearLR(o, 0.1, 0.9, 20)),
    ({"type": "StepLR", "step_size": 30, "gamma": 0.1}, lambda o: S.StepLR(o, 30)),
    ({"type": "StepLR", "step_size": 7, "gamma": 0.8}, lambda o: S.StepLR(o, 7, 0.8)),
    ({"type": "MultiStepLR", "milestones": [20, 20, 90, 150], "gamma": 0.3}, lambda o: S.MultiStepLR(o, [20, 20, 90, 150], 0.3)),
    ({"type": "ExponentialLR", "gamma": 0.98}, lambda o: S.ExponentialLR(o, 0.98)),
    ({"type": "PolynomialLR", "total_iters": 5, "power": 1.0}, lambda o: S.PolynomialLR(o)),
    ({"type": "PolynomialLR", "total_iters": 170, "power": 0.9}, lambda o: S.PolynomialLR(o, 170, 0.9)),
    ({"type": "CosineAnnealingLR", "T_max": 30, "eta_min": 0.02}, lambda o: S.CosineAnnealingLR(o, 30, 0.02)),
    ({"type": "CosineAnnealingLR", "T_max": "auto", "eta_min": 0.0}, lambda o: S.CosineAnnealingLR(o, STEPS)),
    ({"type": "CosineAnnealingWarmRestarts", "T_0": 25, "T_mult": 1, "eta_min": 0.0}, lambda o: S.CosineAnnealingWarmRestarts(o, 25)),
    ({"type": "CosineAnnealingWarmRestarts", "T_0": 9, "T_mult": 2, "eta_min": 0.02}, lambda o: S.CosineAnnealingWarmRestarts(o, 9, 2, 0.02)),
    ({"type": "OneCycleLR", "max_lr": 0.4, "total_steps": "auto", "pct_start": 0.3, "anneal_strategy": "cos", "div_factor": 25.0, "final_div_factor": 10000.0, "three_phase": False, "cycle_momentum": True},
     lambda o: S.OneCycleLR(o, 0.4, STEPS)),
    ({"type": "OneCycleLR", "max_lr": 0.4, "total_steps": 200, "pct_start": 0.21, "anneal_strategy": "linear", "div_factor": 10.0, "final_div_factor": 100.0, "three_phase": True, "cycle_momentum": True, "base_momentum": 0.8, "max_momentum": 0.9},
     lambda o: S.OneCycleLR(o, 0.4, 200, pct_start=0.21, anneal_strategy="linear", div_factor=10, final_div_factor=100, three_phase=True, base_momentum=0.8, max_momentum=0.9)),
    ({"type": "SequentialLR", "milestones": [10, 30], "schedulers": [
        {"type": "LinearLR", "start_factor": 0.01, "end_factor": 1.0, "total_iters": 10},
        {"type": "ConstantLR", "factor": 0.5, "total_iters": 8},
        {"type": "CosineAnnealingLR", "T_max": 20, "eta_min": 0.0}]}, sequential),
    ({"type": "SequentialLR", "milestones": [50, 120], "schedulers": [
        {"type": "PolynomialLR", "total_iters": 60, "power": 2.0},
        {"type": "StepLR", "step_size": 7, "gamma": 0.5},
        {"type": "ExponentialLR", "gamma": 0.97}]}, chain),
    # what the frontend makes of {warmup_steps: 9, type: CosineAnnealingLR, T_max: auto}
    ({"type": "SequentialLR", "interval": "step", "milestones": [9], "schedulers": [
        {"type": "LinearLR", "start_factor": 1 / 9, "end_factor": 1.0, "total_iters": 9},
        {"type": "CosineAnnealingLR", "T_max": "auto", "eta_min": 0.0}]},
     lambda o: S.SequentialLR(o, [S.LinearLR(o, 1 / 9, 1.0, 9), S.CosineAnnealingLR(o, STEPS - 9)], milestones=[9])),
    ({"type": "WSD", "num_warmup_steps": 20, "num_decay_steps": 50, "decay_type": "cosine", "min_lr_ratio": 0.1},
     lambda o: S.LambdaLR(o, wsd(20, 130, 50, "cosine", 0.1))),
    ({"type": "WSD", "num_warmup_steps": 0, "num_stable_steps": 60, "num_decay_steps": 80, "decay_type": "1-sqrt", "min_lr_ratio": 0.0},
     lambda o: S.LambdaLR(o, wsd(0, 60, 80, "1-sqrt", 0.0))),
]

PLATEAU = [
    ({"mode": "min", "factor": 0.1, "patience": 10, "threshold": 1e-4, "threshold_mode": "rel", "cooldown": 0, "min_lr": 0.0, "eps": 1e-8}, 0.0),
    ({"mode": "min", "factor": 0.5, "patience": 2, "threshold": 0.01, "threshold_mode": "rel", "cooldown": 3, "min_lr": 0.01, "eps": 1e-8}, 0.0),
    ({"mode": "max", "factor": 0.3, "patience": 1, "threshold": 0.02, "threshold_mode": "abs", "cooldown": 0, "min_lr": 0.0, "eps": 1e-3}, 0.0),
]


def optimizer(momentum=0.0):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=BASE, momentum=momentum)


def course(make, key, momentum=0.0):
    """A number of the optimizer's group in each step."""
    o = optimizer(momentum)
    scheduler = make(o)
    for i in range(STEPS):
        yield float(o.param_groups[0][key])
        o.step()
        if i + 1 < STEPS:
            scheduler.step()


def table(values, digits=15):
    words = [f"{v:.{digits}g}" for v in values]
    return ",\n     ".join(", ".join(words[i : i + 8]) for i in range(0, len(words), 8))


def quoted(config):
    return json.dumps(json.dumps(config))


warnings.simplefilter("ignore")
print(f"/* Made by tools/lr_reference.py with PyTorch {torch.__version__.split('+')[0]}. */")
print(f"enum {{ STEPS = {STEPS}, CHECKS = 60 }};")
for what, key, cases in (
    ("schedules", "lr", CASES),
    ("momenta", "momentum", [c for c in CASES if "cycle_momentum" in c[0]]),
):
    print(f"static const struct {{\n  const char *scheduler;\n  double want[STEPS];\n}} {what}[] = {{")
    for config, make in cases:
        print(f"    {{{quoted(config)},\n     {{{table(list(course(make, key)))}}}}},")
    print("};")
torch.manual_seed(1)
metric = (torch.cumsum(torch.randn(60, dtype=torch.float64) * 0.05, 0) + torch.linspace(1.5, 1.0, 60, dtype=torch.float64)).tolist()
metric[40] = float("nan")
print("/* a metric, and the rate after each value of it */")
print("static const double metric[CHECKS] = {\n     " + table(metric, 17).replace("nan", "NAN") + "};")
print("static const struct {\n  const char *scheduler;\n  double want[CHECKS];\n} plateaus[] = {")
for config, _ in PLATEAU:
    o = optimizer()
    s = S.ReduceLROnPlateau(o, **config)
    got = []
    for v in metric:
        s.step(v)
        got.append(o.param_groups[0]["lr"])
    print(f"    {{{quoted(dict(type='ReduceLROnPlateau', **config))},\n     {{{table(got)}}}}},")
print("};")
