"""/api/items: the queue, for administrators of the app or of a project, and their programs."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from mmrlhf_ray.config import QuestionKind
from mmrlhf_ray.feedback.app.access import AsProjectAdmin
from mmrlhf_ray.feedback.app.api import InProject
from mmrlhf_ray.feedback.app.body import Message, body_as, read_json
from mmrlhf_ray.feedback.app.state import State
from mmrlhf_ray.feedback.collect.item_list import Filter, delete_item, edit_item, find_item, find_items
from mmrlhf_ray.feedback.collect.items import EVERYBODY, add_items
from mmrlhf_ray.feedback.collect.projects import assigned_to, names_for, need
from mmrlhf_ray.feedback.collect.tables import Item, note
from mmrlhf_ray.feedback.episodes import TurnKind
from mmrlhf_ray.feedback.errors import Invalid

router = APIRouter(prefix="/api/items", tags=["items"])

_MOST_IDS = 1000
_PAGE = 100
_EXAMPLE: dict[str, Any] = {
    "prompt": "<image> Which colour?",
    "media_ids": ["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"],
    "question": "pair",
    "responses": [{"text": "red", "source": "policy-a"}, "the square is red"],
}


class NewSuggestion(BaseModel):
    """A model's answer, shown to people where `suggestions: shown` is configured."""

    answer: dict[str, Any] = Field(description="As if the responses were shown in the order given.")
    source: str = Field(description="Whose it is: a reward model's, a judge's.")


class NewTurn(BaseModel):
    """Of an episode."""

    kind: TurnKind = Field(description="response: the policy wrote it; observation: it was shown to it.")
    text: str = ""
    media_ids: list[str] = Field([], description="SHA-256 of what the turn shows, in order.")


class NewResponse(BaseModel):
    """A response: its text, or the turns of an episode."""

    text: str | None = Field(None, description="Of an episode it is made of the turns.")
    source: str = Field("", description="Who or what wrote it: never shown to annotators.")
    turns: list[NewTurn] | None = Field(None, description="Of a response of several turns; the last is the policy's.")


