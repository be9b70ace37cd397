"""What the pool can be told to do wrong, and what it remembers of requests."""

from __future__ import annotations

import hashlib
import hmac
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from .keys import SigningKey, b64url, foreign_key, signing_input

Endpoint = str
Occasion = Literal["login", "refresh"]
Kind = Literal["id_token", "access_token"]
KINDS = ("id_token", "access_token")

ENDPOINTS = frozenset(
    {
        "authorize",
        "discovery",
        "jwks",
        "login",
        "logout",
        "revoke",
        "token",
        "token.authorization_code",
        "token.refresh_token",
        "userinfo",
    }
)


@dataclass(frozen=True)
class RecordedRequest:
    """A request that the pool received; credentials stay out of its `repr`.

    Attributes:
        endpoint: ``"token"``, ``"revoke"``, ``"jwks"``, ``"discovery"``,
            ``"userinfo"``, ``"authorize"``, ``"login"`` or ``"logout"``.
        form: the first value of every form field.
        query: the first value of every query parameter.
        headers: by name as sent, in title case (``Authorization``).
        fields: form field names in the order received, repetitions included.
        at: UNIX seconds by the pool's clock.
    """

    endpoint: Endpoint
    method: str
    at: float
    fields: tuple[str, ...] = ()
    form: Mapping[str, str] = field(default_factory=dict, repr=False)
    query: Mapping[str, str] = field(default_factory=dict, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def names(self) -> tuple[Endpoint, ...]:
        """What faults and counters may call this request, most exact name first."""
        if self.endpoint != "token" or "grant_type" not in self.form:
            return (self.endpoint,)
        return (f"token.{self.form['grant_type']}", "token")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One answer that goes wrong. What is not given stays as it would have been.

    Attributes:
        status: the HTTP status.
        headers: added to the answer, over those of the same name.
        body: raw bytes of the answer.
        edit: takes the decoded JSON answer, returns what is sent in its place.
        work: is the request carried out (a code redeemed, a token rotated)? By
            default it is unless `status` or `body` is given or `reset` is "before".
        delay: seconds to wait before the work.
        delay_after: seconds to wait between the work and the answer.
        before: called before the work, e.g. ``pool.rotate_keys`` or an event's wait.
        after: called between the work and the answer.
        reset: break the connection "before" the work is done, or "after" it, so that
            the answer is lost on the wire.
        half: announce the whole body, send half of it and break the connection.
        drip: `(n, seconds)`: send n bytes, wait, and so on.
    """

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    edit: Callable[[Any], Any] | None = None
    work: bool | None = None
    delay: float = 0.0
    delay_after: float = 0.0
    before: Callable[[], object] | None = None
    after: Callable[[], object] | None = None
    reset: Literal["before", "after"] | None = None
    half: bool = False
    drip: tuple[int, float] | None = None

    @property
    def works(self) -> bool:
        """Tell whether the request is carried out."""
        if self.reset == "before":
            return False
        if self.work is not None:
            return self.work
        return self.status is None and self.body is None


@dataclass(frozen=True, kw_only=True)
class Tamper:
    """Changes to a token before and after it is signed.

    Attributes:
        claims: takes the claims, returns those to be signed (any JSON value).
        header: takes the JOSE header, returns the one to be sent.
        sign: takes the signing input and the right key, returns the signature.
        token: takes the finished compact token, returns the one that is sent.
    """

    claims: Callable[[dict[str, Any]], Any] | None = None
    header: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    sign: Callable[[bytes, SigningKey], bytes] | None = None
    token: Callable[[str], str] | None = None

    @classmethod
    def alg_none(cls, spelling: str = "none") -> Tamper:
        """Claim that the token needs no signature, and send none (RFC 8725, 2.1)."""
        return cls(
            header=lambda header: {**header, "alg": spelling},
            sign=lambda _message, _key: b"",
        )

    @classmethod
    def bad_signature(cls) -> Tamper:
        """Spoil every byte of the signature."""
        return cls(sign=lambda message, key: bytes(b ^ 0x5A for b in key.sign(message)))

    @classmethod
    def truncated_signature(cls) -> Tamper:
        """Leave the second half of the signature out."""
        return cls(sign=lambda message, key: key.sign(message)[:128])

    @classmethod
    def foreign_key(cls) -> Tamper:
        """Sign with a key that is not in the JWKS, under the `kid` of one that is."""
        return cls(sign=lambda message, _key: foreign_key().sign(message))

    @classmethod
    def hs256(cls, secret: bytes) -> Tamper:
        """Sign with HMAC over `secret` (RFC 8725, 2.1: algorithm confusion)."""
        return cls(
            header=lambda header: {**header, "alg": "HS256"},
            sign=lambda message, _key: hmac.digest(secret, message, hashlib.sha256),
        )

    @classmethod
    def other_algorithm(cls, alg: Literal["RS384", "RS512", "PS256"]) -> Tamper:
        """Sign with the right key but another algorithm, and say so."""
        return cls(
            header=lambda header: {**header, "alg": alg},
            sign=lambda message, key: _sign_as(alg, message, key),
        )


def _sign_as(alg: str, message: bytes, key: SigningKey) -> bytes:
    if alg == "PS256":
        pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
        return key.private.sign(message, pss, hashes.SHA256())
    algorithm = hashes.SHA384() if alg == "RS384" else hashes.SHA512()
    return key.private.sign(message, padding.PKCS1v15(), algorithm)


def sign_token(claims: dict[str, Any], key: SigningKey, tamper: Tamper | None) -> str:
    """Make a compact JWS (RFC 7515, section 7.1) of `claims`, tampered with or not."""
    tamper = tamper or Tamper()
    header = {"kid": key.kid, "alg": "RS256"}
    if tamper.header is not None:
        header = tamper.header(header)
    content = tamper.claims(claims) if tamper.claims is not None else claims
    message = signing_input(header, content)
    sign = tamper.sign or _sign
    token = f"{message}.{b64url(sign(message.encode(), key))}"
    return tamper.token(token) if tamper.token is not None else token


def _sign(message: bytes, key: SigningKey) -> bytes:
    return key.sign(message)


class Faults:
    """The pool's bad behaviour, by endpoint. Safe to change while the pool runs.

    Endpoints are named as in `RecordedRequest`; ``"token.refresh_token"`` and
    ``"token.authorization_code"`` go before ``"token"``, what is queued goes before
    what stands.

    Attributes:
        discovery: merged into the discovery document; None removes a field.
        extra_keys: put before the real keys in the JWKS; any JSON values.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reset()

    def _reset(self) -> None:
        self._queues: dict[Endpoint, deque[Fault | None]] = defaultdict(deque)
        self._standing: dict[Endpoint, Fault] = {}
        self._tampers: dict[tuple[str, str], Tamper] = {}
        self.discovery: dict[str, Any] = {}
        self.extra_keys: list[Any] = []

    def queue(self, endpoint: Endpoint, *faults: Fault | None) -> None:
        """Script the next answers of `endpoint`, in order; None is a right answer.

        Raises:
            ValueError: no endpoint has this name.
        """
        with self._lock:
            self._queues[_known(endpoint)].extend(faults)

    def always(self, endpoint: Endpoint, fault: Fault) -> None:
        """Let `endpoint` answer like this until `clear`.

        Raises:
            ValueError: no endpoint has this name.
        """
        with self._lock:
            self._standing[_known(endpoint)] = fault

    def tamper(
        self,
        kind: Kind,
        tamper: Tamper | None = None,
        *,
        at: Occasion | None = None,
        claims: Callable[[dict[str, Any]], Any] | None = None,
    ) -> None:
        """Tamper with every token of this kind until `clear`.

        Args:
            kind: ``"id_token"`` or ``"access_token"``.
            tamper: what to do with it, or None and `claims`.
            at: ``"login"`` or ``"refresh"``; None: at both.
            claims: short for ``Tamper(claims=claims)``.
        """
        occasions = (at,) if at else ("login", "refresh")
        if kind not in KINDS or not set(occasions) <= {"login", "refresh"}:
            raise ValueError(
                f"no {kind!r} at {at!r}; there are {KINDS} at login, refresh"
            )
        with self._lock:
            for occasion in occasions:
                self._tampers[kind, occasion] = tamper or Tamper(claims=claims)

    def clear(self, endpoint: Endpoint | None = None) -> None:
        """Behave again: at `endpoint`, or altogether (tokens and keys included)."""
        with self._lock:
            if endpoint is None:
                self._reset()
                return
            self._queues.pop(_known(endpoint), None)
            self._standing.pop(endpoint, None)

    def waiting(self, endpoint: Endpoint) -> int:
        """Count the scripted answers that `endpoint` has not given yet."""
        with self._lock:
            return len(self._queues[_known(endpoint)])

    def take(self, request: RecordedRequest) -> Fault | None:
        """Take the fault that `request` is to meet, or None (asked by the pool)."""
        with self._lock:
            for name in request.names:
                if self._queues[name]:
                    return self._queues[name].popleft()
            standing = (self._standing.get(name) for name in request.names)
            return next((fault for fault in standing if fault is not None), None)

    def tamper_for(self, kind: Kind, at: Occasion) -> Tamper | None:
        """Return what is to be done to a token, or None (asked by the pool)."""
        with self._lock:
            return self._tampers.get((kind, at))


def _known(endpoint: Endpoint) -> Endpoint:
    if endpoint not in ENDPOINTS:
        raise ValueError(f"no endpoint {endpoint!r}; there are {sorted(ENDPOINTS)}")
    return endpoint
