"""Slurm jobs with a worker in each, or several where a job has several GPUs. dask-jobqueue is imported only here."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any

import dask
from dask.utils import parse_bytes, parse_timedelta
from dask_jobqueue.slurm import SLURMCluster
from distributed.security import Security

from ..config.clusters import SlurmCluster
from . import gpus
from .pool import ScaleToTasksLeft

# A worker leaves so long before its job's time is over: its task is then given away and does not count as failed.
SPARE_S = 120


def start_jobs(config: SlurmCluster, keys: Security, wait_s: int, dashboard: str) -> SLURMCluster:
    """Start the jobs of a configuration.

    Parameters
    ----------
    wait_s : int
        How long a worker waits for the scheduler before it ends, in s.
    dashboard : str
        Where a worker's dashboard would listen, if it had one.
    """
    lifetime = max(config.walltime_s - SPARE_S, config.walltime_s // 2)
    workers = config.workers_a_job
    arguments = ["--no-dashboard", "--dashboard-address", dashboard, "--lifetime", f"{lifetime}s"]
    exports = []
    if workers > 1:
        memory = str(parse_bytes(config.memory) // workers)
        arguments += ["--nworkers", str(workers), "--memory-limit", memory, "--preload-nanny", gpus.__name__]
        exports = [f"export {gpus.WANTED}={config.gpus} {gpus.PER_GPU}={config.per_gpu}"]
    kind = SLURMCluster if workers == 1 else partial(_SharedJobs, workers)
    return kind(
        n_workers=config.least,
        cores=1,  # Dask's threads of a worker
        processes=1,
        job_cpu=config.cores,
        memory=config.memory,
        queue=config.partition or None,
        account=config.account or None,
        walltime=config.walltime,
        interface=config.interface or None,
        job_extra_directives=[f"--gres={config.gres}"] if config.gres else [],
        job_script_prologue=[*config.prologue, *exports],
        log_directory=config.logs,
        job_name="topnine-worker",
        death_timeout=wait_s,
        worker_extra_args=arguments,
        security=keys,
        scheduler_options={"dashboard_address": config.dashboard},
        silence_logs=logging.CRITICAL,
    )


class _SharedJobs(SLURMCluster):
    """Jobs that hold several workers, which are named after their job: ``JOB-0``, ``JOB-1``, ….

    Dask plans, observes, replaces and closes whole jobs. (It can have groups of workers, too, but then it replaces no
    job that was lost, and closes one for the sake of a single worker in it.)
    """

    def __init__(self, workers_a_job: int, **options: Any) -> None:
        self.workers_a_job = workers_a_job
        super().__init__(**options)

    def adapt(self, *args: Any, **kwargs: Any) -> Any:
        """Scale the jobs with the tasks, between a minimum and a maximum of jobs."""
        return super().adapt(*args, **{**kwargs, "Adaptive": _ScaleJobs})

    @property
    def observed(self) -> set[str]:
        """The jobs of which a worker has arrived."""
        return {_job_of(worker["name"]) for worker in self.scheduler_info["workers"].values()}

    def _update_worker_status(self, op: str, msg: Any) -> None:
        if op == "remove":
            delay = parse_timedelta(dask.config.get("distributed.deploy.lost-worker-timeout"))
            job = _job_of(self.scheduler_info["workers"][msg]["name"])
            asyncio.get_running_loop().call_later(delay, self._replace_lost, job)
        super()._update_worker_status(op, msg)  # type: ignore[no-untyped-call]

    def _replace_lost(self, job: str) -> None:
        """Close a job of which no worker is left, and start another in its place."""
        if job in self.workers and job not in self.observed:
            self._futures.add(asyncio.ensure_future(self.workers.pop(job).close()))
            correction = self._correct_state()  # type: ignore[no-untyped-call]
            self._futures.add(asyncio.ensure_future(correction))


class _ScaleJobs(ScaleToTasksLeft):
    """Scaling to as many jobs as the tasks that are left need for their workers."""

    cluster: Any  # _SharedJobs

    async def target(self) -> int:
        """Return for how many jobs there is work."""
        jobs: int = -(-self.left // self.cluster.workers_a_job)
        return jobs

    async def workers_to_close(self, target: int) -> list[str]:
        """Return the jobs that can be closed to come down to a target: those of which every worker is idle."""
        is_busy: dict[str, bool] = {}
        for worker in self.cluster.scheduler.workers.values():
            job = _job_of(worker.name)
            is_busy[job] = is_busy.get(job, False) or bool(worker.processing)
        idle = [job for job, busy in is_busy.items() if not busy]
        return idle[: max(0, len(self.plan) - target)]

    async def scale_down(self, workers: Any) -> None:
        """Close jobs, their workers first, so that others take over what these hold."""
        names = [worker.name for worker in self.cluster.scheduler.workers.values() if _job_of(worker.name) in workers]
        if names:
            await self.scheduler.retire_workers(names=names, remove=True, close_workers=True)
        await self.cluster.scale_down(workers)


def _job_of(worker: str) -> str:
    """Return the job of a worker, by its name."""
    return worker.rpartition("-")[0]
