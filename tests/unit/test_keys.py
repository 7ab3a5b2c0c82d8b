"""Unique keys against slow code that holds every name as text."""

from collections import Counter
from pathlib import PurePosixPath

import numpy as np
import pytest

from tests.conftest import index_of
from topnine.pipeline.data.entry import Entry
from topnine.pipeline.data.keys import fits, unique_keys

CAT, DOG, OTHER = (Entry(key, folder, 0, 1) for key, folder in (("1", "cat"), ("1", "dog"), ("2", "dog")))


def keys_of(**shards):
    return unique_keys(index_of({f"{name}.tar": entries for name, entries in shards.items()})).tolist()


def slow_keys(index):
    """As the rule says it: the name, its folder before it where that repeats, then the shard, then a number."""
    names = list(index.key)
    with_folder = [f"{index.folders[folder][0]}/{name}" for folder, name in zip(index.folder, names, strict=True)]
    stems = [PurePosixPath(index.shards[shard].name).stem for shard in index.shard]
    with_shard = [f"{stem}/{name}" for stem, name in zip(stems, with_folder, strict=True)]
    for longer in (with_folder, with_shard):
        counts = Counter(names)
        names = [long if counts[name] > 1 else name for name, long in zip(names, longer, strict=True)]
    return [
        name if names[:i].count(name) == 0 else f"{name}#{names[:i].count(name) + 1}" for i, name in enumerate(names)
    ]


def test_keys_that_repeat_take_their_folder():
    assert keys_of(s=[CAT, DOG, OTHER]) == ["cat/1", "dog/1", "2"]


def test_keys_that_repeat_with_their_folder_take_their_shard():
    assert keys_of(s=[CAT, DOG, OTHER], t=[CAT]) == ["s/cat/1", "dog/1", "2", "t/cat/1"]


def test_keys_that_repeat_in_one_folder_of_one_shard_are_numbered():
    assert keys_of(s=[CAT, DOG, CAT, CAT]) == ["s/cat/1", "dog/1", "s/cat/1#2", "s/cat/1#3"]


def test_no_images_have_no_keys():
    assert keys_of(s=[]) == []


@pytest.mark.parametrize("seed", range(20))
def test_keys_are_those_of_the_slow_rule_and_fit_their_names(seed):
    random = np.random.default_rng(seed)

    def entry():
        return Entry(random.choice(["", "/", "x"]) + random.choice(list("ab图")), random.choice(list("cd.")), 0, 1)

    index = index_of({f"{i}.tar": [entry() for _ in range(random.integers(12))] for i in range(4)})
    keys = unique_keys(index).tolist()
    assert keys == slow_keys(index)
    assert len(set(keys)) == len(keys)
    assert all(fits(key, name) for key, name in zip(keys, index.key, strict=True))


def test_names_that_look_like_numbered_ones_stay_unique():
    same, odd = Entry("a", "c", 0, 1), Entry("s/c/a#2", "d", 0, 1)
    keys = keys_of(s=[same, same, odd])
    assert len(set(keys)) == 3
    assert [fits(key, name) for key, name in zip(keys, ("a", "a", "s/c/a#2"), strict=True)] == [True] * 3


def test_a_key_of_another_name_does_not_fit():
    for key, name in (("cat/1", "2"), ("cat/11", "1"), ("1#2", "2"), ("1#x", "1"), ("", "1"), ("#2", "1")):
        assert not fits(key, name)
