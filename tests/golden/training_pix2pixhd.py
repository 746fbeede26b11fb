"""Pix2PixHD (methods A.3): one forward; G's gradient and D's are both taken before either steps. The global generator alone, and
the local enhancer together with it."""


def halved(x):
    return F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)


class HdGenerator(nn.Module):
    """A ResNet of n_down downsamplings; head=False: up to where the last convolution would be."""

    def __init__(self, n, n_down, blocks, cin=3, head=True):
        super().__init__()
        self.stem = nn.Conv2d(cin, n, 7)
        self.down = nn.ModuleList([nn.Conv2d(n * 2 ** i, n * 2 ** (i + 1), 3, 2, 1) for i in range(n_down)])
        self.blocks = nn.ModuleList([ResBlock(n * 2 ** n_down) for _ in range(blocks)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(n * 2 ** (i + 1), n * 2 ** i, 3, 2, 1, 1) for i in reversed(range(n_down))])
        self.head = nn.Conv2d(n, 3, 7) if head else None

    def forward(self, x, added=0):
        """`added` goes on top of what the downsamplings give: the global features of an enhancer."""
        h = F.relu(F.instance_norm(self.stem(F.pad(x, (3, 3, 3, 3), mode="reflect"))))
        for m in self.down:
            h = F.relu(F.instance_norm(m(h)))
        h = h + added
        for m in self.blocks:
            h = m(h)
        for m in self.up:
            h = F.relu(F.instance_norm(m(h)))
        return torch.tanh(self.head(F.pad(h, (3, 3, 3, 3), mode="reflect"))) if self.head else h


class Judge(nn.Module):
    """PatchGANs that pad by 2 on halves of one another: [features..., score] of each scale."""

    def __init__(self, d, cin, num_D=2):
        super().__init__()
        widths = [cin, d, 2 * d, 4 * d, 8 * d, 1]
        self.scale = nn.ModuleList([nn.ModuleList([nn.Conv2d(widths[i], widths[i + 1], 4, 2 if i < 3 else 1, 2) for i in range(5)])
                                    for _ in range(num_D)])

    def forward(self, x):
        results = []
        for convs in self.scale:
            h, out = x, []
            for i, conv in enumerate(convs):
                h = conv(h)
                h = h if i == 4 else F.leaky_relu(F.instance_norm(h) if i else h, 0.2)
                out.append(h)
            results.append(out)
            x = halved(x)
        return results


class HdVgg(nn.Module):
    """VGG19 up to relu5_1; gives relu1_1, relu2_1, ... relu5_1."""

    def __init__(self):
        super().__init__()
        widths = [3, 64, 64, 128, 128, 256, 256, 256, 256, 512, 512, 512, 512, 512]
        self.convs = nn.ModuleList([nn.Conv2d(a, b, 3, 1, 1) for a, b in zip(widths, widths[1:])])

    def forward(self, x):
        found = []
        for i, conv in enumerate(self.convs):
            x = F.relu(conv(F.max_pool2d(x, 2) if i in (2, 4, 8, 12) else x))
            if i in (0, 2, 4, 8, 12):
                found.append(x)
        return found


def hd_step(t, D, V, opt_g, opt_d, x, fake, y):
    of_fake, of_real, of_old = D(torch.cat([x, fake], 1)), D(torch.cat([x, y], 1)), D(torch.cat([x, fake.detach()], 1))
    adv = sum(lsgan(s[-1], True) for s in of_fake)
    feat = sum(10 * l1(a, b.detach()) / len(of_fake) for f, r in zip(of_fake, of_real) for a, b in zip(f[:-1], r[:-1]))
    d_loss = 0.5 * (sum(lsgan(s[-1], False) for s in of_old) + sum(lsgan(s[-1], True) for s in of_real))
    total = adv + feat
    if V is not None:
        perceptual = t.lambda_vgg * sum(w * l1(a, b.detach()) for w, a, b in zip((1 / 32, 1 / 16, 1 / 8, 1 / 4, 1), V(fake), V(y)))
        total = total + perceptual
        t.log(vgg=perceptual)
    opt_g.zero_grad()
    total.backward(retain_graph=True)
    opt_d.zero_grad()
    d_loss.backward()
    opt_g.step()
    opt_d.step()
    t.log(adv=adv, feat=feat, d_loss=d_loss)


def pix2pixhd(t):
    G, D = t.nets(G=HdGenerator(t.ngf, t.n_down, t.n_blocks), D=Judge(t.ndf, 6))
    V = t.nets(frozen=True, V=HdVgg())[0] if t.lambda_vgg > 0 else None
    opt_g, opt_d = adam(parameters([G])), adam(parameters([D]))
    for x, y in t.steps():
        hd_step(t, D, V, opt_g, opt_d, x, G(x), y)


def pix2pixhd_local(t):
    G, E, D = t.nets(G=HdGenerator(2 * t.ngf, t.n_down, t.n_blocks, head=False), E=HdGenerator(t.ngf, 1, t.n_blocks_local),
                     D=Judge(t.ndf, 6))
    opt_g, opt_d = adam(parameters([G, E] if t.joint else [E])), adam(parameters([D]))
    for x, y in t.steps():
        hd_step(t, D, None, opt_g, opt_d, x, E(x, G(halved(x))), y)


def hd_run(name, fn, recipe, size=32, **kw):
    slow = kw.pop("slow", False)
    training(name, fn, recipe="models/recipes/%s.kd" % recipe, session=recipe, steps=3, slow=slow, defines=dict(size=size, **kw),
             inputs=dict(x=Image(1, 3, size, size), y=Image(1, 3, size, size)))


hd_run("pix2pixhd", pix2pixhd, "pix2pixhd", ngf=4, ndf=4, n_down=3, n_blocks=1, lambda_vgg=0)
hd_run("pix2pixhd_vgg", pix2pixhd, "pix2pixhd", size=64, ngf=8, ndf=8, n_down=3, n_blocks=2, lambda_vgg=10, slow=True)
hd_run("pix2pixhd_local", pix2pixhd_local, "pix2pixhd_local", ngf=2, ndf=4, n_down=2, n_blocks=1, n_blocks_local=1, joint=True)
