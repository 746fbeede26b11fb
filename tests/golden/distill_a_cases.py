"""Distillation over images and features (methods C.1 - C.6, C.9), CAT's blocks (B.4), the mobile block of a sub-network (B.3);
make_ops.py reads this."""

IMPORTS = ["losses/distill.kd", "losses/l1.kd", "losses/attention_transfer.kd", "losses/fitnets.kd", "losses/vid.kd",
           "losses/similarity_preserving.kd", "losses/kernel_alignment.kd", "nets/cat.kd", "nets/mobile_resnet.kd"]


def pair_of(n, cs=3, ct=5, h=4, w=3, wide=1):
    """Two taps: student and teacher of each; `wide`: how much larger the teacher's first one is."""
    return dict(s0=R(n, cs, h, w), t0=R(n, ct, h * wide, w * wide), s1=R(n, cs + 1, 2, 3), t1=R(n, ct - 1, 2, 3))


TEACHER = ("t0", "t1")
LISTS = "K([s0, s1], [t0, t1])"


# ---- images (C.1, C.2) ----

for n in (1, 4):
    case("image_l1_batch%d" % n, "K(s, t)", lambda s, t: (s - t).abs().mean(), consts="let K = ImageDistill[]",
         s=R(n, 3, 4, 3), t=R(n, 3, 4, 3), constants=("t",))
    case("image_mse_batch%d" % n, "K(s, t)", lambda s, t: F.mse_loss(s, t), consts="let K = distiller(\"mse\")",
         s=R(n, 3, 4, 3), t=R(n, 3, 4, 3), constants=("t",))
    case("hinton_kl_batch%d" % n, "kl_distill(s, t)",
         lambda s, t: F.kl_div(F.log_softmax(s / 4, 1), F.softmax(t / 4, 1), reduction="sum") * 16 / len(s),
         s=R(n, 6, lo=-8, hi=8), t=R(n, 6, lo=-8, hi=8), constants=("t",))


# ---- attention transfer (C.3) ----

def attention(f):
    return F.normalize(f.pow(2).mean(1).flatten(1), dim=1)


def transfer(s, t, of=attention):
    size = (min(s.shape[2], t.shape[2]), min(s.shape[3], t.shape[3]))
    s, t = [F.adaptive_avg_pool2d(f, size) for f in (s, t)]
    return (of(s) - of(t)).pow(2).mean()


for n in (1, 4):
    case("attention_transfer_batch%d" % n, LISTS, lambda s0, t0, s1, t1: transfer(s0, t0) + transfer(s1, t1),
         consts="let K = AttentionTransfer[]", constants=TEACHER, **pair_of(n))
case("attention_transfer_sizes", LISTS, lambda s0, t0, s1, t1: transfer(s0, t0) + transfer(s1, t1),
     consts="let K = AttentionTransfer[]", constants=TEACHER, **pair_of(2, wide=2))
case("attention_transfer_mean", LISTS, lambda s0, t0, s1, t1: sum(transfer(s, t, lambda f: f.mean(1)) for s, t in ((s0, t0), (s1, t1))),
     consts="let K = AttentionTransfer[form = \"mean\"]", constants=TEACHER, **pair_of(2))
case("attention_transfer_of_scaled_features", "1 + attention_transfer(f, 3 * f)", lambda f: 1 + 0 * f.sum(), f=R(2, 3, 2, 4))


# ---- FitNets, GAN Compression (C.4, C.7) ----

for n in (1, 4):
    case("fitnets_batch%d" % n, LISTS,
         lambda s0, t0, s1, t1, w0, b0, w1, b1: F.mse_loss(F.conv2d(s0, w0, b0), t0) + F.mse_loss(F.conv2d(s1, w1, b1), t1),
         consts="let K = FitNets[]", constants=TEACHER,
         weights=dict(w0="K.a[0].weight", b0="K.a[0].bias", w1="K.a[1].weight", b1="K.a[1].bias"),
         w0=R(5, 3, 1, 1), b0=R(5), w1=R(4, 4, 1, 1), b1=R(4), **pair_of(n))


# ---- VID (C.5) ----

def foretold(s, t, v):
    w0, w1, w2, rho = v
    mu = F.conv2d(F.relu(F.conv2d(F.relu(F.conv2d(s, w0)), w1)), w2)
    var = (F.softplus(rho) + 1e-5)[None, :, None, None]
    return (0.5 * ((t - mu) ** 2 / var + var.log())).mean()


def vid_weights(tap, cs, ct, middle):
    keys = ["%s%d" % (k, tap) for k in ("u", "v", "w", "rho")]
    shapes = [(middle, cs, 1, 1), (middle, middle, 1, 1), (ct, middle, 1, 1), (ct,)]
    paths = ["K.tap[%d].head.conv[%d].weight" % (tap, i) for i in range(3)] + ["K.tap[%d].rho" % tap]
    return dict(zip(keys, paths)), {k: R(*s) for k, s in zip(keys, shapes)}


