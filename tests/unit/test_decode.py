import io
import tarfile

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms

from tests.conftest import decode_at as decode
from tests.conftest import encode, noise
from topnine.pipeline.data.decoding.decode import decode as decode_into
from topnine.pipeline.data.decoding.decode import difference_hash
from topnine.pipeline.data.decoding.preparation import Geometry, Preparation
from topnine.pipeline.errors import DecodeError

SIZES = [(375, 500), (500, 375), (256, 256), (224, 300), (100, 900), (301, 257), (97, 96)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_pixels_are_those_of_resizing_the_whole_image(height, width):
    smooth = Image.fromarray(noise(1, 12, 12)).resize((width, height), Image.Resampling.BICUBIC)
    pixels = decode(encode(np.asarray(smooth)), resize=256, crop=224).pixels
    reference = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])(smooth)
    assert np.abs(pixels.astype(int) - np.asarray(reference)).max() <= 1


def photographs(test_data):
    """Every encoded image of ImageNet-500."""
    for path in sorted((test_data / "data" / "imagenet-500").glob("*.tar")):
        with tarfile.open(path) as container:
            for member in container:
                if not member.name.endswith(".cls"):
                    yield container.extractfile(member).read()


@pytest.mark.parametrize(
    ("interpolation", "resize", "crop"), [("bilinear", 256, 224), ("bilinear", 232, 224), ("bicubic", 320, 300)]
)
def test_pixels_of_real_photographs_are_those_of_resizing_the_whole_image(test_data, interpolation, resize, crop):
    filter = transforms.InterpolationMode(interpolation)
    reference = transforms.Compose([transforms.Resize(resize, filter), transforms.CenterCrop(crop)])
    worst = []
    for data in photographs(test_data):
        with Image.open(io.BytesIO(data)) as image:
            wanted = np.asarray(reference(image.convert("RGB"))).astype(int)
        worst.append(np.abs(decode(data, resize, crop, interpolation=interpolation).pixels - wanted).max())
    assert len(worst) == 500
    assert max(worst) == 0


def test_fast_decoding_halves_large_photographs_only_and_shows_the_same_place():
    smooth = Image.fromarray(noise(3, 30, 40)).resize((1200, 900), Image.Resampling.BICUBIC)
    exact, fast = (decode(jpeg(smooth), 256, 224, fast=fast) for fast in (False, True))
    assert fast.geometry == exact.geometry
    difference = np.abs(fast.pixels.astype(int) - exact.pixels)
    assert difference.max() > 0
    assert difference.mean() < 2
    small = jpeg(smooth.resize((400, 300)))
    assert np.array_equal(decode(small, 256, 224, fast=True).pixels, decode(small, 256, 224).pixels)


@pytest.mark.parametrize("fit", ["squash", "pad"])
def test_fast_decoding_halves_for_every_fit(fit):
    smooth = Image.fromarray(noise(3, 30, 40)).resize((1200, 900), Image.Resampling.BICUBIC)
    exact, fast = (decode(jpeg(smooth), 256, 224, fast=fast, fit=fit) for fast in (False, True))
    assert fast.geometry == exact.geometry
    assert 0 < np.abs(fast.pixels.astype(int) - exact.pixels).mean() < 2


def jpeg(image):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def test_an_image_of_the_wanted_size_is_not_resampled():
    pixels = noise(2)
    assert np.array_equal(decode(encode(pixels), resize=96, crop=96).pixels, pixels)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_way_back_leads_to_where_the_pixels_were(height, width):
    geometry = Geometry(height, width, resize=64, size=(48, 48))
    bright = np.zeros((height, width, 3), np.uint8)
    top, left, bottom, right = (round(edge) for edge in geometry.to_source(10, 20, 30, 40))
    bright[top:bottom, left:right] = 255
    bright_pixels = np.argwhere(decode(encode(bright), 64, 48).pixels[..., 0] > 127)
    assert np.abs(bright_pixels.min(axis=0) - (10, 20)).max() <= 1
    assert np.abs(bright_pixels.max(axis=0) - (29, 39)).max() <= 1


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_every_mode_becomes_rgb(mode):
    buffer = io.BytesIO()
    Image.fromarray(noise(3)).convert(mode).save(buffer, "JPEG" if mode == "CMYK" else "PNG")
    assert decode(buffer.getvalue(), 96, 96).pixels.shape == (96, 96, 3)


def test_what_cannot_be_decoded_says_why_and_nothing_of_the_process():
    good = encode(noise(4), "JPEG")
    for data in (b"", b"text", good[: len(good) // 2], encode(noise(4))[:200]):
        with pytest.raises(DecodeError) as error:
            decode(data, 96, 96)
        assert str(error.value)
        assert "0x" not in str(error.value)


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize("resample", ["pillow", "torch"])
@pytest.mark.parametrize(("channels", "fit"), [(3, "crop"), (3, "pad"), (1, "crop"), (1, "pad")])
def test_pixels_are_written_where_they_are_wanted(form, resample, channels, fit):
    batch = np.full((3, 64, 64, channels), 7, np.uint8)
    options = {"resample": resample, "channels": channels, "fit": fit}
    for size in ((80, 100), (64, 64)):
        data = encode(noise(1, *size), form)
        alone = decode(data, 64, 64, **options)
        found = decode_into(data, Preparation(64, (64, 64), **options), batch[1])
        assert np.shares_memory(found.pixels, batch)
        assert np.array_equal(batch[1], alone.pixels)
        assert found.hash == alone.hash
        assert (batch[[0, 2]] == 7).all()


def test_an_image_keeps_its_pixels_when_the_next_one_is_decoded():
    data = [encode(noise(seed), "JPEG") for seed in (1, 2)]
    first = decode(data[0], 96, 96).pixels
    before = first.copy()
    assert not np.array_equal(decode(data[1], 96, 96).pixels, before)
    assert np.array_equal(first, before)


def slow_hash(pixels):
    """The difference hash as it is described."""
    step = max(1, min(pixels.shape[:2]) // 56)
    grey = Image.fromarray(pixels[::step, ::step].copy()).convert("L").resize((9, 8), Image.Resampling.BOX)
    bits = "".join(str(int(row[x + 1] > row[x])) for row in np.asarray(grey) for x in range(8))
    return int(bits, 2)


@pytest.mark.parametrize("height", [1, 2, 55, 56, 57, 96, 112, 113, 223, 224, 225, 299])
def test_the_hash_is_that_of_every_so_many_pixels(height):
    for width in (height, height + 1, 2 * height, max(1, height - 1)):
        smooth = np.asarray(Image.fromarray(noise(height, 5, 5)).resize((width, height)))
        for pixels in (noise(width, height, width), smooth, smooth[:, ::-1]):
            assert difference_hash(pixels) == slow_hash(pixels)
