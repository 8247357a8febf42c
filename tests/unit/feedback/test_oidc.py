"""Signing in with an OpenID Connect provider that really runs: who gets in, as whom, and what is not believed."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError
from sqlalchemy import select

from mmrlhf_ray.config import FeedbackConfig, OidcConfig
from mmrlhf_ray.errors import FeedbackError
from mmrlhf_ray.feedback.app import create_app
from mmrlhf_ray.feedback.collect.accounts import remove_annotator
from mmrlhf_ray.feedback.collect.erase import erase_annotator, personal_data
from mmrlhf_ray.feedback.collect.identities import role_of
from mmrlhf_ray.feedback.collect.tables import Annotator, Audit, Identity
from tests.unit.feedback.oidc_provider import CLIENT, OTHER_KEY, SECRET, Claims, TestProvider, provider
from tests.unit.feedback.world import NOON

HERE = "http://127.0.0.1"


@pytest.fixture
def known() -> Iterator[TestProvider]:
    with provider() as found:
        yield found


def settings(known: TestProvider, **more: Any) -> dict[str, Any]:
    return {
        "issuer": known.issuer,
        "client_id": CLIENT,
        "client_secret": SECRET,
        "redirect_url": f"{HERE}/login/oidc/callback",
        "label": "Example ID",
        "default_role": "annotator",
    } | more


@contextmanager
def opened(tmp_path: Path, known: TestProvider, **more: Any) -> Iterator[TestClient]:
    config = FeedbackConfig.model_validate({"data_dir": str(tmp_path / "data"), "oidc": settings(known, **more)})
    with TestClient(create_app(config), base_url=HERE) as http:
        yield http


def browser(http: TestClient) -> TestClient:
    return TestClient(http.app, base_url=HERE, follow_redirects=False)


def go_there(window: TestClient) -> str:
    """Begin, sign in at the provider, and return the address that it sends the browser back to."""
    there = window.get("/login/oidc")
    assert there.status_code == 303, there.text
    back = httpx.get(there.headers["location"], follow_redirects=False)
    assert back.status_code == 302, back.text
    return back.headers["location"]


def sign_in(window: TestClient) -> Any:
    return window.get(go_there(window))


def rows(http: TestClient, table: Any) -> list[Any]:
    with http.app.state.feedback.database.read() as session:  # type: ignore[attr-defined]
        return list(session.scalars(select(table)))


def test_a_sign_in_makes_an_account_once(tmp_path: Path, known: TestProvider) -> None:
    with opened(tmp_path, known) as http:
        window = browser(http)
        assert "Sign in with Example ID" in window.get("/login").text
        answer = sign_in(window)
        assert (answer.status_code, "Signed in" in answer.text) == (200, True)
        assert '<meta http-equiv="refresh" content="0;url=/">' in answer.text
        assert "Hello, Zoë" in window.get("/").text
        assert "mmrlhf_oidc" not in window.cookies
        known.person["name"] = "Another name"
        assert "Hello, Zoë" in browser_home(http)
        (annotator,) = rows(http, Annotator)
        (identity,) = rows(http, Identity)
        assert (annotator.role, annotator.token_hash) == ("annotator", None)
        assert (identity.issuer, identity.subject, identity.annotator_id) == (known.issuer, "u-1", annotator.id)
        assert [row.action for row in rows(http, Audit)] == ["account added", "login", "login"]
        known.person = {"sub": "u-2", "name": "Zoë"}
        assert "Hello, Zoë (2)" in browser_home(http)


def browser_home(http: TestClient) -> str:
    window = browser(http)
    assert sign_in(window).status_code == 200
    return window.get("/").text


def test_the_role_follows_the_provider(tmp_path: Path, known: TestProvider) -> None:
    roles = {"role_claim": "groups", "roles": {"team": "annotator", "leads": "admin"}, "default_role": None}
    with opened(tmp_path, known, **roles) as http:
        window = browser(http)
        refused = sign_in(window)
        assert refused.status_code == 403
        assert "known to the provider, but have no role here" in refused.text
        assert (rows(http, Annotator), window.get("/").status_code) == ([], 303)
        for groups, role in ((["team"], "annotator"), (["x", "leads", "team"], "admin"), ("team", "annotator")):
            known.person["groups"] = groups
            assert sign_in(browser(http)).status_code == 200
            assert [annotator.role for annotator in rows(http, Annotator)] == [role]


@pytest.mark.parametrize(
    ("claims", "role"),
    [
        ({"sub": "u-1"}, "reviewer"),
        ({"sub": "x", "email": "a@example.org", "email_verified": True}, "admin"),
        ({"sub": "x", "email": "a@example.org", "email_verified": False}, None),
        ({"sub": "x", "email": "a@example.org", "email_verified": "true"}, None),
        ({"sub": "x", "groups": [3, None]}, None),
        ({"sub": "x", "groups": {"leads": 1}}, None),
        ({"sub": "u-1", "groups": "leads"}, "reviewer"),
    ],
)
def test_roles_by_list_and_claim(claims: Claims, role: str | None) -> None:
    config = OidcConfig.model_validate({
        "issuer": "https://id.example.org", "client_id": "c", "redirect_url": "https://x.org/login/oidc/callback",
        "allow": {"u-1": "reviewer", "a@example.org": "admin"}, "role_claim": "groups", "roles": {"leads": "admin"},
    })  # fmt: skip
    if role is None:
        with pytest.raises(FeedbackError, match="no role here"):
            role_of(claims, config)
    else:
        assert role_of(claims, config) == role


def later(**changes: Any) -> Callable[[Claims], None]:
    return lambda claims: claims.update(changes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"spoil": later(nonce="another")}, "belongs to another attempt"),
        ({"spoil": later(aud="another")}, "meant for another application"),
        ({"spoil": later(aud=[CLIENT, "another"])}, "meant for another application"),
        ({"spoil": later(azp="another")}, "meant for another application"),
        ({"spoil": later(iss="https://evil.example.org")}, "of another provider"),
        ({"spoil": later(exp=int(time.time()) - 3600)}, "has expired"),
        ({"spoil": later(iat=int(time.time()) + 36000)}, "from the future"),
        ({"spoil": lambda claims: claims.pop("exp")}, "lacks what is required"),
        ({"spoil": lambda claims: claims.pop("nonce")}, "lacks what is required"),
        ({"spoil": later(sub="")}, "lacks what is required"),
        ({"kid": "two", "key": OTHER_KEY}, "unknown key"),
        ({"key": OTHER_KEY}, "signature of the sign-in is wrong"),
        ({"key": "x" * 32, "algorithm": "HS256"}, "cannot be read"),
        ({"key": None, "algorithm": "none"}, "cannot be read"),
        ({"refuse": "access_denied"}, "did not sign you in: access_denied"),
    ],
)
def test_what_is_not_believed(tmp_path: Path, known: TestProvider, change: dict[str, Any], said: str) -> None:
    for name, value in change.items():
        setattr(known, name, value)
    with opened(tmp_path, known) as http:
        window = browser(http)
        answer = sign_in(window)
        assert (answer.status_code, said in answer.text) == (403, True), answer.text
        assert '<p class="problem" role="alert">' in answer.text
        assert "mmrlhf_session" not in window.cookies
        assert rows(http, Annotator) == []


def test_only_the_browser_that_began_comes_back(tmp_path: Path, known: TestProvider) -> None:
    with opened(tmp_path, known) as http:
        window, other = browser(http), browser(http)
        address = go_there(window)
        for stranger in (other, browser(http)):
            answer = stranger.get(address)
            assert (answer.status_code, "not begun in this browser" in answer.text) == (403, True)
            go_there(stranger)  # with a sign-in of its own under way, the state is still another's
            assert stranger.get(address).status_code == 403
        wrong = window.get(address.replace("state=", "state=x"))
        assert wrong.status_code == 403
        assert window.get(address).status_code == 200
        assert window.get(address).status_code == 403, "a sign-in works once"


def test_a_code_needs_the_verifier_of_its_sign_in(tmp_path: Path, known: TestProvider) -> None:
    with opened(tmp_path, known) as http:
        window = browser(http)
        stolen = go_there(browser(http)).split("code=")[1].split("&")[0]
        own = go_there(window)
        answer = window.get(own.replace(own.split("code=")[1].split("&")[0], stolen))
        assert (answer.status_code, "does not answer as it should" in answer.text) == (502, True)
        assert rows(http, Annotator) == []


def test_a_provider_that_is_away_or_another_is_said(tmp_path: Path, known: TestProvider) -> None:
    with opened(tmp_path, known) as http:
        known.calls_itself = "https://evil.example.org"
        assert browser(http).get("/login/oidc").status_code == 502
    with opened(tmp_path, known, issuer="http://127.0.0.1:1") as http:
        answer = browser(http).get("/login/oidc")
        assert (answer.status_code, "does not answer as it should" in answer.text) == (502, True)


def test_closed_accounts_stay_closed_and_erased_ones_are_forgotten(tmp_path: Path, known: TestProvider) -> None:
    with opened(tmp_path, known) as http:
        database = http.app.state.feedback.database  # type: ignore[attr-defined]
        assert sign_in(browser(http)).status_code == 200
        with database.write() as session:
            remove_annotator(session, "Zoë", "test", NOON)
        refused = sign_in(browser(http))
        assert (refused.status_code, "this account is closed" in refused.text) == (403, True)
        with database.write() as session:
            told = personal_data(session, "Zoë", "test", NOON)
            erase_annotator(session, "Zoë", "test", NOON)
        assert told["identities"] == [{"issuer": known.issuer, "subject": "u-1"}]
        assert rows(http, Identity) == []
        assert "Hello, Zoë" in browser_home(http), "as somebody new"


def test_the_cookie_of_a_sign_in(tmp_path: Path, known: TestProvider) -> None:
    with opened(tmp_path, known) as http:
        header = browser(http).get("/login/oidc").headers["set-cookie"]
        assert "HttpOnly" in header
        assert "SameSite=lax" in header
        assert "Path=/login/oidc" in header
        far = TestClient(http.app, base_url="http://10.0.0.5", follow_redirects=False)
        assert "Secure" in far.get("/login/oidc").headers["set-cookie"]


def test_without_a_provider_there_is_no_such_page(tmp_path: Path) -> None:
    with TestClient(create_app(FeedbackConfig(data_dir=str(tmp_path / "data"))), base_url=HERE) as http:
        assert http.get("/login/oidc").status_code == 404
        assert "/login/oidc" not in http.get("/login").text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"issuer": "http://id.example.org"}, "oidc.issuer"),
        ({"redirect_url": "https://x.org/login"}, "must end with /login/oidc/callback"),
        ({"scopes": ["email"]}, "must have openid"),
        ({"role_claim": "groups"}, "go together"),
        ({"default_role": None}, "nobody could sign in"),
        ({"default_role": "client"}, "oidc.default_role"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, Any], said: str) -> None:
    good = {"issuer": "https://id.example.org", "client_id": "c", "default_role": "annotator"}
    good["redirect_url"] = "https://x.org/login/oidc/callback"
    FeedbackConfig.model_validate({"oidc": good})
    with pytest.raises(ValidationError, match=said):
        FeedbackConfig.model_validate({"oidc": good | change})
