"""The rule of rotation, step by step: cache, provider and clock are handed in."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from flask_cognito_rotate.breaker import Breaker
from flask_cognito_rotate.cache import Cache, Lock
from flask_cognito_rotate.cache.memory import MemoryCache
from flask_cognito_rotate.errors import (
    CacheUnavailable,
    CognitoAuthError,
    InvalidSubject,
    ProviderRejected,
    ProviderUnavailable,
    RefreshAccessTokenError,
)
from flask_cognito_rotate.model import StoredToken, Tokens
from flask_cognito_rotate.rotation import (
    Refreshed,
    RefreshFailed,
    Rotation,
    SessionEnded,
)
from flask_cognito_rotate.sessions import Handle, Record, Records, Session, State

NOW = 1_800_000_000.0


class Provider:
    """Rotates strictly: every refresh token once, grace 0. Answers can be scripted."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.revoked: list[str] = []
        self.live = "refresh-0"
        self.script: list[Callable[[], None] | Exception] = []
        self.after: list[Callable[[], None] | Exception] = []
        self.id_token: str | None = None
        self.verify: Callable[[], dict[str, Any]] = lambda: {"sub": "alice", "new": 1}
        self._lock = threading.Lock()

    def refresh(self, refresh_token: str, *, timeout: float) -> Tokens:
        self.sent.append(refresh_token)
        _play(self.script)
        with self._lock:
            if refresh_token != self.live:
                raise ProviderRejected("no", error="invalid_grant")
            number = int(self.live.partition("-")[2]) + 1
            self.live = f"refresh-{number}"
        _play(self.after)
        return Tokens(
            access_token=f"access-{number}",
            expires_at=int(NOW) + 3600 * (number + 1),
            refresh_token=self.live,
            id_token=self.id_token,
        )

    def verify_refreshed(self, id_token: str, *, subject: str) -> dict[str, Any]:
        assert (id_token, subject) == (self.id_token, "alice")
        return self.verify()

    def revoke(self, refresh_token: str) -> None:
        self.revoked.append(refresh_token)


def _play(script: list[Callable[[], None] | Exception]) -> None:
    step = script.pop(0) if script else None
    if isinstance(step, Exception):
        raise step
    if step is not None:
        step()


class FailingCache(MemoryCache):
    """A cache whose writes fail where `writes` says so, by their count from now."""

    def __init__(self) -> None:
        super().__init__()
        self.fails: Callable[[int], bool] = lambda _: False
        self.writes = 0

    def compare_and_set(
        self, key: str, expected: bytes | None, value: bytes, ttl: float
    ) -> bool:
        self.writes += 1
        if self.fails(self.writes):
            raise CacheUnavailable("scripted")
        return super().compare_and_set(key, expected, value, ttl)


class Host:
    """One process: a `Rotation` of its own on a cache that others share."""

    def __init__(
        self, provider: Provider, cache: Cache, clock: Callable[[], float] = lambda: NOW
    ) -> None:
        self.events: list[Refreshed | RefreshFailed] = []
        self.records = Records(cache, ttl=1000)
        self.rotation = Rotation(
            provider,
            self.records,
            observe=self.events.append,
            refresh_timeout=1,
            wait_timeout=2,
            clock=clock,
            sleep=lambda seconds: time.sleep(min(seconds, 0.02)),
            jitter=lambda: 0.5,
        )

    def refresh(self, session: Session, *, wait: bool = True) -> Session:
        return self.rotation.refresh(session, wait=wait)


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
def cache() -> FailingCache:
    return FailingCache()


@pytest.fixture
def host(provider: Provider, cache: FailingCache) -> Host:
    return Host(provider, cache)


@pytest.fixture
def session() -> Session:
    """A session as its sign-in cookie holds it: expired, and without a record."""
    handle = Handle.new()
    token = StoredToken(
        sid=handle.sid,
        access_token="access-0",
        access_token_expires=int(NOW),
        refresh_token="refresh-0",
        id_token_claims={"sub": "alice"},
        user={"id": "alice"},
        iat=int(NOW) - 3600,
    )
    return Session(token, handle.key)


def record_of(host: Host, session: Session) -> Record:
    record = host.records.read(session.handle)
    assert record is not None
    return record


def transient(error: pytest.ExceptionInfo[RefreshAccessTokenError]) -> bool:
    return not error.value.final and (error.value.retry_after or 0) > 0


