"""timm's families against an oracle that knows nothing of the graph: the module itself, a hook and plain autograd.

The networks are in ``../timm_families.py``. One family: ``-k "[swin_transformer]"``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.conftest import REPOSITORY, normalised, run_stages, write_tar
from tests.timm_families import FAMILIES, QUICK, TIMM, Family, table
from topnine.pipeline.compute.patches import patch_size
from topnine.pipeline.data.decoding.decode import decode
from topnine.pipeline.data.reader import list_images, open_reader
from topnine.pipeline.errors import InputError
from topnine.pipeline.plan import Plan
from topnine.pipeline.store.store import Store
from topnine.stages.deconvolve import DeconvolveTask, deconvolve_filters
from topnine.stages.settings import projection_settings

IMAGES = 6
FILTERS = 2  # that are projected
RANKS = (0, IMAGES - 1)  # whose projections are compared
NEAR = 1e-5  # of a filter's strongest activation
PROJECTED_NEAR = 1e-5  # of a projection's maximum
FLOAT32 = 1e-6  # of the layer's strongest: as far as float32 is from float64, whatever the filter


def cases() -> list[Any]:
    """The families as parameters: a few are quick, and every third is run unless TIMM_FAMILIES is "all"."""
    tried = FAMILIES if os.environ.get("TIMM_FAMILIES") == "all" else FAMILIES[::3]
    chosen = [family for family in FAMILIES if family in tried or family.name in QUICK]
    return [
        pytest.param(family, id=family.name, marks=[] if family.name in QUICK else [pytest.mark.slow])
        for family in chosen
    ]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Compute on one thread: most of these maps are so small that a second one only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def shard(some_photos, tmp_path_factory) -> Path:
    return write_tar(tmp_path_factory.mktemp("photographs") / "a.tar", some_photos[:IMAGES])


@pytest.fixture
def plan_of(planned, shard) -> Callable[[Family], Plan]:
    pytest.importorskip("timm")

    def make(family: Family) -> Plan:
        return planned(
            network__name=family.network, network__weights="random", data__path=shard, mine__layers=family.layer,
            decode__resize=family.size, decode__crop=family.size, mine__block=3, mine__batch=2,
            deconvolve__precision=family.precision,
        )  # fmt: skip

    return make


@pytest.mark.parametrize("family", cases())
def test_a_family_is_mined_and_projected_as_the_oracle_says(family, plan_of):
    check(family, plan_of(family))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("hiera", "blocks.9"),  # tokens in the order of windows
        ("swin_transformer", "layers.1.blocks.0.attn"),  # one window after the other in the place of images
        ("tnt", "blocks.1"),  # the pixels of each token, likewise
    ],
)
def test_what_is_no_map_of_the_image_is_refused(name, layer, plan_of):
    (family,) = (family for family in FAMILIES if family.name == name)
    with pytest.raises(InputError, match="not a spatial map"):
        plan_of(replace(family, layer=layer))


def test_timms_own_function_names_a_network(planned, shard):
    pytest.importorskip("timm")
    settings = {"network__name": "timm.models:resnet10t", "network__weights": "random", "data__path": shard}
    plan = planned(mine__layers="layer2", decode__resize=64, decode__crop=64, **settings)
    plan.check_rule()
    assert plan.layers[0].tap.shape == (128, 8, 8)


def test_the_table_has_every_family():
    timm = pytest.importorskip("timm")
    from timm.models._registry import _module_to_models

    names = [family.name for family in FAMILIES]
    assert len(set(names)) == len(names)
    assert all(family.model in _module_to_models[family.name] for family in FAMILIES)
    if timm.__version__ == TIMM:
        assert set(names) == {
            timm.models.model_entrypoint(name).__module__.split(".")[-1] for name in timm.list_models()
        }


def test_the_readme_has_the_table():
    assert table() in (REPOSITORY / "pipeline/network/README.md").read_text()


def check(family: Family, plan: Plan) -> None:
    """Compare what the stages store of a family's layer with the oracle."""
    plan = with_rule(plan, family.rule)
    run_stages(plan, "index", "mine", "rank")
    store = Store.open(plan.config.store, write=True)
    torch.manual_seed(plan.config.network.seed)
    module = family.build().eval().requires_grad_(False)
    images = list(single_images(plan))
    with torch.no_grad():
        maps = np.concatenate([read_map(module, family, image).numpy() for image in images])
    check_activations(store, family.layer, maps)
    check_projections(store, plan, module.double() if family.precision == "float64" else module, family, images)


def with_rule(plan: Plan, rule: str) -> Plan:
    """Check that a plan's rule is the deconvnet and that it is refused where another is wanted; return it with that."""
    assert plan.config.deconvolve.rule == "deconvnet"
    if rule == "deconvnet":
        plan.check_rule()
        return plan
    with pytest.raises(InputError, match=r'Use deconvolve\.rule = "gradient"'):
        plan.check_rule()
    changed = plan.config.deconvolve.model_copy(update={"rule": rule})
    plan = replace(plan, config=plan.config.model_copy(update={"deconvolve": changed}))
    plan.check_rule()
    return plan


def single_images(plan: Plan) -> Iterator[torch.Tensor]:
    """Every image of the plan's one shard on its own, decoded and normalised."""
    with open_reader(plan.dataset) as reader:
        for entry in list_images(plan.dataset.shards[0]):
            data = reader.read(0, entry.offset, entry.size, entry.key)
            pixels = torch.from_numpy(decode(data, plan.preparation).pixels.copy())
            yield normalised(pixels[None], plan.network.architecture).contiguous()


