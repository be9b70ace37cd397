"""Logins that have begun: one sealed, short-lived cookie for each ``state``.

A cookie of its own for each, so that several tabs can sign in at once, and bound to its
``state``, so that an answer for one browser opens nothing in another.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from ..model import Transaction
from ..sealing import Sealer, SealError

#: Seconds that a login may take.
LIFETIME: Final = 900
#: Bytes of names and values that all pending logins together may take.
MAX_TOTAL_BYTES: Final = 1_500
_PURPOSE: Final = "transaction"


class Transactions:
    """Seals pending logins into cookies and opens them again."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    @staticmethod
    def name(prefix: str, state: str) -> str:
        """Return the name of the cookie of `state`, for a session cookie `prefix`."""
        digest = hashlib.sha256(state.encode()).hexdigest()
        return f"{prefix}_tx_{digest[:10]}"

    def seal(
        self, prefix: str, transaction: Transaction, *, fallback: str
    ) -> tuple[str, str]:
        """Return name and value of the cookie; too long a ``next`` gives way."""
        name = self.name(prefix, transaction.state)
        value = self._value(transaction)
        if cookie_size(name, value) > MAX_TOTAL_BYTES:
            value = self._value(replace(transaction, next=fallback))
        return name, value

    def open(
        self, prefix: str, state: str, cookies: Mapping[str, str], *, now: float
    ) -> Transaction | None:
        """Return the pending login of `state`; None where there is none, or none any
        more, or it is not genuine."""
        try:
            value = cookies.get(self.name(prefix, state), "")
            sealed = base64.b64decode(
                value.partition(".")[2].encode(), altchars=b"-_", validate=True
            )
            text = self._sealer.open(_PURPOSE, sealed, now=now, context=state.encode())
            return Transaction(state=state, **json.loads(text))
        except (SealError, ValueError, TypeError):
            return None

    def surplus(self, prefix: str, cookies: Mapping[str, str], room: int) -> list[str]:
        """Return the names of the pending logins that must go, the oldest first, so
        that `room` bytes are free."""
        pending = sorted(
            (
                (_created(value), name)
                for name, value in cookies.items()
                if name.startswith(f"{prefix}_tx_")
            ),
            reverse=True,
        )
        left, surplus = MAX_TOTAL_BYTES - room, []
        for _, name in pending:
            left -= cookie_size(name, cookies[name])
            if left < 0:
                surplus.append(name)
        return surplus

    def _value(self, transaction: Transaction) -> str:
        content = {
            "nonce": transaction.nonce,
            "code_verifier": transaction.code_verifier,
            "next": transaction.next,
            "redirect_uri": transaction.redirect_uri,
            "created": transaction.created,
        }
        sealed = self._sealer.seal(
            _PURPOSE,
            json.dumps(content, separators=(",", ":")).encode(),
            expires_at=transaction.created + LIFETIME,
            context=transaction.state.encode(),
        )
        text = base64.urlsafe_b64encode(sealed).decode()
        # In front for `surplus` alone, which cannot open it without its state.
        return f"{transaction.created:x}.{text}"


def cookie_size(name: str, value: str) -> int:
    """Return the bytes that a cookie takes up in the ``Cookie`` header."""
    return len(name) + len(value) + len("=; ")


def _created(value: str) -> int:
    try:
        return int(value.partition(".")[0], 16)
    except ValueError:
        return 0
