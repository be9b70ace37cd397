from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cache_contract import CacheContract, OpenCache

from flask_cognito_rotate.cache.file import FileCache, _FileLock
from flask_cognito_rotate.errors import CacheUnavailable, ConfigurationError

HOUR = 3600.0


class TestFileCache(CacheContract):
    lease_runs_out = False

    @pytest.fixture
    def open_cache(self, tmp_path: Path) -> OpenCache:
        return lambda namespace: FileCache(tmp_path / "cache", namespace=namespace)


class Time:
    """A clock that is ahead of the computer's."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "cache"


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def cache(folder: Path, clock: Time) -> FileCache:
    return FileCache(folder, namespace="test", clock=clock)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def values(folder: Path) -> list[Path]:
    return files(folder / "values")


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def python(script: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def at_once(script: str, folder: Path) -> set[str]:
    """Run three processes that start together; return what they print."""
    workers = [python(script, folder) for _ in range(3)]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    return {worker.communicate(timeout=20)[0].strip() for worker in workers}


COUNT = """
import sys
from flask_cognito_rotate.cache.file import FileCache
cache = FileCache(sys.argv[1], namespace="test")
print("ready", flush=True)
sys.stdin.readline()
for _ in range(100):
    while True:
        before = cache.get("counter")
        after = b"%d" % (int(before or 0) + 1)
        if cache.compare_and_set("counter", before, after, 60):
            break
print(cache.id)
"""

HOLD = """
import sys, time
from flask_cognito_rotate.cache.file import FileCache
lock = FileCache(sys.argv[1], namespace="test").lock("name", 60)
print(lock.acquire(), flush=True)
time.sleep(60)
"""


HOLD_AND_FORK = """
import os, sys, time
from flask_cognito_rotate.cache.file import FileCache
lock = FileCache(sys.argv[1], namespace="test").lock("name", 60)
assert lock.acquire()
if (child := os.fork()) != 0:
    print(child, flush=True)
time.sleep(60)
"""

TAKE_TURNS = """
import sys, time
from flask_cognito_rotate.cache.file import FileCache
cache = FileCache(sys.argv[1], namespace="test")
print("ready", flush=True)
sys.stdin.readline()
for _ in range(100):
    lock = cache.lock("name", 60)
    while not lock.acquire():
        time.sleep(0.0001)
    cache.set("counter", b"%d" % (int(cache.get("counter") or 0) + 1), 60)
    lock.release()
