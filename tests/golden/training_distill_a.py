"""Distillation on top of Pix2Pix (methods A.2.2, C.4; the U-Net's usual taps); GAN Compression on one direction of a CycleGAN (methods
C.7: both gradients before either update); CAT on pairs (methods C.9: D, then the student against the updated D; batch norms;
kernel alignment of a batch)."""


def reflect(x, p):
    return F.pad(x, (p, p, p, p), mode="reflect")


class Separable(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.depthwise, self.pointwise = nn.Conv2d(c, c, 3, groups=c), nn.Conv2d(c, c, 1)

    def forward(self, x):
        return self.pointwise(F.instance_norm(self.depthwise(x)))


class MobileBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.a, self.b = Separable(c), Separable(c)

    def forward(self, x):
        return x + F.instance_norm(self.b(reflect(F.relu(F.instance_norm(self.a(reflect(x, 1)))), 1)))


class ConvNormRelu(nn.Sequential):
    def __init__(self, *args, **kw):
        conv = nn.Conv2d(*args, bias=False, **kw)
        super().__init__(conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU())


class Inception(nn.Module):
    """CAT's block with batch norms (methods B.4)."""

    def __init__(self, c, m):
        super().__init__()
        self.dense = nn.ModuleList([nn.Sequential(nn.ReflectionPad2d(k // 2), ConvNormRelu(c, m, k), nn.ReflectionPad2d(k // 2),
                                                  nn.Conv2d(m, c, k, bias=False)) for k in (1, 3, 5)])
        self.depthwise = nn.ModuleList([nn.Sequential(ConvNormRelu(c, m, 1), nn.ReflectionPad2d(k // 2), ConvNormRelu(m, m, k, groups=m),
                                                      nn.Conv2d(m, c, 1, bias=False)) for k in (1, 3, 5)])
        self.norm = nn.BatchNorm2d(c)

    def forward(self, x):
        return x + self.norm(sum(b(x) for b in [*self.dense, *self.depthwise]))


class Tapped(nn.Module):
    """A ResNet generator: its image, and the features behind the second down layer and each third of the blocks."""

    def __init__(self, n, blocks, batch):
        super().__init__()
        norm = nn.BatchNorm2d if batch else nn.InstanceNorm2d
        layer = lambda conv, c: nn.Sequential(conv, norm(c), nn.ReLU())
        bias = dict(bias=not batch)
        self.stem = layer(nn.Conv2d(3, n, 7, **bias), n)
        self.down = nn.ModuleList([layer(nn.Conv2d(c, 2 * c, 3, 2, 1, **bias), 2 * c) for c in (n, 2 * n)])
        self.blocks = nn.ModuleList([Inception(4 * n, 4 * n // 6) if batch else MobileBlock(4 * n) for _ in range(blocks)])
        self.up = nn.ModuleList([layer(nn.ConvTranspose2d(2 * c, c, 3, 2, 1, 1, **bias), c) for c in (2 * n, n)])
        self.head = nn.Conv2d(n, 3, 7)

    def forward(self, x):
        h = self.stem(reflect(x, 3))
        for m in self.down:
            h = m(h)
        taps, n = [h], len(self.blocks)
        for i, m in enumerate(self.blocks):
            h = m(h)
            if i in (n // 3 - 1, 2 * n // 3 - 1, n - 1):
                taps.append(h)
        for m in self.up:
            h = m(h)
        return torch.tanh(self.head(reflect(h, 3))), taps


def gan_compression(t):
    T, = t.nets(frozen=True, T=Tapped(t.teacher_ngf, t.n_blocks, False))
    S, D, K = t.nets(S=Tapped(t.ngf, t.n_blocks, False), D=PatchGan(t.ndf),
                     K=nn.ModuleList([nn.Conv2d(4 * t.ngf, 4 * t.teacher_ngf, 1) for _ in range(4)]))
    opt_s, opt_d = adam(parameters([S, K])), adam(parameters([D]))
    for x, y in t.steps():
        with torch.no_grad():
            soft, target = T(x)
        fake, taps = S(x)
        d_loss = 0.5 * (lsgan(D(fake.detach()), False) + lsgan(D(y), True))
        adv, rec = lsgan(D(fake), True), t.lambda_ * l1(fake, soft)
        kd = t.lambda_distill * sum(F.mse_loss(a(f), g) for a, f, g in zip(K, taps, target))
        grads_d = torch.autograd.grad(d_loss, parameters([D]))
        opt_s.zero_grad()
        (adv + rec + kd).backward()
        for p, g in zip(parameters([D]), grads_d):
            p.grad = g
        opt_d.step()
        opt_s.step()
        t.log(d_loss=d_loss, adv=adv, rec=rec, kd=kd)


def alignment(f, g):
    x, y = f.flatten(1), g.flatten(1)
    kx, ky = x @ x.t(), y @ y.t()
    return (kx * ky).sum() / ((kx ** 2).sum() * (ky ** 2).sum()).sqrt()


def cat(t):
    T, = t.nets(frozen=True, T=Tapped(t.teacher_ngf, t.n_blocks, True))
    S, D = t.nets(S=Tapped(t.ngf, t.n_blocks, True), D=PatchGan(t.ndf, 6, "batch"))
    opt_s, opt_d = adam(parameters([S])), adam(parameters([D]))
    for x, y in t.steps():
        with torch.no_grad():
            soft, target = T(x)
        fake, taps = S(x)
        d_loss = 0.5 * (hinge(D(torch.cat([x, fake.detach()], 1)), False) + hinge(D(torch.cat([x, y], 1)), True))
        update(opt_d, d_loss)
        adv, rec = -D(torch.cat([x, fake], 1)).mean(), 100 * l1(fake, y)
        kd = 0.5 * sum(-alignment(f, g) for f, g in zip(taps, target))
        update(opt_s, adv + rec + kd)
        t.log(d_loss=d_loss, adv=adv, rec=rec, kd=kd)


def fitnets(t):
    """A U-Net's taps: what levels 2 and 4 send down, behind LeakyReLU, and what goes into the up convolutions of levels 4 and 2."""
    T, = t.nets(frozen=True, T=unet(t.teacher_ngf, t.depth))
    widths = [2, 8, 16, 4]
    S, D, K = t.nets(S=unet(t.ngf, t.depth), D=PatchGan(t.ndf, 6, "batch"),
                     K=nn.ModuleList([nn.Conv2d(w * t.ngf, w * t.teacher_ngf, 1) for w in widths]))
    ups = {}
    for net in (S, T):
        levels = [net]
        while levels[-1].sub is not None:
            levels.append(levels[-1].sub)
        for l in (2, 4):
            levels[l - 1].up.register_forward_pre_hook(lambda m, x, at=(net, l): ups.__setitem__(at, contiguous_gradient(x[0])))

    def features(net, x):
        down = []
        image = net(x, down)
        return image, [contiguous_gradient(down[1]), contiguous_gradient(down[3]), ups[net, 4], ups[net, 2]]

    opt_s, opt_d = adam(parameters([S, K])), adam(parameters([D]))
    for x, y in t.steps():
        with torch.no_grad():
            soft, target = features(T, x)
        fake, taps = features(S, x)
        d_loss = 0.5 * (bce(D(torch.cat([x, fake.detach()], 1)), False) + bce(D(torch.cat([x, y], 1)), True))
        update(opt_d, d_loss)
        adv, rec = bce(D(torch.cat([x, fake], 1)), True), 100 * l1(fake, y)
        kd = sum(F.mse_loss(a(f), g) for a, f, g in zip(K, taps, target))
        update(opt_s, adv + rec + kd)
        t.log(d_loss=d_loss, adv=adv, rec=rec, kd=kd)


SMALL = dict(size=24, ngf=4, teacher_ngf=6, ndf=8, n_blocks=3)

training("cyclegan_gan_compression", gan_compression, recipe="models/recipes/cyclegan_gan_compression.kd", session="cyclegan_gan_compression",
         steps=3, defines=dict(SMALL, lambda_distill=0.5), extra=dict(lambda_=10), inputs=dict(x=Image(1, 3, 24, 24), y=Image(1, 3, 24, 24)))
training("pix2pix_cat", cat, recipe="models/recipes/pix2pix_cat.kd", session="pix2pix_cat", steps=3, defines=dict(SMALL, ngf=3, teacher_ngf=4, batch=3),
         inputs=dict(x=Image(3, 3, 24, 24), y=Image(3, 3, 24, 24)))
training("distill_pix2pix", fitnets, recipe="models/recipes/distill_pix2pix.kd", session="distill_pix2pix", steps=3,
         defines=dict(size=32, depth=5, ngf=2, teacher_ngf=3, ndf=4, batch=4, dropout=0.0, method="fitnets"),
         inputs=dict(x=Image(4, 3, 32, 32), y=Image(4, 3, 32, 32)))
