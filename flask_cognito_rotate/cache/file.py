"""``file:``, a private folder that all processes of one host share.

::

    FOLDER/             0700
      values/ab/cdef…   one value each, 0600: header, then the bytes
      stripes/ab        held for microseconds by whoever changes a value ab…
      locks/abcdef…     one per lock that is held, and only as long

Readers take no lock: a value is written aside and renamed into place. Nothing is
synced to the disk: the rename keeps processes from ever seeing half a value, and what
a crash of the whole host may lose costs a login at worst, while a sync would cost
every refresh some milliseconds.

cachelib's FileSystemCache does not serve here: it answers None and False where the
disk fails, drops live entries beyond its threshold, and its `add` is not atomic.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
import stat
import struct
import time
import weakref
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import TypeVar

from filelock import lock_descriptor, unlock_descriptor

from ..errors import CacheUnavailable, ConfigurationError
from .base import Cache, Lock

_logger = logging.getLogger("flask_cognito_rotate")

_T = TypeVar("_T")

_DEFAULT_FOLDER = "cognito_rotate"
_SUBFOLDERS = ("values", "stripes", "locks")

_MAGIC = b"fcr1"
#: The magic, UNIX seconds of the expiry, CRC-32 of the value.
_HEADER = struct.Struct(">4sdI")
_CHUNK = 1 << 16
# A link in the place of a file is nothing that this module made. Windows has no
# O_NOFOLLOW, and alone an O_BINARY.
_OPEN = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)

_STRIPE_PATIENCE = 2.0
_STRIPE_POLL = 0.001
_LOCK_RACES = 10

#: One write in so many sweeps, for so many files and seconds at most. It looks at
#: more files than were written since the last one, so what is dead does not pile up;
#: by chance, so that processes which live for a few requests take their part.
_SWEEP_ODDS = 500
_SWEEP_FILES = 1000
_SWEEP_SECONDS = 0.02
#: Older temporary files and lock files were left behind by a crash.
_LEFTOVER_AGE = 3600.0


class FileCache(Cache):
    """Values and locks in a folder of the local disk.

    A folder that cannot be written does not stop the application: one ERROR is logged
    at once, what needs the disk raises `CacheUnavailable`, and everything works as
    soon as the folder can be written, or made, again. What can still be read is.

    Args:
        folder: made with its parents if it is missing; ours alone, mode 0700.
        namespace: tells applications apart that share the folder.
        clock: UNIX seconds; expiry is judged by it.
        monotonic: seconds that never go back; leases are judged by it.

    Raises:
        ConfigurationError: the folder belongs to another user, or is open to others
            and holds files that are not ours.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        namespace: str,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(namespace)
        self._folder = os.path.abspath(folder)
        self._values, self._stripes, self._locks = (
            os.path.join(self._folder, name) for name in _SUBFOLDERS
        )
        self._clock = clock
        self._monotonic = monotonic
        self._was_there = False
        self._try_folder()

    def get(self, key: str) -> bytes | None:
        path = self._value_path(key)
        try:
            raw = _read(path)
        except FileNotFoundError:
            if not os.path.isdir(self._values):
                self._attempt(self._make_folder)
            return None
        except OSError as error:
            raise self._unavailable(error) from error
        value = self._live(_unpack(raw))
        if value is None:
            self._discard(path)
        return value

    def set(self, key: str, value: bytes, ttl: float) -> None:
        path = self._value_path(key)

        def operation() -> None:
            with _stripe(self._stripe_path(path)):
                self._store(path, value, ttl)

        self._attempt(operation)
        _sometimes(self.sweep)

    def compare_and_set(
        self, key: str, expected: bytes | None, value: bytes, ttl: float
    ) -> bool:
        path = self._value_path(key)

        def operation() -> bool:
            with _stripe(self._stripe_path(path)):
                if self._current(path) != expected:
                    return False
                self._store(path, value, ttl)
                return True

        changed = self._attempt(operation)
        _sometimes(self.sweep)
        return changed

    def delete(self, key: str) -> None:
        path = self._value_path(key)

        def operation() -> None:
            with _stripe(self._stripe_path(path)), suppress(FileNotFoundError):
                os.unlink(path)

        self._attempt(operation)

    def lock(self, name: str, lease: float) -> Lock:
        """Return a lock on a file of its own.

        The operating system gives it up at once when its process ends, however that
        happens. It does not take it from a process that is stopped (``SIGSTOP``, a
        debugger): such an owner sees by `Lock.remaining` that its lease ran out, but
        others wait until it goes on or ends.
        """
        return _FileLock(self, f"{self._locks}/{self._hashed('lock', name)}", lease)

    def close(self) -> None:
        """Do nothing: no file stays open, apart from locks that are held."""

    def sweep(self) -> None:
        """Remove expired values and what crashes left behind, for 20 ms at most.

        Happens by itself, about once in 500 writes. The files come in another order
        each time, so that all have their turn. Never raises.
        """
        give_up = time.monotonic() + _SWEEP_SECONDS
        with suppress(OSError):
            for path in islice(self._value_files(), _SWEEP_FILES):
                if time.monotonic() > give_up:
                    return
                self._remove_if_dead(path)
            for name in islice(os.listdir(self._locks), _SWEEP_FILES):
                if time.monotonic() > give_up:
                    return
                self._remove_if_abandoned(f"{self._locks}/{name}")

    def _value_path(self, key: str) -> str:
        name = self._hashed("value", key)
        return f"{self._values}/{name[:2]}/{name[2:]}"

    def _stripe_path(self, value_path: str) -> str:
        shard = os.path.basename(os.path.dirname(value_path))
        return f"{self._stripes}/{shard}"

    def _live(self, entry: tuple[float, bytes] | None) -> bytes | None:
        if entry is None or entry[0] <= self._clock():
            return None
        return entry[1]

    def _current(self, path: str) -> bytes | None:
        """Return the value as it stands; called with the stripe held."""
        try:
            entry = _unpack(_read(path))
        except FileNotFoundError:
            return None
        if entry is None:
            _logger.warning("Damaged cache file %s: taken as absent", path)
        return self._live(entry)

    def _store(self, path: str, value: bytes, ttl: float) -> None:
        header = _HEADER.pack(_MAGIC, self._clock() + ttl, zlib.crc32(value))
        with suppress(FileExistsError):
            os.mkdir(os.path.dirname(path), 0o700)
        _replace(path, header + value)

    def _attempt(self, operation: Callable[[], _T]) -> _T:
        """Run `operation`, once more if the folder was missing and could be made."""
        try:
            try:
                return operation()
            except FileNotFoundError:
                self._make_folder()
                return operation()
        except OSError as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: OSError) -> CacheUnavailable:
        return CacheUnavailable(
            f"the cache in {self._folder} failed: {error.strerror or error}"
        )

    def _try_folder(self) -> None:
        try:
            self._make_folder()
            probe = f"{self._values}/{secrets.token_hex(8)}.tmp"
            _replace(probe, _MAGIC)
            os.unlink(probe)
        except _NotOurs as error:
            raise ConfigurationError(
                [
                    f"COGNITO_CACHE: the folder {self._folder} {error.strerror}. "
                    "Name one for this application alone, which need not exist yet: "
                    "file:/writable/path"
                ]
            ) from error
        except OSError as error:
            _logger.error(
                "COGNITO_CACHE: the folder %s cannot be written (%s). Until it can, no "
                "token is refreshed. Make it writable for this process, or name "
                "another one: COGNITO_CACHE=file:/writable/path",
                self._folder,
                error.strerror or error,
            )

    def _make_folder(self) -> None:
        missing = not os.path.isdir(self._values)  # where the id lies, too
        _claim(self._folder)
        for subfolder in (self._values, self._stripes, self._locks):
            os.makedirs(subfolder, mode=0o700, exist_ok=True)
        if missing and self._was_there:
            # What is there from now on is another content, so it needs another id.
            self._id = None
            _logger.error(
                "COGNITO_CACHE: the folder %s had been emptied and was made again; "
                "what it held is lost",
                self._folder,
            )
        self._was_there = True

    def _value_files(self) -> Iterator[str]:
        shards = os.listdir(self._values)
        random.shuffle(shards)
        for shard in shards:
            folder = f"{self._values}/{shard}"
            yield from (f"{folder}/{name}" for name in os.listdir(folder))

    def _remove_if_dead(self, path: str) -> None:
        with suppress(FileNotFoundError):
            if path.endswith(".tmp"):
                if self._is_leftover(path):
                    os.unlink(path)
            elif _read_expiry(path) <= self._clock():
                self._discard(path)

    def _remove_if_abandoned(self, path: str) -> None:
        with suppress(FileNotFoundError):
            if self._is_leftover(path) and (fd := _try_lock(path)) is not None:
                try:
                    os.unlink(path)
                finally:
                    _unlock(fd)

    def _is_leftover(self, path: str) -> bool:
        return os.stat(path).st_mtime < self._clock() - _LEFTOVER_AGE

    def _discard(self, path: str) -> None:
        """Remove a value that is no longer live, unless somebody is at it now."""
        with suppress(OSError):
            fd = _try_lock(self._stripe_path(path))
            if fd is None:
                return
            try:
                if self._current(path) is None:
                    os.unlink(path)
            finally:
                _unlock(fd)


