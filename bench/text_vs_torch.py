#!/usr/bin/env python3
"""specs/gpt2-nano.yaml trained by mpcc and by PyTorch: validation bits per byte, side by side.

    python3 bench/text_vs_torch.py [--precision MODE] [--steps 300] [--build build] [--out DIR]
                                   [-D NAME=VALUE ...]

Needs torch and numpy. Both sides begin with the weights that `mpcc run --export` writes and get the same
batches: windows of the Debian licence texts, in the order that runtime/data/dataset.c makes of the
spec's seed. An existing DIR/metrics.jsonl is not made again.
"""
import argparse, glob, json, math, os, struct, subprocess, sys, time
import numpy as np
import torch
import torch.nn.functional as F

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests", "train"))
import zoo_models  # noqa: E402

SPEC = os.path.join(ROOT, "specs", "gpt2-nano.yaml")
TEXT = "/usr/share/common-licenses/*"
SIZES = {"n_layer": 6, "n_embd": 384, "n_head": 6, "block_size": 256, "batch": 8}
SEED, SPLIT_SEED, WARMUP, CHECK = 1337, 1, 20, 100
MASK = 2 ** 64 - 1


def mix(z):
    z = (z + 0x9E3779B97F4A7C15) & MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def shuffled(order, seed, stream):
    key = mix(mix(seed) ^ (stream & MASK))
    for i in range(len(order) - 1, 0, -1):
        j = mix(key ^ i) * (i + 1) >> 64
        order[i], order[j] = order[j], order[i]
    return order


def windows(length):
    """Training and validation windows, as data: of the spec splits them."""
    seen, text = set(), b""
    for path in sorted(glob.glob(TEXT)):
        if os.path.realpath(path) not in seen:
            seen.add(os.path.realpath(path))
            text += open(path, "rb").read()
    a = np.frombuffer(text, np.uint8).astype(np.int64)
    n = (len(a) - 1) // length
    order, taken = shuffled(list(range(n)), SPLIT_SEED, -1), int(0.1 * n + 0.5)
    all_of = lambda index: torch.tensor(np.stack([a[i * length:(i + 1) * length + 1] for i in index]))
    return all_of(order[:n - taken]), all_of(order[n - taken:])


def read_safetensors(path):
    with open(path, "rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        data = f.read()
    return {k: torch.frombuffer(bytearray(data[slice(*v["data_offsets"])]), dtype=torch.float32).view(v["shape"])
            for k, v in header.items() if k != "__metadata__"}


def rate(step, steps):
    """Factor of the learning rate: LinearLR from 1 / WARMUP, then CosineAnnealingLR to the end."""
    if step < WARMUP:
        return 1 / WARMUP + (1 - 1 / WARMUP) * step / WARMUP
    return (1 + math.cos(math.pi * (step - WARMUP) / max(1, steps - WARMUP))) / 2


def by_torch(weights, mode, steps, s):
    """{step: training loss}, {step: validation loss}"""
    w = {k: v.clone().requires_grad_() for k, v in weights.items()}
    groups = [{"params": [v for v in w.values() if v.ndim == 1], "weight_decay": 0.0},
              {"params": [v for v in w.values() if v.ndim > 1], "weight_decay": 0.1}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: rate(i, steps))
    train, val = windows(s["block_size"])

    def loss_of(x, reduction="mean"):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mode == "bf16-mixed"):
            logits = zoo_models.gpt2(lambda name, *shape: w[name], x[:, :-1], s)
        return F.cross_entropy(logits.float().flatten(0, 1), x[:, 1:].flatten(), reduction=reduction)

    def evaluate():
        with torch.no_grad():
            return sum(loss_of(x, "sum").item() for x in val.split(s["batch"])) / val[:, 1:].numel()

    losses, checks, epoch, step = {}, {}, 0, 0
    while step < steps:
        for index in torch.tensor(shuffled(list(range(len(train))), SEED, epoch)).split(s["batch"]):
            loss = loss_of(train[index])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(w.values(), 1.0)
            optimizer.step()
            schedule.step()
            step += 1
            losses[step] = loss.item()
            if step % CHECK == 0 or step == steps:
                checks[step] = evaluate()
                print(f"torch: step {step}, val loss {checks[step]:.4f}", flush=True)
            if step == steps:
                break
        epoch += 1
    return losses, checks


def by_mpcc(args, out):
    command = [os.path.join(args.build, "mpcc"), "run", SPEC, "--precision", args.precision,
               "--set", f"trainer.max_steps={args.steps}",
               "--set", f"trainer.val_check_interval={min(CHECK, args.steps)}"] + [x for d in args.define for x in ("-D", d)]
    start = os.path.join(out, "initial.safetensors")
    subprocess.run(command + ["--export", start, "--out", out + "-export"], check=True)
    if not os.path.exists(os.path.join(out, "metrics.jsonl")):
        subprocess.run(command + ["--out", out], check=True)
    rows = [json.loads(line) for line in open(os.path.join(out, "metrics.jsonl"))]
    return (read_safetensors(start), {r["step"]: r["loss"] for r in rows if "split" not in r},
            {r["step"]: r["loss"] for r in rows if r.get("split") == "val"})


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--precision", default="32-true", choices=["32-true", "bf16-mixed"])
    p.add_argument("--steps", type=int, default=300)
    p.add_argument("--build", default=os.path.join(ROOT, "build"))
    p.add_argument("--out", default=None)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("-D", dest="define", action="append", default=[])
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    sizes = dict(SIZES, **{k: int(v) for k, v in (d.split("=") for d in args.define)})
    out = args.out or os.path.join("runs", "text-vs-torch-" + args.precision)
    os.makedirs(out, exist_ok=True)
    weights, losses, checks = by_mpcc(args, out)
    start = time.time()
    torch_losses, torch_checks = by_torch(weights, args.precision, args.steps, sizes)
    print(f"torch: {time.time() - start:.0f} s")
    for step, loss in losses.items():
        print(f"step {step}: training loss {loss:.4f}, PyTorch {torch_losses[step]:.4f}")
    for step, loss in checks.items():
        print(f"step {step}: validation bits per byte {loss / math.log(2):.4f}, "
              f"PyTorch {torch_checks[step] / math.log(2):.4f}")


if __name__ == "__main__":
    main()
