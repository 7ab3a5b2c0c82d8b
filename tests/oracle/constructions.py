"""Small networks that differ in one construction each, and an oracle for them that knows nothing of any graph.

Every network is written once, as a body over its parts, and stands in four forms that share seed and weights:

- USER: as a user wrote it. This is the network under test.
- ORACLE: every rectifier is replaced, in the source, by ``Rectify``, which clamps the gradient from above at zero.
  ``net.tap`` marks, in the source too, where the layer is read by the rule of the README. The backward pass of this
  form, one image at a time and on the whole image, is the projection.
- SMOOTH: every rectifier is replaced by ``torch.relu``. Its gradient is the user's own: so the bodies are checked.
- OPENED: rectifiers pass everything, max-pooling is averaging, weights are positive. The support of its gradient is
  what the units of the layer see.

``build_<name>`` builds the user's form of the construction of that name: it is what ``network.name`` can name.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Form = Enum("Form", "USER ORACLE SMOOTH OPENED")


class Rectify(torch.autograd.Function):
    """max(0, x), up to a ceiling, by the deconvnet's rule: the gradient from above is clamped at zero."""

    @staticmethod
    def forward(ctx, x, ceiling=None):
        return x.clamp(0, ceiling)

    @staticmethod
    def backward(ctx, from_above):
        return from_above.clamp(min=0), None


class Net(nn.Module):
    """A construction in one of its forms: a body over parts."""

    def __init__(self, construction: Construction, form: Form) -> None:
        super().__init__()
        self.form, self.body, self.ceiling = form, construction.body, construction.ceiling
        self.is_flat = construction.is_flat
        self.reader = None
        for name, part in construction.parts(self).items():
            setattr(self, name, part)
        self.users_rectifier = construction.rectifier()

    def forward(self, x):
        return self.body(self, x)

    @property
    def is_user(self) -> bool:
        """Whether rectifiers are as the user wrote them."""
        return self.form is Form.USER

    def rect(self, x, users=None, ceiling=None):
        """Rectify: by the construction's own rectifier, or by another that the user wrote at this place."""
        if self.is_user:
            return users(x) if users else self.users_rectifier(x)
        return self.clamped(x, ceiling if users else self.ceiling)

    def clamped(self, x, ceiling=None):
        """Rectify by this form's rule, whatever the user wrote."""
        if self.form is Form.ORACLE:
            return Rectify.apply(x, ceiling)
        if self.form is Form.OPENED:
            return x * 1.0
        return torch.relu(x) if ceiling is None else x.clamp(0, ceiling)

    def max_pool(self, x, kernel, stride=None, padding=0, dilation=1, ceil_mode=False):
        """Pool maxima; in the opened form every position of a region counts."""
        if self.form is Form.OPENED:
            return F.avg_pool2d(x, kernel, stride or kernel, padding, ceil_mode)
        return F.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode)

    def maximum(self, x, dim):
        """Take the maximum along a dimension that is no place; in the opened form the mean."""
        return x.mean(dim) if self.form is Form.OPENED else x.max(dim).values

    def tap(self, x, to_map=None):
        """Mark where the layer is read; ``to_map`` makes (image, filter, row, column) of it. The user has no such."""
        if self.reader is not None:
            self.reader(to_map(x) if to_map else x)
        return x


class _Read(Exception):
    """Ends a forward pass at the tap."""


def read_map(net: Net, x: Tensor) -> Tensor:
    """Run a network up to its marked tap, in any form, and return the map (image, filter, row, column)."""
    maps: list[Tensor] = []

    def reader(tapped: Tensor) -> None:
        maps.append(tapped)
        raise _Read

    net.reader = reader
    try:
        net(x)
    except _Read:
        return maps[0]
    finally:
        net.reader = None
    raise AssertionError("the network ended before its tap")


def open_weights(net: Net, seed: int = 0) -> Net:
    """Give a network in the opened form positive weights, so that its gradient's support is all that a unit sees."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in net.named_parameters():
        values = 0.5 + torch.rand(parameter.shape, generator=generator)
        if name.endswith("bias"):
            values = torch.zeros_like(values)
        elif parameter.dim() > 1:
            values = values / parameter[0].numel()
        parameter.data = values
    return net.eval().requires_grad_(False).double()


def conv(inputs: int, outputs: int, kernel: Any = 3, padding: Any = None, **options: Any) -> nn.Conv2d:
    """A convolution that keeps the size, unless options say otherwise."""
    if padding is None:
        padding = kernel // 2 if isinstance(kernel, int) else tuple(k // 2 for k in kernel)
    return nn.Conv2d(inputs, outputs, kernel, padding=padding, **options)


def plain_parts(net: Net) -> dict[str, nn.Module]:
    return {"a": conv(3, 8), "b": conv(8, 8), "c": conv(8, 4, 1)}


def parts(**makers: Callable[[], nn.Module]) -> Callable[[Net], dict[str, nn.Module]]:
    """Parts beside a, b and c, or in place of them; each is made when a network is built."""

    def make(net: Net) -> dict[str, nn.Module]:
        modules = plain_parts(net)
        return {**modules, **{name: maker() for name, maker in makers.items()}}

    return make


def two(net, x):
    x = net.rect(net.a(x))
    return net.c(net.tap(net.rect(net.b(x))))


def between(function):
    """A body with something between the first rectifier and the tapped convolution."""

    def body(net, x):
        x = function(net, net.rect(net.a(x)))
        return net.c(net.tap(net.rect(net.b(x))))

    return body


def behind(function):
    """A body with something between the tapped convolution and its rectifier."""

    def body(net, x):
        x = net.rect(net.a(x))
        return net.c(net.tap(net.rect(function(net, net.b(x)))))

    return body


def before(function):
    """A body with something at the pixels."""

    def body(net, x):
        return two(net, function(net, x))

    return body


@dataclass(frozen=True)
class Construction:
    """A network and what a run of it must do.

    Attributes
    ----------
    rectifier : callable
        Makes the user's rectifier, a function or a module; of a network that bends, the user's activation function.
    ceiling : float or None
        Of the rectifier.
    refused : tuple of str
        The deconvnet is refused at planning, in a sentence that has one of these words; the gradient is not.
    refused_all : tuple of str
        Every rule is.
    unseen : tuple of str
        It may be refused, in a sentence that has one of these words; where it is not, it must be right.
    has_gradient : bool
        Whether the user's own autograd is the derivative of what the network computes.
    """

    name: str
    body: Callable[[Net, Tensor], Any] = two
    parts: Callable[[Net], dict[str, nn.Module]] = plain_parts
    rectifier: Callable[[], Any] = nn.ReLU
    ceiling: float | None = None
    layer: str = "b"
    size: int = 48
    seed: int = 0
    gain: float = 1.0  # of the weights and biases of convolutions, so that ceilings matter
    refused: tuple[str, ...] = ()
    refused_all: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    has_gradient: bool = True
    is_flat: bool = False  # its gradient is zero everywhere, as that of a staircase
    slow: bool = field(default=False, compare=False)

    @property
    def oracle(self) -> Form:
        """The form whose backward pass is the projection by the rule that the run can use."""
        return Form.USER if self.refused else Form.ORACLE

    def build(self, form: Form = Form.USER) -> Net:
        """Build the network in a form; weights depend on the seed alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            net = Net(self, form)
        if self.gain != 1:
            for module in net.modules():
                if isinstance(module, nn.Conv2d):
                    module.weight.data *= self.gain
        return net.eval().requires_grad_(False)


CONSTRUCTIONS: dict[str, Construction] = {}

