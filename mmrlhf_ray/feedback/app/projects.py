"""/api/projects and /api/groups: queues with their own rules, and who has which role in them."""

from typing import Annotated, Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from pydantic import Field
from sqlalchemy.orm import Session

from mmrlhf_ray.feedback.app.access import AsAdmin, AsAnnotator, AsProjectAdmin
from mmrlhf_ray.feedback.app.body import Message, body_as
from mmrlhf_ray.feedback.app.state import State
from mmrlhf_ray.feedback.collect import projects
from mmrlhf_ray.feedback.collect.own_work import waiting
from mmrlhf_ray.feedback.collect.tables import Project

router = APIRouter(prefix="/api", tags=["projects"])


Settings = Annotated[
    dict[str, Any], Field(default_factory=dict, description="Keys of a project, as docs/feedback.md lists them.")
]


class NewProject(Message):
    """A project to make."""

    name: Annotated[str, Field(max_length=40, description="Small letters, digits, - and _; it never changes.")]
    settings: Settings


class ProjectChange(Message):
    """What is to change; keys that are left out stay."""

    settings: Settings
    active: Annotated[bool | None, Field(description="Whether its items are asked.")] = None


class RoleChange(Message):
    """A role for somebody."""

    who: Annotated[str, Field(max_length=80, description="Name or id of an account, or @ and the name of a group.")]
    role: Annotated[str | None, Field(max_length=16, description="annotator, reviewer or admin; null = none.")]


class GroupMessage(Message):
    """Everybody who is in a group; nobody ends it."""

    people: Annotated[list[str], Field(max_length=1000, description="Names or ids of accounts.")]


@router.get("/projects")
def get_projects(caller: AsAnnotator, state: State) -> Response:
    """The caller's projects in the order in which they are asked: role, items that wait by kind, votes left today."""
    now = state.now()
    with state.database.read() as session:
        own = projects.standings(session, caller.id)
        left = waiting(session, caller.id, [standing.project.name for standing in own])
        found = [
            {
                "name": (name := standing.project.name),
                "title": projects.title_of(standing.project),
                "active": standing.project.active,
                "role": standing.role,
                "waiting": left[name],
                "votes_left": projects.votes_left(session, name, standing.rules, caller.id, now),
            }
            for standing in own
        ]
    return JSONResponse({"projects": found})


@router.post("/projects", status_code=201)
def post_project(caller: AsAdmin, state: State, message: Annotated[NewProject, body_as(NewProject)]) -> Response:
    """A new project."""
    with state.database.write() as session:
        made = projects.add_project(session, message.name, message.settings, caller.id, state.now())
        return JSONResponse(_project_json(session, made), 201)


@router.get("/projects/{name}")
def get_project(name: str, caller: AsProjectAdmin, state: State) -> Response:
    """The settings of a project, and who was given a role in it."""
    with state.database.read() as session:
        return JSONResponse(_project_json(session, projects.need(session, caller.id, name, "admin").project))


@router.patch("/projects/{name}")
def patch_project(
    name: str, caller: AsProjectAdmin, state: State, message: Annotated[ProjectChange, body_as(ProjectChange)]
) -> Response:
    """Change the settings that are sent."""
    with state.database.write() as session:
        projects.need(session, caller.id, name, "admin")
        changed = projects.edit_project(session, name, message.settings, message.active, caller.id, state.now())
        return JSONResponse(_project_json(session, changed))


@router.put("/projects/{name}/roles")
def put_project_role(
    name: str, caller: AsProjectAdmin, state: State, message: Annotated[RoleChange, body_as(RoleChange)]
) -> Response:
    """Give an account or a group a role in a project, or take it away."""
    with state.database.write() as session:
        found = projects.need(session, caller.id, name, "admin").project
        projects.set_role(session, name, message.who, message.role, caller.id, state.now())
        return JSONResponse(_project_json(session, found))


@router.get("/groups")
def get_groups(caller: AsProjectAdmin, state: State) -> Response:
    """Name of each group → names of the accounts in it."""
    with state.database.read() as session:
        return JSONResponse({"groups": projects.groups(session)})


@router.put("/groups/{name}")
def put_group(
    name: str, caller: AsAdmin, state: State, message: Annotated[GroupMessage, body_as(GroupMessage)]
) -> Response:
    """Say who is in a group."""
    with state.database.write() as session:
        projects.set_group(session, name, message.people, caller.id, state.now())
        return JSONResponse({"groups": projects.groups(session)})


def _project_json(session: Session, project: Project) -> dict[str, Any]:
    rules = projects.rules_of(project)
    return {
        "name": project.name,
        "active": project.active,
        "settings": rules.model_dump(mode="json"),
        "roles": [{"who": who, "role": role} for who, role in projects.roles_given(session, project.name)],
        "created": project.created.isoformat(),
    }
