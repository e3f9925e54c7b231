#!/usr/bin/env python3
"""Training steps of mpcc beside PyTorch, interleaved in one run.

    python3 bench/vs_torch.py [--threads 2] [--rounds 5] [--build build] [--models M,...]
                              [--precisions P,...] [--against eager,compile] [--out FILE]

Needs torch and a build with -DMPCC_BENCH=ON. A step is forward, backward and AdamW on a fixed batch:
no data loading on either side. Every contender is a process of its own that waits while the others
run; each round runs all of them once; the table gives medians over rounds, the ratio of the best
PyTorch row to mpcc (above 1: mpcc is faster), and how much each process grew by.
"""
import argparse, os, resource, statistics, subprocess, sys, time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NO_CLIP = ["--set", "trainer.gradient_clip_val=null"]
ADAMW = ["--set", "optimizer={type: AdamW, lr: 1e-3}"]
# spec, its overrides, steps a round
MODELS = {
    "mlp": ("bench/mlp.yaml", [], 100),
    "vit": ("bench/vit.yaml", [], 8),
    "lenet": ("specs/lenet5.yaml", [], 100),
    "resnet18": ("specs/resnet18.yaml", ADAMW, 2),
    "vit-ti": ("specs/vit-tiny.yaml",
               ["-D", "image_size=224", "-D", "patch=16", "-D", "batch=8", "-D", "num_classes=1000",
                "--set", "model.expect.parameters=5717416"] + NO_CLIP, 4),
    "resnet50": ("specs/resnet50.yaml", ["--set", "data.loader.batch_size=8"] + ADAMW, 1),
    "mobilenet-v2": ("specs/mobilenet-v2.yaml", ["-D", "batch=8", "-D", "dropout=0.0"] + ADAMW, 2),
    "convnext-tiny": ("specs/convnext-tiny.yaml", ["-D", "batch=4", "-D", "drop=0.0"] + NO_CLIP + ADAMW, 1),
    "lstm-text": ("specs/lstm-text.yaml", NO_CLIP, 3),
    "gpt2-nano": ("specs/gpt2-nano.yaml", NO_CLIP, 3),
    "gpt2-124m": ("specs/gpt2-124m.yaml",
                  ["-D", "block_size=64", "--set", "model.expect.parameters=123702528",
                   "--set", "trainer.accumulate_grad_batches=1"] + NO_CLIP, 2),
}


# ---- PyTorch, in a process of its own: worker MODEL PRECISION eager|compile THREADS

def rss(key):
    for line in open("/proc/self/status"):
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    return 0


def worker(model, precision, how, threads):
    import torch
    import torch.nn as nn
    import torch.nn.functional as F
    import torch_models
    torch.set_num_threads(threads)
    torch.manual_seed(0)

    # A step of something tiny loads PyTorch's libraries and modules: they count for neither side.
    tiny = nn.Linear(8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16-mixed"):
        tiny(torch.rand(8, 8)).sum().backward()
    torch.optim.AdamW(tiny.parameters(), fused=True).step()
    before = rss("VmRSS:")  # weights count, as they do for mpcc
    batch = {"mlp": 128, "vit": 32, "lenet": 64, "resnet18": 32, "resnet50": 8, "mobilenet-v2": 8, "convnext-tiny": 4,
             "lstm-text": 32, "vit-ti": 8, "gpt2-nano": 8, "gpt2-124m": 4}
    make, data, decay = torch_models.MODELS[{"gpt2-124m": "gpt2-124m-64"}.get(model, model)]
    net, (x, y) = make(), data(batch[model])
    optimizer = torch_models.adamw(net, decay)
    smoothing = 0.1 if model == "vit-ti" else 0.0

    def loss_of(a, b):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16-mixed"):
            logits = net(a)
            return F.cross_entropy(logits.flatten(0, -2), b.flatten(), label_smoothing=smoothing)

    if how == "compile":
        loss_of = torch.compile(loss_of)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss_of(x, y).backward()
        optimizer.step()

    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
        print(f"{statistics.median(times):.9f} {rss('VmHWM:') - before}", flush=True)


# ---- the run

class Contender:
    def __init__(self, name, argv, env):
        self.name, self.times, self.memory = name, [], 0
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, env=env)

    def run(self, steps):
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} died")
        seconds, memory = line.split()
        self.memory = int(memory)
        return float(seconds)


def compare(args, model, precision, out):
    image = os.path.join(args.build, f"bench-{model}-{precision}.mpcimg")
    spec, overrides, steps = MODELS[model]
    subprocess.run([os.path.join(args.build, "mpcc"), os.path.join(ROOT, spec), *overrides,
                    "--precision", precision, "--emit=image", "-march=native", "-o", image],
                   check=True)
    env = dict(os.environ, OMP_NUM_THREADS=str(args.threads))
    me = [sys.executable, os.path.abspath(__file__), "--worker", model, precision]
    rows = [Contender("mpcc", [os.path.join(args.build, "bench", "step"), image, str(args.threads)],
                      env)]
    rows += [Contender("torch " + how, me + [how, str(args.threads)], env)
             for how in args.against.split(",")]
    for c in rows:
        c.run(3)  # compile, warm up
    for _ in range(args.rounds):
        for c in rows:
            c.times.append(c.run(steps))
    best = min(rows[1:], key=lambda c: statistics.median(c.times))
    ratios = [b / a for a, b in zip(rows[0].times, best.times)]
    for c in rows:
        print(f"{model:9} {precision:11} {c.name:14} {1e3 * statistics.median(c.times):9.3f} ms "
              f"[{1e3 * min(c.times):.3f} - {1e3 * max(c.times):.3f}] {c.memory / 2**20:9.1f} MiB",
              file=out, flush=True)
        c.process.stdin.close()
        c.process.wait()
    print(f"{model:9} {precision:11} best torch / mpcc: {statistics.median(ratios):.2f} in time, "
          f"{min(c.memory for c in rows[1:]) / max(rows[0].memory, 1):.2f} in memory",
          file=out, flush=True)
    return statistics.median(rows[0].times)


def main():
    if len(sys.argv) > 1 and sys.argv[1] == "--worker":
        return worker(*sys.argv[2:5], int(sys.argv[5]))
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--build", default=os.path.join(ROOT, "build"))
    p.add_argument("--models", default=",".join(MODELS), help=f"of {', '.join(MODELS)}")
    p.add_argument("--precisions", default="32-true,bf16-mixed")
    p.add_argument("--against", default="eager,compile", help="how PyTorch runs: eager, compile")
    p.add_argument("--out")
    args = p.parse_args()
    out = open(args.out, "w") if args.out else sys.stdout
    unknown = set(args.models.split(",")) - set(MODELS)
    if unknown:
        p.error(f"unknown model {', '.join(unknown)}")
    for m in args.models.split(","):
        mine = [compare(args, m, q, out) for q in args.precisions.split(",")]
        if len(mine) == 2:
            print(f"{m:9} {args.precisions.replace(',', ' / ')} of mpcc: {mine[0] / mine[1]:.2f}",
                  file=out, flush=True)


if __name__ == "__main__":
    main()
