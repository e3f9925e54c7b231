#!/usr/bin/env python3
"""Writes recipes.want: matrices, and the codes and scales that each recipe makes of them. Worked from the
definitions in docs/numerics.md with exact fractions: formats are tables of their values, and rounding
is a search in them. tests/unit/recipes.c compares. Run in this folder; needs nothing."""
import bisect
import random
import struct
from fractions import Fraction

NAN, INF = float("nan"), float("inf")
F32_MAX = Fraction(struct.unpack("<f", struct.pack("<I", 0x7F7FFFFF))[0])


def f32(v):
    """Nearest f32 of a fraction, ties to even; infinities and NaN stay."""
    if isinstance(v, float):
        return v
    if v == 0:
        return Fraction(0)
    a, e = abs(v), 0
    while a >= 2 ** (e + 1):
        e += 1
    while a < Fraction(2) ** e:
        e -= 1
    unit = Fraction(2) ** (max(e, -126) - 23)
    r = round(a / unit) * unit  # round() of a Fraction goes to even on ties
    if r > F32_MAX:
        return INF if v > 0 else -INF
    return r if v > 0 else -r


def table(ebits, mbits, top):
    """Magnitudes of a format by code, up to the largest finite one."""
    bias, values = 2 ** (ebits - 1) - 1, []
    for code in range(2 ** (ebits + mbits)):
        e, m = code >> mbits, code & (2**mbits - 1)
        v = (Fraction(m, 2**mbits) * Fraction(2) ** (1 - bias) if e == 0
             else (1 + Fraction(m, 2**mbits)) * Fraction(2) ** (e - bias))
        if v <= top:
            values.append(v)
    return values


FORMATS = {"e4m3": (table(4, 3, 448), 0x80, 0x7F), "e5m2": (table(5, 2, 57344), 0x80, 0x7F),
           "e2m1": (table(2, 1, 6), 8, 7)}
E8M0 = [Fraction(2) ** (c - 127) for c in range(255)]


def encode(v, fmt, negative):
    """Code of v, saturating; negative: sign of a zero."""
    values, sign, nan = FORMATS[fmt]
    if isinstance(v, float):
        return nan if v != v else (len(values) - 1) | (sign if v < 0 else 0)
    a = abs(v)
    i = bisect.bisect_left(values, a)
    if i == len(values):
        code = i - 1
    elif values[i] == a:
        code = i
    else:
        low, high = a - values[i - 1], values[i] - a
        code = i - 1 if low < high or (low == high and (i - 1) % 2 == 0) else i
    return code | (sign if v < 0 or (v == 0 and negative) else 0)


def is_nan(v):
    return isinstance(v, float) and v != v


def is_inf(v):
    return isinstance(v, float) and abs(v) == INF


def amax(values):
    most = Fraction(0)
    for v in values:
        if is_nan(v):
            return NAN
        if is_inf(v) or is_inf(most):
            most = INF
        else:
            most = max(most, abs(v))
    return most


def times(a, b):
    """f32 product."""
    if is_nan(a) or is_nan(b):
        return NAN
    if is_inf(a) or is_inf(b):
        if a == 0 or b == 0:
            return NAN
        return INF if (a > 0) == (b > 0) else -INF
    return f32(a * b)


def over(a, b):
    """f32 quotient of numbers that are not negative."""
    if is_nan(a) or is_nan(b) or (is_inf(a) and is_inf(b)) or (a == 0 and b == 0):
        return NAN
    if is_inf(b):
        return Fraction(0)
    if is_inf(a) or b == 0:
        return INF
    return f32(a / b)


def finite(v):
    return F32_MAX if isinstance(v, float) else v


def e8m0_up(v):
    if is_nan(v):
        return 255
    return 254 if is_inf(v) or v > E8M0[254] else bisect.bisect_left(E8M0, v)


def scale(kind, a, top, tensor):
    """(what x is multiplied by, what is stored of it)"""
    one = Fraction(1)
    if kind == "e8m0":
        code = e8m0_up(times(a, f32(one / top)))
        return (NAN if code == 255 else f32(1 / E8M0[code])), code
    if kind == "e4m3":
        code = encode(times(a, over(tensor, Fraction(top))), "e4m3", False)
        d = NAN if code == 0x7F else FORMATS["e4m3"][0][code]
        return finite(over(one, times(d, over(one, tensor)))), code
    s = one if isinstance(a, float) or a == 0 else finite(over(Fraction(top), a))
    if kind == "power_of_2":
        s = max(p for p in E8M0 if p <= s)
    return s, bits(over(one, s))


