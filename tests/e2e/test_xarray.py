"""A run as a scientist opens it, with xarray alone or ``open_run``: labels, classes, netCDF. Warnings are errors."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr

from tests.conftest import plan_run, run_stages, write_tar
from topnine import open_run
from topnine.pipeline.data.decoding.preparation import Geometry
from topnine.pipeline.store import schema
from topnine.pipeline.store.store import Store

CLASSES = "0\tn0\tcat\n1\tn1\tcrane\n2\tn2\tcrane\n3\tn3\tgrand piano, grand\n"


@pytest.fixture(scope="module")
def finished(some_photos, tmp_path_factory) -> str:
    """Twenty photographs of four classes and one damaged image in blocks of eight, two layers, all stages."""
    folder = tmp_path_factory.mktemp("xarray")
    (folder / "classes.tsv").write_text(CLASSES)
    photos = [(name.replace("/", "-"), data) for name, data in some_photos[:20]]
    labels = [(f"{name.removesuffix('.png')}.cls", b"%d" % (i % 4)) for i, (name, _) in enumerate(photos)]
    data = write_tar(folder / "data/a.tar", [*sorted(photos + labels), ("z.png", b"\x89PNG no")])
    plan = plan_run(folder, data__path=data, data__classes=folder / "classes.tsv", mine__layers="1 5", mine__block=8)
    run_stages(plan, "index", "mine", "rank", "statistics", "deconvolve")
    return plan.config.store


@pytest.fixture(params=["xarray", "open_run"])
def tree(finished, request) -> xarray.DataTree:
    """The run as a tree: opened by xarray alone, and by this project."""
    if request.param == "open_run":
        return open_run(finished).datatree()
    return xarray.open_datatree(finished, engine="zarr", consolidated=False)


def test_the_tree_is_the_whole_run(tree):
    groups = {"/", "/images", "/layers", "/layers/conv1", "/layers/conv5"}
    assert groups <= set(tree.groups)
    assert set(tree.groups) - groups <= {"/progress", "/progress/done", "/progress/failed"}
    assert tree.attrs["topnine_schema"] == 3
    assert (tree.attrs["images"], tree.attrs["block"], tree.attrs["network_name"]) == (21, 8, "tiny_zfnet")
    assert tree["layers/conv5"].attrs["receptive_field_size"] == 83


def test_values_are_selected_by_what_they_are(tree):
    layer, images = tree["layers/conv5"].to_dataset(), tree["images"].to_dataset()
    strongest = layer.sel(filter=7, rank=0)
    assert strongest.patch.dims == ("y", "x", "rgb")
    assert float(strongest.top_activation) == float(layer.top_activation[7, 0])
    assert str(images.key[int(strongest.top_image)].values) == str(images.key.values[layer.top_image.values[7, 0]])
    assert np.array_equal(layer.box.sel(corner="top"), layer.box.values[..., 0])
    assert np.array_equal(layer.source_box.sel(corner=["left", "right"]), layer.source_box.values[..., [1, 3]], True)
    assert np.array_equal(layer.patch.sel(rgb="green"), layer.patch.values[..., 1])
    assert np.array_equal(layer.activation_quantile.sel(quantile_level=0.5), layer.activation_quantile.values[:, 3])
    assert np.array_equal(layer.coactive.sel(place=0), layer.coactive.values[:, 0])
    assert np.array_equal(layer.class_mean.sel(class_name="grand piano, grand"), layer.class_mean.values[:, 3])
    assert np.array_equal(layer.class_mean.sel(class_name="crane"), layer.class_mean.values[:, [1, 2]])
    decoded = (
        images.status == dict(zip(images.status.flag_meanings.split(), images.status.flag_values, strict=True))["ok"]
    )
    assert int(decoded.sum()) == 20
    of_class = layer.activation[(images.label == 3).values & decoded.values]
    assert np.allclose(of_class.mean("image"), layer.class_mean.sel(class_name="grand piano, grand"), rtol=1e-5)


def test_it_is_written_as_netcdf_and_read_back(tree, tmp_path):
    tree.to_netcdf(tmp_path / "run.nc")
    with xarray.open_datatree(tmp_path / "run.nc", engine="netcdf4") as again:
        assert set(again.groups) == set(tree.groups)
        for path in tree.groups:
            before, after = tree[path].to_dataset(), again[path].to_dataset()
            assert before.attrs.keys() == after.attrs.keys()
            assert all(np.array_equal(before.attrs[name], after.attrs[name]) for name in before.attrs)
            for name in before.variables:
                assert after[name].dims == before[name].dims
                assert after[name].attrs["long_name"] == before[name].attrs["long_name"]
                equal_nan = np.issubdtype(before[name].dtype, np.floating)
                assert np.array_equal(after[name].values, before[name].values.astype(after[name].dtype), equal_nan)


def test_a_layer_and_the_images_are_written_as_netcdf_too(finished, tmp_path):
    run = open_run(finished)
    run.layer(5).dataset().sel(filter=7).to_netcdf(tmp_path / "filter.nc")
    run.dataset().to_netcdf(tmp_path / "images.nc")
    with xarray.open_dataset(tmp_path / "filter.nc") as one:
        assert np.array_equal(one.patch, run.layer(5).dataset().patch.sel(filter=7))


def test_source_boxes_are_the_boxes_in_the_source_image(tree):
    images = tree["images"].to_dataset()
    assert len({(int(h), int(w)) for h, w in zip(images.source_height, images.source_width, strict=True)}) > 1
    for name in ("conv1", "conv5"):
        layer = tree[f"layers/{name}"].to_dataset().load()
        for filter in range(0, layer.sizes["filter"], 5):
            for rank, image in enumerate(layer.top_image.values[filter]):
                found = layer.source_box.values[filter, rank]
                if image < 0:
                    assert np.isnan(found).all()
                    continue
                size = int(images.source_height[image]), int(images.source_width[image])
                geometry = Geometry(*size, resize=tree.attrs["preprocessing_resize"], size=(96, 96))
                wanted = geometry.to_source(*layer.box.values[filter, rank].tolist())
                assert np.allclose(found, wanted, rtol=1e-6)
                assert (found >= -0.5).all()
                assert found[2] <= size[0] + 0.5


def test_a_run_that_is_still_being_mined_opens(finished, tmp_path):
    store = Path(shutil.copytree(finished, tmp_path / "run.zarr"))
    writer = Store.open(str(store), write=True)
    for layer, stages in {"conv1": ("rank", "statistics", "deconvolve"), "conv5": ("statistics",)}.items():
        for stage in stages:
            writer.set_fingerprint(stage, None, layer)
    for marker in (store / "progress/done/conv1/c").iterdir():
        marker.unlink()
    for chunk in [*(store / "layers/conv1/activation/c").rglob("0"), *(store / "images/status/c").iterdir()]:
        if chunk.is_file():
            chunk.unlink()
    tree = xarray.open_datatree(str(store), engine="zarr", consolidated=False)
    assert np.isnan(tree["layers/conv1"].activation.sel(filter=3)).all()
    assert (tree["images"].status == 0).all()
    tree.to_netcdf(tmp_path / "run.nc")


@pytest.mark.parametrize("stages", [["index"], ["index", "mine"], ["index", "mine", "rank"]])
def test_every_stage_leaves_a_run_that_opens(some_photos, tmp_path, stages):
    data = write_tar(tmp_path / "a.tar", sorted(some_photos[:4]))
    plan = plan_run(tmp_path, data__path=data, mine__layers="1")
    run_stages(plan, *stages)
    tree = xarray.open_datatree(plan.config.store, engine="zarr", consolidated=False)
    assert tree["images"].sizes["image"] == 4
    tree.to_netcdf(tmp_path / "run.nc")


def test_arrays_are_made_anew_from_attributes_alone(finished):
    """Whatever is needed for the metadata of every array stands in the attributes of the root and of the layer."""
    store = Store.open(finished)
    root = store.attributes
    made = {f"images/{name}": spec for name, spec in schema.index_arrays(root["images"]).items()}
    made |= {f"images/{name}": spec for name, spec in schema.image_arrays(root["images"], root["block"]).items()}
    for name in store.layers:
        for arrays in schema.arrays_by_stage(root, store.layer(name).attributes).values():
            made |= {f"layers/{name}/{array}": spec for array, spec in arrays.items()}
    group = zarr.open_group(finished, mode="r")
    recorded = {path for path, node in group.members(max_depth=None) if isinstance(node, zarr.Array)}
    assert {path for path in recorded if not path.startswith("progress/")} == made.keys()
    for path, spec in made.items():
        array = group[path]
        assert (array.shape, array.shards or array.chunks) == (spec.shape, spec.unit)
        assert array.metadata.dimension_names == spec.names
        assert array.attrs.asdict() == spec.attributes


def test_an_older_store_is_refused_in_one_sentence(finished, tmp_path):
    store = Path(shutil.copytree(finished, tmp_path / "run.zarr"))
    attributes = zarr.open_group(store, mode="r+").attrs
    attributes.put({"schema": 2})
    for command in ("status", "verify", "export"):
        options = ["--layer", "5"] if command == "export" else []
        finished_command = subprocess.run(
            [sys.executable, "-m", "topnine", command, store, *options], capture_output=True, text=True, check=False
        )
        assert finished_command.returncode == 2
        assert "has schema 2, which an older topnine wrote" in finished_command.stderr.replace("\n", " ")
        assert "Traceback" not in finished_command.stderr