# Those that differ from another of the table in little.
SLOW = frozenset(
    """
    functional_relu_underscore torch_relu_underscore method_relu_underscore clamp_float clamp_min_underscore
    clip_underscore torch_clip functional_threshold maximum_of_a_scalar max_of_zeros clamped_negative mask_module
    mask_type_as where_zeros masked_fill_underscore half_of_sum_with_torch_abs less_its_minimum functional_relu6
    clip_with_a_ceiling functional_silu_inplace gelu_by_tanh selu torch_tanh softsign hardshrink threshold_above_zero
    mish_by_hand quick_gelu_by_hand leaky_relu_by_maximum snake tempered_exponential soft_threshold_by_hand
    squeeze_excitation_hard squeeze_excitation_clamped_softmax glu_by_hand
    behind_batch_norm_without_affine behind_frozen_batch_norm_centred_first behind_permutations behind_contiguous
    layer_norm_through_permute_before_a_sum space_to_depth_by_view maxout_by_maximum bilinear_of_aligned_corners
    convolution_by_unfold_and_einsum shifted_by_assignment even_kernels padding_same_in_words overlapping_max_pooling
    adaptive_average_pooling replicate_padding positional_embedding_resized channels_last_before_a_sum tokens_mixed
    convolution_by_matmul chosen_channels grouped inception_branches
    """.split()  # noqa: SIM905
)


def add(name: str, body: Callable[[Net, Tensor], Any] = two, *own: Any, **options: Any) -> None:
    """Add a construction to the table, and its builder to this module."""
    assert name not in CONSTRUCTIONS, name
    for key in ("refused", "refused_all", "unseen"):
        if isinstance(options.get(key), str):
            options[key] = (options[key],)
    if own:
        (options["parts"],) = own
    construction = CONSTRUCTIONS[name] = Construction(name, body, **options, slow=name in SLOW)
    globals()[f"build_{name}"] = partial(construction.build, Form.USER)


# -- rectifiers: max(0, x) as people write it ------------------------------------------------------------------------


def assigned(x):
    x[x < 0] = 0
    return x


def ignored_result(x):
    F.relu(x, inplace=True)
    return x


def flattened(x):
    return F.relu(x.flatten(2)).view(x.shape)


def flattened_in_place(x):
    x.view(x.shape[0], -1).relu_()
    return x


def in_tokens(x):
    return F.relu(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:])


class HandRectifier(nn.Module):
    """A user's own module."""

    def forward(self, x):
        keep = x > 0
        return x * keep


