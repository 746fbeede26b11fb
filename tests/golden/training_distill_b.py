"""OMGD's and GCC's orders (methods C.10, C.11), on pairs: teachers that are trained along."""


def forward_unet(net, x):
    """The image, and the taps 2, 4, -4, -2 of a U-Net of 5 levels, behind the activation: what goes down behind levels 2
    and 4, what turns up again at levels 4 and 2."""
    levels = [net]
    while levels[-1].sub is not None:
        levels.append(levels[-1].sub)
    skip, y = [], x
    for i, l in enumerate(levels):
        y = l.down(y)
        y = y if l.down_norm is None else l.down_norm(y)
        y = F.relu(y) if i == len(levels) - 1 else F.leaky_relu(y, 0.2)
        skip.append(contiguous_gradient(y))
    up = {}
    for i in range(len(levels) - 1, -1, -1):
        if i < len(levels) - 1:
            y = up[i + 1] = F.relu(torch.cat([skip[i], y], 1))
        y = levels[i].up(y)
        y = torch.tanh(y) if i == 0 else levels[i].up_norm(y)
    return y, [skip[1], skip[3], up[4], up[2]]


class Expansion(nn.Module):
    def __init__(self, c):
        super().__init__()
        widths = ((c, 4 * c, 1), (4 * c, 4 * c, 3), (4 * c, c, 1), (c, c, 3))
        for i, (a, b, k) in enumerate(widths):
            setattr(self, "conv%d" % (i + 1), nn.Conv2d(a, b, k, bias=False))
            setattr(self, "norm%d" % (i + 1), nn.BatchNorm2d(b))

    def forward(self, x):
        pad = lambda v: F.pad(v, (1, 1, 1, 1), mode="reflect")
        y = F.relu(self.norm1(self.conv1(pad(x))))
        y = F.relu(self.norm2(self.conv2(y)))
        y = F.relu(self.norm3(self.conv3(y)))
        return x + self.norm4(self.conv4(pad(y)))


class DeepUnet(nn.Module):
    """As the released one, whose activations work in place: the skip is what LeakyReLU has made of it."""

    def __init__(self, n, depth):
        super().__init__()
        w = [n * min(2 ** i, 8) for i in range(depth)]
        self.depth = depth
        for i in range(depth):
            setattr(self, "down%d" % i, nn.Conv2d(3 if i == 0 else w[i - 1], w[i], 4, 2, 1, bias=False))
            if 0 < i < depth - 1:
                setattr(self, "down_norm%d" % i, nn.BatchNorm2d(w[i]))
            if i < depth - 1:
                setattr(self, "down_more%d" % i, nn.Sequential(Expansion(w[i]), Expansion(w[i])))
        for i in range(depth - 1, -1, -1):
            out = 3 if i == 0 else w[i - 1]
            if i == 0:
                self.up_more0 = nn.Sequential(Expansion(2 * w[0]), Expansion(2 * w[0]))
            setattr(self, "up%d" % i, nn.ConvTranspose2d(w[i] if i == depth - 1 else 2 * w[i], out, 4, 2, 1, bias=i == 0))
            if i > 0:
                setattr(self, "up_norm%d" % i, nn.BatchNorm2d(out))
                if i < depth - 1:
                    setattr(self, "up_more%d" % i, nn.Sequential(Expansion(out), Expansion(out)))

    def part(self, name, i, x):
        m = getattr(self, "%s%d" % (name, i), None)
        return x if m is None else m(x)

    def forward(self, x):
        skip, last = [], self.depth - 1
        for i in range(self.depth):
            x = self.part("down_more", i, self.part("down_norm", i, self.part("down", i, x)))
            if i < last:
                x = F.leaky_relu(x, 0.2)
                skip.append(x)
        x = self.up_norm4(self.up4(F.relu(x)))
        for i in range(last - 1, 0, -1):
            x = self.part("up_norm", i, self.part("up", i, F.relu(torch.cat([skip[i], x], 1))))
            x = self.part("up_more", i, x)
        return torch.tanh(self.up0(F.relu(self.up_more0(torch.cat([skip[0], x], 1)))))


