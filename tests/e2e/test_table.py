"""The two tables of what a request meets: the token's state, the refresh's outcome."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from browsing import NAVIGATE, SCRIPT, cookies_set, session_cookies, sign_out, twin
from flask import Flask
from flask.testing import FlaskClient

from flask_cognito_rotate import CognitoAuth, current_session
from flask_cognito_rotate.local import Fault, LocalUserPool, Tamper

LOGGER = "flask_cognito_rotate"
REFRESH = "token.refresh_token"


class Gate:
    """Holds a call to the pool until a test lets it through."""

    def __init__(self) -> None:
        self.arrived = threading.Event()
        self.opened = threading.Event()

    def __call__(self) -> None:
        self.arrived.set()
        self.opened.wait(10)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.opened.set()


@pytest.fixture
def signed_in(client: FlaskClient, sign_in: Any, caplog: Any) -> FlaskClient:
    caplog.set_level(logging.DEBUG, LOGGER)
    sign_in(client)
    return client


def tokens(client: FlaskClient) -> dict[str, Any]:
    """Return what the application sees of its tokens."""
    response = client.get("/private")
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json
    return answer


# The access token is valid.


def test_valid_token_needs_nothing(
    signed_in: FlaskClient, pool: LocalUserPool, clock: Any, caplog: Any
) -> None:
    """A token with more than the leeway left is used: no call, no cookie, one line."""
    before = tokens(signed_in)
    asked = dict(pool.counters)
    clock.advance(3600 - 61)
    caplog.clear()

    response = signed_in.get("/private")

    assert response.json == before
    assert dict(pool.counters) == asked
    assert not cookies_set(response)
    assert caplog.messages == [f"Token available (expired at: {before['expires']})"]


def test_request_without_a_cookie_costs_nothing(
    client: FlaskClient, pool: LocalUserPool, app: Flask, tmp_path: Any
) -> None:
    """Nobody's request asks neither the provider nor the cache, and sets no cookie."""
    response = client.get("/")

    assert response.json == {"user": {}, "error": None}
    assert not pool.counters
    assert not response.headers.getlist("Set-Cookie")


# The access token is within the leeway.


def test_within_leeway_one_request_refreshes(
    signed_in: FlaskClient, pool: LocalUserPool, clock: Any
) -> None:
    """Less than the leeway before its end, the token is exchanged for a new one."""
    before = tokens(signed_in)
    clock.advance(3600 - 60)

    after = tokens(signed_in)

    assert after["accessToken"] != before["accessToken"]
    assert after["refreshToken"] != before["refreshToken"]
    assert after["expires"] == int(clock()) + 3600
    assert pool.counters[REFRESH] == 1


def test_within_leeway_the_others_wait_for_nothing(
    signed_in: FlaskClient, pool: LocalUserPool, clock: Any, gate: Gate
) -> None:
    """While one request refreshes ahead, another is served with the valid token."""
    before = tokens(signed_in)
    beside = twin(signed_in)
    clock.advance(3600 - 30)
    pool.faults.queue(REFRESH, Fault(before=gate))

    with ThreadPoolExecutor(1) as threads:
        refreshing = threads.submit(tokens, signed_in)
        assert gate.arrived.wait(5)
        seen_beside = tokens(beside)
        gate.opened.set()
        after = refreshing.result()

    assert seen_beside["accessToken"] == before["accessToken"]
    assert after["accessToken"] != before["accessToken"]
    assert pool.counters[REFRESH] == 1


def test_within_leeway_the_back_off_holds(
    signed_in: FlaskClient, pool: LocalUserPool, clock: Any
) -> None:
    """A failure ahead of time changes nothing but when the next try is."""
    before = tokens(signed_in)
    clock.advance(3600 - 30)
    pool.faults.queue(REFRESH, Fault(status=500))

    assert [tokens(signed_in) for _ in range(3)] == [before] * 3
    assert pool.counters[REFRESH] == 1

    clock.advance(2)
    assert tokens(signed_in)["accessToken"] != before["accessToken"]
    assert pool.counters[REFRESH] == 2


# The access token is expired.


