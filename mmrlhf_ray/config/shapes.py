"""Sizes of a model, for planning where its directory is not on the machine that plans."""

from pydantic import Field, PositiveFloat, PositiveInt

from mmrlhf_ray.config.section import Section


class ExpertsShape(Section):
    """The feed-forward layers of a mixture of experts."""

    count: PositiveInt
    """Experts of a layer."""
    per_token: PositiveInt
    """Experts that one token goes through."""
    intermediate_size: PositiveInt
    """Width of one expert."""


class TowerShape(Section):
    """A media tower."""

    num_layers: PositiveInt
    """Transformer layers."""
    hidden_size: PositiveInt
    """Width of the tower."""
    intermediate_size: PositiveInt
    """Width of its feed-forward layers."""
    gated: bool = False
    """Feed-forward layers of three matrices (SwiGLU), not two."""
    positions_per_token: PositiveInt = 4
    """Patches, or steps of sound, that become one token of the language model."""
    input_values: PositiveInt
    """Numbers that the processor gives for each position."""
    stem_values: PositiveInt | None = None
    """Numbers for each position that the layers before the transformer keep; `null` = `input_values`."""
    deepstack: int = Field(0, ge=0)
    """Layers whose output goes into the language model as well."""


class ModelShape(Section):
    """What is not given is worked out from the rest, as for a dense model without media towers."""

    parameters_b: PositiveFloat
    """Billions of parameters, media towers counted."""
    hidden_size: PositiveInt
    """Width of the language model."""
    num_layers: PositiveInt
    """Of the language model, as are all below but the towers."""
    num_kv_heads: PositiveInt
    """Heads of keys and values."""
    head_dim: PositiveInt
    """Width of a head."""
    vocab_size: PositiveInt
    """Tokens of the vocabulary."""
    num_heads: PositiveInt | None = None
    """`null` = hidden_size / head_dim."""
    intermediate_size: PositiveInt | None = None
    """`null` = what accounts for the parameters that the other sizes do not."""
    experts: ExpertsShape | None = None
    qk_norm: bool = False
    """Queries and keys are normalised."""
    tied: bool = False
    """The vocabulary head is the embedding."""
    vision: TowerShape | None = None
    """The tower of images and clips."""
    audio: TowerShape | None = None
    """The tower of sounds."""
