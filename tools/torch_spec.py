"""Specs read by torch: the layers of a spec as torch.nn modules, its loss, optimizer, scheduler and metrics.

Written from torch's documentation and docs/spec.md, not from the frontend: what both make of a spec is
compared by tools/torch_walk.
"""
import fnmatch
import math
import re

import numpy as np
import torch
import yaml
from torch import nn
from torch.nn import functional as F

# the argument that the short form {Linear: 4} gives
FIRST = {"Linear": "out_features", "Embedding": "num_embeddings", "GroupNorm": "num_groups", "GELU": "approximate",
         "Dropout": "p", "LSTM": "hidden_size", "GRU": "hidden_size", "RNN": "hidden_size", "AdaptiveAvgPool2d": "output_size",
         "BatchNorm1d": "num_features", "BatchNorm2d": "num_features", "BatchNorm3d": "num_features",
         "PixelShuffle": "upscale_factor", "PixelUnshuffle": "downscale_factor", "LayerNorm": "normalized_shape", "RMSNorm": "normalized_shape",
         "LeakyReLU": "negative_slope", "PReLU": "num_parameters", "ELU": "alpha", "Softmax": "dim", "softmax": "dim",
         "log_softmax": "dim", "expr": "expr", "Upsample": "size", "cat": "dim", "ConvLSTM": "out_channels"}
FIRST.update({f"{t}{n}d": k for n in (1, 2, 3) for t, k in (("InstanceNorm", "num_features"), ("Dropout", "p"))})
FIRST.update({f"Adaptive{t}Pool{n}d": "output_size" for n in (1, 2, 3) for t in ("Avg", "Max")})
FIRST.update({f"{t}{n}d": k for n in (1, 2, 3) for t, k in
              (("Conv", "out_channels"), ("ConvTranspose", "out_channels"), ("MaxPool", "kernel_size"),
               ("AvgPool", "kernel_size"))})
COMMON = ("name", "type", "inputs", "freeze", "tie_weight", "init", "training", "precision")


def numbers(v):
    """YAML 1.1 takes 1e-3 for a word."""
    if isinstance(v, dict):
        return {k: numbers(x) for k, x in v.items()}
    if isinstance(v, list):
        return [numbers(x) for x in v]
    if isinstance(v, str):
        try:
            return float(v)
        except ValueError:
            return v
    return v


def read(text):
    return numbers(yaml.safe_load(text))


def filled(v, own):
    """v with $name replaced."""
    if isinstance(v, dict):
        return {k: filled(x, own) for k, x in v.items()}
    if isinstance(v, list):
        return [filled(x, own) for x in v]
    if isinstance(v, str) and v[:1] == "$":
        return own[v[1:]]
    return v.replace("$i", str(own["i"])) if isinstance(v, str) else v


def full_form(layer):
    """(type, arguments, all keys) of a layer in any form; type None for residual and parallel."""
    if isinstance(layer, str):
        return layer, {}, {}
    if "residual" in layer or "parallel" in layer:
        return None, {}, layer
    if "type" in layer:
        kind = layer["type"]
        return kind, {k: v for k, v in layer.items() if k not in COMMON}, layer
    kind = next(k for k in layer if k in FIRST and k not in COMMON or k[0].isupper())
    args = {k: v for k, v in layer.items() if k not in COMMON and k != kind}
    args[FIRST[kind]] = layer[kind]
    return kind, args, layer


def expression(text, values):
    """The grammar of `expr` is Python's but for c ? a : b, which is used here outside parentheses alone."""
    def tensor(v):
        return v if torch.is_tensor(v) else torch.tensor(v, dtype=next(iter(values.values())).dtype)
    two = lambda f: lambda a, b: f(tensor(a), tensor(b))
    known = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "exp": torch.exp, "log": torch.log, "sqrt": torch.sqrt,
             "abs": torch.abs, "max": two(torch.maximum), "min": two(torch.minimum), "erf": torch.erf,
             "where": lambda c, a, b: torch.where(c, tensor(a), tensor(b)), "floor": torch.floor, "sin": torch.sin, "cos": torch.cos, "pow": two(torch.pow)}
    choice = re.fullmatch(r"(.+) \? (.+) : (.+)", text)
    return eval("where({}, {}, {})".format(*choice.groups()) if choice else text, {"__builtins__": {}}, {**known, **values})


