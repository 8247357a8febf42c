"""/projects and /project: queues with their own rules, who works on them, and groups. Forms work without a script."""

from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, ConfigDict

from mmrlhf_ray.config import Aspect
from mmrlhf_ray.errors import FeedbackError
from mmrlhf_ray.feedback.app.access import AsAdmin, AsProjectAdmin
from mmrlhf_ray.feedback.app.language import LANGUAGES, words_of
from mmrlhf_ray.feedback.app.pages import page
from mmrlhf_ray.feedback.app.state import AppState, State
from mmrlhf_ray.feedback.app.wording import ROLE_NAMES
from mmrlhf_ray.feedback.collect import projects
from mmrlhf_ray.feedback.collect.accounts import Caller
from mmrlhf_ray.feedback.collect.progress import progress
from mmrlhf_ray.feedback.errors import N_, Invalid

router = APIRouter()
_ROLES = {role: ROLE_NAMES[role] for role in projects.PROJECT_ROLES}


class SettingsForm(BaseModel):
    """The fields of a project's page, as a browser sends them; what is not checked is not sent."""

    model_config = ConfigDict(extra="forbid")

    csrf: str = ""
    name: str = ""
    title: str = ""
    guidelines_en: str = ""
    guidelines_zh_CN: str = ""
    kinds: list[str] = []
    aspects: str = ""
    overlap: str = ""
    priority: str = "0"
    quota_day: str = ""
    quota: str = ""
    everyone: str = ""

    def settings(self, before: tuple[Aspect, ...]) -> dict[str, Any]:
        """Keys of ProjectConfig. Raises Invalid."""
        guidelines = {"en": self.guidelines_en, "zh_CN": self.guidelines_zh_CN}
        return {
            "title": self.title.strip(),
            "guidelines": {language: text for language, text in guidelines.items() if text.strip()},
            "kinds": self.kinds,
            "aspects": _aspects(self.aspects, before),
            **{key: _whole(getattr(self, key), key) for key in ("overlap", "quota_day", "quota")},
            "priority": _number(self.priority, "priority"),
            "everyone": bool(self.everyone),
        }


@router.get("/projects")
def list_projects(request: Request, caller: AsAdmin, state: State) -> Response:
    """All projects with their progress, and all groups."""
    return _projects(request, caller, state)


@router.post("/projects")
def add(
    request: Request,
    caller: AsAdmin,
    state: State,
    name: Annotated[str, Form()] = "",
    title: Annotated[str, Form()] = "",
) -> Response:
    """A new project, whose page has the rest."""
    try:
        with state.database.write() as session:
            made = projects.add_project(session, name.strip(), {"title": title.strip()}, caller.id, state.now())
    except FeedbackError as error:
        more = {"problem": words_of(request).error(error), "given": {"name": name, "title": title}}
        return _projects(request, caller, state, more, 422)
    return _to_project(made.name)


@router.post("/projects/group")
def set_group(
    request: Request,
    caller: AsAdmin,
    state: State,
    group: Annotated[str, Form()] = "",
    people: Annotated[str, Form()] = "",
) -> Response:
    """Who is in a group: names of accounts, one in a line."""
    try:
        with state.database.write() as session:
            names = [line.strip() for line in people.splitlines() if line.strip()]
            name = group.strip().removeprefix(projects.GROUP_MARK)
            projects.set_group(session, name, names, caller.id, state.now())
    except FeedbackError as error:
        more = {"problem": words_of(request).error(error), "given": {"group": group, "people": people}}
        return _projects(request, caller, state, more, 422)
    return RedirectResponse("/projects", status_code=303)


@router.get("/project")
def project(request: Request, caller: AsProjectAdmin, state: State, name: str = "") -> Response:
    """A project's progress, settings and people."""
    return _project(request, caller, state, name)


@router.post("/project")
def change(request: Request, caller: AsProjectAdmin, state: State, form: Annotated[SettingsForm, Form()]) -> Response:
    """Other settings."""
    try:
        with state.database.write() as session:
            found = projects.need(session, caller.id, form.name, "admin")
            before = found.rules.aspects or state.config.aspects
            projects.edit_project(session, form.name, form.settings(before), None, caller.id, state.now())
    except Invalid as error:
        problem = f"{error.field}: {words_of(request).error(error)}" if error.field else words_of(request).error(error)
        return _project(request, caller, state, form.name, {"problem": problem, "form": form}, 422)
    return _to_project(form.name)


