"""Indices that lie beside tars, ``NAME.idx`` beside ``NAME.tar``, as DALI's ``wds2idx`` writes them.

The first line is ``v1.2`` and how many lines follow. Each of these is a sample of WebDataset's, in the tar's order:
extension, offset, size and name of its first member, of the next one, and so on, with spaces between all of them.
Links, folders and hidden files are left out. ``v1.1``, which has no names, is not used, and neither is any other file
of that name.

An index may be older than its tar. What it says has to be without gaps: where there is more or less than a header
between one member and the next, the headers there are read. So are those of a sample, and what follows the last
member.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from ... import files
from ...errors import InputError
from ...files import printable
from ...prefetch import map_ahead
from ..entry import Shard
from .headers import BLOCK, Member, Read, walk
from .samples import split

SUFFIX = ".idx"
VERSION = b"v1.2"
FIELDS = 4  # of a member: extension, offset, size, name
CHECKED = 16  # samples whose headers are read, beside the last one
AT_ONCE = 16  # labels that are read from a bucket


def sidecar_name(tar: str) -> str:
    """Return what the index of a tar is called, by the tar's name or path."""
    return tar.removesuffix(".tar") + SUFFIX


def read_index(shard: Shard) -> TarIndex | None:
    """Return the index that lies beside a tar; None where there is none of this version.

    Raises
    ------
    InputError
        It is not what its first line says.
    OSError
        It cannot be read.
    """
    content = files.read(shard.sidecar) if shard.sidecar else None
    if content is None or content.split(None, 1)[:1] != [VERSION]:
        return None
    first, *lines = content.decode(errors="backslashreplace").removesuffix("\n").split("\n")
    index = TarIndex(shard, [], set())
    if first.split(" ")[1:] != [str(len(lines))]:
        raise index.misfit(f"its first line is {printable(first[:80])!r}, and {len(lines):,} lines follow")
    checked = {len(lines) * number // CHECKED for number in range(CHECKED)} | {len(lines) - 1}
    for number, line in enumerate(lines):
        words = line.split(" ")
        begin = len(index.members)
        for _, offset, size, name in zip(*(words[field::FIELDS] for field in range(FIELDS)), strict=False):
            if len(words) % FIELDS or not (offset.isdecimal() and size.isdecimal()):
                break
            index.members.append(Member(name, int(offset), int(size)))
        if begin == len(index.members):
            raise index.misfit(f"line {number + 2} of it is {printable(line[:80])!r}")
        if number in checked:
            index.checked.update((begin, len(index.members) - 1))
    return index


@dataclass(frozen=True)
class TarIndex:
    """The members of a tar, as its index has them, and the numbers of those whose headers are compared."""

    shard: Shard
    members: list[Member]
    checked: set[int]

    def walk(self, read: Read, end: int) -> Iterator[Member]:
        """Yield what ``headers.walk`` yields of the tar.

        Raises
        ------
        InputError
            The index does not fit the tar.
        """
        for number in sorted(self.checked):  # before anything is believed: the last one moves with any other
            if self.members[number].offset + self.members[number].size <= end:
                deque(self._walk_to(self.members[number], read, self._end_of(number - 1), end), maxlen=0)
        at = 0  # where the next header is
        for number, member in enumerate(self.members):
            if member.offset + member.size > end:
                break  # the tar is not all there: its own headers say what is missing
            if member.offset == at + BLOCK and "\\" not in member.name:
                yield member
            else:
                yield from self._walk_to(member, read, at, end)
            at = self._end_of(number)
        yield from walk(read, at, end)

    def _end_of(self, number: int) -> int:
        """Return where the header behind a member is; before the first one, where the tar begins."""
        if number < 0:
            return 0
        member = self.members[number]
        return member.offset + -(-member.size // BLOCK) * BLOCK

    def _walk_to(self, member: Member, read: Read, at: int, end: int) -> Iterator[Member]:
        """Yield the members from an offset on up to one of the index, which has to be there."""
        for found in walk(read, at, end):
            if found.offset >= member.offset or found.missing:
                name = found.name if "\\" in member.name else member.name  # GNU tar writes some bytes as \ooo
                if found != member._replace(name=name):
                    break
                yield found
                return
            yield found
        else:
            found = Member("", at, 0)
        raise self.misfit(
            f"it has member {printable(member.name)} with {member.size:,} bytes at {member.offset:,}, where the tar "
            "has " + (f"{printable(found.name)} with {found.size:,} at {found.offset:,}" if found.name else "none")
        )

    def misfit(self, what: str) -> InputError:
        """Return the error that says what does not fit."""
        index = self.shard.sidecar
        return InputError(
            f"index {index} does not fit shard {self.shard.path}: {what}. Delete {index}, so that the tar's headers "
            "are read, or write it again."
        )

    @contextmanager
    def read_ahead(self, read: Read, fetch: Read, suffixes: Collection[str], limit: int) -> Iterator[Read]:
        """Yield a ``read`` for which the members of some suffixes are fetched ahead, many at once, if it is a bucket.

        Parameters
        ----------
        read, fetch : callable
            What reads all else, and what reads these members; threads share ``fetch``.
        limit : int
            Bytes of each member that are read.
        """
        if not files.is_url(self.shard.path):
            yield read
            return
        ranges = {
            member.offset: min(member.size, limit) for member in self.members if split(member.name)[1] in suffixes
        }

        def fetch_range(offset: int) -> tuple[int, bytes]:
            """Fetch a member."""
            return offset, fetch(offset, ranges[offset])

        with closing(map_ahead(fetch_range, ranges, AT_ONCE, 2 * AT_ONCE)) as fetched:

            def read_fetched(offset: int, size: int) -> bytes:
                """Return what was fetched where it is that."""
                if ranges.get(offset) == size:
                    for at, content in fetched:
                        if at == offset:
                            return content
                return read(offset, size)

            yield read_fetched