class Net:
    """The model: modules are made when a layer first runs, in_channels and the like from what it is given."""

    def __init__(self, model):
        self.layers, self.blocks = model["layers"], model.get("blocks") or {}
        self.seed, self.at, self.streams = 0, 0, {}  # of random numbers: steps seen, {layer: stream}
        self.modules, self.frozen, self.training, self.evaluated, self.mixed = {}, set(), True, False, False

    # ---- tensors ----
    def module(self, name, make):
        if name not in self.modules:
            self.modules[name] = make()
        self.modules[name].train(self.training and not self.evaluated)
        return self.modules[name]

    def tensors(self):
        out = {}
        for name, m in self.modules.items():
            for k, v in m.state_dict(keep_vars=True).items():
                out[name if k == "self" else f"{name}.{k}"] = v
        return out

    def parameters(self):
        own = {k: v for k, v in self.tensors().items() if isinstance(v, nn.Parameter)}
        for k, v in own.items():
            v.requires_grad_(not any(k == f or k.startswith(f + ".") for f in self.frozen))
        return {k: v for k, v in own.items() if v.requires_grad}

    def to(self, dtype):
        if dtype != torch.float64:
            for m in self.modules.values():
                for v in m.parameters():
                    v.data = v.data.to(torch.complex64 if v.is_complex() else dtype)
                for k, v in m.named_buffers():
                    v.data = v.data.to(dtype) if v.is_floating_point() else v.data

    def load(self, tensors):
        own = self.tensors()
        if set(own) != set(tensors):
            raise KeyError(f"names differ: mpcc alone {sorted(set(tensors) - set(own))}, "
                           f"torch alone {sorted(set(own) - set(tensors))}")
        with torch.no_grad():
            for k, v in own.items():
                v = torch.view_as_real(v) if v.is_complex() else v
                if v.shape != tensors[k].shape:
                    raise KeyError(f"{k}: mpcc has {list(tensors[k].shape)}, torch {list(v.shape)}")
                v.copy_(tensors[k])

    # ---- running ----
    def __call__(self, inputs):
        self.scope = dict(inputs)
        self.inputs = inputs
        y = self.sequence(self.layers, next(iter(inputs.values())), "")
        return y

    def sequence(self, layers, x, prefix, path=""):
        """prefix: of a block, before all names; path: of lists in layers, before numbers."""
        for i, layer in enumerate(layers):
            x = self.step(layer, x, i, path, prefix)
        return x

    def use(self, layer, x, prefix):
        block = self.blocks[layer["use"]]
        for i in range(layer.get("repeat", 1)):
            own = {"i": i, **layer.get("with", {})}
            name = str(filled(layer["name"], own))
            x = self.sequence(filled(block["layers"], own), x, f"{prefix}{name}.")
        return x

    def step(self, layer, x, index, path="", prefix=""):
        if isinstance(layer, dict) and "use" in layer:
            return self.use(layer, x, prefix)
        kind, args, keys = full_form(layer)
        rel = keys.get("name") or f"{path}{index}"
        name = prefix + rel
        given = keys.get("inputs")
        named = None
        if isinstance(given, dict):
            named = {k: self.scope[v] for k, v in given.items()}
            values = list(named.values())
        else:
            values = [x] if given is None else [self.scope[v] for v in ([given] if isinstance(given, str) else given)]
        if keys.get("freeze"):
            self.frozen.add(name)
        self.evaluated = keys.get("training") is False
        if self.mixed and keys.get("precision"):  # 32-true
            with torch.autocast("cpu", enabled=False):
                y = self.result(kind, args, keys, [v.float() if v.is_floating_point() else v for v in values], named, name, index, path, prefix)
        else:
            y = self.result(kind, args, keys, values, named, name, index, path, prefix)
        if isinstance(y, (tuple, list)):
            for k, part in enumerate(y):
                self.scope[f"{rel}.{k}"] = part
        self.scope[rel] = self.scope[name] = y
        return y

    def result(self, kind, args, keys, values, named, name, index, path, prefix):
        if kind is None:
            y = self.joined(keys, values[0], f"{path}{index}.", prefix)
        elif kind == "Parameter":
            y = self.module(name, lambda: Tensor(args["shape"])).self
            if args.get("expand_batch"):
                y = y.expand(len(next(iter(self.inputs.values()))), *y.shape[1:])
        elif keys.get("tie_weight"):
            w = self.modules[keys["tie_weight"]].weight
            if kind == "Embedding":
                y = F.embedding(values[0], w)
            else:
                b = args.get("bias", True) and self.module(name, lambda: Tensor([len(w)], "bias")).bias
                y = F.linear(values[0], w, b if torch.is_tensor(b) else None)
        else:
            y = self.layer(kind, name, args, values, named)
        return y

    def joined(self, keys, x, path, prefix):
        body = keys.get("residual")
        if body is not None:
            if isinstance(body, dict):
                short = body.get("shortcut")
                f = self.sequence(body["body"], x, prefix, path)
                return (self.sequence(short, x, prefix, path + "shortcut.") if short else x) + f
            return x + self.sequence(body, x, prefix, path)
        body = keys["parallel"]
        ys = [self.sequence(b, x, prefix, f"{path}{i}.") for i, b in enumerate(body["branches"])]
        if body["combine"] == "cat":
            return torch.cat(ys, body.get("dim", 1))
        y = ys[0]
        for z in ys[1:]:
            y = y + z if body["combine"] == "add" else y * z
        return y

    def layer(self, kind, name, a, values, named):
        x = values[0]
        make = lambda f, *args, **kw: self.module(name, lambda: f(*args, **kw))(x)
        kw = {k: tuple(v) if isinstance(v, list) else v for k, v in a.items()}
        if kind.startswith(("Conv", "Linear", "LSTM", "GRU", "RNN")):
            kw.pop("in_channels", None)
        if kind.startswith("Conv"):
            return make(getattr(nn, kind), x.shape[1], **kw)
        if kw.get("dtype") == "complex":
            kw["dtype"] = torch.complex128
        if kind == "Linear":
            return make(nn.Linear, x.shape[-1], **kw)
        if kind.startswith(("BatchNorm", "InstanceNorm")):
            return make(getattr(nn, kind), **{"num_features": x.shape[1], **kw})
        if kind == "GroupNorm":
            return make(nn.GroupNorm, **{"num_channels": x.shape[1], **kw})
        if kind in ("LayerNorm", "RMSNorm"):
            kw.setdefault("normalized_shape", x.shape[-1])
            return make(getattr(nn, kind), **kw)
        if kind in ("LSTM", "GRU", "RNN"):
            return self.recurrent(kind, name, kw, values)
        if kind in ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "StochasticDepth"):
            p = kw.get("p", 0.5)
            if not p or not self.training or self.evaluated:
                return x
            axes = {"Dropout": x.dim(), "StochasticDepth": 1}.get(kind, 2)
            shape = list(x.shape[:axes]) if kw.get("mode") != "batch" else [1]
            keep = philox(self.seed, self.at, self.streams.get(name, 0), math.prod(shape)) >= p
            return x * keep.reshape(shape + [1] * (x.dim() - len(shape))).to(x.dtype) / (1 - p)
        if kind == "Hardsigmoid":  # the slope of torch's own is 1 / 6 as a float, in double too
            return F.relu6(x + 3) / 6
        if kind == "ConvLSTM":
            return self.module(name, lambda: ConvLSTM(x.shape, **kw))(x)
        if kind == "MultiheadAttention":
            return self.multihead(name, kw, values, named)
        if kind == "scaled_dot_product_attention":
            return attention(kw, values, named)
        if kind == "RotaryEmbedding":
            return rotary(x, **kw)
        if kind == "expr":
            return expression(kw["expr"], named or dict(zip("abcdefgh", values)))
        if kind in FUNCTIONS:
            return FUNCTIONS[kind](values, kw)
        return make(getattr(nn, kind), **kw)

    def recurrent(self, kind, name, kw, values):
        output, first = kw.pop("output", "sequence"), kw.pop("batch_first", True)
        x = values[0]
        m = self.module(name, lambda: getattr(nn, kind)(x.shape[-1], batch_first=first, **kw))
        # states go in and out with the batch where x has it
        turn = lambda v: v.transpose(0, 1) if first else v
        states = tuple(turn(v).contiguous() for v in values[1:])
        y, last = m(x, *((states if kind == "LSTM" else states[0]),) if states else ())
        if output == "sequence":
            return y
        h = last if kind != "LSTM" else last[0 if output == "h_n" else 1]
        return turn(h)

    def multihead(self, name, kw, values, named):
        causal, first = kw.pop("is_causal", False), kw.pop("batch_first", True)
        v = named or dict(zip(("query", "key", "value", "attn_mask", "key_padding_mask"), values))
        q = v["query"]
        k = v.get("key", q)
        val = v.get("value", k)
        m = self.module(name, lambda: nn.MultiheadAttention(
            **{"embed_dim": q.shape[-1], "kdim": k.shape[-1], "vdim": val.shape[-1], "batch_first": first, **kw}))
        t, s = q.shape[1 if first else 0], k.shape[1 if first else 0]
        mask, padding = v.get("attn_mask"), v.get("key_padding_mask")
        as_added = lambda x: x if x is None or x.is_floating_point() else torch.zeros(
            x.shape, dtype=q.dtype).masked_fill(x != 0, -math.inf)
        mask, padding = as_added(mask), as_added(padding)
        if mask is not None and mask.dim() == 3:
            mask = mask.repeat_interleave(m.num_heads, 0)
        if causal:
            hide = torch.full((t, s), -math.inf, dtype=q.dtype).triu(1)
            mask = hide if mask is None else mask + hide
        return m(q, k, val, attn_mask=mask, key_padding_mask=padding, need_weights=False)[0]


