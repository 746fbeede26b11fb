"""ReKo, PatchNCE, Portable GAN and ACKD (methods C.13 - C.15); make_ops.py reads this."""

IMPORTS = ["losses/reko.kd", "losses/patchnce.kd", "losses/portable.kd", "losses/ackd.kd", "nets/patchgan.kd"]


def rows(f):
    return f.flatten(2).transpose(1, 2)


def unit(v):
    return v / (v.norm(dim=-1, keepdim=True) + 1e-7)


def chosen(by, k, largest=True):
    """[batch, k]: positions by the mean absolute value over channels."""
    return torch.sort(by.detach().abs().mean(1).flatten(1), dim=1, descending=largest)[1][:, :k]


def take(r, at):
    return torch.stack([a[i] for a, i in zip(r, at)])


def contrast(q, key, tau=0.07):
    """The released code for rows [batch, k, c]: own key first, the diagonal of the others at -10."""
    b, k = q.shape[:2]
    negative = torch.bmm(q, key.transpose(1, 2)).masked_fill(torch.eye(k, dtype=torch.bool), -10.0)
    logits = torch.cat([(q * key).sum(2, keepdim=True), negative], 2).reshape(b * k, -1) / tau
    return F.cross_entropy(logits, torch.zeros(b * k, dtype=torch.long))


def released(s, t, at, mlp=lambda v: v, tau=0.07):
    return contrast(unit(take(rows(s), at)), unit(mlp(take(rows(t), at))), tau)


def paper(s, t, at, tau, mlp=lambda v: v):
    q, every = take(rows(s), at), mlp(rows(t))
    own = (q * take(every, at)).sum(2)
    return (torch.logsumexp(torch.bmm(q, every.transpose(1, 2)) / tau, 2) - own / tau).sum() / len(s)


def two_layers(w1, b1, w2, b2):
    return lambda v: F.linear(F.relu(F.linear(v, w1, b1)), w2, b2)


RANDOM = {"rng_seed": "rng_seed", "rng_step": "rng_step"}


def draw():
    return dict(rng_seed=I(hi=100), rng_step=I(hi=100))


def mlp_inputs(name, cin, width, cout=None):
    """Inputs and paths of the MLP that the .kd side calls `name`."""
    values = {"%s1" % name: R(width, cin), "%s1b" % name: R(width), "%s2" % name: R(cout or width, width), "%s2b" % name: R(cout or width)}
    paths = dict(zip(values, ["%s.%s" % (name, p) for p in ("first.weight", "first.bias", "second.weight", "second.bias")]))
    return values, paths


# ---- ReKo ----

for n in (1, 4):
    case("reko_released_batch%d" % n, "reko(s, t, k = 5)", lambda s, t: released(s, t, chosen(t, 5)), s=R(n, 4, 3, 4), t=R(n, 4, 3, 4), constants=("t",))
    case("reko_paper_batch%d" % n, "reko(s, t, k = 5, tau = 0.5, form = \"paper\")", lambda s, t: paper(s, t, chosen(t, 5), 0.5),
         s=R(n, 4, 3, 4), t=R(n, 4, 3, 4), constants=("t",))
case("reko_smallest", "reko(s, t, k = 5, select = \"smallest\")", lambda s, t: released(s, t, chosen(t, 5, False)),
     s=R(2, 4, 3, 4), t=R(2, 4, 3, 4), constants=("t",))
case("reko_all", "reko(s, t, select = \"all\")", lambda s, t: contrast(unit(rows(s)), unit(rows(t))),
     s=R(2, 4, 3, 4), t=R(2, 4, 3, 4), constants=("t",))
case("reko_random_of_all", "reko(s, t, k = 12, select = \"random\")", lambda s, t, **_: contrast(unit(rows(s)), unit(rows(t))),
     weights=RANDOM, s=R(2, 4, 3, 4), t=R(2, 4, 3, 4), constants=("t",), **draw())
case("reko_by_student", "reko(s, t, k = 5, by = s)", lambda s, t: released(s, t, chosen(s, 5)), s=R(2, 4, 3, 4), t=R(2, 4, 3, 4), constants=("t",))
case("reko_by_a_coarse_map", "reko(s, t, k = 5, by = m)",
     lambda s, t, m: released(s, t, chosen(F.interpolate(m.abs().mean(1, keepdim=True), size=(6, 5), mode="bilinear", align_corners=False), 5)),
     s=R(1, 4, 6, 5), t=R(1, 4, 6, 5), m=R(1, 3, 3, 4), constants=("t", "m"))
