"""People's side over HTTP: clips become questions, votes come back once, whichever clip's answer stood on the left."""

import uuid
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from mmrlhf_ray.behaviour.annotators import People
from mmrlhf_ray.behaviour.env import RecordedEnv
from mmrlhf_ray.behaviour.ledger import Ledger
from mmrlhf_ray.behaviour.teacher import Teacher
from mmrlhf_ray.config import BehaviourConfig
from mmrlhf_ray.config.behaviour import PeopleAnnotators
from mmrlhf_ray.errors import ConfigError, RunFailed
from tests.browser.support import Site, site
from tests.unit.behaviour.test_env import played
from tests.unit.behaviour_tiny import job


def people_job(directory: Path, url: str, **keys: object) -> BehaviourConfig:
    return job(directory, annotators={"kind": "people", "url": url} | keys)


def vote_all(server: Site, name: str) -> int:
    """Someone who always prefers the first clip; how many votes."""
    votes = 0
    headers = {"Authorization": f"Bearer {server.account(name)}"}
    with httpx.Client(base_url=server.url, headers=headers) as own:
        while (leased := own.post("/api/lease")).status_code == 200:
            item = leased.json()
            assert [medium["kind"] for medium in item["media"]] == ["video", "video"]
            first = item["responses"].index("the first clip")
            answer = {"choice": ("left", "right")[first]}
            body = {"vote_id": str(uuid.uuid4()), "item_id": item["item_id"], "answer": answer}
            assert own.post("/api/votes", json=body).status_code == 201
            votes += 1
    return votes


def test_votes_of_people_are_for_the_first_clip_wherever_it_stood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site(tmp_path / "data") as server:
        monkeypatch.setenv("MMRLHF_FEEDBACK_TOKEN", server.admin_token)
        cfg = people_job(tmp_path, server.url, overlap=2)
        assert isinstance(cfg.annotators, PeopleAnnotators)
        with closing(RecordedEnv(cfg)) as env:
            segments = played(env, 60)
        ledger = Ledger(tmp_path / "run")
        pairs = [ledger.ask(segments[n], segments[n + 1], 0) for n in range(6)]
        with closing(People(cfg, cfg.annotators)) as people:
            people.ask(pairs)
            people.ask(pairs)  # as after a resume
            assert people.votes(ledger.pairs) == []
            assert vote_all(server, "Ann") == 6
            assert ledger.add(people.votes(ledger.pairs)) == 6
            assert vote_all(server, "Ben") == 6
            assert ledger.add(people.votes(ledger.pairs)) == 6
            assert ledger.add(people.votes(ledger.pairs)) == 0
    assert {vote.choice for vote in ledger.votes.values()} == {"left"}
    assert len({vote.annotator for vote in ledger.votes.values()}) == 2
    assert ledger.open_pairs(overlap=2) == []


def press_on_all(server: Site, name: str) -> int:
    """Someone who likes the end of each clip and nothing of its beginning; how many clips."""
    answers = 0
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {server.account(name)}"}) as own:
        while (leased := own.post("/api/lease")).status_code == 200:
            item = leased.json()
            assert (item["question"], item["responses"]) == ("live", [])
            assert [medium["kind"] for medium in item["media"]] == ["video"]
            answer = {"presses": [[0, 0.9, -1], [0, 2.1, 1]]}
            body = {"vote_id": str(uuid.uuid4()), "item_id": item["item_id"], "answer": answer}
            assert own.post("/api/votes", json=body).status_code == 201
            answers += 1
    return answers


def test_keys_that_are_pressed_over_clips_become_votes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"segments": {"steps": 15, "frames_per_second": 5}, "ask": {"pairs": 8, "first": 4}}
    with site(tmp_path / "data") as server:
        monkeypatch.setenv("MMRLHF_FEEDBACK_TOKEN", server.admin_token)
        cfg = job(tmp_path, annotators={"kind": "people", "url": server.url, "by": "keys"}, **keys)
        with closing(RecordedEnv(cfg)) as env:
            segments, space, actions = played(env, 240), env.observation_space, env.action_space
        for name in ("Ann", "Ben"):  # the second as after a resume
            with closing(Teacher(cfg, tmp_path / "run", space, actions)) as teacher:
                teacher.see(segments)
                teacher.ask(0)
                assert len(teacher.ledger.clips) == 4
                press_on_all(server, name)
                teacher.wait(4)
                assert teacher.answers == 4
                votes = set(teacher.ledger.votes)
                assert teacher.hear() == 0
                assert set(teacher.ledger.votes) == votes
                pairs = teacher.ledger.pairs.values()
                assert len(pairs) == len(votes) >= 8
                assert {len(pair.first) for pair in pairs} == {3}
                assert teacher.learn(0)["votes"] == len(votes)
        assert set(Ledger(tmp_path / "run").votes) == votes
        with closing(Teacher(cfg, tmp_path / "run", space, actions)) as teacher:
            teacher.see(segments)
            teacher.ask(cfg.steps - 1)
            assert len(teacher.ledger.clips) == 8


def test_a_run_without_votes_ends_when_it_has_waited_long_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site(tmp_path / "data") as server:
        monkeypatch.setenv("MMRLHF_FEEDBACK_TOKEN", server.admin_token)
        cfg = people_job(tmp_path, server.url, wait_s=0.1).model_copy(
            update={"ask": job().ask.model_copy(update={"first": 4})}
        )
        with closing(RecordedEnv(cfg)) as env:
            segments, space, actions = played(env, 60), env.observation_space, env.action_space
        with closing(Teacher(cfg, tmp_path / "run", space, actions)) as teacher:
            teacher.see(segments)
            teacher.ask(0)
            assert len(teacher.ledger.pairs) == 4
            with pytest.raises(RunFailed, match="no vote came for so long; 0 of 4 are there"):
                teacher.wait(4)
            assert vote_all(server, "Ann") == 4
            teacher.wait(4)
            assert teacher.learn(0)["votes"] == 4


def test_a_token_that_is_not_set_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MMRLHF_FEEDBACK_TOKEN", raising=False)
    cfg = people_job(tmp_path, "http://127.0.0.1:1")
    assert isinstance(cfg.annotators, PeopleAnnotators)
    with pytest.raises(ConfigError, match="MMRLHF_FEEDBACK_TOKEN: the variable is not set"):
        People(cfg, cfg.annotators)
