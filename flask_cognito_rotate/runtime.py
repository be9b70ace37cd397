"""One application's working parts, put together from its settings."""

from __future__ import annotations

import fnmatch
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from flask import Blueprint, Flask, Response, current_app, request, url_for
from werkzeug.routing import BuildError

from .cache import Cache
from .config import Settings
from .errors import CognitoAuthError
from .protocol.metadata import is_loopback
from .protocol.redirects import safe_next
from .protocol.refresh import RefreshPolicy
from .provider import Provider
from .rotation import Observer, Rotation
from .sealing import Sealer
from .sessions import CookieCodec, Records, Transactions

EXTENSION: Final = "cognito_rotate"
_EXEMPT: Final = "_cognito_login_exempt"

_logger = logging.getLogger("flask_cognito_rotate")

JwtCallback = Callable[..., dict[str, Any]]
SessionCallback = Callable[..., dict[str, Any]]
ErrorHandler = Callable[[CognitoAuthError], Any]


@dataclass
class Callbacks:
    """What the application registered on its `CognitoAuth`."""

    jwt: JwtCallback | None = None
    session: SessionCallback | None = None
    error: ErrorHandler | None = None


@dataclass
class Runtime:
    """Everything of one application, kept in ``app.extensions``."""

    app: Flask
    settings: Settings
    cache: Cache
    provider: Provider
    records: Records
    rotation: Rotation
    cookies: CookieCodec
    transactions: Transactions
    callbacks: Callbacks
    blueprint: Blueprint
    clock: Callable[[], float]
    foreign_cache_seen: bool = field(default=False)
    routes_checked: bool = field(default=False)

    @classmethod
    def build(
        cls,
        app: Flask,
        settings: Settings,
        cache: Cache,
        *,
        callbacks: Callbacks,
        blueprint: Blueprint,
        observe: Observer,
        clock: Callable[[], float],
    ) -> Runtime:
        """Put the parts together; nothing is asked of the network yet."""
        sealer = Sealer(
            settings.secret_keys,
            issuer=settings.issuer,
            client_id=settings.client_id,
        )
        provider = Provider(settings, cache, clock)
        records = Records(
            cache, ttl=settings.session_max_age + settings.session_update_age
        )
        rotation = Rotation(
            provider,
            records,
            observe=observe,
            refresh_timeout=settings.refresh_timeout,
            wait_timeout=settings.http_timeout,
            clock=clock,
        )
        cookies = CookieCodec(sealer, overhead=_attributes_length(settings))
        return cls(
            app=app,
            settings=settings,
            cache=cache,
            provider=provider,
            records=records,
            rotation=rotation,
            cookies=cookies,
            transactions=Transactions(sealer),
            callbacks=callbacks,
            blueprint=blueprint,
            clock=clock,
        )

    @property
    def policy(self) -> RefreshPolicy:
        """What decides when a session is refreshed."""
        return RefreshPolicy(
            leeway=self.settings.refresh_leeway,
            absolute_max_age=self.settings.session_absolute_max_age,
        )

    def endpoint(self, name: str) -> str:
        return f"{self.blueprint.name}.{name}"

    def home(self) -> str:
        """Return where a login without a `next` goes."""
        return self._local(self.settings.login_redirect)

    def after_logout(self) -> str:
        return self._local(self.settings.logout_redirect)

    def _local(self, target: str) -> str:
        if target.startswith("/"):
            return request.script_root + target
        try:
            return url_for(target)
        except BuildError:
            _logger.error(
                "COGNITO_LOGIN_REDIRECT or COGNITO_LOGOUT_REDIRECT names the endpoint "
                "%r, which this application does not have: a path begins with a slash.",
                target,
            )
            return request.script_root + "/"

    def redirect_uri(self) -> str:
        """Return the callback's external URL, as registered with Cognito."""
        return self.settings.redirect_uri or url_for(
            self.endpoint("callback"), _external=True
        )

    def is_secure(self) -> bool:
        """Tell whether cookies are ``Secure``: not for http on a loopback host."""
        if self.settings.cookie_secure is not None:
            return self.settings.cookie_secure
        if self.settings.redirect_uri is not None:
            return self.settings.redirect_uri.startswith("https:")
        host = urlsplit(request.host_url).hostname or ""
        return request.scheme != "http" or not is_loopback(host)

    def cookie_name(self) -> str:
        """Return the session cookie's name for this request."""
        settings = self.settings
        plain = settings.cookie_domain is not None or settings.cookie_path != "/"
        if plain or not self.is_secure():
            return settings.cookie_name
        return f"__Host-{settings.cookie_name}"

    def set_cookie(
        self, response: Response, name: str, value: str, *, max_age: int, samesite: str
    ) -> None:
        """Set a cookie, or with an empty `value` and `max_age` 0 delete it."""
        response.set_cookie(
            name,
            value,
            max_age=max_age,
            path=self.settings.cookie_path,
            domain=self.settings.cookie_domain,
            secure=self.is_secure(),
            httponly=True,
            samesite=samesite,
        )

    def origin(self) -> str:
        return request.host_url.rstrip("/")

    def emit(
        self,
        signal: Any,
        event: str,
        message: str,
        *,
        level: int = logging.INFO,
        **fields: Any,
    ) -> None:
        """Send `signal` and write the one log record of the event."""
        user = fields.get("user") or {}
        error = fields.get("error")
        # The cause of a refused login is what its log record is for.
        error = getattr(error, "__cause__", None) or error
        extra = {
            "event": event,
            "sub": user.get("id"),
            "reason": fields.get("reason"),
            "error_type": type(error).__name__ if error else None,
        }
        _logger.log(level, message, extra=extra)
        signal.send(self.app, **fields)


