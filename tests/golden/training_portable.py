"""Portable GAN (methods C.14, Algorithm 1), pairs and CycleGAN: all passes at the old weights, then the student and its discriminator."""


def seen(d, x):
    """A discriminator's scores, and what it is without its last layer."""
    h = F.leaky_relu(d.conv0(x), 0.2)
    for conv, norm in ((d.conv1, d.norm1), (d.conv2, d.norm2), (d.conv3, d.norm3)):
        h = F.leaky_relu(contiguous_gradient(norm(contiguous_gradient(conv(h)))), 0.2)
    return d.conv4(h), h


def triplet(anchor, positive, negative, margin):
    near, far = [(anchor - v).abs().flatten(1).mean(1) for v in (positive, negative)]
    return F.relu(near - far + margin).mean()


def portable_pix2pix(t):
    T, D_T = t.nets(frozen=True, T=unet(t.teacher_ngf, t.depth), D_T=PatchGan(t.ndf, 6, "batch"))
    S, D = t.nets(S=unet(t.ngf, t.depth), D=PatchGan(t.ndf, 6, "batch"))
    both = [(adam(parameters([m])), parameters([m])) for m in (S, D)]
    for x, y in t.steps():
        with torch.no_grad():
            soft = T(x, [])
        fake = S(x, [])
        score_y, seen_y = seen(D, torch.cat([x, y], 1))
        score_soft, seen_soft = seen(D, torch.cat([x, soft], 1))
        score_fake, seen_fake = seen(D, torch.cat([x, fake], 1))
        adv, rec, image = bce(score_fake, True), t.lam * l1(fake, y), t.beta_1 * l1(fake, soft)
        perc = t.gamma_1 * l1(seen(D_T, torch.cat([x, fake], 1))[1], seen(D_T, torch.cat([x, soft], 1))[1])
        d_loss = 0.5 * (bce(score_fake, False) + bce(score_y, True))
        gt, tri = t.beta_2 * bce(score_soft, True), t.gamma_2 * triplet(seen_y, seen_soft, seen_fake, t.margin)
        grads = [torch.autograd.grad(loss, ps, retain_graph=True) for loss, (_, ps) in zip((adv + rec + image + perc, d_loss + gt + tri), both)]
        for (opt, ps), gs in zip(both, grads):
            for p, g in zip(ps, gs):
                p.grad = g
            opt.step()
        t.log(adv=adv, rec=rec, l1=image, perc=perc, d_loss=d_loss, gt=gt, tri=tri)


def portable_cyclegan(t):
    """The pool is not full within these steps, so it returns its input."""
    D_T_A, D_T_B, T_A, T_B = t.nets(frozen=True, D_T_A=PatchGan(t.ndf), D_T_B=PatchGan(t.ndf), T_A=ResnetGen(t.teacher_ngf, t.n_blocks),
                                    T_B=ResnetGen(t.teacher_ngf, t.n_blocks))
    S_A, S_B, D_A, D_B = t.nets(S_A=ResnetGen(t.ngf, t.n_blocks), S_B=ResnetGen(t.ngf, t.n_blocks), D_A=PatchGan(t.ndf), D_B=PatchGan(t.ndf))
    opt_s, opt_d = adam(parameters([S_A, S_B])), adam(parameters([D_A, D_B]))
    for a, b in t.steps():
        with torch.no_grad():
            soft_b, soft_a = T_A(a), T_B(b)
        fake_b, fake_a = S_A(a), S_B(b)
        adv = lsgan(D_A(fake_b), True) + lsgan(D_B(fake_a), True)
        cycle = 10 * (l1(S_B(fake_b), a) + l1(S_A(fake_a), b))
        identity = 5 * (l1(S_B(a), a) + l1(S_A(b), b))
        image = t.beta_1 * (l1(fake_b, soft_b) + l1(fake_a, soft_a))
        perc = t.gamma_1 * sum(l1(seen(d, f)[1], seen(d, s)[1]) for d, f, s in ((D_T_A, fake_b, soft_b), (D_T_B, fake_a, soft_a)))
        update(opt_s, adv + cycle + identity + image + perc)
        d, gt, tri = [], 0, 0
        for D, real, soft, fake in ((D_A, b, soft_b, fake_b.detach()), (D_B, a, soft_a, fake_a.detach())):
            d.append(0.5 * (lsgan(D(real), True) + lsgan(D(fake), False)))
            gt = gt + t.beta_2 * lsgan(D(soft), True)
            tri = tri + t.gamma_2 * triplet(*[seen(D, v)[1] for v in (real, soft, fake)], t.margin)
        update(opt_d, d[0] + d[1] + gt + tri)
        t.log(adv=adv, cycle=cycle, identity=identity, l1=image, perc=perc, d_a=d[0], d_b=d[1], gt=gt, tri=tri)


training("pix2pix_portable", portable_pix2pix, recipe="models/recipes/pix2pix_portable.kd", session="pix2pix_portable", steps=3,
         defines=dict(size=32, batch=2, depth=4, ngf=4, teacher_ngf=6, ndf=4, dropout=0, beta_1=20.0, gamma_1=2000.0, beta_2=0.7, gamma_2=0.4, margin=0.3,
                      **{"lambda": 1.0}), extra=dict(lam=1.0),
         inputs=dict(x=Image(2, 3, 32, 32), y=Image(2, 3, 32, 32)))
training("cyclegan_portable", portable_cyclegan, recipe="models/recipes/cyclegan_portable.kd", session="cyclegan_portable", steps=3, scale=0.035,
         defines=dict(size=32, ngf=4, teacher_ngf=6, ndf=8, n_blocks=2, beta_1=8.0, gamma_1=2.0, beta_2=0.7, gamma_2=0.4, margin=0.4),
         inputs=dict(a=Image(1, 3, 32, 32), b=Image(1, 3, 32, 32)))
