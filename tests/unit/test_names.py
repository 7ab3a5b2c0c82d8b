"""Layers whose names are no steps of a path."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topnine.pipeline.store.names import layer_path, marker_path, quote, unquote


@given(st.text(min_size=1))
def test_every_name_comes_back_from_one_step_of_a_path(name):
    step = quote(name)
    assert unquote(step) == name
    assert "/" not in step
    assert "\\" not in step
    assert step not in (".", "..", "zarr.json")


@given(st.text("/\\%.2F5C\n", min_size=1), st.text("/\\%.2F5C\n", min_size=1))
def test_two_names_never_share_a_path(first, second):
    assert (quote(first) == quote(second)) == (first == second)


@pytest.mark.parametrize("name", ["conv1_2", "features.0", "Mixed_7c", "layer4", "100%", "stem conv", "é"])
def test_names_without_slashes_stand_as_they_are(name):
    assert Path(layer_path(name)).name == Path(marker_path("done", name)).name == name
