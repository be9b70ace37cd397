"""`/auth/login` and `/auth/callback`: a login from the first link to the session."""

from __future__ import annotations

import base64
import hashlib
import logging
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from browsing import cookies_set, session_cookies, twin
from flask import Flask, session
from flask.testing import FlaskClient

from flask_cognito_rotate import LoginError
from flask_cognito_rotate.local import Fault, LocalUserPool, Tamper

CODE = "token.authorization_code"


def begin(client: FlaskClient, path: str = "/auth/login") -> str:
    """Start a login, and return the URL of the authorization request."""
    response = client.get(path)
    assert response.status_code == 302, response.text
    location: str = response.location
    return location


def query(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def pending(client: FlaskClient) -> list[str]:
    """Return the values of the cookies of logins that have not come back."""
    with client:
        client.get("/")
        from flask import request

        return [value for name, value in request.cookies.items() if "_tx_" in name]


def is_signed_in(client: FlaskClient) -> bool:
    return bool(client.get("/auth/session").json)


# The request.


def test_authorization_request(client: FlaskClient, pool: LocalUserPool) -> None:
    """A01: code flow, S256, fresh state and nonce, our redirect URI, and no secret."""
    location = begin(client)
    asked, again = query(location), query(begin(client))

    assert location.startswith(f"{pool.url}/oauth2/authorize?")
    assert asked["response_type"] == "code"
    assert asked["client_id"] == pool.client_id
    assert asked["redirect_uri"] == "http://localhost/auth/callback"
    assert asked["scope"].split() == ["openid", "email", "profile"]
    assert asked["code_challenge_method"] == "S256"
    assert pool.client_secret and pool.client_secret not in location
    for name in ("state", "nonce", "code_challenge"):
        assert len(asked[name]) >= 22  # 128 bits and more
        assert asked[name] != again[name]


def test_code_is_redeemed_with_its_verifier(
    client: FlaskClient, sign_in: Any, pool: LocalUserPool
) -> None:
    """A02: the verifier belongs to the challenge, and is long enough."""
    location = begin(client)
    client.get(pool.sign_in(None, location))

    (sent,) = [r.form for r in pool.requests if "code_verifier" in r.form]
    verifier = sent["code_verifier"]
    digest = hashlib.sha256(verifier.encode()).digest()
    challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    assert query(location)["code_challenge"] == challenge
    assert 43 <= len(verifier) <= 128
    assert sent["redirect_uri"] == "http://localhost/auth/callback"
    assert pool.client_secret not in sent.values()
    assert not pool.complaints


def test_configured_redirect_uri_is_sent_verbatim(make_app: Any) -> None:
    """A01: what is registered with Cognito is what is sent, to the letter."""
    uri = "http://127.0.0.1:5000/auth/callback"
    client = make_app(COGNITO_REDIRECT_URI=uri).test_client()

    assert query(begin(client))["redirect_uri"] == uri


def test_scopes_and_parameters_come_from_the_settings(make_app: Any) -> None:
    """`COGNITO_SCOPES` and `COGNITO_AUTHORIZE_PARAMS` go into every login."""
    client = make_app(
        COGNITO_SCOPES="openid phone",
        COGNITO_AUTHORIZE_PARAMS={"lang": "de", "identity_provider": "Google"},
    ).test_client()

    asked = query(begin(client))

    assert asked["scope"] == "openid phone"
    assert (asked["lang"], asked["identity_provider"]) == ("de", "Google")


def test_link_may_choose_some_parameters_only(client: FlaskClient) -> None:
    """A login link sets a language, and neither the scopes nor where it comes back."""
    evil = "&scope=admin&redirect_uri=https://evil.example/&response_type=token&x=y"
    asked = query(begin(client, "/auth/login?lang=fr&login_hint=a%40b.c" + evil))

    assert (asked["lang"], asked["login_hint"]) == ("fr", "a@b.c")
    assert asked["scope"] == "openid email profile"
    assert asked["redirect_uri"] == "http://localhost/auth/callback"
    assert asked["response_type"] == "code"
    assert "x" not in asked


def test_login_answer_is_not_kept_by_caches(client: FlaskClient) -> None:
    """E13: the redirect carries a state, and belongs to one browser."""
    response = client.get("/auth/login")

    assert response.headers["Cache-Control"] == "private, no-store"
    assert "Cookie" in response.headers["Vary"]


def test_pending_login_is_sealed(client: FlaskClient) -> None:
    """The transaction cookie shows neither verifier, nor nonce, nor `next`."""
    response = client.get("/auth/login?next=/secret-place")
    asked = query(response.location)
    ((name, cookie),) = cookies_set(response).items()

    decoded = base64.urlsafe_b64decode(cookie.value.partition(".")[2])
    for text in (asked["nonce"], asked["state"], "secret-place", "verifier"):
        assert text not in cookie.value
        assert text.encode() not in decoded
    assert asked["state"] not in name
    assert cookie.attributes["HttpOnly"] is True
    assert cookie.attributes["SameSite"] == "Lax"
    assert int(cookie.attributes["Max-Age"]) <= 900


# The way back.


def test_login_leads_back_to_next(client: FlaskClient, sign_in: Any) -> None:
    """Who was sent away comes back to the page, query included, and is signed in."""
    back = sign_in(client, next="/private?page=2")

    assert back.status_code == 302
    assert back.location == "/private?page=2"
    assert client.get("/private").json["user"]["email"] == "alice@example.com"


def test_login_without_next_leads_home(make_app: Any, sign_in: Any) -> None:
    """Without a target it is `COGNITO_LOGIN_REDIRECT`, a path or an endpoint's name."""
    for setting in ("/private", "private"):
        client = make_app(COGNITO_LOGIN_REDIRECT=setting).test_client()
        assert sign_in(client, next="").location == "/private"


def test_callback_answer_is_not_kept_and_sends_no_referrer(
    client: FlaskClient, sign_in: Any
) -> None:
    """E13: the callback's address holds the code."""
    back = sign_in(client)

    assert back.headers["Cache-Control"] == "private, no-store"
    assert back.headers["Referrer-Policy"] == "no-referrer"
    assert "Cookie" in back.headers["Vary"]


def test_pending_login_is_removed(client: FlaskClient, sign_in: Any) -> None:
    """A login that came back leaves no transaction cookie."""
    sign_in(client)

    assert pending(client) == []


def test_flask_session_is_left_alone(make_app: Any, sign_in: Any) -> None:
    """G04: nothing of ours is in `flask.session`, and what is there stays."""
    app: Flask = make_app()

    @app.get("/own")
    def own() -> dict[str, Any]:
        session.setdefault("cart", 1)
        return dict(session)

    client = app.test_client()
    client.get("/own")
    back = sign_in(client)

    assert client.get("/own").json == {"cart": 1}
    assert "session" not in cookies_set(back)


def callback_of(client: FlaskClient, pool: LocalUserPool) -> str:
    return pool.sign_in(None, begin(client))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda u, s: u.replace(f"state={s}", ""), id="A03-missing"),
        pytest.param(lambda u, s: u.replace(s, ""), id="A03-empty"),
        pytest.param(
            lambda u, s: u.replace(s, s[:-1] + ("a" if s[-1] != "a" else "b")),
            id="A03-changed",
        ),
        pytest.param(lambda u, s: f"{u}&state={s}", id="A03-twice"),
        pytest.param(lambda u, s: u.replace(s, "x" * 5000), id="A03-long"),
        pytest.param(lambda u, s: u.replace(s, "%00%0d%0a"), id="A03-control"),
    ],
)
def test_wrong_state(client: FlaskClient, pool: LocalUserPool, change: Any) -> None:
    """Without its state a login does not happen, and the code is not redeemed."""
    url = callback_of(client, pool)

    response = client.get(change(url, query(url)["state"]))

    assert response.status_code == 400
    assert pool.counters[CODE] == 0
    assert not is_signed_in(client)


