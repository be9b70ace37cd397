"""`/auth/logout`: a page with one button, and the end of the session everywhere."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from browsing import (
    SCRIPT,
    cookie_names,
    cookies_set,
    put_cookies,
    session_cookies,
    sign_out,
    twin,
)
from flask import Flask, render_template_string
from flask.testing import FlaskClient

from flask_cognito_rotate import signals
from flask_cognito_rotate.errors import CacheUnavailable
from flask_cognito_rotate.local import Fault, LocalUserPool


@pytest.fixture
def signed_in(client: FlaskClient, sign_in: Any) -> FlaskClient:
    sign_in(client)
    return client


def is_signed_in(client: FlaskClient) -> bool:
    return bool(client.get("/auth/session").json)


def test_page_asks_first(signed_in: FlaskClient) -> None:
    """GET shows who is signed in and one button, and ends nothing."""
    response = signed_in.get("/auth/logout")

    assert response.status_code == 200
    assert "alice@example.com" in response.text
    assert response.text.count("<button") == 1
    assert response.headers["Cache-Control"] == "private, no-store"
    assert is_signed_in(signed_in)


def test_page_lets_its_form_name_its_origin(signed_in: FlaskClient) -> None:
    """A browser sends `Origin: null` from a page without any referrer: not here."""
    response = signed_in.get("/auth/logout")

    assert response.headers["Referrer-Policy"] == "same-origin"


def test_button_ends_the_session(
    signed_in: FlaskClient, pool: LocalUserPool, app: Flask
) -> None:
    """G02: revoked at the provider, cookie deleted, and on to Cognito's logout."""
    response = sign_out(signed_in)

    assert response.status_code == 303
    target = urlsplit(response.location)
    assert response.location.startswith(f"{pool.url}/logout?")
    assert parse_qs(target.query) == {
        "client_id": [pool.client_id],
        "logout_uri": ["http://localhost/"],
    }
    assert cookies_set(response)[cookie_names(app)[0]].deletes
    assert pool.counters["revoke"] == 1
    assert pool.live_refresh_tokens() == 0
    assert not is_signed_in(signed_in)


def test_revocation_on_the_wire(signed_in: FlaskClient, pool: LocalUserPool) -> None:
    """G02: form-encoded, one method of client authentication, the newest token."""
    newest = signed_in.get("/private").json["refreshToken"]
    sign_out(signed_in)

    (sent,) = [r for r in pool.requests if r.endpoint == "revoke"]
    assert sent.headers["Authorization"].startswith("Basic ")
    assert sorted(sent.fields) == ["client_id", "token"]
    assert sent.form["token"] == newest
    assert not pool.complaints


def test_logout_uri_is_the_configured_one(make_app: Any, sign_in: Any) -> None:
    """What is registered as sign-out URL is sent to the letter."""
    client = make_app(COGNITO_LOGOUT_URI="https://app.example/bye").test_client()
    sign_in(client)

    response = sign_out(client)

    query = parse_qs(urlsplit(response.location).query)
    assert query["logout_uri"] == ["https://app.example/bye"]


def test_logout_redirect_may_be_an_endpoint(make_app: Any, sign_in: Any) -> None:
    """Without `COGNITO_LOGOUT_URI` it is the external URL of the redirect."""
    client = make_app(COGNITO_LOGOUT_REDIRECT="private").test_client()
    sign_in(client)

    response = sign_out(client)

    query = parse_qs(urlsplit(response.location).query)
    assert query["logout_uri"] == ["http://localhost/private"]


def test_target_comes_from_the_configuration_only(signed_in: FlaskClient) -> None:
    """F09: no parameter of the request chooses where a logout leads."""
    evil = {"next": "https://evil.example", "logout_uri": "https://evil.example"}
    response = sign_out(signed_in, query_string=evil)

    assert "evil" not in response.location


FOREIGN = [
    pytest.param({"Origin": "https://evil.example"}, id="G01-origin"),
    pytest.param({"Sec-Fetch-Site": "cross-site"}, id="G01-cross-site"),
    pytest.param({"Sec-Fetch-Site": "same-site"}, id="G01-same-site"),
    pytest.param(
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
        id="G01-cross-site-says-the-browser",
    ),
    pytest.param({"Origin": "null"}, id="G01-null"),
    pytest.param({}, id="G01-neither"),
    pytest.param({"Origin": "http://localhost.evil.example"}, id="G01-suffix"),
]


