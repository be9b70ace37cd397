"""The local user pool: its state and its rules. It knows no HTTP."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from . import claims
from .families import (
    Family,
    RefreshToken,
    RefreshTokens,
    Rotation,
    digest,
    fingerprint,
)
from .faults import Fault, Faults, Kind, Occasion, RecordedRequest, sign_token
from .keys import Keyring, SigningKey
from .loopback import allows, base_url, require_loopback
from .recent import Recent, trim
from .users import DEFAULT_PASSWORD, Directory, User, add_default_users

if TYPE_CHECKING:
    import requests

    from .server import PoolServer

POOL_ID = "local_Ab12Cd34E"
SCOPES = ("openid", "email", "phone", "profile", "aws.cognito.signin.user.admin")
CODE_LIFETIME = 300  # seconds; Cognito guide, token-endpoint
BROWSER_LIFETIME = 3600  # seconds, not sliding; Cognito guide, …-managed-login


@dataclass
class AuthorizationCode:
    """What one authorization code stands for; it can be redeemed once."""

    client_id: str
    redirect_uri: str
    scope: str
    sub: str
    auth_time: int
    expires: float
    nonce: str | None = None
    resource: str | None = None
    code_challenge: str | None = None
    code_challenge_method: str | None = None

    def get_redirect_uri(self) -> str:
        """Return the URL that the code was sent to (asked by Authlib)."""
        return self.redirect_uri

    def get_scope(self) -> str:
        """Return the granted scopes (asked by Authlib)."""
        return self.scope


@dataclass(frozen=True)
class BrowserSession:
    """Who is signed in at the pool in one browser, since when (UNIX seconds)."""

    sub: str
    auth_time: int
    expires: float


class LocalUserPool:
    """A Cognito user pool with one app client, on this machine, to develop and test on.

    Use it as a context manager, or call `start` and `stop`. Every setting that is an
    attribute may be changed while the pool runs.

    Args:
        port: the TCP port; 0 takes a free one, which later starts keep.
        host: a loopback address or `localhost`.
        pool_id: the last part of the issuer.
        client_id: of the app client; None derives one from `pool_id`, so that it
            survives restarts.
        client_secret: `"generate"` derives one in the same way; None makes the client
            public.
        redirect_uris: the allowed callback URLs; matched exactly.
        logout_uris: the allowed sign-out URLs; matched exactly.
        allow_any_loopback_uri: where no URLs are given, accept every loopback one.
        scopes: of resource servers, beside the standard ones.
        rotation: is refresh-token rotation on?
        grace: seconds that a rotated refresh token goes on working, 0 to 60.
        reuse_revokes_family: does reuse after the grace period end the whole session?
            (Cognito documents neither.)
        access_token_validity: seconds, 1 to 86400. Cognito's least is 300.
        id_token_validity: seconds; None: as the access token.
        refresh_token_validity: seconds, counted from the sign-in whatever rotates.
        quota: token calls per second before 429 is answered; None: no limit.
        domain: False imitates a pool without a domain: nobody can sign in.
        clock: returns UNIX seconds; all times of the pool come from it.

    Attributes:
        counters: requests by endpoint (`"token"`, `"token.refresh_token"`, …), and
            `"RefreshTokenReuse"`.
        requests: what was received, oldest first.
        rotations: which refresh token replaced which.
        complaints: what real Cognito lets pass although a client should not send it.
        faults: what is to go wrong; see `Faults`.

    Raises:
        ValueError: the host is not a loopback one, or a number is out of range.
    """

    def __init__(
        self,
        port: int = 0,
        host: str = "127.0.0.1",
        *,
        pool_id: str = POOL_ID,
        client_id: str | None = None,
        client_secret: str | None = "generate",  # noqa: S107 - a word, not a secret
        redirect_uris: Iterable[str] = (),
        logout_uris: Iterable[str] = (),
        allow_any_loopback_uri: bool = True,
        scopes: Iterable[str] = (),
        rotation: bool = True,
        grace: float = 0,
        reuse_revokes_family: bool = False,
        access_token_validity: int = 3600,
        id_token_validity: int | None = None,
        refresh_token_validity: int = 2_592_000,
        quota: int | None = None,
        domain: bool = True,
        default_users: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.host = require_loopback(host)
        self.pool_id = pool_id
        self.client_id = client_id or _derived(f"{pool_id} client", 26)
        self.client_secret = (
            _derived(f"{pool_id} {self.client_id} secret", 51)
            if client_secret == "generate"  # noqa: S105
            else client_secret
        )
        self.redirect_uris = frozenset(redirect_uris)
        self.logout_uris = frozenset(logout_uris)
        self.allow_any_loopback_uri = allow_any_loopback_uri
        self.scopes = frozenset({*SCOPES, *scopes})
        self.rotation = rotation
        self.grace = _within("grace", grace, 0, 60)
        self.reuse_revokes_family = reuse_revokes_family
        self.access_token_validity = int(
            _within("access_token_validity", access_token_validity, 1, 86_400)
        )
        self.id_token_validity = id_token_validity
        self.refresh_token_validity = refresh_token_validity
        self.quota = quota
        self.domain = domain
        self.clock = clock

        self.lock = threading.RLock()
        self.faults = Faults()
        self.users = Directory(pool_id)
        if default_users:
            add_default_users(self.users)
        self.counters: Counter[str] = Counter()
        self.requests: list[RecordedRequest] = []
        self.complaints: list[str] = []
        self.rotations: list[Rotation] = []

        self._port = port
        self._keys = Keyring()
        self._codes: Recent[str, AuthorizationCode] = Recent()
        self._browsers: Recent[str, BrowserSession] = Recent()
        self._refresh_tokens = RefreshTokens()
        self._access_tokens: Recent[str, tuple[Family, float]] = Recent()
        self._token_calls: deque[float] = deque()
        self._server: PoolServer | None = None

    # Running

    def start(self) -> Self:
        """Listen, in a daemon thread, and return the pool.

        Raises:
            OSError: the port is taken.
            RuntimeError: the pool runs already.
        """
        from .server import PoolServer

        if self._server is not None:
            raise RuntimeError("the pool is running already")
        self._server = PoolServer(self)
        self._port = self._server.port
        self._server.start()
        return self

    def stop(self) -> None:
        """Free the port, break open connections, wait for the threads.

        A stopped pool keeps its state, and `start` takes the same port again: this is
        how to imitate a refused connection.
        """
        server, self._server = self._server, None
        if server is not None:
            server.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """The TCP port; 0 as long as none was taken."""
        return self._port

    @property
    def url(self) -> str:
        """The base URL, without a final slash.

        Raises:
            RuntimeError: the port is 0 and the pool was never started.
        """
        if not self._port:
            raise RuntimeError("start the pool first: its port is not known yet")
        return base_url(self.host, self._port)

    @property
    def issuer(self) -> str:
        """The issuer; RuntimeError as for `url`."""
        return f"{self.url}/{self.pool_id}"

    def config(self) -> dict[str, str | None]:
        """Return `COGNITO_ISSUER`, `COGNITO_CLIENT_ID` and `COGNITO_CLIENT_SECRET`."""
        return {
            "COGNITO_ISSUER": self.issuer,
            "COGNITO_CLIENT_ID": self.client_id,
            "COGNITO_CLIENT_SECRET": self.client_secret,
        }

    # Users

    def add_user(
        self,
        email: str,
        *,
        password: str = DEFAULT_PASSWORD,
        name: str | None = None,
        groups: Iterable[str] = (),
        attributes: Mapping[str, Any] | None = None,
        provider: str | None = None,
    ) -> User:
        """Add a user, or replace the one with this address.

        Args:
            email: the address to sign in with.
            password: in clear; the default is shown on the sign-in page.
            name: the display name.
            groups: for `cognito:groups`.
            attributes: more claims, `custom:*` among them.
            provider: the name of an identity provider, for a federated user.
        """
        with self.lock:
            return self.users.add(
                email,
                password=password,
                name=name,
                groups=groups,
                attributes=attributes,
                provider=provider,
            )

    def disable_user(self, email: str) -> None:
        """Let the user neither sign in nor refresh; KeyError for an unknown one."""
        with self.lock:
            self.users.get(email).enabled = False

    def enable_user(self, email: str) -> None:
        """Undo `disable_user`; KeyError for an unknown one."""
        with self.lock:
            self.users.get(email).enabled = True

    def delete_user(self, email: str) -> None:
        """Delete the user; refresh tokens die with it. KeyError for an unknown one."""
        with self.lock:
            self.users.remove(email)

    # The sign-in page's part

    def open_browser(self, user: User) -> str:
        """Sign `user` in at the pool itself; return the cookie's value."""
        now = self.clock()
        cookie = secrets.token_urlsafe(32)
        with self.lock:
            self._browsers[cookie] = BrowserSession(
                user.sub, int(now), now + BROWSER_LIFETIME
            )
        return cookie

    def browser(self, cookie: str | None) -> BrowserSession | None:
        """Return who is signed in by this cookie, or None once it is too old."""
        session = self._browsers.get(cookie or "")
        if session is None or self.clock() >= session.expires:
            return None
        return session if self.users.by_sub(session.sub) else None

    def close_browser(self, cookie: str | None) -> None:
        """Sign out at the pool itself. Tokens live on, as with Cognito."""
        with self.lock:
            self._browsers.pop(cookie or "", None)

    def issue_code(self, **values: Any) -> str:
        """Make an authorization code out of `AuthorizationCode`'s fields."""
        code = str(uuid.uuid4())
        expires = self.clock() + CODE_LIFETIME
        with self.lock:
            self._codes[code] = AuthorizationCode(expires=expires, **values)
        return code

    def take_code(self, code: str) -> AuthorizationCode | None:
        """Use a code up and return what it stood for, or None.

        A code is spent by the first attempt, whatever else is wrong with that
        (aws-amplify/amplify-js#6347).
        """
        with self.lock:
            found = self._codes.pop(code, None)
        return found if found and self.clock() < found.expires else None

    def redirect_allowed(self, uri: str) -> bool:
        """Tell whether `uri` is an allowed callback URL."""
        return allows(uri, self.redirect_uris, self.allow_any_loopback_uri)

    def logout_allowed(self, uri: str) -> bool:
        """Tell whether `uri` is an allowed sign-out URL."""
        return allows(uri, self.logout_uris, self.allow_any_loopback_uri)

    # Tokens

    def tokens_for_code(self, code: AuthorizationCode, user: User) -> dict[str, Any]:
        """Answer the redemption of a code: a new family of tokens."""
        family = Family(
            origin_jti=str(uuid.uuid4()),
            sub=user.sub,
            client_id=code.client_id,
            scope=code.scope,
            auth_time=code.auth_time,
            expires=self.clock() + self.refresh_token_validity,
            resource=code.resource,
        )
        with self.lock:
            answer = self._tokens(family, user, "login", code.nonce)
            answer["refresh_token"] = self._refresh_tokens.issue(family)
        return answer

    def find_refresh_token(self, token: str) -> RefreshToken | None:
        """Return what is known of a refresh token if it can be redeemed, else None.

        The reuse of a rotated token is counted.
        """
        found = self._refresh_tokens.find(token)
        if found is None or self._usable(found):
            return found
        with self.lock:
            self._note_reuse(found)
        return None

    def _usable(self, found: RefreshToken) -> bool:
        known = self.users.by_sub(found.family.sub) is not None
        return known and found.live(self.clock(), self.grace)

    def _note_reuse(self, found: RefreshToken) -> None:
        if found.replaced is None or found.family.revoked:
            return
        self.counters["RefreshTokenReuse"] += 1
        if self.reuse_revokes_family:
            found.family.revoked = True

    def tokens_for_refresh(self, found: RefreshToken, user: User) -> dict[str, Any]:
        """Answer the redemption of a refresh token; rotate it where that is on."""
        with self.lock:
            answer = self._tokens(found.family, user, "refresh", None)
            if self.rotation:
                answer["refresh_token"] = self._rotate(found, user)
        return answer

    def _rotate(self, found: RefreshToken, user: User) -> str:
        new = self._refresh_tokens.issue(found.family)
        # A second use within the grace period does not prolong that.
        found.replaced = self.clock() if found.replaced is None else found.replaced
        self.rotations.append(
            Rotation(self.clock(), user.email, found.fingerprint, fingerprint(new))
        )
        trim(self.rotations)
        return new

    def _tokens(
        self, family: Family, user: User, at: Occasion, nonce: str | None
    ) -> dict[str, Any]:
        now, lifetime = self.clock(), self.access_token_validity
        shared = claims.shared_claims(user, family, self.issuer, int(now), lifetime)
        access_token = self._sign(
            "access_token",
            at,
            claims.access_claims(shared, user, family),
            self._keys.access_token,
        )
        self._access_tokens[digest(access_token)] = family, now + lifetime
        answer = {
            "access_token": access_token,
            "expires_in": lifetime,
            "token_type": "Bearer",
        }
        if "openid" not in family.scope.split():
            return answer
        id_token = self._id_token(family, user, at, access_token, nonce)
        return {"id_token": id_token, **answer}

    def _id_token(
        self,
        family: Family,
        user: User,
        at: Occasion,
        access_token: str,
        nonce: str | None,
    ) -> str:
        now = int(self.clock())
        lifetime = self.id_token_validity or self.access_token_validity
        shared = claims.shared_claims(user, family, self.issuer, now, lifetime)
        content = claims.id_claims(shared, user, family, access_token, nonce)
        return self._sign("id_token", at, content, self._keys.id_token)

    def _sign(
        self, kind: Kind, at: Occasion, content: dict[str, Any], key: SigningKey
    ) -> str:
        return sign_token(content, key, self.faults.tamper_for(kind, at))

    def access_token_user(self, token: str) -> tuple[User, str] | None:
        """Return user and scopes of a good access token, or None."""
        family, expires = self._access_tokens.get(digest(token), (None, 0.0))
        if family is None or family.revoked or self.clock() >= expires:
            return None
        user = self.users.by_sub(family.sub)
        return (user, family.scope) if user else None

    def is_access_token(self, token: str) -> bool:
        """Tell whether this is one of the pool's access tokens, dead or alive."""
        return digest(token) in self._access_tokens

    # Ending sessions

    def revoke(self, refresh_token: str) -> None:
        """Revoke a refresh token and all that descends from its sign-in.

        Source: Cognito guide, revocation-endpoint.
        """
        with self.lock:
            found = self._refresh_tokens.find(refresh_token)
            if found is not None:
                found.family.revoked = True

    def revoke_all(self, email: str | None = None) -> None:
        """Revoke every session, or those of one user (KeyError if unknown)."""
        sub = self.users.get(email).sub if email else None
        with self.lock:
            for token in self._refresh_tokens:
                if sub in (None, token.family.sub):
                    token.family.revoked = True

    def live_refresh_tokens(self) -> int:
        """Count the refresh tokens that could be redeemed now."""
        return sum(self._usable(token) for token in self._refresh_tokens)

    def is_live(self, refresh_token: str) -> bool:
        """Tell whether this refresh token could be redeemed now."""
        found = self._refresh_tokens.find(refresh_token)
        return found is not None and self._usable(found)

    # Keys and documents

    def rotate_keys(self, *, keep_old: bool = False) -> None:
        """Sign with new keys from now on; drop the old ones unless `keep_old`."""
        with self.lock:
            self._keys.rotate(keep_old=keep_old)

    def jwks(self) -> dict[str, Any]:
        """Return the JWKS document."""
        return {"keys": [*self.faults.extra_keys, *self._keys.jwks()]}

    def discovery(self) -> dict[str, Any]:
        """Return the discovery document, as captured in localstack/localstack#12914."""
        base = f"{self.url}/oauth2" if self.domain else self.issuer
        logout = self.url if self.domain else self.issuer
        document = {
            "authorization_endpoint": f"{base}/authorize",
            "end_session_endpoint": f"{logout}/logout",
            "id_token_signing_alg_values_supported": ["RS256"],
            "issuer": self.issuer,
            "jwks_uri": f"{self.issuer}/.well-known/jwks.json",
            "response_types_supported": ["code", "token"],
            "revocation_endpoint": f"{base}/revoke",
            "scopes_supported": ["openid", "email", "phone", "profile"],
            "subject_types_supported": ["public"],
            "token_endpoint": f"{base}/token",
            "token_endpoint_auth_methods_supported": [
                "client_secret_basic",
                "client_secret_post",
            ],
            "userinfo_endpoint": f"{base}/userInfo",
        }
        merged = document | self.faults.discovery
        return {name: value for name, value in merged.items() if value is not None}

    # Accounts of what happened

    def record(self, request: RecordedRequest) -> Fault | None:
        """Count and log a request; return the fault that it is to meet, or None."""
        with self.lock:
            self.counters.update(request.names)
            self.requests.append(request)
            trim(self.requests)
        return self.faults.take(request)

    def over_quota(self) -> bool:
        """Count one token call; tell whether it is more than `quota` in a second."""
        if self.quota is None:
            return False
        now = self.clock()
        with self.lock:
            while self._token_calls and self._token_calls[0] <= now - 1:
                self._token_calls.popleft()
            self._token_calls.append(now)
            return len(self._token_calls) > self.quota

    def sign_in(
        self,
        session: requests.Session | None,
        authorize_url: str,
        email: str = "alice@example.com",
    ) -> str:
        """Do the browser's part of a login over HTTP.

        Args:
            session: keeps the pool's own cookie between calls; None: a fresh browser.
            authorize_url: where the application redirected to.
            email: who signs in.

        Returns:
            The callback URL, which was not called, with `code` or `error` and `state`.

        Raises:
            KeyError: there is no such user.
            RuntimeError: the pool showed a page instead; the message says which.
        """
        from .browser import sign_in

        return sign_in(session, authorize_url, self.users.get(email), self.url)


def _derived(name: str, length: int) -> str:
    digits = int.from_bytes(hashlib.sha512(name.encode()).digest(), "big")
    letters = "0123456789abcdefghijklmnopqrstuvwxyz"
    text = ""
    while len(text) < length:
        digits, rest = divmod(digits, len(letters))
        text += letters[rest]
    return text


def _within(name: str, value: float, least: float, most: float) -> float:
    if not least <= value <= most:
        raise ValueError(f"{name} must be {least} to {most} seconds, not {value}")
    return value
