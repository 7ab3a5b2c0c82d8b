"""A walk over the headers of a tar, also of one inside another, that reads nothing but headers.

Knows ustar, GNU long names and sizes, and PAX records (path, size). Python's tarfile takes several times as long
(``make bench`` measures it) and stops for good at the first damaged header; this one looks for the next good one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple
from zlib import adler32

BLOCK = 512
END = bytes(BLOCK)  # the end-of-archive mark, or its first half
REGULAR = (b"0", b"\0", b"7")
KINDS = {
    b"1": "a link",
    b"2": "a link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"S": "a sparse file",
}
FOLDER = b"5"
EXTENSIONS = (b"L", b"x", b"K", b"g")  # GNU long name, PAX records, GNU long link, PAX records for all
MAX_SIZE = 2**62  # bytes; what claims to be larger is no header
MAX_DIGITS = 18  # of a number in a PAX record
MAX_NAME = 65_536  # bytes of a long name or PAX record; a longer one is damage, not a name

Read = Callable[[int, int], bytes]


class Member(NamedTuple):
    """One member of a tar: its name ("" for damage between members), where its data is, what is wrong with it."""

    name: str
    offset: int
    size: int
    damage: str = ""


def walk(read: Read, start: int, end: int) -> Iterator[Member]:
    """Give the regular members of a tar in container order, and what is damaged, links and devices among it.

    Parameters
    ----------
    read : callable
        ``read(offset, size)`` gives bytes, fewer past the end.
    start, end : int
        Where the tar begins and ends in what is read.
    """
    at, long_name, records = start, "", dict[str, str]()
    while at + BLOCK <= end:
        header = read(at, BLOCK)
        if header == END:
            return
        size = _size(header)
        if size is None:
            at, skipped = _next_header(read, at, end), at
            yield Member("", skipped, at - skipped, f"bytes {skipped}..{at} are no members of a tar")
            continue
        kind, data = header[156:157], at + BLOCK
        if records:
            digits = records.get("size", "")
            size = int(digits) if digits.isdecimal() and len(digits) < MAX_DIGITS else size
        at = data + -(-size // BLOCK) * BLOCK
        if kind in EXTENSIONS:
            if kind == b"L" and size <= MAX_NAME:
                long_name = _text(read(data, size).rstrip(b"\0"))
            elif kind == b"x" and size <= MAX_NAME:
                records = _pax(read(data, size))
            continue
        name = long_name or records.get("path", "") or _name(header)
        long_name, records = "", {}
        if kind != FOLDER:
            yield Member(name, data, size, _damage(kind, data, size, end))
    if at <= end:  # a member that is cut off has been named
        yield Member("", at, 0, f"the tar ends at {end} without its end mark, so it may be truncated")


def is_tar(read: Read) -> bool:
    """Tell whether a tar begins here: with a header, or as an empty one with zeros."""
    header = read(0, BLOCK)
    return len(header) == BLOCK and (header == END or _size(header) is not None)


def _damage(kind: bytes, data: int, size: int, end: int) -> str:
    if kind in REGULAR and data + size <= end:
        return ""
    if kind not in REGULAR:
        return f"is {KINDS.get(kind, f'of type {kind!r}')}, not a plain file"
    return f"needs bytes {data}..{data + size}, the file ends at {end}"


def _next_header(read: Read, at: int, end: int) -> int:
    for offset in range(at + BLOCK, end - BLOCK + 1, BLOCK):
        header = read(offset, BLOCK)
        if header[257:262] == b"ustar" and _size(header) is not None:
            return offset
    return end


def _size(header: bytes) -> int | None:
    """Give the size in a header, or None if it is no header: its checksum is wrong."""
    checksum = _number(header[148:156]) if len(header) == BLOCK else None
    if checksum is None:
        return None
    # The sum of the bytes, its own field taken as spaces. adler32 gives it in C, modulo 65521 and begun at 1.
    total = checksum + sum(header[148:156]) - 8 * 0x20
    return _number(header[124:136]) if (adler32(header) & 0xFFFF) == (total + 1) % 65_521 else None


def _number(field: bytes) -> int | None:
    if field[0] == 0x80:  # GNU: base 256
        number = int.from_bytes(field[1:], "big")
        return number if number < MAX_SIZE else None
    digits = field.strip(b" \0") or b"0"
    return int(digits, 8) if not digits.strip(b"01234567") else None


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0":
        prefix = header[345:500].split(b"\0", 1)[0]
        name = prefix + b"/" + name if prefix else name
    return _text(name)


def _pax(content: bytes) -> dict[str, str]:
    """Read PAX records: "length key=value\\n", the length counting all of it; damaged ones end the reading."""
    records = {}
    while content:
        length, space, _ = content.partition(b" ")
        if (
            not space
            or not length.isdigit()
            or len(length) > MAX_DIGITS
            or not len(length) + 1 < int(length) <= len(content)
        ):
            break
        key, _, value = content[len(length) + 1 : int(length) - 1].partition(b"=")
        records[_text(key)] = _text(value)
        content = content[int(length) :]
    return records


def _text(name: bytes) -> str:
    return name.decode("utf-8", errors="backslashreplace")
