"""The provider: its documents are fetched as seldom as possible, and it may fail.

Against a local user pool over HTTP; time is a clock that the tests move.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

import pytest

from flask_cognito_rotate.cache.memory import MemoryCache
from flask_cognito_rotate.config import read_settings
from flask_cognito_rotate.errors import (
    CacheUnavailable,
    CognitoAuthError,
    InvalidSignature,
    ProviderRejected,
    ProviderUnavailable,
    UnknownKey,
)
from flask_cognito_rotate.local import Fault, LocalUserPool, Tamper
from flask_cognito_rotate.model import Tokens
from flask_cognito_rotate.protocol.authorization import authorize_url, new_transaction
from flask_cognito_rotate.provider import Provider

MAX_AGE = 1000
REDIRECT_URI = "http://127.0.0.1:1/auth/callback"


class BrokenCache(MemoryCache):
    """Nothing can be read from it or written to it."""

    def get(self, key: str) -> bytes | None:
        raise CacheUnavailable("down")

    def set(self, key: str, value: bytes, ttl: float) -> None:
        raise CacheUnavailable("down")


class Clock(Protocol):
    """The clock of the fixtures, which a test can move."""

    def __call__(self) -> float: ...

    def advance(self, seconds: float) -> None: ...


@pytest.fixture
def cache(clock: Clock) -> MemoryCache:
    return MemoryCache(clock=clock)


MakeProvider = Callable[..., Provider]


@pytest.fixture
def make_provider(
    pool: LocalUserPool, cache: MemoryCache, clock: Clock
) -> MakeProvider:
    """Make providers that share one cache, as processes do; keywords are settings."""

    def make(cache: MemoryCache = cache, **settings: Any) -> Provider:
        config = {
            **pool.config(),
            "SECRET_KEY": "k" * 32,
            "COGNITO_DISCOVERY_MAX_AGE": MAX_AGE,
            "COGNITO_HTTP_TIMEOUT": 2,
            **settings,
        }
        return Provider(read_settings(config, {})[0], cache, clock)

    return make


@pytest.fixture
def provider(make_provider: MakeProvider) -> Provider:
    return make_provider()


def log_in(pool: LocalUserPool, provider: Provider) -> tuple[Tokens, str]:
    """Log in by hand, up to the tokens; return them and the nonce."""
    transaction = new_transaction(
        next="/",
        redirect_uri=REDIRECT_URI,
        now=pool.clock(),
        token=secrets.token_urlsafe,
    )
    url = authorize_url(
        provider.metadata(),
        transaction,
        client_id=pool.client_id,
        scopes=("openid", "email", "profile"),
    )
    answer = parse_qs(urlsplit(pool.sign_in(None, url)).query)
    tokens = provider.exchange_code(
        code=answer["code"][0],
        redirect_uri=REDIRECT_URI,
        code_verifier=transaction.code_verifier,
    )
    return tokens, transaction.nonce


def verified(pool: LocalUserPool, provider: Provider) -> dict[str, Any]:
    """Log in by hand, whole; return the ID token's claims."""
    tokens, nonce = log_in(pool, provider)
    return provider.verify_login(tokens, nonce=nonce)


def outcomes(count: int, call: Callable[[], object]) -> list[object]:
    """Return what `count` threads get of `call`, begun as one."""
    barrier = threading.Barrier(count)

    def run() -> object:
        barrier.wait()
        try:
            return call()
        except CognitoAuthError as error:
            return error

    with ThreadPoolExecutor(count) as threads:
        futures = [threads.submit(run) for _ in range(count)]
        return [future.result() for future in futures]


def unavailable(call: Callable[[], object]) -> ProviderUnavailable:
    with pytest.raises(ProviderUnavailable) as caught:
        call()
    return caught.value


def until(condition: Callable[[], object]) -> None:
    give_up = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.005)


def test_discovery_is_fetched_once(pool: LocalUserPool, provider: Provider) -> None:
    """C01: what it says is used, from wherever the endpoints are."""
    assert provider.metadata() is provider.metadata()
    assert provider.metadata().token_endpoint.startswith(pool.url)
    assert pool.counters["discovery"] == 1


