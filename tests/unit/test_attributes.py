"""Attributes of the root and of layers: stored as netCDF can hold them, read back as they were, refused if wrong."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.doctests import LAYER
from topnine.pipeline.errors import InputError
from topnine.pipeline.store.attributes import read_fingerprints, read_layer, read_root, store_attributes

ROOT = {
    "dataset": {"name": "six", "shards": [{"name": "a.tar", "size": 3, "modified": 1.5}], "classes": []},
    "network": {"name": "tiny_zfnet", "weights": "sha256:00"},
    "preprocessing": {"resize": 96, "size": [96, 96], "filter": "bilinear", "mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]},
    "versions": {"zarr": "3"},
    "configuration": {"mine": {"layers": "5", "nothing": None, "flags": [True]}},
    "fingerprints": {"index": {"data": "x"}},
    "images": 6,
    "block": 4,
}
PROBE = {
    "layout": {},
    "unseen": [],
    "projected_on": "crop",
    "unprojectable": "",
    "references": [0.5, float("inf")],
}
PROBED = {**LAYER, "probe": PROBE, "fingerprints": {"mine": {}}}


@pytest.mark.parametrize(("attributes", "read"), [(ROOT, read_root), (PROBED, read_layer)])
def test_attributes_are_read_as_they_were_and_are_no_structures_meanwhile(attributes, read):
    stored = json.loads(json.dumps(store_attributes(attributes)))
    assert read(stored, "store x") == attributes
    for value in stored.values():
        parts = value if isinstance(value, list) else [value]
        assert parts
        assert all(isinstance(part, str | int | float) and not isinstance(part, bool) for part in parts)


def test_what_a_scientist_reads_needs_no_json():
    stored = store_attributes({**ROOT, **LAYER})
    assert (stored["network_name"], stored["preprocessing_size"], stored["receptive_field_size"]) == (
        "tiny_zfnet",
        [96, 96],
        3,
    )


def test_a_layer_without_a_number_and_one_without_attributes():
    stored = store_attributes({**LAYER, "number": None})
    assert "number" not in stored
    assert read_layer(stored, "x")["number"] is None
    assert read_layer({}, "x") == {}
    assert read_fingerprints({}, "x") == {}


@pytest.mark.parametrize("number", [0, -1, True, "1", 1.0, "../../x", [1], {}])
def test_a_number_that_is_none_is_refused(number):
    with pytest.raises(InputError, match="layer a of store b is damaged: its attribute number: input should"):
        read_layer(store_attributes(PROBED) | {"number": number}, "layer a of store b")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "1", 7, None, {"mine": {}}, "[" * 100_000])
def test_what_is_no_object_in_json_is_refused(text):
    with pytest.raises(InputError, match=r"b is damaged: its attribute fingerprints is not an object in JSON\. Give"):
        read_fingerprints({"fingerprints": text}, "b")
    with pytest.raises(InputError, match="its attribute probe is not an object"):
        read_layer({"probe": text}, "b")
    if text != "[]":
        with pytest.raises(InputError, match="its attribute dataset_classes is not a list"):
            read_root({"dataset_classes": text}, "b")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.dictionaries(st.text(), JSON))
def test_any_configuration_is_read_as_it_was(configuration):
    assert read_root(store_attributes({"configuration": configuration}), "x") == {"configuration": configuration}
