"""The headers of a tar, also of one inside another, or of several in one file: read without the data between them.

The formats are ustar, GNU (long names and sizes) and PAX (of its records, path and size). Python's tarfile takes
several times as long (``make bench`` measures it), and it stops at the first damaged header. This one goes on at the
next good header, and says whether the tar is all there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple
from zlib import adler32

BLOCK = 512
END = bytes(BLOCK)  # two of these end an archive; the first is enough
REGULAR = (b"0", b"\0", b"7")
KIND_NAMES = {
    b"1": "a link",
    b"2": "a link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"S": "a sparse file",
}
FOLDER = b"5"
LONG_NAME = b"L"  # GNU: the name of the next member
PAX = b"x"  # records of the next member
EXTENSIONS = (LONG_NAME, PAX, b"K", b"g")  # the others: the name of a link, PAX records of all members
MAX_SIZE = 2**62  # bytes of a member; a header that claims more is damaged
MAX_DIGITS = 18  # of a number in a PAX record; what is longer is ignored
MAX_NAME = 65_536  # bytes of a long name or PAX record; a longer one is damage, not a name
MAX_PADDING = 2**20  # bytes behind the end mark, which fill the last record of a tape

Read = Callable[[int, int], bytes]


class Member(NamedTuple):
    """One member of a tar.

    Attributes
    ----------
    name : str
        Its path in the tar; "" for a damaged range between members.
    offset, size : int
        Where its data is, in bytes.
    damage : str
        Why it cannot be read, else "".
    missing : str
        Of the last one, where the tar ends too early: what is missing. Then it is no member that can be read.
    """

    name: str
    offset: int
    size: int
    damage: str = ""
    missing: str = ""


def walk(read: Read, start: int, end: int) -> Iterator[Member]:
    """Yield the members of a tar in container order, without folders.

    Links, devices and damaged byte ranges are yielded too, with ``damage`` set. The last one has ``missing`` set where
    the tar ends before its last member does, or without its end mark: then it is a copy that is not finished.

    Parameters
    ----------
    read : callable
        ``read(offset, size)`` returns bytes, fewer where the file ends before.
    start, end : int
        Where the tar begins and ends in the file, in bytes.
    """
    at = start
    extensions: dict[bytes, bytes] = {}  # of the next member: the data of its extension headers by their kind
    while at + BLOCK <= end:
        header = read(at, BLOCK)
        if header == END:
            following = _find_joined(read, at, end)
            if following is not None:
                at, extensions = following, {}
                continue
            if end - at > MAX_PADDING:
                yield Member("", at, 0, missing=f"{end - at:,} bytes follow where it has its closing blocks, at {at:,}")
            return
        size = _size(header)
        if size is None:
            at, skipped = _next_header(read, at, end), at
            yield Member("", skipped, at - skipped, f"bytes {skipped}..{at} are no members of a tar")
            continue
        kind, data = header[156:157], at + BLOCK
        records = _pax(extensions[PAX]) if PAX in extensions else {}
        digits = records.get("size", "")
        size = int(digits) if digits.isdecimal() and len(digits) < MAX_DIGITS else size
        at = data + -(-size // BLOCK) * BLOCK
        if kind in EXTENSIONS:
            if kind in (LONG_NAME, PAX) and size <= MAX_NAME:
                extensions[kind] = read(data, size)
            continue
        long_name = _text(extensions.get(LONG_NAME, b"").rstrip(b"\0"))
        extensions = {}
        name = long_name or records.get("path", "") or _name(header)
        if kind in REGULAR and data + size > end:
            missing = f"member {name} needs the bytes up to {data + size:,}, and it ends at {end:,}"
            yield Member(name, data, size, missing=missing)
            return
        if kind != FOLDER:
            damage = "" if kind in REGULAR else f"is {KIND_NAMES.get(kind, f'of type {kind!r}')}, not a plain file"
            yield Member(name, data, size, damage)
    yield Member("", min(at, end), 0, missing=f"it ends at {end:,} without a tar's closing blocks")


def _find_joined(read: Read, at: int, end: int) -> int | None:
    """Return where another tar begins behind the closing blocks of one, as ``cat a.tar b.tar`` writes it, else None."""
    if end - at <= 2 * BLOCK:
        return None
    padding = read(at, min(end - at, MAX_PADDING + BLOCK))
    zeros = len(padding) - len(padding.lstrip(b"\0"))
    begin = zeros // BLOCK * BLOCK
    header = padding[begin : begin + BLOCK]
    return at + begin if len(header) == BLOCK and _size(header) is not None else None


def is_tar(read: Read) -> bool:
    """Return whether this is the beginning of a tar: a header, or the zeros of an empty tar."""
    header = read(0, BLOCK)
    return len(header) == BLOCK and (header == END or _size(header) is not None)


def _next_header(read: Read, at: int, end: int) -> int:
    """Return the offset of the next good header, or the tar's end."""
    for offset in range(at + BLOCK, end - BLOCK + 1, BLOCK):
        header = read(offset, BLOCK)
        if header[257:262] == b"ustar" and _size(header) is not None:
            return offset
    return end


def _size(header: bytes) -> int | None:
    """Return the size in a header, None if its checksum is wrong, so that it is not a header."""
    checksum = _number(header[148:156]) if len(header) == BLOCK else None
    if checksum is None:
        return None
    # A header's checksum is the sum of its bytes, with the checksum's own bytes taken as spaces. The lower half of
    # adler32 is one more than the sum of all bytes, modulo 65521: the fastest way to add bytes in Python.
    total = checksum + sum(header[148:156]) - 8 * 0x20
    return _number(header[124:136]) if (adler32(header) & 0xFFFF) == (total + 1) % 65_521 else None


def _number(field: bytes) -> int | None:
    """Return the number in a header's field, None if it holds none."""
    if field[0] == 0x80:  # GNU: base 256 instead of octal digits
        number = int.from_bytes(field[1:], "big")
        return number if number < MAX_SIZE else None
    digits = field.strip(b" \0") or b"0"
    return int(digits, 8) if not digits.strip(b"01234567") else None


def _name(header: bytes) -> str:
    """Return a member's path as its own header has it."""
    name = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0":
        prefix = header[345:500].split(b"\0", 1)[0]
        name = prefix + b"/" + name if prefix else name
    return _text(name)


def _pax(content: bytes) -> dict[str, str]:
    """Return PAX records by key; reading ends at a damaged one.

    A record is "length key=value\\n"; its length counts all of these characters.
    """
    records = {}
    while content:
        length, space, _ = content.partition(b" ")
        if not space or not length.isdigit() or len(length) > MAX_DIGITS:
            break
        if not len(length) + 1 < int(length) <= len(content):
            break
        key, _, value = content[len(length) + 1 : int(length) - 1].partition(b"=")
        records[_text(key)] = _text(value)
        content = content[int(length) :]
    return records


def _text(name: bytes) -> str:
    return name.decode("utf-8", errors="backslashreplace")
