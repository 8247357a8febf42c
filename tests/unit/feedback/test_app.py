"""Who gets in, what the browser is told, and what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from fastapi import Request
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from sqlalchemy import select
from starlette.routing import Mount

from mmrlhf_ray.config import FeedbackConfig, LoginLimits
from mmrlhf_ray.feedback.app import create_app
from mmrlhf_ray.feedback.app.access import Access, Public, RequireInProject
from mmrlhf_ray.feedback.app.login import secure_cookies
from mmrlhf_ray.feedback.collect.accounts import hashed
from mmrlhf_ray.feedback.collect.tables import Annotator, Audit, Base, WebSession
from tests.unit.feedback.world import World, fill, pair

UUID = b"0b9d7f8e-3c55-4f0a-9d2b-6a1f4f1f7f10"
PUBLIC = {("/login", "GET"), ("/login", "POST"), ("/language", "POST"), ("/healthz", "GET")}
PUBLIC |= {("/login/oidc", "GET"), ("/login/oidc/callback", "GET")}
ROLES = {
    "/api/lease": {"annotator", "reviewer", "admin"},
    "/api/items": {"admin"},
    "/api/export": {"admin"},
    "/api/annotators": {"admin"},
    "/api/responses": {"client", "admin"},
    "/api/events": {"client", "admin"},
    "/media/{sha256}": {"annotator", "reviewer", "admin"},
}


PROJECT_ADMINS = ("/admin/items", "/admin/item", "/admin/item/delete", "/admin/quality", "/admin/progress")
"""Pages for administrators of a project as well, who see only theirs."""


def allowed(access: Access) -> set[str]:
    """Roles of the accounts of `world`, which have no other role in a project than their own, that may call a route."""
    if isinstance(access, RequireInProject):
        return set(access.roles[access.roles.index(access.least) :])
    return set(access.roles)


def access_of(route: APIRoute) -> list[Access]:
    return [need.call for need in route.dependant.dependencies if isinstance(need.call, Access)]


def routes(world: World) -> list[APIRoute]:
    return [route for route in world.app.routes if isinstance(route, APIRoute)]


def test_every_route_says_who_may_call_it(world: World) -> None:
    others = [route for route in world.app.routes if not isinstance(route, APIRoute)]
    assert [(type(route), route.path) for route in others] == [(Mount, "/static")], "files of ours, the same for all"
    for route in routes(world):
        (access,) = access_of(route)
        public = {(route.path, method) for method in route.methods} <= PUBLIC
        assert isinstance(access, Public) == public, route.path
        assert bool(access.roles) != public, route.path
        assert allowed(access) == ROLES.get(route.path, allowed(access)), route.path
        if route.path.startswith("/admin") or route.path.startswith("/api/annotators"):
            assert allowed(access) == {"admin"}, route.path
            assert isinstance(access, RequireInProject) == (route.path in PROJECT_ADMINS), route.path
        if route.path.startswith("/review"):
            assert allowed(access) == {"reviewer", "admin"}, route.path


def test_no_route_answers_strangers_or_other_roles(world: World) -> None:
    tried = 0
    for route in routes(world):
        path, (access,) = re.sub(r"{\w+}", "0" * 64, route.path), access_of(route)
        for method in route.methods - {"HEAD"} if access.roles else ():
            answer = world.http.request(method, path, follow_redirects=False)
            assert answer.status_code in (401, 303), (method, path)
            assert answer.status_code == 401 or answer.headers["location"] == "/login"
            wrong = world.http.request(method, path, headers={"authorization": "Bearer x"}, follow_redirects=False)
            assert wrong.status_code in (401, 303), (method, path)
            for role in world.tokens.keys() - allowed(access):
                assert world.call(role, method, path).status_code == 403, (role, method, path)
                tried += 1
    assert tried > 40


def test_secrets_are_stored_hashed_only(world: World, tmp_path: Path) -> None:
    cookie = world.log_in("annotator").cookies["mmrlhf_session"]
    with world.database.read() as session:
        stored = [str(row) for table in Base.metadata.sorted_tables for row in session.execute(select(table))]
        assert session.scalar(select(Annotator.token_hash).where(Annotator.name == "admin")) == hashed(
            world.tokens["admin"]
        )
        assert session.scalar(select(WebSession.cookie_hash)) == hashed(cookie)
    everything = "".join(stored) + "".join(
        path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file()
    )
    assert not [secret for secret in (cookie, *world.tokens.values()) if secret in everything]


def test_cookies(world: World) -> None:
    browser = world.log_in("annotator")
    assert browser.get("/api/progress").status_code == 200
    for name, base, secure in (("local", "http://127.0.0.1", False), ("lan", "http://10.0.0.5", True)):
        header = TestClient(world.app, base_url=base).get("/login").headers["set-cookie"]
        assert "HttpOnly" in header, name
        assert "SameSite=strict" in header, name
        assert ("Secure" in header) == secure, name
    scope = {"type": "http", "scheme": "https", "headers": [(b"host", b"localhost")], "path": "/", "query_string": b""}
    assert secure_cookies(Request(scope))


def test_sessions_end(world: World) -> None:
    browser, other = world.log_in("annotator"), world.log_in("annotator")
    kept = dict(browser.cookies)
    assert browser.post("/logout", headers={"x-csrf-token": csrf(world, browser)}).status_code == 303
    browser.cookies.update(kept)
    assert browser.get("/api/progress").status_code == 401, "the cookie is worth nothing any more"
    assert other.get("/api/progress").status_code == 200
    with world.database.write() as session:
        for row in session.scalars(select(WebSession)):
            row.expires = row.expires.replace(year=2001)
    assert other.get("/api/progress").status_code == 401


def test_a_removed_account_is_out_at_once(world: World) -> None:
    browser = world.log_in("annotator")
    (who,) = [row["id"] for row in world.call("admin", "GET", "/api/annotators").json() if row["name"] == "annotator"]
    assert world.call("admin", "DELETE", f"/api/annotators/{who}").json()["active"] is False
    assert browser.get("/api/progress").status_code == 401
    assert world.call("annotator", "GET", "/api/progress").status_code == 401


def csrf(world: World, browser: TestClient) -> str:
    from mmrlhf_ray.feedback.collect.accounts import csrf_of

    return csrf_of(browser.cookies["mmrlhf_session"])


def test_browsers_need_the_csrf_token(world: World) -> None:
    fill(world.database, world.config, pair())
    browser, other = world.log_in("annotator"), world.log_in("reviewer")
    for headers in ({}, {"x-csrf-token": "x"}, {"x-csrf-token": ""}, {"x-csrf-token": csrf(world, other)}):
        answer = browser.post("/api/lease", headers=headers)
        assert (answer.status_code, answer.json()["field"]) == (403, "csrf")
    assert browser.post("/api/lease", headers={"x-csrf-token": csrf(world, browser)}).status_code == 200
    assert browser.post("/logout", data={"csrf": "x"}).status_code == 403
    assert browser.post("/logout", data={"csrf": csrf(world, browser)}).status_code == 303


def test_the_login_form_needs_its_own_csrf_token(world: World) -> None:
    browser = TestClient(world.app, base_url="http://127.0.0.1", follow_redirects=False)
    for data in ({"token": world.tokens["admin"]}, {"token": world.tokens["admin"], "csrf": "x"}):
        answer = browser.post("/login", data=data)
        assert answer.status_code == 403
        assert "mmrlhf_session" not in answer.headers["set-cookie"]


def attempt(browser: TestClient, token: str) -> int:
    page = browser.get("/login")
    return browser.post(
        "/login", data={"token": token, "csrf": page.text.split('name="csrf" value="')[1].split('"')[0]}
    ).status_code


@pytest.mark.parametrize("limits", [LoginLimits(per_address=3), LoginLimits(total=3)])
def test_logins_are_limited(tmp_path: Path, limits: LoginLimits) -> None:
    config = FeedbackConfig(data_dir=str(tmp_path), login=limits)
    token = ""
    for _ in range(2):  # a restart forgets nothing
        with TestClient(create_app(config), base_url="http://127.0.0.1", follow_redirects=False) as browser:
            if not token:
                from mmrlhf_ray.feedback.app.serve import _first_token

                token = str(_first_token(browser.app.state.feedback.database))  # type: ignore[attr-defined]
                assert attempt(browser, token) == 303
                assert [attempt(browser, f"wrong {i}") for i in range(4)] == [403, 403, 403, 429]
            assert attempt(browser, token) == 429


def test_one_address_does_not_lock_out_the_others(tmp_path: Path) -> None:
    app = create_app(FeedbackConfig(data_dir=str(tmp_path), login=LoginLimits(per_address=2)))
    one, other = (TestClient(app, base_url="http://127.0.0.1", client=(ip, 1)) for ip in ("10.0.0.1", "10.0.0.2"))
    assert [attempt(one, "x") for _ in range(3)] == [403, 403, 429]
    assert attempt(other, "x") == 403


def test_headers(world: World) -> None:
    for answer in (
        world.http.get("/login"),
        world.http.get("/nothing"),
        world.call("annotator", "POST", "/api/lease"),
        world.http.post("/login", content=b"x" * (world.config.max_body_bytes + 1)),
    ):
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == policy["script-src"] == policy["style-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["object-src"] == policy["base-uri"] == "'none'"
        assert "unsafe" not in str(policy)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"


def test_a_fault_of_the_server_has_the_headers_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("mmrlhf_ray.feedback.collect.queue.lease_next", fault)
    answer = world.call("annotator", "POST", "/api/lease")
    assert (answer.status_code, list(answer.json())) == (500, ["error"])
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"
    assert "ZeroDivisionError" not in answer.text


def test_what_a_browser_may_not_do_is_told_on_a_page(world: World) -> None:
    answer = world.log_in("annotator").get("/admin")
    assert (answer.status_code, answer.headers["content-type"]) == (403, "text/html; charset=utf-8")
    assert '<p class="problem" role="alert">' in answer.text


def test_sizes_are_capped(world: World) -> None:
    cap = world.config.max_body_bytes
    big = b'{"a": "' + b"x" * cap + b'"}'
    answer = world.call("annotator", "POST", "/api/votes", content=big, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["field"]) == (413, "body")

    def chunks() -> Any:
        yield from (b'{"a": "', *(b"x" * 65536 for _ in range(cap // 65536 + 1)), b'"}')

    json_type = {"content-type": "application/json"}
    answer = world.call("annotator", "POST", "/api/votes", content=chunks(), headers=json_type)
    assert answer.status_code == 413, "a body that does not say its length"
    for text, words in ((b"[" * 100_000, "deep"), (b"[" * 40 + b"]" * 40, "deep"), (b"[NaN]", "no JSON number")):
        answer = world.call("admin", "POST", "/api/items", content=text, headers=json_type)
        assert (answer.status_code, words in answer.json()["error"]) == (422, True), answer.text
    many = json.dumps([[0] * 200_001]).encode()
    assert "more than 200000 values" in world.call("admin", "POST", "/api/items", content=many, headers=json_type).text


@pytest.mark.parametrize(
    ("content", "kind", "field"),
    [
        (b"{}", "text/plain", "content-type"),
        (b"", "application/json", "body"),
        (b'{"vote_id": 3}', "application/json", "vote_id"),
        (b'{"vote_id": "%s", "item_id": "i", "answer": {}, "x": 1}' % UUID, "application/json", "x"),
        (b'{"vote_id": "%s", "item_id": "i", "answer": {}}' % (b"z" * 36), "application/json", "vote_id"),
        (b'{"vote_id": "%s", "item_id": "i", "answer": {}, "milliseconds": -1}' % UUID,
         "application/json", "milliseconds"),
        (b'{"vote_id": "a\\u0000b"}', "application/json", "body"),
        (b'{"vote_id": "\\ud800"}', "application/json", "body"),
    ],
)  # fmt: skip
def test_bad_votes_name_the_field(world: World, content: bytes, kind: str, field: str) -> None:
    answer = world.call("annotator", "POST", "/api/votes", content=content, headers={"content-type": kind})
    assert (answer.status_code, answer.json().get("field")) == (422, field), answer.text


def test_the_audit_log(world: World) -> None:
    world.log_in("annotator")
    attempt(TestClient(world.app, base_url="http://127.0.0.1"), "wrong")
    who = world.call("admin", "POST", "/api/annotators", json={"name": "new"}).json()["id"]
    world.call("admin", "PUT", f"/api/annotators/{who}/role", json={"role": "reviewer"})
    world.call("admin", "GET", "/api/export")
    world.call("admin", "DELETE", f"/api/annotators/{who}/data")
    with world.database.read() as session:
        rows = [(row.action, row.target, row.detail) for row in session.scalars(select(Audit).order_by(Audit.id))]
    names = [action for action, *_ in rows][4:]
    wanted = ["login", "login failed", "account added", "role changed", "export", "annotator erased"]
    assert names == wanted
    assert ("role changed", who, "annotator -> reviewer") in rows


def test_there_are_no_pages_that_load_from_elsewhere(world: World) -> None:
    assert {world.call("admin", "GET", path).status_code for path in ("/docs", "/redoc", "/openapi.json")} == {404}