def test_expired_token_is_refreshed(
    signed_in: FlaskClient, pool: LocalUserPool, clock: Any
) -> None:
    """The request that meets an expired token answers with a new one, and keeps it."""
    before = tokens(signed_in)
    clock.advance(3600)

    after = tokens(signed_in)

    assert after["accessToken"] != before["accessToken"]
    assert tokens(signed_in) == after
    assert pool.counters[REFRESH] == 1


def test_expired_twice_uses_the_newest_refresh_token(
    signed_in: FlaskClient, pool: LocalUserPool, clock: Any
) -> None:
    """D01: the second refresh sends the token that the first one brought."""
    sent = []
    for _ in range(3):
        sent.append(tokens(signed_in)["refreshToken"])
        clock.advance(3600)
    tokens(signed_in)

    forms = [one.form for one in pool.requests if "refresh_token" in one.form]
    assert [form["refresh_token"] for form in forms] == sent
    assert len(set(sent)) == 3
    assert pool.counters["RefreshTokenReuse"] == 0


def test_expired_the_others_wait_for_the_record(
    signed_in: FlaskClient, pool: LocalUserPool, clock: Any, gate: Gate
) -> None:
    """D07: requests beside the one that refreshes wait, and get the same new token."""
    others = [twin(signed_in) for _ in range(4)]
    clock.advance(3600)
    pool.faults.queue(REFRESH, Fault(before=gate))

    with ThreadPoolExecutor(5) as threads:
        answers = [threads.submit(tokens, one) for one in (signed_in, *others)]
        assert gate.arrived.wait(5)
        gate.opened.set()
        seen = {answer.result()["accessToken"] for answer in answers}

    assert len(seen) == 1
    assert pool.counters[REFRESH] == 1


def test_expired_the_others_wait_no_longer_than_the_limit(
    make_app: Any, sign_in: Any, pool: LocalUserPool, clock: Any, gate: Gate
) -> None:
    """A request that waits for another's refresh gives up with 503 in time."""
    client = make_app(COGNITO_HTTP_TIMEOUT=0.2).test_client()
    sign_in(client)
    beside = twin(client)
    clock.advance(3600)
    pool.faults.queue(REFRESH, Fault(before=gate))

    with ThreadPoolExecutor(1) as threads:
        refreshing = threads.submit(tokens, client)
        assert gate.arrived.wait(5)
        waited = beside.get("/private", headers=SCRIPT)
        gate.opened.set()
        after = refreshing.result()

    assert waited.status_code == 503
    assert int(waited.headers["Retry-After"]) >= 1
    assert tokens(beside)["accessToken"] == after["accessToken"]
    assert pool.counters[REFRESH] == 1


def test_old_cookie_gets_the_newest_tokens_without_a_call(
    signed_in: FlaskClient, pool: LocalUserPool, clock: Any
) -> None:
    """Whoever comes with the cookie of before gets what the refresh brought."""
    late = twin(signed_in)
    clock.advance(3600)
    after = tokens(signed_in)

    assert tokens(late) == after
    assert session_cookies(late)
    assert pool.counters[REFRESH] == 1


# A refresh brings new tokens.


def test_answer_without_refresh_token_keeps_the_old_one(
    make_app: Any, sign_in: Any, pool: LocalUserPool, clock: Any
) -> None:
    """D02: without rotation the refresh token of the sign-in goes on."""
    pool.rotation = False
    client = make_app().test_client()
    sign_in(client)
    before = tokens(client)
    clock.advance(3600)

    after = tokens(client)

    assert after["refreshToken"] == before["refreshToken"]
    assert after["accessToken"] != before["accessToken"]


def test_answer_without_id_token_keeps_the_old_claims(
    signed_in: FlaskClient, pool: LocalUserPool, clock: Any
) -> None:
    """D02: whoever signed in stays who they are when no ID token comes back."""
    before = tokens(signed_in)
    clock.advance(3600)
    pool.faults.queue(REFRESH, Fault(edit=lambda a: {**a, "id_token": None}))

    after = tokens(signed_in)

    assert after["user"] == before["user"]
    assert after["accessToken"] != before["accessToken"]


