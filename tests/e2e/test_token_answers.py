"""Odd answers of the token endpoint, scripted with requests-mock; no server runs.

But for the drip: a mock is not slow, so that one comes over a real socket. Nor does a
mock break a connection after the request was sent: `test_table` has those.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
import requests_mock
from browsing import NAVIGATE, SCRIPT, cookies_set
from conftest import SECRET_KEY, Clock
from flask import Flask, jsonify
from flask.testing import FlaskClient
from urllib3.exceptions import (
    ConnectTimeoutError,
    NameResolutionError,
    NewConnectionError,
)

from flask_cognito_rotate import CognitoAuth, current_session, login_required
from flask_cognito_rotate.local import Fault, LocalUserPool
from flask_cognito_rotate.local.faults import sign_token
from flask_cognito_rotate.local.keys import SigningKey

ISSUER = "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_Ab12Cd34E"
DOMAIN = "https://example.auth.eu-west-1.amazoncognito.com"
CLIENT = "1example23456789"
SECRET = "client-secret"
SUB = "966cbd33-7934-5887-9a88-ec5f66fcdf54"
KEYS = [SigningKey.generate(), SigningKey.generate()]

Answer = dict[str, Any]


class Provider:
    """What requests-mock answers in Cognito's place; refreshes from a script.

    Attributes:
        answers: keywords of requests-mock responses, or functions that return them;
            the last one goes on for ever.
        refreshes: the refresh requests that came in.
    """

    def __init__(self, mock: requests_mock.Mocker, clock: Clock) -> None:
        self._clock = clock
        self._mock = mock
        self.answers: list[Answer] = []
        self.refreshes: list[Any] = []
        self.nonce = ""
        mock.get(
            f"{ISSUER}/.well-known/openid-configuration",
            json={
                "issuer": ISSUER,
                "authorization_endpoint": f"{DOMAIN}/oauth2/authorize",
                "token_endpoint": f"{DOMAIN}/oauth2/token",
                "jwks_uri": f"{ISSUER}/.well-known/jwks.json",
            },
        )
        mock.get(
            f"{ISSUER}/.well-known/jwks.json",
            json={"keys": [key.jwk for key in KEYS]},
        )
        mock.post(f"{DOMAIN}/oauth2/revoke", status_code=200)
        self._token("authorization_code", self._code)

    def _token(self, grant: str, answer: Any) -> None:
        self._mock.post(
            f"{DOMAIN}/oauth2/token",
            additional_matcher=lambda r: f"grant_type={grant}" in (r.text or ""),
            json=answer,
        )

    def refresh_with(self, *answers: Answer) -> None:
        """Script the answers to refreshes, in order."""
        self._mock.post(
            f"{DOMAIN}/oauth2/token",
            list(answers),
            additional_matcher=self._take_refresh,
        )

    def _take_refresh(self, request: Any) -> bool:
        if "grant_type=refresh_token" not in (request.text or ""):
            return False
        self.refreshes.append(request)
        return True

    def good(self, **fields: Any) -> Answer:
        """Return a right answer; a field of None is left out."""
        answer = {
            "access_token": self._sign("access"),
            "token_type": "Bearer",
            "expires_in": 3600,
            "refresh_token": f"refresh-{len(self.refreshes) + 2}",
            "id_token": self._sign("id"),
            **fields,
        }
        return {k: v for k, v in answer.items() if v is not None}

    def _code(self, _request: Any, _context: Any) -> Answer:
        return {**self.good(), "refresh_token": "refresh-1"}

    def _sign(self, use: str) -> str:
        now = int(self._clock())
        claims = {
            "iss": ISSUER,
            "sub": SUB,
            "aud": CLIENT,
            "token_use": use,
            "iat": now,
            "exp": now + 3600,
            "nonce": self.nonce,
            "email": "alice@example.com",
            "jti": f"{use}-{len(self.refreshes)}-{now}",
        }
        return sign_token(claims, KEYS[0], None)


@pytest.fixture
def provider(clock: Clock) -> Iterator[Provider]:
    with requests_mock.Mocker() as mock:
        yield Provider(mock, clock)


MakeClient = Callable[..., FlaskClient]


@pytest.fixture
def make_client(provider: Provider, clock: Clock) -> MakeClient:
    """Make an application with one signed-in browser."""

    def make(**settings: Any) -> FlaskClient:
        app = Flask("example")
        app.config.update(
            COGNITO_ISSUER=ISSUER,
            COGNITO_CLIENT_ID=CLIENT,
            COGNITO_CLIENT_SECRET=SECRET,
            COGNITO_CACHE="memory:",
            SECRET_KEY=SECRET_KEY,
        )
        app.config.update(settings)
        CognitoAuth(app, clock=clock)
        app.add_url_rule("/", "index", _index)
        app.add_url_rule("/private", "private", login_required(_tokens))
        client = app.test_client()
        begun = client.get("/auth/login")
        asked = parse_qs(urlsplit(begun.location).query)
        provider.nonce = asked["nonce"][0]
        back = client.get(f"/auth/callback?code=c&state={asked['state'][0]}")
        assert back.status_code == 302, back.text
        return client

    return make


def _index() -> Any:
    return jsonify(user=current_session.user, error=current_session.error)


def _tokens() -> Any:
    return jsonify(
        access=current_session.access_token,
        refresh=current_session.refresh_token,
        expires=current_session.access_token_expires,
        claims=current_session.id_token_claims,
    )


@pytest.fixture
def client(make_client: MakeClient) -> FlaskClient:
    return make_client()


def broken(reason: Exception) -> Answer:
    return {"exc": requests.ConnectionError(reason)}


def raw_json(text: str, status: int = 200) -> Answer:
    headers = {"Content-Type": "application/json"}
    return {"text": text, "status_code": status, "headers": headers}


TRANSIENT = {
    "D17-500": {"status_code": 500},
    "D17-502-html": {"status_code": 502, "text": "<html>Bad gateway</html>"},
    "D17-503": {"status_code": 503, "headers": {"Retry-After": "2"}},
    "D17-504": {"status_code": 504},
    "D17-429-text": {"status_code": 429, "text": "Rate exceeded"},
    "D17-429-json": {"status_code": 429, "json": {"error": "invalid_grant"}},
    "D17-500-json": {"status_code": 500, "json": {"error": "invalid_grant"}},
    "D17-throttled": {"status_code": 400, "json": {"__type": "x#ThrottlingException"}},
    "D17-too-many": {
        "status_code": 400,
        "json": {"error": "TooManyRequestsException"},
    },
    "D17-firewall": {"status_code": 403, "text": "<html>Request blocked</html>"},
    "D17-redirect": {
        "status_code": 302,
        "headers": {"Location": "https://evil.example/"},
    },
    "D17-refused": broken(NewConnectionError(None, "refused")),  # type: ignore[arg-type]
    "D17-dns": broken(NameResolutionError("x", None, OSError())),  # type: ignore[arg-type]
    "D17-connect-timeout": {
        "exc": requests.ConnectTimeout(ConnectTimeoutError(None, "late"))
    },
    "D17-read-timeout": {"exc": requests.ReadTimeout()},
    "D17-tls": {"exc": requests.exceptions.SSLError("certificate")},
    "D17-empty": raw_json(""),
    "D17-garbage": {"content": b"\x00\xff\xfe\x80"},
    "D17-html": {"text": "<!doctype html><title>Sign in</title>"},
    "D17-list": raw_json('["access_token"]'),
    "D17-null": raw_json("null"),
    "D17-deep": raw_json("[" * 100_000),
    "D17-no-access-token": raw_json('{"token_type": "Bearer"}'),
    "D17-empty-access-token": raw_json('{"access_token": "", "token_type": "Bearer"}'),
    "D17-number-access-token": raw_json('{"access_token": 1, "token_type": "Bearer"}'),
    "D17-line-in-access-token": raw_json(
        '{"access_token": "a\\r\\nb", "token_type": "Bearer"}'
    ),
    "D17-3-megabytes": {"content": b'{"access_token": "' + b"a" * 3_000_000},
    "D17-201": {"status_code": 201, "json": {"access_token": "a"}},
    "unknown-error": raw_json('{"error": "server_error"}', 400),
    "error-is-a-list": raw_json('{"error": ["invalid_grant"]}', 400),
    "mac-token": raw_json('{"access_token": "a", "token_type": "mac"}'),
}
CONFIGURATION = {
    f"D16-{code}-{status}": raw_json(json.dumps({"error": code}), status)
    for code in ("invalid_client", "unauthorized_client")
    for status in (400, 401)
} | {
    f"D16-{code}": raw_json(json.dumps({"error": code}), 400)
    for code in ("unsupported_grant_type", "invalid_request", "invalid_scope")
}
KEPT = [
    pytest.param(answer, id=name)
    for name, answer in (TRANSIENT | CONFIGURATION).items()
]


@pytest.mark.parametrize("answer", KEPT)
def test_session_is_kept(
    client: FlaskClient, provider: Provider, clock: Clock, answer: Answer
) -> None:
    """One call, 503 for scripts and people, nobody logged out; then all is well."""
    before = client.get("/private").json
    provider.refresh_with(answer)
    clock.advance(3600)

    script = client.get("/private", headers=SCRIPT)
    person = client.get("/private", headers=NAVIGATE)

    assert (script.status_code, person.status_code) == (503, 503)
    assert int(person.headers["Retry-After"]) >= 1
    assert client.get("/").json["error"] == "RefreshAccessTokenError"
    assert len(provider.refreshes) == 1
    assert not cookies_set(script)
    assert not cookies_set(person)

    provider.refresh_with({"json": provider.good()})
    clock.advance(2)
    after = client.get("/private").json
    assert after["access"] != before["access"]
    assert provider.refreshes[-1].text.endswith("refresh_token=refresh-1")


@pytest.mark.parametrize("answer", KEPT)
def test_valid_token_is_served(
    client: FlaskClient, provider: Provider, clock: Clock, answer: Answer
) -> None:
    """Before its end, the old token goes on as if nothing had been tried."""
    before = client.get("/private").json
    provider.refresh_with(answer)
    clock.advance(3600 - 30)

    assert [client.get("/private").json for _ in range(3)] == [before] * 3
    assert len(provider.refreshes) == 1


@pytest.mark.parametrize(
    "status", [pytest.param(400, id="D14-400"), pytest.param(401, id="D14-401")]
)
def test_invalid_grant_is_final(
    client: FlaskClient, provider: Provider, clock: Clock, status: int
) -> None:
    """The session is over at the first refusal of its token, and asks no more."""
    provider.refresh_with(raw_json('{"error": "invalid_grant"}', status))
    clock.advance(3600)

    for _ in range(3):
        assert client.get("/private", headers=SCRIPT).status_code == 401
    assert len(provider.refreshes) == 1


@pytest.mark.parametrize(
    ("left_out", "kept"),
    [
        pytest.param("refresh_token", "refresh", id="D02-no-refresh-token"),
        pytest.param("id_token", "claims", id="D02-no-id-token"),
    ],
)
def test_what_is_left_out_stays(
    client: FlaskClient, provider: Provider, clock: Clock, left_out: str, kept: str
) -> None:
    """A field that the answer does not have keeps its old value."""
    before = client.get("/private").json
    clock.advance(3600)
    provider.refresh_with({"json": provider.good(**{left_out: None})})

    after = client.get("/private").json

    assert after[kept] == before[kept]
    assert after["access"] != before["access"]


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"refresh_token": ""}, id="empty"),
        pytest.param({"refresh_token": 7}, id="number"),
        pytest.param({"refresh_token": ["a"]}, id="list"),
    ],
)
def test_unusable_refresh_token_counts_as_absent(
    client: FlaskClient, provider: Provider, clock: Clock, fields: Answer
) -> None:
    """D02: what cannot be a token does not take the place of one that is."""
    clock.advance(3600)
    provider.refresh_with({"json": provider.good(**fields)})

    assert client.get("/private").json["refresh"] == "refresh-1"


@pytest.mark.parametrize(
    ("answer", "good"),
    [
        pytest.param({"token_type": "BEARER"}, True, id="upper-case-type"),
        pytest.param({"token_type": "bearer"}, True, id="lower-case-type"),
        pytest.param({"new_field": {"a": [1]}}, True, id="unknown-field"),
        pytest.param({"error": "invalid_grant"}, True, id="error-beside-tokens"),
        pytest.param({"token_type": None}, False, id="no-type"),
    ],
)
def test_tolerance(
    client: FlaskClient,
    provider: Provider,
    clock: Clock,
    answer: Answer,
    good: bool,
) -> None:
    """Unknown fields and another case are fine; a token of no known type is not."""
    clock.advance(3600)
    provider.refresh_with({"json": provider.good(**answer)})

    status = client.get("/private", headers=SCRIPT).status_code

    assert status == (200 if good else 503)


def test_body_decides_not_its_content_type(
    client: FlaskClient, provider: Provider, clock: Clock
) -> None:
    """A right answer that is called HTML still holds the only live refresh token."""
    clock.advance(3600)
    text = json.dumps(provider.good())
    provider.refresh_with({"text": text, "headers": {"Content-Type": "text/html"}})

    assert client.get("/private").json["refresh"] == "refresh-2"


DAY = 86_400


@pytest.mark.parametrize(
    ("literal", "lifetime"),
    [
        pytest.param("null", 3600, id="D20-null"),
        pytest.param("true", 3600, id="D20-true"),
        pytest.param('"abc"', 3600, id="D20-abc"),
        pytest.param("NaN", 3600, id="D20-NaN"),
        pytest.param("Infinity", 3600, id="D20-infinity"),
        pytest.param("-5", 3600, id="D20-negative"),
        pytest.param("{}", 3600, id="D20-object"),
        pytest.param('""', 3600, id="D20-empty"),
        pytest.param("0", 1, id="D20-0"),
        pytest.param('"3600"', 3600, id="D20-text"),
        pytest.param("3600.5", 3600, id="D20-fraction"),
        pytest.param("1e30", DAY, id="D20-1e30"),
        pytest.param("9" * 4000, DAY, id="D20-4000-digits"),
    ],
)
def test_expires_in(
    client: FlaskClient, provider: Provider, clock: Clock, literal: str, lifetime: int
) -> None:
    """Whatever `expires_in` holds, the session works and makes no loop of refreshes."""
    clock.advance(3600)
    text = json.dumps(provider.good(expires_in="?")).replace('"?"', literal)
    provider.refresh_with(raw_json(text))

    answers = [client.get("/private") for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200] * 3
    assert answers[-1].json["expires"] == int(clock()) + lifetime
    assert len(provider.refreshes) == 1


def test_one_method_of_client_authentication(
    client: FlaskClient, provider: Provider, clock: Clock
) -> None:
    """D28: Basic alone, form-encoded, no scope, and a refusal is not probed further."""
    provider.refresh_with(raw_json('{"error": "invalid_client"}', 401))
    clock.advance(3600)
    client.get("/private", headers=SCRIPT)

    (sent,) = provider.refreshes
    basic = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
    assert sent.headers["Authorization"] == f"Basic {basic}"
    assert sent.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert parse_qs(sent.text) == {
        "grant_type": ["refresh_token"],
        "client_id": [CLIENT],
        "refresh_token": ["refresh-1"],
    }


def test_callable_secret_is_read_again(
    make_client: MakeClient, provider: Provider, clock: Clock
) -> None:
    """D16: a secret that was changed is fetched again when the provider refuses it."""
    secrets = iter(["old", "new"])
    client = make_client(COGNITO_CLIENT_SECRET=lambda: next(secrets))
    refusal = raw_json('{"error": "invalid_client"}', 401)
    provider.refresh_with(refusal, {"json": provider.good()})
    clock.advance(3600)

    assert client.get("/private", headers=SCRIPT).status_code == 200
    credentials = [
        base64.b64decode(one.headers["Authorization"].split()[1]).decode()
        for one in provider.refreshes
    ]
    assert credentials == [f"{CLIENT}:old", f"{CLIENT}:new"]


def test_callable_secret_that_stays_is_not_sent_twice(
    make_client: MakeClient, provider: Provider, clock: Clock
) -> None:
    """D16: the same secret again would be refused again."""
    client = make_client(COGNITO_CLIENT_SECRET=lambda: "same")
    provider.refresh_with(raw_json('{"error": "invalid_client"}', 401))
    clock.advance(3600)

    assert client.get("/private", headers=SCRIPT).status_code == 503
    assert len(provider.refreshes) == 1


@pytest.mark.parametrize("drip", [pytest.param((1, 0.02), id="D18-drip")])
def test_drip_does_not_hold_the_worker(
    make_app: Any,
    sign_in: Any,
    pool: LocalUserPool,
    clock: Clock,
    drip: tuple[int, float],
) -> None:
    """An answer byte by byte ends at the limit, and its thread and socket go."""
    client = make_app(COGNITO_REFRESH_TIMEOUT=0.2).test_client()
    sign_in(client)
    clock.advance(3600)
    slow = Fault(drip=drip, status=500, body=b"x" * 400)
    pool.faults.queue("token.refresh_token", slow)

    begun = time.monotonic()
    response = client.get("/private", headers=SCRIPT)

    assert response.status_code == 503
    assert time.monotonic() - begun < 1
    calls = [t for t in threading.enumerate() if t.name == "cognito-http"]
    for call in calls:
        call.join(2)
    assert not any(call.is_alive() for call in calls)
