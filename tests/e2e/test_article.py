"""The article's behaviour, to the letter: what is sent, stored, answered and logged."""

from __future__ import annotations

import base64
import logging
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from flask_cognito_rotate.local import Fault, LocalUserPool

REFRESH = "token.refresh_token"


@pytest.fixture
def signed_in(client: FlaskClient, sign_in: Any) -> FlaskClient:
    sign_in(client)
    return client


def log_of(caplog: Any) -> list[str]:
    """Return the DEBUG lines of our logger."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "flask_cognito_rotate" and record.levelno == logging.DEBUG
    ]


def test_refresh_request_on_the_wire(
    signed_in: FlaskClient, pool: LocalUserPool, clock: Any
) -> None:
    """D28: POST, form-encoded, Basic credentials, `client_id` too, the secret once."""
    clock.advance(3600)
    signed_in.get("/private")

    (sent,) = [r for r in pool.requests if r.form.get("grant_type") == "refresh_token"]
    credentials = f"{pool.client_id}:{pool.client_secret}"
    assert sent.method == "POST"
    assert sent.headers["Content-Type"].startswith("application/x-www-form-urlencoded")
    expected = "Basic " + base64.b64encode(credentials.encode()).decode()
    assert sent.headers["Authorization"] == expected
    assert sorted(sent.fields) == ["client_id", "grant_type", "refresh_token"]
    assert sent.form["client_id"] == pool.client_id
    assert pool.client_secret not in sent.form.values()
    assert not sent.query
    assert not pool.complaints


def test_public_client_sends_no_credentials(
    make_app: Any, sign_in: Any, pool: LocalUserPool, clock: Any
) -> None:
    """D28: an app client without a secret names itself in the form alone."""
    pool.client_secret = None
    client = make_app(COGNITO_CLIENT_SECRET=None).test_client()
    sign_in(client)
    clock.advance(3600)

    assert client.get("/private").status_code == 200
    (sent,) = [r for r in pool.requests if r.form.get("grant_type") == "refresh_token"]
    assert "Authorization" not in sent.headers
    assert sent.form["client_id"] == pool.client_id


def test_expiry_is_now_plus_expires_in(
    signed_in: FlaskClient, pool: LocalUserPool, clock: Any
) -> None:
    """`expires_in` is added to now, rounded down, as UNIX seconds."""
    clock.advance(3600.9)
    pool.faults.queue(REFRESH, Fault(edit=lambda a: {**a, "expires_in": 1800}))

    assert signed_in.get("/private").json["expires"] == int(clock()) + 1800


def test_failure_is_told_by_its_name(
    signed_in: FlaskClient, pool: LocalUserPool, clock: Any
) -> None:
    """The session answers `RefreshAccessTokenError`, for the front end and the view."""
    clock.advance(3600)
    pool.faults.always(REFRESH, Fault(status=500))

    assert signed_in.get("/auth/session").json["error"] == "RefreshAccessTokenError"
    assert signed_in.get("/").json["error"] == "RefreshAccessTokenError"


def test_session_answers_what_the_article_shows(
    make_app: Any, sign_in: Any, clock: Any
) -> None:
    """With `COGNITO_EXPOSE_ACCESS_TOKEN` the front end reads `session.accessToken`."""
    client = make_app(COGNITO_EXPOSE_ACCESS_TOKEN=True).test_client()
    sign_in(client)
    stored = client.get("/private").json

    session = client.get("/auth/session").json

    assert set(session) == {"user", "expires", "accessToken"}
    assert session["accessToken"] == stored["accessToken"]
    assert session["user"] == stored["user"]
    assert set(session["user"]) == {"id", "name", "email", "image"}
    assert session["expires"].endswith("Z")


def test_log_shows_expired_refreshed_available(
    signed_in: FlaskClient, pool: LocalUserPool, clock: Any, caplog: Any
) -> None:
    """The three lines of the article's log, with the seconds filled in."""
    caplog.set_level(logging.DEBUG, "flask_cognito_rotate")
    first = int(clock()) + 3600

    signed_in.get("/private")
    clock.advance(3600)
    signed_in.get("/private")
    second = int(clock()) + 3600
    signed_in.get("/private")

    assert log_of(caplog) == [
        f"Token available (expired at: {first})",
        f"Token expired at {first}. Trying to refresh...",
        f"Token refreshed (expired at: {second})",
        f"Token available (expired at: {second})",
    ]


def test_session_lives_for_thirty_days(
    signed_in: FlaskClient, pool: LocalUserPool, clock: Any, app: Flask
) -> None:
    """Nobody who comes back within thirty days signs in again."""
    pool.refresh_token_validity = 90 * 86_400
    clock.advance(2_592_000 - 1)

    assert signed_in.get("/auth/session").json["user"]["email"] == "alice@example.com"

    clock.advance(2_592_000)
    assert signed_in.get("/auth/session").json == {}


@pytest.mark.parametrize(
    "missing", ["COGNITO_ISSUER", "COGNITO_CLIENT_ID", "SECRET_KEY"]
)
def test_missing_setting_stops_the_start(make_app: Any, missing: str) -> None:
    """What the provider needs and is not there is named when the app starts."""
    from flask_cognito_rotate import ConfigurationError

    with pytest.raises(ConfigurationError, match=missing):
        make_app(**{missing: None})
