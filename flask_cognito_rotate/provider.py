"""Speaks to Cognito: discovery and keys kept, every call bounded, secrets re-read."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from .cache import Cache
from .config import Settings
from .documents import Document
from .errors import (
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

_R = TypeVar("_R")

#: How long a key set that lacked a ``kid`` is not fetched again for its sake.
_UNKNOWN_KEY_SECONDS: Final = 10.0
#: A revocation is best effort: a logout waits no longer for it.
_REVOKE_SECONDS: Final = 2.5
#: Below this there is no point in sending.
_LEAST_SECONDS: Final = 0.1


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
        self._metadata = Document(
            settings,
            cache,
            clock,
            name="discovery",
            url=lambda: discovery_url(settings.issuer),
            parse=lambda document: parse_metadata(document, issuer=settings.issuer),
        )
        self._keys: Document[KeySet] = Document(
            settings,
            cache,
            clock,
            name="jwks",
            url=lambda: self.metadata().jwks_uri,
            parse=_parse_keys,
        )

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
        if left < _LEAST_SECONDS:
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


def _call_for_secret(secret: Callable[[], str]) -> str:
    try:
        value = secret()
    except Exception as error:
        # Somebody's secrets manager is down: whatever it raises, it is for now.
        raise ProviderUnavailable(
            f"COGNITO_CLIENT_SECRET cannot be read ({type(error).__name__})", sent=False
        ) from error
    text: object = value
    if not isinstance(text, str) or not text.strip() or not text.isascii():
        raise ProviderUnavailable(
            "COGNITO_CLIENT_SECRET returned no secret, a text of ASCII", sent=False
        )
    return text.strip()


def _parse_keys(document: object) -> KeySet:
    from .protocol.verification import parse_jwks

    try:
        return parse_jwks(document)
    except ProviderRejected as error:
        # Nothing is wrong with a token because its keys are not to be had.
        raise ProviderUnavailable(str(error)) from error
