"""Pix2Pix as GAN Compression trains it (methods A.2.3): hinge, D then G; and its distillation (C.7), separable ResNets, where both
gradients are taken at the same weights before either update."""


class SeparableConv(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.depthwise, self.pointwise = nn.Conv2d(c, c, 3, groups=c), nn.Conv2d(c, c, 1)

    def forward(self, x):
        return self.pointwise(F.instance_norm(self.depthwise(x)))


class MobileBlock(ResBlock):
    def __init__(self, c):
        super().__init__(c)
        self.a, self.b = SeparableConv(c), SeparableConv(c)


def mobile(n, blocks):
    """With the features behind the encoder and behind each third of the blocks in `taps`."""
    net = ResnetGen(n, blocks)
    net.blocks = nn.ModuleList([MobileBlock(4 * n) for _ in range(blocks)])
    net.taps = {}
    net.down[1].register_forward_hook(lambda m, x, y: net.taps.__setitem__(0, F.relu(F.instance_norm(y))))
    for k in (1, 2, 3):
        net.blocks[k * blocks // 3 - 1].register_forward_hook(lambda m, x, y, k=k: net.taps.__setitem__(k, y))
    return net


def pairs_loss(D, x, fake, y):
    return 0.5 * (hinge(D(torch.cat([x, fake.detach()], 1)), False) + hinge(D(torch.cat([x, y], 1)), True))


def pix2pix_resnet(t):
    G, D = t.nets(G=ResnetGen(t.ngf, t.n_blocks), D=PatchGan(t.ndf, 6))
    opt_g, opt_d = adam(parameters([G])), adam(parameters([D]))
    for x, y in t.steps():
        fake = G(x)
        d_loss = pairs_loss(D, x, fake, y)
        update(opt_d, d_loss)
        adv, rec = -D(torch.cat([x, fake], 1)).mean(), 100 * l1(fake, y)
        update(opt_g, adv + rec)
        t.log(d_loss=d_loss, adv=adv, rec=rec)


def gan_compression_pix2pix(t):
    T, = t.nets(frozen=True, T=mobile(t.teacher_ngf, t.n_blocks))
    S, D, K = t.nets(S=mobile(t.ngf, t.n_blocks), D=PatchGan(t.ndf, 6),
                     K=nn.ModuleList([nn.Conv2d(4 * t.ngf, 4 * t.teacher_ngf, 1) for _ in range(4)]))
    opt_s, opt_d = adam(parameters([S, K])), adam(parameters([D]))
    for x, y in t.steps():
        with torch.no_grad():
            T(x)
        fake = S(x)
        d_loss = pairs_loss(D, x, fake, y)
        adv, rec = -D(torch.cat([x, fake], 1)).mean(), 100 * l1(fake, y)
        kd = sum(F.mse_loss(K[k](S.taps[k]), T.taps[k]) for k in range(4))
        of_d = torch.autograd.grad(d_loss, parameters([D]))
        opt_s.zero_grad()
        (adv + rec + kd).backward()
        for p, g in zip(parameters([D]), of_d):
            p.grad = g
        opt_d.step()
        opt_s.step()
        t.log(d_loss=d_loss, adv=adv, rec=rec, kd=kd)


PAIRS = dict(inputs=dict(x=Image(1, 3, 32, 32), y=Image(1, 3, 32, 32)), steps=3)
training("pix2pix_resnet", pix2pix_resnet, recipe="models/recipes/pix2pix_resnet.kd", session="pix2pix_resnet",
         defines=dict(size=32, ngf=4, ndf=8, n_blocks=3), **PAIRS)
training("gan_compression_pix2pix", gan_compression_pix2pix, recipe="models/recipes/pix2pix_gan_compression.kd",
         session="pix2pix_gan_compression", defines=dict(size=32, ngf=4, teacher_ngf=6, ndf=8, n_blocks=3), **PAIRS)
