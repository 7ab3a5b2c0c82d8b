"""One network of every family of timm (a module of ``timm.models`` that registers networks), and what becomes of it.

The networks have random weights and the smallest input that they take, or that gives a map of several rows. Their
layers are in the middle, behind whatever a family is known for.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

TIMM = "1.0.31"  # whose families these are; later ones have more
MAPS, CHANNELS_LAST = "maps", "channels last"
SMALL = 0.01


@dataclass(frozen=True)
class Family:
    """A network of a family, and the layer of it that is mined.

    Attributes
    ----------
    name : str
        The module of timm.models.
    model : str
    size : int
        Of the square input, in pixels.
    layer : str
    rule : {"deconvnet", "gradient"}
        By which it is projected; gradient only where the deconvnet is refused.
    layout : str or int
        How the layer's module returns its map: ``MAPS``, ``CHANNELS_LAST``, or tokens of a square grid behind so many.
    hook : str
        The module whose result is the map, where it is not the layer's: the activation function that follows.
    options : dict
        What the model is built with, beside its name.
    precision : {"float32", "float64"}
        In which it is projected: float64 where float32 decides by chance which of two near values a max-pooling takes,
        or rounds more than 1e-5 on some processors.
    """

    name: str
    model: str
    size: int
    layer: str
    rule: str
    layout: str | int = MAPS
    hook: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    precision: str = "float32"

    @property
    def network(self) -> str:
        """Return its ``network.name``: the function of this module that builds it."""
        return f"tests.timm_families:{self.name}"

    def build(self) -> nn.Module:
        """Build it with random weights, also where networks begin with blocks that add nothing and idle norms."""
        module: nn.Module = getattr(importlib.import_module("timm.models"), self.model)(**self.options)
        statistics = {path: tensor for path, tensor in module.named_buffers() if "running_" in path}
        for tensor in (*module.parameters(), *statistics.values()):
            if tensor.numel() > 1 and bool((tensor == tensor.flatten()[0]).all()):
                tensor.detach().copy_(_unlike(float(tensor.detach().flatten()[0]), tensor))
        return module

    def to_map(self, tensor: Tensor) -> Tensor:
        """Return what the layer's module returned as a map (image, filter, row, column)."""
        if self.layout == MAPS:
            return tensor
        if self.layout == CHANNELS_LAST:
            return tensor.permute(0, 3, 1, 2)
        tokens = tensor[:, int(self.layout) :]
        side = int(tokens.shape[1] ** 0.5)
        return tokens.transpose(1, 2).unflatten(2, (side, side))


def _unlike(constant: float, like: Tensor) -> Tensor:
    """Return random numbers near a constant; near 0.2 for one that keeps a block from adding anything."""
    if abs(constant) < SMALL and constant != 0:
        constant = 0.2
    spread = abs(constant) or 0.2
    return constant + spread * (torch.rand(like.shape) - 0.5)


