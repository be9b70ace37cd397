"""The record: what processes know of one session, changed by compare-and-set only.

It lies in the cache under a hash of the session's id, sealed with the session's key,
which nothing but the browser's cookie holds.
"""

from __future__ import annotations

import enum
import hashlib
import json
import logging
import secrets
from dataclasses import dataclass, field, replace
from typing import Any, Final

from ..cache import Cache
from ..model import StoredToken
from ..sealing import BrokenSeal, decrypt, derive_key, encrypt

_logger = logging.getLogger("flask_cognito_rotate")

#: Bytes of a session's key.
KEY_BYTES: Final = 32


class State(enum.Enum):
    """What the record says of its session."""

    LIVE = "live"
    REFRESHING = "refreshing"
    FAILED = "failed"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Handle:
    """What names a session and opens its record."""

    sid: str = field(repr=False)
    key: bytes = field(repr=False)

    @classmethod
    def new(cls) -> Handle:
        """Make an id of 192 bits and a key of 256."""
        return cls(secrets.token_urlsafe(24), secrets.token_bytes(KEY_BYTES))

    @property
    def name(self) -> str:
        """The record's name in the cache; it tells nothing about the session."""
        return "session:" + hashlib.sha256(self.sid.encode()).hexdigest()

    def csrf_token(self) -> str:
        """Return the token that a form must carry to act on this session."""
        return derive_key(self.key, b"flask-cognito-rotate csrf", 16).hex()


@dataclass(frozen=True, slots=True)
class Session:
    """A session as one request holds it.

    ``generation`` counts the changes of the token. ``cache_id`` is the id of the cache
    that the session was last written under.
    """

    token: StoredToken
    key: bytes = field(repr=False)
    generation: int = 0
    cache_id: str | None = None

    @property
    def handle(self) -> Handle:
        return Handle(self.token.sid, self.key)


@dataclass(frozen=True, slots=True)
class Record:
    """One state of the record.

    Attributes:
        token: None once ended.
        pending_id_token: an ID token of a saved answer that was not verified yet.
        refreshed_at: UNIX seconds of the last answer, 0 before the first.
        retry_at: UNIX seconds before which no refresh is tried.
        failures: how many refreshes failed in a row.
        answer_lost: the provider may have answered a refresh that nobody heard.
        raw: the bytes that this was read from, for the compare-and-set.
    """

    generation: int
    state: State
    token: StoredToken | None = field(repr=False)
    pending_id_token: str | None = field(default=None, repr=False)
    refreshed_at: float = 0.0
    retry_at: float = 0.0
    failures: int = 0
    answer_lost: bool = False
    raw: bytes | None = field(default=None, repr=False, compare=False)

    def to_json(self) -> bytes:
        data = {
            "generation": self.generation,
            "state": self.state.value,
            "token": self.token and self.token.to_dict(),
            "pendingIdToken": self.pending_id_token,
            "refreshedAt": self.refreshed_at,
            "retryAt": self.retry_at,
            "failures": self.failures,
            "answerLost": self.answer_lost,
        }
        return json.dumps(data, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, text: bytes, raw: bytes) -> Record:
        data: dict[str, Any] = json.loads(text)
        return cls(
            generation=data["generation"],
            state=State(data["state"]),
            token=data["token"] and StoredToken.from_dict(data["token"]),
            pending_id_token=data["pendingIdToken"],
            refreshed_at=data["refreshedAt"],
            retry_at=data["retryAt"],
            failures=data["failures"],
            answer_lost=data["answerLost"],
            raw=raw,
        )


class Records:
    """Reads and replaces records.

    Args:
        ttl: seconds that a record outlives its last change: the idle limit and as
            long as a cookie may go without being written.
    """

    def __init__(self, cache: Cache, *, ttl: float) -> None:
        self.cache = cache
        self._ttl = ttl

    def read(self, handle: Handle) -> Record | None:
        """Return the record; None where there is none that `handle` opens.

        Raises:
            CacheUnavailable: nobody knows whether there is one.
        """
        raw = self.cache.get(handle.name)
        if raw is None:
            return None
        try:
            text = decrypt(handle.key, raw, handle.name.encode())
            return Record.from_json(text, raw)
        except (BrokenSeal, ValueError, KeyError, TypeError):
            _logger.error(
                "A session record cannot be read: it was changed or cut in the cache.",
                extra={"event": "record_unreadable"},
            )
            # Its bytes still serve for a compare-and-set that replaces it.
            return Record(-1, State.LIVE, None, raw=raw)

    def replace(
        self, handle: Handle, seen: Record | None, new: Record
    ) -> Record | None:
        """Write `new` if the record still is `seen`; None if it is not.

        Raises:
            CacheUnavailable: nobody knows whether it was written.
        """
        raw = encrypt(handle.key, new.to_json(), handle.name.encode())
        expected = seen.raw if seen is not None else None
        if self.cache.compare_and_set(handle.name, expected, raw, self._ttl):
            return replace(new, raw=raw)
        return None