def test_documents_are_shared_through_the_cache(
    pool: LocalUserPool, make_provider: MakeProvider
) -> None:
    verified(pool, make_provider())
    verified(pool, make_provider())
    assert (pool.counters["discovery"], pool.counters["jwks"]) == (1, 1)


def test_a_document_is_fetched_again_when_its_age_is_reached(
    pool: LocalUserPool, provider: Provider, clock: Clock
) -> None:
    provider.metadata()
    pool.faults.discovery = {"revocation_endpoint": "https://moved.example/revoke"}
    clock.advance(MAX_AGE - 1)
    assert provider.metadata().revocation_endpoint.startswith(pool.url)
    clock.advance(1)
    moved = provider.metadata().revocation_endpoint
    assert moved == "https://moved.example/revoke"
    assert pool.counters["discovery"] == 2


def test_what_another_process_fetched_again_is_taken(
    pool: LocalUserPool, make_provider: MakeProvider, clock: Clock
) -> None:
    one, other = make_provider(), make_provider()
    one.metadata()
    other.metadata()
    clock.advance(MAX_AGE)
    one.metadata()
    other.metadata()
    assert pool.counters["discovery"] == 2


def test_a_stale_document_serves_while_the_provider_is_down(
    pool: LocalUserPool,
    provider: Provider,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """I09: and the provider is not asked again at every request."""
    fresh = provider.metadata()
    pool.faults.always("discovery", Fault(status=500))
    clock.advance(MAX_AGE)
    with caplog.at_level(logging.WARNING):
        assert [provider.metadata() for _ in range(20)] == [fresh] * 20
    assert pool.counters["discovery"] == 2
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    clock.advance(10)
    assert provider.metadata() is fresh
    assert pool.counters["discovery"] == 3
    pool.faults.clear("discovery")
    clock.advance(10)
    assert provider.metadata() is not fresh
    assert pool.counters["discovery"] == 4


def test_nobody_waits_for_a_document_that_is_stale(
    pool: LocalUserPool, provider: Provider, clock: Clock
) -> None:
    """I09: one thread asks a provider that hangs; the others go on."""
    fresh = provider.metadata()
    clock.advance(MAX_AGE)
    answer = threading.Event()
    pool.faults.queue("discovery", Fault(before=lambda: answer.wait(5)))
    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(provider.metadata)
        until(lambda: pool.counters["discovery"] == 2)
        started = time.monotonic()
        assert all(provider.metadata() is fresh for _ in range(100))
        assert time.monotonic() - started < 0.2
        answer.set()
        assert asking.result() is not fresh


def test_a_stale_document_outlives_a_restart(
    pool: LocalUserPool, make_provider: MakeProvider, clock: Clock
) -> None:
    """A new process meets a provider that is down with what the cache still holds."""
    fresh = make_provider().metadata()
    clock.advance(3 * MAX_AGE)
    pool.faults.always("discovery", Fault(status=503))
    assert make_provider().metadata() == fresh


@pytest.mark.parametrize(
    "entry",
    [
        b"",
        b"junk",
        b"[]",
        b"{}",
        b'{"at": "x", "document": {}}',
        b'{"at": 1, "document": {}}',
        b'{"at": NaN, "document": {}}',
        b"\xff\xfe",
    ],
)
def test_a_damaged_document_in_the_cache_is_fetched(
    pool: LocalUserPool, provider: Provider, cache: MemoryCache, entry: bytes
) -> None:
    cache.set("discovery", entry, 1e9)
    cache.set("jwks", entry, 1e9)
    assert verified(pool, provider)["email"] == "alice@example.com"


@pytest.mark.parametrize("ahead", [3600, float("inf")])
def test_a_document_from_the_future_does_not_stay_fresh_for_ever(
    pool: LocalUserPool,
    make_provider: MakeProvider,
    cache: MemoryCache,
    clock: Clock,
    ahead: float,
) -> None:
    make_provider().metadata()
    raw = cache.get("discovery")
    assert raw is not None
    entry = {**json.loads(raw), "at": clock() + ahead}
    cache.set("discovery", json.dumps(entry).encode(), 1e9)
    make_provider().metadata()
    assert pool.counters["discovery"] == 2


class TestColdFailure:
    """C07: nothing is kept yet, and the provider fails."""

    @pytest.mark.parametrize("endpoint", ["discovery", "jwks"])
    def test_threads_that_queue_share_one_failure(
        self, pool: LocalUserPool, make_provider: MakeProvider, endpoint: str
    ) -> None:
        tokens, nonce = log_in(pool, make_provider())
        pool.counters.clear()
        pool.faults.always(endpoint, Fault(status=500, delay=0.1))
        cold = make_provider(MemoryCache())
        results = outcomes(20, lambda: cold.verify_login(tokens, nonce=nonce))
        assert {type(result) for result in results} == {ProviderUnavailable}
        assert len({id(result) for result in results}) == 20
        assert pool.counters[endpoint] == 1

    def test_threads_that_queue_share_a_refusal_too(
        self, pool: LocalUserPool, provider: Provider
    ) -> None:
        pool.faults.discovery = {"issuer": "http://evil"}
        pool.faults.always("discovery", Fault(delay=0.1))
        results = outcomes(20, provider.metadata)
        assert {getattr(result, "error", None) for result in results} == {
            "invalid_metadata"
        }
        assert pool.counters["discovery"] == 1

    def test_it_heals_a_moment_later(
        self, pool: LocalUserPool, provider: Provider, clock: Clock
    ) -> None:
        """I01: a start while Cognito is down."""
        pool.faults.queue("discovery", Fault(status=500))
        unavailable(provider.metadata)
        unavailable(provider.metadata)
        assert pool.counters["discovery"] == 1
        clock.advance(1)
        assert provider.metadata()

    def test_a_login_that_cannot_even_be_sent_says_so(
        self, pool: LocalUserPool, make_provider: MakeProvider
    ) -> None:
        tokens, _ = log_in(pool, make_provider())
        pool.faults.always("discovery", Fault(status=500))
        cold = make_provider(MemoryCache())
        for _ in range(2):
            error = unavailable(
                lambda: cold.refresh(tokens.refresh_token or "", timeout=1)
            )
            assert not error.sent
        assert pool.counters["token.refresh_token"] == 0

    def test_a_shared_failure_holds_nothing_of_the_first_thread(
        self, pool: LocalUserPool, provider: Provider
    ) -> None:
        """J01: a traceback's locals are what that thread was about to send."""
        pool.faults.always("discovery", Fault(status=500))
        first = unavailable(lambda: provider.refresh("first-token", timeout=1))
        second = unavailable(provider.metadata)
        assert second is not first
        assert second.__cause__ is None and second.__context__ is None


JWKS_FAULTS = {
    "C07-500": Fault(status=500),
    "C07-timeout": Fault(delay=0.5),
    "C07-HTML": Fault(body=b"<html>", headers={"Content-Type": "text/html"}),
    "C07-list": Fault(body=b"[]"),
    "C07-object": Fault(body=b"{}"),
    "C07-null": Fault(body=b"null"),
    "C07-no-keys": Fault(body=b'{"keys": []}'),
    "C07-junk-keys": Fault(body=b'{"keys": [null, 1, {"kty": "oct"}]}'),
    "C07-reset": Fault(reset="after"),
    "C07-redirect": Fault(status=302, headers={"Location": "http://127.0.0.1:1/"}),
}


@pytest.mark.parametrize("fault", JWKS_FAULTS.values(), ids=JWKS_FAULTS.keys())
def test_case(
    pool: LocalUserPool, make_provider: MakeProvider, clock: Clock, fault: Fault
) -> None:
    """Keys that are not to be had: a known one serves on, else it is transient."""
    warm = make_provider(COGNITO_HTTP_TIMEOUT=0.4)
    tokens, nonce = log_in(pool, warm)
    claims = warm.verify_login(tokens, nonce=nonce)
    pool.faults.always("jwks", fault)
    clock.advance(MAX_AGE)
    assert warm.verify_login(tokens, nonce=nonce) == claims

    cold = make_provider(MemoryCache(), COGNITO_HTTP_TIMEOUT=0.4)
    error = unavailable(lambda: cold.verify_login(tokens, nonce=nonce))
    assert error.status == 503

    pool.faults.clear("jwks")
    clock.advance(1)
    assert cold.verify_login(tokens, nonce=nonce) == claims


def test_fifty_threads_that_start_cold_fetch_once(
    pool: LocalUserPool, make_provider: MakeProvider
) -> None:
    """C06"""
    tokens, nonce = log_in(pool, make_provider())
    pool.counters.clear()
    pool.faults.always("jwks", Fault(delay=0.05))
    cold = make_provider(MemoryCache())
    results = outcomes(50, lambda: cold.verify_login(tokens, nonce=nonce)["email"])
    assert results == ["alice@example.com"] * 50
    assert (pool.counters["discovery"], pool.counters["jwks"]) == (1, 1)


@pytest.mark.parametrize(
    "issuer",
    [
        pytest.param(lambda own: "http://evil", id="C02-another"),
        pytest.param(lambda own: own + "1", id="C02-longer"),
        pytest.param(lambda own: own + "/", id="C02-slash"),
        pytest.param(lambda own: None, id="C02-missing"),
        pytest.param(lambda own: [own], id="C02-list"),
    ],
)
def test_case_issuer(
    pool: LocalUserPool, provider: Provider, issuer: Callable[[str], Any]
) -> None:
    """A document of another issuer is not used, and no login is started with it."""
    pool.faults.discovery = {"issuer": issuer(pool.issuer)}
    with pytest.raises(ProviderRejected) as caught:
        provider.metadata()
    assert caught.value.error == "invalid_metadata"


def test_a_pool_without_a_domain_is_named(
    pool: LocalUserPool, provider: Provider
) -> None:
    """Its document has endpoints that lead nowhere."""
    issuer_host = "https://cognito-idp.eu-central-1.amazonaws.com/x"
    pool.faults.discovery = {
        "authorization_endpoint": f"{issuer_host}/authorize",
        "token_endpoint": f"{issuer_host}/token",
    }
    with pytest.raises(ProviderRejected) as caught:
        provider.metadata()
    assert caught.value.error == "no_domain"


class TestKeyRotation:
    def test_keys_replaced_between_two_logins(
        self, pool: LocalUserPool, provider: Provider
    ) -> None:
        """C03: the second login is accepted without a restart."""
        verified(pool, provider)
        pool.rotate_keys()
        verified(pool, provider)
        verified(pool, provider)
        assert pool.counters["jwks"] == 2

    def test_keys_replaced_right_before_signing(
        self, pool: LocalUserPool, provider: Provider
    ) -> None:
        """C04: the cache was filled just now; one fetch more, and accepted."""
        verified(pool, provider)
        pool.faults.queue("token.authorization_code", Fault(before=pool.rotate_keys))
        verified(pool, provider)
        assert pool.counters["jwks"] == 2

    def test_the_other_processes_find_the_new_keys_too(
        self, pool: LocalUserPool, make_provider: MakeProvider
    ) -> None:
        one, other = make_provider(), make_provider()
        verified(pool, one)
        verified(pool, other)
        pool.rotate_keys()
        verified(pool, one)
        verified(pool, other)
        assert pool.counters["jwks"] <= 3

    def test_many_threads_that_miss_the_same_key_fetch_once(
        self, pool: LocalUserPool, provider: Provider
    ) -> None:
        verified(pool, provider)
        pool.rotate_keys()
        tokens, nonce = log_in(pool, provider)
        pool.faults.always("jwks", Fault(delay=0.05))
        results = outcomes(
            20, lambda: provider.verify_login(tokens, nonce=nonce)["email"]
        )
        assert results == ["alice@example.com"] * 20
        assert pool.counters["jwks"] == 2

    def test_unknown_kids_are_not_fetched_for_again_and_again(
        self, pool: LocalUserPool, provider: Provider, clock: Clock
    ) -> None:
        """C05 in small: a known key serves throughout, a new one soon."""
        known, nonce = log_in(pool, provider)
        provider.verify_login(known, nonce=nonce)
        unknown = Tamper(header=lambda head: {**head, "kid": secrets.token_hex(8)})
        pool.faults.tamper("id_token", unknown)
        strangers = [log_in(pool, provider) for _ in range(3)]
        pool.faults.clear()

        def present(login: tuple[Tokens, str]) -> type[CognitoAuthError]:
            with pytest.raises(CognitoAuthError) as caught:
                provider.verify_login(login[0], nonce=login[1])
            return caught.type

        assert present(strangers[0]) is UnknownKey
        for login in strangers * 10:
            assert present(login) is ProviderUnavailable
            assert provider.verify_login(known, nonce=nonce)
        assert pool.counters["jwks"] == 2

        pool.rotate_keys(keep_old=True)
        clock.advance(10)
        verified(pool, provider)
        assert provider.verify_login(known, nonce=nonce)
        assert pool.counters["jwks"] == 3

    def test_a_failed_search_for_a_key_is_shared(
        self, pool: LocalUserPool, provider: Provider
    ) -> None:
        """C07: no thread after the other waits for a provider that hangs."""
        verified(pool, provider)
        pool.rotate_keys()
        tokens, nonce = log_in(pool, provider)
        pool.faults.always("jwks", Fault(status=500, delay=0.1))
        results = outcomes(20, lambda: provider.verify_login(tokens, nonce=nonce))
        assert {type(result) for result in results} == {ProviderUnavailable}
        assert pool.counters["jwks"] == 2

    def test_a_forged_signature_is_no_reason_to_fetch(
        self, pool: LocalUserPool, provider: Provider
    ) -> None:
        """B10"""
        verified(pool, provider)
        pool.faults.tamper("id_token", Tamper.foreign_key())
        with pytest.raises(InvalidSignature):
            verified(pool, provider)
        assert pool.counters["jwks"] == 1


class Secrets:
    """A secrets manager: returns one value after the other, the last for ever."""

    def __init__(self, *values: str | Exception) -> None:
        self._values = list(values)
        self.reads = 0

    def __call__(self) -> str:
        self.reads += 1
        value = self._values.pop(0) if len(self._values) > 1 else self._values[0]
        if isinstance(value, Exception):
            raise value
        return value


class TestClientSecret:
    def test_it_is_read_once(
        self, pool: LocalUserPool, make_provider: MakeProvider
    ) -> None:
        stored = Secrets(str(pool.client_secret))
        provider = make_provider(COGNITO_CLIENT_SECRET=stored)
        assert stored.reads == 0
        for _ in range(3):
            log_in(pool, provider)
        assert stored.reads == 1

    def test_it_is_read_again_when_it_is_refused_and_the_token_is_not_lost(
        self, pool: LocalUserPool, make_provider: MakeProvider
    ) -> None:
        old, new = str(pool.client_secret), "another-secret"
        stored = Secrets(old, new)
        provider = make_provider(COGNITO_CLIENT_SECRET=stored)
        tokens, _ = log_in(pool, provider)
        pool.client_secret = new
        again = provider.refresh(tokens.refresh_token or "", timeout=2)
        assert again.access_token != tokens.access_token
        assert stored.reads == 2
        assert pool.counters["token.refresh_token"] == 2

    def test_one_that_stays_wrong_is_tried_once(
        self, pool: LocalUserPool, make_provider: MakeProvider
    ) -> None:
        """D16: invalid_client, and nothing of it is a loop."""
        stored = Secrets(str(pool.client_secret))
        provider = make_provider(COGNITO_CLIENT_SECRET=stored)
        tokens, _ = log_in(pool, provider)
        pool.client_secret = "another-secret"
        with pytest.raises(ProviderRejected) as caught:
            provider.refresh(tokens.refresh_token or "", timeout=2)
        assert caught.value.error == "invalid_client"
        assert (stored.reads, pool.counters["token.refresh_token"]) == (2, 1)
        assert pool.is_live(tokens.refresh_token or "")

    def test_one_that_is_wrong_twice_is_not_tried_a_third_time(
        self, pool: LocalUserPool, make_provider: MakeProvider
    ) -> None:
        stored = Secrets(str(pool.client_secret), "wrong-too", "never-read")
        provider = make_provider(COGNITO_CLIENT_SECRET=stored)
        tokens, _ = log_in(pool, provider)
        pool.client_secret = "another-secret"
        with pytest.raises(ProviderRejected):
            provider.refresh(tokens.refresh_token or "", timeout=2)
        assert (stored.reads, pool.counters["token.refresh_token"]) == (2, 2)

    def test_a_fixed_one_is_not_tried_again(
        self, pool: LocalUserPool, provider: Provider
    ) -> None:
        tokens, _ = log_in(pool, provider)
        pool.client_secret = "another-secret"
        with pytest.raises(ProviderRejected):
            provider.refresh(tokens.refresh_token or "", timeout=2)
        assert pool.counters["token.refresh_token"] == 1

    def test_every_thread_whose_secret_was_refused_gets_the_new_one(
        self, pool: LocalUserPool, make_provider: MakeProvider
    ) -> None:
        """Also one that finds that another thread has read it again already."""
        old, new = str(pool.client_secret), "another-secret"
        provider = make_provider(COGNITO_CLIENT_SECRET=Secrets(old, new))
        logins = [log_in(pool, provider)[0] for _ in range(4)]
        pool.client_secret = new
        together = threading.Barrier(4)
        pool.faults.queue(
            "token.refresh_token", *[Fault(before=lambda: together.wait(5))] * 4
        )
        left = iter(logins)
        lock = threading.Lock()

        def refresh() -> object:
            with lock:
                tokens = next(left)
            return provider.refresh(tokens.refresh_token or "", timeout=5)

        assert {type(result) for result in outcomes(4, refresh)} == {Tokens}

    def test_a_revocation_reads_it_again_too(
        self, pool: LocalUserPool, make_provider: MakeProvider
    ) -> None:
        old, new = str(pool.client_secret), "another-secret"
        provider = make_provider(COGNITO_CLIENT_SECRET=Secrets(old, new))
        tokens, _ = log_in(pool, provider)
        pool.client_secret = new
        provider.revoke(tokens.refresh_token or "")
        assert not pool.is_live(tokens.refresh_token or "")

    def test_a_manager_that_fails_is_transient_and_nothing_is_sent(
        self, pool: LocalUserPool, make_provider: MakeProvider
    ) -> None:
        """Whatever its library raises; its text may hold anything and stays out."""
        stored = Secrets(KeyError("the-secret"), str(pool.client_secret))
        provider = make_provider(COGNITO_CLIENT_SECRET=stored)
        error = unavailable(lambda: provider.refresh("token", timeout=1))
        assert not error.sent
        assert "the-secret" not in str(error)
        assert pool.counters["token"] == 0
        log_in(pool, provider)

    def test_a_public_client_sends_none(
        self, pool: LocalUserPool, make_provider: MakeProvider
    ) -> None:
        pool.client_secret = None
        provider = make_provider(COGNITO_CLIENT_SECRET=None)
        verified(pool, provider)
        sent = [request for request in pool.requests if request.endpoint == "token"]
        assert "Authorization" not in sent[0].headers
        assert pool.complaints == []


class TestRevocation:
    def test_what_is_revoked_is_dead(
        self, pool: LocalUserPool, provider: Provider
    ) -> None:
        tokens, _ = log_in(pool, provider)
        provider.revoke(tokens.refresh_token or "")
        assert not pool.is_live(tokens.refresh_token or "")
        assert pool.complaints == []

    def test_an_unknown_token_is_revoked_already(self, provider: Provider) -> None:
        """RFC 7009 section 2.2"""
        provider.revoke("unknown")

    @pytest.mark.parametrize(
        ("fault", "expected"),
        [
            pytest.param(
                Fault(status=400, body=b'{"error": "invalid_request"}'),
                ProviderRejected,
                id="G03-400",
            ),
            pytest.param(
                Fault(status=401, body=b'{"error": "invalid_client"}'),
                ProviderRejected,
                id="G03-401",
            ),
            pytest.param(Fault(status=503), ProviderUnavailable, id="G03-503"),
            pytest.param(
                Fault(status=403, body=b"<html>"), ProviderUnavailable, id="G03-garbage"
            ),
            pytest.param(
                Fault(status=307, headers={"Location": "/oauth2/revoke"}),
                ProviderUnavailable,
                id="G03-redirect",
            ),
            pytest.param(Fault(reset="before"), ProviderUnavailable, id="G03-reset"),
            pytest.param(Fault(delay=0.6), ProviderUnavailable, id="G03-hang"),
        ],
    )
    def test_case(
        self,
        pool: LocalUserPool,
        make_provider: MakeProvider,
        fault: Fault,
        expected: type[CognitoAuthError],
    ) -> None:
        """A revocation that fails says so, in time, and is sent once."""
        provider = make_provider(COGNITO_HTTP_TIMEOUT=0.4)
        provider.metadata()
        pool.faults.always("revoke", fault)
        started = time.monotonic()
        with pytest.raises(expected):
            provider.revoke("token")
        assert time.monotonic() - started < 0.6
        assert pool.counters["revoke"] == 1

    def test_it_does_not_wait_long_for_discovery_either(
        self, pool: LocalUserPool, make_provider: MakeProvider
    ) -> None:
        """G03: a logout is done within three seconds, in a cold process too."""
        provider = make_provider(COGNITO_HTTP_TIMEOUT=0.4)
        pool.faults.always("discovery", Fault(delay=0.3))
        pool.faults.always("revoke", Fault(delay=0.6))
        started = time.monotonic()
        unavailable(lambda: provider.revoke("token"))
        assert time.monotonic() - started < 0.6


REFRESH_FAULTS = {
    "D17-500": (Fault(status=500), True, False),
    "D17-502-HTML": (Fault(status=502, body=b"<html>"), True, False),
    "D17-429": (Fault(status=429, body=b"slow down"), True, False),
    "D17-throttled": (
        Fault(status=400, body=b'{"__type": "TooManyRequestsException"}'),
        True,
        False,
    ),
    "D17-403-firewall": (Fault(status=403, body=b"Forbidden"), True, False),
    "D17-reset": (Fault(reset="before"), True, True),
    "D17-half": (Fault(half=True), True, True),
    "D17-garbage": (Fault(body=b"\xff\xfe"), True, False),
    "D17-list": (Fault(body=b"[]"), True, False),
    "D17-no-access-token": (Fault(body=b'{"token_type": "Bearer"}'), True, False),
    "D17-3-MB": (Fault(body=b" " * 3_000_000), True, False),
    "D18-drip": (Fault(drip=(1, 0.05)), True, False),
}


@pytest.mark.parametrize(
    ("fault", "sent", "broken"), REFRESH_FAULTS.values(), ids=REFRESH_FAULTS.keys()
)
def test_case_refresh(
    pool: LocalUserPool, provider: Provider, fault: Fault, sent: bool, broken: bool
) -> None:
    """Whatever the token endpoint does, it is transient, once, and in time."""
    provider.metadata()
    pool.faults.always("token.refresh_token", fault)
    started = time.monotonic()
    error = unavailable(lambda: provider.refresh("token", timeout=0.4))
    assert time.monotonic() - started < 0.7
    assert (error.sent, error.broken) == (sent, broken)
    assert pool.counters["token.refresh_token"] == 1


def test_refused_connections_are_never_sent(
    pool: LocalUserPool, provider: Provider
) -> None:
    """D17: refused."""
    provider.metadata()
    pool.stop()
    error = unavailable(lambda: provider.refresh("token", timeout=0.5))
    assert (error.sent, error.broken) == (False, False)


def test_retry_after_is_handed_on(pool: LocalUserPool, provider: Provider) -> None:
    """D17: 503 with Retry-After."""
    pool.faults.always(
        "token.refresh_token", Fault(status=503, headers={"Retry-After": "7"})
    )
    error = unavailable(lambda: provider.refresh("token", timeout=1))
    assert (error.retry_after, error.status_code) == (7, 503)


def test_discovery_takes_its_time_from_the_refresh(
    pool: LocalUserPool, provider: Provider
) -> None:
    """D09: the lease of a refresh is as long as its time limit, all things included."""
    pool.faults.always("discovery", Fault(delay=0.3))
    pool.faults.always("token.refresh_token", Fault(delay=1))
    started = time.monotonic()
    assert unavailable(lambda: provider.refresh("token", timeout=0.5)).sent
    assert time.monotonic() - started < 0.7


def test_a_token_is_not_sent_when_discovery_took_all_the_time(
    pool: LocalUserPool, provider: Provider
) -> None:
    """D09: by then the lease may be another's."""
    pool.faults.always("discovery", Fault(delay=0.3))
    error = unavailable(lambda: provider.refresh("token", timeout=0.2))
    assert not error.sent
    assert pool.counters["token"] == 0


def test_a_thread_in_the_queue_does_not_wait_longer_than_its_own_limit(
    pool: LocalUserPool, provider: Provider
) -> None:
    answer = threading.Event()
    pool.faults.queue("discovery", Fault(before=lambda: answer.wait(5)))
    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(provider.metadata)
        until(lambda: pool.counters["discovery"] == 1)
        started = time.monotonic()
        error = unavailable(lambda: provider.refresh("token", timeout=0.2))
        assert time.monotonic() - started < 0.4
        assert not error.sent
        answer.set()
        assert asking.result()


def test_a_cache_that_is_down_does_not_stop_a_login(
    pool: LocalUserPool, make_provider: MakeProvider, caplog: pytest.LogCaptureFixture
) -> None:
    """I01: documents are then kept in the process alone, and a warning says so."""
    provider = make_provider(BrokenCache())
    with caplog.at_level(logging.WARNING):
        assert verified(pool, provider)["email"] == "alice@example.com"
        verified(pool, provider)
    assert (pool.counters["discovery"], pool.counters["jwks"]) == (1, 1)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2


def test_a_refreshed_id_token_is_checked_against_its_user(
    pool: LocalUserPool, provider: Provider
) -> None:
    """D04: identity never changes."""
    tokens, nonce = log_in(pool, provider)
    subject = provider.verify_login(tokens, nonce=nonce)["sub"]
    again = provider.refresh(tokens.refresh_token or "", timeout=2)
    claims = provider.verify_refreshed(again.id_token or "", subject=subject)
    assert claims["sub"] == subject
    with pytest.raises(CognitoAuthError):
        provider.verify_refreshed(again.id_token or "", subject=subject + "1")


def test_the_pool_has_nothing_to_complain_about(
    pool: LocalUserPool, provider: Provider
) -> None:
    """D28: one method of authentication, every form field once."""
    tokens, _ = log_in(pool, provider)
    again = provider.refresh(tokens.refresh_token or "", timeout=2)
    provider.revoke(again.refresh_token or "")
    assert pool.complaints == []
    for request in pool.requests:
        assert len(request.fields) == len(set(request.fields))
        assert "client_secret" not in request.form


@pytest.mark.parametrize("returned", [None, b"bytes", "", "  ", "geheimnis-ü"])
def test_a_secret_that_is_none_is_not_left_out(
    returned: Any, pool: LocalUserPool, make_provider: MakeProvider
) -> None:
    """Nothing is sent, rather than a request without the client's authentication."""
    provider = make_provider(COGNITO_CLIENT_SECRET=lambda: returned)

    with pytest.raises(ProviderUnavailable) as error:
        provider.refresh("token", timeout=1)

    assert not error.value.sent
    assert pool.counters["token"] == 0


def test_the_line_end_of_a_secret_that_was_read_from_a_file_does_not_matter(
    pool: LocalUserPool, make_provider: MakeProvider
) -> None:
    provider = make_provider(COGNITO_CLIENT_SECRET=lambda: f"{pool.client_secret}\n")

    assert verified(pool, provider)["sub"]