class _FileLock(Lock):
    """An ``flock`` on a file that exists while it is held.

    Objects exclude one another within a process as between processes, and one thread
    may release what another acquired.
    """

    def __init__(self, cache: FileCache, path: str, lease: float) -> None:
        self._cache = cache
        self._path = path
        self._lease = lease
        # At most one (descriptor, end of the lease). A list, because its pop is
        # atomic: two threads that release can never close one descriptor twice.
        self._held: list[tuple[int, float]] = []
        _file_locks.add(self)

    def acquire(self) -> bool:
        if self._held:
            return False
        fd = self._cache._attempt(lambda: _try_lock(self._path))
        if fd is None:
            return False
        self._held.append((fd, self._cache._monotonic() + self._lease))
        return True

    def remaining(self) -> float:
        for fd, until in self._held:
            try:
                named = _is_named(fd, self._path)
            except OSError:
                named = False
            return until - self._cache._monotonic() if named else 0.0
        return 0.0

    def release(self) -> None:
        try:
            fd, _ = self._held.pop()
        except IndexError:
            return
        try:
            _remove_and_unlock(fd, self._path)
        except OSError as error:
            _logger.warning("Releasing the lock %s failed: %s", self._path, error)

    def __del__(self) -> None:
        self.release()

    def _forget(self) -> None:
        """Close without unlocking, which would unlock for the parent too."""
        with suppress(OSError, IndexError):
            os.close(self._held.pop()[0])


