"""What guards views: decorators, and the check that they share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, overload

from flask import current_app, redirect, request
from werkzeug.exceptions import (
    Forbidden,
    ServiceUnavailable,
    Unauthorized,
)

from .errors import (
    AccessDenied,
    CognitoAuthError,
    LoginRequired,
    RefreshAccessTokenError,
)
from .globals import current_session
from .pages import default_answer, is_navigation, login_required_json, login_url
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
        raise _forbidden("not in any of the groups")
    if not all_of <= current_session.scopes:
        raise _forbidden("the access token lacks a scope")


def _guard(check: Callable[[], None]) -> Callable[[_View], _View]:
    def decorate(view: _View) -> _View:
        if inspect.iscoroutinefunction(view):

            @functools.wraps(view)
            async def guarded(*args: Any, **kwargs: Any) -> Any:
                check()
                return await view(*args, **kwargs)

        else:

            @functools.wraps(view)
            def guarded(*args: Any, **kwargs: Any) -> Any:
                check()
                return current_app.ensure_sync(view)(*args, **kwargs)

        return guarded  # type: ignore[return-value]

    return decorate


def _check_names(decorator: str, names: tuple[Any, ...]) -> None:
    if not names or not all(isinstance(name, str) and name for name in names):
        raise TypeError(f"@{decorator} needs at least one name, like ('admin')")


def _unauthorized() -> Unauthorized:
    target = _return_target()
    if not is_navigation():
        return Unauthorized(response=login_required_json(target))
    code = 302 if request.method in {"GET", "HEAD"} else 303
    response = redirect(login_url(target), code)
    response.headers["Cache-Control"] = "private, no-store"
    return Unauthorized(response=response)


def _forbidden(reason: str) -> Forbidden:
    error = AccessDenied(reason)
    forbidden = Forbidden(response=default_answer(error))
    forbidden.__cause__ = error
    return forbidden


def _unavailable(problem: CognitoAuthError) -> ServiceUnavailable:
    unavailable = ServiceUnavailable(response=default_answer(problem))
    unavailable.__cause__ = problem
    return unavailable


def _return_target() -> str:
    """Return where the login should lead back to."""
    if request.method in {"GET", "HEAD"}:
        return local_next(request.url) or runtime().home()
    referer = local_next(request.headers.get("Referer"))
    return referer.partition("?")[0] if referer else runtime().home()