def test_new_tokens_are_saved_as_the_next_generation(
    host: Host, session: Session
) -> None:
    done = host.refresh(session)

    record = record_of(host, session)
    assert (done.token.access_token, done.token.refresh_token) == (
        "access-1",
        "refresh-1",
    )
    assert (record.state, record.generation, record.token) == (
        State.LIVE,
        done.generation,
        done.token,
    )
    assert [type(event) for event in host.events] == [Refreshed]


@pytest.mark.parametrize("case", ["D01"])
def test_case_of_two_refreshes_in_a_row_sends_the_new_token_second(
    case: str, host: Host, provider: Provider, session: Session
) -> None:
    host.refresh(host.refresh(session))

    assert provider.sent == ["refresh-0", "refresh-1"]


def test_an_old_cookie_gets_the_tokens_of_the_record_without_a_call(
    host: Host, provider: Provider, session: Session
) -> None:
    """However often the browser missed the answer, and however late it comes."""
    newest = host.refresh(host.refresh(session))

    assert host.refresh(session).token == newest.token
    assert len(provider.sent) == 2


@pytest.mark.parametrize("case", [f"D07-{n}" for n in (1, 2, 3)])
def test_case_of_50_threads_on_two_hosts_makes_one_call(
    case: str, provider: Provider, cache: FailingCache, session: Session
) -> None:
    hosts = [Host(provider, cache), Host(provider, cache)]
    together = threading.Barrier(50)
    provider.script = [lambda: _pause(0.1)]

    def one(number: int) -> Session:
        together.wait(10)
        return hosts[number % 2].refresh(session)

    with ThreadPoolExecutor(50) as threads:
        done = list(threads.map(one, range(50)))

    assert {one.token.access_token for one in done} == {"access-1"}
    assert provider.sent == ["refresh-0"]


def _pause(seconds: float) -> None:
    threading.Event().wait(seconds)


def test_within_the_leeway_the_others_go_on_at_once(
    provider: Provider, cache: FailingCache, session: Session
) -> None:
    """Case D22: who finds the lock taken keeps the valid token and does not wait."""
    asked, answer = threading.Event(), threading.Event()
    provider.script = [lambda: (asked.set(), answer.wait(5)) and None]
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(Host(provider, cache).refresh, session, wait=False)
        assert asked.wait(5)

        other = Host(provider, cache).refresh(session, wait=False)

        assert other is session
        answer.set()
        assert first.result(5).token.access_token == "access-1"


def test_a_waiter_gives_up_in_time_and_the_session_stays(
    provider: Provider, cache: FailingCache, session: Session
) -> None:
    asked, answer = threading.Event(), threading.Event()
    provider.script = [lambda: (asked.set(), answer.wait(10)) and None]
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(Host(provider, cache).refresh, session)
        assert asked.wait(5)

        with pytest.raises(RefreshAccessTokenError) as error:
            Host(provider, cache).refresh(session)

        assert transient(error)
        answer.set()
        assert first.result(5).token.access_token == "access-1"


@pytest.mark.parametrize("case", ["D12-not-writable"])
def test_case_of_a_cache_that_refuses_writes_spends_no_token(
    case: str,
    host: Host,
    provider: Provider,
    cache: FailingCache,
    session: Session,
) -> None:
    cache.fails = lambda _: True

    with pytest.raises(CacheUnavailable):
        host.refresh(session)

    assert provider.sent == []


@pytest.mark.parametrize("case", ["D12-save-fails-once", "D12-save-fails-for-good"])
def test_case_of_a_save_that_fails_keeps_the_tokens_in_hand(
    case: str,
    host: Host,
    provider: Provider,
    cache: FailingCache,
    session: Session,
) -> None:
    """The answer is retried, and served from memory if the cache stays down."""
    once = case.endswith("once")
    cache.fails = lambda number: number == 2 if once else number >= 2

    done = host.refresh(session)

    assert done.token.refresh_token == "refresh-1"
    assert provider.sent == ["refresh-0"]
    cache.fails = lambda _: False
    assert host.refresh(done).token.refresh_token == "refresh-2"


