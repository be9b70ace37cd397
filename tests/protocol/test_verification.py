"""ID tokens and key sets; the tokens are signed without joserfc."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from hypothesis import given
from hypothesis import strategies as st

from flask_cognito_rotate.errors import (
    ExpiredToken,
    InvalidAccessTokenHash,
    InvalidAlgorithm,
    InvalidAudience,
    InvalidIssuer,
    InvalidNonce,
    InvalidSignature,
    InvalidSubject,
    InvalidTime,
    InvalidTokenError,
    InvalidTokenUse,
    MalformedToken,
    ProviderRejected,
    UnknownKey,
)
from flask_cognito_rotate.protocol.verification import (
    KeySet,
    parse_jwks,
    verify_login_id_token,
    verify_refreshed_id_token,
)

ISSUER = "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_Example1"
CLIENT = "1example23456789"
KID = "h+7guc6GtoQ0vEShSVON9jifVSEx1VV8gWxFpe9loHo="
OTHER_KID = "a/other+kid="
NOW = 1_700_000_000.5
SKEW = 60
ACCESS_TOKEN = "access.token.value"

Sign = Callable[[bytes], bytes]


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def half_hash(text: str) -> str:
    return b64(hashlib.sha256(text.encode()).digest()[:16])


CLAIMS: dict[str, Any] = {
    "sub": "a0b1c2d3-0000-1111-2222-333344445555",
    "aud": CLIENT,
    "iss": ISSUER,
    "token_use": "id",
    "cognito:username": "someone",
    "auth_time": 1_699_999_900,
    "exp": 1_700_003_600,
    "iat": 1_700_000_000,
    "nonce": "the-nonce",
    "at_hash": half_hash(ACCESS_TOKEN),
    "email": "someone@example.com",
    "email_verified": True,
}
HEADER: dict[str, Any] = {"kid": KID, "alg": "RS256"}


class Signer:
    """A key pair that signs whatever it is given."""

    def __init__(self, size: int = 2048) -> None:
        self.key = rsa.generate_private_key(65537, size)

    def __call__(self, data: bytes) -> bytes:
        return self.key.sign(data, padding.PKCS1v15(), hashes.SHA256())

    def jwk(self, kid: object = KID, **changes: object) -> dict[str, Any]:
        numbers = self.key.public_key().public_numbers()
        size = (self.key.key_size + 7) // 8
        return {
            "kid": kid,
            "kty": "RSA",
            "alg": "RS256",
            "use": "sig",
            "n": b64(numbers.n.to_bytes(size, "big")),
            "e": b64(numbers.e.to_bytes(3, "big")),
            **changes,
        }


@pytest.fixture(scope="session")
def signer() -> Signer:
    return Signer()


@pytest.fixture(scope="session")
def stranger() -> Signer:
    return Signer()


@pytest.fixture(scope="session")
def keys(signer: Signer) -> KeySet:
    other = rsa.generate_private_key(65537, 2048).public_key().public_numbers()
    second = signer.jwk(OTHER_KID, n=b64(other.n.to_bytes(256, "big")))
    return parse_jwks({"keys": [second, signer.jwk()]})


def compact(header: object, payload: object, sign: Sign) -> str:
    def encode(part: object) -> str:
        return b64(part if isinstance(part, bytes) else json.dumps(part).encode())

    signed = f"{encode(header)}.{encode(payload)}"
    return f"{signed}.{b64(sign(signed.encode()))}"


def without(name: str) -> dict[str, Any]:
    return {k: v for k, v in CLAIMS.items() if k != name}


def login(token: str, keys: KeySet, **changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "issuer": ISSUER,
        "client_id": CLIENT,
        "nonce": "the-nonce",
        "access_token": ACCESS_TOKEN,
        "now": NOW,
        "skew": SKEW,
        **changes,
    }
    return verify_login_id_token(token, keys, **arguments)


def refresh(token: str, keys: KeySet) -> dict[str, Any]:
    return verify_refreshed_id_token(
        token,
        keys,
        issuer=ISSUER,
        client_id=CLIENT,
        subject=CLAIMS["sub"],
        now=NOW,
        skew=SKEW,
    )


GOOD_CLAIMS: dict[str, dict[str, Any]] = {
    "B01-aud-string": CLAIMS,
    "B01-aud-list-of-one": {**CLAIMS, "aud": [CLIENT]},
    "B01-azp": {**CLAIMS, "azp": CLIENT},
    "B07-exp-inside-the-tolerance": {**CLAIMS, "exp": NOW - SKEW + 1},
    "B06-iat-inside-the-tolerance": {**CLAIMS, "iat": NOW + SKEW},
    "B06-iat-fraction": {**CLAIMS, "iat": 1_700_000_000.25},
    "B07-nbf": {**CLAIMS, "nbf": 1_700_000_000},
    "B15-no-token-use": without("token_use"),
    "B16-no-at-hash": without("at_hash"),
    "B03-sub-of-255": {**CLAIMS, "sub": "s" * 255},
    "unknown-claims": {**CLAIMS, "cognito:groups": ["a"], "custom:x": {"y": [1]}},
    "unicode": {**CLAIMS, "name": "Zoë 🦊"},
}


@pytest.mark.parametrize("claims", GOOD_CLAIMS.values(), ids=GOOD_CLAIMS)
def test_case_accepted(claims: dict[str, Any], signer: Signer, keys: KeySet) -> None:
    """What OpenID Connect allows is accepted, and returned as it was signed."""
    assert login(compact(HEADER, claims, signer), keys) == claims


#: What is wrong at a login and at a refresh alike.
BAD_CLAIMS: dict[str, tuple[dict[str, Any], type[InvalidTokenError]]] = {
    "B02-iss-1": ({**CLAIMS, "iss": f"{ISSUER}1"}, InvalidIssuer),
    "B02-iss-missing": (without("iss"), InvalidIssuer),
    "B02-iss-prefix": ({**CLAIMS, "iss": ISSUER[:-1]}, InvalidIssuer),
    "B02-iss-slash": ({**CLAIMS, "iss": f"{ISSUER}/"}, InvalidIssuer),
    "B02-iss-region": (
        {**CLAIMS, "iss": ISSUER.replace("central", "west")},
        InvalidIssuer,
    ),
    "B02-iss-list": ({**CLAIMS, "iss": [ISSUER]}, InvalidIssuer),
    "B02-iss-null": ({**CLAIMS, "iss": None}, InvalidIssuer),
    "B03-sub-missing": (without("sub"), InvalidSubject),
    "B03-sub-empty": ({**CLAIMS, "sub": ""}, InvalidSubject),
    "B03-sub-number": ({**CLAIMS, "sub": 1}, InvalidSubject),
    "B03-sub-null": ({**CLAIMS, "sub": None}, InvalidSubject),
    "B03-sub-list": ({**CLAIMS, "sub": [CLAIMS["sub"]]}, InvalidSubject),
    "B03-sub-long": ({**CLAIMS, "sub": "s" * 256}, InvalidSubject),
    "B03-sub-crlf": ({**CLAIMS, "sub": "a\r\nb"}, InvalidSubject),
    "B03-sub-unicode": ({**CLAIMS, "sub": "sübject"}, InvalidSubject),
    "B04-aud-1": ({**CLAIMS, "aud": f"{CLIENT}1"}, InvalidAudience),
    "B04-aud-missing": (without("aud"), InvalidAudience),
    "B04-aud-empty": ({**CLAIMS, "aud": ""}, InvalidAudience),
    "B04-aud-empty-list": ({**CLAIMS, "aud": []}, InvalidAudience),
    "B04-aud-object": ({**CLAIMS, "aud": {}}, InvalidAudience),
    "B04-aud-object-of-client": ({**CLAIMS, "aud": {CLIENT: 1}}, InvalidAudience),
    "B04-aud-second": ({**CLAIMS, "aud": [CLIENT, "other"]}, InvalidAudience),
    "B04-aud-second-with-azp": (
        {**CLAIMS, "aud": [CLIENT, "other"], "azp": CLIENT},
        InvalidAudience,
    ),
    "B04-aud-nested": ({**CLAIMS, "aud": [[CLIENT]]}, InvalidAudience),
    "B04-azp-other": ({**CLAIMS, "azp": "other"}, InvalidAudience),
    "B04-azp-null": ({**CLAIMS, "azp": None}, InvalidAudience),
    "B06-iat-missing": (without("iat"), InvalidTime),
    "B06-iat-string": ({**CLAIMS, "iat": "1700000000"}, InvalidTime),
    "B06-iat-bool": ({**CLAIMS, "iat": True}, InvalidTime),
    "B06-iat-future": ({**CLAIMS, "iat": NOW + SKEW + 1}, InvalidTime),
    "B06-nbf-future": ({**CLAIMS, "nbf": NOW + SKEW + 1}, InvalidTime),
    "B06-nbf-null": ({**CLAIMS, "nbf": None}, InvalidTime),
    "B07-exp-missing": (without("exp"), InvalidTime),
    "B07-exp-past": ({**CLAIMS, "exp": NOW - SKEW}, ExpiredToken),
    "B07-exp-string": ({**CLAIMS, "exp": "1700003600"}, InvalidTime),
    "B07-exp-true": ({**CLAIMS, "exp": True}, InvalidTime),
    "B07-exp-null": ({**CLAIMS, "exp": None}, InvalidTime),
    "B07-exp-1e300": ({**CLAIMS, "exp": 1e300}, InvalidTime),
    "B07-exp-long": ({**CLAIMS, "exp": 10**400}, InvalidTime),
    "B07-exp-negative": ({**CLAIMS, "exp": -1}, InvalidTime),
    "B07-exp-nan": ({**CLAIMS, "exp": float("nan")}, MalformedToken),
    "B07-exp-infinity": ({**CLAIMS, "exp": float("inf")}, MalformedToken),
    "B15-access-token": ({**CLAIMS, "token_use": "access"}, InvalidTokenUse),
    "B15-token-use-null": ({**CLAIMS, "token_use": None}, InvalidTokenUse),
    "B15-token-use-list": ({**CLAIMS, "token_use": ["id"]}, InvalidTokenUse),
    "lone-surrogate": ({**CLAIMS, "name": "\ud800"}, MalformedToken),
}
BAD_LOGIN_CLAIMS: dict[str, tuple[dict[str, Any], type[InvalidTokenError]]] = {
    "B09-nonce-1": ({**CLAIMS, "nonce": "the-nonce1"}, InvalidNonce),
    "B09-nonce-missing": (without("nonce"), InvalidNonce),
    "B09-nonce-empty": ({**CLAIMS, "nonce": ""}, InvalidNonce),
    "B09-nonce-list": ({**CLAIMS, "nonce": ["the-nonce"]}, InvalidNonce),
    "B09-nonce-unicode": ({**CLAIMS, "nonce": "the-nonçe"}, InvalidNonce),
    "B16-at-hash-wrong": (
        {**CLAIMS, "at_hash": half_hash("another")},
        InvalidAccessTokenHash,
    ),
    "B16-at-hash-empty": ({**CLAIMS, "at_hash": ""}, InvalidAccessTokenHash),
    "B16-at-hash-null": ({**CLAIMS, "at_hash": None}, InvalidAccessTokenHash),
    "B16-at-hash-whole": (
        {**CLAIMS, "at_hash": b64(hashlib.sha256(ACCESS_TOKEN.encode()).digest())},
        InvalidAccessTokenHash,
    ),
}
ALL_BAD_LOGIN_CLAIMS = BAD_CLAIMS | BAD_LOGIN_CLAIMS


@pytest.mark.parametrize(
    ("claims", "reason"), ALL_BAD_LOGIN_CLAIMS.values(), ids=ALL_BAD_LOGIN_CLAIMS
)
def test_case(
    claims: dict[str, Any],
    reason: type[InvalidTokenError],
    signer: Signer,
    keys: KeySet,
) -> None:
    """A well-signed ID token with one wrong claim is refused, and the reason named."""
    with pytest.raises(InvalidTokenError) as caught:
        login(compact(HEADER, claims, signer), keys)
    assert type(caught.value) is reason


@pytest.mark.parametrize(("claims", "reason"), BAD_CLAIMS.values(), ids=BAD_CLAIMS)
def test_case_at_a_refresh(
    claims: dict[str, Any],
    reason: type[InvalidTokenError],
    signer: Signer,
    keys: KeySet,
) -> None:
    """D03, D05: a refreshed ID token is held to the same claims."""
    with pytest.raises(InvalidTokenError) as caught:
        refresh(compact(HEADER, claims, signer), keys)
    assert type(caught.value) is reason


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"nonce": "another"},
        {"nonce": None},
        {"auth_time": 1_700_000_000},
        {"auth_time": "changed"},
        {"at_hash": "of another access token"},
    ],
)
def test_what_a_refresh_may_change(
    changes: dict[str, Any], signer: Signer, keys: KeySet
) -> None:
    """OpenID Connect Core 12.2; Cognito has been seen to change auth_time."""
    claims = {**CLAIMS, **changes}
    assert refresh(compact(HEADER, claims, signer), keys) == claims


@pytest.mark.parametrize("sub", [CLAIMS["sub"] + "1", CLAIMS["sub"][:-1], "other"])
def test_case_d04_another_user(sub: str, signer: Signer, keys: KeySet) -> None:
    """D04: a refresh never changes who somebody is."""
    with pytest.raises(InvalidSubject):
        refresh(compact(HEADER, {**CLAIMS, "sub": sub}, signer), keys)


def test_a_login_without_a_nonce_of_its_own_is_refused(
    signer: Signer, keys: KeySet
) -> None:
    """An empty expectation matches nothing, not even an empty claim."""
    token = compact(HEADER, {**CLAIMS, "nonce": ""}, signer)
    with pytest.raises(InvalidNonce):
        login(token, keys, nonce="")


def test_case_b10_every_signature_byte_counts(signer: Signer, keys: KeySet) -> None:
    """B10: a byte changed, a byte less, a byte more, no signature."""
    signed, _, signature = compact(HEADER, CLAIMS, signer).rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    changed = [
        raw[:i] + bytes([raw[i] ^ 0x5A]) + raw[i + 1 :] for i in range(0, 256, 15)
    ]
    for forged in (*changed, bytes(b ^ 0x5A for b in raw), raw[:-1], raw + b"\0", b""):
        with pytest.raises(InvalidSignature):
            login(f"{signed}.{b64(forged)}", keys)


def test_case_b10_spare_bits_count(signer: Signer, keys: KeySet) -> None:
    """B10: a signature has one spelling, down to its last character."""
    token = compact(HEADER, CLAIMS, signer)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for last in set(alphabet) - {token[-1]}:
        with pytest.raises(InvalidTokenError):
            login(token[:-1] + last, keys)


def test_case_b10_another_key_under_the_same_kid(
    stranger: Signer, keys: KeySet
) -> None:
    """B10: the kid names a key, it does not replace it."""
    with pytest.raises(InvalidSignature):
        login(compact(HEADER, CLAIMS, stranger), keys)


def test_case_b10_changed_claims(signer: Signer, keys: KeySet) -> None:
    """B10: claims that were not signed."""
    head, _, signature = compact(HEADER, CLAIMS, signer).split(".")
    payload = b64(json.dumps({**CLAIMS, "sub": "admin"}).encode())
    with pytest.raises(InvalidSignature):
        login(f"{head}.{payload}.{signature}", keys)


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "", None, 1, ["RS256"], {}])
@pytest.mark.parametrize("signature", [b"", b"x"])
def test_case_b11_no_algorithm(alg: object, signature: bytes, keys: KeySet) -> None:
    """B11: unsigned, however it is spelled."""
    with pytest.raises(InvalidAlgorithm):
        login(compact({**HEADER, "alg": alg}, CLAIMS, lambda _: signature), keys)


def test_case_b11_algorithm_missing(signer: Signer, keys: KeySet) -> None:
    """B11: a header without alg, well signed."""
    with pytest.raises(InvalidAlgorithm):
        login(compact({"kid": KID}, CLAIMS, signer), keys)


def hs256(secret: bytes) -> Sign:
    return lambda data: hmac.digest(secret, data, "sha256")


def test_case_b12_a_public_key_is_no_secret(signer: Signer, keys: KeySet) -> None:
    """B12: HS256 under the client secret, or the public key as PEM, DER or JWK."""
    public = signer.key.public_key()
    formats = serialization.PublicFormat.SubjectPublicKeyInfo
    secrets = [
        b"the-client-secret",
        b"",
        public.public_bytes(serialization.Encoding.PEM, formats),
        public.public_bytes(serialization.Encoding.DER, formats),
        json.dumps(signer.jwk()).encode(),
        signer.jwk()["n"].encode(),
    ]
    for secret in secrets:
        for name in ("HS256", "RS256"):
            token = compact(
                {**HEADER, "alg": name},
                CLAIMS,
                hs256(secret),
            )
            with pytest.raises((InvalidAlgorithm, InvalidSignature)):
                login(token, keys)


def test_case_b13_another_good_algorithm(signer: Signer, keys: KeySet) -> None:
    """B13: RS384, PS256 and ES256 under real keys, announced or disguised."""
    curve = ec.generate_private_key(ec.SECP256R1())
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    signatures: dict[str, Sign] = {
        "RS384": lambda d: signer.key.sign(d, padding.PKCS1v15(), hashes.SHA384()),
        "PS256": lambda d: signer.key.sign(d, pss, hashes.SHA256()),
        "ES256": lambda d: curve.sign(d, ec.ECDSA(hashes.SHA256())),
    }
    for name, sign in signatures.items():
        with pytest.raises(InvalidAlgorithm):
            login(compact({**HEADER, "alg": name}, CLAIMS, sign), keys)
        with pytest.raises(InvalidSignature):
            login(compact(HEADER, CLAIMS, sign), keys)


BAD_HEADERS: dict[str, tuple[dict[str, Any], type[InvalidTokenError]]] = {
    "B15-logout": ({"typ": "logout+jwt"}, InvalidTokenUse),
    "B15-access": ({"typ": "at+jwt"}, InvalidTokenUse),
    "B15-typ-null": ({"typ": None}, InvalidTokenUse),
    "B15-typ-empty": ({"typ": ""}, InvalidTokenUse),
    "crit": ({"crit": ["exp"]}, MalformedToken),
    "crit-b64": ({"crit": ["b64"], "b64": False}, MalformedToken),
    "crit-empty": ({"crit": []}, MalformedToken),
    "crit-null": ({"crit": None}, MalformedToken),
    "crit-number": ({"crit": 1}, MalformedToken),
    "b64": ({"b64": False}, MalformedToken),
    "b64-odd": ({"b64": []}, MalformedToken),
    "H07-kid-path": ({"kid": "../../x"}, UnknownKey),
    "H07-kid-nul": ({"kid": "\0"}, UnknownKey),
    "H07-kid-sql": ({"kid": "' or 1"}, UnknownKey),
    "H07-kid-empty": ({"kid": ""}, UnknownKey),
    "H07-kid-null": ({"kid": None}, UnknownKey),
    "H07-kid-long": ({"kid": "k" * 10_000}, MalformedToken),
    "H07-kid-int": ({"kid": 1}, MalformedToken),
    "H07-kid-object": ({"kid": {}}, MalformedToken),
    "H07-kid-list": ({"kid": [KID]}, MalformedToken),
    "H07-kid-urlsafe": ({"kid": KID.replace("+", "-")}, UnknownKey),
    "H07-kid-unpadded": ({"kid": KID.rstrip("=")}, UnknownKey),
    "H07-kid-of-another-key": ({"kid": OTHER_KID}, InvalidSignature),
}


@pytest.mark.parametrize(("changes", "reason"), BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_case_header(
    changes: dict[str, Any],
    reason: type[InvalidTokenError],
    signer: Signer,
    keys: KeySet,
) -> None:
    """A well-signed ID token with one wrong header parameter is refused."""
    with pytest.raises(InvalidTokenError) as caught:
        login(compact({**HEADER, **changes}, CLAIMS, signer), keys)
    assert type(caught.value) is reason


@pytest.mark.parametrize("typ", ["JWT", "jwt", "Jwt"])
def test_typ_is_not_case_sensitive(typ: str, signer: Signer, keys: KeySet) -> None:
    assert login(compact({**HEADER, "typ": typ}, CLAIMS, signer), keys) == CLAIMS


def test_an_unknown_header_parameter_is_ignored(signer: Signer, keys: KeySet) -> None:
    assert login(compact({**HEADER, "new": [1]}, CLAIMS, signer), keys) == CLAIMS


def test_case_h08_a_token_cannot_bring_its_key(
    signer: Signer, stranger: Signer, keys: KeySet
) -> None:
    """H08: jwk, jku, x5u and x5c neither help a forger nor harm anybody else."""
    brought = {
        **HEADER,
        "jwk": stranger.jwk(),
        "jku": "https://evil.example/jwks",
        "x5u": "https://evil.example/x",
        "x5c": ["A" * 2000],
    }
    with pytest.raises(InvalidSignature):
        login(compact(brought, CLAIMS, stranger), keys)
    assert login(compact(brought, CLAIMS, signer), keys) == CLAIMS


NESTED = b'{"a":' + b"[" * 20_000 + b"]" * 20_000 + b"}"
NO_TOKENS: dict[str, str] = {
    "empty": "",
    "opaque": "opaque",
    "dots": "..",
    "two-parts": "e30.e30",
    "four-parts": "e30.e30.e30.e30",
    "jwe": "e30.e30.e30.e30.e30",
    "spaces": " e30.e30.e30 ",
    "newline": "e30.e30.e30\n",
    "non-ascii": "e30.é30.e30",
    "padding": "e30=.e30.e30",
    "plus": "e3+.e30.e30",
    "length": "e.e30.e30",
    "spare-bits": "e31.e30.e30",
    "megabyte": "e30." + "A" * 1_000_000 + ".e30",
    "header-list": b64(b"[]") + ".e30.e30",
    "header-null": b64(b"null") + ".e30.e30",
    "header-not-json": b64(b"{alg}") + ".e30.e30",
    "header-not-utf8": b64(b"\xff\xfe\xfd") + ".e30.e30",
    "header-nested": b64(NESTED) + ".e30.e30",
    "header-digits": b64(b'{"alg":' + b"9" * 9000 + b"}") + ".e30.e30",
}


@pytest.mark.parametrize("token", NO_TOKENS.values(), ids=NO_TOKENS)
def test_case_h12_no_token(token: str, keys: KeySet) -> None:
    """H12: what is not a compact JWS is refused before any key is touched."""
    with pytest.raises(MalformedToken):
        login(token, keys)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"null",
        b"1",
        b'"text"',
        b"{not json}",
        b"\xff\xfe\xfd",
        NESTED,
        b'{"exp": ' + b"9" * 9000 + b"}",
        b'{"exp": Infinity}',
        json.dumps(CLAIMS).encode() + b"x",
    ],
)
def test_case_h12_well_signed_nonsense(
    payload: bytes, signer: Signer, keys: KeySet
) -> None:
    """H12: a good signature does not make claims of everything."""
    with pytest.raises(MalformedToken):
        login(compact(HEADER, payload, signer), keys)


def test_a_token_of_64_kb_is_read_and_a_larger_one_is_not(
    signer: Signer, keys: KeySet
) -> None:
    """Cognito's tokens grow with custom claims, but not like this."""
    token = compact(HEADER, {**CLAIMS, "custom:x": "x" * 40_000}, signer)
    assert login(token, keys)["custom:x"]
    token = compact(HEADER, {**CLAIMS, "custom:x": "x" * 50_000}, signer)
    with pytest.raises(MalformedToken):
        login(token, keys)


