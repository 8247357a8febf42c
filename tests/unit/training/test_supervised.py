"""How a batch is cut into passes changes nothing of what the training loop does, whatever a row's responses are."""

from pathlib import Path

import pyarrow as pa
import pytest

from mmrlhf_ray.config import EngineConfig, OptimizerConfig, PreferenceConfig, SFTConfig
from mmrlhf_ray.data.encode import Encoder
from mmrlhf_ray.data.features import features_table
from mmrlhf_ray.data.training_rows import features_to_bytes
from mmrlhf_ray.training.preference_tasks import PreferenceTask
from mmrlhf_ray.training.supervised import SupervisedWorker, WorkerPlan
from mmrlhf_ray.training.tasks import SFTTask, SupervisedTask
from tests.unit.tiny import encode, mixed_media, mixed_responses
from tests.unit.training.rows import row_table

# Rows of 1, 2 and 3 responses.
NUMBERS = [[0], [1, 2], [3, 4, 0], [2], [4, 1]]


def media_rows(encoder: Encoder, numbers: list[list[int]], feedback: list[list[float]]) -> pa.Table:
    """Rows that show media of every kind, with made-up reference log-probabilities."""
    shown, responses = mixed_media(encoder), mixed_responses(encoder)
    prompts = [encode(encoder, media) for media in shown]
    texts = [[responses[k] for k in of_row] for of_row in numbers]
    return row_table(
        *texts,
        context_token_ids=[prompt.token_ids for prompt in prompts],
        media_ids=[[m.media_id for m in media] for media in shown],
        features=[features_to_bytes(features_table(prompt.features)) for prompt in prompts],
        modality=["+".join(sorted({m.kind for m in media}, key=["image", "audio", "video"].index)) or "text"
                  for media in shown],
        feedback=feedback,
        ref_logprobs=[[[-5.0 - 0.1 * t for t in range(len(r))] for r in of_row] for of_row in texts],
    )  # fmt: skip


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
    for tokens, padding in ((4096, 0.9), (200, 0.05)):
        cfg = SFTConfig(
            name="n",
            steps=2,
            batch_size=5,
            workers={"replicas": 1},
            model={"path": str(omni)},
            data={"path": "d"},
            engine=EngineConfig(zero_stage=0, micro_batch_tokens=tokens, max_padding_share=padding),
            # A large eps makes the update follow the gradient's size, not only its sign.
            optimizer=OptimizerConfig(lr=0.1, eps=1.0, max_grad_norm=1000.0),
        )
        worker = SupervisedWorker(WorkerPlan(cfg, task, str(omni), tmp_path, 2, False, "cpu"), 0, 1)
        passes.append(len(worker._lay_out(rows).passes))
        found.append([worker.evaluate(iter([rows])), worker.step(rows), worker.step(rows)])
    assert passes[0] < passes[1]
    whole, cut = found
    for before, after in zip(whole, cut, strict=True):
        assert after == pytest.approx(before, rel=1e-4, abs=1e-5)
    assert whole[1]["loss"] == pytest.approx(whole[0]["eval_loss"], rel=1e-5)
    assert whole[2]["loss"] < whole[1]["loss"]
    assert whole[1]["grad_norm"] > 0


def test_rows_keep_their_responses_together(
    process_group: None, omni: Path, omni_encoder: Encoder, tmp_path: Path
) -> None:
    task, numbers, feedback = CASES["sft"]
    rows = media_rows(omni_encoder, numbers, feedback)
    cfg = SFTConfig(name="n", steps=1, model={"path": str(omni)}, data={"path": "d"},
                    engine=EngineConfig(zero_stage=0, max_padding_share=0.9))  # fmt: skip
    work = SupervisedWorker(WorkerPlan(cfg, task, str(omni), tmp_path, 1, False, "cpu"), 0, 1)._lay_out(rows)
    assert work.owners == [0, 1, 1, 2, 2, 2, 3, 4, 4]
    responses = rows.column("responses_token_ids").to_pylist()
    for micro_batch in work.passes:
        of_pass = work.rows_of(micro_batch.rows).column("responses_token_ids").to_pylist()
        assert [s for of_row in of_pass for s in of_row] == [work.sequences[s].response for s in micro_batch.rows]
        assert all(of_row in responses for of_row in of_pass)
