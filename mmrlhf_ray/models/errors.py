"""Errors about models."""

from mmrlhf_ray.config.errors import ConfigError


class ModelError(ConfigError):
    """A model directory that a configuration names cannot be used; says what was expected and what to do."""
