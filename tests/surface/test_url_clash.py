"""Routes and names that are taken already are named."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import SECRET_KEY
from flask import Blueprint, Flask

from flask_cognito_rotate import CognitoAuth, ConfigurationError
from flask_cognito_rotate.local import LocalUserPool


@pytest.fixture
def bare(pool: LocalUserPool) -> Flask:
    app = Flask("bare")
    app.config.update(pool.config(), SECRET_KEY=SECRET_KEY, COGNITO_CACHE="memory:")
    return app


@pytest.mark.parametrize("name", ["login", "callback", "logout", "session"])
def test_taken_route(bare: Flask, name: str) -> None:
    """The message names the route, the endpoint that has it, and the remedy."""
    bare.add_url_rule(f"/auth/{name}", "mine", lambda: "mine")

    with pytest.raises(ConfigurationError) as caught:
        CognitoAuth(bare)

    (problem,) = caught.value.problems
    assert f"/auth/{name}" in problem
    assert "'mine'" in problem
    assert "COGNITO_URL_PREFIX" in problem


def test_all_taken_routes_at_once(bare: Flask) -> None:
    """Every clash is reported, not the first alone."""
    bare.add_url_rule("/auth/login", "one", lambda: "")
    bare.add_url_rule("/auth/logout", "two", lambda: "")

    with pytest.raises(ConfigurationError) as caught:
        CognitoAuth(bare)

    assert len(caught.value.problems) == 2


def test_another_prefix_helps(bare: Flask) -> None:
    """`COGNITO_URL_PREFIX` makes room."""
    bare.add_url_rule("/auth/login", "mine", lambda: "mine")
    bare.config["COGNITO_URL_PREFIX"] = "/cognito"
    CognitoAuth(bare)
    client = bare.test_client()

    assert client.get("/auth/login").text == "mine"
    assert client.get("/cognito/login").status_code == 302


def test_taken_blueprint(bare: Flask) -> None:
    """Another blueprint called `cognito` is named."""
    bare.register_blueprint(Blueprint("cognito", __name__))

    with pytest.raises(ConfigurationError, match="cognito"):
        CognitoAuth(bare)


def test_failed_start_leaves_nothing_behind(bare: Flask) -> None:
    """After the mistake is mended, the same application can be set up."""
    bare.config["COGNITO_HTTP_TIMEOUT"] = "soon"
    with pytest.raises(ConfigurationError):
        CognitoAuth(bare)
    bare.config["COGNITO_HTTP_TIMEOUT"] = 1

    CognitoAuth(bare)

    assert bare.test_client().get("/auth/session").json == {}


def test_registered_twice(app: Flask) -> None:
    """A second `init_app` says what to do."""
    with pytest.raises(ConfigurationError, match="once"):
        CognitoAuth(app)


def test_csrf_protection_exempts_our_routes(bare: Flask) -> None:
    """Where Flask-WTF is on, our own check is the one that counts."""

    class Csrf:
        exempted: list[Any] = []

        def exempt(self, view: Any) -> None:
            self.exempted.append(view)

    bare.extensions["csrf"] = csrf = Csrf()
    auth = CognitoAuth(bare)

    with bare.app_context():
        assert csrf.exempted == [auth.blueprint]


def test_a_route_that_comes_later_is_named_at_the_first_request(
    app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    app.add_url_rule("/auth/session", "mine", lambda: "mine")
    client = app.test_client()

    client.get("/")
    client.get("/")

    named = [r for r in caplog.records if "'mine'" in r.getMessage()]
    assert [record.levelname for record in named] == ["ERROR"]
