"""When to refresh, what a failed refresh means, and how long to wait after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from ..errors import (
    CognitoAuthError,
    InvalidTokenError,
    ProviderRejected,
)
from ..model import StoredToken

_LONGEST_STEP = 60.0
#: Seconds that a provider can make us wait at most.
LONGEST_RETRY_AFTER = 300.0

#: What to do about an error that our configuration causes, by OAuth error code.
REMEDIES: Mapping[str, str] = MappingProxyType(
    {
        "invalid_client": (
            "check COGNITO_CLIENT_ID and COGNITO_CLIENT_SECRET against the app client;"
            " one without a secret must not be given any"
        ),
        "unauthorized_client": (
            "allow the authorization code grant and refresh tokens in the app"
            " client's settings"
        ),
        "unsupported_grant_type": (
            "COGNITO_ISSUER must name a provider whose token endpoint knows the"
            " refresh_token grant"
        ),
        "invalid_request": (
            "check COGNITO_CLIENT_ID, and that no proxy changes what is sent to the"
            " token endpoint"
        ),
        "invalid_scope": "allow every scope of COGNITO_SCOPES in the app client",
    }
)


class Decision(Enum):
    """What a session's access token needs now."""

    KEEP = "keep"
    REFRESH_AHEAD = "refresh ahead"
    REFRESH = "refresh"
    ENDED = "ended"


class Verdict(Enum):
    """What a failed refresh means for the session."""

    FINAL = "final"
    CONFIGURATION = "configuration"
    TRANSIENT = "transient"


@dataclass(frozen=True, slots=True)
class RefreshPolicy:
    """The settings that `decide` needs, in seconds.

    ``absolute_max_age`` counts from sign-in; None: no limit.
    """

    leeway: int
    absolute_max_age: int | None


def decide(token: StoredToken, now: float, policy: RefreshPolicy) -> Decision:
    """Say what is due at ``now`` (UNIX seconds).

    An access token counts as expired from ``access_token_expires`` on. A session
    without a refresh token is kept until then and has ended afterwards.
    """
    if token.error is not None or not token.access_token:
        return Decision.ENDED
    if _is_too_old(token, now, policy):
        return Decision.ENDED
    left = token.access_token_expires - now
    if not token.refresh_token:
        return Decision.KEEP if left > 0 else Decision.ENDED
    if left <= 0:
        return Decision.REFRESH
    return Decision.REFRESH_AHEAD if left <= policy.leeway else Decision.KEEP


def judge(error: CognitoAuthError) -> Verdict:
    """Say what a failed refresh means.

    Only two things end a session: ``invalid_grant`` (RFC 6749 section 5.2), and a
    refreshed ID token that is wrong. A mistake of ours in the configuration, and
    every error that we do not know, leave it alone.
    """
    if isinstance(error, InvalidTokenError):
        return Verdict.FINAL
    if not isinstance(error, ProviderRejected):
        return Verdict.TRANSIENT
    if error.error == "invalid_grant":
        return Verdict.FINAL
    if error.error in REMEDIES:
        return Verdict.CONFIGURATION
    return Verdict.TRANSIENT


def backoff(failures: int, *, retry_after: float | None, jitter: float) -> float:
    """Return the seconds to wait before the next try.

    Steps of 1, 2, 4 … 60 seconds, of which between half and all is waited.

    Args:
        failures: how many tries in a row have failed, 1 or more.
        retry_after: what the provider asked for, in seconds; the wait is never
            shorter, except that no more than 300 s are granted.
        jitter: a random number in [0, 1), from the caller.
    """
    step = min(_LONGEST_STEP, 2.0 ** min(max(failures, 1) - 1, 10))
    wait = step * (0.5 + jitter / 2)
    return max(wait, min(retry_after or 0.0, LONGEST_RETRY_AFTER))


def _is_too_old(token: StoredToken, now: float, policy: RefreshPolicy) -> bool:
    limit = policy.absolute_max_age
    return limit is not None and now >= token.iat + limit