def test_case_c04_an_unknown_key_is_named(stranger: Signer, keys: KeySet) -> None:
    """C04: so that the caller can fetch the key set again."""
    token = compact({**HEADER, "kid": "new"}, CLAIMS, stranger)
    with pytest.raises(UnknownKey):
        login(token, keys)
    fresh = parse_jwks({"keys": [stranger.jwk("new")]})
    assert login(token, fresh) == CLAIMS


def test_a_token_without_kid_needs_a_set_of_one_key(
    signer: Signer, stranger: Signer, keys: KeySet
) -> None:
    """OIDF kid-absent-single-jwks, kid-absent-multiple-jwks."""
    token = compact({"alg": "RS256"}, CLAIMS, signer)
    assert login(token, parse_jwks({"keys": [signer.jwk()]})) == CLAIMS
    with pytest.raises(UnknownKey):
        login(token, keys)
    with pytest.raises(InvalidSignature):
        login(token, parse_jwks({"keys": [stranger.jwk()]}))


def test_keys_that_share_a_kid_are_each_tried(signer: Signer, stranger: Signer) -> None:
    shared = parse_jwks({"keys": [stranger.jwk(), signer.jwk()]})
    assert login(compact(HEADER, CLAIMS, signer), shared) == CLAIMS
    assert login(compact(HEADER, CLAIMS, stranger), shared) == CLAIMS


