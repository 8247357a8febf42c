"""What a pass keeps in memory: the layers of the language model, the media towers, the logits.

Counted term by term from what transformers' layers and this project's loss keep and allocate, in bytes on one device.
`tests/unit/planning/test_ledger.py` holds every formula to a count of all storages of a pass over meta tensors.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mmrlhf_ray.config.learner import EngineConfig
from mmrlhf_ray.config.shapes import TowerShape
from mmrlhf_ray.planning.sizes import DTYPE_BYTES, ModelSize

_FLOAT = 4
# Rows of float32 logits that token_logprobs() holds at a time, and how many such tensors: in a backward pass, in one
# that only infers.
_LOGIT_ROWS, _ROWS_BACKWARD, _ROWS_FORWARD = 1024, 4, 2
# Alive at once in a backward pass: the logits; the gradients of the rows that token_logprobs() takes at a time, one by
# one, and joined.
_LOGIT_COPIES = 3


@dataclass(frozen=True)
class PassLoad:
    """One pass of one rank."""

    tokens: int
    """Positions, media and padding counted."""
    response_tokens: int
    """Positions whose logits are computed."""
    line: int
    """Positions that are in one row of the pass: the mask has a number for each pair of them."""
    media: Mapping[str, int] = field(default_factory=dict)
    """Tower → tokens of its clips, each clip counted once."""
    tile: int = EngineConfig.model_fields["logits_tile"].default
    """Most of those positions whose logits are in memory at a time."""
    spread: int = 1
    """Ranks that the line is spread over. Tokens and responses are those of one; its mask, embeddings and media are of
    all."""

    @property
    def seen(self) -> int:
        """Positions in the mask for each of the rank's own: in attention it has some heads of all ranks' tokens."""
        return self.line * self.spread

    @property
    def logits(self) -> int:
        """Positions whose logits are in memory at a time."""
        return min(self.response_tokens, self.tile)

    @property
    def tiled(self) -> bool:
        """Whether that is not all of them, so that none stay until the backward pass."""
        return self.response_tokens > self.tile


def learning_pass(
    size: ModelSize, dtype: str, load: PassLoad, *, checkpointing: bool, logits: bool, towers_learn: bool
) -> dict[str, float]:
    """Bytes at the highest point of a forward and backward pass. `logits`: the model has a vocabulary head.

    That point is either where the gradients of the logits are joined, or where a layer that was recomputed gives its
    gradients back; the towers' layers wait for theirs meanwhile.
    """
    b, layers = DTYPE_BYTES[dtype], size.num_layers
    kept: float
    if checkpointing:
        kept = float(layers * load.tokens * size.hidden_size * b)
        in_work = load.tokens * (_kept_by_layer(size, load, b) + _gradients_of_layer(size, b))
    else:
        kept = layers * load.tokens * _kept_by_layer(size, load, b)
        in_work = load.tokens * _gradients_of_layer(size, b)
    mask = load.tokens * load.seen
    if load.spread > 1:  # the embeddings of the line that it takes its part of
        mask += load.tokens * load.spread * size.hidden_size * b
    own, at_head = 0.0, 0.0
    if logits:
        own = 0.0 if load.tiled else load.response_tokens * size.vocab_size * b
        # The norm before the head, and the rows that the head reads.
        at_head = load.tokens * size.hidden_size * (_FLOAT + b) + load.response_tokens * size.hidden_size * b
        at_head += _head_backward(size, load, b)
    tied = size.vocab_size * size.hidden_size * b if size.tied and logits else 0.0
    shown = {"activations": kept + in_work + mask + tied, "logits": own}
    if at_head > in_work + tied + own:
        shown = {"activations": kept + mask, "logits": at_head}
    return shown | _towers(size, dtype, load, checkpointing=checkpointing, learn=towers_learn)


def inferring_pass(size: ModelSize, dtype: str, load: PassLoad, *, logits: bool) -> dict[str, float]:
    """Bytes at the highest point of a forward pass that keeps nothing for a backward one."""
    b, tokens, hidden = DTYPE_BYTES[dtype], load.tokens, size.hidden_size
    feed_forward = 3 * size.width if size.experts is None else 4 * hidden * size.experts.per_token
    attention = 8 * size.query_width + load.seen
    work = b * (max(feed_forward, attention) + 4 * hidden) + load.seen
    items = {"activations": float(tokens * work)}
    if logits:
        items["logits"] = logits_bytes(size, dtype, load.logits)
    return items | _towers(size, dtype, load, checkpointing=True, learn=False)


def logits_bytes(size: ModelSize, dtype: str, response_tokens: int) -> float:
    """Of a pass that only infers: the logits, and the rows of them that are read in float32 at a time."""
    rows = min(response_tokens, _LOGIT_ROWS)
    return size.vocab_size * (response_tokens * DTYPE_BYTES[dtype] + rows * _FLOAT * _ROWS_FORWARD)


def _head_backward(size: ModelSize, load: PassLoad, b: int) -> float:
    """Of the logits and, where they come in tiles, of the weight's gradient: that of the tiles so far while the next
    one's logits are there, then with that of the next one and their sum."""
    logits = _logits_backward(size, load.logits, b)
    if not load.tiled:
        return logits
    weight = size.vocab_size * size.hidden_size * b
    # The tile's logits themselves are gone when their gradients are computed in float32.
    return max(logits - size.vocab_size * load.logits * b + weight, 3 * weight)


