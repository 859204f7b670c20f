"""The identity provider: authorization code flow of OpenID Connect with PKCE, state and nonce, by django-allauth.

Beyond the library: the nonce, the signature of the identity token, the issuer of the discovery document, and that every
URL is https.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from typing import Any, Final

import jwt
import requests
from allauth.socialaccount.adapter import get_adapter
from allauth.socialaccount.models import SocialApp
from allauth.socialaccount.providers.oauth2.client import OAuth2Error
from allauth.socialaccount.providers.openid_connect.provider import OpenIDConnectProvider
from allauth.socialaccount.providers.openid_connect.views import OpenIDConnectOAuth2Adapter
from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.urls import reverse
from django.utils.crypto import constant_time_compare

from audit_app.models import masked
from dlqsite.sign_in.policy import issuer, url_problem
from wire.visible_text import one_line

log = logging.getLogger(__name__)

#: Algorithms of signatures. Those with a shared secret are not among them.
ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
#: Seconds by which the provider's clock can differ.
LEEWAY_S: Final = 30
#: Maximum length of a user's id, as the library stores it.
MAX_ID: Final = 191
#: Groups of a user beyond this number are not read.
MAX_GROUPS: Final = 2000
_ENDPOINTS: Final = ("authorization_endpoint", "token_endpoint", "jwks_uri")


class Refused(Exception):
    """The sign-in did not succeed. ``heading`` and ``said`` are for the page."""

    status = HTTPStatus.FORBIDDEN
    heading = "You are not signed in"
    #: Whether it gets a line in the audit log.
    is_recorded = True

    def __init__(self, said: str) -> None:
        super().__init__(said)
        self.said = said


class NotStarted(Refused):
    """The browser has no such sign-in; anyone can cause this."""

    is_recorded = False


class Unavailable(Refused):
    """The provider does not respond, or its response cannot be used."""

    status = HTTPStatus.BAD_GATEWAY
    is_recorded = False

    @property
    def heading(self) -> str:  # type: ignore[override]
        return f"{settings.OIDC_NAME} is not available"


@dataclass(frozen=True, slots=True)
class Identity:
    """A user of the provider. Only ``issuer`` and ``subject`` identify one; the rest can be chosen by the user."""

    issuer: str
    subject: str
    groups: tuple[str, ...] = ()
    username: str = ""
    email: str = ""
    first_name: str = ""
    last_name: str = ""


class _Client(OpenIDConnectOAuth2Adapter):  # type: ignore[misc]
    """The library's client of the provider, with the configured application."""

    def get_provider(self) -> OpenIDConnectProvider:
        return _provider(self.request)

    def get_callback_url(self, request: HttpRequest, app: SocialApp) -> str:
        return request.build_absolute_uri(reverse("oidc_callback"))

    @cached_property
    def openid_config(self) -> dict[str, Any]:
        """The discovery document, checked."""
        config = _json("GET", f"{issuer()}/.well-known/openid-configuration")
        if str(config.get("issuer", "")).rstrip("/") != issuer():
            raise Unavailable(f"Its discovery document is of another issuer, {_shown(config.get('issuer'))}.")
        for name in _ENDPOINTS:
            if wrong := url_problem(str(config.get(name, ""))):
                raise Unavailable(f"{name} of its discovery document cannot be used: {one_line(wrong)}")
        config.setdefault("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        return config


def _provider(request: HttpRequest) -> OpenIDConnectProvider:
    app = SocialApp(
        provider=OpenIDConnectProvider.id,
        provider_id=issuer(),
        name=settings.OIDC_NAME,
        client_id=settings.OIDC_CLIENT_ID,
        secret=settings.OIDC_CLIENT_SECRET,
        settings={"server_url": issuer(), "oauth_pkce_enabled": True, "scope": settings.OIDC_SCOPES.split()},
    )
    provider = OpenIDConnectProvider(request, app=app)
    provider.oauth2_adapter_class = _Client
    return provider


def start(request: HttpRequest, next_url: str) -> str:
    """The provider's URL at which the user signs in. Keeps state, nonce and code verifier in the session for 10 min.

    Raises ``Unavailable``.
    """
    nonce = secrets.token_urlsafe(32)
    with _understood():
        answer = _provider(request).redirect(
            request, process="login", next_url=next_url, auth_params={"nonce": nonce}, nonce=nonce
        )
    # The library adds a second "?" to an endpoint that has a query.
    return str(answer.url) if answer.url.count("?") == 1 else "&".join(answer.url.rsplit("?", 1))


def finish(request: HttpRequest) -> tuple[Identity, str]:
    """Who signed in at the provider, and where the user wanted to go. Uses up the state.

    Raises ``NotStarted``, ``Unavailable``, or ``Refused`` if the provider or a check of its token does.
    """
    provider = _provider(request)
    try:
        state = provider.unstash_redirect_state(request, request.GET.get("state", ""))
    except PermissionDenied:
        raise NotStarted(
            "This browser has not started such a sign-in, or more than ten minutes ago. Start again."
        ) from None
    if request.GET.get("error") == "access_denied":
        raise Refused(f"{settings.OIDC_NAME} refused access, or you cancelled.")
    if error := request.GET.get("error"):
        raise Refused(f"{settings.OIDC_NAME} reports the error {_shown(error)}.")
    with _understood():
        return _identity_of_code(request, provider, state), str(state.get("next") or "")


def reachable() -> None:
    """Read the discovery document. Raises ``Unavailable``."""
    with _understood():
        _ = _Client(HttpRequest(), issuer()).openid_config


def _identity_of_code(request: HttpRequest, provider: OpenIDConnectProvider, state: Mapping[str, Any]) -> Identity:
    client = provider.get_oauth2_adapter(request)
    named = request.GET.get("iss")  # RFC 9207
    if named is not None and named != client.openid_config["issuer"]:
        raise Refused("The response is of another identity provider.")
    tokens = client.get_client(request, provider.app).get_access_token(
        request.GET.get("code", ""), pkce_code_verifier=state["pkce_code_verifier"]
    )
    claims = _verified(client.openid_config, str(tokens["id_token"]), str(state["nonce"]))
    groups = _groups(claims)
    url = client.openid_config.get("userinfo_endpoint")
    if (groups is None or "preferred_username" not in claims) and url:
        claims = {**_user_info(str(url), str(tokens["access_token"]), claims["sub"]), **claims}
        groups = _groups(claims)
    return Identity(
        issuer(),
        _subject(claims["sub"]),
        groups or (),
        *(_text(claims.get(name)) for name in ("preferred_username", "email", "given_name", "family_name")),
    )


def _verified(config: Mapping[str, Any], token: str, nonce: str) -> dict[str, Any]:
    """The claims of an identity token whose signature, issuer, audience, times and nonce are right."""
    header = jwt.get_unverified_header(token)
    keys = [key for key in _json("GET", config["jwks_uri"])["keys"] if key.get("use") != "enc"]
    key = next((key for key in keys if key.get("kid") == header.get("kid")), None)
    if key is None or header["alg"] not in ALGORITHMS:
        raise Refused("The identity token is not signed with a key of the provider.")
    claims: dict[str, Any] = jwt.decode(
        token,
        jwt.PyJWK({"alg": header["alg"], **key}),
        algorithms=list(ALGORITHMS),
        audience=settings.OIDC_CLIENT_ID,
        issuer=config["issuer"],
        leeway=LEEWAY_S,
        options={"require": ["iss", "sub", "aud", "exp", "iat", "nonce"]},
    )
    if not constant_time_compare(str(claims["nonce"]), nonce):
        raise Refused("The identity token belongs to another sign-in.")
    has_many = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
    if claims.get("azp", "" if has_many else settings.OIDC_CLIENT_ID) != settings.OIDC_CLIENT_ID:
        raise Refused("The identity token is for another application.")
    return claims


def _user_info(url: str, access_token: str, subject: str) -> dict[str, Any]:
    if wrong := url_problem(url):
        raise Unavailable(f"userinfo_endpoint of its discovery document cannot be used: {one_line(wrong)}")
    found = _json("GET", url, headers={"Authorization": f"Bearer {access_token}"})
    if found.get("sub") != subject:
        raise Refused("The provider's information is about another user.")
    return found


def _groups(claims: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The user's groups; None if the claim is missing. Its name is tried as it is, then as a path with dots."""
    name = settings.OIDC_GROUPS_CLAIM
    found: Any = claims
    for part in [name] if name in claims else name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    if isinstance(found, str):
        found = [found]
    if not isinstance(found, list):
        return None
    return tuple(group for group in found[:MAX_GROUPS] if isinstance(group, str))


def _subject(value: object) -> str:
    if not isinstance(value, str) or not value.isascii() or not value.isprintable() or not 1 <= len(value) <= MAX_ID:
        raise Refused(f"The identity token contains no usable id of a user: 1 to {MAX_ID} ASCII characters.")
    return value


def _text(value: object) -> str:
    return one_line(value)[:150].strip() if isinstance(value, str) else ""


def _json(method: str, url: str, **more: Any) -> dict[str, Any]:
    with get_adapter().get_requests_session() as session:
        answer = session.request(method, url, **more)
    if answer.status_code != HTTPStatus.OK:
        raise Unavailable(f"It responded with status {answer.status_code}.")
    found = answer.json()
    if not isinstance(found, dict):
        raise Unavailable("Its response is not a JSON object.")
    return found


@contextmanager
def _understood() -> Iterator[None]:
    """Errors of the library, of the connection, and of what the provider sent, as ``Refused`` or ``Unavailable``."""
    try:
        yield
    except jwt.ExpiredSignatureError as error:
        raise Refused("The identity token has expired. If this happens again, compare the clocks.") from error
    except jwt.PyJWTError as error:
        _log(error)
        raise Refused("The identity token is not valid.") from error
    except OAuth2Error as error:
        _log(error)
        raise Refused(f"{settings.OIDC_NAME} did not accept this sign-in. Start again.") from error
    except requests.exceptions.JSONDecodeError as error:
        _log(error)
        raise Unavailable("Its response is not JSON.") from error
    except requests.RequestException as error:
        _log(error)
        raise Unavailable("It does not respond, or its certificate is not valid.") from error
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        _log(error)
        raise Unavailable("Its response does not follow OpenID Connect.") from error


def _log(error: Exception) -> None:
    log.warning("sign-in at the provider: %s: %s", type(error).__name__, one_line(masked(str(error)))[:500])


def _shown(value: object) -> str:
    return one_line(str(value))[:100]
