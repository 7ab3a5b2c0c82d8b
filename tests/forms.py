"""The same images written in every form that a dataset comes in."""

import io
import tarfile
from pathlib import Path
from typing import NamedTuple

import pyarrow as arrow
from pyarrow import parquet

from tests.conftest import write_tar


class Picture(NamedTuple):
    """An image of a test: its key, wnid, class index, and encoded bytes."""

    key: str
    wnid: str
    label: int
    data: bytes


def webdataset(pictures, folder: Path) -> dict:
    members = [
        member
        for picture in pictures
        for member in ((f"{picture.key}.jpg", picture.data), (f"{picture.key}.cls", str(picture.label).encode()))
    ]
    half = len(pictures) // 2 * 2
    write_tar(folder / "w-0.tar", members[:half])
    write_tar(folder / "w-1.tar", members[half:])
    return {"path": folder / "w-{0..1}.tar"}


def training_tar(pictures, folder: Path) -> dict:
    """As ILSVRC2012_img_train.tar: a tar of one tar a class."""
    inner = []
    for wnid in sorted({picture.wnid for picture in pictures}):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as container:
            for picture in pictures:
                if picture.wnid == wnid:
                    member = tarfile.TarInfo(f"{picture.key}.JPEG")
                    member.size = len(picture.data)
                    container.addfile(member, io.BytesIO(picture.data))
        inner.append((f"{wnid}.tar", buffer.getvalue()))
    return {"path": write_tar(folder / "train.tar", inner)}


def validation_tar(pictures, folder: Path) -> dict:
    """As ILSVRC2012_img_val.tar: flat, with the labels in a file."""
    path = write_tar(folder / "val.tar", [(f"{picture.key}.JPEG", picture.data) for picture in pictures])
    (folder / "truth.txt").write_text("".join(f"{picture.label}\n" for picture in pictures))
    return {"path": path, "labels": folder / "truth.txt"}


def class_folders(pictures, folder: Path) -> dict:
    for picture in pictures:
        (folder / "images" / picture.wnid).mkdir(parents=True, exist_ok=True)
        (folder / "images" / picture.wnid / f"{picture.key}.JPEG").write_bytes(picture.data)
    return {"path": folder / "images"}


def flat_folder(pictures, folder: Path) -> dict:
    (folder / "flat").mkdir(parents=True)
    for picture in pictures:
        (folder / "flat" / f"{picture.key}.jpeg").write_bytes(picture.data)
    by_name = sorted(pictures, key=lambda picture: f"{picture.key}.jpeg")
    (folder / "truth.txt").write_text("".join(f"{picture.wnid}\n" for picture in by_name))
    return {"path": folder / "flat", "labels": folder / "truth.txt"}


def hugging_face(pictures, folder: Path) -> dict:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"image": {"bytes": p.data, "path": f"{p.key}.JPEG"}, "label": p.label} for p in pictures]
    kind = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    schema = arrow.schema([("image", kind), ("label", arrow.int64())])
    parquet.write_table(arrow.Table.from_pylist(rows, schema), folder / "train-00000.parquet", row_group_size=7)
    return {"path": folder / "train-*.parquet"}


FORMS = [webdataset, training_tar, validation_tar, class_folders, flat_folder, hugging_face]


def write_classes(pictures, folder: Path) -> Path:
    """A TSV in which every wnid of the pictures has its index."""
    folder.mkdir(parents=True, exist_ok=True)
    wnids = {picture.label: picture.wnid for picture in pictures}
    lines = [f"{i}\t{wnids.get(i, f'x{i}')}\tname of {i}" for i in range(max(wnids) + 1)]
    (folder / "classes.tsv").write_text("index\twnid\tname\n" + "\n".join(lines) + "\n")
    return folder / "classes.tsv"
