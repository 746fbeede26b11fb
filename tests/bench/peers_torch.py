"""peers_torch.py: PyTorch's side of peers.py: the networks and steps of peers.kd and of the recipes in PyTorch.

    peers_torch.py net NAME WEIGHTS THREADS          serves (peers_serve.h) the fastest of eager, frozen TorchScript,
                                                     and that optimised for inference
    peers_torch.py once NAME WEIGHTS THREADS         a cold start: loads WEIGHTS.pt (frozen TorchScript), runs once
    peers_torch.py step NAME THREADS                 serves a training step, or a term forward and backward
    peers_torch.py onnx NAME WEIGHTS OUT.onnx        opset 13
    peers_torch.py script NAME WEIGHTS OUT.pt        frozen TorchScript
    peers_torch.py version                           its own and what it multiplies matrices with

WEIGHTS is a safetensors file in kdc's order of creation; PyTorch's parameters and buffers are in the same.
"""
import itertools
import json
import os
import struct
import sys
import time
import warnings

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

warnings.filterwarnings("ignore")
now = time.process_time if os.environ.get("PEERS_CLOCK") == "cpu" else time.monotonic


# ---- networks (methods A) ------------------------------------------------------------------------------------------

def normed(conv):
    return [conv, nn.InstanceNorm2d(conv.out_channels), nn.ReLU()]


class Block(nn.Module):
    def __init__(self, c, separable):
        super().__init__()

        def conv():
            if not separable:
                return [nn.ReflectionPad2d(1), nn.Conv2d(c, c, 3)]
            return [nn.ReflectionPad2d(1), nn.Conv2d(c, c, 3, groups=c), nn.InstanceNorm2d(c), nn.Conv2d(c, c, 1)]

        self.f = nn.Sequential(*conv(), nn.InstanceNorm2d(c), nn.ReLU(), *conv(), nn.InstanceNorm2d(c))

    def forward(self, x):
        return x + self.f(x)


class Resnet(nn.Module):
    """`features` gives the last block's result beside the picture."""

    def __init__(self, n, separable=False, features=False):
        super().__init__()
        self.features = features
        self.encode = nn.Sequential(
            nn.ReflectionPad2d(3), *normed(nn.Conv2d(3, n, 7)), *normed(nn.Conv2d(n, 2 * n, 3, 2, 1)),
            *normed(nn.Conv2d(2 * n, 4 * n, 3, 2, 1)), *[Block(4 * n, separable) for _ in range(9)])
        self.decode = nn.Sequential(
            *normed(nn.ConvTranspose2d(4 * n, 2 * n, 3, 2, 1, 1)), *normed(nn.ConvTranspose2d(2 * n, n, 3, 2, 1, 1)),
            nn.ReflectionPad2d(3), nn.Conv2d(n, 3, 7), nn.Tanh())

    def forward(self, x):
        h = self.encode(x)
        return (self.decode(h), h) if self.features else self.decode(h)


class Unet(nn.Module):
    def __init__(self, n, depth=8):
        super().__init__()
        self.depth = depth
        width = [n * min(2 ** i, 8) for i in range(depth)]
        inner = range(1, depth - 1)
        outer = [3] + width  # channels outside of level i
        self.down = nn.ModuleList(nn.Conv2d(outer[i], width[i], 4, 2, 1, bias=False) for i in range(depth))
        self.down_norm = nn.ModuleList(nn.BatchNorm2d(width[i]) if i in inner else nn.Identity() for i in range(depth))
        joined = [2 * w for w in width[:-1]] + [width[-1]]
        self.up = nn.ModuleList(nn.ConvTranspose2d(joined[i], outer[i], 4, 2, 1, bias=i == 0) for i in range(depth))
        self.up_norm = nn.ModuleList(nn.Identity() if i == 0 else nn.BatchNorm2d(width[i - 1]) for i in range(depth))

    def in_order(self):  # tensors in order of creation: down, then up from the innermost
        up = zip(reversed(self.up), reversed(self.up_norm))
        for conv, norm in itertools.chain(zip(self.down, self.down_norm), up):
            yield from conv.state_dict().values()
            yield from (t for k, t in norm.state_dict().items() if k != "num_batches_tracked")

    def forward(self, x):
        skips = []
        for i, (conv, norm) in enumerate(zip(self.down, self.down_norm)):
            x = norm(conv(x))
            x = F.leaky_relu(x, 0.2) if i < self.depth - 1 else F.relu(x)
            skips.append(x)
        for i in reversed(range(self.depth)):
            if i < self.depth - 1:
                x = F.relu(torch.cat([skips[i], x], 1))
            x = self.up[i](x)
            if i > 0:
                x = self.up_norm[i](x)
            if 3 < i < self.depth - 1:
                x = F.dropout(x, 0.5, self.training)
        return torch.tanh(x)


