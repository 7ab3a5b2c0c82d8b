"""The walk over headers against Python's tarfile, and over tars that are damaged."""

import io
import tarfile

import pytest

from topnine.pipeline.data.forms.headers import BLOCK, walk

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
NAMES = ["a.jpg", "folder/" * 12 + "b.jpg", "é図.jpg", "x" * 99 + ".jpg", "c d.jpg", "./d.jpg", "/e.jpg", "../f.jpg"]


def make(format, names=NAMES, sizes=(0, 1, 511, 512, 513, 5000)):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as container:
        for i, name in enumerate(names):
            member = tarfile.TarInfo(name)
            member.size = sizes[i % len(sizes)]
            container.addfile(member, io.BytesIO(bytes([i]) * member.size))
    return buffer.getvalue()


def members(data):
    return list(walk(lambda offset, size: data[offset : offset + size], 0, len(data)))


@pytest.mark.parametrize("name", FORMATS)
def test_it_finds_what_tarfile_finds(name):
    names = NAMES if name != "ustar" else [n for n in NAMES if len(n.encode()) <= 100]
    data = make(FORMATS[name], [*names, *(["long/" * 60 + "g.jpg"] if name != "ustar" else [])])
    with tarfile.open(fileobj=io.BytesIO(data)) as container:
        expected = [(member.name, member.offset_data, member.size) for member in container]
    assert [(member.name, member.offset, member.size) for member in members(data)] == expected
    assert not any(member.damage for member in members(data))


def test_sizes_beyond_eight_gigabytes_are_read_from_headers_alone():
    header = tarfile.TarInfo("big.jpg")
    header.size = 20 * 2**30
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        data = header.tobuf(format)
        first = next(walk(lambda offset, size, data=data: data[offset : offset + size], 0, 40 * 2**30))
        assert (first.name, first.size, first.damage) == ("big.jpg", header.size, "")


def test_a_cut_names_the_member_it_hits():
    data = make(tarfile.USTAR_FORMAT, ["a.jpg", "b.jpg"], (5000,))
    listed = members(data[: 512 + 5120 + 512 + 2000])
    assert [(member.name, member.damage) for member in listed] == [("a.jpg", ""), ("b.jpg", "")]
    assert listed[1].missing == "member b.jpg needs the bytes up to 11,144, and it ends at 8,144"


def test_a_cut_between_members_is_seen_by_the_missing_end():
    data = make(tarfile.USTAR_FORMAT, ["a.jpg", "b.jpg"], (5000,))
    listed = members(data[: 512 + 5120])
    assert [member.name for member in listed] == ["a.jpg", ""]
    assert listed[1].missing == "it ends at 5,632 without a tar's closing blocks"


@pytest.mark.parametrize("name", FORMATS)
def test_a_cut_anywhere_is_seen_and_what_is_before_it_is_whole(name):
    data = make(FORMATS[name], ["a.jpg", "é" * 40 + "b.jpg", "c.jpg"], (700,))
    whole = [member for member in members(data) if not member.missing]
    assert len(whole) == 3
    end = max(member.offset + member.size for member in whole) + -700 % BLOCK
    for cut in range(1, len(data), 100):
        listed = members(data[:cut])
        assert (listed[-1].missing == "") == (cut >= end + BLOCK)
        assert [m for m in listed if not m.missing] == [m for m in whole if m.offset + m.size <= cut]


def test_a_copy_whose_space_was_reserved_is_not_taken_for_a_shorter_tar():
    data = make(tarfile.USTAR_FORMAT, ["a.jpg", "b.jpg"], (5000,))
    assert members(data + bytes(2**19))[-1].missing == ""
    (_, last) = members(data[:5632] + bytes(2**21))
    assert last.missing == "2,097,152 bytes follow where it has its closing blocks, at 5,632"


def test_after_garbage_it_goes_on_at_the_next_header():
    data = make(tarfile.USTAR_FORMAT, ["a.jpg"], (100,))[: 2 * BLOCK]
    rest = make(tarfile.USTAR_FORMAT, ["b.jpg"], (100,))
    listed = members(data + b"\xa5" * 3 * BLOCK + rest)
    assert [member.name for member in listed] == ["a.jpg", "", "b.jpg"]
    assert listed[1].damage == "bytes 1024..2560 are no members of a tar"


@pytest.mark.parametrize(
    ("kind", "words"),
    [(tarfile.SYMTYPE, "a link"), (tarfile.LNKTYPE, "a link"), (tarfile.CHRTYPE, "a device"), (b"S", "a sparse file")],
)
def test_what_is_no_plain_file_says_so(kind, words):
    member = tarfile.TarInfo("x.jpg")
    member.type, member.linkname = kind, "/etc/passwd"
    (only, *_) = members(member.tobuf(tarfile.GNU_FORMAT) + b"\0" * 1024)
    assert only.damage == f"is {words}, not a plain file"


HOSTILE = {
    "a negative size": (124, b"-0000000100\0"),
    "a size that is no number": (124, b"\xb2\xb2\xb2        \0"),
    "a size beyond all files": (124, b"\x80" + b"\x7f" * 11),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_size_is_damage(name):
    offset, field = HOSTILE[name]
    header = bytearray(tarfile.TarInfo("x.jpg").tobuf(tarfile.USTAR_FORMAT))
    header[offset : offset + len(field)] = field
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    listed = members(bytes(header) + make(tarfile.USTAR_FORMAT, ["b.jpg"]))
    assert [member.name for member in listed] == ["", "b.jpg"]


@pytest.mark.parametrize("record", [b"9" * 5000 + b" size=3\n", "12 size=²²\n".encode(), b"11 size=-3\n"])
def test_hostile_records_are_passed_over(record):
    extension = tarfile.TarInfo("pax")
    extension.type, extension.size = b"x", len(record)
    padded = record + bytes(-len(record) % BLOCK)
    data = extension.tobuf(tarfile.USTAR_FORMAT) + padded + make(tarfile.USTAR_FORMAT, ["b.jpg"], (100,))
    assert [(member.name, member.size) for member in members(data)] == [("b.jpg", 100)]


def test_names_that_are_no_utf8_are_kept_readable():
    member = tarfile.TarInfo("x.jpg")
    data = member.tobuf(tarfile.GNU_FORMAT, encoding="utf-8").replace(b"x.jpg", b"\xff\xfe.jp", 1)
    header = bytearray(data)
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    assert members(bytes(header) + b"\0" * 1024)[0].name == "\\xff\\xfe.jp"


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("padding", [0, 512, 10_240])
def test_joined_tars_are_one_after_the_other(name, padding):
    parts = [make(FORMATS[name], names, (5000, 3)) for names in (["a.jpg", "b.jpg"], ["c.jpg"], ["d.jpg", "e.jpg"])]
    joined = b"".join(part + bytes(padding) for part in parts)
    listed = members(joined)
    assert [member.name for member in listed] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"]
    assert not any(member.damage or member.missing for member in listed)
    for member, content in zip(listed, (b"\0", b"\1", b"\0", b"\0", b"\1"), strict=True):
        assert joined[member.offset : member.offset + member.size] == content * member.size
    cut = members(joined[: -len(parts[2]) - padding + 700])
    assert [member.name for member in cut] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert "needs the bytes up to" in cut[-1].missing


def test_what_is_no_header_behind_the_closing_blocks_is_passed_over():
    data = make(tarfile.GNU_FORMAT, ["a.jpg"], (5000,))
    assert [member.name for member in members(data + b"x" * 3000)] == ["a.jpg"]
