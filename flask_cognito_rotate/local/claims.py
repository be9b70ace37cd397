"""What the tokens and `userInfo` say, field by field as Cognito does."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from typing import Any

from .families import Family
from .keys import b64url
from .users import User

_EMAIL = frozenset({"email", "email_verified"})
_PHONE = frozenset({"phone_number", "phone_number_verified"})


def readable_attributes(user: User, scope: str) -> dict[str, Any]:
    """Return the attributes that the granted scopes open.

    `openid` alone and `profile` open all of them, `email` and `phone` their own.
    Source: Cognito guide, authorization-endpoint and userinfo-endpoint.
    """
    scopes = set(scope.split())
    if "profile" in scopes or not scopes & {"email", "phone"}:
        return dict(user.attributes)
    names = (_EMAIL if "email" in scopes else frozenset()) | (
        _PHONE if "phone" in scopes else frozenset()
    )
    return {name: user.attributes[name] for name in names & user.attributes.keys()}


def shared_claims(
    user: User, family: Family, issuer: str, now: int, lifetime: int
) -> dict[str, Any]:
    """Return what ID and access tokens have in common. Times in UNIX seconds."""
    groups = {"cognito:groups": list(user.groups)} if user.groups else {}
    return {
        "sub": user.sub,
        **groups,
        "iss": issuer,
        "origin_jti": family.origin_jti,
        "event_id": str(uuid.uuid4()),
        "auth_time": family.auth_time,
        "exp": now + lifetime,
        "iat": now,
        "jti": str(uuid.uuid4()),
    }


def access_claims(
    shared: Mapping[str, Any], user: User, family: Family
) -> dict[str, Any]:
    """Return an access token's claims: `client_id`, and no `aud` but a resource.

    Source: Cognito guide, …-using-the-access-token.
    """
    audience = {"aud": family.resource} if family.resource else {}
    return {
        **shared,
        **audience,
        "version": 2,
        "client_id": family.client_id,
        "token_use": "access",
        "scope": family.scope,
        "username": user.username,
    }


def id_claims(
    shared: Mapping[str, Any],
    user: User,
    family: Family,
    access_token: str,
    nonce: str | None,
) -> dict[str, Any]:
    """Return an ID token's claims; `nonce` only where one was sent.

    Source: Cognito guide, …-using-the-id-token.
    """
    return {
        "at_hash": at_hash(access_token),
        **shared,
        **({"nonce": nonce} if nonce else {}),
        **({"identities": user.identities} if user.identities else {}),
        "cognito:username": user.username,
        "aud": family.client_id,
        "token_use": "id",
        **readable_attributes(user, family.scope),
    }


def user_info(user: User, scope: str) -> dict[str, Any]:
    """Answer `userInfo`: here the verified flags are strings.

    Source: Cognito guide, userinfo-endpoint.
    """
    attributes = readable_attributes(user, scope)
    texts = {name: _text(value) for name, value in attributes.items()}
    return {"sub": user.sub, **texts, "username": user.username}


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def at_hash(access_token: str) -> str:
    """Hash an access token for its ID token (OpenID Connect Core, 3.1.3.6)."""
    return b64url(hashlib.sha256(access_token.encode()).digest()[:16])
