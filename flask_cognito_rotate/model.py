"""The values that travel between the layers: frozen, and silent about secrets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

#: The one value of a session's ``error``, as the NextAuth article names it.
REFRESH_ERROR = "RefreshAccessTokenError"

_FIELDS = (
    ("sid", "sid"),
    ("access_token", "accessToken"),
    ("access_token_expires", "accessTokenExpires"),
    ("refresh_token", "refreshToken"),
    ("id_token_claims", "idTokenClaims"),
    ("user", "user"),
    ("error", "error"),
    ("iat", "iat"),
    ("auth_time", "authTime"),
)
#: The names that `jwt_callback` cannot overwrite, except ``user``.
STORED_NAMES = frozenset(name for _, name in _FIELDS)


@dataclass(frozen=True, slots=True)
class ProviderMetadata:
    """What the discovery document says (OpenID Connect Discovery 1.0, section 3)."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    revocation_endpoint: str
    end_session_endpoint: str
    userinfo_endpoint: str | None = None
    #: RFC 9207: the provider promises ``iss`` in its authorization responses.
    sends_iss: bool = False


@dataclass(frozen=True, slots=True)
class Transaction:
    """One login that has begun and not come back yet.

    ``next`` is a path and query of our own origin; ``created`` is UNIX seconds.
    """

    state: str = field(repr=False)
    nonce: str = field(repr=False)
    code_verifier: str = field(repr=False)
    next: str
    redirect_uri: str
    created: int


@dataclass(frozen=True, slots=True)
class Tokens:
    """A good answer of the token endpoint (RFC 6749 section 5.1).

    ``expires_at`` is UNIX seconds. ``refresh_token`` is None where the provider does
    not rotate, ``id_token`` where ``openid`` was not granted.
    """

    access_token: str = field(repr=False)
    expires_at: int
    refresh_token: str | None = field(default=None, repr=False)
    id_token: str | None = field(default=None, repr=False)
    scope: str | None = None


@dataclass(frozen=True, slots=True)
class StoredToken:
    """What a session remembers; its JSON form uses NextAuth's names.

    ``access_token_expires``, ``iat`` (the sign-in, by our clock) and ``auth_time``
    (the provider's claim) are UNIX seconds. ``access_token`` and ``refresh_token``
    are None once the session is over. ``extra`` is what `jwt_callback` added.
    """

    sid: str = field(repr=False)
    access_token: str | None = field(repr=False)
    access_token_expires: int
    refresh_token: str | None = field(repr=False)
    id_token_claims: Mapping[str, Any] = field(repr=False)
    user: Mapping[str, Any] = field(repr=False)
    iat: int
    auth_time: int | None = None
    error: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, `extra` flattened into it."""
        named = {name: getattr(self, attribute) for attribute, name in _FIELDS}
        return {**self.extra, **named}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> StoredToken:
        """Undo `to_dict`. Raises KeyError or TypeError on anything else."""
        named = {attribute: data[name] for attribute, name in _FIELDS}
        extra = {k: v for k, v in data.items() if k not in STORED_NAMES}
        return cls(**named, extra=extra)

    def with_tokens(self, tokens: Tokens) -> StoredToken:
        """Take new tokens over; what the answer leaves out stays as it was."""
        return replace(
            self,
            access_token=tokens.access_token,
            access_token_expires=tokens.expires_at,
            refresh_token=tokens.refresh_token or self.refresh_token,
            error=None,
        )

    def without_tokens(self) -> StoredToken:
        """Drop what a finished session must not hold; the user stays readable."""
        return replace(self, access_token=None, refresh_token=None, error=REFRESH_ERROR)


def user_of(claims: Mapping[str, Any]) -> dict[str, Any]:
    """Return a session's user: always ``id``, ``name``, ``email`` and ``image``."""
    return {
        "id": claims.get("sub"),
        "name": claims.get("name") or claims.get("cognito:username"),
        "email": claims.get("email"),
        "image": claims.get("picture"),
    }
