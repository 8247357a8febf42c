"""/admin: accounts, progress, agreement, exports and the audit log. Forms work without a script."""

from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse
from sqlalchemy import func, select

from mmrlhf_ray.errors import FeedbackError
from mmrlhf_ray.feedback.annotations import annotations_of
from mmrlhf_ray.feedback.app.access import AsAdmin, AsProjectAdmin
from mmrlhf_ray.feedback.app.api import InProject
from mmrlhf_ray.feedback.app.language import words_of
from mmrlhf_ray.feedback.app.pages import page, shown_aspects
from mmrlhf_ray.feedback.app.state import AppState, State
from mmrlhf_ray.feedback.app.wording import ACTIONS, ROLE_NAMES, UNDEFINED
from mmrlhf_ray.feedback.collect import accounts
from mmrlhf_ray.feedback.collect.accounts import Caller
from mmrlhf_ray.feedback.collect.erase import erase_annotator
from mmrlhf_ray.feedback.collect.export import annotations_table
from mmrlhf_ray.feedback.collect.progress import progress
from mmrlhf_ray.feedback.collect.projects import config_in, find_project, names_for, names_with, title_of
from mmrlhf_ray.feedback.collect.tables import ROLES, Annotator, Audit, Item, Vote

router = APIRouter()
_AUDIT_ROWS = 50


@router.get("/admin")
def admin(request: Request, caller: AsAdmin, state: State) -> Response:
    """Accounts, progress, exports, the last of the audit log."""
    return _admin(request, caller, state)


@router.post("/admin/annotators")
def add(
    request: Request,
    caller: AsAdmin,
    state: State,
    name: Annotated[str, Form()] = "",
    role: Annotated[str, Form()] = "annotator",
) -> Response:
    """A new account; the page shows its token, once."""
    try:
        with state.database.write() as session:
            row, token = accounts.add_annotator(session, name, role, caller.id, state.now())
    except FeedbackError as error:
        return _admin(request, caller, state, {"problem": words_of(request).error(error), "given": name}, 422)
    return _admin(request, caller, state, {"token": token, "token_of": row.name}, 201)


@router.post("/admin/annotators/{annotator_id}/role")
def change_role(annotator_id: str, caller: AsAdmin, state: State, role: Annotated[str, Form()] = "") -> Response:
    """Another role."""
    with state.database.write() as session:
        accounts.set_role(session, annotator_id, role, caller.id, state.now())
    return RedirectResponse("/admin", status_code=303)


@router.post("/admin/annotators/{annotator_id}/token")
def replace_token(request: Request, annotator_id: str, caller: AsAdmin, state: State) -> Response:
    """A new token in place of a lost one; the page shows it, once."""
    with state.database.write() as session:
        token = accounts.new_token(session, annotator_id, caller.id, state.now())
        name = accounts.find_annotator(session, annotator_id).name
    return _admin(request, caller, state, {"token": token, "token_of": name}, 201)


@router.post("/admin/annotators/{annotator_id}/remove")
def remove(annotator_id: str, caller: AsAdmin, state: State) -> Response:
    """Close an account; its votes stay."""
    with state.database.write() as session:
        accounts.remove_annotator(session, annotator_id, caller.id, state.now())
    return RedirectResponse("/admin", status_code=303)


@router.post("/admin/annotators/{annotator_id}/erase")
def erase(annotator_id: str, caller: AsAdmin, state: State) -> Response:
    """Delete everything that one annotator did, and close the account without its name."""
    with state.database.write() as session:
        erase_annotator(session, annotator_id, caller.id, state.now())
    return RedirectResponse("/admin", status_code=303)


@router.get("/admin/quality")
def quality(request: Request, caller: AsProjectAdmin, state: State, project: InProject = "") -> Response:
    """Agreement by task, and each annotator's figures, in one project or all that the caller administers: seconds to
    compute where there are many votes."""
    # Here, as they load pandas, scipy and more: the server starts in a second without them.
    from mmrlhf_ray.feedback.labels.agreement import agreement, pairwise_agreement
    from mmrlhf_ray.feedback.labels.bias import biases, leans
    from mmrlhf_ray.feedback.labels.quality import ENOUGH, annotator_quality, gold_answer

    with state.database.read() as session:
        projects = names_for(session, caller.id, "admin", project)
        titles = {name: title_of(find_project(session, name)) for name in names_with(session, caller.id, "admin")}
        rules = [config_in(session, name, state.config) for name in projects]
        annotations = annotations_of(annotations_table(session, projects=projects))
        theirs = select(Item.prompt_id, Item.task).where(Item.project.in_(projects))
        tasks = {row.prompt_id: row.task for row in session.execute(theirs)}
        gold = {
            item.id: gold_answer(item.question, item.gold, len(item.responses))
            for item in session.scalars(select(Item).where(Item.gold.is_not(None), Item.project.in_(projects)))
            if item.gold is not None
        }
        names = {row.id: row.name for row in session.execute(select(Annotator.id, Annotator.name))}
    shown = [aspect for own in rules for aspect in shown_aspects(own, words_of(request).language)]
    overall, pairs = pairwise_agreement(annotations)
    context = {
        "here": "admin",
        "project": project,
        "titles": titles,
        "names": names,
        "rows": agreement(annotations, tasks),
        "headings": {aspect["name"]: aspect["heading"] for aspect in shown},
        "undefined_because": UNDEFINED,
        "overall": overall,
        "pairs": pairs,
        "people": annotator_quality(annotations, gold),
        "enough": ENOUGH,
        "biases": biases(annotations, tasks),
        "leans": leans,
    }
    return page(request, state, caller, "quality.html", context)


def _admin(
    request: Request, caller: Caller, state: AppState, more: dict[str, Any] | None = None, status: int = 200
) -> Response:
    with state.database.read() as session:
        votes = select(func.count()).where(Vote.annotator_id == Annotator.id, ~Vote.undone).scalar_subquery()
        people = session.execute(select(Annotator, votes).order_by(Annotator.active.desc(), Annotator.name)).all()
        audit = session.scalars(select(Audit).order_by(Audit.id.desc()).limit(_AUDIT_ROWS)).all()
        found = progress(session, caller.id, state.config, state.now())
    names = {row.id: row.name for row, _ in people}
    context = {
        "here": "admin",
        "people": people,
        "roles": {role: ROLE_NAMES[role] for role in ROLES},
        "actions": ACTIONS,
        "names": names,
        "audit": audit,
        "progress": found,
        "hours": state.config.pace_window_s / 3600,
    }
    return page(request, state, caller, "admin.html", context | (more or {}), status)
