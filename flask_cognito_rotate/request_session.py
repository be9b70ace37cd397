"""The session of one request: opened, refreshed, and written once at its end."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from flask import Response, request

from . import signals
from .errors import (
    CacheUnavailable,
    CognitoAuthError,
    LoginRequired,
    RefreshAccessTokenError,
)
from .model import STORED_NAMES, StoredToken
from .protocol.refresh import Decision, decide
from .rotation import Refreshed, RefreshFailed, SessionEnded
from .runtime import JwtCallback, Runtime, runtime, whole_seconds
from .session_cookie import SessionCookie
from .sessions import Record, Session, State

if TYPE_CHECKING:
    from .client import SessionClient

#: Where the session of a request lies in its WSGI environment; behind it the id of
#: the application's runtime. Not on `flask.g`: that belongs to the application context,
#: which may be pushed around several requests, as tests like to do.
_STATE: Final = "flask_cognito_rotate.session."

_logger = logging.getLogger("flask_cognito_rotate")

#: What the refresh that is running in this context has to tell.
_events: ContextVar[list[Refreshed | RefreshFailed]] = ContextVar("cognito_events")


class RequestSession:
    """The session as one request opens, refreshes and finally writes it."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._cookie = SessionCookie(runtime)
        self._over = False
        self._dirty = False
        self._loaded = False
        self._checked = False
        self._cache_down = False
        self._client: SessionClient | None = None
        #: The session, its tokens gone once it is over; None for nobody.
        self.session: Session | None = None
        #: Why there is no usable access token, None where there is one.
        self.problem: CognitoAuthError | None = None

    @property
    def has_cookie(self) -> bool:
        return self._cookie.is_there

    @property
    def is_usable(self) -> bool:
        return self.session is not None and self.problem is None

    @property
    def retry_after(self) -> int | None:
        """Seconds until a transient problem is worth another try."""
        problem = self.problem
        if problem is None or getattr(problem, "final", False):
            return None
        return whole_seconds(getattr(problem, "retry_after", None))

    def load(self, *, refresh: bool = True) -> None:
        """Open the session and refresh it when due, each once per request."""
        if not self._loaded:
            self._loaded = True
            self._open()
        if refresh and not self._checked:
            self._checked = True
            if self.session is not None and self.problem is None:
                self._refresh_if_due(self.session)

    def refresh(self, *, force: bool) -> bool:
        """Take newer tokens; see `CognitoSession.refresh`."""
        self.load()
        session = self.session
        if isinstance(self.problem, RefreshAccessTokenError) and self.problem.final:
            raise self.problem
        if session is None or session.token.access_token is None:
            return False
        decision = decide(session.token, self._now(), self._runtime.policy)
        if decision is Decision.ENDED:
            self._expire(session)
            raise RefreshAccessTokenError("the session is past its limit", final=True)
        keep = decision is Decision.KEEP and not force
        if keep or session.token.refresh_token is None:
            return False
        before = session.token.access_token
        wait = force or decision is not Decision.REFRESH_AHEAD
        failure = self._rotate(session, wait=wait)
        if failure is not None and wait:
            raise _as_refresh_error(failure)
        return self.session is not None and self.session.token.access_token != before

    def start(self, session: Session) -> None:
        """Put a new session in the place of whatever the browser carried."""
        self._loaded = self._checked = True
        self._cookie.forget()
        self.session, self.problem = session, None
        self._over, self._dirty = False, True

    def end(self, reason: str) -> bool:
        """End the session for every holder of it and revoke what it holds.

        Returns:
            False when the end could not be written down.
        """
        self.load(refresh=False)
        session = self.session
        if session is None:
            self._forget()
            return True
        marked = self._runtime.rotation.end(session)
        self._forget()
        user = dict(session.token.user)
        self._runtime.emit(
            signals.user_logged_out,
            "user_logged_out",
            "User logged out",
            user=user,
            reason=reason,
        )
        if session.token.error is None:  # else its end was told already
            self._ended(user, reason)
        return marked

    def access_token(self) -> str:
        """Return a usable access token for `SessionClient`, or raise."""
        self.refresh(force=False)
        if self.session is None:
            raise LoginRequired("nobody is signed in")
        if self.problem is not None or self.session.token.access_token is None:
            raise _as_refresh_error(self.problem)
        return self.session.token.access_token

    def renew(self, refused: str) -> str | None:
        """Return another access token than the `refused` one, None without one."""
        try:
            if self.session and self.session.token.access_token == refused:
                self.refresh(force=True)
        except RefreshAccessTokenError:
            return None
        token = self.session.token.access_token if self.session else None
        return token if token != refused else None

    def client(self) -> SessionClient:
        from .client import SessionClient

        if self._client is None:
            timeout = self._runtime.settings.http_timeout
            self._client = SessionClient(self.access_token, self.renew, timeout)
        return self._client

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def note(self, event: Refreshed | RefreshFailed) -> None:
        """Tell the application of a call that this request made."""
        emit = self._runtime.emit
        user = dict(event.token.user)
        if isinstance(event, Refreshed):
            emit(
                signals.token_refreshed,
                "token_refreshed",
                "Access token refreshed",
                user=user,
                duration=event.duration,
            )
            return
        emit(
            signals.token_refresh_failed,
            "token_refresh_failed",
            f"Access token not refreshed: {event.error}",
            level=logging.WARNING,
            user=user,
            error=event.error,
            duration=event.duration,
            final=event.final,
        )
        if event.lost and event.final:
            self._ended(
                user,
                "refresh_lost",
                "Session ended: the answer to an earlier refresh was lost on its way "
                "or with a worker, and with it the only live refresh token. A grace "
                "period at the app client (RetryGracePeriodSeconds) prevents this.",
            )
        elif event.final:
            self._ended(user, "refused")

    def _ended(
        self, user: dict[str, Any], reason: str, message: str = "Session ended"
    ) -> None:
        lost = reason == "refresh_lost"
        self._runtime.emit(
            signals.session_ended,
            reason if lost else "session_ended",
            message,
            level=logging.WARNING if lost else logging.INFO,
            user=user,
            reason=reason,
        )

    def commit(self, response: Response) -> None:
        """Write the cookie where it must be written, and the headers that go with
        it."""
        if self._loaded:
            response.vary.add("Cookie")
        if self._over or self._cookie.is_broken:
            self._cookie.clear(response)
        elif self.session is not None and self._must_write(self.session):
            self._write(response, self.session)

    def expires_at(self, session: Session) -> int:
        """Return the UNIX second at which the session ends without a request."""
        return self._cookie.expires_at(session, rewritten=self._dirty)

    def check_size(self, session: Session) -> None:
        """Raise `LoginError` for a new session that no cookie can hold."""
        self._cookie.check_size(session)

    def _now(self) -> float:
        return self._runtime.clock()

    def _open(self) -> None:
        session = self._cookie.read()
        if session is not None:
            self._consult_record(session)

    def _consult_record(self, session: Session) -> None:
        """Let the record have its say: ended, failed, newer or nothing."""
        try:
            session = self._check_cache(session)
            record = self._runtime.records.read(session.handle)
        except CacheUnavailable as error:
            _logger.warning("COGNITO_CACHE cannot be read: %s", error)
            self._cache_down = True
            record = None
        if record is not None and record.state is State.ENDED:
            self._drop()
            return
        if record is not None:
            self._runtime.rotation.notice(record)
        if record is not None and _is_news(record, session):
            session = _with_record(session, record)
            self._dirty = True
        self.session = session
        if session.token.error is not None:
            self.problem = RefreshAccessTokenError("the session is over", final=True)

    def _check_cache(self, session: Session) -> Session:
        """Notice a session that was last written under another cache."""
        cache_id = self._runtime.cache.id
        if session.cache_id == cache_id:
            return session
        self._dirty = True
        if session.cache_id is not None and not self._runtime.foreign_cache_seen:
            self._runtime.foreign_cache_seen = True
            _logger.error(
                "A session was written under another cache than this process has. "
                "Either COGNITO_CACHE was emptied, or the processes of this "
                "application do not share it: give every host and process the same "
                "COGNITO_CACHE, or sessions will be lost.",
                extra={"event": "foreign_cache"},
            )
        return replace(session, cache_id=cache_id)

    def _refresh_if_due(self, session: Session) -> None:
        token = session.token
        expires = token.access_token_expires
        match decide(token, self._now(), self._runtime.policy):
            case Decision.KEEP:
                _logger.debug("Token available (expired at: %s)", expires)
            case Decision.REFRESH_AHEAD if not self._cache_down:
                self._rotate(session, wait=False)
            case Decision.REFRESH if self._cache_down:
                self.problem = CacheUnavailable("nothing is refreshed without it")
            case Decision.REFRESH:
                _logger.debug("Token expired at %s. Trying to refresh...", expires)
                self._rotate(session, wait=True)
            case Decision.ENDED:
                self._expire(session)

    def _expire(self, session: Session) -> None:
        """The session is past its limit, or cannot be refreshed at all."""
        self._ended(dict(session.token.user), "expired")
        self._forget()

    def _rotate(self, session: Session, *, wait: bool) -> CognitoAuthError | None:
        """Take newer tokens, and return what went wrong.

        It is `problem`, too, unless the access token that is held is still good.
        """
        events: list[Refreshed | RefreshFailed] = []
        scope = _events.set(events)
        try:
            failure = self._take_newer(session, wait=wait)
        finally:
            _events.reset(scope)
        for event in events:
            self.note(event)
        callback = self._runtime.callbacks.jwt
        called = any(isinstance(event, Refreshed) for event in events)
        if called and callback is not None and self.session is not None:
            self._run_jwt_callback(self.session, callback)
        return failure

    def _take_newer(self, session: Session, *, wait: bool) -> CognitoAuthError | None:
        try:
            rotated = self._runtime.rotation.refresh(session, wait=wait)
        except SessionEnded as error:
            self._drop()
            return error
        except RefreshAccessTokenError as error:
            if error.final:
                self.session = replace(session, token=session.token.without_tokens())
                self.problem, self._dirty = error, True
                return error
            return self._fall_back(session, error)
        except CacheUnavailable as error:
            _logger.warning("Nothing is refreshed, COGNITO_CACHE fails: %s", error)
            return self._fall_back(session, error)
        self._adopt(session, rotated)
        return None

    def _fall_back(self, session: Session, error: CognitoAuthError) -> CognitoAuthError:
        if session.token.access_token_expires <= self._now():
            self.problem = error
        return error

    def _adopt(self, session: Session, rotated: Session) -> None:
        self.session, self.problem = rotated, None
        if rotated.token.access_token != session.token.access_token:
            self._dirty = True
            expires = rotated.token.access_token_expires
            _logger.debug("Token refreshed (expired at: %s)", expires)

    def _run_jwt_callback(self, session: Session, callback: JwtCallback) -> None:
        try:
            changed = apply_jwt_callback(
                self._runtime.app.ensure_sync(callback),
                session.token,
                account=None,
                trigger="refresh",
            )
            if changed != session.token:
                self.session = self._runtime.rotation.amend(
                    session,
                    lambda newest: replace(
                        newest, extra=changed.extra, user=changed.user
                    ),
                )
        except SessionEnded:
            self._drop()
        except CacheUnavailable as error:
            _logger.error("What jwt_callback added is not saved: %s", error)
        except Exception:  # noqa: BLE001 (application code, logged)
            # The tokens are saved: nothing that the application does undoes that.
            _logger.exception(
                "jwt_callback failed at a refresh; the tokens stand.",
                extra={"event": "jwt_callback_failed"},
            )

    def _forget(self) -> None:
        self.session, self.problem, self._over = None, None, True

    def _drop(self) -> None:
        """Be nobody. The cookie stays: by now it may be that of a newer session, and
        whoever ended this one has seen to its own."""
        self.session, self.problem = None, None

    def _must_write(self, session: Session) -> bool:
        if self._dirty:
            return True
        may_roll = self.problem is None and not self._cache_down
        return may_roll and self._cookie.is_due

    def _write(self, response: Response, session: Session) -> None:
        """Write the newest state there is, never over a newer one, never an ended."""
        try:
            record = self._runtime.records.read(session.handle)
        except CacheUnavailable:
            record = None
        if record is not None and record.state is State.ENDED:
            return
        if record is not None and _is_news(record, session):
            session = _with_record(session, record)
        self._cookie.write(response, session)


