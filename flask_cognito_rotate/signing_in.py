"""From an authorization response to a session: exchange, verify, ask, begin."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from . import signals
from .errors import CacheUnavailable, InvalidTokenError, LoginError, ProviderRejected
from .model import StoredToken, Tokens, Transaction, user_of
from .protocol.authorization import CallbackAnswer, check_issuer
from .request_session import RequestSession, apply_jwt_callback
from .runtime import JwtCallback, Runtime, local_next
from .sessions import Handle, Session

_logger = logging.getLogger("flask_cognito_rotate")


def sign_in(
    own: Runtime,
    state: RequestSession,
    transaction: Transaction,
    answer: CallbackAnswer,
) -> str:
    """Put a new session in the place of whatever the browser carried.

    Returns:
        Where to go on: a path of this application.

    Raises:
        LoginError: refused, by Cognito, by a check or by `jwt_callback`.
        ProviderUnavailable, ProviderRejected
    """
    check_issuer(answer, own.provider.metadata())
    tokens = _exchange(own, answer.code, transaction)
    try:
        claims = own.provider.verify_login(tokens, nonce=transaction.nonce)
        new = _begin_session(own, tokens, claims)
        if own.callbacks.jwt is not None:
            callback = own.app.ensure_sync(own.callbacks.jwt)
            new = _ask_application(callback, new, tokens)
        state.check_size(new)
    except BaseException as error:
        own.rotation.revoke(tokens.refresh_token)
        if not isinstance(error, InvalidTokenError):
            raise
        raise LoginError(
            "The sign-in service sent an answer that cannot be trusted."
        ) from error
    _warn_of_short_tokens(own, tokens)
    state.end("login")
    state.start(new)
    own.emit(
        signals.user_logged_in,
        "user_logged_in",
        "User logged in",
        user=dict(new.token.user),
        claims=claims,
    )
    return local_next(transaction.next) or own.home()


def _exchange(own: Runtime, code: str, transaction: Transaction) -> Tokens:
    try:
        return own.provider.exchange_code(
            code=code,
            redirect_uri=transaction.redirect_uri,
            code_verifier=transaction.code_verifier,
        )
    except ProviderRejected as error:
        if error.error not in {"invalid_grant", "unsupported_token_type"}:
            raise
        raise LoginError(
            "The sign-in service did not accept this sign-in. Please start again."
        ) from error


def _ask_application(callback: JwtCallback, new: Session, tokens: Tokens) -> Session:
    account = {
        "provider": "cognito",
        "type": "oidc",
        "providerAccountId": new.token.user["id"],
        "access_token": tokens.access_token,
        "expires_at": tokens.expires_at,
        "refresh_token": tokens.refresh_token,
        "id_token": tokens.id_token,
        "scope": tokens.scope,
    }
    token = apply_jwt_callback(callback, new.token, account=account, trigger="signIn")
    return replace(new, token=token)


def _warn_of_short_tokens(own: Runtime, tokens: Tokens) -> None:
    leeway = own.settings.refresh_leeway
    if tokens.expires_at - own.clock() <= leeway:
        _logger.warning(
            "Access tokens live no longer than COGNITO_REFRESH_LEEWAY (%s s): almost "
            "every request refreshes. Make the leeway shorter.",
            leeway,
        )


def _begin_session(
    runtime: Runtime, tokens: Tokens, claims: Mapping[str, Any]
) -> Session:
    """Make the session of a login, under a new id and a new key."""
    handle = Handle.new()
    auth_time = claims.get("auth_time")
    token = StoredToken(
        sid=handle.sid,
        access_token=tokens.access_token,
        access_token_expires=tokens.expires_at,
        refresh_token=tokens.refresh_token,
        id_token_claims=dict(claims),
        user=user_of(claims),
        iat=int(runtime.clock()),
        auth_time=auth_time if isinstance(auth_time, int) else None,
    )
    try:
        cache_id: str | None = runtime.cache.id
    except CacheUnavailable as error:
        _logger.warning("COGNITO_CACHE fails at a login: %s", error)
        cache_id = None
    return Session(token, handle.key, 0, cache_id)
