"""What counts as this machine."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address can only mean this machine.

    Names are not looked up: `localhost` is the only one that is accepted.
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def require_loopback(host: str) -> str:
    """Return `host`.

    Raises:
        ValueError: it is reachable from other machines, or may be.
    """
    if not is_loopback(host):
        raise ValueError(
            f"the local user pool listens on loopback only, not on {host!r}: "
            "use 127.0.0.1, ::1 or localhost (its passwords and keys are toys)"
        )
    return host


def base_url(host: str, port: int) -> str:
    """Return the URL of a server on this host and port, without a final slash."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def allows(uri: str, registered: Collection[str], any_loopback: bool) -> bool:
    """Tell whether a callback or sign-out URL may be used.

    Registered ones must match exactly. With none registered, `any_loopback` accepts
    every http URL of this machine without a fragment.
    Source: Cognito guide, user-pool-settings-client-apps.
    """
    if registered:
        return uri in registered
    return any_loopback and _is_loopback_url(uri)


def _is_loopback_url(uri: str) -> bool:
    try:
        parts = urlsplit(uri)
    except ValueError:
        return False
    local = is_loopback(parts.hostname or "")
    return parts.scheme == "http" and local and not parts.fragment
