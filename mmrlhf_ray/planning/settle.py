"""What a configuration leaves to the models and the machine, filled in once, before anything is checked or started."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel

from mmrlhf_ray.config import DataConfig, EvaluateConfig, IterateConfig, ModelConfig, PPOConfig, ProbeRewardConfig
from mmrlhf_ray.config.base import RunConfig, TrainJobConfig
from mmrlhf_ray.config.placement import Placement, Resources
from mmrlhf_ray.config.rounds import first_round
from mmrlhf_ray.models.hub import local_model
from mmrlhf_ray.planning.placement import pass_budgets
from mmrlhf_ray.planning.sizes import context_tokens

C = TypeVar("C", bound=RunConfig)
Dtype = Literal["float32", "bfloat16"]


def settled(cfg: C, fetch: bool = True) -> C:
    """The job with a directory and a `dtype` for every model and `max_prompt_tokens` for every data set. What is given
    stays; what is settled already is not changed again; types wait for `placement: auto` (auto.py). fetch: models that
    are not here, from their hubs.

    Raises ModelError where one cannot be fetched.
    """

    def with_directory(node: BaseModel) -> BaseModel:
        path = local_model(node.path, fetch) if isinstance(node, ModelConfig) else ""
        return node.model_copy(update={"path": path}) if isinstance(node, ModelConfig) and path != node.path else node

    cfg = _changed(cfg, with_directory)
    if not (cfg.device == "auto" and placement_is_auto(cfg)):
        cfg = with_dtypes(cfg, cfg.device == "cuda" or (cfg.device == "auto" and _reserves_gpus(cfg)))
    room = _prompt_room(cfg)
    if room is None or room < 1:  # the checks that follow say what does not fit
        return cfg

    def with_tokens(node: BaseModel) -> BaseModel:
        if isinstance(node, DataConfig) and node.max_prompt_tokens is None:
            own = cfg.data.max_prompt_tokens if isinstance(cfg, PPOConfig) else None  # eval_data may have no more
            return node.model_copy(update={"max_prompt_tokens": own or room})
        return node

    return _changed(cfg, with_tokens)


def with_dtypes(cfg: C, on_gpus: bool) -> C:
    """The job with a `dtype` for every model: on GPUs the checkpoint's, on CPUs float32. What is given stays."""

    def with_dtype(node: BaseModel) -> BaseModel:
        if isinstance(node, ModelConfig) and node.dtype is None:
            return node.model_copy(update={"dtype": checkpoint_dtype(Path(node.path)) if on_gpus else "float32"})
        return node

    changed: C = _changed(cfg, with_dtype)
    return changed


def placement_is_auto(cfg: RunConfig) -> bool:
    """Whether what the job's roles reserve is still to be worked out (planning/auto.py)."""
    placement = getattr(cfg, "placement", None)
    return isinstance(placement, Placement) and placement.is_auto


def _reserves_gpus(cfg: RunConfig) -> bool:
    return any(resources.num_gpus > 0 for resources in _reserved(cfg))


def _reserved(cfg: RunConfig) -> Iterator[Resources]:
    if isinstance(cfg, IterateConfig):
        for job in first_round(cfg):
            yield from job.roles.values()
    yield from cfg.roles.values()


def checkpoint_dtype(model: Path) -> Dtype:
    """What the files of a model are in, as its config.json says."""
    file = model / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not here: the checks of models say it
        return "bfloat16"
    places = (config, config.get("thinker_config") or {}, config.get("text_config") or {})
    said = next((place[key] for place in places for key in ("dtype", "torch_dtype") if place.get(key)), None)
    return "float32" if said == "float32" else "bfloat16"


def _prompt_room(cfg: RunConfig) -> int | None:
    """Tokens that a prompt may have; None where no model reads prompts."""
    if isinstance(cfg, IterateConfig):
        rooms = [_prompt_room(job) for job in first_round(cfg) if isinstance(job, PPOConfig | EvaluateConfig)]
        return min((room for room in rooms if room is not None), default=None)
    if isinstance(cfg, PPOConfig | EvaluateConfig):
        response, budgets = cfg.sampling.max_response_tokens, [*pass_budgets(cfg).values()] or [_ALONE]
    elif isinstance(cfg, ProbeRewardConfig):
        response, budgets = cfg.max_response_tokens, [cfg.score_micro_batch_tokens]
    elif isinstance(cfg, TrainJobConfig):
        engine = cfg.learner.engine
        response, budgets = 1, [engine.micro_batch_tokens * engine.sequence_parallel]
    else:
        return None
    contexts = (_context(Path(use.config.path)) for use in cfg.models.values())
    return min([*budgets, *(context for context in contexts if context is not None)]) - response


_ALONE = 4096
"""Tokens of prompt and response where nothing bounds them, as in an evaluation without scorer and reference."""


def _context(model: Path) -> int | None:
    try:
        return context_tokens(model)
    except (OSError, ValueError):  # not here: the checks of models say it
        return None


def _changed(node: Any, change: Callable[[BaseModel], BaseModel]) -> Any:
    """The configuration with each of its sections as `change` gives it; what stays the same is not copied."""
    if isinstance(node, BaseModel):
        node = change(node)
        values = {key: getattr(node, key) for key in type(node).model_fields}
        updates = {key: new for key, value in values.items() if (new := _changed(value, change)) is not value}
        return node.model_copy(update=updates) if updates else node
    if isinstance(node, tuple):
        elements = tuple(_changed(element, change) for element in node)
        return elements if any(new is not old for new, old in zip(elements, node)) else node
    if isinstance(node, dict):
        named = {key: _changed(value, change) for key, value in node.items()}
        return named if any(named[key] is not node[key] for key in node) else node
    return node
