"""OAuth 2.0 and OpenID Connect as Cognito speaks them, as pure functions.

Nothing in here knows Flask, a socket, the clock, the environment or randomness:
values come in, values or errors of `flask_cognito_rotate.errors` come out.
"""
