"""CycleGAN (methods A.1.3, A.1.4). The pool (capacity 50) is not full within these steps, so it returns its input."""


def cyclegan(t):
    G_A, G_B, D_A, D_B = t.nets(G_A=ResnetGen(t.ngf, t.n_blocks), G_B=ResnetGen(t.ngf, t.n_blocks),
                                D_A=PatchGan(t.ndf), D_B=PatchGan(t.ndf))
    opt_g, opt_d = adam(parameters([G_A, G_B])), adam(parameters([D_A, D_B]))
    for A, B in t.steps():
        fake_B, fake_A = G_A(A), G_B(B)
        rec_A, rec_B = G_B(fake_B), G_A(fake_A)
        idt_A, idt_B = G_A(B), G_B(A)
        adv = lsgan(D_A(fake_B), True) + lsgan(D_B(fake_A), True)
        cycle = 10 * (l1(rec_A, A) + l1(rec_B, B))
        idt = 0.5 * 10 * (l1(idt_A, B) + l1(idt_B, A))
        update(opt_g, adv + cycle + idt)
        d_a = 0.5 * (lsgan(D_A(B), True) + lsgan(D_A(fake_B.detach()), False))
        d_b = 0.5 * (lsgan(D_B(A), True) + lsgan(D_B(fake_A.detach()), False))
        update(opt_d, d_a + d_b)
        t.log(adv=adv, cycle=cycle, identity=idt, d_a=d_a, d_b=d_b)


def cyclegan_run(name, size, slow=False, **defines):
    training(name, cyclegan, recipe="models/recipes/cyclegan.kd", session="cyclegan", steps=5, scale=0.035, slow=slow,
             defines=dict(size=size, **defines), inputs=dict(a=Image(1, 3, size, size), b=Image(1, 3, size, size)))


cyclegan_run("cyclegan_small", 32, ngf=4, ndf=8, n_blocks=2)
cyclegan_run("cyclegan", 128, ngf=16, ndf=64, n_blocks=9, slow=True)
