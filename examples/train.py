"""The same as train.c, from Python.

    python3 train.py [PRECISION]
"""
import math
import random
import sys

import mpcc

SPEC = """
mpcc: 1
name: ring
model:
  inputs: {point: {shape: [2]}}
  outputs: {logits: out}
  layers: [{Linear: 64}, Tanh, {Linear: 64}, Tanh, {name: out, Linear: 2}]
loss: CrossEntropyLoss
data: {train: {format: host}, loader: {batch_size: 128}}
optimizer: {type: AdamW, lr: 5e-3}
trainer: {max_steps: 400}
"""


def view(tensor, code):
    """With numpy: numpy.asarray(tensor)."""
    return memoryview(tensor.buffer()).cast("B").cast(code, tensor.shape)


image = mpcc.compile("ring.yaml", SPEC, precision=sys.argv[1] if len(sys.argv) > 1 else "32-true", warn=print)
draw = random.Random(1)
with mpcc.Program(image) as program:
    program.init()
    mean = 0.0
    for step in range(400):
        point, label = view(program["io.point"], "f"), view(program["io.label"], "q")
        for i in range(len(label)):
            x, y = draw.uniform(-2, 2), draw.uniform(-2, 2)
            point[i, 0], point[i, 1] = x, y
            label[i] = 0.7 < math.hypot(x, y) < 1.4
        mean += program.train_batch(len(label))
        if step % 100 == 99:
            print("step %d  mean loss of 100 steps %.4f" % (step + 1, mean / 100))
            mean = 0.0
