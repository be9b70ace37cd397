"""The session cookie: its attributes, its size, its age, and what is not one."""

from __future__ import annotations

import base64
import logging
import secrets
from typing import Any

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
from conftest import SECRET_KEY
from flask import Flask, stream_with_context
from flask.testing import FlaskClient

from flask_cognito_rotate import CognitoAuth, current_session
from flask_cognito_rotate.local import LocalUserPool

DAY = 86_400
HTTPS = {"base_url": "https://app.example"}


@pytest.fixture
def signed_in(client: FlaskClient, sign_in: Any) -> FlaskClient:
    sign_in(client)
    return client


def is_signed_in(client: FlaskClient) -> bool:
    return bool(client.get("/auth/session").json)


def sign_in_at(
    client: FlaskClient, pool: LocalUserPool, base_url: str, path: str = "/auth/login"
) -> Any:
    """Sign in at another address than http://localhost."""
    begun = client.get(path, base_url=base_url)
    back = pool.sign_in(None, begun.location)
    return client.get(back[len(base_url) :], base_url=base_url)


# Attributes.


def test_on_https(app: Flask, pool: LocalUserPool) -> None:
    """E01: `__Host-`, Secure, HttpOnly, Lax, path `/`, no domain."""
    pool.allow_any_loopback_uri = True
    pool.redirect_uris = ["https://app.example/auth/callback"]
    client = app.test_client()

    response = sign_in_at(client, pool, HTTPS["base_url"])

    name = "__Host-" + cookie_names(app)[0]
    cookie = cookies_set(response)[name]
    age = cookie.attributes.pop("Max-Age")
    cookie.attributes.pop("Expires")
    assert age == "2592000"
    assert cookie.attributes == {
        "Secure": True,
        "HttpOnly": True,
        "Path": "/",
        "SameSite": "Lax",
    }

    page = client.get("/auth/logout", **HTTPS).text
    token = page.partition('name="csrfToken" value="')[2].partition('"')[0]
    out = client.post(
        "/auth/logout",
        data={"csrfToken": token},
        headers={"Origin": "https://app.example"},
        **HTTPS,
    )
    deleted = cookies_set(out)[name]
    deleted.attributes.pop("Expires")
    assert deleted.deletes
    assert deleted.attributes.pop("Max-Age") == "0"
    assert deleted.attributes == cookie.attributes


def test_on_a_loopback_host(client: FlaskClient, sign_in: Any, app: Flask) -> None:
    """E01: http for development: neither the prefix nor Secure, all else the same."""
    cookie = cookies_set(sign_in(client))[cookie_names(app)[0]]

    assert cookie.attributes["HttpOnly"] is True
    assert cookie.attributes["SameSite"] == "Lax"
    assert "Secure" not in cookie.attributes
    assert "Domain" not in cookie.attributes


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"COGNITO_COOKIE_PATH": "/shop"}, {"Path": "/shop"}),
        ({"APPLICATION_ROOT": "/shop"}, {"Path": "/shop"}),
        ({"COGNITO_COOKIE_DOMAIN": "localhost"}, {"Domain": "localhost"}),
    ],
)
def test_path_and_domain(
    make_app: Any, pool: LocalUserPool, settings: Any, expected: Any
) -> None:
    """`COGNITO_COOKIE_PATH` and `_DOMAIN` go into the header, without `__Host-`."""
    app = make_app(**settings, COGNITO_COOKIE_SECURE=True, COGNITO_COOKIE_NAME="id")
    base_url = "https://localhost/shop"
    pool.redirect_uris = [f"{base_url}/auth/callback"]

    response = sign_in_at(app.test_client(), pool, base_url)

    cookie = cookies_set(response)["id"]
    assert cookie.attributes.items() >= {**expected, "Secure": True}.items()


@pytest.mark.parametrize("value", [True, "true", "1"])
def test_secure_behind_a_proxy(make_app: Any, value: Any) -> None:
    """`COGNITO_COOKIE_SECURE` decides where the request's own scheme does not tell."""
    client = make_app(COGNITO_COOKIE_SECURE=value).test_client()

    for name, cookie in cookies_set(client.get("/auth/login")).items():
        assert name.startswith("__Host-")
        assert cookie.attributes["Secure"] is True


