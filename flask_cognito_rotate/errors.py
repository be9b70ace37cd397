"""The exceptions, all below one root.

::

    CognitoAuthError
    ├── ConfigurationError        the application's settings are wrong
    ├── ProviderUnavailable       Cognito cannot be asked for now (503, transient)
    ├── ProviderRejected          Cognito said no, or something unusable (502)
    ├── CacheUnavailable          COGNITO_CACHE cannot be used for now (503, transient)
    ├── InvalidTokenError         a token fails a check (401), one subclass per reason
    ├── LoginRequired             nobody is signed in (401)
    ├── AccessDenied              signed in, but not entitled (403)
    ├── LoginError                a login came back and is refused (400)
    └── RefreshAccessTokenError   the session has no usable access token

No message holds a token, a code, a secret or a cookie.
"""

from __future__ import annotations

from collections.abc import Sequence


class CognitoAuthError(Exception):
    """Everything that this package raises on purpose."""

    #: The HTTP status that a web application answers with.
    status: int = 500


class ConfigurationError(CognitoAuthError):
    """Settings that cannot work; raised by `CognitoAuth.init_app`.

    Attributes:
        problems: every mistake that was found, each with its remedy.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("".join(f"\n  - {problem}" for problem in self.problems))


class ProviderUnavailable(CognitoAuthError):
    """The provider is down, slow, throttling or unintelligible: try again later.

    Attributes:
        retry_after: seconds that the provider asked to wait, or None.
        sent: False when the request certainly never reached the provider.
        broken: True when the connection broke after the request was sent, so that
            nobody knows whether the provider acted on it.
        status_code: the HTTP status of the provider's answer, or None without one.
    """

    status = 503

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        sent: bool = True,
        broken: bool = False,
        status_code: int | None = None,
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.sent = sent
        self.broken = broken
        self.status_code = status_code


class ProviderRejected(CognitoAuthError):
    """The provider refused a request, or its documents cannot be used.

    Attributes:
        error: the OAuth error code (RFC 6749 section 5.2), for example
            ``"invalid_grant"``; ``"invalid_metadata"`` for a discovery document or
            key set that must not be used.
    """

    status = 502

    def __init__(self, message: str, *, error: str) -> None:
        super().__init__(message)
        self.error = error


class CacheUnavailable(CognitoAuthError):
    """The cache of ``COGNITO_CACHE`` cannot be reached, read or written for now."""

    status = 503


class InvalidTokenError(CognitoAuthError):
    """A token must not be accepted. Its subclasses name the reason."""

    status = 401


class MalformedToken(InvalidTokenError):
    """Not a compact JWS with a JSON object in it, or too large."""


class InvalidAlgorithm(InvalidTokenError):
    """Signed with anything but RS256."""


class UnknownKey(InvalidTokenError):
    """The header's ``kid`` names no key of the provider's key set."""


class InvalidSignature(InvalidTokenError):
    """The signature does not belong to the content and the key."""


class InvalidIssuer(InvalidTokenError):
    """``iss`` is absent or not exactly the configured issuer."""


class InvalidAudience(InvalidTokenError):
    """``aud`` (or ``client_id``, ``azp``) does not name this client."""


class InvalidSubject(InvalidTokenError):
    """``sub`` is absent, empty, not a string, or not the session's user."""


class InvalidTokenUse(InvalidTokenError):
    """Cognito's ``token_use``, or ``typ``, is that of another kind of token."""


class InvalidNonce(InvalidTokenError):
    """``nonce`` is not the one that this login sent."""


class InvalidTime(InvalidTokenError):
    """``exp``, ``iat`` or ``nbf`` is absent, not a number, or in the future."""


class ExpiredToken(InvalidTime):
    """``exp`` is past, tolerance included."""


class InvalidAccessTokenHash(InvalidTokenError):
    """``at_hash`` does not belong to the access token beside it."""


class LoginRequired(CognitoAuthError):
    """Nobody is signed in, and the view needs somebody."""

    status = 401


class AccessDenied(CognitoAuthError):
    """The user lacks a group or a scope that the view needs."""

    status = 403


class LoginError(CognitoAuthError):
    """A login is refused. Raise it in `jwt_callback` to refuse one yourself.

    The message is shown to the user, escaped.
    """

    status = 400


class RefreshAccessTokenError(CognitoAuthError):
    """The session has no access token that can be used (503; 401 when final).

    Attributes:
        final: True when the session is over and only a new login helps; False when
            the provider or the cache cannot be asked for now.
        retry_after: seconds until the next try is worth it; None when `final`.
    """

    def __init__(
        self, message: str, *, final: bool, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.final = final
        self.retry_after = retry_after
        self.status = 401 if final else 503
