"""Signals of what happens to sessions; the sender is the application.

None of them ever carries a token. Connect to them as to Flask's own::

    from flask_cognito_rotate.signals import user_logged_in

    @user_logged_in.connect_via(app)
    def greet(sender, user, claims): ...
"""

from __future__ import annotations

from blinker import Namespace

_namespace = Namespace()

#: A login succeeded: ``user`` (dict), ``claims`` (of the ID token).
user_logged_in = _namespace.signal("user-logged-in")
#: A login came back and was refused: ``error`` (`CognitoAuthError`).
login_failed = _namespace.signal("login-failed")
#: ``user``, ``reason``: ``"logout"`` or ``"login"`` (another login took its place).
user_logged_out = _namespace.signal("user-logged-out")
#: ``user``, ``duration`` of the call in seconds.
token_refreshed = _namespace.signal("token-refreshed")
#: ``user``, ``error``, ``duration``, ``final``: whether the session is over.
token_refresh_failed = _namespace.signal("token-refresh-failed")
#: ``user``, ``reason``: ``"logout"``, ``"login"``, ``"refused"``, ``"refresh_lost"`` or
#: ``"expired"``.
session_ended = _namespace.signal("session-ended")