def _logits_backward(size: ModelSize, response_tokens: int, b: int) -> float:
    """While the gradients of the last rows are computed in float32, or when all are there and are joined."""
    rows = min(response_tokens, _LOGIT_ROWS)
    in_rows = (_LOGIT_COPIES - 2) * response_tokens * b + (response_tokens - rows) * b + rows * _FLOAT * _ROWS_BACKWARD
    return size.vocab_size * max(in_rows, _LOGIT_COPIES * response_tokens * b)


def _kept_by_layer(size: ModelSize, load: PassLoad, b: int) -> float:
    """For each token: what one layer keeps for its backward pass."""
    hidden, queries, keys = size.hidden_size, size.query_width, size.key_width
    norms = hidden * (2 * _FLOAT + 4 * b)  # two; their input in float32, their output before and after the scale
    attention = 4 * queries * b + load.seen * b  # queries, keys and values for every head, the output; the mask as bias
    if size.qk_norm:
        attention += (queries + keys) * (_FLOAT + b)
    if size.experts is None:
        return norms + attention + 4 * size.width * b  # gate, its activation, up, their product
    e = size.experts
    return norms + attention + e.per_token * (2 * hidden + 4 * e.intermediate_size) * b


def _gradients_of_layer(size: ModelSize, b: int) -> float:
    """For each token: gradients inside a layer while it gives its own back."""
    inner = 2 * size.width if size.experts is None else 3 * size.hidden_size * size.experts.per_token
    return (inner + size.hidden_size) * b


def _towers(size: ModelSize, dtype: str, load: PassLoad, *, checkpointing: bool, learn: bool) -> dict[str, float]:
    used = {name: tokens for name, tokens in load.media.items() if tokens and name in size.towers}
    if not used:
        return {}
    return {
        "towers": sum(
            tower_bytes(size.towers[name], dtype, tokens, size.hidden_size, checkpointing=checkpointing, learn=learn)
            for name, tokens in used.items()
        )
    }


def tower_bytes(
    tower: TowerShape, dtype: str, tokens: int, output_size: int, *, checkpointing: bool, learn: bool
) -> float:
    """Of a media tower over clips of so many tokens; its input, in float32, counted. `output_size`: of the language
    model. `learn`: gradients go back to it."""
    b, h, f = DTYPE_BYTES[dtype], tower.hidden_size, tower.intermediate_size
    positions = tokens * tower.positions_per_token
    given = tower.input_values * _FLOAT
    stem = (tower.input_values if tower.stem_values is None else tower.stem_values) * b
    output = output_size * b / tower.positions_per_token
    if not learn:
        work = (3 if tower.gated else 2) * f + 4 * h
        return positions * (given + max(stem, work * b) + (tower.deepstack + 1) * output)
    # Queries, keys and values together and the first two turned, the output of attention and of its windows joined.
    attention = 7 * h * b
    layer = attention + (6 * f * b + h * (2 * _FLOAT + 5 * b) if tower.gated else 3 * f * b + 3 * h * b)
    kept = (tower.num_layers + 2) * h * b if checkpointing else tower.num_layers * layer
    mergers = tower.deepstack * 3 * h * b + (tower.deepstack + 1) * output
    return positions * (given + stem + kept + (layer if checkpointing else 0.0) + mergers)
