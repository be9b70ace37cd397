"""What tests share: a clock to move, a local user pool, and applications on it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import settings
from werkzeug.test import TestResponse

from flask_cognito_rotate import CognitoAuth, current_session, login_required
from flask_cognito_rotate.local import LocalUserPool

# How long an example takes says more about the machine's load than about the code.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")

SECRET_KEY = "0123456789abcdef0123456789abcdef"


class Clock:
    """UNIX seconds that stand still until a test moves them."""

    def __init__(self) -> None:
        self.now = float(int(time.time()))

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the settings of whoever runs the tests out of them."""
    for name in [name for name in os.environ if name.startswith("COGNITO_")]:
        if name != "COGNITO_ROTATE_REQUIRE_ALL":
            monkeypatch.delenv(name)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pool(clock: Clock) -> Iterator[LocalUserPool]:
    """A local user pool with strict rotation: grace 0, tokens of an hour."""
    with LocalUserPool(clock=clock) as pool:
        yield pool


MakeApp = Callable[..., Flask]


@pytest.fixture
def make_app(pool: LocalUserPool, clock: Clock, tmp_path: Path) -> MakeApp:
    """Make applications that share one cache; keywords are settings.

    ``auth=`` takes a `CognitoAuth` that was prepared with callbacks.
    """

    def make(*, auth: CognitoAuth | None = None, **settings: Any) -> Flask:
        app = Flask("example", instance_path=str(tmp_path / "instance"))
        app.testing = True
        app.config.update(pool.config(), SECRET_KEY=SECRET_KEY)
        app.config.update(settings)
        (auth or CognitoAuth(clock=clock)).init_app(app)
        app.add_url_rule("/", "index", _index)
        app.add_url_rule("/private", "private", login_required(_private))
        return app

    return make


def _index() -> dict[str, Any]:
    return {"user": current_session.user, "error": current_session.error}


def _private() -> dict[str, Any]:
    return {
        "user": current_session.user,
        "accessToken": current_session.access_token,
        "expires": current_session.access_token_expires,
        "refreshToken": current_session.refresh_token,
    }


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    return make_app()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


SignIn = Callable[..., TestResponse]


@pytest.fixture
def sign_in(pool: LocalUserPool) -> SignIn:
    """Sign a test client in over HTTP; returns the callback's response."""

    def sign_in(
        client: FlaskClient, email: str = "alice@example.com", next: str = "/"
    ) -> TestResponse:
        begun = client.get("/auth/login", query_string={"next": next})
        assert begun.status_code == 302, begun.text
        return client.get(pool.sign_in(None, begun.location, email))

    return sign_in
