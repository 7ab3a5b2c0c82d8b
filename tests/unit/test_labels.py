import pytest

from tests.conftest import index_of
from topnine.pipeline.data.entry import Entry
from topnine.pipeline.data.labels import Classes, assign, read_classes
from topnine.pipeline.errors import InputError

CLASSES = Classes(("tench", "goldfish"), {"n01440764": 0, "n01443537": 1})


def entries(*labels):
    """Images of one shard whose label is a class index, or a class's name that has to be looked up."""
    return index_of(
        {
            "s.tar": [
                Entry(f"{i}", str(label), i, 1, *((-1, label) if isinstance(label, str) else (label,)))
                for i, label in enumerate(labels)
            ]
        }
    )


@pytest.mark.parametrize("title", ["", "index\twnid\tname\n"])
def test_classes_are_read_with_and_without_a_line_of_titles(tmp_path, title):
    path = tmp_path / "classes.tsv"
    path.write_text(f"{title}0\tn01440764\ttench\n\n1\tn01443537\tgoldfish\tand more\n")
    assert read_classes(str(path)) == CLASSES


@pytest.mark.parametrize("lines", ["0\tn01440764", "0\tn1\ta\n2\tn2\tb", "1\tn1\ta", "0\tn1\ta\nx\tn2\tb"])
def test_lines_that_do_not_fit_are_named(tmp_path, lines):
    path = tmp_path / "classes.tsv"
    path.write_text(lines)
    with pytest.raises(InputError, match=r"expected index \d, wnid and name, tab by tab, found '"):
        read_classes(str(path))


def test_labels_are_indices_wnids_or_unknown():
    assert assign(entries(1, "n01440764", -1, "1"), CLASSES).tolist() == [1, 0, -1, 1]
    assert assign(entries(7, -1), None).tolist() == [7, -1]


def test_class_folders_without_classes_are_numbered_by_name():
    assert assign(entries("dog", "cat", "dog", "ant"), None).tolist() == [2, 1, 2, 0]


def test_a_file_of_labels_replaces_the_datasets_own(tmp_path):
    path = tmp_path / "truth.txt"
    path.write_text("n01443537\n0\n-1\n")
    assert assign(entries(0, "n01443537", 1), CLASSES, str(path)).tolist() == [1, 0, -1]
    with pytest.raises(InputError, match=r"truth\.txt has 3 labels, the data has 2 images"):
        assign(entries(0, 1), CLASSES, str(path))


def test_labels_outside_the_classes_are_named():
    with pytest.raises(InputError, match=r"shard s\.tar: image 1 has label 2, expected 0 to 1\."):
        assign(entries(1, 2), CLASSES)
    with pytest.raises(InputError, match=r"image 0 has label -2, expected 0 to 1"):
        assign(entries(-2), CLASSES)
    with pytest.raises(InputError, match=r"image 0 has label 2147483648, expected 0 to 2147483647"):
        assign(entries(2**31), None)
    with pytest.raises(InputError, match=r"shard s\.tar: image 0 has class 'cat', which is not in data\.classes"):
        assign(entries("cat"), CLASSES)


def test_names_stand_for_classes_where_only_one_has_them():
    assert assign(entries("tench", "n01443537"), CLASSES).tolist() == [0, 1]
    twice = Classes(("crane", "crane"), {"n1": 0, "n2": 1})
    assert assign(entries("n2"), twice).tolist() == [1]
    with pytest.raises(InputError, match=r"has class 'crane', which is not in data\.classes"):
        assign(entries("crane"), twice)


def test_numbers_and_names_beside_one_another_need_data_classes():
    with pytest.raises(
        InputError, match=r"image 1 has label 4, and .*image 0 has class 'cat': name the classes of both"
    ):
        assign(entries("cat", 4), None)
    assert assign(entries("tench", 1, -1), CLASSES).tolist() == [0, 1, -1]
