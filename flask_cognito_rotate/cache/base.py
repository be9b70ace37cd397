"""What the rest of the package asks of a cache, whichever backend answers.

Names, times and failures are the same everywhere: keys are text, values are bytes
(never pickled), times are seconds, ``math.inf`` never expires, and whatever goes
wrong in the backend is a `CacheUnavailable`. None and False are answers, not
failures: a cache that fails must not look like a session that does not exist.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from abc import ABC, abstractmethod

from ..errors import CacheUnavailable

_ID_KEY = "cache-id"
_ID_TRIES = 3


class Lock(ABC):
    """One owner's claim on one name; make another object for another owner."""

    @abstractmethod
    def acquire(self) -> bool:
        """Try once, without waiting; False when somebody holds it, even this object.

        Raises:
            CacheUnavailable: the backend cannot be asked.
        """

    @abstractmethod
    def remaining(self) -> float:
        """Return the seconds left of the lease; 0 or less when lost or not held."""

    @abstractmethod
    def release(self) -> None:
        """Give the lock up if this object still holds it; a second call does nothing.

        Never raises: a backend that fails is logged at WARNING.
        """


class Cache(ABC):
    """Keys, values and locks that processes share under one namespace.

    Args:
        namespace: tells applications apart that use one backend; a hash of the issuer
            and the client id.
    """

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._id: str | None = None

    @property
    def id(self) -> str:
        """The random name of this cache's content, made by whoever asks first.

        Two processes that read different ids do not share a cache. Remembered once
        read.

        Raises:
            CacheUnavailable: the id can be neither read nor written.
        """
        known = self._id
        if known is None:
            known = self._id = self._read_or_make_id()
        return known

    @abstractmethod
    def get(self, key: str) -> bytes | None:
        """Return the value, or None when there is none or it has expired.

        Raises:
            CacheUnavailable: the backend cannot be read.
        """

    @abstractmethod
    def set(self, key: str, value: bytes, ttl: float) -> None:
        """Keep `value` for `ttl` seconds, whatever was there before.

        Raises:
            CacheUnavailable: the backend cannot be written; the old value stands.
        """

    def add(self, key: str, value: bytes, ttl: float) -> bool:
        """Keep `value` for `ttl` seconds if there is none; atomic. True when kept.

        Raises:
            CacheUnavailable: the backend cannot be written.
        """
        return self.compare_and_set(key, None, value, ttl)

    @abstractmethod
    def compare_and_set(
        self, key: str, expected: bytes | None, value: bytes, ttl: float
    ) -> bool:
        """Replace exactly `expected` by `value` for `ttl` seconds; atomic.

        Args:
            expected: the whole value that must be there now; None: there must be none.

        Returns:
            True when replaced, False when something else was there.

        Raises:
            CacheUnavailable: the backend cannot be read or written.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove the value, if there is one.

        Raises:
            CacheUnavailable: the backend cannot be written.
        """

    @abstractmethod
    def lock(self, name: str, lease: float) -> Lock:
        """Return a new lock on `name`, not acquired yet, to be held `lease` seconds.

        Names of locks and keys of values do not collide.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of connections and memory. The cache is not used afterwards."""

    def _hashed(self, kind: str, key: str) -> str:
        """Return 64 hex digits that stand for `key` in this namespace."""
        text = f"{len(self._namespace)}:{self._namespace}:{kind}:{key}"
        return hashlib.sha256(text.encode()).hexdigest()

    def _read_or_make_id(self) -> str:
        fresh = secrets.token_hex(16)
        for _ in range(_ID_TRIES):
            known = self.get(_ID_KEY)
            if known is not None:
                return known.decode("ascii", "replace")
            if self.add(_ID_KEY, fresh.encode("ascii"), math.inf):
                return fresh
        raise CacheUnavailable("the cache does not keep its id")
