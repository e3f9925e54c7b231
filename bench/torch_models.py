"""Models of the comparisons with PyTorch (vs_torch.py, torch_steps.py), with the shapes of specs/*.yaml."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class Block(nn.Module):
    def __init__(self, w, heads, causal=False, eps=1e-6, gelu="none"):
        super().__init__()
        self.heads, self.causal, self.gelu = heads, causal, gelu
        self.ln_1, self.ln_2 = nn.LayerNorm(w, eps=eps), nn.LayerNorm(w, eps=eps)
        self.qkv, self.proj = nn.Linear(w, 3 * w), nn.Linear(w, w)
        self.fc, self.out = nn.Linear(w, 4 * w), nn.Linear(4 * w, w)

    def forward(self, x):
        n, t, w = x.shape
        q, k, v = (y.reshape(n, t, self.heads, -1).transpose(1, 2)
                   for y in self.qkv(self.ln_1(x)).chunk(3, dim=-1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.proj(y.transpose(1, 2).reshape(n, t, w))
        return x + self.out(F.gelu(self.fc(self.ln_2(x)), approximate=self.gelu))


class Vit(nn.Module):
    def __init__(self, size, patch, w, depth, heads, classes):
        super().__init__()
        self.conv = nn.Conv2d(3, w, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, w))
        self.pos = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, w) * 0.02)
        self.blocks = nn.Sequential(*[Block(w, heads) for _ in range(depth)])
        self.ln, self.head = nn.LayerNorm(w, eps=1e-6), nn.Linear(w, classes)

    def forward(self, x):
        x = self.conv(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.pos
        return self.head(self.ln(self.blocks(x))[:, 0])


class Gpt(nn.Module):
    def __init__(self, vocab, t, w, depth, heads):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab, w), nn.Embedding(t, w)
        self.blocks = nn.Sequential(*[Block(w, heads, True, 1e-5, "tanh")
                                      for _ in range(depth)])
        self.ln, self.head = nn.LayerNorm(w), nn.Linear(w, vocab, bias=False)
        self.head.weight = self.wte.weight

    def forward(self, x):
        x = self.wte(x) + self.wpe(torch.arange(x.shape[1], device=x.device))
        return self.head(self.ln(self.blocks(x)))


class Basic(nn.Module):
    def __init__(self, c, o, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
        self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
        self.down = nn.Sequential() if stride == 1 else nn.Sequential(
            nn.Conv2d(c, o, 1, stride, bias=False), nn.BatchNorm2d(o))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.down(x))


def resnet18():
    stages, c = [], 64
    for o, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        stages += [Basic(c, o, stride), Basic(o, o, 1)]
        c = o
    return nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
                         *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


def lenet():
    return nn.Sequential(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
                         nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                         nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(),
                         nn.Linear(84, 10))


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512),
                         nn.ReLU(), nn.Linear(512, 10))


def images(n, c, size, classes):
    return torch.rand(n, c, size, size), torch.randint(0, classes, (n,))


def tokens(n, t, vocab):
    return torch.randint(0, vocab, (n, t)), torch.randint(0, vocab, (n, t))


class Bottleneck(nn.Module):
    def __init__(self, c, w, stride):
        super().__init__()
        def conv(i, o, k, s=1):
            return nn.Sequential(nn.Conv2d(i, o, k, s, k // 2, bias=False), nn.BatchNorm2d(o))
        self.a, self.b, self.c = conv(c, w, 1), conv(w, w, 3, stride), conv(w, 4 * w, 1)
        self.down = nn.Sequential() if stride == 1 and c == 4 * w else conv(c, 4 * w, 1, stride)

    def forward(self, x):
        return F.relu(self.c(F.relu(self.b(F.relu(self.a(x))))) + self.down(x))


def resnet50(classes):
    stages, c = [], 64
    for w, stride, n in ((64, 1, 3), (128, 2, 4), (256, 2, 6), (512, 2, 3)):
        for i in range(n):
            stages.append(Bottleneck(c, w, stride if i == 0 else 1))
            c = 4 * w
    return nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
                         nn.MaxPool2d(3, 2, 1), *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(2048, classes))


class Lstm(nn.Module):
    def __init__(self, vocab, w, layers):
        super().__init__()
        self.embedding, self.head = nn.Embedding(vocab, w), nn.Linear(w, vocab)
        self.lstm = nn.LSTM(w, w, layers, batch_first=True)

    def forward(self, x):
        return self.head(self.lstm(self.embedding(x))[0])


def torchvision_model(name, **args):
    import torchvision
    return getattr(torchvision.models, name)(**args)


# name: model, a batch of `n` samples, weight decay
MODELS = {
    "mlp": (mlp, lambda n: images(n, 1, 28, 10), 0.01),
    "vit": (lambda: Vit(32, 4, 192, 6, 3, 10), lambda n: images(n, 3, 32, 10), 0.01),
    "lenet": (lenet, lambda n: images(n, 1, 28, 10), 0.01),
    "resnet18": (resnet18, lambda n: images(n, 3, 32, 10), 0.01),
    "resnet50": (lambda: resnet50(1000), lambda n: images(n, 3, 224, 1000), 0.01),
    "mobilenet-v2": (lambda: torchvision_model("mobilenet_v2", dropout=0.0), lambda n: images(n, 3, 224, 1000), 0.01),
    "convnext-tiny": (lambda: torchvision_model("convnext_tiny", stochastic_depth_prob=0.0),
                      lambda n: images(n, 3, 224, 1000), 0.01),
    "lstm-text": (lambda: Lstm(256, 256, 2), lambda n: tokens(n, 128, 256), 0.01),
    "vit-ti": (lambda: Vit(224, 16, 192, 12, 3, 1000), lambda n: images(n, 3, 224, 1000), 0.05),
    "vit-l": (lambda: Vit(224, 16, 1024, 24, 16, 10), lambda n: images(n, 3, 224, 10), 0.05),
    "gpt2-nano": (lambda: Gpt(256, 256, 384, 6, 6), lambda n: tokens(n, 256, 256), 0.1),
    "gpt2-124m-64": (lambda: Gpt(50257, 64, 768, 12, 12), lambda n: tokens(n, 64, 50257), 0.1),
    # padded, as everybody has it on GPUs: rows of 50257 elements begin at odd addresses
    "gpt2-124m": (lambda: Gpt(50304, 1024, 768, 12, 12), lambda n: tokens(n, 1024, 50257), 0.1),
}


def adamw(net, decay, **more):
    groups = [{"params": [p for p in net.parameters() if p.ndim > 1]},
              {"params": [p for p in net.parameters() if p.ndim == 1], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-3, weight_decay=decay, fused=True, **more)
