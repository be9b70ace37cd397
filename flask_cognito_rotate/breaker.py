"""Spares a provider that fails for everybody."""

from __future__ import annotations

import threading
from typing import Final

from .errors import CognitoAuthError


class Breaker:
    """Counts failures over all sessions of this process.

    Three sessions in a row that meet a broken connection, a 5xx or a 429 open it; then
    one probe at a time goes through, and a success closes it. A 429 only slows: its
    pauses do not grow. All times are UNIX seconds.
    """

    _SESSIONS: Final = 3
    _LONGEST_SECONDS: Final = 16.0
    _THROTTLED_SECONDS: Final = 0.5

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failed: dict[str, None] = {}
        self._failed_at = 0.0
        self._openings = 0
        self._opened_at = 0.0
        self._until = 0.0

    def pause(self, now: float) -> float:
        """Return the seconds to wait; 0 lets the caller through, as the probe."""
        with self._lock:
            # More than that was noted before the clock was set back.
            if 0 < self._until - now <= self._LONGEST_SECONDS:
                return self._until - now
            if self._openings:
                self._until = now + self._interval()
            return 0.0

    def success(self, at: float) -> None:
        """Close: a call came back `at` this time, here or in another process.

        What came back before the last failure is no news. Every request asks this of
        the record that it reads, so where nothing failed it takes no lock.
        """
        if not self._failed:
            return
        with self._lock:
            if at < self._failed_at:
                return
            self._failed.clear()
            self._openings, self._opened_at, self._until = 0, 0.0, 0.0

    def failure(
        self, sid: str, error: CognitoAuthError, *, began: float, now: float
    ) -> None:
        """Count a failed call of session `sid`."""
        status = getattr(error, "status_code", None)
        if status is not None and status < 500 and status != 429:
            return
        with self._lock:
            if self._openings and began <= self._opened_at:
                return  # on its way when it opened: it says nothing new
            self._failed[sid] = None
            self._failed_at = now
            if len(self._failed) < self._SESSIONS:
                return
            while len(self._failed) > self._SESSIONS:
                del self._failed[next(iter(self._failed))]
            if status == 429:
                self._until = now + self._THROTTLED_SECONDS
                return
            self._openings += 1
            self._opened_at = now
            self._until = now + self._interval()

    def _interval(self) -> float:
        doublings = min(self._openings - 1, 4)
        return min(float(2**doublings), self._LONGEST_SECONDS)
