"""/admin/items: the queue, to search, and to change and delete what is in it. Forms work without a script."""

from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.responses import RedirectResponse

from mmrlhf_ray.feedback.annotations import Annotation, annotations_of
from mmrlhf_ray.feedback.app.access import AsProjectAdmin
from mmrlhf_ray.feedback.app.api import InProject
from mmrlhf_ray.feedback.app.language import words_of
from mmrlhf_ray.feedback.app.pages import page
from mmrlhf_ray.feedback.app.places import region_words
from mmrlhf_ray.feedback.app.review_pages import choice_words
from mmrlhf_ray.feedback.app.state import State
from mmrlhf_ray.feedback.app.turns import shown_responses, turns
from mmrlhf_ray.feedback.app.views import episode_media, media_json
from mmrlhf_ray.feedback.app.wording import STATE_NAMES
from mmrlhf_ray.feedback.collect.export import annotations_table
from mmrlhf_ray.feedback.collect.item_list import Filter, delete_item, edit_item, find_item, find_items
from mmrlhf_ray.feedback.collect.items import EVERYBODY
from mmrlhf_ray.feedback.collect.projects import (
    assigned_to,
    find_project,
    groups,
    names_for,
    names_with,
    need,
    title_of,
)
from mmrlhf_ray.feedback.collect.tables import Annotator, Suggestion
from mmrlhf_ray.feedback.errors import N_, Invalid, Unknown

router = APIRouter()
_PAGE = 50


@router.get("/admin/items")
def items(
    request: Request,
    caller: AsProjectAdmin,
    state: State,
    project: InProject = "",
    question: str = "",
    status: str = "",
    text: Annotated[str, Query(max_length=200)] = "",
    page_: Annotated[int, Query(alias="page", ge=1, le=1_000_000)] = 1,
) -> Response:
    """The queue by filters, a page of it; what makes no sense in an address is left out."""
    status = status if status in STATE_NAMES else ""
    with state.database.read() as session:
        names = names_for(session, caller.id, "admin", project)
        wanted = Filter(question=question, state=status, text=text, projects=names)
        found = find_items(session, wanted, page_, _PAGE)
        own = names_with(session, caller.id, "admin")
        titles = {name: title_of(find_project(session, name)) for name in own}
    chosen = {"question": question, "status": status, "text": text} | ({"project": project} if project else {})
    links = {
        name: "/admin/items?" + urlencode({**chosen, "page": number})
        for name, number in (("before", found.page - 1), ("after", found.page + 1))
        if 1 <= number <= found.pages
    }
    context = {"here": "admin", "found": found, "chosen": chosen, "states": STATE_NAMES, "links": links}
    context["titles"] = titles
    return page(request, state, caller, "items.html", context)


@router.get("/admin/item")
def item(request: Request, caller: AsProjectAdmin, state: State, id: str = "") -> Response:
    """One item with everything that is known of it."""
    return _item(request, caller, state, id)


@router.post("/admin/item")
def change(
    request: Request,
    caller: AsProjectAdmin,
    state: State,
    id: Annotated[str, Form()] = "",
    priority: Annotated[str, Form()] = "",
    overlap: Annotated[str, Form()] = "",
    assigned: Annotated[str, Form(max_length=80)] = "",
) -> Response:
    """Another priority and overlap, and who is asked."""
    try:
        numbers = _number(priority), int(_number(overlap, 1, EVERYBODY))
        with state.database.write() as session:
            need(session, caller.id, find_item(session, id).project, "admin")
            edit_item(session, id, *numbers, assigned.strip(), caller.id, state.now())
    except (Invalid, Unknown) as error:
        if error.field == "item_id":
            raise
        return _item(request, caller, state, id, {"problem": words_of(request).error(error)}, 422)
    return RedirectResponse("/admin/item?" + urlencode({"id": id}), status_code=303)


@router.post("/admin/item/delete")
def remove(caller: AsProjectAdmin, state: State, id: Annotated[str, Form()] = "") -> Response:
    """Delete an item with its votes: the page has asked whether that is meant."""
    with state.database.write() as session:
        need(session, caller.id, find_item(session, id).project, "admin")
        delete_item(session, id, True, caller.id, state.now())
    return RedirectResponse("/admin/items", status_code=303)


def _item(
    request: Request,
    caller: AsProjectAdmin,
    state: State,
    item_id: str,
    more: dict[str, Any] | None = None,
    status: int = 200,
) -> Response:
    words = words_of(request)
    with state.database.read() as session:
        found = find_item(session, item_id)
        need(session, caller.id, found.project, "admin")
        annotations = annotations_of(annotations_table(session, item_id=found.id))
        people = {vote.annotator_id: session.get(Annotator, vote.annotator_id) for vote in annotations}
        shown = turns(found.messages, media_json(session, found.media_ids), words)
        context = {
            "here": "admin",
            "asked": found,
            "assigned": assigned_to(session, found),
            "groups": groups(session),
            "turns": shown,
            "answers": shown_responses(found.responses, episode_media(session, found), words),
            "suggestion": session.get(Suggestion, found.id),
            "votes": [
                (who.name if who else vote.annotator_id, vote, _said(vote, request), region_words(vote, shown, words))
                for vote in annotations
                for who in (people[vote.annotator_id],)
            ],
        }
    return page(request, state, caller, "item.html", context | (more or {}), status)


def _said(vote: Annotation, request: Request) -> str:
    """The answer in a line, about the responses in the order in which they are stored."""
    if vote.kind == "pair":
        return choice_words(vote, words_of(request))
    if vote.aspects:
        return "; ".join(
            f"{name} " + ", ".join("–" if rating is None else f"{rating:g}" for rating in ratings)
            for name, ratings in vote.aspects.items()
        )
    marked = [vote.shown[start:end] for start, end, _ in vote.spans]
    return ", ".join(map(str, vote.ranks)) or vote.text or " … ".join(marked)


def _number(given: str, low: float = -1e300, high: float = 1e300) -> float:
    try:
        number = float(given)
    except ValueError as error:
        raise Invalid(N_("expected a number")) from error
    if not low <= number <= high or (low == 1 and number != int(number)):
        raise Invalid(N_("this number is out of range"))
    return number