def test_samesite_none(make_app: Any, pool: LocalUserPool) -> None:
    """`COGNITO_COOKIE_SAMESITE` is the session's; a login's own cookie stays Lax."""
    app = make_app(COGNITO_COOKIE_SAMESITE="none")
    pool.redirect_uris = ["https://app.example/auth/callback"]

    cookies = cookies_set(sign_in_at(app.test_client(), pool, "https://app.example"))

    by_kind = {"_tx_" in name: one.attributes for name, one in cookies.items()}
    assert by_kind[False]["SameSite"] == "None"
    assert by_kind[True]["SameSite"] == "Lax"


def test_redirect_uri_tells_whether_it_is_https(make_app: Any) -> None:
    """Behind a proxy that ends TLS, `COGNITO_REDIRECT_URI` makes the cookies Secure."""
    uri = "https://app.example/auth/callback"
    client = make_app(COGNITO_REDIRECT_URI=uri).test_client()

    (name,) = cookies_set(client.get("/auth/login"))
    assert name.startswith("__Host-")


def test_name_tells_pools_and_clients_apart(make_app: Any) -> None:
    """Two applications on one host do not overwrite each other's cookie."""
    names = {
        cookie_names(make_app())[0],
        cookie_names(make_app(COGNITO_CLIENT_ID="another"))[0],
        cookie_names(make_app(APPLICATION_ROOT="/shop"))[0],
    }

    assert len(names) == 3
    assert all(name.startswith("cognito_session_") for name in names)


def test_headers_of_an_answer_that_writes(signed_in: FlaskClient, clock: Any) -> None:
    """E13: an answer with a new cookie is kept by no cache and varies by cookie."""
    clock.advance(3600)

    response = signed_in.get("/")

    assert cookies_set(response)
    assert response.headers["Cache-Control"] == "private, no-store"
    assert "Cookie" in response.headers["Vary"]


def test_headers_of_an_answer_that_only_read(signed_in: FlaskClient) -> None:
    """E13: the application's own `Cache-Control` stays where nothing was written."""
    response = signed_in.get("/")

    assert not cookies_set(response)
    assert "Cache-Control" not in response.headers
    assert "Cookie" in response.headers["Vary"]


# A response that ends after somebody else's.


def test_answer_of_an_ended_session_writes_no_cookie(
    app: Flask, client: FlaskClient, sign_in: Any, clock: Any
) -> None:
    """D25: signed out in another tab while a view worked: the cookie goes."""
    tab: list[FlaskClient] = []

    @app.get("/slow")
    def slow() -> str:
        assert current_session
        sign_out(tab[0])
        return "done"

    sign_in(client)
    tab.append(twin(client))
    clock.advance(DAY)  # so that the answer has a cookie to write

    response = client.get("/slow")

    assert response.text == "done"
    assert not cookies_set(response)
    assert not is_signed_in(client)


def test_older_answer_does_not_overwrite_newer_tokens(
    app: Flask, client: FlaskClient, sign_in: Any, pool: LocalUserPool, clock: Any
) -> None:
    """D25: a request begun before a refresh and ended after it writes the newer."""
    tab: list[FlaskClient] = []
    newer: list[dict[str, Any]] = []

    @app.get("/slow")
    def slow() -> str:
        assert current_session
        clock.advance(3600)
        newer.append(tab[0].get("/private").json)
        return "done"

    pool.access_token_validity = 2 * DAY
    sign_in(client)
    tab.append(twin(client))
    clock.advance(2 * DAY - 3600 - 100)

    response = client.get("/slow")

    assert cookies_set(response)
    assert pool.counters["token.refresh_token"] == 1
    assert client.get("/private").json == newer[0]
    assert pool.counters["token.refresh_token"] == 1


def test_refresh_while_streaming_reaches_the_next_answer(
    app: Flask, client: FlaskClient, sign_in: Any, pool: LocalUserPool
) -> None:
    """Headers that are sent cannot carry a cookie: the next request writes it."""

    @app.get("/stream")
    def stream() -> Any:
        def body() -> Any:
            yield "begun "
            current_session.refresh(force=True)
            yield "done"

        return stream_with_context(body())

    sign_in(client)
    before = client.get("/private").json
    streamed = client.get("/stream")
    assert streamed.text == "begun done"
    assert not cookies_set(streamed)

    response = client.get("/private")

    assert response.json["accessToken"] != before["accessToken"]
    assert cookies_set(response)
    assert pool.counters["token.refresh_token"] == 1


# Content and size.


def test_nothing_readable(signed_in: FlaskClient) -> None:
    """E04: neither a token nor a claim can be read from the cookie."""
    stored = signed_in.get("/private").json
    (value,) = session_cookies(signed_in).values()
    decoded = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))

    for secret in ("alice", stored["user"]["id"], stored["refreshToken"][:40]):
        assert secret not in value
        assert secret.encode() not in decoded
    assert stored["accessToken"].split(".")[2] not in value


