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
    y, switches = F.max_pool2d(x, *options, return_indices=True)

    def down(g):
        back = torch.zeros_like(x).flatten(2)
        for cell in range(g[0, 0].numel()):  # one region after the other
            row, column = divmod(cell, g.shape[3])
            back.scatter_add_(2, switches[:, :, row, column, None], g[:, :, row, column, None])
        return back.reshape(x.shape)

    return y, down


def normalisation(x, layer):
    scale = (layer.weight / (layer.running_var + layer.eps).sqrt())[None, :, None, None]
    shift = layer.bias[None, :, None, None] - layer.running_mean[None, :, None, None] * scale
    return x * scale + shift, lambda g: g * scale


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
    }
    return chain(x, [steps[type(module)](module) if type(module) in steps else block(module) for module in modules])


def block(module):
    return {"Fire": fire, "BasicBlock": basic_block, "Sequential": lambda m, x: sequential(x, m)}[
        type(module).__name__
    ].__get__(module)


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
