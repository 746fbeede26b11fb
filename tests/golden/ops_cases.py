"""The golden cases of operations and of the prelude; make_ops.py reads this."""

IMPORTS = ["losses/gan.kd", "losses/reko.kd"]

# ---- convolutions (methods E.1), as layers with their weights ----

def conv(name, x, w, bias=True, args="", fn=F.conv2d, kind="conv2d", out=None, groups=1, **kw):
    """A case of a convolution layer. w: the weight's shape in PyTorch's layout."""
    channels = w[0] if kind == "conv2d" else w[1] * groups
    kernel = w[2] if w[2] == w[3] else list(w[2:])
    consts = "let conv = %s[%d, %s%s%s%s]" % (kind, channels, kernel, "" if bias else ", bias = false",
                                              ", groups = %d" % groups if groups > 1 else "", args)
    inputs = dict(x=R(*x), w=R(*w, lo=-0.5, hi=0.5))
    paths = {"w": "conv.weight"}
    if bias:
        inputs["b"] = R(channels)
        paths["b"] = "conv.bias"
    case(name, "conv(x)", lambda x, w, b=None: fn(x, w, b, groups=groups, **kw), consts=consts, weights=paths, **inputs)


def convt(name, x, w, **kw):
    conv(name, x, w, fn=F.conv_transpose2d, kind="conv_transpose2d", **kw)


conv("conv_3x3_pad1", (2, 3, 7, 5), (4, 3, 3, 3), args=", padding = 1", padding=1)
conv("conv_4x4_stride2", (2, 3, 8, 6), (5, 3, 4, 4), args=", stride = 2, padding = 1", stride=2, padding=1)
conv("conv_4x4_stride1_odd", (1, 2, 7, 9), (3, 2, 4, 4), args=", padding = 1", padding=1)
conv("conv_3x3_stride2_odd", (2, 2, 7, 5), (3, 2, 3, 3), args=", stride = 2, padding = 1", stride=2, padding=1)
conv("conv_7x7_valid", (1, 2, 9, 8), (3, 2, 7, 7))
conv("conv_1x1", (3, 5, 4, 3), (7, 5, 1, 1), bias=False)
conv("conv_1x1_stride2", (2, 3, 5, 6), (4, 3, 1, 1), args=", stride = 2", stride=2)
conv("conv_on_one_pixel", (4, 3, 1, 1), (5, 3, 3, 3), args=", padding = 1", padding=1)
conv("conv_dilation2", (1, 2, 9, 8), (3, 2, 3, 3), args=", padding = 2, dilation = 2", padding=2, dilation=2)
conv("conv_dilation4", (1, 1, 11, 10), (2, 1, 3, 3), args=", padding = 4, dilation = 4", padding=4, dilation=4)
conv("conv_groups", (2, 4, 5, 6), (6, 2, 3, 3), groups=2, args=", padding = 1", padding=1)
conv("conv_depthwise", (2, 5, 6, 5), (5, 1, 3, 3), groups=5, args=", padding = 1", padding=1)
conv("conv_depthwise_stride2", (1, 3, 7, 6), (3, 1, 3, 3), groups=3, args=", stride = 2", stride=2)
conv("conv_1x7", (1, 3, 4, 9), (2, 3, 1, 7), args=", padding = [0, 3]", padding=(0, 3))
conv("conv_7x1", (1, 3, 9, 4), (2, 3, 7, 1), args=", padding = [3, 0]", padding=(3, 0))
conv("conv_stride_2_1", (1, 2, 7, 6), (3, 2, 3, 3), args=", stride = [2, 1], padding = 1", stride=(2, 1), padding=1)
conv("conv_many_channels", (1, 9, 6, 13), (17, 9, 3, 3), args=", padding = 1", padding=1)
conv("conv_many_channels_batch", (3, 16, 5, 5), (18, 16, 3, 3), bias=False, args=", padding = 1", padding=1)
convt("convt_3x3_stride2_output_padding", (2, 3, 4, 5), (3, 2, 3, 3),
      args=", stride = 2, padding = 1, output_padding = 1", stride=2, padding=1, output_padding=1)
convt("convt_4x4_stride2", (2, 3, 4, 3), (3, 5, 4, 4), args=", stride = 2, padding = 1", stride=2, padding=1)
convt("convt_3x3_stride2_valid", (1, 4, 3, 5), (4, 2, 3, 3), bias=False, args=", stride = 2", stride=2)
convt("convt_from_one_pixel", (1, 6, 1, 1), (6, 4, 4, 4), bias=False, args=", stride = 2, padding = 1", stride=2, padding=1)
convt("convt_stride1_dilation2", (1, 2, 5, 4), (2, 3, 3, 3), args=", dilation = 2", dilation=2)
convt("convt_groups", (1, 4, 3, 4), (4, 3, 4, 4), groups=2, args=", stride = 2, padding = 1", stride=2, padding=1)
convt("convt_16x16_stride8_depthwise", (1, 2, 2, 3), (2, 1, 16, 16), bias=False, groups=2,
      args=", stride = 8, padding = 4", stride=8, padding=4)
