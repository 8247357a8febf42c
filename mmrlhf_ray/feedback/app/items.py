"""/api/items: the queue, for administrators and their programs."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select

from mmrlhf_ray.feedback.app.access import AsAdmin
from mmrlhf_ray.feedback.app.body import Message, body_as, read_json
from mmrlhf_ray.feedback.app.state import State
from mmrlhf_ray.feedback.collect.item_list import Filter, delete_item, edit_item, find_items
from mmrlhf_ray.feedback.collect.items import EVERYBODY, add_items
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
Kind = Literal["pair", "rank", "rate", "correct", "demonstrate", "spans", "critique", "live"]


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
    question: Kind = Field(description="What people are to do.")
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
    question: Kind
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
    caller: AsAdmin,
    state: State,
    question: Annotated[Kind | None, Query(description="Only of this kind.")] = None,
    task: Annotated[str, Query(description="Only of this task.")] = "",
    status: Annotated[
        Literal["open", "done", "gold", "decided"] | None,
        Query(description="Wants more votes, has all, has a known answer, was decided by a reviewer."),
    ] = None,
    text: Annotated[str, Query(max_length=200, description="Occurs in prompt, responses, sources or ids.")] = "",
    round: Annotated[int | None, Query(description="Only of this round.")] = None,
    page: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
) -> Response:
    """Items with their votes, by priority, then in order of arrival: 100 on a page."""
    with state.database.read() as session:
        found = find_items(session, Filter(question or "", task, status or "", text, round), page, _PAGE)
    items = [item_json(item) for item in found.items]
    return JSONResponse({"items": items, "found": found.found, "page": found.page, "pages": found.pages})


@router.post("", status_code=201, response_model=AddedItems)
def post_items(caller: AsAdmin, state: State, rows: Annotated[list[Any], Depends(Rows(list[NewItem]))]) -> Response:
    """Put items into the queue, all or none; those that are there already change nothing."""
    with state.database.write() as session:
        added = add_items(session, rows, state.config, state.now())
        note(session, state.now(), caller.id, "items added", "", str(added.added))
    return JSONResponse({"added": added.added, "present": added.present, "item_ids": list(added.item_ids)}, 201)


@router.post("/votes")
def post_items_votes(caller: AsAdmin, state: State, ids: Annotated[list[Any], Depends(Rows(list[str]))]) -> Response:
    """How far items are: {"items": {id: {"votes", "overlap"}}}; ids that are not there are left out."""
    if len(ids) > _MOST_IDS or not all(isinstance(item_id, str) for item_id in ids):
        raise Invalid(f"expected a list of at most {_MOST_IDS} item ids", "body")
    with state.database.read() as session:
        found = session.execute(select(Item.id, Item.votes, Item.overlap).where(Item.id.in_(ids)))
        counted = {row.id: {"votes": row.votes, "overlap": row.overlap} for row in found}
    return JSONResponse({"items": counted})


@router.patch("/{item_id:path}", response_model=ShownItem)
def patch_item(
    item_id: str, caller: AsAdmin, state: State, message: Annotated[ItemChange, body_as(ItemChange)]
) -> Response:
    """Ask an item sooner or later, or more or fewer people."""
    with state.database.write() as session:
        item = edit_item(session, item_id, message.priority, message.overlap, caller.id, state.now())
        return JSONResponse(item_json(item))


@router.delete("/{item_id:path}")
def remove_item(
    item_id: str,
    caller: AsAdmin,
    state: State,
    votes: Annotated[bool, Query(description="Delete it even if there are votes.")] = False,
) -> Response:
    """Delete an item: 409 where it has votes, unless `votes=true` says that they may go as well."""
    with state.database.write() as session:
        gone = delete_item(session, item_id, votes, caller.id, state.now())
    return JSONResponse({"item_id": item_id, "votes": gone})


def item_json(item: Item) -> Mapping[str, Any]:
    """As ShownItem says."""
    same = ("prompt_id", "question", "task", "messages", "media_ids", "responses", "overlap", "votes", "priority")
    return {
        "item_id": item.id,
        **{name: getattr(item, name) for name in (*same, "round", "gold")},
        "created": item.created.isoformat(),
    }
