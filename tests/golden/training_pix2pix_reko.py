"""Pix2Pix with ReKo (methods A.2.2 with C.13, released form): the teacher in inference mode; D then G; no dropout."""


def reko(fs, ft, k, tau):
    """The released code of methods C.13 for one image: fs, ft [c, positions]; ft is detached."""
    at = torch.sort(ft.abs().mean(0), descending=True)[1][:k]
    q, key = fs[:, at].t(), ft[:, at].t()
    q, key = [f / (f.norm(dim=1, keepdim=True) + 1e-7) for f in (q, key)]
    positive, negative = (q * key).sum(1, keepdim=True), q @ key.t()
    negative = negative.masked_fill(torch.eye(k, dtype=torch.bool), -10.0)
    logits = torch.cat([positive, negative], 1) / tau
    return F.cross_entropy(logits, torch.zeros(k, dtype=torch.long))


def pix2pix_reko(t):
    widths = [n * min(2 ** t.level, 8) for n in (t.ngf, t.teacher_ngf)]
    T, = t.nets(frozen=True, T=unet(t.teacher_ngf, t.depth))
    S, D, K = t.nets(S=unet(t.ngf, t.depth), D=PatchGan(t.ndf, 6, "batch"), K=nn.Conv2d(*widths, 1))
    opt_s, opt_d = adam(parameters([S, K])), adam(parameters([D]))
    for x, y in t.steps():
        down, soft = [], []
        fake = S(x, down)
        with torch.no_grad():
            T(x, soft)
        d_loss = 0.5 * (bce(D(torch.cat([x, fake.detach()], 1)), False) + bce(D(torch.cat([x, y], 1)), True))
        update(opt_d, d_loss)
        adv, rec = bce(D(torch.cat([x, fake], 1)), True), 100 * l1(fake, y)
        kd = reko(K(contiguous_gradient(down[t.level]))[0].flatten(1), soft[t.level][0].flatten(1), t.k, 0.07)
        update(opt_s, adv + rec + kd)
        t.log(d_loss=d_loss, adv=adv, rec=rec, kd=kd)


training("pix2pix_reko", pix2pix_reko, recipe="models/recipes/pix2pix_reko.kd", session="pix2pix_reko", steps=5,
         defines=dict(size=32, depth=5, ngf=4, teacher_ngf=6, ndf=8, k=8, proj="conv", dropout=0), extra=dict(level=2),
         inputs=dict(x=Image(1, 3, 32, 32), y=Image(1, 3, 32, 32)))
