"""Runs that are killed, again and again, end with the bytes of one that was not, and mine no block in vain."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import REPOSITORY, plan_run, run_stages, same_files

BLOCKS = 34
SETTINGS = {"mine__layers": "1 5", "mine__block": 16, "mine__span": 4}
MOMENT_S = 16  # a kill comes at most so long after the one before


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    plan = plan_run(tmp_path_factory.mktemp("undisturbed"), **SETTINGS)
    run_stages(plan, "index", "mine", "rank", "deconvolve")
    return Path(plan.config.store)


class Driver:
    """``topnine run`` over the demo on two processes, with a log of the blocks that are mined."""

    def __init__(self, store: Path, log: Path) -> None:
        settings = [f"--set={key.replace('__', '.')}={value}" for key, value in SETTINGS.items()]
        command = [sys.executable, "-m", "topnine", "run", "--cluster", "local", "--store", str(store), *settings]
        preload = {"DASK_DISTRIBUTED__WORKER__PRELOAD": '["tests.faults"]', "TOPNINE_TEST_LOG": str(log)}
        self.errors = log.with_suffix(".err")
        with self.errors.open("a") as errors:
            self._process = subprocess.Popen(
                command, cwd=REPOSITORY, env={**os.environ, **preload}, stdout=errors, stderr=errors
            )

    def running(self) -> bool:
        return self._process.poll() is None

    def workers(self) -> list[psutil.Process]:
        children = psutil.Process(self._process.pid).children(recursive=True)
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]

    def kill(self, *victims: psutil.Process | subprocess.Popen) -> None:
        for victim in victims:
            os.kill(victim.pid, signal.SIGKILL)
        if self._process in victims:
            self._process.wait()

    def strike(self, kind: str, chance: random.Random) -> None:
        """Kill, and wait until what was killed is gone, and the workers of a driver that was."""
        try:
            workers = self.workers()
            if kind == "worker":
                self.kill(*chance.sample(workers, min(1, len(workers))))
                return
            self.kill(self._process, *(workers if kind == "both" else []))
            psutil.wait_procs(workers, timeout=60)
        except (psutil.NoSuchProcess, ProcessLookupError):  # it ended by itself a moment before
            self._process.wait()

    def finish(self) -> int:
        return self._process.wait(timeout=300)


def mined(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


def marked(store: Path) -> set[str]:
    """The blocks that are marked for every layer."""
    return set.intersection(
        *({path.name for path in (store / f"progress/done/{name}").glob("c/*")} for name in ("conv1", "conv5"))
    )


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("kills", [30 if os.environ.get("TOPNINE_TORTURE") else 6])
def test_killed_runs_end_with_the_bytes_of_one_that_was_not(undisturbed, tmp_path, kills):
    chance = random.Random(kills)
    done, round_ = 0, 0
    while done < kills:
        round_ += 1
        store, log = tmp_path / f"{round_}.zarr", tmp_path / f"{round_}.log"
        lost = 0  # blocks that were mined and not marked when something was killed
        driver = Driver(store, log)
        while done < kills:
            time.sleep(chance.uniform(0, MOMENT_S))
            if not driver.running():
                if driver.finish() == 0:
                    break
                driver = Driver(store, log)
                continue
            kind = chance.choice(["driver", "worker", "both"])
            driver.strike(kind, chance)
            done += 1
            lost = lost + 1 if kind == "worker" else len(mined(log)) - len(marked(store))
            if not driver.running():
                driver = Driver(store, log)
        if driver.finish() != 0:  # workers were killed at one task three times
            assert Driver(store, log).finish() == 0, log.with_suffix(".err").read_text()
        assert same_files(undisturbed, store)
        assert len(set(mined(log))) == len(marked(store)) == BLOCKS
        assert len(mined(log)) <= BLOCKS + lost
        assert "Traceback" not in log.with_suffix(".err").read_text()