def test_login_of_another_browser(app: Flask, pool: LocalUserPool) -> None:
    """A04: a genuine answer to one browser opens nothing in another."""
    attacker, victim = app.test_client(), app.test_client()
    url = callback_of(attacker, pool)
    begin(victim)  # the victim has a login of their own under way, too

    response = victim.get(url)

    assert response.status_code == 400
    assert pool.counters[CODE] == 0
    assert not is_signed_in(victim)


def test_reloaded_callback_of_a_signed_in_user(
    client: FlaskClient, pool: LocalUserPool
) -> None:
    """A05: the back button leads home; the session is untouched."""
    url = callback_of(client, pool)
    client.get(url)
    before = session_cookies(client)

    again = client.get(url)

    assert (again.status_code, again.location) == (302, "/")
    assert pool.counters[CODE] == 1
    assert session_cookies(client) == before


def test_reloaded_callback_of_nobody(client: FlaskClient, pool: LocalUserPool) -> None:
    """A05: an answer that was used already offers a new start, and spends nothing."""
    url = callback_of(client, pool)
    client.get(url)
    stranger = client.application.test_client()

    response = stranger.get(url)

    assert response.status_code == 400
    assert "/auth/login" in response.text
    assert pool.counters[CODE] == 1


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_tabs(
    client: FlaskClient, pool: LocalUserPool, order: tuple[int, int]
) -> None:
    """A06: logins begun in two tabs both succeed, whichever comes back first."""
    started = [begin(client, f"/auth/login?next=/tab{n}") for n in (0, 1)]
    urls = [pool.sign_in(None, location) for location in started]

    targets = {n: client.get(urls[n]).location for n in order}

    assert targets == {0: "/tab0", 1: "/tab1"}
    assert is_signed_in(client)


