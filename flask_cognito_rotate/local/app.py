"""The pool's web pages and endpoints, as a Flask application."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from authlib.oauth2 import OAuth2Error
from flask import (
    Blueprint,
    Flask,
    Response,
    abort,
    current_app,
    jsonify,
    redirect,
    render_template,
    request,
)
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as AnyResponse

from .claims import user_info
from .loopback import is_loopback
from .oauth import CognitoServer
from .pool import BrowserSession
from .users import DEFAULT_PASSWORD, User

if TYPE_CHECKING:
    from .pool import LocalUserPool

# Browsers hold redirects after a form to `form-action`, and the application's callback
# may redirect on to anywhere, so the schemes are all that can be named here.
_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; "
    "frame-ancestors 'none'; form-action 'self' http: https:"
)
_BAD_OPERATION = {
    "code": "BadRequest",
    "message": "The server did not understand the operation that was requested.",
    "type": "client",
}

documents = Blueprint("documents", __name__)
bp = Blueprint("pool", __name__)


def create_app(pool: LocalUserPool) -> Flask:
    """Make the application that serves `pool`."""
    app = Flask(__name__)
    app.config["PROPAGATE_EXCEPTIONS"] = True
    app.extensions["local_pool"] = pool
    app.extensions["local_oauth"] = CognitoServer(app, pool)
    app.register_blueprint(documents, url_prefix=f"/{pool.pool_id}")
    app.register_blueprint(bp)
    app.before_request(_refuse_strange_hosts)
    app.after_request(_harden)
    return app


def _pool() -> LocalUserPool:
    pool: LocalUserPool = current_app.extensions["local_pool"]
    return pool


def _oauth() -> CognitoServer:
    server: CognitoServer = current_app.extensions["local_oauth"]
    return server


def _refuse_strange_hosts() -> None:
    # A name of the attacker's that resolves to 127.0.0.1 (DNS rebinding).
    if not is_loopback(urlsplit(request.url_root).hostname or ""):
        abort(400, "The local user pool is reached by a loopback address only.")


def _harden(response: Response) -> Response:
    response.headers["X-Content-Type-Options"] = "nosniff"
    if response.mimetype == "text/html":
        response.headers["Content-Security-Policy"] = _POLICY
        response.headers["Referrer-Policy"] = "same-origin"
        response.headers["Cache-Control"] = "no-store"
    return response


# Documents


@documents.get("/.well-known/openid-configuration")
def discovery() -> Response:
    """Answer the discovery document."""
    return jsonify(_pool().discovery())


@documents.get("/.well-known/jwks.json")
def jwks() -> Response:
    """Answer the public keys."""
    return jsonify(_pool().jwks())


@documents.route("/<operation>", methods=["GET", "POST"])
def no_domain(operation: str) -> tuple[Response, int]:
    """Answer as the endpoints of a pool without a domain do."""
    return jsonify(_BAD_OPERATION), 400


# Signing in


def _cookie_name() -> str:
    # Browsers share cookies between the ports of one host.
    return f"cognito_local_pool_{_pool().port}"


def _signed_in() -> BrowserSession | None:
    return _pool().browser(request.cookies.get(_cookie_name()))


@bp.get("/oauth2/authorize")
def authorize() -> AnyResponse:
    """Send a code back, or the browser to the sign-in page."""
    _needs_domain()
    problem = _refusal()
    if problem is not None:
        return problem
    session, prompt = _signed_in(), request.args.get("prompt", "").split()
    if "none" in prompt and session is None:
        return _back(error="login_required")
    if session is None or {"login", "select_account"} & set(prompt):
        return redirect(f"/login?{_query()}")
    return _send_code(session)


@bp.get("/login")
def login_page() -> AnyResponse:
    """Show the sign-in page."""
    _needs_domain()
    return _refusal() or _login_page(request.args.get("login_hint", ""))


@bp.post("/login")
def login() -> AnyResponse:
    """Check e-mail address and password; send a code back."""
    _needs_domain()
    if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
        abort(403)
    problem = _refusal()
    if problem is not None:
        return problem
    email = request.form.get("username", "")
    user = _pool().users.authenticate(email, request.form.get("password", ""))
    if user is None or not user.enabled:
        return _login_page(email, _why_not(user), 401)
    return _signing_in(user)


def _why_not(user: User | None) -> str:
    return "User is disabled." if user else "Incorrect username or password."


def _signing_in(user: User) -> AnyResponse:
    pool = _pool()
    pool.close_browser(request.cookies.get(_cookie_name()))
    cookie = pool.open_browser(user)
    session = pool.browser(cookie)
    if session is None:
        abort(401)
    response = _send_code(session)
    response.set_cookie(_cookie_name(), cookie, httponly=True, samesite="Lax")
    return response


def _login_page(email: str, problem: str | None = None, status: int = 200) -> Response:
    users = [user for user in _pool().users if user.password == DEFAULT_PASSWORD]
    page = render_template(
        "login.html",
        action=f"/login?{_query()}",
        email=email,
        problem=problem,
        provider=request.args.get("identity_provider"),
        users=users,
        password=DEFAULT_PASSWORD,
        destination=request.args["redirect_uri"],
    )
    return Response(page, status=status)


def _refusal() -> AnyResponse | None:
    """Return what to answer to an authorization request that is wrong, or None."""
    if _pool().client_id != request.args.get("client_id"):
        return _error_page("invalid_request", "Client does not exist")
    if not _pool().redirect_allowed(request.args.get("redirect_uri", "")):
        return _error_page("redirect_mismatch")
    try:
        _oauth().get_consent_grant()
    except OAuth2Error as error:
        return _back(**_error_parameters(error))
    return None


def _error_parameters(error: OAuth2Error) -> dict[str, str]:
    if error.error == "unsupported_response_type":
        implicit = request.args.get("response_type") == "token"
        return {"error": "unauthorized_client" if implicit else "invalid_request"}
    description = error.get_error_description()
    described = {"error_description": description} if description else {}
    return {"error": error.error, **described}


def _send_code(session: BrowserSession) -> AnyResponse:
    server = _oauth()
    grant = server.get_consent_grant(end_user=session)
    response: Response = server.create_authorization_response(
        grant_user=session, grant=grant
    )
    return response


def _back(**parameters: str) -> AnyResponse:
    uri = request.args["redirect_uri"]
    state = {"state": request.args["state"]} if request.args.get("state") else {}
    return redirect(_with_query(uri, {**parameters, **state}))


def _with_query(uri: str, parameters: Mapping[str, str]) -> str:
    return f"{uri}{'&' if '?' in uri else '?'}{urlencode(parameters)}"


def _query() -> str:
    return request.query_string.decode("ascii", "replace")


def _error_page(error: str, description: str | None = None) -> AnyResponse:
    described = {"error_description": description} if description else {}
    return redirect(_with_query("/error", {"error": error, **described}))


@bp.get("/error")
def error() -> tuple[str, int]:
    """Show what is wrong with a request that cannot be sent back."""
    code = request.args.get("error", "error")
    description = request.args.get("error_description") or _REMEDIES.get(code)
    page = render_template("error.html", error=code, description=description)
    return page, 400


_REMEDIES = {
    "redirect_mismatch": (
        "The redirect_uri is not an allowed callback URL of the app client. "
        "It has to match one character for character."
    ),
}


def _needs_domain() -> None:
    if not _pool().domain:
        abort(404)


# Tokens


@bp.post("/oauth2/token")
def token() -> AnyResponse:
    """Redeem a code or a refresh token."""
    _needs_domain()
    # Looking a token up, answering and rotating must be one step: of two requests with
    # the same refresh token and no grace period, one has to fail.
    with _pool().lock:
        response: Response = _oauth().create_token_response()
    return _open_to_all_origins(response)


@bp.post("/oauth2/revoke")
def revoke() -> AnyResponse:
    """Revoke a refresh token and its descendants."""
    _needs_domain()
    response: Response = _oauth().create_endpoint_response("revocation")
    return _open_to_all_origins(response)


def _open_to_all_origins(response: Response) -> Response:
    response.headers["Access-Control-Allow-Origin"] = "*"
    return response


@bp.route("/oauth2/userInfo", methods=["GET", "POST"])
def userinfo() -> AnyResponse:
    """Tell who an access token stands for."""
    _needs_domain()
    bearer = request.authorization
    if bearer is None or bearer.type != "bearer" or not bearer.token:
        return _challenge(400, "invalid_request", "Access token is missing")
    found = _pool().access_token_user(bearer.token)
    if found is None or "openid" not in found[1].split():
        return _challenge(401, "invalid_token", "Access token is invalid")
    return jsonify(user_info(*found))


def _challenge(status: int, error: str, description: str) -> Response:
    response = jsonify(error=error, error_description=description)
    response.status_code = status
    response.headers["WWW-Authenticate"] = (
        f'Bearer error="{error}", error_description="{description}"'
    )
    return response


# Signing out


@bp.get("/logout")
def logout() -> AnyResponse:
    """Forget the browser, then go to `logout_uri` or to the sign-in page."""
    _needs_domain()
    if _pool().client_id != request.args.get("client_id"):
        return _error_page("invalid_request", "Client does not exist")
    response = _after_logout(request.args)
    if response.status_code == 302:
        _pool().close_browser(request.cookies.get(_cookie_name()))
        response.delete_cookie(_cookie_name(), httponly=True, samesite="Lax")
    return response


def _after_logout(args: Mapping[str, Any]) -> AnyResponse:
    if "logout_uri" in args:
        if _pool().logout_allowed(args["logout_uri"]):
            return redirect(args["logout_uri"])
        return _bad_logout("The logout_uri is not an allowed sign-out URL.")
    if "redirect_uri" not in args:
        return _bad_logout("Required String parameter 'redirect_uri' is not present")
    return redirect(f"/login?{_query()}")


def _bad_logout(description: str) -> Response:
    page = render_template(
        "error.html", error="invalid_request", description=description
    )
    return Response(page, status=400)


# The rest


@bp.get("/favicon.ico")
def favicon() -> tuple[str, int]:
    """Have no icon, but no failure in the browser's console either."""
    return "", 204


@bp.get("/")
def index() -> str:
    """Say what this is."""
    return render_template("index.html", pool=_pool())


@bp.app_errorhandler(HTTPException)
def plain_error(error: HTTPException) -> tuple[str, int]:
    """Show 404 and the like as a page of the pool."""
    page = render_template(
        "error.html", error=error.name, description=error.description
    )
    return page, error.code or 500