def test_refreshed_id_token_brings_new_claims(
    make_app: Any, sign_in: Any, pool: LocalUserPool, clock: Any
) -> None:
    """Groups and names follow the pool at the next refresh."""
    app = make_app()
    app.add_url_rule("/groups", "groups", lambda: sorted(current_session.groups))
    client = app.test_client()
    sign_in(client)
    assert client.get("/groups").json == ["admin", "users"]
    pool.add_user("alice@example.com", name="Alice Hargreaves", groups=["readers"])
    clock.advance(3600)

    assert client.get("/groups").json == ["readers"]
    assert tokens(client)["user"]["name"] == "Alice Hargreaves"


LONG = 86_400


@pytest.mark.parametrize(
    ("value", "lifetime"),
    [
        pytest.param(None, 3600, id="D20-missing"),
        pytest.param("abc", 3600, id="D20-word"),
        pytest.param(True, 3600, id="D20-true"),
        pytest.param(float("nan"), 3600, id="D20-nan"),
        pytest.param(-5, 3600, id="D20-negative"),
        pytest.param([], 3600, id="D20-list"),
        pytest.param("600", 600, id="D20-text"),
        pytest.param(600.5, 600, id="D20-fraction"),
        pytest.param(1e30, LONG, id="D20-for-ever"),
    ],
)
def test_odd_lifetimes(
    signed_in: FlaskClient,
    pool: LocalUserPool,
    clock: Any,
    value: object,
    lifetime: int,
) -> None:
    """An unusable `expires_in` gives way to the token's own end; 24 h is the most."""

    def with_lifetime(answer: dict[str, Any]) -> dict[str, Any]:
        answer.pop("expires_in")
        return answer if value is None else {**answer, "expires_in": value}

    clock.advance(3600)
    pool.faults.queue(REFRESH, Fault(edit=with_lifetime))

    assert tokens(signed_in)["expires"] == int(clock()) + lifetime


def test_opaque_token_without_lifetime_is_used_for_five_minutes(
    signed_in: FlaskClient, pool: LocalUserPool, clock: Any
) -> None:
    """With neither `expires_in` nor a readable `exp`, 300 s are assumed."""
    clock.advance(3600)
    opaque = {"access_token": "opaque", "expires_in": "?"}
    pool.faults.queue(REFRESH, Fault(edit=lambda a: {**a, **opaque}))

    assert tokens(signed_in)["expires"] == int(clock()) + 300


def test_tokens_that_come_expired_make_no_loop(
    signed_in: FlaskClient, pool: LocalUserPool, clock: Any
) -> None:
    """D20: `expires_in` 0 costs at most one refresh a second, and never a 500."""
    clock.advance(3600)
    pool.faults.always(REFRESH, Fault(edit=lambda a: {**a, "expires_in": 0}))

    for _ in range(5):
        tokens(signed_in)
    assert pool.counters[REFRESH] == 1

    clock.advance(1)
    for _ in range(5):
        tokens(signed_in)
    assert pool.counters[REFRESH] == 2


# A refresh fails for now.


def answering(**fault: Any) -> Callable[[LocalUserPool], None]:
    return lambda pool: pool.faults.always(REFRESH, Fault(**fault))


def with_json(status: int, body: object) -> Callable[[LocalUserPool], None]:
    headers = {"Content-Type": "application/json"}
    return answering(status=status, headers=headers, body=json.dumps(body).encode())


def refused(pool: LocalUserPool) -> None:
    pool.stop()


TRANSIENT = [
    pytest.param(refused, 0, id="D17-refused"),
    pytest.param(answering(reset="before"), 2, id="D17-reset"),
    pytest.param(answering(status=429, body=b"slow down"), 1, id="D17-429"),
    pytest.param(answering(status=500), 1, id="D17-500"),
    pytest.param(answering(status=502, body=b"<h1>Bad gateway"), 1, id="D17-502"),
    pytest.param(answering(status=503), 1, id="D17-503"),
    pytest.param(answering(status=200, body=b"<html>", work=False), 1, id="D17-html"),
    pytest.param(with_json(200, ["access_token"]), 1, id="D17-list"),
    pytest.param(with_json(200, {"token_type": "Bearer"}), 1, id="D17-no-token"),
    pytest.param(answering(status=403, body=b"Request blocked"), 1, id="firewall"),
    pytest.param(answering(status=302, body=b""), 1, id="redirect"),
    pytest.param(
        with_json(400, {"__type": "TooManyRequestsException"}), 1, id="D17-throttled"
    ),
    pytest.param(with_json(400, {"error": "temporarily_odd"}), 1, id="unknown-error"),
    pytest.param(with_json(400, {}), 1, id="no-error-code"),
]
CONFIGURATION = [
    pytest.param(with_json(400, {"error": code}), 1, id=f"D16-{code}")
    for code in (
        "invalid_client",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_request",
        "invalid_scope",
    )
]