def patchgan(channels, norm):
    layers = [nn.Conv2d(channels, 64, 4, 2, 1), nn.LeakyReLU(0.2, True)]
    for c_in, c_out, stride in (64, 128, 2), (128, 256, 2), (256, 512, 1):
        conv = nn.Conv2d(c_in, c_out, 4, stride, 1, bias=norm is not nn.BatchNorm2d)
        layers += [conv, norm(c_out), nn.LeakyReLU(0.2, True)]
    return nn.Sequential(*layers, nn.Conv2d(512, 1, 4, 1, 1))


NETS = {"R64": lambda: Resnet(64), "R32": lambda: Resnet(32), "R16": lambda: Resnet(16),
        "M48": lambda: Resnet(48, separable=True), "U64": lambda: Unet(64), "U16": lambda: Unet(16)}


def read_safetensors(path):
    with open(path, "rb") as f:
        head = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        data = f.read()
    parts = sorted((v["data_offsets"], v["shape"]) for k, v in head.items() if k != "__metadata__")
    return [torch.from_numpy(np.frombuffer(data[a:b], np.float32).reshape(shape).copy()) for (a, b), shape in parts]


def network(name, weights):
    net = NETS[name]().eval()
    mine = list(net.in_order() if isinstance(net, Unet) else net.state_dict().values())
    theirs = read_safetensors(weights)
    assert [t.shape for t in mine] == [t.shape for t in theirs], "another network than kdc's"
    for a, b in zip(mine, theirs):
        a.copy_(b)
    return net


def picture():
    n = 3 * 256 * 256
    return torch.tensor((np.arange(n) * 7 % 17 / 8 - 1).astype(np.float32)).reshape(1, 3, 256, 256)


# ---- training steps ------------------------------------------------------------------------------------------------

def adam(*nets, rate=2e-4):
    return torch.optim.Adam(itertools.chain(*[n.parameters() for n in nets]), lr=rate, betas=(0.5, 0.999))


def update(optimizer, loss):
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def need_grad(nets, yes):
    for n in nets:
        for p in n.parameters():
            p.requires_grad_(yes)


def lsgan(d, target):
    return (d - target).square().mean()


def bce(d, target):
    return F.binary_cross_entropy_with_logits(d, torch.full_like(d, target))


class Pool:
    """Keeps 50 pictures; gives the new one, or an older one in its place."""

    def __init__(self):
        self.kept, self.random = [], np.random.default_rng(1)

    def __call__(self, x):
        x = x.detach()
        if len(self.kept) < 50:
            self.kept.append(x)
            return x
        if self.random.random() < 0.5:
            return x
        i = self.random.integers(50)
        old, self.kept[i] = self.kept[i], x
        return old


def cyclegan():
    g_a, g_b, d_a, d_b = Resnet(64), Resnet(64), patchgan(3, nn.InstanceNorm2d), patchgan(3, nn.InstanceNorm2d)
    opt_g, opt_d, pool_a, pool_b = adam(g_a, g_b), adam(d_a, d_b), Pool(), Pool()
    a, b = picture(), -picture()

    def step():
        fake_b, fake_a = g_a(a), g_b(b)
        rec_a, rec_b = g_b(fake_b), g_a(fake_a)
        need_grad((d_a, d_b), False)
        loss = lsgan(d_a(fake_b), 1) + lsgan(d_b(fake_a), 1)
        loss = loss + 10 * (F.l1_loss(rec_a, a) + F.l1_loss(rec_b, b))
        loss = loss + 5 * (F.l1_loss(g_b(a), a) + F.l1_loss(g_a(b), b))
        update(opt_g, loss)
        need_grad((d_a, d_b), True)
        loss_a = 0.5 * (lsgan(d_a(b), 1) + lsgan(d_a(pool_b(fake_b)), 0))
        loss_b = 0.5 * (lsgan(d_b(a), 1) + lsgan(d_b(pool_a(fake_a)), 0))
        update(opt_d, loss_a + loss_b)

    return step


def reko(query, keys):
    """The published formula: the 256 positions the teacher attends to most, each against all 4096."""
    index = keys.detach().abs().mean(1).flatten(1).topk(256).indices[0]
    q, k = query.flatten(2)[0].t()[index], keys.flatten(2)[0].t()
    logits = q @ k.t() / 10
    return (logits.logsumexp(1) - (q * k[index]).sum(1) / 10).sum()


