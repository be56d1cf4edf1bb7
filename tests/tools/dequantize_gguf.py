#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Decode a GGUF's Q4_0, Q4_1, Q8_0 and F16 tensors exactly and store them as F32.

    dequantize_gguf.py IN.gguf OUT.gguf

A run over OUT is the reference that tells what 8-bit activations cost:

    quire perplexity --model OUT.gguf --kv f32 --file wiki.test.raw --limit 20480 --save exact.run
    quire perplexity --model IN.gguf --file wiki.test.raw --limit 20480 --reference exact.run

Needs numpy."""
import struct
import sys

import numpy as np

ALIGN = 32
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, fmt):
        x, = struct.unpack_from("<" + fmt, self.data, self.at)
        self.at += struct.calcsize("<" + fmt)
        return x

    def string(self):
        n = self.take("Q")
        self.at += n
        return self.data[self.at - n:self.at]

    def skip(self, kind):
        if kind == STRING:
            self.string()
        elif kind == ARRAY:
            inner, n = self.take("I"), self.take("Q")
            for _ in range(n):
                self.skip(inner)
        else:
            self.take(SCALARS[kind])


def half(blocks, at):
    return blocks[:, at:at + 2].copy().view(np.float16).astype(np.float32)


def nibbles(b):
    return np.concatenate([b & 15, b >> 4], axis=1).astype(np.float32)


def decode(kind, raw, n):
    if kind == 0:
        return raw[:4 * n].view(np.float32)
    if kind == 1:
        return raw[:2 * n].view(np.float16).astype(np.float32)
    if kind == 2:
        b = raw[:n // 32 * 18].reshape(-1, 18)
        return ((nibbles(b[:, 2:]) - 8) * half(b, 0)).ravel()
    if kind == 3:
        b = raw[:n // 32 * 20].reshape(-1, 20)
        return (nibbles(b[:, 4:]) * half(b, 0) + half(b, 2)).ravel()
    if kind == 8:
        b = raw[:n // 32 * 34].reshape(-1, 34)
        return (b[:, 2:].copy().view(np.int8).astype(np.float32) * half(b, 0)).ravel()
    sys.exit(f"tensor type {kind} is not known here")


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    data = np.memmap(sys.argv[1], dtype=np.uint8, mode="r")
    r = Reader(data.tobytes())
    r.at = 8
    n_tensors, n_keys = r.take("Q"), r.take("Q")
    keys_from = r.at
    for _ in range(n_keys):
        r.string()
        r.skip(r.take("I"))
    keys = r.data[keys_from:r.at]
    infos = []
    for _ in range(n_tensors):
        name = r.string()
        dims = [r.take("Q") for _ in range(r.take("I"))]
        infos.append((name, dims, r.take("I"), r.take("Q")))
    start = -(-r.at // ALIGN) * ALIGN
    head = b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_keys) + keys
    at = 0
    for name, dims, _, _ in infos:
        head += struct.pack("<Q", len(name)) + name
        head += struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, 0, at)
        at += -(-4 * int(np.prod(dims)) // ALIGN) * ALIGN
    with open(sys.argv[2], "wb") as f:
        f.write(head + bytes(-len(head) % ALIGN))
        for _, dims, kind, offset in infos:
            x = decode(kind, data[start + offset:], int(np.prod(dims))).tobytes()
            f.write(x + bytes(-len(x) % ALIGN))


main()
