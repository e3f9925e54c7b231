#!/usr/bin/env python3
"""A PyTorch training step on a GPU: the peer of bench/step.

    python3 torch_steps.py MODEL PRECISION BATCH eager|compile|reduce-overhead STEPS

prints seconds of a step, bytes of device memory at most, and seconds from the start of this process to the end
of the first step. Data is on the device; a step is forward, backward and fused AdamW. `compile` compiles
model and loss; `reduce-overhead` is torch.compile's mode of that name, with CUDA graphs.
"""
import sys, time

START = time.perf_counter()

import torch
import torch.nn.functional as F
import torch_models

DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16, "transformer-engine": torch.bfloat16}


def main():
    model, precision, batch, how, steps = sys.argv[1:6]
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    low = DTYPES.get(precision)
    make, data, decay = torch_models.MODELS[model]
    net = make().cuda()
    convs = any(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules())
    x, y = (t.cuda() for t in data(int(batch)))
    if convs:
        net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    optimizer = torch_models.adamw(net, decay)
    scaler = torch.amp.GradScaler("cuda", enabled=precision == "16-mixed")

    def loss_of(a, b):
        with torch.autocast("cuda", dtype=low or torch.bfloat16, enabled=low is not None):
            return F.cross_entropy(net(a).flatten(0, -2), b.flatten())

    if how == "compile":
        loss_of = torch.compile(loss_of)
    elif how == "reduce-overhead":
        loss_of = torch.compile(loss_of, mode="reduce-overhead")

    def step():
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss_of(x, y)).backward()
        scaler.step(optimizer)
        scaler.update()

    step()
    torch.cuda.synchronize()
    first = time.perf_counter() - START
    for _ in range(3):
        step()
    times = []
    for _ in range(3):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(int(steps)):
            step()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / int(steps))
    print(f"{sorted(times)[1]:.9f} {torch.cuda.max_memory_reserved()} {first:.3f}")


main()
