"""Logins that have begun: bound to their state, short-lived, and small together."""

from __future__ import annotations

import base64
import secrets
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sessions_data import NOW, SEALER

from flask_cognito_rotate.model import Transaction
from flask_cognito_rotate.sealing import Sealer
from flask_cognito_rotate.sessions import Transactions
from flask_cognito_rotate.sessions.transactions import (
    LIFETIME,
    MAX_TOTAL_BYTES,
    cookie_size,
)

PREFIX = "__Host-cognito_session_abcdef"
TRANSACTIONS = Transactions(SEALER)


def begin(created: int = NOW, next: str = "/private?a=b") -> Transaction:
    return Transaction(
        state=secrets.token_urlsafe(32),
        nonce=secrets.token_urlsafe(32),
        code_verifier=secrets.token_urlsafe(48),
        next=next,
        redirect_uri="https://app.example.com/auth/callback",
        created=created,
    )


def seal(transaction: Transaction) -> tuple[str, str]:
    return TRANSACTIONS.seal(PREFIX, transaction, fallback="/")


def unseal(
    state: str, cookies: dict[str, str], now: float = NOW, prefix: str = PREFIX
) -> Transaction | None:
    return TRANSACTIONS.open(prefix, state, cookies, now=now)


def total(cookies: dict[str, str]) -> int:
    return sum(cookie_size(name, value) for name, value in cookies.items())


@given(
    st.builds(
        Transaction,
        state=st.text(
            st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60
        ),
        nonce=st.text(max_size=60),
        code_verifier=st.text(max_size=60),
        next=st.text(max_size=60),
        redirect_uri=st.text(max_size=60),
        created=st.integers(0, 2**40),
    )
)
def test_any_login_comes_back(transaction: Transaction) -> None:
    name, value = seal(transaction)
    opened = unseal(transaction.state, {name: value}, now=transaction.created)
    assert opened in (transaction, replace(transaction, next="/"))


def test_a_cookie_opens_for_its_own_state_only() -> None:
    """A04: what one browser began, another's answer does not finish."""
    mine, theirs = begin(), begin()
    name, value = seal(mine)
    cookies = {
        name: value,
        TRANSACTIONS.name(PREFIX, theirs.state): value,
        TRANSACTIONS.name(PREFIX, ""): value,
    }
    assert unseal(mine.state, cookies) == mine
    assert unseal(theirs.state, cookies) is None
    assert unseal("", cookies) is None


@pytest.mark.parametrize(
    "change",
    [lambda s: s[:-1] + chr(ord(s[-1]) ^ 1), lambda s: s + "x", lambda s: s[:-1]],
    ids=["A03-changed", "A03-longer", "A03-shorter"],
)
def test_case(change: object) -> None:
    """A state that differs by one letter opens nothing."""
    assert callable(change)
    transaction = begin()
    name, value = seal(transaction)
    state = change(transaction.state)
    cookies = {name: value, TRANSACTIONS.name(PREFIX, state): value}
    assert unseal(state, cookies) is None


def test_a_login_takes_no_longer_than_it_may() -> None:
    """A08: 10 to 15 minutes, judged by the time inside the seal."""
    transaction = begin()
    name, value = seal(transaction)
    assert 600 <= LIFETIME <= 900
    assert unseal(transaction.state, {name: value}, NOW + LIFETIME - 1) == transaction
    assert unseal(transaction.state, {name: value}, NOW + LIFETIME) is None
    later = f"{NOW + 10_000:x}.{value.partition('.')[2]}"
    assert unseal(transaction.state, {name: later}, NOW + LIFETIME) is None


def test_sixty_logins_take_1500_bytes_and_the_newest_survives() -> None:
    """A07: like a browser, which keeps every cookie until it is told otherwise."""
    cookies: dict[str, str] = {}
    begun = [begin(NOW + second) for second in range(60)]
    for transaction in begun:
        name, value = seal(transaction)
        for old in TRANSACTIONS.surplus(PREFIX, cookies, cookie_size(name, value)):
            del cookies[old]
        cookies[name] = value
        assert total(cookies) <= MAX_TOTAL_BYTES
        now = transaction.created
        assert unseal(transaction.state, cookies, now=now) == transaction
    alive = [t for t in begun if unseal(t.state, cookies, now=NOW + 60)]
    assert alive == begun[-len(alive) :]
    assert len(alive) >= 2


