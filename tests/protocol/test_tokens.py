"""Requests to the token and revocation endpoints, and the answers."""

from __future__ import annotations

import base64
import json
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_cognito_rotate.errors import ProviderRejected, ProviderUnavailable
from flask_cognito_rotate.model import Tokens
from flask_cognito_rotate.protocol.tokens import (
    code_request,
    parse_revocation_answer,
    parse_token_answer,
    peek_claims,
    refresh_request,
    revocation_request,
)

NOW = 1_700_000_000.75
START = 1_700_000_000
ANSWER: dict[str, Any] = {
    "access_token": "a.b.c",
    "id_token": "d.e.f",
    "refresh_token": "g.h.i.j.k",
    "token_type": "Bearer",
    "expires_in": 3600,
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from([*ANSWER, "error", "__type", "scope"]) | st.text(), inner
        )
    ),
    max_leaves=12,
)


def unsigned(claims: object) -> str:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=")
    return f"e30.{payload.decode()}.c2ln"


def parse(
    answer: object, status: int = 200, headers: dict[str, str] | None = None
) -> Tokens:
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return parse_token_answer(status, headers or {}, body, now=NOW)


def rejected(answer: object, status: int = 400) -> str:
    with pytest.raises(ProviderRejected) as caught:
        parse(answer, status)
    return caught.value.error


def unavailable(
    answer: object, status: int = 200, headers: dict[str, str] | None = None
) -> ProviderUnavailable:
    with pytest.raises(ProviderUnavailable) as caught:
        parse(answer, status, headers)
    assert caught.value.status_code == status
    return caught.value


def test_a_code_is_redeemed_with_its_verifier_and_no_secret() -> None:
    """D28: the secret travels in the Authorization header, by the caller."""
    assert code_request(
        client_id="client", code="code", redirect_uri="https://a/cb", code_verifier="v"
    ) == {
        "grant_type": "authorization_code",
        "client_id": "client",
        "code": "code",
        "redirect_uri": "https://a/cb",
        "code_verifier": "v",
    }


def test_a_refresh_asks_for_no_scope() -> None:
    """D28: no widened scope, one grant, one client."""
    assert refresh_request(client_id="client", refresh_token="r") == {
        "grant_type": "refresh_token",
        "client_id": "client",
        "refresh_token": "r",
    }


def test_a_revocation_names_the_token() -> None:
    form = revocation_request(client_id="client", token="r")
    assert form == {"client_id": "client", "token": "r"}


def test_a_good_answer_is_taken_whole() -> None:
    tokens = parse({**ANSWER, "scope": "openid email", "unknown": {"x": [1]}})
    assert tokens == Tokens(
        access_token="a.b.c",
        expires_at=START + 3600,
        refresh_token="g.h.i.j.k",
        id_token="d.e.f",
        scope="openid email",
    )
    assert "a.b.c" not in repr(tokens)


@pytest.mark.parametrize("value", [None, "", 1, [], {}, "two words", "tökén", "a\nb"])
@pytest.mark.parametrize("name", ["refresh_token", "id_token"])
def test_case_d02_an_unusable_token_counts_as_absent(name: str, value: object) -> None:
    """D02: then the old refresh token and the old claims stay."""
    assert getattr(parse({**ANSWER, name: value}), name) is None


@pytest.mark.parametrize("scope", [None, "", 1, ["openid"], 'a"b', "a\nb"])
def test_an_unusable_scope_counts_as_absent(scope: object) -> None:
    assert parse({**ANSWER, "scope": scope}).scope is None


@pytest.mark.parametrize("token_type", ["Bearer", "bearer", "BEARER"])
def test_case_a14_bearer_in_any_case(token_type: str) -> None:
    """A14: the type's name is not case-sensitive."""
    assert parse({**ANSWER, "token_type": token_type}).access_token == "a.b.c"


@pytest.mark.parametrize("token_type", [None, "", "mac", "DPoP", 1, ["Bearer"]])
def test_case_a14_any_other_type(token_type: object) -> None:
    """A14: a token that is not a bearer token is refused."""
    answer = {**ANSWER, "token_type": token_type}
    assert rejected(answer, 200) == "unsupported_token_type"


@pytest.mark.parametrize(
    ("expires_in", "expected"),
    [
        (3600, 3600),
        ("3600", 3600),
        (3600.5, 3600),
        ("3600.5", 3600),
        (0, 0),
        ("0", 0),
        (0.5, 0),
        (1e30, 86_400),
        (10**300, 86_400),
        ("999999999999999", 86_400),
        (86_401, 86_400),
    ],
)
def test_case_d20_a_number(expires_in: object, expected: int) -> None:
    """D20: whole seconds from now, at most a day."""
    assert parse({**ANSWER, "expires_in": expires_in}).expires_at == START + expected


