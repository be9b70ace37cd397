"""The session's cookie as a browser sees it."""

from __future__ import annotations

import base64
import logging
import secrets
from collections.abc import Callable
from http.cookies import SimpleCookie
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from flask_cognito_rotate import CognitoAuth, current_session
from flask_cognito_rotate.local import LocalUserPool

ALIEN_KEY = "fedcba9876543210fedcba9876543210"
HTTPS = "https://app.example.com"


def set_cookies(response: TestResponse) -> dict[str, str]:
    """Return the whole Set-Cookie lines of session cookies, by name."""
    lines = response.headers.getlist("Set-Cookie")
    named = {line.partition("=")[0]: line for line in lines}
    return {name: line for name, line in named.items() if "_tx_" not in name}


def session_name(app: Flask) -> str:
    name: str = app.extensions["cognito_rotate"].settings.cookie_name
    return name


def attributes(line: str) -> dict[str, Any]:
    (morsel,) = SimpleCookie(line).values()
    return {k: v for k, v in morsel.items() if v}


def value_of(client: FlaskClient, name: str) -> str:
    cookie = client.get_cookie(name)
    assert cookie is not None
    return cookie.value


def is_signed_in(client: FlaskClient) -> bool:
    return client.get("/auth/session").json != {}


@pytest.mark.parametrize("case", ["E01"])
def test_case_of_the_cookie_on_https(
    case: str, make_app: Callable[..., Flask], pool: LocalUserPool, sign_in: Any
) -> None:
    """`__Host-`, Secure, HttpOnly, Lax, path /, no domain; deleted the same way."""
    app = make_app(COGNITO_REDIRECT_URI=f"{HTTPS}/auth/callback")
    pool.redirect_uris = (f"{HTTPS}/auth/callback",)
    client = app.test_client()
    begun = client.get("/auth/login", base_url=HTTPS)
    back = pool.sign_in(None, begun.location)

    signed_in = client.get(back, base_url=HTTPS)

    name = f"__Host-{session_name(app)}"
    expected = {"path": "/", "samesite": "Lax", "secure": True, "httponly": True}
    found = attributes(set_cookies(signed_in)[name])
    assert found.pop("max-age") == "2592000"
    found.pop("expires")
    assert found == expected
    sealed = SimpleCookie(set_cookies(signed_in)[name])[name].value
    broken = {"Cookie": f"{name}={sealed[:-4]}AAAA"}
    bare = app.test_client(use_cookies=False)
    cleared = bare.get("/", base_url=HTTPS, headers=broken)
    found = attributes(set_cookies(cleared)[name])
    assert found.pop("max-age") == "0"
    found.pop("expires")
    assert found == expected


def test_on_http_of_a_loopback_host_the_cookie_is_not_secure(
    app: Flask, client: FlaskClient, sign_in: Any
) -> None:
    (line,) = set_cookies(sign_in(client)).values()

    assert line.startswith(session_name(app) + "=")
    assert "Secure" not in line
    assert "HttpOnly" in line


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"COGNITO_COOKIE_SECURE": True}, {"secure": True, "path": "/"}),
        ({"COGNITO_COOKIE_PATH": "/app"}, {"path": "/app"}),
        (
            {"COGNITO_COOKIE_SECURE": True, "COGNITO_COOKIE_SAMESITE": "None"},
            {"samesite": "None", "secure": True},
        ),
        ({"COGNITO_COOKIE_DOMAIN": "example.com"}, {"domain": "example.com"}),
    ],
)
def test_cookie_settings_reach_the_browser(
    settings: dict[str, Any],
    expected: dict[str, Any],
    make_app: Callable[..., Flask],
    pool: LocalUserPool,
) -> None:
    app = make_app(**settings)
    secure = bool(settings.get("COGNITO_COOKIE_SECURE"))
    base_url = "https://localhost" if secure else "http://localhost"
    client = app.test_client()
    begun = client.get("/auth/login", base_url=base_url)

    line = begun.headers["Set-Cookie"]

    found = attributes(line)
    assert {key: found.get(key) for key in expected if key != "samesite"} == {
        key: value for key, value in expected.items() if key != "samesite"
    }
    assert found["samesite"] == "Lax", "a pending login comes back from another site"


