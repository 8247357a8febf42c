"""Simulated annotators over HTTP: a real server, real client processes, votes that are what they believe."""

import json
import os
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mmrlhf_ray.config import DataConfig
from mmrlhf_ray.config.iterate import AnnotatorsSection, AskSection, FeedbackSection
from mmrlhf_ray.data.records.readers import Records, read_records
from mmrlhf_ray.demo.gold import gold_reward
from mmrlhf_ray.demo.http_annotators import _ANSWERS, Assignment, Judgement, Options, judge, person
from mmrlhf_ray.demo.tasks import respond
from mmrlhf_ray.errors import RunError
from mmrlhf_ray.pipelines.iterate.client import LoopClient
from mmrlhf_ray.pipelines.iterate.pairs import Pair, item_rows
from mmrlhf_ray.pipelines.iterate.programs import annotators, feedback_client
from mmrlhf_ray.schema import PROMPT

TRUTH = {"answer": "odd", "evidence": {"image": "7"}, "options": ["even", "odd"]}
BEST, BARE, WRONG = respond("odd", {"image": "7"}), respond("odd", {}), respond("even", {})
PATIENCE_S = 60


def told(number: int = 0, noise: float = 1e-6, **options: object) -> Assignment:
    given = Options(prompts=".", noise=noise, **options)
    return Assignment(url="http://x", token="t", name="n", number=number, seed=3, options=given)


def judged(texts: list[str], by: Assignment, item: str = "item") -> Judgement:
    return judge(person(by.number, by.options.noise), texts, TRUTH, by, item)


def test_without_noise_the_better_response_wins_on_either_side():
    for number in range(7):
        assert judged([BEST, BARE], told(number)).ranks == (1, 2)
        assert judged([WRONG, BARE], told(number)).ranks == (2, 1)


def test_gold_is_read_off_the_text():
    cut = " ".join(["the"] * 24)
    found = judged([BEST, cut], told())
    assert found.gold[0] == gold_reward(BEST, "stop", len(BEST.split()) + 1, TRUTH).total == 1.6
    assert found.gold[1] == gold_reward(cut, "length", 24, TRUTH).total < 0


def test_a_vote_depends_on_annotator_seed_and_item_alone():
    noisy = [judged([BEST, BARE], told(0, noise=5.0), f"item-{i}").ranks for i in range(40)]
    assert noisy == [judged([BEST, BARE], told(0, noise=5.0), f"item-{i}").ranks for i in range(40)]
    assert len(set(noisy)) > 1
    assert noisy != [judged([BEST, BARE], told(1, noise=5.0), f"item-{i}").ranks for i in range(40)]


def test_reliability_falls_with_the_number():
    right = [sum(judged([BEST, BARE], told(n, 1.0), f"i{i}").ranks == (1, 2) for i in range(300)) for n in (0, 2, 4)]
    assert right[0] > right[1] > right[2] > 150


@pytest.mark.parametrize(
    ("ranks", "gold", "pair", "ratings"),
    [
        ((1, 2), (1.6, 1.0), "left", [5, 4]),
        ((2, 1), (1.6, 1.0), "right", [4, 5]),  # a mistake: the worse one is rated higher, as believed
        ((2, 1), (1.0, 1.0), "right", [3, 4]),
        ((1, 2), (0.0, 0.0), "left", [2, 1]),
        ((1, 1), (1.0, 0.9), "tie", [4, 4]),
        ((1, 1), (0.0, 0.1), "both_bad", [1, 1]),
    ],
)
def test_answers_say_what_the_ranks_say(ranks, gold, pair, ratings):
    item = {"aspects": [{"name": "helpful"}]}
    believed = Judgement(ranks, gold, both_bad_below=0.3)
    assert _ANSWERS["pair"](believed, item) == {"choice": pair}
    assert _ANSWERS["rank"](believed, item) == {"ranks": list(ranks)}
    assert [r["helpful"] for r in _ANSWERS["rate"](believed, item)["ratings"]] == ratings


