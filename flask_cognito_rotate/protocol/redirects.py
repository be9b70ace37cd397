"""Is this ``next`` ours?

Only what every URL parser reads alike is let through, so that neither a browser nor
a proxy on the way can make another host of it. The odd legitimate target that is
refused costs a detour over the start page.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

_MAX_BYTES = 2048
_MAX_DECODING = 4

_ORIGIN = re.compile(r"https?://[^/?#@\\\s]+")
#: Browsers drop tabs and newlines, trim what is up to a space, and read "\" as "/".
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f-\xa0\\\u2028\u2029]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_AUTHORITY = re.compile(r"/[/\\\s]")
_SEPARATOR = re.compile(r"[/\\]")

_SAFE_IN_PATH = "%/:@!$&'()*+,;=~"
_SAFE_IN_QUERY = _SAFE_IN_PATH + "?"


def safe_next(target: str | None, *, origin: str) -> str | None:
    """Return ``target`` as a path and query of our own, or None.

    Args:
        target: a path that starts with one slash, or an absolute URL of ``origin``;
            percent-encoded where it must be, as whitespace is refused.
        origin: ours, as a browser writes it: ``https://app.example``, lower case,
            without a default port or a slash.

    Returns:
        Visible ASCII of at most 2,048 bytes, fit for a ``Location`` header: the
        fragment is dropped and characters outside ASCII are percent-encoded. None
        for everything that is not certainly on ``origin``.
    """
    if target is None or not _is_clean(target):
        return None
    local = _strip_origin(target, origin).partition("#")[0]
    path, mark, query = local.partition("?")
    if not _is_own_path(path):
        return None
    location = quote(path, _SAFE_IN_PATH) + mark + quote(query, _SAFE_IN_QUERY)
    return location if len(location) <= _MAX_BYTES else None


def _is_clean(target: str) -> bool:
    try:
        size = len(target.encode())
    except UnicodeEncodeError:
        return False
    return size <= _MAX_BYTES and not _FORBIDDEN.search(target)


def _strip_origin(target: str, origin: str) -> str:
    """Cut our origin off; a host that merely begins like ours leaves no path."""
    if not _ORIGIN.fullmatch(origin) or not target.startswith(origin):
        return target
    rest = target[len(origin) :]
    return f"/{rest}" if rest[:1] in {"", "?", "#"} else rest


def _is_own_path(path: str) -> bool:
    """Look at a path as it is, and as those see it who decode it once too often."""
    if not path.startswith("/"):
        return False
    for _ in range(_MAX_DECODING):
        if not _is_harmless(path):
            return False
        decoded = unquote(path)
        if decoded == path:
            return True
        path = decoded
    # Nobody encodes a path this many times in good faith.
    return False


def _is_harmless(path: str) -> bool:
    if _CONTROL.search(path) or _AUTHORITY.match(path):
        return False
    # Dot segments can swallow what stands before a second slash: "/..//host".
    return not {".", ".."}.intersection(_SEPARATOR.split(path))
