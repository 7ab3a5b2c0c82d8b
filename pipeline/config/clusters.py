"""The ``[cluster]`` table: one model for each kind of workers."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from .base import Table, whole_sentence

DEVICE = re.compile(r"auto|cpu|cuda(:(0|[1-9][0-9]{0,2}))?")
MEMORY_SIZE = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)? *([kmgtp]i?b?|b)?", re.IGNORECASE | re.ASCII)
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


class InlineCluster(_Cluster):
    """The work is done in the process of the command itself. This is the default."""

    kind: Literal["inline"] = Field("inline", description="Work in the process of the command itself.")


class LocalCluster(_AdaptiveCluster):
    """The work is done by processes of this machine."""

    kind: Literal["local"] = Field(description="Work in processes of this machine.")


class CudaCluster(_ServedCluster):
    """The work is done by one process for every GPU of this machine."""

    kind: Literal["cuda"] = Field(description="Work in one process for every GPU of this machine.")
    device: str = Field(
        "cuda", description="Always `cuda`: each process sees one GPU and no other. `auto` means the same here."
    )

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
    """The work is done by Slurm jobs, one worker in each."""

    kind: Literal["slurm"] = Field(description="Work in Slurm jobs, one worker in each.")
    memory: str = Field(
        "4GiB",
        description="Memory of each job, such as `4GiB` or `500MB`. A worker that takes more is ended and replaced.",
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
        "", description="Generic resources of each job as sbatch takes them. `gpu:1` gives every worker a GPU."
    )
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