class LearnedZero(nn.Module):
    """A rectifier whose zero is a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("zero", torch.zeros(()))

    def forward(self, x):
        return torch.maximum(x, self.zero)


RECTIFIERS: dict[str, Callable[[], Any]] = {
    "relu_module": nn.ReLU,
    "relu_module_inplace": lambda: nn.ReLU(inplace=True),
    "functional_relu": lambda: F.relu,
    "functional_relu_inplace": lambda: partial(F.relu, inplace=True),
    "functional_relu_underscore": lambda: F.relu_,
    "inplace_with_its_result_ignored": lambda: ignored_result,
    "torch_relu": lambda: torch.relu,
    "torch_relu_underscore": lambda: torch.relu_,
    "method_relu": lambda: lambda x: x.relu(),
    "method_relu_underscore": lambda: lambda x: x.relu_(),
    "aten_relu": lambda: torch.ops.aten.relu,
    "relu_of_relu": lambda: lambda x: x.relu().relu(),
    "clamp_min_keyword": lambda: lambda x: x.clamp(min=0),
    "clamp_float": lambda: lambda x: torch.clamp(x, 0.0),
    "clamp_underscore": lambda: lambda x: x.clamp_(min=0),
    "clamp_min_method": lambda: lambda x: x.clamp_min(0),
    "clamp_min_underscore": lambda: lambda x: x.clamp_min_(0),
    "clamp_to_a_tensor": lambda: lambda x: x.clamp(min=torch.zeros(1)),
    "clip_keyword": lambda: lambda x: x.clip(min=0),
    "clip_underscore": lambda: lambda x: x.clip_(min=0),
    "clip_as_in_numpy": lambda: lambda x: x.clip(0),
    "torch_clip": lambda: lambda x: torch.clip(x, min=0.0),
    "threshold_module": lambda: nn.Threshold(0.0, 0.0),
    "functional_threshold": lambda: lambda x: F.threshold(x, 0.0, 0.0),
    "threshold_underscore": lambda: lambda x: F.threshold_(x, 0.0, 0.0),
    "maximum_of_zeros": lambda: lambda x: torch.maximum(x, torch.zeros_like(x)),
    "maximum_of_a_scalar": lambda: lambda x: torch.maximum(torch.tensor(0.0), x),
    "maximum_of_a_buffer": LearnedZero,
    "max_of_zeros": lambda: lambda x: torch.max(x, torch.zeros_like(x)),
    "fmax_of_zeros": lambda: lambda x: torch.fmax(x, x.new_zeros(())),
    "minimum_of_negatives": lambda: lambda x: -torch.minimum(-x, torch.zeros_like(x)),
    "clamped_negative": lambda: lambda x: -(-x).clamp(max=0),
    "mask": lambda: lambda x: x * (x > 0),
    "mask_module": HandRectifier,
    "mask_at_least": lambda: lambda x: (x >= 0) * x,
    "mask_float": lambda: lambda x: x * (x > 0).float(),
    "mask_type_as": lambda: lambda x: torch.mul(x, x.gt(0).type_as(x)),
    "mask_in_place": lambda: lambda x: x.mul_(x > 0),
    "mask_sign": lambda: lambda x: x * torch.sign(x).clamp(min=0),
    "mask_heaviside": lambda: lambda x: torch.heaviside(x.detach(), torch.zeros(())) * x,
    "where_number": lambda: lambda x: torch.where(x > 0, x, 0.0),
    "where_zeros": lambda: lambda x: torch.where(x < 0, torch.zeros_like(x), x),
    "where_method": lambda: lambda x: x.where(x > 0, torch.tensor(0.0)),
    "masked_fill": lambda: lambda x: x.masked_fill(x < 0, 0),
    "masked_fill_underscore": lambda: lambda x: x.masked_fill_(x < 0, 0.0),
    "assigned_by_mask": lambda: assigned,
    "half_of_sum_with_abs": lambda: lambda x: (x + x.abs()) / 2,
    "half_of_sum_with_torch_abs": lambda: lambda x: 0.5 * (torch.abs(x) + x),
    "less_its_negative_part": lambda: lambda x: x - x.clamp(max=0),
    "less_its_minimum": lambda: lambda x: x - torch.minimum(x, torch.zeros_like(x)),
    "stack_and_max": lambda: lambda x: torch.stack([x, torch.zeros_like(x)]).max(0).values,
    "leaky_relu_without_slope": lambda: nn.LeakyReLU(0.0),
    "relu_of_a_flat_view": lambda: flattened,
    "relu_of_tokens": lambda: in_tokens,
    "relu_then_dropout": lambda: nn.Sequential(nn.ReLU(), nn.Dropout(0.5)),
}
CEILINGS: dict[str, tuple[Callable[[], Any], float]] = {
    "relu6_module": (nn.ReLU6, 6.0),
    "functional_relu6": (lambda: F.relu6, 6.0),
    "hardtanh": (lambda: nn.Hardtanh(0, 4), 4.0),
    "functional_hardtanh_inplace": (lambda: partial(F.hardtanh, min_val=0.0, max_val=2.0, inplace=True), 2.0),
    "clamp_with_a_ceiling": (lambda: lambda x: x.clamp(0, 6), 6.0),
    "clip_with_a_ceiling": (lambda: lambda x: x.clip(min=0, max=3.0), 3.0),
    "minimum_of_relu": (lambda: lambda x: torch.minimum(F.relu(x), torch.tensor(3.0)), 3.0),
}
for _name, _rectifier in RECTIFIERS.items():
    add(_name, rectifier=_rectifier)
add("relu_in_place_of_a_flat_view", rectifier=lambda: flattened_in_place, refused_all="dimensions")
for _name, (_rectifier, _ceiling) in CEILINGS.items():
    add(_name, rectifier=_rectifier, ceiling=_ceiling, gain=6)


def one_module_many_times(net, x):
    x = net.rect(net.a(x))
    for _ in range(2):
        x = net.rect(net.d(x))
    return net.c(net.tap(net.rect(net.b(x))))


def half_in_place(net, x):
    x = net.a(x)
    if net.is_user:
        x[:, :4].relu_()
    else:
        x = torch.cat([net.clamped(x[:, :4]), x[:, 4:]], 1)
    return net.c(net.tap(net.rect(net.b(x))))


def concatenated_relu(net, x):
    x = net.a(x)
    x = torch.cat([net.rect(x), net.rect(-x)], 1)
    return net.c(net.tap(net.rect(net.b(x))))


def summed_out_of_place_twice(net, x):
    x = net.a(x)
    x = net.rect(x) + net.d(x)  # the convolution's result has two readers
    return net.c(net.tap(net.rect(net.b(x))))


def residual(net, x):
    x = net.rect(net.a(x))
    y = net.tap(net.rect(net.b(x)))
    return net.c(net.rect(net.d(y) + x))


def residual_end(net, x):
    x = net.rect(net.a(x))
    x = net.rect(net.b(net.rect(net.d(x))) + x, ceiling=None)
    return net.c(net.tap(net.rect(net.e(x))))


class Block(nn.Module):
    """A residual block that ends in a sum and a rectifier: the layer is the block."""

    def __init__(self, rect):
        super().__init__()
        self.first, self.second, self.rect = conv(8, 8), conv(8, 8), rect

    def forward(self, x):
        return self.rect(self.second(self.rect(self.first(x))) + x)


def block(net, x):
    return net.c(net.tap(net.block(net.rect(net.a(x)))))


add("one_module_many_times", one_module_many_times, parts(d=lambda: conv(8, 8)))
add("relu_in_place_of_some_channels", half_in_place)
add("concatenated_relu", concatenated_relu, parts(b=lambda: conv(16, 8)))
add("rectified_beside_a_convolution", summed_out_of_place_twice, parts(d=lambda: conv(8, 8, 1)))
add("layer_read_by_a_residual_branch", residual, parts(d=lambda: conv(8, 8)))
add("behind_a_residual_sum", residual_end, parts(d=lambda: conv(8, 8), e=lambda: conv(8, 8, 1)), layer="e")
add("residual_block", block, lambda net: {"a": conv(3, 8), "block": Block(net.rect), "c": conv(8, 4, 1)}, layer="block")


# -- bends that are no rectifiers: the deconvnet is not defined ------------------------------------------------------

NAMED_BENDS: dict[str, tuple[Callable[[], Any], str | tuple[str, ...]]] = {
    "silu": (nn.SiLU, "silu"),
    "functional_silu_inplace": (lambda: partial(F.silu, inplace=True), "silu"),
    "gelu": (nn.GELU, "gelu"),
    "gelu_by_tanh": (lambda: nn.GELU("tanh"), "gelu"),
    "leaky_relu": (lambda: nn.LeakyReLU(0.1), "leaky_relu"),
    "elu": (nn.ELU, "elu"),
    "selu": (nn.SELU, "selu"),
    "tanh": (nn.Tanh, "tanh"),
    "torch_tanh": (lambda: torch.tanh, "tanh"),
    "sigmoid": (nn.Sigmoid, "sigmoid"),
    "softplus": (nn.Softplus, "softplus"),
    "softsign": (nn.Softsign, ("softsign", "no rectifier")),
    "hardswish": (nn.Hardswish, "hardswish"),
    "hardsigmoid": (nn.Hardsigmoid, "hardsigmoid"),
    "mish": (nn.Mish, "mish"),
    "prelu": (lambda: nn.PReLU(8), "prelu"),
    "hardshrink": (lambda: nn.Hardshrink(0.1), ("hardshrink", "no rectifier")),
    "hardtanh_around_zero": (nn.Hardtanh, ("hardtanh", "no rectifier")),
    "threshold_above_zero": (lambda: nn.Threshold(0.1, 0.0), ("threshold", "no rectifier")),
    "clamp_from_below_zero": (lambda: lambda x: x.clamp(min=-0.1), ("clamp", "no rectifier")),
}
HAND_BENDS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu_by_hand": lambda x: x * torch.sigmoid(x),
    "mish_by_hand": lambda x: x * torch.tanh(F.softplus(x)),
    "gelu_by_hand": lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)),
    "quick_gelu_by_hand": lambda x: x * torch.sigmoid(1.702 * x),
    "hardswish_by_hand": lambda x: x * F.relu6(x + 3) / 6,
    "leaky_relu_by_hand": lambda x: torch.where(x > 0, x, 0.1 * x),
    "leaky_relu_by_maximum": lambda x: torch.maximum(x, 0.2 * x),
    "square": lambda x: x**2,
    "squared_relu": lambda x: F.relu(x) ** 2,
    "abs": lambda x: x.abs(),
    "sin": torch.sin,
    "snake": lambda x: x + torch.sin(x) ** 2,
    "an_unknown_one": lambda x: torch.log1p(x.abs()) * torch.sign(x),
    "soft_threshold_by_hand": lambda x: torch.sign(x) * (x.abs() - 0.1).clamp(min=0),
    "quantised": lambda x: (F.relu(x) * 8).round() / 8,
    "tempered_exponential": lambda x: x + x * torch.exp(-(x**2)),
}
for _name, (_bend, _words) in NAMED_BENDS.items():
    add(_name, rectifier=_bend, refused=_words)
for _name, _function in HAND_BENDS.items():
    add(_name, rectifier=lambda function=_function: function, refused="no rectifier", is_flat=_name == "quantised")


# -- gates: they scale another map, and their derivative is passed on ------------------------------------------------


def squeeze_excitation(gate):
    def function(net, x):
        weights = net.up(net.rect(net.down(x.mean((2, 3), keepdim=True))))
        return x * gate(weights)

    return between(function)


def adaptive_excitation(net, x):
    n, channels = x.shape[:2]
    y = F.adaptive_avg_pool2d(x, 1).view(n, channels)
    y = torch.sigmoid(net.up(net.rect(net.down(y)))).view(n, channels, 1, 1)
    return x * y.expand_as(x)


def spatial_attention(net, x):
    summary = torch.cat([x.mean(1, keepdim=True), net.maximum(x, 1).unsqueeze(1)], 1)
    return x * torch.sigmoid(net.d(summary))


def efficient_channel_attention(net, x):
    y = net.d(x.mean((2, 3)).unsqueeze(1))
    return x * torch.sigmoid(y).transpose(1, 2).unsqueeze(-1)


def gated_by_hand(net, x):
    values, gates = net.d(x).chunk(2, 1)
    return values * gates.sigmoid()


def attention_over_space(net, x):
    n, channels, height, width = x.shape
    q, k, v = net.d(x).flatten(2).chunk(3, 1)
    weights = torch.softmax(q.transpose(1, 2) @ k / channels**0.5, -1)
    return x + (v @ weights.transpose(1, 2)).view(n, channels, height, width)


def softmax_mask(net, x):
    mask = torch.softmax(net.d(x).flatten(2), -1).view(x.shape[0], 1, *x.shape[2:])
    return x * mask * 100


def global_context(net, x):
    mask = torch.softmax(net.d(x).flatten(2), -1)
    context = (x.flatten(2) * mask).sum(-1)[:, :, None, None]
    return x + net.up(net.rect(net.down(context)))


def response_normalisation(net, x):
    energy = x.norm(p=2, dim=(2, 3), keepdim=True)
    return net.scale * (x * (energy / (energy.mean(1, keepdim=True) + 1e-6))) + x


class Scale(nn.Module):
    """A learned factor and shift for every channel, as in ConvNeXt's layer scale and FixUp."""

    def __init__(self, channels, shape=(1, -1, 1, 1)):
        super().__init__()
        self.weight = nn.Parameter(0.5 + torch.rand(channels).view(shape))
        self.bias = nn.Parameter(0.1 * torch.randn(channels).view(shape))

    def forward(self, x):
        return x * self.weight + self.bias


def excitation_parts(layer):
    return parts(down=lambda: layer(8, 4), up=lambda: layer(4, 8))