@pytest.mark.parametrize("case", ["D13"])
def test_case_of_an_answer_lost_on_the_wire_is_one_retry_and_a_named_end(
    case: str, host: Host, provider: Provider, session: Session
) -> None:
    """With grace 0 the retry is refused: the session is over, its reason is known."""
    provider.after = [ProviderUnavailable("reset", broken=True)]

    with pytest.raises(RefreshAccessTokenError) as error:
        host.refresh(session)

    assert error.value.final
    assert provider.sent == ["refresh-0", "refresh-0"]
    (event,) = host.events
    assert isinstance(event, RefreshFailed)
    assert event.final and event.lost


def test_a_connection_that_breaks_before_the_work_is_retried_with_success(
    host: Host, provider: Provider, session: Session
) -> None:
    provider.script = [ProviderUnavailable("reset", broken=True)]

    assert host.refresh(session).token.access_token == "access-1"


@pytest.mark.parametrize("case", ["D14"])
def test_case_of_invalid_grant_ends_the_session_once(
    case: str, host: Host, provider: Provider, session: Session
) -> None:
    provider.live = "refresh-9"

    for _ in range(3):
        with pytest.raises(RefreshAccessTokenError) as error:
            host.refresh(session)
        assert error.value.final

    record = record_of(host, session)
    assert record.state is State.FAILED
    assert record.token is not None and record.token.refresh_token is None
    assert record.token.user == {"id": "alice"}
    assert provider.sent == ["refresh-0"]


@pytest.mark.parametrize("case", ["D15"])
def test_case_of_invalid_grant_while_the_record_holds_a_newer_token(
    case: str, host: Host, provider: Provider, session: Session
) -> None:
    """Another host rotated although this one held the lock: its token is taken."""

    def meanwhile() -> None:
        provider.live = "refresh-5"
        seen = record_of(host, session)
        token = replace(
            session.token, access_token="access-5", refresh_token="refresh-5"
        )
        newer = Record(seen.generation + 2, State.LIVE, token)
        assert host.records.replace(session.handle, seen, newer)

    provider.script = [meanwhile]

    assert host.refresh(session).token.access_token == "access-5"


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(ProviderRejected("no", error="invalid_client"), id="D16-client"),
        pytest.param(
            ProviderRejected("no", error="unauthorized_client"), id="D16-grant"
        ),
        pytest.param(ProviderUnavailable("500", status_code=500), id="D17-500"),
        pytest.param(ProviderUnavailable("no", sent=False), id="D17-refused"),
    ],
)
def test_case_of_a_transient_failure_keeps_the_session_and_pauses(
    error: CognitoAuthError, host: Host, provider: Provider, session: Session
) -> None:
    """One call, then a back-off that every process shares."""
    provider.script = [error]

    for _ in range(3):
        with pytest.raises(RefreshAccessTokenError) as raised:
            host.refresh(session)
        assert transient(raised)

    record = record_of(host, session)
    assert (record.state, record.failures) == (State.LIVE, 1)
    assert record.token == session.token
    assert provider.sent == ["refresh-0"]


def test_after_the_pause_the_same_token_is_tried_again(
    provider: Provider, cache: FailingCache, session: Session
) -> None:
    now = [NOW]
    host = Host(provider, cache, lambda: now[0])
    provider.script = [ProviderUnavailable("503", status_code=503, retry_after=7)]
    with pytest.raises(RefreshAccessTokenError) as error:
        host.refresh(session)
    assert (error.value.retry_after or 0) >= 7

    now[0] += error.value.retry_after or 0

    assert host.refresh(session).token.access_token == "access-1"


@pytest.mark.parametrize("case", [f"D23-{n}" for n in (1, 2, 3)])
def test_case_of_a_logout_during_a_refresh_wins(
    case: str, provider: Provider, cache: FailingCache, session: Session
) -> None:
    """The late tokens are revoked, and nobody gets in with the session again."""
    asked, answer = threading.Event(), threading.Event()
    provider.after = [lambda: (asked.set(), answer.wait(5)) and None]
    with ThreadPoolExecutor(1) as threads:
        refreshing = threads.submit(Host(provider, cache).refresh, session)
        assert asked.wait(5)

        marked = Host(provider, cache).rotation.end(session)
        answer.set()

        with pytest.raises(SessionEnded):
            refreshing.result(5)
    assert marked
    assert provider.revoked == ["refresh-0", "refresh-1"]
    with pytest.raises(SessionEnded):
        Host(provider, cache).refresh(session)


