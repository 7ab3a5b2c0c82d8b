"""Which layers a gallery holds, and that it is the same whoever made it."""

import json
import re

import numpy as np
import pytest

from tests.conftest import encode, noise, plan_run, run_stages, write_tar
from topnine.pipeline.errors import InputError
from topnine.stages.gallery.data import _compare_with_rest

DONE = ("index", "mine", "rank", "deconvolve")


@pytest.fixture(scope="module")
def mined(tmp_path_factory):
    """A store of layers 1 and 2, and how to plan another run on it."""
    folder = tmp_path_factory.mktemp("gallery")
    data = write_tar(folder / "a.tar", [(f"{i}.png", encode(noise(i))) for i in range(12)])

    def plan(**changes):
        return plan_run(folder, data__path=data, **{"mine__layers": "1 2", **changes})

    run_stages(plan(), *DONE)
    return plan


def content(plan):
    folder = plan.folder / "gallery"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def data(plan, name):
    script = (plan.folder / "gallery" / "layers" / f"{name}.js").read_text()
    return json.loads(script.split("Map()).set(", 1)[1].split(",", 1)[1].removesuffix(");\n"))


def test_the_gallery_is_the_same_whoever_made_it_and_leaves_nothing_old(mined):
    plan = mined()
    run_stages(plan, "gallery")
    first = content(plan)
    assert {"index.html", "page.js", "layers/run.js", "layers/001-conv1/filter-0.webp", "images/0.webp"} <= set(first)
    (plan.folder / "gallery" / "old.html").write_text("x")
    changed = mined(cluster__threads=3, mine__layers="5")
    run_stages(changed, "gallery")
    assert content(changed) == first
    assert [path.name for path in plan.folder.glob("gallery*")] == ["gallery"]


def test_the_page_loads_every_file_of_the_site(mined):
    plan = mined()
    run_stages(plan, "gallery")
    linked = re.findall(rb'(?:src|href)="([^"#]+)"', content(plan)["index.html"])
    files = {name for name in content(plan) if "/" not in name}
    assert {link.decode() for link in linked} == files - {"index.html"} | {"layers/run.js"}


def test_a_gallery_without_statistics_shows_the_rest(mined):
    plan = mined()
    run_stages(plan, "gallery")
    assert not {"histogram", "entropy"} & set(data(plan, "001-conv1")["filters"][0])
    run_stages(plan, "statistics", "gallery")
    assert sum(data(plan, "001-conv1")["filters"][0]["histogram"]) == 12
    assert data(plan, "001-conv1")["filters"][0]["entropy"] is None  # no image has a class


def test_layers_of_other_settings_are_left_out_and_named(mined):
    guided = mined(mine__layers="2", deconvolve__rule="guided")
    with pytest.raises(InputError, match=r"no layer of store .* is deconvolved with these settings"):
        run_stages(guided, "gallery")
    run_stages(guided, "deconvolve", "gallery")
    run = data(guided, "run")
    assert [layer["name"] for layer in run["layers"]] == ["conv2"]
    assert run["leftOut"] == ["conv1"]
    assert run["rule"] == "guided"
    run_stages(mined(), "gallery")
    assert data(guided, "run")["leftOut"] == ["conv2"]


def test_classes_are_left_out_where_the_strongest_hundred_are_all_images(tmp_path):
    members = [(f"{i:02}.png", encode(noise(i))) for i in range(12)] + [
        (f"{i:02}.cls", b"%d" % (i % 2)) for i in range(12)
    ]
    plan = plan_run(tmp_path, data__path=write_tar(tmp_path / "a.tar", sorted(members)), mine__layers="1")
    run_stages(plan, *DONE, "statistics", "gallery")
    filters = data(plan, "001-conv1")["filters"]
    assert all(filter["entropy"] is None and filter["classes"] == [] for filter in filters)
    subjects = data(plan, "subjects")
    assert {label: images for label, (_, images, _) in subjects["classes"].items()} == {"0": 6, "1": 6}
    assert sum(len(hits) for _, _, hits in subjects["images"].values()) == sum(len(each["hits"]) for each in filters)


def test_a_class_that_alone_activates_a_filter_is_not_divided_by_rounding():
    """Three images of ten: alone, twice as strong, below zero, silent; then all images of one class."""
    mean = np.array([np.float32(0.1), 2, -1, 0], float)
    everywhere = np.array([np.float32(np.float32(0.1) * 3 / 10), (2 * 3 + 1 * 7) / 10, -1, 0.7], float)
    assert _compare_with_rest(mean, everywhere, 3, 10).tolist() == [np.inf, pytest.approx(2), 0, 0]
    assert _compare_with_rest(mean, mean, 10, 10).tolist() == [0, 0, 0, 0]
