#!/usr/bin/env python3
"""Makes the fixtures of tests/golden/metrics: what numpy and PyTorch say about pictures, label maps, Gaussians and .npz files.

    /usr/bin/python3 tests/golden/make_metrics.py            writes them
    /usr/bin/python3 tests/golden/make_metrics.py --read F   numpy reads F, an .npz that kdc wrote, and prints its arrays

Needs Debian's python3-numpy and python3-torch; the test suite runs neither.

metrics.safetensors
    NAME.a, NAME.b          U8 [h, w, c]: two pictures; NAME.values F64 [3]: L1, PSNR, SSIM (SSIM NaN: below 11 x 11)
    NAME.truth, NAME.pred   I32 [h, w]: label maps; NAME.values F64 [5]: classes, ignored label, pixel accuracy, mean class
                            accuracy, mIoU
    NAME.rows1, NAME.rows2  F32 [n, dims]: features; NAME.values F64 [1]: the Frechet distance; NAME.mean, NAME.cov: of rows1
    NAME.x                  U8 [h, w, c]: a picture; NAME.input F32 [3, size, size]: Inception's input
The SSIM is the definition in float64: each window's weighted means and (population) covariances, no separable filter.
The Frechet distance takes the root's trace as the sum of singular values of X1 X2^T, X the centred rows over sqrt(n - 1):
another way than kdc's, exact for singular covariances too.
"""
import json
import os
import struct
import sys
import zipfile
from io import BytesIO

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "metrics")


def save(path, tensors):
    names = {"uint8": "U8", "int32": "I32", "float32": "F32", "float64": "F64"}
    header, at, blobs = {}, 0, []
    for name, a in tensors.items():
        a = np.ascontiguousarray(a)
        header[name] = {"dtype": names[str(a.dtype)], "shape": list(a.shape), "data_offsets": [at, at + a.nbytes]}
        blobs.append(a.tobytes())
        at += a.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def photos():
    """U8 [12, 1, 3, 128, 128] of models/data."""
    raw = open(os.path.join(HERE, "../../models/data/photos.safetensors"), "rb").read()
    (n,) = struct.unpack("<Q", raw[:8])
    e = json.loads(raw[8:8 + n])["x"]
    return np.frombuffer(raw[8 + n:], np.uint8)[:np.prod(e["shape"])].reshape(e["shape"])


# ---- pictures ---------------------------------------------------------------------------------------

def ssim(a, b):
    g = np.exp(-np.arange(-5, 6) ** 2 / (2 * 1.5 ** 2))
    w = np.outer(g, g)
    w /= w.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    h, width, channels = a.shape
    values = []
    for c in range(channels):
        for i in range(h - 10):
            for j in range(width - 10):
                x = a[i:i + 11, j:j + 11, c].astype(np.float64)
                y = b[i:i + 11, j:j + 11, c].astype(np.float64)
                mx, my = (w * x).sum(), (w * y).sum()
                vx, vy = (w * (x - mx) ** 2).sum(), (w * (y - my) ** 2).sum()
                vxy = (w * (x - mx) * (y - my)).sum()
                values.append((2 * mx * my + c1) * (2 * vxy + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2)))
    return float(np.mean(values))


def picture_values(a, b):
    x, y = a.astype(np.float64), b.astype(np.float64)
    mse = ((x - y) ** 2).mean()
    psnr = np.inf if mse == 0 else 10 * np.log10(255.0 ** 2 / mse)
    return np.array([np.abs(x - y).mean(), psnr, ssim(a, b) if min(a.shape[:2]) >= 11 else np.nan])


def pictures(rng, out):
    all_photos = np.moveaxis(photos()[:, 0], 1, -1)

    def noisy(x, sd):
        return np.clip(np.rint(x + rng.normal(0, sd, x.shape)), 0, 255).astype(np.uint8)

    def crop(k, y, x, h, w):
        return all_photos[k, y:y + h, x:x + w]

    pairs = {
        "random_rgb": (rng.integers(0, 256, (19, 23, 3)), rng.integers(0, 256, (19, 23, 3))),
        "random_gray": (rng.integers(0, 256, (31, 12, 1)), rng.integers(0, 256, (31, 12, 1))),
        "one_window": (rng.integers(0, 256, (11, 11, 3)), rng.integers(0, 256, (11, 11, 3))),
        "too_small": (rng.integers(0, 256, (10, 40, 1)), rng.integers(0, 256, (10, 40, 1))),
        "black_white": (np.zeros((13, 14, 3)), np.full((13, 14, 3), 255)),
        "equal": (crop(3, 9, 20, 21, 30), crop(3, 9, 20, 21, 30)),
        "photo_noise": (crop(0, 40, 30, 35, 50), noisy(crop(0, 40, 30, 35, 50), 8)),
        "photo_shift": (crop(5, 20, 20, 40, 33), crop(5, 21, 22, 40, 33)),
        "photo_gray": (crop(7, 60, 10, 45, 37)[..., 1:2], noisy(crop(7, 60, 10, 45, 37)[..., 1:2], 20)),
        "two_photos": (crop(1, 0, 0, 24, 24), crop(8, 0, 0, 24, 24)),
    }
    for name, (a, b) in pairs.items():
        a, b = a.astype(np.uint8), b.astype(np.uint8)
        out["pair." + name + ".a"], out["pair." + name + ".b"] = a, b
        out["pair." + name + ".values"] = picture_values(a, b)


# ---- label maps -------------------------------------------------------------------------------------