@pytest.mark.parametrize("headers", FOREIGN)
def test_foreign_form_ends_nothing(
    signed_in: FlaskClient, pool: LocalUserPool, headers: dict[str, str]
) -> None:
    """A POST from elsewhere is refused even with the right token."""
    response = sign_out(signed_in, headers=headers)

    assert response.status_code == 400
    assert pool.counters["revoke"] == 0
    assert is_signed_in(signed_in)


@pytest.mark.parametrize("token", [None, "", "0" * 32, "é"])
def test_form_without_the_token_ends_nothing(
    signed_in: FlaskClient, pool: LocalUserPool, token: str | None
) -> None:
    """G01: the form must carry the token that is bound to this session."""
    response = signed_in.post(
        "/auth/logout",
        data={} if token is None else {"csrfToken": token},
        headers={"Origin": "http://localhost"},
    )

    assert response.status_code == 400
    assert is_signed_in(signed_in)


def test_token_of_another_session_does_not_do(app: Flask, sign_in: Any) -> None:
    """G01: an attacker's own token does not sign a victim out."""
    attacker, victim = app.test_client(), app.test_client()
    sign_in(attacker, "bob@example.com")
    sign_in(victim)
    page = attacker.get("/auth/logout").text
    token = page.partition('value="')[2].partition('"')[0]

    response = victim.post(
        "/auth/logout",
        data={"csrfToken": token},
        headers={"Origin": "http://localhost"},
    )

    assert response.status_code == 400
    assert is_signed_in(victim)


@pytest.mark.parametrize("site", ["same-origin"])
def test_browser_that_tells_the_site(signed_in: FlaskClient, site: str) -> None:
    """`Sec-Fetch-Site` alone is enough for our own page."""
    assert sign_out(signed_in, headers={"Sec-Fetch-Site": site}).status_code == 303


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault(status=400, body=b"{}"), id="G03-400"),
        pytest.param(Fault(status=401), id="G03-401"),
        pytest.param(Fault(status=503), id="G03-503"),
        pytest.param(Fault(status=200, body=b"\xff\x00garbage"), id="G03-garbage"),
        pytest.param(
            Fault(status=302, headers={"Location": "https://evil.example/"}),
            id="G03-redirect",
        ),
        pytest.param(Fault(reset="before"), id="G03-reset"),
    ],
)
def test_failed_revocation_holds_no_logout_up(
    signed_in: FlaskClient, pool: LocalUserPool, fault: Fault
) -> None:
    """The local session ends whatever the provider answers."""
    pool.faults.always("revoke", fault)

    assert sign_out(signed_in).status_code == 303
    assert not is_signed_in(signed_in)


def test_failed_revocation_is_an_event(
    signed_in: FlaskClient, pool: LocalUserPool, caplog: Any
) -> None:
    """G03: the log says that a refresh token may still be alive."""
    pool.faults.always("revoke", Fault(status=503))

    sign_out(signed_in)

    assert "revoke_failed" in [getattr(r, "event", "") for r in caplog.records]


def test_hanging_revocation_is_given_up(
    make_app: Any, sign_in: Any, pool: LocalUserPool
) -> None:
    """G03: a provider that does not answer costs the time limit and no more."""
    client = make_app(COGNITO_HTTP_TIMEOUT=0.2).test_client()
    sign_in(client)
    pool.faults.queue("revoke", Fault(delay=1))
    begun = time.monotonic()

    assert sign_out(client).status_code == 303
    assert time.monotonic() - begun < 1
    assert not is_signed_in(client)


def test_captured_cookie_is_dead(signed_in: FlaskClient, pool: LocalUserPool) -> None:
    """E06: who kept a copy of the cookie is nobody from the logout on."""
    copy = twin(signed_in)
    captured = session_cookies(signed_in)

    sign_out(signed_in)
    replayed = copy.get("/private", headers=SCRIPT)

    assert replayed.status_code == 401
    put_cookies(signed_in, captured)
    assert not is_signed_in(signed_in)
    assert pool.counters["token.refresh_token"] == 0


def test_other_tab_is_signed_out(signed_in: FlaskClient) -> None:
    """G08: another tab's next question is answered with nobody."""
    other_tab = twin(signed_in)
    sign_out(signed_in)

    response = other_tab.get("/auth/session")

    assert response.json == {}
    assert "no-store" in response.headers["Cache-Control"]


def test_logout_ends_one_session_only(app: Flask, sign_in: Any) -> None:
    """The same user's session on another device goes on."""
    phone, laptop = app.test_client(), app.test_client()
    sign_in(phone)
    sign_in(laptop)

    sign_out(phone)

    assert is_signed_in(laptop)


