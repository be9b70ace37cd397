"""What guards views: decorators, and the check that they share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, overload

from flask import current_app, jsonify, redirect, request, url_for
from werkzeug.exceptions import (
    Forbidden,
    HTTPException,
    ServiceUnavailable,
    Unauthorized,
)
from werkzeug.wrappers import Response as BaseResponse

from .errors import (
    AccessDenied,
    CognitoAuthError,
    LoginRequired,
    RefreshAccessTokenError,
)
from .globals import current_session
from .pages import retry_response
from .request_session import request_session
from .runtime import local_next, mark_exempt, runtime

_View = TypeVar("_View", bound=Callable[..., Any])
_Target = TypeVar("_Target")


@overload
def login_required(view: _View) -> _View: ...
@overload
def login_required() -> Callable[[_View], _View]: ...
def login_required(view: _View | None = None) -> _View | Callable[[_View], _View]:
    """Let only signed-in users through.

    Works for sync and async views, in ``View.decorators``, with and without
    parentheses. Who is not signed in is sent to the login when the browser navigates,
    and gets a 401 with JSON otherwise; while a refresh is impossible, 503.

    Raises:
        werkzeug.exceptions.Unauthorized, ServiceUnavailable: with `LoginRequired` or
            `RefreshAccessTokenError` as ``__cause__``.
    """
    decorate = _guard(require_login)
    return decorate if view is None else decorate(view)


def groups_required(*any_of: str) -> Callable[[_View], _View]:
    """Let only members of at least one of these groups through.

    Groups are those of the ID token: they change with the next refresh.

    Raises:
        werkzeug.exceptions.Forbidden: with `AccessDenied` as ``__cause__``; and what
            `login_required` raises.
    """
    _check_names("groups_required", any_of)
    return _guard(lambda: require_entitlement(groups=any_of))


def scopes_required(*all_of: str) -> Callable[[_View], _View]:
    """Let only sessions through whose access token has all of these scopes.

    Raises:
        werkzeug.exceptions.Forbidden: with `AccessDenied` as ``__cause__``; and what
            `login_required` raises.
    """
    _check_names("scopes_required", all_of)
    return _guard(lambda: require_entitlement(scopes=all_of))


@overload
def login_exempt(target: _Target) -> _Target: ...
@overload
def login_exempt() -> Callable[[_Target], _Target]: ...
def login_exempt(target: Any = None) -> Any:
    """Leave a view, a view class or a Blueprint open to everybody.

    It takes them out of ``COGNITO_LOGIN_REQUIRED`` and of `CognitoAuth.protect`.
    """
    if target is None:
        return login_exempt
    mark_exempt(target)
    return target


def require_login() -> None:
    """Return for signed-in users, raise for all others."""
    if current_session:
        return
    problem = request_session().problem
    final = isinstance(problem, RefreshAccessTokenError) and problem.final
    if problem is not None and not final:
        raise _unavailable(problem)
    raise _unauthorized() from problem or LoginRequired("nobody is signed in")


def require_entitlement(
    *, groups: Iterable[str] = (), scopes: Iterable[str] = ()
) -> None:
    """Return for signed-in users in one of `groups` and with all of `scopes`."""
    require_login()
    any_of, all_of = frozenset(groups), frozenset(scopes)
    if any_of and not any_of & current_session.groups:
        raise _forbidden() from AccessDenied("not in any of the groups")
    if not all_of <= current_session.scopes:
        raise _forbidden() from AccessDenied("the access token lacks a scope")


def is_navigation() -> bool:
    """Tell whether a person waits for a page, rather than a script for data."""
    mode = request.headers.get("Sec-Fetch-Mode")
    if mode is not None:
        return mode == "navigate"
    if request.is_json:
        return False
    accept = request.headers.get("Accept")
    return accept is None or "text/html" in accept.lower()


def _guard(check: Callable[[], None]) -> Callable[[_View], _View]:
    def decorate(view: _View) -> _View:
        if inspect.iscoroutinefunction(view):

            @functools.wraps(view)
            async def guarded(*args: Any, **kwargs: Any) -> Any:
                _check_unless_options(check)
                return await view(*args, **kwargs)

        else:

            @functools.wraps(view)
            def guarded(*args: Any, **kwargs: Any) -> Any:
                _check_unless_options(check)
                return current_app.ensure_sync(view)(*args, **kwargs)

        return guarded  # type: ignore[return-value]

    return decorate


def _check_unless_options(check: Callable[[], None]) -> None:
    # A preflight carries no cookie, by the Fetch standard.
    if request.method != "OPTIONS":
        check()


def _check_names(decorator: str, names: tuple[Any, ...]) -> None:
    if not names or not all(isinstance(name, str) and name for name in names):
        raise TypeError(f"@{decorator} needs at least one name, like ('admin')")


def _unauthorized() -> Unauthorized:
    target = _return_target()
    if not is_navigation():
        body = {"error": "login_required", "login_url": _login_url(target)}
        response: BaseResponse = jsonify(body)
        response.status_code = 401
        return Unauthorized(response=_private(response))
    code = 302 if request.method in {"GET", "HEAD"} else 303
    return Unauthorized(response=_private(redirect(_login_url(target), code)))


def _forbidden() -> Forbidden:
    if is_navigation():
        return Forbidden()
    response = jsonify(error="access_denied")
    response.status_code = 403
    return Forbidden(response=_private(response))


def _unavailable(problem: CognitoAuthError) -> HTTPException:
    error = ServiceUnavailable(response=retry_response(problem, page=is_navigation()))
    error.__cause__ = problem
    return error


def _return_target() -> str:
    """Return where the login should lead back to."""
    if request.method in {"GET", "HEAD"}:
        return local_next(request.url) or runtime().home()
    referer = local_next(request.headers.get("Referer"))
    return referer.partition("?")[0] if referer else runtime().home()


def _login_url(target: str) -> str:
    return url_for(runtime().endpoint("login"), next=target)


def _private(response: BaseResponse) -> BaseResponse:
    response.headers["Cache-Control"] = "private, no-store"
    return response