case("conv_asymmetric_pad", "op.conv2d(x, w, stride = [2, 2], pad = [0, 0, 1, 1])",
     lambda x, w: F.conv2d(F.pad(x, (0, 1, 0, 1)), w, stride=2), x=R(1, 2, 6, 6), w=R(3, 2, 3, 3))

# ---- linear algebra ----

case("linear_layer", "lin(x)", lambda x, w, b: F.linear(x, w, b), consts="let lin = linear[4]",
     weights={"w": "lin.weight", "b": "lin.bias"}, x=R(3, 5), w=R(4, 5), b=R(4))
case("linear_no_bias_rank3", "lin(x)", lambda x, w: F.linear(x, w), consts="let lin = linear[6, bias = false]",
     weights={"w": "lin.weight"}, x=R(2, 3, 5), w=R(6, 5))
case("matmul_plain", "matmul(a, b)", lambda a, b: a @ b, a=R(5, 7), b=R(7, 3))
case("matmul_right_transposed", "matmul(a, transpose(b))", lambda a, b: a @ b.t(), a=R(5, 7), b=R(9, 7))
case("matmul_left_transposed", "matmul(transpose(a), b)", lambda a, b: a.t() @ b, a=R(7, 5), b=R(7, 3))
case("matmul_both_transposed", "matmul(transpose(a), transpose(b))", lambda a, b: a.t() @ b.t(), a=R(7, 5), b=R(3, 7))
case("matmul_wide", "a @ b", lambda a, b: a @ b, a=R(17, 33), b=R(33, 20))
case("bmm", "matmul(a, b)", lambda a, b: a @ b, a=R(3, 4, 6), b=R(3, 6, 5))
case("bmm_right_transposed", "matmul(a, transpose(b))", lambda a, b: a @ b.transpose(1, 2), a=R(3, 4, 6), b=R(3, 5, 6))
case("bmm_left_transposed", "matmul(transpose(a), b)", lambda a, b: a.transpose(1, 2) @ b, a=R(2, 6, 4), b=R(2, 6, 5))
case("gram_channels", "gram(x)", lambda x: torch.bmm(x.flatten(2), x.flatten(2).transpose(1, 2)) / (4 * 15),
     x=R(2, 4, 5, 3))
case("gram_positions", "matmul(transpose(f), f)",
     lambda f: torch.bmm(f.transpose(1, 2), f), f=R(2, 4, 15))
case("attention_one_head", "attention(q, k, v)",
     lambda q, k, v: torch.softmax(q @ k.transpose(1, 2) / 8 ** 0.5, -1) @ v, q=R(2, 5, 8), k=R(2, 7, 8), v=R(2, 7, 3))

# ---- padding ----

case("reflection_pad_1", "reflection_pad2d(x, 1)", lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), x=R(2, 3, 5, 4))
case("reflection_pad_3", "reflection_pad2d(x, 3)", lambda x: F.pad(x, (3, 3, 3, 3), mode="reflect"), x=R(1, 2, 4, 6))
case("reflection_pad_sides", "reflection_pad2d(x, [1, 2, 0, 3])", lambda x: F.pad(x, (1, 2, 0, 3), mode="reflect"),
     x=R(1, 2, 5, 4))
case("replication_pad_2", "replication_pad2d(x, 2)", lambda x: F.pad(x, (2, 2, 2, 2), mode="replicate"), x=R(2, 2, 3, 4))
case("replication_pad_sides", "replication_pad2d(x, [3, 0, 1, 2])", lambda x: F.pad(x, (3, 0, 1, 2), mode="replicate"),
     x=R(1, 2, 3, 4))
case("zero_pad_sides", "zero_pad2d(x, [1, 0, 2, 3])", lambda x: F.pad(x, (1, 0, 2, 3)), x=R(2, 2, 3, 4))
case("pad_crop_and_value", "op.pad(x, [0, 0, -1, 2], [0, 0, 1, -1], [0, 0, 0, 0], 0.5)",
     lambda x: F.pad(x, (2, -1, -1, 1), value=0.5), x=R(1, 2, 4, 5))

# ---- normalisation (E.2) ----

