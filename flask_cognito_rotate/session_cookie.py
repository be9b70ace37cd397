"""The session's cookie, as one request brings it and its response takes it."""

from __future__ import annotations

import logging

from flask import Response, request

from .errors import LoginError
from .runtime import Runtime
from .sealing import BrokenSeal, ExpiredSeal, UnknownSealingKey
from .sessions import CookieTooLarge, OpenedCookie, Session, slim

_logger = logging.getLogger("flask_cognito_rotate")

#: What is given up, in this order, by a session that outgrew its cookie.
_DROPPED = ("what jwt_callback added", "spare claims")


class SessionCookie:
    """Reads the cookie of this request, and writes or clears it in its response."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._name = runtime.cookie_name()
        self._opened: OpenedCookie | None = None
        #: Ours by name, and neither genuine nor young enough.
        self.is_broken = False

    @property
    def is_there(self) -> bool:
        return self._name in request.cookies

    @property
    def is_due(self) -> bool:
        """Tell whether it must be written again for its age alone."""
        if self._opened is None:
            return False
        age = self._runtime.clock() - self._opened.written
        return age >= self._runtime.settings.session_update_age

    def read(self) -> Session | None:
        """Return the session that the browser carries, None where there is none."""
        try:
            self._opened = self._runtime.cookies.open(
                self._name, request.cookies, now=self._runtime.clock()
            )
        except UnknownSealingKey:
            # Perhaps sealed by another version of this deployment: not ours to clear.
            return None
        except (BrokenSeal, ExpiredSeal):
            self.is_broken = True
            return None
        return self._opened.session if self._opened else None

    def forget(self) -> None:
        """Take what was read as not read: another session takes its place."""
        self._opened, self.is_broken = None, False

    def expires_at(self, session: Session, *, rewritten: bool) -> int:
        """Return the UNIX second at which the session ends without a request."""
        settings = self._runtime.settings
        opened = None if rewritten else self._opened
        written = self._runtime.clock() if opened is None else opened.written
        idle = int(written) + settings.session_max_age
        absolute = settings.session_absolute_max_age
        return idle if absolute is None else min(idle, session.token.iat + absolute)

    def check_size(self, session: Session) -> None:
        """Refuse a new session that no cookie can hold.

        Raises:
            LoginError: names the remedy.
        """
        try:
            self._seal(session)
        except CookieTooLarge as error:
            raise LoginError(
                f"{error}, more than browsers and web servers carry. Keep less in "
                "jwt_callback or ask for fewer scopes; a store on the server "
                '(COGNITO_SESSION_STORE="cache") has no such limit.'
            ) from error

    def write(self, response: Response, session: Session) -> None:
        """Set the one or two parts, and delete a part that is left over."""
        values = self._seal_what_fits(session)
        if not values:
            return
        expires_at = self.expires_at(session, rewritten=True)
        max_age = max(1, expires_at - int(self._runtime.clock()))
        names = self._runtime.cookies.names(self._name)
        for name, value in zip(names, values, strict=False):
            self._set(response, name, value, max_age)
        self._delete(response, names[len(values) :])

    def clear(self, response: Response) -> None:
        """Delete every part that the browser has."""
        self._delete(response, self._runtime.cookies.names(self._name))

    def _seal(self, session: Session) -> list[str]:
        now = int(self._runtime.clock())
        return self._runtime.cookies.seal(
            self._name,
            session,
            now=now,
            # The absolute limit is judged when it is opened, so that its end is told.
            expires_at=now + self._runtime.settings.session_max_age,
        )

    def _seal_what_fits(self, session: Session) -> list[str]:
        """Seal the session; grown too large, it gives up what it can do without.

        Returns:
            Nothing if even that is too large: the browser's old cookie still opens
            the record, which has it all.
        """
        for step, dropped in enumerate((*_DROPPED, "nothing more can be")):
            try:
                return self._seal(session)
            except CookieTooLarge as error:
                _logger.error(
                    "The session outgrew its cookie (%s): %s dropped. Keep less in it.",
                    error,
                    dropped,
                    extra={"event": "cookie_too_large"},
                )
                session = slim(session, step)
        return []

    def _delete(self, response: Response, names: tuple[str, ...]) -> None:
        for name in names:
            if name in request.cookies:
                self._set(response, name, "", 0)

    def _set(self, response: Response, name: str, value: str, max_age: int) -> None:
        samesite = self._runtime.settings.cookie_samesite
        self._runtime.set_cookie(
            response, name, value, max_age=max_age, samesite=samesite
        )
        response.headers["Cache-Control"] = "private, no-store"
