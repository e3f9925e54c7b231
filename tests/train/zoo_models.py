"""The models of specs/ in PyTorch, by functions: MODEL(p, input, sizes) -> output.

p(name, *shape) gives the parameter of that name, p.buffer(name, n, value) a running statistic;
names are the spec's.
"""
import torch
import torch.nn.functional as F


def linear(p, name, x, n, bias=True):
    return F.linear(x, p(name + ".weight", n, x.shape[-1]), p(name + ".bias", n) if bias else None)


def conv(p, name, x, c, k, stride=1, padding=0, bias=False, groups=1):
    return F.conv2d(x, p(name + ".weight", c, x.shape[1] // groups, k, k), p(name + ".bias", c) if bias else None,
                    stride=stride, padding=padding, groups=groups)


def batch_norm(p, name, x):
    c = x.shape[1]
    return F.batch_norm(x, p.buffer(name + ".running_mean", c, 0), p.buffer(name + ".running_var", c, 1),
                        p(name + ".weight", c), p(name + ".bias", c), True, 0.1, 1e-5)


def layer_norm(p, name, x, eps=1e-5):
    d = x.shape[-1]
    return F.layer_norm(x, (d,), p(name + ".weight", d), p(name + ".bias", d), eps)


def rms_norm(p, name, x, eps=1e-5):
    return F.rms_norm(x, (x.shape[-1],), p(name + ".weight", x.shape[-1]), eps)


def lenet5(p, x, s):
    x = F.max_pool2d(F.relu(conv(p, "conv1", x, 6, 5, padding=2, bias=True)), 2)
    x = F.max_pool2d(F.relu(conv(p, "conv2", x, 16, 5, bias=True)), 2).flatten(1)
    x = F.relu(linear(p, "fc1", x, 120))
    return linear(p, "fc3", F.relu(linear(p, "fc2", x, 84)), 10)


def basic_block(p, name, x, c, stride):
    y = F.relu(batch_norm(p, name + ".bn1", conv(p, name + ".conv1", x, c, 3, stride, 1)))
    y = batch_norm(p, name + ".bn2", conv(p, name + ".conv2", y, c, 3, 1, 1))
    if stride != 1:
        x = batch_norm(p, name + ".downsample.1", conv(p, name + ".downsample.0", x, c, 1, stride))
    return F.relu(x + y)


def resnet18(p, x, s):
    x = F.relu(batch_norm(p, "bn1", conv(p, "conv1", x, s["width"], 3, padding=1)))
    for layer in range(4):
        for i in range(2):
            x = basic_block(p, f"layer{layer + 1}.{i}", x, s["width"] << layer, 2 if layer and not i else 1)
    return linear(p, "fc", F.adaptive_avg_pool2d(x, 1).flatten(1), 10)


def double(p, name, x, c):
    for i in (1, 2):
        x = F.relu(batch_norm(p, f"{name}.bn{i}", conv(p, f"{name}.conv{i}", x, c, 3, padding=1)))
    return x


def up(p, name, x, c):
    return F.conv_transpose2d(x, p(name + ".weight", x.shape[1], c, 2, 2), p(name + ".bias", c), stride=2)


def unet(p, x, s):
    w = s["width"]
    skip1 = double(p, "down1", x, w)
    skip2 = double(p, "down2", F.max_pool2d(skip1, 2), 2 * w)
    x = double(p, "middle", F.max_pool2d(skip2, 2), 4 * w)
    x = double(p, "left2", torch.cat([skip2, up(p, "up2", x, 2 * w)], 1), 2 * w)
    x = double(p, "left1", torch.cat([skip1, up(p, "up1", x, w)], 1), w)
    return conv(p, "head", x, 1, 1, bias=True)


def heads(x, n):
    return x.unflatten(-1, (n, -1)).transpose(1, 2)


def gpt2(p, tokens, s):
    d, n = s["n_embd"], tokens.shape[1]
    wte = p("wte.weight", 256, d)
    x = F.embedding(tokens, wte) + F.embedding(torch.arange(n), p("wpe.weight", n, d))
    for i in range(s["n_layer"]):
        b = f"h.{i}."
        qkv = linear(p, b + "attn.c_attn", layer_norm(p, b + "ln_1", x), 3 * d)
        q, k, v = (heads(y, s["n_head"]) for y in qkv.chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + linear(p, b + "attn.c_proj", y, d)
        y = F.gelu(linear(p, b + "mlp.c_fc", layer_norm(p, b + "ln_2", x), 4 * d), approximate="tanh")
        x = x + linear(p, b + "mlp.c_proj", y, d)
    return F.linear(layer_norm(p, "ln_f", x), wte)


def rotate(x, base=10000):
    """Rotary embedding, halves paired as Hugging Face does; x [N, H, T, D]."""
    half = x.shape[-1] // 2
    a = torch.arange(x.shape[2]).double()[:, None] * base ** (-torch.arange(half).double() / half)
    sin, cos = torch.cat([a, a], -1).sin().to(x.dtype), torch.cat([a, a], -1).cos().to(x.dtype)
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


def llama(p, tokens, s):
    d = s["d"]
    x = F.embedding(tokens, p("model.embed_tokens.weight", 256, d))
    for i in range(s["depth"]):
        b = f"model.layers.{i}."
        y = rms_norm(p, b + "input_layernorm", x)
        q = rotate(heads(linear(p, b + "self_attn.q_proj", y, d, False), s["heads"]))
        kv = s["kv"] * d // s["heads"]
        k = rotate(heads(linear(p, b + "self_attn.k_proj", y, kv, False), s["kv"]))
        v = heads(linear(p, b + "self_attn.v_proj", y, kv, False), s["kv"])
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + linear(p, b + "self_attn.o_proj", y.transpose(1, 2).flatten(2), d, False)
        y = rms_norm(p, b + "post_attention_layernorm", x)
        y = F.silu(linear(p, b + "mlp.gate_proj", y, s["ff"], False)) * linear(p, b + "mlp.up_proj", y, s["ff"], False)
        x = x + linear(p, b + "mlp.down_proj", y, d, False)
    return linear(p, "lm_head", rms_norm(p, "model.norm", x), 256, False)


def mobilenet(p, x, s):
    """Inverted residuals under torchvision's names: one block of each width, two of the second."""
    def norm(name, conv_name, x, c, k, stride=1, groups=1):
        return batch_norm(p, name, conv(p, conv_name, x, c, k, stride, k // 2, groups=groups))

    def inside(b, x, e, c, stride):
        x = F.relu6(norm(b + "conv.0.1", b + "conv.0.0", x, e, 1))
        x = F.relu6(norm(b + "conv.1.1", b + "conv.1.0", x, e, 3, stride, e))
        return norm(b + "conv.3", b + "conv.2", x, c, 1)

    x = F.relu6(norm("features.0.1", "features.0.0", x, 32, 3, 2))
    x = F.relu6(norm("features.1.conv.0.1", "features.1.conv.0.0", x, 32, 3, 1, 32))
    x = norm("features.1.conv.2", "features.1.conv.1", x, 16, 1)
    x = inside("features.2.", x, 96, 24, 2)
    x = x + inside("features.3.", x, 144, 24, 1)
    for i, (e, c, stride) in enumerate([(144, 32, 2), (192, 64, 2), (384, 96, 1), (576, 160, 2), (960, 320, 1)]):
        x = inside(f"features.{4 + i}.", x, e, c, stride)
    x = F.relu6(norm("features.9.1", "features.9.0", x, 1280, 1))
    return linear(p, "classifier.1", F.adaptive_avg_pool2d(x, 1).flatten(1), 10)


def convnext(p, x, s):
    """One block in the first and in the last stage."""
    def norm(name, x):
        return layer_norm(p, name, x.permute(0, 2, 3, 1), 1e-6).permute(0, 3, 1, 2)

    def block(b, x):
        c = x.shape[1]
        y = conv(p, b + "block.0", x, c, 7, 1, 3, True, c).permute(0, 2, 3, 1)
        y = F.gelu(linear(p, b + "block.3", layer_norm(p, b + "block.2", y, 1e-6), 4 * c))
        return x + linear(p, b + "block.5", y, c).permute(0, 3, 1, 2) * p(b + "layer_scale", c, 1, 1)

    w = s["width"]
    x = block("features.1.0.", norm("features.0.1", conv(p, "features.0.0", x, w, 4, 4, bias=True)))
    for i in (1, 2, 3):
        x = conv(p, f"features.{2 * i}.1", norm(f"features.{2 * i}.0", x), w << i, 2, 2, bias=True)
    x = F.adaptive_avg_pool2d(block("features.7.0.", x), 1).flatten(1)
    return linear(p, "classifier.2", layer_norm(p, "classifier.0", x, 1e-6), 10)


def buckets(n, directions):
    """Hugging Face's relative_position_bucket of 32 buckets that end at 128, [n, n]."""
    apart = torch.arange(n)[None] - torch.arange(n)[:, None]
    many = 32 // directions
    first = (apart > 0).long() * many if directions == 2 else 0
    apart = apart.abs() if directions == 2 else (-apart).clamp(min=0)
    near = many // 2
    far = near + (torch.log(apart.double() / near) / torch.log(torch.tensor(128 / near).double()) * (many - near)).floor()
    return first + torch.where(apart < near, apart, far.clamp(max=many - 1).long())


def t5(p, tokens, s):
    d, wide = s["d"], s["heads"] * s["hd"]

    def attend(b, x, source, bias):
        q, k, v = (heads(linear(p, f"{b}.{y}", z, wide, False), s["heads"]) for y, z in (("q", x), ("k", source), ("v", source)))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        return linear(p, b + ".o", y.transpose(1, 2).flatten(2), d, False)

    def feed(b, x):
        y = F.relu(linear(p, b + ".DenseReluDense.wi", rms_norm(p, b + ".layer_norm", x, 1e-6), s["ff"], False))
        return x + linear(p, b + ".DenseReluDense.wo", y, d, False)

    def bias(part, directions):
        table = p(f"{part}.block.0.layer.0.SelfAttention.relative_attention_bias.weight", 32, s["heads"])
        return F.embedding(buckets(tokens.shape[1], directions), table).permute(2, 0, 1)

    def self_attend(b, x, bias):
        y = rms_norm(p, b + ".layer_norm", x, 1e-6)
        return x + attend(b + ".SelfAttention", y, y, bias)

    encoder_bias, decoder_bias = bias("encoder", 2), bias("decoder", 1)
    decoder_bias = decoder_bias.masked_fill(torch.ones_like(decoder_bias, dtype=torch.bool).triu(1), -torch.inf)
    table = p("shared.weight", 288, d)
    x = y = F.embedding(tokens, table)
    for i in range(s["depth"]):
        x = feed(f"encoder.block.{i}.layer.1", self_attend(f"encoder.block.{i}.layer.0", x, encoder_bias))
    x = rms_norm(p, "encoder.final_layer_norm", x, 1e-6)
    for i in range(s["depth"]):
        b = f"decoder.block.{i}.layer."
        y = self_attend(b + "0", y, decoder_bias)
        y = y + attend(b + "1.EncDecAttention", rms_norm(p, b + "1.layer_norm", y, 1e-6), x, None)
        y = feed(b + "2", y)
    return F.linear(rms_norm(p, "decoder.final_layer_norm", y, 1e-6) * d ** -0.5, table)