BN = {"g": "bn.weight", "b": "bn.bias", "m": "bn.running_mean", "v": "bn.running_var"}


def bn_inputs(c):
    return dict(g=R(c, lo=0.5, hi=1.5), b=R(c), m=R(c), v=R(c, lo=0.5, hi=2.0))


def new_running(which, momentum=0.1):
    def fn(x, g, b, m, v):
        m, v = m.clone(), v.clone()
        F.batch_norm(x, m, v, g, b, True, momentum, 1e-5)
        return m if which == "m" else v
    return fn


case("batch_norm_statistics_train", "bn(x)", lambda x, g, b, m, v: F.batch_norm(x, None, None, g, b, True, 0.1, 1e-5),
     consts="let bn = batch_norm[]", weights=BN, new={"m": new_running("m"), "v": new_running("v")},
     x=R(3, 4, 5, 6), **bn_inputs(4))
case("batch_norm_two_by_two_train", "bn(x)", lambda x, g, b, m, v: F.batch_norm(x, None, None, g, b, True, 0.1, 1e-5),
     consts="let bn = batch_norm[]", weights=BN, new={"m": new_running("m"), "v": new_running("v")},
     x=R(1, 3, 2, 2), **bn_inputs(3))
case("batch_norm_momentum_train", "bn(x)", lambda x, g, b, m, v: F.batch_norm(x, None, None, g, b, True, 0.3, 1e-5),
     consts="let bn = batch_norm[momentum = 0.3]", weights=BN,
     new={"m": new_running("m", 0.3), "v": new_running("v", 0.3)}, x=R(2, 3, 4, 3), **bn_inputs(3))
case("batch_norm_inference", "bn(x)", lambda x, g, b, m, v: F.batch_norm(x, m, v, g, b, False, 0.1, 1e-5),
     consts="let bn = batch_norm[]", weights=BN, x=R(2, 4, 3, 5), **bn_inputs(4))
case("batch_norm_eps_inference", "bn(x)", lambda x, g, b, m, v: F.batch_norm(x, m, v, g, b, False, 0.1, 1e-3),
     consts="let bn = batch_norm[eps = 1e-3]", weights=BN, x=R(1, 2, 3, 3), **bn_inputs(2))
case("batch_norm_no_affine_train", "bn(x)", lambda x, m, v: F.batch_norm(x, None, None, None, None, True, 0.1, 1e-5),
     consts="let bn = batch_norm[affine = false]", weights={"m": "bn.running_mean", "v": "bn.running_var"},
     new={"m": lambda x, m, v: new_running("m")(x, None, None, m, v), "v": lambda x, m, v: new_running("v")(x, None, None, m, v)},
     x=R(2, 3, 4, 5), m=R(3), v=R(3, lo=0.5, hi=1.5))
case("instance_norm_plain", "instance_norm(x)", lambda x: F.instance_norm(x.contiguous()), x=R(2, 3, 5, 4))
case("instance_norm_batch1", "instance_norm(x)", lambda x: F.instance_norm(x), x=R(1, 5, 3, 7))
case("instance_norm_affine", "inorm(x)", lambda x, g, b: F.instance_norm(x, weight=g, bias=b, eps=1e-3),
     consts="let inorm = instance_norm[affine = true, eps = 1e-3]", weights={"g": "inorm.weight", "b": "inorm.bias"},
     x=R(2, 4, 4, 3), g=R(4, lo=0.5, hi=1.5), b=R(4))
case("instance_norm_by_hand", "(x - m) / sqrt(mean((x - m) ** 2, dim = [2, 3], keepdim = true) + 1e-5)",
     lambda x: F.instance_norm(x), consts="let m = mean(x, dim = [2, 3], keepdim = true)", x=R(2, 2, 4, 5))
case("modulation", "instance_norm(x) * (1 + gamma) + beta", lambda x, gamma, beta: F.instance_norm(x) * (1 + gamma) + beta,
     x=R(1, 3, 4, 5), gamma=R(1, 3, 4, 5), beta=R(1, 3, 4, 5))
case("layer_norm_last", "ln(x)", lambda x, g, b: F.layer_norm(x, (6,), g, b),
     consts="let ln = layer_norm[]", weights={"g": "ln.weight", "b": "ln.bias"},
     x=R(3, 4, 6), g=R(6, lo=0.5, hi=1.5), b=R(6))
case("normalize_channels", "l2_normalize(x)", lambda x: F.normalize(x), x=R(2, 5, 3, 2))
case("normalize_rows", "l2_normalize(x, dim = -1)", lambda x: F.normalize(x, dim=-1), x=R(4, 7))


