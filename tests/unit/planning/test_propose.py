from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from benchmarks.plans import BIG, plan_of
from mmrlhf_ray.cli.main import app
from mmrlhf_ray.config import PPOConfig, load_config
from mmrlhf_ray.errors import ConfigError, PlacementError
from mmrlhf_ray.planning.devices import Nodes, nodes_named
from mmrlhf_ray.planning.plan import facts_of, plan_ppo
from mmrlhf_ray.planning.proposal import as_yaml, render_proposal
from mmrlhf_ray.planning.propose import Proposal, _Search, _Way, propose

JOBS = {path.stem: path for path in BIG}
ONE_NODE = JOBS["qwen2.5-vl-7b-grpo-1node"]
GPUS = {"1gpu": "1x1xH100", "1node": "1x8xH100", "4nodes": "4x8xH100", "16nodes": "16x8xH100"}


def job(path: Path, *overrides: str) -> PPOConfig:
    return load_config(path, overrides, PPOConfig)


def proposed(path: Path, gpus: str, *overrides: str) -> Proposal:
    count, node = nodes_named(gpus)
    return propose(job(path, *overrides), count, node, tune=True)


def test_nodes_by_name():
    assert nodes_named("16x8xH100") == (16, Nodes())
    one = nodes_named("1x1xH200")[1]
    assert (one.gpus, one.cpus, one.host_gb, one.device.name) == (1, 12, 120, "H200")
    assert nodes_named("4x8xA100-80GB")[1].device.name == "A100"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8xH100", "expected NODESxGPUSxDEVICE, such as 4x8xH100 for 4 nodes of 8 GPUs, got '8xH100'"),
        ("twox8xH100", "got 'twox8xH100'"),
        ("0x8xH100", "0x8xH100: expected 1 or more nodes, got 0"),
        ("1x0xH100", "1x0xH100: expected 1 or more GPUs of a node, got 0"),
        ("1x8xV100", "one of H100, H200, A100, got 'V100'"),
        ("1x8xA100-40GB", "expected A100 of 80 GB, got 'A100-40GB'; leave the size out"),
    ],
)
def test_what_was_wrong_is_named(text, message):
    with pytest.raises(ConfigError) as caught:
        nodes_named(text)
    assert message in str(caught.value)


# Of the 72B job as well, but that takes most of a minute.
@pytest.mark.parametrize("stem", [stem for stem in JOBS if "72b" not in stem])
def test_it_is_no_worse_than_the_job_s_own_and_fits(stem):
    found = proposed(JOBS[stem], GPUS[stem.rpartition("-")[2]])
    own = plan_of(JOBS[stem])
    assert found.plan.warnings == ()
    assert sum(role.total_gpus for role in found.plan.roles) <= sum(role.total_gpus for role in own.roles)
    assert len(found.plan.nodes) <= len(own.nodes)
    assert found.plan.time.seconds <= own.time.seconds * 1.001


def test_it_is_the_best_of_all_divisions_of_a_node():
    found, cfg, node = proposed(ONE_NODE, "1x8xH100"), job(ONE_NODE), Nodes()
    every = [
        search.judge({"generator": generators, "policy": 8 - generators * shards})
        for shards in (1, 2, 4)
        for generators in range(1, 8 // shards + 1)
        if generators * shards < 8
        for search in [_Search(cfg, facts_of(cfg), 1, node, True, _Way("", shards))]
    ]
    fitting = [one.plan.time.seconds for one in every if one is not None and not one.problems]
    assert len(fitting) > 5
    assert found.plan.time.seconds == min(fitting)
    assert any("all roles on the same GPUs in turns" in other for other in found.others)


def test_the_block_makes_the_same_plan_where_it_is_pasted(tmp_path):
    found = proposed(JOBS["qwen2.5-vl-3b-1node"], "1x8xA100")
    pasted = tmp_path / "job.yaml"
    pasted.write_text(f"job: ppo\nbase: {JOBS['qwen2.5-vl-3b-1node']}\nname: x\n{as_yaml(found.cfg)}")
    again = plan_ppo(job(pasted), nodes_named("1x8xA100")[1])
    assert again.time == found.plan.time
    assert again.memory == found.plan.memory
    assert again.roles == found.plan.roles


def test_one_gpu_takes_an_adapter_and_turns():
    found = proposed(ONE_NODE, "1x1xH100")
    assert found.cfg.learner.lora is not None
    assert found.cfg.placement.colocate == (("generator", "policy"),)
    assert found.cfg.stream.max_staleness == 0
    assert "lora:" in as_yaml(found.cfg)


def test_a_model_of_several_gpus_is_divided():
    found = proposed(JOBS["qwen3-omni-30b-a3b-4nodes"], "2x8xH200")
    text = render_proposal(found, *nodes_named("2x8xH200"))
    above, block = text.split("To paste into the job's file:")
    assert "Proposed for 2 × 8 H200: GPUs of their own, " in above
    assert f"ZeRO-{found.cfg.learner.engine.zero_stage} over" in above
    assert "responses of full length" in above
    assert max(map(len, above.splitlines())) <= 80
    assert yaml.safe_load(block)["placement"]["policy"]["replicas"] == found.cfg.placement.policy.replicas


def test_what_fits_nowhere_is_said_with_the_nearest():
    with pytest.raises(PlacementError, match=r"no placement fits 1 × 1 H100; of the nearest one: .* GiB"):
        proposed(JOBS["qwen2.5-vl-72b-16nodes"], "1x1xH100")


def test_an_adapter_says_what_learns_instead_of_parts():
    # 30B with frozen towers, on two GPUs that hold its weights, but not all that learning takes.
    found = proposed(JOBS["qwen3-omni-30b-a3b-4nodes"], "1x2xH200", "data.encoder_cache_mb=4096")
    assert found.cfg.learner.lora is not None
    assert found.cfg.learner.parts.vision_tower.train


def test_too_few_gpus_are_said_with_what_would_do():
    cfg = job(ONE_NODE)
    with pytest.raises(PlacementError, match=r"1 GPUs are too few for generator, policy; .* stream.max_staleness to 0"):
        propose(cfg, 1, Nodes(1, 12), tune=False)


def test_what_does_not_go_with_the_rest_is_said():
    with pytest.raises(ConfigError, match=r"does not go with the rest of the job: .*max_running=9"):
        proposed(ONE_NODE, "1x1xH100", "stream.max_running=9")


def test_a_model_of_unknown_size_is_named():
    with pytest.raises(ConfigError, match="policy: its model is not a directory here, and no `shape` is given"):
        proposed(ONE_NODE, "1x8xH100", "policy.shape=null")


def test_the_command_reads_a_model_s_directory(vl):
    small = ["data.max_prompt_tokens=200", "sampling.max_response_tokens=50"]
    done = CliRunner().invoke(app, ["plan", "--gpus", "1x2xH100", "--model", str(vl), *small])
    assert done.exit_code == 0, done.output
    assert "Proposed for 1 × 2 H100" in done.output
    assert "32 prompts × 8 = 256" in done.output
    wrong = CliRunner().invoke(app, ["plan", "--gpus", "2xH100", "--model", str(vl)])
    assert "--gpus: expected NODESxGPUSxDEVICE" in str(wrong.exception)
    assert CliRunner().invoke(app, ["plan", "--gpus", "1x2xH100"]).exit_code == 2
