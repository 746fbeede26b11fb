"""What the golden scripts share: safetensors files, reproducible tensors, and the networks of
methods A.1 and A.2 in PyTorch. Needs Debian's python3-torch; the test suite does not run this.

Weights and images are not stored in golden files: both sides make them from `uniform(key, n)` below
(tests/golden/golden.h has the same function in C), so the files stay small.
"""
import json
import struct

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F


# ---- files ------------------------------------------------------------------------------------

def save_safetensors(path, tensors):
    header, at, blobs = {}, 0, []
    names = {"float32": "F32", "int32": "I32", "float64": "F64"}
    for name, t in tensors.items():
        a = np.asarray(t.detach().numpy() if isinstance(t, torch.Tensor) else t)
        a = a if a.flags["C_CONTIGUOUS"] else np.ascontiguousarray(a)
        blob = a.tobytes()
        header[name] = {"dtype": names[str(a.dtype)], "shape": list(a.shape),
                        "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def load_safetensors(path):
    with open(path, "rb") as f:
        raw = f.read()
    (n,) = struct.unpack("<Q", raw[:8])
    types = {"F32": np.float32, "I32": np.int32, "F64": np.float64}
    out = {}
    for name, e in json.loads(raw[8:8 + n]).items():
        if name != "__metadata__":
            a, b = e["data_offsets"]
            out[name] = np.frombuffer(raw[8 + n + a:8 + n + b], types[e["dtype"]]).reshape(e["shape"]).copy()
    return out


# ---- reproducible numbers ------------------------------------------------------------------------

def uniform(key, n):
    """n floats in [-1, 1): a 32-bit integer hash of (key, i), its top 24 bits scaled."""
    with np.errstate(over="ignore"):
        x = np.arange(n, dtype=np.uint32) + np.uint32((key * 0x9E3779B9) & 0xFFFFFFFF)
        x ^= x >> np.uint32(16)
        x *= np.uint32(0x21F0AAAD)
        x ^= x >> np.uint32(15)
        x *= np.uint32(0x735A2D97)
        x ^= x >> np.uint32(15)
    return ((x >> np.uint32(8)).astype(np.float64) / 8388608.0 - 1.0).astype(np.float32)


def image(key, *shape):
    return torch.from_numpy(uniform(key, int(np.prod(shape))).reshape(shape))


def class_map(key, n, h, w, classes, block=1):
    """int64 [n, h, w] of 0 .. classes - 1, one number for each block x block positions."""
    rows, columns = -(-h // block), -(-w // block)
    u = uniform(key, n * rows * columns).astype(np.float64)
    ids = np.minimum(((u + 1) / 2 * classes).astype(np.int64), classes - 1).reshape(n, rows, columns)
    return torch.from_numpy(ids.repeat(block, 1).repeat(block, 2)[:, :h, :w].copy())


def ordered(module, pairs, first):
    """(name, tensor) of each module by itself, those whose name begins with `first` in front: a spectral norm moves the
    weight behind the bias."""
    for prefix, m in module.named_modules():
        own = [(prefix + "." + n if prefix else n, t) for n, t in pairs(m)]
        yield from [p for p in own if p[0].rsplit(".", 1)[-1].startswith(first)]
        yield from [p for p in own if not p[0].rsplit(".", 1)[-1].startswith(first)]


def ordered_parameters(module):
    return list(ordered(module, lambda m: m.named_parameters(recurse=False), "weight"))


def ordered_buffers(module):
    """Running statistics, and u and v of spectral norms."""
    own = lambda m: [(n, b) for n, b in m.named_buffers(recurse=False) if not n.endswith("num_batches_tracked")]
    return list(ordered(module, own, "weight"))


def fill(modules, key, scale=0.05):
    """Weights of the modules, in order: matrices and filters get uniform * scale, biases uniform * 0.1, norm scales
    1 + uniform * 0.1; tensor k uses key + k."""
    k = 0
    for m in modules:
        for name, p in ordered_parameters(m):
            u = torch.from_numpy(uniform(key + k, p.numel()).reshape(tuple(p.shape)))
            with torch.no_grad():
                if p.dim() > 1:
                    p.copy_(u * scale)
                elif name.endswith("weight"):
                    p.copy_(1 + u * 0.1)
                else:
                    p.copy_(u * 0.1)
            k += 1
    return k


def fill_running(module, key):
    """Running statistics, in order: means uniform * 0.1, variances 1 + uniform * 0.1."""
    k = 0
    for name, b in ordered_buffers(module):
        if name.endswith("running_mean") or name.endswith("running_var"):
            u = torch.from_numpy(uniform(key + k, b.numel()))
            b.copy_(u * 0.1 if name.endswith("mean") else 1 + u * 0.1)
            k += 1
    return k


def fill_vectors(module, key):
    """u and v of spectral norms, in order: uniform, scaled to length 1 in double precision."""
    k = 0
    for name, b in ordered_buffers(module):
        if name.endswith("weight_u") or name.endswith("weight_v"):
            u = uniform(key + k, b.numel()).astype(np.float64)
            b.copy_(torch.from_numpy((u / np.sqrt((u * u).sum())).astype(np.float32)))
            k += 1
    return k


# ---- networks (methods A.1.1, A.1.2, A.2.1) --------------------------------------------------------

class ResBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.a, self.b = nn.Conv2d(c, c, 3), nn.Conv2d(c, c, 3)

    def forward(self, x):
        h = F.relu(F.instance_norm(self.a(F.pad(x, (1, 1, 1, 1), mode="reflect"))))
        return x + F.instance_norm(self.b(F.pad(h, (1, 1, 1, 1), mode="reflect")))


class ResnetGen(nn.Module):
    def __init__(self, n, blocks=9):
        super().__init__()
        self.stem = nn.Conv2d(3, n, 7)
        self.down = nn.ModuleList([nn.Conv2d(n, 2 * n, 3, 2, 1), nn.Conv2d(2 * n, 4 * n, 3, 2, 1)])
        self.blocks = nn.ModuleList([ResBlock(4 * n) for _ in range(blocks)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(4 * n, 2 * n, 3, 2, 1, 1),
                                 nn.ConvTranspose2d(2 * n, n, 3, 2, 1, 1)])
        self.head = nn.Conv2d(n, 3, 7)

    def forward(self, x):
        h = F.relu(F.instance_norm(self.stem(F.pad(x, (3, 3, 3, 3), mode="reflect"))))
        for m in self.down:
            h = F.relu(F.instance_norm(m(h)))
        for m in self.blocks:
            h = m(h)
        for m in self.up:
            h = F.relu(F.instance_norm(m(h)))
        return torch.tanh(self.head(F.pad(h, (3, 3, 3, 3), mode="reflect")))


class PatchGan(nn.Module):
    def __init__(self, d, cin=3, norm="instance"):
        super().__init__()
        batch = norm == "batch"
        self.conv0 = nn.Conv2d(cin, d, 4, 2, 1)
        self.conv1 = nn.Conv2d(d, 2 * d, 4, 2, 1, bias=not batch)
        self.norm1 = nn.BatchNorm2d(2 * d) if batch else nn.InstanceNorm2d(2 * d)
        self.conv2 = nn.Conv2d(2 * d, 4 * d, 4, 2, 1, bias=not batch)
        self.norm2 = nn.BatchNorm2d(4 * d) if batch else nn.InstanceNorm2d(4 * d)
        self.conv3 = nn.Conv2d(4 * d, 8 * d, 4, 1, 1, bias=not batch)
        self.norm3 = nn.BatchNorm2d(8 * d) if batch else nn.InstanceNorm2d(8 * d)
        self.conv4 = nn.Conv2d(8 * d, 1, 4, 1, 1)

    def forward(self, x):
        h = F.leaky_relu(self.conv0(x), 0.2)
        h = F.leaky_relu(self.norm1(self.conv1(h)), 0.2)
        h = F.leaky_relu(self.norm2(self.conv2(h)), 0.2)
        h = F.leaky_relu(self.norm3(self.conv3(h)), 0.2)
        return self.conv4(h)


class UnetLevel(nn.Module):
    """One level: down conv (+ norm), the levels inside, up conv (+ norm). Returns skip and result joined."""

    def __init__(self, outer, inner, sub, cin=None, outermost=False, innermost=False):
        super().__init__()
        self.outermost, self.innermost = outermost, innermost
        self.down = nn.Conv2d(cin or outer, inner, 4, 2, 1, bias=False)
        self.down_norm = nn.BatchNorm2d(inner) if not (outermost or innermost) else None
        self.sub = sub
        up_in = inner if innermost else inner * 2
        self.up = nn.ConvTranspose2d(up_in, outer, 4, 2, 1, bias=outermost)
        self.up_norm = nn.BatchNorm2d(outer) if not outermost else None

    def forward(self, x, down):
        """Appends to `down` what each level sends down, behind its activation (in place in the official code)."""
        a = x if self.outermost else F.leaky_relu(x, 0.2)
        if not self.outermost:
            down.append(a)
        h = self.down(a)
        if self.down_norm is not None:
            h = self.down_norm(h)
        if self.innermost:
            down.append(F.relu(h))
        else:
            h = self.sub(h, down)
        h = self.up(F.relu(h))
        if self.outermost:
            return torch.tanh(h)
        # the skip has passed the next level's in-place LeakyReLU in the official code; its own ReLU hides it
        return torch.cat([x, self.up_norm(h)], 1)


def unet(n, depth=8):
    mult = [min(2 ** i, 8) for i in range(depth)]
    level = UnetLevel(n * mult[-2], n * mult[-1], None, innermost=True)
    for i in range(depth - 2, 0, -1):
        level = UnetLevel(n * mult[i - 1], n * mult[i], level)
    return UnetLevel(3, n, level, cin=3, outermost=True)
