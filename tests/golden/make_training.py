#!/usr/bin/env python3
"""Makes training.safetensors: what PyTorch computes for a few training steps (methods A.1.4 and A.2.2 with C.13).

    /usr/bin/python3 tests/golden/make_training.py [RUN...]     (all runs, or only these anew)

Needs Debian's python3-torch. Everything runs in float64 (the truth) and again in float32, so that the file also
says how far PyTorch's own float32 run strays: a GAN step is chaotic (a ReLU or an L1 sign that flips moves a gradient
by far more than rounding), and no float32 implementation can be nearer to another than that.

For each run NAME:
    NAME.losses      [steps, losses] float64
    NAME.losses32    the same from the float32 run
    NAME.change      [tensors, 2 + SAMPLES]: of each trained tensor, in order of creation, the change w(steps) - w(0):
                     its norm, its dot product with uniform(5000 + k), and SAMPLES elements at even distances
    NAME.change32    the same from the float32 run
    NAME.running     like change, of the running statistics of the trained networks (pix2pix_reko)
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


def reko(fs, ft, k, tau):
    """The released code of methods C.13 for one image: fs, ft [c, positions]; ft is detached."""
    at = torch.sort(ft.abs().mean(0), descending=True)[1][:k]
    q, key = fs[:, at].t(), ft[:, at].t()
    q, key = [f / (f.norm(dim=1, keepdim=True) + 1e-7) for f in (q, key)]
    positive, negative = (q * key).sum(1, keepdim=True), q @ key.t()
    negative = negative.masked_fill(torch.eye(k, dtype=torch.bool), -10.0)
    logits = torch.cat([positive, negative], 1) / tau
    return F.cross_entropy(logits, torch.zeros(k, dtype=torch.long))


def contiguous_gradient(t):
    """PyTorch 1.13 computes wrong gradients of norms from strided ones (reliability.md, trap 1)."""
    if t.requires_grad:
        t.register_hook(lambda g: g.contiguous())
    return t


def pix2pix_reko(dtype, size, depth, ngf, teacher_ngf, ndf, level, k, steps, optimizer):
    """Methods A.2.2 with C.13 (released form); the teacher in inference mode; D then G; no dropout."""
    wide = teacher_ngf * min(2 ** level, 8)
    T, S, D = unet(teacher_ngf, depth), unet(ngf, depth), PatchGan(ndf, 6, "batch")
    A = nn.Conv2d(ngf * min(2 ** level, 8), wide, 1)
    fill([T, S, D, A], 100, 0.05)
    fill_running(T, 7000)
    for m in (T, S, D, A):
        m.to(dtype)
    T.eval()
    before = [p.detach().clone() for p in parameters([S, D, A])]
    opt_s, opt_d = optimizer(parameters([S, A])), optimizer(parameters([D]))
    losses = []
    for s in range(steps):
        x, y = image(1000 + s, 1, 3, size, size).to(dtype), image(2000 + s, 1, 3, size, size).to(dtype)
        down, soft = [], []
        fake = S(x, down)
        with torch.no_grad():
            T(x, soft)
        d_loss = 0.5 * (bce(D(torch.cat([x, fake.detach()], 1)), False) + bce(D(torch.cat([x, y], 1)), True))
        opt_d.zero_grad()
        d_loss.backward()
        opt_d.step()
        adv, rec = bce(D(torch.cat([x, fake], 1)), True), 100 * l1(fake, y)
        kd = reko(A(contiguous_gradient(down[level]))[0].flatten(1), soft[level][0].flatten(1), k, 0.07)
        opt_s.zero_grad()
        (adv + rec + kd).backward()
        opt_s.step()
        losses.append([v.item() for v in (d_loss, adv, rec, kd)])
    running = [b for m in (S, D) for n, b in m.named_buffers() if not n.endswith("num_batches_tracked")]
    zero = [torch.zeros_like(b) for b in running]
    return np.array(losses), summary(before, parameters([S, D, A])), summary(zero, running)


def adam(ps):
    return torch.optim.Adam(ps, 2e-4, (0.5, 0.999))


def run(out, name, fn, **kw):
    for suffix, dtype in (("", torch.float64), ("32", torch.float32)):
        for what, a in zip(("losses", "change", "running"), fn(dtype, **kw)):
            out[name + "." + what + suffix] = a
    a, b = out[name + ".losses"], out[name + ".losses32"]
    print(name, "losses", a[-1], "float32 strays by", np.max(np.abs(a - b) / np.abs(a)))


RUNS = {
    "cyclegan_small": (cyclegan, dict(size=32, ngf=4, ndf=8, blocks=2, steps=5)),
    "cyclegan": (cyclegan, dict(size=128, ngf=16, ndf=64, blocks=9, steps=5)),
    "pix2pix_reko": (pix2pix_reko, dict(size=32, depth=5, ngf=4, teacher_ngf=6, ndf=8, level=2, k=8, steps=5)),
}

if __name__ == "__main__":
    torch.set_num_threads(2)
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "training.safetensors")
    names = sys.argv[1:] or list(RUNS)
    out = load_safetensors(path) if sys.argv[1:] else {}
    for name in names:
        run(out, name, RUNS[name][0], optimizer=adam, **RUNS[name][1])
    save_safetensors(path, out)
