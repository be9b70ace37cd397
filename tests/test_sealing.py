"""Envelopes: what was sealed comes back whole, or one named error says why not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_cognito_rotate.errors import CognitoAuthError
from flask_cognito_rotate.sealing import (
    BrokenSeal,
    ExpiredSeal,
    Sealer,
    SealError,
    UnknownSealingKey,
    decrypt,
    derive_key,
    encrypt,
)

NOW = 1_700_000_000
LATER = NOW + 60
OLD, NEW = b"o" * 32, b"n" * 32
#: Version and key id: what tells whose envelope it is.
HEAD = 9


def sealer(
    *keys: bytes, issuer: str = "https://issuer", client_id: str = "client"
) -> Sealer:
    return Sealer(keys or (NEW,), issuer=issuer, client_id=client_id)


def seal(data: bytes = b"data", *keys: bytes) -> bytes:
    return sealer(*keys).seal("purpose", data, expires_at=LATER)


def unseal(envelope: bytes, *keys: bytes, now: float = NOW) -> bytes:
    return sealer(*keys).open("purpose", envelope, now=now)


@given(st.binary(max_size=5000), st.text(max_size=20), st.binary(max_size=50))
def test_any_bytes_come_back(data: bytes, purpose: str, context: bytes) -> None:
    one = sealer()
    envelope = one.seal(purpose, data, expires_at=LATER, context=context)
    assert one.open(purpose, envelope, now=NOW, context=context) == data


@given(st.binary(max_size=40), st.data())
def test_every_flipped_bit_has_one_named_error(
    data: bytes, draw: st.DataObject
) -> None:
    envelope = bytearray(seal(data))
    bit = draw.draw(st.integers(0, 8 * len(envelope) - 1))
    envelope[bit // 8] ^= 1 << bit % 8
    expected = UnknownSealingKey if bit // 8 < HEAD else BrokenSeal
    with pytest.raises(SealError) as caught:
        unseal(bytes(envelope))
    assert type(caught.value) is expected


@pytest.mark.parametrize("length", range(len(seal())))
def test_a_cut_envelope_does_not_open(length: int) -> None:
    expected = UnknownSealingKey if length < HEAD else BrokenSeal
    with pytest.raises(SealError) as caught:
        unseal(seal()[:length])
    assert type(caught.value) is expected


@given(st.binary(min_size=1, max_size=40))
def test_a_longer_envelope_does_not_open(more: bytes) -> None:
    with pytest.raises(BrokenSeal):
        unseal(seal() + more)


@given(st.binary(max_size=200))
def test_foreign_bytes_are_nobody_s_we_know(garbage: bytes) -> None:
    with pytest.raises(UnknownSealingKey):
        unseal(garbage)


def test_another_purpose_has_another_key() -> None:
    """E: a cookie of one kind is never taken for one of another."""
    with pytest.raises(UnknownSealingKey):
        sealer().open("transaction", seal(), now=NOW)


@pytest.mark.parametrize(
    ("issuer", "client_id"),
    [
        ("https://issuer2", "client"),
        ("https://issuer", "client2"),
        ("https://issuerc", "lient"),
        ("", "https://issuer\0client"),
    ],
)
def test_other_settings_have_other_keys(issuer: str, client_id: str) -> None:
    other = sealer(NEW, issuer=issuer, client_id=client_id)
    with pytest.raises(UnknownSealingKey):
        other.open("purpose", seal(), now=NOW)


@given(st.binary(max_size=30), st.binary(max_size=30))
def test_another_context_breaks_the_seal(one: bytes, other: bytes) -> None:
    envelope = sealer().seal("purpose", b"data", expires_at=LATER, context=one)
    if one == other:
        assert sealer().open("purpose", envelope, now=NOW, context=other) == b"data"
        return
    with pytest.raises(BrokenSeal):
        sealer().open("purpose", envelope, now=NOW, context=other)


def test_the_newest_key_seals_and_all_open() -> None:
    assert unseal(seal(b"data", OLD), NEW, OLD) == b"data"
    assert unseal(seal(b"data", NEW, OLD), NEW) == b"data"
    with pytest.raises(UnknownSealingKey):
        unseal(seal(b"data", NEW, OLD), OLD)


def test_keys_are_changed_without_a_gap_when_the_fallback_comes_first() -> None:
    """Half rolled out, every host opens what every other host seals."""
    rollout = [(OLD,), (OLD, NEW), (NEW, OLD), (NEW,)]
    for before, after in zip(rollout, rollout[1:], strict=False):
        assert unseal(seal(b"data", *before), *after) == b"data"
        assert unseal(seal(b"data", *after), *before) == b"data"


def test_a_key_that_is_named_twice_is_one_key() -> None:
    assert unseal(seal(b"data", NEW, NEW), NEW) == b"data"


@pytest.mark.parametrize(
    ("now", "opens"),
    [(LATER - 0.001, True), (LATER, False), (LATER + 1e9, False)],
    ids=["E07-just-before", "E07-at-its-time", "E07-long-after"],
)
def test_case(now: float, opens: bool) -> None:
    """The time that an envelope is good for lies inside it."""
    if opens:
        assert unseal(seal(), now=now) == b"data"
        return
    with pytest.raises(ExpiredSeal):
        unseal(seal(), now=now)


def test_a_changed_envelope_is_broken_before_it_is_expired() -> None:
    envelope = seal()
    with pytest.raises(BrokenSeal):
        unseal(envelope[:-1] + bytes([envelope[-1] ^ 1]), now=LATER)


def test_two_envelopes_of_the_same_data_share_only_their_head() -> None:
    one, other = seal(), seal()
    assert one[:HEAD] == other[:HEAD]
    assert one[HEAD : HEAD + 12] != other[HEAD : HEAD + 12]


@given(st.binary(min_size=1, max_size=100))
def test_nothing_of_the_data_is_readable(data: bytes) -> None:
    marked = b"marker-" + data
    assert marked not in seal(marked)


def test_every_seal_error_is_of_the_package() -> None:
    for kind in (UnknownSealingKey, BrokenSeal, ExpiredSeal):
        assert issubclass(kind, SealError)
        assert issubclass(kind, CognitoAuthError)


@given(st.binary(max_size=100), st.binary(max_size=20))
def test_encrypt_and_decrypt_are_each_other_s_reverse(
    data: bytes, associated: bytes
) -> None:
    key = derive_key(b"secret", b"use")
    assert decrypt(key, encrypt(key, data, associated), associated) == data


@given(st.binary(max_size=60))
def test_decrypting_anything_else_is_a_broken_seal(garbage: bytes) -> None:
    with pytest.raises(BrokenSeal):
        decrypt(derive_key(b"secret", b"use"), garbage, b"")


def test_derived_keys_differ_by_their_use() -> None:
    assert derive_key(b"secret", b"one") != derive_key(b"secret", b"two")
    assert len(derive_key(b"secret", b"one", 16)) == 16