m, p = mlp_inputs("P", 6, 4)
case("reko_trained_mlp", "reko(s, t, k = 5, project = P)",
     lambda s, t, P1, P1b, P2, P2b: released(s, t, chosen(t, 5), two_layers(P1, P1b, P2, P2b)),
     consts="let P = RekoProjection[4]", weights=p, s=R(2, 4, 3, 4), t=R(2, 6, 3, 4), constants=("t",), **m)
m, p = mlp_inputs("P", 6, 4)
case("reko_frozen_mlp", "reko(s, t, k = 5, project = P)",
     lambda s, t, P1, P1b, P2, P2b: released(s, t, chosen(t, 5), two_layers(P1, P1b, P2, P2b)),
     consts="let P = frozen RekoProjection[4]", weights=p, s=R(2, 4, 3, 4), t=R(2, 6, 3, 4), constants=("t",), frozen=tuple(m), **m)
m, p = mlp_inputs("P", 6, 4)
case("reko_paper_frozen_mlp", "reko(s, t, k = 5, tau = 0.5, form = \"paper\", project = P)",
     lambda s, t, P1, P1b, P2, P2b: paper(s, t, chosen(t, 5), 0.5, two_layers(P1, P1b, P2, P2b)),
     consts="let P = frozen RekoProjection[4]", weights=p, s=R(2, 4, 3, 4), t=R(2, 6, 3, 4), constants=("t",), frozen=tuple(m), **m)
case("reko_two_taps", "K([s, u], [t, v])",
     lambda s, t, u, v: (released(s, t, chosen(t, 5)) + released(u, v, chosen(v, 5))) / 2,
     consts="let K = Reko[k = 5, proj = \"none\"]", s=R(1, 4, 3, 4), t=R(1, 4, 3, 4), u=R(1, 3, 4, 4), v=R(1, 3, 4, 4), constants=("t", "v"))
case("reko_conv_by_student", "K([s], [t])",
     lambda s, t, w, b: released(F.conv2d(s, w, b), t, chosen(s, 5)), weights={"w": "K.widen[0].weight", "b": "K.widen[0].bias"},
     consts="let K = Reko[k = 5, proj = \"conv\", attention = \"student\"]", s=R(2, 3, 3, 4), t=R(2, 4, 3, 4), w=R(4, 3, 1, 1), b=R(4), constants=("t",))
case("reko_regions_largest", "reko_regions(s, t, k = 5)", lambda s, t: F.mse_loss(take(rows(s), chosen(t, 5)), take(rows(t), chosen(t, 5))),
     s=R(2, 4, 3, 4), t=R(2, 4, 3, 4), constants=("t",))

# ---- PatchNCE: with as many patches as positions the draw does not matter ----

m, p = mlp_inputs("P", 4, 7)
o, q = mlp_inputs("Q", 6, 7)
case("patch_nce_two_mlps", "patch_nce(s, t, P, Q, patches = 12)",
     lambda s, t, P1, P1b, P2, P2b, Q1, Q1b, Q2, Q2b, **_:
     contrast(unit(two_layers(P1, P1b, P2, P2b)(rows(s))), unit(two_layers(Q1, Q1b, Q2, Q2b)(rows(t)))),
     consts="let P = PatchMlp[width = 7]\nlet Q = PatchMlp[width = 7]", weights={**p, **q, **RANDOM}, s=R(2, 4, 3, 4), t=R(2, 6, 3, 4), constants=("t",), **m, **o, **draw())
m, p = mlp_inputs("P", 4, 7)
case("patch_nce_one_mlp", "patch_nce(s, t, P, patches = 12)",
     lambda s, t, P1, P1b, P2, P2b, **_: contrast(unit(two_layers(P1, P1b, P2, P2b)(rows(s))), unit(two_layers(P1, P1b, P2, P2b)(rows(t)))),
     consts="let P = frozen PatchMlp[width = 7]", weights={**p, **RANDOM}, s=R(2, 4, 3, 4), t=R(2, 4, 3, 4), constants=("t",), frozen=tuple(m), **m, **draw())
