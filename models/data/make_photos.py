#!/usr/bin/env python3
"""Makes photos.safetensors from PNG photographs: `x`, U8 [n, 1, 3, 128, 128], the middle of each, halved by averaging; and
photo.safetensors: `x`, U8 [1, 3, 192, 256], the upper left of the last.

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


def halved(image, x0, y0, width, height):
    """The crop, its 2x2 pixels averaged, as planes of bytes."""
    _, _, rows = image
    out = bytearray()
    for c in range(3):
        for y in range(y0, y0 + height, 2):
            a, b = rows[y], rows[y + 1]
            for x in range(x0, x0 + width, 2):
                i = 3 * x + c
                out.append((a[i] + a[i + 3] + b[i] + b[i + 3] + 2) // 4)
    return bytes(out)


def save(name, shape, data):
    header = json.dumps({"x": {"dtype": "U8", "shape": shape, "data_offsets": [0, len(data)]}}).encode()
    header += b" " * (-len(header) % 8)
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), name), "wb") as f:
        f.write(struct.pack("<Q", len(header)) + header + data)


images = [read_png(path) for path in sys.argv[1:]]
crops = [halved(image, (image[0] - 256) // 2, (image[1] - 256) // 2, 256, 256) for image in images]
save("photos.safetensors", [len(crops), 1, 3, 128, 128], b"".join(crops))
save("photo.safetensors", [1, 3, 192, 256], halved(images[-1], 0, 0, 512, 384))
