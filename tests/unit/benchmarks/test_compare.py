"""The comparison's arithmetic and its table, by hand; and that every study is a valid configuration."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import compare, studies
from benchmarks.compare_report import Curve, markdown, write_page
from mmrlhf_ray.data.records.readers import write_records
from mmrlhf_ray.demo.profiles import COMPARE_DIR, FULL_PROFILE, Paths
from mmrlhf_ray.demo.report import ProxyGold
from mmrlhf_ray.errors import ConfigError, RunError
from mmrlhf_ray.schema import MEDIA, PROMPT
from tests.unit.tiny import filled_responses

ANSWERS = ("answer : odd", "answer : even")


def finished(root: Path, name: str, texts: list[str], minutes: float) -> None:
    """An evaluation of two prompts as compare leaves it."""
    directory = root / COMPARE_DIR / f"{name}-evaluate"
    directory.mkdir(parents=True)
    rows = [
        {"step": 0, "policy": "policy", "media": "own", "prompt_id": f"p{i}", "task": "text_parity", "modality": "text",
         "text": text, "finish_reason": "stop", "response_tokens": 4, "score": 0.5, "kl": 2.0 * i}
        for i, text in enumerate(texts)
    ]  # fmt: skip
    pq.write_table(filled_responses(rows), directory / "responses.parquet")
    (directory / "result.json").write_text(json.dumps({"minutes": minutes}))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    truth = {"answer": "odd", "evidence": {"question": "3"}}
    prompts = [
        {"prompt_id": f"p{i}", "messages": json.dumps([{"role": "user", "content": [{"type": "text", "text": "3 ?"}]}]),
         "media_ids": [], "task": "text_parity", "modality": "text", "extras": json.dumps(truth)}
        for i in range(2)
    ]  # fmt: skip
    heldout = Paths(tmp_path).data / "prompts_heldout"
    heldout.parent.mkdir(parents=True)
    write_records(heldout, pa.Table.from_pylist(prompts, schema=PROMPT), MEDIA.empty_table())
    finished(tmp_path, "sft", ["answer : even", "answer : odd"], 0.0)
    return tmp_path


def test_the_gain_is_paired_by_prompt(root: Path) -> None:
    finished(root, "rloo", ["the question says 3 . answer : odd", "answer : odd"], 2.5)
    sft, rloo = compare.compared(Paths(root))
    assert (sft.name, rloo.name) == ("sft", "rloo")
    assert sft.gold.estimate == pytest.approx(0.5)
    assert rloo.gold.estimate == pytest.approx((1.6 + 1.0) / 2)
    assert rloo.gain.estimate == pytest.approx((1.6 + 0.0) / 2)
    assert (rloo.gain.low, rloo.gain.high) == (0.0, pytest.approx(1.6))
    assert rloo.better == "no", "the interval holds zero"
    assert rloo.kl == pytest.approx(1.0)
    assert rloo.accuracy == 1.0
    assert rloo.grounded == 0.5
    assert "| rloo | 1.300 [1.000, 1.600] | +0.800 [+0.000, +1.600] | no | 1.000 |" in markdown([sft, rloo])


def test_the_page_has_table_and_curves(root: Path) -> None:
    rows = compare.compared(Paths(root))
    points = [ProxyGold(step, proxy=0.1 * step, gold=1.0 - 0.1 * step, kl=float(step)) for step in range(3)]
    costs = [{"cost_length": 9.0 - step, "lagrange_length": 0.1 * step} for step in range(3)]
    page = write_page(root, rows, [Curve("few-pairs-no-kl", points, costs)]).read_text()
    for text in ('<th scope="row">sft</th>', "few-pairs-no-kl: reward", "cost length", "lagrange length"):
        assert text in page
    assert "<script" not in page
    assert json.loads((root / "compare.json").read_text())[0]["name"] == "sft"


def test_what_cannot_be_compared_is_said_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no algorithm is called 'grop'; known are ppo, grpo"):
        compare.run_compare(tmp_path, ["grop"], 0)
    with pytest.raises(RunError, match="run `mmrlhf demo --output"):
        compare.run_compare(tmp_path, ["grpo"], 0)


@pytest.mark.parametrize("name", studies.NAMES)
def test_studies_change_what_they_say(name: str) -> None:
    cfg = studies.config(name, Paths(Path("runs/demo")), FULL_PROFILE, 0)
    assert cfg.name == name
    assert (cfg.algorithm.kl_coef == 0.0) == (name == "few-pairs-no-kl")
    assert (cfg.learner.lora is not None) == (name == "lora")
    assert [reward.name for reward in cfg.rewards if reward.cost] == (["length"] if name == "length-bound" else [])
    assert (cfg.reference is not None) == (not cfg.rewards) == (name == "distillation")
    assert any("few-pairs" in reward.model.path for reward in cfg.model_rewards) == (name in studies.FEW_PAIRS_RUNS)
