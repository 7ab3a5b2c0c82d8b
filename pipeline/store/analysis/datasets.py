"""A store's groups as xarray opens them, lazily: nothing but metadata is read before values are asked for."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ...errors import InputError
from ..store import Store

if TYPE_CHECKING:
    from xarray import Dataset, DataTree


def open_dataset(store: Store, group: str) -> Dataset:
    """Return the arrays of a group; InputError where xarray is not installed."""
    _check_installed("dataset()")
    import xarray

    dataset: Dataset = xarray.open_zarr(store.storage, group=group, consolidated=False)
    return dataset


def open_datatree(store: Store) -> DataTree:
    """Return all groups of a store; InputError where xarray is not installed."""
    _check_installed("datatree()")
    import xarray

    with warnings.catch_warnings():  # of files that a run in progress is just writing
        warnings.filterwarnings("ignore", r"Object at .* is not recognized as a component of a Zarr hierarchy")
        tree: DataTree = xarray.open_datatree(store.storage, engine="zarr", consolidated=False, chunks={})
    return tree


def _check_installed(method: str) -> None:
    if find_spec("xarray") is None:
        raise InputError(f"{method} needs xarray: pip install 'topnine[analysis]'.")
