from dataclasses import replace

import numpy as np
import pytest

from topnine.pipeline.ranking.distinct import (
    AlreadyRanked,
    DistinctRule,
    Tile,
    Traits,
    alike,
    choose,
    choose_distinct,
    digest_sources,
    exclude,
    parse_tile,
)
from topnine.pipeline.ranking.topk import RANKS, Ranking

SOURCE = r"(.+?)[-_.]\d[-_.\d]*"  # rank.source unless it is given


def rule(by, source=SOURCE, distance=10):
    return DistinctRule(by, source, distance)


def traits(source=0, look=0, box=(0, 0, 0, 0)):
    """Arrays of one dimension, from lists or single values."""
    source, look = np.broadcast_arrays(np.array(source, np.uint64), np.array(look, np.uint64))
    return Traits(source, look, np.broadcast_to(np.array(box, float), (*source.shape, 4)))


def ranking(image):
    """Hits (filter, rank) with the activations 100, 99, …, in rows and columns told from the image."""
    image = np.array(image)
    empty = image < 0
    activation = np.where(empty, np.nan, 100 - np.arange(image.shape[1])).astype(np.float32)
    row, column = (np.where(empty, -1, image + shift).astype(np.int32) for shift in (10, 20))
    return Ranking(activation, image, row, column)


def test_sources_are_group_one_of_a_matching_key_and_other_keys_are_their_own():
    one, other, own, same = digest_sources(["cat-01", "cat_2.5", "dog", "dog-7"], rule("source"))
    assert one == other != own == same
    assert (
        digest_sources(["ab", "b"], rule("source", "(a)?b")).tolist()
        == digest_sources(["a", "b"], rule("source")).tolist()
    )
    assert digest_sources([], rule("source")).dtype == np.uint64


def test_only_a_key_with_three_numbers_is_a_tiles():
    assert parse_tile("a-b-2-0-11") == Tile("a-b", 2, 0, 11)
    for key in ("n01440764_37", "a-1-2", "-1-2-3", "a-1-2-x", "a-1--2"):
        assert parse_tile(key) == Tile(key, 1, 0, 0)


def test_looks_are_alike_up_to_the_distance_sources_where_they_are_one():
    first, second = traits(source=[1, 1, 2, 2], look=[0b0, 0b11, 0b111, 0b0]), traits(source=1, look=0)
    assert alike(rule("look", distance=2), first, second).tolist() == [True, True, False, True]
    assert alike(rule("source"), first, second).tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("box", "same"),
    [
        ((0, 0, 10, 10), True),
        ((4, 4, 12, 12), True),  # each contains the other's centre
        ((0, 0, 40, 40), True),  # its own centre is far off, but it contains the other's
        ((5, 5, 6, 6), True),
        ((10, 0, 20, 10), False),
        ((6, 0, 16, 10), False),
        ((5, 5, 40, 40), True),  # the edges at the top and left are inside
        ((-20, 0, 5, 10), False),  # those at the bottom and right are not
        ((0, -20, 10, 5), False),
    ],
)
def test_places_are_one_where_a_patch_contains_the_centre_of_the_other(box, same):
    boxes = traits(1, box=(0, 0, 10, 10)), traits(1, box=box)
    assert alike(rule("place"), *boxes) == same
    assert alike(rule("place"), *reversed(boxes)) == same
    assert not alike(rule("place"), boxes[0], traits(2, box=box))


def test_the_strongest_of_each_source_is_kept_with_its_row_and_column():
    hits = ranking([[7, 3, 5, 9, 4], [1, 2, 3, -1, -1]])
    chosen = choose(hits, traits(source=[[1, 1, 2, 1, 3], [5, 5, 5, 0, 0]]), rule("source"))
    assert chosen.image.tolist() == [[7, 5, 4] + [-1] * 6, [1] + [-1] * 8]
    assert chosen.row.tolist() == [[17, 15, 14] + [-1] * 6, [11] + [-1] * 8]
    assert chosen.column[0, :3].tolist() == [27, 25, 24]
    assert chosen.activation[0, :3].tolist() == [100, 98, 96]
    assert np.isnan(chosen.activation[0, 3:]).all()
    kinds = {name: values.dtype for name, values in vars(chosen).items()}
    assert kinds == {"activation": np.float32, "image": np.int64, "row": np.int32, "column": np.int32}


def test_a_chain_of_alike_looks_is_cut_at_those_that_are_kept():
    """0b0 and 0b11 are alike, 0b11 and 0b1111 are: the second is dropped, so the third stays."""
    chosen = choose(ranking([[0, 1, 2]]), traits(look=[[0b0, 0b11, 0b1111]]), rule("look", distance=2))
    assert chosen.image[0, :3].tolist() == [0, 2, -1]


def test_no_more_than_nine_are_kept():
    chosen = choose(ranking([range(20)]), traits(source=[range(20)]), rule("source"))
    assert chosen.image.tolist() == [[*range(RANKS)]]


def test_duplicates_of_chosen_hits_and_settled_filters_are_left_out():
    hits = ranking([[0] + [-1] * 8, [1, 2] + [-1] * 7, [2] + [-1] * 8])
    taken_traits = traits(source=[[1] + [3] * 8, [2, 3] + [1] * 7, [3] * 9])
    taken = AlreadyRanked(hits, np.array([True, True, False]))
    activation = np.arange(9, dtype=np.float32).reshape(3, 3)
    left = exclude(activation, traits(source=[[1], [2], [3]]), taken, taken_traits, rule("source"))
    nan = np.nan
    assert np.array_equal(left, [[nan, 1, nan], [3, nan, nan], [6, nan, nan]], equal_nan=True)
    assert left.dtype == np.float32
    assert activation[0, 0] == 0


def test_candidates_are_the_result_where_the_rule_is_by_image():
    candidates = ranking([[3, 1, 2]])
    assert choose_distinct(candidates, rule("image"), None, None, 3) is candidates


def test_blocks_are_read_again_only_for_filters_whose_candidates_were_too_few():
    """Filter 0 has two distinct hits among ten candidates, and may have more; filter 1 has no further candidates."""
    sources = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 3])
    asked = []

    def rank_others(taken):
        asked.append(taken)
        others = ranking([[10, 11] + [-1] * 8, [-1] * 10])
        return replace(others, activation=others.activation / 2)  # weaker than all candidates

    candidates = ranking([range(10), [6, 0, 7] + [-1] * 7])
    chosen = choose_distinct(candidates, rule("source"), lambda hits: traits(sources[hits.image]), rank_others, 10)
    (taken,) = asked
    assert taken.unsettled.tolist() == [True, False]
    assert taken.hits.image.tolist() == [[0, 5] + [-1] * 7, [6, 0] + [-1] * 7]
    assert chosen.image.tolist() == [[0, 5, 10, 11] + [-1] * 5, [6, 0] + [-1] * 7]
