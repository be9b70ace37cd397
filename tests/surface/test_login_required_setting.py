"""`COGNITO_LOGIN_REQUIRED`: every view is closed but those that are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from browsing import NAVIGATE, SCRIPT
from flask import Blueprint, Flask
from flask.testing import FlaskClient

from flask_cognito_rotate import login_exempt


def build(make_app: Any, **settings: Any) -> Flask:
    app: Flask = make_app(COGNITO_LOGIN_REQUIRED=True, **settings)
    docs = Blueprint(
        "docs",
        __name__,
        static_folder=str(Path(__file__).parent),
        static_url_path="/static",
        url_prefix="/docs",
    )
    docs.add_url_rule("/", "index", lambda: "docs")
    docs.add_url_rule("/deep", "deep", lambda: "deep")
    app.register_blueprint(docs)
    app.add_url_rule("/healthz", "healthz", lambda: "ok")
    app.add_url_rule("/open", "open", login_exempt(lambda: "open"))
    app.add_url_rule("/slash/", "slash", lambda: "slash")
    return app


@pytest.fixture
def client(make_app: Any) -> FlaskClient:
    return build(make_app).test_client()


def test_views_are_closed(client: FlaskClient, sign_in: Any) -> None:
    """A view without a decorator asks for a login, as with `login_required`."""
    assert client.get("/healthz?a=b", headers=NAVIGATE).location == (
        "/auth/login?next=/healthz?a%3Db"
    )
    assert client.get("/healthz", headers=SCRIPT).status_code == 401
    sign_in(client)
    assert client.get("/healthz").text == "ok"


def test_own_routes_stay_open(client: FlaskClient) -> None:
    """Nobody has to be signed in to sign in."""
    assert client.get("/auth/login").status_code == 302
    assert client.get("/auth/callback").status_code == 400
    assert client.get("/auth/logout").status_code == 200
    assert client.get("/auth/session", headers=SCRIPT).json == {}


@pytest.mark.parametrize(
    "path", ["/auth/static/cognito_rotate.css", f"/docs/static/{Path(__file__).name}"]
)
def test_static_files_stay_open(client: FlaskClient, path: str) -> None:
    """`static` endpoints, those of blueprints too, need no login."""
    with client.get(path, headers=SCRIPT) as response:
        assert response.status_code == 200


def test_decorated_views_stay_open(client: FlaskClient) -> None:
    """`@login_exempt` takes a view out."""
    assert client.get("/open", headers=SCRIPT).text == "open"


@pytest.mark.parametrize(
    "setting", [["healthz", "docs.*"], "healthz docs.*", '["healthz", "docs.*"]']
)
def test_named_endpoints_stay_open(make_app: Any, setting: Any) -> None:
    """`COGNITO_LOGIN_EXEMPT` takes endpoint patterns, as a list or as text."""
    client = build(make_app, COGNITO_LOGIN_EXEMPT=setting).test_client()

    assert client.get("/healthz", headers=SCRIPT).text == "ok"
    assert client.get("/docs/deep", headers=SCRIPT).text == "deep"
    assert client.get("/slash/", headers=SCRIPT).status_code == 401


def test_errors_of_routing_pass(client: FlaskClient) -> None:
    """404, 405 and the redirect to a trailing slash are Flask's own answers."""
    assert client.get("/nothing", headers=SCRIPT).status_code == 404
    assert client.post("/healthz", headers=SCRIPT).status_code == 405
    assert client.get("/slash", headers=SCRIPT).status_code == 308


def test_automatic_options_pass(client: FlaskClient) -> None:
    """G09: a preflight, which carries no cookie, is answered."""
    response = client.options("/healthz")

    assert response.status_code == 200
    assert "GET" in response.headers["Allow"]


def test_exempt_view_opens_the_session_lazily(
    make_app: Any, sign_in: Any, pool: Any, clock: Any
) -> None:
    """An exempt view that does not read the session neither refreshes nor varies."""
    client = build(make_app).test_client()
    sign_in(client)
    clock.advance(3600)

    response = client.get("/open")

    assert "Vary" not in response.headers
    assert pool.counters["token.refresh_token"] == 0
