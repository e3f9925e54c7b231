#!/usr/bin/env python3
"""Writes tests/cli/weights/: weights of a small torch model, its inputs and its logits.

usage: tools/weights_reference.py [FILE]   (needs PyTorch; not part of the build)

Weights, inputs and all sums are small multiples of powers of two, so logits are exact in every order.
With FILE (what a program exported) torch loads that and its logits are compared instead.
The safetensors files are written as safetensors.torch.save_file does: sorted by name, no padding.
"""
import json
import struct
import sys
from pathlib import Path

import numpy
import torch
from torch import nn

HERE = Path(__file__).resolve().parent.parent / "tests" / "cli" / "weights"
NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64"}
TYPES = {v: k for k, v in NAMES.items()}


def save(tensors, path):
    header, data = {}, b""
    for name in sorted(tensors):
        raw = tensors[name].contiguous().view(torch.uint8).numpy().tobytes() if tensors[name].dim() else struct.pack("<q", int(tensors[name]))
        header[name] = {"dtype": NAMES[tensors[name].dtype], "shape": list(tensors[name].shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def load(path):
    raw = Path(path).read_bytes()
    n = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + n])
    header.pop("__metadata__", None)
    return {
        k: torch.frombuffer(bytearray(raw[8 + n + v["data_offsets"][0] : 8 + n + v["data_offsets"][1]]), dtype=TYPES[v["dtype"]]).reshape(v["shape"])
        for k, v in header.items()
    }


torch.manual_seed(2)
model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
with torch.no_grad():
    for p in model.parameters():
        p.copy_(torch.randint(-8, 9, p.shape) / 8)
x = torch.randint(-16, 17, (5, 6)) / 4
if len(sys.argv) > 1:
    model.load_state_dict({k: v.float() for k, v in load(sys.argv[1]).items()})
    want = torch.from_numpy(numpy.load(HERE / "logits.npy"))
    print("largest difference of logits:", (model(x).detach() - want).abs().max().item())
    sys.exit()
state = {k: v.detach() for k, v in model.state_dict().items()}
numpy.save(HERE / "x.npy", x.numpy())
numpy.save(HERE / "y.npy", numpy.arange(5, dtype=numpy.int64) % 4)
numpy.save(HERE / "logits.npy", model(x).detach().numpy())
save(state, HERE / "torch.safetensors")
# names as Hugging Face has them, matrices [in, out], a buffer that no model has; two shards
other = {f"net.layer_{k.replace('.', '_', 0)}": (v.t().contiguous() if v.dim() == 2 else v) for k, v in state.items()}
other["net.bn.num_batches_tracked"] = torch.tensor(3)
first = {k: v for k, v in other.items() if ".layer_0" in k}
second = {k: v for k, v in other.items() if k not in first}
save(first, HERE / "part-1.safetensors")
save(second, HERE / "part-2.safetensors")
index = {"metadata": {}, "weight_map": {k: ("part-1" if k in first else "part-2") + ".safetensors" for k in other}}
(HERE / "parts.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
save({k: (v * 65536 if k == "2.weight" else v).to(torch.bfloat16) for k, v in state.items()}, HERE / "wide.safetensors")