class SharedPatchGan(nn.Module):
    """Batch norms; the first three convolutions are common, the last two each head's."""

    def __init__(self, d):
        super().__init__()
        block = lambda a, b, stride: nn.Sequential(nn.Conv2d(a, b, 4, stride, 1, bias=False), nn.BatchNorm2d(b))
        self.shared = nn.ModuleList([nn.Sequential(nn.Conv2d(6, d, 4, 2, 1)), block(d, 2 * d, 2), block(2 * d, 4 * d, 2)])
        self.own = nn.ModuleList([nn.ModuleList([block(4 * d, 8 * d, 1), nn.Conv2d(8 * d, 1, 4, 1, 1)]) for _ in range(2)])

    def forward(self, x, head):
        for m in list(self.shared) + [self.own[head][0]]:
            x = F.leaky_relu(m(x), 0.2)
        return self.own[head][1](x)


def omgd_ssim(x, y):
    at = torch.arange(11, dtype=torch.float64) - 5
    g = torch.exp(-at ** 2 / 4.5)
    window = (g[:, None] * g[None] / g.sum() ** 2).to(x.dtype).repeat(3, 1, 1, 1)
    mean = lambda v: F.conv2d(v, window, padding=5, groups=3)
    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx ** 2, mean(y * y) - my ** 2, mean(x * y) - mx * my
    return ((2 * mx * my + 0.01 ** 2) * (2 * vxy + 0.03 ** 2) / ((mx ** 2 + my ** 2 + 0.01 ** 2) * (vx + vy + 0.03 ** 2))).mean()


def generator_hinge(d):
    return -d.mean()


def pix2pix_omgd(t):
    wide, S = unet(t.teacher_ngf, 5), unet(t.ngf, 5)
    channels = [2, 8, 16, 4]
    C = nn.ModuleList([nn.Sequential(nn.Conv2d(t.ngf * c, t.teacher_ngf * c, 1, bias=False), nn.BatchNorm2d(t.teacher_ngf * c)) for c in channels])
    wide, deep, S, D, C = t.nets(wide=wide, deep=DeepUnet(t.deep_ngf, 5), S=S, D=SharedPatchGan(t.ndf), C=C)
    opt_w, opt_d, opt_D, opt_s = adam(parameters([wide])), adam(parameters([deep])), adam(parameters([D])), adam(parameters([S, C]))
    for x, y in t.steps():
        (soft_w, taps_w), soft_d, (fake, taps) = forward_unet(wide, x), deep(x), forward_unet(S, x)
        pair = lambda image, head: D(torch.cat([x, image], 1), head)
        if t.step % t.n_dis == 0:
            d_loss = sum(0.5 * (hinge(pair(f.detach(), k), False) + hinge(pair(y, k), True)) for k, f in enumerate((soft_w, soft_d)))
            g_wide, g_deep = [generator_hinge(pair(f, k)) + 100 * l1(f, y) for k, f in enumerate((soft_w, soft_d))]
            grads = [torch.autograd.grad(loss, parameters([net]), retain_graph=True) for loss, net in ((d_loss, D), (g_wide, wide), (g_deep, deep))]
            for net, opt, gs in zip((D, wide, deep), (opt_D, opt_w, opt_d), grads):
                for p, g in zip(parameters([net]), gs):
                    p.grad = g
            targets = soft_w.detach().clone(), soft_d.detach().clone(), [f.detach().clone() for f in taps_w]
            for opt in (opt_D, opt_w, opt_d):
                opt.step()
            t.log(d_loss=d_loss, g_wide=g_wide, g_deep=g_deep)
        else:
            targets = soft_w.detach(), soft_d.detach(), [f.detach() for f in taps_w]
        likeness = sum(10 * (1 - omgd_ssim(fake, f)) for f in targets[:2])
        tv = 2 * 1e-5 * ((fake[..., 1:] - fake[..., :-1]).abs().sum() + (fake[..., 1:, :] - fake[..., :-1, :]).abs().sum())
        cd = 50 * sum(((F.relu(c(f)).mean((2, 3)) - g.mean((2, 3))) ** 2).mean() for c, f, g in zip(C, taps, targets[2]))
        update(opt_s, likeness + tv + cd)
        t.log(kd=likeness + tv + cd, likeness=likeness, style=0, feature=0, tv=tv, cd=cd)


