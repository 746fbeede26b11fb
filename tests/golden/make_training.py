#!/usr/bin/env python3
"""Makes training/RUN.json and training/RUN.safetensors: what PyTorch computes for a few training steps of a recipe.

    /usr/bin/python3 tests/golden/make_training.py [RUN...]     (all runs that are not slow, or only these)

Needs Debian's python3-torch. A run is a Python function that does in PyTorch what a session does, registered in a file
training_NAME.py beside this one, which sees what golden_lib.py has and what is defined below:

    def cyclegan(t):
        G, D = t.nets(G=ResnetGen(t.ngf), D=PatchGan(t.ndf))    # names and order of weights as in the recipe
        T, = t.nets(frozen=True, T=...)                         # may be called again
        opt = adam(parameters([G]))
        for a, b in t.steps():                                  # the inputs, in order
            ...
            t.log(adv=adv, cycle=cycle)                         # numbers, by the names that the session logs

    training("cyclegan_small", cyclegan, recipe="models/recipes/cyclegan.kd", session="cyclegan", steps=5, scale=0.035,
             defines=dict(size=32, ngf=4), inputs=dict(a=Image(1, 3, 32, 32), b=Image(1, 3, 32, 32)))

`t.size` is the define `size`; what the recipe has no param for is in `extra=dict(...)` and read alike. test_golden_training
finds every training/*.json and runs it, in double precision and compiled. Nothing else has to be told to anybody.

What both sides make alike, and no file stores (golden_lib.py, golden.h):

  weights   of all nets in the order of t.nets, tensor k from uniform(100 + k): filters times `scale`, rank 1 times
            0.1, those called "weight" plus 1. Inside a module the weight comes first, as kdc creates it.
  running   statistics: 0 and 1; of frozen nets from uniform(7000 + k), so that they matter
  u and v   of spectral norms (torch.nn.utils.spectral_norm): uniform(8000 + k), scaled to length 1
  other     buffers of the session begin at 0 (pools are empty); constants={"end of name": value} for others
  inputs    input i of step s (from 0) from uniform(1000 (i + 1) + s): Image, Classes, OneHot, Bytes below

A net's name may stand for a list of instances ("A" for A[0], A[1]: nn.ModuleList). The epoch is 1, or epochs=[1, 1, 2].
slow=True: only with KDC_GOLDEN_FULL=1, and only compiled.

Everything runs in float64 (the truth) and again in float32, so that the file also says how far PyTorch's own float32
run strays: a GAN step is chaotic (a ReLU or an L1 sign that flips moves a gradient by far more than rounding), and no
float32 implementation can be nearer to another than that.

    losses      [steps, losses] float64; NaN where a step does not log
    losses32    the same from the float32 run
    change      [tensors, 2 + SAMPLES]: of each trained tensor, in order, the change w(steps) - w(0): its norm, its dot
                product with uniform(5000 + k), and SAMPLES elements at even distances
    change32    the same from the float32 run
    live        [tensors]: 0 where the true gradient is 0 in every step, as of a convolution's bias in front of an
                instance norm: Adam makes steps out of its rounding noise, so its change is not compared
    running     like change, of what the buffers of trained networks have come to (running statistics, u, v)
"""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from golden_lib import *

HERE = os.path.dirname(os.path.abspath(__file__))
SAMPLES = 16
RUNS = {}


class Input:
    def __init__(self, kind, shape, classes=0, block=1):
        self.kind, self.shape, self.classes, self.block = kind, shape, classes, block

    def make(self, key, dtype):
        if self.kind == "image":
            return image(key, *self.shape).to(dtype)
        if self.kind == "bytes":
            return torch.floor((image(key, *self.shape).double() + 1) * 128).to(dtype)
        maps = class_map(key, self.shape[0], self.shape[-2], self.shape[-1], self.classes, self.block)
        if self.kind == "classes":
            return maps.reshape(self.shape)
        return F.one_hot(maps, self.classes).permute(0, 3, 1, 2).to(dtype)