def runtime() -> Runtime:
    """Return the current application's `Runtime`.

    Raises:
        RuntimeError: the application was never given to `CognitoAuth`.
    """
    extension: Runtime | None = current_app.extensions.get(EXTENSION)
    if extension is None:
        raise RuntimeError(
            "CognitoAuth is not on this application: call CognitoAuth(app), or "
            "auth.init_app(app) where the application is made"
        )
    return extension


def mark_exempt(target: Any) -> None:
    setattr(target, _EXEMPT, True)


def is_exempt(endpoint: str, *, below: Blueprint | None = None) -> bool:
    """Tell whether the view, its class or one of its blueprints is marked.

    Args:
        below: blueprints further out than this one do not count: what guards it
            is closer than what exempts them.
    """
    view = current_app.view_functions.get(endpoint)
    blueprints = []
    for name in request.blueprints:  # the innermost first
        blueprints.append(current_app.blueprints[name])
        if blueprints[-1] is below:
            break
    view_class = getattr(view, "view_class", None)
    # A class passes its mark on to nobody: a subclass may show more.
    of_class = view_class is not None and _EXEMPT in vars(view_class)
    return of_class or any(getattr(one, _EXEMPT, False) for one in (view, *blueprints))


def is_public(endpoint: str) -> bool:
    """Tell whether the hook and ``COGNITO_LOGIN_REQUIRED`` leave the view alone."""
    own = runtime().blueprint.name + "."
    return (
        endpoint.startswith(own)
        or endpoint == "static"
        or endpoint.endswith(".static")
        or is_exempt(endpoint)
        or any(
            fnmatch.fnmatchcase(endpoint, pattern)
            for pattern in runtime().settings.login_exempt
        )
    )


def local_next(target: str | None) -> str | None:
    """Return `target` as a path of this application, None where it is not one."""
    return safe_next(target, origin=runtime().origin())


def whole_seconds(seconds: float | None) -> int:
    """Return what ``Retry-After`` can say: whole seconds, at least one."""
    return max(1, math.ceil(seconds or 1))


def _attributes_length(settings: Settings) -> int:
    """Return the bytes that a cookie's attributes take at most.

    werkzeug adds ``Expires`` to ``Max-Age`` by itself.
    """
    parts = [
        "Expires=Thu, 01 Jan 1970 00:00:00 GMT",
        f"Max-Age={settings.session_max_age}",
        "Secure",
        "HttpOnly",
        f"Path={settings.cookie_path}",
        f"SameSite={settings.cookie_samesite}",
    ]
    if settings.cookie_domain:
        parts.append(f"Domain={settings.cookie_domain}")
    return sum(len("; ") + len(part) for part in parts)