def philox(seed, step, stream, n):
    """include/mpcc/philox.h: n numbers of [0, 1), as ir/scalar.c takes them of element, step and stream."""
    x = [np.arange(n, dtype=np.uint64)] + [np.full(n, v, np.uint64) for v in (0, step, stream)]
    k, low = [seed & 0xFFFFFFFF, seed >> 32], np.uint64(0xFFFFFFFF)
    for _ in range(10):
        p, q = x[0] * np.uint64(0xD2511F53), x[2] * np.uint64(0xCD9E8D57)
        x = [q >> np.uint64(32) ^ x[1] ^ np.uint64(k[0]), q & low, p >> np.uint64(32) ^ x[3] ^ np.uint64(k[1]), p & low]
        k = [(k[0] + 0x9E3779B9) % 2 ** 32, (k[1] + 0xBB67AE85) % 2 ** 32]
    return torch.tensor((x[0] >> np.uint64(8)).astype(np.float64) * 2.0 ** -24)


class ConvLSTM(nn.Module):
    """Shi et al. 2015, equation 3, over [N, T, C, H, W]; gates i, f, g, o along the channels."""

    def __init__(self, shape, out_channels, kernel_size, bias=True, peephole=False, output="sequence"):
        super().__init__()
        self.c, self.output = out_channels, output
        k = [kernel_size] * 2 if isinstance(kernel_size, int) else list(kernel_size)
        put = lambda name, *s: setattr(self, name, nn.Parameter(torch.randn(s) * 0.2))
        put("weight_ih", 4 * self.c, shape[2], *k)
        put("weight_hh", 4 * self.c, self.c, *k)
        self.bias = None
        if bias:
            put("bias", 4 * self.c)
        for gate in "ifo" if peephole else "":
            put("weight_c" + gate, self.c, *shape[3:])
        self.peephole = peephole

    def forward(self, x):
        h = x.new_zeros(len(x), self.c, *x.shape[3:])
        c, ys = h, []
        for t in range(x.shape[1]):
            z = F.conv2d(x[:, t], self.weight_ih, self.bias, padding="same") + F.conv2d(h, self.weight_hh, padding="same")
            i, f, g, o = z.chunk(4, 1)
            if self.peephole:
                i, f = i + self.weight_ci * c, f + self.weight_cf * c
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            if self.peephole:
                o = o + self.weight_co * c
            h = o.sigmoid() * c.tanh()
            ys.append(h)
        return torch.stack(ys, 1) if self.output == "sequence" else h if self.output == "h_n" else c


