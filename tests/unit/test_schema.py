"""The schema: what a scientist finds at every array, and that no name is in the way of another."""

import builtins
import keyword

import numpy as np
import pytest
import xarray
import zarr

from topnine.pipeline.ranking.statistics import LISTED
from topnine.pipeline.store import schema
from topnine.pipeline.store.arrays import coordinate_values

CLASSES = ["cat", "crane", "crane", "3"]
GROUPS = {
    "images": schema.index_arrays(20) | schema.image_arrays(20, 6),
    "layers/conv1": schema.layer_arrays(64)
    | schema.mined_arrays(20, 6, 64, 48, 48)
    | schema.ranked_arrays(64)
    | schema.statistics_arrays(64, CLASSES)
    | schema.patch_arrays(64, 7, 9, 3),
    "progress": schema.marker_arrays(4, {}),
}
ARRAYS = {f"{group}/{name}": spec for group, arrays in GROUPS.items() for name, spec in arrays.items()}

# Names that are also a method's, and why they stay.
ALLOWED = {
    "rank": "the issue fixes .sel(rank=0); Dataset.rank is seldom used, and reached as a method all the same",
    "filter": "the issue fixes .sel(filter=7), and it is the field's word; a keyword argument hides no builtin",
}
# Dimensions that only count: their index is the row of a table, or the number of a bin whose edges differ by filter.
COUNTS = {"image", "block", "histogram_bin", "histogram_edge"}
# Arrays of texts and flags have no units.
WITHOUT_UNITS = {"key", "reason", "status", "tie", "rgb", "corner", "class_name", "done", "failed"}


@pytest.mark.parametrize("path", ARRAYS)
def test_no_name_is_one_of_python_or_xarray(path):
    taken = {
        *dir(xarray.Dataset), *dir(xarray.DataArray), *dir(xarray.DataTree), *dir(builtins), *keyword.kwlist,
        *keyword.softkwlist,
    }  # fmt: skip
    names = {path.rsplit("/", 1)[1], *ARRAYS[path].names}
    assert names & taken <= ALLOWED.keys()
    assert all(name.isidentifier() for name in names)


@pytest.mark.parametrize("path", ARRAYS)
def test_every_array_says_what_it_is_and_what_its_fill_value_means(path):
    spec, name = ARRAYS[path], path.rsplit("/", 1)[1]
    about = spec.attributes
    assert about["long_name"]
    assert ("units" in about) == (name not in WITHOUT_UNITS)
    if "flag_values" in about:
        assert len(about["flag_values"]) == len(about["flag_meanings"].split())
    elif spec.values is None and np.issubdtype(np.dtype(spec.dtype), np.floating):
        assert any(word in about["comment"] for word in ("NaN", "0 where", "first bin"))
    elif spec.fill == -1 and spec.values is None:
        assert "-1" in about["comment"]


@pytest.mark.parametrize("group", GROUPS)
def test_every_dimension_that_is_no_count_has_a_coordinate(group):
    arrays = GROUPS[group]
    dimensions = {name for spec in arrays.values() for name in spec.names}
    assert dimensions - COUNTS == {name for name, spec in arrays.items() if spec.values is not None}
    for name, spec in arrays.items():
        assert (spec.names == (name,)) == (spec.values is not None)
        assert spec.values is None or len(spec.values) == spec.shape[0]


def test_dimensions_have_one_size_in_a_group():
    sizes = {}
    for path, spec in ARRAYS.items():
        for name, size in zip(spec.names, spec.shape, strict=True):
            assert sizes.setdefault((path.split("/")[0], name), size) == size


@pytest.mark.parametrize("path", ARRAYS)
def test_attributes_are_what_netcdf_holds(path):
    for value in ARRAYS[path].attributes.values():
        assert isinstance(value, str) or (isinstance(value, list) and all(type(number) is int for number in value))


def test_the_values_of_coordinates():
    layer = GROUPS["layers/conv1"]
    values = {name: coordinate_values(spec).tolist() for name, spec in layer.items() if spec.values is not None}
    assert values["filter"] == list(range(64))
    assert values["rank"] == list(range(9))
    assert values["corner"] == ["top", "left", "bottom", "right"]
    assert values["rgb"] == ["red", "green", "blue"]
    assert values["class_name"] == CLASSES
    assert (len(values["y"]), len(values["x"]), len(values["place"])) == (7, 9, LISTED)
    assert values["quantile_level"][3] == 0.5


def test_flags_are_those_of_the_code():
    about = ARRAYS["images/status"].attributes
    meanings = dict(zip(about["flag_meanings"].split(), about["flag_values"], strict=True))
    assert meanings == {"pending": schema.PENDING, "ok": schema.OK, "undecodable": schema.UNDECODABLE}


def test_zarr_takes_the_attributes_as_they_are():
    group = zarr.create_group(zarr.storage.MemoryStore())
    for path, spec in ARRAYS.items():
        array = group.create_array(path, shape=spec.shape, dtype=spec.dtype, attributes=dict(spec.attributes))
        assert array.attrs.asdict() == spec.attributes