def distil(ngf):
    teacher, student = Resnet(64, features=True), Resnet(ngf, features=True)
    widen, d = nn.Conv2d(4 * ngf, 256, 1), patchgan(3, nn.InstanceNorm2d)
    opt_s, opt_d = adam(student, widen), adam(d)
    x, y = picture(), -picture()
    teacher.eval()
    need_grad([teacher], False)

    def step():
        with torch.no_grad():
            soft, keys = teacher(x)
        fake, features = student(x)
        update(opt_d, 0.5 * (lsgan(d(fake.detach()), 0) + lsgan(d(y), 1)))
        need_grad([d], False)
        update(opt_s, lsgan(d(fake), 1) + 10 * F.l1_loss(fake, soft) + 1e-3 * reko(widen(features), keys))
        need_grad([d], True)

    return step


def pix2pix():
    g, d = Unet(64), patchgan(6, nn.BatchNorm2d)
    opt_g, opt_d = adam(g), adam(d)
    x, y = picture(), -picture()

    def step():
        fake = g(x)
        update(opt_d, 0.5 * (bce(d(torch.cat([x, fake.detach()], 1)), 0.0) + bce(d(torch.cat([x, y], 1)), 1.0)))
        need_grad([d], False)
        update(opt_g, bce(d(torch.cat([x, fake], 1)), 1.0) + 100 * F.l1_loss(fake, y))
        need_grad([d], True)

    return step


def contrast():
    q, k = torch.randn(256, 256, requires_grad=True), torch.randn(4096, 256, requires_grad=True)

    def step():
        q.grad = k.grad = None
        ((q @ k.t() / 16).logsumexp(1) - (q * k[:256]).sum(1) / 16).sum().backward()

    return step


def spatial():
    s, t = torch.randn(256, 4096, requires_grad=True), torch.randn(256, 4096)

    def similarity(v):
        a = v.t() @ v
        return a / a.norm(dim=1, keepdim=True)

    def step():
        s.grad = None
        with torch.no_grad():
            of_teacher = similarity(t)
        F.mse_loss(similarity(s), of_teacher).backward()

    return step


STEPS = {"cyclegan": cyclegan, "distil32": lambda: distil(32), "distil16": lambda: distil(16), "pix2pix": pix2pix,
         "contrast": contrast, "spatial": spatial}


# ---- serving -------------------------------------------------------------------------------------------------------

def serve(once, output):
    print("ready", flush=True)
    for line in sys.stdin:
        what = line.split()
        if what[0] == "run":
            for _ in range(int(what[1])):
                once()
            times, start = [], now()
            while len(times) < int(what[2]) or now() - start < float(what[3]):
                begin = now()
                once()
                times.append(1e3 * (now() - begin))
            print(" ".join("%.6g" % t for t in times), flush=True)
        elif what[0] == "out":
            output().numpy().astype(np.float32).tofile(what[1])
            print("done", flush=True)
        elif what[0] == "mem":
            with open("/proc/self/status") as f:
                kb = [int(s.split()[1]) for s in f if s.startswith("VmHWM")][0]
            print("%.1f" % (kb * 1024e-6), flush=True)


def scripted(net, x):
    return torch.jit.freeze(torch.jit.trace(net, x))


def serve_net(name, weights):
    x, net = picture(), network(name, weights)
    ways = {"eager": lambda: net, "frozen": lambda: scripted(net, x),
            "optimised": lambda: torch.jit.optimize_for_inference(scripted(net, x))}
    best, way = None, {}
    with torch.no_grad():
        for label, make in ways.items():
            try:
                f = make()
                for _ in range(1 if label == "eager" else 2):
                    f(x)
                times = []
                while len(times) < 3 and sum(times) < 0.5:
                    begin = now()
                    f(x)
                    times.append(now() - begin)
            except RuntimeError:  # some builds cannot optimise
                continue
            way[label] = f
            if best is None or min(times) < best[0]:
                best = min(times), label
        chosen = way[best[1]]
        print("which " + best[1], flush=True)
        serve(lambda: chosen(x), lambda: chosen(x))


def main(args):
    verb, name = (args + [""])[:2]
    torch.manual_seed(1)
    if verb in ("net", "once"):
        torch.set_num_threads(int(args[3]))
    if verb == "version":
        with open("/proc/self/maps") as f:
            fast = "openblas" in f.read()
        print(torch.__version__, "with", "OpenBLAS" if fast else "THE REFERENCE BLAS (slow: see peers.sh)")
    elif verb == "net":
        serve_net(name, args[2])
    elif verb == "once":
        with torch.no_grad():
            print(float(torch.jit.load(args[2] + ".pt")(picture()).flatten()[0]))
    elif verb == "step":
        torch.set_num_threads(int(args[2]))
        serve(STEPS[name](), lambda: None)
    elif verb == "onnx":
        torch.onnx.export(network(name, args[2]), picture(), args[3], opset_version=13, input_names=["x"],
                          output_names=["y"])
    elif verb == "script":
        scripted(network(name, args[2]), picture()).save(args[3])


if __name__ == "__main__":
    main(sys.argv[1:])
