"""The parts of topnine: each does one thing, and none knows a stage or the command line.

``pipeline.open_run(store)`` opens a run for analysis: see ``pipeline.analysis``.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .analysis import open_run

__all__ = ["open_run"]


def __getattr__(name: str) -> Any:
    """Import what is asked for: importing this package imports nothing else."""
    if name == "open_run":
        from .analysis import open_run

        return open_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