def heal(pool: LocalUserPool) -> None:
    pool.faults.clear()
    pool.stop()
    pool.start()


@pytest.mark.parametrize(("fail", "calls"), TRANSIENT + CONFIGURATION)
def test_failure_while_the_token_is_valid(
    signed_in: FlaskClient,
    pool: LocalUserPool,
    clock: Any,
    fail: Callable[[LocalUserPool], None],
    calls: int,
) -> None:
    """A failed refresh is not noticed while the access token is still good."""
    before = tokens(signed_in)
    clock.advance(3600 - 30)
    fail(pool)

    answers = [tokens(signed_in), tokens(signed_in)]

    assert answers == [before, before]
    assert signed_in.get("/").json["error"] is None
    assert pool.counters[REFRESH] == calls
    heal(pool)


@pytest.mark.parametrize(("fail", "calls"), TRANSIENT + CONFIGURATION)
def test_failure_once_the_token_is_expired(
    signed_in: FlaskClient,
    pool: LocalUserPool,
    clock: Any,
    fail: Callable[[LocalUserPool], None],
    calls: int,
) -> None:
    """The session is kept: 503 with Retry-After until a refresh works, and no login."""
    before = tokens(signed_in)
    clock.advance(3600)
    fail(pool)

    failed = signed_in.get("/private", headers=SCRIPT)
    again = signed_in.get("/private", headers=NAVIGATE)
    session = signed_in.get("/auth/session").json

    assert (failed.status_code, again.status_code) == (503, 503)
    assert int(failed.headers["Retry-After"]) >= 1
    assert int(again.headers["Retry-After"]) >= 1
    assert not cookies_set(failed)
    assert session["user"] == before["user"]
    assert session["error"] == "RefreshAccessTokenError"
    assert session["retryAfter"] >= 1
    assert pool.counters[REFRESH] == calls

    heal(pool)
    clock.advance(2)
    after = tokens(signed_in)
    assert after["user"] == before["user"]
    assert after["accessToken"] != before["accessToken"]
    assert signed_in.get("/").json["error"] is None


@pytest.mark.parametrize(("fail", "calls"), CONFIGURATION)
def test_our_mistake_is_an_error_with_its_remedy(
    signed_in: FlaskClient,
    pool: LocalUserPool,
    clock: Any,
    caplog: Any,
    fail: Callable[[LocalUserPool], None],
    calls: int,
) -> None:
    """A refusal that our configuration causes is logged at ERROR, and what to do."""
    clock.advance(3600)
    fail(pool)

    signed_in.get("/private", headers=SCRIPT)

    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert record.event == "configuration_refused"
    assert "COGNITO_" in record.message or "app client" in record.message


def test_timeout_is_transient(
    make_app: Any, sign_in: Any, pool: LocalUserPool, clock: Any, gate: Gate
) -> None:
    """An answer that does not come within the limit leaves the session alone."""
    client = make_app(COGNITO_REFRESH_TIMEOUT=0.3).test_client()
    sign_in(client)
    clock.advance(3600)
    pool.faults.queue(REFRESH, Fault(before=gate, status=500))

    assert client.get("/private", headers=SCRIPT).status_code == 503
    assert pool.counters[REFRESH] == 1

    gate.opened.set()
    clock.advance(2)
    assert tokens(client)["accessToken"]


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault(reset="after"), id="D13-reset-after"),
        pytest.param(Fault(half=True), id="D13-half-an-answer"),
    ],
)
def test_broken_answer_is_asked_for_once_more(
    make_app: Any, sign_in: Any, pool: LocalUserPool, clock: Any, fault: Fault
) -> None:
    """D13: an answer that breaks off is asked for once more at once, in the grace."""
    pool.grace = 60
    client = make_app().test_client()
    sign_in(client)
    before = tokens(client)
    clock.advance(3600)
    pool.faults.queue(REFRESH, fault)

    after = tokens(client)

    assert after["accessToken"] != before["accessToken"]
    assert pool.counters[REFRESH] == 2