training("pix2pix_omgd", pix2pix_omgd, recipe="models/recipes/pix2pix_omgd.kd", session="pix2pix_omgd", steps=3, scale=0.25,
         defines=dict(size=32, batch=4, ngf=2, teacher_ngf=3, deep_ngf=1, ndf=4, n_share=3, n_dis=2, vgg=False),
         inputs=dict(x=Image(4, 3, 32, 32), y=Image(4, 3, 32, 32)))


class Mask(nn.Module):
    def __init__(self, c, threshold):
        super().__init__()
        self.alpha, self.threshold = nn.Parameter(torch.ones(c)), threshold

    def forward(self, x):
        m = (torch.sign(self.alpha - self.threshold) + 1) / 2
        return x * (self.alpha + (m - self.alpha).detach())[None, :, None, None]


class MaskedPatchGan(nn.Module):
    def __init__(self, d, threshold, cin=6):
        super().__init__()
        w = [d, 2 * d, 4 * d, 8 * d]
        for i, (a, b) in enumerate(zip([cin] + w, w + [1])):
            setattr(self, "conv%d" % i, nn.Conv2d(a, b, 4, 2 if i < 3 else 1, 1, bias=i in (0, 4)))
            if 0 < i < 4:
                setattr(self, "norm%d" % i, nn.BatchNorm2d(b))
            if i < 4:
                setattr(self, "mask%d" % i, Mask(b, threshold))
        of = lambda kind: [m for n, m in self.named_children() if n.startswith(kind)]
        self.parts = of("conv"), of("norm"), of("mask")

    def forward(self, x):
        conv, norm, mask = self.parts
        x = mask[0](F.leaky_relu(conv[0](x), 0.2))
        for i in (1, 2, 3):
            x = F.leaky_relu(mask[i](norm[i - 1](conv[i](x))), 0.2)
        return conv[4](x)


def judge_features(D, x):
    """The score map of the unmasked PatchGAN, and its features behind convolutions 1 and 3."""
    h = F.leaky_relu(D.conv0(x), 0.2)
    one = F.leaky_relu(D.norm1(D.conv1(h)), 0.2)
    h = F.leaky_relu(D.norm2(D.conv2(one)), 0.2)
    three = F.leaky_relu(D.norm3(D.conv3(h)), 0.2)
    return D.conv4(three), [contiguous_gradient(one), contiguous_gradient(three)]


def gcc_gap(d):
    return (generator_hinge(d) - hinge(d, False)).abs()


