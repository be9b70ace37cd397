"""The routes below ``COGNITO_URL_PREFIX``."""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from flask import (
    Blueprint,
    Response,
    current_app,
    jsonify,
    make_response,
    redirect,
    request,
)
from flask.typing import ResponseReturnValue

from . import signals
from .errors import (
    CacheUnavailable,
    CognitoAuthError,
    LoginError,
    ProviderRejected,
    ProviderUnavailable,
)
from .globals import current_session
from .model import Transaction
from .pages import page, secure_headers
from .protocol.authorization import (
    LINK_PARAMETERS,
    authorize_url,
    callback_state,
    logout_url,
    new_transaction,
    parse_callback,
)
from .protocol.refresh import REMEDIES
from .request_session import RequestSession, request_session
from .runtime import Runtime, local_next, runtime
from .sessions.transactions import LIFETIME, cookie_size
from .signing_in import sign_in

_logger = logging.getLogger("flask_cognito_rotate")

BLUEPRINT = "cognito"
ROUTES = ("login", "callback", "logout", "session")


def make_blueprint() -> Blueprint:
    """Return a new blueprint ``cognito`` with all the routes."""
    blueprint = Blueprint(
        BLUEPRINT,
        __name__,
        template_folder="templates",
        static_folder="static",
        static_url_path="/static",
    )
    blueprint.add_url_rule("/login", view_func=login)
    blueprint.add_url_rule("/callback", view_func=callback)
    blueprint.add_url_rule("/logout", view_func=logout_page, endpoint="logout")
    blueprint.add_url_rule(
        "/logout", view_func=logout, endpoint="logout_post", methods=["POST"]
    )
    blueprint.add_url_rule("/session", view_func=session)
    blueprint.after_request(_secure_own_answers)
    return blueprint


def _secure_own_answers(response: Response) -> Response:
    if request.endpoint == runtime().endpoint("static"):
        return response
    return secure_headers(response)


def login() -> ResponseReturnValue:
    """Start an authorization code flow with PKCE (RFC 7636), state and nonce."""
    own = runtime()
    target = request.args.getlist("next")
    transaction = new_transaction(
        next=(local_next(target[0]) if len(target) == 1 else None) or own.home(),
        redirect_uri=own.redirect_uri(),
        now=own.clock(),
        token=secrets.token_urlsafe,
    )
    try:
        metadata = own.provider.metadata()
    except CognitoAuthError as error:
        _note_failure(own, error)
        raise
    location = authorize_url(
        metadata,
        transaction,
        client_id=own.settings.client_id,
        scopes=own.settings.scopes,
        extra={**own.settings.authorize_params, **_asked_parameters()},
    )
    response = make_response(redirect(location))
    _remember(own, response, transaction)
    return response


def callback() -> ResponseReturnValue:
    """Take the browser back from Cognito: check, exchange, verify, sign in."""
    own, state = runtime(), request_session()
    name = own.cookie_name()
    answered = callback_state(_arguments())
    transaction = answered and own.transactions.open(
        name, answered, request.cookies, now=own.clock()
    )
    try:
        if not transaction:
            location = _without_transaction(own, state)
        elif _is_first_return(own, transaction):
            answer = parse_callback(_arguments())
            location = sign_in(own, state, transaction, answer)
        else:
            # Sent twice at once: whoever came first signs in, or says why not.
            location = local_next(transaction.next) or own.home()
        response = make_response(redirect(location))
    except CognitoAuthError as error:
        _note_failure(own, error)
        response = make_response(current_app.handle_user_exception(error))
    if answered:
        _forget(own, response, own.transactions.name(name, answered))
    return response


def logout_page() -> ResponseReturnValue:
    """Ask; a link or an image of another site must not sign anybody out."""
    state = request_session()
    state.load(refresh=False)
    response = page(
        "logout.html",
        csrf_token=_csrf_token(state),
        user=_user(state),
        home_url=runtime().home(),
    )
    # Under "no-referrer" the page's own form would be sent with `Origin: null`.
    response.headers["Referrer-Policy"] = "same-origin"
    return response


def logout() -> ResponseReturnValue:
    """End the session here, at every other holder, and at Cognito."""
    own, state = runtime(), request_session()
    state.load(refresh=False)
    _check_own_form(state)
    user = _user(state)
    if not state.end("logout"):
        return page("logout_unsaved.html", status=503, user=user)
    return redirect(_provider_logout(own), 303)


