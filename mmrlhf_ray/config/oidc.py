"""Configuration of signing in with an OpenID Connect provider, alongside tokens."""

from typing import Literal, Self

from pydantic import Field, PositiveFloat, SecretStr, model_validator

from mmrlhf_ray.config.section import Section

OidcRole = Literal["annotator", "reviewer", "admin"]
"""Roles of people; clients are programs and have tokens."""
_ADDRESS = r"^(https://|http://(127\.0\.0\.1|localhost)(:\d+)?(/|$))"


class OidcConfig(Section):
    """An OpenID Connect provider: who signs in there has an account here."""

    issuer: str = Field(pattern=_ADDRESS, max_length=2000)
    """The provider's address as it calls itself; `/.well-known/openid-configuration` is asked below it."""
    client_id: str = Field(min_length=1)
    """Name under which the app is registered there."""
    client_secret: SecretStr | None = None
    """Its secret; `null` = a public client, which PKCE alone protects."""
    redirect_url: str = Field(pattern=_ADDRESS, max_length=2000)
    """Address of this app's `/login/oidc/callback`, as it is registered there."""
    label: str = Field("single sign-on", max_length=60)
    """What the login page calls the provider."""
    scopes: tuple[str, ...] = ("openid", "profile", "email")
    """What is asked of the provider; `openid` must be among them."""
    allow: dict[str, OidcRole] = Field(default_factory=dict)
    """Role by subject, or by e-mail address that the provider has verified. Outweighs role_claim."""
    role_claim: str | None = None
    """Claim of the ID token with a name or a list of names, such as `groups`; `null` = none."""
    roles: dict[str, OidcRole] = Field(default_factory=dict)
    """Role by name in role_claim; of several the highest."""
    default_role: OidcRole | None = None
    """Role of everyone else whom the provider knows; `null` = they are refused."""
    timeout_s: PositiveFloat = 10.0
    """For each request to the provider."""

    @model_validator(mode="after")
    def _together(self) -> Self:
        if not self.redirect_url.endswith("/login/oidc/callback"):
            raise ValueError(f"redirect_url must end with /login/oidc/callback, got {self.redirect_url}")
        if "openid" not in self.scopes:
            raise ValueError(f"scopes must have openid among them, got {list(self.scopes)}")
        if (self.role_claim is None) != (not self.roles):
            raise ValueError("role_claim and roles go together; give both or neither")
        if not (self.allow or self.roles or self.default_role):
            raise ValueError("nobody could sign in; give allow, role_claim with roles, or default_role")
        return self
