"""The Zarr store of a run: the only package that imports zarr."""
