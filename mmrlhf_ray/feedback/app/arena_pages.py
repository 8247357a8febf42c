"""/arena: ask two models, choose between their answers, see the ratings. The forms work without a script."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse
from starlette.datastructures import FormData, UploadFile

from mmrlhf_ray.data.media import media_id
from mmrlhf_ray.errors import FeedbackError
from mmrlhf_ray.feedback.app.access import AsAnnotator
from mmrlhf_ray.feedback.app.api import DAY_MS
from mmrlhf_ray.feedback.app.arena import arena_of, cast_vote, current_board, names, new_battle
from mmrlhf_ray.feedback.app.language import words_of
from mmrlhf_ray.feedback.app.pages import page
from mmrlhf_ray.feedback.app.problems import STATUS
from mmrlhf_ray.feedback.app.state import AppState, State
from mmrlhf_ray.feedback.app.turns import shown_responses, turns
from mmrlhf_ray.feedback.app.views import media_json
from mmrlhf_ray.feedback.collect import battles
from mmrlhf_ray.feedback.collect.accounts import Caller
from mmrlhf_ray.feedback.collect.media_files import store_media
from mmrlhf_ray.feedback.errors import N_, Invalid
from mmrlhf_ray.feedback.questions import AnswerError

router = APIRouter()
CHOICE_WORDS = {
    "left": N_("You chose the left answer."),
    "right": N_("You chose the right answer."),
    "tie": N_("You found both good."),
    "both_bad": N_("You found both bad."),
}


async def _form(request: Request) -> FormData:
    """Read where the caller is known; never before."""
    return await request.form()


Form = Annotated[FormData, Depends(_form)]


@router.get("/arena")
def ask(request: Request, caller: AsAnnotator, state: State) -> Response:
    """The form for a question."""
    return _ask(request, caller, state)


@router.post("/arena")
def post_question(request: Request, caller: AsAnnotator, state: State, form: Form) -> Response:
    """Two answers, or the form again with what was wrong."""
    text, kept = str(form.get("text", "")), [str(value) for value in form.getlist("media_id")]
    try:
        kept += _stored(state, form)
        battle = new_battle(state, caller, text, kept)
    except FeedbackError as error:
        problem = words_of(request).error(error)
        return _ask(request, caller, state, {"problem": problem, "text": text, "kept": kept}, STATUS[type(error)])
    return RedirectResponse(f"/arena/battle?id={battle.id}", status_code=303)


@router.get("/arena/battle")
def battle(request: Request, caller: AsAnnotator, state: State, id: str = "") -> Response:
    """Two answers side by side; after the vote, who gave them."""
    return _battle(request, caller, state, id)


@router.post("/arena/vote")
def post_vote(request: Request, caller: AsAnnotator, state: State, form: Form) -> Response:
    """Store the vote, then name the models."""
    battle_id = str(form.get("id", ""))
    given = {name: str(form.get(name, "")) for name in ("choice", "critique")}
    try:
        cast_vote(state, caller, battle_id, given, _milliseconds(str(form.get("milliseconds", ""))))
    except AnswerError as error:
        return _battle(request, caller, state, battle_id, error.problem, 422)
    return RedirectResponse(f"/arena/battle?id={battle_id}", status_code=303)


@router.get("/arena/ratings")
def ratings(request: Request, caller: AsAnnotator, state: State) -> Response:
    """How good the models are, as far as the votes say."""
    from mmrlhf_ray.feedback.labels.bias import leans  # loads pandas and scipy

    found = current_board(state)
    rated = [model.rating for model in found.standings if model.rating is not None]
    low, high = min((r.low for r in rated), default=0.0), max((r.high for r in rated), default=1.0)
    context = {"here": "arena", "board": found, "low": low, "span": max(high - low, 1e-9), "leans": leans(found.left)}
    return page(request, state, caller, "arena_ratings.html", context)


def _ask(
    request: Request, caller: Caller, state: AppState, more: dict[str, Any] | None = None, status: int = 200
) -> Response:
    arena = arena_of(state).config
    context = {"here": "arena", "most_media": arena.max_media, "seconds": arena.deadline_s}
    context |= {"most_chars": state.config.max_text_chars, "models": len(arena.models)}
    return page(request, state, caller, "arena.html", context | (more or {}), status)


def _battle(
    request: Request, caller: Caller, state: AppState, battle_id: str, problem: str = "", status: int = 200
) -> Response:
    arena_of(state)
    words = words_of(request)
    with state.database.read() as session:
        found, vote = battles.find_battle(session, caller.id, battle_id)
        media = media_json(session, found.media_ids)
    context = {
        "here": "arena",
        "id": found.id,
        "turns": turns(found.messages, media, words),
        "answers": shown_responses([found.responses[index] for index in found.order_shown], {}, words),
        "names": names(found) if vote is not None else None,
        "choice": vote and vote.answer["choice"],
        "choice_words": CHOICE_WORDS,
        "critique": vote and vote.answer.get("critique"),
        "max_chars": state.config.max_text_chars,
        "problem": problem,
    }
    return page(request, state, caller, "arena_battle.html", context, status)


def _stored(state: AppState, form: FormData) -> list[str]:
    """Ids of the files that came with a form. Raises Invalid."""
    files = [file for file in form.getlist("media") if isinstance(file, UploadFile) and file.filename]
    if len(files) > arena_of(state).config.max_media:
        raise Invalid(N_("show at most %(most)s media"), "media_ids", most=arena_of(state).config.max_media)
    ids = []
    for file in files:
        data = file.file.read()
        ids.append(media_id(data))
        with state.database.write() as session:
            try:
                store_media(session, state.config, ids[-1], data)
            except Invalid as error:
                name = str(file.filename)[:80]
                raise Invalid(
                    N_("“%(name)s” cannot be shown: send an image, a sound or a clip"), "media", name=name
                ) from error
    return ids


def _milliseconds(text: str) -> int:
    """As the script has counted them; 0 without a script."""
    return min(int(text), DAY_MS) if text.isdecimal() and len(text) < 12 else 0