NO_NUMBERS: list[object] = [
    None,
    True,
    False,
    "abc",
    "",
    "-5",
    "1e3",
    "0x10",
    " 3600",
    "3600\n",
    "٣٦٠٠",
    "9" * 400,
    float("nan"),
    float("inf"),
    float("-inf"),
    -5,
    -0.5,
    [3600],
    {},
]


@pytest.mark.parametrize("expires_in", NO_NUMBERS)
@pytest.mark.parametrize(
    ("exp", "expected"),
    [
        (START + 600, START + 600),
        (START + 600.9, START + 600),
        (START + 10**9, START + 86_400),
        (1e300, START + 86_400),
        (START, START + 300),
        (START - 600, START + 300),
        (None, START + 300),
        (True, START + 300),
        ("soon", START + 300),
        (float("nan"), START + 300),
        (float("inf"), START + 300),
        (-1, START + 300),
    ],
)
def test_case_d20_no_number(expires_in: object, exp: object, expected: int) -> None:
    """D20: then the access token's own exp decides, else 300 seconds."""
    answer = {
        **ANSWER,
        "access_token": unsigned({"exp": exp}),
        "expires_in": expires_in,
    }
    assert parse(answer).expires_at == expected


def test_case_d20_missing() -> None:
    """D20: an opaque access token without expires_in lasts 300 seconds."""
    answer = {k: v for k, v in ANSWER.items() if k != "expires_in"}
    assert parse(answer).expires_at == START + 300


@pytest.mark.parametrize(
    "code",
    [
        "invalid_grant",
        "invalid_client",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_request",
        "invalid_scope",
        "something_new",
    ],
)
@pytest.mark.parametrize("status", [400, 401, 403])
def test_an_oauth_error_is_named_whatever_its_status(code: str, status: int) -> None:
    """D14, D16: Cognito documents invalid_client as 400 here and as 401 there."""
    assert rejected({"error": code}, status) == code


TRANSIENT: dict[str, tuple[int, object]] = {
    "D17-500": (500, b"Internal Server Error"),
    "D17-500-oauth": (500, {"error": "invalid_grant"}),
    "D17-502-html": (502, b"<html>Bad Gateway</html>"),
    "D17-503-oauth": (503, {"error": "invalid_client"}),
    "D17-429-text": (429, b"Rate exceeded"),
    "D17-429-oauth": (429, {"error": "invalid_grant"}),
    "D17-400-throttled": (400, {"error": "TooManyRequestsException"}),
    "D17-400-throttled-oauth": (400, {"error": "too_many_requests"}),
    "D17-400-throttled-type": (
        400,
        {"__type": "com.amazonaws#TooManyRequestsException", "error": "invalid_grant"},
    ),
    "D17-400-throttled-code": (
        400,
        {"code": "TooManyRequestsException", "error": "invalid_request"},
    ),
    "D17-400-throttling": (400, {"error": "ThrottlingException"}),
    "D17-400-empty": (400, b""),
    "D17-400-no-domain": (400, {"code": "BadRequest", "type": "client"}),
    "D17-400-error-number": (400, {"error": 1}),
    "D17-400-error-object": (400, {"error": {"code": "invalid_grant"}}),
    "D17-400-error-empty": (400, {"error": ""}),
    "D17-400-error-crlf": (400, {"error": "invalid_grant\r\nx"}),
    "D17-400-error-long": (400, {"error": "e" * 101}),
    "D17-403-firewall": (403, b"<html>Request blocked</html>"),
    "D17-403-firewall-json": (403, {"message": "Forbidden"}),
    "D17-302": (302, b""),
    "D17-302-oauth": (302, {"error": "invalid_grant"}),
    "D17-302-tokens": (302, ANSWER),
    "D17-201-tokens": (201, ANSWER),
    "D17-200-garbage": (200, b"\x00\xff\xfe"),
    "D17-200-html": (200, b"<!doctype html><p>Sign in to the network"),
    "D17-200-empty": (200, b""),
    "D17-200-list": (200, [ANSWER]),
    "D17-200-null": (200, None),
    "D17-200-error": (200, {"error": "invalid_grant"}),
    "D17-200-no-access-token": (200, {"token_type": "Bearer", "id_token": "d.e.f"}),
    "D17-200-access-token-null": (200, {**ANSWER, "access_token": None}),
    "D17-200-access-token-empty": (200, {**ANSWER, "access_token": ""}),
    "D17-200-access-token-list": (200, {**ANSWER, "access_token": ["a"]}),
    "D17-200-access-token-crlf": (200, {**ANSWER, "access_token": "a\r\nX: y"}),
    "D17-200-access-token-unicode": (200, {**ANSWER, "access_token": "ä"}),
    "D17-200-nested": (200, b"[" * 100_000),
    "D17-200-digits": (200, b'{"access_token": ' + b"9" * 10_000 + b"}"),
}