def test_nothing_is_dropped_while_there_is_room() -> None:
    """A06: two tabs."""
    cookies = dict([seal(begin(NOW)), seal(begin(NOW + 1))])
    assert total(cookies) < MAX_TOTAL_BYTES
    assert TRANSACTIONS.surplus(PREFIX, cookies, 0) == []
    assert TRANSACTIONS.surplus(PREFIX, {}, MAX_TOTAL_BYTES) == []


def test_the_oldest_goes_first_whatever_order_the_browser_sends() -> None:
    seconds = [2, 0, 3, 1]
    sealed = {n: seal(begin(NOW + n)) for n in seconds}
    cookies = dict(sealed[n] for n in seconds)
    room = MAX_TOTAL_BYTES - total(dict([sealed[3], sealed[2]]))
    surplus = TRANSACTIONS.surplus(PREFIX, cookies, room)
    assert surplus == [sealed[1][0], sealed[0][0]]


@pytest.mark.parametrize(
    "value",
    ["", ".", "x", "-5.x", "zz.x", "é.x", "_1.x", "f" * 4000 + ".x", "\udcff"],
    ids=repr,
)
def test_pending_logins_that_are_garbage_are_counted_and_nothing_breaks(
    value: str,
) -> None:
    cookies = {f"{PREFIX}_tx_0123456789": value, **dict([seal(begin())])}
    surplus = TRANSACTIONS.surplus(PREFIX, cookies, MAX_TOTAL_BYTES)
    assert set(surplus) == set(cookies)


def test_other_cookies_are_left_alone() -> None:
    cookies = {PREFIX: "x" * 4000, "other": "x" * 4000, f"{PREFIX}.1": "x" * 3000}
    assert TRANSACTIONS.surplus(PREFIX, cookies, MAX_TOTAL_BYTES) == []


@pytest.mark.parametrize("length", [1_000, 8_000])
def test_a_next_that_is_too_long_gives_way(length: int) -> None:
    """F07: the login goes on and ends at the fallback."""
    transaction = begin(next="/" + "x" * length)
    name, value = TRANSACTIONS.seal(PREFIX, transaction, fallback="/home")
    assert cookie_size(name, value) <= MAX_TOTAL_BYTES
    expected = replace(transaction, next="/home")
    assert unseal(transaction.state, {name: value}) == expected


def test_a_next_of_usual_length_is_kept() -> None:
    transaction = begin(next="/" + "x" * 500)
    name, value = seal(transaction)
    assert unseal(transaction.state, {name: value}) == transaction


def test_every_changed_byte_of_the_seal_opens_nothing() -> None:
    """F09: the next inside cannot be altered, nor anything else."""
    transaction = begin()
    name, value = seal(transaction)
    front, _, text = value.partition(".")
    sealed = base64.urlsafe_b64decode(text)
    for at in range(len(sealed)):
        changed = bytearray(sealed)
        changed[at] ^= 0x40
        cookie = f"{front}.{base64.urlsafe_b64encode(changed).decode()}"
        assert unseal(transaction.state, {name: cookie}) is None


@given(st.text(max_size=100))
def test_garbage_opens_nothing(value: str) -> None:
    name = TRANSACTIONS.name(PREFIX, "state")
    assert unseal("state", {name: value}) is None


@pytest.mark.parametrize("state", ["", "\udcff", "\0", "x" * 100_000, "é"])
def test_a_state_of_any_kind_opens_nothing(state: str) -> None:
    """A03: whatever an attacker puts into the callback's URL."""
    assert unseal(state, dict([seal(begin())])) is None


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"{}", b'{"x":1}', b"\xff"])
def test_what_another_version_sealed_opens_nothing(content: bytes) -> None:
    sealed = SEALER.seal("transaction", content, expires_at=NOW + 60, context=b"state")
    value = f"{NOW:x}.{base64.urlsafe_b64encode(sealed).decode()}"
    assert unseal("state", {TRANSACTIONS.name(PREFIX, "state"): value}) is None


def test_another_application_s_login_opens_nothing() -> None:
    transaction = begin()
    name, value = seal(transaction)
    other = Sealer([b"k" * 32], issuer="https://issuer", client_id="another")
    opened = Transactions(other).open(PREFIX, transaction.state, {name: value}, now=NOW)
    assert opened is None


def test_the_cookie_shows_nothing_but_when_the_login_began() -> None:
    transaction = begin()
    name, value = seal(transaction)
    sealed = base64.urlsafe_b64decode(value.partition(".")[2])
    for secret in (transaction.state, transaction.nonce, transaction.code_verifier):
        assert secret not in name + value
        assert secret.encode() not in sealed
    assert b"/private" not in sealed
    assert value.startswith(f"{NOW:x}.")