# the keys of the one MLP are constants: twice the loss less the loss with a frozen copy for them has the latter's gradient
m, p = mlp_inputs("P", 4, 7)
q = {k.replace("P", "Q"): v.replace("P", "Q") for k, v in p.items()}
case("patch_nce_one_mlp_detached", "2 * patch_nce(s, t, P, patches = 12) - patch_nce(s, t, P, Q, patches = 12)",
     lambda s, t, P1, P1b, P2, P2b, Q1, Q1b, Q2, Q2b, **_:
     contrast(unit(two_layers(P1, P1b, P2, P2b)(rows(s))), unit(two_layers(Q1, Q1b, Q2, Q2b)(rows(t)))),
     consts="let P = PatchMlp[width = 7]\nlet Q = frozen PatchMlp[width = 7]", weights={**p, **q, **RANDOM},
     s=R(2, 4, 3, 4), t=R(2, 4, 3, 4), constants=("t",), **m, **{k.replace("P", "Q"): v for k, v in m.items()}, frozen=tuple(q), **draw())

# ---- Portable GAN ----


def seen():
    """D^, the truncated PatchGan[ndf = 2, norm = "instance", n_layers = 1] of weights w0, b0, w1, b1; the last layer's are not looked at."""
    def fn(x, w0, b0, w1, b1, **_):
        h = F.leaky_relu(F.conv2d(x, w0, b0, stride=2, padding=1), 0.2)
        return [h, F.leaky_relu(F.instance_norm(F.conv2d(h, w1, b1, padding=1)), 0.2)]
    return fn


D_HAT = seen()


def d_inputs():
    return dict(w0=R(2, 3, 4, 4), b0=R(2), w1=R(4, 2, 4, 4), b1=R(4), w2=R(1, 4, 4, 4), b2=R(1))


D_PATHS = {"w0": "D.conv[0].weight", "b0": "D.conv[0].bias", "w1": "D.conv[1].weight", "b1": "D.conv[1].bias",
           "w2": "D.conv[2].weight", "b2": "D.conv[2].bias"}
D_OF = "let D = PatchGan[ndf = 2, n_layers = 1]"

case("portable_pictures", "portable_l1(s, t)", lambda s, t: F.l1_loss(s, t), s=R(2, 3, 4, 5), t=R(2, 3, 4, 5), constants=("t",))
case("portable_pictures_squared", "portable_l1(s, t, squared = true)", lambda s, t: F.mse_loss(s, t), s=R(2, 3, 4, 5), t=R(2, 3, 4, 5), constants=("t",))
for n in (1, 4):
    case("portable_perceptual_batch%d" % n, "portable_perceptual(D(s), D(t))",
         lambda s, t, **w: F.l1_loss(D_HAT(s, **w)[1], D_HAT(t, **w)[1]),
         consts=D_OF.replace("= Patch", "= frozen Patch"), weights=D_PATHS,
         s=R(n, 3, 8, 10), t=R(n, 3, 8, 10), constants=("t",), frozen=tuple(D_PATHS),
         **d_inputs())


def triplet(a, p, q, margin):
    d = [(a - v).abs().flatten(1).mean(1) for v in (p, q)]
    return F.relu(d[0] - d[1] + margin).mean()


for n, margin in ((1, 1.0), (4, 0.02)):
    case("portable_triplet_batch%d" % n, "portable_triplet(D(y), D(t), D(s), margin = %g)" % margin,
         lambda y, t, s, margin=margin, **w: triplet(*[D_HAT(v, **w)[1] for v in (y, t, s)], margin),
         consts=D_OF, weights=D_PATHS,
         y=R(n, 3, 8, 10), t=R(n, 3, 8, 10), s=R(n, 3, 8, 10), **d_inputs())

case("portable_triplet_of_equal_pictures", "triplet_loss(y, s, s, margin = 0.3)", lambda y, s: 0.3 + 0 * (y.sum() + s.sum()), y=R(2, 3, 2, 2), s=R(2, 3, 2, 2))

# ---- ACKD ----


