"""Discovery and keys, as an application meets them."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from browsing import twin
from flask import Flask
from flask.testing import FlaskClient

from flask_cognito_rotate import CognitoAuth
from flask_cognito_rotate.local import Fault, LocalUserPool

DAY = 86_400


def test_start_needs_no_network(make_app: Any, pool: LocalUserPool) -> None:
    """I01: an application starts, and serves public pages, with Cognito down."""
    pool.stop()
    client = make_app().test_client()

    assert client.get("/").status_code == 200
    assert client.get("/auth/session").json == {}
    pool.start()
    assert client.get("/auth/login").status_code == 302


def test_it_is_shared_through_the_cache(
    make_app: Any, sign_in: Any, pool: LocalUserPool, clock: Any
) -> None:
    """A second process finds the documents in `COGNITO_CACHE`, and fetches none."""
    sign_in(make_app().test_client())
    fetched = (pool.counters["discovery"], pool.counters["jwks"])

    sign_in(make_app(auth=CognitoAuth(clock=clock)).test_client())

    assert fetched == (1, 1)
    assert (pool.counters["discovery"], pool.counters["jwks"]) == fetched


def test_second_process_starts_while_the_provider_is_down(
    make_app: Any, pool: LocalUserPool
) -> None:
    """What the cache holds is enough to begin a login."""
    make_app().test_client().get("/auth/login")
    pool.stop()

    assert make_app().test_client().get("/auth/login").status_code == 302
    pool.start()


def test_it_is_revalidated(
    client: FlaskClient, pool: LocalUserPool, clock: Any
) -> None:
    """`COGNITO_DISCOVERY_MAX_AGE` later it is fetched once more."""
    client.get("/auth/login")
    clock.advance(DAY - 1)
    client.get("/auth/login")
    assert pool.counters["discovery"] == 1

    clock.advance(1)
    client.get("/auth/login")
    client.get("/auth/login")
    assert pool.counters["discovery"] == 2


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=503),
        Fault(body=b"<html>"),
        Fault(reset="before"),
        Fault(body=b'{"issuer": "https://evil.example"}'),
    ],
)
def test_stale_one_serves_on(
    client: FlaskClient, pool: LocalUserPool, clock: Any, caplog: Any, fault: Fault
) -> None:
    """C07: while the provider is down, logins still begin, and the log says why."""
    client.get("/auth/login")
    clock.advance(DAY)
    pool.faults.always("discovery", fault)

    assert client.get("/auth/login").status_code == 302
    assert client.get("/auth/login").status_code == 302
    assert pool.counters["discovery"] == 2
    assert "stale" in caplog.text


def test_endpoints_come_from_the_document(
    client: FlaskClient, pool: LocalUserPool
) -> None:
    """C01: whatever the document says is used; unknown fields are ignored."""
    pool.faults.discovery = {
        "authorization_endpoint": f"{pool.url}/elsewhere",
        "code_challenge_methods_supported": None,
        "new": ["field"],
    }

    location = client.get("/auth/login").location

    assert location.startswith(f"{pool.url}/elsewhere?")
    assert "code_challenge_method=S256" in location


@pytest.mark.parametrize("issuer", ["https://evil.example", None, ""])
def test_wrong_issuer_is_refused(
    client: FlaskClient, pool: LocalUserPool, issuer: str | None
) -> None:
    """C02: no login starts with a document that names another issuer."""
    pool.faults.discovery = {"issuer": issuer}

    response = client.get("/auth/login")

    assert response.status_code == 502
    assert "evil" not in response.text


@pytest.mark.parametrize(
    "name", ["authorization_endpoint", "token_endpoint", "jwks_uri"]
)
def test_plain_http_endpoints_are_refused(
    client: FlaskClient, pool: LocalUserPool, name: str
) -> None:
    """An endpoint that is neither https nor on this machine gets no token."""
    pool.faults.discovery = {name: "http://evil.example/"}

    assert client.get("/auth/login").status_code == 502


def test_pool_without_a_domain_is_named(
    clock: Any, client: FlaskClient, pool: LocalUserPool, caplog: Any
) -> None:
    """A pool without a domain has no endpoints that work: the log says what to add."""
    pool.faults.discovery = {
        "authorization_endpoint": "https://cognito-idp.eu-west-1.amazonaws.com/authorize"
    }

    response = client.get("/auth/login")

    assert response.status_code == 502
    assert "domain" in caplog.text
    assert [r for r in caplog.records if r.levelno == logging.ERROR]


def test_keys_down_at_the_first_login(
    client: FlaskClient, sign_in: Any, pool: LocalUserPool
) -> None:
    """C07: keys that cannot be had are a 503, neither a 401 nor a 500; later all is
    well."""
    pool.faults.queue("jwks", Fault(status=500))

    assert sign_in(client).status_code == 503
    assert client.get("/auth/session").json == {}


def test_junk_among_the_keys(
    client: FlaskClient, sign_in: Any, pool: LocalUserPool
) -> None:
    """A key that nobody can read does not spoil the set."""
    pool.faults.extra_keys = [{"kty": "junk"}, {}, {"kty": "RSA", "kid": "x"}]

    assert sign_in(client).status_code == 302
    assert client.get("/private").status_code == 200


def test_session_survives_a_restart(
    make_app: Any, sign_in: Any, clock: Any, pool: LocalUserPool
) -> None:
    """Another process with the same cache and key takes the session over."""
    before = make_app().test_client()
    sign_in(before)
    after: Flask = make_app(auth=CognitoAuth(clock=clock))
    clock.advance(3600)

    assert twin(before, after).get("/private").status_code == 200
    assert pool.counters["token.refresh_token"] == 1