SN = {"w": "conv.weight_orig", "b": "conv.bias", "u": "conv.weight_u", "v": "conv.weight_v"}


def power(w, u):
    """One step of PyTorch's power iteration; u and v as columns."""
    m = w.detach().flatten(1)
    v = F.normalize(m.t() @ u.detach(), dim=0, eps=1e-12)
    return F.normalize(m @ v, dim=0, eps=1e-12), v


def spectral_conv(x, w, b, u, v):
    return F.conv2d(x, w / (u.t() @ w.flatten(1) @ v).squeeze(), b, padding=1)


SN_W, SN_U, SN_V = [t.float().double() for t in (R(4, 3, 3, 3), F.normalize(R(4, 1), dim=0), F.normalize(R(27, 1), dim=0))]
case("spectral_norm_train", "conv(x)", lambda x, w, b, u, v: spectral_conv(x, w, b, *power(SN_W, SN_U)),
     consts="let conv = conv2d[4, 3, padding = 1, spectral = true]", weights=SN,
     new={"u": lambda x, w, b, u, v: power(w, u)[0], "v": lambda x, w, b, u, v: power(w, u)[1]},
     x=R(1, 3, 4, 5), w=SN_W, b=R(4), u=SN_U, v=SN_V)
case("spectral_norm_inference", "conv(x)", lambda x, w, b, u, v: spectral_conv(x, w, b, u, v),
     consts="let conv = conv2d[4, 3, padding = 1, spectral = true]", weights=SN,
     x=R(1, 3, 4, 5), w=SN_W, b=R(4), u=SN_U, v=SN_V)
case("norm_with_zero_row", "norm(x * keep, dim = 1)", lambda x, keep: (x * keep).norm(dim=1), x=R(4, 5),
     keep=torch.tensor([[1.0], [0], [1], [1]]).double())
case("norm_of_all", "norm(x)", lambda x: x.norm(), x=R(3, 4))


# ---- pointwise (E.3) ----

case("relu_leaky_tanh", "relu(x) + leaky_relu(x, 0.2) * tanh(x)",
     lambda x: F.relu(x) + F.leaky_relu(x, 0.2) * torch.tanh(x), x=R(2, 3, 5, 7, lo=-2, hi=2))
case("leaky_default_slope", "leaky_relu(x)", lambda x: F.leaky_relu(x), x=R(4, 9))
case("sigmoid_softplus", "sigmoid(x) * softplus(x)", lambda x: torch.sigmoid(x) * F.softplus(x), x=R(3, 50, lo=-9, hi=9))
case("exp_log", "log(exp(x) + 1.5)", lambda x: torch.log(torch.exp(x) + 1.5), x=R(3, 33, lo=-5, hi=5))
case("sqrt_rsqrt", "sqrt(x) + rsqrt(x)", lambda x: x.sqrt() + x.rsqrt(), x=R(5, 20, lo=0.05, hi=4))
case("square_abs_neg_sign", "square(x) - abs(x) * sign(x) + neg(x)", lambda x: x * x - x.abs() * x.sign() - x, x=R(2, 41))
case("reciprocal_pow", "reciprocal(x) + x ** 1.7 + pow(x, y)", lambda x, y: 1 / x + x ** 1.7 + x ** y,
     x=R(3, 11, lo=0.3, hi=2), y=R(3, 11))
case("powers", "x ** 2 + x ** 3 - x ** 0.5 + x ** -1", lambda x: x ** 2 + x ** 3 - x ** 0.5 + x ** -1, x=R(19, lo=0.2, hi=2))
case("clamp_both", "clamp(x, -0.5, 0.25)", lambda x: x.clamp(-0.5, 0.25), x=R(7, 9))
case("max_min_zero", "max(x, 0) - min(y, 0.0)", lambda x, y: x.clamp(min=0) - y.clamp(max=0), x=R(5, 7), y=R(5, 7))
case("maximum_of_two", "maximum(x, y) + minimum(x, 2 * y)", lambda x, y: torch.maximum(x, y) + torch.minimum(x, 2 * y),
     x=R(5, 7), y=R(5, 7))
case("broadcast_channel", "(x * g + b) / (2.5 - g)", lambda x, g, b: (x * g + b) / (2.5 - g),
     x=R(2, 3, 4, 5), g=R(1, 3, 1, 1), b=R(3, 1, 1))
case("broadcast_row_scalar", "x * r - s", lambda x, r, s: x * r - s, x=R(4, 6), r=R(4, 1), s=R())
case("where_chosen", "where(x < y, x * y, x - y)", lambda x, y: torch.where(x < y, x * y, x - y), x=R(6, 5), y=R(6, 5))
case("divide", "x / y", lambda x, y: x / y, x=R(3, 4), y=R(3, 4, lo=0.5, hi=2))

