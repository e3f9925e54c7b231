#!/usr/bin/env python3
"""Writes attention.want: one head of FP8 attention, and the codes of its operands, of P and of dS, worked
from rule N14 of docs/numerics.md with fractions and 60 digits. Queries and values are multiples of unit
vectors, so that o shows the codes of P and dK those of dS. tests/unit/recipes.c compares. Run in this
folder; needs nothing."""
import random
from decimal import Decimal, getcontext
from fractions import Fraction

getcontext().prec = 60
T, S, D = 5, 9, 16
FORMATS = {"e4m3": (4, 3, 448), "e5m2": (5, 2, 57344)}


def values(name):
    """Magnitudes of a format by code."""
    ebits, mbits, top = FORMATS[name]
    bias, out = 2 ** (ebits - 1) - 1, []
    for code in range(2 ** (ebits + mbits)):
        e, m = code >> mbits, code & (2**mbits - 1)
        v = (Fraction(m, 2**mbits) * Fraction(2) ** (1 - bias) if e == 0
             else (1 + Fraction(m, 2**mbits)) * Fraction(2) ** (e - bias))
        if v <= top:
            out.append(v)
    return out


TABLE = {name: values(name) for name in FORMATS}


def code(v, name):
    """Nearest code, ties to even, saturating."""
    a = abs(v)
    best = min(range(len(TABLE[name])), key=lambda c: (abs(TABLE[name][c] - a), c & 1))
    return best | (0x80 if v < 0 else 0)


def value(c, name):
    return TABLE[name][c & 0x7F] * (-1 if c & 0x80 else 1)


def f32(v):
    """Nearest f32 of a positive or negative fraction in its normal range."""
    e = 0
    while abs(v) >= Fraction(2) ** (e + 1):
        e += 1
    while abs(v) < Fraction(2) ** e:
        e -= 1
    return round(v / Fraction(2) ** (e - 23)) * Fraction(2) ** (e - 23) if v else v


def quantized(x, scale, name):
    return [[code(f32(v * scale), name) if v else 0 for v in row] for row in x]


def exp(v):
    return Fraction((Decimal(v.numerator) / Decimal(v.denominator)).exp())


def write(out, name, rows):
    out.write(name + " " + " ".join(f"{c:02x}" for row in rows for c in row) + "\n")


def main():
    rng = random.Random(14)
    number = lambda most: Fraction(rng.randint(-most * 64, most * 64), 64)
    q = [[Fraction(d == t) for d in range(D)] for t in range(T)]
    k = [[number(24) if d < T else Fraction(0) for d in range(D)] for _ in range(S)]
    v = [[Fraction(d == s) for d in range(D)] for s in range(S)]
    g = [[number(4) for _ in range(D)] for _ in range(T)]
    scale = {"q": Fraction(100), "k": Fraction(18), "v": Fraction(300), "g": Fraction(5000)}
    inverse = {name: f32(1 / s) for name, s in scale.items()}
    codes = {"q": quantized(q, scale["q"], "e4m3"), "k": quantized(k, scale["k"], "e4m3"),
             "v": quantized(v, scale["v"], "e4m3"), "g": quantized(g, scale["g"], "e5m2")}
    dec = {name: [[value(c, "e5m2" if name == "g" else "e4m3") * inverse[name] for c in row] for row in rows]
           for name, rows in codes.items()}
    dot = lambda a, b: sum(x * y for x, y in zip(a, b))
    width, most = Fraction(1, 4), Fraction(57344 * 448 * D)
    shift = 0  # the largest power of two with 3.25 most 2^shift <= 57344
    while Fraction(13, 4) * most * Fraction(2) ** shift > 57344:
        shift -= 1
    unit = inverse["g"] * inverse["v"]
    p_codes, ds_codes = [], []
    for t in range(T):
        e = [exp(width * dot(dec["q"][t], dec["k"][s])) for s in range(S)]
        p = [x / sum(e) for x in e]
        p_codes.append([code(256 * x, "e4m3") for x in p])
        o = [sum(value(c, "e4m3") / 256 * dec["v"][s][d] for s, c in enumerate(p_codes[-1])) for d in range(D)]
        delta = dot(dec["g"][t], o)
        ds = [p[s] * (dot(dec["g"][t], dec["v"][s]) - delta) for s in range(S)]
        ds_codes.append([code(x / unit * Fraction(2) ** shift, "e5m2") for x in ds])
    with open("attention.want", "w") as out:
        out.write(f"sizes {T} {S} {D} {shift}\n")
        for name in "qkvg":
            rows = {"q": q, "k": k, "v": v, "g": g}[name]
            out.write(f"{name} {float(scale[name]):g} " + " ".join(f"{float(x):g}" for r in rows for x in r) + "\n")
            write(out, "codes", codes[name])
        write(out, "p", p_codes)
        write(out, "ds", ds_codes)


main()
