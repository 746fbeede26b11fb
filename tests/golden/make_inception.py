#!/usr/bin/env python3
"""Makes metrics/inception.safetensors: what PyTorch computes for models/nets/inception.kd on reproducible weights.

    /usr/bin/python3 tests/golden/make_inception.py

Needs Debian's python3-torch; the test suite does not run this. The network is FID's Inception-v3, written here from its
description (methods D.1), with PyTorch's module names. Its 22 million weights are not stored: both sides compute each tensor
from its own name (golden_lib.uniform with the name's FNV-1a hash as the key):

    filters        uniform * sqrt(3 * 2 / fan_in): the variance of Kaiming's init
    bn.weight      1 + uniform * 0.2        bn.bias         uniform * 0.2
    running_mean   uniform * 0.2            running_var     1 + uniform * 0.5
    x              uniform, key 1

`names` lists every tensor of the state dict with its number of elements, so that the test also sees that the names agree.
    x.size I32 [2]; out F32 [1, 2048]; out64 F64 [1, 2048], from float64; count.NAME I32 [1] for each tensor
"""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from golden_lib import *

SIZE = (107, 91)


class Conv(nn.Module):
    def __init__(self, cin, out, kernel=1, stride=1, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(cin, out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=1e-3)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


def average(x):
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def maximum(x):
    return F.max_pool2d(x, 3, 1, 1)


class Block(nn.Module):
    """Branches side by side: {name: layer}, and each output as the names applied one after the other to x (or to pool(x), or
    for "max" a stride-2 maximum)."""

    def __init__(self, layers, outputs, pool=average):
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.outputs, self.pool = outputs, pool

    def forward(self, x):
        out = []
        for chain in self.outputs:
            y = x
            for name in chain.split():
                if name == "max":
                    y = F.max_pool2d(y, 3, 2)
                elif name == "pool":
                    y = self.pool(y)
                else:
                    y = getattr(self, name)(y)
            out.append(y)
        return torch.cat(out, 1)


def block_a(cin, pool):
    return Block({"branch1x1": Conv(cin, 64), "branch5x5_1": Conv(cin, 48), "branch5x5_2": Conv(48, 64, 5, 1, 2),
                  "branch3x3dbl_1": Conv(cin, 64), "branch3x3dbl_2": Conv(64, 96, 3, 1, 1),
                  "branch3x3dbl_3": Conv(96, 96, 3, 1, 1), "branch_pool": Conv(cin, pool)},
                 ["branch1x1", "branch5x5_1 branch5x5_2", "branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3", "pool branch_pool"])


def block_b(cin):
    return Block({"branch3x3": Conv(cin, 384, 3, 2), "branch3x3dbl_1": Conv(cin, 64),
                  "branch3x3dbl_2": Conv(64, 96, 3, 1, 1), "branch3x3dbl_3": Conv(96, 96, 3, 2)},
                 ["branch3x3", "branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3", "max"])


def wide(cin, out):
    return Conv(cin, out, (1, 7), 1, (0, 3))


def tall(cin, out):
    return Conv(cin, out, (7, 1), 1, (3, 0))


def block_c(cin, c):
    return Block({"branch1x1": Conv(cin, 192), "branch7x7_1": Conv(cin, c), "branch7x7_2": wide(c, c),
                  "branch7x7_3": tall(c, 192), "branch7x7dbl_1": Conv(cin, c), "branch7x7dbl_2": tall(c, c),
                  "branch7x7dbl_3": wide(c, c), "branch7x7dbl_4": tall(c, c), "branch7x7dbl_5": wide(c, 192),
                  "branch_pool": Conv(cin, 192)},
                 ["branch1x1", "branch7x7_1 branch7x7_2 branch7x7_3",
                  "branch7x7dbl_1 branch7x7dbl_2 branch7x7dbl_3 branch7x7dbl_4 branch7x7dbl_5", "pool branch_pool"])


def block_d(cin):
    return Block({"branch3x3_1": Conv(cin, 192), "branch3x3_2": Conv(192, 320, 3, 2), "branch7x7x3_1": Conv(cin, 192),
                  "branch7x7x3_2": wide(192, 192), "branch7x7x3_3": tall(192, 192), "branch7x7x3_4": Conv(192, 192, 3, 2)},
                 ["branch3x3_1 branch3x3_2", "branch7x7x3_1 branch7x7x3_2 branch7x7x3_3 branch7x7x3_4", "max"])


def block_e(cin, pool):
    return Block({"branch1x1": Conv(cin, 320), "branch3x3_1": Conv(cin, 384),
                  "branch3x3_2a": Conv(384, 384, (1, 3), 1, (0, 1)), "branch3x3_2b": Conv(384, 384, (3, 1), 1, (1, 0)),
                  "branch3x3dbl_1": Conv(cin, 448), "branch3x3dbl_2": Conv(448, 384, 3, 1, 1),
                  "branch3x3dbl_3a": Conv(384, 384, (1, 3), 1, (0, 1)), "branch3x3dbl_3b": Conv(384, 384, (3, 1), 1, (1, 0)),
                  "branch_pool": Conv(cin, 192)},
                 ["branch1x1", "branch3x3_1 branch3x3_2a", "branch3x3_1 branch3x3_2b",
                  "branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3a", "branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3b",
                  "pool branch_pool"], pool)


class Pool(nn.Module):
    def forward(self, x):
        return F.max_pool2d(x, 3, 2)


def inception():
    net = nn.Sequential()
    for name, layer in (
            ("Conv2d_1a_3x3", Conv(3, 32, 3, 2)), ("Conv2d_2a_3x3", Conv(32, 32, 3)),
            ("Conv2d_2b_3x3", Conv(32, 64, 3, 1, 1)), ("pool1", Pool()), ("Conv2d_3b_1x1", Conv(64, 80)),
            ("Conv2d_4a_3x3", Conv(80, 192, 3)), ("pool2", Pool()), ("Mixed_5b", block_a(192, 32)),
            ("Mixed_5c", block_a(256, 64)), ("Mixed_5d", block_a(288, 64)), ("Mixed_6a", block_b(288)),
            ("Mixed_6b", block_c(768, 128)), ("Mixed_6c", block_c(768, 160)), ("Mixed_6d", block_c(768, 160)),
            ("Mixed_6e", block_c(768, 192)), ("Mixed_7a", block_d(768)), ("Mixed_7b", block_e(1280, average)),
            ("Mixed_7c", block_e(2048, maximum))):
        net.add_module(name, layer)
    return net


def fnv(name):
    h = 2166136261
    for b in name.encode():
        h = ((h ^ b) * 16777619) & 0xFFFFFFFF
    return h


def value(name, shape):
    u = uniform(fnv(name), int(np.prod(shape))).reshape(shape)
    if len(shape) == 4:
        fan_in = shape[1] * shape[2] * shape[3]
        return u * np.float32(np.sqrt(6.0 / fan_in))
    scale, base = {"weight": (0.2, 1), "bias": (0.2, 0), "running_mean": (0.2, 0),
                   "running_var": (0.5, 1)}[name.rsplit(".", 1)[1]]
    return np.float32(base) + u * np.float32(scale)


def main():
    net = inception().eval()
    out = {"x.size": np.array(SIZE, np.int32)}
    with torch.no_grad():
        for name, t in net.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                t.copy_(torch.from_numpy(value(name, tuple(t.shape))))
                out["count." + name] = np.array([t.numel()], np.int32)
        x = image(1, 1, 3, *SIZE)
        out["out"] = net(x).mean((2, 3)).numpy()
        out["out64"] = net.double()(x.double()).mean((2, 3)).numpy()
    y = out["out64"]
    print("features: mean", y.mean(), "max", y.max(), "zero", (y == 0).mean(), "float32's error", abs(out["out"] - y).max())
    os.makedirs(os.path.join(os.path.dirname(os.path.abspath(__file__)), "metrics"), exist_ok=True)
    save_safetensors(os.path.join(os.path.dirname(os.path.abspath(__file__)), "metrics", "inception.safetensors"), out)


main()
