#!/usr/bin/env python3
"""Makes the reference runs of tests/train with PyTorch; a developer runs it, tests only read files.

    python3 tests/train/make_reference.py [MODEL ...]       (needs torch and numpy)

Writes data/MODEL.safetensors (initial weights and batches, f64) and data/MODEL-MODE-OPT.safetensors:
loss of each step, gradients of step 1 (unscaled, before clipping), parameters and running statistics
after the last step,
and for 16-mixed the loss scale of each step. Autocast runs on the CPU lists, as policy: cpu does.

The ViT in 16 bits throughout has a second run, MODE-OPT-contract, which rounds where docs/numerics.md says
rather than where PyTorch's CPU kernels do: the loss and the sums of layer_norm in FP32, probabilities of
attention normalised before they are rounded, the optimizer in FP32 [N12]. The other ops are the same bits.
"""
import json, os, struct, sys
import numpy as np
import torch
import torch.nn.functional as F

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data")
STEPS = 20


def save(path, tensors):
    header, data = {}, b""
    for name in sorted(tensors):
        a = np.ascontiguousarray(tensors[name])
        dtype = {"float64": "F64", "float32": "F32", "int64": "I64"}[str(a.dtype)]
        header[name] = {"dtype": dtype, "shape": list(a.shape),
                        "data_offsets": [len(data), len(data) + a.nbytes]}
        data += a.tobytes()
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)


def uniform(g, shape, bound):
    return (torch.rand(shape, generator=g, dtype=torch.float64) * 2 - 1) * bound


def reals(v):  # complex numbers as pairs along a last axis
    return (torch.view_as_real(v.resolve_conj()) if v.is_complex() else v).double().numpy()


def round32(d):  # every mode starts from the same FP32 numbers
    return {k: v.float().double() for k, v in d.items()}


class Attention(torch.autograd.Function):
    """What ir/eval_nn.c says: P is normalised and rounded; its gradient and dS stay FP32."""

    @staticmethod
    def forward(ctx, q, k, v):
        ctx.scale = q.shape[-1] ** -0.5
        scores = ctx.scale * (q.float() @ k.float().mT)
        p = torch.exp(scores - torch.logsumexp(scores, -1, keepdim=True))
        o = (p.to(q.dtype).float() @ v.float()).to(q.dtype)
        ctx.save_for_backward(q, k, v, o, p)
        return o

    @staticmethod
    def backward(ctx, do):
        q, k, v, o, p = ctx.saved_tensors
        do = do.float()
        ds = ctx.scale * p * (do @ v.float().mT - (do * o.float()).sum(-1, keepdim=True))
        dv = p.to(q.dtype).float().mT @ do
        return tuple(g.to(q.dtype) for g in (ds @ k.float(), ds.mT @ q.float(), dv))


class Contract:
    """An optimizer in FP32 whose parameters and moments are rounded after each step [N12]."""

    def __init__(self, optimizer, p, **kw):
        self.low, self.wide = p, [v.detach().float() for v in p]
        self.inner = optimizer(self.wide, **kw)

    def zero_grad(self):
        for v in self.low:
            v.grad = None

    def step(self):
        for low, wide in zip(self.low, self.wide):
            wide.grad = low.grad.float()
        self.inner.step()
        with torch.no_grad():
            for low, wide in zip(self.low, self.wide):
                low.copy_(wide)
                wide.copy_(low)
                for key in ("momentum_buffer", "exp_avg", "exp_avg_sq"):
                    if key in self.inner.state[wide]:
                        moment = self.inner.state[wide][key]
                        moment.copy_(moment.to(low.dtype))


class Model:
    contract = False  # round where the contract says


class Mlp(Model):
    name, batch, shape, smoothing, clip = "mlp", 8, (1, 4, 5), 0.1, 1.0
    sgd = dict(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)

    def init(self, g):
        p = {}
        for i, n, k in ((1, 32, 20), (3, 16, 32), (5, 5, 16)):
            p[f"{i}.weight"] = uniform(g, (n, k), k ** -0.5)
            p[f"{i}.bias"] = uniform(g, (n,), k ** -0.5)
        return round32(p)

    def forward(self, p, x):
        x = x.flatten(1)
        x = F.relu(F.linear(x, p["1.weight"], p["1.bias"]))
        x = F.gelu(F.linear(x, p["3.weight"], p["3.bias"]))
        return F.linear(x, p["5.weight"], p["5.bias"])


