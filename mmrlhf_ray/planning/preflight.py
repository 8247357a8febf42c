"""What about `data` can be told to be wrong before anything starts."""

from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.data.encoding.cache import check_spill_dir
from mmrlhf_ray.errors import ConfigError


def check_training_data(config: DataConfig, *, weighted: bool = True) -> None:
    """Raise ConfigError for what training cannot do. `weighted`: whether it draws from a mixture by weight even where
    it holds all rows."""
    check_spill_dir(config)
    if config.streaming:
        return
    if config.augment is not None:
        raise ConfigError("data.augment changes media anew whenever they are read; set data.streaming to true")
    if not weighted and len({source.weight for source in config.mixture}) > 1:
        raise ConfigError(
            "data.sources: without streaming every row counts once an epoch; set data.streaming to true or drop weight"
        )


def refuse_streaming(config: DataConfig | None, who: str) -> None:
    """Raise ConfigError where `who` needs all rows at once."""
    if config is not None and config.streaming:
        raise ConfigError(f"data.streaming: {who} needs all rows before it starts; set streaming to false")
