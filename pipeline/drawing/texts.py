"""Texts that have to fit into pictures: shortened, or wrapped into lines."""

from __future__ import annotations

from collections.abc import Callable


def shorten(text: str, room: float, measure: Callable[[str], float] = len) -> str:
    """Return a text, without its middle where it is too long: names of images often differ at their ends.

    Parameters
    ----------
    text : str
    room : float
        The longest that the result may be, in the units of ``measure``. Two characters are always kept.
    measure : callable
        Returns the length of a text: the number of its characters, or its width in pixels.

    >>> shorten("motorcycle-right-1-2-3", 11)
    'motor…1-2-3'
    >>> shorten("motorcycle", 11)
    'motorcycle'
    """
    if measure(text) <= room:
        return text
    shorter = (_cut_middle(text, kept) for kept in range(len(text) - 1, 1, -1))
    return next((cut for cut in shorter if measure(cut) <= room), _cut_middle(text, 2))


def wrap(text: str, room: float, measure: Callable[[str], float]) -> list[str]:
    """Return the lines of a text that is wrapped at its spaces; a word that is longer than a line is not broken.

    >>> wrap("one two, and three", 8, len)
    ['one two,', 'and', 'three']
    """
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if measure(longer) <= room else [*lines, word]
    return [line for line in lines if line]


def _cut_middle(text: str, kept: int) -> str:
    return f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"
