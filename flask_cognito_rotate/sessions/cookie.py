"""The session in a sealed cookie.

Cognito's tokens are base64 of bytes that cannot be compressed (ciphertext, signatures)
and of JSON that can. The first travel as the bytes they are; only the JSON is deflated,
so that no compressed length tells anything about a secret beside it.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from ..errors import CognitoAuthError
from ..model import StoredToken
from ..sealing import BrokenSeal, Sealer, UnknownSealingKey
from .record import KEY_BYTES, Session

_PURPOSE: Final = "session"
_LENGTH: Final = struct.Struct(">H")
#: What a genuine cookie can inflate to, many times over.
_MAX_TEXT: Final = 256 * 1024
#: A first part that ends in this goes on in the second; base64 has no such sign.
_CONTINUED: Final = "."

#: Browsers keep a cookie of at most 4,096 bytes, some one or two fewer.
MAX_COOKIE_BYTES: Final = 4_093
#: Web servers cap the header that carries them all at 8 kB.
MAX_TOTAL_BYTES: Final = 7_000


class CookieTooLarge(CognitoAuthError):
    """The session does not fit into two parts and 7,000 bytes."""


@dataclass(frozen=True, slots=True)
class OpenedCookie:
    """A session as its cookie tells it; ``written`` is UNIX seconds."""

    session: Session
    written: int


class CookieCodec:
    """Packs sessions into cookie values and back.

    The first part is named like the cookie, the second ``{name}.1``.

    Args:
        overhead: bytes that a part's attributes take up at most.
    """

    def __init__(self, sealer: Sealer, *, overhead: int) -> None:
        self._sealer = sealer
        self._overhead = overhead

    @staticmethod
    def names(name: str) -> tuple[str, str]:
        """Return the names of both parts."""
        return name, f"{name}.1"

    def seal(
        self, name: str, session: Session, *, now: int, expires_at: int
    ) -> list[str]:
        """Return the values of the one or two parts.

        Raises:
            CookieTooLarge: it takes more than two parts, or 7,000 bytes.
        """
        envelope = self._sealer.seal(
            _PURPOSE, _pack(session, now), expires_at=expires_at
        )
        text = base64.urlsafe_b64encode(envelope).rstrip(b"=").decode()
        first, second = self.names(name)
        room = MAX_COOKIE_BYTES - self._overhead - len(first) - 1
        if len(text) <= room:
            return [text]
        head, tail = text[: room - 1] + _CONTINUED, text[room - 1 :]
        total = len(first) + len(head) + len(second) + len(tail) + 4
        too_long = len(second) + 1 + len(tail) + self._overhead > MAX_COOKIE_BYTES
        if too_long or total > MAX_TOTAL_BYTES:
            raise CookieTooLarge(f"the session takes {total} bytes of cookies")
        return [head, tail]

    def open(
        self, name: str, cookies: Mapping[str, str], *, now: float
    ) -> OpenedCookie | None:
        """Return the session of `cookies`, None where there is no such cookie.

        Raises:
            UnknownSealingKey: not ours to judge; leave the cookie alone.
            BrokenSeal: ours by name, and changed, cut or incomplete.
            ExpiredSeal: genuine and too old.
        """
        first, second = self.names(name)
        text = cookies.get(first)
        if text is None:
            return None
        if text.endswith(_CONTINUED):
            text = text[:-1] + cookies.get(second, "")
        if len(text) > 2 * MAX_COOKIE_BYTES:
            raise UnknownSealingKey("no cookie of ours is so long")
        try:
            envelope = _decode(text)
        except ValueError:
            # Its head still tells whose it was: ours is broken, another's is unknown.
            envelope = _head(text)
        session, written = _unpack(self._sealer.open(_PURPOSE, envelope, now=now))
        return OpenedCookie(session, written)


def slim(session: Session, step: int) -> Session:
    """Make a session smaller: step 0 drops additions, step 1 all but vital claims."""
    token = replace(session.token, extra={})
    if step > 0:
        vital = ("iss", "sub", "aud", "token_use", "cognito:groups", "email", "name")
        claims = {k: v for k, v in token.id_token_claims.items() if k in vital}
        token = replace(token, id_token_claims=claims)
    return replace(session, token=token)


def _pack(session: Session, now: int) -> bytes:
    fields = session.token.to_dict()
    raw = [session.key]
    for name in ("accessToken", "refreshToken"):
        fields[name] = _split(fields[name], raw)
    document = {
        "t": fields,
        "g": session.generation,
        "c": session.cache_id,
        "w": now,
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    deflated = zlib.compress(text, 9, wbits=-15)
    if len(text) > _MAX_TEXT or len(deflated) > MAX_TOTAL_BYTES:
        raise CookieTooLarge(f"the session takes {len(text)} bytes of JSON")
    return _LENGTH.pack(len(deflated)) + deflated + b"".join(raw)


def _unpack(data: bytes) -> tuple[Session, int]:
    """Undo `_pack`; `data` is genuine, so a failure is a format of another version."""
    try:
        (length,) = _LENGTH.unpack_from(data)
        start = _LENGTH.size
        inflater = zlib.decompressobj(wbits=-15)
        text = inflater.decompress(data[start : start + length], _MAX_TEXT)
        document: dict[str, Any] = json.loads(text)
        raw = memoryview(data)[start + length :]
        key, raw = bytes(raw[:KEY_BYTES]), raw[KEY_BYTES:]
        fields = document["t"]
        for name in ("accessToken", "refreshToken"):
            fields[name], raw = _join(fields[name], raw)
        token = StoredToken.from_dict(fields)
        return (
            Session(token, key, document["g"], document["c"]),
            document["w"],
        )
    except (ValueError, KeyError, TypeError, struct.error, zlib.error) as error:
        raise BrokenSeal("a session cookie of an unknown format") from error


def _split(token: str | None, raw: list[bytes]) -> list[str | int] | str | None:
    """Take a token's segments apart: JSON as text, the rest as bytes into `raw`.

    A token that would not come back to the letter is kept as it is.
    """
    if token is None:
        return None
    segments: list[str | int] = []
    pieces: list[bytes] = []
    for segment in token.split("."):
        try:
            piece = _decode(segment)
        except ValueError:
            return token
        if piece[:2] == b'{"' and piece.isascii():
            segments.append(piece.decode("ascii"))
        else:
            segments.append(len(piece))
            pieces.append(piece)
    raw.extend(pieces)
    return segments


def _join(
    segments: list[str | int] | str | None, raw: memoryview
) -> tuple[str | None, memoryview]:
    if not isinstance(segments, list):
        return segments, raw
    texts = []
    for segment in segments:
        if isinstance(segment, str):
            texts.append(_encode(segment.encode("ascii")))
        else:
            texts.append(_encode(raw[:segment]))
            raw = raw[segment:]
    return ".".join(texts), raw


def _encode(data: bytes | memoryview) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decode(text: str) -> bytes:
    """Decode what `_encode` made, to the letter, else ValueError."""
    data = text.encode("ascii")
    padded = data.translate(_URL_TO_STANDARD) + b"=" * (-len(data) % 4)
    decoded = binascii.a2b_base64(padded, strict_mode=True)
    if _encode(decoded) != text:
        raise ValueError("unused bits are set")
    return decoded


def _head(text: str) -> bytes:
    try:
        return _decode(text[:12])
    except ValueError:
        return b""


_URL_TO_STANDARD: Final = bytes.maketrans(b"-_+/", b"+/\0\0")
