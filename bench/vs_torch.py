#!/usr/bin/env python3
"""Training steps of mpcc beside PyTorch, interleaved in one run.

    python3 bench/vs_torch.py [--threads 2] [--rounds 5] [--build build] [--models M,...]
                              [--precisions P,...] [--out FILE]

Needs torch and a build with -DMPCC_BENCH=ON. A step is forward, backward and AdamW on a fixed batch:
no data loading on either side. Every contender is a process of its own that waits while the others
run; each round runs all of them once; the table gives medians over rounds, the ratio of the best
PyTorch row to mpcc (above 1: mpcc is faster), and how much each process grew by.
"""
import argparse, os, resource, statistics, subprocess, sys, time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NO_CLIP = ["--set", "trainer.gradient_clip_val=null"]
# spec, its overrides, steps a round
MODELS = {
    "mlp": ("bench/mlp.yaml", [], 100),
    "vit": ("bench/vit.yaml", [], 8),
    "lenet": ("specs/lenet5.yaml", [], 100),
    "resnet18": ("specs/resnet18.yaml", ["--set", "optimizer={type: AdamW, lr: 1e-3}"], 2),
    "vit-ti": ("specs/vit-tiny.yaml",
               ["-D", "image_size=224", "-D", "patch=16", "-D", "batch=8", "-D", "num_classes=1000",
                "--set", "model.expect.parameters=5717416"] + NO_CLIP, 4),
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
    torch.set_num_threads(threads)
    torch.manual_seed(0)

    class Block(nn.Module):
        def __init__(self, w, heads, causal=False, eps=1e-6, gelu="none"):
            super().__init__()
            self.heads, self.causal, self.gelu = heads, causal, gelu
            self.ln_1, self.ln_2 = nn.LayerNorm(w, eps=eps), nn.LayerNorm(w, eps=eps)
            self.qkv, self.proj = nn.Linear(w, 3 * w), nn.Linear(w, w)
            self.fc, self.out = nn.Linear(w, 4 * w), nn.Linear(4 * w, w)

        def forward(self, x):
            n, t, w = x.shape
            q, k, v = (y.reshape(n, t, self.heads, -1).transpose(1, 2)
                       for y in self.qkv(self.ln_1(x)).chunk(3, dim=-1))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
            x = x + self.proj(y.transpose(1, 2).reshape(n, t, w))
            return x + self.out(F.gelu(self.fc(self.ln_2(x)), approximate=self.gelu))

    class Vit(nn.Module):
        def __init__(self, size, patch, w, depth, heads, classes):
            super().__init__()
            self.conv = nn.Conv2d(3, w, patch, patch)
            self.token = nn.Parameter(torch.zeros(1, 1, w))
            self.pos = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, w) * 0.02)
            self.blocks = nn.Sequential(*[Block(w, heads) for _ in range(depth)])
            self.ln, self.head = nn.LayerNorm(w, eps=1e-6), nn.Linear(w, classes)

        def forward(self, x):
            x = self.conv(x).flatten(2).transpose(1, 2)
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.pos
            return self.head(self.ln(self.blocks(x))[:, 0])

    class Gpt(nn.Module):
        def __init__(self, vocab, t, w, depth, heads):
            super().__init__()
            self.wte, self.wpe = nn.Embedding(vocab, w), nn.Embedding(t, w)
            self.blocks = nn.Sequential(*[Block(w, heads, True, 1e-5, "tanh")
                                          for _ in range(depth)])
            self.ln, self.head = nn.LayerNorm(w), nn.Linear(w, vocab, bias=False)
            self.head.weight = self.wte.weight

        def forward(self, x):
            x = self.wte(x) + self.wpe(torch.arange(x.shape[1]))
            return self.head(self.ln(self.blocks(x)))

    class Basic(nn.Module):
        def __init__(self, c, o, stride):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(c, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
            self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
            self.down = nn.Sequential() if stride == 1 else nn.Sequential(
                nn.Conv2d(c, o, 1, stride, bias=False), nn.BatchNorm2d(o))

        def forward(self, x):
            y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
            return F.relu(y + self.down(x))

    def resnet18():
        stages, c = [], 64
        for o, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            stages += [Basic(c, o, stride), Basic(o, o, 1)]
            c = o
        return nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
                             *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))

    def lenet():
        return nn.Sequential(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
                             nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                             nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(),
                             nn.Linear(84, 10))

    def mlp():
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512),
                             nn.ReLU(), nn.Linear(512, 10))

    def images(n, c, size, classes):
        return torch.rand(n, c, size, size), torch.randint(0, classes, (n,))

    def tokens(n, t, vocab):
        return torch.randint(0, vocab, (n, t)), torch.randint(0, vocab, (n, t))

    # A step of something tiny loads PyTorch's libraries and modules: they count for neither side.
    tiny = nn.Linear(8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16-mixed"):
        tiny(torch.rand(8, 8)).sum().backward()
    torch.optim.AdamW(tiny.parameters(), fused=True).step()
    before = rss("VmRSS:")  # weights count, as they do for mpcc
    net, (x, y), decay = {
        "mlp": lambda: (mlp(), images(128, 1, 28, 10), 0.01),
        "vit": lambda: (Vit(32, 4, 192, 6, 3, 10), images(32, 3, 32, 10), 0.01),
        "lenet": lambda: (lenet(), images(64, 1, 28, 10), 0.01),
        "resnet18": lambda: (resnet18(), images(32, 3, 32, 10), 0.01),
        "vit-ti": lambda: (Vit(224, 16, 192, 12, 3, 1000), images(8, 3, 224, 1000), 0.05),
        "gpt2-nano": lambda: (Gpt(256, 256, 384, 6, 6), tokens(8, 256, 256), 0.1),
        "gpt2-124m": lambda: (Gpt(50257, 64, 768, 12, 12), tokens(4, 64, 50257), 0.1),
    }[model]()
    groups = [{"params": [p for p in net.parameters() if p.ndim > 1]},
              {"params": [p for p in net.parameters() if p.ndim == 1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, weight_decay=decay, fused=True)
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
             for how in ("eager", "compile")]
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


main()
