"""Signing keys and signed tokens, made with nothing but `cryptography`.

The verifying side of the package uses joserfc; that nothing is shared with it is the
point, for a mistake in one would otherwise be hidden by the same mistake in the other.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa


def b64url(data: bytes) -> str:
    """Encode bytes as base64url without padding (RFC 7515, section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def signing_input(header: Mapping[str, Any], claims: Any) -> str:
    """Join header and claims to the text that is signed (RFC 7515, section 5.1)."""
    parts = (header, claims)
    return ".".join(
        b64url(json.dumps(part, separators=(",", ":")).encode()) for part in parts
    )


@dataclass(frozen=True)
class SigningKey:
    """One RSA-2048 key; `kid` is base64 that holds all of ``+``, ``/`` and ``=``.

    Source: Cognito guide, amazon-cognito-user-pools-using-tokens-verifying-a-jwt.
    """

    private: rsa.RSAPrivateKey = field(repr=False)

    @classmethod
    def generate(cls) -> SigningKey:
        """Make a new key; takes about a tenth of a second."""
        return cls(rsa.generate_private_key(public_exponent=65537, key_size=2048))

    @cached_property
    def kid(self) -> str:
        """The key's id, derived from its modulus."""
        modulus = self._numbers.n.to_bytes(256, "big")
        for attempt in range(1_000):  # pragma: no branch (odds of a miss: 1e-200)
            digest = hashlib.sha256(modulus + attempt.to_bytes(2, "big")).digest()
            kid = base64.b64encode(digest).decode("ascii")
            if "+" in kid and "/" in kid:
                break
        return kid

    @property
    def _numbers(self) -> rsa.RSAPublicNumbers:
        return self.private.public_key().public_numbers()

    @cached_property
    def jwk(self) -> dict[str, str]:
        """The public key as Cognito's ``jwks.json`` lists it."""
        return {
            "alg": "RS256",
            "e": b64url(self._numbers.e.to_bytes(3, "big")),
            "kid": self.kid,
            "kty": "RSA",
            "n": b64url(self._numbers.n.to_bytes(256, "big")),
            "use": "sig",
        }

    def sign(self, message: bytes) -> bytes:
        """Sign with RS256 (RFC 7518, section 3.3)."""
        return self.private.sign(message, padding.PKCS1v15(), hashes.SHA256())


_made: list[SigningKey] = []
_making = threading.Lock()


def _key(number: int) -> SigningKey:
    # Keys are slow to make and only toys here, so one process makes each one once.
    with _making:
        while len(_made) <= number:
            _made.append(SigningKey.generate())
        return _made[number]


def foreign_key() -> SigningKey:
    """Return a key that no pool of this process ever publishes."""
    return _key(0)


class Keyring:
    """The two keys in use: one signs ID tokens, the other one access tokens."""

    def __init__(self) -> None:
        self._first = 1
        self._retired: list[SigningKey] = []

    @property
    def id_token(self) -> SigningKey:
        """The key that signs ID tokens."""
        return _key(self._first)

    @property
    def access_token(self) -> SigningKey:
        """The key that signs access tokens."""
        return _key(self._first + 1)

    def rotate(self, *, keep_old: bool = False) -> None:
        """Replace both keys; the old ones stay published only with `keep_old`."""
        old = [self.id_token, self.access_token]
        self._retired = [*old, *self._retired] if keep_old else []
        self._first += 2

    def jwks(self) -> list[dict[str, str]]:
        """List the public keys, those in use first."""
        return [
            dict(key.jwk) for key in (self.id_token, self.access_token, *self._retired)
        ]
