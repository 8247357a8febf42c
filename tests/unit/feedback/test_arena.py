"""The arena: served models answer over real HTTP, votes are blind and become records, failures invent nothing."""

import base64
import io
import json
import logging
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError
from sqlalchemy import select

from mmrlhf_ray.cli.feedback import arena_models
from mmrlhf_ray.config import FeedbackConfig, load_config
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.feedback.annotations import annotations_of
from mmrlhf_ray.feedback.app import create_app
from mmrlhf_ray.feedback.arena.asking import Answered
from mmrlhf_ray.feedback.collect import battles
from mmrlhf_ray.feedback.collect.accounts import add_annotator
from mmrlhf_ray.feedback.collect.erase import erase_annotator, personal_data
from mmrlhf_ray.feedback.collect.export import annotations_table, prompts_table
from mmrlhf_ray.feedback.collect.tables import ArenaBattle, Item, Vote
from mmrlhf_ray.feedback.labels.derive import derive_preferences
from tests.unit.feedback.endpoints import TOKEN, Served, serving_model
from tests.unit.feedback.test_api import IMAGE
from tests.unit.feedback.test_languages import CHINESE, latin
from tests.unit.feedback.world import NOON, World


@pytest.fixture
def models() -> Iterator[tuple[Served, Served]]:
    with ExitStack() as stack:
        good, bad = (stack.enter_context(serving_model(Served(text))) for text in ("the good answer", "the bad answer"))
        yield good, bad


def configured(tmp_path: Path, served: tuple[Served, Served], **more: Any) -> FeedbackConfig:
    named = [{"name": name, "base_url": m.url} for name, m in zip(("Good", "Bad"), served, strict=True)]
    arena = {"models": named, "deadline_s": 10.0} | more
    return FeedbackConfig.model_validate({"data_dir": str(tmp_path / "data"), "gold_share": 0.0, "arena": arena})


def opened(config: FeedbackConfig, http: TestClient) -> World:
    database = http.app.state.feedback.database  # type: ignore[attr-defined]
    world = World(http.app, config, database, http)  # type: ignore[arg-type]
    for role in ("annotator", "reviewer", "admin", "client"):
        with database.write() as session:
            world.tokens[role] = add_annotator(session, role, role, "test", NOON)[1]
    return world


@pytest.fixture
def arena(tmp_path: Path, models: tuple[Served, Served]) -> Iterator[World]:
    config = configured(tmp_path, models)
    with TestClient(create_app(config), base_url="http://127.0.0.1", raise_server_exceptions=False) as http:
        yield opened(config, http)


def fight(arena: World, ask: str = "What is it?", role: str = "annotator") -> dict[str, Any]:
    answer = arena.call(role, "POST", "/api/arena/battles", json={"prompt": ask})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def choose(arena: World, battle: dict[str, Any], choice: str, role: str = "annotator", **more: Any) -> Any:
    body = {"choice": choice} | more
    return arena.call(role, "POST", f"/api/arena/battles/{battle['battle_id']}/vote", json=body)


def stored(arena: World, table: Any) -> list[Any]:
    with arena.database.read() as session:
        return list(session.scalars(select(table)))


def test_models_are_named_after_the_vote_only_and_sides_are_drawn(arena: World) -> None:
    left = Counter()
    for number in range(14):
        battle = fight(arena, f"question {number}")
        assert set(battle) == {"battle_id", "responses"}
        assert "Good" not in json.dumps(battle)
        assert sorted(battle["responses"]) == ["the bad answer", "the good answer"]
        left[battle["responses"][0]] += 1
        side = ("left", "right")[battle["responses"].index("the good answer")]
        named = choose(arena, battle, side).json()["models"]
        assert named[battle["responses"].index("the good answer")] == "Good"
    assert len(left) == 2, "always the same side comes by chance once in 8,000 runs"
    ratings = arena.call("annotator", "GET", "/api/arena/ratings").json()
    assert ratings["votes"] == 14
    assert [(m["name"], m["wins"], m["rating"]) for m in ratings["models"]] == [("Good", 14, None), ("Bad", 0, None)]