def test_lost_answer_without_grace_is_a_clean_login(
    signed_in: FlaskClient, pool: LocalUserPool, clock: Any, caplog: Any
) -> None:
    """D13: with grace 0 a lost answer ends the session, and the log says why."""
    clock.advance(3600)
    pool.faults.queue(REFRESH, Fault(reset="after"))

    response = signed_in.get("/private", headers=SCRIPT)

    assert response.status_code == 401
    assert pool.counters[REFRESH] == 2
    assert "refresh_lost" in [getattr(r, "event", None) for r in caplog.records]


def test_provider_decides_how_long_to_wait(
    signed_in: FlaskClient, pool: LocalUserPool, clock: Any
) -> None:
    """D17: nobody asks again before the provider's own Retry-After is over."""
    clock.advance(3600)
    pool.faults.queue(REFRESH, Fault(status=503, headers={"Retry-After": "30"}))

    response = signed_in.get("/private", headers=SCRIPT)
    assert response.headers["Retry-After"] == "30"
    assert response.json == {"error": "temporarily_unavailable", "retry_after": 30}

    clock.advance(29)
    assert signed_in.get("/private", headers=SCRIPT).status_code == 503
    assert pool.counters[REFRESH] == 1

    clock.advance(1)
    assert signed_in.get("/private").status_code == 200


def test_back_off_grows(
    signed_in: FlaskClient, pool: LocalUserPool, clock: Any
) -> None:
    """Each failure in a row doubles the wait, up to a minute, with jitter."""
    clock.advance(3600)
    pool.faults.always(REFRESH, Fault(status=400, body=b"odd"))
    waits = []
    for _ in range(8):
        response = signed_in.get("/private", headers=SCRIPT)
        waits.append(int(response.headers["Retry-After"]))
        clock.advance(waits[-1])

    assert pool.counters[REFRESH] == 8
    for wait, step in zip(waits, (1, 2, 4, 8, 16, 32, 60, 60), strict=True):
        assert step / 2 <= wait <= step


def test_back_off_is_the_sessions_own(
    app: Flask, sign_in: Any, pool: LocalUserPool, clock: Any
) -> None:
    """One session's failure does not keep another one from refreshing."""
    alice, bob = app.test_client(), app.test_client()
    sign_in(alice)
    sign_in(bob, "bob@example.com")
    clock.advance(3600)
    pool.faults.queue(REFRESH, Fault(status=500))

    assert alice.get("/private", headers=SCRIPT).status_code == 503
    assert bob.get("/private", headers=SCRIPT).status_code == 200


def browsers(app: Flask, sign_in: Any, count: int) -> list[FlaskClient]:
    clients = [app.test_client() for _ in range(count)]
    for client in clients:
        sign_in(client)
    return clients


@pytest.mark.parametrize("fault", [Fault(status=500), Fault(status=503)])
def test_three_sessions_in_a_row_open_the_breaker(
    app: Flask, sign_in: Any, pool: LocalUserPool, clock: Any, fault: Fault
) -> None:
    """D26: when a provider fails for three sessions, a fourth does not ask it."""
    *three, fourth = browsers(app, sign_in, 4)
    clock.advance(3600)
    pool.faults.always(REFRESH, fault)
    for client in three:
        assert client.get("/private", headers=SCRIPT).status_code == 503

    response = fourth.get("/private", headers=SCRIPT)

    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) >= 1
    assert pool.counters[REFRESH] == 3


def test_a_success_between_keeps_the_breaker_closed(
    app: Flask, sign_in: Any, pool: LocalUserPool, clock: Any
) -> None:
    """Failures of single sessions are no reason to stop the others."""
    clients = browsers(app, sign_in, 5)
    clock.advance(3600)
    broken = Fault(status=500)
    pool.faults.queue(REFRESH, broken, broken, None, broken, None)

    codes = [c.get("/private", headers=SCRIPT).status_code for c in clients]

    assert codes == [503, 503, 200, 503, 200]


@pytest.mark.parametrize("code", ["invalid_client", "temporarily_odd"])
def test_refusals_open_no_breaker(
    app: Flask, sign_in: Any, pool: LocalUserPool, clock: Any, code: str
) -> None:
    """Only broken connections, 5xx and 429 stand for the provider as a whole."""
    clients = browsers(app, sign_in, 4)
    clock.advance(3600)
    with_json(400, {"error": code})(pool)

    for client in clients:
        client.get("/private", headers=SCRIPT)

    assert pool.counters[REFRESH] == 4


