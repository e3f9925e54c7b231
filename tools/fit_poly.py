#!/usr/bin/env python3
"""Fits the polynomials of codegen/cpu/math.c and writes codegen/coeff.h.

Usage: tools/fit_poly.py > codegen/coeff.h

Each fit is minimax: the Remez exchange (second algorithm) on a weighted error
weight(x) * (p(x) - f(x)), in 60-digit decimal arithmetic, then rounded to the coefficient format.
The comment behind each table is the largest weighted error before rounding, found on a dense grid.
Functions come from the standard library's decimal exp and ln, and from Taylor series; no other
package is needed.
"""
import struct
from decimal import Decimal as D
from decimal import getcontext

getcontext().prec = 60
PI = D("3.14159265358979323846264338327950288419716939937510582097494")


def sqrt(x):
    return D(x).sqrt()


def expm1(x):
    """exp(x) - 1 without cancellation."""
    if abs(x) > D("0.5"):
        return x.exp() - 1
    term, total, n = x, x, 1
    while abs(term) > D("1e-70"):
        n += 1
        term = term * x / n
        total += term
    return total


def log1p(x):
    """2 atanh(x / (2 + x)) by its series; |x| < 1/2."""
    s = x / (2 + x)
    z, term, total, n = s * s, s, s, 1
    while abs(term) > D("1e-70"):
        n += 2
        term *= z
        total += term / n
    return 2 * total


def erf_series(x):
    """Abramowitz and Stegun 7.1.6: no cancellation, any x >= 0."""
    term = total = x
    n = 0
    while term > D("1e-90"):
        n += 1
        term = term * 2 * x * x / (2 * n + 1)
        total += term
    return 2 / PI.sqrt() * (-x * x).exp() * total


def log_erfc(x):
    """ln(1 - erf(x)); more digits because 1 - erf(6) is 2e-17."""
    getcontext().prec = 90
    value = (1 - erf_series(x)).ln()
    getcontext().prec = 60
    return +value


def sin_series(x):
    term = total = x
    n = 1
    while abs(term) > D("1e-70"):
        term = -term * x * x / ((n + 1) * (n + 2))
        n += 2
        total += term
    return total


def cos_series(x):
    term = total = D(1)
    n = 0
    while abs(term) > D("1e-70"):
        term = -term * x * x / ((n + 1) * (n + 2))
        n += 2
        total += term
    return total


def solve(rows, right):
    """Gaussian elimination with partial pivoting."""
    n = len(rows)
    m = [row[:] + [r] for row, r in zip(rows, right)]
    for c in range(n):
        pivot = max(range(c, n), key=lambda r: abs(m[r][c]))
        m[c], m[pivot] = m[pivot], m[c]
        for r in range(c + 1, n):
            k = m[r][c] / m[c][c]
            if k:
                m[r] = [a - k * b for a, b in zip(m[r], m[c])]
    x = [D(0)] * n
    for r in reversed(range(n)):
        x[r] = (m[r][n] - sum(m[r][c] * x[c] for c in range(r + 1, n))) / m[r][r]
    return x


def horner(coeffs, x):
    total = D(0)
    for c in reversed(coeffs):
        total = total * x + c
    return total


def powers(x, degree):
    out = [D(1)]
    for _ in range(degree):
        out.append(out[-1] * x)
    return out


