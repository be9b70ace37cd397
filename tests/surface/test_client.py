"""`current_session.client`: calls to other services as the user."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from flask import Flask, jsonify, request
from flask.testing import FlaskClient
from werkzeug.serving import make_server

from flask_cognito_rotate import (
    LoginRequired,
    RefreshAccessTokenError,
    current_session,
)
from flask_cognito_rotate.local import Fault, LocalUserPool

REFRESH = "token.refresh_token"


class Service:
    """Another service on loopback, which remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str | None, bytes]] = []
        self.refuse = 0
        self.redirect: str | None = None
        app = Flask("service")
        app.add_url_rule("/", "all", self._answer, methods=["GET", "POST"])
        self._server = make_server("127.0.0.1", 0, app, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )
        self._thread.start()

    def _answer(self) -> Any:
        authorization = request.headers.get("Authorization")
        self.calls.append((request.method, authorization, request.get_data()))
        if self.redirect is not None:
            return "", 302, {"Location": self.redirect}
        if self.refuse > 0:
            self.refuse -= 1
            return "", 401
        return jsonify(ok=True)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.close()


@pytest.fixture
def ask(app: Flask) -> Callable[..., None]:
    """Add a view `/ask` that does what a test says and answers JSON."""

    def add(work: Callable[[], Any]) -> None:
        app.add_url_rule("/ask", "ask", lambda: jsonify(work()))

    return add


def test_it_sends_the_access_token(
    client: FlaskClient, sign_in: Any, service: Service, ask: Any
) -> None:
    """`Authorization: Bearer` with the session's access token."""
    ask(lambda: current_session.client.get(service.url).json())
    sign_in(client)

    assert client.get("/ask").json == {"ok": True}
    token = client.get("/private").json["accessToken"]
    assert [call[1] for call in service.calls] == [f"Bearer {token}"]


def test_it_refreshes_once_on_a_401(
    client: FlaskClient, sign_in: Any, service: Service, ask: Any, pool: LocalUserPool
) -> None:
    """A refused token is exchanged, and the request sent again with its body."""
    ask(lambda: current_session.client.post(service.url, json={"a": 1}).status_code)
    sign_in(client)
    service.refuse = 1

    assert client.get("/ask").json == 200
    (first, second) = service.calls
    assert first[0] == second[0] == "POST"
    assert first[2] == second[2] == b'{"a": 1}'
    assert first[1] != second[1]
    assert pool.counters[REFRESH] == 1
    assert second[1] == f"Bearer {client.get('/private').json['accessToken']}"


def test_it_does_not_loop(
    client: FlaskClient, sign_in: Any, service: Service, ask: Any, pool: LocalUserPool
) -> None:
    """A second 401 is the service's answer."""
    ask(lambda: current_session.client.get(service.url).status_code)
    sign_in(client)
    service.refuse = 10

    assert client.get("/ask").json == 401
    assert len(service.calls) == 2
    assert pool.counters[REFRESH] == 1


def test_it_does_not_replay_a_stream(
    client: FlaskClient, sign_in: Any, service: Service, ask: Any
) -> None:
    """A body that can be read once is not sent twice."""

    def body() -> Iterator[bytes]:
        yield b"once"

    ask(lambda: current_session.client.post(service.url, data=body()).status_code)
    sign_in(client)
    service.refuse = 1

    assert client.get("/ask").json == 401
    assert len(service.calls) == 1


def test_it_returns_the_401_when_a_refresh_fails(
    client: FlaskClient, sign_in: Any, service: Service, ask: Any, pool: LocalUserPool
) -> None:
    """Without another token the service's refusal is what the view gets."""
    ask(lambda: current_session.client.get(service.url).status_code)
    sign_in(client)
    service.refuse = 1
    pool.faults.queue(REFRESH, Fault(status=500))

    assert client.get("/ask").json == 401
    assert len(service.calls) == 1


