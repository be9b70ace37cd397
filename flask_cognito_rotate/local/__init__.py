"""A Cognito user pool on this machine, to develop and test on.

It speaks what Amazon Cognito speaks (discovery, authorize, token, revoke, userInfo,
logout; rotation and grace period; real claims and real sizes) and can be told to
misbehave. It imports nothing else of this package, so that it cannot repeat its
mistakes, and listens on loopback only::

    with LocalUserPool() as pool:
        app.config.update(pool.config())
"""

from __future__ import annotations

from .families import Rotation
from .faults import Fault, Faults, RecordedRequest, Tamper
from .pool import LocalUserPool
from .users import User

__all__ = [
    "Fault",
    "Faults",
    "LocalUserPool",
    "RecordedRequest",
    "Rotation",
    "Tamper",
    "User",
]
