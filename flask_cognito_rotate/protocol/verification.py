"""ID tokens: whose signature, for whom, from whom, when.

RS256 and nothing else, with keys that come from the provider's key set and from
nowhere else. joserfc checks the signature; everything that stands around it is
checked here, so that each reason has a name.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NoReturn

from joserfc import jws
from joserfc.errors import BadSignatureError, JoseError
from joserfc.jwk import RSAKey

from ..errors import (
    ExpiredToken,
    InvalidAccessTokenHash,
    InvalidAlgorithm,
    InvalidAudience,
    InvalidIssuer,
    InvalidNonce,
    InvalidSignature,
    InvalidSubject,
    InvalidTime,
    InvalidTokenUse,
    MalformedToken,
    ProviderRejected,
    UnknownKey,
)

_ALGORITHM = "RS256"
_MAX_TOKEN_LENGTH = 65_536
_MAX_KID_LENGTH = 256
_MAX_SUBJECT_LENGTH = 255
_MAX_TIME = 253_402_300_799  # the end of the year 9999

_COMPACT_JWS = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)")
#: RFC 7518 section 3.3 asks for 2,048 bits or more; the upper bounds cap the work.
_MODULUS_BITS = range(2048, 8193)
_MODULUS = re.compile(r"[A-Za-z0-9_-]{1,1400}")
_EXPONENT = re.compile(r"[A-Za-z0-9_-]{1,11}")


class _Registry(jws.JWSRegistry):
    """joserfc's limits, wide enough for a header with certificates in it."""

    max_header_length = _MAX_TOKEN_LENGTH
    max_payload_length = _MAX_TOKEN_LENGTH
    max_signature_length = 2048


_REGISTRY = _Registry(algorithms=[_ALGORITHM], strict_check_header=False)


@dataclass(frozen=True, slots=True)
class KeySet:
    """The provider's usable public keys, by ``kid``, and all of them."""

    by_kid: Mapping[str, Sequence[RSAKey]] = field(repr=False)
    every: Sequence[RSAKey] = field(repr=False)

    def find(self, kid: str | None) -> Sequence[RSAKey]:
        """Return the keys that a token with this ``kid`` may be signed with.

        Usually one. None where the ``kid`` is unknown, or absent although the set
        has several keys. Cognito's ``kid`` is base64 with ``+``, ``/`` and ``=``: it
        is compared as it is.
        """
        if kid is not None:
            return self.by_kid.get(kid, ())
        return self.every if len(self.every) == 1 else ()


def parse_jwks(document: object) -> KeySet:
    """Take the usable keys of a JWK set (RFC 7517 section 5).

    Usable: ``kty`` RSA, 2,048 to 8,192 bits, ``use`` absent or ``sig``, ``alg``
    absent or RS256. Others are skipped, whatever is wrong with them. Only the public
    part is looked at. Keys that share a ``kid`` are each tried.

    Args:
        document: the parsed JSON.

    Raises:
        ProviderRejected: ``error`` is ``"invalid_metadata"``: there is no usable key.
    """
    candidates = document.get("keys") if isinstance(document, Mapping) else None
    if not isinstance(candidates, list):
        candidates = []
    by_kid: dict[str, list[RSAKey]] = {}
    every: list[RSAKey] = []
    for candidate in candidates:
        key = _usable_key(candidate)
        if key is None:
            continue
        every.append(key)
        kid = candidate.get("kid")
        if isinstance(kid, str):
            by_kid.setdefault(kid, []).append(key)
    if not every:
        raise ProviderRejected(
            "the provider's key set holds no usable RS256 key",
            error="invalid_metadata",
        )
    return KeySet(by_kid=MappingProxyType(by_kid), every=tuple(every))


