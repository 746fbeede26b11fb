#!/usr/bin/python3
"""Makes the fixtures of this folder and what must come out of them: expected.txt for test_image.c, resize.txt for
test_resize.c. Needs PIL (Pillow 9.4 was used). PNGs are written here by hand with zlib, because PIL cannot write every
colour type and depth, nor interlaced files; their samples are therefore known, and PIL is asked to agree wherever it
reads them the same way (not for 16 bits: PIL cuts the low byte off or clips)."""
import io
import os
import struct
import zlib

from PIL import Image

HERE = os.path.dirname(os.path.abspath(__file__))
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
state = 1


def rnd():
    """Numerical Recipes' generator; test_resize.c has the same."""
    global state
    state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
    return state >> 24


def fnv(data):
    h = 0xCBF29CE484222325
    for b in data:
        h = ((h ^ b) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return "%016x" % h


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def rows_of(px, xs, ys, depth):
    out = b""
    for y in ys:
        bits = "".join(format(v, "0%db" % depth) for x in xs for v in px[y][x])
        bits += "0" * (-len(bits) % 8)
        out += b"\0" + bytes(int(bits[i:i + 8], 2) for i in range(0, len(bits), 8))
    return out


def png(px, ctype, depth, interlaced, extra=b"", size=None):
    w, h = len(px[0]), len(px)
    if interlaced:
        raw = b""
        for x0, y0, dx, dy in ADAM7:
            xs, ys = range(x0, w, dx), range(y0, h, dy)
            raw += rows_of(px, xs, ys, depth) if len(xs) else b""
    else:
        raw = rows_of(px, range(w), range(h), depth)
    head = struct.pack(">IIBBBBB", *(size or (w, h)), depth, ctype, 0, 0, interlaced)
    idat = chunk(b"IDAT", zlib.compress(raw, 9))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + idat + chunk(b"IEND", b"")


def to8(v, depth):
    return (v * 255 + 32895) >> 16 if depth == 16 else v * 255 // ((1 << depth) - 1)


def luma(r, g, b):
    return (19595 * r + 38470 * g + 7471 * b + 32768) >> 16


lines = []


def expect(name, want, w, h, channels, bits, data):
    lines.append("%s %s %d %d %d %d %s" % (name, want, w, h, channels, bits, fnv(data)))


def save(name, data):
    with open(os.path.join(HERE, name), "wb") as f:
        f.write(data)


def one_png(name, ctype, depth, interlaced, w=13, h=9, trns=None):
    n = CHANNELS[ctype]
    top = (1 << depth) - 1
    px = [[[(rnd() << 8 | rnd()) & top for _ in range(n)] for _ in range(w)] for _ in range(h)]
    palette = [[rnd(), rnd(), rnd()] for _ in range(top + 1)] if ctype == 3 else None
    extra = chunk(b"PLTE", bytes(v for c in palette for v in c)) if palette else b""
    if trns == "palette":
        extra += chunk(b"tRNS", bytes(rnd() for _ in range(top)))
    elif trns:
        extra += chunk(b"tRNS", b"".join(struct.pack(">H", v) for v in px[0][0]))
    data = png(px, ctype, depth, interlaced, extra)
    save(name, data)
    rgb = b""
    for row in px:
        for p in row:
            c = palette[p[0]] if palette else [to8(v, depth) for v in (p[:3] if n >= 3 else p[:1] * 3)]
            rgb += bytes(c)
    pil = Image.open(io.BytesIO(data)).convert("RGB").tobytes()
    assert depth == 16 or pil == rgb, name
    expect(name, "rgb", w, h, 3, 8, rgb)
    expect(name, "gray", w, h, 1, 8, bytes(luma(*rgb[i:i + 3]) for i in range(0, len(rgb), 3)))
    if n <= 2:
        flat = [p[0] for row in px for p in row]
        expect(name, "index", w, h, 1, 16 if depth == 16 else 8,
               struct.pack("<%dH" % len(flat), *flat) if depth == 16 else bytes(flat))
    else:
        lines.append(name + " index refused")


def one_jpeg(name, data):
    save(name, data)
    im = Image.open(io.BytesIO(data))
    rgb = im.convert("RGB")
    expect(name, "rgb", *rgb.size, 3, 8, rgb.tobytes())
    expect(name, "gray", *rgb.size, 1, 8, (im if im.mode == "L" else rgb.convert("L")).tobytes())
    lines.append(name + " index refused")


def picture(mode, w=37, h=29):
    """Gradients with some noise and saturated patches."""
    n = len(Image.new(mode, (1, 1)).getbands())
    data = bytes(
        255 if (x // 8 + y // 8 + c) % 5 == 0 else (x * 6 * (c + 1) + y * 4 + rnd() % 40) % 256
        for y in range(h) for x in range(w) for c in range(n))
    return Image.frombytes(mode, (w, h), data)


def jpeg(im, **how):
    f = io.BytesIO()
    im.save(f, "JPEG", quality=how.pop("quality", 85), **how)
    return f.getvalue()


def many_scans():
    """A progressive gray file whose first DC scan, made a complete one, is repeated 150 times."""
    d = jpeg(picture("L", 16, 16), progressive=True)
    a = d.index(b"\xff\xda")
    length = struct.unpack(">H", d[a + 2:a + 4])[0]
    b = a + 2 + length
    e = b
    while not (d[e] == 0xFF and d[e + 1] != 0):
        e += 1
    scan = bytearray(d[a:e])
    scan[1 + length] = 0  # Ah, Al
    return d[:a] + bytes(scan) * 150 + b"\xff\xd9"


def hostile():
    px = [[[1, 2, 3]] * 4] * 4
    sizes = {"30000": (30000, 30000), "16384": (16384, 16384), "wide": (0x7FFFFFFF, 1), "zero": (0, 4)}
    for name, size in sizes.items():
        save("hostile_%s.png" % name, png(px, 2, 8, 0, size=size))
        for want in ("rgb", "gray"):
            lines.append("hostile_%s.png %s refused" % (name, want))
    short = png(px, 2, 8, 0, size=(4, 5))  # a row is missing, every checksum is right
    save("hostile_row.png", short)
    lines.append("hostile_row.png rgb refused")
    bomb = chunk(b"zTXt", b"k\0\0" + zlib.compress(b"a" * 20000000, 9))
    data = png(px, 2, 8, 0, bomb)
    save("hostile_text.png", data)
    expect("hostile_text.png", "rgb", 4, 4, 3, 8, bytes(v for r in px for p in r for v in p))
    d = bytearray(jpeg(picture("L", 8, 8)))
    at = d.index(b"\xff\xc0")
    d[at + 5:at + 9] = struct.pack(">HH", 65500, 65500)
    save("hostile_size.jpg", bytes(d))
    save("hostile_scans.jpg", many_scans())
    for name in ("hostile_size.jpg", "hostile_scans.jpg"):
        lines.append(name + " rgb refused")


def resize():
    global state
    state = 12345
    pairs = [(16, 16, 32, 32), (33, 17, 16, 8), (64, 48, 31, 29), (31, 29, 64, 48), (1, 1, 7, 5), (7, 5, 1, 1),
             (40, 30, 40, 13), (40, 30, 17, 30), (40, 30, 40, 30), (100, 3, 9, 50), (3, 100, 50, 9), (256, 40, 1, 39),
             (2, 2, 3, 3), (57, 43, 286, 286), (128, 128, 100, 127), (200, 150, 3, 2), (1, 64, 8, 63)]
    filters = (("nearest", Image.NEAREST), ("bilinear", Image.BILINEAR), ("bicubic", Image.BICUBIC))
    out = []
    for mode, channels in (("L", 1), ("RGB", 3)):
        for w, h, ow, oh in pairs:
            im = Image.frombytes(mode, (w, h), bytes(rnd() for _ in range(w * h * channels)))
            for name, f in filters:
                made = fnv(im.resize((ow, oh), f).tobytes())
                out.append("%s %d %d %d %d %d %s" % (name, channels, w, h, ow, oh, made))
    with open(os.path.join(HERE, "resize.txt"), "w") as f:
        f.write("\n".join(out) + "\n")


def main():
    names = {0: "gray", 2: "rgb", 3: "palette", 4: "ga", 6: "rgba"}
    for ctype, depths in ((0, (1, 2, 4, 8, 16)), (2, (8, 16)), (3, (1, 2, 4, 8)), (4, (8, 16)), (6, (8, 16))):
        for depth in depths:
            for interlaced in (0, 1):
                one_png("%s%d%s.png" % (names[ctype], depth, "i" if interlaced else ""), ctype, depth, interlaced)
    one_png("gray2t.png", 0, 2, 0, trns=True)
    one_png("gray16t.png", 0, 16, 0, trns=True)
    one_png("rgb8t.png", 2, 8, 0, trns=True)
    one_png("palette4t.png", 3, 4, 1, trns="palette")
    one_png("one.png", 2, 8, 1, 1, 1)
    one_png("thin.png", 3, 1, 1, 3, 2)
    one_jpeg("gray.jpg", jpeg(picture("L")))
    one_jpeg("444.jpg", jpeg(picture("RGB"), subsampling=0))
    one_jpeg("422.jpg", jpeg(picture("RGB"), subsampling=1))
    one_jpeg("420.jpg", jpeg(picture("RGB"), subsampling=2))
    one_jpeg("progressive.jpg", jpeg(picture("RGB"), progressive=True))
    exif = Image.Exif()
    exif[0x0112] = 6
    one_jpeg("turned.jpg", jpeg(picture("RGB"), exif=exif))
    cmyk = jpeg(picture("CMYK"))
    one_jpeg("cmyk.jpg", cmyk)
    at = cmyk.index(b"\xff\xee")
    one_jpeg("cmyk_plain.jpg", cmyk[:at] + cmyk[at + 16:])  # without Adobe's marker
    one_jpeg("ycck.jpg", cmyk[:at + 15] + b"\x02" + cmyk[at + 16:])  # the same samples under another transform
    hostile()
    with open(os.path.join(HERE, "expected.txt"), "w") as f:
        f.write("\n".join(lines) + "\n")
    resize()


main()
