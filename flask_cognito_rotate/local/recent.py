"""Memory with an end, so that a pool that runs for weeks does not eat the machine."""

from __future__ import annotations

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")

MOST = 20_000  # entries


class Recent(dict[K, V]):
    """A dict that forgets its oldest entries beyond `MOST`."""

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        if len(self) > MOST:
            del self[next(iter(self))]


def trim(log: list[V]) -> None:
    """Forget the oldest entries of a list beyond `MOST`."""
    del log[:-MOST]