class Tensor(nn.Module):
    """One trained tensor."""

    def __init__(self, shape, name="self"):
        super().__init__()
        setattr(self, name, nn.Parameter(torch.randn([int(s) for s in shape]) * 0.3))


def attention(kw, values, named):
    heads = kw.pop("num_heads")
    kv = kw.pop("num_kv_heads", None) or heads
    kw.pop("enable_gqa", None)
    v = named or dict(zip(("query", "key", "value", "attn_mask"), values))
    if kw.pop("packed", None):
        d = values[0].shape[-1] // (heads + 2 * kv)
        q, k, val = values[0].split([heads * d, kv * d, kv * d], -1)
    else:
        q, k, val = v["query"], v["key"], v["value"]
    split = lambda x, h: x.unflatten(-1, (h, -1)).transpose(1, 2)
    mask = v.get("attn_mask")
    if mask is not None and not mask.is_floating_point():
        mask = mask != 0
    if mask is not None and mask.dim() == 3:
        mask = mask[:, None]
    causal = kw.pop("is_causal", False)
    if mask is not None and causal:
        raise ValueError("torch refuses a mask beside is_causal")
    y = F.scaled_dot_product_attention(split(q, heads), split(k, kv), split(val, kv), attn_mask=mask, is_causal=causal,
                                       enable_gqa=kv != heads, **kw)
    return y.transpose(1, 2).flatten(2)


