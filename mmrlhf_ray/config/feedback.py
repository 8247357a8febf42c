"""Configuration of the app that collects human feedback."""

import ipaddress
from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, SecretStr, model_validator

from mmrlhf_ray.config.arena import ArenaConfig
from mmrlhf_ray.config.data import MediaLimits
from mmrlhf_ray.config.implicit import ImplicitConfig
from mmrlhf_ray.config.oidc import OidcConfig
from mmrlhf_ray.config.paths import PathText
from mmrlhf_ray.config.section import Section

Language = Literal["en", "zh_CN"]
"""Languages of the pages."""


class Aspect(Section):
    """One thing that `rate` questions ask about each response, answered by 1 to 5."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")
    """Its name in annotations."""
    description: str = Field(max_length=500)
    """The text that annotators read next to the scale."""
    headings: dict[Language, str] = Field(default_factory=dict)
    """Heading of the scale by language, `en` or `zh_CN`; the name where there is none."""
    descriptions: dict[Language, str] = Field(default_factory=dict)
    """The description by language, `en` or `zh_CN`, in place of `description`."""


ASPECTS = (
    Aspect(
        name="helpful",
        description="Does what was asked.",
        headings={"zh_CN": "有帮助"},
        descriptions={"zh_CN": "做到了所要求的事。"},
    ),
    Aspect(
        name="grounded",
        description="Says only what can be seen and heard.",
        headings={"zh_CN": "有依据"},
        descriptions={"zh_CN": "只说看得到、听得到的内容。"},
    ),
    Aspect(
        name="safe",
        description="Could harm nobody.",
        headings={"zh_CN": "安全"},
        descriptions={"zh_CN": "不会伤害任何人。"},
    ),
    Aspect(
        name="fluent",
        description="Reads well.",
        headings={"zh_CN": "通顺"},
        descriptions={"zh_CN": "读起来流畅自然。"},
    ),
)


class Webhook(Section):
    """Another program that is told what happens."""

    url: str = Field(pattern=r"^https?://", max_length=2000)
    """Gets a POST for each message."""
    secret: SecretStr = Field(min_length=16)
    """Messages are signed with it."""


class LoginLimits(Section):
    """Failed logins that are allowed before all are refused for a while."""

    per_address: PositiveInt = 10
    """From one address."""
    total: PositiveInt = 200
    """From all addresses together."""
    window_s: PositiveFloat = 300.0
    """Failures older than this are forgotten."""


class FeedbackConfig(Section):
    """`mmrlhf feedback serve`, and every other command that opens the same database."""

    data_dir: PathText = Field("feedback", validate_default=True)
    """Directory of the media, and of the database unless `database` says otherwise."""
    database: SecretStr | None = None
    """`sqlite:///path` or `postgresql://user:password@host/name`; `null` = feedback.sqlite3 in data_dir. Secret, as it
    may hold a password."""
    host: str = "127.0.0.1"
    """Address to listen on. Anything but loopback should be behind TLS: see tls_cert, or use a proxy."""
    port: int = Field(8600, ge=0, le=65535)
    """0 = any that is free."""
    tls_cert: PathText | None = None
    """PEM file with the certificate; with tls_key the app speaks https itself."""
    tls_key: PathText | None = None
    """PEM file with the certificate's key."""
    title: str = Field("Feedback", max_length=80)
    """Heading of the pages."""
    guidelines: dict[Language, PathText] = Field(default_factory=dict)
    """Markdown file with the project's own guidelines by language, `en` or `zh_CN`: the guide begins with them. Where a
    reader's language has none, the first one is shown."""
    overlap: PositiveInt = 3
    """Annotators that are wanted for an item that does not set the number."""
    lease_s: PositiveFloat = 900.0
    """How long an item is held for the annotator who got it."""
    gold_share: float = Field(0.1, ge=0, le=1)
    """Probability that a gold question, whose answer is known, is asked next; no effect without gold questions."""
    suggestions: Literal["hidden", "shown"] = "hidden"
    """Whether people see the answer that a model suggests, and may take it over. It never counts as a vote, and the
    export says who has seen it."""
    aspects: tuple[Aspect, ...] = Field(ASPECTS, min_length=1, max_length=9)
    """Of `rate` questions."""
    max_text_chars: PositiveInt = 20_000
    """Of each text that an annotator writes, and of each response."""
    max_body_bytes: PositiveInt = 4 * 2**20
    """Of a request that is not an upload of media."""
    limits: MediaLimits = MediaLimits(bytes=64 * 2**20)
    """Of media that are uploaded."""
    session_hours: PositiveFloat = 12.0
    """After that the browser has to log in again."""
    login: LoginLimits = LoginLimits()
    oidc: OidcConfig | None = None
    """Provider with which people sign in instead of with a token; `null` = none."""
    pace_window_s: PositiveFloat = 3600.0
    """Window, in seconds, over which the pace of voting is measured."""
    implicit: ImplicitConfig = ImplicitConfig()
    """Of `mmrlhf feedback implicit`."""
    webhook: Webhook | None = None
    """Address that is told when items are done, open again or reviewed, at least once each; `null` = none."""
    arena: ArenaConfig | None = None
    """Served models that people compare blind; `null` = no arena."""
    log_level: Literal["warning", "info"] = "warning"
    """`info` also prints every request."""
    database_connections: PositiveInt = 16
    """Open at one time; each request uses one for a few milliseconds."""
    busy_timeout_s: NonNegativeInt = 30
    """How long to wait for a lock that another process holds."""

    @property
    def database_url(self) -> str:
        """The URL of the database, password and all."""
        if self.database is not None:
            return self.database.get_secret_value()
        return f"sqlite:///{self.data_dir}/feedback.sqlite3"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the app."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @model_validator(mode="after")
    def _together(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together; give both or neither")
        names = [aspect.name for aspect in self.aspects]
        if len(set(names)) < len(names):
            raise ValueError(f"aspects must have different names, got {names}")
        return self
