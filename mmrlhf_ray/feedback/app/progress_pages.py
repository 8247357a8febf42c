"""/admin/progress: how far and how fast the projects, the kinds of questions and the people are, with charts."""

from fastapi import APIRouter, Request, Response
from sqlalchemy import select

from mmrlhf_ray.feedback.app.access import AsProjectAdmin
from mmrlhf_ray.feedback.app.api import InProject
from mmrlhf_ray.feedback.app.pages import page
from mmrlhf_ray.feedback.app.state import State
from mmrlhf_ray.feedback.app.wording import WORDINGS
from mmrlhf_ray.feedback.collect.progress import progress
from mmrlhf_ray.feedback.collect.projects import find_project, names_for, names_with, title_of
from mmrlhf_ray.feedback.collect.tables import Annotator
from mmrlhf_ray.feedback.collect.tallies import DAYS, tallies

router = APIRouter()


@router.get("/admin/progress")
def show(request: Request, caller: AsProjectAdmin, state: State, project: InProject = "") -> Response:
    """In one project, or in all that the caller administers."""
    with state.database.read() as session:
        projects = names_for(session, caller.id, "admin", project)
        titles = {name: title_of(find_project(session, name)) for name in names_with(session, caller.id, "admin")}
        found = tallies(session, state.config, state.now(), projects)
        all_of_it = progress(session, caller.id, state.config, state.now(), projects)
        names = {row.id: row.name for row in session.execute(select(Annotator.id, Annotator.name))}
    context = {
        "here": "admin",
        "project": project,
        "titles": titles,
        "progress": all_of_it,
        "tallies": found,
        "names": {"project": titles, "person": names},
        "kinds": WORDINGS,
        "number_of_days": DAYS,
        "hours": state.config.pace_window_s / 3600,
    }
    return page(request, state, caller, "tallies.html", context)