# ---- shape ----

case("concat_channels", "concat(x, y, z)", lambda x, y, z: torch.cat([x, y, z], 1),
     x=R(2, 1, 3, 2), y=R(2, 3, 3, 2), z=R(2, 2, 3, 2))
case("concat_batch", "concat(x, y, dim = 0)", lambda x, y: torch.cat([x, y], 0), x=R(2, 3, 2), y=R(1, 3, 2))
case("concat_last", "concat(x, x * 2, dim = -1)", lambda x: torch.cat([x, x * 2], -1), x=R(3, 5))
case("slices", "x[:, 1:3, ::2] * 3 - x[:, 0:2, 0:3]", lambda x: x[:, 1:3, ::2] * 3 - x[:, 0:2, 0:3], x=R(2, 4, 6))
case("element", "x[1] + x[0, 2]", lambda x: x[1] + x[0, 2], x=R(2, 3, 4))
case("reshape_permute", "permute(reshape(x, [2, 3, 20]), [0, 2, 1])", lambda x: x.reshape(2, 3, 20).permute(0, 2, 1),
     x=R(2, 3, 4, 5))
case("transpose_first_last", "transpose(x, 0, 2) * y", lambda x, y: x.transpose(0, 2) * y, x=R(2, 3, 4), y=R(4, 3, 2))
case("sums", "sum(x, dim = [0, 2]) * mean(x) + max(x, dim = 1, keepdim = true)[0, 0]",
     lambda x: x.sum((0, 2)) * x.mean() + x.amax(1, keepdim=True)[0, 0], x=R(3, 4, 4))
case("expand_rows", "expand(x, [3, 4, 5]) * y", lambda x, y: x.expand(3, 4, 5) * y, x=R(4, 1), y=R(3, 4, 5))
case("dropout_inference", "dropout(x, 0.5)", lambda x: x * 1, x=R(3, 4))

case("split_stack", "stack([p[0] * p[1] for p in zip(split(x, 2), split(y, 2))], dim = 0)",
     lambda x, y: torch.stack([a * b for a, b in zip(x.split(2, 1), y.split(2, 1))], 0), x=R(2, 6, 3), y=R(2, 6, 3))
case("flatten_squeeze", "flatten(x) + unsqueeze(squeeze(y, 1), 1)[:, 0]", lambda x, y: x.flatten(1) + y.squeeze(1),
     x=R(3, 2, 4), y=R(3, 1, 8))
case("silu_of", "silu(x)", lambda x: F.silu(x), x=R(3, 9, lo=-4, hi=4))

# ---- resampling and pooling (E.4) ----

case("upsample_nearest_2", "upsample_nearest(x)", lambda x: F.interpolate(x, scale_factor=2), x=R(2, 3, 3, 4))
case("upsample_nearest_ratio", "resize_nearest(x, [7, 5])", lambda x: F.interpolate(x, size=(7, 5)), x=R(1, 2, 3, 4))
case("downsample_nearest", "resize_nearest(x, [3, 2])", lambda x: F.interpolate(x, size=(3, 2)), x=R(1, 2, 7, 5))
case("upsample_bilinear_2", "upsample_bilinear(x)",
     lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False), x=R(2, 2, 3, 4))
case("resize_bilinear_ratio", "upsample_bilinear(x, size = [7, 3])",
     lambda x: F.interpolate(x, size=(7, 3), mode="bilinear", align_corners=False), x=R(1, 2, 4, 5))
case("resize_bicubic", "resize(x, [7, 9], mode = \"bicubic\")",
     lambda x: F.interpolate(x, size=(7, 9), mode="bicubic", align_corners=False), x=R(1, 2, 4, 5))
case("avg_pool_no_pad_count", "avg_pool2d(x, 3, stride = 2, padding = 1, count_include_pad = false)",
     lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), x=R(2, 3, 7, 6))
case("avg_pool_same", "avg_pool2d(x, 3, stride = 1, padding = 1)", lambda x: F.avg_pool2d(x, 3, 1, 1), x=R(1, 2, 4, 5))
case("avg_pool_2", "avg_pool2d(x, 2)", lambda x: F.avg_pool2d(x, 2), x=R(1, 2, 5, 6))
case("pool_all", "global_avg_pool(x)", lambda x: x.mean((2, 3), keepdim=True), x=R(2, 3, 4, 5))
case("adaptive_avg_pool", "adaptive_avg_pool2d(x, [3, 2])", lambda x: F.adaptive_avg_pool2d(x, (3, 2)), x=R(1, 2, 7, 5))
case("max_pool_2", "max_pool2d(x, 2)", lambda x: F.max_pool2d(x, 2), x=R(2, 3, 6, 5))
case("max_pool_3_stride2", "max_pool2d(x, 3, stride = 2)", lambda x: F.max_pool2d(x, 3, 2), x=R(1, 3, 7, 8))
case("max_pool_3_same", "max_pool2d(x, 3, stride = 1, padding = 1)", lambda x: F.max_pool2d(x, 3, 1, 1), x=R(1, 2, 4, 5))