class Vit(Model):
    name, batch, shape, smoothing, clip = "vit", 4, (1, 8, 8), 0.0, None
    sgd = dict(lr=0.05, momentum=0.9)
    width, heads, depth, mlp = 16, 2, 2, 32

    def init(self, g):
        w, p = self.width, {}
        p["conv_proj.weight"] = uniform(g, (w, 1, 4, 4), 0.25)
        p["conv_proj.bias"] = uniform(g, (w,), 0.25)
        p["class_token"] = uniform(g, (1, 1, w), 0.1)
        p["encoder.pos_embedding"] = uniform(g, (1, 5, w), 0.1)
        for i in range(self.depth):
            b = f"encoder.layers.encoder_layer_{i}."
            for ln in ("ln_1", "ln_2"):
                p[b + ln + ".weight"] = 1 + uniform(g, (w,), 0.1)
                p[b + ln + ".bias"] = uniform(g, (w,), 0.1)
            a = b + "self_attention."
            p[a + "in_proj_weight"] = uniform(g, (3 * w, w), 0.4)
            p[a + "in_proj_bias"] = uniform(g, (3 * w,), 0.1)
            p[a + "out_proj.weight"] = uniform(g, (w, w), 0.25)
            p[a + "out_proj.bias"] = uniform(g, (w,), 0.1)
            p[b + "mlp.0.weight"] = uniform(g, (self.mlp, w), 0.25)
            p[b + "mlp.0.bias"] = uniform(g, (self.mlp,), 0.25)
            p[b + "mlp.3.weight"] = uniform(g, (w, self.mlp), 0.18)
            p[b + "mlp.3.bias"] = uniform(g, (w,), 0.18)
        p["encoder.ln.weight"] = 1 + uniform(g, (w,), 0.1)
        p["encoder.ln.bias"] = uniform(g, (w,), 0.1)
        p["heads.head.weight"] = uniform(g, (5, w), 0.25)
        p["heads.head.bias"] = uniform(g, (5,), 0.25)
        return round32(p)

    def norm(self, p, name, x):
        w, b = p[name + ".weight"], p[name + ".bias"]
        if self.contract:
            return F.layer_norm(x.float(), (self.width,), w.float(), b.float(), 1e-6).to(x.dtype)
        return F.layer_norm(x, (self.width,), w, b, 1e-6)

    def attention(self, p, a, x):
        n, t, w = x.shape
        qkv = F.linear(x, p[a + "in_proj_weight"], p[a + "in_proj_bias"])
        q, k, v = (y.reshape(n, t, self.heads, -1).transpose(1, 2) for y in qkv.chunk(3, dim=-1))
        attend = Attention.apply if self.contract else F.scaled_dot_product_attention
        y = attend(q, k, v).transpose(1, 2).reshape(n, t, w)
        return F.linear(y, p[a + "out_proj.weight"], p[a + "out_proj.bias"])

    def forward(self, p, x):
        x = F.conv2d(x, p["conv_proj.weight"], p["conv_proj.bias"], stride=4)
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([p["class_token"].expand(x.shape[0], -1, -1), x], dim=1)
        x = x + p["encoder.pos_embedding"]
        for i in range(self.depth):
            b = f"encoder.layers.encoder_layer_{i}."
            x = x + self.attention(p, b + "self_attention.", self.norm(p, b + "ln_1", x))
            y = F.linear(self.norm(p, b + "ln_2", x), p[b + "mlp.0.weight"], p[b + "mlp.0.bias"])
            x = x + F.linear(F.gelu(y), p[b + "mlp.3.weight"], p[b + "mlp.3.bias"])
        x = self.norm(p, "encoder.ln", x)[:, 0]
        return F.linear(x, p["heads.head.weight"], p["heads.head.bias"])