pointwise = partial(conv, kernel=1)
add("squeeze_excitation", squeeze_excitation(torch.sigmoid), excitation_parts(pointwise))
add("squeeze_excitation_hard", squeeze_excitation(F.hardsigmoid), excitation_parts(pointwise))
add("squeeze_excitation_clamped_softmax", squeeze_excitation(lambda x: x.softmax(1)), excitation_parts(pointwise))
add("squeeze_excitation_linear", between(adaptive_excitation), excitation_parts(nn.Linear))
add("spatial_attention", between(spatial_attention), parts(d=lambda: conv(2, 1, 7)))
add(
    "efficient_channel_attention",
    between(efficient_channel_attention),
    parts(d=lambda: nn.Conv1d(1, 1, 3, padding=1, bias=False)),
)
add("glu", between(lambda net, x: F.glu(net.d(x), 1)), parts(d=lambda: conv(8, 16, 1)))
add("glu_by_hand", between(gated_by_hand), parts(d=lambda: conv(8, 16, 1)))
add("gate_of_a_convolution", between(lambda net, x: net.d(x) * torch.sigmoid(net.e(x))),
    parts(d=lambda: conv(8, 8, 1), e=lambda: conv(8, 8, 3)))  # fmt: skip
add("gate_that_is_detached", between(lambda net, x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)).detach()))
add("attention_over_space", between(attention_over_space),
    parts(a=lambda: conv(3, 8, 4, 0, stride=4), d=lambda: conv(8, 24, 1)))  # fmt: skip
add("softmax_mask_over_space", between(softmax_mask), parts(d=lambda: conv(8, 1, 1)))
add(
    "global_context",
    between(global_context),
    parts(d=lambda: conv(8, 1, 1), down=lambda: conv(8, 4, 1), up=lambda: conv(4, 8, 1)),
)
add(
    "global_response_normalisation",
    between(response_normalisation),
    lambda net: {**plain_parts(net), "scale": nn.Parameter(torch.rand(1, 8, 1, 1))},
)
add("layer_scale", between(lambda net, x: x + net.scale(net.d(x))),
    parts(d=lambda: conv(8, 8, 1), scale=lambda: Scale(8)))  # fmt: skip


# -- between a convolution and its rectifier -------------------------------------------------------------------------


