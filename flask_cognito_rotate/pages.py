"""The extension's own pages: logout, errors, and "try again in a moment"."""

from __future__ import annotations

from typing import Any

from flask import (
    Response,
    current_app,
    jsonify,
    make_response,
    render_template,
    request,
    url_for,
)
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import InternalServerError, default_exceptions

from .errors import CognitoAuthError, LoginError
from .protocol.authorization import LINK_PARAMETERS
from .runtime import local_next, runtime, whole_seconds

_TITLES = {
    400: "This sign-in did not work",
    401: "Please sign in again",
    403: "You may not see this page",
    502: "The sign-in service refused this application",
    503: "The sign-in service cannot be reached right now",
}
_ADVICE = {
    400: "Nothing has changed. Start again, and finish within a few minutes.",
    401: "Your sign-in could not be confirmed.",
    403: "Ask whoever runs this application to give you access.",
    502: "This is not your fault. Whoever runs this application finds the reason in "
    "its log.",
    503: "This is not your fault, and you stay signed in where you were. Try again "
    "in a moment.",
}


def error_page(error: CognitoAuthError) -> Response:
    """Return the default page of an error: nothing technical, and a way out.

    Only a `LoginError` speaks to the user itself.
    """
    status = 500 if error.status not in _TITLES else error.status
    response = page(
        "error.html",
        status=status,
        title=_TITLES.get(status, "Something went wrong"),
        advice=str(error) if isinstance(error, LoginError) else _ADVICE.get(status, ""),
        way_out=_way_out(status),
    )
    if status == 503:
        response.headers["Retry-After"] = str(retry_after(error))
    return response


def _way_out(status: int) -> dict[str, str]:
    """Return the error page's one link: the same page where waiting is all it takes."""
    own = runtime()
    # What the callback's address holds works once.
    if status != 503 or request.endpoint == own.endpoint("callback"):
        return {"text": "Sign in again", "url": login_url()}
    again = local_next(request.url) if request.method in {"GET", "HEAD"} else None
    return {"text": "Try again", "url": again or own.home()}


def answer_error(error: CognitoAuthError) -> ResponseReturnValue:
    """Answer an error: the application's handlers first, else our page.

    Asked are ``app.errorhandler`` for the HTTP exception or its code, then
    `CognitoAuth.error_handler`.
    """
    http_error = default_exceptions.get(error.status, InternalServerError)()
    http_error.__cause__ = error
    answer = current_app.handle_http_exception(http_error)
    if answer is not http_error:
        return answer
    return default_answer(error)


def default_answer(error: CognitoAuthError) -> Response:
    """Answer a script with JSON, and a person with a page.

    The page is that of `CognitoAuth.error_handler`, or ours where there is none.
    """
    if not is_navigation():
        match error.status:
            case 401:
                return login_required_json(None)
            case 403:
                return _json(403, error="access_denied")
            case 503:
                return _retry_json(error)
    custom = runtime().callbacks.error
    if custom is None:
        return error_page(error)
    return make_response(current_app.ensure_sync(custom)(error))


def is_navigation() -> bool:
    """Tell whether a person waits for a page, rather than a script for data."""
    mode = request.headers.get("Sec-Fetch-Mode")
    if mode is not None:
        return mode == "navigate"
    if request.is_json:
        return False
    accept = request.headers.get("Accept")
    return accept is None or "text/html" in accept.lower()


def login_url(next: str | None = None, **authorize_params: str) -> str:
    """Return the path that starts a login; see `CognitoAuth.login_url`."""
    if unknown := sorted(set(authorize_params) - LINK_PARAMETERS):
        raise TypeError(f"a login URL cannot carry {', '.join(unknown)}")
    values: dict[str, Any] = {"next": next, **authorize_params}
    return url_for(runtime().endpoint("login"), **values)


def login_required_json(target: str | None) -> Response:
    """Return the 401 for a script; `target` is where its page is."""
    return _json(401, error="login_required", login_url=login_url(target))


def _retry_json(error: CognitoAuthError) -> Response:
    seconds = retry_after(error)
    response = _json(503, error="temporarily_unavailable", retry_after=seconds)
    response.headers["Retry-After"] = str(seconds)
    return response


def _json(status: int, **body: Any) -> Response:
    response = jsonify(body)
    response.status_code = status
    response.headers["Cache-Control"] = "private, no-store"
    return response


def retry_after(error: BaseException) -> int:
    """Return what the ``Retry-After`` of an error says, in seconds."""
    return whole_seconds(getattr(error, "retry_after", None))


def page(template: str, *, status: int = 200, **context: Any) -> Response:
    """Render one of our templates; `secure_headers` is applied to it."""
    style_url = url_for(runtime().endpoint("static"), filename="cognito_rotate.css")
    html = render_template(f"cognito_rotate/{template}", style_url=style_url, **context)
    return secure_headers(make_response(html, status))


def secure_headers(response: Response) -> Response:
    """Add what every answer of our own routes carries."""
    headers = response.headers
    headers["Cache-Control"] = "private, no-store"
    headers["X-Content-Type-Options"] = "nosniff"
    # The callback's address holds the code.
    headers.setdefault("Referrer-Policy", "no-referrer")
    headers.setdefault(
        "Content-Security-Policy",
        "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'",
    )
    response.vary.add("Cookie")
    return response