def Image(*shape):
    """f32 in [-1, 1)."""
    return Input("image", shape)


def Bytes(*shape):
    """u8; PyTorch gets 0..255 as floats."""
    return Input("bytes", shape)


def Classes(*shape, classes, block=1):
    """i32 [n, h, w] or [n, 1, h, w], as int64 in PyTorch: one number for each block x block positions."""
    return Input("classes", shape, classes, block)


def OneHot(*shape, block=1):
    """f32 [n, classes, h, w]."""
    return Input("onehot", shape, shape[1], block)


class Training:
    """One pass of a run, in one precision."""

    def __init__(self, spec, dtype):
        self.spec, self.dtype, self.members, self.logs = spec, dtype, [], []
        self.keys = {"weight": 100, "running": 7000, "vector": 8000}

    def __getattr__(self, name):
        for values in (self.spec["defines"], self.spec["extra"]):
            if name in values:
                return values[name]
        raise AttributeError("the run has no define '%s'" % name)

    def nets(self, frozen=False, **modules):
        for name, m in modules.items():
            self.keys["weight"] += fill([m], self.keys["weight"], self.spec["scale"])
            self.keys["vector"] += fill_vectors(m, self.keys["vector"])
            if frozen:
                self.keys["running"] += fill_running(m, self.keys["running"])
                m.eval()
            m.to(self.dtype)
            weights = [(n, p) for n, p in ordered_parameters(m)]
            net = {"name": name, "frozen": frozen, "weights": weights, "module": m, "most": [-1.0] * len(weights),
                   "before": [p.detach().clone() for _, p in weights]}
            for i, (_, p) in enumerate(weights):
                if frozen:
                    p.requires_grad_(False)
                elif p.requires_grad:
                    p.register_hook(lambda g, net=net, i=i: net["most"].__setitem__(i, max(net["most"][i], g.abs().max().item())))
            self.members.append(net)
        return list(modules.values())

    def steps(self):
        for s in range(self.spec["steps"]):
            self.step, self.epoch = s + 1, (self.spec["epochs"] or [1] * self.spec["steps"])[s]
            self.logs.append({})
            yield tuple(i.make(1000 * (k + 1) + s, self.dtype) for k, i in enumerate(self.spec["inputs"].values()))

    def log(self, **values):
        self.logs[-1].update({n: v.item() if isinstance(v, torch.Tensor) else float(v) for n, v in values.items()})

    # ---- what is stored ----

    def log_names(self):
        return list(dict.fromkeys(n for step in self.logs for n in step))

    def losses(self):
        return np.array([[step.get(n, np.nan) for n in self.log_names()] for step in self.logs])

    def trained(self):
        return [net for net in self.members if not net["frozen"]]

    def change(self):
        return summary([b for net in self.trained() for b in net["before"]], [p for net in self.trained() for _, p in net["weights"]])

    def running(self):
        now = [b for net in self.trained() for _, b in ordered_buffers(net["module"])]
        return summary([torch.zeros_like(b) for b in now], now)

    def live(self):
        out = []
        for net in self.trained():
            here = [0 if 0 <= m <= 1e-10 * max(net["most"]) else 1 for m in net["most"]]
            dead = [n for (n, _), alive in zip(net["weights"], here) if not alive]
            if dead:
                print("  %s: no gradient reaches %s" % (net["name"], " ".join(dead)))
            out += here
        return np.array(out, np.int32)


def summary(before, after):
    rows = []
    for k, (a, b) in enumerate(zip(before, after)):
        d = (b.detach().double() - a.double()).flatten().numpy()
        at = np.arange(SAMPLES) * len(d) // SAMPLES
        rows.append(np.concatenate([[np.linalg.norm(d), d @ uniform(5000 + k, len(d)).astype(np.float64)], d[at]]))
    return np.stack(rows) if rows else np.zeros((0, 2 + SAMPLES))


