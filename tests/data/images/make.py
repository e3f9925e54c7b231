#!/usr/bin/env python3
"""Writes small JPEG and PNG files of every kind the codecs meet, and NAME.rgb: what Pillow decodes from
them as convert("RGB"), preceded by a line "width height". Run in this folder with NumPy and Pillow."""
import struct
import zlib

import numpy as np
from PIL import Image

rng = np.random.default_rng(3)
h, w = 19, 23
y, x = np.mgrid[0:h, 0:w]
smooth = np.stack([x * 11, y * 13, (x + y) * 6], -1).astype(np.uint8)
noise = rng.integers(0, 256, (h, w, 3), dtype=np.uint8)
rgb = Image.fromarray(smooth // 2 + noise // 4)
grey = rgb.convert("L")


def want(name):
    got = Image.open(name).convert("RGB")
    with open(name.rsplit(".", 1)[0] + ".rgb", "wb") as f:
        f.write(f"{got.width} {got.height}\n".encode() + got.tobytes())


def save(name, img, **options):
    img.save(name, **options)
    want(name)


save("j420.jpg", rgb, quality=85)
save("j444.jpg", rgb, quality=92, subsampling=0)
save("jprogressive.jpg", rgb, quality=80, progressive=True)
save("jgrey.jpeg", grey, quality=75)
save("jcmyk.jpg", Image.fromarray(np.concatenate([smooth, noise[..., :1]], -1), "CMYK"), quality=85)
save("prgb.png", rgb)
save("pgrey.png", grey)
save("pbits.png", grey.point(lambda v: 255 * (v > 128)).convert("1"))
save("ppalette.png", rgb.quantize(16))
rgba = rgb.copy()
rgba.putalpha(grey)
save("palpha.png", rgba)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def by_hand(name, rows, bits, interlaced):
    """What Pillow does not write: 16 bits, Adam7."""
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, bits, 2, 0, 0, interlaced))
    data += chunk(b"IDAT", zlib.compress(b"".join(b"\0" + r for r in rows))) + chunk(b"IEND", b"")
    with open(name, "wb") as f:
        f.write(data)
    want(name)


wide = (smooth.astype(np.uint16) << 8 | noise).astype(">u2")
by_hand("p16.png", [r.tobytes() for r in wide], 16, 0)
adam7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
by_hand("pinterlaced.png", [r.tobytes() for x0, y0, dx, dy in adam7 for r in smooth[y0::dy, x0::dx]], 8, 1)