def test_ending_revokes_the_newest_refresh_token_once(
    host: Host, provider: Provider, session: Session
) -> None:
    host.refresh(session)

    assert host.rotation.end(session)
    assert host.rotation.end(session)
    assert provider.revoked == ["refresh-1"]


def test_an_end_that_cannot_be_written_says_so_and_revokes_what_it_knows(
    host: Host, provider: Provider, cache: FailingCache, session: Session
) -> None:
    cache.fails = lambda _: True

    assert not host.rotation.end(session)
    assert provider.revoked == ["refresh-0"]


def test_a_dead_owners_saved_answer_is_finished_by_the_next(
    host: Host, provider: Provider, session: Session
) -> None:
    """Killed between the save and the check of the ID token: nothing is lost."""
    provider.id_token = "id-1"
    token = replace(session.token, access_token="access-1", refresh_token="refresh-1")
    saved = Record(1, State.REFRESHING, token, pending_id_token="id-1")
    assert host.records.replace(session.handle, None, saved)

    done = host.refresh(session)

    assert done.token.access_token == "access-1"
    assert done.token.id_token_claims == {"sub": "alice", "new": 1}
    assert provider.sent == []


@pytest.mark.parametrize("case", ["D04"])
def test_case_of_a_refreshed_id_token_of_somebody_else(
    case: str, host: Host, provider: Provider, session: Session
) -> None:
    """The whole answer is discarded and revoked, and the session is over."""

    def refuse() -> dict[str, Any]:
        raise InvalidSubject("another user")

    provider.id_token, provider.verify = "id-1", refuse

    with pytest.raises(RefreshAccessTokenError) as error:
        host.refresh(session)

    assert error.value.final
    assert provider.revoked == ["refresh-1"]
    record = record_of(host, session)
    assert record.state is State.FAILED
    assert record.token is not None and record.token.access_token is None


def test_nobody_uses_tokens_whose_id_token_is_still_being_checked(
    provider: Provider, cache: FailingCache, session: Session
) -> None:
    checking, go_on = threading.Event(), threading.Event()

    def verify() -> dict[str, Any]:
        checking.set()
        go_on.wait(5)
        raise InvalidSubject("another user")

    provider.id_token, provider.verify = "id-1", verify
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(Host(provider, cache).refresh, session)
        assert checking.wait(5)
        second = threads.submit(Host(provider, cache).refresh, session)
        _pause(0.1)
        assert not second.done()
        go_on.set()

        for refused in (first, second):
            with pytest.raises(RefreshAccessTokenError) as error:
                refused.result(5)
            assert error.value.final


def test_without_keys_the_new_tokens_come_with_the_old_claims(
    host: Host, provider: Provider, session: Session
) -> None:
    def no_keys() -> dict[str, Any]:
        raise ProviderUnavailable("no keys")

    provider.id_token, provider.verify = "id-1", no_keys

    done = host.refresh(session)

    assert done.token.access_token == "access-1"
    assert done.token.id_token_claims == {"sub": "alice"}


def test_a_stalled_worker_looks_at_its_lease_before_it_sends(
    provider: Provider, session: Session
) -> None:
    """Case D09: what is left of the lease cannot hold a whole refresh any more."""

    class Stalling(MemoryCache):
        def lock(self, name: str, lease: float) -> Lock:
            lock = super().lock(name, lease)
            lock.remaining = lambda: 0.5  # type: ignore[method-assign]
            return lock

    host = Host(provider, Stalling())

    with pytest.raises(RefreshAccessTokenError) as error:
        host.refresh(session)

    assert transient(error)
    assert provider.sent == []
    assert record_of(host, session).state is State.LIVE


def test_what_is_stored_beside_the_tokens_never_undoes_a_rotation(
    provider: Provider, cache: FailingCache, session: Session
) -> None:
    """An amendment that lands during a refresh is kept, and so are the new tokens."""
    host = Host(provider, cache)

    def amend() -> None:
        Host(provider, cache).rotation.amend(
            session, lambda token: replace(token, extra={"role": "admin"})
        )

    provider.after = [amend]

    done = host.refresh(session)

    assert done.token.refresh_token == "refresh-1"
    assert dict(done.token.extra) == {"role": "admin"}
    assert record_of(host, session).token == done.token


