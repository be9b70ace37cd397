"""Settings: read once, checked as a whole, frozen."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from .errors import ConfigurationError
from .protocol.authorization import RESERVED_PARAMETERS
from .protocol.metadata import is_loopback

MINIMUM_SECRET_BYTES: Final = 32

_UNSET: Final[Any] = object()
_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")
_PREFIX: Final = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_DOMAIN: Final = re.compile(r"\.?[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*")
_Reader = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Key:
    """One setting: how it is read and what it is without a value."""

    read: _Reader
    default: Any = _UNSET

    @property
    def required(self) -> bool:
        return self.default is _UNSET


def _text(value: Any) -> str:
    parsed = _parsed(value)
    if isinstance(parsed, str):
        value = parsed
    # from_prefixed_env turns an identifier of digits into an int: undo that.
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a non-empty string")
    return value.strip()


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    match str(value).strip().lower():
        case "true" | "1":
            return True
        case "false" | "0":
            return False
    raise ValueError("must be true, false, 1 or 0")


def _parsed(value: Any) -> Any:
    """Read a string as `flask.Config.from_prefixed_env` does: JSON, else itself."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


#: Ten years: what a refresh token can last, and what dates can be computed with.
_LONGEST_SECONDS: Final = 315_360_000


def _seconds(
    minimum: float, maximum: float = _LONGEST_SECONDS, *, whole: bool = True
) -> _Reader:
    def read(value: Any) -> Any:
        number = _parsed(value)
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise ValueError("must be a number of seconds")
        if not minimum <= number <= maximum:
            raise ValueError(f"must be between {minimum} and {maximum} seconds")
        if whole and number != int(number):
            raise ValueError("must be a whole number of seconds")
        return int(number) if whole else float(number)

    return read


def _words(value: Any) -> tuple[str, ...]:
    value = _parsed(value)
    if isinstance(value, str):
        value = value.replace(",", " ").split()
    if not isinstance(value, Sequence) or not all(
        isinstance(word, str) and word for word in value
    ):
        raise ValueError("must be a list of strings, or one string with spaces between")
    return tuple(value)


def _scopes(value: Any) -> tuple[str, ...]:
    scopes = _words(value)
    if "openid" not in scopes:
        raise ValueError("must contain 'openid': without it there is no ID token")
    return scopes


def _parameters(value: Any) -> dict[str, str]:
    value = _parsed(value)
    if not isinstance(value, Mapping) or not all(
        isinstance(k, str) and isinstance(v, str) for k, v in value.items()
    ):
        raise ValueError("must be a mapping of strings to strings")
    if reserved := sorted(RESERVED_PARAMETERS & set(value)):
        raise ValueError(f"must not set {', '.join(reserved)}: the extension does")
    return dict(value)


def check_url(value: Any) -> str:
    """Accept an absolute https URL; http only for loopback hosts.

    Raises:
        ValueError: with a sentence that says what is wrong.
    """
    url = _text(value)
    if not _VISIBLE.fullmatch(url):
        raise ValueError("must not contain spaces or characters outside ASCII")
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.port == 0:  # reading it raises ValueError for what is no port at all
        raise ValueError("must not have the port 0")
    if parts.scheme not in {"http", "https"} or not host:
        raise ValueError("must be an absolute https:// URL")
    if parts.scheme == "http" and not is_loopback(host):
        raise ValueError("must use https: http is accepted for loopback hosts only")
    if parts.fragment or parts.username or parts.password is not None:
        raise ValueError("must have neither a fragment nor credentials")
    return url


def _issuer(value: Any) -> str:
    url = check_url(value)
    parts = urlsplit(url)
    if parts.query:
        raise ValueError("must have no query")
    if (parts.hostname or "").startswith("cognito-idp.") and url.endswith("/"):
        raise ValueError("must not end with a slash: Cognito's issuer has none")
    return url


def _secret(value: Any) -> Any:
    if value is None or callable(value):
        return value
    secret = _text(value)
    if not secret.isascii():
        raise ValueError("must be ASCII, as Cognito generates it")
    return secret


def _prefix(value: Any) -> str:
    prefix = _text(value)
    if not _PREFIX.fullmatch(prefix) or {".", ".."} & set(prefix.split("/")):
        raise ValueError(
            "must be a path like '/auth': a slash and a word, once or more, without a "
            "slash at the end"
        )
    return prefix


def _target(value: Any) -> str:
    target = _text(value)
    if "://" in target or target.startswith("//") or "\\" in target:
        raise ValueError("must be a path of this application or an endpoint name")
    return target


def _samesite(value: Any) -> str:
    match _text(value).lower():
        case "lax":
            return "Lax"
        case "none":
            return "None"
    raise ValueError(
        "must be 'Lax' or 'None': with 'Strict' the browser would not send the "
        "session to the page that follows the login"
    )