def test_many_unfinished_logins(client: FlaskClient, pool: LocalUserPool) -> None:
    """A07: sixty begun logins take at most 1,500 bytes; the newest one works."""
    locations = [begin(client) for _ in range(60)]

    assert sum(len(value) for value in pending(client)) <= 1500
    response = client.get(pool.sign_in(None, locations[-1]))
    assert response.status_code == 302
    assert is_signed_in(client)


def test_login_that_takes_too_long(
    client: FlaskClient, pool: LocalUserPool, clock: Any
) -> None:
    """A08: after a quarter of an hour a login has to start again."""
    url = callback_of(client, pool)
    clock.advance(901)

    response = client.get(url)

    assert response.status_code == 400
    assert "/auth/login" in response.text
    assert pool.counters[CODE] == 0


def test_refusal_of_the_provider(client: FlaskClient, pool: LocalUserPool) -> None:
    """A09: `error` ends the login: no token call, and it is not pending any more."""
    state = query(begin(client))["state"]

    response = client.get(f"/auth/callback?error=access_denied&state={state}&code=c")

    assert response.status_code == 400
    assert pool.counters["token"] == 0
    assert pending(client) == []
    assert not is_signed_in(client)


def test_refusal_without_a_state(client: FlaskClient, pool: LocalUserPool) -> None:
    """A09: an error for nobody is a page, not a failure of ours."""
    response = client.get("/auth/callback?error=server_error")

    assert response.status_code == 400
    assert pool.counters["token"] == 0


@pytest.mark.parametrize(
    "description",
    [
        pytest.param("<script>alert(1)</script>", id="A10-script"),
        pytest.param("a%0d%0aSet-Cookie:%20x=y", id="A10-crlf"),
        pytest.param("%1b[31mred%1b[0m", id="J03-ansi"),
        pytest.param("x" * 10_000, id="A10-long"),
    ],
)
def test_hostile_description(
    client: FlaskClient, caplog: Any, description: str
) -> None:
    """What the query says is escaped, cut, and one line in the log."""
    state = query(begin(client))["state"]
    url = f"/auth/callback?error=e&error_description={description}&state={state}"

    response = client.get(url)

    assert response.status_code == 400
    assert "<script" not in response.text
    assert len(response.text) < 3000
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert "x=y" not in str(response.headers.getlist("Set-Cookie"))
    (line,) = [r.getMessage() for r in caplog.records if "failed" in r.getMessage()]
    assert line.isprintable()
    assert len(line) < 500


