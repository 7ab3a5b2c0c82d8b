"""What a stage tells while it works."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far a stage is: ``done`` of ``total`` units. ``skipped`` units were done before this run."""

    stage: str
    done: int
    total: int
    unit: str
    skipped: int = 0
