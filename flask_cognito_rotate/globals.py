"""`current_session`: who is signed in, as the application sees it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from flask import has_request_context
from werkzeug.local import LocalProxy

from .model import REFRESH_ERROR, StoredToken
from .protocol.tokens import peek_claims
from .request_session import RequestSession, request_session

if TYPE_CHECKING:
    import requests

_UNBOUND = (
    "current_session was used outside a request. It belongs to the browser that sent "
    "the request: pass what you need of it to other threads and tasks."
)


class CognitoSession(Mapping[str, Any]):
    """The session of the current request.

    False for nobody, and once the session is over or has no usable access token for
    now. As a mapping it gives the stored token by NextAuth's names (``accessToken``,
    ``idTokenClaims`` …) and what `jwt_callback` added.

    For nobody: `user` is empty, `groups` and `scopes` are empty, all else is None.
    """

    def __init__(self, state: RequestSession) -> None:
        self._state = state

    def __bool__(self) -> bool:
        return self._state.is_usable

    def __repr__(self) -> str:
        user = self.user.get("id")
        return f"<CognitoSession user={user!r} error={self.error!r}>"

    def __getitem__(self, name: str) -> Any:
        return copy.deepcopy(self._stored()[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored())

    def __len__(self) -> int:
        return len(self._stored())

    @property
    def user(self) -> dict[str, Any]:
        """Who is signed in: always ``id``, ``name``, ``email``, ``image``.

        Stays readable after the session is over, until the next login or logout.
        """
        return copy.deepcopy(dict(self._token.user)) if self._token else {}

    @property
    def access_token(self) -> str | None:
        """The access token, if it can be used."""
        return self._token.access_token if self._token and self else None

    @property
    def access_token_expires(self) -> int | None:
        """UNIX seconds."""
        return self._token.access_token_expires if self._token else None

    @property
    def refresh_token(self) -> str | None:
        """The refresh token. It may be used once: leave that to the extension."""
        return self._token.refresh_token if self._token else None

    @property
    def id_token_claims(self) -> dict[str, Any] | None:
        """The verified claims of the newest ID token."""
        token = self._token
        return copy.deepcopy(dict(token.id_token_claims)) if token else None

    @property
    def groups(self) -> frozenset[str]:
        """``cognito:groups`` of the ID token."""
        if not self._token or not self:
            return frozenset()
        groups = self._token.id_token_claims.get("cognito:groups")
        return _strings(groups if isinstance(groups, list) else [])

    @property
    def scopes(self) -> frozenset[str]:
        """The scopes of the access token."""
        scope = peek_claims(self.access_token or "").get("scope")
        return _strings(scope.split() if isinstance(scope, str) else [])

    @property
    def expires(self) -> datetime | None:
        """When the session ends if no request comes; aware, UTC."""
        session = self._state.session
        if session is None:
            return None
        return datetime.fromtimestamp(self._state.expires_at(session), UTC)

    @property
    def error(self) -> str | None:
        """None, or ``"RefreshAccessTokenError"``."""
        if self._token is None or self._state.problem is None:
            return None
        return REFRESH_ERROR

    @property
    def retry_after(self) -> int | None:
        """Seconds until a transient failure is worth another try, else None."""
        return self._state.retry_after

    def refresh(self, force: bool = False) -> bool:
        """Get new tokens where they are due.

        Args:
            force: this access token will not do, although it is not expired: a newer
                one that exists is taken, else one call is made. Use it after an
                attribute or a group changed.

        Returns:
            Whether the access token is another one now.

        Raises:
            RefreshAccessTokenError: there is none; see its ``final`` and
                ``retry_after``.
        """
        return self._state.refresh(force=force)

    @property
    def client(self) -> requests.Session:
        """A `requests.Session` that sends the access token and keeps it fresh.

        It refreshes once on a 401, limits each wait to ``COGNITO_HTTP_TIMEOUT``
        seconds where the caller says nothing else, and is closed with the request.
        """
        return self._state.client()

    @property
    def _token(self) -> StoredToken | None:
        session = self._state.session
        return session.token if session else None

    def _stored(self) -> dict[str, Any]:
        if self._token is None:
            return {}
        return {**self._token.to_dict(), "error": self.error}


def _strings(values: list[Any]) -> frozenset[str]:
    return frozenset(value for value in values if isinstance(value, str))


def _current() -> CognitoSession:
    if not has_request_context():
        raise RuntimeError(_UNBOUND)
    state = request_session()
    state.load()
    return CognitoSession(state)


class _Proxy(LocalProxy[CognitoSession]):
    """A proxy that is not quietly false outside a request."""

    def __bool__(self) -> bool:
        return bool(self._get_current_object())


#: The `CognitoSession` of the request that is being answered.
current_session: CognitoSession = cast(CognitoSession, _Proxy(_current))