def rotary(x, num_heads, base=10000.0, interleaved=False):
    y = x.unflatten(-1, (num_heads, -1))
    d = y.shape[-1]
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    angle = torch.arange(x.shape[1], dtype=wide)[:, None] * base ** (-torch.arange(0, d, 2, dtype=wide) / d)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    a, b = (y[..., 0::2], y[..., 1::2]) if interleaved else (y[..., :d // 2], y[..., d // 2:])
    c, e = a * cos - b * sin, b * cos + a * sin
    y = torch.stack([c, e], -1).flatten(-2) if interleaved else torch.cat([c, e], -1)
    return y.flatten(2).to(x.dtype)


def folded(f):
    def g(v, kw):
        alpha = kw.get("alpha", 1.0)
        y = v[0]
        for z in v[1:] or [kw["other"]]:
            y = f(y, z * alpha if alpha != 1 else z)
        return y
    return g


def resized(v, kw):
    kw = dict(kw)
    if not kw.get("align_corners") and kw.get("mode", "nearest") in ("nearest", "nearest-exact", "area"):
        kw.pop("align_corners", None)
    y = F.interpolate(v[0], **kw)
    if v[0].dim() == 3 and y.shape == v[0].shape and kw.get("mode", "nearest") == "nearest" and kw.get("scale_factor"):
        raise ValueError("torch 2.15 has another gradient here than its forward says")
    kept = (2,) if v[0].dim() == 4 else (1, 2)
    formats = any(b == k * a for a, b in zip(v[0].shape[2:], y.shape[2:]) for k in kept)
    if kw.get("mode", "nearest") == "nearest" and kw.get("scale_factor") not in (None, 1.0, 2.0) and formats:
        raise ValueError("torch 2.15 copies these axes or follows their factor as the memory format says")
    return y


def cut(f):
    def g(v, kw):
        parts = f(v[0], **{k: list(x) if isinstance(x, tuple) else x for k, x in kw.items() if k != "index"})
        return parts[kw["index"]] if "index" in kw else parts
    return g


def counted(v, kw):
    shape = [1] * v[0].dim()
    shape[kw["dim"]] = -1
    whole = v[0].is_floating_point()
    return torch.arange(v[0].shape[kw["dim"]], dtype=v[0].dtype if whole else torch.int64).reshape(shape)


FUNCTIONS = {
    "add": folded(lambda a, b: a + b), "sub": folded(lambda a, b: a - b), "mul": folded(lambda a, b: a * b),
    "div": folded(lambda a, b: a / b), "matmul": lambda v, kw: torch.matmul(v[0], v[1]),
    "exp": lambda v, kw: torch.exp(v[0]), "log": lambda v, kw: torch.log(v[0]), "sqrt": lambda v, kw: torch.sqrt(v[0]),
    "abs": lambda v, kw: torch.abs(v[0]), "pow": lambda v, kw: torch.pow(v[0], kw["exponent"]),
    "softmax": lambda v, kw: F.softmax(v[0], **kw), "log_softmax": lambda v, kw: F.log_softmax(v[0], **kw),
    "cat": lambda v, kw: torch.cat(v, kw["dim"]), "chunk": cut(torch.chunk), "split": cut(torch.split),
    "reshape": lambda v, kw: v[0].reshape(*kw["shape"]), "view": lambda v, kw: v[0].reshape(*kw["shape"]),
    "permute": lambda v, kw: v[0].permute(*kw["dims"]), "squeeze": lambda v, kw: v[0].squeeze(kw["dim"]),
    "unsqueeze": lambda v, kw: v[0].unsqueeze(kw["dim"]),
    "transpose": lambda v, kw: v[0].transpose(kw["dim0"], kw["dim1"]),
    "select": lambda v, kw: v[0].select(kw["dim"], kw["index"]), "mean": lambda v, kw: v[0].mean(**kw),
    "sum": lambda v, kw: v[0].sum(**kw), "pad": lambda v, kw: F.pad(v[0], **kw), "arange_like": counted,
    "interpolate": resized, "Upsample": resized,
    "max": lambda v, kw: v[0].max(**kw).values, "detach": lambda v, kw: v[0].detach(),
    "roll": lambda v, kw: v[0].roll(**kw),
    "fft": lambda v, kw: torch.fft.fft(v[0], **kw), "ifft": lambda v, kw: torch.fft.ifft(v[0], **kw),
    "complex": lambda v, kw: torch.complex(v[0], v[1]), "real": lambda v, kw: v[0].real,
    "view_as_real": lambda v, kw: torch.view_as_real(v[0].resolve_conj()),
    "view_as_complex": lambda v, kw: torch.view_as_complex(v[0].contiguous()), "imag": lambda v, kw: v[0].imag, "conj": lambda v, kw: v[0].conj(),
}


# ---- losses ----

def with_classes(kind):
    return kind in ("CrossEntropyLoss", "NLLLoss")


def class_rows(x, target):
    """Classes last in [N, C] and [N, T, C]; behind the batch in images."""
    if x.dim() > 3:
        x = x.movedim(1, -1)
    return x.flatten(0, -2), target.flatten()


class Loss:
    """Terms of a spec's loss; a term is {type, inputs, factor, arguments of torch's class}."""

    def __init__(self, spec):
        terms = spec["loss"] if isinstance(spec["loss"], list) else [spec["loss"]]
        self.terms = [{"type": t} if isinstance(t, str) else t for t in terms]

    def __call__(self, scope, logits):
        """(loss, its weight among micro-batches)"""
        scope = {**scope, "logits": logits}
        total = 0
        for t in self.terms:
            a = {k: v for k, v in t.items() if k not in ("type", "inputs", "factor")}
            names = t.get("inputs") or {"input": "logits", "target": "label"}
            if t["type"] == "expr":
                e = expression(a["expr"], {k: scope[v] for k, v in names.items()})
                term = e.sum() if a.get("reduction") == "sum" else e.mean()
            else:
                x, y = scope[names.get("input", "logits")], scope[names.get("target", "label")]
                for k in ("weight", "pos_weight"):
                    if k in a:
                        a[k] = torch.tensor(a[k], dtype=x.dtype)
                if with_classes(t["type"]):
                    x, y = class_rows(x, y.long())
                term = getattr(nn, t["type"])(**a)(x, y if with_classes(t["type"]) else y.to(x.dtype))
            total = total + t.get("factor", 1.0) * term
        n = len(logits)
        t = self.terms[0]
        if len(self.terms) > 1 or t.get("reduction", "mean") == "batchmean":
            return total, n
        if t.get("reduction") == "sum":
            return total, 1
        if with_classes(t["type"]):
            y = y[y != t.get("ignore_index", -100)]
            return total, (a["weight"][y].sum().item() if "weight" in t else len(y))
        return total, n


# ---- training ----

def optimizer_of(spec, named):
    o = dict(spec["optimizer"])
    kind, groups = o.pop("type"), o.pop("param_groups", [])
    if "betas" in o:
        o["betas"] = tuple(o["betas"])
    rest, out = dict(named), []
    for g in groups:
        g = {k: tuple(v) if k == "betas" else v for k, v in g.items()}
        match, ndim = g.pop("match", None), g.pop("match_ndim", None)
        mine = [k for k, v in rest.items()
                if (match is None or any(fnmatch.fnmatchcase(k, m) for m in match)) and (ndim is None or v.dim() == ndim)]
        out.append({"params": [rest.pop(k) for k in mine], **g})
    out.append({"params": list(rest.values()), "rest": True})
    out = [g for g in out if g["params"]]
    for g in out:
        g.pop("match", None)
    return (Lion if kind == "Lion" else getattr(torch.optim, kind))(out, **o)


class Lion(torch.optim.Optimizer):
    """Chen et al. 2023, algorithm 2. noise: whether the sign of a rounding error was taken."""

    noise = False

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, maximize=False):
        super().__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay, maximize=maximize))

    @torch.no_grad()
    def step(self):
        for g in self.param_groups:
            for p in g["params"]:
                if p.grad is None:
                    continue
                grad = -p.grad if g["maximize"] else p.grad
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                b1, b2 = g["betas"]
                u = b1 * m + (1 - b1) * grad
                self.noise |= bool(((u.abs() < 1e-12) & ((grad != 0) | (m != 0))).any())
                p.mul_(1 - g["lr"] * g["weight_decay"]).sub_(g["lr"] * u.sign())
                m.mul_(b2).add_(grad, alpha=1 - b2)