def test_a_vote_is_an_annotation_that_preferences_come_of(arena: World) -> None:
    battle = fight(arena)
    assert stored(arena, Item) == [], "without a vote nobody else is asked about it"
    side = ("left", "right")[battle["responses"].index("the good answer")]
    assert choose(arena, battle, side, critique="clear", milliseconds=1234).status_code == 200
    with arena.database.read() as session:
        annotations, prompts = annotations_of(annotations_table(session)), prompts_table(session)
    (annotation,) = annotations
    liked = annotation.ranks.index(1)
    assert (annotation.responses[liked], annotation.sources[liked]) == ("the good answer", "Good")
    assert (annotation.kind, annotation.critique, annotation.milliseconds) == ("pair", "clear", 1234)
    (record,) = derive_preferences(annotations, prompts).to_pylist()
    assert (record["chosen"], record["rejected"], record["task"]) == ("the good answer", "the bad answer", "arena")
    assert json.loads(record["messages"])[0]["content"] == [{"type": "text", "text": "What is it?"}]


def test_a_vote_counts_once_and_stays(arena: World) -> None:
    battle = fight(arena)
    assert choose(arena, battle, "tie").status_code == 200
    assert choose(arena, battle, "tie").json()["models"]
    other = choose(arena, battle, "left")
    assert (other.status_code, other.json()["field"]) == (409, "choice")
    (vote,) = stored(arena, Vote)
    assert arena.call("annotator", "POST", f"/api/votes/{vote.id}/undo").status_code == 409
    again = {"vote_id": "0b9d7f8e-3c55-4f0a-9d2b-6a1f4f1f7f10", "item_id": vote.item_id, "answer": {"choice": "left"}}
    assert arena.call("annotator", "POST", f"/api/votes/{vote.id}/change", json=again).status_code == 409
    (vote,) = stored(arena, Vote)
    assert (vote.answer["choice"], vote.undone) == ("tie", False)


def test_battles_are_for_who_asked(arena: World) -> None:
    battle = fight(arena)
    assert choose(arena, battle, "left", role="reviewer").status_code == 404
    assert arena.call("reviewer", "POST", "/api/lease").status_code == 204
    assert arena.call("client", "GET", "/arena").status_code == 403
    assert choose(arena, battle, "up").status_code == 422
    assert stored(arena, Vote) == []