class NewItem(BaseModel):
    """A question. Give `prompt` or `messages`; media are uploaded before, and keys that are not listed here become
    extras, as in rows of docs/data.md."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [_EXAMPLE]})

    prompt: str | None = Field(None, description="What was asked; <image>, <audio> and <video> stand for the media.")
    messages: list[dict[str, Any]] | None = Field(None, description="A conversation instead: role and content of each.")
    media_ids: list[str] = Field([], description="SHA-256 of each image, sound and clip, in order.")
    question: QuestionKind = Field(description="What people are to do.")
    responses: list[str | NewResponse] = Field(description="Texts, or what is known of each; [] for demonstrate.")
    item_id: str | None = Field(None, description="1 to 64 characters; made from the content where none is given.")
    prompt_id: str | None = Field(None, description="Name of the prompt; made from its content where none is given.")
    task: str | None = Field(None, description="Agreement and quality are counted by it.")
    overlap: int | None = Field(None, ge=1, le=EVERYBODY, description="People who are to answer.")
    priority: float = Field(0.0, description="Higher is asked first.")
    round: int = Field(0, ge=0, description="Of a loop that asks again and again.")
    gold: dict[str, Any] | None = Field(
        None, description="The known answer, as if the responses were shown in the order given: the item tests people."
    )
    suggestion: NewSuggestion | None = Field(None, description="What a model would answer. Never counts as a vote.")
    assigned: str | None = Field(None, description="Account, or @ and the name of a group, that alone is asked.")
    extras: dict[str, Any] = Field({}, description="Ground truth and the like: never shown.")


class AddedItems(BaseModel):
    """The outcome of adding items."""

    added: int
    present: int = Field(description="Were there already, with the same content.")
    item_ids: list[str] = Field(description="In the order in which they were sent.")


class ShownItem(BaseModel):
    """An item, and how far it is."""

    item_id: str
    prompt_id: str
    question: QuestionKind
    project: str
    assigned: str = Field(description='The account, or @ and the group, that alone is asked; "" = everyone.')
    task: str
    messages: list[dict[str, Any]]
    media_ids: list[str]
    responses: list[NewResponse]
    overlap: int
    votes: int
    priority: float
    round: int
    gold: dict[str, Any] | None
    created: str


class ItemPage(BaseModel):
    """Some of the items that were found."""

    items: list[ShownItem]
    found: int = Field(description="On all pages.")
    page: int
    pages: int


class ItemChange(Message):
    """What is to change; `null` leaves it."""

    priority: Annotated[float | None, Field(ge=-1e300, le=1e300, description="Higher is asked first.")] = None
    overlap: Annotated[int | None, Field(ge=1, le=EVERYBODY, description="People who are to answer.")] = None
    assigned: Annotated[
        str | None, Field(max_length=80, description='Account, or @ and a group, that alone is asked; "" = everyone.')
    ] = None


class Rows:
    """Dependency that reads a list; each entry is checked later, so that the message names it."""

    def __init__(self, documented: Any) -> None:
        self.documented = documented

    async def __call__(self, request: Request) -> list[Any]:
        rows = await read_json(request)
        if not isinstance(rows, list):
            raise Invalid(f"expected a list of items, got {type(rows).__name__}", "body")
        return rows


@router.get("", response_model=ItemPage)
def get_items(
    caller: AsProjectAdmin,
    state: State,
    question: Annotated[QuestionKind | None, Query(description="Only of this kind.")] = None,
    task: Annotated[str, Query(description="Only of this task.")] = "",
    status: Annotated[
        Literal["open", "done", "gold", "decided"] | None,
        Query(description="Wants more votes, has all, has a known answer, was decided by a reviewer."),
    ] = None,
    text: Annotated[str, Query(max_length=200, description="Occurs in prompt, responses, sources or ids.")] = "",
    round: Annotated[int | None, Query(description="Only of this round.")] = None,
    project: InProject = "",
    page: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
) -> Response:
    """Items with their votes, by priority, then in order of arrival: 100 on a page."""
    with state.database.read() as session:
        names = names_for(session, caller.id, "admin", project)
        found = find_items(session, Filter(question or "", task, status or "", text, round, names), page, _PAGE)
        items = [item_json(session, item) for item in found.items]
    return JSONResponse({"items": items, "found": found.found, "page": found.page, "pages": found.pages})


@router.post("", status_code=201, response_model=AddedItems)
def post_items(
    caller: AsProjectAdmin,
    state: State,
    rows: Annotated[list[Any], Depends(Rows(list[NewItem]))],
    project: Annotated[str, Query(max_length=40, description="Name of the project that they go into.")] = "default",
) -> Response:
    """Put items into the queue, all or none; those that are there already change nothing."""
    with state.database.write() as session:
        need(session, caller.id, project, "admin")
        added = add_items(session, rows, state.config, state.now(), project)
        note(session, state.now(), caller.id, "items added", project, str(added.added))
    return JSONResponse({"added": added.added, "present": added.present, "item_ids": list(added.item_ids)}, 201)


@router.post("/votes")
def post_items_votes(
    caller: AsProjectAdmin, state: State, ids: Annotated[list[Any], Depends(Rows(list[str]))]
) -> Response:
    """How far items are: {"items": {id: {"votes", "overlap"}}}; ids that are not there are left out."""
    if len(ids) > _MOST_IDS or not all(isinstance(item_id, str) for item_id in ids):
        raise Invalid(f"expected a list of at most {_MOST_IDS} item ids", "body")
    with state.database.read() as session:
        theirs = Item.project.in_(names_for(session, caller.id, "admin"))
        found = session.execute(select(Item.id, Item.votes, Item.overlap).where(Item.id.in_(ids), theirs))
        counted = {row.id: {"votes": row.votes, "overlap": row.overlap} for row in found}
    return JSONResponse({"items": counted})


@router.patch("/{item_id:path}", response_model=ShownItem)
def patch_item(
    item_id: str, caller: AsProjectAdmin, state: State, message: Annotated[ItemChange, body_as(ItemChange)]
) -> Response:
    """Ask an item sooner or later, more or fewer people, or only some."""
    with state.database.write() as session:
        need(session, caller.id, find_item(session, item_id).project, "admin")
        wanted = (message.priority, message.overlap, message.assigned)
        item = edit_item(session, item_id, *wanted, caller.id, state.now())
        return JSONResponse(item_json(session, item))


@router.delete("/{item_id:path}")
def remove_item(
    item_id: str,
    caller: AsProjectAdmin,
    state: State,
    votes: Annotated[bool, Query(description="Delete it even if there are votes.")] = False,
) -> Response:
    """Delete an item: 409 where it has votes, unless `votes=true` says that they may go as well."""
    with state.database.write() as session:
        need(session, caller.id, find_item(session, item_id).project, "admin")
        gone = delete_item(session, item_id, votes, caller.id, state.now())
    return JSONResponse({"item_id": item_id, "votes": gone})


def item_json(session: Session, item: Item) -> Mapping[str, Any]:
    """As ShownItem says."""
    same = (
        "project",
        "prompt_id",
        "question",
        "task",
        "messages",
        "media_ids",
        "responses",
        "overlap",
        "votes",
        "priority",
    )
    return {
        "item_id": item.id,
        "assigned": assigned_to(session, item),
        **{name: getattr(item, name) for name in (*same, "round", "gold")},
        "created": item.created.isoformat(),
    }
