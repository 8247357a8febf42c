"""`mmrlhf plan`: a placement for machines that may be elsewhere."""

from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer

from mmrlhf_ray.cli.jobs import Overrides
from mmrlhf_ray.errors import ConfigError

_RESPONSES_SET = ("algorithm", "algorithm.prompts_per_step", "algorithm.mini_batch_size")
_PROMPTS_PER_GPU = 16
"""With eight responses to each, of which an optimizer step takes half."""


def plan(
    gpus: Annotated[
        str, typer.Option("--gpus", metavar="NODESxGPUSxDEVICE", help="E.g. 16x8xH100, 1x1xH200, 4x8xA100-80GB.")
    ],
    overrides: Overrides = None,
    model: Annotated[Path | None, typer.Option(help="Model directory of the policy; only its sizes are read.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="YAML file of a ppo job. Default: GRPO without models that score.")
    ] = None,
) -> None:
    """Propose a placement of an online job.

    Prints why, memory of each GPU, time of a step, and the keys for the job's file.
    """
    from mmrlhf_ray.config import PPOConfig, load_config
    from mmrlhf_ray.planning.devices import nodes_named
    from mmrlhf_ray.planning.proposal import render_proposal
    from mmrlhf_ray.planning.propose import propose

    if model is None and file is None:
        raise typer.BadParameter("give a model's directory with --model, or a job's file with --file")
    try:
        count, node = nodes_named(gpus)
    except ConfigError as error:
        raise ConfigError(f"--gpus: {error}") from None
    given = [*([] if model is None else [f"policy.path={model}"]), *(overrides or [])]
    if file is not None:
        cfg = load_config(file, given, PPOConfig)
    else:
        if not any(override.partition("=")[0] in _RESPONSES_SET for override in given):
            prompts = _PROMPTS_PER_GPU * count * node.gpus
            given += [f"algorithm.prompts_per_step={prompts}", f"algorithm.mini_batch_size={4 * prompts}"]
        with as_file(files("mmrlhf_ray.planning") / "grpo.yaml") as default:
            cfg = load_config(default, given, PPOConfig)
    print(render_proposal(propose(cfg, count, node, tune=True), count, node))
