"""`jwt_callback`, `session_callback`, `error_handler`, and `app.errorhandler`."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from browsing import NAVIGATE, SCRIPT, twin
from flask import Flask, jsonify
from flask.testing import FlaskClient
from werkzeug.exceptions import BadRequest, ServiceUnavailable

from flask_cognito_rotate import (
    CognitoAuth,
    CognitoAuthError,
    LoginError,
    ProviderUnavailable,
    RefreshAccessTokenError,
    current_session,
)
from flask_cognito_rotate.local import Fault, LocalUserPool

REFRESH = "token.refresh_token"


@pytest.fixture
def auth(clock: Any) -> CognitoAuth:
    return CognitoAuth(clock=clock)


@pytest.fixture
def app(make_app: Any, auth: CognitoAuth) -> Flask:
    app: Flask = make_app(auth=auth)
    app.add_url_rule("/stored", "stored", lambda: jsonify(dict(current_session)))
    return app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


# jwt_callback


def test_jwt_callback_at_sign_in(
    auth: CognitoAuth, client: FlaskClient, sign_in: Any
) -> None:
    """It gets the token, the provider's account and the user, and adds to the token."""
    calls: list[dict[str, Any]] = []

    @auth.jwt_callback
    def add(token: dict[str, Any], **given: Any) -> dict[str, Any]:
        calls.append({"token": dict(token), **given})
        return {**token, "role": "owner", "tags": ["a", 1, None]}

    sign_in(client)

    (call,) = calls
    stored = client.get("/stored").json
    assert (stored["role"], stored["tags"]) == ("owner", ["a", 1, None])
    assert set(call) == {"token", "account", "user", "trigger", "data"}
    assert (call["trigger"], call["data"]) == ("signIn", None)
    assert call["user"] == stored["user"]
    assert call["token"]["accessToken"] == stored["accessToken"]
    assert call["account"]["provider"] == "cognito"
    assert call["account"]["access_token"] == stored["accessToken"]
    assert call["account"]["refresh_token"] == stored["refreshToken"]
    assert call["account"]["providerAccountId"] == stored["user"]["id"]
    assert call["account"]["id_token"].count(".") == 2


def test_jwt_callback_changes_the_user(
    auth: CognitoAuth, client: FlaskClient, sign_in: Any
) -> None:
    """`user` may be extended; the names that are ours stay ours."""

    @auth.jwt_callback
    def add(token: dict[str, Any], **_: Any) -> dict[str, Any]:
        token["user"]["plan"] = "gold"
        return {**token, "refreshToken": "mine", "sid": "mine", "error": "mine"}

    sign_in(client)

    stored = client.get("/stored").json
    assert stored["user"]["plan"] == "gold"
    assert "mine" not in (stored["refreshToken"], stored["sid"], stored["error"])


def test_jwt_callback_at_a_refresh(
    auth: CognitoAuth,
    client: FlaskClient,
    sign_in: Any,
    pool: LocalUserPool,
    clock: Any,
) -> None:
    """Once, in the request that made the call, with the new token and no account."""
    calls: list[tuple[str, Any, str]] = []

    @auth.jwt_callback
    def count(
        token: dict[str, Any], account: Any, trigger: str, **_: Any
    ) -> dict[str, Any]:
        calls.append((trigger, account, token["accessToken"]))
        return {**token, "count": token.get("count", 0) + 1}

    sign_in(client)
    beside = twin(client)
    clock.advance(3600)
    first = client.get("/stored").json
    second = beside.get("/stored").json

    assert first["count"] == second["count"] == 2
    assert [trigger for trigger, _, _ in calls] == ["signIn", "refresh"]
    assert calls[1][1:] == (None, first["accessToken"])
    assert pool.counters[REFRESH] == 1


def test_additions_survive_a_refresh(
    auth: CognitoAuth, client: FlaskClient, sign_in: Any, clock: Any
) -> None:
    """What was added at sign-in is there after every refresh."""

    @auth.jwt_callback
    def add(token: dict[str, Any], trigger: str, **_: Any) -> dict[str, Any]:
        return {**token, "role": "owner"} if trigger == "signIn" else token

    sign_in(client)
    for _ in range(2):
        clock.advance(3600)
        assert client.get("/stored").json["role"] == "owner"


