"""One `CognitoAuth`, several applications."""

from __future__ import annotations

from typing import Any

import pytest
from browsing import NAVIGATE, cookie_names, put_cookies, session_cookies, twin
from flask import Flask
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

from flask_cognito_rotate import CognitoAuth, current_session
from flask_cognito_rotate.local import LocalUserPool


@pytest.fixture
def auth(clock: Any) -> CognitoAuth:
    return CognitoAuth(clock=clock)


def test_each_has_its_own_settings(make_app: Any, auth: CognitoAuth) -> None:
    """What belongs to one application does not show in another."""
    one: Flask = make_app(auth=auth)
    other: Flask = make_app(
        auth=auth, COGNITO_URL_PREFIX="/me", COGNITO_SCOPES="openid"
    )

    assert one.test_client().get("/auth/session").status_code == 200
    assert one.test_client().get("/me/session").status_code == 404
    assert other.test_client().get("/me/session").status_code == 200
    assert "scope=openid&" in other.test_client().get("/me/login").location
    assert one.extensions["cognito_rotate"] is not other.extensions["cognito_rotate"]


def test_sessions_do_not_mix(make_app: Any, auth: CognitoAuth, sign_in: Any) -> None:
    """A login at one application is no login at another one of another key."""
    one: Flask = make_app(auth=auth)
    other: Flask = make_app(auth=auth, SECRET_KEY="another key of thirty-two bytes.")
    client = one.test_client()
    sign_in(client)

    assert client.get("/auth/session").json
    assert twin(client, other).get("/auth/session").json == {}


def test_cookie_of_another_pool_is_nobody(
    make_app: Any, auth: CognitoAuth, sign_in: Any, clock: Any
) -> None:
    """The seal is bound to issuer and client id, whatever the cookie's name."""
    one: Flask = make_app(auth=auth, COGNITO_COOKIE_NAME="same")
    client = one.test_client()
    sign_in(client)
    with LocalUserPool(pool_id="local_Other1234", clock=clock) as second:
        other: Flask = make_app(
            auth=auth, COGNITO_COOKIE_NAME="same", **second.config()
        )
        visitor = other.test_client()
        put_cookies(visitor, session_cookies(client))

        assert visitor.get("/auth/session").json == {}
        assert session_cookies(visitor) == session_cookies(client)


def test_callbacks_are_shared(make_app: Any, auth: CognitoAuth, sign_in: Any) -> None:
    """Callbacks belong to the object, and so to all its applications."""
    auth.session_callback(lambda session, *, token: {"hello": "there"})

    for app in (make_app(auth=auth), make_app(auth=auth)):
        client = app.test_client()
        sign_in(client)
        assert client.get("/auth/session").json == {"hello": "there"}


def test_application_without_the_extension() -> None:
    """Whoever forgot `init_app` is told so."""
    app = Flask("plain")

    with app.test_request_context(), pytest.raises(RuntimeError, match="init_app"):
        current_session.user  # noqa: B018


def test_mounted_side_by_side(
    make_app: Any, auth: CognitoAuth, pool: LocalUserPool
) -> None:
    """Two applications below one host keep their cookies apart, by path and name."""
    shop: Flask = make_app(auth=auth, APPLICATION_ROOT="/shop")
    blog: Flask = make_app(auth=auth, APPLICATION_ROOT="/blog")
    both = DispatcherMiddleware(_nothing, {"/shop": shop, "/blog": blog})
    browser = Client(both)

    begun = browser.get("/shop/auth/login?next=/shop/private")
    back = pool.sign_in(None, begun.location)
    response = browser.get(back.removeprefix("http://localhost"))

    assert back.startswith("http://localhost/shop/auth/callback?")
    assert response.location == "/shop/private"
    cookie = browser.get_cookie(cookie_names(shop)[0], path="/shop")
    assert cookie is not None
    assert browser.get("/shop/private").status_code == 200
    assert browser.get("/blog/private", headers=NAVIGATE).location == (
        "/blog/auth/login?next=/blog/private"
    )


def _nothing(environ: Any, start_response: Any) -> list[bytes]:
    start_response("404 Not Found", [])
    return []
