#!/usr/bin/env python3
"""Training steps of one spec in several modes, and watched by --instrument, interleaved in one run.

    python3 bench/modes.py [--threads 2] [--rounds 5] [--build build] [--steps N] [--out FILE]
                           SPEC ROW[,ROW...] [-- OPTION...]

A ROW is MODE, MODE:RECIPE, and with +range, +nan or +time watched so. The first is what the others are
divided by. Options behind -- are mpcc's. A step is forward, backward and optimizer on a fixed batch.
Every row is a process of its own that waits while the others run; medians over rounds.
"""
import argparse, os, statistics, subprocess, sys

from vs_torch import ROOT, Contender


def build(args, mode, recipe, number):
    image = os.path.join(args.build, f"bench-mode-{number}.mpcimg")
    recipes = ["--set", f"precision.recipe.name={recipe}"] if recipe else []
    subprocess.run([os.path.join(args.build, "mpcc"), os.path.join(ROOT, args.spec), "--precision", mode, *recipes,
                    *args.options, "--emit=image", "-march=native", "-o", image], check=True)
    return image


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--build", default=os.path.join(ROOT, "build"))
    p.add_argument("--steps", type=int, default=10)
    p.add_argument("--out", default="-")
    p.add_argument("spec")
    p.add_argument("rows")
    p.add_argument("options", nargs="*")
    args = p.parse_args()
    out = sys.stdout if args.out == "-" else open(args.out, "a")
    rows = []
    for number, row in enumerate(args.rows.split(",")):
        what, _, watch = row.partition("+")
        mode, _, recipe = what.partition(":")
        argv = [os.path.join(args.build, "bench", "step"), build(args, mode, recipe, number), str(args.threads),
                "cpu", watch]
        rows.append(Contender(row, argv, dict(os.environ)))
    for r in rows:
        r.run(2)
    for _ in range(args.rounds):
        for r in rows:
            r.times.append(r.run(args.steps))
    for r in rows:
        ratio = statistics.median(t / b for t, b in zip(r.times, rows[0].times))
        print(f"{os.path.basename(args.spec):18} {r.name:40} {1e3 * statistics.median(r.times):9.3f} ms "
              f"[{1e3 * min(r.times):.3f} - {1e3 * max(r.times):.3f}]  {ratio:.2f}", file=out, flush=True)
        r.process.stdin.close()
        r.process.wait()


if __name__ == "__main__":
    main()