def test_usual_tokens_fit_into_one_cookie(
    make_app: Callable[..., Flask], pool: LocalUserPool, sign_in: Any
) -> None:
    """At most 4,093 bytes, name and attributes included."""
    (line,) = set_cookies(sign_in(make_app().test_client())).values()

    assert len(line) + len("__Host-") + len("; Secure") <= 4093


def noise(size: int) -> str:
    return secrets.token_urlsafe(size)


@pytest.fixture
def size() -> list[int]:
    return [0]


@pytest.fixture
def growing(make_app: Callable[..., Flask], clock: Any, size: list[int]) -> Flask:
    """An application that stores as many random bytes as a test says."""
    auth = CognitoAuth(clock=clock)

    @auth.jwt_callback
    def grow(token: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {**token, "noise": noise(size[0])}

    app = make_app(auth=auth)
    app.add_url_rule(
        "/noise", "noise", lambda: str(len(current_session.get("noise", "")))
    )
    return app


@pytest.mark.parametrize("case", ["E11"])
def test_case_of_a_session_that_grows_and_shrinks(
    case: str, growing: Flask, clock: Any, size: list[int], sign_in: Any
) -> None:
    """One part, two, one: readable each time, and the part left over is deleted."""
    client = growing.test_client()
    name = session_name(growing)
    sign_in(client)
    assert client.get_cookie(f"{name}.1") is None

    size[0] = 1000
    clock.advance(3600)
    larger = set_cookies(client.get("/private"))
    assert set(larger) == {name, f"{name}.1"}
    assert all(len(line) <= 4093 for line in larger.values())
    assert client.get("/noise").text == str(len(noise(1000)))

    size[0] = 0
    clock.advance(3600)
    smaller = set_cookies(client.get("/private"))
    assert attributes(smaller[f"{name}.1"])["max-age"] == "0"
    assert client.get_cookie(f"{name}.1") is None
    assert is_signed_in(client)


def test_a_login_that_no_cookie_can_hold_is_refused_and_names_the_other_store(
    growing: Flask, size: list[int], sign_in: Any, pool: LocalUserPool
) -> None:
    client = growing.test_client()
    size[0] = 6000

    refused = sign_in(client)

    assert refused.status_code == 400
    assert "cache" in refused.text
    assert set_cookies(refused) == {}
    assert pool.live_refresh_tokens() == 0


def test_a_session_that_outgrows_its_cookie_gives_up_the_additions_first(
    growing: Flask,
    clock: Any,
    size: list[int],
    sign_in: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = growing.test_client()
    sign_in(client)
    size[0] = 6000
    clock.advance(3600)

    with caplog.at_level(logging.ERROR, logger="flask_cognito_rotate"):
        answer = client.get("/private")

    assert answer.status_code == 200
    assert is_signed_in(client)
    errors = [
        r for r in caplog.records if getattr(r, "event", "") == "cookie_too_large"
    ]
    assert len(errors) == 1
    assert "jwt_callback" in errors[0].getMessage()


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(value, id=f"E02-{name}")
        for name, value in {
            "empty": "",
            "word": "hello",
            "base64": "QUJD" * 40,
            "dots": "....",
            "long": "A" * 100_000,
            "percent": "%00%ff",
            "continued": "abc.",
        }.items()
    ],
)
def test_case_of_a_cookie_that_was_never_ours(value: str, app: Flask) -> None:
    """Anonymous, left alone, and no error."""
    header = f"{session_name(app)}={value}"
    client = app.test_client(use_cookies=False)

    answer = client.get("/auth/session", headers={"Cookie": header})

    assert (answer.status_code, answer.json) == (200, {})
    assert set_cookies(answer) == {}