class Cnn(Model):
    name, batch, shape, smoothing, clip = "cnn", 6, (2, 8, 8), 0.0, None
    sgd = dict(lr=0.05, momentum=0.9)

    def init(self, g):
        p = {"conv1.weight": uniform(g, (6, 2, 3, 3), 0.24), "conv2.weight": uniform(g, (6, 3, 3, 3), 0.19),
             "conv3.weight": uniform(g, (8, 6, 3, 3), 0.14), "conv3.bias": uniform(g, (8,), 0.14),
             "up.weight": uniform(g, (8, 5, 3, 3), 0.15), "up.bias": uniform(g, (5,), 0.15),
             "fc.weight": uniform(g, (5, 20), 0.22), "fc.bias": uniform(g, (5,), 0.22)}
        for bn in ("bn1", "bn2"):
            p[bn + ".weight"] = 1 + uniform(g, (6,), 0.1)
            p[bn + ".bias"] = uniform(g, (6,), 0.1)
        return round32(p)

    def state(self, dtype):
        self.buffers = {f"{bn}.{k}": f(6, dtype=dtype) for bn in ("bn1", "bn2")
                        for k, f in (("running_mean", torch.zeros), ("running_var", torch.ones))}
        return self.buffers

    def norm(self, p, bn, x, momentum, eps):
        return F.batch_norm(x, self.buffers[bn + ".running_mean"], self.buffers[bn + ".running_var"],
                            p[bn + ".weight"], p[bn + ".bias"], True, momentum, eps)

    def forward(self, p, x):
        x = F.relu(self.norm(p, "bn1", F.conv2d(x, p["conv1.weight"], padding=1), 0.1, 1e-5))
        x = F.max_pool2d(x, 2)
        y = F.conv2d(x, p["conv2.weight"], padding=1, groups=2)
        x = F.relu(x + self.norm(p, "bn2", y, 0.3, 1e-3))
        x = F.relu(F.conv2d(x, p["conv3.weight"], p["conv3.bias"], stride=2, padding=1))
        x = F.conv_transpose2d(x, p["up.weight"], p["up.bias"], stride=2, padding=1, output_padding=1)
        x = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
        return F.linear(x.flatten(1), p["fc.weight"], p["fc.bias"])


class Fnet(Model):
    name, batch, shape, smoothing, clip = "fnet", 6, (1, 7, 6), 0.0, None
    sgd = dict(lr=0.05, momentum=0.9)
    width, depth = 10, 2

    def init(self, g):
        w, p = self.width, {}

        def linear(name, n, k):
            p[name + ".weight"], p[name + ".bias"] = uniform(g, (n, k), k ** -0.5), uniform(g, (n,), k ** -0.5)

        def pair(shape, bound):
            return torch.complex(uniform(g, shape, bound), uniform(g, shape, bound))

        linear("embed", w, 6)
        for i in range(self.depth):
            b = f"blocks.{i}."
            for ln in ("norm1", "norm2"):
                p[b + ln + ".weight"] = 1 + uniform(g, (w,), 0.1)
                p[b + ln + ".bias"] = uniform(g, (w,), 0.1)
            linear(b + "up", 12, w)
            linear(b + "down", w, 12)
        p["filter"], p["shift"] = pair((7, w), 0.5), pair((9,), 0.3)
        p["wave.weight"], p["wave.bias"] = pair((9, w), w ** -0.5), pair((9,), w ** -0.5)
        linear("head", 5, 18)
        return {k: v.to(torch.complex64).to(v.dtype) if v.is_complex() else v.float().double() for k, v in p.items()}

    def forward(self, p, x):
        norm = lambda name, x: F.layer_norm(x, (self.width,), p[name + ".weight"], p[name + ".bias"])
        linear = lambda name, x: F.linear(x, p[name + ".weight"], p[name + ".bias"])
        x = linear("embed", x.reshape(-1, 7, 6))
        for i in range(self.depth):
            b = f"blocks.{i}."
            x = norm(b + "norm1", x + torch.fft.fft(torch.fft.fft(x, dim=-1), dim=1).real)
            x = norm(b + "norm2", x + linear(b + "down", F.gelu(linear(b + "up", x))))
        x = torch.fft.fft(x.to(p["head.weight"].dtype), dim=1, norm="ortho") * p["filter"]
        x = linear("wave", torch.fft.ifft(x, dim=1, norm="ortho"))
        x = (x - p["shift"]).conj() * x
        return linear("head", torch.cat([x.abs(), x.imag], dim=2).mean(1))


