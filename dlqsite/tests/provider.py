"""A small identity provider of OpenID Connect on loopback, with everything that can be wrong with one.

It has one user at a time, who is always signed in: ``authorize`` redirects back at once. Codes are used once and are
bound to PKCE, client and redirect URI, as the specification wants.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

CLIENT_ID, CLIENT_SECRET = "dlq-console", "a secret of the client"


@cache
def key(name: str) -> rsa.RSAPrivateKey:
    """A key of this name, one per process: making one takes a while."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@dataclass
class Provider:
    """Listens from ``with running()`` on. Attributes may be changed at any time."""

    claims: dict[str, Any] = field(default_factory=lambda: {"sub": "4711", "preferred_username": "grace"})
    #: Beside the identity token, at ``/userinfo``; None: the provider has no such address.
    user_info: dict[str, Any] | None = None
    signed_with: str = "right"
    algorithm: str = "RS256"
    #: Changes the claims of the identity token, nonce included.
    forged: Callable[[dict[str, Any]], dict[str, Any]] = lambda claims: claims
    discovery: dict[str, Any] = field(default_factory=dict)
    #: Path → status with which it answers.
    broken: dict[str, int] = field(default_factory=dict)
    #: Its key set, if not the right one.
    keys: Any = "right"
    #: Error with which it sends users back.
    denied: str = ""
    issuer: str = ""
    asked: list[str] = field(default_factory=list)
    _codes: dict[str, dict[str, str]] = field(default_factory=dict)

    @contextlib.contextmanager
    def running(self) -> Iterator[Provider]:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider._answer(self, "")

            def do_POST(self) -> None:
                provider._answer(self, self.rfile.read(int(self.headers["Content-Length"])).decode())

            def log_message(self, *_: Any) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            self.issuer = f"http://127.0.0.1:{server.server_port}"
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()

    def _answer(self, request: BaseHTTPRequestHandler, body: str) -> None:
        url = urlsplit(request.path)
        self.asked.append(url.path)
        given = {name: values[0] for name, values in parse_qs(body or url.query).items()}
        if status := self.broken.get(url.path):
            return _send(request, status, {"error": "server_error"})
        if url.path == "/.well-known/openid-configuration":
            return _send(request, 200, self._configuration())
        if url.path == "/keys":
            public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key("right").public_key()))
            right = [{**public, "kid": "1", "use": "sig", "alg": "RS256"}]
            return _send(request, 200, {"keys": right if self.keys == "right" else self.keys})
        if url.path == "/authorize":
            request.send_response(302)
            request.send_header("Location", self._sent_back(given))
            request.end_headers()
            return None
        if url.path == "/token":
            return _send(request, *self._tokens(given, request.headers.get("Authorization", "")))
        if url.path == "/userinfo" and request.headers.get("Authorization") == "Bearer access":
            return _send(request, 200, self.user_info)
        return _send(request, 404, {})

    def _configuration(self) -> dict[str, Any]:
        found = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
        }
        if self.user_info is not None:
            found["userinfo_endpoint"] = f"{self.issuer}/userinfo"
        return {**found, **self.discovery}

    def _sent_back(self, given: dict[str, str]) -> str:
        if self.denied:
            return f"{given['redirect_uri']}?{urlencode({'error': self.denied, 'state': given['state']})}"
        assert given["client_id"] == CLIENT_ID
        assert given["response_type"] == "code"
        assert given["code_challenge_method"] == "S256"
        assert "openid" in given["scope"].split()
        code = secrets.token_urlsafe(16)
        self._codes[code] = given
        return f"{given['redirect_uri']}?{urlencode({'code': code, 'state': given['state']})}"

    def _tokens(self, given: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        asked = self._codes.pop(given.get("code", ""), None)
        basic = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
        digest = hashlib.sha256(given.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if asked is None or authorization != f"Basic {basic}" or given["redirect_uri"] != asked["redirect_uri"]:
            return 400, {"error": "invalid_grant"}
        if challenge != asked["code_challenge"]:
            return 400, {"error": "invalid_grant", "error_description": "PKCE"}
        now = int(time.time())
        own = {"iss": self.issuer, "aud": CLIENT_ID, "iat": now, "exp": now + 300, "nonce": asked["nonce"]}
        claims = self.forged({**own, **self.claims})
        signing_key: Any = key(self.signed_with) if self.algorithm == "RS256" else ("x" * 32)
        if self.algorithm == "none":
            signing_key = None
        token = jwt.encode(claims, signing_key, algorithm=self.algorithm, headers={"kid": "1"})
        return 200, {"access_token": "access", "token_type": "Bearer", "id_token": token}


def _send(request: BaseHTTPRequestHandler, status: int, body: Any) -> None:
    data = json.dumps(body).encode()
    request.send_response(status)
    request.send_header("Content-Type", "application/json")
    request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    request.wfile.write(data)
