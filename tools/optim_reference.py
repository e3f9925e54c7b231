#!/usr/bin/env python3
"""Writes tests/unit/optim_reference.h: three parameters after each of eight steps of torch.optim.

usage: tools/optim_reference.py > tests/unit/optim_reference.h   (needs PyTorch; not part of the build)

Lion is not in torch: algorithm 2 of Chen et al. 2023, in float64.
"""
import torch
from torch import optim

STEPS = 8
torch.manual_seed(5)
START = torch.tensor([0.75, -1.25, 0.03125], dtype=torch.float64)
GRADS = (torch.randn(STEPS, 3, dtype=torch.float64)).mul(256).round().div(256)
# where a schedule moves the momentum (OneCycleLR); below 0.5 lerp goes from its other end
MOMENTA = [0.95, 0.9, 0.85, 0.6, 0.4, 0.7, 0.0, 0.95]
RATES = [0.1, 0.1, 0.05, 0.05, 0.2, 0.1, 0.01, 0.3]


class Lion(optim.Optimizer):
    def __init__(self, params, lr, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                update = torch.sign(b1 * m + (1 - b1) * p.grad)
                p.sub_(group["lr"] * (update + group["weight_decay"] * p))
                m.mul_(b2).add_((1 - b2) * p.grad)


CASES = [
    (optim.SGD, {}),
    (optim.SGD, dict(momentum=0.9)),
    (optim.SGD, dict(momentum=0.9, nesterov=True, weight_decay=0.1)),
    (optim.SGD, dict(momentum=0.8, dampening=0.25, maximize=True)),
    (optim.Adam, {}),
    (optim.Adam, dict(betas=(0.8, 0.95), eps=1e-3, weight_decay=0.2)),
    (optim.Adam, dict(amsgrad=True, betas=(0.4, 0.3))),
    (optim.Adam, dict(decoupled_weight_decay=True, weight_decay=0.2, amsgrad=True)),
    (optim.AdamW, dict(weight_decay=0.05)),
    (optim.AdamW, dict(amsgrad=True, betas=(0.9, 0.5), weight_decay=0.0, maximize=True)),
    (optim.SGD, dict(cycle_momentum=True)),
    (optim.SGD, dict(cycle_momentum=True, nesterov=True, momentum=0.5, weight_decay=0.1)),
    (optim.SGD, dict(cycle_momentum=True, dampening=0.25)),
    (optim.Adam, dict(cycle_momentum=True, amsgrad=True, weight_decay=0.2)),
    (optim.AdamW, dict(cycle_momentum=True, weight_decay=0.05)),
    (optim.RMSprop, dict(cycle_momentum=True)),
    (optim.RMSprop, {}),
    (optim.RMSprop, dict(alpha=0.9, momentum=0.5, weight_decay=0.1)),
    (optim.RMSprop, dict(alpha=0.8, centered=True, eps=1e-4)),
    (optim.RMSprop, dict(alpha=0.3, centered=True, momentum=0.25, maximize=True)),
    (optim.Adagrad, {}),
    (optim.Adagrad, dict(lr_decay=0.1, weight_decay=0.05, initial_accumulator_value=0.5)),
    (Lion, {}),
    (Lion, dict(betas=(0.7, 0.8), weight_decay=0.1)),
]


def attributes(options):
    for key, v in options.items():
        if key == "cycle_momentum":
            continue
        if key == "betas":
            yield from (("beta1", v[0]), ("beta2", v[1]))
        else:
            yield key, v


def text(value):
    return ("true" if value else "false") if isinstance(value, bool) else repr(float(value))


def numbers(values):
    return ", ".join(f"{v:.17g}" for v in values)


print(f"/* Made by tools/optim_reference.py with PyTorch {torch.__version__.split('+')[0]}. */")
print(f"enum {{ STEPS = {STEPS} }};")
print(f"static const double start[3] = {{{numbers(START.tolist())}}};")
print(f"static const double rates[STEPS] = {{{numbers(RATES)}}};")
print(f"static const double momenta[STEPS] = {{{numbers(MOMENTA)}}};")
print("static const double slopes[STEPS][3] = {")
for g in GRADS:
    print(f"    {{{numbers(g.tolist())}}},")
print("};\nstatic const struct {\n  const char *optimizer, *attrs;\n  double want[STEPS][3];\n} updates[] = {")
for kind, options in CASES:
    p = torch.nn.Parameter(START.clone())
    cycled = options.get("cycle_momentum", False)
    o = kind([p], lr=1.0, **{k: v for k, v in options.items() if k != "cycle_momentum"})
    attrs = "attr cycle_momentum=true\\n" * cycled
    attrs += "".join(f"attr group.0.{k}={text(v)}\\n" for k, v in attributes(options))
    print(f'    {{"{kind.__name__}",\n     "{attrs}",\n     {{')
    group = o.param_groups[0]
    for g, lr, m in zip(GRADS, RATES, MOMENTA):
        group["lr"] = lr
        if cycled and "betas" in group:
            group["betas"] = (m, group["betas"][1])
        elif cycled:
            group["momentum"] = m
        p.grad = g.clone()
        o.step()
        print(f"         {{{numbers(p.tolist())}}},")
    print("     }},")
print("};")