def test_a_session_that_the_cache_forgot_lives_on_from_its_cookie(
    host: Host, provider: Provider, cache: FailingCache, session: Session
) -> None:
    newest = host.refresh(session)
    cache.delete(session.handle.name)

    assert host.refresh(newest).token.refresh_token == "refresh-2"


def test_the_breaker_opens_after_three_sessions_and_one_probe_closes_it() -> None:
    """Case D26 in small."""
    breaker, down = Breaker(), ProviderUnavailable("refused", sent=False)
    for sid in ("a", "a", "a", "b"):
        breaker.failure(sid, down, began=0, now=0)
        assert breaker.pause(0) == 0
    breaker.failure("c", down, began=0, now=0)

    pause = breaker.pause(0)

    assert pause > 0
    assert breaker.pause(pause) == 0
    assert breaker.pause(pause) > 0
    breaker.success(pause)
    assert breaker.pause(pause) == 0


def test_a_429_slows_and_never_stops() -> None:
    breaker = Breaker()
    throttled = ProviderUnavailable("429", status_code=429)
    for sid in "abcdefghij":
        breaker.failure(sid, throttled, began=0, now=0)

    assert 0 < breaker.pause(0) <= 1
    assert breaker.pause(1) == 0
    assert breaker.pause(1) == 0


def test_a_clock_that_is_set_back_stops_nobody_for_long(
    provider: Provider, cache: FailingCache, session: Session
) -> None:
    """What was noted by a clock an hour ahead does not hold for an hour."""
    now = [NOW + 3600]
    host = Host(provider, cache, lambda: now[0])
    provider.script = [ProviderUnavailable("503", status_code=503)]
    with pytest.raises(RefreshAccessTokenError):
        host.refresh(session)

    now[0] = NOW

    assert host.refresh(session).token.access_token == "access-1"


def test_a_write_that_only_seemed_to_fail_is_recognised(
    provider: Provider, session: Session
) -> None:
    """The answer was saved although the cache said no: it is ours, and told of."""

    class Ambiguous(FailingCache):
        def compare_and_set(
            self, key: str, expected: bytes | None, value: bytes, ttl: float
        ) -> bool:
            written = MemoryCache.compare_and_set(self, key, expected, value, ttl)
            self.writes += 1
            if self.writes == 2:
                raise CacheUnavailable("timed out after the work")
            return written

    host = Host(provider, Ambiguous())

    done = host.refresh(session)

    assert done.token.refresh_token == "refresh-1"
    assert [type(event) for event in host.events] == [Refreshed]


def test_calls_that_fail_together_open_the_breaker_once() -> None:
    """A hiccup is not twenty failed probes: the pause stays short."""
    breaker, down = Breaker(), ProviderUnavailable("503", status_code=503)
    for number in range(20):
        breaker.failure(f"session {number}", down, began=0, now=0.3)

    first = breaker.pause(0.3)

    assert 0 < first <= 1
    probe = 0.3 + first
    assert breaker.pause(probe) == 0
    breaker.failure("probe", down, began=probe, now=probe + 0.1)
    assert 1 < breaker.pause(probe + 0.1) <= 2


def test_a_success_of_another_process_closes_the_breaker(
    provider: Provider, cache: FailingCache, session: Session
) -> None:
    """Its record tells when the provider answered last."""
    now = [NOW]
    host = Host(provider, cache, lambda: now[0])
    down = ProviderUnavailable("503", status_code=503)
    for sid in "abc":
        host.rotation._breaker.failure(sid, down, began=NOW, now=NOW)
    with pytest.raises(RefreshAccessTokenError):
        host.refresh(session)

    host.rotation.notice(Record(1, State.LIVE, None, refreshed_at=NOW - 1))
    assert host.rotation._breaker.pause(NOW) > 0
    host.rotation.notice(Record(1, State.LIVE, None, refreshed_at=NOW + 0.1))

    assert host.refresh(session).token.access_token == "access-1"


def test_a_success_of_long_ago_does_not_keep_the_breaker_shut() -> None:
    """Every request reads a record: only an answer after the failures is news."""
    breaker, down = Breaker(), ProviderUnavailable("503", status_code=503)
    for sid in "abc":
        breaker.failure(sid, down, began=100, now=100)
        breaker.success(0.0)
        breaker.success(99.0)

    assert breaker.pause(100) > 0