def remez(f, weight, low, high, degree, points=600):
    """Coefficients (constant first) and the largest weighted error."""
    # Chebyshev spacing of the grid puts more points where the extremes crowd.
    grid = [low + (high - low) * (1 - cos_series(PI * i / points)) / 2 for i in range(points + 1)]
    values = [(f(x), weight(x)) for x in grid]
    nodes = [points * i // (degree + 1) for i in range(degree + 2)]
    coeffs, worst = [], D(0)
    for _ in range(40):
        rows, right = [], []
        for k, i in enumerate(nodes):
            x, (y, w) = grid[i], values[i]
            rows.append(powers(x, degree) + [(-1) ** k / w])
            right.append(y)
        *coeffs, level = solve(rows, right)
        error = [w * (horner(coeffs, x) - y) for x, (y, w) in zip(grid, values)]
        worst = max(abs(e) for e in error)
        if worst <= abs(level) * D("1.005"):
            break
        nodes = exchange(error, degree + 2)
    return coeffs, worst


def exchange(error, count):
    """Largest extreme of each run of one sign; the smaller end is dropped while there are too many."""
    runs = []
    for i, e in enumerate(error):
        if runs and (error[runs[-1]] > 0) == (e > 0):
            if abs(e) > abs(error[runs[-1]]):
                runs[-1] = i
        else:
            runs.append(i)
    while len(runs) > count:
        runs.pop(0 if abs(error[runs[0]]) < abs(error[runs[-1]]) else -1)
    if len(runs) < count:
        raise SystemExit("exchange lost its alternation: use a finer grid")
    return runs


def single(x):
    return struct.unpack("f", struct.pack("f", float(x)))[0]


def table(name, comment, fit, rounding):
    coeffs, worst = fit
    text = ", ".join(rounding(c).hex() for c in coeffs)
    print(f"/* {comment}; largest error {float(worst):.2g} */")
    print(f"static const double {name}[] = {{{text}}};")


def tanh(x):
    e = expm1(2 * x)
    return e / (e + 2)


def centre_near(f, x, step):
    """A number of the format near x whose f nearly is one too: else the rounding of the constant term
    is most of a piece's error."""
    near = [D(single(x + (k + 1) // 2 * (-1) ** k * step)) for k in range(100)]
    return min(near, key=lambda c: abs(D(single(f(c))) - f(c)) / f(c))


def piece(f, centre, low, high, degree):
    """f near centre: centre, f(centre), then the polynomial of (f(centre + t) - f(centre)) / t, by the
    error of f over [low, high]; around zero (where f(0) = 0) by the relative one."""
    relative = centre == 0
    base = D(0) if relative else D(single(f(centre)))
    low, high = low - centre, high - centre
    low = D("1e-9") if relative else low

    def q(t):
        t = t if abs(t) > D("1e-12") else D("1e-12")
        return (f(centre + t) - base) / t

    def weight(t):
        return 1 / q(t) if relative else max(abs(t), D("1e-12"))

    coeffs, worst = remez(q, weight, low, high, degree - 1, 160)
    return [centre, base] + coeffs, worst


def pieces(name, comment, parts):
    """Transposed: one row of 32 for the centres, one for each power; unused places are zero."""
    worst = max(w for _, (_, w) in parts)
    rows = [[0.0] * 32 for _ in parts[0][1][0]]
    for place, (coeffs, _) in parts:
        for row, c in zip(rows, coeffs):
            row[place] = single(c)
    print(f"/* {comment}; largest error {float(worst):.2g} */")
    print(f"static const float {name}[][32] = {{")
    for row in rows:
        print("  {" + ", ".join(c.hex() + "f" for c in row) + "},")
    print("};")


def main():
    half_ln2 = D(2).ln() / 2 * D("1.0001")
    f_low, f_high = sqrt(D("0.5")) - 1, sqrt(D(2)) - 1
    tiny = D("1e-12")
    quarter = (PI / 4 * D("1.0001")) ** 2
    print("/* Minimax coefficients of math.c, constant term first. Written by tools/fit_poly.py. */")
    print("/* clang-format off */")

    def q_exp(r):
        return (expm1(r) - r) / (r * r) if abs(r) > tiny else D("0.5")

    def q_exp1(r):
        return expm1(r) / r if abs(r) > tiny else D(1)

    def q_log(f):
        return (log1p(f) - f + f * f / 2) / f**3 if abs(f) > tiny else 1 / D(3)

    def q_atanh(z):  # 2 atanh(s) = 2 s + s z q(z), z = s^2
        if z < tiny:
            return D(2) / 3
        s = z.sqrt()
        return (log1p(2 * s / (1 - s)) / s - 2) / z

    def q_tanh(z):  # tanh(x) = x + x z q(z)
        if z < tiny:
            return -1 / D(3)
        x = z.sqrt()
        return (tanh(x) / x - 1) / z

    def q_erf(z):  # erf(x) = x + x q(x^2)
        if z < tiny:
            return 2 / PI.sqrt() - 1
        x = z.sqrt()
        return erf_series(x) / x - 1

    def q_sin(z):  # sin(r) = r + r z q(z)
        if z < tiny:
            return -1 / D(6)
        r = z.sqrt()
        return (sin_series(r) / r - 1) / z

    def q_cos(z):  # cos(r) = 1 - z / 2 + z^2 q(z)
        if z < tiny:
            return 1 / D(24)
        r = z.sqrt()
        return (cos_series(r) - 1 + z / 2) / (z * z)

    def w_exp(r):
        return r * r / expm1(r) if abs(r) > tiny else tiny

    def w_log(f):
        return f**3 / log1p(f) if abs(f) > tiny else tiny**2

    for suffix, rounding, n_exp, n_erf, n_sin, n_cos in (
        ("f32", single, 4, 5, 2, 2),
        ("f64", float, 9, 11, 5, 5),
    ):
        table(
            f"exp_{suffix}",
            "exp(r) = 1 + r + r^2 q(r), |r| <= ln(2)/2; relative to exp(r) - 1",
            remez(q_exp, lambda r: abs(w_exp(r)), -half_ln2, half_ln2, n_exp),
            rounding,
        )
        table(
            f"sin_{suffix}",
            "sin(r) = r + r^3 q(r^2), |r| <= pi/4; relative",
            remez(q_sin, lambda z: z, tiny, quarter, n_sin),
            rounding,
        )
        table(
            f"cos_{suffix}",
            "cos(r) = 1 - r^2/2 + r^4 q(r^2), |r| <= pi/4; absolute",
            remez(q_cos, lambda z: z * z, tiny, quarter, n_cos),
            rounding,
        )
        split = D("0.921875") if suffix == "f32" else D(1)
        table(
            f"erf_{suffix}",
            f"erf(x) = x + x q(x^2), |x| <= {split}; relative",
            remez(q_erf, lambda z: 1 / (1 + q_erf(z)), D(0), split * split, n_erf),
            rounding,
        )
        top, degree = (D("4.0"), 6) if suffix == "f32" else (D("6.0"), 17)
        table(
            f"erfc_{suffix}",
            f"ln(1 - erf(x)) = q(x - {split}), {split} <= x <= {top}; error of erf(x)",
            remez(
                lambda u, s=split: log_erfc(u + s),
                lambda u, s=split: log_erfc(u + s).exp(),
                D(0),
                top - split,
                degree,
            ),
            rounding,
        )
    near = D("0.5625") ** 2
    table(
        "tanh_f32",
        "tanh(x) = x + x^3 q(x^2), |x| <= 0.5625; relative",
        remez(q_tanh, lambda z: z / (1 + z * q_tanh(z)), tiny, near, 4),
        single,
    )
    table(
        "log_f32",
        "log(1 + f) = f - f^2/2 + f^3 q(f), sqrt(1/2) <= 1 + f <= sqrt(2); relative",
        remez(q_log, lambda f: abs(w_log(f)), f_low, f_high, 7),
        single,
    )
    s_high = f_high / (2 + f_high)
    table(
        "atanh_f64",
        "log(1 + f) = 2 s + s^3 q(s^2), s = f / (2 + f); relative",
        remez(q_atanh, lambda z: z / 2, tiny, s_high * s_high, 6),
        float,
    )
    table(
        "exp_near_0",
        "exp(r) = 1 + r q(r), |r| <= ln(2)/32; relative to exp(r)",
        remez(q_exp1, lambda r: abs(r) / (1 + expm1(r)) + tiny, -half_ln2 / 16, half_ln2 / 16, 2),
        single,
    )
    print("/* 2^(i/16) */")
    roots = ", ".join(single(2 ** (D(i) / 16)).hex() + "f" for i in range(16))
    print(f"static const float exp_roots[16] = {{{roots}}};")
    # the last centre is where the function becomes 1 in the format: larger arguments are moved there
    eighth, half = D("0.125"), D("0.0625")
    parts = [(0, piece(erf_series, D(0), D(0), half, 4))]
    for i in range(1, 32):
        x, end = i * eighth, D(single(D("3.93")))
        c = centre_near(erf_series, x, D("1e-5")) if i < 31 else end
        parts.append((i, piece(erf_series, c, x - half, x + half if i < 31 else end, 4)))
    pieces("erf_pieces", "erf(c + t), c near i/8 in place i", parts)
    parts, end = [((124 * 4 - 1) % 32, piece(tanh, D(0), D(0), eighth, 5))], D(single(D("9.02")))
    for octave in range(-3, 4):
        for quarter in range(4):
            low = D(2) ** octave * (4 + quarter) / 4
            high = D(2) ** octave * (5 + quarter) / 4
            place = ((127 + octave) * 4 + quarter) % 32
            if low < 8:
                c = centre_near(tanh, (low + high) / 2, low * D("1e-5"))
                parts.append((place, piece(tanh, c, low, high, 5)))
            elif low == 8:
                parts.append((place, piece(tanh, end, low, end, 5)))
    pieces("tanh_pieces", "tanh(c + t), c near the middle of a quarter of an octave", parts)
    print("/* clang-format on */")


main()
