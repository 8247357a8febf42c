"""The outputs of a reward model's head, and the two files next to the model that describe them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from mmrlhf_ray.errors import ModelError

SCALAR_HEAD_FILE = "scalar_head.safetensors"
"""In a Hugging Face model's directory, turns it into a reward model: `weight` [outputs, hidden]."""
LAYOUT_FILE = "scalar_head.json"
"""Next to it, a ScalarHead; without it the head has one output."""
_FIRST_SIZE = 0.1


@dataclass(frozen=True)
class ScalarHead:
    """An ensemble of members, each with one output per aspect (one in all without aspects), member by member."""

    ensemble: int = 1
    aspects: Mapping[str, float] = field(default_factory=dict)
    """Aspect → its weight in the score."""

    @property
    def width(self) -> int:
        """Outputs of one member."""
        return max(1, len(self.aspects))

    @property
    def outputs(self) -> int:
        return self.ensemble * self.width

    def by_member(self, outputs: Tensor) -> Tensor:
        """[N, outputs] as [N, ensemble, width]."""
        return outputs.unflatten(1, (self.ensemble, self.width))

    def member_scores(self, outputs: Tensor) -> Tensor:
        """Scores [N, ensemble] of the members: Σ over aspects of weight · output."""
        weights = outputs.new_tensor(list(self.aspects.values()) or [1.0])
        return (self.by_member(outputs) * weights).sum(-1)

    def score(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Score [N], the mean over the members, and uncertainty [N], their standard deviation (0 for one member)."""
        members = self.member_scores(outputs)
        score = members.mean(-1)
        return score, (members - score[:, None]).square().mean(-1).sqrt()

    def combined(self, weight: Tensor) -> Tensor:
        """One row [1, hidden] that gives the score, of the head's `weight` [outputs, hidden]."""
        return self.score(weight.float().T)[0][None].to(weight.dtype)


def scalar_head_file(path: str | Path) -> Path:
    """The file that makes a directory a reward model. Raises ModelError where it is not there."""
    file = Path(path) / SCALAR_HEAD_FILE
    if not file.is_file():
        raise ModelError(
            f"{path}: expected a reward model with {SCALAR_HEAD_FILE}, found none; run mmrlhf reward-model"
        )
    return file


def read_scalar_head(path: str | Path) -> ScalarHead:
    """The layout of a reward model's head. Raises ModelError for a file that says nothing of the kind."""
    file = Path(path) / LAYOUT_FILE
    if not file.is_file():
        return ScalarHead()
    try:
        said = json.loads(file.read_text())
        ensemble, aspects = said["ensemble"], {str(name): float(weight) for name, weight in said["aspects"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(file, f"{type(error).__name__}: {error}") from error
    if type(ensemble) is not int or ensemble < 1:
        raise _unreadable(file, f"ensemble={ensemble!r}")
    return ScalarHead(ensemble, aspects)


def write_scalar_head(path: Path, head: ScalarHead) -> None:
    """The inverse of read_scalar_head()."""
    (path / LAYOUT_FILE).write_text(json.dumps({"ensemble": head.ensemble, "aspects": dict(head.aspects)}, indent=2))


def new_weight(head: ScalarHead, hidden: int, seed: int, dtype: torch.dtype) -> Tensor:
    """First weights [outputs, hidden] on the CPU: zeros, so that the first score is 0; in an ensemble small normal
    numbers, a tenth of those of Stiennon et al. 2020 (variance 1/(hidden + 1)), so that members start apart. Theirs
    are too large here: what is random in them drowns what a short training learns.
    """
    if head.ensemble == 1:
        return torch.zeros(head.outputs, hidden, dtype=dtype)
    noise = torch.randn(head.outputs, hidden, generator=torch.Generator().manual_seed(seed))
    return (_FIRST_SIZE * noise / (hidden + 1) ** 0.5).to(dtype)


def _unreadable(file: Path, came: str) -> ModelError:
    return ModelError(
        f'{file}: expected {{"ensemble": a positive integer, "aspects": {{name: weight}}}}, got {came}; '
        "export the model again"
    )