def test_jwt_callback_refuses_a_login(
    auth: CognitoAuth, client: FlaskClient, sign_in: Any, pool: LocalUserPool
) -> None:
    """`LoginError`: no session, the token revoked, its text on the page, escaped."""

    @auth.jwt_callback
    def refuse(token: dict[str, Any], **_: Any) -> dict[str, Any]:
        raise LoginError("Only <b>members</b>, please.")

    response = sign_in(client)

    assert response.status_code == 400
    assert "Only &lt;b&gt;members&lt;/b&gt;, please." in response.text
    assert client.get("/auth/session").json == {}
    assert pool.live_refresh_tokens() == 0


def test_refused_login_leaves_the_session_before_alone(
    auth: CognitoAuth, client: FlaskClient, sign_in: Any
) -> None:
    """Who is signed in stays signed in when another login fails."""

    @auth.jwt_callback
    def refuse(token: dict[str, Any], user: Any, **_: Any) -> dict[str, Any]:
        if user["email"].startswith("bob"):
            raise LoginError("no")
        return token

    sign_in(client)

    assert sign_in(client, "bob@example.com").status_code == 400
    assert client.get("/stored").json["user"]["email"] == "alice@example.com"


@pytest.mark.parametrize("returned", [None, "token", {"x": object()}, {"x": b"bytes"}])
def test_jwt_callback_that_returns_nonsense(
    auth: CognitoAuth,
    client: FlaskClient,
    sign_in: Any,
    pool: LocalUserPool,
    returned: Any,
) -> None:
    """At sign-in a mistake of the application is its own, and nothing stays behind."""
    auth.jwt_callback(lambda token, **_: returned)

    with pytest.raises(TypeError):
        sign_in(client)
    assert pool.live_refresh_tokens() == 0


def test_jwt_callback_that_fails_at_a_refresh(
    auth: CognitoAuth, client: FlaskClient, sign_in: Any, clock: Any, caplog: Any
) -> None:
    """The tokens stand, earlier additions are kept, and the ERROR is logged."""

    @auth.jwt_callback
    def fail(token: dict[str, Any], trigger: str, **_: Any) -> dict[str, Any]:
        if trigger == "refresh":
            raise LoginError("too late")
        return {**token, "role": "owner"}

    sign_in(client)
    before = client.get("/stored").json
    clock.advance(3600)

    after = client.get("/stored").json

    assert after["accessToken"] != before["accessToken"]
    assert after["role"] == "owner"
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert record.event == "jwt_callback_failed"


def test_jwt_callback_after_a_forced_refresh(
    auth: CognitoAuth, app: Flask, client: FlaskClient, sign_in: Any
) -> None:
    """`refresh(force=True)` runs it as well, and the view sees the result."""
    seen: list[str] = []

    @auth.jwt_callback
    def note(token: dict[str, Any], trigger: str, **_: Any) -> dict[str, Any]:
        return {**token, "last": trigger}

    @app.get("/force")
    def force() -> str:
        current_session.refresh(force=True)
        seen.append(current_session["last"])
        return ""

    sign_in(client)
    client.get("/force")

    assert seen == ["refresh"]
    assert client.get("/stored").json["last"] == "refresh"


# session_callback


def test_session_callback(auth: CognitoAuth, client: FlaskClient, sign_in: Any) -> None:
    """It gets the answer and the whole token, and decides what goes out."""

    @auth.session_callback
    def shape(session: dict[str, Any], *, token: dict[str, Any]) -> dict[str, Any]:
        return {**session, "sub": token["idTokenClaims"]["sub"]}

    assert client.get("/auth/session").json == {}
    sign_in(client)

    session = client.get("/auth/session").json
    assert session["sub"] == session["user"]["id"]


def test_session_callback_is_told_of_errors(
    auth: CognitoAuth,
    client: FlaskClient,
    sign_in: Any,
    pool: LocalUserPool,
    clock: Any,
) -> None:
    """As in the article: `token.error` is there to be copied."""
    auth.session_callback(lambda session, *, token: {"error": token["error"]})
    sign_in(client)
    assert client.get("/auth/session").json == {"error": None}
    clock.advance(3600)
    pool.faults.queue(REFRESH, Fault(status=500))

    session = client.get("/auth/session").json

    assert session == {"error": "RefreshAccessTokenError"}