def pix2pix_gcc(t):
    channels = [2, 8, 16, 4]
    A = nn.ModuleList([nn.Conv2d(t.ngf * c, t.teacher_ngf * c, 1, bias=False) for c in channels])
    T, D_T, S, D, A = t.nets(teacher=unet(t.teacher_ngf, 5), D_T=PatchGan(t.ndf, 6, "batch"), S=unet(t.ngf, 5), D=MaskedPatchGan(t.ndf, t.threshold), A=A)
    opt_t, opt_dt, opt_s = adam(parameters([T])), adam(parameters([D_T])), adam(parameters([S, A]))
    conv, norm, mask = D.parts
    opt_d, opt_arch = adam(parameters(conv + norm)), adam(parameters(mask), 1e-4, 0.9)
    gram = lambda f: f.flatten(2) @ f.flatten(2).transpose(1, 2) / (f.shape[1] * f.shape[2] * f.shape[3])
    apart = lambda a, b: torch.sqrt(((a - b) ** 2).mean() + 1e-12)
    balance = None
    for x, y in t.steps():
        (x1, x2), (y1, y2) = x.split(1), y.split(1)
        judge = lambda D, fake: 0.5 * (hinge(D(torch.cat([x1, fake.detach()], 1)), False) + hinge(D(torch.cat([x1, y1], 1)), True))
        soft, target = forward_unet(T, x1)
        d_teacher = judge(D_T, soft)
        update(opt_dt, d_teacher)
        score, target_seen = judge_features(D_T, torch.cat([x1, soft], 1))
        g_teacher = generator_hinge(score) + 100 * l1(soft, y1)
        target = [f.detach().clone() for f in target + target_seen]
        update(opt_t, g_teacher)

        fake, own = forward_unet(S, x1)
        d_loss = judge(D, fake)
        update(opt_d, d_loss)
        adv, rec = generator_hinge(D(torch.cat([x1, fake], 1))), 100 * l1(fake, y1)
        own = [a(f) for a, f in zip(A, own)] + judge_features(D_T, torch.cat([x1, fake], 1))[1]
        content = t.lambda_content * sum(apart(f, g) for f, g in zip(own, target))
        style = t.lambda_gram * sum(apart(gram(f), gram(g)) for f, g in zip(own, target))
        update(opt_s, adv + rec + content + style)

        soft2, fake2 = forward_unet(T, x2)[0].detach(), forward_unet(S, x2)[0].detach()
        gap, beta = gcc_gap(D_T(torch.cat([x2, soft2], 1))).detach(), 1 - (t.epoch - 1) / 250
        balance = gap if balance is None else beta * gap + (1 - beta) * balance
        real, judged = D(torch.cat([x2, y2], 1)), D(torch.cat([x2, fake2], 1))
        arch = (gcc_gap(judged) - balance).abs() + 0.5 * (hinge(real, True) + hinge(judged, False))
        update(opt_arch, arch)
        for m in mask:  # the released code does this before the next step; from 1 on it is the same, masks change in between by no cut
            m.alpha.data.clamp_(0, 1)
        on = torch.cat([m.alpha.detach() > t.threshold for m in mask]).to(x.dtype).mean()
        t.log(d_teacher=d_teacher, g_teacher=g_teacher, d_loss=d_loss, adv=adv, rec=rec, content=content, style=style, arch=arch, channels=on)


# threshold 0.03: the weights of a golden run are such that a third of the masks are off
training("pix2pix_gcc", pix2pix_gcc, recipe="models/recipes/pix2pix_gcc.kd", session="pix2pix_gcc", steps=3, epochs=[1, 1, 2],
         defines=dict(size=32, batch=1, ngf=2, teacher_ngf=3, ndf=4, dropout=0, threshold=0.03, lambda_content=5.0, lambda_gram=10.0),
         inputs=dict(x=Image(2, 3, 32, 32), y=Image(2, 3, 32, 32)))


def forward_resnet(net, x):
    """The image, and the features behind the last down convolution and each block."""
    h = F.relu(F.instance_norm(net.stem(F.pad(x, (3, 3, 3, 3), mode="reflect"))))
    for m in net.down:
        h = F.relu(F.instance_norm(m(h)))
    taps = [contiguous_gradient(h)]
    for m in net.blocks:
        h = m(h)
        taps.append(contiguous_gradient(h))
    for m in net.up:
        h = F.relu(F.instance_norm(m(h)))
    return torch.tanh(net.head(F.pad(h, (3, 3, 3, 3), mode="reflect"))), taps