def request_session() -> RequestSession:
    """Return this request's session, made at the first call."""
    state = existing_request_session()
    if state is None:
        own = runtime()
        state = request.environ[f"{_STATE}{id(own)}"] = RequestSession(own)
    return state


def existing_request_session() -> RequestSession | None:
    state: RequestSession | None = request.environ.get(f"{_STATE}{id(runtime())}")
    return state


def apply_jwt_callback(
    callback: JwtCallback,
    token: StoredToken,
    *,
    account: dict[str, Any] | None,
    trigger: str,
) -> StoredToken:
    """Run the application's callback and take over what it may change.

    Raises:
        TypeError, ValueError: it returned something that JSON cannot hold.
        Exception: whatever it raises itself.
    """
    # A copy to the bottom: what the callback changes in place is not stored.
    returned = callback(
        copy.deepcopy(token.to_dict()),
        account=account,
        user=dict(token.user),
        trigger=trigger,
        data=None,
    )
    if not isinstance(returned, Mapping):
        raise TypeError("jwt_callback must return the token, a dict")
    kept = json.loads(json.dumps(dict(returned), allow_nan=False))
    extra = {k: v for k, v in kept.items() if k not in STORED_NAMES}
    given = kept.get("user")
    user = {**token.user, **given} if isinstance(given, dict) else token.user
    return replace(token, extra=extra, user={**user, "id": token.user.get("id")})


def observe(event: Refreshed | RefreshFailed) -> None:
    """Keep an event of `Rotation` for the request that caused it.

    It is told when the lock is free and the tokens are safe: a receiver may be slow,
    or raise.
    """
    _events.get().append(event)


def _with_record(session: Session, record: Record) -> Session:
    """Return the session with what its record holds."""
    token = record.token or session.token
    return replace(session, token=token, generation=record.generation)


def _is_news(record: Record, session: Session) -> bool:
    """Tell whether the record knows something usable that the session does not."""
    if record.token is None or record.pending_id_token:
        return False
    failed = record.state is State.FAILED and session.token.error is None
    return record.generation > session.generation or (
        failed and record.generation == session.generation
    )


def _as_refresh_error(problem: CognitoAuthError | None) -> RefreshAccessTokenError:
    if isinstance(problem, RefreshAccessTokenError):
        return problem
    ended = isinstance(problem, SessionEnded)
    error = RefreshAccessTokenError(
        "the session was ended" if ended else "nothing can be refreshed for now",
        final=ended,
        retry_after=None if ended else 1,
    )
    error.__cause__ = problem
    return error
