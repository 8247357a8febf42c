"""How much what people do with a deployed model's responses says about them."""

from pydantic import Field, PositiveFloat

from mmrlhf_ray.config.section import Section


class ImplicitConfig(Section):
    """Weights of events, as feedback of the response: 1 liked, −1 disliked. Guesses to start from, not measurements:
    compare them with votes on the same responses before training on them."""

    thumbs_up: float = Field(1.0, gt=0, le=1)
    """Thumbs decide alone, whatever else happened."""
    thumbs_down: float = Field(-1.0, ge=-1, lt=0)
    """As `thumbs_up`."""
    copied: float = Field(0.5, ge=-1, le=1)
    """The response was copied: it was of use."""
    click: float = Field(0.1, ge=-1, le=1)
    """Something in it was clicked or opened."""
    dwell: float = Field(0.1, ge=-1, le=1)
    """It was in sight for `dwell_s` or longer."""
    dwell_s: PositiveFloat = 10.0
    """Seconds in sight that count."""
    regenerate: float = Field(-0.5, ge=-1, le=1)
    """Another response was asked for in its place."""
    edit: float = Field(-0.3, ge=-1, le=1)
    """It was changed before use; the change itself becomes a correction."""
    most: float = Field(0.8, gt=0, le=1)
    """Largest feedback, up or down, without a thumb."""
