"""Inputs that are no squares of red, green and blue in 8 bits, against a loop over single images and a net by hand."""

import io

import numpy as np
import pytest
import tifffile
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from tests.conftest import noise, plan_run, run_stages
from topnine.pipeline.store.store import Store

COUNT = 12


class Small(nn.Module):
    """Two convolutions with a pooling between them, whose projections are written down in ``project``."""

    def __init__(self, channels):
        super().__init__()
        self.first = nn.Conv2d(channels, 6, 5, stride=2, padding=2)
        self.second = nn.Conv2d(6, 8, 3, padding=1)

    def forward(self, pixels):
        return F.relu(self.second(F.max_pool2d(F.relu(self.first(pixels)), 2)))


def build(channels):
    torch.manual_seed(7)
    return Small(channels)


def gray():
    return build(1)


def colours():
    return build(3)


def five():
    return build(5)


def project(network, pixels, filter, row, column):
    """Return the deconvnet's projection of a unit of ``second``: written with transposed convolutions."""
    first = F.relu(network.first(pixels))
    pooled, where = F.max_pool2d(first, 2, return_indices=True)
    signal = torch.zeros_like(network.second(pooled))
    signal[0, filter, row, column] = F.relu(network.second(pooled))[0, filter, row, column]
    signal = F.conv_transpose2d(signal, network.second.weight, padding=1)
    signal = F.relu(F.max_unpool2d(F.relu(signal), where, 2, output_size=first.shape[2:]))
    even = [1 - side % 2 for side in pixels.shape[2:]]
    return F.conv_transpose2d(signal, network.first.weight, stride=2, padding=2, output_padding=even)[0]


def smooth(seed, height, width):
    return np.asarray(Image.fromarray(noise(seed, 12, 12)).resize((width, height), Image.Resampling.BICUBIC))


def resize_bands(bands, height, width, resample):
    """Resize each band (y, x, band) uint8 on its own, whatever its shape."""
    if resample == "torch":
        planes = torch.from_numpy(np.moveaxis(bands, -1, 0).copy())[:, None]
        resized = F.interpolate(planes, (height, width), mode="bilinear", antialias=True)
        return np.moveaxis(resized[:, 0].numpy(), 0, -1)
    planes = [Image.fromarray(np.ascontiguousarray(band)) for band in np.moveaxis(bands, -1, 0)]
    return np.stack([np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR)) for plane in planes], -1)


def write_grey(folder):
    """Grey and coloured PNG, which a network of one channel sees as grey."""
    for i in range(COUNT):
        image = Image.fromarray(smooth(i, 60, 60))
        image = image.convert("L") if i % 2 else image
        image.save(folder / f"{i:02}.png")
        yield np.asarray(image.convert("L"))[..., None]


def write_deep(folder):
    """Grey PNG of 16 bits, of which 12 are used."""
    for i in range(COUNT):
        values = smooth(i, 60, 60)[..., 0].astype(np.uint16) * 16 + 7
        Image.fromarray(values).save(folder / f"{i:02}.png")
        yield np.rint((values.astype(float) - 100) * 255 / 3900).clip(0, 255).astype(np.uint8)[..., None].repeat(3, -1)


def five_bands():
    for i in range(COUNT):
        yield np.concatenate([smooth(2 * i, 60, 60), smooth(2 * i + 1, 60, 60)[..., :2]], axis=-1)


def write_bands(folder):
    """TIFF of five bands."""
    for i, bands in enumerate(five_bands()):
        layout = {"planarconfig": ("contig", "separate")[i % 2], "compression": (None, "lzw", "zlib")[i % 3]}
        values = bands if i % 2 == 0 else np.moveaxis(bands, -1, 0)
        tifffile.imwrite(folder / f"{i:02}.tif", values, photometric="minisblack", metadata=None, **layout)
        yield bands


def write_arrays(folder):
    """The same as .npy, bands first and bands last."""
    for i, bands in enumerate(five_bands()):
        np.save(folder / f"{i:02}.npy", bands if i % 2 else np.moveaxis(bands, -1, 0))
        yield bands


