"""GAN Compression's supernet (methods B.3, C.7): every step trains leading parts of one separable ResNet, sliced as its SuperConv2d slices
weights: filters W[:out, :in], biases b[:out], of a transposed convolution W[:in, :out], of a depthwise one W[:channels]; adaptors by
their inputs. Both gradients are taken at the same weights before either update. With the sandwich rule a step trains three parts:
the one that was drawn (here always `channels`), the largest and the smallest; the losses are their means."""


class SuperSeparable(nn.Module):
    def __init__(self, a, b):
        super().__init__()
        self.depthwise, self.pointwise = nn.Conv2d(a, a, 3, groups=a), nn.Conv2d(a, b, 1)

    def forward(self, x, out):
        n, d, p = x.shape[1], self.depthwise, self.pointwise
        x = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), d.weight[:n], d.bias[:n], groups=n)
        return F.conv2d(F.instance_norm(contiguous_gradient(x)), p.weight[:out, :n], p.bias[:out])


class SuperBlock(nn.Module):
    def __init__(self, c, inner):
        super().__init__()
        self.a, self.b = SuperSeparable(c, inner), SuperSeparable(inner, c)

    def forward(self, x, inner):
        y = F.relu(F.instance_norm(contiguous_gradient(self.a(x, inner))))
        return x + F.instance_norm(contiguous_gradient(self.b(y, x.shape[1])))


class SuperMobile(nn.Module):
    def __init__(self, c, blocks):
        super().__init__()
        self.stem = nn.Conv2d(3, c[0], 7)
        self.down = nn.ModuleList([nn.Conv2d(c[0], 2 * c[1], 3, 2, 1), nn.Conv2d(2 * c[1], 4 * c[2], 3, 2, 1)])
        self.blocks = nn.ModuleList([SuperBlock(4 * c[2], 4 * c[3 + 3 * i // blocks]) for i in range(blocks)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(4 * c[2], 2 * c[6], 3, 2, 1, 1), nn.ConvTranspose2d(2 * c[6], c[7], 3, 2, 1, 1)])
        self.head = nn.Conv2d(c[7], 3, 7)

    def forward(self, x, c):
        """The image, and the features behind the second down layer and each third of the blocks."""
        normed = lambda v: F.relu(F.instance_norm(contiguous_gradient(v)))
        part = lambda m, v, out, **kw: F.conv2d(v, m.weight[:out, :v.shape[1]], m.bias[:out], **kw)
        h = normed(part(self.stem, F.pad(x, (3, 3, 3, 3), mode="reflect"), c[0]))
        for m, out in zip(self.down, (2 * c[1], 4 * c[2])):
            h = normed(part(m, h, out, stride=2, padding=1))
        taps, n = [h], len(self.blocks)
        for i, m in enumerate(self.blocks):
            h = m(h, 4 * c[3 + 3 * i // n])
            if i in (n // 3 - 1, 2 * n // 3 - 1, n - 1):
                taps.append(h)
        for m, out in zip(self.up, (2 * c[6], c[7])):
            h = normed(F.conv_transpose2d(h, m.weight[:h.shape[1], :out], m.bias[:out], 2, 1, 1))
        return torch.tanh(part(self.head, F.pad(h, (3, 3, 3, 3), mode="reflect"), 3)), taps


def supernet(t):
    full, least = [g[-1] for g in t.genes], [g[0] for g in t.genes]
    T, = t.nets(frozen=True, T=SuperMobile([t.teacher_ngf] * 8, t.n_blocks))
    S, D, K = t.nets(S=SuperMobile(full, t.n_blocks), D=PatchGan(t.ndf, 6),
                     K=nn.ModuleList([nn.Conv2d(4 * full[2], 4 * t.teacher_ngf, 1) for _ in range(4)]))
    opt_s, opt_d = adam(parameters([S, K])), adam(parameters([D]))
    mean = lambda v: sum(v) / len(v)
    for x, y in t.steps():
        with torch.no_grad():
            soft, target = T(x, [t.teacher_ngf] * 8)
        parts = [S(x, c) for c in ((t.channels, full, least) if t.sandwich else (t.channels,))]
        seen = lambda v: D(torch.cat([x, v], 1))
        d_loss = mean([0.5 * (hinge(seen(f.detach()), False) + hinge(seen(y), True)) for f, _ in parts])
        adv, rec = mean([-seen(f).mean() for f, _ in parts]), mean([100 * l1(f, y) for f, _ in parts])
        widened = lambda a, f: F.conv2d(f, a.weight[:, :f.shape[1]], a.bias)
        kd = mean([sum(F.mse_loss(widened(a, f), g) for a, f, g in zip(K, taps, target)) for _, taps in parts])
        of_d = torch.autograd.grad(d_loss, parameters([D]))
        opt_s.zero_grad()
        (adv + rec + kd).backward()
        for p, g in zip(parameters([D]), of_d):
            p.grad = g
        opt_d.step()
        opt_s.step()
        t.log(d_loss=d_loss, adv=adv, rec=rec, kd=kd)


SUPERNET = dict(recipe="models/recipes/pix2pix_gan_compression_supernet.kd", session="pix2pix_gan_compression_supernet", steps=2,
                inputs=dict(x=Image(1, 3, 32, 32), y=Image(1, 3, 32, 32)))
GENES = [[1, 2], [1, 2], [2, 3], [1, 2], [1, 3], [2, 3], [1, 2], [1, 2]]
training("supernet", supernet, defines=dict(size=32, genes=GENES, channels=[1, 2, 2, 2, 1, 3, 1, 2], teacher_ngf=3, ndf=4, n_blocks=3,
                                            sandwich=False), **SUPERNET)
training("supernet_sandwich", supernet, defines=dict(size=32, genes=GENES, channels=[2, 1, 3, 1, 3, 2, 2, 1], teacher_ngf=3, ndf=4,
                                                     n_blocks=3, sandwich=True), scale=0.2, **dict(SUPERNET, steps=1))
