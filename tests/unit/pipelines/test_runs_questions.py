"""`mmrlhf feedback add`: a run's responses, an evaluation's and rows of any format become questions for people."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from benchmarks.sample_run import SampleRun, sample_run
from mmrlhf_ray.cli.main import app
from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.errors import ConfigError, DataError
from mmrlhf_ray.feedback.client import ItemsClient
from mmrlhf_ray.feedback.collect.database import open_database
from mmrlhf_ray.feedback.collect.suggestions import as_shown
from mmrlhf_ray.feedback.collect.tables import Item
from mmrlhf_ray.pipelines.runs.questions import Ask, Asked, Candidate, compared, questions, read_asked
from mmrlhf_ray.pipelines.runs.rollouts import kept_steps
from tests.browser.support import site


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SampleRun:
    found = sample_run(tmp_path_factory.mktemp("runs") / "my-ppo")
    found.go_on(2)
    return found


def asked(prompt_id: str, *texts: str) -> Asked:
    prompt = {"prompt_id": prompt_id, "messages": [], "media_ids": [], "task": "t", "extras": {}}
    return Asked(prompt, tuple(Candidate(text, "run") for text in texts), {})


def texts(item: dict[str, Any]) -> list[str]:
    return [response["text"] for response in item["responses"]]


@pytest.mark.parametrize(
    ("question", "counts"),
    [
        ("pair", [2]), ("rank", [3]), ("rate", [3, 1]), ("correct", [1, 1]), ("spans", [1, 1]), ("demonstrate", [0, 0]),
    ],
)  # fmt: skip
def test_every_kind_gets_as_many_responses_as_it_may_have(question: str, counts: list[int]) -> None:
    found = questions([asked("p", "a", "b", "", "a", "c"), asked("q", "x", "x")], Ask(question))
    assert [len(item["responses"]) for item in found.items] == counts
    assert found.too_few == 2 - len(counts)
    assert all(len(set(texts(item))) == len(item["responses"]) for item in found.items)


def test_pairs_of_a_prompt_are_all_different_and_the_same_for_a_seed() -> None:
    made = questions([asked("p", "a", "b", "c")], Ask("pair", per_prompt=9))
    assert {frozenset(texts(item)) for item in made.items} == {frozenset(pair) for pair in ("ab", "ac", "bc")}
    assert questions([asked("p", "a", "b", "c")], Ask("pair", per_prompt=9)) == made
    firsts = {texts(questions([asked("p", "a", "b")], Ask("pair", seed=seed)).items[0])[0] for seed in range(9)}
    assert firsts == {"a", "b"}, "neither place belongs to one response"


def test_an_unknown_kind_and_runs_that_share_nothing_are_refused() -> None:
    with pytest.raises(DataError, match="no such kind 'quiz'"):
        questions([], Ask("quiz"))
    with pytest.raises(DataError, match="no prompt_id in common"):
        compared([asked("p", "a")], [asked("q", "b")])
    (both,) = compared([asked("p", "a", "b"), asked("q", "x")], [asked("p", "c")])
    assert [response.text for response in both.responses] == ["a", "c"]


def test_steps_that_were_not_kept_are_named(run: SampleRun, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="step 7 was not kept; expected one of 0, 1"):
        read_asked(run.path, 7)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "?", "chosen": "a", "rejected": "b"}\n')
    with pytest.raises(DataError, match="leave out --step"):
        read_asked(rows, 7)
    rows.write_text('{"prompt": "?", "chosen": "a", "rejected": "b"}\n{"prompt": 3, "chosen": "a", "rejected": "b"}\n')
    with pytest.raises(DataError, match=r"line 2.*data check"):
        read_asked(rows)


def command(*arguments: Any) -> str:
    result = CliRunner().invoke(app, ["feedback", "add", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def queue(data_dir: Path) -> list[Item]:
    database = open_database(FeedbackConfig(data_dir=str(data_dir)))
    with database.read() as session:
        items = list(session.query(Item).order_by(Item.position))
    database.close()
    return items


def test_rollouts_go_into_the_queue_once_with_their_media(run: SampleRun, tmp_path: Path) -> None:
    where = ["--set", f"data_dir={tmp_path}"]
    said = command(run.path, "--question", "rank", "--overlap", 2, "--round", 3, *where)
    items = queue(tmp_path)
    assert said.startswith(f"{len(items)} items added, 0 were there already")
    step = pq.read_table(kept_steps(run.path)[1]).to_pylist()
    by_prompt = {row["prompt_id"]: {r["text"] for r in step if r["prompt_id"] == row["prompt_id"]} for row in step}
    assert len(items) > 3
    for item in items:
        assert {response["text"] for response in item.responses} == by_prompt[item.prompt_id]
        assert {response["source"] for response in item.responses} == {f"my-ppo/{step[0]['policy']}-{step[0]['step']}"}
        assert (item.question, item.overlap, item.round) == ("rank", 2, 3)
    shown = {media_id for item in items for media_id in item.media_ids}
    assert shown
    assert {file.name for file in (tmp_path / "media").iterdir()} == shown
    again = command(run.path, "--question", "rank", "--overlap", 2, "--round", 3, *where)
    assert again.startswith(f"0 items added, {len(items)} were there already")


def test_prompts_whose_media_were_not_kept_are_counted(run: SampleRun, tmp_path: Path) -> None:
    evaluation = tmp_path / "evaluation"
    evaluation.mkdir()
    (evaluation / "responses.parquet").write_bytes(kept_steps(run.path)[1].read_bytes())
    said = command(evaluation, "--question", "rate", "--set", f"data_dir={tmp_path}/feedback")
    items = queue(tmp_path / "feedback")
    assert all(not item.media_ids for item in items)
    assert "prompts left out: the run did not keep what they show; raise its media_kept_mb" in said


def test_rows_of_another_library_are_asked_about(tmp_path: Path) -> None:
    rows = tmp_path / "pairs.jsonl"
    rows.write_text(
        "".join(
            json.dumps(
                {
                    "prompt": [{"role": "user", "content": f"{n}?"}],
                    "chosen": [{"role": "assistant", "content": "yes"}],
                    "rejected": [{"role": "assistant", "content": "no"}],
                }
            )
            + "\n"
            for n in range(5)
        )
    )
    said = command(rows, "--prompts", 3, "--set", f"data_dir={tmp_path}/feedback")
    assert said == "3 items added, 0 were there already\n"
    assert {frozenset(r["text"] for r in item.responses) for item in queue(tmp_path / "feedback")} == {
        frozenset({"yes", "no"})
    }


def test_a_server_takes_them_from_another_machine(
    run: SampleRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site(tmp_path / "data") as server:
        with pytest.raises(ConfigError, match="MMRLHF_FEEDBACK_TOKEN is not set"):
            command(run.path, "--url", server.url)
        monkeypatch.setenv("MMRLHF_FEEDBACK_TOKEN", server.admin_token)
        said = command(run.path, "--url", server.url)
        with ItemsClient(server.url, server.admin_token) as client:
            items = list(client.items(question="pair", status="open"))
            assert said.startswith(f"{len(items)} items added")
            first = items[0]["item_id"]
            client.change_item(first, priority=-1.0)
            assert [item["item_id"] for item in client.items()][-1] == first
            client.delete_item(first)
            assert first not in [item["item_id"] for item in client.items()]


def test_the_client_says_what_was_refused(tmp_path: Path) -> None:
    from mmrlhf_ray.errors import RunError

    with site(tmp_path / "data") as server:
        with ItemsClient(server.url, "wrong") as client, pytest.raises(RunError, match="account with the role admin"):
            list(client.items())
        with ItemsClient(server.url, server.admin_token) as client, pytest.raises(RunError, match=r"items\[0\]"):
            client.add_items([{"prompt": "?", "question": "pair", "responses": ["one"]}])


@pytest.mark.parametrize(
    ("question", "scores", "answer"),
    [
        ("pair", (1.0, 2.0), {"choice": "right"}),
        ("pair", (1.0, 1.0), {"choice": "tie"}),
        ("pair", (1.0, None), None),
        ("rank", (0.5, 2.0, 0.5), {"ranks": [2, 1, 2]}),
        ("rate", (1.0, 2.0), None),
    ],
)
def test_scores_are_suggestions(question: str, scores: tuple[float | None, ...], answer: dict[str, Any] | None) -> None:
    given = asked("p")
    responses = tuple(Candidate(text, "run/ppo-3", score) for text, score in zip("abc", scores, strict=False))
    (item,) = questions([Asked(given.prompt, responses, {})], Ask(question, suggest=True)).items
    if answer is None:
        assert "suggestion" not in item
        return
    assert item["suggestion"]["source"] == "score of run/ppo-3"
    order = ["abc".index(response["text"]) for response in item["responses"]]
    assert item["suggestion"]["answer"] == as_shown(answer, order)


def test_episodes_go_into_the_queue_turn_by_turn(tmp_path: Path) -> None:
    found = sample_run(tmp_path / "runs" / "episodes")
    found.go_on(1)
    file = kept_steps(found.path)[0]
    table = pq.read_table(file)
    rows = table.to_pylist()
    shown = next(media_id for row in rows for media_id in row["media_ids"])
    for number, row in enumerate(rows):
        look = {"kind": "response", "text": f"look {number}", "reward": None}
        seen = {"kind": "observation", "text": "seen", "media_ids": [shown]}
        row["turns"] = json.dumps([look, seen, {"kind": "response", "text": "four"}])
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file)
    command(found.path, "--set", f"data_dir={tmp_path / 'data'}")
    items = queue(tmp_path / "data")
    assert len(items) > 3
    for item in items:
        assert {response["text"].split("\n\n", 1)[1] for response in item.responses} == {"> seen\n\nfour"}
        assert [turn["kind"] for turn in item.responses[0]["turns"]] == ["response", "observation", "response"]
    assert (tmp_path / "data" / "media" / shown).is_file()
