"""Runs of PyTorch that tests/cli/loops.sh compares with: python make.py (torch, numpy). Writes
weights.safetensors, data.npz and recurrent.txt: per mode and step, the loss and the norm of the gradients of
a two-layer LSTM and a GRU, both bidirectional, trained by SGD."""
import json
import struct

import numpy as np
import torch

STEPS, BATCH, LENGTH, WIDTH = 6, 4, 6, 5


def model():
    torch.manual_seed(0)
    return torch.nn.ModuleDict(dict(
        rnn=torch.nn.LSTM(WIDTH, 7, 2, bidirectional=True, batch_first=True),
        gru=torch.nn.GRU(14, 6, 1, bidirectional=True, batch_first=True),
        head=torch.nn.Linear(12, 3)))


def save(tensors, path):
    header, blob = {}, b""
    for name, t in tensors.items():
        data = t.detach().numpy().tobytes()
        header[name] = dict(dtype="F32", shape=list(t.shape), data_offsets=[len(blob), len(blob) + len(data)])
        blob += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + blob)


def run(mode, x, y, out):
    m = model().to(torch.float64 if mode == "64-true" else torch.float32)
    opt = torch.optim.SGD(m.parameters(), lr=0.5)
    for step in range(STEPS):
        part = slice(BATCH * step, BATCH * (step + 1))
        xb = torch.tensor(x[part]).to(next(m.parameters()).dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=mode == "bf16-mixed"):
            h, _ = m["rnn"](xb)
            _, last = m["gru"](h)
            z = m["head"](last.transpose(0, 1).flatten(1))
        loss = torch.nn.functional.cross_entropy(z if mode == "64-true" else z.float(), torch.tensor(y[part]))
        opt.zero_grad()
        loss.backward()
        norm = torch.sqrt(sum((p.grad.double() ** 2).sum() for p in m.parameters()))
        out.write(f"{mode} {step + 1} {loss.item():.9f} {norm.item():.9f}\n")
        opt.step()


r = np.random.RandomState(0)
x = r.randn(BATCH * STEPS, LENGTH, WIDTH).astype("float32")
y = r.randint(0, 3, BATCH * STEPS).astype("int64")
np.savez("data.npz", x=x, y=y)
save(model().state_dict(), "weights.safetensors")
with open("recurrent.txt", "w") as out:
    for mode in ("64-true", "32-true", "bf16-mixed"):
        run(mode, x, y, out)