def haar(x):
    """[low, high]; high: for each channel the bands LH, HL, HH of pywt and pytorch_wavelets (low or high along the
    width first, then along the height)."""
    a, b, c, d = x[:, :, 0::2, 0::2], x[:, :, 0::2, 1::2], x[:, :, 1::2, 0::2], x[:, :, 1::2, 1::2]
    high = torch.stack([(a + b - c - d) / 2, (a - b + c - d) / 2, (a - b - c + d) / 2], 2)
    return (a + b + c + d) / 2, high.reshape(x.shape[0], -1, *a.shape[2:])


case("dwt_haar", "concat(dwt(x)[0], reshape(dwt(x)[1][0], [1, 9, 3, 4]))", lambda x: torch.cat([haar(x)[0], haar(x)[1]], 1), x=R(1, 3, 6, 8))
case("dwt_haar_energy", "sum(square(dwt(x)[0])) + sum(square(dwt(x)[1][0]))", lambda x: (x ** 2).sum(), x=R(2, 2, 4, 6))
case("dwt_haar_two_levels", "mean(abs(dwt(x, levels = 2)[1][1]))", lambda x: haar(haar(x)[0])[1].abs().mean(), x=R(1, 2, 8, 8))

case("resize_area", "resize(x, [3, 2], mode = \"area\")", lambda x: F.interpolate(x, size=(3, 2), mode="area"), x=R(1, 2, 7, 5))
case("resize_antialias", "resize(x, [3, 4], antialias = true)",
     lambda x: F.interpolate(x, size=(3, 4), mode="bilinear", antialias=True), x=R(1, 2, 8, 9))
case("resize_bicubic_antialias", "resize(x, [3, 5], mode = \"bicubic\", antialias = true)",
     lambda x: F.interpolate(x, size=(3, 5), mode="bicubic", antialias=True), x=R(1, 2, 9, 8))

# ---- selection (E.5) ----

case("topk_values", "topk(x, 3)[0]", lambda x: x.topk(3, 1)[0], x=R(4, 9))
case("topk_indices", "topk(x, 4)[1]", lambda x: x.topk(4, 1)[1], grad=False, x=R(3, 8))
case("topk_smallest", "topk(x, 2, largest = false)[0]", lambda x: x.topk(2, 1, largest=False)[0], x=R(4, 6))
case("gather_rows", "gather(x, index, axis = 1)", lambda x, index: torch.gather(x, 1, index), x=R(2, 5, 3), index=I(2, 4, 3, hi=5))
case("one_hot_labels", "one_hot(label, 5)", lambda label: F.one_hot(label[:, 0], 5).permute(0, 3, 1, 2).double(), grad=False,
     label=I(2, 1, 3, 4, hi=5))
case("argmax_channels", "argmax(x, dim = 1)", lambda x: x.argmax(1), grad=False, x=R(2, 5, 3, 3))


def alignment(x, y):
    kx, ky = [t.flatten(1) @ t.flatten(1).t() for t in (x, y)]
    return (kx * ky).sum() / (kx.norm() * ky.norm())


def ssim(x, y):
    """The usual implementation: an 11 x 11 window, depthwise, zero padding."""
    g = torch.tensor([np.exp(-(i - 5) ** 2 / (2 * 1.5 ** 2)) for i in range(11)], dtype=torch.double)
    g = g / g.sum()
    win = (g[:, None] @ g[None]).expand(x.shape[1], 1, 11, 11).contiguous()
    blur = lambda t: F.conv2d(t, win, padding=5, groups=x.shape[1])
    mx, my = blur(x), blur(y)
    vx, vy, vxy = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
    return (((2 * mx * my + 1e-4) * (2 * vxy + 9e-4)) / ((mx ** 2 + my ** 2 + 1e-4) * (vx + vy + 9e-4))).mean()


def reko_rows(s, t, k):
    """For each image: the student's and the teacher's vectors [k, c] at the k positions, and all of the teacher's."""
    for a, b in zip(s.flatten(2), t.flatten(2)):
        at = torch.sort(b.abs().mean(0), descending=True)[1][:k]
        yield a[:, at].t(), b[:, at].t(), b.t()


