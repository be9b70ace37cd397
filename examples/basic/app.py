"""An application whose users sign in through Cognito; it shows the tokens rotate.

Start it with ``python examples/basic/app.py``. What makes it a demo, such as the local
user pool and the buttons that break things, is in ``demo.py``; everything here is what
an application of your own would have, too.
"""

from __future__ import annotations

import hashlib
import time
from typing import Any

from demo import Demo, run
from flask import Flask, Response, g, render_template

from flask_cognito_rotate import CognitoAuth, current_session, login_required
from flask_cognito_rotate.signals import token_refreshed

# Scripts and styles come from /static only. There is no form-action: the sign-out
# form leads on to Cognito, and browsers hold redirects to it.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)
ROTATIONS_KEPT = 5


def create_app(demo: Demo) -> Flask:
    """Make the application; `demo` has its settings, its clock and its buttons."""
    app = Flask(__name__, instance_path=demo.folder)
    app.config.from_mapping(demo.settings)
    app.config.from_prefixed_env()
    auth = CognitoAuth(app, clock=demo.clock)

    @app.get("/")
    def index() -> str:
        # Open to everybody. The template asks `current_session` who is there; it is
        # false, with `retry_after`, while a token has expired and Cognito is down.
        expires = current_session.access_token_expires or 0
        return render_template(
            "index.html", demo=demo, left=max(0, round(expires - demo.clock()))
        )

    @app.get("/whoami")
    @login_required
    def whoami() -> dict[str, Any]:
        # What an API of yours would do: by now, the access token is good.
        return {
            "user": current_session.user["email"],
            "accessToken": fingerprint(current_session.access_token),
            "refreshed": "refreshed" in g,
            "refreshCalls": demo.refresh_calls,
        }

    @token_refreshed.connect_via(app)
    def mark_request(_: Flask, **__: Any) -> None:
        # Sent in the one request that asked Cognito, of however many there were.
        g.refreshed = True

    @auth.jwt_callback
    def note_rotation(
        token: dict[str, Any], *, trigger: str, **_: Any
    ) -> dict[str, Any]:
        """Keep the last rotations in the session: fingerprints, never a token."""
        new = fingerprint(token["refreshToken"])
        if trigger == "refresh":
            rotation = {"at": int(time.time()), "old": token["fingerprint"], "new": new}
            token["rotations"] = [rotation, *token["rotations"]][:ROTATIONS_KEPT]
        else:
            token["rotations"] = []
        token["fingerprint"] = new
        return token

    @app.after_request
    def harden(response: Response) -> Response:
        response.headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers.setdefault("Referrer-Policy", "same-origin")
        # After a sign-out, the back button must not show what was there before.
        response.headers["Cache-Control"] = "private, no-store"
        return response

    @app.template_filter()
    def clock_time(seconds: int) -> str:
        return time.strftime("%H:%M:%S", time.localtime(seconds))

    app.register_blueprint(demo.buttons())
    return app


def fingerprint(token: str | None) -> str:
    """Return a short name for a token that is safe to show."""
    return hashlib.sha256((token or "").encode()).hexdigest()[:12]


if __name__ == "__main__":
    run(create_app)