# A refresh is final.


def test_invalid_grant_ends_the_session(
    signed_in: FlaskClient, pool: LocalUserPool, clock: Any
) -> None:
    """D14: the tokens go; who it was and what happened stay readable."""
    user = tokens(signed_in)["user"]
    pool.revoke_all()
    clock.advance(3600)

    script = signed_in.get("/private", headers=SCRIPT)
    person = signed_in.get("/private?page=2", headers=NAVIGATE)

    assert script.status_code == 401
    assert script.json["error"] == "login_required"
    assert person.status_code == 302
    assert person.location == "/auth/login?next=/private?page%3D2"
    assert signed_in.get("/").json == {"user": user, "error": "RefreshAccessTokenError"}
    session = signed_in.get("/auth/session").json
    assert session["error"] == "RefreshAccessTokenError"
    assert "retryAfter" not in session
    assert pool.counters[REFRESH] == 1


def test_invalid_grant_leaves_other_sessions_alone(
    app: Flask, sign_in: Any, pool: LocalUserPool, clock: Any
) -> None:
    """D14: one session's end is that session's alone."""
    alice, bob = app.test_client(), app.test_client()
    sign_in(alice)
    sign_in(bob, "bob@example.com")
    pool.revoke_all("alice@example.com")
    clock.advance(3600)

    assert alice.get("/private", headers=SCRIPT).status_code == 401
    assert bob.get("/private", headers=SCRIPT).status_code == 200


def test_what_is_over_is_over_for_every_holder(
    signed_in: FlaskClient, pool: LocalUserPool, clock: Any
) -> None:
    """A second holder of the cookie learns the end from the record, without a call."""
    beside = twin(signed_in)
    pool.revoke_all()
    clock.advance(3600)
    signed_in.get("/private", headers=SCRIPT)

    assert beside.get("/private", headers=SCRIPT).status_code == 401
    assert pool.counters[REFRESH] == 1


def test_error_is_readable_until_the_next_login(
    signed_in: FlaskClient, sign_in: Any, pool: LocalUserPool, clock: Any
) -> None:
    """A new login takes the place of the session that is over."""
    pool.revoke_all()
    clock.advance(3600)
    signed_in.get("/private", headers=SCRIPT)

    sign_in(signed_in)

    assert signed_in.get("/").json["error"] is None
    assert tokens(signed_in)["accessToken"]


def test_nothing_of_the_tokens_is_left(
    make_app: Any, sign_in: Any, pool: LocalUserPool, clock: Any
) -> None:
    """A session that is over holds neither an access nor a refresh token."""
    app = make_app()
    app.add_url_rule(
        "/peek",
        "peek",
        lambda: {
            "is": bool(current_session),
            "access": current_session.access_token,
            "refresh": current_session.refresh_token,
            "groups": sorted(current_session.groups),
            "retry": current_session.retry_after,
        },
    )
    client = app.test_client()
    sign_in(client)
    pool.revoke_all()
    clock.advance(3600)

    nothing = {
        "is": False,
        "access": None,
        "refresh": None,
        "groups": [],
        "retry": None,
    }
    assert [client.get("/peek").json for _ in range(2)] == [nothing, nothing]


WRONG = [
    pytest.param(Tamper(claims=lambda c: {**c, "iss": c["iss"] + "1"}), id="D03-iss"),
    pytest.param(Tamper(claims=lambda c: {**c, "sub": c["sub"] + "1"}), id="D04-sub"),
    pytest.param(Tamper(claims=lambda c: {**c, "aud": c["aud"] + "1"}), id="D05-aud"),
    pytest.param(Tamper(claims=lambda c: {**c, "azp": "other"}), id="D05-azp"),
    pytest.param(Tamper.bad_signature(), id="D05-signature"),
    pytest.param(Tamper.foreign_key(), id="D05-foreign-key"),
    pytest.param(Tamper.alg_none(), id="D05-none"),
    pytest.param(Tamper(token=lambda _: "no.token.atall"), id="D05-garbage"),
]


