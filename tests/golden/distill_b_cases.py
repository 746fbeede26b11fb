"""SRP, OMGD, GCC and wavelet distillation (methods C.8, C.10, C.11, C.12); make_ops.py reads this."""

IMPORTS = ["losses/l1.kd", "losses/srp.kd", "losses/omgd.kd", "losses/gcc.kd", "losses/wavelet.kd", "nets/masked_patchgan.kd", "nets/vgg.kd"]
T = ("t",)


def pair(n, c, h, w, ct=None):
    return dict(s=R(n, c, h, w), t=R(n, ct or c, h, w))


# ---- SRP: rows of F^T F of length 1 ----

def relation(f):
    f = f.flatten(2)
    a = f.transpose(1, 2) @ f
    return a / a.norm(dim=2, keepdim=True)


def srp(s, t, distance="mse"):
    d = relation(s) - relation(t)
    if distance == "l1":
        return d.abs().mean()
    mse = (d ** 2).mean()
    return torch.sqrt(mse + 1e-12) if distance == "rmse" else mse


for n in (1, 4):
    for form in ("pairs", "channels"):
        case("srp_%s_batch%d" % (form, n), 'srp(s, t, form = "%s")' % form, srp, constants=T, **pair(n, 3, 4, 5, ct=6))
for distance in ("rmse", "l1"):
    case("srp_" + distance, 'srp(s, t, distance = "%s")' % distance, lambda s, t, d=distance: srp(s, t, d), constants=T, **pair(2, 3, 4, 4, ct=5))
case("srp_rmse_channels", 'srp(s, t, distance = "rmse", form = "channels")', lambda s, t: srp(s, t, "rmse"), constants=T, **pair(2, 3, 4, 4, ct=5))
# an orthogonal map of the channels and a scale change nothing (E.8): here channels in another order, one negated, three times as large
case("srp_rotated", 'srp(s, 3 * concat(-t[:, 2:], t[:, 0:2]), form = "pairs") - srp(s, t, form = "pairs")', lambda s, t: 0 * s.sum() + 0 * t.sum(),
     constants=T, **pair(1, 4, 3, 4, ct=3))
case("srp_vanilla", "mixed_l1(s, y, t, alpha = 0.05)", lambda s, t, y: 0.05 * F.l1_loss(s, y) + 0.95 * F.l1_loss(s, t), constants=T, y=R(2, 3, 4, 4), **pair(2, 3, 4, 4))


# ---- OMGD ----

def ssim(x, y):
    at = torch.arange(11, dtype=torch.float64) - 5
    g = torch.exp(-at ** 2 / 4.5)
    window = (g[:, None] * g[None] / g.sum() ** 2).repeat(x.shape[1], 1, 1, 1)
    mean = lambda v: F.conv2d(v, window, padding=5, groups=v.shape[1])
    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx ** 2, mean(y * y) - my ** 2, mean(x * y) - mx * my
    return ((2 * mx * my + 0.01 ** 2) * (2 * vxy + 0.03 ** 2) / ((mx ** 2 + my ** 2 + 0.01 ** 2) * (vx + vy + 0.03 ** 2))).mean()


def tv(x):
    return (x[..., 1:] - x[..., :-1]).abs().sum() + (x[..., 1:, :] - x[..., :-1, :]).abs().sum()


def gap(f):
    return f.mean((2, 3))


for n in (1, 4):
    case("omgd_ssim_batch%d" % n, "omgd_images(s, t)[0]", lambda s, t: 10 * (1 - ssim(s, t)), constants=T, **pair(n, 3, 12, 9))
    case("omgd_tv_batch%d" % n, "omgd_images(s, t, lambda_tv = 1.0)[3]", lambda s, t: tv(s), constants=T, **pair(n, 3, 5, 6))
    case("omgd_channels_batch%d" % n, "omgd_channels([s, u], [t, v])", lambda s, t, u, v: ((gap(s) - gap(t)) ** 2).mean() + ((gap(u) - gap(v)) ** 2).mean(),
         constants=("t", "v"), u=R(n, 5, 2, 3), v=R(n, 5, 2, 3), **pair(n, 3, 4, 5))
    seen = lambda x, w: F.conv2d(x, w).transpose(0, 1).flatten(1)
    new = {"m": lambda x, w, m, **_: 0.9 * m + 0.1 * seen(x, w).mean(1), "v": lambda x, w, v, **_: 0.9 * v + 0.1 * seen(x, w).var(1)}
    for mode in ("train", "inference"):
        case("omgd_connector_batch%d_%s" % (n, mode), "A(x)",
             lambda x, w, g, b, m, v, mode=mode: F.relu(F.batch_norm(F.conv2d(x, w), m.clone(), v.clone(), g, b, mode == "train")), consts="let A = OmgdConnector[5]",
             weights={"w": "A.conv.weight", "g": "A.norm.weight", "b": "A.norm.bias", "m": "A.norm.running_mean", "v": "A.norm.running_var"},
             x=R(n, 3, 4, 5), w=R(5, 3, 1, 1), g=R(5, lo=0.5, hi=1.5), b=R(5), m=R(5), v=R(5, lo=0.5, hi=1.5),
             new=new if mode == "train" else {})


