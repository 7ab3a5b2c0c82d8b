import os

import pytest

from tests.buckets import make_bucket, moto_server, put_folder
from topnine.pipeline import files
from topnine.pipeline.errors import InputError

CONTENTS = {"b.txt": b"caf\xe9", "a.bin": b"0123456789", "inner/c.txt": b"c"}


@pytest.fixture(scope="module")
def server():
    with moto_server() as variables:
        yield variables


@pytest.fixture
def bucket(server, monkeypatch) -> str:
    """An empty bucket's URL."""
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    make_bucket(server, "shelf")
    return "s3://shelf"


@pytest.fixture(params=["disk", "url"])
def folder(request, tmp_path) -> str:
    """A folder with two files and a folder, on a disk and behind a URL."""
    for name, content in CONTENTS.items():
        (tmp_path / "f" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "f" / name).write_bytes(content)
    if request.param == "disk":
        return str(tmp_path / "f")
    bucket = request.getfixturevalue("bucket")
    put_folder(os.environ, "shelf", tmp_path / "f", "f")
    return f"{bucket}/f"


def test_a_folder_is_listed_by_name(folder):
    listed = files.list_folder(folder)
    assert [(file.name, file.size, file.is_folder) for file in listed if not file.is_folder] == [
        ("a.bin", 10, False),
        ("b.txt", 4, False),
    ]
    assert [file.name for file in listed if file.is_folder] == ["inner"]
    assert all(file.path.endswith(f"f/{file.name}") for file in listed)
    assert [file.path for file in listed] == [files.describe(file.path).path for file in listed]


def test_names_are_listed_and_none_where_there_is_no_folder(folder):
    assert files.list_names(folder) == ["a.bin", "b.txt", "inner"]
    assert files.list_names(f"{folder}/") == ["a.bin", "b.txt", "inner"]
    assert files.list_names(f"{folder}/nothing") == []


def test_files_and_folders_are_described(folder):
    file = files.describe(f"{folder}/a.bin")
    assert (file.name, file.size, file.is_folder) == ("a.bin", 10, False)
    assert files.describe(folder).is_folder
    assert files.describe(f"{folder}/nothing") is None
    assert [files.exists(f"{folder}{name}") for name in ("", "/a.bin", "/inner", "/nothing")] == [True] * 3 + [False]


def test_patterns_are_matched(folder):
    assert [path.rpartition("/")[2] for path in files.list_matching(f"{folder}/[ab].*")] == ["a.bin", "b.txt"]
    assert files.list_matching(f"{folder}/x*") == []
    (matched,) = files.list_matching(f"{folder}/a*")
    assert files.describe(matched).size == 10


def test_ranges_of_a_file_are_read_and_fewer_bytes_at_its_end(folder):
    with files.OpenFile(f"{folder}/a.bin") as file:
        assert [file.read(*where) for where in ((2, 3), (8, 5), (10, 1), (20, 1))] == [b"234", b"89", b"", b""]
    file.close()


def test_a_file_knows_its_size_and_another_one_is_an_error(folder):
    with files.OpenFile(f"{folder}/a.bin") as file:
        assert file.size == 10
    for size in (8, 12):
        with pytest.raises(OSError, match=rf"a\.bin has 10 bytes now, and had {size} when it was listed"):
            files.OpenFile(f"{folder}/a.bin", size).read(6, 9)


def test_a_file_that_is_cut_while_it_is_open_is_no_shorter_file(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"0123456789")
    with files.OpenFile(str(tmp_path / "a.bin")) as file:
        os.truncate(tmp_path / "a.bin", 7)
        assert file.read(0, 7) == b"0123456"
        with pytest.raises(OSError, match="gave 5 of 8 bytes at 2"):
            file.read(2, 8)


def test_reads_that_are_interrupted_are_continued(tmp_path, monkeypatch):
    (tmp_path / "a.bin").write_bytes(b"0123456789")
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda file, size, offset: pread(file, min(size, 3), offset))
    with files.OpenFile(str(tmp_path / "a.bin")) as file:
        assert file.read(1, 8) == b"12345678"


def test_text_is_read_whatever_its_bytes(folder):
    assert files.read_text(f"{folder}/b.txt") == "caf\\xe9"
    for name in ("nothing", "inner"):
        with pytest.raises(InputError, match=f"there is no file .*/{name}"):
            files.read_text(f"{folder}/{name}")


def test_a_tree_is_deleted_and_what_is_beside_it_is_kept(folder):
    files.delete_tree(f"{folder}/inner")
    assert files.list_names(folder) == ["a.bin", "b.txt"]
    assert not files.exists(f"{folder}/inner/c.txt")
    files.delete_tree(f"{folder}/inner")
    files.delete_tree(folder)
    assert not files.exists(folder)


def test_a_file_is_a_stream_that_can_seek_and_remembers_why_it_failed(folder):
    with files.FileStream(files.OpenFile(f"{folder}/a.bin")) as stream:
        assert (stream.seek(7), stream.read(2), stream.tell(), stream.read(), stream.read()) == (7, b"78", 9, b"9", b"")
        assert (stream.seek(-2, os.SEEK_END), stream.seek(-1, os.SEEK_CUR), stream.read()) == (8, 7, b"789")
        assert stream.error is None
        stream._file.size = 20
        with pytest.raises(OSError, match=r"gave 3 of 13 bytes|has 10 bytes now") as error:
            stream.read((stream.seek(7), 15)[1])
        assert stream.error is error.value


def test_pipes_and_links_that_lead_nowhere_are_not_listed(tmp_path):
    (tmp_path / "good").touch()
    (tmp_path / "link").symlink_to(tmp_path / "good")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    os.mkfifo(tmp_path / "pipe")
    assert [file.name for file in files.list_folder(str(tmp_path))] == ["good", "link"]
    assert files.describe(str(tmp_path / "gone")) is None
    assert files.describe(str(tmp_path / "pipe")) is None


def test_names_that_are_no_utf8_are_printable(tmp_path):
    (tmp_path / os.fsdecode(b"b\xff.png")).touch()
    (file,) = files.list_folder(str(tmp_path))
    assert file.name == "b\\xff.png"
    assert files.exists(file.path)
