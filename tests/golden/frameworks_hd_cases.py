"""Pix2PixHD's losses (methods A.3.4) and the networks that they look through: VGG, the multi-scale discriminator."""

IMPORTS = ["losses/pix2pixhd.kd", "nets/pix2pixhd.kd", "nets/vgg.kd"]


def hd_gan(ds, real):
    return sum(((d - (1.0 if real else 0.0)) ** 2).mean() for d in ds)


def hd_features(fake, real):
    """As the official code counts: 4 / (n_layers + 1) and 1 / num_D, n_layers + 1 features in a scale."""
    total = 0
    for f, r in zip(fake, real):
        for a, b in zip(f, r):
            total = total + 4.0 / len(f) / len(fake) * F.l1_loss(a, b.detach())
    return total


for n in (1, 4):
    case("hd_gan_%d" % n, "hd_gan_loss([d, e], real = true) + 3 * hd_gan_loss([d, e], real = false)",
         lambda d, e: hd_gan([d, e], True) + 3 * hd_gan([d, e], False), d=R(n, 1, 5, 4, lo=-2, hi=2), e=R(n, 1, 3, 2, lo=-2, hi=2))
    case("hd_feature_matching_%d" % n, "hd_features([[a, b], [c, d]], [[e, f], [g, h]])",
         lambda a, b, c, d, e, f, g, h: hd_features([[a, b], [c, d]], [[e, f], [g, h]]),
         a=R(n, 2, 5, 4), b=R(n, 4, 3, 2), c=R(n, 2, 3, 2), d=R(n, 4, 2, 2), e=R(n, 2, 5, 4), f=R(n, 4, 3, 2), g=R(n, 2, 3, 2),
         h=R(n, 4, 2, 2), constants=("e", "f", "g", "h"))
case("hd_gan_vanilla", "hd_gan_loss([d, e], real = true, mode = \"vanilla\")",
     lambda d, e: sum(F.binary_cross_entropy_with_logits(t, torch.ones_like(t)) for t in (d, e)),
     d=R(2, 1, 5, 4, lo=-3, hi=3), e=R(2, 1, 3, 2, lo=-3, hi=3))


# ---- VGG at a narrow width; its weights are frozen, as they always are ----

def vgg(x, w, counts, wanted):
    """The features `wanted`, [block, convolution] from 1, of torchvision's list of layers."""
    found, i = [], 0
    for block, count in enumerate(counts):
        for k in range(count):
            if "w%d" % i in w:
                x = F.relu(F.conv2d(x, w["w%d" % i], w["b%d" % i], padding=1))
                i += 1
                if (block + 1, k + 1) in wanted:
                    found.append(x)
        x = F.max_pool2d(x, 2) if "w%d" % i in w else x
    return found


def vgg_case(name, kd, fn, layers, counts, last, constants=(), **inputs):
    """last: how many convolutions there are."""
    weights, paths, place, c = {}, {}, 0, 3
    for block, count in enumerate(counts):
        for k in range(count):
            i, width = len(weights) // 2, min(2 * 2 ** block, 16)
            if i < last:
                bound = (6.0 / (9 * c)) ** 0.5
                weights["w%d" % i], weights["b%d" % i] = R(width, c, 3, 3, lo=-bound, hi=bound), R(width, lo=-0.1, hi=0.1)
                paths["w%d" % i], paths["b%d" % i] = "V.features[%d].weight" % place, "V.features[%d].bias" % place
            place, c = place + 2, width
        place += 1
    case(name, kd, lambda **values: fn(counts=counts, **values), consts="let V = frozen Vgg[%d, width = 2]" % layers, weights=paths,
         frozen=tuple(weights), constants=constants, **inputs, **weights)


def vgg16_features(x, counts, **w):
    return sum((f * f).mean() for f in vgg(x, w, counts, [(1, 2), (2, 2), (3, 3), (4, 3)]))


def hd_vgg(x, y, counts, **w):
    wanted = [(block, 1) for block in range(1, 6)]
    pairs = zip((1 / 32, 1 / 16, 1 / 8, 1 / 4, 1), vgg(x, w, counts, wanted), vgg(y, w, counts, wanted))
    return sum(k * F.l1_loss(a, b.detach()) for k, a, b in pairs)


vgg_case("vgg16_features", "sum([mean(f * f) for f in V(x)])", vgg16_features, 16, (2, 2, 3, 3, 3), 10, x=R(1, 3, 16, 16))
vgg_case("hd_vgg_term", "hd_vgg(V, x, y)", hd_vgg, 19, (2, 2, 4, 4, 4), 13, constants=("y",), x=R(1, 3, 32, 32), y=R(1, 3, 32, 32))


# ---- the multi-scale discriminator: both scales' features and scores, of a fake and a real picture ----

def patch(x, w, scale):
    features = []
    for i in range(5):
        x = F.conv2d(x, w["w%d%d" % (scale, i)], w["b%d%d" % (scale, i)], stride=2 if i < 3 else 1, padding=2)
        if i < 4:
            x = F.leaky_relu(F.instance_norm(x) if i else x, 0.2)
            features.append(x)
    return x, features


def judge(x, w):
    scores, features = [], []
    for scale in range(2):
        d, f = patch(x, w, scale)
        scores.append(d)
        features.append(f)
        x = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
    return scores, features


def hd_judged(x, y, **w):
    d, f = judge(x, w)
    flat = [[0.1 * torch.ones_like(t) for t in s] for s in f]
    return 0.1 * (hd_gan(d, True) + hd_gan(judge(y, w)[0], False) + hd_features(f, flat))


def judge_inputs():
    inputs, paths = {}, {}
    for scale in range(2):
        for i, (o, c) in enumerate([(2, 4), (4, 2), (6, 4), (6, 6), (1, 6)]):
            inputs["w%d%d" % (scale, i)], inputs["b%d%d" % (scale, i)] = R(o, c, 4, 4, lo=-0.3, hi=0.3), R(o, lo=-0.1, hi=0.1)
            for a, b in (("w", "weight"), ("b", "bias")):
                paths["%s%d%d" % (a, scale, i)] = "D.scale[%d].conv[%d].%s" % (scale, i, b)
    return inputs, paths


JUDGE, JUDGE_PATHS = judge_inputs()
case("hd_judged", "0.1 * (hd_gan_loss(d, real = true) + hd_gan_loss(D(y), real = false) + hd_features(d.features, flat))", hd_judged,
     consts="let D = MultiscaleGan[ndf = 2, widest = 6]\nlet d = D(x)\n"
            "let flat = [[0.1 * ones_like(f) for f in s] for s in d.features]", weights=JUDGE_PATHS,
     x=R(1, 4, 32, 32), y=R(1, 4, 32, 32), **JUDGE)
case("hd_halved", "halved(x)", lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), x=R(2, 3, 7, 6))
