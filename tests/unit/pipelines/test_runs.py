"""`mmrlhf runs` and `mmrlhf report`: what is found, chosen and shown."""

import fcntl
import json
import math
import os
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from benchmarks.sample_run import SampleRun, sample_run
from mmrlhf_ray.cli.main import app
from mmrlhf_ray.errors import RunError
from mmrlhf_ray.pipelines.runs.compare import different_settings, figure_rows, labels
from mmrlhf_ray.pipelines.runs.figures import last_figures
from mmrlhf_ray.pipelines.runs.read import find_runs, open_run
from mmrlhf_ray.pipelines.runs.rollouts import Wanted, choices, kept_steps, read_step, select
from mmrlhf_ray.pipelines.runs.show import compare_answer, run_answer, write_report
from mmrlhf_ray.schema import RESPONSE
from tests.unit.tiny import filled_responses, messages

EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)>'


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SampleRun:
    """12 steps of a run, the last with hostile text."""
    found = sample_run(tmp_path_factory.mktemp("runs") / "my-ppo")
    found.go_on(11)
    ask = json.dumps([{"role": "user", "content": EVIL}])
    found.go_on(1, {"text": EVIL, "messages": ask, "media_ids": [], "extras": json.dumps({EVIL: EVIL}), "task": EVIL})
    return found


def begun(path: Path, **config: object) -> Path:
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(json.dumps({"job": "sft", "name": path.name} | config))
    return path


