"""ACKD for pairs (methods C.15, a reconstruction): a frozen ResNet, hinge; D and student at the same weights. And its self-distillation, where
what gathers the knowledge learns from the truth, through the rest of the student."""


class Gather(nn.Module):
    """One stage: known so far, ACK-A, ACK-F, in the order in which the recipe creates their weights."""

    def __init__(self, c, before):
        super().__init__()
        d = max(c // 4, 1)
        self.gather = nn.Conv2d(c * before, c, 1)
        self.query, self.key, self.value = nn.Conv2d(c, d, 1), nn.Conv2d(c, d, 1, bias=False), nn.Conv2d(c, d, 1)
        self.conv1, self.conv2 = nn.Conv2d(c + d, c, 3, padding=1, bias=False), nn.Conv2d(c, c, 3, padding=1)

    def forward(self, deep, known):
        u = self.gather(torch.cat(known, 1))
        q, k, v = [f.flatten(2).transpose(1, 2) for f in (self.query(deep), self.key(u), self.value(u))]
        z = torch.softmax(q @ k.transpose(1, 2) / q.shape[2] ** 0.5, 2) @ v
        z = z.transpose(1, 2).reshape(len(deep), -1, *deep.shape[2:])
        return deep + self.conv2(F.relu(F.instance_norm(contiguous_gradient(self.conv1(torch.cat([deep, z], 1))))))


class Ackd(nn.Module):
    def __init__(self, cs, c, stages):
        super().__init__()
        self.stage = nn.ModuleList([Gather(c, i) for i in range(1, stages)])
        self.adapt = nn.ModuleList([nn.Conv2d(cs, c, 1) for _ in range(stages)])

    def forward(self, student, teacher, constant):
        known = [teacher[0].detach()]
        for i, stage in enumerate(self.stage):
            known.append(stage(teacher[i + 1].detach(), known[:]))
        loss = sum(F.mse_loss(a(s), k.detach() if constant else k) for a, s, k in zip(self.adapt, student, known))
        return loss, known[-1]


def stages(g, x):
    """The features 9, 10, 11, 12 of two or more blocks' ResnetGen, and its image."""
    h = F.relu(F.instance_norm(contiguous_gradient(g.stem(F.pad(x, (3, 3, 3, 3), mode="reflect")))))
    for m in g.down:
        h = F.relu(F.instance_norm(contiguous_gradient(m(h))))
    out = [h]
    for m in g.blocks:
        h = m(h)
        out.append(h)
    return out, rest(g, h)


def rest(g, h):
    for m in g.up:
        h = F.relu(F.instance_norm(contiguous_gradient(m(h))))
    return torch.tanh(g.head(F.pad(h, (3, 3, 3, 3), mode="reflect")))


def ackd(t):
    if not t.self:
        T, = t.nets(frozen=True, T=ResnetGen(t.teacher_ngf, t.n_blocks))
    S, D = t.nets(S=ResnetGen(t.ngf, t.n_blocks), D=PatchGan(t.ndf, 6))
    K, = t.nets(K=Ackd(4 * t.ngf, 4 * (t.ngf if t.self else t.teacher_ngf), t.n_blocks + 1))
    opt_d, opt_s = adam(parameters([D])), adam(parameters([S, K]))
    for x, y in t.steps():
        own, fake = stages(S, x)
        other = own if t.self else stages(T, x)[0]
        d_loss = 0.5 * (hinge(D(torch.cat([x, fake.detach()], 1)), False) + hinge(D(torch.cat([x, y], 1)), True))
        adv, rec = -D(torch.cat([x, fake], 1)).mean(), 100 * l1(fake, y)
        kd, last = K(own, other, t.self)
        taught = 100 * l1(rest(S, last), y) if t.self else 0
        opt_s.zero_grad()
        (adv + rec + kd + taught).backward()
        update(opt_d, d_loss)             # which does not depend on the student; its gradients in D from above are cleared
        opt_s.step()
        t.log(d_loss=d_loss, adv=adv, rec=rec, kd=kd, **(dict(taught=taught) if t.self else {}))


for name, self in (("pix2pix_ackd", False), ("pix2pix_ackd_self", True)):
    training(name, ackd, recipe="models/recipes/pix2pix_ackd.kd", session="pix2pix_ackd", steps=3, scale=0.15 if self else 0.06,
             defines=dict(size=32, model="resnet", ngf=4, teacher_ngf=6, ndf=4, n_blocks=3, taps="[9,10,11,12]", self=self),
             inputs=dict(x=Image(1, 3, 32, 32), y=Image(1, 3, 32, 32)))
