"""The same images give the same rows, by key, whichever form they come in."""

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.forms import FORMS, Picture, write_classes
from topnine.pipeline.data.dataset import find_dataset
from topnine.pipeline.data.keys import unique_keys
from topnine.pipeline.data.labels import assign, read_classes
from topnine.pipeline.data.reader import list_dataset, open_reader

names = st.text("abcdefgXYZ0123456789_- .é図", min_size=1, max_size=20).filter(lambda name: name.strip(" .") == name)
pictures = st.lists(
    st.builds(Picture, names, st.integers(0, 30).map(str), st.just(0), st.binary(min_size=1, max_size=2000)),
    min_size=2,
    max_size=25,
    unique_by=lambda picture: picture.key.partition(".")[0],  # in a tar, a.b.jpg beside a.jpg is a part of its sample
).map(lambda drawn: [p._replace(wnid=f"n{int(p.wnid):08d}", label=int(p.wnid)) for p in drawn])


def rows(written: dict, classes: Path) -> dict[str, tuple[int, bytes]]:
    dataset = find_dataset(str(written["path"]))
    index = list_dataset(dataset)
    keys, labels = unique_keys(index), assign(index, read_classes(str(classes)), str(written.get("labels", "")))
    with open_reader(dataset) as reader:
        data = [reader.read(*row) for row in zip(index.shard, index.offset, index.size, keys, strict=True)]
    return dict(zip(keys.tolist(), zip(labels.tolist(), data, strict=True), strict=True))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pictures)
def test_every_form_gives_the_same_rows(drawn):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        classes = write_classes(drawn, folder)
        expected = {picture.key: (picture.label, picture.data) for picture in drawn}
        for form in FORMS:
            assert rows(form(drawn, folder / form.__name__), classes) == expected, form.__name__
