"""Authlib's authorization server, bent to what Cognito does.

Where the two differ (status codes, bare error bodies, how clients authenticate, what a
refresh answers), Cognito wins; the source is the Cognito guide, token-endpoint,
authorization-endpoint and revocation-endpoint.
"""

from __future__ import annotations

import hmac
import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import InvalidClientError, InvalidGrantError
from authlib.oauth2.rfc6749.errors import InvalidRequestError
from authlib.oauth2.rfc6749.grants import AuthorizationCodeGrant, RefreshTokenGrant
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7636 import CodeChallenge
from flask import Flask, Response, request

from .families import RefreshToken
from .pool import AuthorizationCode, BrowserSession, LocalUserPool
from .users import User

_JSON = [
    ("Content-Type", "application/json;charset=UTF-8"),
    ("Cache-Control", "no-cache, no-store, max-age=0, must-revalidate"),
    ("Pragma", "no-cache"),
]
_GRANTS = frozenset({"authorization_code", "refresh_token"})


class _Answer(dict[str, Any]):
    """Tokens for the wire; Authlib logs this, so its `repr` holds none of them."""

    def __repr__(self) -> str:
        return f"<tokens: {', '.join(self)}>"


@dataclass(frozen=True)
class Client:
    """The pool's one app client, as Authlib asks for it."""

    pool: LocalUserPool
    client_id: str

    def get_client_id(self) -> str:
        """Return the client id."""
        return self.client_id

    def get_default_redirect_uri(self) -> None:
        """Return None: Cognito wants the URL named."""

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        """Tell whether this callback URL is allowed."""
        return self.pool.redirect_allowed(redirect_uri)

    def check_response_type(self, response_type: str) -> bool:
        """Tell whether this response type is allowed: the code flow alone is."""
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        """Tell whether this grant is allowed."""
        return grant_type in _GRANTS

    def get_allowed_scope(self, scope: str | None) -> str:
        """Return the scopes to grant: without a wish, all of the client's."""
        return scope or " ".join(sorted(self.pool.scopes))

    def accepts(self, secret: str | None) -> bool:
        """Tell whether this secret is right; a public client must send none."""
        expected = self.pool.client_secret
        if expected is None or secret is None:
            return expected == secret
        return hmac.compare_digest(expected.encode(), secret.encode())


class CodeGrant(AuthorizationCodeGrant):  # type: ignore[misc]
    """The authorization code grant: codes live 5 minutes and are spent by one try."""

    TOKEN_RESPONSE_HEADER = _JSON

    def generate_authorization_code(self) -> str:
        """Let the pool make the code, which `save_authorization_code` would only copy.

        The code is a UUID, as Cognito's are.
        """
        payload = self.request.payload
        signed_in: BrowserSession = self.request.user
        return _pool(self).issue_code(
            client_id=payload.client_id,
            redirect_uri=payload.redirect_uri,
            scope=self.request.scope,
            sub=signed_in.sub,
            auth_time=signed_in.auth_time,
            nonce=payload.data.get("nonce"),
            resource=payload.data.get("resource"),
            code_challenge=payload.data.get("code_challenge"),
            code_challenge_method=payload.data.get("code_challenge_method"),
        )

    def save_authorization_code(self, code: str, request: Any) -> None:
        """Do nothing: the pool has it."""

    def query_authorization_code(
        self, code: str, client: Client
    ) -> AuthorizationCode | None:
        """Spend the code."""
        return _pool(self).take_code(code)

    def delete_authorization_code(self, authorization_code: AuthorizationCode) -> None:
        """Do nothing: it is spent."""

    def authenticate_user(self, authorization_code: AuthorizationCode) -> User | None:
        """Return whose code it was, or None for a disabled or deleted user."""
        return _pool(self).users.by_sub(authorization_code.sub)

    def generate_token(self, user: User, **_: Any) -> _Answer:
        """Start a family of tokens."""
        code = self.request.authorization_code
        return _Answer(_pool(self).tokens_for_code(code, user))

    def save_token(self, token: _Answer) -> None:
        """Do nothing: the pool knows what it issued."""


class RefreshGrant(RefreshTokenGrant):  # type: ignore[misc]
    """The refresh grant, with rotation, grace and family as Cognito has them."""

    TOKEN_RESPONSE_HEADER = _JSON

    def authenticate_refresh_token(self, refresh_token: str) -> RefreshToken | None:
        """Return what is known of a token that can be redeemed, or None."""
        return _pool(self).find_refresh_token(refresh_token)

    def authenticate_user(self, refresh_token: RefreshToken) -> User:
        """Return whose token it is; disabled users were refused before."""
        user = _pool(self).users.by_sub(refresh_token.family.sub)
        if user is None:
            raise InvalidGrantError
        return user

    def issue_token(self, user: User, refresh_token: RefreshToken) -> _Answer:
        """Issue new tokens; the old refresh token is rotated in the same step."""
        return _Answer(_pool(self).tokens_for_refresh(refresh_token, user))

    def save_token(self, token: _Answer) -> None:
        """Do nothing: the pool knows what it issued."""

    def revoke_old_credential(self, refresh_token: RefreshToken) -> None:
        """Do nothing: the pool has rotated it."""