@pytest.mark.parametrize("tamper", WRONG)
def test_wrong_refreshed_id_token_ends_the_session(
    signed_in: FlaskClient, pool: LocalUserPool, clock: Any, tamper: Tamper
) -> None:
    """The answer is revoked, its access token is never used, nobody else comes in."""
    user = tokens(signed_in)["user"]
    pool.faults.tamper("id_token", tamper, at="refresh")
    clock.advance(3600)

    response = signed_in.get("/private", headers=SCRIPT)

    assert response.status_code == 401
    assert signed_in.get("/").json == {"user": user, "error": "RefreshAccessTokenError"}
    assert pool.counters["revoke"] == 1
    assert pool.counters[REFRESH] == 1
    assert pool.live_refresh_tokens() == 0


def test_access_token_beside_a_wrong_id_token_is_never_used(
    make_app: Any, sign_in: Any, pool: LocalUserPool, clock: Any, gate: Gate
) -> None:
    """D04: neither the request that fetched it nor one beside it ever sees it."""
    app = make_app()
    app.add_url_rule("/seen", "seen", lambda: {"token": current_session.access_token})
    client = app.test_client()
    sign_in(client)
    beside = twin(client)
    before = client.get("/seen").json["token"]
    pool.rotate_keys()  # so that the check has to fetch the keys, and can be held there
    pool.faults.tamper("id_token", claims=lambda c: {**c, "sub": "mallory"})
    pool.faults.queue("jwks", Fault(before=gate))
    clock.advance(3600 - 30)

    with ThreadPoolExecutor(1) as threads:
        refreshing = threads.submit(client.get, "/seen")
        assert gate.arrived.wait(5)
        seen_beside = beside.get("/seen").json
        gate.opened.set()
        seen = refreshing.result().json

    assert seen_beside == {"token": before}
    assert seen == {"token": None}
    assert client.get("/seen").json == beside.get("/seen").json == {"token": None}


def test_wrong_id_token_ahead_of_time_ends_the_session_too(
    signed_in: FlaskClient, pool: LocalUserPool, clock: Any
) -> None:
    """Final is final, although the old access token is still valid."""
    pool.faults.tamper("id_token", Tamper.foreign_key(), at="refresh")
    clock.advance(3600 - 30)

    assert signed_in.get("/private", headers=SCRIPT).status_code == 401
    assert pool.counters["revoke"] == 1


def test_refused_token_ahead_of_time_ends_the_session_too(
    signed_in: FlaskClient, pool: LocalUserPool, clock: Any
) -> None:
    """Cognito's `invalid_grant` within the leeway is believed as well."""
    pool.revoke_all()
    clock.advance(3600 - 30)

    assert signed_in.get("/private", headers=SCRIPT).status_code == 401
    assert pool.counters[REFRESH] == 1


def test_keys_not_to_be_had_keep_the_old_claims(
    make_app: Any, sign_in: Any, pool: LocalUserPool, clock: Any
) -> None:
    """C07: without keys to check with, the new tokens go with the claims of before."""
    app = make_app()
    app.add_url_rule("/claims", "claims", lambda: current_session.id_token_claims or {})
    client = app.test_client()
    sign_in(client)
    before, claims = tokens(client), client.get("/claims").json
    pool.add_user("alice@example.com", name="Alice Hargreaves", groups=["readers"])
    pool.rotate_keys()
    pool.faults.always("jwks", Fault(status=503))
    clock.advance(3600)

    after = tokens(client)

    assert after["accessToken"] != before["accessToken"]
    assert client.get("/claims").json == claims
    assert pool.counters["revoke"] == 0


def test_keys_replaced_before_signing_are_fetched(
    signed_in: FlaskClient, pool: LocalUserPool, clock: Any
) -> None:
    """C04: a key that appears with the refresh is looked up once, and accepted."""
    clock.advance(3600)
    fetched = pool.counters["jwks"]
    pool.faults.queue(REFRESH, Fault(before=pool.rotate_keys))

    assert tokens(signed_in)["accessToken"]
    assert pool.counters["jwks"] == fetched + 1


