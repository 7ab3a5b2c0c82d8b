"""Measure everything against what the machine can do at all, and against other tools: a table, and runs/bench.json.

What is compared runs in turn in one process, after a warm-up, and medians count: a machine that gets slower does so for
all of them. With words, only what they choose is measured, and the other rows stay. With --readme, the table of the
README is made from runs/bench.json and nothing is measured.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from tests.benchmarks import buckets, decoding, deconvolving, indexing, mining, ranking, workers
from tests.benchmarks.measure import Row
from topnine.pipeline.machine import count_cores

RESULTS = Path("runs/bench.json")
README = Path("tests/benchmarks/README.md")
PACKAGES = ("torch", "pillow", "zarr", "captum", "semanticlens", "zennit-crp", "simplejpeg")


def measure(data: Path, folder: Path) -> Iterator[tuple[str, Callable[[], Iterator[Row] | list[Row]]]]:
    """Yield what can be measured, with words to choose it by."""
    yield "mine limit loader", lambda: mining.efficiency_rows(data, folder, 3)
    yield "crp", lambda: [mining.crp_row(data, folder, 1)]
    yield "layers bfloat16 fast size", lambda: mining.variant_rows(data, folder, 3)
    yield "decoder", lambda: decoding.decoder_rows(data, 3)
    yield "feed", lambda: mining.feed_rows(data, folder, 5)
    yield "python", lambda: [mining.python_row(data, folder, 5)]
    yield "bucket", lambda: buckets.bucket_rows(data, folder, 3)
    yield "workers", lambda: workers.worker_rows(data, folder, 3)
    yield "memory", lambda: [mining.memory_row(data, folder, 3)]
    yield "deconvolve", lambda: deconvolving.deconvolve_rows(data, folder, 3)
    yield "rank statistics", lambda: ranking.rank_rows(folder, 3)
    yield "index tar", lambda: [indexing.index_row(folder, 5)]
    yield "index memory", lambda: [indexing.memory_row(folder)]
    yield "index open", lambda: [indexing.open_row(folder, 5)]


def main(words: list[str]) -> None:
    """Run the benchmark, or make the README's table of the last one."""
    if words == ["--readme"]:
        write_table(json.loads(RESULTS.read_text()))
        return
    data = Path(os.environ.get("TOPNINE_TEST_DATA", "../shared")) / "data" / "imagenet-500"
    if not data.is_dir():
        raise SystemExit(f"there are no photographs at {data}: TOPNINE_TEST_DATA names the folder they are in.")
    known = {word for title, _ in measure(data, Path()) for word in title.split()}
    if not known.issuperset(words):
        raise SystemExit(
            f"there is no {', '.join(set(words) - known)} to measure: give some of {', '.join(sorted(known))}."
        )
    machine = f"{_processor()}, {count_cores()} cores; " + ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    print(machine)
    rows = {row["name"]: row for row in json.loads(RESULTS.read_text())["rows"]} if words and RESULTS.exists() else {}
    with TemporaryDirectory() as name:
        for title, rows_of in measure(data, Path(name)):
            if not words or any(word in title.split() for word in words):
                for row in rows_of():
                    print(f"{row.ratio:8.2f}  {_verdict(row):14} {row.name} ({row.detail})", flush=True)
                    rows[row.name] = row.table()
                    RESULTS.parent.mkdir(exist_ok=True)
                    RESULTS.write_text(json.dumps({"machine": machine, "rows": list(rows.values())}, indent=2))


def write_table(results: dict, mark: str = "bench") -> None:
    """Write the table into the README, between the marks of a name.

    Rows are never lost: where the results lack one of the README's, which a run of some rows only can leave so, nothing
    is written.
    """
    lines = ["| what | ratio | wanted | in this run |", "|---|---|---|---|"]
    for row in results["rows"]:
        wanted = "–" if row["target"] is None else f"{row['target']:g}{'' if row['met'] else ' (missed)'}"
        lines.append(f"| {row['name']} | {row['ratio']:.2f} | {wanted} | {row['detail']} |")
    before, _, rest = README.read_text().partition(f"<!-- {mark} -->\n")
    old, _, after = rest.partition(f"<!-- /{mark} -->\n")
    old_names = [line.split(" | ")[0].removeprefix("| ") for line in old.splitlines() if line.startswith("| ")][1:]
    missing = [name for name in old_names if name not in {row["name"] for row in results["rows"]}]
    if missing:
        raise SystemExit(
            f"runs/{mark}.json lacks rows of the README: {'; '.join(missing)}. "
            f"Run `make {mark}` for all rows, or delete from the README those that no longer exist."
        )
    table = "\n".join([f"Measured with {results['machine']}:", "", *lines])
    README.write_text(f"{before}<!-- {mark} -->\n{table}\n<!-- /{mark} -->\n{after}")


def _verdict(row: Row) -> str:
    return "reported" if row.target is None else f"{'met' if row.met else 'MISSED'} {row.target:g}"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    torch.set_num_threads(count_cores())
    main(sys.argv[1:])
