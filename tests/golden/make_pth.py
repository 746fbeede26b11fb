#!/usr/bin/python3
"""Makes tests/golden/pth/: small generators and a discriminator with the key names of the official checkpoints, saved by
PyTorch in both of its forms, and what PyTorch computes with them (files *.safetensors: x, out; train: out_train).

Written from the description of the architectures (layers, strides, numbering); needs python3-torch. The suite does not."""

import json
import os
import struct
from collections import OrderedDict

import torch
from torch import nn

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pth")


def save_tensors(name, tensors):
    header, data = {}, b""
    for key, t in tensors.items():
        raw = t.detach().float().contiguous().numpy().astype("<f4").tobytes()
        header[key] = {"dtype": "F32", "shape": list(t.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(HERE, name), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)


class Block(nn.Module):
    """Two convolutions behind reflection padding; with dropout the second one's number is 6, without it is 5."""

    def __init__(self, width, dropout):
        super().__init__()
        half = [nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), nn.InstanceNorm2d(width)]
        again = [nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), nn.InstanceNorm2d(width)]
        self.conv_block = nn.Sequential(*half, nn.ReLU(), *([nn.Dropout(0.5)] if dropout else []), *again)

    def forward(self, x):
        return x + self.conv_block(x)


class Resnet(nn.Module):
    def __init__(self, width, blocks, dropout):
        super().__init__()
        layers = [nn.ReflectionPad2d(3), nn.Conv2d(3, width, 7), nn.InstanceNorm2d(width), nn.ReLU()]
        for i in (1, 2):
            layers += [nn.Conv2d(width * i, width * i * 2, 3, 2, 1), nn.InstanceNorm2d(width * i * 2), nn.ReLU()]
        layers += [Block(width * 4, dropout) for _ in range(blocks)]
        for i in (4, 2):
            layers += [nn.ConvTranspose2d(width * i, width * i // 2, 3, 2, 1, 1), nn.InstanceNorm2d(width * i // 2), nn.ReLU()]
        self.model = nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh())

    def forward(self, x):
        return self.model(x)


class Level(nn.Module):
    """One level of the U-Net around the next one; `inner` is None at the bottom."""

    def __init__(self, outside, inside, inner=None, outermost=False):
        super().__init__()
        self.outermost = outermost
        down = nn.Conv2d(3 if outermost else outside, inside, 4, 2, 1, bias=False)
        up = nn.ConvTranspose2d(2 * inside if inner else inside, 3 if outermost else outside, 4, 2, 1, bias=outermost)
        if outermost:
            layers = [down, inner, nn.ReLU(), up, nn.Tanh()]
        elif inner:
            layers = [nn.LeakyReLU(0.2), down, nn.BatchNorm2d(inside), inner, nn.ReLU(), up, nn.BatchNorm2d(outside)]
        else:
            layers = [nn.LeakyReLU(0.2), down, nn.ReLU(), up, nn.BatchNorm2d(outside)]
        self.model = nn.Sequential(*layers)

    def forward(self, x):
        y = self.model(x)
        return y if self.outermost else torch.cat([x, y], 1)


class Unet(nn.Module):
    def __init__(self, width, depth):
        super().__init__()
        widths = [width * min(2**i, 8) for i in range(depth)]
        level = Level(widths[-2], widths[-1])
        for i in range(depth - 2, 0, -1):
            level = Level(widths[i - 1], widths[i], level)
        self.model = Level(3, widths[0], level, outermost=True)

    def forward(self, x):
        return self.model(x)


class Patch(nn.Module):
    def __init__(self, channels, width):
        super().__init__()
        layers, before = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)], width
        for i in (1, 2, 3):
            layers += [nn.Conv2d(before, width * 2**i, 4, 2 if i < 3 else 1, 1, bias=False), nn.BatchNorm2d(width * 2**i),
                       nn.LeakyReLU(0.2)]
            before = width * 2**i
        self.model = nn.Sequential(*layers, nn.Conv2d(before, 1, 4, 1, 1))

    def forward(self, x):
        return self.model(x)


