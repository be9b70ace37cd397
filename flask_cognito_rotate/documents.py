"""The provider's documents: kept, shared between processes, stale rather than none."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from .cache import Cache
from .config import Settings
from .errors import CacheUnavailable, ProviderRejected, ProviderUnavailable

if TYPE_CHECKING:
    from .http import Answer

_logger = logging.getLogger("flask_cognito_rotate")
_T = TypeVar("_T")

#: How long after a failed fetch the stale document serves without another try.
_RETRY_SECONDS: Final = 10.0
#: How long after a failed fetch that somebody waited for its failure is shared.
_SHARE_FAILURE_SECONDS: Final = 1.0
#: A stale document outlives its freshness in the cache by this factor.
_KEEP_FACTOR: Final = 30
#: Below this there is no point in sending.
_LEAST_SECONDS: Final = 0.1


class Document(Generic[_T]):
    """A JSON document of the provider: in this process, in the cache, at its URL.

    One thread fetches at a time, and nobody waits for it who can be served with a
    stale document. A failure is remembered for a moment, so that those who queued
    behind it share it.
    """

    def __init__(
        self,
        settings: Settings,
        cache: Cache,
        clock: Callable[[], float],
        *,
        name: str,
        url: Callable[[], str],
        parse: Callable[[object], _T],
    ) -> None:
        self._settings = settings
        self._cache = cache
        self._clock = clock
        self._name = name
        self._url = url
        self._parse = parse
        self._lock = threading.Lock()
        self._value: _T | None = None
        self._fetched_at = 0.0
        self._rest_until = 0.0
        self._failure: ProviderUnavailable | ProviderRejected | None = None

    def current(self, timeout: float = math.inf) -> _T:
        """Return the document, not older than ``COGNITO_DISCOVERY_MAX_AGE`` if it can
        be had, in `timeout` seconds or COGNITO_HTTP_TIMEOUT, whichever is less.

        Raises:
            ProviderUnavailable: not to be had, and none is kept.
            ProviderRejected: unusable, and none is kept.
        """
        value = self._value
        if value is not None and self._is_fresh(self._fetched_at):
            return value
        timeout = min(timeout, self._settings.http_timeout)
        end = time.monotonic() + timeout
        if not self._lock.acquire(timeout=0 if value is not None else timeout):
            if value is not None:
                return value
            raise ProviderUnavailable(f"no {self._name} document in {timeout:g} s")
        try:
            if self._value is None or not self._is_fresh(self._fetched_at):
                self._take_shared()
            if self._value is None or not self._is_fresh(self._fetched_at):
                self._revalidate(end)
            assert self._value is not None  # noqa: S101
            return self._value
        finally:
            self._lock.release()

    def newer_than(self, seen: _T) -> _T | None:
        """Fetch again because `seen` lacks something; None while that must rest.

        Raises:
            ProviderUnavailable, ProviderRejected: the fetch failed.
        """
        end = time.monotonic() + self._settings.http_timeout
        with self._lock:
            if self._value is not None and self._value is not seen:
                return self._value
            if self._clock() < self._rest_until:
                return None
            try:
                return self._fetch(end)
            except (ProviderUnavailable, ProviderRejected):
                self.rest(_SHARE_FAILURE_SECONDS)
                raise

    def rest(self, seconds: float) -> None:
        """Fetch for nobody's sake for so long."""
        self._rest_until = self._clock() + seconds

    def _is_fresh(self, fetched_at: float) -> bool:
        age = self._clock() - fetched_at
        return age < self._settings.discovery_max_age

    def _revalidate(self, end: float) -> None:
        if self._clock() < self._rest_until:
            if self._value is not None:
                return
            if self._failure is not None:
                raise _again(self._failure)
        try:
            self._fetch(end)
        except (ProviderUnavailable, ProviderRejected) as error:
            if self._value is None:
                # Those who queued behind this try share its failure, no one later.
                self._failure = _again(error)
                self.rest(_SHARE_FAILURE_SECONDS)
                raise
            self.rest(_RETRY_SECONDS)
            _logger.warning(
                "The stale %s document of the provider serves on: %s", self._name, error
            )

    def _fetch(self, end: float) -> _T:
        from .http import Call, send

        url = self._url()
        left = max(_LEAST_SECONDS, end - time.monotonic())
        document = _load(send(Call("GET", url), timeout=left))
        value = self._parse(document)
        self._value, self._fetched_at = value, self._clock()
        self._share(document)
        return value

    def _take_shared(self) -> None:
        try:
            raw = self._cache.get(self._name)
        except CacheUnavailable:
            return  # whoever needs the cache itself says so
        if raw is None:
            return
        try:
            entry = json.loads(raw)
            fetched_at, value = float(entry["at"]), self._parse(entry["document"])
        except (ValueError, KeyError, TypeError, ProviderRejected, ProviderUnavailable):
            return
        latest = self._clock() + self._settings.clock_skew
        # One from the future would stay fresh until then.
        if self._fetched_at < fetched_at <= latest:
            self._value, self._fetched_at = value, fetched_at

    def _share(self, document: object) -> None:
        entry = json.dumps({"at": self._fetched_at, "document": document}).encode()
        keep = self._settings.discovery_max_age * _KEEP_FACTOR
        try:
            self._cache.set(self._name, entry, keep)
        except CacheUnavailable as error:
            _logger.warning("The %s document is not shared: %s", self._name, error)


def _again(
    error: ProviderUnavailable | ProviderRejected,
) -> ProviderUnavailable | ProviderRejected:
    """Return the same failure for another thread: an exception belongs to the one
    that raised it, and its traceback holds what that one was about to send."""
    if isinstance(error, ProviderRejected):
        return ProviderRejected(str(error), error=error.error)
    return ProviderUnavailable(
        str(error),
        retry_after=error.retry_after,
        sent=error.sent,
        status_code=error.status_code,
    )


def _load(answer: Answer) -> object:
    if answer.status != 200:
        raise ProviderUnavailable(
            f"HTTP {answer.status} instead of a document", status_code=answer.status
        )
    try:
        document: object = json.loads(answer.body)
    except (ValueError, RecursionError) as error:
        raise ProviderUnavailable("not JSON", status_code=answer.status) from error
    return document