def reko(s, t, k):
    rows = []
    for q, key, _ in reko_rows(s, t, k):
        q, key = [f / (f.norm(dim=1, keepdim=True) + 1e-7) for f in (q, key)]
        negative = (q @ key.t()).masked_fill(torch.eye(k, dtype=torch.bool), -10.0)
        logits = torch.cat([(q * key).sum(1, keepdim=True), negative], 1) / 0.07
        rows.append(F.cross_entropy(logits, torch.zeros(k, dtype=torch.long)))
    return sum(rows) / len(rows)


def reko_paper(s, t, k, tau):
    total = 0
    for q, key, every in reko_rows(s, t, k):
        total = total + ((q @ every.t() / tau).logsumexp(1) - (q * key).sum(1) / tau).sum()
    return total / len(s)


def bce(d, t):
    return F.binary_cross_entropy_with_logits(d, torch.full_like(d, t))


def edges(t):
    """Pix2PixHD's get_edges."""
    e = torch.zeros_like(t)
    e[:, :, :, 1:] |= (t[:, :, :, 1:] != t[:, :, :, :-1]).long()
    e[:, :, :, :-1] |= (t[:, :, :, 1:] != t[:, :, :, :-1]).long()
    e[:, :, 1:, :] |= (t[:, :, 1:, :] != t[:, :, :-1, :]).long()
    e[:, :, :-1, :] |= (t[:, :, 1:, :] != t[:, :, :-1, :]).long()
    return e.double()


# ---- losses (E.6) ----

case("loss_l1", "l1_loss(x, y)", lambda x, y: F.l1_loss(x, y), x=R(2, 3, 4, 5), y=R(2, 3, 4, 5))
case("loss_mse", "mse_loss(x, y)", lambda x, y: F.mse_loss(x, y), x=R(2, 3, 4, 5), y=R(2, 3, 4, 5))
case("loss_smooth_l1", "smooth_l1_loss(x, y)", lambda x, y: F.smooth_l1_loss(x, y), x=R(4, 9, lo=-2, hi=2), y=R(4, 9, lo=-2, hi=2))
case("loss_tv", "tv_loss(x)", lambda x: (x[:, :, 1:] - x[:, :, :-1]).abs().sum() + (x[..., 1:] - x[..., :-1]).abs().sum(), x=R(2, 3, 4, 5))
case("loss_bce_logits", "bce_with_logits(x, t)", lambda x, t: F.binary_cross_entropy_with_logits(x, t),
     x=R(3, 9, lo=-6, hi=6), t=R(3, 9, lo=0, hi=1))
case("softmax_last", "softmax(x, dim = -1)", lambda x: x.softmax(-1), x=R(3, 7, lo=-3, hi=3))
case("softmax_channels", "softmax(x, dim = 1)", lambda x: x.softmax(1), x=R(2, 5, 3, 2, lo=-3, hi=3))
case("log_softmax_last", "log_softmax(x, dim = -1)", lambda x: x.log_softmax(-1), x=R(3, 7, lo=-3, hi=3))
case("logsumexp_last", "logsumexp(x, dim = -1)", lambda x: x.logsumexp(-1), x=R(3, 7, lo=-3, hi=3))
case("loss_cross_entropy", "cross_entropy(x, label)", lambda x, label: F.cross_entropy(x, label),
     x=R(4, 6, lo=-3, hi=3), label=I(4, hi=6))
case("loss_cross_entropy_maps", "cross_entropy(x, label)", lambda x, label: F.cross_entropy(x, label),
     x=R(2, 5, 3, 4, lo=-3, hi=3), label=I(2, 3, 4, hi=5))
case("loss_kl", "kl_distill(x, y, T = 3.0)",
     lambda x, y: F.kl_div((x / 3).log_softmax(1), (y / 3).softmax(1), reduction="batchmean") * 9,
     x=R(4, 6, lo=-3, hi=3), y=R(4, 6, lo=-3, hi=3), constants=("y",))
case("loss_info_nce", "info_nce(x)", lambda x: F.cross_entropy(x, torch.zeros(5, dtype=torch.long)), x=R(5, 9, lo=-3, hi=3))
case("loss_sqrt_mse", "sqrt_mse(x, y)", lambda x, y: (F.mse_loss(x, y) + 1e-12).sqrt(), x=R(3, 7), y=R(3, 7))
case("loss_gram", "gram_loss(x, y)", lambda x, y: F.l1_loss(*[torch.bmm(t.flatten(2), t.flatten(2).transpose(1, 2)) / 60 for t in (x, y)]),
     x=R(2, 3, 4, 5), y=R(2, 3, 4, 5))