def seeded_norm(norm: nn.Module) -> nn.Module:
    """Give a normalisation statistics and weights of both signs, as trained ones may have."""
    for name, tensor in norm.state_dict().items():
        if name == "running_mean":
            tensor.normal_(0, 0.1)
        elif name == "running_var":
            tensor.uniform_(0.5, 1.5)
        elif name == "weight":
            tensor.copy_((0.5 + torch.rand_like(tensor)) * torch.tensor([1.0, -1.0]).repeat(len(tensor) // 2))
        elif name == "bias":
            tensor.normal_(0, 0.1)
    return norm


class FrozenBatchNorm(nn.Module):
    """As detectron2 and torchvision write it: buffers, and one product and sum."""

    def __init__(self, channels):
        super().__init__()
        self.register_buffer("weight", torch.linspace(-1.0, 1.5, channels))
        self.register_buffer("bias", torch.linspace(-0.2, 0.2, channels))
        self.register_buffer("running_mean", torch.linspace(-0.1, 0.3, channels))
        self.register_buffer("running_var", torch.linspace(0.5, 1.5, channels))

    def forward(self, x):
        scale = (self.weight * (self.running_var + 1e-5).rsqrt()).reshape(1, -1, 1, 1)
        return x * scale + (self.bias.reshape(1, -1, 1, 1) - self.running_mean.reshape(1, -1, 1, 1) * scale)


class FrozenBatchNormFirstCentred(FrozenBatchNorm):
    """The same, subtracting and dividing first."""

    def forward(self, x):
        x = (x - self.running_mean[:, None, None]) / torch.sqrt(self.running_var[:, None, None] + 1e-5)
        return torch.addcmul(self.bias[:, None, None], x, self.weight[:, None, None])


class ChannelNorm(nn.Module):
    """LayerNorm over channels by hand, as in ConvNeXt."""

    def __init__(self, channels):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class RootMeanSquareNorm(nn.Module):
    """RMS norm over channels by hand."""

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(0.5 + torch.rand(channels))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6) * self.weight[:, None, None]


class ResponseNormByHand(nn.Module):
    """Local response normalisation by hand: squares, averaged over neighbouring channels."""

    def forward(self, x):
        squares = F.avg_pool3d(F.pad(x.pow(2).unsqueeze(1), (0, 0, 0, 0, 2, 2)), (5, 1, 1), 1).squeeze(1)
        return x / (squares * 0.5 + 1.0).pow(0.75)


class StandardisedConv(nn.Conv2d):
    """Weight standardisation: the weight is normalised in every forward pass."""

    def forward(self, x):
        weight = self.weight
        mean, deviation = weight.mean((1, 2, 3), keepdim=True), weight.std((1, 2, 3), keepdim=True)
        return self._conv_forward(x, (weight - mean) / (deviation + 1e-5) * 0.3, self.bias)


class PermutedLayerNorm(nn.LayerNorm):
    """LayerNorm over channels through a permutation, as torchvision's LayerNorm2d."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


NORMS: dict[str, Callable[[], nn.Module]] = {
    "batch_norm": lambda: seeded_norm(nn.BatchNorm2d(8)),
    "batch_norm_without_affine": lambda: seeded_norm(nn.BatchNorm2d(8, affine=False)),
    "group_norm": lambda: seeded_norm(nn.GroupNorm(2, 8)),
    "instance_norm": lambda: seeded_norm(nn.InstanceNorm2d(8, affine=True)),
    "layer_norm_through_permute": lambda: PermutedLayerNorm(8),
    "frozen_batch_norm_by_hand": lambda: FrozenBatchNorm(8),
    "frozen_batch_norm_centred_first": lambda: FrozenBatchNormFirstCentred(8),
    "layer_norm_over_channels_by_hand": lambda: ChannelNorm(8),
    "rms_norm_by_hand": lambda: RootMeanSquareNorm(8),
    "local_response_norm": lambda: nn.LocalResponseNorm(5, alpha=0.5),
    "local_response_norm_by_hand": ResponseNormByHand,
    "scale_and_shift": lambda: Scale(8),
    "identity": nn.Identity,
    "dropout_at_rest": lambda: nn.Dropout2d(0.3),
    "norm_identity_and_dropout": lambda: nn.Sequential(
        seeded_norm(nn.BatchNorm2d(8)), nn.Identity(), nn.Dropout(0.2), Scale(8)
    ),
}
for _name, _norm in NORMS.items():
    add(f"behind_{_name}", behind(lambda net, x: net.norm(x)), parts(norm=_norm))
COPIES: dict[str, Callable[[Tensor], Tensor]] = {
    "clone": lambda x: x.clone(),
    "contiguous": lambda x: x.contiguous(),
    "negation": lambda x: -x,
    "multiplication_by_a_number": lambda x: x * 0.5 - 0.01,
    "permutations": lambda x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2),
    "normalisation_of_length": lambda x: F.normalize(x, dim=1),
    "to_its_own_type": lambda x: x.to(torch.float32) if x.dtype is torch.float32 else x,
}
for _name, _function in COPIES.items():
    add(f"behind_{_name}", behind(lambda net, x, function=_function: function(x)))
add("standardised_convolution", two, parts(b=lambda: StandardisedConv(8, 8, 3, padding=1)))


def norm_before_a_sum(net, x):
    x = net.rect(net.a(x))
    return net.c(net.rect(net.tap(net.norm(net.b(x))) + x))


def convolution_before_a_sum(net, x):
    x = net.rect(net.a(x))
    return net.c(net.rect(net.tap(net.b(x)) + x))


def norm_at_the_end(net, x):
    return net.tap(net.norm(net.b(net.rect(net.a(x))))).mean((2, 3))


for _name in ("batch_norm", "frozen_batch_norm_by_hand", "group_norm", "layer_norm_through_permute"):
    add(f"{_name}_before_a_sum", norm_before_a_sum, parts(norm=NORMS[_name]))
add("frozen_batch_norm_at_the_end", norm_at_the_end, parts(norm=NORMS["frozen_batch_norm_by_hand"]))
add("convolution_before_a_sum", convolution_before_a_sum)
add("activation_before_the_norm", between(lambda net, x: net.norm(x)), parts(norm=lambda: nn.GroupNorm(4, 8)))
add("pre_activation", lambda net, x: net.c(net.tap(net.rect(net.norm(net.b(net.rect(net.first(net.a(x)))))))),
    parts(first=lambda: seeded_norm(nn.BatchNorm2d(8)), norm=lambda: seeded_norm(nn.BatchNorm2d(8))))  # fmt: skip


# -- receptive fields ------------------------------------------------------------------------------------------------


def focus(net, x):
    return torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)


def space_to_depth_by_view(net, x):
    n, channels, height, width = x.shape
    x = x.view(n, channels, height // 2, 2, width // 2, 2)
    return x.permute(0, 3, 5, 1, 2, 4).reshape(n, channels * 4, height // 2, width // 2)


def maxout(net, x):
    x = net.a(x)
    n, channels, height, width = x.shape
    x = net.maximum(x.view(n, channels // 2, 2, height, width), 2)
    return net.c(net.tap(net.rect(net.b(x))))


def maxout_by_maximum(net, x):
    first, second = net.a(x).chunk(2, 1)
    x = (first + second) / 2 if net.form is Form.OPENED else torch.maximum(first, second)
    return net.c(net.tap(net.rect(net.b(x))))


def unfolded(net, x):
    columns = F.unfold(x, 3, padding=1)
    return (net.weight.flatten(1) @ columns).view(x.shape[0], -1, *x.shape[2:])


def unfolded_by_view(net, x):
    patches = x.unfold(2, 4, 4).unfold(3, 4, 4)
    return torch.einsum("nchwij,dcij->ndhw", patches, net.weight)


def assigned_branch(net, x):
    if not net.is_user:  # a convolution keeps its input for the backward pass: plain autograd refuses what is written
        return torch.cat([net.d(x[:, :4]), x[:, 4:]], 1)
    x = x.clone()
    x[:, :4] = net.d(x[:, :4])
    return x


def assigned_fresh(net, x):
    y = torch.zeros_like(x)
    y[:, ::2] = net.d(x)
    y[:, 1::2] = x[:, ::2]
    return y


def shift_by_slicing(net, x):
    down = F.pad(x[:, :4, :-2], (0, 0, 2, 0))
    right = F.pad(x[:, 4:, :, :-1], (1, 0))
    return torch.cat([down, right], 1)


def shift_by_assignment(net, x):
    y = torch.zeros_like(x)
    y[:, :4, 1:] = x[:, :4, :-1]
    y[:, 4:, :, :-3] = x[:, 4:, :, 3:]
    return y


def returned_indices(net, x):
    if net.form is Form.OPENED:
        return net.max_pool(x, 2)
    x, _ = F.max_pool2d(x, 2, return_indices=True)
    return x


def unpooled(net, x):
    if net.form is Form.OPENED:
        return F.interpolate(net.max_pool(x, 2), scale_factor=2)
    y, where = F.max_pool2d(x, 2, return_indices=True)
    return F.max_unpool2d(y, where, 2)


def dense(net, x):
    x = net.rect(net.a(x))
    x = torch.cat([x, net.rect(net.d(x))], 1)
    x = torch.cat([x, net.rect(net.e(x))], 1)
    return net.c(net.tap(net.rect(net.b(x))))


def channel_shuffle(net, x):
    n, channels, height, width = x.shape
    return x.view(n, 2, channels // 2, height, width).transpose(1, 2).reshape(x.shape)


def pyramid(net, x):
    x = net.rect(net.a(x))
    coarse = net.rect(net.d(x))
    x = x + F.interpolate(coarse, size=x.shape[2:], mode="nearest")
    return net.c(net.tap(net.rect(net.b(x))))


def inception(net, x):
    x = net.rect(net.a(x))
    x = torch.cat([net.rect(net.d(x)), net.rect(net.e(x)), net.max_pool(x, 3, 1, 1)], 1)
    return net.c(net.tap(net.rect(net.b(x))))


def pooled_by_view(net, x):
    n, channels, height, width = x.shape
    x = x.view(n, channels, height // 2, 2, width // 2, 2)
    return net.maximum(net.maximum(x, 5), 3)


def pooled_by_slices(net, x):
    corners = x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]
    if net.form is Form.OPENED:
        return sum(corners) / 4
    return torch.maximum(torch.maximum(*corners[:2]), torch.maximum(*corners[2:]))


def blur_pooled(net, x):
    kernel = torch.tensor([1.0, 2.0, 1.0], dtype=x.dtype)
    kernel = (kernel[:, None] * kernel / 16).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), kernel, stride=2, groups=x.shape[1])


def flipped_branch(net, x):
    return x + net.d(x.flip(1))


def grid_sampled(net, x):
    turn = torch.tensor([[0.9, 0.2, 0.1], [-0.2, 0.9, 0.0]], dtype=x.dtype).expand(len(x), 2, 3)
    return F.grid_sample(x, F.affine_grid(turn, x.shape, align_corners=False), align_corners=False)


def spatial_transformer(net, x):
    shift = 0.2 * net.localise(x.mean((2, 3)))
    turn = torch.eye(2, dtype=x.dtype).expand(len(x), 2, 2)
    turn = torch.cat([turn, shift.unsqueeze(2)], 2)
    return F.grid_sample(x, F.affine_grid(turn, x.shape, align_corners=False), align_corners=False)


def fourier_filtered(net, x):
    return x + torch.fft.irfft2(torch.fft.rfft2(x) * net.weight, s=x.shape[2:])


def dynamic_convolution(net, x):
    """Weights that depend on the image, and a group for every image of the batch."""
    n, channels, height, width = x.shape
    mixture = torch.softmax(net.d(x.mean((2, 3))), 1)
    weight = (mixture @ net.weight.flatten(1)).view(n * 8, channels, 3, 3)
    return F.conv2d(x.reshape(1, -1, height, width), weight, padding=1, groups=n).view(n, 8, height, width)


def pyramid_pooling(net, x):
    levels = [F.interpolate(F.adaptive_avg_pool2d(x, n), x.shape[2:], mode="bilinear") for n in (1, 2, 4)]
    return net.d(torch.cat([x, *levels], 1))


def flipped_there_and_back(net, x):
    return net.d(x.flip(3)).flip(3)


def sorted_channels(net, x):
    return x.mean(1, keepdim=True).expand_as(x) + x if net.form is Form.OPENED else x.sort(1).values


def chosen_channels(net, x):
    return x[:, [7, 1, 3, 3, 0, 2, 6, 5]]


def matrix_of_pixels(net, x):
    n, channels, height, width = x.shape
    return torch.matmul(net.weight, x.reshape(n, channels, -1)).reshape(n, -1, height, width)


def with_weight(*shape):
    return lambda net: {**plain_parts(net), "weight": nn.Parameter(torch.randn(shape) / np.prod(shape[1:]) ** 0.5)}


add("pixel_unshuffle", before(lambda net, x: F.pixel_unshuffle(x, 2)), parts(a=lambda: conv(12, 8)))
add("focus_by_slicing", before(focus), parts(a=lambda: conv(12, 8)))
add("space_to_depth_by_view", before(space_to_depth_by_view), parts(a=lambda: conv(12, 8)))
add("pixel_shuffle", between(lambda net, x: F.pixel_shuffle(net.d(x), 2)), parts(d=lambda: conv(8, 32, 3, stride=2)))
add("nearest_interpolation", between(lambda net, x: F.interpolate(net.d(x), scale_factor=2)),
    parts(d=lambda: conv(8, 8, 3, stride=2)))  # fmt: skip
add("bilinear_upsampling", between(lambda net, x: net.up(net.d(x))),
    parts(d=lambda: conv(8, 8, 3, stride=2), up=lambda: nn.Upsample(scale_factor=2, mode="bilinear")))  # fmt: skip
add("bilinear_of_aligned_corners", between(
    lambda net, x: F.interpolate(net.d(x), size=x.shape[2:], mode="bilinear", align_corners=True)),
    parts(d=lambda: conv(8, 8, 3, stride=2)))  # fmt: skip
add("interpolation_by_half", between(lambda net, x: F.interpolate(x, scale_factor=0.5, mode="bilinear")))
add("transposed_convolution", between(lambda net, x: net.rect(net.up(net.rect(net.d(x))))),
    parts(d=lambda: conv(8, 8, 3, stride=2), up=lambda: nn.ConvTranspose2d(8, 8, 2, stride=2)), seed=2)  # fmt: skip
add("overlapping_transposed_convolution", two,
    parts(a=lambda: conv(3, 8, 3, stride=2), b=lambda: nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1)))  # fmt: skip
add("maxout_by_view", maxout, parts(a=lambda: conv(3, 16)))
add("maxout_by_maximum", maxout_by_maximum, parts(a=lambda: conv(3, 16)))
add("convolution_by_unfold", between(unfolded), with_weight(8, 8, 3, 3))
add("convolution_by_unfold_and_einsum", between(unfolded_by_view), with_weight(8, 8, 4, 4))
add("assigned_branch", between(assigned_branch), parts(d=lambda: conv(4, 4, 5)), has_gradient=False)
add("assigned_to_zeros", between(assigned_fresh), parts(d=lambda: conv(8, 4, 3)))
add("rolled", between(lambda net, x: torch.roll(x, (3, -2), (2, 3))))
add("shifted_by_slicing_and_padding", between(shift_by_slicing))
add("shifted_by_assignment", between(shift_by_assignment))
add("dilated", two, parts(b=lambda: conv(8, 8, 3, 4, dilation=4)))
add("strided", two, parts(a=lambda: conv(3, 8, 5, stride=2), b=lambda: conv(8, 8, 3, stride=2)), size=56)
add("depthwise_separable", between(lambda net, x: net.rect(net.d(x))),
    parts(d=lambda: conv(8, 8, 5, groups=8), b=lambda: conv(8, 8, 1)))  # fmt: skip
add("grouped", two, parts(b=lambda: conv(8, 8, 3, groups=4)))
add("asymmetric_kernels", between(lambda net, x: net.rect(net.d(x))),
    parts(d=lambda: conv(8, 8, (1, 7)), b=lambda: conv(8, 8, (3, 1))))  # fmt: skip
add("even_kernels", two, parts(a=lambda: conv(3, 8, 4, 1, stride=2), b=lambda: conv(8, 8, 2, 0)))
add("padding_same_in_words", two, parts(a=lambda: conv(3, 8, 5, "same"), b=lambda: conv(8, 8, 3, "same", dilation=2)))
add("average_pooling", between(lambda net, x: F.avg_pool2d(x, 3, 2, 1)))
add("average_pooling_without_padding_counted", between(lambda net, x: net.pool(x)),
    parts(pool=lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False)))  # fmt: skip
add("max_pooling", between(lambda net, x: net.max_pool(x, 2)))
add("overlapping_max_pooling", between(lambda net, x: net.max_pool(x, 3, 2, 1)))
add("max_pooling_in_ceil_mode", between(lambda net, x: net.max_pool(x, 3, 2, ceil_mode=True)))
add("max_pooling_with_returned_indices", between(returned_indices))
add("max_pooling_by_view", between(pooled_by_view))
add("max_pooling_by_slices", between(pooled_by_slices))
add("unpooled_by_indices", between(unpooled))
add("adaptive_average_pooling", between(lambda net, x: F.adaptive_avg_pool2d(x, 12)))
add("adaptive_average_pooling_uneven", between(lambda net, x: F.adaptive_avg_pool2d(x, (13, 17))))
add("adaptive_max_pooling", between(lambda net, x: F.adaptive_avg_pool2d(x, 7) if net.form is Form.OPENED
    else F.adaptive_max_pool2d(x, 7)))  # fmt: skip
add(
    "stride_that_is_not_square",
    two,
    parts(a=lambda: conv(3, 8, 3, stride=(2, 1)), b=lambda: conv(8, 8, 3, stride=(1, 2))),
)
add("dense_connections", dense, parts(d=lambda: conv(8, 4), e=lambda: conv(12, 4), b=lambda: conv(16, 8)))
add("channel_shuffle", between(channel_shuffle))
add("feature_pyramid", pyramid, parts(d=lambda: conv(8, 8, 3, stride=2)))
add("inception_branches", inception, parts(d=lambda: conv(8, 4, 1), e=lambda: conv(8, 4, 5), b=lambda: conv(16, 8)))
add("blur_pooling", between(blur_pooled))
add("channels_flipped", between(flipped_branch), parts(d=lambda: conv(8, 8)))


add("grid_sampled", between(grid_sampled))
add("spatial_transformer", between(spatial_transformer), parts(localise=lambda: nn.Linear(8, 2)))
add("fourier_filtered", between(fourier_filtered), with_weight(8, 48, 25))
add(
    "dynamic_convolution",
    between(dynamic_convolution),
    lambda net: {**plain_parts(net), "d": nn.Linear(8, 3), "weight": nn.Parameter(0.3 * torch.randn(3, 8, 8, 3, 3))},
)
add("pyramid_pooling", between(pyramid_pooling), parts(d=lambda: conv(32, 8, 1)), seed=2)
add("strip_pooling", between(lambda net, x: x + net.d(x.mean(3, keepdim=True))), parts(d=lambda: conv(8, 8, (3, 1))))
add("flipped_there_and_back", between(flipped_there_and_back), parts(d=lambda: conv(8, 8)))
add("flipped", between(lambda net, x: x.flip(3)))
add("summed_along_rows", between(lambda net, x: x + 0.05 * x.cumsum(2)))
add("sorted_channels", between(sorted_channels))
add("chosen_channels", between(chosen_channels))
add("convolution_by_einsum", between(lambda net, x: torch.einsum("dc,nchw->ndhw", net.weight, x)), with_weight(8, 8))
add("convolution_by_matmul", between(matrix_of_pixels), with_weight(8, 8))


# -- what a crop does not give: the whole image ----------------------------------------------------------------------


def same_padding(x, layer):
    """TensorFlow's SAME: the padding depends on the size, and may have one more at the end."""
    (kernel, stride), sides = (layer.kernel_size[0], layer.stride[0]), x.shape[-2:]
    extra = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in sides]
    return layer(F.pad(x, (extra[1] // 2, extra[1] - extra[1] // 2, extra[0] // 2, extra[0] - extra[0] // 2)))


def tensorflow_same(net, x):
    x = net.rect(same_padding(x, net.a))
    return net.c(net.tap(net.rect(same_padding(x, net.b))))


def with_coordinates(net, x):
    n, _, height, width = x.shape
    rows = torch.linspace(-1, 1, height, dtype=x.dtype).view(1, 1, height, 1).expand(n, 1, height, width)
    columns = torch.linspace(-1, 1, width, dtype=x.dtype).view(1, 1, 1, width).expand(n, 1, height, width)
    return torch.cat([x, rows, columns], 1)


def padded_to_a_multiple(net, x):
    height, width = x.shape[-2:]
    return F.pad(x, (0, -width % 32, 0, -height % 32))


def sine_embedding(net, x):
    height = x.shape[2]
    rows = torch.sin(torch.arange(height, dtype=x.dtype) / 3)[:, None]
    return x + 0.3 * rows


def pixels_standardised(net, x):
    return (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True)


def with_parameter(name, *shape):
    return lambda net: {**plain_parts(net), name: nn.Parameter(0.3 * torch.randn(shape))}


add("tensorflow_same_padding", tensorflow_same,
    parts(a=lambda: conv(3, 8, 3, 0, stride=2), b=lambda: conv(8, 8, 3, 0, stride=2)), size=56)  # fmt: skip
add("circular_padding", two, parts(a=lambda: conv(3, 8, padding_mode="circular")))
add(
    "reflect_padding",
    two,
    parts(a=lambda: conv(3, 8, padding_mode="reflect"), b=lambda: conv(8, 8, 5, padding_mode="reflect")),
)
add("replicate_padding", two, parts(a=lambda: conv(3, 8, padding_mode="replicate")))
add("reflection_wider_than_the_crop", before(lambda net, x: F.pad(x, (12, 12, 12, 12), mode="reflect")))
add("coordinates_as_channels", before(with_coordinates), parts(a=lambda: conv(5, 8)))
add("positional_embedding", between(lambda net, x: x + net.embedding), with_parameter("embedding", 1, 8, 48, 48))
add("positional_embedding_resized", between(
    lambda net, x: x + F.interpolate(net.embedding, x.shape[2:], mode="bilinear")),
    with_parameter("embedding", 1, 8, 14, 14))  # fmt: skip
add("positional_embedding_of_rows", between(sine_embedding))
add("layer_norm_over_the_map", between(lambda net, x: net.norm(x)), parts(norm=lambda: nn.LayerNorm([8, 48, 48])))
add("padded_to_a_multiple_of_32", before(padded_to_a_multiple), size=56)
add("mean_of_the_map_subtracted", between(lambda net, x: x - x.mean((2, 3), keepdim=True)))
add(
    "pixels_standardised", before(lambda net, x: (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True))
)
add("resized_to_a_fixed_size", before(lambda net, x: F.interpolate(x, size=(40, 40), mode="bilinear")))
add("valid_convolutions", two, parts(a=lambda: conv(3, 8, 3, 0), b=lambda: conv(8, 8, 3, 0)))


# -- layouts ---------------------------------------------------------------------------------------------------------


def channels_first(x):
    return x.permute(0, 3, 1, 2)


def grid(first, last=None):
    """What makes a map of tokens (image, token, filter): without those before the first and from the last on."""

    def to_map(tokens):
        tokens = tokens[:, first:last]
        side = int(tokens.shape[1] ** 0.5)
        return tokens.transpose(1, 2).unflatten(2, (side, side))

    return to_map


def convnext_hidden(net, x):
    x = net.rect(net.stem(x))
    y = net.rect(net.fc1(net.norm(net.d(x).permute(0, 2, 3, 1))))
    y = net.fc2(net.tap(y, channels_first)).permute(0, 3, 1, 2)
    return net.c(x + y)


def convnext_end(net, x):
    x = net.rect(net.stem(x))
    y = net.fc2(net.rect(net.fc1(net.norm(net.d(x).permute(0, 2, 3, 1)))))
    y = net.tap(y, channels_first).permute(0, 3, 1, 2)
    return net.c(x + y)


class LastBlock(nn.Module):
    """A block that takes and returns (image, row, column, channel)."""

    def __init__(self, rect):
        super().__init__()
        self.norm, self.fc1, self.fc2, self.rect = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8), rect

    def forward(self, x):
        return x + self.fc2(self.rect(self.fc1(self.norm(x))))


def channels_last_blocks(net, x):
    x = net.rect(net.stem(x)).permute(0, 2, 3, 1)
    x = net.tap(net.block(x), channels_first)
    return net.second(x).mean((1, 2))


def windowed(net, x):
    x = net.stem(x).permute(0, 2, 3, 1)
    x = x + rolled_attention(net, net.norm(x), shift=0)
    x = x + rolled_attention(net, net.norm(x), shift=2)
    y = net.rect(net.fc1(net.norm2(x)))
    return (x + net.fc2(net.tap(y, channels_first))).mean((1, 2))


def rolled_attention(net, x, shift):
    n, height, width, channels = x.shape
    x = torch.roll(x, (-shift, -shift), (1, 2))
    x = x.view(n, height // 4, 4, width // 4, 4, channels).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, channels)
    q, k, v = net.qkv(x).chunk(3, -1)
    x = F.scaled_dot_product_attention(q, k, v)
    x = x.view(n, height // 4, width // 4, 4, 4, channels).permute(0, 1, 3, 2, 4, 5).reshape(n, height, width, channels)
    return torch.roll(x, (shift, shift), (1, 2))


def tokens_of(net, x):
    return net.stem(x).flatten(2).transpose(1, 2)


def attend(net, x):
    q, k, v = net.qkv(net.norm(x)).chunk(3, -1)
    return x + net.proj(F.scaled_dot_product_attention(q, k, v))


def attend_by_hand(net, x):
    q, k, v = net.qkv(net.norm(x)).chunk(3, -1)
    weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)
    return x + net.proj(weights @ v)


def perceive(net, x, to_map):
    y = net.rect(net.fc1(net.norm2(x)))
    return net.last((x + net.fc2(net.tap(y, to_map))).mean(1))


def tokens_without_class(net, x):
    return perceive(net, attend(net, tokens_of(net, x) + net.position), grid(0))


def tokens_with_class(net, x):
    x = torch.cat([net.first.expand(len(x), -1, -1), tokens_of(net, x)], 1) + net.position
    return perceive(net, attend_by_hand(net, x), grid(1))


def tokens_with_registers(net, x):
    x = torch.cat([net.first.expand(len(x), -1, -1), tokens_of(net, x) + net.position], 1)
    y = net.norm(x)
    x = x + net.attention(y, y, y, need_weights=False)[0]
    return perceive(net, x, grid(5))


def tokens_with_registers_last(net, x):
    x = torch.cat([tokens_of(net, x) + net.position, net.first.expand(len(x), -1, -1)], 1)
    return perceive(net, attend(net, x), grid(0, -4))


def tokens_of_a_block(net, x):
    x = net.tap(net.block(tokens_of(net, x) + net.position), grid(0))
    return net.last(x.mean(1))


def tokens_mixed(net, x):
    x = tokens_of(net, x)
    x = x + net.mix2(net.rect(net.mix1(net.norm(x).transpose(1, 2)))).transpose(1, 2)
    return perceive(net, x, grid(0))


def linear_on_pixels(net, x):
    x = net.rect(net.a(x))
    x = net.rect(net.fc1(x.permute(0, 2, 3, 1)))
    return net.c(net.tap(x, channels_first).permute(0, 3, 1, 2))


def transformer_parts(first=0, position=36, **makers):
    def make(net):
        modules = {"stem": conv(3, 8, 8, 0, stride=8)}
        if first:
            modules["first"] = nn.Parameter(torch.randn(1, first, 8))
        modules["position"] = nn.Parameter(0.3 * torch.randn(1, position, 8))
        modules |= {"norm": nn.LayerNorm(8), "norm2": nn.LayerNorm(8), "qkv": nn.Linear(8, 24), "proj": nn.Linear(8, 8)}
        modules |= {"fc1": nn.Linear(8, 8), "fc2": nn.Linear(8, 8), "last": nn.Linear(8, 4)}
        return modules | {name: maker(net) for name, maker in makers.items()}

    return make


CONVNEXT = {
    "stem": lambda: conv(3, 8, 4, 0, stride=4),
    "d": lambda: conv(8, 8, 3, groups=8),
    "norm": lambda: nn.LayerNorm(8),
    "fc1": lambda: nn.Linear(8, 16),
    "fc2": lambda: nn.Linear(16, 8),
}
add("channels_last_hidden", convnext_hidden, parts(**CONVNEXT), layer="fc1", seed=3)
add("channels_last_before_a_sum", convnext_end, parts(**CONVNEXT), layer="fc2")
add("channels_last_block", channels_last_blocks,
    lambda net: {"stem": conv(3, 8, 4, 0, stride=4), "block": LastBlock(net.rect), "second": LastBlock(net.rect)},
    layer="block")  # fmt: skip
add("channels_last_at_full_size", linear_on_pixels, parts(fc1=lambda: nn.Linear(8, 8)), layer="fc1")
add("windowed_attention", windowed, parts(
    **{**CONVNEXT, "fc1": lambda: nn.Linear(8, 8), "fc2": lambda: nn.Linear(8, 8)},
    qkv=lambda: nn.Linear(8, 24), norm2=lambda: nn.LayerNorm(8)), layer="fc1")  # fmt: skip
add("tokens", tokens_without_class, transformer_parts(), layer="fc1")
add("tokens_with_a_class_token", tokens_with_class, transformer_parts(1, 37), layer="fc1")
add("tokens_with_registers", tokens_with_registers,
    transformer_parts(5, attention=lambda net: nn.MultiheadAttention(8, 2, batch_first=True)), layer="fc1")  # fmt: skip
add("tokens_with_registers_at_the_end", tokens_with_registers_last, transformer_parts(4), layer="fc1")
add("tokens_of_a_block", tokens_of_a_block,
    transformer_parts(block=lambda net: LastBlock(net.rect)), layer="block")  # fmt: skip
add("tokens_mixed", tokens_mixed,
    transformer_parts(mix1=lambda net: nn.Linear(36, 18), mix2=lambda net: nn.Linear(18, 36)), layer="fc1")  # fmt: skip


# -- what the trace does not see, or sees only for one image: right, or refused with the reason ----------------------


class UsersRectifier(torch.autograd.Function):
    """A user's own rectifier with the gradient of a rectifier."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, from_above):
        (x,) = ctx.saved_tensors
        return from_above * (x > 0)


class StraightThrough(torch.autograd.Function):
    """A user's own rectifier with a gradient that is not its own."""

    @staticmethod
    def forward(ctx, x):
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, from_above):
        return from_above


class UsersConvolution(torch.autograd.Function):
    """A user's own convolution of 1x1, which mixes channels out of the trace's sight."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(weight)
        return torch.from_numpy(np.einsum("dc,nchw->ndhw", weight.detach().numpy(), x.detach().numpy()))

    @staticmethod
    def backward(ctx, from_above):
        (weight,) = ctx.saved_tensors
        return torch.einsum("dc,ndhw->nchw", weight, from_above), None


def scripted(function):
    """Script a function, without torch's warning that this is to go away."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(function)


def plain_relu(x: Tensor) -> Tensor:
    return torch.relu(x)


def relu_and_shift(x: Tensor) -> Tensor:
    return torch.cat([torch.relu(x[:, :4]), torch.roll(torch.relu(x[:, 4:]), 1, 2)], 1)


@torch.library.custom_op("topnine_tests::rectify", mutates_args=())
def rectify_op(x: Tensor) -> Tensor:
    """An operator as a C++ extension registers it."""
    return x.clamp(min=0)


rectify_op.register_autograd(
    lambda ctx, from_above: from_above * ctx.saved_tensors[0],
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(output > 0),
)


def through_numpy(x):
    return torch.from_numpy(np.maximum(x.detach().numpy(), 0))


def behind_its_data(x):
    x.data.clamp_(min=0)
    return x


def without_gradient(x):
    with torch.no_grad():
        x.relu_()
    return x


def each_image(net, x):
    x = net.rect(net.a(x))
    x = torch.stack([net.b(image[None])[0] for image in x])
    return net.c(net.tap(net.rect(x)))


def branch_on_data(net, x):
    x = net.rect(net.a(x))
    x = net.d(x) if x.mean() > net.limit else net.e(x)
    return net.c(net.tap(net.rect(net.b(x))))


def branch_on_images(net, x):
    x = net.rect(net.a(x))
    x = torch.cat([net.d(i[None]) if i.mean() > net.limit else net.rect(net.e(i[None])) for i in x])
    return net.c(net.tap(net.rect(net.b(x))))


def scripted_shift(net, x):
    x = net.a(x)
    if net.is_user:
        x = net.users_rectifier(x)
    else:
        x = torch.cat([net.clamped(x[:, :4]), torch.roll(net.clamped(x[:, 4:]), 1, 2)], 1)
    return net.c(net.tap(net.rect(net.b(x), F.relu)))


def hidden_convolution(net, x):
    x = net.rect(net.a(x))
    x = UsersConvolution.apply(x, net.weight) if net.is_user else torch.einsum("dc,nchw->ndhw", net.weight, x)
    return net.c(net.tap(net.rect(net.b(x))))


UNSEEN = ("seen", "autograd.function", "script", "numpy", "gradient", "derivative", "trace", "recorded", "detach")
NOT_ITS_OWN = {"unseen": UNSEEN, "has_gradient": False}
DEPENDS = ("batch", "alone", "depend", "differ", "branch", "image")
add("autograd_function", rectifier=lambda: UsersRectifier.apply, unseen=UNSEEN)
add(
    "autograd_function_with_another_gradient",
    rectifier=lambda: StraightThrough.apply,
    unseen=UNSEEN,
    has_gradient=False,
)
add("autograd_function_in_numpy", hidden_convolution, with_weight(8, 8), unseen=UNSEEN)
add("scripted_relu", rectifier=lambda: scripted(plain_relu), unseen=UNSEEN)
add("scripted_relu_and_shift", scripted_shift, rectifier=lambda: scripted(relu_and_shift), unseen=UNSEEN)
add("custom_operator", rectifier=lambda: torch.ops.topnine_tests.rectify, unseen=UNSEEN)
add("rectified_in_numpy", rectifier=lambda: through_numpy, **NOT_ITS_OWN)
add("rectified_behind_its_data", rectifier=lambda: behind_its_data, unseen=UNSEEN, has_gradient=False)
add("rectified_without_gradient", rectifier=lambda: without_gradient, unseen=UNSEEN, has_gradient=False)
add("fake_quantised", between(lambda net, x: x + ((x * 8).round() / 8 - x).detach()), unseen=("no rectifier", *UNSEEN))
add("scaled_by_a_fixed_item", between(lambda net, x: x * net.scale.item()),
    lambda net: {**plain_parts(net), "scale": nn.Parameter(torch.tensor(0.7))})  # fmt: skip
add("each_image_on_its_own", each_image, unseen=(*DEPENDS, "times"))
add("branch_on_data", branch_on_data,
    lambda net: {**plain_parts(net), "limit": nn.Parameter(torch.tensor(0.27)), "d": conv(8, 8), "e": conv(8, 8, 5)},
    unseen=DEPENDS)  # fmt: skip
add("branch_on_images", branch_on_images,
    lambda net: {**plain_parts(net), "limit": nn.Parameter(torch.tensor(0.27)), "d": conv(8, 8), "e": conv(8, 8, 5)},
    unseen=DEPENDS)  # fmt: skip
add("scaled_by_its_own_maximum", between(lambda net, x: x * (1 + x.max().item())), refused_all=DEPENDS)


def axes_swapped(net, x):
    """Rows of the map run along the image's columns: the store's rows are the image's."""
    x = net.rect(net.b(net.rect(net.a(x)).transpose(2, 3)))
    return net.c(net.tap(x, lambda maps: maps.transpose(2, 3)))


add("axes_swapped", axes_swapped)


# -- refused by the probe, whatever the rule -------------------------------------------------------------------------


def as_video(net, x):
    return net.b(net.rect(net.a(x)).unsqueeze(2)).mean((2, 3, 4))


def flat(net, x):
    return net.b(net.rect(net.a(x)).mean((2, 3)))


add("dropout_in_training", between(lambda net, x: F.dropout(x, 0.5)), refused_all=("dropout", "random", "twice"))
add("random_noise", between(lambda net, x: x + 0.1 * torch.randn_like(x)), refused_all=("randn", "random", "twice"))
add("batch_statistics", behind(lambda net, x: net.norm(x)),
    parts(norm=lambda: nn.BatchNorm2d(8, track_running_stats=False)), refused_all=("norm", "batch"))  # fmt: skip
add("mean_of_the_batch", between(lambda net, x: x - x.mean(0, keepdim=True)), refused_all=("batch", "alone"))
add("video_map", as_video, parts(b=lambda: nn.Conv3d(8, 8, (1, 3, 3))), refused_all=("dimensions", "shape"))
add("video_network", lambda net, x: net.b(x), parts(b=lambda: nn.Conv3d(3, 8, 3)),
    refused_all=("dimensions", "shape", "channels", "input"))  # fmt: skip
add("flat_result", flat, parts(b=lambda: nn.Linear(8, 8)), refused_all=("dimensions", "shape"))


assert CONSTRUCTIONS.keys() >= SLOW, SLOW - CONSTRUCTIONS.keys()


def of_kind(*kinds: str) -> Iterable[Construction]:
    """List the constructions that are ``projected``, ``refused``, ``refused_all`` or ``unseen``, in order."""
    for construction in CONSTRUCTIONS.values():
        special = next(
            (kind for kind in ("refused", "refused_all", "unseen") if getattr(construction, kind)), "projected"
        )
        if special in kinds:
            yield construction
