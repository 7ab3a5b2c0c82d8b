"""How far a stage is, as it reports while it works."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Progress:
    """How far a stage is: ``done`` of ``total`` units. ``skipped`` units were done before this run.

    A ``note`` is a sentence that the user has to see, whatever becomes of the stage.
    """

    stage: str
    done: int
    total: int
    unit: str
    skipped: int = 0
    note: str = ""

    @classmethod
    def begin(cls, stage: str, unit: str, total: int, left: int) -> Progress:
        """Return the progress of a stage that has so many of its units left to do."""
        return cls(stage, total - left, total, unit, total - left)

    def plus(self, units: int) -> Progress:
        """Return the progress after so many more units."""
        return replace(self, done=self.done + units)
