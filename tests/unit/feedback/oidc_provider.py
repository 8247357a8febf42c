"""A small OpenID Connect provider over real HTTP: discovery, keys, codes that PKCE protects, signed ID tokens."""

import base64
import hashlib
import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.listening import Quiet, listening

CLIENT, SECRET = "feedback", "a secret with: colons & more"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
Claims = dict[str, Any]


@dataclass
class TestProvider:
    """Whoever comes is `person`; `spoil` changes the claims before they are signed with `key` under `kid`."""

    __test__ = False

    issuer: str = ""
    person: Claims = field(default_factory=lambda: {"sub": "u-1", "name": "Zoë"})
    spoil: Callable[[Claims], None] = lambda claims: None
    key: Any = KEY
    kid: str = "one"
    algorithm: str = "RS256"
    refuse: str = ""
    """Error that the browser brings back."""
    calls_itself: str = ""
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    """Code → the query of the sign-in that it stands for."""

    def signed(self, nonce: str) -> str:
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": CLIENT, "iat": now, "exp": now + 300, "nonce": nonce} | self.person
        self.spoil(claims)
        return jwt.encode(claims, self.key, self.algorithm, headers={"kid": self.kid})


@contextmanager
def provider() -> Iterator[TestProvider]:
    found = TestProvider()

    class Handler(Quiet):
        def do_GET(self) -> None:
            address = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(address.query).items()}
            if address.path == "/.well-known/openid-configuration":
                base = found.issuer
                self.send({
                    "issuer": found.calls_itself or base, "authorization_endpoint": f"{base}/authorize",
                    "token_endpoint": f"{base}/token", "jwks_uri": f"{base}/keys",
                })  # fmt: skip
            elif address.path == "/keys":
                public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(KEY.public_key()))
                self.send({"keys": [public | {"kid": "one", "use": "sig", "alg": "RS256"}]})
            else:
                self.authorize(query)

        def authorize(self, query: dict[str, str]) -> None:
            wanted = {"response_type": "code", "client_id": CLIENT, "code_challenge_method": "S256"}
            if any(query.get(name) != value for name, value in wanted.items()) or "openid" not in query["scope"]:
                self.send({"error": "invalid_request"}, 400)
                return
            code = secrets.token_urlsafe(16)
            found.codes[code] = query
            back = {"error": found.refuse} if found.refuse else {"code": code}
            self.send_response(302)
            self.send_header("location", f"{query['redirect_uri']}?{urlencode(back | {'state': query['state']})}")
            self.end_headers()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            form = {name: values[0] for name, values in parse_qs(body).items()}
            query = found.codes.pop(form.get("code", ""), None)  # a code works once
            digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
            challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
            login = "+".join(SECRET.split(" ")).replace(":", "%3A").replace("&", "%26")
            basic = "Basic " + base64.b64encode(f"{CLIENT}:{login}".encode()).decode()
            known = query is not None and query["redirect_uri"] == form.get("redirect_uri")
            if not (known and query["code_challenge"] == challenge and self.headers["authorization"] == basic):
                self.send({"error": "invalid_grant"}, 400)
                return
            token = found.signed(query["nonce"])
            self.send({"access_token": "unused", "token_type": "Bearer", "id_token": token})

        def send(self, body: Any, status: int = 200) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    with listening(Handler) as found.issuer:
        yield found
