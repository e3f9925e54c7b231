#!/usr/bin/env python3
"""Runs of PyTorch's autocast with regions: on, off, nested, FP64, another 16-bit format inside.

    python3 tools/region_reference.py > tests/unit/region_reference.h          (needs torch)

Each row is one spec and the same model in torch under torch.autocast("cpu", bfloat16), so with
policy: cpu. Recorded: format and values of every layer, the loss, the gradient of every weight.
"""
import torch
import torch.nn.functional as F

SIZE = 6
torch.manual_seed(11)
NAMES = "abcde"
WEIGHT = {n: (torch.rand(SIZE, SIZE) * 2 - 1) * 0.6 for n in NAMES}
BIAS = {n: (torch.rand(SIZE) * 2 - 1) * 0.6 for n in NAMES}
X = torch.rand(4, SIZE) * 2 - 1
LABEL = torch.tensor([2, 0, 5, 3])


def auto(dtype=torch.bfloat16, on=True):
    return torch.autocast("cpu", dtype=dtype, enabled=on)


def on(p, x, out):  # one region around all
    with auto():
        for n in NAMES:
            x = out(n, F.linear(x, *p(n)))
            x = out(n + "t", torch.tanh(x)) if n != "e" else x
    return x


def off(p, x, out):  # switched off inside; converted by hand on the way in
    with auto():
        x = out("a", F.linear(x, *p("a")))
        with auto(on=False):
            x = out("f", x.float())
            x = out("b", F.linear(x, *p("b")))
            x = out("bt", torch.tanh(x))
        x = out("c", F.linear(x, *p("c")))
        x = out("ce", torch.exp(x))
        x = out("d", F.linear(x, *p("d")))
        x = out("e", F.linear(x, *p("e")))
    return x


def nested(p, x, out):  # on, off, on again in the other format, and back
    with auto():
        x = out("a", F.linear(x, *p("a")))
        with auto(on=False):
            x = out("f", x.float())
            x = out("b", F.linear(x, *p("b")))
            with auto(torch.float16):
                y = out("c", F.linear(x, *p("c")))
                y = out("ct", torch.tanh(y))
            x = out("s", x + y)  # promotes, no list rules here
        x = out("d", F.linear(x, *p("d")))
        x = out("e", F.linear(x, *p("e")))
    return x


def wide(p, x, out):  # double is not eligible: what is FP64 stays FP64 under autocast
    with auto():
        x = out("a", F.linear(x, *p("a")))
        x = out("b", F.linear(x.double(), *[t.double() for t in p("b")]))
        x = out("bt", torch.tanh(x))
        x = out("h", x.to(torch.bfloat16))
        x = out("c", F.linear(x, *p("c")))
        x = out("d", F.linear(x, *p("d")))
        x = out("e", F.linear(x, *p("e")))
    return x


def whole(p, x, out):  # autocast switched off around everything: FP32
    with auto(on=False):
        for n in NAMES:
            x = out(n, F.linear(x, *p(n)))
    return x


L = "{name: %s, Linear: 6}"
SPECS = {
    "on": (on, ", ".join(L % n + (", {name: %st, type: Tanh}" % n if n != "e" else "") for n in NAMES), ""),
    "off": (off, L % "a" + ", {use: in, name: in, precision: off}, " + L % "c" + ", {name: ce, type: exp}, "
            + L % "d" + ", " + L % "e",
            "{name: f, to: float32}, " + L % "b" + ", {name: bt, type: Tanh}"),
    "nested": (nested, L % "a" + ", {use: in, name: in, precision: off}, " + L % "d" + ", " + L % "e",
               "{name: f, to: float32}, " + L % "b" + ", {name: c, Linear: 6, precision: 16-mixed}, "
               "{name: ct, type: Tanh}, {name: s, type: add, inputs: [b, ct]}"),
    "wide": (wide, L % "a" + ", {name: b, Linear: 6, precision: 64-true}, {name: bt, type: Tanh}, "
             "{name: h, to: bfloat16}, " + L % "c" + ", " + L % "d" + ", " + L % "e", ""),
    "whole": (whole, "{use: in, name: in, precision: off}", ", ".join(L % n for n in NAMES)),
}
DTYPE = {torch.float64: "MPCC_F64", torch.float32: "MPCC_F32", torch.bfloat16: "MPCC_BF16", torch.float16: "MPCC_F16"}


def numbers(t):
    v = t.detach().double().flatten().tolist()
    return "{" + ", ".join("%.9g" % x for x in v) + "}"


def emit():
    print("/* Made by tools/region_reference.py with PyTorch %s. */" % torch.__version__.split("+")[0])
    print("enum { REGION_SIZE = %d, REGION_BATCH = %d };" % (SIZE, len(LABEL)))
    print("static const double region_x[] = %s;" % numbers(X))
    print("static const double region_label[] = %s;" % numbers(LABEL))
    for n in NAMES:
        print("static const double region_weight_%s[] = %s;" % (n, numbers(WEIGHT[n])))
        print("static const double region_bias_%s[] = %s;" % (n, numbers(BIAS[n])))
    print("static const double *const region_params[][2] = {")
    print(",\n".join("    {region_weight_%s, region_bias_%s}" % (n, n) for n in NAMES) + "};")
    print("typedef struct {\n  const char *name;\n  int dtype;\n  double v[%d];\n} RegionLayer;" % (SIZE * len(LABEL)))
    print("static const struct {\n  const char *name, *layers, *block;\n  double loss;\n"
          "  double slope[%d][%d]; /* of the weights a to e */\n  RegionLayer layer[12];\n} regions[] = {"
          % (len(NAMES), SIZE * SIZE))
    for name, (run, layers, block) in SPECS.items():
        weight = {n: WEIGHT[n].clone().requires_grad_() for n in NAMES}
        seen = []

        def out(n, v):
            seen.append((n, v))
            return v
        y = run(lambda n: (weight[n], BIAS[n]), X, out)
        loss = F.cross_entropy(y.float(), LABEL)
        loss.backward()
        print('    {"%s",\n     "%s",\n     "%s",\n     %.9g,\n     {' % (name, layers, block, loss.item()))
        print(",\n".join("      " + numbers(weight[n].grad) for n in NAMES) + "},\n     {")
        print(",\n".join('      {"%s", %s, %s}' % (n, DTYPE[v.dtype], numbers(v)) for n, v in seen) + "}},")
    print("};")


emit()
