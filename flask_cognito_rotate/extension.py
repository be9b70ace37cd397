"""`CognitoAuth`: puts Cognito in front of a Flask application."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

from flask import Blueprint, Flask, Response, request, url_for
from markupsafe import Markup

from .cache import Cache, check_location, open_cache
from .config import Settings, read_settings
from .decorators import require_entitlement, require_login
from .errors import CognitoAuthError, ConfigurationError
from .globals import current_session
from .pages import answer_error, login_url
from .request_session import existing_request_session, observe, request_session
from .runtime import (
    EXTENSION,
    Callbacks,
    ErrorHandler,
    JwtCallback,
    Runtime,
    SessionCallback,
    is_exempt,
    is_public,
    runtime,
)
from .views import BLUEPRINT, ROUTES, make_blueprint

_logger = logging.getLogger("flask_cognito_rotate")


class CognitoAuth:
    """Sign users in through Cognito, and keep them signed in.

    One object serves any number of applications; what belongs to one of them lies in
    its ``extensions["cognito_rotate"]``. ``flask.session`` is neither read nor written.

    Args:
        app: the application, or None to call `init_app` later.
        cache: in the place of ``COGNITO_CACHE``.
        session_store: in the place of ``COGNITO_SESSION_STORE``.
        clock: UNIX seconds; for tests that move time.
    """

    def __init__(
        self,
        app: Flask | None = None,
        *,
        cache: Any = None,
        session_store: Any = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._overrides = {
            "COGNITO_CACHE": cache,
            "COGNITO_SESSION_STORE": session_store,
        }
        self._clock = clock
        self._callbacks = Callbacks()
        #: The blueprint with our routes, the same in every application.
        self.blueprint = make_blueprint()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Read the configuration, and add routes, hooks and template functions.

        Changes to the configuration after this call have no effect. Nothing is asked
        of the network: an application starts while Cognito is down.

        Raises:
            ConfigurationError: names every setting that is missing or wrong, a second
                registration, or the route that is already taken.
        """
        if EXTENSION in app.extensions:
            raise ConfigurationError(
                ["CognitoAuth is on this application already: call init_app once"]
            )
        given = {k: v for k, v in self._overrides.items() if v is not None}
        settings, warnings = _settings({**app.config, **given})
        cache = open_cache(
            settings.cache,
            namespace=settings.namespace,
            instance_path=app.instance_path,
        )
        for warning in warnings:
            _logger.warning(warning)
        _check_routes(app, settings)
        app.extensions[EXTENSION] = Runtime.build(
            app,
            settings,
            cache,
            callbacks=self._callbacks,
            blueprint=self.blueprint,
            observe=observe,
            clock=self._clock,
        )
        app.register_blueprint(self.blueprint, url_prefix=settings.url_prefix)
        app.before_request(_before_request)
        app.after_request(_after_request)
        app.teardown_request(_teardown_request)
        app.context_processor(_template_names)
        # An application's own handler for the class stays.
        handlers = app.error_handler_spec[None][None]
        handlers.setdefault(CognitoAuthError, answer_error)
        _exempt_from_csrf(app)

    def jwt_callback(self, callback: JwtCallback) -> JwtCallback:
        """Register what may add to the stored token.

        ``f(token: dict, *, account, user, trigger, data) -> dict`` is called at
        sign-in (``trigger="signIn"``; ``account`` holds the provider's answer) and
        after a refresh (``"refresh"``), once, in the request that made the call. It
        returns the token with what is to be stored: JSON only. `LoginError` raised at
        sign-in refuses the login; whatever is raised at a refresh is logged, and the
        new tokens stand.
        """
        self._callbacks.jwt = callback
        return callback

    def session_callback(self, callback: SessionCallback) -> SessionCallback:
        """Register what decides what ``GET /auth/session`` answers.

        ``f(session: dict, *, token: dict) -> dict``; whatever it returns is public to
        every script of the page.
        """
        self._callbacks.session = callback
        return callback

    def error_handler(self, callback: ErrorHandler) -> ErrorHandler:
        """Register what answers in the place of the default error page.

        ``f(error: CognitoAuthError) -> response``. A handler of the application's own,
        by ``app.errorhandler`` for a class or a code, is asked first.
        """
        self._callbacks.error = callback
        return callback

    def protect(
        self,
        blueprint: Blueprint,
        groups: Iterable[str] = (),
        scopes: Iterable[str] = (),
    ) -> None:
        """Guard all views of a blueprint and of those nested in it.

        Call it before the blueprint is registered.

        Args:
            groups: the user must be in at least one of them.
            scopes: the access token must have all of them.
        """
        any_of, all_of = _names(groups), _names(scopes)

        def guard() -> None:
            endpoint = request.endpoint
            exempt = endpoint is None or is_exempt(endpoint, below=blueprint)
            if not exempt and not _passes_unguarded():
                require_entitlement(groups=any_of, scopes=all_of)

        blueprint.before_request(guard)

    def login_url(self, next: str | None = None, **authorize_params: str) -> str:
        """Return the path that starts a login.

        Args:
            next: path and query to come back to.
            authorize_params: ``identity_provider``, ``idp_identifier``, ``lang``,
                ``login_hint``, ``prompt``, ``max_age``, ``acr_values``: see Cognito's
                authorize endpoint.

        Raises:
            TypeError: another parameter; set it in ``COGNITO_AUTHORIZE_PARAMS``.
        """
        return login_url(next, **authorize_params)

    def logout_url(self) -> str:
        """Return the path of the page that asks whether to sign out."""
        return url_for(runtime().endpoint("logout"))