@pytest.mark.parametrize(
    ("advertised", "iss", "status"),
    [
        pytest.param(None, None, 302, id="A12-silent"),
        pytest.param(None, "right", 302, id="A12-right"),
        pytest.param(None, "https://evil.example", 400, id="A12-wrong"),
        pytest.param(True, None, 400, id="A12-absent"),
        pytest.param(True, "right", 302, id="A12-advertised"),
    ],
)
def test_issuer_of_the_answer(
    client: FlaskClient,
    pool: LocalUserPool,
    advertised: bool | None,
    iss: str | None,
    status: int,
) -> None:
    """RFC 9207: an answer of another issuer is refused before the code is sent."""
    name = "authorization_response_iss_parameter_supported"
    pool.faults.discovery = {name: advertised}
    url = callback_of(client, pool)
    if iss is not None:
        url += f"&iss={pool.issuer if iss == 'right' else iss}"

    assert client.get(url).status_code == status
    assert pool.counters[CODE] == (status == 302)


def test_code_of_another_login(app: Flask, pool: LocalUserPool) -> None:
    """A13: an attacker's code under the victim's state is refused by PKCE."""
    attacker, victim = app.test_client(), app.test_client()
    stolen = query(callback_of(attacker, pool))["code"]
    state = query(begin(victim))["state"]

    response = victim.get(f"/auth/callback?code={stolen}&state={state}")

    assert response.status_code == 400
    assert not is_signed_in(victim)


def answer(**fields: Any) -> Fault:
    def edit(right: dict[str, Any]) -> dict[str, Any]:
        changed = {**right, **fields}
        return {name: value for name, value in changed.items() if value is not None}

    return Fault(edit=edit)


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        pytest.param(answer(id_token=None), 400, id="A14-no-id-token"),
        pytest.param(answer(unknown={"x": 1}), 302, id="A14-unknown-field"),
        pytest.param(answer(token_type="BEARER"), 302, id="A14-upper-case"),
        pytest.param(answer(token_type=None), 400, id="A14-no-type"),
        pytest.param(answer(token_type="mac"), 400, id="A14-mac"),
        pytest.param(answer(access_token=None), 503, id="no-access-token"),
        pytest.param(Fault(status=500), 503, id="500"),
        pytest.param(Fault(body=b"<html>"), 503, id="html"),
        pytest.param(
            Fault(status=400, body=b'{"error": "invalid_grant"}'), 400, id="used-code"
        ),
        pytest.param(
            Fault(status=401, body=b'{"error": "invalid_client"}'), 502, id="secret"
        ),
    ],
)
def test_answer_to_the_code(
    client: FlaskClient, pool: LocalUserPool, fault: Fault, status: int
) -> None:
    """What the token endpoint answers decides the page; none is a 500."""
    pool.faults.queue(CODE, fault)

    response = client.get(callback_of(client, pool))

    assert response.status_code == status
    assert is_signed_in(client) == (status == 302)


def changed(**claims: Any) -> Tamper:
    def change(right: dict[str, Any]) -> dict[str, Any]:
        changed = {**right, **claims}
        return {name: value for name, value in changed.items() if value is not None}

    return Tamper(claims=change)


