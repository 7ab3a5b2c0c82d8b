"""The ``[cluster]`` table: one model for each kind of workers."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from .base import Table, whole_sentence

DEVICE = re.compile(r"auto|cpu|cuda(:(0|[1-9][0-9]{0,2}))?")
MEMORY_SIZE = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)? *([kmgtp]i?b?|b)?", re.IGNORECASE | re.ASCII)
GPUS = re.compile(r"(gres[/:])?gpu(:[^:,]*[^:,0-9][^:,]*)?(:(?P<count>[0-9]+))?")  # of a job, as sbatch takes them
WALLTIME = r"^(\d+-)?\d+:\d\d:\d\d$"


class _Cluster(Table):
    device: str = Field(
        "auto",
        description="What each worker computes on: `cpu`, `cuda`, a single GPU such as `cuda:1`, or `auto`, which is "
        "`cuda` where the worker has a GPU and `cpu` elsewhere.",
    )
    threads: int = Field(
        0,
        ge=0,
        le=1024,
        description="Threads of each worker, for decoding images and for the network. 0 means the worker's share of "
        "the processor cores.",
    )

    @field_validator("device")
    @classmethod
    def _is_a_device(cls, value: str) -> str:
        if not DEVICE.fullmatch(value):
            raise whole_sentence(f"device {value!r} cannot be used: it is cpu, cuda, cuda:1, … or auto.")
        return value


class _ServedCluster(_Cluster):
    dashboard: str = Field(
        "127.0.0.1:0",
        description="Address and port at which Dask's dashboard listens. Port 0 means any free port.",
    )


class _AdaptiveCluster(_ServedCluster):
    minimum: int | None = Field(
        None,
        ge=0,
        le=10_000,
        description="Workers that are kept even when there is too little work for them. Unset, it equals `maximum`.",
    )
    maximum: int = Field(
        2,
        ge=1,
        le=10_000,
        description="The largest number of workers. There are never more of them than tasks that are left.",
    )
    memory: str = Field(
        "0",
        description="Memory of each worker, such as `4GiB` or `500MB`. A worker that takes more is ended and "
        "replaced. `0` means no limit.",
    )

    @property
    def least(self) -> int:
        """Workers that are kept even when they have nothing to do."""
        return self.maximum if self.minimum is None else self.minimum

    @field_validator("memory")
    @classmethod
    def _is_a_size(cls, value: str) -> str:
        if not MEMORY_SIZE.fullmatch(value):
            raise ValueError("it is a size such as 4GiB or 500MB, or 0")
        return value

    @model_validator(mode="after")
    def _minimum_fits(self) -> Self:
        if self.least > self.maximum:
            raise ValueError(f"cluster.minimum = {self.minimum} is larger than cluster.maximum = {self.maximum}")
        return self


PER_GPU: int = Field(
    1,
    ge=1,
    le=64,
    description="Worker processes for each GPU. They share it, and the processor cores. Several of them get past what "
    "one process of Python can hand over to a fast GPU.",
)


class InlineCluster(_Cluster):
    """The work is done in the process of the command itself. This is the default."""

    kind: Literal["inline"] = Field("inline", description="Work in the process of the command itself.")


class LocalCluster(_AdaptiveCluster):
    """The work is done by processes of this machine."""

    kind: Literal["local"] = Field(description="Work in processes of this machine.")


class CudaCluster(_ServedCluster):
    """The work is done by one process, or more, for every GPU of this machine."""

    kind: Literal["cuda"] = Field(description="Work in processes of this machine, each on a GPU of its own.")
    device: str = Field(
        "cuda", description="Always `cuda`: each process sees one GPU and no other. `auto` means the same here."
    )
    per_gpu: int = PER_GPU

    @field_validator("device")
    @classmethod
    def _is_every_gpu(cls, value: str) -> str:
        if value not in ("cuda", "auto"):
            raise whole_sentence(
                f"device {value!r} does not go with cluster.kind = 'cuda', which has a process for every GPU: leave "
                "cluster.device at 'cuda', or, for one GPU, use cluster.kind = 'inline' or 'local' with a device such "
                "as 'cuda:1'."
            )
        return "cuda"


class SlurmCluster(_AdaptiveCluster):
    """The work is done by Slurm jobs, with one worker in each; where a job has several GPUs, with one for each GPU."""

    kind: Literal["slurm"] = Field(description="Work in Slurm jobs.")
    minimum: int | None = Field(
        None,
        ge=0,
        le=10_000,
        description="Jobs that are kept even when there is too little work for them. Unset, it equals `maximum`.",
    )
    maximum: int = Field(
        2,
        ge=1,
        le=10_000,
        description="The largest number of jobs. There are never more of them than the tasks that are left need.",
    )
    memory: str = Field(
        "4GiB",
        description="Memory of each job, such as `4GiB` or `500MB`, which its workers share equally. A worker that "
        "takes more than its share is ended and replaced.",
    )
    cores: int = Field(2, ge=1, le=1024, description="Processor cores of each job.")
    walltime: str = Field(
        "01:00:00",
        description="Time limit of each job as [days-]hours:minutes:seconds. A worker leaves two minutes before its "
        "end, and a new job takes its place.",
        pattern=WALLTIME,
    )
    partition: str = Field("", description="Slurm partition of the jobs. Empty, it is the site's default.")
    account: str = Field("", description="Slurm account that the jobs are charged to. Empty, it is your default.")
    gres: str = Field(
        "",
        description="Generic resources of each job as sbatch takes them. `gpu:1` gives a job a GPU; with `gpu:4` or "
        "`gpu:a100:4` it has four, and a worker for each, which sees no other.",
    )
    per_gpu: int = PER_GPU
    prologue: tuple[str, ...] = Field(
        (), description="Lines of shell that each job runs before its worker starts, such as `module load cuda`."
    )
    interface: str = Field(
        "",
        description="Network interface that connects the nodes, such as `ib0`. Empty, workers use the address of "
        "their host.",
    )
    logs: str = Field("runs/slurm", description="Folder for the output of the jobs.")

    @property
    def gpus(self) -> int:
        """GPUs of a job."""
        found = (GPUS.fullmatch(resource.strip()) for resource in self.gres.split(","))
        return sum(int(gpu["count"] or 1) for gpu in found if gpu)

    @property
    def workers_a_job(self) -> int:
        """Workers in a job: one, or ``per_gpu`` for each of its GPUs."""
        return max(1, self.gpus * self.per_gpu)

    @model_validator(mode="after")
    def _gpus_fit(self) -> Self:
        if self.per_gpu > 1 and not self.gpus:
            raise whole_sentence(
                f"cluster.per_gpu = {self.per_gpu} needs jobs with GPUs, and cluster.gres = {self.gres!r} names none: "
                "set it to 'gpu:1', for example, or leave cluster.per_gpu out."
            )
        if self.workers_a_job > 1 and ":" in self.device:
            raise whole_sentence(
                f"device {self.device!r} does not go with cluster.gres = {self.gres!r}, where each worker of a job "
                "sees one GPU and no other: leave cluster.device at 'auto', or set it to 'cuda'."
            )
        return self

    @property
    def walltime_s(self) -> int:
        """Time limit of a job in seconds."""
        days, _, clock = self.walltime.rpartition("-")
        hours, minutes, seconds = (int(part) for part in clock.split(":"))
        return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


class AddressCluster(_Cluster):
    """The work is done by the workers of a Dask scheduler that is running already."""

    kind: Literal["address"] = Field(description="Work on the workers of a running Dask scheduler.")
    address: str = Field(
        description="Address of the scheduler, such as `tls://host:8786`; `tcp://` where it has no protection."
    )
    tls_ca: str = Field(
        "",
        description="PEM file with the certificate of the authority that signed those of the scheduler, the workers "
        "and `tls_cert`. With `tls_cert` and `tls_key` it is what a `tls://` address needs.",
    )
    tls_cert: str = Field("", description="PEM file with the certificate that the run shows the scheduler.")
    tls_key: str = Field("", description="PEM file with the private key of `tls_cert`.")

    @model_validator(mode="after")
    def _keys_fit(self) -> Self:
        keys = {"tls_ca": self.tls_ca, "tls_cert": self.tls_cert, "tls_key": self.tls_key}
        missing = [f"cluster.{name}" for name, path in keys.items() if not path]
        protected = self.address.startswith("tls://")
        if protected and missing:
            raise whole_sentence(f"cluster.address = {self.address!r} needs {missing[0]}: the path of a PEM file.")
        if not protected and len(missing) < len(keys):
            raise whole_sentence(
                f"cluster.address = {self.address!r} is not protected by TLS, so that cluster.tls_ca, tls_cert and "
                "tls_key do not go with it: its scheduler's address begins with tls://, or leave them out."
            )
        return self


ClusterConfig = InlineCluster | LocalCluster | CudaCluster | SlurmCluster | AddressCluster
CLUSTERS: dict[str, type[Table]] = {
    "inline": InlineCluster,
    "local": LocalCluster,
    "cuda": CudaCluster,
    "slurm": SlurmCluster,
    "address": AddressCluster,
}