def verify_login_id_token(
    token: str,
    keys: KeySet,
    *,
    issuer: str,
    client_id: str,
    nonce: str,
    access_token: str,
    now: float,
    skew: int,
) -> dict[str, Any]:
    """Return the claims of the ID token that a login brought.

    By OpenID Connect Core sections 3.1.3.7 (validation) and 3.1.3.8 (``at_hash``,
    if there is one), and Cognito's ``token_use``, if there is one.

    Args:
        token: the compact JWS.
        keys: what `parse_jwks` took from the provider.
        issuer: what ``iss`` must be, exactly.
        client_id: the one audience that may be named, and ``azp`` if there is one.
        nonce: what this login sent.
        access_token: what came beside the ID token.
        now: UNIX seconds.
        skew: seconds that our clock and the provider's may differ by.

    Raises:
        UnknownKey: the key set does not hold the key: fetch it again, once.
        InvalidTokenError: another of its subclasses names what is wrong.
    """
    claims = _verified_claims(token, keys)
    _check_claims(claims, issuer=issuer, client_id=client_id)
    if not nonce or not _same(claims.get("nonce"), nonce):
        raise InvalidNonce("nonce is not the one that this login sent")
    if "at_hash" in claims and not _same(claims["at_hash"], _half_hash(access_token)):
        raise InvalidAccessTokenHash("at_hash does not belong to the access token")
    _check_times(claims, now, skew)
    return claims


def verify_refreshed_id_token(
    token: str,
    keys: KeySet,
    *,
    issuer: str,
    client_id: str,
    subject: str,
    now: float,
    skew: int,
) -> dict[str, Any]:
    """Return the claims of the ID token that a refresh brought.

    Same as `verify_login_id_token`, but by OpenID Connect Core section 12.2: the
    user must be ``subject``; ``nonce``, ``at_hash`` and ``auth_time`` are not looked
    at (a refresh sends no nonce, and Cognito has been seen to change ``auth_time``).

    Raises:
        InvalidTime: nothing but its times is wrong: they are looked at last.
        UnknownKey: the key set does not hold the key: fetch it again, once.
        InvalidTokenError: another of its subclasses names what is wrong.
    """
    claims = _verified_claims(token, keys)
    _check_claims(claims, issuer=issuer, client_id=client_id)
    if claims["sub"] != subject:
        raise InvalidSubject("sub is not the session's user")
    _check_times(claims, now, skew)
    return claims


def _usable_key(candidate: object) -> RSAKey | None:
    if not isinstance(candidate, Mapping) or candidate.get("kty") != "RSA":
        return None
    if candidate.get("use", "sig") != "sig":
        return None
    if candidate.get("alg", _ALGORITHM) != _ALGORITHM:
        return None
    n = _matching(_MODULUS, candidate.get("n"))
    e = _matching(_EXPONENT, candidate.get("e"))
    if n is None or e is None:
        return None
    try:
        if _bit_length(n) not in _MODULUS_BITS:
            return None
        return RSAKey.import_key({"kty": "RSA", "n": n, "e": e})
    except (JoseError, ValueError):
        return None


def _matching(pattern: re.Pattern[str], value: object) -> str | None:
    return value if isinstance(value, str) and pattern.fullmatch(value) else None


def _bit_length(base64url: str) -> int:
    return int.from_bytes(_decode(base64url), "big").bit_length()


def _decode(base64url: str) -> bytes:
    """Undo base64url without padding. Raises ValueError."""
    padding = "=" * (-len(base64url) % 4)
    decoded = base64.b64decode(base64url + padding, altchars=b"-_", validate=True)
    # Spare bits in the last character would be a second spelling of one token.
    if _encode(decoded) != base64url:
        raise ValueError("not canonical base64url")
    return decoded


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _verified_claims(token: str, keys: KeySet) -> dict[str, Any]:
    """Return what is signed, once it is certain that the provider signed it."""
    match = _COMPACT_JWS.fullmatch(token) if len(token) <= _MAX_TOKEN_LENGTH else None
    if match is None:
        raise MalformedToken("not a compact JWS, or too large")
    kid = _check_header(_json_object(match[1], "header"))
    candidates = keys.find(kid)
    if not candidates:
        raise UnknownKey("the token names no key that the provider has")
    _check_signature(token, candidates)
    return _json_object(match[2], "payload")