def prepared(net, half=False):
    """Weights that are large enough to see each of them, statistics that are not 0 and 1."""
    for name, t in net.state_dict().items():
        if name.endswith("num_batches_tracked"):
            t.fill_(7)
        elif name.endswith("running_var"):
            t.uniform_(0.5, 2)
        elif t.dim() == 4:
            t.normal_(0, 1.2 / (t.shape[1] * t.shape[2] * t.shape[3]) ** 0.5)
        else:
            t.normal_(1 if name.endswith("weight") else 0, 0.3)
    return net.half().float().eval() if half else net.eval()


def with_old_statistics(state):
    """As versions before 0.4 wrote them: instance norms with statistics, which mean nothing."""
    out = OrderedDict()
    for key, t in state.items():
        out[key] = t
        if key.endswith(".bias") and key != "model.%d.bias" % max(int(k.split(".")[1]) for k in state):
            head, number = key[: -len(".bias")].rsplit(".", 1)
            norm = "%s.%d" % (head, int(number) + 1)
            out[norm + ".running_mean"] = torch.full_like(t, 5.0)
            out[norm + ".running_var"] = torch.full_like(t, 9.0)
            out[norm + ".num_batches_tracked"] = torch.tensor(3)
    return out


def main():
    os.makedirs(HERE, exist_ok=True)
    torch.manual_seed(3)
    torch.use_deterministic_algorithms(True)

    def path(name):
        return os.path.join(HERE, name)

    legacy = {"_use_new_zipfile_serialization": False}
    x = torch.randn(1, 3, 32, 32).clamp(-2, 2)

    net = prepared(Resnet(3, 2, dropout=False))
    torch.save(with_old_statistics(net.state_dict()), path("resnet_old.pth"), **legacy)
    torch.save(net.state_dict(), path("resnet.pth"))
    save_tensors("resnet.safetensors", {"x": x, "out": net(x)})

    net = prepared(Resnet(3, 2, dropout=True))
    other = prepared(Resnet(2, 2, dropout=True))
    both = {"G_A": OrderedDict(("module." + k, v) for k, v in net.state_dict().items()), "G_B": other.state_dict(),
            "epoch": 12, "cfg": [1, 2.5, None, "text", True], "fid": 61.5}
    torch.save(both, path("resnet_dropout.pth"))
    torch.save({"state_dict": net.state_dict()}, path("resnet_dropout_old.pth"), **legacy)
    save_tensors("resnet_dropout.safetensors", {"x": x, "out": net(x)})

    net = prepared(Unet(2, 5), half=True)
    torch.save(net.state_dict(), path("unet.pth"))
    torch.save(OrderedDict((k, v.half() if v.is_floating_point() else v) for k, v in net.state_dict().items()),
               path("unet_old.pth"), **legacy)
    out = net(x).detach()
    save_tensors("unet.safetensors", {"x": x, "out": out, "out_train": net.train()(x)})

    net = prepared(Patch(6, 2))
    torch.save(net.state_dict(), path("patchgan.pth"))
    torch.save(net.state_dict(), path("patchgan_old.pth"), **legacy)
    x = torch.randn(1, 6, 48, 40)
    save_tensors("patchgan.safetensors", {"x": x, "out": net(x)})

    base = torch.arange(48.0)  # one storage, many views of it
    image = base.reshape(2, 3, 2, 4)
    odd = OrderedDict(
        plain=image, flipped=image.permute(3, 0, 2, 1), channels_last=image.contiguous(memory_format=torch.channels_last),
        part=image[1:, ::2, 1], scalar=torch.tensor(2.5), empty=torch.zeros(0, 3), parameter=nn.Parameter(base[5:9]))
    for kind in ("half", "bfloat16", "double", "long", "int", "short", "char", "byte", "bool"):
        odd[kind] = getattr(base[:4] - (0 if kind == "byte" else 1), kind)()
    torch.save({"model": odd, "epoch": 3, "lr": 1e-4}, path("odd.pth"))
    torch.save({"model": odd, "epoch": 3, "lr": 1e-4}, path("odd_old.pth"), **legacy)
    torch.save({"model": odd, "epoch": 3, "lr": 1e-4}, path("odd_4.pth"), pickle_protocol=4)


if __name__ == "__main__":
    main()