def scheduler_of(s, optimizer):
    s = dict(s)
    kind = s.pop("type")
    s.pop("interval", None)
    s.pop("monitor", None)
    if kind == "SequentialLR":
        parts = [scheduler_of(p, optimizer) for p in s["schedulers"]]
        return torch.optim.lr_scheduler.SequentialLR(optimizer, parts, milestones=s["milestones"])
    return getattr(torch.optim.lr_scheduler, kind)(optimizer, **s)


def metric(m, x, target, ignore):
    """One number over all of the validation data."""
    kind = m["type"]
    if kind in ("MeanSquaredError", "MeanAbsoluteError"):
        d = x - target
        return ((d * d) if kind == "MeanSquaredError" else d.abs()).mean().item()
    if m.get("task") == "binary":
        keep = target != ignore if ignore is not None else target == target
        p, t = torch.sigmoid(x)[keep] > m.get("threshold", 0.5), target[keep] > 0.5
        if kind == "Accuracy":
            return (p == t).double().mean().item()
        tp, fp, fn = ((p & t).sum().item(), (p & ~t).sum().item(), (~p & t).sum().item())
        all = {"Precision": tp + fp, "Recall": tp + fn, "F1Score": tp + (fp + fn) / 2}[kind]
        return tp / all if all else 0.0
    x, y = class_rows(x, target.long())
    x, y = x[y != ignore], y[y != ignore]
    if kind == "Accuracy":
        return (x.topk(m.get("top_k", 1)).indices == y[:, None]).any(1).double().mean().item()
    if kind in ("Perplexity", "BitsPerByte"):
        nll = F.cross_entropy(x, y).item()
        return math.exp(min(nll, 700)) if kind == "Perplexity" else nll / math.log(2) / m.get("bytes_per_token", 1)
    p, c = x.argmax(1), x.shape[1]
    hit = torch.zeros(c).double().index_add_(0, y, (p == y).double())
    seen, said = torch.bincount(y, minlength=c).double(), torch.bincount(p, minlength=c).double()
    if m.get("average", "micro") == "micro":
        return (hit.sum() / len(y)).item()
    value = {"Precision": hit / said, "Recall": hit / seen, "F1Score": 2 * hit / (said + seen)}[kind]
    value = value.nan_to_num(0)
    if m["average"] == "weighted":
        return ((value * seen).sum() / len(y)).item()
    return value[(seen + said) > 0].mean().item()