@pytest.mark.parametrize(
    "tamper",
    [
        pytest.param(changed(iss="https://evil.example"), id="B02-issuer"),
        pytest.param(changed(sub=None), id="B03-no-subject"),
        pytest.param(changed(aud="another-client"), id="B04-audience"),
        pytest.param(changed(iat=None), id="B06-no-iat"),
        pytest.param(changed(exp=1), id="B07-expired"),
        pytest.param(changed(nonce="other"), id="B09-nonce"),
        pytest.param(changed(nonce=None), id="B09-no-nonce"),
        pytest.param(Tamper.bad_signature(), id="B10-signature"),
        pytest.param(Tamper.alg_none(), id="B11-none"),
        pytest.param(Tamper.hs256(b"secret"), id="B12-hs256"),
        pytest.param(Tamper.other_algorithm("RS384"), id="B13-rs384"),
        pytest.param(changed(token_use="access"), id="B15-access-token"),
        pytest.param(changed(at_hash="wrong"), id="B16-at-hash"),
    ],
)
def test_wrong_id_token(
    client: FlaskClient, pool: LocalUserPool, tamper: Tamper
) -> None:
    """A login with a wrong ID token is refused and revoked, and no detail is told."""
    pool.faults.tamper("id_token", tamper, at="login")

    response = client.get(callback_of(client, pool))

    assert response.status_code == 400
    assert not is_signed_in(client)
    assert pool.counters["revoke"] == 1
    assert pool.live_refresh_tokens() == 0
    for detail in ("nonce", "signature", "issuer", "audience"):
        assert detail not in response.text


def test_keys_replaced_between_two_logins(
    client: FlaskClient, sign_in: Any, pool: LocalUserPool
) -> None:
    """C03: new keys of the pool need no restart."""
    sign_in(client)
    pool.rotate_keys()

    assert sign_in(client).status_code == 302
    assert is_signed_in(client)


# The session that a login brings.


def test_login_ends_the_session_before(
    app: Flask, sign_in: Any, pool: LocalUserPool
) -> None:
    """E08: a planted session is over, revoked, and nothing of it is carried over."""
    client = app.test_client()
    sign_in(client, "bob@example.com")
    planted = twin(client)
    old = session_cookies(client)

    sign_in(client)

    assert client.get("/private").json["user"]["email"] == "alice@example.com"
    assert session_cookies(client) != old
    assert pool.live_refresh_tokens() == 1
    assert planted.get("/auth/session").json == {}


def test_login_over_a_broken_cookie(
    app: Flask, client: FlaskClient, sign_in: Any
) -> None:
    """E02: a spoilt session cookie is replaced by the login, not left in its way."""
    sign_in(client)
    (name,) = session_cookies(client)
    client.set_cookie(name, session_cookies(client)[name][:-6] + "AAAAAA")

    sign_in(client)

    assert is_signed_in(client)


def test_each_login_has_its_own_id(app: Flask, sign_in: Any) -> None:
    """E08: two logins of one user are two sessions."""
    app.add_url_rule("/sid", "sid", lambda: {"sid": current_sid()})
    first, second = app.test_client(), app.test_client()
    sign_in(first)
    sign_in(second)

    assert first.get("/sid").json != second.get("/sid").json


def current_sid() -> str:
    from flask_cognito_rotate import current_session

    sid: str = current_session["sid"]
    return sid


# When it cannot start.


def test_provider_down_at_login(client: FlaskClient, pool: LocalUserPool) -> None:
    """I01: a page that says to come back, with Retry-After, and no redirect loop."""
    pool.stop()

    response = client.get("/auth/login")

    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) >= 1
    assert response.headers["Cache-Control"] == "private, no-store"
    pool.start()


def test_error_pages_tell_no_details(
    client: FlaskClient, pool: LocalUserPool, caplog: Any
) -> None:
    """J02: the user sees a generic page; the reason is in the log alone."""
    caplog.set_level(logging.DEBUG)
    pool.faults.queue(CODE, Fault(status=401, body=b'{"error": "invalid_client"}'))

    response = client.get(callback_of(client, pool))

    assert response.status_code == 502
    assert "invalid_client" not in response.text
    assert "Traceback" not in response.text
    assert "invalid_client" in caplog.text


