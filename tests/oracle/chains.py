"""Networks run up and down again by hand, layer by layer: slow, obvious, and sharing no code with the project.

Every step up gives the map and a function that takes what comes from above down through the same step, by the
paper's deconvnet: rectifiers clamp what comes from above, pooling goes back through its switches (overlapping
regions that chose the same position add up), convolutions are transposed, batch normalisation is its affine map.
"""

import torch
import torch.nn.functional as F
from torch import nn


def convolution(x, layer):
    y = F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)

    def down(g):
        rest = tuple(
            x.shape[2 + i] - ((g.shape[2 + i] - 1) * layer.stride[i] - 2 * layer.padding[i] + layer.weight.shape[2 + i])
            for i in (0, 1)
        )
        return F.conv_transpose2d(g, layer.weight, None, layer.stride, layer.padding, rest)

    return y, down


def rectifier(x):
    return x.clamp(min=0), lambda g: g.clamp(min=0)


def pooling(x, layer):
    options = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.ceil_mode)
    _, switches = F.max_pool2d(agreeing(x), *options, return_indices=True)
    y = x.flatten(2).gather(2, switches.flatten(2)).view_as(switches)

    def down(g):
        back = torch.zeros_like(x).flatten(2)
        for cell in range(g[0, 0].numel()):  # one region after the other
            row, column = divmod(cell, g.shape[3])
            back.scatter_add_(2, switches[:, :, row, column, None], g[:, :, row, column, None])
        return back.reshape(x.shape)

    return y, down


def agreeing(x):
    """Doubles that are the same where they differ by rounding alone, so that the first of them is the maximum."""
    if x.dtype != torch.float64:
        return x
    unit = 2.0**-42 * x.abs().max()
    return (x / unit).round() * unit


def normalisation(x, layer):
    scale = (layer.weight / (layer.running_var + layer.eps).sqrt())[None, :, None, None]
    shift = layer.bias[None, :, None, None] - layer.running_mean[None, :, None, None] * scale
    return x * scale + shift, lambda g: g * scale


def averaging(x, layer):
    size = layer.kernel_size
    assert layer.stride == size
    assert layer.padding == 0
    y = F.avg_pool2d(x, size)

    def down(g):
        spread = g.repeat_interleave(size, 2).repeat_interleave(size, 3) / size**2
        return F.pad(spread, (0, x.shape[3] - spread.shape[3], 0, x.shape[2] - spread.shape[2]))

    return y, down


def chain(x, steps):
    downs = []
    for step in steps:
        x, down = step(x)
        downs.append(down)

    def all_down(g):
        for down in reversed(downs):
            g = down(g)
        return g

    return x, all_down


def sequential(x, modules):
    steps = {
        nn.Conv2d: lambda m: lambda x: convolution(x, m),
        nn.ReLU: lambda m: rectifier,
        nn.MaxPool2d: lambda m: lambda x: pooling(x, m),
        nn.BatchNorm2d: lambda m: lambda x: normalisation(x, m),
        nn.AvgPool2d: lambda m: lambda x: averaging(x, m),
    }
    return chain(x, [steps[type(module)](module) if type(module) in steps else block(module) for module in modules])


def block(module):
    blocks = {
        "Fire": fire,
        "BasicBlock": basic_block,
        "BasicConv2d": basic_convolution,
        "Inception": inception,
        "_DenseBlock": dense_block,
        "Sequential": lambda m, x: sequential(x, m),
    }
    return blocks[type(module).__name__].__get__(module)


def basic_convolution(self, x):
    return chain(x, [lambda x: convolution(x, self.conv), lambda x: normalisation(x, self.bn), rectifier])


def inception(self, x):
    branches = [sequential(x, [branch]) for branch in (self.branch1, self.branch2, self.branch3, self.branch4)]
    sizes = [y.shape[1] for y, _ in branches]

    def down(g):
        parts = g.split(sizes, dim=1)
        return sum(down(part) for (_, down), part in zip(branches, parts, strict=True))

    return torch.cat([y for y, _ in branches], 1), down