@pytest.mark.parametrize("held", ["before", "after"])
def test_logout_while_a_refresh_is_in_flight(
    signed_in: FlaskClient, pool: LocalUserPool, clock: Any, gate: Gate, held: str
) -> None:
    """D23: the session stays dead, and what comes back late is revoked."""
    beside = twin(signed_in)
    clock.advance(3600)
    pool.faults.queue(REFRESH, Fault(**{held: gate}))
    with ThreadPoolExecutor(1) as threads:
        late = threads.submit(signed_in.get, "/private", headers=SCRIPT)
        assert gate.arrived.wait(5)
        assert sign_out(beside).status_code == 303
        gate.opened.set()

        assert late.result().status_code == 401

    assert pool.live_refresh_tokens() == 0
    assert signed_in.get("/private", headers=SCRIPT).status_code == 401


def test_absolute_limit_is_not_tried(
    make_app: Any, sign_in: Any, pool: LocalUserPool, clock: Any
) -> None:
    """D27: past the limit that counts from sign-in no refresh is tried."""
    client = make_app(COGNITO_SESSION_ABSOLUTE_MAX_AGE=5000).test_client()
    sign_in(client)
    clock.advance(3600)
    tokens(client)
    clock.advance(1400)

    assert client.get("/private", headers=SCRIPT).status_code == 401
    assert client.get("/auth/session").json == {}
    assert pool.counters[REFRESH] == 1


def test_two_apps_of_one_cache_refresh_once(
    make_app: Any, sign_in: Any, pool: LocalUserPool, clock: Any
) -> None:
    """D07: processes that share the cache share the refresh."""
    one, other = make_app(), make_app(auth=CognitoAuth(clock=clock))
    client = one.test_client()
    sign_in(client)
    beside = twin(client, other)
    clock.advance(3600)

    assert tokens(client) == tokens(beside)
    assert pool.counters[REFRESH] == 1


@pytest.mark.parametrize("claim", ["exp", "iat"])
def test_a_clock_that_is_wrong_signs_nobody_out(
    claim: str, client: FlaskClient, pool: LocalUserPool, clock: Any, sign_in: Any
) -> None:
    """Times are not among what ends a session: new tokens, old claims."""
    sign_in(client)
    shift = -7200 if claim == "exp" else 7200
    pool.faults.tamper(
        "id_token", at="refresh", claims=lambda c: {**c, claim: c[claim] + shift}
    )
    clock.advance(3600)

    answer = client.get("/private")

    assert answer.status_code == 200
    assert pool.counters["revoke"] == 0


def test_a_wrong_time_excuses_no_wrong_user(
    client: FlaskClient, pool: LocalUserPool, clock: Any, sign_in: Any
) -> None:
    """Everything but the times is judged first: somebody else's token ends it."""
    sign_in(client)
    pool.faults.tamper(
        "id_token",
        at="refresh",
        claims=lambda c: {**c, "sub": c["sub"] + "1", "exp": c["exp"] - 7200},
    )
    clock.advance(3600)

    answer = client.get("/private", headers={"Accept": "application/json"})

    assert answer.status_code == 401
    assert pool.live_refresh_tokens() == 0


def test_an_unknown_error_is_transient_and_no_error_of_ours(
    client: FlaskClient,
    pool: LocalUserPool,
    clock: Any,
    sign_in: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    sign_in(client)
    pool.faults.always(
        "token.refresh_token", Fault(status=400, body=b'{"error":"server_error"}')
    )
    clock.advance(3600)

    answer = client.get("/private")

    assert answer.status_code == 503
    assert not [r for r in caplog.records if r.levelname == "ERROR"]


@pytest.mark.parametrize("case", ["D26"])
def test_case_of_a_provider_that_comes_back(
    case: str, app: Flask, pool: LocalUserPool, clock: Any, sign_in: Any
) -> None:
    """While it is down few calls are made; one probe closes the breaker for all."""
    clients = [app.test_client() for _ in range(8)]
    for client in clients:
        sign_in(client)
    pool.faults.always("token.refresh_token", Fault(status=503))
    clock.advance(3600)
    for _ in range(10):
        for client in clients:
            assert client.get("/private").status_code == 503
        clock.advance(1)
    calls = pool.counters["token.refresh_token"]
    assert calls <= 20

    pool.faults.clear()
    clock.advance(61)

    assert [client.get("/private").status_code for client in clients] == [200] * 8
    assert pool.counters["token.refresh_token"] == calls + 8
