import pytest

from topnine.pipeline.data.patterns import expand_path
from topnine.pipeline.errors import InputError


@pytest.mark.parametrize("pattern", ["{0..999999999}.tar", "{0..9}{0..9999999}.tar"])
def test_a_pattern_that_stands_for_too_much_is_refused_at_once(tmp_path, pattern):
    with pytest.raises(InputError, match=r"stands for more than 1,000,000 shards"):
        expand_path(f"{tmp_path}/{pattern}")


def test_what_is_no_range_is_a_name(tmp_path):
    nines = "9" * 5000
    assert expand_path(f"{tmp_path}/{{{nines}..1}}.tar") == [f"{tmp_path}/{nines}..1.tar"]
    assert expand_path(f"{tmp_path}/{{9..1}}.tar") == []


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path):
    path = tmp_path / "a[1]{2,3}.tar"
    path.touch()
    assert expand_path(str(path)) == [str(path)]


def test_wildcards_and_braces_stand_for_files_that_exist(tmp_path):
    for name in ("a-1.tar", "a-2.tar", "b-1.tar", "c-1.tar"):
        (tmp_path / name).touch()
    assert expand_path(f"{tmp_path}/{{a,b}}-?.tar") == [f"{tmp_path}/{name}.tar" for name in ("a-1", "a-2", "b-1")]


def test_a_list_holds_a_path_a_line(tmp_path):
    (tmp_path / "list.txt").write_text("# comment\n\n a.tar \nb-{1..2}.tar\n")
    assert expand_path(str(tmp_path / "list.txt")) == ["a.tar", "b-1.tar", "b-2.tar"]
    with pytest.raises(InputError, match="there is no file"):
        expand_path(str(tmp_path / "none.txt"))