@pytest.mark.parametrize(("status", "answer"), TRANSIENT.values(), ids=TRANSIENT)
def test_case(status: int, answer: object) -> None:
    """An answer that proves nothing is transient."""
    assert unavailable(answer, status).retry_after is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("120", 120.0),
        (" 120 ", 120.0),
        ("0", 0.0),
        ("7200", 3600.0),
        ("9" * 15, 3600.0),
        (formatdate(START + 90, usegmt=True), 90 - 0.75),
        (formatdate(START + 90), 90 - 0.75),
        (formatdate(START + 86_400, usegmt=True), 3600.0),
        (formatdate(START - 90, usegmt=True), None),
        ("-5", None),
        ("1.5", None),
        ("1e3", None),
        ("soon", None),
        ("", None),
        ("Wed, 99 Nov 2023 99:99:99 GMT", None),
        ("9" * 5000, None),
        (f"Mon, 20 Nov 1995 {'9' * 20}:12:08 GMT", None),
    ],
)
@pytest.mark.parametrize("name", ["Retry-After", "retry-after"])
def test_retry_after_is_seconds_or_a_date(
    name: str, value: str, expected: float | None
) -> None:
    """D17: 503 with Retry-After."""
    assert unavailable(b"", 503, {name: value}).retry_after == expected


@given(st.text())
def test_any_retry_after_is_a_sane_number_or_none(value: str) -> None:
    wait = unavailable(b"", 503, {"Retry-After": value}).retry_after
    assert wait is None or 0 <= wait <= 3600


@given(st.integers(100, 599), JSON)
def test_any_json_is_tokens_or_a_named_failure(status: int, answer: object) -> None:
    """Whatever the endpoint answers, there is no other error."""
    try:
        tokens = parse(answer, status)
    except (ProviderRejected, ProviderUnavailable):
        return
    assert START <= tokens.expires_at <= START + 86_400


@given(st.dictionaries(st.sampled_from([*ANSWER, "scope"]), JSON))
def test_any_field_of_a_good_answer_may_be_odd(fields: dict[str, Any]) -> None:
    try:
        tokens = parse({**ANSWER, **fields})
    except (ProviderRejected, ProviderUnavailable):
        return
    assert START <= tokens.expires_at <= START + 86_400
    assert tokens.access_token.isascii()


@given(st.integers(100, 599), st.binary())
def test_any_bytes_are_a_named_failure(status: int, body: bytes) -> None:
    with pytest.raises((ProviderRejected, ProviderUnavailable)):
        parse(body, status)


def test_no_message_holds_what_the_body_held() -> None:
    """J01: a body may hold tokens, so that only the error's code is passed on."""
    answer = {**ANSWER, "error_description": "secret-one", "error": "invalid_grant"}
    with pytest.raises(ProviderRejected) as caught:
        parse(answer, 400)
    assert str(caught.value) == "the provider answered invalid_grant"


def test_claims_are_read_without_verification() -> None:
    assert peek_claims(unsigned({"exp": 1, "scope": "a b"})) == {
        "exp": 1,
        "scope": "a b",
    }


@pytest.mark.parametrize(
    "jwt",
    [
        "",
        "opaque",
        "a.b",
        "a.b.c.d",
        "a.b.c.d.e",
        "..",
        "a.!.c",
        "a.é.c",
        "a.bm8.c",
        unsigned([1]),
        unsigned(None),
        "e30." + "A" * 65_536 + ".c2ln",
        "e30." + base64.urlsafe_b64encode(b"[" * 40_000).decode() + ".c2ln",
    ],
)
def test_claims_of_anything_odd_are_none(jwt: str) -> None:
    assert peek_claims(jwt) == {}


@given(st.text() | st.builds("{}.{}.{}".format, st.text(), st.text(), st.text()))
def test_peeking_never_raises(jwt: str) -> None:
    assert isinstance(peek_claims(jwt), dict)


@pytest.mark.parametrize("body", [b"", b"{}", b"ok", b'{"error": "invalid_request"}'])
def test_a_revocation_is_good_with_200(body: bytes) -> None:
    """G03: 200 also for a token that nobody knows (RFC 7009)."""
    parse_revocation_answer(200, body)


@pytest.mark.parametrize(
    ("status", "code"), [(400, "unsupported_token_type"), (401, "invalid_client")]
)
def test_a_refused_revocation_is_named(status: int, code: str) -> None:
    """G03: by the error, whatever the status."""
    with pytest.raises(ProviderRejected) as caught:
        parse_revocation_answer(status, json.dumps({"error": code}).encode())
    assert caught.value.error == code


@pytest.mark.parametrize("status", [302, 400, 403, 429, 500, 503])
def test_an_unintelligible_revocation_is_transient(status: int) -> None:
    """G03: 503, garbage, a redirect."""
    with pytest.raises(ProviderUnavailable):
        parse_revocation_answer(status, b"<html>")
