"""Speaks to Cognito: discovery and keys kept, every call bounded, secrets re-read."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from .cache import Cache
from .config import Settings
from .errors import (
    CacheUnavailable,
    ProviderRejected,
    ProviderUnavailable,
    UnknownKey,
)
from .model import ProviderMetadata, Tokens
from .protocol.metadata import discovery_url, parse_metadata
from .protocol.tokens import (
    code_request,
    parse_revocation_answer,
    parse_token_answer,
    refresh_request,
    revocation_request,
)

if TYPE_CHECKING:
    from .http import Answer
    from .protocol.verification import KeySet

_log = logging.getLogger("flask_cognito_rotate")
_T = TypeVar("_T")
_R = TypeVar("_R")

#: How long after a failed fetch the stale document serves without another try.
_RETRY_SECONDS: Final = 10.0
#: How long after a failed fetch that somebody waited for its failure is shared.
_SHARE_FAILURE_SECONDS: Final = 1.0
#: How long a key set that lacked a ``kid`` is not fetched again for its sake.
_UNKNOWN_KEY_SECONDS: Final = 10.0
#: A stale document outlives its freshness in the cache by this factor.
_KEEP_FACTOR: Final = 30
#: A revocation is best effort: a logout waits no longer for it.
_REVOKE_SECONDS: Final = 2.5
#: Below this there is no point in sending.
_LEAST_SECONDS: Final = 0.2


class Provider:
    """The user pool behind one `Settings`.

    Args:
        cache: what processes share; documents are found and left there.
        clock: UNIX seconds.
    """

    def __init__(
        self, settings: Settings, cache: Cache, clock: Callable[[], float]
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._secret = settings.client_secret
        self._secret_value: str | None = None
        self._metadata = _Document(
            self, cache, "discovery", self._metadata_url, self._parse_metadata
        )
        self._keys = _Document(self, cache, "jwks", self._keys_url, _parse_keys)

    @property
    def settings(self) -> Settings:
        return self._settings

    def now(self) -> float:
        return self._clock()

    def metadata(self) -> ProviderMetadata:
        """Return the discovery document, fetched at most once per its age.

        Raises:
            ProviderUnavailable: not to be had, and none is kept.
            ProviderRejected: it must not be used (another issuer, no domain …).
        """
        return self._metadata.current()

    def exchange_code(
        self, *, code: str, redirect_uri: str, code_verifier: str
    ) -> Tokens:
        """Redeem an authorization code (RFC 6749 section 4.1.3), once.

        Raises:
            ProviderUnavailable, ProviderRejected: see `parse_token_answer`.
        """
        form = code_request(
            client_id=self._settings.client_id,
            code=code,
            redirect_uri=redirect_uri,
            code_verifier=code_verifier,
        )
        return self._tokens(form, self._settings.http_timeout)

    def refresh(self, refresh_token: str, *, timeout: float) -> Tokens:
        """Exchange a refresh token (RFC 6749 section 6), in `timeout` seconds.

        Raises:
            ProviderUnavailable, ProviderRejected: see `parse_token_answer`.
        """
        form = refresh_request(
            client_id=self._settings.client_id, refresh_token=refresh_token
        )
        return self._tokens(form, timeout)

    def revoke(self, refresh_token: str) -> None:
        """Revoke a refresh token and all that came of it (RFC 7009).

        Raises:
            ProviderUnavailable, ProviderRejected: it may still be alive.
        """
        form = revocation_request(
            client_id=self._settings.client_id, token=refresh_token
        )
        self._ask(
            lambda metadata: metadata.revocation_endpoint,
            form,
            min(_REVOKE_SECONDS, self._settings.http_timeout),
            lambda answer: parse_revocation_answer(answer.status, answer.body),
        )

    def verify_login(self, tokens: Tokens, *, nonce: str) -> dict[str, Any]:
        """Check the ID token of a login and return its claims.

        Raises:
            InvalidTokenError: it must not be accepted.
            ProviderUnavailable: the keys are not to be had.
        """
        from .protocol.verification import verify_login_id_token

        settings = self._settings
        return self._with_keys(
            lambda keys: verify_login_id_token(
                tokens.id_token or "",
                keys,
                issuer=settings.issuer,
                client_id=settings.client_id,
                nonce=nonce,
                access_token=tokens.access_token,
                now=self._clock(),
                skew=settings.clock_skew,
            )
        )

    def verify_refreshed(self, id_token: str, *, subject: str) -> dict[str, Any]:
        """Check a refreshed ID token (OpenID Connect Core 1.0, section 12.2).

        Raises:
            InvalidTokenError: it must not be accepted.
            ProviderUnavailable: the keys are not to be had.
        """
        from .protocol.verification import verify_refreshed_id_token

        settings = self._settings
        return self._with_keys(
            lambda keys: verify_refreshed_id_token(
                id_token,
                keys,
                issuer=settings.issuer,
                client_id=settings.client_id,
                subject=subject,
                now=self._clock(),
                skew=settings.clock_skew,
            )
        )

    def _with_keys(self, verify: Callable[[KeySet], dict[str, Any]]) -> dict[str, Any]:
        keys = self._keys.current()
        try:
            return verify(keys)
        except UnknownKey as error:
            fresh = self._keys.newer_than(keys)
            if fresh is None:
                raise ProviderUnavailable("the key set was fetched just now") from error
        try:
            return verify(fresh)
        except UnknownKey:
            self._keys.rest(_UNKNOWN_KEY_SECONDS)
            raise

    def _tokens(self, form: dict[str, str], timeout: float) -> Tokens:
        return self._ask(
            lambda metadata: metadata.token_endpoint,
            form,
            timeout,
            lambda answer: parse_token_answer(
                answer.status, answer.headers, answer.body, now=self._clock()
            ),
        )

    def _ask(
        self,
        endpoint: Callable[[ProviderMetadata], str],
        form: dict[str, str],
        timeout: float,
        parse: Callable[[Answer], _R],
    ) -> _R:
        """Post `form`, in `timeout` seconds with everything that it takes."""
        end = time.monotonic() + timeout
        try:
            url = endpoint(self._metadata.current(timeout))
        except ProviderUnavailable as error:
            error.sent = False
            raise
        secret = self._current_secret()
        try:
            return parse(self._post(url, form, secret, end))
        except ProviderRejected as error:
            if error.error != "invalid_client":
                raise
            newer = self._newer_secret(secret)
            if newer is None:
                raise
        # Refused for its credentials, so the grant in it was not looked at.
        return parse(self._post(url, form, newer, end))

    def _post(
        self, url: str, form: dict[str, str], secret: str | None, end: float
    ) -> Answer:
        from .http import Call, send

        left = end - time.monotonic()
        if left < _LEAST_SECONDS / 2:
            raise ProviderUnavailable("no time is left to send", sent=False)
        call = Call("POST", url, form, self._settings.client_id, secret)
        return send(call, timeout=left)

    def _current_secret(self) -> str | None:
        if not callable(self._secret):
            return self._secret
        if self._secret_value is None:
            self._secret_value = _call_for_secret(self._secret)
        return self._secret_value

    def _newer_secret(self, refused: str | None) -> str | None:
        """Return another secret than the refused one, None where there is none.

        The callable is asked again, unless another thread has done so meanwhile.
        """
        if not callable(self._secret):
            return None
        if self._secret_value == refused:
            self._secret_value = _call_for_secret(self._secret)
        return None if self._secret_value == refused else self._secret_value

    def _metadata_url(self) -> str:
        return discovery_url(self._settings.issuer)

    def _parse_metadata(self, document: object) -> ProviderMetadata:
        return parse_metadata(document, issuer=self._settings.issuer)

    def _keys_url(self) -> str:
        return self.metadata().jwks_uri


def _left(end: float) -> float:
    """Return the seconds until `end`, by the monotonic clock; never quite none."""
    return max(0.1, end - time.monotonic())


def _call_for_secret(secret: Callable[[], str]) -> str:
    try:
        return secret()
    except Exception as error:
        # Somebody's secrets manager is down: whatever it raises, it is for now.
        raise ProviderUnavailable(
            f"COGNITO_CLIENT_SECRET cannot be read ({type(error).__name__})", sent=False
        ) from error


def _parse_keys(document: object) -> KeySet:
    from .protocol.verification import parse_jwks

    try:
        return parse_jwks(document)
    except ProviderRejected as error:
        # Nothing is wrong with a token because its keys are not to be had.
        raise ProviderUnavailable(str(error)) from error


class _Document(Generic[_T]):
    """A JSON document of the provider: in this process, in the cache, at its URL.

    One thread fetches at a time, and nobody waits for it who can be served with a
    stale document. A failure is remembered for a moment, so that those who queued
    behind it share it.
    """

    def __init__(
        self,
        provider: Provider,
        cache: Cache,
        name: str,
        url: Callable[[], str],
        parse: Callable[[object], _T],
    ) -> None:
        self._provider = provider
        self._cache = cache
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
        timeout = min(timeout, self._provider.settings.http_timeout)
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
        end = time.monotonic() + self._provider.settings.http_timeout
        with self._lock:
            if self._value is not None and self._value is not seen:
                return self._value
            if self._provider.now() < self._rest_until:
                return None
            try:
                return self._fetch(end)
            except (ProviderUnavailable, ProviderRejected):
                self.rest(_SHARE_FAILURE_SECONDS)
                raise

    def rest(self, seconds: float) -> None:
        """Fetch for nobody's sake for so long."""
        self._rest_until = self._provider.now() + seconds

    def _is_fresh(self, fetched_at: float) -> bool:
        age = self._provider.now() - fetched_at
        return age < self._provider.settings.discovery_max_age

    def _revalidate(self, end: float) -> None:
        if self._provider.now() < self._rest_until:
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
            _log.warning(
                "The stale %s document of the provider serves on: %s", self._name, error
            )

    def _fetch(self, end: float) -> _T:
        from .http import Call, send

        url = self._url()
        left = max(_LEAST_SECONDS / 2, end - time.monotonic())
        document = _load(send(Call("GET", url), timeout=left))
        value = self._parse(document)
        self._value, self._fetched_at = value, self._provider.now()
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
        latest = self._provider.now() + self._provider.settings.clock_skew
        # One from the future would stay fresh until then.
        if self._fetched_at < fetched_at <= latest:
            self._value, self._fetched_at = value, fetched_at

    def _share(self, document: object) -> None:
        entry = json.dumps({"at": self._fetched_at, "document": document}).encode()
        keep = self._provider.settings.discovery_max_age * _KEEP_FACTOR
        try:
            self._cache.set(self._name, entry, keep)
        except CacheUnavailable as error:
            _log.warning("The %s document is not shared: %s", self._name, error)


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