@pytest.mark.parametrize("case", ["E02-flipped"])
def test_case_of_a_cookie_that_was_changed_is_cleared(
    case: str, app: Flask, client: FlaskClient, sign_in: Any
) -> None:
    name = session_name(app)
    sign_in(client)
    genuine = value_of(client, name)

    for at in range(20, len(genuine), 97):
        other = "A" if genuine[at] != "A" else "B"
        client.set_cookie(name, genuine[:at] + other + genuine[at + 1 :])

        answer = client.get("/auth/session")

        assert (answer.status_code, answer.json) == (200, {})
        assert attributes(set_cookies(answer)[name])["max-age"] == "0"


@pytest.mark.parametrize("case", ["E10"])
def test_case_of_parts_that_do_not_belong_together(
    case: str, growing: Flask, size: list[int], sign_in: Any
) -> None:
    """Swapped, missing, foreign and surplus parts: anonymous, or as if not there."""
    size[0] = 1000
    name = session_name(growing)
    alice, bob = growing.test_client(), growing.test_client()
    sign_in(alice)
    sign_in(bob, "bob@example.com")
    first, second = value_of(alice, name), value_of(alice, f"{name}.1")
    foreign = value_of(bob, f"{name}.1")

    def session_of(**parts: str) -> Any:
        client = growing.test_client()
        for suffix, value in parts.items():
            client.set_cookie(name + suffix.replace("_", "."), value)
        answer = client.get("/auth/session")
        assert answer.status_code == 200
        return answer.json

    def whole(one: str, two: str, **more: str) -> Any:
        return session_of(**{"": one, "_1": two, **more})

    assert whole(first, second) != {}
    assert whole(first, second, _2=second, _99999999="x") != {}
    assert whole(second, first) == {}
    assert whole(first, foreign) == {}
    assert whole(first, "") == {}
    assert session_of(**{"": first}) == {}
    assert session_of(_1=second) == {}


@pytest.mark.parametrize("case", ["E04"])
def test_case_of_a_cookie_that_tells_nothing(
    case: str, app: Flask, client: FlaskClient, sign_in: Any
) -> None:
    sign_in(client)
    value = value_of(client, session_name(app))
    raw = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))

    for readable in (b"alice", b"example.com", b"access", b"eyJ", b"sub"):
        assert readable not in raw
        assert readable.decode() not in value


def test_a_cookie_under_an_unknown_key_is_anonymous_and_left_alone(
    make_app: Callable[..., Flask], sign_in: Any
) -> None:
    """Half of a deployment may still have the old key."""
    old, new = make_app(), make_app(SECRET_KEY=ALIEN_KEY)
    client = old.test_client()
    sign_in(client)
    stranger = new.test_client()
    name = session_name(old)
    stranger.set_cookie(name, value_of(client, name))

    answer = stranger.get("/auth/session")

    assert answer.json == {}
    assert set_cookies(answer) == {}


def test_a_key_among_the_fallbacks_opens_and_the_newest_seals(
    make_app: Callable[..., Flask], clock: Any, sign_in: Any
) -> None:
    old = make_app()
    changed = make_app(SECRET_KEY=ALIEN_KEY, SECRET_KEY_FALLBACKS=[old.secret_key])
    newest = make_app(SECRET_KEY=ALIEN_KEY)
    name = session_name(old)
    client = old.test_client()
    sign_in(client)
    browser = changed.test_client()
    browser.set_cookie(name, value_of(client, name))
    assert is_signed_in(browser)

    clock.advance(3600)
    assert browser.get("/private").status_code == 200

    last = newest.test_client()
    last.set_cookie(name, value_of(browser, name))
    assert is_signed_in(last)