def test_only_the_public_part_of_a_key_is_taken(signer: Signer) -> None:
    odd = signer.jwk(d="AQAB", p=1, oth=[], key_ops=["sign"], x5c="x", extra=None)
    keys = parse_jwks({"keys": [odd]})
    assert not keys.find(KID)[0].is_private
    assert login(compact(HEADER, CLAIMS, signer), keys) == CLAIMS


@pytest.mark.parametrize("name", ["use", "alg"])
def test_use_and_alg_may_be_absent(name: str, signer: Signer) -> None:
    jwk = {k: v for k, v in signer.jwk().items() if k != name}
    assert parse_jwks({"keys": [jwk]}).find(KID)


JUNK: list[object] = [
    None,
    1,
    "key",
    [],
    {},
    {"kty": "RSA"},
    {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": KID},
    {"kty": "oct", "k": "c2VjcmV0", "kid": KID, "alg": "HS256"},
    {"kty": ["RSA"]},
    {"kty": "RSA", "n": 1, "e": "AQAB"},
    {"kty": "RSA", "n": "", "e": "AQAB"},
    {"kty": "RSA", "n": "****", "e": "AQAB"},
    {"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": KID},
    {"kty": "RSA", "n": "_" * 1400, "e": "AQAB", "kid": KID},
    {"kty": "RSA", "n": "_" * 100_000, "e": "AQAB", "kid": KID},
]
ODD: dict[str, dict[str, object]] = {
    "enc": {"use": "enc"},
    "use-null": {"use": None},
    "RS512": {"alg": "RS512"},
    "HS256": {"alg": "HS256"},
    "kty-lower": {"kty": "rsa"},
    "e-missing": {"e": None},
    "e-0": {"e": "AA"},
    "e-1": {"e": "AQ"},
    "e-even": {"e": "BA"},
    "e-long": {"e": "_" * 400},
    "e-empty": {"e": ""},
    "n-unicode": {"n": "é" * 342},
}


@pytest.mark.parametrize("changes", ODD.values(), ids=ODD)
def test_an_unfit_key_is_skipped(changes: dict[str, object], signer: Signer) -> None:
    keys = parse_jwks({"keys": [signer.jwk("odd", **changes), signer.jwk()]})
    assert not keys.find("odd")
    assert keys.find(KID)


def test_a_short_key_is_skipped_without_a_warning() -> None:
    """1,024 bits are too few; warnings are errors here, so none is given."""
    with pytest.raises(ProviderRejected):
        parse_jwks({"keys": [Signer(1024).jwk()]})


def test_junk_in_a_key_set_is_skipped(signer: Signer) -> None:
    """OIDF ignores-unparseable-key-in-jwks."""
    keys = parse_jwks({"keys": [*JUNK, signer.jwk(kid=1), signer.jwk()], "x": 1})
    assert login(compact(HEADER, CLAIMS, signer), keys) == CLAIMS


@pytest.mark.parametrize(
    "document",
    [None, [], {}, "", 1, {"keys": None}, {"keys": {}}, {"keys": []}, {"keys": JUNK}],
)
def test_case_c07_no_key_set(document: object) -> None:
    """C07: a document without a usable key replaces nothing."""
    with pytest.raises(ProviderRejected) as caught:
        parse_jwks(document)
    assert caught.value.error == "invalid_metadata"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["keys", "kty", "n", "e", "use", "alg", "kid"]) | st.text(),
            inner | st.just("RSA"),
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_json_is_a_key_set_or_refused(document: object) -> None:
    """Whatever the document is, there is no other error."""
    with pytest.raises(ProviderRejected):
        parse_jwks({"keys": [document]})
    with pytest.raises(ProviderRejected):
        parse_jwks(document)