def ugc_pix2pix(t):
    """UGC's second stage: OMGD with labels for the first half of the batch and a filter over the second one."""
    pair = lambda c: nn.Sequential(nn.Conv2d(t.ngf * 4, t.teacher_ngf * 4, 1, bias=False), nn.BatchNorm2d(t.teacher_ngf * 4))
    S, wide, deep, D, C = t.nets(S=ResnetGen(t.ngf, 3), wide=ResnetGen(t.teacher_ngf, 3), deep=ResnetGen(t.deep_ngf, 3), D=SharedPatchGan(t.ndf),
                                 C=nn.ModuleList([pair(i) for i in range(4)]))
    opt_w, opt_d, opt_D, opt_s = adam(parameters([wide])), adam(parameters([deep])), adam(parameters([D])), adam(parameters([S, C]))
    level, seen, n = [0, 0], 0, t.batch
    for x, y, u in t.steps():
        every = torch.cat([x, u])
        (soft_w, taps_w), (soft_d, _), (fake, taps) = [forward_resnet(net, every) for net in (wide, deep, S)]
        look = lambda a, image, head: D(torch.cat([a, image], 1), head)
        keep = []
        for k, f in enumerate((soft_w, soft_d)):
            score = look(every, f, k).detach().mean((1, 2, 3))
            rate = max(1 - t.momentum, 1 / (seen + 1))
            level[k] = level[k] + rate * (score[:n].mean() - level[k])
            keep.append(torch.cat([torch.ones(n, dtype=x.dtype), (score[n:] >= level[k]).to(x.dtype)])[:, None, None, None])
        seen += 1
        targets = soft_w.detach().clone(), soft_d.detach().clone(), [f.detach().clone() for f in taps_w]
        if t.step % t.n_dis == 0:
            d_loss = sum(0.5 * (hinge(look(x, f[:n].detach(), k), False) + hinge(look(x, y, k), True)) for k, f in enumerate((soft_w, soft_d)))
            g = [generator_hinge(look(x, f[:n], k)) + 100 * l1(f[:n], y) for k, f in enumerate((soft_w, soft_d))]
            both = ((d_loss, D, opt_D), (g[0], wide, opt_w), (g[1], deep, opt_d))
            for loss, net, opt in both:
                opt.zero_grad()
                loss.backward(inputs=parameters([net]), retain_graph=True)
            for _, _, opt in both:
                opt.step()
            t.log(d_loss=d_loss, g_loss=g[0] + g[1])
        chosen = [fake * m + f * (1 - m) for m, f in zip(keep, targets)]
        likeness = sum(10 * (1 - omgd_ssim(c, f)) for c, f in zip(chosen, targets))
        tv = sum(1e-5 * ((c[..., 1:] - c[..., :-1]).abs().sum() + (c[..., 1:, :] - c[..., :-1, :]).abs().sum()) for c in chosen)
        cd = 50 * sum(((keep[0][:, :, 0, 0] * (F.relu(c(f)).mean((2, 3)) - g.mean((2, 3)))) ** 2).mean() for c, f, g in zip(C, taps, targets[2]))
        update(opt_s, likeness + tv + cd)
        t.log(kd=likeness + tv + cd, likeness=likeness, style=0, feature=0, tv=tv, cd=cd, used=(keep[0][n:].mean() + keep[1][n:].mean()) / 2)


training("ugc_pix2pix", ugc_pix2pix, recipe="models/recipes/ugc_pix2pix.kd", session="ugc_pix2pix", steps=3, scale=0.06,
         defines=dict(size=32, batch=2, batch_u=2, model="resnet", n_blocks=3, ngf=2, teacher_ngf=4, deep_ngf=3, ndf=4, norm="batch", n_share=3, n_dis=2,
                      momentum=0.6, vgg=False),
         inputs=dict(x=Image(2, 3, 32, 32), y=Image(2, 3, 32, 32), unlabelled=Image(2, 3, 32, 32)))