case("similarity_rows", "similarity(f)", lambda f: F.normalize(torch.bmm(f.flatten(2).transpose(1, 2), f.flatten(2)), dim=2), f=R(2, 4, 3, 3))
case("loss_kernel_alignment", "kernel_alignment(x, y)", lambda x, y: alignment(x, y), x=R(4, 3, 2, 2), y=R(4, 5, 2, 1))
case("loss_gaussian_nll", "gaussian_nll(mu, t, v)", lambda mu, t, v: (0.5 * ((t - mu) ** 2 / v[None, :, None, None] + v.log()[None, :, None, None])).mean(),
     mu=R(2, 3, 4, 2), t=R(2, 3, 4, 2), v=R(3, lo=0.3, hi=2))
case("loss_triplet", "triplet_loss(a, p, n, 0.3)",
     lambda a, p, n: F.relu((a - p).abs().flatten(1).mean(1) - (a - n).abs().flatten(1).mean(1) + 0.3).mean(),
     a=R(4, 2, 3), p=R(4, 2, 3), n=R(4, 2, 3))
case("loss_ssim", "ssim(x, y)", lambda x, y: ssim(x, y), x=R(1, 2, 13, 12, lo=0, hi=1), y=R(1, 2, 13, 12, lo=0, hi=1))
case("cosine_similarity_channels", "cosine_similarity(x, y)", lambda x, y: F.cosine_similarity(x, y), x=R(3, 6, 2), y=R(3, 6, 2))
case("attention_maps", "attention_map(f)", lambda f: F.normalize((f ** 2).mean(1).flatten(1)), f=R(2, 3, 4, 3))
case("batch_similarities", "batch_similarity(f)", lambda f: F.normalize(f.flatten(1) @ f.flatten(1).t(), dim=1), f=R(4, 3, 2))
case("loss_reko", "reko(s, t, k = 5)", lambda s, t: reko(s, t, 5), s=R(2, 4, 3, 4), t=R(2, 4, 3, 4), constants=("t",))
case("loss_reko_paper", "reko(s, t, k = 5, tau = 0.5, form = \"paper\")", lambda s, t: reko_paper(s, t, 5, 0.5),
     s=R(2, 4, 3, 4), t=R(2, 4, 3, 4), constants=("t",))
case("loss_hinge", "gan_loss(d, real = true, mode = \"hinge\") + 2 * gan_loss(d, real = false, mode = \"hinge\")",
     lambda d: F.relu(1 - d).mean() + 2 * F.relu(1 + d).mean(), d=R(2, 1, 5, 4, lo=-2, hi=2))
case("loss_hinge_generator", "gan_loss(d, mode = \"hinge\", generator = true)", lambda d: -d.mean(), d=R(2, 1, 5, 4))
case("loss_lsgan", "gan_loss(d, mode = \"lsgan\") + 2 * gan_loss(d, real = false, mode = \"lsgan\")",
     lambda d: ((d - 1) ** 2).mean() + 2 * (d ** 2).mean(), d=R(2, 1, 5, 4))
case("loss_vanilla", "gan_loss([d, e], mode = \"vanilla\") + 2 * gan_loss(d, real = false, mode = \"vanilla\")",
     lambda d, e: (bce(d, 1) + bce(e, 1)) / 2 + 2 * bce(d, 0), d=R(2, 1, 5, 4, lo=-3, hi=3), e=R(2, 1, 2, 3, lo=-3, hi=3))
case("variance", "var(x, dim = 1) + var(x, dim = 1, unbiased = false) + std(x)",
     lambda x: x.var(1) + x.var(1, unbiased=False) + x.std(), x=R(4, 6))
case("covariance_rows", "covariance(x)", lambda x: torch.cov(x.t()), x=R(6, 4))
case("diagonal", "fill_diagonal(x, -10.0) * trace(x)", lambda x: x.masked_fill(torch.eye(5, dtype=torch.bool), -10.0) * x.trace(), x=R(5, 5))
case("edges_of_instances", "edge_map(id)", lambda id: edges(id), grad=False, id=I(1, 1, 6, 7, hi=3))
case("histogram_counts", "histogram(label, 6)", lambda label: torch.bincount(label.flatten(), minlength=6).double(), grad=False, label=I(3, 9, hi=6))
case("confusion_counts", "confusion_matrix(p, label, 4)",
     lambda p, label: torch.bincount(label * 4 + p, minlength=16).reshape(4, 4).double(), grad=False, p=I(40, hi=4), label=I(40, hi=4))
