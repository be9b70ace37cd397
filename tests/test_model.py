"""The values between the layers: a JSON form that comes back, and a silent repr."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sessions_data import STORED_TOKENS, real_session

from flask_cognito_rotate.model import (
    REFRESH_ERROR,
    STORED_NAMES,
    StoredToken,
    Tokens,
    Transaction,
    user_of,
)

TOKENS = Tokens(
    access_token="the-access-token",
    expires_at=1_700_003_600,
    refresh_token="the-refresh-token",
    id_token="the-id-token",
    scope="openid",
)


@given(STORED_TOKENS)
@settings(max_examples=50)
def test_the_json_form_comes_back(token: StoredToken) -> None:
    assert StoredToken.from_dict(json.loads(json.dumps(token.to_dict()))) == token


@given(STORED_TOKENS)
@settings(max_examples=20)
def test_the_json_form_uses_nextauth_s_names(token: StoredToken) -> None:
    document = token.to_dict()
    assert set(document) >= STORED_NAMES
    assert document["accessToken"] == token.access_token
    assert document["accessTokenExpires"] == token.access_token_expires


def test_additions_cannot_take_the_place_of_what_is_stored() -> None:
    token = real_session(extra={"accessToken": "forged", "mine": 1}).token
    document = token.to_dict()
    assert document["accessToken"] == token.access_token
    assert StoredToken.from_dict(document).extra == {"mine": 1}


@pytest.mark.parametrize("name", sorted(STORED_NAMES))
def test_a_form_that_lacks_a_name_is_a_key_error(name: str) -> None:
    document = real_session().token.to_dict()
    del document[name]
    with pytest.raises(KeyError):
        StoredToken.from_dict(document)


def test_new_tokens_replace_the_old_ones_whole() -> None:
    before = real_session(error=REFRESH_ERROR).token
    after = before.with_tokens(TOKENS)
    assert after.access_token == "the-access-token"
    assert after.access_token_expires == 1_700_003_600
    assert after.refresh_token == "the-refresh-token"
    assert after.error is None
    assert (after.sid, after.iat, after.user) == (before.sid, before.iat, before.user)


def test_without_rotation_the_refresh_token_stays() -> None:
    """D02: an answer without a refresh token."""
    before = real_session().token
    after = before.with_tokens(Tokens(access_token="new", expires_at=1))
    assert after.refresh_token == before.refresh_token
    assert after.id_token_claims == before.id_token_claims


def test_a_finished_session_keeps_its_user_and_no_token() -> None:
    over = real_session().token.without_tokens()
    assert over.access_token is None
    assert over.refresh_token is None
    assert over.error == REFRESH_ERROR
    assert over.user["email"] == "alice.example@subsidiary.example.com"


def test_no_repr_shows_a_secret() -> None:
    """J01: a value in a log record or a traceback gives nothing away."""
    token = real_session(extra={"mine": "an-addition"}).token
    transaction = Transaction(
        state="the-state",
        nonce="the-nonce",
        code_verifier="the-verifier",
        next="/next",
        redirect_uri="https://app/auth/callback",
        created=1,
    )
    shown = repr(token) + repr(transaction) + repr(TOKENS)
    for secret in (
        token.sid,
        token.access_token,
        token.refresh_token,
        "alice",
        "an-addition",
        "the-state",
        "the-nonce",
        "the-verifier",
        "the-access-token",
        "the-refresh-token",
        "the-id-token",
    ):
        assert secret is not None and secret not in shown


def test_values_are_frozen() -> None:
    token = real_session().token
    for field in fields(token):
        with pytest.raises(FrozenInstanceError):
            setattr(token, field.name, None)


@given(st.dictionaries(st.text(max_size=10), st.text(max_size=10), max_size=5))
def test_a_user_always_has_the_same_four_names(claims: dict[str, str]) -> None:
    assert list(user_of(claims)) == ["id", "name", "email", "image"]


def test_a_user_without_a_name_goes_by_the_user_name() -> None:
    claims = {"sub": "s", "cognito:username": "alice", "email": "a@b", "picture": "p"}
    expected = {"id": "s", "name": "alice", "email": "a@b", "image": "p"}
    assert user_of(claims) == expected
    assert user_of({**claims, "name": "Alice"})["name"] == "Alice"
