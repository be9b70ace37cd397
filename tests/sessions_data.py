"""Sessions as tests need them: any at all, and one of Cognito's real size."""

from __future__ import annotations

import base64
import json
import secrets
from typing import Any

from hypothesis import strategies as st

from flask_cognito_rotate.model import STORED_NAMES, StoredToken
from flask_cognito_rotate.sealing import Sealer
from flask_cognito_rotate.sessions import Session

NOW = 1_700_000_000
SEALER = Sealer([b"k" * 32], issuer="https://issuer", client_id="client")


def b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def jwt(claims: dict[str, Any], signature: bytes | None = None) -> str:
    header = {"kid": "pZ7+dG/1yFv4lU3aR9xKQ2n8sW5eT0bJ6mH7cVfXoqI=", "alg": "RS256"}
    parts = [
        json.dumps(part, separators=(",", ":")).encode() for part in (header, claims)
    ]
    parts.append(signature or secrets.token_bytes(256))
    return ".".join(map(b64url, parts))


def jwe(length: int) -> str:
    """A refresh token: five segments, all but the first of them random."""
    header = b64url(b'{"cty":"JWT","enc":"A256GCM","alg":"RSA-OAEP"}')
    sizes = [256, 12, 0, 16]
    fixed = len(header) + 4 + sum(len(b64url(bytes(size))) for size in sizes)
    sizes[2] = (length - fixed) * 3 // 4
    return ".".join([header, *(b64url(secrets.token_bytes(size)) for size in sizes)])


UUID = "f3a4c8d2-70b1-4c5e-9a6f-2d1e8b7c0a94"
ISSUER = "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_Ab12Cd34E"

ACCESS_CLAIMS: dict[str, Any] = {
    "sub": UUID,
    "cognito:groups": ["admin", "users"],
    "iss": ISSUER,
    "version": 2,
    "client_id": "7lpfk1example2qhk3m9d0s5tq",
    "origin_jti": UUID,
    "event_id": UUID,
    "token_use": "access",
    "scope": "openid profile email",
    "auth_time": NOW,
    "exp": NOW + 3600,
    "iat": NOW,
    "jti": UUID,
    "username": UUID,
}

#: Twenty claims, as an ID token of a pool with some attributes has them.
ID_CLAIMS: dict[str, Any] = {
    "at_hash": "Xq8Vt2nB4kLm6Rz0yWc1dA",
    "sub": UUID,
    "cognito:groups": ["admin", "users"],
    "email_verified": True,
    "iss": ISSUER,
    "cognito:username": UUID,
    "origin_jti": UUID,
    "aud": "7lpfk1example2qhk3m9d0s5tq",
    "event_id": UUID,
    "token_use": "id",
    "auth_time": NOW,
    "name": "Alice Example-Långström",
    "phone_number": "+4915112345678",
    "phone_number_verified": True,
    "exp": NOW + 3600,
    "iat": NOW,
    "jti": UUID,
    "email": "alice.example@subsidiary.example.com",
    "picture": "https://cdn.example.com/pictures/alice/large.png",
    "locale": "de-AT",
}


def real_session(**changes: Any) -> Session:
    """A session as Cognito makes it, tokens in their real sizes."""
    fields: dict[str, Any] = {
        "sid": secrets.token_urlsafe(24),
        "access_token": jwt(ACCESS_CLAIMS),
        "access_token_expires": NOW + 3600,
        "refresh_token": jwe(1850),
        "id_token_claims": ID_CLAIMS,
        "user": {
            "id": ID_CLAIMS["sub"],
            "name": ID_CLAIMS["name"],
            "email": ID_CLAIMS["email"],
            "image": ID_CLAIMS["picture"],
        },
        "iat": NOW,
        "auth_time": NOW,
    }
    token = StoredToken(**{**fields, **changes})
    return Session(token, secrets.token_bytes(32), 3, secrets.token_hex(16))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=10), inner, max_size=3)
    ),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=15), JSON, max_size=4)
BYTES_AS_TEXT = st.binary(max_size=60).map(b64url)
#: JWTs, opaque tokens, and what looks like a JWT but would not come back to the letter.
TOKENS = (
    st.builds(jwt, OBJECTS, st.binary(min_size=1, max_size=60))
    | st.lists(BYTES_AS_TEXT, min_size=1, max_size=6).map(".".join)
    | st.text(max_size=60)
    | st.from_regex(r"\A[A-Za-z0-9_+/=.-]{0,80}\Z")
)
STORED_TOKENS = st.builds(
    StoredToken,
    sid=st.text(max_size=40),
    access_token=st.none() | TOKENS,
    access_token_expires=st.integers(0, 2**40),
    refresh_token=st.none() | TOKENS,
    id_token_claims=OBJECTS,
    user=OBJECTS,
    iat=st.integers(0, 2**40),
    auth_time=st.none() | st.integers(0, 2**40),
    error=st.none() | st.text(max_size=30),
    extra=st.dictionaries(
        st.text(max_size=15).filter(lambda name: name not in STORED_NAMES),
        JSON,
        max_size=3,
    ),
)
SESSIONS = st.builds(
    Session,
    token=STORED_TOKENS,
    key=st.binary(min_size=32, max_size=32),
    generation=st.integers(0, 2**40),
    cache_id=st.none() | st.text(max_size=40),
)