def _settings(config: dict[str, Any]) -> tuple[Settings, list[str]]:
    """Read the settings; a cache that cannot be is reported with all the rest."""
    problems: list[str] = []
    location = config.get("COGNITO_CACHE", os.environ.get("COGNITO_CACHE", "file:"))
    if location is not None and not isinstance(location, Cache):
        try:
            check_location(location)
        except ConfigurationError as error:
            problems.extend(error.problems)
    try:
        settings, warnings = read_settings(config, os.environ)
    except ConfigurationError as error:
        raise ConfigurationError([*error.problems, *problems]) from None
    if problems:
        raise ConfigurationError(problems)
    return settings, warnings


def _names(names: Iterable[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise TypeError(f"expected a list of names, got the string {names!r}")
    return tuple(names)


def _check_routes(app: Flask, settings: Settings) -> None:
    if BLUEPRINT in app.blueprints:
        raise ConfigurationError(
            ["a blueprint named 'cognito' is registered already: give it another name"]
        )
    if problems := _clashes(app, settings):
        raise ConfigurationError(problems)


def _clashes(app: Flask, settings: Settings) -> list[str]:
    """Name the routes of the application that are ours, too."""
    ours = {f"{settings.url_prefix}/{name}" for name in ROUTES}
    return [
        f"COGNITO_URL_PREFIX: the route {rule.rule} belongs to the endpoint "
        f"'{rule.endpoint}': choose another prefix"
        for rule in app.url_map.iter_rules()
        if rule.rule in ours and not rule.endpoint.startswith(f"{BLUEPRINT}.")
    ]


def _exempt_from_csrf(app: Flask) -> None:
    """Tell Flask-WTF's CSRFProtect that our forms carry a token of their own."""
    csrf = app.extensions.get("csrf")
    if csrf is not None:
        csrf.exempt(app.extensions[EXTENSION].blueprint)


def _before_request() -> None:
    endpoint = request.endpoint
    if endpoint is None:
        return
    own = runtime()
    if not own.routes_checked:
        own.routes_checked = True
        for problem in _clashes(own.app, own.settings):
            _logger.error(problem)
    if endpoint == own.endpoint("logout_post"):
        _exempt_from_csrf(own.app)  # it may have come later than `init_app`
    public = is_public(endpoint)
    if public and endpoint != own.endpoint("session"):
        return
    state = request_session()
    if state.has_cookie:
        state.load()
    if own.settings.login_required and not public and not _passes_unguarded():
        require_login()


def _passes_unguarded() -> bool:
    """Tell whether Flask itself answers: an error or redirect of routing, OPTIONS."""
    if request.routing_exception is not None:
        return True
    rule = request.url_rule
    automatic = getattr(rule, "provide_automatic_options", False)
    return request.method == "OPTIONS" and automatic


def _after_request(response: Response) -> Response:
    state = existing_request_session()
    if state is not None:
        state.commit(response)
    return response


def _teardown_request(_: BaseException | None) -> None:
    state = existing_request_session()
    if state is not None:
        state.close()


def _template_names() -> dict[str, Any]:
    return {
        "current_session": current_session,
        "cognito_login_url": login_url,
        "cognito_logout_button": _logout_button,
    }


def _logout_button(text: str = "Sign out") -> Markup:
    """Return a form with one button, and nothing for nobody."""
    session = request_session()
    session.load()
    if session.session is None:
        return Markup("")
    return Markup(
        '<form method="post" action="{}"><input type="hidden" name="csrfToken" '
        'value="{}"><button>{}</button></form>'
    ).format(
        url_for(runtime().endpoint("logout")),
        session.session.handle.csrf_token(),
        text,
    )
