"""Whether a learner's passes can be spread over ranks."""

from pathlib import Path

from mmrlhf_ray.config import RunConfig
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.models import adapter_for
from mmrlhf_ray.planning.sizes import text_config


def check_spread(cfg: RunConfig) -> None:
    """Raise ConfigError, with the family's name, where `sequence_parallel` does not fit a model whose directory is
    here."""
    for section, use in cfg.trained.items():
        ranks, path = use.config.engine.sequence_parallel, Path(use.model.path)
        reason = why_not_spread(path, ranks) if ranks > 1 and path.is_dir() else None
        if reason is not None:
            raise ConfigError(f"{section}.engine.sequence_parallel={ranks}: {path} {reason}")


def why_not_spread(path: Path, ranks: int) -> str | None:
    """The reason for which no pass of the model in `path` can be spread over `ranks`; None = it can."""
    adapter, config = adapter_for(path), text_config(path)
    if adapter.shared_rows is None:
        return f"is of the family {adapter.family}, whose rows cannot be laid in lines (docs/models.md); set it to 1"
    heads = int(config["num_attention_heads"])
    if heads % ranks:
        return f"({adapter.family}) has {heads} attention heads, which {ranks} ranks cannot divide; choose a divisor"
    keys = int(config.get("num_key_value_heads") or heads)
    if keys % ranks and ranks % keys:
        return (
            f"({adapter.family}) has {keys} key-value heads, which {ranks} ranks neither divide nor repeat a whole "
            "number of times; choose a divisor or a multiple"
        )
    return None
