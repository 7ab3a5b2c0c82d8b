"""The stages against an oracle that knows nothing of the graph, for networks that differ in one construction each.

The networks and their oracle are in ``constructions.py``. One network: ``-k "[mask_float]"``.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.conftest import decode_at as decode
from tests.conftest import encode, normalised, run_stages, write_tar
from tests.oracle.constructions import CONSTRUCTIONS, Construction, Form, Net, of_kind, open_weights, read_map
from topnine.pipeline.errors import InputError
from topnine.pipeline.network.architecture import IMAGENET_MEAN, IMAGENET_STD, Architecture
from topnine.pipeline.store.store import Store

IMAGES = 12
PICTURE_PX = 64
TOLERANCE = 1e-5  # of a filter's strongest activation, and of a projection's maximum
CLAIMS_EQUALITY = ("graph", "measured")
SOURCES = (*CLAIMS_EQUALITY, "bound", "input")


def cases(*kinds: str):
    """The constructions of some kinds as parameters; a part of them is quick, spread over all."""
    return [
        pytest.param(construction, id=construction.name, marks=[pytest.mark.slow] if construction.slow or i % 3 else [])
        for i, construction in enumerate(of_kind(*kinds))
    ]


def picture(seed: int) -> np.ndarray:
    """Pixels (y, x, rgb) uint8 of smooth noise at several scales, with edges: no filter sees the same twice."""
    generator = torch.Generator().manual_seed(1000 + seed)
    pixels = torch.zeros(3, PICTURE_PX, PICTURE_PX)
    for cells, strength in ((2, 1.0), (4, 1.0), (8, 0.8), (16, 0.6), (32, 0.4), (64, 0.2)):
        noise = torch.randn(1, 3, cells, cells, generator=generator)
        pixels += strength * F.interpolate(noise, (PICTURE_PX, PICTURE_PX), mode="bicubic")[0]
    edge = int(torch.randint(8, 56, (), generator=generator))
    pixels[:, edge:, : PICTURE_PX - edge] *= -0.7
    return ((pixels * 45 + 120).clamp(0, 255)).byte().permute(1, 2, 0).numpy()


@pytest.fixture(autouse=True)
def one_thread():
    """Compute on one thread: these maps are so small that a second one only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def pictures() -> list[bytes]:
    return [encode(picture(seed)) for seed in range(IMAGES)]


@pytest.fixture(scope="session")
def shard(pictures, tmp_path_factory):
    members = [(f"picture{i:02}.png", data) for i, data in enumerate(pictures)]
    return write_tar(tmp_path_factory.mktemp("pictures") / "a.tar", members)


@pytest.fixture(scope="session")
def inputs(pictures):
    """The network's input for every picture, by the size of the input: (1, rgb, y, x) each."""
    architecture = Architecture(torch.nn.Identity, {}, IMAGENET_MEAN, IMAGENET_STD)
    made: dict[int, list[torch.Tensor]] = {}

    def of_size(size: int) -> list[torch.Tensor]:
        if size not in made:
            pixels = [torch.from_numpy(decode(data, size, size, resample="torch").pixels.copy()) for data in pictures]
            made[size] = [normalised(image[None], architecture).contiguous() for image in pixels]
        return made[size]

    return of_size


@pytest.fixture
def plan_of(planned, shard, tmp_path):
    """Plan a construction by a rule of the deconvnet, as the command line does before its first stage."""

    def make(construction: Construction, rule: str = "deconvnet"):
        plan = planned(
            network__name=f"tests.oracle.constructions:build_{construction.name}", network__weights="random",
            data__path=shard, decode__resize=construction.size, decode__crop=construction.size,
            mine__layers=construction.layer, mine__block=4, mine__batch=3, deconvolve__rule=rule,
        )  # fmt: skip
        plan.check_rule()
        return plan

    make.store = tmp_path / "run.zarr"
    return make


# -- the oracle ------------------------------------------------------------------------------------------------------


def oracle_maps(net: Net, images: list[torch.Tensor]) -> np.ndarray:
    """The maps (image, filter, row, column) of images, one at a time."""
    with torch.no_grad():
        return np.concatenate([read_map(net, image.clone()).numpy() for image in images])


def oracle_projections(net: Net, image: torch.Tensor, hits: list[tuple[int, int, int]]) -> list[np.ndarray]:
    """The projections (y, x, rgb) of hits (filter, row, column) of one image."""
    pixels = image.clone().requires_grad_(True)
    maps = read_map(net, pixels * 1.0)  # a leaf that requires a gradient must not be written in place
    projections = []
    for hit in hits:
        seed = torch.zeros_like(maps)
        seed[(0, *hit)] = maps[(0, *hit)].detach()
        (gradient,) = torch.autograd.grad(maps, pixels, seed, retain_graph=True)
        projections.append(gradient[0].permute(1, 2, 0).numpy())
    return projections