def test_answers_and_votes_outlive_a_kill(tmp_path: Path, models: tuple[Served, Served]) -> None:
    """Each request is durable when it is answered, so a server that is started over the same files knows them."""
    config = configured(tmp_path, models)
    with TestClient(create_app(config), base_url="http://127.0.0.1") as http:
        first = opened(config, http)
        battle, done = fight(first), fight(first, "And this?")
        assert choose(first, done, "left").status_code == 200
        second_app = create_app(config)  # while the first has not closed anything
        with TestClient(second_app, base_url="http://127.0.0.1") as other:
            second = World(second_app, config, second_app.state.feedback.database, other, first.tokens)
            assert choose(second, battle, "right").status_code == 200
            assert second.call("annotator", "GET", "/api/arena/ratings").json()["votes"] == 2


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"status": 500}, "answered HTTP 500"),
        ({"wait_s": 6.0}, "did not answer within"),
        ({"text": " "}, "answered nothing"),
        ({"models": ("a", "b")}, "lists 2 models"),
        ({"token": TOKEN}, "answered HTTP 401"),
        ({"text": "x" * 20_001}, "20001 characters"),
    ],
)
def test_a_model_that_fails_is_named_and_no_vote_is_invented(
    tmp_path: Path,
    models: tuple[Served, Served],
    change: dict[str, Any],
    problem: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A server of another test may have silenced it.
    monkeypatch.setattr(logging.getLogger("uvicorn"), "propagate", True)
    caplog.set_level(logging.WARNING, "uvicorn.error")
    for name, value in change.items():
        setattr(models[1], name, value)
    config = configured(tmp_path, models, deadline_s=3.0 if "wait_s" in change else 60.0)
    with TestClient(create_app(config), base_url="http://127.0.0.1") as http:
        arena = opened(config, http)
        answer = arena.call("annotator", "POST", "/api/arena/battles", json={"prompt": "What?"})
        assert answer.status_code == 502
        assert answer.json()["error"].startswith("no answer from Bad, so")
        assert (stored(arena, ArenaBattle), stored(arena, Item), stored(arena, Vote)) == ([], [], [])
    assert problem in caplog.text


def test_tokens_come_from_the_environment(
    tmp_path: Path, models: tuple[Served, Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    models[0].token = TOKEN
    named = [
        {"name": "Good", "base_url": models[0].url, "token_env": "GOOD_TOKEN", "model": "mine"},
        {"name": "Bad", "base_url": models[1].url},
    ]
    config = configured(tmp_path, models, models=named, temperature=0.5, max_tokens=7)
    with TestClient(create_app(config), base_url="http://127.0.0.1") as http:
        arena = opened(config, http)
        assert arena.call("annotator", "POST", "/api/arena/battles", json={"prompt": "?"}).status_code == 502
        monkeypatch.setenv("GOOD_TOKEN", TOKEN)
        fight(arena)
    body = models[0].asked[-1]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("mine", 0.5, 7)
    assert models[1].asked[-1]["model"] == "only"


def test_more_questions_than_places_are_refused(tmp_path: Path, models: tuple[Served, Served]) -> None:
    models[0].wait_s = 2.0
    config = configured(tmp_path, models, at_once=1)
    with TestClient(create_app(config), base_url="http://127.0.0.1") as http:
        arena = opened(config, http)
        waiting = threading.Thread(target=fight, args=(arena,))
        waiting.start()
        while not models[0].asked:
            pass
        refused = arena.call("annotator", "POST", "/api/arena/battles", json={"prompt": "Me too?"})
        models[0].wait_s = 0.0
        waiting.join()
        assert (refused.status_code, len(stored(arena, ArenaBattle))) == (429, 1)
        fight(arena)


def hidden(text: str, name: str) -> str:
    return text.split(f'name="{name}" value="')[1].split('"')[0]


def test_the_pages_without_a_script_with_a_picture(arena: World, models: tuple[Served, Served]) -> None:
    browser = arena.log_in("annotator")
    page = browser.get("/arena").text
    form = {"csrf": hidden(page, "csrf"), "text": "Which colour?"}
    asked = browser.post("/arena", data=form, files={"media": ("a.png", io.BytesIO(IMAGE), "image/png")})
    assert asked.status_code == 303, asked.text
    battle = browser.get(asked.headers["location"]).text
    assert "the good answer" in battle
    assert not re.search(r"\bGood\b(?! <kbd>)", battle.replace("Both good", "")), "blind"
    sent = models[0].asked[-1]["messages"][0]["content"]
    assert [part["type"] for part in sent] == ["image_url", "text"]
    assert base64.b64decode(sent[0]["image_url"]["url"].partition(",")[2]) == IMAGE
    vote = {"csrf": hidden(battle, "csrf"), "id": hidden(battle, "id"), "choice": "both_bad", "milliseconds": ""}
    cast = browser.post("/arena/vote", data=vote)
    assert cast.status_code == 303, cast.text
    after = browser.get(cast.headers["location"]).text
    assert ">Good</h2>" in after
    assert "You found both bad." in after
    assert "Good" in browser.get("/arena/ratings").text
    (item,) = stored(arena, Item)
    assert (item.modality, len(item.media_ids), item.votes, item.overlap) == ("image", 1, 1, 1)


def test_forms_need_their_csrf_token(arena: World) -> None:
    browser = arena.log_in("annotator")
    assert browser.post("/arena", data={"text": "?"}).status_code == 403
    assert browser.post("/arena/vote", data={"id": "x", "choice": "left"}).status_code == 403


def test_wrong_questions_keep_what_was_written(arena: World, models: tuple[Served, Served]) -> None:
    browser = arena.log_in("annotator")
    csrf = hidden(browser.get("/arena").text, "csrf")
    files = {"media": ("a.txt", b"no picture", "image/png")}
    answer = browser.post("/arena", data={"csrf": csrf, "text": "Which <b>?"}, files=files)
    assert answer.status_code == 422
    assert "“a.txt” cannot be shown" in answer.text
    assert "Which &lt;b&gt;?</textarea>" in answer.text
    models[0].status = 500
    again = browser.post("/arena", data={"csrf": csrf, "text": "Which?"}, files={"media": ("a.png", IMAGE)})
    assert again.status_code == 502
    kept = hidden(again.text, "media_id")
    models[0].status = 200
    sent = browser.post("/arena", data={"csrf": csrf, "text": "Which?", "media_id": kept})
    assert sent.status_code == 303
    assert browser.post("/arena", data={"csrf": csrf, "text": " "}).status_code == 422


def test_old_battles_without_a_vote_go(arena: World) -> None:
    answers = [Answered("Good", "a"), Answered("Bad", "b")]
    with arena.database.write() as session:
        who = add_annotator(session, "who", "annotator", "test", NOON)[0].id
        session.flush()
        old = battles.open_battle(session, who, battles.Asked("old"), answers, arena.config, NOON)
        kept = battles.open_battle(session, who, battles.Asked("voted"), answers, arena.config, NOON)
        session.flush()
        battles.vote(session, who, kept.id, {"choice": "left"}, 0, arena.config, NOON)
        session.flush()
        battles.open_battle(session, who, battles.Asked("new"), answers, arena.config, NOON + timedelta(hours=25))
    asked = {battle.messages[0]["content"][0]["text"] for battle in stored(arena, ArenaBattle)}
    assert asked == {"voted", "new"}
    assert old.id not in {battle.id for battle in stored(arena, ArenaBattle)}


def test_who_is_erased_leaves_no_question(arena: World) -> None:
    for ask in ("mine", "mine too"):
        choose(arena, fight(arena, ask), "left")
    fight(arena, "without a vote")
    choose(arena, fight(arena, "another's", role="reviewer"), "left", role="reviewer")
    with arena.database.write() as session:
        told = personal_data(session, "annotator", "test", NOON)
        erased = erase_annotator(session, "annotator", "test", NOON)
    assert (len(told["battles"]), erased.votes) == (3, 2)
    assert [item.messages[0]["content"][0]["text"] for item in stored(arena, Item)] == ["another's"]
    assert len(stored(arena, ArenaBattle)) == len(stored(arena, Vote)) == 1


def test_without_an_arena_there_is_no_page(world: World) -> None:
    assert world.call("annotator", "GET", "/arena").status_code == 404
    assert "/arena" not in world.call("annotator", "GET", "/").text
    assert world.call("annotator", "POST", "/api/arena/battles", json={"prompt": "?"}).status_code == 404


def test_the_option_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MMRLHF_SERVE_TOKEN", raising=False)
    given = arena_models(["mine=http://127.0.0.1:8000/v1", "base=http://127.0.0.1:8001/v1?a=b"])
    config = load_config(None, [f"arena.models={given}", "arena.deadline_s=5"], FeedbackConfig)
    assert config.arena is not None
    assert [(m.name, m.base_url, m.token_env) for m in config.arena.models] == [
        ("mine", "http://127.0.0.1:8000/v1", None),
        ("base", "http://127.0.0.1:8001/v1?a=b", None),
    ]
    monkeypatch.setenv("MMRLHF_SERVE_TOKEN", "x")
    assert '"token_env": "MMRLHF_SERVE_TOKEN"' in arena_models(["mine=http://127.0.0.1:8000/v1"])
    with pytest.raises(ConfigError, match="expected NAME=URL, got 'mine'"):
        arena_models(["mine"])


@pytest.mark.parametrize(
    "models",
    [
        [{"name": "a", "base_url": "http://x"}],
        [{"name": "a", "base_url": "http://x"}] * 2,
        [{"name": "a", "base_url": "ftp://x"}, {"name": "b", "base_url": "http://x"}],
    ],
)
def test_models_that_make_no_sense_are_refused(models: list[dict[str, str]]) -> None:
    with pytest.raises(ValidationError, match="arena"):
        FeedbackConfig.model_validate({"arena": {"models": models}})


def test_its_pages_are_chinese(tmp_path: Path, models: tuple[Served, Served]) -> None:
    models[0].text, models[1].text = "甲的回答", "乙的回答"
    named = [{"name": name, "base_url": m.url} for name, m in zip("甲乙", models, strict=True)]
    config = configured(tmp_path, models, models=named)
    with TestClient(create_app(config), base_url="http://127.0.0.1") as http:
        arena = opened(config, http)
        pages = [arena.call("annotator", "GET", "/arena", headers=CHINESE).text]
        for choice in ("left", "tie"):
            battle = fight(arena, "问")
            address = f"/arena/battle?id={battle['battle_id']}"
            pages.append(arena.call("annotator", "GET", address, headers=CHINESE).text)
            assert choose(arena, battle, choice).status_code == 200
            pages.append(arena.call("annotator", "GET", address, headers=CHINESE).text)
        pages.append(arena.call("annotator", "GET", "/arena/ratings", headers=CHINESE).text)
        refused = arena.call("annotator", "POST", "/api/arena/battles", json={"prompt": ""}, headers=CHINESE)
    assert [latin(text) for text in pages] == [set()] * len(pages)
    assert refused.json()["error"].startswith("请提问")
