"""See what the filters of a convolutional network look for.

``open_run(store)`` opens a run for analysis; the command is ``topnine``. The sources are ``pipeline`` (the parts) and
``stages`` (the jobs and the command line).
"""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from topnine.pipeline.store.analysis.run import open_run

__all__ = ["__version__", "open_run"]
__version__ = version("topnine")


def __getattr__(name: str) -> Any:
    """Import what is asked for: importing this package imports neither numpy, zarr nor torch."""
    if name == "open_run":
        from topnine.pipeline.store.analysis.run import open_run

        return open_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