def attend(deep, u, wq, bq, wk, wv, bv, pool=1):
    q, k, v = [F.conv2d(f, w, b) for f, w, b in ((deep, wq, bq), (F.avg_pool2d(u, pool), wk, None), (F.avg_pool2d(u, pool), wv, bv))]
    a = torch.softmax(torch.bmm(rows(q), rows(k).transpose(1, 2)) / q.shape[1] ** 0.5, 2)
    return torch.bmm(a, rows(v)).transpose(1, 2).reshape(q.shape)


def fusion(deep, z, w1, w2, b2, residual=True):
    y = F.conv2d(F.relu(F.instance_norm(F.conv2d(torch.cat([deep, z], 1), w1, padding=1))), w2, b2, padding=1)
    return deep + y if residual else y


def ack(stages, w, attention=True, fuse=True, residual=True, pool=1):
    """w: name and number -> weight, as ack_inputs gives them."""
    known = [stages[0]]
    for i in range(1, len(stages)):
        of = {k[:-1]: v for k, v in w.items() if k.endswith(str(i))}
        u = F.conv2d(torch.cat(known, 1), of["wg"], of["bg"])
        z = attend(stages[i], u, *[of[k] for k in ("wq", "bq", "wk", "wv", "bv")], pool=pool) if attention else u
        if fuse:
            y = fusion(stages[i], z, *[of[k] for k in ("w1", "w2", "b2")], residual=residual)
        else:
            y = F.conv2d(z, of["wf"], of["bf"]) + (stages[i] if residual else 0)
        known.append(y)
    return known


def ack_inputs(c, cs, stages, attention=True, fuse=True, d=None):
    d = d or max(c // 4, 1)
    values, paths = {}, {}

    def conv(key, path, out, cin, k=1):
        values["w" + key], paths["w" + key] = R(out, cin, k, k), path + ".weight"
        if key[0] not in "k1":
            values["b" + key], paths["b" + key] = R(out), path + ".bias"

    for i in range(1, stages):
        conv("g%d" % i, "K.gather.gather[%d]" % (i - 1), c, c * i)
        if attention:
            for key, name in (("q", "query"), ("k", "key"), ("v", "value")):
                conv("%s%d" % (key, i), "K.gather.attend_to[%d].%s" % (i - 1, name), d, c)
        if fuse:
            conv("1%d" % i, "K.gather.fusion[%d].conv1" % (i - 1), c, c + (d if attention else c), 3)
            conv("2%d" % i, "K.gather.fusion[%d].conv2" % (i - 1), c, c, 3)
        else:
            conv("f%d" % i, "K.gather.fusion[%d]" % (i - 1), c, d if attention else c)
    for i in range(stages):
        conv("a%d" % i, "K.adapt[%d]" % i, c, cs)
    return values, paths


def ackd_case(name, net="", n=1, stages=3, constant=False, pool=1, d=None, **how):
    w, paths = ack_inputs(4, 2, stages, how.get("attention", True), how.get("fuse", True), d)
    features = {"%s%d" % (who, i): R(n, c, 4, 4) for i in range(stages) for who, c in (("s", 2), ("t", 4))}

    def fn(**v):
        known = ack([v["t%d" % i] for i in range(stages)], {k: u for k, u in v.items() if k in w}, pool=pool, **how)
        known = [k.detach() for k in known] if constant else known
        return sum(F.mse_loss(F.conv2d(v["s%d" % i], v["wa%d" % i], v["ba%d" % i]), known[i]) for i in range(stages))

    still = tuple("t%d" % i for i in range(stages)) + (tuple(k for k in w if k[1] != "a") if constant else ())
    names = [", ".join("%s%d" % (who, i) for i in range(stages)) for who in "st"]
    case(name, "K([%s], [%s])" % (names[0], names[1]), fn,
         consts="let K = Ackd[%s]" % net, weights=paths, constants=still, **features, **w)


ackd_case("ackd_batch1")
ackd_case("ackd_batch4", n=4, stages=2)
ackd_case("ackd_four_stages", "constant = true", stages=4, constant=True)
ackd_case("ackd_attention_alone", "fuse = false", stages=3, fuse=False)
ackd_case("ackd_fusion_alone", "attend = false", stages=3, attention=False)
ackd_case("ackd_no_residual", "residual = false", stages=2, residual=False)
ackd_case("ackd_pooled", "pool = 2, width = 3", stages=2, pool=2, d=3)
