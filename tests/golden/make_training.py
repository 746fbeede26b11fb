#!/usr/bin/env python3
"""Makes training.safetensors: what PyTorch computes for a few training steps (methods A.1.4 and A.2.2 with C.13).

    /usr/bin/python3 tests/golden/make_training.py

Needs Debian's python3-torch. Everything runs in float64 (the truth) and again in float32, so that the file also
says how far PyTorch's own float32 run strays: a GAN step is chaotic (a ReLU or an L1 sign that flips moves a gradient
by far more than rounding), and no float32 implementation can be nearer to another than that.

For each run NAME:
    NAME.losses      [steps, losses] float64
    NAME.losses32    the same from the float32 run
    NAME.change      [tensors, 2 + SAMPLES]: of each trained tensor, in order of creation, the change w(steps) - w(0):
                     its norm, its dot product with uniform(5000 + k), and SAMPLES elements at even distances
    NAME.change32    the same from the float32 run
"""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from golden_lib import *

SAMPLES = 16


def summary(before, after):
    rows = []
    for k, (a, b) in enumerate(zip(before, after)):
        d = (b.detach().double() - a.double()).flatten().numpy()
        at = np.arange(SAMPLES) * len(d) // SAMPLES
        rows.append(np.concatenate([[np.linalg.norm(d), d @ uniform(5000 + k, len(d)).astype(np.float64)], d[at]]))
    return np.stack(rows)


def parameters(modules):
    return [p for m in modules for p in m.parameters()]


def lsgan(d, real):
    return ((d - (1.0 if real else 0.0)) ** 2).mean()


def bce(d, real):
    return F.binary_cross_entropy_with_logits(d, torch.full_like(d, 1.0 if real else 0.0))


def l1(a, b):
    return (a - b).abs().mean()


def cyclegan(dtype, size, ngf, ndf, blocks, steps, optimizer):
    """Methods A.1.3 / A.1.4. The pool (capacity 50) is not full within these steps, so it returns its input."""
    nets = G_A, G_B, D_A, D_B = ResnetGen(ngf, blocks), ResnetGen(ngf, blocks), PatchGan(ndf), PatchGan(ndf)
    fill(nets, 100, 0.035)
    for m in nets:
        m.to(dtype)
    before = [p.detach().clone() for p in parameters(nets)]
    opt_g, opt_d = optimizer(parameters([G_A, G_B])), optimizer(parameters([D_A, D_B]))
    losses = []
    for s in range(steps):
        A, B = image(1000 + s, 1, 3, size, size).to(dtype), image(2000 + s, 1, 3, size, size).to(dtype)
        fake_B, fake_A = G_A(A), G_B(B)
        rec_A, rec_B = G_B(fake_B), G_A(fake_A)
        idt_A, idt_B = G_A(B), G_B(A)
        adv = lsgan(D_A(fake_B), True) + lsgan(D_B(fake_A), True)
        cycle = 10 * (l1(rec_A, A) + l1(rec_B, B))
        idt = 0.5 * 10 * (l1(idt_A, B) + l1(idt_B, A))
        opt_g.zero_grad()
        (adv + cycle + idt).backward()
        opt_g.step()
        loss_d_a = 0.5 * (lsgan(D_A(B), True) + lsgan(D_A(fake_B.detach()), False))
        loss_d_b = 0.5 * (lsgan(D_B(A), True) + lsgan(D_B(fake_A.detach()), False))
        opt_d.zero_grad()
        (loss_d_a + loss_d_b).backward()
        opt_d.step()
        losses.append([v.item() for v in (adv, cycle, idt, loss_d_a, loss_d_b)])
    return np.array(losses), summary(before, parameters(nets))


def adam(ps):
    return torch.optim.Adam(ps, 2e-4, (0.5, 0.999))


def run(out, name, fn, **kw):
    for suffix, dtype in (("", torch.float64), ("32", torch.float32)):
        out[name + ".losses" + suffix], out[name + ".change" + suffix] = fn(dtype, **kw)
    a, b = out[name + ".losses"], out[name + ".losses32"]
    print(name, "losses", a[-1], "float32 strays by", np.max(np.abs(a - b) / np.abs(a)))


if __name__ == "__main__":
    torch.set_num_threads(2)
    out = {}
    run(out, "cyclegan_small", cyclegan, size=32, ngf=4, ndf=8, blocks=2, steps=5, optimizer=adam)
    run(out, "cyclegan", cyclegan, size=128, ngf=16, ndf=64, blocks=9, steps=5, optimizer=adam)
    save_safetensors(os.path.join(os.path.dirname(os.path.abspath(__file__)), "training.safetensors"), out)