class S256Challenge(CodeChallenge):  # type: ignore[misc]
    """PKCE (RFC 7636) with S256 alone; a challenge needs its method and vice versa."""

    SUPPORTED_CODE_CHALLENGE_METHOD = ["S256"]

    def validate_code_challenge(self, grant: Any, redirect_uri: str) -> None:
        """Refuse a challenge whose method is not said, then do as Authlib does."""
        data = grant.request.payload.data
        if data.get("code_challenge") and not data.get("code_challenge_method"):
            raise InvalidRequestError("Missing 'code_challenge_method'")
        super().validate_code_challenge(grant, redirect_uri)


class Revocation(RevocationEndpoint):  # type: ignore[misc]
    """Revokes the whole session of a refresh token; 200 also for unknown ones."""

    def create_endpoint_response(self, request: Any) -> tuple[int, str, list[Any]]:
        """Answer with an empty body.

        Raises:
            InvalidRequestError: the token is missing.
            OAuth2Error: `unsupported_token_type` for an access token.
        """
        self.authenticate_endpoint_client(request)
        token = request.form.get("token")
        if not token:
            raise InvalidRequestError
        if _pool(self).is_access_token(token):
            raise OAuth2Error(error="unsupported_token_type")
        _pool(self).revoke(token)
        return 200, "", [("Content-Type", "application/json;charset=UTF-8")]


class CognitoServer(AuthorizationServer):  # type: ignore[misc]
    """Authlib's server, with Cognito's client authentication and error bodies."""

    def __init__(self, app: Flask, pool: LocalUserPool) -> None:
        self.pool = pool
        super().__init__(app, self._find_client, None)
        self.register_grant(CodeGrant, [S256Challenge(required=False)])
        self.register_grant(RefreshGrant)
        self.register_endpoint(Revocation)

    def _find_client(self, client_id: str) -> Client | None:
        return (
            Client(self.pool, client_id) if client_id == self.pool.client_id else None
        )

    def validate_requested_scope(self, scope: str | None) -> None:
        """Refuse unknown scopes by the error that Cognito really sends.

        Source: seen in the wild; the guide says `invalid_scope`.
        """
        if set((scope or "").split()) - self.pool.scopes:
            raise InvalidRequestError("invalid_scope")

    def authenticate_client(
        self, request: Any, methods: Iterable[str], endpoint: str = "token"
    ) -> Client:
        """Authenticate by HTTP Basic, by the body, or by the id of a public client.

        Raises:
            InvalidClientError: no such client, or not its secret.
        """
        client_id, secret, method = self._credentials()
        client = self._find_client(client_id or "")
        if client is None or not client.accepts(secret):
            raise InvalidClientError(status_code=401 if endpoint != "token" else 400)
        request.auth_method = method
        return client

    def _credentials(self) -> tuple[str | None, str | None, str]:
        form, basic = request.values, request.authorization
        if basic is None or basic.type != "basic":
            method = "client_secret_post" if "client_secret" in form else "none"
            return form.get("client_id"), form.get("client_secret"), method
        if "client_secret" in form:
            self.pool.complaints.append("client secret both in Basic and in the body")
        if form.get("client_id", basic.username) != basic.username:
            return None, None, "client_secret_basic"
        return basic.username, basic.password, "client_secret_basic"

    def handle_error_response(self, request: Any, error: OAuth2Error) -> Response:
        """Answer `{"error": …}` and nothing more, whatever Authlib has to say."""
        code = error.error
        if code == "unsupported_grant_type":
            code = _grant_error(request.payload.grant_type)
        return self.handle_response(error.status_code, {"error": code}, _JSON)

    def handle_response(self, status: int, body: Any, headers: Any) -> Response:
        """Write JSON without blanks and add a request id, as Cognito does."""
        if isinstance(body, dict):
            body = json.dumps(body, separators=(",", ":"))
        response: Response = super().handle_response(status, body, headers)
        response.headers["x-amz-cognito-request-id"] = str(uuid.uuid4())
        return response


def _pool(part: CodeGrant | RefreshGrant | Revocation) -> LocalUserPool:
    pool: LocalUserPool = part.server.pool
    return pool


def _grant_error(grant_type: str | None) -> str:
    if not grant_type:
        return "invalid_request"
    known = grant_type == "client_credentials"
    return "unauthorized_client" if known else "unsupported_grant_type"
