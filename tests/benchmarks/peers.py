"""What others use for the same work, run on the same images and network, and compared with ours."""

from __future__ import annotations

import contextlib
import copy
import io
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from topnine.pipeline.data.reader import list_images
from topnine.pipeline.machine import count_cores
from topnine.pipeline.plan import Plan
from topnine.pipeline.ranking.topk import RANKS

AFTER = {f"conv{n}": f"features.{i}" for n, i in zip(range(1, 6), (1, 4, 7, 9, 11), strict=True)}  # the ReLUs
BATCH = 32


class Photographs(Dataset):
    """The images of a dataset as torchvision's recipes prepare them."""

    def __init__(self, plan: Plan, normalised: bool = True) -> None:
        self._plan = plan
        self._positions = [(n, e.offset, e.size) for n, s in enumerate(plan.dataset.shards) for e in list_images(s)]
        architecture = plan.network.architecture
        steps: list[Any] = [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()]
        normalise = transforms.Normalize(architecture.mean, architecture.std)
        self._prepare = transforms.Compose([*steps, *([normalise] if normalised else [])])

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        shard, offset, size = self._positions[i]
        with Path(self._plan.dataset.shards[shard].path).open("rb") as file:
            data = os.pread(file.fileno(), size, offset)
        return self._prepare(Image.open(io.BytesIO(data)).convert("RGB")), 0


def module(plan: Plan) -> nn.Module:
    """Return a copy of the plan's network without what the peers cannot hook: rectifiers that work in place."""
    network = copy.deepcopy(plan.network.module)
    for part in network.modules():
        if isinstance(part, nn.ReLU):
            part.inplace = False
    return network


def run_loader(plan: Plan, workers: int) -> Any:
    """Find the nine strongest images with DataLoader, a forward hook and semanticlens' running top-k."""
    from semanticlens.component_visualization.activation_caching import ActMaxCache
    from semanticlens.component_visualization.aggregators import aggregate_conv_max

    torch.set_num_threads(count_cores())
    name = AFTER[plan.layers[-1].name]
    cache = ActMaxCache([name], aggregate_conv_max, RANKS)
    network = plan.network.module
    with cache.hook_context(network), torch.inference_mode():
        for pixels, _ in DataLoader(Photographs(plan), BATCH, num_workers=workers):
            network(pixels.to(memory_format=torch.channels_last))
    return cache[name]


def check_values(ours: np.ndarray, theirs: torch.Tensor) -> None:
    """Check that rankings have the same activations.

    To 1/100 of a filter's strongest: bfloat16 rounds by up to 1/256, and resizing the whole image gives pixels that are
    a grey level off.
    """
    ours = np.nan_to_num(ours)
    wrong = np.abs(ours - theirs.float().numpy()) > ours[:, :1] / 100
    if wrong.any():
        raise SystemExit(f"semanticlens finds other activations: {wrong.mean():.2%} differ")


def run_crp(plan: Plan, folder: Path, composite: object | None) -> np.ndarray:
    """Find the nine strongest images (filter, rank) with zennit-crp's FeatureVisualization."""
    from crp.attribution import CondAttribution
    from crp.concepts import ChannelConcept
    from crp.visualization import FeatureVisualization

    torch.set_num_threads(count_cores())
    network, name = module(plan).requires_grad_(True), AFTER[plan.layers[-1].name]
    prepare = transforms.Normalize(plan.network.architecture.mean, plan.network.architecture.std)
    dataset = Photographs(plan, normalised=False)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        finder = FeatureVisualization(
            CondAttribution(network), dataset, {name: ChannelConcept()}, prepare,
            max_target="max", abs_norm=False, path=str(folder),
        )  # fmt: skip
        finder.run(composite, 0, len(dataset), BATCH)
    (data,) = (folder / "ActMax_max_unnormed").glob("*data.npy")
    (values,) = (folder / "ActMax_max_unnormed").glob("*rel.npy")
    images, activation = np.load(data)[:RANKS].T, np.load(values)[:RANKS].T
    return np.where(activation > 0, images, -1)
