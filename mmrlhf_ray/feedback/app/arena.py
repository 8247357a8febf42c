"""/api/arena: the arena for programs, and what its pages do as well."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from mmrlhf_ray.data.media import MediaRow
from mmrlhf_ray.feedback.app.access import AsAnnotator
from mmrlhf_ray.feedback.app.api import DAY_MS
from mmrlhf_ray.feedback.app.body import Message, body_as
from mmrlhf_ray.feedback.app.state import AppState, State
from mmrlhf_ray.feedback.arena.asking import Arena, question
from mmrlhf_ray.feedback.arena.board import Board, board
from mmrlhf_ray.feedback.collect import battles
from mmrlhf_ray.feedback.collect.accounts import Caller
from mmrlhf_ray.feedback.collect.media_files import find_media
from mmrlhf_ray.feedback.collect.tables import ArenaBattle
from mmrlhf_ray.feedback.errors import N_, Invalid, Unanswered, Unknown

router = APIRouter(prefix="/api/arena", tags=["arena"])


class QuestionMessage(Message):
    """What two models are to answer."""

    prompt: str
    media_ids: Annotated[list[str], Field(default_factory=list, description="Stored media that it shows.")]


class BattleVoteMessage(Message):
    """Which of two answers is the better one; `tie` = both are good."""

    choice: Literal["left", "right", "tie", "both_bad"]
    critique: str = ""
    milliseconds: Annotated[int, Field(ge=0, le=DAY_MS)] = 0


@router.post("/battles")
def post_battle(
    caller: AsAnnotator, state: State, message: Annotated[QuestionMessage, body_as(QuestionMessage)]
) -> Response:
    """Ask two models: 201 with their answers, left and right, or 502 where one of them does not answer."""
    battle = new_battle(state, caller, message.prompt, message.media_ids)
    texts = [battle.responses[index]["text"] for index in battle.order_shown]
    return JSONResponse({"battle_id": battle.id, "responses": texts}, 201)


@router.post("/battles/{battle_id}/vote")
def post_vote(
    battle_id: str,
    caller: AsAnnotator,
    state: State,
    message: Annotated[BattleVoteMessage, body_as(BattleVoteMessage)],
) -> Response:
    """Store the vote on a battle of one's own, once; the names of the models, left and right."""
    answer: dict[str, Any] = {"choice": message.choice, "critique": message.critique}
    battle = cast_vote(state, caller, battle_id, answer, message.milliseconds)
    return JSONResponse({"battle_id": battle.id, "models": names(battle)})


@router.get("/ratings")
def get_ratings(caller: AsAnnotator, state: State) -> Response:
    """{"votes", "models": [{"name", "rating": [estimate, low, high] or null, "wins", "ties", "losses"}]}, the best
    first."""
    found = current_board(state)
    models = [
        {
            "name": model.name,
            "rating": model.rating and [model.rating.estimate, model.rating.low, model.rating.high],
            "wins": model.all.wins,
            "ties": model.all.ties,
            "losses": model.all.losses,
        }
        for model in found.standings
    ]
    return JSONResponse({"votes": found.votes, "models": models})


def arena_of(state: AppState) -> Arena:
    """Raises Unknown where there is none."""
    if state.arena is None:
        raise Unknown(N_("there is no arena here"))
    return state.arena


def new_battle(state: AppState, caller: Caller, text: str, media_ids: list[str]) -> ArenaBattle:
    """Two models' answers, kept for the vote. Raises Invalid, Unknown, TooMany, and Unanswered, which names who."""
    arena = arena_of(state)
    text = text.strip()
    if not 1 <= len(text) <= state.config.max_text_chars:
        raise Invalid(N_("ask something, in at most %(most)s characters"), "prompt", most=state.config.max_text_chars)
    if len(media_ids) > arena.config.max_media:
        raise Invalid(N_("show at most %(most)s media"), "media_ids", most=arena.config.max_media)
    media: list[MediaRow] = []
    with state.database.read() as session:
        for media_id in media_ids:
            row, path = find_media(session, state.config, media_id)
            media.append({"media_id": media_id, "kind": row.kind, "mime": row.mime, "data": path.read_bytes()})
    asked = battles.Asked(text, media_ids, [row["kind"] for row in media])
    answers = arena.ask(question(text, media), state.config.max_text_chars)
    silent = [answer.name for answer in answers if answer.problem]
    if silent:
        raise Unanswered(
            N_("no answer from %(names)s, so there is nothing to compare; ask again"), names=" + ".join(silent)
        )
    with state.database.write() as session:
        return battles.open_battle(session, caller.id, asked, answers, state.config, state.now())


def cast_vote(
    state: AppState, caller: Caller, battle_id: str, answer: dict[str, Any], milliseconds: int
) -> ArenaBattle:
    """Store the vote. Raises as battles.vote() does."""
    arena_of(state)
    given = {name: value for name, value in answer.items() if value != ""}
    with state.database.write() as session:
        return battles.vote(session, caller.id, battle_id, given, milliseconds, state.config, state.now())


def current_board(state: AppState) -> Board:
    """The board of all votes so far."""
    arena = arena_of(state)
    with state.database.read() as session:
        games = battles.games(session)
    return board(games, [model.name for model in arena.config.models])


def names(battle: ArenaBattle) -> list[str]:
    """Of the models whose answers stand left and right."""
    return [battle.responses[index]["source"] for index in battle.order_shown]
