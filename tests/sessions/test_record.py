"""The record in the cache: sealed, and changed by compare-and-set alone."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sessions_data import NOW, STORED_TOKENS, real_session

from flask_cognito_rotate.cache.memory import MemoryCache
from flask_cognito_rotate.errors import CacheUnavailable
from flask_cognito_rotate.model import StoredToken
from flask_cognito_rotate.sessions import Handle, Record, Records, Session, State

TTL = 1000


class Time:
    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


class DumpedCache(MemoryCache):
    """A cache that remembers everything that was ever written, names included."""

    def __init__(self, time: Time) -> None:
        super().__init__(clock=time)
        self.dump: list[bytes] = []

    def compare_and_set(
        self, key: str, expected: bytes | None, value: bytes, ttl: float
    ) -> bool:
        self.dump += [key.encode(), value]
        return super().compare_and_set(key, expected, value, ttl)


class DownCache(MemoryCache):
    def get(self, key: str) -> bytes | None:
        raise CacheUnavailable("down")

    def compare_and_set(
        self, key: str, expected: bytes | None, value: bytes, ttl: float
    ) -> bool:
        raise CacheUnavailable("down")


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def cache(time: Time) -> DumpedCache:
    return DumpedCache(time)


@pytest.fixture
def records(cache: DumpedCache) -> Records:
    return Records(cache, ttl=TTL)


@pytest.fixture
def session() -> Session:
    return real_session()


def live(session: Session, generation: int = 1) -> Record:
    return Record(generation, State.LIVE, session.token)


def test_a_session_without_a_record_has_none(
    records: Records, session: Session
) -> None:
    assert records.read(session.handle) is None


@given(
    token=st.none() | STORED_TOKENS,
    state=st.sampled_from(State),
    generation=st.integers(0, 2**40),
    pending=st.none() | st.text(max_size=30),
    times=st.tuples(st.floats(0, 2e9), st.floats(0, 2e9)),
    failures=st.integers(0, 1000),
    lost=st.booleans(),
)
@settings(max_examples=50)
def test_any_record_comes_back(
    token: StoredToken | None,
    state: State,
    generation: int,
    pending: str | None,
    times: tuple[float, float],
    failures: int,
    lost: bool,
) -> None:
    records, handle = Records(MemoryCache(), ttl=TTL), Handle.new()
    record = Record(generation, state, token, pending, *times, failures, lost)
    assert records.replace(handle, None, record) == record
    assert records.read(handle) == record


def test_the_first_to_write_wins(records: Records, session: Session) -> None:
    """Two that both saw no record: one of them writes it."""
    assert records.replace(session.handle, None, live(session)) is not None
    assert records.replace(session.handle, None, live(session, 2)) is None
    read = records.read(session.handle)
    assert read is not None and read.generation == 1


def test_a_record_is_replaced_only_as_it_was_seen(
    records: Records, session: Session
) -> None:
    first = records.replace(session.handle, None, live(session))
    seen_by_another = records.read(session.handle)
    second = records.replace(session.handle, first, live(session, 2))
    assert second is not None
    assert records.replace(session.handle, seen_by_another, live(session, 3)) is None
    assert records.replace(session.handle, second, live(session, 3)) is not None


def test_equal_content_is_not_the_same_state(
    records: Records, session: Session
) -> None:
    """Each write is sealed anew, so a state that came back is told from the first."""
    first = records.replace(session.handle, None, live(session))
    second = records.replace(session.handle, first, live(session))
    assert second == first
    assert records.replace(session.handle, first, live(session, 9)) is None


def test_a_record_lives_as_long_as_its_last_change_says(
    records: Records, session: Session, time: Time
) -> None:
    first = records.replace(session.handle, None, live(session))
    time.now += TTL - 1
    assert records.replace(session.handle, first, live(session, 2)) is not None
    time.now += TTL - 1
    assert records.read(session.handle) is not None
    time.now += 1
    assert records.read(session.handle) is None


def test_a_dump_of_the_cache_shows_nothing(
    records: Records, session: Session, cache: DumpedCache
) -> None:
    """E09: no token, no claim, not even the session's id or a hash without salt."""
    record = replace(live(session), pending_id_token="pending.id.token")
    records.replace(session.handle, None, record)
    dump = b"".join(cache.dump)
    token = session.token
    for secret in (
        token.sid,
        *(token.access_token or "").split("."),
        *(token.refresh_token or "").split("."),
        *map(str, token.user.values()),
        "pending.id.token",
        "accessToken",
        "live",
    ):
        assert secret.encode() not in dump
    assert session.key not in dump


