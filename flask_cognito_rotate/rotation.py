"""The rule of rotation: a refresh token is sent once, whoever holds it.

One request takes the lock of the session, marks the record ``refreshing``, sends,
saves the answer before anything else, and lets go. The others read the record. Every
step is a compare-and-set, so whoever lost the lock in the meantime changes nothing.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from .breaker import Breaker
from .cache import Lock
from .errors import (
    CacheUnavailable,
    CognitoAuthError,
    InvalidTime,
    InvalidTokenError,
    ProviderRejected,
    ProviderUnavailable,
    RefreshAccessTokenError,
)
from .model import StoredToken, Tokens, user_of
from .protocol.refresh import LONGEST_RETRY_AFTER, REMEDIES, Verdict, backoff, judge
from .sessions import Record, Records, Session, State

_logger = logging.getLogger("flask_cognito_rotate")

#: What the lease lasts beyond the refresh itself.
_LEASE_MARGIN: Final = 2.0
#: How often a waiter looks at the record, and how often it tries the lock.
_POLL_SECONDS: Final = 0.02
_TRY_LOCK_SECONDS: Final = 0.2
#: Below this there is no point in sending again.
_LEAST_SECONDS: Final = 0.2
#: Tokens that live shorter than the leeway are refreshed ahead no more often.
_LEAST_INTERVAL: Final = 1.0
_SAVE_ATTEMPTS: Final = 5
_SAVE_PAUSE_SECONDS: Final = 0.1


class SessionEnded(CognitoAuthError):
    """The session was ended: by a logout, by another login, or by Cognito."""

    status = 401


class RefreshingProvider(Protocol):
    """What the rule needs of a `Provider`."""

    def refresh(self, refresh_token: str, *, timeout: float) -> Tokens: ...

    def verify_refreshed(self, id_token: str, *, subject: str) -> dict[str, Any]: ...

    def revoke(self, refresh_token: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Refreshed:
    """New tokens were taken; ``duration`` in seconds."""

    token: StoredToken = field(repr=False)
    duration: float


@dataclass(frozen=True, slots=True)
class RefreshFailed:
    """A refresh failed; ``final``: the session is over."""

    token: StoredToken = field(repr=False)
    error: CognitoAuthError
    duration: float
    final: bool
    lost: bool = False


Observer = Callable[[Refreshed | RefreshFailed], None]


class Rotation:
    """Refreshes sessions, each once, over every thread and process of one cache.

    Args:
        observe: told of every call's outcome; must not raise.
        refresh_timeout: seconds for a whole refresh, its one retry included.
        wait_timeout: seconds that a request waits for another's refresh.
        clock: UNIX seconds; `sleep`, `monotonic` and `jitter` likewise are given so
            that a test can hold them.
    """

    def __init__(
        self,
        provider: RefreshingProvider,
        records: Records,
        *,
        observe: Observer,
        refresh_timeout: float,
        wait_timeout: float,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._provider = provider
        self._records = records
        self._observe = observe
        self._refresh_timeout = refresh_timeout
        self._wait_timeout = wait_timeout
        self._clock = clock
        self._monotonic = monotonic
        self._sleep = sleep
        self._jitter = jitter
        self._breaker = Breaker()

    def refresh(self, held: Session, *, wait: bool) -> Session:
        """Return the session with another access token than the one it holds.

        A newer one that the record has is taken; else one call is made.

        Args:
            held: the session as the caller knows it.
            wait: False returns `held` at once where another request is refreshing.

        Raises:
            SessionEnded: the session is no more.
            RefreshAccessTokenError: transient; ``retry_after`` tells when to come back.
                Final: the provider refuses the refresh token, the session is over.
            CacheUnavailable: nothing can be decided, and nothing was sent.
        """
        deadline = self._monotonic() + self._wait_timeout
        next_try = 0.0
        while True:
            if self._monotonic() >= next_try:
                next_try = self._monotonic() + _TRY_LOCK_SECONDS * (1 + self._jitter())
                lock = self._lock(held)
                if lock.acquire():
                    try:
                        return self._lead(lock, held, wait)
                    finally:
                        lock.release()
            if not wait:
                return held
            newer = self._follow(held)
            if newer is not None:
                return newer
            if self._monotonic() >= deadline:
                raise _transient("another request still refreshes this session", 1)
            self._sleep(_POLL_SECONDS)

    def end(self, held: Session) -> bool:
        """Mark the session ended for every holder of it, then revoke its tokens.

        Returns:
            False when the mark could not be written: a copy of the cookie works until
            its access token expires.
        """
        newest: str | None = held.token.refresh_token
        try:
            record = self._mark_ended(held)
        except CacheUnavailable as error:
            _logger.error(
                "A session could not be marked as ended: %s",
                error,
                extra={"event": "end_not_saved"},
            )
            self.revoke(newest)
            return False
        if record is not None and record.state is State.ENDED:
            return True
        if record is not None and record.generation >= held.generation and record.token:
            newest = record.token.refresh_token
        self.revoke(newest)
        return True

    def revoke(self, refresh_token: str | None) -> None:
        """Revoke a refresh token, as well as it can be done; never raises."""
        if refresh_token is None:
            return
        try:
            self._provider.revoke(refresh_token)
        except CognitoAuthError as error:
            _logger.warning(
                "A refresh token could not be revoked: %s",
                error,
                extra={"event": "revoke_failed"},
            )

    def amend(
        self, held: Session, change: Callable[[StoredToken], StoredToken]
    ) -> Session:
        """Change what is stored beside the tokens, on the newest state there is.

        Raises:
            SessionEnded, CacheUnavailable
            RefreshAccessTokenError: final: the session failed in the meantime.
        """
        while True:
            record = self._read(held)
            newest = _newest(held, record)
            changed = replace(
                newest,
                token=change(newest.token),
                generation=newest.generation + 1,
                cache_id=self._records.cache.id,
            )
            base = record or Record(0, State.LIVE, None)
            new = replace(base, generation=changed.generation, token=changed.token)
            if self._records.replace(held.handle, record, new):
                # Tokens that another refresh has yet to check are not for use.
                unchecked = base.pending_id_token is not None
                return replace(held, token=change(held.token)) if unchecked else changed

    def notice(self, record: Record) -> None:
        """Learn from a record that the provider has answered somebody, somewhere."""
        self._breaker.success(record.refreshed_at)

    def _lock(self, held: Session) -> Lock:
        name = "lock:" + held.handle.name
        lease = self._refresh_timeout + _LEASE_MARGIN
        return self._records.cache.lock(name, lease)

    def _read(self, held: Session) -> Record | None:
        """Read the record unless it is older than `held`.

        Raises:
            SessionEnded: it was ended, whatever `held` says.
            RefreshAccessTokenError: final: it failed for good.
        """
        record = self._records.read(held.handle)
        if record is not None and record.state is State.ENDED:
            raise SessionEnded("the session was ended")
        if record is None or record.generation < held.generation:
            return record
        if record.state is State.FAILED:
            raise RefreshAccessTokenError("the session is over", final=True)
        return record

    def _follow(self, held: Session) -> Session | None:
        """Return what another request made of the session, if it is done."""
        record = self._read(held)
        if record is None or record.state is not State.LIVE:
            return None
        newer = _newest(held, record)
        if newer.token.access_token != held.token.access_token:
            return newer
        self._respect_pause(record)
        return None

    def _lead(self, lock: Lock, held: Session, wait: bool) -> Session:
        """Refresh, now that nobody else does."""
        record = self._read(held)
        current = _newest(held, record)
        known = record if record and record.generation >= held.generation else None
        if known is not None and known.pending_id_token:
            return self._finish(current, known)
        if self._is_usable(current, held):
            return current
        if known is not None:
            self._respect_pause(known)
            if not wait and self._clock() - known.refreshed_at < _LEAST_INTERVAL:
                return current
        self._respect_breaker()
        if current.token.refresh_token is None:
            raise RefreshAccessTokenError("there is no refresh token", final=True)
        base = known or Record(current.generation, State.LIVE, current.token)
        # A mark that nobody holds the lock for was left by a worker that died.
        crashed = base.state is State.REFRESHING
        mark = replace(
            base,
            generation=current.generation,
            state=State.REFRESHING,
            token=current.token,
            answer_lost=base.answer_lost or crashed,
        )
        marked = self._records.replace(held.handle, record, mark)
        if marked is None:
            return self._lead(lock, held, wait)
        if lock.remaining() < self._refresh_timeout:
            # This worker stalled: by the time of an answer another may own the lock.
            self._keep(current, marked, replace(marked, state=State.LIVE))
            raise _transient("this worker stalled before the refresh", 1)
        return self._send(current, marked)

    def _is_usable(self, current: Session, held: Session) -> bool:
        other = current.token.access_token != held.token.access_token
        return other and current.token.access_token_expires > self._clock()

    def _respect_pause(self, record: Record) -> None:
        pause = record.retry_at - self._clock()
        # More than that was noted before the clock was set back.
        if record.state is State.LIVE and 0 < pause <= LONGEST_RETRY_AFTER:
            raise _transient("the last refresh failed a moment ago", pause)

    def _respect_breaker(self) -> None:
        pause = self._breaker.pause(self._clock())
        if pause > 0:
            raise _transient("the provider fails for every session", pause)

    def _send(self, current: Session, marked: Record) -> Session:
        started = self._monotonic()
        try:
            tokens = self._provider.refresh(
                current.token.refresh_token or "", timeout=self._refresh_timeout
            )
        except (ProviderUnavailable, ProviderRejected) as error:
            left = started + self._refresh_timeout - self._monotonic()
            if getattr(error, "broken", False) and left >= _LEAST_SECONDS:
                return self._send_again(current, marked, started, left)
            return self._fail(current, marked, error, self._monotonic() - started)
        return self._save(current, marked, tokens, self._monotonic() - started)

    def _send_again(
        self, current: Session, marked: Record, started: float, left: float
    ) -> Session:
        """Send the same token once more: the answer to the first broke off.

        Cognito's grace period (``RetryGracePeriodSeconds``) is made for this.
        """
        marked = replace(marked, answer_lost=True)
        try:
            tokens = self._provider.refresh(
                current.token.refresh_token or "", timeout=left
            )
        except (ProviderUnavailable, ProviderRejected) as error:
            return self._fail(current, marked, error, self._monotonic() - started)
        return self._save(current, marked, tokens, self._monotonic() - started)

    def _save(
        self, current: Session, marked: Record, tokens: Tokens, duration: float
    ) -> Session:
        """Keep the answer before anything is done with it: it holds the only token."""
        self._breaker.success(self._clock())
        sent = current.token.refresh_token
        seen: Record | None = marked
        while True:
            answer, session = self._answer(current, tokens)
            try:
                saved = self._store(current, seen, answer)
                if saved is None:
                    seen = self._records.read(current.handle)
                    # A write that failed to our eyes may have happened after all.
                    saved = seen if seen == answer else None
            except CacheUnavailable as error:
                _logger.error(
                    "New tokens could not be saved in COGNITO_CACHE and travel in this "
                    "answer's cookie only: %s",
                    error,
                    extra={"event": "refresh_not_saved"},
                )
                saved = replace(answer, raw=seen.raw if seen else None)
            if saved is not None:
                break
            if seen is not None and seen.state is State.ENDED:
                self.revoke(tokens.refresh_token or sent)
                raise SessionEnded("the session was ended during its refresh")
            current = _newest(current, seen)
            if current.token.refresh_token != sent:
                # This worker lost its lease, and another refreshed.
                if seen is not None and seen.pending_id_token:
                    raise _transient("another request still refreshes this session", 1)
                return current
        if saved.pending_id_token:
            return self._finish(session, saved, duration)
        self._observe(Refreshed(session.token, duration))
        return session

    def _answer(self, current: Session, tokens: Tokens) -> tuple[Record, Session]:
        token = current.token.with_tokens(tokens)
        # At most one refresh a second, even of tokens that come expired.
        earliest = int(self._clock()) + 1
        expires = max(token.access_token_expires, earliest)
        token = replace(token, access_token_expires=expires)
        record = Record(
            generation=current.generation + 1,
            state=State.REFRESHING if tokens.id_token else State.LIVE,
            token=token,
            pending_id_token=tokens.id_token,
            refreshed_at=self._clock(),
        )
        session = replace(current, token=token, generation=record.generation)
        return record, session

    def _store(
        self, current: Session, seen: Record | None, new: Record
    ) -> Record | None:
        for attempt in range(1, _SAVE_ATTEMPTS):
            try:
                return self._records.replace(current.handle, seen, new)
            except CacheUnavailable:
                self._sleep(_SAVE_PAUSE_SECONDS * 2 ** (attempt - 1))
        return self._records.replace(current.handle, seen, new)

    def _finish(
        self, session: Session, saved: Record, duration: float = 0.0
    ) -> Session:
        """Check the ID token that came with saved tokens, and let everybody use them.

        Whoever holds the lock can do this for a worker that died.
        """
        token = session.token
        claims: Mapping[str, Any] = token.id_token_claims
        try:
            claims = self._provider.verify_refreshed(
                saved.pending_id_token or "", subject=claims.get("sub", "")
            )
        except (InvalidTime, ProviderUnavailable, ProviderRejected) as error:
            # No reason to sign anybody out: our clock may be wrong, the keys away.
            _logger.warning("A refreshed ID token could not be checked: %s", error)
        except InvalidTokenError as error:
            self.revoke(token.refresh_token)
            return self._over(session, saved, error, duration)
        token = replace(
            token,
            id_token_claims=claims,
            user={**token.user, **_changed(token.id_token_claims, claims)},
        )
        live = replace(
            saved,
            generation=saved.generation + 1,
            state=State.LIVE,
            token=token,
            pending_id_token=None,
        )
        done = replace(session, token=token, generation=live.generation)
        try:
            written = self._store(session, saved, live)
        except CacheUnavailable:
            written = live  # the record finishes later; this answer's cookie has it
        if written is None:
            record = self._records.read(session.handle)
            if record is not None and record.state is State.ENDED:
                self.revoke(done.token.refresh_token)
                raise SessionEnded("the session was ended during its refresh")
            return _newest(done, record)  # whoever was faster has told of it
        self._observe(Refreshed(token, duration))
        return done

    def _fail(
        self,
        current: Session,
        marked: Record,
        error: ProviderUnavailable | ProviderRejected,
        duration: float,
    ) -> Session:
        verdict = judge(error)
        if verdict is Verdict.FINAL:
            self._breaker.success(self._clock())
            return self._over(current, marked, error, duration)
        if isinstance(error, ProviderRejected):
            self._breaker.success(self._clock())
            if verdict is Verdict.CONFIGURATION:
                _logger.error(
                    "The provider refuses this application (%s): %s",
                    error.error,
                    REMEDIES[error.error],
                    extra={"event": "configuration_refused"},
                )
        else:
            now = self._clock()
            self._breaker.failure(
                current.token.sid, error, began=now - duration, now=now
            )
        pause = backoff(
            marked.failures + 1,
            retry_after=getattr(error, "retry_after", None),
            jitter=self._jitter(),
        )
        kept = replace(
            marked,
            state=State.LIVE,
            retry_at=self._clock() + pause,
            failures=marked.failures + 1,
            answer_lost=marked.answer_lost or _is_silence(error),
        )
        self._keep(current, marked, kept)
        self._observe(RefreshFailed(current.token, error, duration, final=False))
        raise _transient("the provider cannot be asked for now", pause) from error

    def _keep(self, current: Session, marked: Record, kept: Record) -> None:
        """Take the mark back; a logout in the meantime wins."""
        try:
            if self._records.replace(current.handle, marked, kept) is None:
                self._read(current)
        except CacheUnavailable as error:
            _logger.warning("A failed refresh could not be noted: %s", error)

    def _over(
        self,
        current: Session,
        seen: Record,
        error: CognitoAuthError,
        duration: float,
    ) -> Session:
        """End the session for good, unless the record holds something newer by now.

        Raises:
            SessionEnded, RefreshAccessTokenError: final.
            CacheUnavailable: nobody knows what the record holds.
        """
        record = self._read(current)
        newest = _newest(current, record)
        if newest.token.refresh_token != current.token.refresh_token:
            return newest
        failed = replace(
            seen,
            generation=newest.generation,
            state=State.FAILED,
            token=newest.token.without_tokens(),
            pending_id_token=None,
        )
        if self._records.replace(current.handle, record, failed) is None:
            return self._over(current, seen, error, duration)
        self._observe(
            RefreshFailed(current.token, error, duration, True, seen.answer_lost)
        )
        raise RefreshAccessTokenError(
            "the provider refuses to refresh this session", final=True
        ) from error

    def _mark_ended(self, held: Session) -> Record | None:
        """Write the mark and return what stood there before."""
        while True:
            record = self._records.read(held.handle)
            if record is not None and record.state is State.ENDED:
                return record
            generation = max(held.generation, record.generation if record else 0) + 1
            ended = Record(generation, State.ENDED, None)
            if self._records.replace(held.handle, record, ended):
                return record


def _transient(message: str, retry_after: float) -> RefreshAccessTokenError:
    return RefreshAccessTokenError(message, final=False, retry_after=retry_after)


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of the user the provider changed: the application's stays."""
    before = user_of(old)
    return {k: v for k, v in user_of(new).items() if v != before[k]}


def _is_silence(error: CognitoAuthError) -> bool:
    """Tell whether the provider may have rotated the token and nobody heard."""
    return (
        isinstance(error, ProviderUnavailable)
        and error.sent
        and error.status_code is None
    )


def _newest(held: Session, record: Record | None) -> Session:
    """Return the session of the record where that is newer than the one held."""
    if record is None or record.token is None or record.generation <= held.generation:
        return held
    return replace(held, token=record.token, generation=record.generation)