for n, middle in ((1, 0), (4, 2)):
    p0, v0 = vid_weights(0, 3, 5, middle or 5)
    p1, v1 = vid_weights(1, 4, 4, middle or 4)
    case("vid_batch%d" % n, LISTS,
         lambda s0, t0, s1, t1, **v: sum(foretold(s, t, [v["%s%d" % (k, i)] for k in ("u", "v", "w", "rho")]) for i, (s, t) in enumerate(((s0, t0), (s1, t1)))),
         consts="let K = Vid[middle = %d]" % middle, constants=TEACHER, weights=dict(p0, **p1), **pair_of(n), **v0, **v1)


# ---- similarity of samples (C.6) ----

def similar(f):
    f = f.flatten(1)
    return F.normalize(f @ f.t(), p=2, dim=1)


for n in (2, 4):
    case("similarity_preserving_batch%d" % n, LISTS,
         lambda s0, t0, s1, t1: sum((similar(t) - similar(s)).pow(2).sum() / len(s) ** 2 for s, t in ((s0, t0), (s1, t1))),
         consts="let K = SimilarityPreserving[]", constants=TEACHER, **pair_of(n))


# ---- CAT's kernel alignment (C.9) ----

def alignment_of(x, y):
    kx, ky = x @ x.t(), y @ y.t()
    return (kx * ky).sum() / ((kx ** 2).sum() * (ky ** 2).sum()).sqrt()


def ka(s, t):
    return alignment_of(s.flatten(1), t.flatten(1))


def positions(s, t):
    return torch.stack([alignment_of(a.flatten(1).t(), b.flatten(1).t()) for a, b in zip(s, t)]).mean()


for n in (2, 4):
    case("kernel_alignment_batch%d" % n, LISTS, lambda s0, t0, s1, t1: -ka(s0, t0) - ka(s1, t1),
         consts="let K = KernelAlignment[]", constants=TEACHER, **pair_of(n))
case("kernel_alignment_groups", LISTS, lambda s0, t0, s1, t1: -sum(ka(s[i:i + 2], t[i:i + 2]) for s, t in ((s0, t0), (s1, t1)) for i in (0, 2)),
     consts="let K = KernelAlignment[groups = 2]", constants=TEACHER, **pair_of(4))
for n in (1, 4):
    case("kernel_alignment_positions_batch%d" % n, LISTS, lambda s0, t0, s1, t1: -positions(s0, t0) - positions(s1, t1),
         consts="let K = KernelAlignment[form = \"positions\"]", constants=TEACHER, **pair_of(n))
case("kernel_alignment_of_scaled", "aligned(f, 3 * f)", lambda f: 1 + 0 * f.sum(), f=R(3, 2, 2, 2))
case("kernel_alignment_of_one", "kernel_alignment(f, g)", lambda f, g: 1 + 0 * f.sum() + 0 * g.sum(), f=R(1, 2, 2, 2), g=R(1, 3, 2, 2))


# ---- CAT's networks (B.4) ----
# A bias in front of an instance norm has no gradient but rounding: those networks are frozen here, their input's gradient is compared.