def _json_object(segment: str, name: str) -> dict[str, Any]:
    try:
        document = json.loads(_decode(segment), parse_constant=_refuse_constant)
        # A lone surrogate cannot be encoded again, wherever the claim is shown.
        json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise MalformedToken(f"the token's {name} is not JSON") from None
    if not isinstance(document, dict):
        raise MalformedToken(f"the token's {name} is not a JSON object")
    return document


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _check_header(header: Mapping[str, Any]) -> str | None:
    """Check what decides before any key does; return the ``kid``.

    ``jwk``, ``jku``, ``x5u`` and ``x5c`` are never looked at: a token that brings its
    own key proves nothing.
    """
    if header.get("alg") != _ALGORITHM:
        raise InvalidAlgorithm(f"the token is not signed with {_ALGORITHM}")
    # RFC 7515 section 4.1.11: we understand no extension.
    if "crit" in header:
        raise MalformedToken("the token's header needs an extension")
    typ = header.get("typ", "JWT")
    if not isinstance(typ, str) or typ.upper() != "JWT":
        raise InvalidTokenUse("typ is that of another kind of token")
    kid = header.get("kid")
    if kid is not None and not (isinstance(kid, str) and len(kid) <= _MAX_KID_LENGTH):
        raise MalformedToken("kid is not a string, or too long")
    return kid


def _check_signature(token: str, candidates: Sequence[RSAKey]) -> None:
    for key in candidates:
        try:
            jws.deserialize_compact(token, key, registry=_REGISTRY)
        except BadSignatureError:
            continue
        except JoseError:
            raise MalformedToken("not a usable JWS") from None
        return
    raise InvalidSignature("the signature does not belong to the token")


def _check_claims(claims: Mapping[str, Any], *, issuer: str, client_id: str) -> None:
    if claims.get("iss") != issuer:
        raise InvalidIssuer("iss is not the configured issuer")
    _check_audience(claims, client_id)
    if claims.get("token_use", "id") != "id":
        raise InvalidTokenUse("token_use is not id")
    _check_subject(claims.get("sub"))


def _check_audience(claims: Mapping[str, Any], client_id: str) -> None:
    aud = claims.get("aud")
    # Core section 3.1.3.7: reject audiences that are not trusted; we trust ourselves.
    if aud != client_id and not _is_only(aud, client_id):
        raise InvalidAudience("aud is not this client")
    if claims.get("azp", client_id) != client_id:
        raise InvalidAudience("azp is not this client")


def _is_only(aud: object, client_id: str) -> bool:
    return isinstance(aud, list) and bool(aud) and all(a == client_id for a in aud)


def _check_subject(sub: object) -> None:
    # Core section 2: not more than 255 ASCII characters.
    if not isinstance(sub, str) or not 0 < len(sub) <= _MAX_SUBJECT_LENGTH:
        raise InvalidSubject("sub is absent, or not a string of usual length")
    if not sub.isascii() or not sub.isprintable():
        raise InvalidSubject("sub is not printable ASCII")


def _check_times(claims: Mapping[str, Any], now: float, skew: int) -> None:
    if _time(claims, "exp") + skew <= now:
        raise ExpiredToken("the token is expired")
    if _time(claims, "iat") > now + skew:
        raise InvalidTime("iat is in the future")
    if "nbf" in claims and _time(claims, "nbf") > now + skew:
        raise InvalidTime("nbf is in the future")


def _time(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidTime(f"{name} is absent or not a number")
    if not 0 <= value <= _MAX_TIME:
        raise InvalidTime(f"{name} is not a time")
    return value


def _half_hash(access_token: str) -> str:
    digest = hashlib.sha256(access_token.encode()).digest()
    return _encode(digest[: len(digest) // 2])


def _same(claim: object, expected: str) -> bool:
    return isinstance(claim, str) and hmac.compare_digest(
        claim.encode(), expected.encode()
    )