def cyclegan_gcc(t):
    """G before D on either side; pools that are not full give back what they get."""
    adaptors = lambda: nn.ModuleList([nn.Conv2d(4 * t.ngf, 4 * t.teacher_ngf, 1, bias=False) for _ in range(4)])
    G = lambda n: ResnetGen(n, t.n_blocks)
    masked = lambda: MaskedPatchGan(t.ndf, t.threshold, 3)
    T, DT = [None] * 2, [None] * 2
    T[0], T[1], DT[0], DT[1], S_A, S_B, D_A, D_B, A_A, A_B = t.nets(
        T_A=G(t.teacher_ngf), T_B=G(t.teacher_ngf), DT_A=PatchGan(t.ndf), DT_B=PatchGan(t.ndf), S_A=G(t.ngf), S_B=G(t.ngf),
        D_A=masked(), D_B=masked(), A_A=adaptors(), A_B=adaptors())
    S, D, A = (S_A, S_B), (D_A, D_B), (A_A, A_B)
    opt_t, opt_dt, opt_s = adam(parameters(T)), adam(parameters(DT)), adam(parameters(S + A))
    opt_d = adam(parameters([m for d in D for part in d.parts[:2] for m in part]))
    masks = [m for d in D for m in d.parts[2]]
    opt_arch = adam(parameters(masks), 1e-4, 0.9)
    gram = lambda f: f.flatten(2) @ f.flatten(2).transpose(1, 2) / (f.shape[1] * f.shape[2] * f.shape[3])
    apart = lambda a, b: ((a - b) ** 2).mean()
    gap = lambda d: (lsgan(d, True) - lsgan(d, False)).abs()
    balance = [None, None]
    for a, b in t.steps():
        (a1, a2), (b1, b2) = a.split(1), b.split(1)
        x1, y1, x2, y2 = (a1, b1), (b1, a1), (a2, b2), (b2, a2)  # by direction

        def terms(G, D, fakes):
            adv = sum(lsgan(D[k](fakes[k]), True) for k in (0, 1))
            cycle = 10 * sum(l1(G[1 - k](fakes[k]), x1[k]) for k in (0, 1))
            return adv, cycle, 5 * sum(l1(G[k](y1[k]), y1[k]) for k in (0, 1))

        def judge(k, D, fakes):
            return 0.5 * (lsgan(D[k](y1[k]), True) + lsgan(D[k](fakes[k].detach()), False))

        soft, target = zip(*[forward_resnet(T[k], x1[k]) for k in (0, 1)])
        g_teacher = sum(terms(T, DT, soft))
        target = [[f.detach().clone() for f in fs] for fs in target]
        update(opt_t, g_teacher)
        d_teacher = judge(0, DT, soft) + judge(1, DT, soft)
        update(opt_dt, d_teacher)

        fake, own = zip(*[forward_resnet(S[k], x1[k]) for k in (0, 1)])
        adv, cycle, identity = terms(S, D, fake)
        content = style = 0
        for k in (0, 1):
            mine = [f(g) for f, g in zip(A[k], own[k])] + judge_features(DT[k], fake[k])[1]
            theirs = target[k] + [f.detach() for f in judge_features(DT[k], soft[k].detach())[1]]
            content = content + t.lambda_content * sum(apart(f, g) for f, g in zip(mine, theirs))
            style = style + t.lambda_gram * sum(apart(gram(f), gram(g)) for f, g in zip(mine, theirs))
        update(opt_s, adv + cycle + identity + content + style)
        d_a, d_b = judge(0, D, fake), judge(1, D, fake)
        update(opt_d, d_a + d_b)

        arch = 0
        for k in (0, 1):
            m, beta = gap(DT[k](T[k](x2[k]))).detach(), 1 - (t.epoch - 1) / 200
            balance[k] = m if balance[k] is None else beta * m + (1 - beta) * balance[k]
            real, judged = D[k](y2[k]), D[k](S[k](x2[k]).detach())
            arch = arch + (gap(judged) - balance[k]).abs() + 0.5 * (lsgan(real, True) + lsgan(judged, False))
        update(opt_arch, arch)
        for m in masks:
            m.alpha.data.clamp_(0, 1)
        on = torch.cat([m.alpha.detach() > t.threshold for m in masks]).to(a.dtype).mean()
        t.log(g_teacher=g_teacher, d_teacher=d_teacher, adv=adv, cycle=cycle, identity=identity, content=content, style=style, d_a=d_a,
              d_b=d_b, arch=arch, channels=on)


training("cyclegan_gcc", cyclegan_gcc, recipe="models/recipes/cyclegan_gcc.kd", session="cyclegan_gcc", steps=3, epochs=[1, 1, 2], scale=0.1, slow=True,
         defines=dict(size=32, model="resnet", n_blocks=3, ngf=2, teacher_ngf=3, ndf=4, threshold=0.03, lambda_content=1.0, lambda_gram=10.0),
         inputs=dict(a=Image(2, 3, 32, 32), b=Image(2, 3, 32, 32)))