def pad(x, k, zero=False):
    return F.pad(x, [k // 2] * 4, mode="constant" if zero else "reflect")


def key_of(path):
    return path.replace(".", "_").replace("[", "").replace("]", "")


def normed(x, v, at):
    """An affine norm: by its running statistics if v has them, else of each channel of each sample."""
    if at + "_running_mean" in v:
        return F.batch_norm(x, v[at + "_running_mean"], v[at + "_running_var"], v[at + "_weight"], v[at + "_bias"])
    m = x.mean((2, 3), keepdim=True)
    y = (x - m) / (((x - m) ** 2).mean((2, 3), keepdim=True) + 1e-5).sqrt()
    return y * v[at + "_weight"][None, :, None, None] + v[at + "_bias"][None, :, None, None]


def branches(x, widths, v, zero=False):
    """The sum of six branches; v: weights by key_of(path behind the prefix of CatBranches)."""
    conv = lambda x, at, groups=1: F.conv2d(x, v[at + "_weight"], v.get(at + "_bias"), groups=groups)
    layer = lambda x, at, groups=1: F.relu(normed(conv(x, at + "_conv", groups), v, at + "_norm"))
    total = 0
    for i, k in enumerate((1, 3, 5)):
        if widths[i]:
            at = "res_ops%d" % i
            total = total + conv(pad(layer(pad(x, k, zero), at + "_first"), k, zero), at + "_last")
        if widths[3 + i]:
            at = "dw_ops%d" % i
            y = layer(x, at + "_first")
            total = total + conv(layer(pad(y, k, zero), at + "_depthwise", widths[3 + i]), at + "_last")
    return total


def norm_shapes(at, c, batch):
    return {at + p: (c,) for p in [".weight", ".bias"] + [".running_mean", ".running_var"] * batch}


def branch_shapes(widths, cin, cout, batch, bias):
    shapes = {}

    def conv(at, *shape):
        shapes[at + ".weight"] = shape
        if bias:
            shapes[at + ".bias"] = shape[:1]

    def layer(at, *shape):
        conv(at + ".conv", *shape)
        shapes.update(norm_shapes(at + ".norm", shape[0], batch))

    for i, k in enumerate((1, 3, 5)):
        m, d = widths[i], widths[3 + i]
        if m:
            layer("res_ops[%d].first" % i, m, cin, k, k)
            conv("res_ops[%d].last" % i, cout, m, k, k)
        if d:
            layer("dw_ops[%d].first" % i, d, cin, 1, 1)
            layer("dw_ops[%d].depthwise" % i, d, 1, k, k)
            conv("dw_ops[%d].last" % i, cout, d, 1, 1)
    return shapes


def drawn(shapes, prefix):
    """Paths and values of weights, by key."""
    lo = lambda p: dict(lo=0.5, hi=1.5) if p.endswith("running_var") else {}
    return {key_of(p): prefix + p for p in shapes}, {key_of(p): R(*s, **lo(p)) for p, s in shapes.items()}


def cat_block(widths):
    return lambda x, **v: x + normed(branches(x, widths, v), v, "pw_bn")


for n, widths, norm in ((1, [2, 1, 2, 1, 2, 1], "batch"), (2, [0, 2, 0, 0, 0, 2], "batch"), (1, [1, 2, 1, 2, 1, 2], "instance")):
    batch = norm == "batch"
    p, v = drawn(branch_shapes(widths, 3, 3, batch, not batch), "block.ops.")
    q, w = drawn(norm_shapes("pw_bn", 3, batch), "block.")
    case("cat_block_%s_batch%d" % (norm, n), "block(x)", cat_block(widths), weights=dict(p, **q), x=R(n, 3, 4, 5), **v, **w,
         consts="let block = %sCatBlock[%s, \"%s\"]" % ("" if batch else "frozen ", widths, norm), frozen=() if batch else (*p, *q))
case("cat_block_of_nothing", "block(x)", lambda x: 1 * x, consts="let block = CatBlock[[0, 0, 0, 0, 0, 0]]", x=R(1, 3, 4, 5))


def cat_spade(x, s, **v):
    maps = branches(F.interpolate(s, size=x.shape[2:], mode="nearest"), [2] * 6, v, zero=True)
    return F.batch_norm(x, v["param_free_norm_running_mean"], v["param_free_norm_running_var"]) * (1 + maps[:, :3]) + maps[:, 3:]


p, v = drawn(branch_shapes([2] * 6, 4, 2 * 3, True, True), "norm.ops.")
q, w = drawn({"param_free_norm.running_mean": (3,), "param_free_norm.running_var": (3,)}, "norm.")
case("cat_spade_batch2", "norm(x, s)", cat_spade, consts="let norm = CatSpade[hidden = 12]", weights=dict(p, **q),
     x=R(2, 3, 3, 4), s=R(2, 4, 6, 8), **v, **w)


# ---- a sub-network's block (B.3) ----

def separable(x, dw, db, pw, pb):
    return F.conv2d(F.instance_norm(F.conv2d(x, dw, db, groups=x.shape[1])), pw, pb)


MOBILE = {"%s%d" % (k, i): "block.conv%d.%s" % (i + 1, p) for i in (0, 1)
          for k, p in (("dw", "depthwise.weight"), ("db", "depthwise.bias"), ("pw", "pointwise.weight"), ("pb", "pointwise.bias"))}


def mobile_block(x, **v):
    one = [[v["%s%d" % (k, i)] for k in ("dw", "db", "pw", "pb")] for i in (0, 1)]
    y = F.relu(F.instance_norm(separable(pad(x, 3), *one[0])))
    return x + F.instance_norm(separable(pad(y, 3), *one[1]))


case("mobile_block_of_inner_width", "block(x)", mobile_block, consts="let block = frozen MobileResnetBlock[inner = 2]", weights=MOBILE,
     frozen=tuple(MOBILE), x=R(1, 4, 4, 5), dw0=R(4, 1, 3, 3), db0=R(4), pw0=R(2, 4, 1, 1), pb0=R(2), dw1=R(2, 1, 3, 3), db1=R(2),
     pw1=R(4, 2, 1, 1), pb1=R(4))
