"""How far a stage is, as it reports while it works."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Progress:
    """How far a stage is: ``done`` of ``total`` units. ``skipped`` units were done before this run.

    Attributes
    ----------
    note : str
        A sentence that the user has to see, whatever becomes of the stage.
    cost, total_cost : float
        Of what this run has done, and of all that it does, where some units cost more than others.
    """

    stage: str
    done: int
    total: int
    unit: str
    skipped: int = 0
    note: str = ""
    cost: float = 0
    total_cost: float = 0

    @classmethod
    def begin(cls, stage: str, unit: str, total: int, left: int, cost: float = 0) -> Progress:
        """Return the progress of a stage that has so many of its units left to do, at some cost."""
        return cls(stage, total - left, total, unit, total - left, total_cost=cost)

    def plus(self, units: int, cost: float = 0) -> Progress:
        """Return the progress after so many more units of a cost."""
        return replace(self, done=self.done + units, cost=self.cost + cost)

    def estimate_left(self, seconds: float) -> float | None:
        """Return the seconds that are left after those that the stage has taken; None where nothing is done yet.

        >>> Progress("deconvolve", 64, 576, "filters", cost=1, total_cost=11).estimate_left(2.0)
        20.0
        """
        done, total = (
            (self.cost, self.total_cost) if self.total_cost else (self.done - self.skipped, self.total - self.skipped)
        )
        return seconds * (total - done) / done if done else None


def describe_seconds(seconds: float) -> str:
    """Return a time as text.

    >>> describe_seconds(8.4), describe_seconds(192.0), describe_seconds(7507.0)
    ('8 s', '3 min 12 s', '2 h 5 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60:,} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
