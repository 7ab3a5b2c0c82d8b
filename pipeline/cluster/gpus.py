"""Which GPU a worker sees where several share a machine or a Slurm job: one each, through ``CUDA_VISIBLE_DEVICES``.

Dask's nannies in a Slurm job load this module, by ``--preload-nanny``, before they start their workers: the variable
counts when a process first asks for a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..errors import InputError

VISIBLE = "CUDA_VISIBLE_DEVICES"
NO_GPU = "NoDevFiles"  # what Slurm writes there for a job without one
WANTED, PER_GPU = "TOPNINE_GPUS", "TOPNINE_PER_GPU"  # the job's script sets them
PROBLEM = "TOPNINE_GPU_PROBLEM"  # set for a worker that has no GPU of its own: a sentence


def list_visible(environment: Mapping[str, str], gpus: int) -> list[str]:
    """List the names of the GPUs that processes may use, as ``CUDA_VISIBLE_DEVICES`` has them.

    Parameters
    ----------
    gpus : int
        How many there are where the variable is not set: they are numbered.

    Examples
    --------
    >>> list_visible({"CUDA_VISIBLE_DEVICES": "2,GPU-8a0f"}, 4), list_visible({}, 2)
    (['2', 'GPU-8a0f'], ['0', '1'])
    """
    if VISIBLE not in environment:
        return [str(number) for number in range(gpus)]
    names = [name.strip() for name in environment[VISIBLE].split(",")]
    return [name for name in names if name not in ("", NO_GPU)]


def choose_gpu(environment: Mapping[str, str], number: int) -> dict[str, str]:
    """Return the variables of a worker in a Slurm job: the GPU that it sees, or what is wrong with the job's.

    Parameters
    ----------
    environment : mapping
        The job's.
    number : int
        Of the worker in its job.
    """
    wanted, per_gpu = int(environment[WANTED]), int(environment[PER_GPU])
    names = list_visible(environment, wanted)
    if len(names) >= wanted:
        return {VISIBLE: names[number // per_gpu]}
    return {
        VISIBLE: "",
        PROBLEM: f"a Slurm job has {len(names)} GPUs ({VISIBLE} is {environment[VISIBLE]!r} in it), and cluster.gres "
        f"asks for {wanted}: correct cluster.gres, or what cluster.prologue does to {VISIBLE}.",
    }


def dask_setup(nanny: Any) -> None:
    """Set the variables of the worker that a nanny starts, and starts again; ``dask worker`` numbers their names."""
    nanny.env.update(choose_gpu(os.environ, int(nanny.name.rpartition("-")[2])))


def check_gpu() -> None:
    """Raise InputError in a worker that was to have a GPU of its own, and has none."""
    if PROBLEM in os.environ:
        raise InputError(os.environ[PROBLEM])
