"""`GET /auth/session`: what a front end may know."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from browsing import cookies_set
from flask.testing import FlaskClient

from flask_cognito_rotate.local import Fault, LocalUserPool


@pytest.fixture
def signed_in(client: FlaskClient, sign_in: Any) -> FlaskClient:
    sign_in(client)
    return client


def test_nobody(client: FlaskClient) -> None:
    """E15: 200 and an empty object."""
    response = client.get("/auth/session")

    assert (response.status_code, response.json) == (200, {})
    assert response.mimetype == "application/json"
    assert not cookies_set(response)


def test_somebody(signed_in: FlaskClient, clock: Any) -> None:
    """E15: who it is and how long, and no token at all."""
    response = signed_in.get("/auth/session")

    assert set(response.json) == {"user", "expires"}
    assert set(response.json["user"]) == {"id", "name", "email", "image"}
    assert response.json["user"]["email"] == "alice@example.com"
    expires = datetime.fromisoformat(response.json["expires"])
    assert expires == datetime.fromtimestamp(clock() + 2_592_000, UTC)


def test_headers(signed_in: FlaskClient) -> None:
    """E13, E15: for this browser alone, kept by nobody, open to no other origin."""
    response = signed_in.get(
        "/auth/session", headers={"Origin": "https://evil.example"}
    )

    assert response.headers["Cache-Control"] == "private, no-store"
    assert "Cookie" in response.headers["Vary"]
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert not [name for name, _ in response.headers if name.startswith("Access-")]


def test_access_token_only_on_demand(
    make_app: Any, sign_in: Any, pool: LocalUserPool, clock: Any
) -> None:
    """E15: `COGNITO_EXPOSE_ACCESS_TOKEN` answers the access token, and never more."""
    client = make_app(COGNITO_EXPOSE_ACCESS_TOKEN="true").test_client()
    sign_in(client)
    stored = client.get("/private").json

    response = client.get("/auth/session")

    assert response.json["accessToken"] == stored["accessToken"]
    assert stored["refreshToken"] not in response.text

    clock.advance(3600)
    pool.faults.queue("token.refresh_token", Fault(status=500))
    assert "accessToken" not in client.get("/auth/session").json


def test_it_refreshes_when_due(
    signed_in: FlaskClient, pool: LocalUserPool, clock: Any
) -> None:
    """A front end that asks for the session keeps it fresh."""
    clock.advance(3600)

    response = signed_in.get("/auth/session")

    assert "error" not in response.json
    assert pool.counters["token.refresh_token"] == 1
    assert cookies_set(response)


def test_transient_failure(
    signed_in: FlaskClient, pool: LocalUserPool, clock: Any
) -> None:
    """200 still, with `error` and `retryAfter` beside the user."""
    clock.advance(3600)
    pool.faults.queue(
        "token.refresh_token", Fault(status=503, headers={"Retry-After": "7"})
    )

    response = signed_in.get("/auth/session")

    assert response.status_code == 200
    assert response.json["error"] == "RefreshAccessTokenError"
    assert response.json["retryAfter"] == 7
    assert response.json["user"]["email"] == "alice@example.com"


def test_final_failure(signed_in: FlaskClient, pool: LocalUserPool, clock: Any) -> None:
    """`error` without `retryAfter`: only a new login helps."""
    clock.advance(3600)
    pool.revoke_all()

    session = signed_in.get("/auth/session").json

    assert session["error"] == "RefreshAccessTokenError"
    assert "retryAfter" not in session
    assert session["user"]["email"] == "alice@example.com"


def test_head(signed_in: FlaskClient) -> None:
    """E13: HEAD carries the same headers."""
    response = signed_in.head("/auth/session")

    assert response.status_code == 200
    assert response.headers["Cache-Control"] == "private, no-store"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_other_methods(signed_in: FlaskClient, method: str) -> None:
    """Nothing is changed through this route."""
    assert signed_in.open("/auth/session", method=method).status_code == 405


def test_prefix(make_app: Any, sign_in: Any) -> None:
    """`COGNITO_URL_PREFIX` moves all routes."""
    client = make_app(COGNITO_URL_PREFIX="/me").test_client()

    assert client.get("/me/session").json == {}
    assert client.get("/auth/session").status_code == 404
