"""GauGAN (methods A.4) and GAN Compression's distillation of it (C.7, SPADE version): G, then D on the picture that the new G
paints. Spectral norms make a step of the power iteration in every pass in training mode: G's two a step, D's two.
Networks of few channels; a picture of 64 begins with 2 x 2."""


def sn(conv, spectral=True):
    return nn.utils.spectral_norm(conv) if spectral else conv


class Separable(nn.Module):
    def __init__(self, cin, cout):
        super().__init__()
        self.depthwise, self.pointwise = nn.Conv2d(cin, cin, 3, padding=1, groups=cin), nn.Conv2d(cin, cout, 1)

    def forward(self, x):
        return self.pointwise(F.instance_norm(self.depthwise(x)))


class Spade(nn.Module):
    def __init__(self, c, k, hidden, mobile):
        super().__init__()
        to = Separable if mobile else lambda i, o: nn.Conv2d(i, o, 3, padding=1)
        self.norm = nn.BatchNorm2d(c, affine=False)
        self.shared, self.gamma, self.beta = nn.Conv2d(k, hidden, 3, padding=1), to(hidden, c), to(hidden, c)

    def forward(self, x, s):
        h = F.relu(self.shared(F.interpolate(s, size=x.shape[2:], mode="nearest")))
        return self.norm(x) * (1 + self.gamma(h)) + self.beta(h)


class SpadeBlock(nn.Module):
    def __init__(self, cin, cout, k, hidden, mobile, spectral):
        super().__init__()
        mid = min(cin, cout)
        self.norm_0 = Spade(cin, k, hidden, mobile)
        self.conv_0 = sn(nn.Conv2d(cin, mid, 3, padding=1), spectral)
        self.norm_1 = Spade(mid, k, hidden, mobile)
        self.conv_1 = sn(nn.Conv2d(mid, cout, 3, padding=1), spectral)
        if cin != cout:
            self.norm_s = Spade(cin, k, hidden, mobile)
            self.conv_s = sn(nn.Conv2d(cin, cout, 1, bias=False), spectral)

    def forward(self, x, s):
        y = self.conv_0(F.leaky_relu(self.norm_0(x, s), 0.2))
        y = self.conv_1(F.leaky_relu(self.norm_1(y, s), 0.2))
        return (self.conv_s(self.norm_s(x, s)) if hasattr(self, "conv_s") else x) + y


class SpadeGen(nn.Module):
    """up "normal"; gives the picture and the features that are distilled."""

    def __init__(self, n, k, hidden, mobile=False, spectral=True):
        super().__init__()
        self.fc = nn.Conv2d(k, 16 * n, 3, padding=1)
        widths = [16 * n, 16 * n, 16 * n, 16 * n, 8 * n, 4 * n, 2 * n, n]
        self.blocks = nn.ModuleList([SpadeBlock(a, b, k, hidden, mobile, spectral) for a, b in zip(widths, widths[1:])])
        self.conv_img = nn.Conv2d(n, 3, 3, padding=1)

    def forward(self, s):
        x, taps = self.fc(F.interpolate(s, scale_factor=1 / 32, mode="nearest")), []
        for i, block in enumerate(self.blocks):
            if i not in (0, 2):
                x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = block(x, s)
            if i in (0, 2, 4):
                taps.append(x)
        return torch.tanh(self.conv_img(F.leaky_relu(x, 0.2))), taps


class SpadePatch(nn.Module):
    def __init__(self, cin, d):
        super().__init__()
        self.conv = nn.ModuleList([nn.Conv2d(cin, d, 4, 2, 2)] + [
            sn(nn.Conv2d(d * 2 ** i, d * 2 ** (i + 1), 4, 2 if i < 2 else 1, 2, bias=False)) for i in range(3)])
        self.score = nn.Conv2d(8 * d, 1, 4, 1, 2)

    def forward(self, x):
        features = []
        for i, conv in enumerate(self.conv):
            x = conv(x)
            x = F.leaky_relu(F.instance_norm(x) if i else x, 0.2)
            features.append(x)
        return features + [self.score(x)]


class SpadeDisc(nn.Module):
    def __init__(self, cin, d):
        super().__init__()
        self.scale = nn.ModuleList([SpadePatch(cin, d), SpadePatch(cin, d)])

    def forward(self, s, fake, real):
        """[of the fake, of the real], each a list for each scale."""
        x, n = torch.cat([torch.cat([s, fake], 1), torch.cat([s, real], 1)]), s.shape[0]
        both = [self.scale[0](x), self.scale[1](F.avg_pool2d(x, 3, 2, 1, count_include_pad=False))]
        return [[f[:n] for f in one] for one in both], [[f[n:] for f in one] for one in both]


def ttur(modules, times):
    return torch.optim.Adam(parameters(modules), times * 2e-4, (0.0, 0.9))


def painter_terms(D, s, fake, y):
    of_fake, of_real = D(s, fake, y)
    adv = -sum(f[-1].mean() for f in of_fake) / 2
    feat = 10 * sum(l1(a, b.detach()) for f, r in zip(of_fake, of_real) for a, b in zip(f[:-1], r[:-1])) / 2
    return adv, feat


def judge_loss(D, G, s, y):
    with torch.no_grad():
        fake, _ = G(s)
    of_fake, of_real = D(s, fake, y)
    return sum(hinge(f[-1], False) + hinge(r[-1], True) for f, r in zip(of_fake, of_real)) / 2


def gaugan(t):
    G, D = t.nets(G=SpadeGen(t.ngf, t.classes, t.hidden), D=SpadeDisc(t.classes + 3, t.ndf))
    opt_g, opt_d = ttur([G], 0.5), ttur([D], 2)
    for s, y in t.steps():
        fake, _ = G(s)
        adv, feat = painter_terms(D, s, fake, y)
        update(opt_g, adv + feat)
        d_loss = judge_loss(D, G, s, y)
        update(opt_d, d_loss)
        t.log(adv=adv, feat=feat, d_loss=d_loss)


def gaugan_gan_compression(t):
    T, = t.nets(frozen=True, T=SpadeGen(t.teacher_ngf, t.classes, 2 * t.teacher_ngf, True, False))
    S, D, A = t.nets(S=SpadeGen(t.ngf, t.classes, 2 * t.ngf, True, False), D=SpadeDisc(t.classes + 3, t.ndf),
                     A=nn.ModuleList([nn.Conv2d(k * t.ngf, k * t.teacher_ngf, 1) for k in (16, 16, 4)]))
    opt_s, opt_d = ttur([S, A], 0.5), ttur([D], 2)
    for s, y in t.steps():
        with torch.no_grad():
            _, soft = T(s)
        fake, taps = S(s)
        adv, feat = painter_terms(D, s, fake, y)
        kd = 10 * sum(((a(f) - g) ** 2).mean() for a, f, g in zip(A, taps, soft))
        update(opt_s, adv + feat + kd)
        d_loss = judge_loss(D, S, s, y)
        update(opt_d, d_loss)
        t.log(adv=adv, feat=feat, kd=kd, d_loss=d_loss)


def gaugan_run(name, fn, **defines):
    training(name, fn, recipe="models/recipes/%s.kd" % name, session=name, steps=3, scale=0.1,
             defines=dict(size=64, batch=2, classes=3, ngf=1, ndf=2, **defines),
             inputs=dict(s=OneHot(2, 3, 64, 64, block=4), y=Image(2, 3, 64, 64)))


gaugan_run("gaugan", gaugan, hidden=4)
gaugan_run("gaugan_gan_compression", gaugan_gan_compression, teacher_ngf=2, teacher_spectral=False)
