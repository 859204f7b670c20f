"""Who may do what: API keys and staff sessions, scopes, and how far X-Forwarded-For is believed. Deny by default."""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import math
import re
import threading
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import structlog
from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.db import connections
from django.http import HttpRequest
from django.http.request import split_domain_port, validate_host
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication, SessionAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from console.permissions import ADMIN, REPLAY
from dlqsite.database import AWAY
from dlqsite.models import ApiKey
from messages_app.domain.clients import Client
from messages_app.store.throttles import throttle_stranger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from django.contrib.auth.base_user import AbstractBaseUser
    from rest_framework.views import APIView

log = logging.getLogger(__name__)

#: In ``required_scopes``: this method is for everybody.
OPEN = "open"
#: The Django permission that lets staff do what a scope lets a key do. All but audit let them read, too.
SCOPE_PERMISSIONS = {
    "read": "dlq_app.view_deadletter",
    "submit": "dlqsite.submit",
    "replay": REPLAY,
    "audit": "admin.view_logentry",
    "admin": ADMIN,
}

#: A bare IPv6 address has no port: its colons belong to the address.
_HOP_WITH_PORT = re.compile(r"(?P<v4>[0-9.]{7,15}):[0-9]{1,5}|\[(?P<v6>[0-9A-Fa-f:.]{2,45})\](?::[0-9]{1,5})?")

#: Seconds for which a verified key is not asked for again: a revoked one works this long at most.
_KEEP_S = 5.0
#: Seconds before that in which the key is verified again in the background, if it is used.
_REFRESH_S = 1.5
#: Keys that are verified in the background at the same time. Others are verified by a request, after their time.
_MAX_REFRESHING = 2
#: Seconds after its last verification in which a key is still good while the database is away.
_KEEP_WHILE_AWAY_S = 600.0
#: Seconds until the database is asked again for a key that was let in without it.
_ASK_AGAIN_S = 1.0
_MAX_KEPT = 1024


@dataclass(slots=True)
class _Verified:
    key: ApiKey
    client: Client
    #: Until then (monotonic) nobody is asked.
    fresh_until: float
    #: Until then (monotonic) it is good when nobody can be asked.
    kept_until: float
    #: From then on (monotonic) the first use verifies it in the background. A key that expires before is not.
    refresh_from: float


class KeyCache:
    """Verified keys of this process.

    A key is fresh for five seconds: within that time a revoked key stops working everywhere. A key that is used shortly
    before their end is verified on a thread meanwhile. So the requests of a busy client do not all reach the database
    in the moment in which its key expires here. While the database is away a key is good for ten minutes after its last
    verification. Holds digests, not keys. Bounded: the key that was verified longest ago goes first. Threads may share
    it; at worst two look up the same key at the same time.
    """

    def __init__(self, verify: Callable[[bytes], ApiKey] | None = None) -> None:
        """``verify`` looks up a key in the background; the default asks the database."""
        self._known: dict[bytes, _Verified] = {}  # the longest ago first
        self._lock = threading.Lock()
        self._verify = verify or _key_of
        self._refreshing = threading.BoundedSemaphore(_MAX_REFRESHING)

    def get(self, authorization: bytes) -> tuple[ApiKey, Client] | None:
        """The key behind this ``Authorization`` header if it was verified a moment ago; never asks the database."""
        found, now = self._known.get(hashlib.sha256(authorization).digest()), time.monotonic()
        if found is None or found.fresh_until < now:
            return None
        if found.refresh_from <= now and self._refreshing.acquire(blocking=False):
            found.refresh_from = math.inf
            self._refresh_on_a_thread(authorization)
        return found.key, found.client

    def _refresh_on_a_thread(self, authorization: bytes) -> None:
        try:
            threading.Thread(target=self._refresh, args=(authorization,), name="key", daemon=True).start()
        except RuntimeError:  # no thread: a request verifies it after its time
            self._refreshing.release()

    def _refresh(self, authorization: bytes) -> None:
        asked_at = time.monotonic()
        try:
            self.put(authorization, self._verify(authorization), asked_at)
        except KeyRefused:
            self.forget(authorization)  # the next request is rejected, and counted as one of a stranger
        except AWAY:
            self.get_while_away(authorization)
        except Exception:
            log.exception("key_not_verified")  # a request tries it again after its time
        finally:
            self._refreshing.release()
            connections.close_all()  # this thread's

    def put(self, authorization: bytes, key: ApiKey, asked_at: float | None = None) -> Client:
        """Keep a key that the database has verified. ``asked_at`` (monotonic): before it was asked; default: now."""
        now, valid_s = time.monotonic() if asked_at is None else asked_at, float("inf")
        if key.expiry_date is not None:
            valid_s = key.expiry_date.timestamp() - time.time()
        fresh_until = now + min(_KEEP_S, valid_s)
        verified = _Verified(
            key, client_of(key), fresh_until, now + min(_KEEP_WHILE_AWAY_S, valid_s), now + _KEEP_S - _REFRESH_S
        )
        digest = hashlib.sha256(authorization).digest()
        with self._lock:
            self._known.pop(digest, None)
            if len(self._known) >= _MAX_KEPT:
                del self._known[next(iter(self._known))]
            self._known[digest] = verified
        return verified.client

    def get_while_away(self, authorization: bytes) -> tuple[ApiKey, Client] | None:
        """The key if it was verified in the last minutes. Call it only when the database has just failed to answer."""
        found = self._known.get(hashlib.sha256(authorization).digest())
        now = time.monotonic()
        if found is None or found.kept_until < now:
            return None
        found.fresh_until = min(now + _ASK_AGAIN_S, found.kept_until)
        found.refresh_from = now + _ASK_AGAIN_S / 2
        return found.key, found.client

    def forget(self, authorization: bytes) -> None:
        """The database does not know this key any more."""
        with self._lock:
            self._known.pop(hashlib.sha256(authorization).digest(), None)

    def is_useful_while_away(self) -> bool:
        """Whether any client could be let in now without the database."""
        now = time.monotonic()
        with self._lock:
            return any(verified.kept_until >= now for verified in self._known.values())

    def clear(self) -> None:
        with self._lock:
            self._known.clear()