# VGG16 to relu4_3 with 1, 2, 4, 8 channels instead of 64 ... 512 and weights of no training
VGG = {"v%d" % at: (o, i) for at, o, i in ((0, 1, 3), (2, 1, 1), (5, 2, 1), (7, 2, 2), (10, 4, 2), (12, 4, 4), (14, 4, 4), (17, 8, 4), (19, 8, 8), (21, 8, 8))}


def vgg_inputs():
    values = {k: R(o, i, 3, 3, lo=-0.6, hi=1) for k, (o, i) in VGG.items()}
    values.update({k + "b": R(o) for k, (o, i) in VGG.items()})
    paths = {k: "V.features[%s].%s" % (k.strip("vb"), "bias" if k.endswith("b") else "weight") for k in values}
    return values, paths


def vgg(x, weights):
    found = []
    for k in VGG:
        if k in ("v5", "v10", "v17"):
            x = F.max_pool2d(x, 2)
        x = F.relu(F.conv2d(x, weights[k], weights[k + "b"], padding=1))
        if k in ("v2", "v7", "v14", "v21"):
            found.append(x)
    return found


def omgd_style(s, t, weights):
    gram = lambda f: f.flatten(2) @ f.flatten(2).transpose(1, 2) / (f.shape[1] * f.shape[2] * f.shape[3])
    a, b = vgg((s + 1) / 2, weights), vgg((t + 1) / 2, weights)
    return sum(F.l1_loss(gram(f), gram(g)) for f, g in zip(a, b)), F.l1_loss(a[1], b[1])


for n in (1, 4):
    values, paths = vgg_inputs()
    case("omgd_style_batch%d" % n, "sum(omgd_images(s, t, V, lambda_ssim = 0.0, lambda_style = 2.0, lambda_feature = 3.0, lambda_tv = 0.0))",
         lambda s, t, **w: 2 * omgd_style(s, t, w)[0] + 3 * omgd_style(s, t, w)[1], consts="let V = frozen Vgg[16, width = 1]", weights=paths, frozen=tuple(values),
         constants=T, **pair(n, 3, 16, 16), **values)
case("omgd_ssim_of_itself", "ssim(s, s)", lambda s: 1 + 0 * s.sum(), s=R(1, 3, 12, 12))


# ---- GCC ----

def gram(f):
    f = f.flatten(2)
    return f @ f.transpose(1, 2) / (f.shape[1] * f.shape[2])


def apart(a, b, root):
    mse = ((a - b) ** 2).mean()
    return torch.sqrt(mse + 1e-12) if root else mse


def gan(d, real, mode, generator=False):
    if mode == "lsgan":
        return ((d - (1.0 if real else 0.0)) ** 2).mean()
    if generator:
        return -d.mean()
    return F.relu(1 - d).mean() if real else F.relu(1 + d).mean()


def gcc_gap(d, mode):
    return (gan(d, True, mode, True) - gan(d, False, mode)).abs()


def straight(alpha, threshold):
    """GCC's mask: (sign(alpha - threshold) + 1) / 2, and the gradient of alpha."""
    mask = (torch.sign(alpha - threshold) + 1) / 2
    return (alpha + (mask - alpha).detach())[None, :, None, None]


for n in (1, 4):
    for root in (True, False):
        for what, of in (("content", lambda f: f), ("gram", gram)):
            case("gcc_%s%s_batch%d" % (what, "_root" if root else "", n), "gcc_%s([s, u], [t, v], root = %s)" % (what, str(root).lower()),
                 lambda s, t, u, v, of=of, root=root: apart(of(s), of(t), root) + apart(of(u), of(v), root), constants=("t", "v"),
                 u=R(n, 5, 2, 3), v=R(n, 5, 2, 3), **pair(n, 3, 4, 5))