def test_it_keeps_the_token_fresh_in_a_long_request(
    client: FlaskClient,
    sign_in: Any,
    service: Service,
    ask: Any,
    clock: Any,
    pool: LocalUserPool,
) -> None:
    """A token that runs out while a view works is refreshed before the next call."""

    def work() -> list[int]:
        first = current_session.client.get(service.url).status_code
        clock.advance(3600)
        return [first, current_session.client.get(service.url).status_code]

    ask(work)
    sign_in(client)

    assert client.get("/ask").json == [200, 200]
    assert service.calls[0][1] != service.calls[1][1]
    assert pool.counters[REFRESH] == 1


def test_it_says_when_there_is_no_token(
    client: FlaskClient,
    sign_in: Any,
    service: Service,
    ask: Any,
    clock: Any,
    pool: LocalUserPool,
) -> None:
    """Nobody signed in is `LoginRequired`; no token for now is a refresh error."""

    def work() -> str:
        try:
            current_session.client.get(service.url)
        except (LoginRequired, RefreshAccessTokenError) as error:
            return type(error).__name__
        return "sent"

    ask(work)
    assert client.get("/ask").json == "LoginRequired"
    sign_in(client)
    clock.advance(3600)
    pool.faults.always(REFRESH, Fault(status=500))
    assert client.get("/ask").json == "RefreshAccessTokenError"
    assert service.calls == []


def test_it_does_not_leak_to_another_host(
    client: FlaskClient, sign_in: Any, service: Service, ask: Any, pool: LocalUserPool
) -> None:
    """A redirect to another origin goes without the token; its 401 means nothing."""
    other = Service()
    try:
        service.redirect = other.url.replace("127.0.0.1", "localhost")
        other.refuse = 1
        ask(lambda: current_session.client.get(service.url).status_code)
        sign_in(client)

        assert client.get("/ask").json == 401
        assert [call[1] for call in other.calls] == [None]
        assert pool.counters[REFRESH] == 0
    finally:
        other.close()


def test_own_credentials_go_unchanged(
    client: FlaskClient, sign_in: Any, service: Service, ask: Any
) -> None:
    """A call with an `auth` of the caller's is left alone."""
    ask(lambda: current_session.client.get(service.url, auth=("a", "b")).status_code)
    sign_in(client)
    client.get("/ask")

    assert str(service.calls[0][1]).startswith("Basic ")


def test_it_is_one_requests_session_that_is_closed(
    app: Flask, client: FlaskClient, sign_in: Any
) -> None:
    """The same object all through a request; closed when the request is over."""
    kept: list[Any] = []

    @app.get("/keep")
    def keep() -> str:
        kept.append(current_session.client)
        assert isinstance(kept[0], requests.Session)
        assert kept[0] is current_session.client
        adapter = kept[0].get_adapter("http://x")
        original = adapter.close
        adapter.close = lambda: (kept.append("closed"), original())[1]
        return ""

    sign_in(client)
    client.get("/keep")

    assert "closed" in kept


def test_it_has_a_time_limit(make_app: Any, sign_in: Any, pool: LocalUserPool) -> None:
    """A service that does not answer costs `COGNITO_HTTP_TIMEOUT` at most."""
    app = make_app(COGNITO_HTTP_TIMEOUT=0.2)

    @app.get("/slow")
    def slow() -> str:
        with pytest.raises(requests.Timeout):
            current_session.client.get(f"{pool.url}/oauth2/userInfo")
        return "given up"

    client = app.test_client()
    sign_in(client)
    pool.faults.queue("userinfo", Fault(delay=0.6))

    assert client.get("/slow").text == "given up"


def test_on_a_session_that_is_over_it_asks_to_sign_in(
    make_app: Any, pool: LocalUserPool, clock: Any, sign_in: Any
) -> None:
    """A view that guards nothing itself answers 401 with a way out, not 503."""
    app = make_app()

    @app.get("/call")
    def call() -> str:
        return current_session.client.get("http://127.0.0.1:9/").text

    client = app.test_client()
    sign_in(client)
    pool.revoke_all()
    clock.advance(3600)

    for _ in range(2):
        answer = client.get("/call")
        assert answer.status_code == 401
        assert "/auth/login" in answer.text
        assert "Retry-After" not in answer.headers