@router.post("/project/active")
def set_active(
    caller: AsProjectAdmin, state: State, name: Annotated[str, Form()] = "", active: Annotated[str, Form()] = ""
) -> Response:
    """Close a project, or open it again."""
    with state.database.write() as session:
        projects.need(session, caller.id, name, "admin")
        projects.edit_project(session, name, {}, bool(active), caller.id, state.now())
    return _to_project(name)


@router.post("/project/role")
def set_role(
    request: Request,
    caller: AsProjectAdmin,
    state: State,
    name: Annotated[str, Form()] = "",
    who: Annotated[str, Form()] = "",
    role: Annotated[str, Form()] = "",
) -> Response:
    """A role for an account or a group; none takes it away."""
    with state.database.read() as session:
        projects.need(session, caller.id, name, "admin")
    try:
        with state.database.write() as session:
            projects.set_role(session, name, who.strip(), role or None, caller.id, state.now())
    except FeedbackError as error:
        more = {"problem": words_of(request).error(error), "given": {"who": who}}
        return _project(request, caller, state, name, more, 422)
    return _to_project(name)


def _to_project(name: str) -> Response:
    return RedirectResponse("/project?" + urlencode({"name": name}), status_code=303)


def _projects(
    request: Request, caller: Caller, state: AppState, more: dict[str, Any] | None = None, status: int = 200
) -> Response:
    with state.database.read() as session:
        own = projects.standings(session, caller.id)
        shown = [
            {
                "name": each.project.name,
                "title": projects.title_of(each.project),
                "active": each.project.active,
                "priority": each.rules.priority,
                "progress": progress(session, caller.id, state.config, state.now(), (each.project.name,)),
            }
            for each in own
        ]
        groups = projects.groups(session)
    context = {"here": "admin", "projects": shown, "groups": groups, "given": {}}
    return page(request, state, caller, "projects.html", context | (more or {}), status)


def _project(
    request: Request, caller: Caller, state: AppState, name: str, more: dict[str, Any] | None = None, status: int = 200
) -> Response:
    with state.database.read() as session:
        found = projects.need(session, caller.id, name, "admin")
        rules = found.rules
        context = {
            "here": "admin",
            "project": found.project,
            "title_of": projects.title_of(found.project),
            "rules": rules,
            "form": _filled(found.project.name, rules),
            "app": state.config,
            "progress": progress(session, caller.id, state.config, state.now(), (name,)),
            "given_roles": projects.roles_given(session, name),
            "groups": projects.groups(session),
            "roles": _ROLES,
            "texts": {"guidelines_en": LANGUAGES["en"], "guidelines_zh_CN": LANGUAGES["zh_CN"]},
            "given": {},
        }
    return page(request, state, caller, "project.html", context | (more or {}), status)


def _filled(name: str, rules: projects.ProjectConfig) -> SettingsForm:
    """The form as the settings fill it in."""
    numbers = {key: "" if (n := getattr(rules, key)) is None else str(n) for key in ("overlap", "quota_day", "quota")}
    return SettingsForm(
        name=name,
        title=rules.title,
        guidelines_en=rules.guidelines.get("en", ""),
        guidelines_zh_CN=rules.guidelines.get("zh_CN", ""),
        kinds=list(rules.kinds),
        aspects="\n".join(f"{aspect.name}: {aspect.description}" for aspect in rules.aspects or ()),
        priority=f"{rules.priority:g}",
        everyone="on" if rules.everyone else "",
        **numbers,
    )


def _aspects(text: str, before: tuple[Aspect, ...]) -> list[dict[str, Any]] | None:
    """Lines `name: description`; None without any. What an aspect says in other languages stays while its name does."""
    known = {aspect.name: aspect.model_dump(mode="json") for aspect in before}
    found = []
    for line in text.splitlines():
        name, colon, description = (part.strip() for part in line.replace("：", ":", 1).partition(":"))
        if not name:
            continue
        if not colon or not description:
            raise Invalid(N_("write each aspect as a line: its name, a colon, what it means"), "aspects")
        old = known.get(name, {})
        kept = old if old.get("description") == description else {"headings": old.get("headings", {})}
        found.append({**kept, "name": name, "description": description})
    return found or None


def _whole(text: str, key: str) -> int | None:
    """None where nothing is given."""
    if not text.strip():
        return None
    number = _number(text, key)
    if number < 1 or number != int(number):
        raise Invalid(N_("expected a whole number from 1, or nothing"), key)
    return int(number)


def _number(text: str, key: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise Invalid(N_("expected a number"), key) from error
