"""Signals and the one log record of each event."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from browsing import SCRIPT, sign_out
from flask import Flask
from flask.testing import FlaskClient

from flask_cognito_rotate import LoginError, signals
from flask_cognito_rotate.local import Fault, LocalUserPool

REFRESH = "token.refresh_token"
NAMES = (
    "user_logged_in",
    "login_failed",
    "user_logged_out",
    "token_refreshed",
    "token_refresh_failed",
    "session_ended",
)

Seen = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def seen(app: Flask) -> Iterator[Seen]:
    """Every signal that the application sends, in order."""
    collected: Seen = []

    def receiver(name: str) -> Any:
        def receive(sender: Flask, **fields: Any) -> None:
            collected.append((name, fields))

        return receive

    with contextlib.ExitStack() as stack:
        for name in NAMES:
            signal = getattr(signals, name)
            stack.enter_context(signal.connected_to(receiver(name), app))
        yield collected


def names(seen: Seen) -> list[str]:
    return [name for name, _ in seen]


def events(caplog: Any) -> list[str]:
    return [r.event for r in caplog.records if hasattr(r, "event")]


@pytest.fixture(autouse=True)
def _info(caplog: Any) -> None:
    caplog.set_level(logging.INFO, "flask_cognito_rotate")


def test_login(seen: Seen, client: FlaskClient, sign_in: Any, caplog: Any) -> None:
    """`user_logged_in(user, claims)`."""
    sign_in(client)

    ((name, fields),) = seen
    assert name == "user_logged_in"
    assert set(fields) == {"user", "claims"}
    assert fields["user"]["email"] == "alice@example.com"
    assert fields["claims"]["sub"] == fields["user"]["id"]
    assert events(caplog) == ["user_logged_in"]
    assert caplog.records[-1].sub == fields["user"]["id"]


def test_failed_login(seen: Seen, client: FlaskClient, caplog: Any) -> None:
    """`login_failed(error)`, and no second record of the same thing."""
    client.get("/auth/callback?error=access_denied")

    ((name, fields),) = seen
    assert name == "login_failed"
    assert set(fields) == {"error"}
    assert isinstance(fields["error"], LoginError)
    assert events(caplog) == ["login_failed"]


def test_logout(seen: Seen, client: FlaskClient, sign_in: Any, caplog: Any) -> None:
    """`user_logged_out(user, reason)` and `session_ended(user, reason)`."""
    sign_in(client)
    seen.clear()
    caplog.clear()

    sign_out(client)

    assert names(seen) == ["user_logged_out", "session_ended"]
    for _, fields in seen:
        assert set(fields) == {"user", "reason"}
        assert fields["reason"] == "logout"
        assert fields["user"]["email"] == "alice@example.com"
    assert events(caplog) == ["user_logged_out", "session_ended"]


def test_login_over_a_session(seen: Seen, client: FlaskClient, sign_in: Any) -> None:
    """The session before ends, by reason `login`."""
    sign_in(client, "bob@example.com")
    seen.clear()

    sign_in(client)

    assert names(seen) == ["user_logged_out", "session_ended", "user_logged_in"]
    assert {f["reason"] for n, f in seen if n != "user_logged_in"} == {"login"}
    assert [f["user"]["email"][:3] for _, f in seen] == ["bob", "bob", "ali"]


def test_refresh(
    seen: Seen, client: FlaskClient, sign_in: Any, clock: Any, caplog: Any
) -> None:
    """`token_refreshed(user, duration)`."""
    sign_in(client)
    seen.clear()
    caplog.clear()
    clock.advance(3600)

    client.get("/private")

    ((name, fields),) = seen
    assert name == "token_refreshed"
    assert set(fields) == {"user", "duration"}
    assert 0 <= fields["duration"] < 5
    assert events(caplog) == ["token_refreshed"]


def test_transient_failure(
    seen: Seen,
    client: FlaskClient,
    sign_in: Any,
    pool: LocalUserPool,
    clock: Any,
    caplog: Any,
) -> None:
    """`token_refresh_failed(user, error, duration, final=False)`, once for the call."""
    sign_in(client)
    seen.clear()
    caplog.clear()
    clock.advance(3600)
    pool.faults.queue(REFRESH, Fault(status=500))

    for _ in range(3):
        client.get("/private", headers=SCRIPT)

    ((name, fields),) = seen
    assert name == "token_refresh_failed"
    assert set(fields) == {"user", "error", "duration", "final"}
    assert fields["final"] is False
    assert events(caplog) == ["token_refresh_failed"]


def test_final_failure(
    seen: Seen,
    client: FlaskClient,
    sign_in: Any,
    pool: LocalUserPool,
    clock: Any,
    caplog: Any,
) -> None:
    """`final=True`, and `session_ended` by reason `refused`."""
    sign_in(client)
    seen.clear()
    caplog.clear()
    clock.advance(3600)
    pool.revoke_all()

    for _ in range(3):
        client.get("/private", headers=SCRIPT)

    assert names(seen) == ["token_refresh_failed", "session_ended"]
    assert seen[0][1]["final"] is True
    assert seen[1][1]["reason"] == "refused"
    assert events(caplog) == ["token_refresh_failed", "session_ended"]


def test_lost_answer(
    seen: Seen,
    client: FlaskClient,
    sign_in: Any,
    pool: LocalUserPool,
    clock: Any,
    caplog: Any,
) -> None:
    """D11: `session_ended` by reason `refresh_lost`, and the event of that name."""
    sign_in(client)
    seen.clear()
    caplog.clear()
    clock.advance(3600)
    pool.faults.queue(REFRESH, Fault(reset="after"))

    client.get("/private", headers=SCRIPT)

    assert names(seen) == ["token_refresh_failed", "session_ended"]
    assert seen[1][1]["reason"] == "refresh_lost"
    assert events(caplog) == ["token_refresh_failed", "refresh_lost"]


def test_no_signal_carries_a_token(
    seen: Seen, client: FlaskClient, sign_in: Any, pool: LocalUserPool, clock: Any
) -> None:
    """J01: nothing that a receiver gets holds an access or refresh token."""
    sign_in(client)
    secrets = [client.get("/private").json]
    clock.advance(3600)
    secrets.append(client.get("/private").json)
    pool.revoke_all()
    clock.advance(3600)
    client.get("/private", headers=SCRIPT)
    sign_out(client)

    text = json.dumps(seen, default=lambda value: f"{value!r} {vars(value)}")
    assert len(seen) >= 4
    for one in secrets:
        assert one["accessToken"] not in text
        assert one["refreshToken"] not in text


def test_sender_is_the_application(make_app: Any, sign_in: Any) -> None:
    """`connect_via(app)` hears of that application alone."""
    heard: list[Flask] = []
    one, other = make_app(), make_app()

    def receive(sender: Flask, **_: Any) -> None:
        heard.append(sender)

    with signals.user_logged_in.connected_to(receive, one):
        sign_in(other.test_client())
        sign_in(one.test_client())

    assert heard == [one]


def test_the_absolute_limit_is_told(make_app: Any, clock: Any, sign_in: Any) -> None:
    """Past it the session ends with the reason `expired`."""
    app = make_app(COGNITO_SESSION_ABSOLUTE_MAX_AGE=1000)
    client = app.test_client()
    sign_in(client)
    reasons: list[str] = []

    def note(_: Any, *, reason: str, **__: Any) -> None:
        reasons.append(reason)

    with signals.session_ended.connected_to(note, sender=app):
        clock.advance(1000)
        client.get("/private")
        client.get("/private")

    assert reasons == ["expired"]


def test_a_receiver_that_raises_loses_no_token(
    make_app: Any, clock: Any, sign_in: Any, pool: Any
) -> None:
    """It is told when the tokens are safe: the next request has them."""
    app = make_app()
    app.config["PROPAGATE_EXCEPTIONS"] = False
    app.testing = False
    client = app.test_client()
    sign_in(client)
    clock.advance(3600)

    def fail(_: Any, **__: Any) -> None:
        raise RuntimeError("the receiver is broken")

    with signals.token_refreshed.connected_to(fail, sender=app):
        assert client.get("/private").status_code == 500

    assert client.get("/private").status_code == 200
    assert pool.counters["token.refresh_token"] == 1


def test_a_session_that_was_over_ends_once(
    make_app: Any, clock: Any, sign_in: Any, pool: Any
) -> None:
    """The login that follows does not tell of its end again."""
    app = make_app()
    client = app.test_client()
    sign_in(client)
    pool.revoke_all()
    clock.advance(3600)
    reasons: list[str] = []

    def note(_: Any, *, reason: str, **__: Any) -> None:
        reasons.append(reason)

    with signals.session_ended.connected_to(note, sender=app):
        client.get("/private")
        sign_in(client)

    assert reasons == ["refused"]
