#!/usr/bin/env python3
"""Writes transforms64.want, in the form of transforms.want: what transforms give in FP64, as torchvision's do
under torch.set_default_dtype(torch.float64). Run in this folder with torch; only steps that torchvision does
with torch alone."""
import json

import torch
from torch.nn.functional import interpolate

torch.set_default_dtype(torch.float64)
out = []


def apply(x, t):
    if t["type"] == "ToTensor":
        return x.to(torch.get_default_dtype()).div(255)
    if t["type"] == "Normalize":
        mean, std = (torch.as_tensor(t[k], dtype=x.dtype).view(-1, 1, 1) for k in ("mean", "std"))
        return (x - mean) / std
    if t["type"] == "Resize":
        return interpolate(x[None], t["size"], mode=t["interpolation"], antialias=t["antialias"], align_corners=False)[0]
    top, left = ((n - size) // 2 for n, size in zip(x.shape[1:], t["size"]))  # CenterCrop of even differences
    return x[:, top:top + t["size"][0], left:left + t["size"][1]]


def case(h, w, channels, *steps):
    n = channels * h * w
    x = torch.tensor([(i * 73 + i // 7 * 31) % 256 for i in range(n)], dtype=torch.uint8).reshape(channels, h, w)
    out.append(f"case {channels} {h} {w} {json.dumps(list(steps))}")
    out.append(" ".join(map(str, x.flatten().tolist())))
    for t in steps:
        x = apply(x, t)
    out.append(f"sample 0 {x.shape[1]} {x.shape[2]}")
    out.append(" ".join(f"{v:.17g}" for v in x.flatten().tolist()))


tensor = {"type": "ToTensor"}
normal = {"type": "Normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
case(3, 5, 1, tensor)
case(4, 5, 3, tensor, normal)
case(6, 5, 3, {"type": "CenterCrop", "size": [4, 3]}, tensor, normal)
case(6, 5, 3, tensor, {"type": "CenterCrop", "size": [4, 3]}, normal)
for interpolation in "bilinear", "bicubic":
    for antialias in True, False:
        r = {"type": "Resize", "interpolation": interpolation, "antialias": antialias}
        case(11, 7, 1, tensor, {**r, "size": [5, 4]})
        case(5, 6, 3, tensor, {**r, "size": [9, 13]}, normal)

with open("transforms64.want", "w") as f:
    f.write("\n".join(out) + "\n")
