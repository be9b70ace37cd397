"""When to refresh, what a failure means, how long to wait."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_cognito_rotate.errors import (
    CacheUnavailable,
    CognitoAuthError,
    InvalidIssuer,
    InvalidSignature,
    InvalidSubject,
    ProviderRejected,
    ProviderUnavailable,
)
from flask_cognito_rotate.model import StoredToken
from flask_cognito_rotate.protocol.refresh import (
    REMEDIES,
    Decision,
    RefreshPolicy,
    Verdict,
    backoff,
    decide,
    judge,
)

TOKEN = StoredToken(
    sid="sid",
    access_token="access",
    access_token_expires=10_000,
    refresh_token="refresh",
    id_token_claims={},
    user={},
    iat=6_400,
)
POLICY = RefreshPolicy(leeway=60, absolute_max_age=None)
CAPPED = RefreshPolicy(leeway=60, absolute_max_age=3_000)
ORDER = list(Decision)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (0, Decision.KEEP),
        (9_939.9, Decision.KEEP),
        (9_940, Decision.REFRESH_AHEAD),
        (9_999.9, Decision.REFRESH_AHEAD),
        (10_000, Decision.REFRESH),
        (10**9, Decision.REFRESH),
    ],
)
def test_an_access_token_is_kept_refreshed_ahead_then_refreshed(
    now: float, expected: Decision
) -> None:
    assert decide(TOKEN, now, POLICY) is expected


@pytest.mark.parametrize(
    ("now", "expected"), [(9_999.9, Decision.KEEP), (10_000, Decision.ENDED)]
)
def test_without_a_refresh_token_a_session_lasts_as_long_as_its_access_token(
    now: float, expected: Decision
) -> None:
    token = dataclasses.replace(TOKEN, refresh_token=None)
    assert decide(token, now, POLICY) is expected


@pytest.mark.parametrize(
    ("now", "expected"), [(9_399, Decision.KEEP), (9_400, Decision.ENDED)]
)
def test_case_d27_the_absolute_age_ends_a_session(
    now: float, expected: Decision
) -> None:
    """D27: counted from sign-in, even while the access token is still good."""
    assert decide(TOKEN, now, CAPPED) is expected


def test_a_finished_session_stays_finished() -> None:
    assert decide(TOKEN.without_tokens(), 0, POLICY) is Decision.ENDED
    assert decide(dataclasses.replace(TOKEN, error="x"), 0, POLICY) is Decision.ENDED


@given(
    expires=st.integers(0, 4_000_000_000),
    iat=st.integers(0, 4_000_000_000),
    leeway=st.integers(0, 100_000),
    cap=st.none() | st.integers(0, 100_000_000),
    refresh_token=st.none() | st.just("refresh"),
    earlier=st.floats(0, 5e9),
    later=st.floats(0, 5e9),
)
def test_decide_is_monotonic_in_time(
    expires: int,
    iat: int,
    leeway: int,
    cap: int | None,
    refresh_token: str | None,
    earlier: float,
    later: float,
) -> None:
    """Time never makes a token better."""
    token = dataclasses.replace(
        TOKEN, access_token_expires=expires, iat=iat, refresh_token=refresh_token
    )
    policy = RefreshPolicy(leeway=leeway, absolute_max_age=cap)
    first, second = sorted((earlier, later))
    before, after = decide(token, first, policy), decide(token, second, policy)
    assert ORDER.index(before) <= ORDER.index(after)


def rejected(code: str) -> CognitoAuthError:
    return ProviderRejected("no", error=code)


VERDICTS: dict[str, tuple[CognitoAuthError, Verdict]] = {
    "D14-invalid_grant": (rejected("invalid_grant"), Verdict.FINAL),
    "D03-iss": (InvalidIssuer("x"), Verdict.FINAL),
    "D04-sub": (InvalidSubject("x"), Verdict.FINAL),
    "D05-signature": (InvalidSignature("x"), Verdict.FINAL),
    "D16-invalid_client": (rejected("invalid_client"), Verdict.CONFIGURATION),
    "D16-unauthorized_client": (
        rejected("unauthorized_client"),
        Verdict.CONFIGURATION,
    ),
    "unsupported_grant_type": (
        rejected("unsupported_grant_type"),
        Verdict.CONFIGURATION,
    ),
    "invalid_request": (rejected("invalid_request"), Verdict.CONFIGURATION),
    "invalid_scope": (rejected("invalid_scope"), Verdict.CONFIGURATION),
    "D17-unavailable": (ProviderUnavailable("x"), Verdict.TRANSIENT),
    "D17-unknown-code": (rejected("interaction_required"), Verdict.TRANSIENT),
    "A14-token-type": (rejected("unsupported_token_type"), Verdict.TRANSIENT),
    "C02-metadata": (rejected("invalid_metadata"), Verdict.TRANSIENT),
    "D12-cache": (CacheUnavailable("x"), Verdict.TRANSIENT),
}


@pytest.mark.parametrize(("error", "verdict"), VERDICTS.values(), ids=VERDICTS)
def test_case(error: CognitoAuthError, verdict: Verdict) -> None:
    """Only invalid_grant and a wrong ID token end a session."""
    assert judge(error) is verdict


def test_every_configuration_error_has_a_remedy_of_one_line() -> None:
    assert len(REMEDIES) == 5
    assert all(remedy and "\n" not in remedy for remedy in REMEDIES.values())


def test_the_wait_doubles_up_to_a_minute() -> None:
    waits = [backoff(n, retry_after=None, jitter=0.999999) for n in range(1, 9)]
    assert [round(wait) for wait in waits] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_jitter_spreads_the_wait_over_its_upper_half() -> None:
    assert backoff(3, retry_after=None, jitter=0.0) == 2.0
    assert backoff(3, retry_after=None, jitter=0.5) == 3.0


@pytest.mark.parametrize(
    ("asked", "expected"), [(30.0, 30.0), (0.0, 0.5), (3600.0, 300.0)]
)
def test_the_provider_may_ask_for_a_longer_wait(asked: float, expected: float) -> None:
    """D17: Retry-After is honoured, up to five minutes."""
    assert backoff(1, retry_after=asked, jitter=0.0) == expected


@given(
    st.integers(),
    st.none() | st.floats(0, 1e9),
    st.floats(0, 1, exclude_max=True),
)
def test_any_wait_is_at_least_half_a_second_and_at_most_five_minutes(
    failures: int, retry_after: float | None, jitter: float
) -> None:
    wait = backoff(failures, retry_after=retry_after, jitter=jitter)
    assert 0.5 <= wait <= 300
