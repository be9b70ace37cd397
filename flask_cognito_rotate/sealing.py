"""Sealed envelopes: AES-256-GCM under keys derived from Flask's SECRET_KEY.

An envelope is ``version (1 byte) | key id (8) | nonce (12) | ciphertext and tag``. The
key id and the key come out of one HKDF (RFC 5869) over the secret, bound to purpose,
issuer and client id, so an envelope names the key, the purpose and the settings that it
was made for without telling anything about them. The expiry travels inside.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from .errors import CognitoAuthError

_VERSION: Final = b"\x01"
_NONCE: Final = 12
_KEY_ID: Final = 8
_HEAD: Final = len(_VERSION) + _KEY_ID
_EXPIRY: Final = struct.Struct(">Q")


class SealError(CognitoAuthError):
    """An envelope cannot be opened."""


class UnknownSealingKey(SealError):
    """Sealed under another key, or for other settings: perhaps not ours to judge."""


class BrokenSeal(SealError):
    """Names one of our keys, and was not made, or was changed since, by its holder."""


class ExpiredSeal(SealError):
    """Genuine, and past the time that it was sealed for."""


def derive_key(secret: bytes, info: bytes, length: int = 32) -> bytes:
    """Derive `length` bytes from `secret` for the use that `info` names (HKDF)."""
    return HKDF(SHA256(), length, salt=None, info=info).derive(secret)


def encrypt(key: bytes, data: bytes, associated: bytes) -> bytes:
    """Encrypt with a fresh nonce in front (AES-256-GCM)."""
    nonce = secrets.token_bytes(_NONCE)
    return nonce + AESGCM(key).encrypt(nonce, data, associated)


def decrypt(key: bytes, sealed: bytes, associated: bytes) -> bytes:
    """Undo `encrypt`. Raises `BrokenSeal` on anything else."""
    try:
        return AESGCM(key).decrypt(sealed[:_NONCE], sealed[_NONCE:], associated)
    except (InvalidTag, ValueError) as error:
        raise BrokenSeal("an encrypted value was changed or cut") from error


class Sealer:
    """Seal with the newest key, open with every one.

    Args:
        secret_keys: newest first, any length.
        issuer, client_id: what the keys are bound to: an envelope of another
            application that shares the SECRET_KEY does not open.
    """

    def __init__(
        self, secret_keys: Sequence[bytes], *, issuer: str, client_id: str
    ) -> None:
        self._secrets = tuple(secret_keys)
        self._binding = f"{issuer}\0{client_id}".encode()
        self._keys: dict[str, dict[bytes, bytes]] = {}

    def seal(
        self, purpose: str, data: bytes, *, expires_at: int, context: bytes = b""
    ) -> bytes:
        """Seal `data` until `expires_at` (UNIX seconds).

        `context` is not stored: `open` must be given the same again.
        """
        key_id, key = next(iter(self._keys_for(purpose).items()))
        head = _VERSION + key_id
        return head + encrypt(key, _EXPIRY.pack(expires_at) + data, head + context)

    def open(
        self, purpose: str, envelope: bytes, *, now: float, context: bytes = b""
    ) -> bytes:
        """Return what was sealed for `purpose` and `context`.

        Raises:
            UnknownSealingKey: no key of ours made it, as far as its head tells.
            BrokenSeal: a key of ours is named, and the tag does not fit.
            ExpiredSeal: genuine, and `now` (UNIX seconds) is not before its expiry.
        """
        head = envelope[:_HEAD]
        key = self._keys_for(purpose).get(head[len(_VERSION) :])
        if key is None or head[: len(_VERSION)] != _VERSION:
            raise UnknownSealingKey("sealed under a key that is not configured here")
        data = decrypt(key, envelope[_HEAD:], head + context)
        if now >= _EXPIRY.unpack_from(data)[0]:
            raise ExpiredSeal("sealed for a time that is over")
        return data[_EXPIRY.size :]

    def _keys_for(self, purpose: str) -> dict[bytes, bytes]:
        keys = self._keys.get(purpose)
        if keys is None:
            info = b"flask-cognito-rotate\0" + purpose.encode() + b"\0" + self._binding
            derived = [derive_key(s, info, _KEY_ID + 32) for s in self._secrets]
            keys = {both[:_KEY_ID]: both[_KEY_ID:] for both in derived}
            self._keys[purpose] = keys
        return keys
