"""The authorization request, the answer to it, and the logout URL."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from ..errors import LoginError
from ..model import ProviderMetadata, Transaction

#: What `authorize_url` sets itself, or what would undo it (a request object, another
#: way of delivering the answer, a secret in a URL); never taken from settings.
RESERVED_PARAMETERS = frozenset(
    {
        "client_id",
        "client_secret",
        "code_challenge",
        "code_challenge_method",
        "code_verifier",
        "nonce",
        "redirect_uri",
        "request",
        "request_uri",
        "response_mode",
        "response_type",
        "scope",
        "state",
    }
)

#: What a link to the login may ask of the authorize endpoint; the rest is for settings.
LINK_PARAMETERS = frozenset(
    {
        "acr_values",
        "identity_provider",
        "idp_identifier",
        "lang",
        "login_hint",
        "max_age",
        "prompt",
    }
)

_STATE_BYTES = 18
_VERIFIER_BYTES = 32
_MESSAGE_LENGTH = 200

_NO_PARAMETERS: Mapping[str, str] = MappingProxyType({})
_ONCE = ("state", "code", "error", "iss")
_STATE = re.compile(r"[A-Za-z0-9._~-]{1,200}")
_CODE = re.compile(r"[\x20-\x7e]{1,2048}")
_ANSI_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


@dataclass(frozen=True, slots=True)
class CallbackAnswer:
    """A good authorization response (RFC 6749 section 4.1.2).

    ``iss`` is RFC 9207's parameter, None where the provider sends none.
    """

    state: str = field(repr=False)
    code: str = field(repr=False)
    iss: str | None


def new_transaction(
    *, next: str, redirect_uri: str, now: float, token: Callable[[int], str]
) -> Transaction:
    """Begin a login.

    Args:
        next: path and query to go to afterwards; already checked by `safe_next`.
        redirect_uri: where the provider sends the browser, verbatim.
        now: UNIX seconds.
        token: `secrets.token_urlsafe`, or a fake: takes a number of bytes.

    State and nonce have 144 bits; the verifier has 256 bits in 43 characters
    (RFC 7636 section 4.1).
    """
    return Transaction(
        state=token(_STATE_BYTES),
        nonce=token(_STATE_BYTES),
        code_verifier=token(_VERIFIER_BYTES),
        next=next,
        redirect_uri=redirect_uri,
        created=int(now),
    )


def authorize_url(
    metadata: ProviderMetadata,
    transaction: Transaction,
    *,
    client_id: str,
    scopes: Sequence[str],
    extra: Mapping[str, str] = _NO_PARAMETERS,
) -> str:
    """Build the URL of the authorization request (RFC 6749 section 4.1.1).

    PKCE with S256 (RFC 7636), ``state`` and ``nonce`` are always in it. A query that
    the endpoint has already is kept, ``extra`` is added to it.

    Raises:
        ValueError: ``extra`` names one of `RESERVED_PARAMETERS`.
    """
    from authlib.oauth2.rfc7636 import create_s256_code_challenge

    reserved = sorted(RESERVED_PARAMETERS.intersection(extra))
    if reserved:
        raise ValueError(f"not to be set by hand: {', '.join(reserved)}")
    parameters = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": transaction.redirect_uri,
        "scope": " ".join(scopes),
        "state": transaction.state,
        "nonce": transaction.nonce,
        "code_challenge": create_s256_code_challenge(transaction.code_verifier),
        "code_challenge_method": "S256",
        **extra,
    }
    return _with_query(metadata.authorization_endpoint, parameters)


def parse_callback(args: Mapping[str, Sequence[str]]) -> CallbackAnswer:
    """Read the query that the provider's redirect carried.

    Args:
        args: every value of every parameter, percent-decoded.

    Raises:
        LoginError: a parameter is repeated (RFC 6749 section 3.1); the provider
            reports an error (section 4.1.2.1), whether or not a code stands beside
            it; state or code is missing, empty, too long or of odd characters.
    """
    for name in _ONCE:
        if len(args.get(name, ())) > 1:
            raise LoginError(f"The login's answer has more than one {name}.")
    error = _first(args, "error")
    if error is not None:
        raise LoginError(_refusal(error, _first(args, "error_description")))
    state = callback_state(args)
    if state is None:
        raise LoginError("The login's answer belongs to no login that began here.")
    code = _first(args, "code")
    if code is None or not _CODE.fullmatch(code):
        raise LoginError("The login's answer holds no usable code.")
    return CallbackAnswer(state=state, code=code, iss=_first(args, "iss"))


def callback_state(args: Mapping[str, Sequence[str]]) -> str | None:
    """Return the state if there is exactly one and it could be ours, else None.

    It works for an answer that `parse_callback` refuses, so that the pending login
    can be removed.
    """
    values = args.get("state", ())
    if len(values) != 1 or not _STATE.fullmatch(values[0]):
        return None
    return values[0]


def check_issuer(answer: CallbackAnswer, metadata: ProviderMetadata) -> None:
    """Refuse an answer of another provider (RFC 9207 section 2.4).

    Raises:
        LoginError: ``iss`` differs from the issuer, or is absent although the
            provider promises to send it.
    """
    if answer.iss is None and metadata.sends_iss:
        raise LoginError("The login's answer does not say who issued it.")
    if answer.iss is not None and answer.iss != metadata.issuer:
        raise LoginError("The login's answer comes from another provider.")


def logout_url(metadata: ProviderMetadata, *, client_id: str, logout_uri: str) -> str:
    """Build the URL that ends the browser's session at Cognito.

    Cognito takes ``client_id`` and ``logout_uri``; it does not speak OpenID Connect
    RP-Initiated Logout, although discovery names an ``end_session_endpoint``.
    """
    parameters = {"client_id": client_id, "logout_uri": logout_uri}
    return _with_query(metadata.end_session_endpoint, parameters)


def _with_query(url: str, parameters: Mapping[str, str]) -> str:
    # Here, not at the top: a process that logs nobody in does not need Authlib.
    from authlib.common.urls import add_params_to_uri

    return str(add_params_to_uri(url, list(parameters.items())))


def _first(args: Mapping[str, Sequence[str]], name: str) -> str | None:
    values = args.get(name, ())
    return values[0] if values else None


def _refusal(error: str, description: str | None) -> str:
    text = f"The provider refused the login: {_one_line(error) or 'no reason given'}"
    if description:
        text = f"{text} ({_one_line(description)})"
    if len(text) <= _MESSAGE_LENGTH:
        return text
    return f"{text[: _MESSAGE_LENGTH - 1]}…"


def _one_line(text: str) -> str:
    """Drop what could move a terminal's cursor, forge a log line or turn text round."""
    # The cut bounds the work; the message is cut again at its real length.
    text = _ANSI_SEQUENCE.sub(" ", text[: 10 * _MESSAGE_LENGTH])
    visible = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(visible.split())