def write_wide(folder):
    """Frames of 640 × 192 pixels."""
    for i in range(COUNT):
        pixels = smooth(i, 192, 640)
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
        yield pixels


RUNS = {
    "gray": (write_grey, "gray", {"size": [48, 48], "resample": "pillow"}, {}),
    "deep": (write_deep, "colours", {"size": [48, 48], "resample": "pillow"}, {"range": [100, 4000]}),
    "bands": (write_bands, "five", {"size": [48, 48]}, {}),
    "arrays": (write_arrays, "five", {"size": [48, 48]}, {}),
    "bands by Pillow": (write_bands, "five", {"size": [48, 48], "resample": "pillow"}, {}),
    "wide": (write_wide, "colours", {"size": [96, 320]}, {}),
    "tall": (write_wide, "colours", {"size": [96, 40], "fit": "squash"}, {}),
    "tall, by Pillow": (write_wide, "colours", {"size": [96, 40], "fit": "squash", "resample": "pillow"}, {}),
}


@pytest.fixture(params=RUNS)
def finished(request, tmp_path):
    write, network, decode, data = RUNS[request.param]
    folder = tmp_path / "images"
    folder.mkdir()
    resample = decode.get("resample", "torch")
    pixels = [resize_bands(image, *decode["size"], resample) for image in write(folder)]
    settings = {f"decode__{key}": value for key, value in decode.items()}
    settings |= {f"data__{key}": value for key, value in data.items()}
    plan = plan_run(
        tmp_path, network__name=f"{__name__}:{network}", network__weights="random", data__path=folder,
        mine__layers="second", mine__block=8, mine__batch=4, **settings,
    )  # fmt: skip
    run_stages(plan, *("index", "mine", "rank", "statistics", "deconvolve", "tile"))
    return plan, pixels


def test_a_run_is_what_single_images_give(finished):
    plan, pixels = finished
    layer = Store.open(plan.config.store).layer("second")
    activation, row, column = layer.read_mined(slice(None))
    mean, std = plan.network.architecture.normalisation(pixels[0].shape[-1])
    inputs = [
        torch.from_numpy((image / 255 - np.array(mean)) / np.array(std)).float().permute(2, 0, 1)[None]
        for image in pixels
    ]
    with torch.no_grad():
        maps = [plan.network.module(image)[0] for image in inputs]
    for i, found in enumerate(maps):
        expected = found.amax((1, 2)).numpy()
        assert np.allclose(activation[i], expected, rtol=1e-4, atol=1e-5)
        there = found.numpy()[np.arange(len(found)), row[i], column[i]]
        assert np.allclose(there, expected, rtol=1e-4, atol=1e-5)
    ranking, boxes = layer.read_ranking(), layer.read("box")
    patch, projection = layer.read("patch"), layer.read("projection")
    assert patch.shape[2:] == projection.shape[2:]
    assert patch.shape[-1] == pixels[0].shape[-1]
    for filter, rank in np.argwhere(ranking.image >= 0):
        image, (top, left, bottom, right) = ranking.image[filter, rank], boxes[filter, rank]
        assert np.array_equal(patch[filter, rank], pixels[image][top:bottom, left:right])
        at = int(ranking.row[filter, rank]), int(ranking.column[filter, rank])
        with torch.no_grad():
            whole = project(plan.network.module, inputs[image], int(filter), *at).permute(1, 2, 0).numpy()
        found, expected = projection[filter, rank], whole[top:bottom, left:right]
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
        assert np.abs(whole).sum() == pytest.approx(np.abs(expected).sum(), rel=1e-4)  # nothing beyond the patch


def test_its_sheet_and_store_have_its_shape(finished):
    plan, pixels = finished
    sheet = plan.folder / "figures" / "layersecond.png"
    with Image.open(io.BytesIO(sheet.read_bytes())) as image:
        assert image.mode == "RGB"
    attributes = Store.open(plan.config.store).attributes["preprocessing"]
    assert (attributes["size"], attributes["channels"]) == (list(pixels[0].shape[:2]), pixels[0].shape[2])