def test_another_session_s_key_cannot_open_the_record(
    records: Records, session: Session
) -> None:
    records.replace(session.handle, None, live(session))
    thief = Handle(session.token.sid, Handle.new().key)
    read = records.read(thief)
    assert read is not None
    assert (read.generation, read.token) == (-1, None)


def test_a_record_cannot_be_passed_off_as_another_session_s(
    cache: DumpedCache, session: Session
) -> None:
    """Its name is sealed in, so that whoever writes to the cache cannot swap two."""
    records = Records(cache, ttl=TTL)
    written = records.replace(session.handle, None, live(session))
    assert written is not None and written.raw is not None
    elsewhere = Handle("another-sid", session.key)
    cache.set(elsewhere.name, written.raw, TTL)
    read = records.read(elsewhere)
    assert read is not None and read.token is None


@pytest.mark.parametrize("damage", [b"", b"\0", b"x" * 50, b"{}", b"null"])
def test_an_unreadable_record_is_logged_and_can_be_replaced(
    damage: bytes,
    records: Records,
    session: Session,
    cache: DumpedCache,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache.set(session.handle.name, damage, TTL)
    with caplog.at_level(logging.ERROR):
        read = records.read(session.handle)
    assert read is not None
    assert (read.generation, read.token, read.raw) == (-1, None, damage)
    assert [r.__dict__["event"] for r in caplog.records] == ["record_unreadable"]
    assert records.replace(session.handle, read, live(session)) is not None
    assert records.read(session.handle) == live(session)


def test_a_changed_byte_makes_a_record_unreadable(
    records: Records, session: Session, cache: DumpedCache
) -> None:
    written = records.replace(session.handle, None, live(session))
    assert written is not None and written.raw is not None
    for at in (0, 11, 12, len(written.raw) // 2, len(written.raw) - 1):
        raw = bytearray(written.raw)
        raw[at] ^= 1
        cache.set(session.handle.name, bytes(raw), TTL)
        read = records.read(session.handle)
        assert read is not None and read.token is None


def test_a_cache_that_is_down_is_not_a_session_that_does_not_exist(
    session: Session,
) -> None:
    """I02: neither reading nor writing takes a failure for an answer."""
    records = Records(DownCache(), ttl=TTL)
    with pytest.raises(CacheUnavailable):
        records.read(session.handle)
    with pytest.raises(CacheUnavailable):
        records.replace(session.handle, None, live(session))


def test_handles_are_random_and_silent() -> None:
    handles = [Handle.new() for _ in range(100)]
    assert len({handle.sid for handle in handles}) == 100
    assert len({handle.key for handle in handles}) == 100
    assert all(len(handle.sid) == 32 and len(handle.key) == 32 for handle in handles)
    assert handles[0].sid not in handles[0].name
    assert handles[0].sid not in repr(handles[0])


def test_a_csrf_token_belongs_to_one_session_and_tells_nothing_of_its_key() -> None:
    one, other = Handle.new(), Handle.new()
    assert one.csrf_token() == Handle(one.sid, one.key).csrf_token()
    assert one.csrf_token() != other.csrf_token()
    assert one.csrf_token() not in one.key.hex()
    assert len(one.csrf_token()) == 32


def test_the_repr_of_a_record_shows_no_secret(
    records: Records, session: Session
) -> None:
    record = replace(live(session), pending_id_token="pending.id.token")
    written = records.replace(session.handle, None, record)
    shown = repr(written) + repr(session)
    token = session.token
    for secret in (token.sid, token.access_token, token.refresh_token, "pending"):
        assert secret is not None and f"{secret}'" not in shown
    assert "pending.id.token" not in shown
