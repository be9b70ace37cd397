"""The people who can sign in."""

from __future__ import annotations

import hmac
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

DEFAULT_PASSWORD = "password"  # noqa: S105 - shown on the sign-in page of a toy


@dataclass
class User:
    """A user of the pool.

    Attributes:
        sub: the user's lasting identifier, UUID-shaped.
        username: what `cognito:username` says; equals `sub` where people sign in by
            e-mail address, `Provider_id` for federated users.
        attributes: standard attributes and `custom:*`, as the ID token names them.
        groups: names of groups, for `cognito:groups`.
        identities: the `identities` claim of a federated user, else empty.
        enabled: a disabled user can neither sign in nor refresh.
    """

    sub: str
    username: str
    email: str
    password: str = field(repr=False)
    attributes: dict[str, Any] = field(default_factory=dict)
    groups: tuple[str, ...] = ()
    identities: list[dict[str, Any]] = field(default_factory=list)
    enabled: bool = True

    @property
    def name(self) -> str:
        """The display name, or the e-mail address of a user without one."""
        return str(self.attributes.get("name", self.email))


class Directory:
    """All users of one pool, by e-mail address (its case does not matter)."""

    def __init__(self, pool_id: str) -> None:
        self._pool_id = pool_id
        self._users: dict[str, User] = {}

    def __iter__(self) -> Iterator[User]:
        return iter(list(self._users.values()))

    def add(
        self,
        email: str,
        *,
        password: str = DEFAULT_PASSWORD,
        name: str | None = None,
        groups: Iterable[str] = (),
        attributes: Mapping[str, Any] | None = None,
        provider: str | None = None,
    ) -> User:
        """Add a user, or replace the one with this address; `sub` stays the same."""
        # The same address gets the same `sub` after a restart of the pool.
        sub = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{self._pool_id}/{email.lower()}"))
        user = User(
            sub=sub,
            username=_username(sub, provider),
            email=email,
            password=password,
            attributes=_attributes(email, name, attributes),
            groups=tuple(groups),
            identities=_identities(sub, provider),
        )
        self._users[email.lower()] = user
        return user

    def find(self, email: str) -> User | None:
        """Return the user with this address, or None."""
        return self._users.get(email.strip().lower())

    def get(self, email: str) -> User:
        """Return the user with this address; KeyError when there is none."""
        return self._users[email.strip().lower()]

    def remove(self, email: str) -> None:
        """Delete the user with this address; KeyError when there is none."""
        del self._users[email.strip().lower()]

    def by_sub(self, sub: str) -> User | None:
        """Return the enabled user with this `sub`, or None."""
        users = (user for user in self if user.sub == sub and user.enabled)
        return next(users, None)

    def authenticate(self, email: str, password: str) -> User | None:
        """Return the user whose address and password these are, or None."""
        user = self.find(email)
        if user is None:
            return None
        same = hmac.compare_digest(user.password.encode(), password.encode())
        return user if same else None


def _username(sub: str, provider: str | None) -> str:
    return f"{provider}_{sub[:8]}" if provider else sub


def _attributes(
    email: str, name: str | None, attributes: Mapping[str, Any] | None
) -> dict[str, Any]:
    named = {"name": name} if name else {}
    return {"email": email, "email_verified": True, **named, **(attributes or {})}


def _identities(sub: str, provider: str | None) -> list[dict[str, Any]]:
    if provider is None:
        return []
    identity = {
        "dateCreated": "1753660800000",
        "userId": sub[:8],
        "providerName": provider,
        "providerType": provider,
        "issuer": None,
        "primary": "true",
    }
    return [identity]


def add_default_users(directory: Directory) -> None:
    """Add Alice (groups admin and users) and Bob (users), with ordinary profiles."""
    directory.add(
        "alice@example.com",
        name="Alice Liddell",
        groups=("admin", "users"),
        attributes=_profile("Alice", "Liddell", "rabbit-hole"),
    )
    directory.add(
        "bob@example.com",
        name="Bob Sawyer",
        groups=("users",),
        attributes=_profile("Bob", "Sawyer", "lant-street"),
    )


def _profile(given: str, family: str, tenant: str) -> dict[str, Any]:
    return {
        "given_name": given,
        "family_name": family,
        "preferred_username": given.lower(),
        "locale": "en-GB",
        "zoneinfo": "Europe/London",
        "phone_number": "+442079460042",
        "phone_number_verified": False,
        "picture": f"https://pictures.example.com/people/{given.lower()}.png",
        "website": f"https://{given.lower()}.example.com/",
        "updated_at": 1753660800,
        "custom:tenant": tenant,
        "custom:employee_id": "0042",
    }
