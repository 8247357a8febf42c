"""The pages that people work in."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse

from mmrlhf_ray.config import FeedbackConfig, Language
from mmrlhf_ray.feedback.app.access import AsAnnotator
from mmrlhf_ray.feedback.app.language import LANGUAGES, Words, words_of
from mmrlhf_ray.feedback.app.places import places
from mmrlhf_ray.feedback.app.state import AppState, State
from mmrlhf_ray.feedback.app.templating import TEMPLATES
from mmrlhf_ray.feedback.app.turns import Shown, shown_responses, turns
from mmrlhf_ray.feedback.app.views import episode_media, media_json
from mmrlhf_ray.feedback.app.wording import SKIP_WORDS, WORDINGS
from mmrlhf_ray.feedback.collect import queue
from mmrlhf_ray.feedback.collect.accounts import Caller
from mmrlhf_ray.feedback.collect.media_files import find_media
from mmrlhf_ray.feedback.collect.own_work import last_vote, undone_answer, waiting
from mmrlhf_ray.feedback.collect.progress import progress
from mmrlhf_ray.feedback.collect.suggestions import show_suggestion
from mmrlhf_ray.feedback.collect.tables import Item
from mmrlhf_ray.feedback.questions import question_of

router = APIRouter()


def render(
    request: Request, config: FeedbackConfig, template: str, context: Mapping[str, Any], status: int = 200
) -> Response:
    """A page in the language that the request wants; every template has `title`, `words` and `back` alongside what
    `context` holds."""
    words = words_of(request)
    # A page that answers a form cannot be asked for again.
    back = f"{request.url.path}?{request.url.query}" if request.method == "GET" else "/"
    common = {"title": config.title, "words": words, "languages": LANGUAGES, "back": back}
    common |= {"arena": config.arena is not None}
    return TEMPLATES[words.language].TemplateResponse(request, template, {**common, **context}, status_code=status)


def page(
    request: Request, state: AppState, caller: Caller, template: str, context: Mapping[str, Any], status: int = 200
) -> Response:
    """A page for somebody who is logged in."""
    common = {"caller": caller, "wordings": WORDINGS}
    return render(request, state.config, template, {**common, **context}, status)


@router.get("/")
def home(request: Request, caller: AsAnnotator, state: State) -> Response:
    """Waiting items, progress and pace."""
    with state.database.read() as session:
        found = progress(session, caller.id, state.config, state.now())
        left = waiting(session, caller.id)
    hours = state.config.pace_window_s / 3600
    context = {"here": "home", "progress": found, "waiting": left, "hours": hours}
    return page(request, state, caller, "home.html", context)


@router.get("/guide")
def guide(request: Request, caller: AsAnnotator, state: State) -> Response:
    """How to judge, and the keys."""
    language = words_of(request).language
    context = {"here": "guide", "aspects": shown_aspects(state, language), "guidelines": state.guidelines_in(language)}
    return page(request, state, caller, "guide.html", context)


@router.get("/work")
def work(request: Request, caller: AsAnnotator, state: State) -> Response:
    """The item that the caller holds, or the next one."""
    context: dict[str, Any] = {"here": "work", "reasons": SKIP_WORDS}
    with state.database.write() as session:
        leased = queue.lease_next(session, caller.id, state.config, state.now())
        if leased is not None:
            media = media_json(session, leased.item.media_ids)
            previous = undone_answer(session, caller.id, leased.item.id, leased.order_shown)
            suggestion = show_suggestion(session, caller.id, leased, state.config, state.now())
            answers = shown_responses(
                [leased.item.responses[index] for index in leased.order_shown],
                episode_media(session, leased.item),
                words_of(request),
            )
            context |= question_context(leased.item, answers, media, state, words_of(request), previous)
            context["item"]["suggestion"] = suggestion and suggestion["answer"]
            context["suggested_by"] = suggestion and suggestion["source"]
        context["last_vote"] = last_vote(session, caller.id)
        context["progress"] = progress(session, caller.id, state.config, state.now())
    return page(request, state, caller, "work.html", context)


@router.get("/media/{sha256}")
def media_file(sha256: str, caller: AsAnnotator, state: State) -> FileResponse:
    """Media, in ranges too, under their content type as it was told from the bytes; they never change under this
    address."""
    with state.database.read() as session:
        row, path = find_media(session, state.config, sha256)
    # Private: for this browser only, as the next person at it may have no account.
    headers = {"cache-control": "private, max-age=3600, immutable"}
    return FileResponse(path, media_type=row.mime, headers=headers, content_disposition_type="inline")


def question_context(
    item: Item,
    answers: Sequence[Shown],
    media: list[dict[str, str]],
    state: AppState,
    words: Words,
    previous: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Variables of the question's part of a page. `item` there is also what the script gets: nothing that tells who
    wrote a response, or in which order they are stored."""
    shown = turns(item.messages, media, words)
    return {
        "item": {
            "item_id": item.id,
            "question": item.question,
            "responses": [answer.text for answer in answers],
            "aspects": [aspect.name for aspect in state.config.aspects],
            "previous": previous,
        },
        "aspects": shown_aspects(state, words.language),
        "wording": WORDINGS[item.question],
        "template": question_of(item.question).template,
        "turns": shown,
        "answers": answers,
        "places": places(shown, len(answers), words),
        "max_chars": state.config.max_text_chars,
    }


def shown_aspects(state: AppState, language: Language) -> list[dict[str, str]]:
    """Name, heading and description of each aspect, in a language."""
    return [
        {
            "name": aspect.name,
            "heading": aspect.headings.get(language, aspect.name.capitalize()),
            "description": aspect.descriptions.get(language, aspect.description),
        }
        for aspect in state.config.aspects
    ]
