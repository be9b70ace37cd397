"""``COGNITO_CACHE``: what processes share, chosen by a location such as ``file:``.

A backend is one module of this package with a function ``open_location`` and one
line in `_BACKENDS`. Its driver is imported only when its scheme is used.
"""

from __future__ import annotations

import re
from importlib import import_module

from ..errors import ConfigurationError
from .base import Cache, Lock

__all__ = ["Cache", "Lock", "check_location", "open_cache"]

#: Scheme -> module of this package.
_BACKENDS = {"memory": "memory", "file": "file"}
_NOT_YET = frozenset({"redis", "rediss", "valkey", "memcached", "dynamodb"})
_SUPPORTED = (
    "Supported are memory: (one process), file: (all processes of one host) and "
    "file:/path/of/a/folder."
)
_LOCATION = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(.*)", re.DOTALL)


def open_cache(location: object, *, namespace: str, instance_path: str) -> Cache:
    """Open the cache that ``COGNITO_CACHE`` names.

    Args:
        location: ``memory:``, ``file:``, ``file:PATH``, or a `Cache`, which is
            returned as it is.
        namespace: tells applications apart that share one backend.
        instance_path: where ``file:`` and relative paths begin.

    Raises:
        ConfigurationError: the location is unknown, not supported, or a folder that
            belongs to somebody else. The text never repeats a password.
    """
    if isinstance(location, Cache):
        return location
    module, rest = check_location(location)
    backend = import_module(f".{module}", __name__)
    cache: Cache = backend.open_location(
        rest, namespace=namespace, instance_path=instance_path
    )
    return cache


def check_location(location: object) -> tuple[str, str]:
    """Return the backend's module and what it is to open, without opening it.

    Raises:
        ConfigurationError: the location is unknown or not supported.
    """
    if not isinstance(location, str):
        raise _mistake(_what_is_wrong_with(location))
    match = _LOCATION.fullmatch(location)
    if match is None:
        raise _mistake("is not a location, which begins with a scheme and a colon")
    scheme, rest = match[1].lower(), match[2]
    if scheme not in _BACKENDS:
        why = "is not supported by this version" if scheme in _NOT_YET else "is unknown"
        raise _mistake(f"names the scheme {scheme}:, which {why}")
    return _BACKENDS[scheme], rest


def _what_is_wrong_with(location: object) -> str:
    kind = type(location)
    if any(base.__module__.partition(".")[0] == "cachelib" for base in kind.__mro__):
        return (
            f"is a cachelib {kind.__name__}, which has neither an atomic "
            "compare-and-set nor a lock, so a refresh token could be sent twice"
        )
    return f"is a {kind.__name__}, where a text such as file: is expected"


def _mistake(what: str) -> ConfigurationError:
    return ConfigurationError([f"COGNITO_CACHE {what}. {_SUPPORTED}"])