class KeyRefused(Exception):
    """This ``Authorization`` header has no valid key. The message is for its client."""


def _key_of(authorization: bytes) -> ApiKey:
    """Ask the database for the key of this header. Raises ``KeyRefused``, or an error of an unavailable database."""
    keyword, _, given = authorization.partition(b" ")
    if keyword.lower() != ApiKeyAuthentication.keyword:
        raise KeyRefused("Use the scheme Api-Key: `Authorization: Api-Key <key>`.")
    try:
        key = cast("ApiKey", ApiKey.objects.get_from_key(given.decode("ascii").strip()))
    except (ApiKey.DoesNotExist, UnicodeDecodeError) as error:
        raise KeyRefused("This API key is unknown, revoked or expired.") from error
    if key.has_expired:
        raise KeyRefused("This API key is unknown, revoked or expired.")
    return key


known_keys = KeyCache()


def client_of(key: ApiKey) -> Client:
    """What intake needs to know about the holder of a key."""
    return Client(
        label=f"key:{key.name}",
        rate_key=f"key:{key.prefix}",
        source=key.name,
        rate_limit_per_minute=key.rate_limit_per_minute,
        may_read=bool({"read", "admin"} & set(key.scopes)),
    )


@lru_cache(maxsize=1)
def _trusted_networks(entries: tuple[str, ...]) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(ipaddress.ip_network(entry, strict=False) for entry in entries if entry != "unix")


def _is_trusted(address: str) -> bool:
    entries = tuple(settings.TRUSTED_PROXIES)
    if not entries:
        return False
    if not address:
        return "unix" in entries  # a peer on a Unix socket has no address
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    return any(parsed in network for network in _trusted_networks(entries))


def address_from(environ: Mapping[str, Any]) -> str:
    """The client's address: the peer, or, behind trusted proxies, the last hop that is none of them.

    X-Forwarded-For is read from the right and only while each hop is a trusted proxy: everything further left was
    written by whoever wanted to. Ports are left out: a client's next connection has another one. At most 45 characters;
    ``unknown`` for a socket peer without a usable header.
    """
    peer = str(environ.get("REMOTE_ADDR") or "")
    if not _is_trusted(peer):
        return peer[:45] or "unknown"
    for hop in reversed(str(environ.get("HTTP_X_FORWARDED_FOR", "")).split(",")):
        candidate = _without_port(hop.strip())
        try:
            ipaddress.ip_address(candidate)
        except ValueError:
            break
        peer = candidate
        if not _is_trusted(candidate):
            break
    return peer[:45] or "unknown"


def _without_port(hop: str) -> str:
    """The address of a hop as proxies write it: ``1.2.3.4:5678``, ``[::1]:443``, ``[::1]``, or the address alone."""
    found = _HOP_WITH_PORT.fullmatch(hop)
    return (found["v4"] or found["v6"]) if found else hop


