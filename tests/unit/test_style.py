import csv
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from topnine.pipeline.drawing import paper, style
from topnine.pipeline.errors import InputError


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_a_figure_and_its_table_are_saved_into_a_new_folder(tmp_path):
    style.save(style.make_figure("title", (2, 2), "smaller"), tmp_path / "new", "x.y", ["a", "b"], [])
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["x.y.csv", "x.y.pdf", "x.y.png"]
    assert (tmp_path / "new/x.y.csv").read_bytes() == b"a,b\r\n"


def test_floats_have_nine_digits_and_what_is_no_float_stands_as_it_is(tmp_path):
    rows = iter([(1 / 3, np.float64(2) / 3, np.float32(0.1), 10**12, np.int64(5), "1.50", None, float("nan"))])
    style.save(style.make_figure("title", (2, 2), "smaller"), tmp_path, "x", list("abcdefgh"), rows)
    row = (tmp_path / "x.csv").read_text().splitlines()[1]
    assert row == "0.333333333,0.666666667,0.100000001,1000000000000,5,1.50,,nan"


def test_a_file_that_cannot_be_saved_leaves_the_one_before(tmp_path, monkeypatch):
    def fail(file, **_):
        file.write_bytes(b"half")
        raise OSError("no space left")

    figure = style.make_figure("title", (2, 2), "smaller")
    (tmp_path / "x.png").write_bytes(b"before")
    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(OSError, match="no space left"):
        style.save(figure, tmp_path, "x", ["a"], [])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"x.png": b"before"}


def test_a_figure_has_a_largest_side():
    style.check_size((436.9, 436.9), "smaller")
    with pytest.raises(InputError, match=r"150 × 66,000 pixels, but no side may have more than 65,535: smaller\.$"):
        style.make_figure("title", (1, 440), "smaller")


@pytest.mark.parametrize("module", ["paper", "style"])
def test_without_matplotlib_the_extra_is_named_and_sheets_need_none(module):
    script = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "import topnine.pipeline.drawing.sheets, topnine.pipeline.errors as errors\n"
        f"try: import topnine.pipeline.drawing.{module}\n"
        "except errors.InputError as error: print(error)\n"
    )
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert finished.stdout == "the paper's other figures need the extra 'figures': pip install 'topnine[figures]'.\n"


def test_saved_figures_have_no_date_and_tables_keep_every_digit(tmp_path):
    value = np.float32(0.1) / np.float32(3)
    for name in ("first", "second"):
        figure = paper.evolution("title", [3], ["one"], [[noise(7, 7, 3)]], [["1"]])
        style.save(figure, tmp_path / name, "x", ["name", "value"], [("a,b", value), ("c", None)])
    for suffix in style.SUFFIXES:
        assert (tmp_path / f"first/x{suffix}").read_bytes() == (tmp_path / f"second/x{suffix}").read_bytes()
    with (tmp_path / "first/x.csv").open(newline="") as file:
        header, row, empty = csv.reader(file)
    assert header == ["name", "value"]
    assert row[0] == "a,b"
    assert np.float32(row[1]) == value
    assert empty == ["c", ""]
    assert b"CreationDate" not in (tmp_path / "first/x.pdf").read_bytes()
    with Image.open(tmp_path / "first/x.png") as picture:
        assert "Software" not in picture.info


def test_a_users_matplotlib_settings_change_nothing(tmp_path):
    import matplotlib

    figure = paper.evolution("title", [3], ["one"], [[noise(7, 7, 3)]], [["1"]])
    style.save(figure, tmp_path / "first", "x", ["a"], [])
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "text.usetex": True}):
        figure = paper.evolution("title", [3], ["one"], [[noise(7, 7, 3)]], [["1"]])
        style.save(figure, tmp_path / "second", "x", ["a"], [])
    assert (tmp_path / "first/x.png").read_bytes() == (tmp_path / "second/x.png").read_bytes()