def test_usual_tokens_fit_one_cookie(
    client: FlaskClient, sign_in: Any, app: Flask, clock: Any
) -> None:
    """With its name and attributes it is 4,093 bytes at most, before and after."""
    set_at_login = cookies_set(sign_in(client))
    clock.advance(3600)
    set_at_refresh = cookies_set(client.get("/"))

    for cookies in (set_at_login, set_at_refresh):
        sessions = [c for name, c in cookies.items() if "_tx_" not in name]
        assert [c.name for c in sessions] == [cookie_names(app)[0]]
        assert sessions[0].size <= 4093


def filler(size: int) -> str:
    """Return text that cannot be compressed."""
    return base64.urlsafe_b64encode(secrets.token_bytes(size * 3 // 4)).decode()


@pytest.fixture
def grown() -> dict[str, int]:
    """How much `jwt_callback` adds; a test changes it on the way."""
    return {"size": 0}


@pytest.fixture
def growing_app(make_app: Any, clock: Any, grown: dict[str, int]) -> Flask:
    auth = CognitoAuth(clock=clock)

    @auth.jwt_callback
    def grow(token: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {**token, "extra": filler(grown["size"])}

    app: Flask = make_app(auth=auth)
    app.add_url_rule(
        "/extra",
        "extra",
        lambda: {
            "extra": len(current_session.get("extra") or ""),
            "claims": sorted(current_session.id_token_claims or {}),
            "access": bool(current_session.access_token),
        },
    )
    return app


def test_two_parts(growing_app: Flask, grown: dict[str, int], sign_in: Any) -> None:
    """E11: a larger session takes a second part, each part within a browser's limit."""
    grown["size"] = 2000
    client = growing_app.test_client()

    cookies = cookies_set(sign_in(client))

    parts = [cookies[name] for name in cookie_names(growing_app)]
    assert all(part.size <= 4093 for part in parts)
    assert sum(len(f"{p.name}={p.value}; ") for p in parts) <= 7000
    assert client.get("/extra").json["extra"] == 2000


def test_stale_part_is_deleted(
    growing_app: Flask, grown: dict[str, int], sign_in: Any, clock: Any
) -> None:
    """E11: shrunk to one part and grown again, it can be read each time."""
    client = growing_app.test_client()
    first, second = cookie_names(growing_app)
    grown["size"] = 2000
    sign_in(client)

    grown["size"] = 10
    clock.advance(3600)
    shrunk = cookies_set(client.get("/extra"))
    assert shrunk[second].deletes
    assert set(session_cookies(client)) == {first}
    assert client.get("/extra").json["extra"] == len(filler(10))

    grown["size"] = 2000
    clock.advance(3600)
    client.get("/extra")
    assert set(session_cookies(client)) == {first, second}
    assert client.get("/extra").json["extra"] == 2000


@pytest.mark.parametrize("size", [3_900, 6_000])
def test_too_large_at_sign_in(
    growing_app: Flask,
    grown: dict[str, int],
    sign_in: Any,
    pool: LocalUserPool,
    size: int,
) -> None:
    """E11: a session beyond 7,000 bytes is refused with the remedy, and revoked."""
    grown["size"] = size
    client = growing_app.test_client()

    response = sign_in(client)

    assert response.status_code == 400
    assert "cache" in response.text
    assert not is_signed_in(client)
    assert pool.live_refresh_tokens() == 0


def test_too_large_at_a_refresh(
    growing_app: Flask, grown: dict[str, int], sign_in: Any, clock: Any, caplog: Any
) -> None:
    """The application's additions go first, with an ERROR; the session lives on."""
    client = growing_app.test_client()
    sign_in(client)
    grown["size"] = 6000
    clock.advance(3600)

    response = client.get("/extra")
    assert response.status_code == 200
    assert all(cookie.size <= 4093 for cookie in cookies_set(response).values())
    errors = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert [r.event for r in errors] == ["cookie_too_large"]
    assert client.get("/extra").json["access"] is True
    assert client.get("/private").status_code == 200


def test_too_many_claims_at_a_refresh(
    app: Flask, client: FlaskClient, sign_in: Any, pool: LocalUserPool, clock: Any
) -> None:
    """Then spare claims go; who it is, and the groups, stay."""
    sign_in(client)
    note = {"custom:note": filler(6000)}
    pool.add_user("alice@example.com", groups=["admin"], attributes=note)
    clock.advance(3600)

    response = client.get("/private")

    assert response.status_code == 200
    assert all(cookie.size <= 4093 for cookie in cookies_set(response).values())
    assert client.get("/auth/session").json["user"]["email"] == "alice@example.com"


# What is not a session of ours.


def get_with(app: Flask, cookies: str) -> Any:
    """Ask for the index page with a `Cookie` header as it stands."""
    return app.test_client(use_cookies=False).get("/", headers={"Cookie": cookies})


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("", id="E02-empty"),
        pytest.param("x", id="E02-short"),
        pytest.param("!" * 200, id="E02-not-base64"),
        pytest.param("A" * 3000, id="E02-unknown-key"),
        pytest.param("A" * 100_000, id="E02-100-kB"),
        pytest.param("é\udcff".encode("utf-8", "replace").decode(), id="E02-utf-8"),
        pytest.param("AAAA.", id="E10-continued"),
        pytest.param("." * 50, id="E10-dots"),
    ],
)
def test_garbage(app: Flask, value: str) -> None:
    """Anything that no key of ours sealed is nobody, and left alone."""
    name = cookie_names(app)[0]
    response = get_with(app, f"{name}={value}")

    assert response.json == {"user": {}, "error": None}
    assert not cookies_set(response)


def test_every_flipped_byte(signed_in: FlaskClient, app: Flask) -> None:
    """E02: one changed character anywhere, and it is nobody; never a 500."""
    ((name, value),) = session_cookies(signed_in).items()

    for at in range(0, len(value), 37):
        other = "A" if value[at] != "A" else "B"
        changed = value[:at] + other + value[at + 1 :]
        response = get_with(app, f"{name}={changed}")
        assert response.json == {"user": {}, "error": None}, at


def test_known_key_and_broken_seal_is_cleared(
    signed_in: FlaskClient, app: Flask
) -> None:
    """E02: what names our key and was changed is deleted."""
    ((name, value),) = session_cookies(signed_in).items()
    changed = value[:-8] + ("AAAAAAAA" if value[-8:] != "AAAAAAAA" else "BBBBBBBB")

    response = get_with(app, f"{name}={changed}")

    assert cookies_set(response)[name].deletes


def test_unknown_key_is_left_alone(signed_in: FlaskClient, make_app: Any) -> None:
    """A cookie of another SECRET_KEY is nobody here, and good again over there."""
    elsewhere = make_app(SECRET_KEY=secrets.token_hex(32))
    visitor = twin(signed_in, elsewhere)

    response = visitor.get("/")

    assert response.json["user"] == {}
    assert not cookies_set(response)
    assert is_signed_in(signed_in)


def test_change_of_keys(signed_in: FlaskClient, make_app: Any, clock: Any) -> None:
    """First into the fallbacks everywhere, then to the front: nobody is logged out."""
    new = secrets.token_hex(32)
    first = make_app(SECRET_KEY_FALLBACKS=[new])
    then = make_app(SECRET_KEY=new, SECRET_KEY_FALLBACKS=[SECRET_KEY])
    last = make_app(SECRET_KEY=new)

    browser = twin(signed_in, first)
    assert is_signed_in(browser)
    browser = twin(browser, then)
    assert is_signed_in(browser)
    assert not is_signed_in(twin(browser, last))
    clock.advance(DAY)  # the cookie is rolled, and sealed with the new key
    assert is_signed_in(browser)
    assert is_signed_in(twin(browser, last))


def test_nameless_cookie_shadows_nothing(signed_in: FlaskClient, app: Flask) -> None:
    """E02: `=name=value` is not a cookie called `name`."""
    ((name, value),) = session_cookies(signed_in).items()

    response = get_with(app, f"={name}={value}")

    assert response.json["user"] == {}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda a, b: {0: b[0], 1: a[0]}, id="E10-swapped"),
        pytest.param(lambda a, b: {0: a[0]}, id="E10-second-missing"),
        pytest.param(lambda a, b: {1: a[1]}, id="E10-first-missing"),
        pytest.param(lambda a, b: {0: a[0], 1: b[1]}, id="E10-of-another"),
        pytest.param(lambda a, b: {0: a[0], 1: a[1] + "AAAA"}, id="E10-longer"),
        pytest.param(lambda a, b: {0: a[0], 1: ""}, id="E10-second-empty"),
    ],
)
def test_parts_that_do_not_fit(
    growing_app: Flask, grown: dict[str, int], sign_in: Any, change: Any
) -> None:
    """Parts that were swapped, cut or mixed are nobody."""
    grown["size"] = 2000
    one, other = growing_app.test_client(), growing_app.test_client()
    sign_in(one)
    sign_in(other, "bob@example.com")
    names = cookie_names(growing_app)
    a, b = ([session_cookies(client)[n] for n in names] for client in (one, other))
    mixed = change(a, b)
    header = "; ".join(f"{names[at]}={value}" for at, value in mixed.items())

    response = get_with(growing_app, header)

    assert response.json == {"user": {}, "error": None}