def believed(application: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """Wrap the WSGI application: only trusted proxies can mark a request as https."""

    def without_claims(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        drop_claims(environ)
        return application(environ, start_response)

    return without_claims


def drop_claims(environ: dict[str, Any]) -> None:
    """Remove ``X-Forwarded-Proto`` of a client that is no trusted proxy. Django believes everybody or nobody."""
    if "HTTP_X_FORWARDED_PROTO" in environ and not _is_trusted(str(environ.get("REMOTE_ADDR") or "")):
        del environ["HTTP_X_FORWARDED_PROTO"]


def client_address(request: HttpRequest) -> str:
    return address_from(request.META)


def login_address(request: HttpRequest) -> str | None:
    """The client's address as a database takes it; None if there is none, or it is not one."""
    try:
        found = ipaddress.ip_address(client_address(request).partition("%")[0])
    except ValueError:
        return None
    return str(found)


def known_client(environ: Mapping[str, Any]) -> Client | None:
    """The client behind a submission if its key was verified within the last seconds and may submit; else None.

    None as well for what Django has an opinion on: a host that is not allowed, plain http where https is wanted.
    """
    known = known_keys.get(str(environ.get("HTTP_AUTHORIZATION", "")).encode("latin-1"))
    if known is None or not known[0].allows("submit"):
        return None
    if settings.SECURE_SSL_REDIRECT and not _is_secure(environ):
        return None
    return known[1] if _is_allowed(environ.get("HTTP_HOST", ""), tuple(settings.ALLOWED_HOSTS)) else None


@lru_cache(maxsize=256)
def _is_allowed(host: str, allowed: tuple[str, ...]) -> bool:
    return validate_host(split_domain_port(host)[0], allowed)


def _is_secure(environ: Mapping[str, Any]) -> bool:
    if settings.SECURE_PROXY_SSL_HEADER:
        header, value = settings.SECURE_PROXY_SSL_HEADER
        if header in environ:
            return bool(str(environ[header]).partition(",")[0].strip() == value)
    return environ.get("wsgi.url_scheme") == "https"


class ApiKeyAuthentication(BaseAuthentication):
    """``Authorization: Api-Key <key>``. Sets ``request.auth`` to the key, ``request.actor`` and ``request.client``."""

    keyword = b"api-key"

    def authenticate(self, request: Request) -> tuple[Any, ApiKey] | None:
        header = get_authorization_header(request)
        if not header:
            return None
        key, client = known_keys.get(header) or self._verify(request, header)
        _introduce(request, client)
        from django.contrib.auth.models import AnonymousUser

        return AnonymousUser(), key

    def _verify(self, request: Request, header: bytes) -> tuple[ApiKey, Client]:
        asked_at = time.monotonic()
        try:
            key = _key_of(header)
        except AWAY:
            if known := known_keys.get_while_away(header):
                return known
            raise
        except KeyRefused as error:
            known_keys.forget(header)
            throttle_stranger(client_address(request))
            raise AuthenticationFailed(str(error)) from error
        return key, known_keys.put(header, key, asked_at)

    def authenticate_header(self, request: Request) -> str:
        return 'Api-Key realm="api"'


class StaffSession(SessionAuthentication):
    """A signed-in member of staff, with CSRF. Others who are signed in are strangers here."""

    def authenticate(self, request: Request) -> tuple[AbstractBaseUser, None] | None:
        user = getattr(request._request, "user", None)
        if not user or not user.is_active or not user.is_staff:
            return None
        self.enforce_csrf(request)
        name = user.get_username()
        _introduce(request, Client(label=f"user:{name}", rate_key=f"user:{user.pk}", source="api"))
        return user, None


def _introduce(request: Request, client: Client) -> None:
    request.actor = client.label  # type: ignore[attr-defined]
    request.client = client  # type: ignore[attr-defined]
    structlog.contextvars.bind_contextvars(actor=client.label)


def may_look(user: Any) -> bool:
    """Whether a staff user can see figures and records: any permission of a scope is enough.

    Without a role, nothing.
    """
    others = (permission for scope, permission in SCOPE_PERMISSIONS.items() if scope != "audit")
    return any(user.has_perm(permission) for permission in others)


def must_look(request: HttpRequest) -> None:
    """Raise ``PermissionDenied`` unless the member of staff who asks may see anything."""
    if not may_look(request.user):
        raise PermissionDenied("You have no role yet, so there is nothing that you may see.")


def may(request: Request, scope: str) -> bool:
    """Whether the sender has ``scope``, by the scopes of a key or the permissions of a staff user."""
    if isinstance(request.auth, ApiKey):
        return request.auth.allows(scope)
    user = request.user
    if not (user and user.is_active and getattr(user, "is_staff", False)):
        return False
    if user.has_perm(SCOPE_PERMISSIONS["admin"]):
        return True
    if scope == "read":
        return may_look(user)
    return scope in SCOPE_PERMISSIONS and user.has_perm(SCOPE_PERMISSIONS[scope])


class HasScope(BasePermission):
    """A view names the scope of each method, ``required_scopes = {"GET": "read"}``; what it does not name is denied."""

    message = "You do not have permission for this."

    def has_permission(self, request: Request, view: APIView) -> bool:
        method = "GET" if request.method == "HEAD" else str(request.method)
        scope = getattr(view, "required_scopes", {}).get(method)
        if scope == OPEN:
            return True
        if not request.authenticators:
            return not hasattr(view, method.lower())  # a view that is open to all: 405 for what it does not have
        if getattr(request, "client", None) is None:
            throttle_stranger(client_address(request))
            return False
        if scope is None:
            # The view answers 405 itself (OPTIONS is switched off), but no handler runs that forgot to name its scope.
            return method == "OPTIONS" or not hasattr(view, method.lower())
        if may(request, scope):
            return True
        self.message = f"This needs the scope `{scope}`."
        return False


class ApiKeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "dlqsite.access.ApiKeyAuthentication"
    name = "apiKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {
            "type": "apiKey",
            "in": "header",
            "name": "Authorization",
            "description": "`Api-Key <key>`, made by `manage.py create_api_key` or in the admin.",
        }


class StaffSessionScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "dlqsite.access.StaffSession"
    name = "staffSession"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "apiKey", "in": "cookie", "name": settings.SESSION_COOKIE_NAME}