"""


# Processes


def test_processes_that_count_lose_nothing_and_share_the_id(
    cache: FileCache, folder: Path
) -> None:
    answers = at_once(COUNT, folder)
    assert cache.get("counter") == b"300"
    assert answers == {cache.id}


def test_processes_that_take_turns_by_a_lock_lose_nothing(
    cache: FileCache, folder: Path
) -> None:
    at_once(TAKE_TURNS, folder)
    assert cache.get("counter") == b"300"
    assert not files(folder / "locks")


def test_the_lock_of_a_killed_process_is_free_at_once(
    cache: FileCache, folder: Path
) -> None:
    holder = python(HOLD, folder)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n"
    lock = cache.lock("name", 60)
    assert not lock.acquire()
    holder.send_signal(signal.SIGKILL)
    holder.communicate(timeout=10)
    assert lock.acquire()
    lock.release()


def test_a_forked_child_holds_nothing_and_keeps_nothing_locked(
    cache: FileCache,
) -> None:
    lock, other = cache.lock("name", 60), cache.lock("name", 60)
    assert lock.acquire()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(writer)
            lock.release()
            in_child = lock.remaining() <= 0 and not other.acquire()
            os.read(reader, 1)
        finally:
            os._exit(0 if in_child else 1)
    os.close(reader)
    time.sleep(0.05)
    assert not other.acquire(), "the child's release did nothing"
    lock.release()
    assert other.acquire(), "free, although the child lives"
    other.release()
    os.close(writer)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_forked_child_does_not_keep_the_lock_of_a_killed_parent(
    cache: FileCache, folder: Path
) -> None:
    parent = python(HOLD_AND_FORK, folder)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    lock = cache.lock("name", 60)
    assert not lock.acquire()
    parent.kill()
    parent.wait(10)
    try:
        # The child may not have had a moment to run, and to close what it inherited.
        deadline = time.monotonic() + 5
        while not lock.acquire():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        os.kill(child, signal.SIGKILL)
        parent.communicate(timeout=10)
    lock.release()


def test_a_child_program_does_not_inherit_the_lock(cache: FileCache) -> None:
    lock = cache.lock("name", 60)
    assert isinstance(lock, _FileLock)
    assert lock.acquire()
    assert not os.get_inheritable(lock._held[0][0])
    lock.release()


def test_a_lock_that_was_dropped_is_free(cache: FileCache) -> None:
    assert cache.lock("name", 60).acquire()
    other = cache.lock("name", 60)
    assert other.acquire()
    other.release()


# The folder


def test_folders_are_private_and_so_are_files(cache: FileCache, folder: Path) -> None:
    cache.set("key", b"value", 60)
    lock = cache.lock("name", 60)
    assert lock.acquire()
    for path in [folder, *folder.rglob("*")]:
        assert mode(path) == (0o700 if path.is_dir() else 0o600), path
    lock.release()


def test_keys_and_names_are_not_on_the_disk(cache: FileCache, folder: Path) -> None:
    cache.set("secret-key", b"value", 60)
    lock = cache.lock("secret-name", 60)
    assert lock.acquire()
    for path in files(folder):
        assert "secret" not in str(path)
        assert b"secret" not in path.read_bytes()
    lock.release()


def test_an_open_folder_of_ours_is_closed(cache: FileCache, folder: Path) -> None:
    cache.set("key", b"value", 60)
    folder.chmod(0o775)
    again = FileCache(folder, namespace="test")
    assert mode(folder) == 0o700
    assert again.get("key") == b"value"


def test_an_open_folder_with_other_files_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    tmp_path.chmod(0o755)
    with pytest.raises(ConfigurationError, match="COGNITO_CACHE.*holds other files"):
        FileCache(tmp_path, namespace="test")
    assert mode(tmp_path) == 0o755
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, -1)
    with pytest.raises(ConfigurationError, match="belongs to user id 12345"):
        FileCache(tmp_path, namespace="test")


@pytest.fixture
def unwritable(tmp_path: Path) -> Path:
    """A folder that cannot be made, not even by root: its parent is a file."""
    (tmp_path / "plain file").touch()
    return tmp_path / "plain file" / "cache"


def test_an_unwritable_folder_is_one_error_with_its_remedy(
    unwritable: Path, caplog: pytest.LogCaptureFixture
) -> None:
    FileCache(unwritable, namespace="test")
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    message = record.getMessage()
    assert str(unwritable) in message
    assert "COGNITO_CACHE=file:/writable/path" in message


@pytest.mark.parametrize("where", ["below a file", "/proc/cognito"])
def test_an_unwritable_folder_is_never_an_answer(where: str, unwritable: Path) -> None:
    folder = Path(where) if where.startswith("/") else unwritable
    cache = FileCache(folder, namespace="test")
    lock = cache.lock("name", 60)
    for operation in (
        lambda: cache.get("key"),
        lambda: cache.set("key", b"value", 60),
        lambda: cache.add("key", b"value", 60),
        lambda: cache.compare_and_set("key", b"old", b"value", 60),
        lambda: cache.delete("key"),
        lambda: cache.id,
        lock.acquire,
    ):
        with pytest.raises(CacheUnavailable) as caught:
            operation()
        assert isinstance(caught.value.__cause__, OSError)
    assert lock.remaining() <= 0
    lock.release()
    cache.sweep()


def test_a_folder_that_becomes_writable_is_used(unwritable: Path) -> None:
    cache = FileCache(unwritable, namespace="test")
    unwritable.parent.unlink()
    assert cache.get("key") is None
    cache.set("key", b"value", 60)
    assert cache.get("key") == b"value"


@pytest.mark.parametrize("first", ["get", "set", "lock", "delete"])
def test_a_folder_removed_while_running_is_made_again_under_another_id(
    first: str, cache: FileCache, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = cache.id
    folder.rename(folder.with_name("gone"))
    if first == "get":
        assert cache.get("key") is None
    elif first == "set":
        cache.set("key", b"value", 60)
    elif first == "delete":
        cache.delete("key")
    else:
        lock = cache.lock("name", 60)
        assert lock.acquire()
        lock.release()
    assert "what it held is lost" in caplog.text
    assert cache.id != before
    assert mode(folder) == 0o700


def test_a_lock_whose_file_was_removed_is_lost(cache: FileCache, folder: Path) -> None:
    lost, other = cache.lock("name", 60), cache.lock("name", 60)
    assert lost.acquire()
    for path in files(folder / "locks"):
        path.unlink()
    assert lost.remaining() <= 0
    assert other.acquire()
    lost.release()
    assert other.remaining() > 0
    assert not cache.lock("name", 60).acquire()
    other.release()


# What is in the files


@pytest.mark.parametrize("damage", ["empty", "short", "cut", "flipped", "zeros"])
def test_a_damaged_file_is_absent_and_logged_once(
    damage: str, cache: FileCache, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.set("key", b"value", 60)
    (path,) = values(folder)
    whole = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "short": whole[:7],
            "cut": whole[:-1],
            "flipped": whole[:-1] + b"\x00",
            "zeros": bytes(len(whole)),
        }[damage]
    )
    assert cache.get("key") is None
    assert cache.get("key") is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(path) in caplog.text
    assert cache.add("key", b"value", 60)


def test_a_damaged_file_is_replaced_by_compare_and_set(
    cache: FileCache, folder: Path
) -> None:
    cache.set("key", b"value", 60)
    values(folder)[0].write_bytes(b"nonsense")
    assert not cache.compare_and_set("key", b"value", b"new", 60)
    assert cache.compare_and_set("key", None, b"new", 60)
    assert cache.get("key") == b"new"


def test_a_link_in_the_place_of_a_value_is_not_followed(
    cache: FileCache, folder: Path
) -> None:
    cache.set("key", b"value", 60)
    (path,) = values(folder)
    path.rename(path.with_name("aside"))
    path.symlink_to("aside")
    with pytest.raises(CacheUnavailable):
        cache.get("key")


LIMITED = """
import resource, signal, sys
from flask_cognito_rotate.cache.file import FileCache
from flask_cognito_rotate.errors import CacheUnavailable
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
cache = FileCache(sys.argv[1], namespace="test")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for write in (
    lambda: cache.set("key", b"x" * 2000, 60),
    lambda: cache.compare_and_set("key", b"old", b"x" * 2000, 60),
):
    try:
        write()
    except CacheUnavailable as error:
        print(error)
