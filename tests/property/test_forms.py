"""The same images give the same rows, by key, whichever form they come in."""

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import shards
from pipeline.labels import assign, read_classes
from tests.forms import FORMS, Picture, write_classes

names = st.text("abcdefgXYZ0123456789_- .é図", min_size=1, max_size=20).filter(lambda name: name.strip(" .") == name)
pictures = st.lists(
    st.builds(Picture, names, st.integers(0, 30).map(str), st.just(0), st.binary(min_size=1, max_size=2000)),
    min_size=2,
    max_size=25,
    unique_by=lambda picture: picture.key,
).map(lambda found: [p._replace(wnid=f"n{int(p.wnid):08d}", label=int(p.wnid)) for p in found])


def rows(found: dict, classes: Path) -> dict[str, tuple[int, bytes]]:
    dataset = shards.find(str(found["path"]))
    entries = [(number, entry) for number, shard in enumerate(dataset.shards) for entry in shards.scan(shard)]
    named = [(dataset.shards[number].name, entry) for number, entry in entries]
    labels = assign(named, read_classes(str(classes)), str(found.get("labels", "")))
    with shards.opened(dataset) as reader:
        data = [reader.read(number, entry.offset, entry.size) for number, entry in entries]
    return dict(zip(shards.unique_keys(named), zip(labels, data, strict=True), strict=True))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pictures)
def test_every_form_gives_the_same_rows(found):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        classes = write_classes(found, folder)
        expected = {picture.key: (picture.label, picture.data) for picture in found}
        for form in FORMS:
            assert rows(form(found, folder / form.__name__), classes) == expected, form.__name__
