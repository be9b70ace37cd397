"""``memory:``, the cache of a single process."""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from itertools import islice
from typing import Any

from cachelib import SimpleCache
from cachelib.serializers import SimpleSerializer

from ..errors import ConfigurationError
from .base import Cache, Lock

#: A write looks at this many old entries. More than one per write keeps what has
#: expired from outgrowing what is alive.
_SWEEP = 2


class _AsIs(SimpleSerializer):
    """Keeps the object itself: nothing leaves the process, so nothing is pickled."""

    def dumps(self, value: Any, protocol: int = 0) -> Any:
        return value

    def loads(self, bvalue: Any) -> Any:
        return bvalue


class _Entries(SimpleCache):
    """cachelib's memory cache, which here never drops an entry by itself.

    Its threshold would drop live sessions, and its timeouts are whole seconds of a
    clock that cannot be passed in; so neither is used.
    """

    serializer = _AsIs()

    def __init__(self) -> None:
        super().__init__(threshold=sys.maxsize, default_timeout=0)


class MemoryCache(Cache):
    """Values and locks in this process alone; threads share them.

    A forked child starts with an empty cache, and so with another `id`, because from
    then on it shares nothing with its parent.

    Args:
        namespace: every object has a memory of its own, so this changes nothing.
        clock: UNIX seconds; expiry is judged by it.
        monotonic: seconds that never go back; leases are judged by it.
    """

    def __init__(
        self,
        namespace: str = "",
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(namespace)
        self._clock = clock
        self._monotonic = monotonic
        self._start()
        _caches.add(self)

    def get(self, key: str) -> bytes | None:
        with self._mutex:
            return self._live(key)

    def set(self, key: str, value: bytes, ttl: float) -> None:
        with self._mutex:
            self._store(key, value, ttl)

    def compare_and_set(
        self, key: str, expected: bytes | None, value: bytes, ttl: float
    ) -> bool:
        with self._mutex:
            if self._live(key) != expected:
                return False
            self._store(key, value, ttl)
            return True

    def delete(self, key: str) -> None:
        with self._mutex:
            self._drop(key)

    def lock(self, name: str, lease: float) -> Lock:
        return _MemoryLock(self, name, lease)

    def close(self) -> None:
        with self._mutex:
            self._empty()

    def _start(self) -> None:
        # A new mutex: at a fork, another thread of the parent may hold the old one.
        self._mutex = threading.Lock()
        self._empty()

    def _empty(self) -> None:
        self._id = None
        self._entries = _Entries()
        self._ring: OrderedDict[str, None] = OrderedDict()
        self._held: dict[str, tuple[_MemoryLock, float]] = {}

    def _live(self, key: str) -> bytes | None:
        entry: tuple[float, bytes] | None = self._entries.get(key)
        if entry is None or entry[0] <= self._clock():
            return None
        return entry[1]

    def _store(self, key: str, value: bytes, ttl: float) -> None:
        now = self._clock()
        for old in list(islice(self._ring, _SWEEP)):
            if self._entries.get(old)[0] <= now:
                self._drop(old)
            else:
                self._ring.move_to_end(old)
        self._entries.set(key, (now + ttl, value))
        self._ring[key] = None

    def _drop(self, key: str) -> None:
        self._entries.delete(key)
        self._ring.pop(key, None)

    def _acquire(self, lock: _MemoryLock) -> bool:
        with self._mutex:
            now = self._monotonic()
            # Also the first few of the table: their owners may never come back.
            for name in [lock.name, *islice(self._held, _SWEEP)]:
                if name in self._held and self._held[name][1] <= now:
                    del self._held[name]
            if lock.name in self._held:
                return False
            self._held[lock.name] = lock, now + lock.lease
            return True

    def _remaining(self, lock: _MemoryLock) -> float:
        with self._mutex:
            owner, until = self._held.get(lock.name, (None, 0.0))
            return until - self._monotonic() if owner is lock else 0.0

    def _release(self, lock: _MemoryLock) -> None:
        with self._mutex:
            if self._held.get(lock.name, (None,))[0] is lock:
                del self._held[lock.name]


class _MemoryLock(Lock):
    """A row in the cache's table of leases."""

    def __init__(self, cache: MemoryCache, name: str, lease: float) -> None:
        self._cache = cache
        self.name = name
        self.lease = lease

    def acquire(self) -> bool:
        return self._cache._acquire(self)

    def remaining(self) -> float:
        return self._cache._remaining(self)

    def release(self) -> None:
        self._cache._release(self)


def open_location(rest: str, *, namespace: str, instance_path: str) -> Cache:
    """Open ``memory:``; anything after the colon is a mistake."""
    if rest:
        raise ConfigurationError(
            ["COGNITO_CACHE: nothing follows the colon of memory:, write memory: alone"]
        )
    return MemoryCache(namespace)


_caches: weakref.WeakSet[MemoryCache] = weakref.WeakSet()


def _start_again_in_child() -> None:
    for cache in _caches:
        cache._start()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_start_again_in_child)