FAMILIES = [
    Family("beit", "beit_base_patch16_224", 96, "blocks.1", "gradient", layout=1, options={"img_size": 96}),
    Family("byoanet", "eca_botnext26ts_256", 96, "stages.2", "gradient", options={"img_size": 96}),
    Family("byobnet", "mobileone_s0", 96, "stages.2", "deconvnet"),
    Family("cait", "cait_xxs24_224", 96, "blocks.1", "gradient", layout=0, options={"img_size": 96}),
    Family("coat", "coat_tiny", 224, "serial_blocks3.1", "gradient", layout=1),
    Family("convit", "convit_tiny", 96, "blocks.1", "gradient", layout=0, options={"img_size": 96}),
    Family("convmixer", "convmixer_768_32", 96, "blocks.4", "deconvnet"),
    Family("convnext", "convnext_atto", 96, "stages.2", "gradient"),
    Family("cpubone", "cpubone_nano", 96, "stages.2", "gradient"),
    Family("crossvit", "crossvit_tiny_240", 240, "blocks.1", "gradient", layout=1),
    Family("csatv2", "csatv2", 96, "stages.1", "gradient"),
    Family("cspnet", "cs3darknet_focus_s", 96, "stages.2", "gradient"),
    Family("cspnext", "cspnext_tiny", 96, "stages.1", "gradient"),
    Family("davit", "davit_tiny", 96, "stages.1", "gradient"),
    Family("deepseek_vit", "deepseek_vit_412m", 126, "encoder.blocks.1", "gradient", layout=0, options={"depth": 4}),
    Family("deit", "deit_tiny_distilled_patch16_224", 96, "blocks.1", "gradient", layout=2, options={"img_size": 96}),
    Family(
        "densenet",
        "densenet121",
        96,
        "features.denseblock3",
        "deconvnet",
        precision="float64",
        hook="features.transition3.norm",
    ),
    Family("dla", "dla46x_c", 96, "level4", "deconvnet"),
    Family("dpn", "dpn48b", 96, "features.conv4_6", "gradient"),
    Family("edgenext", "edgenext_xx_small", 96, "stages.2", "gradient"),
    Family("efficientformer", "efficientformer_l1", 224, "stages.3", "gradient", layout=0),
    Family("efficientformer_v2", "efficientformerv2_s0", 224, "stages.2", "gradient"),
    Family("efficientnet", "efficientnet_b0", 96, "blocks.4", "gradient"),
    Family("efficientvim", "efficientvim_m1", 128, "stages.0", "gradient"),
    Family("efficientvit_mit", "efficientvit_b0", 96, "stages.2", "gradient"),
    Family("efficientvit_msra", "efficientvit_m0", 224, "stages.1", "deconvnet"),
    Family("eva", "eva02_tiny_patch14_224", 98, "blocks.1", "gradient", layout=1, options={"img_size": 98}),
    Family("fasternet", "fasternet_t0", 96, "stages.2", "gradient"),
    Family("fastvit", "fastvit_t8", 96, "stages.2", "gradient"),
    Family("focalnet", "focalnet_tiny_srf", 96, "layers.1", "gradient"),
    Family("gcvit", "gcvit_xxtiny", 224, "stages.1", "gradient"),
    Family("gemma4_vit", "gemma4_vit_167m", 96, "encoder.blocks.1", "gradient", layout=0),
    Family("ghostnet", "ghostnet_050", 96, "blocks.5", "deconvnet"),
    Family("hardcorenas", "hardcorenas_a", 96, "blocks.3", "gradient"),
    Family("hgnet", "hgnetv2_b0", 96, "stages.2", "deconvnet"),
    Family("hiera", "hiera_tiny_224", 224, "blocks.11", "gradient", layout=0, precision="float64"),
    Family("hieradet_sam2", "sam2_hiera_tiny", 224, "blocks.3", "gradient", layout=CHANNELS_LAST),
    Family("hrnet", "hrnet_w18_small", 96, "stage2.0", "deconvnet"),
    Family("iformer", "iformer_t", 96, "stages.2", "gradient"),
    Family("inception_next", "inception_next_atto", 96, "stages.2", "gradient", hook="stages.3.downsample.0"),
    Family("inception_resnet_v2", "inception_resnet_v2", 96, "repeat", "deconvnet"),
    Family("inception_v3", "inception_v3", 96, "Mixed_5d", "deconvnet"),
    Family("inception_v4", "inception_v4", 96, "features.9", "deconvnet"),
    Family("lcnetv2", "lcnetv2_small", 96, "stages.1", "deconvnet"),
    Family("levit", "levit_128s", 224, "stages.0", "gradient", layout=0),
    Family("lowformer", "lowformer_b0", 96, "stages.1", "gradient"),
    Family("mambaout", "mambaout_femto", 96, "stages.2", "gradient", layout=CHANNELS_LAST),
    Family("maxxvit", "coatnet_nano_rw_224", 96, "stages.2", "gradient", options={"img_size": 96}),
    Family("metaformer", "poolformer_s12", 96, "stages.2", "gradient"),
    Family("mlp_mixer", "mixer_s16_224", 96, "blocks.1", "gradient", layout=0, options={"img_size": 96}),
    Family("mobilenetv3", "mobilenetv3_small_050", 96, "blocks.3", "gradient"),
    Family("mobilenetv5", "mobilenetv5_base", 96, "blocks.1", "gradient"),
    Family("mobilevit", "mobilevit_xxs", 128, "stages.3", "gradient"),
    Family(
        "mvitv2", "mvitv2_tiny", 96, "stages.1", "gradient", layout=0, precision="float64", options={"img_size": 96}
    ),
    Family("naflexvit", "naflexvit_base_patch16_gap", 96, "blocks.1", "gradient", layout=4),
    Family("nasnet", "nasnetalarge", 96, "cell_5", "deconvnet", hook="reduction_cell_0.conv_1x1.act"),
    Family("nest", "nest_tiny", 96, "levels.1", "gradient", options={"img_size": 96}),
    Family("nextvit", "nextvit_small", 96, "stages.1", "deconvnet"),
    Family("nfnet", "nf_resnet26", 96, "stages.2", "deconvnet", hook="stages.3.0.act1"),
    Family("pit", "pit_ti_224", 224, "transformers.1", "gradient"),
    Family("pnasnet", "pnasnet5large", 96, "cell_3", "deconvnet"),
    Family("pvt_v2", "pvt_v2_b0", 96, "stages.1", "gradient"),
    Family("qwen3_vit", "qwen3_vit_88m", 96, "encoder.blocks.1", "gradient", layout=0),
    Family("rdnet", "rdnet_tiny", 96, "dense_stages.3", "gradient"),
    Family("regnet", "regnetx_002", 96, "s3", "deconvnet"),
    Family("repghost", "repghostnet_050", 96, "blocks.5", "deconvnet"),
    Family("repvit", "repvit_m0_9", 96, "stages.2", "gradient"),
    Family("res2net", "res2net50_48w_2s", 96, "layer3", "deconvnet"),
    Family("resnest", "resnest14d", 96, "layer3", "deconvnet"),
    Family("resnet", "resnet18", 96, "layer3", "deconvnet"),
    Family("resnetv2", "resnetv2_18", 96, "stages.2", "deconvnet", hook="stages.3.blocks.0.norm1"),
    Family("rexnet", "rexnet_100", 96, "features.10", "gradient"),
    Family("selecsls", "selecsls42", 96, "features.3", "deconvnet"),
    Family("senet", "legacy_seresnet18", 96, "layer3", "deconvnet"),
    Family("sequencer", "sequencer2d_s", 224, "stages.1", "gradient", layout=CHANNELS_LAST),
    Family("shvit", "shvit_s1", 96, "stages.0", "deconvnet"),
    Family("sknet", "skresnet18", 96, "layer3", "deconvnet"),
    Family("starnet", "starnet_s050", 96, "stages.2", "deconvnet"),
    Family("swiftformer", "swiftformer_xs", 224, "stages.2", "gradient"),
    Family(
        "swin_transformer",
        "swin_tiny_patch4_window7_224",
        112,
        "layers.1",
        "gradient",
        layout=CHANNELS_LAST,
        options={"img_size": 112},
    ),
    Family(
        "swin_transformer_v2",
        "swinv2_tiny_window8_256",
        128,
        "layers.1",
        "gradient",
        layout=CHANNELS_LAST,
        options={"img_size": 128},
    ),
    Family("swin_transformer_v2_cr", "swinv2_cr_tiny_224", 96, "stages.1", "gradient", options={"img_size": 96}),
    Family("tiny_vit", "tiny_vit_5m_224", 96, "stages.1", "gradient"),
    Family("tnt", "tnt_s_patch16_224", 96, "blocks.2.norm_out", "gradient", layout=1, options={"img_size": 96}),
    Family("tresnet", "tresnet_m", 96, "body.layer3", "gradient"),
    Family("twins", "twins_svt_small", 224, "blocks.1.1", "gradient", layout=0),
    Family("vgg", "vgg11", 96, "features.14", "deconvnet", precision="float64"),
    Family("visformer", "visformer_tiny", 96, "stage2", "gradient", options={"img_size": 96}, precision="float64"),
    Family(
        "vision_transformer", "vit_tiny_patch16_224", 96, "blocks.1", "gradient", layout=1, options={"img_size": 96}
    ),
    Family(
        "vision_transformer_hybrid",
        "vit_tiny_r_s16_p8_224",
        128,
        "blocks.1",
        "gradient",
        layout=1,
        options={"img_size": 128},
    ),
    Family(
        "vision_transformer_relpos",
        "vit_relpos_small_patch16_224",
        96,
        "blocks.1",
        "gradient",
        layout=0,
        options={"img_size": 96},
    ),
    Family(
        "vision_transformer_sam",
        "samvit_base_patch16_224",
        96,
        "blocks.1",
        "gradient",
        layout=CHANNELS_LAST,
        options={"img_size": 96},
    ),
    Family("vitamin", "vitamin_small_224", 96, "blocks.1", "gradient", layout=0, options={"img_size": 96}),
    Family("volo", "volo_d1_224", 96, "network.2", "gradient", layout=CHANNELS_LAST, options={"img_size": 96}),
    Family("vovnet", "ese_vovnet19b_slim_dw", 96, "stages.2", "deconvnet"),
    Family("xception", "legacy_xception", 96, "block5", "deconvnet"),
    Family("xception_aligned", "xception41", 96, "blocks.5", "deconvnet"),
    Family("xcit", "xcit_nano_12_p16_224", 96, "blocks.1", "gradient", layout=0, options={"img_size": 96}),
]

QUICK = {"convnext", "levit", "regnet", "starnet", "swin_transformer", "vision_transformer"}


def __getattr__(name: str) -> Callable[[], nn.Module]:
    """Return the function that builds a family's network."""
    found = next((family for family in FAMILIES if family.name == name), None)
    if found is None:
        raise AttributeError(name)
    return partial(Family.build, found)


def table() -> str:
    """Return the README's table of the families, and its counts."""
    counts = Counter(family.rule for family in FAMILIES)
    lines = [
        f"All {len(FAMILIES)} families are mined: {counts['deconvnet']} are projected by the deconvnet, "
        f"{counts['gradient']} by the gradient, none is refused.",
        "",
        "| family | network | input | layer | projected by |",
        "|---|---|---|---|---|",
    ]
    for family in sorted(FAMILIES, key=lambda family: family.name):
        lines.append(
            f"| {family.name} | `{family.model}` | {family.size}×{family.size} | `{family.layer}` | {family.rule} |"
        )
    return "\n".join(lines)