def test_nothing_secret_is_logged(
    client: FlaskClient, sign_in: Any, pool: LocalUserPool, clock: Any, caplog: Any
) -> None:
    """J01: at DEBUG, neither tokens nor codes nor cookies nor the secret show up."""
    caplog.set_level(logging.DEBUG)
    location = begin(client)
    url = pool.sign_in(None, location)
    client.get(url)
    clock.advance(3600)
    tokens = client.get("/private").json

    ours = "\n".join(
        f"{record.getMessage()} {record.__dict__}"
        for record in caplog.records
        if record.name == "flask_cognito_rotate"
    )
    (cookie,) = session_cookies(client).values()
    verifiers = [
        r.form["code_verifier"] for r in pool.requests if "code_verifier" in r.form
    ]
    secrets = [
        tokens["accessToken"],
        tokens["refreshToken"],
        query(url)["code"],
        query(url)["state"],
        query(location)["nonce"],
        pool.client_secret,
        cookie,
        *verifiers,
    ]
    assert ours
    assert [secret for secret in secrets if str(secret) in ours] == []


def test_login_error_is_a_400_of_ours() -> None:
    """Applications may tell a refused login from other trouble."""
    assert LoginError("no").status == 400


@pytest.mark.parametrize("case", ["J04"])
def test_case_of_a_refused_id_token_leaves_its_reason_in_the_log(
    case: str,
    client: FlaskClient,
    pool: LocalUserPool,
    sign_in: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The user reads a general sentence, whoever runs the application the reason."""
    pool.faults.tamper(
        "id_token", at="login", claims=lambda c: {**c, "iss": c["iss"] + "1"}
    )

    refused = sign_in(client)

    assert refused.status_code == 400
    (record,) = [r for r in caplog.records if getattr(r, "event", "") == "login_failed"]
    assert record.__dict__["error_type"] == "InvalidIssuer"
    assert "iss" in record.getMessage()
    assert "iss" not in refused.text.lower().replace("missing", "")


def test_one_answer_sent_twice_at_once_is_redeemed_once(
    app: Any, pool: LocalUserPool
) -> None:
    """A browser that sends the callback several times does not spend its code twice."""
    client = app.test_client()
    back = pool.sign_in(None, client.get("/auth/login").location)
    jar = client.get_cookie
    pending = [c for c in client._cookies.values() if "_tx_" in c.key]
    assert jar is not None and len(pending) == 1
    header = {"Cookie": f"{pending[0].key}={pending[0].value}"}

    answers = [
        app.test_client(use_cookies=False).get(back, headers=header).status_code
        for _ in range(4)
    ]

    assert answers == [302, 302, 302, 302]
    assert pool.counters["token.authorization_code"] == 1


def test_an_endpoint_that_does_not_exist_leads_home(
    make_app: Any, sign_in: Any, caplog: pytest.LogCaptureFixture
) -> None:
    client = make_app(COGNITO_LOGIN_REDIRECT="nowhere").test_client()

    begun = client.get("/auth/login")

    assert begun.status_code == 302
    assert any("COGNITO_LOGIN_REDIRECT" in r.getMessage() for r in caplog.records)


def test_the_callback_shows_no_text_of_a_stranger(client: FlaskClient) -> None:
    """An error that belongs to no login of this browser is not repeated."""
    answer = client.get(
        "/auth/callback?error=locked&error_description=Call+0800-EVIL+now&state=x"
    )

    assert answer.status_code == 400
    assert "EVIL" not in answer.text


def test_a_login_link_in_a_template_takes_parameters(app: Any) -> None:
    with app.test_request_context():
        html = app.jinja_env.from_string(
            "{{ cognito_login_url(next='/x', identity_provider='Google') }}"
        )
        functions: dict[str, Any] = {}
        app.update_template_context(functions)

        assert html.render(functions) == (
            "/auth/login?next=/x&amp;identity_provider=Google"
        )
