#!/usr/bin/env python3
"""Training steps of mpcc beside PyTorch, interleaved in one run.

    python3 bench/vs_torch.py [--threads 2] [--rounds 5] [--build build] [--only M:P] [--out FILE]

Needs torch and a build with -DMPCC_BENCH=ON. A step is forward, backward and AdamW on a fixed batch:
no data loading on either side. Every contender is a process of its own that waits while the others
run; each round runs all of them once; the table gives medians over rounds, the ratio of the best
PyTorch row to mpcc (above 1: mpcc is faster), and how much each process grew by.
"""
import argparse, os, resource, statistics, subprocess, sys, time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
STEPS = {"mlp": 100, "vit": 8}


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
        def __init__(self, w, heads):
            super().__init__()
            self.heads = heads
            self.ln_1, self.ln_2 = nn.LayerNorm(w, eps=1e-6), nn.LayerNorm(w, eps=1e-6)
            self.qkv, self.proj = nn.Linear(w, 3 * w), nn.Linear(w, w)
            self.fc, self.out = nn.Linear(w, 4 * w), nn.Linear(4 * w, w)

        def forward(self, x):
            n, t, w = x.shape
            q, k, v = (y.reshape(n, t, self.heads, -1).transpose(1, 2)
                       for y in self.qkv(self.ln_1(x)).chunk(3, dim=-1))
            y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, w)
            x = x + self.proj(y)
            return x + self.out(F.gelu(self.fc(self.ln_2(x))))

    class Vit(nn.Module):
        def __init__(self, w=192, depth=6, heads=3):
            super().__init__()
            self.conv = nn.Conv2d(3, w, 4, 4)
            self.token = nn.Parameter(torch.zeros(1, 1, w))
            self.pos = nn.Parameter(torch.randn(1, 65, w) * 0.02)
            self.blocks = nn.Sequential(*[Block(w, heads) for _ in range(depth)])
            self.ln, self.head = nn.LayerNorm(w, eps=1e-6), nn.Linear(w, 10)

        def forward(self, x):
            x = self.conv(x).flatten(2).transpose(1, 2)
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.pos
            return self.head(self.ln(self.blocks(x))[:, 0])

    if model == "mlp":
        net = nn.Sequential(nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512),
                            nn.ReLU(), nn.Linear(512, 10))
        x, y = torch.rand(128, 1, 28, 28), torch.randint(0, 10, (128,))
    else:
        net = Vit()
        x, y = torch.rand(32, 3, 32, 32), torch.randint(0, 10, (32,))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
    before = rss("VmRSS:")

    def loss_of(a, b):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16-mixed"):
            return F.cross_entropy(net(a), b)

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
    subprocess.run([os.path.join(args.build, "mpcc"), os.path.join(ROOT, "bench", model + ".yaml"),
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
            c.times.append(c.run(STEPS[model]))
    best = min(rows[1:], key=lambda c: statistics.median(c.times))
    ratios = [b / a for a, b in zip(rows[0].times, best.times)]
    for c in rows:
        print(f"{model:4} {precision:11} {c.name:14} {1e3 * statistics.median(c.times):9.3f} ms "
              f"[{1e3 * min(c.times):.3f} - {1e3 * max(c.times):.3f}] {c.memory / 2**20:9.1f} MiB",
              file=out, flush=True)
        c.process.stdin.close()
        c.process.wait()
    print(f"{model:4} {precision:11} best torch / mpcc: {statistics.median(ratios):.2f} in time, "
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
    p.add_argument("--only", default="", help="model:precision, to run one row of comparisons")
    p.add_argument("--out")
    args = p.parse_args()
    out = open(args.out, "w") if args.out else sys.stdout
    mine = {(m, q): compare(args, m, q, out) for m in STEPS for q in ("32-true", "bf16-mixed")
            if args.only in ("", f"{m}:{q}")}
    if not args.only:
        print(f"vit 32-true / bf16-mixed of mpcc: {mine['vit', '32-true'] / mine['vit', 'bf16-mixed']:.2f}",
              file=out)


main()