for mode in ("hinge", "lsgan"):
    case("gcc_gap_" + mode, 'gcc_gap(d, mode = "%s")' % mode, lambda d, mode=mode: gcc_gap(d, mode), d=R(2, 1, 3, 4, lo=-2, hi=2))
    case("gcc_arch_" + mode, 'gcc_arch_loss(r, f, m, mode = "%s")' % mode,
         lambda r, f, m, mode=mode: (gcc_gap(f, mode) - m).abs() + 0.5 * (gan(r, True, mode) + gan(f, False, mode)), constants=("m",),
         r=R(2, 1, 3, 4, lo=-2, hi=2), f=R(2, 1, 3, 4, lo=-2, hi=2), m=R(lo=0, hi=1))
case("gcc_mask", "A(x)", lambda x, a: x * straight(a, 0.5), consts="let A = ChannelMask[]", weights={"a": "A.alpha"}, estimated=("a",),
     x=R(2, 6, 3, 4), a=torch.tensor([0.0, 0.3, 0.5, 0.51, 0.9, 1.0], dtype=torch.float64))
case("gcc_mask_on_activations", "leaky_relu(A(x), 0.2)", lambda x, a: F.leaky_relu(x * straight(a, 0.25), 0.2), consts="let A = ChannelMask[threshold = 0.25]",
     weights={"a": "A.alpha"}, estimated=("a",), x=R(1, 5, 3, 4), a=R(5, lo=0, hi=1))
for m in (0.0, 0.75):
    new = lambda d, m: d.reshape(1) if m.item() == 0 else 0.25 * d.reshape(1) + 0.75 * m
    case("gcc_balance_%s_train" % ("later" if m else "first"), "E(d, beta = 0.25)", lambda d, m, new=new: new(d, m).sum(), consts="let E = GccBalance[]",
         weights={"m": "E.m"}, new={"m": new}, d=R(lo=0, hi=1), m=torch.tensor([m], dtype=torch.float64))


# ---- wavelets ----

SQRT3, SQRT5 = 3 ** 0.5, 5 ** 0.5
DB3 = [0.03522629188210, -0.08544127388224, -0.13501102001039, 0.45987750211933, 0.80689150931334, 0.33267055295096]
LOW = {"haar": [0.5 ** 0.5] * 2, "db3": DB3}


def bank(n, filter):
    """[outputs, n]: output k = sum_j filter[j] x[2 k + 1 - j], zeros beyond the border."""
    m = torch.zeros((n + len(filter) - 1) // 2, n, dtype=torch.float64)
    for k in range(m.shape[0]):
        for j, f in enumerate(filter):
            if 0 <= 2 * k + 1 - j < n:
                m[k, 2 * k + 1 - j] = f
    return m


def dwt(x, wave):
    low = LOW[wave]
    high = [(-1) ** (j + 1) * v for j, v in enumerate(reversed(low))]
    part = lambda v, h: bank(x.shape[2], v) @ x @ bank(x.shape[3], h).t()
    return part(low, low), torch.stack([part(high, low), part(low, high), part(high, high)], 2)


def wavelet(s, t, levels, wave, distance):
    total = 0
    for _ in range(levels):
        (s, hs), (t, ht) = dwt(s, wave), dwt(t, wave)
        total = total + (F.l1_loss(hs, ht) if distance == "l1" else F.mse_loss(hs, ht))
    return total


for wave in ("haar", "db3"):
    for distance in ("l1", "mse"):
        for n, levels, h, w in ((1, 3, 16, 8), (4, 2, 9, 7)):
            case("wavelet_%s_%s_batch%d" % (wave, distance, n), 'wavelet(s, t, levels = %d, wave = "%s", distance = "%s")' % (levels, wave, distance),
                 lambda s, t, a=(levels, wave, distance): wavelet(s, t, *a), constants=T, **pair(n, 3, h, w))
case("wavelet_of_flat_pictures", "wavelet(s - mean(s, [2, 3], keepdim = true) + 1, t * 0 + 1, levels = 2) - wavelet(s, t * 0, levels = 2)",
     lambda s, t: 0 * s.sum() + 0 * t.sum(), constants=T, **pair(1, 3, 8, 8))