def extents(construction: Construction, axis: int, interior: np.ndarray) -> np.ndarray:
    """First and last pixel (position, 2) along an axis that the units at each position see; of none, size and -1.

    ``interior`` (position) tells which positions along the other axis count.
    """
    net = open_weights(construction.build(Form.OPENED))
    generator = torch.Generator().manual_seed(1)
    pixels = 0.5 + torch.rand((1, 3, construction.size, construction.size), generator=generator, dtype=torch.float64)
    pixels.requires_grad_(True)
    maps = read_map(net, pixels * 1.0)
    weights = 0.5 + torch.rand(maps.shape, generator=generator, dtype=torch.float64)
    weights = weights * torch.from_numpy(interior).view((1, 1, 1, -1) if axis == 0 else (1, 1, -1, 1))
    seen = []
    for position in range(maps.shape[2 + axis]):
        seed = torch.zeros_like(maps)
        seed.narrow(2 + axis, position, 1).copy_(weights.narrow(2 + axis, position, 1))
        (gradient,) = torch.autograd.grad(maps, pixels, seed, retain_graph=True)
        support = torch.nonzero(gradient[0].abs().sum(dim=(0, 2 - axis))).flatten()
        seen.append((int(support[0]), int(support[-1])) if len(support) else (construction.size, -1))
    return np.array(seen)


# -- the oracle's own tests ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("construction", cases("projected", "refused", "unseen"))
def test_all_forms_of_a_body_are_the_same_network(construction, inputs):
    """So that what the oracle replaces by hand is the rectifiers and nothing else."""
    image = inputs(construction.size)[0]
    user, oracle, smooth = (construction.build(form) for form in (Form.USER, construction.oracle, Form.SMOOTH))
    smooth = user if construction.refused else smooth
    (maps,), (expected,) = (oracle_maps(net, [image]) for net in (user, oracle))
    assert maps.shape == expected.shape
    assert np.abs(maps - expected).max() <= 1e-6 * np.abs(expected).max()
    strongest = np.unravel_index(expected.argmax(), expected.shape)
    assert expected[strongest] > 0
    if construction.has_gradient:
        (found,), (plain,) = (oracle_projections(net, image, [strongest]) for net in (user, smooth))
        assert np.abs(found - plain).max() <= 1e-5 * np.abs(plain).max()


def test_the_oracles_rectifier_clamps_the_gradient_and_ignores_the_sign_of_its_input():
    construction = CONSTRUCTIONS["relu_module"]
    net = construction.build(Form.ORACLE)
    image = torch.randn(1, 3, 12, 12)
    maps = read_map(net, image)
    (found,) = oracle_projections(net, image, [(0, 5, 5)])
    seed = torch.zeros_like(maps)
    seed[0, 0, 5, 5] = maps[0, 0, 5, 5]
    above = F.conv_transpose2d(seed.clamp(min=0), net.b.weight, padding=1).clamp(min=0)
    expected = F.conv_transpose2d(above, net.a.weight, padding=1)[0].permute(1, 2, 0).numpy()
    assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()


# -- the stages ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("construction", cases("projected"))
def test_a_run_agrees_with_the_oracle(construction, plan_of, inputs):
    check_run(construction, plan_of(construction), construction.oracle, inputs(construction.size))


@pytest.mark.parametrize("construction", cases("refused"))
def test_what_bends_has_no_deconvnet_and_its_gradient_is_autograds(construction, plan_of, inputs):
    check_refusal(construction.refused, plan_of, construction, "deconvnet")
    check_run(construction, plan_of(construction, "gradient"), Form.USER, inputs(construction.size))


@pytest.mark.parametrize("construction", cases("refused_all"))
def test_what_cannot_be_mined_is_refused_by_every_rule(construction, plan_of):
    for rule in ("deconvnet", "gradient"):
        check_refusal(construction.refused_all, plan_of, construction, rule)


@pytest.mark.parametrize("rule", ["deconvnet", "gradient"])
@pytest.mark.parametrize("construction", cases("unseen"))
def test_what_is_not_seen_is_right_or_refused(construction, rule, plan_of, inputs):
    try:
        plan = plan_of(construction, rule)
    except InputError as error:
        check_sentence(error, construction.unseen)
        return
    form = Form.ORACLE if rule == "deconvnet" else Form.SMOOTH
    check_run(construction, plan, form, inputs(construction.size))


def check_refusal(words, plan_of, construction, rule):
    with pytest.raises(InputError) as raised:
        plan_of(construction, rule)
    check_sentence(raised.value, words)
    assert not plan_of.store.exists()


def check_sentence(error, words):
    """Check that an error is one sentence, or two, that has one of the words."""
    assert error.exit_code == 2
    assert "\n" not in str(error)
    assert any(word in str(error).lower() for word in words), f"none of {words} is in: {error}"


def check_run(construction, plan, form, images):
    """Run the stages, and assert that nothing that the store says differs from the oracle; all is listed that does."""
    run_stages(plan, "index", "mine", "rank", "deconvolve")
    store = Store.open(plan.config.store)
    layer = store.layer(plan.layers[0].name)
    net = construction.build(form)
    maps = oracle_maps(net, images)
    complaints = list(wrong_activations(layer, maps))
    if not complaints:  # else they would be projections of other activations
        complaints += wrong_ranks(layer)
        complaints += wrong_projections(layer, net, images)
    complaints += wrong_field(construction, layer.attributes["receptive_field"], maps.shape[2:])
    assert not complaints, "\n".join(complaints[:8])


