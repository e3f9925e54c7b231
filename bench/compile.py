#!/usr/bin/env python3
"""Compile time and start-up, beside their goals.

  python3 bench/compile.py [MPCC] [--cuda]      default build/mpcc; about a minute, on an idle machine

bench/vit.yaml is compiled for one level (x86-64-v3) with 6 and with 48 layers, cold (--no-cache) and
from the cache of kernels, interleaved; medians of wall and CPU seconds. Then the time from the start of
the built fashion-mlp to the line of its first step, data read and all. --cuda: GPT-2 124M for one GPU
generation (sm_90) instead, with 12 and with 48 layers; needs NVRTC.
"""

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
WORDS = [a for a in sys.argv[1:] if a != "--cuda"]
CUDA = len(WORDS) < len(sys.argv) - 1
MPCC = os.path.abspath(WORDS[0] if WORDS else os.path.join(ROOT, "build/mpcc"))
SPEC = os.path.join(HERE, "vit.yaml")
ROUNDS = 9


def timed(args, cwd):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run(args, cwd=cwd, check=True)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu


def compile_args(depth, cached):
    cache = ["--cache-dir=cache"] if cached else ["--no-cache"]
    return [MPCC, SPEC, "-D", f"depth={depth}", "-march=x86-64-v3", "-o", f"vit{depth}", *cache]


def gpt2_args(depth, cached):
    cache = ["--cache-dir=cache"] if cached else ["--no-cache"]
    return [MPCC, os.path.join(ROOT, "specs/gpt2-124m.yaml"), "-D", f"n_layer={depth}", "--set",
            "model.expect.parameters=null", "--precision", "bf16-mixed", "--target=cuda",
            "--gpu-arch=sm_90", "--emit=image", "-o", f"gpt2-{depth}.img", *cache]


def gpt2(folder):
    kinds = [(depth, cached) for cached in (False, True) for depth in (12, 48)]
    times = {kind: [] for kind in kinds}
    timed(gpt2_args(12, True), folder)  # fills the cache
    timed(gpt2_args(48, True), folder)
    for _ in range(3):
        for kind in kinds:
            times[kind].append(timed(gpt2_args(*kind), folder))
    print("medians of 3, seconds; specs/gpt2-124m.yaml, bf16-mixed, sm_90")
    for depth, cached in kinds:
        wall, cpu = (statistics.median(t[k] for t in times[depth, cached]) for k in (0, 1))
        what = f"{'from the cache' if cached else 'cold'}, {depth} layers"
        report(what + ", wall", wall, 0.2 if cached else 5)
        report(what + ", CPU", cpu, None)


def first_step(program, cwd):
    start = time.perf_counter()
    run = subprocess.Popen([program, "--max-steps", "1", "--log-every", "1", "--out", "run"], cwd=cwd,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seconds = None
    for line in run.stdout:
        if seconds is None and "step 1/" in line:
            seconds = time.perf_counter() - start
    if run.wait() or seconds is None:
        sys.exit("the program did not train one step")
    shutil.rmtree(os.path.join(cwd, "run"))
    return seconds


def report(what, seconds, goal):
    verdict = "" if goal is None else f"   goal {goal:4.2f}   {'met' if seconds <= goal else 'MISSED'}"
    print(f"{what:44s} {seconds:6.3f}{verdict}")


def main():
    folder = tempfile.mkdtemp(prefix="mpcc-bench-")
    try:
        if CUDA:
            return gpt2(folder)
        kinds = [(depth, cached) for cached in (False, True) for depth in (6, 48)]
        for depth, cached in kinds:  # fills the cache, and the machine's own
            timed(compile_args(depth, cached), folder)
        times = {kind: [] for kind in kinds}
        for _ in range(ROUNDS):
            for kind in kinds:
                times[kind].append(timed(compile_args(*kind), folder))
        wall = {k: statistics.median(t[0] for t in v) for k, v in times.items()}
        cpu = {k: statistics.median(t[1] for t in v) for k, v in times.items()}
        print(f"medians of {ROUNDS}, seconds; bench/vit.yaml, one level")
        report("cold, 6 layers, wall", wall[6, False], 2)
        report("cold, 48 layers, wall", wall[48, False], None)
        report("  48 to 6 layers, wall", wall[48, False] / wall[6, False], 1.3)
        report("cold, 6 layers, CPU", cpu[6, False], None)
        report("cold, 48 layers, CPU", cpu[48, False], None)
        report("  48 to 6 layers, CPU", cpu[48, False] / cpu[6, False], 1.3)
        report("from the cache, 6 layers, wall", wall[6, True], 0.2)
        report("from the cache, 48 layers, wall", wall[48, True], 0.2)
        for depth in (6, 48):
            size = os.path.getsize(os.path.join(folder, f"vit{depth}")) / 2**20
            report(f"built program, {depth} layers, MiB", size, 2)
        mlp = os.path.join(folder, "mlp")
        subprocess.run([MPCC, os.path.join(ROOT, "specs/fashion-mlp.yaml"), "-o", mlp], check=True)
        report("fashion-mlp, start to first step", statistics.median(
            first_step(mlp, folder) for _ in range(ROUNDS)), 0.2)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