def dense_block(self, x):
    seen, downs = x, []
    for layer in self.values():
        y, down = sequential(seen, [layer.norm1, layer.relu1, layer.conv1, layer.norm2, layer.relu2, layer.conv2])
        downs.append((seen.shape[1], down))
        seen = torch.cat([seen, y], 1)

    def all_down(g):
        for known, down in reversed(downs):  # a layer's own channels are the last; it saw all before them
            g = g[:, :known] + down(g[:, known:])
        return g

    return seen, all_down


def fire(self, x):
    squeezed, down_squeeze = chain(x, [lambda x: convolution(x, self.squeeze), rectifier])
    one, down_one = chain(squeezed, [lambda x: convolution(x, self.expand1x1), rectifier])
    three, down_three = chain(squeezed, [lambda x: convolution(x, self.expand3x3), rectifier])
    split = one.shape[1]
    return torch.cat([one, three], 1), lambda g: down_squeeze(down_one(g[:, :split]) + down_three(g[:, split:]))


def basic_block(self, x):
    main, down_main = chain(
        x,
        [
            lambda x: convolution(x, self.conv1),
            lambda x: normalisation(x, self.bn1),
            rectifier,
            lambda x: convolution(x, self.conv2),
            lambda x: normalisation(x, self.bn2),
        ],
    )
    side, down_side = sequential(x, self.downsample) if self.downsample is not None else (x, lambda g: g)
    y, down_rectifier = rectifier(main + side)

    def down(g):
        g = down_rectifier(g)
        return down_main(g) + down_side(g)

    return y, down


def up_to(name, module, layer):
    """The steps of a network up to a tapped layer."""
    if name == "tiny_zfnet":
        m = module
        after_pools = [
            m.conv1,
            m.relu,
            m.pool,
            m.conv2,
            m.relu,
            m.pool,
            m.conv3,
            m.relu,
            m.conv4,
            m.relu,
            m.conv5,
            m.relu,
        ]
        ends = {"conv1": 2, "conv2": 5, "conv3": 8, "conv4": 10, "conv5": 12}
        return after_pools[: ends[layer]]
    if name == "resnet18":
        m = module
        every = [m.conv1, m.bn1, m.relu, m.maxpool, m.layer1, m.layer2, m.layer3, m.layer4]
        return every[: {"conv1": 3, "layer1": 5, "layer2": 6, "layer3": 7, "layer4": 8}[layer]]
    if name == "googlenet":
        m = module
        every = [m.conv1, m.maxpool1, m.conv2, m.conv3, m.maxpool2, m.inception3a, m.inception3b, m.maxpool3]
        every += [m.inception4a, m.inception4b, m.inception4c, m.inception4d, m.inception4e, m.maxpool4]
        every += [m.inception5a, m.inception5b]
        return every[: {"conv1": 1, "conv3": 4, "inception3b": 7, "inception4e": 13, "inception5b": 16}[layer]]
    if name == "densenet121":
        f = module.features
        every = [f.conv0, f.norm0, f.relu0, f.pool0]
        for block_, then in ((1, f.transition1), (2, f.transition2), (3, f.transition3)):
            every += [f.get_submodule(f"denseblock{block_}"), then.norm, then.relu, then.conv, then.pool]
        every += [f.denseblock4, f.norm5, nn.ReLU()]
        return every[: {"conv0": 3, "denseblock1": 7, "denseblock2": 12, "denseblock3": 17, "denseblock4": 22}[layer]]
    ends = {
        "alexnet": {"conv1": 2, "conv2": 5, "conv3": 8, "conv4": 10, "conv5": 12},
        "vgg16": {"conv1_2": 4, "conv2_2": 9, "conv3_3": 16, "conv4_3": 23, "conv5_3": 30},
        "squeezenet1_0": {"conv1": 2, "fire4": 6, "fire6": 9, "fire8": 11, "fire9": 13},
    }
    return list(module.features[: ends[name][layer]])


def run_up(name, module, layer, pixels):
    """The map of a layer, and the function that takes an activation of it down to the pixels."""
    return sequential(pixels, up_to(name, module, layer))


def run_all(name, module, layers, pixels):
    """The maps of several layers, by name."""
    maps, done = {}, 0
    for layer in layers:  # in the order of the network
        steps = up_to(name, module, layer)
        pixels, _ = sequential(pixels, steps[done:])
        maps[layer], done = pixels, len(steps)
    return maps