@pytest.fixture(scope="module")
def prompts(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Records:
    path = str(data_dir / "prompts_train")
    return read_records(DataConfig(path=path), PROMPT, tmp_path_factory.mktemp("read"))


def ask(client: LoopClient, prompts: Records, question: str) -> dict[str, str]:
    """Item → the better text, of a good and a wrong answer to each prompt."""
    rows = prompts.records.to_pylist()
    better, pairs = {}, []
    for number, row in enumerate(rows):
        truth = json.loads(row["extras"])
        other = next(option for option in truth["options"] if option != truth["answer"])
        texts = [respond(truth["answer"], truth["evidence"]), respond(other, {})]
        pairs.append(Pair(row["prompt_id"], *(texts if number % 2 else texts[::-1])))
        better[row["prompt_id"]] = texts[0]
    items = item_rows(pairs, {r["prompt_id"]: r for r in rows}, AskSection(overlap=2, question=question), "run", 1)
    client.add_media(prompts.media)
    client.add_items(items)
    client.add_items(items)  # a stage that is run again
    return {item["item_id"]: better[item["prompt_id"]] for item in items}


@pytest.mark.parametrize("question", ["pair", "rank", "rate"])
def test_they_answer_everything_once_and_rightly(question, prompts, data_dir, tmp_path):
    options = {"prompts": str(data_dir / "prompts_train"), "noise": 0.01, "poll_s": 0.05}
    cfg = AnnotatorsSection(module="mmrlhf_ray.demo.http_annotators", count=3, options=options)
    with feedback_client(FeedbackSection(serve={"port": 0}), tmp_path) as client:
        better = ask(client, prompts, question)
        with annotators(cfg, client, seed=0, log_dir=tmp_path / "annotators") as programs:
            until = time.monotonic() + PATIENCE_S
            while any(v.cast < v.wanted for v in client.votes(list(better)).values()):
                assert time.monotonic() < until
                for program in programs:
                    program.check()
                time.sleep(0.1)
            pids = [program.process.pid for program in programs]
        rows = client.annotations().to_pylist()
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
    assert Counter(row["item_id"] for row in rows) == dict.fromkeys(better, 2)
    assert len({(row["item_id"], row["annotator_id"]) for row in rows}) == len(rows)
    for row in rows:
        if question == "rate":
            worth = json.loads(row["aspects"])["helpful"]
            best = row["responses"][int(np.argmax(worth))]
        else:
            best = row["responses"][row["ranks"].index(1)]
        assert best == better[row["item_id"]]


def test_a_program_that_ends_is_noticed(prompts, tmp_path):
    cfg = AnnotatorsSection(module="mmrlhf_ray.demo.http_annotators", count=1, options={"prompts": "nowhere"})
    with (
        feedback_client(FeedbackSection(serve={"port": 0}), tmp_path) as client,
        annotators(cfg, client, seed=0, log_dir=tmp_path) as (program,),
    ):
        program.process.wait(PATIENCE_S)
        with pytest.raises(RunError, match=r"simulated-1 has ended with status 1: FileNotFoundError: nowhere"):
            program.check()


def test_a_server_that_refuses_is_told_plainly(prompts, tmp_path):
    with feedback_client(FeedbackSection(serve={"port": 0}), tmp_path) as client:
        token = client.annotator_token("somebody")
        with pytest.raises(RunError, match="role admin"):
            LoopClient.connect(client.url, token)
        with pytest.raises(RunError, match="1 of 1 questions of this run are not there, first nothing"):
            client.votes(["nothing"])
        with pytest.raises(RunError, match="at most 1000 item ids"):
            client._call("POST", "/api/items/votes", json=["x"] * 1001)
        with pytest.raises(RunError, match="status 422"):
            client.add_items([{"question": "pair"}])
        assert client.annotator_token("somebody") != token  # the account stays, its token is new