@pytest.mark.parametrize("case", ["E07-idle"])
def test_case_of_a_cookie_kept_past_the_idle_limit(
    case: str, make_app: Callable[..., Flask], clock: Any, sign_in: Any
) -> None:
    """The server judges by the time inside, whatever the browser ignores."""
    app = make_app(COGNITO_SESSION_MAX_AGE=1000)
    client = app.test_client()
    sign_in(client)
    name = session_name(app)
    kept = value_of(client, name)
    clock.advance(999)
    client.set_cookie(name, kept)
    assert is_signed_in(client)
    clock.advance(1)
    client.set_cookie(name, kept)

    answer = client.get("/auth/session")

    assert answer.json == {}
    assert attributes(set_cookies(answer)[name])["max-age"] == "0"


@pytest.mark.parametrize("case", ["E07-absolute"])
def test_case_of_the_absolute_limit_is_not_extended_by_use(
    case: str,
    make_app: Callable[..., Flask],
    clock: Any,
    sign_in: Any,
    pool: LocalUserPool,
) -> None:
    app = make_app(COGNITO_SESSION_ABSOLUTE_MAX_AGE=9000)
    client = app.test_client()
    sign_in(client)
    for _ in range(2):
        clock.advance(4400)
        assert is_signed_in(client)
    refreshes = pool.counters["token.refresh_token"]

    clock.advance(200)

    assert not is_signed_in(client)
    assert pool.counters["token.refresh_token"] == refreshes


def test_an_unchanged_session_is_written_again_to_roll_its_age(
    make_app: Callable[..., Flask], pool: LocalUserPool, clock: Any, sign_in: Any
) -> None:
    pool.access_token_validity = 86_400
    app = make_app(COGNITO_SESSION_UPDATE_AGE=600)
    client = app.test_client()
    sign_in(client)

    clock.advance(599)
    assert set_cookies(client.get("/auth/session")) == {}
    clock.advance(1)
    rolled = set_cookies(client.get("/auth/session"))

    assert attributes(rolled[session_name(app)])["max-age"] == "2592000"
    assert set_cookies(client.get("/auth/session")) == {}


def test_a_warm_request_sets_no_cookie_and_says_vary(
    client: FlaskClient, sign_in: Any
) -> None:
    sign_in(client)

    answer = client.get("/private")

    assert "Set-Cookie" not in answer.headers
    assert "Cookie" in answer.headers["Vary"]


@pytest.mark.parametrize("case", ["E13"])
def test_case_of_an_answer_that_writes_the_cookie_is_not_stored(
    case: str, client: FlaskClient, clock: Any, sign_in: Any
) -> None:
    signed_in = sign_in(client)
    clock.advance(3600)
    refreshed = client.get("/private")

    for answer in (signed_in, refreshed):
        assert set_cookies(answer)
        assert answer.headers["Cache-Control"] == "private, no-store"
        assert "Cookie" in answer.headers["Vary"]


@pytest.mark.parametrize("case", ["E14"])
def test_case_of_a_stranger_on_a_public_page(
    case: str, app: Flask, client: FlaskClient
) -> None:
    """No cookie, no header, and nothing asked of the cache."""
    app.add_url_rule("/public", "public", lambda: "public")
    cache = app.extensions["cognito_rotate"].cache
    cache.close()

    answer = client.get("/public")

    assert answer.status_code == 200
    assert "Set-Cookie" not in answer.headers
    assert "Vary" not in answer.headers


@pytest.mark.parametrize("case", ["E08"])
def test_case_of_a_login_over_another_session(
    case: str, app: Flask, pool: LocalUserPool, sign_in: Any
) -> None:
    """A new id, the old session dead for every holder, nothing carried over."""
    attacker, victim = app.test_client(), app.test_client()
    sign_in(attacker, "bob@example.com")
    name = session_name(app)
    planted = value_of(attacker, name)
    victim.set_cookie(name, planted)

    sign_in(victim, "alice@example.com")

    assert victim.get("/auth/session").json["user"]["email"] == "alice@example.com"
    assert value_of(victim, name) != planted
    assert not is_signed_in(attacker)
    assert pool.live_refresh_tokens() == 1