def session() -> ResponseReturnValue:
    """Answer what a front end may know, as next-auth's ``/session`` does."""
    own = runtime()
    token = dict(current_session)
    answer: dict[str, Any] = {}
    if token:
        answer = {"user": current_session.user, "expires": _iso_expires()}
        if own.settings.expose_access_token and current_session.access_token:
            answer["accessToken"] = current_session.access_token
        if current_session.error:
            answer["error"] = current_session.error
            if current_session.retry_after is not None:
                answer["retryAfter"] = current_session.retry_after
        if own.callbacks.session is not None:
            callback = current_app.ensure_sync(own.callbacks.session)
            answer = callback(answer, token=token)
            if not isinstance(answer, Mapping):
                raise TypeError("session_callback must return the session, a dict")
    return jsonify(answer)


def _note_failure(own: Runtime, error: CognitoAuthError) -> None:
    """Log what only whoever runs the application can mend as an ERROR."""
    reason = f": {error.__cause__}" if error.__cause__ else ""
    message, level = f"Login failed: {error}{reason}", logging.WARNING
    if isinstance(error, ProviderRejected):
        remedy = REMEDIES.get(error.error)
        message = f"{message} ({remedy})" if remedy else message
        level = logging.ERROR
    own.emit(
        signals.login_failed,
        "login_failed",
        message,
        level=level,
        error=error,
    )


def _asked_parameters() -> dict[str, str]:
    asked = request.args
    return {k: asked[k] for k in LINK_PARAMETERS & set(asked) if len(asked[k]) < 256}


def _arguments() -> dict[str, list[str]]:
    return request.args.to_dict(flat=False)


def _remember(own: Runtime, response: Response, transaction: Transaction) -> None:
    prefix = own.cookie_name()
    name, value = own.transactions.seal(prefix, transaction, fallback=own.home())
    room = cookie_size(name, value)
    for surplus in own.transactions.surplus(prefix, request.cookies, room):
        _forget(own, response, surplus)
    _set_pending(own, response, name, value, LIFETIME)


def _forget(own: Runtime, response: Response, name: str) -> None:
    if name in request.cookies:
        _set_pending(own, response, name, "", 0)


def _set_pending(
    own: Runtime, response: Response, name: str, value: str, max_age: int
) -> None:
    own.set_cookie(response, name, value, max_age=max_age, samesite="Lax")


def _is_first_return(own: Runtime, transaction: Transaction) -> bool:
    """Tell whether this answer came before, to be safe of a browser that sends twice.

    A code redeemed twice may end what the first redemption began (RFC 6749 4.1.2).
    """
    try:
        digest = hashlib.sha256(transaction.state.encode()).hexdigest()
        return own.cache.add(f"returned:{digest}", b"", LIFETIME)
    except CacheUnavailable:
        return True


def _without_transaction(own: Runtime, state: RequestSession) -> str:
    """Nobody here waits for this answer: reloaded, too late, or not ours."""
    state.load(refresh=False)
    if state.is_usable:
        return own.home()
    raise LoginError(
        "This sign-in was begun in another browser, took too long, or was finished "
        "before. Please start again."
    )


def _user(state: RequestSession) -> dict[str, Any]:
    return dict(state.session.token.user) if state.session else {}


def _csrf_token(state: RequestSession) -> str:
    return state.session.handle.csrf_token() if state.session else ""


def _check_own_form(state: RequestSession) -> None:
    """Raise unless a form of ours was sent: session-bound token, and our origin."""
    if not _is_same_origin():
        raise LoginError("This request did not come from this site.")
    sent = request.form.get("csrfToken", "")
    expected = _csrf_token(state)
    if expected and not hmac.compare_digest(sent.encode(), expected.encode()):
        raise LoginError("This page was out of date. Please try again.")


def _is_same_origin() -> bool:
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("Origin")
    configured = runtime().settings.redirect_uri
    ours = {runtime().origin()}
    if configured:
        parts = urlsplit(configured)
        ours.add(f"{parts.scheme}://{parts.netloc}")
    return origin in ours


def _provider_logout(own: Runtime) -> str:
    """Return Cognito's logout; our own page where that is not to be had."""
    target = own.settings.logout_uri or _external(own.after_logout())
    try:
        return logout_url(
            own.provider.metadata(),
            client_id=own.settings.client_id,
            logout_uri=target,
        )
    except (ProviderUnavailable, ProviderRejected) as error:
        _logger.warning("The browser stays signed in at the provider: %s", error)
        return own.after_logout()


def _external(path: str) -> str:
    return runtime().origin() + path


def _iso_expires() -> str:
    expires = current_session.expires
    return expires.isoformat().replace("+00:00", "Z") if expires else ""