_file_locks: weakref.WeakSet[_FileLock] = weakref.WeakSet()


def _forget_locks_in_child() -> None:
    for lock in _file_locks:
        lock._forget()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_forget_locks_in_child)


def open_location(rest: str, *, namespace: str, instance_path: str) -> Cache:
    """Open ``file:``, ``file:relative`` (to `instance_path`) or ``file:/absolute``."""
    if rest.startswith("//") and not rest.startswith("///"):
        raise ConfigurationError(
            [
                "COGNITO_CACHE: a folder of this host is written file:/absolute/path "
                "or file:relative/path, not file://"
            ]
        )
    folder = os.path.join(instance_path, rest or _DEFAULT_FOLDER)
    return FileCache(os.path.normpath(folder), namespace=namespace)


class _NotOurs(PermissionError):
    """The folder must not be used, whether or not it could be."""

    def __init__(self, reason: str) -> None:
        super().__init__(0, reason)


def _claim(folder: str) -> None:
    """Make `folder`, or close it to other users.

    Raises:
        _NotOurs: it belongs to another user, who could change sessions, or closing it
            would take other files from those who use them (think of /tmp and root).
    """
    os.makedirs(folder, mode=0o700, exist_ok=True)
    if not hasattr(os, "geteuid"):  # Windows: the profile's own protection holds
        return
    found = os.stat(folder)
    if found.st_uid != os.geteuid():
        raise _NotOurs(
            f"belongs to user id {found.st_uid}, this process runs as {os.geteuid()}"
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        if not set(_SUBFOLDERS).issuperset(os.listdir(folder)):
            raise _NotOurs("is open to other users and holds other files")
        os.chmod(folder, 0o700)


def _unpack(raw: bytes) -> tuple[float, bytes] | None:
    """Return the expiry and the value, or None when they are damaged."""
    if len(raw) < _HEADER.size:
        return None
    magic, expires, checksum = _HEADER.unpack_from(raw)
    value = raw[_HEADER.size :]
    if magic != _MAGIC or zlib.crc32(value) != checksum:
        return None
    return expires, value


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | _OPEN)
    try:
        raw = part = os.read(fd, _CHUNK)
        while len(part) == _CHUNK:
            part = os.read(fd, _CHUNK)
            raw += part
        return raw
    finally:
        os.close(fd)


def _read_expiry(path: str) -> float:
    """Return when a value expires; a header that is damaged expired long ago."""
    fd = os.open(path, os.O_RDONLY | _OPEN)
    try:
        raw = os.read(fd, _HEADER.size)
    finally:
        os.close(fd)
    if len(raw) < _HEADER.size:
        return 0.0
    magic, expires, _ = _HEADER.unpack(raw)
    return float(expires) if magic == _MAGIC else 0.0


def _replace(path: str, content: bytes) -> None:
    """Put `content` in the place of `path`, whole or not at all."""
    temporary = f"{path}.{secrets.token_hex(8)}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN, 0o600)
    try:
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(fd, rest) :]
        finally:
            os.close(fd)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _sometimes(action: Callable[[], None]) -> None:
    if secrets.randbelow(_SWEEP_ODDS) == 0:
        action()


@contextmanager
def _stripe(path: str) -> Iterator[None]:
    give_up = time.monotonic() + _STRIPE_PATIENCE
    while (fd := _try_lock(path)) is None:
        if time.monotonic() > give_up:
            raise TimeoutError(0, f"another process keeps {path} locked")
        time.sleep(_STRIPE_POLL)
    try:
        yield
    finally:
        _unlock(fd)


def _try_lock(path: str) -> int | None:
    """Lock the file, made if it is missing; None when it is locked.

    Whoever unlinks a lock file does so while holding it. A file that has lost its
    name between open and lock is therefore a lock that was just released.
    """
    for _ in range(_LOCK_RACES):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | _OPEN, 0o600)
        try:
            locked = lock_descriptor(fd, blocking=False)
            named = locked and _is_named(fd, path)
        except BaseException:
            os.close(fd)
            raise
        if named:
            return fd
        os.close(fd)
        if not locked:
            return None
    return None


def _is_named(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _unlock(fd: int) -> None:
    # Unlocking is said aloud: a close alone leaves the lock to the copy of the
    # descriptor that a child may have, if another thread forked just now.
    try:
        unlock_descriptor(fd)
    finally:
        os.close(fd)


def _remove_and_unlock(fd: int, path: str) -> None:
    try:
        if _is_named(fd, path):
            os.unlink(path)
    finally:
        _unlock(fd)
