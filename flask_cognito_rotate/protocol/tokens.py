"""What is sent to the token and revocation endpoints, and what comes back.

The client's secret is in none of the forms: it travels in the ``Authorization``
header, and only there (RFC 6749 section 2.3 allows one method per request).
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

from ..errors import (
    CognitoAuthError,
    ProviderRejected,
    ProviderUnavailable,
)
from ..model import Tokens

_DEFAULT_LIFETIME = 300
_LONGEST_LIFETIME = 86_400
_LONGEST_RETRY_AFTER = 3600.0
_MAX_JWT_LENGTH = 65_536

_VISIBLE = re.compile(r"[\x21-\x7e]+")
_ERROR_CODE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,100}")
_SCOPE = re.compile(r"[\x20\x21\x23-\x5b\x5d-\x7e]+")
_NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{1,15})?")
_SECONDS = re.compile(r"[0-9]{1,15}")
_THROTTLED = frozenset(
    {"toomanyrequestsexception", "too_many_requests", "throttlingexception"}
)


def code_request(
    *, client_id: str, code: str, redirect_uri: str, code_verifier: str
) -> dict[str, str]:
    """Return the form that redeems a code (RFC 6749 section 4.1.3, RFC 7636)."""
    return {
        "grant_type": "authorization_code",
        "client_id": client_id,
        "code": code,
        "redirect_uri": redirect_uri,
        "code_verifier": code_verifier,
    }


def refresh_request(*, client_id: str, refresh_token: str) -> dict[str, str]:
    """Return the form of a refresh (RFC 6749 section 6), for the same scopes."""
    return {
        "grant_type": "refresh_token",
        "client_id": client_id,
        "refresh_token": refresh_token,
    }


def revocation_request(*, client_id: str, token: str) -> dict[str, str]:
    """Return the form that revokes a refresh token (RFC 7009 section 2.1)."""
    return {"client_id": client_id, "token": token}


def parse_token_answer(
    status: int, headers: Mapping[str, str], body: bytes, *, now: float
) -> Tokens:
    """Read an answer of the token endpoint (RFC 6749 sections 5.1 and 5.2).

    The body decides, not its content type: a good answer may hold the only live
    refresh token. Fields that are not known are ignored; a refresh or an ID token
    that could not be sent in a header counts as absent.

    ``expires_at`` is ``now`` rounded down, plus ``expires_in``. Where that is
    missing, negative or no number, the access token's own ``exp`` is taken, if it is
    in the future, else 300 s; never more than 24 h.

    Args:
        status: the HTTP status.
        headers: the HTTP headers, names in any case.
        body: the bytes, already limited in size.
        now: UNIX seconds.

    Raises:
        ProviderRejected: a 4xx with an OAuth error, whose code is ``error``; or
            ``"unsupported_token_type"``, our own code for a 200 whose
            ``token_type`` is not ``Bearer``. No verdict on the refresh token lies in
            the latter: at a refresh it is transient.
        ProviderUnavailable: everything else, such as 429, 5xx, throttling under any
            status, a firewall's 403, a redirect, no JSON, no ``access_token``.
    """
    answer = _json_object(body)
    access_token = _visible(answer.get("access_token"))
    if status != 200 or access_token is None:
        raise _failure(status, headers, answer, now)
    token_type = answer.get("token_type")
    if not isinstance(token_type, str) or token_type.lower() != "bearer":
        raise ProviderRejected(
            "the token endpoint's answer is not a bearer token",
            error="unsupported_token_type",
        )
    return Tokens(
        access_token=access_token,
        expires_at=_expiry(answer.get("expires_in"), access_token, now),
        refresh_token=_visible(answer.get("refresh_token")),
        id_token=_visible(answer.get("id_token")),
        scope=_matching(_SCOPE, answer.get("scope")),
    )


def parse_revocation_answer(status: int, body: bytes) -> None:
    """Read an answer of the revocation endpoint (RFC 7009 section 2.2).

    Raises:
        ProviderRejected: a 4xx with an OAuth error, whose code is ``error``.
        ProviderUnavailable: any other answer but 200.
    """
    if status != 200:
        raise _failure(status, {}, _json_object(body), 0)


def peek_claims(jwt: str) -> dict[str, Any]:
    """Return a JWT's claims **unverified**, or ``{}`` for anything odd.

    For ``exp`` and ``scope`` of an access token that the token endpoint itself has
    just sent over TLS, and for nothing else: never for who somebody is, nor for a
    token that came by any other way.
    """
    parts = jwt.split(".", 3)
    if len(jwt) > _MAX_JWT_LENGTH or len(parts) != 3:
        return {}
    try:
        payload = base64.b64decode(
            parts[1] + "=" * (-len(parts[1]) % 4), altchars=b"-_", validate=True
        )
    except ValueError:
        return {}
    return _json_object(payload)


def _json_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in ``body``, or an empty one."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _matching(pattern: re.Pattern[str], value: object) -> str | None:
    return value if isinstance(value, str) and pattern.fullmatch(value) else None


def _visible(value: object) -> str | None:
    """Return a token that can stand in a header, or None."""
    return _matching(_VISIBLE, value)


def _failure(
    status: int, headers: Mapping[str, str], answer: Mapping[str, Any], now: float
) -> CognitoAuthError:
    code = _matching(_ERROR_CODE, answer.get("error"))
    refused = 400 <= status < 500 and status != 429 and not _is_throttling(answer)
    if refused and code is not None:
        return ProviderRejected(f"the provider answered {code}", error=code)
    return ProviderUnavailable(
        f"the provider gave no usable answer (HTTP status {status})",
        retry_after=_retry_after(headers, now),
        status_code=status,
    )


def _is_throttling(answer: Mapping[str, Any]) -> bool:
    """Find AWS's throttling error, which comes as a 400 and may have a namespace."""
    names = (answer.get(field) for field in ("error", "__type", "code"))
    return any(
        isinstance(name, str) and name.rpartition("#")[2].lower() in _THROTTLED
        for name in names
    )


def _retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds of ``Retry-After`` (RFC 9110 section 10.2.3), at most 3600."""
    for name, value in headers.items():
        if name.lower() == "retry-after":
            wait = _seconds_until(value.strip(), now)
            return None if wait is None else min(wait, _LONGEST_RETRY_AFTER)
    return None


def _seconds_until(value: str, now: float) -> float | None:
    if _SECONDS.fullmatch(value):
        return float(value)
    try:
        date = parsedate_to_datetime(value)
        # RFC 9110 section 5.6.7: an HTTP date is in UTC.
        moment = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
    return moment - now if moment >= now else None


def _expiry(expires_in: object, access_token: str, now: float) -> int:
    start = math.floor(now)
    lifetime = _lifetime(expires_in)
    if lifetime is None:
        lifetime = _lifetime_by_claim(access_token, start)
    return start + min(lifetime, _LONGEST_LIFETIME)


def _lifetime(expires_in: object) -> int | None:
    """Return whole seconds, or None if this is not a number of zero or more."""
    if isinstance(expires_in, str):
        return int(float(expires_in)) if _NUMBER.fullmatch(expires_in) else None
    return _whole(expires_in)


def _lifetime_by_claim(access_token: str, start: int) -> int:
    exp = _whole(peek_claims(access_token).get("exp"))
    # A token that is born expired would be refreshed again at every request.
    return exp - start if exp is not None and exp > start else _DEFAULT_LIFETIME


def _whole(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # Comparing an int with an infinite float is exact, however long the int is.
    return int(value) if 0 <= value < math.inf else None
