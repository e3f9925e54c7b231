"""Random specs whose layers torch runs as they are chosen, and the data they are trained on: tools/torch_walk's."""
import json
import math

import numpy as np
import torch

import torch_spec
from walks import Walk


def flow(v):
    return json.dumps(v)


def yaml_of(sections):
    return "".join(f"{k}: {flow(v)}\n" for k, v in sections.items())


class TorchWalk(Walk):
    """Walk's specs, and wider ones whose layers are tried in torch as they are chosen."""

    pointwise = [x for x in Walk.pointwise if "Dropout" not in x]

    def __init__(self, seed, mode):
        super().__init__(seed)
        self.drops = False
        self.mode, self.mixed = mode, mode.endswith("mixed")
        self.g = np.random.default_rng(seed)
        self.fields, self.inputs, self.outputs, self.metrics, self.net = {}, {}, None, [], None
        self.blocks, self.complex, self.packed, self.wider = {}, False, self.r.random() < 0.3, self.r.random() < 0.3

    def number(self, low, high):
        return round(self.r.uniform(low, high), 3)

    def maybe(self, p=0.5):
        return self.r.random() < p

    def some(self, **args):
        """Each of the arguments with probability 1/2; what is None is left out."""
        return {k: v for k, v in args.items() if v is not None and self.maybe()}

    # ---- data ----
    def real(self, name, shape, n):
        """Numbers that every mode holds exactly."""
        x = torch.tensor(self.g.standard_normal((n, *shape))).to(torch.bfloat16)
        self.fields[name] = x.to(torch.float32).numpy()

    def whole(self, name, shape, n, most):
        self.fields[name] = self.g.integers(0, most, (n, *shape))

    def files(self):
        if self.packed:
            return "{format: npz, path: data.npz}"
        return "{format: npy, files: {" + ", ".join(f"{k}: {k}.npy" for k in self.fields) + "}}"

    def image_source(self, shape, classes, samples):
        self.n = samples
        self.real("image", shape, samples)
        self.whole("label", (), samples, classes)
        return None

    def text_source(self, length):
        self.n = 40
        a = self.g.integers(0, 256, self.n * length + 1)
        self.fields["tokens"] = a[:-1].reshape(self.n, length).astype(np.int32)
        self.fields["next_tokens"] = a[1:].reshape(self.n, length)
        return None

    # ---- wide specs ----
    def begin(self):
        self.net = torch_spec.Net({"layers": []})
        self.net.scope = {k: torch.tensor(v[:3]) for k, v in self.fields.items()}
        self.net.scope = {k: v.double() if v.is_floating_point() else v for k, v in self.net.scope.items()}
        self.net.inputs = {k: self.net.scope[k] for k in self.inputs}
        self.x = self.net.scope[next(iter(self.inputs))]

    def take(self, layer):
        """Adds the layer when torch can run it; whether it did."""
        before = dict(self.net.modules)
        try:
            y = self.net.step(layer, self.x, len(self.layers))
            first = y[0] if isinstance(y, (tuple, list)) else y
            if first.is_complex() and first.abs().max() > 40:
                raise ValueError("too large")
            if first.is_floating_point() and (not first.isfinite().all() or first.abs().max() > 40 or first.std() < 0.01):
                raise ValueError("too large, or constant")
            if first.numel() > 3 * (20000 if self.wider else 6000) or first.dim() < 2 and first.dim() != 2:
                raise ValueError("too many")
        except Exception:  # torch says why in words of its own
            self.net.modules = before
            return False
        kind = layer.get("type") or next(iter(layer))
        if self.mixed and kind.startswith(("Linear", "Conv", "Batch", "Layer", "RMS", "Tanh", "softmax")) and self.maybe(0.15):
            layer = {**layer, "precision": "32-true"}
        self.layers.append(flow(layer))
        self.x = y
        return True

    def activation(self):
        return self.pick({"type": "ReLU"}, {"GELU": self.pick("none", "tanh")}, {"type": "SiLU"}, {"type": "Tanh"},
                         {"type": "Sigmoid"}, {"type": "Hardswish"}, {"type": "Mish"},
                         {"type": "LeakyReLU", **self.some(negative_slope=self.number(-0.3, 0.5))},
                         {"type": "ELU", **self.some(alpha=self.number(0.2, 2))},
                         {"type": "Softplus", **self.some(beta=self.number(0.3, 3), threshold=self.number(-1, 5))},
                         {"type": "ReLU6"}, {"type": "Hardsigmoid"}, {"type": "Softsign"}, {"type": "SELU"}, {"type": "LogSigmoid"},
                         {"type": "Hardtanh", **self.some(min_val=self.number(-2, 0), max_val=self.number(0.1, 2))},
                         {"type": "GLU", "dim": self.pick(*range(1, self.x.dim()))},
                         self.dropped(), {"type": "Dropout", "p": 0.0}, {"type": "Dropout", "p": 0.4, "training": False},
                         {"type": "PReLU", **self.some(num_parameters=self.x.shape[1] if self.x.dim() > 1 else 1)})

    def dropped(self):
        self.drops = True
        p = self.number(0.1, 0.8)
        return self.pick({"Dropout": p}, {"type": "StochasticDepth", "p": p, **self.some(mode="batch")},
                         *[{"type": f"Dropout{self.x.dim() - 2}d", "p": p}] * (self.x.dim() > 2 and self.x.dim() < 6))

    def window(self, nd, low, high):
        return self.r.randint(low, high) if self.maybe() else [self.r.randint(low, high) for _ in range(nd)]

    def convolution(self, nd):
        c = self.x.shape[1]
        g = self.r.choice([v for v in range(1, c + 1) if c % v == 0]) if self.maybe(0.4) else 1
        out, args = g * self.r.randint(1, 20 if self.wider and g < 4 else 4), {"kernel_size": self.window(nd, 1, 4), **self.some(
            stride=self.window(nd, 1, 3), dilation=self.window(nd, 1, 2), bias=self.maybe())}
        if g > 1:
            args["groups"] = g
        if self.maybe(0.3):
            args.update(self.some(padding=self.window(nd, 0, 3), output_padding=self.window(nd, 0, 2)))
            return {f"ConvTranspose{nd}d": out, **args}
        if self.maybe(0.2):
            args["padding"] = self.pick("same", "valid")
        else:
            args.update(self.some(padding=self.window(nd, 0, 3)))
        args.update(self.some(padding_mode=self.pick("reflect", "replicate", "circular", "zeros")))
        return {f"Conv{nd}d": out, **args}

    def norm(self):
        nd, shape = self.x.dim() - 2, list(self.x.shape)
        eps = self.pick(1e-5, 1e-3, self.number(0.01, 0.5))
        kinds = ["LayerNorm", "RMSNorm"] + ["GroupNorm"] + [f"BatchNorm{max(nd, 1)}d"] * 2 + [f"InstanceNorm{nd}d"] * (0 < nd < 4)
        kind, args = self.pick(*kinds), self.some(eps=eps)
        if kind in ("LayerNorm", "RMSNorm"):
            k = self.r.randint(1, len(shape) - 1)
            args.update(self.some(elementwise_affine=self.maybe()))
            if k > 1 or self.maybe():
                args["normalized_shape"] = shape[-k:]
            if kind == "LayerNorm":
                args.update(self.some(bias=self.maybe()))
            return {"type": kind, **args}
        args.update(self.some(affine=self.maybe(), bias=self.maybe()))
        if kind == "GroupNorm":
            return {"GroupNorm": self.r.choice([v for v in range(1, shape[1] + 1) if shape[1] % v == 0]), **args}
        args.update(self.some(momentum=self.pick(self.number(0, 1), 0.0, 1.0), track_running_stats=self.maybe()))
        if kind.startswith("Batch") and self.maybe(0.15):
            args["momentum"] = None
        if kind.startswith("Batch") and args.get("track_running_stats", True) and self.maybe(0.15):
            args["training"] = False
        return {"type": kind, **args}

    def pool(self, nd):
        kind = self.pick("MaxPool", "AvgPool", "Adaptive")
        if kind == "Adaptive":
            size = self.window(nd, 1, 5)
            which = f"Adaptive{self.pick('Avg', 'Max') if nd < 3 else 'Avg'}Pool{nd}d"
            return {which: [None, self.r.randint(1, 4)] if nd == 2 and "Avg" in which and self.maybe(0.3) else size}
        args = self.some(stride=self.window(nd, 1, 4), padding=self.window(nd, 0, 2), ceil_mode=self.maybe(0.7))
        if kind == "MaxPool":
            return {f"MaxPool{nd}d": self.window(nd, 1, 4), **args, **self.some(dilation=self.window(nd, 1, 2))}
        return {f"AvgPool{nd}d": self.window(nd, 1, 4), **args,
                **self.some(count_include_pad=self.maybe(), divisor_override=self.r.randint(1, 7) if nd > 1 and self.maybe(.3) else None)}

    def resize(self, nd):
        modes = {1: ["linear"], 2: ["bilinear", "bicubic"], 3: ["trilinear"]}[nd] + ["nearest", "nearest-exact", "area"]
        mode = self.pick(*modes)
        args = {"mode": mode} if mode != "nearest" or self.maybe() else {}
        if mode in ("linear", "bilinear", "bicubic", "trilinear"):
            args.update(self.some(align_corners=self.maybe()))
        kind = self.pick("Upsample", "interpolate")
        if self.maybe():
            size = [max(1, s + self.r.randint(-3, 5)) for s in self.x.shape[2:]]
            args["size"] = self.pick(size, size[0])
        else:
            args["scale_factor"] = self.pick(self.number(0.4, 2.5), [self.number(0.4, 2.2) for _ in range(nd)], 2.0)
            if self.maybe(0.3):
                args["recompute_scale_factor"] = True
        return {"type": kind, **args}

    def padded(self, nd):
        mode = self.pick("constant", "constant", "reflect", "replicate", "circular")
        axes = self.r.randint(1, nd) if mode == "constant" else nd
        # torch reads what is not written yet where a circular pad crops a short axis
        args = {"pad": [self.r.randint(0 if mode == "circular" else -1, 2) for _ in range(2 * axes)]}
        if mode == "constant":
            args.update(self.some(value=self.number(-2, 2)))
        return {"type": "pad", **args, **({} if mode == "constant" and self.maybe() else {"mode": mode})}

    def arithmetic(self):
        """One layer of elementwise arithmetic on what is there."""
        d = self.x.dim()
        axis = self.pick(*range(1, d), *range(-(d - 1), 0))
        return self.pick(
            {"type": "add", "other": self.number(-2, 2), **self.some(alpha=self.number(-1, 2))},
            {"type": "sub", "other": self.number(-2, 2), **self.some(alpha=self.number(-1, 2))},
            {"type": "mul", "other": self.number(-2, 2)}, {"type": "div", "other": self.number(0.5, 3)},
            {"type": "abs"}, {"type": "exp"}, {"type": "pow", "exponent": self.pick(2.0, 3.0, 1.0, 2)},
            {"type": self.pick("softmax", "log_softmax", "Softmax"), "dim": axis},
            {"expr": self.pick("a * sigmoid(a)", "a / (1 + abs(a))", "tanh(a) + 0.1 * a", "max(a, 0.1 * a)",
                               "sqrt(a * a + 1)", "log(1 + exp(a))", "min(a, 1) - 0.3", "exp(-(a * a))", "sin(a) + cos(a)",
                               "erf(a)", "-a * 0.7 + a * a * 0.01", "floor(3 * a) * 0.3", "a > 0 ? a : 0.2 * a", "a + 0 * a")},
            {"type": "expr", "expr": "u > v ? u * 0.5 : v + 0.1", "inputs": {"u": self.last(), "v": self.last()}},
            {"type": "max", "dim": axis, **self.some(keepdim=self.maybe())},
            *[{"type": "PixelShuffle", "upscale_factor": 2}] * (d == 4 and self.x.shape[1] % 4 == 0),
            *[{"type": "PixelUnshuffle", "downscale_factor": 2}] * (d == 4 and self.x.shape[2] % 2 + self.x.shape[-1] % 2 == 0),
            {"type": "roll", "shifts": [self.r.randint(-3, 3)], "dims": [axis]},
            {"type": "expr", "expr": "u * 0.5 + v * tanh(u)", "inputs": {"u": self.last(), "v": self.last()}},
            {"type": self.pick("add", "sub", "mul"), "inputs": [self.last(), self.last()], **self.some(alpha=None)},
            {"type": "sum", "dim": axis, "keepdim": True}, {"type": "mean", "dim": axis, "keepdim": True},
            {"type": "mean", "dim": [axis]}, {"type": "select", "dim": axis, "index": self.pick(0, -1)},
            {"type": "arange_like", "dim": axis})

    def last(self):
        """A name for the value so far."""
        if not self.layers or self.named != len(self.layers):
            self.take({"name": self.name(), "type": "Identity"})
            self.named = len(self.layers)
        return f"n{self.names}"

    def with_parameter(self):
        shape, d = list(self.x.shape[1:]), self.x.dim()
        x, p = self.last(), self.name()
        batch = self.maybe(0.3)
        wanted = [1] + shape if batch or self.maybe() else shape
        wanted = [s if self.maybe(0.8) else 1 for s in wanted]
        init = self.pick(None, {"normal": {"std": 0.5}}, {"uniform": {"a": -1.0, "b": 1.0}})
        ok = self.take({"name": p, "type": "Parameter", "shape": [1] + wanted[1:] if batch else wanted,
                        "init": init or {"normal": {"mean": 1.0}}, **({"expand_batch": True} if batch else {})})
        self.named = -1
        if not ok:
            return False
        return self.take({"type": self.pick("add", "sub", "mul"), "inputs": [x, p]}) or self.take(
            {"type": "add", "inputs": [x, x]})

    def moved(self):
        d, shape = self.x.dim(), list(self.x.shape)
        perm = list(range(1, d))
        self.r.shuffle(perm)
        k = self.r.randrange(1, d)
        parts = self.r.randint(1, max(1, min(4, shape[k])))
        x, n = self.last(), self.name()
        sizes = []
        while sum(sizes) < shape[k]:
            sizes.append(self.r.randint(1, shape[k] - sum(sizes)))
        cutter = self.pick({"type": "chunk", "chunks": parts}, {"type": "split", "split_size_or_sections": self.r.randint(1, shape[k])},
                           {"type": "split", "split_size_or_sections": sizes})
        self.named = -1
        return self.pick(
            [{"type": "permute", "dims": [0] + perm}],
            [{"type": "transpose", "dim0": self.pick(k, k - d), "dim1": self.r.randrange(1, d)}],
            [{"type": "Flatten", **self.some(start_dim=k, end_dim=-1)}],
            [{"type": "unsqueeze", "dim": self.pick(k, -1)}], [{"type": "squeeze", "dim": k}],
            [{"type": self.pick("reshape", "view"), "shape": [-1, shape[k], math.prod(shape[1:]) // shape[k]]}],
            [{"name": n, **cutter, "dim": self.pick(k, k - d), "inputs": x}, {"type": "cat", "dim": k, "inputs": [x, n + ".0"]}],
            [{"type": cutter["type"], **cutter, "dim": k, "index": 0}])

    def branches(self):
        """residual and parallel lists of layers that keep the shape; their number is the test."""
        d, c = self.x.dim(), self.x.shape[1]
        keep = [{"Linear": self.x.shape[-1], **self.some(bias=self.maybe())}]
        if d == 4:
            keep += [{"Conv2d": c, "kernel_size": 3, "padding": 1}, {"Conv2d": c, "kernel_size": 1, "bias": False}] * 2
        branch = lambda: [self.r.choice(keep), self.activation(), *([self.r.choice(keep)] if self.maybe() else [])]
        if self.maybe():
            return {"residual": branch() if self.maybe() else {"body": branch(), "shortcut": [self.r.choice(keep)]}}
        combine = self.pick("cat", "add", "mul")
        return {"parallel": {"branches": [branch() for _ in range(self.r.randint(2, 3))], "combine": combine,
                             **(self.some(dim=self.r.randrange(1, d)) if combine == "cat" else {})}}

    def block(self):
        """A block used several times."""
        b, d, c = f"block{len(self.blocks)}", self.x.dim(), self.x.shape[1]
        last, inner = self.x.shape[-1], self.r.randint(2, 9)
        layers = [{"name": "a", "Linear": "$wide"}, self.activation(), {"Linear": last, "bias": self.maybe()}]
        if self.maybe():
            layers = [{"residual": [{"type": self.pick("LayerNorm", "RMSNorm")}, *layers]}]
        self.blocks[b] = self.net.blocks[b] = {"params": ["wide"], "layers": layers}
        return [{"use": b, "name": self.name() + ".$i", "repeat": self.r.randint(1, 3), "with": {"wide": inner}}]

    def attended(self):
        """MultiheadAttention or scaled_dot_product_attention over [N, T, C]."""
        t, c = self.x.shape[1:]
        x = self.last()
        self.named = -1
        divisors = [v for v in range(1, 5) if c % v == 0]
        causal = self.some(is_causal=self.maybe(0.6))
        if self.maybe(0.4):
            heads = self.r.choice(divisors)
            layer = {"type": "MultiheadAttention", "num_heads": heads, **self.some(bias=self.maybe()), **causal}
            kind = self.r.random()
            if kind < 0.5:
                return [layer]
            s = self.r.choice([t, 3, 7])
            n = self.name()
            if "side" in self.inputs and self.maybe(0.7):
                s = self.inputs["side"]["shape"][0]
                inputs = {"query": x, "key": "side", **self.some(value="side")}
                if t == self.inputs["see"]["shape"][0] and "is_causal" not in layer:
                    inputs.update(self.some(attn_mask="shift", key_padding_mask=None))
                inputs.update(self.some(key_padding_mask="hide" if "is_causal" not in layer else None))
                return [{**layer, "inputs": inputs}]
            wide = self.pick(c, 5)
            seq = [{"name": n + "t", "type": "transpose", "dim0": 1, "dim1": 2, "inputs": x},
                   {"name": n + "l", "Linear": s, "inputs": n + "t"},
                   {"name": n + "b", "type": "transpose", "dim0": 1, "dim1": 2},
                   {"name": n, "Linear": wide}]
            inputs = {"query": x, "key": n, **self.some(value=n)}
            if self.maybe() and "is_causal" not in layer:
                seq.append(self.mask(n, t, s))
                inputs["attn_mask"] = n + "m"
            return seq + [{**layer, "inputs": inputs}]
        kv, group, hd = self.pick(1, 2), self.pick(1, 2, 3), self.pick(2, 4, 5)
        n, heads = self.name(), kv * group
        args = {"num_heads": heads, **causal, **self.some(scale=self.number(0.1, 1))}
        if kv != heads or self.maybe():
            args.update(num_kv_heads=kv)
        if args.get("num_kv_heads", heads) != heads:
            args.update(self.some(enable_gqa=True))
        if self.maybe(0.3):
            return [{"Linear": (heads + 2 * kv) * hd}, {"type": "scaled_dot_product_attention", "packed": "qkv",
                                                        **{**args, "num_kv_heads": kv}}]
        layers = [{"name": n + y, "Linear": (heads if y == "q" else kv) * hd, "inputs": x} for y in "qkv"]
        names = {y: n + y for y in "qkv"}
        if self.maybe() and hd % 2 == 0:
            how = self.some(base=self.number(10, 1000), interleaved=self.maybe())
            for y in "qk":
                layers.append({"name": n + y + "r", "type": "RotaryEmbedding", "num_heads": heads if y == "q" else kv,
                               "inputs": n + y, **how})
                names[y] = n + y + "r"
        inputs = {"query": names["q"], "key": names["k"], "value": names["v"]}
        if "see" in self.inputs and t == self.inputs["see"]["shape"][0] and "is_causal" not in args and self.maybe(0.7):
            for layer in layers:
                if layer["name"] in (n + "k", n + "v"):
                    layer["inputs"] = "side"
            inputs["attn_mask"] = self.pick("see", "shift")
            return layers + [{"type": "scaled_dot_product_attention", **{**args, "num_kv_heads": kv}, "inputs": inputs}]
        if self.maybe(0.3) and "is_causal" not in args:
            layers.append(self.mask(n, t, t))
            inputs["attn_mask"] = n + "m"
        args = {**args, "num_kv_heads": kv}
        return layers + [{"type": "scaled_dot_product_attention", **args, "inputs": inputs}]

    def mask(self, n, t, s):
        return {"name": n + "m", "type": "Parameter", "shape": [t, s], "init": {"normal": {"std": 1.0}}, "freeze": self.maybe()}

    def recurrent(self):
        kind = self.pick("LSTM", "GRU", "RNN")
        h = self.pick(3, 5, 8)
        args = self.some(num_layers=self.r.randint(1, 3), bias=self.maybe(), bidirectional=self.maybe())
        if kind == "RNN":
            args.update(self.some(nonlinearity=self.pick("tanh", "relu")))
        if kind == "LSTM":
            args.update(self.some(proj_size=self.r.randint(1, h - 1) if self.maybe(.4) else None))
        args.update(self.some(output=self.pick("sequence", "h_n", *["c_n"] * (kind == "LSTM"))))
        if self.maybe(0.2):
            args["dropout"] = 0.0
        x, n = self.last(), self.name()
        self.named = -1
        if self.maybe(0.3):
            return [{"type": "transpose", "dim0": 0, "dim1": 1}, {kind: h, **args, "batch_first": False},
                    {"type": "transpose", "dim0": 0, "dim1": 1}]
        if self.maybe(0.4):
            many = args.get("num_layers", 1) * (2 if args.get("bidirectional") else 1)
            states = [("h", args.get("proj_size") or h)] + [("c", h)] * (kind == "LSTM")
            layers = [{"name": n + "0", "type": "select", "dim": 1, "index": 0, "inputs": x}]
            for k, width in states:
                layers += [{"name": n + k + "w", "Linear": many * width, "inputs": n + "0"},
                           {"name": n + k, "type": "reshape", "shape": [-1, many, width]}]
            return layers + [{kind: h, **args, "inputs": [x] + [n + k for k, _ in states]}]
        return [{kind: h, **args}]

    def pictures(self):
        """ConvLSTM over [N, T, C, H, W]."""
        return [{"ConvLSTM": self.r.randint(1, 4), "kernel_size": self.window(2, 1, 3),
                 **self.some(bias=self.maybe(), peephole=self.maybe(0.7), output=self.pick("sequence", "h_n", "c_n"))}]

    def stopped(self):
        x, n = self.last(), self.name()
        self.named = -1
        c = self.x.shape[-1]
        return [{"name": n, "Linear": c}, {"type": "Tanh"}, {"name": n + "d", "type": "detach"},
                {"type": self.pick("add", "mul"), "inputs": self.pick([x, n + "d"], [n, n + "d"])}]

    def tied(self):
        c = self.x.shape[-1]
        a = self.name()
        return [{"name": a, "Linear": c, **self.some(bias=self.maybe())}, self.activation(),
                {"Linear": c, "tie_weight": a, **self.some(bias=self.maybe())}]

    def frozen(self):
        return [{"Linear": self.r.randint(2, 9), "freeze": True}]

    def products(self):
        x = self.last()
        n = self.name()
        self.named = -1
        d = self.x.dim()
        return [{"name": n, "type": "transpose", "dim0": d - 1, "dim1": d - 2}, {"type": "matmul", "inputs": self.pick([x, n], [n, x])}]

    def fourier(self):
        k, n = self.r.randrange(1, self.x.dim()), self.name()
        self.complex |= self.mode.endswith("6-true")
        return [{"type": "fft", "dim": self.pick(k, k - self.x.dim()), **self.some(norm=self.pick("ortho", "forward", "backward"), n=self.r.randint(2, 9))},
                self.pick({"type": "real"}, {"type": "imag"}, {"type": "abs"})]

    def numbers_in_pairs(self):
        """Layers over complex numbers, between fft and a real result."""
        self.complex = True
        k, n, d = self.r.randrange(1, self.x.dim()), self.name(), self.x.dim()
        between = [{"Linear": self.r.randint(2, 6), "dtype": "complex", **self.some(bias=self.maybe())}, {"type": "conj"},
                   {"type": "ifft", "dim": k, **self.some(norm="ortho")}, {"type": "mul", "other": self.number(-1, 2)},
                   {"type": "transpose", "dim0": d - 1, "dim1": d - 2 if d > 2 else d - 1}, {"type": "sum", "dim": k, "keepdim": True}]
        first = self.pick([{"type": "fft", "dim": k}], [{"type": "Tanh"}, {"name": n, "type": "Identity"}, {"Linear": self.x.shape[-1]},
                                                         {"name": n + "i", "type": "Identity"}, {"type": "complex", "inputs": [n, n + "i"]}])
        return first + self.r.sample(between, self.r.randint(1, 3)) + [self.pick(
            {"type": "real"}, {"type": "imag"}, {"type": "abs"}, {"type": "view_as_real"})]

    def propose(self):
        d = self.x.dim()
        common = [lambda: [self.activation()], lambda: [self.norm()], lambda: [self.arithmetic()], self.moved,
                  lambda: [self.branches()], self.tied, self.frozen, self.fourier, self.block, self.numbers_in_pairs, self.stopped,
                  lambda: [{"Linear": self.r.randint(2, 70 if self.wider else 12), **self.some(bias=self.maybe())}]]
        if d in (3, 4, 5):
            nd = d - 2
            space = [lambda: [self.convolution(nd)], lambda: [self.resize(nd)], lambda: [self.padded(nd)]]
            space.append(lambda: [self.pool(nd)])
            common += 2 * space
        if d == 5:
            common += 3 * [self.pictures]
        if d == 3:
            common += 3 * [self.attended, self.recurrent, self.products]
        return self.r.choice(common)()

    def wide(self):
        r = self.r
        kind = self.pick("image", "image", "sequence", "sequence", "volume", "vector", "tokens")
        self.n = r.choice([14, 18, 22])  # no batch leaves one sample over
        k = 3 if self.wider else 1
        shape = {"image": [r.randint(1, 4), r.randint(4, 9 * k), r.randint(4, 9 * k)],
                 "sequence": [r.randint(3, 9 * k), r.randint(3, 12 * k)],
                 "volume": [r.randint(1, 3)] + [r.randint(3, 5) for _ in range(3)], "vector": [r.randint(3, 20)],
                 "tokens": [r.randint(4, 12)]}[kind]
        if kind == "tokens":
            self.whole("tokens", shape, self.n, 11)
            self.inputs = {"tokens": {"shape": shape, "dtype": self.pick("int32", "int64")}}
            self.fields["tokens"] = self.fields["tokens"].astype(self.inputs["tokens"]["dtype"])
        else:
            self.real("image", shape, self.n)
            self.inputs = {"image": {"shape": shape}}
            if kind == "sequence" and self.maybe(0.4):
                s = r.randint(2, 8)
                self.real("side", [s, 5], self.n)
                self.inputs["side"] = {"shape": [s, 5]}
                for name, size in (("hide", [s]), ("see", [shape[0], s]), ("shift", [shape[0], s])):
                    kind_of = self.pick("int32", "int64")
                    if name == "shift":
                        self.real(name, size, self.n)
                    else:
                        self.whole(name, size, self.n, 2)
                        self.fields[name] = self.fields[name].astype(kind_of)
                        self.fields[name][..., 0] = name == "see"
                    self.inputs[name] = {"shape": size, **({} if name == "shift" else {"dtype": kind_of})}
        self.named = -1
        self.begin()
        if kind == "tokens":
            self.take({"name": "table", "Embedding": 11, "embedding_dim": r.randint(3, 9),
                       **self.some(padding_idx=self.pick(0, 3, -1))})
        depth, k = r.randint(1, 7), 0
        for _ in range(60):
            if k >= depth:
                break
            before = (list(self.layers), self.x, dict(self.net.scope), dict(self.net.modules), self.named)
            layers = self.propose()
            if layers and all(self.take(x) for x in layers) and self.x.dim() <= 5 and self.x.is_floating_point() \
                    and self.x.shape[0] == 3:
                k += 1
            else:
                self.layers, self.x, self.net.scope, self.net.modules, self.named = before
        return self.finish()

    def term(self, x):
        """A loss over the model's result x, and fields for it."""
        r, t, n = self.r, self.name(), self.n
        reduction = self.some(reduction=self.pick("mean", "sum"))
        kind = self.pick("CrossEntropyLoss", "CrossEntropyLoss", "NLLLoss", "BCEWithLogitsLoss", "MSELoss", "L1Loss",
                         "SmoothL1Loss", "HuberLoss", "KLDivLoss", "expr")
        inputs = {"input": "logits", "target": t}
        if kind in ("CrossEntropyLoss", "NLLLoss"):
            classes = x.shape[-1] if x.dim() <= 3 else x.shape[1]
            if classes < 2:
                return self.term(x)
            rest = x.shape[1:-1] if x.dim() <= 3 else x.shape[2:]
            self.whole(t, tuple(rest), n, classes)
            args = {**reduction, **self.some(weight=[self.number(0, 2) for _ in range(classes)])}
            if self.maybe(0.3):
                args["ignore_index"] = self.pick(0, -1, classes - 1)
                if args["ignore_index"] < 0:
                    self.fields[t] = np.where(self.g.random(self.fields[t].shape) < 0.3, -1, self.fields[t])
                self.fields[t].reshape(n, -1)[:, 0] = 1 if args["ignore_index"] != 1 else 0
            if kind == "CrossEntropyLoss":
                args.update(self.some(label_smoothing=self.number(0, 0.5)))
            self.classes = (t, args.get("ignore_index", -100), classes)
        else:
            self.real(t, x.shape[1:], n)
            args = dict(reduction)
            last = x.shape[-1]
            if kind == "BCEWithLogitsLoss":
                self.fields[t] = (self.fields[t] > 0).astype(np.float32) if self.maybe() else np.abs(np.tanh(np.round(self.fields[t]))).astype(np.float16).astype(np.float32)
                args.update(self.some(pos_weight=[self.number(0.1, 3) for _ in range(last)],
                                      weight=[self.number(0.1, 3) for _ in range(last)]))
            elif kind == "SmoothL1Loss":
                args.update(self.some(beta=self.pick(0.0, self.number(0, 2))))
            elif kind == "HuberLoss":
                args.update(self.some(delta=self.number(0.1, 2)))
            elif kind == "KLDivLoss":
                logs = self.maybe()
                self.fields[t] = self.fields[t] if logs else np.where(self.fields[t] < 0, 0, self.fields[t])
                args = {**self.some(log_target=True)} if logs else {}
                if logs:
                    args["log_target"] = True
                args.update(self.some(reduction=self.pick("mean", "sum", "batchmean")))
            elif kind == "expr":
                args["expr"] = self.pick("(p - q) * (p - q)", "abs(p - q) / (1 + abs(q))", "log(1 + exp(-p * q))")
                inputs = {"p": "logits", "q": t}
            else:
                self.points = t
        if kind == "NLLLoss":
            inputs["input"] = self.log_of(x)
        return {"type": kind, "inputs": inputs, **args}

    def log_of(self, x):
        """A layer of log-probabilities behind the logits."""
        if not any('"logs"' in y for y in self.layers):
            self.layers[-1:] = self.layers[-1:]
            self.layers.append(flow({"name": "head", "type": "Identity"}))
            self.layers.append(flow({"name": "logs", "type": "log_softmax", "dim": -1 if x.dim() <= 3 else 1}))
            self.outputs = {"logits": "head"}
        return "logs"

    def finish(self):
        r = self.r
        if self.x.dim() < 2 or self.maybe(0.5):
            if self.maybe(0.5):
                self.take({"type": "Flatten"})
            self.take({"name": "last", "Linear": r.randint(2, 7)})
        if not self.net.parameters() or not self.x.requires_grad:
            self.take({"name": "last", "Linear": r.randint(2, 7)})
        self.take({"type": "Identity"})
        self.classes = self.points = None
        x = self.x
        terms = [self.term(x)] if self.maybe(0.7) else [{**self.term(x), "factor": self.number(0.1, 2)} for _ in range(2)]
        if self.classes:
            t, ignore, c = self.classes
            inputs = {"input": "logits", "target": t}
            for m in r.sample([{"type": "Accuracy"}, {"type": "Accuracy", "top_k": r.randint(1, c)},
                               {"type": self.pick("Precision", "Recall", "F1Score"), "average": self.pick("micro", "macro", "weighted")},
                               {"type": "Perplexity"}], 2):
                self.metrics.append({**m, "name": self.name(), "inputs": inputs, "ignore_index": ignore})
        elif self.points:
            kinds = [{"type": "MeanSquaredError"}, {"type": "MeanAbsoluteError"}]
            if self.mode == "64-true":  # which side of a threshold is a matter of the last bit
                kinds += [{"type": t, "task": "binary", **self.some(threshold=self.number(0.2, 0.8))}
                          for t in ("Accuracy", "Precision", "Recall", "F1Score")]
            self.metrics.append({**self.pick(*kinds), "name": self.name(), "inputs": {"input": "logits", "target": self.points}})
        return self.text(flow(self.inputs)[1:-1], None, flow(terms[0] if len(terms) == 1 else terms), r.choice([4, 5, 8]))

    # ---- training ----
    def trained(self):
        return self.net.parameters().values() if self.net else []

    def optimizer(self):
        lr = self.pick(1e-2, 1e-3, self.number(0.001, 0.05))
        common = self.some(weight_decay=self.number(0, 0.3), maximize=self.maybe(0.4))
        beta = lambda: [self.number(0.5, 0.95), self.number(0.8, 0.999)]
        kind = self.pick("SGD", "Adam", "AdamW", "RMSprop", "Adagrad", *[] if self.complex else ["Lion"])
        eps = self.some(eps=self.pick(1e-6, 1e-3))
        args = {"SGD": lambda: self.pick(self.some(momentum=self.number(0, 0.95), dampening=self.number(0, 0.5)),
                                         {"momentum": 0.9, "nesterov": True}),
                "Adam": lambda: {**self.some(betas=beta(), amsgrad=self.maybe(), decoupled_weight_decay=self.maybe()), **eps},
                "AdamW": lambda: {**self.some(betas=beta(), amsgrad=self.maybe()), **eps},
                "RMSprop": lambda: {**self.some(alpha=self.number(0.5, 1), momentum=self.number(0, 0.9), centered=self.maybe()), "eps": 1e-4},
                "Adagrad": lambda: {**self.some(lr_decay=self.number(0, 0.2), initial_accumulator_value=self.number(0, 1)), "eps": 1e-6},
                "Lion": lambda: self.some(betas=beta())}[kind]()
        out = {"type": kind, "lr": lr / 10 if kind == "Lion" else lr, **common, **args}
        if self.maybe(0.25) and any(v.dim() == 1 for v in self.trained()):
            names = [k for k, v in self.net.parameters().items()] if self.maybe() else []
            what = lambda: self.pick({"weight_decay": 0.0}, {"lr": lr / 3}, {"lr": lr / 2, "weight_decay": 0.1},
                                     *[{"betas": beta()}] * ("betas" in args), *[{"momentum": 0.5}] * ("momentum" in args and "nesterov" not in args))
            few = self.r.sample(names, min(len(names), self.r.randint(1, 3)))
            groups = [{"match": [k]} for k in few] or [{"match_ndim": 1}, *[{"match_ndim": 2}] * (self.maybe() and any(v.dim() == 2 for v in self.trained()))]
            out["param_groups"] = [{**which, **what()} for which in groups]
        return out

    def scheduler(self, kind=None, momentum=False):
        r = self.r
        kind = kind or self.pick("ConstantLR", "LinearLR", "CosineAnnealingLR", "StepLR", "MultiStepLR", "ExponentialLR",
                                 "PolynomialLR", "CosineAnnealingWarmRestarts", "OneCycleLR", "SequentialLR", "ReduceLROnPlateau")
        few = lambda: r.randint(1, 5)
        return {"type": kind, **{
            "ConstantLR": lambda: self.some(factor=self.number(0.1, 1), total_iters=few()),
            "LinearLR": lambda: self.some(start_factor=self.number(0.1, 1), end_factor=self.number(0, 1), total_iters=few()),
            "CosineAnnealingLR": lambda: {"T_max": few(), **self.some(eta_min=1e-4)},
            "StepLR": lambda: {"step_size": few(), **self.some(gamma=self.number(0.1, 1.5))},
            "MultiStepLR": lambda: {"milestones": sorted(r.sample(range(1, 6), 2)), **self.some(gamma=self.number(0.1, 1.5))},
            "ExponentialLR": lambda: {"gamma": self.number(0.3, 1.1)},
            "PolynomialLR": lambda: self.some(total_iters=few(), power=self.number(0.5, 2)),
            "CosineAnnealingWarmRestarts": lambda: {"T_0": few(), **self.some(T_mult=r.randint(1, 2), eta_min=1e-4)},
            "OneCycleLR": lambda: {"max_lr": 0.01, "total_steps": r.randint(7, 12), "cycle_momentum": momentum,
                                   **(self.some(base_momentum=self.number(0.3, 0.8), max_momentum=self.number(0.81, 0.99)) if momentum else {}),
                                   **self.some(pct_start=self.number(0.2, 0.6), anneal_strategy=self.pick("cos", "linear"), div_factor=self.number(2, 25),
                                               three_phase=self.maybe())},
            "ReduceLROnPlateau": lambda: {"monitor": "val/loss", "factor": self.number(0.1, 0.9), "patience": r.randint(0, 1),
                                          **self.some(mode=self.pick("min", "max"), threshold_mode=self.pick("rel", "abs"), threshold=self.number(0, 0.1),
                                                      cooldown=r.randint(0, 1), min_lr=1e-4)},
            "SequentialLR": lambda: {"milestones": [few()], "schedulers": [
                self.scheduler(self.pick("ConstantLR", "LinearLR")), self.scheduler(self.pick("StepLR", "CosineAnnealingLR", "ExponentialLR"))]},
        }[kind]()}

    def text(self, inputs, data, loss, batch):
        r = self.r
        self.batch = min(batch, self.n)
        while self.n % self.batch == 1:
            self.batch -= 1
        trainer = {"max_steps": r.randint(3, 6), "log_every_n_steps": 1, "val_check_interval": 2, "check_val_every_n_epoch": None}
        if self.maybe(0.3):
            trainer["gradient_clip_val"] = self.number(0.05, 1)
            trainer.update(self.some(gradient_clip_algorithm=self.pick("norm", *[] if self.complex else ["value"])))
        if self.maybe(0.3) and not self.drops:  # which numbers a micro-batch draws is not told
            trainer["accumulate_grad_batches"] = r.randint(2, 3)
        if self.maybe(0.3):
            trainer.update(self.some(limit_train_batches=self.pick(1, 2, 3, 0.5), limit_val_batches=self.pick(1, 2, 0.4)))
        optimizer = self.optimizer()
        moved = optimizer["type"] in ("Adam", "AdamW") or optimizer["type"] == "SGD" and optimizer.get("momentum", 0) > 0
        if any(set(g) & {"betas", "momentum"} for g in optimizer.get("param_groups", [])):
            moved = False
        scheduler = self.scheduler(momentum=moved and self.maybe()) if self.maybe(0.4) else None
        more = {}
        if self.maybe(0.2):
            more["ema"] = {"decay": self.number(0.1, 0.99), **self.some(every_n_steps=r.randint(1, 3))}
        if self.maybe(0.2) and self.mode == "64-true":  # ties of losses are anybody's choice
            trainer["max_steps"] += 6
            more["early_stopping"] = {"monitor": "val/loss", "patience": r.randint(1, 2), **self.some(
                mode=self.pick("min", "max"), min_delta=self.number(0, 0.1))}
        scaler = ""
        if self.mode == "16-mixed":
            scaler = {"init_scale": self.pick(64.0, 1024.0), **self.some(growth_interval=r.randint(1, 3), growth_factor=self.number(1.5, 4))}
            if self.maybe(0.4):  # the first step overflows, the ones behind it do not
                scaler.update(init_scale=2.0 ** 50, backoff_factor=2.0 ** -42)
            scaler = ", grad_scaler: " + flow(scaler)
        if scheduler and scheduler["type"] != "ReduceLROnPlateau" and self.maybe(0.2):
            scheduler["interval"] = "epoch"
        lines = "\n".join(f"    - {x}" for x in self.layers)
        blocks = f"  blocks: {flow(self.blocks)}\n" if self.blocks else ""
        outputs = f"  outputs: {flow(self.outputs)}\n" if self.outputs else ""
        return f"""mpcc: 1
name: torch_walk
seed: {r.randint(1, 99)}
model:
  inputs: {{{inputs}}}
{outputs}{blocks}  layers:
{lines}
loss: {loss}
data:
  train: {self.files()}
  val: {self.files()}
  loader: {flow({"batch_size": self.batch, **self.some(drop_last=self.maybe())})}
optimizer: {flow(optimizer)}
{"scheduler: " + flow(scheduler) if scheduler else ""}
trainer: {flow(trainer)}
{"metrics: " + flow(self.metrics) if self.metrics else ""}
{yaml_of(more)}precision: {{mode: {self.mode}, policy: cpu{scaler}}}
"""

    def any_spec(self):
        if self.maybe(0.8):
            return self.wide()
        return self.spec().replace("dropout_p: 0.1", "dropout_p: 0.0").replace("dropout: 0.1", "dropout: 0.0")