"""


def test_a_write_that_finds_no_space_leaves_the_old_value_and_no_trace(
    cache: FileCache, folder: Path
) -> None:
    cache.set("key", b"old", 60)
    answer, _ = python(LIMITED, folder).communicate(timeout=10)
    assert answer.count("File too large") == 2
    assert cache.get("key") == b"old"
    assert len(values(folder)) == 1


# What must not pile up


def test_lock_files_do_not_pile_up(cache: FileCache, folder: Path) -> None:
    for n in range(300):
        lock = cache.lock(f"name {n}", 60)
        assert lock.acquire()
        lock.release()
        cache.set(f"key {n}", b"value", 60)
    assert not files(folder / "locks")
    assert len(files(folder / "stripes")) <= 256


def test_an_expired_value_is_removed_when_it_is_read(
    cache: FileCache, folder: Path, clock: Time
) -> None:
    cache.set("key", b"value", 60)
    clock.ahead = 61
    assert cache.get("key") is None
    assert not values(folder)


def test_a_sweep_removes_what_expired_and_nothing_else(
    cache: FileCache, folder: Path, clock: Time
) -> None:
    for n in range(20):
        cache.set(f"short {n}", b"value", 60)
        cache.set(f"long {n}", b"value", 600)
    known = cache.id
    clock.ahead = 61
    cache.sweep()
    assert len(values(folder)) == 21
    assert all(cache.get(f"long {n}") for n in range(20))
    assert FileCache(folder, namespace="test", clock=clock).id == known


def test_a_sweep_leaves_alone_a_value_that_somebody_is_writing(
    cache: FileCache, folder: Path, clock: Time
) -> None:
    cache.set("key", b"value", 60)
    clock.ahead = 61
    (path,) = values(folder)
    (folder / "stripes" / path.parent.name).rename(folder / "locks" / "stripe")
    holder = python(
        "import fcntl, os, sys\n"
        "fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)\n"
        "fcntl.flock(fd, fcntl.LOCK_EX)\n"
        "print(flush=True)\n"
        "sys.stdin.read()\n",
        folder / "stripes" / path.parent.name,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    cache.sweep()
    assert values(folder) == [path]
    holder.kill()
    holder.communicate(timeout=10)
    cache.sweep()
    assert not values(folder)


def test_a_sweep_removes_what_crashes_left_behind(
    cache: FileCache, folder: Path, clock: Time
) -> None:
    cache.set("key", b"value", 10 * HOUR)
    (path,) = values(folder)
    path.with_name("left.tmp").touch()
    (folder / "locks" / "left").touch()
    held = cache.lock("name", 60)
    assert held.acquire()
    cache.sweep()
    assert len(values(folder)) == 2
    assert len(files(folder / "locks")) == 2
    clock.ahead = 1.1 * HOUR
    cache.sweep()
    assert values(folder) == [path]
    assert len(files(folder / "locks")) == 1
    assert held.remaining() > 0
    held.release()


def test_sweeps_happen_by_themselves(
    cache: FileCache, folder: Path, clock: Time
) -> None:
    cache.set("old", b"value", 60)
    clock.ahead = 61
    for _ in range(20_000):
        cache.set("new", b"value", 60)
        if len(values(folder)) == 1:
            return
    pytest.fail("20,000 writes without a sweep")