# error_handler, and the application's own


def test_error_handler_replaces_the_page(
    auth: CognitoAuth, client: FlaskClient
) -> None:
    """`f(error)` answers in the place of our page."""

    @auth.error_handler
    def handle(error: CognitoAuthError) -> Any:
        return f"sorry: {type(error).__name__}", 418

    response = client.get("/auth/callback?error=access_denied")

    assert (response.status_code, response.text) == (418, "sorry: LoginError")
    assert "no-store" in response.headers["Cache-Control"]


def test_error_handler_sees_a_provider_that_is_down(
    auth: CognitoAuth, client: FlaskClient, pool: LocalUserPool
) -> None:
    """A login that cannot start comes to it, too."""
    auth.error_handler(lambda error: (type(error).__name__, 503))
    pool.stop()

    assert client.get("/auth/login").text == "ProviderUnavailable"
    pool.start()


def test_error_handler_replaces_the_page_of_a_guarded_view(
    auth: CognitoAuth,
    client: FlaskClient,
    sign_in: Any,
    pool: LocalUserPool,
    clock: Any,
) -> None:
    """While a refresh is impossible it answers people; scripts get their JSON."""
    auth.error_handler(lambda error: (f"sorry: {type(error).__name__}", 503))
    sign_in(client)
    clock.advance(3600)
    pool.faults.queue(REFRESH, Fault(status=500))

    script = client.get("/private", headers=SCRIPT)
    person = client.get("/private", headers=NAVIGATE)

    assert script.json["error"] == "temporarily_unavailable"
    assert person.text == f"sorry: {RefreshAccessTokenError.__name__}"


@pytest.mark.parametrize("key", [LoginError, CognitoAuthError, BadRequest, 400])
def test_handler_of_the_application_wins(
    auth: CognitoAuth, app: Flask, client: FlaskClient, key: Any
) -> None:
    """`app.errorhandler` for our class, werkzeug's or the code is asked first."""
    auth.error_handler(lambda error: ("ours", 418))
    app.register_error_handler(key, lambda error: ("the application's", 418))

    response = client.get("/auth/callback?error=access_denied")

    assert response.text == "the application's"


@pytest.mark.parametrize("key", [ProviderUnavailable, ServiceUnavailable, 503])
def test_handler_of_the_application_for_a_provider_that_is_down(
    app: Flask, client: FlaskClient, pool: LocalUserPool, key: Any
) -> None:
    """The same for 503; by code, the cause is known."""

    def handle(error: Any) -> Any:
        cause = error if isinstance(error, CognitoAuthError) else error.__cause__
        return type(cause).__name__, 418

    app.register_error_handler(key, handle)
    pool.stop()

    assert client.get("/auth/login").text == "ProviderUnavailable"
    pool.start()


def test_handler_registered_before_the_extension_wins(
    pool: LocalUserPool, clock: Any
) -> None:
    """The order of registration does not matter."""
    from conftest import SECRET_KEY

    app = Flask("early")
    app.config.update(pool.config(), SECRET_KEY=SECRET_KEY, COGNITO_CACHE="memory:")
    app.register_error_handler(CognitoAuthError, lambda error: ("early", 418))
    CognitoAuth(app, clock=clock)

    assert app.test_client().get("/auth/callback?error=x").text == "early"


def test_callbacks_are_decorators_that_return_the_function(auth: CognitoAuth) -> None:
    """The decorated names stay usable."""

    def function(*args: Any, **kwargs: Any) -> Any:
        return None

    assert auth.jwt_callback(function) is function
    assert auth.session_callback(function) is function
    assert auth.error_handler(function) is function


