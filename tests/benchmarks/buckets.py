"""A bucket whose every answer comes 50 ms late, on a real S3 server: mining from it against a disk, and indexing it."""

from __future__ import annotations

import io
import os
import statistics
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import psutil

from tests.benchmarks.decoding import photographs
from tests.benchmarks.measure import Row, at_least, at_most, in_turn, reported, seconds
from tests.benchmarks.mining import CONFIG, mined, nothing, planned, repeated
from tests.buckets import copy_object, make_bucket, put_objects, real_server
from tests.conftest import plan_run, run_stages
from tests.proxy import proxy_process
from topnine.pipeline.compute.activations import Forward
from topnine.pipeline.machine import count_cores
from topnine.pipeline.store.store import Store

BUCKET = "bench"
DELAY_S = 0.05  # before each request is passed on
TIMES = 16  # that the 500 photographs are mined
TARS, MEMBERS = 50, 1000  # that are indexed
INDEX_S = 60  # at most, for all of them


def bucket_rows(data: Path, folder: Path, rounds: int) -> Iterator[Row]:
    """Mine without a network from a bucket and from a disk, and index a bucket."""
    with real_server() as variables:
        if variables is None:
            raise SystemExit("TOPNINE_S3_SETUP names no script that starts an S3 server.")
        make_bucket(variables, BUCKET)
        yield from _mine_rows(variables, data, folder, rounds)
        yield _index_row(variables, data, folder)


@contextmanager
def _late(variables: dict[str, str]) -> Iterator[None]:
    """Have requests pass through a proxy that delays them, in a process of its own."""
    address = variables["AWS_ENDPOINT_URL"]
    with (
        proxy_process(address, DELAY_S) as (proxied, _),
        mock.patch.dict(os.environ, {**variables, "AWS_ENDPOINT_URL": proxied}),
    ):
        yield


def _mine_rows(variables: dict[str, str], data: Path, folder: Path, rounds: int) -> Iterator[Row]:
    for tar in sorted(data.glob("*.tar")):
        put_objects(variables, BUCKET, {f"mine/00-{tar.name}": tar.read_bytes()})
        copies = [f"mine/{time:02d}-{tar.name}" for time in range(1, TIMES)]
        copy_object(variables, BUCKET, f"mine/00-{tar.name}", copies)
    taken: list[float] = []  # by the server and the proxy, each time
    with _late(variables), mock.patch.object(Forward, "run_batch", nothing):
        disk = planned(folder, repeated(data, folder / "disk", TIMES))
        bucket = planned(folder, f"s3://{BUCKET}/mine")

        def from_bucket() -> None:
            before = _others_s()
            mined(bucket)
            taken.append(_others_s() - before)

        took = in_turn({"disk": lambda: mined(disk), "bucket": from_bucket}, rounds)
    count, others = len(Store.open(disk.config.store).images), statistics.median(taken[1:])
    detail = f"{count / took['bucket']:,.0f} images/s, from the disk {count / took['disk']:,.0f}"
    name = f"mine without a network from S3 with {DELAY_S * 1e3:.0f} ms a request, against the disk"
    yield at_least(name, took["disk"] / took["bucket"], 0.9, detail)
    left = took["bucket"] - others / count_cores()
    detail = f"they take {others:.1f} s of processor time, of {took['bucket'] * count_cores():.1f} s"
    yield reported("the same, of what server and proxy leave of the cores", took["disk"] / left, detail)


def _others_s() -> float:
    """Return the processor time that all other processes of the machine have taken, in s."""
    machine, own = psutil.cpu_times(), psutil.Process().cpu_times()
    busy = sum(getattr(machine, kind, 0.0) for kind in ("user", "nice", "system", "irq", "softirq"))
    return float(busy - own.user - own.system)


def _index_row(variables: dict[str, str], data: Path, folder: Path) -> Row:
    content = _large_tar(data)
    put_objects(variables, BUCKET, {"index/00.tar": content})
    copy_object(variables, BUCKET, "index/00.tar", [f"index/{number:02d}.tar" for number in range(1, TARS)])
    with _late(variables):
        plan = plan_run(folder / "indexed", CONFIG, network__weights="random", data__path=f"s3://{BUCKET}/index")
        took = seconds(lambda: run_stages(plan, "index"))
    count = len(Store.open(plan.config.store).images)
    if count != TARS * MEMBERS:
        raise SystemExit(f"only {count} images are indexed")
    detail = f"{took:.1f} s, {count / took:,.0f} images/s, of {len(content) / count * TARS / 1e3:,.0f} kB each"
    name = f"index {TARS} tars of {MEMBERS:,} photographs from S3 with {DELAY_S * 1e3:.0f} ms a request, of {INDEX_S} s"
    return at_most(name, took / INDEX_S, 1.0, detail)


def _large_tar(data: Path) -> bytes:
    """Return a tar of as many photographs as are wanted, each several times."""
    jpegs = [jpeg for path in sorted(data.glob("*.tar")) for jpeg in photographs(path)]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as container:
        for number in range(MEMBERS):
            jpeg = jpegs[number % len(jpegs)]
            member = tarfile.TarInfo(f"{number:04d}.jpg")
            member.size = len(jpeg)
            container.addfile(member, io.BytesIO(jpeg))
    return buffer.getvalue()