def test_extra_parts_are_not_read(signed_in: FlaskClient, app: Flask) -> None:
    """E10: an index beyond ours costs nothing and changes nothing."""
    ((name, value),) = session_cookies(signed_in).items()
    extra = "; ".join(f"{name}.{index}=AAAA" for index in (1, 2, 99_999_999))

    response = get_with(app, f"{name}={value}; {extra}")

    assert response.json["user"]["email"] == "alice@example.com"


# Age.


def test_it_rolls(signed_in: FlaskClient, clock: Any, pool: LocalUserPool) -> None:
    """An unchanged session is written once a day, and lives 30 days from then."""
    pool.access_token_validity = DAY
    signed_in.get("/auth/session")
    clock.advance(3600)
    assert cookies_set(signed_in.get("/"))  # the refresh
    clock.advance(DAY // 2)
    assert not cookies_set(signed_in.get("/"))
    clock.advance(DAY // 2 - 120)
    assert not cookies_set(signed_in.get("/"))


def test_unchanged_session_is_written_again(
    make_app: Any, sign_in: Any, clock: Any, pool: LocalUserPool
) -> None:
    """`COGNITO_SESSION_UPDATE_AGE` is how long a written cookie is good enough."""
    client = make_app(COGNITO_SESSION_UPDATE_AGE=600).test_client()
    sign_in(client)
    first = session_cookies(client)

    clock.advance(599)
    assert not cookies_set(client.get("/"))
    clock.advance(1)
    assert cookies_set(client.get("/"))
    assert session_cookies(client) != first
    assert pool.counters["token.refresh_token"] == 0


def test_idle_limit(make_app: Any, sign_in: Any, clock: Any) -> None:
    """E07: the server refuses an idle session although the browser still sends it."""
    client = make_app(COGNITO_SESSION_MAX_AGE=1000).test_client()
    sign_in(client)
    cookies = session_cookies(client)
    clock.advance(1000)
    put_cookies(client, cookies)

    assert client.get("/private", headers=SCRIPT).status_code == 401


def test_idle_limit_rolls(make_app: Any, sign_in: Any, clock: Any) -> None:
    """E07: whoever comes often enough stays."""
    client = make_app(COGNITO_SESSION_MAX_AGE=1000).test_client()
    sign_in(client)
    for _ in range(5):
        clock.advance(900)
        assert client.get("/private").status_code == 200


def test_absolute_limit(make_app: Any, sign_in: Any, clock: Any) -> None:
    """E07, D27: counted from sign-in; neither rolling nor refreshing extends it."""
    client = make_app(
        COGNITO_SESSION_MAX_AGE=1000, COGNITO_SESSION_ABSOLUTE_MAX_AGE=5000
    ).test_client()
    sign_in(client)
    for _ in range(5):
        clock.advance(900)
        response = client.get("/private")
        assert response.status_code == 200
    (cookie,) = cookies_set(response).values()
    assert int(cookie.attributes["Max-Age"]) <= 500

    clock.advance(500)
    assert client.get("/private", headers=SCRIPT).status_code == 401


def test_signed_out_means_no_cookie(signed_in: FlaskClient) -> None:
    """After the logout the browser sends nothing of ours."""
    sign_out(signed_in)

    assert session_cookies(signed_in) == {}


def test_a_late_answer_of_an_ended_session_spares_the_next_login(
    app: Flask, client: FlaskClient, sign_in: Any
) -> None:
    """Another tab signs in anew while a slow request is under way: it stays so."""

    def slow() -> str:
        assert current_session
        sign_in(client.application.extensions["other_tab"], "bob@example.com")
        return "slow"

    app.add_url_rule("/slow-page", "slow_page", slow)
    sign_in(client)
    app.extensions["other_tab"] = twin(client)

    late = client.get("/slow-page")

    assert late.text == "slow"
    assert not cookies_set(late)
    assert is_signed_in(app.extensions["other_tab"])
