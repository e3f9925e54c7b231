"""What tools/walk and tools/torch_walk share: random specs, programs run in a folder, the loop over seeds."""
import argparse
import json
import os
import random
import shutil
import subprocess
import sys

POINTWISE = ["ReLU", "GELU", "{GELU: tanh}", "SiLU", "Tanh", "Sigmoid", "LeakyReLU", "Hardswish", "ELU", "Mish",
             "Softplus", "PReLU", "Identity", "{Dropout: 0.2}"]


class Walk:
    """A spec of random layers; spec() writes it. pointwise, *_source and text are for
    subclasses to replace."""

    pointwise = POINTWISE

    def __init__(self, seed):
        self.r = random.Random(seed)
        self.layers = []
        self.names = 0

    def add(self, text):
        self.layers.append(text)

    def name(self):
        self.names += 1
        return f"n{self.names}"

    def pick(self, *choices):
        return self.r.choice(choices)

    def unnamed(self):
        """Numbers of the layers without a name, half of them."""
        return [i for i, x in enumerate(self.layers) if "name:" not in x and self.r.random() < 0.5]

    def image_source(self, shape, classes, samples):
        return f"{{format: synthetic, shape: {shape}, classes: {classes}, samples: {samples}}}"

    def text_source(self, length):
        return f"{{format: text, path: text, sequence_length: {length}}}"

    # ---- images [C, H, W] ----
    def image(self, c, h, w, depth):
        r = self.r
        for _ in range(depth):
            kind = self.pick("conv", "conv", "norm", "pool", "point", "residual", "branch", "grouped", "up", "expr", "pad")
            if kind == "conv" or kind == "grouped":
                k, s, d = r.choice([1, 2, 3, 5]), r.choice([1, 1, 2, 3]), r.choice([1, 1, 2])
                p = r.randint(0, k - 1)
                ho, wo = [(v + 2 * p - d * (k - 1) - 1) // s + 1 for v in (h, w)]
                if min(ho, wo) < 1:
                    continue
                o = r.choice([1, 3, 4, 8, 12, 17])
                g = 1
                if kind == "grouped":
                    g = r.choice([v for v in range(1, c + 1) if c % v == 0])
                    o = g * r.randint(1, 3)
                self.add(f"{{Conv2d: {o}, kernel_size: {k}, stride: {s}, padding: {p}, dilation: {d}, groups: {g}, bias: {str(r.random() < .6).lower()}}}")
                c, h, w = o, ho, wo
            elif kind == "norm":
                groups = r.choice([v for v in range(1, c + 1) if c % v == 0])
                if h * w > 1 and (c // groups) * h * w > 1:
                    self.add(self.pick("BatchNorm2d", f"{{GroupNorm: {groups}}}", "InstanceNorm2d"))
            elif kind == "pool" and min(h, w) >= 3:
                k, s = r.choice([2, 3]), r.choice([1, 2])
                self.add(f"{{{self.pick('MaxPool2d', 'AvgPool2d')}: {k}, stride: {s}}}")
                h, w = (h - k) // s + 1, (w - k) // s + 1
            elif kind == "point":
                self.add(self.pick(*self.pointwise))
            elif kind == "residual":
                self.add(f"residual: [{{Conv2d: {c}, kernel_size: 3, padding: 1}}, {self.pick(*self.pointwise)}, {{Conv2d: {c}, kernel_size: 1}}]")
            elif kind == "branch":
                a, b, o = self.name(), self.name(), r.choice([2, 3, 8])
                self.add(f"{{name: {a}, Conv2d: {o}, kernel_size: 1}}")
                self.add(f"{{name: {b}, Conv2d: {c}, kernel_size: 3, padding: 1}}")
                self.add(f"{{type: cat, dim: 1, inputs: [{b}, {a}]}}")
                c += o
            elif kind == "up" and h * w < 100:
                self.add(self.pick("{type: Upsample, scale_factor: 2, mode: nearest}",
                                   "{type: Upsample, scale_factor: 2, mode: bilinear}",
                                   f"{{ConvTranspose2d: {c}, kernel_size: 2, stride: 2}}"))
                h, w = 2 * h, 2 * w
            elif kind == "expr":
                n = self.name()
                self.add(f"{{name: {n}, type: Identity}}")
                self.add(f"{{expr: '{self.pick('x * sigmoid(x)', 'x / (1 + abs(x))', 'tanh(x) + 0.1 * x', 'max(x, 0.1 * x)')}', inputs: {{x: {n}}}}}")
            elif kind == "pad":
                self.add("{type: pad, pad: [1, 0, 0, 1]}")
                h, w = h + 1, w + 1
        return c, h, w

    # ---- sequences [T, C] ----
    def sequence(self, t, c, depth):
        r = self.r
        for _ in range(depth):
            kind = self.pick("norm", "attention", "mlp", "linear", "point", "residual", "recurrent", "conv1", "softmax", "mixer")
            if kind == "norm":
                self.add(self.pick("LayerNorm", "RMSNorm", "{type: LayerNorm, bias: false}"))
            elif kind == "attention":
                heads = r.choice([v for v in (1, 2, 3, 4) if c % v == 0])
                self.add(f"residual: [LayerNorm, {{type: MultiheadAttention, num_heads: {heads}, is_causal: {str(r.random() < .5).lower()}, dropout: {r.choice([0.0, 0.1])}}}]")
            elif kind == "mlp":
                self.add(f"residual: [{self.pick('LayerNorm', 'RMSNorm')}, {{Linear: {r.choice([16, 24, 40])}}}, {self.pick('GELU', 'SiLU')}, {{Linear: {c}}}]")
            elif kind == "linear":
                c = r.choice([8, 12, 16, 32, 33])
                self.add(f"{{Linear: {c}, bias: {str(r.random() < .6).lower()}}}")
            elif kind == "point":
                self.add(self.pick(*[x for x in self.pointwise if not x.startswith(("PReLU", "Identity"))]))
            elif kind == "residual":
                self.add(f"residual: [{{Linear: {c}}}, {self.pick('ReLU', 'Tanh')}]")
            elif kind == "recurrent" and t <= 20:
                c = r.choice([8, 12, 20])
                self.add(f"{{{self.pick('LSTM', 'GRU')}: {c}, num_layers: {r.choice([1, 2])}}}")
            elif kind == "conv1":
                o = r.choice([8, 16])
                self.add("{type: transpose, dim0: 1, dim1: 2}")
                self.add(f"{{Conv1d: {o}, kernel_size: 3, padding: 1}}")
                self.add("{type: transpose, dim0: 1, dim1: 2}")
                c = o
            elif kind == "softmax":
                self.add("{type: softmax, dim: -1}")
            elif kind == "mixer":
                self.add(f"residual: [LayerNorm, {{type: transpose, dim0: 1, dim1: 2}}, {{Linear: {t}}}, GELU, {{type: transpose, dim0: 1, dim1: 2}}]")
        return t, c

    # ---- tokens [T] ----
    def tokens(self):
        r = self.r
        t, kv, group, hd = r.choice([5, 16, 24, 33]), r.choice([1, 2]), r.choice([1, 2, 3]), r.choice([4, 8, 10])
        d = kv * group * hd
        self.add(f"{{name: tokens_in, Embedding: 256, embedding_dim: {d}}}")
        if r.random() < 0.4:
            self.add(f"{{name: at, type: Parameter, shape: [{t}, {d}], init: {{normal: {{std: 0.02}}}}}}")
            self.add("{type: add, inputs: [tokens_in, at]}")
        for i in range(r.randint(1, 3)):
            if r.random() < 0.5:
                n, rot = f"b{i}", r.random() < 0.6
                rotary = [f"{{name: {n}{x}r, type: RotaryEmbedding, num_heads: {h}, inputs: {n}{x}}}" for x, h in (("q", kv * group), ("k", kv))]
                q, k = (f"{n}qr", f"{n}kr") if rot else (f"{n}q", f"{n}k")
                mask = r.choice(["is_causal: true", "is_causal: false", "is_causal: true, dropout_p: 0.1"])
                inner = [f"{{name: {n}n, type: {self.pick('RMSNorm', 'LayerNorm')}}}",
                         f"{{name: {n}q, Linear: {d}, inputs: {n}n, bias: false}}", f"{{name: {n}k, Linear: {kv * hd}, inputs: {n}n}}",
                         f"{{name: {n}v, Linear: {kv * hd}, inputs: {n}n}}"] + (rotary if rot else []) + [
                         f"{{type: scaled_dot_product_attention, inputs: {{query: {q}, key: {k}, value: {n}v}}, num_heads: {kv * group}, num_kv_heads: {kv}, {mask}}}",
                         f"{{Linear: {d}}}"]
                self.add("residual: [" + ", ".join(inner) + "]")
                wide = r.choice([16, 24, 40])
                self.add(f"residual: [RMSNorm, {{parallel: {{combine: mul, branches: [[{{Linear: {wide}}}, SiLU], [{{Linear: {wide}}}]]}}}}, {{Linear: {d}}}]")
            else:
                self.sequence(t, d, 1)
                self.add(f"{{Linear: {d}}}")
        self.add(self.pick("{name: head, Linear: 256, bias: false, tie_weight: tokens_in}", "{name: head, Linear: 256}"))
        return (f"tokens: {{shape: [{t}], dtype: int32}}", self.text_source(t),
                self.pick("{type: CrossEntropyLoss, inputs: {input: head, target: next_tokens}}",
                          "{type: CrossEntropyLoss, label_smoothing: 0.1, inputs: {input: head, target: next_tokens}}"))

    # ---- volumes and lines ----
    def volume(self):
        r = self.r
        shape = [r.choice([1, 2, 3])] + [r.randint(3, 7) for _ in range(3)]
        c, dims = shape[0], shape[1:]
        for _ in range(r.randint(1, 3)):
            k, st, g = r.choice([1, 2, 3]), r.choice([1, 2]), r.choice([1, c]) if c < 9 else 1
            pad, o = r.randint(0, k - 1), g * r.choice([2, 4, 5, 8])
            if min(dims) + 2 * pad < k:
                continue
            dims = [(v + 2 * pad - k) // st + 1 for v in dims]
            self.add(f"{{Conv3d: {o}, kernel_size: {k}, stride: {st}, padding: {pad}, groups: {g}}}")
            c = o
            if dims[0] * dims[1] * dims[2] > 1:
                self.add(self.pick("BatchNorm3d", "ReLU", "GELU"))
        self.add("Flatten")
        return shape

    def spec(self):
        kind = self.pick("image", "image", "tokens", "volume")
        samples, batch = self.r.choice([40, 48, 70]), self.r.choice([4, 8, 16, 7])
        if kind == "tokens":
            inputs, data, loss = self.tokens()
            return self.text(inputs, data, loss, batch)
        shape = self.volume() if kind == "volume" else self.picture()
        classes = self.r.choice([2, 5, 10, 16])
        self.add(f"{{Linear: {classes}}}")
        data = self.image_source(shape, classes, samples)
        loss = self.pick("CrossEntropyLoss", "{type: CrossEntropyLoss, label_smoothing: 0.1}")
        return self.text(f"image: {{shape: {shape}}}", data, loss, batch)

    def picture(self):
        r = self.r
        c, h, w = self.pick(1, 3), r.randint(4, 17), r.randint(4, 17)
        shape = [c, h, w]
        ci, hi, wi = self.image(c, h, w, r.randint(0, 5))
        if r.random() < 0.6:
            o = r.choice([8, 12, 16, 24])
            if hi * wi > 64 and min(hi, wi) >= 4:
                self.add(f"{{Conv2d: {o}, kernel_size: 4, stride: 4}}")
                hi, wi = hi // 4, wi // 4
            else:
                self.add(f"{{Conv2d: {o}, kernel_size: 1}}")
            self.add("{type: Flatten, start_dim: 2}")
            self.add("{type: transpose, dim0: 1, dim1: 2}")
            self.sequence(hi * wi, o, r.randint(1, 5))
            self.add(self.pick("{type: mean, dim: 1}", "{type: select, dim: 1, index: 0}", "Flatten"))
        else:
            self.add(self.pick("{AdaptiveAvgPool2d: 1}", "Identity"))
            self.add("Flatten")
        for _ in range(r.randint(0, 2)):
            self.add(f"{{Linear: {r.choice([8, 16, 24, 32])}}}")
            self.add(self.pick("ReLU", "GELU", "BatchNorm1d", "LayerNorm"))
        return shape

    def text(self, inputs, data, loss, batch):
        r = self.r
        optimizer = self.pick("{type: AdamW, lr: 1e-3}", "{type: SGD, lr: 1e-2, momentum: 0.9}", "{type: Adam, lr: 1e-3, weight_decay: 0.01}",
                              "{type: RMSprop, lr: 1e-3}", "{type: Adagrad, lr: 1e-2}", "{type: Lion, lr: 1e-4}")
        trainer = {"max_steps": 3, "log_every_n_steps": 1}
        if r.random() < 0.5:
            trainer["gradient_clip_val"] = 1.0
        if r.random() < 0.3:
            trainer["accumulate_grad_batches"] = 2
        lines = "\n".join(f"    - {x}" for x in self.layers)
        return f"""mpcc: 1
name: walk
seed: {r.randint(1, 99)}
model:
  inputs: {{{inputs}}}
  layers:
{lines}
loss: {loss}
data:
  train: {data}
  loader: {{batch_size: {batch}}}
optimizer: {optimizer}
trainer: {json.dumps(trainer)}
"""


class Fault(Exception):
    pass


class Runs:
    """mpcc on spec.yaml in a folder of its own."""

    def __init__(self, mpcc, folder):
        self.mpcc, self.folder = os.path.abspath(mpcc), folder

    def run(self, *args):
        return subprocess.run([self.mpcc, *args], cwd=self.folder, capture_output=True, text=True, timeout=600)

    def train(self, out, *args):
        shutil.rmtree(os.path.join(self.folder, out), ignore_errors=True)
        return self.more(out, *args)

    def more(self, out, *args):
        p = self.run("run", "spec.yaml", "--quiet", "--out", out, *args)
        if p.returncode not in (0, 10):
            raise Fault(f"run {' '.join(args)}: exit {p.returncode}\n{p.stderr[-1500:]}")
        return p.returncode

    def rows(self, out):
        with open(os.path.join(self.folder, out, "metrics.jsonl")) as f:
            return [json.loads(x) for x in f]

    def losses(self, out):
        return [(x["loss"], x["grad_norm"]) for x in self.rows(out) if "grad_norm" in x]

    def weights(self, out):
        files = []
        for name in ("model", "optimizer"):
            with open(os.path.join(self.folder, out, f"checkpoints/last/{name}.safetensors"), "rb") as f:
                files.append(f.read())
        return files


def search(doc, name, judge, options=()):
    """judge(runs, seed, arguments) of every seed; it writes spec.yaml first, and a Fault says what deviates.

    options: (flag, {what argparse takes}) beside those every search has."""
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("mpcc")
    p.add_argument("--seeds", default="1-20")
    p.add_argument("--keep", default=name)
    for flag, how in options:
        p.add_argument(flag, **how)
    a = p.parse_args()
    first, last = (int(x) for x in a.seeds.split("-"))
    faults = 0
    for seed in range(first, last + 1):
        folder = os.path.join(a.keep, str(seed))
        os.makedirs(folder, exist_ok=True)
        try:
            judge(Runs(a.mpcc, folder), seed, a)
            shutil.rmtree(folder)
        except (Fault, subprocess.TimeoutExpired) as e:
            faults += 1
            print(f"seed {seed}, {e}", flush=True)
    print(f"{last - first + 1} models, {faults} deviate")
    sys.exit(faults > 0)
