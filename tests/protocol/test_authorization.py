"""The authorization request, its answer and the logout URL."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_cognito_rotate.errors import LoginError
from flask_cognito_rotate.model import ProviderMetadata, Transaction
from flask_cognito_rotate.protocol.authorization import (
    RESERVED_PARAMETERS,
    CallbackAnswer,
    authorize_url,
    callback_state,
    check_issuer,
    logout_url,
    new_transaction,
    parse_callback,
)

METADATA = ProviderMetadata(
    issuer="https://op.example/pool",
    authorization_endpoint="https://login.example/oauth2/authorize",
    token_endpoint="https://login.example/oauth2/token",
    jwks_uri="https://op.example/pool/jwks",
    revocation_endpoint="https://login.example/oauth2/revoke",
    end_session_endpoint="https://login.example/logout",
)
REDIRECT_URI = "https://app.example/auth/callback"
GOOD = {"state": ["s" * 24], "code": ["the-code"]}


def begin() -> Transaction:
    return new_transaction(
        next="/home",
        redirect_uri=REDIRECT_URI,
        now=1000.9,
        token=secrets.token_urlsafe,
    )


def query_of(url: str) -> dict[str, list[str]]:
    return parse_qs(urlsplit(url).query, strict_parsing=True)


def request(**extra: str) -> dict[str, list[str]]:
    url = authorize_url(
        METADATA,
        begin(),
        client_id="client",
        scopes=["openid", "email"],
        extra=extra,
    )
    return query_of(url)


def test_a_login_asks_for_a_code_with_every_protection_on() -> None:
    """A01: the parameters of RFC 6749, PKCE and OpenID Connect, each once."""
    transaction = begin()
    url = authorize_url(METADATA, transaction, client_id="client", scopes=["openid"])
    challenge = hashlib.sha256(transaction.code_verifier.encode()).digest()
    assert url.startswith("https://login.example/oauth2/authorize?")
    assert query_of(url) == {
        "response_type": ["code"],
        "client_id": ["client"],
        "redirect_uri": [REDIRECT_URI],
        "scope": ["openid"],
        "state": [transaction.state],
        "nonce": [transaction.nonce],
        "code_challenge": [base64.urlsafe_b64encode(challenge).decode().rstrip("=")],
        "code_challenge_method": ["S256"],
    }
    assert transaction.code_verifier not in url


def test_a_thousand_logins_share_nothing() -> None:
    """A02: verifiers are 43 unreserved characters, and every value is fresh."""
    logins = [begin() for _ in range(1000)]
    assert all(re.fullmatch(r"[A-Za-z0-9._~-]{43}", t.code_verifier) for t in logins)
    assert all(len(t.state) >= 22 and len(t.nonce) >= 22 for t in logins)
    values = [v for t in logins for v in (t.state, t.nonce, t.code_verifier)]
    assert len(set(values)) == 3000


def test_a_transaction_remembers_where_it_began_and_hides_its_secrets() -> None:
    transaction = begin()
    assert (transaction.next, transaction.created) == ("/home", 1000)
    assert transaction.redirect_uri == REDIRECT_URI
    assert transaction.state not in repr(transaction)
    assert transaction.code_verifier not in repr(transaction)


def test_scopes_are_separated_by_one_space() -> None:
    assert request()["scope"] == ["openid email"]


def test_extra_parameters_arrive_unchanged() -> None:
    sent = request(login_hint="a+b@example.com", lang="de", resource="https://api/?x=1")
    assert sent["login_hint"] == ["a+b@example.com"]
    assert sent["resource"] == ["https://api/?x=1"]


@pytest.mark.parametrize("name", ["uri", "params", "self", "fragment"])
def test_an_extra_parameter_may_be_named_like_a_python_argument(name: str) -> None:
    assert request(**{name: "x"})[name] == ["x"]


@pytest.mark.parametrize("name", sorted(RESERVED_PARAMETERS))
def test_an_extra_parameter_cannot_override_the_protocol(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        request(**{name: "mine"})


def test_every_parameter_that_we_send_is_reserved() -> None:
    assert set(request()) <= RESERVED_PARAMETERS


def test_a_query_in_the_authorization_endpoint_is_kept() -> None:
    metadata = dataclasses.replace(
        METADATA, authorization_endpoint="https://login.example/a?tenant=1&empty="
    )
    url = authorize_url(metadata, begin(), client_id="client", scopes=["openid"])
    query = parse_qs(urlsplit(url).query, keep_blank_values=True)
    assert (query["tenant"], query["empty"]) == (["1"], [""])
    assert query["response_type"] == ["code"]


def test_a_good_answer_is_state_and_code() -> None:
    answer = parse_callback(GOOD)
    assert answer == CallbackAnswer(state="s" * 24, code="the-code", iss=None)
    assert "the-code" not in repr(answer)
    assert "s" * 24 not in repr(answer)


BAD_ANSWERS: dict[str, Mapping[str, Sequence[str]]] = {
    "A03-state-missing": {"code": ["c"]},
    "A03-state-empty": {**GOOD, "state": [""]},
    "A03-state-no-values": {**GOOD, "state": []},
    "A03-state-too-long": {**GOOD, "state": ["s" * 201]},
    "A03-state-odd": {**GOOD, "state": ["s\r\nSet-Cookie: a"]},
    "A03-state-newline-at-the-end": {**GOOD, "state": ["s\n"]},
    "A03-state-twice": {**GOOD, "state": ["s", "s"]},
    "A03-code-missing": {"state": ["s"]},
    "A03-code-empty": {**GOOD, "code": [""]},
    "A03-code-too-long": {**GOOD, "code": ["c" * 2049]},
    "A03-code-twice": {**GOOD, "code": ["c", "c"]},
    "A03-code-not-ascii": {**GOOD, "code": ["ç"]},
    "A03-nothing": {},
    "A09-error": {"error": ["access_denied"], "state": ["ok"]},
    "A09-error-without-state": {"error": ["access_denied"]},
    "A09-error-and-code": {**GOOD, "error": ["access_denied"]},
    "A09-error-empty": {**GOOD, "error": [""]},
    "A09-error-twice": {**GOOD, "error": ["a", "b"]},
    "A12-iss-twice": {**GOOD, "iss": ["a", "a"]},
}


@pytest.mark.parametrize("args", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_case(args: Mapping[str, Sequence[str]]) -> None:
    """A bad answer never yields a code."""
    with pytest.raises(LoginError):
        parse_callback(args)


def refusal(error: str, description: str | None = None) -> str:
    args = {"error": [error], "state": ["s"]}
    if description is not None:
        args["error_description"] = [description]
    with pytest.raises(LoginError) as caught:
        parse_callback(args)
    return str(caught.value)


def test_the_providers_reason_is_passed_on() -> None:
    """A09: an error and its description make the message."""
    message = refusal("invalid_request", "PreSignUp failed with error No.")
    assert message == (
        "The provider refused the login:"
        " invalid_request (PreSignUp failed with error No.)"
    )
    assert "no reason given" in refusal("")


@pytest.mark.parametrize(
    "description",
    [
        "a\r\nlevel=ERROR forged",
        "\x1b[2J\x1b[31mred",
        "\x1b]0;title\x07",
        "\x9b31m",
        "\u202egnp.exe",
        "a\u2028b\u2029c\x85d",
        "\ud800",
        "\x00\x00",
        "x" * 1_000_000,
    ],
    ids=["crlf", "ansi", "osc", "c1", "bidi", "lines", "surrogate", "nul", "1MB"],
)
def test_the_providers_reason_is_one_short_line(description: str) -> None:
    """A10, J03: nothing in it moves a cursor or begins a line."""
    message = refusal("access_denied", description)
    assert len(message) <= 200
    assert message.isprintable()
    assert "[31m" not in message or "\x9b" in description


@given(st.dictionaries(st.sampled_from(list(GOOD)), st.lists(st.text(), max_size=3)))
def test_any_answer_is_read_or_refused(args: dict[str, list[str]]) -> None:
    """Whatever the query holds, there is an answer or a LoginError."""
    try:
        answer = parse_callback(args)
    except LoginError:
        return
    assert callback_state(args) == answer.state


@given(st.text(), st.text())
def test_any_refusal_is_one_short_line(error: str, description: str) -> None:
    message = refusal(error, description)
    assert len(message) <= 200
    assert message.isprintable()


def test_the_state_is_found_beside_an_error() -> None:
    """A09: so that the pending login can be removed."""
    assert callback_state({"error": ["access_denied"], "state": ["ok"]}) == "ok"


@pytest.mark.parametrize("values", [[], [""], ["a", "b"], ["s" * 201], ["a b"]])
def test_an_implausible_state_is_none(values: list[str]) -> None:
    assert callback_state({"state": values}) is None


@pytest.mark.parametrize(
    ("iss", "sends_iss", "accepted"),
    [
        ("https://op.example/pool", False, True),
        ("https://op.example/pool", True, True),
        (None, False, True),
        (None, True, False),
        ("https://op.example/pool1", False, False),
        ("https://op.example/poo", False, False),
        ("https://op.example/pool/", True, False),
        ("HTTPS://op.example/pool", True, False),
        ("", False, False),
    ],
)
def test_case_a12_iss(iss: str | None, sends_iss: bool, accepted: bool) -> None:
    """A12: another issuer, or none where one is promised, is refused."""
    answer = CallbackAnswer(state="s", code="c", iss=iss)
    metadata = dataclasses.replace(METADATA, sends_iss=sends_iss)
    if accepted:
        check_issuer(answer, metadata)
        return
    with pytest.raises(LoginError):
        check_issuer(answer, metadata)


def test_logout_is_cognitos_own() -> None:
    """G02: client_id and logout_uri, and nothing of RP-Initiated Logout."""
    url = logout_url(
        METADATA, client_id="client", logout_uri="https://app.example/?a=1"
    )
    assert url.startswith("https://login.example/logout?")
    assert query_of(url) == {
        "client_id": ["client"],
        "logout_uri": ["https://app.example/?a=1"],
    }
