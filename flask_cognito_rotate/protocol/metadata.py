"""The discovery document: where it is, and what of it is believed."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

from ..errors import ProviderRejected
from ..model import ProviderMetadata

_MAX_URL_LENGTH = 2048
_URL_CHARACTERS = re.compile(r"[\x21-\x7e]+")
_LOOPBACK_V4 = ipaddress.IPv4Network("127.0.0.0/8")
_LOOPBACK_V6 = ipaddress.IPv6Address("::1")
_TOKEN_PATH = "/oauth2/token"  # noqa: S105 - a path
_API_HOSTS = ("cognito-idp.", "issuer-cognito-idp.")
_POOL_ID = re.compile(r"[a-z0-9-]+_[A-Za-z0-9]+")


def discovery_url(issuer: str) -> str:
    """Return where the issuer's document is (OpenID Connect Discovery, section 4)."""
    return f"{issuer.removesuffix('/')}/.well-known/openid-configuration"


def is_loopback(host: str) -> bool:
    """Tell whether a host is ``localhost``, in 127.0.0.0/8, or ``::1``.

    Other spellings of these, such as ``127.1`` or ``app.localhost``, are not: they
    do not mean this machine everywhere.
    """
    host = host.removeprefix("[").removesuffix("]")
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return address in _LOOPBACK_V4
    return address == _LOOPBACK_V6


def parse_metadata(document: object, *, issuer: str) -> ProviderMetadata:
    """Check a discovery document and take what we need of it.

    Unknown fields are ignored, and no support of PKCE is asked for: Cognito does not
    announce its own. ``revocation_endpoint`` and ``end_session_endpoint`` may be
    absent and then are ``/oauth2/revoke`` and ``/logout`` beside the token endpoint.

    Args:
        document: the parsed JSON.
        issuer: the configured issuer, which the document must name exactly
            (OpenID Connect Discovery, section 4.3).

    Raises:
        ProviderRejected: ``error`` is ``"no_domain"`` for a user pool without a
            domain, whose endpoints do not work, and ``"invalid_metadata"`` for
            everything else that is wrong.
    """
    if not isinstance(document, Mapping):
        raise _invalid("it is not a JSON object")
    if document.get("issuer") != issuer:
        raise _invalid("its issuer is not the configured one")
    authorization = _endpoint(document, "authorization_endpoint")
    token = _endpoint(document, "token_endpoint")
    _require_domain(authorization, issuer)
    return ProviderMetadata(
        issuer=issuer,
        authorization_endpoint=authorization,
        token_endpoint=token,
        jwks_uri=_endpoint(document, "jwks_uri"),
        revocation_endpoint=_optional_endpoint(document, "revocation_endpoint")
        or f"{_base(token)}/oauth2/revoke",
        end_session_endpoint=_optional_endpoint(document, "end_session_endpoint")
        or f"{_base(token)}/logout",
        userinfo_endpoint=_optional_endpoint(document, "userinfo_endpoint"),
        sends_iss=document.get("authorization_response_iss_parameter_supported")
        is True,
    )


def _invalid(reason: str) -> ProviderRejected:
    return ProviderRejected(
        f"the discovery document cannot be used: {reason}", error="invalid_metadata"
    )


def _require_domain(authorization_endpoint: str, issuer: str) -> None:
    """Without a domain, Cognito puts the endpoints below the issuer, where nothing
    answers; the local user pool, which imitates that, has no ``cognito-idp`` host."""
    host = urlsplit(authorization_endpoint).hostname or ""
    below_pool = authorization_endpoint == f"{issuer}/authorize"
    is_pool = _POOL_ID.fullmatch(issuer.rpartition("/")[2]) is not None
    if host.startswith(_API_HOSTS) or (below_pool and is_pool):
        raise ProviderRejected(
            "the user pool has no domain, so nobody can sign in: add one in the"
            " Cognito console (Branding, Domain) or with"
            " `aws cognito-idp create-user-pool-domain`",
            error="no_domain",
        )


def _optional_endpoint(document: Mapping[str, Any], name: str) -> str | None:
    return None if document.get(name) is None else _endpoint(document, name)


def _endpoint(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str) or not _URL_CHARACTERS.fullmatch(value):
        raise _invalid(f"{name} is not a URL")
    if len(value) > _MAX_URL_LENGTH or "\\" in value or "#" in value:
        raise _invalid(f"{name} is not a usable URL")
    try:
        parts = urlsplit(value)
        trusted = _is_trusted(parts)
    except ValueError:
        raise _invalid(f"{name} is not a URL") from None
    if not trusted:
        raise _invalid(f"{name} is not an https URL without credentials")
    return value


def _is_trusted(parts: SplitResult) -> bool:
    """Accept https, and http on this machine. Raises ValueError for a bad port."""
    host = parts.hostname
    if not host or "@" in parts.netloc or parts.port == 0:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))


def _base(token_endpoint: str) -> str:
    """Cut ``/oauth2/token`` off; where it is not that, take the bare origin."""
    parts = urlsplit(token_endpoint)
    path = parts.path if parts.path.endswith(_TOKEN_PATH) else _TOKEN_PATH
    return f"{parts.scheme}://{parts.netloc}{path.removesuffix(_TOKEN_PATH)}"
