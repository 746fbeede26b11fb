#!/usr/bin/env python3
"""Makes FAMILY.kd and FAMILY.safetensors: one `fn` or `net` for each case, and what PyTorch computes for it.

    /usr/bin/python3 tests/golden/make_ops.py [FAMILY...]     (all families, or only these)

Needs Debian's python3-torch. A family is a file FAMILY_cases.py beside this one, `ops` (operations, the prelude, a few
losses) the first of them; test_golden_ops runs all there are. Such a file is Python that sees what golden_lib.py has
and what is defined below:

    IMPORTS = ["losses/gan.kd"]                       what FAMILY.kd imports
    case("loss_l1", "l1_loss(x, y)", lambda x, y: F.l1_loss(x, y), x=R(2, 3), y=R(2, 3))

a name, a .kd expression, a PyTorch function of the same inputs. R and I draw inputs; helpers in PyTorch may be defined at
will. PyTorch runs in float64; the file stores the inputs, the result, and the gradient of sum(result * seed) for
every float input, after checking that gradient against central differences (reliability.md, trap 1: PyTorch 1.13 has
wrong gradients of its own). A result is one tensor.

    NAME.in.X   NAME.seed   NAME.out   NAME.grad.X   NAME.new.X (a buffer's new value)

A case with `weights` is a net: inputs that `weights` maps to a path ("conv.weight") are its weights and buffers, the
others its parameters. A case whose name ends in _train runs in training mode. What a loss detaches is in `constants`.
"""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from golden_lib import *

HERE = os.path.dirname(os.path.abspath(__file__))
CASES, KEY = [], [10]  # of the family that is being made


class Case:
    """kd: the expression; consts: statements before it. grad: False when nothing is differentiable. weights: input ->
    path. new: input -> function of the inputs, the buffer's new value. constants: inputs that no gradient may reach.
    frozen: weights of a frozen instance, which have no gradient. estimated: inputs whose gradient is
    no derivative (straight-through): differences do not confirm it."""

    def __init__(self, name, kd, fn, grad, consts, weights, new, constants, frozen, estimated, inputs):
        self.name, self.kd, self.fn, self.grad, self.consts = name, kd, fn, grad, consts
        self.weights, self.new, self.inputs = weights or {}, new or {}, inputs
        self.constants, self.frozen, self.estimated = constants, frozen, estimated

    def buffer(self, key):
        path = self.path(key)
        return key in self.new or key in self.frozen or "running" in path or path.endswith("weight_u") or path.endswith("weight_v")

    def path(self, key):
        return self.weights.get(key, key)


def case(name, kd, fn, grad=True, consts="", weights=None, new=None, constants=(), frozen=(), estimated=(), **inputs):
    assert name not in [c.name for c in CASES], name
    CASES.append(Case(name, kd, fn, grad, consts, weights, new, constants, frozen, estimated, inputs))


def smooth(key, *shape, lo=-1.0, hi=1.0):
    """Inputs in [lo, hi), practically all distinct."""
    n = int(np.prod(shape)) if shape else 1
    u = uniform(key, n).astype(np.float64)
    return torch.from_numpy((u + 1) / 2 * (hi - lo) + lo).reshape(shape)


def ints(key, *shape, hi):
    n = int(np.prod(shape))
    return torch.from_numpy(((uniform(key, n) + 1) / 2 * hi).astype(np.int64).clip(0, hi - 1)).reshape(shape)


def R(*shape, lo=-1.0, hi=1.0):
    """A random input by shape, each with numbers of its own."""
    KEY[0] += 1
    return smooth(KEY[0], *shape, lo=lo, hi=hi)


def I(*shape, hi):
    """The same of integers 0 .. hi - 1."""
    KEY[0] += 1
    return ints(KEY[0], *shape, hi=hi)


def differences(fn, tensors, seed, which, eps=1e-6):
    """Central differences of sum(fn * seed) for a sample of the elements of tensors[which]."""
    t = tensors[which]
    flat = t.detach().clone().flatten()
    at = sorted(set((np.arange(6) * max(flat.numel() - 1, 1) // 5).clip(0, flat.numel() - 1).tolist()))
    values = []
    for i in at:
        two = []
        for s in (eps, -eps):
            moved = flat.clone()
            moved[i] += s
            args = dict(tensors, **{which: moved.reshape(t.shape)})
            two.append((fn(**args) * seed).sum().item())
        values.append((two[0] - two[1]) / (2 * eps))
    return at, np.array(values)


def source(c):
    params = ", ".join("%s: %s[%s]" % (a, "" if t.is_floating_point() else "i32", ", ".join(map(str, t.shape)))
                       for a, t in c.inputs.items() if a not in c.weights)
    lines = "".join("    %s\n" % line for line in c.consts.strip().splitlines())
    return "%s %s(%s) {\n%s    return %s\n}" % ("net" if c.weights else "fn", c.name, params, lines, c.kd)


def values(k, c, out):
    trained = {a: c.grad and t.is_floating_point() and not c.buffer(a) for a, t in c.inputs.items()}
    # inputs are rounded to float32 first: that is what the file stores
    tensors = {a: t.float().double().requires_grad_(trained[a]) if t.is_floating_point() else t
               for a, t in c.inputs.items()}
    y = c.fn(**tensors)
    seed = smooth(900 + k, *y.shape, lo=0.5, hi=1.5).float().double()
    if any(trained.values()):
        (y * seed).sum().backward()
    for a, t in tensors.items():
        out["%s.in.%s" % (c.name, c.path(a))] = t.detach().float() if t.is_floating_point() else t.to(torch.int32)
        if trained[a]:
            g = t.grad if t.grad is not None else torch.zeros_like(t)
            if a in c.constants:
                out["%s.grad.%s" % (c.name, c.path(a))] = torch.zeros_like(t).float()
                continue
            if a in c.estimated:
                out["%s.grad.%s" % (c.name, c.path(a))] = g.float()
                continue
            at, num = differences(c.fn, {b: u.detach() for b, u in tensors.items()}, seed, a)
            got = g.flatten()[at].numpy()
            assert np.allclose(got, num, rtol=1e-4, atol=1e-6), (c.name, a, got, num)
            out["%s.grad.%s" % (c.name, c.path(a))] = g.float()
    for a, fn in c.new.items():
        out["%s.new.%s" % (c.name, c.path(a))] = fn(**{b: u.detach() for b, u in tensors.items()}).float()
    out[c.name + ".seed"] = seed.float()
    out[c.name + ".out"] = y.detach().float() if y.is_floating_point() else y.to(torch.int32)


def make(family):
    CASES.clear()
    KEY[0] = 10
    names = dict(globals())
    path = os.path.join(HERE, family + "_cases.py")
    exec(compile(open(path).read(), path, "exec"), names)
    out = {}
    for k, c in enumerate(CASES):
        values(k, c, out)
    with open(os.path.join(HERE, family + ".kd"), "w") as f:
        f.write("# Made by make_ops.py: do not edit. One function for each golden case; values in %s.safetensors.\n" % family)
        f.write("".join("import \"%s\"\n" % i for i in names.get("IMPORTS", [])) + "\n")
        f.write("\n".join(source(c) for c in CASES) + "\n")
    save_safetensors(os.path.join(HERE, family + ".safetensors"), out)
    print("%s: %d cases, %d bytes" % (family, len(CASES), sum(np.asarray(v).nbytes for v in out.values())))


if __name__ == "__main__":
    for family in sys.argv[1:] or sorted(n[:-len("_cases.py")] for n in os.listdir(HERE) if n.endswith("_cases.py")):
        make(family)
