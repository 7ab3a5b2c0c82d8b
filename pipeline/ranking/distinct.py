"""Distinct hits: which of a filter's strongest activations show the same thing, so that only one of them is ranked."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

import numpy as np

from .topk import RANKS, Ranking, merge

CANDIDATES = 64  # activations ranked at first, from which nine distinct hits are chosen
TILE_KEY = re.compile(r"(.+)-(\d+)-(\d+)-(\d+)")


@dataclass(frozen=True)
class DistinctRule:
    """When two hits of a filter count as one.

    Attributes
    ----------
    by : str
        ``image``: never, as an image is at most one hit of a filter. ``place``: when they show the same place of a
        photograph. ``source``: when their images come from one source. ``look``: when their images look alike.
    source : str
        Regular expression; group 1 of a matching key is the image's source. A key that does not match is its own
        source.
    distance : int
        Images look alike when their difference hashes differ in so many of 64 bits, or fewer.
    """

    by: Literal["image", "place", "source", "look"]
    source: str
    distance: int


@dataclass(frozen=True)
class Traits:
    """What activations are compared by; the arrays are of one shape, or broadcast to one.

    Attributes
    ----------
    source : ndarray uint64
        Digest of the image's source or, to compare places, of its photograph.
    look : ndarray uint64
        The image's difference hash.
    box : ndarray (…, corner) float64
        Top, left, bottom, right of the patch in pixels of the photograph; zeros unless places are compared.
    """

    source: np.ndarray
    look: np.ndarray
    box: np.ndarray

    def __getitem__(self, index: Any) -> Traits:
        return Traits(self.source[index], self.look[index], self.box[index])


@dataclass(frozen=True)
class AlreadyRanked:
    """The distinct hits chosen so far, and which filters (filter) bool may have more."""

    hits: Ranking
    unsettled: np.ndarray


def choose_distinct(
    candidates: Ranking,
    rule: DistinctRule,
    describe: Callable[[Ranking], Traits],
    rank_others: Callable[[AlreadyRanked], Ranking],
    ranks: int,
) -> Ranking:
    """Return up to nine distinct hits of every filter, strongest first.

    With rank.distinct, 64 candidates may hold fewer than nine distinct hits. The blocks of such filters are then read
    again, ignoring whatever duplicates a chosen hit. Each pass adds at least one hit, so it ends.

    Parameters
    ----------
    candidates : Ranking (filter, rank)
        The strongest activations. Where the rule is by image, they are the result.
    describe : callable
        Returns the traits (filter, rank) of hits.
    rank_others : callable
        Ranks all blocks again, without the activations that ``exclude`` removes.
    ranks : int
        How many activations of a filter are ranked in each pass: nine or more.
    """
    if rule.by == "image":
        return candidates
    while True:
        chosen = choose(candidates, describe(candidates), rule)
        unsettled = (chosen.image[:, -1] < 0) & (candidates.image[:, -1] >= 0)
        if not unsettled.any():
            return chosen
        candidates = merge([chosen, rank_others(AlreadyRanked(chosen, unsettled))], ranks)


def choose(hits: Ranking, traits: Traits, rule: DistinctRule) -> Ranking:
    """Greedily keep up to nine hits (filter, rank) a filter in rank order, skipping any that duplicates one kept.

    An image id of -1 is an empty rank, in what is given and in what is returned.
    """
    filters = np.arange(len(hits.image))
    kept, count = np.zeros((len(filters), RANKS), np.int64), np.zeros(len(filters), np.int64)
    for rank in range(hits.image.shape[1]):
        if (count == RANKS).all():
            break
        fits = (hits.image[:, rank] >= 0) & (count < RANKS)
        for i in range(RANKS):
            fits &= (i >= count) | ~alike(rule, traits[:, rank], traits[filters, kept[:, i]])
        kept[filters[fits], count[fits]] = rank
        count += fits
    return _take(hits, kept, np.arange(RANKS) >= count[:, None])


def exclude(
    activation: np.ndarray, traits: Traits, taken: AlreadyRanked, taken_traits: Traits, rule: DistinctRule
) -> np.ndarray:
    """Return activations (image, filter) with NaN for settled filters and for duplicates of hits chosen already.

    Parameters
    ----------
    activation : ndarray (image, filter) float32
    traits, taken_traits : Traits (image, filter), Traits (filter, rank)
        Of the activations, and of ``taken.hits``.
    """
    unwanted = np.tile(~taken.unsettled, (len(activation), 1))
    for rank in range(RANKS):
        unwanted |= (taken.hits.image[:, rank] >= 0) & alike(rule, traits, taken_traits[:, rank])
    return np.where(unwanted, np.float32(np.nan), activation)


def alike(rule: DistinctRule, first: Traits, second: Traits) -> np.ndarray:
    """Return where hits of two arrays, broadcast against each other, count as one; the rule must not be by image."""
    same: np.ndarray
    if rule.by == "look":
        same = np.bitwise_count(first.look ^ second.look) <= rule.distance
    else:
        same = first.source == second.source
    if rule.by == "place":
        same = same & (_contains_centre(first.box, second.box) | _contains_centre(second.box, first.box))
    return same


def digest_sources(keys: Iterable[str], rule: DistinctRule) -> np.ndarray:
    """Return a digest (image) uint64 of the source of every image, by its key."""
    return np.array([digest(_source(key, rule.source)) for key in keys], np.uint64)


def digest(text: str) -> int:
    """Return 64 bits that differ for different texts; the same in every process."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


class Tile(NamedTuple):
    """Which part of a photograph an image is: a tile of a grid over the photograph, shrunk by a scale."""

    photograph: str
    scale: int
    row: int
    column: int


def parse_tile(key: str) -> Tile:
    """Return what an image's key says of its photograph; an image with any other key is a photograph of its own.

    >>> parse_tile("coffee-2-0-3"), parse_tile("n01440764_37")
    (Tile(photograph='coffee', scale=2, row=0, column=3), Tile(photograph='n01440764_37', scale=1, row=0, column=0))
    """
    match = TILE_KEY.fullmatch(key)
    return Tile(match[1], int(match[2]), int(match[3]), int(match[4])) if match else Tile(key, 1, 0, 0)


def _source(key: str, pattern: str) -> str:
    match = re.fullmatch(pattern, key)
    return key if match is None or match[1] is None else match[1]  # the group may have taken no part in the match


def _take(hits: Ranking, ranks: np.ndarray, empty: np.ndarray) -> Ranking:
    """Return hits at some of their ranks (filter, rank), in their order, and nothing where it is to be empty."""
    activation, image, row, column = (
        np.where(empty, nothing, np.take_along_axis(values, ranks, axis=1))
        for values, nothing in (
            (hits.activation, np.float32(np.nan)),
            (hits.image, -1),
            (hits.row, -1),
            (hits.column, -1),
        )
    )
    return Ranking(activation, image, row, column)


def _contains_centre(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Return where boxes (…, corner) contain the centres of others."""
    y, x = (inner[..., 0] + inner[..., 2]) / 2, (inner[..., 1] + inner[..., 3]) / 2
    inside: np.ndarray = (outer[..., 0] <= y) & (y < outer[..., 2]) & (outer[..., 1] <= x) & (x < outer[..., 3])
    return inside