def test_states_of_runs(tmp_path: Path) -> None:
    (begun(tmp_path / "done") / "model").mkdir()
    (begun(tmp_path / "broken") / "error.txt").touch()
    begun(tmp_path / "ended")
    going = begun(tmp_path / "loop" / "round-0" / "going", steps=9)
    (going / "metrics.jsonl").write_text('{"step": 3, "time": 0, "loss": 2.0}\n')
    with (going / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        states = {found.name: found.state for found in find_runs(tmp_path)}
        assert states == {"done": "finished", "broken": "failed", "ended": "stopped", "going": "running"}
        said = CliRunner().invoke(app, ["runs", str(tmp_path)]).stdout.splitlines()
    assert said[0].split() == ["run", "job", "state", "step", "figure", "wrote"]
    row = next(line for line in said if "going" in line)
    assert re.fullmatch(rf"{going} +sft +running +4/9 +loss 2 +\d+ s ago", row)
    assert open_run(going).state == "stopped"


def test_an_older_result_is_not_this_runs(tmp_path: Path) -> None:
    path = begun(tmp_path / "again")
    (path / "model").mkdir()
    os.utime(path / "model", (1.0, 1.0))
    assert open_run(path).state == "stopped"


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no run, since there is no config.yaml in it; `mmrlhf runs` lists"):
        open_run(tmp_path)
    with pytest.raises(RunError, match=r"nowhere: no such directory; give the one that runs are in"):
        find_runs(tmp_path / "nowhere")
    assert "no runs; a job writes one" in CliRunner().invoke(app, ["runs", str(tmp_path)]).stdout


def test_a_list_goes_on_past_what_cannot_be_read(tmp_path: Path) -> None:
    begun(tmp_path / "good")
    (begun(tmp_path / "odd") / "config.yaml").write_text("a: [")
    assert {run.name: run.job for run in find_runs(tmp_path)} == {"good": "sft", "odd": "?"}
    with pytest.raises(RunError, match=r"odd/config.yaml: not YAML: .*; the run cannot be shown"):
        open_run(tmp_path / "odd")


def test_a_mistyped_command_is_not_taken_for_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "did you mean" in CliRunner().invoke(app, ["runs", "shwo", "a"], prog_name="mmrlhf").output


def test_the_figure_that_counts_most_comes_first() -> None:
    rows = [{"step": n, "score": float(n), "kl": None} for n in range(20)]
    rows[9] |= {"eval_score": 3.0, "eval_score_low": 2.5, "eval_score_high": 3.5}
    first, second = last_figures("ppo", rows, {})
    assert (str(first), first.first) == ("eval_score 3 [2.5, 3.5]", None)
    assert (second.name, second.value, second.first) == ("score", 18.5, 0.5)
    found = {"policy, own media": {"score": {"estimate": 1.0, "low": 0.5, "high": 1.5}}, "policy against": {"wins": 3}}
    assert [str(figure) for figure in last_figures("evaluate", [], found)] == [
        "score of policy, own media 1 [0.5, 1.5]"
    ]


def test_runs_differ_in_settings_and_figures(tmp_path: Path) -> None:
    reward = {"name": "r", "weight": 1.0}
    first = open_run(begun(tmp_path / "x" / "a", lr=1, rewards=[reward], seed=0, output_dir="x"))
    second = open_run(begun(tmp_path / "y" / "a", lr=2, rewards=[reward | {"weight": 0.5}], seed=0, output_dir="y"))
    (second.path / "metrics.jsonl").write_text('{"step": 0, "time": 0, "loss": 2.0}\n')
    assert {one.key: one.values for one in different_settings([first, second])} == {
        "lr": ("1", "2"),
        "rewards.r.weight": ("1.0", "0.5"),
    }
    assert labels([first, second]) == ["x/a", "y/a"]
    (row,) = figure_rows([first, second])
    assert (row.name, [str(figure) for figure in row.figures]) == ("loss", ["None", "loss 2"])


def table() -> pa.Table:
    rows = [
        {
            "step": 3, "policy": "ppo", "media": "own", "prompt_id": f"p{group}", "task": f"task{group % 2}",
            "modality": "text", "text": f"answer {number}", "finish_reason": "length" if number else "stop",
            "response_tokens": 4, "score": score, "kl": 0.0, "group_id": group,
            "messages": messages([], f"What {group}?"),
        }
        for group, scores in enumerate([(1.0, 2.0), (5.0, -5.0), (math.nan, -1.0)])
        for number, score in enumerate(scores)
    ]  # fmt: skip
    return filled_responses(rows)


@pytest.mark.parametrize(
    ("query", "groups"),
    [
        ({}, ["p0", "p1", "p2"]),
        ({"order": "worst"}, ["p2", "p1", "p0"]),
        ({"order": "best"}, ["p0", "p1", "p2"]),
        ({"order": "spread"}, ["p1", "p0", "p2"]),
        ({"order": "nonsense", "page": "0", "low": "x"}, ["p0", "p1", "p2"]),
        ({"task": "task1"}, ["p1"]),
        ({"low": "1.5", "high": "4"}, ["p0"]),
        ({"low": "-2", "finish_reason": "length"}, ["p0", "p2"]),
        ({"text": "WHAT 2"}, ["p2"]),
        ({"text": "answer 1", "low": "0"}, ["p0"]),
        ({"text": "nowhere"}, []),
    ],
)
def test_which_groups_are_shown_and_in_which_order(query: dict[str, str], groups: list[str]) -> None:
    assert [group.row["prompt_id"] for group in select(table(), Wanted.of(query)).groups] == groups


def test_samples_of_a_group_are_all_shown_the_best_first() -> None:
    found = select(table(), Wanted.of({"low": "1.5"}))
    assert (found.found, found.responses) == (2, 2)
    assert [(s.row["score"], s.wanted) for s in found.groups[0].samples] == [(2.0, True), (1.0, False)]
    (group,) = select(table(), Wanted.of({"text": "What 2"})).groups
    assert group.samples[0].row["score"] == -1.0  # a response without a score comes last
    assert found.groups[0].messages == [("user", [{"type": "text", "text": "What 0?"}])]


def test_long_steps_come_in_parts() -> None:
    first, last = (select(table(), Wanted.of({"page": page}), most=2) for page in ("1", "99"))
    assert [len(first.groups), first.pages, last.page, len(last.groups)] == [2, 2, 2, 1]
    assert choices(table()) == {"task": ["task0", "task1"], "finish_reason": ["length", "stop"]}


def test_what_an_earlier_version_kept_can_be_shown(run: SampleRun, tmp_path: Path) -> None:
    old = table().select(RESPONSE.names[:11])
    path = begun(tmp_path / "old", job="ppo")
    (path / "rollouts").mkdir()
    pa.parquet.write_table(old, path / "rollouts" / "step-000003.parquet")
    answer = run_answer(path, "/rollouts", {})
    assert answer is not None
    assert b"answer 1" in answer.body
    assert kept_steps(path) == {3: path / "rollouts" / "step-000003.parquet"}
    assert read_step(kept_steps(path)[3]).schema.names == RESPONSE.names


def test_pages_of_a_run(run: SampleRun) -> None:
    asked = (("/", {}), ("/rollouts", {}), ("/rollouts", {"step": "0"}))
    curves, newest, first = (run_answer(run.path, path, query) for path, query in asked)
    assert curves is not None
    assert newest is not None
    assert first is not None
    assert b"Score, mean over responses" in curves.body
    assert b"step 11:" in newest.body
    assert b"step 0:" in first.body
    assert first.body.count(b'class="sample"') == 32
    names = re.findall(rb'src="/media/([0-9a-f]{64})"', first.body)
    assert names
    for name in {name.decode() for name in names}:
        media = run_answer(run.path, f"/media/{name}", {})
        assert media is not None
        assert media.mime in ("image/png", "audio/wav", "video/webm")
    assert run_answer(run.path, f"/media/{'0' * 64}", {}) is None
    assert run_answer(run.path, "/../config.yaml", {}) is None


def test_the_page_knows_when_there_is_something_new(run: SampleRun, tmp_path: Path) -> None:
    copied = tmp_path / "copy"
    shutil.copytree(run.path, copied)

    def now() -> dict[str, object]:
        answer = run_answer(copied, "/live", {})
        assert answer is not None
        return dict(json.loads(answer.body))

    before = now()
    assert now() == before
    with (copied / "metrics.jsonl").open("a") as file:
        file.write('{"step": 12, "time": 0, "score": 1.0}\n')
    assert now()["step"] == 13
    assert now()["version"] != before["version"]


def test_texts_are_text(run: SampleRun, tmp_path: Path) -> None:
    pages = [run_answer(run.path, "/rollouts", {"text": EVIL, "task": EVIL}), run_answer(run.path, "/rollouts", {})]
    texts = [page.body.decode() for page in pages if page is not None]
    texts.append(write_report([run.path], tmp_path / "run.html").read_text())
    for text in texts:
        assert "&lt;img src=x onerror" in text
        assert "<img src=x" not in text
        assert "<script>" not in text


def test_one_file_with_everything_in_it(run: SampleRun, tmp_path: Path) -> None:
    text = write_report([run.path], tmp_path / "new" / "run.html").read_text()
    assert "default-src &#39;none&#39;; img-src data:" in text
    sources = re.findall(r'src="([^"]*)"', text)
    assert sources
    assert all(source.startswith("data:") for source in sources)
    assert "<script" not in text
    assert "The worst of step 11" in text
    assert f"mmrlhf ppo {run.path}/config.yaml" in text


def test_two_runs_in_one_file(run: SampleRun, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run.path, other)
    text = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(text.replace("seed: 0", "seed: 7"))
    said = CliRunner().invoke(app, ["report", str(run.path), str(other), "--output", str(tmp_path / "both.html")])
    assert said.stdout.strip() == str(tmp_path / "both.html")
    page = (tmp_path / "both.html").read_text()
    assert re.search(r'<th scope="row">seed</th><td class="left">0</td><td class="left">7</td>', page)
    assert "my-ppo</li>" in page
    served = compare_answer([run.path, other], "/", {})
    assert served is not None
    assert b"Where they ended" in served.body
    with pytest.raises(RunError, match="expected 1 to 4 runs, got 5"):
        write_report([run.path] * 5, tmp_path / "five.html")
