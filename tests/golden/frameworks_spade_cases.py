"""GauGAN (methods A.4, C.7's SPADE version): its norm, blocks, discriminator, and losses; make_ops.py reads this."""

IMPORTS = ["losses/gan.kd", "losses/gaugan.kd", "nets/spade.kd"]


def held(*shape, scale=1.0):
    """An input whose values the PyTorch side knows too: a spectral norm's vectors come from its weight, as a constant."""
    return (R(*shape) * scale).float().double()


def unit_column(n):
    return F.normalize(R(n, 1), dim=0).float().double()


def power(w, u):
    """One step of the power iteration: new u, v."""
    m = w.detach().flatten(1)
    v = F.normalize(m.t() @ u.detach(), dim=0, eps=1e-12)
    return F.normalize(m @ v, dim=0, eps=1e-12), v


def over_sigma(w, u, v):
    return w / (u.t() @ w.flatten(1) @ v).squeeze()


def batch_stats(x):
    return x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=True)


def batch_normed(x):
    return (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()


def nearest(s, x):
    return F.interpolate(s, size=x.shape[2:], mode="nearest")


def modulated(xn, s, sw, sb, gw, gb, bw, bb):
    h = F.relu(F.conv2d(nearest(s, xn), sw, sb, padding=1))
    return xn * (1 + F.conv2d(h, gw, gb, padding=1)) + F.conv2d(h, bw, bb, padding=1)


def spade_paths(prefix=""):
    names = ["mlp_shared[0].weight", "mlp_shared[0].bias", "mlp_gamma.weight", "mlp_gamma.bias", "mlp_beta.weight", "mlp_beta.bias"]
    return [prefix + n for n in names]


def spade_weights(c, k, hidden):
    return [R(hidden, k, 3, 3), R(hidden), R(c, hidden, 3, 3), R(c), R(c, hidden, 3, 3), R(c)]


# ---- the norm ----

NAMES = ["sw", "sb", "gw", "gb", "bw", "bb"]
SPADE = dict(zip(NAMES, spade_paths("norm.")), running_mean="norm.param_free_norm.running_mean",
             running_var="norm.param_free_norm.running_var")
for batch in (1, 4):
    case("spade_%d_train" % batch, "norm(x, s)",
         lambda x, s, running_mean, running_var, **w: modulated(batch_normed(x), s, *[w[n] for n in NAMES]),
         consts="let norm = spade[hidden = 3]", weights=SPADE,
         new={"running_mean": lambda x, running_mean, **w: 0.9 * running_mean + 0.1 * batch_stats(x)[0],
              "running_var": lambda x, running_var, **w: 0.9 * running_var + 0.1 * batch_stats(x)[1]},
         x=R(batch, 2, 4, 6), s=R(batch, 3, 8, 12), running_mean=R(2), running_var=R(2, lo=0.5, hi=2),
         **dict(zip(NAMES, spade_weights(2, 3, 3))))
case("spade_inference", "norm(x, s)",
     lambda x, s, running_mean, running_var, **w: modulated(
         (x - running_mean.reshape(1, -1, 1, 1)) / (running_var.reshape(1, -1, 1, 1) + 1e-5).sqrt(), s, *[w[n] for n in NAMES]),
     consts="let norm = spade[hidden = 3]", weights=SPADE,
     x=R(2, 2, 4, 6), s=R(2, 3, 2, 3), running_mean=R(2), running_var=R(2, lo=0.5, hi=2), **dict(zip(NAMES, spade_weights(2, 3, 3))))


def separable(h, dw, db, pw, pb):
    return F.conv2d(F.instance_norm(F.conv2d(h, dw, db, padding=1, groups=h.shape[1])), pw, pb)


SEPARABLE = ["dw", "db", "pw", "pb"]
case("spade_separable", "map(h)", lambda h, **w: separable(h, *[w[n] for n in SEPARABLE]),
     consts='let map = SpadeSeparable[2, 3, 1, "normal(0, 0.02)"]',
     weights=dict(zip(SEPARABLE, ["map.conv[0].weight", "map.conv[0].bias", "map.conv[2].weight", "map.conv[2].bias"])),
     h=R(2, 3, 4, 8), dw=R(3, 1, 3, 3), db=R(3), pw=R(2, 3, 1, 1) * 0.02, pb=R(2)) # db: 0, and noise if h * w were no power of 2


# ---- a block whose shortcut is learned: 3 -> 2 channels ----

W0, W1, WS = held(2, 3, 3, 3), held(2, 2, 3, 3), held(2, 3, 1, 1)
U0, U1, US = unit_column(2), unit_column(2), unit_column(2)
BLOCK = {"w0": "block.conv_0.weight_orig", "b0": "block.conv_0.bias", "u0": "block.conv_0.weight_u", "v0": "block.conv_0.weight_v",
         "w1": "block.conv_1.weight_orig", "b1": "block.conv_1.bias", "u1": "block.conv_1.weight_u", "v1": "block.conv_1.weight_v",
         "ws": "block.conv_s.weight_orig", "us": "block.conv_s.weight_u", "vs": "block.conv_s.weight_v"}
INPUTS = dict(w0=W0, b0=R(2), u0=U0, v0=unit_column(27), w1=W1, b1=R(2), u1=U1, v1=unit_column(18), ws=WS, us=US, vs=unit_column(3))
for k, c in (("0", 3), ("1", 2), ("s", 3)):
    paths = dict(zip([n + k for n in NAMES], spade_paths("block.norm_%s." % k)))
    BLOCK.update(paths)
    BLOCK.update({"mean" + k: "block.norm_%s.param_free_norm.running_mean" % k, "var" + k: "block.norm_%s.param_free_norm.running_var" % k})
    INPUTS.update(zip(paths, spade_weights(c, 2, 2)))
    INPUTS.update({"mean" + k: R(c), "var" + k: R(c, lo=0.5, hi=2)})


def block(x, s, w, v0, v1, vs, u0, u1, us, norm):
    """The residual block; u and v are what the spectral norms divide by."""
    of = lambda k: [w[n + k] for n in NAMES]
    y = F.conv2d(F.leaky_relu(modulated(norm(x, "0"), s, *of("0")), 0.2), over_sigma(w["w0"], u0, v0), w["b0"], padding=1)
    y = F.conv2d(F.leaky_relu(modulated(norm(y, "1"), s, *of("1")), 0.2), over_sigma(w["w1"], u1, v1), w["b1"], padding=1)
    return F.conv2d(modulated(norm(x, "s"), s, *of("s")), over_sigma(w["ws"], us, vs)) + y


def block_training(x, s, seen=None, **w):
    """seen: gets what each norm is applied to."""
    def norm(a, k):
        if seen is not None:
            seen[k] = a
        return batch_normed(a)
    (u0, v0), (u1, v1), (us, vs) = power(W0, U0), power(W1, U1), power(WS, US)
    return block(x, s, w, v0, v1, vs, u0, u1, us, norm)


def block_running(k, which):
    """The new running mean (which 0) or variance (1) of norm k."""
    def new(**t):
        seen = {}
        block_training(seen=seen, **t)
        return 0.9 * t[("mean", "var")[which] + k] + 0.1 * batch_stats(seen[k])[which]
    return new


def vectors(ends, weight, first, which):
    """The new u (which 0) or v (1) of the spectral norms with these ends of names."""
    return {first + e: lambda e=e, **t: power(t[weight + e], t["u" + e])[which] for e in ends}


def block_inference(x, s, **w):
    def norm(a, k):
        return (a - w["mean" + k].reshape(1, -1, 1, 1)) / (w["var" + k].reshape(1, -1, 1, 1) + 1e-5).sqrt()
    return block(x, s, w, w["v0"], w["v1"], w["vs"], w["u0"], w["u1"], w["us"], norm)


X, S = R(2, 3, 4, 4), R(2, 2, 8, 8)
case("spade_block_train", "block(x, s)", block_training, consts="let block = SpadeBlock[2, 2]", weights=BLOCK,
     new=dict(vectors("01s", "w", "u", 0), **vectors("01s", "w", "v", 1),
              **{name + k: block_running(k, which) for k in "01s" for which, name in enumerate(["mean", "var"])}),
     x=X, s=S, **INPUTS)
case("spade_block_inference", "block(x, s)", block_inference, consts="let block = SpadeBlock[2, 2]", weights=BLOCK, x=X, s=S, **INPUTS)


# ---- the discriminator: two scales of three layers and a score map, and its hinge loss ----

DW = [[held(2, 3, 4, 4), held(4, 2, 4, 4), held(8, 4, 4, 4), held(1, 8, 4, 4)] for _ in range(2)]
DU = [[None, unit_column(4), unit_column(8), None] for _ in range(2)]
DISC, DISC_INPUTS = {}, {}
for d in range(2):
    for i in range(4):
        at = "disc.scale[%d].%s." % (d, "score" if i == 3 else "conv[%d]" % i)
        own = {"w%d%d" % (d, i): (at + ("weight_orig" if i in (1, 2) else "weight"), DW[d][i])}
        if i in (1, 2):
            own["u%d%d" % (d, i)] = (at + "weight_u", DU[d][i])
            own["v%d%d" % (d, i)] = (at + "weight_v", unit_column(DW[d][i][0].numel()))
        else:
            own["b%d%d" % (d, i)] = (at + "bias", R(DW[d][i].shape[0]))
        DISC.update({n: p for n, (p, _) in own.items()})
        DISC_INPUTS.update({n: t for n, (_, t) in own.items()})


def disc(x, w):
    """A list for each scale: features, then the score map."""
    all = []
    for d in range(2):
        y = F.leaky_relu(F.conv2d(x, w["w%d0" % d], w["b%d0" % d], stride=2, padding=2), 0.2)
        features = [y]
        for i in (1, 2):
            u, v = power(DW[d][i], DU[d][i])
            y = F.conv2d(y, over_sigma(w["w%d%d" % (d, i)], u, v), stride=2 if i == 1 else 1, padding=2)
            y = F.leaky_relu(F.instance_norm(y), 0.2)
            features.append(y)
        all.append(features + [F.conv2d(y, w["w%d3" % d], w["b%d3" % d], padding=2)])
        x = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
    return all


def halves(x, w):
    n = x.shape[0] // 2
    both = disc(x, w)
    return [[f[:n] for f in s] for s in both], [[f[n:] for f in s] for s in both]


def hinge_d(fake, real):
    return sum(F.relu(1 + f[-1]).mean() + F.relu(1 - r[-1]).mean() for f, r in zip(fake, real)) / len(fake)


def hinge_g(fake):
    return -sum(f[-1].mean() for f in fake) / len(fake)


def matching(fake, real):
    return sum((a - b.detach()).abs().mean() for f, r in zip(fake, real) for a, b in zip(f[:-1], r[:-1])) / len(fake)


def judged(s, fake, real, **w):
    return hinge_d(*halves(torch.cat([torch.cat([s, fake], 1), torch.cat([s, real], 1)]), w))


for batch in (1, 2):
    case("gaugan_judge_%d_train" % batch, "hinge_judge(of[0], of[1])", judged,
         consts="let disc = SpadeDisc[ndf = 2, n_layers = 3]\nlet of = discriminate(disc, s, fake, real)", weights=DISC,
         new=dict(vectors(["01", "02", "11", "12"], "w", "u", 0), **vectors(["01", "02", "11", "12"], "w", "v", 1)),
         s=R(batch, 1, 9, 7), fake=R(batch, 2, 9, 7), real=R(batch, 2, 9, 7), **DISC_INPUTS)

# ---- the losses alone, of lists of lists ----

LISTS = "let f = [[f0, f1, f2], [f3, f4, f5]]\nlet r = [[r0, r1, r2], [r3, r4, r5]]"


def grouped(t, k):
    return [[t["%s%d" % (k, 3 * s + i)] for i in range(3)] for s in range(2)]


def features(batch):
    shapes = [(batch, 2, 5, 4), (batch, 4, 3, 3), (batch, 1, 4, 3), (batch, 2, 3, 2), (batch, 4, 2, 2), (batch, 1, 3, 2)]
    return {"%s%d" % (k, i): R(*shape, lo=-2, hi=2) for k in ("f", "r") for i, shape in enumerate(shapes)}


for batch in (1, 4):
    case("gaugan_hinge_D_%d" % batch, "hinge_judge(f, r)", lambda **t: hinge_d(grouped(t, "f"), grouped(t, "r")),
         consts=LISTS, **features(batch))
    case("gaugan_hinge_G_%d" % batch, "hinge_adversary(f)", lambda **t: hinge_g(grouped(t, "f")), consts=LISTS, **features(batch))
    case("gaugan_matching_%d" % batch, "scales_matching(f, r)", lambda **t: matching(grouped(t, "f"), grouped(t, "r")),
         consts=LISTS, constants=["r%d" % i for i in range(6)], **features(batch))