def numbers(size: int) -> st.SearchStrategy[str]:
    return st.binary(max_size=size).map(b64)


@given(numbers(260), numbers(10))
def test_any_numbers_are_a_key_or_skipped(n: str, e: str) -> None:
    try:
        keys = parse_jwks({"keys": [{"kty": "RSA", "kid": "k", "n": n, "e": e}]})
    except ProviderRejected:
        return
    with pytest.raises(InvalidSignature):
        login(compact({**HEADER, "kid": "k"}, CLAIMS, lambda _: bytes(256)), keys)


@given(st.text() | st.builds("{}.{}.{}".format, st.text(), st.text(), st.text()))
def test_any_text_is_refused(keys: KeySet, token: str) -> None:
    with pytest.raises(InvalidTokenError):
        login(token, keys)


@given(st.dictionaries(st.sampled_from([*HEADER, "typ", "crit", "jwk", "b64"]), JSON))
def test_any_header_gives_claims_or_a_named_error(
    signer: Signer, keys: KeySet, changes: dict[str, Any]
) -> None:
    """Whatever the header holds, there is no other error."""
    try:
        claims = login(compact({**HEADER, **changes}, CLAIMS, signer), keys)
    except InvalidTokenError:
        return
    assert claims == CLAIMS


@given(st.dictionaries(st.sampled_from([*CLAIMS, "nbf", "azp"]), JSON))
def test_any_claims_give_claims_or_a_named_error(
    signer: Signer, keys: KeySet, changes: dict[str, Any]
) -> None:
    """Whatever is signed, there is no other error, and identity is never guessed."""
    token = compact(HEADER, {**CLAIMS, **changes}, signer)
    for verify in (login, refresh):
        try:
            claims = verify(token, keys)
        except InvalidTokenError:
            continue
        assert claims["iss"] == ISSUER
        assert claims["aud"] in (CLIENT, [CLIENT])


def test_no_error_holds_a_token_or_a_claim(signer: Signer, keys: KeySet) -> None:
    """J01: messages and representations are silent about what they refuse."""
    token = compact({**HEADER, "kid": "secret-kid"}, CLAIMS, signer)
    with pytest.raises(UnknownKey) as caught:
        login(token, keys)
    assert "secret-kid" not in str(caught.value)
    assert KID not in repr(keys)