def _cookie_path(value: Any) -> str:
    path = _text(value)
    if not path.startswith("/") or not _VISIBLE.fullmatch(path) or ";" in path:
        raise ValueError("must begin with a slash and have no spaces or semicolons")
    return path


def _cookie_name(value: Any) -> str:
    name = _text(value)
    if not all(c.isalnum() or c in "_-" for c in name) or not name.isascii():
        raise ValueError("must consist of ASCII letters, digits, '_' and '-'")
    if len(name) > 64:
        raise ValueError("must have at most 64 characters")
    return name


def _cookie_domain(value: Any) -> str:
    domain = _text(value)
    if not _DOMAIN.fullmatch(domain):
        raise ValueError("must be a host name, like 'example.com'")
    return domain


def _secure(value: Any) -> bool | None:
    if value is None or (isinstance(value, str) and value.strip().lower() == "auto"):
        return None
    return _boolean(value)


def _session_store(value: Any) -> str:
    if value != "cookie":
        raise ValueError("must be 'cookie': this version keeps sessions nowhere else")
    return "cookie"


def _optional(read: _Reader) -> _Reader:
    return lambda value: None if value is None else read(value)


#: Every setting by its full name; the order is that of the documentation.
KEYS: Final[Mapping[str, Key]] = {
    "COGNITO_ISSUER": Key(_issuer),
    "COGNITO_CLIENT_ID": Key(_text),
    "COGNITO_CLIENT_SECRET": Key(_secret, None),
    "COGNITO_SCOPES": Key(_scopes, ("openid", "email", "profile")),
    "COGNITO_AUTHORIZE_PARAMS": Key(_parameters, {}),
    "COGNITO_URL_PREFIX": Key(_prefix, "/auth"),
    "COGNITO_REDIRECT_URI": Key(_optional(check_url), None),
    "COGNITO_LOGOUT_URI": Key(_optional(check_url), None),
    "COGNITO_LOGIN_REDIRECT": Key(_target, "/"),
    "COGNITO_LOGOUT_REDIRECT": Key(_target, "/"),
    "COGNITO_LOGIN_REQUIRED": Key(_boolean, False),
    "COGNITO_LOGIN_EXEMPT": Key(_words, ()),
    "COGNITO_REFRESH_LEEWAY": Key(_seconds(0), 60),
    "COGNITO_SESSION_MAX_AGE": Key(_seconds(1), 2_592_000),
    "COGNITO_SESSION_ABSOLUTE_MAX_AGE": Key(_optional(_seconds(1)), None),
    "COGNITO_SESSION_UPDATE_AGE": Key(_seconds(0), 86_400),
    "COGNITO_SESSION_STORE": Key(_session_store, "cookie"),
    "COGNITO_CACHE": Key(lambda value: value, "file:"),
    "COGNITO_DISCOVERY_MAX_AGE": Key(_seconds(1), 86_400),
    "COGNITO_HTTP_TIMEOUT": Key(_seconds(0.1, whole=False), 5.0),
    "COGNITO_REFRESH_TIMEOUT": Key(_seconds(0.1, whole=False), 10.0),
    "COGNITO_CLOCK_SKEW": Key(_seconds(0, 600), 60),
    "COGNITO_EXPOSE_ACCESS_TOKEN": Key(_boolean, False),
    "COGNITO_COOKIE_NAME": Key(_optional(_cookie_name), None),
    "COGNITO_COOKIE_DOMAIN": Key(_optional(_cookie_domain), None),
    "COGNITO_COOKIE_PATH": Key(_optional(_cookie_path), None),
    "COGNITO_COOKIE_SAMESITE": Key(_samesite, "Lax"),
    "COGNITO_COOKIE_SECURE": Key(_secure, None),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What `read_settings` makes of the configuration; all durations in seconds."""

    issuer: str
    client_id: str
    client_secret: str | Callable[[], str] | None = field(repr=False)
    scopes: tuple[str, ...]
    authorize_params: Mapping[str, str]
    url_prefix: str
    redirect_uri: str | None
    logout_uri: str | None
    login_redirect: str
    logout_redirect: str
    login_required: bool
    login_exempt: tuple[str, ...]
    refresh_leeway: int
    session_max_age: int
    session_absolute_max_age: int | None
    session_update_age: int
    session_store: str
    cache: Any = field(repr=False)
    discovery_max_age: int
    http_timeout: float
    refresh_timeout: float
    clock_skew: int
    expose_access_token: bool
    cookie_name: str
    cookie_domain: str | None
    cookie_path: str
    cookie_samesite: str
    cookie_secure: bool | None
    secret_keys: tuple[bytes, ...] = field(repr=False)

    @property
    def namespace(self) -> str:
        """Tell this pool and client from others that share one cache."""
        return _digest(self.issuer, self.client_id)[:16]


def read_settings(
    config: Mapping[str, Any], environ: Mapping[str, str]
) -> tuple[Settings, list[str]]:
    """Check the whole configuration and freeze it.

    Args:
        config: the application's configuration.
        environ: where a key that is missing from `config` is looked up.

    Returns:
        The settings, and warnings: sentences that deserve a log record.

    Raises:
        ConfigurationError: names every key that is missing or wrong, with the remedy.
    """
    problems: list[str] = []
    warnings = _unknown_keys(config)
    values: dict[str, Any] = {}
    for name, key in KEYS.items():
        raw = config.get(name, environ.get(name, _UNSET))
        try:
            values[_attribute(name)] = _value(name, key, raw)
        except ValueError as error:
            problems.append(f"{name} {error}")
    secret_keys = _secret_keys(config, problems, warnings)
    if not problems:
        _complete(values, config.get("APPLICATION_ROOT") or "/", problems)
    if problems:
        raise ConfigurationError(problems)
    return Settings(**values, secret_keys=secret_keys), warnings


def _attribute(name: str) -> str:
    return name.removeprefix("COGNITO_").lower()


def _value(name: str, key: Key, raw: Any) -> Any:
    if raw is _UNSET or (raw in (None, "null") and key.required):
        if key.required:
            raise ValueError(
                f"is missing: set it in app.config, or {name} (or FLASK_{name}, with "
                "app.config.from_prefixed_env()) in the environment"
            )
        return key.default
    if raw is None or (isinstance(raw, str) and _parsed(raw) is None):
        return key.default
    return key.read(raw)


def _unknown_keys(config: Mapping[str, Any]) -> list[str]:
    warnings = []
    for name in config:
        if name.startswith("COGNITO_") and name not in KEYS:
            close = difflib.get_close_matches(name, KEYS, n=1, cutoff=0.9)
            hint = f": did you mean {close[0]}?" if close else ""
            warnings.append(f"{name} is not a setting of this version{hint}")
    return warnings


def _secret_keys(
    config: Mapping[str, Any], problems: list[str], warnings: list[str]
) -> tuple[bytes, ...]:
    secret = _bytes(config.get("SECRET_KEY"))
    remedy = (
        "set 32 bytes or more that nobody can guess, for example the output of "
        "python -c 'import secrets; print(secrets.token_hex(32))'"
    )
    if secret is None:
        problems.append(f"SECRET_KEY is missing: {remedy}")
    elif len(secret) < MINIMUM_SECRET_BYTES:
        problems.append(f"SECRET_KEY is too short ({len(secret)} bytes): {remedy}")
    fallbacks = _fallback_keys(config.get("SECRET_KEY_FALLBACKS"), problems)
    if any(len(key) < MINIMUM_SECRET_BYTES for key in fallbacks):
        warnings.append("a key in SECRET_KEY_FALLBACKS has fewer than 32 bytes")
    return tuple(key for key in (secret, *fallbacks) if key)


def _fallback_keys(value: Any, problems: list[str]) -> list[bytes]:
    """Read the list; one string is not a list of one-letter keys."""
    if value is None:
        return []
    keys = (
        [_bytes(key) for key in value] if isinstance(value, (list, tuple)) else [None]
    )
    if None in keys:
        problems.append(
            "SECRET_KEY_FALLBACKS must be a list of keys, in the environment written "
            'as JSON: ["the old key"]'
        )
    return [key for key in keys if key is not None]


def _bytes(key: Any) -> bytes | None:
    if isinstance(key, str):
        key = key.encode()
    return key if isinstance(key, bytes) and key else None


def _complete(values: dict[str, Any], root: str, problems: list[str]) -> None:
    """Fill in what depends on other keys, and check what must fit together."""
    callback = values["url_prefix"] + "/callback"
    redirect = values["redirect_uri"]
    if redirect and not urlsplit(redirect).path.endswith(callback):
        problems.append(
            f"COGNITO_REDIRECT_URI must end with the callback's path, {callback}"
        )
    values["cookie_path"] = values["cookie_path"] or root
    values["cookie_name"] = values["cookie_name"] or (
        "cognito_session_"
        + _digest(values["issuer"], values["client_id"], values["cookie_path"])[:6]
    )
    _check_cookie(values, problems)
    values["session_update_age"] = min(
        values["session_update_age"], values["session_max_age"] // 10
    )


def _check_cookie(values: Mapping[str, Any], problems: list[str]) -> None:
    if values["cookie_samesite"] == "None" and values["cookie_secure"] is False:
        problems.append(
            "COGNITO_COOKIE_SAMESITE 'None' needs COGNITO_COOKIE_SECURE true: "
            "browsers drop such a cookie otherwise"
        )
    if values["cookie_name"].startswith(("__Host-", "__Secure-")):
        problems.append(
            "COGNITO_COOKIE_NAME must come without a prefix: __Host- is put in front "
            "of it where the cookie is Secure, without a domain and for the path /"
        )


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