def test_logout_of_nobody(client: FlaskClient, pool: LocalUserPool) -> None:
    """Who is not signed in here still gets to Cognito's logout, and no error."""
    response = sign_out(client)

    assert response.status_code == 303
    assert response.location.startswith(f"{pool.url}/logout?")


def test_logout_of_a_session_that_is_over(
    signed_in: FlaskClient, pool: LocalUserPool, clock: Any
) -> None:
    """After a refused refresh the page still signs out, and clears the error."""
    pool.revoke_all()
    clock.advance(3600)
    assert signed_in.get("/").json["error"] == "RefreshAccessTokenError"

    assert sign_out(signed_in).status_code == 303
    assert signed_in.get("/").json == {"user": {}, "error": None}


def test_logout_with_a_spoilt_cookie(signed_in: FlaskClient) -> None:
    """Signing out depends neither on a good cookie nor on a remote call."""
    ((name, value),) = session_cookies(signed_in).items()
    signed_in.set_cookie(name, value[:-6] + "AAAAAA")

    response = sign_out(signed_in)

    assert response.status_code == 303
    assert name not in session_cookies(signed_in)


def test_logout_refreshes_nothing(
    signed_in: FlaskClient, pool: LocalUserPool, clock: Any
) -> None:
    """An expired token is revoked, not exchanged first."""
    clock.advance(3600)

    sign_out(signed_in)

    assert pool.counters["token.refresh_token"] == 0
    assert pool.live_refresh_tokens() == 0


def test_provider_down_at_logout(
    signed_in: FlaskClient, pool: LocalUserPool, app: Flask
) -> None:
    """The user is signed out here, and lands somewhere, with the provider down."""
    pool.stop()

    response = sign_out(signed_in)

    assert response.status_code == 303
    assert cookies_set(response)[cookie_names(app)[0]].deletes
    pool.start()
    assert not is_signed_in(signed_in)


def test_cache_down_at_logout(
    make_app: Any, sign_in: Any, pool: LocalUserPool, clock: Any
) -> None:
    """G06: cookie cleared, revocation tried, and the page says so with 503."""
    from flask_cognito_rotate import CognitoAuth
    from flask_cognito_rotate.cache.memory import MemoryCache

    class Failing(MemoryCache):
        down = False

        def compare_and_set(self, *args: Any) -> bool:
            if self.down:
                raise CacheUnavailable("down")
            return super().compare_and_set(*args)

    cache = Failing("test")
    client = make_app(auth=CognitoAuth(cache=cache, clock=clock)).test_client()
    sign_in(client)
    copy = twin(client)
    cache.down = True

    response = sign_out(client)

    assert response.status_code == 503
    assert "Signed out in this browser" in response.text
    assert cookies_set(response)[cookie_names(client.application)[0]].deletes
    assert pool.live_refresh_tokens() == 0

    cache.down = False
    clock.advance(3600)
    assert copy.get("/private", headers=SCRIPT).status_code == 401


def test_signals_of_a_logout(app: Flask, signed_in: FlaskClient) -> None:
    """One `user_logged_out` and one `session_ended`, both by reason `logout`."""
    seen: list[tuple[str, str, str]] = []

    def note(name: str) -> Any:
        def receive(sender: Flask, user: dict[str, Any], reason: str) -> None:
            assert sender is app
            seen.append((name, user["email"], reason))

        return receive

    out, ended = note("out"), note("ended")
    with (
        signals.user_logged_out.connected_to(out, app),
        signals.session_ended.connected_to(ended, app),
    ):
        sign_out(signed_in)

    assert sorted(seen) == [
        ("ended", "alice@example.com", "logout"),
        ("out", "alice@example.com", "logout"),
    ]


def test_button_in_a_template(app: Flask, client: FlaskClient, sign_in: Any) -> None:
    """`cognito_logout_button()` is a working form, and nothing for nobody."""
    template = "{{ cognito_logout_button('Leave') }}"
    app.add_url_rule("/page", "page", lambda: render_template_string(template))
    assert client.get("/page").text == ""
    sign_in(client)
    text = client.get("/page").text
    assert "<button>Leave</button>" in text
    token = text.partition('value="')[2].partition('"')[0]

    response = client.post(
        "/auth/logout",
        data={"csrfToken": token},
        headers={"Origin": "http://localhost"},
    )

    assert response.status_code == 303


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
def test_other_methods(signed_in: FlaskClient, method: str) -> None:
    """Only GET and POST are answered."""
    assert signed_in.open("/auth/logout", method=method).status_code == 405
    assert is_signed_in(signed_in)
