"""The application that gunicorn serves in the tests; all settings come from outside."""

from __future__ import annotations

import os

from flask import Flask

from flask_cognito_rotate import CognitoAuth, current_session, login_required

app = Flask("example", instance_path=os.environ["EXAMPLE_INSTANCE"])
app.config.from_prefixed_env()
auth = CognitoAuth(app)


@app.get("/")
@login_required
def index() -> dict[str, object]:
    return {
        "user": current_session.user["email"],
        "expires": current_session.access_token_expires,
        "pid": os.getpid(),
    }