def training(name, fn, recipe, session, steps, inputs, defines={}, extra={}, scale=0.05, constants={}, epochs=None, slow=False):
    assert name not in RUNS, name
    RUNS[name] = dict(fn=fn, recipe=recipe, session=session, steps=steps, inputs=inputs, defines=defines, extra=extra,
                      scale=scale, constants=constants, epochs=epochs, slow=slow)


# ---- shared by the runs ----

def parameters(modules):
    return [p for m in modules for p in m.parameters()]


def adam(ps, lr=2e-4, beta1=0.5):
    return torch.optim.Adam(ps, lr, (beta1, 0.999))


def update(opt, loss):
    """One `minimize`."""
    opt.zero_grad()
    loss.backward()
    opt.step()


def lsgan(d, real):
    return ((d - (1.0 if real else 0.0)) ** 2).mean()


def bce(d, real):
    return F.binary_cross_entropy_with_logits(d, torch.full_like(d, 1.0 if real else 0.0))


def hinge(d, real):
    return F.relu(1 - d).mean() if real else F.relu(1 + d).mean()


def l1(a, b):
    return (a - b).abs().mean()


def contiguous_gradient(t):
    """PyTorch 1.13 computes wrong gradients of norms from strided ones (reliability.md, trap 1)."""
    if t.requires_grad:
        t.register_hook(lambda g: g.contiguous())
    return t


# ---- files ----

def lines(values):
    """A list of JSON with one element a line."""
    return "[\n" + ",\n".join("    " + json.dumps(v) for v in values) + "\n  ]"


def manifest(spec, t):
    inputs = [dict(name=n, kind=i.kind, classes=i.classes, block=i.block) for n, i in spec["inputs"].items()]
    nets = [dict(name=n["name"], frozen=n["frozen"], weights=[[w] + list(p.shape) for w, p in n["weights"]]) for n in t.members]
    text = {True: "true", False: "false"}
    defines = ["%s=%s" % (n, text[v] if isinstance(v, bool) else v) for n, v in spec["defines"].items()]
    fields = {n: json.dumps(spec[n]) for n in ("recipe", "session", "slow", "scale", "constants")}
    fields.update(epochs=json.dumps(spec["epochs"] or []), defines=json.dumps(defines), logs=json.dumps(t.log_names()),
                  inputs=lines(inputs), nets=lines(nets))
    return "{\n" + ",\n".join("  %s: %s" % (json.dumps(n), v) for n, v in fields.items()) + "\n}\n"


def make(name):
    spec, out = RUNS[name], {}
    for suffix, dtype in (("", torch.float64), ("32", torch.float32)):
        t = Training(spec, dtype)
        spec["fn"](t)
        out["losses" + suffix], out["change" + suffix] = t.losses(), t.change()
        if not suffix:
            out["live"] = t.live()
            if len(t.running()):
                out["running"] = t.running()
            text = manifest(spec, t)
    save_safetensors(os.path.join(HERE, "training", name + ".safetensors"), out)
    with open(os.path.join(HERE, "training", name + ".json"), "w") as f:
        f.write(text)
    a, b = out["losses"], out["losses32"]
    print(name, dict(zip(t.log_names(), np.round(a[-1], 4))), "float32 strays by", np.nanmax(np.abs(a - b) / np.abs(a)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.makedirs(os.path.join(HERE, "training"), exist_ok=True)
    for file in sorted(os.listdir(HERE)):
        if file.startswith("training_") and file.endswith(".py"):
            path = os.path.join(HERE, file)
            try:
                exec(compile(open(path).read(), path, "exec"), dict(globals()))
            except Exception as e:
                print("%s: %s: %s" % (file, type(e).__name__, e))
    for name in sys.argv[1:] or [n for n in RUNS if not RUNS[n]["slow"]]:
        make(name)
