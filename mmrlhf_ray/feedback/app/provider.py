"""What the app says to an OpenID Connect provider, and whether it believes the answer.

Authorization code flow with PKCE (OpenID Connect Core 1.0, section 3.1; RFC 7636). PyJWT checks signatures and times.
"""

import base64
import hashlib
import hmac
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus, urlencode

import httpx
import jwt

from mmrlhf_ray.config import OidcConfig
from mmrlhf_ray.feedback.collect.accounts import new_secret
from mmrlhf_ray.feedback.errors import N_, Refused, Unanswered

_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures with a public key; neither `none` nor those with a secret."""
_LEEWAY_S = 60
"""By which the clocks may differ."""
_REASONS: tuple[tuple[type[jwt.PyJWTError], str], ...] = (
    (jwt.ExpiredSignatureError, N_("the sign-in has expired; begin again")),
    (
        jwt.ImmatureSignatureError,
        N_("the sign-in is from the future; clocks differ"),
    ),
    (jwt.InvalidAudienceError, N_("the sign-in is meant for another application")),
    (jwt.InvalidIssuerError, N_("the sign-in is of another provider")),
    (jwt.InvalidSignatureError, N_("the signature of the sign-in is wrong")),
    (jwt.MissingRequiredClaimError, N_("the sign-in lacks what is required")),
)
_OTHERWISE = N_("the sign-in cannot be read")
_log = logging.getLogger("uvicorn.error")


@dataclass(frozen=True)
class Attempt:
    """The secrets of one sign-in, which stay with the browser that began it."""

    state: str
    nonce: str
    verifier: str

    @classmethod
    def new(cls) -> "Attempt":
        return cls(new_secret(), new_secret(), new_secret())

    @classmethod
    def of(cls, cookie: str) -> "Attempt | None":
        """None for a cookie that is not one of ours."""
        parts = cookie.split(".")
        return cls(*parts) if len(parts) == 3 and all(parts) else None

    @property
    def cookie(self) -> str:
        return f"{self.state}.{self.nonce}.{self.verifier}"


class Provider:
    """The provider; what it publishes is asked anew for each sign-in, as there are few."""

    def __init__(self, config: OidcConfig) -> None:
        self._config = config

    def address(self, attempt: Attempt) -> str:
        """Where the browser goes to sign in. Raises Unanswered."""
        config = self._config
        digest = hashlib.sha256(attempt.verifier.encode()).digest()
        query = {
            "response_type": "code",
            "client_id": config.client_id,
            "redirect_uri": config.redirect_url,
            "scope": " ".join(config.scopes),
            "state": attempt.state,
            "nonce": attempt.nonce,
            "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        endpoint = self._published("authorization_endpoint")["authorization_endpoint"]
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}"

    def claims(self, code: str, attempt: Attempt) -> Mapping[str, Any]:
        """The checked claims of the ID token that a code stands for. Raises Unanswered, and Refused with the reason."""
        published = self._published("token_endpoint", "jwks_uri")
        token = self._redeemed(published["token_endpoint"], code, attempt)
        try:
            return self._checked(token, self._asked("GET", published["jwks_uri"]), attempt.nonce)
        except jwt.PyJWTError as error:
            _log.warning("oidc: the ID token is refused: %s: %s", type(error).__name__, error)
            reason = next((said for kind, said in _REASONS if isinstance(error, kind)), _OTHERWISE)
            raise Refused(reason) from error

    def _redeemed(self, endpoint: str, code: str, attempt: Attempt) -> str:
        config = self._config
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": config.redirect_url,
            "code_verifier": attempt.verifier,
            "client_id": config.client_id,
        }
        secret = config.client_secret
        # As every provider takes it (RFC 6749, section 2.3.1).
        login = (quote_plus(config.client_id), quote_plus(secret.get_secret_value())) if secret else None
        token = self._asked("POST", endpoint, form, login).get("id_token")
        if not isinstance(token, str):
            raise self._silent(endpoint, "its answer has no id_token")
        return token

    def _checked(self, token: str, keys: Mapping[str, Any], nonce: str) -> Mapping[str, Any]:
        header = jwt.get_unverified_header(token)
        known = jwt.PyJWKSet.from_dict(dict(keys)).keys
        usable = [key for key in known if header.get("kid") in (None, key.key_id)]
        if len(usable) != 1:
            _log.warning("oidc: no key %r among %s", header.get("kid"), [key.key_id for key in known])
            raise Refused(N_("the sign-in is signed with an unknown key"))
        claims: dict[str, Any] = jwt.decode(
            token,
            usable[0],
            algorithms=list(_ALGORITHMS),
            audience=self._config.client_id,
            issuer=self._config.issuer,
            leeway=_LEEWAY_S,
            options={"require": ["iss", "sub", "aud", "exp", "iat", "nonce"]},
        )
        several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
        if claims.get("azp", None if several else self._config.client_id) != self._config.client_id:
            raise Refused(N_("the sign-in is meant for another application"))
        if not hmac.compare_digest(str(claims["nonce"]).encode(), nonce.encode()):
            raise Refused(N_("the sign-in belongs to another attempt; begin again"))
        if not isinstance(claims["sub"], str) or not 1 <= len(claims["sub"]) <= 255:
            raise Refused(N_("the sign-in lacks what is required"))
        return claims

    def _published(self, *keys: str) -> Mapping[str, str]:
        """The provider's configuration, with these addresses in it."""
        address = f"{self._config.issuer.rstrip('/')}/.well-known/openid-configuration"
        found = self._asked("GET", address)
        if found.get("issuer") != self._config.issuer:
            raise self._silent(address, f"it calls itself {found.get('issuer')!r}, expected {self._config.issuer!r}")
        lacking = [key for key in keys if not isinstance(found.get(key), str)]
        if lacking:
            raise self._silent(address, f"it has no {lacking[0]}")
        return found

    def _asked(
        self, method: str, address: str, form: Mapping[str, str] | None = None, login: tuple[str, str] | None = None
    ) -> Mapping[str, Any]:
        # Redirects are not followed: the code and the secret go to the addresses that the provider publishes.
        try:
            answer = httpx.request(
                method, address, data=form, auth=login, timeout=self._config.timeout_s, follow_redirects=False,
                headers={"accept": "application/json"},
            )  # fmt: skip
            found = answer.json() if answer.is_success else None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise self._silent(address, f"{type(error).__name__}: {error}") from error
        if not isinstance(found, dict):
            raise self._silent(address, f"status {answer.status_code}: {answer.text[:200]}")
        return found

    def _silent(self, address: str, problem: str) -> Unanswered:
        _log.error("oidc: %s: %s", address, problem)
        return Unanswered(N_("the provider does not answer as it should; try again, or tell whoever runs this"))