def label_values(truth, pred, classes, ignore):
    keep = truth != ignore
    m = np.zeros((classes, classes))
    np.add.at(m, (truth[keep], pred[keep]), 1)
    d, row, col = np.diag(m), m.sum(1), m.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.array([classes, ignore, d.sum() / m.sum(), np.nanmean(d / row), np.nanmean(d / (row + col - d))])


def labels(rng, out):
    for name, classes, ignore, used in (("all", 5, -1, 5), ("absent", 19, 255, 11), ("wide", 300, 1000, 290)):
        truth = rng.integers(0, used, (37, 29))
        pred = np.where(rng.random(truth.shape) < 0.7, truth, rng.integers(0, classes, truth.shape))
        if ignore >= 0:
            truth = np.where(rng.random(truth.shape) < 0.1, ignore, truth)
        out["labels." + name + ".truth"] = truth.astype(np.int32)
        out["labels." + name + ".pred"] = pred.astype(np.int32)
        out["labels." + name + ".values"] = label_values(truth, pred, classes, ignore)


# ---- Gaussians --------------------------------------------------------------------------------------

def centred(rows):
    x = rows.astype(np.float64)
    return (x - x.mean(0)) / np.sqrt(len(x) - 1)


def frechet(a, b):
    x, y = centred(a), centred(b)
    d = a.astype(np.float64).mean(0) - b.astype(np.float64).mean(0)
    return d @ d + (x * x).sum() + (y * y).sum() - 2 * np.linalg.svd(x @ y.T, compute_uv=False).sum()


def gaussians(rng, out):
    cases = {"d8": (8, 40, 50), "d8_singular": (8, 5, 30), "d8_both": (8, 4, 6), "d64": (64, 90, 100),
             "d64_singular": (64, 30, 90), "d64_both": (64, 20, 25), "d1": (1, 10, 12)}
    for name, (dims, n1, n2) in cases.items():
        mix = rng.normal(size=(dims, dims)) / np.sqrt(dims)
        a = (rng.normal(size=(n1, dims)) @ mix + 0.5).astype(np.float32)
        b = (np.abs(rng.normal(size=(n2, dims))) @ mix.T + rng.normal(size=dims) * 0.3).astype(np.float32)
        key = "gauss." + name
        out[key + ".rows1"], out[key + ".rows2"] = a, b
        out[key + ".values"] = np.array([frechet(a, b)])
        if dims == 8:
            out[key + ".mean"] = a.astype(np.float64).mean(0)
            out[key + ".cov"] = np.cov(a.astype(np.float64), rowvar=False)


# ---- Inception's input ------------------------------------------------------------------------------

def inputs(rng, out):
    import torch
    import torch.nn.functional as F
    for name, shape, size in (("down", (53, 37, 3), 16), ("up", (9, 14, 3), 23), ("gray", (20, 11, 1), 16),
                              ("same", (12, 12, 3), 12), ("dot", (1, 1, 3), 4)):
        x = rng.integers(0, 256, shape).astype(np.uint8)
        planes = torch.from_numpy(np.moveaxis(x, -1, 0).copy()).float() / 255
        y = F.interpolate(planes.expand(3, -1, -1)[None], (size, size), mode="bilinear", align_corners=False)
        out["fid." + name + ".x"] = x
        out["fid." + name + ".input"] = (2 * y - 1)[0].numpy().astype(np.float32)


# ---- .npz -------------------------------------------------------------------------------------------

def archives(rng):
    base = (np.arange(24).reshape(2, 3, 4) * 5) % 100
    arrays = {d: base.astype(d) for d in ("<f8", "<f4", "<f2", "<i8", "<i4", "<i2", "|i1", "<u8", "<u4", "<u2", "|u1")}
    arrays = {k.strip("<|"): v for k, v in arrays.items()}
    arrays["b1"] = base % 2 == 1
    arrays["fortran"] = np.asfortranarray(base.astype(np.float64))
    arrays["scalar"] = np.float64(-2.5)
    arrays["empty"] = np.zeros((0, 3))
    arrays["special"] = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 1e308])
    arrays["half"] = np.array([1.0, -2.5, 6e-8, 65504, np.inf, 0.0999755859375], np.float16)
    np.savez(os.path.join(OUT, "stored.npz"), **arrays)
    np.savez_compressed(os.path.join(OUT, "deflated.npz"), **arrays)
    rows = rng.normal(size=(20, 4))
    np.savez(os.path.join(OUT, "stats.npz"), mu=rows.mean(0), sigma=np.cov(rows, rowvar=False))
    with zipfile.ZipFile(os.path.join(OUT, "versions.npz"), "w") as z: # the header's three versions
        for version in ((1, 0), (2, 0), (3, 0)):
            f = BytesIO()
            np.lib.format.write_array(f, base.astype(np.int32), version=version)
            z.writestr("v%d.npy" % version[0], f.getvalue())
    bad = {"big_endian": base.astype(">f8"), "complex": base.astype(np.complex128), "text": np.array(["a", "b"])}
    for name, a in bad.items():
        np.savez(os.path.join(OUT, name + ".npz"), x=a)


def main():
    if sys.argv[1:2] == ["--read"]:
        with np.load(sys.argv[2]) as z:
            for name in z.files:
                print(name, z[name].dtype, z[name].shape, z[name].ravel()[:8].tolist())
        return
    rng = np.random.default_rng(20261121)
    out = {}
    os.makedirs(OUT, exist_ok=True)
    pictures(rng, out)
    labels(rng, out)
    gaussians(rng, out)
    inputs(rng, out)
    save(os.path.join(OUT, "metrics.safetensors"), out)
    archives(rng)


main()