def wrong_activations(layer, maps):
    activation, row, column = layer.read_mined(slice(None))
    if activation.shape != maps.shape[:2]:
        yield f"activation: {activation.shape} is stored, {maps.shape[:2]} expected"
        return
    expected = maps.max(axis=(2, 3))
    tolerance = TOLERANCE * np.abs(expected).max(axis=0)
    wrong = ~(np.abs(activation - expected) <= tolerance)
    if wrong.any():
        image, filter = np.argwhere(wrong)[0]
        yield (
            f"activation: {wrong.sum()} of {wrong.size} differ, as {activation[image, filter]:.6g} "
            f"for {expected[image, filter]:.6g} of image {image}, filter {filter}"
        )
    image, filter = np.indices(activation.shape)
    inside = (row < maps.shape[2]) & (column < maps.shape[3])
    if not inside.all():
        yield f"position: {(~inside).sum()} of {inside.size} are outside of the map {maps.shape[2:]}"
        return
    misplaced = ~(np.abs(maps[image, filter, row, column] - expected) <= tolerance)
    if misplaced.any():
        yield f"position: {misplaced.sum()} of {misplaced.size} do not hold the maximum"


def wrong_ranks(layer):
    activation, ranking = layer.read_activation(slice(None)), layer.read_ranking()
    for filter in range(activation.shape[1]):
        strongest = sorted((-value, image) for image, value in enumerate(activation[:, filter].tolist()) if value > 0)
        expected = [image for _, image in strongest[:9]]
        if ranking.image[filter].tolist() != expected + [-1] * (9 - len(expected)):
            yield f"rank: filter {filter} has {ranking.image[filter].tolist()}, {expected} expected"


def wrong_projections(layer, net, images):
    ranking = layer.read_ranking()
    stored, boxes = layer.read("projection"), layer.read("box")
    compared = 0
    for image in np.unique(ranking.image[ranking.image >= 0]):
        places = np.argwhere(ranking.image == image)
        hits = [(int(f), int(ranking.row[f, rank]), int(ranking.column[f, rank])) for f, rank in places]
        for (filter, rank), hit, expected in zip(
            places, hits, oracle_projections(net, images[image], hits), strict=True
        ):
            top, left, bottom, right = boxes[filter, rank]
            scale = np.abs(expected).max()
            difference = np.abs(stored[filter, rank] - expected[top:bottom, left:right]).max()
            compared += scale > 0
            if not difference <= TOLERANCE * scale:
                yield (
                    f"projection: filter {filter}, rank {rank} (image {image}, at {hit[1:]}) differs by "
                    f"{difference / scale if scale else difference:.3g} of its maximum"
                )
            outside = expected.copy()
            outside[top:bottom, left:right] = 0
            if np.abs(outside).max() > 1e-6 * scale:
                yield (
                    f"box: {np.abs(outside).max() / scale:.3g} of the maximum of filter {filter}, rank {rank} lies "
                    f"outside of {boxes[filter, rank].tolist()}"
                )
    if not compared and not net.is_flat:
        yield "projection: none is compared"


def wrong_field(construction, field, map_size):
    size, stride, offset = (np.broadcast_to(field[name], 2) for name in ("size", "stride", "offset"))
    length = construction.size
    source = field.get("source", "graph" if stride.any() else "input")
    if source not in SOURCES:
        yield f"field: its source is {source!r}, none of {SOURCES}"
        return
    starts = [offset[axis] + stride[axis] * np.arange(map_size[axis]) for axis in (0, 1)]
    inside = [(start >= 0) & (start + size[axis] <= length) for axis, start in enumerate(starts)]
    for axis, name in enumerate("yx"):
        others = inside[1 - axis] if inside[1 - axis].any() else np.ones_like(inside[1 - axis])
        first, last = extents(construction, axis, others).T
        start, end = starts[axis], starts[axis] + size[axis] - 1
        if source == "input" and (size[axis] < length or stride[axis] != 0):
            yield f"field: {name} is called the whole input, and is {size[axis]} of {length}, stride {stride[axis]}"
        beyond = (last >= 0) & ((first < start) | (last > end))
        if beyond.any():
            p = int(np.argwhere(beyond)[0, 0])
            yield (
                f"field: along {name} {beyond.sum()} of {len(beyond)} units see beyond it ({source}), as the one at "
                f"{p}: it sees {first[p]} to {last[p]}, the field is {start[p]} to {end[p]}"
            )
        elif source in CLAIMS_EQUALITY and inside[axis].any():
            interior = inside[axis]
            gaps = (first - start)[interior], (end - last)[interior]
            slack = tuple(gap.min() if stride[axis] else gap.max() for gap in gaps)  # of the whole input: every unit
            if slack != (0, 0):
                yield (
                    f"field: along {name} no unit sees the first {slack[0]} and the last {slack[1]} of its "
                    f"{size[axis]} pixels ({source})"
                )