# -- the oracle -------------------------------------------------------------------------------------------------------


class _Read(Exception):
    """Ends the oracle's forward pass; no error."""


class _Clamped(torch.autograd.Function):
    """A rectifier of the deconvnet: the gradient from above is clamped at zero, whatever its input was."""

    @staticmethod
    def forward(ctx, input, ceiling):
        return input.clamp(0, ceiling)

    @staticmethod
    def backward(ctx, from_above):
        return from_above.clamp(min=0), None


def read_map(module: nn.Module, family: Family, image: torch.Tensor) -> torch.Tensor:
    """Run the module up to the end of a family's layer; return its map (image, filter, row, column)."""
    found = []

    def read(_: nn.Module, __: Any, result: Any) -> None:
        found.append((result[0] if isinstance(result, tuple | list) else result).clone())
        raise _Read

    handle = module.get_submodule(family.hook or family.layer).register_forward_hook(read)
    try:
        module(image)
    except _Read:
        return family.to_map(found[0])
    finally:
        handle.remove()
    raise AssertionError(f"{family.model} does not run {family.hook or family.layer}")


@contextmanager
def clamped_rectifiers() -> Iterator[None]:
    """Replace torch's rectifiers by those of the deconvnet."""
    functions = {
        (F, "relu"): lambda input, inplace=False: _Clamped.apply(input, None),
        (F, "relu_"): lambda input: _Clamped.apply(input, None),
        (F, "relu6"): lambda input, inplace=False: _Clamped.apply(input, 6.0),
        (F, "hardtanh"): clamped_hardtanh,
        (torch, "relu"): lambda input: _Clamped.apply(input, None),
        (torch, "relu_"): lambda input: _Clamped.apply(input, None),
    }
    with pytest.MonkeyPatch.context() as patch:
        for (owner, name), function in functions.items():
            patch.setattr(owner, name, function)
        yield


def clamped_hardtanh(
    input: torch.Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> torch.Tensor:
    assert min_val == 0
    return _Clamped.apply(input, max_val)


def oracle_projection(module: nn.Module, family: Family, image: torch.Tensor, hit: tuple[int, int, int]) -> np.ndarray:
    """The projection (y, x, rgb) of a hit (filter, row, column) of an image."""
    pixels = image.to(next(module.parameters()).dtype).clone().requires_grad_(True)
    with clamped_rectifiers() if family.rule == "deconvnet" else pytest.MonkeyPatch.context():
        maps = read_map(module, family, pixels * 1.0)  # a leaf that requires a gradient must not be written in place
    seed = torch.zeros_like(maps)
    seed[(0, *hit)] = maps[(0, *hit)].detach()
    (projection,) = torch.autograd.grad(maps, pixels, seed)
    return projection[0].permute(1, 2, 0).numpy()


# -- what is compared -------------------------------------------------------------------------------------------------


def check_activations(store: Store, layer: str, maps: np.ndarray) -> None:
    """Compare every filter's activation and position on every image with the maps (image, filter, row, column)."""
    stored = store.layer(layer).read_activation(slice(0, len(store.images)))
    row, column = store.layer(layer).read_mined(slice(None))[1:]
    expected = maps.max(axis=(2, 3))
    assert stored.shape == expected.shape
    tolerance = NEAR * np.abs(maps).max(axis=(0, 2, 3)) + FLOAT32 * np.abs(maps).max()
    assert (np.abs(stored - expected) <= tolerance).all()
    image, filter = np.indices(expected.shape)
    at_position = maps[image, filter, row, column]
    assert (np.abs(at_position - expected) <= tolerance).all()  # the same position, or one tied within the tolerance
    assert (expected.std(axis=0) > tolerance).any()  # the images differ


def check_projections(store: Store, plan: Plan, module: nn.Module, family: Family, images: list[torch.Tensor]) -> None:
    """Deconvolve a few filters and compare the first and the last of their hits."""
    (layer,) = plan.layers
    arrays = store.layer(layer.name)
    first = int((arrays.read_ranking().image[:-1, 0] >= 0).argmax())
    filters = slice(first, first + FILTERS)
    arrays.create_patches(*patch_size(layer.field, plan.preparation.size), 3)
    deconvolve_filters(
        range(filters.start, filters.stop), DeconvolveTask(store.access, projection_settings(plan, layer, 2))
    )
    ranking = arrays.read_ranking(filters)
    projection, box = (arrays.read(name, filters) for name in ("projection", "box"))
    compared = 0
    for f in range(FILTERS):
        for rank in RANKS:
            image = ranking.image[f, rank]
            if image < 0:
                continue
            hit = first + f, int(ranking.row[f, rank]), int(ranking.column[f, rank])
            expected = oracle_projection(module, family, images[image], hit)
            top, left, bottom, right = box[f, rank]
            inside, largest = expected[top:bottom, left:right], np.abs(expected).max()
            assert np.abs(projection[f, rank] - inside).max() <= PROJECTED_NEAR * largest
            assert np.abs(expected).sum() == pytest.approx(np.abs(inside).sum(), rel=PROJECTED_NEAR)
            compared += largest > 0
    assert compared
