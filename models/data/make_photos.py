#!/usr/bin/env python3
"""Makes photos.safetensors from PNG photographs: `x`, U8 [n, 1, 3, 128, 128], one crop of each, halved by averaging.

    python3 models/data/make_photos.py PNG...

8-bit RGB, not interlaced: all that the Kodak photographs need (kdc itself reads images from the next release on).
"""
import json, os, struct, sys, zlib


def read_png(path):
    raw = open(path, "rb").read()
    at, idat = 8, b""
    while at < len(raw):
        n, kind = struct.unpack(">I4s", raw[at:at + 8])
        body = raw[at + 8:at + 8 + n]
        at += 12 + n
        if kind == b"IHDR":
            w, h, depth, color, _, _, lace = struct.unpack(">IIBBBBB", body)
            assert (depth, color, lace) == (8, 2, 0), path
        if kind == b"IDAT":
            idat += body
    data, rows, last = zlib.decompress(idat), [], bytearray(3 * w)
    for y in range(h):
        filt, line = data[y * (3 * w + 1)], bytearray(data[y * (3 * w + 1) + 1:(y + 1) * (3 * w + 1)])
        for i in range(3 * w):
            a, b = line[i - 3] if i >= 3 else 0, last[i]
            c = last[i - 3] if i >= 3 else 0
            if filt == 4:
                p = a + b - c
                pa, pb, pc = abs(p - a), abs(p - b), abs(p - c)
                add = a if pa <= pb and pa <= pc else b if pb <= pc else c
            else:
                add = (0, a, b, (a + b) // 2)[filt]
            line[i] = (line[i] + add) & 255
        rows.append(line)
        last = line
    return w, h, rows


out = bytearray()
for path in sys.argv[1:]:
    w, h, rows = read_png(path)
    x0, y0 = (w - 256) // 2, (h - 256) // 2
    for c in range(3):
        for y in range(y0, y0 + 256, 2):
            a, b = rows[y], rows[y + 1]
            for x in range(x0, x0 + 256, 2):
                i = 3 * x + c
                out.append((a[i] + a[i + 3] + b[i] + b[i + 3] + 2) // 4)
header = json.dumps({"x": {"dtype": "U8", "shape": [len(sys.argv) - 1, 1, 3, 128, 128], "data_offsets": [0, len(out)]}}).encode()
header += b" " * (-len(header) % 8)
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "photos.safetensors"), "wb") as f:
    f.write(struct.pack("<Q", len(header)) + header + bytes(out))