def test_what_jwt_callback_changes_in_place_is_not_stored(
    auth: CognitoAuth, client: FlaskClient, sign_in: Any
) -> None:
    """Claims and identity are the provider's, whatever a callback does to its copy."""

    @auth.jwt_callback
    def meddle(token: dict[str, Any], **_: Any) -> dict[str, Any]:
        token["idTokenClaims"]["cognito:groups"] = ["root"]
        token["user"] = {"name": "Queen", "id": "somebody else"}
        return token

    sign_in(client)

    stored = client.get("/stored").json
    assert stored["idTokenClaims"]["cognito:groups"] == ["admin", "users"]
    assert stored["user"]["name"] == "Queen"
    assert stored["user"]["id"] == stored["idTokenClaims"]["sub"]
    assert set(stored["user"]) == {"id", "name", "email", "image"}


def test_a_half_done_change_before_an_exception_is_not_stored(
    auth: CognitoAuth, client: FlaskClient, sign_in: Any, clock: Any
) -> None:
    @auth.jwt_callback
    def fail(token: dict[str, Any], *, trigger: str, **_: Any) -> dict[str, Any]:
        if trigger == "refresh":
            token["user"]["name"] = "half done"
            raise RuntimeError("the database is away")
        return token

    sign_in(client)
    clock.advance(3600)

    stored = client.get("/stored").json

    assert stored["user"]["name"] != "half done"


def test_callbacks_may_be_async(
    auth: CognitoAuth, client: FlaskClient, sign_in: Any
) -> None:
    @auth.jwt_callback
    async def add(token: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {**token, "role": "owner"}

    @auth.session_callback
    async def publish(session: dict[str, Any], *, token: Any) -> dict[str, Any]:
        return {**session, "role": token["role"]}

    sign_in(client)

    assert client.get("/auth/session").json["role"] == "owner"


@pytest.mark.parametrize("returned", [None, "text", float("nan"), {"n": float("nan")}])
def test_jwt_callback_that_returns_no_json_object_is_named(
    returned: Any, auth: CognitoAuth, client: FlaskClient, sign_in: Any
) -> None:
    auth.jwt_callback(lambda token, **_: returned)

    with pytest.raises((TypeError, ValueError)):
        sign_in(client)


def test_session_callback_that_returns_nothing_is_named(
    auth: CognitoAuth, client: FlaskClient, sign_in: Any
) -> None:
    sign_in(client)
    auth.session_callback(lambda session, *, token: None)  # type: ignore[arg-type,return-value]

    with pytest.raises(TypeError, match="session_callback"):
        client.get("/auth/session")


def test_an_async_error_handler_answers_every_kind_of_error(
    auth: CognitoAuth,
    client: FlaskClient,
    pool: LocalUserPool,
    clock: Any,
    sign_in: Any,
) -> None:
    @auth.error_handler
    async def explain(error: CognitoAuthError) -> tuple[str, int]:
        return type(error).__name__, 418

    assert client.get("/auth/callback?state=x&code=y").status_code == 418
    sign_in(client)
    pool.faults.always(REFRESH, Fault(status=503))
    clock.advance(3600)

    answer = client.get("/private", headers=NAVIGATE)

    assert (answer.status_code, answer.text) == (418, "RefreshAccessTokenError")


def test_what_jwt_callback_made_of_the_user_outlives_refreshes(
    auth: CognitoAuth,
    client: FlaskClient,
    pool: LocalUserPool,
    clock: Any,
    sign_in: Any,
) -> None:
    """Only what the provider changed is taken over."""

    @auth.jwt_callback
    def nickname(token: dict[str, Any], *, trigger: str, **_: Any) -> dict[str, Any]:
        if trigger == "signIn":
            token["user"]["name"] = "Nick"
        return token

    sign_in(client)
    pool.faults.tamper(
        "id_token", at="refresh", claims=lambda c: {**c, "email": "new@example.com"}
    )
    clock.advance(3600)

    user = client.get("/stored").json["user"]

    assert (user["name"], user["email"]) == ("Nick", "new@example.com")


def test_a_script_gets_json_for_an_error_inside_a_view(
    app: Flask, client: FlaskClient
) -> None:
    app.add_url_rule(
        "/call", "call", lambda: current_session.client.get("http://127.0.0.1:9/").text
    )

    script = client.get("/call", headers=SCRIPT)
    page = client.get("/call", headers=NAVIGATE)

    assert (script.status_code, script.json["error"]) == (401, "login_required")
    assert (page.status_code, page.mimetype) == (401, "text/html")
