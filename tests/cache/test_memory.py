from __future__ import annotations

import os

import pytest
from cache_contract import CacheContract, OpenCache

from flask_cognito_rotate.cache.memory import MemoryCache


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class TestMemoryCache(CacheContract):
    @pytest.fixture
    def open_cache(self) -> OpenCache:
        caches: dict[str, MemoryCache] = {}
        return lambda namespace: caches.setdefault(namespace, MemoryCache(namespace))


def test_live_values_are_never_dropped() -> None:
    cache = MemoryCache()
    for n in range(2000):
        cache.set(f"key {n}", b"value", 60)
    assert all(cache.get(f"key {n}") for n in range(2000))


def test_expired_values_leave_the_memory_as_others_are_written() -> None:
    clock = Time()
    cache = MemoryCache(clock=clock)
    for n in range(500):
        cache.set(f"old {n}", b"value", 10)
    clock.now += 10
    for n in range(300):
        cache.set(f"new {n}", b"value", 10)
    assert len(cache._ring) == 300


def test_a_value_ends_exactly_with_its_time() -> None:
    clock = Time()
    cache = MemoryCache(clock=clock)
    cache.set("key", b"value", 0.25)
    clock.now += 0.24
    assert cache.get("key") == b"value"
    clock.now += 0.01
    assert cache.get("key") is None


def test_two_objects_share_nothing() -> None:
    one, other = MemoryCache("same"), MemoryCache("same")
    one.set("key", b"value", 60)
    assert other.get("key") is None
    assert one.id != other.id


def test_no_lock_leaves_a_trace() -> None:
    time = Time()
    cache = MemoryCache(monotonic=time)
    for n in range(20):
        assert cache.lock(f"crashed {n}", 5).acquire()
    time.now += 5
    for n in range(20):
        lock = cache.lock(f"name {n}", 5)
        assert lock.acquire()
        lock.release()
    assert not cache._held


def test_a_closed_cache_holds_nothing() -> None:
    cache = MemoryCache()
    cache.set("key", b"value", 60)
    cache.close()
    assert cache.get("key") is None


def test_a_forked_child_starts_empty_with_another_id() -> None:
    cache = MemoryCache()
    cache.set("key", b"value", 60)
    lock = cache.lock("name", 60)
    assert lock.acquire()
    before = cache.id
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = [cache.id, cache.get("key"), lock.remaining()]
            answer.append(cache.lock("name", 60).acquire())
            os.write(writer, repr(answer).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(writer)
    with os.fdopen(reader) as answer_of_child:
        child_id, *rest = answer_of_child.read().strip("[]").split(", ")
    assert rest == ["None", "0.0", "True"]
    assert child_id.strip("'") != before
    assert (cache.id, cache.get("key")) == (before, b"value")
    assert lock.remaining() > 0
