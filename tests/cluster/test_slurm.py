"""Workers as jobs of a real Slurm, which ``TOPNINE_SLURM_SETUP`` (a script: start, stop) or the machine provides."""

import os
import re
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.cluster.test_keys import refused, wait_a_little
from tests.conftest import REPOSITORY, plan_run, run_stages, same_files
from tests.listening import family, listening, receive
from topnine.pipeline.cluster.kinds import connect
from topnine.pipeline.config.clusters import SlurmCluster
from topnine.pipeline.errors import InputError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SETTINGS = {"mine__layers": "1 5", "mine__block": 8, "mine__span": 2}
OPTIONS = [f"--set={key.replace('__', '.')}={value}" for key, value in SETTINGS.items()]
TABLE = """
[cluster]
kind = "slurm"
minimum = {jobs}
maximum = {jobs}
cores = 1
memory = "2GiB"
walltime = "00:20:00"
interface = "lo"
prologue = ["echo prologue was run on $(hostname)"]
logs = "{folder}/slurm"
"""


@pytest.fixture(scope="module", autouse=True)
def slurm():
    setup = os.environ.get("TOPNINE_SLURM_SETUP")
    if setup:
        subprocess.run(["bash", setup, "start"], check=True, capture_output=True)
    elif not shutil.which("sbatch"):
        pytest.skip("there is no Slurm here, and TOPNINE_SLURM_SETUP names no script that starts one")
    yield
    if setup:
        subprocess.run(["bash", setup, "stop"], check=True, capture_output=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    plan = plan_run(tmp_path_factory.mktemp("undisturbed"), **SETTINGS)
    run_stages(plan, "index", "mine", "rank", "deconvolve")
    return Path(plan.config.store)


def jobs(name: str) -> list[str]:
    listed = subprocess.run(
        ["squeue", "--noheader", "--format=%A", f"--name={name}"], capture_output=True, text=True, check=True
    )
    return listed.stdout.split()


def wait_until(condition, process: subprocess.Popen | None = None, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def cluster_file(folder: Path, count: int) -> Path:
    path = folder / "slurm.toml"
    path.write_text(TABLE.format(jobs=count, folder=folder))
    return path


def test_two_jobs_one_of_them_cancelled_midway_leave_the_same_store(undisturbed, tmp_path):
    store = tmp_path / "run.zarr"
    command = [sys.executable, "-m", "topnine", "run", "--store", str(store), *OPTIONS]
    run = subprocess.Popen(
        [*command, "--cluster", str(cluster_file(tmp_path, 2))], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True
    )
    markers = store / "progress/done/conv5/c"
    wait_until(lambda: markers.is_dir() and len(list(markers.glob("[0-9]*"))) >= 3, run)
    first = jobs("topnine-worker")
    assert len(first) == 2
    subprocess.run(["scancel", first[0]], check=True)
    wait_until(lambda: len(set(jobs("topnine-worker")) - set(first)) == 1, run)  # it is replaced
    _, errors = run.communicate(timeout=300)
    assert run.returncode == 0, errors
    assert "Traceback" not in errors
    assert same_files(undisturbed, store)
    wait_until(lambda: not jobs("topnine-worker"), seconds=30)
    assert "prologue was run on" in "".join(path.read_text() for path in (tmp_path / "slurm").glob("*.out"))


def test_make_submit_starts_a_driver_whose_workers_end_with_it(undisturbed, tmp_path):
    store = tmp_path / "run.zarr"
    submitted = subprocess.run(
        ["make", "submit", "LAYER=1 5", f"STORE={store}", f"CLUSTER={cluster_file(tmp_path, 1)}", "SBATCH=--mem=2G",
         f"VENV={Path(sys.prefix)}", f"ARGS=--set mine.block={SETTINGS['mine__block']}"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert submitted.returncode == 0, submitted.stderr
    number = re.search(r"Submitted batch job (\d+)", submitted.stdout)[1]
    log = REPOSITORY / "runs" / f"topnine-{number}.log"
    wait_until(lambda: jobs("topnine-worker"))
    wait_until(lambda: not jobs("topnine"))
    printed = log.read_text()
    log.unlink()
    assert "undecodable" in printed, printed
    assert same_files(undisturbed, store)
    wait_until(lambda: not jobs("topnine-worker"), seconds=30)


def test_a_driver_job_that_is_cancelled_takes_its_workers_along(tmp_path):
    store = tmp_path / "run.zarr"
    options = f"--store {store} --cluster {cluster_file(tmp_path, 1)} {' '.join(OPTIONS[1:])}"
    wrap = f"exec {sys.executable} -m topnine run {options}"
    driver = subprocess.run(
        ["sbatch", "--parsable", "--job-name=topnine", f"--output={tmp_path}/driver.log", "--wrap", wrap],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    markers = store / "progress/done/conv5/c"
    wait_until(lambda: markers.is_dir() and len(list(markers.glob("[0-9]*"))) >= 1)
    subprocess.run(["scancel", driver], check=True)
    wait_until(lambda: not jobs("topnine") and not jobs("topnine-worker"), seconds=90)
    assert "the same command goes on from there" in (tmp_path / "driver.log").read_text()


def processes_with(argument: str) -> list[psutil.Process]:
    """The processes in whose command line a text stands, and all that descend from them."""
    named = [
        process for process in psutil.process_iter(["cmdline"]) if argument in " ".join(process.info["cmdline"] or ())
    ]
    return list({relative.pid: relative for process in named for relative in family(process)}.values())


@pytest.mark.parametrize("interface", ["", "lo"], ids=["every interface", "one interface"])
def test_other_machines_reach_the_scheduler_and_nobody_gets_in_without_the_runs_keys(tmp_path, interface):
    logs = tmp_path / "slurm"
    options = {"cores": 1, "memory": "2GiB", "walltime": "00:20:00", "logs": str(logs), "interface": interface}
    before = listening(family())
    with connect(SlurmCluster(kind="slurm", maximum=1, **options)) as pool:
        assert list(pool.run(wait_a_little, [1])) == [(1, 1)]
        (keys,) = logs.glob("keys-*")
        modes = {stat.S_IMODE(path.stat().st_mode) for path in keys.iterdir()}
        assert (stat.S_IMODE(keys.stat().st_mode), modes) == (0o700, {0o600})
        workers = processes_with(str(keys))
        assert workers, "no process of a job"
        received = {address: receive(*address) for address in listening([*family(), *workers]) - before}
        assert set(received.values()) == {"tls", "dashboard"}, received
        tls = {host for (host, _), how in received.items() if how == "tls"}
        assert ("127.0.0.1" in tls) == (interface == "lo"), received
        assert ("0.0.0.0" in tls) == (interface == ""), received
        address = pool._started.client.scheduler.address
        assert refused(address, "other keys")
        assert refused(address.replace("tls://", "tcp://"), "no keys")
        assert list(pool.run(wait_a_little, [2])) == [(2, 2)]
    assert not keys.exists()
    wait_until(lambda: not jobs("topnine-worker"), seconds=30)


# A node without GPUs, whose sbatch gives a job those of its --gres as Slurm does on a node that has them: by
# CUDA_VISIBLE_DEVICES alone.
SBATCH = """#!/bin/sh
for script; do :; done
sed -i 's/^#SBATCH --gres=gpu:2$/export CUDA_VISIBLE_DEVICES=2,5/' "$script"
exec {sbatch} "$@"
"""


@pytest.fixture
def two_gpus(tmp_path, monkeypatch):
    sbatch = tmp_path / "bin/sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(SBATCH.format(sbatch=shutil.which("sbatch")))
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}:{os.environ['PATH']}")


def look_around(_) -> tuple[str, str, int]:
    time.sleep(0.5)  # so that no worker gets all
    return os.environ["CUDA_VISIBLE_DEVICES"], os.environ["SLURM_JOB_ID"], os.getpid()


def in_one_job(tmp_path: Path, **options) -> SlurmCluster:
    options = {"cores": 2, "memory": "4GiB", "interface": "lo", "logs": str(tmp_path / "slurm"), **options}
    return SlurmCluster(kind="slurm", maximum=1, walltime="00:20:00", **options)


def test_a_worker_for_each_gpu_of_a_job_and_the_job_is_replaced_with_both(two_gpus, tmp_path):
    with connect(in_one_job(tmp_path, gres="gpu:2", memory="3GiB")) as pool:
        assert pool.threads == 1  # of the two cores
        found = {result for _, result in pool.run(look_around, range(12))}
        assert ({gpu for gpu, _, _ in found}, len(found)) == ({"2", "5"}, 2)
        assert [{job for _, job, _ in found}] == [set(jobs("topnine-worker"))]
        workers = pool._started.client.scheduler_info(n_workers=-1)["workers"].values()
        assert [worker["memory_limit"] for worker in workers] == [3 * 2**29] * 2
        subprocess.run(["scancel", *jobs("topnine-worker")], check=True)
        again = {result for _, result in pool.run(look_around, range(12))}
        wait_until(lambda: len(pool._started.client.nthreads()) == 2, seconds=60)
        again |= {result for _, result in pool.run(look_around, range(12))}
        assert {gpu for gpu, _, _ in again} == {"2", "5"}
        assert not {job for _, job, _ in again} & {job for _, job, _ in found}
    wait_until(lambda: not jobs("topnine-worker"), seconds=30)


def test_two_workers_on_each_gpu_of_a_job(two_gpus, tmp_path):
    with connect(in_one_job(tmp_path, gres="gpu:2", per_gpu=2, memory="8GiB")) as pool:
        list(pool.run(look_around, range(1)))
        wait_until(lambda: len(pool._started.client.nthreads()) == 4, seconds=60)
        found = {result for _, result in pool.run(look_around, range(20))}
        assert sorted(gpu for gpu, _, _ in found) == ["2", "2", "5", "5"]


def test_a_job_with_fewer_gpus_than_its_gres_says_is_a_sentence(two_gpus, tmp_path):
    options = in_one_job(tmp_path, gres="gpu:2", prologue=("export CUDA_VISIBLE_DEVICES=7",))
    with connect(options) as pool, pytest.raises(InputError, match=r"has 1 GPUs .* asks for 2: correct cluster\.gres"):
        list(pool.run(look_around, range(4)))
