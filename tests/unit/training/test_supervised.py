"""How a batch is cut into passes changes nothing of what the training loop does, whatever a row's responses are."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from mmrlhf_ray.config import (
    EngineConfig,
    LearnerConfig,
    OptimizerConfig,
    PreferenceConfig,
    RewardModelConfig,
    SFTConfig,
)
from mmrlhf_ray.data.batches.collate import collate
from mmrlhf_ray.data.encoding.encode import Encoder
from mmrlhf_ray.models import load_policy, load_scalar
from mmrlhf_ray.training.preference_tasks import PreferenceTask
from mmrlhf_ray.training.reward_tasks import RewardModelTask
from mmrlhf_ray.training.supervised import SupervisedWorker, WorkerPlan
from mmrlhf_ray.training.tasks import SFTTask, SupervisedTask
from tests.unit.training.rows import NUMBERS, media_rows


def preference(objective: str) -> PreferenceTask:
    return PreferenceTask(
        PreferenceConfig(objective=objective, name="n", steps=1, model={"path": "m"}, data={"path": "d"})
    )


CASES: dict[str, tuple[SupervisedTask, list[list[int]], list[list[float]]]] = {
    "sft": (SFTTask(0.5), NUMBERS, [[0], [1, 0], [-1, 0, 0.5], [0], [0, -1]]),
    "dpo": (preference("dpo"), [[k, (k + 1) % 5] for k in range(5)], [[1, -1]] * 5),
    "kto": (preference("kto"), [[k, (k + 1) % 5, (k + 2) % 5] for k in range(5)], [[1, -1, 0]] * 5),
    "bco": (preference("bco"), [[k] for k in range(5)], [[1], [-1], [0.5], [1], [-1]]),
}


@pytest.mark.parametrize("name", list(CASES))
def test_a_step_does_not_depend_on_the_cut(
    name: str, process_group: None, omni: Path, omni_encoder: Encoder, tmp_path: Path
) -> None:
    task, numbers, feedback = CASES[name]
    rows = media_rows(omni_encoder, numbers, feedback)
    found, passes = [], []
    for tokens, padding, shared in ((4096, 0.9, True), (80, 0.05, True), (200, 0.05, False)):
        cfg = SFTConfig(
            name="n",
            steps=2,
            batch_size=5,
            workers={"replicas": 1},
            model={"path": str(omni)},
            data={"path": "d"},
            learner=LearnerConfig(
                engine=EngineConfig(
                    zero_stage=0, micro_batch_tokens=tokens, max_padding_share=padding, shared_prompt=shared
                ),
                # A large eps makes the update follow the gradient's size, not only its sign.
                optimizer=OptimizerConfig(lr=0.1, eps=1.0, max_grad_norm=1000.0),
            ),
        )
        worker = SupervisedWorker(WorkerPlan(cfg, task, tmp_path, 2, "cpu"), 0, 1)
        passes.append(len(worker._lay_out(rows).passes))
        judged = sum(len(of_row) for of_row in numbers) - (5 if name == "kto" else 0)
        assert len(worker._prepared(rows)[0].sequences) == judged, "what is only measured is not learnt from"
        found.append([worker.evaluate(iter([rows])), worker.step(rows), worker.step(rows)])
    assert passes[0] < min(passes[1:])
    whole, *others = found
    for cut in others:
        for before, after in zip(whole, cut, strict=True):
            assert after == pytest.approx(before, rel=1e-4, abs=1e-5)
    assert whole[1]["loss"] == pytest.approx(whole[0]["eval_loss"], rel=1e-5)
    assert whole[2]["loss"] < whole[1]["loss"]
    assert whole[1]["grad_norm"] > 0


@torch.no_grad()
def test_the_language_term_is_the_policys_likelihood(
    process_group: None, omni: Path, omni_encoder: Encoder, tmp_path: Path
) -> None:
    rows = media_rows(omni_encoder, [[k, (k + 1) % 5] for k in range(5)], [[1, -1]] * 5)
    found = []
    for tokens, shared in ((4096, True), (200, False)):
        cfg = RewardModelConfig(
            name="n",
            steps=2,
            batch_size=5,
            workers={"replicas": 1},
            model={"path": str(omni)},
            data={"path": "d"},
            ensemble=2,
            lm_coef=0.5,
            learner=LearnerConfig(
                engine=EngineConfig(
                    zero_stage=0, micro_batch_tokens=tokens, max_padding_share=0.9, shared_prompt=shared, logits_tile=7
                ),
                optimizer=OptimizerConfig(lr=0.05, eps=1.0, max_grad_norm=1000.0),
            ),
        )
        worker = SupervisedWorker(WorkerPlan(cfg, RewardModelTask(cfg), tmp_path / str(shared), 2, "cpu"), 0, 1)
        (tmp_path / str(shared)).mkdir()
        with torch.enable_grad():
            before, step = worker.evaluate(iter([rows]), record=True), worker.step(rows)
            after = worker.evaluate(iter([rows]))
        found.append([before, step, after])
        assert step["language_loss"] == pytest.approx(before["eval_language_loss"], rel=1e-5)
        assert after["eval_language_loss"] < before["eval_language_loss"], "the backbone learns to speak"
        scores = pq.read_table(tmp_path / str(shared) / "eval_scores.parquet")
        assert (len(scores), len(scores.column("members")[0])) == (10, 2)
        worker.export()
        assert load_scalar(omni_encoder.adapter, tmp_path / str(shared) / "model", torch.float32, new_head=False)
    for one, other in zip(*found, strict=True):
        assert other == pytest.approx(one, rel=1e-3, abs=1e-5)
    policy, work = load_policy(omni_encoder.adapter, omni, torch.float32), worker._lay_out(rows)
    nll = []
    for row in work.sequences[::2]:  # what is chosen
        batch = collate([row], [], work.features, 0)
        logprobs = policy(batch.response_positions, **batch.inputs).log_softmax(-1)
        nll += (-logprobs.gather(1, batch.response_tokens[:, None])).flatten().tolist()
    want = sum(nll) / len(nll)
    assert found[0][0]["eval_language_loss"] == pytest.approx(want, rel=1e-4)


def test_rows_keep_their_responses_together(
    process_group: None, omni: Path, omni_encoder: Encoder, tmp_path: Path
) -> None:
    task, numbers, feedback = CASES["sft"]
    rows = media_rows(omni_encoder, numbers, feedback)
    cfg = SFTConfig(name="n", steps=1, model={"path": str(omni)}, data={"path": "d"},
                    learner={"engine": EngineConfig(zero_stage=0, max_padding_share=0.9)})  # fmt: skip
    work = SupervisedWorker(WorkerPlan(cfg, task, tmp_path, 1, "cpu"), 0, 1)._lay_out(rows)
    assert work.owners == [0, 1, 1, 2, 2, 2, 3, 4, 4]
    responses = rows.column("responses_token_ids").to_pylist()
    for micro_batch in work.passes:
        of_pass = work.rows_of(micro_batch.rows).column("responses_token_ids").to_pylist()
        assert [s for of_row in of_pass for s in of_row] == [work.sequences[s].response for s in micro_batch.rows]
        assert all(of_row in responses for of_row in of_pass)


def test_the_reward_shift_runs_over_past_batches_and_is_resumed_exactly(
    process_group: None, omni: Path, omni_encoder: Encoder, tmp_path: Path
) -> None:
    task = preference("bco")
    cfg = SFTConfig(name="n", steps=4, model={"path": str(omni)}, data={"path": "d"},
                    learner={"engine": EngineConfig(zero_stage=0), "optimizer": OptimizerConfig(lr=0.1)})  # fmt: skip
    # One side alone at first, then three of the other to one.
    batches = [media_rows(omni_encoder, [[0], [1]], [[1], [1]]),
               media_rows(omni_encoder, [[2], [3], [4], [0]], [[-1], [-1], [1], [-1]])]  # fmt: skip

    def fresh() -> SupervisedWorker:
        return SupervisedWorker(WorkerPlan(cfg, task, tmp_path, 4, "cpu"), 0, 1)

    worker = fresh()
    steps = [worker.step(rows) for rows in batches]
    judged = [[value for of_row in rows.column("feedback").to_pylist() for value in of_row] for rows in batches]
    running = []
    for side, wanted in (("chosen", 1), ("rejected", -1)):
        counts = [of_step.count(wanted) for of_step in judged]
        sums = [n * metrics.get(f"log_ratio_{side}", 0.0) for n, metrics in zip(counts, steps, strict=True)]
        running.append([0.1 * sum(sums[:done]) / (sum(counts[:done]) or 1) for done in (1, 2)])  # beta is 0.1
    assert steps[0]["reward_shift"] == pytest.approx(running[0][0], rel=1e-4)
    assert steps[1]["reward_shift"] == pytest.approx((running[0][1] + running[1][1]) / 2, rel=1e-4)
    of_batch = 0.1 * (steps[1]["log_ratio_chosen"] + steps[1]["log_ratio_rejected"]) / 2
    assert abs(steps[1]["reward_shift"] - of_batch) > 1e-4, "the first batch must count"

    assert worker.evaluate(iter(batches[:1]))["eval_reward_shift"] == pytest.approx(steps[1]["reward_shift"], rel=1e-6)
    assert worker.agreed(True)
    assert not worker.agreed(False)
    worker._save(tmp_path / "workers")
    resumed = fresh()
    resumed._load(tmp_path / "workers")
    assert resumed.step(batches[0]) == worker.step(batches[0]), "evaluating changes nothing, and resuming is exact"
