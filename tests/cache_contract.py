"""What every backend of COGNITO_CACHE must do; each test class inherits it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

import pytest

from flask_cognito_rotate.cache import Cache

OpenCache = Callable[[str], Cache]


class CacheContract:
    #: Seconds: the shortest time that the backend measures well.
    tick = 0.05
    #: False where a lock ends only with its owner or the owner's process.
    lease_runs_out = True

    @pytest.fixture
    def open_cache(self) -> OpenCache:
        """Open the same storage once more, under the namespace that is passed."""
        raise NotImplementedError

    @pytest.fixture
    def cache(self, open_cache: OpenCache) -> Cache:
        return open_cache("one")

    def test_a_key_never_set_has_no_value(self, cache: Cache) -> None:
        assert cache.get("nothing") is None

    def test_what_is_set_is_read_through_another_object(
        self, open_cache: OpenCache
    ) -> None:
        open_cache("one").set("key", b"value", 60)
        assert open_cache("one").get("key") == b"value"

    def test_set_replaces(self, cache: Cache) -> None:
        cache.set("key", b"longer value", 60)
        cache.set("key", b"new", 60)
        assert cache.get("key") == b"new"

    @pytest.mark.parametrize(
        "value",
        [
            b"",
            b"\x00",
            bytes(range(256)),
            b"\r\nEND\r\n",
            b"!pickle",
            b"x" * 65536,
            b"\xff\x00" * 65536,
        ],
        ids=["empty", "nul", "all bytes", "lines", "mark", "64 kB", "128 kB"],
    )
    def test_any_bytes_come_back_as_they_were(self, cache: Cache, value: bytes) -> None:
        cache.set("key", value, 60)
        assert cache.get("key") == value
        assert cache.compare_and_set("key", value, b"next", 60)

    @pytest.mark.parametrize(
        "key",
        ["", "a/b", "../up", "a b\nc", "nul\x00", "x" * 1000, "ключ", "a:b"],
        ids=range(8),
    )
    def test_any_text_is_a_key(self, cache: Cache, key: str) -> None:
        cache.set(key, b"value", 60)
        assert cache.get(key) == b"value"

    def test_a_value_expires(self, cache: Cache) -> None:
        cache.set("short", b"value", self.tick)
        cache.set("long", b"value", 60)
        time.sleep(self.tick * 1.5)
        assert cache.get("short") is None
        assert cache.get("long") == b"value"

    def test_setting_again_prolongs(self, cache: Cache) -> None:
        cache.set("key", b"value", self.tick)
        cache.set("key", b"value", 60)
        time.sleep(self.tick * 1.5)
        assert cache.get("key") == b"value"

    def test_an_infinite_time_never_expires(self, cache: Cache) -> None:
        cache.set("key", b"value", math.inf)
        assert cache.get("key") == b"value"

    def test_deleting_removes_one_key(self, cache: Cache) -> None:
        cache.set("key", b"value", 60)
        cache.set("other", b"value", 60)
        cache.delete("key")
        assert cache.get("key") is None
        assert cache.get("other") == b"value"

    def test_deleting_what_is_not_there_is_no_error(self, cache: Cache) -> None:
        cache.delete("nothing")

    def test_only_the_first_add_succeeds(self, cache: Cache) -> None:
        assert cache.add("key", b"first", 60)
        assert not cache.add("key", b"second", 60)
        assert cache.get("key") == b"first"

    def test_add_succeeds_after_expiry_and_after_deletion(self, cache: Cache) -> None:
        cache.add("key", b"first", self.tick)
        time.sleep(self.tick * 1.5)
        assert cache.add("key", b"second", 60)
        cache.delete("key")
        assert cache.add("key", b"third", 60)

    def test_of_many_who_add_one_succeeds(self, cache: Cache) -> None:
        wins: list[int] = []
        self._in_threads(
            8, lambda n: wins.append(n) if cache.add("key", b"%d" % n, 60) else None
        )
        assert len(wins) == 1
        assert cache.get("key") == b"%d" % wins[0]

    def test_compare_and_set_replaces_what_was_expected(self, cache: Cache) -> None:
        cache.set("key", b"old", 60)
        assert cache.compare_and_set("key", b"old", b"new", 60)
        assert cache.get("key") == b"new"

    @pytest.mark.parametrize("expected", [b"ol", b"old ", b"OLD", b"", None])
    def test_compare_and_set_leaves_anything_else(
        self, cache: Cache, expected: bytes | None
    ) -> None:
        cache.set("key", b"old", 60)
        assert not cache.compare_and_set("key", expected, b"new", 60)
        assert cache.get("key") == b"old"

    def test_compare_and_set_does_not_create_what_should_exist(
        self, cache: Cache
    ) -> None:
        assert not cache.compare_and_set("key", b"old", b"new", 60)
        assert cache.get("key") is None

    def test_an_expired_value_is_not_what_was_expected(self, cache: Cache) -> None:
        cache.set("key", b"old", self.tick)
        time.sleep(self.tick * 1.5)
        assert not cache.compare_and_set("key", b"old", b"new", 60)
        assert cache.compare_and_set("key", None, b"new", 60)

    def test_threads_that_count_by_compare_and_set_lose_nothing(
        self, open_cache: OpenCache
    ) -> None:
        open_cache("one").set("counter", b"0", 60)

        def count(_: int) -> None:
            cache = open_cache("one")
            for _ in range(10):
                while not increment(cache, "counter"):
                    pass

        self._in_threads(8, count)
        assert open_cache("one").get("counter") == b"80"

    def test_namespaces_do_not_see_each_other(self, open_cache: OpenCache) -> None:
        one, other = open_cache("one"), open_cache("other")
        one.set("key", b"value", 60)
        assert other.get("key") is None
        assert other.add("key", b"another", 60)
        other.delete("key")
        assert one.get("key") == b"value"
        assert one.id != other.id

    def test_locks_of_two_namespaces_are_two(self, open_cache: OpenCache) -> None:
        locks = [open_cache(namespace).lock("name", 60) for namespace in ("one", "two")]
        assert all(lock.acquire() for lock in locks)
        for lock in locks:
            lock.release()

    def test_the_id_is_the_same_for_all_objects_and_threads(
        self, open_cache: OpenCache
    ) -> None:
        ids: list[str] = []
        self._in_threads(8, lambda _: ids.append(open_cache("one").id))
        assert len(ids) == 8
        assert len(set(ids)) == 1
        assert len(ids[0]) >= 32

    def test_a_lock_excludes_every_other_object(self, open_cache: OpenCache) -> None:
        first = open_cache("one").lock("name", 60)
        second = open_cache("one").lock("name", 60)
        assert first.acquire()
        assert not second.acquire()
        assert not first.acquire()
        first.release()
        assert second.acquire()
        second.release()

    def test_locks_of_two_names_are_two(self, cache: Cache) -> None:
        locks = [cache.lock("a", 60), cache.lock("b", 60)]
        assert all(lock.acquire() for lock in locks)
        for lock in locks:
            lock.release()

    def test_a_lock_and_a_value_of_one_name_do_not_collide(self, cache: Cache) -> None:
        lock = cache.lock("name", 60)
        assert lock.acquire()
        assert cache.get("name") is None
        assert cache.add("name", b"value", 60)
        lock.release()
        assert cache.get("name") == b"value"

    def test_of_many_threads_one_gets_the_lock(self, open_cache: OpenCache) -> None:
        locks = [open_cache("one").lock("name", 60) for _ in range(8)]
        wins: list[int] = []
        self._in_threads(8, lambda n: wins.append(n) if locks[n].acquire() else None)
        assert len(wins) == 1
        locks[wins[0]].release()

    def test_threads_take_the_lock_one_after_another(
        self, open_cache: OpenCache
    ) -> None:
        inside: list[int] = []
        most: list[int] = []

        def work(n: int) -> None:
            for _ in range(10):
                lock = open_cache("one").lock("name", 60)
                while not lock.acquire():
                    time.sleep(0.0005)
                inside.append(n)
                most.append(len(inside))
                inside.remove(n)
                lock.release()

        self._in_threads(4, work)
        assert most == [1] * 40

    def test_another_thread_may_release(self, cache: Cache) -> None:
        lock = cache.lock("name", 60)
        assert lock.acquire()
        self._in_threads(1, lambda _: lock.release())
        assert lock.remaining() <= 0
        assert lock.acquire()
        lock.release()

    def test_only_the_owner_releases(self, cache: Cache) -> None:
        owner, other = cache.lock("name", 60), cache.lock("name", 60)
        assert owner.acquire()
        other.release()
        assert not other.acquire()
        other.release()
        assert owner.remaining() > 0
        owner.release()

    def test_releasing_twice_is_no_error_and_harms_nobody(self, cache: Cache) -> None:
        first, second = cache.lock("name", 60), cache.lock("name", 60)
        assert first.acquire()
        first.release()
        assert second.acquire()
        first.release()
        assert not first.acquire()
        assert second.remaining() > 0
        second.release()

    def test_remaining_counts_down_while_held_and_is_zero_otherwise(
        self, cache: Cache
    ) -> None:
        lock = cache.lock("name", 60)
        assert lock.remaining() <= 0
        assert lock.acquire()
        first = lock.remaining()
        time.sleep(0.01)
        assert 0 < lock.remaining() < first <= 60
        lock.release()
        assert lock.remaining() <= 0

    def test_a_lease_runs_out(self, cache: Cache) -> None:
        late, other = cache.lock("name", self.tick), cache.lock("name", 60)
        assert late.acquire()
        time.sleep(self.tick * 1.5)
        assert late.remaining() <= 0
        if self.lease_runs_out:
            assert other.acquire()
            late.release()
            assert other.remaining() > 0
        else:
            assert not other.acquire()
            late.release()
            assert other.acquire()
        other.release()

    @staticmethod
    def _in_threads(number: int, work: Callable[[int], object]) -> None:
        failures: list[BaseException] = []

        def guarded(n: int) -> None:
            barrier.wait()
            try:
                work(n)
            except Exception as error:  # noqa: BLE001 - reported by the test below
                failures.append(error)

        barrier = threading.Barrier(number)
        threads = [threading.Thread(target=guarded, args=(n,)) for n in range(number)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert not failures


def increment(cache: Cache, key: str) -> bool:
    before = cache.get(key)
    assert before is not None
    return cache.compare_and_set(key, before, b"%d" % (int(before) + 1), 60)
