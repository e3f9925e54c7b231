#!/usr/bin/env python3
"""Writes transforms.want: images, transforms, and what torchvision makes of them. Run in this folder
with torch, torchvision and Pillow 11 (13 resizes some images columns first). tests/unit/transforms.c applies the same lists.

Random transforms draw their numbers from Philox4x32-10 here as the runtime says it does (counter:
sample, epoch, draw and place in the list; key: seed); what is then done is torchvision's own crop,
resize and flip."""
import json
import math

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import functional as F
from torchvision.transforms import InterpolationMode as M

SEED, EPOCH = 5, 3
rng = np.random.default_rng(11)
out = []


def philox(counter, key):
    x, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * x[0], 0xCD9E8D57 * x[2]
        x = [(p1 >> 32) ^ x[1] ^ k[0], p1 & 0xFFFFFFFF, (p0 >> 32) ^ x[3] ^ k[1], p0 & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return x


def draw(sample, number, n=0):
    return philox([sample, n << 24, EPOCH, 0x80000000 | number], [SEED, 0])


def resize(img, t):
    size = t["size"] if isinstance(t["size"], list) else [t["size"]]
    return F.resize(img, size, M(t.get("interpolation", "bilinear")), antialias=t.get("antialias", True))


def size_of(img):
    return (img.shape[-2], img.shape[-1]) if isinstance(img, torch.Tensor) else (img.height, img.width)


def random_crop(img, t, sample, number):
    if "padding" in t:
        img = F.pad(img, t["padding"], int(t.get("fill", 0)))
    h, w = size_of(img)
    th, tw = t["size"]
    if t.get("pad_if_needed"):
        if w < tw:
            img = F.pad(img, [tw - w, 0], int(t.get("fill", 0)))
        if h < th:
            img = F.pad(img, [0, th - h], int(t.get("fill", 0)))
        h, w = size_of(img)
    word = draw(sample, number)
    return F.crop(img, word[0] * (h - th + 1) >> 32, word[1] * (w - tw + 1) >> 32, th, tw)


def random_resized_crop(img, t, sample, number):
    h, w = size_of(img)
    scale, ratio = t.get("scale", [0.08, 1]), t.get("ratio", [3 / 4, 4 / 3])

    def box():
        for n in range(10):
            word = draw(sample, number, n)
            u = [v / 2**32 for v in word]
            area = h * w * (scale[0] + (scale[1] - scale[0]) * u[0])
            lo, hi = math.log(ratio[0]), math.log(ratio[1])
            r = math.exp(lo + (hi - lo) * u[1])
            cw, ch = round(math.sqrt(area * r)), round(math.sqrt(area / r))
            if 0 < cw <= w and 0 < ch <= h:
                return word[2] * (h - ch + 1) >> 32, word[3] * (w - cw + 1) >> 32, ch, cw
        cw = round(h * ratio[1]) if w / h > ratio[1] else w
        ch = round(w / ratio[0]) if w / h < ratio[0] else h
        return (h - ch) // 2, (w - cw) // 2, ch, cw

    return F.resized_crop(img, *box(), t["size"], M(t.get("interpolation", "bilinear")),
                          antialias=t.get("antialias", True))


def apply(img, t, sample, number):
    kind = t["type"]
    if kind == "Resize":
        return resize(img, t)
    if kind == "CenterCrop":
        return F.center_crop(img, t["size"])
    if kind == "RandomCrop":
        return random_crop(img, t, sample, number)
    if kind == "RandomResizedCrop":
        return random_resized_crop(img, t, sample, number)
    if kind == "RandomHorizontalFlip":
        return F.hflip(img) if draw(sample, number)[0] / 2**32 < t.get("p", 0.5) else img
    if kind == "RandomVerticalFlip":
        return F.vflip(img) if draw(sample, number)[0] / 2**32 < t.get("p", 0.5) else img
    if kind == "ToTensor":
        return F.to_tensor(img)
    if kind == "Normalize":
        return F.normalize(img, t["mean"], t["std"])
    raise ValueError(kind)


def case(h, w, channels, samples, *steps):
    raw = rng.integers(0, 256, (h, w, channels), dtype=np.uint8)
    if channels == 1:
        raw = raw[:, :, 0]
    out.append(f"case {channels} {h} {w} {json.dumps(list(steps))}")
    out.append(" ".join(map(str, np.moveaxis(raw.reshape(h, w, channels), 2, 0).ravel())))
    for sample in samples:
        img = Image.fromarray(raw)
        for number, t in enumerate(steps):
            img = apply(img, t, sample, number)
        a = img.numpy()
        out.append(f"sample {sample} {a.shape[1]} {a.shape[2]}")
        out.append(" ".join(f"{v:.9g}" for v in a.ravel()))


tensor = {"type": "ToTensor"}
normal = {"type": "Normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
for interpolation in "nearest", "bilinear", "bicubic":
    r = {"type": "Resize", "interpolation": interpolation}
    case(11, 7, 1, [0], {**r, "size": [5, 4]}, tensor)           # smaller
    case(5, 6, 3, [0], {**r, "size": [9, 13]}, tensor, normal)   # larger
    case(9, 6, 1, [0], {**r, "size": [9, 3]}, tensor)            # one axis
    case(10, 7, 1, [0], {**r, "size": 4}, tensor)                # smaller side
    case(7, 10, 1, [0], {**r, "size": [12]}, tensor)
    for antialias in True, False:                                # floats
        case(11, 7, 1, [0], tensor, {**r, "size": [5, 4], "antialias": antialias and interpolation != "nearest"})
        case(5, 6, 1, [0], tensor, {**r, "size": [9, 13], "antialias": antialias and interpolation != "nearest"})
case(9, 9, 1, [0], tensor, {"type": "Resize", "size": [4, 14], "interpolation": "nearest-exact"})
for size in [4, 5], [6, 6], [11, 3], [12, 13]:
    case(9, 8, 1, [0], {"type": "CenterCrop", "size": size}, tensor)
case(6, 7, 3, range(4), {"type": "RandomCrop", "size": [6, 7], "padding": [4]}, tensor)
case(6, 7, 1, range(3), {"type": "RandomCrop", "size": [5, 4], "padding": [1, 2], "fill": 100}, tensor)
case(6, 7, 1, range(3), {"type": "RandomCrop", "size": [5, 4], "padding": [1, 2, 0, 3]}, tensor)
case(5, 6, 1, range(3), {"type": "RandomCrop", "size": [8, 9], "pad_if_needed": True}, tensor)
case(12, 9, 1, range(8), {"type": "RandomResizedCrop", "size": [6, 6]}, tensor)
case(12, 9, 1, range(3), {"type": "RandomResizedCrop", "size": [5, 7], "scale": [0.3, 0.5], "ratio": [0.5, 2.0],
                          "interpolation": "bicubic"}, tensor)
case(4, 20, 1, range(2), {"type": "RandomResizedCrop", "size": [3, 3], "scale": [0.9, 1.0]}, tensor)  # no try fits
case(3, 4, 1, range(8), {"type": "RandomHorizontalFlip"}, {"type": "RandomVerticalFlip", "p": 0.3}, tensor)
case(3, 4, 1, [0], {"type": "RandomHorizontalFlip", "p": 1.0}, tensor)
case(9, 9, 3, range(3), {"type": "Resize", "size": [12, 10]}, {"type": "RandomCrop", "size": [8, 8]},
     {"type": "RandomHorizontalFlip"}, tensor, normal)

# places that fall on the border of two inputs
case(2, 56, 1, [0], {"type": "Resize", "size": [2, 31], "interpolation": "nearest"}, tensor)

with open("transforms.want", "w") as f:
    f.write("\n".join(out) + "\n")
