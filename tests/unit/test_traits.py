import numpy as np
import pytest

from topnine.pipeline.compute.traits import HitDescriber
from topnine.pipeline.data.decoding.preparation import Geometry, Preparation
from topnine.pipeline.network.receptive_field import Axis, ReceptiveField
from topnine.pipeline.ranking.distinct import DistinctRule, digest

KEYS = np.array(["coffee-2-1-3", "cat-01", "coffee-4-1-2", "bad"], object)
LOOK = np.array([5, 2**63 + 1, 7, 0], np.uint64)
HEIGHT, WIDTH = np.array([96, 300, 96, 0]), np.array([96, 200, 192, 0])
FIELD = ReceptiveField(Axis(7, 2, -3), Axis(11, 2, -5))
CROP = 80


def describe(by, image, row, column):
    def read_columns(ids):
        asked.append(ids.tolist())
        return [values[ids] for values in (KEYS, LOOK, HEIGHT, WIDTH)]

    asked = []
    decode = Preparation(96, (CROP, CROP))
    rule = DistinctRule(by, r"(.+?)[-_.]\d[-_.\d]*", 10)
    traits = HitDescriber(rule, decode, FIELD).describe(read_columns, *map(np.array, (image, row, column)))
    assert len(asked) == 1
    return traits, asked[0]


def test_every_image_is_read_once_and_empty_ranks_are_described_as_image_0():
    traits, asked = describe("look", [[2, 1, 2], [-1, 1, -1]], [[0] * 3] * 2, [[0] * 3] * 2)
    assert asked == [0, 1, 2]
    assert traits.look.tolist() == [[7, 2**63 + 1, 7], [5, 2**63 + 1, 5]]
    assert traits.look.dtype == traits.source.dtype == np.uint64
    assert not traits.source.any()


@pytest.mark.parametrize(
    ("by", "sources"),
    [("source", ["coffee", "cat", "coffee", "bad"]), ("place", ["coffee", "cat-01", "coffee", "bad"])],
)
def test_sources_are_those_of_the_keys_and_photographs_those_of_tiles(by, sources):
    traits, _ = describe(by, [0, 1, 2, 3], [0] * 4, [0] * 4)
    assert traits.source.tolist() == [digest(source) for source in sources]
    assert traits.source.dtype == np.uint64


def test_boxes_are_in_pixels_of_the_photograph():
    image, row, column = [0, 1, 2, 3], [0, 10, 39, 20], [39, 10, 0, 20]
    traits, _ = describe("place", image, row, column)
    grid = {0: (2, 1, 3), 2: (4, 1, 2)}  # scale, row and column of tiles
    for i, r, c, box in zip(image, row, column, traits.box.tolist(), strict=True):
        height, width = max(1, int(HEIGHT[i])), max(1, int(WIDTH[i]))
        scale, tile_row, tile_column = grid.get(i, (1, 0, 0))
        geometry = Geometry(height, width, 96, (CROP, CROP))
        top, left, bottom, right = geometry.to_source(*FIELD.window(r, c, CROP, CROP))
        y, x = tile_row * HEIGHT[i], tile_column * WIDTH[i]
        wanted = np.array([top + y, left + x, bottom + y, right + x]) * scale
        assert np.allclose(box, wanted, rtol=0, atol=1e-9)


def test_positions_of_a_block_are_broadcast_with_its_images_and_do_not_overflow():
    row = np.array([[0, 30000], [39, 5], [0, 0]], np.uint16)
    traits, _ = describe("place", np.arange(3)[:, None], row, row[::-1])
    assert traits.source.shape == (3, 1)
    assert traits.box.shape == (3, 2, 4)
    alone, _ = describe("place", [0, 0], [0, 79], [0, 0])
    assert traits.box[0, 1, [0, 2]].tolist() == alone.box[1, [0, 2]].tolist()  # the last patch that fits