MODES = {"64-true": (torch.float64, None), "32-true": (torch.float32, None),
         "bf16-mixed": (torch.float32, torch.bfloat16), "16-mixed": (torch.float32, torch.float16),
         "bf16-true": (torch.bfloat16, None), "16-true": (torch.float16, None)}


def possible(model, mode, opt):
    """eps of Adam is 0 in float16; there are no complex numbers of 16 bits."""
    return not mode.endswith("16-true") or (model.name != "fnet" and (opt == "sgd" or mode == "bf16-true"))


def run(model, init, xs, ys, mode, opt):
    dtype, low = MODES[mode]
    p = {k: v.to(dtype.to_complex() if v.is_complex() else dtype, copy=True) for k, v in init.items()}
    # GradScaler has no complex gradients: there the pairs are what is trained
    pairs = {k for k, v in p.items() if v.is_complex() and mode == "16-mixed"}
    p = {k: (torch.view_as_real(v).clone() if k in pairs else v).requires_grad_() for k, v in p.items()}
    kind = torch.optim.SGD if opt == "sgd" else torch.optim.AdamW
    args = model.sgd if opt == "sgd" else dict(lr=0.002, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.05)
    o = Contract(kind, list(p.values()), **args) if model.contract else kind(p.values(), **args)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0 ** 12, growth_interval=5,
                                  enabled=mode == "16-mixed")
    out, losses, scales = {}, [], []
    buffers = model.state(dtype) if hasattr(model, "state") else {}
    for step in range(STEPS):
        x, y = xs[step].to(dtype), ys[step]
        o.zero_grad()
        with torch.autocast("cpu", dtype=low or torch.bfloat16, enabled=low is not None):
            seen = {k: torch.view_as_complex(v) if k in pairs else v for k, v in p.items()}
            z = model.forward(seen, x)
            loss = F.cross_entropy(z.float() if model.contract else z, y, label_smoothing=model.smoothing)
        scales.append(scaler.get_scale() if scaler.is_enabled() else 0.0)
        scaler.scale(loss).backward()
        scaler.unscale_(o)
        if step == 0:
            out.update({"grad." + k: reals(v.grad) for k, v in p.items()})
        if model.clip:
            torch.nn.utils.clip_grad_norm_(p.values(), model.clip)
        scaler.step(o)
        scaler.update()
        losses.append(loss.item())
    out["loss"] = np.array(losses)
    out["scale"] = np.array(scales)
    out.update({"final." + k: reals(v.detach()) for k, v in p.items()})
    out.update({"buffer." + k: v.double().numpy() for k, v in buffers.items()})
    if mode != "64-true":  # FP32 numbers need no more than FP32
        out = {k: v.astype(np.float32) for k, v in out.items()}
    name = f"{model.name}-{mode}-{opt}" + ("-contract" if model.contract else "")
    save(os.path.join(HERE, name + ".safetensors"), out)
    print(f"{name}: loss {losses[0]:.4f} -> {losses[-1]:.4f}")


def main():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    os.makedirs(HERE, exist_ok=True)
    for model in (Mlp(), Vit(), Cnn(), Fnet()):
        if len(sys.argv) > 1 and model.name not in sys.argv[1:]:
            continue
        g = torch.Generator().manual_seed(7)
        init = model.init(g)
        ys = torch.randint(0, 5, (STEPS, model.batch), generator=g)
        centre = torch.randn((5,) + model.shape, generator=g, dtype=torch.float64)
        xs = centre[ys] + torch.randn((STEPS, model.batch) + model.shape, generator=g,
                                      dtype=torch.float64)
        xs = xs.to(torch.bfloat16).double()  # exact in every mode
        everything = {"init." + k: reals(v) for k, v in init.items()}
        everything.update({"x": xs.float().numpy(), "y": ys.numpy()})
        save(os.path.join(HERE, model.name + ".safetensors"), everything)
        for mode in MODES:
            for opt in ("sgd", "adamw"):
                if possible(model, mode, opt):
                    run(model, init, xs, ys, mode, opt)
        model.contract = True
        for mode, opt in (("bf16-true", "sgd"), ("bf16-true", "adamw"), ("16-true", "sgd")):
            if model.name == "vit":
                run(model, init, xs, ys, mode, opt)


if __name__ == "__main__":
    main()
