"""What a reader keeps of the shards that it reads, so that all of them together take a bounded amount of memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any


class Kept:
    """The values that were used last: at most a number of them. Who uses one holds the lock.

    Attributes
    ----------
    lock : Lock
    """

    def __init__(self, limit: int) -> None:
        self.lock = threading.Lock()
        self._limit = limit
        self._values: OrderedDict[tuple[object, Hashable], Any] = OrderedDict()

    def get(self, owner: object, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return an owner's value of a key; one that is not there is made, after room was made for it."""
        if (owner, key) in self._values:
            self._values.move_to_end((owner, key))
        else:
            while len(self._values) >= self._limit:
                self._values.popitem(last=False)
            self._values[owner, key] = make()
        return self._values[owner, key]

    def values(self) -> list[Any]:
        """Return the values that are kept, of all owners."""
        return list(self._values.values())

    def forget(self, owner: object) -> None:
        """Drop an owner's values."""
        for held in [held for held in self._values if held[0] is owner]:
            del self._values[held]
