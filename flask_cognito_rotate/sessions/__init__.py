"""The session and its two homes: the sealed cookie and the record in the cache."""

from .cookie import CookieCodec, CookieTooLarge, OpenedCookie, slim
from .record import Handle, Record, Records, Session, State
from .transactions import Transactions

__all__ = [
    "CookieCodec",
    "CookieTooLarge",
    "Handle",
    "OpenedCookie",
    "Record",
    "Records",
    "Session",
    "State",
    "Transactions",
    "slim",
]
