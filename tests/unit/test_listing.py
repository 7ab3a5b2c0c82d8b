import pickle

import numpy as np
import pytest

from tests.conftest import index_of
from topnine.pipeline.data.entry import Entry
from topnine.pipeline.data.listing import ListingBuilder, TextsBuilder, check_complete, concatenate
from topnine.pipeline.errors import InputError

ENTRIES = [
    Entry("é图", "cat", 0, 9, 3, "cat", ""),
    Entry("", ".", 512, 2**40, -1, "", "is a link"),
    Entry("a\0b", "cat", 7, 0, 2**61, "", ""),
]


def listing_of(entries, missing=""):
    builder = ListingBuilder()
    for entry in entries:
        builder.add(*entry)
    return builder.finish(missing)


def test_entries_come_back_as_they_were_added_also_from_another_process():
    for listing in (listing_of(ENTRIES), pickle.loads(pickle.dumps(listing_of(ENTRIES)))):
        assert list(listing) == ENTRIES
        assert (listing[1], listing[-1], listing[1:], len(listing)) == (ENTRIES[1], ENTRIES[2], ENTRIES[1:], 3)
    assert list(listing_of([])) == []


def test_parts_of_a_shard_are_joined():
    assert list(concatenate(listing_of(ENTRIES), listing_of(ENTRIES[::-1]))) == ENTRIES + ENTRIES[::-1]
    assert concatenate(listing_of(ENTRIES), listing_of([], "the rest")).missing == "the rest"


def test_an_index_has_the_rows_of_all_shards():
    index = index_of({"a.tar": ENTRIES, "b.tar": [], "c.tar": ENTRIES[::-1]})
    rows = zip(index.key, index.shard.tolist(), index.offset, index.size, index.label, index.folder, strict=True)
    assert [
        (key, shard, offset, size, label, *index.folders[folder]) for key, shard, offset, size, label, folder in rows
    ] == [
        (e.key, shard, e.offset, e.size, e.label, e.folder, e.class_name)
        for shard, entries in ((0, ENTRIES), (2, ENTRIES[::-1]))
        for e in entries
    ]
    assert index.damage == {1: "is a link", 4: "is a link"}


def test_names_that_are_no_utf8_are_kept():
    builder = TextsBuilder()
    builder.add("b\udcff.png")
    texts = builder.finish()
    assert list(texts) == [texts[0]] == ["b\udcff.png"]


def test_a_million_images_take_a_hundredth_of_what_objects_take():
    builder = ListingBuilder()
    for number in range(20_000):
        builder.add(f"n{number:014}", "n00000000", number, 1)
    size = len(pickle.dumps(builder.finish(), 5))
    assert size < 20_000 * 60
    assert isinstance(builder.finish().offset, np.ndarray)


def test_a_copy_that_is_not_finished_is_named_unless_it_is_taken():
    index = index_of({"a.tar": [], "b.tar": [], "c.tar": []}, missing={"b.tar": "half", "c.tar": "a third"})
    with pytest.raises(
        InputError, match=r"shard b\.tar is not complete: half, and so are 1 more shards\. Copy it again"
    ):
        check_complete(index)
    check_complete(index, "take")
    check_complete(index_of({"a.tar": []}))