def bits(v):
    if isinstance(v, float):
        return 0x7FC00000 if v != v else 0x7F800000 if v > 0 else 0xFF800000
    return struct.unpack("<I", struct.pack("<f", float(v)))[0]


def tensor_scale(a, top):
    if a == 0 or is_inf(a):
        return Fraction(1)
    return F32_MAX if is_nan(a) else finite(over(f32(Fraction(448 * top)), a))


def quantize(x, negative, rows, cols, br, bc, to, kind):
    top = {"e4m3": 448, "e5m2": 57344, "e2m1": 6}[to]
    tensor = tensor_scale(amax(x), top) if kind == "e4m3" else Fraction(1)
    codes, blocks = [0] * (rows * cols), []
    for r in range(0, rows, br):
        for c in range(0, cols, bc):
            at = [i * cols + j for i in range(r, r + br) for j in range(c, c + bc)]
            mult, stored = scale(kind, amax([x[i] for i in at]), top, tensor)
            blocks.append(stored)
            for i in at:
                codes[i] = encode(times(x[i], mult), to, negative[i])
    return codes, blocks, bits(over(Fraction(1), tensor))


def write(out, name, values, rows, cols, br, bc, to, kind):
    words = [struct.unpack("<I", struct.pack("<f", v))[0] for v in values]
    exact = [v if v != v or abs(v) == INF else Fraction(struct.unpack("<f", struct.pack("<I", w))[0])
             for v, w in zip(values, words)]
    codes, blocks, tensor = quantize(exact, [w >> 31 for w in words], rows, cols, br or rows, bc or cols,
                                     to, kind)
    if not br:
        tensor = blocks[0]
    out.write(f"case {name} {to} {kind} {rows} {cols} {br} {bc} {tensor:x}\n")
    for numbers in words, codes, blocks:
        out.write(" ".join(f"{n:x}" for n in numbers) + "\n")


rng = random.Random(20)


def normal(n, spread=0.0):
    return [rng.gauss(0, 1) * 2.0 ** rng.uniform(-spread, spread) for _ in range(n)]


def edges(n, block):
    """Blocks of zeros, of subnormal numbers, of the largest ones, with NaN, with infinity; amaxes at
    and around powers of two times the largest codes."""
    f = [NAN, INF, 1e-45, 3.4028234e38, 448.0, 500.0, 6.0, 57344.0, 447.9999, 448.00006, 1.17e-38, 0.0, -0.0]
    out = []
    for k in range(n // block):
        top = f[k % len(f)]
        row = [0.0] * block if top == 0 else [v * min(abs(top), 1e30) / 4 for v in normal(block)]
        if top != 0:
            row[rng.randrange(block)] = -top
        out += [max(-3.4e38, min(3.4e38, v)) if v == v and abs(v) != INF else v for v in row]
    return out


def main():
    with open("recipes.want", "w") as out:
        for to in "e4m3", "e5m2":
            for kind in "float32", "power_of_2":
                write(out, "current", normal(63, 9), 7, 9, 0, 0, to, kind)
                write(out, "current_edges", edges(13, 13), 1, 13, 0, 0, to, kind)
                write(out, "current_zero", [0.0, -0.0, 0.0, 0.0], 2, 2, 0, 0, to, kind)
                write(out, "block", normal(2 * 256, 12), 2, 256, 1, 128, to, kind)
                write(out, "block_columns", normal(128 * 2, 12), 128, 2, 128, 1, to, kind)
                write(out, "block_edges", edges(13 * 8, 8), 13, 8, 1, 8, to, kind)
            write(out, "block_square", normal(16 * 32), 16, 32, 8, 16, to, "power_of_2")
            write(out, "mx", normal(3 * 96, 12), 3, 96, 1, 32, to, "e8m0")
            write(out, "mx_columns", normal(64 * 3, 12), 64, 3, 32, 1, to, "e8m0")
            write(out, "mx_edges", edges(13 * 8, 8), 13, 8, 1, 8, to, "e8m0")
        write(out, "nvfp4", normal(5 * 48, 6), 5, 48, 1, 16, "e2m1", "e4m3")
        write(out, "nvfp4_square", normal(32 * 48), 32, 48, 16, 16, "e2m1", "e4m3")
        for n in range(13):
            write(out, "nvfp4_edges", edges(13 * 16, 16)[n * 16:n * 16 + 16] + normal(16), 2, 16, 1, 16,
                  "e2m1", "e4m3")


main()
