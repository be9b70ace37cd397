"""Refresh tokens: their families, rotation, and the grace period.

Source: Cognito guide, amazon-cognito-user-pools-using-the-refresh-token.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

from .keys import b64url
from .recent import Recent

_JWE_HEADER = b64url(b'{"cty":"JWT","enc":"A256GCM","alg":"RSA-OAEP"}')
# Sizes of encrypted key, nonce, ciphertext and tag that make up the 1.85 kB of a
# real one (amazon-archives/amazon-cognito-identity-js#688).
_JWE_PARTS = (256, 12, 1053, 16)


def opaque_refresh_token() -> str:
    """Make up a refresh token of the real shape and size; its content is random."""
    random = (b64url(secrets.token_bytes(size)) for size in _JWE_PARTS)
    return ".".join((_JWE_HEADER, *random))


def digest(token: str) -> str:
    """Return the hash under which a token is kept: the token itself never is."""
    return hashlib.sha256(token.encode()).hexdigest()


def fingerprint(token: str) -> str:
    """Return a short name for a token that is safe to show."""
    return digest(token)[:12]


@dataclass
class Family:
    """All tokens that descend from one sign-in (`origin_jti`).

    Attributes:
        auth_time: when the user signed in, UNIX seconds.
        expires: when the last refresh token of the family dies, UNIX seconds. Rotation
            does not move it.
        resource: the `aud` of access tokens (RFC 8707), or None.
    """

    origin_jti: str
    sub: str
    client_id: str
    scope: str
    auth_time: int
    expires: float
    resource: str | None = None
    revoked: bool = False


@dataclass
class RefreshToken:
    """One refresh token as the pool knows it; `replaced` is when it was rotated."""

    fingerprint: str
    family: Family
    replaced: float | None = None

    def check_client(self, client: object) -> bool:
        """Tell whether this token was issued to `client` (asked by Authlib)."""
        return self.family.client_id == getattr(client, "client_id", None)

    def get_scope(self) -> str:
        """Return the granted scopes (asked by Authlib)."""
        return self.family.scope

    def live(self, now: float, grace: float) -> bool:
        """Tell whether it can be redeemed at `now`, `grace` seconds being allowed."""
        if self.family.revoked or now >= self.family.expires:
            return False
        return self.replaced is None or now < self.replaced + grace


@dataclass(frozen=True)
class Rotation:
    """One refresh token that took another one's place, named by fingerprints."""

    at: float
    user: str
    old: str
    new: str


class RefreshTokens:
    """The refresh tokens of a pool, kept by their hashes."""

    def __init__(self) -> None:
        self._tokens: Recent[str, RefreshToken] = Recent()

    def __iter__(self) -> Iterator[RefreshToken]:
        return iter(list(self._tokens.values()))

    def issue(self, family: Family) -> str:
        """Make a new refresh token for `family` and return it."""
        token = opaque_refresh_token()
        self._tokens[digest(token)] = RefreshToken(fingerprint(token), family)
        return token

    def find(self, token: str) -> RefreshToken | None:
        """Return what is known of `token`, dead or alive, or None."""
        return self._tokens.get(digest(token))
